"Where a page stands: in the frame of a notebook with a kernel or without, in a browser that lacks something, beside a front end that fails once."
import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import sscq.component as component
from sscq.backbone import projection_head
from sscq.component import EXPLORABLES, JS, Explorable, page_layers, page_model
from sscq.core import SSCQ
from sscq.explorer import LiveFigure

ROOT = Path(__file__).parent.parent
explorables = pytest.mark.parametrize("name", EXPLORABLES)
browsing = pytest.mark.browser


# ---- what Python keeps

def test_no_program_asks_for_a_widget_manager():
    "marimo has none, and the interface of anywidget has another way"
    programs = [*JS.glob("*.js"), *JS.parent.glob("*.py")]
    assert programs and not [path.name for path in programs if "widget_manager" in path.read_text("utf-8")]


def test_a_state_is_kept_and_handed_out_as_a_copy():
    shown = Explorable("codebook", state=dict(f=torch.tensor([.5, 1.]), K=8))
    assert shown.state == dict(f=[.5, 1.], K=8)
    shown.state["K"] = 4
    shown.state["f"].append(2)
    assert shown.state == dict(f=[.5, 1.], K=8)
    shown.state = {}
    assert shown.state == {} == Explorable("codebook").state


MISFITS = dict(keys=({1: 8}, TypeError, "names of controls"), nan=(dict(K=float("nan")), ValueError, "all finite"),
               infinite=(dict(K=torch.tensor(float("inf"))), ValueError, "all finite"), object=(dict(K=object()), ValueError, "numbers, texts"))


@pytest.mark.parametrize("state, error, says", MISFITS.values(), ids=MISFITS)
def test_a_state_that_no_page_can_hold_is_refused(state, error, says):
    with pytest.raises(error, match=says): Explorable("codebook", state=state)
    shown = Explorable("codebook", state=dict(K=8))
    with pytest.raises(error, match=says): shown.state = state
    assert shown.state == dict(K=8)


@pytest.fixture
def displayed(monkeypatch):
    "As in a notebook that runs: what is displayed, as (data, display_id, update)"
    import IPython.display
    seen = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw, display_id=None, update=False: seen.append((data, display_id, update)))
    monkeypatch.setattr(component, "has_kernel", lambda: True)
    return seen


def test_a_notebook_keeps_the_state_beside_the_frame(displayed):
    shown = Explorable("codebook")
    shown._ipython_display_()
    (kept, of, update), (frame, *_) = displayed
    assert not update and f'data-of="{of}"' in kept["text/html"] and f'data-of="{of}"' in frame["text/html"]
    assert "application/vnd.jupyter.widget-view+json" not in kept | frame, "a widget in an output is an error message the next day"
    first = shown._messenger
    first.set_state(dict(state=dict(K=8)))  # as a page sends it
    assert shown.state == dict(K=8) and displayed[-1][1:] == (of, True) and "{&quot;K&quot;: 8}" in displayed[-1][0]["text/html"]
    shown.state = dict(K=4)  # as somebody sets it
    assert "{&quot;K&quot;: 4}" in displayed[-1][0]["text/html"] and len(displayed) == 4
    assert first.comm is None and shown._messenger.state == dict(K=4) and shown._messenger.of == of


def test_without_a_kernel_or_its_widgets_there_is_only_the_frame(displayed, monkeypatch):
    for name, value in (("has_kernel", lambda: False), ("messenger", lambda: None)):
        with monkeypatch.context() as m:
            m.setattr(component, name, value)
            Explorable("codebook")._ipython_display_()
    assert [of for _, of, _ in displayed] == [None, None] and not any("data-of" in data["text/html"] for data, *_ in displayed)


def test_who_drops_frames_shows_the_sentence_inside():
    assert re.search(r"moved by hand where JavaScript runs[^<]*</iframe>$", Explorable("codebook")._repr_mimebundle_()["text/html"])


def frames_of(path: Path) -> list[str]:
    "What a notebook stores of its explorables, each whole"
    outputs = [o for c in json.loads(path.read_text("utf-8"))["cells"] for o in c.get("outputs", [])]
    return [h for o in outputs if 'class="sscq-explorable"' in (h := "".join(o.get("data", {}).get("text/html", "")))]


EXPLORED = [path for path in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts and frames_of(path)]


@pytest.mark.parametrize("path", EXPLORED, ids=lambda path: path.stem)
def test_explorables_of_a_notebook_weigh_little_and_carry_the_network_once(path):
    frames = frames_of(path)
    assert sum(len(frame.encode()) for frame in frames) <= 300_000
    assert [re.search('data-name="(.*?)"', frame)[1] for frame in frames].count("draw") <= 1


# ---- models that a page cannot run

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(1, 1, 3, padding=1)
    def forward(self, x): return self.inner(x) + x


def networks() -> dict:
    groups = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2))
    return dict(residual=Residual(), stride=nn.Conv2d(1, 4, 3, stride=2, padding=1), small=nn.Conv2d(1, 4, 1), wide=nn.Conv2d(1, 4, 5, padding=2),
                groups=groups, pool=nn.MaxPool2d(4), mean=nn.AdaptiveAvgPool2d(1))


@pytest.mark.parametrize("name", networks())
def test_a_network_of_known_layers_in_another_order_or_shape_is_refused(name):
    model = SSCQ(16, backbone="tiny_cnn", channels=1, image_size=8)
    model.backbone = nn.Sequential(networks()[name], nn.Flatten())
    model.head = projection_head(model.backbone(torch.zeros(1, 1, 8, 8)).shape[1], 64)
    with pytest.raises(ValueError, match="a page cannot compute this network"): page_layers(model)


def test_a_wrapped_network_is_refused_by_the_layer_that_a_page_lacks():
    with pytest.raises(ValueError, match="a page cannot compute a BatchNorm1d"):
        page_layers(SSCQ(16, backbone=nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten()), channels=1, image_size=8))


def test_the_network_of_the_pages_is_not_refused(): assert page_layers(page_model()) and page_layers(SSCQ(16, backbone="tiny_cnn", channels=1, image_size=8))


@pytest.mark.parametrize("name", ["search", "draw"])
def test_codes_that_the_page_does_not_explain_are_refused(name):
    with pytest.raises(ValueError, match="bits=16"): Explorable(name, SSCQ(32, backbone="tiny_cnn", channels=1, image_size=8))


# ---- in a browser

@pytest.fixture
def tab(browser):
    context = browser.new_context(viewport=dict(width=1000, height=900), offline=True)
    yield context.new_page()
    context.close()


WITHOUT = """const had = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) { return KIND.test(kind) ? null : had.call(this, kind, ...rest); };"""
SAID = "() => document.getElementById('explorable').shadowRoot?.querySelector('.said')?.textContent"


@browsing
@explorables
def test_without_webgl_all_is_as_ever_and_without_a_canvas_a_sentence(tab, name, tmp_path):
    path = Explorable(name).save(tmp_path / "a.html").as_uri()
    for kind, words in (("/gl/", ""), ("/./", "does not draw on a canvas")):
        tab.add_init_script(WITHOUT.replace("KIND", kind))
        tab.goto(path)
        tab.wait_for_function(SAID)
        assert (words or "canvas") in tab.evaluate(SAID) if words else "canvas" not in tab.evaluate(SAID)
        assert tab.locator("[role=alert]").count() == bool(words)


@browsing
def test_a_program_that_cannot_be_unpacked_is_a_sentence(tab):
    tab.add_init_script("delete window.DecompressionStream;")
    tab.goto("about:blank")
    tab.set_content(Explorable("codebook")._repr_mimebundle_()["text/html"])
    tab.frame_locator("iframe").get_by_text("its program does not run here").wait_for()


@browsing
def test_a_file_begins_in_the_state_it_was_saved_in(tab, tmp_path):
    tab.goto(Explorable("codebook", state=dict(K=8, M=2)).save(tmp_path / "a.html").as_uri())
    tab.get_by_text("with 6 bits").wait_for()
    tab.get_by_role("button", name="Reset").click()
    tab.get_by_text("with 6 bits").wait_for(state="detached")


@browsing
@pytest.mark.parametrize("state, says", [(dict(tau=99), "goes from"), (dict(dance=1), '"dance", which this page'),
                                         (dict(K=3), "has no such choice"), (dict(f="<script>"), "does not fit")], ids=["outside", "unknown", "choice", "text"])
def test_a_state_that_does_not_fit_is_a_sentence_and_a_picture(tab, state, says, tmp_path):
    tab.goto(Explorable("codebook", state=state).save(tmp_path / "a.html").as_uri())
    tab.wait_for_function(SAID)
    assert "Not all of this state fits: " in tab.evaluate(SAID) and says in tab.evaluate(SAID) and "cannot be drawn" not in tab.evaluate(SAID)
    assert tab.locator("svg").first.is_visible()


# A notebook's page with two frames of one explorable, what it keeps, and a model such as a widget manager has
NOTEBOOK = """async ([esm, of, state]) => {
  const listening = {}, model = { state: { of, state }, saved: 0, get(name) { return this.state[name]; }, on(name, f) { listening[name] = f; },
    set(name, value) { this.state[name] = value; listening[`change:${name}`]?.(); }, save_changes() { this.saved++; } };
  const widget = await import(URL.createObjectURL(new Blob([esm], { type: 'text/javascript' })));
  Object.assign(window, { model, stop: widget.default.initialize({ model }) });
}"""


