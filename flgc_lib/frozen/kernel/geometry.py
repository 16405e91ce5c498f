"""How the indirect convolution walks over a map: where it reads its taps, and which pixels it computes together.

- A 1×1 convolution reads the rows of its input where they lie, or in bf16 a copy of them as one long row.
- Any other reads a copy of its input with zeros around it, one plane for each phase of the stride, in which each tap of
  the kernel is a shift.
- On very small maps the copy has a plane for each tap instead (im2col).

In the output, a map is one line of pixels, whatever its width. Where a vector of them crosses the end of a row, its
input is put together from several rows: the copy has a gap between them, of a few zeros.

Source: Dukhan 2019, arXiv 1907.02129.
"""

from dataclasses import dataclass

import numpy as np

from flgc_lib.frozen.kernel.loops import TILE, VIEW
from flgc_lib.frozen.kernel.shapes import LANES, QUARTERS, SHAPES, Shape
from flgc_lib.frozen.window import Window

ROW_COST = 20
"""About how many instructions it takes to begin and end the copy of a row."""


@dataclass(frozen=True)
class Geometry:
    """How to walk over a map of one size."""

    out_size: tuple[int, int]
    tiles: np.ndarray
    """TILE (tiles,)."""
    tap_offsets: np.ndarray
    """int64 (kernel positions,): where each tap begins in a channel."""
    plane: int
    """Floats from one channel to the next, in the packed copy or the input."""
    views: np.ndarray
    """VIEW (views,): where each packed plane of a channel comes from; none if the input is read where it lies."""
    rows: int = 0
    """Of a packed plane."""
    pitch: int = 0
    """Its columns."""
    gap: int = 0
    """Floats between the last pixel of an output row, and the first of the next, in the input."""

    @property
    def overhang(self) -> int:
        """How far behind the last pixel a tile may read, to no effect."""
        return max(shape.rows - 1 for shape in SHAPES) * self.gap

    def cost(self, readers: float) -> float:
        """About how many instructions a channel takes if so many filters read it: to multiply and to copy."""
        vectors = sum(SHAPES[number].vectors for number in self.tiles["shape"])
        copy = len(self.views) * self.rows * ROW_COST + 3 * self.plane / LANES
        return vectors * len(self.tap_offsets) * readers + copy


def geometry(window: Window, height: int, width: int, readers: float, *, in_place: bool = True) -> Geometry:
    """Chooses between shifts and im2col, and cuts the output into tiles.

    Args:
        window: the sliding window.
        height: H.
        width: W.
        readers: how many filters read a channel, on average: a copy costs less the more there are.
        in_place: whether a 1×1 convolution may read its input where it lies.
    """
    if window.is_by_pixel and in_place:
        pixels = height * width
        return Geometry((height, width), _tiles(pixels, pixels, 0), np.zeros(1, np.int64), pixels, np.zeros(0, VIEW))
    choices = _shifts(window, height, width), _columns(window, height, width)
    return min(choices, key=lambda choice: choice.cost(readers))


def _shifts(window: Window, height: int, width: int) -> Geometry:
    """Plane (a, b) holds the padded input's rows and columns that begin with (a, b), a stride apart."""
    (down, right), (above, left) = window.stride, window.padding
    rows, pitch = -(-(height + 2 * above) // down), -(-(width + 2 * left) // right)
    views = [(a - above, b - left) for a in range(down) for b in range(right)]
    starts = [
        ((y % down) * right + x % right) * rows * pitch + (y // down) * pitch + x // right for y, x in _taps(window)
    ]
    return _packed(window, height, width, starts, views, rows, pitch)


def _columns(window: Window, height: int, width: int) -> Geometry:
    """A plane a tap, of the output's size: what the tap reads for each pixel."""
    above, left = window.padding
    high, wide = window.output_size(height, width)
    views = [(y - above, x - left) for y, x in _taps(window)]
    starts = [i * high * wide for i in range(len(views))]
    return _packed(window, height, width, starts, views, high, wide)


def _packed(
    window: Window,
    height: int,
    width: int,
    starts: list[int],
    corners: list[tuple[int, int]],
    rows: int,
    pitch: int,
) -> Geometry:
    high, wide = window.output_size(height, width)
    gap, plane = pitch - wide, len(corners) * rows * pitch
    views = [
        (top, left, *_inside(top, window.stride[0], rows, height), *_inside(left, window.stride[1], pitch, width))
        for top, left in corners
    ]
    tiles = _tiles(high * wide, wide, gap)
    return Geometry((high, wide), tiles, np.array(starts, np.int64), plane, np.array(views, VIEW), rows, pitch, gap)


def _inside(start: int, stride: int, count: int, size: int) -> tuple[int, int]:
    """From which up to which of `count` places, from `start` on, lie in a map of that size."""
    begin = min(count, max(0, -(start // stride)))
    return begin, max(begin, min(count, (size - 1 - start) // stride + 1))


def _taps(window: Window) -> list[tuple[int, int]]:
    (high, wide), (down, right) = window.kernel_size, window.dilation
    return [(y * down, x * right) for y in range(high) for x in range(wide)]


def _tiles(length: int, wide: int, gap: int) -> np.ndarray:
    """Cuts a line of pixels into tiles, TILE (tiles,); in the input there is a gap behind every `wide` of them."""
    if gap == 0:
        wide = length
    result: list[tuple[int, ...]] = []
    start = 0
    while start < length:
        number, shape = next((n, s) for n, s in enumerate(SHAPES) if _fits(s, start, length, wide))
        first, *others = (start + v * shape.lanes for v in range(shape.vectors))
        second = others[0] if others else first
        step = second - first + (second // wide - first // wide) * gap
        place = first + first // wide * gap
        result.append((number, place, step, first, wide - first % wide, wide - second % wide))
        start += shape.vectors * shape.lanes
    return np.array(result, TILE)


def _fits(shape: Shape, start: int, length: int, wide: int) -> bool:
    """Whether a tile that begins there ends in the line, and no vector of it takes more rows than it can."""
    if shape.rows == QUARTERS and QUARTERS * wide != shape.lanes:
        return False
    vectors = [start + v * shape.lanes for v in range(shape.vectors)]
    rows = max((first + shape.lanes - 1) // wide - first // wide + 1 for first in vectors)
    return vectors[-1] + shape.lanes <= length and rows <= shape.rows
