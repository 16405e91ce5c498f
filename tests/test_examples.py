"""The examples in the docstrings say what is true."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["grouping", "layers", "resnet", "cost"])
def test_examples(name):
    found = doctest.testmod(import_module(f"flgc_lib.{name}"))
    assert found.attempted
    assert not found.failed, "the difference is printed above"
