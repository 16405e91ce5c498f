"""The result's page: what it says follows from the records, and other records make it say the opposite."""

import re
from pathlib import Path

import pandas as pd
import pytest

from flgc_lib.experiment.analysis import Records
from flgc_lib.figures import result
from flgc_lib.figures.tables import filled

RESULTS = Path(__file__).parents[1] / "data" / "results"


def records(gain, copies_cost=1.1):
    """Accuracies of two methods at one G, with a gain of the rule for each seed, in points."""
    rows = [
        {
            "method": method,
            "groups": 4,
            "seed": seed,
            "test_accuracy": (60 + seed + (gain(seed) if method == "flgc-dup" else 0)) / 100,
            "macs": 100 * (copies_cost if method == "flgc-dup" else 1),
            "processor": "one",
        }
        for method in ("flgc", "flgc-dup")
        for seed in range(5)
    ]
    return Records(Path(), pd.DataFrame(rows), pd.DataFrame(), planned=99)


def test_a_difference_by_hand():
    (row,) = result.differences(records(lambda seed: 1))
    assert row == {
        "contrast": "`flgc-dup` − `flgc`",
        "difference (points)": "+1.00 [+1.00, +1.00]",
        "seeds": "5",
        "MACs (%)": "+10.0",
        "verdict": "higher",
    }


@pytest.mark.parametrize(
    ("gain", "cost", "advice"),
    [
        (lambda seed: 1, 1.1, r"`flgc-dup` .*, not `flgc` .* higher, .* \+10.0 %"),
        (lambda seed: -1, 0.9, r"`flgc` .*, not `flgc-dup` .* lower, .* -10.0 %"),
        (lambda seed: seed - 2, 1.1, "the cheaper, `flgc` .* not separable with 5 seeds"),
        (lambda seed: seed - 2, 0.9, "the cheaper, `flgc-dup` .* not separable with 5 seeds"),
    ],
)
def test_the_advice_follows_the_verdict_and_then_the_price(gain, cost, advice):
    assert re.fullmatch(f"- `flgc-dup` or `flgc`: take {advice}.*", result.use(records(gain, copies_cost=cost)))


def test_progress_is_said_before_the_first_run(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("<!-- progress: gpu -->\n<!-- /progress -->\n", encoding="utf-8")
    assert "So far 0 of 55 runs are recorded." in filled(document, RESULTS)


def test_an_unknown_kind_is_answered_with_a_sentence(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("<!-- difference: small -->\n<!-- /difference -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"<!-- difference: small --> is not known: computed from records are table, "):
        filled(document, RESULTS)
