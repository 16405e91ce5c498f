import hashlib
import io
import itertools
import os
import pickle
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.datasets import CIFAR10

from flgc_lib.data import MEAN, STD, Batches, Dataset, archives, load, prepare, sources, synthetic

CLASSES = ("ant", "bee", "cat")
TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


# ---------------------------------------------------------------- fakes


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An image-folder tree of three classes, 4 training and 2 test images each, 8×6 pixels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in CLASSES:
            folder = tmp_path / "insects" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(256, size=(6, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "insects"


@pytest.fixture
def batches_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `cifar-10-batches-py` of 20 images a file, with the md5 that torchvision expects set to match."""
    folder = tmp_path / "official" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)

    def write(name: str, content: dict) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def images() -> dict:
        return {"data": rng.integers(256, size=(20, 3072), dtype=np.uint8), "labels": list(range(10)) * 2}

    monkeypatch.setattr(CIFAR10, "train_list", [write(f"data_batch_{i}", images()) for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", images())])
    name, md5 = write("batches.meta", {"label_names": list(sources.CIFAR10_CLASSES)})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return folder


class Server(ThreadingHTTPServer):
    """Serves one file, with ranges; it can hang up early, and remembers the ranges asked for."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.hang_up_after, self.ranges = content, len(content), []
        self.knows_ranges = True
        self.url = f"http://127.0.0.1:{self.server_port}/fake.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if self.server.knows_ranges else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        self.send_response(206 if self.server.knows_ranges else 200)
        self.send_header("Content-Length", str(len(self.server.content) - start))
        self.end_headers()
        self.wfile.write(self.server.content[start : self.server.hang_up_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(batches_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Stands for torchvision's server; the archive is the fake one of `batches_folder`."""
    content = archive_of(batches_folder, tmp_path / "served.tar.gz").read_bytes()
    server = Server(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(CIFAR10, "url", server.url)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def archive_of(folder: Path, target: Path) -> Path:
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder.parent))
    else:
        with tarfile.open(target, f"w:{target.suffix[1:]}") as archive:
            archive.add(folder, folder.name)
    return target


def same(a: Dataset, b: Dataset) -> bool:
    equal = all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)
    assert equal == (a.fingerprint == b.fingerprint)
    return equal and a.classes == b.classes


# ---------------------------------------------------------------- synthetic


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    return load("synthetic")


def test_synthetic_has_ten_classes_of_equal_size(shapes: Dataset) -> None:
    assert shapes.name == "synthetic"
    assert shapes.train_images.shape == (10_000, 3, 32, 32)
    assert shapes.train_images.dtype == torch.uint8
    assert shapes.train_labels.dtype == torch.int64
    assert len(set(shapes.classes)) == 10
    assert shapes.train_labels.bincount().tolist() == [1000] * 10
    assert shapes.test_labels.bincount().tolist() == [200] * 10


def test_synthetic_depends_on_its_seed_alone() -> None:
    small = synthetic(3, train=600, test=50)
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads % 2 + 1)
    try:
        assert same(small, synthetic(3, train=600, test=50))
    finally:
        torch.set_num_threads(threads)
    assert not same(small, synthetic(4, train=600, test=50))


def test_a_linear_model_of_the_pixels_stays_under_60_percent_on_synthetic(shapes: Dataset) -> None:
    weight, bias = torch.zeros(3 * 32 * 32, 10, requires_grad=True), torch.zeros(10, requires_grad=True)
    optimiser = torch.optim.SGD([weight, bias], lr=1e-3, momentum=0.9)
    for epoch in range(4):
        for images, labels in Batches(shapes.train_images, shapes.train_labels, 100, shuffle_seed=epoch):
            optimiser.zero_grad()
            F.cross_entropy(images.flatten(1) @ weight + bias, labels).backward()
            optimiser.step()

    def accuracy(images: torch.Tensor, labels: torch.Tensor) -> float:
        ((images, labels),) = Batches(images, labels, len(labels))
        return ((images.flatten(1) @ weight + bias).argmax(1) == labels).float().mean().item()

    assert accuracy(shapes.train_images, shapes.train_labels) > 0.2  # it has learned what it can
    assert accuracy(shapes.test_images, shapes.test_labels) < 0.6


# ---------------------------------------------------------------- Dataset


def test_fingerprint_is_the_hash_of_pixels_and_labels_in_order() -> None:
    small = synthetic(train=20, test=10)
    everything = b"".join(getattr(small, name).numpy().tobytes() for name in TENSORS)
    assert small.fingerprint == hashlib.sha256(everything).hexdigest()[:16]


def test_hold_out_puts_training_images_in_the_test_place() -> None:
    whole = synthetic(train=200, test=50)
    tune = whole.hold_out(40)
    assert tune.name == whole.name
    assert tune.fingerprint != whole.fingerprint
    assert tune.test_labels.bincount().tolist() == [4] * 10
    assert tune.train_labels.bincount().tolist() == [16] * 10

    def rows(*images: torch.Tensor) -> list[bytes]:
        return sorted(image.numpy().tobytes() for image in torch.cat(images))

    assert rows(tune.train_images, tune.test_images) == rows(whole.train_images)
    label_of = {image.numpy().tobytes(): label for image, label in zip(*train_of(whole), strict=True)}
    assert all(label_of[i.numpy().tobytes()] == n for i, n in zip(*train_of(tune), strict=True))


def train_of(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    return dataset.train_images, dataset.train_labels


def test_hold_out_is_chosen_by_its_seed_and_shares_a_remainder() -> None:
    whole = synthetic(train=200, test=50)
    assert same(whole.hold_out(40), whole.hold_out(40))
    assert not same(whole.hold_out(40), whole.hold_out(40, seed=1))
    assert whole.hold_out(23).test_labels.bincount().tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("count", [-10, 0, 5, 200, 1000])
def test_hold_out_leaves_every_class_on_both_sides(count: int) -> None:
    with pytest.raises(ValueError, match=f"count={count} takes .* at least one"):
        synthetic(train=200, test=50).hold_out(count)


# ---------------------------------------------------------------- Batches


def numbered(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images 3×8×10, labelled with their own index."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 8, 10), dtype=torch.uint8, generator=generator), torch.arange(count)


def equal_batches(a: Batches, b: Batches) -> bool:
    pairs = list(zip(a, b, strict=True))
    return all(torch.equal(p, q) for first, second in pairs for p, q in zip(first, second, strict=True))


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (images / 255 - mean) / std


def test_batches_in_order_cover_every_image_once_normalised() -> None:
    images, labels = numbered(11)
    batches = Batches(images, labels, 4)
    got = list(batches)
    assert [len(part) for _, part in got] == [4, 4, 3]
    assert len(batches) == 3
    assert torch.equal(torch.cat([part for _, part in got]), labels)
    torch.testing.assert_close(torch.cat([part for part, _ in got]), normalised(images))


def test_shuffled_batches_drop_the_rest_and_keep_images_with_their_labels() -> None:
    images, labels = numbered(11)
    batches = Batches(images, labels, 4, shuffle_seed=0)
    got, order = (torch.cat(part) for part in zip(*batches, strict=True))
    assert len(batches) == 2
    assert len(set(order.tolist())) == 8
    assert order.tolist() != sorted(order.tolist())
    torch.testing.assert_close(got, normalised(images[order]))


def test_the_seed_alone_fixes_order_and_augmentation() -> None:
    images, labels = numbered(64)
    batches = Batches(images, labels, 16, augment=True, shuffle_seed=5)
    torch.manual_seed(0)
    first = [(a.clone(), b.clone()) for a, b in batches]
    torch.manual_seed(1)
    again = Batches(images, labels, 16, augment=True, shuffle_seed=5)
    for (a, b), (c, d) in zip(first, again, strict=True):
        torch.rand(3)  # somebody else draws from the global generator
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert equal_batches(batches, batches)
    assert not equal_batches(batches, Batches(images, labels, 16, augment=True, shuffle_seed=6))


def test_batches_leave_the_global_generator_and_the_images_alone() -> None:
    images, labels = numbered(64)
    before, state = images.clone(), torch.get_rng_state()
    list(Batches(images, labels, 16, augment=True, shuffle_seed=0))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


def test_every_augmented_image_is_some_crop_and_flip_of_its_own() -> None:
    images, labels = numbered(400)
    padded = normalised(F.pad(images, (4, 4, 4, 4)))
    places = [(top, left, flip) for top in range(9) for left in range(9) for flip in (False, True)]
    seen = set()
    for batch, order in Batches(images, labels, 100, augment=True, shuffle_seed=0):
        for image, index in zip(batch, order, strict=True):
            crops = torch.stack([crop(padded[index], *place) for place in places])
            errors = (crops - image).abs().amax((1, 2, 3))
            assert errors.min() < 1e-5
            seen.add(places[int(errors.argmin())])
    assert {top for top, _, _ in seen} == set(range(9))
    assert {left for _, left, _ in seen} == set(range(9))
    assert {flip for _, _, flip in seen} == {False, True}
    assert len(seen) > 100  # of 162: the offsets are each image's own, vertical apart from horizontal


def crop(padded: torch.Tensor, top: int, left: int, flip: bool) -> torch.Tensor:
    part = padded[:, top : top + 8, left : left + 10]
    return part.flip(-1) if flip else part


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(batch_size=0), "batch_size=0 must be at least 1"),
        (dict(batch_size=9, shuffle_seed=0), "batch_size=9 must be .* at most the 8 images"),
        (dict(batch_size=4, augment=True), "give shuffle_seed, or augment=False"),
    ],
)
def test_contradicting_batch_settings_get_a_sentence(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Batches(*numbered(8), **settings)


def test_images_and_labels_must_be_equally_many() -> None:
    with pytest.raises(ValueError, match="8 images, but 7 labels"):
        Batches(numbered(8)[0], numbered(7)[1], 4)


# ---------------------------------------------------------------- local sources


def test_an_image_folder_is_decoded_in_class_and_file_order(tree: Path, tmp_path: Path) -> None:
    dataset = prepare(str(tree), root=tmp_path / "data")
    assert dataset.name == "insects"
    assert dataset.classes == CLASSES
    assert dataset.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    expected = np.asarray(Image.open(tree / "train" / "bee" / "2.png")).transpose(2, 0, 1)
    assert np.array_equal(dataset.train_images[6], expected)


@pytest.mark.posix
def test_what_editors_and_file_systems_leave_is_no_class_and_no_image(tree: Path, tmp_path: Path) -> None:
    clean = prepare(str(tree), name="clean", root=tmp_path / "data")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(tree / "train" / "ant", tree / "train" / name)
        shutil.copytree(tree / "train" / "ant", tree / "train" / "bee" / name)
    (tree / "train" / "bee" / "._0.png").write_bytes(b"Mac OS X resource fork")
    (tree / "train" / "bee" / "notes.txt").write_text("not an image", encoding="utf-8")
    os.mkfifo(tree / "train" / "bee" / "pipe.png")
    (tree / "train" / "bee" / "loop").symlink_to(tree / "train", target_is_directory=True)
    (tree / "train" / "bee" / "self.png").symlink_to(tree / "train" / "bee" / "self.png")
    assert same(clean, prepare(str(tree), name="cluttered", root=tmp_path / "data"))


def test_grey_palette_and_opaque_images_are_what_they_show(tree: Path, tmp_path: Path) -> None:
    file = tree / "train" / "bee" / "1.png"
    picture = Image.open(file).convert("RGB").quantize(16).convert("RGB")
    pixels = []
    for convert in (lambda p: p, lambda p: p.quantize(16), lambda p: p.convert("RGBA")):
        convert(picture).save(file)
        pixels.append(prepare(str(tree), root=tmp_path / "data").train_images[5])
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])
    Image.fromarray(np.full((6, 8), 77, np.uint8)).save(file)
    assert prepare(str(tree), root=tmp_path / "data").train_images[5].unique().tolist() == [77]


