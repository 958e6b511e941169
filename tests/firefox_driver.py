"Firefox, driven over WebDriver BiDi, which it speaks by itself: playwright asks it for more than the one of Debian has."
import json
import queue
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

# Nothing is asked of anybody, and nothing but a page is opened
OFF = ("app.update.enabled", "app.normandy.enabled", "browser.shell.checkDefaultBrowser", "datareporting.policy.dataSubmissionEnabled",
       "toolkit.telemetry.enabled", "extensions.update.enabled", "browser.safebrowsing.malware.enabled", "browser.safebrowsing.phishing.enabled",
       "browser.newtabpage.enabled", "network.captive-portal-service.enabled", "network.connectivity-service.enabled",
       "dom.ipc.processPrelaunch.enabled")
PREFS = dict.fromkeys(OFF, False) | {"browser.startup.page": 0, "services.settings.server": "data:,", "dom.w3c_touch_events.enabled": 1}
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " ", "ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015"}


def firefox() -> str | None: return next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)


class Firefox:
    "One window. What the page logs as an error or a warning, what it throws and what it asks for is kept in `log` and `asked`"
    def __init__(self, socket):
        self.socket, self.n, self.log, self.asked = socket, 0, [], []
        self.send("session.new", capabilities={})
        self.send("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
        self.page = self.send("browsingContext.create", type="tab")["context"]  # a new one has the focus; in the first, keys click nothing

    def send(self, method: str, **params) -> dict:
        self.n += 1
        self.socket.send(json.dumps(dict(id=self.n, method=method, params=params)))
        while True:
            said = json.loads(self.socket.recv())
            if said.get("method") == "log.entryAdded":
                entry = said["params"]
                if entry["level"] in ("error", "warn"): self.log.append(entry["text"])
            elif said.get("method") == "network.beforeRequestSent": self.asked.append(said["params"]["request"]["url"])
            if said.get("id") != self.n: continue
            if said["type"] == "error": raise RuntimeError(f"{method}: {said['message']}")
            return said["result"]

    def open(self, url: str, wide: int = 1280, high: int = 900):
        self.send("browsingContext.setViewport", context=self.page, viewport=dict(width=wide, height=high))
        self.send("browsingContext.navigate", context=self.page, url=url, wait="complete")

    def eval(self, function: str, *args):
        "What a function of JavaScript gives, or what it promises"
        called = f"(async () => JSON.stringify(await ({function})(...{json.dumps(args)})))()"
        found = self.send("script.evaluate", expression=called, target=dict(context=self.page), awaitPromise=True, userActivation=True)
        if found["type"] == "exception": raise RuntimeError(found["exceptionDetails"]["text"])
        return json.loads(found["result"].get("value", "null"))

    def act(self, kind: str, actions: list, **more):
        source = dict(type=kind, id="-".join([kind, *more.get("parameters", {}).values()]), actions=actions, **more)
        self.send("input.performActions", context=self.page, actions=[source])

    def press(self, *keys: str):
        self.act("key", [dict(type=way, value=KEYS.get(key, key)) for key in keys for way in ("keyDown", "keyUp")])

    def drag(self, points: list, pointer: str = "mouse", release: bool = True):
        "Press at the first point, go through the others"
        first, *rest = [dict(type="pointerMove", x=round(x), y=round(y), duration=20) for x, y in points]
        steps = [first, dict(type="pointerDown", button=0), *rest, *[dict(type="pointerUp", button=0)] * release]
        self.act("pointer", steps, parameters=dict(pointerType=pointer))


@contextmanager
def opened(folder: Path, timeout: float = 60):
    "A Firefox without a window, with a profile of its own in `folder`"
    from websocket import create_connection
    folder.mkdir()
    (folder / "user.js").write_text("".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFS.items()))
    started = subprocess.Popen([firefox(), "--headless", "--no-remote", "--profile", folder, "--remote-debugging-port", "0", "about:blank"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines: queue.Queue = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in started.stderr], daemon=True).start()  # also so that it never waits for a reader
    try:
        while not (found := re.search(r"BiDi listening on (ws://\S+)", lines.get(timeout=timeout))): pass
        socket = create_connection(f"{found[1]}/session", timeout=timeout, suppress_origin=True)
        try: yield Firefox(socket)
        finally: socket.close()
    finally:
        started.terminate()
        try: started.wait(20)
        except subprocess.TimeoutExpired: started.kill()
        started.wait()
        started.stderr.close()
