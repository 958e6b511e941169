"""Odd settings: every argument and field that a person sets, with values that nobody should set.

What may happen: a ValueError or TypeError of one line that names the setting, or it is taken and everything works. Arguments are read from the
signatures, so a new setting is attacked as soon as it is there."""

import contextlib
import dataclasses
import inspect
import math
import os
import random
import shutil
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from harness import Case, Target, clear, refusal, said
import sscq.reading as sscq_reading
import sscq.images as sscq_images
import sscq.distributed as sscq_distributed
import sscq.baselines as sscq_baselines
from sscq import codebook, contrastive, data, diversity, evaluate, neighbors, search, train, views
from sscq.codebook import Encoded, ProductQuantizer
from sscq.core import SSCQ
from sscq.objective import SPQObjective, SSCQObjective
from sscq.index import Index
from sscq.train import TrainConfig

ODD = [
    -1,
    0,
    1,
    2,
    3,
    7,
    8,
    -0.0,
    0.5,
    1.0,
    1.5,
    1e-320,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    2**31,
    2**63,
    2**70,
    10**5000,
    "",
    "x",
    "5",
    "\x1b[2J\n",
    "a\0b",
    "\ud800",
    None,
    [],
    {},
    (),
    [1, "x"],
    (1, 2),
    True,
    False,
    b"x",
    object(),
    np.int64(4),
    np.float32(0.5),
    np.bool_(True),
    np.array([1, 2]),
    np.nan,
    torch.tensor(3),
    torch.tensor(0.5),
    torch.ones(2),
    Fraction(1, 2),
    Decimal("0.5"),
    1j,
    Path("x"),
    print,
    lambda x: x,
    range(3),
]


class Subject(NamedTuple):
    "Something with settings"

    name: str
    call: Callable  # settings -> result
    base: dict  # settings that work
    settings: tuple  # the names of those to attack
    use: Callable = lambda result: None  # what must work with what was accepted


def of(call, base: dict, *names: str, use=lambda result: None, name: str = "") -> Subject:
    "A function's own arguments, but those that are its data"
    if not names:
        names = tuple(inspect.signature(call).parameters)
    return Subject(name or getattr(call, "__qualname__", repr(call)), call, base, names, use)


PLAIN = dict(bits=4, channels=1, image_size=8, backbone="tiny_cnn", hidden=8, word_dim=2)
PICTURES = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PHOTOS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def plain_model() -> SSCQ:
    torch.manual_seed(0)
    return SSCQ(**PLAIN)


def trained_with(config: TrainConfig):
    if config.epochs > 50 or config.workers > 64 or config.compile:
        return  # right, but long
    steps = None if config.steps is None else min(config.steps, 3)
    fit(config=dataclasses.replace(config, epochs=1, steps=steps, batch_size=min(config.batch_size, 6)))


def fit(**settings):
    return plain_model().fit(
        PICTURES, **dict(objective=SSCQObjective(n_neighbors=2), epochs=1, batch_size=6, progress=False, device="cpu") | settings
    )


def loss_of(objective):
    x, c = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0)), torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1))
    loss, _ = objective(Encoded(x[0], x[1]), Encoded(x[2], x[3]), c)
    if not loss.isfinite():
        raise AssertionError(f"the loss is {loss}")


def embeds(model: SSCQ):
    if model.channels * model.image_size**2 < 2**20:
        model.embed(torch.zeros(2, model.channels, model.image_size, model.image_size, dtype=torch.uint8))


def loads(model: SSCQ):
    model.save_pretrained("saved")
    SSCQ.from_pretrained("saved")