@pytest.mark.parametrize("archive", ["bugs.tar.gz", "bugs.zip"])
def test_folder_and_archive_give_the_same_dataset(tree: Path, tmp_path: Path, archive: str) -> None:
    from_archive = prepare(str(archive_of(tree, tmp_path / archive)), root=tmp_path)
    assert from_archive.name == "bugs"
    assert same(from_archive, prepare(str(tree.parent), name="one-folder-down", root=tmp_path))


def test_official_batches_are_read_as_cifar10(batches_folder: Path, tmp_path: Path) -> None:
    dataset = prepare(str(batches_folder), root=tmp_path)
    assert dataset.name == "cifar10"
    assert dataset.classes == sources.CIFAR10_CLASSES
    assert dataset.train_images.shape == (100, 3, 32, 32)
    raw = pickle.loads((batches_folder / "data_batch_2").read_bytes())
    assert np.array_equal(dataset.train_images[20:40].flatten(1), raw["data"])
    assert dataset.test_labels.tolist() == list(range(10)) * 2
    assert same(dataset, prepare(str(archive_of(batches_folder, tmp_path / "c.zip")), root=tmp_path))


class Bomb:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("an altered file was unpickled",))


def test_altered_official_batches_are_refused_before_they_are_unpickled(batches_folder: Path, tmp_path: Path) -> None:
    (batches_folder / "data_batch_3").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"official CIFAR-10 .* md5 differs.* `flgc data --source torchvision`"):
        prepare(str(batches_folder), root=tmp_path)


