"""A frozen network as plain data: a small plan beside the state dict, loadable without running anyone's code.

The plan lists the steps of the traced network. Loading accepts only steps that compute on tensors.
"""

import inspect
import operator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from flgc_lib.frozen.forms import LayerPlan
from flgc_lib.frozen.layer import FrozenConv2d

Plan = dict[str, Any]

_HOMES = {"operator": operator, "functional": F, "torch": torch}
_OPERATORS = {"add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pow", "getitem", "matmul"}
_OPERATORS |= {"eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_"}
_TORCH_ONLY = {"cat", "stack", "chunk", "_assert", "conv2d"}
_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "T"}


def describe(network: fx.GraphModule) -> Plan:
    """Writes down a frozen network.

    Raises:
        ValueError: if it holds a step or a layer that is more than tensors and numbers.
    """
    steps = []
    layers: dict[str, tuple[str, dict[str, Any]]] = {}
    tensors = []
    for node in network.graph.nodes:
        target = node.target
        if node.op == "call_module":
            layers[target] = _describe_layer(target, network.get_submodule(target))
        elif node.op == "call_function":
            target = _function_name(target)
        elif node.op == "get_attr":
            tensors.append(target)
        steps.append((node.name, node.op, target, _plain(node.args), _plain(node.kwargs)))
    return {"steps": steps, "layers": layers, "tensors": tensors}


def rebuild(plan: Plan, state: dict[str, Tensor]) -> fx.GraphModule:
    """The network that `describe` wrote down, with its weights.

    Raises:
        ValueError: if the plan names a step or a layer that is not allowed.
    """
    root = nn.Module()
    for name, (kind, settings) in plan["layers"].items():
        owner, leaf = _place(root, name)
        owner.add_module(leaf, _build_layer(kind, settings))
    for name in plan["tensors"]:
        owner, leaf = _place(root, name)
        owner.register_buffer(leaf, torch.empty_like(state[name]))
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for name, op, target, args, kwargs in plan["steps"]:
        if op == "call_function":
            target = _function(target)
        elif op == "call_method" and (target.startswith("_") or not hasattr(Tensor, target)):
            raise ValueError(f"the plan calls the method {target!r}, which is not one of a tensor's")
        nodes[name] = graph.create_node(op, target, _linked(args, nodes), _linked(kwargs, nodes), name)
    network = fx.GraphModule(root, graph)
    network.load_state_dict(state)
    return network.eval()


def _describe_layer(name: str, layer: nn.Module) -> tuple[str, dict[str, Any]]:
    if isinstance(layer, FrozenConv2d):
        return "FrozenConv2d", asdict(layer.plan) | {"dtype": str(layer.weight.dtype).removeprefix("torch.")}
    kind = type(layer)
    if getattr(nn, kind.__name__, None) is not kind:
        raise ValueError(f"{name} is a {kind.__name__}, which is not a layer of torch.nn: this network cannot be saved")
    settings = {}
    for setting in inspect.signature(kind).parameters:
        if setting not in ("device", "dtype") and hasattr(layer, setting):
            settings[setting] = getattr(layer, setting)
    if "bias" in settings:  # asked for as a yes or no
        settings["bias"] = isinstance(settings["bias"], Tensor) or settings["bias"] is True
    _plain(settings)
    return kind.__name__, settings


def _build_layer(kind: str, settings: dict[str, Any]) -> nn.Module:
    if kind == "FrozenConv2d":
        settings = dict(settings)
        dtype = getattr(torch, settings.pop("dtype"))
        return FrozenConv2d(LayerPlan(**settings)).to(dtype)
    layer = getattr(nn, kind, None)
    if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
        raise ValueError(f"the plan names a layer {kind!r}, which torch.nn does not have")
    return layer(**settings)


def _place(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds what has this name, made if there is none, and the name's last part."""
    *parents, leaf = name.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, leaf


def _function_name(function: Any) -> str:
    name = function.__name__
    if function is getattr:
        return "getattr"
    for prefix, home in _HOMES.items():
        if getattr(home, name, None) is function and _function_allowed(f"{prefix}.{name}"):
            return f"{prefix}.{name}"
    raise ValueError(f"the network calls {function}, which a saved plan cannot hold: this network cannot be saved")


def _function_allowed(name: str) -> bool:
    home, _, leaf = name.partition(".")
    if home == "operator":
        return leaf in _OPERATORS
    if home == "functional":
        return hasattr(F, leaf) and callable(getattr(F, leaf)) and not leaf.startswith("_")
    return home == "torch" and (leaf in _TORCH_ONLY or (not leaf.startswith("_") and hasattr(Tensor, leaf)))


def _function(name: str) -> Any:
    if name == "getattr":
        return _tensor_attribute
    if not _function_allowed(name):
        raise ValueError(f"the plan calls {name!r}, which does not compute on tensors")
    home, _, leaf = name.partition(".")
    return getattr(_HOMES[home], leaf)


def _tensor_attribute(value: Any, name: str) -> Any:
    if name not in _ATTRIBUTES:
        raise ValueError(f"the plan reads the attribute {name!r}; allowed are {', '.join(sorted(_ATTRIBUTES))}")
    return getattr(value, name)


def _plain(value: Any) -> Any:
    """Nodes become {"node": name}; what is neither number, text, slice nor a collection of them is refused."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, slice):
        return {"slice": tuple(_plain(v) for v in (value.start, value.stop, value.step))}
    if isinstance(value, tuple | list):  # torch.fx has kinds of its own
        return tuple(map(_plain, value)) if isinstance(value, tuple) else list(map(_plain, value))
    if isinstance(value, dict):
        return {"dict": {key: _plain(v) for key, v in value.items()}}
    if value is Ellipsis:
        return {"ellipsis": True}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"the network holds the constant {value!r}, which a saved plan cannot hold")


def _linked(value: Any, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_linked(v, nodes) for v in value)
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind == "node":
            return nodes[content]
        if kind == "slice":
            return slice(*_linked(content, nodes))
        if kind == "dict":
            return {key: _linked(v, nodes) for key, v in content.items()}
        return Ellipsis
    return value
