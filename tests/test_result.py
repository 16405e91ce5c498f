"""What documents show of the records: rows and sentences by hand, and what a document may not ask for."""

from pathlib import Path

import pandas as pd
import pytest

from flgc_lib.experiment.analysis import Records
from flgc_lib.figures import result
from flgc_lib.figures.tables import filled

RESULTS = Path(__file__).parents[1] / "data" / "results"


def records():
    """Accuracies of two methods at one G; the rule gains a point, for a tenth more."""
    rows = [
        {
            "method": method,
            "groups": 4,
            "seed": seed,
            "test_accuracy": (60 + seed + (method == "flgc-dup")) / 100,
            "macs": 110 if method == "flgc-dup" else 100,
            "processor": "one",
        }
        for method in ("flgc", "flgc-dup")
        for seed in range(5)
    ]
    return Records(Path(), pd.DataFrame(rows), pd.DataFrame(), planned=99)


def test_a_difference_by_hand():
    (row,) = result.differences(records())
    assert row == {
        "contrast": "`flgc-dup` − `flgc`",
        "difference (points)": "+1.00 [+1.00, +1.00]",
        "seeds": "5",
        "MACs (%)": "+10.0",
        "verdict": "higher",
    }


def test_progress_is_said_before_the_first_run(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("<!-- progress: gpu -->\n<!-- /progress -->\n", encoding="utf-8")
    assert "So far 0 of 55 runs are recorded." in filled(document, RESULTS)


def test_an_unknown_kind_is_answered_with_a_sentence(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("<!-- difference: small -->\n<!-- /difference -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"<!-- difference: small --> is not known: computed from records are table, "):
        filled(document, RESULTS)
    document.write_text("<!-- use: small -->\n<!-- /use -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"<!-- use: small --> is not known: .*, use: power"):
        filled(document, RESULTS)
