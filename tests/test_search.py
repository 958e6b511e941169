"Search: look-ups against loops, every back end against full sorting, FAISS and the release's numbers; the index, its files, its errors."
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import children
import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from notebook_functions import from_notebook
from PIL import Image
from safetensors.numpy import save_file

from sscq.codebook import decode, hard_assign, n_bits, pack
from sscq.data import digits
from sscq.images import load_image
from sscq.index import Index, model_fingerprint
from sscq.fastscan import PackedCodes, held_shape, rerank, rounding, search_codes, to_held
from sscq.search import adc, distance_table, nearest, nearest_by_table, ranked, train_opq, train_pq
from sscq.kernels import from_keys, smallest, to_keys
from sscq.validation import one_line

DATA = Path(__file__).parent / "data"
distance_table_loop, adc_loop = from_notebook("10_search", "distance_table_loop", "adc_loop")
faiss_by_hand, = from_notebook("30_fastscan", "faiss_by_hand")


def random_search(M=4, K=16, d=3, N=50, Q=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(Q, M * d, generator=g), torch.randn(M, K, d, generator=g), torch.randint(K, (N, M), generator=g, dtype=torch.uint8)


def by_sorting(f, codebooks, codes, k, squared=True):
    d = adc(distance_table(f, codebooks, squared), codes).sort(dim=1, stable=True)
    return d.values[:, :k], d.indices[:, :k]


def tied(N=2000, M=4, K=16, distinct=30, seed=0):
    "Many items with few different codes"
    f, codebooks, some = random_search(M, K, N=distinct, Q=7, seed=seed)
    return f, codebooks, some[torch.randint(distinct, (N,), generator=torch.Generator().manual_seed(seed))]


# tables and sums

@settings(deadline=None, max_examples=20)
@given(Q=st.integers(1, 3), M=st.integers(1, 5), K=st.sampled_from([2, 4, 16]), d=st.integers(1, 4), N=st.integers(1, 9),
       squared=st.booleans())
def test_look_ups_equal_loops(Q, M, K, d, N, squared):
    f, codebooks, codes = random_search(M, K, d, N, Q)
    table = distance_table(f, codebooks, squared)
    torch.testing.assert_close(table, distance_table_loop(f, codebooks, squared))
    assert torch.equal(adc(table, codes), adc_loop(table, codes))


def test_adc_is_the_distance_to_the_decoded_vector():
    f, codebooks, codes = random_search(M=8, N=200)
    expected = torch.cdist(f, decode(codes, codebooks)).square()
    torch.testing.assert_close(adc(distance_table(f, codebooks), codes), expected, rtol=1e-4, atol=1e-4)


def test_distance_to_itself_is_zero():
    _, codebooks, codes = random_search()
    for squared in (True, False): assert (adc(distance_table(decode(codes, codebooks), codebooks, squared), codes).diagonal() == 0).all()


@pytest.mark.parametrize("bits", [16, 32])
def test_distances_of_the_release(bits):
    x = np.load(DATA / f"sscq_{bits}bit.npz")
    words = torch.from_numpy(x["codebooks"])
    M = bits // 4
    codebooks = words.view(len(words), M, -1).transpose(0, 1).contiguous()
    f, codes = torch.from_numpy(x["query_f"]), hard_assign(torch.from_numpy(x["db_f"]), codebooks)
    assert np.array_equal(codes.numpy(), x["db_codes"].reshape(codes.shape))
    np.testing.assert_allclose(adc(distance_table(f, codebooks, squared=False), codes).numpy(), x["distances"], rtol=1e-5)
    index = Index(codebooks, distance="unsquared").add(codes)
    hits = index.search(f, k=len(codes))
    np.testing.assert_allclose(hits.distances.numpy(), np.sort(x["distances"], axis=1), rtol=1e-5)


# the nearest, in order

@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0, 2. ** 100, width=32), min_size=1, max_size=30))
def test_keys_keep_order_and_come_back(values):
    d = torch.tensor([values])
    keys = to_keys(d, torch.arange(len(values)))
    order = d.sort(dim=1, stable=True)
    assert torch.equal(keys.argsort(1), order.indices)
    back, rows = from_keys(keys)
    assert torch.equal(back, d) and torch.equal(rows[0], torch.arange(len(values)))


def test_smallest_on_the_cpu_equals_topk():
    keys = torch.randint(2 ** 60, (70, 9000), generator=torch.Generator().manual_seed(0))
    expected = keys.topk(100, largest=False).values
    assert torch.equal(smallest(keys.clone(), 100), expected)
    assert torch.equal(smallest(keys.clone()[:, :100], 100), keys[:, :100].sort(1).values)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("k", [1, 10, 5000])
def test_nearest_equals_sorting_with_ties(k, squared):
    f, codebooks, codes = tied()
    for got, expected in zip(nearest(f, codebooks, codes, k, squared), by_sorting(f, codebooks, codes, k, squared)):
        assert torch.equal(got, expected)


def test_nearest_by_table_in_blocks():
    f, codebooks, codes = tied()
    table, expected = distance_table(f, codebooks), by_sorting(f, codebooks, codes, 50)
    for block in (1, 49, 50, 51, 700, 2000):
        if block == 1: d, rows = nearest_by_table(table, codes[:100], 50, block); want = by_sorting(f, codebooks, codes[:100], 50)
        else: (d, rows), want = nearest_by_table(table, codes, 50, block), expected
        assert torch.equal(d, want[0]) and torch.equal(rows, want[1])


