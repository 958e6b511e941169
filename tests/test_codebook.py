"The quantizer against loops, the release's numbers and FAISS, on grids of shapes."
import json
from pathlib import Path

import children
import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from notebook_functions import from_notebook

from sscq.codebook import (
    Encoded, ProductQuantizer, affinity, books_for, decode, distortion, hard_assign, n_bits, pack, perplexity, soft_assign, soft_quantize,
    to_parts, unpack, usage)
from sscq.validation import check_counts

hard_assign_loop, soft_assign_loop, pack_loop, kmeans_books = from_notebook(
    "04_codebook", "hard_assign_loop", "soft_assign_loop", "pack_loop", "kmeans_books", "kmeans", "same_type", "to_parts", "n_bits")[:4]
few = settings(deadline=None, max_examples=15)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 5), st.sampled_from([2, 4, 8, 16]), st.integers(1, 5), st.integers(0, 9999))
WORDS = [2, 4, 8, 16, 32, 64, 128, 256]


def random_case(B, M, K, d, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, M * d, generator=g), torch.randn(M, K, d, generator=g)


def random_codes(N, M, K, seed=0):
    return torch.randint(K, (N, M), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def clear_of_borders(f, codebooks, margin):
    "Rows of which no part is nearly as close to a second codeword"
    best = affinity(f, codebooks).topk(2, -1).values
    return ((best[..., 0] - best[..., 1]) > margin).all(1)


# --- against loops ---

@few
@given(shapes)
def test_soft_and_hard_equal_the_loops(shape):
    f, codebooks = random_case(*shape)
    for tau in (.05, .2, 1., 20.):
        torch.testing.assert_close(soft_assign(f, codebooks, tau), soft_assign_loop(f, codebooks, tau), rtol=1e-4, atol=1e-5)
    clear = clear_of_borders(f, codebooks, 1e-4)
    assert torch.equal(hard_assign(f, codebooks)[clear], hard_assign_loop(f, codebooks)[clear])


@few
@given(shapes)
def test_affinity_orders_as_distance_does(shape):
    f, codebooks = random_case(*shape)
    parts = to_parts(f, codebooks)
    distance = (parts[:, :, None] - codebooks).square().sum(-1)
    torch.testing.assert_close(parts.square().sum(-1, keepdim=True) - affinity(f, codebooks), distance, rtol=1e-4, atol=1e-4)


@few
@given(shapes)
def test_z_is_the_weighted_mean_of_codewords(shape):
    f, codebooks = random_case(*shape)
    shares, z = soft_assign(f, codebooks, .3), soft_quantize(f, codebooks, .3)
    parts = [torch.stack([(s[m, :, None] * codebooks[m]).sum(0) for m in range(len(codebooks))]).flatten() for s in shares]
    torch.testing.assert_close(z, torch.stack(parts), rtol=1e-5, atol=1e-6)


# --- properties ---

@few
@given(shapes)
def test_assignments_sum_to_one(shape):
    f, codebooks = random_case(*shape)
    for tau in (1e-3, .2, 1e3):
        shares = soft_assign(f, codebooks, tau)
        assert (shares >= 0).all()
        torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:2]))


@few
@given(shapes)
def test_cold_is_hard_and_hot_is_the_mean(shape):
    f, codebooks = random_case(*shape)
    clear = clear_of_borders(f, codebooks, .01)
    torch.testing.assert_close(soft_quantize(f, codebooks, 1e-4)[clear], decode(hard_assign(f, codebooks), codebooks)[clear])
    torch.testing.assert_close(soft_quantize(f, codebooks, 1e7), codebooks.mean(1).flatten().expand_as(f), rtol=1e-4, atol=1e-4)


@few
@given(shapes)
def test_order_of_codewords_books_and_rows_does_not_matter(shape):
    f, codebooks = random_case(*shape)
    B, (M, K, d) = len(f), codebooks.shape
    z, codes = soft_quantize(f, codebooks), hard_assign(f, codebooks)
    words, books, rows = torch.randperm(K), torch.randperm(M), torch.randperm(B)
    torch.testing.assert_close(soft_quantize(f, codebooks[:, words]), z)
    assert torch.equal(words[hard_assign(f, codebooks[:, words]).long()], codes.long())
    swapped = f.view(B, M, d)[:, books].flatten(1)
    torch.testing.assert_close(soft_quantize(swapped, codebooks[books]), z.view(B, M, d)[:, books].flatten(1))
    assert torch.equal(hard_assign(swapped, codebooks[books]), codes[:, books])
    torch.testing.assert_close(soft_quantize(f[rows], codebooks), z[rows])


