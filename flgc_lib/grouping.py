"""The mathematics of learned groups: pure functions on tensors, in the order in which the paper uses them.

Notation, here and everywhere: C input channels, N filters (output channels), G groups; S (C, G) and T (N, G) are
the assignment logits of channels and filters; A (C, G) and B (N, G) say who belongs to which group; M = B Aᵀ (N, C)
says which filter sees which channel.

The course's worked example, 8 channels and 4 filters in 2 groups; only channel 1 is good enough to be copied:

>>> first, second = [(2.0, 0.3), (1.5, 1.4), (1.0, -0.2), (0.2, 0.1)], [(0.4, 1.2), (-0.1, 0.9), (0.5, 0.6), (0.0, 0.1)]
>>> S, T = torch.tensor(first + second), torch.tensor([(1.0, 0.0), (0.2, 0.7), (-0.3, 0.1), (0.9, 0.4)])
>>> A, B = membership(S), membership(T)
>>> thresholds(S, A)
tensor([1.5000, 0.9000])
>>> connection_mask(A | duplicates(S, A), B).int()
tensor([[1, 1, 1, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 1, 1, 1, 1],
        [0, 1, 0, 0, 1, 1, 1, 1],
        [1, 1, 1, 1, 0, 0, 0, 0]], dtype=torch.int32)

Source: Motohashi and Yamauchi, sections 2-3 (FLGC) and 3 (the duplication rule); Wang et al. 2019, arXiv 1904.00346.
"""

from typing import Literal, get_args

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.autograd import forward_ad

Estimator = Literal["full", "masked"]


def membership(logits: Tensor) -> Tensor:
    """Gives every channel (or filter) to the group with its largest logit (section 2-3).

    Args:
        logits: S, shape (C, G), or T, shape (N, G).

    Returns:
        BoolTensor of the same shape with exactly one True a row; a tie goes to the lowest group.

    Raises:
        ValueError: if `logits` is not a matrix with at least one column, or holds NaN or infinity.

    Example:
        >>> membership(torch.tensor([[2.0, 0.3], [0.4, 1.2], [1.0, 1.0]]))
        tensor([[ True, False],
                [False,  True],
                [ True, False]])
    """
    _check_matrix(logits, "logits")
    check_finite(logits, "assignment logits (S or T)")
    winner = logits.argmax(dim=1, keepdim=True)  # (C, 1); argmax returns the first of equal maxima
    return winner == torch.arange(logits.shape[1], device=logits.device)


def check_finite(values: Tensor, name: str) -> None:
    """Refuses numbers of a training that has diverged, by which no group is the best one.

    Raises:
        ValueError: saying what to do.
    """
    if _has_values(values) and not bool(values.isfinite().all()):
        raise ValueError(
            f"the {name} contain NaN or infinity, so no group is the best one; "
            "training has diverged: use a smaller learning rate, or go back to an earlier checkpoint"
        )


def thresholds(scores: Tensor, members: Tensor, top_k: int = 3) -> Tensor:
    """The score that a foreign channel has to beat to be copied into a group (section 3).

    τ(g) is the mean of the `top_k` largest scores among the members of g; a group with fewer members averages over
    all of them, and an empty group has τ = +∞: it never imports.

    Args:
        scores: how well channel c fits group g, shape (C, G).
        members: BoolTensor (C, G), True where channel c is in group g.
        top_k: how many of the best members set the threshold, at least 1.

    Returns:
        τ, shape (G,), of the type of `scores`.

    Raises:
        ValueError: if the shapes differ or `top_k` is below 1.

    Example:
        >>> scores = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [2.5, 4.0]])
        >>> thresholds(scores, membership(scores))  # (3 + 2 + 1) / 3, and 4 alone
        tensor([2., 4.])
    """
    _check_matrix(scores, "scores")
    if members.shape != scores.shape:
        raise ValueError(
            f"members has shape {tuple(members.shape)} but scores has {tuple(scores.shape)}; "
            "both must be (channels, groups)"
        )
    if top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1; the paper's rule uses top_k=3")
    best = scores.masked_fill(~members, -torch.inf).topk(min(top_k, len(scores)), dim=0).values  # (k, G)
    averaged = members.sum(dim=0).clamp(max=top_k)  # (G,): how many of the k rows are members
    ranks = torch.arange(len(best), device=scores.device)[:, None]  # (k, 1)
    total = best.masked_fill(ranks >= averaged, 0).sum(dim=0)
    return torch.where(averaged > 0, total / averaged, torch.inf)


