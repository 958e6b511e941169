"Scores against loops, permutations and the reference files; bad input."
import itertools
import platform
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from notebook_functions import from_notebook

from sscq.codebook import hard_assign
from sscq.data import ImageSet, RetrievalData, data_resized, digits
from sscq.evaluate import (
    DISTANCES, Curve, Score, average_precision, average_precision_min, bootstrap, check_retrieval, pr_codes, pr_curve, precision_at, recall,
    refined_distances, relevance, score_codes, score_each, score_queries, score_refined, score_table, shortlist, tie_averaged_precision, tie_groups)
from sscq.baselines import (
    Vectors, baseline_scores, baselines, code_pq, pca, pixels, pretrained, score_coded, score_pq, untrained, vectors, weights_at_hand)
from sscq.index import Index
from sscq.report import pr_figure, score_figure
from sscq.search import adc, distance_table, train_pq

few = settings(max_examples=60, deadline=None)
HITS = st.lists(st.booleans(), min_size=1, max_size=6)


def ap_loop(hits: list, divisor: int | None = None) -> float:
    found, total = 0, 0.
    for i, hit in enumerate(hits, 1):
        if hit: found += 1; total += found / i
    return total / (divisor or found or 1)


def planted(Q=40, N=300, M=2, K=16, d=4, classes=5, seed=0, **kwargs):
    "Queries and codes around class centres: query_f, query_labels, codes, db_labels, codebooks"
    g = torch.Generator().manual_seed(seed)
    codebooks = torch.randn(M, K, d, generator=g)
    query_labels, db_labels = (torch.randint(classes, (n,), generator=g) for n in (Q, N))
    centres = torch.randn(classes, M * d, generator=g)
    query_f, db_f = (centres[y] + torch.randn(len(y), M * d, generator=g) for y in (query_labels, db_labels))
    return query_f, query_labels, hard_assign(db_f, codebooks), db_labels, codebooks


# Relevance

def test_relevance_of_classes_and_of_label_sets():
    assert relevance(torch.tensor([0, 2]), torch.tensor([2, 0, 2])).tolist() == [[False, True, False], [True, False, True]]
    q, db = torch.randint(2, (7, 5)), torch.randint(2, (9, 5))
    expected = [[bool(set(a.nonzero().flatten().tolist()) & set(b.nonzero().flatten().tolist())) for b in db] for a in q]
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.float32): assert relevance(q.to(dtype), db.to(dtype)).tolist() == expected


@pytest.mark.parametrize("q, db, message", [
    (torch.zeros(3), torch.zeros(4, 2), "give classes"), (torch.zeros(3, 2, 1), torch.zeros(4, 2, 1), r"must be classes \(N,\)"),
    (torch.zeros(3, 5), torch.zeros(4, 6), "numbers of labels differ")])
def test_relevance_refuses_labels_that_do_not_match(q, db, message):
    with pytest.raises(ValueError, match=message): relevance(q, db)


NO_LABELS = [  # labels, what is said of them
    (torch.tensor([[0], [1], [1]]), r"of shape \(3, 1\).*labels.flatten\(\)"), (torch.zeros(3, 0), r"\(N, L\)"), (torch.tensor(3), r"\(N, L\)"),
    (torch.tensor([0, -1, 2]), "hold -1.*leave such items out"), (torch.tensor([0., .5, 1.]), "hold 0.5"), (torch.tensor([0., float("nan"), 1.]), "hold nan"),
    (torch.tensor([0., float("inf"), 1.]), "hold inf.*below"), (torch.tensor([True, False, True]), r"mask.*labels.long\(\)"),
    (torch.tensor([[0, 2], [1, 0], [0, 1]]), "hold 2.*zeros and ones"), (torch.tensor([[0., float("nan")]] * 3), "hold nan.*zeros and ones"),
    (torch.zeros(3, dtype=torch.complex64), "whole numbers"), (["cat", "dog", "cat"], "number the classes"), (None, "number the classes"),
    ([[0, 1], [1]], "number the classes"), (np.array(["a", "b", "c"]), "number the classes")]


@pytest.mark.parametrize("labels, message", NO_LABELS, ids=range(len(NO_LABELS)))
def test_what_labels_cannot_be_is_named_by_every_scorer(labels, message):
    f, codes, books = torch.rand(3, 4), torch.zeros(3, 2, dtype=torch.uint8), torch.rand(2, 4, 2)
    good = torch.ones(3, 2) if getattr(labels, "ndim", 1) == 2 else torch.tensor([0, 1, 1])
    for score in (score_each, score_codes, pr_codes):
        for query, database, name in ((labels, good, "queries"), (good, labels, "database items")):
            with pytest.raises((TypeError, ValueError), match=f"labels of {name}.*{message}") as error: score(f, query, codes, database, books)
            assert "\n" not in str(error.value)
    if isinstance(labels, torch.Tensor):
        with pytest.raises((TypeError, ValueError), match=message): relevance(labels, good)


