"How long a training is, what pictures are taken for, models without a network, and codes that tie."
import copy
import logging
import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from train_runs import OBJECTIVE, small_model

from sscq import SSCQ, TrainConfig, budget, train
from sscq.budget import (
    PictureFacts, check_length, choose_setup, code_spread, describe_pictures, duration, n_batches, plan_words, prepare, steps_in, tie_words, time_steps)
from sscq.checkpoint import last_checkpoint
from sscq.data import digits
from sscq.reading import Pictures
from sscq.train import Run, batches_of_epoch, fit, n_steps, seconds_per_step
from sscq.views import VIEWS, digit_view


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def images(): return digits().train[:96]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def squares(folder: Path, n: int, side: int = 20, colour=lambda i: (200, 37 * i % 256, 60), kind="RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n): Image.new(kind, (side + 5, side), colour(i)).save(folder / f"{i:03}.png")
    return folder


def grainy(folder: Path, n: int, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(n): Image.fromarray(rng.integers(0, 256, (18, 18, 3), dtype=np.uint8)).save(folder / f"{i:03}.png")
    return folder


# --- how long

@pytest.mark.parametrize("minutes", [0, -1, -.5, math.nan, math.inf, -math.inf, 1e9])
def test_minutes_that_cannot_be(minutes, images):
    with pytest.raises(ValueError, match="^minutes="): check_length(minutes)
    with pytest.raises(ValueError, match="^minutes="): SSCQ(bits=16).fit(images, minutes=minutes)
    with pytest.raises(TypeError, match="^minutes='ten' is of type str"): check_length("ten")


@pytest.mark.parametrize("both", [dict(minutes=1, steps=5), dict(minutes=1, epochs=5), dict(steps=1, epochs=5), dict(minutes=1, steps=2, epochs=3)])
def test_a_length_is_said_in_one_way(both, images):
    for model in (SSCQ(bits=16), SSCQ(bits=16, backbone="tiny_cnn", channels=1, image_size=8)):
        with pytest.raises(ValueError, match="=.* and .*=.*: give one of minutes, steps and epochs"): model.fit(images, **both)


@hypothesis_settings(deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 300))
def test_parts_of_steps(steps, epochs):
    config = TrainConfig(steps=steps, epochs=epochs)
    assert 1 <= config.epochs <= min(steps, epochs) and TrainConfig(steps=steps, epochs=config.epochs) == config
    part = math.ceil(steps / config.epochs)
    run = Run(None, torch.zeros(4, 1, 2, 2), None, None, config, None, part, 2)
    each = [n_steps(run, epoch) for epoch in range(config.epochs + 1)]
    assert sum(each) == steps and each[-1] == 0 and set(each[:-2]) <= {part} and 1 <= each[-2] <= part


@given(st.integers(2, 40), st.integers(2, 16), st.integers(1, 60), st.integers(1, 12))
@hypothesis_settings(max_examples=60, deadline=None)
def test_however_steps_are_cut_the_batches_are_the_same(n, batch_size, steps, epochs):
    "Pass after pass; each has every image once"
    per_pass = n_batches(n, batch_size)
    def order(epochs):
        config = TrainConfig(steps=steps, epochs=epochs, batch_size=batch_size)
        run = Run(None, torch.zeros(n, 1, 2, 2), None, None, config, None, math.ceil(steps / config.epochs), per_pass)
        return [i.tolist() for epoch in range(config.epochs) for i in batches_of_epoch(run, epoch)]
    found = order(epochs)
    assert found == order(1) and len(found) == steps
    for start in range(0, steps - per_pass + 1, per_pass): assert sorted(sum(found[start:start + per_pass], [])) == list(range(n))


def test_an_epoch_without_steps_is_a_pass(images):
    run = Run(None, images, None, None, TrainConfig(epochs=3), None, 2, 2)
    assert [n_steps(run, epoch) for epoch in range(3)] == [2, 2, 2]
    assert all(torch.equal(a, b) for a, b in zip(batches_of_epoch(run, 1), train.epoch_batches(96, 2, 0, 1)))


class Clock:
    "Stands for `time`; a step takes as long as it is told, the first ones longer"
    def __init__(self, step, first=0., n_first=2): self.now, self.step, self.first, self.left, self.made = 0., step, first, n_first, 0
    def perf_counter(self): return self.now

    def __call__(self):
        self.now += self.first if self.left else self.step
        self.left, self.made = max(0, self.left - 1), self.made + 1


@pytest.mark.parametrize("step, first, most", [(.01, 1.5, 230), (.3, .9, 12), (1.9, 1.9, 8), (20., 40., 3)])
def test_the_first_steps_are_not_timed(step, first, most, monkeypatch):
    clock = Clock(step, first, n_first=1 if step > 2 else 2)
    monkeypatch.setattr(budget, "time", clock)
    assert time_steps(clock) == pytest.approx(step) and clock.made <= most


def test_minutes_are_steps():
    assert steps_in(10, .2) == 3000 and steps_in(10, .2, most=500) == 500 and steps_in(.5, 0.) == 1
    with pytest.warns(UserWarning, match=r"minutes=0.001 is less than one step takes \(0.5 s\)"): assert steps_in(.001, .5) == 1
    assert [duration(s) for s in (.2, 8, 89.4, 91, 5940, 6000, 7200, 9000)] == [
        "under a second", "8 s", "89 s", "2 min", "99 min", "1 h 40 min", "2 h", "2 h 30 min"]


def test_trying_changes_nothing(images):
    model, config = small_model(), TrainConfig(batch_size=32, steps=10)
    before, generator = copy.deepcopy(model), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 < seconds_per_step(model, images[:20], digit_view, OBJECTIVE, config) < 10
    assert same(model, before) and torch.equal(torch.get_rng_state(), generator) and all(p.grad is None for p in model.parameters())


def test_trying_stops_where_memory_ends(images, monkeypatch):
    def full(*_, **__): raise torch.OutOfMemoryError("full")
    monkeypatch.setattr(train, "train_step", full)
    assert seconds_per_step(small_model(), images, digit_view, OBJECTIVE, TrainConfig(batch_size=32)) == 0


@pytest.mark.parametrize("images_n, batch, steps", [(2, 2, 7), (50, 50, 7), (96, 10, 3), (7, 3, 11)])
def test_training_makes_the_steps_it_was_told(images, tmp_path, images_n, batch, steps):
    config = TrainConfig(steps=steps, epochs=4, batch_size=batch, warmup_epochs=1)
    history = fit(small_model(), images[:images_n], digit_view, SSCQ_FEW, config, out=tmp_path)
    assert len(history) == config.epochs and history[-1]["steps"] == steps
    saved = last_checkpoint(tmp_path)
    assert sum(saved.meta["steps"]) == steps and saved.meta["settings"]["steps"] == steps and len(saved.meta["steps"]) == len(history)


SSCQ_FEW = train.SSCQObjective(n_neighbors=2)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_of_steps_is_exact(images, tmp_path, stop):
    config = TrainConfig(steps=11, epochs=5, batch_size=40, warmup_epochs=1)
    whole = small_model()
    fit(whole, images, digit_view, OBJECTIVE, config)
    def ctrl_c(record):
        if record["epoch"] == stop: raise KeyboardInterrupt
    with pytest.warns(UserWarning, match=rf"stopped before step {3 * (stop + 1) if stop < 3 else 11} of 11: the model keeps the weights that {3 * stop} steps"):
        fit(small_model(), images, digit_view, OBJECTIVE, config, ctrl_c, out=tmp_path)
    again = small_model(seed=5)
    history = fit(again, images, digit_view, OBJECTIVE, config, out=tmp_path, resume=True)
    assert same(again, whole) and [r["steps"] for r in history] == [3, 6, 9, 11]


def test_minutes_become_steps_once(tmp_path, monkeypatch):
    "A run that goes on is not timed again, and ends where an undisturbed one with as many steps does"
    photos = grainy(tmp_path / "photos", 24)
    monkeypatch.setattr(train, "seconds_per_step", lambda *_: 1.)
    seen = []
    def ctrl_c(record):
        seen.append(record["steps"])
        if len(seen) == 3: raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="keeps the weights that 3 steps"):
        SSCQ(bits=16, seed=0).fit(photos, minutes=.5, out=tmp_path / "run", on_epoch=ctrl_c, progress=False)
    def never(*_): raise AssertionError("timed again")
    monkeypatch.setattr(train, "seconds_per_step", never)
    again = SSCQ(bits=16, seed=0).fit(photos, minutes=9, out=tmp_path / "run", resume=True, progress=False)
    assert again.settings.steps == 30 and again.history[-1]["steps"] == 30
    monkeypatch.setattr(train, "seconds_per_step", lambda *_: 0.)
    assert same(again, SSCQ(bits=16, seed=0).fit(photos, steps=30, progress=False))
    with pytest.raises(ValueError, match="changed: .*steps from 30 to 20"):
        SSCQ(bits=16, seed=0).fit(photos, steps=20, out=tmp_path / "run", resume=True, progress=False)


