"""What `flgc bench --device cuda` compares: dense and grouped networks in PyTorch's own operations.

Groups are convolutions of cuDNN behind gathers (`frozen.portable`), which torch.compile fuses with what stands before
them. Not measured yet: its only try was cut off (docs/performance.md).
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse as fold_norms

from flgc_lib.bench.candidates import Candidate, network
from flgc_lib.frozen import freeze
from flgc_lib.frozen.portable import portable
from flgc_lib.methods import Method
from flgc_lib.resnet import Stem

DEAR_GATHERS = 150.0
"""Price of a gather at which many pointwise layers are dense; the other network has none but grouped ones."""


def build(stem: Stem, groups: tuple[int, ...], x: Tensor) -> Iterator[Candidate]:
    """All candidates for a batch `x` on the GPU, the baseline first."""
    dense = network(stem, "dense")
    yield from _ways("dense", dense, partial(fold_norms, dense), x, 1, "")
    kinds: tuple[tuple[Method, str], ...] = (("grouped", "contiguous"), ("equal", "random"), ("flgc", "random"))
    for g in groups:
        for method, assignment in kinds:
            model = network(stem, method, g)
            for name, cost in ((method, 0.0), (f"{method}, few gathers", DEAR_GATHERS)):
                if cost == 0 or method != "grouped":
                    frozen = partial(_without_index, model, x.cpu(), cost)
                    yield from _ways(name, model, frozen, x, g, assignment)


def _ways(
    name: str, counted: nn.Module, make: Callable[[], nn.Module], x: Tensor, groups: int, assignment: str
) -> Iterator[Candidate]:
    """The ways to run one network."""

    def run(dtype: torch.dtype, layout: torch.memory_format, way: str) -> Callable[[], object]:
        model = make().to(x.device, dtype).to(memory_format=layout)
        images = x.to(dtype).contiguous(memory_format=layout)
        if way == "compile":
            return partial(_then_wait, partial(torch.compile(model, mode="max-autotune"), images))
        return partial(_then_wait, _graphed(model, images) if way == "graph" else partial(model, images))

    planes, pixels = torch.contiguous_format, torch.channels_last
    for called, dtype, layout, way in (
        ("eager", torch.float32, planes, "eager"),
        ("channels_last", torch.float32, pixels, "eager"),
        ("channels_last bf16", torch.bfloat16, pixels, "eager"),
        ("CUDA graph bf16", torch.bfloat16, pixels, "graph"),
        ("torch.compile bf16", torch.bfloat16, pixels, "compile"),
    ):
        yield Candidate(f"{name} {called}", groups, assignment, counted, partial(run, dtype, layout, way))


def _without_index(model: nn.Module, example: Tensor, gather_cost: float) -> nn.Module:
    return portable(freeze(model), example, gather_cost=gather_cost)


def _then_wait(run: Callable[[], object]) -> None:
    """The GPU works while Python goes on."""
    run()
    torch.cuda.synchronize()


def _graphed(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """The network as one launch instead of one for each operation."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as PyTorch's documentation asks for before a capture
        for _ in range(3):
            model(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(images)
    return graph.replay
