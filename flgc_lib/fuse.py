"""Rewriting a network's graph: convolution, norm, residual sum and ReLU become one frozen layer.

The rewriting is by torch.fx. Only what is certain is fused: a norm, sum or ReLU that is the one reader of what comes
before it. What torch.fx cannot trace is searched for parts that it can.
"""

import inspect
import operator
from dataclasses import replace
from typing import cast

import torch
from torch import fx, nn
from torch.nn import functional as F

from flgc_lib.convert import from_convolution, is_convertible, read_order, release_order
from flgc_lib.frozen_layer import FrozenConv2d
from flgc_lib.layers import FLGConv2d, ShuffledConv2d

POINTWISE = nn.ReLU | nn.ReLU6 | nn.SiLU | nn.GELU | nn.Hardswish | nn.LeakyReLU | nn.ELU | nn.Sigmoid
"""They treat all channels alike, so that a channel order passes through."""


class _Tracer(fx.Tracer):
    """Keeps learned and shuffled convolutions whole, as torch.fx keeps those of torch.nn."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FLGConv2d | ShuffledConv2d) or super().is_leaf_module(m, module_qualified_name)


def fuse(model: nn.Module) -> nn.Module:
    """Replaces all convolutions of `model`, which is used up, by frozen ones.

    Returns:
        An `fx.GraphModule` if the network can be traced as a whole; else the model with its traceable parts replaced.
    """
    if is_convertible(model):
        return from_convolution(model)
    traced = _trace(model)
    if traced is None:
        for name, child in model.named_children():
            setattr(model, name, fuse(child))
        return model
    _make_functional(traced)
    _fuse_convolutions(traced)
    _carry_orders(traced)
    _reuse_memory(traced)
    traced.graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced


def split_fused_norms(model: nn.Module) -> None:
    """Takes timm's norm-and-activation layers apart, in place: a plain norm can be folded and a ReLU fused."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d) and isinstance(getattr(child, "act", None), nn.Module):
            norm = nn.BatchNorm2d(child.num_features, child.eps, child.momentum, child.affine).to(child.running_mean)
            norm.load_state_dict(child.state_dict(), strict=False)
            after = [layer for layer in (getattr(child, "drop", None), child.act) if isinstance(layer, nn.Module)]
            setattr(model, name, nn.Sequential(norm.eval(), *after))
        else:
            split_fused_norms(child)


def _trace(model: nn.Module) -> fx.GraphModule | None:
    required = [p for p in _parameters(model) if p.default is p.empty]
    if len(required) != 1 or isinstance(model, nn.ModuleList | nn.ModuleDict):
        return None
    # Arguments with a default keep it: a tracer's stand-in is never None, and would take the wrong branch.
    defaults = {p.name: p.default for p in _parameters(model) if p.default is not p.empty}
    try:
        return fx.GraphModule(model, _Tracer().trace(model, defaults))
    except Exception:  # torch.fx runs the network's own code, which may raise anything on a stand-in
        return None


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(model.forward).parameters.values())


def _make_functional(traced: fx.GraphModule) -> None:
    """Drops what does nothing in eval mode, and turns in-place operations into ones that return their result."""
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        module = _module(traced, node)
        if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
            continue
        in_place = True
        if module is not None:
            in_place = bool(getattr(module, "inplace", False))
            if in_place:
                setattr(module, "inplace", False)  # noqa: B010, the type of modules knows no such attribute
        elif node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        elif node.target in (operator.iadd, operator.imul, operator.isub):
            node.target = {operator.iadd: operator.add, operator.imul: operator.mul, operator.isub: operator.sub}[
                node.target
            ]
        elif node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__"):
            node.target = node.target[:-1]
        elif node.target is torch.relu_:
            node.target = torch.relu
        else:
            in_place = False
        if in_place:  # whoever reads the overwritten tensor later, meant the result
            node.args[0].replace_all_uses_with(node, lambda user, node=node: order.get(user, -1) > order[node])


def _fuse_convolutions(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        conv = _module(traced, node)
        if conv is None or not is_convertible(conv):
            continue
        chain, residual = [node], None
        norm: nn.BatchNorm2d | None = None
        reader = _sole_reader(chain[-1])
        if reader is not None and _is_foldable(_module(traced, reader)):
            norm = cast(nn.BatchNorm2d, _module(traced, reader))
            chain.append(reader)
            reader = _sole_reader(reader)
        if reader is not None and _calls(reader, (operator.add, torch.add), "add"):
            others = [a for a in reader.args if isinstance(a, fx.Node) and a is not chain[-1]]
            if len(others) == 1 and len(reader.args) == 2 and not reader.kwargs:
                residual = others[0]
                chain.append(reader)
                reader = _sole_reader(reader)
        relu = reader is not None and (
            _calls(reader, (F.relu, torch.relu), "relu") or isinstance(_module(traced, reader), nn.ReLU)
        )
        if relu:
            chain.append(reader)
        layer = from_convolution(conv, norm, relu=relu)
        name = node.target if len(_callers(traced, node.target)) == 1 else f"{node.target}_{node.name}"
        traced.add_submodule(name, layer)
        with traced.graph.inserting_before(chain[-1]):
            new = traced.graph.call_module(name, tuple(a for a in (node.args[0], residual) if a is not None))
        chain[-1].replace_all_uses_with(new)
        for old in reversed(chain):
            traced.graph.erase_node(old)


def _carry_orders(traced: fx.GraphModule) -> None:
    """Lets each layer write group by group where every reader is a frozen layer, which then reads in that order."""
    for node in traced.graph.nodes:
        layer = _module(traced, node)
        if not isinstance(layer, FrozenConv2d) or len(node.args) > 1:
            continue
        links = [node]  # the layer's result, also as seen through pointwise layers
        readers: list[fx.Node] = []
        for link in links:
            for user in link.users:
                (links if isinstance(_module(traced, user), POINTWISE) else readers).append(user)
        modules = [_module(traced, reader) for reader in readers]
        if modules and all(
            isinstance(m, FrozenConv2d) and r.args[0] in links and not set(r.args[1:]) & set(links)
            for m, r in zip(modules, readers, strict=True)
        ):
            position = release_order(layer)
            for module in modules:
                read_order(cast(FrozenConv2d, module), position)


def _reuse_memory(traced: fx.GraphModule) -> None:
    """Lets a sum take the place of its residual, if that is a frozen layer's result that nobody reads afterwards.

    All its other readers must be frozen layers too: they make tensors of their own, others might make a view.
    """
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for node in traced.graph.nodes:
        layer = _module(traced, node)
        if isinstance(layer, FrozenConv2d) and len(node.args) > 1:
            makers = [node.args[1], *node.args[1].users]
            fresh = all(isinstance(_module(traced, m), FrozenConv2d) for m in makers)
            last = all(order[reader] <= order[node] for reader in node.args[1].users)
            layer.plan = replace(layer.plan, overwrite=fresh and last and node.args[0] is not node.args[1])


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _callers(traced: fx.GraphModule, target: str) -> list[fx.Node]:
    return [node for node in traced.graph.nodes if node.op == "call_module" and node.target == target]


def _sole_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _calls(node: fx.Node, functions: tuple[object, ...], method: str) -> bool:
    if node.op == "call_method":
        return node.target == method
    return node.op == "call_function" and node.target in functions


def _is_foldable(module: nn.Module | None) -> bool:
    return type(module) is nn.BatchNorm2d and module.running_mean is not None
