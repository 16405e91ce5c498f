"""Checks of what the student builds step by step: the layer of notebook 03 and the rule of notebook 04."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from flgc_lib.course.exercises.answers import Case, Student, draw, expect, gradients, gradients_of, logits
from flgc_lib.course.exercises.own_layer import same_layers
from flgc_lib.course.exercises.values import NotYet, agree, first_apart, show
from flgc_lib.grouping import connection_mask, duplicates, membership, straight_through, thresholds


def step_3_1(answer: object) -> str:
    """A hard choice with the gradient of a soft one."""
    hint = "`binarise` returns nothing yet: it takes S, shape (rows, groups), and returns a one-hot matrix like it."
    student, generator = Student(answer, "binarise", hint), torch.Generator().manual_seed(0)
    tie = torch.tensor([[1.0, 1.0], [0.2, 0.9]])
    rows = [tie, *(logits(draw(3, 9, generator), G, generator) for G in (1, 2, 5))]
    asked: list[Case] = []
    for S in rows:
        mistakes = {
            "that is the softmax; forward the choice must be hard, exactly 0 and 1.": S.softmax(dim=1),
            "that is a channel for each group; every row (channel) chooses a group: dim=1.": membership(S.T).T,
            "two equal logits: the channel belongs to one group only, the lowest.": S == S.amax(dim=1, keepdim=True),
        }
        asked.append(((S,), membership(S), "a row has a 1 where its logit is largest.", mistakes))
    student.solves(asked)
    for S in rows:
        u = logits(len(S), S.shape[1], generator)
        p = S.softmax(dim=1)
        slips = {
            "that is the gradient of the masked estimator: don't multiply the soft part by the hard choice.": gradients(
                lambda s: straight_through(s, membership(s), estimator="masked"), [S], u
            )[0],
            "that is the gradient of a softmax over the rows; the groups of one row share, dim=1.": gradients(
                lambda s: s.softmax(0), [S], u
            )[0],
            "that is u itself, as if the soft part were the logits and not their softmax.": u,
        }
        given = gradients_of(student, {"S": S}, u)[0]
        where = f"`binarise`, differentiated at S = {show(S)} with ∂L/∂A = {show(u)},"
        expect(where, given, p * (u - (p * u).sum(dim=1, keepdim=True)), "it is p (u - Σ p u) in each row.", slips)
    return "Hard forward, soft backward, for any number of groups: the straight-through estimator."


def step_3_2(answer: object) -> str:
    """M from S and T."""
    hint = "`mask` returns nothing yet: it takes S (C, G) and T (N, G), and returns M, shape (N, C)."
    student, generator = Student(answer, "mask", hint), torch.Generator().manual_seed(0)
    asked: list[Case] = []
    for C, N, G in ((4, 3, 2), (6, 6, 3), (9, 5, 4)):
        S, T = (logits(rows, G, generator) for rows in (C, N))
        M = connection_mask(membership(S), membership(T))
        mistakes = {
            "rows and columns are exchanged: M has a row for each filter, B Aᵀ.": M.T,
            "every entry is the wrong way round: 1 where filter and channel are in the same group.": 1 - M,
            "the choices must be hard before they are multiplied, exactly 0 and 1.": T.softmax(1) @ S.softmax(1).T,
        }
        asked.append(((S, T), M, "M = B Aᵀ is 1 where filter n and channel c chose the same group.", mistakes))
    student.solves(asked)
    for (S, T), *_ in asked:
        u = torch.randn(len(T), len(S), generator=generator)
        _same_gradients(student, _mask, {"S": S, "T": T}, u, "M = B Aᵀ with the straight-through A and B")
    return "The library's M, and the gradient reaches both S and T."


def step_3_3(answer: object) -> str:
    """The convolution under the mask."""
    hint = "`masked_convolution` returns nothing yet: it takes x, W, S and T, and returns conv(x, W ⊙ M)."
    student, generator = Student(answer, "masked_convolution", hint), torch.Generator().manual_seed(0)
    asked: list[Case] = []
    for C, N, G, k in ((4, 3, 2, 3), (6, 6, 3, 1), (9, 5, 4, 5)):
        x, W = torch.randn(2, C, 6, 5, generator=generator), torch.randn(N, C, k, k, generator=generator)
        S, T = (logits(rows, G, generator) for rows in (C, N))
        if G > 2:  # filter 0 sees nothing, and nothing sees channel 0
            S[:, -1], T[0, -1], T[1:, 0], S[0, 0] = -5, 5, -5, 5
        M = connection_mask(membership(S), membership(T))
        dense = F.conv2d(x, W, padding=k // 2)
        mistakes = {
            "that is the dense convolution: multiply W by M, spread over the kernel, M[:, :, None, None].": dense,
            "the image has lost its border: padding = k // 2 keeps its size.": F.conv2d(x, W * M[:, :, None, None]),
            "that switches whole filters off in the output; the mask is for each pair: multiply W by it.": dense
            * M.amax(dim=1)[:, None, None],
            "that switches whole channels off in x; the mask is for each pair: multiply W by it.": F.conv2d(
                x * M.amax(dim=0)[:, None, None], W, padding=k // 2
            ),
        }
        wanted = F.conv2d(x, W * M[:, :, None, None], padding=k // 2)
        why = f"C = {C}, N = {N}, G = {G}, a {k}×{k} kernel: conv(x, W ⊙ M) with padding {k // 2}, as FLGConv2d does."
        asked.append(((x, W, S, T), wanted, why, mistakes))
    student.solves(asked)
    for (x, W, S, T), *_ in asked:
        _same_gradients(
            Student(lambda w, s, t, x=x: student(x, w, s, t), "masked_convolution", hint),
            lambda w, s, t, x=x: F.conv2d(x, w * _mask(s, t)[:, :, None, None], padding=w.shape[2] // 2),
            {"W": W, "S": S, "T": T},
            torch.randn(len(x), len(W), *x.shape[2:], generator=generator),
            "conv(x, W ⊙ M) with the straight-through M",
        )
    return "Values and gradients of W, S and T are those of FLGConv2d."


def step_3_4(answer: object) -> str:
    """The student's own layer."""
    same_layers(answer, ())
    return (
        "Your layer starts as FLGConv2d does, and gives the same outputs and the same gradients, whatever W, S and T."
    )


