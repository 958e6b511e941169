"The server: what it answers, what it refuses, and many callers at once."
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from PIL import Image

from sscq.cli import main
from sscq.core import SSCQ
from sscq.index import Index
from sscq.queries import Batcher, How, Limits, Refused, searched
from sscq.serve import application, listening, on_hangup, openapi, Service

pytest.importorskip("starlette")
from starlette.testclient import TestClient  # noqa: E402

RNG = np.random.default_rng(0)
JSON = {"content-type": "application/json"}


def run(*argv) -> int: return main([str(a) for a in argv])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    "A model, twelve pictures and their index"
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    for i in range(12): Image.fromarray(RNG.integers(0, 255, (16, 16, 3), np.uint8)).save(home / "photos" / f"{i:02}.png")
    model = SSCQ(bits=16, backbone="tiny_cnn", image_size=16, seed=0)
    model.save_pretrained(home)
    assert run("encode", home, home / "photos") == 0
    return home


@pytest.fixture(scope="module")
def model(home) -> SSCQ: return SSCQ.from_pretrained(home)


@pytest.fixture
def file(home, tmp_path) -> Path: return Path(shutil.copy(home / "photos.sscq", tmp_path / "photos.sscq"))


@pytest.fixture
def served(home, model, file):
    "A function that starts the application and gives a client of it"
    clients = []
    def start(write=True, **settings):
        index = Index.load(file, mmap=False)
        limits = Limits(**settings.pop("limits", {}))
        client = TestClient(application(Service(index, model, limits, file if write else None, **settings)))
        clients.append(client.__enter__())
        return clients[-1]
    yield start
    for client in clients: client.__exit__(None, None, None)


def picture(home, i: int) -> bytes: return (home / f"photos/{i:02}.png").read_bytes()


# --- what is answered

def test_the_same_answers_by_picture_vector_and_batch(served, home, model):
    client, wanted = served(), Index.load(home / "photos.sscq", embed=model.embed).search(home / "photos/03.png", k=4, refine=12)
    ids, distances = wanted.ids[0].tolist(), wanted.distances[0].tolist()
    assert ids[0] == 3
    one = client.post("/search?k=4", content=picture(home, 3), headers={"content-type": "image/png"})
    assert one.status_code == 200 and one.json() == {"answers": [{"ids": ids, "distances": distances}]}
    f = model.embed([picture(home, i) for i in (5, 3)])
    two = client.post("/search", json={"vectors": f.tolist(), "k": 4}).json()["answers"]
    assert two[0]["ids"][0] == 5 and two[1]["ids"] == ids
    three = client.post("/search", json={"pictures": [base64.b64encode(picture(home, i)).decode() for i in (5, 3)], "k": 4}).json()["answers"]
    assert [one["ids"] for one in three] == [one["ids"] for one in two]


def test_settings_are_those_of_the_index(served, home, model):
    client, index = served(), Index.load(home / "photos.sscq")
    f = model.embed(home / "photos")[:2]
    for asked in (dict(k=3, refine=0), dict(k=12, refine=0, radius=1.), dict(k=3, refine=0, among=[1, 5, 7]), dict(k=9, refine=0, without=[0, 1]),
                  dict(k=3, refine=6), dict(k=2, refine=0, distance="unsquared")):
        own = {name: value for name, value in asked.items() if (name, value) != ("refine", 0)}
        wanted = index.search(f, **own)
        found = client.post("/search", json={"vectors": f.tolist(), **asked}).json()["answers"]
        for q in range(2):
            n = int((wanted.ids[q] >= 0).sum())
            assert (found[q]["ids"], found[q]["distances"]) == (wanted.ids[q, :n].tolist(), wanted.distances[q, :n].tolist())


def test_more_answers_than_items_are_all_items(served, model, home):
    f = model.embed(picture(home, 0)).tolist()
    assert len(served().post("/search", json={"vectors": f, "k": 500}).json()["answers"][0]["ids"]) == 12
    assert len(served().post("/search", json={"vectors": f, "k": 500, "among": [1, 2]}).json()["answers"][0]["ids"]) == 2


