"""The paper's question and its controls with their price, for a table; how far an experiment is, for a sentence.

Source: Motohashi and Yamauchi, sections 4 and 5; protocol in data/results/README.md.
"""

from flgc_lib.experiment.analysis import Records
from flgc_lib.experiment.contrasts import PAIRS, Pair, bracketed, means
from flgc_lib.experiment.statistics import verdict


def differences(records: Records) -> list[dict[str, str]]:
    """The paper's question and its controls, a row each: the mean over G of the paired differences, and its price."""
    return [
        {
            "contrast": f"`{pair[0]}` − `{pair[1]}`",
            "difference (points)": bracketed(row),
            "seeds": str(row["seeds"]),
            "MACs (%)": f"{_extra_macs(records, pair):+.1f}",
            "verdict": verdict(row["low"], row["high"], row["seeds"]),
        }
        for pair, row in means(records, PAIRS).items()
    ]


def progress(records: Records) -> str:
    """How many of the planned runs there are."""
    return f"So far {len(records.runs)} of {records.planned} runs are recorded."


def _extra_macs(records: Records, pair: Pair) -> float:
    """By how many % the method costs more multiply-accumulates than its baseline: mean over the runs of all pairs."""
    runs = records.runs.astype({"macs": float})
    ours, theirs = (runs[runs["method"] == method] for method in pair)
    both = ours.merge(theirs, on=["seed", "groups", "processor"])
    return 100 * float((both["macs_x"] / both["macs_y"]).mean() - 1)
