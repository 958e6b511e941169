"Exercises: every solution is right, every typical wrong answer is refused in words, and progress never costs an exercise."
import ast
import functools
import json
import os
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from wrong_answers_losses import WRONG as LOSSES
from wrong_answers_system import WRONG as SYSTEM
from wrong_answers_vectors import WRONG as VECTORS

import sscq.exercises
from sscq.exercises import check, every_exercise, progress, progress_file
from sscq.verdicts import Exercise, Verdict, difference, guess, judge, register, within

ROOT = Path(__file__).parent.parent
NBS = ROOT / "nbs"
EXERCISES = dict(every_exercise())
WRONG = VECTORS | LOSSES | SYSTEM
LEAST = 40  # exercises in all


def source(cell) -> str: return "".join(cell["source"])
def checks(text: str) -> list[ast.Call]:
    "Calls of `check` in a cell"
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
    return [n for n in calls if getattr(n.func, "id", getattr(n.func, "attr", "")) == "check"]


def asked(call: ast.Call) -> str:
    "The name of the exercise that a call checks"
    return call.args[1].value if len(call.args) > 1 else call.args[0].id.removeprefix("your_")


def solutions() -> dict[str, tuple[Path, int]]:
    "Name of an exercise -> its notebook and the number of the cell that solves it"
    found = {}
    for nb in sorted([*NBS.glob("[0-9]*.ipynb"), *NBS.glob("*/*.ipynb")]):
        for i, cell in enumerate(json.loads(nb.read_text(encoding="utf-8"))["cells"]):
            if "solution" in cell["metadata"].get("tags", []):
                name, = {asked(call) for call in checks(source(cell))}
                assert name not in found, f"{name} has two solutions"
                found[name] = nb, i
    return found


SOLUTIONS = solutions()
solved = pytest.mark.parametrize("name", SOLUTIONS)
every = pytest.mark.parametrize("name", EXERCISES)


@functools.cache
def cells(nb: Path) -> list[dict]: return json.loads(nb.read_text(encoding="utf-8"))["cells"]


def scope(nb: Path, before: int) -> dict:
    "What a solution may use: the notebook's imports, its functions and its constants of one line, as far as they stand above"
    nodes = [node for cell in cells(nb)[:before] if cell["cell_type"] == "code" and "solution" not in cell["metadata"].get("tags", [])
             for node in ast.parse(source(cell)).body]
    found: dict = {}
    kinds = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef
    exec(compile(ast.Module([n for n in nodes if isinstance(n, kinds)], []), nb.stem, "exec"), found)
    return found