def test_an_item_is_nearest_to_itself_or_to_its_equals(served):
    client = served()
    found = client.post("/search", json={"ids": [4, 8], "k": 1, "refine": 0}).json()["answers"]
    assert [one["distances"][0] for one in found] == [0., 0.]


def test_paths_are_given_out_where_that_was_asked(served, home):
    asked = dict(ids=[3], k=2)
    assert "paths" not in served().post("/search", json=asked).json()["answers"][0]
    assert str(home) in served(paths=True).post("/search", json=asked).json()["answers"][0]["paths"][0]


def test_what_is_added_is_found_and_on_disk(served, home, model, file):
    client = served()
    new = Image.fromarray(RNG.integers(0, 255, (16, 16, 3), np.uint8))
    buffer = BytesIO()
    new.save(buffer, "PNG")
    added = client.post("/add", content=buffer.getvalue(), headers={"content-type": "image/png"}, params={"names": "new.png"})
    assert added.json() == {"ids": [12]}
    assert client.post("/search?k=1", content=buffer.getvalue(), headers={"content-type": "image/png"}).json()["answers"][0]["ids"] == [12]
    assert Path(Index.load(file).paths[12]).name == "new.png"
    f = model.embed(home / "photos")[:2]
    assert client.post("/add", json={"vectors": f.tolist(), "names": ["a", "b"], "ids": [70, 50]}).json() == {"ids": [70, 50]}
    assert client.post("/remove", json={"ids": [0, 12]}).json() == {"removed": 2}
    assert Index.load(file).ids.tolist() == [*range(1, 12), 50, 70] and client.get("/health").json()["images"] == 13


def test_a_change_that_cannot_be_written_is_taken_back(served, home, model, monkeypatch, capsys):
    client = served()
    def full(self, path): raise OSError("no space left")
    monkeypatch.setattr(Index, "save", full)
    answer = client.post("/add", json={"vectors": model.embed(picture(home, 1)).tolist(), "names": ["x"]})
    assert answer.status_code == 500 and "no space" not in answer.text and "no space left" in capsys.readouterr().err
    assert client.get("/health").json()["images"] == 12
    monkeypatch.undo()
    assert client.post("/add", json={"vectors": model.embed(picture(home, 1)).tolist(), "names": ["x"]}).json() == {"ids": [12]}


def test_routes_are_those_of_the_document_and_the_page_shows_them(served):
    for write in (False, True):
        client = served(write=write)
        document = client.get("/openapi.json").json()
        assert document["openapi"].startswith("3.1") and set(document["paths"]) == {route.path for route in client.app.routes}
        assert ("/add" in document["paths"]) == write
        for route in client.app.routes: assert {m.lower() for m in route.methods} - {"head"} == set(document["paths"][route.path])
    page = client.get("/").text
    assert "openapi.json" in page and not re.search(r"(src|href)=[\"']?https?:", page)
    assert openapi(False, 8)["paths"].keys() < openapi(True, 8)["paths"].keys()


def test_metrics_count(served):
    client = served()
    client.post("/search", json={"ids": [1]}), client.post("/search", json={"ids": [99]}), client.get("/nowhere")
    text = client.get("/metrics").text
    for line in ('sscq_requests_total{route="search",status="200"} 1', 'sscq_requests_total{route="search",status="404"} 1',
                 'sscq_requests_total{route="other",status="404"} 1',
                 "sscq_images 12", "sscq_queries_waiting 0", 'sscq_seconds_bucket{le="+Inf"} 3'):
        assert line in text.splitlines()


# --- what is refused

def asks(**body): return dict(content=json.dumps(body), headers=JSON)


