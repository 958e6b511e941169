"Part neighbour consistency against loops, bounds, symmetries, finite differences and the authors' numbers."
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from notebook_functions import from_notebook

import sscq.kernels as sscq_kernels
from sscq.kernels import fast_part_neighbor as part_neighbor, fast_part_neighbor_with_positive as part_neighbor_with_positive
from sscq.neighbors import nearest_negatives, part_cosines
from sscq.contrastive import same_image

DATA = Path(__file__).parent / "data"
part_neighbor_loop, part_neighbor_broadcast = from_notebook("07_neighbors", "part_neighbor_loop", "part_neighbor_broadcast")
losses_and_pulls, _ = from_notebook("24_kernels", "losses_and_pulls", "_largest")
few = settings(deadline=None, max_examples=15, derandomize=True)
sizes = dict(B=st.integers(2, 6), M=st.integers(1, 4), d=st.integers(1, 5), tau=st.sampled_from((.1, .5, 3.)), seed=st.integers(0, 99),
             data=st.data())


def some(B, M, d, seed, dtype=torch.float64):
    return torch.randn(2 * B, M * d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_positive_loop(z, n_books, n_neighbors, tau):
    losses = []
    for part in z.chunk(n_books, dim=1):
        for row in part:
            w = (torch.cosine_similarity(row[None], part, dim=1) / tau).exp().sort(descending=True).values
            losses.append(-(w[:n_neighbors].sum() / w.sum()).log())
    return torch.stack(losses).mean()


@few
@given(**sizes)
def test_agrees_with_the_loop(B, M, d, tau, seed, data):
    z, n = some(B, M, d, seed), data.draw(st.integers(1, 2 * B - 2))
    expected = part_neighbor_loop(z, M, n, tau)
    torch.testing.assert_close(part_neighbor(z, M, n, tau), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(part_neighbor_broadcast(z, M, n, tau), expected, rtol=1e-7, atol=1e-9)


@few
@given(**sizes)
def test_gradient_agrees_with_the_loop(B, M, d, tau, seed, data):
    if d == 1: d = 2  # in one dimension every cosine is 1 or -1, ties everywhere, and no gradient to compare
    z, n = some(B, M, d, seed).requires_grad_(), data.draw(st.integers(1, 2 * B - 2))
    ours, plain = (torch.autograd.grad(loss(z, M, n, tau), z)[0] for loss in (part_neighbor, part_neighbor_loop))
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-8)


@few
@given(**sizes)
def test_with_positive_agrees_with_its_loop(B, M, d, tau, seed, data):
    z, n = some(B, M, max(d, 2), seed).requires_grad_(), data.draw(st.integers(1, 2 * B))
    ours, plain = part_neighbor_with_positive(z, M, n, tau), with_positive_loop(z, M, n, tau)
    torch.testing.assert_close(ours, plain, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (ours, plain)), rtol=1e-6, atol=1e-8)


@few
@given(**sizes)
def test_stays_within_its_bounds(B, M, d, tau, seed, data):
    z, n = some(B, M, d, seed), data.draw(st.integers(1, 2 * B - 2))
    assert -1e-12 <= part_neighbor(z, M, n, tau).item() <= math.log((2 * B - 2) / n) + 1e-12
    assert -1e-12 <= part_neighbor_with_positive(z, M, n, tau).item() <= math.log(2 * B / n) + 1e-12


@few
@given(**sizes)
def test_symmetries(B, M, d, tau, seed, data):
    z, n = some(B, M, d, seed), data.draw(st.integers(1, 2 * B - 2))
    g = torch.Generator().manual_seed(seed)
    images, books = torch.randperm(B, generator=g), torch.randperm(M, generator=g)
    swapped, reordered = z.roll(B, 0), z[torch.cat([images, images + B])]
    by_book = z.view(-1, M, d)[:, books].flatten(1)
    longer = (z.view(-1, M, d) * torch.rand(2 * B, M, 1, generator=g).add(.1)).flatten(1)
    for loss in (part_neighbor, part_neighbor_with_positive):
        for same in (swapped, reordered, by_book, longer):
            torch.testing.assert_close(loss(same, M, n, tau), loss(z, M, n, tau), rtol=1e-9, atol=1e-12)


