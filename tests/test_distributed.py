"Two processes that train together are one process with the joined batch."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from train_runs import TOGETHER, disagree, start_ranks, train_together, train_until_stopped

from sscq.data import digits
from sscq.train import CHECKPOINT, HISTORY, gather_rows, gather_views, last_checkpoint, ranks, same_start, synced_batch_norm

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


def test_torchrun(tmp_path):
    "The command that users type; rank 0 alone writes"
    script = tmp_path / "script.py"
    script.write_text("import torch\n"
        "from train_runs import *\n"
        "with ranks() as device:\n"
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
    same_start(model, {"lr": 1})
    with ranks() as device: assert device.type in ("cpu", "cuda")
