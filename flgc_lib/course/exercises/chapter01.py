"""Checks of notebook 01's exercises."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from flgc_lib import cost
from flgc_lib.blocks import Bottleneck
from flgc_lib.course.exercises.answers import Case, Student, draw
from flgc_lib.course.exercises.values import NotYet, agree, read, show
from flgc_lib.methods import dense_conv


def exercise_1(answer: object) -> str:
    """Parameters and MACs of a convolution, against `cost.count`."""
    hint = (
        "conv_cost still returns `...`. Start with the parameters: N filters, each with C · k · k weights. "
        "Then ask at how many positions every weight is used once."
    )
    student, generator = Student(answer, "conv_cost", hint), torch.Generator().manual_seed(0)
    by_hand = (
        "for the 3×3 image and the 2×2 kernel of section 1 there are 4 weights, each used at 2 · 2 positions. "
        "Look at the size of the output, not of the input."
    )
    formula = (
        "that is what the library counts. The output has (height + 2 · padding - k) // stride + 1 rows, "
        "and columns by the same formula with the width."
    )
    shown = [
        (1, 1, 2, 3, 3, 1, 0),
        (3, 8, 3, 32, 32, 1, 1),
        (16, 4, 1, 8, 8, 2, 0),
        (3, 8, 7, 32, 32, 2, 3),
        (5, 6, 3, 12, 9, 2, 1),
    ]
    cases = [*shown, *(_convolution(generator) for _ in range(8))]
    asked: list[Case] = []
    for C, N, k, height, width, stride, padding in cases:
        layer = nn.Conv2d(C, N, k, stride, padding, bias=False)
        wanted = tuple(cost.count(layer, (C, height, width)))
        mistakes = {
            "the two are exchanged: (parameters, MACs).": wanted[::-1],
            "that has N numbers more, as with a bias; this convolution has none.": (wanted[0] + N, wanted[1]),
            "a MAC is one multiplication with its addition, and counts once.": (wanted[0], 2 * wanted[1]),
            "the MACs are those for an output as large as the input.": (wanted[0], wanted[0] * height * width),
        }
        why = by_hand if wanted == (4, 16) else formula
        asked.append(((C, N, k, height, width, stride, padding), wanted, why, mistakes))
    student.solves(asked)
    return f"parameters and MACs agree with flgc_lib.cost for {len(cases)} convolutions, strides and padding too."


def _convolution(generator: torch.Generator) -> tuple[int, int, int, int, int, int, int]:
    C, N, k = draw(1, 9, generator), draw(1, 9, generator), draw(1, 5, generator)
    height, width = draw(k + 2, 20, generator), draw(k + 2, 20, generator)
    return C, N, k, height, width, draw(1, 3, generator), draw(0, 2, generator)


def exercise_2(answer: object) -> str:
    """A bottleneck block turned into the identity by its last batch norm alone."""
    student = Student(answer, "make_identity", "`make_identity` is still `...`; keep its `def` line.")
    forward = Bottleneck.forward
    try:
        for trained, width in ((False, 4), (True, 4), (True, 7)):
            with torch.random.fork_rng():
                torch.manual_seed(1)
                block = Bottleneck(4 * width, width, 1, dense_conv, None)
                x = torch.rand(2, 4 * width, 5, 5)  # not negative, as after a ReLU
                if trained:
                    _train_norms(block)
            _becomes_identity(student, block, x, trained=trained)
            if Bottleneck.forward is not forward:
                raise NotYet("you replaced `Bottleneck.forward`; the block must compute as before, with other numbers.")
    finally:
        Bottleneck.forward = forward  # type: ignore[method-assign]
    return (
        "H(x) = x for x ≥ 0, in training and in eval mode, and no convolution was touched: a block can start as the "
        "identity."
    )


def _train_norms(block: nn.Module) -> None:
    """Numbers such as training leaves in batch norms."""
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                values.uniform_(0.5, 1.5)  # type: ignore[union-attr]


def _becomes_identity(student: Student, block: nn.Module, x: Tensor, *, trained: bool) -> None:
    convolutions = {name: w.detach().clone() for name, w in block.named_parameters() if "conv" in name}
    parts = {name: type(module) for name, module in block.named_modules()}
    student(block, nothing=True)
    now = dict(block.named_parameters())
    for name, before in convolutions.items():
        if name not in now or not torch.equal(before, now[name]):
            raise NotYet(f"you changed {name}; leave the convolutions alone, the last batch norm is enough.")
    replaced = "forward" in vars(block) or block._forward_hooks or block._forward_pre_hooks
    if replaced or {name: type(module) for name, module in block.named_modules()} != parts:
        raise NotYet("you replaced a part of the block, or its forward; change only numbers, those of `bn3`.")
    changed = Student(block, "block", "")
    for training in (True, False):
        block.train(training)
        difference = float((changed(x) - x).detach().abs().max())
        if not difference <= 1e-6:
            after = "a trained block, whose bn3 has a bias: " if trained else ""
            raise NotYet(
                f"{after}block(x) differs from x by up to {difference:.1f} in {'training' if training else 'eval'} "
                "mode. H(x) = F(x) + x equals x when F(x) = 0. F ends in bn3, which computes weight · x̂ + bias for "
                "each channel: which weight and bias make that 0, whatever x̂ is?"
            )


def exercise_3(answer: object) -> str:
    """The shortcut when x and F(x) differ in shape."""
    hint = (
        "shortcut still returns `...`. Begin with the easy case: if x has the shape of F(x) already, "
        "the identity will do, so return None."
    )
    student, generator = Student(answer, "shortcut", hint), torch.Generator().manual_seed(0)
    for channels in (16, draw(2, 30, generator)):
        same = student(channels, channels, 1, nothing=True)
        if same is not None:
            raise NotYet(
                f"for {channels} → {channels} channels at stride 1 you return {show(same)}, but x has the shape of "
                "F(x): return None, the identity, which costs nothing."
            )
    hidden = [(draw(2, 9, generator), draw(10, 20, generator), draw(1, 3, generator)) for _ in range(4)]
    for sizes in [(8, 16, 1), (16, 16, 2), (8, 32, 2), (32, 8, 1), *hidden]:
        _is_projection(student, *sizes)
    return "identity where the shapes agree, a 1×1 projection with batch norm where they do not."


def _is_projection(student: Student, in_channels: int, out_channels: int, stride: int) -> None:
    case = f"for {in_channels} → {out_channels} channels at stride {stride}"
    module = student(in_channels, out_channels, stride, nothing=True)
    if module is None:
        raise NotYet(f"{case} you return None, but x cannot be added to F(x): their shapes differ.")
    if not isinstance(module, nn.Module):
        raise NotYet(
            f"{case} you return {show(module)}; return a module, for example nn.Sequential(convolution, norm)."
        )
    x = torch.randn(2, in_channels, 9, 8)
    name = f"shortcut({in_channels}, {out_channels}, {stride})"
    value = read(Student(module, name, f"{case} the module's `forward` returns nothing yet.")(x), name)
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]  # lazy ones know only now what they are
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    if [m.kernel_size for m in convolutions] != [(1, 1)] or convolutions[0].groups != 1:
        kernels = [(*m.kernel_size, f"groups={m.groups}") for m in convolutions]
        raise NotYet(
            f"{case} its convolutions are {kernels or 'none'}; a projection is one 1×1 convolution without groups, the "
            "cheapest layer that changes the number of channels."
        )
    if [m.num_features for m in norms] != [out_channels]:
        has = f"nn.BatchNorm2d of {[m.num_features for m in norms]} channels" if norms else "no nn.BatchNorm2d"
        raise NotYet(f"{case} it has {has}; one of {out_channels} follows the convolution: is their order right?")
    expected = (2, out_channels, (9 - 1) // stride + 1, (8 - 1) // stride + 1)
    if tuple(value.shape) != expected:
        raise NotYet(f"{case} an input of 9×8 pixels must give {expected}; yours gives {tuple(value.shape)}.")
    conv, norm = convolutions[0], norms[0]
    projected = norm(F.conv2d(x, conv.weight, conv.bias, stride))
    if not agree(value, projected):
        raise NotYet(
            f"{case} it is not the convolution with that stride, then batch normalisation, and nothing else: is their "
            "order right, the stride in the convolution, and no activation or pooling there?"
        )


class _NoConvolution(TorchFunctionMode):
    """Refuses every convolution of torch, by whatever name it is called."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Refuses, or goes on."""
        name = getattr(function, "__name__", str(function))
        if "conv" in name:
            raise NotYet(
                f"you called {name}; here the point is to do without: F.unfold, one matrix product, a reshape."
            )
        return function(*args, **(kwargs or {}))


