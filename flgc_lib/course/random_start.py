"""How often the duplication rule fires at a random start, S ~ N(0, 1): counted in a simulation, and by integration.

Source: Motohashi and Yamauchi, section 3, for the rule; the integral is ours.
"""

import numpy as np
import torch
from scipy.special import ndtr
from scipy.stats import binom
from torch import Tensor

from flgc_lib.grouping import duplicates, membership
from flgc_lib.layers import Score


def simulated_copies(
    channels: int, groups: int, *, top_k: int = 3, score: Score = "logit", draws: int, seed: int = 0
) -> Tensor:
    """Number of copies that the rule makes in each of `draws` random S with independent N(0, 1) entries."""
    generator = torch.Generator().manual_seed(seed)
    copies = []
    for _ in range(draws):
        S = torch.randn(channels, groups, generator=generator)
        scores = S if score == "logit" else S.softmax(dim=1)
        copies.append(duplicates(scores, membership(S), top_k).sum())
    return torch.stack(copies).double()


def expected_copies(channels: int, groups: int, *, top_k: int = 3) -> float:
    """Expected number of copies for S with independent N(0, 1) entries and the logit score, by integration.

    Exact up to the grid. A member's logit is the largest of G normals (distribution Φ^G); a non-member's has the
    distribution (GΦ - Φ^G) / (G - 1). Given that channel c is not in g, each of the other C - 1 channels is, with
    probability 1/G. Of m > k members the k largest, given the (k+1)-th largest t, are k independent draws above t,
    and their mean has a density by convolution.

    Args:
        channels: C.
        groups: G; with one group there is nothing to copy.
        top_k: k.
    """
    C, G = channels, groups
    if G == 1:
        return 0.0
    step = 0.04  # of the grid
    x = np.arange(-6, 8, step)
    below = ndtr(x)  # Φ
    member = np.clip(np.diff(below**G, append=1), 0, None)  # probability of each cell of the grid, (X,)
    outside = (G * below - below**G) / (G - 1)  # distribution of a non-member's logit

    def beats_mean(cells: np.ndarray, k: int) -> float:
        """P(a non-member's logit > the mean of k independent draws from `cells`)."""
        size = k * (len(cells) - 1) + 1
        total = np.fft.irfft(np.fft.rfft(cells, 2 * size) ** k, 2 * size)[:size]  # cell i: sum k·x[0] + i·step
        mean = x[0] + (np.arange(size) / k + 0.5) * step  # + 0.5: the middles of the cells
        return float(total @ (1 - np.interp(mean, x, outside)))

    probability = np.zeros(C)  # of a copy, given m members
    for m in range(1, min(top_k, C - 1) + 1):
        probability[m] = beats_mean(member, m)
    tail = member[::-1].cumsum()[::-1]  # P(a member's logit is in this cell or above)
    places = np.flatnonzero((tail > 1e-9) & (tail < 1 - 1e-12))
    above = np.array([beats_mean(np.where(np.arange(len(x)) >= i, member, 0) / tail[i], top_k) for i in places])
    above = (above + np.append(above[1:], above[-1])) / 2  # t lies somewhere in its cell
    for m in range(top_k + 1, C):
        # The (k+1)-th largest of m lies in cell i if at least k + 1 lie in i or above but not so for i + 1.
        reach = binom.sf(top_k, m, tail[places])
        probability[m] = np.clip(reach - np.append(reach[1:], 0), 0, None) @ above
    return float(C * (G - 1) * (binom.pmf(np.arange(C), C - 1, 1 / G) @ probability))
