"Images as other libraries hold them: dicts, datasets of the Hugging Face hub, ImageFolder, lists of anything, bytes."
import io
import logging
import os
import subprocess
import sys
from collections import UserDict
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from sscq import SSCQ, SSCQObjective
from sscq.images import SkippedFiles, Unreadable, decode_bytes, load_image
from sscq.reading import as_images, in_memory, ready

QUIET = {"progress": False}
TRAIN = dict(epochs=1, batch_size=4, device="cpu", objective=SSCQObjective(n_neighbors=1), **QUIET)


def picture(seed: int, w: int = 20, h: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    image.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def verbs_of(model): return partial(model.fit, **TRAIN), model.encode, model.embed, partial(model.index, **QUIET)


class Items(Dataset):
    def __init__(self, items): self.items = items
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]


@pytest.fixture(scope="module")
def model(): return SSCQ(bits=16, backbone="tiny_cnn", channels=3, image_size=8, seed=0).eval()


@pytest.fixture(scope="module")
def pictures(): return [picture(i) for i in range(6)]


@pytest.fixture(scope="module")
def want(pictures): return torch.stack([decode_bytes(png(p), 8) for p in pictures])


@pytest.fixture
def folder(tmp_path, pictures):
    for i, p in enumerate(pictures):
        (tmp_path / "sorted" / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        p.save(tmp_path / "sorted" / f"class{i % 2}" / f"{i}.png")
    return tmp_path / "sorted"


def verbs(model, images, want, **how):
    "Every verb reads the images as these squares"
    assert torch.equal(in_memory(model.to_images(images, **how)), want)
    assert torch.equal(model.encode(images, **how), model.encode(want))
    assert torch.equal(model.embed(images, batch_size=4, **how), model.embed(want, batch_size=4))
    assert torch.equal(model.index(images, **QUIET, **how).codes, model.encode(want))
    fresh = SSCQ(bits=16, backbone="tiny_cnn", channels=3, image_size=8, seed=0)
    fresh.fit(images, **TRAIN, **how)
    same = SSCQ(bits=16, backbone="tiny_cnn", channels=3, image_size=8, seed=0).fit(want, **TRAIN)
    assert torch.equal(fresh.codebooks, same.codebooks)


# ---- dicts


@pytest.mark.parametrize("wrap", [Items, list], ids=["Dataset", "list"])
@pytest.mark.parametrize("form", [lambda p, x: p, lambda p, x: x, lambda p, x: x.numpy(), lambda p, x: png(p), lambda p, x: io.BytesIO(png(p)),
                                  lambda p, x: x / 255], ids=["PIL", "tensor", "array", "bytes", "BytesIO", "float"])
def test_dicts(model, pictures, want, wrap, form):
    items = wrap([{"label": i, "image": form(p, x)} for i, (p, x) in enumerate(zip(pictures, want))])
    verbs(model, items, want, image_key="image")


def test_any_mapping_will_do(pictures, want):
    assert torch.equal(in_memory(as_images(Items([UserDict(pixels=p) for p in pictures]), 3, 8, "pixels")), want)


@pytest.mark.parametrize("items, image_key, error, message", [
    ([{"image": picture(0), "label": 1}], None, TypeError, "item 0 of the Dataset is a dict of image, label: say which of them is the picture, image_key="),
    ([{"image": picture(0), "label": 1}], "img", ValueError, "image_key='img' is no key of item 0 of the Dataset: choose one of image, label"),
    ([{"image": picture(0), "label": 1}], "label", TypeError, "item 0 of the Dataset must be a PIL image .* not int"),
    ([{"image": None}], "image", TypeError, "not NoneType"), ([{}], None, TypeError, "a dict of nothing"), ([{}], "image", ValueError, "choose one of nothing"),
    ([picture(0)], "image", TypeError, "image_key='image' is for items that are dicts; item 0 of the Dataset is of type Image: leave"),
    ([(picture(0), 1)], "image", TypeError, "of type tuple: leave image_key out"), ([], "image", ValueError, "no images: the Items is empty"),
    ([{"image": picture(0)}], 5, TypeError, "image_key"), ([{"image": picture(0)}], ["image"], TypeError, "image_key"),
])
def test_dicts_that_hold_no_picture(model, items, image_key, error, message):
    for verb in verbs_of(model):
        with pytest.raises(error, match=message): verb(Items(items), image_key=image_key)


def test_a_later_item_lacks_the_key(model):
    items = Items([{"image": picture(0)}, {"image": picture(1)}, {"foto": picture(2)}])
    with pytest.raises(ValueError, match="image_key='image' is no key of item 2 of the Dataset: choose one of foto"): model.encode(items, image_key="image")


@pytest.mark.parametrize("source", [torch.zeros(2, 3, 8, 8), np.zeros((2, 3, 8, 8)), picture(0), "no/such/folder", b"x", io.BytesIO()],
                         ids=lambda s: type(s).__name__)
def test_a_key_where_there_are_no_items(model, source):
    with pytest.raises(TypeError, match="image_key='image' is for a Dataset whose items are dicts, not for .*: leave it out"):
        model.embed(source, image_key="image")


def test_a_list_of_files_has_no_keys(model, folder):
    with pytest.raises(TypeError, match="item 0 of the list of images is of type .*: leave image_key out"):
        model.embed([folder / "class0/0.png"], image_key="image")


# ---- datasets of the Hugging Face hub


def hub_dataset(pictures, **more):
    columns = {"label": list(range(len(pictures))), "photo": pictures} | more
    kinds = {name: datasets.Image() if name != "label" else datasets.Value("int64") for name in columns}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def test_a_hub_dataset_as_it_is(model, pictures, want):
    hub = hub_dataset(pictures)
    verbs(model, hub, want)
    verbs(model, hub, want, image_key="photo")


def test_a_hub_dataset_in_other_clothes(pictures, want):
    hub = hub_dataset(pictures)
    def got(source, key=None): return in_memory(as_images(source, 3, 8, key))
    assert torch.equal(got(hub.select([4, 1])), want[[4, 1]]) and torch.equal(got(hub.filter(lambda row: row["label"] > 2)), want[3:])
    raw = hub.cast_column("photo", datasets.Image(decode=False))
    assert torch.equal(got(raw), want)
    own = hub.with_transform(lambda batch: {"seen": [p.convert("RGB") for p in batch["photo"]]})
    assert torch.equal(got(own, "seen"), want)
    with pytest.raises(ValueError, match="no key of item 0 of the Dataset: choose one of seen"): got(own)
    with pytest.raises(ValueError, match="no key of item 0"): got(own, "photo")
    small = hub_dataset([Image.fromarray(x.permute(1, 2, 0).numpy()) for x in want])
    assert torch.equal(got(small.with_format("torch")), want)
    with pytest.raises(ValueError, match=r"shape \(8, 8, 3\) is \(H, W, C\)"): got(small.with_format("numpy"))


def test_hub_files_that_were_not_decoded(folder, want):
    paths = [str(folder / f"class{i % 2}/{i}.png") for i in range(6)]
    hub = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image(decode=False))
    assert torch.equal(in_memory(as_images(hub, 3, 8)), want)


