"""The innermost loop of the indirect convolution, written as vector instructions through Numba.

A tile is a few filters times a few vectors of pixels. All its sums stay in registers while the kernel walks over the
input channels, whose addresses it takes from an index: which channels a group has, and in which order they lie,
costs nothing. LLVM turns the same description into AVX-512, AVX2 or NEON.

Numba's own loops reach about half the speed of this: they keep the sums in memory.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from flgc_lib.frozen.kernel.shapes import MOST_FILTERS, QUARTERS, SHAPES, Shape

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def tiles(writer: "type[TileWriter]") -> Any:
    """The tiles of a kind, as one intrinsic function of Numba."""

    @intrinsic
    def tile(
        typing_context: Any,
        filters: Any,
        shape: Any,
        depth: Any,
        x: Any,
        step: Any,
        left: Any,
        second_left: Any,
        wide: Any,
        gap: Any,
        offsets: Any,
        weight: Any,
        bias: Any,
        out: Any,
        out_offsets: Any,
        residual: Any,
        low: Any,
    ) -> Any:
        """Computes max(bias + Σ_k weight[k, f] · x[offsets[k] + pixel] + residual, low) for one tile.

        Addresses are integers; offsets and steps count floats.

        Args:
            typing_context: Numba's.
            filters: how many, 1 … MOST_FILTERS.
            shape: which of SHAPES the pixels are.
            depth: how many k.
            x: address of the tile's first pixel in plane 0.
            step: distance in x from the first vector to the second.
            left: pixels from the first one to the end of its row.
            second_left: the same for the second vector.
            wide: pixels of a row.
            gap: floats between two rows in x.
            offsets: address of int32 (depth,): where in x the k-th input begins.
            weight: address of (depth, filters).
            bias: address of (filters,).
            out: address of the tile's first pixel in plane 0.
            out_offsets: address of int32 (filters,): where in out, and residual, each filter's plane begins.
            residual: address as out, or 0 for none.
            low: 0 for a ReLU, else -inf.
        """
        return types.void(*[types.int64] * 15, types.float32), partial(_choose, writer)

    return tile


class TileWriter:
    """Writes the instructions of one size of tile: the sums start as the bias, grow in a loop, and are stored.

    Args:
        function: the LLVM function, still empty.
        filters: of the tile.
        shape: its pixels.
    """

    kind = "tile"

    def __init__(self, function: ir.Function, filters: int, shape: Shape) -> None:
        self.function = function
        self.filters = filters
        self.shape = shape
        self.vector = FLOAT if shape.lanes == 1 else ir.VectorType(FLOAT, shape.lanes)
        self.builder = ir.IRBuilder()

    def write(self) -> None:
        """Writes all of it."""
        depth, x, step, *row_ends, wide, gap, offsets, weight, bias, out, out_offsets, residual, low = (
            self.function.args
        )
        entry, loop, store = (self.function.append_basic_block(name) for name in ("entry", "loop", "store"))
        builder = self.builder
        builder.position_at_end(entry)
        x, weight, bias, out, added = (self._pointer(a, FLOAT) for a in (x, weight, bias, out, residual))
        offsets, out_offsets = self._pointer(offsets, INT32), self._pointer(out_offsets, INT32)
        rows = self._rows(step, row_ends, wide, gap)
        biases = self._scalars(bias)
        start = {(f, v): biases[f] for f in range(self.filters) for v in range(self.shape.vectors)}
        builder.cbranch(builder.icmp_signed(">", depth, INT64(0)), loop, store)

        builder.position_at_end(loop)
        sums = self._loop(start, entry, store, depth, x, rows, offsets, weight)

        builder.position_at_end(store)
        totals = {size: self._either(self.vector, (start[size], entry), (sums[size], loop)) for size in start}
        floor = self._spread(low)
        with_sum, no_sum = (self.function.append_basic_block(name) for name in ("with_sum", "no_sum"))
        builder.cbranch(builder.icmp_signed("!=", residual, INT64(0)), with_sum, no_sum)
        for block, summand in ((with_sum, added), (no_sum, None)):
            builder.position_at_end(block)
            self._store(totals, floor, summand, out, out_offsets)
            builder.ret_void()

    def _loop(
        self, start: Any, before: Any, after: Any, depth: Any, x: Any, rows: Any, offsets: Any, weight: Any
    ) -> dict[tuple[int, int], Any]:
        """Walks over the input channels in the present block, and returns the sums by (filter, vector of pixels)."""
        builder, loop = self.builder, self.builder.block
        k = self._either(INT64, (INT64(0), before))
        sums = {size: self._either(self.vector, (value, before)) for size, value in start.items()}
        plane = self._element(x, self._offset_at(offsets, k))
        pixels = [self._put_together(plane, parts) for parts in rows]
        next_sums = self.products(self._element(weight, builder.mul(k, INT64(self.filters))), pixels, sums)
        next_k = builder.add(k, INT64(1))
        k.add_incoming(next_k, loop)
        for size, value in sums.items():
            value.add_incoming(next_sums[size], loop)
        builder.cbranch(builder.icmp_signed("<", next_k, depth), loop, after)
        return next_sums

    def products(self, weight: Any, pixels: list[Any], sums: dict[tuple[int, int], Any]) -> dict[tuple[int, int], Any]:
        """The sums with the products of each filter's weight and each vector of pixels."""
        scales = self._scalars(weight)
        return {(f, v): self._multiply_add(scales[f], pixels[v], sums[f, v]) for f, v in sums}

    def _multiply_add(self, scale: Any, pixels: Any, total: Any) -> Any:
        suffix = "f32" if self.shape.lanes == 1 else f"v{self.shape.lanes}f32"
        function = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(self.vector, [self.vector] * 3), f"llvm.fmuladd.{suffix}"
        )
        return self.builder.call(function, [scale, pixels, total])

    def _rows(self, step: Any, row_ends: Any, wide: Any, gap: Any) -> list[list[tuple[Any, Any]]]:
        """By vector and row: where in a plane to read, and from which lanes on the vector lies in this row."""
        builder, result = self.builder, []
        lanes = lane_numbers(range(self.shape.lanes))
        step_down = builder.add(gap, wide) if self.shape.rows == QUARTERS else gap
        for v in range(self.shape.vectors):
            place = builder.mul(step, INT64(v))
            end = row_ends[v]
            parts = [(place, None)]
            for _ in range(1, self.shape.rows):
                place = builder.add(place, step_down)
                parts.append((place, builder.icmp_signed(">=", lanes, self._spread(builder.trunc(end, INT32)))))
                end = builder.add(end, wide)
            result.append(parts)
        return result

    def _put_together(self, plane: Any, parts: list[tuple[Any, Any]]) -> Any:
        """A vector of pixels from its rows."""
        builder = self.builder
        if self.shape.rows < QUARTERS:
            rows = [self._load(self._element(plane, place), self.vector) for place, _ in parts]
            vector = rows[0]
            for row, (_, lanes) in zip(rows[1:], parts[1:], strict=True):
                vector = builder.select(lanes, row, vector)
            return vector
        quarter = ir.VectorType(FLOAT, self.shape.lanes // QUARTERS)
        rows = [self._load(self._element(plane, place), quarter) for place, _ in parts]
        while len(rows) > 1:  # neighbours become vectors of twice the length
            in_order = lane_numbers(range(2 * rows[0].type.count))
            rows = [builder.shuffle_vector(a, b, in_order) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    def _store(self, totals: Any, floor: Any, residual: Any, out: Any, out_offsets: Any) -> None:
        """Stores max(total + residual, floor), without the residual if it is None."""
        builder = self.builder
        for f in range(self.filters):
            plane = self._offset_at(out_offsets, f)
            for v in range(self.shape.vectors):
                total = totals[f, v]
                place = builder.add(plane, INT64(v * self.shape.lanes))
                if residual is not None:
                    total = builder.fadd(total, self._load(self._element(residual, place), self.vector))
                total = builder.select(builder.fcmp_ordered("<", total, floor), floor, total)  # NaN stays NaN
                builder.store(total, builder.bitcast(self._element(out, place), self.vector.as_pointer())).align = 4

    def _either(self, kind: Any, *incoming: tuple[Any, Any]) -> Any:
        """A value that depends on the block from which the present one was reached."""
        value = self.builder.phi(kind)
        for choice, block in incoming:
            value.add_incoming(choice, block)
        return value

    def _pointer(self, address: Any, kind: Any) -> Any:
        return self.builder.inttoptr(address, kind.as_pointer())

    def _element(self, pointer: Any, position: Any) -> Any:
        return self.builder.gep(pointer, [position if isinstance(position, ir.Value) else INT64(position)])

    def _offset_at(self, offsets: Any, position: Any) -> Any:
        return self.builder.sext(self.builder.load(self._element(offsets, position)), INT64)

    def _scalars(self, pointer: Any) -> list[Any]:
        """One number a filter, each in all lanes of a vector."""
        return [self._spread(self.builder.load(self._element(pointer, f))) for f in range(self.filters)]

    def _spread(self, value: Any) -> Any:
        return value if self.shape.lanes == 1 else spread(self.builder, value, self.shape.lanes)

    def _load(self, pointer: Any, kind: Any) -> Any:
        value = self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()))
        value.align = 4
        return value