def test_a_finished_run_gets_more_minutes(tmp_path, monkeypatch):
    "Only where that is asked for: the steps it made stay, more parts of the same length follow"
    photos, out = grainy(tmp_path / "photos", 12), tmp_path / "run"
    monkeypatch.setattr(train, "seconds_per_step", lambda *_: 1.)
    monkeypatch.setattr(budget, "PARTS", 4)
    first = SSCQ(bits=16, seed=0).fit(photos, minutes=.2, out=out, progress=False)
    assert [r["steps"] for r in first.history] == [3, 6, 9, 12]
    more = SSCQ(bits=16, seed=0).fit(photos, minutes=.3, out=out, resume="changed", progress=False)
    assert [r["steps"] for r in more.history] == [3, 6, 9, 12, 15, 18]
    assert len(SSCQ(bits=16, seed=0).fit(photos, steps=20, out=out, resume="changed", progress=False).history) == 7
    assert len(SSCQ(bits=16, seed=0).fit(photos, out=out, resume="changed", progress=False).history) == 7


def test_a_default_training_is_as_long_as_few_pictures_need(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "sscq")
    monkeypatch.setattr(budget, "LEAST_STEPS", 6), monkeypatch.setattr(budget, "MOST_PASSES", 2)
    monkeypatch.setattr(train, "seconds_per_step", lambda *_: .5)
    model = SSCQ(bits=16, seed=0).fit(grainy(tmp_path / "photos", 12), progress=False)
    assert model.settings.steps == 6
    told, plan = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert told == "12 pictures, in colour, 18 pixels on the shorter side (median): " + told.rpartition(": ")[2] and "view" in told
    assert plan == "training on cpu: 6 steps of 12 pictures, about 3 s (6 passes over 12 pictures)"
    monkeypatch.setattr(budget, "MINUTES", .02)
    assert SSCQ(bits=16, seed=0).fit(tmp_path / "photos", progress=False).settings.steps == 2