def test_labels_of_a_hub_dataset_are_not_even_read(pictures, want):
    hub = hub_dataset(pictures)
    assert as_images(hub, 3, 8)._source.column_names == ["photo"]


@pytest.mark.parametrize("make, image_key, error, message", [
    (lambda p: hub_dataset(p, thumb=p), None, ValueError, "2 columns of type Image among label, photo, thumb: say which"),
    (lambda p: datasets.Dataset.from_dict({"a": [1], "b": [2]}), None, ValueError, "no columns of type Image among a, b"),
    (hub_dataset, "img", ValueError, "image_key='img' is no column of the Dataset: choose one of label, photo"),
    (hub_dataset, "label", TypeError, "item 0 of the Dataset must be a PIL image .* not int"),
    (lambda p: hub_dataset(p).select([]), None, ValueError, "no images: the Dataset is empty"),
    (lambda p: datasets.DatasetDict(train=hub_dataset(p)), None, TypeError, r"not DatasetDict: .* choose one, images\['train'\]"),
    (lambda p: hub_dataset(p).to_iterable_dataset(), None, TypeError, "not .*IterableDataset"),
])
def test_hub_datasets_that_do_not_say_what_they_hold(model, pictures, make, image_key, error, message):
    with pytest.raises(error, match=message): model.encode(make(pictures), image_key=image_key)


