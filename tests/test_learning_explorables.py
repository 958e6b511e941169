"The pages about losses: what they compute is what the library computes, and they move under mouse and keyboard."
import base64
import functools
import gzip
import json
import math
import re
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from sscq.codebook import soft_quantize
from sscq.component import Explorable
from sscq.contrastive import cosines, fused_consistency, info_nce, symmetric_kl
from sscq.data import digits
from sscq.learning_explorables import alive_words, as_recorded, collapse_data, training_data
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


def unpacked(data, part) -> np.ndarray: return np.frombuffer(gzip.decompress(base64.b64decode(data[part])), np.uint8)


@pytest.fixture(scope="module")
def recorded(): return training_data()


def test_trainings_to_compare_are_complete_and_say_what_they_are(recorded):
    about, runs, frames = recorded["about"], recorded["runs"], recorded["about"]["epochs"] + 1
    settings = {(r["losses"], r["bits"], r["tau"], r["seed"]) for r in runs}
    wanted = {(o, b, tau, seed) for o, b, tau, seed in product(about["objectives"], (8, 16, 64), (.1, .5, 2.), (0, 1)) if o != "none" or tau == .5}
    assert settings == wanted and len(settings) == len(runs) == 60, "every setting once"
    assert all(len(r["map"]) == len(r["exact"]) == frames and [len(t) for t in r["terms"]] == [frames - 1] * 6 for r in runs)
    assert all(0 < v < 1 for r in runs for v in (*r["map"], *r["exact"])) and all(0 < r["spread"] <= 1 for r in runs)
    assert sorted(about["labels"]) == sorted("0123456789" * 10) and {"data", "network", "device", "metric", "torch", "lr"} <= set(about)
    for r in runs:  # the objective is the sum of its terms
        for values in zip(*r["terms"]): assert values[0] == pytest.approx(sum(w * v for w, v in zip(about["objectives"][r["losses"]], values[1:])), abs=.002)
    places, used = np.stack(as_recorded(recorded, "places")), np.concatenate([u.reshape(-1, 16) for u in as_recorded(recorded, "usage")])
    file = json.loads((HERE.parent / "sscq/js/training.json").read_text())["runs"]
    for part in ("places", "usage"):
        assert [u.tobytes() for u in as_recorded(recorded, part)] == [base64.b64decode(r[part]) for r in file], "as it was recorded"
    assert np.abs(places.astype(float) - 127.5).reshape(len(runs), -1).max(1).tolist() == [127.5] * len(runs), "the farthest of a run is at the border"
    assert np.abs(places.mean(2) - 127.5).max() < .5, "the mean of an epoch is in the middle, within half a step"
    assert places.shape == (60, frames, 100, 2)
    books = used.sum(1)
    assert books.size == frames * sum(r["bits"] // 4 for r in runs) and (np.abs(books.astype(int) - 255) <= 8).all(), "shares are shares"
    assert len(json.dumps(recorded)) < 260_000 and (HERE.parent / "sscq/js/training.json").stat().st_size < 400_000


@pytest.fixture
def training_runs(monkeypatch):
    monkeypatch.syspath_prepend(HERE.parent / "benchmarks")
    import training_runs
    return training_runs


def test_the_first_epochs_of_a_recorded_training_come_again(recorded, training_runs):
    "Another processor rounds otherwise, which grows from step to step: hence two epochs, and some room"
    class Enough(Exception): pass
    def until(epoch):
        if epoch == 2: raise Enough
    seen = []
    look = training_runs.look
    training_runs.look = lambda *args: seen.append(look(*args)) or seen[-1]
    try:
        with pytest.raises(Enough): training_runs.run("all", 8, .5, 0, digits(), until)
    finally: training_runs.look = look
    at = next(i for i, r in enumerate(recorded["runs"]) if (r["losses"], r["bits"], r["tau"], r["seed"]) == ("all", 8, .5, 0))
    kept = recorded["runs"][at]
    assert [s["map"] for s in seen] == pytest.approx(kept["map"][:3], abs=.02)
    assert [s["exact"] for s in seen] == pytest.approx(kept["exact"][:3], abs=.02)
    assert seen[0]["map"] == pytest.approx(kept["map"][0], abs=.001), "before training there is nothing that grows"
    used = as_recorded(recorded, "usage")[at]
    for epoch, s in enumerate(seen): assert np.abs(used[epoch].astype(int) - s["usage"]).mean() < 3


def test_a_recording_goes_on_where_it_was_broken_off(training_runs, tmp_path, monkeypatch):
    file, trained = tmp_path / "runs.json", []
    def run(*setting):
        if len(trained) == 3: raise KeyboardInterrupt
        trained.append(setting[:4])
        return dict(zip(training_runs.KEYS, setting)) | dict(map=[.5], exact=[.5], seconds=0.)
    monkeypatch.setattr(training_runs, "run", run)
    monkeypatch.setattr("sys.argv", ["training_runs.py", "--json", str(file), "--bits", "8"])
    with pytest.raises(KeyboardInterrupt): training_runs.main()
    assert len(json.loads(file.read_text())["runs"]) == 3
    for _ in range(6):
        kept, trained[:] = trained[:], []
        try: training_runs.main()
        except KeyboardInterrupt: pass
        assert not set(kept) & set(trained), "a training that is in the file is repeated"
    assert len(json.loads(file.read_text())["runs"]) == 20


def test_a_plane_is_that_of_the_last_epoch(training_runs):
    g = torch.Generator().manual_seed(0)
    last = torch.randn(120, 8, generator=g, dtype=torch.float64) * torch.tensor([9., 5, *[.1] * 6], dtype=torch.float64)
    places, spread = training_runs.plane([last / 2 + 7, last])
    middle = places.astype(float) - 127.5
    assert spread == pytest.approx(1, abs=.01) and np.abs(middle[1]).max() == 127.5
    assert np.abs(middle[0] * 2 - middle[1]).max() <= 2, "half as far, and not shifted"
    def apart(x): return np.linalg.norm(x[:, None] - x, axis=2)[np.triu_indices(120, 1)]
    assert np.corrcoef(apart(middle[1]), apart(last[:, :2].numpy()))[0, 1] > .999, "who is near on the plane is near"
    assert middle[1][:, 0].std() > middle[1][:, 1].std(), "the largest spread comes first"


# --- in a browser

@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    @functools.cache
    def save(name): return Explorable(name).save(folder / f"{name}.html").as_uri()
    return save


def new_tab(browser):
    tab = browser.new_context(offline=True).new_page()
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.on("console", lambda message: tab.problems.append(message.text) if message.type in ("error", "warning") else None)
    return tab


@pytest.fixture(scope="module")
def window(browser):
    "The first tab of each test: a new one costs three times what a page in it does"
    tab = new_tab(browser)
    yield tab
    tab.context.close()


@pytest.fixture
def opened(browser, saved, window):
    tabs = []
    def open_page(name, hash="", width=1280, color_scheme="light", reduced_motion="reduce"):
        tabs.append(tab := new_tab(browser) if tabs else window)
        tab.goto("about:blank")  # so that a page is loaded whatever stands behind the #
        tab.problems = []
        tab.set_viewport_size(dict(width=width, height=900))
        tab.emulate_media(color_scheme=color_scheme, reduced_motion=reduced_motion)
        tab.mouse.move(0, 0)
        tab.goto(saved(name) + hash)
        tab.wait_for_selector(".said")
        return tab
    yield open_page
    for tab in tabs[1:]: tab.context.close()


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
@pytest.mark.parametrize("name", ("contrast", "neighbors", "collapse", "training"))
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
def test_what_a_codebook_hides_is_not_called_agreement(opened):
    tab = opened("contrast")
    values = {}
    for name, degrees in {"opening": (70, 150, 235, 330, 40, 175, 262, 300), "moved": (60, 128, 212, 350, 20, 118, 232, 338)}.items():
        f, words = (torch.deg2rad(numbers(a)) for a in (degrees, (20, 110, 200, 290)))
        f, words = (torch.stack([a.cos(), a.sin()], 1) for a in (f, words))
        z, alike = soft_quantize(f, words[None], .2), (f @ words.T).argmax(1).view(2, 4)
        values[name] = [fused_consistency(f, z, FUSIONS[of], .5).item() for of in "fz"], (alike[0] == alike[1]).sum().item()
    (raw, soft), alike = values["moved"]
    disagree = settled(tab, tab.get_by_role("button", name="Let two views disagree").click)
    assert disagree.startswith("The points were moved, and the loss is consistency now.") and f"mean over four images, {raw:.3g};" in disagree
    assert "Of f it would be" not in disagree and tab.get_by_label("Temperature").get_attribute("aria-valuetext") == "0.5", "the temperature is as before"
    text = settled(tab, tab.get_by_role("button", name="Look through the codebook").click)
    assert f"mean over four images, {soft:.3g};" in text and f"Of f it would be {raw:.3g}. The views of f agree no better" in text
    assert alike == 4 and "for all four images both views are nearest to the same word" in text and "forgotten" in text
    assert "On opening it is the other way: {:.3g} of f, {:.3g} of z.".format(*values["opening"][0]) in text
    tab.get_by_role("button", name="Reset").click()
    settled(tab, lambda: tab.get_by_label("Loss").select_option("consistency, own image hidden"))
    text = settled(tab, lambda: tab.get_by_label("of", exact=True).select_option("z, softly quantized"))
    assert values["opening"][1] == 1 and "only 0.328: for one image of four both views" in text and "widen the difference" in text
    assert "On opening" not in text and "The points were moved" not in text and tab.problems == []


ARROWS = """() => {
  const root = document.querySelector("#explorable").shadowRoot, middle = 170, turned = (x, y) => Math.atan2(middle - y, x - middle);
  const views = [...root.querySelectorAll("[role=slider]")].map((e) => turned(...e.getAttribute("transform").match(/[\\d.]+/g).map(Number)));
  const paths = [...root.querySelectorAll("svg path")].map((e) => e.getAttribute("d"));
  const arcs = paths.map((d) => d.match(/^M([\\d.]+) ([\\d.]+)A.* (\\d) ([\\d.]+) ([\\d.]+)$/)).filter(Boolean);
  const full = 2 * Math.PI, ahead = (a, b, way) => (((b - a) * way) % full + full) % full;
  return arcs.map((m) => {
    const [from, to, way] = [turned(+m[1], +m[2]), turned(+m[4], +m[5]), +m[3] ? -1 : 1];
    const gaps = views.map((v) => ahead(from, v, way)).filter((gap) => gap > .01 && gap < full - .01);
    return [ahead(from, to, way), Math.min(...gaps)];
  });
}"""


@pytest.mark.browser
@pytest.mark.parametrize("button", ("Tear a pair apart", "Let two views disagree", "Look through the codebook"))
def test_an_arrow_ends_before_the_next_view(opened, button):
    tab = opened("contrast")
    settled(tab, tab.get_by_role("button", name=button).click)
    arrows = tab.evaluate(ARROWS)
    assert arrows and all(far < gap for far, gap in arrows), arrows


def shared(tab) -> list[tuple]:
    "Colour in part 1 and form in part 2 of the six nearest, each now and on opening"
    cells = tab.locator("table.numbers tbody td").all_text_contents()
    return [(cells[0], cells[3]), (cells[7], cells[10])]


@pytest.mark.browser
def test_heaps_form_by_part_and_not_by_the_whole(opened):
    tab = opened("neighbors")
    assert "85 % share its colour" in said(tab) and "99 % share its form" in said(tab), "how it begins is said"
    formed = settled(tab, tab.get_by_role("button", name="Let heaps form").click)
    assert shared(tab) == [("100 %", "85 %"), ("100 %", "99 %")]
    assert "After 100 steps, of an input's 6 nearest, 100 % share its colour in part 1, where it was 85 % on opening" in formed
    assert "100 % share its form in part 2, where it was 99 % on opening" in formed and "nothing new" in formed
    assert "the two forms lie in 4 heaps" in formed and tab.locator("table.numbers tbody td").nth(2).inner_text() == "3"
    text = settled(tab, tab.get_by_role("button", name="Ask the whole vector").click)
    assert "After 100 steps" in text and "the colour drowns" in text and "49 % share its colour in part 1, where it was 85 %" in text
    assert "the colour drowns" in settled(tab, tab.get_by_role("button", name="Run 100 steps").click)
    text = settled(tab, tab.get_by_role("button", name="Too many neighbours").click)
    assert shared(tab) == [("72 %", "85 %"), ("100 %", "99 %")], "the same measure whatever n is"
    assert "at least 6 have another colour and 2 another form" in text and "the colours have mixed" in text
    assert "smaller with every further neighbour" in text
    for _ in range(10):  # so it is: the loss with more neighbours, and no point moved
        before = float(re.search(r"The loss is ([\d.]+);", said(tab))[1])
        assert float(re.search(r"The loss is ([\d.]+);", settled(tab, lambda: tab.get_by_label("Neighbours, n").press("ArrowRight")))[1]) < before
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
    tab, data = opened("collapse"), collapse_data()
    alive = alive_words(data)[:, -1]
    def books(w, what=lambda i: alive[i]):
        return [what(i) for i, r in enumerate(data["runs"]) if (r["contrast"], r["weight"]) == (1, w) and (r["tau"] == .1 or w == 0)]
    def score(i): return data["runs"][i]["map"]
    weights = (0, .1, .2, 1, 5, 20)
    enough = [w for w in weights if np.min(books(w)) >= 12]
    slider, found, first = tab.get_by_label("Diversity weight"), [], np.mean(books(0))
    slider.focus()
    for w in weights:
        text = settled(tab, lambda: tab.keyboard.press("ArrowRight")) if w else said(tab)
        assert slider.get_attribute("aria-valuetext") == str(w)
        found.append("this is the answer" in text)
        kept, (now, before) = (np.array(books(w)) >= 12).sum(), (np.array(books(x, score)) for x in (w, 0))
        assert f"the mean of 12 books is {np.mean(books(w)):.3g}, from {np.min(books(w))} to {np.max(books(w))}" in text
        assert ("Every book keeps twelve" if kept == 12 else f"Only {kept} of 12 books keep twelve" if kept else "No book keeps twelve") in text
        assert ("fewer than at a smaller weight" in text) == (w > enough[0] and kept < 12), w
        assert (f"below the {first:.3g} without diversity" in text) == (np.mean(books(w)) < first), w
        assert f"scores mAP {now.mean():.2f}" in text and (f"without diversity {before.mean():.2f}" in text) == (w > 0)
        assert ("worse in each of 3 runs" in text) == (now < before).all(), w
        assert ("better in some runs and worse in others" in text) == ((now < before).any() and (now > before).any()), w
    assert [w for w, yes in zip(weights, found) if yes] == enough[:1] == [1]
    text = settled(tab, tab.get_by_role("button", name="The paper's setting").click)
    assert "with \u03c4 = 1 the values of the method's paper, which trained on photographs" in text and tab.get_by_label("temperature").input_value() == "1"
    settled(tab, tab.get_by_role("button", name="Reset").click)
    settled(tab, lambda: tab.get_by_label("Epoch").press("Home"))
    assert "After 0 of 8 epochs" in said(tab) and tab.locator(".word:not(.dead)").count() == 1 and tab.problems == []


# --- two recorded trainings side by side

def cell(tab, side): return tab.get_by_role("group", name=f"Run {side}")


def rows(tab) -> dict:
    "The table: name -> what stands under A and under B"
    names, values = tab.locator("table.sides tbody th").all_text_contents(), tab.locator("table.sides td").all_text_contents()
    return {name: (values[2 * i], values[2 * i + 1]) for i, name in enumerate(names)}


def recorded_run(data, losses, bits, tau, seed) -> tuple:
    at = next(i for i, r in enumerate(data["runs"]) if (r["losses"], r["bits"], r["tau"], r["seed"]) == (losses, bits, tau, seed))
    return data["runs"][at], as_recorded(data, "places")[at].astype(float), as_recorded(data, "usage")[at]


LINKS = {"first": ("", ("all", 16, .5, 0), ("none", 16, .5, 0)), "lengths": ("bits_a=64&losses_b=%22all%22&bits_b=8", ("all", 64, .5, 0), ("all", 8, .5, 0)),
         "seeds": ("losses_a=%22f%22&tau_a=2&start_a=1&losses_b=%22contrast%22&tau_b=0.1", ("f", 16, 2., 1), ("contrast", 16, .1, 0))}


@pytest.mark.browser
@pytest.mark.parametrize("name", LINKS)
def test_what_is_shown_is_what_was_recorded(opened, recorded, name):
    link, *sides = LINKS[name]
    tab, kept = opened("training", f"#training:{link}"), [recorded_run(recorded, *side) for side in sides]
    epoch = tab.get_by_role("slider", name="Epoch")
    for e in range(12, -1, -1):
        shown = rows(tab)
        assert shown["mAP by the codes"] == tuple(f"{run['map'][e]:.3f}" for run, _, _ in kept)
        assert shown["mAP by f itself"] == tuple(f"{run['exact'][e]:.3f}" for run, _, _ in kept)
        assert shown["words alive"] == tuple(f"{(used[e] >= 3).sum()} of {used[e].size}" for _, _, used in kept)
        assert shown["bits of a code"] == tuple(str(run["bits"]) for run, _, _ in kept)
        assert shown["bytes of the index: 1,497 codes"] == tuple(f"{1497 * run['bits'] // 8:,}" for run, _, _ in kept)
        if e: assert [float(v.replace("\u2212", "-")) for v in shown["instance contrast of z"]] == [run["terms"][2][e - 1] for run, _, _ in kept]
        assert all(f"{run['map'][e]:.2f}" in said(tab) for run, _, _ in kept)
        if e in (0, 12):
            for side, (_, places, _) in zip("AB", kept):
                at = [[float(v) for v in re.findall(r"[\d.]+(?=px)", dot.get_attribute("style"))] for dot in cell(tab, side).locator("text.dot").all()]
                np.testing.assert_allclose((np.array(at) - [12, 208]) * [255 / 196, -255 / 196], places[e], atol=.1)
                d = np.square(places[e][:, None] - places[e]).sum(2) + 1e9 * np.eye(100)
                labels = np.array(list(recorded["about"]["labels"]))
                name = cell(tab, side).get_by_role("img").first.get_attribute("aria-label")
                assert f"the same digit for {(labels[d.argmin(1)] == labels).sum()} of them" in name
        if e: settled(tab, lambda: epoch.press("ArrowLeft"))
    assert "Before training" in said(tab) and tab.problems == []


PLAYED = """() => new Promise(done => {
  const slider = document.querySelector('#explorable').shadowRoot.querySelector('input[type=range]'), seen = [];
  const watch = setInterval(() => {
    if (seen.at(-1) !== slider.value) seen.push(slider.value);
    if (slider.value !== '3') return;
    clearInterval(watch);
    slider.value = '1';
    slider.dispatchEvent(new Event('input'));
    setTimeout(() => done([seen.slice(-4), slider.value]), 1000);
  }, 10);
})"""


@pytest.mark.browser
def test_trainings_play_and_what_is_pressed_meanwhile_ends_it(opened):
    tab = opened("training", reduced_motion="no-preference")
    tab.get_by_role("button", name="Play the trainings").press("Enter")
    seen, stays = tab.evaluate(PLAYED)
    assert seen[-3:] == ["1", "2", "3"] and stays == "1" and "After 1 of 12 epochs" in said(tab)
    tab.get_by_role("button", name="Play the trainings").press("Enter")
    tab.locator(".said", has_text="After all 12 epochs").wait_for()
    still = opened("training")  # who wants no motion gets the end of it
    settled(still, lambda: still.get_by_role("slider", name="Epoch").press("Home"))
    assert "After all 12 epochs" in settled(still, still.get_by_role("button", name="Play the trainings").click)
    assert tab.problems == still.problems == []


@pytest.mark.browser
def test_two_trainings_are_compared_by_keyboard_alone(opened):
    tab = opened("training")
    assert "They differ in the losses alone" in said(tab)
    taus = [cell(tab, side).get_by_label("Temperature").is_visible() for side in "AB"]
    assert taus == [True, False], "what has no effect is not offered"
    losses = cell(tab, "B").get_by_label("Losses")
    losses.focus()
    for _ in range(3): text = settled(tab, lambda: tab.keyboard.press("ArrowUp"))
    assert losses.input_value() == "all five" and "Both are the same run" in text
    cell(tab, "B").get_by_label("Start").focus()
    text = settled(tab, lambda: tab.keyboard.press("ArrowDown"))
    assert "They differ in their random start alone" in text
    cell(tab, "B").get_by_label("Bits").focus()
    assert "They differ in their bits and the start" in settled(tab, lambda: tab.keyboard.press("ArrowDown"))
    link = tab.get_by_role("link", name="Link to this state").get_attribute("href")
    again = opened("training", link)
    assert said(again) == said(tab) and cell(again, "B").get_by_label("Bits").input_value() == "64" and tab.problems == again.problems == []


@pytest.mark.browser
def test_what_cannot_be_compared_or_told_is_not(opened, recorded):
    tab = opened("training")
    def curves(): return tab.locator(".curves > div").nth(1)
    captions = [cell(tab, side).locator(".caption").inner_text() for side in "AB"]
    for text, losses in zip(captions, ("all", "none")):
        spread = recorded_run(recorded, losses, 16, .5, 0)[0]["spread"]
        assert f"{spread * 100:.0f}\u00a0% of its spread" in text and ("a sign of collapse" in text) == (spread > .9)
    assert ["collapse" in text for text in captions] == [False, True] and curves().locator("svg text.soft").count() == 5  # two ticks of the loss
    text = settled(tab, tab.get_by_role("button", name="64 bits against 8").click)
    ends = [[r["map"][-1] for r in recorded["runs"] if (r["losses"], r["bits"], r["tau"]) == ("all", bits, .5)] for bits in (64, 8)]
    assert abs(ends[0][0] - ends[1][0]) <= 2 * max(abs(a - b) for a, b in ends) and "two starts cannot tell whether it is more than chance" in text
    text = settled(tab, tab.get_by_role("button", name="A warmer contrast").click)
    assert "contrast at another \u03c4 is another loss" in text and "scales of their own, since \u03c4 differs" in curves().inner_text()
    assert curves().locator("svg text.soft").count() == 3, "no axis for two losses"
    settled(tab, lambda: tab.get_by_label("Loss drawn").select_option("consistency"))
    assert "another loss" not in said(tab) and curves().locator("svg text.soft").count() == 5
    settled(tab, tab.get_by_role("button", name="Reset").click)
    settled(tab, lambda: tab.get_by_label("Loss drawn").select_option("weighted sum of the losses"))
    assert "of other losses" in curves().inner_text() and tab.problems == []


@pytest.mark.browser
@pytest.mark.parametrize("state", ["bits_b=12", "losses_a=%22spq%22", "start_b=7", "tau_a=%22warm%22", "epoch=99", "seed_a=0"])
def test_a_link_to_a_training_that_is_not_there_is_a_sentence(opened, state):
    tab = opened("training", f"#training:{state}")
    assert "Not all of this link fits" in said(tab) and "scores mAP" in said(tab)
    assert tab.evaluate(NAMES) == [] and tab.problems == []


def without(data, gone) -> dict:
    "The data of a recording that was broken off"
    frames, places = data["about"]["epochs"] + 1, unpacked(data, "places").reshape(len(data["runs"]), -1)
    ends = np.cumsum([frames * r["bits"] // 4 * 16 for r in data["runs"]])[:-1]
    used = np.split(unpacked(data, "usage"), ends)
    stay = [i for i, r in enumerate(data["runs"]) if not gone(r)]
    def packed(parts): return base64.b64encode(gzip.compress(np.concatenate(parts).tobytes())).decode()
    return dict(about=data["about"], runs=[data["runs"][i] for i in stay], places=packed([places[i] for i in stay]), usage=packed([used[i] for i in stay]))


@pytest.mark.browser
def test_a_training_that_was_not_recorded_is_a_sentence_and_no_wrong_picture(browser, recorded, tmp_path):
    page = Explorable("training")
    page.data = without(recorded, lambda r: r["losses"] == "none" and r["seed"] == 0)
    tab, problems = browser.new_page(), []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(page.save(tmp_path / "training.html").as_uri())
    tab.locator(".said", has_text="Training B was not recorded with these settings").wait_for()
    assert not cell(tab, "B").locator("svg").first.is_visible() and cell(tab, "A").locator("svg").first.is_visible()
    assert "This training was not recorded" in cell(tab, "B").inner_text() and [b for _, b in rows(tab).values()] == ["\u2013"] * 6
    settled(tab, lambda: cell(tab, "B").get_by_label("Start").select_option("2"))
    assert "scores mAP" in said(tab) and cell(tab, "B").locator("svg").first.is_visible() and problems == []
    page.data["usage"] = recorded["usage"]  # of other runs
    tab.goto(page.save(tmp_path / "other.html").as_uri())
    tab.locator(".said", has_text="its numbers are not those of its trainings").wait_for()
    tab.close()
