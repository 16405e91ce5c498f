"""Pairs of channels in bf16: an element of 32 bits holds what two channels have at the same pixel.

A plane of pairs has the addresses, rows and gaps of a plane of float32, so that the tile walks over it in the same way
and does two multiply-adds with each instruction. Sums stay float32. Numbers closer to 0 than 2⁻¹²⁶ count as 0.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from flgc_lib.frozen.kernel.loops import PAIR, TASK, VIEW, made, multiplying, pointer, stamp
from flgc_lib.frozen.kernel.microkernel import FLOAT, INT32, INT64, LANES, TileWriter, lane_numbers, tiles


class _BFloat(ir.types.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_NEVER = 2**31 - 1
"""The number of a lane that is not read."""


def _bfloats(lanes: int) -> ir.VectorType:
    return ir.VectorType(_BFloat(), lanes)


class _PairWriter(TileWriter):
    """A tile whose pixels and weights are pairs."""

    kind = "tile_of_pairs"

    def multiply_add(self, scale: Any, pixels: Any, total: Any) -> Any:
        """total + the first of the pair times the first + the second times the second."""
        builder, lanes = self.builder, self.shape.lanes
        if lanes == 1:
            bits = [builder.bitcast(value, INT32) for value in (scale, pixels)]
            seconds = [builder.and_(value, INT32(-(2**16))) for value in bits]
            firsts = [builder.shl(value, INT32(16)) for value in bits]
            for pair in (seconds, firsts):
                total = super().multiply_add(*(builder.bitcast(half, FLOAT) for half in pair), total)
            return total
        kind = ir.FunctionType(self.vector, [self.vector, _bfloats(2 * lanes), _bfloats(2 * lanes)])
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}"
        product = cgutils.get_or_insert_function(builder.module, kind, name)
        pairs = [builder.bitcast(vector, _bfloats(2 * lanes)) for vector in (scale, pixels)]
        return builder.call(product, [total, *pairs])


def _whole(builder: Any, step: int, address: Any, begin: Any, end: Any) -> Any:
    """A vector of a row's pixels that all lie in the map, every second one for a step of 2."""
    kind = ir.VectorType(FLOAT, step * LANES)
    numbers = builder.load(builder.inttoptr(address, kind.as_pointer()))
    numbers.align = 4
    return _every(builder, step, numbers)


def _part(builder: Any, step: int, address: Any, begin: Any, end: Any) -> Any:
    """The same if only those from lane `begin` up to `end` lie in the map; 0 elsewhere."""
    lanes = step * LANES
    kind = ir.VectorType(FLOAT, lanes)
    mask = _between(builder, [_NEVER if lane % step else lane // step for lane in range(lanes)], begin, end)
    load = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [kind.as_pointer(), INT32, mask.type, kind]),
        f"llvm.masked.load.v{lanes}f32.p0",
    )
    place = builder.inttoptr(address, kind.as_pointer())
    return _every(builder, step, builder.call(load, [place, INT32(4), mask, ir.Constant(kind, None)]))


def _every(builder: Any, step: int, numbers: Any) -> Any:
    undefined = ir.Constant(numbers.type, ir.Undefined)
    return numbers if step == 1 else builder.shuffle_vector(numbers, undefined, lane_numbers(range(0, 2 * LANES, 2)))


def _between(builder: Any, lanes: list[int], begin: Any, end: Any) -> Any:
    """Which of the lanes are at least `begin`, and less than `end`."""
    kind = ir.VectorType(INT32, len(lanes))
    undefined = ir.Constant(kind, ir.Undefined)
    least, most = (
        builder.shuffle_vector(
            builder.insert_element(undefined, builder.trunc(bound, INT32), INT32(0)),
            undefined,
            lane_numbers([0] * len(lanes)),
        )
        for bound in (begin, end)
    )
    number = ir.Constant(kind, lanes)
    return builder.and_(builder.icmp_signed(">=", number, least), builder.icmp_signed("<", number, most))


