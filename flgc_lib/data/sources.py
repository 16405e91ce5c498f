"""Where images come from: a local folder or archive, torchvision's server, the Hugging Face hub.

Everything ends in `Splits`, uint8 tensors in the source's own order. Nothing here runs unless it is asked for.
"""

import hashlib
import io
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import requests
import torch
import urllib3
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor
from torchvision.datasets import CIFAR10
from tqdm import tqdm

from flgc_lib.data.archives import unpack
from flgc_lib.data.folders import LAYOUT, explain, read_split, stack, visible
from flgc_lib.files import first_line

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUB_REPOSITORY = "uoft-cs/cifar10"


class Splits(NamedTuple):
    """The decoded images, uint8 (n, 3, H, W), and labels, int64 (n,), of a source."""

    name: str  # what the dataset is called unless the user says otherwise
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def from_path(path: Path) -> Splits:
    """Reads a folder or a tar or zip archive, in the layout `LAYOUT`, also one folder further down.

    Raises:
        FileNotFoundError: if the path, a split or the images are missing.
        ValueError: if the archive or an image is damaged or unsafe, or the images do not fit together.
    """
    path = path.resolve()
    if path.is_dir():
        return _from_folder(path, given=path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: give --source torchvision, --source huggingface, or the path of a folder, "
            f"tar or zip archive that holds {LAYOUT}."
        )
    with tempfile.TemporaryDirectory(prefix="flgc-") as temporary:
        unpack(path, Path(temporary))
        return _from_folder(Path(temporary), given=path)


def from_torchvision(root: Path) -> Splits:
    """Downloads the official archive into `root`, or goes on with an interrupted download, and reads it.

    Raises:
        ConnectionError: if the transfer fails; what has arrived is kept for the next attempt.
        ValueError: if what has arrived is not the official archive.
    """
    archive = root / CIFAR10.filename
    if not archive.is_file():
        download(CIFAR10.url, archive, md5=CIFAR10.tgz_md5)
    return from_path(archive)


def from_huggingface() -> Splits:
    """Downloads the two parquet files of the hub's CIFAR-10 (resumed by huggingface_hub) and reads them.

    Raises:
        ConnectionError: if the hub cannot be reached and the files are not in its cache.
    """
    tensors = []
    for split in ("train", "test"):
        parquet = f"plain_text/{split}-00000-of-00001.parquet"
        try:
            path = hf_hub_download(HUB_REPOSITORY, parquet, repo_type="dataset")
        except (HfHubHTTPError, OSError) as error:
            raise ConnectionError(
                f"{parquet} of {HUB_REPOSITORY} did not arrive from the Hugging Face hub ({first_line(error)}): "
                "type `flgc data --source huggingface` again to go on where it stopped."
            ) from error
        table = pd.read_parquet(path, columns=["img", "label"])
        files = [(f"{parquet}, row {row}", io.BytesIO(image["bytes"])) for row, image in enumerate(table["img"])]
        tensors += [stack(files, split), torch.tensor(table["label"].to_numpy(), dtype=torch.int64)]
    return Splits("cifar10", CIFAR10_CLASSES, *tensors)


def download(url: str, target: Path, *, md5: str) -> None:
    """Fetches `url` into `target`; interrupted, it leaves `target`.part, from which the next call goes on.

    Raises:
        ConnectionError: if the server cannot be reached or the transfer stops early.
        ValueError: if the complete file has another md5 (it is removed).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        _fetch(url, part)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        have = part.stat().st_size if part.exists() else 0
        raise ConnectionError(
            f"The download of {url} stopped after {have} bytes ({first_line(error)}): "
            "type the same command again to go on from there."
        ) from error
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        part.unlink()
        raise ValueError(
            f"The file from {url} has md5 {found}, expected {md5}, and was removed: "
            "type the same command again to download it from the start."
        )
    part.replace(target)


def _fetch(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    # Bytes as they are on the server: a transparently decompressed stream could not be resumed by offset.
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable and have:
            return  # every byte is here already; the md5 decides
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            have = 0  # this server cannot resume and sends the whole file
        size = have + int(response.headers.get("Content-Length", 0))
        bar = tqdm(desc=part.stem, total=size, initial=have, unit="B", unit_scale=True)
        with bar, part.open("ab" if have else "wb") as file:
            for chunk in response.raw.stream(1 << 16, decode_content=False):
                bar.update(file.write(chunk))
    if part.stat().st_size < size:  # urllib3 before version 2 does not notice
        raise requests.ConnectionError(f"the server closed the connection before byte {size}")


def _from_folder(folder: Path, given: Path) -> Splits:
    """Finds the images in a folder; `given` is what the user named, for error messages and the default name."""
    for candidate in (folder, *(child for child in visible(folder) if child.is_dir())):
        if candidate.name == CIFAR10.base_folder:
            return _from_cifar_batches(candidate, given)
        if (candidate / "train").is_dir() or (candidate / "test").is_dir():
            return _from_image_folder(candidate, given)
    raise FileNotFoundError(explain(folder, given))


def _from_cifar_batches(folder: Path, given: Path) -> Splits:
    try:
        # torchvision compares the md5 of every file before it unpickles any.
        splits = [CIFAR10(folder.parent, train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        raise ValueError(
            f"{given} does not hold the official CIFAR-10 files (a file is missing or its md5 differs): "
            "type `flgc data --source torchvision` to download them."
        ) from error
    tensors = []
    for split in splits:
        images = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()  # (n, 32, 32, 3) -> (n, 3, 32, 32)
        tensors += [images, torch.tensor(split.targets)]
    return Splits("cifar10", tuple(splits[0].classes), *tensors)


def _from_image_folder(folder: Path, given: Path) -> Splits:
    train, test = (read_split(folder, split, given) for split in ("train", "test"))
    if train[0] != test[0]:
        different = sorted(set(train[0]) ^ set(test[0]))
        raise ValueError(f"{given} must have the same classes in train and test, but {different} are in one only.")
    if len(train[0]) < 2:
        raise ValueError(f"{given} has one class, {train[0][0]}: two at least are needed to tell apart.")
    if train[1].shape[1:] != test[1].shape[1:]:
        raise ValueError(f"{given} must have images of one size, but those of train and test differ.")
    name = given.name if given.is_dir() else re.sub(r"(\.tar)?\.\w+$", "", given.name)
    return Splits(name, train[0], *train[1:], *test[1:])
