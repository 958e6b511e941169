"Every tutorial in JupyterLab, in a real browser: all its cells run, all its controls answer."
import pytest
from lab_driver import ROOT, Notebook, lab_server, labelled, lay_out

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default")]
TUTORIALS = sorted(p.stem for p in (ROOT / "nbs/tutorials").glob("*.ipynb"))


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    "JupyterLab over a copy of the notebooks"
    with lab_server(lay_out(tmp_path_factory.mktemp("lab"))) as (url, token): yield lambda path: Notebook(browser, url, token, path)


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
