"""CIFAR-10's retrieval protocol on planted data: 10,000 queries × 50,000 codes of 32 bits, mAP@1000, both distances, ties averaged.

    python benchmarks/evaluate.py [--json FILE] [--threads 2] [--queries 10000] [--database 50000]
"""
import argparse
import json
import resource
import sys
import time
from pathlib import Path

import torch

from sscq.codebook import hard_assign
from sscq.evaluate import (
    DISTANCES, average_precision, bootstrap, relevance, score_codes, score_queries, score_table, shortlist, tie_averaged_precision)
from sscq.search import adc, distance_table, train_pq


def peak_mb() -> float:
    "Largest memory of this process so far"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2 ** 20 if sys.platform == "darwin" else 2 ** 10)


def planted(n_queries: int, n_database: int, n_classes: int = 10, n_books: int = 8, word_dim: int = 16, noise: float = 3.2, seed: int = 0):
    "Vectors around one centre per class, and codebooks trained on them"
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_classes, n_books * word_dim, generator=g)
    query_labels, db_labels = (torch.randint(n_classes, (n,), generator=g) for n in (n_queries, n_database))
    query_f, db_f = (centres[y] + noise * torch.randn(len(y), centres.shape[1], generator=g) for y in (query_labels, db_labels))
    codebooks = train_pq(db_f[:10000], n_books)
    return query_f, query_labels, hard_assign(db_f, codebooks), db_labels, codebooks


def stages(query_f, query_labels, codes, db_labels, codebooks, n: int = 1000, topk: int = 1000, at_once: int = 80) -> dict[str, float]:
    "CPU seconds of each stage, on one thread, for n queries"
    spent = {}
    def timed(name, function, *args):
        start = time.process_time()
        result = function(*args)
        spent[name] = spent.get(name, 0) + time.process_time() - start
        return result
    def distances(f):
        table, d = distance_table(f, codebooks), f.new_empty(len(f), len(codes))
        for i in range(0, len(codes), 1024): d[:, i:i + 1024] = adc(table, codes[i:i + 1024])
        return d
    for f, labels in zip(query_f[:n].split(at_once), query_labels[:n].split(at_once)):
        d = timed("distances", distances, f)
        right = timed("right or wrong", relevance, labels, db_labels)
        near = timed("select and sort", shortlist, d, topk)
        hits = right.gather(1, near.ids.clamp(min=0)) & (near.ids >= 0)
        timed("AP", average_precision, hits[:, :topk])
        timed("AP, ties averaged", tie_averaged_precision, near.distances, hits, topk)
        timed("all of it: score_queries", score_queries, d, right, topk)
    timed("bootstrap", bootstrap, torch.rand(n))
    return spent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write seconds, cpu_seconds, peak_mb and map")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--database", type=int, default=50_000)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, before = planted(args.queries, args.database), peak_mb()
    scores, start, cpu = [], time.perf_counter(), time.process_time()
    for distance in DISTANCES: scores.append(score_codes(*data, 1000, distance, "PQ", "planted vectors", "planted"))
    result = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "peak_mb": peak_mb(),
              "map": scores[0].map, "map_ties": scores[0].map_ties, "map_squared": scores[1].map,
              "threads": args.threads, "queries": args.queries, "database": args.database}
    print(score_table(scores), "", "| both distances, ties averaged | |", "|---|--:|", f"| seconds | {result['seconds']:.2f} |",
          f"| CPU seconds | {result['cpu_seconds']:.2f} |", f"| peak memory, MB | {result['peak_mb']:.0f} |",
          f"| of it before scoring (torch, data, k-means) | {before:.0f} |", f"| threads | {args.threads} |", "", sep="\n")
    torch.set_num_threads(1)
    n = min(1000, args.queries)
    print("| stage, one distance | CPU seconds for 1,000 queries |", "|---|--:|", sep="\n")
    for name, t in stages(*data, n=n).items(): print(f"| {name} | {t * 1000 / n:.3f} |")
    if args.json: args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__": main()
