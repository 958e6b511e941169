"The explorers in JupyterLab, in a real browser: what the page shows is compared with the plain functions, computed here."
import io
import json
import re
from types import SimpleNamespace

import pytest
import torch
from lab_driver import OPEN, Notebook, close, labelled, lab_server, lay_out, without_kernel
from PIL import Image
from sscq.component import EXPLORABLES

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]

# One notebook with all the explorers; what it trained, for the tests to compute with; things that do not fit; a cell for after a restart.
SETUP = """from dataclasses import replace

import torch
from sscq.core import SSCQ
from sscq.data import digits
from sscq.explorers import codebook_explorer, usage_explorer, usage_runs
from sscq.loss_explorers import contrast_explorer, neighbor_explorer
from sscq.playground import training_explorer
from sscq.retrieval import raw_pixel_index, retrieval_explorer
from sscq.train import PRESETS

data = digits()
with torch.random.fork_rng():
    torch.manual_seed(0)
    preset = PRESETS["digits"]
    model = SSCQ(bits=16, **preset.model).fit(data.train, "digit", preset.objective, replace(preset.config, epochs=8), progress=False)
runs, images, codes = usage_runs(progress=False)"""
EXPLORERS = ["codebook_explorer()", "usage_explorer(runs, images, codes)", "neighbor_explorer(model, data.query.images)",
             "contrast_explorer(model, data.query.images)", "training_explorer()",
             'retrieval_explorer({"SSCQ": model, "pixels": raw_pixel_index(data)}, data)']
KEEP = """
model.save_pretrained("kept/model")
torch.save(dict(runs=runs, codes=codes), "kept/runs.pt")
"""
MISFITS = {
    "codebook": ("codebook_explorer(torch.rand(10, 3))", r"\(10, 3\) must be \(N, 2\)"),
    "usage": ("usage_explorer(runs, images[:7], codes)", "7 images"),
    "neighbors": ("neighbor_explorer(model, torch.zeros(9, 3, 32, 32, dtype=torch.uint8))", "3"),
    "contrast": ("contrast_explorer(model, data.query.images[:3])", "3 images: give at least 6"),
    "training": ("training_explorer(data._replace(query=data.query._replace(labels=None)))", "no labels"),
    "retrieval": ("retrieval_explorer({'photos': SSCQ(bits=16, backbone='tiny_cnn')}, data)", "resize|channels")}
AGAIN = "from sscq.explorers import codebook_explorer as once_more\nonce_more()"


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    "JupyterLab over a copy of the notebooks; opens one and waits until all its cells ran"
    folder = lay_out(tmp_path_factory.mktemp("lab"))
    path = folder / "nbs/all_explorers.ipynb"
    nb = json.loads((folder / "nbs/45_explorers.ipynb").read_text(encoding="utf-8"))
    nb["cells"] = []
    for i, source in enumerate((SETUP, *EXPLORERS, KEEP, *(cell for cell, _ in MISFITS.values()), AGAIN)):
        nb["cells"].append(dict(cell_type="code", id=f"added-{i}", metadata={}, execution_count=None, outputs=[], source=source.strip()))
    path.write_text(json.dumps(nb), encoding="utf-8")
    with lab_server(folder) as (url, token):
        def read(name): return without_kernel(browser, url, token, name)
        yield SimpleNamespace(folder=folder, open=lambda *args: Notebook(browser, url, token, *args), read=read)


# Holds back plotly's script, which LiveFigure unpacks through a Response without an address, until the test lets it go
LATE = """let go; const gate = new Promise(yes => { go = yes; }), text = Response.prototype.text;
window.letGo = go; window.held = 0;
Response.prototype.text = async function () { if (!this.url) { window.held++; await gate; } return text.call(this); };"""
STOPPED = ["""import time
from sscq.data import digits
from sscq.explorers import codebook_explorer
from sscq.retrieval import raw_pixel_index, retrieval_explorer""", "codebook_explorer()", """data = digits()
index = raw_pixel_index(data)
embed = index.embed
index.embed = lambda x: time.sleep(1) or embed(x)
retrieval_explorer({"slow": index}, data)""", """index.embed = embed
retrieval_explorer({"fast": index}, data)"""]


