"""The course: which notebooks there are, the frame that all of them share, and how they are executed.

The opening and closing cells of every notebook are rendered from `COURSE`, so that titles, links, prerequisites and
measured times are said once. Their outputs are stored: CI runs every cell again and compares (see tests/test_notebooks.py).
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import matplotlib as mpl
import nbformat
import torch
from nbclient import NotebookClient
from nbformat import NotebookNode

from flgc_lib.grouping import check_choice

Mode = Literal["smoke", "standard", "full"]
T = TypeVar("T")
TIMES = Path("notebooks/times.json")


@dataclass(frozen=True)
class Lesson:
    """One notebook.

    Attributes:
        number: "00" … "08"; the file is `notebooks/<number>-<slug>.ipynb`.
        slug: rest of the file's name.
        title: heading.
        do: what the student will do.
        learn: what the student leaves able to.
        need: numbers of the notebooks to have read.
        paper: sections, equations and figures of the paper that it covers.
        references: short names of works in `REFERENCES`.
    """

    number: str
    slug: str
    title: str
    do: str
    learn: str
    need: tuple[str, ...]
    paper: str
    references: tuple[str, ...]

    @property
    def file(self) -> str:
        """Name of the notebook in `notebooks/`."""
        return f"{self.number}-{self.slug}.ipynb"


REFERENCES = {
    "paper": "Motohashi, Yamauchi (本橋, 山内, 日大生産工): *動的グループ化畳み込みニューラルネットワークにおける特徴割り当て最適化*",
    "resnet": "He, Zhang, Ren, Sun: *Deep Residual Learning for Image Recognition*, CVPR 2016, [arXiv 1512.03385](https://arxiv.org/abs/1512.03385)",
    "resnext": "Xie, Girshick, Dollár, Tu, He: *Aggregated Residual Transformations for Deep Neural Networks*, CVPR 2017, [arXiv 1611.05431](https://arxiv.org/abs/1611.05431)",
    "flgc": "Wang, Kan, Shan, Chen: *Fully Learnable Group Convolution for Acceleration of Deep Neural Networks*, CVPR 2019, [arXiv 1904.00346](https://arxiv.org/abs/1904.00346)",
    "ste": "Bengio, Léonard, Courville: *Estimating or Propagating Gradients Through Stochastic Neurons*, 2013, [arXiv 1308.3432](https://arxiv.org/abs/1308.3432)",
    "shufflenet": "Zhang, Zhou, Lin, Sun: *ShuffleNet*, CVPR 2018, [arXiv 1707.01083](https://arxiv.org/abs/1707.01083)",
    "condensenet": "Huang, Liu, van der Maaten, Weinberger: *CondenseNet*, CVPR 2018, [arXiv 1711.09224](https://arxiv.org/abs/1711.09224)",
    "mobilenetv2": "Sandler, Howard, Zhu, Zhmoginov, Chen: *MobileNetV2*, CVPR 2018, [arXiv 1801.04381](https://arxiv.org/abs/1801.04381)",
    "indirect": "Dukhan: *The Indirect Convolution Algorithm*, 2019, [arXiv 1907.02129](https://arxiv.org/abs/1907.02129)",
    "cifar": "Krizhevsky: *Learning Multiple Layers of Features from Tiny Images*, 2009",
    "onecycle": "Smith, Topin: *Super-Convergence*, 2017, [arXiv 1708.07120](https://arxiv.org/abs/1708.07120)",
}

COURSE = (
    Lesson(
        "00", "start-here", "Start here",
        do="check that everything is installed, and see how the notebooks, the library and the paper fit together",
        learn="run everything here; find any section, equation or figure of the paper; read its Japanese terms",
        need=(),
        paper="all of it, as a map",
        references=("paper",),
    ),
    Lesson(
        "01", "resnet", "ResNet",
        do="count what a convolution costs, build both residual blocks from nothing, and train a plain net beside a residual one",
        learn="build basic and bottleneck blocks, say why the shortcut helps, and count multiply-accumulates (MACs)",
        need=("00",),
        paper="sections 1, 2-1, 2-1-1, 2-1-2 and 4 (the stem), eq. (1), Fig. 1 (a, b)",
        references=("paper", "resnet"),
    ),
    Lesson(
        "02", "resnext", "ResNeXt and grouped convolution",
        do="show that three forms of a ResNeXt block are one, see what a group cannot see, and watch accuracy fall with G",
        learn="use `nn.Conv2d(groups=G)`, compute its cost for any G, and say why fixed groups cost accuracy",
        need=("01",),
        paper="section 2-2, eq. (2), Fig. 2 (a)",
        references=("paper", "resnext", "shufflenet"),
    ),
    Lesson(
        "03", "flgc", "Fully learnable group convolution",
        do="build S, T, the straight-through gradient and the mask from first principles, and let them find planted groups",
        learn="derive FLGC, say why a hard choice stops the gradient and which estimator mends it",
        need=("02",),
        paper="section 2-3, Fig. 2 (b)",
        references=("paper", "flgc", "ste"),
    ),
    Lesson(
        "04", "duplication", "The duplication rule",
        do="step through the rule with numbers, see it copy a feature that two groups need, and measure when it fires",
        learn="apply the paper's rule by hand and in code, and predict when it copies, when it cannot, and what it costs",
        need=("03",),
        paper="section 3",
        references=("paper", "flgc"),
    ),
    Lesson(
        "05", "training", "Training on CIFAR-10",
        do="write a training loop of twenty lines, then use the library's, kill a run and resume it",
        learn="train, read curves, resume, and start the real experiment on your own machine or a GPU",
        need=("04",),
        paper="section 4",
        references=("paper", "resnet", "cifar", "onecycle"),
    ),
    Lesson(
        "06", "what-groups-look-like", "What the groups look like",
        do="open the records of trained nets and look at S, T and M, layer by layer and epoch by epoch",
        learn="read assignment heatmaps, group sizes and copies, and say whether groups move at all",
        need=("05",),
        paper="sections 2-3 and 3, looked at in trained nets",
        references=("paper", "flgc"),
    ),
    Lesson(
        "07", "accuracy-against-groups", "Accuracy against the number of groups",
        do="answer the paper's question from the committed records, with controls and error bars",
        learn="compare methods fairly: paired seeds, intervals, actual MACs, and what can't be told apart",
        need=("06",),
        paper="sections 4 and 5, the experiment that the paper announces",
        references=("paper", "flgc", "condensenet"),
    ),
    Lesson(
        "08", "really-fast", "Making it really fast",
        do="measure that a mask saves nothing, re-order channels by index, and run unequal, overlapping groups fast",
        learn="turn learned groups into an inference layer that is as fast as its MACs promise, and say where it isn't",
        need=("04",),
        paper="section 1 (why cost matters), carried to its end",
        references=("paper", "flgc", "indirect", "mobilenetv2"),
    ),
)


def mode() -> Mode:
    """How much the notebooks compute, from the environment variable FLGC_MODE: smoke, standard (default) or full.

    Raises:
        ValueError: for another value.
    """
    value = os.environ.get("FLGC_MODE", "standard")
    check_choice("FLGC_MODE", value, Mode)
    return value  # type: ignore[return-value]


def pick(*, smoke: T, standard: T, full: T) -> T:
    """The value for this mode; only for cells whose checked output does not depend on it."""
    return {"smoke": smoke, "standard": standard, "full": full}[mode()]


def start(number: str) -> None:
    """First line of every notebook: fixes seed, threads and the look of plots, and says what mode and data mean here."""
    torch.manual_seed(0)
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    mpl.rcParams.update({"figure.dpi": 110, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
    lesson = _lesson(number)
    print(f"{lesson.number} {lesson.title}: FLGC_MODE={mode()}, torch {torch.__version__}, seed 0")


def header(lesson: Lesson) -> str:
    """The opening markdown cell."""
    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    measured = times.get(lesson.number, {})
    minutes = ", ".join(f"{m} {measured[m]:.1f} min" for m in ("smoke", "standard") if m in measured)
    need = ", ".join(_link(_lesson(n)) for n in lesson.need) or "nothing but school mathematics and some Python"
    return "\n\n".join(
        [
            f"# {lesson.number} · {lesson.title}",
            _navigation(lesson),
            f"**You will** {lesson.do}.",
            f"**You will learn to** {lesson.learn}.",
            f"**You need** {need}.",
            f"**Run time** on two cores: {minutes or 'not measured yet'}.",
            f"**In the paper:** {lesson.paper}.",
        ]
    )


def footer(lesson: Lesson) -> str:
    """The closing markdown cell."""
    works = "\n".join(f"- {REFERENCES[r]}" for r in lesson.references)
    return f"## References\n\n{works}\n\n{_navigation(lesson)}"


def render_frame(notebook: NotebookNode, lesson: Lesson) -> None:
    """Writes the opening and closing cells, which carry the tags `header` and `footer`, into a notebook."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "header" in tags:
            cell.source = header(lesson)
        if "footer" in tags:
            cell.source = footer(lesson)


