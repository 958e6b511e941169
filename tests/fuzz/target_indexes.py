"""Index files: damaged by accident, and altered by somebody who mends every checksum.

What may happen: the file is refused in one clear line that names it, or the index that loads holds exactly what the file says, by a reader of
our own, and each of its verbs agrees with looking at everything. A file that was damaged by accident is refused, or answers as before."""

import contextlib
import copy
import hashlib
import io
import json
import os
import struct
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save

import damage
from damage import ODD_TENSORS, ODD_VALUES, damaged
from harness import Case, Target, refusal, said
from sscq import cli, indexfile, segments
from sscq.codebook import n_bits, unpack
from sscq.index import Index
from sscq.ivf import IVFIndex

OLD = Path(__file__).parent.parent / "data" / "saved_0.1.0"
FEW = 16  # from here on, equal codes are held once: files stay small


class Contents(NamedTuple):
    "What a file says that an index holds, in the order of the ids"

    ids: np.ndarray
    codes: np.ndarray
    columns: dict  # name -> array, or list of bytes
    next: int
    codebooks: np.ndarray


class World(NamedTuple):
    "Index files by name, and what they hold"

    files: dict  # name -> bytes
    held: dict  # name -> Contents
    first: dict  # of the first format: name -> (header's texts, tensors)


# a reader of our own, which believes everything

MAGIC = b"\x89SSCQ\r\n\x02"


def slot_of(raw: bytes, i: int) -> tuple:
    return struct.unpack("<QQQ32s8s", raw[64 * i : 64 * i + 64])


def newest(raw: bytes) -> tuple[int, int, int]:  # generation, where its table begins, bytes of it
    slots = [slot_of(raw, i)[:3] for i in (1, 2) if raw[64 * i : 64 * i + 64] not in (bytes(64), b"\xff" * 64)]
    return max(slots)


def array_of(raw: bytes, entry: dict) -> np.ndarray:
    n, kind = int(np.prod([1, *entry["shape"]], dtype=object)), np.dtype(entry["kind"])
    x = np.frombuffer(raw, np.uint8, n * kind.itemsize, entry["start"]) if n else np.empty(0, np.uint8)
    return x.copy().view(kind).reshape(entry["shape"])


