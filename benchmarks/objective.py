"""The whole objective, quantization included, forward and backward: the library against the plain version of notebook 08, which sets
rows against rows, one codebook at a time.

B = 256 images (512 inputs), K = 16, d = 16. Both versions run in one process, two threads: time is the median of several runs of ours
and the shorter of up to two of the plain one. Peak extra memory is the high-water mark of a fresh process's resident memory during one
run, less what it held before; a small run comes first, so that libraries and threads are already loaded (Linux)."""
import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from sscq.codebook import Encoded, soft_quantize
from sscq.objective import SSCQObjective

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from notebook_functions import from_notebook

THREADS, B, K, d = 2, 256, 16, 16


def views_of(f, z): return [Encoded(*pair) for pair in zip(f.chunk(2), z.chunk(2))]


def ours(f, codebooks): return SSCQObjective()(*views_of(f, soft_quantize(f, codebooks)), codebooks)[0]


def broadcast_version():
    "The readable version, out of the notebook"
    objective, quantize, *_ = from_notebook("08_objective", "objective_broadcast", "soft_quantize_broadcast", "pairwise", "of_negatives",
        "info_nce_broadcast", "consistency_broadcast", "part_neighbor_broadcast", "diversity_broadcast")
    return lambda f, codebooks: objective(*views_of(f, quantize(f, codebooks)), codebooks)[0]


def run(version, n_images: int, M: int) -> float:
    "Forward and backward once, in seconds"
    torch.manual_seed(0)
    f, codebooks = torch.randn(2 * n_images, M * d, requires_grad=True), torch.randn(M, K, d, requires_grad=True)
    start = time.perf_counter()
    version(f, codebooks).backward()
    return time.perf_counter() - start


def resident(field: str) -> float:
    "VmRSS (now) or VmHWM (the most so far) of this process, in MiB"
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) / 1024


def peak_here(name: str, M: int) -> float:
    "Most memory held during one run beyond what was held before it, in MiB; only in a fresh process"
    version = ours if name == "ours" else broadcast_version()
    run(version, 16, M)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    run(version, B, M)
    return resident("VmHWM") - before


def peak(name: str, M: int) -> float:
    out = subprocess.run([sys.executable, __file__, "--peak-of", name, "--books", str(M)], check=True, capture_output=True, text=True)
    return float(out.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example:\n  python benchmarks/objective.py --books 4 16 --json /tmp/objective.json")
    parser.add_argument("--books", type=int, nargs="+", default=[4, 8, 16], metavar="M", help="codebooks; bits are 4·M (default 4 8 16)")
    parser.add_argument("--runs", type=int, default=15, help="timed runs of ours (default 15)")
    parser.add_argument("--plain-runs", type=int, default=2, help="timed runs of the plain version (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well")
    parser.add_argument("--peak-of", choices=("ours", "broadcast"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    if args.peak_of: return print(peak_here(args.peak_of, args.books[0]))
    broadcast, rows = broadcast_version(), []
    print(f"B = {B}, K = {K}, d = {d}, {THREADS} threads, torch {torch.__version__}\n")
    print("| M | ours, ms | broadcast, ms | time ratio | ours, MiB | broadcast, MiB | memory ratio |")
    print("|---" * 7 + "|", flush=True)
    for M in args.books:
        for version in (ours, broadcast): run(version, 16, M)  # warm up
        run(ours, B, M)
        ms = 1e3 * statistics.median(run(ours, B, M) for _ in range(args.runs))
        plain_ms = 1e3 * min(run(broadcast, B, M) for _ in range(args.plain_runs))
        mib, plain_mib = peak("ours", M), peak("broadcast", M)
        rows.append(dict(M=M, time_ratio=plain_ms / ms, memory_ratio=plain_mib / mib,
                         ours_ms=ms, broadcast_ms=plain_ms, ours_mib=mib, broadcast_mib=plain_mib))
        ratios = f"{plain_ms / ms:.0f} | {mib:.0f} | {plain_mib:.0f} | {plain_mib / mib:.1f}"
        print(f"| {M} | {ms:.1f} | {plain_ms:.0f} | {ratios} |", flush=True)
    if args.json:
        about = dict(B=B, K=K, d=d, threads=THREADS, torch=torch.__version__,
                     memory="peak resident memory of a fresh process, less what it held before, MiB")
        args.json.write_text(json.dumps(dict(about=about, rows=rows), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