def test_labels_may_be_arrays_and_lists():
    query_f, query_labels, codes, db_labels, codebooks = planted()
    score = score_codes(query_f, query_labels, codes, db_labels, codebooks, 50)
    for kind in (lambda x: x.numpy(), lambda x: x.tolist(), lambda x: x.double(), lambda x: x.to(torch.uint8), lambda x: x.to(torch.int32)):
        assert score_codes(query_f, kind(query_labels), codes, kind(db_labels), codebooks, 50) == score
    hot = [torch.nn.functional.one_hot(x, int(db_labels.max()) + 1) for x in (query_labels, db_labels)]
    for kind in (lambda x: x.numpy(), lambda x: x.bool(), lambda x: x.half()):
        assert score_codes(query_f, kind(hot[0]), codes, kind(hot[1]), codebooks, 50) == score


@pytest.mark.parametrize("call, message", [
    (lambda: average_precision(torch.ones(2, 3)), "True and False"),
    (lambda: average_precision(torch.ones(3, dtype=torch.bool)), r"must be \(Q, k\)"),
    (lambda: precision_at(torch.ones(2, 0, dtype=torch.bool)), "k at least 1"),
    (lambda: tie_averaged_precision(torch.tensor([[2., 1.]]), torch.ones(1, 2, dtype=torch.bool), 1), "nearest first"),
    (lambda: tie_averaged_precision(torch.tensor([[1., 2.]]), torch.ones(1, 2, dtype=torch.bool), 0), "topk=0"),
    (lambda: tie_averaged_precision(torch.tensor([[1.]]), torch.ones(1, 2, dtype=torch.bool), 1), "one shape"),
    (lambda: shortlist(torch.zeros(2, 0), 1), "nothing to rank"), (lambda: shortlist(torch.zeros(3), 1), "N"),
    (lambda: shortlist(torch.zeros(1, 3), 0), "topk=0"),
    (lambda: shortlist(torch.zeros(1, 3), True), "must be an int"),
    (lambda: score_queries(torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool), 1), "one shape"),
    (lambda: bootstrap(torch.rand(3), level=1), "level"),
    (lambda: bootstrap(torch.rand(3), resamples=0), "resamples"), (lambda: bootstrap(torch.rand(3), seed=-1), "seed"),
    (lambda: bootstrap(torch.tensor([float("nan")])), "NaN"), (lambda: recall(torch.rand(1, 2), torch.ones(1, 2)), "whole numbers"),
    (lambda: recall(torch.zeros(1, 2).long(), torch.zeros(2, 2).long()), "1 lists found and 2"),
    (lambda: pca(Vectors(*[torch.rand(5, 3)] * 3), 0), "dim=0"), (lambda: score_figure([]), "no scores"), (lambda: pr_figure({}), "no curves"),
    (lambda: pr_figure({"a": Curve(torch.ones(3), torch.ones(3))}, points=1), "points=1")])
def test_odd_arguments_are_named(call, message):
    with pytest.raises((TypeError, ValueError), match=message): call()


def test_the_axes_of_pca_are_those_of_all_vectors_at_once():
    x = torch.randn(9000, 5, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.tensor([5., 3., 2., 1., .5]))
    got = pca(Vectors(x, x, x), 3).train
    expected = (x - x.mean(0)) @ torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:3].T
    assert torch.allclose(got.abs(), expected.abs(), atol=1e-3)


# Average precision

@few
@given(HITS)
def test_average_precision_is_the_loop(hits):
    x = torch.tensor([hits])
    assert average_precision(x).item() == pytest.approx(ap_loop(hits), abs=1e-12)
    for R in range(sum(hits), 9):
        assert average_precision_min(x, torch.tensor([R])).item() == pytest.approx(ap_loop(hits, min(R, len(hits))), abs=1e-12)
    assert precision_at(x)[0].tolist() == pytest.approx([sum(hits[:i]) / i for i in range(1, len(hits) + 1)])


def test_the_notebooks_loop_agrees():
    loop, = from_notebook("11_evaluate", "average_precision_loop")
    hits = torch.rand(30, 25) < .3
    assert average_precision(hits).tolist() == pytest.approx([loop(row) for row in hits])


