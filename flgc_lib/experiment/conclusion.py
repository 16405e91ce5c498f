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
from flgc_lib.experiment.contrasts import bracketed, in_words
from flgc_lib.experiment.frontier import EQUAL_COST
from flgc_lib.experiment.grids import JUDGED, PRIMARY_SEEDS, SECONDARY_SEEDS
from flgc_lib.experiment.statistics import expected_half

_WORDS = {
    "select": "groups that read, and share, the channels which training has made most important to them (`select`)",
    "select-random": "groups that read random channels, as many of them shared (`select-random`)",
    "cluster": "groups from the weights that share no channel, and leave none out (`cluster`)",
    "flgc-dup": "the paper's rule (`flgc-dup`)",
    "flgc": "learned groups without it (`flgc`)",
    "flgc-dup, soft start": "the paper's rule where S has learned (`flgc-dup`, soft start)",
    "flgc-randdup, soft start": "about as many random copies (`flgc-randdup`, soft start)",
}
_BOTH = " and ".join(map(str, JUDGED))


def answer(records: Records) -> str:
    """A few paragraphs of Markdown: what is claimed, and why, and how sure."""
    judged = list(_judged(records))
    return in_words(_claim(judged), _evidence(records, judged), _confidence(records, judged), _refutation(judged))


def claim(records: Records) -> str:
    """What is shown, what is not, and what is still open: a paragraph."""
    return f"**Claim.** {_claim(_judged(records))}"


def _judged(records: Records) -> Iterator[dict[Any, Any]]:
    """The primary contrasts and those about the paper's rule, as rows of `arms`, and where they hold."""
    for row in arms.primary(records).to_dict("records"):
        yield row | {"where": f"over G = {_BOTH}"}
    for row in arms.differences(records).to_dict("records"):
        if {row["arm"], row["baseline"]} <= _WORDS.keys():
            yield row | {"where": f"at G = {row['groups']}"}


def _claim(judged: Iterable[dict[Any, Any]]) -> str:
    return " ".join(map(_sentence, judged)) or "None: no two arms that the question is about are both recorded."


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
        price = f"{row['macs']:+.1f} % multiply-accumulates"
        yield f"{row['arm']} − {row['baseline']}, {row['where']}: {_points(row)} for {price}; {row['verdict']}."
    if falls := frontier.retained(records).to_dict("records"):
        seeds = max(row["seeds"] for row in falls)
        changes = ", ".join(f"{row['arm']} {bracketed(row)}" for row in falls)
        where = f"in points, with {seeds} seeds at most, which judges nothing"
        yield f"From G = 4 to 16 accuracy changes, {where}: {changes}."
    ranked = frontier.equally_cheap(records).to_dict("records")
    for groups, rows in groupby(ranked, key=itemgetter("groups")):
        yield f"Among the arms that cost what `grouped` costs at G = {groups}, {_at_one_cost(list(rows))}"


def _points(row: dict[Any, Any]) -> str:
    return f"{bracketed(row)} points with {row['seeds']} seed{'s' * (row['seeds'] > 1)}"


def _at_one_cost(rows: list[dict[Any, Any]]) -> str:
    """The arm with the highest mean, then those that cannot be told from it, then the others."""
    best, *others = rows
    sentence = (
        f"{best['price']:.2f} million multiply-accumulates ± {EQUAL_COST:.0%}, {best['arm']} has the highest mean, "
        f"{best['accuracy']:.2f} % over {best['seeds']} of {len(SECONDARY_SEEDS)} seeds"
    )
    if any(row["verdict"].startswith("open") for row in others):
        return f"{sentence}, so far; which arms are lower is open until all runs are there."
    sentence += ", and by these seeds, corrected for all pairs of such arms"
    for said in ("not separable", "lower"):
        if named := [f"{row['arm']} {bracketed(row)}" for row in others if row["verdict"] == said]:
            sentence += f"; {said}, in points: {', '.join(named)}"
    return f"{sentence}."


def _refutation(judged: list[dict[Any, Any]]) -> Iterator[str]:
    """For each kind of verdict that there is, what would show it to be wrong; then where else to look."""
    verdicts = {row["verdict"] for row in judged}
    if verdicts & {"higher", "lower"}:
        yield "Of a difference that is shown: an interval of the same contrast, from other seeds, that reaches 0."
    if "not separable" in verdicts:
        yield "Of one that is not: an interval, from more seeds, that leaves out 0."
    if any(verdict.startswith("open") for verdict in verdicts):
        yield "What is open claims nothing yet."
    yield (
        "Whether the contrasts of `select` hold in a net that people know, `flgc sweep --grid resnet20` is to tell, "
        "written down before its runs (data/results/README.md, “ResNet-20”)."
    )


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
            f"For these very networks, {row['arm']} − {row['baseline']} is uncertain by ± {row['images']:.2f} points "
            "from the choice of the test images."
        )
        if row["verdict"].startswith("open") and row["seeds"] > 1:
            seeds, planned = row["seeds"], len(PRIMARY_SEEDS)
            half = expected_half((row["high"] - row["low"]) / 2, seeds, planned)
            yield f"With a spread as that of its {seeds} seeds so far, {planned} give ± {half:.2f} points."
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