def subjects(folder: Path) -> list[Subject]:
    g = torch.Generator().manual_seed(0)
    f, c, x = torch.randn(40, 8, generator=g), torch.randn(2, 4, 4, generator=g), torch.rand(2, 3, 8, 8, generator=g)
    codes, y = torch.randint(0, 4, (40, 2), dtype=torch.uint8, generator=g), torch.randint(0, 3, (40,), generator=g)
    hits, v = torch.rand(4, 10, generator=g) < 0.3, sscq_baselines.Vectors(f, f, f)
    (folder / "pictures" / "a").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (9, 12), (i * 80, 10, 20)).save(folder / "pictures" / "a" / f"{i}.png")
    for part in ("train", "test"):
        shutil.copytree(folder / "pictures", folder / "labelled" / part)
    file = folder / "pictures" / "a" / "0.png"
    (folder / "img.txt").write_text("".join(f"pictures/a/{i}.png\n" for i in range(3)))
    (folder / "targets.txt").write_text("1 0\n" * 3)
    for name in ("database", "train", "test"):
        (folder / f"{name}.txt").write_text("".join(f"pictures/a/{i}.png {'0 ' * 20}1\n" for i in range(3)))
    model, collection = plain_model(), data.digits()
    few = collection._replace(
        train=collection.train[:100],
        database=data.ImageSet(*(z[:100] for z in collection.database)),
        query=data.ImageSet(*(z[:9] for z in collection.query)),
        topk=5,
    )
    model.save_pretrained(folder / "model")

    def index(**settings):
        return Index(**dict(codebooks=c) | settings).add(f)

    def searched(index):
        index.search(f[:3], k=2)

    def saved(index):
        index.save("a.sscq")
        repr(Index.load("a.sscq"))
        index.search(f[:3], k=2)

    def loaded(**settings):
        return Index.load(**dict(path=index().save("b.sscq")) | settings)

    def objective(cls):
        return lambda **settings: cls(**dict(n_neighbors=4) | settings if cls is SSCQObjective else settings)

    def weight(value):
        return SSCQObjective(weights=(1, 1, 1, 1, value), n_neighbors=4)

    def resumed(**settings):
        fit(out="again")
        return fit(**dict(out="again", resume=True) | settings)

    def fields(cls):
        return tuple(field.name for field in dataclasses.fields(cls))

    def pictures(**settings):
        return sscq_reading.Pictures(**dict(paths=[file], size=8) | settings)

    def opened(pictures):
        if len(pictures):
            pictures[0]

    def listed(value):
        return list(sscq_reading.read(sscq_reading.Pictures([file], 8), [torch.arange(1)], workers=value))

    def scored(**settings):
        return evaluate.score_codes(f[:5], y[:5], codes, y, c, **settings)

    def waited(timeout):
        with sscq_distributed.process_group(timeout=timeout):
            pass

    def schedule(**settings):
        return train.learning_rate(**dict(step=3, steps_per_epoch=2, config=TrainConfig(epochs=5)) | settings)

    out = [
        of(lambda **s: TrainConfig(**dict(epochs=1, batch_size=6) | s), {}, *fields(TrainConfig), use=trained_with, name="TrainConfig"),
        of(objective(SSCQObjective), {}, *fields(SSCQObjective), use=loss_of, name="SSCQObjective"),
        of(weight, {}, "value", use=loss_of, name="SSCQObjective(weights=(…, value))"),
        of(SPQObjective, {}, use=loss_of, name="SPQObjective"),
        of(
            lambda **s: SSCQ(**PLAIN | s),
            {},
            *(n for n in inspect.signature(SSCQ.__init__).parameters if n not in ("self", "n_books", "kwargs")),
            use=lambda m: (embeds(m), loads(m)),
            name="SSCQ",
        ),
        of(lambda n_books: SSCQ(**{k: value for k, value in PLAIN.items() if k != "bits"}, n_books=n_books), {}, use=embeds, name="SSCQ(n_books)"),
        of(
            ProductQuantizer,
            dict(n_books=2, n_words=4, word_dim=2),
            use=lambda q: q(torch.zeros(3, q.codebooks.shape[0] * q.codebooks.shape[2])),
            name="ProductQuantizer",
        ),
        of(
            fit,
            {},
            *(n for n in inspect.signature(SSCQ.fit).parameters if n not in ("self", "images", "changes")),
            "batch_size",
            "epochs",
            "lr",
            "evil",
            name="fit",
        ),
        of(lambda images: plain_model().fit(images, progress=False, device="cpu", epochs=1), {}, name="fit(images)"),
        of(resumed, {}, "resume", "out", "batch_size", name="fit again"),
        *(of(getattr(model, verb), dict(images=PICTURES), name=f"SSCQ.{verb}") for verb in ("encode", "embed", "index")),
        of(model.save_pretrained, {}, "save_directory"),
        of(
            SSCQ.from_pretrained,
            dict(pretrained_model_name_or_path=str(folder / "model"), local_files_only=True),
            "pretrained_model_name_or_path",
            "map_location",
            "strict",
            "cache_dir",
        ),
        of(index, {}, *(n for n in inspect.signature(Index.__init__).parameters if n != "self"), use=lambda i: (searched(i), saved(i)), name="Index"),
        of(lambda **s: Index(c).add(**dict(f=f[:3]) | s), {}, "f", "ids", "paths", use=lambda i: repr(i), name="Index.add"),
        of(lambda **s: index().search(**dict(query=f[:3]) | s), {}, "query", "k", "distance", use=repr, name="Index.search"),
        of(lambda **s: index().explain(**dict(query=f[0], id=3) | s), {}, "query", "id", "distance", use=repr, name="Index.explain"),
        of(lambda ids: index().remove(ids), {}, use=lambda i: repr(i), name="Index.remove"),
        of(lambda other: index().merge(other), {}, use=searched, name="Index.merge"),
        of(lambda path: index().save(path), {}, name="Index.save"),
        of(loaded, {}, *(n for n in inspect.signature(Index.load).parameters if n != "cls"), use=searched, name="Index.load"),
        of(lambda **s: index().to_ivf(**s), {}, "n_lists", "n_probe", "seed", use=searched, name="Index.to_ivf"),
        of(sscq_distributed.find_device, {}, name="find_device"),
        of(waited, {}, name="ranks"),
        of(schedule, {}, "step", "steps_per_epoch", name="learning_rate"),
        *(of(function, dict(vectors=f, n_books=2, n_words=4), "n_books", "n_words", "seed") for function in (search.train_pq, search.train_opq)),
        of(search.nearest, dict(f=f, codebooks=c, codes=codes, k=3), "k", "squared"),
        of(codebook.n_bits, {}),
        of(codebook.books_for, dict(bits=8)),
        of(codebook.soft_assign, dict(f=f, codebooks=c), "tau"),
        of(codebook.soft_quantize, dict(f=f, codebooks=c), "tau"),
        of(codebook.pack, dict(codes=codes), "n_words"),
        of(codebook.usage, dict(codes=codes), "n_words"),
        of(codebook.unpack, dict(packed=codebook.pack(codes, 4), n_books=2, n_words=4), "n_books", "n_words"),
        of(diversity.codeword_diversity, dict(f=f, codebooks=c), "tau"),
        of(contrastive.info_nce, dict(x=f), "tau"),
        of(contrastive.consistency, dict(x=f, y=f), "tau"),
        of(contrastive.fused_consistency, dict(f=f, z=f), "fusion", "tau"),
        of(neighbors.part_neighbor, dict(z=f, n_books=2), "n_books", "n_neighbors", "tau"),
        of(neighbors.nearest_negatives, dict(z=f, n_books=2), "n_books", "n_neighbors"),
        of(neighbors.part_neighbor_with_positive, dict(z=f, n_books=2), "n_books", "n_neighbors", "tau"),
        of(scored, {}, "topk", "distance", "method", "backbone", "data", use=lambda s: (str(s), evaluate.score_table([s])), name="score_codes"),
        of(evaluate.bootstrap, dict(values=hits.double().mean(1), resamples=20), "resamples", "level", "seed"),
        of(sscq_baselines.code_pq, dict(v=v, bits=4, n_words=4), "bits", "n_words", "seed", "rotate"),
        of(
            sscq_baselines.score_pq,
            dict(v=sscq_baselines.vectors(few, sscq_baselines.pixels), data=few, bits=4, method="a", backbone="b"),
            "bits",
            "n_words",
            "distance",
            "seed",
            "rotate",
        ),
        of(sscq_baselines.pca, dict(v=v, dim=2), "dim"),
        of(sscq_baselines.pixels, dict(images=PICTURES), "side"),
        of(sscq_baselines.untrained, dict(data=few), "backbone", "seed"),
        of(evaluate.tie_averaged_precision, dict(distances=torch.arange(10.0).expand(4, 10), hits=hits), "topk"),
        of(evaluate.shortlist, dict(distances=torch.rand(4, 10)), "topk"),
        of(evaluate.score_queries, dict(distances=torch.rand(4, 10), relevant=hits), "topk"),
        of(sscq_reading.as_images, dict(source=str(folder / "pictures"), channels=3, size=8), name="as_images"),
        of(sscq_images.load_image, dict(path=str(file), size=8)),
        of(sscq_images.resize_center_crop, dict(image=Image.new("RGB", (9, 12)), size=8), "size", "channels", "resize"),
        of(pictures, {}, "paths", "size", "channels", "resize", use=opened, name="Pictures"),
        of(listed, {}, name="read(workers)"),
        of(sscq_reading.ready, dict(images=sscq_reading.Pictures([file], 8), progress=False), "limit", "workers"),
        of(sscq_reading.in_memory, dict(images=sscq_reading.Pictures([file], 8), progress=False), "workers"),
        of(data.resized, dict(images=PICTURES, channels=1, size=4), "channels", "size"),
        of(sscq_images.check_images, dict(images=PICTURES, channels=1, size=8), "channels", "size"),
        of(sscq_reading.find_images, dict(folder=str(folder / "pictures"))),
        of(data.labelled_folder, dict(root=str(folder / "labelled"), size=8), use=lambda d: len(d.train)),
        of(data.dataset, dict(name=str(folder / "labelled")), use=lambda d: len(d.train)),
        of(data.digits, {}),
        of(data.flickr25k, dict(root=str(folder), n_queries=1)),
        of(data.nuswide, dict(root=str(folder))),
        of(data.fashion_mnist, dict(root=str(folder), download=False), "root", name="fashion_mnist"),
        of(data.data_resized, dict(data=few, channels=1, size=4), "channels", "size"),
        of(views.random_flip, dict(x=x), "p"),
        of(views.random_gray, dict(x=x), "p"),
        of(views.draw_boxes, dict(x=x), "scale", "ratio", "tries"),
        of(views.random_resized_crop, dict(x=x), "scale", "ratio", "size"),
        of(views.color_jitter, dict(x=x), "strength", "hue", "p"),
        of(views.gaussian_blur, dict(x=x), "sigma"),
        of(views.photo_view, dict(x=x), "size"),
        of(views.random_affine, dict(x=x), "degrees", "scale", "shear", "shift"),
        of(views.random_ink, dict(x=x), "contrast", "noise"),
        of(views.two_views, dict(images=x), "view"),
        of(views.bernoulli_mask, dict(x=x, p=0.5), "p"),
    ]
    return out


