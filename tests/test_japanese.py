"""The Japanese says what the English says: the same exercises, numbers and commands, the glossary's terms.

Language itself no test can judge; what can be counted is counted.
"""

import json
import re
import runpy
from pathlib import Path

import pytest

from flgc_lib.methods import METHODS

ROOT = Path(__file__).parents[1]
BOOK = runpy.run_path(str(ROOT / "book" / "additions.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "half"]
INSTEAD = {  # what the glossary says, and what it does not
    "グループ化畳み込み": r"グループ畳み込み|グループ畳込",
    "フィルター": r"フィルタ(?!ー)",
    "ショートカット接続": r"ショートカット(?!接続)",
    "残差ブロック": r"残差ユニット|レジデュアル",
    "複製": r"コピー|重複",
    "振り分け": r"アサイン|配分",
    "チャネル": r"チャンネル",
    "精度": r"正解率|正答率",
    "パラメータ": r"パラメーター",
    "学習": r"訓練",
}


def text_of(notebook):
    """Markdown, code and printed output of a notebook, and its cells of Markdown."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [json.dumps(cell.get("outputs", []), ensure_ascii=False) for cell in cells]
    sources = ["".join(cell["source"]) for cell in cells]
    markdown = [source for cell, source in zip(cells, sources, strict=True) if cell["cell_type"] == "markdown"]
    return "\n".join(sources + outputs), markdown


def japanese(notebook):
    """The abstract, and the cards of exercises and of steps of building, without their numbers."""
    abstract, cards = BOOK["japanese"](notebook.name[:2])
    return abstract, {name: re.sub(r"^\*\*\S+ [\d.]+", "", card) for name, card in cards.items()}


def english_cards(notebook):
    texts = text_of(notebook)[1]
    cards = ((BOOK["ENGLISH"].search(text), text) for text in texts)
    return {card[1]: text[card.end() :] for card, text in cards if card}


def ratings(cards):
    """Stars and minutes of each."""
    return [re.findall(r"[●○]+ · \d+", card.partition("\n")[0]) for card in cards]


def code(text):
    return set(re.findall(r"`([^`]+)`", text))


def numbers(text):
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def numbers_in_words(text):
    found = {str(value) for value, word in enumerate(WORDS[:11]) if re.search(rf"\b{word}s?\b", text, re.IGNORECASE)}
    return found | ({"0.5"} if re.search(r"\bhalf\b", text) else set())


def commands(text):
    """Lines of the code blocks without their remarks."""
    blocks = re.findall(r"```\w+\n(.*?)```", text, re.DOTALL)
    return [line.partition("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_has_an_abstract_and_every_exercise(notebook):
    abstract, cards = japanese(notebook)
    assert list(cards) == list(english_cards(notebook))
    assert ratings(cards.values()) == ratings(english_cards(notebook).values())
    assert len(re.findall(r"[ぁ-んァ-ヶ一-龠]", abstract)) > 150


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_in_the_book_a_card_stands_below_the_english_one_and_the_abstract_below_the_title(notebook):
    chapter = BOOK["chapter"](json.loads(notebook.read_text(encoding="utf-8")), notebook.stem)
    sources = ["".join(cell["source"]) for cell in chapter["cells"]]
    _title, _run, abstract, *_ = sources
    assert "日本語の要旨" in abstract
    assert not re.search("演習 \\d|ステップ \\d|^## ", abstract, re.MULTILINE)
    cards = [(sources[i - 1], card) for i, card in enumerate(sources) if "<summary>日本語</summary>" in card]
    assert len(cards) == len(english_cards(notebook))
    for english, card in cards:
        name = BOOK["ENGLISH"].search(english)[1]
        assert f"**{name.replace('Exercise', '演習').replace('Step', 'ステップ')}" in card, name
    assert len({cell["id"] for cell in chapter["cells"]}) == len(chapter["cells"])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_card_has_the_numbers_and_the_code_of_the_english_one(notebook):
    for ours, theirs in zip(japanese(notebook)[1].items(), english_cards(notebook).items(), strict=True):
        (name, card), (_, english) = ours, theirs
        english = re.sub(r"\]\([^)]*\)", "]", english)
        assert code(card) == code(english), name
        assert numbers(english) <= numbers(card) <= numbers(english) | numbers_in_words(english), name


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_abstract_has_no_number_and_no_code_that_the_chapter_lacks(notebook):
    abstract, _ = japanese(notebook)
    text, _ = text_of(notebook)
    assert numbers(abstract) <= numbers(text) | numbers_in_words(text)
    assert all(part in text for part in code(abstract))


def test_the_readme_has_the_commands_and_the_numbers_of_the_english_one():
    english, ours = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md"))
    assert set(commands(ours)) <= set(commands(english))
    assert {"make run", "make test"} <= set(commands(ours))
    inline = code(re.sub(r"```.*?```", "", ours, flags=re.DOTALL)) - METHODS.keys() - {"book/ja/"}
    assert all(part in english for part in inline)
    computed = re.sub(r"<!-- (\w+): \w+ -->.*?<!-- /\1 -->", "", ours, flags=re.DOTALL)  # by `flgc figures`
    assert numbers(computed) <= numbers(english) | numbers_in_words(english)


def test_corrections_are_welcome():
    assert "訂正を歓迎" in (ROOT / "README.ja.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("term", INSTEAD)
def test_terms_are_the_glossary_s(term):
    texts = [ROOT / "README.ja.md", *sorted((ROOT / "book" / "ja").glob("*.md"))]
    assert any(term in path.read_text(encoding="utf-8") for path in texts)
    for path in texts:
        assert not (found := re.search(INSTEAD[term], path.read_text(encoding="utf-8"))), f"{path}: {found}"
