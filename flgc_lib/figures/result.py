"""The paper's question and its controls with their price, for a table; how far an experiment is, for a sentence.

Source: Motohashi and Yamauchi, sections 4 and 5; protocol in data/results/README.md.
"""

from flgc_lib.experiment.analysis import Records
from flgc_lib.experiment.contrasts import PAIRS, bracketed, means
from flgc_lib.experiment.statistics import verdict


def differences(records: Records) -> list[dict[str, str]]:
    """The paper's question and its controls, a row each: the mean over G of the paired differences, and its price."""
    return [
        {
            "contrast": f"`{pair[0]}` − `{pair[1]}`",
            "difference (points)": bracketed(row),
            "seeds": str(row["seeds"]),
            "MACs (%)": f"{row['macs']:+.1f}",
            "verdict": verdict(row["low"], row["high"], row["seeds"]),
        }
        for pair, row in means(records, PAIRS).items()
    ]


def progress(records: Records) -> str:
    """How many of the planned runs there are."""
    return f"So far {len(records.runs)} of {records.planned} runs are recorded."
