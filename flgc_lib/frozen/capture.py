"""What a network computes, written down by torch.export as a graph of PyTorch's own operations on tensors.

Views, keywords, shapes, attributes and Python's control flow are PyTorch's business here: the graph holds what was
really computed for an example. Sizes stay free where the network lets them; what it checks about them becomes part of
the signature, what it checks about values stays in the graph. What torch.export cannot follow (a branch that depends on
values, outputs that are no tensors) cannot be captured, and neither can what is more than a function of the inputs:
hooks, buffers that change.
"""

import io
import logging
import operator
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental import _config as fx_config
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from flgc_lib.files import first_line
from flgc_lib.frozen.functional import make_functional
from flgc_lib.frozen.layer import place
from flgc_lib.frozen.signature import Signature

aten = torch.ops.aten
_SIZE_IN_GUARD = re.compile(r"L((?:\['\w+'\]|\[\d+\])+)\.size\(\)\[(\d+)\]")
_CHECKS = {"_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size", "_assert_scalar"}
_INITIALISED = {
    aten.empty.memory_format: aten.zeros.default,
    aten.empty_like.default: aten.zeros_like.default,
    aten.new_empty.default: aten.new_zeros.default,
}
"""A network writes to empty memory before it reads it; a file must not ask for memory as it is found."""


class CannotCaptureError(Exception):
    """Why a network cannot be captured, as the end of a sentence."""


@dataclass
class Capture:
    """A captured network.

    Attributes:
        graph: takes the inputs and returns what the network does; parameters and buffers have their old names.
        signature: what it takes.
    """

    graph: fx.GraphModule
    signature: Signature


@torch.no_grad()
def capture(model: nn.Module, example: Sequence[Any]) -> Capture:
    """Captures what `model`, which is in eval mode, computes for inputs like `example`.

    Raises:
        CannotCaptureError: if that is more than torch.export, or a graph of tensor operations, can hold.
    """
    if not all(isinstance(x, Tensor) for x in example):
        raise CannotCaptureError("its inputs are more than tensors")
    hooked = [name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    if hooked:
        raise CannotCaptureError(f"{hooked[0] or 'the network'} has a hook, which runs only in its own module")
    reason = ""
    for free in (_all_free, _batch_free, None):
        try:
            program = _export(model, example, free)
            signature = _signature(program, example)
            return Capture(_graph(program), signature)
        except CannotCaptureError:
            raise
        except Exception as error:  # torch.export runs the network's own code, which may raise anything
            reason = f"torch.export: {type(error).__name__}: {first_line(error)[:200]}"
    raise CannotCaptureError(reason)


def _all_free(x: Tensor) -> dict[int, object]:
    return {d: Dim.AUTO for d in range(x.ndim) if d != 1 or x.ndim == 2}


def _batch_free(x: Tensor) -> dict[int, object]:
    return {0: Dim.AUTO} if x.ndim else {}


def _export(model: nn.Module, example: Sequence[Tensor], free: Callable[[Tensor], dict[int, object]] | None) -> Any:
    shapes = None if free is None else pytree.tree_map_only(Tensor, free, tuple(example))
    with _quiet(), fx_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined] # else sizes of 0 and 1 would be cases of their own
        program = torch.export.export(model, tuple(example), dynamic_shapes=_by_name(model, shapes), strict=False)
        if not make_functional(program.graph):
            program = program.run_decompositions({})
    return program


