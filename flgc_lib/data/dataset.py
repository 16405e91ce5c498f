"""Datasets held in memory as uint8 tensors, and batches of them: shuffled, augmented, normalised.

All of CIFAR-10 is 184 MB, so it is decoded once (`prepare`), cached in one file, and read back (`load`) without
worker processes. An epoch of augmented batches costs about half a second on one thread.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from flgc_lib.data import shapes, sources
from flgc_lib.files import ROOT, write_whole

# CIFAR-10's per-channel statistics, pixels in [0, 1]. They serve every dataset, so that a batch depends on its
# images alone; batch normalisation makes up for another dataset's other statistics.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
PADDING = 4  # pixels of black around an image before it is cropped, as in He et al. 2016, section 4.2


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of a training and a test split, in the source's order.

    Attributes:
        name: as in the records, for example "synthetic", "cifar10" or "cifar10-jpeg".
        fingerprint: first 16 hex digits of the sha256 over pixels and labels of both splits, as ordered.
        classes: name of each label.
        train_images: uint8 (n, 3, H, W).
        train_labels: int64 (n,).
        test_images: uint8 (m, 3, H, W).
        test_labels: int64 (m,).
    """

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    train_images: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)

    def hold_out(self, count: int, seed: int = 0) -> "Dataset":
        """The dataset to tune on: `count` training images take the test place, the real test images are gone.

        Args:
            count: how many images to hold out, of every class equally many (or one more where it must be).
            seed: chooses them. The same seed always chooses the same images.

        Raises:
            ValueError: if a class would have no image left to train on, or none held out.
        """
        order = torch.randperm(len(self.train_labels), generator=torch.Generator().manual_seed(seed))
        held = torch.zeros(len(order), dtype=torch.bool)
        for label in range(len(self.classes)):
            members = order[self.train_labels[order] == label]
            share = count // len(self.classes) + (label < count % len(self.classes))
            if not 0 < share < len(members):
                raise ValueError(
                    f"count={count} takes {share} of the {len(members)} training images of class "
                    f"{self.classes[label]}: it must take at least one and leave at least one."
                )
            held[members[:share]] = True
        images, labels = self.train_images, self.train_labels
        tensors = (images[~held], labels[~held], images[held], labels[held])
        return Dataset(self.name, _fingerprint(*tensors), self.classes, *tensors)


def synthetic(seed: int = 0, *, train: int = 10_000, test: int = 2_000) -> Dataset:
    """Ten classes of textured shapes, made by code: see `flgc_lib.data.shapes`. The same seed, the same pixels."""
    generator = torch.Generator().manual_seed(seed)
    train_images, train_labels = shapes.draw(train, generator)
    test_images, test_labels = shapes.draw(test, generator)
    tensors = (train_images, train_labels, test_images, test_labels)
    return Dataset("synthetic", _fingerprint(*tensors), shapes.CLASSES, *tensors)


def load(name: str = "synthetic", root: Path = ROOT) -> Dataset:
    """The dataset of that name, from the cache under `root`; "synthetic" is made on the spot. Never downloads.

    Raises:
        FileNotFoundError: if there is no such dataset; the message says what to type to get it.
        ValueError: if the cached file is not what `prepare` wrote.
    """
    if name == "synthetic":
        return synthetic()
    path = _cache_path(name, root)
    if not path.is_file():
        source = "torchvision" if name == "cifar10" else f"PATH --name {name}"
        raise FileNotFoundError(
            f"There is no dataset {name!r} at {path.as_posix()}: type `flgc data --source {source}` first, "
            'or use "synthetic", which needs no files.'
        )
    try:
        dataset = Dataset(**torch.load(path, weights_only=True, mmap=True))
        intact = dataset.name == name and dataset.fingerprint == _fingerprint(*_tensors(dataset))
    except Exception as error:  # torch.load and unpickling raise many kinds for a damaged file
        raise ValueError(_damaged(path)) from error
    if not intact:
        raise ValueError(_damaged(path))
    return dataset


