"""The checks of the exercises as a table: wrong answers with the sentence they get, right ones in unusual forms."""

import importlib
import itertools
import math
import re
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flgc_lib import cost
from flgc_lib.blocks import Bottleneck
from flgc_lib.course.exercises import CHAPTERS, check
from flgc_lib.course.exercises.answers import Student
from flgc_lib.course.exercises.chapter00 import TITLE
from flgc_lib.course.exercises.chapter05 import NEEDED
from flgc_lib.course.exercises.values import NotYet, agree, read, show
from flgc_lib.grouping import connection_mask, duplicates, membership, straight_through, thresholds
from flgc_lib.layers import FLGConv2d
from flgc_lib.resnet import embed

WRONG, RIGHT = [], []
"""Rows of the table: exercise, answer, words of the sentence; exercise, answer."""


def wrong(exercise, **rows):
    """Rows name=(answer, words of the sentence)."""
    WRONG.extend(pytest.param(exercise, *row, id=f"{exercise} {name}") for name, row in rows.items())


def right(exercise, **rows):
    """Rows name=answer."""
    RIGHT.extend(pytest.param(exercise, row, id=f"{exercise} {name}") for name, row in rows.items())


def numpied(function):
    """The same answer from NumPy, where tensors were expected."""
    return lambda *arguments: np.asarray(function(*arguments))


def listed(function):
    """The same answer as nested lists of Python numbers."""
    return lambda *arguments: torch.as_tensor(function(*arguments)).tolist()


def typed(function, dtype):
    """The same answer as a tensor of some type."""
    return lambda *arguments: torch.as_tensor(function(*arguments)).to(dtype)


# 00

LAYER = {"kernel_size": 3, "groups": 4, "padding": 1}
M = [[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1]]

wrong(
    "0.1",
    three_groups=(FLGConv2d(12, 24, 3, groups=3, padding=1), "not the channels in one"),
    no_padding=(FLGConv2d(12, 24, 3, groups=4), "an image of 8×8 comes out 6×6: `padding=1`"),
    stride=(FLGConv2d(12, 24, **LAYER, stride=2), "stride is (2, 2)"),
    fixed=(nn.Conv2d(12, 24, **LAYER), "whose groups are fixed"),
    class_itself=(FLGConv2d, "call it"),
    linear=(nn.Linear(12, 24), "`layer` is the module Linear; it must be an FLGConv2d"),
)
right(
    "0.1",
    pairs=FLGConv2d(12, 24, (3, 3), groups=4, padding=(1, 1), bias=True),
    double=FLGConv2d(12, 24, **LAYER).double(),
    half=FLGConv2d(12, 24, **LAYER).to(torch.bfloat16),
    dilated=FLGConv2d(12, 24, 3, groups=4, padding=2, dilation=2, duplicate_top_k=3),
)
wrong(
    "0.2",
    transposed=(torch.tensor(M).T, "has a row for each channel"),
    flat=([*M[0], *M[1], *M[2]], "`M` has shape (12,)"),
    inverted=((1 - np.array(M)).tolist(), "M[0][0] is 0, but filter 0 and channel 0 are in the same group"),
    ragged=([[1, 0, 0, 1], [0, 1, 1]], "rows are not equally long"),
    words=(["1001", "0110", "1001"], "'1001' is there, where numbers are wanted"),
    half_done=([[1, 0, 0, 1], [0, ..., 1, 0], [1, 0, 0, 1]], "still a `...`"),
)
right(
    "0.2",
    array=np.array(M, dtype=np.uint8),
    booleans=[[bool(v) for v in row] for row in M],
    rows_of_tensors=[torch.tensor(row, dtype=torch.float16) for row in M],
    tuples=tuple(map(tuple, M)),
)
wrong(
    "0.3",
    exchanged=({**TITLE, "動的": "optimisation"}, "動的 is not 'optimisation'"),
    a_key_missing=({"動的": "dynamic"}, "with these keys"),
    untouched=(dict.fromkeys(TITLE, ...), "every word is still"),
    half_done=({**TITLE, "最適化": ...}, "最適化 is still `...`"),
)
right(
    "0.3",
    capitals={word: english.upper() for word, english in TITLE.items()},
    pairs=list(TITLE.items()),
    proxy=MappingProxyType(TITLE),
)

# 01


