"""Why learn codes together with features? Instance contrast and then PQ, beside the full objective and the codebooks it learns itself.

Two networks are trained from scratch for each number of bits and each seed: one with instance contrast of f alone, as SimCLR does it, one with the
full objective. Network, views, steps and the order of the pictures are the same for both. Then every way to make codes is scored on them:

    own      the codebooks that were learned with the network (full objective only)
    PQ       k-means in each part of f, after training; with 16 words a book, as the learned codebooks have, and with 256
    exact    no codes: the vectors themselves are compared

PQ is also made of f scaled to unit length, since instance contrast looks at angles alone, and of the features before the projection head, which
SimCLR's authors recommend for other tasks. The labels only score. mAP is averaged over random orders of equal distances, because short codes tie
often; the rows of the database are shuffled once, so that P@10, which orders equal distances by row number, knows nothing of the classes either.

DATA is `digits` or a folder: FOLDER/train/KIND/* is trained on and searched, FOLDER/test/KIND/* asks. A run that is already in the JSON file is
not repeated, so the sweep can be stopped and continued."""
import argparse
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from sscq.baselines import Vectors, code_pq, vectors
from sscq.codebook import hard_assign
from sscq.core import SSCQ
from sscq.data import RetrievalData, data_in_memory, digits, labelled_folder
from sscq.distributed import quick_precision
from sscq.evaluate import relevance, score_codes, score_queries
from sscq.objective import SSCQObjective
from sscq.train import PRESETS, Preset, TrainConfig
from sscq.views import to_float

CONTRAST, FULL = "instance contrast", "full objective"
BITS, PASSES = (8, 16, 32), dict(digits=50, pictures=12)
PICTURES = Preset(dict(backbone="strided_cnn", channels=3, image_size=32), "gentle", SSCQObjective(tau_ic=.2),
                  TrainConfig(batch_size=128, lr=2e-3, warmup_epochs=2, lr_end=.01))
RECIPES = dict(digits=PRESETS["digits"], pictures=PICTURES)


def shuffled(data: RetrievalData) -> RetrievalData:
    "The database in an order that the classes did not make"
    rows = torch.randperm(len(data.database.images), generator=torch.Generator().manual_seed(0))
    database = data.database._replace(images=data.database.images[rows], labels=data.database.labels[rows])
    return data._replace(train=database.images, database=database)


def load(source: str, name: str) -> RetrievalData:
    if source == "digits": return shuffled(digits())
    return shuffled(data_in_memory(labelled_folder(source, PICTURES.model["image_size"]))._replace(name=name))


def unit(v: Vectors) -> Vectors: return Vectors(*(F.normalize(x, dim=1) for x in v))


def of_codes(coded, data: RetrievalData, both: bool) -> dict:
    "Scores of real queries against codes; by unsquared distances, too, where both are asked for"
    def score(distance):
        return score_codes(coded.query, data.query.labels, coded.codes, data.database.labels, coded.codebooks, data.topk, distance)
    found, other = score("squared"), score("unsquared").map_ties if both else None
    return dict(map=found.map_ties, map_rows=found.map, p_at_10=found.precision_at_10, map_unsquared=other, codes=len(coded.codes.unique(dim=0)))


def of_vectors(v: Vectors, data: RetrievalData) -> dict:
    "The same of vectors that are compared as they are"
    distances, relevant = torch.cdist(v.query, v.database), relevance(data.query.labels, data.database.labels)
    ap = score_queries(distances, relevant, data.topk).ap.mean().item()
    return dict(map=ap, map_rows=ap, p_at_10=score_queries(distances, relevant, 10).precision.mean().item(), map_unsquared=None, codes=None)


class Own:
    "What the model's own codebooks make of f"
    def __init__(self, f: Vectors, codebooks: torch.Tensor):
        self.query, self.codes, self.codebooks = f.query, hard_assign(f.database, codebooks), codebooks


@torch.no_grad()
def scores(model: SSCQ, own: bool, data: RetrievalData, bits: int, seed: int) -> list[dict]:
    "One row for every way to make codes, or to do without"
    f = vectors(data, model.embed)
    features = vectors(data, lambda x: model.backbone(to_float(x)))
    rows = [dict(vectors="f", made="own", n_words=16, **of_codes(Own(f, model.codebooks.detach()), data, True))] if own else []
    for name, v in {"f": f, "f, unit length": unit(f), "features": features, "features, unit length": unit(features)}.items():
        rows += [dict(vectors=name, made="PQ", n_words=k, **of_codes(code_pq(v, bits, k, seed), data, (name, k) == ("f", 16))) for k in (16, 256)]
        rows.append(dict(vectors=name, made="exact", n_words=None, **of_vectors(v, data)))
    return rows


