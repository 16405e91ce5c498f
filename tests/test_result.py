"""The result's page: what it says follows from the records, and other records make it say the opposite."""

import re
from pathlib import Path

import pandas as pd
import pytest

from flgc_lib.experiment.analysis import Records
from flgc_lib.figures import result
from flgc_lib.figures.tables import filled

RESULTS = Path(__file__).parents[1] / "data" / "results"


def records(gain, seeds=5, moved=0.03, copies_cost=1.1):
    """Accuracies of two methods at one G, with a gain of the rule for each seed, in points."""
    rows = [
        {
            "method": method,
            "groups": 4,
            "seed": seed,
            "test_accuracy": (60 + seed + (gain(seed) if method == "flgc-dup" else 0)) / 100,
            "macs": 100 * (copies_cost if method == "flgc-dup" else 1),
            "macs_dense": 4e6,
            "processor": "one",
            "data": "tiny",
            "epochs": 2,
            "channels_moved": moved,
        }
        for method in ("flgc", "flgc-dup")
        for seed in range(seeds)
    ]
    return Records(Path(), pd.DataFrame(rows), pd.DataFrame(), planned=99)


def test_a_contrast_by_hand():
    (row,) = result.contrasts(records(lambda seed: 1))
    assert row == {
        "contrast": "`flgc-dup` − `flgc`",
        "difference (points)": "+1.00",
        "95 % interval": "[+1.00, +1.00]",
        "seeds": "5",
        "MACs (%)": "+10.0",
        "verdict": "higher",
    }


@pytest.mark.parametrize(
    ("gain", "seeds", "cost", "advice"),
    [
        (lambda seed: 1, 5, 1.1, "take `flgc-dup` .*, not `flgc` .*: .* higher"),
        (lambda seed: -1, 5, 0.9, "take `flgc` .*, not `flgc-dup` .*: .* lower"),
        (lambda seed: seed - 2, 5, 1.1, "take the cheaper, `flgc` .* not separable with 5 seeds"),
        (lambda seed: seed - 2, 5, 0.9, "take the cheaper, `flgc-dup` .* not separable with 5 seeds"),
        (lambda seed: 1, 3, 1.1, "no advice from 3 seeds, though `flgc-dup` .* lies above"),
        (lambda seed: -1, 3, 1.1, "no advice from 3 seeds, though `flgc` .* lies above"),
    ],
)
def test_the_advice_follows_the_verdict_and_then_the_price(gain, seeds, cost, advice):
    assert re.fullmatch(f"- `flgc-dup` or `flgc`: {advice}.*", result.use(records(gain, seeds, copies_cost=cost)))


def test_how_sure():
    text = result.sureness(records(lambda seed: seed - 2))
    spread = pd.Series([-2, -1, 0, 1, 2]).std()
    assert f"spread by up to {spread:.2f} points" in text
    assert f"about {int((1.96 * spread / 0.1) ** 2) + 1} to see a difference of 0.1 points" in text
    assert "`tiny`, 2 epochs, 4.00 million" in text
    assert "the paper's idea is not tested" in text
    assert "the paper's idea is not tested" not in result.sureness(records(lambda seed: 0, moved=0.5))
    assert result.sureness(records(lambda seed: 0, seeds=3)) == "No contrast has 5 seeds, so none is judged."


def test_progress_is_said_before_the_first_run(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("<!-- progress: gpu -->\n<!-- /progress -->\n", encoding="utf-8")
    assert "So far 0 of 93 runs are recorded." in filled(document, RESULTS)


def test_an_unknown_kind_is_answered_with_a_sentence(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("<!-- contrast: small -->\n<!-- /contrast -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"<!-- contrast: small --> is not known: computed from records are table, "):
        filled(document, RESULTS)
