"How a safetensors file can be damaged: by accident, or by somebody who makes its checksum right again."

import hashlib
import json
import random
import struct

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor


def split(raw: bytes) -> tuple[dict, bytes]:
    "The table at the beginning, and the numbers after it"
    (n,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + n]), raw[8 + n :]


def join(header: dict | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def flip(raw, r):
    b = bytearray(raw)
    for _ in range(r.choice((1, 1, 2, 60))):
        b[r.randrange(len(b))] ^= 1 << r.randrange(8)
    return bytes(b)


def overwrite_header(raw, r):
    b = bytearray(raw)
    for _ in range(r.choice((1, 1, 3))):
        b[8 + r.randrange(struct.unpack("<Q", raw[:8])[0])] = r.randrange(256)
    return bytes(b)


def swap(raw, r):
    size = r.choice((1, 8, 64, 256))
    i, j = sorted((r.randrange(len(raw) // 2 - size), len(raw) // 2 + r.randrange(len(raw) // 2 - size)))
    return raw[:i] + raw[j : j + size] + raw[i + size : j] + raw[i : i + size] + raw[j + size :]


def zero(raw, r):
    i, n = r.randrange(len(raw)), r.choice((1, 64, 4096))
    return raw[:i] + bytes(len(raw[i : i + n])) + raw[i + n :]


def header_length(raw, r):
    (n,) = struct.unpack("<Q", raw[:8])
    return struct.pack("<Q", r.choice((0, 1, n - 1, n + 1, n + 8, 2**31, 2**32, 2**63, 2**64 - 1, 100_000_001, 99_999_999, len(raw)))) + raw[8:]


def other_header(raw, r):
    text = r.choice((b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"__metadata__":5}', b"{}", b'{"__metadata__":{"config":"["}}', b"[" * 200_000))
    return join(text, split(raw)[1])


def key_twice(raw, r):
    header, data = split(raw)
    text = json.dumps(header)
    return join((text[:-1] + f", {json.dumps(r.choice(list(header)))}: {json.dumps(header[r.choice(list(header))])}}}").encode(), data)


ENTRIES = {
    "data_offsets": ([0, 0], [0, 2**63], [-1, 5], [5, 1], [2**64 - 1, 2**64], [0, 1e9], ["0", "4"], None, [0]),
    "shape": ([], [-1], [0], [2**63, 2], [2**32, 2**32], [10**9], [1] * 1000, None, ["a"], [1.5]),
    "dtype": ("F64", "F16", "BF16", "I64", "I8", "BOOL", "F8_E4M3", "F4", "C64", "U16", "xyz", None, 5),
}


def entry(raw, r):
    header, data = split(raw)
    field = r.choice(list(ENTRIES))
    header[r.choice([k for k in header if k != "__metadata__"])][field] = r.choice(ENTRIES[field])
    return join(header, data)


def text_of_the_header(raw, r):
    header, data = split(raw)
    meta = header["__metadata__"]
    name = r.choice(list(meta))
    meta[name] = r.choice(
        ("", "{", "null", "A" * 10**6, meta[name][:-1], meta[name] + " ", meta[name].replace("1", "2", 1), "\x1b[2J\n", meta[name].swapcase())
    )
    return join(header, data)


DAMAGE = {
    "flipped bits": flip,
    "flipped bits ": flip,
    "header overwritten": overwrite_header,
    "blocks swapped": swap,
    "zeros": zero,
    "cut short": lambda raw, r: raw[: r.randrange(len(raw))],
    "bytes appended": lambda raw, r: raw + bytes(r.randrange(1, 100)),
    "written twice": lambda raw, r: raw + raw,
    "nothing but noise": lambda raw, r: r.randbytes(r.choice((0, 1, 7, 8, 9, 1000))),
    "length of the header": header_length,
    "another header": other_header,
    "a key twice": key_twice,
    "a tensor's entry": entry,
    "the header's text": text_of_the_header,
}


def damaged(raw: bytes, r: random.Random) -> tuple[str, bytes]:
    kind = r.choice(list(DAMAGE))
    return kind.strip(), DAMAGE[kind](raw, r)


ODD_VALUES = [
    -1,
    0,
    1,
    2,
    3,
    17,
    10**5,
    10**9,
    2**31,
    2**63,
    10**30,
    -0.5,
    1.5,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    "8",
    "",
    "\x1b[2J\n",
    None,
    [],
    {},
    [1],
    True,
    False,
    "../../etc/passwd",
    "__class__",
]

ODD_TENSORS = {
    "NaN": lambda x: x.double() * float("nan"),
    "one NaN": lambda x: x.clone().float().flatten().index_fill(0, torch.tensor([0]), float("nan")).view(x.shape),
    "infinity": lambda x: torch.full_like(x.float(), float("inf")),
    "minus infinity": lambda x: torch.full_like(x.float(), -float("inf")),
    "3e38": lambda x: torch.full_like(x.float(), 3e38),
    "-1": lambda x: torch.full_like(x, -1),
    "zeros": torch.zeros_like,
    "1e30": lambda x: torch.full_like(x.float(), 1e30),
    "float64": lambda x: x.double(),
    "float64 beyond float32": lambda x: torch.full_like(x.double(), 1e300),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "int32": lambda x: x.int(),
    "int64 -5": lambda x: torch.full_like(x, -5, dtype=torch.int64),
    "bool": lambda x: x.bool(),
    "uint8": lambda x: x.to(torch.uint8),
    "complex": lambda x: x.to(torch.complex64),
    "empty": lambda x: x.flatten()[:0],
    "a scalar": lambda x: torch.zeros(()),
    "7 zeros": lambda x: torch.zeros(7),
    "one more dimension": lambda x: x[None],
    "flat": lambda x: x.flatten(),
    "twice as long": lambda x: torch.cat([x.flatten()] * 2),
    "transposed": lambda x: x.mT if x.ndim > 1 else x.flatten()[:1],
    "half": lambda x: x.flatten()[: x.numel() // 2],
    "0.5": lambda x: torch.full_like(x.float(), 0.5),
    "1e-40": lambda x: torch.full_like(x.float(), 1e-40),
}


def read(raw: bytes, path) -> tuple[dict, dict[str, Tensor]]:
    path.write_bytes(raw)
    with safe_open(path, "pt") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}


def checksum(tensors: dict[str, Tensor], text: str) -> str:
    "SHA-256 of a text, then of names, types, shapes and bytes"
    sha = hashlib.sha256(text.encode())
    for name, x in sorted(tensors.items()):
        sha.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        sha.update(x.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def signed(meta: dict, tensors: dict[str, Tensor], text: str) -> bytes:
    "A file whose checksums are right, whatever it says: of the tensors and one of the header's texts, and of what is told about a model"
    tensors = {name: x.contiguous() for name, x in tensors.items()}
    meta = meta | {"sha256": checksum(tensors, meta[text])}
    if "about" in meta:
        meta["about_sha256"] = hashlib.sha256(f"{meta['sha256']} {meta['about']}".encode()).hexdigest()
    return save(tensors, meta)
