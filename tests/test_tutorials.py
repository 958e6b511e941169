"Every tutorial in JupyterLab, in a real browser: all its cells run, all its controls answer. And the command for two machines."
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lab_driver import ROOT, Notebook, lab_server, labelled, lay_out

from sscq.data import ImageSet, digits

TUTORIALS = sorted(p.stem for p in (ROOT / "nbs/tutorials").glob("*.ipynb"))


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    "JupyterLab over a copy of the notebooks"
    with lab_server(lay_out(tmp_path_factory.mktemp("lab"))) as (url, token): yield lambda path: Notebook(browser, url, token, path)


@pytest.mark.browser
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial(lab, name):
    notebook = lab(f"nbs/tutorials/{name}.ipynb")
    try:
        notebook.ran()
        for i, kind in enumerate(found := notebook.explorers()):
            explorer = notebook.explorer(kind, found[:i].count(kind))
            for called, control in labelled(explorer).items():
                if control.kind in ("button", "upload") or kind == "training" and called in ("preset", "hand", "live"): continue  # test_lab has these
                before = explorer.shows()
                control.move()
                if kind != "training": explorer.wait(lambda e=explorer, b=before: e.shows() != b, f"{control.name} changes nothing")
                assert not explorer.message()
            if kind == "training":
                explorer.control("epochs").slide_to("1")
                explorer.control("start").press("Enter")
                explorer.wait_readout("· done · epoch 1 of 1", timeout=60)
        notebook.assert_clean()
    finally: notebook.close()