@few
@given(shapes)
def test_a_decoded_vector_encodes_to_its_code(shape):
    _, codebooks = random_case(*shape)
    M, K, _ = codebooks.shape
    codes = random_codes(20, M, K, shape[-1])
    again = hard_assign(decode(codes, codebooks), codebooks)
    assert torch.equal(decode(again, codebooks), decode(codes, codebooks))  # the same vector, even where two words coincide
    assert distortion(decode(codes, codebooks), codebooks) == 0


@pytest.mark.parametrize("apart", [1e-3, 1e-4, 1e-5, 1e-6])
def test_words_nearer_than_the_rounding_of_their_squares_are_told_apart(apart):
    words = torch.tensor([1., 1 + apart, -3., 5.]).reshape(1, 4, 1).repeat(2, 1, 1)
    f = torch.tensor([[1., 1 + apart], [1 + apart, 1.]]).repeat(300, 1)
    assert torch.equal(hard_assign(f, words), torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8).repeat(300, 1))


@few
@given(shapes)
def test_more_words_are_never_worse(shape):
    f, codebooks = random_case(*shape)
    losses = [distortion(f, codebooks[:, :k]).item() for k in range(1, codebooks.shape[1] + 1)]
    assert all(after <= before + 1e-5 for before, after in zip(losses, losses[1:])), losses


def test_more_bits_are_never_worse_when_trained():
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    by_words = [distortion(x, kmeans_books(x, 2, K)).item() for K in (2, 4, 8, 16)]
    by_parts = [distortion(x, kmeans_books(x, M, 8)).item() for M in (1, 2, 4, 8)]
    assert by_words == sorted(by_words, reverse=True) and by_parts == sorted(by_parts, reverse=True)


def test_planted_clusters_are_recovered_exactly():
    codebooks = torch.stack([torch.cartesian_prod(*[torch.arange(4.)] * 2)] * 3) * 10  # 16 words on a lattice, in 3 books
    codes = random_codes(500, 3, 16)
    f = decode(codes, codebooks) + .9 * torch.randn(500, 6, generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    assert torch.equal(hard_assign(f, codebooks), codes)
    torch.testing.assert_close(soft_quantize(f, codebooks, .01), decode(codes, codebooks))


def test_gradient_descent_finds_planted_words():
    torch.manual_seed(0)
    planted = torch.tensor([[0., 0.], [4., 0.], [0., 4.], [4., 4.]])
    f = (planted[:, None] + .1 * torch.randn(4, 50, 2)).flatten(0, 1)
    book = (planted + torch.randn(4, 2) * .7)[None].requires_grad_()
    adam = torch.optim.Adam([book], lr=.1)
    for _ in range(80):
        adam.zero_grad(); (f - soft_quantize(f, book, .2)).square().sum(1).mean().backward(); adam.step()
    assert (book[0] - planted).norm(dim=1).max() < .1
    assert perplexity(usage(hard_assign(f, book), 4)).item() == pytest.approx(4)


def test_gradients_are_right_and_hard_has_none():
    f, codebooks = (x.double().requires_grad_() for x in random_case(3, 2, 4, 3, 0))
    assert torch.autograd.gradcheck(lambda f, c: soft_quantize(f, c, .5), (f, codebooks))
    assert not decode(hard_assign(f, codebooks), codebooks.detach()).requires_grad


@few
@given(shapes)
def test_slope_is_the_spread_of_words_in_play(shape):
    f, codebooks = random_case(1, *shape[1:])
    M, _, d = codebooks.shape
    s, z = soft_assign(f, codebooks)[0], soft_quantize(f, codebooks).view(M, d)
    spread = codebooks - z[:, None]
    slope = torch.autograd.functional.jacobian(lambda x: soft_quantize(x[None], codebooks)[0], f[0]).view(M, d, M, d)
    for m in range(M):
        torch.testing.assert_close(slope[m, :, m], 2 / .2 * (s[m, :, None] * spread[m]).T @ spread[m], rtol=1e-3, atol=1e-3)


# --- against the release ---

@pytest.fixture(params=["sscq_16bit", "sscq_32bit"])
def release(request):
    data = np.load(Path(__file__).parent / "data" / f"{request.param}.npz")
    meta = json.loads(str(data["meta"]))
    arrays = {name: torch.from_numpy(data[name]) for name in ("f", "codebooks", "z", "db_f", "db_codes")}
    M, d = meta["M"], meta["d"]
    ours = arrays["codebooks"].unflatten(1, (M, d)).transpose(0, 1).contiguous()  # (K, M·d) -> (M, K, d)
    return meta, arrays, ours


def test_layout_of_the_release(release):
    meta, arrays, ours = release
    assert ours.shape == (meta["M"], meta["K"], meta["d"])
    for m in range(meta["M"]):  # book m is columns m·d to (m+1)·d of its matrix
        assert torch.equal(ours[m], arrays["codebooks"][:, m * meta["d"]:(m + 1) * meta["d"]])


def test_z_and_codes_of_the_release(release):
    meta, arrays, ours = release
    z = soft_quantize(arrays["f"], ours, meta["tau_sq"])
    assert ((z - arrays["z"]).abs().max() / arrays["z"].abs().max()).item() < 1e-5
    assert torch.equal(hard_assign(arrays["db_f"], ours), arrays["db_codes"])


# --- against FAISS ---

@pytest.mark.parametrize("M", [1, 2, 3, 5, 7, 8, 16])
@pytest.mark.parametrize("K", WORDS)
def test_pack_round_trip_loop_and_faiss(M, K):
    codes = random_codes(17, M, K, seed=M * K)
    codes[0], codes[1] = 0, K - 1
    packed = pack(codes, K)
    width = -(-M * n_bits(K) // 8)
    assert packed.shape == (17, width) and packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, M, K), codes)
    assert torch.equal(packed, pack_loop(codes, K))
    assert np.array_equal(packed.numpy(), faiss.pack_bitstrings(codes.numpy(), n_bits(K)))


