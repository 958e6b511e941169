"""Checkpoints: damaged by accident, and altered by somebody who mends the checksum.

A run is resumed from the altered folder twice: as it was, which trains nothing more, and with an epoch more. What may happen: it is refused
in one clear line; the checkpoint before is taken, with a warning, and repeats the epoch to the bit; or model and history are the file's."""

import copy
import json
import math
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from damage import ODD_TENSORS, ODD_VALUES, damaged, read, signed
from harness import Case, Target, refusal
from sscq.checkpoint import CHECKPOINT, PREVIOUS
from sscq.history import HISTORY
from target_models import fresh, pictures, train

EPOCHS = 2


class World(NamedTuple):
    "A finished run of two epochs, and what its model answers"

    files: dict  # name -> bytes
    header: dict  # the header's texts
    meta: dict  # what the header's text says
    tensors: dict
    f: torch.Tensor


def prepare(folder: Path) -> World:
    model = train(fresh(), folder / "run", epochs=EPOCHS)
    files = {name: (folder / "run" / name).read_bytes() for name in (CHECKPOINT, PREVIOUS, HISTORY)}
    header, tensors = read(files[CHECKPOINT], folder / "copy")
    if read(signed(header, tensors, "sscq"), folder / "again")[0] != header:
        raise SystemExit("the checksum of a checkpoint is computed in another way now: mend tests/fuzz/damage.py")
    return World(files, header, json.loads(header["sscq"]), tensors, model.embed(pictures()))


def alterations(w: World) -> list:  # of labels and functions that change what the header says and the tensors
    def setting(where, name, value):
        return lambda meta, tensors: where(meta).__setitem__(name, value)

    def tensor(name, change):
        return lambda meta, tensors: tensors.__setitem__(name, change(tensors[name]))

    def whole(meta):
        return meta

    def settings(meta):
        return meta["settings"]

    def last(meta):
        return meta["history"][-1]

    out = [
        (f"{label}{name}={value!r}", setting(where, name, value))
        for label, where, names in (("", whole, w.meta), ("settings.", settings, w.meta["settings"]), ("history[-1].", last, w.meta["history"][-1]))
        for name in names
        for value in ODD_VALUES
    ]
    out += [
        (f"without {label}{name}=", lambda meta, tensors, where=where, name=name: where(meta).pop(name))
        for label, where, names in (("", whole, w.meta), ("settings.", settings, w.meta["settings"]), ("history[-1].", last, w.meta["history"][-1]))
        for name in names
    ]
    out += [("unknown settings=", lambda meta, tensors: meta["settings"].__setitem__("evil\x1b[2J\n", 1))]
    histories = {
        "one": lambda h: h[:1],
        "ninefold": lambda h: h * 9,
        "numbers": lambda h: [1, 2],
        "empty objects": lambda h: [{}, {}],
        "reversed": lambda h: h[::-1],
        "none": lambda h: [],
        "three": lambda h: [*h, h[-1] | {"epoch": 3}],
        "the first twice": lambda h: h[:1] * 2,
    }
    out += [
        (f"history={name}", lambda meta, tensors, change=change: meta.__setitem__("history", change(meta["history"])))
        for name, change in histories.items()
    ]
    of_optimizer = [name for name in w.tensors if name.startswith("optimizer.")]
    out += [(f"tensor {name}={kind}", tensor(name, change)) for name in w.tensors for kind, change in ODD_TENSORS.items()]
    out += [
        (
            f"all {part}={kind}",
            lambda meta, tensors, part=part, change=change: tensors.update({n: change(tensors[n]) for n in of_optimizer if n.endswith("." + part)}),
        )
        for part in ("step", "exp_avg", "exp_avg_sq")
        for kind, change in ODD_TENSORS.items()
    ]
    out += [(f"no tensor {name}=", lambda meta, tensors, name=name: tensors.pop(name)) for name in w.tensors]
    out += [
        ("no optimizer", lambda meta, tensors: [tensors.pop(name) for name in of_optimizer]),
        ("no tensors", lambda meta, tensors: tensors.clear()),
    ]
    out += [
        (f"tensor {name}=more", lambda meta, tensors, name=name: tensors.__setitem__(name, torch.zeros(3)))
        for name in ("evil", "model.evil", "optimizer.quantizer.codebooks.evil", "optimizer.nobody.exp_avg", "optimizer.", "\x1b[2J\n")
    ]
    return out


def make_altered(w: World, r, i: int) -> Case:
    several = r.sample(alterations(w), 1 if r.random() < 0.7 else 2)
    meta, tensors = copy.deepcopy(w.meta), dict(w.tensors)
    for _, change in several:
        try:
            change(meta, tensors)
        except (KeyError, AttributeError, TypeError, RuntimeError, IndexError):
            pass  # two changes that exclude each other
    files = w.files | {CHECKPOINT: signed(w.header | {"sscq": json.dumps(meta)}, tensors, "sscq")}
    if r.random() < 0.5:
        del files[PREVIOUS]
    return Case(" & ".join(label for label, _ in several), (files, meta, tensors))


