"""The documentation site from the notebooks as committed and from their docstrings.  Usage: python nbs/site/build.py [folder, else _docs]

It lies beside the notebooks because they are all it reads; nbdev, which takes .ipynb files only, passes it by. Each notebook becomes a page of
MyST Markdown under _proc/site, each module an API page; Sphinx makes the HTML. Nothing is executed, and the pages ask nothing of any server.
"""
import base64
import gzip
import hashlib
import html
import io
import json
import re
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import minify
from PIL import Image
from plotly.offline import get_plotlyjs

sys.path.insert(0, str(Path(__file__).parent))
from api import Entry, Row, entries, gives, only_imports, statements, without_noqa
from graph import graph, listed, svg

ROOT = Path(__file__).parents[2]
NBS = ROOT / "nbs"
TUTORIALS = ["syllabus", "quick_tour", "why_learn_codes", "codebook_size", "what_each_loss_does", "your_own_photos", "reproducing_the_paper", "scaling_out",
             "a_billion_pictures"]
WINGS = {"The method": "to be read in order", "The engine": "read when needed: what makes it fast, safe and large", "The faces": "what stands on both"}
MOVED = {"05_diversity": "06_diversity", "06_neighbors": "07_neighbors", "07_contrastive": "05_contrastive", "13_widgets": "45_explorers",
         "14_cli": "50_cli", "api/widgets": "api/explorers"}  # old addresses, which others may have kept
PROJECT = {"CONTRIBUTING.md": "project/contributing", "CHANGELOG.md": "project/changelog"}
DOORS = [("Learn", "how it works, from the first picture on", "tutorials/quick_tour"), ("Use", "it on pictures of your own", "tutorials/your_own_photos"),
         ("Look under the hood", "at every part, derived and measured", "01_data")]
