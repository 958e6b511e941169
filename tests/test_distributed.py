"Two processes that train together are one process with the joined batch."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from train_runs import (OBJECTIVE, TOGETHER, Mirror, disagree, free_port, linger, settings, small_model, start_ranks, train_together,
                        train_until_stopped)

from sscq.data import digits
from sscq.checkpoint import CHECKPOINT, last_checkpoint
from sscq.history import HISTORY
from sscq.train import fit
from sscq.distributed import gather_rows, gather_views, process_group, broadcast_initial_state, synced_batch_norm, run_collective

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def images(): return digits().train.numpy()


def ended(processes, seconds: float = 100.) -> list[int]:
    "Exit codes; whoever is still there after `seconds` is killed and counts as None"
    until = time.monotonic() + seconds
    for p in processes: p.join(max(0, until - time.monotonic()))
    codes = [p.exitcode for p in processes]
    for p in processes:
        if p.is_alive(): p.kill()
    return codes


def test_two_ranks_are_one(images, tmp_path):
    processes = start_ranks(train_together, tmp_path, images)
    (alone := tmp_path / "alone").mkdir()
    train_together(0, alone, images)
    assert ended(processes) == [0, 0], "\n".join(p.read_text() for p in tmp_path.glob("error.*"))
    for name, *_, dtype in TOGETHER:
        files = (folder / f"{name}.{rank}" for folder, rank in ((alone, 0), (tmp_path, 0), (tmp_path, 1)))
        one, a, b = (torch.load(file, weights_only=True) for file in files)
        close = 1e-5 if dtype == torch.float32 else 1e-10
        for key, want in one["weights"].items():
            assert torch.equal(a["weights"][key], b["weights"][key]), key
            torch.testing.assert_close(a["weights"][key], want, rtol=0, atol=close, msg=lambda m, key=key, name=name: f"{name} {key}: {m}")
        for key, want in one["grads"].items():
            if name == "twenty": break  # by then fp32 has rounded differently 19 times
            torch.testing.assert_close(a["grads"][key], want, rtol=0, atol=10 * close)
        for x, y in zip(one["history"], a["history"]):
            assert x["usage"] == y["usage"] and abs(x["loss"] - y["loss"]) < close * x["loss"]


def uneven_chunks(rank, folder, images):
    "Shares of 32 and 31 images, 31 at once: rank 1's would fit whole, but must be cut as rank 0's is"
    model = small_model()
    fit(model, torch.from_numpy(images[:63]), Mirror(), OBJECTIVE, settings(epochs=2, batch_size=63, micro_batch=31))
    torch.save(model.state_dict(), folder / f"weights.{rank}")
    odd_norms(rank)


def odd_norms(rank):
    "Batch norm without weights, and with a plain average of its statistics, against the joined batch"
    x, mine = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0)), slice(0, 3) if rank == 0 else slice(3, 5)
    for kw in (dict(affine=False), dict(momentum=None)):
        plain, synced = nn.BatchNorm2d(3, **kw), nn.BatchNorm2d(3, **kw)
        with synced_batch_norm(synced):
            for scale in (1, 2): torch.testing.assert_close(synced(x[mine] * scale), plain(x * scale)[mine], rtol=1e-5, atol=1e-6)
        for name in ("running_mean", "running_var"): torch.testing.assert_close(getattr(synced, name), getattr(plain, name))


