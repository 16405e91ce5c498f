"""The experiments, each a list of settings on its own dataset or on another one by name.

Source: Motohashi and Yamauchi, section 4; the protocol stands in data/results/README.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any, Literal, get_args

from flgc_lib.experiment.settings import CopyTime, Settings
from flgc_lib.layers import Score
from flgc_lib.methods import Method

Grid = Literal[
    "quick", "first", "tune", "learn", "small", "rule", "rates", "premise", "power", "resnet20", "paper", "gpu"
]

CONTROLLED: tuple[Method, ...] = ("grouped", "random", "flgc", "flgc-dup", "flgc-randdup", "ring")
"""Every method that has groups, but for those that find them in a soft start."""

# ResNet-50's structure at about a fortieth of its cost, on which the rule has something to do: C/G is small.
_SMALL = Settings(
    data="cifar10", depths=(1, 1, 1, 1), width=0.25, epochs=15, learning_rate=0.4, logit_learning_rate=0.003
)  # the rates that were best in `tune`
# Groups from the weights are found in a soft start.
_CLUSTERED = replace(_SMALL, soft_start=0.5, assign_every=50)

# Four times as wide, so that four channels a group are left at G = 16, and without a dense projection, so that only the
# groups themselves can pass information from one to another.
_POWER = Settings(
    data="cifar10", depths=(1, 1), where="all", epochs=8, learning_rate=0.4, logit_learning_rate=0.003
)  # the rate that was best in `rates`
# He et al. 2016, section 4.2: 6n + 2 layers with n = 3 blocks a stage, 16 channels in the stem, and their rate.
_RESNET20 = Settings(
    data="cifar10", block="basic", depths=(3, 3, 3), width=0.25, stem="cifar", where="all", epochs=30,
    learning_rate=0.1, logit_learning_rate=0.003,
)  # fmt: skip
_COPYING: Mapping[str, tuple[Method, float]] = {
    "select 1": ("select", 1.0),
    "select-random 1": ("select-random", 1.0),
    "select 1.5": ("select", 1.5),
    "select-random 1.5": ("select-random", 1.5),
    "budget 1.5": ("budget", 1.5),
    "budget-random 1.5": ("budget-random", 1.5),
}
"""Ways to give important channels to several groups, and their controls: method, channels of a group over C/G."""
WAYS = (
    ("select 1", "select-random 1"),
    ("select 1.5", "select-random 1.5"),
    ("budget 1.5", "budget-random 1.5"),
    ("flgc-dup", "flgc-randdup"),
)
"""The ways of `premise`, each with its control, by their names in `premise_arms`."""
PREMISE_SEEDS = range(101, 104)
_SCOUTED: Mapping[str, Any] = {"soft_start": 0.5, "scout": 0.25}
"""A quarter of the training for all weights, then groups are chosen, and a quarter for the weights outside to fade."""
_LEARNED: Mapping[str, Any] = {"soft_start": 0.5, "logit_learning_rate": 0.03}
"""A soft start with ten times the rate of S and T, in which S leaves its random draw."""
PRIMARY: tuple[Method, Method] = ("select", "select-random")
"""The arm that was furthest above its control in `premise`, at the cost of `grouped`, and that control."""
PRIMARY_SEEDS = (*range(28), 29, 30)
SECONDARY_SEEDS = (0, 1, *range(20, 28))
RETAINED_SEEDS = (0, *range(31, 35))
"""Seeds of the primary contrasts of `power`, of the others, and of what arms retain (`RETAINED`)."""
FURTHER_SEEDS = range(31, 54)
"""Seeds of a second stage, which makes the interval of the first primary contrast as narrow as `AIM`."""
AIM = 0.2
"""Half of that interval, points."""
JUDGED = (16, 8)
"""Numbers of groups at which the arms of `power` are compared."""
RETAINED = (16, 4)
"""Numbers of groups between which it is told what an arm retains."""
_THIN = {16: 19, 8: 25, 4: 33}
_THIN_RESNET20 = {8: 6, 4: 8}
"""Stem channels of the dense net that costs as many multiply-accumulates as `grouped` does at G."""
RESNET20_GROUPS = (8, 4)
RESNET20_SEEDS = range(5)


def quick() -> list[Settings]:
    """A few minutes on the embedded data: the shape of the experiment, not its answer."""
    base = Settings(data="synthetic", depths=(1, 1, 1), width=0.25, stem="cifar", epochs=3, batch=64)
    runs = [replace(base, method="dense")]
    return runs + [replace(base, method=m, groups=g) for g in (2, 8) for m in ("grouped", "flgc", "flgc-dup")]


def first() -> list[Settings]:
    """ResNet-50 at G = 8, one seed, four epochs."""
    base = Settings(data="cifar10", epochs=4)
    return [replace(base, method=m) for m in ("dense", "grouped", "random", "flgc", "flgc-dup")]


def tune() -> list[Settings]:
    """Learning rates, tuned once, on images held out of the training set, on FLGC and not on the rule."""
    base = Settings(data="cifar10", method="flgc", hold_out=5000)
    small = replace(base, depths=_SMALL.depths, width=_SMALL.width, epochs=8)
    rates = product((0.05, 0.1, 0.2, 0.4, 0.8), (0.003, 0.01, 0.03))
    runs = [replace(small, learning_rate=w, logit_learning_rate=s) for w, s in rates]
    resnet50 = replace(base, epochs=3, logit_learning_rate=_SMALL.logit_learning_rate)
    return runs + [replace(resnet50, learning_rate=w) for w in (0.005, 0.01, 0.02, 0.05)]


def learn() -> list[Settings]:
    """Do learned groups beat drawn ones? Tested on held-out images; with a soft start, all weights train at first."""
    base = replace(_SMALL, hold_out=5000)
    soft = replace(base, soft_start=0.5, logit_learning_rate=0.01)
    runs = []
    for seed in range(3):
        for start in (base, soft):
            runs += [replace(start, method=m, seed=seed) for m in ("random", "flgc")]
        runs.append(replace(soft, method="cluster", assign_every=50, seed=seed))
    return runs


def small() -> list[Settings]:
    """The paper's question on a small net: all methods and controls, five seeds, a whole seed after the other."""
    runs = []
    for seed in range(5):
        runs.append(replace(_SMALL, method="dense", seed=seed))
        runs += [replace(_SMALL, method=m, groups=g, seed=seed) for g in (8, 16, 4, 2) for m in CONTROLLED]
    clustered: tuple[Method, ...] = ("cluster", "cluster-dup")
    cells = product(range(5), (8, 16, 4, 2), clustered)
    return runs + [replace(_CLUSTERED, method=m, groups=g, seed=seed) for seed, g, m in cells]