def duplicates(scores: Tensor, members: Tensor, top_k: int = 3) -> Tensor:
    """The paper's rule: which channels are copied into which groups besides their own (section 3).

    Args:
        scores: how well channel c fits group g, shape (C, G): S itself, or its row softmax.
        members: BoolTensor (C, G) from `membership`.
        top_k: see `thresholds`.

    Returns:
        BoolTensor (C, G), True where channel c is not a member of g and scores[c, g] > τ(g), strictly. Copies only:
        `members | duplicates(scores, members)` is who works in which group.

    Raises:
        ValueError: as `thresholds`.

    Example:
        >>> scores = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [2.5, 4.0]])
        >>> duplicates(scores, membership(scores)).nonzero()  # channel 3 into group 0, for 2.5 > 2
        tensor([[3, 0]])
    """
    return (scores > thresholds(scores, members, top_k)) & ~members


def cocluster(importance: Tensor, inputs: Tensor, filters: Tensor, rounds: int = 3) -> tuple[Tensor, Tensor]:
    """Groups of the same sizes that keep more of the importance of connections.

    What the groups keep is Σ importance[n, c] over the pairs of a filter and a channel in one group. The best channels
    for given filters, and the best filters for given channels, are assignment problems, solved exactly in turn: the
    sum never falls.

    Args:
        importance: of the connection from channel c to filter n, shape (N, C), not negative.
        inputs: BoolTensor (C, G), one group a channel.
        filters: BoolTensor (N, G), one group a filter.
        rounds: how often both are assigned.

    Returns:
        `inputs` and `filters` anew.
    """
    for _ in range(rounds):
        inputs = _best_assignment(importance.T @ filters.to(importance.dtype), inputs.sum(dim=0))
        filters = _best_assignment(importance @ inputs.to(importance.dtype), filters.sum(dim=0))
    return inputs, filters


def coselect(importance: Tensor, filters: Tensor, count: int, rounds: int = 20) -> tuple[Tensor, Tensor]:
    """As `cocluster`, but each group takes the `count` channels that matter most to its filters, whoever else has them.

    So a channel can be in several groups or in none. The best channels for given filters are a ranking, the best
    filters for given channels an assignment problem: the sum never falls, and the rounds end when it stays.

    Args:
        importance: of the connection from channel c to filter n, shape (N, C), not negative.
        filters: BoolTensor (N, G), one group a filter.
        count: channels of each group, 1 … C.
        rounds: how often both are chosen at most.

    Returns:
        Importance of channel c for the filters of group g, Σ over n in g of importance[n, c], shape (C, G): each
        group's channels are those with its `count` largest; and `filters` anew.
    """
    for _ in range(rounds):
        for_groups = importance.T @ filters.to(importance.dtype)  # (C, G)
        value = importance @ largest(for_groups, count).to(importance.dtype)  # (N, G)
        chosen = _best_assignment(value, filters.sum(dim=0))
        if torch.equal(chosen, filters):
            break
        filters = chosen
    return importance.T @ filters.to(importance.dtype), filters


def largest(scores: Tensor, count: int) -> Tensor:
    """BoolTensor (C, G): the `count` largest scores of each column; of equal ones, the lowest channels."""
    order = scores.argsort(dim=0, descending=True, stable=True)  # (C, G): channels, best first
    return torch.zeros_like(scores, dtype=torch.bool).scatter(0, order[:count], True)


def _best_assignment(value: Tensor, sizes: Tensor) -> Tensor:
    """BoolTensor (rows, G): groups of the given sizes for which the sum of `value` (rows, G) is largest."""
    places = torch.arange(len(sizes), device=value.device).repeat_interleave(sizes)  # (rows,): each place's group
    _, chosen = linear_sum_assignment(value[:, places].numpy(force=True), maximize=True)
    groups = places[torch.from_numpy(chosen).to(value.device)]
    return torch.zeros_like(value, dtype=torch.bool).scatter(1, groups[:, None], True)


