"""`python -m flgc_lib` is `flgc`; it answers even where packages are missing."""

import io
import sys

from flgc_lib import environment


def main() -> None:
    """Runs the command line, or says that it can't be run and what to type."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a ✓ shows a ?
    if sys.argv[1:] == ["check"]:
        sys.exit(environment.main())
    try:
        from flgc_lib.cli import main as run

        run()
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
