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
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from flgc_lib.frozen.kernel.loops import FIELDS, Field, alone, together
from flgc_lib.frozen.kernel.microkernel import LANES, MOST_FILTERS, TILES

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
            np.zeros(4, np.int64),
            np.zeros((0, 2), np.int64),
            flat,
            height * width,
            np.zeros(1, np.int64),
            False,
            (high, wide),
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
    """A frozen layer's weights in the kernel's order, and the records of the input sizes that it has met.

    Args:
        taps: the sliding window.
        weights: by group, float32 (filters(g), inputs(g), kh, kw).
        inputs: by group, the input channels.
        outputs: (N,), where the groups' filters are written.
        bias: (N,).
        in_channels: C.
        relu: whether negative results become 0.
    """

    def __init__(
        self,
        taps: Taps,
        weights: list[Tensor],
        inputs: list[Tensor],
        outputs: Tensor,
        bias: Tensor,
        in_channels: int,
        *,
        relu: bool,
    ) -> None:
        self.taps = taps
        self.in_channels = in_channels
        self.relu = relu
        self.inputs = torch.cat(inputs).numpy().astype(np.int64)
        self.outputs = outputs.numpy().astype(np.int64)
        self.bias = bias.numpy()
        blocks, parts, channels_of_block = [], [], []
        area = math.prod(taps.kernel)
        first_filter = first_input = first_weight = 0
        for weight, channels in zip(weights, inputs, strict=True):
            flat = weight.flatten(1)  # (filters(g), inputs(g) · kh · kw)
            for rows in flat.chunk(-(-len(flat) // MOST_FILTERS)):
                blocks.append((first_filter, len(rows), rows.shape[1], first_input * area, first_weight))
                parts.append(rows.T.flatten())  # (depth, filters)
                channels_of_block.append((first_input, first_input + len(channels)))
                first_filter += len(rows)
                first_weight += rows.numel()
            first_input += len(channels)
        self.blocks = np.array(blocks, np.int64)
        self.channels_of_block = channels_of_block
        self.weight = torch.cat(parts).numpy()
        self.readers = float((self.blocks[:, 1] * self.blocks[:, 2]).sum()) / area / in_channels
        self._records: dict[tuple[int, int, int], Records] = {}

    def __call__(self, x: Tensor, residual: Tensor | None = None, *, overwrite: bool = False) -> Tensor:
        """relu(conv(x) + bias + residual); float32 tensors on the CPU, (B, C, H, W).

        Args:
            x: the input.
            residual: what is added to the result, of its shape.
            overwrite: whether the residual's memory may become the result's.
        """
        x = x.contiguous()
        batch, _, height, width = x.shape
        threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        split = threads if batch < threads else 1  # of one image; a large batch is split by image
        records = self._records.get((height, width, split))
        if records is None:
            records = self._records[height, width, split] = self._tabulate(height, width, split)
        if residual is not None:
            residual = residual.contiguous()
        out = (
            residual if residual is not None and overwrite else x.new_empty(batch, len(self.outputs), *records.out_size)
        )
        scratch = x.new_empty(threads * records.scratch_size) if records.scratch_size else None
        addresses = [0 if t is None else t.data_ptr() for t in (x, out, residual, scratch)]
        source, target, added, room = addresses
        if threads == 1:
            alone()(records.address, source, target, added, batch, room)
        else:
            with _one_at_a_time:
                numba.set_num_threads(threads)
                together(records.address, source, target, added, batch, room, split, threads)
        return out

    def _tabulate(self, height: int, width: int, split: int) -> "Records":
        """The records of an input size, for an image shared out to `split` threads."""
        shape = geometry(self.taps, height, width, self.readers)
        largest = max(self.in_channels * shape.plane, len(self.outputs) * math.prod(shape.out_size))
        if largest >= 2**31:
            raise ValueError(
                f"a map of {height} × {width} needs {largest} numbers an image, more than the kernel can index; "
                "use another form for this layer: layer.use('equal')"
            )
        offsets = (self.inputs[:, None] * shape.plane + shape.tap_offsets).astype(np.int32).ravel()
        out_offsets = (self.outputs * math.prod(shape.out_size)).astype(np.int32)
        deepest = max(1, int(self.blocks[:, 2].max()))
        n_tiles, n_blocks = len(shape.tiles), len(self.blocks)
        chunks = -(-n_tiles // max(1, CACHE_FLOATS // (deepest * 2 * LANES)))
        chunk = -(-n_tiles // chunks)
        work = np.concatenate([[0], np.tile(self.blocks[:, 1] * (self.blocks[:, 2] + 4), chunks).cumsum()])
        bounds = np.searchsorted(work, np.linspace(0, work[-1], split + 1) - 0.5)
        scratch_size = self.in_channels * shape.plane if shape.packed else 0
        table = np.zeros((split, FIELDS), np.int64)
        kept: list[object] = [offsets, out_offsets, shape]
        for i, task in enumerate(table):
            first, last = bounds[i], bounds[i + 1]
            mine = sorted({unit % n_blocks for unit in range(first, min(last, first + n_blocks))})
            used = [self.inputs[slice(*self.channels_of_block[block])] for block in mine]
            channels = np.unique(np.concatenate([*used, np.zeros(0, np.int64)]))
            kept.append(channels)
            rows, pitch, down, right = shape.packing
            values = {
                Field.X_SIZE: self.in_channels * height * width,
                Field.OUT_SIZE: len(self.outputs) * math.prod(shape.out_size),
                Field.SCRATCH_SIZE: scratch_size,
                Field.HEIGHT: height,
                Field.WIDTH: width,
                Field.WEIGHT: self.weight.ctypes.data,
                Field.BIAS: self.bias.ctypes.data,
                Field.OFFSETS: offsets.ctypes.data,
                Field.OUT_OFFSETS: out_offsets.ctypes.data,
                Field.BLOCKS: self.blocks.ctypes.data,
                Field.N_BLOCKS: n_blocks,
                Field.TILES: shape.tiles.ctypes.data,
                Field.N_TILES: n_tiles,
                Field.CHUNK: chunk,
                Field.FIRST: first,
                Field.LAST: last,
                Field.RELU: self.relu,
                Field.CHANNELS: channels.ctypes.data,
                Field.N_CHANNELS: len(channels),
                Field.VIEWS: shape.views.ctypes.data,
                Field.N_VIEWS: len(shape.views),
                Field.ROWS: rows,
                Field.PITCH: pitch,
                Field.DOWN: down,
                Field.RIGHT: right,
            }
            for field, value in values.items():
                task[field] = value
        return Records(table.ctypes.data, scratch_size, shape.out_size, [table, *kept])


class Records(NamedTuple):
    """What the kernel is told about one input size."""

    address: int
    """Of int64 (split, FIELDS), one record for each thread that shares an image."""
    scratch_size: int
    """Floats that each thread needs for its packed input."""
    out_size: tuple[int, int]
    """(H', W')."""
    kept: list[object]
    """Owners of the memory that the records and their addresses point to."""
