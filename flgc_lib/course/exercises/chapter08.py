"""Checks of notebook 08."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from flgc_lib.cost import count
from flgc_lib.course.exercises.answers import Case, Student, draw, expect
from flgc_lib.course.exercises.values import NotYet, number, show
from flgc_lib.grouping import connection_mask
from flgc_lib.layers import FLGConv2d

IMAGE = (3, 32, 32)
"""Size of the image for which exercise 8.4 counts."""


def exercise_1(answer: object) -> str:
    """The order that undoes an order."""
    hint = "`undo` returned nothing yet: it takes an order and returns the order that undoes it"
    student, generator = Student(answer, "undo", hint), torch.Generator().manual_seed(0)
    shown = [torch.tensor(order) for order in ([2, 0, 1], [1, 0, 2, 3], [4, 2, 0, 1, 3])]
    asked: list[Case] = []
    for order in (*shown, *(torch.randperm(n, generator=generator) for n in (1, 6, 9, 16))):
        mistakes = {
            "that is the order itself; doing it twice is not always undoing it.": order,
            "that is the order read backwards.": order.flip(0),
            "that is how it should look in the end; entry c must say where channel c lies now.": torch.arange(
                len(order)
            ),
        }
        why = f"entry c must say where channel c lies now, and channel 0 lies at place {order.tolist().index(0)}."
        asked.append(((order,), order.argsort(), why, mistakes))
    student.solves(asked)
    return "Sorting an order by itself gives the order that undoes it: its inverse permutation."


def exercise_2(answer: object) -> str:
    """Gather, convolve, put in place, group by group, edge cases included."""
    hint = "`gather_conv` returned nothing yet: it should return a tensor of shape (batch, N, H, W)"
    student, generator = Student(answer, "gather_conv", hint), torch.Generator().manual_seed(0)
    shown = [
        ([[0, 1], [2, 3]], [[0, 1], [2]], "groups in order: nothing has to move."),
        (
            [[3, 0], [1, 2]],
            [[2, 0], [1]],
            "scattered groups: gather channels with the first list, write to the second.",
        ),
        ([[0, 1, 2], [3]], [[1], [0, 2]], "groups of unequal size."),
        ([[0, 1, 2], [2, 3]], [[0, 2], [1]], "channel 2 is in both groups, so that it is gathered twice."),
        ([[0, 1, 2, 3], []], [[0], [1, 2]], "group 1 has filters but no channel: they output their bias."),
        ([[0, 1], [2, 3]], [[0, 1, 2], []], "group 1 has channels but no filter: nothing to compute."),
    ]
    for inputs, filters, why in (*shown, *(_random_groups(generator) for _ in range(6))):
        _convolves_groups(student, inputs, filters, why, generator)
    return (
        "Unequal, overlapping and empty groups, and no more multiplications, as PyTorch counts them, than the "
        "connections need."
    )


def _products(*_: object, out_shape: Sequence[int], **__: object) -> int:
    """Operations of an elementwise product, a multiplication counted as two like PyTorch's other counts."""
    return 2 * math.prod(out_shape)


def _random_groups(generator: torch.Generator) -> tuple[list[list[int]], list[list[int]], str]:
    C, N, G = draw(5, 10, generator), draw(4, 8, generator), draw(2, 4, generator)
    A = F.one_hot(torch.randint(G, (C,), generator=generator), G).bool() | (torch.rand(C, G, generator=generator) < 0.1)
    B = F.one_hot(torch.randint(G, (N,), generator=generator), G).bool()
    groups = [[member.nonzero()[:, 0].tolist() for member in rows.T] for rows in (A, B)]
    return groups[0], groups[1], f"{C} channels and {N} filters in {G} groups drawn at random."


def _convolves_groups(
    student: Student, inputs: list[list[int]], filters: list[list[int]], why: str, generator: torch.Generator
) -> None:
    C, N = 1 + max(c for group in inputs for c in group), sum(map(len, filters))
    W, bias = torch.randn(N, C, 3, 3, generator=generator), torch.randn(N, generator=generator)
    x = torch.randn(2, C, 5, 6, generator=generator)
    wanted = F.conv2d(
        x, W * connection_mask(_members(inputs, C), _members(filters, N))[:, :, None, None], bias, padding=1
    )
    lists = [[torch.tensor(group, dtype=torch.long) for group in groups] for groups in (inputs, filters)]
    where = f"`gather_conv` with inputs {inputs} and filters {filters}"
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mul: _products}) as counter:
        try:
            value = student(x, W, bias, *lists)
        except NotYet as fault:
            raise NotYet(str(fault) if str(fault) == student.hint else f"{where}: {fault} Here {why}") from fault
    expect(where, value, wanted, f"that is the masked layer; {why}")
    needed = sum(len(c) * len(n) for c, n in zip(inputs, filters, strict=True)) * 9 * x[:, 0].numel()
    done = counter.get_total_flops() // 2  # a multiply-accumulate is two operations
    if done > needed + wanted.numel():  # a bias may be laid out by one product for each number
        raise NotYet(
            f"{where}: the values are right, but {done:,} multiplications are done where {needed:,} are needed: a "
            "mask, for example, multiplies by zero. Gather each group's channels and use a small convolution."
        )