def spread(builder: Any, value: Any, lanes: int) -> Any:
    """A vector with the value in all lanes."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, INT32(0))
    return builder.shuffle_vector(first, undefined, lane_numbers([0] * lanes))


def lane_numbers(numbers: Sequence[int]) -> ir.Constant:
    """A constant vector, such as says which lanes another vector is made of."""
    return ir.Constant(ir.VectorType(INT32, len(numbers)), list(numbers))


def _choose(writer: type[TileWriter], context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Writes a call of the tile that a number of filters and of a shape stand for."""
    chosen_filters, chosen_shape, *rest = arguments
    end = builder.append_basic_block("tile_done")
    key = builder.add(builder.mul(chosen_shape, INT64(MOST_FILTERS)), chosen_filters)
    switch = builder.switch(key, end)
    for number, shape in enumerate(SHAPES):
        for filters in range(1, MOST_FILTERS + 1):
            block = builder.append_basic_block("tile_choice")
            switch.add_case(INT64(number * MOST_FILTERS + filters), block)
            builder.position_at_end(block)
            name = f"flgc_{writer.kind}_{filters}_{shape.vectors}_{shape.lanes}_{shape.rows}"
            function = ir.Function(
                builder.module, ir.FunctionType(ir.VoidType(), [INT64] * 13 + [FLOAT]), name
            )  # its arguments are `tile`'s from `depth` on
            function.linkage = "internal"
            function.attributes.add("noinline")
            writer(function, filters, shape).write()
            builder.call(function, rest)
            builder.branch(end)
    builder.position_at_end(end)
    return context.get_dummy_value()


tile = tiles(TileWriter)


@intrinsic
def peek(typing_context: Any, address: Any) -> Any:
    """The float32 at an address; array indexing would check for negative indices, which keeps loops scalar."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(builder.inttoptr(arguments[0], FLOAT.as_pointer()))
        value.align = 4
        return value

    return types.float32(types.int64), generate


@intrinsic
def poke(typing_context: Any, address: Any, value: Any) -> Any:
    """Writes a float32 to an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], FLOAT.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate
