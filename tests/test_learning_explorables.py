"The pages about losses: what they compute is what the library computes, and they move under mouse and keyboard."
import json
import math
import re
import subprocess
from itertools import product
from pathlib import Path

import pytest
import torch

from sscq.codebook import soft_quantize
from sscq.component import Explorable
from sscq.contrastive import cosines, fused_consistency, info_nce, symmetric_kl
from sscq.learning_explorables import alive_words, collapse_data
from sscq.neighbors import part_neighbor
from test_agreement import node

HERE = Path(__file__).parent
TAU = .3
FUSIONS = {"f": "embedding", "z": "quantized", "sum": "sum", "cross": "cross"}
HOWS = [dict(loss=loss, of=of, tau=TAU) for loss, of in product(("contrast", "kl", "open"), ("f", "z", "sum"))]
SETTINGS = [(2, 6, .5), (2, 1, .1), (1, 6, .5), (1, 22, 1.5), (4, 3, .3)]  # M, n, τ_pn


def numbers(x) -> torch.Tensor: return torch.tensor(x, dtype=torch.float64)


@pytest.fixture(scope="module")
def asked():
    g = torch.Generator().manual_seed(0)
    f, z, rows = (torch.randn(*shape, generator=g, dtype=torch.float64).tolist() for shape in ((10, 6), (10, 6), (24, 8)))
    angles = (360 * torch.rand(8, generator=g, dtype=torch.float64)).tolist()
    return dict(f=f, z=z, rows=rows, angles=angles, tau=TAU, fusions=list(FUSIONS), hows=HOWS, settings=SETTINGS,
                heaps=[[0, 5, 10], [0, 180], [350, 5, 100, 110, 240], [0, 30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 330], [359, 1]])


@pytest.fixture(scope="module")
def in_node(asked, tmp_path_factory):
    path = tmp_path_factory.mktemp("learning") / "asked.json"
    path.write_text(json.dumps(asked))
    made = subprocess.run([node(), str(HERE / "learning_agreement.mjs"), str(path)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


def unmasked(u, tau):
    a, b = (cosines(u) / tau).log_softmax(1).chunk(2)
    return symmetric_kl(a, b).mean()


def test_consistency_of_every_fusion_is_the_same(asked, in_node):
    f, z = numbers(asked["f"]), numbers(asked["z"])
    wanted = torch.stack([fused_consistency(f, z, fusion, TAU) for fusion in FUSIONS.values()])
    torch.testing.assert_close(numbers(in_node["fused"]), wanted, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(numbers(in_node["open"]), unmasked(f + z, TAU), atol=1e-9, rtol=1e-9)


def test_arrows_are_the_gradients_of_the_losses(asked, in_node):
    words = torch.deg2rad(torch.arange(20., 360, 90, dtype=torch.float64))
    words = torch.stack([words.cos(), words.sin()], 1)[None]
    for how, found in zip(HOWS, in_node["slopes"], strict=True):
        angles = numbers(asked["angles"]).deg2rad().requires_grad_()
        f = torch.stack([angles.cos(), angles.sin()], 1)
        z = soft_quantize(f, words, .2)
        torch.testing.assert_close(numbers(in_node["quantized"]), z.detach(), atol=1e-9, rtol=1e-9)
        u = dict(f=f, z=z, sum=f + z)[how["of"]]
        loss = info_nce(u, TAU) if how["loss"] == "contrast" else fused_consistency(f, z, FUSIONS[how["of"]], TAU) if how["loss"] == "kl" else unmasked(u, TAU)
        loss.backward()
        assert found["loss"] == pytest.approx(loss.item(), abs=1e-9), how
        torch.testing.assert_close(numbers(found["slopes"]), angles.grad, atol=1e-5, rtol=1e-5, msg=str(how))


def test_steps_of_part_neighbours_go_down_the_gradient_of_the_library(asked, in_node):
    for (M, n, tau), found in zip(SETTINGS, in_node["pulls"], strict=True):
        rows = numbers(asked["rows"]).requires_grad_()
        loss = part_neighbor(rows, M, n, tau)
        loss.backward()
        assert found["loss"] == pytest.approx(loss.item(), abs=1e-9)
        torch.testing.assert_close(numbers(found["gradient"]), rows.grad, atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(numbers(found["next"]), (rows - 4 * rows.grad).detach(), atol=1e-8, rtol=1e-7)


def test_heaps_are_counted_round_the_circle(in_node): assert in_node["heaps"] == [1, 2, 3, 12, 1]


def test_recorded_trainings_are_complete_and_say_what_they_are():
    data, runs = collapse_data(), collapse_data()["runs"]
    assert len(runs) >= 60 and len({r["seed"] for r in runs}) == 3 and data["about"]["epochs"] == 8
    settings = {(r["contrast"], r["tau"], r["weight"], r["seed"]) for r in runs}
    assert len(settings) == len(runs), "no run twice"
    for seed, weight, contrast, tau in product((0, 1, 2), {r["weight"] for r in runs}, (0, 1), (1, .1)):
        assert weight == 0 and (contrast, 1, 0, seed) in settings or (contrast, tau, weight, seed) in settings
    alive = alive_words(data)
    assert alive.shape == (len(runs), 9, 4) and alive.min() >= 1 and alive.max() <= 16
    assert len(json.dumps(data)) < 200_000


# --- in a browser

@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("pages"), []
    def open_page(name, hash="", width=1280, **kw):
        path = folder / f"{name}.html"
        if not path.exists(): Explorable(name).save(path)
        tab = browser.new_context(viewport=dict(width=width, height=900), offline=True, reduced_motion="reduce", **kw).new_page()
        tab.problems = []
        tab.on("pageerror", lambda error: tab.problems.append(str(error)))
        tab.on("console", lambda message: tab.problems.append(message.text) if message.type in ("error", "warning") else None)
        tab.goto(path.as_uri() + hash)
        tab.wait_for_selector(".said")
        made.append(tab)
        return tab
    yield open_page
    for tab in made: tab.context.close()


def said(tab) -> str: return tab.locator(".said").inner_text()


def settled(tab, change):
    "What the sentence says after a change"
    drawn = tab.evaluate("document.querySelector('#explorable').dataset.drawn")
    change()
    tab.wait_for_function("before => document.querySelector('#explorable').dataset.drawn !== before", arg=drawn)
    return said(tab)


def dragged(tab, point, dx, dy):
    box = point.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + dx, y + dy, steps=3)
    tab.mouse.up()


NAMES = """() => {
  const root = document.querySelector("#explorable").shadowRoot, wrong = [];
  for (const e of root.querySelectorAll("input, select")) if (!e.labels.length || !e.labels[0].textContent.trim()) wrong.push(`${e.id} has no label`);
  for (const e of root.querySelectorAll("input[type=range]")) {
    const shown = root.querySelector(`output[for="${e.id}"]`).textContent, spoken = e.getAttribute("aria-valuetext");
    if (!shown || shown !== spoken) wrong.push(`${e.id} shows ${shown} and says ${spoken}`);
  }
  for (const e of root.querySelectorAll("[tabindex], [role=img], [role=group]")) if (!e.getAttribute("aria-label")) wrong.push(`${e.tagName} has no name`);
  for (const e of root.querySelectorAll(".drag")) if (getComputedStyle(e).touchAction !== "none") wrong.push("a touch would scroll");
  if (document.documentElement.scrollWidth > innerWidth) wrong.push("wider than the window");
  return wrong;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("width", (390, 800))
@pytest.mark.parametrize("name", ("contrast", "neighbors", "collapse"))
def test_every_control_has_a_name_and_fits(opened, name, width):
    tab = opened(name, width=width, color_scheme="dark")
    assert tab.evaluate(NAMES) == []
    tries = tab.get_by_role("group", name="Try this").get_by_role("button").all()
    assert len(tries) == 4 and tries[3].inner_text() == "Reset"
    first = said(tab)
    sentences = [settled(tab, button.click) for button in tries]
    assert sentences[3] == first and len({first, *sentences}) == 4 if name != "collapse" else sentences[3] == first
    assert tab.evaluate(NAMES) == [] and tab.problems == []


@pytest.mark.browser
def test_a_point_is_turned_by_mouse_and_keys_and_a_link_keeps_it(opened):
    tab = opened("contrast")
    point, first = tab.get_by_role("slider", name="Image 1, view b"), said(tab)
    assert point.get_attribute("aria-valuenow") == "40" and "1b has 63 %" in first
    settled(tab, lambda: dragged(tab, point, -40, 180))
    turned = int(point.get_attribute("aria-valuenow"))
    assert 180 < turned < 360 and said(tab) != first
    point.focus()
    settled(tab, lambda: tab.keyboard.press("ArrowLeft"))
    assert int(point.get_attribute("aria-valuenow")) == turned + 3
    settled(tab, lambda: tab.get_by_label("Loss").select_option("consistency, own image hidden"))
    before = float(re.search(r"mean over four images, ([\d.]+)", said(tab))[1])
    after = settled(tab, tab.get_by_role("button", name="Run 60 steps").click)
    assert float(re.search(r"went from [\d.]+ to ([\d.]*\d)", after)[1]) < before / 2, "sixty steps down lead down"
    link = tab.get_by_role("link", name="Link to this state").get_attribute("href")
    again = opened("contrast", link)
    assert re.sub(r"^After .*?\d\. ", "", said(tab)) in said(again)
    assert "Not all of this link fits" in said(opened("contrast", "#contrast:tau=99&input=42"))
    assert tab.problems == again.problems == []


@pytest.mark.browser
def test_heaps_form_by_part_and_not_by_the_whole(opened):
    tab = opened("neighbors")
    formed = settled(tab, tab.get_by_role("button", name="Let heaps form").click)
    assert "After 100 steps: in part 1 everything lies in 3 heaps" in formed
    assert "has found the colour (100 %" in formed and "has found the form (100 %" in formed
    settled(tab, tab.get_by_role("button", name="Ask the whole vector").click)
    assert "the colour drowns" in settled(tab, tab.get_by_role("button", name="Run 100 steps").click)
    settled(tab, tab.get_by_role("button", name="Reset").click)
    point = tab.get_by_role("button", name="Part 1 of input 2a")
    place = point.get_attribute("transform")
    settled(tab, lambda: dragged(tab, point, 0, -50))
    moved = point.get_attribute("transform")
    assert math.dist(*([float(v) for v in re.findall(r"[\d.]+", text)] for text in (place, moved))) == pytest.approx(50, abs=4)
    assert tab.get_by_label("Input looked at").get_attribute("aria-valuetext") == "2a", "what is dragged is looked at"
    settled(tab, lambda: tab.keyboard.press("ArrowRight"))
    assert point.get_attribute("transform") != moved and tab.problems == []


@pytest.mark.browser
def test_the_smallest_weight_with_twelve_words_can_be_found(opened):
    tab = opened("collapse")
    slider, found = tab.get_by_label("Diversity weight"), []
    assert slider.get_attribute("aria-valuetext") == "0" and "Fewer than twelve" in said(tab)
    slider.focus()
    for _ in range(5):
        text = settled(tab, lambda: tab.keyboard.press("ArrowRight"))
        found.append((slider.get_attribute("aria-valuetext"), "this is the answer" in text))
    assert [w for w, _ in found] == ["0.1", "0.2", "1", "5", "20"]
    data = collapse_data()
    alive = alive_words(data)[:, -1].mean(1)
    def mean(w): return sum(alive[i] for i, r in enumerate(data["runs"]) if (r["contrast"], r["tau"], r["weight"]) == (1, .1, w)) / 3
    answer = next((w for w in (.1, .2, 1, 5, 20) if mean(w) >= 12), None)
    assert [float(w) for w, yes in found if yes] == [answer]
    settled(tab, lambda: tab.get_by_label("Epoch").press("Home"))
    assert "After 0 of 8 epochs" in said(tab) and tab.locator(".word:not(.dead)").count() == 1 and tab.problems == []