def test_perfect_worst_and_empty_rankings():
    k = 10
    assert average_precision(torch.ones(1, k, dtype=torch.bool)).item() == 1
    assert average_precision(torch.arange(k)[None] < 3).item() == 1
    assert average_precision(torch.zeros(1, k, dtype=torch.bool)).item() == 0
    last = torch.arange(k)[None] == k - 1
    assert average_precision(last).item() == pytest.approx(1 / k)
    every = torch.tensor([[i in c for i in range(8)] for c in itertools.combinations(range(8), 3)])
    ap = average_precision(every)
    assert ap.max() == ap[0] == 1 and ap.min() == ap[-1]  # combinations begin with the best and end with the worst


@few
@given(HITS.filter(lambda h: any(h)), st.data())
def test_moving_a_hit_forward_never_hurts(hits, data):
    worse = torch.tensor([hits])
    i = data.draw(st.sampled_from([i for i, hit in enumerate(hits) if hit]))
    j = data.draw(st.integers(0, i))
    better = worse.clone(); better[0, i] = worse[0, j]; better[0, j] = True
    assert average_precision(better) >= average_precision(worse) - 1e-12


# Ties

@few
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=7), st.integers(1, 8))
def test_tie_averaged_is_the_mean_over_all_permutations(items, k):
    items = sorted(items, key=lambda x: x[0])
    orders = {tuple(sorted(p, key=lambda i: items[i][0])) for p in itertools.permutations(range(len(items)))}
    # every order of the ties comes up equally often among the permutations, so a set does
    expected = np.mean([ap_loop([items[i][1] for i in order][:k]) for order in orders])
    d, hits = torch.tensor([[float(x) for x, _ in items]]), torch.tensor([[hit for _, hit in items]])
    assert tie_averaged_precision(d, hits, k).item() == pytest.approx(expected, abs=1e-12)


def test_tie_averaged_does_not_depend_on_the_order_within_ties():
    g = torch.Generator().manual_seed(0)
    d = torch.randint(6, (50, 200), generator=g).float().sort(1).values
    hits = torch.rand(50, 200, generator=g) < .2
    shuffled = (d + torch.rand(d.shape, generator=g) / 2).argsort(1)  # only items at equal distance change places
    for k in (1, 7, 50, 199, 200, 500):
        a, b = tie_averaged_precision(d, hits, k), tie_averaged_precision(d, hits.gather(1, shuffled), k)
        assert torch.allclose(a, b, atol=1e-12) and (a >= 0).all() and (a <= 1).all()


def test_tie_averaged_agrees_with_sampling_when_all_tie():
    hits = torch.arange(500)[None] < 60
    g = torch.Generator().manual_seed(0)
    sampled = average_precision(torch.stack([hits[0, torch.randperm(500, generator=g)[:40]] for _ in range(20000)]))
    exact = tie_averaged_precision(torch.zeros(1, 500), hits, 40).item()
    assert abs(sampled.mean().item() - exact) < 4 * sampled.std().item() / 20000 ** .5


def test_without_ties_all_policies_agree():
    g = torch.Generator().manual_seed(0)
    d = torch.rand(20, 100, generator=g).sort(1).values
    hits = torch.rand(20, 100, generator=g) < .3
    for k in (1, 10, 100): assert torch.allclose(tie_averaged_precision(d, hits, k), average_precision(hits[:, :k]), atol=1e-12)


def test_one_huge_tie_is_exact_and_finite():
    hits = torch.arange(50_000)[None] % 10 == 0
    ap = tie_averaged_precision(torch.zeros(1, 50_000), hits, 1000).item()
    assert .1 < ap < .11


def test_tie_groups():
    start, end = tie_groups(torch.tensor([[0., 1, 1, 1, 4], [2, 2, 2, 2, 2]]))
    assert start.tolist() == [[0, 1, 1, 1, 4], [0] * 5] and end.tolist() == [[1, 4, 4, 4, 5], [5] * 5]
    assert tie_groups(torch.zeros(2, 1))[1].tolist() == [[1], [1]]


# Ranking

@pytest.mark.parametrize("N, k", [(1, 1), (5, 5), (30, 7), (200, 1), (200, 199), (200, 1000)])
@pytest.mark.parametrize("levels", [1, 3, 10_000])
def test_shortlist_is_the_stable_sort_up_to_the_last_tie(N, k, levels):
    d = torch.randint(levels, (13, N), generator=torch.Generator().manual_seed(N)).float() / 7
    found = shortlist(d, k)
    near, ids = found.distances, found.ids
    whole = d.sort(dim=1, stable=True)
    for q in range(13):
        n = int((d[q] <= whole.values[q, min(k, N) - 1]).sum())
        assert torch.equal(near[q, :n], whole.values[q, :n]) and torch.equal(ids[q, :n], whole.indices[q, :n])
        assert (near[q, n:] == torch.inf).all() and (ids[q, n:] == -1).all()


