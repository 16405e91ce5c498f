"""What in a captured graph does not depend on the inputs: weights, and what is computed from weights alone."""

from typing import Any

import torch
from torch import Tensor, fx


class Constants:
    """The values of a graph's nodes that are the same in every call.

    A weight that is standardised, normalised or masked in every call, or taken from a larger tensor, is one of them.

    Args:
        traced: a captured network in eval mode.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        self._traced = traced
        self._known: dict[fx.Node, Any] = {}

    @torch.no_grad()
    def value(self, node: object) -> Any:
        """The value of a node, or None if it depends on the inputs; anything but a node is its own value."""
        if not isinstance(node, fx.Node):
            return node
        if node not in self._known:
            self._known[node] = self._compute(node)
        return self._known[node]

    def tensor(self, node: object) -> Tensor | None:
        """The same, if it is a tensor."""
        value = self.value(node)
        return value if isinstance(value, Tensor) else None

    def _compute(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            value: Any = self._traced
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value
        if node.op != "call_function" or not _is_repeatable(node):
            return None
        if any(self.value(argument) is None for argument in node.all_input_nodes):
            return None
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self.value)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _is_repeatable(node: fx.Node) -> bool:
    operation = node.target
    if isinstance(operation, torch._ops.OpOverload):
        return not operation._schema.is_mutable and torch.Tag.nondeterministic_seeded not in operation.tags
    return getattr(operation, "__module__", "") in ("_operator", "math")
