"""Is this computer ready for the course? Each answer is one sentence: what is wrong, and what to type.

Loading this file needs nothing but the standard library, so that it can also say that everything else is missing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

REPOSITORY = Path(__file__).resolve().parents[1]
MINIMUM_PYTHON = (3, 11)
PYTHON = "py" if os.name == "nt" else "python3"
"""As a terminal knows it; Windows has a `python` that opens a shop, and macOS none."""
INSTALL = f"type `{PYTHON} run.py run` in the repository, or `pip install -c constraints.txt -e '.[dev]'`"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what.
        state: "ok"; "note", something optional is not there; or "problem".
        sentence: what was found and, for a problem, what to type.
    """

    subject: str
    state: Literal["ok", "note", "problem"]
    sentence: str


def examine(repository: Path = REPOSITORY) -> list[Finding]:
    """Looks at everything that the course needs, and at what it can use.

    Args:
        repository: folder with pyproject.toml and data/.
    """
    findings = [python()]
    if findings[0].state != "problem":  # an older Python could not even read pyproject.toml
        findings += [*packages(repository), installation(repository), kernel()]
    return [*findings, threads(), data(repository / "data" / "cache")]


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Python's version."""
    found = "Python " + ".".join(map(str, version))
    if version < MINIMUM_PYTHON:
        needed = ".".join(map(str, MINIMUM_PYTHON))
        return Finding(
            "Python", "problem", f"{found} is too old: install {needed} or a later one, and start run.py with that."
        )
    return Finding("Python", "ok", f"{found} at {sys.executable}.")


def packages(repository: Path = REPOSITORY) -> list[Finding]:
    """What is missing of pyproject.toml, in one finding, and one for each unfit package; or that all are there.

    The extra `dev`, for those who change the library, is optional.
    """
    import tomllib  # Python 3.11

    path = repository / "pyproject.toml"
    if not path.is_file():
        return [
            Finding("packages", "note", f"There is no {path} to compare with: start from a clone of the repository.")
        ]
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    needed = requirements(project, "notebooks")
    further = [text for text in requirements(project, "dev") if text not in needed]
    wrong = _unfit(needed, "problem", INSTALL)
    wrong += _unfit(further, "note", "type `pip install -e '.[dev]'` to run the tests")
    if any(finding.state == "problem" for finding in wrong):
        return wrong
    return [Finding("packages", "ok", f"All {len(needed)} packages fit pyproject.toml."), *wrong]


def requirements(project: dict[str, Any], *extras: str) -> list[str]:
    """What `pip install -e '.[extras]'` asks for, each requirement once, in the order of pyproject.toml.

    Args:
        project: the table `project` of pyproject.toml.
        extras: names of extras; those that they include, as `flgc-lib[train]`, are followed.
    """
    texts = list(project["dependencies"])
    for extra in extras:
        for text in project["optional-dependencies"][extra]:
            included = re.fullmatch(r"flgc-lib\[([\w, -]+)\]", text)
            texts += requirements(project, *re.split(r", *", included[1])) if included else [text]
    return list(dict.fromkeys(texts))


def _unfit(texts: list[str], state: Literal["note", "problem"], advice: str) -> list[Finding]:
    """What is wrong with installed packages, if anything is; `texts` are requirements, for example "numpy>=2"."""
    missing, unfit = [], []
    for text in texts:
        name = _name(text)
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        try:
            from packaging.requirements import Requirement
        except ImportError:
            continue  # packaging is itself one of the packages that are looked for
        specifier = Requirement(text).specifier
        if not specifier.contains(version, prereleases=True):
            unfit.append(Finding(name, state, f"{name} {version} is installed, {specifier} is needed: {advice}."))
    if not missing:
        return unfit
    are = "is" if len(missing) == 1 else "are"
    return [Finding(", ".join(missing), state, f"{', '.join(missing)} {are} missing: {advice}."), *unfit]


