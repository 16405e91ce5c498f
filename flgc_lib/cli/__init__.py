"""The command line, `flgc COMMAND`; the commands stand in `COMMANDS`.

A command is a function of a module here, which is imported when the command is typed: help, and a mistyped command,
should be answered at once.
"""

import sys
from importlib import import_module

COMMANDS = {
    "check": ("course", "Say whether everything that the notebooks need is here, and if not, what to type."),
    "notebooks": ("course", "Execute the course's notebooks from top to bottom, by default in place."),
    "data": ("experiment", "Decode a dataset once and keep it for training."),
    "train": ("experiment", "Train one network and add it to the records; after an interruption, go on."),
    "sweep": ("experiment", "Run an experiment: whatever its grid has and the records lack."),
    "figures": ("records", "Draw every figure, and fill in every table, from the records."),
    "explore": ("records", "Write a page that opens alone, to play with a run's groups."),
    "ablate": (
        "records",
        "Test a trained network without its copies, and without as many random connections.",
    ),
    "freeze": ("inference", "Turn a trained network into a small, fast one for inference."),
    "export": ("inference", "Write a trained network for another inference engine, in fp32, bf16 or int8."),
    "bench": ("inference", "Measure dense, grouped, masked and frozen networks side by side on this machine."),
}
"""By name: the module of the function of that name, and what it does."""


def main() -> None:
    """Runs the command line; a mistake is answered with a sentence, not a traceback."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("Learned group convolution: notebooks, data, training, experiments, figures.\n")
        for command, (_, what) in COMMANDS.items():
            print(f"flgc {command:10} {what}")
        print("\nflgc COMMAND --help says more.")
        return
    if name not in COMMANDS:
        print(f"flgc: there is no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    import tyro

    command = getattr(import_module(f"flgc_lib.cli.{COMMANDS[name][0]}"), name)
    try:
        tyro.cli(command, prog=f"flgc {name}", args=arguments)
    except (ValueError, OSError) as error:
        print(f"flgc: {error}", file=sys.stderr)
        sys.exit(2)  # as for an option that does not exist
