"""What the book adds to a page as it is read: how to run it, its Japanese, the glossary. Nothing is written twice.

The Japanese of a chapter, in `ja/`, is an abstract and a card for each exercise and each step of building; a card goes
below the English one.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

BOOK = Path(__file__).parent
RESULT = "docs/result"
FIRST = BOOK.parent / "notebooks" / "00-start-here.ipynb"
GLOSSARY = ("Its words in English", "One notation for everything")
"""Sections of notebook 00."""
RUN = {
    "book/index": "`make run` executes all notebooks and draws all figures, `make lab` opens the course.",
    "book/explorer": "`flgc explore --run flgc-dup-g8-s0-ea2092c7` writes such a page for one run, as a file "
    "that opens alone; column `run` of `data/results/runs.csv` has the other names.",
    "book/library": "`make lab`, and in a notebook `from flgc_lib import FLGConv2d, embed, freeze`.",
    RESULT: "`flgc figures` computes figures, tables and sentences again from the records, and "
    "`flgc sweep --grid small` makes the records, in half a day.",
    "docs/performance": "`flgc bench` measures on your computer.",
    "data/results/README": "`make quick` makes such records, of a small experiment on embedded data, in minutes.",
}
ENGLISH = re.compile(r"^(?:### |\*\*)(Exercise \d\.\d|Step \d)[ :]", re.MULTILINE)
"""How a card begins: `### Exercise 3.1 ●○○ …`, `### Step 1 ●○○ …`, and `**Step 1: …` where the answer stands below."""
JAPANESE = {"演習": "Exercise", "ステップ": "Step"}
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


def add(app: Sphinx, page: str, source: list[str]) -> None:
    """Changes the source of a page before it is parsed."""
    if page.startswith("notebooks/"):
        app.env.note_dependency(_card(Path(page).name[:2]), docname=page)  # else Sphinx would not look at it again
        source[0] = json.dumps(chapter(json.loads(source[0]), Path(page).name))
        return
    if page == "book/glossary":
        app.env.note_dependency(FIRST, docname=page)
        source[0] += _glossary()
    if page == RESULT and browser():
        source[0] = _below_title(
            source[0], '<p class="no-print"><a href="../result.pdf">This page as PDF, for print</a></p>'
        )
    if page in RUN:
        source[0] = _below_title(source[0], run_note(RUN[page]))


def say_language(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Tells browsers and screen readers which page is in Japanese as a whole."""
    if page == "README.ja":
        context["language"] = "ja"


def run_note(text: str) -> str:
    """How to run a page, as Markdown."""
    return f"```{{admonition}} Run this yourself\n:class: tip run-this\nIn a clone of the repository: {text}\n```"


def browser() -> str | None:
    """A Chromium that is installed."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def print_result(book: Path) -> None:
    """Writes `result.pdf` from the result's page, if there is a browser to print it."""
    if (chromium := browser()) is None:
        print("there is no chromium: the result's page is not printed as PDF")
        return
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--virtual-time-budget=5000"]
    page = (book / f"{RESULT}.html").as_uri()
    command = [chromium, *options, f"--print-to-pdf={book / 'result.pdf'}", page]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def _below_title(text: str, addition: str) -> str:
    title, end, rest = text.partition("\n")
    if not title.startswith("# "):
        raise ValueError(f"a page of the book starts with its title, not with {title!r}")
    return f"{title}{end}\n{addition}\n{rest}"


def chapter(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """A notebook with how to run it and its Japanese below the title, and a Japanese card below each English one."""
    abstract, cards = japanese(name[:2])
    run = f"`make lab` opens the course in JupyterLab; this page is `notebooks/{name}.ipynb`."
    cells = []
    for cell in notebook["cells"]:
        cells.append(cell)
        if cell is notebook["cells"][0]:
            cells += [_markdown("run", run_note(run)), _markdown("ja", _folded("日本語の要旨", abstract))]
        elif cell["cell_type"] == "markdown" and (card := ENGLISH.search("".join(cell["source"]))):
            place = card[1].lower().replace(" ", "-").replace(".", "-")
            cells.append(_markdown(f"ja-{place}", _folded("日本語", cards[card[1]])))
    return notebook | {"cells": cells}


def japanese(number: str) -> tuple[str, dict[str, str]]:
    """The abstract of a chapter, and its cards by the English name, "Exercise 3.1" or "Step 1": `ja/<number>.md`."""
    text = _card(number).read_text(encoding="utf-8")
    abstract, *parts = re.split(rf"^## (?={'|'.join(JAPANESE)})", text, flags=re.MULTILINE)
    cards = {}
    for heading, _, body in (part.partition("\n") for part in parts):
        kind, which, *_ = heading.split()
        cards[f"{JAPANESE[kind]} {which}"] = f"**{heading}**\n{body}"
    return abstract.partition("\n")[2], cards


def _card(number: str) -> Path:
    return BOOK / "ja" / f"{number}.md"


def _folded(summary: str, text: str) -> str:
    return f'<details lang="ja" class="ja"><summary>{summary}</summary>\n\n{text.strip()}\n\n</details>'


def _markdown(name: str, source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": f"book-{name}", "metadata": {}, "source": source}


def _glossary() -> str:
    """Both tables of notebook 00: the paper's words and the notation."""
    text = FIRST.read_text(encoding="utf-8")
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
    found = [cell for title in GLOSSARY for cell in cells if re.match(rf"## \d+\. {title}\n", cell)]
    if len(found) != len(GLOSSARY):
        raise ValueError(f"notebook 00 has no longer the sections {GLOSSARY}, which the book's glossary shows")
    return "\n\n".join(re.sub(r"^## \d+\. ", "## ", cell) for cell in found)