def conv_cost(C, N, k, height, width, stride, padding):
    rows, columns = ((size + 2 * padding - k) // stride + 1 for size in (height, width))
    return N * C * k * k, N * C * k * k * rows * columns


wrong(
    "1.1",
    input_size=(lambda C, N, k, h, w, s, p: (N * C * k * k, N * C * k * k * h * w), "an output as large as the input"),
    exchanged=(lambda *case: conv_cost(*case)[::-1], "the two are exchanged"),
    square_image=(lambda C, N, k, h, w, s, p: conv_cost(C, N, k, h, h, s, p), "columns by the same formula"),
    bias=(lambda C, N, *case: (conv_cost(C, N, *case)[0] + N, conv_cost(C, N, *case)[1]), "this convolution has none"),
    twice=(lambda *case: (conv_cost(*case)[0], 2 * conv_cost(*case)[1]), "one multiplication with its addition"),
    by_hand=(lambda *case: (2, 8), "4 weights, each used at 2 · 2 positions"),
    one_number=(lambda *case: conv_cost(*case)[0], "2 numbers in a row"),
    iterator=(lambda *case: reversed(conv_cost(*case)), "the two are exchanged"),
)
right(
    "1.1",
    lists=lambda *case: list(map(float, conv_cost(*case))),
    array=lambda *case: np.array(conv_cost(*case)),
    tensor=lambda *case: torch.tensor(conv_cost(*case), dtype=torch.float32),
    numpy_scalars=lambda *case: tuple(map(np.int64, conv_cost(*case))),
)


def make_identity(block):
    nn.init.zeros_(block.bn3.weight)
    nn.init.zeros_(block.bn3.bias)


def weight_alone(block):
    nn.init.zeros_(block.bn3.weight)


def other_forward(block):
    block.forward = lambda x: x


def other_class_forward(block):
    Bottleneck.forward = lambda self, x: x


def other_norm(block):
    block.bn3 = nn.Identity()


def silenced_convolution(block):
    make_identity(block)
    nn.init.zeros_(block.conv3.weight)


def one_number(block):
    block.bn3.weight.data = torch.zeros(1)


def leaf_in_place(block):
    block.bn3.weight.zero_()


def new_parameters(block):
    block.bn3.weight, block.bn3.bias = (nn.Parameter(torch.zeros(len(block.bn3.weight))) for _ in range(2))


def without_grad(block):
    with torch.no_grad():
        block.bn3.weight *= 0
        block.bn3.bias *= 0
    return block


def state(block):
    block.bn3.load_state_dict(
        {name: value * (name not in ("weight", "bias")) for name, value in block.bn3.state_dict().items()}
    )


wrong(
    "1.2",
    weight_alone=(weight_alone, "a trained block, whose bn3 has a bias"),
    other_forward=(other_forward, "you replaced a part of the block, or its forward"),
    other_class_forward=(other_class_forward, "Bottleneck.forward"),
    other_norm=(other_norm, "you replaced a part"),
    silenced_convolution=(silenced_convolution, "you changed conv3.weight"),
    one_number=(one_number, "`block(a tensor of shape (2, 16, 5, 5))` stops with RuntimeError"),
    leaf_in_place=(leaf_in_place, "change it inside `with torch.no_grad():`"),
    nothing=(lambda block: None, "H(x) = F(x) + x equals x when F(x) = 0"),
)
right("1.2", new_parameters=new_parameters, without_grad=without_grad, state=state)


def project(in_channels, out_channels, stride, **options):
    return nn.Conv2d(in_channels, out_channels, 1, stride, **({"bias": False} | options))


def shortcut_of(*parts):
    """A shortcut from functions that make its modules."""

    def shortcut(in_channels, out_channels, stride):
        if stride == 1 and in_channels == out_channels:
            return None
        return nn.Sequential(*(part(in_channels, out_channels, stride) for part in parts))

    return shortcut


def norm(in_channels, out_channels, stride):
    return nn.BatchNorm2d(out_channels)


class Projection(nn.Module):
    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.conv, self.norm = project(in_channels, out_channels, (stride, stride)), nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return self.norm(self.conv(x))


class HalfDone(Projection):
    def forward(self, x): ...


class InTuple(Projection):
    def forward(self, x):
        return (super().forward(x),)


wrong(
    "1.3",
    half_done=(lambda c, n, s: None if (c, s) == (n, 1) else HalfDone(c, n, s), "`forward` returns nothing yet"),
    in_tuple=(lambda c, n, s: None if (c, s) == (n, 1) else InTuple(c, n, s), "yours gives (1, 2, 16, 9, 8)"),
    norm_first=(shortcut_of(lambda c, n, s: nn.BatchNorm2d(c), project), "is their order right"),
    activation=(shortcut_of(project, norm, lambda *_: nn.ReLU()), "no activation or pooling"),
    pooled=(
        shortcut_of(lambda c, n, s: nn.AvgPool2d(s, ceil_mode=True), lambda c, n, s: project(c, n, 1), norm),
        "the stride in the convolution",
    ),
    three_by_three=(shortcut_of(lambda c, n, s: nn.Conv2d(c, n, 3, s, 1, bias=False), norm), "a projection is one 1×1"),
    grouped=(shortcut_of(lambda c, n, s: project(c, n, s, groups=math.gcd(c, n)), norm), "without groups"),
    no_norm=(shortcut_of(project), "it has no nn.BatchNorm2d"),
    stride_forgotten=(shortcut_of(lambda c, n, s: project(c, n, 1), norm), "must give"),
    no_module=(lambda c, n, s: None if (c, s) == (n, 1) else nn.Conv2d, "return a module"),
    always=(lambda c, n, s: nn.Sequential(project(c, n, s), norm(c, n, s)), "return None, the identity"),
    by_channels_alone=(lambda c, n, s: None if c == n else Projection(c, n, s), "their shapes differ"),
)
right(
    "1.3",
    module=lambda c, n, s: None if (c, s) == (n, 1) else Projection(c, n, s),
    bias=shortcut_of(lambda c, n, s: project(c, n, s, bias=True), norm),
    nested=shortcut_of(lambda *case: nn.Sequential(project(*case)), norm),
    lazy=shortcut_of(lambda c, n, s: nn.LazyConv2d(n, 1, s, bias=False), lambda *_: nn.LazyBatchNorm2d()),
)


def conv_by_matmul(x, weight, stride, padding):
    N, _, k, _ = weight.shape
    columns = F.unfold(x, k, stride=stride, padding=padding)
    height, width = ((size + 2 * padding - k) // stride + 1 for size in x.shape[2:])
    return (weight.reshape(N, -1) @ columns).reshape(len(x), N, height, width)


def by_einsum(x, weight, stride, padding):
    k = weight.shape[2]
    patches = F.pad(x, (padding,) * 4).unfold(2, k, stride).unfold(3, k, stride)
    return torch.einsum("bchwij,ncij->bnhw", patches, weight)


def by_windows(x, weight, stride, padding):
    k, (x, weight) = weight.shape[2], (x.numpy(), weight.numpy())
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    patches = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ncij->bnhw", patches, weight)


bound_earlier = F.conv2d

wrong(
    "1.4",
    conv2d=(lambda x, w, s, p: F.conv2d(x, w, stride=s, padding=p), "you called conv2d"),
    bound_earlier=(lambda x, w, s, p: bound_earlier(x, w, stride=s, padding=p), "you called conv2d"),
    convolution=(
        lambda x, w, s, p: torch.convolution(x, w, None, (s, s), (p, p), (1, 1), False, (0, 0), 1),
        "you called convolution",
    ),
    conv3d=(
        lambda x, w, s, p: F.conv3d(x[:, :, None], w[:, :, None], stride=(1, s, s), padding=(0, p, p))[:, :, 0],
        "you called conv3d",
    ),
    mirrored=(lambda x, w, s, p: conv_by_matmul(x, w.flip(2), s, p), "numbers are wrong; the first is at [0, 0, 0, 0]"),
    stride_forgotten=(lambda x, w, s, p: conv_by_matmul(x, w, 1, p), "should give numbers of shape"),
    square_only=(
        lambda x, w, s, p: conv_by_matmul(x, w, s, p).reshape(len(x), len(w), x.shape[2], x.shape[2]),
        "stops with RuntimeError",
    ),
)
right("1.4", einsum=by_einsum, windows=by_windows, lists=listed(conv_by_matmul), double=typed(by_einsum, torch.float64))

# 02


def grouped_cost(C, N, k, G, positions):
    return N * (C // G) * k * k, N * (C // G) * k * k * positions


def fixed_mask(C, N, G):
    return (torch.arange(N)[:, None] // (N // G) == torch.arange(C) // (C // G)).int()


def absorb(W, G):
    return nn.ChannelShuffle(W.shape[1] // G)(W)


def layers_needed(C, G):
    reach, layers = C // G, 1
    while reach < C:
        if G == C:
            return None
        reach, layers = reach * (C // G), layers + 1
    return layers


wrong(
    "2.1",
    dense=(lambda C, N, k, G, p: (C * N * k * k, C * N * k * k * p), "that is the dense convolution"),
    exchanged=(lambda *case: grouped_cost(*case)[::-1], "the two are exchanged"),
    divided_twice=(
        lambda C, N, k, G, p: (C // G * (N // G) * k * k, C // G * (N // G) * k * k * p),
        "that is divided by G twice",
    ),
    by_hand=(lambda *case: (2, 2), "2 · (2 · 2) = 8 weights"),
    no_positions=(lambda C, N, k, G, p: (N * (C // G) * k * k, N * (C // G) * k * k), "there are N filters"),
    missing_k=(lambda C, N, k, G, p: (N * (C // G) * k, N * (C // G) * k * p), "k · k weights"),
)
right(
    "2.1",
    floats=lambda C, N, k, G, p: (N * C / G * k * k, N * C / G * k * k * p),
    array=numpied(grouped_cost),
    fractions=lambda *case: tuple(map(Fraction, grouped_cost(*case))),
)
wrong(
    "2.2",
    transposed=(lambda C, N, G: fixed_mask(N, C, G), "rows and columns are exchanged"),
    interleaved=(lambda C, N, G: torch.arange(N)[:, None] % G == torch.arange(C) % G, "neighbours share a group"),
    inverted=(lambda C, N, G: 1 - fixed_mask(C, N, G), "the wrong way round"),
    square=(lambda C, N, G: fixed_mask(C, C, G), "should give numbers of shape (2, 4)"),
    iterators=(lambda *case: [map(int, row) for row in 1 - fixed_mask(*case)], "the wrong way round"),
)
right(
    "2.2",
    lists=listed(fixed_mask),
    booleans=lambda *case: fixed_mask(*case).bool().numpy(),
    half=typed(fixed_mask, torch.float16),
)
wrong(
    "2.3",
    the_shuffle=(lambda W, G: nn.ChannelShuffle(G)(W), "what is needed undoes the shuffle"),
    unchanged=(lambda W, G: W, "W as it was"),
    reversed=(lambda W, G: W.flip(1), "belongs to channel order[i]"),
    one_kernel=(lambda W, G: absorb(W, G)[:, :, :1, :1], "should give numbers of shape"),
)
right(
    "2.3",
    argsort=lambda W, G: W[:, torch.arange(W.shape[1]).view(G, -1).T.flatten().argsort()],
    array=numpied(absorb),
    double=typed(absorb, torch.float64),
    lists=listed(absorb),
)
wrong(
    "2.4",
    shuffles=(lambda C, G: (layers_needed(C, G) or 1) - 1, "a shuffle comes between two layers"),
    never_none=(lambda C, G: layers_needed(C, G) or C, "should give None"),
    always_two=(lambda C, G: 2, "after one layer"),
    never=(lambda C, G: None, "returns nothing. It should give 2"),
    gives_up=(lambda C, G: L if (L := layers_needed(C, G)) and L <= 3 else None, "C/G = 2 channels after one layer"),
)
right(
    "2.4",
    by_formula=layers_needed,
    floats=lambda C, G: None if layers_needed(C, G) is None else float(layers_needed(C, G)),
    tensors=lambda C, G: None if layers_needed(C, G) is None else torch.tensor([layers_needed(C, G)]),
)

# 03


def possible(mask):
    rows = [tuple(row) for row in mask.tolist()]
    return all(
        a == b or not any(x and y for x, y in zip(a, b, strict=True)) for a, b in itertools.combinations(rows, 2)
    )


def steps_until_move(s, u, rate):
    own, steps = s.argmax(), 0
    if u[own] == u.min():
        return None
    while s.argmax() == own:
        p, steps = s.softmax(dim=0), steps + 1
        s = s - rate * p * (u - (p * u).sum())
    return steps


def steps_by_autograd(s, u, rate):
    if u[s.argmax()] == u.min():
        return None
    for steps in itertools.count():
        logits = s[None].clone().requires_grad_()
        (straight_through(logits, membership(logits)) * u).sum().backward()
        after = s - rate * logits.grad[0]
        if after.argmax() != s.argmax():
            return np.int32(steps + 1)
        s = after


def masked_steps(s, u, rate):
    own, steps = s.argmax(), 0
    if u[own] == u.min():
        return None
    while s.argmax() == own and steps < 100:
        s, steps = s - rate * u, steps + 1
    return steps


def cheapest(C, N, G):
    ones = [1] * (G - 1)
    return ([C], [N]) if G == 1 else ([C - G + 1, *ones], [*ones, N - G + 1])


def imbalance(S):
    share = S.softmax(dim=1).mean(dim=0)
    return S.shape[1] * (share - 1 / S.shape[1]).square().sum()


def entropy(S):
    share = S.softmax(dim=1).mean(dim=0)
    return math.log(S.shape[1]) + (share * share.log()).sum()


wrong(
    "3.1",
    always=(lambda mask: True, "filters 0 and 1 share channel 1, so they are in its group, yet their rows differ"),
    never=(lambda mask: False, "any two of its rows are equal or have no channel in common"),
    one_group_a_channel=(lambda mask: bool((mask.sum(dim=0) <= 1).all()), "equal rows make a group"),
    no_empty_row=(lambda mask: possible(mask) and bool(mask.any(dim=1).all()), "equal rows make a group"),
    text=(lambda mask: "yes", "'yes' is there, where numbers are wanted"),
)
right(
    "3.1",
    tensor=lambda mask: torch.tensor(possible(mask)),
    zero_or_one=lambda mask: int(possible(mask)),
    numpy=lambda mask: np.bool_(possible(mask)),
)
wrong(
    "3.2",
    along_u=(masked_steps, "that is for steps along u itself"),
    one_less=(lambda *case: (steps_until_move(*case) or 1) - 1, "one step off"),
    one_more=(lambda *case: (steps_until_move(*case) or 0) + 1, "one step more than needed"),
    never_none=(lambda *case: steps_until_move(*case) or 0, "should give None: the channel is in the group with"),
    gives_up=(lambda *case: steps if (steps := steps_until_move(*case)) and steps <= 150 else None, "must not give up"),
    patient=(lambda *case: steps if (steps := steps_until_move(*case) or 0) < 3000 else None, "must not give up"),
    capped=(lambda *case: min(150, steps_until_move(*case) or 0) or None, "from group 0 after 1502 steps"),
    only_the_shown=(lambda s, u, rate: {2.0: 7}.get(round(float(s[0]), 3), 33), "moves the argmax from group"),
)
right(
    "3.2",
    autograd=steps_by_autograd,
    floats=lambda *case: None if steps_until_move(*case) is None else float(steps_until_move(*case)),
    tensor=lambda *case: None if steps_until_move(*case) is None else torch.tensor(steps_until_move(*case)),
)
wrong(
    "3.3",
    equal=(lambda C, N, G: ([C // G] * G, [N // G] * G), "which has 8 connections; 6 are possible"),
    empty_group=(lambda C, N, G: ([C] + [0] * (G - 1), [0] * (G - 1) + [N]), "at least 1"),
    sum_too_large=(lambda C, N, G: ([C] + [1] * (G - 1), [1] * (G - 1) + [N]), "these are 5 channels, not 4"),
    along=(lambda C, N, G: ([C - G + 1] + [1] * (G - 1), [N - G + 1] + [1] * (G - 1)), "no group should have many"),
    dense_forgotten=(lambda C, N, G: cheapest(C, N, max(G, 2)), "a size for each group (G = 1)"),
)
right(
    "3.3",
    other_order=lambda C, N, G: tuple(sizes[::-1] for sizes in cheapest(C, N, G)),
    array=lambda *case: np.array(cheapest(*case), dtype=float),
    tensors=lambda *case: [torch.tensor(sizes) for sizes in cheapest(*case)],
    generators=lambda *case: map(iter, cheapest(*case)),
)
wrong(
    "3.4",
    logits=(lambda S: S.mean(0).var(), "not of their logits"),
    argmax=(lambda S: membership(S).float().mean(0).var(), "no group is expected larger"),
    sure_is_bad=(lambda S: (S.softmax(1) - 1 / S.shape[1]).square().sum(), "8 channels that are sure of their group"),
    root=(lambda S: imbalance(S).sqrt(), "its gradient is not finite"),
    over_channels=(lambda S: S.softmax(0).sum(0).var(), "but must be above 0"),
    upside_down=(lambda S: -imbalance(S), "but must be above 0"),
    python_number=(lambda S: imbalance(S).item(), "no gradient comes back"),
    no_slope=(lambda S: imbalance(S).detach() + 0 * S.sum(), "must drain group 0"),
    first_group=(lambda S: (S.softmax(1).mean(0)[0] - 1 / S.shape[1]) ** 2, "expected shares are [0.25, 0.6, 0.1,"),
)
right(
    "3.4",
    entropy=entropy,
    one_row=lambda S: imbalance(S).reshape(1),
    largest=lambda S: S.softmax(1).mean(0).max() - 1 / S.shape[1],
    double=lambda S: imbalance(S.double()),
)

# The student's own layer: 03


def binarise(S):
    p = S.softmax(dim=1)
    hard = F.one_hot(S.argmax(dim=1), S.shape[1]).to(S.dtype)
    return hard + (p - p.detach())


def mask(S, T):
    return binarise(T) @ binarise(S).T


def masked_convolution(x, W, S, T):
    return F.conv2d(x, W * mask(S, T)[:, :, None, None], padding=W.shape[2] // 2)


class Layer(nn.Module):
    """The student's layer; subclasses differ in `convolve` or in how S is drawn."""

    def __init__(self, C, N, kernel_size, groups, top_k=None):
        super().__init__()
        self.W = nn.Parameter(self.draw_weight(N, C, kernel_size, self.bound(C, groups, kernel_size)))
        self.S, self.T = (nn.Parameter(self.draw(rows, groups)) for rows in (C, N))
        self.top_k = top_k

    def bound(self, C, groups, kernel_size):
        return 1 / math.sqrt(C / groups * kernel_size**2)

    def draw_weight(self, N, C, kernel_size, r):
        return r * (2 * torch.rand(N, C, kernel_size, kernel_size) - 1)

    def draw(self, rows, groups):
        return torch.randn(rows, groups)

    def forward(self, x):
        A = binarise(self.S) if self.top_k is None else binarise(self.S) + self.copies(self.S.detach())
        M = binarise(self.T) @ A.T
        return F.conv2d(x, self.W * M[:, :, None, None], padding=self.W.shape[2] // 2)

    def copies(self, S):
        return duplicates(S, membership(S), self.top_k)


class Dense(Layer):
    def forward(self, x):
        return F.conv2d(x, self.W, padding=self.W.shape[2] // 2)


class Constant(Layer):
    def draw(self, rows, groups):
        return torch.zeros(rows, groups)


class NoGradient(Layer):
    def forward(self, x):
        M = connection_mask(membership(self.S), membership(self.T))
        return F.conv2d(x, self.W * M[:, :, None, None], padding=self.W.shape[2] // 2)


class Masked(Layer):
    def forward(self, x):
        A, B = (straight_through(s, membership(s), estimator="masked") for s in (self.S, self.T))
        return F.conv2d(x, self.W * (B @ A.T)[:, :, None, None], padding=self.W.shape[2] // 2)


class NoParameters(Layer):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        S = self.S.detach()
        del self.S
        self.S = S


class Library(nn.Module):
    """Wraps the library's layer: other names, the same parameters."""

    def __init__(self, C, N, kernel_size, groups, top_k=None):
        super().__init__()
        self.inner = FLGConv2d(C, N, kernel_size, groups=groups, padding=kernel_size // 2, duplicate_top_k=top_k)

    def forward(self, x):
        return self.inner(x)


class Einsum(Layer):
    """The mask multiplied by einsum, the convolution by unfold."""

    def forward(self, x):
        k = self.W.shape[2]
        A = binarise(self.S) if self.top_k is None else binarise(self.S) + self.copies(self.S.detach())
        M = torch.einsum("ng,cg->nc", binarise(self.T), A)
        columns = F.unfold(x, k, padding=k // 2)
        W = torch.einsum("ncij,nc->ncij", self.W, M).flatten(1)
        return (W @ columns).unflatten(2, x.shape[2:])


def made(C, N, kernel_size, groups):
    """A function that makes the layer, in place of the class."""
    return Layer(C, N, kernel_size, groups)


wrong(
    "3.step1",
    soft=(lambda S: S.softmax(dim=1), "forward the choice must be hard"),
    no_gradient=(lambda S: membership(S).float(), "no gradient comes back"),
    masked=(lambda S: straight_through(S, membership(S), estimator="masked"), "the gradient of the masked estimator"),
    logits_come_through=(lambda S: binarise(S).detach() + S - S.detach(), "as if the soft part were the logits"),
    a_row_for_each_group=(lambda S: binarise(S.T).T, "every row (channel) chooses a group"),
    wrong_axis=(lambda S: binarise(S).detach() + S.softmax(0) - S.softmax(0).detach(), "a softmax over the rows"),
    both_of_a_tie=(lambda S: (S == S.amax(1, keepdim=True)).float() + 0 * S, "two equal logits"),
)
right(
    "3.step1",
    library=lambda S: straight_through(S, membership(S)),
    gumbel_like=lambda S: (binarise(S).detach() - S.softmax(1)).detach() + S.softmax(1),
    scattered=lambda S: torch.zeros_like(S).scatter(1, S.argmax(1, keepdim=True), 1) + S.softmax(1) - S.softmax(1).data,
)
wrong(
    "3.step2",
    transposed=(lambda S, T: mask(S, T).T, "rows and columns are exchanged"),
    soft=(lambda S, T: T.softmax(1) @ S.softmax(1).T, "the choices must be hard"),
    inverted=(lambda S, T: 1 - mask(S, T), "the wrong way round"),
    no_gradient=(lambda S, T: connection_mask(membership(S), membership(T)), "no gradient comes back"),
    only_s=(lambda S, T: membership(T).float() @ binarise(S).T, "no gradient reaches T"),
    twice=(lambda S, T: mask(S, T) + mask(S, T) - mask(S, T).detach(), "the gradient of S is not that of M = B Aᵀ"),
)
right(
    "3.step2",
    product=mask,
    einsum=lambda S, T: torch.einsum("cg,ng->nc", binarise(S), binarise(T)),
    broadcast=lambda S, T: (binarise(T)[:, None] * binarise(S)[None]).sum(dim=2),
)
wrong(
    "3.step3",
    dense=(lambda x, W, S, T: F.conv2d(x, W, padding=W.shape[2] // 2), "that is the dense convolution"),
    no_padding=(lambda x, W, S, T: F.conv2d(x, W * mask(S, T)[:, :, None, None]), "the image has lost its border"),
    no_gradient=(
        lambda x, W, S, T: masked_convolution(x, W, S.detach(), T.detach()),
        "no gradient reaches S",
    ),
    no_mask_shape=(lambda x, W, S, T: F.conv2d(x, W * mask(S, T), padding=1), "stops with RuntimeError"),
    weight_detached=(lambda x, W, S, T: masked_convolution(x, W.detach(), S, T), "no gradient reaches W"),
    outputs_masked=(
        lambda x, W, S, T: F.conv2d(x, W, padding=W.shape[2] // 2) * mask(S, T).amax(1)[:, None, None],
        "that switches whole filters off in the output",
    ),
    inputs_masked=(
        lambda x, W, S, T: F.conv2d(x * mask(S, T).amax(0)[:, None, None], W, padding=W.shape[2] // 2),
        "that switches whole channels off in x",
    ),
)
right(
    "3.step3",
    product=masked_convolution,
    same=lambda x, W, S, T: F.conv2d(x, torch.einsum("ncij,nc->ncij", W, mask(S, T)), padding="same"),
    channels_last=lambda x, W, S, T: masked_convolution(x.to(memory_format=torch.channels_last), W, S, T),
)


class OtherOrder(Layer):
    """S before W."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        W, S, T = self.parameters()
        for name in list(self._parameters):
            delattr(self, name)
        self.S, self.W, self.T = S, W, T


class OneMore(Layer):
    def __init__(self, C, N, *sizes):
        super().__init__(C, N, *sizes)
        self.bias = nn.Parameter(torch.zeros(N))


class DenseInEval(Layer):
    def forward(self, x):
        return super().forward(x) if self.training else F.conv2d(x, self.W, padding=self.W.shape[2] // 2)


class NormalWeight(Layer):
    def draw_weight(self, N, C, kernel_size, r):
        return r * torch.randn(N, C, kernel_size, kernel_size)


class DenseBound(Layer):
    def bound(self, C, groups, kernel_size):
        return super().bound(C, 1, kernel_size)


class SmallLogits(Layer):
    def draw(self, rows, groups):
        return 0.1 * torch.randn(rows, groups)


class UniformLogits(Layer):
    """Mean 0 and standard deviation 1, but not normal."""

    def draw(self, rows, groups):
        return math.sqrt(12) * (torch.rand(rows, groups) - 0.5)


class ShiftedLogits(Layer):
    def draw(self, rows, groups):
        return 0.5 + torch.randn(rows, groups)


class SmallFilters(Layer):
    """T alone is drawn wrong."""

    def __init__(self, C, N, kernel_size, groups, top_k=None):
        super().__init__(C, N, kernel_size, groups, top_k)
        nn.init.normal_(self.T, std=self.bound(C, groups, kernel_size))


class SpoilsInput(Layer):
    def forward(self, x):
        value = super().forward(x)
        x.mul_(2)
        return value


class SpoilsLogits(Layer):
    def forward(self, x):
        value = super().forward(x)
        self.S.data.copy_(membership(self.S.data))
        return value


class InDouble(Layer):
    """Drawn in double, used in single."""

    def draw(self, rows, groups):
        return torch.randn(rows, groups, dtype=torch.float64).float()

    def draw_weight(self, N, C, kernel_size, r):
        return nn.init.uniform_(torch.empty(N, C, kernel_size, kernel_size), -r, r)


wrong(
    "3.step4",
    normal_weight=(NormalWeight, "it should be uniform between -r and r, r = 1/√(C/G · k²) = 0.0833"),
    dense_bound=(DenseBound, "it should be uniform between -r and r"),
    small_logits=(SmallLogits, "it should be drawn from N(0, 1)"),
    uniform_logits=(UniformLogits, "S starts between -1.7 and 1.7"),
    shifted_logits=(ShiftedLogits, "S starts between"),
    small_filters=(SmallFilters, "T starts between"),
    spoils_input=(SpoilsInput, "overwrites x, which whoever calls it goes on using"),
    spoils_logits=(SpoilsLogits, "`forward` changes S; that is for the optimiser"),
    other_order=(OtherOrder, "they must be W, S and T, in this order, and no others"),
    one_more=(OneMore, "they must be W, S and T, in this order, and no others"),
    dense_in_eval=(DenseInEval, "in eval mode too"),
    dense=(Dense, "FLGConv2d with the same W, S and T"),
    constant=(Constant, "two new layers have the same S"),
    no_gradient=(NoGradient, "no gradient reaches S"),
    masked=(Masked, "the gradient of S is not that of FLGConv2d: 48 of 48 numbers are wrong; the first"),
    no_parameters=(NoParameters, "has 0 parameters of shape (12, 4)"),
    no_module=(lambda C, N, k, G: [C, N], "a layer must be an nn.Module"),
)
right("3.step4", own=Layer, einsum=Einsum, library=Library, function=made, in_double=InDouble)

# 04


def make_copy(S, c, g, k):
    tau, own = float(thresholds(S, membership(S), k)[g]), float(S[c].max())
    return (tau + own) / 2 if own > tau else None


def smallest_k(S, share):
    for k in range(1, len(S) + 1):
        if duplicates(S, membership(S), k).sum() >= share * len(S):
            return k


def smallest_k_of_softmax(S, share):
    for k in range(1, len(S) + 1):
        if duplicates(S.softmax(1), membership(S), k).sum() >= share * len(S):
            return k
    return None


def only_to_g(S, share):
    for k in range(1, S.shape[1] + 1):
        if duplicates(S, membership(S), k).sum() >= share * len(S):
            return k
    return S.shape[1]


def by_ratio(S, members, tau):
    """A sigmoid, written so that its gradient is 0 · ∞ where τ = ∞."""
    soft = S.exp() / (S.exp() + tau.exp()) * ~members
    return ((S > tau) & ~members).float() + soft - soft.detach()


def soft_copies(S, members, tau, hard=lambda S, tau: S > tau, soft=torch.sigmoid):
    return ((hard(S, tau) & ~members).to(S) - soft(S - tau) * ~members).detach() + soft(S - tau) * ~members


wrong(
    "4.1",
    already_there=({(1, 0)}, "(1, 0) says that channel 1 is copied into group 0, where it is already"),
    not_above=({(0, 1), (3, 0)}, "its score 0.30 is not above τ(0) = 0.87"),
    none=(set(), "a copy is missing"),
    no_pair=((0, 1), "write a set of pairs"),
    outside=({(0, 1), (1, 5)}, "(1, 5) is not a pair"),
    text=("0, 1", "write a set of pairs"),
)
right(
    "4.1",
    array=np.array([[0, 1]]),
    tensor=torch.tensor([[0.0, 1.0]]),
    list_of_lists=[[0, 1]],
    twice=((0, 1), (0, 1)),
)
wrong(
    "4.2",
    threshold=(lambda S, c, g, k: float(thresholds(S, membership(S), k)[g]), "nothing is copied"),
    too_much=(lambda S, c, g, k: float(S.max()) + 1, "channel 0 moves to group 1, and is no copy"),
    always_none=(lambda S, c, g, k: None, "gives None, but there is a value"),
    never_none=(lambda S, c, g, k: float(S[c].max()) - 1e-4, "return None"),
    k_forgotten=(lambda S, c, g, k: make_copy(S, c, g, 3), "a score must be above τ"),
    infinite=(lambda S, c, g, k: math.inf, "which is no logit"),
)
right(
    "4.2",
    just_above=lambda S, c, g, k: None if make_copy(S, c, g, k) is None else torch.tensor(make_copy(S, c, g, k)),
    numpy=lambda S, c, g, k: None if make_copy(S, c, g, k) is None else np.float32(make_copy(S, c, g, k)),
    just_below=lambda *case: None if make_copy(*case) is None else float(case[0][case[1]].max()) - 1e-4,
)
wrong(
    "4.3",
    only_to_g=(only_to_g, "k may be larger than G"),
    one_more=(lambda *case: smallest_k(*case) + 1, "a smaller k is enough already"),
    paper=(lambda S, share: 3, "k = 3 makes"),
    none=(lambda S, share: 0, "k is a whole number from 1 to C"),
    half=(lambda S, share: 2.5, "k is a whole number from 1 to C"),
    more_than=(lambda S, share: smallest_k(S, share + 0.1 / len(S)), "Exactly as many are enough"),
    softmax=(smallest_k_of_softmax, "softmax score"),
    gives_up=(lambda S, share: None, "gives None; k = "),
)
right(
    "4.3",
    float=lambda *case: float(smallest_k(*case)),
    tensor=lambda *case: torch.tensor([smallest_k(*case)]),
    numpy=lambda *case: np.int16(smallest_k(*case)),
)
wrong(
    "4.4",
    not_strict=(lambda *case: soft_copies(*case, hard=torch.ge), "the comparison is strict"),
    no_gradient=(lambda S, A, tau: ((S > tau) & ~A).float(), "no gradient comes back"),
    members_too=(lambda S, A, tau: (S > tau).float() + 0 * tau, "a member is no copy"),
    soft=(lambda S, A, tau: torch.sigmoid(S - tau) * ~A, "forward the copies must be hard"),
    wrong_sign=(lambda *case: soft_copies(*case, soft=lambda d: torch.sigmoid(-d)), "should be negative"),
    members_pull=(
        lambda S, A, tau: ((S > tau) & ~A).float() + torch.sigmoid(S - tau) - torch.sigmoid(S - tau).detach(),
        "members are no copies",
    ),
    linear=(lambda *case: soft_copies(*case, soft=lambda d: 0.1 * d), "for an empty group τ = +∞, and ∞ - ∞"),
    ratio=(by_ratio, "for an empty group τ = +∞, and your gradient of τ is no number there"),
)
right(
    "4.4",
    sharper=lambda *case: soft_copies(*case, soft=lambda d: torch.sigmoid(5 * d)),
    double=lambda S, A, tau: soft_copies(S.double(), A, tau.double()),
    arctan=lambda *case: soft_copies(*case, soft=torch.atan),
)

# The student's own rule: 04


def own_thresholds(S, A, k):
    return [
        sum(best) / len(best) if (best := sorted(S[A[:, g], g].tolist(), reverse=True)[:k]) else math.inf
        for g in range(S.shape[1])
    ]


def copies(S, k, score):
    scores = S if score == "logit" else S.softmax(dim=1)
    return duplicates(scores, membership(S), k)


def compared(S, k, score, above):
    scores = S if score == "logit" else S.softmax(dim=1)
    return above(scores, thresholds(scores, membership(S), k)) & ~membership(S)


class EverythingCopied(Layer):
    def copies(self, S):
        return ~membership(S)


class NothingCopied(Layer):
    def copies(self, S):
        return torch.zeros_like(S)


class SoftmaxCopied(Layer):
    def copies(self, S):
        return duplicates(S.softmax(1), membership(S), self.top_k)


wrong(
    "4.step1",
    all_members=(lambda S, A, k: thresholds(S, A, len(S)), "the mean over all members"),
    largest=(lambda S, A, k: S.masked_fill(~A, -torch.inf).amax(0), "that is the largest score"),
    kth=(
        lambda S, A, k: S.masked_fill(~A, -torch.inf).topk(min(k, len(S)), 0).values[-1],
        "that is the k-th largest score",
    ),
    everybody=(lambda S, A, k: S.topk(min(k, len(S)), dim=0).values.mean(0), "members only"),
    own_k=(lambda S, A, k: S.masked_fill(~A, -torch.inf).topk(min(k, len(S)), 0).values.mean(0), "averages over those"),
    empty=(
        lambda S, A, k: thresholds(S, A, k).nan_to_num(posinf=-math.inf),
        "so that it imports nothing",
    ),
    divides_by_zero=(lambda S, A, k: [1 / int(n) for n in A.sum(0) * 0], "stops with ZeroDivisionError"),
)
right("4.step1", lists=own_thresholds, numpy=numpied(thresholds), double=typed(thresholds, torch.float64))
wrong(
    "4.step2",
    not_strict=(lambda *case: compared(*case, torch.ge), "the comparison is strict"),
    members_too=(lambda S, k, score: copies(S, k, score) | membership(S), "a member is no copy"),
    score_ignored=(lambda S, k, score: copies(S, k, "logit"), "score = 'softmax' was asked for"),
    k_ignored=(lambda S, k, score: copies(S, 3, score), "best members"),
    k_is_one=(lambda S, k, score: copies(S, 1, score), "the copies for k = 1"),
    transposed=(lambda *case: copies(*case).T, "should give numbers of shape"),
    over_channels=(
        lambda S, k, score: duplicates(S if score == "logit" else S.softmax(0), membership(S), k),
        "that compares the softmax over the channels (dim=0)",
    ),
)
right("4.step2", floats=typed(copies, torch.float32), numpy=numpied(copies), lists=listed(copies))


class RuleInTraining(Layer):
    def copies(self, S):
        return super().copies(S) if self.training else torch.zeros_like(membership(S))


wrong(
    "4.step3",
    small_logits=(SmallLogits, "it should be drawn from N(0, 1)"),
    only_in_training=(RuleInTraining, "in eval mode too"),
    everything=(EverythingCopied, "FLGConv2d with the same W, S and T"),
    nothing=(NothingCopied, "FLGConv2d with the same W, S and T"),
    by_softmax=(SoftmaxCopied, "FLGConv2d with the same W, S and T"),
    no_top_k=(made, "takes 4 positional arguments but 5 were given"),
)
right("4.step3", own=Layer, einsum=Einsum, library=Library)

# 05


def accuracy(logits, labels):
    return (logits.argmax(dim=1) == labels).float().mean()


def is_decayed(name, parameter):
    return parameter.ndim > 1 and not name.endswith(("input_logits", "filter_logits"))


def report(held_out, test):
    return test[held_out.index(max(held_out))]


def second_best(held_out, test):
    return sorted(test)[-2]


def luckiest_of_ties(held_out, test):
    return max(t for h, t in zip(held_out, test, strict=True) if h == max(held_out))


wrong(
    "5.1",
    a_constant=(lambda logits, labels: 0.75, "are right: compare"),
    a_number=(lambda logits, labels: accuracy(logits, labels) * len(labels), "to get a share"),
    percent=(lambda logits, labels: 100 * accuracy(logits, labels), "not a percentage"),
    by_four=(lambda logits, labels: accuracy(logits, labels) * len(labels) / 4, "compare `logits.argmax"),
    wrong_axis=(lambda logits, labels: (logits.argmax(dim=0) == labels).float().mean(), "stops with RuntimeError"),
    by_classes=(lambda logits, labels: accuracy(logits, labels) * len(labels) / logits.shape[1], "number of classes"),
    errors=(lambda logits, labels: 1 - accuracy(logits, labels), "the share of wrong ones"),
)
right(
    "5.1",
    python=lambda logits, labels: accuracy(logits, labels).item(),
    numpy=lambda logits, labels: (logits.numpy().argmax(1) == labels.numpy()).mean(),
    fraction=lambda logits, labels: Fraction(int((logits.argmax(1) == labels).sum()), len(labels)),
    half=lambda logits, labels: accuracy(logits, labels).to(torch.bfloat16),
)
wrong(
    "5.2",
    logits_too=(lambda name, p: p.ndim > 1, "is S or T"),
    all_decayed=(lambda name, p: True, "norms and biases are not decayed"),
    four_axes=(lambda name, p: p.ndim == 4, "is a weight of a convolution or classifier"),
    by_known_names=(
        lambda name, p: p.ndim > 1 and name.startswith(("layer", "fc")) and is_decayed(name, p),
        "decay it",
    ),
    text=(lambda name, p: "yes" if is_decayed(name, p) else "no", "must say True or False"),
)
right(
    "5.2",
    by_word=lambda name, p: "logits" not in name and p.dim() >= 2,
    zero_or_one=lambda *case: int(is_decayed(*case)),
    tensor=lambda *case: torch.tensor(is_decayed(*case)),
    numpy=lambda *case: np.bool_(is_decayed(*case)),
)
wrong(
    "5.3",
    gradients=({*NEEDED, "epoch", "gradients"}, "gradients need not be saved"),
    no_moments=({*NEEDED, "epoch"} - {"moments of Adam"}, "there is 1 more thing to save"),
    no_progress=(set(NEEDED), "the learning rate would warm up a second time"),
    no_averages=(
        {*NEEDED, "epoch"} - {"running means of batch norm"},
        "Without it the run would not go on as if nothing had happened: the test",
    ),
    empty=(set(), "`saved` is empty"),
    unknown=({*NEEDED, "epoch", "the optimiser"}, "['the optimiser'] is not in the list"),
    one_word=("weights", "write a set of words"),
)
right(
    "5.3",
    no_epoch={*NEEDED, "step of the schedule"},
    no_step=[*NEEDED, "epoch"],
    array=np.array([*NEEDED, "epoch", "step of the schedule"]),
    keys=dict.fromkeys([*NEEDED, "epoch"]).keys(),
)
wrong(
    "5.4",
    test_chooses=(lambda held_out, test: max(test), "the test set has chosen the epoch"),
    third=(lambda held_out, test: test[2], "is the best held out"),
    held_out=(lambda held_out, test: max(held_out), "the images that chose the epoch"),
    last=(lambda held_out, test: test[-1], "the last epoch's"),
    average=(lambda held_out, test: sum(test) / len(test), "that is an average"),
    second_best=(second_best, "is the best held out"),
    luckiest_of_ties=(luckiest_of_ties, "the test set choosing again"),
)
right(
    "5.4",
    numpy=lambda held_out, test: np.array(test)[np.argmax(held_out)],
    tensor=lambda held_out, test: torch.tensor(test)[torch.tensor(held_out).argmax()],
    last_of_ties=lambda held_out, test: max(reversed(list(zip(held_out, test, strict=True))), key=lambda pair: pair[0])[
        1
    ],
)

# 06


def flow(before, after, groups):
    counts = np.zeros((groups, groups), dtype=int)
    np.add.at(counts, (before, after), 1)
    return counts


def strongest_first(groups_of, scores):
    return np.lexsort((-scores, groups_of))


def copied(inputs, own):
    return [(c, g) for c, g in np.argwhere(inputs).tolist() if g != own[c]]


def together(before, after):
    pairs = np.triu_indices(len(before), k=1)
    was, now = ((x[:, None] == x)[pairs] for x in (before, after))
    return now[was].mean()


def pairs_of(groups):
    return groups[:, None] == groups


wrong(
    "6.1",
    no_empty_last=(
        lambda before, after, groups: flow(before, after, max(before.max(), after.max()) + 1),
        "also for an empty one",
    ),
    transposed=(lambda before, after, groups: flow(after, before, groups), "rows and columns are exchanged"),
    at_most_one=(lambda *case: np.minimum(flow(*case), 1), "each entry is 1 at most"),
    shares=(lambda *case: flow(*case) / len(case[0]), "those are shares"),
)
right(
    "6.1",
    lists=lambda *case: flow(*case).tolist(),
    tensor=lambda *case: torch.tensor(flow(*case)).float(),
    half=lambda *case: flow(*case).astype(np.float16),
)
wrong(
    "6.2",
    weakest_first=(lambda groups_of, scores: np.lexsort((scores, groups_of)), "not the smallest"),
    numbers=(lambda groups_of, scores: np.sort(groups_of), "wanted are the channels' places"),
    one_key=(lambda groups_of, scores: np.argsort(10 * groups_of - scores), "in your order the groups are"),
    by_score=(lambda groups_of, scores: np.argsort(-scores), "the group counts first"),
    by_group_alone=(lambda groups_of, scores: np.argsort(groups_of, kind="stable"), "sorted by group alone"),
    ranks=(lambda *case: np.argsort(strongest_first(*case)), "which channel comes first"),
    a_part=(lambda *case: strongest_first(*case)[:-1], "must be there once"),
)
right(
    "6.2",
    python=lambda groups_of, scores: sorted(range(len(scores)), key=lambda c: (groups_of[c], -scores[c])),
    tensor=lambda *case: torch.tensor(strongest_first(*case)),
    floats=lambda *case: strongest_first(*case).astype(float),
    iterator=lambda groups_of, scores: reversed(np.lexsort((scores, -groups_of))),
)
wrong(
    "6.3",
    members=(lambda inputs, own: np.argwhere(inputs), "you list every membership"),
    first_is_own=(lambda inputs, own: copied(inputs, inputs.argmax(1)), "the first group of a row counts as its own"),
    swapped=(lambda inputs, own: [(g, c) for c, g in copied(inputs, own)], "the channel first"),
    only_channels=(lambda inputs, own: [c for c, _ in copied(inputs, own)], "a list of pairs"),
    the_shown=(lambda inputs, own: [(1, 0), (3, 0), (3, 1)], "is no copy"),
    doubled=(lambda *case: 2 * copied(*case), "each copy once"),
    one_each=(lambda inputs, own: list(dict(copied(inputs, own)).items()), "is missing"),
)
right(
    "6.3",
    set=lambda *case: set(copied(*case)),
    array=lambda *case: np.array(copied(*case), dtype=np.int8).reshape(-1, 2),
    tensor=lambda inputs, own: (torch.tensor(inputs) & ~F.one_hot(torch.tensor(own), inputs.shape[1]).bool()).nonzero(),
    reversed=lambda *case: tuple(reversed(copied(*case))),
)
wrong(
    "6.4",
    same_number=(lambda before, after: (before == after).mean(), "the number does not matter"),
    with_itself=(lambda before, after: pairs_of(after)[pairs_of(before)].mean(), "as a pair with itself"),
    rand_index=(
        lambda before, after: (pairs_of(before) == pairs_of(after))[np.triu_indices(len(before), 1)].mean(),
        "together or apart",
    ),
    of_all=(
        lambda before, after: (pairs_of(before) & pairs_of(after))[np.triu_indices(len(before), 1)].mean(),
        "of all pairs",
    ),
    the_shown=(lambda before, after: 1.0 if len(before) == 4 else 0.5, "count each pair"),
    other_way=(lambda before, after: together(after, before), "the other way round"),
)
right(
    "6.4",
    ordered_pairs=lambda before, after: (
        ((pairs_of(before) & pairs_of(after)).sum() - len(before)) / (pairs_of(before).sum() - len(before))
    ),
    tensor=lambda *case: torch.tensor(together(*case), dtype=torch.float32),
    array=lambda *case: np.array([together(*case)]),
)

# 07


def paired(method, baseline):
    seeds = method.keys() & baseline.keys()
    return 100 * sum(method[seed] - baseline[seed] for seed in seeds) / len(seeds)


def resampled(values, size=None, level=0.95, seed=0):
    drawn = np.random.default_rng(seed).choice(values, (4000, size or len(values)))
    return np.quantile(drawn.mean(axis=1), [(1 - level) / 2, (1 + level) / 2])


def seeds_needed(sd, difference):
    return math.ceil((1.96 * sd / difference) ** 2)


def by_search(sd, difference):
    n = 1
    while 1.96 * sd / math.sqrt(n) > difference:
        n += 1
    return n


def sign_flip(differences, extreme=lambda means, observed: np.abs(means) >= abs(observed) - 1e-12):
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    return extreme((signs * np.array(differences)).mean(axis=1), np.mean(differences)).mean()


wrong(
    "7.1",
    median=(
        lambda a, b: 100 * np.median([a[s] - b[s] for s in a.keys() & b.keys()]),
        "the mean is asked for",
    ),
    unpaired=(lambda a, b: 100 * (np.mean(list(a.values())) - np.mean(list(b.values()))), "over *different* seeds"),
    share=(lambda a, b: paired(a, b) / 100, "give percentage points"),
    sign=(lambda a, b: paired(b, a), "method minus baseline"),
    total=(lambda a, b: paired(a, b) * len(a.keys() & b.keys()), "that is the sum"),
    by_all=(lambda a, b: paired(a, b) * len(a.keys() & b.keys()) / len(a), "not by all"),
    all_seeds=(lambda a, b: np.mean([100 * (a[s] - b[s]) for s in a]), "stops with KeyError"),
)
right(
    "7.1",
    numpy=lambda a, b: np.float32(paired(a, b)),
    tensor=lambda a, b: torch.tensor([paired(a, b)], dtype=torch.float64),
    loop=lambda a, b: float(np.mean([a[s] * 100 - b[s] * 100 for s in sorted(a) if s in b])),
)
wrong(
    "7.2",
    a_constant=(lambda values: (43.8, 55.2), "it should be near"),
    of_values=(lambda values: np.quantile(values, [0.025, 0.975]), "95 % of the *means*"),
    normal=(
        lambda values: values.mean() + np.array([-1.96, 1.96]) * values.std() / math.sqrt(len(values)),
        "no mean of resampled values is below 0",
    ),
    ninety=(lambda values: resampled(values, level=0.90), "standard errors to each side, not 1.96"),
    upside_down=(lambda values: resampled(values)[::-1], "the lower end comes first"),
    no_replacement=(lambda values: 2 * [np.random.default_rng(0).permutation(values).mean()], "next to nothing wide"),
    small_draws=(lambda values: resampled(values, size=len(values) // 4), "it should be near"),
    one_end=(lambda values: values.mean(), "should give two numbers"),
)
right(
    "7.2",
    tuple=lambda values: tuple(resampled(values)),
    other_seed=lambda values: resampled(values, seed=7).tolist(),
    unseeded=lambda values: torch.tensor(resampled(values, seed=None)),
    loop=lambda values: np.percentile(
        [np.mean(row) for row in np.random.default_rng(1).choice(values, (1000, len(values)))], (2.5, 97.5)
    ).astype(np.float32),
)
wrong(
    "7.3",
    not_squared=(lambda sd, d: math.ceil(1.96 * sd / d), "Square the ratio"),
    rounded=(lambda sd, d: round((1.96 * sd / d) ** 2), "round up"),
    always_one_more=(lambda sd, d: int((1.96 * sd / d) ** 2) + 1, "one seed too many"),
    whole_width=(lambda sd, d: math.ceil((2 * 1.96 * sd / d) ** 2), "that is the whole width"),
    in_part=(lambda sd, d: (1.96 * sd / d) ** 2, "can't be run in part"),
    the_shown=(lambda sd, d: {0.3: 11, 0.1: 97}.get(d, 4), "is at most"),
)
right(
    "7.3",
    search=by_search,
    float=lambda *case: np.ceil((1.96 * case[0] / case[1]) ** 2),
    tensor=lambda *case: torch.tensor(seeds_needed(*case)),
)
wrong(
    "7.4",
    one_side=(lambda d: sign_flip(d, lambda means, observed: means >= observed - 1e-12), "counts one side only"),
    strict=(lambda d: sign_flip(d, lambda means, observed: np.abs(means) > abs(observed) + 1e-12), "≥, not >"),
    number=(lambda d: sign_flip(d) * 2 ** len(d), "divide by 2ⁿ"),
    less_extreme=(lambda d: 1 - sign_flip(d), "*less* extreme"),
    rounding=(lambda d: sign_flip(d, lambda means, observed: np.abs(means) >= abs(observed)), "does rounding make"),
    smallest=(lambda d: 2 / 2 ** len(d), "ways to choose signs"),
)
right(
    "7.4",
    fraction=lambda d: Fraction(int(sign_flip(d) * 2 ** len(d)), 2 ** len(d)),
    numpy=lambda d: np.array(sign_flip(d)),
    half_of_the_signs=lambda d: np.mean(
        [
            abs(d[0] + sum(s * v for s, v in zip(signs, d[1:], strict=True))) >= abs(sum(d)) - 1e-9
            for signs in itertools.product((1, -1), repeat=len(d) - 1)
        ]
    ),
)

# 08


def gather_conv(x, W, bias, inputs, filters):
    y = bias[:, None, None].expand(len(x), len(W), *x.shape[2:]).clone()
    for c, n in zip(inputs, filters, strict=True):
        if len(c) and len(n):
            y[:, n] += F.conv2d(x[:, c], W[n][:, c], padding=1)
    return y


def masked(W, inputs, filters):
    mask = torch.zeros(W.shape[:2])
    for c, n in zip(inputs, filters, strict=True):
        mask[n[:, None], c] = 1
    return W * mask[:, :, None, None]


def dense_with_mask(x, W, bias, inputs, filters):
    return F.conv2d(x, masked(W, inputs, filters), bias, padding=1)


def by_unfold(x, W, bias, inputs, filters):
    y = bias[:, None].repeat(len(x), 1, x[0, 0].numel())
    for c, n in zip(inputs, filters, strict=True):
        if len(c) and len(n):
            y[:, n] += W[n][:, c].flatten(1) @ F.unfold(x[:, c], 3, padding=1)
    return y.unflatten(2, x.shape[2:])


def shifted_with_mask(x, W, bias, inputs, filters):
    """The dense product under a mask, number by number, without a convolution or a product of matrices."""
    W, x, (height, width) = masked(W, inputs, filters), F.pad(x, (1, 1, 1, 1)), x.shape[2:]
    taps = itertools.product(range(3), range(3))
    return bias[:, None, None] + sum(
        (W[:, :, i, j, None, None] * x[:, None, :, i : i + height, j : j + width]).sum(2) for i, j in taps
    )


def laid_out(x, W, bias, inputs, filters):
    return gather_conv(x, W, torch.zeros_like(bias), inputs, filters) + bias[:, None, None] * torch.ones(
        len(x), 1, *x.shape[2:]
    )


def overwritten(x, W, bias, inputs, filters):
    y = torch.zeros(len(x), len(W), *x.shape[2:])
    for c, n in zip(inputs, filters, strict=True):
        if len(c) and len(n):
            y[:, n] = F.conv2d(x[:, c], W[n][:, c], bias[n], padding=1)
    return y


def not_empty(x, W, bias, inputs, filters):
    return torch.cat(
        [F.conv2d(x[:, c], W[n][:, c], bias[n], padding=1) for c, n in zip(inputs, filters, strict=True)], 1
    )


def macs(A, B, k, H, W):
    return int((A.sum(dim=0) * B.sum(dim=0)).sum()) * k**2 * H * W


def lighter(groups, least=4, top_k=3, fewest=min):
    from torchvision.models import mobilenet_v2

    plain = mobilenet_v2(num_classes=10)

    def wide(name, conv):
        return conv.groups == 1 and fewest(conv.in_channels, conv.out_channels) >= least * groups

    light = embed(plain, groups, where=wide, duplicate_top_k=top_k)
    return light, cost.count(light, (3, 32, 32)).macs / cost.count(plain, (3, 32, 32)).macs


def with_share(groups, change):
    light, share = lighter(groups)
    return light, change(share)


wrong(
    "8.1",
    order=(lambda order: order, "doing it twice is not always undoing it"),
    backwards=(lambda order: order.flip(0), "read backwards"),
    sorted=(lambda order: order.sort().values, "how it should look in the end"),
    twice=(lambda order: order[order], "where channel c lies now"),
)
right(
    "8.1",
    list=lambda order: [order.tolist().index(c) for c in range(len(order))],
    numpy=lambda order: np.argsort(order.numpy()).astype(float),
    scatter=lambda order: torch.empty_like(order).scatter(0, order, torch.arange(len(order))).int(),
)
wrong(
    "8.2",
    dense_with_mask=(dense_with_mask, "the values are right, but"),
    shifted_with_mask=(shifted_with_mask, "the values are right, but"),
    in_order=(lambda *case: not_empty(*case), "scattered groups"),
    no_bias_for_empty=(overwritten, "they output their bias"),
    no_padding=(lambda x, W, b, i, f: gather_conv(x, W, b, i, f)[:, :, 1:-1, 1:-1], "should give numbers of shape"),
    crash=(lambda x, W, b, i, f: x[:, 99], "stops with IndexError"),
)
right(
    "8.2",
    unfold=by_unfold,
    numpy=numpied(gather_conv),
    lists=listed(gather_conv),
    laid_out=laid_out,
    double=lambda x, W, b, i, f: gather_conv(x.double(), W.double(), b.double(), i, f),
)
wrong(
    "8.3",
    dense=(lambda A, B, k, H, W: len(A) * len(B) * k**2 * H * W, "that is the dense layer"),
    once=(
        lambda A, B, k, H, W: len(A) * int(B.sum()) // B.shape[1] * k**2 * H * W,
        "channels times filters group by group",
    ),
    k_not_squared=(lambda A, B, k, H, W: macs(A, B, 1, H, W) * k, "k² positions"),
    weights=(lambda A, B, k, H, W: macs(A, B, k, 1, 1), "at every one of H · W places"),
    mask_of_first=(lambda A, B, k, H, W: macs(membership(A.float()), B, k, H, W), "counts a copied channel once"),
)
right(
    "8.3",
    mask=lambda A, B, k, H, W: connection_mask(A, B).sum() * k**2 * H * W,
    float=lambda *case: float(macs(*case)),
    numpy=lambda A, B, k, H, W: (A.numpy().sum(0) @ B.numpy().sum(0)) * k**2 * H * W,
)
wrong(
    "8.4",
    all_wide=(lambda groups: lighter(groups, least=1), "should stay as it is: that is fewer than 4 · 8"),
    no_copies=(lambda groups: lighter(groups, top_k=None), "the paper's rule"),
    one_side=(lambda groups: lighter(groups, fewest=max), "must be at most in_channels=3"),
    percent=(lambda groups: with_share(groups, lambda share: 100 * share), "as a share, not in percent"),
    only_the_widest=(lambda groups: lighter(groups, least=10), "should learn its groups"),
    other_network=(lambda groups: (nn.Sequential(), 0.4), "there is no features.0.0 in your network"),
    network_alone=(lambda groups: lighter(groups)[0], "it should return two things"),
    share_of_the_rest=(lambda groups: with_share(groups, lambda share: 1 - share), "divide count(network"),
)
right(
    "8.4",
    list=lambda groups: list(lighter(groups)),
    tensor=lambda groups: with_share(groups, torch.tensor),
    array=lambda groups: with_share(groups, lambda share: np.array([share])),
)


def answered(exercise, answer, capsys):
    check(exercise, answer)
    return capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer", "words"), WRONG)
def test_a_wrong_answer_is_refused_with_its_sentence(exercise, answer, words, capsys):
    sentence = answered(exercise, answer, capsys)
    assert sentence.startswith("Not yet: "), sentence
    assert words in sentence
    assert len(sentence) < 500
    tensors = re.findall(r"\[[-+0-9einf., \[\]]*\]", sentence)
    assert max((len(re.findall(r"[0-9inf.]+", tensor)) for tensor in tensors), default=0) <= 16


@pytest.mark.parametrize(("exercise", "answer"), RIGHT)
def test_a_right_answer_counts_in_any_form(exercise, answer, capsys):
    assert answered(exercise, answer, capsys).startswith("✓ ")


def all_exercises():
    """Their numbers, from the functions that check them."""
    folder = "flgc_lib.course.exercises."
    numbered = [
        f"{int(c)}.{name.removeprefix('exercise_')}"
        for c in CHAPTERS
        for name in vars(importlib.import_module(f"{folder}chapter0{c}"))
        if name.startswith("exercise_")
    ]
    steps = [name.split("_")[1:] for name in vars(importlib.import_module(f"{folder}building")) if name[:5] == "step_"]
    return [*numbered, *(f"{chapter}.step{number}" for chapter, number in steps)]


@pytest.mark.parametrize("exercise", all_exercises())
def test_the_table_has_three_of_each(exercise):
    for table in (WRONG, RIGHT):
        assert sum(row.values[0] == exercise for row in table) >= 3


class Broken:
    """An answer that fails wherever it is touched."""

    def __call__(self, *arguments):
        raise LookupError("no such luck")

    def __len__(self):
        raise LookupError("no length")


JUNK = {
    "stub": ...,
    "none": None,
    "number": 3.5,
    "text": "text",
    "empty": (),
    "dict": {1: 2},
    "class": dict,
    "module": nn.Identity(),
    "returns stub": lambda *_: ...,
    "returns text": lambda *_: "text",
    "returns number": lambda *_: 7.25,
    "returns nan": lambda *_: math.nan,
    "returns dict": lambda *_: {"a": 1},
    "returns ragged": lambda *_: [[1, 2], [3]],
    "returns stubs in a list": lambda *_: [1, [...]],
    "returns tensor": lambda *_: torch.full((2, 3, 4), math.nan),
    "returns complex": lambda *_: torch.zeros(3, dtype=torch.complex64),
    "returns arguments": lambda *arguments: arguments,
    "returns module": lambda *_: nn.Linear(2, 2),
    "returns function": lambda *_: print,
    "returns iterator": lambda *_: iter([1, "a"]),
    "returns failing iterator": lambda *_: (1 / 0 for _ in "a"),
    "returns infinity": lambda *_: [[math.inf, math.inf], [math.inf, math.inf]],
    "returns nan pairs": lambda *_: (math.nan, math.nan),
    "takes nothing": lambda: 1,
    "raises": Broken(),
}


@pytest.mark.parametrize("exercise", all_exercises())
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_junk_gets_a_sentence_and_no_traceback(exercise, junk, capsys):
    sentence = answered(exercise, junk, capsys)
    assert sentence.startswith("Not yet: ")
    assert len(sentence) < 900


def test_a_students_exception_is_told_with_the_call_and_what_was_expected(capsys):
    sentence = answered("7.3", lambda sd, difference: 1 / 0, capsys)
    assert (
        sentence
        == "Not yet: `seeds_needed(0.5, 0.3)` stops with ZeroDivisionError: division by zero. It should give 11.\n"
    )
    assert "Run the cells above" in answered("7.3", lambda sd, d: undefined(sd), capsys)  # noqa: F821


def spoilt(argument):
    """Changes an argument in place, and says whether there was something to change."""
    if isinstance(argument, torch.Tensor):
        with torch.no_grad():
            argument.logical_not_() if argument.dtype == torch.bool else argument.data.add_(1)
    elif isinstance(argument, np.ndarray):
        argument[...] = ~argument if argument.dtype == bool else argument + 1
    elif isinstance(argument, list):
        argument.append(0.5)
    elif isinstance(argument, dict):
        argument.clear()
    else:
        return False
    return True


FUNCTIONS = {row.values[0]: row for row in RIGHT if not isinstance(row.values[1], (type, nn.Module))}
"""A right answer of each exercise that asks for a function, and takes more than numbers."""
PLAIN = [row for name, row in FUNCTIONS.items() if callable(row.values[1]) and name != "8.4"]


@pytest.mark.parametrize(("exercise", "answer"), PLAIN)
def test_an_answer_that_overwrites_what_it_was_given_is_told_so(exercise, answer, capsys):
    could = []

    def overwrites(*arguments):
        value = answer(*arguments)
        value = list(value) if isinstance(value, map) else value
        could.extend(map(spoilt, arguments))
        return value

    sentence = answered(exercise, overwrites, capsys)
    assert ("overwrites its argument" in sentence) == any(could), sentence
    assert sentence.startswith("✓ ") != any(could)


def test_thresholds_that_mask_s_in_place_are_told_so(capsys):
    def in_place(S, A, k):
        value = thresholds(S, A, k)
        S[~A] = -torch.inf
        return value

    sentence = answered("4.step1", in_place, capsys)
    assert "overwrites S, which whoever calls it goes on using" in sentence
    assert sentence.endswith("or work on a copy, `S.clone()`.\n")
    assert answered("4.step1", lambda S, A, k: in_place(S.clone(), A, k), capsys).startswith("✓ ")


@pytest.mark.parametrize(
    ("exercise", "answer", "claim"),
    [
        ("1.4", by_windows, "each one matrix product"),
        ("3.3", cheapest, "nearly every filter"),
        ("4.4", lambda *case: soft_copies(*case, soft=torch.atan), "sigmoid"),
        ("8.2", numpied(gather_conv), "not one multiplication by zero"),
    ],
)
def test_praise_says_only_what_holds_for_every_answer_that_gets_it(exercise, answer, claim, capsys):
    sentence = answered(exercise, answer, capsys)
    assert sentence.startswith("✓ ")
    assert claim not in sentence


def test_a_usual_mistake_is_named_only_if_it_explains_every_failure(capsys):
    student = Student(lambda x: 2 * x, "square", "")
    cases = [((2,), 4, "x · x.", {"twice": 4, "that is x.": 2}), ((3,), 9, "x · x.", {"twice": 6, "that is x.": 3})]
    with pytest.raises(NotYet, match="gives 6: twice"):
        student.solves(cases)
    with pytest.raises(NotYet, match="gives 5, but should give 9: x · x"):
        Student(lambda x: 5, "square", "").solves([cases[1], ((2,), 4, "", {"twice": 5, "that is x.": 1})])


def test_a_mended_class_stays_mended(capsys):
    forward = Bottleneck.forward
    answered("1.2", other_class_forward, capsys)
    assert Bottleneck.forward is forward


@pytest.mark.parametrize("exercise", ["9.1", "3.9", "three", "3.", "3.step9", "٣.1"])
def test_an_unknown_exercise_is_refused(exercise):
    with pytest.raises(ValueError, match="there is no exercise"):
        check(exercise, 1)


VALUES = [1, 1.0, True, np.float32(1), np.bool_(True), torch.tensor(1), torch.tensor([[1.0]]).half(), Fraction(1), [1]]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_one_is_one_in_any_form(value):
    assert agree(read(value, "it"), 1)
    assert not agree(read(value, "it"), 2)


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        (torch.tensor(0.1), 0.1, True),
        (torch.tensor(0.1, dtype=torch.bfloat16), 0.1, True),
        (0.1001, 0.1, False),
        (1000.0001, 1000, False),
        (10**9 + 1, 10**9, False),
        ([math.inf, 1], [math.inf, 1], True),
        ([-math.inf, 1], [math.inf, 1], False),
        (math.nan, 0, False),
        ([1, 2], [[1, 2]], False),
    ],
)
def test_agreement_is_up_to_rounding(given, wanted, same):
    assert agree(read(given, "it"), wanted) == same


@pytest.mark.parametrize(
    "value", ["1", {1: 2}, {1, 2}, 1j, [1, None], [1, ...], print, ["a"], np.array(["a"])], ids=repr
)
def test_what_is_no_number_is_told(value):
    with pytest.raises(NotYet, match="it: "):
        read(value, "it")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor([[1.0, 0.25]]), "[[1, 0.25]]"),
        (torch.zeros(30), "a tensor of shape (30,)"),
        (torch.full((8, 3), 1 / 3), "a tensor of shape (8, 3)"),
        ([[1 / 3] * 99], "a list of 1"),
        ([torch.zeros(30), 1], "[a tensor of shape (30,), 1]"),
        (np.array([[True, False]]), "[[1, 0]]"),
        (np.zeros((5, 6)), "an array of shape (5, 6)"),
        (1 / 3, "0.33333"),
        ({"a": (1, 2)}, "{'a': (1, 2)}"),
        ({1}, "{1}"),
        (..., "`...`"),
        (nn.ReLU(), "the module ReLU"),
        (nn.ReLU, "the class ReLU"),
        (object(), "a value of type object"),
    ],
)
def test_a_value_is_shown_shortly(value, text):
    assert show(value) == text
