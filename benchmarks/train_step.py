"""Images per second of a training step, from the bare backbone to everything, stage by stage.

Each stage adds to the one before: the backbone's forward and backward pass; the head and the quantizer; the objective and the
optimizer; the two views; the data, which is an epoch of `fit`'s loop. An image counts once although it is seen twice. The stages take
turns in one process; of each, the best turn counts. bf16 is autocast, everything but the first row is channels-last, and on CUDA
network, views and objective are compiled, as `fit` compiles them. `step_over_backbone` is the last stage over the bare backbone in the
same precision and layout; `matrix_share` is the arithmetic of the backbone done by the whole step, as a share of the rate measured for
large matrix products."""
import argparse
import datetime
import json
import platform
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from sscq.core import SSCQ
from sscq.objective import SSCQObjective
from sscq.train import Run, TrainConfig, compiled_run, train_epoch, train_step
from sscq.views import photo_view, two_views

LAYOUT, BACKBONE, HEAD, OBJECTIVE, VIEWS, DATA = STAGES = (
    "backbone, default layout", "backbone", "+ head and quantizer", "+ objective and optimizer", "+ views", "+ data (whole step)")


def processor() -> str:
    "The CPU's name, and the bf16 instructions it shows (Linux)"
    try: info = Path("/proc/cpuinfo").read_text()
    except OSError: return platform.processor() or platform.machine()
    lines = dict(line.split("\t", 1) for line in info.split("\n\n")[0].splitlines() if "\t" in line)
    name, flags = (lines.get(key, "").strip(": \t") for key in ("model name", "flags"))
    return f"{name} ({', '.join(f for f in ('avx512_bf16', 'amx_bf16') if f in flags.split()) or 'no bf16 instructions'})"


def wait(device: str):
    if device == "cuda": torch.cuda.synchronize()


def stages(device: str, precision: str, args) -> dict:
    "Name -> a function that trains on `args.images` images once"
    torch.manual_seed(0)
    def new(): return SSCQ(bits=args.bits, backbone=args.backbone, image_size=args.size).to(device).train()
    images = torch.randint(0, 256, (args.images, 3, args.size, args.size), dtype=torch.uint8, device=device)
    config, per_epoch = TrainConfig(precision=precision, batch_size=args.images), 4 if device == "cuda" else 1
    compiles = device == "cuda" and not args.eager
    x = torch.cat(two_views(images, photo_view))
    x_last = x.contiguous(memory_format=torch.channels_last)
    def low(): return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()

    def bare(module, x):
        if compiles: module = torch.compile(module, dynamic=False)
        def run():
            with low(): out = module(x)
            out.float().square().mean().backward()
        return run

    plain, last, whole = new(), new().to(memory_format=torch.channels_last), new().to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(whole.parameters(), lr=1e-4, fused=True)
    run = Run(whole, images.repeat(per_epoch, 1, 1, 1), photo_view, SSCQObjective(), config, adam, per_epoch)
    if compiles: run = compiled_run(run, small=True)

    def head():
        with low(): f = run.model(x_last).f
        whole.quantizer(f.float()).z.square().mean().backward()

    def step_on(view): return lambda: train_step(run.model, whole.codebooks, images, view, run.objective, adam, precision)
    def given(_): return x_last[:args.images]  # views that cost nothing

    functions = {LAYOUT: bare(plain.backbone, x), BACKBONE: bare(last.backbone, x_last), HEAD: head, OBJECTIVE: step_on(given),
                 VIEWS: step_on(run.view), DATA: lambda: train_epoch(run, 0)}
    return {name: (function, args.images * (per_epoch if name == DATA else 1)) for name, function in functions.items()}


def measure(functions: dict, device: str, rounds: int, clock) -> dict:
    "Images per second of every stage, the best of `rounds` turns"
    repeats, best = 10 if device == "cuda" else 1, {}
    for turn in range(rounds + 1):  # the first warms up
        for name, (function, images) in functions.items():
            wait(device)
            start = clock()
            for _ in range(repeats): function()
            wait(device)
            rate = repeats * images / (clock() - start)
            if turn: best[name] = max(best.get(name, 0), rate)
    return best


def flops_per_image(args) -> int:
    "Of the backbone, forward and backward, for both views of an image"
    net = SSCQ(bits=args.bits, backbone=args.backbone, image_size=args.size).backbone
    with FlopCounterMode(display=False) as counter: net(torch.rand(2, 3, args.size, args.size)).sum().backward()
    return counter.get_total_flops()


def matrix_rate(device: str, precision: str, clock) -> float:
    "Floating-point operations a second in a large matrix product, the best of five"
    n = 8192 if device == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = 0.
    for _ in range(5):
        wait(device)
        start = clock()
        a @ a
        wait(device)
        best = max(best, 2 * n ** 3 / (clock() - start))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example:\n  python benchmarks/train_step.py --devices cpu --images 128 --json /tmp/step.json")
    parser.add_argument("--devices", nargs="+", default=["cuda"] if torch.cuda.is_available() else ["cpu"], help="default: cuda if any")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--backbone", default="resnet18_small")
    parser.add_argument("--images", type=int, default=128, help="a batch (default 128, so 256 views)")
    parser.add_argument("--size", type=int, default=32, help="side of the images (default 32)")
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every stage (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU (default 2)")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and its CPU seconds for seconds: for ratios on a busy machine")
    parser.add_argument("--eager", action="store_true", help="do not compile, on CUDA either")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here as well")
    args = parser.parse_args()
    if args.cpu_time: args.threads = 1
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.backends.cudnn.benchmark = True
    rows, over, share, layout = [], {}, {}, {}
    print(f"{args.backbone}, {args.images} images of {args.size}×{args.size} (twice as many views), torch {torch.__version__}\n")
    print("| device | precision | stage | images/s | of the bare backbone |\n|---|---|---|---|---|", flush=True)
    for device in args.devices:
        rates = {}
        for precision in args.precisions:
            rates[precision] = measure(stages(device, precision, args), device, args.rounds, clock)
            for stage, rate in rates[precision].items():
                rows.append(dict(device=device, precision=precision, stage=stage, images_per_s=rate))
                print(f"| {device} | {precision} | {stage} | {rate:.1f} | {rate / rates[precision][BACKBONE]:.2f} |", flush=True)
            key = f"{device} {precision}"
            over[key] = rates[precision][DATA] / rates[precision][BACKBONE]
            share[key] = rates[precision][DATA] * flops_per_image(args) / matrix_rate(device, precision, clock)
        if len(rates) == 2: layout[device] = rates["bf16"][BACKBONE] / rates["fp32"][LAYOUT]
    print()
    for key in over: print(f"{key}: whole step over bare backbone {over[key]:.2f}; share of the measured matrix rate {share[key]:.2f}")
    for device, ratio in layout.items(): print(f"{device}: bf16 channels-last over fp32 default layout, bare backbone: {ratio:.2f}")
    if args.json:
        cuda = torch.cuda.get_device_name() if "cuda" in args.devices else None
        about = dict({k: v for k, v in vars(args).items() if k != "json"}, date=datetime.date.today().isoformat(),
                     device=cuda or processor(), torch=torch.__version__, python=platform.python_version())
        result = dict(about=about, rows=rows, step_over_backbone=over, matrix_share=share, bf16_channels_last_over_fp32_default=layout)
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