def test_ranked_does_not_depend_on_the_chunk():
    f, codebooks, codes = random_search(M=8, N=3000, Q=13)
    whole = nearest(f, codebooks, codes, 20)
    for chunk in (1, 4, 13, 64):
        seen = list(ranked(f, codebooks, codes, 20, chunk=chunk))
        assert [s.stop - s.start for s, _, _ in seen] == [len(d) for _, d, _ in seen]
        assert torch.equal(torch.cat([d for _, d, _ in seen]), whole[0]) and torch.equal(torch.cat([r for _, _, r in seen]), whole[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_nearest_takes_other_floats(dtype):
    f, codebooks, codes = random_search()
    f, codebooks = f.to(dtype), codebooks.to(dtype)
    assert torch.equal(nearest(f, codebooks, codes, 5)[1], by_sorting(f.float(), codebooks.float(), codes, 5)[1])


@pytest.mark.parametrize("error, f, codes, k", [
    ("8 dimensions.*12", (2, 8), (5, 4), 1), ("4 codebooks", (2, 12), (5, 3), 1), ("0 codes", (2, 12), (0, 4), 1),
    ("0 queries", (0, 12), (5, 4), 1), ("k=0", (2, 12), (5, 4), 0)])
def test_nearest_errors(error, f, codes, k):
    with pytest.raises(ValueError, match=error): nearest(torch.zeros(f), torch.zeros(4, 16, 3), torch.zeros(codes, dtype=torch.uint8), k)


def test_nearest_wants_codes():
    f, codebooks, codes = random_search()
    with pytest.raises(TypeError, match="codes of torch.int64 must be torch.uint8"): nearest(f, codebooks, codes.long(), 1)


def test_nearest_refuses_what_has_no_order():
    f, codebooks, codes = random_search()
    for message, change in (("codeword 20; the codebooks have 0 to 15", dict(codes=codes // 16 + 20)), ("queries contain NaN", dict(f=f * torch.nan)),
                            ("codebooks contain NaN", dict(codebooks=codebooks / 0))):
        with pytest.raises(ValueError, match=message): nearest(**(dict(f=f, codebooks=codebooks, codes=codes, k=3) | change))


def test_distances_that_overflow_are_refused():
    f, index = make_index(900)
    for query in (f * 1e20, f * 1e38):
        with pytest.raises(ValueError, match="too large for float32"): index.search(query)
        with pytest.raises(ValueError, match="too large for float32"): index.to_ivf(4, 4).search(query)


@pytest.mark.parametrize("squared", [True, False])
def test_one_query_does_not_change_anothers_answer(squared):
    f, codebooks, codes = random_search(N=9000)
    alone = nearest(f[:1], codebooks, codes, 10, squared)
    for size in (1e15, 1e-30, 0.):
        odd = f.clone()
        odd[1] *= size
        for a, b in zip(nearest(odd, codebooks, codes, 10, squared), alone): assert torch.equal(a[:1], b)
    for size in (1e20, 3e38):
        odd = f.clone()
        odd[1] = size
        for ask in (lambda odd=odd: nearest(odd, codebooks, codes, 10, squared), lambda odd=odd: list(ranked(odd, codebooks, codes, 10, squared)),
                    lambda odd=odd: nearest_by_table(distance_table(odd, codebooks, squared), codes, 10),
                    lambda odd=odd: Index(codebooks).add(codes).search(odd)):
            with pytest.raises(ValueError, match="too large for float32"): ask()


@pytest.mark.parametrize("size", [1e19, 1e38, 1e-20, 1e-42])
def test_codebooks_whose_distances_float32_cannot_hold_are_refused(size):
    f, codebooks, codes = random_search()
    for make in (lambda: Index(size * codebooks), lambda: nearest(size * f, size * codebooks, codes, 3)):
        with pytest.raises(ValueError, match="cannot be searched, float32 cannot hold the squares"): make()
    assert torch.equal(nearest(1e12 * f, 1e12 * codebooks, codes, 3)[1], nearest(f, codebooks, codes, 3)[1])
    assert nearest(f, 0 * codebooks, codes, 3)[1].tolist() == [[0, 1, 2]] * 5  # all alike is no mistake


def test_keys_hold_rows_below_two_to_the_31():
    d = torch.zeros(1, 3)
    assert from_keys(to_keys(d, torch.tensor([7, 2 ** 31 - 1, -1])))[1].tolist() == [[7, 2 ** 31 - 1, -1]]
    for kind in (torch.int32, torch.int16, torch.uint8): assert from_keys(to_keys(d, torch.tensor([7, 0, 100], dtype=kind)))[1].tolist() == [[7, 0, 100]]
    for row in (2 ** 31, 2 ** 32, 2 ** 40):
        with pytest.raises(ValueError, match=f"row {row} does not fit"): to_keys(d, torch.tensor([7, row, 8]))
    with pytest.raises(TypeError, match="distances of torch.float64 must be torch.float32"): to_keys(d.double(), torch.arange(3))


def packed_codes(codes, K=16): return PackedCodes(to_held(codes.numpy(), K), len(codes), codes.shape[1], K)


def searched(*asked): return [torch.from_numpy(x) for x in search_codes(*asked)]


def brute_force(f, codebooks, codes, squared):
    "Distances in float64, item by item"
    f, books, out = f.double().numpy(), codebooks.double().numpy(), np.zeros((len(f), len(codes)))
    for q in range(len(f)):
        for i, code in enumerate(codes.tolist()):
            for m, word in enumerate(code):
                part = ((f[q, m * books.shape[2]:(m + 1) * books.shape[2]] - books[m, word]) ** 2).sum()
                out[q, i] += part if squared else part ** .5
    return out


@settings(deadline=None, max_examples=40)
@given(M=st.sampled_from([1, 2, 3, 8]), K=st.sampled_from([2, 4, 16, 256]), d=st.sampled_from([1, 2, 5]), N=st.sampled_from([1, 2, 17, 32, 33, 400]),
       k=st.sampled_from([1, 10, 400]), squared=st.booleans(), whole=st.booleans(), shuffled=st.booleans(), seed=st.integers(0, 9))
def test_the_index_agrees_with_brute_force(M, K, d, N, k, squared, whole, shuffled, seed):
    f, codebooks, codes = random_search(M, K, d, N, 3, seed)
    if whole: f, codebooks = f.round(), codebooks.round()  # many exact ties
    ids = (torch.randperm(N, generator=torch.Generator().manual_seed(seed)) * 7).tolist() if shuffled else list(range(N))
    hits = Index(codebooks).add(codes, ids=ids).search(f, min(k, N), "squared" if squared else "unsquared")
    exact, place = brute_force(f, codebooks, codes, squared), {id: i for i, id in enumerate(ids)}
    for q, (found, distances) in enumerate(zip(hits.ids.tolist(), hits.distances.tolist())):
        mine = [exact[q, place[id]] for id in found]
        tolerance = 4e-6 * exact[q].max() + 1e-12
        np.testing.assert_allclose(mine, distances, rtol=0, atol=tolerance)
        np.testing.assert_allclose(mine, np.sort(exact[q])[:len(found)], rtol=0, atol=tolerance)
        assert len(set(found)) == len(found)
        assert all(a < b or (a == b and i < j) for a, b, i, j in zip(distances, distances[1:], found, found[1:]))


# FAISS

@pytest.mark.parametrize("M, K", [(1, 16), (3, 16), (8, 16), (16, 16), (2, 2), (5, 4), (3, 32), (4, 128), (2, 256)])
@pytest.mark.parametrize("squared", [True, False])
def test_fast_search_equals_looking_at_all(M, K, squared):
    f, codebooks, codes = random_search(M, K, N=3000, Q=20)
    packed = packed_codes(codes, K)
    assert torch.equal(packed[:], codes) and torch.equal(packed[np.array([[5, 2]])], codes[[5, 2]][None])
    for got, expected in zip(searched(packed, distance_table(f, codebooks, squared), 10), by_sorting(f, codebooks, codes, 10, squared)):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("M, K", [(4, 16), (3, 16), (3, 4), (2, 64), (2, 256)])
def test_codes_and_distances_are_those_of_faiss(M, K):
    f, codebooks, codes = random_search(M, K, N=2000)
    by_hand = faiss_by_hand(codebooks, codes)
    d, _ = by_hand.search(f.numpy(), 30)
    hits = Index(codebooks).add(codes).search(f, 30)
    np.testing.assert_allclose(hits.distances.numpy(), d, rtol=1e-5, atol=1e-6)
    assert np.array_equal(by_hand.sa_encode(f.numpy()), pack(hard_assign(f, codebooks), K).numpy())


@pytest.mark.parametrize("distinct", [1, 3, 200])
def test_ties_are_ordered_by_row_whatever_the_back_end(distinct):
    f, codebooks, codes = tied(3000, distinct=distinct)
    got = searched(packed_codes(codes), distance_table(f, codebooks), 10)
    assert torch.equal(got[1], by_sorting(f, codebooks, codes, 10)[1])


@pytest.mark.parametrize("spoil", [lambda c: c[0, 0].fill_(100.), lambda c: c.fill_(.5), lambda c: c[1:].fill_(0.)])
def test_tables_that_round_badly(spoil):
    "A far codeword, all codewords alike, one codebook that decides"
    f, codebooks, codes = random_search(N=2000)
    spoil(codebooks)
    for squared in (True, False):
        got = searched(packed_codes(codes), distance_table(f, codebooks, squared), 10)
        for a, b in zip(got, by_sorting(f, codebooks, codes, 10, squared)): assert torch.equal(a, b)


@pytest.mark.parametrize("M", [1, 2, 5, 16, 33])
def test_fastscan_is_no_rougher_than_its_bound(M):
    f, codebooks, codes = random_search(M, N=1000, Q=30)
    packed, table = packed_codes(codes), distance_table(f, codebooks)
    rough, rows = packed.rough(table, 500)
    exact = rerank(table, packed.at(rows))
    assert np.array_equal(exact, adc(table, codes).gather(1, torch.from_numpy(rows)).numpy())
    assert (abs(exact - rough) <= rounding(table)[:, None]).all()


# codebooks by k-means

def test_train_pq_finds_planted_clusters_and_is_deterministic():
    words = torch.tensor([[[-5., 0], [5, 0]], [[0, -5], [0, 5]]])
    codes = torch.randint(2, (300, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    books = train_pq(decode(codes, words), 2, n_words=2)
    torch.testing.assert_close(books.sort(1).values, words.sort(1).values)
    x = torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(train_pq(x, 3, seed=1), train_pq(x, 3, seed=1))


def test_train_opq_untangles_what_pq_cannot():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 16, generator=g) * torch.tensor([8.] * 4 + [.1] * 12)  # all that matters lies in the first of four parts
    rotation, books = train_opq(x, 4)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(16), atol=1e-4, rtol=0)
    def lost(x, books): return (x - decode(hard_assign(x, books), books)).square().sum(1).mean()
    assert lost(x @ rotation.T, books) < .5 * lost(x, train_pq(x, 4))
    again = train_opq(x, 4)
    assert torch.equal(rotation, again[0]) and torch.equal(books, again[1])


def lost(x, books): return (x - decode(hard_assign(x, books), books)).square().sum(1).mean().item()


def test_opq_is_the_best_of_its_starts():
    "Digits, where the axes are a good start; turned digits, where they are not; one large axis in each part; and no axes to choose between"
    x = digits().train.flatten(1).float() / 255
    centred = x - x.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    spread = torch.randn(1500, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(3, .1, 64)
    for vectors, most in ((x, .80), (centred @ axes.flip(1), .90), (spread, 78.)):
        rotation, books = train_opq(vectors, 8)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(64), atol=1e-4, rtol=0)
        assert lost(vectors @ rotation.T, books) < most


HUGE = """
import sys, torch
from sscq.index import Index
from sscq.search import train_opq, train_pq
torch.set_num_threads(1)
x, codes = torch.randn(400, 8, generator=torch.Generator().manual_seed(0)), torch.randint(16, (300, 4), dtype=torch.uint8)
books, (turn, turned) = train_pq(x, 2, 16), train_opq(x, 2, 16)
for power in (-120, -100, 63, 125):
    scaled = torch.ldexp(x, torch.tensor(power // 2)) * 2. ** (power - power // 2)
    def back(books): return books * 2. ** -(power // 2) * 2. ** -(power - power // 2)
    torch.testing.assert_close(back(train_pq(scaled, 2, 16)), books, rtol=1e-4, atol=1e-4)
    other, others = train_opq(scaled, 2, 16)
    assert torch.isfinite(others).all() and torch.isfinite(other).all()
for odd in (torch.full((400, 8), 3e38), torch.zeros(400, 8), torch.cat([x[:399], x[399:] * 1e30]), torch.full((400, 8), 1e-45)):
    assert torch.isfinite(train_pq(odd, 2, 16)).all() and torch.isfinite(train_opq(odd, 2, 16)[1]).all()
for size in (1e19, 1e38):
    try: Index(size * torch.randn(4, 16, 4)).add(codes).to_ivf(8)
    except ValueError as error: assert "float32 cannot hold" in str(error), error
index = Index(1e17 * torch.randn(4, 16, 4)).add(codes)
q = 1e17 * torch.randn(3, 16)
assert torch.equal(index.to_ivf(8, 8).search(q).ids, index.search(q).ids)
for bad in (1e20, 3e38):
    try: index.to_ivf(8).search(torch.full((1, 16), bad))
    except ValueError as error: print("refused", error)
"""


def test_faiss_never_sees_what_it_cannot_square():
    "It would end the process: k-means finds no nearest centre where all are infinitely far"
    done = children.run(HUGE)
    assert done.returncode == 0 and done.stdout.count("refused") == 2, done.stderr


THREADS = """
import hashlib, sys, faiss, torch
from sscq.data import digits
from sscq.search import train_opq
torch.set_num_threads(1)
x = digits().train.flatten(1).float() / 255
for threads in (1, 2, 3):
    faiss.omp_set_num_threads(threads)
    rotation, books = train_opq(x, 4, seed=3)
    assert faiss.omp_get_max_threads() == threads
    print(hashlib.sha256(rotation.numpy().tobytes() + books.numpy().tobytes()).hexdigest())
"""


def test_a_rotation_does_not_depend_on_the_number_of_threads():
    "FAISS adds up in another order with more of them; OPQ makes another rotation of that. In a process of its own: OpenMP's threads are started once"
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    said = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True, env=env).stdout.split()
    assert len(said) == 3 and len(set(said)) == 1


def test_any_whole_number_is_a_seed():
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    for train in (train_pq, train_opq):
        assert all(torch.equal(a, b) for a, b in zip(train(x, 2, seed=5), train(x, 2, seed=5 + 2 ** 31)))
        train(x, 2, seed=2 ** 40)
        with pytest.raises(ValueError, match="seed=-1 must be at least 0"): train(x, 2, seed=-1)


@pytest.mark.parametrize("train", [train_pq, train_opq])
@pytest.mark.parametrize("error, shape, books, words", [
    ("split", (50, 10), 3, 16), ("n_books=0 must be at least 1", (50, 10), 0, 16), ("cannot train", (10, 8), 2, 16), ("power of two", (50, 8), 2, 12),
    (r"\(N, D\)", (50,), 1, 16)])
def test_training_errors(train, error, shape, books, words):
    with pytest.raises(ValueError, match=error): train(torch.zeros(shape), books, words)
    for bad in (torch.full((50, 8), torch.nan), torch.full((50, 8), 1e300, dtype=torch.float64)):
        with pytest.raises(ValueError, match="NaN, or values that float32 cannot hold"): train(bad, 2)


# the index

def make_index(N=700, M=4, K=16, **kwargs):
    f, codebooks, codes = random_search(M, K, N=N)
    return f, Index(codebooks, **kwargs).add(codes)


@pytest.mark.parametrize("M, K", [(4, 16), (3, 16), (2, 256), (3, 8)])
def test_adding_in_batches_equals_adding_at_once(M, K):
    f, codebooks, codes = random_search(M, K, N=1111)
    once, often = Index(codebooks).add(codes), Index(codebooks)
    for some in codes.split(17): often.add(some)
    assert len(often._state.segments) == 1
    assert len(often) == len(once) == 1111 and torch.equal(often.codes, codes) and torch.equal(often.ids, torch.arange(1111))
    a, b = once.search(f), often.search(f)
    assert torch.equal(a.ids, b.ids) and torch.equal(a.distances, b.distances)
    assert torch.equal(a.ids, nearest(f, codebooks, codes, 10)[1])


def test_embeddings_are_quantized():
    f, codebooks, _ = random_search(Q=300)
    for x in (f, f.double(), f.numpy(), f.clone().requires_grad_()):
        assert torch.equal(Index(codebooks).add(x).codes, hard_assign(f, codebooks))


@pytest.mark.parametrize("distance", ["squared", "unsquared"])
def test_many_queries_are_shared_out(distance):
    f, codebooks, codes = random_search(M=16, N=2000, Q=300)
    hits = Index(codebooks).add(codes).search(f, 10, distance)
    d, rows = nearest(f, codebooks, codes, 10, distance == "squared")
    assert torch.equal(hits.ids, rows) and torch.equal(hits.distances, d) and hits.distances.dtype == torch.float32


def test_searching_leaves_threads_as_they_were():
    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    f, codebooks, codes = random_search(M=16, N=2000, Q=300)
    Index(codebooks).add(codes).search(f)
    assert (faiss.omp_get_max_threads(), torch.get_num_threads()) == before


def test_ties_are_ordered_by_id():
    f, codebooks, codes = tied(1500)
    ids = torch.randperm(1500, generator=torch.Generator().manual_seed(1)) * 3
    hits = Index(codebooks).add(codes, ids=ids.tolist(), paths=[f"{i}.png" for i in ids.tolist()]).search(f, 40)
    order = ids.argsort()
    d, rows = by_sorting(f, codebooks, codes[order], 40)
    assert torch.equal(hits.ids, ids[order][rows]) and torch.equal(hits.distances, d)
    assert hits.paths == [[f"{i}.png" for i in row] for row in hits.ids.tolist()]


def test_removing_equals_never_adding():
    f, codebooks, codes = random_search(N=900)
    gone = torch.arange(0, 900, 7)
    index = Index(codebooks).add(codes, paths=[str(i) for i in range(900)])
    index.search(f)  # what FAISS holds must not survive
    index.remove(gone)
    keep = torch.ones(900, dtype=torch.bool).index_fill(0, gone, False)
    assert len(index) == keep.sum() and torch.equal(index.codes, codes[keep]) and torch.equal(index.ids, torch.arange(900)[keep])
    assert torch.equal(index.search(f).ids, index.ids[nearest(f, codebooks, codes[keep], 10)[1]])
    assert index.search(f).paths[0] == [str(i) for i in index.search(f).ids[0].tolist()]
    assert index.add(codes[:1], paths=["new"]).ids[-1] == 900
    assert index.remove(900).add(codes[:1], paths=["newer"]).ids[-1] == 901  # numbers are not used twice


def test_remove_all_then_start_again():
    f, index = make_index(20)
    index.remove(range(20))
    assert len(index) == 0 and index.codes.shape == (0, 4)
    with pytest.raises(ValueError, match="is empty"): index.search(f)
    assert index.add(torch.zeros(2, 4, dtype=torch.uint8), paths=["a", "b"]).ids.tolist() == [20, 21]


def test_merge():
    f, codebooks, codes = random_search(N=900)
    a, b = Index(codebooks).add(codes[:500]), Index(codebooks).add(codes[500:])
    a.search(f)
    a.merge(b)
    assert torch.equal(a.search(f).ids, nearest(f, codebooks, codes, 10)[1]) and len(b) == 400
    a.merge(a)
    assert len(a) == 1800 and torch.equal(a.codes, torch.cat([codes, codes]))
    c = Index(codebooks).add(codes[:2], ids=[5000, 4000])
    assert a.merge(c).ids[-2:].tolist() == [4000, 5000] and a.add(codes[:1]).ids[-1] == 5001
    assert torch.equal(a.codes[-3:], codes[[1, 0, 0]])  # in the order of ids
    with pytest.raises(ValueError, match="4000 is in the index"): a.merge(c)
    assert a.merge(Index(codebooks)).ids.numel() == 1803


def test_merging_different_models_names_both():
    _, codebooks, codes = random_search()
    a, b = Index(codebooks, name="this one").add(codes), Index(codebooks + 1, name="that one").add(codes)
    with pytest.raises(ValueError, match=f"this one.*{a.fingerprint}.*that one.*{b.fingerprint}"): a.merge(b)
    assert len(a) == 50


def test_what_cannot_be_added_changes_nothing():
    f, index = make_index(50, name="tiny")
    codes = index.codes
    bad = [(ValueError, r"tiny.*need \(N, 12\)", dict(f=torch.zeros(2, 11))), (ValueError, r"need \(N, 12\)", dict(f=torch.zeros(12))),
           (ValueError, r"tiny.*need \(N, 4\)", dict(f=codes[:, :3])), (ValueError, "0 to 15", dict(f=codes + 16)),
           (ValueError, "NaN", dict(f=torch.full((2, 12), torch.inf))), (TypeError, "int64", dict(f=codes.long())),
           (ValueError, "id 3 is in", dict(f=codes[:2], ids=[60, 3])), (ValueError, "twice", dict(f=codes[:2], ids=[60, 60])),
           (ValueError, "negative", dict(f=codes[:2], ids=[60, -1])), (ValueError, "one for each", dict(f=codes[:2], ids=[60])),
           (TypeError, "whole numbers", dict(f=codes[:2], ids=[.5, 1.])), (ValueError, "1 paths for 2", dict(f=codes[:2], paths=["a"])),
           (ValueError, r"too large.*below 2\*\*62", dict(f=codes[:2], ids=[60, 2 ** 63 - 1])), (ValueError, "zero byte", dict(f=codes[:1], paths=["a\0b"])),
           (ValueError, r"too large", dict(f=codes[:2], ids=np.array([60, 2 ** 64 - 1], dtype=np.uint64))),
           (ValueError, "all have one", dict(f=codes[:2], paths=["a", "b"]))]
    for error, message, arguments in bad:
        with pytest.raises(error, match=message): index.add(**arguments)
    for error, message, ids in (
            (ValueError, "id 99 is not", [0, 99]), (ValueError, "id -1 is negative", [-1]), (TypeError, "float64 must be whole", [1.7]),
            (TypeError, r"bool must be whole numbers .of a mask: mask.nonzero", codes[:, 0] > 3), (TypeError, "must be whole", "1"),
            (TypeError, "must be whole", [2 ** 70])):
        with pytest.raises(error, match=message): index.remove(ids)
    assert torch.equal(index.codes, codes) and torch.equal(index.ids, torch.arange(50)) and index.paths is None
    with_paths = Index(index.codebooks).add(codes, paths=map(str, range(50)))
    with pytest.raises(ValueError, match="all have one"): with_paths.add(codes)


@pytest.mark.parametrize("error, arguments", [
    (r"\(M, K, d\)", dict(codebooks=torch.zeros(16, 3))), ("none of them 0", dict(codebooks=torch.zeros(0, 16, 3))),
    ("none of them 0", dict(codebooks=torch.zeros(2, 16, 0))), ("float32 cannot hold", dict(codebooks=torch.full((2, 4, 3), 1e300, dtype=torch.float64))),
    ("power of two", dict(codebooks=torch.zeros(2, 12, 3))),
    ("NaN", dict(codebooks=torch.full((2, 4, 3), torch.nan))), ("'cosine'", dict(codebooks=torch.zeros(2, 4, 3), distance="cosine"))])
def test_index_of_what(error, arguments):
    with pytest.raises(ValueError, match=error): Index(**arguments)


def test_the_index_keeps_its_own_codebooks():
    f, codebooks, codes = random_search()
    index = Index(codebooks).add(codes)
    before = index.search(f).ids
    codebooks.zero_()
    assert torch.equal(index.search(f).ids, before)


@pytest.mark.parametrize("M, K, width", [(16, 16, 8), (5, 16, 3), (4, 256, 4)])
def test_memory_is_the_codes_once(M, K, width):
    f, codebooks, codes = random_search(M, K, N=10_000)
    index = Index(codebooks).add(codes)
    assert index.nbytes == width * 10_000
    index.search(f)
    assert width * 10_000 <= index.nbytes < 1.01 * width * 10_000 and torch.equal(index.codes, codes)  # FAISS's copy is the only one
    index.remove([0])
    index.search(f)
    assert index.nbytes < 1.01 * (width + 8) * 10_000  # ids are no longer row numbers


@pytest.mark.parametrize("M, K", [(1, 16), (4, 16), (5, 16), (16, 16), (33, 16), (4, 4), (3, 32), (3, 256)])
@pytest.mark.parametrize("N", [1, 31, 32, 33, 1000])
def test_codes_come_back_from_what_is_scanned(M, K, N):
    _, _, codes = random_search(M, K, N=N)
    packed, some = packed_codes(codes, K), torch.randint(N, (3, 2), generator=torch.Generator().manual_seed(0))
    assert len(packed) == N and packed.held.shape == held_shape(N, M, K)
    assert torch.equal(packed[:], codes) and torch.equal(packed[some.numpy()], codes[some]) and torch.equal(packed[5:20], codes[5:20])
    assert torch.equal(packed[2:20:3], codes[2:20:3])
    if K == 16:  # FAISS's own order
        fast = faiss.IndexPQFastScan(faiss_by_hand(torch.zeros(M, 16, 1), codes))
        assert np.array_equal(faiss.rev_swig_ptr(fast.codes.get(), fast.codes.size()), packed.held.reshape(-1))


def test_adding_after_a_search_equals_adding_before():
    f, codebooks, codes = random_search(N=900)
    index = Index(codebooks)
    for some in codes.split(300): index.add(some).search(f)
    assert torch.equal(index.codes, codes) and torch.equal(index.search(f).ids, nearest(f, codebooks, codes, 10)[1])


def test_items_stand_in_the_order_of_their_ids(tmp_path):
    f, codebooks, codes = random_search(N=300)
    ids = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    index = Index(codebooks)
    for part, some in zip(ids.split(100), codes.split(100)): index.add(some, ids=part.tolist(), paths=[f"{i}.png" for i in part.tolist()])
    assert torch.equal(index.ids, torch.arange(300)) and torch.equal(index.codes, codes[ids.argsort()])
    assert index.paths == [f"{i}.png" for i in range(300)]
    again = Index.load(index.save(tmp_path / "i.sscq"))
    assert again.paths == index.paths and torch.equal(again.codes, index.codes) and torch.equal(again.search(f).ids, index.search(f).ids)


# asking

def test_more_answers_than_items():
    f, index = make_index(20)
    with pytest.warns(UserWarning, match="k=50, but the index holds 20"): hits = index.search(f, k=50)
    assert hits.ids.shape == (5, 20) and torch.equal(hits.ids.sort(1).values, torch.arange(20).expand(5, 20))


def test_asking_wrongly():
    f, index = make_index(50, name="tiny")
    with pytest.raises(ValueError, match=r"\(5, 11\).*tiny.*need \(N, 12\)"): index.search(f[:, :11])
    with pytest.raises(ValueError, match="k=0"): index.search(f, k=0)
    with pytest.raises(ValueError, match="'cosine'"): index.search(f, distance="cosine")
    with pytest.raises(TypeError, match="ids of float64 must be whole"): index.explain(f[0], 1.5)
    with pytest.raises(ValueError, match="NaN"): index.search(f * torch.nan)
    with pytest.raises(ValueError, match="nothing to ask"): index.search(f[:0])
    with pytest.raises(ValueError, match="cannot look at PosixPath.*tiny"): index.search(Path("holiday.jpg"))
    with pytest.raises(ValueError, match="is empty"): Index(index.codebooks).search(f)
    for ask in (lambda: index.explain(f, 0), lambda: index.explain(f[0], 50), lambda: index.explain(f[0], 0, "cosine")):
        with pytest.raises(ValueError): ask()


@pytest.fixture
def pictures(tmp_path):
    "Four pictures of one colour each, and an index of their mean colours"
    colours = torch.tensor([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]], dtype=torch.uint8)
    for i, colour in enumerate(colours.tolist()): Image.new("RGB", (20, 20), tuple(colour)).save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(4)]

    def embed(asked):
        if isinstance(asked, torch.Tensor): return asked.float().mean((2, 3)) / 255
        if isinstance(asked, Image.Image): return torch.from_numpy(np.array(asked)).float().mean((0, 1))[None] / 255
        if isinstance(asked, list): return torch.cat([embed(one) for one in asked])
        return embed(load_image(asked, 8)[None])
    codebooks = torch.tensor([[0.], [1.]]).expand(3, 2, 1)
    return paths, Index(codebooks, embed).add(embed(paths), paths=paths)


def test_asking_with_pictures(pictures):
    paths, index = pictures
    for query in (paths[1], str(paths[1]), paths[1:2], Image.open(paths[1]), load_image(paths[1], 8)[None]):
        hits = index.search(query, k=2)
        assert hits.paths[0][0] == str(paths[1]) and hits.ids[0, 0] == 1
        assert hits.queries == ([str(paths[1])] if isinstance(query, (str, Path, list)) else None)
    assert index.search(paths, k=1).ids[:, 0].tolist() == [0, 1, 2, 3]
    assert index.explain(paths[3], 3).path == str(paths[3])


def empty(hits, q): return (hits.ids[q] == -1).all() and hits.distances[q].isinf().all() and (hits.paths is None or not any(hits.paths[q]))


def test_every_query_has_its_row(pictures, tmp_path):
    paths, index = pictures
    notes, gone = tmp_path / "no\ntes.jpg", tmp_path / "gone.png"
    notes.write_text("no picture")
    asked = [paths[0], notes, paths[2], gone, paths[3]]
    with pytest.warns(UserWarning, match=r"2 of 5 queries cannot be read, and their rows are empty: .*no\\ntes.jpg \(.*; .*gone.png \("):
        hits = index.search(asked, k=2)
    assert hits.queries == [str(path) for path in asked] and hits.ids.shape == hits.distances.shape == (5, 2)
    assert hits.ids[[0, 2, 4], 0].tolist() == [0, 2, 3] and empty(hits, 1) and empty(hits, 3)
    with pytest.warns(UserWarning, match="2 of 5"): approximate = index.to_ivf(2, 2).search(asked, k=2)
    assert torch.equal(approximate.ids, hits.ids) and approximate.queries == hits.queries
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(paths[3], folder)
    assert index.search(folder, k=1).ids.tolist() == [[3]]
    with pytest.raises(ValueError, match="tes.jpg"): index.search([notes, gone])
    with pytest.raises(ValueError, match="is a folder: ask with it alone"): index.search([paths[0], tmp_path])
    with pytest.raises(ValueError, match="the list is empty|nothing to ask"): index.search([])


def test_a_model_that_skips_what_it_cannot_read_gives_a_row_for_each(pictures, tmp_path):
    "As models do: they leave a broken file out, and warn"
    paths, index = pictures
    whole = index.embed
    def skipping(asked):
        if not isinstance(asked, list): return whole(asked)
        return torch.cat([whole(one) for one in asked if "broken" not in str(one)])
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:50])
    with pytest.warns(UserWarning, match="1 of 3 queries cannot be read.*broken.png"):
        hits = Index(index.codebooks, skipping).add(index.codes).search([paths[1], broken, paths[0]], k=1)
    assert hits.ids[:, 0].tolist() == [1, -1, 0] and hits.queries[1] == str(broken)


