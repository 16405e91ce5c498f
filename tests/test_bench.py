"""The benchmark measures what it says and records it."""

from itertools import pairwise

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from flgc_lib.bench import gpu, report
from flgc_lib.bench import measure as bench_module
from flgc_lib.bench.candidates import BASELINE, Candidate, with_groups_of
from flgc_lib.bench.measure import BenchSettings, bench
from flgc_lib.experiment import measurements
from flgc_lib.figures.speed import draw_engine_speed, draw_speed, engine_speed, speed
from flgc_lib.figures.tables import filled
from flgc_lib.frozen.autotune import medians
from flgc_lib.frozen.forms import FORMS
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import resnet


@pytest.fixture
def small_network(monkeypatch):
    """A ResNet of four blocks in the place of ResNet-50: what is tested is the bookkeeping."""

    def small(**settings):
        return resnet((1, 1, 1, 1), width=0.5, **settings)

    monkeypatch.setattr(bench_module, "resnet50", small)
    monkeypatch.setattr("flgc_lib.bench.candidates.resnet50", small)


def test_a_candidate_that_fails_without_a_word_is_left_out(capsys):
    def make():
        raise AssertionError

    assert not Candidate("odd", 1, "", nn.Identity(), make).prepare()
    assert "odd is left out: AssertionError" in capsys.readouterr().out


def test_records_and_replaces(small_network, tmp_path, capsys):
    only = ("flgc masked", "flgc frozen", "flgc-dup")
    settings = BenchSettings(
        stems=("paper",), groups=(4,), batches=(2,), threads=(1,), repetitions=2, only=only, results=tmp_path
    )
    before = torch.get_num_threads()
    frame = bench(settings)
    assert torch.get_num_threads() == before
    assert tuple(frame.columns) == report.COLUMNS
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
        ({"stems": ()}, r"stems=\(\) must be one or more"),
        ({"device": "cuda", "trained_run": "a-run"}, "trained_run='a-run' is measured on the processor alone"),
        ({"repetitions": 0}, "must be at least 1"),
    ],
)
def test_refuses_what_cannot_be_measured(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        BenchSettings(**wrong)


def test_a_table_that_takes_no_rows_is_noticed_before_the_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_module, "_measure", lambda *_: pytest.fail("measured"))
    (tmp_path / report.TABLE).write_text("stem,milliseconds\ncifar,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bench\.csv has other columns than what is measured \(see .*threads"):
        bench(BenchSettings(results=tmp_path))


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


def test_engines_are_candidates(small_network, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="pip install -e '.[engines]'")
    pytest.importorskip("openvino", reason="pip install -e '.[engines]'")
    monkeypatch.setattr("flgc_lib.frozen.engines.GATHER_COSTS", (0.0,))
    only = ("equal", "grouped onnxruntime", "grouped frozen")
    frame = bench(
        BenchSettings(
            stems=("paper",), groups=(4,), batches=(1,), threads=(1,), repetitions=1, only=only, results=tmp_path
        )
    )
    expected = {"onnxruntime", "onnxruntime int8", "openvino", "openvino bf16", "openvino int8"}
    found = frame.candidate[frame.candidate.str.startswith("equal")].str.removeprefix("equal ")
    assert set(found) == expected | {"frozen"} | ({"frozen bf16"} & {f"frozen {form}" for form in FORMS})
    assert engine_speed(tmp_path).empty, "one number of groups makes no line"
    monkeypatch.setattr("flgc_lib.figures.speed.LEAST_GROUPS", 1)
    canvas = Figure(layout="constrained")
    draw_engine_speed(engine_speed(tmp_path), canvas)
    assert "openvino int8" in [text.get_text() for text in canvas.legends[0].get_texts()]
    assert [axes.get_title().partition("\n")[0] for axes in canvas.axes if axes.axison] == [
        "fixed groups", "learned, equal sizes", "learned, unequal",
    ]  # fmt: skip
    assert not speed(tmp_path).candidate.str.startswith("equal").any()
    document = tmp_path / "performance.md"
    document.write_text("<!-- table: choice -->\n<!-- /table -->\n", encoding="utf-8")
    text = filled(document, tmp_path)
    for precision in ("bf16", "int8"):
        best = frame[frame.candidate.str.match(f"equal .*{precision}")].sort_values("times_faster").iloc[-1]
        assert f"{best.times_faster:.1f}: {best.candidate.removeprefix('equal ')} |" in text
    assert "| 4 | bf16 | – |" in text


@torch.no_grad()
def test_candidates_of_a_gpu_compute_the_network(small_network, monkeypatch):
    """All that can be seen without one: the same outputs, and nothing but the waiting and the capture left out."""
    monkeypatch.setattr("flgc_lib.bench.gpu._then_wait", lambda run: run())
    x = torch.randn(2, 3, 32, 32)
    names = []
    for candidate in gpu.build("paper", (4,), x):
        names.append(candidate.name)
        if candidate.name.endswith(("eager", "channels_last")):
            out = candidate.make()()
            assert torch.allclose(out, candidate.counted(x), rtol=1e-3, atol=1e-4)
    assert names[0] == BASELINE
    assert {"grouped CUDA graph bf16", "equal, few gathers torch.compile bf16"} <= set(names)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_that_there_is_no_gpu(tmp_path):
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        bench(BenchSettings(device="cuda", results=tmp_path))


def test_candidates_alternate():
    calls = []
    found = medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repetitions=3)
    assert found.keys() == {"a", "b"}
    assert all(seconds >= 0 for seconds in found.values())
    assert {"ab", "ba"} <= {x + y for x, y in pairwise(calls)}


def test_a_gpu_is_waited_for(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    medians({"a": lambda: None}, repetitions=1)
    assert len(waits) >= 4, "before and after each sample"


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
    shown, rows = speed(tmp_path), measurements.read(tmp_path / report.TABLE)
    draw_speed(shown, canvas)
    on_gpu = pd.concat([rows.assign(candidate=f"grouped CUDA graph {i}", processor="a GPU") for i in range(9)])
    measurements.add(on_gpu, tmp_path / report.TABLE, ["candidate", "processor"])
    assert speed(tmp_path).equals(shown), "a GPU's rows, however many, are not of this figure"
    assert canvas.axes[0].get_title() == "paper, batch 1, 1 thread"
    assert speed(tmp_path / "none").empty
