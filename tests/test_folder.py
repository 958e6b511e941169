"The index of a folder that changes, and pictures that are there twice."
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sscq.folder as folder_module
import sscq.reading as reading
from sscq.cli import main
from sscq.core import SSCQ
from sscq.duplicates import components, find_duplicates, near_pairs, pixels_of
from sscq.folder import content_of, FILE_COLUMNS, remember_files
from sscq.index import Index

RNG = np.random.default_rng(0)


def run(*argv) -> int: return main([str(a) for a in argv])
def paint(path: Path): Image.fromarray(RNG.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
def by_name(index: Index) -> dict: return dict(zip([os.path.relpath(p) for p in index.paths], index.codes.tolist()))
def ids_by_name(index: Index) -> dict: return dict(zip([Path(p).name for p in index.paths], index.ids.tolist()))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    "With codewords that spread over what it sees, so that pictures differ in their codes"
    out = tmp_path_factory.mktemp("model") / "model"
    model = SSCQ(bits=16, backbone="tiny_cnn", image_size=16, seed=0).eval()
    x = model.embed(np.stack([RNG.integers(0, 255, (3, 16, 16), np.uint8) for _ in range(64)]))
    M, K, d = model.codebooks.shape
    model.codebooks.data.copy_(x[:K].reshape(K, M, d).transpose(0, 1))
    model.save_pretrained(out)
    return out


@pytest.fixture
def photos(tmp_path) -> Path:
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for i in range(12): paint(photos / f"{i:02d}.png")
    for i in range(4): paint(photos / "sub" / f"s{i}.png")
    return photos


@pytest.fixture
def indexed(photos, model, tmp_path) -> Path:
    assert run("encode", model, photos, "--out", tmp_path / "photos.sscq") == 0
    return tmp_path / "photos.sscq"


@pytest.fixture
def decoded(monkeypatch) -> list:
    "The pictures that were decoded"
    seen, real = [], reading.load_image
    def counted(path, *args, **kwargs):
        seen.append(Path(path).name)
        return real(path, *args, **kwargs)
    monkeypatch.setattr(reading, "load_image", counted)
    return seen


def updated(index: Path, photos: Path, model: Path) -> dict:
    out = index.with_suffix(".json")
    assert run("update", index, photos, "--model", model, "--json", out) == 0
    return json.loads(out.read_text())


def check_is_new(index: Path, photos: Path, model: Path):
    "What was updated is what encoding everything gives, and remembers each file as it is"
    now = Index.load(index)
    anew = SSCQ.from_pretrained(model).index(photos, progress=False, keep=now.keep)
    assert by_name(now) == by_name(anew)
    if now.keep:
        one, two = (dict(zip(i.paths, i.column("embedding"))) for i in (now, anew))
        for path, own in one.items(): np.testing.assert_allclose(np.float32(own), np.float32(two[os.path.relpath(path)] if path not in two else two[path]),
                                                                atol=.02 if now.keep == "half" else 2)
    for path, *state in zip(now.paths, *(now.column(name) for name in FILE_COLUMNS)):
        assert tuple(state) == (content_of(path), os.stat(path).st_size, os.stat(path).st_mtime_ns)


@pytest.mark.parametrize("keep", ["half", "int8", "none"])
def test_update_decodes_what_is_new_and_nothing_else(photos, model, tmp_path, decoded, keep):
    index = tmp_path / "photos.sscq"
    assert run("encode", model, photos, "--out", index, "--keep", keep) == 0
    before = ids_by_name(Index.load(index))
    paint(photos / "new.png")
    (photos / "00.png").unlink()
    (photos / "01.png").rename(photos / "sub" / "renamed.png")
    paint(photos / "02.png")
    os.utime(photos / "03.png", (1, 1))
    shutil.copy(photos / "04.png", photos / "copy.png")
    decoded.clear()
    did = updated(index, photos, model)
    assert sorted(decoded) == ["02.png", "new.png"] and did["decoded"] == 2
    names = {key: [Path(p).name for p in did[key]] for key in ("added", "removed", "changed")}
    assert names == {"added": ["copy.png", "new.png"], "removed": ["00.png"], "changed": ["02.png"]}
    assert [(Path(r["old"]).name, Path(r["new"]).name) for r in did["renamed"]] == [("01.png", "renamed.png")]
    assert did["unchanged"] == 13 and did["unreadable"] == []
    check_is_new(index, photos, model)
    after = ids_by_name(Index.load(index))
    assert after["renamed.png"] == before["01.png"] and all(after[n] == before[n] for n in after if n in before)
    assert sorted(after.values())[-2:] == [16, 17]  # new ones count on
    content = index.read_bytes()
    decoded.clear()
    assert updated(index, photos, model)["unchanged"] == 17 and not decoded
    assert index.read_bytes() == content  # nothing to do, nothing written


def test_names_that_are_exchanged_are_not_decoded(indexed, photos, model, decoded):
    (photos / "00.png").rename(photos / "x")
    (photos / "01.png").rename(photos / "00.png")
    (photos / "x").rename(photos / "01.png")
    for i in (0, 1): os.utime(photos / f"0{i}.png")
    decoded.clear()
    did = updated(indexed, photos, model)
    assert len(did["changed"]) == 2 and not decoded
    check_is_new(indexed, photos, model)


def test_a_folder_that_moved_is_followed(indexed, photos, model, decoded):
    decoded.clear()
    photos.rename(photos.parent / "elsewhere")
    did = updated(indexed, photos.parent / "elsewhere", model)
    assert len(did["renamed"]) == 16 and not decoded
    check_is_new(indexed, photos.parent / "elsewhere", model)


def test_of_equal_files_the_one_of_the_same_name_moved(indexed, photos, model):
    shutil.copy(photos / "00.png", photos / "01.png")
    updated(indexed, photos, model)
    for name in ("00.png", "01.png"): (photos / name).rename(photos / "sub" / name)
    did = updated(indexed, photos, model)
    assert {(Path(r["old"]).name, Path(r["new"]).name) for r in did["renamed"]} == {("00.png", "00.png"), ("01.png", "01.png")}


def test_a_second_folder_is_added_and_the_first_is_not_forgotten(indexed, photos, model, tmp_path):
    (tmp_path / "more").mkdir()
    paint(tmp_path / "more" / "m.png")
    did = updated(indexed, tmp_path / "more", model)
    assert (len(did["added"]), did["removed"], did["unchanged"]) == (1, [], 16)


def test_paths_are_the_same_however_they_are_written(photos, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("encode", model, "photos", "--out", "p.sscq") == 0
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    for folder in ("photos", photos, "photos/../photos", "link"): assert updated(Path("p.sscq"), folder, model)["unchanged"] == 16
    (tmp_path / "deep").mkdir()
    shutil.move("p.sscq", "deep/p.sscq")
    monkeypatch.chdir("/")
    assert updated(tmp_path / "deep/p.sscq", photos, model)["unchanged"] == 16


@pytest.mark.parametrize("keep", [None, "half"])
def test_an_index_without_columns_gets_them_and_decodes_nothing(photos, model, tmp_path, decoded, keep):
    index = SSCQ.from_pretrained(model).index(photos, progress=False, keep=keep).save(tmp_path / "old.sscq")
    decoded.clear()
    did = updated(index, photos, model)
    assert did["unchanged"] == 16 and not decoded
    check_is_new(index, photos, model)
    (photos / "00.png").rename(photos / "renamed.png")
    assert len(updated(index, photos, model)["renamed"]) == 1


def test_a_picture_that_is_younger_than_an_index_without_columns_is_read_again(photos, model, tmp_path, decoded):
    index = SSCQ.from_pretrained(model).index(photos, progress=False).save(tmp_path / "old.sscq")
    paint(photos / "05.png")
    os.utime(photos / "05.png", (time.time() + 10,) * 2)
    decoded.clear()
    assert len(updated(index, photos, model)["changed"]) == 1 and decoded == ["05.png"]


def test_a_picture_that_changes_while_all_are_encoded_is_read_again(photos, model, tmp_path, decoded):
    index = SSCQ.from_pretrained(model).index(photos, progress=False)
    os.utime(photos / "05.png", (time.time() + 10,) * 2)
    remember_files(index, time.time()).save(tmp_path / "p.sscq")
    decoded.clear()
    assert len(updated(tmp_path / "p.sscq", photos, model)["changed"]) == 1 and decoded == ["05.png"]


def test_ids_that_were_counted_still_are(photos, model, tmp_path, indexed):
    "Two indexes of the shell can be merged"
    paint(photos / "02.png")
    updated(indexed, photos, model)
    assert len(Index.load(indexed).merge(Index.load(indexed))) == 32


def test_what_cannot_be_read_is_forgotten_and_named(indexed, photos, model, capsys):
    (photos / "00.png").write_bytes(b"no picture")
    (photos / "broken.jpg").write_bytes(b"neither")
    (photos / "sub" / "\x1b[31mred\n.png").write_bytes(b"")
    did = updated(indexed, photos, model)
    assert len(did["unreadable"]) == 3 and did["added"] == did["changed"] == [] and did["images"] == 15
    said = capsys.readouterr()
    assert "3 unreadable" in said.out and "\x1b" not in said.out + said.err and len(said.err.splitlines()) == 3
    assert updated(indexed, photos, model)["images"] == 15


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_must_not_be_entered_is_not_forgotten(indexed, photos, model):
    (photos / "sub").chmod(0)
    try: did = updated(indexed, photos, model)
    finally: (photos / "sub").chmod(0o755)
    assert not did["removed"] and did["images"] == 16


def test_a_file_that_a_disk_refuses_is_not_forgotten(indexed, photos, model, monkeypatch):
    real = os.stat
    def refused(path, *args, **kwargs):
        if os.fspath(path) == str(photos / "00.png"): raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)
    monkeypatch.setattr(folder_module.os, "stat", refused)
    did = updated(indexed, photos, model)
    assert not did["removed"] and did["images"] == 16 and did["unreadable"][0]["reason"] == "Permission denied"


@pytest.mark.parametrize("case", ["gone", "none", "no folder", "other model", "no model", "no index", "numbers", "column", "unreadable"])
def test_what_cannot_be_is_a_line_and_leaves_the_index_alone(case, indexed, photos, model, tmp_path, capsys):
    folder, given = photos, model
    (tmp_path / "other").mkdir()
    if case in ("gone", "none"):
        shutil.rmtree(photos)
        folder = tmp_path / "other"
    if case == "gone": paint(folder / "x.png")
    if case == "no folder": folder = photos / "00.png"
    if case == "other model":
        paint(photos / "new.png")
        given = tmp_path / "second"
        SSCQ(bits=16, backbone="tiny_cnn", image_size=16, seed=1).save_pretrained(given)
    if case == "numbers": Index(Index.load(indexed).codebooks).add(Index.load(indexed).codes).save(indexed)
    if case == "column":
        old = Index.load(indexed)
        Index(old.codebooks).add(old.codes, paths=old.paths, columns=dict(stars=[1] * 16)).save(indexed)
    if case == "unreadable":
        for path in photos.rglob("*.png"): path.write_bytes(b"no picture")
    content, listing = indexed.read_bytes(), sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    argv = ["update", tmp_path / "none.sscq" if case == "no index" else indexed, folder, *(["--model", given] if case != "no model" else [])]
    assert run(*argv) == 1
    said = capsys.readouterr().err
    words = {"gone": "is a disk missing", "none": "no pictures in", "no folder": "is not a folder", "other model": "belongs to model",
             "no model": "--model FOLDER",
             "no index": "is not a file", "numbers": "knows no paths", "column": "has a column stars", "unreadable": "can be read"}
    assert words[case] in said and len(said.splitlines()) == 1
    assert indexed.read_bytes() == content and sorted(tmp_path.rglob("*")) == listing


def test_an_index_is_written_whole_or_not_at_all(indexed, photos, model, monkeypatch):
    paint(photos / "new.png")
    content = indexed.read_bytes()
    def full(*args, **kwargs): raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run("update", indexed, photos, "--model", model) == 1
    assert len(Index.load(indexed)) in (16, 17) and Index.load(indexed, verify=True).paths
    assert indexed.read_bytes()[:len(content) // 2][64:] == content[:len(content) // 2][64:]
    assert updated(indexed, photos, model)["images"] == 17


def twice(index: Path, *more) -> dict:
    out = index.with_suffix(".json")
    assert run("duplicates", index, "--json", out, *more) == 0
    return json.loads(out.read_text())


def test_duplicates_of_three_kinds(photos, model, tmp_path, capsys):
    square = np.zeros((64, 64, 3), np.uint8)
    square[16:48, 8:40] = 200, 40, 10
    Image.fromarray(square).save(photos / "square.png")
    Image.fromarray(square).save(photos / "square.jpg", quality=95)
    shutil.copy(photos / "00.png", photos / "zero.png")
    Image.open(photos / "01.png").save(photos / "one.bmp")
    assert run("encode", model, photos, "--out", tmp_path / "p.sscq") == 0
    page = tmp_path / "twice.html"
    groups = twice(tmp_path / "p.sscq", "--near", 1e-3, "--html", page)["groups"]
    found = [(g["kind"], sorted(Path(p).name for p in g["paths"])) for g in groups]
    assert found[:2] == [("the same bytes", ["00.png", "zero.png"]), ("the same pixels", ["01.png", "one.bmp"])]
    assert ("nearly the same", ["square.jpg", "square.png"]) in found
    assert page.read_text().count("<img ") == sum(len(g["paths"]) for g in groups)
    assert "2 more than needed" in capsys.readouterr().out


def test_duplicates_that_the_middle_square_cannot_tell_apart(photos, model, tmp_path, capsys):
    for name, colour in (("left", 10), ("right", 200)):  # they differ outside of it alone
        wide = np.full((40, 120, 3), 90, np.uint8)
        wide[:, :30] = colour
        Image.fromarray(wide).save(photos / f"{name}.png")
    assert run("encode", model, photos, "--out", tmp_path / "p.sscq") == 0
    page = tmp_path / "twice.html"
    (group,) = twice(tmp_path / "p.sscq", "--near", 1e-6, "--html", page)["groups"]
    assert group["kind"] == "nearly the same" and "no two exactly alike" in capsys.readouterr().out
    assert "the middle square" in page.read_text()


def test_duplicates_without_embeddings_or_columns(photos, model, tmp_path, capsys):
    shutil.copy(photos / "00.png", photos / "zero.png")
    SSCQ.from_pretrained(model).index(photos, progress=False).save(tmp_path / "p.sscq")
    groups = twice(tmp_path / "p.sscq")["groups"]
    assert [g["kind"] for g in groups] == ["the same bytes"] and "--keep half" in capsys.readouterr().err


def test_duplicates_of_what_is_gone_or_changed(indexed, photos, capsys):
    shutil.copy(photos / "00.png", photos / "01.png")
    (photos / "02.png").unlink()
    did = twice(indexed)
    assert (did["gone"], did["changed"]) == (1, 1) and did["groups"][0]["kind"] == "the same bytes"
    assert "1 gone and 1 changed" in capsys.readouterr().err
    shutil.rmtree(photos)
    assert run("duplicates", indexed) == 1
    assert "is a disk missing" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1", "nan"])
def test_a_distance_that_cannot_be(indexed, value, capsys):
    assert run("duplicates", indexed, "--near", value) == 1 and "--near" in capsys.readouterr().err


def test_pairs_are_those_of_comparing_all():
    codes = RNG.integers(0, 3, (300, 3)).astype(np.uint8)
    f = RNG.normal(size=(300, 4)).astype(np.float32)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    a, b, d = near_pairs(codes, f, .5)
    wanted = {(i, j) for i in range(300) for j in range(i + 1, 300)
              if (codes[i] != codes[j]).sum() <= 1 and 2 - 2 * float(f[i] @ f[j]) <= .5}
    assert len(a) == len(wanted) and set(zip(a.tolist(), b.tolist())) == wanted
    label, stack = components(300, a, b), {i: {i} for i in range(300)}
    for i, j in wanted:
        both = stack[i] | stack[j]
        for k in both: stack[k] = both
    assert label.tolist() == [min(stack[i]) for i in range(300)]


def test_codes_that_collapsed_take_no_longer_than_a_thousand_each(monkeypatch):
    import sscq.duplicates as module
    monkeypatch.setattr(module, "MOST_COMPARED", 5)
    f = RNG.normal(size=(2000, 8)).astype(np.float32)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    f[1001] = f[1000]
    a, b, _ = near_pairs(np.zeros((2000, 2), np.uint8), f, 1e-6)
    assert (1000, 1001) in set(zip(a.tolist(), b.tolist()))
    assert len(near_pairs(np.zeros((2000, 2), np.uint8), f, 4.1)[0]) <= 2000 * 5


def test_pixels_are_compared_upright_and_at_full_size(tmp_path):
    picture = Image.fromarray(RNG.integers(0, 255, (40, 30, 3), np.uint8))
    picture.save(tmp_path / "a.png")
    turned, exif = picture.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "b.png", exif=exif)
    other = np.array(picture)
    other[0, 0] ^= 1
    Image.fromarray(other).save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"no picture")
    a, b, c, d = (pixels_of(str(tmp_path / f"{n}.png")) for n in "abcd")
    assert a == b != c and d == str(tmp_path / "d.png")


