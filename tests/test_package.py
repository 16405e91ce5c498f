"""The library as others install it: a wheel in an environment that has what core needs, and nothing else."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CORE = ("torch", "numpy", "scipy", "safetensors")
EXAMPLE = """
import sys
from importlib.metadata import version
import flgc_lib
assert version("flgc-lib") == flgc_lib.__version__
assert "torch" not in sys.modules

import torch
from flgc_lib import FLGConv2d, count, freeze, resnet50
from torch import nn

layer = FLGConv2d(16, 8, 3, groups=4, padding=1, duplicate_top_k=3)
x = torch.randn(2, 16, 6, 6)
layer(x).sum().backward()
assert all(parameter.grad is not None for parameter in layer.parameters())

net = nn.Sequential(layer, nn.BatchNorm2d(8), nn.ReLU()).eval()
frozen = freeze(net, x)
assert torch.allclose(frozen(x), net(x), atol=1e-5)
assert count(frozen, (16, 6, 6)).macs == count(net, (16, 6, 6)).macs
assert resnet50(method="flgc-dup", groups=2, width=1 / 16)(torch.randn(2, 3, 32, 32)).shape == (2, 10)
assert not {"lightning", "pandas", "matplotlib", "seaborn", "PIL", "numba"} & set(sys.modules)
"""


def needed(*requirements):
    """The installed distributions that requirements ask for, and those that they ask for in turn."""
    found, open_ = {}, [(Requirement(text), "") for text in requirements]
    seen = set()
    while open_:
        requirement, extra = open_.pop()
        if (requirement.marker and not requirement.marker.evaluate({"extra": extra})) or str(requirement) in seen:
            continue
        seen.add(str(requirement))
        found[canonicalize_name(requirement.name)] = distribution = metadata.distribution(requirement.name)
        wanted = map(Requirement, distribution.requires or [])
        open_ += [(text, extra) for text in wanted for extra in {"", *requirement.extras}]
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing of an older build gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("flgc_lib", "tests", "notebooks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Python of an environment with the wheel and links to what core needs: as if installed, without a download."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for distribution in needed(*CORE).values():
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (packages / name).exists():
                (packages / name).symlink_to(distribution.locate_file(name).resolve())
    program = folder / "bin" / "python"
    pip("--python", program, "install", "--no-index", wheel)  # refused if it asks for more than there is
    return program


def pip(*arguments):
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the repository is not there
    command = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True, env=environ)


def run(program, *arguments):
    """Isolated: neither the working directory nor PYTHONPATH can bring in what is not installed."""
    return subprocess.run([program, "-I", *arguments], capture_output=True, encoding="utf-8")


def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (file for file in (ROOT / "flgc_lib").rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    assert packed == {file.relative_to(ROOT).as_posix() for file in files}
    assert "flgc_lib/py.typed" in packed


@pytest.mark.posix
def test_the_environment_has_what_core_needs_and_nothing_else(python):
    code = "from importlib.metadata import distributions as d; print(*{x.name for x in d()})"
    there = {canonicalize_name(name) for name in run(python, "-c", code).stdout.split()}
    assert there == {*needed(*CORE), "flgc-lib"}
    assert "pandas" not in there


@pytest.mark.posix
def test_a_layer_is_trained_and_a_network_frozen_with_core_alone(python):
    answer = run(python, "-c", EXAMPLE)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.posix
def test_the_list_of_commands_needs_nothing_more(python):
    answer = run(python, python.with_name("flgc"), "--help")
    assert answer.returncode == 0, answer.stderr
    assert "flgc train" in answer.stdout


@pytest.mark.posix
@pytest.mark.parametrize(("arguments", "what"), [(["sweep", "--help"], "sweep"), (["train", "--groups", "8"], "train")])
def test_the_command_says_what_to_install(arguments, what, python):
    flgc = python.with_name("flgc")
    assert flgc.exists()
    answer = run(python, flgc, *arguments)
    assert answer.returncode == 1
    assert re.match(rf"flgc: {what} needs \w+: type `pip install -e '\.\[train\]'`, or", answer.stderr), answer.stderr
    assert answer.stderr.count("\n") == 1


@pytest.mark.posix
def test_the_check_needs_no_package(python):
    answer = run(python, "-m", "flgc_lib", "check")
    assert answer.stderr == ""
    assert answer.stdout.startswith("✓ Python 3.")