def test_shortlist_takes_minus_zero_for_zero_and_refuses_what_cannot_be_ranked():
    assert shortlist(torch.tensor([[0., -0., 0.]]), 2).ids.tolist() == [[0, 1, 2]]
    for bad in (-1., float("nan")):
        with pytest.raises(ValueError, match="0 or more and not NaN"): shortlist(torch.tensor([[1., bad]]), 1)


@pytest.mark.parametrize("k", [1, 20, 300, 1000])
@pytest.mark.parametrize("multi_label", [False, True])
def test_score_queries_and_codes_are_the_sum_of_the_parts(k, multi_label):
    query_f, query_labels, codes, db_labels, codebooks = planted()
    if multi_label:
        g = torch.Generator().manual_seed(1)
        query_labels, db_labels = ((torch.rand(len(y), 6, generator=g) < .15).long() for y in (query_labels, db_labels))
        query_labels[0] = 0
    right = relevance(query_labels, db_labels)
    for distance in DISTANCES:
        d = adc(distance_table(query_f, codebooks, distance == "squared"), codes)
        order = d.sort(dim=1, stable=True)
        hits = right.gather(1, order.indices)
        per_query = score_queries(d, right, k)
        assert torch.allclose(per_query.ap, average_precision(hits[:, :k]))
        assert torch.allclose(per_query.ap_ties, tie_averaged_precision(order.values, hits, k))
        assert torch.allclose(per_query.ap_min, average_precision_min(hits[:, :k], right.sum(1)))
        assert torch.allclose(per_query.precision, hits[:, :k].double().mean(1))
        for a, b in zip(score_each(query_f, query_labels, codes, db_labels, codebooks, k, distance), per_query): assert torch.allclose(a, b)
        score = score_codes(query_f, query_labels, codes, db_labels, codebooks, k, distance)
        assert (score.map, score.map_ties, score.map_min, score.precision_at_k) == pytest.approx([x.mean().item() for x in per_query])
        assert score.low <= score.map <= score.high
        curve = pr_codes(query_f, query_labels, codes, db_labels, codebooks, distance)
        assert torch.allclose(torch.stack(curve), torch.stack(pr_curve(hits, right.sum(1))))


def test_chunks_and_threads_do_not_change_a_score():
    data = planted(Q=500, N=20_000)  # 2**22 // 20,000 = 209 queries a chunk
    before = torch.get_num_threads()
    scores = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            scores.append(score_codes(*data, 100))
            assert torch.get_num_threads() == n
    finally: torch.set_num_threads(before)
    assert scores[0] == scores[1] == scores[2]
    right = relevance(data[1], data[3])
    d = adc(distance_table(data[0], data[4], False), data[2])
    assert scores[0].map == pytest.approx(score_queries(d, right, 100).ap.mean().item(), abs=1e-12)


def test_row_numbers_break_ties_and_collapse_is_seen():
    "All codes alike and the database sorted by class: by row number class 0 is perfect, averaged it is chance"
    labels = torch.arange(500) // 100
    codebooks = torch.randn(2, 4, 3)
    args = torch.randn(10, 6), torch.zeros(10, dtype=torch.long), torch.zeros(500, 2, dtype=torch.uint8), labels, codebooks
    score = score_codes(*args, 100)
    assert score.map == 1 and .15 < score.map_ties < .3
    assert score_codes(*args[:3], labels.flip(0), codebooks, 100).map_ties == pytest.approx(score.map_ties, abs=1e-12)


def test_a_query_with_nothing_to_find_counts_zero_and_stays():
    query_f, query_labels, codes, db_labels, codebooks = planted()
    alone = query_labels.clone(); alone[:10] = 99
    some = score_codes(query_f[10:], alone[10:], codes, db_labels, codebooks, 50)
    score = score_codes(query_f, alone, codes, db_labels, codebooks, 50)
    for name in ("map", "map_ties", "map_min", "precision_at_k"):
        assert getattr(score, name) == pytest.approx(getattr(some, name) * 30 / 40)
    assert pr_codes(query_f[:1], alone[:1], codes, db_labels, codebooks).recall.max() == 0


def test_model_outputs_with_gradients_and_half_precision_are_welcome():
    query_f, query_labels, codes, db_labels, codebooks = planted()
    score = score_codes(query_f, query_labels, codes, db_labels, codebooks, 50)
    assert score == score_codes(query_f.requires_grad_(), query_labels, codes, db_labels, torch.nn.Parameter(codebooks), 50)
    assert score_codes(query_f.detach().double(), query_labels, codes, db_labels, codebooks.double(), 50).map == pytest.approx(score.map)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_score():
    data = planted()
    on_gpu = [x.cuda() for x in data]
    for args in (on_gpu, [*on_gpu[:1], *data[1:]]):  # all there, or the queries alone
        score, expected = score_codes(*args, 50), score_codes(*data, 50)
        assert (score.map, score.map_ties, score.map_min) == pytest.approx((expected.map, expected.map_ties, expected.map_min), abs=1e-4)
        assert torch.allclose(pr_codes(*args).recall, pr_codes(*data).recall, atol=1e-2)