def prepare(source: str, name: str | None = None, root: Path = ROOT) -> Dataset:
    """Decodes a source once and caches it at `root`/cache/NAME.pt, where `load` finds it.

    Args:
        source: "torchvision" or "huggingface" (CIFAR-10, downloaded with resume), or the path of a local folder,
            tar or zip archive in the layout `folders.LAYOUT`.
        name: of the dataset; by default "cifar10", or what the folder or archive is called.
        root: the data folder.

    Raises:
        FileNotFoundError: if the source or a part of it is missing.
        ValueError: if the source is damaged, unsafe or inconsistent, or the name cannot be used.
        ConnectionError: if a download stops; the same call goes on with it.
    """
    if name is not None:
        _cache_path(name, root)  # a bad name is refused before the work, not after it
    if source == "torchvision":
        splits = sources.from_torchvision(root)
    elif source == "huggingface":
        splits = sources.from_huggingface()
    else:
        splits = sources.from_path(Path(source))
    name = name or splits.name
    path = _cache_path(name, root)
    dataset = Dataset(name, _fingerprint(*splits[2:]), *splits[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, partial(torch.save, {f.name: getattr(dataset, f.name) for f in fields(dataset)}))
    return dataset


class Batches:
    """Batches of (images, labels): float32 (B, 3, H, W), normalised with `MEAN` and `STD`, and int64 (B,).

    Without a seed: in order, the last batch as small as it is, for evaluation. With one: shuffled, the last,
    partial batch dropped, for training. Order and augmentation come from a generator of the object's own, so
    every pass over the same object, and over another one of the same seed, gives the same batches bit for bit.
    For the next epoch, make another object with another seed.

    Args:
        images: uint8 (n, 3, H, W), on the device on which the batches are wanted.
        labels: int64 (n,).
        batch_size: images in a batch.
        augment: random crops after padding by `PADDING`, and flips, drawn for each image.
        shuffle_seed: None for images in order.

    Raises:
        ValueError: if the settings contradict each other.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        augment: bool = False,
        shuffle_seed: int | None = None,
    ) -> None:
        if len(images) != len(labels):
            raise ValueError(f"There are {len(images)} images, but {len(labels)} labels: give one label an image.")
        if batch_size < 1 or (shuffle_seed is not None and batch_size > len(images)):
            raise ValueError(f"batch_size={batch_size} must be at least 1 and at most the {len(images)} images.")
        if augment and shuffle_seed is None:
            raise ValueError("augment=True draws at random: give shuffle_seed, or augment=False for evaluation.")
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.augment, self.shuffle_seed = augment, shuffle_seed

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest > 0 and self.shuffle_seed is None)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.images))
        augmentation: v2.Transform = v2.Identity()
        if self.shuffle_seed is not None:
            generator = torch.Generator().manual_seed(self.shuffle_seed)
            order = torch.randperm(len(order), generator=generator)
            if self.augment:
                augmentation = v2.Compose([EachRandomCrop(PADDING, generator), EachRandomFlip(generator)])
        for batch in order.split(self.batch_size)[: len(self)]:
            images = functional.to_dtype(augmentation(self.images[batch]), torch.float32, scale=True)
            yield functional.normalize(images, list(MEAN), list(STD), inplace=True), self.labels[batch]


class EachRandomCrop(v2.Transform):
    """`v2.RandomCrop` to the original size after padding with black, at an own offset for each image.

    v2 draws one offset for a whole batch. Input and output (B, C, H, W).
    """

    def __init__(self, padding: int, generator: torch.Generator) -> None:
        super().__init__()
        self.padding, self.generator = padding, generator

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the offsets, int64 (2, B): top and left edge of each crop."""
        shape = (2, len(flat_inputs[0]))
        return {"offsets": torch.randint(2 * self.padding + 1, shape, generator=self.generator)}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Crops each image at its offset."""
        height, width = inpt.shape[-2:]
        top, left = params["offsets"].to(inpt.device)
        padded = functional.pad(inpt, [self.padding])  # (B, C, H + 2p, W + 2p)
        # A view of all crops there are, so that the indexing copies whole rows: five times faster than by pixel.
        crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p + 1, 2p + 1, H, W)
        return crops[torch.arange(len(inpt), device=inpt.device), :, top, left]  # (B, C, H, W)


class EachRandomFlip(v2.Transform):
    """`v2.RandomHorizontalFlip`, decided for each image of the batch by itself. Input and output (B, C, H, W)."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws which images to flip, bool (B,)."""
        return {"flip": torch.rand(len(flat_inputs[0]), generator=self.generator) < 0.5}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Flips the chosen images."""
        flip = params["flip"].to(inpt.device).view(-1, 1, 1, 1)
        return torch.where(flip, functional.horizontal_flip(inpt), inpt)


def _tensors(dataset: Dataset) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels


def _fingerprint(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _cache_path(name: str, root: Path) -> Path:
    if name == "synthetic" or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(
            f"The name {name!r} cannot be used: it must be made of letters, digits, '_', '-' and '.', "
            'and not be "synthetic". Type `--name NAME` to give another.'
        )
    return Path(root) / "cache" / f"{name}.pt"


def _damaged(path: Path) -> str:
    return (
        f"{path} is not a whole, unaltered dataset cache, or is under another name than its own: "
        "delete it and make it again with `flgc data`."
    )
