"The programs of the pages against the library: in Node, and in Chromium, what JavaScript computes is what Python computes."
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sscq.codebook import decode, hard_assign, perplexity, soft_assign, soft_quantize
from sscq.component import CORE, EXPLORABLES, JS, declarations, digits_data, page_layers, page_model, script
from sscq.contrastive import consistency, info_nce, log_contrast, symmetric_kl
from sscq.core import SSCQ
from sscq.data import digits
from sscq.diversity import codeword_diversity
from sscq.neighbors import nearest_negatives, part_neighbor
from sscq.search import adc, distance_table

HERE = Path(__file__).parent
TAUS, N = (.3, .7), 3


def node() -> str:
    if path := shutil.which("node"): return path
    return (pytest.fail if os.environ.get("CI") else pytest.skip)("no Node: install it (Debian: apt install nodejs) to test the pages' programs")


@pytest.fixture(scope="module")
def asked():
    "What both compute: the queries, drawings, and random vectors, codebooks and temperatures"
    g = torch.Generator().manual_seed(0)
    rows, f, books = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((12, 8), (20, 8), (2, 5, 4)))
    return dict(packed=digits_data(page_model()), n_drawings=1000, rows=rows.tolist(), f=f.tolist(),
                books=dict(M=2, K=5, d=4, words=books.tolist()), taus=TAUS, n=N)