def unpacked(held: np.ndarray, n: int, M: int, K: int) -> np.ndarray:
    if K > 16:
        return held[:n]
    i = np.arange(n)
    byte, half = 2 * (i % 8) + i % 16 // 8, i % 32 // 16
    return np.stack([held[i // 32, m, byte] >> (4 * half) & 15 for m in range(M)], 1).astype(np.uint8)


def pieces(offsets, joined) -> list[bytes]:
    return [joined[a:b].tobytes() for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist())]


def size_of(entry: dict) -> int:
    if not 0 < entry["n"] < 10**5:
        raise ValueError("no file here is as large")
    return entry["n"]


def contents(raw: bytes) -> Contents:
    if raw[:8] != MAGIC:
        return first_contents(raw)
    _, start, size = newest(raw)
    table = json.loads(raw[start : start + size])
    books = array_of(raw, table["codebooks"])
    M, K, _ = books.shape
    ids, codes, columns = [np.empty(0, np.int64)], [np.empty((0, M), np.uint8)], {name: [] for name in table["columns"]}
    for entry in table["segments"]:
        n, held = size_of(entry), array_of(raw, entry["codes"])
        live = np.ones(n, bool)
        if "hidden" in entry:
            live = ~np.unpackbits(array_of(raw, entry["hidden"]), count=n).astype(bool)
        own = array_of(raw, entry["ids"]) if "ids" in entry else np.arange(entry["first"], entry["first"] + n)
        if "starts" in entry:
            starts, rows = array_of(raw, entry["starts"]), array_of(raw, entry["rows"])
            different, all_codes = unpacked(held, len(starts) - 1, M, K), np.full((n, M), 255, np.uint8)
            for g in range(len(different)):
                all_codes[rows[starts[g] : starts[g + 1]]] = different[g].astype(np.uint8)
        else:
            all_codes = unpacked(held, n, M, K)
        ids.append(own[live])
        codes.append(all_codes[live])
        for name, column in entry["columns"].items():
            if "offsets" in column:
                texts = pieces(array_of(raw, column["offsets"]), array_of(raw, column["joined"]))
                columns[name] += [text for text, there in zip(texts, live) if there]
            else:
                columns[name] += list(array_of(raw, column["values"])[live])
    ids, codes = np.concatenate(ids), np.concatenate(codes)
    order = np.argsort(ids, kind="stable")
    return Contents(ids[order], codes[order], {name: [x[i] for i in order] for name, x in columns.items()}, table["next"], books)


def first_contents(raw: bytes) -> Contents:
    header, data = damage.split(raw)
    meta = json.loads(header["__metadata__"]["index"])
    kinds = {"F32": "<f4", "U8": "|u1", "I64": "<i8"}
    arrays = {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }
    books, n = arrays["codebooks"], meta["n"]
    codes = unpack(torch.from_numpy(arrays["rows"].copy()), *books.shape[:2]).numpy()
    columns = {"paths": arrays["paths"].tobytes().split(b"\0")} if "paths" in arrays else {}
    ids = arrays.get("ids", np.arange(n))
    order = np.argsort(ids, kind="stable")
    return Contents(ids[order], codes[order], {name: [x[i] for i in order] for name, x in columns.items()}, meta["next"], books)


# the files


def codebooks(M: int, K: int, d: int = 2) -> torch.Tensor:
    return torch.randint(-9, 10, (M, K, d), generator=torch.Generator().manual_seed(M * K)).float()


def some_codes(n: int, M: int, K: int, different: int = 10**6, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    all_codes = torch.randint(K, (min(n, different), M), generator=g, dtype=torch.uint8)
    return all_codes[torch.randint(len(all_codes), (n,), generator=g)] if different < n else all_codes


def prepare(folder: Path) -> World:
    segments._FEW, before = FEW, os.getcwd()
    os.chdir(folder)
    try:
        with mock.patch("os.urandom", lambda n: bytes(range(n))):
            files = written(folder)
    finally:
        os.chdir(before)
    held = {name: contents(raw) for name, raw in files.items()}
    world = World(files, held, {})
    for name, raw in files.items():
        path = folder / "check.sscq"
        path.write_bytes(raw)
        if raw[:8] != MAGIC:
            meta, tensors = damage.read(raw, folder / "first")
            world.first[name] = meta, {key: x.clone() for key, x in tensors.items()}  # they were mapped
            if damage.split(signed_first(json.loads(meta["index"]), tensors))[0] != damage.split(raw)[0]:
                raise SystemExit("the checksum of the first format is computed in another way now: mend tests/fuzz/target_indexes.py")
        elif not name.startswith("killed") and Draft(raw).assemble() != raw:
            raise SystemExit("an index is written in another way now: mend tests/fuzz/target_indexes.py")
        Index.load(path, verify=True)
    return world


def written(folder: Path) -> dict[str, bytes]:
    files, path = {}, folder / "x.sscq"

    def done(name: str):
        files[name] = path.read_bytes()
        path.unlink()

    def two(n, start=0):
        return dict(paths=[f"p/{i}.png" if i % 2 else f"/p/é{i}.png" for i in range(start, start + n)],
                    columns=dict(number=np.arange(start, start + n), weight=np.linspace(0, 1, n, dtype=np.float32), text=[f"t{i}" for i in range(n)]))

    index = Index(codebooks(5, 16), name="counted").add(some_codes(70, 5, 16), **two(70))
    index.save(path)
    index.remove([3, 4, 68]).add(some_codes(9, 5, 16, seed=1), **two(9, 70)).save(path)
    index.add(some_codes(3, 5, 16, seed=2), **two(3, 90)).save(path)
    done("columns, three times saved")
    with open(path, "wb") as file:
        file.write(files["columns, three times saved"])
    index = Index.load(path)
    index.add(some_codes(40, 5, 16, seed=3), **two(40, 90))

    def stop(*args):
        raise KeyboardInterrupt

    size = os.path.getsize(path)
    index.save(path)
    whole = path.read_bytes()
    done("four times saved")
    raw = files["columns, three times saved"]
    files["killed while it was saved"] = raw + whole[size:-100] if len(whole) > size else raw
    index = Index(codebooks(3, 256), distance="unsquared").add(some_codes(40, 3, 256), ids=np.arange(40) * 5 + 1)
    index.add(some_codes(9, 3, 256, seed=1), ids=np.arange(9) * 7 + 400).add(some_codes(5, 3, 256, seed=2), ids=[0, 2, 3, 4, 5]).remove([6, 11, 414])
    index.save(path)
    done("ids, K=256")
    Index(codebooks(4, 4)).add(some_codes(60, 4, 4, 6)).remove([5, 7, 59]).save(path)
    done("groups, K=4")
    Index(codebooks(2, 64)).add(some_codes(50, 2, 64, 7)).add(some_codes(9, 2, 64)).save(path)
    done("groups, K=64")
    index, f = Index(codebooks(3, 16), keep="half"), torch.randn(60, 6, generator=torch.Generator().manual_seed(5))
    index.add(f[:5].repeat(8, 1), ids=np.arange(40) * 2).add(f[:20], ids=np.arange(20) * 2 + 1).remove([1, 2, 8]).save(path)
    done("groups, ids, halves")
    Index(codebooks(1, 16), keep="int8").add(torch.randn(33, 2, generator=torch.Generator().manual_seed(6)), paths=[f"/{i}" for i in range(33)]).save(path)
    done("bytes")
    Index(codebooks(2, 16)).save(path)
    done("empty")
    for i, place in enumerate(sorted(OLD.glob("*/*.sscq"))):
        files[f"first format {i}, {place.stem}"] = place.read_bytes()
    return files


# damage by accident


def hole(raw, r):
    size = r.choice((64, 128, 192, 512, 4096))
    i = r.randrange(0, len(raw), 64)
    return raw[:i] + bytes(len(raw[i : i + size])) + raw[i + size :]


def moved(raw, r):
    size, i, j = r.choice((1, 64, 512)), r.randrange(len(raw)), r.randrange(len(raw))
    return raw[:j] + raw[i : i + size] + raw[j:]


def copied(raw, r):
    size = r.choice((64, 64, 512))
    i, j = r.randrange(0, len(raw), 64), r.randrange(0, len(raw), 64)
    some = raw[i : i + size]
    return raw[:j] + some + raw[j + len(some) :]


def lost(raw, r):
    i = r.randrange(len(raw))
    return raw[:i] + raw[i + r.choice((1, 64, 512)) :]


ACCIDENTS = {
    "flipped bits": damage.flip,
    "flipped bits ": damage.flip,
    "a bit of the head": lambda raw, r: damage.flip(raw[:192], r) + raw[192:],
    "blocks swapped": damage.swap,
    "zeros": damage.zero,
    "a hole": hole,
    "a hole ": hole,
    "bytes in between": moved,
    "a block copied": copied,
    "bytes lost": lost,
    "cut short": lambda raw, r: raw[: r.randrange(len(raw))],
    "bytes appended": lambda raw, r: raw + r.choice((bytes, r.randbytes))(r.randrange(1, 300)),
    "written twice": lambda raw, r: raw + raw,
    "its head again": lambda raw, r: raw + raw[: r.choice((64, 192, 1000))],
}


def make_damaged(w: World, r, i: int) -> Case:
    name = r.choice(list(w.files))
    raw = w.files[name]
    if raw[:8] != MAGIC and r.random() < 0.5:
        kind, content = damaged(raw, r)
    else:
        kind = r.choice(list(ACCIDENTS))
        content = ACCIDENTS[kind](raw, r)
    return Case(f"{name}={kind.strip()}", (content, name, {}))


# altered, and all checksums mended


class Draft:
    "A file taken apart: its table, and the bytes before it"

    def __init__(self, raw: bytes):
        self.generation, start, size = newest(raw)
        self.raw, self.data, self.table = raw, bytearray(raw[:start]), json.loads(raw[start : start + size])
        self.text, self.keep_digests, self.slots = None, False, lambda slots: slots

    def put(self, x: np.ndarray) -> dict:
        self.data += bytes(-len(self.data) % 64)
        entry = dict(start=len(self.data), kind=x.dtype.str, shape=list(x.shape), sha256="")
        self.data += np.ascontiguousarray(x).tobytes()
        self.data += bytes(-len(self.data) % 64)
        return entry

    def assemble(self) -> bytes:
        for entry in [] if self.keep_digests else entries(self.table):
            with contextlib.suppress(Exception):
                size = int(np.prod([1, *entry["shape"]], dtype=object)) * np.dtype(entry["kind"]).itemsize
                size += -size % 64
                if entry["start"] >= 0 and size >= 0:
                    entry["sha256"] = hashlib.sha256(self.data[entry["start"] : entry["start"] + size]).hexdigest()
        text = json.dumps(self.table).encode() if self.text is None else self.text
        raw, i = bytearray(self.data + text), 1 + self.generation % 2
        raw[64 * i : 64 * i + 64] = slot(bytes(raw[:64]), self.generation, len(self.data), len(text), hashlib.sha256(text).digest())
        slots = self.slots([bytes(raw[64 * i : 64 * i + 64]) for i in (1, 2)])
        raw[64:192] = b"".join(slots)
        return bytes(raw)


def slot(head: bytes, *what) -> bytes:
    some = struct.pack("<QQQ32s", *what)
    return some + hashlib.sha256(head + some).digest()[:8]


def nodes(value, path=()):  # places in a table
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from nodes(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield (*path, i)
            yield from nodes(inner, (*path, i))


def at(table, path):
    for key in path:
        table = table[key]
    return table


def entries(table):  # what describes arrays
    found = [table] if isinstance(table, dict) and {"start", "kind", "shape"} <= table.keys() else []
    inner = list(table.values()) if isinstance(table, dict) else table if isinstance(table, list) else []
    return found + [entry for value in inner for entry in entries(value)]


def all_like(x, value):
    return np.full(x.shape, value).astype(x.dtype)


def with_one(x, i, value):
    return np.where(np.arange(x.size) == i, value, x.reshape(-1)).astype(x.dtype).reshape(x.shape)


ODD_ARRAYS = {
    "noise": lambda x, r: np.frombuffer(r.randbytes(x.nbytes), x.dtype).reshape(x.shape),
    "small noise": lambda x, r: np.array([r.randrange(16) for _ in range(x.size)]).astype(x.dtype).reshape(x.shape),
    "a byte": lambda x, r: np.frombuffer(damage.flip(x.tobytes(), r), x.dtype).reshape(x.shape),
    "a value": lambda x, r: with_one(x, r.randrange(x.size), r.choice((0, 1, 5, 17, 100, 255, -1))),
    "zeros": lambda x, r: np.zeros_like(x),
    "255": lambda x, r: np.full(x.nbytes, 255, np.uint8).view(x.dtype).reshape(x.shape),
    "ones": lambda x, r: all_like(x, 1),
    "-1": lambda x, r: all_like(x.astype(np.int64), -1),
    "reversed": lambda x, r: x[::-1],
    "rolled": lambda x, r: np.roll(x, 1, 0),
    "one twice": lambda x, r: np.concatenate([x[:1], x[:-1]]),
    "two swapped": lambda x, r: x[np.r_[1, 0, 2 : len(x)]],
    "shorter": lambda x, r: x[:-1],
    "longer": lambda x, r: np.concatenate([x, x[-1:]]),
    "twice": lambda x, r: np.concatenate([x, x]),
    "transposed": lambda x, r: x.T,
    "flat": lambda x, r: x.reshape(-1),
    "a column": lambda x, r: x.reshape(-1, 1),
    "one more dimension": lambda x, r: x[None],
    "wider": lambda x, r: np.concatenate([x, x], -1),
    "narrower": lambda x, r: x[..., :-1],
    "empty": lambda x, r: x[:0],
    "a scalar": lambda x, r: x.reshape(-1)[:1].reshape(()),
    "shifted": lambda x, r: x + x.dtype.type(1),
    "doubled": lambda x, r: x + x,
    "up to 2**62": lambda x, r: all_like(x.astype(np.int64), 2**62 - 1),
    "the last 2**62 - 1": lambda x, r: np.where(np.arange(len(x)) == len(x) - 1, 2**62 - 1, x.astype(np.int64)),
    "NaN": lambda x, r: all_like(x.astype(np.float32), np.nan),
    "one NaN": lambda x, r: with_one(x if x.dtype.kind == "f" else x.astype(np.float32), 0, np.nan),
    "infinite": lambda x, r: all_like(x.astype(np.float32), np.inf),
    "3e38": lambda x, r: all_like(x.astype(np.float32), 3e38),
    "1e18": lambda x, r: all_like(x.astype(np.float32), 1e18),
    "1e-40": lambda x, r: all_like(x.astype(np.float32), 1e-40),
    "0.5": lambda x, r: all_like(x.astype(np.float32), 0.5),
    **{kind: lambda x, r, kind=kind: x.astype(kind) for kind in "<f2 <f4 <f8 >f4 <c8 <i8 >i8 <i4 <u4 |u1 |i1 |b1 <U2 <M8[s]".split()},
}

MORE_VALUES = [
    *ODD_VALUES,
    *(4, 5, 16, 64, 70, 79, 82, 256, 2**31 - 1, 2**32, 2**62, 2**62 - 1, 2**64, -(2**63), 4.0, 70.0),
    *("squared", "unsquared", "half", "int8", "<f4", "<i8", "|O", ">i8", "|V8", "<f16", "paths", "\ud800", "é\0", "A" * 5000),
    *([[]], [0], [2**40, 2**40], [70, 0], [0, 2**61, 2**61], [1] * 100, {"start": 192}),
]


def texts_of(x: list[bytes]):
    return np.cumsum([0, *map(len, x)]), np.frombuffer(b"".join(x), np.uint8)


def alter_value(d: Draft, r):
    path = r.choice(list(nodes(d.table)))
    value = copy.deepcopy(r.choice(MORE_VALUES))
    at(d.table, path[:-1])[path[-1]] = value
    return f"{'.'.join(map(str, path))}={value!r:.40}"


def alter_top(d: Draft, r):
    name = r.choice([name for name in d.table if name not in ("segments", "codebooks")])
    value = copy.deepcopy(r.choice(MORE_VALUES))
    d.table[name] = value
    return f"{name}={value!r:.40}"


def alter_other_value(d: Draft, r):
    a, b = (r.choice(list(nodes(d.table))) for _ in range(2))
    at(d.table, a[:-1])[a[-1]] = copy.deepcopy(at(d.table, b))
    return f"{'.'.join(map(str, a))} as {'.'.join(map(str, b))}"


def alter_without(d: Draft, r):
    path = r.choice(list(nodes(d.table)))
    del at(d.table, path[:-1])[path[-1]]
    return f"without {'.'.join(map(str, path))}"


def alter_more(d: Draft, r):
    where = r.choice([(), *(path for path in nodes(d.table) if isinstance(at(d.table, path), (dict, list)))])
    value, place = copy.deepcopy(r.choice(MORE_VALUES)), at(d.table, where)
    if isinstance(place, list):
        place.insert(r.randrange(len(place) + 1), value)
        return f"{value!r:.40} in {'.'.join(map(str, where))}"
    key = r.choice(("evil", "hidden", "ids", "starts", "rows", "values", "offsets", "paths", "roots", "keep", "sha256", "\x1b[2J\n", ""))
    place[key] = value
    return f"{'.'.join(map(str, (*where, key)))}={value!r:.40}"


def alter_array(d: Draft, r):
    found = [path for path in nodes(d.table) if isinstance(at(d.table, path), dict) and "kind" in at(d.table, path)]
    path, kind = r.choice(found), r.choice(list(ODD_ARRAYS))
    x = np.array(ODD_ARRAYS[kind](array_of(bytes(d.data), at(d.table, path)), r))
    at(d.table, path[:-1])[path[-1]] = d.put(x)
    if path == ("codebooks",) and r.random() < 0.8 and x.ndim == 3:
        d.table |= dict(zip(("n_books", "n_words", "word_dim"), x.shape), bits=x.shape[0] * max(x.shape[1] - 1, 1).bit_length())
        with contextlib.suppress(Exception):
            d.table["fingerprint"] = indexfile.model_fingerprint(torch.from_numpy(x))
    return f"{'.'.join(map(str, path))}: {kind}"


def alter_place(d: Draft, r):
    found = entries(d.table)
    entry, other = r.choice(found), r.choice(found)
    field = r.choice(("start", "start", "shape", "kind"))
    n = len(d.data)
    own, one = entry["start"], entry["shape"]
    values = dict(
        start=(0, 64, 128, 192, own + 64, own - 64, own + 1, other["start"], n, n - 64, n + 64, 2**62, 2**63, -64),
        shape=([], [0], [-1], [2**62], [2**31, 2**31], [2**63, 2], one[::-1], [*one, 1], [1, *one], [one[0] + 1], [0, 2**62], other["shape"]),
        kind=(*"|u1 |i1 |b1 <i4 <u4 <i8 <u8 <f4 <f2 <f8 <f16 |O |S1 <U1 f float32".split(), "", other["kind"]),
    )[field]
    entry[field] = value = r.choice(values)
    return f"an array's {field}={value!r:.40}"


def alter_segments(d: Draft, r):
    listed, kind = d.table["segments"], r.choice(("twice", "without", "reversed", "n", "first", "together", "next"))
    i = r.randrange(len(listed))
    entry = listed[i]
    if kind == "twice":
        listed.insert(r.randrange(len(listed) + 1), copy.deepcopy(entry))
    elif kind == "without":
        del listed[i]
    elif kind == "reversed":
        listed.reverse()
    elif kind == "n":
        entry["n"] += r.choice((-1, 1, 32, -32, 2**31, -entry["n"]))
    elif kind == "first":
        entry["first"] = r.choice((0, 1, entry["first"] + 1, 1000, 2**61, 2**62 - 1, 2**62, 2**62 - entry["n"]))
    elif kind == "together":  # what fits
        entry["first"] += 1000
        d.table["next"] = r.choice((entry["first"] + entry["n"], 2**62))
    else:
        d.table["next"] = r.choice((0, d.table["next"] - 1, d.table["next"] + 5, 2**62 - 1, 2**62, 2**62 + 1))
    return f"segments {kind}"


def alter_ids(d: Draft, r):
    entry, kind = r.choice(d.table["segments"]), r.choice(("given", "spread", "negative", "descending", "twice", "far", "as in the other"))
    n = size_of(entry)
    x = dict(
        given=np.arange(n) + entry["first"],
        spread=np.arange(n) * 7,
        negative=np.arange(n) - 1,
        descending=np.arange(n)[::-1],
        twice=np.arange(n) // 2,
        far=2**62 - n + np.arange(n),
    ).get(kind, np.arange(n) + d.table["segments"][0]["first"])
    entry["ids"] = d.put(np.ascontiguousarray(x, dtype=np.int64))
    if r.random() < 0.8:
        d.table["next"] = max(d.table["next"], int(x.max()) + 1)
    return f"ids {kind}"


def alter_hidden(d: Draft, r):
    entry, kind = r.choice(d.table["segments"]), r.choice(("some", "all", "none", "all but one", "longer"))
    n = size_of(entry)
    hidden = dict(some=np.arange(n) % 3 == 0, all=np.ones(n, bool), none=np.zeros(n, bool), longer=np.ones(n + 8, bool)).get(kind, np.arange(n) != n // 2)
    bits = np.packbits(hidden)
    if r.random() < 0.5 and len(bits):
        bits[-1] |= (1 << (-n % 8)) - 1  # bits of no item
    entry["hidden"] = d.put(bits)
    return f"hidden {kind}"


def alter_groups(d: Draft, r):
    entry = r.choice(d.table["segments"])
    n, (M, K, _) = size_of(entry), array_of(bytes(d.data), d.table["codebooks"]).shape
    kind = r.choice(("one", "interleaved", "each its own", "another order", "not all", "empty one"))
    if kind == "one":
        starts, rows = [0, n], np.arange(n)
    elif kind == "interleaved":
        starts, rows = [0, -(-n // 2), n], np.r_[0:n:2, 1:n:2]
    elif kind == "each its own":
        starts, rows = np.arange(n + 1), np.arange(n)
    elif kind == "another order":
        starts, rows = [0, n // 2, n], np.r_[1:n:2, 0:n:2]
    elif kind == "not all":
        starts, rows = [0, n - 1], np.arange(n)
    else:
        starts, rows = [0, 0, n], np.arange(n)
    codes = np.array([[r.randrange(K) for _ in range(M)] for _ in starts[1:]], np.uint8).reshape(-1, M)
    entry["codes"] = d.put(segments.to_held(codes, K))
    entry["starts"], entry["rows"] = d.put(np.array(starts, np.int32)), d.put(np.asarray(rows, np.int32))
    return f"groups {kind}"


def alter_columns(d: Draft, r):
    name = r.choice(("paths", "text", "number", "embedding", "embedding_scale", "new", "\x1b[2J", "", "a b"))
    d.table["columns"] = [*(x for x in d.table["columns"] if x != name), name]
    kind = r.choice(("texts", "numbers", "rows", "strange texts", "texts of another length", "of two kinds", "halves"))
    for i, entry in enumerate(d.table["segments"]):
        n, own = size_of(entry), kind if kind != "of two kinds" else ("texts", "numbers")[i % 2]
        entry["columns"].pop(name, None)
        if "texts" in own:
            texts = [r.choice((b"", b"\xff", b"\0", b"\x1b[2J\n", b"a" * 3000, b"x\0y")) if "strange" in own else b"q/%d" % j for j in range(n)]
            offsets, joined = texts_of(texts if "another" not in own else texts[1:])
            entry["columns"][name] = dict(offsets=d.put(offsets), joined=d.put(joined))
        else:
            shape = dict(numbers=(n,), halves=(n, r.choice((2, 4, 6)))).get(own, (n, r.randrange(3)))
            entry["columns"][name] = dict(values=d.put(np.ones(shape, "<f2" if own == "halves" else r.choice(("<i8", "<f4", "|b1", "|i1")))))
    if r.random() < 0.3:
        d.table["keep"] = r.choice(("half", "int8", None))
    return f"column {name!r}, {kind}"


def alter_text(d: Draft, r):
    text = json.dumps(d.table)
    texts = {
        "deep": b"[" * 100_000,
        "deep, closed": b'{"a":' * 900 + b"{}" + b"}" * 900,
        "deep inside": text[:-1].encode() + b', "x":' + b"[" * 600 + b"]" * 600 + b"}",
        "deeper inside": text[:-1].encode() + b', "x":' + b"[" * 960 + b"]" * 960 + b"}",
        "as deep as can be": text[:-1].encode() + b', "x":' + b"[" * 990 + b"]" * 990 + b"}",
        "null": b"null",
        "a list": b"[]",
        "a string": b'"x"',
        "nothing": b"",
        "an empty object": b"{}",
        "cut": text[: r.randrange(len(text))].encode(),
        "a key twice": text[:-1].encode() + b', "n": 1}',
        "a key twice inside": text.replace('"first"', '"n": 3, "first"', 1).encode(),
        "digits": text[:-1].encode() + b', "n":' + b"9" * 5000 + b"}",
        "4,000 digits": text.replace('"next":', '"next": ' + "9" * 4000, 1).replace("9 ", "9").encode(),
        "not UTF-8": text.encode()[:-1] + b', "x": "\xff"}',
        "UTF-16": text.encode("utf-16"),
        "a mark of its order": b"\xef\xbb\xbf" + text.encode(),
        "NaN": text[:-1].encode() + b', "next": NaN}',
        "spaces": text.encode() + b" " * 10_000,
        "another format": text.replace("sscq-index", r.choice(("sscq", "", "\\u001b[2J")), 1).encode(),
        "another version": text.replace('"version": 2', f'"version": {r.choice((1, 3, -1, 2.0, "null", "true"))}', 1).encode(),
    }
    kind = r.choice(list(texts))
    d.text = texts[kind]
    return f"text: {kind}"


def alter_slots(d: Draft, r):
    head, n = bytes(d.data[:64]), len(d.data)
    kind = r.choice(("generation", "start", "size", "both", "swapped", "none", "only the other", "gap", "huge"))

    def change(slots):
        i = d.generation % 2
        g, start, size, sha, _ = struct.unpack("<QQQ32s8s", slots[i])
        if kind == "generation":
            slots[i] = slot(head, r.choice((0, g + 1, g + 2, g + 5, 2**64 - 1)), start, size, sha)
        elif kind == "start":
            slots[i] = slot(head, g, r.choice((0, 64, 192, start - 1, start + 1, 2**63, 2**64 - 1)), size, sha)
        elif kind == "size":
            slots[i] = slot(head, g, start, r.choice((0, size - 1, size + 1, 2**63, 2**64 - 1)), sha)
        elif kind == "both":
            slots[1 - i] = slots[i]
        elif kind == "swapped":
            slots.reverse()
        elif kind == "none":
            slots = [bytes(64)] * 2
        elif kind == "only the other":
            slots[i] = r.choice((bytes(64), b"\xff" * 64))
        elif kind == "gap":
            slots[1 - i] = slot(head, g + 3, n, size, sha)
        else:
            slots[i] = slot(head, g, 2**64 - 1, 2**64 - 1, sha)
        return slots

    d.slots = change
    return f"slots: {kind}"


def alter_head(d: Draft, r):
    i = r.choice((*range(8), 8, 20, 30, 63))
    d.data[i] ^= 1 << r.randrange(8)
    return f"byte {i} of the head"


ALTERATIONS = [alter_value, alter_value, alter_top, alter_top, alter_other_value, alter_without, alter_more, alter_array, alter_array, alter_array,
               alter_place, alter_segments, alter_ids, alter_hidden, alter_groups, alter_columns, alter_text, alter_slots, alter_head]


def signed_first(meta: dict, tensors: dict) -> bytes:
    "A file of the first format whose checksum is right, whatever it says"
    sha = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        kind = str(x.dtype).removeprefix("torch.")
        sha.update(f"{name} {kind} {tuple(x.shape)}".encode())
        sha.update(x.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return save({name: x.contiguous() for name, x in tensors.items()}, {"index": json.dumps(meta), "sha256": sha.hexdigest()})


def alter_first(meta: dict, tensors: dict, r) -> str:
    kind = r.choice(("value", "value", "tensor", "tensor", "without", "more", "roots", "paths", "ids", "rows"))
    if kind == "value":
        name, value = r.choice(list(meta)), r.choice(MORE_VALUES)
        meta[name] = copy.deepcopy(value)
        return f"{name}={value!r:.40}"
    if kind == "without":
        name = r.choice([*meta, *tensors])
        meta.pop(name, None)
        tensors.pop(name, None)
        return f"without {name}"
    if kind == "tensor":
        name, odd = r.choice(list(tensors)), r.choice(list(ODD_TENSORS))
        tensors[name] = ODD_TENSORS[odd](tensors[name])
        if name == "codebooks" and r.random() < 0.8 and tensors[name].ndim == 3:
            x = tensors[name]
            meta |= dict(zip(("n_books", "n_words", "word_dim"), x.shape), bits=x.shape[0] * max(x.shape[1] - 1, 1).bit_length())
            with contextlib.suppress(Exception):
                meta["fingerprint"] = indexfile.model_fingerprint(x)
        return f"{name}: {odd}"
    if kind in ("more", "roots"):
        name, value = "roots" if kind == "roots" else r.choice(("evil", "keep", "format", "segments")), r.choice([*MORE_VALUES, ["/nowhere"], ["\0"]])
        meta[name] = copy.deepcopy(value)
        return f"more {name}={value!r:.40}"
    n = len(tensors["rows"]) if tensors.get("rows") is not None and tensors["rows"].ndim else 1
    if kind == "paths":
        text = r.choice((b"", b"\0" * (n - 1), b"\xff\0" * (n - 1), b"\0" * n, b"a\0" * (n - 2) + b"b", b"\x1b[2J\0" * (n - 1) + b"q"))
        tensors["paths"] = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        return f"paths {text[:20]!r}"
    if kind == "ids":
        x = torch.arange(n)
        tensors["ids"] = r.choice((x * 3, x - 1, x.flip(0), x // 2, x + 2**62 - n, torch.arange(n + 1)))
        if r.random() < 0.8:
            meta["next"] = int(tensors["ids"].max()) + 1
        return "other ids"
    if "rows" in tensors:
        tensors["rows"] = torch.frombuffer(bytearray(r.randbytes(tensors["rows"].numel()) or b"0"), dtype=torch.uint8).reshape(tensors["rows"].shape)
    return "other rows"


def make_altered(w: World, r, i: int) -> Case:
    name = r.choice(list(w.files))
    several = 1 if r.random() < 0.6 else r.choice((2, 3))
    labels = []
    if name in w.first:
        meta, tensors = json.loads(w.first[name][0]["index"]), dict(w.first[name][1])
        for _ in range(several):
            with contextlib.suppress(KeyError, RuntimeError, TypeError, ValueError, IndexError):
                labels.append(alter_first(meta, tensors, r))
        return Case(f"{name}={' & '.join(labels)}", (signed_first(meta, tensors), None, {}))
    draft = Draft(w.files[name])
    for _ in range(several):
        no_such_place = contextlib.suppress(KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError)
        with no_such_place, warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            labels.append(r.choice(ALTERATIONS)(draft, r))
    draft.keep_digests = r.random() < 0.05
    if r.random() < 0.6:
        with contextlib.suppress(Exception):
            draft.table["n"] = len(contents(draft.assemble()).ids)
    return Case(f"{name}={' & '.join(labels)}", (draft.assemble(), None, {}))


# what happens to them


class Lie(Exception):
    pass


def hold(condition, what: str):
    if not condition:
        raise Lie(what)


def same_bits(a, b) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def holds(index: Index, c: Contents) -> None:
    "An index holds what its file says"
    hold(len(index) == len(c.ids) and index.ids.tolist() == c.ids.tolist(), "ids are not the file's")
    hold(np.array_equal(index.codes.numpy(), c.codes), "codes are not the file's")
    hold(bool((index.codes.numpy() < c.codebooks.shape[1]).all()), "codes of codewords that do not exist")
    hold(len(set(c.ids.tolist())) == len(c.ids), "an id stands there twice")
    hold(same_bits(index.codebooks.numpy(), c.codebooks), "codebooks are not the file's")
    for name, values in c.columns.items():
        if name == "paths":
            hold([os.fsencode(path) for path in index.paths or []] == values or all(map(ends, index.paths or [], values)), "paths are not the file's")
        elif len(values) and isinstance(values[0], bytes):
            hold([text.encode("utf-8", "surrogateescape") for text in index.column(name)] == values, f"column {name} is not the file's")
        elif len(values):
            hold(same_bits(index.column(name), np.stack(values)), f"column {name} is not the file's")


def ends(path: str, name: bytes) -> bool:
    return os.path.normpath(os.fsencode(path)).endswith(os.path.normpath(name)) if name else True


def measured(q: np.ndarray, c: Contents, squared: bool) -> tuple[np.ndarray, float]:  # distances to all, and how far they may be off
    M, _, d = c.codebooks.shape
    parts, words = q.reshape(M, 1, d).astype(np.float64), c.codebooks.astype(np.float64)
    table, scale = np.square(parts - words).sum(-1), float(np.square(parts).sum() + np.square(words).max() * M * d)
    own = table[np.arange(M), c.codes]
    return (own if squared else np.sqrt(own)).sum(-1), 1e-5 * scale if squared else M * float(np.sqrt(1e-6 * scale))


def right(index: Index, c: Contents, hits, f, distance: str, k: int, allowed=None, radius=np.inf) -> None:
    "Answers are the nearest of those that are allowed"
    hold(hits.verified, "a file that was waited for is not verified")
    place = {id: i for i, id in enumerate(c.ids.tolist())}
    for q in range(len(f)):
        own, off = measured(f[q].numpy(), c, distance == "squared")
        found, near = hits.ids[q].tolist(), hits.distances[q].numpy()
        real = [i for i in found if i >= 0]
        rows = [place.get(i, -1) for i in real]
        hold(-1 not in rows and len(set(real)) == len(real), "an id was found that is not there, or twice")
        mask = np.ones(len(own), bool) if allowed is None else np.isin(c.ids, allowed)
        hold(mask[rows].all(), "what a filter left out was found")
        hold(np.allclose(near[: len(rows)], own[rows], rtol=1e-4, atol=off), "distances are wrong")
        pairs = list(zip(near[: len(rows)].tolist(), real))
        hold(pairs == sorted(pairs), "answers are not in order")
        best = np.sort(own[mask])[:k]
        inside = int((best <= radius - off).sum()) if radius < np.inf else len(best)
        hold(len(real) >= inside and len(real) <= len(best), f"{len(real)} of {len(best)} were found")
        hold(np.allclose(np.sort(own[rows]), best[: len(rows)], rtol=1e-4, atol=2 * off), "nearer ones were not found")


def verbs(index: Index, c: Contents, path: Path) -> str:
    "Everything that can be asked of an index; gives the verb that is under way, and raises a Lie"
    M, K, d = c.codebooks.shape
    f = torch.cat([torch.tensor(c.codebooks[:, 0].reshape(1, -1)), torch.linspace(-9, 9, 2 * M * d).reshape(2, -1)])
    n, keeps = len(index), index.keep is not None
    yield "repr"
    text = repr(index)
    hold(f"{n:,} images" in text, "repr is wrong")
    hold(text.isprintable(), "repr is not of one line")
    yield "to_faiss"
    if M * n_bits(K) <= 2**12 and n:
        other = index.to_faiss()
        hold(other.ntotal == n, "FAISS's has another length")
        back = Index.from_faiss(other)
        hold(torch.equal(back.codes, index.codes) and torch.equal(back.ids, index.ids), "FAISS's holds something else")
    if n:
        for distance in ("squared", "unsquared"):
            for k in (1, 5, n):
                yield f"search k={k}"
                right(index, c, index.search(f, min(k, n), distance), f, distance, min(k, n))
        yield "among"
        some = c.ids[:: max(1, n // 7)]
        right(index, c, index.search(f, 3, "squared", among=some), f, "squared", 3, some)
        yield "without"
        if n > len(some):
            right(index, c, index.search(f, 4, "squared", without=some), f, "squared", 4, np.setdiff1d(c.ids, some))
        yield "radius"
        radius = float(np.median(measured(f[1].numpy(), c, True)[0]))
        if np.isfinite(radius):
            right(index, c, index.search(f, n, "squared", radius=radius), f, "squared", n, radius=radius)
        if keeps:
            yield "refine"
            hits = index.search(f, 2, refine=9)
            hold(bool((hits.ids >= 0).all()) and bool(hits.distances.isfinite().all()), "refine= gives no numbers")
        yield "explain"
        why = index.explain(f[1], int(c.ids[n // 2]), "squared")
        own, off = measured(f[1].numpy(), c, True)
        hold(why.item.tolist() == c.codes[n // 2].tolist() and abs(why.distance - own[n // 2]) <= off, "explain is wrong")
        repr(why)
    yield "snapshot"
    before = index.snapshot()

    def extra(i: int, many: int) -> dict:
        names = [name for name in c.columns if name not in ("embedding", "embedding_scale")]
        first = {name: c.columns[name][0] for name in names if name != "paths" and n}
        columns = {name: [f"new {i}"] * many if isinstance(x, bytes) else np.stack([x] * many) for name, x in first.items()}
        return dict(paths=[f"/new/{i}"] * many if "paths" in names and n else None, columns=columns or None)

    yield "add"
    count = 3
    added = index._books[:, :1].transpose(0, 1).reshape(1, -1).repeat(count, 1) + 0.0 if keeps else torch.zeros(count, M, dtype=torch.uint8)
    index.add(added, **extra(0, count))
    grown = [*c.ids.tolist(), *range(c.next, c.next + count)]
    hold(sorted(grown) == index.ids.tolist(), "other ids were added")
    hold(bool((index.codes[-count:] == index.codes[-1]).all()), "other codes were added")
    yield "remove"
    out = [grown[0], grown[-1]]
    index.remove(out)
    left = sorted(set(grown) - set(out))
    hold(index.ids.tolist() == left and len(index) == len(left), "something else was removed")
    hold(len(before) == n and before.ids.tolist() == c.ids.tolist(), "a snapshot changed")
    yield "merge"
    other = Index(index.codebooks, keep=index.keep)
    other.add(added, **extra(1, count)).remove([1])
    index.merge(other)
    left = [*left, c.next + 3, c.next + 4]
    hold(index.ids.tolist() == left, "merge counts wrongly")
    for place in (path, path.parent / "new.sscq"):
        yield f"save to {'itself' if place == path else 'another file'}"
        index.save(place)
        yield "load again"
        again = Index.load(place, verify=True)
        hold(again.ids.tolist() == left and torch.equal(again.codes, index.codes), "a saved index holds something else")
        for name in c.columns:
            if n and name != "paths":
                a, b = again.column(name), index.column(name)
                hold(a == b if isinstance(a, list) else same_bits(a, b), f"a saved index has another column {name}")
        saved = contents(place.read_bytes())
        hold(saved.ids.tolist() == left and np.array_equal(saved.codes, index.codes.numpy()), "a file holds something else")
        yield "search again"
        right(again, saved, again.search(f, 4, "squared"), f, "squared", 4)
    yield "compact"
    index.compact()
    hold(index.ids.tolist() == left and np.array_equal(index.codes.numpy(), saved.codes), "compact changed something")
    right(index, saved, index.search(f, 4, "unsquared"), f, "unsquared", 4)


def told(place: Path) -> str:
    "What is wrong with `sscq info`"
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            cli.main(["info", str(place)])
        except SystemExit:
            pass
        except Exception as error:
            return f"sscq info: {said(error)}"
    return "sscq info prints an escape sequence" if "\x1b" in out.getvalue() else "sscq info prints no line" if not out.getvalue().strip() else ""


# what verbs may say of an index that was read: its numbers leave no room
LIMITS = ("2**62", "float32 cannot hold")


def attempt(w: World, case: Case, folder: Path) -> tuple[str, str]:
    raw, original, _ = case.data
    path = folder / "x.sscq"
    path.write_bytes(raw)
    if wrong := told(path):
        return "UNCLEAR", wrong
    try:
        index = Index.load(path, verify=True)
    except Exception as error:
        if len(str(error)) >= 400:
            return "UNCLEAR", f"{len(str(error))} characters: {said(error)}"
        return refusal(error, str(path), kinds=(ValueError, OSError))
    try:
        c = w.held[original] if original else contents(raw)
    except Exception as error:
        return "LIE", f"accepted, though {said(error)}"
    verb, under_way = "look", verbs(index, c, path)
    try:
        holds(index, c)
        while verb := next(under_way, ""):
            pass
    except Lie as lie:
        return "LIE", f"{verb}: {lie}"
    except Exception as error:
        if isinstance(error, (ValueError, OSError)) and any(limit in str(error) for limit in LIMITS):
            return refusal(error)
        return "UNCLEAR", f"{verb}: {said(error)}"
    return ("same" if original else "another"), ""


# inverted files, which lie beside an index


class Cells(NamedTuple):
    "An index, an inverted file of it, and what it answers"

    index: Index
    held: Contents
    raw: bytes
    f: torch.Tensor
    answers: tuple


def prepare_cells(folder: Path) -> list[Cells]:
    segments._FEW, worlds = 10**6, []
    with mock.patch("os.urandom", lambda n: bytes(range(n))):
        for M, K, given in ((3, 16, True), (2, 256, False)):
            index = Index(codebooks(M, K)).add(some_codes(300, M, K), ids=np.arange(300) * 2 if given else None)
            ivf = index.to_ivf(n_lists=7, n_probe=3)
            index.add(some_codes(100, M, K, seed=1)).remove([0, 2, 4, 100])
            ivf.extend().save(folder / f"cells {K}")
            index.save(folder / f"{K}.sscq")
            again = Index.load(folder / f"{K}.sscq", mmap=False)
            f = torch.linspace(-9, 9, 6 * M).reshape(3, -1)
            raw = (folder / f"cells {K}").read_bytes()
            hits = IVFIndex.load(folder / f"cells {K}", again).search(f, 5)
            worlds.append(Cells(again, contents((folder / f"{K}.sscq").read_bytes()), raw, f, (hits.ids.tolist(), hits.distances.tolist())))
    segments._FEW = FEW
    return worlds


def make_damaged_cells(worlds: list[Cells], r, i: int) -> Case:
    w, kind = r.randrange(len(worlds)), r.choice(list(ACCIDENTS))
    return Case(f"{w}={kind.strip()}", (w, ACCIDENTS[kind](worlds[w].raw, r), True))


def alter_parts(d: Draft, r, w: Cells):
    "Parts of other rows, whose digests are right"
    from sscq.ivf import _between, _digest

    n, segment = len(d.table["centres"]["shape"]), r.choice(w.index.snapshot().state.segments)
    odd = [(0, 64), (64, 100)], [(0, 64), (0, 64)], [(32, 64)], [(-32, 32)], [(0, segment.n + 32)], [(64, 0)], [(0, 0), (0, 64)]
    places = r.choice(([(0, 40), (40, 96)], [(0, segment.n)], *odd))
    parts = []
    for first, last in places:
        with contextlib.suppress(Exception):
            digest = _digest(_between(segment.codes, first, last))
            cell = d.put(np.arange(max(0, last - first), dtype=np.int32) % n)
            parts.append(dict(first=first, last=last, codes=digest, cell=cell))
    d.table["parts"] = parts
    return f"parts {places}"


ANY_FILE = [alter_value, alter_value, alter_top, alter_other_value, alter_without, alter_more, alter_array, alter_array, alter_place, alter_text,
            alter_slots, alter_head]


def make_altered_cells(worlds: list[Cells], r, i: int) -> Case:
    number = r.randrange(len(worlds))
    draft, labels = Draft(worlds[number].raw), []
    for _ in range(1 if r.random() < 0.6 else 2):
        no_such_place = contextlib.suppress(KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError)
        with no_such_place, warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            labels.append(alter_parts(draft, r, worlds[number]) if r.random() < 0.25 else r.choice(ANY_FILE)(draft, r))
    return Case(f"{number}={' & '.join(labels)}", (number, draft.assemble(), False))


def attempt_cells(worlds: list[Cells], case: Case, folder: Path) -> tuple[str, str]:
    number, raw, same = case.data
    w, path = worlds[number], folder / "cells"
    path.write_bytes(raw)
    try:
        ivf = IVFIndex.load(path, w.index)
    except Exception as error:
        if len(str(error)) >= 400:
            return "UNCLEAR", f"{len(str(error))} characters: {said(error)}"
        return refusal(error, str(path), kinds=(ValueError, OSError))
    try:
        hits = ivf.search(w.f, 5)
        if same:
            return ("same", "") if (hits.ids.tolist(), hits.distances.tolist()) == w.answers else ("LIE", "it answers otherwise")
        repr(ivf)
        place = {id: i for i, id in enumerate(w.held.ids.tolist())}
        for k in (5, 396):
            ivf.n_probe = ivf.n_lists if k > 5 else ivf.n_probe
            hits = ivf.search(w.f, k, "squared")
            for q in range(len(w.f)):
                own, off = measured(w.f[q].numpy(), w.held, True)
                found = [id for id in hits.ids[q].tolist() if id >= 0]
                near = hits.distances[q].numpy()[: len(found)]
                hold(len(set(found)) == len(found) and set(found) <= place.keys(), "an id was found that is not there, or twice")
                hold(np.allclose(near, own[[place[id] for id in found]], rtol=1e-4, atol=off), "distances are wrong")
                hold(list(zip(near.tolist(), found)) == sorted(zip(near.tolist(), found)), "answers are not in order")
                hold(k == 5 or len(found) == k, "all cells were visited, and items are missing")
        ivf.extend().save(folder / "again")
        hold(IVFIndex.load(folder / "again", w.index).search(w.f, 5).ids.tolist() == ivf.search(w.f, 5).ids.tolist(), "saved, it answers otherwise")
    except Lie as lie:
        return "LIE", str(lie)
    except Exception as error:
        return refusal(error) if any(limit in str(error) for limit in LIMITS) else ("UNCLEAR", f"search: {said(error)}")
    return "another", ""


TARGETS = [
    Target("index files, damaged", 3000, prepare, make_damaged, attempt),
    Target("index files, altered", 10000, prepare, make_altered, attempt),
    Target("inverted files, damaged", 1000, prepare_cells, make_damaged_cells, attempt_cells),
    Target("inverted files, altered", 2000, prepare_cells, make_altered_cells, attempt_cells),
]