def remove_test(tree: Path) -> None:
    shutil.rmtree(tree / "test")


def empty(tree: Path) -> None:
    shutil.rmtree(tree)
    tree.mkdir()


def empty_class(tree: Path) -> None:
    for file in (tree / "train" / "bee").iterdir():
        file.unlink()


def other_class(tree: Path) -> None:
    (tree / "test" / "cat").rename(tree / "test" / "dog")


def other_size(tree: Path) -> None:
    Image.new("RGB", (9, 6)).save(tree / "train" / "bee" / "1.png")


def other_test_size(tree: Path) -> None:
    for file in (tree / "test").rglob("*.png"):
        Image.new("RGB", (9, 6)).save(file)


def unreadable_image(tree: Path) -> None:
    file = tree / "train" / "bee" / "1.png"
    file.write_bytes(file.read_bytes()[:100])


def as_mode(mode: str, suffix: str = ""):
    def damage(tree: Path) -> None:
        file = tree / "train" / "bee" / (f"9{suffix}" if suffix else "1.png")
        Image.new(mode, (8, 6)).save(file)

    return damage


def two_frames(tree: Path) -> None:
    pages = [Image.new("RGB", (8, 6)) for _ in range(2)]
    pages[0].save(tree / "train" / "bee" / "9.tiff", save_all=True, append_images=pages[1:])


