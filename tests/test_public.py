"What other projects rely on: the names that are offered, the names that were, and what tools see without running anything."
import ast
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest

import sscq
from sscq.moved import GONE, MOVED, places

ROOT = Path(__file__).parent.parent
MODULES = sorted(p.stem for p in (ROOT / "sscq").glob("*.py") if not p.stem.startswith("_"))
MOST_NAMES = 160
ROOT_NAMES = {"SSCQ": "core", "Index": "index", "SSCQObjective": "objective", "TrainConfig": "train"}
VERBS = {
    "SSCQ": ["fit", "encode", "embed", "index", "bits", "save_pretrained", "from_pretrained"],
    "Index": ["add", "remove", "search", "explain", "bits", "save", "load"],
}


def module(name: str): return importlib.import_module(f"sscq.{name}")


def old_names() -> list:
    "Every name that a module of version 0.1.0 offered in its `__all__`"
    text = (ROOT / "tests/data/names_0.1.0.txt").read_text(encoding="utf-8")
    return [(old, name) for old, names in re.findall(r"^(\w+): ([\w\s]+?)$(?=\n\w|\n*\Z)", text, re.M) for name in names.split()]


MOVES = [(old, name, *place) for old in MOVED for name, place in places(old).items()]


@pytest.mark.parametrize("old, name, new, now", MOVES, ids=[f"{old}.{name}" for old, name, *_ in MOVES])
def test_an_old_name_is_the_new_object(old, name, new, now):
    "Where the old module still uses a name itself, it is simply there"
    wanted = vars(module(new))[now]
    if name in vars(module(old)):
        assert vars(module(old))[name] is wanted
        return
    with pytest.warns(DeprecationWarning, match=rf"^sscq\.{old}\.{name} is now sscq\.{new}\.{now}$") as said:
        found = {}
        exec(f"from sscq.{old} import {name}", found)
    assert found[name] is wanted and len(said) == 1


def test_the_line_that_asked_is_the_one_to_be_blamed(tmp_path):
    "In a process of its own: here, the checks of shapes stand between the two"
    script = tmp_path / "script.py"
    script.write_text("import sscq.widgets\nfrom sscq.search import Hits\nsscq.widgets.Explorer\n", encoding="utf-8")
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stderr
    assert re.findall(r"script\.py:(\d): DeprecationWarning: (.*)", said) == [
        ("2", "sscq.search.Hits is now sscq.answers.SearchResult"), ("3", "sscq.widgets.Explorer is now sscq.explorer.Explorer")]


def test_every_name_of_0_1_0_is_there_or_said_to_be_gone():
    names, lost = old_names(), []
    assert len(names) == 380 and len(set(names)) == len(names)
    for old, name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            if not hasattr(module(old), name) and name not in GONE.get(old, {}): lost.append(f"{old}.{name}")
    assert not lost
    assert {(old, name) for old, name, *_ in MOVES} | {(old, name) for old in GONE for name in GONE[old]} <= set(names)


@pytest.mark.parametrize("old, name", [(old, name) for old in GONE for name in GONE[old]])
def test_a_name_without_successor_says_what_to_do(old, name):
    if name in vars(module(old)): return  # the module still uses it itself
    with pytest.warns(DeprecationWarning, match=f"^sscq.{old}.{name} is gone: "), pytest.raises(AttributeError, match="not any more: "):
        getattr(module(old), name)
    for full in re.findall(r"sscq\.(\w+)\.(\w+)", GONE[old][name]): assert hasattr(module(full[0]), full[1])


@pytest.mark.parametrize("old", sorted({*MOVED, *GONE}))
def test_what_python_asks_for_is_no_old_name(old):
    for name in ("__wrapped__", "__test__", "__path__", "__signature__", "__deepcopy__", "_repr_html_", "", "no such name"):
        assert not hasattr(module(old), name)
    assert inspect.unwrap(module(old)) is module(old)
    with pytest.raises(ImportError, match="nothing_of_this_name"): exec(f"from sscq.{old} import nothing_of_this_name")
    exec(f"from sscq.{old} import *", {})


def test_new_names_are_in_no_old_module_that_moved_them():
    "The table has one target a name, and a target is where the name is made, not another forwarding"
    for old, name, new, now in MOVES: assert now in vars(module(new)), f"{old}.{name} leads to sscq.{new}, which has no {now}"


def offered() -> list: return [name for m in MODULES for name in getattr(module(m), "__all__", ())]


def test_public_names_can_be_counted():
    assert len(offered()) <= MOST_NAMES, "each name offered is one to learn and to keep: #| exporti exports without offering"


def test_no_public_name_means_two_things():
    assert not [name for name, n in Counter(offered()).items() if n > 1]


