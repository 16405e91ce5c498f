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
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from flgc_lib.frozen.forms import Group
from flgc_lib.frozen.layer import FrozenConv2d, frozen_convolutions
from flgc_lib.frozen.network import FrozenNetwork

MOST_BUCKETS = 3
FEW_GROUPS = 16  # with more of them, which are tiny, no buckets are searched for


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


@dataclass(eq=False)
class _Site:
    """A frozen layer, where it stands in the network, and the form that is chosen for it.

    Attributes:
        layer: the layer.
        groups: its groups, in the order of the buckets.
        sizes: of its input and its output, pixels.
        producer: the layer that it reads, if only frozen layers read that one, so that its order is free.
        readers: the frozen layers that read it, if nothing else does.
        buckets: how many groups are in each.
        dense: whether the mask is burnt in.
    """

    layer: FrozenConv2d
    groups: list[Group]
    sizes: tuple[int, int] = (0, 0)
    producer: "_Site | None" = None
    readers: list["_Site"] = field(default_factory=list)
    buckets: tuple[int, ...] = ()
    dense: bool = False

    def parts(self) -> Iterator[list[Group]]:
        """The groups of each bucket."""
        start = 0
        for count in self.buckets:
            yield self.groups[start : start + count]
            start += count

    @property
    def ordered_for(self) -> "_Site | None":
        """The grouped layer in whose order a dense one writes."""
        if self.dense and len(self.readers) == 1 and not self.readers[0].dense and len(self.readers[0].buckets) == 1:
            return self.readers[0]
        return None

    def wanted(self) -> list[Tensor]:
        """For each bucket, the channels that its groups read, padded with channel 0."""
        found = []
        for part in self.parts():
            index = part[0].inputs.new_zeros(len(part), _widest(part), dtype=torch.int64)
            for row, group in zip(index, part, strict=True):
                row[: len(group.inputs)] = group.inputs
            found.append(index.flatten())
        return found

    def reads(self) -> list[Tensor | None]:
        """The same as channels of what the layer is given, or None where nothing has to move."""
        if self.producer is not None and self.producer.ordered_for is self:
            return [None]
        wanted, width = self.wanted(), self.width_read
        if self.producer is not None:
            wanted = [self.producer.position()[index] for index in wanted]
        return [None if _is_identity(index, width) else index for index in wanted]

    @property
    def width_read(self) -> int:
        """Channels of what it is given."""
        return self.layer.plan.in_channels if self.producer is None else self.producer.width

    @property
    def width(self) -> int:
        """Channels that its convolutions write."""
        if self.ordered_for is not None:
            return len(self.ordered_for.wanted()[0])
        if self.dense:
            return self.layer.plan.out_channels
        return sum(len(part) * _most(part) for part in self.parts())

    def position(self) -> Tensor:
        """Where each output channel lies in what the convolutions write, int64 (N,)."""
        found = torch.arange(self.layer.plan.out_channels)
        if self.dense:
            return found
        start = 0
        for part in self.parts():
            for group in part:
                found[group.outputs.long()] = start + torch.arange(len(group.outputs))
                start += _most(part)
        return found

    def price(self, gather_cost: float) -> float:
        """Multiply-accumulates for an image, those that moving values is worth included."""
        plan = self.layer.plan
        area = plan.kernel_size[0] * plan.kernel_size[1]
        if self.dense:
            return float(self.width * self.width_read * area * self.sizes[1])
        macs = sum(len(part) * _widest(part) * _most(part) for part in self.parts()) * area * self.sizes[1]
        moved = sum(len(index) for index in self.reads() if index is not None) * self.sizes[0]
        if len(self.buckets) > 1:
            moved += self.width * self.sizes[1]
        if not self.readers and not _is_identity(self.position(), self.width):
            moved += plan.out_channels * self.sizes[1]
        return macs + gather_cost * moved


@torch.no_grad()
def portable(frozen: FrozenNetwork, example_input: Tensor, *, gather_cost: float) -> nn.Module:
    """A copy of the network that computes the same in ordinary operations.

    Args:
        frozen: from `freeze`; it is not changed.
        example_input: a batch, from which the sizes of the maps are learned.
        gather_cost: multiply-accumulates in the time of which one value is moved. 0 leaves no multiplication by zero
            but that of padding; the larger it is, the more layers are dense.
    """
    network = nn.Sequential(copy.deepcopy(frozen.network))
    sites = {layer: _Site(layer, layer.parts()) for _, layer in frozen_convolutions(network)}
    _measure_maps(network, sites, example_input)
    _link(network, sites)
    for site in sites.values():
        _fill_buckets(site, gather_cost)
    _choose_dense(list(sites.values()), gather_cost)
    for name, layer in frozen_convolutions(network):
        network.set_submodule(name, _module(sites[layer]))
    return network.eval()


