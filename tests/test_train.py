"Training: the schedule, the step, what is kept, and what survives a kill, a full disk and a torn file."
import contextlib
import errno
import functools
import json
import math
import os
import random
import re
import resource
import signal
import sys
import threading
import time
import types
import warnings
from dataclasses import dataclass
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import nn
from train_runs import OBJECTIVE, Mirror, run_alone, settings, small_model, start

import sscq.guards as sscq_guards
import sscq.files as sscq_files
from sscq.files import checksum
import sscq.distributed as sscq_distributed
import sscq.checkpoint as sscq_checkpoint
from sscq import train
from sscq.codebook import Encoded, ProductQuantizer
from sscq.contrastive import info_nce
from sscq.core import SSCQ
from sscq.data import digits
from sscq.files import read_tensors
from sscq.objective import SPQObjective, SSCQObjective
from sscq.checkpoint import CHECKPOINT, PREVIOUS, clear_run, last_checkpoint, read_checkpoint, write_tensors
from sscq.history import HISTORY
from sscq.train import PRESETS, Run, TrainConfig, epoch_batches, fit, learning_rate, derive_seed, train_epoch, train_step
from sscq.guards import largest_fitting
from sscq.history import tensorboard
from sscq.distributed import embed, embed_chunks, find_device, hold_interrupts
from sscq.codebook import find_quantizer
from sscq.views import VIEWS, digit_view

DATA = Path(__file__).parent / "data"


def crop(x, scale=(.08, 1.), mode="area"): return x.roll(round(10 * scale[0]), -1)
def cropped(x, scale=(.5, 1.), mode="area"): return crop(x, scale, mode)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "These networks are too small to share"
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def images(): return digits().train[:160]


def trained(images, seed=0, model=None, view=digit_view, objective=OBJECTIVE, on_epoch=None, out=None, resume=False, **kw):
    model = model or small_model(seed=seed)
    return model, fit(model, images, view, objective, settings(**kw), on_epoch, out=out, resume=resume)


@functools.cache
def unbroken(images) -> nn.Module:
    "The model of a run with the usual settings that nothing stopped: to be compared with, not to be trained on"
    return trained(images)[0]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def epochs_in(out): return [json.loads(line)["epoch"] for line in (out / HISTORY).read_text().splitlines()]


def stop_at(epoch):
    def on_epoch(record):
        if record["epoch"] == epoch: raise KeyboardInterrupt
    return on_epoch


def stopped(images, out, epoch=2, **kw):
    with pytest.warns(UserWarning, match=f"keeps the weights of epoch {epoch}"):
        return trained(images, out=out, on_epoch=stop_at(epoch), **kw)


# --- settings and schedule

def test_schedule_is_the_release_s():
    z = np.load(DATA / "sscq_16bit.npz")
    ours = [learning_rate(int(epoch * 195 + step), 195, TrainConfig(epochs=800)) for epoch, step in z["lr/epoch_step"]]
    np.testing.assert_allclose(ours, z["lr/value"], rtol=1e-5)


@pytest.mark.parametrize("epochs", [1, 2, 3, 30])
def test_schedule_stays_in_its_bounds(epochs):
    config = TrainConfig(epochs=epochs, lr=.1, lr_start=0., lr_end=.2)
    rates = [learning_rate(t, 7, config) for t in range(7 * epochs)]
    assert min(rates) >= 0 and max(rates) <= .1 and math.isclose(rates[-1], .02)


@pytest.mark.parametrize("bad, message", [
    (dict(epochs=0), "epochs=0"), (dict(batch_size=1), "negatives"), (dict(seed=-1), "seed=-1"), (dict(seed=2 ** 63), "seed=9223372036854775808"),
    (dict(lr=0.), "lr=0.0 must be positive"), (dict(lr=math.nan), "lr=nan"), (dict(lr=1e-320), "lr=1e-320 must be at least"), (dict(lr=-math.inf), "lr=-inf"),
    (dict(lr_end=1.5), "lr_end=1.5 must be at most 1"), (dict(save_every=0), "save_every=0"), (dict(epochs=2 ** 40), "epochs=1099511627776"),
    (dict(warmup_epochs=-1), "warmup_epochs=-1"), (dict(weight_decay=-.1), "weight_decay"), (dict(workers=-1), "workers"),
    (dict(lr_start=math.nan), "lr_start=nan must be 0 or more"), (dict(weight_decay=math.inf), "weight_decay=inf must be finite"),
    (dict(precision="fp16"), "choose one of fp32, bf16"), (dict(micro_batch=1), "micro_batch=1")])
def test_bad_settings(bad, message):
    with pytest.raises(ValueError, match=message): TrainConfig(**bad)


def refused(bad: dict) -> pytest.ExceptionInfo:
    "The error of settings, past the type checks that the tests add"
    config = TrainConfig()
    for name, value in bad.items(): object.__setattr__(config, name, value)
    with pytest.raises((TypeError, ValueError)) as caught: config.__post_init__()
    return caught


@pytest.mark.parametrize("bad, message", [
    (dict(seed=0.), "seed=0.0 is of type float; it must be an int"), (dict(seed=False), "seed=False is of type bool"), (dict(epochs=True), "epochs=True"),
    (dict(micro_batch=2.5), "micro_batch=2.5 is of type float"), (dict(workers=1.5), "workers=1.5"), (dict(lr=True), "lr=True is of type bool"),
    (dict(lr="1e-3"), "lr='1e-3' is of type str; it must be a number"), (dict(compile="no"), "compile='no' is of type str; it must be True or False"),
    (dict(compile=1), "compile=1"), (dict(precision=None), "precision=None is unknown"), (dict(epochs=np.array([1, 2])), "epochs=ndarray of shape (2,)"),
    (dict(lr=torch.ones(2)), "lr=Tensor of shape (2,)"), (dict(lr=1j), "lr=1j"), (dict(epochs="a\nb"), "epochs='a\\nb'")])
def test_settings_of_a_wrong_type(bad, message):
    "A seed that only equals 0 would draw other batches, and pass for 0 on resume"
    assert str(refused(bad).value).startswith(message) and "\n" not in str(refused(bad).value)


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), torch.tensor(3)], ids=repr)
def test_numbers_of_numpy_are_python_s(images, number):
    config = TrainConfig()
    for name in ("epochs", "batch_size", "seed", "workers", "micro_batch", "save_every"): object.__setattr__(config, name, number)
    object.__setattr__(config, "lr", np.float32(.5)), object.__setattr__(config, "compile", np.bool_(False)), object.__setattr__(config, "lr_end", 1)
    config.__post_init__()
    assert [type(getattr(config, name)) for name in ("epochs", "seed", "micro_batch", "lr", "compile", "lr_end")] == [int, int, int, float, bool, float]
    assert config == TrainConfig(3, 3, .5, lr_end=1., seed=3, workers=3, micro_batch=3, save_every=3)
    assert derive_seed(number, "order") == derive_seed(3, "order")


def test_a_seed_of_numpy_draws_what_its_twin_draws(images, tmp_path):
    config = settings(epochs=1)
    object.__setattr__(config, "seed", np.int64(0)), config.__post_init__()
    model = small_model()
    fit(model, images, digit_view, OBJECTIVE, config, out=tmp_path)
    assert same(model, trained(images, epochs=1)[0])
    assert len(trained(images, out=tmp_path, resume=True, epochs=1)[1]) == 1  # and is the same setting
    assert all(torch.equal(i, j) for i, j in zip(epoch_batches(10, 3, 0, 5), epoch_batches(10, 3, *torch.tensor([0, 5]).numpy().tolist())))


@pytest.mark.parametrize("n, batches", [(2, 1), (10, 3), (97, 8), (256, 4)])
def test_batches_hold_every_image_once(n, batches):
    got = epoch_batches(n, batches, 0, 3)
    sizes = [len(i) for i in got]
    assert sorted(torch.cat(got).tolist()) == list(range(n)) and max(sizes) - min(sizes) <= 1 and len(sizes) == batches
    assert all(torch.equal(i, j) for i, j in zip(got, epoch_batches(n, batches, 0, 3)))
    if n > 10: assert not torch.equal(torch.cat(got), torch.cat(epoch_batches(n, batches, 0, 4)))


def test_seeds_never_change():
    "Or runs that were stopped by an older version would go on differently"
    assert [derive_seed(0, 3, "order"), derive_seed(0, 4, "order")] == [173478412, 3705374799]
    assert len({derive_seed(s, e, what) for s in range(5) for e in range(100) for what in ("order", "views")}) == 1000


def test_devices():
    assert find_device("cpu").type == "cpu" and find_device().type in ("cpu", "cuda")
    for name in ("tpu!", "meta", "xpu", "", "cpu\n"):
        with pytest.raises(ValueError, match=re.escape(f"{name!r} is unknown")): find_device(name)
    with pytest.raises(ValueError, match="choose cpu"): find_device(f"cuda:{torch.cuda.device_count()}")


# --- the step

def test_step_is_the_plain_step(images):
    "Against the loop anyone could write, with SGD"
    ours, plain = small_model(), small_model()
    view, x = Mirror(), images[:32]
    loss, parts, f = train_step(ours, ours[-1].codebooks, x, view, OBJECTIVE, torch.optim.SGD(ours.parameters(), lr=.1))
    both = plain(torch.cat([x / 255, (x / 255).flip(-1)]))
    want, _ = OBJECTIVE(Encoded(both.f[:32], both.z[:32]), Encoded(both.f[32:], both.z[32:]), plain[-1].codebooks)
    want.backward()
    torch.optim.SGD(plain.parameters(), lr=.1).step()
    torch.testing.assert_close(loss, want)
    assert f.shape == (64, 32) and not f.requires_grad and len(parts) == 5
    for p, q in zip(ours.parameters(), plain.parameters()): torch.testing.assert_close(p, q)


