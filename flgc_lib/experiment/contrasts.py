"""Paired differences, and what they answer: a claim, its evidence, how sure it is, and what would refute it.

Source: Motohashi and Yamauchi, section 4; which contrasts are judged, and by what, stands in data/results/README.md.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from flgc_lib.experiment.analysis import Records, origin_of_copies
from flgc_lib.experiment.statistics import detectable, interval, verdict
from flgc_lib.methods import Method

Pair = tuple[Method, Method]

PAIRS: tuple[Pair, ...] = (
    ("flgc-dup", "flgc"),
    ("flgc-dup", "flgc-randdup"),
    ("flgc", "random"),
    ("cluster", "random"),
    ("cluster-dup", "cluster"),
)
"""The paper's question, and its two controls: does it matter which maps are copied, and that groups are learned? Then
both questions once more for groups that are learned in another way."""
_WORDS: dict[Pair, tuple[str, str]] = {
    ("flgc-dup", "flgc"): ("with the rule (flgc-dup)", "without it (flgc)"),
    ("flgc-dup", "flgc-randdup"): (
        "with the rule's copies (flgc-dup)",
        "with about as many random ones (flgc-randdup)",
    ),
    ("flgc", "random"): ("with learned groups (flgc)", "with random ones (random)"),
    ("cluster", "random"): ("with groups found from the weights (cluster)", "with random ones (random)"),
}


def paired_differences(records: Records, pairs: Iterable[Pair] = PAIRS, *, any_processor: bool = False) -> pd.DataFrame:
    """Difference in test accuracy, in percentage points, over the seeds that both methods of a pair have; see `paired`.

    Args:
        records: of an experiment.
        pairs: (method, baseline) each; where there is no common seed there is no row.
        any_processor: see `paired`.

    Returns:
        Mean, spread (standard deviation) and interval, and macs, what the method costs more multiply-accumulates, in %;
        a row for each pair and G, and last one with "mean" for G: each seed's mean over all G that both methods have,
        of the seeds that have them all. It is what to judge by: one interval a pair, where of the many intervals of
        single G some miss 0 by luck.
    """
    rows = []
    for method, baseline in pairs:
        by_seed = paired(records, method, baseline, any_processor=any_processor)
        by_groups = (by_seed[column].unstack() for column in ("difference", "macs"))  # seeds × G
        differences, costs = (table.assign(mean=table.mean(axis="columns", skipna=False)) for table in by_groups)
        for groups, values in differences.items():
            found = values.dropna()
            if len(found):
                low, high = interval(found.to_numpy())
                rows.append(
                    {
                        "method": method,
                        "baseline": baseline,
                        "groups": str(groups),
                        "difference": found.mean(),
                        "spread": found.std(),
                        "low": low,
                        "high": high,
                        "seeds": len(found),
                        "seeds_above": int((found > 0).sum()),
                        "macs": costs[groups][found.index].mean(),
                    }
                )
    return pd.DataFrame(rows)


def means(records: Records, pairs: Iterable[Pair]) -> dict[Pair, dict[Any, Any]]:
    """Rows of `paired_differences` for the mean over G, of those pairs that have a seed with every G."""
    rows = paired_differences(records, pairs).to_dict("records")
    return {(row["method"], row["baseline"]): row for row in rows if row["groups"] == "mean"}


def paired(records: Records, method: Method, baseline: Method, *, any_processor: bool = False) -> pd.DataFrame:
    """Test accuracies of two methods, in %, for each seed and G that both were run with on one kind of processor.

    The same seed gives both methods the same images in the same order, and what that does to both alike cancels. Kinds
    of processors round differently, which training amplifies, so runs of two kinds make no pair.

    Args:
        records: of an experiment.
        method: whose accuracy is compared.
        baseline: with what.
        any_processor: pair all seeds, whatever their runs were computed on: more noise, and no seed left out.

    Returns:
        Indexed by seed and groups, with the columns `baseline`, `method`, "difference", method − baseline, and "macs",
        by how many % the method costs more multiply-accumulates.

    Raises:
        ValueError: if a method has several runs of one seed and G, which then differ in another setting.
    """
    runs = records.runs.astype({"test_accuracy": float, "macs": float})
    on = ["seed", "groups"] if any_processor else ["seed", "groups", "processor"]
    theirs, ours = (runs[runs["method"] == one] for one in (baseline, method))
    for name, of_one in ((baseline, theirs), (method, ours)):
        if of_one.duplicated(on).any():
            first = of_one[of_one.duplicated(on, keep=False)].iloc[0]
            raise ValueError(
                f"{name} has several runs with seed={first['seed']} and groups={first['groups']}, so which to pair is "
                "open: take a part of the records, whose runs differ in method, seed and groups alone"
            )
    both = theirs.merge(ours, on=on, validate="one_to_one").set_index(["seed", "groups"]).sort_index()
    accuracies = 100 * both[["test_accuracy_x", "test_accuracy_y"]].set_axis([baseline, method], axis="columns")
    macs = 100 * (both["macs_y"] / both["macs_x"] - 1)
    return accuracies.assign(difference=accuracies[method] - accuracies[baseline], macs=macs)


def answer(records: Records) -> str:
    """The paper's question and its controls, answered from the records: a few paragraphs of Markdown."""
    known = means(records, _WORDS)
    refutation = (
        "An interval that lies on one side of 0 in an experiment of more seeds, most of all one in which maps have "
        "become important before the rule copies them, beside as many random copies (data/results/README.md, “Premise” "
        "and “Power”)."
    )
    return in_words(
        _claim(known),
        (_evidence(records, pair, known.get(pair)) for pair in _WORDS),
        _confidence(records, known),
        [refutation],
    )