def test_a_plan_in_words():
    config = TrainConfig(steps=1000, batch_size=128, epochs=50)
    assert plan_words("cpu", 1_000_000, config, .6) == "training on cpu: 1,000 steps of 128 pictures, about 10 min (13% of 1,000,000 pictures)"
    assert plan_words("cpu", 500, config, .6, reached=25) == (
        "training on cpu: 1,000 steps of 125 pictures, 500 of them done, about 5 min more (250 passes over 500 pictures)")
    assert "about" not in plan_words("cpu", 500, config, .6, reached=50) + plan_words("cpu", 500, config, 0.)


# --- what pictures are

def test_pictures_are_described_by_a_sample(tmp_path, monkeypatch):
    assert describe_pictures(sorted(squares(tmp_path / "colour", 5, 40).iterdir())) == PictureFacts(5, 3, 40)
    assert describe_pictures(sorted(squares(tmp_path / "gray", 5, 40, lambda i: (i, i, i)).iterdir())) == PictureFacts(5, 1, 40)
    assert describe_pictures(sorted(squares(tmp_path / "L", 3, 9, lambda i: 40 * i, "L").iterdir())) == PictureFacts(3, 1, 9)
    assert describe_pictures(sorted(squares(tmp_path / "P", 3, 9, lambda i: i, "P").iterdir())).channels in (1, 3)
    opened = []
    right = budget._open
    monkeypatch.setattr(budget, "_open", lambda *args: opened.append(1) or right(*args))
    many = sorted((tmp_path / "colour").iterdir()) * 10_000
    assert describe_pictures(many) == PictureFacts(50_000, 3, 40) and len(opened) <= budget.LOOKED_AT


