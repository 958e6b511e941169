"Instance contrast and consistency: the notebook's loops as oracles, the authors' numbers, symmetries, limits and bad input."
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from notebook_functions import from_notebook

from sscq.contrastive import FUSIONS, check_fusion, consistency, cosines, fused_consistency, info_nce, log_contrast, symmetric_kl
from sscq.contrastive import same_image

info_nce_loop, consistency_loop, cosines_broadcast = from_notebook(
    "05_contrastive", "info_nce_loop", "consistency_loop", "cosines_broadcast")

FILES = sorted((Path(__file__).parent / "data").glob("sscq_*bit.npz"))
SHAPES = [(2, 1), (2, 7), (3, 4), (5, 16), (8, 3)]  # B, D


def inputs(B, D, seed=0, n=1):
    g = torch.Generator().manual_seed(seed)
    x = [torch.randn(2 * B, D, generator=g) for _ in range(n)]
    return x if n > 1 else x[0]


def swap_views(x): return x.roll(len(x) // 2, 0)


def shuffle_images(x, seed=1):
    order = torch.randperm(len(x) // 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([half[order] for half in x.chunk(2)])


# ---- against loops

@pytest.mark.parametrize("B, D", SHAPES)
@pytest.mark.parametrize("tau", [.05, .5, 3.])
def test_info_nce_equals_loop(B, D, tau):
    x = inputs(B, D)
    torch.testing.assert_close(info_nce(x, tau), info_nce_loop(x, tau), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("B, D", SHAPES)
@pytest.mark.parametrize("tau", [.1, .2, 2.])
def test_consistency_equals_loop(B, D, tau):
    x, y = inputs(B, D, n=2)
    torch.testing.assert_close(consistency(x, x, tau), consistency_loop(x, x, tau), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(consistency(x, y, tau), consistency_loop(x, y, tau), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("B, D", SHAPES)
def test_gradients_equal_those_of_the_loops(B, D):
    x = inputs(B, D).double().requires_grad_()
    for fast, slow in ((info_nce(x), info_nce_loop(x)), (consistency(x, x), consistency_loop(x, x))):
        torch.testing.assert_close(torch.autograd.grad(fast, x)[0], torch.autograd.grad(slow, x)[0], rtol=1e-6, atol=1e-9)


def test_gradcheck():
    f, z = (x.double().requires_grad_() for x in inputs(3, 4, n=2))
    assert torch.autograd.gradcheck(info_nce, (f,), fast_mode=True)
    for fusion in FUSIONS:
        assert torch.autograd.gradcheck(lambda f, z, fusion=fusion: fused_consistency(f, z, fusion), (f, z), fast_mode=True)


def test_cosines():
    x = inputs(4, 6)
    torch.testing.assert_close(cosines(x), cosines_broadcast(x))
    torch.testing.assert_close(cosines(5 * x), cosines(x))
    torch.testing.assert_close(cosines(x).diagonal(), torch.ones(8))


# ---- against the authors' numbers

@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_reference_numbers(file):
    d = np.load(file)
    meta = json.loads(str(d["meta"]))
    f, z = torch.from_numpy(d["f"]), torch.from_numpy(d["z"])
    assert info_nce(f, meta["tau_ic"]).item() == pytest.approx(d["icf"].item(), rel=1e-5)
    assert info_nce(z, meta["tau_ic"]).item() == pytest.approx(d["icz"].item(), rel=1e-5)
    for fusion in FUSIONS:
        assert fused_consistency(f, z, fusion, meta["tau_cc"]).item() == pytest.approx(d[f"{fusion}/cc"].item(), rel=1e-5), fusion


# ---- symmetries and limits

@pytest.mark.parametrize("change", [swap_views, shuffle_images])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_order_of_views_and_of_images_does_not_matter(change, fusion):
    f, z = inputs(6, 8, n=2)
    torch.testing.assert_close(info_nce(change(f)), info_nce(f))
    torch.testing.assert_close(fused_consistency(change(f), change(z), fusion), fused_consistency(f, z, fusion), rtol=1e-5, atol=1e-6)


def test_gradients_follow_a_permutation_of_the_images():
    x = inputs(6, 8).requires_grad_()
    def grad(change): return torch.autograd.grad(info_nce(change(x)) + consistency(change(x), change(x)), x)[0]
    for change in (swap_views, shuffle_images): torch.testing.assert_close(grad(change), grad(lambda x: x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tau", [.05, .5, 5.])
def test_rotation_and_length_do_not_matter(tau):
    x = inputs(5, 8)
    q, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))
    lengths = torch.rand(10, 1, generator=torch.Generator().manual_seed(3)) + .1
    for loss in (lambda x: info_nce(x, tau), lambda x: consistency(x, x, tau)):
        torch.testing.assert_close(loss(lengths * x @ q), loss(x), rtol=1e-4, atol=1e-5)


def test_info_nce_of_equal_rows_is_chance():
    assert info_nce(torch.ones(12, 3), .1).item() == pytest.approx(math.log(11), rel=1e-5)


def test_info_nce_of_perfect_views():
    x = torch.eye(4).repeat(2, 1)
    assert info_nce(x, .5).item() == pytest.approx(math.log(math.exp(2) + 6) - 2, rel=1e-5)
    assert info_nce(x, .01).item() == pytest.approx(0, abs=1e-6)


def test_consistency_is_never_negative_and_0_where_views_agree():
    for seed in range(5):
        x = inputs(6, 4, seed)
        assert consistency(x, x).item() >= 0
        same = x[:6].repeat(2, 1)
        assert consistency(same, same, .05).item() == pytest.approx(0, abs=1e-6)


def test_cross_sees_quantization_where_views_agree():
    f, z = (x[:5].repeat(2, 1) for x in inputs(5, 6, n=2))
    assert fused_consistency(f, z, "cross").item() > .01
    assert fused_consistency(f, f, "cross").item() == pytest.approx(0, abs=1e-6)


def test_fusions_are_what_their_names_say():
    f, z = inputs(4, 6, n=2)
    for fusion, u in dict(sum=f + z, concatenate=torch.cat([f, z], 1), max=torch.maximum(f, z), embedding=f, quantized=z).items():
        torch.testing.assert_close(fused_consistency(f, z, fusion, .3), consistency(u, u, .3))
    torch.testing.assert_close(fused_consistency(f, z, "cross", 2.), consistency(f, z, 2.) + consistency(z, f, 2.))
    torch.testing.assert_close(fused_consistency(f, z), fused_consistency(f, z, "sum", .2))


def test_log_contrast_is_a_distribution_over_negatives():
    p = log_contrast(inputs(5, 3), .2).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(10))
    assert (p[same_image(10)] == 0).all() and (p[~same_image(10)] > 0).all()


def test_symmetric_kl():
    g = torch.Generator().manual_seed(0)
    log_p, log_q = torch.randn(2, 7, 5, generator=g).log_softmax(-1)
    def kl(log_p, log_q): return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(symmetric_kl(log_p, log_q), .5 * kl(log_p, log_q) + .5 * kl(log_q, log_p))
    torch.testing.assert_close(symmetric_kl(log_p, log_q), symmetric_kl(log_q, log_p))


def test_high_temperature_is_half_the_variance_of_the_difference():
    x = inputs(8, 5).double()
    a, b = cosines(x).chunk(2)
    delta = (a - b)[~same_image(16)[:8]].view(8, -1)
    assert consistency(x, x, 100.).item() == pytest.approx(.5 * delta.var(1, unbiased=False).mean().item() / 100 ** 2, rel=.01)


# ---- numbers that could break it

@pytest.mark.parametrize("tau", [1e-3, 1e3])
def test_extreme_temperatures_stay_finite(tau):
    f, z = (x.requires_grad_() for x in inputs(6, 8, n=2))
    for loss in [info_nce(f, tau), *(fused_consistency(f, z, fusion, tau) for fusion in FUSIONS)]:
        assert torch.isfinite(loss)
        grads = torch.autograd.grad(loss, (f, z), materialize_grads=True, allow_unused=True)
        assert all(torch.isfinite(g).all() for g in grads)


def test_rows_of_zeros_and_equal_rows_stay_finite():
    for x in (torch.zeros(8, 4), torch.ones(8, 4)):
        x = x.requires_grad_()
        loss = info_nce(x) + consistency(x, x)
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, x)[0]).all()


def test_nan_is_not_hidden():
    x = inputs(4, 4)
    x[2, 1] = torch.nan
    assert info_nce(x).isnan() and consistency(x, x).isnan()


def test_dtype_is_kept():
    x = inputs(4, 4).double()
    assert info_nce(x).dtype == consistency(x, x).dtype == torch.float64


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda():
    f, z = inputs(6, 8, n=2)
    torch.testing.assert_close(info_nce(f.cuda()).cpu(), info_nce(f), rtol=1e-4, atol=1e-5)
    for fusion in FUSIONS:
        there = fused_consistency(f.cuda(), z.cuda(), fusion).cpu()
        torch.testing.assert_close(there, fused_consistency(f, z, fusion), rtol=1e-4, atol=1e-5)


# ---- bad input

@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
def test_too_few_inputs(n):
    x = torch.ones(n, 4)
    with pytest.raises(ValueError, match=f"{n} inputs: two views of at least two images"): info_nce(x)
    with pytest.raises(ValueError, match=f"{n} inputs: two views of at least two images"): consistency(x, x)


@pytest.mark.parametrize("tau", [0, -.5, math.nan])
def test_bad_temperature(tau):
    x = inputs(3, 4)
    with pytest.raises(ValueError, match=f"tau_ic={tau} must be positive"): info_nce(x, tau)
    with pytest.raises(ValueError, match=f"tau_cc={tau} must be positive"): consistency(x, x, tau)


def test_unknown_fusion_names_the_choices():
    f, z = inputs(3, 4, n=2)
    for call in (lambda: check_fusion("mean"), lambda: fused_consistency(f, z, "mean")):
        with pytest.raises(ValueError, match="fusion='mean' is unknown; choose one of " + ", ".join(FUSIONS)): call()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("shape", [(4, 4), (6, 1)])
def test_z_of_another_shape_is_not_broadcast(fusion, shape):
    with pytest.raises(ValueError, match=r"f of shape \(6, 4\) and z of shape .* differ: z must be f, softly quantized"):
        fused_consistency(inputs(3, 4), torch.ones(shape), fusion)