def make_damaged(w: World, r, i: int) -> Case:
    name, files = r.choice((CHECKPOINT, CHECKPOINT, CHECKPOINT, HISTORY)), dict(w.files)
    if name == HISTORY:
        kind, files[name] = r.choice(
            (("nothing", b""), ("noise", r.randbytes(80)), ("cut", files[name][: r.randrange(len(files[name]))]), ("twice", files[name] * 2))
        )
    else:
        kind, files[name] = damaged(files[name], r)
    if r.random() < 0.4:
        del files[PREVIOUS]
    elif r.random() < 0.2:
        files[PREVIOUS] = damaged(files[PREVIOUS], r)[1]
    return Case(f"{name}={kind}{'' if PREVIOUS in files else ', no previous'}", (files, None, w.tensors))


def fits_together(w: World, meta: dict, tensors: dict) -> str:
    "What in an accepted file cannot be; empty if nothing"
    history = meta["history"]
    if not isinstance(history, list) or [h.get("epoch") for h in history] != list(range(1, len(history) + 1)):
        return "its epochs are not 1, 2, …"
    if meta["settings"].get("epochs", 0) < len(history):
        return f"{len(history)} epochs of {meta['settings'].get('epochs')}"
    for record, usual in zip(history, w.meta["history"]):
        for name, value in usual.items():
            if isinstance(value, float) and not (isinstance(record.get(name), (int, float)) and math.isfinite(record[name])):
                return f"{name} is {record.get(name)!r}"
            if isinstance(value, list) and not isinstance(record.get(name), list):
                return f"{name} is {record.get(name)!r}"
    for name, x in tensors.items():
        # where a gradient was above 1.8e19, Adam itself leaves an infinite second moment, and its weight rests from then on
        fine = x.double() >= 0 if name.endswith(".exp_avg_sq") and not x.is_complex() else x.abs().isfinite()
        if x.is_complex() or not fine.all():
            return f"{name} is not finite"
        usual = w.tensors.get(name)
        if usual is None:
            return f"{name} means nothing"
        if x.shape != usual.shape:
            return f"{name} has shape {tuple(x.shape)}"
        if x.is_floating_point() != usual.is_floating_point():
            return f"{name} is {x.dtype}"
        if name.endswith((".exp_avg_sq", ".step", "running_var", "num_batches_tracked")) and (x < 0).any():
            return f"{name} is negative"
        if name.endswith(".step") and x != x.round():
            return f"{name} is {x.item()}"
    if missing := w.tensors.keys() - tensors.keys():
        return f"{min(missing)} is missing"
    return ""


def resume(w: World, case: Case, place: Path, resume: bool | str, epochs: int) -> tuple[str, str]:
    files, meta, tensors = case.data
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            model = train(fresh(), place, epochs=epochs, resume=resume)
        except Exception as error:
            return refusal(error)
    if stray := {p.name for p in place.iterdir()} - {CHECKPOINT, PREVIOUS, HISTORY}:
        return "LIE", f"left behind: {sorted(stray)}"
    if not all(p.isfinite().all() for p in model.state_dict().values()):
        return "LIE", "weights are not finite"
    told = any(PREVIOUS in str(note.message) for note in notes)
    if epochs == EPOCHS and len(model.history) == EPOCHS and (meta is None or told) and torch.equal(model.embed(pictures()), w.f):
        return "same", ""
    if epochs > EPOCHS and (meta is None or told) and len(model.history) == epochs:
        return "another", ""
    if meta is None:
        return "LIE", "the file was damaged, and it answers otherwise"
    if why := fits_together(w, meta, tensors):
        return "LIE", why
    n = len(meta["history"])
    if len(model.history) != max(epochs, n):
        return "LIE", f"{len(model.history)} epochs"
    if n >= epochs:  # nothing was trained
        state = model.state_dict()
        for name, x in state.items():
            if not torch.equal(tensors[f"model.{name}"].double(), x.double()):
                return "LIE", f"{name} is not the file's"
        if model.history != meta["history"]:
            return "LIE", "the history is not the file's"
    return "another", ""


def attempt(w: World, case: Case, folder: Path) -> tuple[str, str]:
    for how, epochs in ((True, EPOCHS), ("changed", EPOCHS + 1)):
        verdict, detail = resume(w, case, folder / str(how), how, epochs)
        if verdict in ("LIE", "UNCLEAR"):
            return verdict, f"resume={how!r}, epochs={epochs}: {detail}"
        shutil.rmtree(folder / str(how))
    return verdict, detail


TARGETS = [Target("checkpoints, damaged", 1500, prepare, make_damaged, attempt), Target("checkpoints, altered", 1500, prepare, make_altered, attempt)]
