"What holds of the repository as a whole: order of imports, notebooks and library in step, nothing heavy loaded early."
import ast
import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbdev.doclinks import nbglob
from nbdev.export import nb_export

from sscq.moved import MOVED, places

ROOT = Path(__file__).parent.parent
NBS = sorted(nbglob(ROOT / "nbs", as_path=True))
EXPORTING = [nb for nb in NBS if re.match(r"\d\d_", nb.name)]


def cells(nb: Path, kind: str = "code") -> list: return [c for c in json.loads(nb.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]
def source(cell: dict) -> str: return "".join(cell["source"])
def named(nbs: list): return pytest.mark.parametrize("nb", nbs, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())


@functools.cache
def module(nb: Path) -> str: return next(m[1] for c in cells(nb) if (m := re.match(r"#\| default_exp (\w+)", source(c))))


BY_HAND = {"__init__", "__main__", "widgets"}  # what must be light, and the forwarding address of a module that was split


def test_every_module_has_its_notebook():
    modules = {p.stem for p in (ROOT / "sscq").glob("*.py")} - BY_HAND - {"_modidx"}
    assert modules == {module(nb) for nb in EXPORTING}


def imported(tree: ast.AST) -> set[str]:
    "Modules of this package that code imports: absolutely, relatively, by name, and inside of functions too"
    def stem(dotted): return dotted.removeprefix("sscq.").split(".")[0]
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): used |= {stem(a.name) for a in node.names if a.name.startswith("sscq.")}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level: used |= {module.split(".")[0]} if module else {a.name for a in node.names}
            elif module == "sscq": used |= {a.name for a in node.names}
            elif module.startswith("sscq."): used.add(stem(module))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
            used |= {stem(a.value) for a in node.args if isinstance(a, ast.Constant) and str(a.value).startswith("sscq.")}
    return used - {"__version__"}


@pytest.mark.parametrize("line, module", [
    ("from sscq.widgets import Explorer", "widgets"), ("from .widgets import Explorer", "widgets"), ("from . import widgets", "widgets"),
    ("import sscq.widgets as w", "widgets"), ("from sscq import widgets", "widgets"), ("def f():\n from sscq.widgets import Explorer", "widgets"),
    ("importlib.import_module('sscq.widgets')", "widgets")])
def test_every_way_to_import_is_seen(line, module): assert imported(ast.parse(line)) == {module}


TREES = {module(nb): ast.parse((ROOT / "sscq" / f"{module(nb)}.py").read_text(encoding="utf-8")) for nb in EXPORTING}
GRAPH = {name: imported(tree) for name, tree in TREES.items()}
NUMBER = {module(nb): int(nb.stem[:2]) for nb in EXPORTING}  # 00–19 the method, 20–39 the engine, 40 and above the faces
FOUNDATION = {n for n, number in NUMBER.items() if 4 <= number <= 8 or number in (0, 10)}  # what the engine may stand on


