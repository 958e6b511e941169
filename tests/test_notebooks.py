"Each notebook's cells are tests: run them with nbdev's own runner, one pytest result per notebook."
import signal
from pathlib import Path

import pytest
from lab_driver import chromium
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_nb  # renamed so that pytest does not collect it

cfg = get_config(Path(__file__).parent)
NBS = sorted(nbglob(cfg.nbs_path, as_path=True))
if chromium(): NBS = [nb for nb in NBS if nb.parent.name != "tutorials"]  # run in JupyterLab, by test_tutorials.py


@pytest.mark.filterwarnings("default")  # a notebook meets the warnings that its reader meets
@pytest.mark.parametrize("nb", NBS, ids=lambda p: p.relative_to(cfg.nbs_path).as_posix())
def test_notebook(nb):
    ok, _seconds = run_nb(nb, skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path)
    assert ok, f"{nb.name}: a cell failed, see its traceback above"


def test_a_handler_is_left_behind(): signal.signal(signal.SIGINT, lambda *_: None)  # as nbdev leaves its own
def test_and_the_next_test_does_not_meet_it(): assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