def test_something_else_of_that_name(pictures):
    "A module of one's own called datasets is no reason to look for columns"
    class Own(Items): __module__ = "datasets.mine"
    assert len(as_images(Own(pictures), 3, 8)) == 6


# ---- ImageFolder


def test_an_index_of_an_image_folder_has_paths(model, folder, pictures):
    source = ImageFolder(folder)
    index, of_folder = model.index(source, **QUIET), model.index(folder, **QUIET)
    assert index.paths == of_folder.paths == [os.path.join(folder, f"class{c}", f"{i}.png") for c in (0, 1) for i in range(c, 6, 2)]
    assert torch.equal(index.codes, of_folder.codes)
    answers = index.search(pictures[3], k=6)
    assert answers.paths[0] == [index.paths[i] for i in answers.ids[0]]


def test_parts_of_image_folders_keep_their_paths(model, folder):
    source = ImageFolder(folder)
    every = [p for p, _ in source.samples]
    assert model.index(Subset(source, [4, 0]), **QUIET).paths == [every[4], every[0]]
    assert model.index(Subset(Subset(source, [5, 4, 0]), [2]), **QUIET).paths == every[:1]
    assert model.index(ConcatDataset([Subset(source, [1]), source]), **QUIET).paths == [every[1], *every]
    mixed = ConcatDataset([source, Items([(picture(0), 0)])])
    assert model.index(mixed, **QUIET).paths is None and model.index(Items([picture(0)]), **QUIET).paths is None
    model.index(source, **QUIET).add(model.encode(source), paths=every)


def test_samples_of_somebody_else_are_no_paths(model, pictures):
    class Odd(Items): samples = ["a", "b"]
    assert model.index(Odd(pictures), **QUIET).paths is None


# ---- lists, bytes


FORMS = {"PIL": lambda p, x: p, "bytes": lambda p, x: png(p), "bytearray": lambda p, x: bytearray(png(p)), "BytesIO": lambda p, x: io.BytesIO(png(p)),
         "tensor": lambda p, x: x, "array": lambda p, x: x.numpy(), "float tensor": lambda p, x: x / 255, "float64 array": lambda p, x: x.numpy() / 255,
         "read-only array": lambda p, x: np.frombuffer(x.numpy().tobytes(), np.uint8).reshape(3, 8, 8),
         "reversed array": lambda p, x: x.numpy()[::-1].copy()[::-1]}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [list, tuple])
def test_lists(model, pictures, want, form, kind): verbs(model, kind(FORMS[form](p, x) for p, x in zip(pictures, want)), want)


@pytest.mark.parametrize("form", ["PIL", "bytes", "BytesIO", "tensor", "array"])
def test_questions(model, pictures, want, form):
    index, asked = model.index(want, **QUIET), [FORMS[form](p, x) for p, x in zip(pictures, want)][:3]
    answers = index.search(want[:3], k=4)
    assert torch.equal(index.search(asked, k=4).ids, answers.ids) and torch.equal(index.search(asked, k=4).distances, answers.distances)
    assert torch.equal(index.search(asked[1], k=4).ids, answers.ids[1:2])
    assert index.explain(asked[0], 0).distance == pytest.approx(index.explain(want[:1], 0).distance)


