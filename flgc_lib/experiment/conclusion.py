"""What `power` answers, in words: a claim, its evidence, how sure it is, and what would refute it.

The records decide every sentence, and none claims more than the interval that it quotes. The contrasts are those of
`arms`, written down before their runs; what arms retain, and which to use at one cost, came later, and says so.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby, starmap
from operator import itemgetter
from typing import Any

from flgc_lib.experiment import arms, frontier
from flgc_lib.experiment.analysis import Records, origin_of_copies
from flgc_lib.experiment.contrasts import bracketed, in_words
from flgc_lib.experiment.frontier import EQUAL_COST
from flgc_lib.experiment.grids import JUDGED, PRIMARY_SEEDS, RETAINED, SECONDARY_SEEDS
from flgc_lib.experiment.statistics import expected_half

_LEARNED_RULE = "flgc-dup, soft start"
_WORDS = {
    "select": "groups that read, and share, the channels which training has made most important to them (`select`)",
    "select-random": "groups that read random channels, as many shared and as many unread (`select-random`)",
    "cluster": "groups from the weights that share no channel, and leave none out (`cluster`)",
    "flgc-dup": "the paper's rule (`flgc-dup`)",
    "flgc": "learned groups without it (`flgc`)",
    _LEARNED_RULE: "the paper's rule where S has learned (`flgc-dup`, soft start)",
    "flgc-randdup, soft start": "about as many random copies (`flgc-randdup`, soft start)",
}
_BOTH = " and ".join(map(str, JUDGED))


def answer(records: Records) -> str:
    """A few paragraphs of Markdown: what is claimed, and why, and how sure."""
    judged = list(_judged(records))
    return in_words(_claim(judged), _evidence(records, judged), _confidence(records, judged), _refutation(judged))


def use(records: Records) -> str:
    """What to use at a number of multiply-accumulates: a line each, then how sure that is."""
    ranked = frontier.equally_cheap(records).to_dict("records")
    at_cost = {groups: list(rows) for groups, rows in groupby(ranked, key=itemgetter("groups"))}
    lines = [*starmap(_at_one_cost, at_cost.items()), *_rule_at_its_cost(records)]
    pairs = sum(math.comb(len(rows), 2) for rows in at_cost.values())
    sure = (
        f"The verdicts are corrected for all {pairs} pairs of arms of one cost, in a comparison that was added while "
        "`power` ran: 5 % false alarms in all. In brackets: points from the best, whose being the best of these very "
        "seeds flatters it, and 95 % t intervals, each by itself."
    )
    return "\n".join([*lines, "", sure]) if lines else ""


def _at_one_cost(groups: int, rows: list[dict[Any, Any]]) -> str:
    """The arm with the highest mean of those that cost what `grouped` does, and what cannot be told from it."""
    best, *others = rows
    sentence = (
        f"- At {best['price']:.2f} million multiply-accumulates ± {100 * EQUAL_COST:.0f} %, as `grouped` with "
        f"G = {groups}: `{best['arm']}`, with {best['accuracy']:.2f} % the highest mean over {best['seeds']} of "
        f"{len(SECONDARY_SEEDS)} seeds"
    )
    if any(row["verdict"].startswith("open") for row in others):
        return f"{sentence} so far; what else does as well is open until all runs are there."
    for said, words in (("not separable", "not separable from it"), ("lower", "lower")):
        if named := [f"{row['arm']} {bracketed(row)}" for row in others if row["verdict"] == said]:
            sentence += f"; {words}: {', '.join(named)}"
    return f"{sentence}."


def _rule_at_its_cost(records: Records) -> Iterator[str]:
    """What else the multiply-accumulates of the paper's rule buy where S has learned; it judges nothing."""
    table = frontier.costs(records)
    found = []
    for row in table[(table["arm"] == _LEARNED_RULE) & table["groups"].isin(JUDGED)].to_dict("records"):
        best = frontier.as_cheap(table, row["mega_macs"]).nlargest(1, "accuracy").iloc[0]
        other = f"`{best['arm']}` with G = {best['groups']} has {best['accuracy']:.2f} %"
        if best["arm"] == _LEARNED_RULE:
            other = "nothing as cheap has more"
        found.append(
            f"with G = {row['groups']} {row['accuracy']:.2f} % for {row['mega_macs']:.2f} million, where {other}"
        )
    if found:
        yield f"- The paper's rule where S has learned: {'; '.join(found)}. Seeds differ, and nothing is judged."


def _judged(records: Records) -> Iterator[dict[Any, Any]]:
    """The primary contrasts and those about the paper's rule, as rows of `arms`, and where they hold."""
    for row in arms.primary(records).to_dict("records"):
        yield row | {"where": f"over G = {_BOTH}"}
    for row in arms.differences(records).to_dict("records"):
        if {row["arm"], row["baseline"]} <= _WORDS.keys():
            yield row | {"where": f"at G = {row['groups']}"}


