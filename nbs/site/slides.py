"""Slides of a notebook in one HTML file that asks nothing of any server.  Usage: python nbs/site/slides.py nbs/07_neighbors.ipynb [file.html]

Which cell begins a slide is decided here, by headings and by how much fits on a page, so that no notebook has to carry such marks. nbconvert makes
the page. It would load reveal.js, MathJax and three more scripts from other computers; this page has MathJax in it, and twenty lines that turn the
pages: arrow keys, space, Page Up and Down, Home and End, or a click on either half of the number below. Printed, all slides follow each other.

With --notebook the marked notebook is written instead, for those who have reveal.js and want it:

    python nbs/site/slides.py nbs/07_neighbors.ipynb slides.ipynb --notebook
    jupyter nbconvert --to slides slides.ipynb --SlidesExporter.reveal_url_prefix=FOLDER_OF_REVEAL
"""
import argparse
import ast
import importlib.util
import re
import warnings
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

FULL, FIGURE = 23, 12  # lines on a slide; what a figure takes of them
WORDS = 13  # in a line
HEAD = """<style>
body.jp-Notebook { margin: 0 } html.deck { overflow: hidden } html.deck body { min-height: 100vh } html.deck section.page { display: none }
html.deck section.page.now { display: block; position: absolute; inset: 0 0 2.2em 0; overflow: auto }
section.page { padding: 1.2em max(1.2em, calc(50vw - 34em)); box-sizing: border-box; font-family: "DejaVu Sans", Arial, sans-serif }
.jp-InputPrompt, .jp-OutputPrompt { display: none !important } section.page img { max-width: 100%; height: auto }
nav.turn { position: fixed; bottom: 0; width: 100%; display: flex; background: white } nav.turn[hidden] { display: none }
nav.turn button { flex: 1; height: 2.2em; border: 0; border-top: 1px solid #ccc; background: none; font-size: 1em }
@media print { html.deck { overflow: visible } section.page.page { display: block; position: static; break-after: page } nav.turn { display: none } }
</style>"""
TURN = """<nav class="turn" aria-label="slides" hidden><button aria-label="previous slide"></button><button aria-label="next slide"></button></nav>
<script>
(() => {
  const leaves = [...document.querySelectorAll('.slides section')].filter(s => !s.querySelector('section'));
  leaves.forEach(s => s.classList.add('page'));
  const nav = document.querySelector('nav.turn'), [back, on] = nav.children;
  let now = Math.max(0, parseInt(location.hash.slice(1)) - 1 || 0);
  const show = (n) => {
    now = Math.min(Math.max(n, 0), leaves.length - 1);
    leaves.forEach((s, i) => s.classList.toggle('now', i === now));
    back.textContent = `\\u2190 ${now + 1}`; on.textContent = `${leaves.length} \\u2192`;
    history.replaceState(null, '', `#${now + 1}`); leaves[now].scrollTop = 0;
  };
  const keys = {ArrowRight: 1, ArrowDown: 1, PageDown: 1, ' ': 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1, Home: -1e9, End: 1e9};
  addEventListener('keydown', e => {
    if (!(e.key in keys) || e.ctrlKey || e.metaKey || e.altKey || e.target.closest('summary, button, input')) return;
    show(now + keys[e.key]); e.preventDefault();
  });
  back.onclick = () => show(now - 1); on.onclick = () => show(now + 1);
  const start = () => { document.documentElement.classList.add('deck'); nav.hidden = false; show(now); };
  window.MathJax && MathJax.startup ? MathJax.startup.promise.then(start) : start();
})();
</script>"""
TEMPLATE = """{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{{ resources.deck_head }}{%- endblock -%}
{%- block body_footer -%}</div></div></main>{{ resources.deck_turn }}</body>{%- endblock -%}
{%- block footer_js -%}{%- endblock -%}"""


