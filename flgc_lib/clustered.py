"""Groups found from the weights: what training has made important comes together, and may be in several groups.

Source: ours, after Huang et al. 2018 (CondenseNet), who choose each group's channels by the size of its weights.
"""

import torch
from torch import Tensor

from flgc_lib.controls import EqualConv2d, drawn_apart
from flgc_lib.grouping import check_finite, cocluster, coselect, largest, membership


class ClusteredConv2d(EqualConv2d):
    """Groups that keep what the weights have made important, instead of following the gradient of S and T.

    The groups have equal sizes and are random at first. While a soft start lets all weights train, `regroup` puts
    together the channels and filters with large weights between them; when the groups close they stay.

    Attributes:
        importance: shape (C, G), of channel c for the filters of group g when last regrouped: the root mean square of
            its weights there, each the norm of a kernel. It is what the duplication rule compares.
    """

    importance: Tensor

    def reset_parameters(self) -> None:
        """Draws as `EqualConv2d`."""
        super().reset_parameters()
        self.register_buffer("importance", torch.zeros_like(self.input_logits))

    @torch.no_grad()
    def regroup(self) -> None:
        """Assigns channels and filters by today's weights."""
        with torch.autocast(self.weight.device.type, enabled=False):  # which would round the importance
            importance = self.weight.square().sum(dim=(2, 3))  # (N, C)
            check_finite(importance, "weights")
            S, filters = self._assign(importance)
            self.input_logits.copy_(S)
            self.filter_logits.copy_(filters)
            self.importance.copy_((importance.T @ filters.to(importance.dtype) / filters.sum(dim=0)).sqrt())

    def _assign(self, importance: Tensor) -> tuple[Tensor, Tensor]:
        """S (C, G) and the filters' groups (N, G) from the importance of each connection, (N, C)."""
        return cocluster(importance, membership(self.input_logits), membership(self.filter_logits))

    def _scores(self) -> Tensor:
        return self.importance

    def _channels(self, share: float) -> int:
        """How many channels are `share` · C/G: of a share above 0 at least one, however small the layer."""
        return min(self.in_channels, max(1 if share else 0, round(share * self.in_channels / self.groups)))


class BudgetConv2d(ClusteredConv2d):
    """As `ClusteredConv2d`, and every group imports the same number of channels: those most important to its filters.

    Equal sizes, and a cost known beforehand, where the rule's threshold copies many channels into some groups and none
    into others.

    Attributes:
        share: channels of a group, imported ones included, over C/G.
    """

    share = 1.5

    @torch.no_grad()
    def input_membership(self) -> Tensor:
        """A, BoolTensor (C, G): the group of each channel, and the groups that import it."""
        members = membership(self.input_logits)
        preferred = self._preference().masked_fill(members, -torch.inf)
        return members | largest(preferred, self._channels(self.share - 1))

    def _preference(self) -> Tensor:
        return self.importance


class RandomBudgetConv2d(BudgetConv2d):
    """Control: as many imports, of channels drawn at random.

    Attributes:
        priority: shape (C, G); of the channels outside group g, those with the largest priority are imported.
    """

    priority: Tensor

    def reset_parameters(self) -> None:
        """Draws as `EqualConv2d`, and the priorities without advancing the generator that the next layer draws from."""
        super().reset_parameters()
        self.register_buffer("priority", drawn_apart(self.input_logits.shape, self.weight.device))

    def _preference(self) -> Tensor:
        return self.priority


class SelectedConv2d(ClusteredConv2d):
    """Each group takes the channels that matter most to its filters, whoever else has them: a cost known beforehand.

    So an important channel is in several groups, and one that no group ranks so high in none. With `share` 1 a copy is
    paid for by what is dropped, and the cost is that of fixed groups.

    Attributes:
        input_logits: S, here the importance of channel c for the filters of group g when last regrouped.
        share: channels of a group over C/G.
    """

    share = 1.0

    def _assign(self, importance: Tensor) -> tuple[Tensor, Tensor]:
        return coselect(importance, membership(self.filter_logits), self._channels(self.share))

    @torch.no_grad()
    def input_membership(self) -> Tensor:
        """A, BoolTensor (C, G): the channels that each group takes."""
        return largest(self.input_logits, self._channels(self.share))


class RandomSelectionConv2d(SelectedConv2d):
    """Control: as many copies and drops, of channels drawn at random.

    Filters are grouped and channels counted as in `SelectedConv2d`; then the channels change places, in a fixed order.

    Attributes:
        order: shape (C,), of the rows of S.
    """

    order: Tensor

    def reset_parameters(self) -> None:
        """Draws as `EqualConv2d`, and the order without advancing the generator that the next layer draws from."""
        super().reset_parameters()
        self.register_buffer("order", drawn_apart((self.in_channels,), self.weight.device).argsort())

    def _assign(self, importance: Tensor) -> tuple[Tensor, Tensor]:
        S, filters = super()._assign(importance)
        return S[self.order], filters
