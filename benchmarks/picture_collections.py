"""Collections of real pictures: FOLDER/train/KIND/* is trained on and searched, FOLDER/test/KIND/* asks. The kinds only score.

What people have without learning stands beside every model, each exact and cut to the same number of bits by PQ:

    histogram   RGB, 4 levels of each channel: the shares of 64 colours, compared by the sum of absolute differences
                (Swain & Ballard 1991: one less the intersection)
    grid        the same on 3×3 cells: 576 shares
    raw pixels  32×32 RGB, compared by Euclid's distance
    dHash       grey, 9×8: is a pixel brighter than its left neighbour? 64 bits, compared by Hamming's distance
    pHash       grey, 32×32: are the 64 lowest frequencies of its cosine transform above their median? 64 bits, likewise

All see what the model's reader makes of a file: the centre square, 32 pixels a side. PQ takes the square roots of shares, whose
Euclidean distance is Hellinger's, and pixels and bits as they are. Equal distances are ordered by row number. Seconds are of
describing and searching; a model's are of training, in CPU seconds of all threads. `refined` rows sort a model's first answers by
its embeddings, and are never mixed with the codes' own."""
import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sscq.baselines import code_pq, Vectors
from sscq.data import data_in_memory, labelled_folder, RetrievalData
from sscq.evaluate import relevance, score_queries
from sscq.search import adc, distance_table

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


def chance(data: RetrievalData) -> float:
    "P@10 of answers drawn at random"
    share = torch.bincount(data.database.labels, minlength=len(data.classes)) / len(data.database.labels)
    return share[data.query.labels].mean().item()


def load(folder: Path, side: int, most: int | None = None) -> RetrievalData:
    "The folder, decoded once"
    data = data_in_memory(labelled_folder(folder, side, topk=TOP))
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well, after every collection")
    args, rows = parser.parse_args(), []
    for folder in args.folders:
        data = load(folder, SIDE, args.most)
        print(f"{data.name}: {len(data.database.images):,} pictures, {len(data.query.images):,} queries, {len(data.classes)} kinds, "
              f"chance {chance(data):.3f}", flush=True)
        rows += simple_rows(data, args.bits, args.seeds)
        if args.json: args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\n" + table(rows))


if __name__ == "__main__": main()
