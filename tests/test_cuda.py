"Every module on a CUDA device, training, and saving on one device and loading on another. Where there is one: pytest -m cuda"
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train_runs import OBJECTIVE, Mirror, settings, small_model

from sscq.backbone import make_backbone
from sscq.codebook import Encoded, decode, hard_assign, pack, perplexity, soft_assign, soft_quantize, unpack, usage
from sscq.contrastive import FUSIONS, fused_consistency, info_nce
from sscq.core import SSCQ
from sscq.reading import batches
from sscq.data import digits
from sscq.diversity import codeword_diversity
from sscq.evaluate import score_codes
from sscq.kernels import fast_part_neighbor as part_neighbor, fast_part_neighbor_with_positive as part_neighbor_with_positive
from sscq.objective import SPQObjective, SSCQObjective
from sscq.search import nearest
from sscq.checkpoint import CHECKPOINT, last_checkpoint
from sscq.train import Run, TrainConfig, fit, train_epoch
from sscq.distributed import find_device
from sscq.views import digit_view, photo_view, two_views

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def exact():
    "fp32 means fp32, for comparisons with the CPU"
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
    torch.cuda.set_per_process_memory_fraction(1.)


@pytest.fixture(scope="module")
def images(): return digits().train[:320]


def on_both(function, *tensors, tolerance=1e-4):
    "Value and gradients of a function on the CPU and on the GPU"
    results = []
    for device in ("cpu", "cuda"):
        own = [x.to(device).requires_grad_(x.is_floating_point()) for x in tensors]
        value = function(*own)
        if value.requires_grad: (value * torch.arange(1, 1 + value.numel(), device=device).view(value.shape)).sum().backward()
        results.append([value.detach().cpu(), *(x.grad.cpu() for x in own if x.grad is not None)])
    for want, got in zip(*results, strict=True): torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


# --- the modules, one by one

def test_codebook():
    torch.manual_seed(0)
    f, codebooks = torch.randn(40, 64), torch.randn(4, 16, 16)
    on_both(soft_assign, f, codebooks)
    on_both(soft_quantize, f, codebooks)
    on_both(hard_assign, f, codebooks)
    codes = hard_assign(f, codebooks)
    on_both(lambda c: decode(codes.to(c.device), c), codebooks)
    on_both(lambda c: usage(c, 16), codes)
    on_both(lambda c: perplexity(usage(c, 16)), codes)
    assert torch.equal(unpack(pack(codes.cuda(), 16), 4, 16).cpu(), codes)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_terms(fusion):
    torch.manual_seed(0)
    f, z, codebooks = torch.randn(48, 64), torch.randn(48, 64), torch.randn(4, 16, 16)
    on_both(info_nce, f)
    on_both(lambda f, z: fused_consistency(f, z, fusion), f, z)
    on_both(lambda z: part_neighbor(z, 4, 20), z)
    on_both(lambda z: part_neighbor_with_positive(z, 4, 20), z)
    on_both(codeword_diversity, f, codebooks)
    for objective in (SSCQObjective(fusion=fusion), SPQObjective()):
        on_both(lambda f, z, c, o=objective: o(*(Encoded(*pair) for pair in zip(f.chunk(2), z.chunk(2))), c)[0], f, z, codebooks)


@pytest.mark.parametrize("name", ["tiny_cnn", "resnet18_small"])
def test_backbone(name):
    torch.manual_seed(0)
    net, n = make_backbone(name, 3)
    x = torch.rand(8, 3, 32, 32)
    want = net(x).detach()
    got = net.cuda()(x.cuda())
    torch.testing.assert_close(got.detach().cpu(), want, rtol=1e-3, atol=1e-3)
    got.sum().backward()
    assert got.shape == (8, n) and all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("view, channels", [(photo_view, 3), (digit_view, 1)])
def test_views(view, channels):
    x = torch.randint(0, 256, (64, channels, 32, 32), dtype=torch.uint8)
    a, b = two_views(x.cuda(), view)
    assert a.is_cuda and a.shape == x.shape and 0 <= a.min() and a.max() <= 1 and not torch.equal(a, b)
    # drawn for each image of its own: copies of one image differ
    copies = view((x[:1].float() / 255).expand(64, -1, -1, -1).cuda())
    assert len(copies.flatten(1).unique(dim=0)) > 60
    # and distributed as on the CPU
    on_cpu, on_gpu = (torch.cat([view(x.float().to(d) / 255) for _ in range(20)]).cpu() for d in ("cpu", "cuda"))
    assert abs(on_cpu.mean() - on_gpu.mean()) < .01 and abs(on_cpu.std() - on_gpu.std()) < .01


