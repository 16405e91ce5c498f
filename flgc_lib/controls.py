"""Controls of the experiment: convolutions that differ from FLGC, or from the rule, in one thing each.

Source: ours, but for the channel shuffle: Zhang et al. 2018, ShuffleNet.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flgc_lib.grouping import membership
from flgc_lib.layers import FLGConv2d


def drawn_apart(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform numbers that depend on the global generator's state, and leave it as it was; the same on every device."""
    with torch.random.fork_rng(devices=[]):
        generator = torch.Generator("cpu").manual_seed(int(torch.randint(2**62, (), device="cpu")))
    return torch.rand(shape, generator=generator, device="cpu").to(device)


class DrawnConv2d(FLGConv2d):
    """Control for learning: groups that stay as they were drawn; S and T get no gradient."""

    def reset_parameters(self) -> None:
        """Draws as FLGC, and freezes S and T."""
        super().reset_parameters()
        self.input_logits.requires_grad_(False)
        self.filter_logits.requires_grad_(False)


class RandomCopiesConv2d(FLGConv2d):
    """Control for the rule: as many copies into each group as the rule would make, of channels drawn at random.

    If it does as well as the rule, then it does not matter which feature maps are copied. Every group draws its
    copies in the order of a fixed random priority, so that they change only as far as the groups do.

    Attributes:
        priority: shape (C, G); of the channels outside group g, those with the largest priority are copied.
    """

    priority: Tensor

    def reset_parameters(self) -> None:
        """As FLGC, and draws the priorities without advancing the generator that the next layer draws from."""
        super().reset_parameters()
        self.register_buffer("priority", drawn_apart(self.input_logits.shape, self.weight.device))

    def _copies(self, members: Tensor, top_k: int) -> Tensor:
        wanted = super()._copies(members, top_k).sum(dim=0)  # (G,)
        order = self.priority.masked_fill(members, -1).argsort(dim=0, descending=True)  # (C, G), best first
        rank = order.argsort(dim=0)  # (C, G)
        return rank < wanted


class RingConv2d(FLGConv2d):
    """Control for learning: fixed contiguous groups that overlap their neighbour.

    Group g also takes the first channels after its own, as many as the rule would copy into it at FLGC's random
    start, as far as there are so many: a static overlap at the same cost.

    Attributes:
        overlap: BoolTensor (C, G), the copies.
    """

    overlap: Tensor

    def reset_parameters(self) -> None:
        """Draws as FLGC, counts the rule's copies, then fixes contiguous groups; S and T get no gradient."""
        super().reset_parameters()
        C, N, G = self.in_channels, self.out_channels, self.groups
        with torch.no_grad():
            wanted = torch.zeros(G, device=self.input_logits.device)
            if self.duplicate_top_k is not None:
                wanted = super()._copies(membership(self.input_logits), self.duplicate_top_k).sum(dim=0)  # (G,)
            for logits, rows in ((self.input_logits, C), (self.filter_logits, N)):
                logits.copy_(F.one_hot(torch.arange(rows) * G // rows, G))
                logits.requires_grad_(False)
        last = membership(self.input_logits).int().cumsum(dim=0).argmax(dim=0)  # (G,): last channel of each group
        channels = torch.arange(C, device=last.device)[:, None]
        distance = (channels - last) % C  # (C, G): how far channel c lies behind group g
        self.register_buffer("overlap", (distance >= 1) & (distance <= wanted))

    def _copies(self, members: Tensor, top_k: int) -> Tensor:
        return self.overlap & ~members


class EqualConv2d(FLGConv2d):
    """Control for learning: drawn groups of equal size, a permutation of an ordinary grouped convolution's."""

    def reset_parameters(self) -> None:
        """Draws as FLGC, then deals channels and filters out in the order of what was drawn; no gradient to S and T."""
        super().reset_parameters()
        with torch.no_grad():
            for logits in (self.input_logits, self.filter_logits):
                rank = logits[:, 0].argsort().argsort()
                logits.copy_(F.one_hot(rank * self.groups // len(rank), self.groups))
                logits.requires_grad_(False)


class ShuffledConv2d(nn.Conv2d):
    """Control for learning: fixed contiguous groups behind ShuffleNet's channel shuffle.

    The shuffle deals the channels of each group that comes in to as many groups as there are; with G groups of C/G
    channels it is the transposition of a (G, C/G) matrix. Information passes between groups from layer to layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The grouped convolution of the shuffled channels."""
        return super().forward(F.channel_shuffle(x, self.groups))
