"JupyterLab and a browser page, driven as a reader would: open a notebook, run it, move controls, read numbers."
import base64
import html
import io
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE = "[anywidget] Failed to initialize model."  # said of a page too busy for two seconds; a figure draws and follows all the same
EVERY = 250  # milliseconds between two looks: by default playwright looks at every frame, and makes the page draw frames for that
CALM = '{"fetchNews": "false", "checkForUpdates": false}'  # else a pop-up covers the page

# Keeps every error that the kernel reports: one raised in a control's callback shows in no cell.
ATTACH = """async () => {
  const app = window.jupyterapp; await app.restored;
  let panel = app.shell.currentWidget;
  for (let i = 0; i < 300 && !panel?.sessionContext; i++) { await new Promise(r => setTimeout(r, 100)); panel = app.shell.currentWidget; }
  const started = (async () => { await panel.context.ready; await panel.sessionContext.ready; await panel.sessionContext.session.kernel.info; })();
  await Promise.race([started, new Promise((_, no) => setTimeout(() => no(new Error('no kernel after a minute')), 60000))]);
  const test = window.sscqTest = {panel, done: false, raised: []};
  panel.sessionContext.iopubMessage.connect((_, m) => {
    if (m.header.msg_type === 'error') test.raised.push([m.content.ename, m.content.evalue, ...m.content.traceback].join('\\n'));
    if (m.header.msg_type === 'stream' && m.content.text.includes('Traceback')) test.raised.push(m.content.text);
  });
  test.run = async command => { test.done = false; await app.commands.execute(command); test.done = true; };
}"""
CELLS = """() => sscqTest.panel.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.getSource().trim()).map(c => ({
  source: c.model.sharedModel.getSource(), count: c.model.executionCount, prompt: c.inputArea.promptNode.textContent,
  errors: c.model.outputs.toJSON().filter(o => o.output_type === 'error').map(o => o.traceback.join('\\n')) }))"""


def chromium() -> str | None:
    "Chromium's program; sooner the one that has no windows at all, which needs a third less of the processor for the same pages"
    return next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def plain(text: str) -> str: return re.sub(r"\x1b\[[0-9;]*m", "", text)  # without colours


