"The index against a model of it: a dict, changed by one thread and searched by looking at everything."
import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import children
import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from sscq import segments
from sscq.fastscan import PackedCodes, search_together, to_held
from sscq.index import Index
from sscq.ivf import IVFIndex
from sscq.search import adc, distance_table, nearest
from sscq.segments import Texts


def random_search(M=4, K=16, d=3, N=50, Q=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(Q, M * d, generator=g), torch.randn(M, K, d, generator=g), torch.randint(K, (N, M), generator=g, dtype=torch.uint8)


def looked_up(f, codebooks, held: dict, k: int, squared=True):  # ids and distances, by (distance, id)
    ids = sorted(held)
    if not ids: return [], []
    codes = torch.stack([held[i] for i in ids])
    d = adc(distance_table(f[None], codebooks, squared), codes)[0].tolist()
    best = sorted(zip(d, ids))[:k]
    return [i for _, i in best], [x for x, _ in best]


class Model:
    "What an index holds, as a dict of codes by id"
    def __init__(self): self.held, self.next, self.given = {}, 0, False

    def add(self, codes, ids=None):
        if ids is None: ids = list(range(self.next, self.next + len(codes)))
        else: self.given = self.given or len(codes) > 0
        self.held.update(zip(ids, codes))
        self.next = max(self.next, max(ids, default=-1) + 1)


def agree(index, model, f, k=7):
    assert len(index) == len(model.held) and index.ids.tolist() == sorted(model.held)
    if not model.held: return
    assert torch.equal(index.codes, torch.stack([model.held[i] for i in sorted(model.held)]))
    if index.paths is not None: assert index.paths == [f"{i}.png" for i in sorted(model.held)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for distance in ("squared", "unsquared"):
            hits = index.search(f, k, distance)
            for q in range(len(f)):
                ids, d = looked_up(f[q], index.codebooks, model.held, k, distance == "squared")
                assert hits.ids[q].tolist() == ids and hits.distances[q].tolist() == d


@pytest.fixture
def small(monkeypatch):
    "Segments of 64 items, and ties looked for from 32 on: what happens to millions happens to hundreds"
    monkeypatch.setattr(segments, "LARGEST", 64)
    monkeypatch.setattr(segments, "_FEW", 32)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), M=st.sampled_from([1, 3, 4]), K=st.sampled_from([2, 16, 256]), distinct=st.sampled_from([2, 10 ** 6]),
       few=st.booleans())
def test_an_index_agrees_with_its_model(tmp_path_factory, data, M, K, distinct, few):
    f, codebooks, codes = random_search(M, K, N=2000, Q=3)
    codes = codes[torch.randint(min(distinct, 2000), (2000,), generator=torch.Generator().manual_seed(1))]
    index, model, file, start = Index(codebooks), Model(), tmp_path_factory.mktemp("i") / "i.sscq", 0
    with pytest.MonkeyPatch.context() as patched:
        if few:
            patched.setattr(segments, "LARGEST", 64)
            patched.setattr(segments, "_FEW", 32)
        for _ in range(data.draw(st.integers(1, 12))):
            what = data.draw(st.sampled_from(["add", "add", "ids", "remove", "save", "compact", "merge", "search"]))
            n = data.draw(st.sampled_from([1, 5, 31, 32, 33, 130]))
            some, start = codes[start:start + n], (start + n) % 1800
            n = len(some)
            if what == "add":
                new = range(model.next, model.next + n)
                index.add(some, paths=[f"{i}.png" for i in new])
                model.add(some)
            elif what == "ids":
                free = [i for i in range(0, 3 * (model.next + n)) if i not in model.held]
                ids = data.draw(st.permutations(free[:3 * n]))[:n]
                index.add(some, ids=ids, paths=[f"{i}.png" for i in ids])
                model.add(some, ids)
            elif what == "remove" and model.held:
                gone = sorted(model.held)[data.draw(st.integers(0, 3))::data.draw(st.sampled_from([1, 2, 3, 50]))]
                index.remove(gone)
                for i in gone: del model.held[i]
            elif what == "save":
                index = Index.load(index.save(file), mmap=data.draw(st.booleans()))
            elif what == "compact":
                index.compact()
                assert all(s.hidden is None for s in index._state.segments)
            elif what == "merge":
                names = [f"{i}.png" for i in range(model.next, model.next + n)]
                index.merge(Index(codebooks).add(torch.cat([some[:1], some]), paths=["x", *names]).remove([0]))
                model.add(some)
            agree(index, model, f)


def test_a_batch_of_any_size_goes_into_segments(small):
    f, codebooks, codes = random_search(N=500)
    index, model = Index(codebooks), Model()
    for part in (codes[:300], codes[300:301], codes[301:]):
        index.add(part)
        model.add(part)
    agree(index, model, f, 40)
    assert max(s.n for s in index._state.segments) == 64 and len(index._state.segments) < 14


def test_adding_one_by_one_makes_few_segments(small):
    f, codebooks, codes = random_search(N=200)
    index = Index(codebooks)
    for code in codes: index.add(code[None])
    assert len(index._state.segments) <= 4 and torch.equal(index.codes, codes)
    index = Index(codebooks)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    for i in order: index.add(codes[i:i + 1], ids=[i])
    assert len(index._state.segments) <= 12 and torch.equal(index.codes, codes)


# ties

@pytest.mark.parametrize("M, K", [(4, 16), (12, 16), (3, 256)])
@pytest.mark.parametrize("hide", [False, True])
def test_equal_codes_are_searched_once_and_ordered_by_id(M, K, hide):
    f, codebooks, few = random_search(M, K, N=40, Q=6)
    codes = few[torch.randint(40, (30_000,), generator=torch.Generator().manual_seed(2))]
    index = Index(codebooks).add(codes)
    assert [len(s.codes) for s in index._state.segments] == [40]
    assert torch.equal(index.codes, codes)
    keep = torch.ones(30_000, dtype=torch.bool)
    if hide:
        gone = index.search(f, 500).ids.flatten().unique()
        index.remove(gone)
        keep[gone] = False
    ids = torch.arange(30_000)[keep]
    for k in (1, 10, 2000):
        hits, (d, rows) = index.search(f, k), nearest(f, codebooks, codes[keep], k)
        assert torch.equal(hits.distances, d) and torch.equal(hits.ids, ids[rows])
    index.add(codes[:5])
    assert torch.equal(index.codes, torch.cat([codes[keep], codes[:5]]))