def exercise_4(answer: object) -> str:
    """A convolution as one matrix product, with every convolution taken away while it runs."""
    hint = (
        "conv_by_matmul still returns `...`. F.unfold(x, k, stride=…, padding=…) has the shape "
        "(batch, C · k · k, positions): one column for each output position. What multiplies a column?"
    )
    student, generator = Student(answer, "conv_by_matmul", hint), torch.Generator().manual_seed(0)
    shown = [(3, 5, k, 8, 7, stride, padding) for k in (1, 3) for stride in (1, 2) for padding in (0, 1)]
    cases = [*shown, *(_convolution(generator) for _ in range(8))]
    asked: list[Case] = []
    for C, N, k, height, width, stride, padding in cases:
        x = torch.randn(2, C, height, width, generator=generator)
        weight = torch.randn(N, C, k, k, generator=generator)
        wanted = F.conv2d(x, weight, stride=stride, padding=padding)
        why = (
            f"that is conv2d with a {k}×{k} kernel, stride {stride}, padding {padding}. The positions come row by row, "
            "and weight.reshape(N, C · k · k) has its numbers in the same order as the rows of unfold."
        )
        asked.append(((x, weight, stride, padding), wanted, why, {}))
    with _NoConvolution():
        student.solves(asked)
    return (
        f"equal to conv2d for {len(cases)} convolutions. As a matrix product each has N · (C k²) · (H' W') "
        "multiply-accumulates, as counted in 1.1."
    )
