"""Checks of the exercises of notebook 06."""

import numpy as np

from flgc_lib.course.exercises.answers import Case, Student, expect
from flgc_lib.course.exercises.values import NotYet, read, whole
from flgc_lib.experiment.assignments import transitions


def exercise_1(answer: object) -> str:
    """Flow between groups."""
    student, rng = Student(answer, "flow"), np.random.default_rng(0)
    cases = [(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 1, 0]), 3)]
    for groups in (1, 2, 4, 5, 6):
        low = rng.integers(max(1, groups - 1), size=(2, 12))  # the last group is empty, before and after
        cases += [(*rng.integers(groups, size=(2, 15)), groups), (*low, groups)]
    asked: list[Case] = []
    for before, after, groups in cases:
        wanted = transitions(before, after, groups)
        largest = int(max(before.max(), after.max())) + 1
        mistakes = {
            "rows and columns are exchanged: the row is the group before, the column the group after.": wanted.T,
            "a row and a column for each of the groups, also for an empty one.": wanted[:largest, :largest],
            "each entry is 1 at most: count all channels that go the same way, also if there are several.": wanted > 0,
            "those are shares; wanted are numbers of channels.": wanted / len(before),
        }
        why = "row i, column j is the number of channels that were in group i and are in group j."
        asked.append(((before, after, groups), wanted, why, mistakes))
    student.solves(asked)
    return "Right: stayed on the diagonal, moved beside it, and the rows sum to the old sizes."


def exercise_2(answer: object) -> str:
    """An order in which groups show, the best of each first."""
    student, rng = Student(answer, "strongest_first"), np.random.default_rng(0)
    cases = [(np.array([1, 0, 2, 1, 0, 0]), np.array([0.5, 0.1, 0.9, 0.7, 0.8, 0.2]))]
    cases += [(rng.integers(5, size=C), scale * rng.standard_normal(C)) for C in (4, 9, 16) for scale in (1, 100)]
    for groups_of, scores in cases:
        wanted = np.lexsort((-scores, groups_of))
        mistakes = {
            "inside a group the largest score comes first, not the smallest.": np.lexsort((scores, groups_of)),
            "these are the sorted group numbers; wanted are the channels' places, to index with.": np.sort(groups_of),
            "sorted by score alone; the group counts first.": np.argsort(-scores),
            "sorted by group alone; inside a group the largest score comes first.": np.argsort(
                groups_of, kind="stable"
            ),
            "that is where each channel goes to; wanted is which channel comes first, second, …": np.argsort(wanted),
        }
        called = student.called(groups_of, scores)
        value = student(groups_of, scores, wanted=wanted)
        given = read(value, called)
        if sorted(given.flatten().tolist()) == list(range(len(scores))):
            order = given.flatten().numpy().astype(int)
            why = f"in your order the groups are {groups_of[order].tolist()} and the scores {_short(scores[order])}."
        else:
            why = f"every channel 0 … {len(scores) - 1} must be there once."
        expect(called, value, wanted, why, mistakes)
    return "Right: groups lie together, and each begins with the channel that fits it best."


def exercise_3(answer: object) -> str:
    """Who is copied where."""
    student, rng = Student(answer, "copies"), np.random.default_rng(0)
    cases = [
        (np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=bool), np.array([0, 1, 2, 2])),
        (np.eye(3, dtype=bool), np.arange(3)),
    ]
    for channels, groups in ((6, 2), (8, 4), (5, 5), (10, 3)):
        own = rng.integers(groups, size=channels)
        inputs = rng.random((channels, groups)) < 0.4
        inputs[np.arange(channels), own] = True
        cases.append((inputs, own))
    for inputs, own in cases:
        called = student.called(inputs, own)
        given = student(inputs, own)
        pairs = whole(list(given) if isinstance(given, (set, frozenset)) else given, called)
        if pairs.numel() and (pairs.ndim != 2 or pairs.shape[1] != 2):
            raise NotYet(
                f"{called} should give a list of pairs (channel, group), yours has shape {tuple(pairs.shape)}."
            )
        found = sorted((int(c), int(g)) for c, g in pairs.reshape(-1, 2).tolist())
        members = [(int(c), int(g)) for c, g in np.argwhere(inputs)]
        wanted = [(c, g) for c, g in members if g != own[c]]
        if found == wanted:
            continue
        first = [(c, g) for c, g in members if g != inputs[c].argmax()]
        if found == members:
            raise NotYet(f"{called}: you list every membership; a channel's own group, `own[c]`, is no copy.")
        if found == first:
            raise NotYet(f"{called}: there the first group of a row counts as its own, but the own group is in `own`.")
        if sorted((g, c) for c, g in found) == wanted:
            raise NotYet(f"{called}: a pair is (channel, group), the channel first.")
        more, less = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
        if more:
            raise NotYet(
                f"{called}: {more[0]} is no copy; a copy (c, g) has inputs[c, g] and a group g other than own[c]."
            )
        if less:
            c, g = less[0]
            raise NotYet(f"{called}: {less[0]} is missing: channel {c}, of group {own[c]}, works in group {g} as well.")
        raise NotYet(f"{called}: each copy once; yours are {found}.")
    return "Right: one pair for each copy, and none for a channel in its own group."


def exercise_4(answer: object) -> str:
    """Pairs that stay together, whatever the groups are called."""
    student, rng = Student(answer, "together"), np.random.default_rng(0)
    cases = [
        (
            np.array([0, 0, 1, 1]),
            np.array([1, 1, 0, 0]),
            "groups 0 and 1 only exchanged their numbers, and all pairs stay.",
        ),
        (np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1]), "of (0, 1), (0, 2), (1, 2), (3, 4) two still are."),
    ]
    for groups in (2, 3, 4):
        for channels in (8, 13):
            before, after = rng.integers(groups, size=(2, channels))
            cases.append((before, after, "count each pair of channels once, and no channel with itself."))
    asked: list[Case] = []
    for before, after, why in cases:
        pairs = np.triu_indices(len(before), k=1)
        was, now = ((x[:, None] == x)[pairs] for x in (before, after))
        full = [x[:, None] == x for x in (before, after)]
        mistakes = {
            "that is the share of channels whose group has the same number; the number does not matter.": (
                before == after
            ).mean(),
            "that counts each channel as a pair with itself.": full[1][full[0]].mean(),
            "that is the share of pairs that are as before, together or apart; only those together before count.": (
                was == now
            ).mean(),
            "that is of the pairs together after, those who were before; it is asked the other way round.": was[
                now
            ].mean()
            if now.any()
            else 0.0,
            "that is of all pairs; the share is of those that were together before.": (was & now).mean(),
        }
        asked.append(((before, after), now[was].mean(), why, mistakes))
    student.solves(asked)
    return "Right: who shares a group matters, and what the group is called does not."


def _short(values: np.ndarray) -> list[float]:
    return [round(float(v), 2) for v in values]