def _mask(S: Tensor, T: Tensor) -> Tensor:
    return connection_mask(straight_through(S, membership(S)), straight_through(T, membership(T)))


def _same_gradients(
    student: Student, library: Callable[..., Tensor], inputs: dict[str, Tensor], upstream: Tensor, what: str
) -> None:
    mine = gradients_of(student, inputs, upstream)
    for name, given, wanted in zip(inputs, mine, gradients(library, [*inputs.values()], upstream), strict=True):
        if not agree(given, wanted):
            raise NotYet(
                f"`{student.name}`: the values are right, but the gradient of {name} is not that of {what}: "
                f"{first_apart(given, wanted)}."
            )


def step_4_1(answer: object) -> str:
    """τ of every group."""
    hint = "`thresholds` returns nothing yet: it takes S (C, G), the members A (C, G) and k, and returns τ, shape (G,)."
    student, generator = Student(answer, "thresholds", hint), torch.Generator().manual_seed(0)
    worked = torch.tensor([[1.0, 0.5], [0.75, 0.25], [0.5, 0.0], [0.25, 1.0]])
    asked: list[Case] = []
    for S, k in ((worked, 3), *_random_scores(generator, 12)):
        A = membership(S)
        best = S.masked_fill(~A, -torch.inf)
        mistakes = {
            "a group without members has τ = +∞, so that it imports nothing.": thresholds(S, A, k).masked_fill(
                ~A.any(dim=0), -torch.inf
            ),
            "that is the mean over all members; only the k best count.": thresholds(S, A, len(S)),
            "that is the largest score; τ is the mean of the k largest.": best.amax(dim=0),
            "that is the k-th largest score; τ is the mean of the k largest.": best.topk(min(k, len(S)), dim=0).values[
                -1
            ],
            "τ looks at members only: mask the others out with -inf.": S.topk(min(k, len(S)), dim=0).values.mean(dim=0),
            "a group with fewer than k members averages over those that it has.": torch.where(
                A.sum(dim=0) >= k, thresholds(S, A, k), -torch.inf
            ),
        }
        why = f"it is the mean of each group's {k} best members, of all if there are fewer, +∞ if none."
        asked.append(((S, A, k), thresholds(S, A, k), why, mistakes))
    student.solves(asked)
    return "The mean of the k best members, of all if there are fewer, and +∞ for an empty group."


def step_4_2(answer: object) -> str:
    """Which channels are copied where."""
    hint = "`copies` returns nothing yet: it takes S (C, G), k and the score, and returns what is copied, shape (C, G)."
    student, generator = Student(answer, "copies", hint), torch.Generator().manual_seed(0)
    equal = torch.tensor([[1.0, 0.5], [0.0, 0.5]])  # channel 0 scores in group 1 exactly what τ(1) is
    shown = [(torch.tensor([[1.0, 0.5], [0.75, 0.25], [0.5, 0.0], [0.25, 1.0]]), 3), (equal, 3)]
    asked: list[Case] = []
    for S, k in (*shown, *_random_scores(generator, 12)):
        A = membership(S)
        for score, scores in (("logit", S), ("softmax", S.softmax(dim=1))):
            wanted, other = duplicates(scores, A, k), S.softmax(dim=1) if score == "logit" else S
            tau = thresholds(scores, A, k)
            mistakes = {
                "those are the copies together with the members; a member is no copy.": wanted | A,
                "a score equal to τ is not above it: the comparison is strict.": (scores >= tau) & ~A,
                "that compares the softmax over the channels (dim=0); the groups of a row share: dim=1.": duplicates(
                    S.softmax(dim=0), A, k
                ),
                f"those are the copies for the other score; score = {score!r} was asked for.": duplicates(other, A, k),
                "those are the copies for k = 1.": duplicates(scores, A, 1),
            }
            what = "S itself" if score == "logit" else "the row softmax of S"
            why = f"a channel from outside is copied where {what} is above τ(g), the mean of the {k} best members."
            asked.append(((S, k, score), wanted, why, mistakes))
    student.solves(asked)
    return "The library's copies, for both scores, groups with fewer members than k, and empty ones."


def step_4_3(answer: object) -> str:
    """The student's own layer with the rule."""
    for k in (1, 3):
        same_layers(answer, (k,))
    return (
        "Your layer and FLGConv2d(duplicate_top_k=k) give the same outputs and gradients: you have built the proposal."
    )


def _random_scores(generator: torch.Generator, count: int) -> list[tuple[Tensor, int]]:
    """S and k, some groups smaller than k, and some empty; what is copied depends on k."""
    cases: list[tuple[Tensor, int]] = []
    while len(cases) < count:
        S, k = logits(draw(4, 8, generator), draw(2, 3, generator), generator), draw(1, 6, generator)
        copies = [duplicates(S, membership(S), other) for other in (1, 3, k)]
        if not torch.equal(copies[2], copies[k == 1]):
            cases.append((S, k))
    return [*cases, (logits(5, 1, generator), 2), (logits(5, 6, generator), 3)]