@pytest.fixture(autouse=True)
def own_file(tmp_path, monkeypatch):
    "Progress of its own for each test, in a file, with nothing remembered"
    for name in ("IN_TEST", "SSCQ_STILL"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSCQ_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr(sscq.exercises, "_memory", {})
    monkeypatch.setattr(sscq.exercises, "_noted", set())
    return tmp_path / "progress.json"


def last_value(text: str, found: dict):
    "Run a cell; the value of its last line"
    body = ast.parse(text).body
    exec(compile(ast.Module(body[:-1], []), "cell", "exec"), found)
    return eval(compile(ast.Expression(body[-1].value), "cell", "eval"), found)


# --- the notebooks and the lists

@solved
def test_a_solution_is_right_and_folded(name):
    nb, i = SOLUTIONS[name]
    cell = cells(nb)[i]
    assert source(cell).startswith("#| code-fold: true\n"), "the first line folds it on the site"
    assert cell["metadata"]["jupyter"]["source_hidden"], "it is folded in JupyterLab"
    call, = checks(source(cell))
    assert [k.arg for k in call.keywords] == ["own"], "own=False: a reader who runs all cells has solved nothing"
    assert last_value(source(cell), scope(nb, i)).state == "right"


@solved
def test_the_cell_before_it_is_left_to_the_reader(name):
    "The question, the stub with its check, the solution, in this order; an empty stub is not yet right, and a bug is found by its check"
    nb, i = SOLUTIONS[name]
    question, stub = cells(nb)[i - 2:i]
    assert question["cell_type"] == "markdown" and "solution" not in stub["metadata"].get("tags", [])
    head = re.search(r"^### Exercise \d+ · (write|predict|find the bug)$", source(question), re.M)
    assert head and head[1] == EXERCISES[name].kind, "### Exercise N · its kind"
    assert [asked(call) for call in checks(source(stub))] == [name]
    said = last_value(source(stub), scope(nb, i - 1))
    assert said.state == "not yet" or (said.state, head[1]) == ("wrong", "find the bug")
    assert not [slip for slip in EXERCISES[name].wrong if slip in said.text], "the verdict of the stub names the bug that is asked for"


def test_every_exercise_stands_in_its_notebook():
    there = {name: nb.relative_to(NBS).with_suffix("").as_posix() for name, (nb, _) in SOLUTIONS.items()}
    assert there == {name: e.notebook for name, e in EXERCISES.items()}
    assert len(EXERCISES) >= LEAST
    assert {e.kind for e in EXERCISES.values()} <= {"write", "predict", "find the bug"}


def test_exercises_of_a_notebook_are_counted_from_1():
    for nb in {nb for nb, _ in SOLUTIONS.values()}:
        text = "\n".join(source(c) for c in cells(nb) if c["cell_type"] == "markdown")
        numbers = re.findall(r"^### Exercise (\d+) · ", text, re.M)
        assert numbers == [str(n + 1) for n in range(len(numbers))], nb.name
        assert len(numbers) == sum(there == nb for there, _ in SOLUTIONS.values()), nb.name


@every
def test_cases_are_named_and_the_same_each_time(name):
    e = EXERCISES[name]
    if e.cases is None: return
    first, second = list(e.cases()), list(e.cases())
    assert len(first) >= 4 and len({words for words, _ in first}) == len(first)
    assert [words for words, _ in first] == [words for words, _ in second]
    assert not sscq.verdicts._changed(tuple(a for _, a in first), tuple(a for _, a in second)) is not None


@every
def test_typical_wrong_answers_are_refused_with_a_sentence(name):
    answers = WRONG[name]
    assert len(answers) >= 5
    for n, answer in enumerate(answers):
        said = check(answer, name)
        assert said.state == "wrong", f"wrong answer {n} is {said.state}"
        assert said.text.rstrip().endswith((".", "?")) and len(said.text.split()) >= 4, said.text


@every
def test_usual_slips_are_recognised(name):
    "Each slip that a list names is refused, and its sentence is said"
    e = EXERCISES[name]
    for sentence, slip in e.wrong.items():
        if e.cases is None and callable(slip): continue  # a detector, which is no answer
        assert sentence in check(slip, name).text
    assert all(hint.rstrip().endswith((".", "?")) for hint in e.hints)


def test_wrong_answers_belong_to_exercises(): assert WRONG.keys() == EXERCISES.keys()


def test_the_site_folds_solutions():
    sys.path.insert(0, str(NBS / "site"))
    from build import code_cell, read
    cell = {"cell_type": "code", "id": "a", "metadata": {"tags": ["solution"]}, "source": ["#| code-fold: true\n", "x = 1\n", "check(x)"],
            "outputs": [{"output_type": "stream", "text": ["said"]}]}
    nb = read(NBS / "04_codebook.ipynb")
    text = "\n".join(code_cell(None, nb, cell))
    assert re.search(r'<details class="solution"><summary>Solution</summary>.*x = 1.*said.*</details>', text, re.S) and "code-fold" not in text
    drawing = "\n".join(code_cell(None, nb, cell | {"metadata": {}}))
    assert re.search(r'<details class="code"><summary>Code</summary>.*x = 1.*</details>.*said', drawing, re.S), "what was drawn stays open"


# --- the verdict

def mean_row(x): return x.sum(0) / max(len(x), 1)


def rows():
    yield "n = 1", torch.tensor([[1., 2.]])
    yield "rows are equal", torch.ones(3, 2)
    yield "rows differ", torch.arange(6.).view(3, 2)
    yield "n = 0", torch.zeros(0, 2)


ROWS = Exercise("rows", "99", "write", mean_row, rows, ("A hint.", "Another."), wrong={"It is the sum.": lambda x: x.sum(0)}, because="It was.")


def test_right_has_its_because(): assert repr(judge(ROWS, mean_row)) == "✓ Right. It was."


@pytest.mark.parametrize("answer, text", [
    (lambda x: x.mean(0), "Right when n = 1, rows are equal and rows differ, wrong when n = 0: the result is NaN at [0], where a number is expected."),
    (lambda x: -mean_row(x), "Right when n = 0, wrong when n = 1, rows are equal and rows differ: the sign is wrong."),
    (lambda x: x.no_such(0), "Wrong in every case: it stops with AttributeError ('Tensor' object has no attribute 'no_such')."),
    (lambda x: mean_row(x)[None], "Wrong in every case: the result has shape (1, 2), where (2,) is expected: a dimension of size 1 is too many."),
    (lambda x: mean_row(x.add_(1)) - 1 if len(x) else x.sum(0),
     "Right when n = 0, wrong when n = 1, rows are equal and rows differ: it changes its first argument, which belongs to the caller: work on a copy."),
    (3, "A function is wanted, not 3.")], ids=["edge", "sign", "error", "shape", "in place", "no function"])
def test_a_wrong_answer_hears_where(answer, text): assert judge(ROWS, answer).text == text


def test_a_slip_is_named(): assert judge(ROWS, lambda x: x.sum(0)).text.endswith(" It is the sum.")


@pytest.mark.parametrize("answer", [None, ..., (1, ...), lambda x: None, lambda x: exec("raise NotImplementedError")],
                         ids=["None", "dots", "some dots", "no return", "stub"])
def test_an_empty_answer_is_not_yet(answer):
    said = judge(ROWS, answer)
    assert said.state == "not yet" and said.text.startswith("Not yet: ") and not said


def test_what_stops_a_program_is_not_swallowed():
    def interrupted(x): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): judge(ROWS, interrupted)