def connection_mask(inputs: Tensor, filters: Tensor) -> Tensor:
    """M = B Aᵀ: filter n sees channel c if some group holds both (section 2-3).

    Args:
        inputs: A, shape (C, G), bool, or float where a gradient is to flow; copies included.
        filters: B, shape (N, G), with one group a row, which keeps M at 0 and 1.

    Returns:
        M, shape (N, C), float.

    Raises:
        ValueError: if the two do not have the same number of groups.

    Example:
        >>> A = torch.tensor([[1, 0], [1, 1], [0, 1]])  # channel 1 is in both groups
        >>> B = torch.tensor([[1, 0], [0, 1]])
        >>> connection_mask(A, B)
        tensor([[1., 1., 0.],
                [0., 1., 1.]])
    """
    _check_matrix(inputs, "inputs")
    _check_matrix(filters, "filters")
    if inputs.shape[1] != filters.shape[1]:
        raise ValueError(
            f"inputs has {inputs.shape[1]} groups but filters has {filters.shape[1]}; both are (rows, groups)"
        )
    dtype = next((t.dtype for t in (inputs, filters) if t.is_floating_point()), torch.get_default_dtype())
    # (N, G) @ (G, C) -> (N, C)
    return filters.to(dtype) @ inputs.to(dtype).T


def straight_through(logits: Tensor, hard: Tensor, *, estimator: Estimator = "full") -> Tensor:
    """Forward `hard`, backward the row softmax of `logits`: a choice that can still be learned (section 2-3).

    An argmax has no gradient. The straight-through estimator answers as if the choice had been the softmax p, so
    that ∂/∂S[c, g] = p[c, g] (∂/∂A[c, g] - Σ_h p[c, h] ∂/∂A[c, h]), non-zero for every group.

    Args:
        logits: S (C, G) or T (N, G).
        hard: memberships of the same shape, 0/1 or bool, copies included.
        estimator: "full" is FLGC's. "masked" lets only the gradient of the chosen groups through, as the public
            implementation does: what the other groups would offer is then never felt, and channels hardly move.

    Returns:
        `hard` as float, exactly, with the gradient described.

    Raises:
        ValueError: if the shapes differ or the estimator is unknown.

    Example:
        >>> S = torch.tensor([[0.0, 0.0]], requires_grad=True)  # p = (1/2, 1/2)
        >>> A = straight_through(S, membership(S))
        >>> A.tolist()
        [[1.0, 0.0]]
        >>> A[0, 1].backward()  # what would more of the group that was not chosen do?
        >>> S.grad
        tensor([[-0.2500,  0.2500]])
    """
    if hard.shape != logits.shape:
        raise ValueError(f"hard has shape {tuple(hard.shape)} but logits has {tuple(logits.shape)}")
    check_choice("estimator", estimator, Estimator)
    hard = hard.to(logits.dtype)
    soft = logits.softmax(dim=1)
    if estimator == "masked":
        soft = soft * hard
    return hard + (soft - soft.detach())


def is_watched() -> bool:
    """Whether torch.func (grad, vmap, jvp), forward-mode differentiation, torch.jit.trace or a mode follows along.

    Modes are what make_fx and PyTorch's counter of operations work by.
    """
    level: int | None = torch._C._functorch.maybe_current_level()
    if level is not None or forward_ad._current_level >= 0 or torch.jit.is_tracing():
        return True
    return not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack() > 0


def _has_values(x: Tensor) -> bool:
    """Whether values may be looked at: it breaks a graph that is being captured, and some tensors have only a shape."""
    if torch.compiler.is_compiling() or is_watched() or x.is_meta or detect_fake_mode(x) is not None:
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def check_choice(name: str, value: str, choices: object) -> None:
    """Refuses, with a sentence, a value that is not one of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{name}={value!r} must be one of {', '.join(get_args(choices))}")


def _check_matrix(value: Tensor, name: str) -> None:
    if value.ndim != 2 or value.shape[1] < 1:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be a matrix (rows, groups)")
