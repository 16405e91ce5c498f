"""The command line: help that a student understands, a sentence for every mistake, and one run from end to end."""

import inspect
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from flgc_lib import cli
from flgc_lib.bench.settings import BenchSettings
from flgc_lib.experiment.assignments import CORRECT
from flgc_lib.experiment.grids import Grid, grid
from flgc_lib.experiment.records import read_runs, write_record

TINY = "--depths 1 --width 0.0625 --groups 2 --epochs 2 --batch 16 --precision fp32 --device cpu --threads 1"


@pytest.fixture
def flgc(monkeypatch, capsys):
    """Types a command; gives its exit code and what it printed on stdout and stderr."""

    def run(command):
        monkeypatch.setattr(sys, "argv", ["flgc", *command.split()])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code
            if isinstance(code, str):  # as the interpreter does
                print(code, file=sys.stderr)
                code = 1
        out, err = (said.replace("\\", "/") for said in capsys.readouterr())  # paths on Windows
        assert "Traceback" not in err
        return code or 0, out, err

    return run


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("", ("data", "train", "sweep", "figures")),
        (
            "data",
            ("--source", "--name", "--root", "torchvision (CIFAR-10's official archive, 170 MB)", "(default: data)"),
        ),
        (
            "train",
            ("--method", "(default: flgc)", "--groups", "(default: 8)", "--learning-rate", "(default: 0.1)", "--run"),
        ),
        ("sweep", ("--grid", "quick", "--workers", "runs side by side", "(default: 1)", "(default: data/results)")),
        ("figures", ("--folder", "(default: figures)", "--check", "change nothing")),
    ],
)
def test_help_shows_what_there_is_and_the_defaults(flgc, monkeypatch, command, shown):
    monkeypatch.setenv("COLUMNS", "400")
    code, out, _ = flgc(f"{command} --help")
    assert code == 0
    for words in shown:
        assert words in out


def test_every_setting_is_explained(flgc, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    _, out, _ = flgc("train --help")
    for words in (
        "Which convolutions: dense, grouped",
        "G, the number of groups",
        "Passes over the training images",
        "Images a step",
        "all cores by default",
    ):
        assert words in out


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        ("--help", {"torch", "numpy", "tyro"}),
        ("trian", {"torch", "numpy", "tyro"}),
        ("train --help", {"lightning", "torchvision", "pandas", "numba", "matplotlib.pyplot", "seaborn"}),
    ],
)
def test_help_is_quick_because_it_loads_nothing_else(command, absent):
    code = (
        f"import sys; sys.argv[1:] = {command.split()}\nfrom flgc_lib.__main__ import main\n"
        f"try: main()\nexcept SystemExit: pass\nprint(*({absent} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == ""


def test_every_command_is_a_function_that_says_what_the_list_says():
    for name, (module, what) in cli.COMMANDS.items():
        function = getattr(import_module(f"flgc_lib.cli.{module}"), name)
        first = inspect.getdoc(function).splitlines()[0]
        assert first.startswith(what.removesuffix(".").split(",")[0].split(";")[0].split(":")[0])
        assert what.endswith(".")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            "train --data nowhere",
            "flgc: There is no dataset 'nowhere' at data/cache/nowhere.pt: type `flgc data --source",
        ),
        ("train --groups 0", "groups=0 must be at least 1"),
        ("train --method grouped --groups 3 --depths 1", "flgc: groups=3 must divide in_channels=64"),
        ("train --run nothing", "flgc: there is no run 'nothing' in data/results/runs.csv; its column `run` has"),
        ("data --source nowhere", "nowhere does not exist: give --source torchvision"),
        ("data --source . --name synthetic", "flgc: The name 'synthetic' cannot be used"),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(flgc, tmp_path, monkeypatch, command, sentence):
    monkeypatch.chdir(tmp_path)
    code, _, err = flgc(command)
    assert code != 0
    assert sentence in err.replace("│", " ").strip()
    if "must be at least" not in sentence:
        assert err.startswith("flgc: ")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "command", ["train --method glfc", "train --nothing 1", "sweep", "sweep --grid huge", "data", "fly"]
)
def test_an_unknown_option_is_refused(flgc, command):
    code, out, err = flgc(command)
    assert code != 0
    assert out == ""
    assert err


