"""Is a version of the package slower than another? The same jobs by both, in one run, turn by turn.

    git worktree add --detach /tmp/before COMMIT
    python benchmarks/versions.py /tmp/before . [--jobs train search] [--pairs 40] [--json FILE]

Each tree has a process of its own that lives for many pairs of turns; in a pair both do the same job, one after the other, and who goes
first alternates. Of each pair the logarithm of new over old counts; the table shows its mean, as a ratio, with a 95 % interval. CPU
seconds, of one thread, decide: others may use the machine meanwhile. A process has luck of its own, as where its memory lies, so that the
pairs are shared by several pairs of processes. The same tree twice shows what is noise.

Limit: the lower end of no interval is above 1.03, that is, no job is surely more than 3 % slower. Names that moved are looked for where
they are now, then where they were."""
import argparse
import gc
import importlib
import json
import math
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import t as student

LIMIT = 1.03


# --- jobs: each prepares what it needs and returns what is timed, about a tenth of a second ---

def named(name: str, *modules: str):
    "What has this name in the first of some modules that is there and has it"
    for module in modules:
        try: return getattr(importlib.import_module(f"sscq.{module}"), name)
        except (ImportError, AttributeError): continue
    raise ImportError(f"no {name} in {', '.join(modules)}")


def objective():
    "Forward and backward, 128 images, quantization included"
    import torch
    Encoded, soft_quantize, loss_of = named("Encoded", "codebook"), named("soft_quantize", "codebook"), named("SSCQObjective", "objective")()
    codebooks, f = torch.randn(8, 16, 16).requires_grad_(), torch.randn(256, 128).requires_grad_()
    def run():
        for _ in range(4):
            z = soft_quantize(f, codebooks)
            (fa, fb), (za, zb) = f.chunk(2), z.chunk(2)
            loss_of(Encoded(fa, za), Encoded(fb, zb), codebooks)[0].backward()
            f.grad = codebooks.grad = None
    return run


def tiny():
    "A model for pictures of 16 × 16"
    return named("SSCQ", "core")(bits=32, backbone="tiny_cnn", channels=3, image_size=16)


def train():
    "A training step of tiny_cnn, 64 images"
    import torch
    step, view, loss_of = named("train_step", "train"), named("photo_view", "views"), named("SSCQObjective", "objective")()
    model, images = tiny().train(), torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    return lambda: step(model, model.codebooks, images, view, loss_of, adam)


def encode():
    "Codes of 512 images in memory"
    import torch
    model, images = tiny().eval(), torch.randint(0, 256, (512, 3, 16, 16), dtype=torch.uint8)
    return lambda: model.encode(images)


def encode_few():
    "Codes of one image, ten times: what a call costs"
    import torch
    model, images = tiny().eval(), torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    def run():
        for _ in range(10): model.encode(images)
    return run


def search(n_words: int, n_queries: int):
    "The ten nearest of 200,000 codes"
    import torch
    codebooks = torch.randn(8, n_words, 4)
    index = named("Index", "index", "search")(codebooks).add(torch.randint(n_words, (200_000, 8), dtype=torch.uint8))
    asked = torch.randn(n_queries, 32)
    return lambda: index.search(asked, 10)


def search_16(): return search(16, 400)
def search_256(): return search(256, 60)


def search_few():
    "One query to 1,000 codes, 100 times: what a call costs"
    import torch
    index = named("Index", "index", "search")(torch.randn(8, 16, 4)).add(torch.randint(16, (1000, 8), dtype=torch.uint8))
    asked = torch.randn(1, 32)
    def run():
        for _ in range(100): index.search(asked, 10)
    return run


def evaluate():
    "mAP@1000, ties averaged, of 100 queries and 20,000 codes"
    import torch
    score, codebooks = named("score_codes", "evaluate"), torch.randn(8, 16, 4)
    codes, labels = torch.randint(16, (20_000, 8), dtype=torch.uint8), torch.randint(10, (20_100,))
    asked = torch.randn(100, 32)
    return lambda: score(asked, labels[20_000:], codes, labels[:20_000], codebooks, 1000)


JOBS = {job.__name__: job for job in (objective, train, encode, encode_few, search_16, search_256, search_few, evaluate)}
IMPORTS = {"import": "import sscq.core", "import_own": "import sscq.core, after torch and torchvision"}


# --- a worker: reads the name of a job, does it, answers with CPU and wall seconds ---

def work(tree: Path):
    import torch

    import sscq
    if not Path(sscq.__file__).resolve().is_relative_to(tree): sys.exit(f"{sscq.__file__} is not in {tree}")
    torch.set_num_threads(1)
    ready = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in ready:
            torch.manual_seed(0)
            ready[name] = JOBS[name]()
            for _ in range(3): ready[name]()
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        ready[name]()
        print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]), flush=True)


def environment(tree: Path) -> dict: return os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}