def test_codes_that_are_mostly_different_are_not_grouped():
    _, codebooks, codes = random_search(M=8, N=80_000)
    index = Index(codebooks).add(codes)
    assert index._state.segments[0].groups is None
    half = codes[:40_000].repeat(2, 1)
    assert Index(codebooks).add(half)._state.segments[0].groups is None


# which items, how near

@pytest.mark.parametrize("n", [1, 5, 300, 4000])
@pytest.mark.parametrize("distinct", [20, 10 ** 6])
def test_filters(n, distinct):
    f, codebooks, codes = random_search(M=8, N=20_000, Q=4)
    codes = codes[torch.randint(min(distinct, 20_000), (20_000,), generator=torch.Generator().manual_seed(2))]
    index = Index(codebooks).add(codes)
    some = torch.randperm(20_000, generator=torch.Generator().manual_seed(1))[:n]
    inside = torch.zeros(20_000, dtype=torch.bool).index_fill(0, some, True)
    for kept, arguments in ((inside, dict(among=some)), (~inside, dict(without=some.tolist())),
                            (inside & (torch.arange(20_000) % 2 > 0), dict(among=some, without=torch.arange(0, 20_000, 2)))):
        rows = torch.arange(20_000)[kept]
        if not len(rows): continue
        k = min(10, len(rows))
        d, place = nearest(f, codebooks, codes[rows], k)
        hits = index.search(f, k, **arguments)
        assert torch.equal(hits.ids, rows[place]) and torch.equal(hits.distances, d)
    assert torch.equal(index.search(f).ids, nearest(f, codebooks, codes, 10)[1])  # nothing of it stays


def test_a_filter_that_leaves_little_or_nothing():
    f, codebooks, codes = random_search(N=50)
    index = Index(codebooks).add(codes)
    with pytest.raises(ValueError, match="leave none of the index's items"): index.search(f, among=[77])
    with pytest.raises(ValueError, match="leave none of the index's items"): index.search(f, without=range(50))
    with pytest.raises(TypeError, match="ids of float64 must be whole"): index.search(f, among=[1.5])
    with pytest.warns(UserWarning, match="k=10, but among= and without= leave 2"): hits = index.search(f, among=[3, 4, 99])
    assert sorted(hits.ids[0].tolist()) == [3, 4]


@pytest.mark.parametrize("distance", ["squared", "unsquared"])
def test_within_a_radius(distance):
    f, codebooks, codes = random_search(M=4, N=3000, Q=4)
    index = Index(codebooks).add(codes, paths=map(str, range(3000)))
    exact = adc(distance_table(f, codebooks, distance == "squared"), codes)
    radius = exact.sort(1).values[0, 40].item()  # the 41st is as far as that, and counts
    hits = index.search(f, 3000, distance, radius=radius)
    assert hits.ids.shape[1] == (exact <= radius).sum(1).max()
    for q in range(4):
        found = hits.ids[q][hits.ids[q] >= 0]
        assert set(found.tolist()) == set(torch.arange(3000)[exact[q] <= radius].tolist())
        assert hits.distances[q][len(found):].isinf().all() and hits.paths[q][len(found):] == [""] * (hits.ids.shape[1] - len(found))
    assert torch.equal(index.search(f, 5, distance, radius=1e9).ids, index.search(f, 5, distance).ids)
    none = index.search(f, 5, distance, radius=0)
    assert (none.ids == -1).all() and none.ids.shape == (4, 1) and "none" in repr(none)
    for wrong in (float("nan"), -1.):
        with pytest.raises(ValueError, match="radius="): index.search(f, radius=wrong)


def test_all_of_them():
    f, codebooks, codes = random_search(M=4, N=5000, Q=3)
    hits = Index(codebooks).add(codes).search(f, 5000)
    d, rows = nearest(f, codebooks, codes, 5000)
    assert torch.equal(hits.ids, rows) and torch.equal(hits.distances, d)


# columns

def test_texts():
    names = ["a", "", "Ünï 猫", "new\nline", b"\xff.jpg".decode("utf-8", "surrogateescape")]
    texts = Texts.of(names)
    assert list(texts) == names and [texts[i] for i in range(5)] == names and texts[-1] == names[-1] and texts[-2] == names[-2]
    assert list(texts[1:3]) == names[1:3] and list(texts[np.array([3, 0, 0])]) == [names[3], "a", "a"] and list(texts[2:2]) == []
    assert list(segments.concatenated([texts[3:], texts[:1]])) == [*names[3:], "a"]


def test_columns_come_back(tmp_path):
    _, codebooks, codes = random_search(N=40)
    def given(a, b):
        return dict(label=[f"kind {i % 3}" for i in range(a, b)], year=np.arange(a, b) + 1900, where=np.random.default_rng(a).random((b - a, 2)))
    index = Index(codebooks).add(codes[:20], columns=given(0, 20)).add(codes[20:], columns=given(20, 40)).remove([3, 30])
    index = Index.load(index.save(tmp_path / "i.sscq"))
    ids = index.ids.tolist()
    assert index.column("label") == [f"kind {i % 3}" for i in ids] and index.column("year").tolist() == [i + 1900 for i in ids]
    assert index.column("where").shape == (38, 2)
    index.column("year")[:] = 0
    assert index.column("year").tolist() == [i + 1900 for i in ids]  # what was handed out is a copy
    for error, message, columns in (
            (ValueError, "39 values for 40", dict(year=range(39))), (TypeError, "is one text", dict(year="1999")),
            (TypeError, "must be a list", dict(year=5)), (ValueError, "must have a name", {"a b": range(40)}),
            (ValueError, "must have a name", dict(paths=range(40))), (TypeError, "holds complex128", dict(year=[1j] * 40))):
        with pytest.raises(error, match=message): Index(codebooks).add(codes, columns=columns)
    for message, columns in (("all have one, or none", None), ("all have one, or none", dict(label=["a"])),
                             ("column 'year' holds int64, and the new items have float64", dict(given(0, 1), year=[1.5]))):
        with pytest.raises(ValueError, match=message): index.add(codes[:1], columns=columns)
    assert len(index) == 38
    with pytest.raises(ValueError, match="no column 'size'; it has label, year, where"): index.column("size")


