"""Training: who is optimised how, that a seed decides everything, resuming, and what is measured."""

import contextlib
import dataclasses
import functools

import pytest
import torch
from torch import nn

from flgc_lib.clustered import ClusteredConv2d
from flgc_lib.experiment import training
from flgc_lib.experiment.assignments import learned_layers
from flgc_lib.experiment.optimisers import parameter_groups
from flgc_lib.experiment.schedule import phase
from flgc_lib.experiment.settings import Settings
from flgc_lib.experiment.training import Classifier, fit


def finish(settings, dataset, folder, **options):
    return fit(settings, dataset, folder, device="cpu", **({"progress": False} | options))


def history(module):
    """The measurements of every epoch, all but the time."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in module.history]


def column(module, name):
    return [row[name] for row in module.history]


def assignments(module):
    return {key: [value.tolist() for value in values] for key, values in module.assignments.items()}


def same(one, other):
    """Equal to the last digit: measurements, assignments and weights."""
    assert history(one) == history(other)
    assert assignments(one) == assignments(other)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.fixture(scope="module")
def trained(tiny, images, tmp_path_factory):
    """A finished run of `tiny()`; tests leave it as it is."""
    return finish(tiny(), images, tmp_path_factory.mktemp("trained"))


# Optimisers


@pytest.mark.parametrize("method", ["dense", "grouped", "random", "flgc", "flgc-dup", "ring"])
def test_every_trainable_parameter_is_in_exactly_one_group(tiny, method):
    model = tiny(method=method).network()
    names = {id(p): name for name, p in model.named_parameters()}
    (decayed, undecayed), logits = parameter_groups(model, 0.25)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.25, 0)

    norms = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for p in undecayed["params"]:
        name = names[id(p)]
        assert name.rpartition(".")[0] in norms or name.endswith("bias")
    for p in decayed["params"]:
        name = names[id(p)]
        assert name.endswith("weight")
        assert name.rpartition(".")[0] not in norms
    assert all(names[id(p)].endswith(("input_logits", "filter_logits")) for p in logits)
    assert len(logits) == (6 if method in ("flgc", "flgc-dup") else 0)

    taken = [id(p) for p in [*decayed["params"], *undecayed["params"], *logits]]
    assert len(taken) == len(set(taken))
    assert set(taken) == {id(p) for p in model.parameters() if p.requires_grad}


def test_norms_biases_and_logits_are_not_decayed(tiny, images, tmp_path):
    """Without a gradient only weight decay moves a parameter: w (1 - lr · decay) for SGD's first step."""
    settings = tiny(epochs=1, weight_decay=0.5, momentum=0.8)
    module = finish(settings, images, tmp_path)
    optimizers, _ = module.configure_optimizers()
    assert {group["momentum"] for group in optimizers[0].param_groups} == {0.8}
    assert [type(o) for o in optimizers] == [torch.optim.SGD, torch.optim.Adam]
    before = {name: p.detach().clone() for name, p in module.model.named_parameters()}
    for p in module.model.parameters():
        p.grad = torch.zeros_like(p)
    for optimizer in optimizers:
        optimizer.step()
    rate = optimizers[0].param_groups[0]["lr"]
    for name, p in module.model.named_parameters():
        decays = p.ndim > 1 and not name.endswith("logits")
        shrunk = before[name] * (1 - rate * 0.5 * 1.8) if decays else before[name]  # Nesterov: 1 + momentum
        torch.testing.assert_close(p.detach(), shrunk, rtol=1e-5 if decays else 0, atol=0)


def test_each_optimiser_goes_through_one_cycle_at_its_own_peak(tiny, images, tmp_path, monkeypatch):
    rates = []
    step = Classifier.training_step

    def spy(module, batch):
        rates.append([o.param_groups[0]["lr"] for o in module.optimizers()])
        step(module, batch)

    monkeypatch.setattr(Classifier, "training_step", spy)
    finish(tiny(learning_rate=0.4, logit_learning_rate=0.03, epochs=4), images, tmp_path)
    assert len(rates) == 4 * 5
    for peak, cycle in zip((0.4, 0.03), zip(*rates, strict=True), strict=True):
        assert max(cycle) == pytest.approx(peak)
        assert cycle[0] == pytest.approx(peak / 25)
        assert cycle[-1] < peak / 1000


