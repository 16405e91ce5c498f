"""Pairs of channels in bf16: an element of 32 bits holds what two channels have at the same pixel.

A plane of pairs has the addresses, rows and gaps of a plane of float32, so that the tile walks over it in the same way
and does two multiply-adds with each instruction. Sums stay float32. Numbers closer to 0 than 2⁻¹²⁶ count as 0.
"""

from collections.abc import Sequence
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from flgc_lib.frozen.kernel.loops import PAIR, TASK, VIEW, multiplying, pointer, stamp
from flgc_lib.frozen.kernel.microkernel import FLOAT, INT32, INT64, TileWriter, lane_numbers, spread, tiles
from flgc_lib.frozen.kernel.shapes import LANES

llvmlite.binding.initialize_native_asmparser()  # LLVM reads the tiles' one instruction in assembly

_PAIRS = ir.VectorType(INT32, LANES)
_NEVER = 2**31 - 1
"""The number of a lane that is not read."""


def _undefined(kind: Any) -> ir.Constant:
    return ir.Constant(kind, ir.Undefined)


class _PairWriter(TileWriter):
    """A tile whose pixels and weights are pairs."""

    kind = "tile_of_pairs"

    def products(self, weight: Any, pixels: list[Any], sums: dict[tuple[int, int], Any]) -> dict[tuple[int, int], Any]:
        """As of numbers. A weight for one vector only is spread by the product itself, which LLVM does not know of.

        Spread beforehand, eight weights take 11 to 12 cycles instead of 8.
        """
        if self.shape.vectors > 1 or self.shape.lanes == 1:
            return super().products(weight, pixels, sums)
        kind = ir.FunctionType(self.vector, [self.vector, self.vector, weight.type])
        result = {}
        for (f, v), total in sums.items():
            text = f"vdpbf16ps {4 * f}($3){{1to{self.shape.lanes}}}, $2, $0"
            result[f, v] = self.builder.asm(kind, text, "=v,0,v,r", [total, pixels[v], weight], side_effect=False)
        return result

    def _multiply_add(self, scale: Any, pixels: Any, total: Any) -> Any:
        builder, lanes = self.builder, self.shape.lanes
        if lanes == 1:
            bits = [builder.bitcast(value, INT32) for value in (scale, pixels)]
            seconds = [builder.and_(value, INT32(-(2**16))) for value in bits]
            firsts = [builder.shl(value, INT32(16)) for value in bits]
            for weight, pixel in (seconds, firsts):
                total = super()._multiply_add(builder.bitcast(weight, FLOAT), builder.bitcast(pixel, FLOAT), total)
            return total
        whole = ir.VectorType(INT32, lanes)
        kind = ir.FunctionType(self.vector, [self.vector, whole, whole])
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
        product = cgutils.get_or_insert_function(builder.module, kind, name)
        pairs = [builder.bitcast(vector, whole) for vector in (scale, pixels)]
        return builder.call(product, [total, *pairs])


def _between(builder: Any, lanes: Sequence[int], begin: Any, end: Any) -> Any:
    """Which of the lanes are at least `begin`, and less than `end`."""
    kind = ir.VectorType(INT32, len(lanes))
    least, most = (spread(builder, builder.trunc(bound, INT32), len(lanes)) for bound in (begin, end))
    number = ir.Constant(kind, list(lanes))
    return builder.and_(builder.icmp_signed(">=", number, least), builder.icmp_signed("<", number, most))


def _pairs(builder: Any, step: int, numbers: list[Any]) -> Any:
    """Pairs of the two channels' numbers, which lie `step` apart."""
    floats, halves = ir.VectorType(FLOAT, LANES), ir.VectorType(ir.IntType(16), 2 * LANES)
    if step > 1:
        numbers = [
            builder.shuffle_vector(n, _undefined(n.type), lane_numbers(range(0, step * LANES, step))) for n in numbers
        ]
    convert = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(halves, [floats, floats]),
        "llvm.x86.avx512bf16.cvtne2ps2bf16.512",
    )
    rounded = builder.call(convert, numbers[::-1])  # first all of the first channel's
    in_turn = lane_numbers([half * LANES + lane for lane in range(LANES) for half in range(2)])
    return builder.bitcast(builder.shuffle_vector(rounded, _undefined(halves), in_turn), _PAIRS)


def _masked(builder: Any, address: Any, mask: Any) -> Any:
    """The floats at an address in those lanes that the mask has, 0 in the others."""
    kind = ir.VectorType(FLOAT, mask.type.count)
    load = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [kind.as_pointer(), INT32, mask.type, kind]),
        f"llvm.masked.load.v{mask.type.count}f32.p0",
    )
    return builder.call(load, [builder.inttoptr(address, kind.as_pointer()), INT32(4), mask, ir.Constant(kind, None)])


def _store(builder: Any, pairs: Any, address: Any, count: Any) -> None:
    """Writes the first `count` lanes."""
    mask = _between(builder, range(LANES), INT64(0), count)
    store = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [_PAIRS, _PAIRS.as_pointer(), INT32, mask.type]),
        f"llvm.masked.store.v{LANES}i32.p0",
    )
    builder.call(store, [pairs, builder.inttoptr(address, _PAIRS.as_pointer()), INT32(4), mask])