@pytest.fixture(scope="module")
def page(lab):
    notebook = lab.open("nbs/all_explorers.ipynb")
    try: yield notebook.ran()
    finally: notebook.close()


@pytest.fixture(scope="module")
def kept(lab, page):
    "The model and the runs that the notebook trained, and its data"
    from sscq.core import SSCQ
    from sscq.data import digits
    folder = lab.folder / "nbs/kept"
    return SimpleNamespace(**torch.load(folder / "runs.pt", weights_only=True), model=SSCQ.from_pretrained(folder / "model"), data=digits())


@pytest.fixture
def clean(page):
    "Page, kernel and network are without an error after the test"
    yield
    page.assert_clean()


def agree(explorer, wanted):
    "Readout and figures are those of `wanted()`: a text whose numbers may be off in the last digit, and the figures of plain functions"
    seen = [None, None]  # a readout, and what belongs to it
    def differs():
        if explorer.message(): return f"the message {explorer.message()!r}"
        if (readout := explorer.readout()) != seen[0]: seen[:] = readout, wanted()
        return "" if close(readout, seen[1][0]) else f"the readout is not {seen[1][0]!r}"
    explorer.wait(lambda: not differs(), differs)
    explorer.wait_figures(*seen[1][1:])


def press(explorer, control, *keys):
    "Move a control by keys, and wait until the readout follows"
    before, readout = control.seen(), explorer.readout()
    assert control.press(*keys) != before
    explorer.wait(lambda: explorer.readout() != readout, f"{control.name} changes nothing")


def codebook_shows(controls):
    "What the codebook explorer shows at the present position of its controls, as a function for `agree`"
    from sscq.search import train_pq
    from sscq.explorers import bits_figure, distortions, example_points, plane_figure, plane_state
    points = example_points()
    known = {M: distortions(points, [2 ** b for b in range(1, 7)], M) for M in (1, 2)}
    def wanted():
        K, M, i = (int(controls[name].seen()) for name in ("K", "M", "point"))
        state = plane_state(points, train_pq(points, M, K), i, tau := 10 ** controls["tau"].position())
        text = (f"K {K} · M {M} · {state.bits} bits · distortion {state.distortion:.4f} · τ_sq {tau:.3g} · point {i} · "
                f"largest share {state.shares.amax(1).prod():.2f} · z from codeword {(state.z - state.word).norm():.3f}")
        return text, plane_figure(points, state), bits_figure(known, M, state.bits)
    return wanted


def test_codebook(page, clean):
    from sscq.explorers import example_points
    explorer, points = page.explorer("codebook"), example_points()
    wanted = codebook_shows(controls := labelled(explorer))
    agree(explorer, wanted)
    for name, *keys in (("K", "End"), ("K", "Home"), ("K", "ArrowRight", "ArrowRight"), ("M", "ArrowRight"), ("tau", *["ArrowLeft"] * 5), ("tau", "End"),
                        ("point", *["ArrowRight"] * 3)):
        press(explorer, controls[name], *keys)
        agree(explorer, wanted)
    alone = (torch.cdist(points, points) + 9 * torch.eye(len(points))).min(1).values.argmax().item()
    explorer.figure(0).click(*points[alone].tolist())
    explorer.wait_readout(f"point {alone} ")
    agree(explorer, wanted)
    assert explorer.control("point").seen() == str(alone)