def test_pictures_in_other_forms_are_described():
    x = torch.zeros(7, 3, 12, 12, dtype=torch.uint8)
    assert describe_pictures(x) == describe_pictures(x.numpy()) == PictureFacts(7, 3, 12, True)
    assert describe_pictures([x[0], x[1]]) == PictureFacts(2, 3, 12, True)
    assert describe_pictures([Image.new("RGB", (30, 50), "red"), Image.new("L", (30, 90))]) == PictureFacts(2, 3, 30)

    class Pairs(Dataset):
        def __init__(self, keyed): self.keyed = keyed
        def __len__(self): return 1000
        def __getitem__(self, i):
            one = Image.new("RGB", (64, 48), (i % 256, 0, 0))
            return dict(photo=one, label=3) if self.keyed else (one, 3)
    assert describe_pictures(Pairs(False)) == describe_pictures(Pairs(True), "photo") == PictureFacts(1000, 3, 48)
    with pytest.raises(TypeError, match="say which of them is the picture"): describe_pictures(Pairs(True))
    assert describe_pictures(Pictures(["a.png"], 24, 1)) == PictureFacts(1, 1, 24, True)
    with pytest.raises(ValueError, match=r"must be \(N, C, H, W\)"): describe_pictures(torch.zeros(3, 8, 8))


def test_files_that_are_no_pictures_do_not_decide(tmp_path):
    folder = squares(tmp_path / "mixed", 3, 33)
    (folder / "a.jpg").write_bytes(b"no picture"), (folder / "b.jpg").write_bytes(b"")
    assert describe_pictures(sorted(folder.iterdir())) == PictureFacts(5, 3, 33)
    assert describe_pictures([folder / "a.jpg", folder / "gone.jpg"]) == PictureFacts(2, 3, 32)


@hypothesis_settings(deadline=None)
@given(st.integers(2, 2_000_000), st.sampled_from([1, 3]), st.integers(1, 5000), st.booleans())
def test_a_setup_for_whatever_there_is(n, channels, side, fixed):
    "It can be built, sees enough steps, and nobody is warned of batches or neighbors"
    side = min(side, 300) if fixed else side
    if fixed: side = max(side, 4)
    setup = choose_setup(PictureFacts(n, channels, side, fixed))
    with torch.device("meta"): SSCQ(bits=32, **setup.model)
    assert setup.view in VIEWS and setup.model["channels"] == channels and (not fixed or setup.model["image_size"] == side)
    config = TrainConfig(**setup.config)
    assert config.batch_size <= max(n, 2) and config.steps >= budget.LEAST_STEPS
    smallest = n // n_batches(n, config.batch_size)
    assert setup.objective.n_neighbors <= 2 * smallest - 2
    assert "\n" not in setup.words and f"{n:,} pictures" in setup.words


def test_whatever_is_chosen_can_be_chosen_otherwise():
    facts = PictureFacts(500, 3, 64)
    setup = choose_setup(facts, steps=77, backbone="resnet18_small", channels=1, image_size=24, batch_size=30, view="digit")
    assert setup.model == dict(backbone="resnet18_small", channels=1, image_size=24) and setup.view == "digit" and setup.minutes is None
    assert setup.config["batch_size"] == 30 and setup.config["steps"] == 77
    setup = choose_setup(facts, minutes=3)
    assert setup.minutes == 3 and setup.config["steps"] is None