def test_the_root_offers_what_most_people_need():
    assert set(sscq.__all__) == set(ROOT_NAMES) <= set(dir(sscq))
    for name, home in ROOT_NAMES.items(): assert getattr(sscq, name) is getattr(module(home), name)
    with pytest.raises(AttributeError, match="module 'sscq' has no attribute 'SSQC'"): _ = sscq.SSQC
    assert not hasattr(sscq, "__wrapped__")


def test_the_root_loads_nothing():
    code = "import sscq, sys; dir(sscq); print(*[m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'sscq')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["sscq"]
    code = "import sys; from sscq import *; print(SSCQ.__module__, Index.__module__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["sscq.core", "sscq.index"]


@pytest.mark.parametrize("name", VERBS)
def test_the_source_of_a_class_shows_its_verbs(name):
    body = ast.parse(inspect.getsource(getattr(sscq, name))).body[0].body
    assert set(VERBS[name]) <= {f.name for f in body if isinstance(f, ast.FunctionDef)}


README_VERBS = '''
from sscq import SSCQ, Index, SSCQObjective, TrainConfig

model = SSCQ(bits=16)
reveal_type(model)  # sscq.core.SSCQ
reveal_type(model.fit("photos/", TrainConfig(), objective=SSCQObjective()))  # sscq.core.SSCQ
reveal_type(model.fit("photos/", epochs=50))  # sscq.core.SSCQ
reveal_type(model.bits)  # int
reveal_type(model.encode("photos/"))  # torch._tensor.Tensor
reveal_type(model.embed("photos/"))  # torch._tensor.Tensor
reveal_type(model.save_pretrained("runs/mine"))  # str | None
reveal_type(SSCQ.from_pretrained("runs/mine"))  # sscq.core.SSCQ
index = model.index("photos/")
reveal_type(index)  # sscq.index.Index
reveal_type(index.bits)  # int
answers = index.search("query.jpg", k=10)
reveal_type(answers)  # sscq.answers.SearchResult
reveal_type(answers.ids)  # torch._tensor.Tensor
reveal_type(answers.distances)  # torch._tensor.Tensor
reveal_type(index.add(model.embed("more/")))  # sscq.index.Index
reveal_type(index.explain("query.jpg", 3))  # sscq.answers.Explanation
reveal_type(index.save("photos.sscq"))  # pathlib.Path
reveal_type(Index.load("photos.sscq", embed=model.embed))  # sscq.index.Index
'''


def test_tools_see_every_verb_and_find_nothing_to_complain_of(tmp_path):
    "mypy reads the package and a user's script: no complaint, each verb has a type, and it is the right one"
    if importlib.util.find_spec("mypy") is None: (pytest.fail if os.environ.get("CI") else pytest.skip)("no mypy: pip install mypy")
    script = tmp_path / "script.py"
    script.write_text(README_VERBS, encoding="utf-8")
    # its cache lies where it always does: half a minute goes into reading PyTorch, once
    found = subprocess.run([sys.executable, "-m", "mypy", "sscq", str(script)], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0 and " error: " not in found.stdout, found.stdout + found.stderr
    said = {int(n): kind for n, kind in re.findall(r'^\S*script\.py:(\d+): note: Revealed type is "(.*)"$', found.stdout, re.M)}
    for n, line in enumerate(README_VERBS.splitlines(), 1):
        if not line.startswith("reveal_type"): continue
        wanted = line.rpartition("  # ")[2]
        # a NamedTuple is shown with its fields first
        assert said[n] == wanted or said[n].endswith(f"fallback={wanted}]"), f"{line}: {said[n]}"


def test_type_information_is_packed():
    assert (ROOT / "sscq/py.typed").is_file()
    assert '"py.typed"' in (ROOT / "setup.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name, unpacked", [
    ("evaluate.Shortlist", False), ("views.Jitter", False), ("images.SkippedFile", False), ("baselines.EncodedData", False), ("answers.Explanation", False),
    ("evaluate.Score", False), ("codebook.Encoded", True), ("objective.Parts", True), ("objective.SPQParts", True), ("evaluate.Curve", True),
    ("evaluate.QueryScores", True), ("baselines.Vectors", True), ("reading.Batch", True)])
def test_a_result_is_a_frozen_dataclass_unless_it_is_unpacked(name, unpacked):
    kind = getattr(module(name.partition(".")[0]), name.partition(".")[2])
    assert issubclass(kind, tuple) if unpacked else kind.__dataclass_params__.frozen and not issubclass(kind, tuple)


def test_skipped_files_are_sorted_compared_and_counted_once():
    from sscq.images import SkippedFile
    a, b = SkippedFile(Path("a"), "empty"), SkippedFile(Path("b"), "damaged")
    assert sorted([b, a]) == [a, b] and {a, SkippedFile(Path("a"), "empty")} == {a} and str(b) == "b: damaged"