MALFORMED = {
    "no body": (400, dict(headers=JSON)),
    "no json": (400, dict(content="{", headers=JSON)),
    "a list": (400, dict(content="[1]", headers=JSON)),
    "twice": (400, dict(content='{"k": 1, "k": 2}', headers=JSON)),
    "nested": (400, dict(content="[" * 100_000, headers=JSON)),
    "no utf-8": (400, dict(content=b'{"k": "\xff"}', headers=JSON)),
    "nothing asked": (400, asks(k=3)),
    "two things asked": (400, asks(ids=[1], vectors=[[0.] * 8])),
    "unknown key": (400, asks(ids=[1], whithout=[2])),
    "a path": (400, asks(pictures="/etc/passwd")),
    "a path among": (400, asks(ids="/etc/passwd")),
    "short vector": (400, asks(vectors=[[1., 2.]])),
    "ragged": (400, asks(vectors=[[1.], [1., 2.]])),
    "nan": (400, dict(content='{"vectors": [' + ", ".join(["NaN"] * 8) + "]}", headers=JSON)),
    "huge": (400, asks(vectors=[10 ** 400] * 8)),
    "words": (400, asks(vectors=["a"] * 8)),
    "k of zero": (400, asks(ids=[1], k=0)),
    "k of a text": (400, asks(ids=[1], k="3")),
    "large k": (400, asks(ids=[1], k=10 ** 9)),
    "negative radius": (400, asks(ids=[1], radius=-1)),
    "negative id": (400, asks(ids=[-1])),
    "unknown id": (404, asks(ids=[4, 99])),
    "half an id": (400, asks(ids=[1.5])),
    "unknown distance": (400, asks(ids=[1], distance="cosine")),
    "none left": (404, asks(ids=[1], among=[99])),
    "no picture": (400, dict(content=b"none", headers={"content-type": "image/png"})),
    "no base64": (400, asks(pictures=["?"])),
    "setting": (400, dict(content=b"x", headers={"content-type": "image/png"}, params={"k": "many"})),
    "too long": (413, dict(content=b"x" * 5000, headers={"content-type": "image/png"})),
    "too many": (413, asks(vectors=[[0.] * 1] * 1025)),
    "a form": (415, dict(content=b"a=b", headers={"content-type": "application/x-www-form-urlencoded"})),
}


@pytest.fixture(scope="module")
def small(home, model):
    index = Index.load(home / "photos.sscq")
    with TestClient(application(Service(index, model, Limits(body=120_000 + 2048)))) as client: yield client


def is_refused(answer, status: int):
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"} and answer.json()["error"] and "\n" not in answer.json()["error"]
    assert "nobody" not in answer.text and not re.search(r"/(tmp|home|usr|root)/", answer.text)


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_refused_in_a_line(name, small):
    status, request = MALFORMED[name]
    if name == "too long": request = {**request, "content": b"x" * 200_000}
    is_refused(small.post("/search", **request), status)


def test_addresses_and_methods_that_are_not_there(small):
    is_refused(small.get("/search"), 405), is_refused(small.get("/../etc/passwd"), 404), is_refused(small.delete("/"), 405)
    is_refused(small.post("/add", json={"vectors": [[0.] * 8]}), 404)