@pytest.mark.parametrize("n, side, how, size", [
    (3000, 48, {}, 48), (3001, 48, {}, 32), (3000, 47, {}, 32), (300, 64, dict(minutes=1), 48), (301, 64, dict(minutes=1), 32),
    (1280, 64, dict(steps=1500), 48), (1280, 64, dict(steps=1499), 32), (64, 64, dict(steps=150), 48), (10, 9, {}, 8), (10, 20, {}, 16),
    (10, 64, dict(image_size=32), 32)], ids=str)
def test_pictures_that_are_seen_often_are_seen_larger(n, side, how, size):
    "150 passes, or 300 pictures for every minute"
    assert choose_setup(PictureFacts(n, 3, side), **how).model["image_size"] == size
    assert choose_setup(PictureFacts(n, 3, side, fixed=True), **how).model["image_size"] == how.get("image_size", side)


@pytest.mark.parametrize("n, bits, words", [(999, 32, (16, 16)), (1000, 32, (256, 32)), (5000, 64, (256, 32)), (5000, 16, (16, 16)), (5000, 36, (16, 16)),
                                            (5000, 40, (256, 32)), (5000, None, None)])
def test_words_for_many_pictures(n, bits, words):
    "32 bits are four books of 256 words, and f is as long as with eight of 16"
    setup = choose_setup(PictureFacts(n, 3, 64), bits=bits)
    assert (setup.model.get("n_words"), setup.model.get("word_dim")) == (words or (None, None)) and ("books of" in setup.words) == (bits is not None)
    if bits: assert SSCQ(bits=bits, **setup.model).bits == bits


def test_words_that_are_told_are_not_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MANY", 10)
    photos = grainy(tmp_path / "photos", 12)
    def shape(**kw): return tuple(SSCQ(seed=0, **kw).fit(photos, steps=1, progress=False).codebooks.shape)
    assert shape(bits=32) == (4, 256, 32)
    assert shape(bits=32, n_words=16) == (8, 16, 16) and shape(bits=32, word_dim=8) == (8, 16, 8) and shape(n_books=8) == (8, 16, 16)


@pytest.mark.parametrize("avx, precision", [(True, "bf16"), (False, "fp32")])
def test_precision_is_the_machine_s_and_stays_that_of_a_run(avx, precision, monkeypatch):
    monkeypatch.setattr(budget, "quick_precision", lambda device: "bf16" if avx else "fp32")
    assert choose_setup(PictureFacts(500, 3, 64)).config["precision"] == precision
    assert choose_setup(PictureFacts(500, 3, 64), precision="fp32").config["precision"] == "fp32"


def test_of_very_many_pictures_a_sample_is_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "PICTURES_A_MINUTE", 5)
    folder = squares(tmp_path / "many", 30)
    some, setup = prepare(folder, minutes=2)
    again, _ = prepare(folder, minutes=2)
    assert len(some) == 10 and some.paths == again.paths == sorted(set(some.paths)) and setup.config["batch_size"] == 10
    assert "30 pictures" in setup.words and "sees 10 of the pictures, drawn at random" in setup.words
    assert len(prepare(folder, minutes=6)[0]) == 30 and len(prepare(folder, steps=1)[0]) == 25
    assert len(prepare(sorted(folder.iterdir()), minutes=1)[0]) == 5
    x = torch.zeros(30, 3, 8, 8, dtype=torch.uint8)
    assert prepare(x, minutes=1)[0] is x


# --- a model without a network

VERBS = {
    "forward": lambda m: m(torch.zeros(1, 3, 32, 32)), "codebooks": lambda m: m.codebooks, "device": lambda m: m.device, "embed": lambda m: m.embed("x"),
    "encode": lambda m: m.encode(torch.zeros(1, 3, 32, 32)), "index": lambda m: m.index("x"), "save": lambda m: m.save_pretrained("x"),
    "state": lambda m: m.state_dict(), "load": lambda m: m.load_state_dict({}), "parameters": lambda m: list(m.parameters()),
    "images": lambda m: m.to_images("x"),
    "fit": lambda m: fit(m, torch.zeros(4, 3, 32, 32, dtype=torch.uint8)), "quantizer": lambda m: m.quantizer.codebooks, "backbone": lambda m: m.backbone(1)}