def test_pictures_in_a_list_have_a_row_each(pictures, tmp_path):
    paths, index = pictures
    (tmp_path / "cut.png").write_bytes(paths[1].read_bytes()[:60])
    images = [Image.open(paths[0]), Image.open(tmp_path / "cut.png"), Image.new("RGB", (5, 5), (0, 0, 250))]
    with pytest.warns(UserWarning, match="1 of 3 queries cannot be read.*cut.png"): hits = index.search(images, k=1)
    for image in images: image.close()
    assert hits.ids[:, 0].tolist() == [0, -1, 2] and hits.queries is None


def test_a_folder_is_the_list_of_its_pictures(pictures, tmp_path):
    paths, index = pictures
    hits = index.search(tmp_path, k=1)
    assert hits.queries == [str(path) for path in paths] and hits.ids[:, 0].tolist() == [0, 1, 2, 3]
    paths[2].write_text("no picture any more")
    with pytest.warns(UserWarning, match="1 of 4 queries cannot be read.*2.png"): hits = index.search(tmp_path, k=1)
    assert hits.queries == [str(path) for path in paths] and empty(hits, 2) and hits.ids[3, 0] == 3


def test_empty_rows_show_themselves(pictures, tmp_path, monkeypatch):
    import plotly.io as pio
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    paths, index = pictures
    with pytest.warns(UserWarning, match="1 of 2"): hits = index.search([tmp_path / "gone.png", paths[1]], k=3)
    assert [line.split() for line in repr(hits).splitlines()[1:3]] == [["gone.png:"], ["none"]] and repr(hits).count("\n") == 6
    figure = hits.figure()
    assert len(figure.layout.images) == 8 and "inf" not in str([note.text for note in figure.layout.annotations])
    assert any("plotly" in kind for kind in hits._repr_mimebundle_())
    few = Index(index.codebooks).add(index.codes).to_ivf(4, 1).search(torch.zeros(1, 3), k=4)
    assert "-1" not in repr(few) and (few.ids == -1).any()


