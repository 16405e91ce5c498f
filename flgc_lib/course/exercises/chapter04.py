"""Checks of notebook 04's exercises."""

from collections.abc import Iterable

import torch
from torch import Tensor

from flgc_lib.course.exercises.answers import Case, Student, draw, gradients_of, logits
from flgc_lib.course.exercises.values import NotYet, filled, number, show, whole
from flgc_lib.grouping import duplicates, membership, thresholds

SMALL = torch.tensor([[1.2, 0.9], [0.8, 0.1], [0.6, 0.5], [0.3, 1.0], [0.2, 0.4], [0.1, 0.7]])
"""S of exercise 4.1, six channels in two groups."""


def exercise_1(answer: object) -> str:
    """The copies of a small S by hand."""
    filled(answer, "`pairs` is still `...`: write a set of pairs (channel, group), for example {(4, 0), (5, 0)}")
    given = _pairs(answer)
    members, tau = membership(SMALL), thresholds(SMALL, membership(SMALL), 3)
    wanted = {(int(c), int(g)) for c, g in duplicates(SMALL, members, 3).nonzero()}
    for channel, group in sorted(given - wanted):
        if not (0 <= channel < 6 and 0 <= group < 2):
            raise NotYet(f"({channel}, {group}) is not a pair (channel 0 … 5, group 0 … 1): the channel comes first.")
        if members[channel, group]:
            raise NotYet(
                f"({channel}, {group}) says that channel {channel} is copied into group {group}, where it is already; "
                "a pair is (channel, group), and only channels from outside are copied."
            )
        raise NotYet(
            f"channel {channel} is not copied into group {group}: its score {SMALL[channel, group]:.2f} is not above "
            f"τ({group}) = {tau[group]:.2f}, the mean of the group's three best members."
        )
    if given != wanted:
        raise NotYet("a copy is missing: compute τ of both groups, then compare every channel from outside with it.")
    return "τ = (0.87, 0.70): channel 0, with 0.90, is good enough for group 1 as well, and nothing else is."


def _pairs(answer: object) -> set[tuple[int, int]]:
    """Pairs in any form: a set, list or array of pairs."""
    form = f"`pairs` is {show(answer)}; write a set of pairs (channel, group), for example {{(4, 0), (5, 0)}}."
    if not isinstance(answer, Iterable) or isinstance(answer, (str, dict)):
        raise NotYet(form)
    pairs = whole(list(answer), "`pairs`")
    if pairs.numel() == 0:
        return set()
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise NotYet(form)
    return {(c, g) for c, g in pairs.tolist()}


def exercise_2(answer: object) -> str:
    """The score with which a channel is copied."""
    hint = "`make_copy` returns nothing yet: compute τ(g) first; S[c, g] must be above it."
    student, generator = Student(answer, "make_copy", hint), torch.Generator().manual_seed(0)
    shown = [(torch.tensor([[1.0, 0.0], [0.4, 0.2], [0.1, 0.6]]), c, 1, 3) for c in (0, 1)]
    empty = (torch.tensor([[1.0, 0.0, 0.5], [0.3, 0.1, 2.0], [0.2, 0.0, 1.0]]), 0, 1, 3)
    hidden: list[tuple[Tensor, int, int, int]] = []
    while len(hidden) < 30:
        C, G, k = draw(4, 8, generator), draw(2, 3, generator), draw(1, 5, generator)
        S, c = logits(C, G, generator), draw(0, C - 1, generator)
        g = (int(S[c].argmax()) + draw(1, G - 1, generator)) % G
        if abs(float(S[c].max() - thresholds(S, membership(S), k)[g])) > 1e-2:
            hidden.append((S, c, g, k))
    for S, c, g, k in (*shown, empty, *hidden):
        _copies_there(student, S, c, g, k)
    return (
        "Only a channel whose own logit beats τ(g) can be copied into g: the rule favours what is wanted much anyway."
    )


def _copies_there(student: Student, S: Tensor, c: int, g: int, k: int) -> None:
    called = student.called(S, c, g, k)
    tau, own = float(thresholds(S, membership(S), k)[g]), float(S[c].max())
    where = f"τ({g}) = {tau:.3g}, and channel {c} has {own:.3g} in its own group {int(S[c].argmax())}"
    value = student(S, c, g, k, nothing=True)
    if value is None:
        if own > tau:
            raise NotYet(f"{called} gives None, but there is a value: {where}.")
        return
    tried = S.clone().double()
    tried[c, g] = given = number(value, called)
    if given != given or abs(given) == float("inf"):
        raise NotYet(f"{called} gives {show(value)}, which is no logit; if there is no value, return None.")
    if int(tried[c].argmax()) != int(S[c].argmax()):
        raise NotYet(f"{called} gives {given:.4g}: with it channel {c} moves to group {g}, and is no copy; {where}.")
    if not duplicates(tried, membership(tried), k)[c, g]:
        none = " No value between the two exists: return None." if own <= tau else ""
        raise NotYet(f"{called} gives {given:.4g}, and nothing is copied: a score must be above τ; {where}.{none}")