def test_usage(page, kept, clean):
    from sscq.explorers import perplexity_figure, some_images, users, words_figure
    explorer = page.explorer("usage")
    controls = labelled(explorer)
    def wanted():
        run = controls["run"].seen()
        m, epoch, k = (int(controls[name].seen()) for name in ("book", "epoch", "word"))
        history, rows = kept.runs[run], users(kept.codes[run], m, k)
        record, counts = history[epoch - 1], history[epoch - 1]["usage"][m]
        text = (f"{run} · epoch {epoch} of {len(history)} · book {m} · perplexity {record['perplexity'][m]:.2f} of {len(counts)} · "
                f"words in use {sum(c > 0 for c in counts)} · codeword {k}: {counts[k] / sum(counts):.1%} of the codes · "
                f"{len(rows)} images name it after training" + f", the first {min(len(rows), 24)} are shown" * (len(rows) > 24))
        return text, words_figure(counts, k), perplexity_figure(kept.runs, m, epoch), some_images(kept.data.train, rows)
    agree(explorer, wanted)
    for name in ("book", "epoch", "word", "run", "word"):
        controls[name].move()
        agree(explorer, wanted)
    counts = kept.runs[controls["run"].seen()][int(controls["epoch"].seen()) - 1]["usage"][int(controls["book"].seen())]
    here = int(controls["word"].seen())
    most = max((k for k in range(len(counts)) if k != here), key=lambda k: counts[k])
    explorer.figure(0).click(most, counts[most] / sum(counts) / 2)
    explorer.wait_readout(f"codeword {most}:")
    agree(explorer, wanted)


def test_neighbors(page, kept, clean):
    from sscq.codebook import soft_quantize
    from sscq.loss_explorers import clickable, neighbors_figure, part_neighbors
    explorer, x, M = page.explorer("neighbors"), kept.data.query.images, len(kept.model.codebooks)
    controls = labelled(explorer)
    with torch.no_grad(): z = soft_quantize(kept.model.embed(x), kept.model.codebooks.detach(), kept.model.quantizer.tau)
    def wanted():
        i, part, n = (int(controls[name].seen()) for name in ("image", "part", "n"))
        here, whole = part_neighbors(z, i, n, M, part), part_neighbors(z, i, n)
        both = len(set(here[1].tolist()) & set(whole[1].tolist()))
        text = f"image {i} · part {part} of {M} · n {n} · in both {both} · nearest in the part {here[0][0]:.3f} · nearest overall {whole[0][0]:.3f}"
        return text, clickable(neighbors_figure(x, i, here, whole), 2 * n + 2, n + 1)
    agree(explorer, wanted)
    for name, key in (("image", "ArrowRight"), ("part", "End"), ("n", "End"), ("n", "Home"), ("n", "ArrowRight"), ("image", "End")):
        press(explorer, controls[name], key)
        agree(explorer, wanted)
    i, n = int(controls["image"].seen()), int(controls["n"].seen())
    second = part_neighbors(z, i, n)[1][1].item()
    explorer.figure().click(2.5, 1.54)  # third picture of the second row
    explorer.wait_readout(f"image {second} ")
    agree(explorer, wanted)


def test_contrast(page, kept, clean):
    from sscq.contrastive import FUSIONS
    from sscq.views import digit_view, two_views
    from sscq.loss_explorers import divergences, kl_figure, seen_figure, seen_negatives, views_figure
    explorer, x, taus = page.explorer("contrast"), kept.data.query.images[:64], [.2, *(10 ** (-1.3 + .05 * k) for k in range(41))]
    controls = labelled(explorer)
    def wanted():
        i, fusion = int(controls["image"].seen()), controls["fusion"].seen()
        tau = next(t for t in taus if f"{t:.3g}" == f"{explorer.number('τ_cc'):.3g}")
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(int(controls["draw"].seen()))
            f, z = kept.model.eval()(both := torch.cat(two_views(x, digit_view)))
        pairs = seen_negatives(f, z, fusion, tau)
        kl = divergences(pairs)
        text = (f"image {i} · fusion {fusion} · τ_cc {tau:.3g} · KL {kl[i]:.4f} · batch mean {kl.mean():.4f} · 126 negatives"
                + ", shown: z of view a against f of view b" * (fusion == "cross"))
        return text, seen_figure(pairs[0], i), kl_figure(f, z, fusion, tau, i), views_figure(both, pairs[0], i)
    agree(explorer, wanted)
    assert controls["fusion"].options() == list(FUSIONS)
    for fusion in FUSIONS:
        if fusion != controls["fusion"].seen(): controls["fusion"].choose(fusion)
        agree(explorer, wanted)
    for name, key in (("image", "ArrowRight"), ("tau", "Home"), ("tau", "End"), ("tau", "ArrowLeft"), ("draw", "ArrowRight"), ("draw", "Home")):
        press(explorer, controls[name], key)
        agree(explorer, wanted)
    assert float(controls["tau"].seen()) == pytest.approx(explorer.number("τ_cc"), rel=.02)


