"""What frozen layers hand on to each other: maps in the order of their groups."""

from typing import cast

import torch
from torch import fx

from flgc_lib.frozen.convert import read_order, release_order
from flgc_lib.frozen.layer import FrozenConv2d

_BY_PIXEL = {"relu", "relu6", "hardtanh", "clamp", "silu", "gelu", "hardswish", "hardsigmoid", "leaky_relu", "elu"}
_BY_PIXEL |= {"sigmoid", "tanh", "mish", "softplus", "dropout", "max_pool2d", "avg_pool2d"}
"""They treat all channels alike, so that a channel order passes through."""


def carry_orders(traced: fx.GraphModule) -> None:
    """Lets each layer write group by group where every reader is a frozen layer, which then reads in that order."""
    callers: dict[object, int] = {}
    for node in traced.graph.nodes:
        callers[node.target] = callers.get(node.target, 0) + 1
    for node in traced.graph.nodes:
        layer = _layer(traced, node)
        if layer is None or len(node.args) > 1:
            continue
        links = [node]  # the layer's result, also as seen through what goes pixel by pixel
        readers: list[fx.Node] = []
        for link in links:
            for user in link.users:
                (links if _goes_by_pixel(user) else readers).append(user)
        layers = [_layer(traced, reader) for reader in readers]
        if layers and all(
            m is not None and callers[r.target] == 1 and r.args[0] in links and not set(r.args[1:]) & set(links)
            for m, r in zip(layers, readers, strict=True)
        ):
            if callers[node.target] > 1:
                continue
            position = release_order(layer)
            for reader in layers:
                read_order(cast(FrozenConv2d, reader), position)


def _goes_by_pixel(node: fx.Node) -> bool:
    operation = node.target
    if not isinstance(operation, torch._ops.OpOverload) or operation._opname not in _BY_PIXEL:
        return False
    return len(node.all_input_nodes) == 1 and node.meta["val"].ndim == 4


def _layer(traced: fx.GraphModule, node: fx.Node) -> FrozenConv2d | None:
    module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, FrozenConv2d) else None