def source(cell) -> str: return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def only_checks(text: str) -> bool:
    "Nothing but imports, tests and errors that are meant to come"
    def check(node):
        if isinstance(node, ast.With): return getattr(getattr(node.items[0].context_expr, "func", None), "id", "") == "expect_fail"
        if isinstance(node, ast.Expr): return isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "").startswith("test_")
        return isinstance(node, (ast.Import, ast.ImportFrom, ast.Assert))
    try: return all(check(node) for node in ast.parse(text).body)
    except SyntaxError: return False  # a command of the shell


def left_out(cell) -> bool:
    "What a room need not see: the library's own code, hidden cells, checks"
    if cell["cell_type"] != "code": return cell["cell_type"] != "markdown" or not source(cell).strip()
    return bool(re.search(r"^#\| *(hide|exporti?|default_exp)\b", source(cell), re.M)) or only_checks(source(cell))


def height(cell) -> int:
    "Lines that a cell takes, roughly"
    text = source(cell)
    if cell["cell_type"] == "markdown": return 1 + sum(1 + len(line.split()) // WORDS for line in text.splitlines() if line.strip())
    shown = [FIGURE if "image/png" in out.get("data", {}) else 2 for out in cell["outputs"]]
    return 1 + len(text.splitlines()) + sum(shown)


def slide_types(cells: list) -> list[str]:
    "For each cell: slide, subslide, skip, or '-' for what goes on; a heading begins a slide, and so does what no longer fits"
    found, used, shown = {}, 0, [i for i, cell in enumerate(cells) if not left_out(cell)]
    for i, after in zip(shown, [*shown[1:], None]):
        cell = cells[i]
        level = len(m[1]) if cell["cell_type"] == "markdown" and (m := re.match(r"(#+) ", source(cell))) else 0
        bare = cell["cell_type"] == "code" and not cell["outputs"] and after  # it stays with what it is for
        needed = height(cell) + (height(cells[after]) if bare else 0)
        if level in (1, 2): found[i] = "slide"
        else: found[i] = "subslide" if level or used and used + needed > FULL else "-"
        used = height(cell) + (used if found[i] == "-" else 0)
    return [found.get(i, "skip") for i in range(len(cells))]


def marked(notebook):
    "The notebook with its marks; of a figure's two forms the picture, which needs no script"
    for cell, kind in zip(notebook.cells, slide_types(notebook.cells)):
        cell.metadata["slideshow"] = {"slide_type": kind}
        for out in cell.get("outputs", []):
            if "image/png" in out.get("data", {}): out.data = {"image/png": out.data["image/png"], "text/plain": ""}
    return notebook


def mathjax() -> str:
    file = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax/tex-svg.js"
    script = file.read_text(encoding="utf-8").replace("</script", "<\\/script")
    return f"<script>MathJax = {{tex: {{inlineMath: [['$', '$']]}}, options: {{enableMenu: false}}}}</script><script>{script}</script>"


def slides(notebook) -> str:
    "One page of HTML"
    notebook = marked(notebook)
    notebook.cells = [cell for cell in notebook.cells if cell.metadata["slideshow"]["slide_type"] != "skip"]  # nbconvert would only hide them
    exporter = SlidesExporter(raw_template=TEMPLATE, exclude_input_prompt=True, exclude_output_prompt=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Alternative text is missing")  # the figures' words stand beside them
        text, _ = exporter.from_notebook_node(notebook, resources=dict(deck_head=HEAD + mathjax(), deck_turn=TURN))
    return re.sub(r"<link[^>]*reveal[^>]*>", "", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path, nargs="?", help="default: the notebook's name with .slides.html, here")
    parser.add_argument("--notebook", dest="marks_only", action="store_true", help="write the marked notebook")
    args = parser.parse_args()
    notebook = nbformat.read(args.notebook, as_version=4)
    out = args.out or Path(f"{args.notebook.stem}.slides.{'ipynb' if args.marks_only else 'html'}")
    out.write_text(nbformat.writes(marked(notebook)) if args.marks_only else slides(notebook), encoding="utf-8")
    print(out)


if __name__ == "__main__": main()
