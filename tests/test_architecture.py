"""The house: files import downward only, every file is one idea, and a reader finds the room.

The order below is the order in which the library is read. Imports are read from the code, those inside functions too.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flgc_lib"
ROOMS = (
    "environment",
    "files",
    "copying",
    "grouping",
    "masked",
    "compact",
    "layers",
    "controls",
    "clustered",
    "methods",
    "blocks",
    "resnet",
    "cost",
    "data",
    "frozen",
    "experiment",
    "bench",
    "figures",
    "course",
    "cli",
    "__main__",
)
"""Bottom to top: a room may import from those before it. Its files may import each other, without a circle."""
MOST_LINES = 300
MOST_LINES_OF_A_FUNCTION = 50

FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file):
    parts = ("flgc_lib", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


def imports_of(file):
    """Modules of the library that a file imports, wherever in it: `from a import b` is a.b if that is a module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively: {ast.unparse(node)}"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in inside}
    return {name for name in found if name in MODULES}


IMPORTS = {name: imports_of(file) - {name} for name, file in MODULES.items()}


def room_of(module):
    """The room that a module lies in; the package itself, which only hands names out, lies in none."""
    return module.split(".")[1] if "." in module else None


def test_every_room_has_its_place():
    assert {room for module in MODULES if (room := room_of(module))} == set(ROOMS)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"flgc_lib"}))
def test_imports_go_downward(module):
    own = ROOMS.index(room_of(module))
    upward = {name for name in IMPORTS[module] if name != "flgc_lib" and ROOMS.index(room_of(name)) > own}
    assert not upward, f"{module} imports from rooms above it: {', '.join(sorted(upward))}"


def test_no_circle():
    """Takes away, again and again, the modules that import nothing more; a circle stays.

    A package's `__init__` hands out names of its own files, so that it counts as above them, and a file that takes a
    name from its own wing's `__init__` would make a circle.
    """
    left = {name: set(imports) for name, imports in IMPORTS.items()}
    while free := {name for name, imports in left.items() if not imports & left.keys()}:
        left = {name: imports for name, imports in left.items() if name not in free}
    assert not left, f"these import each other: {', '.join(sorted(left))}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_is_one_idea(file):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{file.name} has {lines} lines: it is two ideas"


def lines_of_code(function):
    """Lines between the first and the last statement that hold code: no docstring, no comment, no blank line."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    used = set()
    for statement in body:
        for node in ast.walk(statement):
            if hasattr(node, "lineno"):
                used |= {node.lineno, node.end_lineno}
    return len(used)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_functions_are_short(file):
    functions = [n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef)]
    long = {f.name: n for f in functions if (n := lines_of_code(f)) > MOST_LINES_OF_A_FUNCTION}
    assert not long, f"lines of code: {long}"


def loaded_by(*modules):
    """Names of all packages that importing the modules, in a fresh Python, loads."""
    program = f"import sys, {', '.join(modules)}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


@pytest.mark.parametrize(
    ("modules", "not_loaded"),
    [
        (("flgc_lib", "flgc_lib.environment"), {"torch", "numpy"}),
        (
            ("flgc_lib.layers", "flgc_lib.methods", "flgc_lib.cost"),
            {"lightning", "pandas", "matplotlib", "torchvision"},
        ),
        (
            ("flgc_lib.experiment.records", "flgc_lib.experiment.grids", "flgc_lib.experiment.checkpoint"),
            {"lightning", "matplotlib", "numba"},
        ),
    ],
)
def test_a_room_loads_what_it_needs(modules, not_loaded):
    assert not loaded_by(*modules) & not_loaded