def _write(read: Callable[..., Any], step: int) -> Any:
    """An intrinsic that puts LANES pairs together, of numbers that lie `step` apart.

    Its arguments are where to write; where either channel's number for the first lane lies, even if that is outside
    the map; the lanes from `begin` up to `end` that lie in the map, and how many are written.
    """

    @intrinsic
    def write(typing_context: Any, target: Any, first: Any, second: Any, begin: Any, end: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            target, first, second, begin, end, count = arguments
            floats, halves = ir.VectorType(FLOAT, LANES), ir.VectorType(ir.IntType(16), 2 * LANES)
            convert = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(_bfloats(2 * LANES), [floats, floats]),
                "llvm.x86.avx512bf16.cvtne2ps2bf16.512",
            )
            numbers = [read(builder, step, address, begin, end) for address in (second, first)]
            side_by_side = builder.bitcast(builder.call(convert, numbers), halves)
            in_turn = [half * LANES + lane for lane in range(LANES) for half in range(2)]
            pairs = builder.shuffle_vector(side_by_side, ir.Constant(halves, ir.Undefined), lane_numbers(in_turn))
            pairs = builder.bitcast(pairs, ir.VectorType(INT32, LANES))
            place = builder.inttoptr(target, pairs.type.as_pointer())
            if read is _whole:
                builder.store(pairs, place).align = 4
            else:
                mask = _between(builder, list(range(LANES)), INT64(0), count)
                store = cgutils.get_or_insert_function(
                    builder.module,
                    ir.FunctionType(ir.VoidType(), [pairs.type, place.type, INT32, mask.type]),
                    f"llvm.masked.store.v{LANES}i32.p0",
                )
                builder.call(store, [pairs, place, INT32(4), mask])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return write


_whole_vector, _part_of_vector = _write(_whole, 1), _write(_part, 1)
_whole_of_every_second, _part_of_every_second = _write(_whole, 2), _write(_part, 2)


@njit
def _pack(task: np.record, x: int, scratch: int) -> None:
    """Copies pairs of channels into planes, with zeros where a view looks beyond the map."""
    pairs = carray(pointer(task.channels, PAIR), task.n_channels)
    views = carray(pointer(task.views, VIEW), task.n_views)
    rows, pitch, down, right = task.rows, task.pitch, task.down, task.right
    height, width = task.height, task.width
    for pair in pairs:
        apart = 4 * height * width * (pair.second - pair.first)
        for v in range(len(views)):
            top, left = views[v].top, views[v].left
            begin = min(pitch, max(0, -(left // right)))  # first column that lies in the map
            end = max(begin, min(pitch, (width - 1 - left) // right + 1))
            target = scratch + 4 * (pair.plane * len(views) + v) * rows * pitch
            for i in range(rows):
                y = i * down + top
                stop = end if 0 <= y < height else begin
                first = x + 4 * ((pair.first * height + y) * width + left)
                if right > 2:
                    for j in range(pitch):
                        source = first + 4 * j * right
                        _part_of_vector(target + 4 * j, source, source + apart, begin - j, min(1, stop - j), 1)
                for j in range(0, pitch if right <= 2 else 0, LANES):
                    place, source = target + 4 * j, first + 4 * j * right
                    starts, ends, count = begin - j, stop - j, pitch - j
                    if right == 1:
                        if starts <= 0 and LANES <= ends:
                            _whole_vector(place, source, source + apart, starts, ends, count)
                        else:
                            _part_of_vector(place, source, source + apart, starts, ends, count)
                    elif starts <= 0 and LANES < ends:  # it also reads the number behind the last
                        _whole_of_every_second(place, source, source + apart, starts, ends, count)
                    else:
                        _part_of_every_second(place, source, source + apart, starts, ends, count)
                target += 4 * pitch


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


_share = _function(stamp())


@lru_cache(maxsize=1)
def share_address() -> int:
    """As `loops.share_address`, for layers in bf16."""
    return made(_share)
