"""A captured network as plain data, and back: a list of steps, in numbers, names and lists, as JSON can hold.

Reading one trusts nothing: every name is looked up in a list, every step may read only what came before it, every
size and index is compared with the tensors. What is wrong is answered with a ValueError.
"""

import keyword
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor, fx, nn

from flgc_lib.frozen.forms import LayerPlan
from flgc_lib.frozen.layer import FrozenConv2d, place
from flgc_lib.frozen.operations import check_numbers, operation, operation_name

Plan = dict[str, Any]

LARGEST = 2**31
"""No size, stride or index of a network is larger; PyTorch's own sign for "to the end" is."""
_TO_THE_END = {2**63 - 1, -(2**63)}
_READ_BY_NAME = {"self", "torch", "device", "inf", "nan", "NoneType", "getattr"}
_KINDS = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format"}


def describe(network: fx.GraphModule) -> Plan:
    """Writes down a captured network.

    Raises:
        ValueError: if it holds an operation, a layer or a constant that a file cannot hold.
    """
    steps = []
    layers: dict[str, dict[str, Any]] = {}
    for node in network.graph.nodes:
        target = str(node.target)
        if node.op == "call_module":
            layer = network.get_submodule(target)
            if not isinstance(layer, FrozenConv2d):
                raise ValueError(f"{target} is a {type(layer).__name__}: this network cannot be saved")
            layers[target] = asdict(layer.plan)
        elif node.op == "call_function":
            target = operation_name(node.target)
        steps.append([node.name, node.op, target, to_plain(node.args), to_plain(dict(node.kwargs))])
    return {"steps": steps, "layers": layers, "parameters": [name for name, _ in network.named_parameters()]}


def rebuild(plan: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: int) -> fx.GraphModule:
    """The network that `describe` wrote down.

    Args:
        plan: from a file.
        tensors: its parameters and buffers.
        inputs: how many tensors it takes.

    Raises:
        ValueError: if something in the plan is not allowed, or does not fit the tensors.
    """
    parameters = set(_texts(plan["parameters"]))
    root = nn.Module()
    layers: dict[str, FrozenConv2d] = {}
    for name, content in _mapping(plan["layers"]).items():
        place(root, _dotted(name), layers.setdefault(name, _layer(name, _mapping(content), tensors)))
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for step in plan["steps"]:
        name, kind, target, args, kwargs = step
        args, kwargs = from_plain(args, nodes), from_plain(kwargs, nodes)
        if not isinstance(args, tuple) or not isinstance(kwargs, dict) or not all(map(_is_word, kwargs)):
            raise ValueError(f"the step {str(name)[:80]!r} has no arguments")
        if "output" in nodes:
            raise ValueError("the plan goes on after its output")
        if kind == "get_attr":
            value = tensors[_dotted(target)]
            if target.rpartition(".")[0] in layers:
                raise ValueError(f"the plan reads {target!r} from a frozen layer")
            place(root, target, nn.Parameter(value, requires_grad=False) if target in parameters else value)
        nodes[_new_name(name, nodes)] = _step(graph, name, kind, target, args, kwargs, layers)
    if "output" not in nodes or len(graph.find_nodes(op="placeholder")) != inputs:
        raise ValueError(f"the plan does not lead from {inputs} inputs to an output")
    return fx.GraphModule(root, graph)


def _step(graph: fx.Graph, name: str, kind: str, target: Any, args: Any, kwargs: Any, layers: Any) -> fx.Node:
    function = target
    if kind == "call_function":
        function = operation(target)
        check_numbers(function, args, kwargs)
    elif kind == "call_module":
        if target not in layers or kwargs or not 1 <= len(args) <= 2 or not all(isinstance(a, fx.Node) for a in args):
            raise ValueError(f"the step {name!r} calls no layer on one or two tensors")
    elif kind == "placeholder":
        function = _identifier(target)
        if args or kwargs or graph.find_nodes(op="placeholder", target=function):
            raise ValueError(f"the input {target!r} is given twice, or with a value")
    elif kind == "output":
        if name != "output" or target != "output" or kwargs or len(args) != 1:
            raise ValueError("the plan's output is not one value")
    elif kind != "get_attr":
        raise ValueError(f"the plan has a step of the kind {str(kind)[:80]!r}")
    return graph.create_node(kind, function, args, kwargs, name)


