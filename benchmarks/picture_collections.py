"""Collections of real pictures: FOLDER/train/KIND/* is trained on and searched, FOLDER/test/KIND/* asks. The kinds only score.

What people have without learning stands beside every model, each exact and cut to the same number of bits by PQ:

    histogram   RGB, 4 levels of each channel: the shares of 64 colours, compared by the sum of absolute differences
                (Swain & Ballard 1991: one less the intersection)
    grid        the same on 3×3 cells: 576 shares
    raw pixels  32×32 RGB, compared by Euclid's distance
    dHash       grey, 9×8: is a pixel brighter than its left neighbour? 64 bits, compared by Hamming's distance
    pHash       grey, 32×32: are the 64 lowest frequencies of its cosine transform above their median? 64 bits, likewise

All see what the model's reader makes of a file: the centre square, 32 pixels a side (a model: of its own size). PQ takes the square roots of shares, whose
Euclidean distance is Hellinger's, and pixels and bits as they are. Equal distances are ordered by row number. Seconds are of
describing and searching; a model's are of training, in CPU seconds of all threads. `refined` rows sort a model's first hundred answers by
its embeddings, and are never mixed with the codes' own. `known_item` is another question, which no kind decides: an edited copy (the
middle 85 % of the area, brightness up or down by at most 20 %) of every query is looked for among queries and database; the share that
is found first. Numbers are means over the seeds; `spread` is the standard deviation of P@10 over them, and `each` lists it."""
import argparse
import json
import time
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sscq.baselines import code_pq, Vectors
from sscq.codebook import hard_assign
from sscq.core import SSCQ
from sscq.data import data_in_memory, labelled_folder, RetrievalData
from sscq.evaluate import relevance, score_queries
from sscq.objective import SPQObjective
from sscq.search import adc, distance_table
from sscq.views import crop_resize, to_float

SIDE, TOP = 32, 1000  # pixels of the baselines' pictures; answers that count for mAP
LUMA = torch.tensor([.299, .587, .114])[:, None, None]