@pytest.mark.parametrize("M, K", [(4, 16), (3, 16), (5, 8), (8, 256)])
def test_faiss_makes_the_same_codes_from_the_same_codebooks(M, K):
    f, codebooks = random_case(200, M, K, 4, seed=7)
    pq = faiss.ProductQuantizer(M * 4, M, n_bits(K))
    faiss.copy_array_to_vector(codebooks.numpy().ravel(), pq.centroids)
    theirs = torch.from_numpy(pq.compute_codes(f.numpy()))
    clear = clear_of_borders(f, codebooks, 1e-4)
    assert clear.float().mean() > .9
    assert torch.equal(pack(hard_assign(f, codebooks), K)[clear], theirs[clear])
    torch.testing.assert_close(decode(unpack(theirs, M, K), codebooks), torch.from_numpy(pq.decode(theirs.numpy())))


def test_pack_of_nothing():
    assert pack(torch.zeros(0, 5, dtype=torch.uint8)).shape == (0, 3)
    assert unpack(torch.zeros(0, 3, dtype=torch.uint8), 5).shape == (0, 5)


# --- usage ---

@few
@given(shapes)
def test_usage_counts_as_a_loop_does(shape):
    _, M, K, _, seed = shape
    codes = random_codes(50, M, K, seed)
    counts = usage(codes, K)
    assert counts.tolist() == [[int((codes[:, m] == k).sum()) for k in range(K)] for m in range(M)]
    assert (counts.sum(1) == 50).all()
    used = perplexity(counts)
    assert (used >= 1 - 1e-5).all() and (used <= K + 1e-4).all()


