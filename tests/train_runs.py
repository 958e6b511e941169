"What test_train and test_distributed run in processes of their own: small trainings on digits, and someone to kill them."
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sscq.backbone import projection_head
from sscq.codebook import ProductQuantizer
from sscq.objective import SSCQObjective
from sscq.distributed import SyncedBatchNorm, encode_over_ranks, gather_rows, gather_views, rank_and_world, process_group, synced_batch_norm
from sscq.train import TrainConfig, fit
from sscq.checkpoint import last_checkpoint
from sscq.views import digit_view

OBJECTIVE = SSCQObjective(n_neighbors=5)
CONFIG = dict(epochs=4, batch_size=64, warmup_epochs=1, lr_end=.01)

# children are forked from a server that has imported all this but never computed: a start costs no import, and no threads are forked
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["torch", "torch._dynamo", "sscq.train", "sscq.backbone"])  # the second, a second, comes with any optimizer


def small_model(width: int = 8, seed: int = 0) -> nn.Sequential:
    "A network with batch norm that trains in a blink"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                             projection_head(16 * width, 4 * 8, 32), ProductQuantizer(4, 16, 8))


def smooth_model(seed: int = 0) -> nn.Sequential:
    "Without ReLU and max-pooling, where rounding decides near ties and so makes finite differences of infinitesimal ones"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
                             nn.Linear(128, 32), nn.Tanh(), nn.Linear(32, 32), ProductQuantizer(4, 16, 8))


class Mirror:
    "A view without chance: the images, then the images mirrored, and so on"
    def __init__(self, dtype=torch.float32): self.calls, self.dtype = 0, dtype

    def __call__(self, x):
        self.calls += 1
        return (x if self.calls % 2 else x.flip(-1)).to(self.dtype)


def settings(**kw) -> TrainConfig: return TrainConfig(**{**CONFIG, **kw})


def run_alone(images: np.ndarray, out: Path, kw: dict):
    "A training that another process may kill or interrupt; it takes up what it finds, and in the end compares memory with disk"
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = any(out.glob("checkpoint*.safetensors"))
    model, history = small_model(seed=os.getpid() if begun else 0), []
    try:
        try: fit(model, torch.from_numpy(images), digit_view, OBJECTIVE, settings(**kw), out=out, resume=True, history=history)
        finally: signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt: pass  # the second one
    saved = last_checkpoint(out)
    assert saved.meta["history"] == history
    assert all(torch.equal(saved.tensors["model." + name], x) for name, x in model.state_dict().items())


def start(target, *args):
    process = processes.Process(target=target, args=args)
    process.start()
    return process


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def rank_main(target, rank: int, world: int, port: int, folder: Path, timeout: float, *args):
    "Be one rank of several, as torchrun would start it; what goes wrong is left in a file"
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        with process_group(timeout=timeout): target(rank, folder, *args)
    except BaseException:
        (folder / f"error.{rank}").write_text(traceback.format_exc())
        sys.exit(1)


def start_ranks(target, folder: Path, *args, world: int = 2, timeout: float = 60.):
    "Start `world` processes that run `target(rank, folder, *args)` together"
    port = free_port()
    return [start(rank_main, target, rank, world, port, folder, timeout, *args) for rank in range(world)]


# name, images, settings, model, precision: one step; twenty steps; and batches of 63 and 62 images, which two ranks cannot halve
TOGETHER = [("step", 64, dict(epochs=1), smooth_model, torch.float32), ("twenty", 128, dict(epochs=10), smooth_model, torch.float32),
            ("twenty64", 128, dict(epochs=10), small_model, torch.float64), ("uneven", 125, dict(epochs=2), small_model, torch.float64)]


def train_together(rank: int, folder: Path, images: np.ndarray):
    "Each training in turn, leaving history, gradients and weights in a file; ranks begin with different weights"
    for name, n, kw, make, dtype in TOGETHER:
        model = make(seed=rank).to(dtype)
        history = fit(model, torch.from_numpy(images[:n]), Mirror(dtype), OBJECTIVE, settings(**kw))
        assert type(model[1]) is nn.BatchNorm2d
        grads = {name: p.grad for name, p in model.named_parameters()}
        torch.save(dict(history=history, weights=model.state_dict(), grads=grads), folder / f"{name}.{rank}")
    if rank_and_world()[1] > 1: check_pieces(rank)


def check_pieces(rank: int):
    "gather_rows, gather_views and SyncedBatchNorm against the joined batch, forward and backward"
    torch.manual_seed(0)
    x, w = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2)
    mine = slice(0, 3) if rank == 0 else slice(3, 5)
    own = x[mine].clone().requires_grad_()
    rows = gather_rows(own, 5)
    assert torch.equal(rows, x)
    (rows * w).sum().backward()
    assert torch.equal(own.grad, 2 * w[mine])

    images, seen = torch.arange(35, dtype=torch.uint8).view(5, 7), []
    def encode(x): seen.append(len(x)); return x + 1
    assert torch.equal(encode_over_ranks(encode, images), images + 1) and seen == [2 + rank]
    # rank 0 cannot read its first image, which then has no row; and an image for each rank is the least
    assert torch.equal(encode_over_ranks(lambda x: x[1 - rank:], images), images[1:])
    try: encode_over_ranks(encode, images[:1])
    except ValueError as error: assert "1 images cannot be shared by 2 ranks" in str(error)
    else: raise AssertionError("one image was shared by two ranks")

    views = torch.randn(2, 5, 7)
    assert torch.equal(gather_views(views[:, mine].flatten(0, 1), 5), views.flatten(0, 1))

    plain, synced = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    for norm in (plain, synced): torch.nn.init.uniform_(norm.weight.data, .5, 1.5, generator=torch.Generator().manual_seed(1))
    joined, own = x.clone().requires_grad_(), x[mine].clone().requires_grad_()
    want = plain(joined)
    (want * w).sum().backward()
    with synced_batch_norm(synced):
        assert type(synced) is SyncedBatchNorm
        got = synced(own)
        (got * w[mine]).sum().backward()
    torch.testing.assert_close(got, want[mine], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own.grad, joined.grad[mine], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(synced.running_var, plain.running_var)
    torch.testing.assert_close(synced.running_mean, plain.running_mean)
    assert synced.num_batches_tracked == 1


def train_until_stopped(rank: int, folder: Path, images: np.ndarray, kw: dict, resume: bool):
    "A long training in a folder"
    model = small_model(seed=rank)
    fit(model, torch.from_numpy(images), digit_view, OBJECTIVE, settings(**kw), out=folder / "run", resume=resume)


def disagree(rank: int, folder: Path, images: np.ndarray):
    "Each rank believes in its own learning rate"
    fit(small_model(), torch.from_numpy(images), Mirror(), OBJECTIVE, settings(lr=1e-3 * (1 + rank)))


def linger(rank: int, folder: Path, images: np.ndarray, who: int, seconds: float):
    "One rank looks at its record for long, twice; the others wait"
    def on_epoch(record):
        (folder / f"epoch {record['epoch']} of {rank}").touch()
        if rank == who and record["epoch"] != 2: time.sleep(seconds)
    history = fit(small_model(seed=rank), torch.from_numpy(images[:64]), Mirror(), OBJECTIVE, settings(epochs=3), on_epoch, out=folder / "run")
    if len(history) == 3: (folder / f"done.{rank}").touch()
