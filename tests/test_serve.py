"The server: what it answers, what it refuses, and many callers at once."
import base64
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sscq.cli import main
from sscq.core import SSCQ
from sscq.index import Index
from sscq.queries import Batcher, Limits
from sscq.serve import application, listening, openapi, Service

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
    real = Index.search
    def slow(self, *args, **kwargs):
        gate.wait(10)
        return real(self, *args, **kwargs)
    Index.search = slow
    try:
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(client.post, "/search", json={"ids": [i]}) for i in range(6)]
            found = sorted(one.result().status_code for one in asked)
        assert found == [503] * 6
        texts = [one.result().json()["error"] for one in asked]
        assert any("wait already" in text for text in texts) and any("was not done in" in text for text in texts)
    finally:
        gate.set()
        Index.search = real
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
