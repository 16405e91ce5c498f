"""`python -m flgc_lib` is `flgc`; it answers even where packages are missing."""

import multiprocessing
import signal
import sys
from types import FrameType

from flgc_lib import environment
from flgc_lib.files import print_whatever


class Stopped(BaseException):
    """Somebody typed Ctrl-C, or the system asked this process to end; no handler of errors may take it for one."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def main() -> None:
    """Runs the command line, or says that it can't be run and what to type."""
    print_whatever()
    if sys.argv[1:] == ["check"]:
        sys.exit(environment.main())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        from flgc_lib.cli import main as run

        run()
    except Stopped as stopped:
        for worker in multiprocessing.active_children():
            worker.kill()  # nobody waits for its run to end; files are written whole, checkpoints after each epoch
        print("\nflgc: stopped; what was finished is kept: type the same command again to go on", file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None:
            sys.exit(f"flgc: {error}; type `python -m flgc_lib check` to see what does not fit")
        if missing.partition(".")[0] == "flgc_lib":
            raise
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "the command line")
        sys.exit(f"flgc: {command} needs {environment.remedy(missing)}")


if __name__ == "__main__":
    main()