def test_nothing_is_twice():
    assert not list(find_duplicates(Index(torch.zeros(2, 4, 3), keep="half"), [], []))


def test_search_says_when_embeddings_sort(indexed, photos, model, tmp_path, capsys):
    query = photos / "00.png"
    assert run("search", indexed, query, "--model", model, "-k", 3, "--json", tmp_path / "a.json") == 0
    assert capsys.readouterr().out.splitlines()[0] == str(query)  # all are candidates: codes chose nothing
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["refined"] == 16 and found["answers"][0]["paths"][0] == str(query) and found["answers"][0]["distances"][0] < 1e-3
    assert run("search", indexed, query, "--model", model, "-k", 3, "--no-refine", "--json", tmp_path / "b.json") == 0
    assert "embeddings" not in capsys.readouterr().out
    found = json.loads((tmp_path / "b.json").read_text())
    wanted = Index.load(indexed, embed=SSCQ.from_pretrained(model).embed).search(str(query), k=3)
    assert found["refined"] is None and found["answers"][0]["ids"] == wanted.ids[0].tolist()
    assert run("encode", model, photos, "--out", tmp_path / "none.sscq", "--keep", "none") == 0
    assert run("search", tmp_path / "none.sscq", query, "--model", model, "--refine") == 1
    assert "--keep half" in capsys.readouterr().err


def test_python_keeps_embeddings_when_asked(photos, model):
    model = SSCQ.from_pretrained(model)
    plain, kept = model.index(photos, progress=False), model.index(photos, progress=False, keep="int8")
    assert plain.keep is None and kept.keep == "int8" and (plain.codes == kept.codes).all()
    assert kept.search(str(photos / "00.png"), k=1, refine=16).paths == [[str(photos / "00.png")]]
    with pytest.raises(ValueError, match="keep"): model.index(photos, keep="all")
