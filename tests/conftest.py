"""What several test modules share: one thread, nets of four channels, a dataset of 80 images, made-up records."""

import os
import shutil
from dataclasses import asdict, replace

import pandas as pd
import pytest
import torch
from PIL import Image

from flgc_lib import data
from flgc_lib.experiment.records import read_epochs, read_groups, read_runs
from flgc_lib.experiment.settings import Settings


def pytest_runtest_setup(item):
    """On Windows, what is marked for other systems is skipped before its fixtures are made."""
    if os.name == "nt" and item.get_closest_marker("posix"):
        pytest.skip("needs signals, links or tools that Windows does not have")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny():
    """Settings of a run of a second: 4 channels in the stem, one block, 3 epochs of 5 steps."""

    def make(**changes):
        base = {"method": "flgc-dup", "groups": 2, "top_k": 1, "data": "tiny", "precision": "fp32"}
        size = {"depths": (1,), "width": 1 / 16, "epochs": 3, "batch": 16, "logit_learning_rate": 0.2}
        return Settings(**(base | size | changes))

    return make


@pytest.fixture(scope="session")
def images():
    """80 training and 40 test images of `synthetic`, held in memory."""
    return data.synthetic(train=80, test=40)


@pytest.fixture(scope="session")
def other_images():
    """As many others."""
    return data.synthetic(seed=1, train=80, test=40)


@pytest.fixture
def by_class(images):
    """The same, the training images of one class after the other, as some sources give them."""
    order = images.train_labels.argsort()
    return replace(images, train_images=images.train_images[order], train_labels=images.train_labels[order])


@pytest.fixture(scope="session")
def image_folder(images, tmp_path_factory):
    """The same as files: train/<class>/*.png and test/<class>/*.png."""
    folder = tmp_path_factory.mktemp("source") / "tiny"
    for split, pixels, labels in (
        ("train", images.train_images, images.train_labels),
        ("test", images.test_images, images.test_labels),
    ):
        for index, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            file = folder / split / images.classes[label] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return folder


@pytest.fixture(scope="session")
def prepared(image_folder, tmp_path_factory):
    """A data folder in which the images are cached as "tiny"."""
    root = tmp_path_factory.mktemp("prepared")
    data.prepare(str(image_folder), root=root)
    return root


@pytest.fixture
def root(prepared, tmp_path):
    """A data folder of the test's own, with the dataset "tiny" and no runs."""
    shutil.copytree(prepared / "cache", tmp_path / "data" / "cache")
    return tmp_path / "data"


@pytest.fixture(scope="session")
def record():
    """Makes up the row of a run, and its epochs, with numbers that need all their digits."""

    def make(settings, **measured):
        row = {
            "run": settings.id,
            **asdict(settings),
            "depths": "-".join(map(str, settings.depths)),
            "fingerprint": "0123456789012345",  # digits alone, and text all the same
            "code": "0123456789ab",
            "torch": "2.14",
            "processor": "NA",
            "threads": 1,
            "test_accuracy": 1 / 3,
            "test_loss": 0.1 + 0.2,
            "train_loss": 2.0,
            "seconds": 1e-05,
            "parameters": 1000,
            "macs_dense": 4_000_000,
            "macs_grouped": 1_000_000,
            "macs": 2_000_000,
            "copies": 5,
            "empty_groups": 0,
            "channels_moved": 0.0,
            "filters_moved": 1 / 7,
        } | measured
        last = {name: row[name] for name in ("train_loss", "test_loss", "test_accuracy", "copies", "empty_groups")}
        moved = {"channels_moved": 0.0, "channels_moved_last": 0.0, "filters_moved": 1 / 7}
        rest = {**moved, "largest_logit": 2 / 3, "seconds": 0.25}
        return row, [{"epoch": epoch + 1, **last, **rest} for epoch in range(settings.epochs)]

    return make


@pytest.fixture(scope="session")
def everything():
    """All that a results folder holds, without the seconds, in a form that `==` compares."""

    def read(results):
        runs, epochs = (read(results).drop(columns="seconds") for read in (read_runs, read_epochs))
        assert not pd.concat([runs.isna().any(), epochs.isna().any()]).any()
        groups = {
            file.stem: {key: value.tolist() for key, value in read_groups(results, file.stem).items()}
            for file in sorted((results / "groups").glob("*"))
        }
        return runs.to_dict("records"), epochs.to_dict("records"), groups

    return read
