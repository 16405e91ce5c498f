"""The loops of the indirect convolution: what one thread does with its share of a layer.

A share is described by integers, most of them addresses: those of a call's tensors, and a record that stays the same
from call to call. The compiled code is then the same whatever calls it.
"""

import ctypes
from collections.abc import Callable
from enum import IntEnum, auto
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, prange, types
from numba.extending import intrinsic

from flgc_lib.frozen.kernel.microkernel import peek, poke, tile


class Field(IntEnum):
    """Entries of the record, int64 each. Addresses unless said otherwise."""

    X_SIZE = 0
    """Floats of an image of the input."""
    OUT_SIZE = auto()
    """Floats of an image of the output."""
    SCRATCH_SIZE = auto()
    """Floats of the packed input, 0 if the input is read where it lies."""
    HEIGHT = auto()
    WIDTH = auto()
    WEIGHT = auto()
    """float32, block by block (depth, filters)."""
    BIAS = auto()
    OFFSETS = auto()
    """int32, block by block (depth,): where the inputs of the block's filters begin."""
    OUT_OFFSETS = auto()
    """int32 (filters,): where the filters' planes begin."""
    BLOCKS = auto()
    """int64 (blocks, 5): first filter, filters, depth, first offset, first weight."""
    N_BLOCKS = auto()
    TILES = auto()
    """int64 (tiles, 5): shape, pixel in the input, its step, pixel in the output, its step."""
    N_TILES = auto()
    CHUNK = auto()
    """Tiles that all blocks go over before the next tiles are read: they should stay in the cache."""
    FIRST = auto()
    """First unit of the share: unit u is block u % N_BLOCKS on chunk u // N_BLOCKS."""
    LAST = auto()
    """One behind the last unit."""
    RELU = auto()
    """0 or 1."""
    CHANNELS = auto()
    """int64: the channels to pack."""
    N_CHANNELS = auto()
    VIEWS = auto()
    """int64 (views, 2): where in a channel the first element of each of its packed planes comes from."""
    N_VIEWS = auto()
    ROWS = auto()
    """Rows of a packed plane."""
    PITCH = auto()
    """Its columns."""
    DOWN = auto()
    """Stride from row to row in the channel."""
    RIGHT = auto()
    """Stride from column to column in the channel."""


# Numba reads plain integers, not enum members.
X_SIZE, OUT_SIZE, SCRATCH_SIZE, HEIGHT, WIDTH, WEIGHT, BIAS, OFFSETS, OUT_OFFSETS = (int(f) for f in list(Field)[:9])
BLOCKS, N_BLOCKS, TILES, N_TILES, CHUNK, FIRST, LAST, RELU = (int(f) for f in list(Field)[9:17])
CHANNELS, N_CHANNELS, VIEWS, N_VIEWS, ROWS, PITCH, DOWN, RIGHT = (int(f) for f in list(Field)[17:])
FIELDS = len(Field)


@intrinsic
def integers(typing_context: Any, address: Any) -> Any:
    """The pointer to int64 that an address is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), generate


@intrinsic
def call(
    typing_context: Any, function: Any, record: Any, x: Any, out: Any, residual: Any, images: Any, scratch: Any
) -> Any:
    """Calls `_share`'s machine code by its address: compiled into each caller, it would be compiled again for each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 6)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


def _share(record: int, x: int, out: int, residual: int, images: int, scratch: int) -> None:
    """Packs and multiplies all images of the share; the arguments are those of `alone`'s function."""
    task = carray(integers(record), FIELDS)
    for image in range(images):
        source = x + 4 * image * task[X_SIZE]
        if task[SCRATCH_SIZE]:
            _pack(task, source, scratch)
            source = scratch
        place = 4 * image * task[OUT_SIZE]
        _multiply(task, source, out + place, residual + place if residual else 0)


@njit
def _pack(task: np.ndarray, x: int, scratch: int) -> None:
    """Copies channels into planes, with zeros where a view looks beyond the map."""
    channels, views = (
        carray(integers(task[CHANNELS]), task[N_CHANNELS]),
        carray(integers(task[VIEWS]), (task[N_VIEWS], 2)),
    )
    rows, pitch, down, right = task[ROWS], task[PITCH], task[DOWN], task[RIGHT]
    height, width = task[HEIGHT], task[WIDTH]
    zero = np.float32(0)
    for channel in channels:
        for v in range(len(views)):
            top, left = views[v]
            begin = min(pitch, max(0, -(left // right)))  # first column that lies in the map
            end = max(begin, min(pitch, (width - 1 - left) // right + 1))
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


@njit
def _multiply(task: np.ndarray, source: int, out: int, residual: int) -> None:
    """Computes the units of the share for one image."""
    blocks, tiles = (
        carray(integers(task[BLOCKS]), (task[N_BLOCKS], 5)),
        carray(integers(task[TILES]), (task[N_TILES], 5)),
    )
    low = np.float32(0 if task[RELU] else -np.inf)
    for unit in range(task[FIRST], task[LAST]):
        filter_, filters, depth, offset, weight = blocks[unit % len(blocks)]
        start = unit // len(blocks) * task[CHUNK]
        for t in range(start, min(start + task[CHUNK], len(tiles))):
            shape, pixel, step, out_pixel, out_step = tiles[t]
            tile(
                filters,
                shape,
                depth,
                source + 4 * pixel,
                step,
                task[OFFSETS] + 4 * offset,
                task[WEIGHT] + 4 * weight,
                task[BIAS] + 4 * filter_,
                out + 4 * out_pixel,
                out_step,
                task[OUT_OFFSETS] + 4 * filter_,
                residual + 4 * out_pixel if residual else 0,
                low,
            )


@njit(parallel=True, cache=True)
def _side_by_side(
    function: int, records: int, x: int, out: int, residual: int, images: int, scratch: int, split: int, threads: int
) -> None:
    for i in prange(threads):
        record = records + 8 * FIELDS * (i % split)
        task = carray(integers(record), FIELDS)
        first = images * (i // split) // (threads // split)
        last = images * (i // split + 1) // (threads // split)
        call(
            function,
            record,
            x + 4 * first * task[X_SIZE],
            out + 4 * first * task[OUT_SIZE],
            residual + 4 * first * task[OUT_SIZE] if residual else 0,
            last - first,
            scratch + 4 * i * task[SCRATCH_SIZE],
        )


@lru_cache(maxsize=1)
def _compiled() -> Any:
    """The machine code of `_share`, made when it is first needed and kept on disk."""
    return cfunc(types.void(*[types.int64] * 6), cache=True)(_share)


@lru_cache(maxsize=1)
def alone() -> Callable[[int, int, int, int, int, int], None]:
    """A function that computes one share, without holding Python's lock.

    Its arguments are addresses: of the record, of the first image's input and output, of what is added to the output
    (laid out as it, possibly the same, 0 for nothing); the number of images; the address of room for packing.
    """
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(_compiled().address)


def together(
    records: int, x: int, out: int, residual: int, images: int, scratch: int, split: int, threads: int
) -> None:
    """Computes all images on Numba's threads: each image by `split` of them, one a record, the images by the others.

    The arguments are as of `alone`'s function; the room for packing is `threads` times as large.
    """
    _side_by_side(_compiled().address, records, x, out, residual, images, scratch, split, threads)
