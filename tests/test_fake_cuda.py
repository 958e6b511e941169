"""What needs no GPU to be found: tensors that stay on the CPU, and places that wait for the device.

torch's fake tensors have a shape and a device and no numbers. An operation on two devices raises; so does one that needs a number on the
host, or whose shape depends on numbers. Autograd's engine wants a real device, so this is the way forward; tests/test_cuda.py runs the rest."""
import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from train_runs import settings

from sscq.codebook import ProductQuantizer, hard_assign
from sscq.contrastive import FUSIONS
from sscq.core import SSCQ
from sscq.kernels import _ShareOfNearest
from sscq.objective import SPQObjective, SSCQObjective
from sscq.search import nearest
from sscq.train import Run, train_epoch
from sscq.views import VIEWS

OBJECTIVES = [SPQObjective(), SSCQObjective(use_positive=True), *(SSCQObjective(fusion=name) for name in FUSIONS)]
WAITS = (DataDependentOutputException, DynamicOutputShapeException)


@pytest.fixture
def fake(monkeypatch):
    "Tensors on a CUDA device that is not there; `backward` does nothing"
    monkeypatch.setattr(torch.Tensor, "backward", lambda self, *grads: None)
    with FakeTensorMode(): yield


@pytest.fixture
def sound(monkeypatch):
    "Whoever asks whether numbers are finite hears yes, and no code is too large; encoding and searching may ask, training may not"
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: True)
    monkeypatch.setattr(torch.Tensor, "__int__", lambda self: 0)


def on_cuda(module: nn.Module) -> nn.Module:
    "A copy whose parameters and buffers are fake, on CUDA"
    module = copy.copy(module)
    def moved(x): return x if x is None else torch.empty(x.shape, dtype=x.dtype, device="cuda")
    module._parameters = {name: p if p is None else nn.Parameter(moved(p)) for name, p in module._parameters.items()}
    module._buffers = {name: moved(x) for name, x in module._buffers.items()}
    module._modules = {name: child if child is None else on_cuda(child) for name, child in module._modules.items()}
    return module


class Moves(TorchDispatchMode):
    "Notes every tensor that goes from one device to another"
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in args:
            if isinstance(x, torch.Tensor) and isinstance(out, torch.Tensor) and x.device != out.device: self.seen.append((x.device.type, out.device.type))
        return out


PHOTOS, DRAWINGS, RESNET = (SSCQ(bits=16, backbone=name, channels=c, image_size=size) for name, c, size in (
    ("tiny_cnn", 3, 32), ("tiny_cnn", 1, 8), ("resnet18_small", 3, 32)))


def epoch(view, objective, model=PHOTOS):
    "An epoch of 67 images on fake CUDA, and what moved between devices"
    model = on_cuda(model)
    images = torch.randint(0, 256, (67, model.channels, model.image_size, model.image_size), dtype=torch.uint8, device="cuda")
    run = Run(model, images, view, objective, settings(batch_size=32), torch.optim.Adam(model.parameters(), fused=True), 3)
    with Moves() as moves: losses, names, counts = train_epoch(run, 0)
    assert losses.is_cuda and losses.shape == (3, len(names)) and counts.is_cuda
    return moves.seen


@pytest.mark.parametrize("model, view", [(DRAWINGS, "digit"), (PHOTOS, "photo"), (PHOTOS, "gentle"), (RESNET, "photo")])
def test_the_loop_stays_on_the_device(fake, model, view):
    assert epoch(VIEWS[view], SSCQObjective(), model) == [("cpu", "cuda")]  # the order of the epoch, once


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_every_objective_stays_on_the_device(fake, objective):
    assert epoch(VIEWS["gentle"], objective) == [("cpu", "cuda")]


def test_what_waits_is_found(fake):
    def waits(x): return x * x.mean().item()
    def picks(x): return x[x.mean((1, 2, 3)) > .5]
    def asks(x): return x if x.mean() > .5 else -x
    def mixes(x): return x + torch.rand(x.shape)
    def visits(x): return x.cpu().to(x.device)
    for view in (waits, asks, picks):
        with pytest.raises(WAITS): epoch(view, SPQObjective())
    with pytest.raises(RuntimeError, match="same device"): epoch(mixes, SPQObjective())
    assert ("cuda", "cpu") in epoch(visits, SPQObjective())


def test_the_gradient_of_the_neighbors_stays_on_the_device(fake):
    class Saved: pass
    ctx = Saved()
    ctx.save_for_backward = lambda *kept: setattr(ctx, "saved_tensors", kept)
    parts = torch.randn(4, 64, 16, device="cuda")
    assert _ShareOfNearest.forward(ctx, parts, 5, .5, (0, 32, -32)).is_cuda
    with torch.no_grad(): grad, *none = _ShareOfNearest.backward(ctx, torch.ones((), device="cuda"))
    assert grad.is_cuda and grad.shape == parts.shape and none == [None] * 3


@pytest.mark.parametrize("squared", [True, False])
def test_encoding_and_searching_stay_on_the_device(fake, sound, squared):
    quantizer, f = on_cuda(ProductQuantizer(4)), torch.randn(40, 64, device="cuda")
    encoded = quantizer(f)
    assert encoded.f.is_cuda and encoded.z.is_cuda and quantizer.encode(f).is_cuda
    codes = hard_assign(torch.randn(500, 64, device="cuda"), quantizer.codebooks)
    distances, ids = nearest(f, quantizer.codebooks.detach(), codes, 10, squared)
    assert distances.is_cuda and ids.is_cuda and ids.shape == (40, 10)


def test_a_model_moves_only_its_results(fake, sound):
    model = on_cuda(PHOTOS).eval()
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    for verb, shape in ((model.embed, (40, 64)), (model.encode, (40, 4))):
        with Moves() as moves: out = verb(images, batch_size=16)
        assert out.shape == shape and out.device.type == "cpu"
        assert moves.seen == [("cpu", "cuda"), ("cuda", "cpu")] * 3  # a batch there, its result back
