"Figures say what they were given; the page opens from a disk with nothing but itself."
import base64
import functools
import gzip
import io
import json
import re
import time
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from PIL import Image
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from sscq.figures import (
    DASHES, LINES, PALETTE, STAGES, TERMS, WHOLE, bars, curves, image_grid, image_rows, matrix, notebook_pictures, number, pipeline,
    slideshow)
from sscq.codebook_figures import _cell, _window, cells, soft_cells, usage_bars
from sscq.page import packed_plotly, page, save_page
from sscq.figures import distance_heatmap as distance_table

rng = np.random.default_rng(0)
images = rng.random((5, 1, 8, 8))
points, words = rng.normal(size=(30, 2)), rng.normal(size=(8, 2))


FIGURES = ("pipeline", "curves", "bars", "image_grid", "cells", "image_rows", "soft_cells", "usage_bars", "matrix", "distance_table", "slideshow")


@functools.cache
def all_figures():
    return dict(pipeline=pipeline("codebook"), curves=curves({"a": [3, 2, 1], "b": ([1, 2], [5, 6])}), bars=bars({"a": 1, "b": (2, .5)}),
                image_grid=image_grid(images, titles="abcde", marks=[None, True, False, True, False]), cells=cells(points, words),
                image_rows=image_rows({"image": images, "view": images}), soft_cells=soft_cells(points, words, [.1, 1]),
                usage_bars=usage_bars(rng.multinomial(100, [.25] * 4, size=3)), matrix=matrix(rng.random((3, 4)), marks=[(0, 1)]),
                distance_table=distance_table(rng.random((2, 4)), [1, 3]), slideshow=slides()["cells"])


@functools.cache
def slides():
    counts = {M: rng.multinomial(100, [.25] * 4, size=M) for M in (2, 5)}
    return dict(cells=slideshow({K: cells(points, words[:K], title=f"{K} words") for K in (2, 8, 4)}, "codewords"),
                usage=slideshow({M: usage_bars(n) for M, n in counts.items()}, "books"),
                grid=slideshow({n: image_grid(images[:n], marks=[True] * n, title=f"{n} shown") for n in (1, 5, 3)}, "images"),
                mixed=slideshow({"curves": curves({"a": [3, 2]}, log_y=True), "bars": bars({"a": 1, "b": 2}), "soft": soft_cells(points, words, [1.])}))


def text_of(fig): return [a.text for a in fig.layout.annotations]


def pixels(uri): return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


# --- what every figure keeps to ---

def test_figures_have_names(): assert tuple(all_figures()) == FIGURES


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_readable_on_any_theme_and_screen(name):
    fig = all_figures()[name]
    layout = fig.to_dict()["layout"]
    template = layout["template"]["layout"]
    assert template["paper_bgcolor"] == template["plot_bgcolor"] == "white" and template["font"]["color"] == "#222"
    assert "paper_bgcolor" not in layout and "plot_bgcolor" not in layout  # nobody overrides it
    assert layout["width"] <= 910 and layout["height"] <= 1200  # said here: plotly.js ignores the sizes of a template
    assert len(json.dumps(fig.to_dict(), cls=PlotlyJSONEncoder)) < 200_000
    assert "http" not in fig.to_json(), "a figure must not point to the network"


def test_figures_import_nothing_of_ours_but_the_ways_to_write_and_to_refuse():
    import sscq.figures
    found = re.findall(r"^\s*(?:from|import) +(sscq\S*|\.\S*|torch\S*)", Path(sscq.figures.__file__).read_text(encoding="utf-8"), re.M)
    assert found == [".moved", ".validation"]


NAN, IMAGES, CORNERS = float("nan"), np.zeros((3, 1, 4, 4), np.uint8), np.array([[0., 0.], [1., 1.]])


