"""Checks of the exercises of notebook 06."""

import numpy as np

from flgc_lib.course.exercises import NotYet, call


def exercise_1(answer: object) -> str:
    """Flow between groups."""
    before, after = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 1, 0])
    wanted = [[1, 2, 0], [0, 2, 0], [1, 0, 0]]
    given = np.asarray(call(answer, "flow", before, after, 3))
    if given.shape != (3, 3):
        raise NotYet(f"`flow` gives shape {given.shape} for 3 groups: a row and a column for each group, also for an "
                     "empty one.")  # fmt: skip
    if given.tolist() == np.transpose(wanted).tolist():
        raise NotYet("rows and columns are exchanged: the row is the group before, the column the group after.")
    if given.tolist() != wanted:
        raise NotYet(
            f"for channels in groups {before.tolist()} before and {after.tolist()} after you gave {given.tolist()}; "
            "two channels went from 0 to 1, so row 0, column 1 is 2, and all entries together are 6."
        )
    return "Right: stayed on the diagonal, moved beside it, and the rows sum to the old sizes."


def exercise_2(answer: object) -> str:
    """An order in which groups show, the best of each first."""
    groups_of, scores = np.array([1, 0, 2, 1, 0, 0]), np.array([0.5, 0.1, 0.9, 0.7, 0.8, 0.2])
    given = [int(i) for i in call(answer, "strongest_first", groups_of, scores)]
    if given == sorted(groups_of.tolist()):
        raise NotYet("these are the sorted group numbers; wanted are the channels' places, to index with.")
    if sorted(given) != list(range(6)):
        raise NotYet(f"`strongest_first` gives {given}: every channel 0 … 5 must be there once.")
    if groups_of[given].tolist() != [0, 0, 0, 1, 1, 2]:
        raise NotYet(f"in your order {given} the groups are {groups_of[given].tolist()}, not sorted.")
    if given != [4, 5, 1, 3, 0, 2]:
        raise NotYet(f"{given} is sorted by group, but inside a group the scores are {scores[given].tolist()}: the "
                     "largest comes first.")  # fmt: skip
    return "Right: groups lie together, and each begins with the channel that fits it best."


def exercise_3(answer: object) -> str:
    """Who is copied where."""
    inputs = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=bool)
    own = np.array([0, 1, 2, 2])
    given = [(int(c), int(g)) for c, g in call(answer, "copies", inputs, own)]
    if len(given) == int(inputs.sum()):
        raise NotYet("you list every membership; a channel's own group, `own[c]`, is no copy.")
    if sorted(given) == [(1, 1), (3, 1), (3, 2)]:
        raise NotYet("you take the first group of a row as its own, but channel 1's own group is 1, see `own`.")
    if sorted(given) != [(1, 0), (3, 0), (3, 1)]:
        raise NotYet(f"you gave {given}, but channel 1 (own group 1) is copied into 0, and channel 3 (own group 2) "
                     "into 0 and 1.")  # fmt: skip
    return "Right: three copies of two channels."


def exercise_4(answer: object) -> str:
    """Pairs that stay together, whatever the groups are called."""
    before, renamed = np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])
    value = float(call(answer, "together", before, renamed))
    if abs(value - 1) > 1e-9:
        raise NotYet(f"groups 0 and 1 only exchanged their numbers, so all pairs are still together: 1, not {value:g}.")
    before, after = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    value = float(call(answer, "together", before, after))
    if abs(value - 0.5) > 1e-9:
        raise NotYet(
            f"before, four pairs are together: (0, 1), (0, 2), (1, 2), (3, 4). After {after.tolist()} two still "
            f"are, (0, 1) and (3, 4): 0.5, not {value:g}. Count each pair once, and no channel with itself."
        )
    return "Right: who shares a group matters, and what the group is called does not."