def test_weights_and_logits_are_trained_and_the_loss_falls(tiny, trained, images):
    start = tiny().network().state_dict()
    for name, p in trained.model.named_parameters():
        assert not torch.equal(p.detach(), start[name]), name
    losses = column(trained, "train_loss")
    assert losses[-1] < losses[0]


def test_logits_are_updated_every_so_many_steps_also_in_a_resumed_run(tiny, images, tmp_path, monkeypatch):
    settings, taken = tiny(assign_every=3), []
    step = Classifier.training_step

    def spy(module, batch):
        before = [p.detach().clone() for p in parameter_groups(module.model, 0.0)[1]]
        step(module, batch)
        after = parameter_groups(module.model, 0.0)[1]
        taken.append({not torch.equal(a, b) for a, b in zip(before, after, strict=True)})

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", spy)
        whole = finish(settings, images, tmp_path / "whole")
    assert taken == [{i % 3 == 0} for i in range(3 * 5)]

    with monkeypatch.context() as patch:
        _fail_at(patch, Classifier, "training_step", 7)
        with pytest.raises(InterruptError):
            finish(settings, images, tmp_path / "resumed")
    same(finish(settings, images, tmp_path / "resumed"), whole)


@pytest.mark.parametrize("method", ["flgc", "random", "cluster-dup"])
def test_a_soft_start_ends_and_groups_stay_after_it(tiny, images, tmp_path, monkeypatch, method):
    settings, softness, changed = tiny(method=method, soft_start=0.5, assign_every=2, logit_learning_rate=1.0), [], []
    step = Classifier.training_step

    def spy(module, batch):
        before = [layer.input_logits.detach().argmax(dim=1) for layer in module.layers.values()]
        step(module, batch)
        after = [layer.input_logits.detach().argmax(dim=1) for layer in module.layers.values()]
        changed.append(not torch.equal(torch.cat(before), torch.cat(after)))
        softness.append([layer.softness for layer in module.layers.values()])

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", spy)
        whole = finish(settings, images, tmp_path / "whole")
    for i, values in enumerate(softness):
        assert values == pytest.approx([max(0, 1 - i / 7.5)] * len(values))
    assert any(changed[:8]) is (method != "random")
    assert not any(changed[8:])
    assert not any(changed[1::2]), "groups changed in a step in which they must not"
    assert (column(whole, "copies")[-1] > 0) is (method == "cluster-dup")

    with monkeypatch.context() as patch:
        _fail_at(patch, Classifier, "training_step", 7)
        with pytest.raises(InterruptError):
            finish(settings, images, tmp_path / "resumed")
    same(finish(settings, images, tmp_path / "resumed"), whole)


@pytest.mark.parametrize("method", ["cluster", "select", "select-random", "budget", "budget-random"])
def test_groups_are_chosen_once_when_the_scout_ends(tiny, images, tmp_path, monkeypatch, method):
    share = {"share": 1.5} if method.startswith("budget") else {}
    settings = tiny(method=method, soft_start=0.6, scout=0.2, **share)  # of 15 steps 3 scout, 6 more fade
    softness, regrouped = [], []
    step, regroup = Classifier.training_step, ClusteredConv2d.regroup

    def spy(module, batch):
        softness.append({layer.softness for layer in module.layers.values()} if softness else {1.0})
        step(module, batch)
        softness[-1] = {layer.softness for layer in module.layers.values()}

    def spied(layer):
        regrouped.append(len(softness) - 1)
        regroup(layer)

    monkeypatch.setattr(Classifier, "training_step", spy)
    monkeypatch.setattr(ClusteredConv2d, "regroup", spied)
    module = finish(settings, images, tmp_path)
    expected = [min(1, max(0, 1 - (i - 3) / 6)) for i in range(15)]
    assert [value for (value,) in softness] == pytest.approx(expected)
    assert set(regrouped) == {3}
    assert len(regrouped) == len(module.layers)