def colour_shares(images: Tensor, cells: int = 1, levels: int = 4) -> Tensor:
    "Of every cell, the share of its pixels in each of levels³ colours: (B, levels³·cells²), 1 in all for each cell"
    r, g, b = (images.long() * levels // 256).unbind(1)
    colour = F.one_hot((r * levels + g) * levels + b, levels ** 3).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(colour.float(), cells).flatten(1)


def grid_shares(images: Tensor) -> Tensor: return colour_shares(images, 3)


def pixels(images: Tensor) -> Tensor: return images.flatten(1).float() / 255


def _grey(images: Tensor, size: tuple) -> Tensor:
    return F.interpolate((images.float() * LUMA).sum(1, keepdim=True), size, mode="bilinear", antialias=True)[:, 0]


def dhash(images: Tensor) -> Tensor:
    "64 bits as 0. and 1.: brighter than the left neighbour"
    x = _grey(images, (8, 9))
    return (x[..., 1:] > x[..., :-1]).flatten(1).float()


def phash(images: Tensor) -> Tensor:
    "64 bits as 0. and 1.: low frequencies above their median, the mean left out of it"
    n = torch.arange(32.)
    waves = torch.cos(torch.pi * (2 * n + 1) * n[:8, None] / 64)  # the 8 slowest of the cosine transform
    x = (waves @ _grey(images, (32, 32)) @ waves.T).flatten(1)
    return (x > x[:, 1:].median(1, keepdim=True).values).float()


class Simple(NamedTuple):
    "A description of pictures that nobody trained"
    describe: Callable  # uint8 (B, 3, 32, 32) -> (B, D)
    p: float  # of the distance between two: 1 adds absolute differences, 2 is Euclid's
    for_pq: Callable = lambda x: x


SIMPLE = {
    "colour histogram": Simple(colour_shares, 1, torch.sqrt),
    "colour histogram, 3×3": Simple(grid_shares, 1, torch.sqrt),
    "raw pixels 32×32": Simple(pixels, 2),
    "dHash": Simple(dhash, 1),
    "pHash": Simple(phash, 1),
}


CANDIDATES = 100  # of the codes, that embeddings sort


def edited(images: Tensor) -> Tensor:
    "The middle 85 % of every picture, up to a fifth brighter or darker; the same every time"
    n, _, height, width = images.shape
    side = torch.tensor([height, width]) * .85 ** .5
    box = torch.cat([(torch.tensor([height, width]) - side) / 2, side]).round().expand(n, 4)
    bright = 1 + .2 * (2 * torch.rand(n, 1, 1, 1, generator=torch.Generator().manual_seed(0)) - 1)
    return (crop_resize(to_float(images), box) * bright).clamp(0, 1)


def refined(codes_say: Tensor, embeddings_say: Tensor) -> Tensor:
    "Distances (Q, N) that put the codes' first candidates in the embeddings' order, before all others"
    first = codes_say.sort(dim=1, stable=True).indices[:, :CANDIDATES]
    behind = 1 + embeddings_say.max() + codes_say
    return behind.scatter(1, first, embeddings_say.gather(1, first))


def scores(distances: Tensor, data: RetrievalData) -> dict:
    "Precision of the first and the first ten answers, and mAP"
    relevant = relevance(data.query.labels, data.database.labels)
    def precision(k): return score_queries(distances, relevant, k).precision.mean().item()
    return dict(p_at_1=precision(1), p_at_10=precision(10), map=score_queries(distances, relevant, TOP).ap.mean().item())


def simple_rows(data: RetrievalData, bits: int, seeds: list[int]) -> list[dict]:
    "Each simple description, exact, and cut to so many bits"
    rows = []
    for method, (describe, p, for_pq) in SIMPLE.items():
        start = time.process_time()
        database, query = (torch.cat([describe(x) for x in part.images.split(512)]) for part in (data.database, data.query))
        found = scores(torch.cdist(query, database, p=p), data)
        rows.append(dict(method=method, bits=None, refined=False, **found, seconds=time.process_time() - start, seeds=[]))
        start, cut = time.process_time(), []
        for seed in seeds:
            coded = code_pq(Vectors(for_pq(database), for_pq(database), for_pq(query)), bits, seed=seed)
            cut.append(scores(adc(distance_table(coded.query, coded.codebooks), coded.codes), data))
        mean = {name: sum(c[name] for c in cut) / len(cut) for name in cut[0]}
        rows.append(dict(method=f"{method}, PQ", bits=bits, refined=False, **mean, seconds=time.process_time() - start, seeds=seeds))
    return [dict(collection=data.name, **row) for row in rows]


@torch.no_grad()
def model_scores(model: SSCQ, data: RetrievalData) -> tuple[dict, dict]:
    "By the codes alone, and refined"
    pictures, copies = torch.cat([data.database.images, data.query.images]), edited(data.query.images)
    f, of_copies, codebooks = model.embed(pictures), model.embed(copies), model.codebooks.detach()
    codes, n = hard_assign(f, codebooks), len(data.database.images)
    def ask(query, items):
        by_codes = adc(distance_table(query, codebooks), codes[:items])
        return by_codes, refined(by_codes, torch.cdist(query, f[:items]))
    found = []
    for kinds, known in zip(ask(f[n:], n), ask(of_copies, len(f))):
        first = known.sort(dim=1, stable=True).indices[:, 0]
        right = (first == torch.arange(n, len(f))).double().mean().item()
        found.append(scores(kinds, data) | dict(known_item=right))
    return found[0], found[1]


def one_run(folder: Path, data: RetrievalData, method: str, seed: int, args) -> dict:
    "Train with the defaults, on the objective of the method, and score"
    model, start = SSCQ(bits=args.bits, seed=seed), time.process_time()
    how = dict(steps=args.steps, save_every=10) if args.steps else dict(minutes=args.minutes, save_every=10)
    if method != "SSCQ": how["objective"] = SPQObjective()
    out = args.out and args.out / f"{data.name}-{method.split()[0]}-{args.bits}-{seed}"
    model.fit(data.train if args.most else folder / "train", device="cpu", progress=False, out=out, resume=out is not None, **how)
    spent = time.process_time() - start
    if out: model.save_pretrained(out / "model")
    same = (model.image_size, model.channels) == (SIDE, 3)
    seen = data if same else load(folder, model.image_size, args.most, model.channels)  # grey pictures get a network of one channel
    by_codes, sorted_by_f = model_scores(model.eval(), seen)
    return dict(collection=data.name, method=method, bits=args.bits, seed=seed, pixels=model.image_size, steps=model.settings.steps,
                cpu_seconds=spent, seconds=model.history[-1]["seconds"], codes=by_codes, refined=sorted_by_f)


def kept_runs(file: Path | None) -> list[dict]:
    "One line of JSON each"
    if not file or not file.exists(): return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def model_rows(data: RetrievalData, runs: list[dict]) -> list[dict]:
    "Runs of one collection that differ by their seeds alone, put together; codes and refined apart"
    rows, alike = [], {}
    for run in runs:
        if run["collection"] == data.name:
            alike.setdefault(tuple(run[name] for name in ("method", "bits", "pixels", "steps")), []).append(run)
    for (method, bits, side, steps), same in alike.items():
        for which in ("codes", "refined"):
            mean = {name: statistics.mean(run[which][name] for run in same) for name in same[0][which]}
            spread = statistics.stdev(run[which]["p_at_10"] for run in same) if len(same) > 1 else None
            rows.append(dict(collection=data.name, method=method, features="from scratch", bits=bits, refined=which == "refined", **mean, spread=spread,
                             each=[run[which]["p_at_10"] for run in same], pixels=side, steps=steps,
                             seconds=statistics.mean(run["cpu_seconds"] for run in same),
                             seeds=[run["seed"] for run in same]))
    return rows


def chance(data: RetrievalData) -> float:
    "P@10 of answers drawn at random"
    share = torch.bincount(data.database.labels, minlength=len(data.classes)) / len(data.database.labels)
    return share[data.query.labels].mean().item()


def load(folder: Path, side: int, most: int | None = None, channels: int = 3) -> RetrievalData:
    "The folder, decoded once"
    data = data_in_memory(labelled_folder(folder, side, channels, topk=TOP))
    if not most or most >= len(data.database.images): return data
    rows = torch.randperm(len(data.database.images), generator=torch.Generator().manual_seed(0))[:most].sort().values
    database = data.database._replace(images=data.database.images[rows], labels=data.database.labels[rows])
    return data._replace(train=database.images, database=database)


def table(rows: list[dict]) -> str:
    "Markdown"
    lines = ["| collection | method | bits | refined | P@1 | P@10 | mAP | CPU s |", "|---|---|--:|:-:|--:|--:|--:|--:|"]
    lines += [f"| {r['collection']} | {r['method']} | {r['bits'] or 'exact'} | {'yes' if r['refined'] else ''} | {r['p_at_1']:.3f} | {r['p_at_10']:.3f} | "
              f"{r['map']:.3f} | {r['seconds']:.0f} |" for r in rows]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--most", type=int, metavar="N", help="random pictures of FOLDER/train to take (default all)")
    parser.add_argument("--minutes", type=float, default=10, help="of training, on this machine as it is now (default 10)")
    parser.add_argument("--steps", type=int, help="of training, instead: the same whatever else the machine does")
    parser.add_argument("--runs", type=Path, metavar="FILE", help="a line of JSON for every finished training; those that are there are not done again")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for checkpoints, from which a training that was stopped goes on, and models")
    parser.add_argument("--spq", action="store_true", help="train with SPQ's objective, too")
    parser.add_argument("--simple-only", action="store_true", help="train nothing")
    parser.add_argument("--models-only", action="store_true", help="leave out what is not trained")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well, after every collection")
    args, rows = parser.parse_args(), []
    runs = kept_runs(args.runs)
    for folder in args.folders:
        data = load(folder, SIDE, args.most)
        print(f"{data.name}: {len(data.database.images):,} pictures, {len(data.query.images):,} queries, {len(data.classes)} kinds, "
              f"chance {chance(data):.3f}", flush=True)
        if not args.models_only: rows += simple_rows(data, args.bits, args.seeds)
        for seed in [] if args.simple_only else args.seeds:
            for method in ("SSCQ", "SPQ's objective") if args.spq else ("SSCQ",):
                if any((r["collection"], r["method"], r["seed"]) == (data.name, method, seed) and r["steps"] == (args.steps or r["steps"]) for r in runs):
                    continue
                runs.append(one_run(folder, data, method, seed, args))
                print(json.dumps(runs[-1]), flush=True)
                if args.runs:
                    with args.runs.open("a", encoding="utf-8") as f: f.write(json.dumps(runs[-1]) + "\n")
        rows += model_rows(data, runs)
        if args.json: args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\n" + table(rows))


if __name__ == "__main__": main()
