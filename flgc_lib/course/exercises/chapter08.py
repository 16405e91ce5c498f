"""Checks of notebook 08."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flgc_lib.cost import count
from flgc_lib.course.exercises import NotYet, filled
from flgc_lib.grouping import connection_mask
from flgc_lib.layers import FLGConv2d

IMAGE = (3, 32, 32)
"""Size of the image for which exercise 8.4 counts."""


def exercise_1(answer: Callable[[Tensor], Tensor | None]) -> str:
    """The order that undoes an order."""
    for order in ([2, 0, 1], [1, 0, 2, 3], [4, 2, 0, 1, 3]):
        hint = "`undo` returned nothing yet: it takes an order and returns the order that undoes it"
        given = torch.as_tensor(filled(answer(torch.tensor(order)), hint))
        if given.shape != (len(order),) or given.is_floating_point():
            raise NotYet(f"for order {order} the answer must be {len(order)} whole numbers, yours is {given}")
        if sorted(given.tolist()) != list(range(len(order))):
            raise NotYet(f"for order {order} you gave {given.tolist()}: every place 0 … {len(order) - 1} exactly once")
        wanted = torch.tensor(order).argsort()
        if not torch.equal(given.long(), wanted):
            letters = "abcde"[: len(order)]
            moved = "".join(letters[i] for i in order)
            back = "".join(moved[int(i)] for i in given)
            raise NotYet(
                f"order {order} turns {letters} into {moved}, and your {given.tolist()} turns that into {back}: entry "
                f"c must say where channel c lies now, and channel 0 lies at place {order.index(0)}"
            )
    return "Sorting an order by itself gives the order that undoes it: its inverse permutation."


Gather = Callable[[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]], Tensor | None]


def exercise_2(answer: Gather) -> str:
    """Gather, convolve, put in place, group by group, edge cases included."""
    generator = torch.Generator().manual_seed(0)
    cases = (
        ([[0, 1], [2, 3]], [[0, 1], [2]], "groups in order: nothing has to move"),
        ([[3, 0], [1, 2]], [[2, 0], [1]], "scattered groups: gather channels with the first list, write to the second"),
        ([[0, 1, 2], [3]], [[1], [0, 2]], "groups of unequal size"),
        ([[0, 1, 2], [2, 3]], [[0, 2], [1]], "channel 2 is in both groups, so that it is gathered twice"),
        ([[0, 1, 2, 3], []], [[0], [1, 2]], "group 1 has filters but no channel: they output their bias"),
        ([[0, 1], [2, 3]], [[0, 1, 2], []], "group 1 has channels but no filter: nothing to compute"),
    )
    for inputs, filters, why in cases:
        W = torch.randn(3, 4, 3, 3, generator=generator)  # (N, C, k, k)
        bias, x = torch.randn(3, generator=generator), torch.randn(2, 4, 5, 6, generator=generator)
        A, B = _members(inputs, 4), _members(filters, 3)
        wanted = F.conv2d(x, W * connection_mask(A, B)[:, :, None, None], bias, padding=1)
        where = f"inputs {inputs}, filters {filters}"
        lists = [[torch.tensor(group, dtype=torch.long) for group in groups] for groups in (inputs, filters)]
        try:
            given = answer(x, W, bias, *lists)
        except (RuntimeError, IndexError, ValueError) as fault:
            reason = str(fault).splitlines()[0]
            raise NotYet(f"{where} ends in {type(fault).__name__} ({reason}); {why}") from None
        filled(given, "`gather_conv` returned nothing yet: it should return a tensor of shape (batch, N, H, W)")
        if not isinstance(given, Tensor) or given.shape != wanted.shape:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise NotYet(f"{where}: the result should have shape {tuple(wanted.shape)}, yours is {shape}; {why}")
        for n in range(3):
            if not torch.allclose(given[:, n], wanted[:, n], atol=1e-5):
                raise NotYet(f"{where}: output channel {n} differs from that of the masked layer; {why}")
    return "Unequal, overlapping and empty groups, and not one multiplication by zero."


def exercise_3(answer: Callable[[Tensor, Tensor, int, int, int], int | None]) -> str:
    """MACs of overlapping groups."""
    cases = (
        ([[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 3], [1, 2]], 1, 1, 1, "4 · 2 + 4 · 2"),
        ([[0, 1, 2, 3], [1, 4, 5, 6, 7]], [[0, 3], [1, 2]], 1, 1, 1, "4 · 2 + 5 · 2: channel 1 is in both groups"),
        ([[0, 1, 2, 3], [1, 4, 5, 6, 7]], [[0], [1, 2, 3]], 1, 1, 1, "4 · 1 + 5 · 3: groups' filters are unequal too"),
        ([[0, 1, 2], [1, 3, 4, 5, 6, 7]], [[0, 1, 2, 3], []], 1, 1, 1, "3 · 4 + 6 · 0: no filter, no cost"),
        ([[0, 1, 2, 3], [1, 4, 5, 6, 7]], [[0, 3], [1, 2]], 3, 5, 7, "(4 · 2 + 5 · 2) · 3² at each of 5 · 7 places"),
    )
    for inputs, filters, kernel, height, width, why in cases:
        A, B = _members(inputs, 8), _members(filters, 4)
        hint = "`macs` returned nothing yet: it takes A, B, k, H and W, and returns a whole number"
        given = filled(answer(A, B, kernel, height, width), hint)
        wanted = int((A.sum(dim=0) * B.sum(dim=0)).sum()) * kernel**2 * height * width
        if float(given) != wanted:
            raise NotYet(
                f"for groups of channels {inputs} and of filters {filters}, k = {kernel} and {height} × {width} places "
                f"you gave {given}, not {wanted} = {why}"
            )
    return "Σ |inputs(g)| |filters(g)| k² H W, and a copy pays once for every filter of the group that it joins."


def exercise_4(answer: Callable[[int], tuple[nn.Module, float] | None]) -> str:
    """MobileNetV2 with learned groups where they are worth it."""
    from torchvision.models import mobilenet_v2

    plain = mobilenet_v2(num_classes=10)
    dense = count(plain, IMAGE).macs
    shares = []
    for groups in (8, 16):
        hint = "`lighter_mobilenet` returned nothing yet: it should return the network and its share of MACs"
        given = filled(answer(groups), hint)
        if not isinstance(given, Sequence) or len(given) != 2 or not isinstance(given[0], nn.Module):
            raise NotYet("`lighter_mobilenet` should return two things: the network, and a number")
        network, share = given
        layers = dict(network.named_modules())
        for name, conv in plain.named_modules():
            if isinstance(conv, nn.Conv2d):
                _check_mobilenet(name, conv, layers.get(name), groups)
        wanted = count(network, IMAGE).macs / dense
        if abs(share - wanted) > 1e-6:
            raise NotYet(
                f"for G = {groups} your network costs {wanted:.3f} of the dense MACs at {IMAGE}, but you returned "
                f"{share:.3f}: divide count(network, {IMAGE}).macs by that of the untouched network"
            )
        shares.append(wanted)
    few, many = shares
    return f"{few:.0%} of the MACs with 8 groups; with 16 fewer layers are wide enough, and {many:.0%} are left."


def _check_mobilenet(name: str, conv: nn.Conv2d, given: nn.Module | None, groups: int) -> None:
    wide = conv.groups == 1 and min(conv.in_channels, conv.out_channels) >= 4 * groups
    described = f"{name} ({conv.in_channels} channels, {conv.out_channels} filters)"
    if wide and not isinstance(given, FLGConv2d):
        raise NotYet(f"G = {groups}: {described} should learn its groups: both numbers are at least 4 · {groups}")
    if wide and isinstance(given, FLGConv2d) and (given.groups, given.duplicate_top_k) != (groups, 3):
        raise NotYet(
            f"{described} has groups={given.groups} and duplicate_top_k={given.duplicate_top_k}; "
            f"it should have {groups} and 3, the paper's rule"
        )
    if not wide and not isinstance(given, nn.Conv2d):
        reason = "it is depthwise" if conv.groups > 1 else f"that is fewer than 4 · {groups} on one side"
        raise NotYet(f"G = {groups}: {described} should stay as it is: {reason}; say so with `where`")


def _members(groups: list[list[int]], count: int) -> Tensor:
    """(count, G), bool, from the indices of each group."""
    members = torch.zeros(count, len(groups), dtype=torch.bool)
    for g, group in enumerate(groups):
        members[group, g] = True
    return members
