"""A trained network goes to another engine, and is tested before and after."""

from functools import partial

import pytest
import torch

from flgc_lib.cli import inference
from flgc_lib.experiment import deploy, measurements
from flgc_lib.experiment.checkpoint import trained_network
from flgc_lib.experiment.training import fit
from flgc_lib.figures.tables import filled
from flgc_lib.frozen import engines, load
from flgc_lib.frozen.forms import FORMS
from flgc_lib.frozen.layer import frozen_convolutions

pytest.importorskip("onnxruntime", reason="pip install -e '.[engines]'")
pytest.importorskip("onnxscript", reason="pip install -e '.[engines]'")


@pytest.fixture
def checkpoint(tiny, images, tmp_path, monkeypatch):
    fit(tiny(epochs=1), images, tmp_path, device="cpu", progress=False)
    monkeypatch.setattr(deploy, "load", lambda name, root: images)
    monkeypatch.setattr(deploy, "CALIBRATION_IMAGES", 16)
    monkeypatch.setattr(deploy, "TEST_BATCH", 16)  # the last one of 40 is not whole
    monkeypatch.setattr(engines, "GATHER_COSTS", (0.0,))
    return tmp_path / "last.ckpt"


def test_accuracy_before_and_after_is_recorded(checkpoint, images, tmp_path):
    options = {"engine": "onnx", "precision": "int8", "calibrate": images.name, "results": tmp_path}
    sentence = deploy.export_checkpoint(checkpoint, tmp_path / "net.onnx", **options)
    deploy.export_checkpoint(checkpoint, tmp_path / "net.onnx", **options)  # takes the place of the first
    (row,) = measurements.read(tmp_path / deploy.TABLE).to_dict("records")
    run = engines.load(tmp_path / "net.onnx", torch.Size((40, 3, 32, 32)))
    x = next(iter(deploy.Batches(images.test_images, images.test_labels, 40)))[0]
    assert row["accuracy"] == int((run(x).argmax(dim=1) == images.test_labels).sum()) / 40
    assert (row["precision"], row["calibration_images"]) == ("int8", 16)
    assert f"{row['accuracy']:.2%}" in sentence
    document = tmp_path / "document.md"
    document.write_text("<!-- table: engines -->\n<!-- /table -->\n", encoding="utf-8")
    assert f"| 1 | onnx | int8 | {row['accuracy_frozen'] * 100:.2f} |" in filled(document, tmp_path)


def test_what_is_not_calibrated_says_so_and_images_have_one_size(checkpoint, images, tmp_path):
    export = partial(deploy.export_checkpoint, checkpoint, tmp_path / "net.onnx", engine="onnx", results=tmp_path)
    with pytest.raises(ValueError, match="size=64 is not that of the images of synthetic, 32 × 32"):
        export(calibrate=images.name, size=64)
    export(calibrate=images.name)
    (row,) = measurements.read(tmp_path / deploy.TABLE).to_dict("records")
    assert (row["precision"], row["calibration_images"]) == ("fp32", 0)


def test_ranges_come_from_images_of_all_classes(by_class, monkeypatch):
    (everything, labels) = next(iter(deploy.Batches(by_class.train_images, by_class.train_labels, 80)))
    monkeypatch.setattr(deploy, "CALIBRATION_IMAGES", 20)
    drawn = deploy.calibration_images(by_class)
    assert len(drawn) == 20
    assert len({int(labels[(everything == x).flatten(1).all(dim=1)][0]) for x in drawn}) > 5
    monkeypatch.setattr(deploy, "CALIBRATION_IMAGES", 500)
    assert len(deploy.calibration_images(by_class)) == 80


@pytest.mark.parametrize(
    "precision",
    ["fp32", pytest.param("bf16", marks=pytest.mark.skipif("bf16" not in FORMS, reason="this processor has no bf16"))],
)
def test_the_frozen_network_itself_is_tested(checkpoint, images, tmp_path, precision, capsys):
    options = {"precision": precision, "tune": False, "results": tmp_path}
    with pytest.raises(ValueError, match="give data, the dataset to test on"):
        inference.freeze(checkpoint, tmp_path / "frozen", **options)
    inference.freeze(checkpoint, tmp_path / "frozen", **options, data=images.name)
    (row,) = measurements.read(tmp_path / deploy.TABLE).to_dict("records")
    assert (row["engine"], row["precision"], row["data"]) == ("kernel", precision, images.name)
    frozen = load(tmp_path / "frozen")
    assert ("bf16" in {layer.form for _, layer in frozen_convolutions(frozen)}) == (precision == "bf16")
    x = next(iter(deploy.Batches(images.test_images, images.test_labels, 40)))[0]
    assert row["accuracy"] == int((frozen(x).argmax(dim=1) == images.test_labels).sum()) / 40
    assert f"accuracy {row['accuracy']:.2%}, of the frozen network in fp32 {row['accuracy_frozen']:.2%}" in (
        capsys.readouterr().out
    )


def test_other_images_than_the_run_s_are_refused(checkpoint, images, other_images, tmp_path, monkeypatch):
    """Their classes are others, or their test images were trained on: an accuracy would say nothing."""
    for other in (other_images, images.hold_out(10)):
        monkeypatch.setattr(deploy, "load", lambda name, root, other=other: other)
        export = partial(deploy.export_checkpoint, checkpoint, tmp_path / "net.onnx", engine="onnx", calibrate="two")
        for test in (export, partial(deploy.frozen_accuracy, checkpoint, None, precision="fp32", data="two")):
            with pytest.raises(ValueError, match=r"was trained on 'tiny' with fingerprint .*, and 'two' has .*: give"):
                test(results=tmp_path)
    assert not (tmp_path / "net.onnx").exists()
    assert not (tmp_path / deploy.TABLE).exists()


def test_a_run_on_a_part_of_its_dataset_is_tested_on_all_test_images(tiny, images, tmp_path, monkeypatch):
    fit(tiny(epochs=1, hold_out=10), images, tmp_path, device="cpu", progress=False)
    monkeypatch.setattr(deploy, "load", lambda name, root: images)
    saved, _ = trained_network(tmp_path / "last.ckpt")
    assert saved.fingerprint != images.fingerprint
    assert deploy.dataset_of(saved, "tiny", tmp_path) is images


def test_a_record_needs_a_test(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="give calibrate, the dataset to test on"):
        deploy.export_checkpoint(checkpoint, tmp_path / "net.onnx", engine="onnx", results=tmp_path)