def test_retrieval(page, kept, clean):
    from sscq.evaluate import relevance
    from sscq.retrieval import answers, answers_figure, as_source, parts_figure, raw_pixel_index, uploaded_picture
    from sscq.loss_explorers import clickable
    from sscq.figures import image_grid
    explorer, data, top = page.explorer("retrieval"), kept.data, 10
    controls = labelled(explorer)
    sources = {name: as_source(name, model, data) for name, model in {"SSCQ": kept.model, "pixels": raw_pixel_index(data)}.items()}
    shown, uploaded = torch.linspace(0, len(data.query.images) - 1, 30).long(), []
    def wanted():
        q, exact, chosen = int(controls["query"].seen()), controls["exact"].seen() == "exact", int(controls["answer"].seen()) - 1
        x = uploaded[0] if uploaded else data.query.images[q:q + 1]
        parts, found, hits = ["query uploaded" if uploaded else f"query {q}", "exact" if exact else "quantized"], {}, {}
        for name, source in sources.items():
            f = torch.as_tensor(source.index.embed(x)).float()[0]
            found[name], other = (answers(source, f, top, e) for e in (exact, not exact))
            hits[name] = None if uploaded else relevance(data.query.labels[q:q + 1], data.database.labels[found[name].ids])[0]
            parts += [f"{name}: 16 bits", "labels not known" if uploaded else f"hits {int(hits[name].sum())} of {top}",
                      f"nearest {found[name].distances[0]:.4g}",
                      f"{len(set(found[name].ids.tolist()) & set(other.ids.tolist()))} of {top} also {'quantized' if exact else 'exact'}"]
        marks = [True if i == q and not uploaded else None for i in shown]
        return (" · ".join(parts), clickable(image_grid(data.query.images[shown], columns=15, size=38, marks=marks), 30, 15),
                answers_figure(data, x, found, hits, chosen), parts_figure(found, chosen))
    agree(explorer, wanted)
    controls["query"].type("7"); agree(explorer, wanted)
    controls["query"].type("99999"); agree(explorer, wanted)  # more than there are: the last
    assert int(controls["query"].seen()) == len(data.query.images) - 1
    controls["exact"].choose("exact"); agree(explorer, wanted)
    controls["answer"].press("End"); agree(explorer, wanted)
    explorer.figure(0).click(3.5, 1.54)  # fourth query of the second row
    explorer.wait_readout(f"query {shown[18]} "); agree(explorer, wanted)
    explorer.figure(1).click(4.5, .54)  # fourth answer
    explorer.wait(lambda: controls["answer"].seen() == "4", "the click on an answer did not choose it"); agree(explorer, wanted)
    controls["exact"].choose("quantized"); agree(explorer, wanted)
    picture = Image.fromarray(data.query.images[3, 0].numpy()).resize((64, 64))
    picture.save(file := io.BytesIO(), "PNG")
    controls["upload"].upload("digit.png", file.getvalue())
    uploaded.append(uploaded_picture("digit.png", file.getvalue(), 8, 1))
    explorer.wait_readout("query uploaded"); agree(explorer, wanted)
    uploaded.clear()
    explorer.figure(0).click(.5, .54)
    explorer.wait_readout("query 0 "); agree(explorer, wanted)