@browsing
def test_frames_and_kernel_share_one_state(tab, displayed):
    shown = Explorable("codebook", state=dict(K=8))
    shown._ipython_display_()
    kept, frame = (data["text/html"] for data, *_ in displayed)
    tab.goto("about:blank")
    tab.set_content(kept + frame + frame)
    frames = [tab.frame_locator("iframe").nth(i) for i in (0, 1)]
    def shows(bits):
        for one in frames: one.get_by_text(f"with {bits} bits").wait_for()
    shows(3)  # what the notebook keeps, before there is a widget
    tab.evaluate(NOTEBOOK, [(JS / "kernel.js").read_text("utf-8"), shown._of, dict(K=2)])
    shows(1)  # what the kernel knows
    frames[0].locator("select").first.press("End")
    tab.wait_for_function("() => model.saved")
    bits = {2: 1, 4: 2, 8: 3, 16: 4}[tab.evaluate("model.state.state.K")]
    assert bits > 1
    shows(bits)  # the other frame follows
    tab.evaluate("() => model.set('state', {K: 99})")
    frames[1].get_by_text("has no such choice").wait_for()
    tab.wait_for_function("() => model.state.state.K === undefined")  # and the kernel is told what is shown
    tab.evaluate("() => document.querySelector('iframe').after(document.querySelector('iframe'))")
    tab.evaluate("() => stop()")


@browsing
def test_a_frame_that_is_moved_keeps_its_state(tab):
    "As when a cell is dragged to another place, or scrolled out of sight: the browser loads its page anew"
    tab.goto("about:blank")
    tab.set_content(Explorable("codebook")._repr_mimebundle_()["text/html"] + "<p>below</p>")
    frame = tab.frame_locator("iframe")
    frame.get_by_role("button", name="One step of k-means").click()
    frame.get_by_text("moved to the middle").wait_for()
    state = tab.locator("iframe").get_attribute("data-state")
    tab.evaluate("() => document.querySelector('p').after(document.querySelector('iframe'))")
    frame.get_by_role("button", name="One step of k-means").wait_for()
    assert json.loads(tab.locator("iframe").get_attribute("data-state")) == json.loads(state)
    frame.get_by_role("button", name="Reset").click()
    tab.wait_for_function("() => document.querySelector('iframe').dataset.state === '{}'")


# LiveFigure in a front end that is not there: one model for the figure, one for plotly's script, of which a few words suffice
FIGURE = """async ([esm, packed, failures]) => {
  const real = Response.prototype.text;
  Response.prototype.text = async function () { if (failures-- > 0) throw new Error('no memory'); return real.call(this); };
  const description = { get: () => '{"data": [], "layout": {"title": "a figure"}}', on(_, f) { window.redraw = f; }, off() {} };
  const parts = { description, script: { get: () => Uint8Array.from(packed) } };
  const { default: widget } = await import(URL.createObjectURL(new Blob([esm], { type: 'text/javascript' })));
  const el = document.body.appendChild(document.createElement('div'));
  el.on = (what, f) => { el.clicks = (el.clicks ?? 0) + 1; };
  await widget.render({ model: { get: (name) => name }, el, host: HOST });
}"""
PLOTLY = "const Plotly = { react(el, data, layout) { el.textContent = layout.title; }, purge() {} };"


@browsing
def test_a_load_that_failed_is_tried_again(tab):
    tab.goto("about:blank")
    asked = [LiveFigure._esm, list(gzip.compress(PLOTLY.encode())), 2]
    for _ in range(2): tab.evaluate(FIGURE.replace("HOST", "{ getModel: async (name) => parts[name] }"), asked[:2] + [1])
    assert all("no memory" in text and "try again" in text for text in tab.locator("div").all_text_contents())
    tab.evaluate("() => redraw()")
    tab.get_by_text("a figure", exact=True).wait_for()
    assert tab.evaluate("() => document.querySelectorAll('div')[1].clicks") == 1


@browsing
def test_a_front_end_without_a_host_gets_a_sentence(tab):
    tab.goto("about:blank")
    tab.evaluate(FIGURE.replace("HOST", "undefined"), [LiveFigure._esm, [], 0])
    assert "anywidget 0.11" in tab.locator("div").text_content()


@browsing
@pytest.mark.parametrize("template", ["basic", "classic", "lab"])
def test_a_page_that_nbconvert_makes_moves_and_is_where_it_was_left(tab, displayed, template, tmp_path):
    "nbviewer shows the first of them; no kernel, no widget and no network is there"
    import nbformat
    from nbconvert import HTMLExporter
    shown = Explorable("codebook")
    shown._ipython_display_()
    shown.state = dict(K=16, M=2)
    (_, (frame, *_), (kept, *_)) = displayed
    outputs = [nbformat.v4.new_output("display_data", data) for data in (kept, frame)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("shown", outputs=outputs)])
    path = tmp_path / "a.html"
    path.write_text(HTMLExporter(template_name=template).from_notebook_node(notebook)[0], "utf-8")
    tab.goto(path.as_uri(), wait_until="domcontentloaded")
    inside = tab.frame_locator("iframe.sscq-explorable")
    inside.get_by_text("with 8 bits").wait_for()
    inside.locator("select").first.press("Home")
    inside.get_by_text("with 2 bits").wait_for()
