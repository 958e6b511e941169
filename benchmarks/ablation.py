"""What every term of the objective does, on scikit-learn's digits: leave-one-out, contrast alone, the release's script weights,
SPQ's objective, the temperature of codeword diversity, and the fusions. 16 bits, mAP@1000 of 300 queries in a database of 1,497.

A run that is already in the JSON file is not repeated, so the sweep can be stopped and continued."""
import argparse
import json
import os
import time
from pathlib import Path

import torch
from torch import nn

from sscq.backbone import linear_head, make_backbone
from sscq.codebook import ProductQuantizer, hard_assign, perplexity, usage
from sscq.core import SSCQ
from sscq.data import digits
from sscq.evaluate import average_precision, relevance
from sscq.objective import SPQObjective, SSCQObjective
from sscq.search import nearest
from sscq.train import TrainConfig, fit
from sscq.codebook import find_quantizer
from sscq.views import digit_view, to_float

W = (1., 1., .4, .1, .2)  # icf, icz, cc, pn, cd
RUNS = {
    "full": SSCQObjective(),
    "no-icf": SSCQObjective((0., *W[1:])),
    "no-icz": SSCQObjective((W[0], 0., *W[2:])),
    "no-cc": SSCQObjective((*W[:2], 0., *W[3:])),
    "no-pn": SSCQObjective((*W[:3], 0., W[4])),
    "no-cd": SSCQObjective((*W[:4], 0.)),
    "contrast-only": SSCQObjective((1., 1., 0., 0., 0.)),
    "release-scripts": SSCQObjective((0., 0., *W[2:])),
    "spq": SPQObjective(),
    "tau_cd=0.3": SSCQObjective(tau_cd=.3),
    "tau_cd=0.1": SSCQObjective(tau_cd=.1),
    "concatenate": SSCQObjective(fusion="concatenate"),
    "max": SSCQObjective(fusion="max"),
    "embedding": SSCQObjective(fusion="embedding"),
    "quantized": SSCQObjective(fusion="quantized"),
    "cross": SSCQObjective((*W[:2], 40., *W[3:]), fusion="cross", tau_cc=2.),  # the authors' suggestion for this fusion
}


def build(name: str) -> nn.Module:
    "A fresh 16-bit model; SPQ's has its linear head"
    if name != "spq": return SSCQ(bits=16, backbone="tiny_cnn", channels=1, image_size=8)
    backbone, n_features = make_backbone("tiny_cnn", 1)
    return nn.Sequential(backbone, linear_head(n_features, 64), ProductQuantizer(4))


@torch.no_grad()
def score(model: nn.Module, data) -> dict:
    "mAP with both distances, equal distances in order of row; and the mean perplexity of the database's codes over the codebooks"
    codebooks = find_quantizer(model).codebooks
    codes = hard_assign(model(to_float(data.database.images)).f, codebooks)
    queries = model(to_float(data.query.images)).f
    relevant = relevance(data.query.labels, data.database.labels)
    def mean_ap(squared):
        ids = nearest(queries, codebooks, codes, data.topk, squared)[1]
        return average_precision(relevant.gather(1, ids)).mean().item()
    counts = usage(codes, codebooks.shape[1])
    return dict(map_unsquared=mean_ap(False), map_squared=mean_ap(True), perplexity=perplexity(counts).mean().item())


def run(name: str, seed: int, epochs: int, data) -> dict:
    "Train one model and score it"
    torch.manual_seed(seed)
    model = build(name)
    start = time.perf_counter()
    fit(model, data.train, digit_view, RUNS[name], TrainConfig(epochs=epochs, lr=2e-3, warmup_epochs=5, lr_end=.01, seed=seed))
    return dict(name=name, seed=seed, epochs=epochs, seconds=round(time.perf_counter() - start, 1), **score(model, data))


def write(path: Path, rows: list):
    "The file is whole at any moment"
    about = dict(data="scikit-learn digits, 1,497 train = database, 300 queries, split seed 0", bits=16, backbone="tiny_cnn",
                 metric="mAP@1000, ADC, equal distances in order of row", torch=torch.__version__, threads=torch.get_num_threads())
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(dict(about=about, rows=rows), indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def table(rows: list) -> str:
    "Mean ± standard deviation over the seeds, in Markdown"
    lines = ["| run | seeds | epochs | mAP, unsquared ADC | mAP, squared ADC | perplexity (of 16) | seconds |", "|---" * 7 + "|"]
    for name, epochs in dict.fromkeys((r["name"], r["epochs"]) for r in rows):
        mine = [r for r in rows if (r["name"], r["epochs"]) == (name, epochs)]
        def cell(key, digits, mine=mine):
            x = torch.tensor([float(r[key]) for r in mine])
            return f"{x.mean():.{digits}f}" + (f" ± {x.std():.{digits}f}" if len(x) > 1 else "")
        cells = [cell("map_unsquared", 3), cell("map_squared", 3), cell("perplexity", 1), cell("seconds", 0)]
        lines.append(f"| {name} | {len(mine)} | {epochs} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python benchmarks/ablation.py --only full no-cc spq --seeds 1 --epochs 5 --json /tmp/ablation.json")
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=list(RUNS), metavar="NAME", help=f"which runs: {' '.join(RUNS)}")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 … N-1 of each (default 3)")
    parser.add_argument("--epochs", type=int, default=50, help="epochs of each (default 50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where rows are kept; those already there are not run again")
    args = parser.parse_args()
    rows = json.loads(args.json.read_text(encoding="utf-8"))["rows"] if args.json and args.json.exists() else []
    if args.json: write(args.json, rows)  # a folder that cannot be written is found now, not after the first run
    done = {(r["name"], r["seed"], r["epochs"]) for r in rows}
    data = digits()
    for seed in range(args.seeds):
        for name in args.only:
            if (name, seed, args.epochs) in done: continue
            rows.append(run(name, seed, args.epochs, data))
            print(f"{name}, seed {seed}: mAP {rows[-1]['map_unsquared']:.3f}, {rows[-1]['seconds']:.0f} s", flush=True)
            if args.json: write(args.json, rows)
    print("\n" + table(rows))


if __name__ == "__main__": main()