def test_an_answer_gets_the_same_random_numbers_and_takes_none():
    e = Exercise("noise", "99", "write", lambda n: torch.randn(n), lambda: (((f"n = {n}"), n) for n in range(1, 5)), ("a.", "b."))
    before = torch.get_rng_state()
    assert judge(e, lambda n: torch.randn(n))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_an_answer_changes_is_no_longer_anybodys():
    given = torch.zeros(2, 2)
    e = Exercise("zero", "99", "write", lambda x: x, lambda: [("it is zero", given)], ("a.", "b."))
    assert "work on a copy" in judge(e, lambda x: x.fill_(0.) + x.fill_(1.) * 0).text
    assert torch.equal(given, torch.zeros(2, 2))


SQUARE = torch.arange(9.).view(3, 3) + torch.eye(3)
SLIPS = {
    "sign": (-SQUARE, "the sign is wrong"), "factor": (SQUARE / 4, "every value is off by the same factor, 0.25"),
    "offset": (SQUARE + 2, "every value is 2 too high"), "transposed": (SQUARE.T, "the result is transposed, its rows and columns are swapped"),
    "diagonal": (SQUARE * (1 - torch.eye(3)), "only the diagonal is wrong"), "order": (SQUARE.flip(0), "the values are right, their order is not"),
    "one": (SQUARE + (SQUARE == 5), "2 of 9 values are wrong, the first at [1, 1]: 6, where 5 is expected"),
    "NaN": (SQUARE / (SQUARE != 3), "the result is NaN"), "nothing": (None, "nothing is returned"), "text": ("a", "the result is 'a' of type str"),
    "shape": (SQUARE[:2], "the result has shape (2, 3), where (3, 3) is expected"), "infinite": (SQUARE / (SQUARE != 5), "2 of 9 values")}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_difference_has_words(slip):
    mine, said = SLIPS[slip]
    if slip == "NaN": mine = torch.where(SQUARE == 5, torch.nan, SQUARE)
    assert difference(mine, SQUARE).startswith(said)


