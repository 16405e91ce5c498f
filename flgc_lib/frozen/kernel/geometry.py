"""How the indirect convolution walks over a map: where it reads its taps, and which pixels it computes together.

- A 1×1 convolution reads the rows of its input where they lie.
- Any other reads a copy of its input with zeros around it, one plane for each phase of the stride, in which each tap of
  the kernel is a shift.
- On maps smaller than a vector register the copy has a plane for each tap instead (im2col), so that tiles are full.

Source: Dukhan 2019, arXiv 1907.02129.
"""

from dataclasses import dataclass

import numpy as np

from flgc_lib.frozen.kernel.loops import TILE, VIEW
from flgc_lib.frozen.kernel.microkernel import LANES, SHAPES, Shape
from flgc_lib.frozen.window import Window

Row = tuple[int, int]
"""Where a row of pixels begins in the input and in the output."""


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

    def cost(self, readers: float) -> float:
        """About how many instructions a channel takes if so many filters read it: to multiply and to copy."""
        vectors = sum(SHAPES[number].vectors for number in self.tiles["shape"])
        return vectors * len(self.tap_offsets) * readers + 3 * self.plane / LANES


def geometry(window: Window, height: int, width: int, readers: float) -> Geometry:
    """Chooses between shifts and im2col, and cuts the output into tiles.

    Args:
        window: the sliding window.
        height: H.
        width: W.
        readers: how many filters read a channel, on average: a copy costs less the more there are.
    """
    if window == Window((1, 1), (1, 1), (0, 0), window.dilation):
        pixels = height * width
        return Geometry((height, width), _tiles([(0, 0)], pixels), np.zeros(1, np.int64), pixels, np.zeros(0, VIEW))
    choices = _shifts(window, height, width), _columns(window, height, width)
    return min(choices, key=lambda choice: choice.cost(readers))


def _shifts(window: Window, height: int, width: int) -> Geometry:
    """Plane (a, b) holds the padded input's rows and columns that begin with (a, b), a stride apart."""
    (down, right), (above, left) = window.stride, window.padding
    high, wide = window.output_size(height, width)
    rows, pitch = -(-(height + 2 * above) // down), -(-(width + 2 * left) // right)
    views = [(a - above, b - left) for a in range(down) for b in range(right)]
    starts = [
        ((y % down) * right + x % right) * rows * pitch + (y // down) * pitch + x // right for y, x in _taps(window)
    ]
    tiles = _tiles([(i * pitch, i * wide) for i in range(high)], wide)
    return _packed((high, wide), tiles, starts, views, rows, pitch)


def _columns(window: Window, height: int, width: int) -> Geometry:
    """A plane a tap, of the output's size: what the tap reads for each pixel."""
    above, left = window.padding
    high, wide = window.output_size(height, width)
    views = [(y - above, x - left) for y, x in _taps(window)]
    starts = [i * high * wide for i in range(len(views))]
    return _packed((high, wide), _tiles([(0, 0)], high * wide), starts, views, high, wide)


def _packed(
    out_size: tuple[int, int], tiles: np.ndarray, starts: list[int], views: list[tuple[int, int]], rows: int, pitch: int
) -> Geometry:
    plane = len(views) * rows * pitch
    return Geometry(out_size, tiles, np.array(starts, np.int64), plane, np.array(views, VIEW), rows, pitch)


def _taps(window: Window) -> list[tuple[int, int]]:
    (high, wide), (down, right) = window.kernel_size, window.dilation
    return [(y * down, x * right) for y in range(high) for x in range(wide)]


def _tiles(rows: list[Row], length: int) -> np.ndarray:
    """Cuts equally spaced rows of that length into tiles: TILE (tiles,)."""
    start = length - length % (2 * LANES)
    result = [tile for row in rows for tile in _along(row, 0, start)]
    for number, shape in enumerate(SHAPES):  # the ends of several rows make one full tile
        width = shape.lanes // shape.rows
        while shape.rows * shape.vectors > 1 and length - start >= width:
            result += _across(rows, number, shape, start)
            start += width
    result += [tile for row in rows for tile in _along(row, start, length)]
    return np.array(result, TILE)


def _along(row: Row, start: int, stop: int) -> list[tuple[int, ...]]:
    """Tiles that cover a part of a row."""
    result: list[tuple[int, ...]] = []
    for number, shape in enumerate(SHAPES):
        width = shape.vectors * shape.lanes
        while shape.rows == 1 and stop - start >= width:
            result.append((number, row[0] + start, shape.lanes, row[1] + start, shape.lanes))
            start += width
    return result


def _across(rows: list[Row], number: int, shape: Shape, start: int) -> list[tuple[int, ...]]:
    """Tiles that cover one vector's width of all rows, each put together from several of them."""
    width, height = shape.lanes // shape.rows, shape.vectors * shape.rows
    result: list[tuple[int, ...]] = []
    for i in range(0, len(rows), height):
        group = rows[i : i + height]
        if len(group) == height:
            (x, out), (next_x, next_out) = group[:2]
            result.append((number, x + start, next_x - x, out + start, next_out - out))
        else:
            result += [tile for row in group for tile in _along(row, start, start + width)]
    return result
