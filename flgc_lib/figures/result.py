"""For the result's page: paired differences with their price, and what to use, as sentences that the records decide.

Source: Motohashi and Yamauchi, sections 4 and 5; protocol in data/results/README.md.
"""

from collections.abc import Iterator
from typing import Any

from flgc_lib.experiment.analysis import Records
from flgc_lib.experiment.contrasts import PAIRS, Pair, bracketed, paired_differences
from flgc_lib.experiment.statistics import verdict
from flgc_lib.methods import METHODS

CHOICES: tuple[Pair, ...] = (("flgc-dup", "flgc"), ("flgc", "random"), ("random", "grouped"), ("cluster", "random"))
"""What a user has to choose between: with the rule or without, learned or drawn, drawn or contiguous, by weights."""


def differences(records: Records) -> list[dict[str, str]]:
    """The paper's question and its controls, a row each: the mean over G of the paired differences, and its price."""
    return [
        {
            "contrast": f"`{row['method']}` − `{row['baseline']}`",
            "difference (points)": bracketed(row),
            "seeds": str(row["seeds"]),
            "MACs (%)": f"{_extra_macs(records, (row['method'], row['baseline'])):+.1f}",
            "verdict": verdict(row["low"], row["high"], row["seeds"]),
        }
        for row in _means(records, PAIRS)
    ]


def use(records: Records) -> str:
    """What to use, a line a choice: the better one where the records tell, else the cheaper one."""
    lines = []
    for row in _means(records, CHOICES):
        pair = (row["method"], row["baseline"])
        says = verdict(row["low"], row["high"], row["seeds"])
        price = _extra_macs(records, pair)
        if says in ("higher", "lower"):
            better, other = pair if says == "higher" else pair[::-1]
            advice = f"`{better}` ({METHODS[better].what}), not `{other}` ({METHODS[other].what})"
        else:
            cheaper = pair[0] if price < 0 else pair[1]
            advice = f"the cheaper, `{cheaper}` ({METHODS[cheaper].what})"
        lines.append(
            f"- `{pair[0]}` or `{pair[1]}`: take {advice}. The first differs by {bracketed(row)} points, {says}, and "
            f"by {price:+.1f} % multiply-accumulates."
        )
    return "\n".join(lines)


def progress(records: Records) -> str:
    """How many of the planned runs there are."""
    return f"So far {len(records.runs)} of {records.planned} runs are recorded."


def _means(records: Records, pairs: tuple[Pair, ...]) -> Iterator[dict[str, Any]]:
    """The last row of each pair's differences, that of the mean over G; no row for a pair without a common seed."""
    for pair in pairs:
        found = paired_differences(records, [pair])
        if len(found):
            yield {str(name): value for name, value in found.iloc[-1].items()}


def _extra_macs(records: Records, pair: Pair) -> float:
    """By how many % the method costs more multiply-accumulates than its baseline: mean over the runs of all pairs."""
    runs = records.runs.astype({"macs": float})
    ours, theirs = (runs[runs["method"] == method] for method in pair)
    both = ours.merge(theirs, on=["seed", "groups", "processor"])
    return 100 * float((both["macs_x"] / both["macs_y"]).mean() - 1)