def test_data(images):
    class Pictures(torch.utils.data.Dataset):
        channels, size = 1, 8
        def __len__(self): return len(images)
        def __getitem__(self, i): return images[i]
    order = torch.randperm(len(images)).split(64)
    for a, b in zip(batches(images.cuda(), order), batches(Pictures(), order, 2), strict=True):
        assert a.is_cuda and b.is_pinned() and torch.equal(a.cpu(), b)


def test_search_and_scores():
    torch.manual_seed(0)
    queries, codebooks, codes = torch.randn(20, 32), torch.randn(4, 16, 8), torch.randint(16, (500, 4), dtype=torch.uint8)
    labels, of_queries = torch.randint(5, (500,)), torch.randint(5, (20,))
    want, got = (nearest(queries.to(d), codebooks.to(d), codes.to(d), 30) for d in ("cpu", "cuda"))
    torch.testing.assert_close(got[0].cpu(), want[0], rtol=1e-4, atol=1e-4)
    want, got = (score_codes(*(x.to(d) for x in (queries, of_queries, codes, labels, codebooks)), topk=100) for d in ("cpu", "cuda"))
    assert abs(want.map_ties - got.map_ties) < 1e-3


# --- training

@pytest.mark.parametrize("kw", [dict(), dict(precision="bf16"), dict(micro_batch=16), dict(precision="bf16", micro_batch=16, compile=True)])
def test_training_lowers_the_loss(images, kw):
    model = small_model().cuda()
    with warnings.catch_warnings():
        if kw.get("compile"): warnings.simplefilter("default")
        history = fit(model, images, digit_view, OBJECTIVE, settings(epochs=8, lr=2e-3, **kw))
    assert history[-1]["loss"] < history[0]["loss"] and find_device("cuda").type == "cuda"
    assert all(p.is_cuda and p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.parameters())


def test_one_step_is_the_cpu_s(images):
    "Same weights, same views: the same loss and gradients"
    results = []
    for device in ("cpu", "cuda"):
        model = small_model().to(device)
        history = fit(model, images[:64], Mirror(), OBJECTIVE, settings(epochs=1))
        results.append((history[0]["loss"], [p.grad.cpu() for p in model.parameters()]))
    assert abs(results[0][0] - results[1][0]) < 1e-4 * results[0][0]
    for want, got in zip(results[0][1], results[1][1]): torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision, micro_batch", [("fp32", None), ("bf16", None), ("fp32", 16)])
def test_an_epoch_never_waits_for_the_device(images, precision, micro_batch):
    model = small_model().cuda()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for view in (digit_view, lambda x: photo_view(x.expand(-1, 3, -1, -1))[:, :1]):
        run = Run(model, images.cuda(), view, OBJECTIVE, settings(precision=precision, micro_batch=micro_batch), optimizer, 5)
        train_epoch(run, 0)
        # the order of an epoch is one copy, before the loop: allowed; from the first step on, an error
        calls = []
        def counted(x, view=view, calls=calls):
            if not calls: torch.cuda.set_sync_debug_mode("error")
            calls.append(1)
            return view(x)
        try: losses, _, _ = train_epoch(run._replace(view=counted), 1)
        finally: torch.cuda.set_sync_debug_mode("default")
        assert len(calls) == 10 and losses.is_cuda and torch.isfinite(losses).all()


def test_deterministic_repeats_bit_for_bit(images):
    def weights():
        model = small_model().cuda()
        fit(model, images, digit_view, OBJECTIVE, settings(deterministic=True))
        return torch.cat([p.detach().flatten() for p in model.parameters()])
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert torch.equal(weights(), weights())


def test_the_caller_s_generators_are_untouched(images):
    cpu, cuda = torch.get_rng_state(), torch.cuda.get_rng_state()
    fit(small_model().cuda(), images, digit_view, OBJECTIVE, settings(epochs=1))
    assert torch.equal(torch.get_rng_state(), cpu) and torch.equal(torch.cuda.get_rng_state(), cuda)


