"""A frozen network, and what it can say about itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from flgc_lib.frozen.autotune import Timing, in_parts, table
from flgc_lib.frozen.chain import Chained
from flgc_lib.frozen.signature import Signature


@dataclass(frozen=True)
class Report:
    """What `FrozenNetwork.report` says."""

    way: str
    """What was captured."""
    convolutions: int
    norms: int = 0
    sums: int = 0
    relus: int = 0
    left_alone: tuple[str, ...] = ()
    """What stayed as it was, and why."""
    takes: tuple[str, ...] = ()
    """The sizes of the inputs."""
    checked: tuple[str, ...] = ()
    """What the outputs were compared on."""
    macs: tuple[int, int] = (0, 0)
    """Multiply-accumulates of the frozen convolutions for the example, and of dense ones in their place."""
    seconds: tuple[float, float] = (0.0, 0.0)
    """What the example takes, frozen and as it was; 0 if it was not measured."""
    bf16: tuple[float, ...] = ()
    """If it may compute in bf16: how many convolutions do, and the largest difference of the example's outputs from
    those in fp32, as a share of the largest number of the same order.
    """

    def text(self) -> str:
        """The report, one fact a line."""
        lines = [
            self.way,
            f"frozen: {self.convolutions} convolutions, and into them went {self.norms} norms, {self.sums} sums and "
            f"{self.relus} ReLUs",
        ]
        lines += [f"left alone: {reason}" for reason in self.left_alone]
        lines += [f"takes: {size}" for size in self.takes]
        if self.checked:
            lines.append(f"outputs compared with the trained network's: {', '.join(self.checked)}")
        if self.bf16:
            layers, difference = self.bf16
            lines.append(
                f"in bf16: {layers} of {self.convolutions} convolutions; outputs for the example differ from those in "
                f"fp32 by up to {difference:.2%} of the largest number of the same order"
            )
        if self.macs[0]:
            frozen, dense = self.macs
            lines.append(
                f"multiply-accumulates of the frozen convolutions: {frozen:,}, {dense / frozen:.1f} times fewer than "
                "dense ones would need"
            )
        if self.seconds[0]:
            now, before = self.seconds
            lines.append(
                f"measured: {now * 1e3:.2f} ms for the example, {before / now:.1f} times as fast as before freezing"
            )
        return "\n".join(lines)


class FrozenNetwork(nn.Module):
    """A network for inference: fast, small, and without a gradient for its weights. It stays in eval mode.

    Args:
        network: the rewritten network.
        signature: the inputs that it takes; None if it decides for itself.
        images_at_once: how many images of a batch go through it together, None for all.
        timings: what the autotuner measured, empty if it did not run.
        report: what freezing did.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        signature: Signature | None = None,
        images_at_once: int | None = None,
        timings: Sequence[Timing] = (),
        report: Report | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.signature = signature
        self.images_at_once = images_at_once
        self.timings = list(timings)
        self.facts = report
        self._chained: Chained | None = None
        super().train(False)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the trained network computes in eval mode.

        Raises:
            ValueError: for inputs of a size or type that the frozen network does not cover.
        """
        if self.signature is not None:
            complaint = self.signature.complaint((*inputs, *options.values()))
            if complaint or options:
                raise ValueError(
                    f"the frozen network cannot take this: {complaint or 'give its inputs by position'}. "
                    "Freeze the trained network again, with an example of what is to come: freeze(model, example)"
                )
            if torch.compiler.is_dynamo_compiling():
                return self._as_it_is(*inputs)
        return self._compute(*inputs, **options)

    def _compute(self, *inputs: Any, **options: Any) -> Any:
        if options or torch.compiler.is_compiling() or not isinstance(self.network, fx.GraphModule):
            return self.network(*inputs, **options)
        if self._chained is None or not self._chained.is_for(self.network):
            self._chained = Chained(self.network)
        return in_parts(self._chained, inputs, self.images_at_once)

    _as_it_is = torch.compiler.disable(
        _compute, reason="its layers are machine code, which torch.compile would replace"
    )

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or pickled: not the chains, which hold addresses in this process and this copy."""
        return self.__dict__ | {"_chained": None}

    def train(self, mode: bool = True) -> "FrozenNetwork":
        """Does nothing: a frozen network has no other mode than eval."""
        return self

    def table(self) -> str:
        """The autotuner's timings as text."""
        return table(self.timings)

    def report(self) -> str:
        """What was frozen, fused and left alone, and why; the sizes it takes; expected and measured speed."""
        return "nothing is known of how this network was frozen" if self.facts is None else self.facts.text()
