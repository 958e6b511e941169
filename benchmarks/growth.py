"""An index that grows: one query and many against bare FAISS, what a change costs, many ties, inverted files.

    python benchmarks/growth.py [--json FILE] [--pairs 15] [--only single change ties ivf hundred encode]

Random 64-bit codes (M = 16, K = 16; with K = 256, M = 8), L2, top 10, one thread. Ours and FAISS's are timed in turn, each pair in the
other order, in CPU seconds of the thread; a ratio is FAISS's time / ours, the median of the pairs. `change` says how long a change and
the search after it take, in searches of the same index, and how much more memory the process holds at its peak, in sizes of the codes.
`hundred` runs in a process of its own, whose address space is what it has after its imports and 2.2 GB.
"""
import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from statistics import median

import faiss
import numpy as np
import torch

from sscq.codebook import decode, hard_assign, pack
from sscq.data import digits
from sscq.index import Index
from sscq.ivf import IVFIndex
from sscq.search import nearest, train_pq

TOP, d = 10, 8


def random_codes(n: int, M: int, K: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, K, (n, M), dtype=np.uint8))


def bare(codebooks: torch.Tensor, codes: torch.Tensor):
    "FAISS alone: IndexPQFastScan with 16 codewords, IndexPQ with 256"
    M, K, width = codebooks.shape
    pq = faiss.IndexPQ(M * width, M, K.bit_length() - 1)
    faiss.copy_array_to_vector(codebooks.numpy().ravel(), pq.pq.centroids)
    pq.is_trained = True
    for some in codes.split(2 ** 20): pq.add_sa_codes(pack(some, K).numpy())
    if K > 16: return pq
    fast = faiss.IndexPQFastScan(pq)
    fast.referenced_objects = [pq]
    return fast


def seconds(function) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def ratio(theirs, ours, pairs: int) -> tuple[float, float]:
    "FAISS's time / ours, and ours in milliseconds"
    theirs(), ours()
    times = []
    for i in range(pairs):
        if i % 2: b, a = seconds(ours), seconds(theirs)
        else: a, b = seconds(theirs), seconds(ours)
        times.append((a, b))
    return median(a / b for a, b in times), 1e3 * median(b for _, b in times)


def single(pairs: int) -> list[dict]:
    rows = []
    for n, K, asked in ((100_000, 16, (1,)), (1_000_000, 16, (1, 8, 1000)), (10_000_000, 16, (1,)), (1_000_000, 256, (1,))):
        M = 64 // (K.bit_length() - 1)
        torch.manual_seed(0)
        codebooks, queries, codes = torch.randn(M, K, d), torch.randn(1000, M * d), random_codes(n, M, K)
        index, theirs = Index(codebooks).add(codes), bare(codebooks, codes)
        for Q in asked:
            f, x = queries[:Q], queries[:Q].numpy()
            found = index.search(f[:20], TOP)
            exact = nearest(f[:20], codebooks, codes, TOP)
            r, ms = ratio(partial(theirs.search, x, TOP), partial(index.search, f, TOP), pairs if n * Q > 10 ** 6 else 15 * pairs)
            rows.append(dict(codes=n, n_words=K, queries=Q, ratio=r, ms=ms, recall=float(
                torch.equal(found.ids, exact[1]) and torch.equal(found.distances, exact[0]))))
            print(rows[-1], flush=True)
    return rows


