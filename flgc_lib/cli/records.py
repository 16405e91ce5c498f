"""Commands that show what the records say."""

import sys
from pathlib import Path

from flgc_lib.files import RESULTS, ROOT, write_text

DOCUMENTS = tuple(
    map(Path, ("README.md", "README.ja.md", "docs/performance.md", "docs/result.md", "data/results/README.md"))
)
"""With tables and sentences that are computed from the records."""


def figures(
    *,
    results: Path = RESULTS,
    folder: Path = Path("figures"),
    documents: tuple[Path, ...] = DOCUMENTS,
    check: bool = False,
) -> None:
    """Draw every figure, and fill in every table, from the records.

    Args:
        results: folder of the records.
        folder: where the figures go.
        documents: whose tables and sentences, between `<!-- table: GRID -->` and `<!-- /table -->`, are filled in, if
            they exist.
        check: change nothing; compare the stored figures' numbers, and the tables, with the records.
    """
    from flgc_lib.figures import draw, tables

    if not (results / "runs.csv").exists():
        raise ValueError(f"there are no records in {results}, so there is nothing to draw or compare: give --results")
    texts = {path: tables.filled(path, results) for path in documents if path.exists()}
    if check:
        problems = draw.check(results, folder)
        problems += [
            f"the tables of {path} are not what the records say: type `flgc figures`"
            for path, text in texts.items()
            if text != path.read_text(encoding="utf-8")
        ]
        if problems:
            sys.exit("\n".join(problems))
        print("all figures and tables are those of the records")
        return
    for path in draw.regenerate(results, folder):
        print(path)
    for path, text in texts.items():
        if text != path.read_text(encoding="utf-8"):
            write_text(path, text)


def explore(run: str, *, output: Path = Path("explorer.html"), results: Path = RESULTS) -> None:
    """Write a page that opens alone, to play with a run's groups: S, copies, sizes, the mask, and what k does.

    Args:
        run: id of a recorded run whose groups were learned or drawn (column `run` of runs.csv).
        output: file to write; open it in a browser.
        results: folder of the records.
    """
    from flgc_lib.figures import explorer

    page = explorer.page([explorer.recorded(results, run), explorer.worked_example()])
    write_text(output, page)
    print(f"{output}: {len(page) / 1e6:.1f} MB; open it in a browser")


def ablate(checkpoint: Path, *, root: Path = ROOT, results: Path = RESULTS) -> None:
    """Test a trained network without its copies, and without as many random connections.

    Args:
        checkpoint: last.ckpt of a run whose method copies channels, in data/runs/<run>/.
        root: folder of datasets.
        results: folder of records, whose ablation.csv gets a row.
    """
    from flgc_lib.experiment.ablation import ablate_checkpoint

    row = ablate_checkpoint(checkpoint, root=root, results=results)
    print(
        f"{row['run']}: accuracy {row['accuracy']:.2%}; {row['without_copies']:.2%} without its {row['copies']} "
        f"copies, {row['without_random']:.2%} without as many random connections"
    )