def _by_name(model: nn.Module, shapes: tuple[Any, ...] | None) -> Any:
    """Torch.export wants the shapes of *args in a tuple of their own."""
    code = getattr(model.forward, "__code__", None)
    variadic = code is not None and bool(code.co_flags & 0x04) and code.co_argcount <= 1
    return shapes if shapes is None or not variadic else (shapes,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch.export's remarks about sizes, which the report has in words, and unfinished graphs off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch._export", "torch.export", "torch.fx", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with redirect_stderr(io.StringIO()):  # where it prints what it had when it gave up
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _signature(program: ExportedProgram, example: Sequence[Tensor]) -> Signature:
    """What the program takes; its guards rewritten for `Signature`."""
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    names = program.graph_signature.user_inputs
    if len(names) != len(example) or not all(name in placeholders for name in names):
        raise CannotCaptureError("its inputs are more than tensors")
    sizes = [
        tuple(n if isinstance(n, int) else None for n in placeholders[str(name)].meta["val"].shape) for name in names
    ]
    arguments = [str(name) for name in names]
    guards = []
    for guard in getattr(program, "_guards_code", None) or []:
        text = _SIZE_IN_GUARD.sub(partial(_size_name, arguments, len(example)), guard)
        if not _fixes(text, sizes):
            guards.append(text)
    return Signature(tuple(x.dtype for x in example), tuple(sizes), tuple(guards))


def _size_name(arguments: list[str], count: int, match: re.Match[str]) -> str:
    keys = re.findall(r"\['(\w+)'\]|\[(\d+)\]", match[1])
    name, position = keys[-1]
    index = int(position) if position else arguments.index(name)
    if index >= count:
        raise CannotCaptureError(f"torch.export assumes {match[0]}, which is no size of an input")
    return f"input{index}_{match[2]}"


def _fixes(guard: str, sizes: list[tuple[int | None, ...]]) -> bool:
    """Whether a guard says no more than a fixed size in `sizes`."""
    match = re.fullmatch(r"input(\d+)_(\d+) == \d+", guard)
    return match is not None and sizes[int(match[1])][int(match[2])] is not None


def _graph(program: ExportedProgram) -> fx.GraphModule:
    """The program as a module that computes by itself, its tensors at their old names."""
    signature = program.graph_signature
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in signature.output_specs):
        raise CannotCaptureError("it changes its inputs or its own buffers when it is called")
    specs = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
    root, graph = nn.Module(), fx.Graph()
    copies: dict[fx.Node, Any] = {}
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name in signature.user_inputs:
            copies[node] = graph.placeholder(f"input{list(signature.user_inputs).index(node.name)}")
            copies[node].meta = node.meta
        elif node.users:
            spec = specs.get(node.name)
            if spec is None or spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                raise CannotCaptureError(f"it holds {node.name}, which is no tensor")
            place(root, str(spec.target), _tensor(program, str(spec.target)))
            copies[node] = graph.get_attr(str(spec.target))
            copies[node].meta = node.meta
    leaves = _copy_steps(program.graph_module, graph, copies)
    graph.output(_plain(graph, pytree.tree_unflatten(leaves, program.call_spec.out_spec)))
    return fx.GraphModule(root, graph)


def _copy_steps(source: fx.GraphModule, graph: fx.Graph, copies: dict[fx.Node, Any]) -> list[Any]:
    """Copies the operations of a graph to the end of another, and returns its outputs there.

    Args:
        source: the graph.
        graph: where its operations go.
        copies: what its inputs are there.
    """
    for node in source.graph.nodes:
        if node.op == "output":
            return list(fx.map_arg(node.args[0], copies.__getitem__))
        if node.op != "call_function" or _is_a_check(node):
            continue
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            copies[node] = _copy_inner(source, node, graph, copies)
        elif node.target is operator.getitem and isinstance(copies[node.args[0]], list):
            copies[node] = copies[node.args[0]][node.args[1]]
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].target = _INITIALISED.get(node.target, node.target)
    raise CannotCaptureError("it has no outputs")


def _copy_inner(source: fx.GraphModule, node: fx.Node, graph: fx.Graph, copies: dict[fx.Node, Any]) -> list[Any]:
    """Copies what runs in a block of its own, such as `with torch.no_grad()`, which is the same without the block."""
    name = str(node.target)
    position = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}.get(name)
    if position is None or (name == "wrap_with_autocast" and node.args[2]):
        raise CannotCaptureError(f"it uses {name}, which is no operation on tensors")
    inner = source.get_submodule(str(cast(fx.Node, node.args[position]).target))
    assert isinstance(inner, fx.GraphModule)
    given = fx.map_arg(node.args[position + 1 :], copies.__getitem__)
    return _copy_steps(inner, graph, dict(zip(inner.graph.find_nodes(op="placeholder"), given, strict=True)))


def _is_a_check(node: fx.Node) -> bool:
    """Whether the node only checks types and sizes, as the signature does too; checks of values stay in the graph."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target._opname not in _CHECKS:
        return False
    return not any(free_unbacked_symbols(given.meta.get("val")) for given in node.all_input_nodes)


def _tensor(program: ExportedProgram, name: str) -> Tensor:
    value = program.state_dict.get(name, program.constants.get(name))
    if not isinstance(value, Tensor):
        raise CannotCaptureError(f"it holds {name}, which is no tensor")
    return value


def _plain(graph: fx.Graph, value: Any) -> Any:
    """The outputs as the network arranges them, in what a graph can hold."""
    if isinstance(value, OrderedDict):
        return graph.call_function(OrderedDict, ([(key, _plain(graph, v)) for key, v in value.items()],))
    if type(value) in (tuple, list):
        return type(value)(_plain(graph, v) for v in value)
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {key: _plain(graph, v) for key, v in value.items()}
    if value is None or isinstance(value, fx.Node | bool | int | float | str):
        return value
    raise CannotCaptureError(f"it returns a {type(value).__name__}")