def lay_out(folder: Path) -> Path:
    "A copy of what notebooks read by relative paths, in `folder`"
    for name in ("nbs", "tests/data", "benchmarks/results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return folder


@contextmanager
def lab_server(folder: Path, **env: str):
    "A JupyterLab of its own, with its files under `folder`; yields its address and token"
    own, bin_ = folder / "jupyter", Path(sys.executable).parent
    settings = own / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(CALM)
    port, token = free_port(), secrets.token_hex(8)
    url = f"http://127.0.0.1:{port}"
    env = {k: v for k, v in os.environ.items() if k not in ("SSCQ_STILL", "IN_TEST")} | {
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "JUPYTER_CONFIG_DIR": str(own / "config"), "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"), "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"), "IPYTHONDIR": str(own / "ipython"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"), "SSCQ_PROGRESS": str(own / "progress.json"), "SSCQ_SKIP_PNG": "1", "OMP_NUM_THREADS": "1"} | env
    with open(own / "lab.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
                                   "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
                                   "--LabApp.expose_app_in_browser=True"], env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(240):
            if server.poll() is not None: break
            try: urllib.request.urlopen(f"{url}/api?token={token}", timeout=2).close(); break
            except OSError: time.sleep(.25)
        else: server.kill()
        if server.poll() is not None: raise RuntimeError(f"JupyterLab did not start:\n{(own / 'lab.log').read_text()[-3000:]}")
        yield url, token
    finally:
        server.terminate()  # and with it its kernels
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill()
        server.wait()


class Notebook:
    "A notebook open in JupyterLab, its cells running; what went wrong in page, kernel and network is collected"
    def __init__(self, browser, url: str, token: str, path: str, script: str = "", run: bool = True):  # script: run in the page before all others
        self.path, self.url, self.token, self.problems, self.outside = path, url, token, [], []
        self.context = browser.new_context(viewport=dict(width=1280, height=1100))
        self.page = self.context.new_page()
        self.page.add_init_script(script)
        self.page.on("pageerror", lambda e: self.problems.append(f"page error: {e}") if str(e) != PATIENCE else None)
        self.page.on("console", lambda m: self.problems.append(f"console: {m.text} ({m.location.get('url')})") if m.type == "error" else None)
        self.page.on("request", lambda r: self.look_at(r.url))
        self.page.on("websocket", lambda ws: self.look_at(ws.url))
        name = re.sub(r"\W", "-", path)  # a workspace of its own, else a second page opens the first one's notebook
        self.page.goto(f"{url}/lab/workspaces/{name}/tree/{path}?token={token}&reset", wait_until="domcontentloaded")
        self.attach()
        if run: self.page.evaluate("() => { sscqTest.run('notebook:run-all-cells'); }")

    def attach(self):
        self.page.wait_for_function("() => window.jupyterapp", timeout=60_000, polling=EVERY)
        self.page.evaluate(ATTACH)

    def reload(self):
        "Save, and load the page again; the kernel lives on"
        self.save()
        self.page.reload(wait_until="domcontentloaded")
        self.attach()

    def save(self): self.page.evaluate("async () => { await jupyterapp.commands.execute('docmanager:save'); }")

    def look_at(self, address: str):
        if not address.startswith((self.url, self.url.replace("http", "ws"), "data:", "blob:")): self.outside.append(address)

    def ran(self, timeout: float = 300) -> "Notebook":
        "Wait until all cells ran; an AssertionError shows the first that did not, or failed"
        self.page.wait_for_function("() => sscqTest.done", timeout=timeout * 1000, polling=EVERY)
        cells = self.page.evaluate(CELLS)
        failed = [plain(e) for c in cells for e in c["errors"]]
        assert not failed, f"{self.path}: a cell failed\n{failed[0]}"
        left = [c["source"] for c in cells if not c["count"] or "*" in c["prompt"]]
        assert cells and not left, f"{self.path}: {len(left)} of {len(cells)} cells did not run, the first is\n{left[:1]}"
        return self

    def explorers(self) -> list:
        "Names of the explorers, in their order on the page"
        return self.page.evaluate("""() => [...document.querySelectorAll('.sscq-explorer')].map(
            e => [...e.classList].find(c => c.startsWith('sscq-') && c !== 'sscq-explorer').slice(5))""")

    def explorer(self, name: str, nth: int = 0) -> "Explorer": return Explorer(self, name, nth)

    def raised(self) -> list: return [plain(e) for e in self.page.evaluate("() => sscqTest.raised.splice(0)")]

    def assert_clean(self):
        "Nothing raised, nothing in the console, nothing asked of another machine"
        raised, problems, outside = self.raised(), self.problems[:], self.outside[:]
        self.problems.clear(); self.outside.clear()
        assert not raised, f"{self.path}: raised in the kernel\n" + "\n".join(raised)
        assert not problems, f"{self.path}: errors of the page\n" + "\n".join(problems)
        assert not outside, f"{self.path}: requests to elsewhere\n" + "\n".join(outside)
        doors = self.page.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title ?? 'plotly').filter(t => /share|plotly/i.test(t))")
        assert not doors, f"{self.path}: buttons that lead to a company\n{doors}"

    def interrupt_kernel(self): self.page.evaluate("async () => { await sscqTest.panel.sessionContext.session.kernel.interrupt(); }")
    def restart_kernel(self): self.page.evaluate("async () => { await sscqTest.panel.sessionContext.session.kernel.restart(); }")

    def run_last_cell(self, timeout: float = 120):
        self.page.evaluate("() => { const c = sscqTest.panel.content; c.activeCellIndex = c.widgets.length - 1; sscqTest.run('notebook:run-cell'); }")
        self.page.wait_for_function("() => sscqTest.done", timeout=timeout * 1000, polling=EVERY)

    def close(self):
        "End the kernel, close the page"
        try: self.page.evaluate("async () => { await window.sscqTest?.panel.sessionContext.shutdown(); }")
        finally: self.context.close()


# As by Open With, Notebook (no kernel)
OPEN = """async path => {
  await jupyterapp.restored;
  const kernelPreference = { shouldStart: false, shouldReuse: false, canStart: false, autoStartDefault: false };
  await (await jupyterapp.commands.execute('docmanager:open', { path, factory: 'Notebook', kernelPreference })).context.ready;
}"""


@contextmanager
def without_kernel(browser, url: str, token: str, path: str):
    "A page in which JupyterLab shows a notebook and starts nothing for it, and in which nothing may go wrong"
    context = browser.new_context(viewport=dict(width=1280, height=1100))
    page, problems = context.new_page(), []
    # JupyterLab's own manager of widgets falls over where there is no session
    page.on("pageerror", lambda e: problems.append(str(e)) if "jupyterlab-manager" not in (e.stack or "") else None)
    page.on("request", lambda r: problems.append(f"asked for {r.url}") if r.method == "POST" and re.search(r"/api/(kernels|sessions)", r.url) else None)
    try:
        page.goto(f"{url}/lab/workspaces/reader?token={token}&reset", wait_until="domcontentloaded")
        page.wait_for_function("() => window.jupyterapp", timeout=60_000, polling=EVERY)
        page.evaluate(OPEN, path)
        yield page
        assert not problems, problems
    finally: context.close()


