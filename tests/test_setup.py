"""The set-up: what is imported is declared, what is declared is used and pinned, and conda installs what make does."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import flgc_lib
from flgc_lib.environment import INSTALL, requirements

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUN = (ROOT / "run.py").read_text(encoding="utf-8")
EXTRAS = PROJECT["optional-dependencies"]
CORE = ""  # no extra

# What a room may need to be imported, by the longest prefix of its path. What it imports in a function, or in a `try`
# that does without, is optional and may come from any extra.
ROOMS = {
    "flgc_lib/": CORE,
    "flgc_lib/frozen/kernel/": "fast",
    "flgc_lib/data/": "train",
    "flgc_lib/experiment/": "train",
    "flgc_lib/bench/": "train",
    "flgc_lib/figures/": "train",
    "flgc_lib/course/": "notebooks",
    "flgc_lib/cli/": "train",
    "book/": "book",
    "notebooks/": "notebooks",
    "notebooks/conftest.py": "dev",
    "tests/": "dev",
}
NEEDED_WITHOUT_IMPORT = {
    "pyarrow": "pandas reads the hub's parquet files with it",
    "onnx": "torch.onnx writes with it",
    "onnxscript": "torch.onnx writes with it",
    "jupyterlab": "make lab",
    "myst-nb": "make book",
    "sphinx-book-theme": "make book",
    "ipykernel": "runs the notebooks",
    "ruff": "make test",
    "mypy": "make test",
    "pytest-timeout": "the option timeout",
    "pytest-xdist": "the option -n",
    "pandas-stubs": "for mypy",
    "types-requests": "for mypy",
    "setuptools": "builds the wheel",
}


class Imports(NamedTuple):
    """The modules that a file imports: when it is itself imported, and perhaps later."""

    now: frozenset[str]
    later: frozenset[str]


def name_of(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def names(*extras: str) -> set[str]:
    """Distributions that an installation with these extras brings."""
    return {name_of(text) for text in requirements(PROJECT, *(extra for extra in extras if extra != CORE))}


def own(extra: str) -> set[str]:
    """Distributions that an extra itself names, or, for CORE, the project."""
    texts = PROJECT["dependencies"] if extra == CORE else EXTRAS[extra]
    return {name_of(text) for text in texts} - {PROJECT["name"]}


def code(path: Path) -> str:
    """The Python of a file; of a notebook, its cells without magic."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return re.sub(r"^\s*[%!].*$", "", "\n".join(cells), flags=re.MULTILINE)


@cache
def imports(path: Path) -> Imports:
    now, later = set(), set()

    def visit(node: ast.AST, into: set[str]) -> None:
        if isinstance(node, ast.Import):
            into.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            into.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            later.add(node.args[0].value)
        optional = isinstance(node, ast.FunctionDef | ast.Lambda) or (
            isinstance(node, ast.Try) and any("ImportError" in ast.unparse(h.type or node) for h in node.handlers)
        )
        for child in ast.iter_child_nodes(node):
            visit(child, later if optional else into)

    visit(ast.parse(code(path)), now)
    return Imports(frozenset(now), frozenset(later))


def files() -> Iterator[Path]:
    for folder, pattern in (
        ("flgc_lib", "**/*.py"),
        ("book", "*.py"),
        ("tests", "*.py"),
        ("notebooks", "*.py"),
        ("notebooks", "*.ipynb"),
    ):
        yield from sorted((ROOT / folder).glob(pattern))


def room(path: Path) -> str:
    return ROOMS[max((prefix for prefix in ROOMS if path.relative_to(ROOT).as_posix().startswith(prefix)), key=len)]


def distributions(modules: frozenset[str]) -> set[str]:
    """What has to be installed for these modules; nothing for Python's own and for ours."""
    found = set()
    for top in {module.partition(".")[0] for module in modules} - OURS - sys.stdlib_module_names:
        assert top in INSTALLED, f"{top} is imported and not installed"
        found.add(canonicalize_name(INSTALLED[top][0]))
    return found


INSTALLED = metadata.packages_distributions()
OURS = {"flgc_lib", *(path.stem for folder in ("book", "tests") for path in ROOT.glob(f"{folder}/*.py"))}
LIBRARY = [path for path in files() if path.is_relative_to(ROOT / "flgc_lib")]


def source(module: str) -> Path | None:
    """The file of a module of the library, if it is one."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def loaded(path: Path) -> set[Path]:
    """The library's files that are run when this one is imported: itself, what it imports, and their packages."""
    seen, open_ = set(), [path]
    while open_:
        file = open_.pop()
        if file not in seen:
            seen.add(file)
            open_ += [folder / "__init__.py" for folder in file.parents if folder.is_relative_to(ROOT / "flgc_lib")]
            open_ += [found for module in imports(file).now if (found := source(module))]
    return seen


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_needs_no_more_than_its_extra_also_through_what_it_imports(path):
    needed = {file: distributions(imports(file).now) for file in loaded(path)}
    allowed = names(room(path))
    beyond = {str(file.relative_to(ROOT)): found - allowed for file, found in needed.items() if found - allowed}
    assert not beyond, f"with flgc-lib[{room(path)}] alone it cannot be imported"