def exercise_3(answer: object) -> str:
    """The smallest k that copies enough."""
    hint = "`smallest_k` returned nothing yet: try k = 1, 2, 3, … and count the copies each time"
    student, generator = Student(answer, "smallest_k", hint), torch.Generator().manual_seed(0)
    cases = 0
    while cases < 12:
        C, G = (64, 16) if cases < 2 else (2 ** draw(4, 6, generator), draw(2, 16, generator))
        S = torch.randn(C, G, generator=generator)
        counts = [int(duplicates(S, membership(S), k).sum()) for k in range(1, C + 1)]
        least = counts[draw(0, C - 1, generator)]
        if least in (0, max(counts)):
            continue
        cases += 1
        # Exactly as many as some k makes, and half a copy less; C is a power of 2, so nothing is rounded.
        _smallest(student, S, counts, (least - 0.5 * (cases % 2)) / C)
    return "A larger k averages over weaker members, lowers τ and copies more: k is the knob of the rule's generosity."


def _smallest(student: Student, S: Tensor, counts: list[int], share: float) -> None:
    """Refuses unless the student's k is the first with enough copies.

    Args:
        student: the function.
        S: (C, G).
        counts: copies for k = 1, 2, … C.
        share: of C.
    """
    C, called = len(S), student.called(S, share)
    wanted = next(k for k, copies in enumerate(counts, 1) if copies >= share * C)
    value = student(S, share, nothing=True)
    given = None if value is None else number(value, called)
    if given == wanted:
        return
    if given is not None and given not in range(1, C + 1):
        raise NotYet(f"{called} gives {given:g}; k is a whole number from 1 to C = {C}.")
    scores = S.softmax(dim=1)
    soft = (k for k in range(1, C + 1) if duplicates(scores, membership(S), k).sum() >= share * C)
    by_softmax = next(soft, None)
    if given is None:
        none = " For the softmax score there is none." if by_softmax is None else ""
        raise NotYet(f"{called} gives None; k = {wanted} makes {counts[wanted - 1]} copies (score: S itself).{none}")
    if given == by_softmax:
        raise NotYet(f"{called} gives {given:g}: that is for the softmax score; compare S itself, as the paper does.")
    need = f"at least {share:.4g} · {C} = {share * C:g} are needed"
    copies = f"{called}: k = {given:g} makes {counts[int(given) - 1]} copies (score: S itself), and {need}"
    if counts[int(given) - 1] < share * C:
        raise NotYet(f"{copies}; k may be larger than G, up to C.")
    exactly = " Exactly as many are enough." if counts[wanted - 1] == share * C else ""
    raise NotYet(f"{copies}; but a smaller k is enough already.{exactly}")


def exercise_4(answer: object) -> str:
    """Copies that a learnable τ feels."""
    hint = "`soft_copies` returned nothing yet: it should return a tensor of shape (C, G)"
    student, generator = Student(answer, "soft_copies", hint), torch.Generator().manual_seed(0)
    shown = []
    for C, G in ((8, 3), (6, 2), (9, 4)):
        S = logits(C, G, generator)
        members = membership(S)
        tau = thresholds(S, members, 3).clamp(max=5) - 0.3
        outside = int((~members[:, 0]).nonzero()[0])
        tau[0] = S[outside, 0]  # a score that equals τ is no copy
        shown.append((S, members, tau))
    student.solves(_copies_by(*case) for case in shown)
    empty = torch.tensor([[1.0, 0.0, 0.5], [0.3, 0.1, 2.0], [0.2, 0.0, 1.0], [0.9, 0.5, 0.8]])  # nobody is in group 1
    infinite = (empty, membership(empty), thresholds(empty, membership(empty), 3))
    student.solves([_copies_by(*infinite)])
    for S, members, tau in (*shown, infinite):
        of_tau = Student(lambda t, S=S, members=members: student(S, members, t), "soft_copies", hint)
        finite, ones = tau.isfinite(), torch.ones(S.shape)
        gradient = gradients_of(of_tau, {"τ": tau}, ones)[0]
        if bool(gradient[~finite].isnan().any()):
            raise NotYet("for an empty group τ = +∞, and your gradient of τ is no number there: it must stay finite.")
        if not bool((gradient[finite] < 0).all()):
            raise NotYet(
                "a higher τ must mean fewer copies: the gradient of the number of copies by every finite τ(g) should "
                f"be negative, yours is {show(gradient)}."
            )
        if bool(gradients_of(of_tau, {"τ": tau}, members.float())[0].abs().max() > 1e-6):
            raise NotYet("members are no copies: multiply the soft part by ~members, so that they don't pull at τ.")
    return "Hard copies forward, and backward fewer of them for a higher τ: now τ can be an nn.Parameter."


def _copies_by(S: Tensor, members: Tensor, tau: Tensor) -> Case:
    wanted = (tau < S) & ~members
    soft = torch.sigmoid(S - tau)
    mistakes = {
        "a score equal to τ is not above it: the comparison is strict.": (tau <= S) & ~members,
        "members are there too, and a member is no copy.": tau < S,
        "forward the copies must be hard, 0.0 or 1.0; add (soft - soft.detach()) to them.": soft * ~members,
        "for an empty group τ = +∞, and ∞ - ∞ is no number; the soft part must stay finite there.": torch.where(
            tau.isfinite(), wanted.to(S), torch.nan
        ),
    }
    why = "1.0 where a channel from outside has S > τ, else 0.0, also where τ = +∞."
    return (S, members, tau), wanted, why, mistakes
