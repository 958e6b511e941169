"Pictures behind URLs: the same parts as of a folder, and servers that lie, break off, send too much or are not there."
import json
import socket
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sscq.urls as urls_module
from sscq.cli import main
from sscq.core import SSCQ
from sscq.parts import parts_info
from sscq.shards import MANIFEST, read_manifest, ShardedIndex
from sscq.urls import by_url, differs, is_list, listed_urls, state_of_info, Stores, UNKNOWN, UrlPictures, UrlState

fsspec = pytest.importorskip("fsspec")
RNG = np.random.default_rng(0)


def run(*argv) -> int: return main([str(a) for a in argv])


def refused(capsys, *argv) -> str:
    capsys.readouterr()
    assert run(*argv) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("sscq: ") and "\n" not in said, said
    return said


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model"
    SSCQ(bits=16, backbone="tiny_cnn", image_size=16, seed=0).save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    "Eleven pictures in two folders, one that is none, one hidden, one of another kind"
    photos = tmp_path_factory.mktemp("pictures") / "photos"
    (photos / "sub").mkdir(parents=True)
    for i in range(11): Image.fromarray(RNG.integers(0, 255, (16, 16, 3), np.uint8)).save(photos / (f"{i:02}.png" if i < 8 else f"sub/{i:02}.png"))
    (photos / "03.png").write_bytes(b"no picture")
    (photos / ".hidden.png").write_bytes((photos / "01.png").read_bytes())
    (photos / "notes.doc").write_text("notes")
    return photos


@pytest.fixture(scope="module")
def made(photos, model, tmp_path_factory) -> ShardedIndex:
    folder = tmp_path_factory.mktemp("made") / "parts"
    assert run("encode", model, photos, "--out", folder, "--part-size", 4) == 0
    return ShardedIndex(folder)


@pytest.fixture
def bucket(photos, tmp_path):
    "The same files in fsspec's memory; the URL of their folder"
    memory, name = fsspec.filesystem("memory"), f"/{tmp_path.name}/photos"
    for file in photos.rglob("*.*"): memory.pipe(f"{name}/{file.relative_to(photos)}", file.read_bytes())
    yield f"memory://{name}"
    memory.rm(f"/{tmp_path.name}", recursive=True)


def pipe(bucket: str, name: str, data: bytes) -> None: fsspec.filesystem("memory").pipe(f"{bucket.removeprefix('memory://')}/{name}", data)


@pytest.fixture(autouse=True)
def at_once(monkeypatch): monkeypatch.setattr(urls_module, "PAUSE", 0.)


def same(index: ShardedIndex, made: ShardedIndex):
    assert torch.equal(index.ids, made.ids) and torch.equal(index.codes, made.codes)
    assert np.array_equal(index.column("embedding"), made.column("embedding"))
    assert [Path(p.partition("::")[0]).name for p in index.paths] == [Path(p).name for p in made.paths]


# --- the same parts, wherever the pictures lie

def sources(kind: str, photos: Path, bucket: str, tmp_path: Path) -> str:
    if kind == "memory": return bucket
    if kind == "file": return f"file://{photos}"
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            for file in sorted(photos.rglob("*.*")): archive.write(file, f"inner/{file.relative_to(photos)}")
        return f"zip://inner::file://{tmp_path}/photos.zip"
    names = sorted(file for file in photos.rglob("*.png") if file.name[0] != ".")
    lines = ["# all of them", "", *(f"{bucket}/{file.relative_to(photos)}  " for file in names)]
    if kind == "list behind a URL":
        pipe(bucket, "list.txt", "\n".join(lines).encode())
        return f"{bucket}/list.txt"
    (tmp_path / "list.txt").write_text("\ufeff" + "\r\n".join(lines))
    return str(tmp_path / "list.txt")


@pytest.mark.parametrize("kind", ["memory", "file", "zip", "list", "list behind a URL"])
def test_parts_are_those_of_a_folder(kind, photos, bucket, model, made, tmp_path, capsys):
    source, out = sources(kind, photos, bucket, tmp_path), tmp_path / "parts"
    for part in ("1/2", "2/2", "2/2"):
        assert run("encode", model, source, "--out", out, "--part-size", 4, "--part", part, "--json", tmp_path / "did.json") == 0
        (tmp_path / "list.txt").unlink(missing_ok=True)  # the manifest has it now
    assert json.loads((tmp_path / "did.json").read_text())["made"] == []
    assert ("is not known" in capsys.readouterr().err) == ("list" in kind)
    index = ShardedIndex(out)
    same(index, made)
    assert all(by_url(path) for path in index.paths) and [Path(name.partition("::")[0]).name for name, _ in index.unreadable] == ["03.png"]
    assert parts_info(out)["named_by"] == "URL" and read_manifest(out).urls


