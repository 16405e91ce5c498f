"""A file from a stranger, and odd inputs: an answer or a sentence, never a signal and never foreign memory.

The kernel checks nothing, for speed. Here a twin of it in NumPy takes its place, which reads the kernel's own tables
and looks at every index before it uses it.
"""

import json
import pickle
import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_forms import assert_same
from torch import nn

from flgc_lib.frozen import freeze, load, save
from flgc_lib.frozen.chain import Chain
from flgc_lib.frozen.convert import from_convolution
from flgc_lib.frozen.layer import FrozenConv2d, frozen_convolutions
from flgc_lib.frozen.plan import describe, rebuild
from flgc_lib.frozen.saving import KEY
from flgc_lib.layers import FLGConv2d

indirect = pytest.importorskip("flgc_lib.frozen.kernel.indirect", reason="pip install -e '.[fast]'")
shapes = pytest.importorskip("flgc_lib.frozen.kernel.shapes", reason="pip install -e '.[fast]'")

BF16 = pytest.param("bf16", marks=pytest.mark.skipif(not shapes.BF16, reason="this processor has no bf16"))
FORMS = ["indirect", BF16]
TOLERANCE = {"indirect": 1e-4, "bf16": 2e-2}

X = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Strides, a residual sum, ReLUs, groups, pooling, a linear layer."""

    def __init__(self):
        super().__init__()
        self.a = FLGConv2d(3, 8, 3, groups=2, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.b = FLGConv2d(8, 8, 1, groups=3, bias=True, duplicate_top_k=1)
        self.c = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.d = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.a(x)))
        x = torch.relu(self.b(x) + x)
        return self.d(torch.relu(self.c(x)).mean((2, 3)))


class Checked:
    """The kernel's twin for one call."""

    def __init__(self, layer, schedule):
        self.layer = layer
        self.tasks, self.walk, self.offsets, self.out_offsets, self.channels = schedule.kept
        self.scratch_size = schedule.scratch_size

    def image(self, x, out, residual):
        """Computes one image, all arrays flat."""
        self.written = np.zeros(out.size, bool)
        for task, channels in zip(self.tasks, self.channels, strict=True):
            sources = [x]
            if self.layer.bf16:
                places = [(channels["plane"], channels[half]) for half in ("first", "second")]
                sources = [self.packed(task, planes, read, rounded(x)) for planes, read in places]
            elif self.scratch_size:
                sources = [self.packed(task, channels, channels, x)]
            tiles = self.walk.tiles
            for unit in range(task["first"], task["last"]):
                block = self.layer.blocks[unit % len(self.layer.blocks)]
                start = unit // len(self.layer.blocks) * task["chunk"]
                for place in tiles[start : start + task["chunk"]]:
                    self.tile(task, block, place, sources, out, residual)
        assert self.written.all(), "the kernel would return memory as it found it"

    def packed(self, task, planes, channels, x):
        scratch = np.full(self.scratch_size, np.nan, np.float32)
        views = self.walk.views
        i, j = np.ogrid[: task["rows"], : task["pitch"]]
        for number, channel in zip(planes, channels, strict=True):
            for v, view in enumerate(views):
                y, z = np.broadcast_arrays(i * task["down"] + view["top"], j * task["right"] + view["left"])
                inside = (view["upper"] <= i) & (i < view["lower"]) & (view["begin"] <= j) & (j < view["end"])
                assert ((0 <= y) & (y < task["height"]) & (0 <= z) & (z < task["width"]))[inside].all()
                plane = np.zeros(inside.shape, np.float32)
                plane[inside] = look_up(x, (channel * task["height"] + y[inside]) * task["width"] + z[inside])
                write(scratch, (number * len(views) + v) * plane.size + np.arange(plane.size), plane.ravel())
        return scratch

    def tile(self, task, block, place, sources, out, residual):
        shape = shapes.SHAPES[place["shape"]]
        lanes = np.arange(shape.lanes)
        targets = (place["out_pixel"] + np.arange(shape.vectors)[:, None] * shape.lanes + lanes).ravel()
        filters, depth = np.arange(block["filters"]), np.arange(block["depth"])
        taps = look_up(self.offsets, block["offset"] + depth)
        weight = look_up(self.layer.weight, block["weight"] + depth[:, None] * block["filters"] + filters)
        total = look_up(self.layer.bias, block["filter"] + filters)[:, None]
        halves = [weight << 16, weight & -(2**16)] if self.layer.bf16 else [weight]
        for source, half in zip(sources, halves, strict=True):
            columns = []
            for v, left in zip(range(shape.vectors), (place["left"], place["second_left"]), strict=False):
                width = shape.lanes if shape.rows < shapes.QUARTERS else task["wide"]
                down = task["gap"] + (task["wide"] if shape.rows == shapes.QUARTERS else 0)
                starts = place["pixel"] + v * place["step"] + np.arange(shape.rows) * down
                rows = look_up(source, taps[:, None, None] + starts[:, None] + np.arange(width))  # it reads it all
                row = sum(lanes >= left + r * task["wide"] for r in range(shape.rows - 1)) + np.zeros_like(lanes)
                columns.append(rows[:, row, lanes % width])
            total = total + half.view(np.float32).T @ np.hstack(columns)
        places = look_up(self.out_offsets, block["filter"] + filters)[:, None] + targets
        total = total if residual is None else total + look_up(residual, places)
        write(out, places, np.maximum(total, 0) if task["relu"] else total)
        self.written[places] = True