def run(objective: str, bits: int, seed: int, passes: int, recipe: Preset, data: RetrievalData) -> list[dict]:
    "Train one network, and score all that can be made of it"
    loss = recipe.objective if objective == FULL else replace(recipe.objective, weights=(1., 0., 0., 0., 0.))
    config = replace(recipe.config, epochs=passes, seed=seed)
    torch.manual_seed(seed)
    model, start = SSCQ(bits=bits, seed=seed, **recipe.model), time.process_time()
    model.fit(data.train, recipe.view, loss, config, device="cpu", progress=False)
    about = dict(objective=objective, bits=bits, seed=seed, passes=passes, cpu_seconds=round(time.process_time() - start, 1))
    return [about | row for row in scores(model.eval(), objective == FULL, data, bits, seed)]


def about(data: RetrievalData, recipe: Preset) -> dict:
    "The protocol, with what every network was trained with"
    settings = {k: v for k, v in vars(recipe.config).items() if k not in ("epochs", "seed")}
    return dict(
        data=data.name, n_database=len(data.database.images), n_queries=len(data.query.images), metric=f"mAP@{data.topk}",
        ties="map: averaged over random orders of equal distances; map_rows and p_at_10: equal distances by row number, rows shuffled",
        distance="squared ADC of real queries and codes (map_unsquared: unsquared, of some ways); exact: Euclid's", refined=False, features="from scratch",
        device="cpu", threads=torch.get_num_threads(), torch=torch.__version__, model=recipe.model, view=recipe.view,
        objective=vars(recipe.objective), config=settings,
        spread="over seeds, which draw first weights, order, views and k-means; the data and its split stay")


def write(path: Path, found: dict):
    "The file is whole at any moment"
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def table(rows: list[dict]) -> str:
    "Mean ± standard deviation over the seeds, in Markdown"
    bits, names = sorted({r["bits"] for r in rows}), ("passes", "objective", "vectors", "made", "n_words")
    lines = ["| passes | objective | vectors | codes | words | " + " | ".join(f"{b} bits" for b in bits) + " |", "|--:|---|---|---|--:|" + "--:|" * len(bits)]
    for key in dict.fromkeys(tuple(r[name] for name in names) for r in rows):
        cells = []
        for b in bits:
            x = [r["map"] for r in rows if (*(r[name] for name in names), r["bits"]) == (*key, b)]
            cells.append("" if not x else f"{statistics.mean(x):.3f}" + (f" ± {statistics.stdev(x):.3f}" if len(x) > 1 else ""))
        lines.append(f"| {' | '.join(str(k or '') for k in key)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python benchmarks/why_codes.py digits --bits 16 --seeds 1 --passes 5 --json why_codes.json")
    parser.add_argument("data", metavar="DATA", help="digits, or a folder")
    parser.add_argument("--name", help="of a folder's data, in the results")
    parser.add_argument("--bits", type=int, nargs="+", default=list(BITS), help="default 8 16 32")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 … N-1 of each (default 3)")
    parser.add_argument("--passes", type=int, help="over the pictures (default 50 for digits, 12 for a folder)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where rows are kept; those already there are not run again")
    args = parser.parse_args()
    kind, name = ("digits" if args.data == "digits" else "pictures"), args.name or Path(args.data).name
    data, recipe, passes = load(args.data, name), RECIPES[kind], args.passes or PASSES[kind]
    if kind == "pictures": recipe = recipe._replace(config=replace(recipe.config, precision=quick_precision("cpu")))
    found = json.loads(args.json.read_text(encoding="utf-8")) if args.json and args.json.exists() else dict(rows=[])
    found = dict(about=about(data, recipe), rows=found["rows"])
    if args.json: write(args.json, found)  # a folder that cannot be written is found now, not after the first run
    done = {(r["objective"], r["bits"], r["seed"], r["passes"]) for r in found["rows"]}
    for seed in range(args.seeds):
        for bits in args.bits:
            for objective in (CONTRAST, FULL):
                if (objective, bits, seed, passes) in done: continue
                new = run(objective, bits, seed, passes, recipe, data)
                found["rows"] += new
                if args.json: write(args.json, found)
                shown = ", ".join(f"{r['made']} {r['map']:.3f}" for r in new if r["vectors"] == "f" and r["n_words"] != 256)
                print(f"{objective}, {bits} bits, seed {seed}: of f: {shown}; {new[0]['cpu_seconds']:.0f} CPU s", flush=True)
    print("\n" + table(found["rows"]))


if __name__ == "__main__": main()
