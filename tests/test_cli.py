"The commands, as a shell would call them."
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from PIL import Image

import sscq.images as sscq_images
import sscq.reading as sscq_reading
from sscq.checkpoint import last_checkpoint
from sscq.index import Index
from sscq.core import SSCQ
from sscq import train as training
from sscq import cli
from sscq.cli import build_parser, main
from sscq.report import demo, load_history, summary
from sscq.data import digits


def run(*argv) -> int: return main([str(a) for a in argv])


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    "Sixty little pictures in two folders, and a few files that are none"
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (folder / name).mkdir()
        for i in range(30):
            pixels = (np.array(colour) + rng.normal(0, 25, (20, 24, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "empty.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "photos"
    assert run("train", photos, "--bits", 16, "--out", out, "--backbone", "tiny_cnn", "--image-size", 16, "--epochs", 2, "--batch-size", 30) == 0
    return out


@pytest.fixture(scope="module")
def indexed(photos, trained) -> Path:
    assert run("encode", trained, photos) == 0
    return trained / f"{photos.name}.sscq"


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    demo(out / "digits", epochs=2, json_file=out / "demo.json")
    return out


def test_demo_leaves_everything_it_names(demo_run):
    out = demo_run / "digits"
    assert {"config.json", "model.safetensors", "digits.sscq", "history.jsonl", "report.html"} <= {p.name for p in out.iterdir()}
    history = load_history(out)
    assert [r["epoch"] for r in history] == [1, 2] and "map" in history[0] and len(history[0]["perplexity"]) == 4
    rows = json.loads((demo_run / "demo.json").read_text())["rows"]
    assert [r["method"] for r in rows] == ["raw-pq", "sscq"]
    for r in rows:
        assert {"method", "bits", "map_mean", "map_std", "seconds"} <= r.keys() and r["bits"] == 16 and 0 < r["map_mean"] <= 1
    assert .6 < rows[0]["map_mean"] < .75  # raw pixels


def test_the_report_is_one_file_that_asks_for_nothing(demo_run):
    page = (demo_run / "digits" / "report.html").read_text()
    assert len(page.encode()) < 5_000_000
    assert "src=\"http" not in page and "href=\"http" not in page and "@import" not in page
    assert page.count('class="figure"') == 4 and "raw-pq" in page
    assert page.count('<div class="answers small">') == 8 and page.count("<figure") == 80  # each query with nine answers
    assert page.count('type="checkbox"') == 80 and "Smaller is nearer" in page and page.count("<h1>") == 1


@pytest.mark.browser
def test_the_report_can_be_read_by_everyone(demo_run, browser, axe):
    tab = browser.new_page(viewport=dict(width=1280, height=900), color_scheme="dark")
    tab.goto((demo_run / "digits" / "report.html").as_uri())
    tab.wait_for_selector("body[data-drawn='4']")
    assert not axe(tab)
    for width in (390, 640, 800):  # 640 is 1280 at a zoom of 200 %
        tab.set_viewport_size(dict(width=width, height=900))
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.emulate_media(color_scheme="light")
    assert not axe(tab, "color-contrast", "scrollable-region-focusable")
    box = tab.get_by_role("checkbox").nth(3)
    box.focus()
    box.press("Space")
    assert tab.locator(".answers img").nth(3).bounding_box()["width"] > 300, "larger by keyboard too"
    tab.close()


@pytest.mark.parametrize("argv, code", [
    (["demo", "--bits", "12"], 1), (["demo", "--seeds", "0"], 1), (["demo", "--epochs", "0"], 1), (["train"], 2), (["fly"], 2), ([], 2)])
def test_exit_codes(argv, code, tmp_path, capsys):
    if argv[:1] == ["demo"]: argv = [*argv, "--out", str(tmp_path / "out")]
    try: assert main(argv) == code
    except SystemExit as stop: assert stop.code == code
    assert capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_demo_finds_an_unwritable_folder_first(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert run("demo", "--out", tmp_path / "file") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_train_encode_search_info(indexed, trained, photos, tmp_path, capsys):
    query = photos / "red" / "03.png"
    assert run("encode", trained, photos, "--out", tmp_path / "again.sscq") == 0
    said = capsys.readouterr()
    assert "60 images, 16 bits each" in said.out and "sscq: note: skipped 2 of 62 files" in said.err
    assert run("search", indexed, query, "-k", 5, "--json", tmp_path / "hits.json", "--html", tmp_path / "hits.html") == 0
    answer, = json.loads((tmp_path / "hits.json").read_text())["answers"]
    assert len(answer["ids"]) == len(answer["distances"]) == len(answer["paths"]) == 5
    assert answer["distances"] == sorted(answer["distances"])
    assert "<figure" in (tmp_path / "hits.html").read_text()
    capsys.readouterr()
    assert run("info", indexed, "--json", "-") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"] == 60 and facts["bits"] == 16  # the two broken files are not in it
    assert run("info", trained, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["bits"] == 16


def test_evaluate_scores_trained_models(tmp_path, capsys, demo_run):
    assert run("evaluate", "digits", "--model", demo_run / "digits", "--distance", "both", "--json", tmp_path / "scores.json") == 0
    said = capsys.readouterr()
    assert "| method |" in said.out and "Trained here" not in said.out
    rows = json.loads((tmp_path / "scores.json").read_text())["rows"]
    assert [r["distance"] for r in rows] == ["unsquared", "squared"] and all(r["n_queries"] == 300 and r["bits"] == 16 for r in rows)
    done = json.loads((demo_run / "demo.json").read_text())["rows"][1]
    assert rows[1]["map"] == pytest.approx(done["map_mean"]) and rows[0]["map"] == pytest.approx(done["map_unsquared"])


def test_evaluate_says_where_a_loaded_backbone_came_from(tmp_path, capsys):
    model = SSCQ(bits=16, channels=1, image_size=8, backbone="tiny_cnn", hidden=16, word_dim=4)
    model.backbone.origin = "pre-trained with labels: elsewhere"
    model.save_pretrained(tmp_path / "model")
    assert run("evaluate", "digits", "--model", tmp_path / "model", "--json", tmp_path / "scores.json") == 0
    assert "pre-trained with labels: elsewhere" in capsys.readouterr().out
    assert [r["backbone"] for r in json.loads((tmp_path / "scores.json").read_text())["rows"]] == ["pre-trained with labels: elsewhere"]


def test_evaluate_compares_everything_in_one_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no weights at hand
    page, kept = tmp_path / "scores.html", tmp_path / "kept"
    assert run("evaluate", "digits", "--bits", 8, 16, "--baselines", "--epochs", 1, "--html", page, "--out", kept, "--json", tmp_path / "s.json") == 0
    said = capsys.readouterr()
    assert "holds no ImageNet weights" in said.err and "sscq: spq, 16 bits: 1 epochs" in said.err
    assert "preset digits (tiny_cnn, 8×8 pixels), 1 epochs, seed 0" in said.out
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    methods = [("sscq", "from scratch"), ("spq", "from scratch"), ("PQ", "raw pixels"), ("OPQ", "raw pixels"), ("PCA + PQ", "raw pixels"),
               ("PQ", "untrained tiny_cnn")]
    assert [(r["bits"], r["method"], r["backbone"]) for r in rows] == [(b, *m) for b in (8, 16) for m in methods]
    assert len({(r["data"], r["topk"], r["n_queries"], r["n_database"], r["distance"], r["ties"]) for r in rows}) == 1
    assert all(r["epochs"] == (1 if r["method"] in ("sscq", "spq") else None) and 0 < r["map"] <= 1 for r in rows)
    told = json.loads((tmp_path / "s.json").read_text())
    assert [(r["method"], r["bits"], r["distance"]) for r in told["exact"]] == [("histogram of colours", 0, "absolute"), ("raw pixels", 0, "Euclidean")]
    assert all(0 < r[name] < 1 for r in rows + told["exact"] for name in ("precision_at_1", "precision_at_10")) and told["chance"] == pytest.approx(.1, abs=.01)
    assert [(r["method"], r["bits"]) for r in told["refined"]] == [(f"{m}, refined 100", b) for b in (8, 16) for m in ("sscq", "spq")]
    assert told["refined"][0]["precision_at_10"] != rows[0]["precision_at_10"] and "| sscq, refined 100 |" in said.out
    assert " Sorted by embeddings, the answers of sscq are " in told["won"]
    assert told["won"] in said.out and told["won"] in page.read_text() and " won: of its first ten answers " in told["won"]
    html = page.read_text()
    assert html.count('class="figure"') == 2 and html.count("<tr>") == 19 and "untrained tiny_cnn" in html
    assert sorted(p.name for p in kept.iterdir()) == ["sscq-16", "sscq-8"]
    capsys.readouterr()
    assert run("evaluate", "digits", "--model", kept / "sscq-16", "--json", "-") == 0
    again, = json.loads(capsys.readouterr().out)["rows"]
    assert again["map"] == pytest.approx(rows[6]["map"], abs=1e-6)


def test_evaluate_a_sorted_folder_with_a_model_that_sees_another_size(tmp_path, trained, capsys):
    for part, n in (("train", 20), ("test", 4)):
        for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
            (tmp_path / "sorted" / part / name).mkdir(parents=True)
            for i in range(n): Image.new("RGB", (40, 30), tuple(c + i for c in colour)).save(tmp_path / "sorted" / part / name / f"{i}.png")
    assert run("evaluate", tmp_path / "sorted", "--model", trained, "--json", "-") == 0
    row, = json.loads(capsys.readouterr().out)["rows"]
    assert row["n_queries"] == 8 and row["n_database"] == 40 and row["data"] == "sorted" and row["method"] == "photos"


@pytest.mark.parametrize("more, channels, size", [((), 1, 8), (("--preset", "laptop"), 1, 16), (("--image-size", 12), 1, 12)])
def test_train_on_a_data_set_by_its_name(tmp_path, capsys, more, channels, size):
    assert run("train", "digits", "--bits", 8, "--epochs", 1, "--out", tmp_path / "m", *more, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 1
    assert run("info", tmp_path / "m", "--json", "-") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["channels"], facts["image_size"]) == (channels, size)


def test_colour_data_make_a_colour_model():
    from sscq.report import for_images
    from sscq.train import PRESETS
    arguments, view = for_images(PRESETS["digits"], torch.zeros(2, 3, 8, 8, dtype=torch.uint8), image_size=None)
    assert arguments["channels"] == 3 and arguments["image_size"] == 8 and view is None
    arguments, view = for_images(PRESETS["fast"], torch.zeros(2, 3, 32, 32, dtype=torch.uint8), n_words=4)
    assert arguments == {"backbone": "resnet18_small", "channels": 3, "image_size": 32, "n_words": 4} and view == "photo"


def test_data_that_cannot_be_had_are_named(tmp_path, capsys, monkeypatch):
    import torchvision.datasets
    def no_network(*_, **__): raise OSError("no network")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", no_network)
    assert run("train", "cifar10", "--preset", "fast", "--bits", 32, "--root", tmp_path / "data", "--out", tmp_path / "m") == 1
    error = capsys.readouterr().err
    assert "CIFAR-10 is not in" in error and "cannot be downloaded" in error and "no network" in error and "root" in error
    assert run("train", "nuswide", "--root", tmp_path, "--out", tmp_path / "m") == 1
    assert "database.txt is missing" in capsys.readouterr().err


def test_train_has_a_folder_of_its_own(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("train", photos, "--bits", 8, "--epochs", 1, "--batch-size", 30) == 0
    assert (tmp_path / "runs" / f"{photos.name}-8" / "model.safetensors").is_file()


@pytest.mark.parametrize("more, said", [
    (("--minutes", 0), "minutes=0.0 must be positive"), (("--minutes", -3), "minutes=-3.0 must be positive"), (("--minutes", "nan"), "minutes=nan must be"),
    (("--steps", 0), "steps=0 must be at least 1"), (("--minutes", 5, "--epochs", 3), "minutes=5.0 and epochs=3: give one of"),
    (("--minutes", 5, "--steps", 3), "minutes=5.0 and steps=3: give one of"), (("--save-every", 0), "save_every=0"), (("--bits", 30), "bits=30"),
    (("--image-size", 2), "image_size=2"), (("--preset", "laptop", "--minutes", 0), "minutes=0.0")])
def test_a_length_that_cannot_be_is_one_line(more, said, photos, tmp_path, capsys):
    assert run("train", photos, "--out", tmp_path / "m", *more) == 1
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and not (tmp_path / "m").exists()


def test_train_says_what_it_chose_and_how_long_it_takes(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "seconds_per_step", lambda *_: 20.)
    out = tmp_path / "m"
    assert run("train", photos, "--bits", 16, "--minutes", 1, "--out", out, "--json", tmp_path / "train.json") == 0
    said = capsys.readouterr()
    assert "batch" not in said.err  # two files cannot be read: nobody needs to know more
    lines = said.out.splitlines()
    assert lines[0].startswith("62 pictures, in colour, 20 pixels on the shorter side (median): ") and "view" in lines[0]
    assert lines[1] == "training on cpu: 3 steps of 60 pictures, about 60 s (3 passes over 60 pictures)"
    assert re.fullmatch(r"16-bit model after 3 of 3 steps on cpu, .*: .*m", lines[2]) and len(lines) == 3
    told = json.loads((tmp_path / "train.json").read_text())
    assert (told["steps"], told["epochs"], told["bits"]) == (3, 3, 16) and len(told["skipped"]) == 2
    assert run("train", photos, "--bits", 16, "--out", out, "--resume") == 0
    assert "3 steps of 60 pictures, all of them done" in capsys.readouterr().out
    again = SSCQ.from_pretrained(out)
    assert run("train", photos, "--bits", 16, "--steps", 3, "--out", tmp_path / "n") == 0
    other = SSCQ.from_pretrained(tmp_path / "n")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), other.state_dict().values()))


def test_what_train_chooses_can_be_told(photos, tmp_path, capsys):
    told = ("--steps", 2, "--image-size", 12, "--backbone", "resnet18_small", "--view", "photo", "--words", 4, "--lr", .01, "--batch-size", 31)
    assert run("train", photos, "--bits", 16, "--out", tmp_path / "m", *told) == 0
    assert "resnet18_small at 12×12 pixels, view photo" in capsys.readouterr().out
    model = SSCQ.from_pretrained(tmp_path / "m")
    assert model.codebooks.shape[:2] == (8, 4) and model.image_size == 12
    kept = last_checkpoint(tmp_path / "m").meta["settings"]
    assert (kept["lr"], kept["batch_size"], kept["view"], kept["steps"]) == (.01, 31, "photo_view", 2)


def test_a_checkpoint_now_and_then(photos, tmp_path, monkeypatch):
    import sscq.checkpoint
    written, right = [], sscq.checkpoint.save_checkpoint
    monkeypatch.setattr(sscq.checkpoint, "save_checkpoint", lambda out, tensors, settings, history, steps: written.append(len(history)) or right(
        out, tensors, settings, history, steps))
    assert run("train", photos, "--bits", 16, "--steps", 7, "--save-every", 3, "--out", tmp_path / "m") == 0
    assert written == [3, 6, 7]


def stopped_after(n: int):
    def hear(self, record):
        if record["epoch"] == n: raise KeyboardInterrupt
    return hear


@pytest.mark.parametrize("length", [("--steps", 6), ("--preset", "laptop"), ()], ids=["steps", "preset", "default"])
def test_a_stopped_training_goes_on_without_being_told_again(length, photos, tmp_path, monkeypatch, capsys):
    "Also one of a preset, which was the default once"
    from sscq import budget, commands
    for name in ("LEAST_STEPS", "MOST_PASSES"): monkeypatch.setattr(budget, name, 5)
    assert run("train", photos, "--bits", 16, "--out", tmp_path / "whole", *length) == 0
    with monkeypatch.context() as patched:
        patched.setattr(commands.TimeLeft, "__call__", stopped_after(2))
        assert run("train", photos, "--bits", 16, "--out", tmp_path / "m", *length) == 130
    assert "--resume continues" in capsys.readouterr().err
    assert run("train", photos, "--bits", 16, "--out", tmp_path / "m", *length) == 1
    assert "continue it with --resume, or another --out to begin anew" in capsys.readouterr().err
    assert run("train", photos, "--bits", 16, "--out", tmp_path / "m", "--resume", *(length[:2] if length[:1] == ("--steps",) else ())) == 0
    a, b = (SSCQ.from_pretrained(tmp_path / name) for name in ("whole", "m"))
    assert len(a.history) == len(b.history) and all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_time_left_is_that_of_late(capsys):
    "A machine that became slower: the steps stay, and what is left takes longer"
    from sscq.commands import TimeLeft
    model = SSCQ(bits=16)
    model.settings = training.TrainConfig(steps=1000, epochs=10)
    hear = TimeLeft(model, every=0.)
    hear(dict(epoch=1, steps=100, seconds=10., loss=9.))
    hear(dict(epoch=2, steps=200, seconds=110., loss=8.5))
    hear(dict(epoch=10, steps=1000, seconds=500., loss=8.))
    assert capsys.readouterr().err.splitlines() == ["step 100 of 1,000, loss 9.000, about 2 min left", "step 200 of 1,000, loss 8.500, about 13 min left"]
    TimeLeft(model)(dict(epoch=1, steps=100, seconds=10., loss=9.))
    assert not capsys.readouterr().err


def test_codes_that_tie_are_a_note(photos, trained, tmp_path, capsys):
    assert run("encode", trained, photos, "--out", tmp_path / "i.sscq", "--json", tmp_path / "i.json") == 0
    said, told = capsys.readouterr(), json.loads((tmp_path / "i.json").read_text())
    note = [line for line in said.err.splitlines() if "different codes" in line or "one and the same code" in line]
    assert len(note) == 1 and note[0].startswith("sscq: note: ") and f"{told['different_codes']:,} different codes, " in said.out
    assert 0 <= told["entropy"] <= 4 and 1 <= told["largest_group"] <= 60
    assert run("info", tmp_path / "i.sscq", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["different_codes"] == told["different_codes"]


def test_what_cannot_be_done_is_said_in_one_line(trained, indexed, tmp_path, capsys):
    cases = [("search", indexed, tmp_path / "nowhere.jpg"), ("search", trained / "nothing.sscq", indexed), ("info", tmp_path / "nothing"),
             ("encode", tmp_path, tmp_path), ("encode", tmp_path / "typo", tmp_path), ("search", tmp_path / "nodir" / "nothing.sscq", indexed),
             ("search", trained, indexed), ("train", tmp_path / "no-folder", "--out", tmp_path / "out"), ("evaluate", "imagenet", "--baselines"),
             ("train", tmp_path, "--out", tmp_path / "out2"), ("train", trained, "--out", tmp_path / "o", "--device", "warp")]
    for argv in cases:
        assert run(*argv) == 1, argv
        error = capsys.readouterr().err
        assert error.startswith("sscq: ") and "Traceback" not in error and len(error.splitlines()) == 1, (argv, error)
    assert not (tmp_path / "typo").exists() and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def odd(trained, tmp_path_factory) -> Path:
    "An index of files with odd names"
    folder = tmp_path_factory.mktemp("odd")
    for i, name in enumerate(["new\nline.png", "tab\t\x1b[31m.png", "Ünï 猫.png", b"not utf-8 \xff.png".decode("utf-8", "surrogateescape"), "a|b<i>.png"]):
        Image.new("RGB", (20, 20), (50 * i, 0, 99)).save(folder / name)
    assert run("encode", trained, folder) == 0
    return trained / f"{folder.name}.sscq"


def test_an_answer_is_a_line(odd, capsys):
    from sscq.index import Index
    paths = Index.load(odd).paths
    query = paths[[Path(p).name for p in paths].index("new\nline.png")]
    assert run("search", odd, query, "-k", 5) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0].endswith(r"new\nline.png") and any(line.endswith(r"not utf-8 \udcff.png") for line in lines)
    assert run("search", odd, query, "-k", 5, "--json", "-") == 0
    answer, = json.loads(capsys.readouterr().out)["answers"]
    assert answer["query"] == query and sorted(answer["paths"]) == sorted(paths)
    with pytest.raises(SystemExit): build_parser().parse_args(["search", "--help"])
    assert "is printed as an escape" in capsys.readouterr().out


SSCQ_COMMAND = Path(sys.executable).parent / "sscq"


def test_names_that_the_terminal_cannot_show(odd, photos):
    code = "import sys; from sscq.cli import main; sys.stdout.reconfigure(encoding='ascii', errors='strict'); sys.argv[0] = 'sscq'; sys.exit(main())"
    done = children.run(code, "search", odd, photos / "red" / "03.png", "-k", 5)
    assert done.returncode == 0 and r"\xdcn\xef \u732b.png" in done.stdout and len(done.stdout.splitlines()) == 6, done.stderr


def test_a_reader_that_has_seen_enough(indexed, photos):
    "As `sscq search ... | head -1` is"
    command = [SSCQ_COMMAND, "search", indexed, *sorted((photos / "red").iterdir()), "-k", "60"]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    done.stdout.close()
    assert done.stderr.read() == b"" and done.wait() == 1
    done.stderr.close()


LIMITED = """
import resource, sys
from sscq.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_said_with_the_files_name(indexed, photos, tmp_path):
    for option, file in (("--json", tmp_path / "x.json"), ("--html", tmp_path / "x.html")):
        argv = ("search", indexed, photos / "red" / "03.png", "-k", 60, option, file)
        with children.Child(LIMITED, *argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child: said = child.stderr.read()
        assert child.returncode == 1 and said.startswith(f"sscq: {file} cannot be written (File too large): make room"), said
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_query(indexed, photos, capsys):
    assert run("search", indexed, photos / "red" / "03.png", photos / "red") == 1
    assert "red is a folder: name pictures, as" in capsys.readouterr().err


def test_a_picture_that_is_gone_says_so_on_the_page(trained, tmp_path, capsys):
    folder = tmp_path / "some"
    folder.mkdir()
    for i in range(4): Image.new("RGB", (20, 20), (50 * i, 0, 99)).save(folder / f"{i}.png")
    assert run("encode", trained, folder, "--out", tmp_path / "i.sscq") == 0
    (folder / "1.png").unlink()
    (folder / "2.png").write_bytes(b"no picture any more")
    for option, said in (("--refine", "2 − 2 cos between the directions"), ("--no-refine", "the squared distances of the query")):
        assert run("search", tmp_path / "i.sscq", folder / "0.png", "-k", 4, "--model", trained, "--html", tmp_path / "page.html", option) == 0
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert page.count("<figure") == 5 and page.count('<div class="gone">gone') == 2, capsys.readouterr().err
        assert said in page and 'href="./some/3.png"' in page and "Nearest in i.sscq" in page


def test_ctrl_c_keeps_what_there_is(tmp_path, monkeypatch, capsys):
    step, left = training.train_step, 0
    def steps(*args, **kw):
        nonlocal left
        left -= 1
        if not left: raise KeyboardInterrupt
        return step(*args, **kw)
    def run(*options, stop): nonlocal left; left = stop; return main(list(options))
    monkeypatch.setattr(training, "train_step", steps)
    train = ["train", "digits", "--batch-size", "500", "--epochs", "2", "--out", str(tmp_path / "run")]  # three steps an epoch
    assert run(*train, stop=2) == 130 and not (tmp_path / "run" / "model.safetensors").exists()
    assert run(*train, stop=0) == 0
    before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    assert run(*train, stop=2) == 130 and {p: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    assert run(*train, stop=5) == 130
    assert len(load_history(tmp_path / "run")) == 1 and "after 1 of 2 epochs" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != before[tmp_path / "run" / "model.safetensors"]
    # nobody is shown the score of a model that was stopped
    assert run("evaluate", "digits", "--bits", "16", "--epochs", "2", "--out", str(tmp_path / "e"), stop=5) == 130
    assert not list((tmp_path / "e").glob("*/model.safetensors"))


def test_where_nothing_can_be_written_is_found_out_first(trained, indexed, photos, tmp_path, capsys):
    (tmp_path / "folder.sscq").mkdir()
    (tmp_path / "file").write_text("")
    train = ("train", photos, "--bits", 8, "--epochs", 1, "--batch-size", 30)
    cases = [(*train, "--out", tmp_path / "m", "--json", tmp_path / "file" / "x.json"), (*train, "--out", tmp_path / "m", "--json", tmp_path),
             ("evaluate", "digits", "--epochs", 1, "--json", tmp_path), ("evaluate", "digits", "--epochs", 1, "--html", tmp_path),
             ("encode", trained, photos, "--out", tmp_path / "x.bin"), ("encode", trained, photos, "--out", tmp_path / "folder.sscq"),
             ("encode", trained, photos, "--out", tmp_path / f"{'n' * 260}.sscq"), ("encode", trained, photos, "--json", tmp_path),
             ("search", indexed, photos / "red" / "03.png", "--html", tmp_path), ("demo", "--out", tmp_path / "d", "--json", tmp_path)]
    for argv in cases:
        assert run(*argv) == 1, argv
        said = capsys.readouterr()
        assert not said.out and len(said.err.splitlines()) == 1 and said.err.startswith("sscq: "), (argv, said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.sscq"]


@pytest.mark.parametrize("more", [(), ("--baselines",), ("--model", "some", "--baselines")])
def test_all_bits_are_looked_at_before_the_first_is_trained(more, tmp_path, capsys):
    assert run("evaluate", "digits", "--bits", 16, 30, "--out", tmp_path / "m", *more) == 1
    assert "bits=30 must be a positive multiple" in capsys.readouterr().err and not (tmp_path / "m").exists()


@pytest.mark.parametrize("option, value, said", [("--bits", 30, "bits=30 must be"), ("--seed", 2 ** 70, "seed=1180591620717411303424 must be at most"),
                                                 ("--image-size", 100_000, "need gigabytes each"), ("--epochs", 0, "epochs=0")])
def test_settings_that_cannot_be_leave_no_folder(option, value, said, photos, tmp_path, capsys):
    assert run("train", photos, "--out", tmp_path / "m", option, value) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "m").exists()


def test_a_model_that_holds_nan_makes_no_index(trained, photos, tmp_path, capsys):
    from sscq.core import SSCQ
    model = SSCQ.from_pretrained(trained)
    with torch.no_grad(): model.head[0].weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "nan")
    assert run("encode", tmp_path / "nan", photos) == 1
    assert "head.0.weight holds some" in capsys.readouterr().err and not list(tmp_path.rglob("*.sscq"))


def test_files_that_go_and_come_while_they_are_encoded(trained, tmp_path, capsys, monkeypatch):
    from sscq.index import Index
    folder, load = tmp_path / "moving", sscq_images.load_image
    folder.mkdir()
    for i in range(6): Image.new("RGB", (20, 20), (40 * i, 0, 99)).save(folder / f"{i}.png")
    def moving(path, *more):
        (folder / "4.png").unlink(missing_ok=True)
        Image.new("RGB", (9, 9)).save(folder / "new.png")
        return load(path, *more)
    monkeypatch.setattr(sscq_reading, "load_image", moving)
    assert run("encode", trained, folder, "--out", tmp_path / "i.sscq") == 0
    assert "4.png: no such file" in capsys.readouterr().err
    index = Index.load(tmp_path / "i.sscq")
    assert [Path(p).name for p in index.paths] == ["0.png", "1.png", "2.png", "3.png", "5.png"] and len(index) == 5


def test_help_has_an_example_for_every_command(capsys):
    for command in ("demo", "train", "encode", "search", "browse", "evaluate", "info"):
        with pytest.raises(SystemExit) as stop: build_parser().parse_args([command, "--help"])
        assert stop.value.code == 0 and (said := capsys.readouterr().out).count(f"\n  sscq {command}") >= 2 and "--json" in said
    with pytest.raises(SystemExit): build_parser().parse_args(["--help"])
    assert "examples:" in capsys.readouterr().out


def test_as_a_process(tmp_path):
    "Notes go to standard error, JSON alone to standard output, and no bar is drawn where no terminal is"
    done = subprocess.run([Path(sys.executable).parent / "sscq", "demo", "--epochs", "1", "--out", tmp_path / "out", "--json", "-"], capture_output=True,
                          text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"][1]["method"] == "sscq"
    assert "it/s" not in done.stderr and "%|" not in done.stderr


def test_summary_is_mean_and_sample_deviation(demo_run):
    from sscq.report import raw_pq
    results = [raw_pq(digits(), 16, seed) for seed in range(3)]
    row, = summary(results)
    maps = np.array([r.squared.map for r in results])
    assert row["map_mean"] == pytest.approx(maps.mean()) and row["map_std"] == pytest.approx(maps.std(ddof=1)) and row["seeds"] == 3


# What is printed

HOSTILE = "\x1b[31mred\x1b[0m\nsscq: done\r\x07\x9b2J"  # colours, a line of its own, a bell, a cleared screen


def clean(text: str) -> bool: return all(c.isprintable() or c == "\n" for c in text)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    "A folder with a hostile name that holds pictures, broken ones too, with hostile names, sorted as `sscq evaluate` wants them"
    folder = tmp_path_factory.mktemp("hostile") / HOSTILE
    for part in ("train", "test"):
        for name, colour in ((f"a{HOSTILE}", (200, 40, 40)), ("b", (40, 40, 200))):
            (folder / part / name).mkdir(parents=True)
            for i in range(20): Image.new("RGB", (20, 20), tuple(c + i for c in colour)).save(folder / part / name / f"{i:02d}{HOSTILE}.png")
            (folder / part / name / f"broken{HOSTILE}.png").write_bytes(b"no picture")
            (folder / part / name / f"notes{HOSTILE}.txt").write_text("")
    return folder


def test_no_name_speaks_to_the_terminal(hostile, tmp_path, capsys):
    model, index = tmp_path / f"model{HOSTILE}", tmp_path / f"index{HOSTILE}.sscq"
    picture = next(p for p in (hostile / "test" / "b").iterdir() if p.name[0] == "0")
    small = ("--bits", 8, "--epochs", 1, "--image-size", 8, "--batch-size", 40, "--backbone", "tiny_cnn")
    lines = [
        (0, "train", hostile / "train", "--out", model, *small), (0, "encode", model, hostile / "train", "--out", index),
        (0, "search", index, picture, "--model", model, "-k", 3, "--html", tmp_path / f"page{HOSTILE}.html"), (0, "browse", index),
        (0, "info", index), (0, "info", model),
        (0, "evaluate", hostile, "--model", model, "--html", tmp_path / f"scores{HOSTILE}.html"),
        (1, "train", tmp_path / HOSTILE, "--out", model), (1, "train", hostile / "train", "--out", model, "--json", hostile),
        (1, "encode", tmp_path / HOSTILE, hostile), (1, "encode", model, tmp_path / HOSTILE, "--out", index),
        (1, "encode", model, hostile, "--out", tmp_path / HOSTILE),
        (1, "search", tmp_path / f"{HOSTILE}.sscq", picture), (1, "browse", tmp_path / f"{HOSTILE}.sscq"), (1, "browse", index, "--out", hostile),
        (1, "search", index, hostile, "--model", model),
        (1, "search", index, tmp_path / HOSTILE, "--model", model),
        (1, "search", index, next((hostile / "train" / "b").glob("broken*")), "--model", model), (1, "search", index, picture, "--model", hostile),
        (1, "info", tmp_path / HOSTILE), (1, "info", picture), (1, "evaluate", tmp_path / HOSTILE), (1, "evaluate", hostile / "train"),
        (1, "train", hostile / "train", "--device", HOSTILE), (2, "info", picture, HOSTILE), (2, "train", picture, "--bits", HOSTILE), (2, HOSTILE)]
    for code, *argv in lines:
        try: got = run(*argv)
        except SystemExit as stop: got = stop.code
        said = capsys.readouterr()
        assert got == code, (argv, said)
        assert clean(said.out) and clean(said.err), (argv, said)
        notes = ("\n" + said.err).count("\nsscq: note") + said.err.count("\n  ")
        if code == 1: assert said.err.startswith("sscq: ") and said.err.count("\n") == notes + 1, (argv, said.err)
        assert "sscq: done" not in said.out.splitlines() + said.err.splitlines()
    assert run("info", tmp_path / HOSTILE, "--debug") == 1 and clean(capsys.readouterr().err)
    for page in tmp_path.glob("*.html"): assert "\x1b" not in page.read_text()


def test_a_page_of_a_folder_whose_name_is_no_utf8(trained, tmp_path):
    folder = tmp_path / b"caf\xe9".decode("utf-8", "surrogateescape")
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for i in range(3): Image.new("RGB", (20, 20), (50 * i, 0, 99)).save(folder / part / name / f"{i}.png")
    assert run("evaluate", folder, "--model", trained, "--html", tmp_path / "page.html") == 0
    assert r"<h1>caf\udce9</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_note_is_said_once_and_says_whose_it_is(capsys):
    from sscq.images import SkippedFiles
    with cli.notes():
        for _ in range(3): warnings.warn("of ours", stacklevel=1)
        warnings.warn_explicit("Metadata Warning,\ntag 282", UserWarning, "/env/lib/python3/site-packages/PIL/TiffImagePlugin.py", 1)
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
        warnings.warn("Image size exceeds limit", Image.DecompressionBombWarning, stacklevel=1)
        for n in (3, 20): warnings.warn("\n".join([f"skipped {n} of 99 files", *(f"  {i}.txt: no" for i in range(n))]), SkippedFiles, stacklevel=1)
    said = capsys.readouterr().err
    assert said.count("sscq: note: ") == 4 and said.count("of ours") == 1
    assert "sscq: note: PIL says: Metadata Warning,\\ntag 282\n" in said
    assert "skipped 3 of 99 files\n  0.txt: no\n  1.txt: no\n  2.txt: no\n" in said
    assert said.endswith("  3.txt: no\n  4.txt: no\n  …: --json FILE has all of them\n")


def test_json_has_every_file_that_was_skipped(trained, tmp_path, capsys):
    def folder(name):
        for place in (tmp_path / name, tmp_path / name / "train" / "a", tmp_path / name / "test" / "a"):
            place.mkdir(parents=True)
            for i in range(3): Image.new("RGB", (20, 20), (50 * i, 0, 99)).save(place / f"{i}.png")
        for i in range(12): (tmp_path / name / "train" / "a" / f"{i}.txt").write_text("")
        (tmp_path / name / "train" / "a" / "broken.png").write_bytes(b"no picture")
        return tmp_path / name
    for argv in (("encode", trained, folder("one")), ("evaluate", folder("two"), "--model", trained),
                 ("train", folder("three"), "--out", tmp_path / "m", "--bits", 8, "--epochs", 1, "--image-size", 8)):
        assert run(*argv, "--json", tmp_path / "x.json") == 0
        said = capsys.readouterr().err
        assert said.count(".txt: ") == 5 and "--json FILE has all" in said and ".skipped" not in said, said
        left = json.loads((tmp_path / "x.json").read_text())["skipped"]
        assert len(left) == 13 and {Path(x["path"]).name for x in left} >= {"11.txt", "broken.png"} and all(x["reason"] for x in left)


@pytest.mark.parametrize("n, more", [(2, ()), (3, ()), (10, ()), (37, ("--batch-size", 12))])
def test_a_small_folder_trains(n, more, tmp_path, capsys):
    folder = tmp_path / "few"
    folder.mkdir()
    for i in range(n): Image.new("RGB", (20, 20), (6 * i, 0, 99)).save(folder / f"{i:02}.png")
    assert run("train", folder, "--out", tmp_path / "m", "--bits", 8, "--epochs", 1, "--image-size", 8, *more) == 0
    said = capsys.readouterr().err
    assert "n_neighbors=20 shrinks to" in said and "Traceback" not in said


NUMBERS = ("0", "-1", "1e9", "x", "", "1.5", "9" * 22, "nan", "inf", "True", " ", "0x10", "--")
BAD_PATHS = ("", "a\0b", "n" * 300, "/dev/null/x", "no/such\nplace")


def odd_lines(model, index, photos, tmp):
    "Command lines that cannot be meant; none may do any work"
    train = ("train", photos, "--out", tmp / "m", "--epochs", "0")  # wrong already, so that nothing here is trained
    for option in ("--bits", "--batch-size", "--image-size", "--words", "--lr", "--seed", "--max-pixels"):
        for value in NUMBERS: yield *train, f"{option}={value}"
    for value in NUMBERS[:-1]:
        if value not in ("9" * 22,):
            yield "train", photos, "--out", tmp / "m", f"--epochs={value}"
            yield "evaluate", "digits", "--bits=8", f"--epochs={value}"
            yield "demo", "--out", tmp / "m", f"--epochs={value}"
        yield "demo", "--out", tmp / "m", "--epochs=0", f"--seeds={value}"
        yield "demo", "--out", tmp / "m", "--epochs=0", f"--bits={value}"
        yield "evaluate", "digits", f"--bits={value}", "--epochs=0"
        yield "evaluate", "digits", "--bits=8", "--epochs=0", f"--seed={value}"
        if value not in ("True", " "): yield "search", index, photos / "red" / "03.png", f"-k={value}"
    for path in BAD_PATHS:
        yield "train", path
        yield *train[:-2], f"--out={path}", "--epochs=0"
        yield *train, f"--json={path}"
        yield "encode", path, photos
        yield "encode", model, path, "--out", tmp / "x.sscq"
        yield "encode", model, photos, f"--out={path}"
        if path != "no/such\nplace": yield "encode", model, photos, f"--json={path}"
        yield "search", path, photos / "red" / "03.png", "--model", model
        yield "search", index, path
        yield "search", index, photos / "red" / "03.png", f"--model={path}"
        if path != "no/such\nplace": yield "search", index, photos / "red" / "03.png", f"--html={path}"
        yield "info", path
        if path != "no/such\nplace": yield "info", index, f"--json={path}"
        yield "evaluate", path, "--epochs=0"
        yield "evaluate", "digits", f"--model={path}"
        if path != "no/such\nplace": yield "evaluate", "digits", f"--html={path}"
        yield "evaluate", "digits", "--epochs=0", f"--root={path}"
    for device in ("warp", "", "cuda:99", "cuda:x", "meta", " "):
        yield "encode", model, photos, f"--device={device}"
        yield "evaluate", "digits", "--model", model, f"--device={device}"
        yield *train, f"--device={device}"
    for more in ("--distance=x", "--model", "--bits"): yield "evaluate", "digits", more
    yield from (["--debug"], ["--json"], ["fly"], [""], ["info"], ["search", index], ["train", photos, "more"], [*train, "--resume=x"], [*train, "--preset="])


def test_odd_command_lines_are_refused_in_one_line(trained, indexed, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines = list(odd_lines(trained, indexed, photos, tmp_path))
    assert len(lines) > 250
    for argv in lines:
        try: code = run(*argv)
        except SystemExit as stop: code = stop.code
        said = capsys.readouterr()
        notes = said.err.count("\nsscq: note: ") + said.err.count("\n  ") + said.err.startswith("sscq: note: ")
        assert code == 2 or code == 1 and said.err.count("\n") - notes == 1, (argv, code, said)
        assert clean(said.err) and "Traceback" not in said.err and "foresaw" not in said.err and not said.out, (argv, said)
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.sscq"))


# Files that are no regular files

def special(folder: Path) -> dict[str, Path]:
    "A link to a file, one to nothing yet, and where it can be made a device like /dev/null and one like /dev/full"
    (folder / "real").write_text("old")
    (folder / "link").symlink_to(folder / "real"); (folder / "dangling").symlink_to(folder / "new")
    found = {name: folder / name for name in ("link", "dangling")}
    for name, minor in (("null", 3), ("full", 7)):
        try: os.mknod(folder / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        except (PermissionError, AttributeError): continue
        found[name] = folder / name
    return found


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_what_is_no_regular_file_is_written_into(option, indexed, photos, tmp_path, capsys):
    argv = ("search", indexed, photos / "red" / "03.png", "-k", 3)
    for name, path in special(tmp_path).items():
        before = os.lstat(path)
        assert run(*argv, option, path) == (name == "full")
        assert (os.lstat(path).st_mode, os.lstat(path).st_ino) == (before.st_mode, before.st_ino), name
    said = capsys.readouterr().err
    assert not (tmp_path / "full").exists() or f"{tmp_path / 'full'} cannot be written (No space left on device)" in said
    assert "red" in (tmp_path / "real").read_text() or "<figure" in (tmp_path / "real").read_text()
    assert (tmp_path / "new").read_text() == (tmp_path / "real").read_text()
    assert {p.name for p in tmp_path.iterdir()} <= {"real", "link", "dangling", "new", "null", "full"}


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_pipe_is_written_into(option, indexed, photos, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    assert run("search", indexed, photos / "red" / "03.png", "-k", 3, option, tmp_path / "pipe") == 0
    reader.join(30)
    assert ("<figure" if option == "--html" else '"answers"') in got[0]
    assert stat.S_ISFIFO(os.lstat(tmp_path / "pipe").st_mode)


# What people type

WAYS = ([str(SSCQ_COMMAND)], [sys.executable, "-m", "sscq"], [sys.executable, "-m", "sscq.cli"])
FORKED = """
import runpy, sys
_, way, *sys.argv[1:] = sys.argv
for name in ("sscq.cli", "sscq.__main__"): sys.modules.pop(name, None)  # as where nothing is loaded yet
sys.argv[0] = way
if "/" in way: runpy.run_path(way, run_name="__main__")
else: runpy.run_module(way, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("argv, code, said, start", [
    (["--version"], 0, r"sscq \d+\.\d+", False), ([], 2, "required: COMMAND", False), (["info", "/nowhere"], 1, "sscq: /nowhere", True)],
    ids=["version", "nothing", "nowhere"])
def test_three_ways_to_call_it_are_one(argv, code, said, start):
    "Three starts of Python, for what cannot be done; and what Python's start calls, in children that have imported torch already"
    if start: done = [subprocess.run([*way, *argv], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) for way in WAYS]
    else: done = [children.run(FORKED, way[-1], *argv) for way in WAYS]
    assert re.search(said, done[0].stdout + done[0].stderr)
    for one in done: assert (one.returncode, one.stdout, one.stderr) == (code, done[0].stdout, done[0].stderr)


def test_debug_shows_where(tmp_path, capsys, monkeypatch):
    for argv in (("--debug", "info", tmp_path / "nothing"), ("info", tmp_path / "nothing", "--debug")):
        assert run(*argv) == 1
        first, *_, last = capsys.readouterr().err.splitlines()
        assert first.startswith("Traceback") and last.startswith("sscq: ") and "nothing does not exist" in last
    def fault(path): raise KeyError("a\nkey")
    monkeypatch.setattr(Index, "load", fault)
    assert run("info", tmp_path / "x.sscq") == 1
    said = capsys.readouterr().err
    assert said == r"sscq: KeyError: 'a\nkey' (nobody foresaw this: --debug shows where it came from)" + "\n"
    assert run("info", tmp_path / "x.sscq", "--debug") == 1 and "in fault" in capsys.readouterr().err


def test_pictures_that_are_too_large_can_be_allowed(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    folder = tmp_path / "large"
    folder.mkdir()
    for i in range(3): Image.new("RGB", (60, 40), (50 * i, 0, 99)).save(folder / f"{i}.png")
    assert run("encode", trained, folder) == 1 and "pixels" in capsys.readouterr().err
    assert run("encode", trained, folder, "--max-pixels", 5000) == 0 and Image.MAX_IMAGE_PIXELS == 1000
    assert run("search", trained / "large.sscq", folder / "0.png") == 1
    assert run("search", trained / "large.sscq", folder / "0.png", "--max-pixels", 5000) == 0
    assert run("encode", trained, folder, "--max-pixels", 0) == 1 and "--max-pixels=0 must be at least 1" in capsys.readouterr().err


def test_an_output_that_is_full_is_said_once(indexed):
    if not Path("/dev/full").exists(): pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run([SSCQ_COMMAND, "info", indexed], stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1 and done.stderr.startswith("sscq: ") and "No space left" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_closed_streams_are_no_fault(indexed):
    "Of a start of Python both; one alone in a child that has no such file and no such stream, as Python leaves them then"
    done = subprocess.run(["sh", "-c", 'exec "$0" -m sscq info "$1" >&- 2>&-', sys.executable, indexed], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done
    for fd, name in ((1, "stdout"), (2, "stderr")):
        closed = f"import os, sys; from sscq.cli import main; os.close({fd}); sys.{name} = sys.__{name}__ = None; sys.exit(main())"
        done = children.run(closed, "info", indexed)
        assert done.returncode == 0 and not done.stderr and bool(done.stdout) == (fd == 2), (name, done)


# Ctrl-C and kill

KILLS = """
import json, os, random, signal, sys, time
from sscq import cli  # loaded once: each child is a whole process from here to Python's own exit
argv, n, out = sys.argv[1:-2], int(sys.argv[-2]), sys.argv[-1]
def start():
    child = os.fork()
    if child: return child
    for fd, name in ((1, os.devnull), (2, out)): os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), fd)
    sys.argv = ["sscq", *argv]
    sys.exit(cli.main())
for _ in range(2):  # the second time nothing is new to the disk's cache
    began = time.perf_counter()
    assert os.waitpid(start(), 0)[1] == 0
whole = time.perf_counter() - began
print(json.dumps(whole), flush=True)
sys.stdin.readline()
chance = random.Random(0)
for i in range(n):
    open(out, "w").close()
    child, kill = start(), i % 2 == 0
    time.sleep(.02 + chance.random() * whole)
    for gap in (0,) if kill else (0, chance.choice([0, .001, .005])):
        time.sleep(gap)
        os.kill(child, signal.SIGKILL if kill else signal.SIGINT)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([kill, code, open(out).read()]), flush=True)
    sys.stdin.readline()  # until what is there was looked at
"""


def test_an_encode_that_is_killed_leaves_the_index_whole(trained, tmp_path):
    "As many times as SSCQ_KILLS says: SIGKILL, and Ctrl-C twice, 0 to 5 ms apart, at random moments"
    from sscq.index import Index
    n, folder, out = int(os.environ.get("SSCQ_KILLS", 4)), tmp_path / "photos", tmp_path / "out" / "i.sscq"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(200): Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / f"{i:03}.png")
    assert run("encode", trained, folder, "--out", tmp_path / "new.sscq") == 0
    few = tmp_path / "few"
    few.mkdir()
    for i in range(3): shutil.copy(folder / f"{i:03}.png", few)
    assert run("encode", trained, few, "--out", tmp_path / "old.sscq") == 0
    def holds(path):  # a damaged file is an error
        index = Index.load(path, mmap=False)
        return index.codes.tolist(), index.paths
    new, old = (holds(tmp_path / name) for name in ("new.sscq", "old.sscq"))
    command = [sys.executable, "-c", KILLS, "encode", trained, folder, "--out", out, str(n), tmp_path / "said"]  # it has children that end as Python ends
    seen = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as driver:
        driver.stdout.readline()
        assert holds(out) == new
        for i in range(n):
            shutil.copy(tmp_path / "old.sscq", out)
            print(file=driver.stdin, flush=True)
            kill, code, said = json.loads(driver.stdout.readline())
            assert code in ((-9, 0) if kill else (130, 0)), (i, code, said)
            assert "Traceback" not in said and "ignored" not in said, said
            assert (there := holds(out)) in (old, new), f"kill {i}: neither the old index nor the new one"
            seen.append((kill, code, there == new, len(list(out.parent.iterdir())) - 1))
        print(file=driver.stdin, flush=True)
    print(f"of {n} kills: " + ", ".join(f"{kind} {what}: {sum(s[0] == (kind == 'SIGKILL') and bool(s[i]) for s in seen)}" for kind in ("SIGKILL", "Ctrl-C")
                                        for i, what in ((1, "hit"), (2, "new index"), (3, "left something"))))
    assert run("encode", trained, folder, "--out", out) == 0
    assert [p.name for p in out.parent.iterdir()] == ["i.sscq"] and holds(out) == new


@pytest.mark.parametrize("length", [250, 252, 255, 256])
def test_a_long_name_works_or_fails_at_once(length, trained, indexed, photos, tmp_path, capsys, monkeypatch):
    from sscq.core import SSCQ
    for kind, argv in ((".sscq", ("encode", trained, photos, "--out")), (".json", ("info", indexed, "--json")),
                       (".html", ("search", indexed, photos / "red" / "03.png", "--html"))):
        if length > 255:
            monkeypatch.setattr(SSCQ, "index", lambda *_, **__: pytest.fail("worked before it looked"))
            assert run(*argv, tmp_path / f"{'n' * (length - 5)}{kind}") == 1 and "255 bytes" in capsys.readouterr().err
            assert not list(tmp_path.iterdir())
        else:
            assert run(*argv, tmp_path / f"{'n' * (length - 5)}{kind}") == 0 and len(list(tmp_path.iterdir())) == 1
            next(tmp_path.iterdir()).unlink()


INTERRUPTED = """
import os, signal, sys, threading, time
from sscq import cli
gap = float(sys.argv[1])
def info(args):
    threading.Timer(.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    threading.Timer(.1 + gap, os.kill, (os.getpid(), signal.SIGINT)).start()
    try: time.sleep(20)
    finally:
        time.sleep(3 if gap > 1 else .3)  # cleaning up, while the second Ctrl-C comes
        print("cleaned up", flush=True)
cli.info = info
sys.argv = ["sscq", "info", "x"]
sys.exit(cli.main())
"""


@pytest.mark.parametrize("gap, out", [(.1, "cleaned up\n"), (1.3, "")])
def test_a_second_ctrl_c_waits_or_ends_it_at_once(gap, out):
    began = time.perf_counter()
    done = children.run(INTERRUPTED, gap)
    assert (done.returncode, done.stdout) == (130, out) and "Traceback" not in done.stderr, done
    assert out or time.perf_counter() - began < 18


def test_ctrl_c_while_it_loads():
    for wait in (.5, .8):
        with subprocess.Popen([sys.executable, "-m", "sscq", "info", "x"], stderr=subprocess.PIPE, text=True) as child:
            time.sleep(wait)
            child.send_signal(signal.SIGINT)
            assert child.wait(60) in (130, 1, -signal.SIGINT) and "Traceback" not in (said := child.stderr.read()), said


def test_main_gives_python_its_handler_back(indexed):
    before = signal.getsignal(signal.SIGINT)
    assert run("info", indexed) == 0 and signal.getsignal(signal.SIGINT) is before
    got = []
    thread = threading.Thread(target=lambda: got.append(run("info", indexed)))
    thread.start(); thread.join()
    assert got == [0]


def test_train_browse_goes_from_a_folder_to_a_page(photos, tmp_path, capsys):
    assert run("train", photos, "--steps", 2, "--out", tmp_path / "m", "--browse", "--json", tmp_path / "told.json") == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert Path(told["index"]) == tmp_path / "m" / f"{photos.name}.sscq" and Path(told["page"]).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert len(Index.load(told["index"])) == 60 and "60 pictures, " in capsys.readouterr().out
    assert run("train", "digits", "--steps", 2, "--browse") == 1 and "leave it out" in capsys.readouterr().err
    (same := tmp_path / "same").mkdir()
    for i in range(20): Image.new("RGB", (16, 16), "red").save(same / f"{i}.png")
    assert run("train", same, "--steps", 2, "--out", tmp_path / "s", "--browse") == 0
    assert capsys.readouterr().err.count("all 20 pictures have one and the same code") == 1  # training and encoding both see it