def test_planted_clusters_are_found_perfectly():
    codebooks = torch.randn(4, 16, 8) * 10
    codes = torch.randint(16, (6, 4), dtype=torch.uint8)
    labels = torch.arange(6).repeat_interleave(5)
    f = codebooks[torch.arange(4), codes.long()].flatten(1)
    score = score_codes(f + .01 * torch.randn(6, 32), torch.arange(6), codes.repeat_interleave(5, 0), labels, codebooks, 5)
    assert score.map == score.map_ties == score.map_min == score.precision_at_k == 1 and score.low == score.high == 1


# Curves, recall, intervals

def test_pr_curve_ends():
    hits = torch.rand(9, 60) < .3
    curve = pr_curve(hits, hits.sum(1))
    assert curve.recall[-1] == pytest.approx(1) and (curve.recall.diff() >= 0).all()
    assert curve.precision[-1] == pytest.approx(hits.double().mean().item())


@few
@given(st.integers(1, 6), st.integers(0, 20))
def test_recall_is_the_overlap_of_sets(k, seed):
    g = torch.Generator().manual_seed(seed)
    found, exact = (torch.stack([torch.randperm(9, generator=g)[:k] for _ in range(5)]) for _ in range(2))
    assert recall(found, exact).tolist() == pytest.approx([len(set(a) & set(b)) / k for a, b in zip(found.tolist(), exact.tolist())])
    assert (recall(exact.flip(1), exact) == 1).all()
    missing = found.clone(); missing[:, 0] = -1
    short = exact.clone(); short[:, -1] = -1
    assert recall(missing, exact).tolist() == pytest.approx(
        [len((set(a) - {-1}) & set(b)) / k for a, b in zip(missing.tolist(), exact.tolist())])
    if k > 1: assert (recall(short, short) == 1).all()


def test_bootstrap():
    values = torch.rand(400, dtype=torch.double)
    low, high = bootstrap(values)
    error = 1.96 * values.std().item() / 20
    assert (low, high) == pytest.approx((values.mean().item() - error, values.mean().item() + error), abs=.15 * error)
    assert bootstrap(values) == (low, high) and bootstrap(values, seed=1) != (low, high)
    assert bootstrap(values, level=.5)[0] > low
    assert bootstrap(torch.full((5,), .25)) == (.25, .25) and bootstrap(torch.tensor([.3])) == pytest.approx((.3, .3))
    g = torch.Generator().manual_seed(0)
    covered = [low <= .5 <= high for low, high in (bootstrap(torch.rand(100, generator=g), 400) for _ in range(100))]
    assert .87 <= np.mean(covered) <= 1
    with pytest.raises(ValueError, match="between 0 and 1"): bootstrap(values, level=95)
    with pytest.raises(ValueError, match="nothing to resample"): bootstrap(torch.zeros(0))
    with pytest.raises(ValueError, match="resamples=0 must be at least 1"): bootstrap(values, resamples=0)


# The reference files