def test_broken_records_are_answered_with_a_sentence(flgc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "results").mkdir(parents=True)
    (tmp_path / "data" / "results" / "runs.csv").write_text("run\n1\n", encoding="utf-8")
    for command in ("figures", "figures --check", "train", "sweep --grid quick"):
        code, _, err = flgc(command)
        assert code == 2
        assert err.startswith("flgc: data/results/runs.csv has other columns than expected")


def test_from_images_to_a_run_that_is_made_again(flgc, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the defaults are data, data/results and figures here
    code, out, _ = flgc(f"data --source {image_folder}")
    assert code == 0
    assert "tiny: 80 training and 40 test images, fingerprint " in out
    assert "use it with --data tiny" in out

    code, out, _ = flgc(f"train --data tiny {TINY}")
    assert code == 0
    (row,) = read_runs(tmp_path / "data" / "results").to_dict("records")
    assert (row["method"], row["groups"], row["epochs"], row["data"]) == ("flgc", 2, 2, "tiny")
    assert f"{row['run']}: test accuracy {row['test_accuracy']:.2%}" in out.splitlines()[-1]

    code, out, _ = flgc(f"train --data tiny {TINY}")  # it is done
    assert code == 0
    assert out.splitlines()[0].endswith(": already in data/results/runs.csv")

    code, out, _ = flgc(f"train --run {row['run']} --device cpu")
    assert code == 0
    assert out.splitlines()[-1] == (
        f"{row['run']}: test accuracy {row['test_accuracy']!r}, recorded {row['test_accuracy']!r}: the same"
    )
    assert read_runs(tmp_path / "data" / "results").to_dict("records") == [row]


@pytest.mark.posix
@pytest.mark.parametrize(
    ("command", "number", "line"),
    [
        (f"train --data tiny {TINY.replace('--epochs 2', '--epochs 500')}", signal.SIGTERM, "epoch 2/"),
        ("sweep --grid quick --device cpu --workers 2", signal.SIGINT, "7 runs, 0"),
    ],
)
def test_a_stopped_command_says_how_to_go_on(prepared, tmp_path, command, number, line):
    """At once, with the exit code of its signal, and nobody is left behind."""
    (tmp_path / "cache").symlink_to(prepared / "cache")
    typed = [
        sys.executable,
        "-m",
        "flgc_lib",
        *command.split(),
        "--root",
        str(tmp_path),
        "--results",
        str(tmp_path / "r"),
    ]
    process = subprocess.Popen(typed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert any(line in said for said in process.stdout)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.endswith("flgc: stopped; what was finished is kept: type the same command again to go on\n")
    assert "Traceback" not in err
    assert ("epoch" in line) == bool(list(tmp_path.glob("runs/*/last.ckpt")))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("command", "function", "given"),
    [
        (
            "freeze --checkpoint a.ckpt --output a --precision bf16 --batch 4 --size 64 --no-tune",
            "flgc_lib.experiment.deploy.freeze_checkpoint",
            (Path("a.ckpt"), Path("a"), {"precision": "bf16", "batch": 4, "size": 64, "tune": False}),
        ),
        (
            "export --checkpoint a.ckpt --output a.xml --engine openvino --precision int8 --calibrate tiny --root r",
            "flgc_lib.experiment.deploy.export_checkpoint",
            (
                *(Path("a.ckpt"), Path("a.xml")),
                {"engine": "openvino", "precision": "int8", "calibrate": "tiny", "batch": 1, "size": 32}
                | {"root": Path("r"), "results": None},
            ),
        ),
        (
            "bench --groups 4 8 --only flgc --device cuda",
            "flgc_lib.bench.measure.bench",
            (BenchSettings(groups=(4, 8), only=("flgc",), device="cuda"), {}),
        ),
        (
            "ablate --checkpoint a.ckpt --results x",
            "flgc_lib.experiment.ablation.ablate_checkpoint",
            (Path("a.ckpt"), {"root": Path("data"), "results": Path("x")}),
        ),
        (
            "notebooks --mode smoke --into x --only 00 05 --workers 1",
            "flgc_lib.course.notebooks.execute_all",
            ("smoke", Path("x"), {"only": ("00", "05"), "workers": 1, "measure": False}),
        ),
    ],
)
def test_what_is_typed_is_what_is_asked_for(flgc, monkeypatch, command, function, given):
    asked = []

    def called(*arguments, **options):
        asked.append((*arguments, options))
        raise ValueError("enough is known")

    monkeypatch.setattr(function, called)
    assert flgc(command) == (2, "", "flgc: enough is known\n")
    assert asked == [given]


def test_a_sweep_on_the_chosen_data_says_how_many_runs_failed(flgc, tmp_path, monkeypatch):
    asked = {}

    def sweep(settings, **options):
        asked.update(options, settings=settings)
        return {"one": "why", "other": "why"} if options["workers"] == 3 else {}

    monkeypatch.setattr("flgc_lib.experiment.sweep.sweep", sweep)
    code, _, err = flgc(f"sweep --grid first --data other --results {tmp_path} --workers 3 --threads 2")
    assert code == 1
    assert err.startswith("flgc: 2 runs failed; ")
    assert asked["settings"] == grid("first", "other")
    assert (asked["results"], asked["threads"], asked["device"]) == (tmp_path, 2, "auto")
    assert flgc("sweep --grid quick")[0] == 0


def test_the_help_of_sweep_says_what_every_grid_is(flgc):
    _, out, _ = flgc("sweep --help")
    said = out.partition("--grid")[2].partition("--data")[0]
    assert all(f"{name} (" in " ".join(said.replace("│", " ").split()) for name in get_args(Grid))


def test_figures_are_drawn_then_checked(flgc, record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for settings in grid("quick"):
        row, epochs = record(settings)
        write_record(tmp_path / "data" / "results", row, epochs, {CORRECT: np.zeros(2, dtype=np.uint8)})
    document = tmp_path / "README.md"
    code, _, err = flgc("figures --results data/result")
    assert (code, err.startswith("flgc: there are no records in data/result, so there is nothing to draw")) == (2, True)
    assert not (tmp_path / "figures").exists()
    document.write_text("<!-- table: quick -->\n<!-- /table -->\n", encoding="utf-8")
    assert flgc("figures --check")[0] == 1
    assert document.read_text(encoding="utf-8") == "<!-- table: quick -->\n<!-- /table -->\n"
    code, out, _ = flgc("figures")
    assert code == 0
    assert {"figures/quick-accuracy-against-groups.svg", "figures/residual-blocks.svg"} <= set(out.splitlines())
    assert "| flgc-dup | 8 | 33.33 | 1 |" in document.read_text(encoding="utf-8")
    assert flgc("figures --check")[:2] == (0, "all figures and tables are those of the records\n")
    document.write_text(document.read_text(encoding="utf-8").replace("33.33", "34.33"), encoding="utf-8")
    code, _, err = flgc("figures --check")
    assert (code, err) == (1, "the tables of README.md are not what the records say: type `flgc figures`\n")
    flgc("figures")
    (tmp_path / "figures" / "quick-accuracy-against-groups.svg").unlink()
    code, _, err = flgc("figures --check")
    assert code == 1
    assert err == "figures/quick-accuracy-against-groups.svg is missing: type `flgc figures`\n"
