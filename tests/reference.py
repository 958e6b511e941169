"""Check the library against reference files: numbers that the authors' release computes from fixed random inputs.

    python tests/reference.py tests/data/sscq_16bit.npz [FILE ...]

Prints the largest relative error of every array, max|ours - theirs| / max|theirs|, and exits 1 if any exceeds 1e-4.
A file holds the inputs, the results and, in `meta`, the settings: B, M, K, d, temperatures, neighbours, weights."""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from sscq.codebook import Encoded, hard_assign, soft_quantize
from sscq.diversity import codeword_diversity
from sscq.evaluate import average_precision, relevance
from sscq.objective import SPQObjective, SSCQObjective
from sscq.search import adc, distance_table
from sscq.train import TrainConfig, learning_rate

LIMIT = 1e-4
# the release's CIFAR-10 schedule, with 195 steps an epoch
SCHEDULE = TrainConfig(epochs=800, batch_size=256, lr=5e-4, lr_start=1e-5, lr_end=.1, warmup_epochs=10)


def relative_error(ours, theirs) -> float:
    ours, theirs = (np.asarray(torch.as_tensor(x).detach(), dtype=np.float64) for x in (ours, theirs))
    if ours.shape != theirs.shape: return float("inf")
    least = 1e-12 if theirs.ndim else 1e-2  # a loss may be 0, as pn is when every negative is a neighbour: all that is left is rounding
    error = np.abs(ours - theirs).max() / max(np.abs(theirs).max(), least)
    return float(error) if np.isfinite(error) else float("inf")


def books(codebooks: torch.Tensor, d: int) -> torch.Tensor:
    "The release's (K, M·d) as our (M, K, d)"
    return codebooks.unflatten(1, (-1, d)).transpose(0, 1)


def halves(x: torch.Tensor) -> tuple: return x.chunk(2)


def loss_errors(file: dict, meta: dict) -> dict:
    "z, every term, every fusion's total and gradients"
    errors = {}
    weights = (meta.get("w_icf", 1.), meta.get("w_icz", 1.), meta["w_cc"], meta["w_pn"], meta["w_cd"])
    for name in sorted({key.split("/")[0] for key in file if key.endswith("/cc")}):
        objective = SSCQObjective(weights, meta["n_neighbors"], name.removesuffix("_pos"), name.endswith("_pos"),
                                  meta["tau_ic"], meta["tau_cc"], meta["tau_pn"], meta.get("tau_cd", 1.))
        f, codebooks = (torch.tensor(file[key], requires_grad=True) for key in ("f", "codebooks"))
        ours = books(codebooks, meta["d"])
        z = soft_quantize(f, ours, meta["tau_sq"])
        (fa, fb), (za, zb) = halves(f), halves(z)
        loss, parts = objective(Encoded(fa, za), Encoded(fb, zb), ours)
        loss.backward()
        found = dict(cc=parts.cc, pn=parts.pn, total=loss, grad_f=f.grad, grad_codebooks=codebooks.grad)
        errors |= {f"{name}/{key}": relative_error(value, file[f"{name}/{key}"]) for key, value in found.items()}
    shared = dict(z=z, icf=parts.icf, icz=parts.icz, cd=codeword_diversity(f, ours, meta.get("tau_cd", 1.)))
    errors |= {key: relative_error(value, file[key]) for key, value in shared.items()}
    # a file does not name SPQ's temperature: it is its paper's 0.5, or the one shared with the instance contrast
    spq = [SPQObjective(tau)(Encoded(fa, za), Encoded(fb, zb), ours)[0] for tau in {.5, meta.get("tau_spq", meta["tau_ic"])}]
    errors["spq_cqc"] = min(relative_error(value, file["spq_cqc"]) for value in spq)
    cos = torch.nn.functional.cosine_similarity(f.unflatten(1, (len(ours), 1, -1)), ours[None], dim=-1)
    return errors | {"cos_to_codewords": relative_error(cos, file["cos_to_codewords"])}


def retrieval_errors(file: dict, meta: dict) -> dict:
    "Codes, distances, and the scores of the file's own distances"
    codebooks = books(torch.tensor(file["codebooks"]), meta["d"])
    codes = hard_assign(torch.tensor(file["db_f"]), codebooks)
    distances = adc(distance_table(torch.tensor(file["query_f"]), codebooks, squared=False), codes)
    errors = {"db_codes": float((codes.numpy() != file["db_codes"]).mean()), "distances": relative_error(distances, file["distances"])}
    # equal distances rank as the release ranked them: by torch's default sort, which is not stable
    order = torch.tensor(file["distances"]).argsort(dim=1)
    relevant = relevance(torch.tensor(file["query_labels"]), torch.tensor(file["db_labels"]))
    hits = relevant.gather(1, order)
    found = hits.double().cumsum(1)
    precision = found / torch.arange(1, hits.shape[1] + 1)
    for key in file:
        name, _, k = key.replace("map@", "map/").partition("/")
        if name == "map": errors[key] = relative_error(average_precision(hits[:, :int(k)]).mean(), file[key])
        if name == "p_at_k": errors[key] = relative_error(precision[:, :int(k)].mean(0), file[key])
    errors["pr/precision"] = relative_error(precision.mean(0), file["pr/precision"])
    errors["pr/recall"] = relative_error((found / relevant.sum(1, keepdim=True).clamp(min=1)).mean(0), file["pr/recall"])
    return errors


def schedule_errors(file: dict, meta: dict) -> dict:
    if "lr/value" not in file: return {}
    ours = [learning_rate(int(epoch) * 195 + int(step), 195, SCHEDULE) for epoch, step in file["lr/epoch_step"]]
    return {"lr/value": relative_error(np.array(ours), file["lr/value"])}


def compare(path: str | Path) -> dict:
    "The relative error of every array of a file that the library computes"
    with np.load(path, allow_pickle=False) as opened: file = dict(opened)
    meta = json.loads(str(file["meta"]))
    return loss_errors(file, meta) | retrieval_errors(file, meta) | schedule_errors(file, meta)


INPUTS = {"f", "codebooks", "db_f", "query_f", "db_labels", "query_labels", "lr/epoch_step", "meta"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    worst = 0.
    for path in parser.parse_args().files:
        errors = compare(path)
        print(f"{path}\n" + "\n".join(f"  {name:<28}{error:10.1e}{'   <-- beyond 1e-4' if error > LIMIT else ''}" for name, error in errors.items()))
        worst = max(worst, *errors.values())
    print(f"largest relative error {worst:.1e}: {'beyond' if worst > LIMIT else 'within'} {LIMIT:.0e}")
    return int(worst > LIMIT)


if __name__ == "__main__": sys.exit(main())