def rounded(x):
    return torch.from_numpy(x).bfloat16().float().numpy()


def look_up(array, index):
    assert index.size == 0 or (0 <= index.min() and index.max() < array.size), "the kernel would read out of bounds"
    return array.ravel()[index]


def write(array, index, values):
    assert index.size == 0 or (0 <= index.min() and index.max() < array.size), "the kernel would write out of bounds"
    array[index] = values


@pytest.fixture
def checked(monkeypatch):
    """Lets every frozen layer compute by the kernel's twin."""

    def call(self, x, residual=None):
        x = x.contiguous().numpy()
        schedule = self.schedule(*x.shape[2:], split=2)
        out = np.full((len(x), self.outputs.size, *schedule.out_size), np.nan, np.float32)
        added = [None] * len(x) if residual is None else residual.contiguous().numpy().reshape(len(x), -1)
        twin = Checked(self, schedule)
        for image, target, more in zip(x, out, added, strict=True):
            twin.image(image.ravel(), target.reshape(-1), more)
        return torch.from_numpy(out)

    monkeypatch.setattr(indirect.IndirectConvolution, "__call__", call)
    monkeypatch.setattr(Chain, "_may_run", lambda self, inputs: False)


@pytest.fixture(scope="module", params=FORMS)
def file(request, tmp_path_factory):
    """A saved network that computes in a form of the kernel, its tensors and its plan."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("files") / "frozen"
    model = Net().eval()
    frozen = freeze(model, X, tune=False)
    for _, layer in frozen_convolutions(frozen):
        layer.use(request.param)
    save(frozen, path)
    with safe_open(path, "pt") as content:
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        return path, tensors, json.loads(content.metadata()[KEY]), model


@torch.no_grad()
def test_the_twin_computes_what_the_kernel_computes(file, request):
    path, _, _, model = file
    frozen = load(path)
    (form,) = {layer.form for _, layer in frozen_convolutions(frozen)}
    by_the_kernel = frozen(X)
    request.getfixturevalue("checked")
    assert_same(frozen(X), by_the_kernel, 1e-2 if form == "bf16" else 1e-5)  # a map may be rounded the other way
    assert_same(frozen(X), model(X), TOLERANCE[form])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [*range(1, 10), 14, 17, 28, 33])
def test_maps_of_any_width_are_read_within_their_bounds(width, stride, form, checked):
    """Vectors are put together across the ends of rows: the twin sees all that is read for that."""
    for kernel, padding in ((3, 1), (1, 0), (5, 0)):
        layer = nn.Conv2d(2, 9, kernel, stride, padding)
        x = torch.randn(1, 2, 7, width + kernel - 1)
        with torch.no_grad():
            assert_same(from_convolution(layer).use(form)(x), layer(x), TOLERANCE[form])


def test_the_twin_sees_an_index_out_of_bounds(file, checked):
    layer = frozen_convolutions(load(file[0]))[0][1]
    convolution = indirect.IndirectConvolution(
        layer.plan.window,
        [part.weight for part in layer.parts()],
        [part.inputs for part in layer.parts()],
        layer.outputs + 1,
        layer.bias,
        layer.plan.in_channels,
        relu=False,
        bf16=layer.form == "bf16",
    )
    with pytest.raises(AssertionError, match="out of bounds"):
        convolution(X)


ODD = [
    -1,
    0,
    1,
    2,
    3,
    7,
    255,
    2**31 - 1,
    2**31,
    -(2**31),
    2**63,
    10**30,
    0.5,
    float("nan"),
    None,
    True,
    "",
    "a",
    "self",
]
ODD += [
    "__class__",
    "x=__import__('os').system('exit 3')",
    "a.b.c",
    "aten.set_.source_Tensor",
    "aten.as_strided.default",
]
ODD += ["torch.load", "aten.from_file.default", "output", "input0", [], {}, [1, 2], {"node": "input0"}, {"tuple": [1]}]


def leaves(value, path=()):
    """Where in JSON something stands: paths of keys."""
    yield path
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from leaves(part, (*path, key))


def with_changed_plan(draw, plan):
    plan = json.loads(json.dumps(plan))
    for _ in range(draw.choice([1, 1, 2])):
        *parents, last = draw.choice([path for path in leaves(plan) if path])
        home = plan
        for key in parents:
            home = home[key]
        kind = draw.random()
        if kind < 0.1 and isinstance(home, dict):
            home[draw.choice(["relu", "weight", "x=1", "form"])] = home.pop(last)
        elif kind < 0.2:
            del home[last]
        elif kind < 0.4 and isinstance(home[last], int):
            home[last] += draw.choice([-1, 1, 2, 1000])
        else:
            home[last] = draw.choice(ODD)
    return plan


def with_changed_tensors(draw, tensors):
    tensors = {name: value.clone() for name, value in tensors.items()}
    name = draw.choice([n for n in sorted(tensors) if draw.random() < 0.3 or n.endswith(("inputs", "outputs"))])
    value = tensors[name]
    kind = draw.random()
    if kind < 0.6 and value.numel():
        value.view(-1)[draw.randrange(value.numel())] = draw.choice([-1, 3, 8, 255, 70_000, 2**31 - 1, -(2**31)])
    elif kind < 0.7:
        tensors[name] = value.to(draw.choice([torch.int64, torch.float64, torch.int8, torch.bool]))
    elif kind < 0.8:
        tensors[name] = torch.cat([value.flatten()] * 2)
    elif kind < 0.9:
        tensors[name] = value.flatten()[: value.numel() // 2].clone()
    else:
        del tensors[name]
    return tensors


def mutated(draw, file):
    """The bytes of a file that somebody has changed at random."""
    path, tensors, plan, _ = file
    kind = draw.random()
    if kind < 0.2:
        data = bytearray(path.read_bytes())
        for _ in range(draw.choice([1, 3, 20])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        return bytes(data[: draw.randrange(len(data))] if draw.random() < 0.2 else data)
    tensors = with_changed_tensors(draw, tensors) if kind < 0.5 else tensors
    plan = with_changed_plan(draw, plan) if kind >= 0.45 else plan
    other = path.with_name("other")
    save_file(tensors, other, {KEY: json.dumps(plan)})
    return other.read_bytes()


@torch.no_grad()
def test_five_hundred_changed_files_give_an_answer_or_a_sentence(file, checked, tmp_path):
    draw = random.Random(0)
    answers, sentences = 0, set()
    for _ in range(500):
        path = tmp_path / "changed"
        path.write_bytes(mutated(draw, file))
        try:
            frozen = load(path)
        except ValueError as error:
            sentences.add("is not a frozen network, or not as it was saved" in str(error))
            continue
        try:
            frozen(X)
            answers += 1
        except (ValueError, RuntimeError, TypeError, IndexError, AttributeError):
            continue  # PyTorch's own sentence about the operation
    assert 20 < answers < 480
    assert sentences == {True}


def test_a_file_that_says_what_a_layer_may_overwrite_is_read(file, tmp_path):
    path, tensors, plan, _ = file
    plan = json.loads(json.dumps(plan))
    for layer in plan["plan"]["layers"].values():
        layer["overwrite"] = True
    save_file(tensors, tmp_path / "older", {KEY: json.dumps(plan)})
    assert torch.equal(load(tmp_path / "older")(X), load(path)(X))


@pytest.mark.parametrize(
    "target", ["aten.set_.source_Tensor", "aten.as_strided.default", "aten.ad.default", "torch.load", "os.system"]
)
def test_an_operation_that_reaches_further_is_refused(file, tmp_path, target):
    _, tensors, plan, _ = file
    plan = json.loads(json.dumps(plan))
    step = next(step for step in plan["plan"]["steps"] if step[1] == "call_function")
    step[2] = target
    save_file(tensors, tmp_path / "changed", {KEY: json.dumps(plan)})
    with pytest.raises(ValueError, match="not one of the operations"):
        load(tmp_path / "changed")


def one_step(operation, *args):
    """A plan that gives its input, and what else there is, to an operation."""
    steps = [
        ["x", "placeholder", "x", {"tuple": []}, {"dict": {}}],
        ["y", "call_function", operation, {"tuple": [{"node": "x"}, *args]}, {"dict": {}}],
        ["output", "output", "output", {"tuple": [{"node": "y"}]}, {"dict": {}}],
    ]
    return {"steps": steps, "layers": {}, "parameters": []}


@pytest.mark.parametrize(
    ("operation", "args"),
    [
        ("aten.native_batch_norm.default", [None, None, None, None, True, 0.1, 1e-5]),
        ("aten._weight_norm.default", [{"node": "x"}, 0]),
        ("aten.gru.data", [{"node": "x"}, {"node": "x"}, [], True, 1, 0.0, False, False]),
        ("aten._upsample_bilinear2d_aa.default", [[3, 3], False, 5e-8, 5e-8]),
        ("aten.upsample_trilinear3d.default", [[3, 3, 3], False, None, None, 1e-300]),
        ("aten.upsample_nearest2d.vec", [None, [2.0, float("nan")]]),
        ("aten.grid_sampler.default", [{"node": "x"}, 7, 0, False]),
    ],
)
def test_what_pytorch_believes_and_reads_elsewhere_for_is_refused(operation, args):
    with pytest.raises(ValueError, match=r"not one of the operations|is not what .* of a network is given"):
        rebuild(one_step(operation, *args), {}, 1)


def test_what_a_network_gives_to_the_same_operations_is_read():
    enlarge = rebuild(one_step("aten.upsample_nearest2d.vec", None, [2.0, 2.0]), {}, 1)
    assert torch.equal(enlarge(X), nn.functional.interpolate(X, scale_factor=2.0))
    name = "aten._native_batch_norm_legit_no_training.default"
    norm = rebuild(one_step(name, *[{"node": "x"}] * 4, 0.1, 1e-5), {}, 1)
    for twin in (norm, pickle.loads(pickle.dumps(norm))):
        assert describe(twin)["steps"][1][2] == name
        with pytest.raises(RuntimeError, match="should contain 3 elements"):
            twin(X)


@torch.no_grad()
@pytest.mark.parametrize("name", ["conv-1", "畳み込み", "device", "a/b 2"])
def test_a_layer_of_any_name_is_saved(name, tmp_path):
    model = nn.Sequential(OrderedDict({name: nn.Conv2d(3, 4, 1), f"{name} too": nn.Linear(7, 2)})).eval()
    save(freeze(model, X, tune=False), tmp_path / "frozen 1")
    assert_same(load(tmp_path / "frozen 1")(X), model(X))


class Last(nn.Module):
    """A convolution, and what a test has follow it."""

    def __init__(self, follows):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.follows = follows

    def forward(self, x):
        return self.follows(self.a(x))


COMPLEX = torch.ones(7, dtype=torch.complex128)


@pytest.mark.parametrize("follows", [lambda y: y.long() * 10**10, lambda y: (y * COMPLEX).abs()])
def test_what_could_not_be_read_again_is_not_written(follows, tmp_path):
    frozen = freeze(Last(follows).eval(), X, tune=False)
    with pytest.raises(ValueError, match="this network cannot be in a file"):
        save(frozen, tmp_path / "frozen")
    assert not list(tmp_path.iterdir())


def nested(depth):
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("change", "value"),
    [("milliseconds", "1" * 400), ("arguments", nested(250)), ("macs", ["1", "2"]), ("macs", 5), ("seconds", [])],
    ids=["milliseconds", "arguments", "macs that are texts", "macs that are no pair", "no seconds"],
)
def test_what_no_network_has_gets_a_sentence(file, tmp_path, change, value):
    _, tensors, plan, _ = file
    plan = json.loads(json.dumps(plan))
    if change == "milliseconds":
        plan["timings"] = [{"name": "a", "chosen": "dense", "milliseconds": {"dense": int(value)}}]
    elif change == "arguments":
        next(step for step in plan["plan"]["steps"] if step[1] == "call_function")[3]["tuple"].append(value)
    else:
        plan["report"][change] = value
    save_file(tensors, tmp_path / "changed", {KEY: json.dumps(plan)})
    with pytest.raises(ValueError, match="is not a frozen network, or not as it was saved"):
        load(tmp_path / "changed")


CODE = "x=__import__('pathlib').Path('ran').touch()"


@pytest.mark.parametrize("place", ["placeholder", "name", "keyword", "layer", "guard"])
def test_code_in_a_name_does_not_run(file, tmp_path, place, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, tensors, plan, _ = file
    plan = json.loads(json.dumps(plan))
    steps = plan["plan"]["steps"]
    if place in ("placeholder", "name"):
        steps[0][2 if place == "placeholder" else 0] = CODE
    elif place == "keyword":
        next(step for step in steps if step[1] == "call_function")[4] = {"dict": {CODE: 1}}
    elif place == "layer":
        plan["plan"]["layers"][CODE] = plan["plan"]["layers"].pop("a")
        next(step for step in steps if step[2] == "a")[2] = CODE
        tensors = {name.replace("a.", f"{CODE}.") if name.startswith("a.") else name: t for name, t in tensors.items()}
    else:
        plan["guards"] = [CODE.partition("=")[2]]
    save_file(tensors, tmp_path / "changed", {KEY: json.dumps(plan)})
    with pytest.raises(ValueError, match="is not a frozen network"):
        load(tmp_path / "changed")
    assert not (tmp_path / "ran").exists()


class Own(torch.Tensor):
    """A tensor of a class that PyTorch does not know."""


def odd_inputs():
    """Name and input, for a layer of 8 channels with a 3×3 window."""
    x = torch.randn(2, 8, 9, 7)
    wide = torch.randn(2, 16, 18, 14)
    return {
        "no image": x[:0],
        "no channel": x[:, :0],
        "no row": x[:, :, :0],
        "no column": x[..., :0],
        "smaller than the window": x[:, :, :2],
        "just the window": x[:, :, :3, :3],
        "one pixel": x[..., :1, :1],
        "one image without a batch": x[0],
        "one channel": x[0, 0],
        "one number": x[0, 0, 0, 0],
        "five dimensions": x[None],
        "more channels": wide[..., :9, :7],
        "fewer channels": x[:, :7],
        "every other channel": wide[:, ::2, :9, :7],
        "every other pixel": wide[:, :8, ::2, ::2],
        "transposed": x.transpose(2, 3),
        "channels last": x.to(memory_format=torch.channels_last),
        "one image many times": x[:1].expand(5, -1, -1, -1),
        "one channel many times": x[:, :1].expand(-1, 8, -1, -1),
        "a window of windows": x.unfold(2, 4, 1)[:, :, 0],
        "the end of a larger tensor": torch.randn(2 * 8 * 9 * 7 + 5)[5:].view(2, 8, 9, 7),
        "conjugate": torch.complex(x, x).conj().real,
        "double": x.double(),
        "half": x.half(),
        "bfloat16": x.bfloat16(),
        "whole numbers": x.int(),
        "yes and no": x > 0,
        "complex": torch.complex(x, x),
        "not a number": x.masked_fill(x > 1, torch.nan),
        "infinite": x.masked_fill(x > 1, torch.inf),
        "that wants a gradient": x.clone().requires_grad_(),
        "of another class": x.as_subclass(Own),
        "without values": x.to("meta"),
        "sparse": x.to_sparse(),
        "a list": x.tolist(),
        "NumPy's": x.numpy(),
        "nothing": None,
        "a name": "x",
    }


ORDINARY = {"every other pixel", "transposed", "channels last", "one image many times", "a window of windows"}
"""However it lies in memory, it is a batch of images: an error is no answer."""


@pytest.mark.parametrize("name", odd_inputs())
def test_an_odd_input_gets_the_answer_of_the_convolution_or_an_error(name, checked):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3, groups=2)
    x = odd_inputs()[name]
    frozen = freeze(nn.Sequential(conv), torch.randn(2, 8, 9, 7), tune=False)
    (layer,) = (m for m in frozen.modules() if isinstance(m, FrozenConv2d))
    layer.use("indirect")
    for network in (layer, frozen):
        try:
            found = network(x)
        except AssertionError:
            raise
        except Exception:
            assert name not in ORDINARY
            continue
        expected = conv(x)
        assert found.shape == expected.shape
        if not expected.is_meta:
            assert torch.allclose(found.float(), expected.float(), rtol=1e-3, atol=1e-4, equal_nan=True)


def test_a_map_that_the_kernel_cannot_index_is_refused():
    computation = from_convolution(nn.Conv2d(40_000, 1, 1)).use("indirect").computation()
    computation.schedule(16, 16, 1)
    with pytest.raises(
        ValueError, match=r"a map of 65536 pixels needs 2621440000 numbers an image, more than the kernel"
    ):
        computation.schedule(256, 256, 1)


@pytest.mark.parametrize("shape", [(2, 6, 7, 4), (2, 6, 1, 1), (1, 6, 7, 5), (6, 7, 5), (2, 5, 7, 5), (2, 6, 7, 5, 1)])
def test_a_residual_of_another_size_gets_the_answer_of_a_sum_or_an_error(shape, checked):
    torch.manual_seed(0)
    conv, x, residual = nn.Conv2d(8, 6, 3), torch.randn(2, 8, 9, 7), torch.randn(shape)
    layer = next(m for m in freeze(nn.Sequential(conv), x, tune=False).modules() if isinstance(m, FrozenConv2d))
    try:
        expected = conv(x) + residual
    except RuntimeError:
        with pytest.raises(RuntimeError):
            layer.use("indirect")(x, residual)
    else:
        torch.testing.assert_close(layer.use("indirect")(x, residual), expected, rtol=1e-3, atol=1e-4)
