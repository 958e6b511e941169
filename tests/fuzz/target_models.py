"""Model files: damaged by accident, and altered by somebody who mends the checksum.

What may happen: the folder is refused in one clear line, or the model that loads is exactly the one that the file describes: its weights are
the file's, its settings are the file's, its codes are the nearest codewords by a computation of our own. Else it lies."""

import contextlib
import copy
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from damage import ODD_TENSORS, ODD_VALUES, damaged, read, signed
from harness import Case, Target, refusal, said
from sscq import cli
from sscq.core import SSCQ
from sscq.objective import SSCQObjective

SETTINGS = dict(bits=8, channels=1, image_size=8, backbone="tiny_cnn", hidden=16, word_dim=4)
OBJECTIVE = SSCQObjective(n_neighbors=4)


def fresh() -> SSCQ:
    torch.manual_seed(0)
    return SSCQ(**SETTINGS)


def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def train(model: SSCQ, out: Path, **settings) -> SSCQ:
    return model.fit(pictures(), objective=OBJECTIVE, batch_size=10, progress=False, out=out, device="cpu", **settings)


class World(NamedTuple):
    "A saved model, and what it answers"

    files: dict  # name -> bytes
    meta: dict  # the header's texts
    config: dict
    tensors: dict
    images: torch.Tensor
    f: torch.Tensor
    codes: torch.Tensor


def prepare(folder: Path) -> World:
    model, x = train(fresh(), folder / "run", epochs=2), pictures()
    model.save_pretrained(folder / "saved")
    files = {path.name: path.read_bytes() for path in (folder / "saved").iterdir()}
    meta, tensors = read(files["model.safetensors"], folder / "copy")
    if read(signed(meta, tensors, "config"), folder / "again")[0] != meta:
        raise SystemExit("the checksum of a model is computed in another way now: mend tests/fuzz/damage.py")
    return World(files, meta, json.loads(meta["config"]), tensors, x, model.embed(x), model.encode(x))


# texts that are no settings, or none that fit
TEXTS = {
    "null": "null",
    "a list": "[]",
    "a number": "5",
    "a string": '"x"',
    "deep": "[" * 5000 + "]" * 5000,
    "cut": "{",
    "NaN": '{"bits":NaN}',
    "nothing": "",
    "digits": '{"bits":' + "9" * 5000 + "}",
    "a surrogate": '{"bits": "\\ud800"}',
    "only a space": " ",
    "an empty object": "{}",
}


def alterations(w: World) -> list:  # of labels and functions that change a config and tensors
    def set_config(name, value):
        return lambda config, tensors: config.__setitem__(name, value)

    def set_tensor(name, change):
        return lambda config, tensors: tensors.__setitem__(name, change(tensors[name]))

    out = [(f"config {name}={value!r}", set_config(name, value)) for name in w.config for value in ODD_VALUES]
    out += [(f"config without {name}=", lambda config, tensors, name=name: config.pop(name)) for name in w.config]
    out += [(f"config {name}=1, unknown", set_config(name, 1)) for name in ("evil", "self", "map_location", "strict", "\x1b[2J\n")]
    out += [
        (f"config backbone={name}", lambda config, tensors, name=name, size=size: config.update(backbone=name, image_size=size, channels=3))
        for name, size in (("resnet18_small", 32), ("resnet18", 224), ("resnet50", 224), ("vgg16", 224), ("vit_b_16", 224))
    ]
    out += [(f"tensor {name}={kind}", set_tensor(name, change)) for name in w.tensors for kind, change in ODD_TENSORS.items()]
    out += [(f"no tensor {name}=", lambda config, tensors, name=name: tensors.pop(name)) for name in w.tensors]
    out += [
        (f"tensor {name}=more", lambda config, tensors, name=name: tensors.__setitem__(name, torch.zeros(3)))
        for name in ("evil", "quantizer.evil", "\x1b[2J\n", "")
    ]
    out += [("no tensors", lambda config, tensors: tensors.clear())]
    out += [(f"text={name}", text) for name, text in TEXTS.items()]
    about = json.loads(w.meta.get("about", "{}"))
    out += [(f"about {name}={value!r}", {"about": json.dumps(about | {name: value})}) for name in (*about, "evil") for value in ODD_VALUES]
    out += [(f"about without {name}=", {"about": json.dumps({k: v for k, v in about.items() if k != name})}) for name in about]
    out += [(f"about={name}", {"about": text}) for name, text in TEXTS.items()]
    out += [
        ("text=a key twice", json.dumps(w.config)[:-1] + ', "bits": 10000}'),
        ("text=a key twice, alike", json.dumps(w.config)[:-1] + ', "bits": 8}'),
    ]
    return out


def make_altered(w: World, r, i: int) -> Case:
    choices = alterations(w)
    several = r.sample(choices, 1 if r.random() < 0.6 else r.choice((2, 3)))
    config, tensors, text, meta = copy.deepcopy(w.config), dict(w.tensors), None, dict(w.meta)
    for _, change in several:
        if isinstance(change, str):
            text = change
            continue
        if isinstance(change, dict):
            meta |= change
            continue
        with contextlib.suppress(KeyError, RuntimeError):
            change(config, tensors)
    text = json.dumps(config) if text is None else text
    files = w.files | {"model.safetensors": signed(meta | {"config": text}, tensors, "config")}
    if r.random() < 0.5:
        files["config.json"] = text.encode(errors="replace")
    return Case(" & ".join(label for label, _ in several), (files, text, tensors, meta.get("about")))


