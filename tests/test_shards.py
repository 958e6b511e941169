"Parts that are made apart and searched as one index."
import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from notebook_functions import from_notebook
from PIL import Image

import sscq.cluster as cluster_module
import sscq.shards as shards_module
from sscq.cli import main
from sscq.cluster import ClusterIndex, on_cluster
from sscq.core import SSCQ
from sscq.index import Index
from sscq.indexfile import model_fingerprint
from sscq.parts import encode_parts
from sscq.reencode import chances
from sscq.shards import MANIFEST, merged_answers, part_answers, save_part, share_of, ShardedIndex, write_manifest

RNG = np.random.default_rng(0)
RECORD = Path(__file__).parent.parent / "benchmarks/results/shards.json"


def run(*argv) -> int: return main([str(a) for a in argv])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model"
    model = SSCQ(bits=16, backbone="tiny_cnn", image_size=16, seed=0).eval()
    x = model.embed(np.stack([RNG.integers(0, 255, (3, 16, 16), np.uint8) for _ in range(64)]))
    M, K, d = model.codebooks.shape
    model.codebooks.data.copy_(x[:K].reshape(K, M, d).transpose(0, 1))
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    "Twenty pictures, of which five are the same, in different parts"
    photos = tmp_path_factory.mktemp("pictures") / "photos"
    (photos / "sub").mkdir(parents=True)
    for i in range(20):
        name = f"{i:02}.png" if i < 15 else f"sub/{i}.png"
        if i in (4, 9, 14, 19): shutil.copy(photos / "01.png", photos / name)
        else: Image.fromarray(RNG.integers(0, 255, (16, 16, 3), np.uint8)).save(photos / name)
    return photos