def test_one_quantizer():
    for model, n in ((nn.Linear(2, 2), 0), (nn.Sequential(ProductQuantizer(2), ProductQuantizer(2)), 2)):
        with pytest.raises(ValueError, match=f"the model has {n} ProductQuantizers"): find_quantizer(model)


def without_norm():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 32), ProductQuantizer(4, 16, 8))


@pytest.mark.parametrize("micro", [2, 5, 8, 15, 16, 99])
def test_chunks_give_the_whole_batch_s_gradient(images, micro):
    whole, chunked = without_norm(), without_norm()
    losses = [train_step(m, m[-1].codebooks, images[:16], Mirror(), OBJECTIVE, torch.optim.SGD(m.parameters(), lr=0.), "fp32", size)[0]
              for m, size in ((whole, None), (chunked, micro))]
    torch.testing.assert_close(*losses)
    for p, q in zip(whole.parameters(), chunked.parameters()): torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


def test_chunks_drop_and_average_once(images):
    "Dropout drops the same in both passes; running averages move in the first only, once a chunk"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(.5), nn.Flatten(), nn.Linear(144, 32),
                          ProductQuantizer(4, 16, 8))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x, results = images[:12] / 255, []
    for chunked in (True, False):
        model.load_state_dict(state)
        model.zero_grad()
        torch.manual_seed(1)
        if chunked: f, finish = embed_chunks(model, x, "fp32", 3)
        else: f, finish = torch.cat([embed(model, c) for c in x.tensor_split(3)]), lambda: None
        info_nce(f).backward()
        finish()
        results.append([f.detach(), torch.rand(1), model[0].weight.grad.clone(), *(x.clone() for x in model[1].buffers())])
    for got, want in zip(*results): torch.testing.assert_close(got, want)


def test_bf16_is_the_network_s_alone(images):
    model = small_model()
    assert embed(model, images[:8] / 255, "bf16").dtype == torch.float32
    fine, rough = (trained(images, precision=precision, epochs=1)[1][-1]["loss"] for precision in ("fp32", "bf16"))
    assert fine != rough and abs(fine - rough) < .02 * fine
    model, _ = trained(images, precision="bf16", micro_batch=32, epochs=1)
    assert all(p.dtype == torch.float32 for p in model.parameters())


# --- fit

def test_same_seed_same_bits(images):
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    a, history = trained(images)
    assert torch.equal(torch.get_rng_state(), generator)
    assert same(a, trained(images)[0]) and not same(a, trained(images, seed=0, model=small_model(), weight_decay=.1)[0])
    assert not same(a, fitted_with_seed(images, 1))
    assert not a.training and [r["epoch"] for r in history] == [1, 2, 3, 4]
    record = history[-1]
    assert set(record) == {"epoch", "loss", "icf", "icz", "cc", "pn", "cd", "lr", "perplexity", "usage", "seconds"}
    assert np.array(record["usage"]).sum(1).tolist() == [320] * 4 and len(record["perplexity"]) == 4
    assert json.loads(json.dumps(record)) == record


def fitted_with_seed(images, seed):
    model = small_model()
    fit(model, images, digit_view, OBJECTIVE, settings(seed=seed))
    return model


def test_a_callback_cannot_disturb(images):
    model = small_model()
    seen = []
    def on_epoch(record):
        torch.rand(7), model.eval(), seen.append(model.training)
        record["extra"] = torch.tensor([1., 2.])
    _, history = trained(images, model=model, on_epoch=on_epoch)
    assert same(model, unbroken(images)) and seen == [False] * 4 and "extra" in history[0]


def test_a_dataset_is_as_good_as_a_tensor(images):
    class Pictures(torch.utils.data.Dataset):
        def __len__(self): return len(images)
        def __getitem__(self, i): return images[i]
    assert same(trained(images, view=Mirror())[0], trained(Pictures(), view=Mirror(), workers=0)[0])


def test_other_objectives(images):
    _, history = trained(images, objective=SPQObjective())
    assert {"ab", "ba"} < set(history[0])


def test_a_small_collection_shrinks_the_batch(images):
    with pytest.warns(UserWarning, match="30 images are fewer than batch_size=64: the batch shrinks to 30"):
        _, history = trained(images[:30])
    assert len(history) == 4
    with pytest.raises(ValueError, match="1 image: training needs at least 2"): trained(images[:1])


def test_what_the_smallest_batch_cannot_do_is_found_before_anything_is_written(images, tmp_path):
    def asks(a, b, codebooks): return SSCQObjective()(a, b, codebooks)
    with pytest.raises(ValueError, match="n_neighbors=20, but a batch of 8 images has 14 negatives"):
        trained(images[:16], objective=asks, batch_size=8, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("n, batch, smallest", [(2, 256, 2), (3, 2, 3), (5, 2, 2), (5, 256, 5), (10, 256, 10), (37, 12, 9)])
def test_two_photos_or_more_train(images, tmp_path, n, batch, smallest):
    "With the neighbours there are, which is said; and it is the same run when it is resumed"
    most = 2 * smallest - 2
    kw = dict(objective=SSCQObjective(), batch_size=batch, epochs=2, out=tmp_path)
    with pytest.warns(UserWarning) as said: model, history = trained(images[:n], on_epoch=stop_at(1), **kw)
    messages = [str(w.message) for w in said]
    assert any(m.startswith(f"n_neighbors=20 shrinks to {most}, for the smallest batch has {smallest} images") for m in messages)
    assert len(history) == 1 and math.isfinite(history[0]["loss"]) and json.loads(read_checkpoint_text(tmp_path))["settings"]["objective.n_neighbors"] == 20
    with pytest.warns(UserWarning): resumed, history = trained(images[:n], seed=3, resume=True, **kw)
    assert len(history) == 2
    x = torch.randn(smallest, 32)
    with pytest.raises(ValueError, match="n_neighbors=20"): SSCQObjective()(Encoded(x, x), Encoded(x, x), torch.randn(4, 16, 8))


def read_checkpoint_text(out): return json.dumps(read_checkpoint(out / CHECKPOINT)[1])


def test_neighbors_shrink_only_where_they_must(images):
    assert train.fewer_neighbors(OBJECTIVE, 4) is OBJECTIVE and train.fewer_neighbors(SPQObjective(), 2) == SPQObjective()
    everyone = SSCQObjective(n_neighbors=20, use_positive=True)
    assert train.fewer_neighbors(everyone, 10) is everyone
    with pytest.warns(UserWarning, match="shrinks to 18, "): assert train.fewer_neighbors(everyone, 9).n_neighbors == 18
    @dataclass(frozen=True)
    class Other:  # somebody else's objective: without a word about positives, they are no neighbors
        n_neighbors: int = 20
        def __call__(self, a, b, codebooks): raise NotImplementedError
    with pytest.warns(UserWarning, match="shrinks to 16, "): assert train.fewer_neighbors(Other(), 9) == Other(16)
    assert [train.n_batches(n, 2) for n in (2, 3, 4, 5)] == [1, 1, 2, 2]
    model = small_model()
    with pytest.warns(UserWarning, match="shrinks to 2, "): fit(model, images[:2], digit_view, SSCQObjective(), settings(batch_size=2, epochs=1))
    assert len(trained(images[:3], objective=SPQObjective(), batch_size=2)[1]) == 4


def test_nan_names_step_and_term(images, tmp_path):
    model, calls = small_model(), []
    def poisoned(a, b, codebooks):
        loss, parts = OBJECTIVE(a, b, codebooks)
        calls.append(1)
        if len(calls) == 9: parts = parts._replace(cc=parts.cc * math.nan)  # call 1 is the rehearsal, an epoch has 3 steps
        return loss + 0 * parts.cc, parts
    with pytest.raises(ValueError, match="step 8: cc is NaN or infinite; the model keeps the last complete epoch"):
        trained(images, model=model, objective=poisoned, out=tmp_path)
    # two epochs were complete: the model has their weights, and so has the file
    assert epochs_in(tmp_path) == [1, 2]
    saved = last_checkpoint(tmp_path)
    assert all(torch.equal(saved.tensors["model." + k], v) for k, v in model.state_dict().items()) and not model.training


def test_nan_in_the_last_step_s_gradient(images, tmp_path):
    "It shows in no loss of its epoch"
    model, calls = small_model(), []
    def poisoned(a, b, codebooks):
        loss, parts = OBJECTIVE(a, b, codebooks)
        calls.append(1)
        return loss + (0 * codebooks.sum()).square().sqrt() if len(calls) == 7 else loss, parts  # 1 is the rehearsal, an epoch has 3 steps
    with pytest.raises(ValueError, match=r"after step 6: .*codebooks is NaN or infinite; the model keeps the last complete epoch"):
        trained(images, model=model, objective=poisoned, epochs=2, out=tmp_path)
    assert epochs_in(tmp_path) == [1]
    saved = last_checkpoint(tmp_path)
    assert all(v.isfinite().all() and torch.equal(saved.tensors["model." + k], v) for k, v in model.state_dict().items())


def test_images_and_objectives_that_cannot_be_trained_on(images):
    for bad, message in ((images[:, 0], "must be .N, C, H, W."), (images.float(), "must lie in 0…1"), (images[:0], "no images")):
        with pytest.raises(ValueError, match=message): trained(bad)
    with pytest.raises(TypeError, match="must be uint8"): trained(images.long())
    for objective in (lambda a, b, c: a.f.sum(), lambda a, b, c: (a.f.sum(), (a.f.sum(),))):
        with pytest.raises(TypeError, match="must return the loss, and its terms in a NamedTuple"): trained(images, objective=objective)


def test_ctrl_c_keeps_the_last_epoch(images, tmp_path):
    with pytest.warns(UserWarning, match="stopped during epoch 3: the model keeps the weights of epoch 2$"):
        model, history = trained(images, on_epoch=stop_at(2))
    assert len(history) == 2
    with pytest.warns(UserWarning, match=r"of epoch 2; .*checkpoint.safetensors has them too, resume=True"):
        again, _ = trained(images, on_epoch=stop_at(2), out=tmp_path)
    assert same(model, again)
    # in the middle of the first epoch: the weights it began with
    def interrupting(x): raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="weights of epoch 0$"): model, history = trained(images, view=interrupting)
    assert same(model, small_model()) and history == []