@pytest.fixture(scope="module")
def in_node(asked, tmp_path_factory):
    path = tmp_path_factory.mktemp("agreement") / "asked.json"
    path.write_text(json.dumps(asked))
    made = subprocess.run([node(), str(HERE / "agreement.mjs"), str(path)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.fixture(scope="module")
def expected():
    data, model = digits(), page_model()
    f, codes, books = model.embed(data.query.images), model.encode(data.database.images), model.codebooks.detach()
    return dict(f=f, codes=codes, books=books, table=distance_table(f, books))


def tensor(found: list, key: str) -> torch.Tensor: return torch.tensor([one[key] for one in found])


def test_all_queries_have_the_same_codes_and_answers(in_node, expected):
    found = in_node["queries"]
    assert len(found) == 300
    assert (tensor(found, "f") - expected["f"]).abs().max() < .002
    assert (tensor(found, "table").view_as(expected["table"]) - expected["table"]).abs().max() < 1e-3
    assert torch.equal(tensor(found, "code").to(torch.uint8), hard_assign(expected["f"], expected["books"]))
    sums = adc(expected["table"], expected["codes"])
    ids = torch.stack([torch.from_numpy(row.numpy().argsort(kind="stable")[:10]) for row in sums])
    assert torch.equal(tensor(found, "ids"), ids)
    assert torch.allclose(tensor(found, "sums"), sums.gather(1, ids), atol=1e-3)


def test_drawings_have_the_same_code_wherever_no_border_is_near(in_node, expected):
    "The border between two words is the plane halfway between them; who is farther from it than f may be wrong is on the same side"
    found, books = in_node["drawings"], expected["books"]
    counts = tensor(found, "counts")
    assert counts.min() == 0 and counts.max() == 16 and len(counts.unique(dim=0)) > 950, "the drawings are all different"
    images = (counts * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)
    f, theirs = page_model().embed(images), tensor(found, "f")
    assert (f - theirs).abs().max() < .002
    M, K, d = books.shape
    error = (f - theirs).view(-1, M, d).norm(dim=2).max()
    table, code = distance_table(f, books), hard_assign(f, books).long()
    chosen = books[torch.arange(M), code]  # (B, M, d)
    apart = (chosen[:, :, None] - books).norm(dim=3)  # (B, M, K)
    away = (table - table.gather(2, code[..., None])) / (2 * apart.clamp_min(1e-9))
    away = away.scatter(2, code[..., None], torch.inf).amin((1, 2))
    sure = away > error
    assert sure.float().mean() >= .9, f"{sure.float().mean():.1%} are farther than {error:.2g} from a border"
    assert torch.equal(tensor(found, "code")[sure], code[sure])


def test_assignments_are_the_same(in_node, asked):
    f, books = (torch.tensor(x, dtype=torch.float64) for x in (asked["f"], asked["books"]["words"]))
    def same(key, wanted): torch.testing.assert_close(torch.tensor(in_node[key], dtype=torch.float64), wanted, atol=1e-6, rtol=1e-6)
    same("soft", soft_assign(f, books, TAUS[0]))
    same("z", soft_quantize(f, books, TAUS[0]))
    same("decoded", decode(hard_assign(f, books), books))
    assert in_node["hard"] == hard_assign(f, books).tolist()


def test_losses_are_the_same(in_node, asked):
    rows, books = (torch.tensor(x, dtype=torch.float64) for x in (asked["rows"], asked["books"]["words"]))
    a, b = log_contrast(rows, TAUS[1]).chunk(2)
    wanted = dict(icf=info_nce(rows, TAUS[0]), cc=consistency(rows, rows, TAUS[0]), kl=symmetric_kl(a, b), diversity=codeword_diversity(rows, books, TAUS[0]),
                  neighbor=part_neighbor(rows, 2, N, TAUS[1]), perplexity=perplexity(torch.tensor([[5, 0, 3, 12]], dtype=torch.float64))[0])
    for key, value in wanted.items():
        torch.testing.assert_close(torch.tensor(in_node[key], dtype=torch.float64), value, atol=1e-5, rtol=1e-5, msg=key)
    assert in_node["nearest"] == nearest_negatives(rows, 2, N).tolist()


def test_a_blank_paper_is_a_blank_picture(in_node): assert in_node["blank"] == [0] * 64


@pytest.mark.parametrize("name", EXPLORABLES)
def test_one_script_of_several_modules_is_a_program(name, tmp_path):
    "Modules that use one name twice cannot be put one after the other: Node would refuse them"
    path = tmp_path / "script.cjs"
    path.write_text(script(name))
    made = subprocess.run([node(), "--check", str(path)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert not re.search(r"^(import|export) |https?://(?!www\.w3\.org/2000/svg)|</script", script(name), re.M)


@pytest.mark.parametrize("name", EXPLORABLES)
def test_a_page_carries_what_its_program_names_and_nothing_else(name):
    core = [re.sub(r"^import .*\n", "", (JS / f"{module}.js").read_text("utf-8"), flags=re.M) for module in CORE]
    named = [re.findall(r"^(?:export )?(?:async )?(?:function\*?|const|let|var|class) (\w+)", module, re.M) for module in core]
    parts = declarations("\n".join(core))
    assert list(parts) == [one for module in named for one in module], "every declaration once, of a kind that is known"
    assert all(not re.sub(r"^//.*\n|\s", "", module[:module.index(next(iter(declarations(module).values())))], flags=re.M) for module in core)
    own, text = (JS / f"{name}.js").read_text("utf-8"), script(name)
    there = {part for part in parts if re.search(rf"^(async )?(function|const) {part}\b", text, re.M)}
    asked = {one for names in re.findall(r"^import \{(.*)\}", own, re.M) for one in names.replace(",", " ").split()}
    assert asked | {"mount", "framed", "component"} <= there < parts.keys()
    assert all(len(re.findall(rf"\b{part}\b", text)) > 1 for part in there) and text.count("sscqMount") == 1


@pytest.mark.parametrize("model, message", [
    (lambda: SSCQ(16, backbone="tiny_cnn", channels=1, image_size=16), "8×8 pixels"),
    (lambda: SSCQ(16, backbone="tiny_cnn", channels=3, image_size=8), "8×8 pixels"),
    (lambda: SSCQ(16, backbone=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Tanh()), channels=1, image_size=8), "cannot compute a Tanh")],
    ids=["large", "colours", "another"])
def test_a_model_that_a_page_cannot_run_is_refused(model, message):
    with pytest.raises(ValueError, match=message): page_layers(model())


@pytest.mark.browser
def test_a_browser_computes_what_node_computes(browser, asked, in_node):
    page = browser.new_page()
    files = {"agreement.mjs": HERE / "agreement.mjs"} | {path.name: path for path in JS.glob("*.js")}
    def serve(route):
        name = route.request.url.rpartition("/")[2]
        if name in files: route.fulfill(body=files[name].read_text(), content_type="text/javascript")
        else: route.fulfill(body="<!doctype html><title>empty</title>", content_type="text/html")
    page.route("**/*", serve)
    page.goto("http://explorable.test/")
    found = page.evaluate("async (asked) => (await import('/agreement.mjs')).computed(asked)", asked | dict(n_drawings=100))
    page.close()
    assert [q["code"] for q in found["queries"]] == [q["code"] for q in in_node["queries"]]
    assert [q["ids"] for q in found["queries"]] == [q["ids"] for q in in_node["queries"]]
    assert [d["code"] for d in found["drawings"]] == [d["code"] for d in in_node["drawings"][:100]]
    for key in ("icf", "cc", "diversity", "neighbor"): assert found[key] == pytest.approx(in_node[key], abs=1e-9)