def picture_file(kind: str, size: tuple, mode: str = "L", **settings) -> bytes:
    Image.new(mode, size).save(file := io.BytesIO(), kind, **settings)
    return file.getvalue()


UPLOADS = {
    "text": ("notes.png", lambda: b"dear diary", "not a picture"),
    "empty": ("empty.png", lambda: b"", "empty|not a picture"),
    "cut off": ("half.jpg", lambda: picture_file("JPEG", (400, 400))[:900], "cut off|truncated|damaged|not a picture"),
    "bomb": ("bomb.png", lambda: picture_file("PNG", (14_000, 14_000), "1"), "pixels|large|big"),
    "animated": ("cat.gif", lambda: picture_file("GIF", (8, 8), save_all=True, append_images=[Image.new("L", (8, 8), 255)]), "animated")}


@pytest.mark.parametrize("name", UPLOADS)
def test_retrieval_refuses_a_file_in_a_few_words(page, clean, name):
    explorer, (file, content, message) = page.explorer("retrieval"), UPLOADS[name]
    before = explorer.readout()
    explorer.control("upload").upload(file, content())
    said = explorer.wait_message(message)
    assert file in said and len(said) < 200 and explorer.readout() == before
    explorer.control("exact").move()  # not dead
    explorer.wait(lambda: explorer.readout() != before and not explorer.message(), "the next control has no effect")


def settings_of(controls) -> dict:
    "What `setup` takes, as the controls show it"
    def number(name): return float(controls[name].seen())
    weights = tuple(number(f"w_{term}") for term in ("icf", "icz", "cc", "pn", "cd"))
    taus = {name: number(name) for name in ("tau_sq", "tau_ic", "tau_cc", "tau_pn", "tau_cd")}
    return dict(bits=int(number("bits")), n_words=int(number("K")), word_dim=int(number("d")), batch_size=int(number("batch")), epochs=int(number("epochs")),
                fusion=controls["fusion"].seen(), weights=weights, **taus)


def trained_here(data, settings) -> tuple:
    import threading

    from sscq.playground import setup, train_watched
    run = setup(data, **settings)
    return run.model, train_watched(run, data, threading.Event())


def test_training(page, kept, clean):
    explorer = page.explorer("training")
    controls = labelled(explorer)
    start, *_ = (controls.pop(name) for name in ("start", "stop", "preset", "hand", "live"))
    settings = []
    for names, epochs in (((), 2), (set(controls) - {"epochs"}, 1)):  # the preset, then everything moved
        controls["epochs"].slide_to(str(epochs))
        for name in names:
            controls[name].move()
            if name in ("bits", "K", "M"): wait_for_code(explorer, controls)
        settings.append(settings_of(controls))
        start.press("Enter")
        explorer.wait_readout(f"run {len(settings)} · done · epoch {epochs} of {epochs}", timeout=60)
        assert not explorer.message()
    assert not [name for name in settings[0] if settings[0][name] == settings[1][name]], "a setting did not follow its control"
    here = [trained_here(kept.data, s) for s in settings]
    model, history = here[1]
    assert f"· {model.bits} bits ·" in explorer.readout()
    for name in ("loss", "map"):
        assert explorer.number({"map": "mAP"}.get(name, name)) == pytest.approx(history[-1][name], rel=.02, abs=.01)
    compare_figures(explorer, here)
    table = [row.locator("td").all_text_contents() for row in explorer.at.locator(".sscq-runs tr").all()[1:]]
    assert [row[:4] for row in table] == [["run 1", "epochs 2", "done", "2"], ["run 2", table[1][1], "done", "1"]]
    assert all(name in table[1][1] for name in settings[1]), "a changed setting is not in the table"
    for row, (_, h) in zip(table, here): assert [float(v) for v in row[4:6]] == pytest.approx([h[-1]["loss"], h[-1]["map"]], rel=.02, abs=.01)


