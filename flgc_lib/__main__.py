"""`python -m flgc_lib` is `flgc`."""

from flgc_lib.cli import main

main()
