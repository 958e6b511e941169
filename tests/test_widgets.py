"The explorers' plain functions, and their wiring without a browser."
import gzip
import html
import io
import itertools
import json
import threading
import time
from copy import deepcopy
from dataclasses import replace
from datetime import datetime

import ipywidgets
import plotly.graph_objects as go
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from traitlets import Bunch

import sscq.explorers as sscq_explorers
import sscq.explorer as sscq_explorer
import sscq.playground as widgets
from sscq.figures import image_grid
from sscq import train as training
from sscq.codebook import pack
from sscq.contrastive import FUSIONS, fused_consistency
from sscq.core import SSCQ
from sscq.data import ImageSet, digits
from sscq.index import Index
from sscq.search import train_pq
from sscq.train import PRESETS
from sscq.retrieval import answers, as_source, embed_all, raw_pixel_index, retrieval_explorer, uploaded_picture
from sscq.playground import setup, train_watched, training_explorer
from sscq.explorers import codebook_explorer, distortions, example_points, plane_state, usage_explorer, users
from sscq.loss_explorers import contrast_explorer, divergences, neighbor_explorer, part_neighbors, seen_negatives
from sscq.explorer import short


@pytest.fixture(scope="module")
def data():
    all_ = digits()
    few = ImageSet(all_.database.images[:300], all_.database.labels[:300])
    return all_._replace(train=few.images, database=few, query=ImageSet(all_.query.images[:40], all_.query.labels[:40]))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SSCQ(bits=16, **PRESETS["digits"].model).eval()


@pytest.fixture(scope="module")
def history():
    g = torch.Generator().manual_seed(0)
    counts = [torch.randint(1, 50, (4, 16), generator=g) for _ in range(3)]
    return [dict(epoch=i + 1, usage=c.tolist(), perplexity=[float(v) for v in torch.rand(4, generator=g) * 16]) for i, c in enumerate(counts)]


@pytest.fixture
def explorers(data, model, history):
    codes = model.encode(data.database.images)
    return dict(codebook=codebook_explorer(), usage=usage_explorer({"a": history, "b": history[:2]}, data.database.images, codes),
                neighbors=neighbor_explorer(model, data.query.images), contrast=contrast_explorer(model, data.query.images[:12]),
                training=training_explorer(data), retrieval=retrieval_explorer({"SSCQ": model, "pixels": raw_pixel_index(data)}, data))


# ---- codebook

@pytest.mark.parametrize("M", [1, 2])
@pytest.mark.parametrize("K", [2, 8, 64])
def test_a_cold_softmax_lands_on_the_codeword(M, K):
    x = example_points(200, seed=1)
    state = plane_state(x, train_pq(x, M, K), 5, 1e-5)
    assert torch.allclose(state.z, state.word, atol=1e-3)
    assert torch.allclose(state.shares.sum(1), torch.ones(M))


def test_a_hot_softmax_lands_on_the_mean_of_the_codewords():
    x = example_points(200)
    books = train_pq(x, 1, 8)
    assert torch.allclose(plane_state(x, books, 5, 1e6).z, books[0].mean(0), atol=1e-4)


@pytest.mark.parametrize("M", [1, 2])
def test_more_bits_never_distort_more(M):
    d = distortions(example_points(), [2, 4, 8, 16, 32, 64], M)
    assert list(d) == [M * b for b in range(1, 7)]
    assert list(d.values()) == sorted(d.values(), reverse=True)


def test_codebook_controls_move_the_numbers():
    explorer = codebook_explorer()
    seen = {explorer.readout.value}
    for name, value in (("K", 32), ("M", 2), ("tau", .01), ("point", 3)):
        explorer.controls[name].value = value
        assert not explorer.message.value
        assert explorer.readout.value not in seen
        seen.add(explorer.readout.value)
    assert explorer.readout.value.startswith("K 32 · M 2 · 10 bits · distortion 0.0")


@pytest.mark.parametrize("points", [torch.rand(5, 3), torch.rand(1, 2), torch.rand(4), torch.full((9, 2), torch.nan)])
def test_points_that_do_not_fit_give_a_message(points):
    explorer = codebook_explorer(points)
    assert "role" in explorer.message.value and not explorer.controls


@pytest.mark.parametrize("points", [torch.rand(2, 2), torch.ones(10, 2), 1e4 * torch.rand(40, 2), 1e-4 * torch.rand(40, 2)])
def test_few_equal_large_and_small_points(points):
    explorer = codebook_explorer(points, n_words=64, n_books=5, tau=1e9)
    explorer.controls["M"].value = 2
    assert not explorer.message.value and explorer.readout.value


