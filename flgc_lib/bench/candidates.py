"""What `flgc bench` compares: dense networks as people run them, masks and groups as PyTorch runs them, frozen ones."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse as fold_norms
from torch.nn import functional as F

from flgc_lib.experiment.assignments import Kind, array_name
from flgc_lib.experiment.records import read_groups
from flgc_lib.files import first_line
from flgc_lib.frozen import freeze
from flgc_lib.frozen.engines import Exporter, load
from flgc_lib.frozen.layer import frozen_convolutions
from flgc_lib.layers import FLGConv2d
from flgc_lib.methods import Method
from flgc_lib.resnet import Stem, resnet50

BASELINE = "dense eager"
ENGINES = {
    ("onnx", "fp32"): "onnxruntime",
    ("onnx", "int8"): "onnxruntime int8",
    ("openvino", "fp32"): "openvino",
    ("openvino", "bf16"): "openvino bf16",
    ("openvino", "int8"): "openvino int8",
}
"""What candidates that run in another engine, and precision, are called."""


@dataclass
class Candidate:
    """Something to time.

    Attributes:
        name: what it is called in the records.
        groups: G, 1 for dense.
        assignment: where the groups come from: "", "contiguous", "random" or the id of a run.
        counted: the network whose multiply-accumulates it computes.
        make: builds what is run.
        run: after `prepare`, computes the batch once.
    """

    name: str
    groups: int
    assignment: str
    counted: nn.Module
    make: Callable[[], Callable[[], object]]
    run: Callable[[], object] = field(init=False, repr=False)

    def prepare(self) -> bool:
        """Builds and runs the candidate once; False, with a word why, if it is not available here."""
        try:
            self.run = self.make()
            self.run()
        except Exception as error:  # a missing package, a missing compiler: the other candidates go on
            print(f"{self.name} is left out: {type(error).__name__}: {first_line(error)}")
            return False
        return True


def build(
    stem: Stem, groups: tuple[int, ...], x: Tensor, results: Path, trained_run: str | None
) -> Iterator[Candidate]:
    """All candidates for a batch `x`, the baseline first.

    Networks are drawn at random, each from the same seed: time depends on shapes and groups, not on weights.
    """
    dense = network(stem, "dense")
    for name, make in (
        (BASELINE, _eager),
        ("dense channels_last", _channels_last),
        ("dense torch.compile", _compiled),
        ("dense frozen", _frozen),
        ("dense frozen bf16", _frozen_in_bf16),
    ):
        yield Candidate(name, 1, "", dense, partial(make, dense, x))
    yield from _in_engines("dense", dense, x, 1, "")
    for g in groups:
        grouped = network(stem, "grouped", g)
        random = network(stem, "flgc", g)
        equal = network(stem, "equal", g)
        copies = network(stem, "flgc-dup", g)
        depthwise = network(stem, "flgc", g, depthwise=True)
        for name, model, make in (
            ("flgc masked", random, _masked),
            ("flgc frozen, PyTorch", random, _frozen_without_kernel),
            ("flgc frozen", random, _frozen),
            ("flgc frozen bf16", random, _frozen_in_bf16),
            ("flgc-dup frozen", copies, _frozen),
            ("flgc-dup frozen bf16", copies, _frozen_in_bf16),
            ("depthwise frozen", depthwise, _frozen),
            ("equal frozen", equal, _frozen),
            ("equal frozen bf16", equal, _frozen_in_bf16),
            ("grouped eager", grouped, _eager),
            ("grouped frozen", grouped, _frozen),
        ):
            assignment = "contiguous" if model is grouped else "random"
            yield Candidate(name, g, assignment, model, partial(make, model, x))
        yield from _in_engines("flgc", random, x, g, "random")
        yield from _in_engines("equal", equal, x, g, "random")
        yield from _in_engines("grouped", grouped, x, g, "contiguous")
        if trained_run is not None and f"-g{g}-" in trained_run:
            trained = with_groups_of(network(stem, "flgc", g), results, trained_run)
            yield Candidate("trained frozen", g, trained_run, trained, partial(_frozen, trained, x))


@torch.no_grad()
def with_groups_of(model: nn.Module, results: Path, run: str) -> nn.Module:
    """Gives a network the groups that a recorded run ended with; layers that it did not learn keep theirs.

    Copies are part of the record for some layers only, and are left out.
    """
    recorded = read_groups(results, run)

    def take_over(logits: Tensor, name: str, kind: Kind) -> None:
        last = torch.from_numpy(recorded[array_name(name, kind)][-1]).long()
        logits.copy_(F.one_hot(last, logits.shape[1]))

    for name, layer in model.named_modules():
        if isinstance(layer, FLGConv2d) and array_name(name, "channel_group") in recorded:
            take_over(layer.input_logits, name, "channel_group")
            take_over(layer.filter_logits, name, "filter_group")
    return model


def network(stem: Stem, method: Method, groups: int = 1, *, depthwise: bool = False) -> nn.Module:
    """A ResNet-50 in eval mode, always from the same seed."""
    torch.manual_seed(0)
    return resnet50(stem=stem, method=method, groups=groups, where="all", depthwise=depthwise).eval()


def _eager(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return partial(fold_norms(model), x)


def _channels_last(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return partial(fold_norms(model).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))


def _compiled(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return partial(torch.compile(fold_norms(model)), x)


def _masked(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return partial(model, x)


def _frozen(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return partial(freeze(model, x), x)


def _frozen_in_bf16(model: nn.Module, x: Tensor) -> Callable[[], object]:
    return partial(freeze(model, x, precision="bf16"), x)


def _frozen_without_kernel(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """Every layer as one grouped convolution on padded groups: what PyTorch's own operations offer."""
    frozen = freeze(model)
    for _, layer in frozen_convolutions(frozen):
        layer.use("equal")
    return partial(frozen, x)


def _in_engines(name: str, model: nn.Module, x: Tensor, groups: int, assignment: str) -> Iterator[Candidate]:
    """The network in every engine and precision; its ranges for int8 are those of the batch itself."""
    exporter = cache(lambda: Exporter(freeze(model), x, calibration=x))

    def make(engine: str, precision: str) -> Callable[[], object]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ("network.onnx" if engine == "onnx" else "network.xml")
            exporter().write(path, engine, precision)
            return partial(load(path, x.shape), x)

    for (engine, precision), called in ENGINES.items():
        yield Candidate(f"{name} {called}", groups, assignment, model, partial(make, engine, precision))
