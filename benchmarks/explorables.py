"""How soon an explorable is drawn anew after the pointer moved, and how long its longest task is. Or: train the model that pages carry.

    python benchmarks/explorables.py [--json FILE] [--moves 60] [NAME …]
    python benchmarks/explorables.py --train FOLDER     # writes digits.safetensors there; the library's lies in sscq/js

Each page is opened as a file in Chromium. A move is an event of the pointer; its time ends when everything that depends on it has been
drawn (the component counts its drawings), so it holds the wait for the next frame, 17 ms at most. Median and 95th percentile of the moves,
at full speed and with the processor slowed to a quarter; the longest task is of the moves at full speed. `load` says what else ran.
A move that is not drawn within ten seconds ends the measurement, with the name of its explorable.
"""
import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from lab_driver import CHROMIUM_ARGS, chromium

from sscq.component import Explorable

TARGETS = {"search": None, "draw": ".pen", "codebook": "[aria-roledescription='point to drag']", "contrast": "g[role=slider]",
           "neighbors": "[aria-roledescription='view to drag']"}  # in the recorded ones nothing is dragged
RATES = (("full speed", 1), ("a quarter", 4))
PATIENCE = 10  # seconds, for one drawing
MOVES = """async ([selector, moves, patience]) => {
  const host = document.getElementById('explorable'), root = host.shadowRoot, times = [], tasks = [];
  const watcher = new PerformanceObserver(list => tasks.push(...list.getEntries().map(e => e.duration)));
  watcher.observe({type: 'longtask'});
  const drawn = (what) => new Promise((done, fail) => {
    const watch = new MutationObserver(() => { watch.disconnect(); clearTimeout(late); done(); });
    const late = setTimeout(() => { watch.disconnect(); fail(new Error(`${what} was not drawn anew within ${patience} s`)); }, 1000 * patience);
    watch.observe(host, {attributes: true, attributeFilter: ['data-drawn']});
  });
  const element = selector ? root.querySelector(selector) : null, queries = [...root.querySelectorAll('.answers button')].slice(0, 10);
  const box = element?.getBoundingClientRect(), send = (type, i) => element.dispatchEvent(new PointerEvent(type, {pointerId: 1, bubbles: true,
    clientX: box.x + box.width / 2 + 60 * Math.sin(i / 4), clientY: box.y + box.height / 2 + 60 * Math.cos(i / 4)}));
  if (selector && !element) throw new Error(`there is no ${selector}`);
  if (element) {  // each place is 15 pixels from the one before: the pen draws nothing where it hardly moves
    const first = drawn('pressing the pointer');
    element.setPointerCapture = () => {};
    element.hasPointerCapture = () => true;
    send('pointerdown', 0);
    send('pointermove', 0);
    await first;
  }
  for (let i = 0; i < moves; i++) {
    const begun = performance.now(), later = drawn(`move ${i + 1} of ${moves}`);
    if (element) send('pointermove', i + 1); else queries[i % queries.length].click();
    await later;
    times.push(performance.now() - begun);
    await new Promise(r => setTimeout(r, 5));
  }
  watcher.disconnect();
  return [times.sort((a, b) => a - b), Math.max(0, ...tasks)];
}"""


def measure(moves: int, names: tuple = tuple(TARGETS), rates: tuple = RATES, patience: float = PATIENCE) -> dict:
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=CHROMIUM_ARGS)
        try: return measure_in(browser, moves, names, rates, patience)
        finally: browser.close()


def measure_in(browser, moves: int, names: tuple, rates: tuple, patience: float) -> dict:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            page = browser.new_page(viewport=dict(width=1280, height=900))
            try:
                page.goto(Explorable(name).save(f"{folder}/{name}.html").as_uri())
                page.wait_for_function("() => document.getElementById('explorable').dataset.drawn > 0", timeout=60_000)
                if name == "draw":  # its computing of the collection's vectors is over
                    done = "() => document.getElementById('explorable').shadowRoot.textContent.includes('answers are the same')"
                    page.wait_for_function(done, timeout=120_000)
                row = {}
                for kind, rate in rates:
                    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": rate})
                    times, longest = page.evaluate(MOVES, [TARGETS[name], moves, patience])
                    row[kind] = dict(median_ms=round(times[len(times) // 2], 1), p95_ms=round(times[int(len(times) * .95)], 1), longest_task_ms=round(longest))
            except Exception as error: raise RuntimeError(f"{name}: {error}") from error
            finally: page.close()
            found[name] = row
            print(name, row, flush=True)
    return found


def train(folder: Path):
    import torch
    from safetensors.torch import save_file

    from sscq.component import narrow_model
    from sscq.data import digits
    from sscq.train import PRESETS
    torch.manual_seed(0)
    preset, model = PRESETS["digits"], narrow_model()
    model.fit(digits().train, "digit", preset.objective, preset.config)
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}, folder / "digits.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)}; without one, all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--train", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    if args.train: train(args.train)
    else:
        if unknown := set(args.names) - TARGETS.keys(): parser.error(f"nothing is dragged in {', '.join(sorted(unknown))}")
        load, found = os.getloadavg()[0], measure(args.moves, tuple(args.names) or tuple(TARGETS))
        report = dict(about=dict(cpus=os.cpu_count(), load=round(load, 1), python=platform.python_version()), explorables=found)
        if args.json: args.json.write_text(json.dumps(report, indent=1) + "\n")
