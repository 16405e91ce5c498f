"""The set-up: what pip, conda, make and continuous integration install and run is one and the same."""

import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()


def requirements(text):
    """A requirements file's lines without comments."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def extras_installed(text):
    """The extras in `-e .[…]`."""
    (extras,) = re.findall(r"-e '?\.\[([\w,]+)\]", text)
    return set(extras.split(","))


RANGES = {
    canonicalize_name(requirement.name): requirement.specifier
    for requirement in map(
        Requirement,
        [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)],
    )
    if canonicalize_name(requirement.name) != canonicalize_name(PROJECT["name"])
}
PINS = {canonicalize_name(pin.name): pin.specifier for pin in requirements((ROOT / "constraints.txt").read_text())}


@pytest.mark.parametrize("name", list(RANGES))
def test_every_dependency_is_pinned_within_its_range(name):
    assert str(RANGES[name]), f"{name} has no range in pyproject.toml"
    (pin,) = PINS[name]
    assert pin.operator == "=="
    assert RANGES[name].contains(pin.version)


def test_every_pin_is_exact_and_stands_once():
    names = [canonicalize_name(pin.name) for pin in requirements((ROOT / "constraints.txt").read_text())]
    assert len(names) == len(set(names))
    assert all(pin.operator == "==" and "*" not in pin.version for pins in PINS.values() for pin in pins)


def test_conda_installs_what_make_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = [d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python=").lstrip("="))
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert "pip" in environment["dependencies"]
    assert "-c constraints.txt" in pip
    assert extras_installed("\n".join(pip)) == extras_installed(MAKEFILE)
    assert "-c constraints.txt -e '.[" in MAKEFILE


def test_extras_are_those_of_the_project():
    assert "dev" in extras_installed(MAKEFILE) <= set(PROJECT["optional-dependencies"])


def test_make_has_run_and_test():
    targets = {name for names in re.findall(r"^([\w ]+):", MAKEFILE, re.MULTILINE) for name in names.split()}
    assert {"run", "test"} <= targets
    for tool in ("ruff check", "ruff format --check", "mypy", "pytest"):
        assert tool in MAKEFILE


def test_continuous_integration_calls_the_test_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line.strip() for line in script.read_text().splitlines()]
    assert lines[0].startswith("#!")
    assert "make test" in lines


def test_the_readme_names_both_commands():
    readme = (ROOT / "README.md").read_text()
    assert "make run" in readme
    assert "make test" in readme


def test_the_command_is_the_library_s():
    module, _, function = PROJECT["scripts"]["flgc"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))
