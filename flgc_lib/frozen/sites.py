"""Which form each layer of a portable network takes, see `portable`: where it stands, and what each form would cost."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, pairwise

import torch
from torch import Tensor, fx, nn

from flgc_lib.frozen.forms import Group, is_identity
from flgc_lib.frozen.layer import FrozenConv2d, frozen_convolutions

MOST_BUCKETS = 3
FEW_GROUPS = 16  # with more of them, which are tiny, no buckets are searched for


@dataclass(eq=False)
class Site:
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
    producer: "Site | None" = None
    readers: list["Site"] = field(default_factory=list)
    buckets: tuple[int, ...] = ()
    dense: bool = False

    def parts(self) -> Iterator[list[Group]]:
        """The groups of each bucket."""
        start = 0
        for count in self.buckets:
            yield self.groups[start : start + count]
            start += count

    @property
    def ordered_for(self) -> "Site | None":
        """The grouped layer in whose order a dense one writes."""
        if self.dense and len(self.readers) == 1 and not self.readers[0].dense and len(self.readers[0].buckets) == 1:
            return self.readers[0]
        return None

    def wanted(self) -> list[Tensor]:
        """For each bucket, the channels that its groups read, padded with channel 0."""
        found = []
        for part in self.parts():
            index = part[0].inputs.new_zeros(len(part), widest(part), dtype=torch.int64)
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
        return [None if is_identity(index, width) else index for index in wanted]

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
        return sum(len(part) * most(part) for part in self.parts())

    def position(self) -> Tensor:
        """Where each output channel lies in what the convolutions write, int64 (N,)."""
        found = torch.arange(self.layer.plan.out_channels)
        if self.dense:
            return found
        start = 0
        for part in self.parts():
            for group in part:
                found[group.outputs.long()] = start + torch.arange(len(group.outputs))
                start += most(part)
        return found

    def price(self, gather_cost: float) -> float:
        """Multiply-accumulates for an image, those that moving values is worth included."""
        plan = self.layer.plan
        area = plan.kernel_size[0] * plan.kernel_size[1]
        if self.dense:
            return float(self.width * self.width_read * area * self.sizes[1])
        macs = sum(len(part) * widest(part) * most(part) for part in self.parts()) * area * self.sizes[1]
        moved = sum(len(index) for index in self.reads() if index is not None) * self.sizes[0]
        if len(self.buckets) > 1:
            moved += self.width * self.sizes[1]
        if not self.readers and not is_identity(self.position(), self.width):
            moved += plan.out_channels * self.sizes[1]
        return macs + gather_cost * moved


def choose_forms(network: nn.Sequential, x: Tensor, gather_cost: float) -> dict[str, Site]:
    """Chooses a form for each frozen layer of the one network in `network`.

    Args:
        network: it is not called, a copy is.
        x: see `portable`.
        gather_cost: see `portable`.

    Returns:
        The layers' sites by their names in `network`.
    """
    sites = {name: Site(layer, layer.parts()) for name, layer in frozen_convolutions(network)}
    _measure_maps(network, sites, x)
    if isinstance(network[0], fx.GraphModule):
        _link(network[0], {site.layer: site for site in sites.values()})
    for site in sites.values():
        _fill_buckets(site, gather_cost)
    _choose_dense(list(sites.values()), gather_cost)
    return sites


def _measure_maps(network: nn.Module, sites: Mapping[str, Site], x: Tensor) -> None:
    def note(site: Site, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        site.sizes = (inputs[0].shape[2:].numel(), output.shape[2:].numel())

    trial = copy.deepcopy(network)  # the network may count its calls
    for name, site in sites.items():
        trial.get_submodule(name).register_forward_hook(partial(note, site))
    trial(x)


def _link(network: fx.GraphModule, sites: Mapping[nn.Module, Site]) -> None:
    """Notes which layers are read by frozen layers alone, as their first argument, where each is called once."""
    nodes = network.graph.find_nodes(op="call_module")
    calls = {node: sites.get(network.get_submodule(str(node.target))) for node in nodes}
    times = Counter(calls.values())
    once = {node: site for node, site in calls.items() if site is not None and times[site] == 1}
    for node, site in once.items():
        private = all(user in once and user.args[0] is node and node not in user.args[1:] for user in node.users)
        if private and len(node.args) == 1:
            site.readers = [once[user] for user in node.users]
            for reader in site.readers:
                reader.producer = site


def _fill_buckets(site: Site, gather_cost: float) -> None:
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


def _choose_dense(sites: list[Site], gather_cost: float) -> None:
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


def widest(part: list[Group]) -> int:
    """Most channels that a group of a bucket reads."""
    return max(1, *(len(group.inputs) for group in part))


def most(part: list[Group]) -> int:
    """Most filters that a group of a bucket has."""
    return max(len(group.outputs) for group in part)