def _layer(name: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FrozenConv2d:
    told = {key: value for key, value in content.items() if key != "overwrite"}  # older files have it, of no use now
    if told.keys() != {field.name for field in fields(LayerPlan)}:
        raise ValueError(f"the plan of layer {name[:80]!r} is not complete")
    numbers: Any = {key: _tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    plan = LayerPlan(**numbers)
    own = {part: tensors[f"{name}.{part}"] for part in ("weight", "bias", "inputs", "outputs")}
    return FrozenConv2d.from_tensors(plan, own)


def _tuple(values: list[Any]) -> tuple[int, ...]:
    if not all(type(value) is int for value in values):
        raise ValueError(f"{str(values)[:80]} are not whole numbers")
    return tuple(values)


def to_plain(value: Any) -> Any:
    """Nodes become {"node": name}, tuples {"tuple": […]}; what is not plain is refused.

    Raises:
        ValueError: for anything but numbers, texts, types and collections of them.
    """
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list):  # torch.fx has kinds of its own
        return [to_plain(v) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [to_plain(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": {key: to_plain(v) for key, v in value.items()}}
    if type(value) in _KINDS:
        return {_KINDS[type(value)]: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ValueError(f"the network holds the constant {value!r}, which a file cannot hold: it cannot be saved")


def from_plain(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    """What `to_plain` wrote down.

    Raises:
        ValueError: if it is not of that form.
    """
    if isinstance(value, list):
        return [from_plain(v, nodes) for v in value]
    if isinstance(value, dict):
        if len(value) != 1:
            raise ValueError(f"{str(value)[:80]} is no value of a plan")
        ((kind, content),) = value.items()
        return _special(kind, content, nodes)
    if type(value) is int and abs(value) > LARGEST and value not in _TO_THE_END:
        raise ValueError(f"{value} is larger than any number of a network")
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise ValueError(f"{str(value)[:80]} is no value of a plan")


def _special(kind: str, content: Any, nodes: Mapping[str, fx.Node]) -> Any:
    if kind == "node" and isinstance(content, str) and content in nodes:
        return nodes[content]
    if kind == "tuple" and isinstance(content, list):
        return tuple(from_plain(v, nodes) for v in content)
    if kind == "dict" and isinstance(content, dict):
        return {key: from_plain(v, nodes) for key, v in content.items()}
    if kind == "device" and content in ("cpu", "meta", "cuda", "cuda:0"):
        return torch.device(content)
    for wanted, name in _KINDS.items():
        found = getattr(torch, content, None) if kind == name and isinstance(content, str) else None
        if isinstance(found, wanted):
            return found
    raise ValueError(f"{str({kind: content})[:80]} is no value of a plan, or names a step that does not come before it")


def _is_word(name: Any) -> bool:
    return isinstance(name, str) and name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _identifier(name: Any) -> str:
    """A name that hides nothing which the code of a graph reads by name."""
    if not _is_word(name) or name.startswith("__") or name in _READ_BY_NAME:
        raise ValueError(f"{str(name)[:80]!r} is not allowed as a name")
    return str(name)


def _dotted(name: Any) -> str:
    """A name such as layer1.0.weight or 層.conv-1.bias: a graph's code reads each part as an attribute, or in quotes.

    Python takes letters of any language, but reads some as others, which are refused.
    """
    parts = name.split(".") if isinstance(name, str) else [""]
    for part in parts:
        fits = re.fullmatch(r"(?!__)[\w /:+-]+", part) and not keyword.iskeyword(part)
        if not fits or not unicodedata.is_normalized("NFKC", part):
            raise ValueError(f"{part[:80]!r} is not allowed as a name")
    return str(name)


def _new_name(name: Any, nodes: Mapping[str, fx.Node]) -> str:
    if _identifier(name) in nodes:
        raise ValueError(f"two steps have the name {name!r}")
    return str(name)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{str(value)[:80]} is no table of names")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{str(value)[:80]} is no list of texts")
    return value
