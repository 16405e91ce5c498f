"""Checks of the exercises of notebook 05."""

from typing import Any, cast

import torch

from flgc_lib.course.exercises import NotYet, call, filled
from flgc_lib.resnet import resnet

NEEDED = {
    "weights",
    "running means of batch norm",
    "momentum of SGD",
    "moments of Adam",
    "step of the schedule",
    "epoch",
}
USELESS = {
    "gradients": "they are computed anew in every step, and set to zero before",
    "activations": "they are computed anew for every batch",
    "the batches themselves": "seed and epoch give the same batches again",
    "the mask M": "it follows from S and T, which are among the weights",
}


def exercise_1(answer: object) -> str:
    """Accuracy of a batch."""
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 5.0, 2.0], [4.0, 1.0, 1.0]])
    labels = torch.tensor([0, 2, 0, 0])
    value = float(call(answer, "accuracy", logits, labels))
    if value == 3:
        raise NotYet("for 3 right out of 4 `accuracy` says 3: divide by the number of images to get a share.")
    if value == 75:
        raise NotYet("`accuracy` is a share, 0.75, not a percentage.")
    if abs(value - 0.75) > 1e-6:
        raise NotYet(
            f"`accuracy` gives {value:g} for four images of which three are right (their largest logits are at "
            "0, 2, 1, 0, the labels are 0, 2, 0, 0): compare `logits.argmax(dim=1)` with the labels."
        )
    return "Right: 3 of 4 is 0.75."


def exercise_2(answer: object) -> str:
    """Which parameters are decayed."""
    network = resnet((1,), method="flgc", groups=2, width=1 / 16)
    for name, parameter in network.named_parameters():
        given = call(answer, "is_decayed", name, parameter)
        learns_groups = name.endswith(("input_logits", "filter_logits"))
        if bool(given) == (parameter.ndim > 1 and not learns_groups):
            continue
        if learns_groups:
            raise NotYet(f"{name} is S or T: decay would pull all logits together until chance decides the groups.")
        if parameter.ndim <= 1:
            raise NotYet(f"{name} has {parameter.ndim} axis: norms and biases are not decayed.")
        raise NotYet(f"{name} of shape {tuple(parameter.shape)} is a weight of a convolution or classifier: decay it.")
    return "Right: weights with more than one axis, but not S and T."


def exercise_3(answer: object) -> str:
    """What a checkpoint must hold."""
    hint = "`saved` is empty: a run that is resumed with nothing starts from the beginning."
    chosen = set(filled(cast(Any, answer) or None, hint))
    unknown = chosen - NEEDED - set(USELESS)
    if unknown:
        raise NotYet(f"{sorted(map(str, unknown))} is not in the list `STATE`.")
    for name in sorted(chosen & set(USELESS)):
        raise NotYet(f"{name} need not be saved: {USELESS[name]}.")
    missing = NEEDED - chosen
    if missing:
        raise NotYet(
            f"{len(missing)} more are needed. Without one of them the next step would not be the same: "
            f"{_consequence(sorted(missing)[0])}"
        )
    return "Right: everything that the next step reads and that can't be computed from settings and data."


def _consequence(name: str) -> str:
    return {
        "weights": "what has been learned would be gone.",
        "running means of batch norm": "the test, which uses what was averaged over batches, would start from 0 and 1.",
        "momentum of SGD": "SGD would forget the direction in which it was going.",
        "moments of Adam": "Adam divides by the usual size of the gradients, and would have to measure it again.",
        "step of the schedule": "the learning rate would warm up a second time.",
        "epoch": "the images of epoch 1 would come again, in the same order.",
    }[name]


def exercise_4(answer: object) -> str:
    """Choosing the epoch by held-out images alone."""
    held_out, test = [0.50, 0.62, 0.71, 0.69], [0.52, 0.74, 0.66, 0.68]
    value = float(call(answer, "report", held_out, test))
    if value == max(test):
        raise NotYet(
            f"`report` gives {value}, the best test accuracy: then the test set has chosen the epoch, and the number "
            "is too good. Choose by `held_out`."
        )
    if value == max(held_out):
        raise NotYet(f"`report` gives {value}, the accuracy on the images that chose the epoch; report the test's.")
    if value == test[-1]:
        raise NotYet(f"`report` gives {value}, the last epoch; the held-out images prefer an earlier one.")
    if value != test[2]:
        raise NotYet(f"`report` gives {value} for held-out {held_out} and test {test}; epoch 3 is the best held out.")
    tie = float(call(answer, "report", [0.7, 0.7], [0.6, 0.9]))
    if tie != 0.6:
        raise NotYet("of two epochs that are equally good held out, take the first, not the one with the better test.")
    return "Right: held-out images choose, the test set is looked at once, for what was chosen."


def checkpoint_state() -> tuple[str, ...]:
    """What exercise 3 offers to save, in alphabetical order."""
    return tuple(sorted({*NEEDED, *USELESS}))