def test_paths_are_found_from_anywhere(tmp_path, monkeypatch):
    _, codebooks, codes = random_search(N=3)
    home = tmp_path / "home"
    (home / "photos").mkdir(parents=True)
    for name in "abc": (home / "photos" / f"{name}.png").write_bytes(b"x")
    monkeypatch.chdir(home)
    index = Index(codebooks).add(codes, paths=[f"photos/{name}.png" for name in "abc"])
    index.save("i.sscq")
    assert Index.load("i.sscq").paths == index.paths == ["photos/a.png", "photos/b.png", "photos/c.png"]
    monkeypatch.chdir(tmp_path)
    found = Index.load("home/i.sscq")
    assert all(Path(p).is_file() for p in found.paths) and Path(found.search(torch.zeros(1, 12), 1).paths[0][0]).is_file()
    assert Path(found.explain(torch.zeros(12), 1).path).is_file()
    home.rename(tmp_path / "moved")  # together
    again = Index.load("moved/i.sscq")
    assert all(Path(p).is_file() for p in again.paths)
    (tmp_path / "moved" / "photos" / "d.png").write_bytes(b"x")
    again.add(codes[:1], paths=["moved/photos/d.png"]).save("moved/i.sscq")  # seen from here
    monkeypatch.chdir("/")
    assert all(Path(p).is_file() for p in Index.load(tmp_path / "moved" / "i.sscq").paths)
    (tmp_path / "moved" / "i.sscq").rename(tmp_path / "j.sscq")  # the file alone: the pictures are where they were
    assert len(Index.load(tmp_path / "j.sscq").paths) == 4


@pytest.mark.parametrize("keep", ["half", "int8"])
def test_embeddings_that_are_kept_choose_among_what_codes_find(tmp_path, keep):
    f, codebooks, _ = random_search(M=4, K=4, N=0, Q=400)
    index = Index(codebooks, keep=keep).add(f[:200]).add(f[200:])
    index = Index.load(index.save(tmp_path / "i.sscq"))
    exact = torch.nn.functional.normalize(f, dim=1) @ torch.nn.functional.normalize(f, dim=1).T
    hits = index.search(f, 5, refine=400)
    assert torch.equal(hits.ids[:, 0], torch.arange(400))  # itself first
    want = exact.topk(5).indices
    assert (hits.ids[:, :, None] == want[:, None]).any(2).float().mean() > (.99 if keep == "half" else .95)
    torch.testing.assert_close(hits.distances, 2 - 2 * exact.gather(1, hits.ids), atol=.03, rtol=0)
    narrow = index.search(f, 5, refine=8)
    assert all(set(a) <= set(b) for a, b in zip(narrow.ids.tolist(), index.search(f, 8).ids.tolist()))
    with pytest.raises(ValueError, match="codes alone cannot be added"): index.add(index.codes[:1])
    with pytest.raises(ValueError, match="this index keeps none: make it with keep="): Index(codebooks).add(f).search(f, refine=20)
    with pytest.raises(ValueError, match="keep='float'"): Index(codebooks, keep="float")


# what is handed out

@pytest.mark.parametrize("K", [16, 256])
def test_what_is_handed_out_does_not_reach_inside(K):
    f, codebooks, codes = random_search(K=K, N=100)
    for index in (Index(codebooks).add(codes), Index(codebooks).add(codes, ids=range(5, 105)), Index(codebooks).add(codes).remove([0])):
        before, ids = index.search(f), index.ids.tolist()
        index.codes.zero_(); index.ids.add_(7); index.codebooks.zero_()
        index.snapshot().codes.zero_(); index.snapshot().ids.zero_()
        if K == 256: index._state.segments[0].codes[:].zero_()
        assert index.ids.tolist() == ids and torch.equal(index.search(f).ids, before.ids) and torch.equal(index.search(f).distances, before.distances)


def test_a_snapshot_stays_what_it_was():
    f, codebooks, codes = random_search(N=200)
    index = Index(codebooks).add(codes[:100])
    then = index.snapshot()
    index.add(codes[100:]).remove(range(50))
    assert len(then) == 100 and torch.equal(then.codes, codes[:100]) and torch.equal(then.ids, torch.arange(100))


def test_merging_counts_on_where_nobody_gave_ids():
    _, codebooks, codes = random_search(N=10)
    a, b = Index(codebooks).add(codes[:5]), Index(codebooks).add(codes[5:]).remove([0])
    assert a.merge(b).ids.tolist() == list(range(9)) and torch.equal(a.codes, torch.cat([codes[:5], codes[6:]]))
    c = Index(codebooks).add(codes[:2], ids=[3, 50])
    with pytest.raises(ValueError, match="id 3 is in the index already"): a.merge(c)
    assert len(a) == 9 and a.merge(Index(codebooks).add(codes[:2], ids=[50, 40])).ids[-2:].tolist() == [40, 50]
    with_paths = Index(codebooks).add(codes, paths=map(str, range(10)))
    with pytest.raises(ValueError, match="all have one, or none"): a.merge(with_paths)
    assert len(a) == 11


def test_an_index_can_be_copied():
    f, codebooks, codes = random_search(N=100)
    index = Index(codebooks).add(codes)
    index.search(f)
    twin = copy.deepcopy(index)
    twin.add(codes[:1]).remove([3])
    assert len(index) == 100 and len(twin) == 100 and torch.equal(index.search(f).ids, nearest(f, codebooks, codes, 10)[1])


# FAISS

