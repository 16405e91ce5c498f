"""The book in a real browser: what `make book` built is opened, page by page, in Chromium.

Nothing is built here: `make test` builds the book first, with warnings as errors.
"""

import re
import shutil
from pathlib import Path

import pytest
import torch
from playwright.sync_api import sync_playwright

import flgc_lib
from flgc_lib.figures import explorer, worked_example
from flgc_lib.grouping import duplicates, membership

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "build" / "book"
RUN = "flgc-dup-g8-s0-ea2092c7"
PAGES = sorted(
    page.relative_to(BOOK).as_posix()
    for page in BOOK.rglob("*.html")
    if not {"_modules", "_static"} & set(page.parts) and page != BOOK / "index.html"  # which leads on
)
PHONE = {"width": 400, "height": 800}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.skipif(not PAGES, reason="the book is not built: type `make book`"),
    pytest.mark.skipif(
        not (BOOK / "_static" / "mathjax").exists(), reason="the book has no MathJax: npm, of Node, was not there"
    ),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: on Debian, apt-get install chromium"),
]


@pytest.fixture(autouse=True, scope="module")
def as_new_as_its_sources():
    """An older book would pass, or fail, for texts that are gone."""
    patterns = ("*.md", "docs/*.md", "notebooks/*.ipynb", "book/*.md", "book/*.py", "book/ja/*.md", "data/results/*.md")
    written = {path: path.stat().st_mtime for pattern in patterns for path in ROOT.glob(pattern)}
    newest = max(written, key=written.__getitem__)
    if written[newest] > (BOOK / "index.html").stat().st_mtime:
        pytest.fail(f"the book is older than {newest.relative_to(ROOT)}: type `make book`")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page as wide as a phone, on which nothing may go wrong and nobody else may be asked."""
    wrong = []
    page = browser.new_page(viewport=PHONE)
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    page.on("requestfailed", lambda asked: wrong.append(f"{asked.url} is not there"))
    yield page
    page.close()
    assert not wrong


def opened(page, name, folder=BOOK, question=""):
    page.goto((folder / name).as_uri() + question)
    page.evaluate("() => window.MathJax?.startup?.promise")
    return page


def wider_than_the_window(page):
    """What sticks out to the right of the window; inside what scrolls by itself it may."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_all_that_belongs_to_the_book_is_in_it():
    written = {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")}
    written |= {f"{path.relative_to(ROOT).with_suffix('').as_posix()}.html" for path in (ROOT / "docs").glob("*.md")}
    written |= {"book/explorer.html", "book/library.html", "book/glossary.html", "data/results/README.html"}
    assert written <= set(PAGES)


def test_the_reference_has_every_public_name(page):
    text = opened(page, "book/library.html").inner_text("article")
    missing = [name for name in flgc_lib.__all__ if not re.search(rf"\b{name}\b\s*\(", text) and name[0] != "_"]
    assert not missing


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_on_a_phone(page, name):
    """No console error, no other host, every formula typeset, no scrolling sideways."""
    opened(page, name)
    assert wider_than_the_window(page) <= 0
    formulas = page.locator(".math").count()
    assert page.locator(".math mjx-container").count() == formulas
    assert page.locator("mjx-merror").count() == 0
    if name.startswith("notebooks/"):
        assert page.locator(".run-this").count() == 1
        assert page.locator("details.ja").count() > 3
        assert name.removesuffix(".html") in page.inner_text(".run-this")


def test_there_are_formulas(page):
    assert opened(page, "notebooks/01-resnet.html").locator("mjx-container").count() > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_book_is_light_or_dark_as_the_reader_s_computer(page, scheme):
    page.emulate_media(color_scheme=scheme)
    opened(page, "book/index.html")
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    other = "Dark" if scheme == "light" else "Light"
    page.locator(".theme-switch-button:visible").click()
    page.locator(".dropdown-item:visible", has_text=other).click()
    assert page.evaluate("document.documentElement.dataset.theme") == other.lower()


def test_the_first_page_leads_to_the_book(page):
    page.goto((BOOK / "index.html").as_uri())
    page.wait_for_url("**/book/index.html")
    assert "learned group convolution" in page.locator("h1:visible").inner_text().lower()


def test_search_finds_a_word_of_a_notebook(page):
    opened(page, "search.html", question="?q=straight-through")
    page.locator("#search-results a", has_text="03").first.wait_for(timeout=10_000)


@pytest.fixture(params=["page of the book", "file that opens alone"])
def explored(page, tmp_path, request):
    """The explorer, which begins with the worked example and has a recorded run too."""
    if request.param == "page of the book":
        return opened(page, "book/explorer.html")
    runs = [explorer.worked_example(), explorer.recorded(ROOT / "data" / "results", RUN)]
    (tmp_path / "alone.html").write_text(explorer.page(runs), encoding="utf-8")
    return opened(page, "alone.html", tmp_path)


def copies_shown(page):
    return [[copy["channel"], copy["into"]] for copy in page.evaluate("window.explorerState.copies")]


def copies_by_the_library(S, k, score):
    scores = S if score == "logit" else S.softmax(dim=1)
    return duplicates(scores, membership(S), k).nonzero().tolist()


@pytest.mark.parametrize("score", ["logit", "softmax"])
def test_the_explorer_s_copies_are_the_library_s(explored, score):
    explored.select_option("#score", score)
    for k in (1, 3):
        explored.locator("#k").fill(str(k))
        assert copies_shown(explored) == copies_by_the_library(worked_example.S, k, score)
        assert explored.inner_text("#number-copies") == ("1" if score == "logit" else "0")
    explored.select_option("#run", label=RUN)
    S = torch.tensor(explored.evaluate("window.explorerState.S"), dtype=torch.float64)
    for k in (1, 2, 5):
        explored.locator("#k").fill(str(k))
        copies = copies_by_the_library(S, k, score)
        assert len(copies) > 0
        assert copies_shown(explored) == copies


def test_its_knobs_turn_by_keyboard(explored):
    explored.select_option("#run", label=RUN)
    explored.locator("#k").focus()
    before = len(copies_shown(explored)), explored.inner_text("#number-MACs-with-copies")
    explored.keyboard.press("ArrowLeft")
    explored.keyboard.press("ArrowLeft")
    assert explored.inner_text("#k-value") == "1"
    assert len(copies_shown(explored)) < before[0]
    assert explored.inner_text("#number-MACs-with-copies") != before[1]
    explored.keyboard.press("Tab")
    explored.keyboard.press("Space")
    assert not explored.is_checked("#sorted")
    explored.locator("#score").focus()
    explored.keyboard.press("ArrowDown")
    assert explored.input_value("#score") == "softmax"


def test_a_recorded_run_shows_its_flows_and_its_pictures_at_400_pixels(explored):
    explored.select_option("#run", label=RUN)
    explored.select_option("#moment", label="epoch 0")
    assert explored.locator("#flow text.chosen").text_content() == "epoch 0"
    assert len(re.findall(r"epoch \d+ to epoch \d+: \d+", explored.inner_text("#flow-words"))) == 2
    assert explored.locator("#flow path").count() > 8  # ribbons
    assert explored.locator("#copies path").count() > 0
    S = explored.evaluate("window.explorerState.S")
    assert explored.locator("#scores rect").count() == len(S) * len(S[0])
    assert wider_than_the_window(explored) <= 0


def test_no_page_is_larger_than_5_megabytes():
    sizes = {name: (BOOK / name).stat().st_size for name in PAGES}
    sizes["book/explorer.html"] += sum(
        (BOOK / "_static" / name).stat().st_size for name in ("explorer-data.js", "explorer.js", explorer.LIBRARY)
    )
    assert max(sizes.values()) < 5e6


def test_the_result_is_printed_on_one_page():
    pages = re.findall(rb"/Type\s*/Page\b", (BOOK / "result.pdf").read_bytes())
    assert len(pages) == 1