def test_answers_name_urls_and_pages_do_without_the_pictures(photos, bucket, model, tmp_path, capsys):
    assert run("encode", model, bucket, "--out", tmp_path / "parts", "--part-size", 4) == 0
    capsys.readouterr()
    assert run("search", tmp_path / "parts", photos / "05.png", "--model", model, "-k", 2, "--json", tmp_path / "found.json") == 0
    assert f"{bucket}/05.png" in capsys.readouterr().out


def test_a_successor_needs_no_list(bucket, photos, model, tmp_path):
    assert run("encode", model, bucket, "--out", tmp_path / "parts", "--part-size", 4) == 0
    SSCQ(bits=32, backbone="tiny_cnn", image_size=16, seed=1).save_pretrained(tmp_path / "next")
    pipe(bucket, "00a.png", (photos / "05.png").read_bytes())  # came later
    assert run("reencode", tmp_path / "parts", tmp_path / "next", bucket, "--out", tmp_path / "new") == 0
    old, new = ShardedIndex(tmp_path / "parts"), ShardedIndex(tmp_path / "new")
    assert torch.equal(old.ids, new.ids) and old.paths == new.paths and new.bits == 32


# --- what changed

CHANGES = {"another size": b"x" * 7, "another tag or time": None, "no such file": b""}


@pytest.mark.parametrize("how", CHANGES)
def test_a_picture_that_changed_is_named_and_its_part_not_written(how, bucket, photos, model, tmp_path, capsys):
    out = tmp_path / "parts"
    assert run("encode", model, bucket, "--out", out, "--part-size", 4, "--part", "1/3") == 0
    memory, name = fsspec.filesystem("memory"), f"{bucket.removeprefix('memory://')}/06.png"
    if CHANGES[how] == b"": memory.rm(name)
    else: memory.pipe(name, CHANGES[how] or memory.cat_file(name))
    said = refused(capsys, "encode", model, bucket, "--out", out)
    assert f"{bucket}/06.png changed since the manifest was written ({how})" in said
    assert sorted(p.name for p in out.iterdir()) == [MANIFEST, "part-00001.sscq"]


def test_of_a_list_nobody_knows_what_changed(bucket, photos, model, made, tmp_path):
    source = sources("list", photos, bucket, tmp_path)
    assert run("encode", model, source, "--out", tmp_path / "parts", "--part-size", 20, "--part", "2/2") == 0
    pipe(bucket, "06.png", (photos / "05.png").read_bytes())
    fsspec.filesystem("memory").rm(f"{bucket.removeprefix('memory://')}/07.png")
    assert run("encode", model, source, "--out", tmp_path / "parts", "--json", tmp_path / "did.json") == 0
    index = ShardedIndex(tmp_path / "parts")
    assert torch.equal(index.codes[5], made.codes[4]) and 7 not in index.ids.tolist()
    assert {Path(one["path"]).name: one["reason"] for one in json.loads((tmp_path / "did.json").read_text())["skipped"]}["07.png"] == "no such file"


def test_states():
    known = state_of_info(dict(size=3, ETag="a"))
    assert known == state_of_info(dict(ETag="a", size=3, mtime=5)) and known.tag >= 0 and state_of_info({}) == UNKNOWN == state_of_info(dict(size=None))
    assert differs(known, state_of_info(dict(size=3, ETag="b"))) and differs(known, UrlState(4, -1))
    assert not differs(known, UrlState(3, -1)) and not differs(known, UNKNOWN) and not differs(known, state_of_info(dict(size=3, mtime=7)))
    assert state_of_info(dict(created=datetime.fromtimestamp(5.25))) == state_of_info(dict(created=5.25)) != state_of_info(dict(created=5.5))


# --- what cannot be begun