CHANGES = {
    "nameless": ("/add", dict(vectors=1), 400), "names": ("/add", dict(vectors=1, names=["a", "b"]), 400), "texts": ("/add", dict(vectors=1, names=[1]), 400),
    "known id": ("/add", dict(vectors=1, names=["a"], ids=[3]), 409), "zero byte": ("/add", dict(vectors=1, names=["a\0"]), 400),
    "ids": ("/add", dict(vectors=1, names=["a"], ids=[3, 4]), 400), "unknown id": ("/remove", dict(ids=[3, 99]), 404), "no ids": ("/remove", {}, 400),
    "key": ("/remove", dict(ids=[3], all=True), 400),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_wrong_changes_nothing(name, served, home, model, file):
    client, (route, asked, status) = served(), CHANGES[name]
    before = file.read_bytes()
    if "vectors" in asked: asked = {**asked, "vectors": model.embed(picture(home, 0)).tolist()}
    is_refused(client.post(route, json=asked), status)
    assert file.read_bytes() == before and client.get("/health").json()["images"] == 12


def test_a_streamed_body_is_cut_off(small):
    def endless():
        for _ in range(10_000): yield b"x" * 1000
    is_refused(small.post("/search", content=endless(), headers={"content-type": "image/png"}), 413)


def test_a_queue_that_is_full_and_a_search_that_is_slow(served, model):
    gate = threading.Event()
    client = served(limits=dict(queue=2, seconds=.6))
    real = Index._nearest
    def slow(self, *args, **kwargs):
        gate.wait(10)
        return real(self, *args, **kwargs)
    Index._nearest = slow
    try:
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(client.post, "/search", json={"ids": [i]}) for i in range(6)]
            found = sorted(one.result().status_code for one in asked)
        assert found == [503] * 6
        texts = [one.result().json()["error"] for one in asked]
        assert any("wait already" in text for text in texts) and any("was not done in" in text for text in texts)
    finally:
        gate.set()
        Index._nearest = real
    for _ in range(50):
        if (last := client.post("/search", json={"ids": [1]})).status_code == 200: break
        time.sleep(.05)
    assert last.status_code == 200


def test_packages_that_are_not_there_are_named(home, monkeypatch, capsys):
    for name in ("starlette.applications", "uvicorn"): monkeypatch.setitem(sys.modules, name, None)
    assert run("serve", home / "photos.sscq") == 1
    assert capsys.readouterr().err.strip() == "sscq: the server needs Starlette and uvicorn: pip install 'sscq[serve]'"


def test_a_server_that_cannot_begin_says_why(home, capsys):
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert run("serve", home / "photos.sscq", "--port", port) == 1
    assert f"sscq: port {port} of '127.0.0.1' cannot be had" in capsys.readouterr().err
    for wrong, said in ((["--port", 70000], "must be at most 65,535"), (["--queue", 0], "must be at least 1"), (["--timeout", 0], "--timeout=0")):
        assert run("serve", home / "photos.sscq", *wrong) == 1
        assert said in capsys.readouterr().err
    assert run("serve", home / "none.sscq", "--port", 0, "--model", home) == 1
    assert "none.sscq is not a file" in capsys.readouterr().err


# --- many at once

def test_batches_hold_what_is_asked_alike():
    import asyncio
    sizes = []
    def search(f, how):
        sizes.append((len(f), how))
        time.sleep(.02)
        return f
    async def all_of_them():
        batcher = Batcher(search, Limits(batch=4, queue=100))
        asked = [(torch.full((1, 1), float(i)), "a" if i % 3 else "b") for i in range(12)]
        found = await asyncio.gather(*(batcher.ask(f, how) for f, how in asked))
        assert [int(f[start, 0]) for f, start in found] == list(range(12)) and batcher.waiting == 0
        batcher.pool.shutdown()
    asyncio.run(all_of_them())
    assert sum(n for n, _ in sizes) == 12 and max(n for n, _ in sizes) <= 4 and len(sizes) <= 6


class Restless(Index):
    "Somebody adds or removes whenever its length is asked for"
    change = None

    def __len__(self):
        n = super().__len__()
        if self.change is not None: self.change(self)
        return n


BETWEEN = {"added": {}, "added, of some": dict(among=tuple(range(40))), "added, without some": dict(without=(3, 50)), "added, near": dict(radius=1e9),
           "added, sorted": dict(refine=500)}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_is_added_between_two_looks_pushes_nothing_out(name):
    "The newest are nearest, so that with the number of a moment before, the farthest would be missing"
    f, asked = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), {**dict(k=100, radius=None, refine=None, distance=None), **BETWEEN[name]}
    index = Restless(torch.randn(2, 16, 2, generator=torch.Generator().manual_seed(1)), keep="half").add(f)
    index.change = lambda index: index.add(f[:1])
    for _ in range(3):
        before = set(index.snapshot().ids.tolist())
        found = searched(index, f[:1], How(**asked)).ids[0].tolist()
        assert before - set(asked.get("without", ())) <= set(found) and len(set(found)) == len(found)


