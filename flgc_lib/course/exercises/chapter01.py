"""Checks of notebook 01's exercises."""

import itertools
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flgc_lib import cost
from flgc_lib.blocks import Bottleneck
from flgc_lib.course.exercises import NotYet, filled
from flgc_lib.methods import dense_conv


def exercise_1(conv_cost: Callable[..., tuple[int, int]]) -> str:
    """Parameters and MACs of a convolution, against `cost.count`."""
    tiny = filled(
        conv_cost(1, 1, 2, 3, 3, 1, 0),
        "conv_cost still returns `...`. Start with the parameters: N filters, each with C · k · k weights. "
        "Then ask at how many positions every weight is used once.",
    )
    if tiny != (4, 16):
        raise NotYet(
            f"for the 3×3 image and the 2×2 kernel of section 1 you say (parameters, MACs) = {tiny}; by hand there are "
            "4 weights, each used at 2 · 2 positions, so (4, 16). Look at the size of the output, not of the input."
        )
    cases = [(3, 8, 3, 32, 32, 1, 1), (16, 4, 1, 8, 8, 2, 0), (3, 8, 7, 32, 32, 2, 3), (5, 6, 3, 12, 9, 2, 1)]
    for C, N, k, height, width, stride, padding in cases:
        expected = tuple(cost.count(nn.Conv2d(C, N, k, stride, padding, bias=False), (C, height, width)))
        given = conv_cost(C, N, k, height, width, stride, padding)
        if given != expected:
            raise NotYet(
                f"C={C}, N={N}, k={k}, {height}×{width} pixels, stride {stride}, padding {padding}: you say {given}, "
                f"the library counts {expected}. The output has (height + 2 · padding - k) // stride + 1 rows, "
                "and columns by the same formula with the width."
            )
    return f"parameters and MACs agree with flgc_lib.cost for {len(cases) + 1} convolutions, strides and padding too."


def exercise_2(make_identity: Callable[[nn.Module], object]) -> str:
    """A bottleneck block turned into the identity by its last batch norm alone."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        block = Bottleneck(16, 4, 1, dense_conv, None)
        x = torch.rand(2, 16, 5, 5)  # not negative, as after a ReLU
    convolutions = {name: w.clone() for name, w in block.named_parameters() if "conv" in name}
    make_identity(block)
    for name, before in convolutions.items():
        if not torch.equal(before, block.get_parameter(name)):
            raise NotYet(f"you changed {name}; leave the convolutions alone, the last batch norm is enough.")
    for training in (True, False):
        difference = float((block.train(training)(x) - x).detach().abs().max())
        if difference > 1e-6:
            raise NotYet(
                f"block(x) differs from x by up to {difference:.1f} in {'training' if training else 'eval'} mode. "
                "H(x) = F(x) + x equals x when F(x) = 0. F ends in bn3, which computes weight · x̂ + bias for each "
                "channel: which weight and bias make that 0, whatever x̂ is?"
            )
    return "H(x) = x in training and in eval mode, and no convolution was touched: a block can start as the identity."


def exercise_3(shortcut: Callable[[int, int, int], nn.Module | None]) -> str:
    """The shortcut when x and F(x) differ in shape."""
    same = shortcut(16, 16, 1)
    filled(
        (same, shortcut(8, 16, 1)),
        "shortcut still returns `...`. Begin with the easy case: if x has the shape of F(x) already, "
        "the identity will do, so return None.",
    )
    if same is not None:
        raise NotYet(
            f"for 16 → 16 channels at stride 1 you return {same}, but x has the shape of F(x): return None, "
            "the identity, which costs nothing."
        )
    for in_channels, out_channels, stride in ((8, 16, 1), (16, 16, 2), (8, 32, 2)):
        module = shortcut(in_channels, out_channels, stride)
        case = f"{in_channels} → {out_channels} channels at stride {stride}"
        if module is None:
            raise NotYet(f"for {case} you return None, but x cannot be added to F(x): their shapes differ.")
        shape = tuple(module(torch.zeros(2, in_channels, 8, 8)).shape)
        expected = (2, out_channels, 8 // stride, 8 // stride)
        if shape != expected:
            raise NotYet(f"for {case} an input of 8×8 pixels must give {expected}; yours gives {shape}.")
        convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        if [m.kernel_size for m in convolutions] != [(1, 1)]:
            raise NotYet(
                f"for {case} you have {[m.kernel_size for m in convolutions]} kernels; a projection is one 1×1 "
                "convolution, the cheapest layer that changes the number of channels."
            )
        if convolutions[0].bias is not None or not any(isinstance(m, nn.BatchNorm2d) for m in module.modules()):
            raise NotYet(f"for {case}: a convolution without bias, then nn.BatchNorm2d, as everywhere in the block.")
    return "identity where the shapes agree, a 1×1 projection with batch norm where they do not."


def exercise_4(conv_by_matmul: Callable[[Tensor, Tensor, int, int], Tensor]) -> str:
    """A convolution as one matrix product, with conv2d taken away while it runs."""
    generator = torch.Generator().manual_seed(0)

    def refuse(*_: object, **__: object) -> Tensor:
        raise NotYet("you called conv2d; here the point is to do without: F.unfold, one matrix product, and a reshape.")

    for k, stride, padding in itertools.product((1, 3), (1, 2), (0, 1)):
        x = torch.randn(2, 3, 8, 7, generator=generator)
        weight = torch.randn(5, 3, k, k, generator=generator)
        expected = F.conv2d(x, weight, stride=stride, padding=padding)
        with mock.patch.object(F, "conv2d", refuse), mock.patch.object(torch, "conv2d", refuse):
            given = conv_by_matmul(x.clone(), weight, stride, padding)
        filled(
            given,
            "conv_by_matmul still returns `...`. F.unfold(x, k, stride=…, padding=…) has the shape "
            "(batch, C · k · k, positions): one column for each output position. What multiplies a column?",
        )
        case = f"kernel {k}×{k}, stride {stride}, padding {padding}"
        if given.shape != expected.shape:
            raise NotYet(
                f"{case}: the output must have the shape {tuple(expected.shape)}, yours has {tuple(given.shape)}. "
                "The positions come row by row, so a reshape to (batch, N, H', W') is all that is left to do."
            )
        if not torch.allclose(given, expected, atol=1e-4):
            raise NotYet(
                f"{case}: the shape is right but values differ by up to {float((given - expected).abs().max()):.2f}. "
                "weight.reshape(N, C · k · k) has its numbers in the same order as the rows of unfold."
            )
    return "eight convolutions, each one matrix product: N · (C k²) · (H' W') multiply-accumulates, as counted."
