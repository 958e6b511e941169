"""The recorded runs of the page "Training playground": digits, with the narrow network of the pages, for every choice of losses, temperature
of instance contrast, number of bits and seed in the lists below. After every epoch, and before the first one, are kept: mAP@1000 of
300 queries by the codes and by f itself, the use of all words by the 1,497 pictures, and where 10 queries of each digit lie on a plane;
of every epoch also the objective and its five terms, unweighted.

The plane is spanned by the two directions in which f of the 100 pictures differs most after the last epoch, the same for all epochs of a run.
Its middle is the mean of each epoch, its scale the largest distance from it along an axis in any epoch. Labels score, choose the 100 and
colour them; training does not see them. Without instance contrast its temperature has no effect, so that such runs have one only.

A run that is already in the file is not repeated, so the recording can be stopped and continued; the file is written whole after every run.
"""
import argparse
import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sscq.backbone import projection_head, tiny_cnn
from sscq.codebook import usage
from sscq.component import HIDDEN, WIDTH
from sscq.core import SSCQ
from sscq.data import digits, RetrievalData
from sscq.evaluate import relevance, score_codes, score_queries
from sscq.files import atomic_write
from sscq.objective import Parts, SSCQObjective
from sscq.train import fit, PRESETS, TrainConfig
from sscq.views import digit_view

OBJECTIVES = {"all": (1., 1., .4, .1, .2), "contrast": (1., 1., 0., 0., 0.), "f": (1., 0., 0., 0., 0.), "none": (0., 0., .4, .1, .2)}
TAUS = (.1, .5, 2.)
BITS = (8, 16, 64)
SEEDS = (0, 1)
EACH = 10  # pictures of each digit on the plane
CONFIG = TrainConfig(epochs=12, batch_size=128, lr=2e-3, warmup_epochs=1, lr_end=.01)
OUT = Path(__file__).parent.parent / "sscq" / "js" / "training.json"
KEYS = ("losses", "bits", "tau", "seed")


def settings() -> list[tuple]:  # losses, bits, tau, seed
    return [(losses, bits, tau, seed) for seed in SEEDS for losses in OBJECTIVES for bits in BITS for tau in TAUS if losses != "none" or tau == .5]


def narrow(bits: int) -> SSCQ:
    "The preset `digits`, with a network narrow enough to be trained in seconds"
    model = SSCQ(bits, **PRESETS["digits"].model)
    model.backbone, n_features = tiny_cnn(1, WIDTH)
    model.head = projection_head(n_features, model.codebooks.shape[0] * model.codebooks.shape[2], HIDDEN)
    return model


def shown(data: RetrievalData) -> torch.Tensor:
    "Numbers of the first queries of each digit"
    labels = data.query.known_labels
    return torch.cat([(labels == label).nonzero().flatten()[:EACH] for label in range(10)])


@torch.no_grad()
def look(model: SSCQ, data: RetrievalData) -> dict:
    "What is kept of the present weights"
    training = model.training
    model.eval()
    f, there, codes = model.embed(data.query.images), model.embed(data.database.images), model.encode(data.database.images)
    model.train(training)
    scores = score_codes(f, data.query.labels, codes, data.database.labels, model.codebooks.detach(), data.topk, "squared")
    exact = score_queries(torch.cdist(f, there), relevance(data.query.labels, data.database.labels), data.topk)
    shares = (usage(codes, 16) * 255 / len(codes)).round().to(torch.uint8)  # of 255; three are 1 % and more
    return dict(map=round(scores.map, 3), exact=round(exact.ap.mean().item(), 3), f=f[shown(data)].double(), usage=shares.numpy())


def plane(frames: list[torch.Tensor]) -> tuple[np.ndarray, float]:  # of 255, (frames, pictures, 2); share of the last one's spread
    "Where the pictures lie on the plane of the last frame's largest spread"
    centred = [f - f.mean(0) for f in frames]
    _, size, axes = torch.linalg.svd(centred[-1], full_matrices=False)
    two = axes[:2] * axes[:2].gather(1, axes[:2].abs().argmax(1, keepdim=True)).sign()  # else their direction is chance
    places = torch.stack([f @ two.T for f in centred])
    counts = (127.5 + 127.5 * places / places.abs().max()).round().clamp(0, 255).to(torch.uint8)
    return counts.numpy(), round((size[:2].square().sum() / size.square().sum()).item(), 2)


def run(losses: str, bits: int, tau: float, seed: int, data: RetrievalData, on_epoch: Callable = lambda epoch: None) -> dict:
    began, kept, terms = time.process_time(), [], []
    torch.manual_seed(seed)
    model = narrow(bits)
    kept.append(look(model, data))

    def watch(record):
        terms.append([round(record[name], 3) for name in ("loss", *Parts._fields)])
        kept.append(look(model, data))
        on_epoch(record["epoch"])

    objective, config = SSCQObjective(OBJECTIVES[losses], tau_ic=tau), TrainConfig(**{**vars(CONFIG), "seed": seed})
    fit(model, data.database.images, digit_view, objective, config, on_epoch=watch, progress=False)
    places, spread = plane([one["f"] for one in kept])
    return dict(zip(KEYS, (losses, bits, tau, seed))) | dict(
        map=[one["map"] for one in kept], exact=[one["exact"] for one in kept], terms=[list(column) for column in zip(*terms)],
        spread=spread, seconds=round(time.process_time() - began, 1), places=text(places), usage=text(np.stack([one["usage"] for one in kept])))


def text(numbers: np.ndarray) -> str: return base64.b64encode(numbers.tobytes()).decode()


def about(data: RetrievalData) -> dict:
    labels = data.query.known_labels[shown(data)].tolist()
    return dict(data="scikit-learn digits, 1,497 pictures, split seed 0", n=len(data.database.images), n_queries=len(data.query.images),
                network=f"tiny_cnn of {WIDTH} channels, head of {HIDDEN}, books of 16 words of 16 dimensions", epochs=CONFIG.epochs,
                batch_size=CONFIG.batch_size, lr=CONFIG.lr, objectives=OBJECTIVES, terms=["loss", *Parts._fields], tau_ic=TAUS, tau_cd=1.0,
                metric="mAP@1000, squared ADC", device="one thread of a CPU", torch=torch.__version__, labels="".join(map(str, labels)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=OUT, metavar="FILE", help="where everything is kept (default: the page's own file)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="which seeds (default 0 1)")
    parser.add_argument("--bits", type=int, nargs="+", default=BITS, help="which lengths (default 8 16 64)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    found = dict(json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else dict(runs=[]), about=about(data))
    done = {tuple(r[name] for name in KEYS) for r in found["runs"]}
    order = settings()
    for setting in (s for s in order if s not in done and s[3] in args.seeds and s[1] in args.bits):
        made = run(*setting, data)
        found["runs"].append(made)
        found["runs"].sort(key=lambda r: order.index(tuple(r[name] for name in KEYS)))
        lines = ",\n".join(json.dumps(r, separators=(",", ":")) for r in found["runs"])
        atomic_write(args.json, f'{{"about": {json.dumps(found["about"])},\n"runs": [\n{lines}\n]}}\n'.encode())
        print(*setting, made["map"][-1], made["exact"][-1], made["seconds"], flush=True)


if __name__ == "__main__": main()