WRONG = {
    "no url": ("memory://a/1.png\nphotos/2.png\n", "line 2 of"), "a path": ("/etc/hosts\n", "line 1 of"), "empty": ("# nothing\n\n", "lists no pictures"),
    "unknown protocol": ("memory://a/1.png\ngopher9://b/2.png\n", "nobody knows how to read gopher9://"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_list_that_is_wrong_begins_nothing(name, model, tmp_path, capsys):
    text, said = WRONG[name]
    (tmp_path / "list.txt").write_text(text)
    assert said in refused(capsys, "encode", model, tmp_path / "list.txt", "--out", tmp_path / "parts", "--part-size", 4)
    assert not list((tmp_path / "parts").glob("*")) and not list((tmp_path / "parts").glob(".*"))


def test_what_does_not_fit_is_refused(bucket, photos, model, made, tmp_path, capsys):
    assert "say how many pictures" in refused(capsys, "encode", model, bucket, "--out", tmp_path / "parts")
    assert "no pictures at memory://nowhere" in refused(capsys, "encode", model, "memory://nowhere", "--out", tmp_path / "parts", "--part-size", 4)
    assert "was begun with a folder of files" in refused(capsys, "encode", model, bucket, "--out", made.manifest.folder)
    assert run("encode", model, bucket, "--out", tmp_path / "by-url", "--part-size", 4) == 0
    assert "was begun with URLs" in refused(capsys, "encode", model, photos, "--out", tmp_path / "by-url")


def test_packages_that_are_absent_are_named(bucket, model, tmp_path, monkeypatch, capsys):
    registry = sys.modules["fsspec.registry"]
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    assert "s3:// needs a package that is not installed (Install s3fs to access S3)" in refused(
        capsys, "encode", model, "s3://bucket/photos", "--out", tmp_path / "parts", "--part-size", 4)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    for protocol in ("http", "https"): monkeypatch.delitem(registry._registry, protocol, raising=False)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    assert "http:// needs a package that is not installed" in (said := refused(
        capsys, "encode", model, "http://127.0.0.1/photos", "--out", tmp_path / "parts", "--part-size", 4)) and "pip install 'sscq[urls]'" in said
    for name in [name for name in sys.modules if name == "fsspec" or name.startswith("fsspec.")]: monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert "are read through fsspec: pip install 'sscq[urls]'" in refused(capsys, "encode", model, bucket, "--out", tmp_path / "parts", "--part-size", 4)


def test_which_names_are_urls(tmp_path):
    assert is_list("s3://b/LIST.TXT") and not is_list(tmp_path / "list.txt") and not is_list("list.jpg")
    (tmp_path / "list.txt").touch()
    assert is_list(tmp_path / "list.txt") and not by_url(tmp_path) and by_url("simplecache::s3://b/x") and not by_url("C:\\photos")


# --- a server on this machine

class Server:
    "What a path is answered with: bytes, a status, or a way to misbehave"
    def __init__(self):
        self.files, self.asked, self.lock = {}, [], threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args): pass
            def do_HEAD(self): self.answer(True)
            def do_GET(self): self.answer(False)

            def answer(self, head: bool):
                with server.lock: server.asked.append((self.command, self.path))
                what = server.files.get(self.path, 404)
                if callable(what): what = what()
                if isinstance(what, int):
                    self.send_error(what)
                    return
                said, body = what if isinstance(what, tuple) else (len(what), what)
                self.send_response(200)
                if said is not None: self.send_header("Content-Length", str(said))
                self.send_header("ETag", f'"{hash(body) if isinstance(body, bytes) else 0}"')
                self.end_headers()
                if head: return
                try:
                    if isinstance(body, bytes): self.wfile.write(body)
                    else:
                        for part in body(): self.wfile.write(part)
                except OSError: pass  # whoever asked has had enough
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@contextmanager
def serving():
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs=dict(poll_interval=.02))
    thread.start()
    try: yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


@pytest.fixture
def server():
    pytest.importorskip("aiohttp")
    with serving() as server: yield server


def endless():
    for _ in range(10 ** 5): yield b"x" * 2 ** 16