@few
@given(**sizes)
def test_gradient_moves_with_the_inputs(B, M, d, tau, seed, data):
    z, n = some(B, M, d + 1, seed), data.draw(st.integers(1, 2 * B - 2))
    images = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    order = torch.cat([images + B, images])  # other images first, and the views swapped
    there, here = (torch.autograd.grad(part_neighbor(x.requires_grad_(), M, n, tau), x)[0] for x in (z[order].clone(), z.clone()))
    torch.testing.assert_close(there, here[order], rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("loss", [part_neighbor, part_neighbor_with_positive])
@pytest.mark.parametrize("n, tau", [(1, .5), (3, .5), (6, .1), (6, 2.)])
def test_gradcheck(loss, n, tau):
    z = some(4, 2, 3, 0).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: 3 * loss(z, 2, n, tau), (z,))


@pytest.mark.parametrize("file", ["sscq_16bit.npz", "sscq_32bit.npz"])
def test_reference_numbers(file):
    theirs = np.load(DATA / file)
    meta = json.loads(str(theirs["meta"]))
    args = torch.tensor(theirs["z"]), meta["M"], meta["n_neighbors"], meta["tau_pn"]
    names = [name for name in theirs.files if name.endswith("/pn")]
    assert len(names) == 7
    for name in names:
        loss = part_neighbor_with_positive if name == "sum_pos/pn" else part_neighbor
        np.testing.assert_allclose(loss(*args).item(), theirs[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("B, M", [(150, 3), (256, 2), (300, 2)])
def test_part_by_part_equals_all_at_once(B, M):
    "Batches so large that a part, or a part and a half, is all that is handled at once"
    z = some(B, M, 4, 0, torch.float32).requires_grad_()
    ours, plain = (torch.autograd.grad(loss(z, M, 20, .5), z)[0] for loss in (part_neighbor, part_neighbor_broadcast))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-8)


def test_planted_groups_are_found():
    "Two opposite groups of four images: 6 neighbours hold everything but e^(-2/τ) of the rest"
    z = torch.cat([torch.tensor([[1., 0.]]).repeat(4, 1), torch.tensor([[-1., 0.]]).repeat(4, 1)]).repeat(2, 1).double()
    assert part_neighbor(z, 1, 6).item() == pytest.approx(math.log(1 + 8 / 6 * math.exp(-4)), rel=1e-12)
    near = nearest_negatives(z + 1e-3 * some(8, 1, 2, 0), 1, 6)[0]
    assert ((near % 8 < 4) == (torch.arange(16) % 8 < 4)[:, None]).all()


def test_alike_inputs_are_the_worst_value_and_feel_nothing():
    z = torch.ones(12, 6).requires_grad_()
    loss = part_neighbor(z, 2, 4)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(10 / 4), rel=1e-6)
    assert z.grad.abs().max() < 1e-6


def test_all_negatives_as_neighbours_teach_nothing():
    z = some(5, 2, 3, 0).requires_grad_()
    loss = part_neighbor(z, 2, 8)
    loss.backward()
    assert abs(loss.item()) < 1e-12 and z.grad.abs().max() < 1e-12


def test_ties_share_the_last_place():
    "Equal inputs get equal gradients, whichever of them a partition happens to return"
    a = torch.tensor([[1., 0.], [.6, .8], [.6, .8], [.6, .8], [-1., 0.]], dtype=torch.float64)
    z = torch.cat([a, a]).requires_grad_()
    grad, = torch.autograd.grad(part_neighbor(z, 1, 4), z)
    torch.testing.assert_close(grad[:5], grad[5:])
    torch.testing.assert_close(grad[1:4], grad[1:2].expand(3, 2))
    # rows of G sum to 0 also then
    sim = (part_cosines(z.detach(), 1) / .5).masked_fill(same_image(10), -torch.inf)
    _, G = sscq_kernels._losses_and_pulls(sim, 4)
    assert G.sum(-1).abs().max() < 1e-12