def wait_for_code(explorer, controls):
    "Two of K, M and bits decide the third, which follows once the kernel has heard of it"
    def agree():
        K, M, bits = (int(controls[name].seen()) for name in ("K", "M", "bits"))
        return bits == M * (K.bit_length() - 1)
    explorer.wait(agree, "K, M and bits do not fit each other")


def compare_figures(explorer, here):
    from sscq.playground import gauge_figure, loss_figure, runs_figure, shares_figure
    history = here[-1][1]
    explorer.wait_figures(loss_figure(history), runs_figure({f"run {i}": h for i, (_, h) in enumerate(here, 1)}), gauge_figure(history[-1]["map"]),
                          shares_figure(history[-1]["usage"]), atol=.02)


def test_training_stops(page, clean):
    explorer = page.explorer("training")
    start, stop, bits = (explorer.control(name) for name in ("start", "stop", "bits"))
    explorer.control("epochs").press("End")
    start.press("Enter")
    explorer.wait_readout("· training · epoch 1 of 50", timeout=60)
    start.press("Enter")  # a second training
    explorer.wait_message("under way already")
    bits.move()  # a control moved meanwhile
    explorer.wait_message("applies to the next run")
    stop.press("Enter")  # how soon it stops is measured in benchmarks/widgets.py
    explorer.wait_readout("· stopped ·", timeout=20)
    said = explorer.wait_message(r"stopped during epoch \d+: the model keeps the weights of epoch \d+")
    epoch = int(re.search(r"weights of epoch (\d+)", said)[1])
    assert f"epoch {epoch} of 50" in explorer.readout()
    explorer.control("epochs").slide_to("1")  # alive: one more run, to its end
    start.press("Enter")
    explorer.wait_readout("· done · epoch 1 of 1", timeout=60)


def test_training_by_preset_by_hand_and_live(page, clean):
    explorer = page.explorer("training")
    controls = {name: explorer.control(name) for name in ("preset", "hand", "live", "K", "M", "bits", "epochs", "stop")}
    def shown(): return tuple(controls[name].seen() for name in ("K", "M", "bits"))
    controls["preset"].choose("8 bits")
    explorer.wait(lambda: shown() == ("16", "2", "8"), lambda: f"the preset is not on the sliders: {shown()}")
    controls["hand"].type("K=12")
    explorer.wait_message("K=12 must be a power of two")
    controls["hand"].type("K=64 M=3 epochs=40")
    explorer.wait(lambda: shown() == ("64", "3", "18") and controls["epochs"].seen() == "40", lambda: f"what was written is not on the sliders: {shown()}")
    explorer.wait(lambda: controls["preset"].seen() == "my own" and not explorer.message(), "the message stays")
    assert controls["live"].press("Space") == "true"
    explorer.wait_readout("· training · epoch 1 of 40 · 18 bits · K 64, M 3 · index 4,491 bytes", timeout=60)
    controls["M"].press("ArrowRight")
    explorer.wait_readout("· training · epoch 1 of 40 · 24 bits · K 64, M 4 · index 4,491 bytes", timeout=60)
    controls["stop"].press("Enter")
    explorer.wait_readout("· stopped ·", timeout=20)
    assert controls["live"].press("Space") == "false"
    controls["preset"].choose("as in the library")
    explorer.wait(lambda: shown() == ("16", "4", "16"), lambda: f"the preset is not on the sliders: {shown()}")


THEME = "async (theme) => { await jupyterapp.commands.execute('apputils:change-theme', { theme }); }"


SPOKEN = """e => [...e.querySelectorAll('.widget-slider')].flatMap(s => {
  const handle = s.querySelector('.noUi-handle'), seen = ['.widget-label', '.widget-readout'].map(part => s.querySelector(part).textContent);
  const said = ['aria-label', 'aria-valuetext'].map(name => handle.getAttribute(name));
  return said.join() === seen.join() && said.every(Boolean) ? [] : [`says ${said}, not ${seen}`];
})"""


