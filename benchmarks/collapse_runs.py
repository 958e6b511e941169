"""The recorded runs of the page "Collapse": digits at 16 bits, with the narrow network of the pages, for six weights of codeword
diversity, two temperatures, with and without instance contrast on z, and three seeds. After every epoch the use of all 64 words by the
1,497 pictures is kept, in the end the mean picture of each word, and mAP@1000 of 300 queries.

The weight 0 is trained once for both temperatures, which it does not use. A run that is already in the file is not repeated, so the
recording can be stopped and continued; the file is written whole after every run. 66 runs took 3.2 minutes of one CPU core."""
import argparse
import base64
import json
import time
from pathlib import Path

import numpy as np
import torch

from sscq.codebook import usage
from sscq.component import narrow_model
from sscq.core import SSCQ
from sscq.data import digits
from sscq.evaluate import score_codes
from sscq.files import atomic_write
from sscq.objective import SSCQObjective
from sscq.train import TrainConfig, fit
from sscq.views import digit_view

WEIGHTS = (0., .1, .2, 1., 5., 20.)
TAUS = (1., .1)
CONTRASTS = (1., 0.)  # weights of instance contrast on z
SEEDS = (0, 1, 2)
OTHERS = dict(icf=1., cc=.4, pn=.1)
CONFIG = TrainConfig(epochs=8, batch_size=128, lr=2e-3, warmup_epochs=1, lr_end=.01)
OUT = Path(__file__).parent.parent / "sscq" / "js" / "collapse.json"


def text(numbers: np.ndarray) -> str: return base64.b64encode(numbers.tobytes()).decode()


@torch.no_grad()
def shares(model: SSCQ, images: torch.Tensor) -> torch.Tensor:
    "Of the pictures, how many of 255 use each word: (M, K). Three are 1 % and more"
    training = model.training
    codes = model.eval().encode(images)
    model.train(training)
    return (usage(codes, 16) * 255 / len(codes)).round().to(torch.uint8)


def means(codes: torch.Tensor, images: torch.Tensor) -> np.ndarray:
    "The mean picture of every word in 16 shades, two pixels a byte; blank where nobody uses it"
    x, rows = images.flatten(1).float() / 255 * 15, []
    for book in codes.T:
        rows += [x[book == word].mean(0) if (book == word).any() else torch.zeros(64) for word in range(16)]
    shades = torch.stack(rows).round().to(torch.uint8).numpy()
    return shades[:, ::2] << 4 | shades[:, 1::2]


def run(contrast: float, tau: float, weight: float, seed: int, data) -> dict:
    began, images = time.process_time(), data.database.images
    torch.manual_seed(seed)
    model = narrow_model()
    used = [shares(model, images)]
    objective = SSCQObjective((OTHERS["icf"], contrast, OTHERS["cc"], OTHERS["pn"], weight), tau_cd=tau)
    config = TrainConfig(**{**vars(CONFIG), "seed": seed})
    fit(model, images, digit_view, objective, config, on_epoch=lambda _: used.append(shares(model, images)), progress=False)
    model.eval()
    codes = model.encode(images)
    scores = score_codes(model.embed(data.query.images), data.query.labels, codes, data.database.labels, model.codebooks.detach(), data.topk)
    return dict(contrast=contrast, tau=tau, weight=weight, seed=seed, map=round(scores.map, 3), seconds=round(time.process_time() - began, 1),
                usage=text(torch.stack(used).numpy()), means=text(means(codes, images)))


def settings() -> list[tuple]:  # contrast, tau, weight, seed
    return [(c, tau, w, seed) for seed in SEEDS for c in CONTRASTS for tau in TAUS for w in WEIGHTS if w or tau == TAUS[0]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=OUT, metavar="FILE", help="where everything is kept (default: the page's own file)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="which seeds (default 0 1 2)")
    parser.add_argument("--contrasts", type=float, nargs="+", default=CONTRASTS, help="which weights of instance contrast on z (default 1 0)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else dict(runs=[])
    found["about"] = dict(data="scikit-learn digits, 1,497 pictures, split seed 0", bits=16, network="tiny_cnn of 12 channels, head of 64",
                          epochs=CONFIG.epochs, batch_size=CONFIG.batch_size, lr=CONFIG.lr, weights=OTHERS,
                          metric="mAP@1000, squared ADC", torch=torch.__version__)
    done = {tuple(r[name] for name in ("contrast", "tau", "weight", "seed")) for r in found["runs"]}
    data = digits()
    for setting in (s for s in settings() if s not in done and s[3] in args.seeds and s[0] in args.contrasts):
        made = run(*setting, data)
        found["runs"].append(made)
        found["runs"].sort(key=lambda r: (r["contrast"], -r["tau"], r["weight"], r["seed"]))
        lines = ",\n".join(json.dumps(r, separators=(",", ":")) for r in found["runs"])
        atomic_write(args.json, f'{{"about": {json.dumps(found["about"])},\n"runs": [\n{lines}\n]}}\n'.encode())
        print(*setting, made["map"], made["seconds"], flush=True)


if __name__ == "__main__": main()
