"""Files that version 0.1.0 wrote are read, and answer as they did when they were written.

`data/saved_0.1.0` holds files of two of its commits, the first release and the last before the package's modules were cut smaller;
`make.py` there says how they came about."""
import importlib.util
import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sscq.checkpoint import last_checkpoint
from sscq.core import SSCQ
from sscq.index import Index
from sscq.ivf import IVFIndex  # noqa: F401 (it gives Index its to_ivf)

SAVED = Path(__file__).parent / "data/saved_0.1.0"
spec = importlib.util.spec_from_file_location("make_saved", SAVED / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


@pytest.fixture(scope="module", params=make.COMMITS)
def folder(request) -> Path: return SAVED / request.param


@pytest.fixture(scope="module")
def answers(folder) -> dict: return json.loads((folder / "answers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory) -> SSCQ:
    here = tmp_path_factory.mktemp("model")
    (here / "model.safetensors").write_bytes(lzma.decompress((folder / "model.safetensors.xz").read_bytes()))
    shutil.copy(folder / "config.json", here)
    return SSCQ.from_pretrained(here)


def agree(got, want, exact: bool, rtol: float):
    "The same bits; or nearly so, where another machine or another PyTorch adds in another order"
    got, want = torch.as_tensor(got), torch.tensor(want)
    if exact: assert torch.equal(got, want.to(got.dtype))
    else: torch.testing.assert_close(got, want.to(got.dtype), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("line", ["from sscq import Index", "from sscq.core import SSCQ; from sscq.index import Index"])
def test_an_index_has_its_cells_without_another_import(line):
    subprocess.run([sys.executable, "-c", f"{line}; Index.to_ivf"], check=True)


def test_the_model_encodes_as_it_did(model, answers):
    want = answers["model"]
    images = torch.cat([make.images(i, 1) for i in want["images"]])
    assert model._hub_mixin_config == want["config"]
    assert [record["loss"] for record in model.history] == want["losses"]
    assert model.encode(images).tolist() == want["codes"]
    agree(model.embed(images), want["embeddings"], make.machine() == answers["machine"], 1e-4)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("name", ["plain", "named"])
def test_an_index_answers_as_it_did(folder, answers, name, mmap):
    "Distances too to the bit: codebooks and queries are multiples of 1/16, whose sums of squares no order of adding can change"
    want, index = answers["indexes"][name], Index.load(folder / f"{name}.sscq", mmap=mmap)
    for key in ("name", "distance", "fingerprint", "paths"): assert getattr(index, key) == want[key]
    assert index.ids.tolist() == want["ids"] and index.codes.tolist() == want["codes"]
    assert make.search_answers(index, ivf="ivf" in want["search"]) == want["search"]


@pytest.mark.parametrize("name", ["plain", "named"])
def test_an_index_saved_again_is_the_same(folder, answers, name, tmp_path):
    index = Index.load(Index.load(folder / f"{name}.sscq").save(tmp_path / "again.sscq"))
    want = answers["indexes"][name]
    assert [index.ids.tolist(), index.codes.tolist(), index.paths, index.fingerprint] == [want[k] for k in ("ids", "codes", "paths", "fingerprint")]
    assert make.search_answers(index, ivf=False) == {k: v for k, v in want["search"].items() if k != "ivf"}


def test_a_run_goes_on_as_it_would_have(folder, answers, tmp_path):
    """The weights after four epochs are those of the earlier code: to the bit, if machine and PyTorch are those that it ran on. But since
    the first release unit vectors have another gradient, which is right for tiny and huge rows too and differs in the last bits"""
    for name in ("checkpoint.safetensors", "history.jsonl"): shutil.copy(folder / name, tmp_path)
    saved = last_checkpoint(tmp_path)
    assert len(saved.meta["history"]) == make.REACHED and saved.meta["format"] == 1 + make.COMMITS[folder.name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, seen = make.network(), []
        history = make.run(model, tmp_path, True, seen.append)
    finally: torch.set_num_threads(threads)
    assert [record["epoch"] for record in seen] == [3, 4]
    got, want, exact = make.run_answers(model, history), answers["run"], make.machine() == answers["machine"] and folder.name != "ce8e6d2"
    assert got["weights"].keys() == want["weights"].keys()
    for name, x in got["weights"].items(): agree(x, want["weights"][name], exact, 1e-3)
    assert got["history"][:make.REACHED] == want["history"][:make.REACHED]
    if exact: assert got["history"] == want["history"]
    else:
        for mine, theirs in zip(got["history"], want["history"], strict=True):
            assert mine.keys() == theirs.keys() and mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    assert len(last_checkpoint(tmp_path).meta["history"]) == make.EPOCHS