def test_axe_finds_nothing_wrong_in_an_explorer_light_or_dark(page, clean, axe):
    "In what is ours, and not in what JupyterLab puts around it; and a slider says what is seen beside it"
    found = []
    try:
        for theme, *rules in (("JupyterLab Light", ), ("JupyterLab Dark", "color-contrast")):  # all rules, then what depends on the theme
            page.page.evaluate(THEME, theme)
            page.page.wait_for_function("(light) => document.body.dataset.jpThemeLight === light", arg=str(theme.endswith("Light")).lower())
            for name in MISFITS:
                explorer = page.explorer(name)  # comes into view: what is out of it JupyterLab takes away
                explorer.wait(explorer.readout, "no readout")
                explorer.wait(lambda e=explorer: not e.at.evaluate(SPOKEN), lambda e=explorer: str(e.at.evaluate(SPOKEN)))
                found += [f"{theme}, {name}: {wrong}" for wrong in axe(page.page, *rules, within=(f".sscq-explorer.sscq-{name}", ))]
        assert not found, "\n".join(found)
        slider = page.explorer("codebook").control("K")
        slider.press("Home")
        page.explorer("codebook").wait(lambda: slider.at.locator(".noUi-handle").get_attribute("aria-valuetext") == "2", "K says another number")
    finally: page.page.evaluate(THEME, "JupyterLab Light")


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_said(page, clean, name):
    explorer = page.explorer(name, 1)
    said = explorer.wait_message(MISFITS[name][1])
    assert 10 < len(said) < 320 and "Traceback" not in said and not explorer.controls()


def test_a_restarted_kernel_is_said(page):
    page.restart_kernel()
    for name in ("codebook", "usage", "neighbors", "contrast", "training", "retrieval"):
        explorer = page.explorer(name)
        def note(explorer=explorer): return explorer.at.evaluate("e => getComputedStyle(e, '::before').content")
        explorer.wait(lambda note=note: "restarted: run this cell again" in note(), "no note that the kernel was restarted")
    page.run_last_cell()
    explorer = page.explorer("codebook", 2)
    before = explorer.readout()
    assert "K 8" in before and "restarted" not in explorer.at.evaluate("e => getComputedStyle(e, '::before').content")
    explorer.control("K").press("ArrowRight")
    explorer.wait_readout("K 16 ")
    page.assert_clean()



@pytest.fixture(scope="module")
def stopped(lab):
    "A small notebook; its third cell was stopped while a bar showed how far it was, and the fourth ran to its end"
    cells = [dict(cell_type="code", id=f"cell-{i}", metadata={}, execution_count=None, outputs=[], source=source) for i, source in enumerate(STOPPED)]
    kernel = dict(name="python3", display_name="Python 3", language="python")
    (lab.folder / "stopped.ipynb").write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)), encoding="utf-8")
    notebook = lab.open("stopped.ipynb", LATE)
    try:
        notebook.page.get_by_text("encoding").wait_for(timeout=60_000)
        notebook.interrupt_kernel()
        yield notebook.ran()
    finally: notebook.close()


def test_encoding_that_was_stopped_is_said_and_the_notebook_goes_on(stopped):
    explorer = stopped.explorer("retrieval")
    assert explorer.wait_message("stopped before it was ready: run this cell again") and not explorer.controls()
    assert stopped.explorer("retrieval", 1).readout().startswith("query 0 · quantized · fast: 16 bits")
    stopped.assert_clean()


def test_figures_show_what_is_so_now_on_a_late_page_and_on_one_loaded_again(stopped):
    def drawn():
        explorer = stopped.explorer("codebook")
        explorer.wait(lambda: explorer.at.locator(".js-plotly-plot").count() == 2, "the figures are not drawn")
        return explorer, (controls := labelled(explorer)), codebook_shows(controls)
    explorer = stopped.explorer("codebook")
    stopped.page.wait_for_function("() => held")
    press(explorer, explorer.control("K"), "ArrowRight")  # before there is a figure
    assert not explorer.at.locator(".js-plotly-plot").count()
    stopped.page.evaluate("() => letGo()")
    explorer, controls, wanted = drawn()
    agree(explorer, wanted)
    press(explorer, controls["M"], "ArrowRight")
    stopped.reload()
    stopped.page.evaluate("() => letGo()")
    explorer, controls, wanted = drawn()
    assert [controls[name].seen() for name in ("K", "M")] == ["16", "2"]
    agree(explorer, wanted)
    press(explorer, controls["K"], "ArrowLeft")
    agree(explorer, wanted)
    stopped.assert_clean()


