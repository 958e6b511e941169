"Every tutorial in JupyterLab, in a real browser: all its cells run, all its controls answer. And the command for two machines."
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lab_driver import ROOT, Notebook, lab_server, labelled, lay_out

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
            for control in labelled(explorer).values():
                if control.kind in ("button", "upload"): continue
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
