"""`python -m flgc_lib` is `flgc`; it answers even where packages are missing."""

import sys


def main() -> None:
    """Runs the command line, or says that it can't be run and what to type."""
    if sys.argv[1:2] == ["check"] and len(sys.argv) == 2:
        from flgc_lib import environment

        sys.exit(environment.main())
    try:
        from flgc_lib.cli import main as run
    except ImportError as error:
        sys.exit(f"flgc: {error}; type `python -m flgc_lib check` to see what is missing")
    run()


if __name__ == "__main__":
    main()