@pytest.mark.parametrize("M, K", [(4, 16), (3, 16), (3, 256), (5, 4)])
@pytest.mark.parametrize("given", [False, True])
def test_to_faiss_and_back(M, K, given):
    f, codebooks, codes = random_search(M, K, N=300)
    ids = list(range(1000, 1300)) if given else None
    index = Index(codebooks).add(codes, ids=ids)
    theirs = index.to_faiss()
    d, found = theirs.search(f.numpy(), 300)
    order = {id: i for i, id in enumerate(index.ids.tolist())}
    exact = adc(distance_table(f, codebooks), codes)
    for q in range(len(f)):
        mine = exact[q][[order[i] for i in found[q].tolist()]]
        np.testing.assert_allclose(mine.numpy(), d[q], rtol=.1, atol=.5 if K == 16 else 1e-3)
    again = Index.from_faiss(theirs, name="back")
    assert torch.equal(again.codes, codes) and torch.equal(again.ids, index.ids) and torch.equal(again.codebooks, index.codebooks)
    for wrong in (faiss.IndexFlatL2(4), None, "x", faiss.IndexPQ(4, 2, 4), faiss.IndexPQ(4, 2, 4, faiss.METRIC_INNER_PRODUCT)):
        with pytest.raises((TypeError, ValueError)): Index.from_faiss(wrong)


def test_segments_are_joined_piece_by_piece(small):
    f, codebooks, codes = random_search(N=60)
    for ids in (None, torch.randperm(90, generator=torch.Generator().manual_seed(0))[:60].tolist()):
        index = Index(codebooks).add(codes, ids=ids, paths=map(str, range(60)) if ids is None else map(str, ids)).remove([ids[3] if ids else 3])
        _, whole = segments.joined(index._state.segments, piece=7)
        assert np.array_equal(whole.ids_of(np.arange(59)), index.ids.numpy()) and torch.equal(whole.codes[:], index.codes)
        assert list(whole.columns["paths"]) == index.paths and (whole.ids is None) == (ids is None and False)
    plain = Index(codebooks).add(codes[:30]).add(codes[30:])
    assert segments.joined(plain._state.segments, piece=7)[1].ids is None


# inverted files

@pytest.mark.parametrize("M, K", [(4, 16), (3, 256), (5, 4)])
@pytest.mark.parametrize("distinct", [15, 10 ** 6])
def test_an_inverted_file_follows_its_index(tmp_path, M, K, distinct):
    f, codebooks, codes = random_search(M, K, N=4000, Q=6)
    codes = codes[torch.randint(min(distinct, 4000), (4000,), generator=torch.Generator().manual_seed(1))]
    index = Index(codebooks).add(codes[:1500], paths=map(str, range(1500)))
    ivf = index.to_ivf(n_lists=16, n_probe=16)
    def exact():  # all cells are visited
        for k in (1, 10, 300):
            a, b = index.search(f, k), ivf.search(f, k)
            assert torch.equal(a.ids, b.ids) and torch.equal(a.distances, b.distances) and a.paths == b.paths
    exact()
    index.remove(range(0, 300, 3)); exact()
    index.add(codes[1500:1533], paths=map(str, range(1500, 1533))); exact()
    index.add(codes[1533:3000], paths=map(str, range(1533, 3000))); exact()
    ivf.extend(); exact()
    index.remove(index.search(f, 50).ids.flatten().unique()); exact()
    near = ivf.search(f, 10)
    ivf = IVFIndex.load(ivf.save(tmp_path / "cells"), Index.load(index.save(tmp_path / "i.sscq"))); index = ivf.index
    assert ivf.n_probe == 16 and torch.equal(ivf.search(f, 10).ids, near.ids)
    exact()
    index.add(codes[3000:], paths=map(str, range(3000, 4000))); exact()
    ivf.extend(); exact()
    index.compact(); exact()
    ivf.extend(); exact()


def test_cells_that_are_extended_during_a_search_bring_no_rows_of_later():
    f, codebooks, codes = random_search(4, 16, N=400, Q=6)
    class Growing(Index):
        "Somebody adds and extends right after a search has looked"
        later = None

        def snapshot(self):
            now = super().snapshot()
            if self.later is not None:
                some, self.later = self.later, None
                self.add(some, paths=[f"new-{i}" for i in range(len(some))])
                ivf.extend()
            return now
    index = Growing(codebooks).add(codes[:300], paths=map(str, range(300)))
    ivf, wanted = index.to_ivf(n_lists=4, n_probe=4), index.search(f, 300)
    index.later = codes[300:]
    found = ivf.search(f, 300)
    assert torch.equal(found.ids, wanted.ids) and found.paths == wanted.paths and len(index) == 400


def test_an_inverted_file_is_the_same_after_saving(tmp_path):
    f, codebooks, codes = random_search(M=8, N=6000, Q=50)
    index = Index(codebooks).add(codes)
    ivf = index.to_ivf(n_lists=64).tune(.9, f)
    assert ivf.n_probe < 64 and ivf.recall[0] >= .9 and "recall@10" in repr(ivf)
    again = IVFIndex.load(ivf.save(tmp_path / "cells"), Index.load(index.save(tmp_path / "i.sscq"), mmap=True))
    assert repr(again) == repr(ivf) and torch.equal(again.search(f).ids, ivf.search(f).ids)
    assert (tmp_path / "cells").stat().st_size < 4 * 6000 + 64 * 24 * 4 + 4096  # the codes lie in the index
    index.add(codes[:200]); again.index.add(codes[:200])
    ivf.extend(); again.extend()
    assert torch.equal(again.search(f).ids, ivf.search(f).ids)
    with pytest.raises(ValueError, match="is of another model; make it again by Index.to_ivf"):
        IVFIndex.load(tmp_path / "cells", Index(codebooks + 1).add(codes))
    whole = bytearray((tmp_path / "cells").read_bytes())
    for place in range(0, len(whole), 997):
        whole[place] ^= 4
        (tmp_path / "bent").write_bytes(whole)
        with pytest.raises(ValueError, match="bent"): IVFIndex.load(tmp_path / "bent", index)
        whole[place] ^= 4
    with pytest.raises(ValueError, match="has format sscq-index 2, this version of sscq reads sscq-ivf 1"): IVFIndex.load(tmp_path / "i.sscq", index)
    with pytest.raises(ValueError, match="recall=2"): ivf.tune(2., f)