class World(NamedTuple):
    choices: list  # of subjects, settings and numbers of odd values
    folder: Path


def prepare(folder: Path) -> World:
    with contextlib.redirect_stdout(None):
        everything = subjects(folder)
    return World([(subject, name, k) for subject in everything for name in subject.settings for k in range(len(ODD))], folder)


def make(world: World, r: random.Random, i: int) -> Case:
    "Every choice once, in an order that looks random, then again"
    n = len(world.choices)
    step = next(s for s in range(7919, 7919 + n) if math.gcd(s, n) == 1)
    subject, name, k = world.choices[i * step % n]
    value = ODD[k]
    try:
        shown = repr(value)[:60]
    except ValueError:
        shown = "a number of 5,001 digits"
    return Case(f"{subject.name}({name})={shown}", (subject, name, value))


# what a message may call a setting instead of by its name
ALIASES = {
    "name": ("device", "dataset", "folder"),
    "images": ("picture",),
    "source": ("images", "picture"),
    "pretrained_model_name_or_path": ("folder", "holds no model"),
    "save_directory": ("folder",),
    "query": ("ask", "embeddings", "look"),
    "f": ("embeddings", "codes"),
    "fingerprint": ("belongs to model",),
    "other": ("merge",),
    "value": ("weights", "workers"),
    "path": ("file", ".sscq"),
    "root": ("folder", ".txt is missing"),
    "folder": ("a folder", "no pictures in"),
    "embed": ("belongs to model",),
    "paths": ("path ",),
    "ids": ("id ",),
    "map_location": ("device",),
    "evil": ("changes",),
    "tau": ("tau_",),
    "tau_sq": ("tau",),
    "image_size": ("images of",),
    "size": ("the model takes", "views of"),
    "channels": ("the model takes",),
}


def harmless(subject: Subject, name: str, value) -> bool:
    "Neither long nor large, though it may be right"
    if name in ("objective", "view", "on_epoch", "embed") and callable(value):
        return False  # what a person's own function raises is theirs
    return not (subject.name in ("fit", "fit again") and name == "epochs" and isinstance(value, int) and value > 50)


def attempt(world: World, case: Case, folder: Path) -> tuple[str, str]:
    subject, name, value = case.data
    if not harmless(subject, name, value):
        return "works", ""
    os.makedirs("x", exist_ok=True)  # what is called x is a folder, if it is a path
    try:
        result = subject.call(**subject.base | {name: value})
    except Exception as error:
        return refusal(error, name, *ALIASES.get(name, ()), kinds=(ValueError, TypeError, FileNotFoundError))
    try:
        subject.use(result)
    except Exception as error:
        # a number that overflows only in use is said there; what trains on it cannot know which setting it was
        if clear(error, name, "NaN or infinite", *ALIASES.get(name, ()), kinds=(ValueError, TypeError, OSError)):
            return "refused", ""
        return "LATE", f"accepted, then {said(error)}"
    return "works", ""


TARGETS = [Target("odd settings", 9000, prepare, make, attempt)]