@pytest.mark.parametrize("verb", VERBS)
def test_what_needs_a_network_says_so(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for model in (SSCQ(bits=32), SSCQ(n_books=8, backbone="auto", image_size=24)):
        with pytest.raises(ValueError, match="no network yet: .* call that first, or give SSCQ a backbone"): VERBS[verb](model)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_network_is_a_module_all_the_same():
    model = SSCQ(n_books=4, seed=1)
    assert model.bits == 16 and "not built yet" in repr(model) and model.train().eval().to("cpu") is model
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))): assert twin.bits == 16 and twin.seed == 1 and twin.image_size is None
    for bad, message in ((dict(bits=30), "the next are 28 and 32"), (dict(bits=2 ** 30), "ask for up to"), (dict(bits=16, hidden=0), "hidden=0")):
        with pytest.raises(ValueError, match=message): SSCQ(**bad)


def test_a_network_is_built_when_pictures_are_seen(tmp_path):
    photos = grainy(tmp_path / "photos", 24)
    model = SSCQ(bits=16, n_words=4, seed=0).fit(photos, steps=3, progress=False)
    assert model.bits == 16 and model.channels == 3 and model.codebooks.shape[:2] == (8, 4) and not model.training
    model.save_pretrained(tmp_path / "m")
    again = SSCQ.from_pretrained(tmp_path / "m")
    assert same(again, model) and len(model.index(photos, progress=False)) == 24
    assert same(SSCQ(bits=16, n_words=4, seed=0).fit(photos, steps=3, progress=False), model)
    assert SSCQ(bits=16, backbone="auto", image_size=20, channels=1).fit(photos, steps=1, progress=False).embed(photos / "000.png").shape == (1, 64)
    assert (SSCQ(bits=16).fit(digits().train[:40], steps=1, progress=False).image_size, SSCQ(bits=16, seed=0).channels) == (8, None)
    model.fit(photos, steps=1, progress=False)  # a second training changes weights, not the network


def test_a_length_chooses_settings_for_a_network_that_is_given(tmp_path, monkeypatch):
    photos = grainy(tmp_path / "photos", 24)
    monkeypatch.setattr(train, "seconds_per_step", lambda *_: 1.)
    model = SSCQ(bits=16, backbone="tiny_cnn", image_size=12, seed=0)
    model.fit(photos, minutes=.05, lr=1e-4, progress=False)
    assert (model.settings.steps, model.settings.batch_size, model.settings.lr, model.image_size) == (3, 24, 1e-4, 12)
    with pytest.warns(UserWarning, match="fewer than batch_size=256"): model.fit(photos, epochs=1, progress=False)
    assert model.settings == TrainConfig(epochs=1)


@pytest.mark.parametrize("how", [dict(epochs=1), dict(config=TrainConfig(epochs=1))])
def test_epochs_train_the_network_that_they_always_did(how):
    x = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        now = SSCQ(bits=16, seed=0).fit(x, progress=False, **how)
        before = SSCQ(bits=16, seed=0, backbone="resnet18_small", channels=3, image_size=32).fit(x, progress=False, **how)
    assert same(now, before) and now._hub_mixin_config == before._hub_mixin_config
    assert SSCQ(bits=16, image_size=16).backbone is not None and SSCQ(bits=16, channels=1).image_size == 32


def test_a_run_of_epochs_goes_on_as_it_began(tmp_path):
    x = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    def ctrl_c(record): raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="keeps the weights of epoch 1"):
        SSCQ(bits=16, seed=0).fit(x, epochs=2, batch_size=8, objective=SSCQ_FEW, out=tmp_path, on_epoch=ctrl_c, progress=False)
    again = SSCQ(bits=16, seed=0).fit(x, epochs=2, batch_size=8, objective=SSCQ_FEW, out=tmp_path, resume=True, progress=False)
    assert len(again.history) == 2 and again.image_size == 32


# --- codes that tie

def test_codes_are_counted():
    codes = torch.tensor([[0, 1], [0, 1], [2, 1], [3, 1]], dtype=torch.uint8)
    assert code_spread(codes, 4) == (4, 3, 2, .75, 2)
    assert code_spread(codes[:0], 4)[:3] == (0, 0, 0) and code_spread(codes[:1], 4)[:3] == (1, 1, 1)