def test_a_server_that_breaks_off_lies_and_sends_too_much(server, photos, model, made, tmp_path, monkeypatch):
    monkeypatch.setattr(urls_module, "LARGEST", 2 ** 20)
    good, busy = (photos / "05.png").read_bytes(), iter([503, 503, 503])
    server.files = {
        "/good": good, "/sometimes": lambda: next(busy, good), "/truncated": (len(good), good[:100]), "/huge": (10 ** 12, endless), "/endless": (None, endless),
        "/empty": b"", "/text": b"<html>not found</html>", "/closed": 403, "/broken": 500,
    }
    names = [*server.files, "/absent"]
    lines = [*(server.url + name for name in (*names, "/a.nef")), "http://127.0.0.1:9/refused", "memory://not-there/1.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert run("encode", model, tmp_path / "list.txt", "--out", tmp_path / "parts", "--part-size", 50, "--json", tmp_path / "did.json") == 0
    index = ShardedIndex(tmp_path / "parts")
    assert [path.removeprefix(server.url) for path in index.paths] == ["/good", "/sometimes"] and torch.equal(index.codes, made.codes[[4, 4]])
    said = {one["path"].removeprefix(server.url): one["reason"] for one in json.loads((tmp_path / "did.json").read_text())["skipped"]}
    assert said["/huge"] == said["/endless"] == "larger than 1,048,576 bytes" and said["/empty"] == "an empty file"
    assert "cannot be fetched" in said["/truncated"] and "not a picture" in said["/text"] and "raw file" in said["/a.nef"]
    assert (said["/closed"], said["/broken"], said["/absent"]) == ("the server answers 403", "the server answers 500", "the server answers 404")
    assert "cannot be fetched: ClientConnectorError" in said["http://127.0.0.1:9/refused"] and said["memory://not-there/1.png"] == "no such file"
    asked = [path for _, path in server.asked]
    assert asked.count("/absent") <= 2 < asked.count("/broken") and "/a.nef" not in asked


def test_a_folder_of_a_server_and_a_picture_that_changes_there(server, photos, model, tmp_path, capsys):
    names = [f"{i:02}.png" for i in range(4)]
    server.files = {"/photos/" + name: (photos / name).read_bytes() for name in names}
    server.files["/photos/"] = server.files["/photos"] = "".join(f'<a href="{name}">{name}</a>' for name in (*names, "x.html")).encode()
    assert run("encode", model, f"{server.url}/photos/", "--out", tmp_path / "parts", "--part-size", 3) == 0
    assert ShardedIndex(tmp_path / "parts").paths == [f"{server.url}/photos/{name}" for name in names if name != "03.png"]
    pictures = UrlPictures([f"{server.url}/photos/00.png"], [state_of_info(Stores()(server.url)[0].info(f"{server.url}/photos/00.png"))], 16)
    assert pictures[0].shape == (3, 16, 16)
    server.files["/photos/00.png"] = server.files["/photos/01.png"]
    with pytest.raises(ValueError, match="00.png changed since the manifest was written"): pictures[0]


def test_where_nothing_can_be_reached_nothing_is_written(model, tmp_path, capsys):
    pytest.importorskip("aiohttp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "list.txt").write_text("\n".join(f"{url}/{i}.png" for i in range(5)))
    assert run("encode", model, tmp_path / "list.txt", "--out", tmp_path / "parts", "--part-size", 5) == 1
    note, said = capsys.readouterr().err.strip().splitlines()
    assert "is not known" in note and said.startswith("sscq: none of 5 pictures can be reached, the first: http://127.0.0.1")
    assert [p.name for p in (tmp_path / "parts").iterdir()] == [MANIFEST]


def test_readers_are_bounded(bucket, photos, model, tmp_path, monkeypatch):
    "As many at the same time as were agreed on, and at least two"
    now, most, lock, real = [0], [0], threading.Lock(), UrlPictures._bytes
    def counted(self, *args):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(.02)
        try: return real(self, *args)
        finally:
            with lock: now[0] -= 1
    monkeypatch.setattr(UrlPictures, "_bytes", counted)
    monkeypatch.setattr("sscq.shards.READERS", 3)
    monkeypatch.setattr("sscq.parts.WORKERS", 1)
    assert run("encode", model, bucket, "--out", tmp_path / "parts", "--part-size", 11) == 0
    assert 2 <= most[0] <= 3


def test_a_listing_is_read_part_by_part(tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"memory://a/{i}\n" for i in range(7)))
    parts = listed_urls(str(tmp_path / "list.txt"), 3)
    assert [len(part.urls) for part in parts] == [3, 3, 1]