def remedy(module: str) -> str:
    """For a module that could not be imported: which it is, and which extra of the library brings it.

    Args:
        module: its name, dots included; any that the library imports.
    """
    module, extra = module.partition(".")[0], "train"
    try:
        wanted = metadata.requires("flgc-lib") or []
    except metadata.PackageNotFoundError:
        wanted = []
    for text in wanted:
        condition = re.search(r"""extra == ["'](\w+)["']""", text)
        if condition and _name(text).lower().replace("-", "_") == module.lower():
            extra = condition[1]
            break
    return (
        f"{module}: type `pip install -e '.[{extra}]'`, "
        "or `python -m flgc_lib check` to see all that is missing for the course"
    )


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def installation(repository: Path = REPOSITORY) -> Finding:
    """Whether flgc_lib is installed in this Python, and from this repository rather than from another clone."""
    if not (repository / "pyproject.toml").exists():
        return Finding("flgc_lib", "ok", f"flgc_lib is installed in {repository}.")
    # pip notes where a package came from; flgc_lib.egg-info in the working directory is no installation.
    notes = [text for d in metadata.distributions(name="flgc-lib") if (text := d.read_text("direct_url.json"))]
    if not notes:
        return Finding("flgc_lib", "problem", f"flgc_lib is not installed in {sys.prefix}: {INSTALL}.")
    source = json.loads(notes[0])["url"]
    if source.startswith("file://") and Path(url2pathname(urlsplit(source).path)).resolve() != repository.resolve():
        sentence = f"flgc_lib is installed from {source}, not from {repository}: type `pip install -e .` here."
        return Finding("flgc_lib", "problem", sentence)
    return Finding("flgc_lib", "ok", f"flgc_lib is installed from {source}.")


def kernel(specs: Any = None) -> Finding:  # noqa: ANN401 - an optional package's class
    """Whether the kernel that notebooks start, `python3`, is this Python.

    Args:
        specs: a `jupyter_client.kernelspec.KernelSpecManager`; Jupyter's own by default.
    """
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        return Finding("kernel", "problem", f"Jupyter is missing: {INSTALL}.")
    try:
        program = (specs or KernelSpecManager()).get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Finding("kernel", "problem", f"Jupyter has no kernel python3: {INSTALL}.")
    # Jupyter takes a bare "python" to be the Python that it runs on.
    path = shutil.which(program) if not program.startswith("python") else sys.executable
    if path is None or Path(path).absolute().parent != Path(sys.executable).absolute().parent:
        return Finding(
            "kernel",
            "problem",
            f"Notebooks would run on {program}, not on {sys.executable}: "
            "type `python -m ipykernel install --sys-prefix` in this environment, or start Jupyter with "
            f"`{PYTHON} run.py lab`.",
        )
    return Finding("kernel", "ok", "Notebooks run on this Python (kernel python3).")


def threads(cores: int | None = None) -> Finding:
    """How many processor threads there are, and an accelerator if there is one."""
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sentence = f"{cores} processor {'thread' if cores == 1 else 'threads'}"
    try:
        import torch

        if torch.cuda.is_available():
            sentence += f", GPU {torch.cuda.get_device_name()}"
    except ImportError:
        pass
    except OSError as error:
        there = "; on Windows install https://aka.ms/vs/17/release/vc_redist.x64.exe" if os.name == "nt" else ""
        return Finding("PyTorch", "problem", f"PyTorch is installed and can't be loaded ({error}){there}.")
    if cores < 2:
        return Finding(
            "processor", "note", f"{sentence}: the run times in the notebooks are for two, yours are longer."
        )
    return Finding("processor", "ok", f"{sentence}.")


def data(cache: Path = REPOSITORY / "data" / "cache") -> Finding:
    """Which datasets are prepared; the course itself needs none."""
    names = sorted(path.stem for path in cache.glob("*.pt"))
    if not names:
        sentence = (
            "No dataset is prepared, and the notebooks need none; for CIFAR-10 type `flgc data --source torchvision`."
        )
        return Finding("data", "note", sentence)
    return Finding("data", "ok", f"Prepared in {cache}: {', '.join(names)}.")


def report(findings: list[Finding]) -> str:
    """A line a finding, problems last, and what they come to."""
    marks = {"ok": "✓", "note": "·", "problem": "✗"}
    order = sorted(findings, key=lambda finding: finding.state == "problem")
    problems = sum(finding.state == "problem" for finding in findings)
    verdict = "Everything is ready." if not problems else f"{problems} to mend, see ✗ above."
    return "\n".join([*(f"{marks[f.state]} {f.sentence}" for f in order), verdict])


def main(repository: Path = REPOSITORY) -> int:
    """Prints the report.

    Returns:
        1 if there is a problem, else 0.
    """
    findings = examine(repository)
    print(report(findings))
    return int(any(finding.state == "problem" for finding in findings))