@pytest.fixture(params=["16", "32"])
def release(request):
    with np.load(f"tests/data/sscq_{request.param}bit.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name != "meta"}


def differences(release, hits):
    right = relevance(release["query_labels"], release["db_labels"])
    curve = pr_curve(hits, right.sum(1))
    for k in (10, 100, 400):
        yield f"map@{k}", average_precision(hits[:, :k]).mean() - release[f"map@{k}"]
        yield f"p_at_k/{k}", precision_at(hits[:, :k]).mean(0) - release[f"p_at_k/{k}"]
    yield "pr/precision", curve.precision - release["pr/precision"]
    yield "pr/recall", curve.recall - release["pr/recall"]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the release's ties are in the order of an unstable sort on x86")
def test_the_releases_numbers_in_the_releases_order(release):
    right = relevance(release["query_labels"], release["db_labels"])
    for name, difference in differences(release, right.gather(1, release["distances"].argsort(dim=1))):
        assert difference.abs().max() < 1e-6, name


def test_the_releases_numbers_lie_between_the_best_and_the_worst_order_of_ties(release):
    right = relevance(release["query_labels"], release["db_labels"])
    assert right.sum(1)[0] == 0
    order = release["distances"].sort(dim=1, stable=True)
    start, hits = tie_groups(order.values)[0], right.gather(1, order.indices)
    best, worst = (hits.gather(1, (start + sign * .4 * ~hits).argsort(dim=1, stable=True)) for sign in (1, -1))
    for (name, low), (_, high) in zip(differences(release, worst), differences(release, best)):
        if "map" not in name: assert low.max() < 1e-6 and high.min() > -1e-6, name
    for name, difference in differences(release, hits): assert difference.abs().max() < 2e-3, name


def test_codes_of_the_reference_give_its_map(release):
    books = release["codebooks"].unflatten(1, (-1, 16)).transpose(0, 1).contiguous()
    score = score_codes(release["query_f"], release["query_labels"], release["db_codes"], release["db_labels"], books, 400)
    assert score.map == pytest.approx(release["map@400"].item(), abs=1e-4)
    assert score.bits == release["db_codes"].shape[1] * 4


# What a score says

def test_a_score_says_its_protocol():
    score = score_codes(*planted(), 100, "squared", "PQ", "from scratch", "toy")
    line = str(score)
    assert "\n" not in line
    for part in ("mAP@100", "ties averaged", "÷min(R,k)", "P@100", "toy", "PQ", "8 bits", "backbone from scratch", "40 queries × 300 items",
                 "squared distances", "equal distances by row number", f"{score.map:.4f}", f"{score.low:.4f}", f"{score.high:.4f}"):
        assert part in line, part
    assert "not stated" in str(score_codes(*planted(), 100))
    assert score._repr_markdown_() == score_table([score])
    assert isinstance(asdict(score)["map"], float)  # JSON


def test_score_table_refuses_to_mix_protocols():
    a, b = score_codes(*planted(), 100), score_codes(*planted(), 50)
    assert score_table([a, replace(a, distance="squared")]).count("\n") == 5
    with pytest.raises(ValueError, match="2 protocols"): score_table([a, b])
    with pytest.raises(ValueError, match="0 protocols"): score_table([])


def test_figures():
    score = score_codes(*planted(), 100, method="PQ")
    scores = [score, replace(score, bits=16), replace(score, method="other")]
    fig = score_figure(scores)
    assert [line.name for line in fig.data] == ["PQ, not stated", "other, not stated"] and list(fig.data[0].x) == [8, 16]
    assert score_figure([score, replace(score, distance="squared")]).data[1].name.endswith("squared")
    fig = pr_figure({"a": Curve(torch.linspace(1, .1, 5000), torch.linspace(0, 1, 5000)), "b": Curve(torch.ones(1), torch.ones(1))})
    for axis in (fig.layout.xaxis, fig.layout.yaxis): assert axis.range[0] == 0 and 1 < axis.range[1] < 1.1  # all of both curves is seen
    assert len(fig.data[0].x) <= 60 and fig.data[0].x[-1] == 1 and len(fig.data[1].x) == 1


@pytest.mark.parametrize("change, error, message", [
    (dict(distance="cosine"), ValueError, "squared"),
    (dict(topk=0), ValueError, "topk=0 must be at least 1"),
    (dict(query_f=torch.full((40, 8), 1e20)), ValueError, "too large for float32"),
    (dict(query_labels=torch.full((40, 3), -1), db_labels=torch.ones(300, 3)), ValueError, "labels of queries hold -1.*zeros and ones"),
    (dict(query_labels=torch.ones(40, 3), db_labels=torch.full((300, 3), .5)), ValueError, "labels of database items hold 0.5.*zeros and ones"),
    (dict(query_f=torch.zeros(40, 9)), ValueError, r"must be \(Q, 8\)"),
    (dict(query_f=torch.zeros(40)), ValueError, r"must be \(Q, D\)"),
    (dict(query_f=torch.full((40, 8), float("nan"))), ValueError, "query_f: NaN"),
    (dict(query_f=torch.zeros(0, 8), query_labels=torch.zeros(0)), ValueError, "no queries"),
    (dict(query_labels=torch.zeros(39)), ValueError, "40 queries have 39 labels"),
    (dict(db_labels=torch.zeros(301)), ValueError, "300 database items have 301 labels"),
    (dict(db_labels=torch.zeros(300, 3)), ValueError, "give classes"),
    (dict(db_codes=torch.zeros(300, 2)), TypeError, "must be torch.uint8"),
    (dict(db_codes=torch.zeros(300, 3, dtype=torch.uint8)), ValueError, r"must be \(N, 2\)"),
    (dict(db_codes=torch.full((300, 2), 16, dtype=torch.uint8)), ValueError, "name codeword 16; the codebooks have 16"),
    (dict(db_codes=torch.zeros(0, 2, dtype=torch.uint8), db_labels=torch.zeros(0)), ValueError, "no database items"),
    (dict(codebooks=torch.zeros(32, 4)), ValueError, r"must be \(M, K, d\)"),
    (dict(codebooks=torch.full((2, 16, 4), float("inf"))), ValueError, "codebooks: NaN or infinite"),
])
def test_bad_input_is_named(change, error, message):
    names = ("query_f", "query_labels", "db_codes", "db_labels", "codebooks")
    args = dict(zip(names, planted())) | change
    threads = torch.get_num_threads()
    with pytest.raises(error, match=message): score_codes(**args)
    assert torch.get_num_threads() == threads
    if message not in ("give classes", "too large for float32"):
        with pytest.raises(error, match=message): check_retrieval(**{"topk": 10, "distance": "squared"} | args)


@pytest.mark.parametrize("bits, message", [
    (30, "bits=30 must be a positive multiple of .*=4; the next are 28 and 32"), (3, "the next are 4"), (0, "at least 1")])
def test_bits_of_a_baseline(bits, message):
    x = torch.zeros(20, 8)
    with pytest.raises(ValueError, match=message): code_pq(Vectors(x, x, x), bits)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", ["train", "database", "query"])
def test_vectors_that_no_codeword_is_near_are_refused(part, bad):
    "The nearest codeword of NaN is number 0, and its score a number"
    x = torch.randn(40, 8)
    v = Vectors(x, x, x)._replace(**{part: x.clone().index_fill_(0, torch.tensor([3]), bad)})
    with pytest.raises(ValueError, match=f"{part}.*(NaN|infinite)"): code_pq(v, 8)


def test_a_bar_in_a_name_does_not_break_the_table():
    score = score_codes(*planted(), method="a|b\nc")
    head, _, row, *_ = score_table([score]).splitlines()
    assert row.count("|") == head.count("|") and row.startswith(r"| a¦b\nc |")


def test_a_byte_names_256_codewords():  # 256 does not fit a byte, the largest code, 255, does
    query_f, query_labels, _, db_labels, _ = planted()
    codes = torch.full((300, 2), 255, dtype=torch.uint8)
    assert score_codes(query_f, query_labels, codes, db_labels, torch.zeros(2, 256, 4)).bits == 16


# Baselines

def test_baselines_of_digits():
    baselines = baseline_scores(digits(), 16)
    assert [(s.method, s.backbone, s.bits) for s in baselines] == [
        ("PQ", "raw pixels", 16), ("OPQ", "raw pixels", 16), ("PCA + PQ", "raw pixels", 16), ("PQ", "untrained tiny_cnn", 16)]
    assert baselines[0].map == pytest.approx(.67, abs=.01)
    protocol = 1000, "digits", 300, 1497, "unsquared"
    for s in baselines: assert (s.topk, s.data, s.n_queries, s.n_database, s.distance) == protocol and s.map > .5
    assert score_table(baselines).count("\n") == 7


def noise(N=60, Q=30, side=12):
    g = torch.Generator().manual_seed(0)
    images, labels = torch.randint(256, (N + Q, 3, side, side), dtype=torch.uint8, generator=g), torch.randint(2, (N + Q, 4), generator=g)
    return RetrievalData("noise", images[:N], ImageSet(images[:N], labels[:N]), ImageSet(images[N:], labels[N:]), 20)


def test_baselines_of_a_small_multi_label_colour_set_with_pretrained_features():
    data, random = noise(), torch.randn(60, 10)
    scores = baseline_scores(data, [4, 12], distance="squared", pretrained={"pretrained noise": Vectors(random, random, random[:30])})
    # more dimensions (432) than images: the rotation is learned in fewer
    assert [(s.method, s.backbone, s.bits) for s in scores][1::3] == [
        ("PCA to 57 + OPQ", "raw pixels", 4), ("PQ", "pretrained noise", 4), ("PCA + PQ", "raw pixels", 12)]
    assert all(s.distance == "squared" and 0 < s.map <= 1 for s in scores)


def test_pixels_of_large_images_are_averaged_down():
    data = noise(side=40)
    raw = vectors(data, pixels)
    assert raw.train.shape == (60, 3 * 32 * 32) and raw.database is raw.train  # the same images are not read twice
    other = vectors(data._replace(train=data.train[:50]), pixels)
    assert torch.equal(other.train, raw.train[:50]) and torch.equal(other.database, raw.database)


def test_padding_keeps_distances_and_pca_keeps_variance():
    data = digits()
    raw = vectors(data, pixels)
    axes = pca(raw, 64)
    assert torch.allclose(torch.cdist(axes.query, axes.database), torch.cdist(raw.query, raw.database), atol=1e-4)
    variance = axes.train.var(0)
    assert (variance.diff() <= 1e-5).all() and variance.sum() == pytest.approx(raw.train.var(0).sum().item(), rel=1e-4)
    assert score_pq(raw, data, 12, "PQ", "raw pixels").bits == 12  # 64 dimensions, 3 parts
    with pytest.raises(ValueError, match="positive multiple of log2"): score_pq(raw, data, 10, "PQ", "raw pixels")


def test_an_untrained_network_is_seeded_and_leaves_the_generator_alone():
    images = torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8)
    data = RetrievalData("few", images, ImageSet(images, torch.arange(12)), ImageSet(images[:3], torch.arange(3)), 5)
    torch.manual_seed(5)
    a = untrained(data)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert torch.equal(a.train, untrained(data).train) and not torch.equal(a.train, untrained(data, seed=1).train)
    assert not a.train.requires_grad and a.query.shape == (3, 512)


