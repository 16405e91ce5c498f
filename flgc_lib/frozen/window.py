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
        high, wide = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip((height, width), *self, strict=True)
        )
        return high, wide
