"""A frozen network in operations that every engine has: convolutions, sums, and gathers with constant indices.

A group's channels must lie together for an engine's grouped convolution, and moving them takes time too, in some
engines more than the products that groups save. Three forms compete for each layer, by one price: multiply-accumulates,
and `gather_cost` of them for every value that is moved.

| form | what it does |
| --- | --- |
| grouped | a gather, and one convolution of as many groups; unequal ones are padded to the largest |
| in buckets | groups of similar size together, a convolution for each bucket: less padding, and a concatenation |
| dense | the mask burnt in: multiplies zeros and moves nothing, and writes in the order of a grouped reader |

Gathers vanish where the order can be carried on: behind a layer that only frozen layers read, and in front of a grouped
layer that alone reads a dense one. A channel that several groups read is gathered, or written, as often.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flgc_lib.frozen.check import Probe, call, difference
from flgc_lib.frozen.forms import Group, is_identity
from flgc_lib.frozen.network import FrozenNetwork
from flgc_lib.frozen.precision import back_to_fp32
from flgc_lib.frozen.sites import Site, choose_forms, most, widest


class PortableConv2d(nn.Module):
    """relu(write(conv(read(x))) + residual), each step but the convolution only if it is needed.

    Args:
        convolutions: one for each bucket, what they compute is concatenated.
        reads: for each, the channels of x that it takes, int64, or None for x as it is.
        writes: where each output channel lies in what was concatenated, int64 (N,), or None.
        relu: whether a ReLU follows.
    """

    writes: Tensor | None

    def __init__(
        self, convolutions: list[nn.Conv2d], reads: list[Tensor | None], writes: Tensor | None, *, relu: bool
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.relu = relu
        self.register_buffer("writes", writes)
        for i, index in enumerate(reads):
            self.register_buffer(f"reads{i}", index)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """What the frozen layer computes."""
        parts = []
        for i, convolution in enumerate(self.convolutions):
            index = self.get_buffer(f"reads{i}") if getattr(self, f"reads{i}") is not None else None
            parts.append(convolution(x if index is None else x.index_select(1, index)))
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if self.writes is not None:
            out = out.index_select(1, self.writes)
        if residual is not None:
            out = out + residual
        return F.relu(out) if self.relu else out


@torch.no_grad()
def portable(frozen: FrozenNetwork, example_input: Tensor, *, gather_cost: float) -> nn.Module:
    """A copy of the network that computes the same in ordinary operations.

    Args:
        frozen: from `freeze`; it is not changed.
        example_input: a batch, from which the sizes of the maps are learned.
        gather_cost: multiply-accumulates in the time of which one value is moved. 0 leaves no multiplication by zero
            but that of padding; the larger it is, the more layers are dense.

    Raises:
        ValueError: if the frozen network does not take the example, or the copy computes something else for it.
    """
    reference = copy.deepcopy(frozen)  # a network may count its calls, so that only copies are called
    back_to_fp32(reference)
    expected = Probe("the example", (example_input,), call(reference, (example_input,)), reference)
    network = nn.Sequential(copy.deepcopy(frozen.network))
    for name, site in choose_forms(network, example_input, gather_cost).items():
        network.set_submodule(name, _module(site))
    problem = difference(copy.deepcopy(network.eval()), expected)
    if problem:
        raise ValueError(f"in ordinary operations, {problem}: this network can only be used as it was frozen")
    return network


def _module(site: Site) -> PortableConv2d:
    relu = site.layer.plan.relu
    if site.dense:
        return PortableConv2d([_dense_convolution(site)], [None], None, relu=relu)
    convolutions = [_grouped_convolution(site, part) for part in site.parts()]
    position = site.position()
    writes = None if site.readers or is_identity(position, site.width) else position
    return PortableConv2d(convolutions, site.reads(), writes, relu=relu)


def _dense_convolution(site: Site) -> nn.Conv2d:
    plan = site.layer.plan
    position = torch.arange(plan.in_channels) if site.producer is None else site.producer.position()
    weight = site.layer.weight.new_zeros(plan.out_channels, site.width_read, *plan.kernel_size)
    bias = site.layer.bias.new_zeros(plan.out_channels)
    for group in site.groups:
        rows = group.outputs.long()
        weight[rows[:, None], position[group.inputs.long()]] = group.weight
        bias[rows] = group.bias
    if site.ordered_for is not None:
        rows = site.ordered_for.wanted()[0]
        weight, bias = weight[rows], bias[rows]
    return _convolution(site, weight, bias, groups=1)


def _grouped_convolution(site: Site, part: list[Group]) -> nn.Conv2d:
    shape = (len(part), most(part), widest(part), *site.layer.plan.kernel_size)
    weight, bias = part[0].weight.new_zeros(shape), part[0].bias.new_zeros(shape[:2])
    for g, group in enumerate(part):
        weight[g, : len(group.outputs), : len(group.inputs)] = group.weight
        bias[g, : len(group.outputs)] = group.bias
    return _convolution(site, weight.flatten(0, 1), bias.flatten(), groups=len(part))


def _convolution(site: Site, weight: Tensor, bias: Tensor, *, groups: int) -> nn.Conv2d:
    plan = site.layer.plan
    convolution = nn.Conv2d(
        weight.shape[1] * groups, len(weight), plan.kernel_size, plan.stride, plan.padding, plan.dilation, groups
    )
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(bias, requires_grad=False)
    return convolution