@pytest.mark.parametrize("call, message", [
    (lambda: curves("x"), "dict"), (lambda: curves({"a": 5}), "pair"), (lambda: curves({"a": ([1], [1], [1])}), "pair"),
    (lambda: bars([1, 2]), "dict"), (lambda: bars({"a": (1, 2, 3)}), "pair"), (lambda: number(1, 0), "digits=0"),
    (lambda: image_grid(IMAGES, 0), "columns=0"), (lambda: image_grid(IMAGES, size=0), "size=0"),
    (lambda: image_grid(IMAGES, titles=["a"]), "1 titles and 3 images"), (lambda: image_grid(IMAGES, marks=[True]), "1 marks and 3 images"),
    (lambda: image_grid(np.full((1, 1, 2, 2), NAN)), "NaN"), (lambda: image_grid(np.zeros((1, 3, 0, 0))), "show nothing"),
    (lambda: image_rows([IMAGES]), "dict"), (lambda: image_rows({"a": IMAGES}, titles="abcd"), "4 titles and 3 images"),
    (lambda: cells(CORNERS * NAN, CORNERS), "NaN"), (lambda: cells(CORNERS, CORNERS[:0]), "no codewords"),
    (lambda: soft_cells(CORNERS, CORNERS, []), "positive, one or more"), (lambda: soft_cells(CORNERS, CORNERS, NAN), "positive"),
    (lambda: usage_bars([]), "how many codes"), (lambda: usage_bars([[-1, 2]]), "how many codes"), (lambda: usage_bars(np.zeros((1, 2, 3))), "how many codes"),
    (lambda: matrix([[1]], digits=-1), "digits=-1"), (lambda: matrix(np.zeros((1, 2, 3))), "rows, columns"),
    (lambda: distance_table([[1, 2]], [5]), "0 to 1"), (lambda: distance_table([[1, 2]], [0, 0]), "one codeword of each part"),
    (lambda: slideshow([1]), "dict"), (lambda: save_page("", "t", []), "is no path"), (lambda: save_page("/tmp", "t", []), "is a folder"),
    (lambda: page("t", "abc"), "list")])
def test_odd_arguments_are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message): call()


@pytest.mark.parametrize("convert", [
    list, np.array, torch.tensor, lambda x: torch.tensor(x, requires_grad=True), lambda x: torch.tensor(x).bfloat16(),
], ids=["list", "array", "tensor", "gradient", "bfloat16"])
def test_lists_and_tensors_are_welcome(convert):
    assert len(cells(convert(points.tolist()), convert(words.tolist())).data) == 2  # vectors, codewords
    assert curves({"a": convert([1., 2.])}).data[0].y == (1., 2.)
    assert curves({"a": ([1, 2], [torch.tensor(1.), torch.tensor(2.)])}).data[0].y == (1., 2.)
    matrix(convert([[1., 2.]])); usage_bars(convert([[1., 2.]])); image_grid(convert(images.tolist())); bars({"a": torch.tensor(1.)})


# --- colours ---

def luminance(colour):
    c = np.array([int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)])
    c = np.where(c <= .04045, c / 12.92, ((c + .055) / 1.055) ** 2.4)
    return c @ [.2126, .7152, .0722]


def test_lines_can_be_seen_on_white_and_told_apart():
    assert all(1.05 / (luminance(c) + .05) > 2 for c in LINES) and PALETTE[6] not in LINES
    series = {str(i): [i, i] for i in range(16)}
    assert len({(line.line.color, line.line.dash) for line in curves(series).data}) == 16
    assert curves(series).data[0].line.dash == DASHES[0]


# --- one by one ---

@pytest.mark.parametrize("here", [*STAGES, *TERMS, "data"])
def test_pipeline_lights_one_box(here):
    lit = "images" if here == "data" else here
    assert [t for t in text_of(pipeline(here)) if t.startswith("<b>")] == [f"<b>{lit}</b>"]


@pytest.mark.parametrize("here", WHOLE)
def test_pipeline_lights_all_boxes_for_what_holds_them(here):
    assert sum(t.startswith("<b>") for t in text_of(pipeline(here))) == len(STAGES + TERMS)


def test_pipeline_refuses_an_unknown_stage():
    with pytest.raises(ValueError, match="here='quantizer' is not a stage; choose from images, views"): pipeline("quantizer")


def test_curves():
    fig = curves({"a": [3, 2, 1], "b": (np.array([10, 20]), np.array([5, 6]))}, x="epoch", y="loss", log_y=True, title="t")
    assert [line.name for line in fig.data] == ["a", "b"] and fig.data[0].x == (0, 1, 2) and fig.data[1].x == (10, 20)
    assert (fig.layout.xaxis.title.text, fig.layout.yaxis.title.text, fig.layout.title.text) == ("epoch", "loss", "t")
    assert (fig.layout.xaxis.type, fig.layout.yaxis.type) == ("linear", "log")
    assert fig.layout.showlegend and not curves({"a": [1]}).layout.showlegend
    assert curves({"wide": [1, 1000]}, log_y=True).layout.yaxis.dtick == 1
    assert curves({"narrow": [1, 2]}, log_y=True).layout.yaxis.dtick is None
    with pytest.raises(ValueError, match="'a' has 3 values of x and 2 of y"): curves({"a": ([1, 2, 3], [1, 2])})


