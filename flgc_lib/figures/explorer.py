"""The explorer: a page on which the recorded groups are played with, the rule computed in the page.

`explorer.js` and D3 lie in `assets/`; here the records become its data, and data, script and frame become a page.
"""

import json
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flgc_lib.experiment.assignments import SNAPSHOTS, array_name
from flgc_lib.experiment.records import read_groups, read_runs, settings_of
from flgc_lib.figures.worked_example import S, T
from flgc_lib.layers import FLGConv2d
from flgc_lib.methods import METHODS

Run = dict[str, Any]
_ASSETS = resources.files("flgc_lib.figures") / "assets"
LIBRARY = "d3.v7.9.0.min.js"


def worked_example() -> Run:
    """The worked example of section 3, one moment, as a run: a multiply-accumulate for each connection."""
    layer = _layer("the worked example", S[None].numpy(), T.argmax(dim=1)[None].numpy(), macs_each=1)
    return {"name": "worked example", "about": "8 channels, 4 filters, 2 groups.", "moments": ["S"], "layers": [layer]}


def recorded(results: Path, run: str) -> Run:
    """A recorded run: the layers of which S was kept, at the start, half-way and at the end.

    Raises:
        ValueError: if there is no such run, or its groups were not learned or drawn.
    """
    runs = read_runs(results).set_index("run", drop=False)
    if run not in runs.index:
        raise ValueError(f"there is no run {run!r} in {results / 'runs.csv'}; its column `run` has the names")
    row = runs.loc[run].to_dict()
    arrays = read_groups(results, run) if METHODS[row["method"]].masked else {}
    suffix = array_name("", "S")
    names = [key.removesuffix(suffix) for key in arrays if key.endswith(suffix)]
    if not names:
        raise ValueError(
            f"the groups of {run} are not recorded: take a run of flgc, flgc-dup, random or another with S"
        )
    settings = settings_of(row)
    each = _macs_each(settings.network())
    epochs = arrays[SNAPSHOTS].tolist()
    layers = [
        _layer(name, arrays[array_name(name, "S")], arrays[array_name(name, "filter_group")][epochs], each[name])
        for name in names
    ]
    about = (
        f"{row['data']}, {settings.epochs} epochs, test accuracy {row['test_accuracy']:.2%}. S as recorded, in half "
        "precision, of each stage's first block. The copies are those that the rule would make with the chosen k and "
        "score, whether or not this run made any."
    )
    return {"name": run, "about": about, "moments": [f"epoch {epoch}" for epoch in epochs], "layers": layers}


def _layer(name: str, S: np.ndarray, filter_group: np.ndarray, macs_each: int) -> dict[str, Any]:
    """Of one layer: S at each moment, (moments, C, G), the filters' groups, (moments, N), and MACs of a connection."""
    scores = np.round(S.astype(float), 4).tolist()
    return {"name": name, "S": scores, "filterGroup": filter_group.tolist(), "macsEach": macs_each}


def _macs_each(network: nn.Module) -> dict[str, int]:
    """Multiply-accumulates of one connection of each learned layer, for an image of 32 × 32 pixels."""
    found = {}

    def note(name: str, layer: FLGConv2d) -> None:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = layer.kernel_size[0] * layer.kernel_size[1] * output[0, 0].numel()

        layer.register_forward_hook(hook)

    for name, layer in network.named_modules():
        if isinstance(layer, FLGConv2d):
            note(name, layer)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 32, 32))
    return found


def data(runs: Iterable[Run]) -> str:
    """The runs as JSON."""
    return json.dumps(list(runs), separators=(",", ":"), ensure_ascii=False)


def script(runs: Iterable[Run]) -> str:
    """The data as a script: a page that is opened from a folder may not read a JSON file beside it."""
    return f"window.explorerData = {data(runs)};\n"


def asset(name: str) -> str:
    """The text of a file in `assets/`."""
    return (_ASSETS / name).read_text(encoding="utf-8")


def page(runs: Sequence[Run]) -> str:
    """A page that opens alone, without a network: frame, data, D3 and script in one; the first run is shown first."""
    scripts = [asset(LIBRARY), script(runs).replace("</", "<\\/"), asset("explorer.js")]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Groups, explored</title>',
            "<style>:root { color-scheme: light dark; } body { font-family: sans-serif; margin: 1em; }</style></head>",
            f"<body><h1>Groups, explored</h1>{asset('explorer.html')}",
            *(f"<script>{text}</script>" for text in scripts),
            "</body></html>",
        ]
    )