def exercise_3(answer: object) -> str:
    """MACs of overlapping groups."""
    hint = "`macs` returned nothing yet: it takes A, B, k, H and W, and returns a whole number"
    student, generator = Student(answer, "macs", hint), torch.Generator().manual_seed(0)
    shown = [
        ([[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 3], [1, 2]], 1, 1, 1),
        ([[0, 1, 2, 3], [1, 4, 5, 6, 7]], [[0, 3], [1, 2]], 1, 1, 1),
        ([[0, 1, 2, 3], [1, 4, 5, 6, 7]], [[0], [1, 2, 3]], 1, 1, 1),
        ([[0, 1, 2], [1, 3, 4, 5, 6, 7]], [[0, 1, 2, 3], []], 1, 1, 1),
        ([[0, 1, 2, 3], [1, 4, 5, 6, 7]], [[0, 3], [1, 2]], 3, 5, 7),
    ]
    hidden = [
        (*_random_groups(generator)[:2], draw(1, 5, generator), draw(2, 9, generator), draw(2, 9, generator))
        for _ in "six"
    ]
    asked: list[Case] = []
    for inputs, filters, k, height, width in (*shown, *hidden):
        A = _members(inputs, 1 + max(c for group in inputs for c in group))
        B = _members(filters, sum(map(len, filters)))
        places = k**2 * height * width
        sizes = [(len(c), len(n)) for c, n in zip(inputs, filters, strict=True)]
        sum_of_groups = " + ".join(f"{c}·{n}" for c, n in sizes)
        mistakes = {
            "that is the dense layer: a filter meets only the channels of its own group.": len(A) * len(B) * places,
            "the kernel has k² positions.": sum(c * n for c, n in sizes) * k * height * width,
            "that is the number of weights; each is used at every one of H · W places.": sum(c * n for c, n in sizes)
            * k**2,
            "that counts a copied channel once; it costs in every group that it is in.": sum(
                len(set(c) - {x for other in inputs[:g] for x in other}) * len(filters[g]) for g, c in enumerate(inputs)
            )
            * places,
        }
        why = f"({sum_of_groups}) connections, channels times filters group by group, times {k}² · {height} · {width}."
        asked.append(((A, B, k, height, width), sum(c * n for c, n in sizes) * places, why, mistakes))
    student.solves(asked)
    return "Σ |inputs(g)| |filters(g)| k² H W, and a copy pays once for every filter of the group that it joins."


def exercise_4(answer: object) -> str:
    """MobileNetV2 with learned groups where they are worth it."""
    from torchvision.models import mobilenet_v2

    hint = "`lighter_mobilenet` returned nothing yet: it should return the network and its share of MACs"
    student, plain = Student(answer, "lighter_mobilenet", hint), mobilenet_v2(num_classes=10)
    dense = count(plain, IMAGE).macs
    shares = []
    for groups in (8, 16, 5):
        given = student(groups)
        if not isinstance(given, Sequence) or len(given) != 2 or not isinstance(given[0], nn.Module):
            raise NotYet(
                f"`lighter_mobilenet` gives {show(given)}; it should return two things: the network, and a number."
            )
        network, share = given[0], number(given[1], "the second thing that `lighter_mobilenet` returns")
        layers = dict(network.named_modules())
        for name, conv in plain.named_modules():
            if isinstance(conv, nn.Conv2d):
                _check_mobilenet(name, conv, layers.get(name), groups)
        wanted = count(network, IMAGE).macs / dense
        percent = " as a share, not in percent" if abs(share - 100 * wanted) < wanted else ""
        if not abs(share - wanted) <= 1e-5:
            raise NotYet(
                f"for G = {groups} your network costs {wanted:.3f} of the dense MACs at {IMAGE}, but you returned "
                f"{share:.3f}: divide count(network, {IMAGE}).macs by that of the untouched network{percent}."
            )
        shares.append(wanted)
    few, many, _ = shares
    return f"{few:.0%} of the MACs with 8 groups; with 16 fewer layers are wide enough, and {many:.0%} are left."


def _check_mobilenet(name: str, conv: nn.Conv2d, given: nn.Module | None, groups: int) -> None:
    wide = conv.groups == 1 and min(conv.in_channels, conv.out_channels) >= 4 * groups
    described = f"{name} ({conv.in_channels} channels, {conv.out_channels} filters)"
    if given is None:
        raise NotYet(f"G = {groups}: there is no {name} in your network; use `embed`, which keeps all names.")
    if wide and not isinstance(given, FLGConv2d):
        raise NotYet(f"G = {groups}: {described} should learn its groups: both numbers are at least 4 · {groups}.")
    if wide and isinstance(given, FLGConv2d) and (given.groups, given.duplicate_top_k) != (groups, 3):
        raise NotYet(
            f"{described} has groups={given.groups} and duplicate_top_k={given.duplicate_top_k}; "
            f"it should have {groups} and 3, the paper's rule."
        )
    if not wide and not isinstance(given, nn.Conv2d):
        reason = "it is depthwise" if conv.groups > 1 else f"that is fewer than 4 · {groups} on one side"
        raise NotYet(f"G = {groups}: {described} should stay as it is: {reason}; say so with `where`.")


def _members(groups: list[list[int]], count: int) -> Tensor:
    """(count, G), bool, from the indices of each group."""
    members = torch.zeros(count, len(groups), dtype=torch.bool)
    for g, group in enumerate(groups):
        members[group, g] = True
    return members