def _claim(judged: Iterable[dict[Any, Any]]) -> str:
    """A sentence for each contrast and verdict, wherever it holds."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for row in judged:
        if row["verdict"] == arms.BESIDE:
            continue
        places.setdefault((row["arm"], row["baseline"], row["verdict"]), []).append(row["where"])
    named: set[str] = set()  # an arm is described where it is named first
    sentences = []
    for (arm, baseline, verdict), where in places.items():
        ours, theirs = (f"`{one}`" if one in named else _WORDS[one] for one in (arm, baseline))
        named |= {arm, baseline}
        sentences.append(_sentence(ours, theirs, verdict, " and ".join(where)))
    return " ".join(sentences) or "None: no two arms that the question is about are both recorded."


def _sentence(ours: str, theirs: str, verdict: str, where: str) -> str:
    if verdict in ("higher", "lower"):
        sentence = f"{where}, accuracy with {ours} is {verdict} than with {theirs}."
    elif verdict == "not separable":
        sentence = f"{where}, no difference is shown between accuracy with {ours} and with {theirs}."
    else:  # open, or not judged
        sentence = f"{where}, nothing is said of accuracy with {ours} beside {theirs} ({verdict})."
    return sentence[0].upper() + sentence[1:]


def _evidence(records: Records, judged: list[dict[Any, Any]]) -> Iterator[str]:
    """A sentence a contrast, then the first one's second stage and what is retained as groups grow in number."""
    for row in judged:
        price = f"{row['macs']:+.1f} % multiply-accumulates"
        yield f"{row['arm']} − {row['baseline']}, {row['where']}: {_points(row)} for {price}; {row['verdict']}."
    if row := arms.narrowed(records):
        stages = f"{row['seeds']} of {row['needed']} seeds in two stages (Stein 1945), which judges nothing"
        alone = f"{bracketed(row['alone'])} by the {row['alone']['seeds']} of the second alone"
        beside = f"{bracketed(row['beside'])} beside the first"
        if row["beside"]["low"] > 0 or row["beside"]["high"] < 0:
            beside += ": draws from one distribution, which Stein's interval supposes, are nearer in 95 % of cases"
        yield f"{row['arm']} − {row['baseline']} once more: {bracketed(row)} points with {stages}; {alone}, {beside}."
    if falls := frontier.retained(records).to_dict("records"):
        most, fewest = RETAINED
        seeds = falls[0]["seeds"]
        paid = [_paid(row["times"]) for row in falls]
        changes = ", ".join(f"{row['arm']} {bracketed(row)}{times}" for row, times in zip(falls, paid, strict=True))
        where = f"in points, with {seeds} seed{'s' * (seeds > 1)}, which judges nothing"
        price = f" (the price: multiply-accumulates of `grouped` at G = {most})" if any(paid) else ""
        yield f"From G = {fewest} to {most} accuracy changes, {where}: {changes}{price}."


def _paid(times: float) -> str:
    """What an arm costs at the most groups, if that is more than `grouped` costs there."""
    return f" at {times:.1f} times the price" if times > 1 + EQUAL_COST else ""


def _points(row: dict[Any, Any]) -> str:
    return f"{bracketed(row)} points with {row['seeds']} seed{'s' * (row['seeds'] > 1)}"


def _refutation(judged: list[dict[Any, Any]]) -> Iterator[str]:
    """For each kind of verdict that there is, what would show it to be wrong; then where else to look."""
    verdicts = {row["verdict"] for row in judged}
    if verdicts & {"higher", "lower"}:
        yield "Of a difference that is shown: as many other seeds, whose interval of the same contrast reaches 0."
    if "not separable" in verdicts:
        yield "Of one that is not shown: as many further seeds as are set beforehand, by a test corrected as here."
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
        "`select`, of which the second waits for the first, and 5 % for those of other arms."
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
    unseen = [row["detectable"] for row in judged if row["verdict"] == "not separable"]
    if unseen:
        yield (
            f"What is not separable may be there: even uncorrected, these seeds show {min(unseen):.2f} to "
            f"{max(unseen):.2f} points in 80 % of such experiments, and smaller ones less often."
        )
    moved = []
    for arm in ("flgc-dup", _LEARNED_RULE):
        copies = origin_of_copies(replace(records, runs=arms.runs_of(records, arm)))
        if len(copies):
            at_start = 100 * copies["at_start"].sum() / copies["copies"].sum()
            correlation = f"{copies['correlation'].median():.3f} in {arm}"
            moved.append(f"by {correlation}, {at_start:.0f} % of whose copies are there before training")
    if moved:
        yield f"S correlates with its random start (median over layers and runs) {', and '.join(moved)}."
    images = " and ".join(f"`{name}`" for name in sorted(records.runs["data"].unique()))
    yield f"All of it holds for one small net, a short training and the images of {images}."
