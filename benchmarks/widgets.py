"""How long does a page take to redraw an explorer, to show it when loaded again, and how long to train?

    python benchmarks/widgets.py [--json FILE] [--moves 5]

JupyterLab and Chromium without a window on this machine; the explorers of nbs/45_explorers.ipynb at their default size. A redraw is timed in the page,
from the key that moves a control to the last change that follows in readout and figures; a row gives each explorer's slowest control, by the median of
its moves. Reload: the page is loaded again, the kernel lives on; from the reload to the first explorer's figures, and what the kernel sends meanwhile,
for all explorers. Training: from Start to the numbers of the tenth epoch, digits, 16 bits, with the scores of every epoch. Stop: from its key to the page that
says so, in a run under way. Wanted: redraw_s <= 0.5, training_s <= 12, stop_s <= 1 on two cores. Needs Chromium and playwright."""
import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from lab_driver import CHROMIUM_ARGS, Explorer, Notebook, chromium, lab_server, lay_out

NAMES = ("codebook", "usage", "neighbors", "contrast", "retrieval")
WATCH = """e => { window.watched?.disconnect(); window.pressed = window.changed = null;
  addEventListener('keydown', () => { pressed = performance.now(); }, {capture: true, once: true});
  window.watched = new MutationObserver(() => { if (pressed) changed = performance.now(); });
  for (const part of e.querySelectorAll('.sscq-figures, .sscq-readout'))
    watched.observe(part, {subtree: true, childList: true, characterData: true, attributes: true}); }"""


def redraw(explorer: Explorer, control, key: str) -> float:
    "Seconds from a key to the last change that follows, once nothing has moved for half a second"
    explorer.at.evaluate(WATCH)
    control.press(key)
    explorer.page.wait_for_function("() => changed && performance.now() - changed > 500", timeout=20_000)
    return explorer.page.evaluate("() => (changed - pressed) / 1000")


def slowest(explorer: Explorer, moves: int) -> dict:
    "Median redraw of every slider; the largest, and whose it is"
    medians = {}
    for name in explorer.controls():
        control = explorer.control(name)
        if control.kind != "slider": continue
        one, two = control.press("Home"), control.press("ArrowRight")
        explorer.page.wait_for_timeout(2000)  # both are drawn
        if one != two: medians[name] = statistics.median(redraw(explorer, control, key) for key in (["ArrowLeft", "ArrowRight"] * moves)[:moves])
    name = max(medians, key=medians.get)
    return dict(explorer=explorer.name, redraw_s=round(medians[name], 3), control=name)


def train(explorer: Explorer) -> dict:
    start = time.perf_counter()
    explorer.control("start").press("Enter")
    explorer.wait_readout("· done · epoch 10 of 10", timeout=300)
    seconds, reached = time.perf_counter() - start, explorer.number("mAP")
    explorer.control("epochs").press("End")
    explorer.control("start").press("Enter")
    explorer.wait_readout("· training · epoch 1 of 50", timeout=60)
    asked = time.perf_counter()
    explorer.control("stop").press("Enter")
    explorer.wait_readout("· stopped ·", timeout=60)
    return dict(explorer="training", training_s=round(seconds, 2), map=reached, stop_s=round(time.perf_counter() - asked, 2))


def again(notebook: Notebook) -> dict:
    received = []
    notebook.page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(len(frame))))
    start = time.perf_counter()
    notebook.reload()
    explorer = notebook.explorer("codebook")
    explorer.wait(lambda: explorer.at.locator(".js-plotly-plot").count() == 2, "the figures are not drawn", timeout=120)
    return dict(explorer="all", reload_s=round(time.perf_counter() - start, 2), received_mb=round(sum(received) / 1e6, 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--moves", type=int, default=5, help="of each control")
    args = parser.parse_args()
    if not chromium(): sys.exit("no Chromium: install it (Debian: apt install chromium-headless-shell)")
    threads = str(os.cpu_count())
    with tempfile.TemporaryDirectory() as folder, lab_server(lay_out(Path(folder)), OMP_NUM_THREADS=threads) as (url, token), sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=CHROMIUM_ARGS)
        notebook = Notebook(browser, url, token, "nbs/45_explorers.ipynb").ran()
        rows = [slowest(notebook.explorer(name), args.moves) for name in NAMES] + [train(notebook.explorer("training")), again(notebook)]
        notebook.assert_clean()
        notebook.close()
        browser.close()
    columns = dict(redraw_s="redraw, s", control="control", training_s="training, s", stop_s="stop, s", reload_s="reload, s", received_mb="received, MB")
    print("| explorer |", " | ".join(columns.values()), "|\n|---|" + "--:|" * len(columns))
    for r in rows: print(f"| {r['explorer']} |", " | ".join(str(r.get(name, "")) for name in columns), "|")
    where = f"{platform.machine()}, {os.cpu_count()} cores"
    if args.json: args.json.write_text(json.dumps(dict(rows=rows, machine=where, date=time.strftime("%Y-%m-%d")), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