def test_a_recall_is_measured():
    f, codebooks, codes = random_search(M=8, N=5000, Q=100)
    index = Index(codebooks).add(codes)
    ivf = index.to_ivf(n_lists=50)
    shares = []
    for wanted in (.3, .7, 1.):
        ivf.tune(wanted, f)
        found, exact = ivf.search(f).ids, index.search(f).ids
        share = (found[:, :, None] == exact[:, None]).any(2).float().mean().item()
        assert share == ivf.recall[0] >= wanted
        shares.append(ivf.n_probe)
    assert shares[0] < shares[1] < shares[2]


# files that are damaged, altered, or written by several; the fuzz targets try thousands

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))


def altered(path, change) -> Path:
    "A file whose checksums are right, whatever it says"
    from target_indexes import Draft
    draft = Draft(path.read_bytes())
    change(draft)
    path.write_bytes(draft.assemble())
    return path


def with_columns(n=20, keep=None, **more) -> Index:
    f, codebooks, codes = random_search(N=n)
    given = torch.randn(n, 12, generator=torch.Generator().manual_seed(3)) if keep else codes
    return Index(codebooks, keep=keep).add(given, paths=[f"/{i}" for i in range(n)], columns=dict(number=list(range(n)), text=["a"] * n), **more)


def put_column(name, values=None, texts=None):
    def change(draft):
        draft.table["columns"] = [*(x for x in draft.table["columns"] if x != name), name]
        for entry in draft.table["segments"]:
            columns = {x: c for x, c in entry["columns"].items() if x != name}
            if texts: column = dict(offsets=draft.put(np.cumsum([0, *map(len, texts)])), joined=draft.put(np.frombuffer(b"".join(texts), np.uint8)))
            else: column = dict(values=draft.put(values))
            entry["columns"] = columns | {name: column}
    return change


@pytest.mark.parametrize("keep, change", [
    (None, put_column("paths", np.arange(20))), (None, put_column("paths", texts=[b"a\0b"] * 20)), (None, put_column("a b", np.arange(20))),
    (None, put_column("embedding", np.zeros((20, 12), np.float16))), ("half", put_column("embedding", np.zeros((20, 11), np.float16))),
    ("half", put_column("embedding", np.full((20, 12), np.nan, np.float16))), ("half", put_column("embedding", texts=[b"a"] * 20)),
    ("int8", put_column("embedding_scale", np.full(20, np.inf, np.float32))), ("int8", lambda draft: draft.table.update(keep="half")),
    (None, put_column("flag", np.full(20, 7, np.uint8).view(bool)))])
def test_columns_of_a_file_that_no_index_has_are_refused(tmp_path, keep, change):
    path = with_columns(keep=keep).save(tmp_path / "x.sscq")
    assert len(Index.load(altered(path, lambda draft: None), verify=True)) == 20
    with pytest.raises(ValueError, match="x.sscq does not fit together: .*column"): Index.load(altered(path, change), verify=True)


def test_columns_of_a_file_are_the_same_in_all_segments(tmp_path):
    path = with_columns(40).save(tmp_path / "x.sscq")
    Index.load(path).add(torch.zeros(3, 4, dtype=torch.uint8), paths=["/a"] * 3, columns=dict(number=[1] * 3, text=["b"] * 3)).save(path)

    def change(draft): draft.table["segments"][-1]["columns"]["number"] = dict(values=draft.put(np.zeros(draft.table["segments"][-1]["n"], np.float32)))
    with pytest.raises(ValueError, match="column 'number' holds int64"): Index.load(altered(path, change))


@pytest.mark.parametrize("change", [lambda t: t.update(format="A" * 5000), lambda t: t.update(format="\x1b[2J"), lambda t: t.update(word_dim="A" * 5000),
                                    lambda t: t["segments"][0].update(n="A" * 5000), lambda t: t.update(more=[[[[]]]]) or t.update(roots="x"),
                                    lambda t: t["codebooks"].update(shape=[1] * 5000)])
def test_what_is_wrong_with_a_file_is_said_in_one_short_line(tmp_path, change):
    path = with_columns().save(tmp_path / "x.sscq")
    with pytest.raises(ValueError) as said: Index.load(altered(path, lambda draft: change(draft.table)))
    assert len(str(said.value)) < 400 + len(str(path)) and str(said.value).isprintable() and str(path) in str(said.value)


@pytest.mark.parametrize("depth", [600, 950, 990])
def test_a_table_that_is_nested_deeply_is_refused(tmp_path, depth):
    path = with_columns().save(tmp_path / "x.sscq")

    def change(draft): draft.text = json.dumps(draft.table)[:-1].encode() + b', "x": ' + b"[" * depth + b"]" * depth + b"}"
    try: assert len(Index.load(altered(path, change))) == 20
    except ValueError as error: assert "x.sscq is damaged" in str(error)


def test_a_column_of_two_kinds_is_refused(tmp_path):
    path = with_columns().save(tmp_path / "x.sscq")
    with pytest.raises(ValueError, match="is no column"):
        Index.load(altered(path, lambda draft: draft.table["segments"][0]["columns"]["number"].update(offsets=256)))


def test_paths_of_the_first_format_are_bytes(tmp_path):
    import damage
    from target_indexes import OLD, signed_first
    meta, tensors = damage.read((OLD / "ce8e6d2" / "named.sscq").read_bytes(), tmp_path / "copy")
    (tmp_path / "x.sscq").write_bytes(signed_first(json.loads(meta["index"]), tensors | {"paths": tensors["paths"].bool()}))
    with pytest.raises(ValueError, match="x.sscq does not fit together: paths of bool"): Index.load(tmp_path / "x.sscq")


