"""The worked example of the duplication rule: 8 channels, 4 filters, 2 groups, and what follows from them.

Source: Motohashi and Yamauchi, section 3, whose rule it applies with k = 3; the numbers are ours.
"""

import pandas as pd
import torch

from flgc_lib.grouping import duplicates, membership, thresholds

S = torch.tensor(
    [(2.0, 0.3), (1.5, 1.4), (1.0, -0.2), (0.2, 0.1), (0.4, 1.2), (-0.1, 0.9), (0.5, 0.6), (0.0, 0.1)],
    dtype=torch.float64,
)
"""How well each channel fits each group, (8, 2); in double precision, so that τ is the number on paper."""
T = torch.tensor([(1.0, 0.0), (0.2, 0.7), (-0.3, 0.1), (0.9, 0.4)], dtype=torch.float64)
"""The same for each filter, (4, 2)."""


def table() -> pd.DataFrame:
    """A row a channel: its scores, its own group, τ of both groups, and where it is copied."""
    members = membership(S)
    tau, copies = thresholds(S, members), duplicates(S, members)
    return pd.DataFrame(
        {
            "channel": range(len(S)),
            **{f"score_{g}": S[:, g].numpy() for g in range(2)},
            "own_group": members.int().argmax(dim=1).numpy(),
            **{f"threshold_{g}": round(float(tau[g]), 6) for g in range(2)},
            **{f"copied_into_{g}": copies[:, g].int().numpy() for g in range(2)},
        }
    )
