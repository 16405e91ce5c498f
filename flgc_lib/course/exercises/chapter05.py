"""Checks of the exercises of notebook 05."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from flgc_lib.course.exercises.answers import Case, Student, draw
from flgc_lib.course.exercises.values import NotYet, filled, number, read, show
from flgc_lib.resnet import resnet

NEEDED = {
    "weights": "what has been learned would be gone.",
    "running means of batch norm": "the test, which uses what was averaged over batches, would start from 0 and 1.",
    "momentum of SGD": "SGD would forget the direction in which it was going.",
    "moments of Adam": "Adam divides by the usual size of the gradients, and would have to measure it again.",
}
"""What a checkpoint must hold, and what happens without."""
PROGRESS = {
    "step of the schedule": "the learning rate would warm up a second time",
    "epoch": "the images of epoch 1 would come again, in the same order",
}
"""How far the training is; at the end of an epoch each follows from the other, so that one is enough."""
USELESS = {
    "gradients": "they are computed anew in every step, and set to zero before",
    "activations": "they are computed anew for every batch",
    "the batches themselves": "seed and epoch give the same batches again",
    "the mask M": "it follows from S and T, which are among the weights",
}


def exercise_1(answer: object) -> str:
    """Accuracy of a batch."""
    student, generator = Student(answer, "accuracy"), torch.Generator().manual_seed(0)
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 5.0, 2.0], [4.0, 1.0, 1.0]])
    cases = [(logits, torch.tensor([0, 2, 0, 0]))]
    for _ in range(8):
        images, classes = draw(5, 40, generator), draw(2, 10, generator)
        logits = torch.randn(images, classes, generator=generator)
        guess = torch.randint(classes, (images,), generator=generator)
        right = torch.rand(images, generator=generator) < 0.5
        cases.append((logits, torch.where(right, logits.argmax(dim=1), guess)))
    asked: list[Case] = []
    for logits, labels in cases:
        images, hits = len(labels), int((logits.argmax(dim=1) == labels).sum())
        mistakes = {
            f"that is the number of right ones: divide by the number of images, {images}, to get a share.": hits,
            "`accuracy` is a share, not a percentage.": 100 * hits / images,
            "that is divided by the number of classes; divide by the number of images.": hits / logits.shape[1],
            "that is the share of wrong ones.": 1 - hits / images,
        }
        why = f"{hits} of {images} are right: compare `logits.argmax(dim=1)` with the labels."
        asked.append(((logits, labels), hits / images, why, mistakes))
    student.solves(asked)
    return "Right: the share of images whose largest logit is at their class."


def exercise_2(answer: object) -> str:
    """Which parameters are decayed."""
    student = Student(answer, "is_decayed")
    network = resnet((1,), method="flgc", groups=2, width=1 / 16)
    other = nn.ModuleDict({"head": nn.Linear(6, 4), "stem": nn.Conv1d(2, 3, 5), "scale": nn.GroupNorm(2, 4)})
    parameters: list[tuple[str, torch.Tensor]] = [*network.named_parameters(), *other.named_parameters()]
    parameters += [
        ("stages.3.mixer.input_logits", torch.zeros(8, 2)),
        ("stages.3.mixer.filter_logits", torch.zeros(6, 2)),
    ]
    for name, parameter in parameters:
        given = student(name, parameter.detach())
        value = read(given, f"`is_decayed({name!r}, …)`") if not isinstance(given, str) else torch.tensor(torch.nan)
        if value.numel() != 1 or float(value) not in (0.0, 1.0):
            raise NotYet(f"`is_decayed({name!r}, …)` gives {show(given)}; it must say True or False.")
        learns_groups = name.endswith(("input_logits", "filter_logits"))
        if bool(value) == (parameter.ndim > 1 and not learns_groups):
            continue
        if learns_groups:
            raise NotYet(f"{name} is S or T: decay would pull all logits together until chance decides the groups.")
        if parameter.ndim <= 1:
            raise NotYet(f"{name} has {parameter.ndim} axis: norms and biases are not decayed.")
        raise NotYet(f"{name} of shape {tuple(parameter.shape)} is a weight of a convolution or classifier: decay it.")
    return "Right: weights with more than one axis, but not S and T."


def exercise_3(answer: Any) -> str:  # noqa: ANN401
    """What a checkpoint must hold."""
    hint = "`saved` is empty: a run that is resumed with nothing starts from the beginning."
    if isinstance(filled(answer, hint), str) or not isinstance(answer, Iterable):
        raise NotYet(f"`saved` is {show(answer)}; write a set of words of the list `STATE`, each with quotes.")
    chosen = {str(word) for word in answer}
    if not chosen:
        raise NotYet(hint)
    unknown = chosen - set(checkpoint_state())
    if unknown:
        raise NotYet(f"{sorted(unknown)} is not in the list `STATE`.")
    for name in sorted(chosen & set(USELESS)):
        raise NotYet(f"{name} need not be saved: {USELESS[name]}.")
    lost = {name: what for name, what in NEEDED.items() if name not in chosen}
    if not chosen & set(PROGRESS):
        lost["how far the training is"] = f"{' and '.join(PROGRESS.values())}."
    if lost:
        many, them = ("is 1 more thing", "it") if len(lost) == 1 else (f"are {len(lost)} more things", "one of them")
        what = next(iter(lost.values()))
        raise NotYet(f"there {many} to save. Without {them} the run would not go on as if nothing had happened: {what}")
    both = "" if set(PROGRESS) <= chosen else f" ({', '.join(set(PROGRESS) - chosen)}: it follows from what you saved)"
    return f"Right: everything that the next step reads and that can't be computed from settings and data{both}."


def exercise_4(answer: object) -> str:
    """Choosing the epoch by held-out images alone."""
    student, generator = Student(answer, "report"), torch.Generator().manual_seed(0)
    cases = [([0.50, 0.62, 0.71, 0.69], [0.52, 0.74, 0.66, 0.68])]
    for _ in range(10):
        epochs = draw(3, 9, generator)
        curves = torch.rand(2, epochs, generator=generator).mul(1000).round().div(1000)
        if len(set(curves[0].tolist())) == epochs:
            cases.append(([round(v, 3) for v in curves[0].tolist()], [round(v, 3) for v in curves[1].tolist()]))
    asked: list[Case] = []
    for held_out, test in cases:
        best = max(range(len(test)), key=held_out.__getitem__)
        mistakes = {
            "that is the best test accuracy: then the test set has chosen the epoch, and the number is too good. "
            "Choose by `held_out`.": max(test),
            "that is the accuracy on the images that chose the epoch; report the test's.": max(held_out),
            "that is the last epoch's; the held-out images prefer an earlier one.": test[-1],
            "that is an average; report the test accuracy of one epoch.": sum(test) / len(test),
        }
        why = f"epoch {best + 1} is the best held out, and its test accuracy is reported."
        asked.append(((held_out, test), test[best], why, mistakes))
    student.solves(asked)
    tied = [number(student([0.7, 0.7], test), "`report`") for test in ([0.6, 0.9], [0.9, 0.6])]
    if min(tied) > 0.8:
        raise NotYet(
            "of two epochs that are equally good held out you take the one with the better test accuracy: that is the "
            "test set choosing again. Take the first, or the last, whatever the test says."
        )
    return "Right: held-out images choose, the test set is looked at once, for what was chosen."


def checkpoint_state() -> tuple[str, ...]:
    """What exercise 3 offers to save, in alphabetical order."""
    return tuple(sorted({*NEEDED, *PROGRESS, *USELESS}))