def test_not_a_picture(pictures, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    with pytest.raises(ValueError, match="notes.jpg"): pictures[1].search(tmp_path / "notes.jpg")


def test_a_name_is_one_line():
    names = ["a\nb.png", "tab\t\x1b[31m.png", "\udc80.png", "Ünï 猫.png"]
    assert [one_line(name) for name in names] == [r"a\nb.png", r"tab\t\x1b[31m.png", r"\udc80.png", "Ünï 猫.png"]
    _, codebooks, codes = random_search(N=4)
    said = repr(Index(codebooks).add(codes, paths=names).search(torch.zeros(1, 12), 4))
    assert len(said.splitlines()) == 6 and r"a\nb.png" in said and said.encode()


def test_hits_show_themselves(pictures, monkeypatch):
    import plotly.io as pio
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")
    paths, index = pictures
    hits = index.search(paths[:2], k=3)
    bundle = hits._repr_mimebundle_()
    assert "0.png" in bundle["text/plain"] and any("plotly" in kind for kind in bundle)
    assert len(hits.figure().layout.images) == 8 and len(hits.figure(n_queries=1, n_answers=2).layout.images) == 3
    paths[0].unlink()
    assert len(hits.figure().layout.images) == 8  # a file that is gone is grey
    numbers = Index(index.codebooks).add(index.codes).search(torch.zeros(5, 3), k=2)
    assert list(numbers._repr_mimebundle_()) == ["text/plain"] and "2 answers to 5 queries" in repr(numbers)
    with pytest.raises(ValueError, match="no paths"): numbers.figure()


@pytest.mark.parametrize("distance", ["squared", "unsquared"])
def test_explanations_add_up(distance):
    f, index = make_index(700, M=8)
    index.remove(range(0, 700, 2))
    hits = index.search(f, 5, distance)
    for q in range(len(f)):
        for id, d in zip(hits.ids[q].tolist(), hits.distances[q].tolist()):
            why = index.explain(f[q], id, distance)
            assert why.distance == d and why.kind == distance and why.parts.sum().item() == pytest.approx(d, rel=1e-5)
            assert torch.equal(why.parts, why.table[torch.arange(8), why.item.long()])
            assert torch.equal(why.table.min(1).indices, why.query.long())
    figure = why.figure()
    assert len(figure.layout.shapes) == 8 and list(figure.data[1].x) == why.query.tolist() and f"id {why.id}" in repr(why)


# files

@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("M, K", [(4, 16), (3, 256), (5, 2)])
def test_saved_and_loaded_answers_are_identical(tmp_path, mmap, M, K):
    f, codebooks, codes = random_search(M, K, N=1000)
    index = Index(codebooks, distance="unsquared", name="mine").add(codes).remove([3])
    again = Index.load(index.save(tmp_path / "new folder" / "i.sscq"), mmap=mmap)
    a, b = index.search(f), again.search(f)
    assert torch.equal(a.ids, b.ids) and torch.equal(a.distances, b.distances)
    assert repr(again) == repr(index) and again.distance == "unsquared" and torch.equal(again.codes, index.codes) and again.paths is None
    again.add(codes[:5]).remove([0]).save(tmp_path / "new folder" / "i.sscq")  # over the file it reads from
    assert torch.equal(Index.load(tmp_path / "new folder" / "i.sscq").codes, again.codes) and again.ids[-1] == 1004
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["i.sscq"]


def test_paths_of_any_name_come_back(tmp_path):
    _, codebooks, codes = random_search(N=4)
    names = ["plain.jpg", "Ünï codé 猫.png", "new\nline", b"not utf-8 \xff.jpg".decode("utf-8", "surrogateescape")]
    path = Index(codebooks).add(codes, paths=names).save(tmp_path / "i.sscq")
    again = Index.load(path)
    assert again.add(codes[:1], paths=["more"]).paths == [*names, "more"]


def test_an_empty_index_is_saved_too(tmp_path):
    _, codebooks, codes = random_search()
    again = Index.load(Index(codebooks).save(tmp_path / "i.sscq"))
    assert len(again) == 0 and torch.equal(again.add(codes).codes, codes)


def test_file_names(tmp_path):
    _, index = make_index(5)
    with pytest.raises(ValueError, match="must end in .sscq"): index.save(tmp_path / "index.bin")
    with pytest.raises(FileNotFoundError, match="nowhere"): Index.load(tmp_path / "nowhere.sscq")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError): index.save(tmp_path / "file" / "i.sscq")