# ---- usage

def test_users_are_who_names_the_codeword():
    codes = torch.randint(0, 4, (50, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for m, k in itertools.product(range(3), range(4)): assert users(codes, m, k).tolist() == [i for i in range(50) if codes[i, m] == k]


def test_usage_shows_the_record_of_the_epoch(history):
    explorer = usage_explorer({"a": history})
    explorer.controls["epoch"].value, explorer.controls["book"].value, explorer.controls["word"].value = 2, 3, 7
    assert f"perplexity {history[1]['perplexity'][3]:.2f} of 16" in explorer.readout.value
    bars = explorer.figures["words"].figure.data[0]
    assert list(bars.y) == pytest.approx([c / sum(history[1]["usage"][3]) for c in history[1]["usage"][3]])
    assert [k for k, shape in enumerate(bars.marker.pattern.shape) if shape] == [7]
    assert "images" not in explorer.figures


@pytest.mark.parametrize("runs, codes, says", [
    ({"a": []}, None, "has no epoch"), ({"a": [dict(epoch=1)]}, None, "has no perplexity, usage"),
    (None, torch.zeros(3, 4, dtype=torch.uint8), "3 codes and 0 images")])
def test_usage_of_what_does_not_fit(runs, codes, says, history):
    assert says in usage_explorer(runs or {"a": history}, None, codes).message.value


# ---- neighbors

@pytest.mark.parametrize("M", [1, 2, 4])
def test_part_neighbors_by_loops(M):
    z = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
    for i, m in itertools.product((0, 7, 29), range(M)):
        cos, ids = part_neighbors(z, i, 5, M, m)
        d = 16 // M
        part = z[:, m * d:(m + 1) * d]
        want = sorted(((F.cosine_similarity(part[i], part[j], dim=0).item(), j) for j in range(30) if j != i), reverse=True)[:5]
        assert ids.tolist() == [j for _, j in want]
        assert cos.tolist() == pytest.approx([c for c, _ in want], abs=1e-5)


# ---- contrast

@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("B, tau", [(3, .2), (8, 1.), (20, .05)])
def test_divergences_average_to_the_loss(fusion, B, tau):
    g = torch.Generator().manual_seed(B)
    f, z = torch.randn(2 * B, 12, generator=g), torch.randn(2 * B, 12, generator=g)
    pairs = seen_negatives(f, z, fusion, tau)
    assert torch.allclose(divergences(pairs).mean(), fused_consistency(f, z, fusion, tau), rtol=1e-5, atol=1e-6)
    for p, q in pairs:
        for x in (p, q): assert torch.allclose(x.exp().sum(1), torch.ones(B)) and (x.exp() == 0).sum() >= 2 * B


def test_identical_views_agree(model, data):
    explorer = contrast_explorer(model, data.query.images[:12], view=lambda x: x)
    for fusion in ("sum", "embedding", "quantized", "max", "concatenate"):
        explorer.controls["fusion"].value = fusion
        assert "KL 0.0000 · batch mean 0.0000" in explorer.readout.value


def test_looking_changes_nothing_in_a_model(model, data):
    mine = deepcopy(model).train()
    before, modes = deepcopy(mine.state_dict()), []
    hook = mine.register_forward_pre_hook(lambda m, _: modes.append(m is mine))
    explorer = contrast_explorer(mine, data.query.images[:12])
    hook.remove()
    assert explorer.figures and mine.training and not any(modes), "the model itself was used"
    assert all(torch.equal(x, before[name]) for name, x in mine.state_dict().items())


# ---- training

def test_every_position_of_the_training_controls_is_valid(data):
    explorer = training_explorer(data)
    options = {name: explorer.controls[name].options for name in ("bits", "K", "d", "batch")}
    for bits, K in itertools.product(options["bits"], options["K"]):
        run = setup(data, bits, K, options["d"][0], batch_size=options["batch"][0])
        assert run.model.bits == bits
    assert options["d"][0] >= 1 and max(options["batch"]) <= len(data.train)
    smallest = setup(data, batch_size=32)
    assert len(train_watched(replace(smallest, config=PRESETS["digits"].config.__class__(epochs=1, batch_size=32)), data, threading.Event())) == 1


def test_a_stop_keeps_the_last_complete_epoch(data):
    run, stop, kept = setup(data, epochs=5), threading.Event(), {}
    def on_epoch(record):
        kept.update({name: x.clone() for name, x in run.model.state_dict().items()})
        if record["epoch"] == 2: stop.set()
    history = train_watched(run, data, stop, on_epoch=on_epoch)
    assert [r["epoch"] for r in history] == [1, 2]
    assert all(0 < r["map"] < 1 for r in history)
    assert all(torch.equal(x, kept[name]) for name, x in run.model.state_dict().items())


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(.02)


def test_training_stops_in_mid_epoch_and_refuses_a_second_one(data, monkeypatch):
    steps, step = [], training.train_step
    monkeypatch.setattr(training, "train_step", lambda *args, **kw: steps.append(1) or step(*args, **kw))
    one, two = training_explorer(data, epochs=50), training_explorer(data)
    one.controls["start"].click()
    try:
        until(lambda: len(one.runs["run 1"]["history"]) >= 1)
        one.controls["start"].click()
        assert "under way already" in one.message.value
        two.controls["start"].click()
        assert "under way already" in two.message.value and not two.runs
        one.controls["w_cc"].value = 0
        assert "applies to the next run" in one.message.value
    finally: one.controls["stop"].click()
    begun = len(steps)
    one.thread.join(60)
    assert not one.thread.is_alive() and 0 < begun <= len(steps) <= begun + 1  # the next step finds out
    done = len(one.runs["run 1"]["history"])
    assert f"stopped during epoch {done + 1}: the model keeps the weights of epoch {done}" in one.message.value
    assert one.runs["run 1"]["settings"]["weights"][2] == .4 and one.runs["run 1"]["state"] == "stopped"
    two.controls["epochs"].value = 1
    two.controls["start"].click()
    two.thread.join(60)
    assert not two.message.value and two.runs["run 1"]["state"] == "done"


def test_runs_are_kept_and_compared(data):
    explorer = training_explorer(data, epochs=2)
    for bits in (16, 8):
        explorer.controls["bits"].value = bits
        explorer.controls["start"].click()
        explorer.thread.join(60)
    assert list(explorer.runs) == ["run 1", "run 2"] and not explorer.message.value
    assert "run 2 · done · epoch 2 of 2 · 8 bits" in explorer.readout.value
    lines = explorer.figures["runs"].figure.data
    assert [line.name for line in lines] == ["run 1", "run 2"]
    assert list(lines[1].y) == [r["map"] for r in explorer.runs["run 2"]["history"]]
    assert "<td>bits 8</td>" in explorer.table.value and "the preset" in explorer.table.value
    assert explorer.bar.value == explorer.bar.max == 4
    assert explorer.figures["gauge"].figure.data[0].value == lines[1].y[-1]


def test_training_uses_the_device_it_is_told(data, monkeypatch):
    seen, real = [], widgets.training.fit
    def fit(model, *args, **kwargs): seen.append(model.device); return real(model, *args, **kwargs)
    monkeypatch.setattr(widgets.training, "fit", fit)
    explorer = training_explorer(data, epochs=1, device="cpu")
    assert "trains on cpu" in explorer.readout.value
    explorer.controls["start"].click()
    explorer.thread.join(60)
    assert seen == [torch.device("cpu")] and "· on cpu ·" in explorer.readout.value
    found = []
    monkeypatch.setattr(widgets, "find_device", lambda name=None: found.append(name) or torch.device("cpu"))
    training_explorer(data, device="cuda:1"); training_explorer(data); setup(data, device="mps")
    assert found == ["cuda:1", None, "mps"]


@pytest.mark.parametrize("device, says", [("gpu", "device='gpu' is unknown; choose cpu, cuda"), ("cuda:99", "is not there: this machine has")])
def test_a_device_that_is_not_there_is_said_before_anything_starts(data, device, says):
    explorer = training_explorer(data, device=device)
    assert says in html.unescape(explorer.message.value) and not explorer.controls and not explorer.runs
    with pytest.raises(ValueError, match=says): setup(data, device=device)


def test_a_training_that_fails_says_so_and_frees_the_place(data, monkeypatch):
    explorer = training_explorer(data, epochs=1)
    def broken(*_, **__): raise ValueError("step 1: icf is NaN or infinite")
    with monkeypatch.context() as m:
        m.setattr(widgets.training, "fit", broken)
        explorer.controls["start"].click()
        explorer.thread.join(10)
    assert "icf is NaN" in explorer.message.value and explorer.runs["run 1"]["state"] == "failed"
    explorer.controls["start"].click()
    explorer.thread.join(60)
    assert explorer.runs["run 2"]["state"] == "done" and not explorer.message.value


def code_of(explorer) -> tuple: return tuple(explorer.controls[name].value for name in ("K", "M", "bits"))


def test_two_of_k_m_and_bits_decide_the_third(data):
    explorer = training_explorer(data)
    controls = explorer.controls
    assert code_of(explorer) == (16, 4, 16)
    for name, value, wanted in (("K", 256, (256, 2, 16)), ("M", 3, (256, 3, 24)), ("bits", 64, (256, 8, 64)), ("K", 2, (2, 64, 64)), ("M", 8, (2, 8, 8)),
                                ("K", 256, (256, 1, 8)), ("K", 4, (4, 4, 8))):
        controls[name].value = value
        assert code_of(explorer) == wanted and not explorer.message.value
        assert all(controls[name].value in controls[name].options for name in ("K", "M", "bits"))
    for K in (2, 4, 16, 256):  # every position that can be reached is one that can be trained
        controls["K"].value = K
        for M in controls["M"].options:
            controls["M"].value = M
            assert setup(data, controls["bits"].value, K).model.codebooks.shape[:2] == (M, K)


def test_presets_set_every_control_and_are_named(data):
    explorer = training_explorer(data)
    controls, seen = explorer.controls, []
    for name in widgets.CHOICES:
        controls["d"].value, controls["K"].value, controls["w_pn"].value, controls["tau_cd"].value = 4, 2, 1.3, .5
        assert controls["preset"].value == "my own"
        controls["preset"].value = name
        seen.append(explorer.settings())
        assert not explorer.message.value and seen[-1]["word_dim"] == 16
        assert widgets.changes(seen[-1], explorer.base).count(" ") == 1 or name not in ("as in the library", "8 bits", "64 bits")
    assert seen[0] == explorer.base and all(a != b for a, b in itertools.combinations(seen, 2))
    controls["preset"].value = "8 bits"
    controls["bits"].value = 16
    assert controls["preset"].value == "as in the library"
    for settings in seen: assert setup(data, **settings | dict(epochs=1)).model.bits == settings["bits"]


HAND = {
    "K and M": ("K=64 M=3", dict(K=64, M=3, bits=18)), "spaces": ("K = 8,  M = 5", dict(K=8, M=5, bits=15)),
    "M alone": ("M=7", dict(K=16, M=7, bits=28)), "bits and K": ("bits=20 K=32", dict(K=32, M=4, bits=20)),
    "greek": ("τ_ic=.15 w_pn=0.25 epochs=33", dict(tau_ic=.15, w_pn=.25, epochs=33)),
    "others": ("d=5 batch=100 fusion=cross", dict(d=5, batch=100, fusion="cross"))}


@pytest.mark.parametrize("name", HAND)
def test_settings_by_hand(data, name):
    explorer, (text, wanted) = training_explorer(data), HAND[name]
    explorer.controls["hand"].value = text
    assert not explorer.message.value and explorer.controls["hand"].value == ""
    assert {n: explorer.controls[n].value for n in wanted} == wanted
    assert explorer.controls["preset"].value == "my own"
    assert setup(data, **explorer.settings() | dict(epochs=1)).model.bits == explorer.controls["bits"].value
    explorer.controls["K"].value = 4 if code_of(explorer)[0] != 4 else 16  # back on the slider's own positions
    assert not explorer.message.value and explorer.controls["K"].options == (2, 4, 16, 256)


MISTYPED = {
    "no power of two": ("K=12", "K=12 must be a power of two"), "too many words": ("K=512", "K=512 must be from 2 to 256"),
    "K alone": ("K=64", "bits=16 must be a multiple of 6"), "too long": ("K=256 M=40", "M=40 makes 320 bits; at most 256"),
    "contradiction": ("K=16 M=4 bits=20", "M=4 does not fit: 20 bits are 5 codebooks of 16 words"),
    "no books": ("M=0", "M=0 must be from 1 to 256"), "epochs": ("epochs=500", "epochs=500 must be from 1 to 50"),
    "cold": ("tau_ic=0.0001", "must be from 0.06 to 5"), "negative": ("w_cc=-1", "w_cc=-1 must be from 0 to 2"),
    "word": ("K=four", "K=four is no whole number"), "half": ("epochs=2.5", "epochs=2.5 is no whole number"),
    "not a number": ("tau_ic=nan", "tau_ic=nan must be from"), "batch": ("batch=9999", "must be from 8 to 300"),
    "unknown": ("speed=3", "setting='speed' is unknown; choose one of"), "no setting": ("hello", "'hello' is no setting"),
    "open": ("K=", "'K=' is no setting"), "fusion": ("fusion=glue", "fusion='glue' is unknown"),
    "huge": ("bits=" + "9" * 400, "must be from 1 to 256")}


@pytest.mark.parametrize("name", MISTYPED)
def test_what_is_wrong_with_settings_by_hand_is_one_sentence_and_nothing_changes(data, name):
    explorer, (text, says) = training_explorer(data), MISTYPED[name]
    before = explorer.settings()
    explorer.controls["hand"].value = text
    said = html.unescape(explorer.message.value)
    assert says in said and len(said) < 360 and "Traceback" not in said
    assert explorer.settings() == before and explorer.controls["hand"].value == text, "it can be mended where it stands"
    explorer.controls["bits"].value = 24
    assert not explorer.message.value


@pytest.mark.parametrize("bits, n", [(8, 10), (16, 300), (18, 7), (1, 3), (15, 4)])
def test_the_index_is_as_large_as_packed_codes(bits, n):
    K = {18: 64, 1: 2, 15: 8}.get(bits, 16)
    assert widgets.index_bytes(bits, n) == pack(torch.zeros(n, bits // (K.bit_length() - 1), dtype=torch.uint8), K).numel()


def test_map_and_bytes_stand_beside_bits(data):
    explorer = training_explorer(data, epochs=1)
    explorer.controls["hand"].value = "K=64 M=3"
    explorer.controls["start"].click()
    explorer.thread.join(60)
    assert "· 18 bits · K 64, M 3 · index 900 bytes ·" in explorer.readout.value
    history = explorer.runs["run 1"]["history"]
    assert f"<td>{history[-1]['map']:.3f}</td><td>18</td><td>900</td>" in explorer.table.value
    assert "18 bits, 900 bytes" in explorer.figures["gauge"].figure.data[0].title.text


def test_live_training_begins_anew_at_every_change_and_stop_ends_it(data):
    explorer = training_explorer(data, epochs=50)
    explorer.controls["live"].value = True
    try:
        until(lambda: explorer.runs.get("run 1", {}).get("history"))
        explorer.controls["bits"].value = 8
        until(lambda: "run 2" in explorer.runs and explorer.runs["run 2"]["history"])
        assert explorer.runs["run 1"]["state"] == "stopped" and explorer.runs["run 2"]["settings"]["bits"] == 8 and not explorer.message.value
        for bits in (24, 32, 48): explorer.controls["bits"].value = bits  # faster than a run can end: the last one counts
        until(lambda: list(explorer.runs.values())[-1]["settings"]["bits"] == 48 and list(explorer.runs.values())[-1]["history"])
        assert all(run["history"] for run in explorer.runs.values()), "a run without an epoch was kept"
        n = len(explorer.runs)
        explorer.controls["preset"].value = "my own"
        assert not explorer.stop.is_set() and len(explorer.runs) == n, "what changes nothing ends nothing"
        explorer.controls["hand"].value = "K=12"
        assert "power of two" in explorer.message.value and explorer.active, "a mistake ends nothing"
        explorer.controls["w_pn"].value = 1.
        explorer.controls["stop"].click()
        until(lambda: not explorer.active)
        n = len(explorer.runs)
        explorer.thread.join(60)
        assert not explorer.running and len(explorer.runs) == n
    finally:
        explorer.controls["live"].value = False
        explorer.controls["stop"].click()
        if explorer.thread is not None: explorer.thread.join(60)
    assert not widgets._BUSY.locked()


def test_live_training_is_refused_while_another_page_trains(data):
    explorer = training_explorer(data, epochs=1)
    with widgets._BUSY:
        explorer.controls["live"].value = True
        assert "under way already" in explorer.message.value and not explorer.runs and not explorer.active
    explorer.controls["bits"].value = 8
    explorer.thread.join(60)
    assert explorer.runs["run 1"]["state"] == "done" and not explorer.message.value


# ---- retrieval

@pytest.mark.parametrize("exact", [False, True])
def test_parts_add_up_to_the_distance(data, model, exact):
    for source in (as_source("m", model, data), as_source("p", raw_pixel_index(data), data)):
        f = source.index.embed(data.query.images[:1])[0]
        found = answers(source, f, 7, exact)
        assert torch.allclose(found.parts.sum(1), found.distances, rtol=1e-4)
        assert (found.distances.diff() >= 0).all()
        if exact: assert found.ids.tolist() == (source.f - f).square().sum(1).sort(stable=True).indices[:7].tolist()
        else: assert torch.equal(found.ids, source.index.search(f[None], 7).ids[0])


def test_hits_are_counted_by_labels(data, model):
    explorer = retrieval_explorer({"SSCQ": model}, data)
    explorer.controls["query"].value = 11
    source = as_source("m", model, data)
    ids = answers(source, model.embed(data.query.images[11:12])[0], 10).ids
    assert f"hits {(data.database.labels[ids] == data.query.labels[11]).sum()} of 10" in explorer.readout.value


def other_model(): return SSCQ(bits=16, **(PRESETS["digits"].model | dict(image_size=16))).eval()


@pytest.mark.parametrize("make, says", [
    (lambda d, m: retrieval_explorer({}, d), "0 models"), (lambda d, m: retrieval_explorer({"a": m, "b": m, "c": m}, d), "3 models"),
    (lambda d, m: retrieval_explorer({"a": other_model()}, d), "the model takes 16×16"), (lambda d, m: retrieval_explorer({"a": "model"}, d), "is a str"),
    (lambda d, m: retrieval_explorer({"a": Index(m.codebooks)}, d), "no embed="),
    (lambda d, m: retrieval_explorer({"a": m.index(d.query.images)}, d), "holds 40 images, the database of digits 300"),
    (lambda d, m: retrieval_explorer({"a": Index(m.codebooks[:2], embed=m.embed).add(m.encode(d.database.images)[:, :2])}, d), "of different models"),
    (lambda d, m: retrieval_explorer({"a": raw_pixel_index(d._replace(database=ImageSet(d.database.images.roll(1, 0))))}, d), "of other images or another"),
    (lambda d, m: neighbor_explorer(other_model(), d.query.images), "the model takes 16×16"),
    (lambda d, m: neighbor_explorer(m, d.query.images.repeat(1, 3, 1, 1)), "have 3 channels"),
    (lambda d, m: neighbor_explorer(m, d.query.images[:2]), "at least 3"),
    (lambda d, m: contrast_explorer(m, d.query.images[:2]), "at least 6"), (lambda d, m: contrast_explorer(m, d.query.images, view="cat"), "'cat' is unknown"),
    (lambda d, m: training_explorer(d._replace(query=ImageSet(d.query.images))), "has no labels"),
    (lambda d, m: training_explorer(d, epochs=0), "epochs=0 must be at least 1"), (lambda d, m: retrieval_explorer({"a": m}, d, k=0), "k=0 must be"),
    (lambda d, m: codebook_explorer(tau=0), "tau=0 must be positive")])
def test_models_and_data_that_do_not_fit_give_a_message(data, model, make, says):
    explorer = make(data, model)
    assert says in html.unescape(explorer.message.value) and 'role="status"' in explorer.message.value
    assert not explorer.controls and not explorer.figures


def picture(kind, size=(20, 30), frames=1):
    file = io.BytesIO()
    images = [Image.new("L", size, 10 + 200 * i) for i in range(frames)]
    images[0].save(file, kind, **(dict(save_all=True, append_images=images[1:]) if frames > 1 else {}))
    return file.getvalue()


@pytest.mark.parametrize("content, says", [
    (lambda: b"hello", "not a picture"), (lambda: b"", "empty"), (lambda: picture("PNG")[:50], "damaged"), (lambda: picture("GIF", frames=3), "animated"),
    (lambda: picture("PNG", frames=2), "animated"), (lambda: picture("WEBP", frames=2), "animated"),
    (lambda: picture("PNG", (20_000, 20_000)), "enormous"), (lambda: picture("PNG", (10_000, 10_000)), "enormous")],
    ids=["text", "nothing", "cut off", "gif", "apng", "webp", "20,000 wide", "10,000 wide"])
def test_uploads_that_are_no_still_picture(content, says):
    with pytest.raises(ValueError, match=f"^file: .*{says}") as error: uploaded_picture("file", content(), 8, 1)
    assert len(short(error.value)) < 160 and "/tmp" not in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_still_pictures_are_taken(kind): assert uploaded_picture("a", picture(kind), 8, 1).shape == (1, 1, 8, 8)


def upload(explorer, content):
    box = explorer.controls["upload"]
    box.value = (Bunch(name="mine.png", type="image/png", size=len(content), content=memoryview(content), last_modified=datetime.now()),)


def test_an_upload_becomes_the_query_until_another_is_chosen(data, model):
    explorer = retrieval_explorer({"SSCQ": model}, data)
    before = explorer.readout.value
    upload(explorer, b"no picture")
    assert "mine.png: not a picture" in explorer.message.value and explorer.readout.value == before
    upload(explorer, picture("PNG"))
    assert not explorer.message.value and explorer.readout.value.startswith("query uploaded · quantized · SSCQ: 16 bits · labels not known")
    explorer.controls["exact"].value = "exact"
    assert explorer.readout.value.startswith("query uploaded · exact")
    explorer.controls["query"].value = 5
    assert explorer.readout.value.startswith("query 5 · exact") and "hits" in explorer.readout.value


@pytest.mark.parametrize("seconds", [0., 5.])
def test_a_bar_is_shown_while_a_large_database_is_encoded(capsys, monkeypatch, seconds):
    import tqdm.std
    clock = iter(range(10_000))
    monkeypatch.setattr(tqdm.std, "time", lambda: next(clock) * seconds)
    f = embed_all(lambda x: x.flatten(1), torch.arange(600).float().view(600, 1, 1, 1))
    assert f[:, 0].tolist() == list(range(600))
    assert ("encoding" in capsys.readouterr().err) == bool(seconds)


@pytest.mark.parametrize("kind", ["model", "index"])
def test_encoding_a_database_can_be_stopped(data, model, monkeypatch, kind):
    asked = raw_pixel_index(data) if kind == "index" else model
    embed, calls = asked.embed, []
    def interrupted(x):
        calls.append(len(x))
        if len(calls) == 2: raise KeyboardInterrupt
        return embed(x)
    with monkeypatch.context() as m:
        m.setattr(asked, "embed", interrupted)
        explorer = retrieval_explorer({"a": asked}, data)
    assert calls == [256, 44] and "stopped before it was ready: run this cell again" in explorer.message.value
    assert not explorer.controls and not explorer.figures
    assert not retrieval_explorer({"a": asked}, data).message.value


def test_a_source_is_the_index_that_the_model_makes(data, model):
    source, index = as_source("m", model, data), model.index(data.database.images)
    assert torch.equal(source.index.codes, index.codes) and torch.equal(source.f, model.embed(data.database.images))


# ---- all of them

def positions(control):
    if isinstance(control, (ipywidgets.SelectionSlider, ipywidgets.Dropdown, ipywidgets.ToggleButtons)): return [control.options[i] for i in (1, -1, 0)]
    if isinstance(control, ipywidgets.FloatLogSlider): return [10. ** control.min, 10. ** control.max]
    return [control.max, control.min] if hasattr(control, "max") else []


def test_no_position_of_a_control_is_an_error(explorers):
    for name, explorer in explorers.items():
        assert not explorer.message.value, name
        for control in explorer.controls.values():
            for value in positions(control):
                control.value = value
                assert not explorer.message.value, (name, control.description, value)
        for at in (0, -1):  # and all at one end
            for control in explorer.controls.values():
                if positions(control): control.value = positions(control)[at]
            assert not explorer.message.value, (name, at)


def test_controls_have_labels_tooltips_and_classes(explorers):
    for name, explorer in explorers.items():
        assert {"sscq-explorer", f"sscq-{name}"} <= set(explorer._dom_classes)
        assert "sscq-readout" in explorer.readout._dom_classes and "sscq-message" in explorer.message._dom_classes and explorer.readout.value
        for key, control in explorer.controls.items():
            assert control.description and control.tooltip and f"sscq-control-{key}" in control._dom_classes
        for live in explorer.figures.values(): assert live.figure.layout.width <= 836 and live.figure.layout.height


def test_an_exception_in_a_callback_is_a_message_and_the_controls_live_on(monkeypatch):
    explorer = codebook_explorer()
    with monkeypatch.context() as m:
        m.setattr(sscq_explorers, "plane_figure", lambda *_: 1 / 0)
        explorer.controls["K"].value = 32
    assert "ZeroDivisionError: division by zero" in explorer.message.value
    explorer.controls["K"].value = 16
    assert not explorer.message.value and explorer.readout.value.startswith("K 16")


def test_messages_are_short_and_cannot_be_markup():
    assert len(short(ValueError("x" * 1000))) == 300
    assert short(ValueError("one\ntwo")) == "one" and short(KeyError()) == "KeyError: KeyError"
    explorer = codebook_explorer()
    explorer.say("<script>")
    assert "<script>" not in explorer.message.value


def test_a_click_is_a_choice(explorers, history):
    def click(live, trace, i): live._handle_custom_msg(dict(trace=trace, point=i), [])  # as the page sends it
    click(explorers["codebook"].figures["plane"], 1, 8)
    assert explorers["codebook"].controls["point"].value == 8
    click(explorers["usage"].figures["words"], 0, 5)
    assert explorers["usage"].controls["word"].value == 5
    click(explorers["retrieval"].figures["queries"], 0, 29)
    assert explorers["retrieval"].controls["query"].value == 39
    click(explorers["retrieval"].figures["answers"], 0, 3)
    assert explorers["retrieval"].controls["answer"].value == 3
    neighbors = explorers["neighbors"]
    nearest = part_neighbors_of(neighbors)
    click(neighbors.figures["neighbors"], 0, 1)
    assert neighbors.controls["image"].value == nearest


def part_neighbors_of(explorer):  # the first neighbour shown, by its picture
    source = explorer.figures["neighbors"].figure.layout.images[1].source
    for i in range(explorer.controls["image"].max + 1):
        if i == explorer.controls["image"].value: continue
        explorer_image = image_grid(explorer_images[i:i + 1], size=72).layout.images[0].source
        if explorer_image == source: return i


@pytest.fixture(autouse=True)
def pictures_of_the_explorer(data):
    global explorer_images
    explorer_images = data.query.images


# ---- figures in place, stills

def test_a_page_that_comes_later_gets_the_figure_of_now(explorers):
    live = explorers["codebook"].figures["bits"]
    explorers["codebook"].controls["K"].value = 64
    seen = json.loads(live.description.get_state()["json"])
    assert seen["data"][2]["x"] == [6] and seen["layout"]["width"] == live.figure.layout.width


def test_a_redraw_sends_the_figure_and_not_the_script(monkeypatch):
    live, sent = sscq_explorer.LiveFigure(image_grid(torch.zeros(3, 1, 8, 8))), []
    for part in (live, live.description, live.script): monkeypatch.setattr(part.comm, "send", lambda data=None, **_: sent.append(data))
    live.show(image_grid(torch.zeros(2, 1, 8, 8)))
    assert [list(message["state"]) for message in sent] == [["json"]]


def test_figures_share_one_script_and_get_another_when_it_was_closed():
    one, two = (sscq_explorer.LiveFigure(go.Figure()) for _ in range(2))
    assert one.script is two.script and b"Plotly" in gzip.decompress(one.script.packed)
    assert len(one.script.packed) > 1e6 > 1e5 > len(json.dumps([one.get_state(), one.description.get_state()]))
    one.script.close()
    assert sscq_explorer.LiveFigure(go.Figure()).script is not one.script


@pytest.fixture
def fake_png(monkeypatch):
    def to_image(self, _format):
        file = io.BytesIO()
        Image.new("RGB", (int(self.layout.width), int(self.layout.height)), "white").save(file, "PNG")
        return file.getvalue()
    monkeypatch.setattr(go.Figure, "to_image", to_image)


def test_what_is_displayed_where(monkeypatch, fake_png):
    explorer = codebook_explorer()
    for name in ("IN_TEST", "SSCQ_STILL"): monkeypatch.delenv(name, raising=False)
    live = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in live and "image/png" not in live
    monkeypatch.setenv("SSCQ_STILL", "1")
    assert set(explorer._repr_mimebundle_()) == {"image/png", "text/plain"}
    monkeypatch.setenv("IN_TEST", "1")
    assert set(explorer._repr_mimebundle_()) == {"text/plain"}


def test_a_still_holds_every_figure_and_the_numbers(explorers, fake_png):
    for explorer in explorers.values():
        sheet = Image.open(io.BytesIO(sscq_explorer.still(explorer)))
        rows = [[explorer.figures[name].figure.layout for name in row] for row in explorer.rows]
        assert sheet.width == max([600, *(sum(f.width for f in row) for row in rows)])
        assert sheet.height > sum(max(f.height for f in row) for row in rows)


def test_a_still_of_an_explorer_that_could_not_be_made(fake_png):
    assert sscq_explorer.still(codebook_explorer(torch.rand(3, 3)))


def test_a_still_of_training_shows_a_run(data, monkeypatch, fake_png):
    monkeypatch.delenv("IN_TEST", raising=False)
    monkeypatch.setenv("SSCQ_STILL", "1")
    explorer = training_explorer(data, epochs=1)
    explorer._repr_mimebundle_()
    assert explorer.runs["run 1"]["state"] == "done"