def test_bars_write_their_numbers():
    assert text_of(bars({"a": .5, "b": (.25, .02), "c": -1})) == ["0.5", "0.25 ± 0.02", "-1"]
    assert text_of(bars({"a": 14712, "b": (-3300., 250.), "c": -0.})) == ["14,700", "-3,300 ± 200", "0"]
    assert not bars({"a": 1}).data[0].error_y.visible and bars({"a": (1, .1)}).data[0].error_y.array == (.1,)
    assert np.isnan(bars({"a": (1, .1), "b": 2, "c": (3, 0)}).data[0].error_y.array).tolist() == [False, True, True]


@pytest.mark.parametrize("value, digits, text", [
    (14712, 3, "14,700"), (999.9, 3, "1,000"), (.7402, 3, "0.74"), (-0., 3, "0"), (0, 3, "0"), (-1e6, 1, "-1,000,000"), (1470.26, 5, "1,470.3"),
    (3e-7, 3, "3e-07"), (float("nan"), 3, "nan"), (float("inf"), 3, "inf")])
def test_numbers_are_written_as_people_do(value, digits, text): assert number(value, digits) == text


@pytest.mark.parametrize("M, K", [(1, 4), (4, 16), (5, 8), (16, 256)])
def test_usage_bars(M, K):
    counts = rng.integers(0, 50, (M, K))
    counts[0] = 0; counts[0, 2] = 7
    fig = usage_bars(counts)
    shares = [np.asarray(bar.y) for bar in fig.data]
    assert len(shares) == M and all(np.isclose(s.sum(), 1) and (np.diff(s) <= 0).all() for s in shares)
    assert text_of(fig)[0] == f"book 0: perplexity 1.0 of {K}"
    assert text_of(usage_bars(np.zeros((1, 4))))[0] == "book 0: perplexity 1.0 of 4"  # nothing encoded yet


def inside(point, corners):  # of a convex polygon, corners in order
    edge = np.roll(corners, -1, 0) - corners
    to = point - corners
    return (edge[:, 0] * to[:, 1] - edge[:, 1] * to[:, 0] >= -1e-9).all()


@pytest.mark.parametrize("K", [1, 2, 5, 16])
def test_cells_are_the_nearest_regions(K):
    codebook = rng.normal(size=(K, 2))
    lo, hi = _window(points, codebook)
    corners = [_cell(k, codebook, lo, hi) for k in range(K)]
    for point in rng.uniform(lo, hi, (200, 2)):
        nearest = ((point - codebook) ** 2).sum(1).argmin()
        assert [k for k in range(K) if inside(point, corners[k])] == [nearest]
    assert len(cells(points, codebook).layout.shapes) == K


def test_cells_of_codewords_that_coincide_and_of_a_product():
    assert len(cells(points, np.zeros((3, 2))).layout.shapes) == 3
    lattice = np.stack(np.meshgrid([0., 1.], [0., 1.]), -1).reshape(-1, 2)
    assert np.allclose(_cell(0, lattice, np.array([-1, -1]), np.array([2, 2])).max(0), .5)


def test_cells_colour_points_by_their_codes():
    colours = cells(points[:3], words, codes=[4, 4, 1]).data[0].marker.color
    assert colours[0] == colours[1] != colours[2]
    assert len(cells(points, rng.normal(size=(40, 2))).layout.shapes) == 40
    for draw in (lambda x: cells(x, words), lambda x: cells(points, x), lambda x: soft_cells(x, words, .2)):
        with pytest.raises(ValueError, match=r"of shape \(4, 3\) must be \(N, 2\)"): draw(np.zeros((4, 3)))


