"""What nbval doesn't see: that a notebook was run, is checked at all, has the course's form, and can be solved.

nbval (see Makefile) compares outputs; it says nothing of a notebook without outputs. Each guard here returns what is
wrong with a notebook, and has a way to break a good one that it must notice.
"""

import ast
import builtins
import copy
import json
import re
from itertools import dropwhile, takewhile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from nbformat import v4
from nbval.plugin import get_sanitize_patterns

from flgc_lib import course
from flgc_lib.course import notebooks
from flgc_lib.course.lessons import COURSE, PAPER, lessons_on
from flgc_lib.layers import FLGConv2d

FOLDER = Path("notebooks")
CHECKED = "nbval-check-output"
LONGEST_CELL = 26  # lines
START = """\
try:
    from flgc_lib import course
except ImportError as error:
    raise SystemExit(
        f"{error}: the course is not installed in this kernel. On your computer, type "
        "`python3 run.py lab` in the repository (on Windows `py run.py lab`); in VS Code, type "
        "`python3 run.py install` there and choose .venv as the kernel; in Colab, put the "
        "repository beside the notebook, %cd into it, type "
        "`%pip install -e .[notebooks,fast]`, run this cell, then `%cd notebooks`"
    ) from error
course.start("NN")"""
CARD = re.compile(r"### (?:Exercise \d+\.|Step )(\d+) (?:●○○|●●○|●●●) · \d+ minutes\n")


def read(path):
    """As the file is: `nbformat.read` would mend what a guard is to notice."""
    return v4.reads(path.read_text(encoding="utf-8"))


def tags(cell):
    return cell.metadata.get("tags", [])


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    """The text that a cell shows, without pictures."""
    texts = [o.get("text", "") for o in cell.outputs] + [o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return "".join(texts)


def headings(notebook):
    markdown = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.findall(r"^## (.+)$", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL), flags=re.MULTILINE)


# Guards: notebook, lesson -> sentences on what is wrong.


