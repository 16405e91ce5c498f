"""Checks of notebook 03."""

from collections.abc import Callable

import torch
from torch import Tensor

from flgc_lib.course.exercises import NotYet, filled
from flgc_lib.grouping import straight_through


def exercise_1(answer: Callable[[list[int], list[int]], Tensor | None]) -> str:
    """M from the group numbers of channels and filters."""
    channel_groups, filter_groups = [0, 1, 1], [1, 0]
    mask = _tensor(answer(channel_groups, filter_groups), (2, 3), "channels in groups [0, 1, 1], filters in [1, 0]")
    wanted = torch.tensor([[0.0, 1, 1], [1, 0, 0]])
    if torch.equal(mask, 1 - wanted):
        raise NotYet("every entry is the wrong way round: 1 means that the filter sees the channel, same group")
    if not torch.equal(mask, wanted):
        raise NotYet(
            f"for channels in groups [0, 1, 1] and filters in [1, 0] you gave {mask.int().tolist()}, but filter 0 "
            "(group 1) sees channels 1 and 2, and filter 1 (group 0) sees channel 0: [[0, 1, 1], [1, 0, 0]]"
        )
    generator = torch.Generator().manual_seed(0)
    channels, filters = torch.randint(5, (12,), generator=generator), torch.randint(5, (7,), generator=generator)
    mask = _tensor(answer(channels.tolist(), filters.tolist()), (7, 12), "12 channels and 7 filters in 5 groups")
    if not torch.equal(mask, (filters[:, None] == channels).float()):
        raise NotYet("right for two groups, but not for five: compare group numbers, don't test for 0 and 1")
    return "M[n, c] is 1 exactly where filter n and channel c are in the same group, for any number of groups."


def exercise_2(answer: Callable[[Tensor, Tensor], Tensor | None]) -> str:
    """The straight-through gradient by hand."""
    generator = torch.Generator().manual_seed(0)
    S = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    upstream = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    given = _tensor(answer(S, upstream), (6, 4), "S of 6 channels and 4 groups")
    p = S.softmax(dim=1)
    if torch.allclose(given, p * upstream):
        raise NotYet(
            "you gave p · u, the first half: raising one logit also lowers the other shares of its row; subtract "
            "what the row gets on average, Σ_h p[c, h] u[c, h], from u before you multiply"
        )
    if torch.allclose(given, p * (upstream - upstream.mean(dim=1, keepdim=True))):
        raise NotYet("the average over a row must be weighted by p: Σ_h p[c, h] u[c, h], not the plain mean of u")
    if torch.allclose(given, p * (upstream - (p * upstream).sum())):
        raise NotYet("the sum goes over the groups of one channel (dim=1, keepdim=True), not over all channels")
    logits = S.clone().requires_grad_()
    wanted = torch.autograd.grad((straight_through(logits, torch.zeros_like(S)) * upstream).sum(), logits)[0]
    if not torch.allclose(given, wanted):
        raise NotYet(
            f"for channel 0 with p = {_short(p[0])} and u = {_short(upstream[0])} you gave {_short(given[0])}, "
            f"autograd says {_short(wanted[0])}; try p · (u - Σ p u) on paper for this row"
        )
    return "The same as autograd's, to the last digit: p (u - Σ p u), and each row sums to zero."


def exercise_3(answer: Callable[[list[int], list[int]], int | None]) -> str:
    """Connections of unequal groups."""
    for channels, filters in (([16, 16], [16, 16]), ([24, 8], [24, 8]), ([24, 8], [8, 24]), ([5, 0, 3], [2, 4, 1])):
        hint = "`connections` returned nothing yet: add up, over the groups, channels times filters"
        given = filled(answer(channels, filters), hint)
        wanted = sum(a * b for a, b in zip(channels, filters, strict=True))
        if given == sum(channels) * sum(filters):
            raise NotYet(
                f"you gave {given} for channels {channels} and filters {filters}: that is every filter with every "
                "channel, a dense layer; a filter sees only the channels of its own group"
            )
        if given != wanted:
            raise NotYet(
                f"for channels {channels} and filters {filters} you gave {given}; group by group it is "
                + " + ".join(f"{a}·{b}" for a, b in zip(channels, filters, strict=True))
                + f" = {wanted}"
            )
    return "24 + 8 channels cost more than 16 + 16 if the filters go along (640 against 512), and less if not (384)."


def exercise_4(answer: Callable[[Tensor], Tensor | None]) -> str:
    """A penalty that balances the groups."""
    even = torch.zeros(8, 4, dtype=torch.float64)
    uneven = torch.zeros(8, 4, dtype=torch.float64)
    uneven[:, 0] = 2
    uneven.requires_grad_()
    hint = "`imbalance` returned nothing yet: it takes S and returns one number, 0 when groups are equal"
    at_even, at_uneven = filled(answer(even), hint), answer(uneven)
    if not isinstance(at_even, Tensor) or not isinstance(at_uneven, Tensor) or at_uneven.ndim:
        raise NotYet("return one number as a tensor (shape ()), so that `loss + imbalance(S)` can be differentiated")
    if at_even.abs() > 1e-9 or at_uneven < 1e-6:
        raise NotYet(
            f"equal shares must give 0 and unequal ones more; you gave {at_even:.3g} for S = 0, where every group has "
            f"the share 1/G, and {at_uneven.detach():.3g} where all channels prefer group 0"
        )
    if not at_uneven.requires_grad:
        raise NotYet("no gradient reaches S: count with the softmax, not with the argmax, which has no gradient")
    gradient = torch.autograd.grad(at_uneven, uneven)[0]
    if not (gradient[:, 0] > 0).all() or not (gradient[:, 1:] < 0).all():
        raise NotYet(
            "its gradient must lower the logits of the full group (∂/∂S[:, 0] > 0) and raise those of the empty ones; "
            f"yours for channel 0 is {_short(gradient[0])}"
        )
    sharp = torch.eye(4, dtype=torch.float64).repeat(2, 1) * 20
    if answer(sharp).abs() > 1e-6:  # type: ignore[union-attr]
        raise NotYet(
            "eight channels in four groups of two, each of them sure of its group, are balanced, yet you gave "
            f"{answer(sharp):.3g}: compare the groups' sizes (mean over channels) with 1/G, not each channel's softmax"
        )
    return "Zero for equal groups, its gradient drains the full group, and channels may still be sure of their choice."


def _tensor(value: object, shape: tuple[int, ...], case: str) -> Tensor:
    filled(value, f"your function returned nothing yet; for {case} it should return a tensor of shape {shape}")
    if not isinstance(value, Tensor) or value.shape != shape:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise NotYet(f"for {case} a tensor of shape {shape} is wanted, but you gave {found}")
    return value.detach().to(torch.get_default_dtype() if not value.is_floating_point() else value.dtype)


def _short(row: Tensor) -> str:
    return "(" + ", ".join(f"{v:.2f}" for v in row.detach().tolist()) + ")"
