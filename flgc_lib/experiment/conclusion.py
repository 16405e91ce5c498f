"""What `power` answers, in words: a claim, its evidence, how sure it is, and what would refute it.

The records decide every sentence, and none claims more than the interval that it quotes; the judgements are those of
`arms`, written down before the runs.
"""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from flgc_lib.experiment import arms
from flgc_lib.experiment.analysis import Records, origin_of_copies
from flgc_lib.experiment.contrasts import bracketed
from flgc_lib.experiment.grids import JUDGED, PRIMARY, SECONDARY_SEEDS
from flgc_lib.experiment.statistics import LEVEL

_WORDS = {
    "select": "groups that share the channels which training has made important (`select`)",
    "select-random": "groups that share as many random channels (`select-random`)",
    "cluster": "groups found from the weights that share none (`cluster`)",
    "flgc-dup": "the paper's rule (`flgc-dup`)",
    "flgc": "learned groups without it (`flgc`)",
}
_BOTH = " and ".join(map(str, JUDGED))


def answer(records: Records) -> str:
    """A few paragraphs of Markdown: what is claimed, and why, and how sure."""
    return "\n\n".join(
        [
            claim(records),
            "**Evidence.**",
            "\n".join(f"- {sentence}" for sentence in _evidence(records)),
            "**How sure.** " + " ".join(_confidence(records)),
            "**What would refute it.** The same contrasts with another verdict in a net that people know: "
            "`flgc sweep --grid resnet20`, written down before its runs (data/results/README.md, “ResNet-20”).",
        ]
    )


def claim(records: Records) -> str:
    """What is shown, what is not, and what is still open: a paragraph."""
    return "**Claim.** " + " ".join(map(_claim, _judged(records)))


def _judged(records: Records) -> Iterator[dict[Any, Any]]:
    """The primary contrasts and the paper's question, as rows of `arms` with verdict and place."""
    for row in arms.primary(records).to_dict("records"):
        yield row | {"where": f"over G = {_BOTH}"}
    for row in arms.differences(records).to_dict("records"):
        if (row["arm"], row["baseline"]) == ("flgc-dup", "flgc"):
            yield row | {"where": f"at G = {row['groups']}", "verdict": arms.verdict(row)}


def _claim(row: dict[Any, Any]) -> str:
    ours, theirs = _WORDS[row["arm"]], _WORDS[row["baseline"]]
    if row["verdict"] in ("higher", "lower"):
        sentence = f"{row['where']}, accuracy with {ours} is {row['verdict']} than with {theirs}."
    elif row["verdict"] == "not separable":
        sentence = f"{row['where']}, accuracy with {ours} and with {theirs} cannot be told apart."
    else:  # seeds are missing, or it waits for the contrast before it
        sentence = f"{row['where']}, nothing is said yet of accuracy with {ours} beside {theirs} ({row['verdict']})."
    return sentence[0].upper() + sentence[1:]


def _evidence(records: Records) -> Iterator[str]:
    """A sentence a contrast, then what is retained as groups grow in number, and what is best at one cost."""
    for row in _judged(records):
        seeds = "" if row["verdict"].startswith("open") else f"{row['seeds']} seeds, "
        yield f"{row['arm']} − {row['baseline']}, {row['where']}: {bracketed(row)} points; {seeds}{row['verdict']}."
    if falls := [f"{row['arm']} {bracketed(row)}" for row in arms.retained(records).to_dict("records")]:
        yield f"From G = 4 to 16 accuracy changes, in points, by: {', '.join(falls)}."
    ranked = arms.equally_cheap(records).to_dict("records")
    for groups, rows in groupby(ranked, key=itemgetter("groups")):
        yield f"At the cost of `grouped` at G = {groups}, {_at_one_cost(list(rows))}"


def _at_one_cost(rows: list[dict[Any, Any]]) -> str:
    """The most accurate arm, then those that cannot be told from it, then the others."""
    best, planned = rows[0], len(SECONDARY_SEEDS)
    sentence = (
        f"{best['mega_macs']:.1f} million multiply-accumulates, {best['arm']} is the most accurate arm, "
        f"{best['accuracy']:.2f} %"
    )
    if min(row["seeds"] for row in rows) < planned:
        return f"{sentence}, so far; which arms are worse is open until each has {planned} seeds."
    for what, worse in (("not separable from it", False), ("lower", True)):
        if named := [f"{row['arm']} {bracketed(row)}" for row in rows[1:] if (row["p"] < LEVEL) == worse]:
            sentence += f"; {what}, in points: {', '.join(named)}"
    return f"{sentence}."


def _confidence(records: Records) -> Iterator[str]:
    """Rates of false alarms, what the test images leave open, and whether the copies are more than chance."""
    yield (
        "In brackets: 95 % t intervals over paired seeds. The false alarm rate is 5 % for the contrasts of "
        f"`{PRIMARY[0]}` together, of which the second waits for the first; for all contrasts of other arms, the "
        "paper's question among them, together; and for all comparisons at one cost together (Holm)."
    )
    for row in arms.primary(records).head(1).to_dict("records"):
        yield (
            f"The choice of the test images alone leaves {row['arm']} − {row['baseline']} uncertain by "
            f"± {row['images']:.2f} points."
        )
    origin = origin_of_copies(records)
    copies = origin[origin["method"] == PRIMARY[0]]
    if len(copies):
        yield (
            f"The groups of `{PRIMARY[0]}` are chosen by trained weights: its S correlates with the random start by "
            f"{copies['correlation'].median():.3f} (median over layers and runs)."
        )
    yield "All of it holds for one small net, a short training and a JPEG copy of CIFAR-10."