def _measure_maps(network: nn.Module, sites: dict[FrozenConv2d, _Site], x: Tensor) -> None:
    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, FrozenConv2d)
        sites[layer].sizes = (inputs[0].shape[2:].numel(), output.shape[2:].numel())

    hooks = [layer.register_forward_hook(note) for layer in sites]
    network(x[:1])
    for hook in hooks:
        hook.remove()


def _link(network: nn.Module, sites: dict[FrozenConv2d, _Site]) -> None:
    """Notes which layers are read by frozen layers alone, as their first argument."""
    for graph in (m for m in network.modules() if isinstance(m, fx.GraphModule)):
        calls = {node: graph.get_submodule(str(node.target)) for node in graph.graph.nodes if node.op == "call_module"}
        for node, layer in calls.items():
            readers = [calls.get(user) for user in node.users]
            private = all(
                isinstance(reader, FrozenConv2d) and user.args[0] is node and node not in user.args[1:]
                for user, reader in zip(node.users, readers, strict=True)
            )
            if isinstance(layer, FrozenConv2d) and private and len(node.args) == 1:
                sites[layer].readers = [sites[reader] for reader in readers if isinstance(reader, FrozenConv2d)]
                for reader in sites[layer].readers:
                    reader.producer = sites[layer]


def _fill_buckets(site: _Site, gather_cost: float) -> None:
    """Sorts groups by size and cuts them into buckets where that is cheapest."""
    count = len(site.groups)
    site.buckets = (count,)
    if len({group.weight.shape for group in site.groups}) == 1 or count > FEW_GROUPS:
        return
    site.groups.sort(key=lambda group: group.weight.shape[:2].numel(), reverse=True)
    cuts = [c for number in range(MOST_BUCKETS) for c in combinations(range(1, count), number)]

    def price(buckets: tuple[int, ...]) -> float:
        site.buckets = buckets
        return site.price(gather_cost)

    site.buckets = min((tuple(b - a for a, b in pairwise((0, *cut, count))) for cut in cuts), key=price)


def _choose_dense(sites: list[_Site], gather_cost: float) -> None:
    """Makes layers dense, one by one, as long as the whole gets cheaper."""
    changed = True
    while changed:
        changed = False
        for site in sites:
            if len(site.groups) == 1:
                continue
            near = [site, *([] if site.producer is None else [site.producer]), *site.readers]
            before = sum(other.price(gather_cost) for other in near)
            site.dense = not site.dense
            better = sum(other.price(gather_cost) for other in near) < before
            site.dense ^= not better
            changed |= better


def _module(site: _Site) -> PortableConv2d:
    relu = site.layer.plan.relu
    if site.dense:
        return PortableConv2d([_dense_convolution(site)], [None], None, relu=relu)
    convolutions = [_grouped_convolution(site, part) for part in site.parts()]
    position = site.position()
    writes = None if site.readers or _is_identity(position, site.width) else position
    return PortableConv2d(convolutions, site.reads(), writes, relu=relu)


def _dense_convolution(site: _Site) -> nn.Conv2d:
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


def _grouped_convolution(site: _Site, part: list[Group]) -> nn.Conv2d:
    shape = (len(part), _most(part), _widest(part), *site.layer.plan.kernel_size)
    weight, bias = part[0].weight.new_zeros(shape), part[0].bias.new_zeros(shape[:2])
    for g, group in enumerate(part):
        weight[g, : len(group.outputs), : len(group.inputs)] = group.weight
        bias[g, : len(group.outputs)] = group.bias
    return _convolution(site, weight.flatten(0, 1), bias.flatten(), groups=len(part))


def _convolution(site: _Site, weight: Tensor, bias: Tensor, *, groups: int) -> nn.Conv2d:
    plan = site.layer.plan
    convolution = nn.Conv2d(
        weight.shape[1] * groups, len(weight), plan.kernel_size, plan.stride, plan.padding, plan.dilation, groups
    )
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(bias, requires_grad=False)
    return convolution


def _widest(part: list[Group]) -> int:
    return max(1, *(len(group.inputs) for group in part))


def _most(part: list[Group]) -> int:
    return max(len(group.outputs) for group in part)


def _is_identity(index: Tensor, length: int) -> bool:
    return len(index) == length and bool((index == torch.arange(length)).all())
