#!/usr/bin/env python3
"""How pictures are read: decoders and ways to run them beside each other, and the memory of a long pass.

Prints Markdown tables; `--json FILE` writes {"decoders": [...], "readers": [...], "memory": [...]}.
"""
import argparse
import json
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sscq.images import FORMATS, load_image, resize_center_crop
from sscq.reading import Pictures, read

SOURCES = ((32, 32, 32), (500, 375, 224), (3000, 2000, 224))  # width and height of the files, side of the square


def photographs(folder: Path, width: int, height: int, n: int) -> list[Path]:
    "JPEG files that compress about as photographs do: soft shapes under fine noise"
    rng, paths = np.random.default_rng(0), []
    for i in range(n):
        soft = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(soft, dtype=np.int16) + rng.integers(-6, 7, (height, width, 3))
        paths.append(folder / f"{width}x{height}-{i:04}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=88)
    return paths


def pillow_whole(path: Path, size: int):
    with Image.open(path, formats=FORMATS) as image: return resize_center_crop(image, size)


def through_torchvision(path: Path, size: int):
    from torchvision.io import ImageReadMode, decode_image, read_file
    from torchvision.transforms.v2.functional import center_crop, resize
    x = decode_image(read_file(str(path)), mode=ImageReadMode.RGB)
    return center_crop(resize(x, [size], antialias=True), [size, size])


def cpu_seconds() -> float:
    "Of this process and its ended children"
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def through_loader(pictures: Pictures, rows, workers: int):
    yield from DataLoader(pictures, batch_sampler=[r.tolist() for r in rows], num_workers=workers)


def timed(run, n: int, repeats: int = 3) -> tuple[float, float]:
    "Best images per second, and least CPU milliseconds per image"
    rates, costs = [], []
    for _ in range(repeats):
        start, cpu = time.perf_counter(), cpu_seconds()
        run()
        rates.append(n / (time.perf_counter() - start)); costs.append(1e3 * (cpu_seconds() - cpu) / n)
    return max(rates), min(costs)


def resident_mb() -> float: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def table(rows: list[dict]) -> str:
    def cell(v): return v if isinstance(v, str) else f"{v:,.2f}" if v < 10 else f"{v:,.0f}"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([cell(v) for v in r.values()] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measure_memory(folder: Path, workers: int) -> list[dict]:
    "Peak memory of this process after a short and after a long pass"
    some, rows = photographs(folder, 32, 32, 500), []
    for n in (1_000, 50_000):
        for _ in read(Pictures(some * (n // len(some)), 32), torch.arange(n).split(256), workers): pass
        rows.append(dict(images=n, peak_mb=resident_mb()))
    return rows


def measure_decoders(paths: list[Path], size: int) -> list[dict]:
    ways = {"Pillow, JPEG scaled while decoding (ours)": load_image, "Pillow, decoded whole": pillow_whole,
            "torchvision.io": through_torchvision}
    rows = []
    for name, one in ways.items():
        one(paths[0], size)  # imports, once
        rate, cost = timed(lambda one=one: [one(p, size) for p in paths], len(paths))
        rows.append(dict(decoder=name, cpu_ms_per_image=cost, images_per_s=rate))
    return rows


def measure_readers(pictures: Pictures, workers: int) -> list[dict]:
    n, rows = len(pictures), []
    batches = torch.arange(n).split(max(8, n // 16))
    ways = {"in the caller": lambda: read(pictures, batches, 0), f"{workers} threads (ours)": lambda: read(pictures, batches, workers),
            f"{workers} processes": lambda: through_loader(pictures, batches, workers)}
    for name, run in ways.items():
        rate, cost = timed(lambda run=run: sum(1 for _ in run()), n)
        rows.append(dict(reader=name, cpu_ms_per_image=cost, images_per_s=rate))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    parser.add_argument("--pictures", type=int, default=2000, help="how many small ones; fewer of the larger")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "This process .* is multi-threaded")
    out = dict(decoders=[], readers=[], memory=[])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out["memory"] = measure_memory(folder, args.workers)
        for width, height, size in SOURCES:
            paths = photographs(folder, width, height, max(24, int(args.pictures * 32 / width)))
            what = dict(pictures=f"{width}×{height} → {size}")
            out["decoders"] += [what | row for row in measure_decoders(paths, size)]
            out["readers"] += [what | row for row in measure_readers(Pictures(paths, size), args.workers)]
    titles = dict(decoders="Decoders, one thread", readers="Readers", memory="Memory of one pass, 32×32, batches of 256")
    for key, title in titles.items(): print(f"\n**{title}**\n\n{table(out[key])}")
    if args.json: args.json.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
