"""A frozen network computes the same elsewhere."""

import pytest
import torch

from flgc_lib.frozen import freeze
from flgc_lib.frozen.export import export, export_onnx
from flgc_lib.frozen.layer import frozen_convolutions
from flgc_lib.resnet import resnet

EXAMPLE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["equal", "loop"])
def frozen(request):
    torch.manual_seed(0)
    frozen = freeze(resnet((1, 1), 10, stem="paper", method="flgc-dup", groups=8, where="all", width=0.5).eval())
    for _, layer in frozen_convolutions(frozen):
        layer.use(request.param)
    return frozen


@torch.no_grad()
def test_torch_export(frozen):
    program = export(frozen, EXAMPLE).module()
    for x in (EXAMPLE, EXAMPLE.repeat(2, 1, 1, 1)):
        assert torch.allclose(program(x), frozen(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_onnx(frozen, tmp_path):
    pytest.importorskip("onnxscript", reason="pip install 'flgc-lib[export]'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'flgc-lib[export]'")
    export_onnx(frozen, EXAMPLE, tmp_path / "frozen.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "frozen.onnx", providers=["CPUExecutionProvider"])
    for x in (EXAMPLE, EXAMPLE.repeat(2, 1, 1, 1)):
        (output,) = session.run(None, {"input": x.numpy()})
        assert torch.allclose(torch.from_numpy(output), frozen(x), rtol=1e-4, atol=1e-5)
