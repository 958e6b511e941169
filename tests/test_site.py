"The documentation site: built once, read as HTML and then in a real browser"
import ast
import functools
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "nbs/site"))
from api import entries, only_imports, statements, without_noqa  # noqa: E402
from build import LINK, MOVED, NBS, WINGS, Site, examples, exports, first_sentence, notebooks, read, relink, told  # noqa: E402
from formulas import mathml  # noqa: E402
from graph import floors, graph, needed  # noqa: E402

from sscq.component import Explorable  # noqa: E402

PLOTLY = "application/vnd.plotly.v1+json"
PARTS = notebooks()
NOTEBOOKS = [nb for part in PARTS.values() for nb in part]
MODULES = {nb.module: nb for nb in NOTEBOOKS if nb.module}
modules = pytest.mark.parametrize("module", MODULES)


class Page(HTMLParser):
    "What the tests ask of a page: its ids, its links, what it loads, and its pictures"
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.alts, self.text, self.boxes, self.edges = set(), [], [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        at = dict(attrs)
        if at.get("id"): self.ids.add(at["id"])
        if tag == "a" and at.get("href"): self.links.append(at["href"])
        if tag in ("img", "script", "iframe") and at.get("src"): self.loads.append(at["src"])
        if tag == "link" and at.get("rel") not in ("index", "search", "next", "prev"): self.loads.append(at["href"])
        if tag == "img": self.alts.append(at.get("alt"))
        if at.get("data-module"): self.boxes.append(at["data-module"])
        if at.get("data-from"): self.edges.append((at["data-from"], at["data-to"]))

    def handle_data(self, data): self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("docs") / "site"
    made = subprocess.run([sys.executable, str(ROOT / "nbs/site/build.py"), str(out)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert not made.stderr, made.stderr  # Sphinx warns of what it cannot resolve
    return out


@pytest.fixture(scope="module")
def pages(site): return {p.relative_to(site).as_posix(): Page(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}


# --- the pages as files

def test_pages_stand_in_reading_order(pages):
    links = pages["index.html"].links
    wanted = [f"{nb.page}.html" for nb in NOTEBOOKS] + ["api/index.html", *(f"{nb.api}.html" for nb in MODULES.values())]
    assert [link for link in dict.fromkeys(links[links.index(wanted[0]):]) if link in wanted] == wanted
    numbers = [nb.number for wing in WINGS for nb in PARTS[wing]]
    assert numbers == sorted(numbers) and [min(nb.number for nb in PARTS[wing]) for wing in WINGS] == ["00", "20", "40"]


def test_wings_are_groups_of_the_sidebar(site):
    captions = re.findall(r'<p class="caption"[^>]*><span class="caption-text">([^<]+)', (site / "01_data.html").read_text(encoding="utf-8"))
    assert captions == [*WINGS, "Tutorials", "Explanations", "Reference"]


@pytest.mark.parametrize("path", sorted([*NBS.glob("*.ipynb"), *NBS.glob("*/*.ipynb"), *ROOT.glob("*.md")]), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_between_files_lead_somewhere(path):
    texts = [path.read_text(encoding="utf-8")] if path.suffix == ".md" else ["".join(c["source"]) for c in read(path).cells if c["cell_type"] == "markdown"]
    dead = [m[3] for text in texts for m in LINK.finditer(text) if not (path.parent / unquote(m[3])).exists()]
    assert not dead


def test_the_front_page_lists_every_notebook_in_reading_order():
    text = "".join("".join(c["source"]) for c in read(NBS / "index.ipynb").cells)
    assert re.findall(r"^\| \[(\d\d_\w+)\]\(\1\.ipynb\)", text, re.M) == [nb.page for wing in WINGS for nb in PARTS[wing]]
    named = re.findall(r"^      \d\d to \d\d +the \w+: ([\w ]+(?:\n {20}[\w ]+)*)$", text, re.M)
    assert [line.split() for line in named] == [[nb.module for nb in PARTS[wing]] for wing in WINGS], "the map of where things are"


def test_old_addresses_lead_to_the_new_ones(pages, site):
    for old, new in MOVED.items():
        text = (site / f"{old}.html").read_text(encoding="utf-8")
        to = re.search(r'<meta http-equiv="refresh" content="0; url=([^"]+)">', text)[1]
        assert pages[f"{old}.html"].links == [to] and urljoin(f"/{old}.html", to) == f"/{new}.html" and (site / f"{new}.html").is_file()


def test_what_an_earlier_build_wrote_goes_and_nothing_else(tmp_path):
    site, out = Site(tmp_path / "pages"), tmp_path / "out"
    gone = {"13_widgets.md": "13_widgets.html", "api/old.md": "api/old.html", "moved/older.html": "older.html", "static/figures/a.js": "_static/figures/a.js"}
    for folder, names in ((site.folder, gone), (out, [*gone.values(), "mine.html"])):
        for file in (folder / name for name in names):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("old")
    site.write_all()
    site.finish(out)
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == {"mine.html", *(f"{old}.html" for old in MOVED)}
    assert "http-equiv" in (out / "13_widgets.html").read_text() and not (site.folder / "13_widgets.md").exists()


# --- the imports

IMPORTS = graph(ROOT / "sscq", MODULES)


def test_every_module_is_in_the_graph(pages):
    assert sorted(pages["api/index.html"].boxes) == sorted(MODULES) and {p.stem for p in (ROOT / "sscq").glob("*.py")} >= set(MODULES)
    assert set(pages["api/index.html"].edges) == {(m, used) for m, those in needed(IMPORTS).items() for used in those}
    assert {"codebook", "train", "objective"} <= IMPORTS["core"]


def test_imports_lead_down_and_never_back():
    floor = floors(IMPORTS)
    assert set(floor) == set(MODULES) and all(floor[used] < floor[m] for m, those in IMPORTS.items() for used in those)
    with pytest.raises(ValueError, match="in a circle: a → b → c → a"): floors(dict(a={"b"}, b={"c"}, c={"a"}))


def test_edges_left_out_are_those_that_others_make():
    assert needed(dict(a={"b", "c", "d"}, b={"c"}, c=set(), d=set())) == dict(a={"b", "d"}, b={"c"}, c=set(), d=set())


def test_every_link_and_anchor_resolves(pages, site):
    dead = []
    for name, page in pages.items():
        for link in page.links + page.loads:
            if re.match("https?:|mailto:|data:", link): continue
            target, anchor = urldefrag(urljoin(f"/{name}", link))
            target = unquote(target.partition("?")[0]).lstrip("/")
            if not (site / target).is_file(): dead.append((name, link))
            elif anchor and target in pages and unquote(anchor) not in pages[target].ids | {"", "searchbox"}: dead.append((name, link))
    assert not dead


def test_nothing_is_loaded_from_outside(pages, site):
    assert not [(name, url) for name, page in pages.items() for url in page.loads if re.match("(https?:)?//", url)]
    styles = [p for p in site.rglob("*.css") if re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", p.read_text(encoding="utf-8"))]
    assert not styles


def test_every_picture_has_words(pages): assert not [name for name, page in pages.items() if not all(page.alts)]


def test_hidden_cells_stay_hidden_and_directives_go(site):
    for nb in NOTEBOOKS:
        text = (site / f"{nb.page}.html").read_text(encoding="utf-8")
        assert "#|" not in text
        sources = ["".join(c["source"]) for c in nb.cells if c["cell_type"] == "code"]
        shown = [s for s in sources if not re.search(r"^#\| *(hide|echo: false)", s, re.M) and re.sub(r"^#\|.*$", "", s, flags=re.M).strip()]
        assert text.count('<div class="highlight-python') - sum("".join(c["source"]).count("```python") for c in nb.cells) == len(shown), nb.page


@modules
def test_library_and_notebook_lead_to_each_other(pages, module):
    page, notebook, text = pages[f"{MODULES[module].api}.html"], MODULES[module].page, "".join(pages[f"{MODULES[module].api}.html"].text)
    tree = ast.parse((ROOT / f"sscq/{module}.py").read_text(encoding="utf-8"))
    public = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__")
    for name in public:
        assert f"sscq.{module}.{name}" in page.ids, "not on its API page"
        assert f"../{notebook}.html#def-{name}" in page.links, "no way to the notebook"
        assert f"{MODULES[module].api}.html#sscq.{module}.{name}" in pages[f"{notebook}.html"].links, "no way from the notebook"
        assert f"#sscq.{module}.{name}" in page.links, "not in the summary"
    offered = {i.removeprefix(f"sscq.{module}.") for i in page.ids if i.startswith(f"sscq.{module}.")}
    assert {name for name in offered if "." not in name} == set(public), "what is exported without being offered stays out"
    assert "noqa" not in text


def test_constants_come_last():
    assert [e.kind for nb in MODULES.values() for e in exports(nb) if e.kind == "data"]
    for nb in MODULES.values():
        kinds = [e.kind == "data" for e in exports(nb)]
        assert kinds == sorted(kinds)


def test_api_page_tells_the_parameters(pages):
    text = "".join(pages["api/codebook.html"].text)
    assert re.search(r"soft_assign\(.*tau: float \| Tensor = 0\.2.*Weights of the codewords.*tau\s+float \| Tensor\s+0\.2\s+τ_sq; the nearer to 0", text, re.S)
    assert "sscq.core.SSCQ.fit" in pages["api/core.html"].ids


SAMPLE = """
@dataclass
class Box(Base):
    "Holds"
    side: int = 3  # cm
    def area(self, scale: float = 1., *, round=False) -> float:  # a note on the line
        "Squared"
    @property
    def name(self) -> str: return "box"
    def _secret(self): pass

@patch
def grow(
    self: Box,
    by: int,  # cm
    **more,
) -> Box:  # another box
    "Larger"

SIDES = 4  # of a box
Box.twin = 3
"""


KINDS = {"f": "Box", "g": "", "Box": "Box", "Box.side": "int", "Box.twin": "Box", "Box.forward": "Box", "SIDES": ""}


def used(source: str, known=None) -> list: return [(said, sorted(n for n in names if n in KINDS)) for said, names in statements(source, KINDS, known or {})]


def test_an_example_is_a_statement_that_runs_and_is_meant_to_succeed():
    source = 'a = f(1)\nwith expect_fail(ValueError): f(0)\nwith open(p) as file:\n    g(file)\nf(\n    1,\n    2)\n'
    assert [s for s in used(source) if s[1]] == [("a = f(1)", ["f"]), ("g(file)", ["g"])]
    assert used("!ls") == []


@pytest.mark.parametrize("lines, names", [
    ("a = Box(3)", "Box"), ("b = f(1)\nb.twin.side", "f Box Box.side Box.twin"), ("b = f(1)\nb(2)", "f Box.forward"),
    ("a, b = 1, f(1)\nb.side", "f Box Box.side"),
    ("b = f(1)\nb = 2\nb.side", "f"), ("g().side", "g"), ("dict(SIDES)", "SIDES"), ("f = 3\nprint(f)", ""), ("for f in 1, 2: print(f)", ""),
    ("try: g()\nexcept Box as e: e.side", "g Box Box.side"), ("def h(b: Box): b.twin", "Box Box.twin"), ("with f(1) as b: g()", "f g"),
    ("with expect_fail(Box): f(0)", "Box"), ("b = f(1)\nb.side = 4", "f"),
    ("b = f(1)\nb.side = 4\nb.side", "f Box Box.side"), ("def h(f): f(1)\ng()", "g"), ("def h(f): pass\nf(1)", "f")])
def test_an_example_is_of_the_class_it_is_asked_of(lines, names):
    "Classes of variables are followed through annotations, so that another class's method of the same name is no example"
    assert {name for _, those in used(lines) for name in those} == set(names.split())


def test_a_call_is_a_better_example_than_a_mention():
    found = [names for _, names in statements("b = f(1)\nb.side\nprint(f)", KINDS, {})]
    assert found == [{"f": 0}, {"Box.side": 0, "Box": 1}, {"print": 0, "f": 2}]


def test_every_public_name_has_an_example_from_a_notebook_cell_that_the_tests_run():
    every = told(NOTEBOOKS)
    found = {m: examples(nb, every) for m, nb in MODULES.items()}
    missing = [f"{m}.{e.name}" for m, nb in MODULES.items() for e in exports(nb) if e.name not in found[m]]
    assert not missing, "call it in a cell of its notebook, in a statement of one or two lines that shows what comes of it"
    cells = ["".join(c["source"]) for nb in NOTEBOOKS for c in nb.cells if c["cell_type"] == "code"]
    run = " ".join(" ".join(s.split()) for s in cells if not re.search(r"^#\| *(hide|slow|exporti?)\b", s, re.M))
    for m, those in found.items():
        for name, said in those.items():
            assert said.count("\n") < 2 and said.strip() != name.rpartition(".")[2], f"{m}.{name}: says nothing"
            assert " ".join(said.split()) in run, f"{m}.{name}: {said} is in no cell that is run"


def test_every_public_name_of_the_package_is_on_an_api_page():
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "sscq").glob("*.py")}
    offered = {name: set(ast.literal_eval(n.value)) for name, tree in trees.items() for n in tree.body
               if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"}
    for m, nb in MODULES.items(): assert offered[m] == {e.name for e in exports(nb) if "." not in e.name}
    assert offered["__init__"] <= set().union(*(offered[m] for m in MODULES))


def test_errors_are_told_with_their_rule():
    (f,) = entries('def f(n):\n    check_count("n", n)\n    if n > 9: raise ValueError(f"n={n} must be at most "\n                                "9")', "c")
    assert f.raises == [("ValueError", "n=… must be at most 9"), ("TypeError, ValueError", "what does not pass `check_count`")]


@pytest.mark.parametrize("line, kept", [
    ("x = 1,  # noqa: B008 (frozen); of two", "x = 1,  # of two"), ("x = 1,  # noqa: B008 (frozen)\ny", "x = 1,\ny"), ("import a  # noqa: F401", "import a"),
    ("import a  # noqa: E402, F401\nb  # c", "import a\nb  # c"), ("import a  # noqa", "import a"), ("a  # as noqa says", "a  # as noqa says")])
def test_what_is_said_to_the_linter_is_left_out(line, kept): assert without_noqa(line) == kept


@pytest.mark.parametrize("text, first", [
    ("One. Two", "One."), ("All of it, e.g. this", "All of it, e.g. this"),
    ("As in Ge et al. 2013", "As in Ge et al. 2013"), ("Over\ntwo lines\n\nMore", "Over two lines"), ("", "")])
def test_first_sentence(text, first): assert first_sentence(text) == first


def test_names_are_read_from_source():
    found = {e.name: e for e in entries(SAMPLE, "c")}
    assert list(found) == ["Box", "Box.area", "Box.name", "Box.grow", "SIDES"]
    assert [tuple(r) for r in found["Box"].rows] == [("side", "int", "3", "cm")] and found["Box"].signature == "(side: int = 3)"
    assert found["Box.area"].signature == "(scale: float=1.0, *, round=False) -> float" and found["Box.area"].doc == "Squared a note on the line"
    assert (found["Box.name"].kind, found["Box.name"].signature) == ("property", "str")
    assert [tuple(r) for r in found["Box.grow"].rows] == [("by", "int", "", "cm"), ("**more", "", "", ""), ("returns", "Box", "", "another box")]
    assert (found["SIDES"].signature, found["SIDES"].doc) == ("4", "of a box")
    assert only_imports("import os\nfrom a import b") and not only_imports("import os; os.sep") and not only_imports("!ls")
    assert only_imports("try: import a\nexcept ImportError: a = None") and not only_imports("try: a.b\nexcept OSError: pass")


@pytest.mark.parametrize("text, wanted", [
    ("[a](04_codebook.ipynb)", "[a](../04_codebook.md)"),
    ("[a](04_codebook.ipynb#Usage-and-perplexity)", "[a](../04_codebook.md#usage-and-perplexity)"),
    ("see [`x`](../LICENSE) and [c](../CONTRIBUTING.md)", "see `x` and [c](../project/contributing.md)"),
    ("![a](images/x.png) [b](https://example.org) [c](#here)", "![a](images/x.png) [b](https://example.org) [c](#here)"),
])
def test_links_between_files_become_links_between_pages(text, wanted):
    found = {ROOT / "nbs/04_codebook.ipynb": "04_codebook", ROOT / "CONTRIBUTING.md": "project/contributing"}
    assert relink(text, ROOT / "nbs", found, "tutorials/quick_tour") == wanted


# --- formulas

@pytest.mark.parametrize("tex, same", [
    (r"\frac12 + \tfrac 3 4", r"\frac{1}{2} + \tfrac{3}{4}"), (r"f\big(x\big)", r"f\bigl(x\bigr)"), (r"a_1 \dots a_K", r"a_1 \ldots a_K"),
    ("0…1", r"0\ldots 1"),
    (r"\begin{cases} a \\[1ex] b \end{cases}", r"\begin{cases} a \\ b \end{cases}")], ids=["frac", "big", "dots", "ellipsis", "line"])
def test_short_forms_of_formulas_are_written_out(tex, same): assert mathml(tex, True) == mathml(same, True) != ""


def test_bars_stretch_only_where_they_are_told_to():
    assert mathml(r"\lVert x \rVert", True).count('<mo stretchy="false">‖</mo>') == 2 == mathml(r"p \Vert q \| r").count('stretchy="false"')
    assert 'stretchy="false"' not in mathml(r"\left\| \frac{a}{b} \right\|", True)


@pytest.mark.parametrize("tex, spaces", [(r"p \log p", 2), (r"\log(p)", 0), (r"M \log_2 K", 2), (r"\max_k x", 0), (r"e^\cos", 0), ("a b", 0),
                                         (r"\log\left(p\right)", 0)])
def test_names_of_functions_stand_apart(tex, spaces): assert mathml(tex).count("<mspace") == spaces


def test_a_formula_that_cannot_be_set_is_an_error():
    with pytest.raises(ValueError, match=r"the formula '.*nosuch x' cannot be set"): mathml(r"\nosuch x")


def test_formulas_need_no_program(pages, site):
    assert not [url for page in pages.values() for url in page.loads if re.search("mathjax|tex-", url, re.I)]
    counts = {nb.page: (site / f"{nb.page}.html").read_text(encoding="utf-8").count("<math ") for nb in NOTEBOOKS}
    assert counts["05_contrastive"] > 50 and sum(counts.values()) > 500


# --- the pages in a browser

@pytest.fixture(scope="module")
def address(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def watched(browser, address) -> tuple:
    "A page, and what goes wrong in it"
    page, problems = browser.new_page(viewport=dict(width=1280, height=900)), []
    page.on("pageerror", lambda e: problems.append(f"{page.url}: {e}"))
    page.on("console", lambda m: m.type in ("error", "warning") and problems.append(f"{page.url}: {m.text}"))
    page.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or problems.append(f"request to {r.url}"))
    return page, problems


@pytest.fixture(scope="module")
def window(browser, address):
    "One page for most tests, since a fresh one has to read plotly anew; and what went wrong in it"
    page, problems = watched(browser, address)
    yield page, problems
    page.close()


@pytest.fixture
def tab(window):
    "A page that must raise no error and ask nothing of anyone else"
    page, problems = window
    problems.clear()
    yield page
    assert not problems


@pytest.fixture(scope="module")
def spare_window(browser):
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture
def spare(spare_window):
    "A page in a window that other tests had before, as it would be in a new one, which costs three times as much"
    def as_new(width=1280, height=720, color_scheme="light", reduced_motion="no-preference"):
        spare_window.goto("about:blank")
        spare_window.set_viewport_size(dict(width=width, height=height))
        spare_window.emulate_media(color_scheme=color_scheme, reduced_motion=reduced_motion)
        spare_window.mouse.move(0, 0)
        return spare_window
    return as_new


@pytest.fixture
def tab_without_cache(browser, address):
    "For what is weighed: nothing that an earlier test loaded is there. It must raise no error and ask nothing of anyone else"
    page, problems = watched(browser, address)
    yield page
    page.close()
    assert not problems


DRAW = """async () => {
  const cards = [...document.querySelectorAll('figure.live')];
  for (const card of cards) {
    card.scrollIntoView();
    for (let i = 0; i < 200 && !card.classList.contains('drawn'); i++) await new Promise(r => setTimeout(r, 10));
  }
  return cards.map(c => ({name: c.dataset.figure, drawn: c.classList.contains('drawn') && !!c.querySelector('.main-svg') && !c.querySelector('img'),
                          said: [...c.querySelectorAll('.annotation-text, .gtitle')].map(t => t.textContent)}));
}"""
MATH = """() => {
  const formulas = [...document.querySelectorAll('.math')], drawn = formulas.filter(f => f.querySelectorAll('math').length === 1 && f.offsetHeight > 5);
  return [formulas.length, drawn.length, document.querySelectorAll('merror').length, document.documentElement.scrollWidth - innerWidth];
}"""


def plain(text: str) -> str: return re.sub(r"<[^>]*>|\s", "", text)


@pytest.mark.browser
@pytest.mark.parametrize("nb", NOTEBOOKS, ids=lambda nb: nb.page)
def test_figures_and_math_are_drawn(tab, address, nb):
    tab.goto(f"{address}/{nb.page}.html")
    formulas, drawn, wrong, over = tab.evaluate(MATH)
    assert formulas == drawn and not wrong and over <= 0
    figures = tab.evaluate(DRAW)
    specs = [o["data"][PLOTLY] for c in nb.cells for o in c.get("outputs", []) if PLOTLY in o.get("data", {})]
    assert len(figures) == len(specs) and all(f["drawn"] for f in figures), [f["name"] for f in figures if not f["drawn"]]
    for figure, spec in zip(figures, specs):  # what the figure says in numbers, read from the page
        words = [a["text"] for a in spec["layout"].get("annotations", []) if a.get("text") and a.get("visible") is not False]
        assert {plain(w) for w in words} <= {plain(s) for s in figure["said"]}, figure["name"]
    buttons = tab.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert not figures or set(buttons) <= {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}  # plotly's "Share" uploads


@pytest.mark.browser
def test_other_pages_open(tab, address, pages):
    for name in sorted(set(pages) - {f"{nb.page}.html" for nb in NOTEBOOKS} - {f"{old}.html" for old in MOVED}):
        assert tab.goto(f"{address}/{name}").ok
        *_, over = tab.evaluate(MATH)
        assert over <= 0, f"{name} is wider than the screen"


@pytest.mark.browser
def test_search_finds_perplexity(tab, address):
    tab.goto(address)
    tab.get_by_role("textbox", name="Search").or_(tab.locator(".sidebar-search")).first.fill("perplexity")
    tab.keyboard.press("Enter")
    tab.wait_for_function("() => /found \\d+ page/.test(document.querySelector('#search-results')?.textContent)")
    hits = tab.locator("#search-results li > a")
    found = [hits.nth(i).get_attribute("href").partition("?")[0].partition("#")[0] for i in range(hits.count())]
    assert {"api/codebook.html", "04_codebook.html", "06_diversity.html"} <= set(found)
    hits.first.click()
    tab.wait_for_url("**/api/codebook.html#sscq.codebook.perplexity")
    assert tab.locator("[id='sscq.codebook.perplexity']").is_visible()


SLIDERS = [(nb, c["id"], o["data"][PLOTLY]) for nb in NOTEBOOKS for c in nb.cells for o in c.get("outputs", [])
           if o.get("data", {}).get(PLOTLY, {}).get("layout", {}).get("sliders")]
STATE = """card => ({seen: card.querySelector('output').textContent, wide: card.querySelector('.clip').offsetWidth <= card.offsetWidth,
  shown: card.querySelector('.js-plotly-plot').data.map(t => t.visible !== false),
  shapes: card.querySelectorAll('.shapelayer path').length, pictures: card.querySelectorAll('.imagelayer image').length,
  said: [...card.querySelectorAll('.annotation-text, .gtitle')].map(t => t.textContent)})"""


def test_a_slider_is_there_to_be_tried(): assert SLIDERS


@pytest.mark.browser
@pytest.mark.parametrize("nb, cell, spec", SLIDERS, ids=[f"{nb.page}-{cell}" for nb, cell, _ in SLIDERS])
def test_slider_moves_without_a_kernel(tab, address, nb, cell, spec):
    tab.goto(f"{address}/{nb.page}.html")
    card = tab.locator(f"[data-figure*='-{cell}-']")
    card.scroll_into_view_if_needed()
    slider = card.get_by_role("slider")
    slider.wait_for()
    for key, n in (("End", -1), ("Home", 0)):  # by keyboard alone
        slider.press(key)
        step = spec["layout"]["sliders"][0]["steps"][n]
        traces, layout = step["args"]
        tab.wait_for_function("([card, texts]) => texts.every(t => card.textContent.replace(/\\s/g, '').includes(t))",
                              arg=[card.element_handle(), [plain(a["text"]) for a in layout.get("annotations") or [] if a.get("text")]])
        state = card.evaluate(STATE)
        assert state["seen"] == slider.get_attribute("aria-valuetext") == step["label"] and state["wide"]
        assert state["shown"] == [v is True for v in traces["visible"]]
        if layout.get("shapes"): assert state["shapes"] == len(layout["shapes"])
        if layout.get("images"): assert state["pictures"] == len(layout["images"])


FRAME = 'class="sscq-explorable"'
EXPLORED = [nb for nb in NOTEBOOKS if any(FRAME in "".join(o.get("data", {}).get("text/html", "")) for c in nb.cells for o in c.get("outputs", []))]
MOUNTED = "() => [...document.querySelectorAll('.explorable')].every(e => e.dataset.drawn > 0)"


@pytest.mark.browser
@pytest.mark.parametrize("nb", EXPLORED, ids=lambda nb: nb.page)
def test_explorables_are_part_of_their_page(tab, address, nb):
    tab.goto(f"{address}/{nb.page}.html")
    tab.wait_for_function(MOUNTED, timeout=60_000)
    assert tab.locator(".explorable").count() >= 1
    first = tab.locator(".explorable").first
    said = first.locator(".said").text_content()
    first.get_by_role("group", name="Try this").get_by_role("button").first.click()
    tab.wait_for_function("([e, text]) => e.textContent !== text", arg=[first.locator(".said").element_handle(), said])


EXPLORED = {"search": "10_search", "draw": "48_retrieval", "codebook": "04_codebook", "contrast": "05_contrastive", "neighbors": "07_neighbors",
            "collapse": "06_diversity", "training": "47_playground"}


@pytest.mark.browser
@pytest.mark.parametrize("name", EXPLORED)
def test_a_shortened_program_says_what_the_whole_one_says(spare, address, tmp_path, name):
    texts, page = [], spare()
    for url in (f"{address}/{EXPLORED[name]}.html", Explorable(name).save(tmp_path / "whole.html").as_uri()):
        page.goto(url)
        page.wait_for_function("() => document.querySelector('[id^=explorable]')?.shadowRoot?.querySelector('.said')?.textContent")
        before = None
        while (now := page.evaluate("document.querySelector('[id^=explorable]').shadowRoot.textContent")) != before:
            before = now
            page.wait_for_timeout(200)
        texts.append(now)
    assert texts[0] == texts[1] != ""


def bytes_of(responses: list) -> list[tuple[str, int]]:
    "Asked for when a page has come to rest: whoever asks while answers arrive waits inside of what waits, and loses some"
    return [(r.url, len(r.body())) for r in responses]


@pytest.mark.browser
def test_the_front_page_answers_before_it_explains(tab_without_cache, address):
    tab, seen = tab_without_cache, []
    tab.goto("about:blank")
    tab.on("response", look := lambda r: seen.append(r))
    tab.goto(f"{address}/index.html")
    tab.wait_for_function(MOUNTED, timeout=60_000)
    tab.wait_for_load_state("networkidle")
    tab.remove_listener("response", look)
    sizes = dict(bytes_of(seen))
    assert sum(sizes.values()) <= 300_000 and not [url for url in sizes if re.search("plotly|mathjax|tex-svg", url)], sizes
    first = tab.locator(".explorable")
    top = first.bounding_box()["y"]
    assert top < min(p.bounding_box()["y"] for p in tab.locator("article p").all() if p.is_visible()), "text comes first"
    first.get_by_role("button", name=re.compile(r"^Query: a \d fails$")).first.click()
    tab.wait_for_function("e => e.textContent.startsWith('A failure')", arg=first.locator(".said").element_handle())
    assert first.locator("ol.answers button").count() == 10
    assert tab.get_by_role("navigation", name="Where to begin").get_by_role("link").count() == 3


@pytest.mark.browser
def test_plotly_waits_for_a_reader_and_comes_once(tab_without_cache, address):
    "What is near the screen is drawn at the first sign of interest; other figures wait until they are near"
    tab, seen = tab_without_cache, []
    tab.goto("about:blank")
    tab.on("response", look := lambda r: seen.append(r))
    tab.goto(f"{address}/04_codebook.html")
    tab.wait_for_load_state("networkidle")
    before = dict(bytes_of(seen))
    assert not [url for url in before if re.search("plotly|mathjax", url)] and sum(before.values()) <= 600_000, before
    assert tab.locator("figure.live img").first.is_visible()
    tab.mouse.move(300, 300)
    tab.locator("figure.drawn").first.wait_for()
    programs = [r.url for r in seen if "/_static/plotly" in r.url]
    figures = [r.url for r in seen if "/_static/figures/" in r.url and r.url.endswith(".js")]
    assert len(programs) == 1 and 1 <= len(figures) < tab.locator("figure.live").count()
    tab.evaluate(DRAW)
    tab.wait_for_load_state("networkidle")
    tab.remove_listener("response", look)
    assert sum(size for _, size in bytes_of(seen)) < 3_400_000  # all of the page, with every figure


@pytest.mark.browser
def test_plotly_that_did_not_come_is_asked_for_again(browser, address):
    page, tries = browser.new_page(viewport=dict(width=1280, height=900)), []
    def answer(route):
        tries.append(route.request.url)
        if len(tries) == 1: route.abort()
        else: route.continue_()
    page.route("**/plotly.js", answer)
    page.goto(f"{address}/04_codebook.html")
    page.mouse.move(300, 300)
    drawn = [figure["drawn"] for figure in page.evaluate(DRAW)]
    assert len(tries) == 2 and drawn[-1]
    assert page.locator("figure.live img").count() == drawn.count(False)  # whose program did not come is a picture still
    page.close()


READ = ["index", "04_codebook", "05_contrastive", "06_diversity", "07_neighbors", "10_search", "tutorials/quick_tour", "explanations/speed", "api/index",
        "api/codebook"]


@pytest.mark.browser
@pytest.mark.parametrize("name", READ)
def test_axe_finds_nothing_wrong(spare, address, axe, name):
    page = spare(height=900, reduced_motion="reduce")
    page.goto(f"{address}/{name}.html")
    page.wait_for_function(MOUNTED, timeout=60_000)
    if name in ("07_neighbors", "tutorials/quick_tour"):  # of plotly's figures, two pages are enough
        page.mouse.move(300, 300)
        page.locator("figure.drawn").first.wait_for()
    # code takes axe most of its time and its colours have a test of their own; the menus are the same on every page
    without = () if name == "index" else ("div.highlight pre", "math", ".sidebar-drawer", ".toc-drawer")
    assert not axe(page, without=without)
    page.set_viewport_size(dict(width=390, height=844))
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # the page hears of it with the next frame
    assert page.evaluate("document.documentElement.scrollWidth") <= 390 and not axe(page, "scrollable-region-focusable", without=without)
    page.emulate_media(color_scheme="dark")
    if name in ("index", "07_neighbors", "api/codebook"): assert not axe(page, "color-contrast", without=without)


@pytest.mark.browser
def test_an_explorable_is_a_picture_where_no_script_runs(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/index.html")
    assert page.locator(".explorable img").first.is_visible() and page.locator(".explorable img").first.bounding_box()["height"] > 100
    context.close()


@pytest.mark.browser
def test_pictures_stand_in_where_no_script_runs(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/06_diversity.html")
    pictures = page.locator("figure img")
    assert pictures.count() >= 5
    for i in range(pictures.count()): assert pictures.nth(i).is_visible() and pictures.nth(i).bounding_box()["height"] > 50
    context.close()


@pytest.mark.browser
def test_works_as_a_file(spare, site):
    page = spare()
    page.goto((site / "06_diversity.html").as_uri())
    formulas, drawn, wrong, _ = page.evaluate(MATH)
    assert formulas == drawn > 20 and not wrong
    assert all(f["drawn"] for f in page.evaluate(DRAW))
    page.goto((site / "search.html").as_uri() + "?q=perplexity")
    page.locator("#search-results li a", has_text="sscq.codebook.perplexity").first.wait_for()


@pytest.mark.browser
@pytest.mark.parametrize("old", MOVED)
def test_old_addresses_work_as_files(spare, site, old):
    page = spare()
    page.goto((site / f"{old}.html").as_uri(), wait_until="commit")
    page.wait_for_url((site / f"{MOVED[old]}.html").as_uri())


@pytest.mark.browser
def test_a_module_shows_its_imports(tab, address):
    tab.goto(f"{address}/api/index.html")
    picture = tab.locator("svg.imports")
    title, said = (picture.locator(f"#imports-{part}").text_content() for part in ("title", "said"))
    assert title and said and tab.get_by_role("group", name=f"{title} {said}").count() == 1
    boxes = {name: picture.locator(f"a[data-module='{name}'] rect").bounding_box() for name in MODULES}
    for above, under in tab.evaluate("[...document.querySelectorAll('svg.imports path')].map(p => [p.dataset.from, p.dataset.to])"):
        assert boxes[above]["y"] + boxes[above]["height"] < boxes[under]["y"], "an edge that leads up"
    box = picture.locator("a[data-module='codebook']")
    width = "() => getComputedStyle(document.querySelector('svg.imports [data-from=codebook]')).strokeWidth"
    before = tab.evaluate(width)
    box.focus()
    assert tab.evaluate(width) != before
    box.press("Enter")
    tab.wait_for_url("**/api/codebook.html")


CONTRAST = """() => {
  const linear = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (e) => {
    for (; e; e = e.parentElement) { const colour = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(colour)) return colour; }
    return 'rgb(255, 255, 255)';
  };
  const seen = {};
  for (const e of document.querySelectorAll('.highlight span, article p, article a, article code, pre.output, .sidebar-tree a, summary, dt span, td, th')) {
    if (!e.textContent.trim() || !e.getClientRects().length || e.closest('.headerlink')) continue;
    const fore = getComputedStyle(e).color, back = ground(e), [x, y] = [light(fore), light(back)].sort((a, b) => b - a);
    seen[`${fore} on ${back}: ${e.tagName}.${e.className}`] = (x + .05) / (y + .05);
  }
  return Object.entries(seen).filter(([, ratio]) => ratio < 4.5);
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read(spare, address, scheme):
    page = spare(color_scheme=scheme)
    for name in ("api/codebook", "api/index", "06_diversity"):
        page.goto(f"{address}/{name}.html")
        assert not page.evaluate(CONTRAST)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == {"light": "rgb(255, 255, 255)", "dark": "rgb(19, 20, 22)"}[scheme]
    papers = page.evaluate("[...document.querySelectorAll('figure .paper')].map(p => getComputedStyle(p).backgroundColor)")
    assert set(papers) == {"rgb(255, 255, 255)"}


@pytest.mark.browser
@pytest.mark.parametrize("name", ["index", "06_diversity", "api/search", "api/index"])
def test_phone_scrolls_one_way(spare, address, name):
    page = spare(390, 800)
    page.goto(f"{address}/{name}.html")
    page.evaluate(DRAW)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_keyboard_skips_to_the_content(tab, address):
    tab.goto(f"{address}/04_codebook.html")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to content"
    tab.keyboard.press("Enter")
    tab.wait_for_url("**#furo-main-content")


@pytest.mark.browser
def test_a_narrow_window_hides_nothing_from_the_keyboard(browser, address):
    "Tab goes to nothing that stands outside the window; a box that is ticked by Space brings the menu in"
    page = browser.new_page(viewport=dict(width=390, height=844), reduced_motion="reduce")
    page.goto(f"{address}/04_codebook.html")
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("""(() => { const e = document.activeElement, r = e.getBoundingClientRect();
          return [e.id, r.left >= 0 && r.right <= innerWidth]; })()"""))
    assert all(within for _, within in seen), seen
    assert {"__navigation", "__toc"} <= {name for name, _ in seen}
    for box, drawer in (("__navigation", ".sidebar-drawer"), ("__toc", ".toc-drawer")):
        links = page.locator(drawer).get_by_role("link")
        assert links.count() == 0
        page.locator(f"#{box}").press("Space")
        links.first.wait_for()
        page.wait_for_function("e => { const r = e.getBoundingClientRect(); return r.left >= 0 && r.right <= innerWidth; }", arg=links.first.element_handle())
        page.locator(f"#{box}").press("Space")
    page.close()


# --- slides

def some_notebook():
    "Figures, formulas, long code, checks, a fold, and cells that are hidden"
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    drawn = [new_output("display_data", {PLOTLY: {"data": []}, "image/png": pixel, "text/plain": "Figure"})]
    return new_notebook(cells=[
        new_markdown_cell("# Title\n\n> purpose"), new_code_cell("#| hide\nsecret = 1"), new_code_cell("#| export\ndef secret(): pass"),
        new_markdown_cell("## One\n\n$$a < b$$"), new_code_cell("x = 1"), new_code_cell("draw(x)", outputs=drawn), new_code_cell("y = 2"),
        new_code_cell("draw(y)", outputs=drawn), new_markdown_cell("### Two\n\n<details><summary>Answer</summary>\n\n$c$\n</details>"),
        new_code_cell("with expect_fail(ValueError): secret(3)"), new_code_cell("test_eq(secret, 1)"), new_code_cell("with torch.no_grad(): z = 3")])


def test_slides_begin_at_headings_and_where_no_more_fits():
    from slides import slide_types
    kinds = ["slide", "skip", "skip", "slide", "-", "-", "subslide", "-", "subslide", "skip", "skip", "-"]
    assert slide_types(some_notebook().cells) == kinds, "a cell that shows nothing stays with the next; checks and hidden cells are left out"


@pytest.mark.parametrize("nb", PARTS["The method"], ids=lambda nb: nb.page)
def test_slides_of_every_method_notebook_fit(nb):
    from slides import FULL, height, slide_types
    kinds, on_slide, alone = slide_types(nb.cells), 0, 0
    assert kinds.count("slide") >= 3
    for cell, kind in zip(nb.cells, kinds):
        if kind == "skip": continue
        on_slide, alone = (on_slide + height(cell), alone + 1) if kind == "-" else (height(cell), 1)
        assert on_slide <= FULL or alone <= 2, f"{cell['id']}: a slide of {on_slide} lines"


@pytest.fixture(scope="module")
def deck(tmp_path_factory):
    from slides import slides
    file = tmp_path_factory.mktemp("slides") / "deck.html"
    file.write_text(slides(some_notebook()), encoding="utf-8")
    return file


def test_slides_load_nothing_and_show_what_is_meant(deck):
    text = deck.read_text(encoding="utf-8")
    page = Page(re.sub("<script>.*?</script>", "", text, flags=re.S))
    assert not [url for url in page.loads if not url.startswith("data:")] and not re.search(r"<(script|link)[^>]*https?:|import .*https?:", text)
    assert "secret" not in "".join(page.text) and "expect_fail" not in text
    assert len(re.findall(r'<img[^>]*src="data:image/png', text)) == 2 and "Answer" in text


@pytest.mark.browser
def test_slides_are_turned_by_keys_without_a_network(browser, deck):
    page, problems = browser.new_page(), []
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("console", lambda m: m.type in ("error", "warning") and problems.append(m.text))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or problems.append(r.url))
    page.goto(deck.as_uri())
    shown = page.locator("section.page.now")
    shown.wait_for()
    pages = page.locator("section.page").count()
    assert pages == 4 and "Title" in shown.text_content() and page.locator("mjx-container").count() == 2
    for key, words in (("ArrowRight", "One"), (" ", "y = 2"), ("End", "Two"), ("PageUp", "y = 2"), ("Home", "Title")):
        page.keyboard.press(key)
        assert shown.count() == 1 and words in shown.text_content()
    page.get_by_role("button", name="next slide").click()
    assert page.url.endswith("#2") and not problems
    page.close()