@intrinsic
def _zero_vector(typing_context: Any, target: Any, count: Any) -> Any:
    """Pairs of zeros, up to LANES."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _store(builder, ir.Constant(_PAIRS, None), *arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 2), generate


def _vector(step: int, *, whole: bool) -> Any:
    """An intrinsic that writes the first `count` lanes of a vector of pairs, of numbers that lie `step` apart.

    Those from lane `begin` up to `end` come from the map, the others are zeros; all of LANES do for a whole vector.
    """

    @intrinsic
    def vector(typing_context: Any, target: Any, first: Any, apart: Any, begin: Any, end: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            target, first, apart, begin, end, count = arguments
            if whole:  # what lies behind the last number may not be read
                mask = ir.Constant(
                    ir.VectorType(ir.IntType(1), step * LANES), [1] * (step * LANES - step + 1) + [0] * (step - 1)
                )
            else:
                lanes = [_NEVER if lane % step else lane // step for lane in range(step * LANES)]
                mask = _between(builder, lanes, begin, end)
            pairs = _pairs(builder, step, [_masked(builder, a, mask) for a in (first, builder.add(first, apart))])
            _store(builder, pairs, target, INT64(LANES) if whole else count)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return vector


@njit
def _zeros(target: int, count: int) -> None:
    for j in range(0, count, LANES):
        _zero_vector(target + 4 * j, count - j)


def _rows(step: int) -> Any:
    """A function that writes rows of pairs, of numbers `step` apart; from `begin` up to `end` they lie in the map."""
    whole, part = _vector(step, whole=True), _vector(step, whole=False)
    size = 4 * step

    @njit
    def rows(target: int, pitch: int, first: int, down: int, apart: int, begin: int, end: int, count: int) -> None:
        for _ in range(count):
            if end - begin >= LANES:
                _zeros(target, begin)
                for j in range(begin, end - LANES, LANES):
                    whole(target + 4 * j, first + size * j, apart, 0, LANES, LANES)
                j = end - LANES  # what it shares with the vector before is written twice
                whole(target + 4 * j, first + size * j, apart, 0, LANES, LANES)
                _zeros(target + 4 * end, pitch - end)
            elif pitch <= LANES:
                part(target, first, apart, begin, end, pitch)
            else:
                for j in range(0, pitch, LANES):
                    part(target + 4 * j, first + size * j, apart, begin - j, end - j, pitch - j)
            target += 4 * pitch
            first += down

    return rows


_next_to_each_other, _every_second = _rows(1), _rows(2)
_one, _all = _vector(1, whole=False), _vector(1, whole=True)


@njit
def _line(target: int, first: int, apart: int, count: int) -> None:
    """Writes `count` pairs, at least LANES, all of which lie in the map.

    `_next_to_each_other` would do as well; in a ResNet-50 at G = 16 it takes a tenth more of the network's time.
    """
    for j in range(0, count - LANES, LANES):
        _all(target + 4 * j, first + 4 * j, apart, 0, LANES, LANES)
    j = count - LANES  # what it shares with the vector before is written twice
    _all(target + 4 * j, first + 4 * j, apart, 0, LANES, LANES)


@njit
def _pack(task: np.record, x: int, scratch: int) -> None:
    """Copies pairs of channels into planes, with zeros where a view looks beyond the map."""
    pairs = carray(pointer(task.channels, PAIR), task.n_channels)
    views = carray(pointer(task.views, VIEW), task.n_views)
    pitch, right, row = task.pitch, task.right, 4 * task.width
    down, area = row * task.down, row * task.height
    if len(views) == 1 and task.rows == 1 and views[0].begin == 0 and LANES <= views[0].end == pitch and right == 1:
        for pair in pairs:
            _line(scratch + 4 * pair.plane * pitch, x + pair.first * area, area * (pair.second - pair.first), pitch)
        return
    for pair in pairs:
        apart = area * (pair.second - pair.first)
        target = scratch + 4 * pair.plane * len(views) * task.rows * pitch
        for view in views:
            upper, count, begin, end = view.upper, view.lower - view.upper, view.begin, view.end
            _zeros(target, upper * pitch)
            target += 4 * upper * pitch
            first = x + pair.first * area + upper * down + view.top * row + 4 * view.left
            if right == 1:
                _next_to_each_other(target, pitch, first, down, apart, begin, end, count)
            elif right == 2:
                _every_second(target, pitch, first, down, apart, begin, end, count)
            else:
                for i in range(count):
                    for j in range(pitch):
                        place, source = target + 4 * (i * pitch + j), first + i * down + 4 * j * right
                        _one(place, source, apart, begin - j, min(1, end - j), 1)
            target += 4 * count * pitch
            _zeros(target, (task.rows - view.lower) * pitch)
            target += 4 * (task.rows - view.lower) * pitch


_multiply = multiplying(tiles(_PairWriter))


def _function(stamp: int) -> Any:
    """The entry. What it encloses is part of the key under which Numba keeps its machine code."""

    def share(record: int, x: int, out: int, residual: int, images: int, scratch: int) -> None:
        _ = stamp
        task = carray(pointer(record, TASK), 1)[0]
        for image in range(images):
            _pack(task, x + 4 * image * task.x_size, scratch)
            place = 4 * image * task.out_size
            _multiply(task, scratch, out + place, residual + place if residual else 0)

    return share


share = _function(stamp())
