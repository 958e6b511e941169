"""How many bits, and M or K? Digits, three seeds: what a size does to mAP, use of the codewords, bytes, distortion and search time.

The first sizes spend more and more bits in the same way (K = 16, d = 16, M grows). The last ones spend 16 bits in four ways on the same
64 dimensions, cut into M parts of 64 / M. Raw pixels with codebooks by k-means are measured beside every size.

A run that is already in the JSON file is not repeated. `--speed` measures search instead, on random codes, in CPU seconds of one thread."""
import argparse
import json
import os
import time
from pathlib import Path

import faiss
import torch

from sscq.codebook import distortion, hard_assign, n_bits, perplexity, usage
from sscq.core import SSCQ
from sscq.data import digits
from sscq.baselines import pixels
from sscq.evaluate import recall, relevance, score_codes, score_queries
from sscq.index import Index
from sscq.search import adc, distance_table, nearest, train_pq
from sscq.fastscan import PackedCodes, to_held
from sscq.train import PRESETS
from sscq.views import digit_view, to_float

SIZES = ((1, 16, 16), (2, 16, 16), (4, 16, 16), (8, 16, 16), (16, 16, 16), (2, 256, 32), (8, 4, 8), (16, 2, 4))  # M, K, d
N, Q, TOP = 1_000_000, 64, 10  # of the search