@pytest.mark.parametrize("mine", [SQUARE, SQUARE.numpy(), SQUARE.tolist(), SQUARE.bfloat16(), SQUARE.clone().requires_grad_(), SQUARE + 1e-7],
                         ids=["tensor", "array", "list", "bfloat16", "gradient", "rounding"])
def test_the_same_is_the_same_in_any_form(mine): assert difference(mine, SQUARE) is None


def test_other_results_are_compared_too():
    assert difference((1, "a"), (1, "a")) is None and difference({"a": SQUARE}, {"a": SQUARE}) is None and difference(" A ", "a") is None
    assert difference((1, "b"), (1, "a")) == "of the second result, the result is 'b', where 'a' is expected"
    assert difference({}, {"a": 1}) == "'a' is missing" and difference({"a": 1, "b": 2}, {"a": 1}) == "'b' is too much"
    assert difference((SQUARE,), (SQUARE, SQUARE)) == "1 results are returned, where 2 are expected"
    assert difference(~(SQUARE > 4), SQUARE > 4) == "true and false are exchanged"
    assert difference([[1], [1, 2]], SQUARE).startswith("the result is [[1], [1, 2]] of type list")
    assert difference(3, 4) == "the result is 3, where 4 is expected" and difference(SQUARE.T[:2], SQUARE[:, :2]).endswith("swapped")
    assert difference(float("nan"), float("nan")) is None


@pytest.mark.parametrize("mine, truth, said", [
    (7, 9, "7 is too low"), (95, 9, "95 is too high by more than ten times"), ("x", 9, "a number is wanted, not 'x'"), (float("nan"), 9, "a number is wanted"),
    ((1, 2), (1, 3), "the second value is not right: 2 is too low"), (1, (1, 3), "2 values are wanted"), (True, False, "it is the other way round"),
    (1, True, "True or False is wanted"), ("red", "blue", "'red' is not right"), (2, "blue", "a word in quotation marks"), (True, 1, "a number is wanted")])
def test_a_prediction_is_not_given_away(mine, truth, said):
    assert guess(mine, truth).startswith(said)
    assert guess(truth, truth) is None


def test_a_prediction_may_be_near():
    assert within(.1)(95, 100) is None and within(.1)(-95, -100) is None and within(.01)(95, 100) and within(.1)(torch.tensor([95.]), 100) is None
    e = Exercise("near", "99", "predict", lambda: 100, hints=("a.", "b."), same=within(.1), wrong={"That is half.": 50, "Far away.": lambda x: x > 999})
    assert judge(e, 91) and judge(e, 50).text == "Not right: 50 is too low. That is half." and judge(e, 5000).text.endswith("Far away.")


def test_exercises_are_refused_that_cannot_be_meant():
    with pytest.raises(ValueError, match="must be a name"): Exercise("a b", "99", "write", 1, hints=("a.", "b."))
    with pytest.raises(ValueError, match="choose one of"): Exercise("a", "99", "guess", 1, hints=("a.", "b."))
    with pytest.raises(ValueError, match="two hints"): Exercise("a", "99", "predict", 1)
    with pytest.raises(TypeError, match="must be a function"): Exercise("a", "99", "write", 1, rows, ("a.", "b."))
    with pytest.raises(ValueError, match="needs another name"): register(Exercise("code_bytes", "99", "predict", 1, hints=("a.", "b.")))


def test_a_verdict_is_shown_in_two_forms():
    said = Verdict("x", "wrong", "Wrong: 1 < 2.", "Look.", "Noted.")
    assert repr(said) == "✗ Wrong: 1 < 2.\nHint: Look.\nNoted." and not said
    assert "✗ Wrong: 1 &lt; 2.<br>Hint: Look.<br>Noted." in said._repr_html_()