def one_class(tree: Path) -> None:
    for split, name in itertools.product(("train", "test"), ("bee", "cat")):
        shutil.rmtree(tree / split / name)


def named(name: str):
    def damage(tree: Path) -> None:
        empty(tree)
        (tree / name).mkdir()

    return damage


def validation(tree: Path) -> None:
    (tree / "test").rename(tree / "val")


def linked_class(tree: Path) -> None:
    (tree / "train" / "dragon").symlink_to(tree / "train", target_is_directory=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"insects does not exist: give --source torchvision"),
        (empty, r"insects holds no images: it must hold cifar-10-batches-py, or train/<class>"),
        (remove_test, r"insects has no images in test"),
        (empty_class, r"insects has no images in train, or in one of its classes"),
        (other_class, r"same classes in train and test, but \['cat', 'dog'\] are in one only"),
        (other_size, r"train/bee/1.png of .*insects is 9×6 pixels, but the first image is 8×6"),
        (other_test_size, r"images of one size, but those of train and test differ"),
        (unreadable_image, r"train/bee/1.png of .*insects is not a readable image"),
        (as_mode("I;16"), r"train/bee/1.png of .*insects is an image of kind I;16.*8-bit grey"),
        (as_mode("F", ".tiff"), r"train/bee/9.tiff of .*insects is an image of kind F,"),
        (as_mode("RGBA"), r"train/bee/1.png of .*insects is an image of kind RGBA with transparency"),
        (as_mode("CMYK", ".jpg"), r"train/bee/9.jpg of .*insects is an image of kind CMYK"),
        (two_frames, r"train/bee/9.tiff of .*insects is an image of kind RGB, with 2 frame"),
        (one_class, r"insects has one class, ant: two at least"),
        (named("cifar-100-python"), r"holds CIFAR-100's own files, which are not read.*as PNG files"),
        (named("cifar-10-batches-bin"), r"holds CIFAR-10's binary files, which are not read"),
        (validation, r"insects has no images in test: .* beside it there is train, val"),
        (linked_class, r"insects was refused: dragon is a link to a folder that it lies in"),
    ],
)
def test_a_broken_folder_gets_a_sentence_and_no_cache(tree: Path, tmp_path: Path, damage, message: str) -> None:
    damage(tree)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        prepare(str(tree), root=tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_archive_is_refused(tree: Path, tmp_path: Path, kind: str, keep: float) -> None:
    archive = archive_of(tree, tmp_path / f"bugs.{kind}")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"bugs.* is truncated, altered or not a tar or zip archive"):
        prepare(str(archive), root=tmp_path)


