"""Layers, freezing and training on every device that is here: a GPU computes what the processor does."""

import copy

import pytest
import torch

from flgc_lib.clustered import ClusteredConv2d
from flgc_lib.experiment.records import processor_name
from flgc_lib.experiment.runs import run
from flgc_lib.experiment.training import Classifier, fit
from flgc_lib.frozen import freeze
from flgc_lib.frozen.exact import without_tf32
from flgc_lib.methods import METHODS, method_layer

HAS_SHARE = ("select", "select-random", "budget", "budget-random")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=cuda)])
def device(request):
    """Each device; a GPU multiplies in float32 as the processor does, not in TF32."""
    with without_tf32():
        yield torch.device(request.param)


def layer_of(method, seed=0):
    """A layer of 16 channels and filters in 4 groups, 3×3."""
    torch.manual_seed(seed)
    return method_layer(method, 4, share=1.5 if method in HAS_SHARE else 1.0)(16, 16, 3, 1, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_computes_the_same_in_double_precision_forward_and_backward(method, device):
    x = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(1))
    found, expected = layer_of(method).to(device), layer_of(method).double()
    if isinstance(found, ClusteredConv2d):
        found.regroup()
        expected.regroup()
    for softness in (0.0, 0.5) if METHODS[method].masked else (0.0,):
        for layer in (found, expected):
            layer.softness = softness
            layer.zero_grad()
        out, exact = found(x.to(device)), expected(x.double())
        assert out.device.type == device.type
        assert torch.allclose(out.cpu().double(), exact, atol=1e-4)
        out.square().sum().backward()
        exact.square().sum().backward()
        for (name, mine), theirs in zip(found.named_parameters(), expected.parameters(), strict=True):
            if theirs.grad is not None:
                assert torch.allclose(mine.grad.cpu().double(), theirs.grad, rtol=1e-3, atol=1e-3), name


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_is_built_without_memory(method):
    """As large networks are before their weights come from a file: on the device "meta", by shape alone."""
    with torch.device("meta"):
        layer = layer_of(method)
        assert {t.device.type for t in [*layer.parameters(), *layer.buffers()]} == {"meta"}
        assert layer(torch.randn(2, 16, 8, 8)).shape == (2, 16, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize("method", ["flgc-dup", "equal", "shuffle"])
def test_a_frozen_network_computes_the_same(method, device, tiny):
    torch.manual_seed(0)
    settings = tiny(method=method, groups=4, where="all", depths=(1, 1), width=1 / 4)
    model = settings.network(10).eval().to(device)
    x = torch.randn(3, 3, 32, 32).to(device)
    frozen = freeze(model, x)
    assert torch.allclose(frozen(x), model(x), rtol=1e-3, atol=1e-4)
    assert frozen(x).device.type == device.type


@cuda
@pytest.mark.parametrize("method", ["grouped", "flgc-dup", "flgc-randdup", "select", "cluster-dup", "budget"])
def test_cuda_graphs_train_as_launching_every_operation_does(method, tiny, images, tmp_path, monkeypatch):
    soft = {} if method in ("grouped", "flgc-dup") else {"soft_start": 0.7}
    share = {"share": 1.5} if method in HAS_SHARE else {}
    settings = tiny(method=method, groups=4, width=1 / 4, epochs=4, precision="bf16", **soft, **share)
    graphed = fit(settings, images, tmp_path / "graphed", device="cuda", progress=False)
    monkeypatch.setattr(Classifier, "on_train_start", lambda self: None)
    launched = fit(settings, images, tmp_path / "launched", device="cuda", progress=False)
    for one, other in zip(graphed.history, launched.history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    for one, other in zip(graphed.model.state_dict().items(), launched.model.state_dict().items(), strict=True):
        assert torch.equal(one[1], other[1]), one[0]
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(copy.deepcopy(graphed.model)(images), launched.model(images))


@cuda
@torch.no_grad()
@pytest.mark.parametrize("given", [True, False])
def test_freezing_does_not_depend_on_tf32(given, tiny):
    """PyTorch's convolutions on a GPU round to TF32 unless they are told not to."""
    torch.manual_seed(0)
    model = tiny(method="flgc-dup", groups=4, where="all", depths=(1, 1), width=1 / 4).network(10).cuda()
    x = torch.randn(4, 3, 32, 32, device="cuda")
    for _ in range(3):
        model(x)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        frozen = freeze(model, x if given else None)
        assert torch.backends.cudnn.allow_tf32
        assert torch.allclose(frozen(x), model.eval()(x), rtol=1e-2, atol=1e-2)
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("allowed", ["by name", "by precision", "for all"])
def test_tf32_is_off_while_networks_are_compared_and_then_as_it_was(allowed, monkeypatch):
    """PyTorch has three ways to allow it, two of which fail where another one is in use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # the switches are there without a GPU
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, torch.backends.fp32_precision
    try:
        if allowed == "by name":
            torch.set_float32_matmul_precision("medium")
        elif allowed == "by precision":
            matmul.fp32_precision = "tf32"
        else:
            torch.backends.fp32_precision = "tf32"
        chosen = matmul.fp32_precision, conv.fp32_precision
        assert "tf32" in chosen
        with without_tf32():
            assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
        assert (matmul.fp32_precision, conv.fp32_precision) == chosen
        if allowed == "by name":
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
        matmul.fp32_precision, torch.backends.fp32_precision = before


@pytest.mark.parametrize("method", ["flgc-dup", "cluster"])
def test_a_run_is_trained_and_recorded(method, device, tiny, root, tmp_path):
    soft = {"soft_start": 0.5} if method == "cluster" else {}
    row = run(tiny(method=method, epochs=2, **soft), results=tmp_path, root=root, device=device.type)
    assert 0 <= row["test_accuracy"] <= 1
    expected = torch.cuda.get_device_name() if device.type == "cuda" else processor_name(torch.device("cpu"))
    assert row["processor"] == expected