@hypothesis_settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 6), st.sampled_from([2, 4, 16, 256]), st.integers(0, 2 ** 32))
def test_codes_are_counted_as_a_loop_would(n, m, k, seed):
    codes = torch.randint(0, k, (n, m), generator=torch.Generator().manual_seed(seed)).byte()
    rows = [tuple(row) for row in codes.tolist()]
    spread = code_spread(codes, k)
    assert spread.distinct == len(set(rows)) and spread.largest == max(map(rows.count, rows)) and 0 <= spread.entropy <= spread.full


def test_ties_in_words():
    few = torch.zeros(215, 8, dtype=torch.uint8)
    few[:, 0], few[:, 1] = torch.arange(215) % 13, torch.arange(215) % 2
    assert tie_words(code_spread(few, 16), 32) == (
        "26 different codes for 215 pictures, one of them for 9 pictures (a codeword carries 0.6 of 4 bits): train longer, or take 64 bits, unless the "
        "pictures are copies of each other")
    assert tie_words(code_spread(few * 0, 16), 32).startswith("all 215 pictures have one and the same code (a codeword carries 0.0 of 4 bits): train longer")
    full = torch.randint(0, 16, (40_000, 3), generator=torch.Generator().manual_seed(0)).byte()
    assert tie_words(code_spread(full, 16), 12).endswith("12 bits tell at most 4,096 apart, so take 24 bits")
    good = torch.randint(0, 16, (215, 8), generator=torch.Generator().manual_seed(0)).byte()
    assert tie_words(code_spread(good, 16), 32) == "" and tie_words(code_spread(good[:1], 16), 32) == ""
    good[:60] = good[0]
    assert "one of them for 60 pictures" in tie_words(code_spread(good, 16), 32)


def test_pictures_that_are_all_the_same(tmp_path, caplog):
    folder = squares(tmp_path / "same", 20, colour=lambda i: (9, 99, 9))
    model = SSCQ(bits=16, seed=0).fit(folder, steps=3, progress=False)
    assert all(math.isfinite(r["loss"]) for r in model.history)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 1 and said[0].startswith("all 20 pictures have one and the same code") and "copies of each other" in said[0]
    model.index(folder, progress=False)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1  # the same is not said twice
    SSCQ(bits=16, backbone="tiny_cnn", image_size=8).index(folder, progress=False)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 2


@pytest.mark.parametrize("images, error, message", [
    ([], ValueError, "no images: the list is empty"), (5, TypeError, "images must be a folder, a picture, a list"), ({"train": [1]}, TypeError, "choose one"),
    (torch.zeros(9, 28, 28, 3), ValueError, r"permute\(0, 3, 1, 2\)"), (torch.zeros(9, 3, 3, 3), ValueError, "image_size=3"), (b"", ValueError, "no bytes"),
    (torch.zeros(1, 3, 8, 8), ValueError, "1 image: training needs at least 2"), ("nowhere/", FileNotFoundError, "does not exist"),
    (torch.zeros(4, 3, 20, 30), ValueError, "images are 20×30"), (torch.zeros(4, 2, 8, 8), ValueError, "channels=2 must be 1")])
def test_what_cannot_be_trained_on(images, error, message):
    model = SSCQ(bits=16)
    with pytest.raises(error, match=message): model.fit(images, steps=2, progress=False)


def test_one_picture(tmp_path):
    only = squares(tmp_path / "only", 1) / "000.png"
    for one in (only, only.read_bytes(), Image.open(only), [only]):
        with pytest.raises(ValueError, match="1 image: training needs at least 2"): SSCQ(bits=16).fit(one, steps=2, progress=False)
    with pytest.raises(ValueError, match="1 image: training needs at least 2, .* give more"):
        SSCQ(bits=16).fit(squares(tmp_path / "one", 1), progress=False)
    assert len(SSCQ(bits=16, seed=0).fit(squares(tmp_path / "two", 2), steps=2, progress=False).history) == 2
