"""What `import flgc_lib` offers, and what it costs."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import flgc_lib

LIBRARY = Path(flgc_lib.__file__).parent


def loaded_by(statement):
    """The packages that a statement loads in a Python of its own."""
    code = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(output.split())


def test_importing_the_library_loads_nothing_that_has_to_be_installed():
    assert not loaded_by("import flgc_lib; flgc_lib.__version__; dir(flgc_lib)") & {"torch", "numpy", "scipy"}


def test_the_core_loads_torch_numpy_and_scipy_and_no_more():
    loaded = loaded_by("from flgc_lib import FLGConv2d, resnet50, embed, count")
    assert {"torch", "scipy"} <= loaded
    assert not loaded & {"lightning", "torchmetrics", "torchvision", "pandas", "matplotlib", "seaborn", "numba"}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("layers", ["FLGConv2d"]),
        ("resnet", ["resnet50", "embed"]),
        ("cost", ["count"]),
        ("frozen", ["freeze", "load", "save"]),
    ],
)
def test_public_names_are_those_of_their_modules(module, names):
    for name in names:
        assert getattr(flgc_lib, name) is getattr(import_module(f"flgc_lib.{module}"), name)
        assert name in flgc_lib.__all__
        assert name in dir(flgc_lib)


def test_all_is_what_there_is():
    everything = {}
    exec("from flgc_lib import *", everything)  # what a student may type
    assert set(flgc_lib.__all__) <= everything.keys()
    assert {"__version__", *flgc_lib._HOMES} == set(flgc_lib.__all__)


def test_type_checkers_see_the_same_names():
    stub = ast.parse((LIBRARY / "__init__.pyi").read_text(encoding="utf-8"))
    seen = {alias.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"flgc_lib.{home}" for name, home in flgc_lib._HOMES.items()}
    assert (LIBRARY / "py.typed").is_file()


def test_an_unknown_name_is_refused_and_submodules_are_not():
    with pytest.raises(AttributeError, match=r"flgc_lib' has no attribute 'froze'; it offers FLGConv2d, .*save"):
        _ = flgc_lib.froze
    with pytest.raises(ImportError, match=r"cannot import name 'froze'"):
        from flgc_lib import froze  # noqa: F401
    from flgc_lib import data, frozen

    assert (data.__name__, frozen.__name__) == ("flgc_lib.data", "flgc_lib.frozen")
