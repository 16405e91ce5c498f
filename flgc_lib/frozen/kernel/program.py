"""Layers that follow one another, computed by one call of machine code: a table of addresses, and memory for maps.

Between layers that are called one by one, Python takes 16 µs and more: a quarter of a frozen ResNet-50's time, or more.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flgc_lib.frozen.kernel.indirect import IndirectConvolution, shared_by
from flgc_lib.frozen.kernel.loops import STEP, compute

ALIGNED = 16
"""Maps begin at multiples of so many floats, a line of the cache."""


class Step(NamedTuple):
    """A layer of a program. Values are numbered: first the program's inputs, then the result of each step."""

    convolution: IndirectConvolution
    x: int
    """The value that it reads."""
    residual: int | None
    """The value that is added."""


class Program:
    """What the kernel does for inputs of these sizes, with the present number of threads.

    Maps that nobody outside reads share one piece of memory, each from when it is written to when it was last read.

    Args:
        steps: the layers, in the order of their computation.
        sizes: of all values, (B, C, H, W), with one B: the kernel is told once how many images there are.
        results: the values that are returned.

    Raises:
        ValueError: if the values have several B.
    """

    def __init__(self, steps: Sequence[Step], sizes: Sequence[Sequence[int]], results: Sequence[int]) -> None:
        batches = {size[0] for size in sizes}
        if len(batches) > 1:
            raise ValueError(f"a program computes one number of images, and got {sorted(batches)}")
        (self.batch,) = batches
        self.inputs = len(sizes) - len(steps)
        self.threads, self.split = shared_by(self.batch)
        schedules = []
        for step in steps:
            _, _, height, width = sizes[step.x]
            schedules.append(step.convolution.schedule(height, width, self.split))
        self.kept = schedules, steps  # they own what the table points to
        self.scratch = self.threads * max(schedule.scratch_size for schedule in schedules)
        self.owner = _owners(steps, self.inputs, results)
        own = [owner for value, owner in enumerate(self.owner) if value == owner >= self.inputs]
        returned = {self.owner[value] for value in results}
        self.made = [value for value in own if value in returned]
        self.made_sizes = [torch.Size(sizes[value]) for value in self.made]
        self.results = results
        inner = {value: _aligned(int(np.prod(sizes[value]))) for value in own if value not in returned}
        places, self.room = place(inner, _lives(steps, self.inputs, self.owner))
        bases = {value: n for n, value in enumerate([*range(self.inputs), *self.made])}
        nothing, arena = len(bases), len(bases) + 1

        def where(value: int | None) -> tuple[int, int]:
            if value is None:
                return nothing, 0
            owner = self.owner[value]
            return (bases[owner], 0) if owner in bases else (arena, 4 * places[owner])

        values = [(step.x, self.inputs + n, step.residual) for n, step in enumerate(steps)]
        table = np.array([[where(value) for value in row] for row in values])  # (steps, 3, 2)
        self.bases, self.places = table[..., 0], table[..., 1]
        self.table = np.array([[schedule.function, schedule.tasks, 0, 0, 0] for schedule in schedules], np.int64)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The results; float32 tensors on the CPU."""
        inputs = tuple([x.contiguous() for x in inputs])
        made = [inputs[0].new_empty(size) for size in self.made_sizes]
        room = inputs[0].new_empty(self.room + self.scratch)
        arena = room.data_ptr()
        addresses = [*(x.data_ptr() for x in inputs), *(out.data_ptr() for out in made), 0, arena]
        steps = self.table.copy()
        steps[:, 2:] = np.array(addresses)[self.bases] + self.places
        compute(steps.view(STEP)[:, 0], self.batch, arena + 4 * self.room, self.split, self.threads)
        tensors = dict(zip([*range(self.inputs), *self.made], [*inputs, *made], strict=True))
        return [tensors[self.owner[value]] for value in self.results]


def _owners(steps: Sequence[Step], inputs: int, results: Sequence[int]) -> list[int]:
    """By value: the value whose memory it lies in, its own or that of its residual, if that is read for the last time.

    Inputs are never overwritten, nor are results: others hold them too, a hook for one.
    """
    owner = list(range(inputs))
    kept = {*owner, *results}
    last_read = {value: n for n, step in enumerate(steps) for value in (step.x, step.residual)}
    for n, step in enumerate(steps):
        added = step.residual
        if added is None or added in kept or added == step.x or last_read[added] > n:
            owner.append(len(owner))
        else:
            owner.append(owner[added])
    return owner


def _lives(steps: Sequence[Step], inputs: int, owner: Sequence[int]) -> dict[int, tuple[int, int]]:
    """By owner of memory: the steps in which it is first and last used."""
    lives: dict[int, tuple[int, int]] = {}
    for n, step in enumerate(steps):
        for value in (step.x, inputs + n, step.residual):
            if value is not None:
                first, _ = lives.get(owner[value], (n, n))
                lives[owner[value]] = first, n
    return lives


def place(sizes: dict[int, int], lives: dict[int, tuple[int, int]]) -> tuple[dict[int, int], int]:
    """Lays out maps in one piece of memory, so that those in use at the same time do not overlap.

    A map takes the slot that was left last, which is most likely still in the cache.

    Args:
        sizes: of each map, in the order in which they are first used.
        lives: the steps in which each is first and last used, both included.

    Returns:
        Where each begins, and the size of the whole.
    """
    slots: list[int] = []  # their sizes
    slot_of: dict[int, int] = {}
    for value, size in sizes.items():
        begin = lives[value][0]
        taken = {slot for other, slot in slot_of.items() if lives[other][1] >= begin}
        left = {slot: lives[other][1] for other, slot in slot_of.items() if slot not in taken}  # its last user's end
        slot = max(left, key=left.__getitem__) if left else len(slots)
        if slot == len(slots):
            slots.append(0)
        slots[slot] = max(slots[slot], size)
        slot_of[value] = slot
    starts = [0, *np.cumsum(slots).tolist()]
    return {value: starts[slot] for value, slot in slot_of.items()}, starts[-1]


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
