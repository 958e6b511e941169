"Sphinx's settings; build.py calls it"
import configparser
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util.nodes import make_refnode

here = Path(__file__).parent
sys.path.insert(0, str(here))  # where formulas.py lies
ini = configparser.ConfigParser(delimiters=["="])
ini.read(here.parents[1] / "settings.ini", encoding="utf-8")
project, author, release = (ini["DEFAULT"][key] for key in ("lib_name", "author", "version"))

extensions = ["myst_parser", "formulas", "sphinx_copybutton"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a notebook may go from # to ###
smartquotes = False
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_favicon = str(here / "static/favicon.svg")
html_title = f"{project} {release}"
html_static_path = [str(here / "static")]
exclude_patterns = ["static"]
html_css_files = ["site.css"]
html_js_files = ["boxes.js"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_use_index = True
html_theme_options = {"navigation_with_keys": True, "light_css_variables": {"color-brand-primary": "#00588a", "color-brand-content": "#00588a"},
                      "dark_css_variables": {"color-brand-primary": "#7cc4f0", "color-brand-content": "#7cc4f0"}}
pygments_style, pygments_dark_style = "a11y-light", "a11y-dark"
copybutton_selector = "div.highlight pre"
html_math_renderer = "mathml"


def link_names(app, doctree, docname):
    "`perplexity` in prose leads to its API entry"
    objects = app.env.domains["py"].objects
    short = {}
    for full, entry in objects.items(): short.setdefault(full.split(".", 2)[-1], []).append((full, entry))
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().removesuffix("()").removeprefix("sscq.")
        inside = literal.parent
        while inside is not None and not isinstance(inside, (nodes.reference, nodes.title)): inside = inside.parent
        known = short.get(name) or short.get(name.split(".", 1)[-1]) or []
        if inside is None and len(known) == 1 and known[0][1].objtype != "module":
            full, entry = known[0]
            literal.replace_self(make_refnode(app.builder, docname, entry.docname, entry.node_id, literal.deepcopy(), full))


def setup(app):
    app.connect("config-inited", lambda app, config: config.html_static_path.append(str(app.srcdir / "static")))  # the figures
    app.connect("doctree-resolved", link_names)