@pytest.mark.parametrize("path", list(files()), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_is_declared(path):
    found = imports(path)
    assert distributions(found.now) <= names(room(path))
    assert distributions(found.later) <= names(*EXTRAS)


def used(extra: str) -> set[str]:
    """Distributions that the rooms of an extra import, and those that the library, or a test, may do without."""
    found = set()
    for path in files():
        found |= distributions(imports(path).now) if room(path) == extra else set()
        found |= distributions(imports(path).later) if (room(path) == "dev") == (extra == "dev") else set()
    return found


@pytest.mark.parametrize("extra", [CORE, *EXTRAS])
def test_what_is_declared_is_used_where_it_is_declared(extra):
    unused = own(extra) - used(extra)
    assert unused == own(extra) & set(NEEDED_WITHOUT_IMPORT)


def test_nothing_is_needed_that_is_not_declared():
    assert set(NEEDED_WITHOUT_IMPORT) <= names(*EXTRAS)


@pytest.mark.parametrize("path", list(files()), ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_read_and_written_as_utf_8(path):
    """Ruff (PLW1514) sees it only where it is certain of a path, which it is not of a fixture or an argument."""
    for call in (node for node in ast.walk(ast.parse(code(path))) if isinstance(node, ast.Call)):
        method = getattr(call.func, "attr", "")
        if method == "write_text" or (method == "read_text" and not call.args):  # an argument: a distribution's file
            assert any(keyword.arg == "encoding" for keyword in call.keywords), f"line {call.lineno}"


def test_no_package_is_declared_twice():
    declared = [name for extra in (CORE, *EXTRAS) for name in own(extra)]
    assert len(declared) == len(set(declared))


PINS = [
    Requirement(line)
    for text in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if (line := text.partition("#")[0].strip())
]


@pytest.mark.parametrize("requirement", [*map(Requirement, requirements(PROJECT, *EXTRAS))], ids=lambda r: r.name)
def test_every_dependency_is_pinned_within_its_range(requirement):
    assert str(requirement.specifier), f"{requirement.name} has no range in pyproject.toml"
    (version,) = [pin.specifier for pin in PINS if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
    (exact,) = version
    assert exact.operator == "=="
    assert "*" not in exact.version
    assert requirement.specifier.contains(exact.version)


def test_every_pin_is_of_a_dependency():
    assert {canonicalize_name(pin.name) for pin in PINS} == names(*EXTRAS)


def extras_installed(text: str) -> set[str]:
    """The extras in `-e .[…]`."""
    (extras,) = re.findall(r'-e["\', ]+\.\[([\w,]+)\]', text)
    return set(extras.split(","))


def test_conda_and_the_environment_check_install_what_make_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (python,) = [d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python=").lstrip("="))
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert "pip" in environment["dependencies"]
    assert "-c constraints.txt" in pip
    assert extras_installed("\n".join(pip)) == extras_installed(RUN) == extras_installed(INSTALL)
    assert names(*extras_installed(RUN)) == names(*EXTRAS)


def test_the_hooks_run_the_ruff_of_this_repository():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    for hook in local["hooks"]:
        (wanted,) = hook["additional_dependencies"]
        assert Requirement(wanted) in PINS


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == flgc_lib.__version__
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[?([\d.]+)", log, re.MULTILINE)[1] == flgc_lib.__version__


@pytest.mark.posix
def test_make_help_lists_every_target():
    """Those of run.py, and of make, which calls it."""
    typed = [["make", "--no-print-directory", "help"], [sys.executable, "run.py", "help"]]
    listed = [
        subprocess.run(one, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.splitlines()
        for one in typed
    ]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (targets,) = re.findall(r"^NAMES := (.+)$", makefile, re.MULTILINE)
    assert [line.split()[2] for line in listed[0]] == targets.split()
    assert listed[0] == listed[1]


def test_run_py_needs_nothing_but_python_and_refuses_what_it_does_not_know():
    imported = {
        node.names[0].name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(RUN))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= set(sys.stdlib_module_names)
    for words in (["tset"], ["test", "now"], ["--help"]):
        answer = subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, capture_output=True, encoding="utf-8")
        assert answer.returncode == 1
        assert answer.stderr.startswith(f"run.py: {' '.join(words)!r} is none of install, run, lab")


@pytest.mark.posix
def test_continuous_integration_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_command_is_the_library_s():
    module, _, function = PROJECT["scripts"]["flgc"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))