# What a control is, is read from its classes; its value, from what the reader sees beside it.
KINDS = {"widget-slider": "slider", "widget-dropdown": "list", "widget-select": "list", "widget-toggle-buttons": "buttons", "widget-radio-buttons": "radio",
         "widget-checkbox": "box", "widget-toggle-button": "toggle", "widget-upload": "upload", "widget-button": "button", "widget-text": "text"}
SEEN = {"slider": "e => e.querySelector('.widget-readout').textContent", "box": "e => String(e.querySelector('input').checked)",
        "list": "e => [...e.querySelector('select').selectedOptions].map(o => o.textContent).join(', ')",
        "buttons": "e => e.querySelector('.mod-active')?.textContent ?? ''", "text": "e => e.querySelector('input').value",
        "radio": "e => e.querySelector('input:checked')?.closest('label').textContent.trim() ?? ''",
        "toggle": "e => String(e.classList.contains('mod-active'))", "button": "e => e.textContent", "upload": "e => e.textContent"}
FOCUS = {"slider": ".noUi-handle", "box": "input", "list": "select", "text": "input", "radio": "input:checked"}


# A kernel that is busy hears of a slider's last move after a click that followed it, as moves wait for an answer to the one before, and clicks do not.
# Of two rounds the first ends when the kernel has answered all moves that were sent, the second when it has the last.
HEARD = """async () => { for (let i = 0; i < 2; i++) await sscqTest.panel.sessionContext.session.kernel.requestKernelInfo(); }"""


class Control:
    "One control of an explorer, moved from the keyboard"
    def __init__(self, explorer: "Explorer", name: str):
        self.name, self.page, self.at = name, explorer.page, explorer.at.locator(f".sscq-control-{name}").first
        self.at.wait_for(state="attached", timeout=10_000)
        classes = (self.at.get_attribute("class") or "").split()
        self.kind = next((kind for mark, kind in KINDS.items() if mark in classes), None)
        assert self.kind, f"control {name} is of no known kind: {classes}"

    def seen(self) -> str: return " ".join(self.at.evaluate(SEEN[self.kind]).split())  # also what is between words may not break

    def position(self) -> float: return float(self.at.locator(".noUi-handle").get_attribute("aria-valuenow"))  # of a log slider: the exponent

    def label(self) -> str:
        "What a screen reader says it is"
        return self.at.evaluate("e => (e.querySelector('.widget-label') ?? e).textContent.trim() || e.getAttribute('aria-label') || ''")

    def enabled(self) -> bool: return self.at.evaluate("e => !(e.disabled || e.querySelector(':disabled, [disabled]'))")

    def press(self, *keys: str) -> str:
        "Focus it, press keys, and say what it shows now"
        part = FOCUS.get(self.kind)
        if self.kind == "buttons": target = self.at.locator(".mod-active, button").first
        else: target = self.at.locator(part).first if part else self.at
        target.focus()
        for key in keys: self.page.keyboard.press(key)
        return self.seen()

    def move(self) -> str:
        "To another value: any, but not the one it has"
        before = self.seen()
        if self.kind in ("list", "buttons", "radio"):
            options = self.options()
            self.choose(options[(options.index(before) + 1) % len(options)])
        elif self.kind == "text": self.type(str(int(before) + 1))
        else:
            for key in ("ArrowRight", "ArrowLeft") if self.kind == "slider" else ("Space", ):
                if self.press(key) != before: break
        assert self.seen() != before, f"control {self.name} ({self.kind}) stays at {before!r}"
        return self.seen()

    def options(self) -> list:
        part = {"buttons": "button", "radio": "label:not(.widget-label)", "list": "option"}[self.kind]
        return [" ".join(t.split()) for t in self.at.locator(part).all_text_contents()]

    def choose(self, text: str):
        "Pick one of its options, with keys alone"
        options = self.options()
        at, here = options.index(text), options.index(self.seen())
        steps = ["ArrowDown" if at > here else "ArrowUp"] * abs(at - here)
        if self.kind == "buttons":
            self.at.locator("button").nth(at).focus()
            self.page.keyboard.press("Enter")
        elif self.kind == "list": self.press("Space", *steps, "Enter")  # its list must be open: arrows alone are JupyterLab's, to the next cell
        else: self.press(*steps)
        assert self.seen() == text, f"control {self.name} shows {self.seen()!r}, not {text!r}"

    def slide_to(self, text: str, limit: int = 200):
        "From the low end upwards until it shows `text`"
        self.press("Home")
        for _ in range(limit):
            if self.seen() == text: return self.page.evaluate(HEARD)
            before = self.press()
            if self.press("ArrowRight") == before: break
        raise AssertionError(f"control {self.name} never shows {text!r}, at its upper end it shows {self.seen()!r}")

    def type(self, text: str):
        self.press("Control+a")
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")

    def upload(self, name: str, data: bytes, mime: str = "image/png"):
        with self.page.expect_file_chooser() as chooser: self.press("Enter")
        chooser.value.set_files(dict(name=name, mimeType=mime, buffer=data))