KEPT = ["""from sscq.component import EXPLORABLES, Explorable
from sscq.explorers import codebook_explorer
shown = {name: Explorable(name) for name in EXPLORABLES}""",
        *(f'shown["{name}"]' for name in EXPLORABLES), "codebook_explorer()", 'shown["codebook"].state |= {"M": 2}\nsorted(shown["codebook"].state)']


class Frame:
    "An explorable in the frame of a notebook"
    def __init__(self, page, name: str):
        self.page, self.at = page, page.frame_locator(f"iframe[data-name={name}]")
        self.said, self.host = self.at.locator(".said"), self.at.locator("#explorable")
        self.said.wait_for()

    def shows(self) -> str:
        "Its sentence, its controls' values, where what can be dragged lies, and what is pressed"
        return self.host.evaluate("""e => [...e.shadowRoot.querySelectorAll('.said, output, .drag, [aria-pressed=true]')].map(
            o => o.getAttribute('aria-label') ?? o.textContent).join('; ')""")

    def press(self):
        "A key on the first thing that keys move; the picture follows"
        before, moves = self.shows(), self.at.locator("input[type=range], .drag")
        if moves.count(): moves.first.press("ArrowLeft" if moves.first.evaluate("e => e.value !== undefined && e.value === e.max") else "ArrowRight")
        else: self.at.locator(".answers button[aria-pressed=false]").first.press("Enter")
        for _ in range(200):
            if self.shows() != before: return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"a key changes nothing: {before}")


def test_a_notebook_opened_without_a_kernel_shows_every_explorable_where_it_was_left(lab):
    cells = [dict(cell_type="code", id=f"cell-{i}", metadata={}, execution_count=None, outputs=[], source=source) for i, source in enumerate(KEPT)]
    kernel = dict(name="python3", display_name="Python 3", language="python")
    path = lab.folder / "kept.ipynb"
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)), encoding="utf-8")
    notebook = lab.open("kept.ipynb")
    try:
        notebook.ran()
        frames = {name: Frame(notebook.page, name) for name in EXPLORABLES}
        for frame in frames.values(): frame.press()
        kept = "() => [...document.querySelectorAll('.sscq-state')].map(e => JSON.parse(e.dataset.state)).filter(s => Object.keys(s).length).length"
        notebook.page.wait_for_function(f"n => ({kept})() === n", arg=len(EXPLORABLES))
        notebook.run_last_cell()  # Python adds to what was moved
        frames["codebook"].said.filter(has_text="with 6 bits").wait_for()
        left = {name: frame.shows() for name, frame in frames.items()}
        notebook.save()
        notebook.assert_clean()
    finally: notebook.close()
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in saved["metadata"], "widget state is stored"
    assert "'M', 'tau'" in str(saved["cells"][-1]["outputs"]), "Python did not hear what was moved"
    with lab.read("kept.ipynb") as page:
        for name in EXPLORABLES:
            frame = Frame(page, name)
            assert frame.shows() == left[name]
            frame.press()
        page.get_by_text("run this cell to use it").wait_for()
        assert not page.get_by_text("Loading widget").is_visible()
        other = saved | dict(cells=saved["cells"][1:2])  # made by somebody whom this server does not know
        path.with_name("sent.ipynb").write_text(json.dumps(other), encoding="utf-8")
        page.evaluate(OPEN, "sent.ipynb")
        page.locator(".jp-RenderedHTML:not(:has(iframe))", has_text="in JupyterLab, trust the notebook first").wait_for()
