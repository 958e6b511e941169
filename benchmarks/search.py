"""Searching a million random 64-bit codes: the index against bare FAISS FastScan, in one run.

    python benchmarks/search.py [--json FILE]

M = 16, K = 16, d = 16; 1,000 queries, top 10. Both are timed in turn, first one first, then the other, so that whatever else the
machine does hits both; `qps_ratio` is the median of the pairs' ratios, `cpu_ratio` the same in CPU seconds.
"""
import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from statistics import median

import faiss
import numpy as np
import torch

from sscq.codebook import pack
from sscq.index import Index
from sscq.search import nearest

N, M, K, d, Q, TOP = 1_000_000, 16, 16, 16, 1000, 10


def bare_fastscan(codebooks: torch.Tensor, packed: np.ndarray):
    "What the index is measured against: FAISS alone, with rough distances"
    pq = faiss.IndexPQ(M * d, M, 4)
    faiss.copy_array_to_vector(codebooks.numpy().ravel(), pq.pq.centroids)
    pq.is_trained = True
    pq.add_sa_codes(packed)
    return pq, faiss.IndexPQFastScan(pq)  # the first must outlive the second


def seconds(function, clock=time.perf_counter) -> float:
    start = clock()
    function()
    return clock() - start


def in_turn(a, b, pairs: int, clock=time.perf_counter) -> list[tuple[float, float]]:
    "Seconds of both, each pair in the other order"
    times = []
    for i in range(pairs):
        if i % 2: tb, ta = seconds(b, clock), seconds(a, clock)
        else: ta, tb = seconds(a, clock), seconds(b, clock)
        times.append((ta, tb))
    return times


def share(found: np.ndarray, exact: torch.Tensor) -> float:
    return np.mean([len(set(a) & set(b)) / TOP for a, b in zip(found.tolist(), exact.tolist())])


def measure(pairs: int) -> dict:
    torch.manual_seed(0)
    codebooks, queries = .3 * torch.randn(M, K, d), .3 * torch.randn(Q, M * d)
    codes = torch.randint(0, K, (N, M), dtype=torch.uint8)
    keep, bare = bare_fastscan(codebooks, pack(codes).numpy())
    x, index = queries.numpy(), Index(codebooks)
    for some in codes.split(65536): index.add(some)
    found = index.search(queries, TOP)  # builds FAISS's part
    rough = bare.search(x, TOP)[1]
    contest = (lambda: bare.search(x, TOP)), (lambda: index.search(queries, TOP))
    times, cpu_times = in_turn(*contest, pairs), in_turn(*contest, pairs, time.process_time)
    exact = nearest(queries, codebooks, codes, TOP)
    with tempfile.TemporaryDirectory() as folder:
        path = index.save(Path(folder) / "million.sscq")
        load_s = min(seconds(lambda: Index.load(path)) for _ in range(3))
        again = Index.load(path).search(queries, TOP)
    return dict(
        qps_ratio=median(a / b for a, b in times), qps=Q / median(b for _, b in times), faiss_qps=Q / median(a for a, _ in times),
        cpu_ratio=median(a / b for a, b in cpu_times),
        recall_at_10=share(found.ids, exact[1]), faiss_recall_at_10=share(rough, exact[1]),
        equal_to_exact=torch.equal(found.ids, exact[1]) and torch.equal(found.distances, exact[0]),
        bytes_per_code=index.nbytes / N, packed_bytes_per_code=M * 4 / 8, load_mmap_s=load_s,
        same_after_loading=torch.equal(again.ids, found.ids) and torch.equal(again.distances, found.distances),
        device=f"{platform.machine()} CPU, {faiss.omp_get_max_threads()} threads, {faiss.get_compile_options().split()[-1]}",
        date=time.strftime("%Y-%m-%d"), faiss=faiss.__version__, torch=torch.__version__)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--pairs", type=int, default=15, help="how often each is timed")
    args = parser.parse_args()
    r = measure(args.pairs)
    print(f"{N:,} codes of {M * 4} bits, {Q:,} queries, top {TOP}; {r['device']}\n")
    print("| | queries/s | recall@10 | bytes a code |\n|---|---|---|---|")
    print(f"| FAISS FastScan alone | {r['faiss_qps']:,.0f} | {r['faiss_recall_at_10']:.4f} | {r['packed_bytes_per_code']:.0f} |")
    print(f"| sscq.search.Index | {r['qps']:,.0f} | {r['recall_at_10']:.4f} | {r['bytes_per_code']:.1f} |\n")
    print(f"ratio {r['qps_ratio']:.3f} (in CPU seconds {r['cpu_ratio']:.3f}); equal to exact search: {r['equal_to_exact']}; "
          f"memory-mapped load {r['load_mmap_s'] * 1000:.0f} ms; same answers after loading: {r['same_after_loading']}")
    if args.json: args.json.write_text(json.dumps(r, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