def sizes(n_books: int, n_words: int, word_dim: int) -> dict:
    bits = n_books * n_bits(n_words)
    return dict(n_books=n_books, n_words=n_words, word_dim=word_dim, bits=bits, bytes_per_image=-(-bits // 8),
                codebook_bytes=4 * n_books * n_words * word_dim, table_entries=n_books * n_words)


def edited(images: torch.Tensor) -> torch.Tensor:
    "A copy of each image, shifted, turned and smeared as in training"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return digit_view(to_float(images))


@torch.no_grad()
def score(embed, codebooks: torch.Tensor, data) -> dict:
    """Three questions to the codes: images of the class (mAP), the ten nearest vectors (`recall`), the picture an edited copy was made of
    (`found`: among the first ten). Then what the vectors themselves would answer, what codes lose, and how many different codes there are"""
    query, database, copies = embed(data.query.images), embed(data.database.images), embed(edited(data.database.images))
    codes, itself = hard_assign(database, codebooks), torch.arange(len(database))[:, None]
    near = torch.cdist(query, database).topk(10, largest=False).indices
    def found(ids): return (ids == itself).any(1).double().mean().item()
    squared, unsquared = (score_codes(query, data.query.labels, codes, data.database.labels, codebooks, data.topk, distance)
                          for distance in ("squared", "unsquared"))
    exact = score_queries(torch.cdist(query, database), relevance(data.query.labels, data.database.labels), data.topk)
    return dict(map=squared.map, map_ties=squared.map_ties, map_unsquared=unsquared.map, map_exact=exact.ap.mean().item(),
                recall=recall(nearest(query, codebooks, codes, 10)[1], near).mean().item(),
                found=found(nearest(copies, codebooks, codes, 10)[1]), found_exact=found(torch.cdist(copies, database).topk(10, largest=False).indices),
                perplexity=perplexity(usage(codes, codebooks.shape[1])).mean().item(), different_codes=len(codes.unique(dim=0)),
                distortion=distortion(database, codebooks).item(), variance=(database - database.mean(0)).square().sum(1).mean().item())


def run_sscq(size: tuple, seed: int, epochs: int, data) -> dict:
    "Train one model by the `digits` preset and score it"
    (n_books, n_words, word_dim), preset = size, PRESETS["digits"]
    torch.manual_seed(seed)
    model, start = SSCQ(n_books=n_books, n_words=n_words, word_dim=word_dim, **preset.model), time.perf_counter()
    model.fit(data.train, preset.view, preset.objective, preset.config, device="cpu", progress=False, epochs=epochs, seed=seed)
    seconds = time.perf_counter() - start
    return dict(method="sscq", **sizes(*size), seed=seed, epochs=epochs, seconds=round(seconds, 1),
                **score(model.embed, model.codebooks.detach(), data))


def run_pixels(size: tuple, seed: int, data) -> dict:
    "Product quantization of raw pixels"
    start = time.perf_counter()
    codebooks = train_pq(pixels(data.train), *size[:2], seed)
    seconds = time.perf_counter() - start
    return dict(method="raw-pq", **sizes(*codebooks.shape), seed=seed, epochs=0, seconds=round(seconds, 2),
                **score(pixels, codebooks, data))


def seconds_of(function, times: int = 5) -> float:
    "CPU seconds of the shortest of some runs, after one that warms up"
    function()
    def once(start): function(); return time.process_time() - start
    return min(once(time.process_time()) for _ in range(times))


def speed(size: tuple) -> dict:
    "Search of a million random codes: exact answers through the index, FAISS's scan alone, and plain look-ups in torch"
    M, K, d = size
    torch.manual_seed(0)
    codebooks, queries, codes = torch.randn(M, K, d), torch.randn(Q, M * d), torch.randint(K, (N, M), dtype=torch.uint8)
    index = Index(codebooks).add(codes)
    table, some = distance_table(queries, codebooks), codes[:4096]
    held = PackedCodes(to_held(codes.numpy(), K), N, M, K)
    def answer(): index.search(queries, TOP)
    def rough(): held.rough(table, TOP)
    def look_up(): adc(table, some)
    return dict(**sizes(*size), queries_per_second=Q / seconds_of(answer), scan_ns=1e9 * seconds_of(rough) / (Q * N),
                lookup_ns=1e9 * seconds_of(look_up) / (Q * len(some)), scan_bytes=held.nbytes / N, scan="IndexPQFastScan" if K <= 16 else "IndexPQ")


def speed_of_vectors(D: int = 64) -> dict:
    "The same for real vectors, compared with every query in full"
    torch.manual_seed(0)
    flat, queries = faiss.IndexFlatL2(D), torch.randn(Q, D).numpy()
    flat.add(torch.randn(N, D).numpy())
    seconds = seconds_of(lambda: flat.search(queries, TOP))
    return dict(dimensions=D, bytes_per_image=4 * D, queries_per_second=Q / seconds, scan_ns=1e9 * seconds / (Q * N))


def write(path: Path, found: dict):
    "The file is whole at any moment"
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def table(rows: list) -> str:
    "Mean ± standard deviation over the seeds, in Markdown"
    lines = ["| method | bits | M | K | d | seeds | mAP@1000 | of the vectors | recall@10 | found | perplexity | different codes | distortion / variance |",
             "|---" * 13 + "|"]
    for key in dict.fromkeys((r["method"], r["bits"], r["n_books"], r["n_words"], r["word_dim"]) for r in rows):
        mine = [r for r in rows if (r["method"], r["bits"], r["n_books"], r["n_words"], r["word_dim"]) == key]
        def cell(values, digits):
            x = torch.tensor(values, dtype=torch.double)
            return f"{x.mean():.{digits}f}" + (f" ± {x.std():.{digits}f}" if len(x) > 1 else "")
        cells = [cell([r["map"] for r in mine], 3), cell([r["map_exact"] for r in mine], 3),
                 cell([r["recall"] for r in mine], 3), cell([r["found"] for r in mine], 3), cell([r["perplexity"] for r in mine], 1),
                 cell([r["different_codes"] for r in mine], 0), cell([r["distortion"] / r["variance"] for r in mine], 2)]
        lines.append(f"| {' | '.join(map(str, key))} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python benchmarks/codebook_size.py --seeds 1 --epochs 5 --json codebook_size.json")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 … N-1 of each (default 3)")
    parser.add_argument("--epochs", type=int, default=PRESETS["digits"].config.epochs, help="epochs of each (default 50)")
    parser.add_argument("--speed", action="store_true", help="measure search alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where everything is kept")
    args = parser.parse_args()
    found = json.loads(args.json.read_text(encoding="utf-8")) if args.json and args.json.exists() else dict(rows=[], speed=[])
    found["about"] = dict(
        data="scikit-learn digits, 1,497 train = database, 300 queries, split seed 0", metric="mAP@1000, squared ADC, equal distances by row number",
        backbone="tiny_cnn, from scratch", preset="digits", search=f"{N:,} random codes, {Q} queries together, top {TOP}; CPU seconds of one thread",
        torch=torch.__version__)
    if args.json: write(args.json, found)  # a folder that cannot be written is found now, not after the first run
    if args.speed:
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        found["speed"] = [speed(size) for size in SIZES] + [speed_of_vectors()]
        if args.json: write(args.json, found)
        return print(json.dumps(found["speed"], indent=1))
    data = digits()
    done = {(r["method"], r["n_books"], r["n_words"], r["seed"], r["epochs"]) for r in found["rows"]}
    for seed in range(args.seeds):
        for size in SIZES:
            if ("raw-pq", *size[:2], seed, 0) not in done: found["rows"].append(run_pixels(size, seed, data))
            if ("sscq", *size[:2], seed, args.epochs) not in done: found["rows"].append(run_sscq(size, seed, args.epochs, data))
            if args.json: write(args.json, found)
            r = found["rows"][-1]
            print(f"M={r['n_books']} K={r['n_words']}, seed {seed}: mAP {r['map']:.3f}, {r['seconds']:.0f} s", flush=True)
    print("\n" + table(found["rows"]))


if __name__ == "__main__": main()