class Worker:
    "One version, in a process of its own"
    def __init__(self, tree: Path):
        self.process = subprocess.Popen([sys.executable, __file__, "--worker", str(tree)], env=environment(tree), text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, job: str) -> list[float]:
        self.process.stdin.write(job + "\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()): sys.exit(f"{job} failed in {self.process.args[-1]}, see above")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


IMPORT = """
import time
start = time.perf_counter()
import torch, torchvision
wall, cpu = time.perf_counter(), time.process_time()
import sscq.core
print(time.process_time(), time.perf_counter() - start, time.process_time() - cpu, time.perf_counter() - wall)"""


def imported(tree: Path) -> dict[str, list[float]]:
    "CPU and wall seconds of a fresh process's imports: with PyTorch, and beyond it"
    done = subprocess.run([sys.executable, "-c", IMPORT], env=environment(tree), capture_output=True, text=True, check=True)
    seconds = [float(x) for x in done.stdout.split()]
    return {"import": seconds[:2], "import_own": seconds[2:]}


# --- pairs ---

def in_turn(i: int, old, new) -> tuple:
    "Both functions' results, the old one's first; the other one begins in every second pair"
    if i % 2:
        second = new()
        return old(), second
    return old(), new()


def interval(ratios: np.ndarray) -> list[float]:
    "Geometric mean, and the ends of its 95 % interval"
    logs = np.log(ratios)
    half = student.ppf(.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    return np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]).tolist()


def row(job: str, pairs: list) -> dict:
    "pairs: ((CPU, wall) of the old version, the same of the new one)"
    x = np.array(pairs)  # (pairs, versions, clocks)
    ratio = x[:, 1] / x[:, 0]
    (cpu, low, high), (wall, wall_low, wall_high) = interval(ratio[:, 0]), interval(ratio[:, 1])
    return dict(job=job, pairs=len(x), old_ms=1000 * float(np.median(x[:, 0, 0])), new_ms=1000 * float(np.median(x[:, 1, 0])), ratio=cpu, low=low,
                high=high, wall_ratio=wall, wall_low=wall_low, wall_high=wall_high, passed=low <= LIMIT)


def measure(old: Path, new: Path, jobs: list[str], n_pairs: int, n_workers: int, n_imports: int) -> list[dict]:
    found = {job: [] for job in jobs if job in JOBS}
    for share in [len(part) for part in np.array_split(range(n_pairs), n_workers)] if found else []:
        workers = Worker(old), Worker(new)
        for job, pairs in found.items(): pairs += [in_turn(i, *(partial(worker, job) for worker in workers)) for i in range(share)]
        for worker in workers: worker.close()
    if names := [name for name in jobs if name in IMPORTS]:
        imported(old), imported(new)  # compiled and cached
        both = [in_turn(i, partial(imported, old), partial(imported, new)) for i in range(n_imports)]
        found |= {name: [(a[name], b[name]) for a, b in both] for name in names}
    return [row(job, pairs) for job, pairs in found.items()]


def commit_of(tree: Path) -> str:
    "The commit that is checked out there, where git knows one"
    done = subprocess.run(["git", "-C", str(tree), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip()


def main():
    if sys.argv[1:2] == ["--worker"]: return work(Path(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a folder that holds the package sscq")
    parser.add_argument("new", type=Path)
    parser.add_argument("--jobs", nargs="+", choices=[*JOBS, *IMPORTS], default=[*JOBS, *IMPORTS])
    parser.add_argument("--pairs", type=int, default=40, help="of each job, 15 or more (default 40)")
    parser.add_argument("--imports", type=int, default=15, help="the same of the imports, which take seconds (default 15)")
    parser.add_argument("--workers", type=int, default=4, help="pairs of processes that share the pairs (default 4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well")
    args = parser.parse_args()
    if min(args.pairs, args.imports) < 15 or not 1 <= args.workers <= args.pairs: parser.error("15 pairs at least, and no more workers than pairs")
    trees = [tree.resolve() for tree in (args.old, args.new)]
    rows = measure(*trees, args.jobs, args.pairs, args.workers, args.imports)
    print("| job | pairs | old, CPU ms | new, CPU ms | new/old | 95 % interval | wall, 95 % interval | |\n|---|--:|--:|--:|--:|---|---|---|")
    for r in rows:
        print(f"| {r['job']} | {r['pairs']} | {r['old_ms']:.1f} | {r['new_ms']:.1f} | {r['ratio']:.3f} | {r['low']:.3f} to {r['high']:.3f} | "
              f"{r['wall_low']:.3f} to {r['wall_high']:.3f} | {'' if r['passed'] else 'SLOWER'} |")
    if args.json:
        result = dict(old=commit_of(trees[0]), new=commit_of(trees[1]), limit=LIMIT, date=time.strftime("%Y-%m-%d"), rows=rows)
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(not all(r["passed"] for r in rows))


if __name__ == "__main__": sys.exit(main())