DIRECTIVE = re.compile(r"^#\|[ \t]*([\w-]+):?[ \t]*(.*)$", re.M)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Notebook(NamedTuple):
    path: Path
    page: str  # "04_codebook", "tutorials/quick_tour"
    cells: list[dict]

    @property
    def title(self) -> str: return next(m[1] for c in self.cells if c["cell_type"] == "markdown" and (m := re.match(r"# (.+)", source(c))))
    @property
    def module(self) -> str: return next((m[1] for c in self.cells if (m := re.search(r"^#\| default_exp (\w+)", source(c), re.M))), "")
    @property
    def number(self) -> str: return m[0] if (m := re.match(r"\d\d", self.path.name)) else ""
    @property
    def wing(self) -> str: return list(WINGS)[min(int(self.number) // 20, 2)] if self.number else ""
    @property
    def api(self) -> str: return f"api/{self.module if self.module != 'index' else self.path.stem.partition('_')[2]}"  # api/index lists all modules


def source(cell: dict) -> str: return "".join(cell["source"])
def directives(cell: dict) -> dict[str, str]: return {m[1]: m[2] or "" for m in DIRECTIVE.finditer(source(cell))} if cell["cell_type"] == "code" else {}
def code(cell: dict) -> str: return without_noqa(DIRECTIVE.sub("", source(cell))).strip()
def solution(cell: dict) -> bool: return "solution" in cell["metadata"].get("tags", [])
def exported(cell: dict) -> bool: return "export" in directives(cell)  # and offered: `exporti` is for the package itself


def read(path: Path) -> Notebook:
    return Notebook(path, path.relative_to(NBS).with_suffix("").as_posix(), json.loads(path.read_text(encoding="utf-8"))["cells"])


def notebooks() -> dict[str, list[Notebook]]:
    "Those that are there, in reading order"
    def order(path): return TUTORIALS.index(path.stem) if path.stem in TUTORIALS else len(TUTORIALS)
    numbered = [read(p) for p in sorted(NBS.glob("[0-9][0-9]_*.ipynb"))]
    return {wing: [nb for nb in numbered if nb.wing == wing] for wing in WINGS} | {
            "Tutorials": [read(p) for p in sorted(sorted(NBS.glob("tutorials/*.ipynb")), key=order)],
            "Explanations": [read(p) for p in sorted(NBS.glob("explanations/*.ipynb"))]}


# --- Markdown cells

def relink(text: str, folder: Path, pages: dict[Path, str], page: str) -> str:
    "Links between files become links between pages; what has no page becomes plain text; pictures stay"
    def link(m):
        bang, label, target, anchor = m[1], m[2], m[3], m[4] or ""
        file = (folder / target).resolve()
        if bang: return m[0]
        if file not in pages: return label
        up = "../" * page.count("/")
        slug = re.sub(r"[^\w\- ]", "", anchor[1:].lower().replace("-", " ")).strip().replace(" ", "-")
        return f"[{label}]({up}{pages[file]}.md{'#' + slug if slug else ''})"
    return LINK.sub(link, text)


def needs(text: str, modules: dict[str, Notebook], page: str) -> str:
    "`Needs: *codebook*.` names notebooks: link them"
    def link(m): return f"[{m[0]}]({'../' * page.count('/')}{modules[m[1]].page}.md)" if m[1] in modules else m[0]
    return re.sub(r"^Needs:[^.]*", lambda line: re.sub(r"\*(\w+)\*", link, line[0]), text)


# --- outputs

def raw(text: str) -> str: return f"```````{{raw}} html\n{text}\n```````"


def axis_title(layout: dict, axis: str) -> str: return re.sub("<[^>]+>", " ", (layout.get(axis, {}).get("title") or {}).get("text") or "")


def described(figure: dict) -> str:
    "What a figure shows, in words, for those who do not see it"
    layout, traces = figure["layout"], figure["data"]
    kinds = sorted({"line or point chart" if t.get("type", "scatter") == "scatter" else t["type"] + " chart" for t in traces})
    said = [(layout.get("title") or {}).get("text"), *(a.get("text") for a in layout.get("annotations", [])[:12])]
    axes = [f"{axis[0]}: {title}" for axis in ("xaxis", "yaxis") if (title := axis_title(layout, axis))]
    names = list(dict.fromkeys(t["name"] for t in traces if t.get("name")))
    text = "; ".join(filter(None, [" and ".join(kinds) or "picture", ", ".join(filter(None, said)), ", ".join(axes), ", ".join(names[:8])]))
    return "Figure: " + re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", text)).strip()


def png_size(png: bytes) -> tuple[int, int]: return struct.unpack(">II", png[16:24])


def light(path: Path) -> str:
    "A drawing in 32 colours, which is a fifth of its bytes"
    buffer = io.BytesIO()
    Image.open(path).convert("RGB").quantize(32).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def picture(site: "Site", name: str, png: str, alt: str, page: str, size=None) -> str:
    data = base64.b64decode(png)
    width, height = size or png_size(data)
    site.write(f"static/figures/{name}.png", data)
    return f'<img src="{"../" * page.count("/")}_static/figures/{name}.png" width="{width:.0f}" height="{height:.0f}" alt="{html.escape(alt)}" loading="lazy">'


def figure(site: "Site", name: str, data: dict, page: str) -> str:
    "The picture, and beside it a file from which figures.js draws the live figure once it comes near"
    spec = data["application/vnd.plotly.v1+json"]
    spec = {k: spec.get(k) or [] for k in ("data", "frames")} | {"layout": spec["layout"]}
    layout, alt = spec["layout"], described(spec)
    width, height = layout.get("width"), layout.get("height", 450)
    img = picture(site, name, data["image/png"], alt, page, (width, height) if width else None) if "image/png" in data else ""
    site.write(f"static/figures/{name}.js", f"sscqFigure({json.dumps(name)}, {json.dumps(spec, separators=(',', ':'), ensure_ascii=False)});\n".encode())
    drawing = " drawing" * (not layout.get("images") and not any(t.get("type") == "heatmap" for t in spec["data"]))  # may be dark where the page is
    return f'<figure class="live{drawing}" data-figure="{name}" role="group" aria-label="{html.escape(alt)}"><div class="paper">{img}</div></figure>'


EXPLORABLE = 'class="sscq-explorable"'


def explorable(site: "Site", name: str, frame: str, page: str) -> str:
    "What a notebook keeps in a frame, as a part of the page: program and data as files, and a picture where no JavaScript runs"
    document = html.unescape(re.search(r'srcdoc="([^"]+)"', frame)[1])
    kind, title = (re.search(rf'{what}="([^"]+)"', frame)[1] for what in ("data-name", "title"))
    def part(name: str) -> str:  # compressed, unless the notebook was run before data were
        kind, text = re.search(rf'<script(?: type="([^"]+)")? id="{name}">(.*?)</script>', document, re.S).groups()
        return gzip.decompress(base64.b64decode(text)).decode() if kind == "text/plain" else text
    program, data = part("code"), part("data")
    kept = m[1] if (m := re.search(r'id="kept">(.*?)</script>', document)) else "{}"  # the state that it begins with
    program = minify.string("text/javascript", program)
    code, here = f"code-{hashlib.sha256(program.encode()).hexdigest()[:12]}.js", "../" * page.count("/") + "_static/explorables"
    site.write(f"static/explorables/{code}", program.encode())
    site.write(f"static/explorables/{name}.js", f'sscqMount(document.getElementById("explorable-{name}"), "{kind}", {data}, {{ kept: {kept} }});\n'.encode())
    still, picture = NBS / f"images/explorable_{kind}.png", ""
    if still.exists():
        site.write(f"static/explorables/{still.name}", still.read_bytes())
        width, height = png_size(still.read_bytes())
        picture = f'<img src="{here}/{still.name}" width="{width}" height="{height}" alt="{title}: a picture of what moves where JavaScript runs">'
    return (f'<div class="explorable" id="explorable-{name}"><noscript>{picture}</noscript></div>\n'
            f'<script defer src="{here}/{code}"></script><script defer src="{here}/{name}.js"></script>')


def output(site: "Site", nb: Notebook, cell: dict, n: int, out: dict) -> str:
    "One output as Markdown; of several forms, the richest that a page without a kernel can show"
    if out["output_type"] == "stream": data = {"text/plain": out["text"]}
    elif out["output_type"] == "error": data = {"text/plain": "\n".join(out["traceback"])}
    else: data = {k: v if isinstance(v, (str, dict)) else "".join(v) for k, v in out["data"].items()}
    name = f"{nb.page.replace('/', '-')}-{cell['id']}-{n}"
    plain = ANSI.sub("", "".join(data.get("text/plain", ""))).rstrip()
    if "application/vnd.plotly.v1+json" in data: return raw(figure(site, name, data, nb.page))
    if "image/png" in data:
        said = "" if plain.startswith("<") else html.escape(plain)  # an explorer's says where it is alive
        img = picture(site, name, data["image/png"], plain if said else f"Picture drawn by {code(cell).splitlines()[-1]}", nb.page)
        return raw(f'<figure class="still"><div class="paper">{img}</div>{f"<figcaption>{said}</figcaption>" if said else ""}</figure>')
    if EXPLORABLE in data.get("text/html", ""): return raw(explorable(site, f"{nb.page.replace('/', '-')}-{cell['id']}", data["text/html"], nb.page))
    if "text/html" in data: return raw(f'<div class="output">{data["text/html"]}</div>')
    if "text/markdown" in data: return data["text/markdown"]
    if "application/vnd.jupyter.widget-view+json" in data: return ""  # a progress bar: nothing to see without a kernel
    return raw(f'<pre class="output">{html.escape(plain)}</pre>') if plain else ""


# --- pages

def outputs(site: "Site", nb: Notebook, cell: dict) -> list[str]:
    joined = []  # neighbouring streams read as one
    for out in cell["outputs"]:
        if joined and out["output_type"] == joined[-1]["output_type"] == "stream": joined[-1] = joined[-1] | {"text": [*joined[-1]["text"], *out["text"]]}
        else: joined.append(out)
    return [output(site, nb, cell, n, out) for n, out in enumerate(joined)]


def library_links(nb: Notebook, names: list[Entry]) -> str:
    "Above an exported cell: where each of its names stands in the API, and anchors for the way back"
    here = {e.name for e in names}
    shown = [e for e in names if e.name.partition(".")[0] not in here or "." not in e.name]
    up = "../" * nb.page.count("/")
    links = ", ".join(f'<a class="reference internal" href="{up}{nb.api}.html#sscq.{nb.module}.{e.name}"><code>{e.name}</code></a>' for e in shown)
    anchors = "".join(f'<span id="def-{e.name}"></span>' for e in names)
    return raw(f'<p class="exported">{anchors}In the library: {links}</p>\n') if names else ""


def folded(what: str) -> str: return raw(f'<details class="{what.lower()}"><summary>{what}</summary>')


def code_cell(site: "Site", nb: Notebook, cell: dict) -> list[str]:
    flags, text, parts = directives(cell), code(cell), []
    if "hide" in flags or not text: return []
    if exported(cell): parts.append(library_links(nb, entries(text, cell["id"])))
    fence = f"```````python\n{text}\n```````"
    if only_imports(text): parts += [folded("Imports"), fence, raw("</details>")]
    elif solution(cell): return [folded("Solution"), fence, *outputs(site, nb, cell), raw("</details>")]
    elif flags.get("code-fold") == "true": parts += [folded("Code"), fence, raw("</details>")]  # drawing that would stand in the way
    elif flags.get("echo") != "false": parts.append(fence)
    return parts + outputs(site, nb, cell)


def notebook_page(site: "Site", nb: Notebook) -> str:
    parts = []
    for cell in nb.cells:
        if cell["cell_type"] == "markdown": parts.append(needs(relink(source(cell), nb.path.parent, site.pages, nb.page), site.modules, nb.page))
        elif cell["cell_type"] == "code": parts += code_cell(site, nb, cell)
    if any('<figure class="live' in part for part in parts): parts.append(raw(f'<script defer src="{"../" * nb.page.count("/")}_static/figures.js"></script>'))
    return "\n\n".join(filter(None, parts))


def sections(nb: Notebook) -> dict[str, str]:
    "The heading that each cell stands under"
    title, found = nb.title, {}
    for cell in nb.cells:
        if cell["cell_type"] == "markdown" and (m := re.match(r"##+ (.+)", source(cell))): title = m[1]
        found[cell["id"]] = title
    return found


def in_code(text: str) -> str:
    "For a table: as code, whatever it holds"
    return "`" + text.replace("|", "\\|").replace("\n", " ") + "`" if text else ""


def table(rows: list[Row]) -> str:
    columns = [("name", "name", in_code), ("type", "type", in_code), ("default", "default", in_code), ("details", "details", lambda t: t.replace("|", "\\|"))]
    used = [(title, field, show) for field, title, show in columns if any(getattr(r, field) for r in rows)]
    lines = [[show(getattr(r, field)) if r.name != "returns" or field != "name" else "*returns*" for _, field, show in used] for r in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [[t for t, _, _ in used], ["---"] * len(used), *lines])


def raises(e: Entry) -> str:
    "A line for each error"
    lines = [f"- `{kind}`: {said if '`' in said else in_code(' '.join(said.split()).replace('`', ''))}" for kind, said in e.raises]
    return "Raises:\n\n" + "\n".join(lines) if lines else ""


def told(notebooks: list[Notebook]) -> list[tuple[Notebook, str, dict[str, int]]]:
    "Every statement that may be an example: of cells that stand open and that the tests run; and what it uses"
    kinds, found = gives([e for nb in notebooks for e in exports(nb)]), []
    for nb in notebooks:
        known: dict[str, str] = {}
        for cell in nb.cells:
            if cell["cell_type"] != "code" or {"export", "exporti"} & directives(cell).keys(): continue
            those = statements(code(cell), kinds, known)
            if not {"hide", "slow"} & directives(cell).keys() and not solution(cell): found += [(nb, said, used) for said, used in those]
    return found


def examples(nb: Notebook, statements: list[tuple[Notebook, str, dict[str, int]]]) -> dict[str, str]:
    "For each public name a statement that uses it, as from `told`: of its own notebook, or else of the first that has one; a call, if there is one"
    found: dict[str, tuple] = {}
    names = {e.name for e in exports(nb)}
    for place, said, used in statements:
        for name in names & used.keys():
            rank = used[name], place is not nb
            if name not in found or rank < found[name][0]: found[name] = rank, said
    return {name: said for name, (_, said) in found.items()}


def entry_block(e: Entry, nb: Notebook, section: str, example: str = "") -> str:
    value = e.signature if len(e.signature) < 200 else e.signature[:200] + " …"
    head = {"data": f"{e.name}\n:value: {json.dumps(value)}", "property": f"{e.name}\n:type: {json.dumps(e.signature)}"}.get(e.kind, e.name + e.signature)
    where = raw(f'<p class="explained">Explained in <a class="reference internal" href="../{nb.page}.html#def-{e.name}">{nb.number} {html.escape(nb.title)}'
                f'{" › " + html.escape(re.sub(r"[`*$]", "", section)) if section != nb.title else ""}</a></p>')
    parts = [e.doc, table(e.rows) if e.rows else "", raises(e), f"Example:\n\n```python\n{example}\n```" if example else "", where]
    body = "\n\n".join(filter(None, parts))
    return f"````````{{py:{e.kind}}} {head}\n\n{body}\n````````"


def exports(nb: Notebook) -> list[Entry]:
    "All public names of a notebook's module, a class's methods right after it, constants last"
    found = [e for cell in nb.cells if exported(cell) for e in entries(code(cell), cell["id"])]
    first = {name: i for i, name in reversed(list(enumerate(e.name.partition(".")[0] for e in found)))}
    return sorted(found, key=lambda e: (e.kind == "data", first[e.name.partition(".")[0]]))


def purpose(nb: Notebook) -> str: return next((m[1] for c in nb.cells if (m := re.search(r"^> (.+)", source(c), re.M))), "")


def first_sentence(text: str) -> str:
    line = " ".join(text.partition("\n\n")[0].split())
    return m[1] if (m := re.match(r"(.+?(?<!\bal)[.!?])\s+[^a-z\s]", line)) else line


def summary(nb: Notebook, names: list[Entry]) -> str:
    "What there is, before what each of it is"
    def said(e): return first_sentence(e.doc).replace("|", "\\|") or in_code(e.signature if len(e.signature) < 80 else "")
    lines = [f"| {{py:obj}}`{e.name} <sscq.{nb.module}.{e.name}>` | {said(e)} |" for e in names]
    return "\n".join(["| name | what it is |", "|---|---|", *lines])


def modules_linked(names, modules: dict[str, Notebook]) -> str:
    return listed([f"[`{m}`]({modules[m].api.removeprefix('api/')}.md)" for m in modules if m in names])


def api_page(nb: Notebook, modules: dict[str, Notebook], imports: dict[str, set[str]], shown: dict[str, str]) -> str:
    where, names = sections(nb), exports(nb)
    users = {m for m, used in imports.items() if nb.module in used}
    head = [f"# sscq.{nb.module}\n\n> {purpose(nb)}", f"Explained, derived and checked in [{nb.number} {nb.title}](../{nb.page}.md).",
            f"Imports {modules_linked(imports[nb.module], modules)}." + (f" Imported by {modules_linked(users, modules)}." if users else "")]
    if not names: head.append("What it holds is for the package's other modules; no name of it is offered to other projects.")
    return "\n\n".join([*head, *([summary(nb, names)] if names else []), f"```{{py:module}} sscq.{nb.module}\n```",
                        *(entry_block(e, nb, where[e.cell], shown.get(e.name, "")) for e in names)])


def api_index(modules: dict[str, Notebook], imports: dict[str, set[str]]) -> str:
    def address(m): return modules[m].api.removeprefix("api/")
    wings = {wing: [m for m, nb in modules.items() if nb.wing == wing] for wing in WINGS}
    parts = ["# The library", "> Every public name, and the notebook that explains it.",
             "In each of the three lists, an import only ever points up. The method may also import from the engine; the engine imports figures, "
             "codebooks, losses and search of the method, and nothing else of it; the faces stand on both. No import leads back to where it began."]
    for wing, names in wings.items():
        rows = [f"| [`sscq.{m}`]({address(m)}.md) | {purpose(modules[m])} | [{modules[m].number} {modules[m].title}](../{modules[m].page}.md) |" for m in names]
        parts += [f"## {wing}\n\n{WINGS[wing].capitalize()}.", "\n".join(["| module | what for | explained in |", "|---|---|---|", *rows])]
    parts += ["## Which module imports which", "Drawn from the code. A module stands above all that it imports, so every line leads down; a line is left "
              "out where others lead the same way. Point at a module to see its lines; its page lists all its imports.",
              raw(f'<div class="graph">{svg(imports, wings, {m: f"{address(m)}.html" for m in modules})}</div>')]
    return "\n\n".join([*parts, toctree("", [(f"sscq.{m}", address(m)) for m in modules])])


def toctree(caption: str, pages: list[tuple[str, str]]) -> str:
    lines = "\n".join(f"{title} <{page}>" for title, page in pages)
    return f"```{{toctree}}\n:hidden:\n{':caption: ' + caption if caption else ''}\n\n{lines}\n```"


# --- the site

class Site:
    "What is written where; a file is touched only if it changes, so that Sphinx redoes only what has to be"
    def __init__(self, folder: Path):
        self.folder, self.written, self.parts = folder, set(), notebooks()
        self.index = read(NBS / "index.ipynb")
        every = [self.index, *(nb for part in self.parts.values() for nb in part)]
        self.pages = {nb.path: nb.page for nb in every} | {ROOT / file: page for file, page in PROJECT.items()}
        self.modules = {nb.module: nb for nb in every if nb.module}
        self.stale: list[str] = []  # what an earlier build wrote and this one does not

    def write(self, name: str, data: bytes):
        file = self.folder / name
        self.written.add(file)
        if file.exists() and file.read_bytes() == data: return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def write_page(self, page: str, text: str): self.write(f"{page}.md", text.encode())

    def front(self) -> str:
        "The front page: something that answers before anything is explained, then three doors. One letter of maths needs no program that sets formulas"
        title, rest = notebook_page(self, self.index).split("\n\n", 1)
        component = next((nb for part in self.parts.values() for nb in part if nb.module == "component"), None)
        shown = [raw(explorable(self, "front", text, "index")) for cell in (component.cells if component else []) for out in cell.get("outputs", [])
                 if 'data-name="search"' in (text := "".join(out.get("data", {}).get("text/html", "")))][:1]
        rest = re.sub(r"\$(\w)\$", r"*\1*", rest)
        def later(m):
            shot = picture(self, f"front-{m[2]}", light(NBS / f"images/{m[2]}.png"), m[1], "index")
            # a third of the page's bytes: they are loaded when somebody opens it
            return raw(f"<details><summary>{html.escape(m[1])}</summary>{shot}</details>" if shown and m[2] == "answers" else shot)
        rest = re.sub(r"^!\[([^\]]*)\]\(images/(\w+)\.png\)$", later, rest, flags=re.M)
        return "\n\n".join([title, *shown, raw(f'<nav class="doors" aria-label="Where to begin">{"".join(self.door(*door) for door in DOORS)}</nav>'), rest])

    def door(self, title: str, why: str, page: str) -> str:
        return f'<a class="reference internal" href="{page}.html"><strong>{title}</strong> {why}</a>'

    def write_all(self):
        trees = [toctree(part, [(f"{nb.number} {nb.title}".strip(), nb.page) for nb in found]) for part, found in self.parts.items() if found]
        trees.append(toctree("Reference", [("The library", "api/index"), ("Contributing", "project/contributing"), ("Changelog", "project/changelog")]))
        self.write_page("index", "\n\n".join([self.front(), *trees]))
        for nb in (nb for part in self.parts.values() for nb in part): self.write_page(nb.page, notebook_page(self, nb))
        imports = graph(ROOT / "sscq", self.modules)
        every = told([nb for part in self.parts.values() for nb in part])
        for nb in self.modules.values(): self.write_page(nb.api, api_page(nb, self.modules, imports, examples(nb, every)))
        self.write_page("api/index", api_index(self.modules, imports))
        for file, page in PROJECT.items(): self.write_page(page, relink((ROOT / file).read_text(encoding="utf-8"), ROOT, self.pages, page))
        for image in (NBS / "images").iterdir(): self.write(f"images/{image.name}", image.read_bytes())
        self.write("static/plotly.js", f'sscqPlotly("{base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()}");\n'.encode())
        for old, new in MOVED.items(): self.write(f"moved/{old}.html", redirect(old, new).encode())
        for stale in {f for f in self.folder.rglob("*") if f.is_file()} - self.written:
            self.stale.append(stale.relative_to(self.folder).as_posix())
            stale.unlink()

    def finish(self, out: Path):
        "After Sphinx, which takes pages away no more than it knows of old addresses"
        for page in (p for p in out.rglob("*.html") if not p.is_relative_to(out / "_static")):
            before = page.read_text(encoding="utf-8")
            if (after := mended(before)) != before: page.write_text(after, encoding="utf-8")
        for name in self.stale:
            page = re.sub(r"\.md$", ".html", name.removeprefix("moved/"))
            (out / re.sub(r"^static/", "_static/", page)).unlink(missing_ok=True)
        for old in MOVED:
            (out / f"{old}.html").parent.mkdir(parents=True, exist_ok=True)
            (out / f"{old}.html").write_bytes((self.folder / f"moved/{old}.html").read_bytes())


MENDED = [('<aside class="sidebar-drawer', '<aside aria-label="The site" class="sidebar-drawer'),
          ('<aside class="toc-drawer', '<aside aria-label="This page" class="toc-drawer'),
          ('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'), ('<th class="head"><p></p></th>', "<td></td>")]
PARAMETERS = re.compile(r'<dl>\n((?:<dd><em class="sig-param">(?:(?!</?dl>).)*?</dd>\n)+)</dl>', re.S)


def mended(page: str) -> str:
    "What the theme leaves to be desired by those who do not see the page: landmarks with names, headings with levels, lists only where something is listed"
    for old, new in MENDED: page = page.replace(old, new)
    page = re.sub(r'(<a href="#" class="back-to-top.*?</a>)', r'<nav aria-label="To the top">\1</nav>', page, flags=re.S)
    # the link that skips the menus comes first; site.css knows that what brings the menus in stands within a landmark
    boxes, skip = r'(<input type="checkbox" class="sidebar-toggle".*?)', r'(<a class="skip-to-content.*?</a>)'
    page = re.sub(boxes + skip, r'\2<nav aria-label="Menus">\1</nav>', page, flags=re.S)
    def plain(m): return '<span class="params">' + m[1].replace("<dd>", '<span class="param">').replace("</dd>", "</span>") + "</span>"
    return PARAMETERS.sub(plain, page)


def redirect(old: str, new: str) -> str:
    "A page that leads from an old address to the new one, from a folder too"
    to = "../" * old.count("/") + f"{new}.html"
    return (f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>Moved</title><meta http-equiv="refresh" content="0; url={to}">'
            f'<link rel="canonical" href="{to}"></head>\n<body><p>This page is now at <a href="{to}">{new}</a>.</p></body>\n</html>\n')


def build(out: Path, work: Path) -> int:
    "Returns 0, or Sphinx's exit code; every page is written anew (-a), since each lists all others, but only changed ones are read anew"
    from sphinx.cmd.build import build_main
    site = Site(work / "pages")
    site.write_all()
    failed = build_main(["-b", "html", "-q", "-a", "-c", str(Path(__file__).parent), "-d", str(work / "doctrees"), str(work / "pages"), str(out)])
    if not failed: site.finish(out)
    return failed


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_docs")
    failed = build(out, ROOT / "_proc/site" if len(sys.argv) < 2 else out.with_name(out.name + "_work"))
    print(f"{out / 'index.html'}: open it in a browser" if not failed else "the site could not be built: see above")
    sys.exit(failed)
