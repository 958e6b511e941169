"The explorables in a browser, from a file, without a kernel: what moves, what is said, what a keyboard reaches, what does not fit."
import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sscq.component import EXPLORABLES, Explorable, page_model
from sscq.data import digits
from sscq.search import adc, distance_table

explorables = pytest.mark.parametrize("name", EXPLORABLES)
pytestmark = pytest.mark.browser
# What is asked of a page: names and roles of everything that can be used, one heading, nothing wider than the window
AUDIT = """() => {
  const root = document.getElementById('explorable').shadowRoot, wrong = [];
  const inside = (e) => e.matches('input, select') ? '' : e.textContent.trim();
  const named = (e) => e.getAttribute('aria-label') || [...(e.labels ?? [])].map(l => l.textContent).join('') || inside(e);
  const blame = (what, e) => wrong.push(`${what}: ${e.outerHTML.slice(0, 90)}`);
  for (const e of root.querySelectorAll('button, a, input, select, [tabindex], [role=img], [role=region]')) if (!named(e)) blame('no name', e);
  for (const e of root.querySelectorAll('svg, canvas')) if (!e.getAttribute('role') && !e.closest('[aria-hidden=true]')) blame('no role', e);
  for (const e of root.querySelectorAll('input[type=range]')) {
    const said = e.getAttribute('aria-valuetext');
    if (!said || said !== e.parentElement.querySelector('output').textContent) blame('says another value', e);
  }
  const ids = [...root.querySelectorAll('[id]')].map(e => e.id);
  if (new Set(ids).size !== ids.length) wrong.push('one id twice');
  if (root.querySelectorAll('h1').length !== 1) wrong.push('not one h1');
  if (root.querySelectorAll('[role=status]').length !== 1) wrong.push('not one status');
  return wrong;
}"""
CUT = """() => {
  const root = document.getElementById('explorable').shadowRoot, wide = document.documentElement.clientWidth;
  const seen = (e) => e.getClientRects().length && !e.closest('.scroll, details:not([open]), .hidden');
  const cut = [...root.querySelectorAll('h1, p, svg, canvas, button, table, input, select')].filter(e => seen(e) && e.getBoundingClientRect().right > wide + 1);
  return [document.documentElement.scrollWidth <= wide, cut.map(e => e.outerHTML.slice(0, 90))];
}"""
CONTRAST = """() => {
  const root = document.getElementById('explorable').shadowRoot;
  const linear = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (e) => {
    for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c; }
    return 'rgb(255, 255, 255)';
  };
  const texts = [...root.querySelectorAll('h1, h2, h3, p, button, label, output, td, th, summary, a, span')];
  return texts.filter(e => e.textContent.trim() && e.getClientRects().length).map(e => {
    const [x, y] = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a);
    return [(x + .05) / (y + .05), e.outerHTML.slice(0, 80)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explorables")
    return {name: Explorable(name).save(folder / f"{name}.html") for name in EXPLORABLES}


@pytest.fixture(scope="module")
def window(browser):
    "One for most tests: a new one costs three times what a page in it does"
    context = browser.new_context(viewport=dict(width=1280, height=900), offline=True)
    yield context.new_page()
    context.close()


@pytest.fixture
def show(browser, saved, window):
    "Opens an explorable as a file; at the end nothing has gone wrong in it and nothing was asked of anybody"
    opened, used, problems = [], [], []
    def open_page(name, hash="", color_scheme="light", **settings):
        if settings or used:  # windows of other makes, and second ones
            context = browser.new_context(**dict(viewport=dict(width=1280, height=900), offline=True, color_scheme=color_scheme) | settings)
            page = context.new_page()
            opened.append(context)
        else:  # as new: another address in between, so that it is loaded whatever stands behind the #
            page = window
            page.goto("about:blank")
            page.set_viewport_size(dict(width=1280, height=900))
            page.emulate_media(color_scheme=color_scheme)
            page.mouse.move(0, 0)
        def look(url): url.split("#")[0] == saved[name].as_uri() or url.startswith(("data:", "blob:")) or problems.append(f"request to {url}")
        for event, hear in dict(pageerror=lambda e: problems.append(str(e)), request=lambda r: look(r.url),
                                console=lambda m: m.type in ("error", "warning") and problems.append(m.text)).items():
            page.on(event, hear)
            used.append((page, event, hear))
        page.goto(saved[name].as_uri() + hash)
        if settings.get("java_script_enabled", True): page.wait_for_function("() => document.getElementById('explorable').dataset.drawn > 0")
        def said(): return page.locator(".said").text_content()
        return SimpleNamespace(page=page, said=said, wait=lambda text: page.wait_for_function(
            "(text) => document.getElementById('explorable').shadowRoot.querySelector('.said').textContent.includes(text)", arg=text, timeout=20_000))
    yield open_page
    for page, event, hear in used: page.remove_listener(event, hear)
    for context in opened: context.close()
    assert not problems


def changed(shown, act) -> str:
    "The sentence after an action that has to change it"
    before = shown.said()
    act()
    other = "(text) => document.getElementById('explorable').shadowRoot.querySelector('.said').textContent !== text"
    shown.page.wait_for_function(other, arg=before, timeout=20_000)
    return shown.said()


@explorables
def test_everything_has_a_name_and_a_role(show, name): assert not show(name).page.evaluate(AUDIT)


@explorables
def test_axe_finds_nothing_wrong(show, axe, name):
    page = show(name).page
    assert not axe(page)
    page.emulate_media(color_scheme="dark")
    assert not axe(page, "color-contrast")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 22)"  # below the card too


@explorables
def test_a_legend_gives_each_colour_one_meaning(show, name):
    page = show(name).page
    marks = page.locator("ul.legend i").evaluate_all("all => all.map(i => i.className + ' ' + i.getAttribute('style'))")
    assert len(marks) == len(set(marks)) >= 2 and page.locator("p.terms").count() == 1


@explorables
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_can_be_read(show, name, scheme):
    page = show(name, color_scheme=scheme).page
    assert not page.evaluate(CONTRAST)
    back = page.evaluate("getComputedStyle(document.getElementById('explorable').shadowRoot.querySelector('.sscq')).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(19, 20, 22)"}[scheme]


@explorables
def test_nothing_is_cut_off(show, name):
    page = show(name).page
    for width in (390, 640, 800, 1280):  # 640 is 1280 at a zoom of 200 %
        page.set_viewport_size(dict(width=width, height=900))
        fits, cut = page.evaluate(CUT)
        assert fits and not cut, f"{width} pixels: {cut}"


@explorables
def test_three_things_to_try_and_a_way_back(show, name):
    shown = show(name)
    first, tries = shown.said(), shown.page.get_by_role("group", name="Try this").get_by_role("button")
    assert tries.count() == 4 and tries.last.text_content() == "Reset"
    for i in range(3):
        assert changed(shown, tries.nth(i).click) != first
        tries.last.click()  # while steps are still being drawn, too
        shown.page.wait_for_function("(text) => document.getElementById('explorable').shadowRoot.querySelector('.said').textContent === text", arg=first)
        shown.page.wait_for_timeout(100)
        assert shown.said() == first  # and it stays


@explorables
def test_a_link_brings_the_state_back(show, name):
    shown = show(name)
    said = changed(shown, shown.page.get_by_role("group", name="Try this").get_by_role("button").first.click)
    link = shown.page.get_by_role("link", name="Link to this state").get_attribute("href")
    assert link.startswith(f"#{name}:")
    again = show(name, link)
    assert again.said().split(". ")[-1] == said.split(". ")[-1] and "Not all" not in again.said()


STALE = dict(unknown="nonsense=1", broken="step=[[&tau=[[", bytes="%E0%A4%A",
             outside="query=1e9&tau=99&K=3&strokes=[[[5,5]]]&words=[[[1]]]&f=%22f%22&step=1e9")


@explorables
def test_a_stale_link_is_a_sentence_and_a_picture(show, name):
    shown = show(name)
    for kind, state in STALE.items():
        shown.page.evaluate("hash => { location.hash = hash; }", f"{name}:{state}")
        shown.wait("Not all of this link fits: ")
        assert "cannot be drawn" not in shown.said(), kind
    assert not shown.page.evaluate(AUDIT)


@explorables
def test_the_keyboard_reaches_and_moves_everything(show, name):
    "Tab through the whole of it: every control comes, and arrow keys change what has a value or can be dragged"
    shown = show(name, offline=True)  # a window of its own: where the focus goes after the last depends on where it has been
    page, seen = shown.page, []
    here = """() => { const e = document.getElementById('explorable').shadowRoot.activeElement;
      return e && (e.id || e.getAttribute('aria-label') || e.textContent); }"""
    for _ in range(120):
        page.keyboard.press("Tab")
        if (now := page.evaluate(here)) is None and seen: break
        if now: seen.append(now)
    wanted = page.evaluate("""() => {
      const all = [...document.getElementById('explorable').shadowRoot.querySelectorAll('button, a[href], input, select, [tabindex], summary')];
      return all.filter(e => e.getClientRects().length && !e.closest('details:not([open]) > :not(summary)')).length;
    }""")
    assert len(seen) == wanted
    for field in page.locator("input[type=range]").all():
        before = field.get_attribute("aria-valuetext")
        field.press("ArrowLeft" if field.input_value() != field.get_attribute("min") else "ArrowRight")
        page.wait_for_function("([e, text]) => e.getAttribute('aria-valuetext') !== text", arg=[field.element_handle(), before])


@explorables
def test_without_javascript_there_is_a_sentence(show, name):
    assert "needs JavaScript" in show(name, java_script_enabled=False).page.locator("body").text_content()


# ---- each one

def stroke(page, *points):
    box = page.locator(".pen").bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for x, y in at[1:]: page.mouse.move(x, y, steps=4)
    page.mouse.up()


def test_a_drawing_is_searched_for_while_the_pen_moves(show):
    shown = show("draw")
    page = shown.page
    assert changed(shown, page.get_by_role("button", name="Clear the paper").click).startswith("The paper is blank")
    box = page.locator(".pen").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 20)
    page.mouse.down()
    shown.wait("that is the code")  # before the pen is lifted
    page.mouse.move(box["x"] + 100, box["y"] + 180, steps=8)
    page.mouse.up()
    shown.wait("are a 1")
    assert page.locator("ul.answers").first.get_by_role("button").count() == 10
    assert changed(shown, page.get_by_role("button", name="Undo a stroke").click).startswith("The paper is blank")


def test_a_drawing_by_keyboard_alone(show):
    shown = show("draw")
    changed(shown, lambda: shown.page.get_by_role("button", name="Clear the paper").press("Enter"))
    shown.page.locator(".pen").focus()
    for key in (*["ArrowUp"] * 8, " ", *["ArrowDown"] * 16, " "): shown.page.keyboard.press(key)
    shown.wait("are a 1")


def test_a_scribble_is_not_trusted(show):
    shown = show("draw")
    def first_sum(): return float(shown.page.locator("ul.answers button").first.get_attribute("aria-label").rsplit(" ", 1)[1])
    three = first_sum()
    assert "nothing that the model knows" in changed(shown, shown.page.get_by_role("button", name="A scribble").click)
    assert first_sum() < three and "a small one is no sign of a good answer" in shown.page.locator(".picture").text_content()
    assert "looks like a digit it knows" in changed(shown, shown.page.get_by_role("button", name="Reset").click)


def test_mistakes_have_somebody_to_blame_and_borders_what_they_change(show):
    "Against the library: the mistakes, whether f makes them too, how unusual each is, and the answers beyond the nearest border"
    data, model = digits(), page_model()
    books, labels, asked = model.codebooks.detach(), data.database.known_labels, data.query.known_labels
    f, codes = model.embed(data.query.images), model.encode(data.database.images)
    table = distance_table(f, books)
    first, by_f = adc(table, codes).argsort(stable=True)[:, :10], torch.cdist(f, model.embed(data.database.images)).min(1).indices
    shown, blamed = show("draw"), []
    for i in (labels[first[:, 0]] != asked).nonzero().flatten().tolist():
        said = changed(shown, shown.page.get_by_role("button", name="A mistake of the model").click)
        blamed.append("network" if labels[by_f[i]] != asked[i] else "code")
        assert f"one of 5 such mistakes in 300, and the {blamed[-1]}'s, because f finds" in said
        assert "do not trust" not in said and re.search("unusual digit|by pixels nothing looks wrong", said)
        near = table[i].topk(2, largest=False)
        m = int((near.values[:, 1] - near.values[:, 0]).argmin())
        way = books[m, near.indices[m, 1]] - books[m, near.indices[m, 0]]
        moved = f[i].reshape(books.shape[0], -1).clone()
        moved[m] += way * ((near.values[m, 1] - near.values[m, 0]) / 2 / way.square().sum() * 1.001 + 1e-6)
        found = adc(distance_table(moved.reshape(1, -1), books), codes)[0].argsort(stable=True)[:10]
        stay = len(set(found.tolist()) & set(first[i].tolist()))
        some = [f"{n} of the ten answers by the code would stay" for n in "one two three four five six seven eight nine".split()]
        words = ("no answer by the code would stay", *some, "the ten answers by the code stay the same")
        assert words[stay] in shown.page.locator(".card .note").text_content()
    assert sorted(blamed) == ["code"] * 4 + ["network"]


def test_code_and_vector_can_be_compared_once_the_page_has_computed_them(show):
    shown = show("draw")
    compared = "() => document.getElementById('explorable').shadowRoot.textContent.includes('of the ten answers are the same')"
    shown.page.wait_for_function(compared, timeout=60_000)
    answers = shown.page.locator("ul.answers").first
    before = answers.text_content()
    shown.page.get_by_label("Answers by").select_option("the vector (64 numbers)")
    shown.page.wait_for_function("([e, text]) => e.textContent !== text", arg=[answers.element_handle(), before])
    distances = [float(b.get_attribute("aria-label").rsplit(" ", 1)[1]) for b in answers.get_by_role("button").all()]
    assert distances == sorted(distances) and len(set(distances)) > 5, "vectors hardly ever tie"


@pytest.mark.parametrize("name", ["draw", "search"])
def test_the_colours_of_a_table_of_distances_mean_what_is_said(show, name):
    "The strongest is the smallest number, which is written beside the first of the shades under it"
    page = show(name).page
    table = page.locator("svg[aria-label^='Table of']")
    shades = [float(v) for v in table.locator("rect[fill='var(--blue)']").evaluate_all("all => all.map(r => r.getAttribute('opacity'))")]
    cells, scale = shades[:-5], shades[-5:]
    assert len(cells) == 64 and scale == sorted(scale, reverse=True) and (max(cells), min(cells)) == (scale[0], scale[-1])
    near, far = re.search(r"from ([\d.]+\d), in the strongest colour, to ([\d.]+\d)", table.get_attribute("aria-label")).groups()
    assert table.locator("text").all_text_contents()[-2:] == [f"near, {near}", f"far, {far}"]
    assert "The stronger the blue, the smaller the distance" in page.locator(".picture").text_content()


def test_why_adds_up(show):
    page = show("draw").page
    rows = [[float(c) for c in row.locator("td").all_text_contents()] for row in page.locator("table.numbers tbody tr").all()]
    total = float(re.search(r"add up to ([\d.]+)\.", page.locator(".card .note").text_content())[1])
    assert sum(r[1] for r in rows) == pytest.approx(total, abs=.003)
    assert page.locator("ul.answers button").first.get_attribute("aria-label").endswith(f"{total:.2f}")


@pytest.mark.parametrize("content, said", [(b"no picture", "no picture this browser can read"), (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "no picture"),
                                           ("grey", "one shade only")], ids=["text", "broken", "grey"])
def test_an_upload_that_does_not_fit_leaves_the_drawing(show, content, said, tmp_path):
    from PIL import Image
    path = tmp_path / "a.png"
    if content == "grey": Image.new("L", (40, 30), 128).save(path)
    else: path.write_bytes(content)
    shown = show("draw")
    before = shown.said()
    shown.page.locator("input[type=file]").set_input_files(path)
    shown.wait(said)
    assert shown.said().endswith(before)


def test_an_upload_goes_the_way_of_a_drawing(show, tmp_path):
    "White on black or black on white, large and off the middle"
    from PIL import Image, ImageDraw
    shown = show("draw")
    for ink, paper in ((0, 255), (250, 5)):
        picture = Image.new("L", (900, 700), paper)
        ImageDraw.Draw(picture).line([(300, 100), (310, 600)], fill=ink, width=60)
        picture.save(tmp_path / "one.png")
        changed(shown, lambda: shown.page.locator("input[type=file]").set_input_files(tmp_path / "one.png"))
        shown.wait("are a 1")
        changed(shown, shown.page.get_by_role("button", name="Reset").click)


def test_f_and_words_follow_the_pointer(show):
    shown = show("codebook")
    page = shown.page
    for part, said in (("point to drag", r"in the cell of word \d"), ("word to drag", "")):
        handle = page.locator(f"[aria-roledescription='{part}']").first
        before, box = handle.get_attribute("transform"), handle.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] - 60, box["y"] + 30, steps=3)
        page.wait_for_function("([e, text]) => e.getAttribute('transform') !== text", arg=[handle.element_handle(), before])  # not yet released
        page.mouse.up()
        assert re.search(said, shown.said())
        label = handle.get_attribute("aria-label")
        handle.press("ArrowRight")
        page.wait_for_function("([e, text]) => e.getAttribute('aria-label') !== text", arg=[handle.element_handle(), label])


def test_k_means_never_loses_more(show):
    shown = show("codebook")
    losses = []
    for _ in range(4):
        said = changed(shown, shown.page.get_by_role("button", name="One step of k-means").click)
        losses += [float(v) for v in re.search(r"fell from ([\d.]+\d) to ([\d.]+\d)", said).groups()]
    assert losses == sorted(losses, reverse=True)
    assert "no word moves any more" in changed(shown, shown.page.get_by_role("button", name="Run k-means to its end").click)


def test_bits_of_every_codebook(show):
    shown = show("codebook")
    for M, K in ((1, 2), (1, 4), (1, 16), (2, 2), (2, 8), (2, 16)):
        shown.page.evaluate("hash => { location.hash = hash; }", f"codebook:K={K}&M={M}")
        shown.wait(f"with {M * (K.bit_length() - 1)} bits")
        assert shown.page.locator("[aria-roledescription='word to drag']").count() == M * K


def test_a_cold_choice_is_the_word(show):
    shown = show("codebook")
    changed(shown, shown.page.get_by_role("button", name="Cool until z is a word").click)
    rows = dict(zip(shown.page.locator("table.numbers th").all_text_contents(), shown.page.locator("table.numbers td").all_text_contents()))
    assert float(rows["z to the word, squared"]) < .0001


def test_cooling_changes_the_temperature_alone(show):
    shown = show("codebook")
    f = shown.page.locator("[aria-roledescription='point to drag']")
    def rows(): return dict(zip(*(shown.page.locator(f"table.numbers {cell}").all_text_contents() for cell in ("th", "td"))))
    warm = changed(shown, shown.page.get_by_role("button", name="Put f beside a border").click)
    share, beside, before = re.search(r"z takes (\d+) % from there", warm)[1], f.get_attribute("transform"), rows()
    cold = changed(shown, shown.page.get_by_role("button", name="Cool until z is a word").click)
    assert f"where z takes {share} % of the nearest word at τ = 0.05" in cold and f.get_attribute("transform") == beside
    assert rows()["squared loss of this f"] == before["squared loss of this f"] != before["f to z (not stored), squared"]
    after = changed(shown, shown.page.get_by_role("button", name="Run k-means to its end").click)
    assert "At τ = 0.05" in after and f.get_attribute("transform") != beside, "k-means begins where the page does"


def test_one_book_loses_less_and_says_what_two_save(show):
    shown = show("codebook")
    text = shown.page.locator(".picture").text_content()
    one, two = (float(v) for v in re.search(r"one book of 16 words loses ([\d.]+), and two books of 4 lose ([\d.]*\d)\.", text).groups())
    best = shown.page.get_by_label("Loss against bits").get_attribute("aria-label").split("; ")[1:]
    losses = [{int(b): float(v) for v, b in re.findall(r"([\d.]+) with (\d+)", part.replace("two books", ""))} for part in best]
    assert one < two and (one, two) == tuple(pytest.approx(row[4], rel=.04) for row in losses)


def test_a_query_has_its_answers_and_failures_are_named(show):
    shown = show("search")
    page = shown.page
    assert "A failure: the first answer" in changed(shown, page.get_by_role("button", name=re.compile(r"^Query: a \d fails$")).first.click)
    assert page.locator("ol.answers button.wrong").count() > 0
    sums = [float(t.rsplit(" ", 1)[1]) for t in [b.get_attribute("aria-label") for b in page.locator("ol.answers button").all()]]
    assert sums == sorted(sums)
    said = changed(shown, page.get_by_role("button", name="Only 4 bits").click)
    assert int(re.search(r"(\d+) pictures tie for the first place", said)[1]) > 20
    tied, right = map(int, re.search(r"(\d+) pictures tie for the first place, and (\d+) of them are a \d, so which comes first is chance", said).groups())
    assert 0 < right < tied and "of which the first is used" in page.locator(".picture").text_content()


def test_the_whole_vector_is_asked_where_the_code_fails(show):
    "Code or network: each failure says which, and the counts of all 300 queries are the library's"
    data, model = digits(), page_model()
    distances = adc(distance_table(model.embed(data.query.images), model.codebooks.detach()), model.encode(data.database.images))
    apart = torch.cdist(model.embed(data.query.images), model.embed(data.database.images))
    by_code, by_f = (data.database.known_labels[d.argsort(stable=True)[:, 0]] != data.query.known_labels for d in (distances, apart))
    shown = show("search")
    page = shown.page
    assert f"all that fail, {int(by_code.sum())} of 300" in page.locator(".picture").text_content()
    assert "Sums of different queries cannot be compared" in page.locator(".picture").text_content()
    for i in by_code.nonzero().flatten().tolist():
        said = changed(shown, page.get_by_role("button", name="A failure").click)
        assert ("so the network is to blame" if by_f[i] else "so the code is to blame") in said
        said = changed(shown, page.get_by_role("button", name="The whole vector instead").click)
        assert said.startswith("A failure") == bool(by_f[i]) and ("the network is to blame" if by_f[i] else "the code is to blame") in said
        assert f"{int(by_f.sum())} fail at the first answer by the whole vector, and {int(by_code.sum())} by the code" in said
    changed(shown, page.get_by_role("button", name="Reset").click)
    assert "so the code is to blame" in changed(shown, page.get_by_role("button", name="The whole vector instead").click)


def test_dots_of_wrong_answers_are_not_painted_over(show):
    "With 4 bits, where right and wrong answers tie, the column of the first place holds both colours"
    shown = show("search")
    changed(shown, shown.page.get_by_role("button", name="Only 4 bits").click)
    seen = shown.page.evaluate("""() => {
      const canvas = document.getElementById('explorable').shadowRoot.querySelector('canvas[aria-label^=All]');
      const style = getComputedStyle(canvas);
      const d = canvas.getContext('2d').getImageData(12, 0, 8, 190).data;
      const of = (name) => style.getPropertyValue(name).match(/\\w\\w/g).map(v => parseInt(v, 16));
      const like = (colour, i) => d[4 * i + 3] > 120 && colour.every((v, j) => Math.abs(v - d[4 * i + j]) < 4);
      const count = (colour) => [...Array(d.length / 4).keys()].filter(i => like(colour, i)).length;
      return [count(of('--blue')), count(of('--soft'))];
    }""")
    assert min(seen) > 100, seen


@pytest.mark.parametrize("way", ["the whole vector", "the code, then the vector"])
def test_answers_by_the_vector_have_its_distances(show, way):
    shown = show("search")
    changed(shown, lambda: shown.page.get_by_label("Rank by").select_option(way))
    found = [float(b.get_attribute("aria-label").rsplit(" ", 1)[1]) for b in shown.page.locator("ol.answers button").all()]
    assert found == sorted(found) and len(set(found)) > 7 and "not kept" not in shown.said()


def test_steps_of_a_search_come_one_by_one(show):
    shown = show("search")
    steps = [changed(shown, lambda: shown.page.get_by_label("Step").press("ArrowLeft")) for _ in range(3)]
    assert len(set(steps)) == 3 and "written into a table" in steps[-1]


def test_only_the_page_in_which_you_draw_carries_the_network(saved):
    assert [name for name, path in saved.items() if '"weights":"' in path.read_text("utf-8")] == ["draw"]


def test_the_data_of_a_page_cannot_end_its_script(): assert not re.search("</script", json.dumps(Explorable("search").data))


def test_an_output_of_a_notebook_moves_in_its_frame(browser):
    "As a notebook keeps it: no kernel, no widget, no file beside it; as tall as what it holds, and no link that would lead nowhere"
    shown = Explorable("codebook")._repr_mimebundle_()
    assert set(shown) == {"text/plain", "text/html"} and len(shown["text/html"]) < 60_000
    page, problems = browser.new_page(viewport=dict(width=900, height=700)), []
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.set_content(f"<!doctype html><title>notebook</title>{shown['text/html']}")
    frame = page.frame_locator("iframe.sscq-explorable")
    said = frame.locator(".said")
    said.filter(has_text="f is in the cell of").wait_for()
    frame.get_by_role("button", name="One step of k-means").click()
    said.filter(has_text="moved to the middle").wait_for()
    assert frame.get_by_role("link", name="Link to this state").count() == 0
    inside, outside = frame.locator("#explorable").bounding_box()["height"], page.locator("iframe").bounding_box()["height"]
    assert inside <= outside <= inside + 4 and not problems
    page.close()


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    return importlib.import_module("explorables")


def test_the_benchmark_moves_every_explorable_that_is_dragged(benchmark, browser):
    found = benchmark.measure_in(browser, 3, tuple(benchmark.TARGETS), benchmark.RATES[:1], 60)
    assert found.keys() == EXPLORABLES.keys() - {"collapse", "training"}
    assert all(0 < row["full speed"]["median_ms"] <= row["full speed"]["p95_ms"] for row in found.values())


def test_the_benchmark_names_an_explorable_that_is_not_drawn_anew(benchmark, browser, monkeypatch):
    monkeypatch.setitem(benchmark.TARGETS, "codebook", "h1")
    with pytest.raises(RuntimeError, match=r"codebook: .*was not drawn anew within 0\.3 s"):
        benchmark.measure_in(browser, 1, ("codebook",), benchmark.RATES[:1], .3)


# ---- with a finger

DRAGGED = {"draw": ".pen", "codebook": "[aria-roledescription='point to drag']", "contrast": ".drag", "neighbors": ".drag"}
SHOWS = """() => [...document.getElementById('explorable').shadowRoot.querySelectorAll('.said, output, .drag, .pen, [aria-pressed=true]')].map(
  o => `${o.getAttribute('aria-label') ?? o.textContent} ${o.getAttribute('transform') ?? ''}`).join('; ')"""


class Finger:
    "One finger on a page that is as narrow as a phone, and can be scrolled"
    def __init__(self, page):
        self.page, self.session = page, page.context.new_cdp_session(page)

    def place(self, element) -> tuple:
        element.evaluate("e => e.scrollIntoView({block: 'center'})")
        box = element.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(self, *points, lift: bool = True):
        for kind, at in (("touchStart", points[0]), *(("touchMove", at) for at in points[1:])):
            self.session.send("Input.dispatchTouchEvent", dict(type=kind, touchPoints=[dict(zip("xy", at), id=1)]))
        if lift: self.lift()

    def lift(self): self.session.send("Input.dispatchTouchEvent", dict(type="touchEnd", touchPoints=[]))

    def scrolled(self) -> float: return self.page.evaluate("scrollY")


@pytest.fixture
def touch(show):
    def open_page(name):
        shown = show(name, viewport=dict(width=390, height=700), has_touch=True, is_mobile=True)
        return shown, Finger(shown.page)
    return open_page


def follows(page, act, *args, **settings):
    before = page.evaluate(SHOWS)
    act(*args, **settings)
    page.wait_for_function(f"(before) => ({SHOWS})() !== before", arg=before)


@explorables
def test_a_finger_taps_and_drags_and_the_page_stays(touch, name):
    shown, finger = touch(name)
    page = shown.page
    tries = page.get_by_role("group", name="Try this").get_by_role("button")
    for button in (tries.nth(1), tries.last):  # Reset
        follows(page, page.touchscreen.tap, *finger.place(button))
    for field in page.locator("input[type=range]").all()[:1]:
        x, y = finger.place(field)
        end = (-.45 if field.input_value() == field.get_attribute("max") else .45) * field.bounding_box()["width"]
        follows(page, page.touchscreen.tap, x + end, y)
    points = [DRAGGED[name]] if name in DRAGGED else []
    for part in points + ["[aria-roledescription='word to drag']"] * (name == "codebook"):
        x, y = finger.place(page.locator(part).first)
        before = finger.scrolled()
        follows(page, finger.drag, (x, y), (x, y + 15), (x + 10, y + 40), (x + 10, y + 80), lift=False)  # while the finger is down
        finger.lift()
        page.wait_for_timeout(100)
        assert finger.scrolled() == before, "the page went away under the finger"
    x, y = finger.place(page.locator(".question"))
    before = finger.scrolled()
    finger.drag((x, y), (x, y - 40), (x, y - 120), (x, y - 200))
    page.wait_for_function("(before) => scrollY > before", arg=before)  # beside them, the page is scrolled as ever


def test_a_finger_draws_what_is_searched_for(touch):
    shown, finger = touch("draw")
    shown.page.touchscreen.tap(*finger.place(shown.page.get_by_role("button", name="Clear the paper")))
    shown.wait("The paper is blank")
    x, y = finger.place(shown.page.locator(".pen"))
    before = finger.scrolled()
    finger.drag((x, y - 80), (x, y - 40), (x, y), (x, y + 40), (x, y + 80), lift=False)
    shown.wait("are a 1")
    finger.lift()
    assert finger.scrolled() == before and shown.page.locator(".pen").get_attribute("aria-label").startswith("Paper with 1 strokes")
