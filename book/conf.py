"""The book: notebooks with their stored outputs, the library's reference, records and measurements. See `make book`."""

import re
from importlib import metadata
from pathlib import Path

import sphinx.application

from flgc_lib.experiment.analysis import of_grid
RESULTS = "data/results"
from flgc_lib.figures import explorer

REPOSITORY = Path(__file__).parents[1]
STATIC = REPOSITORY / "build" / "book-static"

project = "Learned group convolution"
author = "The maintainers of flgc-lib"
release = version = metadata.version("flgc-lib")
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
# The source folder is the repository itself, so that links between notebooks, documents and records are those on disk.
root_doc = "book/index"
include_patterns = [
    "book/*.md",
    "notebooks/*.ipynb",
    "docs/*.md",
    "data/README.md",
    "data/results/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]

# Notebooks are shown as they are stored: CI has run every cell and compared it.
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # widgets are dead without a kernel, and their scripts come from another host
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]  # a widget's stored view: the text beside it is shown

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static", "../build/book-static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
mathjax_path = "mathjax/tex-chtml.js"  # `make book` takes it from npm: the book asks no other host for anything


def run_this_yourself(
    app: sphinx.application.Sphinx, page: str, template: str, context: dict[str, object], tree: object
) -> None:
    """Says below the first heading of every notebook what to type to run it."""
    if page.startswith("notebooks/"):
        name = Path(page).name
        note = (
            '<div class="admonition tip run-this"><p class="admonition-title">Run this yourself</p>'
            "<p>In a clone of the repository <code>make lab</code> opens the course in JupyterLab; this page is "
            f"<code>notebooks/{name}.ipynb</code>. Without a network it trains on images made by code.</p></div>"
        )
        context["body"] = re.sub(r"</h1>", lambda found: found[0] + note, str(context["body"]), count=1)


def explore(app: sphinx.application.Sphinx) -> None:
    """Writes what the explorer's page loads: D3, the script, and the chosen runs from the records."""
    STATIC.mkdir(parents=True, exist_ok=True)
    results = REPOSITORY / RESULTS
    small, learn = (of_grid(name, results).runs for name in ("small", "learn"))
    chosen = [
        small[small["method"].isin(["flgc", "flgc-dup"]) & small["groups"].isin([8, 16]) & (small["seed"] == 0)],
        learn[(learn["method"] == "flgc") & (learn["soft_start"] > 0) & (learn["seed"] == 0)],  # many channels move
    ]
    names = [run for table in chosen for run in table["run"]]
    runs = [explorer.worked_example(), *(explorer.recorded(results, run) for run in names)]
    (STATIC / "explorer-data.js").write_text(explorer.script(runs), encoding="utf-8")
    for name in (explorer.LIBRARY, "explorer.js"):
        (STATIC / name).write_text(explorer.asset(name), encoding="utf-8")


def setup(app: sphinx.application.Sphinx) -> None:
    """Hooks both in."""
    app.connect("builder-inited", explore)
    app.connect("html-page-context", run_this_yourself)
