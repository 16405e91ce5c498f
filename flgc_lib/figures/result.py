"""The result on one page: contrasts, how sure they are, and what to use, as sentences that the records decide.

Source: Motohashi and Yamauchi, sections 4 and 5; protocol in data/results/README.md.
"""

import math
from collections.abc import Iterator
from typing import Any

from flgc_lib.experiment.analysis import JUDGED_FROM, PAIRS, Pair, Records, paired_differences, verdict
from flgc_lib.methods import METHODS

CHOICES: tuple[Pair, ...] = (PAIRS[0], PAIRS[2], ("random", "grouped"), ("cluster", "random"))
"""What a user has to choose between: with the rule or without, learned or drawn, drawn or contiguous, by weights."""
_TENTH = 0.1  # percentage points
_HARDLY = 10  # % of the channels


def contrasts(records: Records) -> list[dict[str, str]]:
    """The paper's question and its controls, a row each: the mean over G of the paired differences, and its price."""
    return [
        {
            "contrast": f"`{row['method']}` − `{row['baseline']}`",
            "difference (points)": f"{row['difference']:+.2f}",
            "95 % interval": f"[{row['low']:+.2f}, {row['high']:+.2f}]" if row["seeds"] > 1 else "none",
            "seeds": str(row["seeds"]),
            "MACs (%)": f"{_extra_macs(records, (row['method'], row['baseline'])):+.1f}",
            "verdict": verdict(row["low"], row["high"], row["seeds"]),
        }
        for row in _means(records, PAIRS)
    ]


def sureness(records: Records) -> str:
    """What these seeds could have seen, and how many it takes to see a tenth of a point."""
    judged = [row for row in _means(records, PAIRS) if row["seeds"] >= JUDGED_FROM]
    if not judged:
        return f"No contrast has {JUDGED_FROM} seeds, so none is judged."
    widest = max((row["high"] - row["low"]) / 2 for row in judged)
    spread = max(row["spread"] for row in judged)
    seeds = math.ceil((1.96 * spread / _TENTH) ** 2)
    settings = records.runs.iloc[0]
    moved = 100 * float(records.runs.loc[records.runs["method"] == PAIRS[0][0], "channels_moved"].mean())
    text = (
        f"An interval of a judged contrast reaches up to ±{widest:.2f} points: a smaller difference would not "
        f"have been seen. Seeds of one contrast spread by up to {spread:.2f} points, so it takes about {seeds} to see "
        f"a difference of {_TENTH} points. All of this is `{settings['data']}`, {settings['epochs']} epochs, "
        f"{settings['macs_dense'] / 1e6:.2f} million multiply-accumulates when dense; of the channels of "
        f"`{PAIRS[0][0]}`, {moved:.1f} % are at the end in another group than at the start."
    )
    if moved < _HARDLY:
        text += " S hardly leaves its random draw, so most copies are chance's: the paper's idea is not tested by this."
    return text


def use(records: Records) -> str:
    """What to use, a line a choice: the better one where the records tell, else the cheaper one."""
    lines = []
    for row in _means(records, CHOICES):
        pair = (row["method"], row["baseline"])
        says = verdict(row["low"], row["high"], row["seeds"])
        better, other = pair if row["difference"] > 0 else pair[::-1]
        cheaper = pair[0] if _extra_macs(records, pair) < 0 else pair[1]
        measured = f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        if says in ("higher", "lower"):
            advice = f"take `{better}` ({METHODS[better].what}), not `{other}` ({METHODS[other].what})"
        elif row["seeds"] >= JUDGED_FROM:
            advice = f"take the cheaper, `{cheaper}` ({METHODS[cheaper].what})"
        else:
            advice = f"no advice from {row['seeds']} seeds, though `{better}` ({METHODS[better].what}) lies above"
        lines.append(f"- `{pair[0]}` or `{pair[1]}`: {advice}: {measured} points, {says}.")
    return "\n".join(lines)


def progress(records: Records) -> str:
    """How many of the planned runs there are."""
    return f"So far {len(records.runs)} of {records.planned} runs are recorded."


def _means(records: Records, pairs: tuple[Pair, ...]) -> Iterator[dict[str, Any]]:
    """The last row of each pair's differences, that of the mean over G; no row for a pair without a common seed."""
    for pair in pairs:
        differences = paired_differences(records, [pair])
        if len(differences):
            yield {str(name): value for name, value in differences.iloc[-1].items()}


def _extra_macs(records: Records, pair: Pair) -> float:
    """By how many % the method costs more multiply-accumulates than its baseline: mean over the runs of all pairs."""
    runs = records.runs.astype({"macs": float})
    ours, theirs = (runs[runs["method"] == method] for method in pair)
    both = ours.merge(theirs, on=["seed", "groups", "processor"])
    return 100 * float((both["macs_x"] / both["macs_y"]).mean() - 1)