def test_uneven_chunks_and_odd_norms(images, tmp_path):
    assert ended(start_ranks(uneven_chunks, tmp_path, images, timeout=20.)) == [0, 0], "\n".join(p.read_text() for p in tmp_path.glob("error.*"))
    a, b = (torch.load(tmp_path / f"weights.{rank}", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_ranks_that_disagree(images, tmp_path):
    assert ended(start_ranks(disagree, tmp_path, images[:64])) == [1, 1]
    for rank in (0, 1):
        assert "ranks disagree on lr: rank 0 has 0.001, rank 1 has 0.002" in (tmp_path / f"error.{rank}").read_text()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank(images, tmp_path, how):
    kw = dict(epochs=2000)
    processes = start_ranks(train_until_stopped, tmp_path, images[:64], kw, False, timeout=5.)
    until = time.monotonic() + 60
    while not (tmp_path / "run" / CHECKPOINT).exists() and time.monotonic() < until: time.sleep(.05)
    os.kill(processes[1].pid, how)
    assert ended(processes[:1], 60) == [1]
    processes[1].kill()
    assert "another rank is gone or hangs" in (tmp_path / "error.0").read_text()
    reached = len(last_checkpoint(tmp_path / "run").meta["history"])
    assert reached >= 1
    if how == signal.SIGSTOP: return
    # and the run resumes: with fewer epochs to go, which is a change of settings that both ranks name
    processes = start_ranks(train_until_stopped, tmp_path, images[:64], dict(epochs=reached), True)
    assert ended(processes) == [1, 1] and "epochs from 2000 to" in (tmp_path / "error.1").read_text()
    processes = start_ranks(train_until_stopped, tmp_path, images[:64], dict(epochs=reached + 2), "changed")
    assert ended(processes) == [0, 0]
    assert len((tmp_path / "run" / HISTORY).read_text().splitlines()) == reached + 2


def test_a_slow_hook_is_no_lost_rank(images, tmp_path):
    "Three times the timeout, after the first epoch and after the last"
    assert ended(start_ranks(linger, tmp_path, images, 0, 9., timeout=3.)) == [0, 0], "\n".join(p.read_text() for p in tmp_path.glob("error.*"))
    assert (tmp_path / "done.0").exists() and (tmp_path / "done.1").exists()


@pytest.mark.parametrize("how, who", [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 0), (signal.SIGSTOP, 1), (signal.SIGINT, 0)])
def test_a_rank_that_is_lost_in_its_hook(images, tmp_path, how, who):
    "Killed, stopped or interrupted where it may be slow: the other one, which waits, notices soon"
    processes = start_ranks(linger, tmp_path, images, who, 500., timeout=3.)
    until = time.monotonic() + 60
    while not (tmp_path / f"epoch 1 of {who}").exists() and time.monotonic() < until: time.sleep(.05)
    time.sleep(1)
    os.kill(processes[who].pid, how)
    begin, other = time.monotonic(), processes[1 - who]
    assert ended([other], 60) == [1] and time.monotonic() - begin < 30
    if processes[who].is_alive(): processes[who].kill()
    assert "another rank is gone or hangs" in (tmp_path / f"error.{1 - who}").read_text()


def test_torchrun(tmp_path):
    "The command that users type; rank 0 alone writes"
    script = tmp_path / "script.py"
    script.write_text("import torch\n"
        "from train_runs import *\n"
        "with process_group() as device:\n"
        "    rank, world = rank_and_world()\n"
        "    h = fit(small_model().to(device), torch.arange(64 * 64).remainder(251).byte().view(64, 1, 8, 8), Mirror(), OBJECTIVE,\n"
        "            settings(epochs=2), out='run', progress=False)\n"
        "    open(f'rank_{rank}', 'w').write(f'of {world}, epochs {len(h)}')\n")  # a file each: one output of two processes mixes
    env = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", PYTHONPATH=str(Path(__file__).parent))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"rank_{r}").read_text() for r in (0, 1)] == ["of 2, epochs 2"] * 2
    assert len((tmp_path / "run" / HISTORY).read_text().splitlines()) == 2


def test_alone_nothing_is_exchanged():
    x, model = torch.randn(6, 3), torch.nn.BatchNorm1d(3)
    assert gather_rows(x, 6) is x and gather_views(x, 3) is x
    with synced_batch_norm(model): assert type(model) is torch.nn.BatchNorm1d
    broadcast_initial_state(model, {"lr": 1})
    with process_group() as device: assert device.type in ("cpu", "cuda")


def test_a_group_of_one_is_joined_once(monkeypatch):
    for name, value in dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port()).items(): monkeypatch.setenv(name, str(value))
    with process_group() as outer:
        with process_group() as inner: assert inner.type == outer.type
        assert torch.distributed.is_initialized()
    assert not torch.distributed.is_initialized()


def test_what_is_no_lost_rank():
    def full(): raise torch.OutOfMemoryError("CUDA out of memory")
    def silent(): raise RuntimeError
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"): run_collective(full)
    with pytest.raises(RuntimeError, match="another rank is gone or hangs"): run_collective(silent)