@pytest.mark.parametrize(
    ("kind", "place", "message"),
    [
        ("tar.gz", -8, "CRC check failed"),  # in gzip's checksum, which stands after everything that tar reads
        ("zip", 200, "Bad CRC-32"),  # in the first image, stored as it is
    ],
)
def test_an_altered_archive_is_refused(tree: Path, tmp_path: Path, kind: str, place: int, message: str) -> None:
    archive = archive_of(tree / "test" / "ant", tmp_path / f"bugs.{kind}")
    content = bytearray(archive.read_bytes())
    content[place] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=rf"truncated, altered or not .* \({message}"):
        prepare(str(archive), root=tmp_path)


def test_a_byte_that_is_wrong_deep_inside_is_found(tmp_path: Path) -> None:
    """Python's reader of xz has an error of its own for it."""
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "image").write_bytes(np.random.default_rng(0).bytes(100_000))
    archive = archive_of(tmp_path / "noise", tmp_path / "noise.tar.xz")
    content = bytearray(archive.read_bytes())
    content[50_000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"truncated, altered or not .* \(Corrupt input data"):
        prepare(str(archive), root=tmp_path)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an archive", encoding="utf-8")
    with pytest.raises(ValueError, match=r"notes.txt is truncated, altered or not a tar or zip archive"):
        prepare(str(tmp_path / "notes.txt"), root=tmp_path)


@pytest.mark.parametrize("end", [0, 512, 1024])
def test_a_tar_cut_between_two_members_is_refused(tree: Path, tmp_path: Path, end: int) -> None:
    archive = tmp_path / "bugs.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, tree.name)
    with tarfile.open(archive) as tar:
        last = tar.getmembers()[-1].offset
    archive.write_bytes(archive.read_bytes()[:last] + bytes(end))
    if end:  # with its end mark it is an archive that lacks an image, which nobody can know
        prepare(str(archive), root=tmp_path)
        return
    with pytest.raises(ValueError, match=r"bugs.tar is truncated, .*\(the mark of its end is missing\)"):
        prepare(str(archive), root=tmp_path)