def test_soft_cells_land_where_soft_quantization_does():
    from sscq.codebook import soft_quantize
    fig = soft_cells(points, words, [.05, .5])
    landed = [np.stack([t.x, t.y], 1) for t in fig.data if t.name == "z"]
    for z, tau in zip(landed, (.05, .5)):
        ours = soft_quantize(torch.tensor(points), torch.tensor(words)[None], tau)
        assert np.allclose(z, ours.numpy())
    assert len(fig.layout.images) == 2
    assert [t.name for t in fig.data if t.showlegend is not False] == ["codewords", "f to z", "z", "f"]  # once, not once a panel
    with pytest.raises(ValueError, match="must be positive"): soft_cells(points, words, [0.])


def test_matrix_writes_and_marks():
    fig = matrix([[.123, 1], [2, 3]], rows=["r", "s"], columns=["a", "b"], marks=[(1, 0)], digits=1)
    assert np.array_equal(fig.data[0].text, [["0.1", "1.0"], ["2.0", "3.0"]])
    assert [(s.x0, s.x1, s.y0, s.y1) for s in fig.layout.shapes] == [(-.5, .5, .5, 1.5)]
    assert luminance(fig.data[0].colorscale[1][1]) > .3, "black numbers must be readable on the darkest cell"
    assert matrix(rng.random((30, 30))).data[0].text is None
    assert np.array_equal(matrix([[-.001, -.006]]).data[0].text, [["0.00", "-0.01"]])


def test_distance_table_adds_up():
    table = [[1., 4., 9.], [0., 2., 5.]]
    assert distance_table(table, [2, 0]).layout.title.text == "distance 9.00"
    assert distance_table(table, torch.tensor([2, 0], dtype=torch.uint8), title="item 7").layout.title.text == "item 7 · distance 9.00"
    assert not distance_table(table).layout.title.text and distance_table(table, title="a").layout.title.text == "a"
    assert [(s.x0 + .5, s.y0 + .5) for s in distance_table(table, [2, 0]).layout.shapes] == [(2, 0), (0, 1)]


def test_image_grid_marks_hits_and_misses_in_three_ways():
    fig = image_grid(images, columns=3, titles="abcde", marks=[None, True, False, None, True], title="t")
    assert len(fig.layout.images) == 5 and [s.line.dash for s in fig.layout.shapes] == ["solid", "dash", "solid"]
    assert len({s.line.color for s in fig.layout.shapes}) == 2
    assert [t for t in text_of(fig) if "✓" in t or "✗" in t] == ["<b>✓</b>", "<b>✗</b>", "<b>✓</b>"]
    assert [t for t in text_of(fig) if len(t) == 1] == list("abcde")
    assert fig.layout.xaxis.range == (0, 3) and fig.layout.yaxis.range == (2, 0)


def test_image_grid_shows_the_pixels():
    grey = (images[:1, 0] * 255).round().astype(np.uint8)
    shown = pixels(image_grid(images[:1], size=16).layout.images[0].source)
    assert shown.shape == (16, 16, 3) and np.array_equal(shown[::2, ::2, 0], grey[0]) and np.array_equal(shown[1::2, 1::2, 2], grey[0])
    colour = rng.integers(0, 256, (1, 3, 8, 8)).astype(np.uint8)
    assert np.array_equal(pixels(image_grid(colour, size=8).layout.images[0].source), colour[0].transpose(1, 2, 0))


def test_photographs_are_shrunk():
    ramp = np.broadcast_to(np.linspace(0, 1, 400), (1, 3, 300, 400))
    uri = image_grid(ramp, size=72).layout.images[0].source
    assert uri.startswith("data:image/jpeg") and pixels(uri).shape == (108, 144, 3) and len(uri) < 10_000


def test_image_rows_name_their_rows():
    fig = image_rows({"image": images, "view a": images[:, 0], "view b": np.repeat(images, 3, 1)}, titles="vwxyz")
    assert len(fig.layout.images) == 15 and text_of(fig) == ["image", "view a", "view b", *"vwxyz"]
    assert [(im.x, im.y) for im in fig.layout.images][5] == (.08, 1.16)