def test_two_machines_of_scaling_out(tmp_path):
    "The line to type on two machines, as it stands but for smaller numbers: two agents of one process each meet and train together"
    text = (ROOT / "nbs/tutorials/scaling_out.ipynb").read_text(encoding="utf-8")
    (line,) = re.findall(r"`(torchrun --nnodes 2 [^`]*)`", text)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    for old, new in (("--nproc-per-node 8", "--nproc-per-node 1 --local-addr 127.0.0.1"), ("HOST:29500", f"127.0.0.1:{port}"),
                     ("photos", "digits --epochs 1 --bits 16")):
        assert old in line
        line = line.replace(old, new)
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    runs = [subprocess.Popen(line.split(), cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    try:
        for run in runs:
            output, _ = run.communicate(timeout=180)
            assert run.returncode == 0, output
    finally:
        for run in runs: run.kill()
    assert len((tmp_path / "run/history.jsonl").read_text().splitlines()) == 1


@pytest.fixture
def why_codes(monkeypatch):
    "The script behind *why learn codes*, on 300 digits and 30 queries"
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import why_codes
    data = digits()
    def some(part, n): return ImageSet(part.images[:n], part.labels[:n])
    small = why_codes.shuffled(data._replace(database=some(data.database, 300), query=some(data.query, 30)))
    monkeypatch.setattr(why_codes, "load", lambda source, name: small)
    return why_codes


def test_why_codes_measures_every_way_once(why_codes, tmp_path, monkeypatch, capsys):
    file = tmp_path / "why.json"
    monkeypatch.setattr(sys, "argv", f"why_codes.py digits --bits 8 --seeds 1 --passes 1 --json {file}".split())
    why_codes.main()
    found = json.loads(file.read_text())
    ways = {(r["objective"], r["made"], r["n_words"], r["vectors"]) for r in found["rows"]}
    assert len(found["rows"]) == len(ways) == 25 and sum(made == "own" for _, made, _, _ in ways) == 1
    assert all(.05 < r["map"] <= 1 and 0 < r["p_at_10"] <= 1 and (r["codes"] is None) == (r["made"] == "exact") for r in found["rows"])
    assert all(r["codes"] <= 256 for r in found["rows"] if r["codes"]), "8 bits tell at most 256 apart"
    assert found["about"]["refined"] is False and found["about"]["n_queries"] == 30
    monkeypatch.setattr(why_codes, "run", lambda *args: pytest.fail("a run that is in the file is repeated"))
    why_codes.main()
    assert json.loads(file.read_text()) == found and "| 1 | full objective | f | own | 16 |" in capsys.readouterr().out


def test_why_codes_contrast_leaves_the_codewords_alone(why_codes, monkeypatch):
    "But for weight decay, which does not need a loss; the full objective moves them"
    moved, data = {}, why_codes.load("", "")
    def scores(model, own, *rest):
        fresh = why_codes.SSCQ(bits=8, seed=0, **why_codes.PRESETS["digits"].model)
        moved[own] = torch.linalg.norm(model.codebooks - fresh.codebooks).item()
        return []
    monkeypatch.setattr(why_codes, "scores", scores)
    recipe = why_codes.PRESETS["digits"]
    recipe = recipe._replace(config=why_codes.replace(recipe.config, weight_decay=0.))
    for objective in (why_codes.CONTRAST, why_codes.FULL): why_codes.run(objective, 8, 0, 1, recipe, data)
    assert moved[False] == 0 < moved[True]


def test_why_codes_keeps_labels_with_their_pictures(why_codes):
    data = digits()
    mixed = why_codes.shuffled(data)
    of = {bytes(image.numpy().tobytes()): int(label) for image, label in zip(data.database.images, data.database.labels)}
    assert all(of[image.numpy().tobytes()] == label for image, label in zip(mixed.database.images, mixed.database.labels))
    assert torch.equal(mixed.train, mixed.database.images) and not torch.equal(mixed.train, data.train)


@pytest.mark.parametrize("name, n, wanted, seeds", [("digits", 300, {8, 16, 32}, 3), ("colour", 4000, {16}, 2)], ids=["digits", "colour"])
def test_why_codes_results_are_complete(name, n, wanted, seeds):
    "So many seeds of both objectives, trained equally long, at these lengths at least; more may have been added since"
    found = json.loads((ROOT / f"benchmarks/results/why_codes_{name}.json").read_text())
    rows, about = found["rows"], found["about"]
    runs = {(r["objective"], r["bits"], r["seed"]) for r in rows}
    complete = {b for b in (8, 16, 32) if {(o, b, seed) for o in ("instance contrast", "full objective") for seed in range(seeds)} <= runs}
    assert wanted <= complete and len({r["passes"] for r in rows}) == 1
    ways = [tuple(r[k] for k in ("objective", "bits", "seed", "vectors", "made", "n_words")) for r in rows]
    assert len(set(ways)) == len(ways) == sum(12 + (o == "full objective") for o, _, _ in runs), "every run was scored in every way, once"
    assert about["n_queries"] == n and all(about[k] is not None for k in ("data", "metric", "distance", "ties", "refined", "features", "device", "spread"))


def test_what_why_codes_says_of_colour_pictures_follows_the_file(tmp_path, monkeypatch):
    "Another length of code, and a third seed, whatever they show: the page's sentences name them"
    results, there = ROOT / "benchmarks/results", tmp_path / "benchmarks/results"
    for folder in (there, here := tmp_path / "nbs/tutorials"): folder.mkdir(parents=True)
    (there / "why_codes_digits.json").write_text((results / "why_codes_digits.json").read_text())
    found = json.loads((results / "why_codes_colour.json").read_text())
    rows = [r for r in found["rows"] if r["bits"] == 16 and r["seed"] < 2]
    longer = [dict(r, bits=32, seed=seed, map=r["map"] + .05 * (r["objective"] == "full objective")) for r in rows if r["seed"] == 0 for seed in range(3)]
    (there / "why_codes_colour.json").write_text(json.dumps(found | {"rows": rows + longer}))
    monkeypatch.chdir(here)
    monkeypatch.setattr("sscq.figures.notebook_pictures", lambda: None)
    cells = ["".join(c["source"]) for c in json.loads((ROOT / "nbs/tutorials/why_learn_codes.ipynb").read_text(encoding="utf-8"))["cells"]]
    scope: dict = {}
    for mark in ("from IPython.display import Markdown", "def read(name)", "RECIPES = {", "def table(head", "def verdict(", "def best_of_all("):
        (source,) = [s for s in cells if mark in s]
        exec(source, scope)
    assert scope["SEEDS"]["colour pictures"] == {16: 2, 32: 3}
    losses, best = scope["by_length"]("colour pictures", "A₁", "B₁"), scope["best_of_all"]("colour pictures", 32)
    assert re.fullmatch(r"level at 16 bits \(.*, 2 seeds\), ahead at 32 bits \(\+0\.0\d\d ± 0\.000, 3 seeds\)", losses)
    assert best.startswith("at 32 bits full objective")
