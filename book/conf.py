"""The book: notebooks with their stored outputs, the library's reference, records and measurements. See `make book`."""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "book"))

import additions  # noqa: E402  # found through the line above

from flgc_lib.experiment.analysis import of_grid  # noqa: E402
from flgc_lib.figures import explorer  # noqa: E402
from flgc_lib.files import RESULTS  # noqa: E402

STATIC = REPOSITORY / "build" / "book-static"
"""What the pages load and is not written by hand: MathJax, D3 and the explorer's data."""
MATHJAX = "mathjax@3.2.2"

project = "Learned group convolution"
author = "The maintainers of flgc-lib"
release = version = metadata.version("flgc-lib")
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
# The source folder is the repository itself, so that links between notebooks, documents and records are those on disk.
root_doc = "book/index"
include_patterns = [
    "README.md",
    "README.ja.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "book/*.md",
    "data/README.md",
    "data/results/README.md",
    "docs/*.md",
    "notebooks/*.ipynb",
]

# Notebooks are shown as they are stored: the tests have run every cell and compared it.
nb_execution_mode = "off"
nb_render_markdown_format = "gfm"  # with tables
nb_ipywidgets_js = {}  # widgets are dead without a kernel, and their scripts come from another host
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]  # a widget's stored view: the text beside it is shown

default_role = "code"  # docstrings set names between single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static", "../build/book-static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_search_summary = False  # it would read the pages, which a browser forbids in a folder
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # light or dark as the reader's computer is, until the reader chooses
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
mathjax_path = "mathjax/tex-chtml.js"


def fetch_mathjax(app: Sphinx) -> None:
    """Takes MathJax and its fonts from npm, once, so that a page asks no other host for them."""
    folder = STATIC / "mathjax"
    if folder.exists():
        return
    npm = shutil.which("npm")
    with tempfile.TemporaryDirectory() as scratch:
        pack = [npm, "pack", "--silent", "--pack-destination", scratch, MATHJAX]
        if npm is None or subprocess.run(pack, cwd=scratch, stdout=subprocess.DEVNULL).returncode:
            print(f"npm, which comes with Node, gave no {MATHJAX}: the book shows formulas as they are typed")
            return
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
        es5 = Path(scratch) / "package" / "es5"
        shutil.copytree(es5 / "output", Path(scratch) / "mathjax" / "output")
        shutil.copy(es5 / "tex-chtml.js", Path(scratch) / "mathjax")
        shutil.move(Path(scratch) / "mathjax", folder)  # last, so that a folder that is there is whole


def write_explorer(app: Sphinx) -> None:
    """Writes what the explorer's page loads: D3, the script, and the chosen runs from the records."""
    results = REPOSITORY / RESULTS
    small, learn = (of_grid(name, results).runs for name in ("small", "learn"))
    chosen = [
        small[small["method"].isin(["flgc", "flgc-dup"]) & small["groups"].isin([8, 16]) & (small["seed"] == 0)],
        learn[(learn["method"] == "flgc") & (learn["soft_start"] > 0) & (learn["seed"] == 0)],  # many channels move
    ]
    names = [run for table in chosen for run in table["run"]]
    runs = [explorer.worked_example(), *(explorer.recorded(results, run) for run in names)]
    (STATIC / "explorer-data.json").write_text(explorer.data(runs), encoding="utf-8")
    (STATIC / "explorer-data.js").write_text(explorer.script(runs), encoding="utf-8")
    for name in (explorer.LIBRARY, "explorer.js"):
        (STATIC / name).write_text(explorer.asset(name), encoding="utf-8")


def finish(app: Sphinx, error: Exception | None) -> None:
    """Leads from the book's folder to its first page, and prints the result's page as PDF, if a browser is there."""
    if error is None:
        to = f"{root_doc}.html"
        goes = f'<meta http-equiv="refresh" content="0; url={to}"><a href="{to}">{project}</a>'
        page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{project}</title>{goes}</html>'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")
        additions.print_result(Path(app.outdir))


def setup(app: Sphinx) -> None:
    """Hooks in what is written while the book is built."""
    STATIC.mkdir(parents=True, exist_ok=True)
    app.connect("builder-inited", fetch_mathjax)
    app.connect("builder-inited", write_explorer)
    app.connect("source-read", additions.add)
    app.connect("html-page-context", additions.say_language)
    app.connect("build-finished", finish)
