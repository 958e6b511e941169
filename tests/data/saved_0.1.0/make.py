"""Makes the files beside this script, which tests/test_saved_files.py reads: a model, two indexes, a run stopped after 2 of 4
epochs, and `answers.json`, what the code that wrote them answered.

It needs the package as it was at one of two commits, both of version 0.1.0: ce8e6d2, the first release, or 9179cd7, the last
commit whose `Index` was in `sscq.search`. For each of them:

    git worktree add --detach /tmp/sscq-before COMMIT
    OMP_NUM_THREADS=1 PYTHONPATH=/tmp/sscq-before python tests/data/saved_0.1.0/make.py COMMIT

The files are not meant to be made again: what later code must keep reading is these bytes."""
import json
import lzma
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent
COMMITS = {"ce8e6d2": False, "9179cd7": True}  # was there a module sscq.files?
EPOCHS, REACHED = 4, 2


def images(first: int, n: int) -> torch.Tensor:
    "Digits as bytes, (n, 1, 8, 8); straight from scikit-learn, so that nothing of the package decides what is asked"
    return torch.from_numpy(load_digits().images[first:first + n] * 15).to(torch.uint8)[:, None]


def on_grid(x: torch.Tensor) -> torch.Tensor:
    "Multiples of 1/16: sums of their squares are exact in float32, so distances are the same bits on every machine"
    return (x * 16).round() / 16


def queries(index) -> torch.Tensor:
    "Eight vectors on the grid, of an index's width"
    return on_grid(torch.sin(torch.arange(8. * index.codebooks[:, 0].numel())).view(8, -1))


def network() -> nn.Sequential:
    "For the run: a network of 1,200 weights, too few to fill a repository with checkpoints of it"
    from sscq.backbone import projection_head
    from sscq.codebook import ProductQuantizer
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                             projection_head(64, 2 * 4, 12), ProductQuantizer(2, 8, 4))


def run(model: nn.Module, out: Path | None, resume: bool | str = False, on_epoch=None) -> list[dict]:
    "The run's settings"
    from sscq.objective import SSCQObjective
    from sscq.train import TrainConfig, fit
    from sscq.views import digit_view
    config = TrainConfig(epochs=EPOCHS, batch_size=32, warmup_epochs=1, lr=2e-3, lr_end=.01, seed=3)
    return fit(model, images(200, 64), digit_view, SSCQObjective(n_neighbors=5), config, on_epoch, progress=False, out=out, resume=resume)


def run_answers(model: nn.Module, history: list[dict]) -> dict:
    "Weights and history as numbers that JSON keeps exactly; without what time it took"
    weights = {name: x.flatten().tolist() for name, x in model.state_dict().items()}
    return dict(weights=weights, history=[{k: v for k, v in record.items() if k != "seconds"} for record in history])


def machine() -> list[str]:
    "What decides in which order a network's numbers are added, and so their last bits"
    return [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.__version__.partition("+")[0]]


def search_answers(index, ivf: bool) -> dict:
    "What an index says to the queries"
    asked, found = queries(index), {}
    for distance in ("squared", "unsquared"):
        hits = index.search(asked, 12, distance=distance)
        found[distance] = dict(ids=hits.ids.tolist(), distances=hits.distances.tolist(), paths=hits.paths)
    why = index.explain(asked[:1], found["squared"]["ids"][0][0])
    found["explain"] = dict(id=why.id, distance=why.distance, parts=why.parts.tolist(), item=why.item.tolist(), query=why.query.tolist(),
                            table=why.table.tolist(), kind=why.kind, path=why.path)
    if ivf:  # which cannot be saved: it is made of an index that can
        hits = index.to_ivf(n_lists=8, n_probe=2, seed=1).search(asked, 12)
        found["ivf"] = dict(ids=hits.ids.tolist(), distances=hits.distances.tolist())
    return found