def execute(lesson: Lesson, mode: Mode, into: Path, *, solutions: bool = False, folder: Path = Path("notebooks")) -> NotebookNode:
    """Runs a notebook from top to bottom in a fresh kernel and writes it, with its outputs, to the folder `into`.

    Args:
        lesson: which.
        mode: see `mode`.
        into: folder of the result; `folder` itself executes in place.
        solutions: replaces every exercise's stub by the solution folded away below it.
        folder: of the notebooks.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(folder / lesson.file, as_version=4)
    if solutions:
        insert_solutions(notebook)
    started = time.perf_counter()
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}, record_timing=False
    )
    client.execute(env={**os.environ, "FLGC_MODE": mode})
    if into == folder:
        _remember_time(lesson, mode, (time.perf_counter() - started) / 60)
    render_frame(notebook, lesson)
    into.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, into / lesson.file)
    return notebook


def insert_solutions(notebook: NotebookNode) -> int:
    """Puts the code of each folded solution (a markdown cell tagged `solution`) into the stub (tagged `exercise`) above it.

    Returns:
        How many there were.

    Raises:
        ValueError: if an exercise has no solution or a solution no exercise.
    """
    stub, inserted = None, 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "exercise" in tags:
            if stub is not None:
                raise ValueError(f"an exercise has no solution: {stub.source[:60]!r}")
            stub = cell
        if "solution" in tags:
            if stub is None or "```python\n" not in cell.source:
                raise ValueError(f"a solution without exercise or code: {cell.source[:60]!r}")
            stub.source = cell.source.split("```python\n")[1].split("\n```")[0]
            stub, inserted = None, inserted + 1
    if stub is not None:
        raise ValueError(f"an exercise has no solution: {stub.source[:60]!r}")
    return inserted


def _remember_time(lesson: Lesson, mode: Mode, minutes: float) -> None:
    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    times.setdefault(lesson.number, {})[mode] = round(minutes, 1)
    TIMES.write_text(json.dumps(times, indent=1, sort_keys=True) + "\n")


def _lesson(number: str) -> Lesson:
    return next(lesson for lesson in COURSE if lesson.number == number)


def _link(lesson: Lesson) -> str:
    return f"[{lesson.number} {lesson.title}]({lesson.file})"


def _navigation(lesson: Lesson) -> str:
    place = COURSE.index(lesson)
    links = [f"← {_link(COURSE[place - 1])}"] if place else []
    links += [f"{_link(COURSE[place + 1])} →"] if place + 1 < len(COURSE) else []
    return " · ".join(links)
