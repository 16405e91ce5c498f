"""The benchmark measures what it says and records it."""

from itertools import pairwise

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from flgc_lib.bench import measure as bench_module
from flgc_lib.bench.candidates import BASELINE, with_groups_of
from flgc_lib.bench.measure import BenchSettings, bench
from flgc_lib.figures.speed import draw_speed, speed
from flgc_lib.figures.tables import filled
from flgc_lib.frozen.autotune import medians
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import resnet


@pytest.fixture
def small_network(monkeypatch):
    """A ResNet of four blocks in the place of ResNet-50: what is tested is the bookkeeping."""

    def small(**settings):
        return resnet((1, 1, 1, 1), width=0.5, **settings)

    monkeypatch.setattr(bench_module, "resnet50", small)
    monkeypatch.setattr("flgc_lib.bench.candidates.resnet50", small)


def test_records_and_replaces(small_network, tmp_path, capsys):
    settings = BenchSettings(
        stems=("paper",), groups=(4,), batches=(2,), threads=(1,), repetitions=2, only=("flgc",), results=tmp_path
    )
    before = torch.get_num_threads()
    frame = bench(settings)
    assert torch.get_num_threads() == before
    assert frame.candidate.iloc[0] == BASELINE
    assert frame.times_faster.iloc[0] == 1
    assert {"flgc masked", "flgc frozen", "flgc-dup frozen"} <= set(frame.candidate)
    assert not frame.candidate.str.startswith("grouped").any()
    assert (frame.quartile_1 <= frame.milliseconds).all()
    assert (frame.milliseconds <= frame.quartile_3).all()
    masked, frozen = (frame[frame.candidate == name].iloc[0] for name in ("flgc masked", "flgc frozen"))
    assert masked.mmacs == frozen.mmacs  # what the mask lets through counts, not what is multiplied
    assert masked.mmacs < frame.mmacs.iloc[0]
    assert "flgc frozen" in capsys.readouterr().out
    bench(settings)
    stored = pd.read_csv(tmp_path / "bench.csv")
    assert len(stored) == len(frame)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"groups": (5,)}, "groups=5 must divide 64"),
        ({"batches": ()}, "must be one or more numbers"),
        ({"threads": (-1,)}, "0 is for all cores"),
        ({"stems": ("large",)}, "must be one of"),
        ({"repetitions": 0}, "must be at least 1"),
    ],
)
def test_refuses_what_cannot_be_measured(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        BenchSettings(**wrong)


def test_takes_over_recorded_groups(tmp_path, monkeypatch):
    layer = FLGConv2d(4, 3, 1, groups=2)
    recorded = {
        "0.channel_group": torch.tensor([[0, 0, 0, 0], [1, 0, 1, 0]]).numpy(),
        "0.filter_group": torch.tensor([[0, 0, 0], [1, 1, 0]]).numpy(),
    }
    monkeypatch.setattr("flgc_lib.bench.candidates.read_groups", lambda results, run: recorded)
    model = with_groups_of(nn.Sequential(layer), tmp_path, "a-run")
    assert model[0].input_membership().int().argmax(1).tolist() == [1, 0, 1, 0]
    assert model[0].filter_membership().int().argmax(1).tolist() == [1, 1, 0]


def test_candidates_alternate():
    calls = []
    found = medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repetitions=3)
    assert found.keys() == {"a", "b"}
    assert all(seconds >= 0 for seconds in found.values())
    assert {"ab", "ba"} <= {x + y for x, y in pairwise(calls)}


def test_tables_and_figure_come_from_the_records(small_network, tmp_path):
    bench(
        BenchSettings(
            stems=("paper",),
            groups=(2, 4),
            batches=(1,),
            threads=(1,),
            repetitions=1,
            only=("grouped frozen",),
            results=tmp_path,
        )
    )
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- table: bench -->\nold\n<!-- /table -->\nafter\n", encoding="utf-8")
    assert filled(document, tmp_path / "none") == document.read_text(encoding="utf-8")
    text = filled(document, tmp_path)
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("| grouped frozen |") == 2
    canvas = Figure(layout="constrained")
    draw_speed(speed(tmp_path), canvas)
    assert canvas.axes[0].get_title() == "paper, batch 1, 1 thread"
    assert speed(tmp_path / "none").empty