def test_pretrained_weights_are_used_where_they_lie_and_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    import urllib.request
    from torchvision.models import resnet18
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("something was fetched"))
    assert weights_at_hand() == {}
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    network = resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    assert weights_at_hand() == {"resnet18": "IMAGENET1K_V1"}
    images = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
    data = RetrievalData("few", images, ImageSet(images, torch.arange(6)), ImageSet(images[:2], torch.arange(2)), 5)
    v = pretrained(data, "resnet18", "IMAGENET1K_V1", side=32)
    assert v.train.shape == (6, 512) and v.query.shape == (2, 512) and torch.isfinite(v.train).all()
    network.fc = torch.nn.Identity()
    x = torch.nn.functional.interpolate(images[:2].float().expand(-1, 3, -1, -1) / 255, (32, 32), mode="bilinear", antialias=True)
    mean, std = torch.tensor([.485, .456, .406]).view(3, 1, 1), torch.tensor([.229, .224, .225]).view(3, 1, 1)
    with torch.no_grad(): torch.testing.assert_close(v.query, network.eval()((x - mean) / std), rtol=1e-4, atol=1e-4)


def test_baselines_are_what_their_scores_say():
    data = digits()
    tried = list(baselines(data, [8], seen=data_resized(data, 3, 8)))
    assert [(method, origin) for method, origin, _ in tried] == [
        ("PQ", "raw pixels"), ("OPQ", "raw pixels"), ("PCA + PQ", "raw pixels"), ("PQ", "untrained tiny_cnn")]
    raw = vectors(data, pixels)
    for a, b in zip(*(vars(coded).values() for coded in (tried[0][2], code_pq(raw, 8)))): assert torch.equal(a, b)
    assert score_coded(tried[0][2], data, "PQ", "raw pixels") == score_pq(raw, data, 8, "PQ", "raw pixels")
    assert all(coded.codes.shape == (1497, 2) and coded.codebooks.shape[:2] == (2, 16) for *_, coded in tried)