def test_perplexity_of_known_uses():
    counts = torch.tensor([[5, 5, 5, 5], [20, 0, 0, 0], [10, 10, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(perplexity(counts), torch.tensor([4., 1., 2., 1.]))
    torch.testing.assert_close(perplexity(torch.full((1, 16), 1 / 16)), torch.tensor([16.]))  # mean shares do too


# --- the module ---

def test_module_is_its_functions():
    torch.manual_seed(0)
    quantizer, f = ProductQuantizer(3, 8, 5, tau=.4), torch.randn(7, 15)
    out = quantizer(f)
    assert isinstance(out, Encoded) and torch.equal(out.f, f)
    assert torch.equal(out.z, soft_quantize(f, quantizer.codebooks, .4))
    codes = quantizer.encode(f)
    assert torch.equal(codes, hard_assign(f, quantizer.codebooks)) and not codes.requires_grad
    assert torch.equal(quantizer.decode(codes), decode(codes, quantizer.codebooks))
    assert repr(quantizer) == "ProductQuantizer(M=3, K=8, d=5, tau=0.4)"
    twin = ProductQuantizer(3, 8, 5, tau=.4)
    twin.load_state_dict(quantizer.state_dict())
    assert torch.equal(twin(f).z, out.z)


@pytest.mark.parametrize("M, K, d", [(4, 16, 16), (16, 16, 16), (2, 256, 3)])
def test_words_start_as_the_release_starts_them(M, K, d):
    torch.manual_seed(0)
    ours = ProductQuantizer(M, K, d).codebooks
    matrix = torch.nn.init.xavier_uniform_(torch.empty(K, M * d))
    bound = (6 / (K + M * d)) ** .5
    assert ours.abs().max() <= bound and matrix.abs().max() <= bound + 1e-6
    assert ours.std().item() == pytest.approx(matrix.std().item(), rel=.1)
    assert ours.mean().item() == pytest.approx(0, abs=bound / 10)


def test_mixed_precision_leaves_distances_alone():
    torch.manual_seed(0)
    quantizer, f = ProductQuantizer(8), .2 * torch.randn(64, 128)
    plain, codes = quantizer(f), quantizer.encode(f)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer(f).z, plain.z)
        assert torch.equal(quantizer.encode(f), codes)
    low = quantizer(f.bfloat16())  # what a backbone under autocast hands over
    assert low.f.dtype == low.z.dtype == torch.float32


def test_module_in_a_model_and_in_double():
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), ProductQuantizer(2, 4, 4)).double()
    out = model(torch.randn(3, 6, dtype=torch.double))
    assert out.z.dtype == torch.double
    out.z.sum().backward()
    assert model[0].weight.grad.abs().sum() > 0 and model[1].codebooks.grad.abs().sum() > 0


def test_module_compiles_as_one_graph():
    # in a process of its own: the shape checks of the tests cannot be compiled
    code = """if True:
        import torch
        from sscq.codebook import ProductQuantizer
        quantizer, f = ProductQuantizer(3, 8, 5), torch.randn(7, 15)
        quick = torch.compile(quantizer, backend="eager", fullgraph=True)
        torch.testing.assert_close(quick(f).z, quantizer(f).z)"""
    done = children.run(code)
    assert done.returncode == 0, done.stderr


# --- bad input ---

@pytest.mark.parametrize("n_words", [0, 1, 3, 10, 48, 257, 512, -4])
def test_words_must_be_a_power_of_two_up_to_256(n_words):
    codes = random_codes(2, 2, 2)
    for call in (n_bits, lambda K: ProductQuantizer(4, K), lambda K: pack(codes, K), lambda K: unpack(codes, 2, K)):
        with pytest.raises(ValueError, match=f"n_words={n_words} must be a power of two from 2 to 256"): call(n_words)


@pytest.mark.parametrize("tau", [0, -.2, float("nan")])
def test_tau_must_be_positive(tau):
    f, codebooks = random_case(2, 2, 4, 3, 0)
    for call in (soft_assign, soft_quantize):
        with pytest.raises(ValueError, match=f"tau_sq={tau} must be positive"): call(f, codebooks, tau)
    with pytest.raises(ValueError, match=f"tau_sq={tau} must be positive"): ProductQuantizer(4, tau=tau)


@pytest.mark.parametrize("sizes", [dict(n_books=0), dict(n_books=2, word_dim=0)])
def test_sizes_must_be_at_least_one(sizes):
    with pytest.raises(ValueError, match="must be at least 1"): ProductQuantizer(**sizes)


@pytest.mark.parametrize("count", [2.5, 16., "16", None])
def test_counts_must_be_whole_numbers(count):
    with pytest.raises(TypeError, match=f"K={count!r} is of type {type(count).__name__}; it must be an int"): check_counts(M=4, K=count)


def test_wrong_widths_are_told():
    f, codebooks = random_case(2, 2, 4, 3, 0)
    quantizer = ProductQuantizer(2, 4, 3)
    for call in (lambda x: to_parts(x, codebooks), lambda x: affinity(x, codebooks), lambda x: hard_assign(x, codebooks),
                 lambda x: soft_quantize(x, codebooks), quantizer, quantizer.encode):
        with pytest.raises(ValueError, match="f has 5 dimensions; 2 codebooks of 3 dimensions need 6"): call(f[:, :5])
    for call in (lambda x: to_parts(x, codebooks), quantizer, quantizer.encode):
        with pytest.raises(ValueError, match=r"f of shape \(6,\) must be \(B, D\)"): call(f[0])


