"""Formulas as MathML when the site is built, so that a page needs no program to set them. Sphinx's own renderers leave that to the reader's browser.

docutils, which Sphinx stands on, turns TeX into MathML. It wants what it reads to be written out; the few short forms that the notebooks use are
written out here first. What it does not know is an error, so that no page is built with a formula missing.
"""
import html
import re
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

LONG = [(r"\\([dt]?frac)\s*(\d)\s*(\d)", r"\\\1{\2}{\3}"), (r"\\([bB]igg?)\s*(?=[(\[{|]|\\[l{])", r"\\\1l"), (r"\\([bB]igg?)\s*(?=[)\]}]|\\[r}])", r"\\\1r"),
        (r"\\[bB]igg?\s*/", "/"), (r"\\dots\b|…", r"\\ldots "), (r"(\\\\)\s*\[[\d.]+\w\w\]", r"\1"),  # a line's end says how far the next is
        (r"\\operatorname\*", r"\\operatorname")]

BARS = re.compile(r"<mo(?: class=\"\w+\")?>([‖|∣])</mo>")  # a browser stretches them to the height of the line, TeX only where it is told to

MATHML = "http://www.w3.org/1998/Math/MathML"
ROWS = {f"{{{MATHML}}}{tag}" for tag in ("math", "mrow", "mtd", "mstyle", "msqrt")}
ElementTree.register_namespace("", MATHML)


def is_name(part) -> bool:
    "log, cos, max: alone or with a script"
    while len(part) and part.tag.rpartition("}")[2] in ("msub", "msup", "msubsup", "munder"): part = part[0]
    return part.tag.endswith("}mi") and len(part.text or "") > 1


def spaced(found: str) -> str:
    "A thin space on either side of the name of a function, where TeX has one and browsers do not"
    root = ElementTree.fromstring(re.sub(r"&(?!lt;|gt;|amp;|quot;)\w+;", lambda m: html.unescape(m[0]), found))
    def touches(part, bracket):
        if part.tag.endswith("}mrow") and len(part): part = part[0] if not bracket else part[-1]
        return not part.tag.endswith(("}mspace", "}mo")) or part.tag.endswith("}mo") and part.text == bracket
    for row in [part for part in root.iter() if part.tag in ROWS]:
        kept = []
        for part in list(row):
            seen = [one for one in kept if one.text != "\u2061"]  # which says that a function is applied
            if seen and (is_name(part) and touches(seen[-1], ")") or is_name(seen[-1]) and touches(part, "")) and part.text != "\u2061":
                kept.append(ElementTree.Element(f"{{{MATHML}}}mspace", width="0.1667em"))
            kept.append(part)
        row[:] = kept
    return ElementTree.tostring(root, "unicode", short_empty_elements=False)


def mathml(tex: str, block: bool = False) -> str:
    "ValueError for what cannot be set"
    text = tex.strip()
    for short, written_out in LONG: text = re.sub(short, written_out, text)
    try: found = tex2mathml(text, as_block=block)
    except Exception as error: raise ValueError(f"the formula {tex!r} cannot be set: {error}") from error
    found = spaced(re.sub(r"\n\s*", "", found))
    return found if re.search(r"\\(left|right)\s*(\\[lr]?[vV]ert|\\\||\|)", tex) else BARS.sub(r'<mo stretchy="false">\1</mo>', found)


def inline(self, node):
    self.body.append(f'<span class="math notranslate">{mathml(node.astext())}</span>')
    raise nodes.SkipNode


def display(self, node):
    self.body.append(f'<div class="math notranslate">{mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app): app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(display, None))
