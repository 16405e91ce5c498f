"""The kernel's surroundings: its cache of machine code, forks, processors and installations that do without it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

loops = pytest.importorskip("flgc_lib.frozen.kernel.loops", reason="pip install -e '.[fast]'")
pairs = pytest.importorskip("flgc_lib.frozen.kernel.pairs", reason="pip install -e '.[fast]'")

COMPUTE = """
import torch
from torch import nn
from flgc_lib.frozen import freeze
model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), torch.randn(2, 3, 9, 9)
frozen = freeze(model, x)
with torch.no_grad():
    assert torch.allclose(frozen(x), model(x), atol=1e-5)
forms = {m.form for m in frozen.modules() if hasattr(m, "form")}
"""


def python(code, **environment):
    """What a program prints in a Python of its own, and what it warns of."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """The kernel's folder as it looks after a change of one file."""

    def change(name):
        folder = Path(shutil.copytree(Path(loops.__file__).parent, tmp_path / name))
        monkeypatch.setattr(loops, "__file__", str(folder / "loops.py"))
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write("# another\n")

    return change


@pytest.mark.parametrize("name", sorted(path.name for path in Path(loops.__file__).parent.glob("*.py")))
def test_machine_code_is_made_anew_when_any_source_changes(name, changed):
    before = loops.stamp()
    changed(name)
    assert loops.stamp() != before


def test_machine_code_is_made_anew_for_another_processor_or_compiler(monkeypatch):
    before = loops.stamp()
    with monkeypatch.context() as patch:
        patch.setattr(loops, "FEATURES", loops.FEATURES.replace("+", "-", 1) + ",-avx512f")
        assert loops.stamp() != before
    for compiler in (loops.numba, loops.llvmlite):
        with monkeypatch.context() as patch:
            patch.setattr(compiler, "__version__", "0.0.1")
            assert loops.stamp() != before
    assert loops.stamp() == before


@pytest.mark.parametrize("function", [loops.share, loops._one_by_one, loops._side_by_side_in_python, pairs.share])
def test_the_stamp_is_part_of_what_numba_looks_at(function):
    """Numba's key holds the values that a function encloses."""
    assert loops.stamp() in [cell.cell_contents for cell in function.__closure__]


def test_a_folder_that_cannot_be_written_costs_speed_and_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    code = COMPUTE + "print(*forms)\nfreeze(model, x)"
    nowhere = {
        "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache"),
        "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
    }
    output, warnings = python(code, **nowhere, PYTHONWARNINGS="default")
    assert "indirect" not in output
    assert warnings.count("compute in PyTorch's operations, which is slower") == 1


def test_a_numba_that_does_not_work_costs_speed_and_one_sentence(tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 1.9 or less')\n", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    output, warnings = python(COMPUTE + "print(*forms)", PYTHONPATH=path, PYTHONWARNINGS="default")
    assert "indirect" not in output
    assert warnings.count("Numba needs NumPy 1.9 or less") == 1


@pytest.mark.posix
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_child_computes_after_a_fork(layer):
    code = f"""
import os, torch
torch.set_num_threads(2)
{COMPUTE}
for m in frozen.modules():
    if hasattr(m, "form"):
        m.use("indirect")
with torch.no_grad():
    frozen(x)
    child = os.fork()
    if not child:
        torch.set_num_threads(2)
        os._exit(0 if torch.allclose(frozen(x), frozen.network(x)) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    output, _ = python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2", OMP_NUM_THREADS="2")
    assert output.split() == ["0"]
