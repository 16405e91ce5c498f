"""Max pooling in a frozen network is PyTorch's own, only faster."""

import pytest
import torch
from torch import nn

from flgc_lib.frozen import freeze, load, save
from flgc_lib.frozen.pooling import max_pool2d

WINDOWS = [([3, 3], [2, 2], [1, 1]), ([2, 2],), ([3, 2], [1, 2], [1, 0], [2, 1], True)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("channels", [3, 8, 20])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_pytorch_s_to_the_last_bit(window, channels, layout):
    x = torch.randn(2, channels, 13, 10).contiguous(memory_format=layout)
    x[0, 0, 5, 5], x[1, 1, 0, 0] = float("nan"), float("-inf")
    expected = torch.ops.aten.max_pool2d.default(x, *window)
    pooled = max_pool2d(x, *window)
    assert torch.equal(pooled.nan_to_num(9), expected.nan_to_num(9))
    assert pooled.stride() == expected.stride()


def test_frozen_networks_use_it_also_from_a_file(tmp_path):
    x = torch.randn(2, 3, 12, 12)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(16, 4, 1)).eval()
    frozen = freeze(model, x)
    save(frozen, tmp_path / "file")
    for network in (frozen, load(tmp_path / "file")):
        assert network.network.graph.find_nodes(op="call_function", target=max_pool2d)
        assert (network(x) - model(x)).abs().max() < 1e-5


def test_a_gradient_reaches_the_input():
    x = torch.randn(1, 9, 6, 6, requires_grad=True)
    (one,) = torch.autograd.grad(max_pool2d(x, [2, 2]).square().sum(), x)
    (other,) = torch.autograd.grad(torch.max_pool2d(x, 2).square().sum(), x)
    assert torch.equal(one, other)