@pytest.mark.parametrize("filters", [{}, dict(among=tuple(range(30))), dict(without=(0,))], ids=["all", "among", "without"])
def test_what_is_removed_between_two_looks_is_no_error(filters):
    f = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    index = Restless(torch.randn(2, 16, 2, generator=torch.Generator().manual_seed(1))).add(f)
    index.change = lambda index: index.remove([int(index.snapshot().ids[-1])])
    for _ in range(3):
        found = searched(index, f[:1], How(100, None, None, None, **filters)).ids[0].tolist()
        assert sorted(found) == [i for i in index.snapshot().ids.tolist() if i not in filters.get("without", ())]
    index.change = lambda index: index.remove(index.snapshot().ids.tolist())
    with pytest.raises(Refused) as refused: searched(index, f[:1], How(100, None, None, None, **filters))
    assert refused.value.status == 404


def test_two_add_while_eight_search(served, model, file):
    client, rng = served(), np.random.default_rng(1)
    D = Index.load(file).codebooks[:, 0].numel()
    new = rng.normal(size=(2, 15, D)).astype(np.float32)
    added, done = [{}, {}], threading.Event()
    def add(who):
        for i, f in enumerate(new[who]):
            answer = client.post("/add", json={"vectors": f.tolist(), "names": [f"{who}-{i}"]})
            assert answer.status_code == 200, answer.text
            added[who][answer.json()["ids"][0]] = f
        return True
    def search(who):
        "What was confirmed before the question is among the answers, and every distance is right"
        n = 0
        while not done.is_set():
            before = {**added[0], **added[1]}
            answer = client.post("/search", json={"vectors": new[who % 2][who].tolist(), "k": 1000, "refine": 0})
            assert answer.status_code == 200, answer.text
            found = answer.json()["answers"][0]
            assert before.keys() <= set(found["ids"]) and len(set(found["ids"])) == len(found["ids"])
            assert found["distances"] == sorted(found["distances"])
            n += 1
        return n
    with ThreadPoolExecutor(10) as pool:
        searches, adds = [pool.submit(search, who) for who in range(8)], [pool.submit(add, who) for who in range(2)]
        try: assert all(one.result() for one in adds)
        finally: done.set()
        assert all(one.result() > 0 for one in searches)
    index = Index.load(file)
    assert len(index) == 42 and index.ids.tolist() == list(range(42))
    every = {**added[0], **added[1]}
    own = Index(index.codebooks).add(np.stack([every[i] for i in sorted(every)]))
    assert torch.equal(own.codes, index.codes[12:])


# --- from old to new

@pytest.fixture(scope="module")
def successors(home, model) -> list:
    "Two models of the same number of bits, so that one's vectors are taken by the other's codes, with their indexes"
    other = SSCQ(bits=16, backbone="tiny_cnn", image_size=16, seed=1)
    return [(m.index(home / "photos", keep="half", progress=False), m) for m in (model, other)]


