"""What `flgc bench` can be asked to measure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from flgc_lib.files import RESULTS
from flgc_lib.grouping import check_choice
from flgc_lib.resnet import Stem

BenchDevice = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class BenchSettings:
    """What is measured: every combination of stems, batches and threads, with all numbers of groups in each."""

    stems: tuple[Stem, ...] = ("cifar", "imagenet")
    """cifar is measured at 32 × 32 pixels, imagenet at 224 × 224, paper at 32 × 32."""
    groups: tuple[int, ...] = (2, 4, 8, 16)
    """Numbers of groups; each must divide 64, because fixed groups of equal size are measured too."""
    batches: tuple[int, ...] = (1, 32)
    """Images at once."""
    threads: tuple[int, ...] = (1, 0)
    """Threads; 0 for all cores. With 1 the process is pinned to one core where the system can."""
    device: BenchDevice = "cpu"
    """Where. On cuda other candidates run; threads do not matter, and only the first number of them is taken."""
    repetitions: int = 15
    """Rounds in which every candidate runs twice; the second run is timed."""
    only: tuple[str, ...] = ()
    """Names of candidates, or beginnings of names, to measure besides the dense eager model; all by default."""
    trained_run: str | None = None
    """Id of a recorded run whose learned groups are measured too, on cpu (column `run` of runs.csv)."""
    results: Path = RESULTS
    """Folder of the records; the measurements go into bench.csv there."""

    def __post_init__(self) -> None:
        """Refuses what cannot be measured."""
        if not self.stems:
            raise ValueError(f"stems={self.stems} must be one or more of {', '.join(get_args(Stem))}")
        for stem in self.stems:
            check_choice("stem", stem, Stem)
        check_choice("device", self.device, BenchDevice)
        if self.trained_run is not None and self.device != "cpu":
            raise ValueError(
                f"trained_run={self.trained_run!r} is measured on the processor alone, not on device={self.device!r}: "
                "leave one of them out"
            )
        for name in ("groups", "batches"):
            if min(getattr(self, name), default=0) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be one or more numbers of at least 1")
        wrong = [g for g in self.groups if 64 % g]
        if wrong:
            raise ValueError(
                f"groups={wrong[0]} must divide 64, the channels of ResNet-50's first stage: 2, 4, 8, 16 …"
            )
        if not self.threads or min(self.threads) < 0:
            raise ValueError(f"threads={self.threads} must be one or more numbers; 0 is for all cores")
        if self.repetitions < 1:
            raise ValueError(f"repetitions={self.repetitions} must be at least 1")
