"""The environment check says what is wrong and what to type, and exits 1 for a problem."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from flgc_lib import cli, environment
from flgc_lib.environment import Finding

PYPROJECT = """\
[project]
dependencies = ["{needed}"]
[project.optional-dependencies]
notebooks = ["nbformat"]
dev = ["{optional}"]
"""


@pytest.fixture
def repository(tmp_path):
    def make(needed="numpy>=2", optional="pytest"):
        (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(needed=needed, optional=optional))
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
    assert "Python 3.10.4 is too old, 3.11 is needed: `make run PYTHON=python3.11`" in finding.sentence


def test_an_old_python_is_not_asked_for_packages(monkeypatch):
    old = Finding("Python", "problem", "too old")
    monkeypatch.setattr(environment, "python", lambda: old)
    assert [finding.subject for finding in environment.examine()] == ["Python", "processor", "data"]


@pytest.mark.parametrize(
    ("needed", "sentence"),
    [
        ("surely-not-there>=1", "surely-not-there is missing: type `make run`"),
        ("numpy>=9999", ", >=9999 is needed: type `make run`"),
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


@pytest.mark.parametrize("missing", ["packaging.requirements", "jupyter_client.kernelspec"])
def test_the_check_itself_needs_no_package(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)  # importing it now fails
    problems = [finding for finding in environment.examine() if finding.state == "problem"]
    assert problems
    assert all("missing" in finding.sentence and "make run" in finding.sentence for finding in problems)


def test_another_clone_is_named(tmp_path):
    finding = environment.installation(tmp_path)
    assert finding.state == "problem"
    assert f"not from {tmp_path}: type `pip install -e .`" in finding.sentence


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
    assert state == "ok" or "make lab" in finding.sentence


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


def test_without_torch_check_still_answers_and_others_point_to_it(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    answers = [
        subprocess.run([sys.executable, "-m", "flgc_lib", command], capture_output=True, text=True, env=environ)
        for command in ("check", "figures")
    ]
    assert answers[0].returncode == 0, answers[0].stderr
    assert answers[1].returncode == 1
    assert "type `python -m flgc_lib check`" in answers[1].stderr
    assert "Traceback" not in answers[1].stderr
