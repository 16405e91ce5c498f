"""What a captured network takes: how many tensors, of which types and sizes, and which of the sizes are free.

torch.export follows one example. What it assumed on the way about the sizes ("the height is a multiple of 32") holds
for some other sizes and not for others, so each new size is compared with the assumptions before the network sees it.
"""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

MOST_GUARD_CHARACTERS = 2000
_ARITHMETIC: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type, Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_OTHER_PARTS = (ast.UnaryOp, ast.USub, ast.BoolOp, ast.And, ast.Or, ast.Not, ast.Load, ast.operator, ast.cmpop)
_SIZE = re.compile(r"input(\d+)_(\d+)")

Dim = int | None
"""A size, or None for a free one."""
_OfSizes = Callable[[Sequence[Sequence[int]]], int]
"""A number, or whether something holds, given the sizes of the inputs."""


@dataclass(frozen=True)
class Signature:
    """The tensors that a captured network takes.

    Raises:
        ValueError: when made, if a guard is more than a comparison of sums, products, quotients and remainders.
    """

    dtypes: tuple[torch.dtype, ...]
    """Of each input."""
    sizes: tuple[tuple[Dim, ...], ...]
    """Of each input; None where any size is taken that the guards allow."""
    guards: tuple[str, ...] = ()
    """Conditions such as "input0_2 % 32 == 0", for dimension 2 of input 0."""
    _conditions: tuple[_OfSizes, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Makes functions of the guards, so that a call need not read them."""
        object.__setattr__(self, "_conditions", tuple(_function(_parse(g, self.sizes)) for g in self.guards))

    def __reduce__(self) -> tuple[type["Signature"], tuple[object, ...]]:
        """Functions cannot be pickled; they are made again."""
        return Signature, (self.dtypes, self.sizes, self.guards)

    def complaint(self, inputs: Sequence[object]) -> str | None:
        """What is wrong with these inputs, as the end of a sentence; None if nothing is."""
        if len(inputs) != len(self.sizes):
            return f"it was frozen for {len(self.sizes)} inputs and got {len(inputs)}"
        for position, (x, dtype, size) in enumerate(zip(inputs, self.dtypes, self.sizes, strict=True)):
            if not isinstance(x, Tensor):
                return f"input {position} is {type(x).__name__}, not a tensor"
            if x.dtype != dtype:
                return f"input {position} is {_name(x.dtype)}, it was frozen for {_name(dtype)}"
            if len(size) != x.ndim or any(n is not None and n != m for n, m in zip(size, x.shape, strict=True)):
                return f"input {position} has the size {tuple(x.shape)}, it was frozen for {describe_size(size)}"
        given = [tuple(x.shape) for x in inputs]  # type: ignore[attr-defined]
        for guard, condition in zip(self.guards, self._conditions, strict=True):
            if not _holds(condition, given):
                return f"sizes {', '.join(map(str, given))} are not such that {guard}"
        return None

    def with_fixed_maps(self, example: Sequence[Tensor]) -> "Signature":
        """The same with only the first dimension of each input free."""
        sizes = tuple((size[0], *x.shape[1:]) if size else size for size, x in zip(self.sizes, example, strict=True))
        return replace(self, sizes=sizes)


def describe_size(size: Sequence[Dim]) -> str:
    """A size in words, with "any" for free dimensions."""
    return "(" + ", ".join("any" if n is None else str(n) for n in size) + ("," if len(size) == 1 else "") + ")"


def holds(guard: str, inputs: Sequence[Tensor]) -> bool:
    """Whether the sizes of `inputs` meet a condition of a signature."""
    sizes = [tuple(x.shape) for x in inputs]
    return _holds(_function(_parse(guard, sizes)), sizes)


def _holds(condition: _OfSizes, sizes: Sequence[Sequence[int]]) -> bool:
    try:
        return bool(condition(sizes))
    except ZeroDivisionError:
        return False


def _parse(guard: str, sizes: Sequence[Sequence[Dim]]) -> ast.expr:
    """The syntax tree of a guard, after a look at every part of it."""
    problem = ValueError(f"the condition {guard[:80]!r} on input sizes is more than a comparison of whole numbers")
    if len(guard) > MOST_GUARD_CHARACTERS:
        raise problem
    try:
        tree = ast.parse(guard, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise problem from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            match = _SIZE.fullmatch(node.id)
            if not match or int(match[1]) >= len(sizes) or int(match[2]) >= len(sizes[int(match[1])]):
                raise problem
        elif isinstance(node, ast.Constant):
            if type(node.value) is not int:
                raise problem
        elif isinstance(node, ast.BinOp):
            if type(node.op) not in _ARITHMETIC:
                raise problem
        elif isinstance(node, ast.Compare):
            if len(node.ops) != 1 or type(node.ops[0]) not in _COMPARISONS:
                raise problem
        elif not isinstance(node, _OTHER_PARTS):
            raise problem
    return tree


def _function(node: ast.expr) -> _OfSizes:
    """What the syntax tree of a guard, which `_parse` has looked at, computes."""
    if isinstance(node, ast.Constant):
        number = int(node.value)  # type: ignore[arg-type]
        return lambda sizes: number
    if isinstance(node, ast.Name):
        position, dimension = map(int, _SIZE.fullmatch(node.id).groups())  # type: ignore[union-attr]
        return lambda sizes: sizes[position][dimension]
    if isinstance(node, ast.BinOp):
        arithmetic, left, right = _ARITHMETIC[type(node.op)], _function(node.left), _function(node.right)
        return lambda sizes: arithmetic(left(sizes), right(sizes))
    if isinstance(node, ast.Compare):
        compare, left, right = _COMPARISONS[type(node.ops[0])], _function(node.left), _function(node.comparators[0])
        return lambda sizes: compare(left(sizes), right(sizes))
    if isinstance(node, ast.BoolOp):
        combine, parts = all if isinstance(node.op, ast.And) else any, [_function(part) for part in node.values]
        return lambda sizes: combine([part(sizes) for part in parts])
    assert isinstance(node, ast.UnaryOp)
    operand, negate = _function(node.operand), not isinstance(node.op, ast.Not)
    return lambda sizes: -operand(sizes) if negate else not operand(sizes)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