LINKS = {
    "symbolic": (tarfile.SYMTYPE, "elsewhere"),
    "hard": (tarfile.LNKTYPE, "train/ant/0.png"),
    "up": (tarfile.SYMTYPE, ".."),
    "absolute": (tarfile.SYMTYPE, "/"),
    "FIFO": (tarfile.FIFOTYPE, ""),
    "device": (tarfile.CHRTYPE, ""),
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_and_devices_in_archives_are_refused(tmp_path: Path, kind: str) -> None:
    member = tarfile.TarInfo("train/link")
    member.type, member.linkname = LINKS[kind]
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(member)
    with pytest.raises(ValueError, match=r"evil.tar was refused: its member 'train/link' is a link or a device"):
        prepare(str(tmp_path / "evil.tar"), root=tmp_path)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("train/link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(info, "/etc")
    with pytest.raises(ValueError, match=r"evil.zip was refused: its member 'train/link' is a link or a device"):
        prepare(str(tmp_path / "evil.zip"), root=tmp_path)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
@pytest.mark.parametrize("many", [False, True])
def test_what_unpacks_to_too_much_is_refused(tree: Path, tmp_path: Path, kind: str, many: bool, monkeypatch) -> None:
    monkeypatch.setattr(archives, "LARGEST", 2**20)
    for index in range(300 if many else 1):
        (tree / f"{index}.txt").write_bytes(bytes(0 if many else 2**21))
    with pytest.raises(ValueError, match=r"was refused: it unpacks to more than 0.000976562 GiB; unpack it yourself"):
        prepare(str(archive_of(tree, tmp_path / f"big.{kind}")), root=tmp_path)


def test_archives_cannot_write_outside_their_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("train/../../escaped.png", b"")
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../escaped.png"), io.BytesIO())
    for name in ("evil.zip", "evil.tar"):
        with pytest.raises(ValueError, match=f"{name} was refused: .*escaped.png"):
            prepare(str(tmp_path / name), root=tmp_path)


# ---------------------------------------------------------------- the cache


def test_load_gives_back_what_prepare_made(tree: Path, tmp_path: Path) -> None:
    prepared = prepare(str(tree), name="bugs", root=tmp_path)
    loaded = load("bugs", root=tmp_path)
    assert loaded.name == "bugs"
    assert same(prepared, loaded)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["bugs.pt"]


def test_an_interrupted_write_keeps_the_old_cache(tree: Path, tmp_path: Path, monkeypatch) -> None:
    prepared = prepare(str(tree), root=tmp_path)

    def full_disk(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        prepare(str(tree), root=tmp_path)
    assert same(prepared, load("insects", root=tmp_path))
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["insects.pt"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("cifar10", r"`flgc data --source torchvision`"),
        ("cifar10-jpeg", r"`flgc data --source PATH --name cifar10-jpeg`"),
    ],
)
def test_a_missing_dataset_says_what_to_type(tmp_path: Path, name: str, command: str) -> None:
    with pytest.raises(FileNotFoundError, match=command):
        load(name, root=tmp_path)


def flip_a_pixel(cache: Path, tree: Path) -> None:
    pixels = np.asarray(Image.open(tree / "train" / "bee" / "2.png")).transpose(2, 0, 1).tobytes()
    content = bytearray(cache.read_bytes())
    content[content.index(pixels[:48])] ^= 1
    cache.write_bytes(content)


def truncate(cache: Path, tree: Path) -> None:
    cache.write_bytes(cache.read_bytes()[:1000])


def overwrite(cache: Path, tree: Path) -> None:
    torch.save({"state_dict": torch.zeros(3)}, cache)


def put_a_bomb(cache: Path, tree: Path) -> None:
    torch.save(Bomb(), cache)


def rename(cache: Path, tree: Path) -> None:
    prepare(str(tree), name="other", root=cache.parent.parent)
    (cache.parent / "other.pt").replace(cache)


@pytest.mark.parametrize("damage", [flip_a_pixel, truncate, overwrite, put_a_bomb, rename])
def test_a_damaged_cache_is_refused(tree: Path, tmp_path: Path, damage) -> None:
    prepare(str(tree), root=tmp_path)
    damage(tmp_path / "cache" / "insects.pt", tree)
    with pytest.raises(ValueError, match=r"insects.pt is not a whole, unaltered dataset cache.* `flgc data`"):
        load("insects", root=tmp_path)


@pytest.mark.parametrize("name", ["synthetic", "", "../up", "a b", ".hidden"])
def test_a_name_that_cannot_be_a_file_is_refused(tree: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be used: .* Type `--name NAME`"):
        prepare(str(tree), name=name, root=tmp_path)


# ---------------------------------------------------------------- downloads


def test_torchvision_source_equals_the_local_folder(server: Server, batches_folder: Path, tmp_path: Path) -> None:
    downloaded = prepare("torchvision", root=tmp_path / "data")
    assert downloaded.name == "cifar10"
    assert same(downloaded, prepare(str(batches_folder), root=tmp_path))
    prepare("torchvision", root=tmp_path / "data")
    assert len(server.ranges) == 1  # the archive is there, it is not fetched again


@pytest.mark.parametrize("urllib3_notices", [True, False])
def test_an_interrupted_download_goes_on_where_it_stopped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, urllib3_notices: bool
) -> None:
    get = requests.get

    def get_like_an_older_urllib3(url: str, **arguments: object) -> requests.Response:
        response = get(url, **arguments)
        response.raw.enforce_content_length = urllib3_notices
        return response

    monkeypatch.setattr(requests, "get", get_like_an_older_urllib3)
    server.hang_up_after = 70_000
    with pytest.raises(ConnectionError, match=r"stopped after 70000 bytes .* same command again"):
        prepare("torchvision", root=tmp_path)
    server.hang_up_after = len(server.content)
    prepare("torchvision", root=tmp_path)
    assert server.ranges == ["bytes=0-", "bytes=70000-"]
    assert (tmp_path / CIFAR10.filename).read_bytes() == server.content
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("have", [70_000, None])
def test_a_part_is_completed_even_without_ranges_or_when_nothing_is_missing(
    server: Server, tmp_path: Path, have: int | None
) -> None:
    server.knows_ranges = have is None
    (tmp_path / f"{CIFAR10.filename}.part").write_bytes(server.content[:have])
    assert prepare("torchvision", root=tmp_path).name == "cifar10"


def test_a_download_with_another_md5_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    server.content = server.content[:-1] + b"?"
    with pytest.raises(ValueError, match=r"has md5 \w+, expected \w+, and was removed"):
        prepare("torchvision", root=tmp_path)
    assert not list(tmp_path.glob("cifar*"))


def test_no_server_is_a_connection_error_with_a_sentence(
    batches_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/nobody.tar.gz")
    with pytest.raises(ConnectionError, match=r"stopped after 0 bytes .* same command again"):
        prepare("torchvision", root=tmp_path)


def test_huggingface_source_equals_the_official_archive(
    batches_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = prepare(str(batches_folder), root=tmp_path)

    def hub(repository: str, file: str, *, repo_type: str) -> str:
        assert (repository, repo_type) == ("uoft-cs/cifar10", "dataset")
        split = file.removeprefix("plain_text/").removesuffix("-00000-of-00001.parquet")
        images, labels = (getattr(official, f"{split}_{what}") for what in ("images", "labels"))
        rows = []
        for image in images:
            png = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(png, "png")
            rows.append({"bytes": png.getvalue(), "path": None})
        path = tmp_path / f"{split}.parquet"
        pd.DataFrame({"img": rows, "label": labels.numpy()}).to_parquet(path)
        return str(path)

    monkeypatch.setattr(sources, "hf_hub_download", hub)
    dataset = prepare("huggingface", root=tmp_path / "other")
    assert dataset.name == "cifar10"
    assert same(official, dataset)


def test_an_unreachable_hub_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hub(*args: object, **kwargs: object) -> str:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(sources, "hf_hub_download", hub)
    with pytest.raises(ConnectionError, match=r"did not arrive .*no route to host\): type `flgc data --source hugg"):
        prepare("huggingface", root=tmp_path)