def close(a: str, b: str) -> bool:
    "The same text, whose measures (with a point or a percent sign; counts have neither) may differ by one in their last digit"
    number = r"-?\d+(?:\.\d+)?(?:e-?\d+)?%?"
    if re.sub(number, "#", a) != re.sub(number, "#", b): return False
    for x, y in zip(re.findall(number, a), re.findall(number, b)):
        digits = len(x.strip("%").split("e")[0].partition(".")[2])
        measure = digits or x.endswith("%")
        if x != y and (not measure or abs(float(x.strip("%")) - float(y.strip("%"))) > 1.01 * 10 ** -digits): return False
    return True


def drawn(text: str) -> str: return html.unescape(re.sub(r"<[^>]+>", "", text)).strip()  # as the SVG has it


def alike(a: str, b: str) -> bool:
    "The same picture, whose pixels may differ by a little"
    if a == b: return True
    x, y = (np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))).astype(int) for uri in (a, b))
    return x.shape == y.shape and abs(x - y).max() <= 4


def numbers(values) -> np.ndarray: return np.array([np.nan if v is None else v for v in values], float)


SHOWN = """g => ({
    traces: (g._fullData ?? []).map(t => ({name: t.name, x: t.x && Array.from(t.x), y: t.y && Array.from(t.y), value: t.value})),
    texts: [...g.querySelectorAll('.main-svg .annotation-text')].map(t => t.textContent.trim()),
    images: [...g.querySelectorAll('.main-svg image')].map(i => i.getAttribute('href') ?? i.getAttribute('xlink:href')),
    shapes: g.querySelectorAll('.main-svg .shapelayer path').length })"""


class Figure:
    "A plotly figure in the page: its numbers, its marks in the SVG, clicks on them"
    def __init__(self, explorer: "Explorer", nth: int):
        self.page, self.at, self.nth = explorer.page, explorer.at.locator(".sscq-figures .js-plotly-plot").nth(nth), nth

    def shown(self) -> dict:
        "Traces as plotly holds them; texts and pictures as they are in the SVG"
        return self.at.evaluate(SHOWN)

    def differs(self, wanted, atol: float = 1e-3) -> str:
        "What the page shows otherwise than this figure of a plain function; empty when nothing"
        shown, w = self.shown(), wanted.to_dict()
        traces = [t for t in shown["traces"]]
        if len(traces) != len(wanted.data): return f"{len(traces)} traces instead of {len(wanted.data)}"
        for i, (mine, other) in enumerate(zip(traces, wanted.data)):
            if other.name is not None and mine["name"] != other.name: return f"trace {i} is called {mine['name']!r}, not {other.name!r}"
            for axis in ("x", "y", "value"):
                want = getattr(other, axis, None) if axis in other else None
                if want is None: continue
                have = [mine[axis]] if axis == "value" else mine[axis]
                want = [want] if axis == "value" else list(want)
                if have is None or len(have) != len(want): return f"{axis} of trace {i} has {have and len(have)} values, not {len(want)}"
                if not np.allclose(numbers(have), numbers(want), rtol=1e-3, atol=atol, equal_nan=True):
                    return f"{axis} of trace {i} is {have[:8]}, not {list(want)[:8]}"
        texts = [drawn(a.get("text") or "") for a in w["layout"].get("annotations", ())]
        if len(texts) != len(shown["texts"]) or not all(map(close, shown["texts"], texts)): return f"the texts are {shown['texts']}, not {texts}"
        pictures = [i["source"] for i in w["layout"].get("images", ())]
        if len(shown["images"]) != len(pictures): return f"{len(shown['images'])} pictures instead of {len(pictures)}"
        if others := sum(not alike(a, b) for a, b in zip(shown["images"], pictures)): return f"{others} of {len(pictures)} pictures are others"
        shapes = len(w["layout"].get("shapes", ()))
        return "" if shown["shapes"] == shapes else f"{shown['shapes']} shapes instead of {shapes}"

    def marks(self, selector: str = ".point") -> int: return self.at.locator(f".main-svg {selector}").count()

    def click(self, x: float, y: float):
        "With the mouse, at a place in the figure's own coordinates"
        self.at.scroll_into_view_if_needed()
        box = self.at.bounding_box()
        x, y = self.at.evaluate("""(g, [x, y]) => { const l = g._fullLayout;
            return [l.xaxis._offset + l.xaxis.d2p(x), l.yaxis._offset + l.yaxis.d2p(y)]; }""", [x, y])
        self.page.mouse.move(box["x"] + x - 4, box["y"] + y - 4)
        self.page.mouse.move(box["x"] + x, box["y"] + y, steps=3)  # plotly finds the mark on a move, and then the click
        self.page.wait_for_timeout(100)  # its hover waits this long between looks
        self.page.mouse.click(box["x"] + x, box["y"] + y)