def make_model(folder: Path) -> dict:
    "A trained model whose weights are then thinned out and rounded, for 250,000 of any kind would take a megabyte"
    from sscq.core import SSCQ
    torch.manual_seed(1)
    model = SSCQ(bits=16, word_dim=4, hidden=8, backbone="tiny_cnn", channels=1, image_size=8)
    model.fit(images(0, 200), epochs=3, batch_size=50, lr=4e-3, warmup_epochs=1, device="cpu", progress=False)
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.ndim > 1 and name.startswith("backbone"):
                x[x.abs() < x.abs().flatten().quantile(.93)] = 0
                x.copy_((x * 64).round() / 64)
        model.codebooks.copy_(model.eval().embed(images(500, 16)).view(16, 4, 4).transpose(0, 1))  # so little training uses one word a book
    # the codes depend on which codeword is nearest: images for which it is so by far, on any machine
    f = model.embed(images(300, 200))
    parts = f.view(len(f), 4, 1, 4)
    near = (parts - model.codebooks.detach()).square().sum(-1).sort(-1).values
    some = ((near[..., 1] - near[..., 0]).amin(1) > .02 * near[..., 1].amin(1)).nonzero()[:12, 0]
    with tempfile.TemporaryDirectory() as part:
        model.save_pretrained(part)
        shutil.copy(Path(part, "config.json"), folder)
        (folder / "model.safetensors.xz").write_bytes(lzma.compress(Path(part, "model.safetensors").read_bytes(), preset=9))
        model = SSCQ.from_pretrained(part)
    x = images(300, 200)[some]
    return dict(images=(300 + some).tolist(), codes=model.encode(x).tolist(), embeddings=model.embed(x).tolist(), config=model._hub_mixin_config,
                losses=[record["loss"] for record in model.history])  # none in the first release, which did not keep them


def make_indexes(folder: Path) -> dict:
    "One with paths and ids out of order, and its codes' distances for IVF; one without, of 9 bits, and unsquared"
    from sscq.search import Index
    g = torch.Generator().manual_seed(5)
    plain = Index(on_grid(torch.randn(3, 8, 3, generator=g)), distance="unsquared", name="nine bits")
    plain.add(torch.randint(8, (200, 3), dtype=torch.uint8, generator=g))
    named = Index(on_grid(torch.randn(4, 16, 4, generator=g)))
    for n in (100, 150):
        ids = (torch.randperm(n, generator=g) * 7 + (10_000 if n == 100 else 3))
        named.add(torch.randint(16, (n, 4), dtype=torch.uint8, generator=g), ids=ids, paths=[f"Bilder/{i:05}–ü.png" for i in ids.tolist()])
    answers = {}
    for name, index in dict(plain=plain, named=named).items():
        index.save(folder / f"{name}.sscq")
        index = Index.load(folder / f"{name}.sscq")
        order = index.ids.argsort()
        paths = index.paths and [index.paths[i] for i in order.tolist()]
        answers[name] = dict(name=index.name, distance=index.distance, fingerprint=index.fingerprint, ids=index.ids[order].tolist(),
                             codes=index.codes[order].tolist(), paths=paths, search=search_answers(index, name == "named"))
    return answers


def make_run(folder: Path) -> dict:
    "The checkpoint after two epochs, and where four lead: without a stop, and from the checkpoint"
    with tempfile.TemporaryDirectory() as out:
        def keep(record):  # during the third record's turn, the second one's checkpoint lies on disk
            if record["epoch"] == REACHED + 1:
                for name in ("checkpoint.safetensors", "history.jsonl"): shutil.copy(Path(out, name), folder)
        model = network()
        whole = run_answers(model, run(model, Path(out), on_epoch=keep))
    with tempfile.TemporaryDirectory() as out:
        for name in ("checkpoint.safetensors", "history.jsonl"): shutil.copy(folder / name, out)
        model = network()
        resumed = run_answers(model, run(model, Path(out), resume=True))
    assert resumed == whole, "training is not reproducible here"
    return whole


def main():
    commit = sys.argv[1]
    import sscq
    from sscq import search
    package = Path(sscq.__file__).parent
    if not hasattr(search, "Index") or (package / "index.py").exists() or (package / "files.py").exists() != COMMITS[commit]:
        sys.exit(f"{package} is not the package of commit {commit}: see the head of this file")
    torch.set_num_threads(1)
    folder = HERE / commit
    folder.mkdir()
    answers = dict(machine=machine(), model=make_model(folder), indexes=make_indexes(folder), run=make_run(folder))
    (folder / "answers.json").write_text(json.dumps(answers, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in sorted(folder.iterdir()): print(f"{path.stat().st_size:>8,} {path.relative_to(HERE)}")


if __name__ == "__main__": main()
