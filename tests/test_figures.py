"""Figures: computed from the records alone, the same bytes every time, and refused when they are not the records'."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas

from flgc_lib.cli.records import DOCUMENTS
from flgc_lib.experiment import analysis
from flgc_lib.experiment.analysis import accuracy_by_groups, copies_by_layer, group_sizes, of_grid
from flgc_lib.experiment.assignments import CORRECT
from flgc_lib.experiment.records import read_runs, stored, write_record
from flgc_lib.experiment.training import Classifier, Settings
from flgc_lib.figures import draw, worked_example
from flgc_lib.figures.draw import check, computed, regenerate
from flgc_lib.figures.groups import draw_mask
from flgc_lib.figures.manifest import FIGURES, OfGrid
from flgc_lib.figures.plots import (
    draw_accuracy_by_groups,
    draw_copies_by_layer,
    draw_frontier,
    draw_group_sizes,
    draw_paired_differences,
    draw_rule_choices,
    draw_ways_to_learn,
)
from flgc_lib.figures.styles import STYLES
from flgc_lib.figures.tables import filled
from flgc_lib.methods import Method

REPOSITORY = Path(__file__).parents[1]
ACCURACIES = {  # by (method, groups), one for each seed
    ("dense", 1): (0.9, 0.8, 0.7),
    ("grouped", 2): (0.5, 0.5, 0.5),
    ("flgc", 2): (0.6, 0.7, 0.65),
    ("flgc", 4): (0.4, 0.5, 0.6),
}


def grid(name, data=None):
    """In place of `grids.grid`: a small one, with three seeds, for "quick"; nothing for the others."""
    return [
        Settings(method=method, groups=groups, seed=seed, data=data or "tiny", epochs=2)
        for method, groups in ACCURACIES
        for seed in range(3)
        if name == "quick"
    ]


def write(record, results, settings, **measured):
    row, epochs = record(settings, **measured)
    write_record(results, row, epochs, {CORRECT: np.zeros(2, dtype=np.uint8)})


@pytest.fixture(scope="module")
def written(record, tmp_path_factory):
    """The records of a grid of three seeds, and of a run that no figure asks for."""
    folder = tmp_path_factory.mktemp("records")
    for settings in grid("quick"):
        accuracy = ACCURACIES[settings.method, settings.groups][settings.seed]
        macs = 1_000_000 * (settings.seed + settings.groups)
        write(record, folder, settings, test_accuracy=accuracy, macs=macs, channels_moved=0.25)
    write(record, folder, Settings(seed=77, epochs=1), test_accuracy=0.01)
    return folder


@pytest.fixture
def results(written, tmp_path, monkeypatch):
    """A copy of them, for the test to change."""
    monkeypatch.setattr(analysis, "grid", grid)
    return shutil.copytree(written, tmp_path / "results")


@pytest.fixture(scope="module")
def pictures(written, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "grid", grid)
        regenerate(written, folder)
    return folder


@pytest.fixture
def drawn(pictures, tmp_path):
    """A copy of their figures."""
    return shutil.copytree(pictures, tmp_path / "figures")


NAME = "quick-accuracy-against-groups"
OF_QUICK = {NAME, "quick-accuracy-against-macs", "quick-moves-by-epoch"}  # what it gives without pairs and groups
DRAWN = {  # without records; those of speed need bench.csv
    figure.id for figure in FIGURES if not isinstance(figure.numbers, OfGrid) and not figure.id.endswith("-speed")
}


def test_numbers_by_hand(results):
    numbers = accuracy_by_groups(of_grid("quick", results)).set_index(["method", "groups"])
    assert set(numbers.index) == set(ACCURACIES)
    expected = {("dense", 1): (80, 2), ("grouped", 2): (50, 3), ("flgc", 2): (65, 3), ("flgc", 4): (50, 5)}
    for cell, (accuracy, mega_macs) in expected.items():
        assert numbers.loc[cell, "accuracy"] == pytest.approx(accuracy)
        assert numbers.loc[cell, "mega_macs"] == pytest.approx(mega_macs)
        assert numbers.loc[cell, "seeds"] == 3
        assert numbers.loc[cell, ["mega_parameters", "copies", "channels_moved"]].tolist() == [0.001, 5, 25]
        assert numbers.loc[cell, "low"] <= numbers.loc[cell, "accuracy"] <= numbers.loc[cell, "high"]
    assert numbers.loc[("grouped", 2), "low"] == numbers.loc[("grouped", 2), "high"] == 50
    half = 4.302653 * 10 / 3**0.5  # Student's t of two degrees of freedom; 90, 80, 70
    assert numbers.loc[("dense", 1), ["low", "high"]].tolist() == pytest.approx([80 - half, 80 + half])


def test_rows_of_other_experiments_are_left_out(results):
    assert len(read_runs(results)) == 13
    assert len(of_grid("quick", results).runs) == 12
    assert of_grid("first", results).runs.empty


@pytest.mark.parametrize("figure", [f for f in FIGURES if callable(f.numbers)], ids=lambda figure: figure.id)
def test_a_caption_of_no_experiment_names_the_numbers_too(figure):
    """Each figure is also seen alone."""
    assert re.search(r"data/results/\w+\.csv|the worked example", figure.caption)


def test_caption_names_data_epochs_runs_and_seeds(results):
    captions = {figure.id: caption for figure, caption, _ in computed(results)}
    assert captions[NAME] == (
        "Accuracy against the number of groups, a three-block net: tiny, 2 epochs, 12 runs, "
        "3 seeds; bars: 95 % t interval over seeds."
    )


def test_a_grid_run_on_another_dataset_makes_the_figure_too(record, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "grid", grid)
    for settings in grid("quick", "other"):
        write(record, tmp_path, settings)
    assert set(of_grid("quick", tmp_path).runs["data"]) == {"other"}


def test_runs_of_several_datasets_are_refused(record, results, tmp_path):
    write(record, results, grid("quick", "other")[0], fingerprint="fedcba9876543210")
    for act in (regenerate, check):
        with pytest.raises(ValueError, match=r"runs\.csv has runs of quick on several datasets; keep one a folder"):
            act(results, tmp_path / "figures")


def test_the_same_records_give_the_same_bytes(results, drawn, tmp_path):
    with_numbers = OF_QUICK | {figure.id for figure in FIGURES if figure.numbers and figure.id in DRAWN}
    names = {f"{name}.csv" for name in with_numbers} | {f"{name}.svg" for name in OF_QUICK | DRAWN}
    assert {file.name for file in drawn.iterdir()} == names
    assert {path.stem for path in regenerate(results, tmp_path / "again")} == OF_QUICK | DRAWN
    for file in drawn.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    svg = (drawn / f"{NAME}.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml")
    assert "<dc:date>" not in svg
    stored = pd.read_csv(drawn / f"{NAME}.csv")
    assert stored["accuracy"].tolist() == accuracy_by_groups(of_grid("quick", results))["accuracy"].tolist()


def points(axes):
    """Of a panel: for each series with intervals, its points and the ends of its bars."""
    return [
        (c.lines[0].get_xydata().tolist(), [bar.get_segments() for bar in c.lines[2]], c.lines[0].get_markerfacecolor())
        for c in axes.containers
    ]


def test_the_picture_shows_the_numbers(results):
    canvas = Canvas()
    draw_accuracy_by_groups(accuracy_by_groups(of_grid("quick", results)), canvas)
    assert [axes.get_title() for axes in canvas.axes] == ["grouped", "flgc"]
    _, axes = canvas.axes
    assert axes.get_xticks().tolist() == [1, 2, 4]
    (dense, dense_bars, _), (flgc, _, _) = points(axes)
    assert dense == [[1, pytest.approx(80)]], "with one group every method is the dense network"
    half = 4.302653 * 10 / 3**0.5  # as in the table above
    assert dense_bars[0][0][:, 1].tolist() == pytest.approx([80 - half, 80 + half])
    assert flgc == [[2, pytest.approx(65)], [4, pytest.approx(50)]], "where they were measured, not beside it"
    others = [line for line in axes.lines if line.get_color() == "0.82"]
    assert [line.get_xydata().tolist() for line in others] == [[[2, 50]]]


def test_bars_of_few_seeds_look_different():
    row = {"method": "flgc", "accuracy": 50.0, "low": 49.0, "high": 51.0}
    numbers = pd.DataFrame([row | {"groups": g, "seeds": s} for g, s in ((2, 5), (4, 3), (8, 1))])
    canvas = Canvas()
    draw_accuracy_by_groups(numbers, canvas)
    (few, _, few_face), (many, many_bars, many_face) = points(canvas.axes[0])
    assert ([x for x, _ in few], [x for x, _ in many]) == ([4, 8], [2])
    assert (few_face, many_face) == ("white", STYLES["flgc"]["color"])
    dotted, solid = (c.lines[2][0].get_linestyle()[0] for c in canvas.axes[0].containers)
    assert dotted[1] is not None
    assert solid[1] is None
    assert len(many_bars[0]) == 1
    labels = [text.get_text() for text in canvas.legends[0].get_texts()]
    assert labels == ["open, dotted: fewer than 5 seeds"]


@pytest.mark.parametrize("name", STYLES)
def test_no_colour_is_pale_on_white(name):
    """Contrast to white as the WCAG computes it; 2.5 and more, where pale yellow has 1.3."""
    light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(STYLES[name]["color"])]
    assert 1.05 / (0.05 + sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), light, strict=True))) >= 2.5


def test_the_rules_choices_are_drawn_by_group_score_and_time():
    columns = ["method", "groups", "top_k", "score", "copy_time", "accuracy", "low", "high", "seeds", "copies"]
    choices = itertools.product((8, 16), (1, 3), ("logit", "softmax"), ("training", "post-hoc"))
    cells = [("flgc-dup", *choice, 50 + i, 49 + i, 51 + i, 3, 10 * i) for i, choice in enumerate(choices)]
    numbers = pd.DataFrame(cells, columns=columns)
    canvas = Canvas()
    draw_rule_choices(numbers, canvas)
    above, below = canvas.axes[:8], canvas.axes[8:]
    kinds = itertools.product(("logit", "softmax"), ("post-hoc", "training"), (8, 16))
    for (score, when, g), axes in zip(kinds, above, strict=True):
        assert axes.get_title() == f"{score}, {when}, G = {g}"
        of = numbers[(numbers["groups"] == g) & (numbers["score"] == score) & (numbers["copy_time"] == when)]
        assert points(axes)[0][0] == of[["top_k", "accuracy"]].to_numpy().tolist()
        copies = [line.get_xydata().tolist() for line in below[g == 16].lines]
        assert of[["top_k", "copies"]].to_numpy().tolist() in copies
    assert {axes.get_ylim() for axes in above} == {above[0].get_ylim()}


def test_arms_are_drawn_by_groups_with_their_cost_and_the_frontier_is_bold():
    row = {"method": "dense", "seeds": 5, "low": 60.0, "high": 70.0}
    arms = [("dense", 1, 70.0, 12.8, True), ("thin dense", 8, 62.0, 2.0, False), ("equal", 8, 65.0, 2.0, True)]
    names = ("arm", "groups", "accuracy", "mega_macs", "frontier")
    canvas = Canvas()
    draw_frontier(pd.DataFrame([row | dict(zip(names, arm, strict=True)) for arm in arms]), canvas)
    eight, one = canvas.axes
    assert (eight.get_title(loc="left"), one.get_title(loc="left")) == ("G = 8", "one group")
    shown = [(t.get_text(), t.get_fontweight()) for t in eight.get_yticklabels()]
    assert shown == [("thin dense, 2.00", "normal"), ("equal, 2.00", "bold")]
    assert points(eight)[0][0] == [[62, 0], [65, 1]]


def test_ways_to_learn_are_named_with_their_costs():
    row = {"method": "flgc", "accuracy": 60.0, "low": 59.0, "high": 61.0, "seeds": 3, "mega_macs": 0.75}
    numbers = pd.DataFrame([row | {"soft_start": start, "channels_moved": 40 * start} for start in (0.0, 0.5)])
    canvas = Canvas()
    draw_ways_to_learn(numbers, canvas)
    (axes,) = canvas.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "flgc, hard from the start\n0.750 MMAC, 0 % moved",
        "flgc, soft start 0.5\n0.750 MMAC, 20 % moved",
    ]
    assert [where for where, _, _ in points(axes)] == [[[60, 0]], [[60, 1]]]


def test_every_method_has_a_style_of_its_own():
    assert set(STYLES) == set(Method.__args__)
    looks = {(style["color"], style["linestyle"], style.get("marker")) for style in STYLES.values()}
    assert len(looks) == len(STYLES)
    assert len({(style["linestyle"], style.get("marker")) for style in STYLES.values()}) == len(STYLES)  # in grey


def test_check_passes_on_what_was_drawn(results, drawn):
    assert check(results, drawn) == []


def test_check_notices_that_a_record_changed(record, results, drawn):
    write(record, results, grid("quick")[3], test_accuracy=0.5001)
    problems = check(results, drawn)
    assert len(problems) == 2  # accuracy against groups, and against MACs
    assert f"{NAME}.csv is not what the records say (" in problems[0]
    assert problems[0].endswith("): type `flgc figures`")


def test_check_notices_that_a_record_is_gone(results, drawn):
    path = results / "runs.csv"
    path.write_text(
        "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if ",grouped," not in line),
        encoding="utf-8",
    )
    assert "not what the records say" in check(results, drawn)[0]
    path.write_text(path.read_text(encoding="utf-8").splitlines(True)[0], encoding="utf-8")
    problems = check(results, drawn)
    assert len(problems) == len(OF_QUICK)
    assert all("is of records that are not in" in problem for problem in problems)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("80.0", "80.1"),
        lambda text: text.replace("dense", "dance"),
        lambda text: text.replace("accuracy", "precision"),
        lambda text: "".join(text.splitlines(True)[:-1]),
        lambda text: "",
        lambda text: 'a\n"',
    ],
)
def test_check_notices_that_a_stored_number_changed(results, drawn, change):
    path = drawn / f"{NAME}.csv"
    before = path.read_text(encoding="utf-8")
    path.write_text(change(before), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != before
    (problem,) = check(results, drawn)
    assert "not what the records say" in problem
    assert problem.endswith("type `flgc figures`")
    assert "\n" not in problem


@pytest.mark.parametrize("suffix", ["svg", "csv"])
def test_check_notices_that_a_file_is_missing(results, drawn, suffix):
    (drawn / f"{NAME}.{suffix}").unlink()
    assert check(results, drawn) == [f"{drawn / NAME}.svg is missing: type `flgc figures`"]


def test_a_figure_that_is_none_any_more_is_taken_away_and_nothing_else(results, drawn):
    (drawn / "gone.svg").write_bytes((drawn / f"{NAME}.svg").read_bytes())
    (drawn / "gone.csv").write_text("a\n1\n", encoding="utf-8")
    (drawn / "mine.svg").write_text("<svg/>", encoding="utf-8")
    (drawn / "mine.csv").write_text("a\n1\n", encoding="utf-8")
    assert check(results, drawn) == [f"{drawn / 'gone.svg'} is no figure any more: type `flgc figures`"]
    regenerate(results, drawn)
    assert not list(drawn.glob("gone.*"))
    assert {path.suffix for path in drawn.glob("mine.*")} == {".svg", ".csv"}
    assert check(results, drawn) == []


def test_figures_of_other_records_stay(results, drawn, tmp_path):
    (tmp_path / "empty").mkdir()
    before = {path.name for path in drawn.iterdir()}
    regenerate(tmp_path / "empty", drawn)
    assert {path.name for path in drawn.iterdir()} == before


def test_a_notebook_draws_a_figure_from_the_records_as_they_are(results, tmp_path, capsys):
    draw.show(NAME, results)
    canvas = pyplot.gcf()
    assert canvas.get_suptitle().startswith("Accuracy against the number of groups, a three-block net: tiny, 2")
    pyplot.close(canvas)
    draw.show("gpu-paired-differences", results)
    assert not pyplot.get_fignums()
    assert "no run for it is recorded yet" in capsys.readouterr().out
    with pytest.raises(ValueError, match="there is no figure 'smal': they are residual-blocks, "):
        draw.show("smal", results)


def test_without_records_there_are_drawings_only(tmp_path):
    assert len(check(tmp_path, tmp_path / "figures")) == len(DRAWN)
    assert {path.stem for path in regenerate(tmp_path, tmp_path / "figures")} == DRAWN
    assert check(tmp_path, tmp_path / "figures") == []
    path = tmp_path / "figures" / "duplication-rule.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("1.4", "1.5"), encoding="utf-8")
    (problem,) = check(tmp_path, tmp_path / "figures")
    assert "duplication-rule.csv is not" in problem
    (tmp_path / "figures" / "residual-blocks.svg").unlink()
    assert len(check(tmp_path, tmp_path / "figures")) == 2


def test_the_worked_example_is_that_of_section_3():
    numbers = worked_example.table()
    assert numbers["own_group"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert set(numbers["threshold_0"]) == {1.5}
    assert set(numbers["threshold_1"]) == {0.9}
    assert numbers["copied_into_1"].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert numbers["copied_into_0"].sum() == 0


def test_every_figure_has_a_name_of_its_own():
    names = [figure.id for figure in FIGURES]
    assert len(set(names)) == len(names)


def test_differences_have_a_panel_a_pair_and_bars_only_for_several_seeds():
    row = {"groups": "4", "difference": 1.5, "low": 1.0, "high": 2.0, "seeds": 2, "seeds_above": 2}
    pairs = [("flgc-dup", "flgc"), ("flgc", "random")]
    for seeds in (2, 1):
        numbers = pd.DataFrame([{"method": m, "baseline": b} | row | {"seeds": seeds} for m, b in pairs])
        canvas = Canvas()
        draw_paired_differences(numbers, canvas)
        titles = [axes.get_title(loc="left") for axes in canvas.axes]
        assert titles == ["flgc-dup − flgc", "flgc − random"]
        ((where, bars, _),) = points(canvas.axes[0])
        assert where == [[1.5, 0]]
        assert [label.get_text() for label in canvas.axes[0].get_yticklabels()] == ["G = 4"]
        assert [bar[0][:, 0].tolist() for bar in bars] == [[1, 2]] * (seeds > 1)


def test_a_copied_cell_is_marked_in_the_mask():
    inputs, own = torch.tensor([[1, 0], [1, 1], [0, 1]]).bool(), torch.tensor([[1, 0], [1, 0], [0, 1]]).bool()
    filters = torch.tensor([[1, 0], [0, 1]]).bool()
    for given in ({"own": own}, {"copies": inputs & ~own}):
        axes = Canvas().subplots()
        draw_mask(inputs, filters, axes, **given)
        assert [(round(p.get_x()), round(p.get_y()), p.get_linestyle()) for p in axes.patches] == [(1, 1, "--")]
    axes = Canvas().subplots()
    draw_mask(inputs, filters, axes)
    assert not axes.patches


def test_figures_of_groups_from_a_real_run(record, tiny, images, tmp_path, monkeypatch):
    settings = tiny()
    module = Classifier(settings, images)
    module._recorder.record(3)
    row, epochs = record(settings)
    write_record(tmp_path, row, epochs, stored(module.assignments, module.correct))
    monkeypatch.setattr(analysis, "grid", lambda name, data=None: [settings])
    records = of_grid("quick", tmp_path)
    canvas = Canvas()
    draw_copies_by_layer(copies_by_layer(records), canvas)
    (line,) = canvas.axes[0].lines
    copies = [int(module.assignments[f"{name}.copies"][-1]) for name in module.layers]
    channels = [layer.in_channels for layer in module.layers.values()]
    assert line.get_ydata().tolist() == pytest.approx([100 * c / n for c, n in zip(copies, channels, strict=True)])
    canvas = Canvas()
    draw_group_sizes(group_sizes(records), canvas)
    assert [axes.get_title() for axes in canvas.axes] == ["channels of a group", "filters of a group"]


def test_tables_of_a_document_are_filled_in_from_the_records(results, tmp_path):
    document = tmp_path / "README.md"
    table = "before\n<!-- table: quick -->\n{}<!-- /table -->\nafter\n<!-- table: first -->\nkept\n<!-- /table -->\n"
    document.write_text(table.format("old\nrows\n"), encoding="utf-8")
    rows = [
        "| method | G | test accuracy (%) | seeds | MACs (M) | parameters (M) | copies | channels moved (%) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| dense | 1 | 80.00 ± 10.00 [55.16, 104.84] | 3 | 2.00 | 0.00 | 5 | 25.0 |",
        "| grouped | 2 | 50.00 ± 0.00 [50.00, 50.00] | 3 | 3.00 | 0.00 | 5 | 25.0 |",
    ]
    text = filled(document, results)
    start, end = table.split("{}")
    assert text.startswith(start + "\n".join(rows) + "\n| flgc | 2 | 65.00 ± ")
    assert text.endswith(end)
    document.write_text(text, encoding="utf-8")
    assert filled(document, results) == text


def test_a_table_of_an_unknown_experiment_is_answered_with_a_sentence(tmp_path):
    document = tmp_path / "README.md"
    document.write_text("<!-- table: smal -->\n<!-- /table -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match="table='smal' must be one of quick, "):
        filled(document, tmp_path)


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("<!-- table: quick -->\nprose\n<!-- table: first -->\n<!-- /table -->\n", "<!-- table: quick -->"),
        ("<!-- table: quick -->\nprose\n<!-- answer: small -->\nrows\n<!-- /table -->\n", "<!-- table: quick -->"),
        ("prose\n<!-- /table -->\n", "<!-- /table -->"),
    ],
)
def test_a_marker_that_stands_alone_swallows_no_prose(results, tmp_path, text, alone):
    document = tmp_path / "README.md"
    document.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"README.md: {alone} stands alone"):
        filled(document, results)


def test_what_is_of_no_experiment_is_a_table(tmp_path):
    document = tmp_path / "README.md"
    document.write_text("<!-- answer: engines -->\n<!-- /answer -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match="answer='engines' must be one of quick, "):
        filled(document, tmp_path)


@pytest.mark.parametrize("name", DOCUMENTS, ids=str)
def test_committed_tables_are_those_of_the_committed_records(name):
    document = REPOSITORY / name
    assert re.search(r"<!-- \w+: \w+ -->", document.read_text(encoding="utf-8"))
    assert filled(document, REPOSITORY / "data" / "results") == document.read_text(encoding="utf-8")


def test_committed_figures_are_those_of_the_committed_records():
    assert check(REPOSITORY / "data" / "results", REPOSITORY / "figures") == []
