"""From operations in place to ones that return their result, where that is certain to mean the same.

It is where nobody else sees the overwritten memory: the tensor was made by an operation that makes new memory, and
whoever reads it makes new memory too. Everything else (views of it, the network's inputs) is left to torch.export,
whose own way is sure and several times slower.
"""

from functools import partial
from typing import Any, cast

import torch
from torch import fx

_NAMES = """
adaptive_avg_pool2d add avg_pool2d batch_norm bmm cat clone conv1d conv2d conv3d conv_transpose2d convolution div elu
exp gelu group_norm hardsigmoid hardswish hardtanh layer_norm leaky_relu linear matmul max_pool2d mean mish mm mul neg
pow relu relu6 rsqrt rsub scaled_dot_product_attention sigmoid silu softmax sqrt stack sub sum tanh upsample_bilinear2d
upsample_nearest2d where add_ clamp clamp_ div_ elu_ hardsigmoid_ hardswish_ hardtanh_ leaky_relu_ mish_ mul_ relu_
relu6_ sigmoid_ silu_ sub_ tanh_
"""
_NEW_MEMORY = frozenset(_NAMES.split())
"""Operations that never return a view of what they are given; those that end in _ return it itself."""


def make_functional(graph: fx.Graph) -> bool:
    """Rewrites operations in place.

    Returns:
        Whether none is left; if False, nothing was changed.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    in_place = [node for node in graph.nodes if _mutates(node)]
    if not all(_has_twin(node) and _is_private(node, order) for node in in_place):
        return False
    for node in in_place:
        node.target = getattr(getattr(torch.ops.aten, node.target._opname[:-1]), node.target._overloadname)
        later = partial(_comes_after, order, order[node])
        cast(fx.Node, node.args[0]).replace_all_uses_with(node, later)
    return True


def _comes_after(order: dict[fx.Node, int], position: int, user: fx.Node) -> bool:
    return order[user] > position


def _mutates(node: Any) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _is_private(node: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Whether no view sees the overwritten memory change: whoever makes one does it when all changes are over."""
    names: list[Any] = [node.args[0]]  # of the same memory: operations in place return what they are given
    for name in names:
        if not isinstance(name, fx.Node) or not _makes_new_memory(name):
            return False
        names += [n for n in name.args[:1] if _mutates(name) and n not in names]
        names += [n for n in name.users if _mutates(n) and n.args[0] is name and n not in names]
    last_change = max(order[name] for name in names if _mutates(name))
    return all(_makes_new_memory(user) or order[user] > last_change for name in names for user in name.users)


def _makes_new_memory(node: fx.Node) -> bool:
    operation = node.target
    if node.op != "call_function" or not isinstance(operation, torch._ops.OpOverload):
        return False
    return operation.namespace == "aten" and operation._opname in _NEW_MEMORY


def _has_twin(node: fx.Node) -> bool:
    """Whether there is an operation of the same name that returns a result of the same type and size."""
    operation = node.target
    assert isinstance(operation, torch._ops.OpOverload)
    name = operation._opname
    twin = getattr(torch.ops.aten, name[:-1], None) if operation.namespace == "aten" and name.endswith("_") else None
    if twin is None or operation._overloadname not in twin.overloads():
        return False
    before, *others = (n.meta.get("val") for n in node.args if isinstance(n, fx.Node))
    return isinstance(before, torch.Tensor) and all(
        isinstance(other, torch.Tensor) and other.dtype == before.dtype and other.ndim <= before.ndim
        for other in others
    )
