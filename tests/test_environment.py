"""The environment check says what is wrong and what to type, and exits 1 for a problem."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from flgc_lib import __main__, cli, environment
from flgc_lib.environment import Finding

ROOT = Path(__file__).parents[1]
UTF_8 = os.environ | {"PYTHONUTF8": "1"}
ASCII = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
in_ascii = pytest.mark.skipif(
    not f"{ROOT}{sys.prefix}".isascii(),
    reason="Python finds no package in a folder whose name it cannot write",
)

PYPROJECT = """\
[project]
dependencies = ["{needed}"]
[project.optional-dependencies]
train = ["{needed_by_train}"]
fast = ["numba"]
notebooks = ["flgc-lib[train]", "nbformat"]
dev = ["flgc-lib[notebooks,fast]", "{optional}"]
"""


@pytest.fixture
def repository(tmp_path):
    def make(needed="numpy>=2", needed_by_train="pandas", optional="pytest"):
        text = PYPROJECT.format(needed=needed, needed_by_train=needed_by_train, optional=optional)
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
        return tmp_path

    return make


def specs(program):
    return SimpleNamespace(get_kernel_spec=lambda name: SimpleNamespace(argv=[program]))


def test_here_everything_is_ready(capsys):
    assert environment.main() == 0
    assert capsys.readouterr().out.endswith("Everything is ready.\n")


def test_an_old_python_is_told_what_to_type():
    finding = environment.python((3, 10, 4))
    assert finding.state == "problem"
    assert "Python 3.10.4 is too old: install 3.11 or a later one" in finding.sentence


def test_an_old_python_is_not_asked_for_packages(monkeypatch):
    old = Finding("Python", "problem", "too old")
    monkeypatch.setattr(environment, "python", lambda: old)
    assert [finding.subject for finding in environment.examine()] == ["Python", "processor", "data"]


@pytest.mark.parametrize(
    ("needed", "sentence"),
    [
        ("surely-not-there>=1", f"surely-not-there is missing: type `{environment.PYTHON} run.py run`"),
        ("numpy>=9999", f", >=9999 is needed: type `{environment.PYTHON} run.py run`"),
        ("numpy!=9999,<1", " is installed, "),
    ],
)
def test_a_missing_or_unfit_package_is_a_problem(needed, sentence, repository, capsys):
    assert environment.main(repository(needed)) == 1
    report = capsys.readouterr().out
    assert "✗" in report
    assert sentence in report


def test_a_missing_extra_for_developers_is_only_a_note(repository):
    ready, note = environment.packages(repository(optional="surely-not-there"))
    assert (ready.state, note.state) == ("ok", "note")
    assert "surely-not-there is missing: type `pip install -e '.[dev]'`" in note.sentence


def test_without_pyproject_there_is_nothing_to_compare_with(tmp_path):
    (finding,) = environment.packages(tmp_path)
    assert finding.state == "note"
    assert "start from a clone" in finding.sentence


def test_an_extra_brings_those_that_it_includes(repository, capsys):
    project = tomllib.loads((repository() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert environment.requirements(project, "notebooks") == ["numpy>=2", "pandas", "nbformat"]
    assert environment.requirements(project, "dev") == ["numpy>=2", "pandas", "nbformat", "numba", "pytest"]
    assert environment.main(repository(needed_by_train="surely-not-there")) == 1
    assert f"✗ surely-not-there is missing: type `{environment.PYTHON} run.py run`" in capsys.readouterr().out


def test_the_check_itself_needs_no_package():
    # -S: Python without its site-packages. What is looked at is this repository's own list.
    answer = subprocess.run(
        [sys.executable, "-S", "-m", "flgc_lib", "check"], capture_output=True, encoding="utf-8", cwd=ROOT, env=UTF_8
    )
    assert answer.returncode == 1, answer.stderr
    assert answer.stderr == ""
    typed = f"type `{environment.PYTHON} run.py run`"
    (packages,) = (line for line in answer.stdout.splitlines() if f" are missing: {typed}" in line)
    for name in ("torch", "packaging", "lightning"):
        assert name in packages.removeprefix("✗ ").partition(" are missing")[0].split(", ")
    assert f"✗ Jupyter is missing: {typed}" in answer.stdout


@in_ascii
def test_a_terminal_that_has_no_check_mark_shows_a_question_mark():
    command = [sys.executable, "-m", "flgc_lib", "check"]
    answer = subprocess.run(command, capture_output=True, encoding="ascii", env=ASCII)
    assert answer.stdout.startswith("? Python 3"), answer.stderr


@pytest.mark.parametrize(
    ("module", "extra"),
    [("nbformat", "notebooks"), ("numba.core", "fast"), ("jupyter_client", "notebooks"), ("PIL", "train")],
)
def test_the_extra_that_brings_a_module_is_named(module, extra, monkeypatch):
    wanted = [
        "torch>=2.6",
        "pillow>=10; extra == 'train'",
        'jupyter-client>=8; extra == "notebooks"',
        'nbformat>=5; python_version > "3" and extra == "notebooks"',
        'flgc-lib[train]; extra == "notebooks"',
        'numba>=0.61; extra == "fast"',
    ]
    monkeypatch.setattr(environment.metadata, "requires", lambda name: wanted)
    sentence = environment.remedy(module)
    assert sentence.startswith(f"{module.partition('.')[0]}: type `pip install -e '.[{extra}]'`, or `python -m")


def test_without_a_clone_the_package_is_where_it_is(tmp_path):
    finding = environment.installation(tmp_path)
    assert (finding.state, finding.sentence) == ("ok", f"flgc_lib is installed in {tmp_path}.")


def test_another_clone_is_named(tmp_path):
    (tmp_path / "pyproject.toml").touch()
    finding = environment.installation(tmp_path)
    assert finding.state == "problem"
    assert f"not from {tmp_path}: type `pip install -e .`" in finding.sentence


@pytest.mark.posix
def test_a_clone_that_is_reached_through_a_link_is_the_same(tmp_path, monkeypatch):
    link = tmp_path / "a link"
    link.symlink_to(environment.REPOSITORY, target_is_directory=True)
    note = SimpleNamespace(read_text=lambda name: f'{{"url": "{link.as_uri()}"}}')
    monkeypatch.setattr(environment.metadata, "distributions", lambda name: [note])
    assert environment.installation().state == "ok"


def test_a_library_that_is_not_installed_is_a_problem(monkeypatch):
    monkeypatch.setattr(environment.metadata, "distributions", lambda name: [])
    assert "flgc_lib is not installed in" in environment.installation().sentence


@pytest.mark.parametrize(
    ("program", "state"),
    [("python", "ok"), (sys.executable, "ok"), ("/elsewhere/bin/python3", "problem"), ("no-such-program", "problem")],
)
def test_the_kernel_must_be_this_python(program, state):
    finding = environment.kernel(specs(program))
    assert finding.state == state
    assert state == "ok" or "run.py lab" in finding.sentence


def test_one_thread_is_enough_but_slow():
    assert environment.threads(1).state == "note"
    assert "1 processor thread" in environment.threads(1).sentence
    assert environment.threads(2).state == "ok"


def test_datasets_are_listed_and_not_required(tmp_path):
    assert environment.data(tmp_path).state == "note"
    assert "`flgc data --source torchvision`" in environment.data(tmp_path).sentence
    (tmp_path / "cifar10.pt").touch()
    assert environment.data(tmp_path).sentence.endswith(": cifar10.")


def test_problems_come_last_and_are_counted():
    text = environment.report(
        [Finding("a", "problem", "Bad."), Finding("b", "ok", "Good."), Finding("c", "note", "Eh.")]
    )
    assert text == "✓ Good.\n· Eh.\n✗ Bad.\n1 to mend, see ✗ above."


def test_check_is_a_command_of_flgc(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["flgc", "check"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 0
    assert "Everything is ready." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            "ModuleNotFoundError('No module named torch', name='torch.fx')",
            "flgc: figures needs torch: type `pip install ",
        ),
        ("ImportError('libcuda is broken')", "flgc: libcuda is broken; type `python -m flgc_lib check`"),
    ],
)
def test_without_torch_check_still_answers_and_others_point_to_it(fault, sentence, tmp_path):
    (tmp_path / "torch.py").write_text(f"raise {fault}", encoding="utf-8")
    environ = UTF_8 | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    answers = [
        subprocess.run([sys.executable, "-m", "flgc_lib", *command], capture_output=True, encoding="utf-8", env=environ)
        for command in (["check"], ["figures", "--check"])
    ]
    assert answers[0].returncode == 0, answers[0].stderr
    assert answers[1].returncode == 1
    assert answers[1].stderr.splitlines()[-1].startswith(sentence)  # a library may have a remark before it
    assert "`python -m flgc_lib check`" in answers[1].stderr
    assert "Traceback" not in answers[1].stderr


def test_a_pytorch_that_cannot_be_loaded_is_a_problem(tmp_path, monkeypatch):
    """As on Windows without Microsoft's redistributable."""
    (tmp_path / "torch.py").write_text("raise OSError('msvcp140.dll is not there')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch")
    finding = environment.threads(2)
    assert finding.state == "problem"
    assert finding.sentence.startswith("PyTorch is installed and can't be loaded (msvcp140.dll is not there)")


def test_a_fault_of_the_library_itself_is_no_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "flgc_lib.cli", None)  # importing it now fails
    monkeypatch.setattr(sys, "argv", ["flgc", "train"])
    with pytest.raises(ModuleNotFoundError, match="flgc_lib"):
        __main__.main()


@in_ascii
def test_the_readme_is_read_where_text_is_not_utf_8_by_default(tmp_path):
    command = [sys.executable, "-m", "flgc_lib", "figures", "--check", "--results", str(tmp_path / "none")]
    answer = subprocess.run(command, capture_output=True, encoding="ascii", cwd=ROOT, env=ASCII)
    assert "codec" not in answer.stderr
    assert "README" not in answer.stderr  # without records its tables stay as they are