def make_damaged(w: World, r, i: int) -> Case:
    name = r.choice(("model.safetensors", "model.safetensors", "model.safetensors", "config.json"))
    if name == "config.json":
        raw = w.files[name]
        kind, content = r.choice(
            (
                ("nothing", b""),
                ("noise", r.randbytes(50)),
                ("cut", raw[: r.randrange(len(raw))]),
                ("deep", b"[" * 100_000),
                ("a list", b"[]"),
                ("digits", b'{"bits":' + b"9" * 5000 + b"}"),
                ("another setting", raw.replace(b"8", b"9", 1)),
                ("not UTF-8", b"\xff\xfe"),
            )
        )
    else:
        kind, content = damaged(w.files[name], r)
    return Case(f"{name}={kind}", (w.files | {name: content}, None, w.tensors, w.meta.get("about")))


def nearest_words(f: torch.Tensor, codebooks: torch.Tensor, codes: torch.Tensor) -> bool:
    "Whether no codeword is clearly nearer than the code's"
    parts, words = f.double().numpy().reshape(len(f), len(codebooks), -1), codebooks.double().numpy()
    d = np.square(parts[:, :, None] - words).sum(-1)
    chosen = np.take_along_axis(d, codes.numpy().astype(np.int64)[..., None], 2)[..., 0]
    return bool((chosen <= d.min(-1) + 1e-5 * (np.square(parts).sum(-1) + np.square(words).sum(-1).max())).all())


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    "The same numbers, whatever their types"
    a, b = a.to(torch.complex128), b.to(torch.complex128)
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def lie(w: World, model: SSCQ, text: str | None, tensors: dict, about: str | None) -> str:
    "How a model that loaded differs from its file; empty if it does not"
    state = model.state_dict()
    if state.keys() != tensors.keys():
        return f"tensors {sorted(state.keys() ^ tensors.keys())[:3]} are not in both"
    for name, x in tensors.items():
        if x.shape != state[name].shape or not alike(x, state[name]):
            return f"{name} is not the file's"
        if x.dtype != state[name].dtype and not (x.is_floating_point() and state[name].is_floating_point()):
            return f"{name} was {x.dtype}"
    config = w.config if text is None else json.loads(text)
    found = dict(
        bits=model.bits,
        n_books=len(model.codebooks),
        n_words=model.codebooks.shape[1],
        word_dim=model.codebooks.shape[2],
        channels=model.channels,
        image_size=model.image_size,
        tau_sq=model.quantizer.tau,
        hidden=len(model.head[0].weight),
    )
    for name, value in found.items():
        if config.get(name) is not None and config[name] != value:
            return f"{name} is {value!r}, in the file {config[name]!r}"
    if unknown := config.keys() - w.config.keys():
        return f"{sorted(unknown)} mean nothing, and nobody said so"
    for name, x in state.items():
        if not x.isfinite().all() and name.endswith(("running_mean", "running_var")):
            continue  # said when it is used
        if name.endswith("running_var") and (x < 0).any() or name.endswith("num_batches_tracked") and x < 0:
            return f"{name} is negative"
    told = json.loads(about or "{}")
    if told.get("history", []) != model.history:
        return "the history is not the file's"
    if (told.get("origin") or None) != getattr(model.backbone, "origin", None):
        return "the origin is not the file's"
    return ""


def attempt(w: World, case: Case, folder: Path) -> tuple[str, str]:
    files, text, tensors, about = case.data
    place = folder / "model"
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    verdict, detail = loaded(w, place, text, tensors, about)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            cli.main(["info", str(place)])
        except SystemExit:
            pass
        except Exception as error:
            return "UNCLEAR", f"sscq info: {said(error)} ({verdict}: {detail})"
    if "\x1b" in out.getvalue():
        return "UNCLEAR", f"sscq info prints an escape sequence ({verdict}: {detail})"
    shutil.rmtree(place)
    return verdict, detail


def loaded(w: World, place: Path, text: str | None, tensors: dict, about: str | None) -> tuple[str, str]:
    try:
        model = SSCQ.from_pretrained(place)
    except Exception as error:
        return refusal(error, str(place))
    if why := lie(w, model, text, tensors, about):
        return "LIE", why
    try:
        images = w.images if (model.channels, model.image_size) == (1, 8) else torch.zeros(2, model.channels, model.image_size, model.image_size)
        f, codes = model.embed(images), model.encode(images)
    except Exception as error:
        return refusal(error)
    if torch.equal(f, w.f) and torch.equal(codes, w.codes):
        return "same", ""
    if text is None:
        return "LIE", "the file was damaged, and it answers otherwise"
    if not f.isfinite().all():
        return "LIE", "embeddings are not finite"
    return ("another", "") if nearest_words(f, model.codebooks.detach(), codes) else ("LIE", "codes are not the nearest words")


TARGETS = [Target("model files, damaged", 1500, prepare, make_damaged, attempt), Target("model files, altered", 1500, prepare, make_altered, attempt)]
