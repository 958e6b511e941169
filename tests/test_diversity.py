"Codeword diversity against loops, bounds, symmetries and the authors' numbers."
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from notebook_functions import from_notebook

from sscq.diversity import codeword_cosines, codeword_diversity
from sscq.numerics import unit

DATA = Path(__file__).parent / "data"
(diversity_loop,) = from_notebook("06_diversity", "diversity_loop")
few = settings(deadline=None, max_examples=20, derandomize=True)
sizes = dict(n=st.integers(1, 9), M=st.integers(1, 4), K=st.sampled_from((2, 4, 16)), d=st.integers(1, 5),
             tau=st.sampled_from((.05, .3, 1., 4.)), seed=st.integers(0, 99))


def case(n, M, K, d, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, M * d, generator=g, dtype=dtype), torch.randn(M, K, d, generator=g, dtype=dtype)


@few
@given(**sizes)
def test_agrees_with_the_loop(n, M, K, d, tau, seed):
    f, codebooks = case(n, M, K, d, seed)
    torch.testing.assert_close(codeword_diversity(f, codebooks, tau), diversity_loop(f, codebooks, tau), rtol=1e-9, atol=1e-12)


@few
@given(**sizes)
def test_gradient_agrees_with_the_loop(n, M, K, d, tau, seed):
    inputs = [x.requires_grad_() for x in case(n, M, K, d, seed)]
    ours, plain = (torch.autograd.grad(loss(*inputs, tau), inputs) for loss in (codeword_diversity, diversity_loop))
    torch.testing.assert_close(ours, plain, rtol=1e-7, atol=1e-10)


@few
@given(**sizes)
def test_stays_within_its_bounds(n, M, K, d, tau, seed):
    f, codebooks = case(n, M, K, d, seed)
    assert -math.log(K) - 1e-9 <= codeword_diversity(f, codebooks, tau).item() <= math.log1p(1e-5) + 1e-12


@few
@given(**sizes)
def test_symmetries(n, M, K, d, tau, seed):
    f, codebooks = case(n, M, K, d, seed)
    g = torch.Generator().manual_seed(seed)
    loss = codeword_diversity(f, codebooks, tau)
    rows, words, books = (torch.randperm(size, generator=g) for size in (n, K, M))
    by_book = f.view(n, M, d)[:, books].flatten(1)
    longer = (f.view(n, M, d) * torch.rand(n, M, 1, generator=g).add(.1)).flatten(1)
    for same in (codeword_diversity(f[rows], codebooks, tau), codeword_diversity(f, codebooks[:, words], tau),
                 codeword_diversity(by_book, codebooks[books], tau), codeword_diversity(longer, 3 * codebooks, tau),
                 codeword_diversity(torch.cat([f, f]), codebooks, tau)):
        torch.testing.assert_close(same, loss, rtol=1e-9, atol=1e-12)


def test_views_may_be_swapped():
    f, codebooks = case(12, 3, 8, 4, 0)
    torch.testing.assert_close(codeword_diversity(f.roll(6, 0), codebooks), codeword_diversity(f, codebooks))


def test_gradcheck():
    f, codebooks = (x.requires_grad_() for x in case(6, 2, 4, 3, 0))
    assert torch.autograd.gradcheck(lambda f, c: codeword_diversity(f, c, .3), (f, codebooks))