def test_roots_without_paths_are_looked_for_nowhere(tmp_path):
    path = Index(random_search()[1]).add(random_search()[2]).save(tmp_path / "x.sscq")
    assert len(Index.load(altered(path, lambda draft: draft.table.update(roots=["/nowhere"])))) == 50


def test_what_a_disk_lost_is_no_older_save(tmp_path):
    index = with_columns()
    path = index.save(tmp_path / "x.sscq")
    index.remove([3]).save(path)
    raw = path.read_bytes()
    for i in (64, 128):
        path.write_bytes(raw[:i] + bytes(64) + raw[i + 64:])
        with pytest.raises(ValueError, match="is damaged"): Index.load(path)


def test_a_file_of_the_first_format_with_numbers_of_another_kind_is_refused(tmp_path):
    import damage
    from target_indexes import OLD, signed_first
    meta, tensors = damage.read((OLD / "ce8e6d2" / "plain.sscq").read_bytes(), tmp_path / "copy")
    tensors = {name: x.clone() for name, x in tensors.items()}
    (tmp_path / "x.sscq").write_bytes(signed_first(json.loads(meta["index"]), tensors))
    assert len(Index.load(tmp_path / "x.sscq")) == 200
    (tmp_path / "x.sscq").write_bytes(signed_first(json.loads(meta["index"]), tensors | {"codebooks": tensors["codebooks"].bfloat16()}))
    with pytest.raises(ValueError, match="x.sscq does not fit together"): Index.load(tmp_path / "x.sscq")


@pytest.mark.parametrize("mmap", [True, False])
def test_a_save_that_was_killed_leaves_what_was_there(tmp_path, mmap, monkeypatch):
    path = with_columns().save(tmp_path / "x.sscq")
    size = path.stat().st_size
    index = Index.load(path).remove([3, 4])
    index.save(path)
    after = path.read_bytes()
    for end in (size + 1, size + 70, size + 200, len(after)):
        path.write_bytes(after[:64] + b"\xff" * 64 + after[128:end])  # its slot, the last thing that is written, was not
        if end == size + 1: assert after[64:128] != b"\xff" * 64
        assert len(Index.load(path, mmap=mmap, verify=True)) == 20


def test_a_save_that_is_interrupted_at_its_very_end_is_undone(tmp_path, monkeypatch):
    path = with_columns().save(tmp_path / "x.sscq")
    before, index, synced = path.read_bytes(), Index.load(path).remove([3]), []

    def interrupted(fd, real=os.fsync):
        synced.append(fd)
        if len(synced) == 2: raise KeyboardInterrupt
        real(fd)
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt): index.save(path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    index.save(path)
    assert Index.load(path, verify=True).ids.tolist() == index.ids.tolist()


@pytest.mark.skipif(os.name != "posix", reason="there are no limits of files")
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    import resource
    path = with_columns().save(tmp_path / "x.sscq")
    before, index = path.read_bytes(), Index.load(path).remove([3, 4])
    for room in (0, 64, 100, 500):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, resource.RLIM_INFINITY))
        try:
            with pytest.raises(OSError, match="x.sscq cannot be written .*: make room"): index.save(path)
        finally: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        assert path.read_bytes() == before and len(index) == 18
    index.save(path)
    assert len(Index.load(path, verify=True)) == 18


def test_another_index_in_the_place_of_a_file_is_not_written_over_by_chance(tmp_path):
    path = with_columns().save(tmp_path / "x.sscq")
    index = Index.load(path)
    with_columns(7).save(path)
    with pytest.raises(ValueError, match="was changed by somebody else"): index.remove([1]).save(path)
    assert len(Index.load(path)) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_child_forked_during_a_save_holds_no_lock(tmp_path, monkeypatch):
    from sscq import container
    path = with_columns().save(tmp_path / "x.sscq")
    index, children = Index.load(path).remove([3]), []

    def forking(*args, real=container._finish):
        children.append(os.fork())
        if not children[-1]:
            time.sleep(60)
            os._exit(0)
        return real(*args)
    monkeypatch.setattr(container, "_finish", forking)
    index.save(path)
    monkeypatch.undo()
    try: index.remove([4]).save(path)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert len(Index.load(path)) == 18


@pytest.mark.parametrize("how", ["cut", "another index", "another file"])
def test_a_file_that_is_written_into_while_it_is_used_is_told_and_ends_nothing(tmp_path, how):
    path = with_columns(3000).save(tmp_path / "x.sscq")
    index, loaded, f = Index.load(path), Index.load(path, mmap=False), random_search()[0]
    want = index.search(f)
    if how == "cut": os.truncate(path, 100)
    if how == "another index": path.write_bytes(with_columns(4000).save(tmp_path / "y.sscq").read_bytes())
    if how == "another file": path.write_bytes(b"x" * 2 * path.stat().st_size)
    for verb in (lambda: index.search(f), lambda: index.codes, lambda: index.explain(f[0], 3), lambda: index.remove([3]),
                 lambda: index.save(tmp_path / "z.sscq"), lambda: copy.deepcopy(index), lambda: Index(index.codebooks).merge(index)):
        with pytest.raises(ValueError, match="x.sscq was written into while an index was using it"): verb()
    assert torch.equal(loaded.search(f).ids, want.ids)


def in_the_background(tmp_path, monkeypatch, n=200, K=16):  # a damaged file, whose digests are compared when the event is set
    from sscq import indexfile
    monkeypatch.setattr(indexfile, "SMALL", 100)
    path = Index(random_search(K=K)[1]).add(random_search(K=K, N=n)[2]).save(tmp_path / "x.sscq")
    raw, entry = bytearray(path.read_bytes()), indexfile.read_file(path).table["segments"][0]["codes"]
    raw[entry["start"]:entry["start"] + 9] = b"\xff" * 9
    path.write_bytes(raw)
    wait = threading.Event()

    def check(file, real=indexfile.check_digests):
        wait.wait(60)
        real(file)
    monkeypatch.setattr(indexfile, "check_digests", check)
    return path, wait


