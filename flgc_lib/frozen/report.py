"""What freezing did to a network, in words and numbers."""

from dataclasses import dataclass, field, replace


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
    seconds: tuple[float, float] = field(default=(0.0, 0.0))
    """What the example takes, frozen and as it was; 0 if it was not measured."""

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
        if self.macs[0]:
            frozen, dense = self.macs
            lines.append(
                f"multiply-accumulates of the frozen convolutions: {frozen:,}, {dense / frozen:.1f} times fewer than "
                "dense ones would need"
            )
        if self.seconds[0]:
            now, before = self.seconds
            lines.append(
                f"measured: {now * 1e3:.2f} ms for the example, {before / now:.1f} times as fast as the trained network"
            )
        return "\n".join(lines)

    def measured(self, seconds: tuple[float, float]) -> "Report":
        """The same with times."""
        return replace(self, seconds=seconds)