@pytest.mark.parametrize("file", ["sscq_16bit.npz", "sscq_32bit.npz"])
def test_reference_numbers(file):
    theirs = np.load(DATA / file)
    meta = json.loads(str(theirs["meta"]))
    f = torch.tensor(theirs["f"])
    codebooks = torch.tensor(theirs["codebooks"]).view(meta["K"], meta["M"], meta["d"]).transpose(0, 1)
    np.testing.assert_allclose(codeword_cosines(f, codebooks).numpy(), theirs["cos_to_codewords"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(codeword_diversity(f, codebooks, meta.get("tau_cd", 1.)).item(), theirs["cd"], rtol=1e-5)


def test_range_at_tau_1():
    "What sixteen cosines can do: one sure winner 2.449, the lowest of all three winners 2.299, a collapse at right angles 2.721"
    def entropy(*cosines): return torch.special.entr(torch.tensor(cosines).softmax(0)).sum().item()
    assert entropy(1., *15 * [-1.]) == pytest.approx(2.4485, abs=1e-4)
    assert entropy(*3 * [1.], *13 * [-1.]) == pytest.approx(2.2994, abs=1e-4)
    assert min(entropy(*j * [1.], *(16 - j) * [-1.]) for j in range(17)) == entropy(*3 * [1.], *13 * [-1.])
    book = torch.eye(16)[None]
    assert codeword_diversity(book[0, :1], book).item() == pytest.approx(-2.7211, abs=2e-4)
    assert codeword_diversity(book[0], book).item() == pytest.approx(-math.log(16), abs=2e-4)


def test_collapse_at_a_cold_softmax_is_the_worst_value():
    book = torch.eye(16)[None].double()
    assert codeword_diversity(book[0, :1], book, .02).item() == pytest.approx(0, abs=2e-5)


def test_descending_it_revives_dead_codewords():
    torch.manual_seed(0)
    f = F.normalize(torch.eye(8)[0] + .4 * torch.randn(128, 8), dim=1)
    book = (torch.tensor([1.] + 15 * [-1.])[:, None] * torch.eye(8)[0] + .1 * torch.randn(16, 8))[None].requires_grad_()
    def in_use(): return len(codeword_cosines(f, book)[:, 0].argmax(-1).unique())
    assert in_use() == 1
    opt = torch.optim.Adam([book], lr=.02)
    for _ in range(80): opt.zero_grad(); codeword_diversity(f, book, .3).backward(); opt.step()
    assert in_use() >= 10


def test_zero_vectors_and_extreme_temperatures_stay_finite():
    f, codebooks = case(4, 2, 4, 3, 0, torch.float32)
    f[0] = 0; codebooks[0, 0] = 0
    f.requires_grad_(), codebooks.requires_grad_()
    for tau in (1e-4, 1e4):
        grads = torch.autograd.grad(codeword_diversity(f, codebooks, tau), (f, codebooks))
        assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("shape, tau, message", [
    ((5, 7), 1., "f has 7 dimensions; 2 codebooks of 3 dimensions need 6"),
    ((6,), 1., r"f of shape \(6,\) must be \(B, D\)"),
    ((5, 6), 0, "tau_cd=0 must be positive"),
    ((5, 6), -1., "tau_cd=-1.0 must be positive"),
    ((5, 6), math.nan, "tau_cd=nan must be positive"),
    ((0, 6), 1., r"f of shape \(0, 6\) has no rows"),
])
def test_bad_input_is_named(shape, tau, message):
    with pytest.raises(ValueError, match=message): codeword_diversity(torch.zeros(shape), torch.zeros(2, 4, 3), tau)


# tiny and huge numbers

@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-20, 1e20, 1e30, 3e37])
def test_directions_do_not_depend_on_length(size):
    x = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unit(size * x), F.normalize(x, dim=-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(unit(size * x).norm(dim=-1), torch.ones(6, 4))
    mixed = x.clone()
    mixed[2] *= size
    assert torch.equal(unit(mixed)[:2], unit(x)[:2])


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1., 1e10, 1e30])
def test_the_gradient_of_a_direction(size):
    x = (size * torch.randn(7, 5, generator=torch.Generator().manual_seed(0))).requires_grad_()
    step = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    x64 = x.detach().double().requires_grad_()
    got, wanted = (torch.autograd.grad(y, z, step.to(y.dtype))[0] for y, z in ((unit(x), x), (x64 / x64.norm(dim=-1, keepdim=True), x64)))
    torch.testing.assert_close(got.double() * size, wanted * size, rtol=1e-4, atol=1e-6)


def test_directions_can_be_derived_twice():
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(unit, (x,)) and torch.autograd.gradgradcheck(unit, (x,))


def test_a_row_of_zeros_has_no_direction_and_small_types_are_computed_in_float32():
    x = torch.zeros(2, 3)
    x[1] = 1e-44
    assert unit(x)[0].tolist() == [0., 0., 0.] and unit(x)[1].norm().item() == pytest.approx(1)
    for kind in (torch.float16, torch.bfloat16):
        y = torch.tensor([[6e4, 6e4], [6e-8, 0]]).to(kind)
        torch.testing.assert_close(unit(y), torch.tensor([[.5 ** .5, .5 ** .5], [1., 0.]]), rtol=1e-2, atol=0)
    with pytest.raises(ValueError, match="have no dimensions"): unit(torch.zeros(3, 0))


@pytest.mark.parametrize("f_size, size", [(1e-30, 1.), (1e30, 1e-30), (1., 1e37), (1e37, 1e37)])
def test_diversity_does_not_depend_on_lengths(f_size, size):
    f, codebooks = (x.requires_grad_() for x in case(6, 2, 4, 3, 0, torch.float32))
    once = codeword_diversity(f, codebooks)
    big_f, big = (f_size * f).detach().requires_grad_(), (size * codebooks).detach().requires_grad_()
    loss = codeword_diversity(big_f, big)
    torch.testing.assert_close(loss, once)
    for a, b, s in zip(torch.autograd.grad(loss, (big_f, big)), torch.autograd.grad(once, (f, codebooks)), (f_size, size)):
        torch.testing.assert_close(a.double() * s, b.double(), rtol=1e-3, atol=1e-7)