@pytest.fixture
def photos(pictures, tmp_path) -> Path:
    shutil.copytree(pictures, tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def made(pictures, model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "parts"
    assert run("encode", model, pictures, "--out", folder, "--part-size", 6) == 0
    return folder


@pytest.fixture
def parts(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "parts")
    return tmp_path / "parts"


def same(a, b):
    assert torch.equal(a.ids, b.ids) and torch.equal(a.distances, b.distances)
    assert [[p and os.path.realpath(p) for p in row] for row in a.paths] == [[p and os.path.realpath(p) for p in row] for row in b.paths]


ASKED = {"k": dict(k=7), "all": dict(k=20), "refined": dict(k=4, refine=9), "radius": dict(k=20, radius=2.), "among": dict(k=3, among=[1, 4, 9, 14, 19, 3]),
         "without": dict(k=5, without=[1, 9]), "unsquared": dict(k=6, distance="unsquared")}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_answers_are_those_of_one_index(asked, made, model, pictures):
    "Equal pictures lie in all four parts, so that the order of ties is seen"
    model = SSCQ.from_pretrained(model)
    one = model.index(pictures, progress=False, keep="half")
    sharded = ShardedIndex(made, model.embed)
    f = model.embed(pictures)
    same(sharded.search(f, **asked), one.search(f, **asked))
    ties = sharded.search(f[[1]], k=5).ids[0].tolist()
    assert ties == [1, 4, 9, 14, 19]
    same(sharded.search(pictures / "01.png", k=5), one.search(pictures / "01.png", k=5))
    assert repr(sharded.explain(f[2], 14)) == repr(one.explain(f[2], 14))


@pytest.mark.parametrize("n_parts, words", [(3, 4), (1, 16), (20, 16), (7, 256)])
def test_many_vectors_with_ties(n_parts, words, tmp_path):
    "Codewords on a coarse grid: most distances stand there several times"
    gen = torch.Generator().manual_seed(words)
    books = torch.randint(-2, 3, (3, words, 2), generator=gen).float()
    f, queries = torch.randint(-3, 4, (40, 6), generator=gen).float(), torch.randint(-3, 4, (9, 6), generator=gen).float()
    files = [tmp_path / f"{i:03}" for i in range(40)]
    for file in files: file.touch()
    says = dict(name="", fingerprint=model_fingerprint(books), weights="")
    manifest = write_manifest(tmp_path / "parts", tmp_path, files, -(-40 // n_parts), says, "int8")
    for part in manifest.parts:
        rows = np.arange(part.n)
        save_part(manifest, part, Index(books, keep="int8"), tmp_path, rows, f[part.first:part.first + part.n], [])
    one, sharded = Index(books, keep="int8").add(f, paths=files), ShardedIndex(tmp_path / "parts", verify=True)
    for asked in (dict(k=1), dict(k=13), dict(k=40), dict(k=5, refine=17), dict(k=9, without=range(0, 40, 3))):
        same(sharded.search(queries, **asked), one.search(queries, **asked))
        ids = {"without": np.array(asked["without"])} if "without" in asked else {}
        half = [ShardedIndex(tmp_path / "parts", parts=range(1 + i, len(manifest.parts) + 1, 2)) for i in range(min(2, len(manifest.parts)))]
        width = asked.get("refine", asked["k"])
        each = [part_answers(index, queries, width, "squared", "refine" in asked, **ids) for index in half]
        same(merged_answers(each, asked["k"], width), one.search(queries, **asked))
    assert torch.equal(sharded.codes, one.codes) and sharded.ids.tolist() == list(range(40))


def test_machines_without_any_of_the_items_take_part(made):
    each = [ShardedIndex(made, parts=[i]) for i in (1, 2, 3, 4)]
    f, among = torch.zeros(2, each[0].codebooks[:, 0].numel()), np.array([1, 2, 19])
    got = merged_answers([part_answers(index, f, 3, "squared", True, among) for index in each], 3, 3)
    same(got, ShardedIndex(made).search(f, k=3, among=among, refine=3))


def test_a_radius_is_kept_over_machines(made):
    each = [ShardedIndex(made, parts=[i]) for i in (1, 2, 3, 4)]
    f = torch.randn(3, each[0].codebooks[:, 0].numel(), generator=torch.Generator().manual_seed(0))
    limit = float(ShardedIndex(made).search(f, k=4).distances[1, 2])
    same(merged_answers([part_answers(index, f, 20, "squared", False) for index in each], 20, 20, limit), ShardedIndex(made).search(f, k=20, radius=limit))


def test_workers_make_all_parts_and_nothing_twice(photos, model, tmp_path, made):
    out, seen = tmp_path / "mine", []
    for worker in ("2/3", "1/3", "3/3", "1/1"):
        assert run("encode", model, photos, "--out", out, "--part-size", 6, "--part", worker, "--json", tmp_path / "did.json") == 0
        seen.append(json.loads((tmp_path / "did.json").read_text())["made"])
    assert seen == [[2], [1, 4], [3], []]
    a, b = ShardedIndex(out), ShardedIndex(made)
    assert torch.equal(a.codes, b.codes) and [Path(p).name for p in a.paths] == [Path(p).name for p in b.paths]


def test_workers_that_begin_together_agree(photos, tmp_path):
    files, found = sorted(photos.rglob("*.png")), []
    says = dict(name="", fingerprint="0" * 12, weights="")
    def begin(): found.append(write_manifest(tmp_path / "mine", photos, files, 3, says, None).file.number)
    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(found) == 8 and len(set(found)) == 1 and os.listdir(tmp_path / "mine") == [MANIFEST]


def test_a_kill_while_a_part_is_saved_loses_nothing(photos, model, tmp_path, monkeypatch):
    out, real = tmp_path / "mine", shards_module.save_state
    def killed(*args):
        if killed.left == 0: raise KeyboardInterrupt
        killed.left -= 1
        return real(*args)
    killed.left = 2
    monkeypatch.setattr(shards_module, "save_state", killed)
    assert run("encode", model, photos, "--out", out, "--part-size", 6) == 130
    monkeypatch.setattr(shards_module, "save_state", real)
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("part-*")}
    assert sorted(before) == ["part-00001.sscq", "part-00002.sscq"]
    assert run("encode", model, photos, "--out", out, "--json", tmp_path / "did.json") == 0
    assert json.loads((tmp_path / "did.json").read_text())["made"] == [3, 4]
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in out.glob("part-*")}.items()
    assert ShardedIndex(out).ids.tolist() == list(range(20))


def test_search_and_info_take_a_folder_of_parts(parts, pictures, model, tmp_path, capsys):
    assert run("search", parts, pictures / "01.png", "--model", model, "-k", 5, "--json", tmp_path / "found.json") == 0
    assert json.loads((tmp_path / "found.json").read_text())["answers"][0]["ids"] == [1, 4, 9, 14, 19]
    (parts / "part-00003.sscq").unlink()
    assert run("info", parts, "--json", tmp_path / "facts.json") == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert (facts["kind"], facts["images"], facts["parts"], facts["missing"]) == ("parts", 14, 4, "3")


def refused(capsys, *argv) -> str:
    "The one line in which a command says no"
    capsys.readouterr()
    assert run(*argv) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("sscq: ") and "\n" not in said and "nobody foresaw" not in said
    return said


def test_a_part_that_is_missing_cut_short_or_another_s_is_named(parts, model, pictures, capsys):
    def search(): return refused(capsys, "search", parts, pictures / "01.png", "--model", model)
    part = parts / "part-00002.sscq"
    whole = part.read_bytes()
    part.unlink()
    assert "part-00002.sscq is missing, one of 4 parts" in search()
    part.write_bytes(whole[:300])
    assert "part-00002.sscq is damaged" in search()
    part.write_bytes(whole[:-1])
    assert "part-00002.sscq is damaged" in search()
    for place, said in ((250, "does not fit together"), (whole.index(b"06.png"), "was altered")):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        part.write_bytes(flipped)
        assert f"part-00002.sscq {said}" in search()
    shutil.copy(parts / "part-00001.sscq", part)
    assert "part-00002.sscq was made from another manifest" in search()
    Index(torch.randn(4, 16, 2)).add(torch.randn(3, 8)).save(part)
    assert "part-00002.sscq belongs to model" in search()
    part.write_bytes(whole)
    flipped = bytearray((parts / MANIFEST).read_bytes())
    flipped[-20] ^= 1
    (parts / MANIFEST).write_bytes(flipped)
    assert f"{MANIFEST} " in search()


def test_a_damaged_part_is_made_again_and_another_s_is_not(parts, model, pictures, tmp_path, capsys):
    part = parts / "part-00002.sscq"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    assert run("encode", model, pictures, "--out", parts, "--json", tmp_path / "did.json") == 0
    assert json.loads((tmp_path / "did.json").read_text())["made"] == [2]
    ShardedIndex(parts)
    shutil.copy(parts / "part-00001.sscq", part)
    assert "another manifest" in refused(capsys, "encode", model, pictures, "--out", parts)
    assert part.read_bytes() == (parts / "part-00001.sscq").read_bytes()


def test_a_file_that_changed_is_named_and_nothing_written(photos, model, tmp_path, capsys):
    out = tmp_path / "mine"
    assert run("encode", model, photos, "--out", out, "--part-size", 6, "--part", "1/4") == 0
    os.utime(photos / "07.png", ns=(5, 5))
    (photos / "08.png").unlink()
    said = refused(capsys, "encode", model, photos, "--out", out)
    assert "2 of the 6 files of part 2 changed since the manifest was written, the first: 07.png" in said
    assert sorted(p.name for p in out.iterdir()) == [MANIFEST, "part-00001.sscq"]


WRONG = {
    "number": (["--part", "5/4"], "--part '5/4' is out of range: workers are numbered from 1 to 4"),
    "zero": (["--part", "0/4"], "out of range"),
    "no number": (["--part", "x"], "must be two numbers"),
    "size": (["--part-size", "7"], "has parts of 6 pictures, not of 7"),
    "keep": (["--keep", "int8"], "was begun with --keep half"),
}


@pytest.mark.parametrize("options, said", WRONG.values(), ids=WRONG)
def test_what_a_worker_asks_for_must_fit(options, said, parts, model, pictures, capsys):
    assert said in refused(capsys, "encode", model, pictures, "--out", parts, *options)


def test_nothing_is_begun_without_a_size_or_with_another_model(parts, model, pictures, tmp_path, capsys):
    out = tmp_path / "new"
    assert "--part-size" in refused(capsys, "encode", model, pictures, "--out", out, "--part", "1/2")
    assert "must be at least 1" in refused(capsys, "encode", model, pictures, "--out", out, "--part-size", 0)
    assert "parts go into a folder" in refused(capsys, "encode", model, pictures, "--out", out.with_suffix(".sscq"), "--part-size", 3)
    assert not [p for p in out.rglob("*")] and not out.with_suffix(".sscq").exists()
    other = SSCQ.from_pretrained(model)
    with torch.no_grad(): next(other.backbone.parameters()).add_(1)
    other.save_pretrained(tmp_path / "other")
    assert "was begun with model" in refused(capsys, "encode", tmp_path / "other", pictures, "--out", parts)
    wrong = SSCQ(bits=16, backbone="tiny_cnn", image_size=16, seed=5)
    with pytest.raises(ValueError, match="not to the model at hand"): ShardedIndex(parts, wrong.embed)


def test_unreadable_pictures_leave_gaps_and_a_part_may_be_empty(photos, model, tmp_path):
    for i in (0, 2, *range(6, 12)): (photos / f"{i:02}.png").write_bytes(b"none")
    out = tmp_path / "mine"
    assert run("encode", model, photos, "--out", out, "--part-size", 6, "--json", tmp_path / "did.json") == 0
    index = ShardedIndex(out)
    assert index.ids.tolist() == [1, 3, 4, 5, *range(12, 20)]
    assert [name for name, _ in index.unreadable] == [f"{i:02}.png" for i in (0, 2, *range(6, 12))]
    assert len(json.loads((tmp_path / "did.json").read_text())["skipped"]) == 8
    assert [Path(p).name for p in index.search(index.codebooks[:, 0].reshape(1, -1), k=12).paths[0]] != []


def test_parts_do_not_change(made):
    index = ShardedIndex(made)
    for change in (lambda: index.add(torch.zeros(1, 8)), lambda: index.remove([1]), lambda: index.merge(index), index.compact):
        with pytest.raises(TypeError, match="parts do not change"): change()
    assert len(index) == 20
    free = Index(index.codebooks, keep="half").merge(index)
    assert len(free.remove([3])) == 19 and len(index) == 20


def test_parts_and_pictures_may_move_together(photos, parts, model, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    photos.rename(here / "photos")
    assert run("encode", model, here / "photos", "--out", here / "parts", "--part-size", 9) == 0
    here.rename(tmp_path / "there")
    assert ShardedIndex(tmp_path / "there/parts").paths[0] == os.path.realpath(tmp_path / "there/photos/00.png")
    assert Index.load(tmp_path / "there/parts/part-00002.sscq").paths[0] == os.path.realpath(tmp_path / "there/photos/09.png")


@pytest.mark.parametrize("text, n, wanted", [("1/1", 3, [1, 2, 3]), ("3/64", 64, [3]), ("2/3", 8, [2, 5, 8]), ("7/7", 3, [])])
def test_shares(text, n, wanted): assert share_of(text, n) == wanted


# --- from a model to its successor, and how many bits

@pytest.fixture(scope="module")
def successor(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("successor") / "model"
    SSCQ(bits=32, backbone="tiny_cnn", image_size=16, seed=1).save_pretrained(out)
    return out


def test_a_successor_encodes_the_same_pictures_under_the_same_ids(made, photos, pictures, successor, tmp_path):
    new = tmp_path / "new"
    (photos / "00a.png").write_bytes((photos / "03.png").read_bytes())  # came later
    for file in pictures.rglob("*.png"): shutil.copystat(file, photos / file.relative_to(pictures))
    before = {p.name: p.read_bytes() for p in made.iterdir()}
    assert run("reencode", made, successor, photos, "--out", new, "--part", "1/2") == 0
    with pytest.raises(FileNotFoundError, match="is missing"): ShardedIndex(new)
    assert run("reencode", made, successor, photos, "--out", new, "--json", tmp_path / "did.json") == 0
    assert json.loads((tmp_path / "did.json").read_text())["made"] == [2, 4]
    a, b = ShardedIndex(made), ShardedIndex(new)
    assert torch.equal(a.ids, b.ids) and [Path(p).name for p in a.paths] == [Path(p).name for p in b.paths] and b.bits == 32
    model = SSCQ.from_pretrained(successor)
    (photos / "00a.png").unlink()
    assert torch.equal(b.codes, model.index(photos, progress=False).codes)
    assert {p.name: p.read_bytes() for p in made.iterdir()} == before


def test_a_move_that_cannot_be_is_refused(parts, model, successor, pictures, tmp_path, capsys):
    assert "of this very model" in refused(capsys, "reencode", parts, model, pictures, "--out", tmp_path / "x")
    assert "is the folder of the old parts" in refused(capsys, "reencode", parts, successor, pictures, "--out", parts)
    assert "holds no parts" in refused(capsys, "reencode", tmp_path, successor, pictures, "--out", tmp_path / "x")
    assert "out of range" in refused(capsys, "reencode", parts, successor, pictures, "--out", tmp_path / "x", "--part", "3/2")
    assert not (tmp_path / "x").exists()
    assert run("encode", successor, pictures, "--out", tmp_path / "y", "--part-size", 7, "--part", "1/3") == 0
    assert "was begun from other files" in refused(capsys, "reencode", parts, successor, pictures, "--out", tmp_path / "y")


def test_ties_are_in_no_order():
    "Against every order of the tied items, for distances of few values"
    from itertools import permutations
    distances = torch.randint(0, 3, (12, 5), generator=torch.Generator().manual_seed(0)).float()
    wanted = torch.arange(12) % 5
    for k in (1, 2, 4):
        got, tied = chances(distances, wanted, k)
        for q in range(12):
            orders = [sorted(range(5), key=lambda i: (float(distances[q, i]), order[i])) for order in permutations(range(5))]
            assert got[q].item() == pytest.approx(sum(int(wanted[q]) in order[:k] for order in orders) / len(orders))
            assert tied[q] == (distances[q] == distances[q, wanted[q]]).sum()


def test_bits_are_compared_without_labels(photos, model, tmp_path, capsys):
    for i in range(20, 50): Image.fromarray(RNG.integers(0, 255, (16, 16, 3), np.uint8)).save(photos / f"{i}.png")
    assert run("bits", model, photos, "--pieces", 30, "--html", tmp_path / "bits.html", "--json", tmp_path / "bits.json") == 0
    rows = json.loads((tmp_path / "bits.json").read_text())["rows"]
    assert [row["bits"] for row in rows] == sorted(row["bits"] for row in rows)
    assert {row["codebooks"] for row in rows} == {"the model's", "k-means", "none: embeddings"}
    assert all(0 <= row["first"] <= row["tenth"] <= 1 <= row["tied"] for row in rows) and "bits" in capsys.readouterr().out
    assert (tmp_path / "bits.html").stat().st_size > 1000
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(photos / "00.png", few)
    shutil.copy(photos / "02.png", few)
    assert "too few to compare" in refused(capsys, "bits", model, few)


# --- actors. Ray itself takes seconds to start, and on a busy machine does not: benchmarks/shards.py has what it did. Here is a stand-in with the
# few calls that are made of it, in which actors die when they are told to

class Died(Exception): pass


class Dice:
    "A method of an actor: its `remote` gives what `get` turns into a result or an error"
    def __init__(self, actor, name): self.actor, self.name = actor, name

    def remote(self, *args):
        args = [arg[0] if isinstance(arg, list) and len(arg) == 1 and isinstance(arg[0], np.ndarray) else arg for arg in args]
        return Call(self.actor, self.name, args)


class Call:
    def __init__(self, actor, name, args): self.actor, self.name, self.args = actor, name, args

    def result(self, retries: bool):
        actor = self.actor
        if actor.dies and self.name != "pid":
            actor.dies, actor.deaths = actor.dies - 1, actor.deaths + 1
            actor.it = actor.new()
            if not retries: raise Died
            return self.result(retries)
        actor.calls += 1
        return getattr(actor.it, self.name)(*self.args)


class Actor:
    def __init__(self, make, options): self.new, self.options, self.it, self.dies, self.deaths, self.calls = make, options, make(), 0, 0, 0
    def __getattr__(self, name): return Dice(self, name)


class FakeRay:
    "What is used of Ray, in one process"
    class exceptions:
        class RayTaskError(Exception): cause = None
        RayActorError = Died
        class GetTimeoutError(Exception): pass

    def __init__(self): self.actors, self.up = [], False
    def is_initialized(self): return self.up
    def init(self, *args, **kwargs): self.up = True
    def shutdown(self): self.up = False
    def nodes(self): return [{"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.}}, {"NodeID": "b", "Alive": False, "Resources": {}}]
    def put(self, x): return [x]
    def wait(self, refs, num_returns): return refs[-1:], refs[:-1]
    def kill(self, actor): actor.dies = 0

    def get(self, refs, timeout=None):
        return [self.get(one) for one in refs] if isinstance(refs, list) else refs.result("max_task_retries" in refs.actor.options)

    def remote(self, kind):
        ray = self
        class Options:
            def options(self, **options):
                self.given = options
                return self

            def remote(self, *args):
                ray.actors.append(Actor(lambda: kind(*args), self.given))
                return ray.actors[-1]
        return Options()


@pytest.fixture
def ray(monkeypatch) -> FakeRay:
    fake, strategies = FakeRay(), types.ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda node, soft: node
    for name, module in {"ray": fake, "ray.util": types.ModuleType("ray.util"), "ray.util.scheduling_strategies": strategies}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake


@pytest.mark.parametrize("actors", [None, 2, 9], ids=["one a machine", "two", "more than parts"])
def test_actors_make_the_parts_that_one_process_makes(actors, photos, model, made, ray, tmp_path):
    out, threads = tmp_path / "mine", torch.get_num_threads()
    try:
        extra = [] if actors is None else ["--actors", actors]
        assert run("encode", model, photos, "--out", out, "--part-size", 6, "--cluster", *extra, "--json", tmp_path / "did.json") == 0
    finally: torch.set_num_threads(threads)
    assert json.loads((tmp_path / "did.json").read_text())["made"] == [1, 2, 3, 4] and not ray.up
    a, b = ShardedIndex(out), ShardedIndex(made)
    assert torch.equal(a.codes, b.codes) and torch.equal(a.ids, b.ids) and [Path(p).name for p in a.paths] == [Path(p).name for p in b.paths]
    assert len(ray.actors) == {None: 1, 2: 2, 9: 4}[actors] and all(a.options["max_restarts"] == -1 == a.options["max_task_retries"] for a in ray.actors)


def test_actors_fetch_what_lies_behind_urls(photos, model, made, ray, tmp_path):
    pytest.importorskip("fsspec")
    threads = torch.get_num_threads()
    try: assert run("encode", model, f"file://{photos}", "--out", tmp_path / "mine", "--part-size", 6, "--cluster", "--actors", 2) == 0
    finally: torch.set_num_threads(threads)
    a, b = ShardedIndex(tmp_path / "mine"), ShardedIndex(made)
    assert torch.equal(a.codes, b.codes) and a.paths[0] == f"file://{photos}/00.png" and len(ray.actors) == 2


def test_an_actor_that_dies_is_replaced_and_nothing_made_twice(photos, model, made, ray, tmp_path):
    out, threads = tmp_path / "mine", torch.get_num_threads()
    args = argparse.Namespace(model=str(model), images=str(photos), out=str(out), keep="half", device="cpu", part_size=6, part=None, cluster="", actors=2)
    def ready(actors): actors[0].dies, actors[1].dies = 1, 2
    try: did = encode_parts(args, lambda *those: on_cluster(*those, ready=ready))
    finally: torch.set_num_threads(threads)
    assert did["made"] == [1, 2, 3, 4] and [actor.deaths for actor in ray.actors] == [1, 2]
    assert torch.equal(ShardedIndex(out).codes, ShardedIndex(made).codes)


def test_what_is_wrong_with_a_part_is_said_in_a_line(photos, model, ray, tmp_path, capsys):
    threads = torch.get_num_threads()
    try:
        assert run("encode", model, photos, "--out", tmp_path / "mine", "--part-size", 6, "--part", "1/4", "--cluster") == 0
        os.utime(photos / "07.png", ns=(5, 5))
        assert "the first: 07.png" in refused(capsys, "encode", model, photos, "--out", tmp_path / "mine", "--cluster")
    finally: torch.set_num_threads(threads)
    assert not ray.up


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_actors_answer_as_one_index_does_while_they_die(asked, made, ray):
    one, threads = ShardedIndex(made), torch.get_num_threads()
    f = torch.randn(5, one.codebooks[:, 0].numel(), generator=torch.Generator().manual_seed(1))
    try:
        cluster = ClusterIndex(made, actors=3, replicas=2)
        wanted = one.search(f, **asked)
        same(cluster.search(f, **asked), wanted)
        for dies in ((1, 0, 0), (0, 2, 0), (1, 1, 1)):
            for actor, n in zip(ray.actors, dies): actor.dies = n
            same(cluster.search(f, **asked), wanted)
        assert sum(actor.deaths for actor in ray.actors) >= 4
    finally: torch.set_num_threads(threads)
    cluster.close()
    assert not ray.up


def test_questions_of_few_vectors_travel_with_the_call(made, ray, monkeypatch):
    threads, put = torch.get_num_threads(), []
    monkeypatch.setattr(ray, "put", lambda x: put.append(x.nbytes) or [x])
    try:
        cluster, one = ClusterIndex(made, actors=2, replicas=1), ShardedIndex(made)
        D = one.codebooks[:, 0].numel()
        for n in (1, cluster_module.WITH_THE_CALL // (4 * D), cluster_module.WITH_THE_CALL // (4 * D) + 1):
            f = torch.randn(n, D, generator=torch.Generator().manual_seed(n))
            same(cluster.search(f, k=3), one.search(f, k=3))
        assert len(put) == 1 and put[0] > cluster_module.WITH_THE_CALL
    finally: torch.set_num_threads(threads)


def test_a_server_on_a_cluster_goes_over_and_lets_the_old_actors_go(made, successor, photos, model, ray, tmp_path, monkeypatch):
    from sscq.serve import opened, Service
    threads, killed = torch.get_num_threads(), []
    monkeypatch.setattr(ray, "kill", killed.append)
    assert run("reencode", made, successor, photos, "--out", tmp_path / "new") == 0
    asked = argparse.Namespace(index=str(tmp_path / "parts"), model=str(tmp_path / "model"), cluster="", actors=2, replicas=2)
    def leads(to: Path, model_of: Path):
        for name, there in (("parts", to), ("model", model_of)):
            (tmp_path / "link").symlink_to(there)
            (tmp_path / "link").replace(tmp_path / name)
    try:
        leads(made, model)
        service = Service(*opened(asked), reopen=lambda: opened(asked))
        old = service.now
        leads(tmp_path / "new", model)  # halfway: parts of the one, model of the other
        assert not service.switch() and service.now is old and not killed
        leads(tmp_path / "new", successor)
        assert service.switch() and killed == old.index.actors and ray.up
        f = torch.randn(2, service.now.D)
        same(service.now.index.search(f, k=4), ShardedIndex(tmp_path / "new").search(f, k=4))
    finally: torch.set_num_threads(threads)


def test_a_group_that_nobody_answers_for_is_an_error_in_time(made, ray):
    threads = torch.get_num_threads()
    try:
        cluster = ClusterIndex(made, actors=2, replicas=2, patience=.3)
        for actor in ray.actors: actor.dies = 10 ** 6
        with pytest.raises(RuntimeError, match="of the parts answered in 0.3 s"): cluster.search(torch.zeros(1, cluster.codebooks[:, 0].numel()), k=3)
    finally: torch.set_num_threads(threads)


def test_ray_that_is_absent_or_does_not_start_is_one_line(photos, model, tmp_path, monkeypatch, ray, capsys):
    monkeypatch.setattr(cluster_module.time, "sleep", lambda seconds: None)
    tries = []
    def init(*args, **kwargs): raise tries.append(1) or Exception("The current node timed out during startup.\nmore")
    ray.init = init
    assert "Ray did not start in 3 attempts: The current node timed out" in refused(
        capsys, "encode", model, photos, "--out", tmp_path / "mine", "--part-size", 6, "--cluster")
    assert len(tries) == 3 and [p.name for p in (tmp_path / "mine").iterdir()] == [MANIFEST]
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'sscq[ray]'" in refused(capsys, "encode", model, photos, "--out", tmp_path / "mine", "--cluster")


@pytest.mark.ray
@pytest.mark.skipif(not os.environ.get("SSCQ_RAY"), reason="starts Ray, which a busy machine does not let it: SSCQ_RAY=1 runs it")
def test_two_actors_of_ray(made, photos, model, tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "sscq", "encode", str(model), str(photos), "--out", str(tmp_path / "mine"), "--part-size", "6"]
    subprocess.run([*command, "--cluster", "--actors", "2"], check=True)
    assert torch.equal(ShardedIndex(tmp_path / "mine").codes, ShardedIndex(made).codes)


# --- what was measured

def test_the_simulation_foretells_a_search_of_two_actors_from_its_pieces():
    "Within a quarter, at the median and where it is late; without the asker it would be too low"
    (simulate,) = from_notebook("tutorials/a_billion_pictures", "simulate")
    latency = json.loads(RECORD.read_text())["latency"]
    asker, measured = {name: np.array(latency[name]) for name in ("send_s", "take_s", "merge_s")}, np.array(latency["two_actors_s"])
    def ratio(asker, q):
        return np.percentile(simulate(np.array(latency["alone_s"]), 2, np.random.default_rng(1), asker, searches=8000), q) / np.percentile(measured, q)
    assert .75 <= ratio(asker, 50) <= 1.25 and .75 <= ratio(asker, 90) <= 1.25
    assert ratio({name: np.zeros(1) for name in asker}, 50) < .75


def test_the_record_shows_what_is_said_of_it():
    record = json.loads(RECORD.read_text())
    for name in ("identical", "killed_actor_identical", "killed_driver_identical", "killed_saves_identical", "search_identical", "enough_work"):
        assert record[name] is True, name
    assert record["recovered_s"] <= 5 and record["overhead"] <= 1.15 and record["wrong_meanwhile"] == 0