def test_a_list_of_all_kinds(model, folder, pictures, want):
    file = folder / "class0/0.png"
    everything = [file, str(file), *(make(pictures[0], want[0]) for make in list(FORMS.values())[:8]), (pictures[0], "a label")]
    assert torch.equal(in_memory(as_images(everything, 3, 8)), want[:1].expand(len(everything), -1, -1, -1))
    assert len(model.index(want, **QUIET).search(everything, k=1).ids) == len(everything)


def test_one_lazy_picture_many_times(folder, want):
    "Threads must not decode the same object at once"
    once = Image.open(folder / "class0/0.png")
    assert torch.equal(in_memory(as_images([once] * 64, 3, 8)), want[:1].expand(64, -1, -1, -1))


def test_bytes_where_writing_left_them(model, pictures, want):
    pictures[0].save(file := io.BytesIO(), "PNG")
    assert torch.equal(model.encode(file), model.encode(want[:1])) and torch.equal(model.encode(file), model.encode(want[:1]))


def test_pictures_of_mixed_sizes(model):
    mixed = [picture(i, w, h) for i, (w, h) in enumerate([(8, 8), (90, 7), (7, 90), (300, 200), (1, 1)])]
    assert torch.equal(model.encode(mixed), model.encode([png(p) for p in mixed])) and len(model.encode(mixed)) == 5
    assert ready(as_images(mixed, 3, 8), **QUIET).shape == (5, 3, 8, 8)


@pytest.mark.parametrize("bad, error, message", [
    (torch.zeros(3, 9, 9), ValueError, "item 1 of the list of images: images are 9×9, the model takes 8×8: resize them"),
    (torch.zeros(1, 8, 8), ValueError, "item 1 of the list of images: images have 1 channels, the model takes 3"),
    (np.zeros((8, 8, 3), np.uint8), ValueError, r"item 1 of the list of images: shape \(8, 8, 3\) is \(H, W, C\).*permute.*Image.fromarray"),
    (np.zeros((8, 8)), ValueError, r"item 1 of the list of images: shape \(8, 8\) must be \(C, H, W\) = \(3, 8, 8\): one grey picture is x\[None\]"),
    (torch.zeros(2, 3, 8, 8), ValueError, "a tensor of many images is given alone, not in a list"),
    (torch.full((3, 8, 8), 200.), ValueError, "item 1 of the list of images: floating-point images must lie in 0…1, these span 200…200"),
    (torch.full((3, 8, 8), -.1), ValueError, "item 1 of the list of images: .* undo a normalisation"),
    (np.full((3, 8, 8), np.nan), ValueError, "item 1 of the list of images: .* NaN"),
    (torch.zeros(3, 8, 8, dtype=torch.int64), TypeError, "item 1 of the list of images: images of torch.int64 must be uint8"),
    (np.zeros((3, 8, 8), np.uint16), TypeError, "item 1 of the list of images: images of .*uint16 must be uint8"),
    (np.array([["a"]]), ValueError, "shape"),
    (np.zeros((3, 8, 8), object), TypeError, "item 1 of the list of images: images of object"),
    (7, TypeError, "item 1 of the list of images must be .* not int"),
    (None, TypeError, "not NoneType"), ([], TypeError, "not list"), ({"image": 1}, TypeError, "item 1 of the list of images is a dict of image"),
    (torch.zeros(0), ValueError, "shape"), (open, TypeError, "not builtin_function_or_method"),
])
def test_an_item_that_is_no_picture(model, want, bad, error, message):
    for verb in verbs_of(model):
        with pytest.raises(error, match=message): verb([want[0], bad])
        with pytest.raises(error, match=message.replace("item 1", "item 0")): verb((bad,))
    with pytest.raises(error, match=message): model.index(want, **QUIET).search([want[0], bad], k=1)


def stream():
    yield picture(0)


class Endless(IterableDataset):
    def __iter__(self): return stream()