def test_score_is_made_of_numbers_and_words():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = score_codes(*planted(), 10)
    assert isinstance(score, Score) and all(isinstance(x, (int, float, str)) for x in asdict(score).values())


def test_pq_of_pixels_is_better_than_chance_in_every_class():
    data = digits()
    database, query = (x.images.flatten(1).float() / 255 for x in (data.database, data.query))
    books = train_pq(database, 4)
    d = adc(distance_table(query, books), hard_assign(database, books))
    ap = score_queries(d, relevance(data.query.labels, data.database.labels), 1000).ap
    assert all(ap[data.query.labels == c].mean() > .3 for c in range(10))


def test_refined_scores_are_those_of_a_refined_search():
    "A row of its own, and the order that an index gives: candidates by embeddings, the others after them by codes"
    f, labels = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4
    books = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1))
    query, codes = f[:20] + .1, hard_assign(f, books)
    index = Index(books, keep="half").add(f)
    score = score_refined(query, labels[:20], codes, labels, books, f, 30, 10, "squared", method="sscq")
    ids = index.search(query, k=10, refine=30).ids
    hits = labels[ids] == labels[:20, None]
    assert score.method == "sscq, refined 30" and score.precision_at_k == pytest.approx(hits.double().mean().item(), abs=.01)
    plain = score_codes(query, labels[:20], codes, labels, books, 10, "squared")
    assert score_refined(query, labels[:20], codes, labels, books, f, 1, 10, "squared").map == pytest.approx(plain.map)
    distances = adc(distance_table(query, books, squared=True), codes)
    ranked = refined_distances(distances, query, f, 30).argsort(dim=1, stable=True)
    assert torch.equal(ranked[:, 30:], distances.argsort(dim=1, stable=True)[:, 30:])
    with pytest.raises(ValueError, match="an embedding for each code"): score_refined(query, labels[:20], codes, labels, books, f[1:])
    with pytest.raises(ValueError, match="refine"): score_refined(query, labels[:20], codes, labels, books, f, 0)
