"""What the course consists of: one entry a notebook, and the works that they refer to."""

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("notebooks")
"""Where the notebooks lie, in the folder of the clone."""


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
        study: minutes of reading, predicting and solving exercises, estimated.
        paper: sections, equations and figures of the paper that it covers.
        references: short names of works in `REFERENCES`.
    """

    number: str
    slug: str
    title: str
    do: str
    learn: str
    need: tuple[str, ...]
    study: int
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
        "00",
        "start-here",
        "Start here",
        do="check that everything is installed, and see how the notebooks, the library and the paper fit together",
        learn="run everything here; find any section, equation or figure of the paper; read its Japanese terms",
        need=(),
        study=40,
        paper="all of it, as a map",
        references=("paper",),
    ),
    Lesson(
        "01",
        "resnet",
        "ResNet",
        do="count what a convolution costs, build both residual blocks from nothing, and train a plain net beside a residual one",
        learn="build basic and bottleneck blocks, say why the shortcut helps, and count multiply-accumulates (MACs)",
        need=("00",),
        study=120,
        paper="sections 1, 2-1, 2-1-1, 2-1-2 and 4 (the stem), eq. (1), Fig. 1 (a, b)",
        references=("paper", "resnet"),
    ),
    Lesson(
        "02",
        "resnext",
        "ResNeXt and grouped convolution",
        do="show that three forms of a ResNeXt block are one, see what a group cannot see, and watch accuracy fall with G",
        learn="use `nn.Conv2d(groups=G)`, compute its cost for any G, and say why fixed groups cost accuracy",
        need=("01",),
        study=120,
        paper="section 2-2, eq. (2), Fig. 2 (a)",
        references=("paper", "resnext", "shufflenet"),
    ),
    Lesson(
        "03",
        "flgc",
        "Fully learnable group convolution",
        do="build S, T, the straight-through gradient and the mask from first principles, and let them find planted groups",
        learn="derive FLGC, say why a hard choice stops the gradient and which estimator mends it",
        need=("02",),
        study=180,
        paper="section 2-3, Fig. 2 (b)",
        references=("paper", "flgc", "ste"),
    ),
    Lesson(
        "04",
        "duplication",
        "The duplication rule",
        do="step through the rule with numbers, see it copy a feature that two groups need, and measure when it fires",
        learn="apply the paper's rule by hand and in code, and predict when it copies, when it cannot, and what it costs",
        need=("03",),
        study=180,
        paper="section 3",
        references=("paper", "flgc"),
    ),
    Lesson(
        "05",
        "training",
        "Training on CIFAR-10",
        do="write a training loop of your own, then use the library's, kill a run and resume it",
        learn="train, read curves, resume, and start the real experiment on your own machine or a GPU",
        need=("04",),
        study=150,
        paper="section 4",
        references=("paper", "resnet", "cifar", "onecycle"),
    ),
    Lesson(
        "06",
        "what-groups-look-like",
        "What the groups look like",
        do="open the records of trained nets and look at S, T and M, layer by layer and epoch by epoch",
        learn="read assignment heatmaps, group sizes and copies, and say whether groups move at all",
        need=("05",),
        study=120,
        paper="sections 2-3 and 3, looked at in trained nets",
        references=("paper", "flgc"),
    ),
    Lesson(
        "07",
        "accuracy-against-groups",
        "Accuracy against the number of groups",
        do="answer the paper's question from the committed records, with controls and error bars",
        learn="compare methods fairly: paired seeds, intervals, actual MACs, and what can't be told apart",
        need=("06",),
        study=150,
        paper="sections 4 and 5, the experiment that the paper announces",
        references=("paper", "flgc", "condensenet"),
    ),
    Lesson(
        "08",
        "really-fast",
        "Making it really fast",
        do="measure that a mask saves nothing, re-order channels by index, and run unequal, overlapping groups fast",
        learn="turn learned groups into an inference layer that is nearly as fast as its MACs promise, and say where it isn't",
        need=("04",),
        study=150,
        paper="section 1 (why cost matters), carried to its end",
        references=("paper", "flgc", "indirect", "mobilenetv2"),
    ),
)

PAPER = {
    "section 1": "まえがき: why convolutions should cost less, and what goes wrong with groups",
    "section 2-1": "ResNet",
    "section 2-1-1": "残差ブロック層: the residual block",
    "section 2-1-2": "Global Average Pooling層",
    "section 2-2": "ResNeXt",
    "section 2-3": "Fully Learnable Group Convolution",
    "section 3": "提案手法: the proposal, copying important feature maps",
    "section 4": "実験: the experiment",
    "section 5": "まとめ: summary",
    "eq. (1)": "H(x) = F(x) + x",
    "eq. (2)": "F(x) = Σ Tᵢ(x), a sum over the groups",
    "Fig. 1 (a)": "basic residual block",
    "Fig. 1 (b)": "bottleneck residual block",
    "Fig. 2 (a)": "groups fixed when the network is built",
    "Fig. 2 (b)": "groups learned in training",
}
"""Every section, equation and figure of the paper."""


def find_lesson(number: str) -> Lesson:
    """The notebook with a number, "00" … "08".

    Raises:
        ValueError: if there is none.
    """
    for lesson in COURSE:
        if lesson.number == number:
            return lesson
    raise ValueError(f"there is no notebook {number!r}: they are {', '.join(lesson.number for lesson in COURSE)}")


def lessons_on(part: str) -> list[Lesson]:
    """The notebooks whose entry in `COURSE` names a part of the paper.

    Args:
        part: a key of `PAPER`.
    """
    return [lesson for lesson in COURSE if part in _parts(lesson.paper)]


def _parts(text: str) -> set[str]:
    """The parts that a text like "sections 2-1 and 3 (why), eq. (1), Fig. 1 (a, b)" names."""
    equations = re.findall(r"eq\. \(\d\)", text)
    figures = [
        f"Fig. {n} ({x})" for n, letters in re.findall(r"Fig\. (\d) \(([ab, ]+)\)", text) for x in letters.split(", ")
    ]
    rest = re.sub(r"(eq\.|Fig\. \d) \([^)]*\)|\([^)]*\)", "", text)
    return {*equations, *figures, *(f"section {number}" for number in re.findall(r"\b\d(?:-\d)*\b", rest))}