@pytest.mark.parametrize("verb", ["save", "merge", "copy", "pickle"])
def test_damage_is_not_carried_on_before_it_is_found(tmp_path, monkeypatch, verb):
    import pickle
    path, wait = in_the_background(tmp_path, monkeypatch)
    index = Index.load(path)
    assert not index.search(random_search()[0]).verified
    threading.Timer(.2, wait.set).start()
    other = dict(save=lambda: index.save(tmp_path / "y.sscq"), merge=lambda: Index(index.codebooks).merge(index), copy=lambda: copy.deepcopy(index),
                 pickle=lambda: pickle.dumps(index))[verb]
    with pytest.raises(ValueError, match="x.sscq was altered after it was saved"): other()
    assert not (tmp_path / "y.sscq").exists()
    with pytest.raises(ValueError, match="x.sscq was altered after it was saved"): index.search(random_search()[0])


@pytest.mark.parametrize("K", [4, 64])
def test_codes_that_may_name_no_codeword_are_looked_at_before_they_are_used(tmp_path, monkeypatch, K):
    path, wait = in_the_background(tmp_path, monkeypatch, K=K)
    wait.set()
    with pytest.raises(ValueError, match="x.sscq was altered after it was saved"): Index.load(path)


def test_a_background_check_that_breaks_off_is_heard_of(tmp_path, monkeypatch):
    from sscq import indexfile
    path, wait = in_the_background(tmp_path, monkeypatch)

    def broken(file): raise MemoryError
    monkeypatch.setattr(indexfile, "check_digests", broken)
    index = Index.load(path)
    index._checked.thread.join()
    with pytest.raises(ValueError, match="x.sscq could not be compared with its digests: MemoryError"): index.search(random_search()[0])


def test_an_index_that_was_searched_can_be_copied():
    import pickle
    f, codebooks, codes = random_search(N=5000)
    index = Index(codebooks).add(codes)
    want = index.search(f).ids
    for other in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))): assert torch.equal(other.search(f).ids, want)


BUSY = """
import os, sys, threading, time
import torch
from sscq.fastscan import PackedCodes, search_together, to_held
from sscq.index import Index
from pathlib import Path
torch.set_num_threads(2)
folder = Path(sys.argv[1])
g = torch.Generator().manual_seed(0)
index, f = Index(torch.randn(4, 16, 3, generator=g)).add(torch.randint(16, (30000, 4), generator=g, dtype=torch.uint8)), torch.randn(40, 12, generator=g)
index.save(folder / "x.sscq")
index.search(f)
stop = False
def change(): index.add(torch.zeros(20, 4, dtype=torch.uint8)).remove(index.ids[:10])
def again(what):
    while not stop: what()
threads = [threading.Thread(target=again, args=(what,)) for what in (change, lambda: index.search(f), lambda: index.save(folder / "x.sscq"))]
for thread in threads: thread.start()
children = []
for i in range(20):
    time.sleep(.02)
    if not (child := os.fork()):
        try:
            n = len(index.search(f).ids) + len(index.add(torch.zeros(3, 4, dtype=torch.uint8)).remove([0] if 0 in index.ids else index.ids[:1]).compact().ids)
            index.explain(f[0], int(index.ids[5]))
            os._exit(len(Index.load(index.save(folder / f"{i}.sscq"), verify=True)) != len(index))
        except BaseException: os._exit(2)
    children.append(child)
stop = True
for thread in threads: thread.join()
found, end = [], time.monotonic() + 90
while children and time.monotonic() < end:
    child, status = os.waitpid(-1, os.WNOHANG)
    if child:
        children.remove(child)
        found.append(status)
    else: time.sleep(.05)
for child in children: os.kill(child, 9)
print(found.count(0), "of", 20)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_children_forked_while_threads_are_busy_answer(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    run = subprocess.run([sys.executable, "-c", BUSY, str(tmp_path)], capture_output=True, text=True, env=env)
    assert run.stdout.strip() == "20 of 20", run.stdout + run.stderr[-2000:]


KILLED = """
import sys
import torch
from sscq.fastscan import PackedCodes, search_together, to_held
from sscq.index import Index
index = Index.load(sys.argv[1])
print("ready", flush=True)
while True:
    index.add(torch.full((50, 4), len(index) % 16, dtype=torch.uint8)).save(sys.argv[1])
    print(len(index), flush=True)
