"""Rewriting a captured graph: convolution, norm, residual sum and ReLU become one frozen layer.

Only what is certain is fused: a norm, sum or ReLU that is the one reader of what comes before it. The graph has no
views that are written to and no operation in place, so that an operation may move to where its result is read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx

from flgc_lib.frozen.constants import Constants
from flgc_lib.frozen.convert import Affine, Members, from_weight, norm_affine
from flgc_lib.frozen.layer import FrozenConv2d, place
from flgc_lib.frozen.orders import carry_orders
from flgc_lib.frozen.pooling import max_pool2d
from flgc_lib.frozen.window import Window

aten = torch.ops.aten


class Fused(NamedTuple):
    """What became of a graph's convolutions and what follows them."""

    convolutions: int
    norms: int
    sums: int
    relus: int
    left_alone: tuple[str, ...]
    """Convolutions that stayed what they were, each with the reason."""


def fuse(traced: fx.GraphModule, learned: Mapping[str, Members]) -> Fused:
    """Replaces the convolutions of a captured graph, in place, by frozen layers.

    Args:
        traced: from `capture`.
        learned: name of a weight in it -> the groups that its convolution has learned.
    """
    _erase_unread(traced.graph)  # whole branches, where a network computes what it does not return
    fusing = _Fusing(traced, learned)
    for node in list(traced.graph.nodes):
        if node.op == "call_function" and node.target in _CONVOLUTIONS:
            fusing.convolution(node)
    _erase_unread(traced.graph)
    carry_orders(traced)
    for node in traced.graph.find_nodes(op="call_function", target=aten.max_pool2d.default):
        node.target = max_pool2d
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    _drop_unused_tensors(traced)
    traced.recompile()
    return fusing.fused()


_CONVOLUTIONS = {aten.conv2d.default, aten.conv2d.padding, aten.convolution.default}
_OTHER_CONVOLUTIONS = {"conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"}


class _Chain:
    """A convolution and the operations behind it that become one layer with it."""

    def __init__(self, node: fx.Node) -> None:
        self.nodes = [node]
        self.norms: list[tuple[fx.Node, Affine]] = []
        self.residual: fx.Node | None = None
        self.relu = False

    def reader(self) -> fx.Node | None:
        """Who alone reads the result so far, None if several do."""
        users = self.nodes[-1].users
        return next(iter(users)) if len(users) == 1 else None


