"""Formulas as MathML when the site is built, so that a page needs no program to set them. Sphinx's own renderers leave that to the reader's browser.

docutils, which Sphinx stands on, turns TeX into MathML. It wants what it reads to be written out; the few short forms that the notebooks use are
written out here first. What it does not know is an error, so that no page is built with a formula missing.
"""
import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

LONG = [(r"\\([dt]?frac)\s*(\d)\s*(\d)", r"\\\1{\2}{\3}"), (r"\\([bB]igg?)\s*(?=[(\[{|]|\\[l{])", r"\\\1l"), (r"\\([bB]igg?)\s*(?=[)\]}]|\\[r}])", r"\\\1r"),
        (r"\\[bB]igg?\s*/", "/"), (r"\\dots\b|…", r"\\ldots "), (r"(\\\\)\s*\[[\d.]+\w\w\]", r"\1")]  # a line's end says how far the next is

BARS = re.compile(r"<mo(?: class=\"\w+\")?>([‖|∣])</mo>")  # a browser stretches them to the height of the line, TeX only where it is told to


def mathml(tex: str, block: bool = False) -> str:
    "ValueError for what cannot be set"
    text = tex.strip()
    for short, written_out in LONG: text = re.sub(short, written_out, text)
    try: found = tex2mathml(text, as_block=block)
    except Exception as error: raise ValueError(f"the formula {tex!r} cannot be set: {error}") from error
    found = re.sub(r"\n\s*", "", found)
    return found if re.search(r"\\(left|right)\s*(\\[lr]?[vV]ert|\\\||\|)", tex) else BARS.sub(r'<mo stretchy="false">\1</mo>', found)


def inline(self, node):
    self.body.append(f'<span class="math notranslate">{mathml(node.astext())}</span>')
    raise nodes.SkipNode


def display(self, node):
    self.body.append(f'<div class="math notranslate">{mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app): app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(display, None))