"""


def test_a_killed_save_is_whole_before_or_after(tmp_path):
    path = Index(random_search()[1]).add(random_search(N=2000)[2]).save(tmp_path / "x.sscq")
    n = 2000
    for i in range(5):
        with children.Child(KILLED, path, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            time.sleep(.01 * (i + 1))
            child.kill()
            n = int((child.stdout.read().splitlines() or [n])[-1])
        index = Index.load(path, verify=True)
        assert len(index) in (n, n + 50)
        n = len(index)


# what cannot be meant

def test_ids_do_not_count_beyond_what_an_id_can_be(tmp_path):
    _, codebooks, codes = random_search(N=2)
    index = Index(codebooks).add(codes, ids=[5, 2 ** 62 - 1])
    with pytest.raises(ValueError, match="ids go on counting at 4611686018427387904, .* give ids="): index.add(codes)
    assert Index.load(index.add(codes, ids=[1, 2]).save(tmp_path / "x.sscq")).ids.tolist() == [1, 2, 5, 2 ** 62 - 1]


@pytest.mark.parametrize("values", [np.longdouble([1, 2]), [2 ** 63, 1], np.array([b"x", b"y"]), {1: 2, 3: 4}, {1, 2}, np.array(5),
                                    torch.ones(2, dtype=torch.bfloat16), [[1], [2, 3]], [None, 1], [1, "x"], np.array(["x", None], object)])
def test_a_column_that_could_not_be_read_again_is_refused(values):
    _, codebooks, codes = random_search(N=2)
    with pytest.raises(TypeError, match="column 'a'"): Index(codebooks).add(codes, columns=dict(a=values))


def test_columns_of_texts_in_arrays_and_of_tensors_with_gradients():
    _, codebooks, codes = random_search(N=2)
    index = Index(codebooks).add(codes, columns=dict(a=np.array(["x", "y"], object), b=torch.ones(2, requires_grad=True)))
    assert index.column("a") == ["x", "y"] and index.column("b").tolist() == [1, 1]


def test_other_things_that_are_no_columns_paths_or_ids():
    _, codebooks, codes = random_search(N=2)
    index = Index(codebooks)
    with pytest.raises(TypeError, match="columns=.* must be a dict"): index.add(codes, columns=[("a", [1, 2])])
    with pytest.raises(ValueError, match="half of a surrogate pair"): index.add(codes, columns=dict(a=["\ud800", "x"]))
    with pytest.raises(ValueError, match="half of a surrogate pair"): index.add(codes, paths=["\ud800", "x"])
    with pytest.raises(TypeError, match="paths=.* must be a list"): index.add(codes, paths={"a": 1, "b": 2})
    with pytest.raises(TypeError, match="ids=.* must be a list"): index.add(codes, ids=[[1, 2], [3]])
    assert not len(index)


@pytest.mark.parametrize("keep", ["half", "int8"])
@pytest.mark.parametrize("scale", [1e-42, 1e-25, 1e17])
def test_kept_embeddings_point_where_they_did_however_long_they_are(keep, scale):
    f, codebooks, _ = random_search()
    assert Index(codebooks, keep=keep).add(f * scale).search(f, 1, refine=5).ids[:, 0].tolist() == list(range(len(f)))


def test_whatever_threads_do_each_answer_is_that_of_one_moment():
    done = children.run((Path(__file__).parent / "index_threads.py").read_text(), 4)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_cells_hold_every_item():
    "FAISS may leave out the farthest: it is no proof that cells hold no more"
    g = torch.Generator().manual_seed(0)
    codebooks = torch.randint(-9, 10, (2, 16, 2), generator=g).float()
    index = Index(codebooks).add(torch.randint(16, (300, 2), generator=g, dtype=torch.uint8))
    ivf, f = index.to_ivf(n_lists=7, n_probe=7), torch.linspace(-9, 9, 120).reshape(30, 4)
    assert torch.equal(ivf.search(f, 300).ids, index.search(f, 300).ids)


def test_an_inverted_file_of_rows_that_cannot_be_is_refused(tmp_path):
    _, codebooks, codes = random_search(N=300)
    index = Index(codebooks).add(codes)
    index.to_ivf(n_lists=7).save(tmp_path / "cells")
    raw = (tmp_path / "cells").read_bytes()
    for change in (lambda d: d.table["parts"][0].update(last=0, cell=d.put(np.empty(0, np.int32))), lambda d: d.table["parts"][0].update(first="0"),
                   lambda d: d.table.update(centres=d.put(np.full((7, 12), 3e38, np.float32)))):
        (tmp_path / "cells").write_bytes(raw)
        altered(tmp_path / "cells", change)
        with pytest.raises(ValueError, match="cells does not fit together: .* make it again by Index.to_ivf"): IVFIndex.load(tmp_path / "cells", index)


@pytest.mark.parametrize("K", [16, 256])
@pytest.mark.parametrize("values", [2, 5, 256], ids=lambda n: f"{n}-values")  # few: many ties, and proofs that fail
@pytest.mark.parametrize("seed", range(3))
def test_large_segments_are_searched_together(seed, values, K, monkeypatch):
    monkeypatch.setattr(segments, "LARGEST", 500)
    rng, (f, codebooks, _) = np.random.default_rng(seed), random_search(4, K, Q=9)
    codes = torch.from_numpy(rng.integers(0, min(values, K), (1900, 4), dtype=np.uint8))
    ids = torch.from_numpy(np.sort(rng.choice(10_000, 1900, replace=False))) if seed else None
    index = Index(codebooks)
    for some in torch.arange(1900).split(600): index.add(codes[some], None if ids is None else ids[some])
    gone = rng.choice(1900, 300, replace=False)
    names = torch.arange(1900) if ids is None else ids
    index.remove(names[gone].tolist())
    if seed == 2: index.add(codes[:20], torch.arange(20) + 20_000)  # a small one beside them
    asked = []
    monkeypatch.setattr("sscq.segment_search.search_together", lambda *a: asked.append(len(a[0])) or search_together(*a))
    left = np.setdiff1d(np.arange(1900), gone)
    every = torch.cat([codes[left], codes[:20 if seed == 2 else 0]])
    every_id = torch.cat([names[left], torch.arange(20 if seed == 2 else 0) + 20_000])
    for k in (1, 7):
        near, place = nearest(f, codebooks, every, k)
        hits = index.search(f, k)
        assert torch.equal(hits.distances, near) and torch.equal(hits.ids, every_id[place])
    assert asked and min(asked) >= 3


def test_rows_that_do_not_fit_a_key_are_not_counted_through(monkeypatch):
    "Beyond 2**31 items a row counted from segment to segment is no int32"
    monkeypatch.setattr(segments, "LARGEST", 500)
    f, codebooks, codes = random_search(4, 16, N=1500)
    index, near, place = Index(codebooks).add(codes), *nearest(f, codebooks, codes, 5)
    asked = []
    monkeypatch.setattr("sscq.segment_search.search_together", lambda *a: asked.append(1) or search_together(*a))
    for most in (1500, 1499):
        monkeypatch.setattr("sscq.segment_search._ROWS", most)
        hits = index.search(f, 5)
        assert torch.equal(hits.ids, place) and torch.equal(hits.distances, near)
    assert len(asked) == 1


def test_what_faiss_does_not_find_is_no_proof():
    "FastScan finds no item whose rough sum is the least there is: all parts at the farthest word"
    books = torch.tensor([0., 1.]).repeat(4, 8)[:, :, None].contiguous()
    codes = torch.ones(2000, 4, dtype=torch.uint8)
    parts = [(PackedCodes(to_held(codes.numpy(), 16), 2000, 4, 16), None)] * 2
    near, own, proven = search_together(parts, distance_table(torch.zeros(1, 4), books), 3)
    index = Index(books).add(codes)
    assert not proven.any() and index.search(torch.zeros(1, 4), 3).ids.tolist() == [[0, 1, 2]]
