"""The explorables in Firefox, from files: they open, keyboard, mouse and finger move them, and their numbers are those of the library.

Where there is no Firefox, which CI does not install, these tests are skipped (Debian: apt install firefox-esr)."""
import re

import pytest
import torch
from firefox_driver import firefox, opened

from sscq.component import EXPLORABLES, Explorable, page_model
from sscq.data import digits
from sscq.search import adc, distance_table

pytestmark = pytest.mark.browser
DRAGGED = {"draw": ".pen", "codebook": "[aria-roledescription='point to drag']", "contrast": ".drag", "neighbors": ".drag"}
ROOT = "document.getElementById('explorable').shadowRoot"
SHOWS = f"""() => [...{ROOT}.querySelectorAll('.said, output, .drag, .pen, [aria-pressed=true]')].map(
  o => `${{o.getAttribute('aria-label') ?? o.textContent}} ${{o.getAttribute('transform') ?? ''}}`).join('; ')"""
UNTIL = """async (...args) => {
  for (let i = 0; i < 600; i++) {
    const found = (HOLDS)(...args);
    if (found) return found;
    await new Promise(r => setTimeout(r, 25));
  }
  return null;
}"""
PLACE = f"""(selector) => {{
  const e = {ROOT}.querySelector(selector);
  e.scrollIntoView({{block: 'center'}});
  const b = e.getBoundingClientRect();
  return [b.x + b.width / 2, b.y + b.height / 2, scrollY];
}}"""


class Page:
    "An explorable in Firefox; `stop` says what went wrong in it"
    def __init__(self, window, path, name: str):
        self.window, self.path = window, path
        window.log.clear()
        window.asked.clear()
        window.open(path.as_uri())
        self.until("() => document.getElementById('explorable').dataset.drawn > 0", f"{name} is not drawn")

    def until(self, holds: str, what: str, *args):
        found = self.window.eval(UNTIL.replace("HOLDS", holds), *args)
        assert found, f"{what}; it says {self.said()!r}, the console {self.window.log}"
        return found

    def said(self) -> str: return self.window.eval(f"() => {ROOT}.querySelector('.said').textContent")

    def changes(self, what: str, act):
        before = self.window.eval(SHOWS)
        act()
        self.until(f"(before) => ({SHOWS})() !== before", f"{what} changes nothing", before)

    def clean(self):
        self.window.eval("() => new Promise(r => setTimeout(r, 50))")  # what it still has to say comes before the answer
        assert not self.window.log
        assert not [url for url in self.window.asked if url != self.path.as_uri() and not url.startswith(("data:", "blob:"))]


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    if not firefox(): pytest.skip("no Firefox: install it (Debian: apt install firefox-esr) to test pages in it")
    with opened(tmp_path_factory.mktemp("firefox") / "profile") as found: yield found


@pytest.fixture
def page(window, tmp_path):
    pages = []
    def show(name):
        pages.append(Page(window, Explorable(name).save(tmp_path / f"{name}.html"), name))
        return pages[-1]
    yield show
    for one in pages: one.clean()


@pytest.mark.parametrize("name", EXPLORABLES)
def test_it_opens_and_keys_mouse_and_finger_move_it(page, name):
    shown = page(name)
    here = f"() => {ROOT}.activeElement?.matches('input[type=range], .drag, .answers button[aria-pressed=false]')"
    for _ in range(60):
        shown.window.press("Tab")
        if shown.window.eval(here): break
    else: raise AssertionError("Tab reaches nothing that moves")
    kind, low = shown.window.eval(f"() => {{ const e = {ROOT}.activeElement; return [e.localName, e.value === e.min]; }}")
    shown.changes("a key", lambda: shown.window.press("Enter" if kind == "button" else "ArrowRight" if kind == "g" or low else "ArrowLeft"))
    for pointer in ("mouse", "touch"):
        def drag(pointer=pointer):
            x, y, _ = shown.window.eval(PLACE, DRAGGED[name])
            shown.window.drag([(x, y), (x + 30, y - 20), (x + 50, y + 10)], pointer)
        def tap(pointer=pointer):
            x, y, _ = shown.window.eval(PLACE, ".tries button" if pointer == "mouse" else ".tries button:nth-of-type(2)")
            shown.window.drag([(x, y)], pointer)
        shown.changes(f"a {pointer} drag" if name in DRAGGED else f"a {pointer} tap", drag if name in DRAGGED else tap)


def test_a_drawing_is_followed_while_the_finger_is_down_and_the_page_stays(page):
    shown = page("draw")
    x, y, before = shown.window.eval(PLACE, ".pen")
    shown.window.drag([(x, y - 80), (x, y), (x, y + 80)], "touch", release=False)
    shown.until(f"() => {ROOT}.querySelector('.said').textContent.includes('are a 1')", "a line is no 1")
    assert shown.window.eval("() => scrollY") == before, "the page went away under the finger"
    shown.window.send("input.releaseActions", context=shown.window.page)


def test_codes_and_answers_of_test_digits_are_those_of_the_library(page):
    data, model, asked = digits(), page_model(), range(0, 300, 12)
    f, codes, books = model.embed(data.query.images), model.encode(data.database.images), model.codebooks.detach()
    sums, mine = adc(distance_table(f, books), codes), model.encode(data.query.images)
    shown = page("draw")
    for i in asked:
        counts = "".join("0123456789abcdefg"[v] for v in (data.query.images[i].flatten().float() * (16 / 255)).round().int().tolist())
        link = f"draw:query={i}&counts=%22{counts}%22&strokes=[]"
        words = ", ".join(map(str, mine[i, :3].tolist())) + f" and {mine[i, 3]}:"
        shown.window.eval("(link) => { location.hash = link; }", link)
        labels = shown.until(f"""(label, words) => {ROOT}.querySelector('.said').textContent.includes(`a test digit, ${{label}}`)
          && {ROOT}.querySelector('.said').textContent.includes(`The nearest words of f are ${{words}}`)
          && [...{ROOT}.querySelectorAll('ul.answers')][0].textContent""", f"query {i} has not the code {words}",
            f"{'an' if data.query.labels[i] == 8 else 'a'} {data.query.labels[i]}", words)
        near = sums[i].topk(10, largest=False).values
        assert [float(v) for v in re.findall(r"\d · (\d+\.\d\d)", labels)] == pytest.approx(torch.sort(near).values.tolist(), abs=.011)
