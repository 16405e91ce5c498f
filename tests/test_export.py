"""A frozen network computes the same elsewhere."""

import pytest
import torch
from torch import nn

from flgc_lib.clustered import ClusteredConv2d
from flgc_lib.frozen import engines, freeze
from flgc_lib.frozen.export import export, export_onnx
from flgc_lib.frozen.portable import PortableConv2d, portable
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import resnet

EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NETWORKS = [
    ("dense", {}),
    ("grouped", {}),
    ("shuffle", {}),
    ("equal", {}),
    ("flgc-dup", {}),
    ("flgc", {"depthwise": True}),
    ("cluster", {}),
    ("select", {"share": 1.5}),
    ("budget", {"share": 1.5}),
]


def network(method, **options):
    """A small ResNet whose norms have been trained, as far as freezing can tell, and whose groups have been found."""
    torch.manual_seed(0)
    model = resnet((1, 1), 10, stem="paper", method=method, groups=8, where="all", width=0.5, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, ClusteredConv2d):
            module.regroup()
    return model


def convolutions(model):
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


def gathers(model):
    """Constant indices by which a network moves channels."""
    return sum(len(dict(m.named_buffers(recurse=False))) for m in model.modules() if isinstance(m, PortableConv2d))


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def frozen():
    return freeze(network("flgc-dup"))


@torch.no_grad()
@pytest.mark.parametrize("gather_cost", [0, 50, 1e6])
@pytest.mark.parametrize(("method", "options"), NETWORKS)
def test_the_same_in_ordinary_operations(method, options, gather_cost):
    model = network(method, **options)
    found = portable(freeze(model), EXAMPLE, gather_cost=gather_cost)
    assert close(found(EXAMPLE), model(EXAMPLE))


@torch.no_grad()
@pytest.mark.parametrize("method", ["equal", "cluster", "select", "budget"])
def test_equal_groups_are_one_convolution_a_layer(method):
    model = network(method, **({"share": 1.5} if method == "budget" else {}))
    found = portable(freeze(model), EXAMPLE, gather_cost=0)
    learned = sum(isinstance(m, FLGConv2d) for m in model.modules())
    assert sum(c.groups == 8 for c in convolutions(found)) == learned
    assert len(convolutions(found)) == learned + 1  # the stem
    # A block's three layers gather once each, and put in order what the sum reads: the last layer and the projection.
    assert gathers(found) == 2 * (3 + 1 + 2)


@torch.no_grad()
def test_no_gather_where_nothing_has_to_move():
    assert gathers(portable(freeze(network("grouped")), EXAMPLE, gather_cost=0)) == 0


@torch.no_grad()
def test_a_dense_layer_writes_what_its_reader_takes():
    """Where moving is dear, a pointwise layer is dense, and writes twice what two groups of the next layer read."""
    found = portable(freeze(network("budget", share=1.5)), EXAMPLE, gather_cost=20)
    assert gathers(found) < 2 * (3 + 1 + 2)
    shapes = [(c.in_channels, c.out_channels, c.groups) for c in convolutions(found)]
    first = shapes.index((32, 48, 1))
    assert shapes[first + 1] == (48, 32, 8)


@torch.no_grad()
def test_unequal_groups_lie_in_buckets():
    """Fewer multiplications by zero than with all groups padded to the largest."""
    torch.manual_seed(0)
    layer = FLGConv2d(64, 64, 1, groups=4)
    sizes = torch.tensor([40, 20, 3, 1])
    for logits in (layer.input_logits, layer.filter_logits):
        logits.copy_(nn.functional.one_hot(torch.arange(4).repeat_interleave(sizes), 4)[torch.randperm(64)])
    x = torch.randn(1, 64, 8, 8)
    found = portable(freeze(layer), x, gather_cost=0)
    assert close(found(x), layer(x))
    assert len(convolutions(found)) > 1
    assert sum(c.weight.numel() for c in convolutions(found)) < 4 * 40 * 40
    (alone,) = convolutions(portable(freeze(layer), x, gather_cost=1e6))
    assert alone.groups == 1


@torch.no_grad()
def test_torch_export(frozen):
    program = export(frozen, EXAMPLE).module()
    for x in (EXAMPLE, EXAMPLE.repeat(2, 1, 1, 1)):
        assert close(program(x), frozen(x))