def rule() -> list[Settings]:
    """The rule's open choices on the small net: k, what it compares, and when it copies."""
    scores, times = get_args(Score), get_args(CopyTime)
    choices = product(range(3), (8, 16), (1, 3, 5), scores, times)
    return [
        replace(_SMALL, method="flgc-dup", seed=seed, groups=g, top_k=k, score=score, copy_time=when)
        for seed, g, k, score, when in choices
    ]


def rates() -> list[Settings]:
    """The learning rate of `power`, on held-out images and a seed of its own, by the rule in the protocol."""
    base = replace(_POWER, groups=16, epochs=15, hold_out=5000, seed=100)
    methods: tuple[Method, ...] = ("dense", "equal", "flgc")
    return [replace(base, method=m, learning_rate=w) for w, m in product((0.1, 0.2, 0.4, 0.8), methods)]


def premise() -> list[Settings]:
    """Make maps important, then copy the important ones: each way beside as many random copies, on held-out images.

    First the four ways and their controls, a whole seed after the other, then what shows the schedule's part.
    """
    runs = [premise_arms(seed) for seed in PREMISE_SEEDS]
    first = {name for pair in WAYS for name in pair}
    return [
        arm for deciding in (True, False) for arms in runs for name, arm in arms.items() if (name in first) == deciding
    ]


def premise_arms(seed: int) -> dict[str, Settings]:
    """The arms of `premise` by the names that its tables use."""
    base = replace(_POWER, groups=16, hold_out=5000, seed=seed)
    soft = replace(base, soft_start=0.5)
    scouted = replace(base, **_SCOUTED)
    learned = replace(base, **_LEARNED)
    return {
        **{name: replace(scouted, method=method, share=share) for name, (method, share) in _COPYING.items()},
        "flgc-dup": replace(learned, method="flgc-dup"),
        "flgc-randdup": replace(learned, method="flgc-randdup"),
        "cluster": replace(scouted, method="cluster"),
        "equal, soft start": replace(scouted, method="equal"),
        "flgc": replace(learned, method="flgc"),
        "select 1.5, regrouped": replace(soft, method="select", share=1.5, assign_every=50),
        "cluster, regrouped": replace(soft, method="cluster", assign_every=50),
        "shuffle": replace(base, method="shuffle"),
        "equal": replace(base, method="equal"),
    }