@pytest.mark.parametrize(("scout", "soft_start", "steps"), [(0.49, 0.5, 10), (0.5, 0.55, 3), (0.01, 0.02, 20)])
def test_groups_close_after_a_scout_of_any_length(scout, soft_start, steps):
    settings = Settings(method="cluster", groups=4, scout=scout, soft_start=soft_start)
    phases = [phase(settings, step, steps) for step in range(steps)]
    softness = [now.softness for now in phases]
    assert softness == sorted(softness, reverse=True)
    assert softness[0] == 1
    assert softness[-1] == 0
    assert [now.regroups for now in phases].count(True) == 1


# The same numbers again


def test_same_settings_give_the_same_run_and_another_seed_another(tiny, trained, images, tmp_path):
    same(finish(tiny(), images, tmp_path / "again"), trained)
    other = finish(tiny(seed=1), images, tmp_path / "other")
    assert column(other, "train_loss") != column(trained, "train_loss")


class InterruptError(Exception):
    """Stands for whatever ends a run early."""


def _fail_at(monkeypatch, owner, name, call):
    """Lets the method run `call` times, then fail before it does anything."""
    original, calls = getattr(owner, name), iter(range(call))

    @functools.wraps(original)  # Lightning looks at the signature
    def failing(*arguments, **options):
        if next(calls, None) is None:
            raise InterruptError
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    ("where", "call", "repeated"),
    [
        ("training_step", 2, 3),
        ("training_step", 5, 2),
        ("training_step", 7, 2),
        ("validation_step", 1, 2),
        ("on_train_epoch_end", 1, 2),
        ("on_save_checkpoint", 2, 1),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_numbers(tiny, trained, images, tmp_path, where, call, repeated):
    with pytest.MonkeyPatch.context() as patch:
        _fail_at(patch, Classifier, where, call)
        with pytest.raises(InterruptError):
            finish(tiny(), images, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        _fail_at(patch, Classifier, "training_step", repeated * 5)  # so many epochs are left, no more
        same(finish(tiny(), images, tmp_path), trained)


def test_a_checkpoint_cut_short_leaves_the_last_whole_one(tiny, trained, images, tmp_path, monkeypatch):
    save = training.lightning.Trainer.save_checkpoint

    def disk_full_at_the_second(trainer, path, *arguments):
        save(trainer, path, *arguments)
        if trainer.current_epoch == 1:
            path.write_bytes(path.read_bytes()[:1000])
            raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training.lightning.Trainer, "save_checkpoint", disk_full_at_the_second)
        with pytest.raises(OSError, match="No space left"):
            finish(tiny(), images, tmp_path)
    _fail_at(monkeypatch, Classifier, "training_step", 2 * 5)  # the first epoch is not lost
    same(finish(tiny(), images, tmp_path), trained)


def test_a_finished_run_is_read_back_without_training(tiny, trained, images, tmp_path, monkeypatch):
    finish(tiny(), images, tmp_path)
    _fail_at(monkeypatch, Classifier, "training_step", 0)
    again = finish(tiny(), images, tmp_path)
    same(again, trained)
    assert column(again, "seconds")


def test_with_a_progress_bar_it_is_the_same_run_and_a_line_an_epoch(tiny, trained, images, tmp_path, capsys):
    same(finish(tiny(), images, tmp_path, progress=True), trained)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    out = capsys.readouterr().out
    assert "epoch 3/3, train loss " in out
    assert out.count("accuracy") == 3


# What a step sees


def _loader_of(module, *, epoch=0, test=False):
    module = Classifier(module.settings, module.dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "current_epoch", epoch)
        return module.val_dataloader() if test else module.train_dataloader()


def test_batches_depend_on_seed_and_epoch_alone(tiny, images):
    dup, dense, other = (Classifier(tiny(**c), images) for c in ({}, {"method": "dense"}, {"seed": 1}))
    first, *_ = _loader_of(dup)
    for module, epoch, equal in ((dup, 0, True), (dense, 0, True), (dup, 1, False), (other, 0, False)):
        batch, *_ = _loader_of(module, epoch=epoch)
        assert torch.equal(batch[0], first[0]) == equal
    assert len(first[0]) == 16
    assert _loader_of(dup).augment
    assert not _loader_of(dup, test=True).augment


def test_held_out_images_take_the_place_of_the_test_images(tiny, images, tmp_path):
    """Other test images, or none that make sense, change nothing: they are never looked at."""
    settings = tiny(hold_out=20, epochs=2)
    module = finish(settings, images, tmp_path / "one")
    assert len(module.dataset.train_labels) == 60
    assert len(module.dataset.test_labels) == 20
    rows = {image.numpy().tobytes() for image in images.train_images}
    assert all(image.numpy().tobytes() in rows for image in module.dataset.test_images)

    poisoned = dataclasses.replace(images, test_images=255 - images.test_images, test_labels=9 - images.test_labels)
    same(finish(settings, poisoned, tmp_path / "two"), module)
    differing = [
        finish(tiny(epochs=2), d, tmp_path / d.name) for d in (images, dataclasses.replace(poisoned, name="p"))
    ]
    assert column(differing[0], "test_loss") != column(differing[1], "test_loss")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_of_products_and_of_what_is_kept(tiny, images, tmp_path, monkeypatch, precision, dtype):
    seen, forward = set(), Classifier.forward

    def spy(module, batch):
        logits = forward(module, batch)
        seen.add(logits.dtype)
        return logits

    monkeypatch.setattr(Classifier, "forward", spy)
    module = finish(tiny(precision=precision, epochs=1), images, tmp_path)
    assert seen == {dtype}
    assert {p.dtype for p in module.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("before", ["default", "error"])
@pytest.mark.parametrize("fails", [False, True])
def test_how_pytorch_chooses_algorithms_is_put_back(tiny, images, tmp_path, monkeypatch, before, fails):
    """A training is deterministic; what is computed after it, or was before, is not its business."""
    seen, step = set(), Classifier.training_step

    def spy(module, batch):
        seen.add(torch.get_deterministic_debug_mode())
        if fails:
            raise InterruptError
        step(module, batch)

    monkeypatch.setattr(Classifier, "training_step", spy)
    torch.set_deterministic_debug_mode(before)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    try:
        mode = torch.get_deterministic_debug_mode()
        with pytest.raises(InterruptError) if fails else contextlib.nullcontext():
            finish(tiny(epochs=1), images, tmp_path)
        assert (torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark) == (mode, True)
        assert seen == {1}
    finally:
        torch.set_deterministic_debug_mode("default")


def test_measurements_are_those_of_the_whole_test_set(tiny, trained, images):
    """Against the slow form, one image at a time, with the weights after the last epoch."""
    loader = _loader_of(trained, test=True)
    x = torch.cat([batch[0] for batch in loader])
    with torch.no_grad():
        logits = torch.cat([trained.model.eval()(image[None]) for image in x])
    loss = nn.functional.cross_entropy(logits, images.test_labels)
    assert trained.history[-1]["test_accuracy"] == (logits.argmax(1) == images.test_labels).sum().item() / 40
    assert trained.history[-1]["test_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_test_images_are_counted_beyond_one_batch(tiny, images, tmp_path, monkeypatch, trained):
    monkeypatch.setattr(training, "EVALUATION_BATCH", 7)  # 40 images: five batches and five images
    module = finish(tiny(), images, tmp_path)
    assert column(module, "test_accuracy") == column(trained, "test_accuracy")
    assert column(module, "test_loss") == pytest.approx(column(trained, "test_loss"))


def test_train_loss_is_the_mean_over_the_steps(tiny, images, tmp_path, monkeypatch):
    losses, entropy = [], training.F.cross_entropy

    def spy(logits, labels, reduction="mean"):
        loss = entropy(logits, labels, reduction=reduction)
        if reduction == "mean":
            losses.append(loss.item())
        return loss

    monkeypatch.setattr(training.F, "cross_entropy", spy)
    module = finish(tiny(epochs=2), images, tmp_path)
    assert column(module, "train_loss") == pytest.approx([sum(losses[:5]) / 5, sum(losses[5:]) / 5])


# Groups


def test_assignments_of_every_epoch_and_logits_of_three(tiny, trained):
    kept = trained.assignments
    assert [int(epoch) for epoch in kept["snapshots"]] == [0, 2, 3]
    start = learned_layers(tiny().network())
    assert len(start) == 3
    for name, layer in trained.layers.items():
        for kind in ("channel_group", "filter_group", "copies"):
            assert len(kept[f"{name}.{kind}"]) == 4
        for kind, logits in (("S", layer.input_logits), ("T", layer.filter_logits)):
            assert len(kept[f"{name}.{kind}"]) == 3
            assert torch.equal(kept[f"{name}.{kind}"][-1], logits.detach().half())
        assert torch.equal(kept[f"{name}.S"][0], start[name].input_logits.detach().half())
        assert torch.equal(kept[f"{name}.channel_group"][-1].long(), layer.input_logits.argmax(dim=1))
        assert torch.equal(kept[f"{name}.filter_group"][-1].long(), layer.filter_logits.argmax(dim=1))
        assert torch.equal(kept[f"{name}.inputs"][-1], layer.input_membership())
    copies = sum(int(kept[f"{name}.copies"][-1]) for name in trained.layers)
    assert copies == trained.history[-1]["copies"] > 0


def test_flgc_moves_and_random_never_does(tiny, trained, images, tmp_path):
    assert trained.history[-1]["channels_moved"] > 0
    assert trained.history[-1]["filters_moved"] > 0
    assert trained.history[0]["channels_moved_last"] == trained.history[0]["channels_moved"]

    random = finish(tiny(method="random"), images, tmp_path)
    for name in ("channels_moved", "channels_moved_last", "filters_moved", "copies"):
        assert column(random, name) == [0, 0, 0]
    start = learned_layers(tiny(method="random").network())
    for name, layer in random.layers.items():
        assert torch.equal(layer.input_logits, start[name].input_logits)
    assert len(set(column(random, "largest_logit"))) == 1


@pytest.mark.parametrize("method", ["dense", "grouped"])
def test_nets_without_learned_groups_have_zeros_there(tiny, images, tmp_path, method):
    module = finish(tiny(method=method, epochs=1), images, tmp_path)
    row = module.history[0]
    names = ("copies", "empty_groups", "channels_moved", "channels_moved_last", "filters_moved", "largest_logit")
    assert [row[name] for name in names] == [0] * 6
    assert module.assignments == {}


def test_post_hoc_copies_are_made_in_the_network_that_was_trained_without(tiny, images, tmp_path):
    """All training is FLGC's, in a run that finds it done as in one that does it; copies change the outcome only."""
    settings = tiny(copy_time="post-hoc")
    flgc = finish(settings.trained, images, tmp_path / "flgc")
    module = finish(settings, images, tmp_path / "post-hoc")
    assert flgc.outcome == flgc.history[-1]
    assert column(flgc, "copies") == [0, 0, 0]
    for name in ("train_loss", "test_loss", "test_accuracy", "copies"):
        assert column(module, name) == column(flgc, name)
    changed = {name for name, value in module.outcome.items() if value != module.history[-1][name]}
    assert {"test_loss", "copies"} <= changed <= {"test_loss", "test_accuracy", "copies"}

    # The rule's scores are those of the end, and the network is tested as it is recorded.
    layers, plain = module.layers, flgc.layers
    assert all(torch.equal(layers[n].input_logits, plain[n].input_logits) for n in plain)
    copies = sum(int(layer.input_membership().sum()) - layer.in_channels for layer in layers.values())
    assert module.outcome["copies"] == copies > 0
    module.eval()
    with torch.no_grad():
        hits = sum(int((module(x).argmax(dim=1) == y).sum()) for x, y in module.val_dataloader())
    assert module.outcome["test_accuracy"] == hits / len(images.test_labels)
    assert module.assignments["snapshots"] == flgc.assignments["snapshots"]
    assert {key: len(values) for key, values in module.assignments.items()} == {
        key: len(values) for key, values in flgc.assignments.items()
    }

    again = finish(settings, images, tmp_path / "flgc")  # where that training is done
    assert {**again.outcome, "seconds": 0} == {**module.outcome, "seconds": 0}

    in_training = finish(tiny(), images, tmp_path / "training")
    assert column(in_training, "copies")[0] > 0
    assert column(in_training, "train_loss") != column(flgc, "train_loss")


# Refusals


def test_a_run_that_diverged_is_refused_and_leaves_no_checkpoint(tiny, images, tmp_path):
    """A loss that is not a number would stand in the records as a missing value."""
    with pytest.raises(ValueError, match=r"diverged: in epoch 1 the train loss is nan .* lower learning_rate=1e\+30"):
        finish(tiny(method="grouped", learning_rate=1e30), images, tmp_path)
    assert not (tmp_path / "last.ckpt").exists()