def test_each_answer_is_of_one_model_while_the_server_goes_to_and_fro(successors, home):
    "By picture, by id and by vector, from eight callers; the model that an answer names gave all of it"
    wanted, turn = {}, [0]
    for index, model in successors:
        for i in range(12):
            words = index.codebooks[torch.arange(len(index.codebooks)), index.codes[i].long()].flatten()
            by_vector = index.search(model.embed(picture(home, i)), k=5, refine=12)
            for kind, found in (("picture", by_vector), ("vector", by_vector), ("id", index.search(words, k=5))):
                wanted[index.fingerprint, kind, i] = found.ids[0].tolist(), found.distances[0].tolist()
    vectors = {index.fingerprint: [model.embed(picture(home, i)).tolist() for i in range(12)] for index, model in successors}
    def reopen():
        turn[0] += 1
        return successors[turn[0] % 2]
    service, done, seen = Service(*successors[0], reopen=reopen), threading.Event(), [set() for _ in range(8)]
    def search(who: int):
        n, own, kind = 0, successors[0][0].fingerprint, ("picture", "id", "vector")[who % 3]
        while not done.is_set():
            i = n % 12
            if kind == "picture": answer = client.post("/search?k=5", content=picture(home, i), headers={"content-type": "image/png"})
            elif kind == "id": answer = client.post("/search", json={"ids": [i], "k": 5, "refine": 0})
            else: answer = client.post("/search", json={"vectors": vectors[own][i], "k": 5, "model": own})
            if answer.status_code == 409:  # embedded anew, as it says
                assert kind == "vector"
                own = ({*vectors} - {own}).pop()
                continue
            assert answer.status_code == 200, answer.text
            by = answer.headers["sscq-model"]
            found = answer.json()["answers"][0]
            assert (found["ids"], found["distances"]) == wanted[by, kind, i]
            seen[who].add(by)
            n += 1
        return n
    with TestClient(application(service)) as client, ThreadPoolExecutor(8) as pool:
        searches = [pool.submit(search, who) for who in range(8)]
        try:
            end = time.monotonic() + 60
            while not all(len(own) == 2 for own in seen) and time.monotonic() < end:  # on a busy machine, later
                old = service.now
                assert service.switch()
                time.sleep(.05)
        finally: done.set()
        assert all(one.result() > 0 for one in searches)
        assert all(len(own) == 2 for own in seen) and service.now is not old and not old.users and old.batcher.pool._shutdown
    assert not service.now.users


def test_the_old_one_stays_until_its_last_answer(successors, home):
    gate, service = threading.Event(), Service(*successors[0], reopen=lambda: successors[1])
    old, real = service.now, service.now.batcher.search
    def slow(*args): return gate.wait(10) and real(*args)
    old.batcher.search = slow
    with TestClient(application(service)) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/search", json={"ids": [3], "k": 2})
        while not old.users: time.sleep(.01)
        assert service.switch() and not old.batcher.pool._shutdown
        assert client.post("/search", json={"ids": [3], "k": 2}).headers["sscq-model"] == successors[1][0].fingerprint
        gate.set()
        answer = waiting.result()
        assert answer.status_code == 200 and answer.headers["sscq-model"] == old.fingerprint
        while old.users: time.sleep(.01)
        assert old.batcher.pool._shutdown
        batches = [int(re.search(r"sscq_batches_total (\d+)", client.get("/metrics").text)[1]) for _ in range(2)]
        assert batches[0] == batches[1] >= 1


def test_what_cannot_be_switched_to_changes_nothing(served, successors, home, file, capsys):
    def missing(): raise FileNotFoundError("part-00002.sscq is missing")
    service = Service(*successors[0], reopen=missing)
    assert not service.switch() and service.now.index is successors[0][0]
    assert capsys.readouterr().err.strip() == "sscq: note: nothing was switched: part-00002.sscq is missing"
    assert not Service(*successors[0], write=file, reopen=lambda: successors[1]).switch()
    assert "would be missing" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no such signals here")