class Net(nn.Module):
    """Three learned convolutions, and a forward that a test brings along."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.c = (FLGConv2d(n, 8, 3, groups=3, padding=1) for n in (3, 8, 8))
        self.how = forward

    def forward(self, x):
        return self.how(self, x)


def behind_itself(m, x):
    return m.b(m.b(m.a(x)))


def behind_two_others(m, x):
    y = m.a(x)
    return m.c(m.b(y)), m.c(y)


def before_two_others(m, x):
    return m.b(m.a(x)) + m.c(m.a(x.flip(2)))


def one_for_all_scales(m, x):
    y = m.a(x)
    return m.b(y), m.b(m.c(nn.functional.max_pool2d(y, 2)))


@torch.no_grad()
@pytest.mark.parametrize("forward", [behind_itself, behind_two_others, before_two_others, one_for_all_scales])
def test_a_layer_that_is_called_twice(forward):
    torch.manual_seed(0)
    model = Net(forward).eval()
    program = export(freeze(model, EXAMPLE, tune=False), EXAMPLE).module()
    for a, b in zip(program(EXAMPLE), model(EXAMPLE), strict=True):
        assert close(a, b)


def test_what_computes_something_else_is_refused():
    def asks(m, x):
        return m.a(x) if x.mean() > 1e9 else m.a(x) * m.a.kernel_size[0]

    frozen = freeze(Net(asks), EXAMPLE, tune=False)
    with pytest.raises(ValueError, match="no attribute 'kernel_size': this network can only be used as it was frozen"):
        portable(frozen, EXAMPLE, gather_cost=0)


@torch.no_grad()
def test_onnx(frozen, tmp_path):
    pytest.importorskip("onnxscript", reason="pip install -e '.[export]'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -e '.[export]'")
    export_onnx(frozen, EXAMPLE, tmp_path / "frozen.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "frozen.onnx", providers=["CPUExecutionProvider"])
    for x in (EXAMPLE, EXAMPLE.repeat(2, 1, 1, 1)):
        (output,) = session.run(None, {"input": x.numpy()})
        assert close(torch.from_numpy(output), frozen(x))


@torch.no_grad()
@pytest.mark.parametrize(
    ("engine", "precision", "error"),
    [("onnx", "fp32", 1e-4), ("onnx", "int8", 0.1), ("openvino", "fp32", 1e-3), ("openvino", "bf16", 0.1),
     ("openvino", "int8", 0.1)],
)  # fmt: skip
def test_engines(engine, precision, error, tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install -e '.[engines]'")
    pytest.importorskip("onnxscript", reason="pip install -e '.[engines]'")
    if engine == "openvino":
        pytest.importorskip("openvino", reason="pip install -e '.[engines]'")
    frozen = freeze(network("cluster"))
    path = tmp_path / ("net.onnx" if engine == "onnx" else "net.xml")
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    engines.Exporter(frozen, EXAMPLE, calibration=images, tune=False).write(path, engine, precision)
    run = engines.load(path, EXAMPLE.shape)
    expected = frozen(EXAMPLE)
    difference = float((run(EXAMPLE) - expected).norm() / expected.norm())
    assert difference < error
    if precision == "int8":
        assert difference > 1e-3  # it has been rounded


def test_the_fastest_form_is_written(frozen, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="pip install -e '.[engines]'")
    onnx = pytest.importorskip("onnx", reason="pip install -e '.[engines]'")
    monkeypatch.setattr(engines, "medians", lambda runs: {name: -float(name) for name in runs})
    monkeypatch.setattr(engines, "GATHER_COSTS", (0.0, 1e9))
    cost = engines.Exporter(frozen, EXAMPLE[:1]).write(tmp_path / "net.onnx", "onnx")
    assert cost == 1e9
    nodes = onnx.load(tmp_path / "net.onnx").graph.node
    assert not any(node.op_type == "Gather" for node in nodes), "at this price every layer is dense"
    expected = frozen(EXAMPLE)
    assert close(engines.load(tmp_path / "net.onnx", EXAMPLE.shape)(EXAMPLE), expected)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("net.onnx", {"engine": "tensorrt"}, "must be one of"),
        ("net.xml", {"engine": "onnx"}, "must end in .onnx"),
        ("net.onnx", {"engine": "onnx", "precision": "bf16"}, "no convolutions in bf16"),
        ("net.onnx", {"engine": "onnx", "precision": "int8"}, "give calibration"),
    ],
)
def test_refuses(frozen, tmp_path, name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        engines.Exporter(frozen, EXAMPLE, tune=False).write(tmp_path / name, **options)