def test_wrong_codes_are_told():
    _, codebooks = random_case(2, 3, 4, 2, 0)
    one = random_codes(5, 1, 4)  # would broadcast
    with pytest.raises(ValueError, match="codes have 1 parts; 3 codebooks need 3"): decode(one, codebooks)
    for call in (lambda c: decode(c, codebooks), lambda c: pack(c, 4), lambda c: usage(c, 4)):
        with pytest.raises(ValueError, match="codes name codeword 9; n_words=4 are numbered 0 to 3"): call(random_codes(5, 3, 1) + 9)
        with pytest.raises(TypeError, match="codes of torch.float32 must be torch.uint8"): call(torch.zeros(5, 3))
        with pytest.raises(ValueError, match=r"codes of shape \(5,\) must be \(N, M\)"): call(torch.zeros(5, dtype=torch.uint8))


def test_wrong_packed_width_is_told():
    packed = pack(random_codes(3, 5, 8), 8)  # 15 bits: 2 bytes
    with pytest.raises(ValueError, match=r"must be \(N, 3\): n_books=8 of 3 bits fill 3 bytes"): unpack(packed, 8, 8)
    with pytest.raises(TypeError, match="must be torch.uint8"): unpack(packed.int(), 5, 8)


@pytest.mark.parametrize("bits, words, books", [(32, 16, 8), (32, 256, 4), (3, 2, 3)])
def test_books_for_bits(bits, words, books): assert books_for(bits, words) == books


@pytest.mark.parametrize("bits, words, message", [(30, 16, "bits=30 must be a positive multiple of log2.n_words.=4; the next are 28 and 32"),
    (3, 16, "the next are 4$"), (0, 16, "bits=0 must be at least 1"), (8, 12, "n_words=12")])
def test_bits_that_fill_no_books(bits, words, message):
    with pytest.raises(ValueError, match=message): books_for(bits, words)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    f, codebooks = random_case(500, 8, 16, 16, 0)
    clear = clear_of_borders(f, codebooks, 1e-3)
    torch.testing.assert_close(soft_quantize(f.cuda(), codebooks.cuda()).cpu(), soft_quantize(f, codebooks), rtol=1e-3, atol=1e-4)
    codes = hard_assign(f.cuda(), codebooks.cuda())
    assert torch.equal(codes.cpu()[clear], hard_assign(f, codebooks)[clear])
    assert torch.equal(usage(codes, 16).cpu(), usage(codes.cpu(), 16))
    assert torch.equal(decode(codes, codebooks.cuda()).cpu(), decode(codes.cpu(), codebooks))
    assert torch.equal(pack(codes), pack(codes.cpu()))
    quantizer = ProductQuantizer(8).cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16): assert torch.equal(quantizer(f.cuda()).z, quantizer(f.cuda()).z.float())


# --- tiny and huge numbers ---

def nearest_words(f, codebooks):
    "In float64, which holds all squares of float32; ‖f‖² left out, as it would drown a tiny word"
    parts, words = f.double().unflatten(1, (len(codebooks), -1))[:, :, None], codebooks.double()
    return (words.square() - 2 * parts * words).sum(-1).argmin(-1)


@pytest.mark.parametrize("looking", [True, False])
@pytest.mark.parametrize("size", [1e-35, 1e-25, 1e-15, 1., 1e10, 1e20, 1e37])
def test_codes_do_not_depend_on_the_unit(size, looking, monkeypatch):
    monkeypatch.setattr("sscq.codebook._may_look", lambda f: looking)
    f, codebooks = random_case(40, 3, 8, 4, 0)
    f[3] = 0
    assert torch.equal(hard_assign(size * f, size * codebooks).long(), nearest_words(size * f, size * codebooks))
    if size < 1e30: assert torch.equal(hard_assign(f, size * codebooks).long(), nearest_words(f, size * codebooks))


def test_an_odd_row_or_word_leaves_the_others_alone():
    f, codebooks = random_case(40, 3, 8, 4, 1)
    alone = hard_assign(f, codebooks)
    for size in (1e-40, 1e-25, 1e20, 1e37):
        odd = f.clone()
        odd[5] *= size
        assert torch.equal(hard_assign(odd, codebooks).long(), nearest_words(odd, codebooks))
        shares = soft_assign(odd, codebooks)
        torch.testing.assert_close(shares[:5], soft_assign(f, codebooks)[:5], rtol=1e-6, atol=1e-7)
        far = codebooks.clone()
        far[:, 7] = size * codebooks[:, 7]
        assert torch.equal(hard_assign(f, far).long(), nearest_words(f, far))
    far[:, 7] = 1e30  # as a word that nobody uses
    assert torch.equal(hard_assign(f, far), hard_assign(f, codebooks[:, :7])) and alone.max() == 7