@pytest.mark.parametrize("bad, error, message", [
    (stream(), TypeError, "not generator: .*list"), (iter([picture(0)]), TypeError, "not list_iterator: .*list"), (Endless(), TypeError, "not Endless"),
    ({"train": [picture(0)]}, TypeError, r"not dict: .*images\['train'\]"), ({}, TypeError, "not dict"), ([], ValueError, "no images: the list is empty"),
    ((), ValueError, "no images: the .* is empty"), (Items([]), ValueError, "no images: the Items is empty"),
    (TensorDataset(torch.zeros(0, 3, 8, 8)), ValueError, "empty"),
    (b"", ValueError, "images, of type bytes: there are no bytes"), (b"hello", ValueError, "images, of type bytes: not a picture$"),
    (io.BytesIO(), ValueError, "images, of type BytesIO: there are no bytes"), (io.BytesIO(b"\x89PNG\r\n\x1a\n"), ValueError, "damaged"),
    (io.StringIO("x"), TypeError, "not StringIO"), (memoryview(b"x"), TypeError, "not memoryview"),
])
def test_what_is_no_collection(model, bad, error, message):
    for verb in verbs_of(model):
        with pytest.raises(error, match=message): verb(bad)


def test_a_closed_file(model):
    (file := io.BytesIO(png(picture(0)))).close()
    with pytest.raises(ValueError, match="closed"): model.encode(file)


def test_damaged_bytes_are_skipped_like_files(model, pictures, want):
    sent = [b"hello", *map(png, pictures[:2]), png(pictures[2])[:60]]
    said = "(?s)skipped 2 of 4 files.*item 0 of the list of images: not a picture.*item 3 of the list of images: "
    with pytest.warns(SkippedFiles, match=said): codes = model.encode(sent)
    assert torch.equal(codes, model.encode(want[:2]))
    with pytest.warns(SkippedFiles), pytest.raises(ValueError, match="none of the 1 pictures can be read; the first: item 0 of the list of images"):
        model.encode([b"hello"])
    index = model.index(want, **QUIET)
    with pytest.warns(UserWarning) as said: hits = index.search(sent, k=1)
    assert hits.ids.tolist()[0] == hits.ids.tolist()[3] == [-1] and torch.equal(hits.ids[1:3], index.search(want[:2], k=1).ids)
    assert any("2 of 4 queries cannot be read" in str(w.message) and "picture 0" in str(w.message) for w in said)


def test_bytes_and_files_are_decoded_alike(tmp_path):
    note = Image.Exif(); note[0x0112] = 6
    for name, image, options in [("a.jpg", picture(0, 90, 60), {"exif": note}), ("b.png", picture(1).convert("RGBA"), {}), ("c.gif", picture(2), {}),
                                 ("d.tiff", picture(3).convert("L"), {}), ("e.webp", picture(4), {}), ("f.bmp", picture(5), {})]:
        image.save(tmp_path / name, **options)
        for channels in (1, 3): assert torch.equal(decode_bytes((tmp_path / name).read_bytes(), 12, channels), load_image(tmp_path / name, 12, channels))
    with pytest.raises(Unreadable, match="^upload: damaged"): decode_bytes((tmp_path / "a.jpg").read_bytes()[:400], 12, name="upload")


# ---- logging


def test_the_library_logs_and_does_not_print(want, caplog, capsys):
    model = SSCQ(bits=16, backbone="tiny_cnn", channels=3, image_size=8, seed=0)
    with caplog.at_level(logging.INFO, "sscq"): model.fit(want, **TRAIN)
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records if (r.name, r.levelname) == ("sscq", "INFO")] == [
        ("sscq", "INFO", "training on cpu: 6 images, 1 epochs, 16 bits")]
    assert capsys.readouterr().out == ""


def test_reading_loads_neither_library():
    code = "import sys, sscq.reading; print(*{'datasets', 'pandas', 'torchvision.datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
