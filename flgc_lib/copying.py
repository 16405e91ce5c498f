"""A deep copy of any network, also of one that has just been trained or keeps what it computed."""

import copy
from collections import deque
from typing import Any

from torch import Tensor, nn


def copy_network(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy; tensors that belong to the graph of a gradient, which `copy.deepcopy` refuses, are cut off from it.

    Args:
        model: it is not changed.
        memo: as of `copy.deepcopy`: what is copied already, by id.

    Raises:
        ValueError: if an attribute cannot be copied, such as a lock or an open file.
    """
    memo = {} if memo is None else memo
    seen = set()
    values: list[Any] = [model]
    for value in values:  # grows
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor) and not value.is_leaf:
            memo.setdefault(id(value), value.detach().clone())
        elif isinstance(value, nn.Module):
            values += vars(value).values()
        elif isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list | tuple | set | deque):
            values += value
    before = dict(memo)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever the attribute raises
        raise ValueError(
            f"{type(model).__name__} cannot be copied, because {_culprit(model, before)} cannot ({error}): "
            "set it to None before, and back afterwards"
        ) from error


def _culprit(model: nn.Module, memo: dict[int, Any]) -> str:
    """The name of the attribute that cannot be copied; of parts before the whole."""
    for name, module in reversed(list(model.named_modules())):
        for attribute, value in vars(module).items():
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                return f"{name}.{attribute}".removeprefix(".")
    return "it"
