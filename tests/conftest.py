"Shapes in signatures are checked, here and only here; and one browser for the tests that open pages."
import importlib.util
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell has it ignored in the background, and so would every child that tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(Path(__file__).parent))
install_import_hook("sscq", "typecheck.check")

from lab_driver import CHROMIUM_ARGS, chromium


@pytest.fixture(scope="module")  # not session: while it lives, asyncio cannot be used by other tests of the same process
def browser():
    "Chromium without a window. Where there is none, its tests are skipped, but in CI they fail"
    refuse = pytest.fail if os.environ.get("CI") else pytest.skip
    if not (path := chromium()): refuse("no Chromium: install it (Debian: apt install chromium-headless-shell) to test pages in a browser")
    try: from playwright.sync_api import sync_playwright
    except ImportError: refuse("no playwright: pip install playwright to test pages in a browser")
    with sync_playwright() as p:
        found = p.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        yield found
        found.close()


@pytest.fixture(scope="session")
def axe():
    "What axe-core finds wrong with a page, a line for each kind; it comes in a wheel. Without it, its tests are skipped, but in CI they fail"
    found = importlib.util.find_spec("axe_playwright_python")
    if not found: (pytest.fail if os.environ.get("CI") else pytest.skip)("no axe-core: pip install axe-playwright-python to test pages by its rules")
    program = Path(found.submodule_search_locations[0], "axe.min.js").read_text(encoding="utf-8")
    def wrong(page, *rules: str, without: tuple[str, ...] = (), within: tuple[str, ...] = ()) -> list[str]:
        "By all rules, or these; in all of the page, or in what `within` selects, but for what `without` does"
        if not page.evaluate("!!window.axe"): page.evaluate(program)
        return page.evaluate("""async ([rules, without, within]) => {
          const wanted = { resultTypes: ['violations'], ...(rules.length ? { runOnly: rules } : {}) };
          const among = { exclude: without.map((s) => [s]), ...(within.length ? { include: within.map((s) => [s]) } : {}) };
          const { violations } = await axe.run(among, wanted);
          return violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => `${n.target.join(' ')} ${n.html.slice(0, 120)}`).join(' | ')}`);
        }""", [list(rules), list(without), list(within)])
    return wrong


def pytest_runtest_setup():
    "A test draws the same numbers, and is interrupted by Python's own handler, whichever tests its process ran before"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nbdev's, which a notebook leaves, ends the process without a word
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)


LONGEST = [f"test_{name}.py" for name in ("tutorials", "notebooks", "lab", "site", "explorables", "cli", "hosts", "learning_explorables", "train", "fuzz",
                                        "public", "core", "index", "budget", "data", "search", "serve", "widgets", "exercises", "browse", "shards")]


def pytest_collection_modifyitems(items):
    "The longest files first: a worker that begins one at the end leaves the others idle"
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
