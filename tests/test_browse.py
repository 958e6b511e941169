"The page to look through: what is in the file, and what it does in a real browser."
import json
import os
import re
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from sscq.browse import browse_page
from sscq.cli import main
from sscq.index import Index
from sscq.picture_pages import address, answers_page, listed, small_picture, small_pictures
from sscq.search import adc, distance_table

HOSTILE = ["<img src=x onerror=boom()>.png", "javascript:boom().png", "a&quot;b'c\"d.png", "Ünï 猫.png", "new\nline.png", "%2e%2e#hash?query.png",
           b"no utf-8 \xff.png".decode("utf-8", "surrogateescape"), "</script><script>boom()</script>".replace("/", "∕") + ".png", "\u202egnp.exe.png"]


def run(*argv) -> int: return main([str(a) for a in argv])


def facts(page: bytes) -> dict:
    return json.loads(re.search(rb'<script type="application/json" id="facts">(.*?)</script>', page, re.S)[1])


def an_index(folder: Path, names: list[str], distance: str = "squared", words: int = 16, seed: int = 0) -> Index:
    "Random codes for pictures of many colours in two folders"
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    paths = []
    for i, name in enumerate(names):
        path = folder / "pictures" / "ab"[i % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 30, 3), rng.integers(0, 256, 3), np.uint8)).save(path, "PNG")
        paths.append(path)
    index = Index(torch.randn(4, words, 5, generator=generator), distance=distance)
    return index.add(torch.randint(words, (len(names), 4), generator=generator, dtype=torch.uint8), paths=paths)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    "An index of forty pictures, nine of them with hostile names, three of them gone or broken; and its page"
    folder = tmp_path_factory.mktemp("browse")
    index = an_index(folder, HOSTILE + [f"{i:02d}.png" for i in range(31)])
    paths = index.paths
    os.unlink(paths[20])
    Path(paths[21]).write_bytes(b"no picture")
    os.unlink(paths[22]); Path(paths[22]).mkdir()
    index.save(folder / "some.sscq")
    assert run("browse", folder / "some.sscq", "--json", folder / "said.json") == 0
    return folder


# the file

def test_the_page_says_what_it_holds(made):
    said, page = json.loads((made / "said.json").read_text()), (made / "some-browse.html").read_bytes()
    assert said == dict(page=str(made / "some-browse.html"), pictures=40, of=40, gone=3, bytes=len(page))
    found = facts(page)
    assert [i for i, size in enumerate(found["sizes"]) if not size] == [20, 21, 22] and "3 of them gone" in found["count"]
    assert found["ids"] == list(range(40)) and found["squared"] and found["shape"] == [4, 16, 5]


def test_the_page_asks_for_nothing_and_runs_one_script(made):
    page = (made / "some-browse.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|<link|<iframe|<object|<base", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "*" not in policy
    assert len(re.findall(r"<script>", page)) == 1 and policy.count("sha256-") == 2 and "base-uri 'none'" in policy
    assert "onerror=boom" not in re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.S)
    assert "\u202e" not in page and "\nline.png" not in page


def test_no_name_ends_the_data(tmp_path):
    name = "</script><script>boom()"
    index = Index(torch.randn(2, 16, 3)).add(torch.zeros(1, 2, dtype=torch.uint8), paths=[f"/x/{name}.png"])
    picture = small_picture(Path(__file__).parent.parent / "nbs/images" / "pipeline.png") or b"RIFF"
    page = browse_page(index.snapshot(), index.paths, [picture], "<b>title</b>", tmp_path, True)
    assert page.count(b"<script") == 6 and b"<b>title" not in page and facts(page)["names"] == ["script><script>boom().png"]


names = st.text(st.characters(blacklist_characters="/\0"), min_size=1, max_size=20).filter(lambda s: s not in (".", ".."))


@given(st.lists(names, min_size=1, max_size=4), st.lists(names, max_size=3))
def test_an_address_leads_to_the_file_and_nowhere_else(path, start):
    try: file, folder = (os.path.join("/", *parts) for parts in (path, start)); os.fsencode(file), os.fsencode(folder)
    except UnicodeEncodeError: return
    link = address(file, folder)
    assert link.isascii() and link.startswith("./") and not re.search(r"[\s\"'<>&?#:\\]", link)
    whole = urlsplit(urljoin("file://" + "/".join(["", *("x" for _ in start), "page.html"]), link))
    assert whole.scheme == "file" and not whole.query and not whole.fragment and not whole.netloc
    assert os.path.normpath(os.path.join(folder, os.fsdecode(unquote(link, "utf-8", "surrogateescape")))) == os.path.normpath(file)


