"""A frozen network in which layers that follow one another are computed by one call of machine code.

The network stays what it is: its layers may be changed, hooked or replaced. Before each call the chains look whether
they are still what they were made from; if a layer has to be called by itself, it is.
"""

import operator
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module

from flgc_lib.frozen.forms import kernel
from flgc_lib.frozen.layer import FrozenConv2d, is_floats, state
from flgc_lib.grouping import is_watched

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(torch_module, f"_global{name}") for name in _HOOKS[:3]]
_MOST_PLANS = 64
"""Sizes, forms and numbers of threads that a chain remembers."""


class Chained:
    """A captured network whose runs of frozen layers are chains; it computes the same, bit by bit.

    Args:
        network: as `freeze` has rewritten it.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        self.network = network
        self.code = network._code
        self.chains: list[Chain] = []
        self.modules = _places(network)
        self.compute = self._rewritten()

    def __call__(self, *inputs: Any) -> Any:
        """What the network computes."""
        return self.network(*inputs) if _has_hooks(self.network) else self.compute(*inputs)

    def is_for(self, network: nn.Module) -> bool:
        """Whether this is the network that the chains were made from, and it has the same layers in the same order."""
        same = self.network is network and self.network._code is self.code
        return same and all([home.get(name) is layer for home, name, layer in self.modules])

    def _rewritten(self) -> fx.GraphModule:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        run: list[fx.Node] = []
        for node in self.network.graph.nodes:
            if self._is_layer(node):
                run.append(node)
                continue
            if run and node.op not in ("get_attr", "placeholder"):
                self._chain(graph, run, copies)
                run = []
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if node.op in ("get_attr", "call_module"):
                copies[node].target = f"network.{node.target}"
        root = nn.Module()
        root.network, root.chains = self.network, nn.ModuleList(self.chains)
        module = fx.GraphModule(root, graph)
        module.network = self.network  # not copies of its parts, which could be replaced
        return module

    def _chain(self, graph: fx.Graph, run: Sequence[fx.Node], copies: dict[fx.Node, fx.Node]) -> None:
        """Adds a call of all layers of a run to the graph."""
        given = list(dict.fromkeys(arg for node in run for arg in node.all_input_nodes if arg not in run))
        numbers = {node: number for number, node in enumerate([*given, *run])}
        results = [node for node in run if not set(node.users) <= set(run)]
        layers = [self.network.get_submodule(str(node.target)) for node in run]
        sources = [tuple(numbers[cast(fx.Node, arg)] for arg in node.args) for node in run]
        chain = Chain(cast(list[FrozenConv2d], layers), len(given), sources, [numbers[node] for node in results])
        self.chains.append(chain)
        call = graph.call_module(f"chains.{len(self.chains) - 1}", tuple(copies[node] for node in given))
        for place, node in enumerate(results):
            copies[node] = graph.call_function(operator.getitem, (call, place))

    def _is_layer(self, node: fx.Node) -> bool:
        plain = node.op == "call_module" and not node.kwargs and all(isinstance(arg, fx.Node) for arg in node.args)
        return plain and type(self.network.get_submodule(str(node.target))) is FrozenConv2d


class Chain(nn.Module):
    """Frozen layers that follow one another; those that the kernel computes are computed together.

    Values are numbered: first the inputs, then the result of each layer.

    Args:
        layers: in the order of their computation.
        inputs: how many tensors come from outside.
        sources: by layer, the values that it is called with.
        results: the values that are returned.
    """

    def __init__(
        self,
        layers: Sequence[FrozenConv2d],
        inputs: int,
        sources: Sequence[tuple[int, ...]],
        results: Sequence[int],
    ) -> None:
        super().__init__()
        self.layers = layers  # a list: they belong to the network
        self.inputs = inputs
        self.sources = sources
        self.results = results
        self._tensors = [(layer._parameters, layer._buffers) for layer in layers]
        self._plans: dict[Any, list[_Part]] = {}
        self._planned_for: list[int] = []

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """The results, of which the kernel computes as many together as it can."""
        parts = self._plan(inputs) if self._may_run(inputs) else None
        values = dict(enumerate(inputs))
        for part in self._one_by_one() if parts is None else parts:
            values.update(zip(part.results, part.compute(*[values[source] for source in part.sources]), strict=True))
        return [values[result] for result in self.results]

    def _may_run(self, inputs: Sequence[Tensor]) -> bool:
        """Whether the kernel, which checks nothing, may be let loose on tensors of that kind."""
        if kernel is None or is_watched() or any(_GLOBAL_HOOKS):
            return False
        if not all(type(x) is Tensor and is_floats(x) for x in inputs):
            return False
        weights = [tensor for own, _ in self._tensors for tensor in own.values()] if torch.is_grad_enabled() else []
        wanted = any([weight.requires_grad for weight in weights])  # type: ignore[union-attr]
        return not wanted and not any(map(_has_hooks, self.layers))

    def _plan(self, inputs: Sequence[Tensor]) -> "list[_Part] | None":
        """What to call one after the other; None if the layers have to say what is wrong with the inputs."""
        if self._state() != self._planned_for:
            self._plans.clear()
        forms = tuple([layer._plan.form for layer in self.layers])
        key = (forms, kernel.threads_to_use(), *[x.shape for x in inputs])
        found = self._plans.get(key)
        if found is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            found = self._new_plan([x.shape for x in inputs])
            if found is not None:
                self._plans[key] = found
                self._planned_for = self._state()
        return found

    def _state(self) -> list[int]:
        """What changes when a layer has to be looked at again."""
        tensors = [tensor for own, index in self._tensors for tensor in (*own.values(), *index.values())]
        made = [layer._prepared.get(layer._plan.form) for layer in self.layers]
        return [*state(tensors), *map(id, made)]  # type: ignore[arg-type]

    def _new_plan(self, shapes: Sequence[torch.Size]) -> "list[_Part] | None":
        sizes: list[Sequence[int]] = list(shapes)
        for layer, sources in zip(self.layers, self.sources, strict=True):
            size = layer.output_size(*[sizes[source] for source in sources])
            if size is None or not is_floats(layer.weight):
                return None
            sizes.append(size)
        parts: list[_Part] = []
        computations = [layer.computation() for layer in self.layers]
        batches = [size[0] for size in sizes[self.inputs :]]  # a layer's input and residual have its output's batch
        of_kernel = [isinstance(computation, kernel.IndirectConvolution) for computation in computations]
        kinds = list(zip(of_kernel, batches, strict=True))
        for (native, _), numbers in groupby(range(len(self.layers)), kinds.__getitem__):
            if native:
                parts.append(self._together(list(numbers), computations, sizes))
            else:
                parts += [self._alone(number) for number in numbers]
        return parts

    def _together(self, numbers: list[int], computations: Sequence[Any], sizes: Sequence[Sequence[int]]) -> "_Part":
        own = [self.inputs + number for number in numbers]
        given = list(dict.fromkeys(s for number in numbers for s in self.sources[number] if s not in own))
        others = [source for number, s in enumerate(self.sources) if number not in numbers for source in s]
        wanted = {*self.results, *others}
        results = [value for value in own if value in wanted]
        name = {value: n for n, value in enumerate([*given, *own])}
        steps = []
        for number in numbers:
            x, *residual = (name[source] for source in self.sources[number])
            steps.append(kernel.Step(computations[number], x, residual[0] if residual else None))
        program = kernel.Program(steps, [sizes[value] for value in name], [name[value] for value in results])
        return _Part(program, given, results)

    def _alone(self, number: int) -> "_Part":
        layer = self.layers[number]
        return _Part(lambda *inputs: [layer(*inputs)], self.sources[number], [self.inputs + number])

    def _one_by_one(self) -> "list[_Part]":
        return [self._alone(number) for number in range(len(self.layers))]


class _Part(NamedTuple):
    """Something to call, with which values, for which results."""

    compute: Callable[..., list[Tensor]]
    sources: Sequence[int]
    results: Sequence[int]


def _places(network: nn.Module) -> list[tuple[dict[str, nn.Module | None], str, nn.Module]]:
    """Where the network's layers hang: the dictionary of their home, their name in it, and the layer."""
    return [(home._modules, name, part) for home in network.modules() for name, part in home.named_children()]


def _has_hooks(module: nn.Module) -> bool:
    own = module.__dict__
    return "forward" in own or any([own[name] for name in _HOOKS])