class _Fusing:
    def __init__(self, traced: fx.GraphModule, learned: Mapping[str, Members]) -> None:
        self.traced = traced
        self.learned = learned
        self.constants = Constants(traced)
        self.layers: dict[Any, str] = {}
        self.counted: set[fx.Node] = set()  # weights and biases of layers: several may have them, they count once
        self.counts = dict.fromkeys(("convolutions", "norms", "sums", "relus"), 0)
        self.reasons: list[str] = []

    def fused(self) -> Fused:
        for node in self.traced.graph.nodes:
            kind = node.target._opname if isinstance(node.target, torch._ops.OpOverload) else ""
            if kind in _OTHER_CONVOLUTIONS and node.target not in _CONVOLUTIONS:
                self.reasons.append(f"{node.name}: not an ordinary convolution of two dimensions")
        return Fused(**self.counts, left_alone=tuple(self.reasons))

    def convolution(self, node: fx.Node) -> None:
        given = arguments(node)
        weight, bias = (self.constants.tensor(given[name]) for name in ("weight", "bias"))
        if given.get("transposed"):
            reason = "transposed"
        elif cast(fx.Node, node.args[0]).meta["val"].ndim != 4:
            reason = "for one image without a batch"
        elif weight is None or (given["bias"] is not None and bias is None):
            reason = "its weights depend on the input"
        elif not weight.is_floating_point():
            reason = "not of floating-point numbers"
        elif set(node.all_input_nodes) - {given["input"], given["weight"], given["bias"]}:
            reason = "its window depends on the size of the input"
        elif (window := _window(given, weight)) is None:
            reason = "uneven padding"
        else:
            return self._replace(self._follow(node), weight, bias, window, int(given["groups"]))
        self.reasons.append(f"{node.name}: {reason}")

    def _follow(self, node: fx.Node) -> _Chain:
        chain = _Chain(node)
        while (found := self._affine(chain)) is not None:
            chain.norms.append((chain.nodes[-1], found))
        reader = chain.reader()
        if reader is not None and reader.target is aten.add.Tensor and reader.kwargs.get("alpha", 1) == 1:
            others = [a for a in reader.args if a is not chain.nodes[-1]]
            if len(others) == 1 and isinstance(others[0], fx.Node) and _same_form(others[0], node):
                chain.residual = others[0]
                chain.nodes.append(reader)
                reader = chain.reader()
        if reader is not None and reader.target is aten.relu.default:
            chain.relu = True
            chain.nodes.append(reader)
        return chain

    def _affine(self, chain: _Chain) -> Affine | None:
        """What the next operation does to each channel, if that is a multiplication or a sum; appends it."""
        reader, last = chain.reader(), chain.nodes[-1]
        if reader is None or reader.op != "call_function":
            return None
        channels = int(last.meta["val"].shape[1])
        if reader.target in (aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default):
            affine = self._norm(reader, last)
            if affine is None:
                return None
            chain.nodes.append(reader)
            if reader.target is aten._native_batch_norm_legit_no_training.default:
                chain.nodes.append(next(user for user in reader.users if user.args[1] == 0))
            return affine
        if reader.target in (aten.mul.Tensor, aten.add.Tensor) and reader.kwargs.get("alpha", 1) == 1:
            constants = [self.constants.value(a) for a in reader.args if a is not last]
            by_channel = _by_channel(constants[0], channels, last) if len(constants) == 1 else None
            if by_channel is not None:
                chain.nodes.append(reader)
                one, zero = torch.ones_like(by_channel), torch.zeros_like(by_channel)
                is_product = reader.target is aten.mul.Tensor
                return Affine(by_channel, zero, 0) if is_product else Affine(one, by_channel, 0)
        return None

    def _norm(self, reader: fx.Node, last: fx.Node) -> Affine | None:
        given = arguments(reader)
        if given.get("training") or given["input"] is not last:
            return None
        if len(reader.users) != 1 and "training" not in given:
            return None
        mean, variance = (self.constants.tensor(given[name]) for name in ("running_mean", "running_var"))
        weight, bias = (self.constants.tensor(given[name]) for name in ("weight", "bias"))
        known = [(given["weight"], weight), (given["bias"], bias)]
        if mean is None or variance is None or any(a is not None and t is None for a, t in known):
            return None
        return norm_affine(mean, variance, weight, bias, given["eps"])

    def _replace(self, chain: _Chain, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> None:
        graph, first, last = self.traced.graph, chain.nodes[0], chain.nodes[-1]
        given = arguments(first)
        source = cast(fx.Node, given["weight"])
        name = str(source.target) if source.op == "get_attr" else first.name
        key = (source, given["bias"], window, groups, chain.relu, *(reader for reader, _ in chain.norms))
        layer = None
        if key not in self.layers:
            affines = [affine for _, affine in chain.norms]
            layer = from_weight(weight, bias, window, self.learned.get(name, groups), affines, relu=chain.relu)
            own = {source: layer.weight.numel(), given["bias"]: layer.bias.numel()}
            repeated = sum(numbers for tensor, numbers in own.items() if tensor in self.counted)
            layer.plan = replace(layer.plan, folded=layer.plan.folded - repeated)
            self.counted |= own.keys() - {None}
        with graph.inserting_before(last):
            inputs = tuple(a for a in (first.args[0], chain.residual) if a is not None)
            new = graph.create_node("call_module", "", inputs, name="convolution")
        new.meta = last.meta
        last.replace_all_uses_with(new)
        for old in reversed(chain.nodes):
            for unused in list(old.users):
                graph.erase_node(unused)
            graph.erase_node(old)
        if layer is not None:
            _erase_unread(graph)
            owner = name.rpartition(".")[0] or "convolution" if source.op == "get_attr" else name
            self.layers[key] = self._free_name(owner)
            place(self.traced, self.layers[key], layer)
        new.target = self.layers[key]
        self.counts["convolutions"] += 1
        self.counts["norms"] += len(chain.norms)
        self.counts["sums"] += chain.residual is not None
        self.counts["relus"] += chain.relu

    def _free_name(self, name: str) -> str:
        """A place for the layer where neither another layer nor a tensor lies that is still read."""
        taken = {str(n.target) for n in self.traced.graph.nodes if n.op == "get_attr"} | set(self.layers.values())
        candidate, number = name, 1
        while any(f"{t}.".startswith(f"{candidate}.") or f"{candidate}.".startswith(f"{t}.") for t in taken):
            number += 1
            candidate = f"{name}_{number}"
        return candidate


def _erase_unread(graph: fx.Graph) -> None:
    """Erases tensors, and what is computed from tensors alone, that nobody reads any more."""
    for node in reversed(graph.nodes):
        if not node.users and not _is_needed(node) and node.op != "call_module":
            graph.erase_node(node)


def arguments(node: fx.Node) -> dict[str, Any]:
    """What an operation is given, by name and with defaults."""
    operation = node.target
    assert isinstance(operation, torch._ops.OpOverload)
    given = {}
    for position, argument in enumerate(operation._schema.arguments):
        if position < len(node.args):
            given[argument.name] = node.args[position]
        else:
            given[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return given


def _window(given: Mapping[str, Any], weight: Tensor) -> Window | None:
    stride, dilation = (_two(given[name]) for name in ("stride", "dilation"))
    kernel = _two(tuple(weight.shape[2:]))
    if given["padding"] == "valid":
        padding = (0, 0)
    elif given["padding"] == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(r % 2 for r in reach):
            return None
        padding = _two(tuple(r // 2 for r in reach))
    else:
        padding = _two(given["padding"])
    return Window(kernel, stride, padding, dilation)


def _two(value: Any) -> tuple[int, int]:
    first, second = value if len(value) == 2 else (value[0], value[0])
    return int(first), int(second)


def _same_form(one: fx.Node, other: fx.Node) -> bool:
    a, b = one.meta.get("val"), other.meta.get("val")
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.dtype != b.dtype:
        return False
    return [str(n) for n in a.shape] == [str(n) for n in b.shape]


def _by_channel(value: Any, channels: int, last: fx.Node) -> Tensor | None:
    """A constant as (C,) in float64, if it is one number a channel, or one for all."""
    if isinstance(value, int | float):
        return torch.full((channels,), float(value), dtype=torch.float64)
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim > 4:
        return None
    if value.ndim and value.dtype != last.meta["val"].dtype:
        return None
    shape = (1,) * (4 - value.ndim) + tuple(value.shape)
    if shape not in ((1, channels, 1, 1), (1, 1, 1, 1)):
        return None
    return value.double().flatten().expand(channels).clone()


def _is_needed(node: fx.Node) -> bool:
    """Whether a node has an effect beyond its result: it draws random numbers, or checks and returns nothing."""
    if node.op in ("placeholder", "output"):
        return True
    return isinstance(node.target, torch._ops.OpOverload) and (
        torch.Tag.nondeterministic_seeded in node.target.tags
        or node.target._schema.is_mutable
        or not node.target._schema.returns
    )


def _drop_unused_tensors(traced: fx.GraphModule) -> None:
    """Removes parameters and buffers that no operation reads any more."""
    read = {str(node.target) for node in traced.graph.nodes if node.op == "get_attr"}
    for prefix, module in list(traced.named_modules()):
        if isinstance(module, FrozenConv2d):
            continue
        for tensors in (module._parameters, module._buffers):
            for name in list(tensors):
                if f"{prefix}.{name}".lstrip(".") not in read:
                    del tensors[name]