def power() -> list[Settings]:
    """Many seeds of few arms: all arms, the primary contrasts, fewer groups, then more seeds of the first contrast."""
    runs = [arm for seed, g in product(SECONDARY_SEEDS, JUDGED) for arm in power_arms(g, seed).values()]
    runs += [power_arms(g, seed)[arm] for seed, g, arm in product(PRIMARY_SEEDS, JUDGED, (*PRIMARY, "cluster"))]
    for seed, groups in product(RETAINED_SEEDS, RETAINED):
        runs += [arm for name, arm in power_arms(groups, seed).items() if name != "dense"]
    runs += [power_arms(g, seed)[arm] for seed, g, arm in product(FURTHER_SEEDS, JUDGED, PRIMARY)]
    return _once(runs)


def power_arms(groups: int, seed: int) -> dict[str, Settings]:
    """The arms of `power` by the names that its protocol and its tables use; dense is the same for every G."""
    return _arms(replace(_POWER, groups=groups, seed=seed), _THIN[groups])


def resnet20() -> list[Settings]:
    """A net that people know, ResNet-20 at full resolution, a whole seed after the other."""
    runs = [arm for seed, g in product(RESNET20_SEEDS, RESNET20_GROUPS) for arm in resnet20_arms(g, seed).values()]
    return _once(runs)


def resnet20_arms(groups: int, seed: int) -> dict[str, Settings]:
    """Those arms of `power` that are run with ResNet-20, the primary ones first."""
    arms = _arms(replace(_RESNET20, groups=groups, seed=seed), _THIN_RESNET20[groups])
    names = (*PRIMARY, "dense", "thin dense", "grouped", "shuffle", "cluster", "equal, soft start", "flgc", "flgc-dup")
    return {name: arms[name] for name in names}


def _arms(base: Settings, thin: int) -> dict[str, Settings]:
    scouted = replace(base, **_SCOUTED)
    learned = replace(base, **_LEARNED)
    hard: tuple[Method, ...] = ("grouped", "shuffle", "equal", "flgc", "flgc-dup")
    return {
        "dense": replace(base, method="dense"),
        "thin dense": replace(base, method="dense", width=thin / 64),
        **{method: replace(base, method=method) for method in hard},
        "flgc-dup, soft start": replace(learned, method="flgc-dup"),
        "flgc-randdup, soft start": replace(learned, method="flgc-randdup"),
        "equal, soft start": replace(scouted, method="equal"),
        "cluster": replace(scouted, method="cluster"),
        **{arm: replace(scouted, method=arm) for arm in PRIMARY},
    }


def paper() -> list[Settings]:
    """ResNet-50 with the paper's stem: first G = 4 and 16, then the other numbers of groups, then a second seed."""
    base = Settings(data="cifar10", epochs=10, learning_rate=0.02, logit_learning_rate=0.003)  # the best in `tune`
    runs = []
    for seed in range(2):
        runs.append(replace(base, method="dense", seed=seed))
        for groups in ((4, 16), (2, 8, 32)):
            runs += [replace(base, method=m, groups=g, seed=seed) for g, m in product(groups, CONTROLLED[:4])]
    return runs


def gpu() -> list[Settings]:
    """ResNet-50 with the stem that most CIFAR-10 nets use, few groups and many, a seed after the other: needs a GPU."""
    base = Settings(data="cifar10", stem="cifar", epochs=30)
    runs = []
    for seed, groups in product(range(5), (16, 4)):
        cell = replace(base, seed=seed, groups=groups)
        runs += [replace(cell, **_SCOUTED, method=method) for method in PRIMARY]
        plain: tuple[Method, ...] = ("dense", "grouped", "flgc", "flgc-dup")
        runs += [replace(cell, method=method) for method in plain]
    return _once(runs)


def _once(runs: list[Settings]) -> list[Settings]:
    """Each run where it comes first: dense, for one, is one net for every G."""
    return list({run.id: run for run in runs}.values())


_GRIDS: Mapping[str, Callable[[], list[Settings]]] = {
    make.__name__: make
    for make in (quick, first, tune, learn, small, rule, rates, premise, power, resnet20, paper, gpu)
}


def grid(name: Grid, data: str | None = None) -> list[Settings]:
    """The settings of an experiment, in the order in which to run them.

    Args:
        name: which.
        data: runs it on another dataset than its own.
    """
    return [s if data is None else replace(s, data=data) for s in _GRIDS[name]()]
