"""Train a preset on a folder of labelled pictures, and score it on the way: FOLDER/train/CLASS/*.jpg is trained on and searched,
FOLDER/test/CLASS/*.jpg asks. The labels only score.

One model is trained for each number of bits. Seconds are of training alone, without reading the pictures and without scoring.
Every score states its protocol; raw-pixel product quantization under the same protocol comes first. Pictures re-compressed by
somebody are not the published data set: give such a folder's results another name (--name)."""
import argparse
import datetime
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from sscq import __version__
from sscq.core import SSCQ
from sscq.data import ImageSet, data_in_memory, labelled_folder
from sscq.evaluate import pixels, score_codes, score_pq, vectors
from sscq.objective import SPQObjective
from sscq.train import PRESETS, find_device


def some(part: ImageSet, n: int | None, seed: int = 0) -> ImageSet:
    "n images at random, the same ones every time; all where n is None"
    if n is None or n >= len(part.images): return part
    rows = torch.randperm(len(part.images), generator=torch.Generator().manual_seed(seed))[:n]
    return ImageSet(part.images[rows], part.labels[rows])


def load(args, size: int):
    "The protocol's data, decoded once"
    data = data_in_memory(labelled_folder(args.folder, size, topk=args.topk))
    return data._replace(name=args.name, train=some(data.database, args.train, 1).images, database=some(data.database, args.database),
                         query=some(data.query, args.queries))


def row(score, **more) -> dict:
    keep = ("method", "bits", "map", "map_ties", "low", "high", "topk", "distance", "ties", "n_queries", "n_database", "backbone", "data")
    return dict({name: getattr(score, name) for name in keep}, **more)


def train(args, data, bits: int, report) -> SSCQ:
    "One model; a score every `args.score_every` seconds of training, and at the end"
    torch.manual_seed(args.seed)
    preset = PRESETS[args.preset]
    objective = SPQObjective() if args.objective == "spq" else preset.objective
    config = replace(preset.config, seed=args.seed, **({"epochs": args.epochs} if args.epochs else {}))
    model, scored = SSCQ(bits=bits, **preset.model), 0.

    def on_epoch(record):
        nonlocal scored
        enough = args.minutes and record["seconds"] >= 60 * args.minutes
        if record["seconds"] - scored < args.score_every and record["epoch"] < config.epochs and not enough: return
        scored = record["seconds"]
        score = score_codes(model.embed(data.query.images), data.query.labels, model.encode(data.database.images), data.database.labels,
                            model.codebooks.detach().cpu(), data.topk, args.distance, args.objective, "from scratch", data.name)
        record.update(map=score.map)
        report(row(score, epoch=record["epoch"], seconds=record["seconds"], loss=record["loss"]))
        if enough: raise KeyboardInterrupt

    out = args.out and args.out / f"{args.objective}-{bits}"
    model.fit(data.train, preset.view, objective, config, args.device, args.progress, out, args.resume, on_epoch)
    if out: model.save_pretrained(out / "model")
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python benchmarks/cifar10.py cifar10/ --preset laptop --bits 32 --database 10000 --json /tmp/laptop.json")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="laptop")
    parser.add_argument("--objective", choices=("sscq", "spq"), default="sscq", help="spq: the baseline's objective, the rest the same")
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--epochs", type=int, help="instead of the preset's")
    parser.add_argument("--minutes", type=float, help="stop after the first epoch that ends later than this")
    parser.add_argument("--score-every", type=float, default=120., metavar="SECONDS", help="of training (default 120)")
    parser.add_argument("--train", type=int, metavar="N", help="random images to train on (default all)")
    parser.add_argument("--database", type=int, metavar="N", help="random images to search (default all)")
    parser.add_argument("--queries", type=int, metavar="N", help="random test images to ask with (default all)")
    parser.add_argument("--topk", type=int, default=1000)
    parser.add_argument("--distance", choices=("squared", "unsquared"), default="unsquared")
    parser.add_argument("--device", help="default: CUDA if there is one")
    parser.add_argument("--threads", type=int, help="on the CPU (default: all cores)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="CIFAR-10", help="of the data, in the results")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for checkpoints, history and models")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument("--no-baseline", action="store_true", help="skip raw-pixel PQ")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well, after every score")
    args = parser.parse_args()
    args.device, args.progress = find_device(args.device), None
    if args.threads: torch.set_num_threads(args.threads)
    size, rows = PRESETS[args.preset].model["image_size"], []
    start = time.perf_counter()
    data = load(args, size)
    about = dict({k: str(v) if isinstance(v, (Path, torch.device)) else v for k, v in vars(args).items() if k not in ("json", "progress")},
                 date=datetime.date.today().isoformat(), sscq=__version__, torch=torch.__version__, python=platform.python_version(),
                 hardware=torch.cuda.get_device_name() if args.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
                 images=len(data.train), seconds_reading=time.perf_counter() - start, preset_settings=str(PRESETS[args.preset]))

    def report(new: dict):
        rows.append(new)
        line = "| {method} | {bits} | {epoch} | {seconds:.0f} | {map:.4f} | {map_ties:.4f} |"
        print(line.format(**{"epoch": "", "seconds": 0, **new}), flush=True)
        if args.json: args.json.write_text(json.dumps(dict(about=about, rows=rows), indent=1) + "\n", encoding="utf-8")

    print(f"{data.name}: {len(data.train):,} images of {size}×{size} to train, {len(data.database.images):,} to search, "
          f"{len(data.query.images):,} queries; mAP@{data.topk}, {args.distance} distances; {about['hardware']}\n")
    print("| method | bits | epoch | seconds | mAP | mAP, ties averaged |\n|---|---|---|---|---|---|", flush=True)
    if not args.no_baseline:
        raw = vectors(data, pixels)
        for bits in args.bits: report(row(score_pq(raw, data, bits, "raw-pq", "raw pixels", distance=args.distance, seed=args.seed)))
    for bits in args.bits: train(args, data, bits, report)


if __name__ == "__main__": main()