def test_a_slide_is_the_figure_it_was():
    figures = {2: usage_bars([[1, 2], [3, 4]]), "four": cells(points, words[:4], title="four"), 1: image_grid(images[:1])}
    fig = slideshow(figures, "words")
    slider, = fig.layout.sliders
    assert slider.currentvalue.prefix == "words " and [s.label for s in slider.steps] == ["2", "four", "1"] and slider.active == 0
    assert [t.visible for t in fig.data] == slider.steps[0].args[0]["visible"] == [True, True, False, False]
    sizes = set()
    for step, own in zip(slider.steps, figures.values()):
        traces, layout = step.args
        assert [t.to_plotly_json()["y"] is not None for t, on in zip(fig.data, traces["visible"]) if on] == [True] * len(own.data)
        theirs = own.to_dict()["layout"]
        assert all(layout[k] == v for k, v in theirs.items() if k not in ("template", "margin", "title", "width", "height"))
        assert layout["title"].get("text") == own.layout.title.text
        side = dict(t=40, b=45, l=60, r=20) | theirs["margin"]
        m = layout["margin"]
        assert layout["width"] - m["l"] - m["r"] == own.layout.width - side["l"] - side["r"]
        assert layout["height"] - m["t"] - m["b"] == own.layout.height - side["t"] - side["b"]
        sizes.add((layout["width"], layout["height"], m["l"], m["t"]))
    assert sizes == {(fig.layout.width, fig.layout.height, fig.layout.margin.l, fig.layout.margin.t)}
    assert figures[2].layout.width == 470 and not figures[2].layout.sliders  # what was given stays as it was


def test_slideshow_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="figures is empty"): slideshow({})
    with pytest.raises(TypeError, match="step 4 is of type list; it must be a plotly figure"): slideshow({4: []})
    with pytest.raises(ValueError, match="step 4 has no size; give its layout width and height"): slideshow({4: go.Figure()})


def test_bad_images_are_told():
    for bad in (np.zeros((2, 4, 8, 8)), np.zeros((8, 8)), np.zeros((2, 3, 8, 8, 1))):
        with pytest.raises(ValueError, match="with 1 or 3 channels"): image_grid(bad)
    with pytest.raises(ValueError, match="images is empty"): image_grid(np.zeros((0, 1, 8, 8)))
    with pytest.raises(ValueError, match=r"rows of \[5, 2\] images must be equally long"): image_rows({"a": images, "b": images[:2]})


def test_no_pictures_are_drawn_while_testing(monkeypatch):
    import plotly.io as pio
    monkeypatch.setenv("IN_TEST", "1")
    monkeypatch.setattr(pio.renderers, "default", "json")
    notebook_pictures()
    assert pio.renderers.default == "plotly_mimetype"


def test_planes_name_their_axes():
    for fig in (cells(points, words), soft_cells(points, words, [.1, 1])):
        titles = [getattr(fig.layout, axis).title.text for axis in ("xaxis", "xaxis2", "yaxis", "yaxis2") if axis in fig.layout]
        assert titles in (["first dimension", "second dimension"], ["first dimension", "first dimension", "second dimension", None])


# --- the page ---

def test_plotly_travels_gzipped_and_is_packed_once():
    assert gzip.decompress(packed_plotly()).decode() == get_plotlyjs() and packed_plotly() is packed_plotly()
    assert len(packed_plotly()) < 2e6


def test_page_holds_everything():
    text = page("A <title> & more", ["<h1>All</h1>", *all_figures().values()])
    assert len(text.encode()) < 5e6
    head, rest = text.split('<script type="text/plain"')
    assert not re.search(r"(src|href)\s*=|@import|url\(", head) and not re.search(r"<(script|link|img|iframe)[^>]+(src|href)\s*=", rest)
    assert "A &lt;title&gt; &amp; more" in head and "<h1>All</h1>" in head
    assert text.count('class="figure"') == len(all_figures())


def test_text_in_a_figure_cannot_end_the_script():
    evil = "</script><script>alert(1)</script><!--"
    text = page("t", [bars({evil: 1}, title=evil)])
    assert text.count("</script>") == 2 and "<!--" not in text and "alert" in text


def test_page_takes_figures_and_text_only():
    assert 'id="figure-0"' in page("t", [go.FigureWidget(curves({"a": [1]}))])
    with pytest.raises(TypeError, match="a block of type dict must be a plotly figure or HTML text"): page("t", [{}])


def test_save_page_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = save_page(tmp_path / "report.html", "t", ["<p>old</p>"])
    old = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html" and "<p>old</p>" in old
    with pytest.raises(TypeError): save_page(path, "t", [None])
    with monkeypatch.context() as m:
        def full(self, content): self.write_text(content[:100].decode()); raise OSError(28, "No space left on device")
        m.setattr(type(path), "write_bytes", full)
        with pytest.raises(OSError, match="report.html cannot be written .No space left on device.: make room"): save_page(path, "t", ["<p>new</p>"])
    assert path.read_text(encoding="utf-8") == old and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    link = tmp_path / "link.html"
    link.symlink_to(path)
    save_page(link, "t", ["<p>caf\udce9</p>"])
    assert link.is_symlink() and r"<p>caf\udce9</p>" in path.read_text(encoding="utf-8")


