"""Reads train/<class>/* and test/<class>/*: which files are images of which class, and their pixels."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from flgc_lib.files import first_line

LAYOUT = "cifar-10-batches-py, or train/<class>/* and test/<class>/*"
_NOT_OURS = ("__MACOSX", "Thumbs.db", "desktop.ini")
_OTHER_LAYOUTS = {
    "cifar-100-python": "CIFAR-100's own files",
    "cifar-10-batches-bin": "CIFAR-10's binary files",
    "cifar-10-batches-mat": "CIFAR-10's Matlab files",
}


def visible(folder: Path) -> list[Path]:
    """What is in a folder, by name, but for what file systems and editors leave there (`.ipynb_checkpoints`, `._x`)."""
    return sorted(child for child in folder.iterdir() if not child.name.startswith(".") and child.name not in _NOT_OURS)


def explain(folder: Path, given: Path) -> str:
    """Why a folder without train and test cannot be read, with what to do."""
    names = {child.name for child in (folder, *visible(folder))}
    for name, what in _OTHER_LAYOUTS.items():
        if name in names:
            return f"{given} holds {what}, which are not read: it must hold {LAYOUT}; write the images as PNG files."
    return f"{given} holds no images: it must hold {LAYOUT}, at most one folder down."


def read_split(folder: Path, split: str, given: Path) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """The classes of a split, its images, uint8 (n, 3, H, W), and their labels, int64 (n,), by class and name of file.

    Args:
        folder: that holds the split.
        split: "train" or "test".
        given: what the user named, for errors.

    Raises:
        FileNotFoundError: if the split, or images in one of its classes, are missing.
        ValueError: if an image cannot be read as 8-bit colours, or the sizes differ.
    """
    place = folder / split
    if not place.is_dir():
        beside = [child.name for child in visible(folder) if child.is_dir()]
        raise FileNotFoundError(
            f"{given} has no images in {split}: it must hold {LAYOUT}; beside it there is {', '.join(beside)}."
        )
    classes = [child for child in visible(place) if child.is_dir()]
    found = [(label, file) for label, of_class in enumerate(classes) for file in _images(of_class, place, given)]
    if not classes or len({label for label, _ in found}) < len(classes):
        raise FileNotFoundError(
            f"{given} has no images in {split}, or in one of its classes: it must hold {LAYOUT}, with files that end "
            f"in {', '.join(IMG_EXTENSIONS)}."
        )
    images = stack(((f"{file.relative_to(folder)} of {given}", file) for _, file in found), split)
    return tuple(child.name for child in classes), images, torch.tensor([label for label, _ in found])


def _images(of_class: Path, place: Path, given: Path) -> list[Path]:
    """Files of a class, also further down; a linked folder is followed only where it is a class of its own."""
    if of_class.is_symlink() and place.resolve().is_relative_to(of_class.resolve()):
        raise ValueError(f"{given} was refused: {of_class.relative_to(place)} is a link to a folder that it lies in.")
    files = []
    for parent, folders, names in os.walk(of_class):
        folders[:] = [child.name for child in visible(Path(parent)) if child.is_dir()]
        files += [Path(parent) / name for name in names]
    shown = {child for parent in {file.parent for file in files} for child in visible(parent)}
    return sorted(f for f in files if f in shown and f.suffix.lower() in IMG_EXTENSIONS and f.is_file())


def stack(files: Iterable[tuple[str, Path | io.BytesIO]], split: str) -> Tensor:
    """Decodes named image files of equal size into one uint8 tensor (n, 3, H, W).

    Raises:
        ValueError: if an image is damaged, is not 8-bit grey or colour, or has another size than the first.
    """
    images: list[np.ndarray] = []
    for name, file in tqdm(files, desc=f"decode {split}"):
        try:
            with Image.open(file) as image:
                images.append(_pixels(image, name))
        except _OtherKindError as error:
            raise ValueError(str(error)) from error
        except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
            raise ValueError(f"{name} is not a readable image ({first_line(error)}): replace it.") from error
        if images[-1].shape != images[0].shape:
            (height, width), (first_height, first_width) = images[-1].shape[:2], images[0].shape[:2]
            raise ValueError(
                f"{name} is {width}×{height} pixels, but the first image is {first_width}×{first_height}: "
                "resize all images to one size."
            )
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()  # (n, H, W, 3) -> (n, 3, H, W)


class _OtherKindError(ValueError):
    """Readable, but not what RGB in 8 bits can hold."""


def _pixels(image: Image.Image, name: str) -> np.ndarray:
    """(H, W, 3) uint8. Converting 16 bits, floats or transparency would cut them off without a word."""
    opaque = "transparency" not in image.info
    if image.mode in ("RGBA", "LA"):
        opaque = image.getchannel("A").getextrema() == (255, 255)
    kind = image.mode if opaque else f"{image.mode} with transparency"
    if image.mode not in ("1", "L", "P", "RGB", "RGBA", "LA") or not opaque or getattr(image, "n_frames", 1) > 1:
        raise _OtherKindError(
            f"{name} is an image of kind {kind}, with {getattr(image, 'n_frames', 1)} frame(s): it must be one picture "
            "in 8-bit grey, palette or RGB, without transparency; convert it."
        )
    return np.asarray(image.convert("RGB"))