def test_a_word_of_which_only_the_square_overflows_can_be_nearest():
    f, codebooks = torch.tensor([[1e19]]), torch.tensor([[[1.9e19], [-1e18]]])  # 2 f c - c² is 1.9e37 with c² = 3.6e38, and -2.1e37
    assert hard_assign(f, codebooks).item() == 0


@pytest.mark.parametrize("looking", [True, False])
@pytest.mark.parametrize("size, tau", [(1e-25, .2), (1e-3, 1e-6), (1., .2), (1e10, 1e12), (1e18, 1e-3), (1e20, .2), (1e37, 1e12), (1., 1e-12)])
def test_shares_and_gradients_are_those_of_float64(size, tau, looking, monkeypatch):
    monkeypatch.setattr("sscq.codebook._may_look", lambda f: looking)
    f, codebooks = ((size * x).requires_grad_() for x in random_case(20, 3, 8, 4, 2))
    f64, codebooks64 = (x.detach().double().requires_grad_() for x in (f, codebooks))
    parts = f64.unflatten(1, (3, 4))
    wanted = (-(parts[:, :, None] - codebooks64).square().sum(-1) / tau).softmax(-1)
    got = soft_assign(f, codebooks, tau)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-5)
    grads = torch.autograd.grad((got * got).sum(), (f, codebooks))
    for a, b in zip(grads, torch.autograd.grad((wanted * wanted).sum(), (f64, codebooks64))):
        torch.testing.assert_close(a.double() * size, b * size, rtol=1e-2, atol=1e-4 * max(1., float((b * size).abs().max())))


@pytest.mark.parametrize("kinds", [(torch.float16, torch.float32), (torch.float32, torch.bfloat16), (torch.float64, torch.float32), (torch.float16,) * 2])
def test_mixed_types_are_computed_in_the_finer(kinds):
    f, codebooks = (x.to(kind) for x, kind in zip(random_case(20, 3, 8, 4, 3), kinds))
    assert torch.equal(hard_assign(f, codebooks).long(), nearest_words(f, codebooks))
    z = soft_quantize(f, codebooks)
    assert z.dtype == torch.promote_types(torch.promote_types(*kinds), torch.float32)
    torch.testing.assert_close(z.double(), soft_quantize(f.double(), codebooks.double()), rtol=1e-5, atol=1e-6)


def test_distortion_of_tiny_and_huge_vectors():
    f, codebooks = random_case(20, 3, 8, 4, 4)
    once = distortion(f, codebooks).item()
    for size in (1e-18, 1e-10, 1e10, 1e18): assert distortion(size * f, size * codebooks).item() == pytest.approx(once * size ** 2, rel=1e-5)
    with pytest.raises(ValueError, match="a distortion of .* is no number that torch.float32 can hold"): distortion(1e25 * f, 1e25 * codebooks)
    with pytest.raises(ValueError, match="has no rows"): distortion(f[:0], codebooks)


@pytest.mark.parametrize("K", [257, 512])
def test_a_codewords_number_is_a_byte(K):
    f, codebooks = random_case(5, 2, K, 3, 0)
    codes = random_codes(5, 2, 256)
    for call in (lambda: hard_assign(f, codebooks), lambda: distortion(f, codebooks), lambda: decode(codes, codebooks), lambda: usage(codes, K),
                 lambda: ProductQuantizer.encode(nn_with(codebooks), f)):
        with pytest.raises(ValueError, match=f"n_words={K} must be at most 256"): call()


def nn_with(codebooks):
    quantizer = ProductQuantizer(2, 4, 3)
    quantizer.codebooks = torch.nn.Parameter(codebooks)
    return quantizer


@pytest.mark.parametrize("K", [1, 3, 100, 255, 256])
def test_any_number_of_words_up_to_256_is_assigned(K):
    f, codebooks = random_case(30, 2, K, 3, 0)
    codes = hard_assign(f, codebooks)
    assert torch.equal(codes.long(), nearest_words(f, codebooks)) and usage(codes, K).sum() == 60
    assert torch.equal(hard_assign(decode(codes, codebooks), codebooks), codes)


def test_perplexity_of_shares_does_not_depend_on_their_sum():
    shares = torch.tensor([[.5, .25, .25], [1., 0., 0.]])
    torch.testing.assert_close(perplexity(shares * .01), perplexity(shares))
    assert perplexity(torch.zeros(1, 3)).tolist() == [1.]