def test_the_command_follows_its_links_on_a_signal(home, model, tmp_path):
    "In a process of its own. Parts of the successor are first not whole, then of another model than the one beside them, then right"
    new, log = SSCQ(bits=16, backbone="tiny_cnn", image_size=16, seed=1), tmp_path / "said"
    for name, own in (("old", model), ("new", new)): own.save_pretrained(tmp_path / name / "model")
    assert run("encode", tmp_path / "old/model", home / "photos", "--out", tmp_path / "old/parts", "--part-size", 5) == 0
    again = ("reencode", tmp_path / "old/parts", tmp_path / "new/model", home / "photos", "--out", tmp_path / "new/parts")
    assert run(*again, "--part", "1/2") == 0
    (tmp_path / "current").symlink_to("old")

    def until(said: str, start: int = 0) -> re.Match:
        end = time.monotonic() + 60
        while not (found := re.search(said, log.read_text()[start:])):
            assert time.monotonic() < end, log.read_text()
            time.sleep(.02)
        return found

    def serves() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer: return json.load(answer)["model"]

    def switched(to: str, said: str) -> str:
        "The model that is served after a signal, once the server has said this"
        (tmp_path / "link").symlink_to(to)
        (tmp_path / "link").replace(tmp_path / "current")
        before = len(log.read_text())
        server.send_signal(signal.SIGHUP)
        until(said, before)
        return serves()

    command = ("serve", tmp_path / "current/parts", "--model", tmp_path / "current/model", "--port", 0)
    with open(log, "w") as file, children.Child(children.COMMAND, *command, stdout=file, stderr=file) as server:
        try:
            port = until(r"http://127\.0\.0\.1:(\d+)")[1]
            first = serves()  # the port is open before the address is said, and whoever asks is answered once all is ready
            assert switched("new", "is missing") == first
            assert run(*again) == 0
            assert switched("new", "switched to 12 images") == Index(new.codebooks.detach()).fingerprint
            assert switched("old", "switched to 12 images") == first
        finally: server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130, log.read_text()
    assert "Traceback" not in log.read_text()


def test_parts_of_another_network_with_the_same_codebooks_are_not_taken(home, model, tmp_path, capsys):
    other = SSCQ(bits=16, backbone="tiny_cnn", image_size=16, seed=1)
    other.codebooks.data.copy_(model.codebooks.data)
    for name, own in (("a", model), ("b", other)): own.save_pretrained(tmp_path / name)
    assert run("encode", tmp_path / "a", home / "photos", "--out", tmp_path / "parts", "--part-size", 5) == 0
    assert run("serve", tmp_path / "parts", "--model", tmp_path / "b", "--port", 0) == 1
    assert "was begun with model" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no such signals here")
def test_a_terminal_that_is_closed_ends_the_server(monkeypatch):
    happened, terminal, handler = [], [True], signal.getsignal(signal.SIGHUP)
    monkeypatch.setattr("sscq.serve.os.isatty", lambda number: terminal[0])
    with on_hangup(lambda: happened.append("switch"), lambda: happened.append("end")):
        os.kill(os.getpid(), signal.SIGHUP)
        while not happened: time.sleep(.01)
        terminal[0] = False
        os.kill(os.getpid(), signal.SIGHUP)
        while len(happened) < 2: time.sleep(.01)
    assert happened == ["switch", "end"] and signal.getsignal(signal.SIGHUP) is handler


def test_a_process_of_its_own(home, tmp_path):
    "The command itself, over a socket: it says its address, answers, minds its host, and ends without an error on Ctrl-C"
    command = [sys.executable, "-m", "sscq", "serve", str(home / "photos.sscq"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            port = int(re.search(r"http://127\.0\.0\.1:(\d+)", said)[1])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer: assert json.load(answer)["images"] == 12
            ask = urllib.request.Request(f"http://127.0.0.1:{port}/search?k=2", picture(home, 5), {"content-type": "image/png"})
            with urllib.request.urlopen(ask) as answer: assert json.load(answer)["answers"][0]["ids"][0] == 5
            foreign = urllib.request.Request(f"http://127.0.0.1:{port}/health", headers={"host": "evil.example"})
            with pytest.raises(urllib.error.HTTPError) as refused: urllib.request.urlopen(foreign)
            with refused.value as error: assert error.code == 400
            with socket.create_connection(("127.0.0.1", port)) as rude: rude.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer: assert b'route="search",status="200"} 1' in answer.read()
        finally:
            process.send_signal(2)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors and "stopped" in errors
