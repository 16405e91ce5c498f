"""Shows what the project does, opens it, proves it, on every system: `python3 run.py help` lists the names.

Each makes `.venv` first if it is missing or out of date. Python's standard library is all that this file needs, and
`make` calls it where there is a `make`.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".venv"
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
INSTALLED = ENVIRONMENT / "installed"
PYTHON = "py" if os.name == "nt" else "python3"
"""As a terminal knows it; Windows has a `python` that opens a shop, and macOS none."""
ACTIVATE = (
    r"Set-ExecutionPolicy -Scope Process RemoteSigned; .venv\Scripts\Activate.ps1"
    if os.name == "nt"
    else ". .venv/bin/activate"
)
MINIMUM = (3, 11)


class Target(NamedTuple):
    """Commands in the environment, one after the other until one fails, and what is said when all are done."""

    help: str
    commands: tuple[str, ...] = ()
    closing: str = ""
    one_thread: bool = True  # of NumPy and PyTorch in each process: two processes side by side have two cores


QUICK = "--results data/quick/results"
BOOK = "sphinx --fail-on-warning --keep-going --quiet -c book . build/book"
SIDE_BY_SIDE = "pytest notebooks -n 2 --dist loadfile"
TARGETS = {
    "install": Target("makes .venv with everything in it", (), f"To type commands such as `flgc`: {ACTIVATE}"),
    "run": Target(
        "executes the notebooks quickly and draws the figures: does all of it work here?",
        ("flgc check", "flgc notebooks --mode smoke --into build/notebooks --workers 2", "flgc figures"),
        f"The notebooks run on this computer. To open them, type: {PYTHON} run.py lab",
    ),
    "lab": Target("opens the course in the browser", ("jupyter lab notebooks/00-start-here.ipynb",), one_thread=False),
    "notebooks": Target("executes all notebooks in place, as their stored outputs were made", ("flgc notebooks",)),
    "quick": Target(
        "a small sweep on embedded data: the shape of the experiment in a few minutes",
        (
            f"flgc sweep --grid quick {QUICK} --root data/quick --workers 2 --threads 1",
            f"flgc figures {QUICK} --folder data/quick/figures --documents",
        ),
    ),
    "book": Target(
        "builds the book in build/book: the course, the results and the reference, to read in a browser",
        (BOOK,),
        f"The book is built. Open: {ROOT / 'build' / 'book' / 'index.html'}",
    ),
    "test": Target(
        "the book, lint, types, all tests, the wheel's among them, and every notebook's stored outputs",
        (
            BOOK,
            "ruff check .",
            "ruff format --check .",
            "mypy",
            "pytest -n 2",
            f"{SIDE_BY_SIDE} --nbval-lax --nbval-current-env --nbval-cell-timeout 180 "
            "--nbval-sanitize-with tests/nbval_sanitize.cfg",
        ),
    ),
    "gpu": Target(
        "where there is an NVIDIA GPU: tests there, speed, then the runs of ResNet-20 and 50; typed again, it goes on",
        (
            "pytest tests/test_devices.py",
            "flgc bench --device cuda --stems cifar --groups 4 8 16",
            "flgc sweep --grid resnet20 --device cuda",
            "flgc sweep --grid gpu --device cuda",
        ),
    ),
    "package": Target(
        "builds the wheel in build/package and tries it where only what the layer needs is",
        ("pytest tests/test_package.py --basetemp build/package",),
    ),
    "help": Target("this list"),
}


def install() -> None:
    """Makes the environment, or brings it up to date, if the files that say what is in it are newer."""
    wanted = max((ROOT / name).stat().st_mtime for name in ("pyproject.toml", "constraints.txt"))
    if INSTALLED.exists() and INSTALLED.stat().st_mtime > wanted:
        return
    if sys.version_info < MINIMUM:
        found, needed = (".".join(map(str, v)) for v in (sys.version_info[:2], MINIMUM))
        sys.exit(f"Python {found} is too old: install {needed} or a later one, and start run.py with that")
    if not (BIN / "pip").exists() and not (BIN / "pip.exe").exists():
        venv.create(ENVIRONMENT, with_pip=True)
    pip = [str(BIN / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-q", "-c", "constraints.txt"]
    subprocess.run([*pip, "-e", ".[dev]"], cwd=ROOT, check=True)
    INSTALLED.touch()


def main(name: str = "help", *more: str) -> None:
    """Does what a name stands for."""
    if name not in TARGETS or more:
        given = " ".join((name, *more))
        sys.exit(f"run.py: {given!r} is none of {', '.join(TARGETS)}; one of these may be given")
    target = TARGETS[name]
    if name == "help":
        for other, listed in TARGETS.items():
            print(f"{PYTHON} run.py {other:10} {listed.help}")
        return
    try:
        install()
        settings = dict(os.environ, PATH=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
        if target.one_thread:
            settings["OMP_NUM_THREADS"] = "1"
        for command in target.commands:
            program, *arguments = command.split()
            typed = [str(BIN / "python"), "-m", *{"flgc": ["flgc_lib"], "jupyter": ["jupyter"]}.get(program, [program])]
            if "--nbval-lax" in arguments:
                settings["FLGC_MODE"] = "smoke"
            subprocess.run([*typed, *arguments], cwd=ROOT, env=settings, check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
    if target.closing:
        print(target.closing)


if __name__ == "__main__":
    main(*sys.argv[1:])
