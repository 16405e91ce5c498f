"""A grouped convolution in which grouping costs nothing: it reads its input channels through an index.

Results are written where they belong, with bias, residual sum and ReLU fused in. What the kernel does is laid out in
tables, made once for each layer (blocks of filters) and each input size (tiles of pixels); the index has one entry for
each channel and tap.

Source: Dukhan 2019, arXiv 1907.02129.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flgc_lib.frozen.kernel import loops, pairs
from flgc_lib.frozen.kernel.geometry import Geometry, geometry
from flgc_lib.frozen.kernel.loops import BLOCK, PAIR, STEP, TASK, compute, threads_to_use
from flgc_lib.frozen.kernel.shapes import LANES, MOST_FILTERS
from flgc_lib.frozen.window import Window

CACHE_FLOATS = 65536
"""Inputs that a block of filters walks over before the next block does: they should stay in the level-2 cache."""


class Schedule(NamedTuple):
    """What the kernel is told about one input size."""

    function: int
    """Address of the machine code."""
    tasks: int
    """Address of TASK (split,), one for each thread that shares an image."""
    scratch_size: int
    """Floats that each thread needs for its packed input."""
    out_size: tuple[int, int]
    """(H', W')."""
    kept: object
    """Owners of the memory that the tasks point to."""


class IndirectConvolution:
    """A frozen layer's weights in the kernel's order, and the schedules of the input sizes that it has met.

    Args:
        window: the sliding window.
        weights: by group, float32 (filters(g), inputs(g), kh, kw).
        inputs: by group, the input channels.
        outputs: (N,), where the groups' filters are written.
        bias: (N,).
        in_channels: C.
        relu: whether negative results become 0.
        bf16: whether input and weights are rounded to bf16; sums stay float32. Needs a processor that has it.
    """

    def __init__(
        self,
        window: Window,
        weights: Sequence[Tensor],
        inputs: Sequence[Tensor],
        outputs: Tensor,
        bias: Tensor,
        in_channels: int,
        *,
        relu: bool,
        bf16: bool = False,
    ) -> None:
        share = pairs.share if bf16 else loops.share
        self.function = loops.address_of(share, 6)  # made now, if it can be made at all
        self.window = window
        self.in_channels = in_channels
        self.relu = relu
        self.bf16 = bf16
        self.area = math.prod(window.kernel_size)
        if bf16:
            paired, weights = _in_pairs(inputs, weights)
            self.inputs = np.arange(len(paired))
            self.packed = np.array([(i, *pair) for i, pair in enumerate(paired)], PAIR)
        else:
            self.inputs = torch.cat(list(inputs)).numpy().astype(np.int64)
            self.packed = np.arange(in_channels)
        self.outputs = outputs.numpy().astype(np.int64)
        self.bias = bias.numpy()
        self.blocks, self.weight = _in_blocks(weights)
        connections = int((self.blocks["filters"] * self.blocks["depth"]).sum()) / self.area
        self.readers = connections / max(1, len(self.packed))
        self._schedules: dict[tuple[int, int, int], Schedule] = {}

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """relu(conv(x) + bias + residual); float32 tensors on the CPU, (B, C, H, W)."""
        x = x.contiguous()
        batch, _, height, width = x.shape
        threads, split = shared_by(batch)
        schedule = self.schedule(height, width, split)
        added = 0
        if residual is not None:
            residual = residual.contiguous()
            added = residual.data_ptr()
        out = x.new_empty((batch, len(self.outputs), *schedule.out_size))
        scratch = x.new_empty(threads * schedule.scratch_size) if schedule.scratch_size else None
        steps = np.array([(schedule.function, schedule.tasks, x.data_ptr(), out.data_ptr(), added)], STEP)
        compute(steps, batch, 0 if scratch is None else scratch.data_ptr(), split, threads)
        return out

    def schedule(self, height: int, width: int, split: int) -> Schedule:
        """What `split` threads do that share an image of that size.

        Raises:
            ValueError: if the kernel cannot index a map of that size.
        """
        schedule = self._schedules.get((height, width, split))
        if schedule is None:
            schedule = self._schedules[height, width, split] = self._schedule(height, width, split)
        return schedule

    def _schedule(self, height: int, width: int, split: int) -> Schedule:
        out_size = self.window.output_size(height, width)
        pixels = math.prod(out_size)
        if self.window.is_by_pixel:
            height, width = 1, height * width  # rows make no difference, and copying them would
        walk = self._walk(height, width)
        scratch_size = len(self.packed) * walk.plane + walk.overhang if len(walk.views) else 0
        offsets = (self.inputs[:, None] * walk.plane + walk.tap_offsets).astype(np.int32).ravel()
        out_offsets = (self.outputs * pixels).astype(np.int32)
        chunk, bounds = self._shares(walk, split)
        channels = [self._channels(first, last) for first, last in pairwise(bounds)]
        values = {
            "x_size": self.in_channels * height * width,
            "out_size": len(self.outputs) * pixels,
            "scratch_size": scratch_size,
            "height": height,
            "width": width,
            "weight": self.weight.ctypes.data,
            "bias": self.bias.ctypes.data,
            "offsets": offsets.ctypes.data,
            "out_offsets": out_offsets.ctypes.data,
            "blocks": self.blocks.ctypes.data,
            "n_blocks": len(self.blocks),
            "tiles": walk.tiles.ctypes.data,
            "n_tiles": len(walk.tiles),
            "chunk": chunk,
            "first": bounds[:-1],
            "last": bounds[1:],
            "relu": self.relu,
            "channels": [read.ctypes.data for read in channels],
            "n_channels": [len(read) for read in channels],
            "views": walk.views.ctypes.data,
            "n_views": len(walk.views),
            "rows": walk.rows,
            "pitch": walk.pitch,
            "down": self.window.stride[0],
            "right": self.window.stride[1],
            "wide": walk.out_size[1],
            "gap": walk.gap,
        }
        tasks = np.zeros(split, TASK)
        for name in TASK.names or ():
            tasks[name] = values[name]
        return Schedule(
            self.function, tasks.ctypes.data, scratch_size, out_size, (tasks, walk, offsets, out_offsets, channels)
        )

    def _walk(self, height: int, width: int) -> Geometry:
        walk = geometry(self.window, height, width, self.readers, in_place=not self.bf16)
        largest = max(len(self.packed) * walk.plane, len(self.outputs) * math.prod(walk.out_size))
        if largest >= 2**31:
            raise ValueError(
                f"a map of {height * width} pixels needs {largest} numbers an image, more than the kernel can index; "
                "use another form for this layer: layer.use('equal')"
            )
        return walk

    def _shares(self, walk: Geometry, split: int) -> tuple[int, np.ndarray]:
        """Tiles a chunk, and (split + 1,) where the threads' shares of the units begin and end: about equal work."""
        filters, depths = self.blocks["filters"], self.blocks["depth"]
        tiles = len(walk.tiles)
        chunks = -(-tiles // max(1, CACHE_FLOATS // (max(1, int(depths.max())) * 2 * LANES)))
        work = np.concatenate([[0], np.tile(filters * (depths + 4), chunks).cumsum()])
        return -(-tiles // chunks), np.searchsorted(work, np.linspace(0, work[-1], split + 1) - 0.5)

    def _channels(self, first: int, last: int) -> np.ndarray:
        """What the units from `first` up to `last` read, each once: channels, or PAIR."""
        units = np.arange(first, min(last, first + len(self.blocks)))
        blocks = self.blocks[np.unique(units % len(self.blocks))]
        starts, stops = blocks["offset"] // self.area, (blocks["offset"] + blocks["depth"]) // self.area
        read = np.zeros(len(self.packed), bool)
        for start, stop in zip(starts, stops, strict=True):
            read[self.inputs[start:stop]] = True
        return self.packed[read]


def shared_by(batch: int) -> tuple[int, int]:
    """How many threads compute a batch, and how many of them share an image; a large batch is shared image by image."""
    threads = threads_to_use()
    return threads, threads if batch < threads else 1


def _in_blocks(weights: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Cuts groups into blocks of filters: BLOCK (blocks,), and float32, block by block (depth, filters)."""
    blocks, parts = [], []
    first_filter = offset = first_weight = 0
    for weight in weights:
        flat = weight.flatten(1)  # (filters(g), inputs(g) · kh · kw)
        depth = flat.shape[1]
        for rows in flat.chunk(-(-len(flat) // MOST_FILTERS)):
            blocks.append((first_filter, len(rows), depth, offset, first_weight))
            parts.append(rows.T.flatten())
            first_filter += len(rows)
            first_weight += rows.numel()
        offset += depth
    return np.array(blocks, BLOCK), torch.cat(parts).numpy()


def _in_pairs(inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[list[tuple[int, int]], list[Tensor]]:
    """Each group's channels by twos, and weights in bf16, int32 (filters(g), pairs(g), kh, kw): two in each.

    A last channel without another is a pair with itself, of which each takes half of the weight.
    """
    twos: list[tuple[int, int]] = []
    paired = []
    for channels, weight in zip(inputs, weights, strict=True):
        numbers, weight = channels.tolist(), weight.to(torch.bfloat16)
        if len(numbers) % 2:
            numbers.append(numbers[-1])
            weight = torch.cat([weight[:, :-1], *[weight[:, -1:] / 2] * 2], dim=1)
        twos += zip(numbers[::2], numbers[1::2], strict=True)
        weight = torch.stack([weight[:, ::2], weight[:, 1::2]], dim=-1)  # (filters(g), pairs(g), kh, kw, 2)
        paired.append(weight.view(torch.int32).squeeze(-1))
    return twos, paired
