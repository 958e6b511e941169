"""Train a preset on a folder of labelled pictures, and score it: FOLDER/train/CLASS/*.jpg is trained on and searched,
FOLDER/test/CLASS/*.jpg asks. The labels only score.

One model is trained for each objective, number of bits and seed. It is scored at the end with both distances, on every size of
database asked for, and on the way for a curve. Seconds are of training alone, without reading the pictures and without scoring;
CPU seconds are those of all threads, and do not grow when other programs wait for the same processor. Baselines need no training of
ours and follow the same protocol. Pictures re-compressed by somebody are not the published data set: give such a folder's results
another name (--name). With --resume, what FILE and --out hold already is kept and the rest is done."""
import argparse
import datetime
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sscq import __version__
from sscq.core import SSCQ
from sscq.data import ImageSet, data_in_memory, labelled_folder
from sscq.baselines import baseline_scores, pixels, score_pq, vectors
from sscq.evaluate import score_codes
from sscq.objective import SPQObjective
from sscq.search import nearest
from sscq.train import PRESETS
from sscq.distributed import find_device

METHODS, DISTANCES = {"sscq": "SSCQ", "spq": "SPQ's objective"}, ("unsquared", "squared")
LAYOUT = dict(
    rows="finished models and baselines: one row per method, backbone, bits, seed, distance and n_database; map: equal distances by row number; "
         "map_ties: averaged over random orders of equal distances; low, high: 95% bootstrap interval over queries; seconds: training, wall; "
         "cpu_seconds: training, all threads; images, epochs: trained on (null for baselines)",
    curve="scores while training, first database size, unsquared distances; epoch, seconds and cpu_seconds so far",
    preset_settings="what every model of `rows` was trained with, but for objective, bits and seed")
KEPT = ("method", "backbone", "bits", "distance", "map", "map_ties", "low", "high", "topk", "ties", "n_queries", "n_database", "data")


def some(part: ImageSet, n: int | None, seed: int = 0) -> ImageSet:
    "n images at random, the same ones every time; all where n is None"
    if n is None or n >= len(part.images): return part
    rows = torch.randperm(len(part.images), generator=torch.Generator().manual_seed(seed))[:n]
    return ImageSet(part.images[rows], part.labels[rows])


def load(args, size: int):
    "The protocol's data, decoded once"
    data = data_in_memory(labelled_folder(args.folder, size, topk=args.topk))
    return data._replace(name=args.name, train=some(data.database, args.train, 1).images, query=some(data.query, args.queries))


def chosen(args):
    "The preset, with what the command line changes"
    changes = {name: value for name in ("epochs", "precision") if (value := getattr(args, name))}
    preset = PRESETS[args.preset]
    return preset._replace(config=replace(preset.config, **changes))


class Results:
    "Rows and curve, in a file after every change"
    def __init__(self, args, about: dict):
        self.file, self.content = args.json, dict(about=about, rows=[], curve=[])
        if args.resume and self.file and self.file.exists(): self.content |= {k: v for k, v in json.loads(self.file.read_text()).items() if k != "about"}

    def has(self, **what) -> bool: return any(all(row[k] == v for k, v in what.items()) for row in self.content["rows"])

    def add(self, where: str, new: list[dict]):
        self.content[where] += new
        for r in new:
            print(f"| {r['method']} | {r['backbone']} | {r['bits']} | {r['seed']} | {r['n_database']} | {r['distance']} | {r.get('epochs') or ''} | "
                  f"{r.get('cpu_seconds') or 0:.0f} | {r['map']:.4f} | {r['map_ties']:.4f} |", flush=True)
        if self.file: self.file.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")


def row(score, seed: int, **more) -> dict: return dict({name: getattr(score, name) for name in KEPT}, seed=seed, **more)


def train(args, data, objective: str, bits: int, seed: int, results: Results):
    "One model, scored on the way every `args.score_every` CPU or wall seconds, and at the end"
    preset, method, scored, busy = chosen(args), METHODS[objective], 0., time.process_time()
    config = replace(preset.config, seed=seed)
    torch.manual_seed(seed)
    model, spent, backbone = SSCQ(bits=bits, **preset.model), [], preset.model["backbone"] + " from scratch"

    def scores(sizes, distances):
        queries, codes, codebooks = model.embed(data.query.images), model.encode(data.database.images), model.codebooks.detach().cpu()
        for n in sizes:
            items = some(ImageSet(codes, data.database.labels), n)
            for distance in distances:
                yield score_codes(queries, data.query.labels, *items, codebooks, data.topk, distance, method, backbone, data.name)

    def on_epoch(record):
        nonlocal scored, busy
        record["cpu_seconds"] = time.process_time() - busy
        spent.append(record["cpu_seconds"])
        enough = args.minutes and record["seconds"] >= 60 * args.minutes
        if record["seconds"] - scored >= args.score_every and record["epoch"] < config.epochs:
            scored = record["seconds"]
            results.add("curve", [row(next(scores(args.database[:1], DISTANCES[:1])), seed, epochs=record["epoch"], seconds=scored, cpu_seconds=sum(spent))])
        busy = time.process_time()
        if enough: raise KeyboardInterrupt

    out = args.out and args.out / f"{objective}-{bits}-{seed}"
    model.fit(data.train, preset.view, SPQObjective() if objective == "spq" else preset.objective, config, args.device, args.progress, out,
              args.resume, on_epoch)
    if out: model.save_pretrained(out / "model")
    if args.answers: answers(args, data, model)
    told = dict(images=len(data.train), epochs=len(model.history), seconds=model.history[-1]["seconds"],
                cpu_seconds=sum(r["cpu_seconds"] for r in model.history), loss=model.history[-1]["loss"])
    results.add("rows", [row(score, seed, **told) for score in scores(args.database, DISTANCES)])