def test_every_damage_is_recognised(tmp_path):
    _, index = make_index(40)
    whole = index.add(index.codes, ids=range(100, 140)).save(tmp_path / "i.sscq").read_bytes()
    other = tmp_path / "damaged.sscq"
    random = np.random.default_rng(0)
    for cut in (0, 5, 8, 300, len(whole) // 2, len(whole) - 1):
        other.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="damaged.sscq"): Index.load(other)
    for place in [*range(0, 8), *random.integers(8, len(whole), 200)]:
        bent = bytearray(whole)
        bent[place] ^= 1 << random.integers(8)
        other.write_bytes(bent)
        with pytest.raises(ValueError, match="damaged.sscq"): Index.load(other)
    other.write_bytes(whole + b"more")
    with pytest.raises(ValueError, match="damaged.sscq"): Index.load(other)


def test_what_is_no_index(tmp_path):
    path = tmp_path / "x.sscq"

    class Danger:
        def __reduce__(self): return Path.touch, (tmp_path / "executed",)
    path.write_bytes(pickle.dumps(Danger()))
    with pytest.raises(ValueError, match="x.sscq is damaged .*give a file that Index.save wrote"): Index.load(path)
    assert not (tmp_path / "executed").exists()
    save_file({"weight": np.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not an index"): Index.load(path)
    save_file({"weight": np.zeros(3)}, path, metadata={"index": json.dumps(dict(format="sscq-index", version=2))})
    with pytest.raises(ValueError, match="sscq-index 2.*reads sscq-index 1"): Index.load(path)


def test_an_index_of_another_model_is_refused(tmp_path):
    class Model:
        def __init__(self, codebooks): self.codebooks = codebooks
        def embed(self, x): return x
    _, index = make_index(5, name="mine")
    path, other = index.save(tmp_path / "i.sscq"), index.codebooks + 1
    assert Index.load(path, Model(index.codebooks).embed, fingerprint=model_fingerprint(index.codebooks)).fingerprint == index.fingerprint
    names_both = f"mine \\({index.fingerprint}\\).*{model_fingerprint(other)}"
    with pytest.raises(ValueError, match=names_both): Index.load(path, Model(other).embed)
    with pytest.raises(ValueError, match=names_both): Index.load(path, fingerprint=model_fingerprint(other))


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from sscq.index import Index
torch.set_num_threads(1)
path = Path(sys.argv[1])
indexes = [Index(torch.zeros(8, 256, 1)).add(torch.full((200_000, 8), i, dtype=torch.uint8)) for i in range(2)]
indexes[0].save(path)
torn = 0
for kill in range(12):
    child = os.fork()
    if not child:
        while True:
            for index in indexes: index.save(path)
    time.sleep(random.Random(kill).uniform(.005, .1))
    os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
    torn += len(list(path.parent.glob(".sscq-part-*")))
    codes = Index.load(path).codes
    assert len(codes) == 200_000 and (codes == codes[0, 0]).all()
indexes[0].save(path)
assert [p.name for p in path.parent.iterdir()] == [path.name]  # what killed saves left is gone
print("torn", torn)
"""


def test_every_length_of_a_file_but_its_own_is_refused(tmp_path):
    _, index = make_index(3)
    whole = index.save(tmp_path / "i.sscq").read_bytes()
    cut = tmp_path / "cut.sscq"
    for n in range(len(whole)):
        cut.write_bytes(whole[:n])
        with pytest.raises(ValueError, match="cut.sscq is damaged"): Index.load(cut)
    cut.write_bytes(whole)
    assert torch.equal(Index.load(cut).codes, index.codes)


def test_places_where_no_index_is_or_can_be(tmp_path):
    _, index = make_index(5)
    (tmp_path / "folder.sscq").mkdir()
    os.mkfifo(tmp_path / "pipe.sscq")
    (tmp_path / "loop.sscq").symlink_to(tmp_path / "loop.sscq")
    for name in ("folder.sscq", "pipe.sscq"):
        with pytest.raises(ValueError, match=f"{name} is not a file"): Index.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="loop.sscq does not exist"): Index.load(tmp_path / "loop.sscq")
    with pytest.raises(ValueError, match="folder.sscq is a folder"): index.save(tmp_path / "folder.sscq")
    with pytest.raises(ValueError, match="is not UTF-8"): index.save(tmp_path / "\udc80.sscq")
    with pytest.raises(ValueError, match="255 bytes"): index.save(tmp_path / f"{'é' * 126}.sscq")
    longest = tmp_path / f"{'n' * 250}.sscq"
    assert len(Index.load(index.save(longest))) == 5
    with pytest.raises(OSError, match="/proc cannot be written .*: make room, or name another place"): index.save("/proc/i.sscq")


def test_an_index_is_written_where_a_link_leads_and_into_what_is_no_file(tmp_path):
    _, index = make_index(5)
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "i.sscq", tmp_path / "link.sscq"
    link.symlink_to(real)
    index.save(link)
    assert link.is_symlink() and len(Index.load(real)) == 5
    pipe = tmp_path / "pipe.sscq"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        index.save(pipe)
        (tmp_path / "real" / "read.sscq").write_bytes(read.result(20))
    assert pipe.is_fifo() and torch.equal(Index.load(tmp_path / "real" / "read.sscq").codes, index.codes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.sscq", "pipe.sscq", "real"]


def test_saving_keeps_modes_and_never_asks_for_the_umask(tmp_path, monkeypatch):
    "Asking sets it to 0 for a moment, and other threads' files are then writable by all"
    _, index = make_index(5)
    old = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", lambda mask: pytest.fail("the umask was touched"))
            path = index.save(tmp_path / "i.sscq")
    finally: os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o604)
    assert index.save(path).stat().st_mode & 0o777 == 0o604


def test_an_index_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    _, index = make_index(5)
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("renamed"), replace(a, b)))
    index.save(tmp_path / "i.sscq")
    assert done.index("renamed") > [i for i, name in enumerate(done) if name.endswith("part")][0] and done[-1] == str(tmp_path)


def test_names_that_are_too_long_are_told_before_the_work(tmp_path, monkeypatch):
    _, index = make_index(5)
    monkeypatch.setattr("sscq.index.save_state", lambda *args: pytest.fail("the work was done first"))
    for path in (tmp_path / f"{'n' * 251}.sscq", tmp_path / "i.bin", "/proc/nowhere/i.sscq"):
        with pytest.raises((ValueError, OSError)): index.save(path)


def test_a_file_of_an_earlier_version_answers_as_it_did():
    index = Index.load(next((DATA / "tiny-model").glob("*.sscq")))
    assert len(index) and torch.equal(index.search(index.codebooks.new_zeros(1, index.codebooks[:, 0].numel()), 3).ids,
                                      nearest(torch.zeros(1, index.codebooks[:, 0].numel()), index.codebooks, index.codes, 3)[1])


def test_a_full_disk_leaves_the_old_index_and_says_so(tmp_path):
    code = f"""if True:
        import resource, torch
        from sscq.index import Index
        index = Index(torch.zeros(8, 256, 1))
        path = index.add(torch.zeros(10, 8, dtype=torch.uint8)).save({str(tmp_path / "i.sscq")!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try: index.add(torch.zeros(9000, 8, dtype=torch.uint8)).save(path)
        except OSError as error: print(error)
        print(len(Index.load(path)), len(index))"""
    said = children.run(code).stdout.splitlines()
    assert "i.sscq cannot be written" in said[0] and "make room" in said[0] and said[1] == "10 9010"
    assert [p.name for p in tmp_path.iterdir()] == ["i.sscq"]


def test_many_read_what_one_replaces(tmp_path):
    "Readers of a file on disk see the index that was there when they opened it"
    f, codebooks, codes = random_search(N=3000)
    first, path = Index(codebooks).add(codes[:2000]), tmp_path / "i.sscq"
    first.save(path)
    want, readers = first.search(f).ids, [Index.load(path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(lambda reader: [reader.search(f).ids for _ in range(10)], reader) for reader in readers]
        for n in range(2000, 3000, 250): Index(codebooks).add(codes[:n + 250]).save(path)
        assert all(torch.equal(ids, want) for some in found for ids in some.result())
    assert len(Index.load(path)) == 3000


def test_threads_share_one_index():
    f, codebooks, codes = random_search(N=3000)
    ids = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    for _ in range(10):
        index = Index(codebooks)
        for part, some in zip(ids.split(1000), codes.split(1000)): index.add(some, ids=part.tolist(), paths=[f"{i}.png" for i in part.tolist()])
        with ThreadPoolExecutor(4) as pool: found = list(pool.map(index.search, [f] * 8))
        for hits in found: assert torch.equal(hits.ids, found[0].ids) and hits.paths == [[f"{i}.png" for i in row] for row in hits.ids.tolist()]


def test_one_thread_adds_and_removes_while_others_search():
    f, codebooks, codes = random_search(N=1500)
    ids = torch.randperm(1500, generator=torch.Generator().manual_seed(0)).tolist()
    exact, row = adc(distance_table(f, codebooks), codes), {id: i for i, id in enumerate(ids)}
    def some(a, b): return dict(f=codes[a:b], ids=ids[a:b], paths=[f"{i}.png" for i in ids[a:b]])
    index, interval = Index(codebooks).add(**some(0, 100)), sys.getswitchinterval()
    def change():
        for a in range(100, 1500, 10):
            index.add(**some(a, a + 10))
            if a % 100 == 0: index.remove(ids[a:a + 1])
    sys.setswitchinterval(1e-5)  # seconds: threads take turns all the time
    try:
        with ThreadPoolExecutor(4) as pool:
            changed, found = pool.submit(change), []
            while not changed.done(): found += pool.map(index.search, [f] * 3)
            changed.result()
    finally: sys.setswitchinterval(interval)
    for hits in found:
        assert hits.paths == [[f"{i}.png" for i in own] for own in hits.ids.tolist()]
        assert torch.equal(hits.distances, exact.gather(1, torch.tensor([[row[i] for i in own] for own in hits.ids.tolist()])))
    assert len(index) == 1500 - 14


def test_nothing_is_added_while_items_are_removed_and_searches_do_not_wait(monkeypatch):
    import sscq.index
    f, index = make_index(300)
    codes, looks, take_out = index.codes, [], sscq.index.removed
    with ThreadPoolExecutor(1) as pool:
        def slow(*args):
            index.search(f)
            looks.append(pool.submit(index.add, codes)); wait(looks, timeout=.3)  # cannot be done before this is
            assert pool.submit(lambda: 0).done() is False and len(index) == 300
            return take_out(*args)
        monkeypatch.setattr(sscq.index, "removed", slow)
        index.remove([5])
        looks[0].result()
    assert len(index) == 300 - 1 + 300


ODD = r"""
import numpy as np, torch
from sscq.index import Index
from sscq.search import distance_table, nearest, nearest_by_table, ranked, train_opq, train_pq
from sscq.kernels import to_keys
g = torch.Generator().manual_seed(0)
f, books, codes = torch.randn(3, 4, generator=g), torch.randn(2, 4, 2, generator=g), torch.randint(4, (9, 2), generator=g, dtype=torch.uint8)
x, new = torch.randn(99, 4, generator=g), lambda **k: Index(books, **k).add(codes)
cx, nan = torch.complex(f, f), float("nan")
good = [
    lambda: new().search(f, np.int64(3)), lambda: nearest(f, books.double(), codes, np.int32(2)),
    lambda: nearest(f.half(), books, codes, 2),
    lambda: Index(books.numpy()), lambda: new().add(codes.numpy()), lambda: new().to_ivf(np.int64(2), np.int64(1), np.int64(5)),
    lambda: new().to_ivf(seed=2 ** 31), lambda: train_pq(x, np.int64(2), np.int64(4), np.int64(1)),
    lambda: nearest(f.double(), books.bfloat16(), codes, 1),
    lambda: new().search(f.numpy()), lambda: new().search(f, 9, distance=None).ids[np.int64(1)], lambda: new().explain(f[0], np.int64(1))]
bad = [
    lambda: Index(None), lambda: Index("x"), lambda: Index(books.long()), lambda: Index(torch.complex(books, books)), lambda: Index([[1.]]),
    lambda: Index(books, embed=5), lambda: Index(books, name=5), lambda: Index(books, distance=[]), lambda: Index(books, distance=None),
    lambda: new().add(None), lambda: new().add("x"), lambda: new().add([[1, 2]]), lambda: new().add(torch.complex(f, f)),
    lambda: new().add(f > 0),
    lambda: new().add(codes, paths="abcdefghi"), lambda: new().add(codes, paths=5), lambda: new().add(codes, paths=[1] * 9),
    lambda: new().add(codes, ids="x"),
    lambda: new().add(codes, ids=[None] * 9), lambda: new().merge(None), lambda: new().merge(books), lambda: new().remove("x"),
    lambda: new().remove(None),
    lambda: new().search(f, "x"), lambda: new().search(f, True), lambda: new().search(f, 2.5), lambda: new().search(f, None),
    lambda: new().search(f, nan),
    lambda: new().search(f, 2 ** 70), lambda: new().search(f, distance=[]), lambda: new().search(f, distance=""),
    lambda: new().search(f, distance=5),
    lambda: new().search(None), lambda: new().search(5), lambda: new().search(cx), lambda: new().search(f > 0),
    lambda: new().search([1., 2.]),
    lambda: new(embed=lambda asked: None).search("a"), lambda: new(embed=lambda asked: "x").search("a"),
    lambda: new(embed=lambda asked: f[:0]).search("a"),
    lambda: new().explain(f[0], "0"), lambda: new().explain(f[0], [0, 1]), lambda: new().explain(f[0], None),
    lambda: new().explain(f[0], True),
    lambda: new().to_ivf("x"), lambda: new().to_ivf(True), lambda: new().to_ivf(2.), lambda: new().to_ivf(0),
    lambda: new().to_ivf(10), lambda: new().to_ivf(2, 3),
    lambda: new().to_ivf(2, "x"), lambda: new().to_ivf(seed="s"), lambda: new().to_ivf(seed=-1), lambda: new().to_ivf(seed=2 ** 63),
    lambda: new().to_ivf(seed=None),
    lambda: new().to_ivf().search(f, "x"), lambda: new().to_ivf().search(f, distance=[]),
    lambda: new().save(5), lambda: new().save(None), lambda: new().save("a\0.sscq"), lambda: Index.load(None), lambda: Index.load(5),
    lambda: Index.load("a\0b"),
    lambda: nearest(f, books, codes, "x"), lambda: nearest(f, books, codes, True), lambda: nearest(f, books, None, 1),
    lambda: nearest(None, books, codes, 1),
    lambda: nearest(f, None, codes, 1), lambda: nearest(cx, books, codes, 1), lambda: nearest(f, torch.complex(books, books), codes, 1),
    lambda: nearest(f, books, codes, 1, squared="no"), lambda: list(ranked(f, books, codes, 1, chunk=0)),
    lambda: list(ranked(f, books, codes, 1, chunk="x")),
    lambda: nearest_by_table(distance_table(f, books), codes, 0), lambda: distance_table(f.long(), books),
    lambda: distance_table(f, books[0]),
    lambda: train_pq(x, True), lambda: train_pq(x, "x"), lambda: train_pq(x, 2., 4), lambda: train_pq(x, 2, None),
    lambda: train_pq(x, 2, 4, "s"),
    lambda: train_pq(x, 2, 4, None), lambda: train_pq(x, 2, 4, 2 ** 70), lambda: train_pq(None, 2), lambda: train_pq(x.long(), 2),
    lambda: train_pq(torch.complex(x, x), 2),
    lambda: train_pq(x[:, :0], 1), lambda: train_opq(x, "x"), lambda: train_opq(x, 2, 4, "s"), lambda: train_opq(x[:3], 2, 2),
    lambda: to_keys(x.double(), torch.arange(4))]
for i, call in enumerate(good): call()
for i, call in enumerate(bad):
    try: print("accepted", i, call())
    except (TypeError, ValueError) as error:
        if not 8 < len(str(error)) < 400 or "\n" in str(error): print("unclear", i, error)
    except Exception as error: print("wrong kind", i, repr(error))
"""


def test_odd_settings_are_refused_in_one_line():
    "In a process of its own: here the annotations are checked before the settings are"
    done = children.run(ODD)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


def test_a_kill_during_save_leaves_the_old_file_whole(tmp_path):
    done = children.run(KILLS, tmp_path / "i.sscq")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 0, "no kill fell into a save"


# inverted files

@pytest.mark.parametrize("M, K", [(8, 16), (4, 4), (3, 256)])
@pytest.mark.parametrize("distance", ["squared", "unsquared"])
def test_ivf_that_visits_all_cells_is_exact(M, K, distance):
    f, codebooks, codes = random_search(M, K, N=1500, Q=30)
    index = Index(codebooks).add(codes).remove([0, 10])
    ivf = index.to_ivf(n_lists=20, n_probe=20)
    for k in (1, 10, 400):
        exact, hits = index.search(f, k, distance), ivf.search(f, k, distance)
        assert torch.equal(hits.distances, exact.distances) and torch.equal(hits.ids, exact.ids)
    exact = index.search(f, 10, distance)
    shares = []
    for ivf.n_probe in (1, 5, 20): shares.append((ivf.search(f, 10, distance).ids[:, :, None] == exact.ids[:, None]).any(2).float().mean())
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize("distinct", [1, 3, 200])
def test_ivf_orders_ties_by_id(distinct):
    "With more ties than candidates, all that the cells hold is looked at"
    f, codebooks, codes = tied(6000, distinct=distinct)
    index = Index(codebooks).add(codes)
    exact, hits = index.search(f, 10), index.to_ivf(8, 8).search(f, 10)
    assert torch.equal(hits.ids, exact.ids) and torch.equal(hits.distances, exact.distances)


@pytest.mark.parametrize("M, K", [(8, 16), (3, 256)])
@pytest.mark.parametrize("spoil", [lambda c: c, lambda c: c[0, 0].fill_(100.), lambda c: c[1:].fill_(0.)])
def test_ivf_is_exact_among_the_cells_it_visits(M, K, spoil):
    f, codebooks, codes = random_search(M, K, N=4000, Q=20)
    spoil(codebooks)
    ivf = Index(codebooks).add(codes).to_ivf(16, 3)
    hits, table = ivf.search(f, 10), distance_table(f, codebooks)
    _, cells = ivf.cells.search(f.numpy(), 3)
    for q in range(20):
        (part,), = ivf._parts.values()
        rows = torch.from_numpy(part.visited(cells[q]))
        d, place = nearest_by_table(table[q:q + 1], codes[rows], min(10, len(rows)))
        assert torch.equal(hits.ids[q, :len(rows)], rows[place[0]]) and torch.equal(hits.distances[q, :len(rows)], d[0])


def test_ivf_says_what_it_lacks():
    f, index = make_index(700)
    ivf = index.to_ivf(n_lists=100, n_probe=1)
    index.remove(range(100))
    hits = ivf.search(f, 60)
    assert "100 cells, 1 visited" in repr(ivf) and not ((hits.ids >= 0) & (hits.ids < 100)).any()
    assert ((hits.ids == -1) == hits.distances.isinf()).all() and (hits.ids[:, -1] == -1).all() and (hits.ids[:, 0] >= 0).all()
    with pytest.raises(ValueError, match="n_lists=9999 must be at most 600"): index.to_ivf(n_lists=9999)


# elsewhere

@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nearest_on_a_gpu_equals_nearest_here():
    f, codebooks, codes = tied(5000, M=8)
    for squared in (True, False):
        there = nearest(f.cuda(), codebooks.cuda(), codes.cuda(), 100, squared)
        here = nearest(f, codebooks, codes, 100, squared)
        torch.testing.assert_close(there[0].cpu(), here[0])
        assert (there[1].cpu() == here[1]).float().mean() > .99
        assert there[1].is_cuda


def test_importing_search_does_not_import_faiss_or_plotly():
    code = "import sys, sscq.search; print([m for m in ('faiss', 'plotly', 'PIL.Image') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_no_warnings_for_few_vectors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train_pq(torch.randn(16, 4), 2).shape == (2, 16, 2)
        assert n_bits(16) == 4


@pytest.mark.parametrize("query", [torch.rand(3, 8, 8), torch.rand(2, 3, 8, 8), torch.zeros(2, 5, dtype=torch.uint8),
                                   np.zeros((3, 8, 8), np.float32)], ids=lambda x: f"{type(x).__name__} {x.ndim}")
def test_what_is_no_vector_is_looked_at(query):
    "Floating point of three dimensions is an image, and so is anything of bytes; vectors are taken as they are"
    f, codebooks, codes = random_search(Q=1)
    asked = []
    def embed(images):
        asked.append(images)
        return f
    index = Index(codebooks, embed=embed).add(codes)
    assert torch.equal(index.search(query).ids, index.search(f).ids)
    assert len(asked) == 1