# --- finding, counting, keeping

def right(n, bits): return n * -(-bits // 8)
def sign(n, bits): return -right(n, bits)


def test_an_exercise_is_found_by_the_name_of_its_function():
    def your_code_bytes(n, bits): return right(n, bits)
    assert check(your_code_bytes) and check(right, "code_bytes") and check(right, "your_code_bytes")
    with pytest.raises(LookupError, match=r"^no exercise is called 'code_byte': did you mean code_bytes.*\?$"): check(right, "code_byte")
    with pytest.raises(LookupError, match="no exercise is called '<lambda>'"): check(lambda x: x)
    with pytest.raises(TypeError, match="say which exercise"): check(3)


def test_hints_come_with_the_second_and_third_try(own_file):
    hints = EXERCISES["code_bytes"].hints
    assert [check(sign, "code_bytes").hint for _ in range(4)] == ["", hints[0], hints[1], hints[1]]
    assert check(right, "code_bytes").hint == "" and check(..., "code_bytes").hint == ""
    assert json.loads(own_file.read_text())["exercises"] == {"code_bytes": {"tries": 4, "right": True}}
    check(sign, "code_bytes")
    assert json.loads(own_file.read_text())["exercises"]["code_bytes"]["right"], "what was solved stays solved"


def test_the_bug_that_a_notebook_gives_is_no_try():
    def given(x, words): return (x @ words.T).argmax(1)
    def state(): return next(row[1:3] for row in progress().rows if row[0] == "04_codebook")
    hints = EXERCISES["nearest"].hints
    assert check(given, "nearest").hint == "" and state() == (0, 0)
    assert [check(given, "nearest").hint for _ in range(3)] == ["", *hints] and state() == (0, 1)


def test_another_kernel_goes_on_counting(monkeypatch):
    check(sign, "code_bytes")
    monkeypatch.setattr(sscq.exercises, "_memory", {})
    assert check(sign, "code_bytes").hint


def test_an_empty_stub_and_a_solution_are_not_counted(own_file):
    check(..., "code_bytes")
    assert check(right, "code_bytes", own=False)
    with pytest.raises(AssertionError, match="the solution of code_bytes is not right: Wrong in"): check(lambda n, bits: -1, "code_bytes", own=False)
    assert not own_file.exists()


@pytest.mark.parametrize("name", ["IN_TEST", "SSCQ_STILL"])
def test_nothing_is_written_while_notebooks_are_made(own_file, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    own_file.write_text("damaged")
    assert [check(sign, "code_bytes").hint == "" for _ in range(2)] == [True, False] and not check(sign, "code_bytes").note
    assert own_file.read_text() == "damaged" and os.listdir(own_file.parent) == [own_file.name]


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json", '{"exercises": 3}', '{"exercises": {"a": {}}}',
                                  '{"exercises": {"a": {"tries": "1", "right": true}}}', "[" * 100_000, "\xff"],
                         ids=["empty", "list", "no key", "text", "number", "entry", "type", "deep", "bytes"])
def test_a_damaged_file_costs_one_note(own_file, text):
    own_file.write_bytes(text.encode("latin-1"))
    before = progress()
    assert "next check" in before.note and before.total[0] == 0
    first, second = check(right, "code_bytes"), check(right, "code_bytes")
    assert first and first.note == "progress.json was damaged and is now progress.json.broken; counting begins anew." and second.note == ""
    assert own_file.with_name("progress.json.broken").read_bytes() == text.encode("latin-1") and progress().total[0] == 1 and not progress().note