def test_stopped_from_another_thread(images, tmp_path):
    "As a button does: training runs in a thread, and the view that it calls at every step raises KeyboardInterrupt"
    want, _ = stopped(images, tmp_path / "want", 2)
    model, pressed, results, calls = small_model(), threading.Event(), [], []
    def view(x):
        calls.append(1)
        if len(calls) == 2 * (3 * 2 + 1) + 1: pressed.set()  # two views a step, three steps an epoch: amid the third epoch's second step
        if pressed.is_set(): raise KeyboardInterrupt
        return digit_view(x)
    view.__name__ = "digit_view"  # for the settings of a run, it is the same view
    def work(): results.append(trained(images, model=model, view=view, out=tmp_path / "run")[1])
    with pytest.warns(UserWarning, match="stopped during epoch 3: the model keeps the weights of epoch 2; .*resume=True continues"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
    assert not thread.is_alive() and len(results[0]) == 2 and same(model, want) and not model.training
    assert len(calls) == 2 * (3 * 2 + 1) + 1  # not a step more
    resumed, history = trained(images, seed=9, out=tmp_path / "run", resume=True)
    assert len(history) == 4 and same(resumed, unbroken(images))


def ctrl_c(times=1):
    "As the keyboard sends it, in the main thread, the next one whatever the first one did"
    try: signal.raise_signal(signal.SIGINT)
    finally:
        if times > 1: ctrl_c(times - 1)


def test_what_runs_on_a_cpu_seeds_no_gpu(images, monkeypatch):
    "A caller who draws on a GPU goes on with the numbers that were next; and what draws on one is seeded there"
    from sscq.baselines import untrained
    from sscq.data import ImageSet, RetrievalData
    from sscq.explorers import usage_runs
    from sscq.playground import setup
    from sscq.reencode import bits_table
    from sscq.verdicts import Exercise, judge
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    few = ImageSet(images, torch.zeros(len(images), dtype=torch.long))
    data, exercise = RetrievalData("few", images, few, few, 10), Exercise("noise", "99", "write", torch.rand, lambda: [("n = 2", 2)], ("a.", "b."))
    model = small_model()  # seeds as a caller may
    seeded.clear()
    before = torch.get_rng_state()
    trained(images, model=model, epochs=1)
    setup(data, epochs=1)
    untrained(data)
    usage_runs(1, progress=False)
    bits_table(SSCQ(bits=16, backbone="tiny_cnn", channels=1, image_size=8, seed=0), images, n_queries=20)
    assert judge(exercise, torch.rand)
    assert torch.equal(torch.get_rng_state(), before) and not seeded
    sscq_guards.reseed(7, "cuda")
    assert seeded == [7]
    torch.set_rng_state(before)


@pytest.fixture
def python_s_ctrl_c():
    "SIGINT raises KeyboardInterrupt, whatever started these tests"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits(python_s_ctrl_c):
    done = []
    with pytest.raises(KeyboardInterrupt):
        with hold_interrupts():
            ctrl_c(3)
            with hold_interrupts(): ctrl_c()
            done.append(1)
    with hold_interrupts() as held:
        with pytest.raises(KeyboardInterrupt): held.hear(ctrl_c)
        ctrl_c()
        assert held.hear(lambda x: x + 1, 2) == 3
        with pytest.raises(KeyboardInterrupt): held.hear_waiting()
        held.hear_waiting()
    assert done == [1]
    with pytest.raises(KeyboardInterrupt): ctrl_c()  # as ever
    calls = []
    signal.signal(signal.SIGINT, lambda *_: calls.append(1))  # someone's own handler, which does not raise, is called all the same
    with hold_interrupts() as held: held.hear(ctrl_c, 2), ctrl_c(2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with hold_interrupts(): ctrl_c()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert calls == [1, 1, 1]


@pytest.fixture(scope="module")
def by_epoch(images):
    "The weights at the start, and after each epoch of a run that nobody stops"
    model, seen = small_model(), []
    def keep(record=None): seen.append({k: v.clone() for k, v in model.state_dict().items()})
    keep()
    trained(images, model=model, on_epoch=keep)
    return seen


def interrupted(images, by_epoch, out, monkeypatch, times=2, **kw):
    "Train, with `times` Ctrl-C in the middle of the second epoch; how it ended, after a look at memory and disk"
    model, calls, history, seen = small_model(), [], [], []
    def view(x):
        calls.append(1)
        if len(calls) == 9: ctrl_c(times)
        return digit_view(x)
    view.__name__ = "digit_view"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try: fit(model, images, view, OBJECTIVE, settings(**kw), seen.append, out=out, history=history)
        except KeyboardInterrupt: ended = "raised"
        else: ended = "returned"
    monkeypatch.undo()
    n = len(history)
    assert seen == history, "on_epoch hears of every epoch that is complete"
    assert all(torch.equal(v, by_epoch[n][k]) for k, v in model.state_dict().items()), "weights of no epoch, or of another one"
    if n:
        saved = last_checkpoint(out)
        assert saved.meta["history"] == history and epochs_in(out) == list(range(1, n + 1)) and not model.training
        assert all(torch.equal(saved.tensors["model." + k], v) for k, v in model.state_dict().items())
        assert sorted(p.name for p in out.iterdir() if p.name != PREVIOUS) == [CHECKPOINT, HISTORY]
    return ended, n, [str(w.message) for w in said]


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("save_every", [1, 3])
def test_any_number_of_ctrl_c(images, by_epoch, tmp_path, python_s_ctrl_c, monkeypatch, times, save_every):
    ended, n, said = interrupted(images, by_epoch, tmp_path, monkeypatch, times, save_every=save_every)
    assert n == 1 and said == [f"stopped during epoch 2: the model keeps the weights of epoch 1; {tmp_path / CHECKPOINT} has them too, resume=True continues"]
    assert ended == ("returned" if times == 1 else "raised")
    assert same(trained(images, seed=9, out=tmp_path, resume=True, save_every=save_every)[0], unbroken(images))


PLACES = [(nn.Module, "load_state_dict"), (sscq_guards, "synced_batch_norm"), (warnings, "warn"), (nn.Module, "eval"),
          (sscq_checkpoint, "keep_epoch"), (os, "fsync"), (os, "replace"), (train, "check_weights_finite"), (train, "epoch_record"),
          (train, "with_added"), (train, "deepcopy"), (nn.Module, "train"), (train, "open_run"), (train, "begin_run"),
          (torch.optim.Adam, "__init__")]


@pytest.mark.parametrize("owner, name", PLACES, ids=lambda x: getattr(x, "__name__", x))
def test_ctrl_c_where_state_is_put_back(images, by_epoch, tmp_path, python_s_ctrl_c, monkeypatch, owner, name):
    "Two Ctrl-C while it begins, two while it ends, every time that the place is reached"
    real = getattr(owner, name)
    def cut(*args, **kw):
        ctrl_c(2)
        try: return real(*args, **kw)
        finally: ctrl_c(2)
    monkeypatch.setattr(owner, name, cut)
    ended, n, said = interrupted(images, by_epoch, tmp_path, monkeypatch, times=1)
    assert n <= 1 and (ended == "raised" or said[0].startswith(f"stopped during epoch {n + 1}")), "the user is stopped"
    norms = small_model()[1]
    assert norms.track_running_stats and not torch.are_deterministic_algorithms_enabled()
    if n: assert same(trained(images, seed=9, out=tmp_path, resume=True)[0], unbroken(images))


def test_ctrl_c_in_a_chunk_leaves_no_layer_frozen(images, python_s_ctrl_c, monkeypatch):
    "Whether training is in it, or a step is used by itself"
    real, model = sscq_distributed.embed, small_model()
    def embed(*args):
        if torch.is_grad_enabled(): ctrl_c(2)
        return real(*args)
    monkeypatch.setattr(sscq_distributed, "embed", embed)
    x, before = images[:16] / 255, torch.get_rng_state()
    f, finish = embed_chunks(model, x, "fp32", 4)
    info_nce(f).backward()
    with pytest.raises(KeyboardInterrupt): finish()
    assert model[1].track_running_stats and torch.equal(torch.get_rng_state(), before) and all(p.grad is not None for p in list(model.parameters())[:4])
    start = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.warns(UserWarning, match="weights of epoch 0"): trained(images, model=model, micro_batch=16)
    assert model[1].track_running_stats and type(model[1]) is nn.BatchNorm2d
    assert all(torch.equal(start[k], v) for k, v in model.state_dict().items())


def test_an_error_in_a_chunk_leaves_all_as_it_was(images, monkeypatch):
    "The generator too, in the middle of what was drawn again"
    real, model = sscq_distributed.embed, nn.Sequential(nn.Dropout(.5), small_model())
    def embed(*args):
        if torch.is_grad_enabled():
            real(*args)
            raise LookupError("in the second pass")
        return real(*args)
    f, finish = embed_chunks(model, images[:16] / 255, "fp32", 4)
    info_nce(f).backward()
    monkeypatch.setattr(sscq_distributed, "embed", embed)
    before = torch.get_rng_state()
    with pytest.raises(LookupError): finish()
    assert model[1][1].track_running_stats and torch.equal(torch.get_rng_state(), before)


def test_ctrl_c_after_the_last_epoch(images, tmp_path, python_s_ctrl_c, monkeypatch):
    real = sscq_checkpoint.keep_epoch
    def keep_epoch(*args):
        if len(args[3]) == 4: ctrl_c()
        return real(*args)
    monkeypatch.setattr(sscq_checkpoint, "keep_epoch", keep_epoch)
    with pytest.warns(UserWarning, match="stopped after epoch 4, the last: the model keeps the weights of epoch 4; .*has them too"):
        _, history = trained(images, out=tmp_path)
    assert len(history) == 4 and len(last_checkpoint(tmp_path).meta["history"]) == 4


def test_history_is_there_whatever_ends_training(images):
    "In the caller's own list"
    for error in (LookupError("mine"), KeyboardInterrupt()):
        def on_epoch(record, error=error):
            if record["epoch"] == 2: raise error
        history = ["an older run"]
        with contextlib.suppress(LookupError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(small_model(), images, digit_view, OBJECTIVE, settings(), on_epoch, history=history)
        assert [r["epoch"] for r in history] == [1, 2]


def test_on_epoch_adds_and_nothing_else(images, tmp_path):
    def on_epoch(record):
        record["map"], record["tensor"], record["count"] = .5, torch.ones(2), np.int64(3)
        del record["seconds"], record["usage"]
        record["loss"] = "none of your business"
    _, history = trained(images, on_epoch=on_epoch, out=tmp_path)
    plain = trained(images)[1]
    measured = plain[0].keys() - {"seconds"}
    assert [{k: r[k] for k in measured} for r in history] == [{k: r[k] for k in measured} for r in plain]
    assert all(r["map"] == .5 and r["tensor"] == [1, 1] and r["count"] == 3 and r["seconds"] > 0 for r in history)
    assert last_checkpoint(tmp_path).meta["history"] == history == trained(images, out=tmp_path, resume=True)[1]


def circular():
    x = []
    x.append(x)
    return x


@pytest.mark.parametrize("key, value, message", [
    (5, 1, "on_epoch added 5 to its record, which is no text"), ((1, 2), 1, "added .1, 2. to"), (None, 1, "added None"),
    ("x", {(1, 2): 3}, "added 'x' to its record, which JSON cannot hold"), ("x", circular(), "JSON cannot hold")])
def test_what_on_epoch_cannot_add(images, tmp_path, key, value, message):
    "It is said, and the epoch is on disk"
    def on_epoch(record):
        if record["epoch"] == 2: record[key] = value
    model = small_model()
    with pytest.raises(TypeError, match=message): trained(images, model=model, on_epoch=on_epoch, out=tmp_path)
    saved = last_checkpoint(tmp_path)
    assert len(saved.meta["history"]) == 2 and all(torch.equal(saved.tensors["model." + k], v) for k, v in model.state_dict().items())
    assert same(trained(images, out=tmp_path, resume=True)[0], unbroken(images))


def test_an_error_in_a_callback_keeps_the_epoch(images, tmp_path):
    def on_epoch(record): raise LookupError("mine")
    with pytest.raises(LookupError, match="mine"): trained(images, on_epoch=on_epoch, out=tmp_path)
    assert len(last_checkpoint(tmp_path).meta["history"]) == 1


def test_out_of_memory_says_what_fits(images):
    class Small(nn.Module):
        "A memory of 40 rows"
        def forward(self, x):
            if len(x) > 40: raise torch.OutOfMemoryError("CUDA out of memory")
            return x
    model = small_model()
    model.insert(0, Small())
    start = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(torch.OutOfMemoryError, match="a batch of 54 images, 54 at once, .* micro_batch=13 does, and keeps the batch's"):
        trained(images, model=model)
    assert all(torch.equal(start[k], v) for k, v in model.state_dict().items()) and not model.training
    _, history = trained(images, model=model, micro_batch=13, epochs=1)
    assert len(history) == 1
    calls = []
    def never(n): calls.append(n); raise torch.OutOfMemoryError
    assert largest_fitting(never, 20) == 0 and calls == [10, 5, 2]


def test_compile_falls_back(images, monkeypatch):
    def broken(model, **kw): raise RuntimeError("no compiler\nat all")
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match=r"torch.compile does not work here \(RuntimeError: no compiler\): training without it"):
        model, _ = trained(images, compile=True)
    assert same(model, unbroken(images))
    def silent(model, **kw): raise NotImplementedError
    monkeypatch.setattr(torch, "compile", silent)
    with pytest.warns(UserWarning, match=r"does not work here \(NotImplementedError\): training"): trained(images, compile=True, epochs=1)
    # and where it works, the trial leaves no trace; it is made as training will be
    def tried(model, **kw): assert model.training; return model
    monkeypatch.setattr(torch, "compile", tried)
    assert same(trained(images, compile=True)[0], model)


def test_views_and_objective_compile_whole_and_change_nothing():
    "As on CUDA: no graph breaks, nothing compiled again in the second step, the same losses. In a process without shape checks"
    code = """
import torch, warnings
warnings.filterwarnings("error", category=UserWarning, module="sscq$")
from functools import partial
from torch._dynamo.utils import counters
from sscq import neighbors, train
from sscq.core import SSCQ
from sscq.objective import SSCQObjective
from sscq.views import photo_view

torch.compile = partial(torch.compile, backend="eager", fullgraph=True)  # traced as ever, but run as it is, with the same random numbers
from sscq import kernels
kernels._largest = lambda table, k: table.topk(k, sorted=False).values  # CUDA's way
images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
losses = []
for fast in (True, False):
    torch.manual_seed(0)
    model, config = SSCQ(bits=16, backbone="tiny_cnn", image_size=16).train(), train.TrainConfig(batch_size=20)
    run = train.Run(model, images, photo_view, SSCQObjective(), config, torch.optim.Adam(model.parameters()), 2)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    if fast: run = train.compiled_run(run, small=True)
    model.load_state_dict(weights)
    graphs = counters["stats"]["unique_graphs"]
    losses.append(train.train_epoch(run, 0)[0])
    assert counters["stats"]["unique_graphs"] == graphs and (graphs >= 3 or not fast), graphs
torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
assert not counters["graph_break"], counters["graph_break"]"""
    done = children.run(code)
    assert done.returncode == 0, done.stderr
    assert "does not work here" not in done.stderr


def test_switches_are_put_back(images):
    assert not torch.are_deterministic_algorithms_enabled()
    seen = []
    trained(images, deterministic=True, on_epoch=lambda r: seen.append(torch.are_deterministic_algorithms_enabled()))
    assert seen == [True] * 4 and not torch.are_deterministic_algorithms_enabled()


def test_tensorboard(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"): tensorboard("runs")
    written = {}
    class SummaryWriter:
        def __init__(self, folder): pass
        def add_scalar(self, name, value, step): written[name, step] = value
        def flush(self): pass
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    _, history = trained(images, on_epoch=tensorboard("runs"))
    assert written["loss", 4] == history[-1]["loss"] and written["perplexity/3", 1] == history[0]["perplexity"][3]


def test_presets():
    assert list(PRESETS) == ["paper", "release-scripts", "fast", "laptop", "photos", "pictures", "digits"]
    for preset in PRESETS.values():
        assert preset.view in VIEWS and SSCQ(bits=32, **preset.model).bits == 32
    assert PRESETS["paper"].config == TrainConfig(epochs=800) and PRESETS["paper"].objective == SSCQObjective()
    assert PRESETS["release-scripts"].objective.weights == (0, 0, .4, .1, .2)


ODD_CALLS = r"""
import re, sys, warnings
import numpy as np
import torch
from torch import nn
from sscq.train import TrainConfig, epoch_batches, fit, learning_rate
from sscq.history import tensorboard
from sscq.checkpoint import clear_run
from sscq.distributed import embed, find_device, process_group
sys.path.insert(0, sys.argv[1])
from train_runs import small_model
warnings.simplefilter("error")
images, model = torch.zeros(32, 1, 8, 8, dtype=torch.uint8), small_model()
before = {k: v.clone() for k, v in model.state_dict().items()}
good = dict(model=model, images=images, config=TrainConfig(epochs=1, batch_size=32), progress=False)
class Stream(torch.utils.data.IterableDataset):
    def __iter__(self): return iter([])
calls = [(name, (lambda name=name, value=value: fit(**{**good, name: value})), value) for name, values in dict(
    model=[None, 5, "resnet", nn.Linear, nn.Linear(2, 2), {}],
    images=[None, 5, "photos", np.zeros((8, 1, 8, 8), np.uint8), {}, [images], images.tolist(), Stream(), images[0, 0]],
    view=[None, 5, "photo", []], objective=[None, 5, "sscq", [], 1.5], config=[None, {}, {"epochs": 3}, 5, TrainConfig, "fast"],
    on_epoch=[5, "print", [], {}], progress=["x", 1, 0, [], np.array([1, 2])], out=[5, 0, "", [], {}, True, "a\0b", "x" * 300, b""],
    resume=[[], 0, 1, None, "x", "yes", {}, np.True_, np.array([1]), "changed"], history=[(), {}, "x", 5]).items() for value in values]
calls += [("lr", lambda v=v: learning_rate(*v), v) for v in ((-1, 3, TrainConfig()), (0, 0, TrainConfig()), (.5, 3, TrainConfig()), (0, True, TrainConfig()))]
calls += [("batches", lambda v=v: epoch_batches(*v), v) for v in (
    (0, 1, 0, 0), (5, 0, 0, 0), (5, 6, 0, 0), (5, 2, -1, 0), (5, 2, .5, 0), (5, 2, 0, -1), (5, 2, True, 0))]
calls += [("device", lambda v=v: find_device(v), v) for v in (
    5, True, [], {}, 1.5, "gpu", "cuda:x", "cuda:-1", "cpu\x1b[2J", b"cpu", torch.device("meta"), torch.float32)]
def joined(timeout):
    with process_group(timeout): pass
calls += [("timeout", lambda v=v: joined(v), v) for v in (0, -1, float("nan"), float("inf"), "x", None, True)]
calls += [("precision", lambda v=v: embed(model, images / 255, v), v) for v in ("fp16", None, 5, [])]
calls += [("out", lambda v=v: clear_run(v), v) for v in (5, None, "", [], "a\0b")]
unclear = []
for name, call, value in calls:
    try: call()
    except (TypeError, ValueError) as error:
        text = str(error)
        named = re.search(dict(lr="step", batches="n_images|n_batches|seed|epoch").get(name, name), text)
        if not named or not text.isprintable() or not 15 < len(text) < 400: unclear.append((name, value, text))
    except BaseException as error: unclear.append((name, value, repr(error)))
    else: unclear.append((name, value, "accepted"))
assert not unclear, "\n".join(map(str, unclear))
assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
print(len(calls))
"""


def test_odd_arguments_are_refused_by_name(tmp_path):
    "In a process without the type checks that the tests add"
    done = children.run(ODD_CALLS, Path(__file__).parent, cwd=tmp_path)
    assert done.returncode == 0 and int(done.stdout) > 70, done.stderr[-3000:]
    assert not list(tmp_path.iterdir()), "nothing was made"


# --- checkpoints

def altered(path, change):
    "A checkpoint with other contents, its checksum right"
    tensors, meta = read_checkpoint(path)
    change(tensors, meta)
    write_tensors(path, {name: x.clone().contiguous() for name, x in tensors.items()}, json.dumps(meta))


def of_tensor(name, change): return lambda tensors, meta: tensors.update({name: change(tensors[name])})
def of_record(**changes): return lambda tensors, meta: meta["history"][1].update(changes)
def of_meta(**changes): return lambda tensors, meta: meta.update(changes)
def without(where, name): return lambda tensors, meta: (meta if where == "meta" else meta[where] if where == "settings" else meta["history"][1]).pop(name)


WEIGHT = "0.weight"
MISFITS = [
    *[(f"{key} {what}", of_tensor(f"optimizer.{WEIGHT}.{key}", change), f"{key} of {WEIGHT} is|its moments hold numbers")
      for key in ("exp_avg", "exp_avg_sq") for what, change in dict(
        empty=lambda x: x[:0], short=lambda x: x.flatten()[:7], flat=lambda x: x.flatten(), scalar=lambda x: x.sum(), longer=lambda x: torch.cat([x, x]),
        double=lambda x: x.double(), half=lambda x: x.half(), int=lambda x: x.int(), nan=lambda x: x * math.nan).items()],
    ("negative square", of_tensor(f"optimizer.{WEIGHT}.exp_avg_sq", lambda x: x - 1), "numbers that Adam never leaves"),
    ("infinite mean", of_tensor(f"optimizer.{WEIGHT}.exp_avg", lambda x: x + math.inf), "numbers that Adam never leaves"),
    ("nan weight", of_tensor(f"model.{WEIGHT}", lambda x: x * math.nan), "numbers that Adam never leaves"),
    *[(f"step {what}", of_tensor(f"optimizer.{WEIGHT}.step", change), f"step of {WEIGHT} is|its optimizer made") for what, change in dict(
        nan=lambda x: x * math.nan, infinite=lambda x: x + math.inf, negative=lambda x: -x, zero=lambda x: x * 0,
        half=lambda x: x + .5, large=lambda x: x + 1e30, more=lambda x: x + 1, double=lambda x: x.double(),
        int=lambda x: x.int(), one=lambda x: x[None], two=lambda x: torch.stack([x, x])).items()],
    ("all steps fewer", lambda tensors, meta: [tensors[n].sub_(1) for n in tensors if n.endswith(".step")], "its optimizer made 5 steps, its 2 epochs have 6"),
    *[(f"no {key}", lambda tensors, meta, key=key: tensors.pop(f"optimizer.{WEIGHT}.{key}"), f"the optimizer keeps .* of {WEIGHT}")
      for key in ("step", "exp_avg", "exp_avg_sq")],
    ("no state of one", lambda tensors, meta: [tensors.pop(n) for n in list(tensors) if n.startswith(f"optimizer.{WEIGHT}.")],
     f"no state, or one too many, of '{WEIGHT}'"),
    ("no state", lambda tensors, meta: [tensors.pop(n) for n in list(tensors) if n.startswith("optimizer.")], "no state, or one too many"),
    ("more state", lambda tensors, meta: tensors.update({f"optimizer.{WEIGHT}.max": torch.ones(2)}), "the optimizer keeps exp_avg, exp_avg_sq, max, step"),
    ("state of nothing", lambda tensors, meta: tensors.update({"optimizer.evil\x1b[2J\n.step": torch.ones(())}), r"one too many, of 'evil.x1b\[2J.n'"),
    ("state of a buffer", lambda tensors, meta: (meta["optimizer"].append("1.num_batches_tracked"), tensors.update({
        f"optimizer.1.num_batches_tracked.{k}": torch.ones(()) for k in ("step", "exp_avg", "exp_avg_sq")})),
     "moves '1.num_batches_tracked', which is no weight"),
    ("stray", lambda tensors, meta: tensors.update(evil=torch.ones(2)), "'evil' belongs neither"),
    *[(f"{name} {value!r}"[:60], of_meta(**{name: value}), message) for name, message in dict(
        format="its format and version", sscq="its format and version", settings="its settings are", history="its history is",
        steps="the steps of its epochs are", optimizer="the names of what its optimizer moves are").items() for value in (None, [], {}, "x", 1.5, True, -1)
        if (name, value) not in [("sscq", "x"), ("settings", {}), ("optimizer", [])]],
    ("optimizer []", of_meta(optimizer=[]), "no state, or one too many"), ("settings {}", of_meta(settings={}), "epochs=None"),
    ("steps of one", lambda tensors, meta: meta["steps"].pop(), "its history has 2 epochs, the steps of its epochs are .3."),
    ("other steps", of_meta(steps=[3, 4]), "made 6 steps, its 2 epochs have 7"), ("huge steps", of_meta(steps=[2 ** 70, 3]), "the steps of its epochs are"),
    *[(f"epochs {value!r}", lambda tensors, meta, value=value: meta["settings"].update(epochs=value), "epochs=|epochs of 1")
      for value in (0, -1, 1, None, "4", 4.5, True, [])],
    *[(f"no {name}", without("meta", name), ".") for name in ("format", "sscq", "settings", "history", "steps", "optimizer")],
    ("no epochs", without("settings", "epochs"), "epochs=None"),
    *[(f"no {name}", without("record", name), name) for name in ("epoch", "loss", "lr", "seconds", "usage", "perplexity")],
    *[(f"{name} {value!r}"[:60], of_record(**{name: value}), name) for name, values in dict(
        epoch=[0, 1, 3, 2.5, "2", True, None], loss=["x", None, math.nan, math.inf, True, []], lr=[-1, "x", math.inf], seconds=["x", -1, math.nan, 0, None],
        usage=["x", [], [[1]], [[-1] * 16] * 4, [[.5] * 16] * 4, {}, [["x"] * 16] * 4, [[0] * 16, [1] * 16] * 2],
        perplexity=[[], "x", [math.nan] * 4, [1] * 3, ["x"] * 4]).items() for value in values],
    ("history of one", lambda tensors, meta: meta["history"].pop(), "its history has 1 epochs, the steps"),
    ("history ninefold", lambda tensors, meta: meta.update(history=meta["history"] * 9), "its history has 18 epochs of 4"),
    ("history twice", lambda tensors, meta: meta.update(history=meta["history"] * 2), "its record 3 is of epoch 1"),
    *[(f"record {value!r}", lambda tensors, meta, value=value: meta["history"].__setitem__(1, value), "its record 2 is") for value in (1, None, [], "x", {})],
    ("too many epochs", lambda tensors, meta: meta["settings"].update(epochs=1), "its history has 2 epochs of 1"),
]


@pytest.fixture(scope="module")
def sealed(images, tmp_path_factory):
    "A run that was stopped after two epochs of four, and its bytes"
    out = tmp_path_factory.mktemp("sealed") / "run"
    stopped(images, out)
    return {p.name: p.read_bytes() for p in out.iterdir()}


@pytest.mark.parametrize("change, message", [m[1:] for m in MISFITS], ids=[f"{i} {m[0]}" for i, m in enumerate(MISFITS)])
def test_a_checkpoint_fits_together(images, tmp_path, sealed, change, message):
    "Whatever its checksum says; and what does not is said in one line"
    (tmp_path / CHECKPOINT).write_bytes(sealed[CHECKPOINT])
    altered(tmp_path / CHECKPOINT, change)
    bytes_before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match=message) as caught: last_checkpoint(tmp_path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700 and "nothing whole to continue from" in str(caught.value)
    assert (tmp_path / CHECKPOINT).read_bytes() == bytes_before


@pytest.mark.parametrize("resume", [True, "changed", False])
def test_nothing_is_trained_on_a_checkpoint_that_does_not_fit(images, tmp_path, sealed, resume):
    (tmp_path / CHECKPOINT).write_bytes(sealed[CHECKPOINT])
    altered(tmp_path / CHECKPOINT, of_tensor("optimizer.0.weight.exp_avg", lambda x: x[:0]))
    model = small_model(seed=3)
    with pytest.raises(ValueError, match="exp_avg of 0.weight is"): trained(images, model=model, out=tmp_path, resume=resume)
    assert same(model, small_model(seed=3)) and sorted(p.name for p in tmp_path.iterdir()) == [CHECKPOINT, HISTORY]


def test_a_checkpoint_that_does_not_fit_is_survived_by_the_one_before(images, tmp_path, sealed):
    for name, data in sealed.items(): (tmp_path / name).write_bytes(data)
    altered(tmp_path / CHECKPOINT, lambda tensors, meta: meta["history"].pop())
    with pytest.warns(UserWarning, match="damaged .its parts do not fit together: .*: going on from checkpoint.previous.safetensors, epoch 1"):
        assert same(trained(images, seed=9, out=tmp_path, resume=True)[0], unbroken(images))


@pytest.mark.parametrize("change, message", [
    (of_tensor("model.0.weight", lambda x: x.double()), "exp_avg of 0.weight is .* of torch.float32, the weight .* of torch.float64"),
    (lambda tensors, meta: tensors.update({n: x.double() for n, x in tensors.items() if n.startswith("model.0") or n.startswith("optimizer.0") and "exp" in n}),
     "of another architecture: 0.weight is torch.float64 there and torch.float32 in this model"),
    (of_tensor("model.1.running_var", lambda x: x - 10), "running averages of 1 are none"),
    (of_tensor("model.1.running_mean", lambda x: x * math.nan), "running averages of 1 are none"),
    (of_tensor("model.1.num_batches_tracked", lambda x: x * 0 - 5), "running averages of 1 are none"),
    (of_tensor("model.1.num_batches_tracked", lambda x: x.float()), "torch.float32 there"),
    (lambda tensors, meta: [r.update(usage=r["usage"] * 2, perplexity=r["perplexity"] * 2) for r in meta["history"]],
     "its history is not of 4 codebooks of 16 words"),
    (lambda tensors, meta: tensors.pop("model.1.running_var"), "1.running_var is absent there"),
    (lambda tensors, meta: tensors.update({"model.more": torch.ones(2)}), "more is .2. there and absent in this model"),
    (lambda tensors, meta: (meta.update(format=1), meta.pop("optimizer"), meta.pop("steps"),
                            [tensors.pop(n) for n in list(tensors) if n.startswith("optimizer.0")]),
     "its optimizer has no state of 0.weight"),
    (lambda tensors, meta: meta["settings"].update({"evil\x1b[2J\n": 1}), "changed: evil.x1b.2J.n from 1 to None")])
def test_a_checkpoint_of_this_model(images, tmp_path, sealed, change, message):
    (tmp_path / CHECKPOINT).write_bytes(sealed[CHECKPOINT])
    altered(tmp_path / CHECKPOINT, change)
    model = small_model(seed=3)
    with pytest.raises(ValueError, match=message) as caught: trained(images, model=model, out=tmp_path, resume=True)
    assert same(model, small_model(seed=3)) and str(caught.value).isprintable()


def test_a_checkpoint_of_format_1_is_read(images, tmp_path, sealed):
    "As all versions before wrote it: through the library, without steps and without the optimizer's names"
    tensors, meta = read_checkpoint_bytes(tmp_path, sealed)
    meta = dict(format=1, sscq=meta["sscq"], settings={k: v for k, v in meta["settings"].items()}, history=meta["history"])
    text = json.dumps(meta)
    save_file({n: x.contiguous() for n, x in tensors.items()}, tmp_path / CHECKPOINT, {"sscq": text, "sha256": checksum(tensors, text)})
    model, history = trained(images, seed=9, out=tmp_path, resume=True)
    assert same(model, unbroken(images)) and len(history) == 4
    assert read_checkpoint(tmp_path / CHECKPOINT)[1]["steps"] == [3] * 4


def read_checkpoint_bytes(folder, files):
    (folder / CHECKPOINT).write_bytes(files[CHECKPOINT])
    return read_checkpoint(folder / CHECKPOINT)


def test_a_run_that_changed_its_batches_goes_on(images, tmp_path):
    "Its optimizer made another number of steps in the epochs before"
    stopped(images, tmp_path, 1)
    for batch, at in ((32, 2), (16, 3)):
        with pytest.warns(UserWarning, match=f"epoch {at};"): trained(images, out=tmp_path, resume="changed", batch_size=batch, on_epoch=stop_at(at))
    assert read_checkpoint(tmp_path / CHECKPOINT)[1]["steps"] == [3, 5, 10]
    assert len(trained(images, out=tmp_path, resume=True, batch_size=16)[1]) == 4


def test_a_weight_without_gradient_has_no_state(images, tmp_path):
    "Frozen, or not used; the file says which weights the optimizer moves"
    class Partly(nn.Module):
        def __init__(self, seed=0):
            super().__init__()
            self.net, self.unused = small_model(seed=seed), nn.Linear(3, 3)
            self.net[0].weight.requires_grad_(False)
            nn.init.zeros_(self.unused.weight), nn.init.zeros_(self.unused.bias)
        def forward(self, x): return self.net(x)
    want, _ = trained(images, model=Partly())
    stopped(images, tmp_path, model=Partly())
    assert not {"net.0.weight", "unused.bias"} & set(read_checkpoint(tmp_path / CHECKPOINT)[1]["optimizer"])
    assert same(trained(images, model=Partly(9), out=tmp_path, resume=True)[0], want)


def test_moments_lie_in_memory_as_their_weights_do(images, tmp_path):
    "The fused optimizer walks both together; weights of several channels are channels-last, and files are not"
    def deep(seed=0):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
                             nn.Linear(256, 32), ProductQuantizer(4, 16, 8))
    want, _ = trained(images, model=deep())
    stopped(images, tmp_path, model=deep())
    assert same(trained(images, model=deep(9), out=tmp_path, resume=True)[0], want)


@pytest.mark.parametrize("dtype", sscq_checkpoint.DTYPES, ids=str)
def test_what_is_written_is_what_the_library_reads(tmp_path, dtype):
    x = (torch.rand(3, 5, 4, 4) * 9).to(dtype)
    tensors = {"b": x, "a": torch.arange(3, dtype=torch.uint8), "last": x.to(memory_format=torch.channels_last), "one": x[0, 0, 0, 0], "none": x[:0],
               "part": x[:, 1], "é\n": torch.tensor(True)}
    write_tensors(tmp_path / "x", tensors, 'a "text"\né')
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata()["sscq"] == 'a "text"\né'
        got = {name: file.get_tensor(name) for name in file.keys()}
    assert got.keys() == tensors.keys() and all(torch.equal(got[n], x) and got[n].dtype == x.dtype for n, x in tensors.items())
    with open(tmp_path / "x", "rb") as file: assert load(file.read()).keys() == got.keys()
    assert read_tensors(tmp_path / "x")[0]["sha256"] == checksum(got, 'a "text"\né')


def test_save_every(images, tmp_path, monkeypatch):
    "One in so many epochs, and the last, and the one before whatever stops the run"
    written, real = [], sscq_checkpoint.keep_epoch
    monkeypatch.setattr(sscq_checkpoint, "keep_epoch", lambda *args: written.append(len(args[3])) or real(*args))
    want, _ = trained(images, epochs=7)
    for every, expected in ((2, [2, 4, 6, 7]), (100, [7])):
        written.clear()
        model, _ = trained(images, epochs=7, save_every=every, out=tmp_path / f"all {every}")
        assert written == expected and same(model, want) and epochs_in(tmp_path / f"all {every}") == list(range(1, 8))
    for stop in (3, 5):
        out = tmp_path / f"stopped {stop}"
        written.clear()
        stopped(images, out, stop, epochs=7, save_every=3)
        assert written == [n for n in (3, 6) if n < stop] + [stop] and len(last_checkpoint(out).meta["history"]) == stop
        assert same(trained(images, seed=9, epochs=7, out=out, resume=True)[0], want), "save_every is no setting of the result"
    def interrupting(x):
        calls.append(1)
        if len(calls) == 2 * (3 * 4 + 2): raise error
        return digit_view(x)
    interrupting.__name__ = "digit_view"
    for error in (KeyboardInterrupt(), LookupError("in a step"), torch.OutOfMemoryError()):  # amid the fifth epoch: its optimizer has moved on
        calls, out = [], tmp_path / type(error).__name__
        with contextlib.suppress(LookupError, torch.OutOfMemoryError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trained(images, view=interrupting, epochs=7, save_every=3, out=out)
        assert epochs_in(out) == [1, 2, 3, 4] and same(trained(images, seed=9, epochs=7, out=out, resume=True)[0], want)


def test_what_killed_runs_left_is_removed(images, tmp_path):
    for name in (CHECKPOINT + ".part", HISTORY + ".part"): (tmp_path / name).write_bytes(b"x" * 1000)
    (tmp_path / ".sscq-part-killed").mkdir()
    (tmp_path / ".sscq-part-killed" / CHECKPOINT).write_bytes(b"x" * 1000)
    (tmp_path / "mine.part").write_text("mine")
    trained(images, out=tmp_path, epochs=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [CHECKPOINT, HISTORY, "mine.part"]
    (tmp_path / ".sscq-part-killed").mkdir()
    clear_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.part"]
    clear_run(tmp_path / "nothing")


def test_odd_files_and_long_names(images, tmp_path):
    "Found before training: names that are too long at any place, and what is no regular file"
    def never(x): raise AssertionError("training began")
    trained(images, out=tmp_path / ("x" * 255), epochs=1)
    long = tmp_path
    while len(str(long)) < 4060: long = long / ("y" * min(200, 4075 - len(str(long))))
    for out in (tmp_path / ("x" * 256), tmp_path / ("é" * 128), long):
        with pytest.raises(ValueError, match="^out=.* cannot be written .File name too long"): trained(images, view=never, out=out)
    os.mkfifo(tmp_path / HISTORY)
    (tmp_path / "folder").mkdir(), (tmp_path / "folder" / CHECKPOINT).mkdir()
    for out in (tmp_path, tmp_path / "folder"):
        with pytest.raises(ValueError, match="is no regular file: move it away"): trained(images, view=never, out=out)


def test_resume_continues_bit_for_bit(images, tmp_path):
    want, history = trained(images)
    for at in (1, 2, 3):
        out = tmp_path / str(at)
        stopped(images, out, at)
        model, records = trained(images, seed=9, out=out, resume=True)
        assert same(model, want)
        drop = lambda records: [{k: v for k, v in r.items() if k != "seconds"} for r in records]
        assert drop(records) == drop(history) and records[-1]["seconds"] > records[at - 1]["seconds"]
        assert [json.loads(line) for line in (out / HISTORY).read_text().splitlines()] == records


@pytest.mark.parametrize("kw", [dict(precision="bf16"), dict(micro_batch=16)])
def test_resume_in_other_modes(images, tmp_path, kw):
    want, _ = trained(images, **kw)
    stopped(images, tmp_path, 2, **kw)
    assert same(trained(images, seed=9, out=tmp_path, resume=True, **kw)[0], want)


def test_resume_without_a_run_begins_one(images, tmp_path):
    model, _ = trained(images, out=tmp_path / "new", resume=True)
    assert same(model, unbroken(images))
    # a finished run is read back, and nothing more is trained
    again, history = trained(images, seed=9, out=tmp_path / "new", resume=True)
    assert same(again, model) and len(history) == 4


def test_history_can_be_read_while_training(images, tmp_path):
    lines = []
    _, history = trained(images, out=tmp_path, on_epoch=lambda r: lines.append(len((tmp_path / HISTORY).read_text().splitlines())))
    assert lines == [0, 1, 2, 3] and sorted(p.name for p in tmp_path.iterdir()) == [PREVIOUS, CHECKPOINT, HISTORY]


def test_an_unfinished_run_is_not_written_over(images, tmp_path):
    stopped(images, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="stopped after epoch 2 of 4: continue it with resume=True, or clear_run"):
        trained(images, out=tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    clear_run(tmp_path)
    assert not list(tmp_path.iterdir())
    trained(images, out=tmp_path)


def test_a_finished_run_is_written_over_once_there_is_something_better(images, tmp_path):
    trained(images, out=tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    def early(x): raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="stopped during epoch 1: the model keeps the weights of epoch 0$"): trained(images, out=tmp_path, view=early)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    trained(images, out=tmp_path, epochs=1)
    assert len(last_checkpoint(tmp_path).meta["history"]) == len((tmp_path / HISTORY).read_text().splitlines()) == 1


def test_the_version_that_began_a_run_is_no_setting(images, tmp_path):
    trained(images, out=tmp_path, epochs=2)
    tensors, meta = read_checkpoint(tmp_path / CHECKPOINT)
    assert "sscq" not in meta["settings"] and meta["sscq"]
    sscq_checkpoint.check_unchanged(meta["settings"] | {"sscq": "0.0.1"}, meta["settings"])  # as older versions wrote it
    with pytest.raises(ValueError, match="lr from"): sscq_checkpoint.check_unchanged(meta["settings"], meta["settings"] | {"lr": 7.})


def test_changed_settings_are_told(images, tmp_path):
    stopped(images, tmp_path)
    changed = dict(objective=SSCQObjective(n_neighbors=5, tau_ic=.3), lr=1e-3, out=tmp_path)
    with pytest.raises(ValueError, match=r"changed: objective.tau_ic from 0.5 to 0.3, lr from 0.0005 to 0.001. .*resume='changed'"):
        trained(images, resume=True, **changed)
    with pytest.raises(ValueError, match="images from 160 to 150"): trained(images[:150], out=tmp_path, resume=True)
    _, history = trained(images, resume="changed", **changed)
    assert len(history) == 4
    with pytest.raises(ValueError, match="resume='yes' must be"): trained(images, out=tmp_path, resume="yes")
    with pytest.raises(ValueError, match="needs out"): trained(images, resume=True)
    for resume in (False, True):
        with pytest.raises(ValueError, match="out='' is no path"): trained(images, out="", resume=resume)


def wrapped(function, name):
    @functools.wraps(function)
    def same(*args, **kw): return function(*args, **kw)
    same.__name__ = name
    return same


@dataclass(frozen=True)
class SameObjective(SSCQObjective):
    "Of another name, and set alike"


@pytest.mark.filterwarnings("default:view was")
@pytest.mark.parametrize("was, now", [
    (digit_view, functools.partial(digit_view)), (digit_view, wrapped(digit_view, "digit_view")), (functools.partial(crop, scale=(.5, 1.)), cropped),
    (functools.partial(crop, scale=(.5, 1.)), functools.partial(functools.partial(crop, scale=(.3, 1.)), scale=(.5, 1.))),
    (cropped, functools.partial(wrapped(cropped, "cropped"), scale=(.5, 1.)))],
    ids=["partial", "wrapped", "a default", "partial of partial", "wrapped and partial"])
def test_a_view_that_is_wrapped_or_set_alike_goes_on(was, now, images, tmp_path, recwarn):
    stopped(images, tmp_path, view=was)
    recwarn.clear()
    assert len(trained(images, view=now, out=tmp_path, resume=True)[1]) == 4
    renamed = sscq_checkpoint.settings_of(was)[0] != sscq_checkpoint.settings_of(now)[0]
    assert [str(w.message).partition(":")[0] for w in recwarn] == ["view was 'crop' and is 'cropped'"] * renamed


def test_an_objective_is_what_it_is_set_to(images, tmp_path):
    "Another class with the same fields goes on, with a note; other fields, or the same with other values, are refused"
    stopped(images, tmp_path)
    for other in (SPQObjective(), SameObjective(n_neighbors=5, tau_cd=.5)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ValueError, match="changed: objective[.]"): trained(images, objective=other, out=tmp_path, resume=True)
    with pytest.warns(UserWarning, match="objective was 'SSCQObjective' and is 'SameObjective': a name is no setting") as said:
        _, history = trained(images, objective=SameObjective(n_neighbors=5), out=tmp_path, resume=True)
    assert len(history) == 4 and len(said) == 1


@pytest.mark.parametrize("was, now, message", [
    (functools.partial(crop, scale=(.5, 1.)), functools.partial(crop, scale=(.4, 1.)), r"view.scale from \[0.5, 1.0\] to \[0.4, 1.0\]"),
    (functools.partial(crop, scale=(.5, 1.)), crop, r"view.scale from \[0.5, 1.0\] to \[0.08, 1.0\]"),
    (cropped, wrapped(crop, "cropped"), r"view.scale from")])
def test_a_view_set_otherwise_is_refused(was, now, message, images, tmp_path):
    stopped(images, tmp_path, view=was)
    with pytest.raises(ValueError, match=f"changed: {message}"): trained(images, view=now, out=tmp_path, resume=True)
    assert len(trained(images, view=now, out=tmp_path, resume="changed")[1]) == 4


def test_what_shows_no_settings_goes_on_with_a_note(images, tmp_path):
    "Once, and it names both; what has the same name is not mentioned"
    stopped(images, tmp_path, view=Mirror())
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.warns(UserWarning, match="^view was 'Mirror' and is '<lambda>', objective was 'SSCQObjective' and is '<lambda>': .*clear_run") as said:
        trained(images, view=lambda x: digit_view(x), objective=lambda a, b, books: OBJECTIVE(a, b, books), out=tmp_path, resume=True)
    assert len(said) == 1
    (tmp_path / CHECKPOINT).write_bytes(before)
    assert len(trained(images, view=Mirror(), out=tmp_path, resume=True)[1]) == 4


def test_settings_are_read_from_what_was_wrapped():
    settings_of = sscq_checkpoint.settings_of
    class Endless:
        def __getattr__(self, name): return self
        def __call__(self, x): return x
    for thing, want in [
            (crop, ("crop", {"scale": (.08, 1.), "mode": "area"})),
            (functools.partial(crop, 1, mode="x"), ("crop", {"scale": (.08, 1.), "mode": "x", "argument 1": 1})),
            (lambda x, f=print, t=torch.ones(2): x, ("<lambda>", {"t": torch.ones(2)})), (digit_view, ("digit_view", {})), (Mirror(), ("Mirror", {})),
            (SPQObjective(.3), ("SPQObjective", {"tau": .3})), (SPQObjective, ("SPQObjective", {})), (Mirror().__call__, ("__call__", {})),
            (Endless(), (None, {}))]:
        name, found = settings_of(thing)
        assert name == want[0] or want[0] is None
        assert repr(sorted(found.items())) == repr(sorted(want[1].items()))


def test_a_system_without_locks_trains_all_the_same(images, tmp_path, monkeypatch):
    "Windows, and some file systems: nobody is kept out"
    monkeypatch.setattr(sscq_files, "fcntl", None)
    with sscq_checkpoint.sole_writer(tmp_path): assert len(trained(images, out=tmp_path, epochs=1)[1]) == 1


def test_another_architecture_or_format_is_refused(images, tmp_path, monkeypatch):
    stopped(images, tmp_path)
    for resume in ("changed", True):
        model = small_model(width=4)
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(ValueError, match=r"0.weight is \[8, 1, 3, 3\] there and \[4, 1, 3, 3\] in this model"):
            trained(images, model=model, out=tmp_path, resume=resume)
        assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    deeper = small_model().append(nn.Identity()).append(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="8.weight is absent there"): trained(images, model=deeper, out=tmp_path, resume="changed")
    with monkeypatch.context() as m:
        m.setattr(sscq_checkpoint, "CHECKPOINT_FORMAT", 1)
        with pytest.raises(ValueError, match="has format 2, of sscq .*; this is sscq .*, which reads formats up to 1"):
            trained(images, out=tmp_path, resume=True, lr=1e-3)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    text = '{"format": 3}'  # a later version's, whose other names are unknown
    save_file({}, tmp_path / CHECKPOINT, {"sscq": text, "sha256": checksum({}, text)})
    before[tmp_path / CHECKPOINT] = (tmp_path / CHECKPOINT).read_bytes()
    for resume in (False, "changed"):
        with pytest.raises(ValueError, match="has format 3, .* or choose another folder"): trained(images, out=tmp_path, resume=resume)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_files_of_something_else_stay(images, tmp_path):
    (tmp_path / HISTORY).write_text("mine")
    with pytest.raises(ValueError, match="history.jsonl is there without a checkpoint, .*choose another folder"): trained(images, out=tmp_path)
    assert (tmp_path / HISTORY).read_text() == "mine"
    save_file({"mine": torch.zeros(2)}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="no checkpoint of a training run: .*choose another folder"): trained(images, out=tmp_path)
    for name in (PREVIOUS, CHECKPOINT + ".part", HISTORY + ".part", "more"): (tmp_path / name).write_text("")
    clear_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["more"]


def test_one_run_at_a_time_writes_to_a_folder(images, tmp_path):
    "Another run in the same process is another run"
    def second(record):
        with pytest.raises(ValueError, match="is in use by another run"): trained(images, out=tmp_path, resume=True)
    model, history = trained(images, out=tmp_path, on_epoch=second)
    assert same(model, unbroken(images)) and epochs_in(tmp_path) == [1, 2, 3, 4]
    trained(images, out=tmp_path)  # free again


def test_a_layer_with_two_names(images, tmp_path):
    class Twice(nn.Module):
        def __init__(self, seed=0):
            super().__init__()
            self.net = small_model(seed=seed)
            self.quantizer = self.net[-1]
        def forward(self, x): return self.net(x)
    want, _ = trained(images, model=Twice())
    stopped(images, tmp_path, model=Twice())
    assert same(trained(images, model=Twice(9), out=tmp_path, resume=True)[0], want)


@pytest.mark.parametrize("damage", ["cut", "empty", "half", "flip", "missing"])
def test_a_torn_file_is_survived_by_the_one_before(images, tmp_path, damage):
    want = unbroken(images)
    stopped(images, tmp_path, 3)
    data = bytearray((tmp_path / CHECKPOINT).read_bytes())
    if damage == "flip": data[len(data) // 2] ^= 4
    else: data = data[:{"cut": -1, "empty": 0, "half": len(data) // 2}.get(damage, 0)]
    (tmp_path / CHECKPOINT).write_bytes(data)
    if damage == "missing": (tmp_path / CHECKPOINT).unlink()
    context = pytest.warns(UserWarning, match="is damaged .* going on from checkpoint.previous.safetensors, epoch 2")
    if damage == "missing": model, history = trained(images, seed=9, out=tmp_path, resume=True)
    else:
        with context: model, history = trained(images, seed=9, out=tmp_path, resume=True)
    assert same(model, want) and [r["epoch"] for r in history] == [1, 2, 3, 4]
    assert epochs_in(tmp_path) == [1, 2, 3, 4]
    assert len(read_checkpoint(tmp_path / PREVIOUS)[1]["history"]) == 3


def test_a_damaged_file_never_pushes_out_the_good_one(images, tmp_path):
    "Killed again right after a resume from the file before"
    stopped(images, tmp_path, 3)
    (tmp_path / CHECKPOINT).write_bytes(b"torn")
    def interrupting(x): raise KeyboardInterrupt
    with pytest.warns(UserWarning): trained(images, view=interrupting, out=tmp_path, resume="changed")
    assert len(last_checkpoint(tmp_path).meta["history"]) == 2
    for name in (CHECKPOINT, PREVIOUS): (tmp_path / name).write_bytes(b"torn")
    with pytest.raises(ValueError, match="nothing whole to continue from"): trained(images, out=tmp_path, resume=True)
    save_file({"x": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="is no checkpoint of a training run"): read_checkpoint(tmp_path / "other")


def test_a_full_disk_is_survived(images, tmp_path):
    "The kernel refuses to write more: real, with a limit on file size"
    want = unbroken(images)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    def fill_up(record):
        if record["epoch"] == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.warns(UserWarning, match=r"epoch [34] could not be saved in .*: training goes on, the last checkpoint stays") as said:
            model, history = trained(images, on_epoch=fill_up, out=tmp_path)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(model, want) and len(history) == 4 and len(said) == 2
    assert len(read_checkpoint(tmp_path / CHECKPOINT)[1]["history"]) == 2 and not list(tmp_path.glob("*.part"))
    assert same(trained(images, seed=9, out=tmp_path, resume=True)[0], want)


def test_ctrl_c_after_a_full_disk_says_what_is_on_disk(images, tmp_path, monkeypatch):
    def no_space(fd): raise OSError(errno.ENOSPC, "No space left on device")
    def on_epoch(record):
        if record["epoch"] == 2: monkeypatch.setattr(os, "fsync", no_space)
        if record["epoch"] == 3: raise KeyboardInterrupt
    with pytest.warns(UserWarning) as said: trained(images, on_epoch=on_epoch, out=tmp_path)
    assert re.search("weights of epoch 3; .*checkpoint.safetensors has those of epoch 1, resume=True", str(said[-1].message)) and len(said) == 3
    assert len(last_checkpoint(tmp_path).meta["history"]) == 1
    with pytest.raises(ValueError, match="cannot be written .No space left on device.: make room"): trained(images, out=tmp_path, resume=True)
    assert len(last_checkpoint(tmp_path).meta["history"]) == 1


def test_an_unwritable_folder_is_found_before_training(images, tmp_path):
    (tmp_path / "file").write_text("")
    def never(x): raise AssertionError("training began")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="^out=.* cannot be written .*: make room, or name another place"): trained(images, view=never, out=out)


KILLS = int(os.environ.get("SSCQ_KILLS", 6))


def epochs_written(history: Path) -> int:
    try: return len(history.read_text().splitlines())
    except FileNotFoundError: return 0  # a run that starts anew removes it first


def test_kill_at_any_moment(images, tmp_path):
    """Stopped at random moments, each time taken up by a new process: the same weights in the end, and nothing left over.
    Two of three by a pair of Ctrl-C, 0 to 5 ms apart, one by kill -9; SSCQ_KILLS=30 for more"""
    kw, dice = dict(epochs=6 * KILLS + 6), random.Random(0)
    calm = start(run_alone, images.numpy(), tmp_path / "calm", kw)
    for i in range(KILLS):
        run, history = start(run_alone, images.numpy(), tmp_path / "wild", dict(kw, save_every=dice.choice([1, 1, 3]))), tmp_path / "wild" / HISTORY
        wanted = dice.randint(1 if i % 3 else 0, 5) + epochs_written(history)
        until = time.monotonic() + 60
        while epochs_written(history) < wanted and time.monotonic() < until: time.sleep(.002)
        time.sleep(dice.uniform(0, .05))  # somewhere in the epoch, or in the writing of a checkpoint
        assert run.exitcode is None
        if i % 3:
            os.kill(run.pid, signal.SIGINT)
            time.sleep(dice.uniform(0, .005))
            os.kill(run.pid, signal.SIGINT)
            run.join(60)
            assert run.exitcode == 0, "weights of no epoch, or others than on disk"
        else:
            run.kill()
            run.join()
    last = start(run_alone, images.numpy(), tmp_path / "wild", kw)
    last.join()
    calm.join()
    assert calm.exitcode == last.exitcode == 0
    a, b = (read_checkpoint(tmp_path / name / CHECKPOINT) for name in ("calm", "wild"))
    assert a[0].keys() == b[0].keys() and all(torch.equal(a[0][k], b[0][k]) for k in a[0])
    assert epochs_in(tmp_path / "wild") == list(range(1, kw["epochs"] + 1))
    assert sorted(p.name for p in (tmp_path / "wild").iterdir()) == [PREVIOUS, CHECKPOINT, HISTORY]


def test_train_epoch_depends_on_nothing_but_its_number(images):
    results = []
    for noise in (0, 3):
        model = small_model()
        run = Run(model, images, digit_view, OBJECTIVE, settings(), torch.optim.Adam(model.parameters()), 3)
        torch.rand(noise)
        losses, names, counts = train_epoch(run, 1)
        results.append((losses, counts))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert names[0] == "loss" and losses.shape == (3, 6)


def test_bf16_is_chosen_where_the_processor_has_it(monkeypatch):
    for found, precision in (({}, "fp32"), (dict(avx512_bf16=True), "bf16"), (dict(amx_bf16=True), "bf16"), (dict(avx512_bf16=False), "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert sscq_distributed.quick_precision("cpu") == precision and TrainConfig(precision=sscq_distributed.quick_precision("cpu"))
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert sscq_distributed.quick_precision() == sscq_distributed.quick_precision(torch.device("mps")) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert sscq_distributed.quick_precision("cuda:1") == "bf16"