@few
@given(**sizes)
def test_written_over_or_in_new_tables_is_the_same(B, M, d, tau, seed, data):
    z, n = some(B, M, d, seed).round(), data.draw(st.integers(1, 2 * B - 2))  # whole numbers: many cosines are tied
    sim = (part_cosines(z, M) / tau).masked_fill(same_image(2 * B), -torch.inf)
    expected = losses_and_pulls(sim, n)
    for ours, plain in zip(sscq_kernels._losses_and_pulls(sim.clone(), n), expected): torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


def test_positives_feel_nothing_and_in_the_variant_are_pulled():
    sim = part_cosines(some(6, 1, 4, 0), 1) / .5
    masked = sim.masked_fill(same_image(12), -torch.inf)
    _, G = sscq_kernels._losses_and_pulls(masked, 5)
    assert (G[0][same_image(12)] == 0).all()
    a = some(6, 1, 4, 0)[:6]
    sim = part_cosines(torch.cat([a, a + .05 * a.roll(1, 0)]), 1) / .5
    _, G = sscq_kernels._losses_and_pulls(sim, 5)
    assert (G[0].diagonal(6) < 0).all()


def test_largest_is_topk():
    g = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        table = torch.randn(4, 30, 50, generator=g, dtype=dtype)
        for k in (1, 7, 50):
            assert torch.equal(sscq_kernels._largest(table, k).sort(-1, descending=True).values, table.topk(k).values)