def claim(records: Records) -> str:
    """The answer's first paragraph: what is shown, then what is not."""
    return f"**Claim.** {_claim(means(records, _WORDS))}"


def in_words(claim: str, evidence: Iterable[str], confidence: Iterable[str], refutation: Iterable[str]) -> str:
    """An answer as Markdown: a claim, its evidence, how sure it is, and what would refute it."""
    return "\n\n".join(
        [
            f"**Claim.** {claim}",
            "**Evidence.**",
            "\n".join(f"- {sentence}" for sentence in evidence),
            f"**How sure.** {' '.join(confidence)}",
            f"**What would refute it.** {' '.join(refutation)}",
        ]
    )


def _claim(known: dict[Pair, dict[Any, Any]]) -> str:
    verdicts = {pair: verdict(row["low"], row["high"], row["seeds"]) for pair, row in known.items()}
    shown = [pair for pair, said in verdicts.items() if said in ("higher", "lower")]
    open_ = [_WORDS[pair] for pair in verdicts if pair not in shown]
    sentences = [f"Accuracy {_WORDS[pair][0]} is {verdicts[pair]} than {_WORDS[pair][1]}." for pair in shown]
    if open_:
        between = ", or ".join(f"between accuracy {here} and {there}" for here, there in open_)
        sentences.append(f"No difference is shown {between}.")
    return " ".join(sentences) or "None: no two methods that the question is about are both recorded."


def _evidence(records: Records, pair: Pair, row: dict[Any, Any] | None) -> str:
    """A sentence with accuracies, difference, interval and verdict of a pair; another if all its seeds say more."""
    here, there = _WORDS[pair]
    if row is None:
        return f"Runs {here} and {there} are not both recorded."
    both = paired(records, *pair)
    seeds = both[pair[0]].unstack().dropna().index  # those with all G
    accuracies = both.loc[seeds].groupby("groups").mean()
    at = ", ".join(map(str, accuracies.index))
    first, second = (", ".join(f"{a:.2f}" for a in accuracies[method]) for method in pair)
    sentence = (
        f"At G = {at} accuracy is {first} % {here} and {second} % {there}: a difference of {bracketed(row)} points"
        f"{' on average' * (len(accuracies) > 1)}, {verdict(row['low'], row['high'], row['seeds'])}."
    )
    everywhere = paired_differences(records, [pair], any_processor=True).iloc[-1].to_dict()
    if everywhere["seeds"] > row["seeds"]:
        sentence += (
            f" These are the {row['seeds']} seeds whose two runs are on one kind of processor, a condition set after "
            f"results were known; over all {everywhere['seeds']} it is {bracketed(everywhere)}."
        )
    return sentence


def bracketed(row: Mapping[Any, Any]) -> str:
    """A row's difference and, of several seeds, its interval."""
    bracket = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if row["seeds"] > 1 else ""
    return f"{row['difference']:+.2f}{bracket}"


def _confidence(records: Records, known: dict[Pair, dict[Any, Any]]) -> list[str]:
    """What the experiment would have seen, and whether its copies are more than chance."""
    sentences = ["In brackets: 95 % t interval over paired seeds; each verdict has a false alarm rate of 5 %."]
    for pair in [pair for pair, row in known.items() if row["seeds"] > 1][:1]:
        values = paired(records, *pair)["difference"].unstack().dropna().mean(axis="columns")
        sentences.append(
            f"Of {pair[0]} − {pair[1]}, {len(values)} seeds show a true difference of "
            f"{detectable(values.to_numpy()):.2f} points in 80 % of such experiments, and a smaller one less often."
        )
    origin = origin_of_copies(records)
    if "flgc-dup" in set(origin["method"]):
        rule = origin[origin["method"] == "flgc-dup"]
        sentences.append(
            f"With the rule, S at the end correlates with its random start by {rule['correlation'].median():.3f} "
            "(median over layers and runs), and "
            f"{100 * rule['at_start'].sum() / rule['copies'].sum():.0f} % of the final copies in the layers whose S is "
            "recorded are there before any training: copies by chance are compared with copies by chance."
        )
    return sentences
