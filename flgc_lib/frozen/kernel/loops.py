"""The loops of the indirect convolution: over layers, over threads, and what one thread does with its share of a layer.

A share is described by integers, most of them addresses: those of a call's tensors, and a record that stays the same
from call to call. The compiled code is then the same whatever calls it.
"""

import ctypes
import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, prange, types
from numba.extending import intrinsic

from flgc_lib.frozen.kernel.microkernel import peek, poke, tile
from flgc_lib.frozen.kernel.shapes import FEATURES

_one_at_a_time = threading.Lock()  # Numba's simplest threading layer dies if two Python threads use it at once

_PROCESS = os.getpid()
"""Where Numba's threads live: in a child made by a fork they are dead, and starting others would end it."""


def _record(*names: str) -> np.dtype:
    """A record of int64: Numba reads its fields by name, at the cost of an array's entries."""
    return np.dtype([(name, np.int64) for name in names])


TASK = _record(
    "x_size",  # floats of an image of the input
    "out_size",  # floats of an image of the output
    "scratch_size",  # floats, or pairs, of the packed input, 0 if the input is read where it lies
    "height",
    "width",
    "weight",  # address of float32, or pairs in bf16, block by block (depth, filters)
    "bias",  # address of float32 (filters,)
    "offsets",  # address of int32, block by block (depth,): where the inputs of the block's filters begin
    "out_offsets",  # address of int32 (filters,): where the filters' planes begin
    "blocks",  # address of BLOCK (n_blocks,)
    "n_blocks",
    "tiles",  # address of TILE (n_tiles,)
    "n_tiles",
    "chunk",  # tiles that all blocks go over before the next tiles are read: they should stay in the cache
    "first",  # first unit of the share: unit u is block u % n_blocks on chunk u // n_blocks
    "last",  # one behind the last unit
    "relu",  # 0 or 1
    "channels",  # address of the channels to pack: int64 (n_channels,), or PAIR
    "n_channels",
    "views",  # address of VIEW (n_views,)
    "n_views",
    "rows",  # of a packed plane
    "pitch",  # its columns
    "down",  # stride from row to row in the channel
    "right",  # stride from column to column in the channel
    "wide",  # columns of the output
    "gap",  # floats between two of its rows in the input
)
"""What one thread does, whatever the call."""
TASK_BYTES = TASK.itemsize

BLOCK = _record("filter", "filters", "depth", "offset", "weight")
"""Filters that are computed together: the first one, how many, their inputs, where their offsets and weights begin."""

TILE = _record("shape", "pixel", "step", "out_pixel", "left", "second_left")
"""Pixels that are computed together: number in SHAPES; where the first one lies in the input, and how far behind it
the second vector's; where in the output; how many pixels are left in the row where either vector begins.
"""

PAIR = _record("plane", "first", "second")
"""Channels that are packed together, and where."""

STEP = _record("function", "records", "x", "out", "residual")
"""A layer, in addresses: of its machine code, of TASK (split,), of the first image's input and output, and of what is
added to the output: laid out as it, possibly the same, 0 for nothing.
"""

VIEW = _record("top", "left", "upper", "lower", "begin", "end")
"""Where in a channel the first element of one of its packed planes comes from. What lies in the map are its rows from
`upper` up to `lower`, and their columns from `begin` up to `end`.
"""


@intrinsic
def pointer(typing_context: Any, address: Any, kind: Any) -> Any:
    """The pointer that an address is, to elements of a kind: a NumPy type."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind.dtype)(types.int64, kind), generate


@intrinsic
def call(
    typing_context: Any, function: Any, record: Any, x: Any, out: Any, residual: Any, images: Any, scratch: Any
) -> Any:
    """Calls `share`'s machine code by its address: compiled into each caller, it would be compiled again for each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 6)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@njit
def _pack(task: np.record, x: int, scratch: int) -> None:
    """Copies channels into planes, with zeros where a view looks beyond the map."""
    channels = carray(pointer(task.channels, np.int64), task.n_channels)
    views = carray(pointer(task.views, VIEW), task.n_views)
    rows, pitch, down, right = task.rows, task.pitch, task.down, task.right
    height, width = task.height, task.width
    zero = np.float32(0)
    for channel in channels:
        for v in range(len(views)):
            top, left, begin, end = views[v].top, views[v].left, views[v].begin, views[v].end
            target = scratch + 4 * (channel * len(views) + v) * rows * pitch
            for i in range(rows):
                y = i * down + top
                stop = end if 0 <= y < height else begin
                for j in range(begin):
                    poke(target + 4 * j, zero)
                row = x + 4 * ((channel * height + y) * width + left)
                if right == 1:
                    for j in range(begin, stop):
                        poke(target + 4 * j, peek(row + 4 * j))
                else:
                    for j in range(begin, stop):
                        poke(target + 4 * j, peek(row + 4 * j * right))
                for j in range(stop, pitch):
                    poke(target + 4 * j, zero)
                target += 4 * pitch


