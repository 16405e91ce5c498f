"""What copies are worth: the network without them, and without as many random connections."""

import pytest
import torch

from flgc_lib.data import Batches
from flgc_lib.experiment import ablation, deploy, measurements
from flgc_lib.experiment.assignments import learned_layers
from flgc_lib.experiment.checkpoint import trained_network
from flgc_lib.experiment.training import fit
from flgc_lib.figures.tables import filled


@pytest.fixture
def trained(tiny, images, tmp_path, monkeypatch):
    """Trains a run and gives its checkpoint."""
    monkeypatch.setattr(deploy, "load", lambda name, root: images)

    def train(**changes):
        fit(tiny(**changes), images, tmp_path / "run", device="cpu", progress=False)
        return tmp_path / "run" / "last.ckpt"

    return train


def accuracy(model, images):
    """With statistics of all training images, taken at once: the norms' mean over batches of equal size is the same."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        for x, _ in Batches(images.train_images, images.train_labels, 100):
            model(x)
    x, labels = next(iter(Batches(images.test_images, images.test_labels, 40)))
    with torch.no_grad():
        return float((model.eval()(x).argmax(dim=1) == labels).float().mean())


def test_without_copies_it_is_the_network_without_the_rule(trained, images, tmp_path):
    checkpoint = trained()
    row = ablation.ablate_checkpoint(checkpoint, results=tmp_path)
    _, model = trained_network(checkpoint)
    layers = learned_layers(model).values()
    with_copies = sum(int(layer.input_membership().sum()) for layer in layers)
    assert row["accuracy"] == pytest.approx(accuracy(model, images))
    copied, generator = [ablation.copies(layer) for layer in layers], torch.Generator().manual_seed(0)
    drawn = [[ablation._as_many(*of_one, generator) for of_one in zip(layers, copied, strict=True)] for _ in range(5)]
    found = []
    for lost in drawn:
        other = trained_network(checkpoint)[1]
        for layer, memberships in zip(learned_layers(other).values(), lost, strict=True):
            with torch.no_grad():
                layer.weight.mul_(~ablation._connections(layer, memberships)[:, :, None, None])
        found.append(accuracy(other, images))
    assert row["without_random"] == pytest.approx(sum(found) / 5)
    for layer in layers:
        layer.duplicate_top_k = None
    assert row["copies"] == with_copies - sum(int(layer.input_membership().sum()) for layer in layers) > 0
    assert row["without_copies"] == pytest.approx(accuracy(model, images))
    (stored,) = measurements.read(tmp_path / ablation.TABLE).to_dict("records")
    assert stored["without_random"] == row["without_random"]
    document = tmp_path / "page.md"
    document.write_text("<!-- table: ablation -->\n<!-- /table -->\n", encoding="utf-8")
    lost = 100 * (row["accuracy"] - row["without_copies"])
    assert f"| `flgc-dup` | 2 | 1 | 1 | {row['copies']} | {100 * row['accuracy']:.2f} | {lost:.2f} |" in filled(
        document, tmp_path
    )


def test_copies_of_a_selection_are_all_but_the_strongest(tiny):
    model = tiny(method="select", share=1.5, soft_start=0.5, scout=0.25).network(10)
    for layer in learned_layers(model).values():
        inputs, copied = layer.input_membership(), ablation.copies(layer)
        assert not (copied & ~inputs).any()
        kept = inputs & ~copied
        assert (kept.sum(dim=1) == inputs.any(dim=1)).all()
        strongest = layer.input_logits.masked_fill(~inputs, -torch.inf).amax(dim=1)
        assert (layer.input_logits[kept] == strongest[inputs.any(dim=1)]).all()


@pytest.mark.parametrize("method", ["select", "flgc-dup"])
def test_as_many_connections_are_drawn_from_all_that_are_there(tiny, method):
    changes = {"select": {"soft_start": 0.5, "scout": 0.25, "share": 1.5}, "flgc-dup": {"top_k": 3, "groups": 4}}
    most = []
    for name, layer in learned_layers(tiny(method=method, width=0.25, **changes[method]).network(10)).items():
        inputs, copied = layer.input_membership(), ablation.copies(layer)
        lost = ablation._as_many(layer, copied, torch.Generator().manual_seed(0))
        assert not (lost & ~inputs).any()
        there, read = (int(ablation._connections(layer, which).sum()) for which in (copied, lost))
        assert abs(read - there) <= (0 if method == "select" else layer.filter_membership().sum(dim=0).max() / 2), name
        most.append(there)
        filters, connections = layer.filter_membership(), ablation._connections(layer, lost)
        for c, g in lost.nonzero().tolist():
            assert connections[filters[:, g], c].all()
    assert max(most) > 0


def test_a_network_without_copies_is_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="so there is nothing to remove"):
        ablation.ablate_checkpoint(trained(method="flgc"), results=tmp_path)


def test_other_images_than_the_run_s_are_refused(trained, other_images, tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "load", lambda name, root: other_images)
    with pytest.raises(ValueError, match=r"was trained on 'tiny' with fingerprint .*, and 'tiny' has .*: give"):
        ablation.ablate_checkpoint(trained(), results=tmp_path)
    assert not (tmp_path / ablation.TABLE).exists()


def test_the_norms_see_images_of_all_classes(trained, by_class, tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "load", lambda name, root: by_class)
    monkeypatch.setattr(ablation, "TEST_BATCH", 20)
    monkeypatch.setattr(ablation, "BATCHES", 1)
    seen = []
    update = ablation.update_bn
    monkeypatch.setattr(ablation, "update_bn", lambda batches, model: update(seen_batches(batches, seen), model))
    ablation.ablate_checkpoint(trained(), results=tmp_path)
    assert len(set(seen[:20])) > 5


def seen_batches(batches, seen):
    for x, labels in batches:
        seen += labels.tolist()
        yield x, labels