def run_in_order(notebook, lesson):
    counts = [cell.execution_count for cell in code(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}"]


def checked_cells_have_output(notebook, lesson):
    checked = [cell for cell in notebook.cells if CHECKED in tags(cell)]
    problems = [f"{c.id} is checked but shows no text" for c in checked if c.cell_type != "code" or not printed(c)]
    return problems if checked else ["no cell is checked"]


def no_stored_error(notebook, lesson):
    return [f"{c.id} ends in an error" for c in code(notebook) if any(o.output_type == "error" for o in c.outputs)]


def kernel_is_python3(notebook, lesson):
    return [] if notebook.metadata.get("kernelspec", {}).get("name") == "python3" else ["the kernel is not python3"]


def no_path_of_this_machine(notebook, lesson):
    path = re.compile(
        r"(?<![\w.:/)])/(?:home|Users|root|tmp|work|usr|opt|var|mnt|private)/\S*|[A-Z]:\\\w+|site-packages"
    )
    texts = {cell.id: cell.source + (printed(cell) if cell.cell_type == "code" else "") for cell in notebook.cells}
    return [f"{name} has {path.search(text).group()}" for name, text in texts.items() if path.search(text)]


def plain_python(notebook, lesson):
    """A magic is no Python: nbval passes over one that it doesn't know, and over the rest of the cell."""
    problems = [f"{c.id} changes sys.path" for c in code(notebook) if "sys.path" in c.source]
    for cell in code(notebook):
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            problems.append(f"{cell.id} is not plain Python: {error.text!r}")
    return problems


def commands_work_everywhere(notebook, lesson):
    """A temporary folder may have a space in its name, and Windows has no `make`."""
    split = [c for c in code(notebook) if "subprocess" in c.source and ".split()" in c.source]
    markdown = [c for c in notebook.cells if c.cell_type == "markdown"]
    of_make = [c for c in markdown if re.search(r"`[^`]*\bmake \w+`", c.source) and "py run.py" not in c.source]
    return [f"{c.id} builds a command by splitting text: a place with a space in it falls apart" for c in split] + [
        f"{c.id} says `make` alone: say what is typed on Windows too, `py run.py …`" for c in of_make
    ]


def frame_is_the_courses(notebook, lesson):
    frame = {"header": notebooks.header(lesson), "footer": notebooks.footer(lesson)}
    problems = []
    for cell, tag in ((notebook.cells[0], "header"), (notebook.cells[-1], "footer")):
        if tags(cell) != [tag] or cell.source != frame[tag]:
            problems.append(f"the {tag} is not what flgc_lib.course.lessons says: execute the notebook")
    if notebook.cells[1].source != START.replace("NN", lesson.number):
        problems.append("the second cell is not the course's start")
    return problems


def sections_in_order(notebook, lesson):
    *sections, summary, exercises, references = headings(notebook)
    numbers = [int(match.group()) for match in (re.match(r"\d+", s) for s in sections) if match]
    problems = (
        [] if numbers == list(range(1, len(sections) + 1)) else [f"sections are not numbered in order: {sections}"]
    )
    if (summary, exercises, references) != ("Summary", "Exercises", "References"):
        problems.append(f"it ends with {summary}, {exercises}, {references}")
    return problems


def exercises_are_complete(notebook, lesson):
    """Exercises "3.1", "3.2" … and the steps of what the student builds, "3.step1", "3.step2" …: all of one form."""
    problems, found = [], {"Exercise": 0, "Step": 0}
    chapter = int(lesson.number)
    for place, cell in enumerate(notebook.cells):
        kind = next((k for k in found if cell.source.startswith(f"### {k} ")), None)
        if cell.cell_type != "markdown" or kind is None:
            continue
        found[kind] += 1
        stub, check, hints, solution = notebook.cells[place + 1 : place + 5]
        card = CARD.match(cell.source + "\n")
        name = cell.source.splitlines()[0]
        number = f"{chapter}.{found[kind]}" if kind == "Exercise" else f"{chapter}.step{found[kind]}"
        if not card or card.group(1) != str(found[kind]):
            problems.append(f"{name}: not `### Exercise {number} ●○○ · 5 minutes`, or `### Step {found[kind]} …`")
        if tags(stub) != ["exercise"]:
            problems.append(f"{name}: no stub below its card")
        if tags(check) != [CHECKED] or not check.source.startswith(f'check("{number}", '):
            problems.append(f"{name}: no check below its stub")
        if hints.source.count("<summary>Hint ") != 2 or hints.source.count("</details>") != 2:
            problems.append(f"{name}: not two hints below its check")
        if tags(solution) != ["solution"] or solution.source.count("```python\n") != 1:
            problems.append(f"{name}: no solution below its hints")
        if not solution.source.startswith("<details><summary>Solution</summary>"):
            problems.append(f"{name}: its solution is not folded away")
    stray = sum(bool({"exercise", "solution"} & set(tags(cell))) for cell in notebook.cells) - 2 * sum(found.values())
    few = ["fewer than three"] if found["Exercise"] < 3 else []
    return problems + ([f"{stray} stubs or solutions without card"] * bool(stray)) + few


def stubs_are_not_yet_right(notebook, lesson):
    checks = [cell for cell in code(notebook) if cell.source.startswith("check(")]
    return [
        f"{c.source}: the stub is answered {printed(c)!r}" for c in checks if not printed(c).startswith("Not yet: ")
    ]


def solutions_are_right(notebook, lesson):
    """Of a notebook that was executed with its solutions."""
    checks = [cell for cell in code(notebook) if cell.source.startswith("check(")]
    return [f"{c.source}: the solution is answered {printed(c)!r}" for c in checks if not printed(c).startswith("✓ ")]


def ids_are_stable(notebook, lesson):
    names = [cell.id for cell in notebook.cells]
    problems = [f"{name} is there twice" for name in sorted(set(names)) if names.count(name) > 1]
    return problems + [
        f"{name} does not begin with c{lesson.number}-" for name in names if name[:4] != f"c{lesson.number}-"
    ]


FOLDED = {"hide-input": "source_hidden", "hide-output": "outputs_hidden"}
"""What a book folds away by its tag, and JupyterLab by its own metadata."""


def only_tags_as_metadata(notebook, lesson):
    problems = []
    for cell in notebook.cells:
        folded = {FOLDED[tag]: True for tag in tags(cell) if tag in FOLDED}
        rest = {name: value for name, value in cell.metadata.items() if name != "tags"}
        if rest != ({"jupyter": folded} if folded else {}):
            problems.append(f"{cell.id} has metadata {rest}, not the folding of its tags {tags(cell)}")
    return problems


def predictions_hide_their_answer(notebook, lesson):
    """A student who is to predict must not see the answer before: it is folded, and so is all that the next cells show.

    The next cells are those of code, up to the next words."""
    problems = []
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type != "markdown" or "**Predict.**" not in cell.source:
            continue
        if "<details><summary>Answer</summary>" not in cell.source:
            problems.append(f"{cell.id} asks to predict, without a folded answer")
        below = dropwhile(lambda c: c.cell_type != "code", notebook.cells[place + 1 :])
        for shown in takewhile(lambda c: c.cell_type == "code", below):
            if shown.outputs and "hide-output" not in tags(shown):
                problems.append(f"{shown.id} shows the answer of {cell.id}: fold its output")
    return problems


def ends_with_what_to_try_and_recall(notebook, lesson):
    markdown = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    tail = markdown.partition("\n### Try this\n")[2]
    changes, _, questions = tail.partition("\n### Recall\n")
    folded = questions.partition("\n## ")[0].count("</details>")
    problems = [] if changes.count("\n| ") >= 4 else ["no table of changes below `### Try this`"]
    return problems + ([] if folded >= 5 else [f"{folded} folded answers below `### Recall`, five are wanted"])


def short_cells(notebook, lesson):
    lengths = {cell.id: len(cell.source.splitlines()) for cell in code(notebook)}
    return [f"{name} has {lines} lines" for name, lines in lengths.items() if lines > LONGEST_CELL]


def pictures_are_png(notebook, lesson):
    """nbval compares SVG as text, and it differs from run to run; a widget is dead without its kernel."""
    kinds = {"image/svg+xml", notebooks.WIDGET}
    return [
        f"{c.id} stores {kind}" for c in code(notebook) for o in c.outputs for kind in kinds & set(o.get("data", {}))
    ]


def figures_are_shown(notebook, lesson):
    """What is to be seen in a cell is there, or a sentence that there is nothing to draw yet."""
    shows = re.compile(r"^(?:draw\.|plt\.)?show\(", re.MULTILINE)
    return [
        f"{c.id} shows no figure"
        for c in code(notebook)
        if shows.search(c.source)
        and not any("image/png" in o.get("data", {}) for o in c.outputs)
        and "no run" not in printed(c)
    ]


def figures_of_records_are_checked(notebook, lesson):
    """nbval compares no picture, but how large it is and how many panels it has: that tells most stale ones."""
    shows = re.compile(r"^ *(?:draw\.)?show\(f?\"", re.MULTILINE)
    return [
        f"{c.id} shows a figure and is not checked"
        for c in code(notebook)
        if shows.search(c.source) and CHECKED not in tags(c)
    ]


def links_lead_somewhere(notebook, lesson):
    markdown = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = {link.split("#")[0] for link in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", markdown)}
    elsewhere = links - {x.file for x in COURSE}  # whether those exist is a test of its own
    return [f"{link} does not exist" for link in sorted(elsewhere) if not (FOLDER / link).exists()]


SVG = v4.new_output("display_data", data={"image/svg+xml": "<svg/>"})

END = (
    """## Summary

One and one is two.

### Try this

| change | what happens |
| --- | --- |
| `1 + 2` | it prints 3 |
| `2 + 2` | it prints 4 |

### Recall
"""
    + 5
    * """
<details><summary>How much is 1 + 1?</summary>

Two.

</details>
"""
    + "\n## Exercises"
)

# For each guard, ways to break a good notebook and a word of the sentence that must follow.


def _set(cell, **values):
    for name, value in values.items():
        cell[name] = value


def _metadata(cell, **values):
    cell.metadata.update(values)


def _predict(notebook):
    _set(notebook.cells[2], source="> **Predict.** 1 + 1?")
    _metadata(notebook.cells[3], tags=[CHECKED, "hide-output"])


def _picture_below(notebook):
    picture = [v4.new_output("display_data", data={"image/png": ""})]
    notebook.cells.insert(4, v4.new_code_cell("plt.show()", outputs=picture, id="c00-3b"))


BREAKS = [
    (run_in_order, lambda n: _set(n.cells[3], execution_count=None), "None"),
    (run_in_order, lambda n: _set(n.cells[3], execution_count=7), "7"),
    (checked_cells_have_output, lambda n: _set(n.cells[3], outputs=[]), "shows no text"),
    (checked_cells_have_output, lambda n: [_metadata(c, tags=[]) for c in n.cells], "no cell is checked"),
    (no_stored_error, lambda n: n.cells[1].outputs.append(v4.new_output("error", ename="E", evalue="x")), "c00-1"),
    (kernel_is_python3, lambda n: _metadata(n, kernelspec={"name": "mine"}), "python3"),
    (no_path_of_this_machine, lambda n: _set(n.cells[2], source="see /home/me/x.py"), "/home/me/x.py"),
    (no_path_of_this_machine, lambda n: _set(n.cells[3].outputs[0], text="C:\\Users"), "C:"),
    (plain_python, lambda n: _set(n.cells[3], source="%unknown_magic\n1 + 1"), "%unknown_magic"),
    (plain_python, lambda n: _set(n.cells[3], source="!ls"), "!ls"),
    (plain_python, lambda n: _set(n.cells[3], source="import sys\nsys.path.append('..')"), "sys.path"),
    (commands_work_everywhere, lambda n: _set(n.cells[3], source="subprocess.run('ls a'.split())"), "with a space"),
    (commands_work_everywhere, lambda n: _set(n.cells[2], source="Type `FLGC_MODE=smoke make lab`."), "on Windows"),
    (frame_is_the_courses, lambda n: _set(n.cells[0], source="# Another title"), "header"),
    (frame_is_the_courses, lambda n: n.cells.pop(), "footer"),
    (frame_is_the_courses, lambda n: n.cells.pop(1), "start"),
    (sections_in_order, lambda n: _set(n.cells[2], source="## 2. Sums"), "numbered"),
    (sections_in_order, lambda n: _set(n.cells[4], source="## Exercises\n\n## Summary"), "it ends with"),
    (exercises_are_complete, lambda n: n.cells.pop(6), "stub"),
    (exercises_are_complete, lambda n: n.cells.pop(7), "check"),
    (exercises_are_complete, lambda n: _set(n.cells[8], source="no hint"), "two hints"),
    (exercises_are_complete, lambda n: n.cells.pop(9), "solution"),
    (exercises_are_complete, lambda n: _set(n.cells[9], source="```python\n1\n```"), "folded"),
    (exercises_are_complete, lambda n: _set(n.cells[5], source="### Exercise 0.1, easy"), "●○○"),
    (exercises_are_complete, lambda n: n.cells.pop(5), "without card"),
    (exercises_are_complete, lambda n: [n.cells.pop(5) for _ in range(5)], "fewer than three"),
    (stubs_are_not_yet_right, lambda n: _set(n.cells[7].outputs[0], text="✓ Right.\n"), "✓ Right"),
    (stubs_are_not_yet_right, lambda n: _set(n.cells[7], outputs=[]), "''"),
    (ids_are_stable, lambda n: _set(n.cells[3], id="c00-1"), "twice"),
    (ids_are_stable, lambda n: _set(n.cells[3], id="d1e2f3"), "c00-"),
    (only_tags_as_metadata, lambda n: _metadata(n.cells[3], scrolled=True), "scrolled"),
    (only_tags_as_metadata, lambda n: _metadata(n.cells[3], tags=["hide-input"]), "hide-input"),
    (predictions_hide_their_answer, lambda n: _set(n.cells[2], source="> **Predict.** 1 + 1?"), "without a folded"),
    (predictions_hide_their_answer, lambda n: _set(n.cells[2], source="> **Predict.** 1 + 1?"), "c00-3 shows"),
    (predictions_hide_their_answer, lambda n: [_predict(n), _picture_below(n)], "c00-3b shows"),
    (ends_with_what_to_try_and_recall, lambda n: _set(n.cells[4], source="## Summary\n\n## Exercises"), "no table"),
    (ends_with_what_to_try_and_recall, lambda n: _set(n.cells[4], source=END.replace("</details>", "", 1)), "five"),
    (short_cells, lambda n: _set(n.cells[3], source="\n".join(["1"] * (LONGEST_CELL + 1))), "lines"),
    (pictures_are_png, lambda n: n.cells[3].outputs.append(SVG), "svg"),
    (figures_are_shown, lambda n: _set(n.cells[3], source="plt.show()"), "shows no figure"),
    (figures_of_records_are_checked, lambda n: _set(n.cells[6], source='draw.show("masks", RESULTS)'), "not checked"),
    (links_lead_somewhere, lambda n: _set(n.cells[2], source="[x](09-nothing.ipynb)"), "09-nothing.ipynb"),
]
GUARDS = list(dict.fromkeys(guard for guard, _, _ in BREAKS))


@pytest.fixture
def good():
    """A notebook of the course's form that nothing is wrong with: START, one section, three exercises."""
    lesson = COURSE[0]
    say = [v4.new_output("stream", text="2\n")]
    cells = [
        v4.new_markdown_cell(notebooks.header(lesson), metadata={"tags": ["header"]}),
        v4.new_code_cell(START.replace("NN", "00"), outputs=say),
        v4.new_markdown_cell("## 1. Sums"),
        v4.new_code_cell("print(1 + 1)", outputs=say, metadata={"tags": [CHECKED]}),
        v4.new_markdown_cell(END),
    ]
    hints = "".join(f"<details><summary>Hint {i}</summary>Count.</details>\n\n" for i in (1, 2))
    for number in (1, 2, 3):
        not_yet = [v4.new_output("stream", text="Not yet: count.\n")]
        solution = "<details><summary>Solution</summary>\n\n```python\nanswer = 2\n```\n\n</details>"
        cells += [
            v4.new_markdown_cell(f"### Exercise 0.{number} ●○○ · 1 minutes\n\nHow much is 1 + 1?"),
            v4.new_code_cell("answer = ...", metadata={"tags": ["exercise"]}),
            v4.new_code_cell(f'check("0.{number}", answer)', outputs=not_yet, metadata={"tags": [CHECKED]}),
            v4.new_markdown_cell(hints),
            v4.new_markdown_cell(solution, metadata={"tags": ["solution"]}),
        ]
    cells.append(v4.new_markdown_cell(notebooks.footer(lesson), metadata={"tags": ["footer"]}))
    notebook = v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    for place, cell in enumerate(notebook.cells):
        cell.id = f"c00-{place}"
    for count, cell in enumerate(code(notebook), start=1):
        cell.execution_count = count
    return notebook


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_a_guard_lets_a_good_notebook_pass(guard, good):
    assert guard(good, COURSE[0]) == []


@pytest.mark.parametrize(("guard", "break_it", "word"), BREAKS, ids=lambda x: getattr(x, "__name__", None))
def test_a_guard_notices_a_broken_notebook(guard, break_it, word, good, tmp_path):
    break_it(good)
    (tmp_path / "broken.ipynb").write_text(v4.writes(good), encoding="utf-8")
    problems = guard(read(tmp_path / "broken.ipynb"), COURSE[0])
    assert any(word in problem for problem in problems), problems


@pytest.mark.parametrize("lesson", COURSE, ids=lambda lesson: lesson.number)
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_notebooks(guard, lesson):
    assert guard(read(FOLDER / lesson.file), lesson) == []


def test_every_notebook_is_there_and_no_other():
    assert {path.name for path in FOLDER.glob("*.ipynb")} == {lesson.file for lesson in COURSE}


def test_notebooks_are_whole_and_valid():
    for lesson in COURSE:
        notebook = nbformat.read(FOLDER / lesson.file, as_version=nbformat.NO_CONVERT)
        assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5), lesson.file
        nbformat.validate(notebook)


def test_every_part_of_the_paper_has_a_notebook():
    found = {part: [lesson.number for lesson in lessons_on(part)] for part in PAPER}
    assert all(found.values()), found
    assert found["eq. (1)"] == ["01"]
    assert found["Fig. 2 (b)"] == ["03"]


def test_exercises_are_many():
    found = sum("exercise" in tags(cell) for lesson in COURSE for cell in read(FOLDER / lesson.file).cells)
    assert found >= 24


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """All notebooks, executed with the folded solutions in place of the stubs."""
    folder = tmp_path_factory.mktemp("solved")
    return folder, notebooks.execute_all("smoke", folder, workers=2, solutions=True)


@pytest.mark.parametrize("lesson", COURSE, ids=lambda lesson: lesson.number)
@pytest.mark.timeout(900)
def test_every_solution_is_right(lesson, solved):
    folder, failures = solved
    assert lesson.number not in failures, failures[lesson.number]
    notebook = read(folder / lesson.file)
    assert solutions_are_right(notebook, lesson) == []


def test_a_wrong_solution_is_noticed(good, tmp_path):
    """Two right ones and a wrong one: executed, as those of the course are."""
    lesson = COURSE[0]
    checks = 'def check(number, answer):\n    print("✓ Two." if answer == 2 else f"Not yet: {answer} is not 2.")'
    good.cells[3].source = checks
    wrong = copy.deepcopy(good.cells[14])
    good.cells[14].source = wrong.source.replace("answer = 2", "answer = 3")
    nbformat.write(good, tmp_path / lesson.file)
    executed = notebooks.execute(lesson, "smoke", tmp_path / "out", solutions=True, folder=tmp_path)
    assert len(solutions_are_right(executed, lesson)) == 1
    assert "3 is not 2" in solutions_are_right(executed, lesson)[0]


def test_a_solution_needs_an_exercise_and_an_exercise_a_solution(good):
    orphan, unsolved = copy.deepcopy(good), copy.deepcopy(good)
    orphan.cells.pop(6)
    with pytest.raises(ValueError, match="solution without exercise"):
        notebooks.insert_solutions(orphan)
    unsolved.cells.pop(19)
    with pytest.raises(ValueError, match="no solution"):
        notebooks.insert_solutions(unsolved)
    assert notebooks.insert_solutions(good) == 3


def test_executing_goes_on_after_a_failing_notebook_and_changes_nothing_the_second_time(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for lesson, start in ((COURSE[0], "raise KeyError('gone')"), (COURSE[1], "def check(*_): ...")):
        good.cells[1].source = start
        nbformat.write(good, folder / lesson.file)
    first, second = COURSE[:2]
    assert notebooks.execute_all("smoke", Path("notebooks"), only=("00", "01")) == {"00": "KeyError: 'gone'"}
    written = (folder / second.file).read_bytes(), (folder / "times.json").read_bytes()
    assert f"# 01 · {second.title}" in written[0].decode("utf-8")
    assert notebooks.execute_all("smoke", Path("notebooks"), only=("01",)) == {}
    assert written == ((folder / second.file).read_bytes(), (folder / "times.json").read_bytes())
    notebooks.execute_all("standard", tmp_path / "build", only=("01",), measure=True)
    assert written[0] == (folder / second.file).read_bytes()
    assert set(json.loads((folder / "times.json").read_text(encoding="utf-8"))["01"]) == {"smoke", "standard"}
    assert read(folder / first.file).cells[1].source == "raise KeyError('gone')"


def test_what_would_differ_at_the_next_run_is_not_stored(good):
    good.metadata["widgets"] = {"state": {"3f2a": {}}}
    good.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    widget = v4.new_output("display_data", data={notebooks.WIDGET: {"model_id": "3f2a"}})
    good.cells[3].outputs = [*good.cells[3].outputs, widget]
    notebooks._forget_what_differs(good)
    assert good.metadata["language_info"] == {"name": "python"}
    assert "widgets" not in good.metadata
    assert good.cells[3].outputs == []  # what a widget shows goes with it
    assert [output.output_type for output in good.cells[1].outputs] == ["stream"]


@pytest.mark.parametrize("missing", ["flgc_lib", "matplotlib"])
def test_the_first_cell_names_what_is_missing(missing):
    def not_there(*_):
        raise ModuleNotFoundError(f"No module named '{missing}'")

    with pytest.raises(SystemExit, match=f"^No module named '{missing}': .* type `python3 run.py lab`"):
        exec(START, {"__builtins__": vars(builtins) | {"__import__": not_there}})


def test_the_mode_decides_the_amount_and_must_be_known(monkeypatch, capsys):
    monkeypatch.setenv("FLGC_MODE", "smoke")
    assert course.pick(smoke=1, standard=2, full=3) == 1
    course.start("03")
    assert "FLGC_MODE=smoke" in capsys.readouterr().out
    monkeypatch.delenv("FLGC_MODE")
    assert course.mode() == "standard"
    monkeypatch.setenv("FLGC_MODE", "quick")
    with pytest.raises(ValueError, match="FLGC_MODE='quick' must be one of smoke, standard, full"):
        course.mode()


def test_a_claim_of_equality_is_said_or_refused_with_what_was_expected(capsys):
    course.agree("a and b", torch.zeros(2), torch.full((2,), 1e-9))
    assert capsys.readouterr().out == "a and b: equal\n"
    with pytest.raises(AssertionError, match=r"a and b should be equal up to 1e-06, but differ by up to 0\.5"):
        course.agree("a and b", torch.zeros(2), torch.tensor([0.0, 0.5]))
    with pytest.raises(AssertionError, match="differ by up to nan"):
        course.agree("a and b", torch.zeros(1), torch.tensor([torch.nan]))
    with pytest.raises(AssertionError, match=r"the same shape, but have \(2,\) and \(1,\)"):
        course.agree("a and b", torch.zeros(2), torch.zeros(1))


def test_an_unknown_number_is_refused():
    with pytest.raises(ValueError, match="no notebook '9'"):
        notebooks.execute_all("smoke", Path("notebooks"), only=("9",))


@pytest.mark.parametrize("text", ["0x7f3a00ff11", "3.25 s", "12 seconds", "torch 2.14.1+cpu", "1.5 ms", "0.3 min"])
def test_the_sanitize_file_parses_into_its_three_rules(text):
    rules = get_sanitize_patterns(Path("tests/nbval_sanitize.cfg").read_text(encoding="utf-8"))
    assert len(rules) == 3 == Path("tests/nbval_sanitize.cfg").read_text(encoding="utf-8").count("regex:")
    for regex, replacement in rules:
        text = re.sub(regex, replacement, text)
    assert not re.search(r"\d", text)


def test_a_malformed_rule_would_be_noticed():
    broken = Path("tests/nbval_sanitize.cfg").read_text(encoding="utf-8").replace("replace: TIME", "replaced: TIME")
    assert len(get_sanitize_patterns(broken)) != broken.count("regex:")


CHANGES = [
    # Notebook, cells by the end of their ids, a change, and words of the sentence that stops it; None: it works.
    ("00", "13 15", ("groups=2, padding", "groups=4, padding"), "for two groups; the layer has 4"),
    ("03", "03 05 07 09 16", ("[-0.4, 0.6]]", "[-0.4, 0.6], [3.0, 1.0]]"), None),
    ("04", "03 38 40", ("turn()", "turn(channel=20)"), "channel=20 must be from 0 to 15, the rows of S"),
    ("04", "03 38 40", ("turn()", "turn(groups=1)"), None),
    ("04", "03 b5 b11 b12 b13", ("planted_shared(seed=2)", "planted_shared(groups=3, seed=2)"), None),
    ("04", "03 b5 b11 b12 b13", ("planted_shared(seed=2)", "planted_shared(groups=5, seed=1)"), None),
    ("08", "03 20", ("48, 64, 4", "48, 64, 5"), "for equal groups G = 5 must divide C = 48 and N = 64"),
    ("08", "03 20", ("48, 64, 4", "30, 40, 10"), None),
    ("08", "03 23 25 27 32", ("top_k = 3", "top_k = 64"), None),
]


@pytest.mark.parametrize(("number", "ids", "change", "words"), CHANGES)
def test_a_change_that_a_page_invites_works_or_gets_a_sentence(number, ids, change, words, monkeypatch, capsys):
    mpl.use("Agg")
    path = next(FOLDER.glob(f"{number}-*.ipynb"))
    cells = {cell.id: cell.source for cell in code(read(path))}
    chosen = "\n".join(cells[f"c{number}-{end}"] for end in ids.split())
    assert change[0] in chosen
    chosen, where = chosen.replace(*change), {"course": course}
    monkeypatch.setattr(course, "pick", lambda **amounts: 20)
    if words is None:
        exec(compile(chosen, str(path), "exec"), where)
    else:
        with pytest.raises((AssertionError, ValueError), match=re.escape(words)):
            exec(compile(chosen, str(path), "exec"), where)
    plt.close("all")


class HasParameters(torch.nn.Module):
    def __init__(self, C, N, kernel_size, groups):
        super().__init__()
        self.W, self.S, self.T = (torch.nn.Parameter(torch.zeros(1)) for _ in "WST")


class ReturnsNothing(HasParameters):
    def forward(self, x): ...


class MissesAStep(HasParameters):
    def forward(self, x):
        return x * (... @ self.S)


class Computes(HasParameters):
    def forward(self, x):
        return x * self.W


@pytest.mark.parametrize(
    ("mine", "used"), [(torch.nn.Identity, False), (ReturnsNothing, False), (MissesAStep, False), (Computes, True)]
)
def test_the_library_s_layer_stands_in_until_the_student_s_gives_an_output(mine, used):
    """Notebook 03."""
    (source,) = (c.source for c in read(next(FOLDER.glob("03-*.ipynb"))).cells if c.id == "c03-b56")
    where = {"torch": torch, "FLGConv2d": FLGConv2d, "MyLayer": mine}
    exec(source, where)
    assert where["Layer"] is (mine if used else where["library_layer"])


@pytest.mark.parametrize(("lost", "left"), [("nothing", 2), ("momentum", 1), ("Adam's moments", 1)])
def test_a_part_of_the_checkpoint_that_is_lost_takes_no_other_with_it(lost, left):
    """Notebook 05, also of a network that has SGD alone."""
    (source,) = (c.source for c in read(next(FOLDER.glob("05-*.ipynb"))).cells if c.id == "c05-lost2")
    model = torch.nn.Linear(1, 1)
    model(torch.ones(1)).backward()
    sgd = torch.optim.SGD([model.weight], lr=0.1, momentum=0.9)
    adam = torch.optim.Adam([model.bias])
    for optimizers in ([sgd, adam], [sgd]):
        for optimizer in optimizers:
            optimizer.step()
        parts = copy.deepcopy([part.state_dict() for part in (model, *optimizers)])
        where = {"deepcopy": copy.deepcopy, "checkpoint": parts, "fresh": lambda made=optimizers: (model, made, [])}
        exec(source, where)
        _, resumed, _ = where["resumed"](lost)
        alone = len(optimizers) == 1
        assert sum(bool(optimizer.state) for optimizer in resumed) == (lost != "momentum" if alone else left)