def multiplying(tile: Any) -> Any:
    """The walk over a share with tiles of a kind."""

    @njit
    def multiply(task: np.record, source: int, out: int, residual: int) -> None:
        """Computes the units of the share for one image."""
        blocks = carray(pointer(task.blocks, BLOCK), task.n_blocks)
        tiles = carray(pointer(task.tiles, TILE), task.n_tiles)
        low = np.float32(0 if task.relu else -np.inf)
        for unit in range(task.first, task.last):
            block = blocks[unit % len(blocks)]
            start = unit // len(blocks) * task.chunk
            for t in range(start, min(start + task.chunk, len(tiles))):
                place = tiles[t]
                tile(
                    block.filters,
                    place.shape,
                    block.depth,
                    source + 4 * place.pixel,
                    place.step,
                    place.left,
                    place.second_left,
                    task.wide,
                    task.gap,
                    task.offsets + 4 * block.offset,
                    task.weight + 4 * block.weight,
                    task.bias + 4 * block.filter,
                    out + 4 * place.out_pixel,
                    task.out_offsets + 4 * block.filter,
                    residual + 4 * place.out_pixel if residual else 0,
                    low,
                )

    return multiply


_multiply = multiplying(tile)


def stamp() -> int:
    """A number that changes with the kernel's sources, its compiler and the processor.

    Numba looks at the time of one file and at the processor's name. The tiles come from another file, and a folder may
    be shared between machines.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {FEATURES}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return int.from_bytes(digest.digest()[:7], "little")


def _functions(stamp: int) -> tuple[Any, Any, Any]:
    """A share, and two ways over layers. What they enclose is part of the key under which Numba keeps their code."""

    def share(record: int, x: int, out: int, residual: int, images: int, scratch: int) -> None:
        _ = stamp
        task = carray(pointer(record, TASK), 1)[0]
        for image in range(images):
            source = x + 4 * image * task.x_size
            if task.scratch_size:
                _pack(task, source, scratch)
                source = scratch
            place = 4 * image * task.out_size
            _multiply(task, source, out + place, residual + place if residual else 0)

    def one_by_one(steps: int, count: int, images: int, scratch: int) -> None:
        _ = stamp
        for step in carray(pointer(steps, STEP), count):
            call(step.function, step.records, step.x, step.out, step.residual, images, scratch)

    def side_by_side(steps: int, count: int, images: int, scratch: int, split: int, threads: int) -> None:
        _ = stamp
        table = carray(pointer(steps, STEP), count)
        for s in range(count):
            function, records = table[s].function, table[s].records
            x, out, residual = table[s].x, table[s].out, table[s].residual
            for i in prange(threads):
                record = records + TASK_BYTES * (i % split)
                task = carray(pointer(record, TASK), 1)[0]
                first = images * (i // split) // (threads // split)
                last = images * (i // split + 1) // (threads // split)
                call(
                    function,
                    record,
                    x + 4 * first * task.x_size,
                    out + 4 * first * task.out_size,
                    residual + 4 * first * task.out_size if residual else 0,
                    last - first,
                    scratch + 4 * i * task.scratch_size,
                )

    return share, one_by_one, side_by_side


share, _one_by_one, _side_by_side_in_python = _functions(stamp())
_side_by_side = njit(parallel=True, cache=True)(_side_by_side_in_python)


@cache
def _alone() -> Callable[[int, int, int, int], None]:
    """What computes steps on one thread, without holding Python's lock."""
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(address_of(_one_by_one, 4))


def address_of(function: Callable[..., None], arguments: int) -> int:
    """Where the machine code of a function of so many integers lies, made when first needed and kept on disk."""
    return int(_made(function, arguments).address)


@cache
def _made(function: Callable[..., None], arguments: int) -> Any:
    return cfunc(types.void(*[types.int64] * arguments), cache=True)(function)  # kept: with it would go its code


def threads_to_use() -> int:
    """As many as PyTorch has been told to use, if Numba has them."""
    if os.getpid() != _PROCESS:
        return 1
    return min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def compute(steps: np.ndarray, images: int, scratch: int, split: int, threads: int) -> None:
    """Computes layers one after the other, each for all images.

    Args:
        steps: STEP (layers,).
        images: how many.
        scratch: address of room for packing, `threads` times what the hungriest step needs.
        split: how many threads share an image, each with a record of its own; the images are shared by the others.
        threads: how many, a multiple of `split`.
    """
    if threads == 1:
        _alone()(steps.ctypes.data, len(steps), images, scratch)
    else:
        with _one_at_a_time:
            numba.set_num_threads(threads)
            _side_by_side(steps.ctypes.data, len(steps), images, scratch, split, threads)
