"""The innermost loop of the indirect convolution, written as vector instructions through Numba.

A tile is a few filters times a few vectors of pixels. All its sums stay in registers while the kernel walks over the
input channels, whose addresses it takes from an index: which channels a group has, and in which order they lie,
costs nothing. LLVM turns the same description into AVX-512, AVX2 or NEON.

Numba's own loops reach about half the speed of this: they keep the sums in memory.
"""

from typing import Any, NamedTuple

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _lanes() -> int:
    """Floats in a vector register of this processor."""
    features = llvmlite.binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx") else 4


LANES = _lanes()
MOST_FILTERS = 4 if LANES == 8 else 8
"""Filters of the largest tile: two vectors of each fill half of the 32 registers of AVX-512 and NEON, AVX2 has 16."""


class Shape(NamedTuple):
    """The pixels of a tile."""

    vectors: int
    lanes: int
    """Pixels of a vector."""
    rows: int
    """How many rows of the map a vector is put together from: narrow maps would else leave lanes empty."""


TILES = [Shape(2, LANES, 1), Shape(1, LANES, 1)]
TILES += [Shape(1, lanes, 1) for lanes in (LANES // 2, 4, 1) if lanes < LANES]
TILES += [Shape(2, LANES, 2), Shape(1, LANES, 4)] if LANES > 4 else []
TILES = sorted(set(TILES), key=lambda shape: (shape.rows, -shape.vectors, -shape.lanes))
"""Any row of pixels is a sum of the one-row shapes, which come first, the largest leading."""

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


@intrinsic
def tile(
    typing_context: Any,
    filters: Any,
    shape: Any,
    depth: Any,
    x: Any,
    x_step: Any,
    offsets: Any,
    weight: Any,
    bias: Any,
    out: Any,
    out_step: Any,
    out_offsets: Any,
    residual: Any,
    low: Any,
) -> Any:
    """Computes max(bias + Σ_k weight[k, f] · x[offsets[k] + pixel] + residual, low) for one tile.

    Addresses are integers; offsets and steps count floats.

    Args:
        typing_context: Numba's.
        filters: how many, 1 … MOST_FILTERS.
        shape: which of TILES the pixels are.
        depth: how many k.
        x: address of the tile's first pixel in plane 0.
        x_step: distance in x from one vector, or row within it, to the next.
        offsets: address of int32 (depth,): where in x the k-th input begins.
        weight: address of (depth, filters).
        bias: address of (filters,).
        out: address of the tile's first pixel in plane 0.
        out_step: the same in out and residual.
        out_offsets: address of int32 (filters,): where in out, and residual, each filter's plane begins.
        residual: address as out, or 0 for none.
        low: 0 for a ReLU, else -inf.
    """
    signature = types.void(*[types.int64] * 12, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        chosen_filters, chosen_shape, *rest = arguments
        end = builder.append_basic_block("tile_done")
        key = builder.add(builder.mul(chosen_shape, INT64(MOST_FILTERS)), chosen_filters)
        switch = builder.switch(key, end)
        for number, tile_shape in enumerate(TILES):
            for count in range(1, MOST_FILTERS + 1):
                block = builder.append_basic_block("tile_choice")
                switch.add_case(INT64(number * MOST_FILTERS + count), block)
                builder.position_at_end(block)
                builder.call(_tile_function(builder.module, count, tile_shape), rest)
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return signature, generate


def _tile_function(module: ir.Module, filters: int, shape: Shape) -> ir.Function:
    """The LLVM function of one size of tile; its arguments are `tile`'s from `depth` on."""
    vectors, lanes, rows = shape
    name = f"flgc_tile_{filters}_{vectors}_{lanes}_{rows}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [INT64] * 10 + [FLOAT]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    depth, x, x_step, offsets, weight, bias, out, out_step, out_offsets, residual, low = function.args
    vector = FLOAT if lanes == 1 else ir.VectorType(FLOAT, lanes)
    row_vector = FLOAT if lanes == rows else ir.VectorType(FLOAT, lanes // rows)
    suffix = "f32" if lanes == 1 else f"v{lanes}f32"
    multiply_add = cgutils.get_or_insert_function(
        module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.{suffix}"
    )

    entry, loop, write = (function.append_basic_block(name) for name in ("entry", "loop", "write"))
    with_sum, no_sum = (function.append_basic_block(name) for name in ("with_sum", "no_sum"))
    builder = ir.IRBuilder(entry)

    def pointer(address: Any, kind: Any) -> Any:
        return builder.inttoptr(address, kind.as_pointer())

    def element(address: Any, position: Any) -> Any:
        return builder.gep(address, [position if isinstance(position, ir.Value) else INT64(position)])

    def offset_at(address: Any, position: Any) -> Any:
        return builder.sext(builder.load(element(address, position)), INT64)

    def row_address(plane: Any, step: Any, v: int, row: int) -> Any:
        place = element(plane, builder.mul(step, INT64(v * rows + row)))
        return builder.bitcast(place, row_vector.as_pointer())

    def load(plane: Any, step: Any, v: int) -> Any:
        parts = []
        for row in range(rows):
            parts.append(builder.load(row_address(plane, step, v, row)))
            parts[-1].align = 4
        while len(parts) > 1:  # neighbours become vectors of twice the length
            length = 2 * parts[0].type.count
            lanes_in_order = ir.Constant(ir.VectorType(INT32, length), list(range(length)))
            parts = [builder.shuffle_vector(a, b, lanes_in_order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def store(value: Any, plane: Any, step: Any, v: int) -> None:
        for row in range(rows):
            part = value
            if rows > 1:
                width = lanes // rows
                lanes_of_row = [row * width + i for i in range(width)]
                part = builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(INT32, width), lanes_of_row))
            builder.store(part, row_address(plane, step, v, row)).align = 4

    def spread(value: Any) -> Any:
        if lanes == 1:
            return value
        undefined = ir.Constant(vector, ir.Undefined)
        first = builder.insert_element(undefined, value, INT32(0))
        return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))

    sizes = [(f, v) for f in range(filters) for v in range(vectors)]
    x_pointer, weight_pointer, bias_pointer = (pointer(a, FLOAT) for a in (x, weight, bias))
    out_pointer, residual_pointer = pointer(out, FLOAT), pointer(residual, FLOAT)
    offsets_pointer, out_offsets_pointer = pointer(offsets, INT32), pointer(out_offsets, INT32)
    start = [spread(builder.load(element(bias_pointer, f))) for f in range(filters)]
    builder.cbranch(builder.icmp_signed(">", depth, INT64(0)), loop, write)

    builder.position_at_end(loop)
    k = builder.phi(INT64)
    sums = {size: builder.phi(vector) for size in sizes}
    plane = element(x_pointer, offset_at(offsets_pointer, k))
    pixels = [load(plane, x_step, v) for v in range(vectors)]
    weights = element(weight_pointer, builder.mul(k, INT64(filters)))
    scales = [spread(builder.load(element(weights, f))) for f in range(filters)]
    next_sums = {(f, v): builder.call(multiply_add, [scales[f], pixels[v], sums[f, v]]) for f, v in sizes}
    next_k = builder.add(k, INT64(1))
    k.add_incoming(INT64(0), entry)
    k.add_incoming(next_k, loop)
    for f, v in sizes:
        sums[f, v].add_incoming(start[f], entry)
        sums[f, v].add_incoming(next_sums[f, v], loop)
    builder.cbranch(builder.icmp_signed("<", next_k, depth), loop, write)

    builder.position_at_end(write)
    totals = {size: builder.phi(vector) for size in sizes}
    for f, v in sizes:
        totals[f, v].add_incoming(start[f], entry)
        totals[f, v].add_incoming(next_sums[f, v], loop)
    floor = spread(low)
    builder.cbranch(builder.icmp_signed("!=", residual, INT64(0)), with_sum, no_sum)
    for block, summed in ((with_sum, True), (no_sum, False)):
        builder.position_at_end(block)
        for f in range(filters):
            plane = offset_at(out_offsets_pointer, f)
            for v in range(vectors):
                total = totals[f, v]
                if summed:
                    total = builder.fadd(total, load(element(residual_pointer, plane), out_step, v))
                total = builder.select(builder.fcmp_ordered("<", total, floor), floor, total)  # NaN stays NaN
                store(total, element(out_pointer, plane), out_step, v)
        builder.ret_void()
    return function


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
