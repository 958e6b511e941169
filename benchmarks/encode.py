"""Images per second of encoding: the bare backbone, then codes from memory, then codes from a folder of JPEG files.

An encoder is worth its name when the third is the first: files decode while the network works. The three take turns in one process,
best of the turns. `encode_over_backbone` is the last stage over the first. Memory is this process's peak for folders of growing size,
which should not grow with them."""
import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from sscq.core import SSCQ
from sscq.views import to_float

BACKBONE, MEMORY, FOLDER = STAGES = ("backbone", "encode, from memory", "encode, from a folder")


def photographs(folder: Path, n: int, size: int):
    "Random crops of scikit-learn's two photos, as JPEG files; from the 500th on, the same files under other names"
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images
    photos, rng = load_sample_images().images, np.random.default_rng(0)
    for i in range(min(n, 500)):
        side = int(rng.integers(100, 400))
        top, left = rng.integers(0, 427 - side), rng.integers(0, 640 - side)
        crop = Image.fromarray(photos[i % 2][top:top + side, left:left + side])
        crop.resize((size, size)).save(folder / f"{i:06d}.jpg", quality=85)
    for i in range(500, n): os.link(folder / f"{i % 500:06d}.jpg", folder / f"{i:06d}.jpg")


def model_for(args) -> SSCQ:
    torch.manual_seed(0)
    return SSCQ(bits=args.bits, backbone=args.backbone, image_size=args.size).to(args.device, memory_format=torch.channels_last).eval()


def peak_mib(args, n: int) -> float:
    "Peak memory of a process that encodes n files and does nothing else"
    options = ["--peak-of", str(n), "--backbone", args.backbone, "--size", str(args.size), "--device", args.device]
    return float(subprocess.run([sys.executable, __file__, *options], check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example:\n  python benchmarks/encode.py --images 2000 --json /tmp/encode.json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backbone", default="resnet18_small")
    parser.add_argument("--images", type=int, default=1000, help="files (default 1000)")
    parser.add_argument("--size", type=int, default=32, help="side of the images (default 32)")
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every stage (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU (default 2)")
    parser.add_argument("--memory", type=int, nargs="*", default=[], metavar="N", help="peak memory with N files, e.g. 1000 10000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = model_for(args)
    with tempfile.TemporaryDirectory() as folder:
        if args.peak_of:
            import resource
            photographs(Path(folder), args.peak_of, args.size)
            model.encode(folder)
            return print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        photographs(Path(folder), args.images, args.size)
        images = torch.cat([x for x, _ in model_batches(model, folder)])

        def bare():
            with torch.no_grad():
                for x in images.split(args.batch): model.backbone(to_float(x.to(args.device)))
            if args.device == "cuda": torch.cuda.synchronize()

        functions = {BACKBONE: bare, MEMORY: lambda: model.encode(images, args.batch), FOLDER: lambda: model.encode(folder, args.batch)}
        best = dict.fromkeys(STAGES, 0.)
        for turn in range(args.rounds + 1):  # the first warms up
            for name, function in functions.items():
                start = time.perf_counter()
                function()
                if turn: best[name] = max(best[name], args.images / (time.perf_counter() - start))
    rows = [dict(device=args.device, stage=name, images_per_s=rate) for name, rate in best.items()]
    print(f"{args.backbone}, {args.images} images of {args.size}×{args.size}, torch {torch.__version__}\n")
    print("| device | stage | images/s | of the bare backbone |\n|---|---|---|---|")
    for row in rows: print(f"| {row['device']} | {row['stage']} | {row['images_per_s']:.0f} | {row['images_per_s'] / best[BACKBONE]:.2f} |")
    memory = {n: peak_mib(args, n) for n in args.memory}
    for n, mib in memory.items(): print(f"peak memory with {n:,} files: {mib:.0f} MiB")
    if args.json:
        about = dict({k: v for k, v in vars(args).items() if k not in ("json", "peak_of")},
                     torch=torch.__version__, python=platform.python_version())
        result = dict(about=about, rows=rows, encode_over_backbone=best[FOLDER] / best[BACKBONE], peak_mib=memory)
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def model_batches(model: SSCQ, folder: str):
    "The folder's images, decoded as the model decodes them"
    from sscq.reading import read
    images = model.to_images(folder)
    return read(images, torch.arange(len(images)).split(256))


if __name__ == "__main__": main()