def ties(pairs: int) -> list[dict]:
    "Codes of digits, repeated to a million"
    data, rows = digits(), []
    x, q = (part.images.flatten(1).float() / 255 for part in (data.database, data.query))
    for M, pictures in ((4, len(x)), (8, 3800)):
        codebooks = train_pq(x, M)
        few = hard_assign(x if M == 4 else (x.repeat(3, 1)[:pictures] + .05 * torch.randn(pictures, 64, generator=torch.Generator().manual_seed(0))),
                          codebooks)
        codes = few.repeat(-(-10 ** 6 // len(few)), 1)[:10 ** 6]
        index, theirs = Index(codebooks).add(codes), bare(codebooks, codes)
        found, exact = index.search(q[:50], TOP), nearest(q[:50], codebooks, codes, TOP)
        for Q in (1, 300):
            f, x_ = q[:Q], q[:Q].numpy()
            r, ms = ratio(partial(theirs.search, x_, TOP), partial(index.search, f, TOP), pairs)
            rows.append(dict(codes=10 ** 6, bits=4 * M, different=len(few.unique(dim=0)), queries=Q, ratio=r, ms=ms, exact=bool(
                torch.equal(found.ids, exact[1]) and torch.equal(found.distances, exact[0]))))
            print(rows[-1], flush=True)
    return rows


def inverted(pairs: int) -> dict:
    "Two million vectors of 3,000 clusters: what a query costs where it finds .97 of the exact ten, before and after saving"
    n, M, g = 2_000_000, 16, torch.Generator().manual_seed(0)
    centres = torch.randn(3000, M * d, generator=g)
    def vectors(n): return centres[torch.randint(3000, (n,), generator=g)] + .6 * torch.randn(n, M * d, generator=g)
    index, f = Index(train_pq(vectors(50_000), M)), vectors(1000)
    for _ in range(20): index.add(vectors(n // 20))
    exact = index.search(f, TOP).ids
    start = time.process_time()
    ivf = index.to_ivf().tune(.97, vectors(500))
    made = time.process_time() - start
    def recall(found): return (found.ids[:, :, None] == exact[:, None]).any(2).float().mean().item()
    found = ivf.search(f, TOP)
    ms = 1e3 * median(seconds(lambda: ivf.search(f, TOP)) for _ in range(pairs)) / len(f)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        again = IVFIndex.load(ivf.save(Path(folder) / "cells"), Index.load(index.save(Path(folder) / "i.sscq")))
        saved = time.process_time() - start
        same = torch.equal(again.search(f, TOP).ids, found.ids)
        more = vectors(100_000)
        for one in (index, again.index): one.add(more)
        for one in (ivf, again): one.extend()
        extended = torch.equal(again.search(f, TOP).ids, ivf.search(f, TOP).ids)
    r = dict(codes=n, n_lists=ivf.n_lists, n_probe=ivf.n_probe, recall=recall(found), ms_per_query=ms, exact_ms_per_query=1e3 * seconds(
        lambda: index.search(f, TOP)) / len(f), same_after_loading=same, same_after_extending=extended, seconds_to_make=made, seconds_to_save_and_load=saved)
    print(r, flush=True)
    return r


def resident() -> int: return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def mapped() -> int: return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    "The most memory the process holds while it runs"
    def __enter__(self):
        self.first = self.most = resident()
        self.on = True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while self.on:
            self.most = max(self.most, resident())
            time.sleep(.0005)

    def __exit__(self, *_):
        self.on = False
        self.thread.join()
        self.most = max(self.most, resident())


def changes(n: int, times: int) -> list[dict]:
    "What one change costs; `times` of each"
    torch.manual_seed(0)
    M, K = 16, 16
    codebooks, f, rows = torch.randn(M, K, d), torch.randn(1, M * d), []
    index = Index(codebooks)
    for first in range(0, n, 500_000): index.add(random_codes(min(500_000, n - first), M, K, first))
    size, one = index.nbytes, torch.zeros(1, M, dtype=torch.uint8)
    index.search(f)
    def clocked(function):
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    search = median(clocked(lambda: index.search(f)) for _ in range(15))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "i.sscq"
        whole = clocked(lambda: index.save(path))
        def small_save():
            index.add(one).remove([index.snapshot().state.segments[0].first + 2 * small_save.n + 1])
            small_save.n += 1
            return clocked(lambda: index.save(path))
        small_save.n = 0
        def add_and_search(): return clocked(lambda: (index.add(one), index.search(f)))
        def remove(): remove.n += 2; return clocked(lambda: index.remove([remove.n]))
        remove.n = n // 2 // 2 * 2
        for what, change in (("add 1 + search", add_and_search), ("remove 1", remove), ("save a small change", small_save)):
            change()
            with Peak() as peak: took = median(change() for _ in range(times))
            rows.append(dict(codes=n, what=what, ms=1e3 * took, over_search=took / search, peak_ratio=(peak.most - peak.first) / size))
            print(rows[-1], flush=True)
        rows.append(dict(codes=n, what="search", ms=1e3 * search, over_search=1., peak_ratio=0.))
        rows.append(dict(codes=n, what="save all", ms=1e3 * whole, over_search=whole / search, peak_ratio=0.))
        want = index.search(f)
        del index
        again = []
        def load(): again[:] = [Index.load(path)]; return again[0].search(f)
        start = time.perf_counter()
        found = load()
        rows.append(dict(codes=n, what="load to the first answer", ms=1e3 * (time.perf_counter() - start), peak_ratio=0., over_search=0.,
                         same=bool(torch.equal(found.ids, want.ids) and torch.equal(found.distances, want.distances))))
        print(rows[-1], flush=True)
    return rows


def hundred() -> list[dict]:
    "A hundred million codes where memory is short: the same changes, then what the process held at most"
    first = resident()
    resource.setrlimit(resource.RLIMIT_AS, (mapped() + int(2.2e9),) * 2)
    n = 10 ** 8
    with Peak() as peak: rows = changes(n, 5)
    rows.append(dict(codes=n, what="most resident memory after imports", ms=0., over_search=0., peak_ratio=(peak.most - first) / (8 * n)))
    print(rows[-1], flush=True)
    return rows


def encode(pairs: int) -> dict:
    "20,000 vectors to codes and back, against FAISS and nanopq where it is installed"
    torch.manual_seed(0)
    f, found = torch.randn(20_000, 128), {}
    for K in (16, 256):
        codebooks = torch.randn(8, K, 16)
        pq = faiss.ProductQuantizer(128, 8, K.bit_length() - 1)
        faiss.copy_array_to_vector(codebooks.numpy().ravel(), pq.centroids)
        x, codes = f.numpy(), hard_assign(f, codebooks)
        packed = pq.compute_codes(x)
        rivals = {"faiss": partial(pq.compute_codes, x)}
        try:
            import nanopq
            other = nanopq.PQ(8, K, verbose=False)
            other.Ds, other.codewords, other.code_dtype = 16, codebooks.numpy(), np.uint8
            rivals["nanopq"] = partial(other.encode, x)
        except ImportError: pass
        for name, rival in rivals.items(): found[f"encode K={K} over {name}"] = ratio(rival, partial(hard_assign, f, codebooks), pairs)[0]
        found[f"decode K={K} over faiss"] = ratio(partial(pq.decode, packed), partial(decode, codes, codebooks), pairs)[0]
    print(found, flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--pairs", type=int, default=15, help="how often each is timed")
    parser.add_argument("--only", nargs="+", default=["single", "change", "ties", "ivf", "hundred", "encode"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    if args.only == ["hundred-here"]:
        args.json.write_text(json.dumps(hundred()))
        return
    r = dict(device=f"{platform.machine()} CPU, one thread, {faiss.get_compile_options().split()[-1]}", date=time.strftime("%Y-%m-%d"),
             faiss=faiss.__version__, torch=torch.__version__)
    if "single" in args.only:
        r["single"] = single(args.pairs)
        r["recall"] = min(row["recall"] for row in r["single"])
    if "change" in args.only: r["change"] = changes(10 ** 7, args.pairs)
    if "hundred" in args.only:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, __file__, "--only", "hundred-here", "--json", f"{folder}/h.json"], check=True)
            r["change"] = r.get("change", []) + json.loads(Path(f"{folder}/h.json").read_text())
    if "ties" in args.only: r["ties"] = ties(args.pairs)
    if "ivf" in args.only: r["ivf"] = inverted(args.pairs)
    if "encode" in args.only: r["encode"] = encode(args.pairs)
    if args.json: args.json.write_text(json.dumps(r, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