@pytest.mark.parametrize("first, second", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_stopped_on_one_device_resumed_on_another(images, tmp_path, first, second):
    def ctrl_c(record):
        if record["epoch"] == 2: raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="keeps the weights of epoch 2"):
        model = small_model().to(first)
        fit(model, images, digit_view, OBJECTIVE, settings(), ctrl_c, out=tmp_path)
    saved = last_checkpoint(tmp_path)
    assert all(torch.equal(saved.tensors["model." + k], v.cpu()) for k, v in model.state_dict().items())
    other = small_model(seed=1).to(second)
    history = fit(other, images, digit_view, OBJECTIVE, settings(), out=tmp_path, resume=True)
    assert len(history) == 4 and history[-1]["loss"] < history[0]["loss"] and (tmp_path / CHECKPOINT).exists()
    assert all(p.device.type == second for p in other.parameters())


def test_out_of_memory_says_what_fits():
    model = SSCQ(bits=16, backbone="resnet18_small").cuda()
    x = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2 * 2 ** 30) / total)  # 2 GiB
    config = TrainConfig(epochs=1, batch_size=512)
    with pytest.raises(torch.OutOfMemoryError, match=r"a batch of 512 images.* micro_batch=(\d+) does") as error:
        fit(model, x, photo_view, SSCQObjective(), config)
    fits = int(str(error.value).split("micro_batch=")[1].split()[0])
    fit(model, x, photo_view, SSCQObjective(), replace(config, micro_batch=fits))


# --- the model

def test_saved_on_one_device_loaded_on_another(images, tmp_path):
    model = SSCQ(bits=16, backbone="tiny_cnn", channels=1, image_size=8)
    model.fit(images, epochs=2, batch_size=64, lr=2e-3, device="cuda", progress=False)
    assert model.device.type == "cuda"
    codes = model.encode(images)
    model.save_pretrained(tmp_path)
    loaded = SSCQ.from_pretrained(tmp_path)
    assert loaded.device.type == "cpu"
    # a few images may lie on the border of two cells
    assert (loaded.encode(images) == codes).float().mean() > .99
    assert torch.equal(loaded.cuda().encode(images), codes)
    hits = model.index(images).search(images[:5], k=3)
    assert hits.ids.shape == (5, 3)


def test_memory_too_short_to_encode_halves_the_batch(images):
    model = SSCQ(bits=16, backbone="resnet18_small").cuda().eval()
    x = torch.randint(0, 256, (2048, 3, 32, 32), dtype=torch.uint8)
    want = model.encode(x, batch_size=64)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2 ** 29) / total)
    try: got = model.encode(x, batch_size=2048)
    finally: torch.cuda.set_per_process_memory_fraction(1.)  # the tests after this one share the process
    assert (got == want).float().mean() > .99


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_are_one(images, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import json, torch\n"
        "from train_runs import *\n"
        "from sscq.data import digits\n"
        "torch.backends.cudnn.allow_tf32 = False\n"
        "with process_group() as device:\n"
        "    model = small_model().to(device)\n"
        "    h = fit(model, digits().train[:128], Mirror(), OBJECTIVE, settings(epochs=10), progress=False)\n"
        "    if rank_and_world()[0] == 0: torch.save(model.state_dict(), f'{rank_and_world()[1]}.pt')\n")
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parent))
    for n in ("1", "2"):
        subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", n, script],
                       cwd=tmp_path, env=env, check=True, timeout=300)
    one, two = (torch.load(tmp_path / f"{n}.pt", map_location="cpu", weights_only=True) for n in (1, 2))
    for name in one: torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-4)


def test_benchmark_runs_on_the_device(tmp_path):
    file = tmp_path / "rows.json"
    script = Path(__file__).parent.parent / "benchmarks" / "train_step.py"
    options = ["--devices", "cuda", "--images", "64", "--rounds", "2", "--json", file]
    subprocess.run([sys.executable, script, *options], check=True, timeout=600)
    result = json.loads(file.read_text())
    assert {row["device"] for row in result["rows"]} == {"cuda"} and result["step_over_backbone"]