def test_names_that_are_shown_otherwise_keep_their_links(tmp_path):
    paths = [str(tmp_path / name) for name in HOSTILE]
    found = listed(paths, tmp_path)
    for i, path in enumerate(paths):
        link = found.folders[found.where[i]][1] + found.links.get(i, "")
        if i in found.links: assert os.path.normpath(unquote(link, errors="surrogateescape")) == os.path.basename(path)
        else: assert found.names[i] == os.path.basename(path)
    assert all(name.isprintable() for name in found.names) and set(found.links) == {4, 6, 8}


def test_a_page_can_move_with_its_pictures(tmp_path):
    assert address(tmp_path / "a" / "1.png", tmp_path / "pages") == "./../a/1.png"
    assert address(tmp_path / "1.png", tmp_path) == "./1.png"


def test_small_pictures_are_the_squares_in_the_middle(tmp_path):
    Image.new("RGB", (60, 20), (9, 200, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    first, second, third = small_pictures([str(tmp_path / name) for name in ("a.png", "b.png", "c.png")])
    assert second == third == b""
    with Image.open(BytesIO(first)) as image: assert image.size == (80, 80) and np.asarray(image.convert("RGB"))[..., 1].min() > 180


# the command

def test_many_pictures_are_a_spread_of_them(made, tmp_path, capsys):
    assert run("browse", made / "some.sscq", "--most", 5, "--out", tmp_path / "p.html") == 0
    assert facts((tmp_path / "p.html").read_bytes())["ids"] == [0, 10, 20, 29, 39]
    assert "5 pictures of 40 (--most 40 takes all)" in capsys.readouterr().out and "These are 5 of 40" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize("case, said", [("no paths", "knows no paths, only numbers"), ("empty", "is empty"), ("all gone", "none of the 2 pictures"),
                                        ("a folder", "is a folder: name a file"), ("the index", "is the index itself"), ("no index", "is not a file"),
                                        ("below a file", "cannot be written"), ("most", "--most")])
def test_what_cannot_be_is_one_line_and_leaves_nothing(case, said, tmp_path, capsys):
    index = an_index(tmp_path, ["a.png", "b.png"])
    if case == "all gone":
        for path in index.paths: os.unlink(path)
    if case == "no paths": index = Index(index.codebooks).add(index.codes)
    if case == "empty": index = Index(index.codebooks)
    index.save(tmp_path / "i.sscq")
    (tmp_path / "file").write_text("")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    out = {"a folder": tmp_path, "the index": tmp_path / "i.sscq", "below a file": tmp_path / "file" / "x.html"}.get(case, tmp_path / "out.html")
    assert run("browse", tmp_path / ("other" if case == "no index" else "i.sscq"), "--out", out, *["--most", 0] * (case == "most")) == 1
    error = capsys.readouterr().err
    assert error.startswith("sscq: ") and said in error and error.count("\n") == 1 and "Traceback" not in error
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_answers_are_figures_with_names_and_links(tmp_path):
    Image.new("RGB", (20, 20), (9, 200, 9)).save(tmp_path / HOSTILE[0])
    here, gone = str(tmp_path / HOSTILE[0]), str(tmp_path / "gone.png")
    page = answers_page([dict(query=here, paths=[here, gone], distances=[.25, 1.])], "<title>", "What it <means>.", tmp_path).decode()
    assert page.count("<figure") == 3 and page.count("<img") == 2 and page.count('<div class="gone">gone') == 1
    assert "&lt;title&gt;" in page and "What it &lt;means&gt;" in page and "<img src=x" not in page and "0.250" in page
    assert 'href="./%3Cimg%20src%3Dx%20onerror%3Dboom%28%29%3E.png"' in page and "<script" not in page


# in a browser

@pytest.fixture
def opened(browser):
    "Opens a page, without a network; afterwards nothing has failed, nothing was asked for but files, and no name has run"
    contexts, problems, asked = [], [], []
    def open_page(path: Path, width: int = 1200):
        context = browser.new_context(viewport=dict(width=width, height=800), offline=True)
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda e: problems.append(str(e)))
        tab.on("console", lambda m: problems.append(m.text) if "ERR_FILE_NOT_FOUND" not in m.text else None)
        tab.on("request", lambda r: asked.append(r.url))
        tab.add_init_script("window.boom = () => { window.boomed = true }")
        tab.goto(path.as_uri())
        return tab
    yield open_page
    for context in contexts:
        assert not any(tab.evaluate("window.boomed") for tab in context.pages)
        context.close()
    assert not problems and all(url.startswith(("data:", "file:")) for url in asked), (problems, asked)


def until(tab, holds: str):  # the page's policy forbids what `wait_for_function` would do
    for _ in range(600):
        if tab.evaluate(f"!!({holds})"): return
        tab.wait_for_timeout(50)
    raise TimeoutError(holds)


def answers(tab) -> list[tuple[str, float]]:
    return tab.evaluate("[...document.querySelectorAll('#panel li')].map(x => [x.querySelector('a').textContent, +x.querySelector('b').textContent])")


@pytest.mark.browser
@pytest.mark.parametrize("distance, words", [("squared", 16), ("unsquared", 16), ("squared", 256), ("squared", 2)])
def test_the_nearest_are_those_of_python(distance, words, opened, tmp_path):
    index = an_index(tmp_path, [f"{i:02d}.png" for i in range(50)], distance, words, seed=1)
    index.save(tmp_path / "i.sscq")
    assert run("browse", tmp_path / "i.sscq") == 0
    books, codes = index.codebooks, index.codes
    decoded = torch.cat([book[code.long()] for book, code in zip(books, codes.T)], 1)
    wanted = adc(distance_table(decoded, books, distance == "squared"), codes)
    tab = opened(tmp_path / "i-browse.html")
    for i in (0, 17):
        tab.locator(f"#picture-{i}").click()
        until(tab, f"document.querySelector('.path b')?.textContent === '{i:02d}.png'")
        found = answers(tab)
        far = [wanted[i, int(name[:2])].item() for name, _ in found]
        assert len(found) == 30 and f"{i:02d}.png" not in dict(found)
        assert [x for _, x in found] == pytest.approx(far, abs=1e-3) and far == pytest.approx(sorted(far), abs=1e-5)
        assert far == pytest.approx(sorted(wanted[i][torch.arange(50) != i].tolist())[:30], abs=1e-5)
        if words > 2: continue
        ties = [name for name, x in found if x == found[0][1]]
        assert ties == sorted(ties), "equal distances in the order of the index"
    parts = tab.locator("#panel li").first.locator("tr td:nth-child(2)").all_text_contents()
    assert sum(map(float, parts)) == pytest.approx(found[0][1], abs=3e-3) and len(parts) == 4
    assert not tab.locator("#refine").is_visible()  # no embeddings are kept


@pytest.mark.browser
@pytest.mark.parametrize("keep", ["half", "int8"])
def test_kept_embeddings_sort_what_the_codes_choose(keep, opened, tmp_path):
    first = an_index(tmp_path, [f"{i:03d}.png" for i in range(130)], seed=2)
    f = torch.randn(130, 20, generator=torch.Generator().manual_seed(3))
    f[7] = 0
    index = Index(first.codebooks, keep=keep).add(f, paths=first.paths)
    index.save(tmp_path / "i.sscq")
    assert run("browse", tmp_path / "i.sscq") == 0
    tab = opened(tmp_path / "i-browse.html")
    tab.locator("#picture-5").click()
    until(tab, "document.querySelector('.path b')?.textContent === '005.png'")
    unit = torch.nn.functional.normalize(f, dim=1)
    decoded = torch.cat([book[code.long()] for book, code in zip(index.codebooks, index.codes.T)], 1)
    by_codes = adc(distance_table(decoded, index.codebooks, True), index.codes)[5]
    by_codes[5] = torch.inf
    chosen = by_codes.sort(stable=True).indices[:100]
    wanted = (unit[5] - unit[chosen]).square().sum(1).sort().values[:30]
    found = answers(tab)
    assert [x for _, x in found] == pytest.approx(wanted.tolist(), abs=.02) and "2 − 2 cos" in tab.locator("#panel").text_content()
    parts = tab.locator("#panel li").first.locator("tr td:nth-child(2)").all_text_contents()
    assert sum(map(float, parts)) == pytest.approx(found[0][1], abs=3e-3)

    tab.locator("#refine").uncheck()
    assert [x for _, x in answers(tab)] == pytest.approx(by_codes.sort().values[:30].tolist(), abs=1e-3)
    assert "symmetric distance" in tab.locator("#panel").text_content()

@pytest.mark.browser
def test_names_are_names_and_what_is_gone_says_so(made, opened):
    tab = opened(made / "some-browse.html")
    shown = tab.locator(".tile span").all_text_contents()
    assert sorted(shown) == sorted(facts((made / "some-browse.html").read_bytes())["names"]) and HOSTILE[0] in shown
    assert tab.locator(".tile .gone").count() == 3 and tab.locator(".tile img").count() == 37
    assert tab.evaluate("[...document.querySelectorAll('.tile img')].every(x => x.complete && x.naturalWidth === 80)")
    for i in range(len(HOSTILE)):  # every original is found, whatever its name
        tab.locator(f"#picture-{i}").click()
        until(tab, "document.querySelector('.this img')?.naturalWidth === 30")
    tab.locator("#picture-20").click()
    until(tab, "document.querySelector('.this .gone')")
    assert "Its file is gone" in tab.locator(".path").text_content() and len(answers(tab)) == 30


@pytest.mark.browser
def test_an_original_that_goes_later_is_seen_small(opened, tmp_path):
    index = an_index(tmp_path, ["a.png", "b.png"])
    index.save(tmp_path / "i.sscq")
    assert run("browse", tmp_path / "i.sscq") == 0
    os.unlink(index.paths[0])
    tab = opened(tmp_path / "i-browse.html")
    tab.locator("#picture-0").click()
    until(tab, "document.querySelector('.this img')?.naturalWidth === 80")
    assert "The original cannot be shown" in tab.locator(".this").text_content()


@pytest.mark.browser
def test_keys_and_filters(made, opened):
    tab = opened(made / "some-browse.html")
    def at(): return tab.evaluate("document.querySelector('[aria-selected=true] span').textContent")
    def panel(): return tab.locator("#panel").is_visible()
    tab.keyboard.press("ArrowRight")
    assert at() == HOSTILE[1] and not panel()
    tab.keyboard.press("End")
    assert at() == "30.png"
    tab.keyboard.press("ArrowRight")
    assert at() == "30.png"
    tab.keyboard.press("Home")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#panel li")
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#panel", state="hidden")
    tab.keyboard.press("/")
    tab.keyboard.type("2")
    assert tab.locator("#count").text_content().startswith("14 of 40") and not panel()
    tab.keyboard.press("Enter")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#panel li")
    tab.locator("#among").check()
    assert len(answers(tab)) == 13
    tab.locator("#filter").fill("")
    tab.locator("#folder").select_option(label="pictures/a (20)")
    assert tab.locator(".tile").count() == 20 and len(answers(tab)) in (19, 20)
    tab.locator("#filter").fill("nothing of this name")
    assert tab.locator(".tile").count() == 0
    tab.go_back()  # what was looked at before is a page of the browser's history
    tab.wait_for_selector("#panel", state="hidden")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong(made, browser, axe, scheme, tmp_path):
    context = browser.new_context(viewport=dict(width=1280, height=900), color_scheme=scheme, bypass_csp=True)  # axe is no script of the page's
    tab = context.new_page()
    (tmp_path / "page.html").write_bytes(answers_page([dict(query="a.png", paths=["b.png"], distances=[.5])], "t", "m", tmp_path))
    for page in (made / "some-browse.html", tmp_path / "page.html"):
        tab.goto(f"{page.as_uri()}#1")
        for width in (1280, 800, 390):
            tab.set_viewport_size(dict(width=width, height=900))
            if width != 800: assert not axe(tab)
            assert tab.evaluate("[...document.querySelectorAll('#panel')].every(p => p.scrollWidth <= p.clientWidth)")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
        back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(19, 20, 22)"}[scheme]
    context.close()


@pytest.mark.browser
def test_the_large_picture_gets_larger_and_answers_have_ranks(made, opened):
    tab = opened(made / "some-browse.html")
    tab.locator("#picture-1").click()
    until(tab, "document.querySelector('.this img')?.naturalWidth === 30")
    assert tab.locator("#panel .rank").all_text_contents() == [str(n) for n in range(1, 31)]
    assert "names a word (a codeword)" in tab.locator("#panel").text_content(), "what a number means, in words explained"
    large = tab.locator(".this img")
    before = large.bounding_box()["width"]
    tab.locator(".this input").focus()
    tab.keyboard.press("Space")
    assert large.bounding_box()["width"] > 2 * before
    tab.keyboard.press("Escape")
    assert large.bounding_box()["width"] == before and tab.locator("#panel").is_visible()


@pytest.mark.browser
def test_only_what_can_be_seen_is_drawn(opened, tmp_path):
    index = an_index(tmp_path, ["a.png"])
    many = Index(index.codebooks).add(torch.randint(16, (3000, 4), dtype=torch.uint8), paths=index.paths * 3000)
    many.save(tmp_path / "i.sscq")
    assert run("browse", tmp_path / "i.sscq") == 0
    tab = opened(tmp_path / "i-browse.html")
    assert 50 < tab.locator(".tile").count() < 300
    tab.keyboard.press("End")
    tab.wait_for_selector("#picture-2999")
    assert tab.locator(".tile").count() < 300 and tab.locator("#picture-0").count() == 0


@pytest.mark.browser
def test_answers_are_enlarged_by_a_click_without_a_script(opened, tmp_path):
    Image.new("RGB", (20, 20), (9, 200, 9)).save(tmp_path / "a.png")
    row = dict(query=str(tmp_path / "a.png"), paths=[str(tmp_path / "a.png")], distances=[.5])
    (tmp_path / "page.html").write_bytes(answers_page([row], "t", "m", tmp_path))
    tab = opened(tmp_path / "page.html")
    before = tab.locator("figure img").nth(1).bounding_box()["width"]
    tab.locator("figure label").nth(1).click()
    assert tab.locator("figure img").nth(1).bounding_box()["width"] > 2 * before == 340
    tab.locator("figcaption a").first.click()
    tab.wait_for_url("**/a.png")
