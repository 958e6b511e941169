"""Views per second: sscq's batched recipe beside torchvision's and kornia's.

    python benchmarks/views.py [--json FILE] [--device cpu] [--threads 2 | --cpu-time] [--sizes 32 224]

torchvision image by image is the release's recipe. torchvision on the batch is fast, but draws one set of numbers for all its images.
kornia is measured where it is installed. Views of 32 pixels come from images of 32, views of 224 from 256. Every figure is
the best of several turns, the methods taking turns within one run.

Of each method, too: has every image numbers of its own; and how far are 1,000 of its views from torchvision's image by image:
the largest gap between cumulative histograms, over six statistics. Two samples of one distribution stay below `gap_limit` in
999 of 1,000 trials."""
import argparse
import importlib.metadata
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2

from sscq.views import digit_view, photo_view, to_gray
from train_step import processor

ONE_BY_ONE, N = "torchvision, image by image", 1000


def torchvision_recipe(size: int):
    return v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(),
                       v2.RandomApply([v2.ColorJitter(.4, .4, .4, .1)], .8), v2.RandomGrayscale(.2), v2.GaussianBlur(3, (.1, 2.))])


def kornia_recipe(size: int):
    import kornia.augmentation as K
    return torch.nn.Sequential(K.RandomResizedCrop((size, size)), K.RandomHorizontalFlip(), K.ColorJitter(.4, .4, .4, .1, p=.8),
                               K.RandomGrayscale(p=.2), K.RandomGaussianBlur((3, 3), (.1, 2.), p=1.))


def methods(size: int) -> dict:
    "Name -> a batch to its views"
    one = torchvision_recipe(size)
    found = {"sscq": lambda x: photo_view(x, size), ONE_BY_ONE: lambda x: torch.stack([one(image) for image in x]),
             "torchvision, on the batch": one}
    try: found["kornia " + importlib.metadata.version("kornia")] = kornia_recipe(size)
    except ImportError: pass
    return found


def photographs(n: int, size: int) -> torch.Tensor:
    "scikit-learn's two photos, in turn"
    photos = torch.tensor(np.stack(load_sample_images().images)).permute(0, 3, 1, 2) / 255
    return F.interpolate(photos[..., :420, :420], (size, size), mode="area").repeat(-(-n // 2), 1, 1, 1)[:n].contiguous()


def statistics(v: torch.Tensor) -> torch.Tensor:  # (6, views)
    gray, chroma, half = to_gray(v), v.amax(1) - v.amin(1), v.shape[-1] // 2
    return torch.stack([gray.mean((1, 2, 3)), gray.std((1, 2, 3)), chroma.mean((1, 2)), (v[:, 0] - v[:, 1]).mean((1, 2)),
                        (v[..., :half] - v[..., half:]).mean((1, 2, 3)), (v[..., 1:] - v[..., :-1]).abs().mean((1, 2, 3))])


def largest_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    "Kolmogorov and Smirnov's statistic, the largest over the rows"
    grid = torch.cat([a, b], 1)
    below = [torch.searchsorted(s.sort(1).values, grid, right=True) / s.shape[1] for s in (a, b)]
    return (below[0] - below[1]).abs().max().item()


def traits() -> dict:
    "Name -> what a method does, apart from its speed"
    runs, tile = methods(32), photographs(2, 32)[1:].expand(N, -1, -1, -1)
    views = {name: view(tile) for name, view in runs.items()}
    alike = {name: torch.equal(*view(tile[:2])) for name, view in runs.items()}
    theirs = statistics(views[ONE_BY_ONE])
    again = statistics(runs[ONE_BY_ONE](tile))
    gaps = {name: largest_gap(again if name == ONE_BY_ONE else statistics(v), theirs) for name, v in views.items()}
    return {name: dict(own_numbers=not alike[name], gap=gaps[name]) for name in runs}


def seconds(run, device: str, clock) -> float:
    if device == "cuda": torch.cuda.synchronize()
    start = clock()
    run()
    if device == "cuda": torch.cuda.synchronize()
    return clock() - start


def speeds(size: int, device: str, turns: int, clock) -> list[dict]:
    "A row per method"
    batch = 256 if size <= 64 else 32
    x = photographs(batch, size if size <= 64 else size * 8 // 7).to(device)
    runs, best = methods(size), {}
    for _ in range(turns):
        for name, view in runs.items():
            best[name] = min(best.get(name, math.inf), seconds(lambda view=view: view(x), device, clock))
    return [dict(device=device, size=size, method=name, images_per_s=batch / t, ratio=best[ONE_BY_ONE] / t) for name, t in best.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 224])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and its CPU seconds for seconds: for ratios on a busy machine")
    args = parser.parse_args()
    if args.cpu_time: args.threads = 1
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    how = "one thread, CPU time" if args.cpu_time else f"{args.threads} threads"
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{processor()}, {how}"
    limit = 1.95 * math.sqrt(2 / N)
    print(f"{where}, torch {torch.__version__}\n\n| views of | method | views/s | times image by image |\n|--:|---|--:|--:|")
    rows = [row for size in args.sizes for row in speeds(size, args.device, args.turns, clock)]
    for r in rows: print(f"| {r['size']} | {r['method']} | {r['images_per_s']:,.0f} | {r['ratio']:.1f} |")
    digits = torch.rand(256, 1, 8, 8, device=args.device)
    best = min(seconds(lambda: digit_view(digits), args.device, clock) for _ in range(20 * args.turns))
    rows.append(dict(device=args.device, size=8, method="sscq, digit_view", images_per_s=256 / best, ratio=None))
    print(f"| 8 | sscq, digit_view | {256 / best:,.0f} | |")
    found = traits()
    print(f"\n| method | numbers of its own | gap (limit {limit:.3f}) |\n|---|---|--:|")
    for name, t in found.items(): print(f"| {name} | {'yes' if t['own_numbers'] else 'no'} | {t['gap']:.3f} |")
    result = dict(rows=rows, traits=found, gap_limit=limit, machine=where, torch=torch.__version__, date=time.strftime("%Y-%m-%d"))
    if args.json: args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
