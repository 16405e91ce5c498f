"""The explorer: its page asks nobody for anything, shows what was recorded, and its rule is the library's."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from flgc_lib.cost import count
from flgc_lib.experiment.records import read_groups, read_runs, settings_of
from flgc_lib.figures import explorer, worked_example
from flgc_lib.grouping import duplicates, membership, thresholds

RESULTS = Path(__file__).parents[1] / "data" / "results"
RUN = "flgc-dup-g8-s0-ea2092c7"

METHOD = explorer.asset("explorer.js").partition("// --- The pictures")[0]
"""What the script computes, without what it draws."""


def analysed(layer, k, score, moment=0):
    """What the script says of a layer, computed by Node; a browser runs the same text."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed: get it from nodejs.org to have the page's script tested")
    library = explorer.resources.files("flgc_lib.figures") / "assets" / explorer.LIBRARY
    call = f"analyse({json.dumps(layer)}, {moment}, {k}, {json.dumps(score)})"
    program = f"const d3 = require({json.dumps(str(library))});\n{METHOD}\nconsole.log(JSON.stringify({call}));"
    answer = subprocess.run([node, "-"], input=program, capture_output=True, encoding="utf-8", check=True)
    return json.loads(answer.stdout)


def by_the_library(S, k, score):
    scores = S if score == "logit" else S.softmax(dim=1)
    members = membership(S)
    return thresholds(scores, members, k), duplicates(scores, members, k).nonzero().tolist()


def test_the_worked_example():
    (layer,) = explorer.worked_example()["layers"]
    found = analysed(layer, 3, "logit")
    assert [(c["channel"], c["own"], c["into"]) for c in found["copies"]] == [(1, 0, 1)]
    assert found["tau"] == pytest.approx([1.5, 0.9])
    assert (found["macsDense"], found["macsPlain"], found["macsCopies"]) == (32, 16, 18)
    assert not analysed(layer, 3, "softmax")["copies"]


@pytest.mark.parametrize("score", ["logit", "softmax"])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_page_s_rule_is_the_library_s(k, score):
    S = torch.randn(24, 12, generator=torch.Generator().manual_seed(k), dtype=torch.float64)  # some groups are empty
    layer = {"S": [S.tolist()], "filterGroup": [[0] * 4], "macsEach": 1}
    tau, copies = by_the_library(S, k, score)
    found = analysed(layer, k, score)
    assert [[c["channel"], c["into"]] for c in found["copies"]] == copies
    assert len(copies) > 0
    expected = [None if t == torch.inf else pytest.approx(float(t)) for t in tau]  # JSON has no infinity
    assert found["tau"] == expected


def test_a_recorded_run_is_shown_as_recorded():
    run = explorer.recorded(RESULTS, RUN)
    arrays = read_groups(RESULTS, RUN)
    assert run["moments"] == ["epoch 0", "epoch 8", "epoch 15"]
    assert [layer["name"] for layer in run["layers"]] == [key[:-2] for key in arrays if key.endswith(".S")]
    for layer in run["layers"]:
        assert np.allclose(layer["S"], arrays[f"{layer['name']}.S"].astype(float), atol=1e-4)
        assert layer["filterGroup"][-1] == arrays[f"{layer['name']}.filter_group"][-1].tolist()


def test_what_a_layer_costs_is_what_the_library_counts():
    row = read_runs(RESULTS).set_index("run", drop=False).loc[RUN].to_dict()
    network = settings_of(row).network()
    layer = next(x for x in explorer.recorded(RESULTS, RUN)["layers"] if x["name"] == "layer1.0.conv2")
    before = count(network, (3, 32, 32)).macs
    flgc = network.get_submodule("layer1.0.conv2")
    connections = int(flgc.connection_mask().sum())
    network.layer1[0].conv2 = torch.nn.Identity()
    assert layer["macsEach"] * connections == before - count(network, (3, 32, 32)).macs


def test_the_page_asks_no_other_host_and_fits():
    page = explorer.page([explorer.recorded(RESULTS, RUN), explorer.worked_example()])
    assert len(page.encode()) < 5e6
    assert not re.findall(
        r"""(?:src|href)=|url\(|@import|fetch\(|XMLHttpRequest\(""", page.replace(explorer.asset(explorer.LIBRARY), "")
    )
    assert page.count("<script>") == page.count("</script>") == 3


def test_a_page_is_written_by_the_command(tmp_path, monkeypatch, capsys):
    from flgc_lib import cli

    command = ["explore", "--run", RUN, "--output", str(tmp_path / "page.html"), "--results", str(RESULTS)]
    monkeypatch.setattr("sys.argv", ["flgc", *command])
    cli.main()
    assert RUN in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "open it in a browser" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ("nope", "there is no run 'nope' in .*; its column `run` has the names"),
        ("grouped-g8-s0-", "there is no run"),
    ],
)
def test_what_cannot_be_shown_is_refused(run, sentence):
    with pytest.raises(ValueError, match=sentence):
        explorer.recorded(RESULTS, run)


def test_a_run_without_groups_is_refused():
    runs = read_runs(RESULTS)
    dense = runs[runs["method"] == "dense"]["run"].iloc[0]
    with pytest.raises(ValueError, match=f"the groups of {dense} are not recorded"):
        explorer.recorded(RESULTS, dense)


def test_the_library_and_the_page_have_one_worked_example():
    (layer,) = explorer.worked_example()["layers"]
    assert layer["S"] == [worked_example.S.tolist()]