def test_same_image():
    for n in (4, 6, 10):
        mask = same_image(n)
        assert mask.dtype == torch.bool and (mask == mask.T).all()
        for i in range(n): assert mask[i].nonzero().flatten().tolist() == sorted({i, (i + n // 2) % n})


def test_nearest_negatives():
    z = some(6, 3, 4, 0)
    near = nearest_negatives(z, 3, 4)
    cos = part_cosines(z, 3)
    assert near.shape == (3, 12, 4)
    for m in range(3):
        for i in range(12):
            others = [j for j in range(12) if j not in (i, (i + 6) % 12)]
            assert near[m, i].tolist() == sorted(others, key=lambda j: -cos[m, i, j])[:4]


def test_half_precision_and_autocast_compute_in_float32():
    z = some(8, 2, 4, 0, torch.float32)
    whole = part_neighbor(z, 2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16): torch.testing.assert_close(part_neighbor(z, 2, 5), whole)
    half = z.bfloat16().requires_grad_()
    loss = part_neighbor(half, 2, 5)
    loss.backward()
    assert loss.dtype == torch.float32 and half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, whole, rtol=.05, atol=0)


def test_zero_parts_and_extreme_temperatures_stay_finite():
    z = some(4, 2, 3, 0, torch.float32)
    z[0] = 0
    z.requires_grad_()
    for tau in (1e-3, 1e3):
        loss = part_neighbor(z, 2, 2, tau)
        assert loss.isfinite() and torch.autograd.grad(loss, z)[0].isfinite().all()


def test_nothing_of_the_size_of_the_table_is_kept():
    kept = []
    def note(t): kept.append(t.numel()); return t
    z = some(32, 4, 8, 0).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t): part_neighbor(z, 4, 10)
    assert max(kept) <= z.numel() < 64 * 64


def test_input_is_not_changed():
    z = some(4, 2, 3, 0)
    before = z.clone()
    part_neighbor(z, 2, 3); part_neighbor_with_positive(z, 2, 3); nearest_negatives(z, 2, 3)
    assert torch.equal(z, before)


@pytest.mark.parametrize("shape, n_books, n_neighbors, tau, message", [
    ((16, 8), 2, 20, .5, "n_neighbors=20, but a batch of 8 images has 14 negatives: use more images a batch or fewer neighbours"),
    ((16, 8), 2, 15, .5, "n_neighbors=15, but a batch of 8 images has 14 negatives"),
    ((16, 8), 2, 0, .5, "n_neighbors=0 must be at least 1"),
    ((2, 8), 2, 1, .5, "2 inputs: two views of at least two images are needed"),
    ((0, 8), 2, 1, .5, "0 inputs: two views"),
    ((15, 8), 2, 5, .5, r"15 inputs: two views of at least two images are needed, stacked as \[a; b\]"),
    ((16, 8), 2, 5, 0, "tau_pn=0 must be positive"),
    ((16, 8), 2, 5, -.5, "tau_pn=-0.5 must be positive"),
    ((16, 8), 2, 5, math.nan, "tau_pn=nan must be positive"),
    ((16, 8), 3, 5, .5, "z has 8 dimensions, not a multiple of n_books=3"),
    ((16, 8), 0, 5, .5, "n_books=0 must be at least 1"),
    ((16,), 2, 5, .5, r"z of shape \(16,\) must be \(2B, D\)"),
    ((16, 2, 4), 2, 5, .5, r"z of shape \(16, 2, 4\) must be \(2B, D\)"),
])
def test_bad_input_is_named(shape, n_books, n_neighbors, tau, message):
    with pytest.raises(ValueError, match=message): part_neighbor(torch.zeros(shape), n_books, n_neighbors, tau)


@pytest.mark.parametrize("shape, n_neighbors, tau, message", [
    ((16, 8), 17, .5, "n_neighbors=17, but a batch of 8 images has 16 inputs: use more images"),
    ((15, 8), 5, .5, "15 inputs"),
    ((2, 8), 1, .5, "2 inputs"),
    ((16, 8), 5, 0, "tau_pn=0 must be positive"),
    ((16, 9), 5, .5, "9 dimensions, not a multiple of n_books=2"),
])
def test_bad_input_to_the_variant_is_named(shape, n_neighbors, tau, message):
    with pytest.raises(ValueError, match=message): part_neighbor_with_positive(torch.zeros(shape), 2, n_neighbors, tau)


def test_bad_input_to_the_tables_is_named():
    with pytest.raises(ValueError, match="9 dimensions, not a multiple of n_books=2"): part_cosines(torch.zeros(4, 9), 2)
    with pytest.raises(ValueError, match="n_neighbors=7, but a batch of 4 images has 6"): nearest_negatives(torch.zeros(8, 4), 2, 7)
    for n in (0, 1, 2, 3, 5):
        with pytest.raises(ValueError, match=f"{n} inputs: two views"): same_image(n)


def test_a_second_derivative_is_refused():
    "The gradient is a constant to autograd: what it would give is wrong"
    z = some(16, 2, 8, 0, torch.float64).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative.*leave create_graph=True out"):
        torch.autograd.grad(part_neighbor(z, 2, 5), z, create_graph=True)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu():
    z = some(64, 4, 8, 0, torch.float32).requires_grad_()
    for loss in (part_neighbor, part_neighbor_with_positive):
        here, there = loss(z, 4, 10), loss(z.cuda(), 4, 10)
        torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=0)
        torch.testing.assert_close(*(torch.autograd.grad(x, z)[0] for x in (there, here)), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("plain, fast", [("part_neighbor", "fast_part_neighbor"), ("part_neighbor_with_positive", "fast_part_neighbor_with_positive")])
def test_the_plain_loss_takes_and_gives_what_the_fast_one_does(plain, fast):
    "float32 in a network that runs in bf16"
    import sscq.kernels
    import sscq.neighbors
    plain, fast = getattr(sscq.neighbors, plain), getattr(sscq.kernels, fast)
    z = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16): torch.testing.assert_close(plain(z, 2, 3), fast(z, 2, 3))