def answers(args, data, model, k: int = 8):
    "The first query of each kind, and the k pictures that its search returns first, in their full size, into the file --answers"
    full, n = load(args, args.pixels), args.database[0]
    asked = [int((data.query.labels == label).nonzero()[0]) for label in data.query.labels.unique()]
    rows = some(ImageSet(torch.arange(len(data.database.labels)), data.database.labels), n).images
    codes = model.encode(some(data.database, n).images)
    _, found = nearest(model.embed(data.query.images[asked]), model.codebooks.detach().cpu(), codes, k, squared=False)
    found = rows[found.flatten()]
    np.savez_compressed(args.answers, queries=full.query.images[asked].numpy(), query_labels=full.query.labels[asked].numpy(),
                        answers=full.database.images[found].numpy(), answer_labels=full.database.labels[found].numpy(), n_database=len(rows))


def baselines(args, data, results: Results):
    "Raw pixels at full size and at the model's, rotated, projected; and an untrained network"
    backbone, full = PRESETS[args.preset].model["backbone"], load(args, args.pixels)
    raw, size, at = vectors(full, pixels), data.query.images.shape[-1], {}
    for n in args.database:
        at[n] = full._replace(database=some(full.database, n)), data._replace(database=some(data.database, n))
    for n, (large, small) in at.items():
        v = raw._replace(database=some(ImageSet(raw.database, full.database.labels), n).images)
        for distance in DISTANCES:
            found = [score_pq(v, large, bits, "PQ", f"raw pixels {args.pixels}×{args.pixels}", distance=distance) for bits in args.bits]
            others = [replace(s, backbone=s.backbone.replace("raw pixels", f"raw pixels {size}×{size}"))
                      for s in baseline_scores(small, args.bits, distance=distance, backbone=backbone)]
            found += others if size != args.pixels else [s for s in others if s.method != "PQ" or "untrained" in s.backbone]
            results.add("rows", [row(s, 0, images=None, epochs=None, seconds=None, cpu_seconds=None) for s in found])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python benchmarks/cifar10.py cifar10/ --preset laptop --bits 32 --database 10000 --json /tmp/laptop.json")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="laptop")
    parser.add_argument("--objectives", choices=METHODS, nargs="*", default=["sscq"], help="spq: the baseline's objective, the rest the same")
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, help="instead of the preset's")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="instead of the preset's")
    parser.add_argument("--minutes", type=float, help="stop after the first epoch that ends later than this")
    parser.add_argument("--score-every", type=float, default=120., metavar="SECONDS", help="of training (default 120)")
    parser.add_argument("--train", type=int, metavar="N", help="random images to train on (default all)")
    parser.add_argument("--database", type=int, nargs="+", default=[None], metavar="N",
                        help="random images to search (default all); several sizes are scored each")
    parser.add_argument("--queries", type=int, metavar="N", help="random test images to ask with (default all)")
    parser.add_argument("--topk", type=int, default=1000)
    parser.add_argument("--device", help="default: CUDA if there is one")
    parser.add_argument("--threads", type=int, help="on the CPU (default: all cores)")
    parser.add_argument("--name", default="CIFAR-10", help="of the data, in the results")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for checkpoints, history and models")
    parser.add_argument("--answers", type=Path, metavar="FILE.npz", help="keep some queries and answers as pictures, of the last model")
    parser.add_argument("--resume", action="store_true", help="keep what is in FILE and go on from the checkpoints in --out")
    parser.add_argument("--baselines", action="store_true", help="score what needs no training, too")
    parser.add_argument("--pixels", type=int, default=32, metavar="SIDE", help="of the pictures for raw-pixel PQ (default 32)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well, after every score")
    args = parser.parse_args()
    args.device, args.progress = find_device(args.device), None
    if args.threads: torch.set_num_threads(args.threads)
    preset, threads, start = chosen(args), torch.get_num_threads(), time.perf_counter()
    data = load(args, preset.model["image_size"])
    about = dict(data=args.name, preset=args.preset, preset_settings=str(preset), epochs=preset.config.epochs,
                 precision=preset.config.precision, images=len(data.train), topk=args.topk, date=datetime.date.today().isoformat(),
                 sscq=__version__, torch=torch.__version__, python=platform.python_version(),
                 device=torch.cuda.get_device_name() if args.device.type == "cuda" else f"CPU, {threads} thread{'s' * (threads > 1)}",
                 seconds_reading=time.perf_counter() - start, layout=LAYOUT)
    results = Results(args, about)
    print(f"{data.name}: {len(data.train):,} images of {preset.model['image_size']} pixels to train, {len(data.database.images):,} to search, "
          f"{len(data.query.images):,} queries; mAP@{data.topk}; {about['device']}\n")
    print("| method | backbone | bits | seed | database | distances | epochs | CPU s | mAP | mAP, ties averaged |\n"
          "|---|---|--:|--:|--:|---|--:|--:|--:|--:|", flush=True)
    if args.baselines and not results.has(epochs=None): baselines(args, data, results)
    for seed in args.seeds:
        for bits in args.bits:
            for objective in args.objectives:
                if not results.has(method=METHODS[objective], bits=bits, seed=seed): train(args, data, objective, bits, seed, results)


if __name__ == "__main__": main()
