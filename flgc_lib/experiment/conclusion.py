"""What `power` answers, in words: a claim, its evidence, how sure it is, and what would refute it.

The records decide every sentence, and none claims more than the interval that it quotes. The contrasts are those of
`arms`, written down before their runs; what arms retain, and which is best at one cost, came later, and says so.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from flgc_lib.experiment import arms, frontier
from flgc_lib.experiment.analysis import Records, origin_of_copies
from flgc_lib.experiment.contrasts import bracketed
from flgc_lib.experiment.grids import JUDGED, SECONDARY_SEEDS

_WORDS = {
    "select": "groups that read, and share, the channels which training has made most important to them (`select`)",
    "select-random": "groups that read random channels, as many of them shared (`select-random`)",
    "cluster": "groups of the same kind that share none (`cluster`)",
    "flgc-dup": "the paper's rule (`flgc-dup`)",
    "flgc": "learned groups without it (`flgc`)",
    "flgc-dup, soft start": "the paper's rule where S has learned (`flgc-dup`, soft start)",
    "flgc-randdup, soft start": "as many random copies (`flgc-randdup`, soft start)",
}
_BOTH = " and ".join(map(str, JUDGED))


def answer(records: Records) -> str:
    """A few paragraphs of Markdown: what is claimed, and why, and how sure."""
    judged = list(_judged(records))
    return "\n\n".join(
        [
            _claim(judged),
            "**Evidence.**",
            "\n".join(f"- {sentence}" for sentence in _evidence(records, judged)),
            "**How sure.** " + " ".join(_confidence(records, judged)),
            "**What would refute it.** An interval of the same contrast on the other side of 0, in this net or in one "
            "that people know: `flgc sweep --grid resnet20`, written down before its runs (data/results/README.md, "
            "“ResNet-20”).",
        ]
    )


def claim(records: Records) -> str:
    """What is shown, what is not, and what is still open: a paragraph."""
    return _claim(_judged(records))


def _judged(records: Records) -> Iterator[dict[Any, Any]]:
    """The primary contrasts and those about the paper's rule, as rows of `arms`, and where they hold."""
    for row in arms.primary(records).to_dict("records"):
        yield row | {"where": f"over G = {_BOTH}"}
    for row in arms.differences(records).to_dict("records"):
        if {row["arm"], row["baseline"]} <= _WORDS.keys():
            yield row | {"where": f"at G = {row['groups']}"}


def _claim(judged: Iterable[dict[Any, Any]]) -> str:
    sentences = " ".join(map(_sentence, judged))
    return f"**Claim.** {sentences or 'None: no two arms that the question is about are both recorded.'}"


def _sentence(row: dict[Any, Any]) -> str:
    ours, theirs = _WORDS[row["arm"]], _WORDS[row["baseline"]]
    if row["verdict"] in ("higher", "lower"):
        sentence = f"{row['where']}, accuracy with {ours} is {row['verdict']} than with {theirs}."
    elif row["verdict"] == "not separable":
        sentence = f"{row['where']}, no difference is shown between accuracy with {ours} and with {theirs}."
    else:  # open, or not judged
        sentence = f"{row['where']}, nothing is said of accuracy with {ours} beside {theirs} ({row['verdict']})."
    return sentence[0].upper() + sentence[1:]


def _evidence(records: Records, judged: list[dict[Any, Any]]) -> Iterator[str]:
    """A sentence a contrast, then what is retained as groups grow in number, and what is best at one cost."""
    for row in judged:
        yield f"{row['arm']} − {row['baseline']}, {row['where']}: {_points(row)}; {row['verdict']}."
    if falls := frontier.retained(records).to_dict("records"):
        seeds = max(row["seeds"] for row in falls)
        changes = ", ".join(f"{row['arm']} {bracketed(row)}" for row in falls)
        where = f"in points, with {seeds} seeds at most, which judges nothing"
        yield f"From G = 4 to 16 accuracy changes, {where}: {changes}."
    ranked = frontier.equally_cheap(records).to_dict("records")
    for groups, rows in groupby(ranked, key=itemgetter("groups")):
        yield f"At the cost of `grouped` at G = {groups}, {_at_one_cost(list(rows))}"


def _points(row: dict[Any, Any]) -> str:
    return f"{bracketed(row)} points with {row['seeds']} seed{'s' * (row['seeds'] > 1)}"


def _at_one_cost(rows: list[dict[Any, Any]]) -> str:
    """The arm with the highest mean, then those that cannot be told from it, then the others."""
    best, *others = rows
    sentence = (
        f"{best['mega_macs']:.1f} million multiply-accumulates, {best['arm']} has the highest mean, "
        f"{best['accuracy']:.2f} % over {best['seeds']} of {len(SECONDARY_SEEDS)} seeds"
    )
    if any(row["verdict"].startswith("open") for row in others):
        return f"{sentence}, so far; which arms are lower is open until all runs are there."
    for said in ("not separable", "lower"):
        if named := [f"{row['arm']} {bracketed(row)}" for row in others if row["verdict"] == said]:
            sentence += f"; {said}, in points: {', '.join(named)}"
    return f"{sentence}."


def _confidence(records: Records, judged: list[dict[Any, Any]]) -> Iterator[str]:
    """Rates of false alarms, what the test images leave open, and whether the rule's copies are more than chance."""
    yield (
        "In brackets: 95 % t intervals over paired seeds, each by itself. Verdicts are corrected for being several, so "
        "an interval may leave out 0 and its contrast not be separable: 5 % false alarms in all for the contrasts of "
        "`select`, of which the second waits for the first; 5 % for the contrasts of other arms; 5 % for the arms of "
        "one cost, a comparison that was added while `power` ran."
    )
    for row in judged[:1]:
        yield (
            f"The choice of the test images alone leaves {row['arm']} − {row['baseline']} uncertain by "
            f"± {row['images']:.2f} points."
        )
    origin = origin_of_copies(records)
    for arm in ("flgc-dup", "flgc-dup, soft start"):
        copies = origin[origin["run"].isin(arms.runs_of(records, arm)["run"])]
        if len(copies):
            at_start = 100 * copies["at_start"].sum() / copies["copies"].sum()
            yield (
                f"S of {arm} correlates with its random start by {copies['correlation'].median():.3f} (median over "
                f"layers and runs), and {at_start:.0f} % of its copies are there before training."
            )
    yield "All of it holds for one small net, a short training and a JPEG copy of CIFAR-10."
