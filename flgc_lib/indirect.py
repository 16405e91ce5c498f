"""A grouped convolution in which grouping costs nothing: it reads its input channels through an index.

Results are written where they belong, with bias, residual sum and ReLU fused in. What the kernel does is laid out in
tables, made once for each layer (blocks of filters) and each input size (tiles of pixels):

- A 1×1 convolution reads the rows of its input where they lie.
- Any other reads a copy of its input with zeros around it, one plane for each phase of the stride, in which each tap of
  the kernel is a shift: the index then has one entry for each channel and tap.
- On maps smaller than a vector register the copy has a plane for each tap instead (im2col), so that tiles are full.

Source: Dukhan 2019, arXiv 1907.02129.
"""

import math
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from flgc_lib.microkernel import LANES, MOST_FILTERS, TILES, peek, poke, tile

CACHE_FLOATS = 65536
"""Inputs that a block of filters walks over before the next block does: they should stay in the level-2 cache."""

_one_at_a_time = threading.Lock()  # Numba's simplest threading layer dies if two Python threads use it at once


class Taps(NamedTuple):
    """The sliding window of a convolution, (vertical, horizontal) each."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """How to walk over a map of one size."""

    packing: np.ndarray
    """int64 (rows, pitch, stride down, stride right) of a packed plane."""
    views: np.ndarray
    """int64 (views, 2): where in the input the first element of each packed plane of a channel comes from."""
    tiles: np.ndarray
    """int64 (tiles, 5): tile number in TILES, pixel in the input, its step, pixel in the output, its step."""
    plane: int
    """Floats from one channel to the next, in the packed copy or the input."""
    tap_offsets: np.ndarray
    """int64 (kernel positions,): where each tap begins in a channel."""
    packed: bool
    out_size: tuple[int, int]


@lru_cache(maxsize=512)
def geometry(taps: Taps, height: int, width: int, readers: float) -> Geometry:
    """Chooses between shifts and im2col, and cuts the output into tiles.

    Args:
        taps: the sliding window.
        height: H.
        width: W.
        readers: how many filters read a channel, on average: a copy costs less the more there are.
    """
    down, right = taps.stride
    reach = [d * (k - 1) for k, d in zip(taps.kernel, taps.dilation, strict=True)]
    high, wide = (
        (size + 2 * pad - far - 1) // step + 1
        for size, pad, far, step in zip((height, width), taps.padding, reach, taps.stride, strict=True)
    )
    positions = [
        (y * taps.dilation[0], x * taps.dilation[1]) for y in range(taps.kernel[0]) for x in range(taps.kernel[1])
    ]
    flat = _tiles([(0, 0)], high * wide)
    if taps == Taps((1, 1), (1, 1), (0, 0), taps.dilation):
        return Geometry(
            np.zeros(4, np.int64), np.zeros((0, 2), np.int64), flat, height * width, np.zeros(1, np.int64), False, (high, wide)
        )
    # Shifts: plane (a, b) holds the padded input's rows a, a + stride, … and columns b, b + stride, …
    rows, pitch = -(-(height + 2 * taps.padding[0]) // down), -(-(width + 2 * taps.padding[1]) // right)
    by_row = _tiles([(i * pitch, i * wide) for i in range(high)], wide)
    taps_count, phases = len(positions), down * right
    shift_cost = _vectors(by_row) * taps_count * readers + 3 * phases * rows * pitch / LANES
    column_cost = _vectors(flat) * taps_count * readers + 3 * taps_count * high * wide / LANES
    if shift_cost <= column_cost:
        views = [(a - taps.padding[0], b - taps.padding[1]) for a in range(down) for b in range(right)]
        starts = [
            ((y % down) * right + x % right) * rows * pitch + (y // down) * pitch + x // right for y, x in positions
        ]
        tiles = by_row
    else:
        rows, pitch, tiles = high, wide, flat
        views = [(y - taps.padding[0], x - taps.padding[1]) for y, x in positions]
        starts = [i * rows * pitch for i in range(taps_count)]
    return Geometry(
        np.array([rows, pitch, down, right], np.int64),
        np.array(views, np.int64),
        tiles,
        len(views) * rows * pitch,
        np.array(starts, np.int64),
        True,
        (high, wide),
    )


def _tiles(rows: list[tuple[int, int]], length: int) -> np.ndarray:
    """Cuts equally spaced rows, which begin at (pixel in the input, pixel in the output), into tiles."""
    result: list[tuple[int, int, int, int, int]] = []

    def along(row: tuple[int, int], start: int, stop: int) -> None:
        for number, shape in enumerate(TILES):
            width = shape.vectors * shape.lanes
            while shape.rows == 1 and stop - start >= width:
                result.append((number, row[0] + start, shape.lanes, row[1] + start, shape.lanes))
                start += width

    start = length - length % (2 * LANES)
    for row in rows:
        along(row, 0, start)
    for number, shape in enumerate(TILES):  # the ends of several rows make one full tile
        width, height = shape.lanes // shape.rows, shape.vectors * shape.rows
        while height > 1 and length - start >= width:
            for i in range(0, len(rows), height):
                group = rows[i : i + height]
                if len(group) == height:
                    (x, out), (next_x, next_out) = group[:2]
                    result.append((number, x + start, next_x - x, out + start, next_out - out))
                else:
                    for row in group:
                        along(row, start, start + width)
            start += width
    for row in rows:
        along(row, start, length)
    return np.array(result, np.int64).reshape(-1, 5)


def _vectors(tiles: np.ndarray) -> int:
    return sum(TILES[number].vectors for number in tiles[:, 0])


class IndirectConvolution:
    """A frozen layer's weights in the kernel's order, and the tables of the input sizes that it has met.

    Args:
        taps: the sliding window.
        weights: by group, float32 (filters(g), inputs(g), kh, kw).
        inputs: by group, the input channels.
        outputs: (N,), where the groups' filters are written.
        bias: (N,).
        in_channels: C.
    """

    def __init__(
        self, taps: Taps, weights: list[Tensor], inputs: list[Tensor], outputs: Tensor, bias: Tensor, in_channels: int
    ) -> None:
        self.taps = taps
        self.in_channels = in_channels
        self.inputs = torch.cat(inputs).numpy().astype(np.int64)
        self.outputs = outputs.numpy().astype(np.int64)
        self.bias = bias.numpy()
        blocks, parts = [], []
        area = math.prod(taps.kernel)
        first_filter = first_input = first_weight = 0
        for weight, channels in zip(weights, inputs, strict=True):
            flat = weight.flatten(1)  # (filters(g), inputs(g) · kh · kw)
            for rows in flat.chunk(-(-len(flat) // MOST_FILTERS)):
                blocks.append((first_filter, len(rows), rows.shape[1], first_input * area, first_weight))
                parts.append(rows.T.flatten())  # (depth, filters)
                first_filter += len(rows)
                first_weight += rows.numel()
            first_input += len(channels)
        self.blocks = np.array(blocks, np.int64)
        self.weight = torch.cat(parts).numpy()
        self.readers = float((self.blocks[:, 1] * self.blocks[:, 2]).sum()) / area / in_channels
        self._tables: dict[tuple[int, int, int], tuple] = {}

    def tables(self, height: int, width: int, threads: int) -> tuple:
        """What the kernel needs besides the layer for one input size and number of threads."""
        key = (height, width, threads)
        if key not in self._tables:
            shape = geometry(self.taps, height, width, self.readers)
            offsets = (self.inputs[:, None] * shape.plane + shape.tap_offsets).astype(np.int32).ravel()
            out_offsets = (self.outputs * math.prod(shape.out_size)).astype(np.int32)
            deepest = max(1, int(self.blocks[:, 2].max()))
            tiles = len(shape.tiles)
            chunk = max(1, min(tiles, CACHE_FLOATS // (deepest * 2 * LANES)))
            if threads > 1:
                chunk = max(1, min(chunk, tiles * len(self.blocks) // (4 * threads)))
            units = -(-tiles // chunk) * len(self.blocks)
            work = np.tile(self.blocks[:, 1] * (self.blocks[:, 2] + 4), -(-tiles // chunk)).cumsum()
            bounds = np.searchsorted(work, np.linspace(0, work[-1], threads + 1)[1:-1])
            self._tables[key] = (
                shape, offsets, out_offsets, chunk, np.concatenate([[0], bounds, [units]]).astype(np.int64)
            )
        return self._tables[key]

    def __call__(self, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        """relu(conv(x) + bias + residual); float32 tensors on the CPU, (B, C, H, W)."""
        x = x.contiguous()
        batch, _, height, width = x.shape
        threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
        shape, offsets, out_offsets, chunk, bounds = self.tables(height, width, threads)
        out = x.new_empty(batch, len(self.outputs), *shape.out_size)
        if residual is not None:
            residual = residual.contiguous()
        arguments = (
            x.data_ptr(), batch, self.in_channels, height, width,
            out.data_ptr(), len(self.outputs) * shape.out_size[0] * shape.out_size[1],
            0 if residual is None else residual.data_ptr(),
            self.weight, self.bias, self.blocks, offsets, out_offsets,
            shape.tiles, shape.views, shape.packing, shape.packed, shape.plane, chunk, bounds,
            np.float32(0 if relu else -np.inf),
        )
        if threads == 1:
            _run_serial(*arguments)
        else:
            with _one_at_a_time:
                numba.set_num_threads(threads)
                _run_parallel(*arguments)
        return out


@njit(nogil=True, cache=True)
def _pack(x, scratch, first, last, height, width, views, packing):  # noqa: ANN001, ANN202
    """Copies channels first … last - 1 into planes, zeros where a view looks beyond the map."""
    rows, pitch, down, right = packing
    zero = np.float32(0)
    for channel in range(first, last):
        source = x + 4 * channel * height * width
        for v in range(len(views)):
            top, left = views[v]
            begin = max(0, -(left // right))  # first column that lies in the map
            end = max(begin, min(pitch, (width - 1 - left) // right + 1))
            target = scratch + 4 * (channel * len(views) + v) * rows * pitch
            for i in range(rows):
                y = i * down + top
                inside = 0 <= y < height
                stop = end if inside else begin
                for j in range(begin):
                    poke(target + 4 * j, zero)
                row = source + 4 * (y * width + left)
                if right == 1:
                    for j in range(begin, stop):
                        poke(target + 4 * j, peek(row + 4 * j))
                else:
                    for j in range(begin, stop):
                        poke(target + 4 * j, peek(row + 4 * j * right))
                for j in range(stop, pitch):
                    poke(target + 4 * j, zero)
                target += 4 * pitch


@njit(nogil=True, cache=True)
def _multiply(source, out, residual, weight, bias, blocks, offsets, out_offsets, tiles, chunk, first, last, low):  # noqa: ANN001, ANN202
    """Computes units first … last - 1: a unit is one block of filters on one chunk of tiles."""
    for unit in range(first, last):
        start = unit // len(blocks) * chunk
        filters_from, filters, depth, offsets_from, weight_from = blocks[unit % len(blocks)]
        for t in range(start, min(start + chunk, len(tiles))):
            number, pixel, step, out_pixel, out_step = tiles[t]
            tile(
                filters, number, depth, source + 4 * pixel, step,
                offsets.ctypes.data + 4 * offsets_from, weight.ctypes.data + 4 * weight_from,
                bias.ctypes.data + 4 * filters_from, out + 4 * out_pixel, out_step,
                out_offsets.ctypes.data + 4 * filters_from, residual + 4 * out_pixel if residual else 0, low,
            )


@njit(nogil=True, cache=True)
def _run_serial(
    x, batch, channels, height, width, out, out_size, residual, weight, bias, blocks, offsets, out_offsets,
    tiles, views, packing, packed, plane, chunk, bounds, low,
):  # noqa: ANN001, ANN202
    scratch = np.empty(channels * plane if packed else 0, np.float32)
    for image in range(batch):
        image_x = x + 4 * image * channels * height * width
        if packed:
            _pack(image_x, scratch.ctypes.data, 0, channels, height, width, views, packing)
        _multiply(
            scratch.ctypes.data if packed else image_x, out + 4 * image * out_size,
            residual + 4 * image * out_size if residual else 0, weight, bias, blocks, offsets, out_offsets,
            tiles, chunk, 0, bounds[-1], low,
        )


@njit(nogil=True, cache=True, parallel=True)
def _run_parallel(
    x, batch, channels, height, width, out, out_size, residual, weight, bias, blocks, offsets, out_offsets,
    tiles, views, packing, packed, plane, chunk, bounds, low,
):  # noqa: ANN001, ANN202
    threads = len(bounds) - 1
    if batch >= threads:  # whole images
        for t in prange(threads):
            first, last = batch * t // threads, batch * (t + 1) // threads
            _run_serial(
                x + 4 * first * channels * height * width, last - first, channels, height, width,
                out + 4 * first * out_size, out_size, residual + 4 * first * out_size if residual else 0,
                weight, bias, blocks, offsets, out_offsets, tiles, views, packing, packed, plane, chunk, bounds, low,
            )
        return
    scratch = np.empty(channels * plane if packed else 0, np.float32)
    for image in range(batch):
        image_x = x + 4 * image * channels * height * width
        if packed:
            for t in prange(threads):
                _pack(
                    image_x, scratch.ctypes.data, channels * t // threads, channels * (t + 1) // threads, height, width,
                    views, packing,
                )
        source = scratch.ctypes.data if packed else image_x
        for t in prange(threads):
            _multiply(
                source, out + 4 * image * out_size, residual + 4 * image * out_size if residual else 0,
                weight, bias, blocks, offsets, out_offsets, tiles, chunk, bounds[t], bounds[t + 1], low,
            )
