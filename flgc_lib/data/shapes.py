"""Images made by code, for when no dataset is at hand: ten classes of textured shapes, 32×32 pixels.

A class is one of five shapes filled with one of two textures. Position, size, orientation, colours, the
texture's scale and phase, and a background that carries a fainter texture of its own are drawn at random.
So no single pixel tells the class, and neither does the texture alone or the outline alone: a network has to
find the shape and look inside it. Of 2,000 test images, a linear model gets about 15 % right, a ResNet of 3
basic blocks (16 to 64 channels, stride-2 stem, 10,000 training images) 20 to 30 % after one epoch and 98 % after 12.

The same generator state gives the same pixels on one kind of processor and version of PyTorch; elsewhere sines
may round differently and change a few pixels by 1, which shows in the dataset's fingerprint.
"""

import math

import torch
from torch import Tensor

SHAPES = ("disk", "square", "triangle", "cross", "ring")
TEXTURES = ("striped", "checked")
CLASSES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)

SIZE = 32  # pixels, height and width
_CHUNK = 500  # images drawn at once: a few megabytes, which stay in the processor's cache
_EDGE = 12.0  # steepness of an outline: the transition takes about one pixel
_BACKGROUND = 0.4  # contrast of the texture behind the shape, where the shape's own is 1
_NOISE = 0.05  # standard deviation of the pixel noise, where colours are in [0, 1]


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws images of every class in equal numbers, in random order.

    Args:
        count: the number of images; where it is no multiple of ten, some classes have one more.
        generator: the only source of randomness.

    Returns:
        The images, uint8 (count, 3, 32, 32), and their labels, int64 (count,), an index into `CLASSES`.
    """
    labels = torch.randperm(count, generator=generator) % len(CLASSES)
    images = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    for start in range(0, count, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        images[chunk] = _draw_chunk(labels[chunk], generator)
    return images, labels


def _draw_chunk(labels: Tensor, generator: torch.Generator) -> Tensor:
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    axis = torch.linspace(-1, 1, SIZE)
    x, y = axis.view(1, 1, SIZE), axis.view(1, SIZE, 1)

    radius = uniform(0.6, 0.9, 1, 1)
    slack = 0.95 - radius  # how far the centre may move before the shape leaves the image
    dx = (x - uniform(-1, 1, 1, 1) * slack) / radius  # (n, 1, 32)
    dy = (y - uniform(-1, 1, 1, 1) * slack) / radius  # (n, 32, 1)
    angle = uniform(0, 2 * math.pi, 1, 1)
    u = dx * angle.cos() + dy * angle.sin()  # (n, 32, 32), the shape's own coordinates
    v = dy * angle.cos() - dx * angle.sin()

    shape, texture = labels // len(TEXTURES), labels % len(TEXTURES)
    distance = torch.empty(n, SIZE, SIZE)
    for index in range(len(SHAPES)):
        chosen = shape == index
        distance[chosen] = _distance(SHAPES[index], u[chosen], v[chosen])
    inside = (-distance * radius * _EDGE + 0.5).clamp(0, 1).unsqueeze(1)  # (n, 1, 32, 32)

    # The background's texture is drawn independently of the class, fainter than the shape's.
    other = torch.randint(len(TEXTURES), (n,), generator=generator)
    layers = []
    for kind, contrast in ((texture, 1.0), (other, _BACKGROUND)):
        tilt, wavelength = uniform(0, math.pi, 1, 1), uniform(0.35, 0.6, 1, 1)
        phase = uniform(0, 2 * math.pi, 2, 1, 1)
        along = (x * tilt.cos() + y * tilt.sin()) * (2 * math.pi / wavelength) + phase[:, 0]
        across = (y * tilt.cos() - x * tilt.sin()) * (2 * math.pi / wavelength) + phase[:, 1]
        checked = kind.view(n, 1, 1) == 1
        wave = along.sin() * torch.where(checked, across.sin() * 1.4, 1.0)
        weight = (wave * 2 + 0.5).clamp(0, 1).unsqueeze(1)  # (n, 1, 32, 32), between the two colours
        first = uniform(0, 1, 3, 1, 1)
        second = (first + uniform(0.3, 0.7, 3, 1, 1)) % 1  # at least 0.3 away in every channel
        layers.append(torch.lerp(first, second, contrast * weight))  # (n, 3, 32, 32)

    pixels = torch.lerp(layers[1], layers[0], inside)
    pixels += _NOISE * torch.randn(pixels.shape, generator=generator)
    return pixels.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _distance(shape: str, u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to the outline, negative inside; the shapes have similar areas."""
    if shape == "disk":
        return torch.hypot(u, v) - 0.8
    if shape == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.7
    if shape == "triangle":
        return torch.maximum(u.abs() * (math.sqrt(3) / 2) + v / 2, -v) - 0.55
    if shape == "cross":
        long, short = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
        return torch.maximum(long - 0.95, short - 0.33)
    return (torch.hypot(u, v) - 0.72).abs() - 0.23  # ring