def test_a_file_that_cannot_be_kept_costs_one_note(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "progress.json", tmp_path):  # under a file; a folder
        monkeypatch.setenv("SSCQ_PROGRESS", str(place))
        monkeypatch.setattr(sscq.exercises, "_memory", {})
        notes = [check(sign, "code_bytes").note for _ in range(3)]
        assert notes[0].startswith("Progress is not kept: ") and str(tmp_path) not in notes[0] and notes[1:] == ["", ""]
        assert check(sign, "code_bytes").hint, "it is remembered as long as the kernel lives"
        assert check(right, "code_bytes") and progress().total[0] == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_read_only_costs_one_note(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    monkeypatch.setenv("SSCQ_PROGRESS", str(tmp_path / "closed" / "progress.json"))
    (tmp_path / "closed").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert check(right, "code_bytes").note == "Progress is not kept: progress.json cannot be written (Permission denied)."


def test_where_progress_lies(monkeypatch, tmp_path):
    assert progress_file() == tmp_path / "progress.json"
    monkeypatch.delenv("SSCQ_PROGRESS")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    for state, wanted in (("", tmp_path / ".local/state"), ("relative", tmp_path / ".local/state"), (str(tmp_path / "s"), tmp_path / "s")):
        monkeypatch.setenv("XDG_STATE_HOME", state)
        assert progress_file() == wanted / "sscq/progress.json"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert progress_file() == tmp_path / "Library/Application Support/sscq/progress.json"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert progress_file() == tmp_path / "local/sscq/progress.json"


def test_the_page_of_progress():
    count = len([e for e in EXERCISES.values() if e.notebook == "04_codebook"])
    def row(): return next(r for r in progress().rows if r[0] == "04_codebook")
    assert row() == ("04_codebook", 0, 0, count) and sum(progress().total) == len(EXERCISES)
    check(sign, "code_bytes")
    assert row() == ("04_codebook", 0, 1, count - 1)
    check(right, "code_bytes")
    assert row() == ("04_codebook", 1, 0, count - 1)
    page = progress()
    assert re.search(rf"^04_codebook +1 +0 +{count - 1}$", repr(page), re.M) and repr(page).splitlines()[-1].split() == ["all", *map(str, page.total)]
    assert f"<td>04_codebook</td><td>1</td><td>0</td><td>{count - 1}</td>" in page._repr_html_()


def test_numpy_answers_are_looked_at_for_changes():
    e = Exercise("np", "99", "write", lambda x: x.sum(), lambda: [(f"n = {n}", np.ones(n)) for n in range(1, 5)], ("a.", "b."))
    def doubles(x):
        x *= 2
        return x.sum() / 2
    assert judge(e, lambda x: x.sum()) and "work on a copy" in judge(e, doubles).text


# --- what a notebook of the course promises

COURSE = [nb for nb in sorted(NBS.glob("[01][0-9]_*.ipynb")) if int(nb.name[:2]) <= 12]


@pytest.mark.parametrize("nb", COURSE, ids=lambda nb: nb.stem)
def test_the_head_says_how_long_reading_takes(nb):
    "Words at 200 a minute and lines of code at 20, cells that are hidden left out; and how many exercises there are"
    def hidden(cell): return source(cell).startswith("#| hide")
    shown = [c for c in cells(nb) if not hidden(c)]
    words = sum(len(source(c).split()) for c in shown if c["cell_type"] == "markdown")
    lines = sum(bool(line.strip()) and not line.startswith("#|") for c in shown if c["cell_type"] == "code" for line in source(c).splitlines())
    minutes, count = words / 200 + lines / 20, sum(there == nb for there, _ in SOLUTIONS.values())
    head = next(source(c) for c in cells(nb) if c["cell_type"] == "markdown" and source(c).startswith("Needs:"))
    said = re.search(r"Reading time: (\d+) minutes; computing time on a laptop CPU: (\d+) (second|minute)s?; exercises: (\d+)\.", head)
    assert said and abs(int(said[1]) - minutes) <= 1 and int(said[4]) == count and minutes <= 45
    assert int(said[2]) * (60 if said[3] == "minute" else 1) <= 120, "seconds of computing"
    assert len(cells(nb)) - 3 * count <= 160, "cells, exercises not counted"
    assert any(re.search("^## What was shown, what it cost, what next$", source(c), re.M) for c in cells(nb)[-12:]), "an ending"