@pytest.mark.parametrize("module", GRAPH)
def test_imports_point_down(module):
    "The method imports to its left and from the engine; the engine imports lower engine and the losses; the faces stand on both"
    assert GRAPH[module] <= set(GRAPH), "no such module"
    def wing(name): return NUMBER[name] // 20
    wrong = {used for used in GRAPH[module] if NUMBER[used] >= NUMBER[module] and (wing(module), wing(used)) != (0, 1)}
    if wing(module) == 1: wrong |= {used for used in GRAPH[module] if wing(used) == 0} - FOUNDATION
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def test_imports_are_written_where_they_can_be_seen():
    """Modules are imported by their names, which the tests above read. Two places compute a name, and neither can close a circle,
    because nothing of the library asks them: `moved` finds what old programs ask for, the root what users ask for"""
    def computes(path):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        called = [node for node in calls if getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__")]
        return any(not isinstance(node.args[0], ast.Constant) for node in called)
    files = [p for p in (ROOT / "sscq").glob("*.py") if p.name != "_modidx.py"]
    assert {p.stem for p in files if computes(p)} == {"__init__", "moved"}
    for module, used in GRAPH.items():
        names = {(node.module.removeprefix("sscq."), a.name) for node in ast.walk(TREES[module]) if isinstance(node, ast.ImportFrom) and node.module
                 for a in node.names}
        old = {f"{there}.{name}" for there in used & set(MOVED) for name in places(there) if (there, name) in names}
        assert not old, f"{module} imports old names"


def test_imports_have_no_circle():
    seen, path = set(), []
    def visit(module):
        assert module not in path, f"{' → '.join([*path, module])}"
        if module in seen: return
        path.append(module)
        for used in sorted(GRAPH[module]): visit(used)
        seen.add(path.pop())
    for module in GRAPH: visit(module)


@named(EXPORTING)
def test_library_is_what_the_notebook_exports(nb, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / "sscq"
    nb_export(nb, lib_path=target)
    def code(folder):  # without the lines that say where each cell came from
        return [line for line in (folder / f"{module(nb)}.py").read_text().splitlines() if not line.startswith("# ")]
    assert code(target) == code(ROOT / "sscq"), "run nbdev-export"


MOST_LINES, MOST_COLUMNS = 450, 120  # of a module that can be read in one sitting, on one page
PACKAGE = sorted(p for p in (ROOT / "sscq").glob("*.py") if p.name != "_modidx.py")
package = pytest.mark.parametrize("path", PACKAGE, ids=lambda p: p.stem)


def lines(path: Path) -> list[tuple[int, str]]:
    "Lines as people write them, with their numbers: without nbdev's `__all__` and its notes of where each cell came from"
    text = re.sub(r"^__all__ = \[[^]]*\]", lambda m: "\n" * m[0].count("\n"), path.read_text(encoding="utf-8"), flags=re.M)
    return [(n, line) for n, line in enumerate(text.splitlines(), 1) if not line.startswith("# %%")]


@package
def test_a_module_is_short_enough_to_be_read(path):
    n = sum(bool(line.strip()) and not line.lstrip().startswith("#") for _, line in lines(path))
    assert n <= MOST_LINES, f"{n} lines that are neither blank nor comment: cut the notebook in two, each about one thing"


@package
def test_a_line_fits_on_a_page(path):
    assert not [f"line {n}: {len(line)} columns" for n, line in lines(path) if len(line) > MOST_COLUMNS]


@named(NBS)
def test_notebook_is_committed_to_be_read(nb):
    text = nb.read_text(encoding="utf-8")
    assert len(text.encode()) <= 1_500_000
    outputs = [o for c in cells(nb) for o in c["outputs"]]
    assert outputs, "no output: make notebooks"
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert "widgets" not in json.loads(text)["metadata"], "widget state is stored"
    live = [o["data"] for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert all("image/png" in data for data in live), "a figure has no picture beside it: make notebooks, with Chromium at hand"
    first = source(next(c for c in cells(nb, "markdown")))
    assert re.match(r"# .+\n\n> .+", first), "a title and a one-line purpose come first"


@named(NBS)
def test_every_exercise_folds_open(nb):
    text = "\n".join(source(c) for c in cells(nb, "markdown"))
    assert text.count("<details>") == text.count("</details>") == text.count("<summary>")


def test_the_readme_is_the_index_notebook():
    sys.path.insert(0, str(ROOT / "nbs"))
    try: from readme import readme
    finally: sys.path.pop(0)
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), "run make readme"


@pytest.mark.parametrize("heavy", ["plotly", "faiss", "ipywidgets", "sklearn", "PIL.ImageDraw", "pandas", "matplotlib", "IPython"])
def test_core_loads_nothing_heavy(heavy, loaded_by_core): assert heavy not in loaded_by_core


@pytest.fixture(scope="module")
def loaded_by_core() -> set:
    code = "import torch, torchvision, sys; before = set(sys.modules); from sscq.core import SSCQ; print('\\n'.join(set(sys.modules) - before))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_version_comes_from_settings():
    import sscq
    assert f"version = {sscq.__version__}\n" in (ROOT / "settings.ini").read_text()
