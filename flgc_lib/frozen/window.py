"""The sliding window of a convolution."""

from typing import NamedTuple


class Window(NamedTuple):
    """Sizes of a sliding window, (vertical, horizontal) each, as in `nn.Conv2d`."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(H', W') for a map of H × W."""
        (high, wide), (down, right), (above, left), (gap_down, gap_right) = self
        return (
            (height + 2 * above - gap_down * (high - 1) - 1) // down + 1,
            (width + 2 * left - gap_right * (wide - 1) - 1) // right + 1,
        )

    @property
    def is_by_pixel(self) -> bool:
        """Whether each pixel of the output depends on the one at its place only."""
        return (self.kernel_size, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0))