@pytest.mark.browser
def test_page_draws_all_figures_offline(browser, tmp_path):
    figures = all_figures()
    path = save_page(tmp_path / "report.html", "Report", ["<h1>All</h1>", *figures.values()])
    context = browser.new_context(viewport=dict(width=1280, height=1000), offline=True, color_scheme="dark")
    tab = context.new_page()
    problems, fetched = [], []
    tab.on("pageerror", lambda e: problems.append(str(e)))
    tab.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    tab.on("request", lambda r: None if r.url.startswith(("data:", "blob:")) else fetched.append(r.url))
    tab.goto(path.as_uri())
    tab.wait_for_function("() => document.body.dataset.drawn", timeout=60_000)
    assert tab.evaluate("document.body.dataset.drawn") == str(len(figures))
    drawn = [div.locator(".main-svg").first.bounding_box() for div in tab.locator(".figure").all()]
    assert len(drawn) == len(figures)
    for box, (name, fig) in zip(drawn, figures.items()):
        assert (box["width"], box["height"]) == pytest.approx((fig.layout.width, fig.layout.height), abs=2), name
    assert tab.locator("#figure-3 image").count() == len(images)  # bitmaps arrived with the page
    assert tab.locator("#figure-2 .bars .point").count() == 2
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 22)"  # dark where that is preferred
    cards = tab.evaluate("[...document.querySelectorAll('.figure')].map(f => [getComputedStyle(f).backgroundColor, getComputedStyle(f).filter !== 'none'])")
    assert {back for back, _ in cards} == {"rgb(255, 255, 255)"}, "a figure's card is white, and turned dark as a whole"
    assert [turned for _, turned in cards] == [not fig.layout.images and all(t.type != "heatmap" for t in fig.data) for fig in figures.values()]
    assert not problems and fetched == [path.as_uri()]
    context.close()


@pytest.mark.browser
def test_axe_finds_nothing_wrong_with_a_page_of_figures(browser, axe, tmp_path):
    tab = browser.new_page(viewport=dict(width=390, height=900))
    tab.goto(save_page(tmp_path / "all.html", "All", ["<h1>All</h1>", *slides().values(), *all_figures().values()]).as_uri())
    tab.wait_for_function("() => document.body.dataset.drawn", timeout=60_000)
    assert not axe(tab) and tab.evaluate("document.documentElement.scrollWidth") <= 390
    names = tab.locator(".figure").evaluate_all("all => all.map(f => f.getAttribute('aria-label'))")
    assert all(name.startswith("Figure: ") and len(name) > 15 for name in names)
    tab.close()