class Explorer:
    "One explorer on the page: controls, figures, the line of numbers, the message"
    def __init__(self, notebook: Notebook, name: str, nth: int):
        self.notebook, self.page, self.name = notebook, notebook.page, name
        self.at = self.page.locator(f".sscq-explorer.sscq-{name}").nth(nth)
        self.at.wait_for(state="attached", timeout=60_000)
        self.at.scroll_into_view_if_needed()

    def control(self, name: str) -> Control: return Control(self, name)
    def figure(self, nth: int = 0) -> Figure: return Figure(self, nth)
    def controls(self) -> list:
        "Names of the controls, in their order on the page"
        return self.at.evaluate("""e => [...e.querySelectorAll('[class*="sscq-control-"]')].map(
            c => [...c.classList].find(n => n.startsWith('sscq-control-')).slice(13))""")

    def readout(self) -> str: return " ".join(self.at.locator(".sscq-readout").first.text_content().split())
    def message(self) -> str: return " ".join(" ".join(self.at.locator(".sscq-message").all_text_contents()).split())

    def shows(self) -> str:
        "The readout, and what all figures show; one text, since it is asked for again and again"
        return self.at.evaluate(f"""e => JSON.stringify([e.querySelector('.sscq-readout').textContent.replace(/\\s+/g, ' ').trim(),
            [...e.querySelectorAll('.sscq-figures .js-plotly-plot')].map({SHOWN})])""")

    def number(self, name: str) -> float:
        "The number after `name` in the readout"
        found = re.search(rf"{re.escape(name)}\s*[:=]?\s*(-?[\d,]*\.?\d+(?:e-?\d+)?)", self.readout())
        assert found, f"the readout of {self.name} has no number after {name!r}: {self.readout()!r}"
        return float(found[1].replace(",", ""))

    def wait(self, holds, what, timeout: float = 30):
        "Poll until `holds()`; an AssertionError says what was expected (a text, or a function that gives one) and what is there"
        end = time.monotonic() + timeout
        while not holds():
            assert time.monotonic() < end, f"{self.name}: {what() if callable(what) else what}; readout {self.readout()!r}, message {self.message()!r}"
            self.page.wait_for_timeout(50)

    def wait_readout(self, text: str, timeout: float = 30):
        "Until the line of numbers holds `text`"
        self.wait(lambda: text in self.readout(), f"the readout never held {text!r}", timeout)

    def wait_message(self, pattern: str, timeout: float = 30) -> str:
        self.wait(lambda: re.search(pattern, self.message(), re.I), f"no message like {pattern!r}", timeout)
        return self.message()

    def wait_figures(self, *wanted, atol: float = 1e-3, timeout: float = 30):
        "Until every figure, in the order of the page, shows what these of the plain functions show"
        assert self.at.locator(".sscq-figures .js-plotly-plot").count() == len(wanted)
        found = []
        def right():
            found[:] = [(i, d) for i, w in enumerate(wanted) if (d := self.figure(i).differs(w, atol))]
            return not found
        try: self.wait(right, "figures", timeout)
        except AssertionError as error: raise AssertionError("; ".join(f"figure {i}: {d}" for i, d in found) + f"; {error}") from None

    def screenshot(self, path): self.at.screenshot(path=str(path))


def labelled(explorer):
    "Every control can be reached with the keyboard and says what it is"
    controls = {name: explorer.control(name) for name in explorer.controls()}
    for name, control in controls.items():
        assert control.label(), f"{name} has no label"
        assert control.enabled(), f"{name} is switched off"
    return controls