@pytest.mark.browser
def test_slides_change_under_mouse_and_keyboard_without_a_kernel(browser, tmp_path):
    shows = slides()
    path = save_page(tmp_path / "slides.html", "Slides", list(shows.values()))
    context = browser.new_context(viewport=dict(width=1280, height=2000), offline=True)
    tab = context.new_page()
    problems = []
    tab.on("pageerror", lambda e: problems.append(str(e)))
    tab.goto(path.as_uri())
    tab.wait_for_function("() => document.body.dataset.drawn", timeout=60_000)

    def text(i): return tab.locator(f"#figure-{i} .infolayer").text_content()
    def count(i, what): return tab.locator(f"#figure-{i} {what}").count()

    def becomes(expected, seen, *args):  # a page draws when it finds the time
        deadline = time.monotonic() + 10
        while seen(*args) != expected and time.monotonic() < deadline: tab.wait_for_timeout(50)
        assert seen(*args) == expected

    def click(i, n):
        rail, tick = (tab.locator(f"#figure-{i} .{c}") for c in ("slider-rail-touch-rect", "slider-labels .slider-label"))
        box, at = rail.bounding_box(), tick.nth(n).bounding_box()
        tab.mouse.click(at["x"] + at["width"] / 2, box["y"] + box["height"] / 2)

    def words_shown(): return count(0, ".textpoint"), count(0, ".shapelayer path"), *re.findall(r"(codewords \d).*(\d words)", text(0))
    becomes((2, 2, ("codewords 2", "2 words")), words_shown)
    click(0, 1); becomes((8, 8, ("codewords 8", "8 words")), words_shown)
    tab.locator("#figure-0").focus()
    tab.keyboard.press("ArrowRight"); becomes((4, 4, ("codewords 4", "4 words")), words_shown)
    tab.keyboard.press("ArrowRight")  # there is no further
    tab.keyboard.press("ArrowLeft"); becomes((8, 8, ("codewords 8", "8 words")), words_shown)
    tab.keyboard.press("ArrowLeft"); becomes((2, 2, ("codewords 2", "2 words")), words_shown)

    def books():  # bars, those of visible height, the panels' titles
        # all at one moment: one by one, a bar may be gone before it is asked
        heights = tab.locator("#figure-1 .bars .point path").evaluate_all("bars => bars.map(b => b.getBoundingClientRect().height)")
        return len(heights), sum(h > 5 for h in heights) > len(heights) // 2, re.findall(r"book (\d)", text(1))
    becomes((8, True, list("01")), books)
    click(1, 1); becomes((20, True, list("01234")), books)
    click(1, 0); becomes((8, True, list("01")), books)

    def grid(): return count(2, "image"), text(2).count("✓"), *re.findall(r"(\d) shown", text(2))
    for n, shown in ((1, 5), (2, 3), (0, 1)): click(2, n); becomes((shown, shown, str(shown)), grid)

    def kinds(): return count(3, ".scatter .point") > 0, count(3, ".bars .point"), count(3, "image")
    becomes((True, 0, 0), kinds)
    click(3, 1); becomes((False, 2, 0), kinds)
    click(3, 2); becomes((True, 0, 1), kinds)
    assert not problems
    context.close()


NO_DOOR = """() => [document.querySelectorAll('.modebar-btn').length,
  [...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title ?? 'plotly').filter(t => /share|plotly/i.test(t))]"""


@pytest.mark.browser
@pytest.mark.parametrize("config", ["of-the-page", "none", "of-the-renderer"])
def test_no_button_sends_a_figure_to_a_company(browser, config):
    "On a page; drawn by somebody who configures nothing, where the template has to do it; and as a notebook hands it over"
    from sscq.figures import notebook_pictures
    before = pio.renderers.default, pio.renderers["plotly_mimetype"].config
    tab, figure = browser.new_page(), image_grid(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    try:
        notebook_pictures()
        handed = pio.renderers["plotly_mimetype"].to_mimebundle(figure.to_dict())["application/vnd.plotly.v1+json"]
        tab.set_content(page("Doors", [figure, bars({"a": 1})]))
        tab.wait_for_selector("body[data-drawn='2']")
        if config != "of-the-page":
            tab.evaluate("async ([f, config]) => { document.body.innerHTML = '<div id=a></div>'; await Plotly.newPlot('a', f.data, f.layout, config); }",
                         [handed, handed["config"] if config == "of-the-renderer" else {"displaylogo": False}])
        buttons, doors = tab.evaluate(NO_DOOR)
        assert buttons and not doors
    finally:
        pio.renderers.default, pio.renderers["plotly_mimetype"].config = before
        tab.close()


@pytest.mark.browser
def test_page_plays_the_frames_of_a_figure(browser, tmp_path):
    fig = go.Figure(go.Bar(x=["a"], y=[1]), frames=[go.Frame(name=str(v), data=[go.Bar(x=["a"] * v, y=[1] * v)]) for v in (1, 3)])
    steps = [dict(label=str(v), method="animate", args=[[str(v)], dict(mode="immediate", frame=dict(duration=0))]) for v in (1, 3)]
    fig.update_layout(width=400, height=300, sliders=[dict(steps=steps, active=0)])
    tab = browser.new_page()
    tab.goto(save_page(tmp_path / "frames.html", "Frames", [fig]).as_uri())
    tab.wait_for_function("() => document.body.dataset.drawn", timeout=60_000)
    assert tab.evaluate("document.getElementById('figure-0')._transitionData._frames.length") == 2
    tab.locator("#figure-0").focus(); tab.keyboard.press("ArrowRight")
    tab.wait_for_function("() => document.getElementById('figure-0').data[0].x.length === 3", timeout=10_000)
