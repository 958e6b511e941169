"Data: every kind of picture and of broken file, reading ahead, protocols on miniature copies, and no label within training's reach."
import errno
import gzip
import io
import os
import pickle
import re
import stat
import struct
import subprocess
import sys
import threading
import types
import warnings
import zlib
from functools import partial
from pathlib import Path
from urllib.error import URLError

import children
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from notebook_functions import from_notebook
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import sscq.reading as sscq_reading
import sscq.images as sscq_images
from sscq.data import (
    ImageSet, RetrievalData, cifar10, data_in_memory, data_ready, data_resized, dataset, digits, fashion_mnist, flickr25k, labelled_folder,
    nuswide, resized, twemoji)
from sscq.reading import DatasetImages, Pictures, as_images, batches, find_images, in_memory, read, ready, scan, skip_report
from sscq.images import SkippedFile, SkippedFiles, Unreadable, check_images, load_image, resize_center_crop


def photo(w=48, h=36, seed=0, mode="RGB"):
    "Soft shapes: what scaling and compression leave alone"
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC).convert(mode)


def near(a, b, levels): assert (a.float() - b.float()).abs().max() <= levels


def fill(folder, n, size=(16, 16), suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03}{suffix}" for i in range(n)]
    for i, path in enumerate(paths): photo(*size, seed=i).save(path)
    return paths


def in_tens(n, step=10): return torch.arange(n).split(step)


# ---- numbers


def test_digits():
    d = digits()
    assert (d.name, d.topk, d.classes) == ("digits", 1000, tuple("0123456789"))
    assert d.train is not None and torch.equal(d.train, d.database.images)
    assert d.train.shape == (1497, 1, 8, 8) and d.query.images.shape == (300, 1, 8, 8) and d.train.dtype == torch.uint8
    share = torch.bincount(d.database.labels) / 1497 - torch.bincount(d.query.labels) / 300
    assert share.abs().max() < .005  # stratified
    assert torch.equal(digits().query.images, d.query.images) and not torch.equal(digits(1).query.images, d.query.images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bytes_survive_the_way_to_floats_and_back(dtype):
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(check_images((x / 255).to(dtype), 1), x) or dtype == torch.bfloat16  # bfloat16 has 8 significant bits
    assert check_images(x, 1, 16) is x


@pytest.mark.parametrize("images, error, message", [
    (torch.zeros(3, 8, 8), ValueError, "one image is images\\[None\\]"),
    (torch.zeros(7, 8, 8), ValueError, "many grey ones images\\[:, None\\]"),
    (torch.zeros(2, 1, 8, 8), ValueError, "images have 1 channels, the model takes 3$"),
    (torch.zeros(2, 8, 8, 3), ValueError, "images have 8 channels, the model takes 3: .*permute"),
    (torch.zeros(2, 3, 0, 0), ValueError, "no images: there is a 0 in their shape"),
    (torch.zeros(2, 3, 8, 9), ValueError, "images are 8×9, the model takes 8×8.*image_size=8"),
    (torch.zeros(0, 3, 8, 8), ValueError, "no images"),
    (torch.zeros(2, 3, 8, 8, dtype=torch.long), TypeError, "int64 must be uint8"),
    (torch.zeros(2, 3, 8, 8, dtype=torch.bool), TypeError, "must be uint8"),
    (torch.full((2, 3, 8, 8), float("nan")), ValueError, "image 0 contains NaN or infinite"),
    (torch.full((2, 3, 8, 8), float("inf")), ValueError, "NaN or infinite"),
    (torch.full((2, 3, 8, 8), -1.), ValueError, "span -1…-1.*undo a normalisation"),
    (torch.full((2, 3, 8, 8), 255.), ValueError, "span 255…255: divide by 255"),
])
def test_images_that_are_none(images, error, message):
    with pytest.raises(error, match=message): check_images(images, 3, 8)


# ---- pictures


@settings(deadline=None, max_examples=30)
@given(w=st.integers(1, 90), h=st.integers(1, 90), size=st.integers(1, 40), more=st.integers(0, 20), seed=st.integers(0, 9))
def test_square_is_torchvisions_resize_and_crop(w, h, size, more, seed):
    from torchvision.transforms import CenterCrop, Compose, Resize
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8))
    theirs = Compose([Resize(size + more), CenterCrop(size)])(image)
    near(resize_center_crop(image, size, resize=size + more), torch.from_numpy(np.array(theirs)).permute(2, 0, 1), 2)  # ties of two roundings


def test_square_is_the_protocols_224():
    from torchvision.transforms import CenterCrop, Compose, Resize
    for w, h in ((500, 375), (333, 500), (240, 320), (256, 256), (500, 257)):
        theirs = torch.from_numpy(np.array(Compose([Resize(256), CenterCrop(224)])(photo(w, h)))).permute(2, 0, 1)
        ours = resize_center_crop(photo(w, h), 224, resize=256)
        near(ours, theirs, 1)
        assert (ours != theirs).float().mean() < .002  # ties of a rounding


@settings(deadline=None, max_examples=8)
@given(side=st.integers(2, 40), size=st.integers(1, 20))
def test_square_is_the_notebooks_loop(side, size):
    _, shrink = from_notebook("22_images", "shrink_row", "shrink")
    size = min(size, side)
    grey = torch.randint(256, (side, side), dtype=torch.uint8)
    near(resize_center_crop(Image.fromarray(grey.numpy()), size, channels=1)[0], shrink(grey, size), 1.01)


def test_square_of_a_line_stays_small():
    assert resize_center_crop(Image.new("RGB", (60_000, 1), "red"), 32)[0].unique().tolist() == [255]


def test_square_names_what_is_wrong():
    with pytest.raises(ValueError, match="channels=4 must be 1"): resize_center_crop(photo(), 8, channels=4)
    with pytest.raises(ValueError, match="size=32 must be at most resize=16"): resize_center_crop(photo(), 32, resize=16)
    # a mistake of the caller is not a fault of the files
    with pytest.raises(ValueError, match="channels=4 must be 1"): Pictures(["a.jpg"], 8, 4)
    with pytest.raises(ValueError, match="^size=0 must be at least 1"): load_image("a.jpg", 0)
    for size, resize in ((8.5, None), ("8", None), (True, None), (8, 9.5)):
        with pytest.raises(TypeError, match="(size|resize)=.* it must be an int"): sscq_images._sides(size, 3, resize)
    with pytest.raises(ValueError, match="resize=0 must be at least 1"): resize_center_crop(photo(), 8, resize=0)
    with pytest.raises(ValueError, match="a picture of 0×5 pixels"): resize_center_crop(Image.new("RGB", (0, 5)), 8)
    with pytest.raises(TypeError, match="paths='photos' must be a list of files"): Pictures("photos", 8)  # not its letters


@pytest.mark.parametrize("name, options, levels", [
    ("a.png", {}, 0), ("a.bmp", {}, 0), ("a.tif", {}, 0), ("a.TIFF", {"compression": "tiff_lzw"}, 0), ("a.webp", {"lossless": True}, 0),
    ("a.webp", {"quality": 95}, 12), ("a.jpg", {"quality": 95}, 12), ("a.JPEG", {"quality": 95, "progressive": True}, 12),
    ("a.jfif", {"quality": 95}, 12),
])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_format(tmp_path, name, options, levels, channels):
    photo().save(tmp_path / name, **options)
    x = load_image(tmp_path / name, 16, channels)
    assert x.shape == (channels, 16, 16) and x.dtype == torch.uint8 and x.is_contiguous()
    near(x, resize_center_crop(photo(), 16, channels), levels)
    assert find_images(tmp_path) == [tmp_path / name]


def test_the_content_decides_not_the_name(tmp_path):
    for kind, name in (("PNG", "a.jpg"), ("JPEG", "a.png"), ("WEBP", "a.gif"), ("GIF", "a.tiff"), ("TIFF", "a.webp"), ("BMP", "a.jpeg")):
        photo().save(tmp_path / name, kind)
        assert load_image(tmp_path / name, 16).shape == (3, 16, 16)


def test_first_frame_only(tmp_path):
    frames = [Image.new("RGB", (20, 20), c) for c in ("red", "lime", "blue")]
    for name, options in (("a.gif", {}), ("a.webp", {"lossless": True}), ("a.tiff", {}), ("a.png", {})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert load_image(tmp_path / name, 8)[:, 4, 4].tolist() == [255, 0, 0], name
    frames[0].save(tmp_path / "camera.jpg", format="MPO", save_all=True, append_images=frames[1:])
    near(load_image(tmp_path / "camera.jpg", 8)[:, 4, 4], torch.tensor([255, 0, 0]), 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_exif_rotation(tmp_path, orientation, suffix):
    exif = Image.Exif(); exif[0x0112] = orientation
    photo().save(tmp_path / f"a{suffix}", exif=exif, **{".jpg": {"quality": 95}, ".webp": {"lossless": True}}.get(suffix, {}))
    with Image.open(tmp_path / f"a{suffix}") as image: upright = ImageOps.exif_transpose(image)
    near(load_image(tmp_path / f"a{suffix}", 16), resize_center_crop(upright, 16), 1)
    upside = resize_center_crop(photo().rotate(90, expand=True), 16)
    if orientation == 8: near(load_image(tmp_path / f"a{suffix}", 16), upside, 12)


def test_damaged_exif_loses_no_picture(tmp_path):
    exif = Image.Exif(); exif[0x0112] = 6
    photo().save(tmp_path / "a.jpg", exif=exif, quality=95)
    raw = (tmp_path / "a.jpg").read_bytes()
    at = raw.index(b"Exif\0\0") + 6
    for junk in (b"\xff" * 12, b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\xff\xff"):
        (tmp_path / "b.jpg").write_bytes(raw[:at] + junk + raw[at + len(junk):])
        assert load_image(tmp_path / "b.jpg", 16).shape == (3, 16, 16)


def test_transparency_is_laid_on_white(tmp_path):
    clear = photo(); clear.putalpha(0)
    half = Image.new("LA", (8, 8), (0, 128))
    palette = Image.new("P", (8, 8), 1); palette.putpalette([10, 20, 30, 200, 0, 0])
    for name, image, options, wanted in (
        ("rgba.png", clear, {}, [255, 255, 255]), ("rgba.tiff", clear, {}, [255, 255, 255]),
        ("rgba.webp", clear, {"lossless": True}, [255, 255, 255]),
        ("la.png", half, {}, [127, 127, 127]),
        ("palette.png", palette, {"transparency": 1}, [255, 255, 255]), ("palette-seen.png", palette, {"transparency": 0}, [200, 0, 0]),
        ("palette-bytes.png", palette, {"transparency": bytes([255, 0])}, [255, 255, 255]),
        ("palette.gif", palette, {"transparency": 1}, [255, 255, 255]),
        ("colour.png", Image.new("RGB", (8, 8), (1, 2, 3)), {"transparency": (1, 2, 3)}, [255, 255, 255]),
        ("grey.png", Image.new("L", (8, 8), 9), {"transparency": 9}, [255, 255, 255]),
    ):
        image.save(tmp_path / name, **options)
        near(load_image(tmp_path / name, 4)[:, 1, 1], torch.tensor(wanted), 1)


def test_deep_grey_keeps_its_range(tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(256, 0)
    wanted = torch.arange(256).float()
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(ramp).save(tmp_path / "a.tiff")
    Image.fromarray(ramp.astype(np.int32) * 30_000 - 10 ** 9).save(tmp_path / "int.tiff")
    Image.fromarray((ramp / 7e3).astype(np.float32)).save(tmp_path / "float.tiff")
    for name in ("a.png", "a.tiff", "int.tiff", "float.tiff"): near(load_image(tmp_path / name, 256, 1)[0, 9], wanted, 1.01)
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    assert load_image(tmp_path / "nan.tiff", 2).max() == 0


@pytest.mark.parametrize("odd, wanted", [(np.nan, 0), (np.inf, 255), (-np.inf, 0)])
def test_one_odd_pixel_leaves_the_others_their_range(tmp_path, odd, wanted):
    heights = np.linspace(1000, 2000, 256, dtype=np.float32).reshape(16, 16)
    heights[8, 8] = odd
    Image.fromarray(heights).save(tmp_path / "a.tiff")
    x = load_image(tmp_path / "a.tiff", 16, 1).flatten()
    assert x[136] == wanted
    near(x[np.arange(256) != 136], torch.from_numpy(heights.flatten() / 2000 * 255)[np.arange(256) != 136], 1.01)


def camera(w=64, h=64):
    "Numbers of a 12-bit camera, in 16 bits"
    return np.random.default_rng(0).normal(900, 300, (h, w)).clip(0, 4095).astype(np.uint16)


def test_a_camera_of_12_bits_is_not_black(tmp_path):
    a = camera()
    for name, array in (("a.png", a), ("a.tif", a), ("int.tif", a.astype(np.int32)), ("float.tif", a.astype(np.float32))):
        Image.fromarray(array).save(tmp_path / name)
    x = load_image(tmp_path / "a.png", 64, 1)
    assert len(x.unique()) > 150 and 100 < x.float().mean() < 140  # at face value there are eight levels, 0 to 7
    for name in ("a.tif", "int.tif", "float.tif"): assert torch.equal(load_image(tmp_path / name, 64, 1), x), name
    # two exposures of the same thing come out alike, and so do two frames of which one has a hot pixel
    near(torch.from_numpy(sscq_images.grey_bytes(a // 2)), x, 2)
    hot = a.copy(); hot[0, 0] = 65535
    near(torch.from_numpy(sscq_images.grey_bytes(hot))[1:], x[0, 1:], 2)


@settings(deadline=None, max_examples=40)
@given(levels=st.lists(st.integers(0, 255), min_size=1, max_size=40), brightest=st.integers(128, 255))
def test_deep_grey_looks_like_its_8_bit_twin(levels, brightest):
    a = np.array([*levels, *[brightest] * (len(levels) + 1)], np.uint16)[None]
    for deep in (a * 257, (a * 257).astype(np.int32), (a / 255).astype(np.float32), a): assert np.array_equal(sscq_images.grey_bytes(deep), a)


def test_what_is_empty_stays_empty():
    "Stretched from its least to its greatest level, a fog or a blank field would be pure noise"
    fog = np.random.default_rng(0).integers(300, 306, (64, 64)).astype(np.uint16)
    assert np.ptp(sscq_images.grey_bytes(fog)) <= 6
    assert sscq_images.grey_bytes(np.zeros((4, 4), np.uint16)).max() == 0 and sscq_images.grey_bytes(np.full((4, 4), 30, np.uint16)).min() == 255
    few = np.zeros((100, 100), np.uint16); few[5, 5] = 800
    assert sscq_images.grey_bytes(few).sum() == 255


def test_white_of_a_large_picture_is_found_in_a_sample():
    large = np.random.default_rng(0).integers(0, 3000, (1500, 1500)).astype(np.uint16)
    near(torch.from_numpy(sscq_images.grey_bytes(large)), torch.from_numpy(large / 2997 * 255), 2)
    few = np.zeros((1500, 1500), np.uint16); few[701, 333] = 800
    assert sscq_images.grey_bytes(few)[701, 333] == 255 and sscq_images.grey_bytes(few).sum() == 255


@pytest.mark.parametrize("array", [np.float32([[3e38, -3e38]]), np.float32([[np.inf, np.nan]]), np.float32([[1e-40, 0]]), np.float32([[-5, -5]]),
                                   np.int32([[2 ** 31 - 1, -2 ** 31]])])
def test_deep_greys_of_any_size(array): assert sscq_images.grey_bytes(array).dtype == np.uint8


def png_file(width, height, bits, kind, row, chunks=b""):
    "A PNG as its specification has it; `kind` 0 is grey, 2 colour"
    parts = [b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0), b"IDAT" + zlib.compress((b"\0" + row) * height), b"IEND"]
    head, *rest = (chunk(p[:4], p[4:]) for p in parts)
    return b"\x89PNG\r\n\x1a\n" + head + chunks + b"".join(rest)


def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("bits, kind, row, clear", [
    (16, 0, struct.pack(">H", 7) * 8, struct.pack(">H", 7)), (8, 0, bytes([7]) * 8, struct.pack(">H", 7)),
    (4, 0, bytes([0x55]) * 4, struct.pack(">H", 5)), (2, 0, bytes([0x55]) * 2, struct.pack(">H", 1)),
    (16, 2, struct.pack(">HHH", 0x1234, 0x5678, 0x9abc) * 8, struct.pack(">HHH", 0x1234, 0x5678, 0x9abc)),
    (8, 2, bytes([1, 2, 3]) * 8, struct.pack(">HHH", 1, 2, 3)),
])
def test_a_transparent_level_of_any_depth(tmp_path, bits, kind, row, clear):
    (tmp_path / "a.png").write_bytes(png_file(8, 8, bits, kind, row, chunk(b"tRNS", clear)))
    assert load_image(tmp_path / "a.png", 4).unique().tolist() == [255]
    (tmp_path / "b.png").write_bytes(png_file(8, 8, bits, kind, row, chunk(b"tRNS", bytes(len(clear)))))
    assert load_image(tmp_path / "b.png", 4).min() < 255 or kind == 0 and bits == 16  # 7 is white where nothing is brighter


def test_what_is_transparent_does_not_set_white(tmp_path):
    a = np.full((16, 16), 65000, np.uint16); a[4:12, 4:12] = 1000; a[4, 4] = 500
    Image.fromarray(a).save(tmp_path / "a.png", transparency=65000)
    x = load_image(tmp_path / "a.png", 16, 1)[0]
    assert x[0, 0] == 255 and x[8, 8] == 255 and x[4, 4] == 128


@pytest.mark.parametrize("white", [0, 1])
def test_a_tiff_that_counts_down_to_white(tmp_path, white):
    "Film scanners and X-rays: 0 is white"
    levels = np.linspace(0, 65535, 16).astype("<u2").repeat(16).reshape(16, 16)
    pixels = (levels if white else 65535 - levels).tobytes()
    tags = {256: 16, 257: 16, 258: 16, 259: 1, 262: white, 273: 8, 277: 1, 278: 16, 279: 512}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 520) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4))
    near(load_image(tmp_path / "a.tif", 16, 1)[0, :, 0], torch.arange(16) * 17, 1)


# ---- colour profiles


def icc(red, green, blue, space=b"RGB ", gamma=2.2):
    "The smallest profile there is: primaries, or grey alone, and a gamma"
    fixed = lambda *v: b"".join(struct.pack(">i", round(x * 65536)) for x in v)
    xyz = lambda *v: b"XYZ \0\0\0\0" + fixed(*v)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": xyz(.9642, 1, .8249), b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(80), b"cprt": b"text\0\0\0\0x\0\0\0"}
    if space == b"GRAY": tags[b"kTRC"] = curve
    else: tags |= {b"rXYZ": xyz(*red), b"gXYZ": xyz(*green), b"bXYZ": xyz(*blue), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    body, table, at = b"", b"", 132 + 12 * len(tags)
    for key, value in tags.items():
        value += bytes(-len(value) % 4)
        table += key + struct.pack(">II", at + len(body), len(value)); body += value
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"test", 0x02400000, b"mntr", space, b"XYZ ") + struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    head += b"acsp" + bytes(28) + fixed(.9642, 1, .8249)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


P3 = icc((.5151, .2412, -.0011), (.2920, .6922, .0419), (.1571, .0666, .7841))
SWAPPED = icc((.3851, .7169, .0971), (.4361, .2225, .0139), (.1431, .0606, .7141))  # red is called green
GREY = icc(*[None] * 3, space=b"GRAY", gamma=1)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def as_the_profile_says(image, profile):
    return ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB")


@pytest.mark.parametrize("profile", [P3, SWAPPED])
@pytest.mark.parametrize("name, options", [("a.png", {}), ("a.jpg", {"quality": 95, "subsampling": 0}), ("a.webp", {"lossless": True}), ("a.tif", {})])
def test_profiles_are_honoured(tmp_path, profile, name, options):
    image = photo(48, 48)
    image.save(tmp_path / name, icc_profile=profile, **options)
    wanted = as_the_profile_says(image, profile)
    for channels in (3, 1):
        off = (load_image(tmp_path / name, 48, channels).float() - resize_center_crop(wanted, 48, channels)).abs()
        assert off.mean() < 1.5 and (off.max() < 3 or name == "a.jpg"), channels
    assert (load_image(tmp_path / name, 48).float() - resize_center_crop(image, 48).float()).abs().mean() > 4  # they do matter


def test_profiles_of_grey_palettes_and_transparency(tmp_path):
    photo().convert("L").save(tmp_path / "grey.png", icc_profile=GREY)
    near(load_image(tmp_path / "grey.png", 36, 1), resize_center_crop(as_the_profile_says(photo().convert("L"), GREY), 36, 1), 3)
    palette = photo().quantize(8)
    palette.save(tmp_path / "palette.png", icc_profile=SWAPPED)
    near(load_image(tmp_path / "palette.png", 36), resize_center_crop(as_the_profile_says(palette.convert("RGB"), SWAPPED), 36), 3)
    clear = photo(); clear.putalpha(0)
    clear.save(tmp_path / "clear.png", icc_profile=SWAPPED)
    assert load_image(tmp_path / "clear.png", 8).min() >= 254


@pytest.mark.parametrize("profile", [SRGB, b"junk" * 50, P3[:200], b"\0", GREY])
def test_profiles_that_change_nothing(tmp_path, profile):
    "sRGB by any name, and what is damaged or made for another mode"
    photo().save(tmp_path / "a.png", icc_profile=profile)
    assert torch.equal(load_image(tmp_path / "a.png", 16), resize_center_crop(photo(), 16))
    photo().save(tmp_path / "b.jpg", quality=95); photo().save(tmp_path / "a.jpg", quality=95, icc_profile=profile)
    for channels in (1, 3): assert torch.equal(load_image(tmp_path / "a.jpg", 16, channels), load_image(tmp_path / "b.jpg", 16, channels))


def test_profiles_in_many_threads(tmp_path):
    for i in range(60): photo(seed=i).save(tmp_path / f"{i:02}.png", icc_profile=(P3, SWAPPED, SRGB)[i % 3])
    images = as_images(tmp_path, 3, 16)
    sscq_images._to_srgb.cache_clear()
    assert torch.equal(in_memory(images, workers=8, progress=False), torch.stack([load_image(p, 16) for p in images.paths]))


def test_big_endian_deep_grey(tmp_path):
    "A 16-bit TIFF as Macintoshes and microscopes write it"
    pixels = np.full((4, 4), 0x8080, ">u2").tobytes()
    tags = {256: 4, 257: 4, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4, 279: 32}  # width, height, bits, …, where and how long
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "a.tif").write_bytes(b"MM\0*" + struct.pack(">I", 40) + pixels + struct.pack(">H", len(tags)) + entries + b"\0\0\0\0")
    assert load_image(tmp_path / "a.tif", 4).unique().tolist() == [128]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_colours(tmp_path, mode):
    name = {"1": "a.png", "L": "a.jpg", "P": "a.gif", "CMYK": "a.jpg", "YCbCr": "a.tiff"}[mode]
    image = Image.new("L", (16, 16), 255).convert("1") if mode == "1" else photo().convert(mode)
    image.save(tmp_path / name, **({"quality": 95} if name == "a.jpg" else {}))
    near(load_image(tmp_path / name, 12), resize_center_crop(image.convert("RGB"), 12), 14)


def test_large_jpegs_are_decoded_at_a_fraction(tmp_path):
    photo(2000, 1500).save(tmp_path / "a.jpg", quality=90)
    decoded = []
    def spy(image): decoded.append(image.size); return image
    for channels in (1, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sscq_images, "flatten_alpha", spy)
            x = load_image(tmp_path / "a.jpg", 32, channels)
        near(x, resize_center_crop(Image.open(tmp_path / "a.jpg"), 32, channels), 3)
    assert decoded == [(250, 188)] * 2


# ---- pictures that were lost once


@pytest.mark.skipif("AVIF" not in sscq_images.FORMATS, reason="this Pillow reads no AVIF")
def test_avif(tmp_path):
    exif = Image.Exif(); exif[0x0112] = 6
    for name in ("a.avif", "a.jpg"): photo().save(tmp_path / name, "AVIF", quality=95)
    photo().save(tmp_path / "turned.avif", exif=exif, quality=95)
    for name in ("a.avif", "a.jpg"): near(load_image(tmp_path / name, 16), resize_center_crop(photo(), 16), 14)
    near(load_image(tmp_path / "turned.avif", 16), resize_center_crop(photo().rotate(-90, expand=True), 16), 14)
    assert len(find_images(tmp_path)) == 3


def test_heic_where_pillow_heif_is_installed(tmp_path, monkeypatch):
    "A stand-in for pillow-heif's class, which is called as Pillow calls its own"
    class HeifImageFile(ImageFile.ImageFile):
        format = "HEIF"
        def _open(self): self._size, self._mode, self.tile = (48, 36), "RGB", []
        def load(self): self.im = photo().im; return None
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(HeifImageFile=HeifImageFile))
    for name, brands in (("a.heic", (b"heic", b"mif1", b"heic")), ("b.jpg", (b"mif1", b"heic")), ("c.HIF", (b"msf1", b"hevc"))):
        (tmp_path / name).write_bytes(ftyp(*brands))
        assert torch.equal(load_image(tmp_path / name, 16), resize_center_crop(photo(), 16)), name
    assert len(find_images(tmp_path)) == 3


def test_heic_for_real(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif(); exif[0x0112] = 6
    image = photo(64, 48)
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", quality=95)
    pillow_heif.from_pillow(image).save(tmp_path / "turned.heic", quality=95, exif=exif.tobytes())
    image.info["icc_profile"] = SWAPPED
    pillow_heif.from_pillow(image).save(tmp_path / "profile.heic", quality=95)
    near(load_image(tmp_path / "a.heic", 16), resize_center_crop(photo(64, 48), 16), 14)
    near(load_image(tmp_path / "turned.heic", 16), resize_center_crop(photo(64, 48).rotate(-90, expand=True), 16), 14)
    assert (load_image(tmp_path / "profile.heic", 16).float() - resize_center_crop(as_the_profile_says(photo(64, 48), SWAPPED), 16)).abs().mean() < 5


BULK = zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize("notes", [
    chunk(b"zTXt", b"k\0\0" + BULK), chunk(b"iTXt", b"k\0\x01\0\0\0" + BULK), chunk(b"iCCP", b"p\0\0" + BULK), chunk(b"tEXt", b"k\0" + b"x" * 3_000_000),
    chunk(b"zTXt", b"k\0\0" + BULK) * 30, chunk(b"tEXt", b"k\0hello")[:-1] + b"!", chunk(b"zTXt", b"k\0\7abc"), chunk(b"gAMA", b""), chunk(b"acTL", b"\0"),
])
def test_metadata_lose_no_picture(tmp_path, notes):
    photo().save(tmp_path / "a.png", icc_profile=SWAPPED)
    raw, wanted = (tmp_path / "a.png").read_bytes(), load_image(tmp_path / "a.png", 16)
    for name, text in (("before.png", raw[:33] + notes + raw[33:]), ("after.png", raw[:-12] + notes + raw[-12:])):
        (tmp_path / name).write_bytes(text)
        if notes[4:8] != b"iCCP": assert torch.equal(load_image(tmp_path / name, 16), wanted), name
        else: assert torch.equal(load_image(tmp_path / name, 16), resize_center_crop(photo(), 16)), name  # of two profiles neither


def test_a_damaged_png_is_damaged_with_and_without_its_notes(tmp_path):
    photo().save(tmp_path / "a.png", icc_profile=SWAPPED)
    raw = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(raw[:-60])
    with pytest.raises(Unreadable, match="a.png: damaged: image file is truncated"): load_image(tmp_path / "a.png", 8)


def test_what_counts_are_pixels_that_take_memory(tmp_path, monkeypatch):
    "A phone's 200 megapixels are decoded at an eighth; bombs are still refused"
    photo(400, 300).save(tmp_path / "progressive.jpg", progressive=True)
    for suffix in ("jpg", "png", "webp", "gif", "tif", "bmp"): photo(400, 300).save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400 * 300 // 2)
    near(load_image(tmp_path / "a.jpg", 16), resize_center_crop(photo(400, 300), 16), 12)
    with pytest.raises(Unreadable, match="enormous"): load_image(tmp_path / "a.jpg", 300)  # whole
    # the coefficients of a progressive one are kept for the whole picture
    for name in ("progressive.jpg", "a.png", "a.webp", "a.gif", "a.tif", "a.bmp"):
        with pytest.raises(Unreadable, match="enormous, over 60,000 pixels"): load_image(tmp_path / name, 16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400 * 300 // 4 - 1)
    with pytest.raises(Unreadable, match="enormous"): load_image(tmp_path / "a.jpg", 16)


def test_a_bomb_takes_no_memory(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_of(30_000, 30_000))
    code = ("import resource, sys; from sscq.images import load_image, Unreadable\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "before = peak()\ntry: load_image(sys.argv[1], 8)\nexcept Unreadable as error: print('enormous' in str(error), (peak() - before) < 20_000)")
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "bomb.png"], capture_output=True, text=True).stdout == "True True\n"


# ---- remarks of Pillow and libtiff


def remarkable(folder):
    "Files on which Pillow remarks, by warnings and by logging, and libtiff on the process's stderr"
    exif = Image.Exif(); exif[0x0112] = 6
    photo().save(folder / "exif.jpg", exif=exif)
    raw = (folder / "exif.jpg").read_bytes(); at = raw.index(b"Exif\0\0") + 6
    (folder / "exif.jpg").write_bytes(raw[:at] + b"II*\0\xff\xff\xff\x7f" + raw[at + 8:])
    photo().save(folder / "frames.png", save_all=True, append_images=[photo(seed=1)])
    raw = (folder / "frames.png").read_bytes(); at = raw.index(b"acTL")
    (folder / "frames.png").write_bytes(raw[:at - 4] + chunk(b"acTL", bytes(8)) + raw[at + 16:])
    photo(200, 200).save(folder / "lzw.tif", compression="tiff_lzw")
    raw = bytearray((folder / "lzw.tif").read_bytes()); middle = len(raw) // 2
    raw[middle:middle + 40] = bytes(range(200, 240))
    (folder / "lzw.tif").write_bytes(raw)
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 9, 278: 8, 279: 64}  # nine samples a pixel
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (folder / "samples.tif").write_bytes(b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(tags)) + entries + bytes(4))


def test_nameless_remarks_are_not_passed_on(tmp_path):
    remarkable(tmp_path)
    code = "import sys, warnings; warnings.simplefilter('always'); from sscq.reading import as_images, read\n"
    code += "images = as_images(sys.argv[1], 3, 8)\nprint(len(list(read(images, [__import__('torch').arange(4)]))[0].rows))"
    done = children.run(code, tmp_path)
    said = [line.strip() for line in done.stderr.splitlines()]
    assert done.stdout == "2\n" and len(said) == 3, done.stderr
    assert "SkippedFiles: skipped 2 of 4 files" in said[0] and said[1].startswith(f"{tmp_path / 'lzw.tif'}: damaged")
    assert said[2].startswith(f"{tmp_path / 'samples.tif'}: damaged, or of a kind that Pillow cannot decode: Invalid value")


def test_remarks_to_others_are_left_alone(tmp_path, caplog):
    "While one thread decodes for us, another that uses Pillow itself hears what Pillow has to say"
    remarkable(tmp_path)
    inside, go_on, seen = threading.Event(), threading.Event(), []
    original = sscq_images._decoded
    def slow(*a): inside.set(); assert go_on.wait(20); return original(*a)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        patch.setattr(sscq_images, "_decoded", slow)
        reader = threading.Thread(target=lambda: seen.append(load_image(tmp_path / "exif.jpg", 8)))
        reader.start()
        assert inside.wait(20)
        with Image.open(tmp_path / "exif.jpg") as image: image.getexif()
        with pytest.raises(UnidentifiedImageError): Image.open(tmp_path / "samples.tif")
        go_on.set(); reader.join()
    assert len(seen) == 1 and any("EXIF" in str(w.message) for w in heard)
    assert any("samples per pixel" in r.message for r in caplog.records)
    with pytest.warns(UserWarning, match="EXIF"), Image.open(tmp_path / "exif.jpg") as image: image.getexif()
    assert load_image(tmp_path / "exif.jpg", 8) is not None and load_image(tmp_path / "frames.png", 8) is not None


def test_what_was_told_is_not_told_again(tmp_path):
    fill(tmp_path, 3); (tmp_path / "notes.txt").touch(); (tmp_path / "zz.png").touch()
    with pytest.warns(SkippedFiles, match="notes.txt: not named"): images = as_images(tmp_path, 3, 8)
    with pytest.warns(SkippedFiles, match="zz.png: an empty file"): in_memory(images)
    with pytest.warns(SkippedFiles, match="^skipped 1 of 5 files, each named before$"): images = as_images(tmp_path, 3, 8)
    with pytest.warns(SkippedFiles, match="^skipped 1 of 4 files, each named before$"): in_memory(images)
    (tmp_path / "more.txt").touch()
    with pytest.warns(SkippedFiles, match="skipped 2 of 6 files\n.*more.txt.*\n.*notes.txt"): find_images(tmp_path)


# ---- broken files


def png_of(width, height):
    "The start of a PNG that claims a size"
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, body, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def whole_jpeg(tmp_path):
    photo(200, 150).save(tmp_path / "whole.tmp", "JPEG"); raw = (tmp_path / "whole.tmp").read_bytes(); (tmp_path / "whole.tmp").unlink()
    return raw


def ftyp(*brands):
    "The start of a file as MPEG-4 has it; HEIC and AVIF are among them"
    return struct.pack(">I4s4sI", 16 + 4 * (len(brands) - 1), b"ftyp", brands[0], 0) + b"".join(brands[1:]) + bytes(200)


BROKEN = {
    "zero.jpg": (lambda p, t: p.touch(), "an empty file"),
    "cut.jpg": (lambda p, t: p.write_bytes(whole_jpeg(t)[:1500]), "damaged: image file is truncated"),
    "head.jpg": (lambda p, t: p.write_bytes(whole_jpeg(t)[:20]), "damaged"),
    "letter.png": (lambda p, t: p.write_text("hello"), "not a picture, whatever its name says"),
    "zip.jpg": (lambda p, t: p.write_bytes(b"PK\x03\x04" + bytes(500)), "not a picture"),
    # Pillow on its own would start Ghostscript for this one
    "script.gif": (lambda p, t: p.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not a picture"),
    "bomb.png": (lambda p, t: p.write_bytes(png_of(30_000, 30_000)), r"enormous, over 89,478,485 pixels: .*--max-pixels, or PIL.Image.MAX_IMAGE_PIXELS"),
    "half-bomb.png": (lambda p, t: p.write_bytes(png_of(10_000, 10_000)), r"enormous, over 89,478,485 pixels: .*--max-pixels, or PIL.Image.MAX_IMAGE_PIXELS"),
    "lost.jpg": (lambda p, t: p.symlink_to("nowhere.jpg"), "a link to nothing"),
    "circle.jpg": (lambda p, t: p.symlink_to("circle.jpg"), "a link that leads back to itself"),
    "pipe.jpg": (lambda p, t: os.mkfifo(p), "not a file"),
    "absent.jpg": (lambda p, t: None, "no such file"),
    "checksum.png": (lambda p, t: p.write_bytes(png_of(4, 4).replace(b"IDAT", b"IDAX")), "damaged"),
    "phone.jpg": (lambda p, t: p.write_bytes(ftyp(b"heic", b"mif1", b"heic")), "HEIC: install pillow-heif .pip install 'sscq.heif.'., or convert it"),
    "mif1.heic": (lambda p, t: p.write_bytes(ftyp(b"mif1", b"heic")), "HEIC: install pillow-heif"),
    "raw.jpg": (lambda p, t: p.write_bytes(ftyp(b"crx ", b"isom")), "a camera's raw file: convert it to JPEG"),
    "xl.jpg": (lambda p, t: p.write_bytes(b"\xff\x0a" + bytes(50)), "JPEG XL: convert it to JPEG"),
    "2000.png": (lambda p, t: p.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50)), "JPEG 2000: convert it to JPEG or PNG"),
    "camera.nef": (lambda p, t: photo().save(p, "TIFF"), "a camera's raw file: convert it to JPEG"),  # its thumbnail would be read
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file(tmp_path, name, monkeypatch):
    make, reason = BROKEN[name]
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    make(tmp_path / name, tmp_path)
    with pytest.raises(Unreadable, match=reason) as caught: load_image(tmp_path / name, 16)
    assert caught.value.skipped.path == tmp_path / name and name in str(caught.value) and "\n" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.skipped == caught.value.skipped


def test_no_permission(tmp_path, monkeypatch):
    photo().save(tmp_path / "a.jpg")
    def refuse(*a, **k): raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(sscq_images, "open", refuse, raising=False)
    with pytest.raises(Unreadable, match="a.jpg: no permission to read it"): load_image(tmp_path / "a.jpg", 16)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_no_permission_for_real(tmp_path):
    photo().save(tmp_path / "a.jpg"); (tmp_path / "a.jpg").chmod(0)
    (tmp_path / "shut").mkdir(mode=0)
    found, skipped = scan(tmp_path)
    with pytest.raises(Unreadable, match="no permission"): load_image(found[0], 16)
    assert "cannot be entered" in skipped[0].reason
    (tmp_path / "shut").chmod(stat.S_IRWXU)


def test_running_out_of_memory_is_not_the_files_fault(tmp_path, monkeypatch):
    photo().save(tmp_path / "a.jpg")
    def full(*a): raise MemoryError
    monkeypatch.setattr(sscq_images, "_square", full)
    with pytest.raises(MemoryError): load_image(tmp_path / "a.jpg", 16)


def test_running_out_of_file_handles_is_not_the_files_fault(tmp_path, monkeypatch):
    fill(tmp_path, 2)
    images = as_images(tmp_path, 3, 8)
    def full(*a, **k): raise OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr(sscq_images, "open", full, raising=False)
    with pytest.raises(OSError, match="Too many open files"): in_memory(images)
    assert not images.skipped
    monkeypatch.undo()
    assert len(in_memory(images)) == 2


def test_what_the_system_says_is_no_damage(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(Unreadable, match="b.jpg: cannot be read: Not a directory$"): load_image(tmp_path / "a" / "b.jpg", 8)


def test_the_limit_is_pillows(tmp_path, monkeypatch):
    photo().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 36 - 1)
    with pytest.raises(Unreadable, match="enormous, over 1,727 pixels"): load_image(tmp_path / "a.png", 16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(tmp_path / "a.png", 16).shape == (3, 16, 16)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp", ".tiff"])
def test_any_damage_gives_a_picture_or_a_reason(tmp_path, suffix):
    path, rng = tmp_path / f"a{suffix}", np.random.default_rng(0)
    photo(60, 40).save(path)
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    seen = set()
    for _ in range(60):
        bad = raw[:rng.integers(1, len(raw) + 1)].copy()
        for at in rng.integers(0, min(len(bad), 400), rng.integers(0, 6)): bad[at] = rng.integers(256)
        path.write_bytes(bad.tobytes())
        try: seen.add(type(load_image(path, 8)))  # Pillow remarks on odd tags; here that would be an error
        except Unreadable as error: assert "\n" not in str(error); seen.add(Unreadable)
    assert Unreadable in seen


def test_names_fit_in_one_line():
    odd = SkippedFile(Path("a\nb\u202e\ud800/ü 🌵.jpg"), "why")
    assert str(odd) == "a\\nb\\u202e\\ud800/ü 🌵.jpg: why"
    str(odd).encode()  # can be printed
    text = skip_report([odd] * 25, 1000)
    assert text.startswith("skipped 25 of 1,000 files\n") and text.count("\n") == 21 and text.endswith("and 5 more, most of them: why (5)")
    many = [SkippedFile(Path("a"), reason) for reason in ["no"] * 20 + ["damaged: 1", "damaged: 2", "no", "x\ny", "z"]]
    assert skip_report(many, 25).endswith("  … and 5 more, most of them: damaged (2), no (1), x\\ny (1)")


HOSTILE = "a\x1b[31m\n\u202e"


def test_messages_show_names_on_one_line(tmp_path):
    "No escape sequence, newline or change of direction of a name reaches a terminal"
    bad = tmp_path / HOSTILE
    (bad / "empty").mkdir(parents=True); (bad / "q.jpg").write_text("no"); (bad / "empty" / f"{HOSTILE}.txt").touch()
    fill(bad / "train" / "x", 1); fill(bad / "test" / f"y{HOSTILE}", 1); fill(bad / "flat" / "train", 1)
    (bad / "img.txt").write_text("a.jpg\n\nb.jpg"); (bad / "targets.txt").write_text("0 1\n" * 3)
    (bad / "f").mkdir(); (bad / "f" / "img.txt").write_text(f"{HOSTILE[:4]}.jpg\n" * 3); (bad / "f" / "targets.txt").write_text("0 1\n0 1\n0 x\x1b[0m")
    calls = [lambda: find_images(bad / "gone"), lambda: find_images(bad / "empty"), lambda: as_images(bad / "gone", 3, 8),
             lambda: as_images(bad / "q.jpg", 3, 8), lambda: labelled_folder(bad), lambda: labelled_folder(bad / "flat"),
             lambda: labelled_folder(bad / "empty"),
             lambda: flickr25k(bad, n_queries=1),
             lambda: flickr25k(bad / "f", n_queries=1), lambda: flickr25k(bad / "gone"), lambda: nuswide(bad), lambda: dataset(str(bad / "gone")),
             lambda: fashion_mnist(bad, download=False), lambda: load_image(bad / "gone.jpg", 8), lambda: in_memory(Pictures([bad / "q.jpg"], 8)),
             lambda: flickr25k(bad / "f", images=bad / "gone", n_queries=9)]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        said = []
        for call in calls:
            with pytest.raises((ValueError, OSError)) as caught: call()
            said.append(str(caught.value))
    for text in said: assert text.isprintable(), text
    for w in heard: assert all(line.isprintable() for line in str(w.message).split("\n")), w.message
    assert sum(r"\x1b" in text for text in said) == len(calls)


# ---- folders


def test_scan(tmp_path):
    root = tmp_path / "root"
    wanted = [*fill(root, 2), *fill(root / "nested" / "deep", 2, suffix=".JPG"), *fill(root / "ünï 🌵\nx", 1, suffix=".webp"),
              *fill(root / "album.jpg", 1)]
    fill(root / ".hidden", 1); (root / ".DS_Store").touch(); (root / "._000.png").touch()
    (root / "notes.txt").touch(); (root / "film.mp4").touch(); (root / "none").mkdir(); (root / "noname").touch()
    fill(tmp_path / "elsewhere", 1)
    (root / "to-elsewhere").symlink_to(tmp_path / "elsewhere")
    (root / "zz-again").symlink_to(tmp_path / "elsewhere")
    (root / "nested" / "loop").symlink_to(root)
    (root / "nested" / "above").symlink_to(tmp_path)
    (root / "nested" / "self").symlink_to("self")
    found, skipped = scan(root)
    assert found == sorted([*wanted, root / "to-elsewhere" / "000.png"])
    assert {s.path.relative_to(root).as_posix(): s.reason for s in skipped} == {
        "film.mp4": "not named like a picture", "noname": "not named like a picture", "notes.txt": "not named like a picture",
        "nested/self": "not named like a picture", "nested/loop": "a link to a folder that contains it",
        "nested/above": "a link to a folder that contains it",
        "zz-again": "a folder that is listed already, through a link"}
    with pytest.warns(SkippedFiles, match=f"skipped 7 of {len(found) + 7} files"): assert find_images(root) == found


def test_two_folders_that_link_to_each_other(tmp_path):
    fill(tmp_path / "a", 1); fill(tmp_path / "b", 1)
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b"); (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    found, skipped = scan(tmp_path)
    assert len(found) == 2 and len(skipped) == 2
    assert len(scan(tmp_path / "a")[0]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes only there")
def test_names_that_are_not_text(tmp_path):
    photo().save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff\xfe.png")
    x = as_images(tmp_path, 3, 16)
    assert in_memory(x).shape == (1, 3, 16, 16)
    os.truncate(x.paths[0], 40)
    with pytest.warns(SkippedFiles, match=r"\\udcff\\udcfe.png: damaged"), pytest.raises(ValueError, match="none of the 1"):
        in_memory(as_images(tmp_path, 3, 16))


def test_folders_without_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"): find_images(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"no pictures in .* looked for .avif .* and found 0 other files"): find_images(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="found 1 other files"): as_images(tmp_path, 3, 16)


def stranger(folder):
    "A folder with 12 pictures and every kind of broken file; what is left out, by name"
    fill(folder, 12)
    for name, (make, _) in BROKEN.items():
        if name != "absent.jpg": make(folder / name, folder)
    (folder / "loop").symlink_to(folder); (folder / "notes.txt").touch()
    return {*BROKEN, "loop", "notes.txt"} - {"absent.jpg"}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_strangers_folder(tmp_path, workers, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    left_out = stranger(tmp_path)
    n = len(BROKEN) - 2  # absent.jpg is not there, and a raw file is not named like a picture
    with pytest.warns(SkippedFiles, match=f"skipped 3 of {n + 15} files"): images = as_images(tmp_path, 3, 8)
    with pytest.warns(SkippedFiles, match=f"skipped {n} of {n + 12} files") as caught: got = list(read(images, in_tens(n + 12, 5), workers))
    said = [str(w.message) for w in caught if w.category is SkippedFiles]
    assert len(said) == 1 and all(name in said[0] for name in left_out - {"loop", "notes.txt", "camera.nef"})
    assert {s.path.name for s in images.skipped} == left_out and len(images.skipped) == n + 3
    rows = torch.cat([b.rows for b in got]).tolist()
    assert [images.paths[i].name for i in rows] == [f"{i:03}.png" for i in range(12)]
    assert torch.equal(torch.cat([b.images for b in got]), torch.stack([resize_center_crop(photo(16, 16, i), 8) for i in range(12)]))
    assert all(len(b.images) == len(b.rows) > 0 for b in got)


# ---- reading


class Counted(Dataset):
    "Remembers what was asked for; item i is filled with i"
    def __init__(self, n=40): self.n, self.asked = n, []
    def __len__(self): return self.n
    def __getitem__(self, i):
        self.asked.append(i)
        return torch.full((3, 2, 2), i % 256, dtype=torch.uint8)


@pytest.mark.parametrize("workers", [0, 1, 2, 7])
@pytest.mark.parametrize("size", [1, 7, 40, 64])
def test_read_keeps_order(workers, size):
    order = torch.randperm(40)
    got = list(read(Counted(), order.split(size), workers))
    assert torch.equal(torch.cat([b.rows for b in got]), order) and [len(b.rows) for b in got] == [len(i) for i in order.split(size)]
    assert torch.equal(torch.cat([b.images for b in got])[:, 0, 0, 0], order.to(torch.uint8))
    assert torch.equal(torch.cat(list(batches(Counted(), order.split(size), workers))), torch.cat([b.images for b in got]))


def test_read_from_a_tensor():
    x = torch.arange(60).view(5, 3, 2, 2)
    got = list(read(x, [torch.tensor([4, 0]), torch.tensor([2])]))
    assert torch.equal(got[0].images, x[[4, 0]]) and got[1].rows.tolist() == [2]
    assert [len(b) for b in batches(x, torch.arange(5).split(2))] == [2, 2, 1]


@pytest.mark.parametrize("workers", [1, 4])
def test_memory_is_flat_reading_never_runs_far_ahead(workers):
    images, size = Counted(50_000), 100
    for done, _ in enumerate(read(images, in_tens(50_000, size), workers), 1):
        assert len(images.asked) <= (done + sscq_reading.AHEAD) * size
        if done == 40: break


def test_without_workers_nothing_is_read_early():
    images = Counted()
    for done, _ in enumerate(read(images, in_tens(40), 0), 1): assert len(images.asked) == 10 * done


def test_reading_goes_on_while_the_caller_works():
    second = threading.Event()
    class Tells(Counted):
        def __getitem__(self, i):
            if i >= 10: second.set()
            return super().__getitem__(i)
    stream = read(Tells(), in_tens(40), 1)
    next(stream)
    assert second.wait(20)  # the second batch is on its way although nobody asked
    stream.close()


def test_stopping_early_leaves_no_thread():
    before = threading.active_count()
    for _ in read(Counted(), in_tens(40), 4): break
    stream = read(Counted(), in_tens(40), 4); next(stream); stream.close()
    assert threading.active_count() == before


def test_an_error_of_the_data_set_is_not_a_broken_file():
    class Faulty(Counted):
        def __getitem__(self, i): raise KeyError("my own bug")
    for workers in (0, 2):
        with pytest.raises(KeyError, match="my own bug"): list(read(Faulty(), in_tens(40), workers))


@pytest.mark.parametrize("rows", [torch.tensor(3), torch.tensor([False, True, True]), torch.tensor([0, 1], dtype=torch.uint8), torch.tensor([1.]), [0, 1]])
def test_rows_are_numbers_and_batches_of_them(rows):
    for images in (torch.zeros(3, 3, 2, 2, dtype=torch.uint8), Counted(3)):
        with pytest.raises(TypeError, match=r"must be a tensor \(B,\) of row numbers.*mask.nonzero"): list(read(images, iter([rows])))


def test_no_batches_are_no_error(): assert list(read(Counted(), [])) == []


def test_a_file_that_breaks_later(tmp_path):
    paths = fill(tmp_path, 30)
    images, order = as_images(tmp_path, 3, 8), torch.arange(30).split(5)
    sizes = []
    with pytest.warns(SkippedFiles, match="skipped 2 of 30 files"):
        for done, x in enumerate(batches(images, order, 1)):
            sizes.append(len(x))
            if done == 0: paths[27].unlink(); paths[29].write_bytes(b"")
    assert sizes == [5, 5, 5, 5, 5, 3]
    assert [str(s).split(": ")[1] for s in images.skipped] == ["no such file", "an empty file"]
    assert sum(len(x) for x in batches(images, order, 2)) == 28  # known by now: silent


def test_a_bad_file_is_tried_once(tmp_path, monkeypatch):
    fill(tmp_path, 4); (tmp_path / "zz.png").touch()
    images, tried = as_images(tmp_path, 3, 8), []
    monkeypatch.setattr(sscq_reading, "load_image", lambda path, *a: tried.append(path.name) or load_image(path, *a))
    with pytest.warns(SkippedFiles): list(read(images, [torch.arange(5)]))
    assert [len(x) for x in batches(images, [torch.arange(3), torch.tensor([4]), torch.tensor([3, 4])])] == [3, 1]
    assert tried.count("zz.png") == 1


def test_nothing_left_to_read(tmp_path):
    for name in "abc": (tmp_path / f"{name}.jpg").write_text("no")
    images = as_images(tmp_path, 3, 8)
    with pytest.warns(SkippedFiles), pytest.raises(ValueError, match="none of the 3 pictures can be read; the first: .*a.jpg: not a"):
        list(read(images, in_tens(3, 2)))
    with pytest.raises(ValueError, match="none of the 3"): list(batches(images, in_tens(3)))
    with pytest.raises(ValueError, match="none of the 3"): ready(images)


# ---- the one way in


class Pairs(Dataset):
    def __init__(self, items): self.items = items
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]


def test_as_images_takes_what_people_have(tmp_path):
    paths, want = fill(tmp_path, 3), torch.stack([resize_center_crop(photo(16, 16, i), 8) for i in range(3)])
    assert torch.equal(in_memory(as_images(tmp_path, 3, 8)), want) and torch.equal(in_memory(as_images(str(tmp_path), 3, 8)), want)
    assert torch.equal(in_memory(as_images(paths, 3, 8)), want) and torch.equal(in_memory(as_images(tuple(map(str, paths)), 3, 8)), want)
    assert torch.equal(as_images(paths[0], 3, 8), want[:1]) and torch.equal(as_images(photo(16, 16, 0), 3, 8), want[:1])
    assert as_images(want, 3, 8) is want and torch.equal(as_images(want / 255, 3, 8), want) and torch.equal(as_images(want.numpy(), 3, 8), want)
    for items in ([photo(16, 16, i) for i in range(3)], [(photo(16, 16, i), i) for i in range(3)],
                  list(want), [(x, "label", 7) for x in want], [[x / 255] for x in want]):
        images = as_images(Pairs(items), 3, 8)
        assert len(images) == 3 and torch.equal(in_memory(images), want) and as_images(images, 3, 8) is images
    assert torch.equal(in_memory(as_images(TensorDataset(want, torch.arange(3)), 3, 8)), want)
    assert as_images(paths[0], 1, 5).shape == as_images(photo(7, 90, mode="CMYK"), 1, 5).shape == (1, 1, 5, 5)


class Endless(IterableDataset):
    def __iter__(self): yield 0


@pytest.mark.parametrize("source, error, message", [
    (np.zeros((2, 8, 8, 3), np.uint8), ValueError, "8 channels, the model takes 3"), (7, TypeError, "not int"), (None, TypeError, "not NoneType"),
    (Endless(), TypeError, "not Endless"),
    (ImageSet(torch.zeros(2, 3, 8, 8)), TypeError, "not ImageSet"), ([object()], TypeError, "item 0 of the list of images must be .* not object"),
    ([], ValueError, "no images: the list is empty"), (Pairs([]), ValueError, "no images: the Pairs is empty"),
    (Pairs([{"image": 0}]), TypeError, "item 0 of the Dataset is a dict of image: say which"),
    (Pairs([()]), TypeError, "not tuple"), (Pairs([(1, photo())]), TypeError, "not int"),
    (Pairs([torch.zeros(1, 8, 8)]), ValueError, "item 0 of the Dataset: images have 1 channels"),
    (Pairs([torch.zeros(3, 9, 9)]), ValueError, "item 0 of the Dataset: images are 9×9"),
    (Pairs([torch.zeros(8, 8)]), ValueError, "item 0 of the Dataset"),
    (Pairs([torch.zeros(3, 8, 8).long()]), TypeError, "item 0 of the Dataset: images of torch.int64"),
    (Pictures(["a.jpg"], 16), ValueError, "read as 3×16×16, the model takes 3×8×8"),
    (DatasetImages(Pairs([photo()]), 8, 1), ValueError, "read as 1×8×8, the model takes 3×8×8"),
    ("no/such/place", FileNotFoundError, "no/such/place does not exist: give a folder or a picture"),
])
def test_as_images_refuses(source, error, message):
    with pytest.raises(error, match=message): as_images(source, 3, 8)


def test_a_query_that_is_no_picture(tmp_path):
    (tmp_path / "q.jpg").write_text("no")
    with pytest.raises(ValueError, match="q.jpg: not a picture"): as_images(tmp_path / "q.jpg", 3, 8)


def test_a_later_item_that_is_no_image():
    images = as_images(Pairs([photo()] * 3 + ["photo"]), 3, 8)
    with pytest.raises(TypeError, match="item 3 of the Dataset must be"): list(batches(images, in_tens(4), 2))


def test_in_memory_and_ready(tmp_path, capsys):
    fill(tmp_path, 300); (tmp_path / "150x.png").touch()
    images = as_images(tmp_path, 3, 8)
    with pytest.warns(SkippedFiles, match="skipped 1 of 301"): x = in_memory(images, progress=True)
    assert x.shape == (300, 3, 8, 8) and x.dtype == torch.uint8 and in_memory(x) is x and ready(x) is x
    assert "reading" in capsys.readouterr().err
    assert torch.equal(x[150], load_image(tmp_path / "150.png", 8)) and torch.equal(x[151], load_image(tmp_path / "151.png", 8))
    assert torch.equal(ready(images), x) and torch.equal(ready(images, limit=301 * 192), x)
    fresh = as_images(tmp_path, 3, 8)
    with pytest.warns(SkippedFiles): lazy = ready(fresh, limit=301 * 192 - 1)
    assert isinstance(lazy, Pictures) and len(lazy) == 300 and [s.path.name for s in lazy.skipped] == ["150x.png"]
    assert torch.equal(torch.cat(list(batches(lazy, in_tens(300)))), x)
    wrapped = as_images(TensorDataset(x), 3, 8)
    assert torch.equal(ready(wrapped), x) and ready(wrapped, limit=9) is wrapped


def test_progress_is_quiet_where_nobody_watches(tmp_path, capsys):
    fill(tmp_path, 3)
    in_memory(as_images(tmp_path, 3, 8))
    assert capsys.readouterr().err == ""


# ---- protocols, on miniature copies in the original file formats


def idx(array): return struct.pack(">HBB" + "I" * array.ndim, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist(tmp_path, packed):
    raw, rng, want = tmp_path / "FashionMNIST" / "raw", np.random.default_rng(0), {}
    raw.mkdir(parents=True)
    for part, n in (("train", 20), ("t10k", 6)):
        want[part] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)
        for name, array in zip(("images-idx3", "labels-idx1"), want[part]):
            (raw / f"{part}-{name}-ubyte").write_bytes(idx(array))
            if packed: (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    d = fashion_mnist(tmp_path, download=False)
    assert (d.name, d.topk, d.classes[0], len(d.classes)) == ("Fashion-MNIST", 1000, "T-shirt/top", 10) and d.train is d.database.images
    for part, got in (("train", d.database), ("t10k", d.query)):
        assert torch.equal(got.images[:, 0], torch.from_numpy(want[part][0])) and got.labels.tolist() == want[part][1].tolist()
    assert torch.equal(dataset("fashion-mnist", tmp_path).train, d.train)


@pytest.mark.parametrize("torn", [b"", b"<html>not found</html>", idx(np.zeros((20, 28, 28), np.uint8))[:-5], idx(np.zeros((19, 28, 28), np.uint8))])
def test_a_download_that_broke_off(tmp_path, torn):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(torn if part == "train" else idx(np.zeros((20, 28, 28), np.uint8)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.zeros(20, np.uint8)))
    for download in (True, False):
        with pytest.raises(FileNotFoundError, match="Fashion-MNIST is not in .*: [^;]+; .*a download broke off: delete them"):
            fashion_mnist(tmp_path, download)


def test_cifar10(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10
    folder, rng = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    rows = {name: (rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.integers(0, 10, 4).tolist()) for name in names}
    for name, (x, y) in rows.items(): (folder / name).write_bytes(pickle.dumps({"data": x, "labels": y}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    # torchvision knows the checksums of the real files
    with pytest.raises(FileNotFoundError, match="CIFAR-10 is not in .*download=False"): cifar10(tmp_path, download=False)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, None] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    d = cifar10(tmp_path)
    assert (d.name, d.topk, d.classes) == ("CIFAR-10", 1000, tuple("abcdefghij")) and d.train is d.database.images
    assert torch.equal(d.train, torch.from_numpy(np.concatenate([rows[n][0] for n in names[:5]]).reshape(-1, 3, 32, 32)))
    assert d.train.is_contiguous() and d.query.labels.tolist() == rows["test_batch"][1] and len(d.database.labels) == 20
    assert torch.equal(dataset("cifar10", tmp_path).train, d.train)


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("Error downloading")])
def test_download_that_fails(tmp_path, monkeypatch, error):
    from torchvision.datasets import CIFAR10, FashionMNIST
    def fail(self): raise error
    for kind, reader in ((CIFAR10, cifar10), (FashionMNIST, fashion_mnist)):
        monkeypatch.setattr(kind, "download", fail)
        with pytest.raises(FileNotFoundError, match=f"is not in {tmp_path}, and cannot be downloaded: "): reader(tmp_path)


def mini_flickr(root, n=12, folder="mirflickr", labels=4):
    fill(root / folder, n, size=(30, 20), suffix=".jpg")
    rows = torch.randint(2, (n, labels))
    (root / "img.txt").write_text("".join(f"{i:03}.jpg\n" for i in range(n)))
    (root / "targets.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows.tolist()))
    return rows


def test_flickr25k(tmp_path):
    rows = mini_flickr(tmp_path)
    d = flickr25k(tmp_path, n_queries=5)
    assert (d.name, d.topk) == ("FLICKR25K", 5000) and d.train is d.database.images and len(d.train) == 7
    number = lambda p: int(p.stem)
    query, rest = ([number(p) for p in s.images.paths] for s in (d.query, d.database))
    assert query + rest == np.random.RandomState(2022).permutation(12).tolist()  # the seed of the protocol; disjoint and complete
    assert torch.equal(d.query.labels, rows[query]) and torch.equal(d.database.labels, rows[rest])
    assert d.train[0].shape == (3, 224, 224) and torch.equal(d.train[0], resize_center_crop(Image.open(d.train.paths[0]), 224, resize=256))
    other = flickr25k(tmp_path, n_queries=5, seed=1)
    assert [number(p) for p in other.query.images.paths] != query
    moved = tmp_path / "far away"
    (tmp_path / "mirflickr").rename(moved)
    assert flickr25k(tmp_path, n_queries=5, images=moved).train.paths[0].parent == moved


def test_flickr25k_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="img.txt"): flickr25k(tmp_path)
    mini_flickr(tmp_path)
    with pytest.raises(ValueError, match="lists 12 pictures, too few for n_queries=2,000"): flickr25k(tmp_path)
    good = (tmp_path / "targets.txt").read_text()
    for text, message in ((good + "0 0 0 1\n", "img.txt has 12 lines, targets.txt has 13"),
                          (good.replace("0", "2", 1), f"targets.txt, line {good[:good.index('0')].count(chr(10)) + 1}: needs 4 zeros and ones"),
                          (good[:-4] + "\n", "line 12: needs 4 zeros and ones"), ("\n", "targets.txt is empty")):
        (tmp_path / "targets.txt").write_text(text)
        with pytest.raises(ValueError, match=message): flickr25k(tmp_path, n_queries=3)
    (tmp_path / "targets.txt").write_text(good)
    with pytest.raises(FileNotFoundError, match="000.jpg and the pictures listed after it are not in .*: give images=FOLDER"):
        flickr25k(tmp_path, tmp_path / "x", n_queries=3)


def test_flickr25k_needs_queries(tmp_path):
    mini_flickr(tmp_path)
    for n in (-3, 0):
        with pytest.raises(ValueError, match=f"n_queries={n} must be at least 1"): flickr25k(tmp_path, n_queries=n)


def test_lists_as_editors_write_them(tmp_path):
    mini_flickr(tmp_path)
    text = (tmp_path / "img.txt").read_text()
    (tmp_path / "img.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    d = flickr25k(tmp_path, n_queries=2)
    assert all(p.exists() for s in (d.query, d.database) for p in s.images.paths)
    (tmp_path / "img.txt").write_text(text, encoding="utf-16")
    with pytest.raises(ValueError, match="img.txt must be text in UTF-8"): flickr25k(tmp_path, n_queries=2)
    # a gap in one list and another elsewhere in the other: as many lines, but labels beside the wrong pictures
    lines = text.split("\n")
    (tmp_path / "img.txt").write_text("\n".join([*lines[:4], "", *lines[4:]]))
    with pytest.raises(ValueError, match="img.txt, line 5: empty lines may only stand at the end"): flickr25k(tmp_path, n_queries=2)


def mini_nuswide(root, folder="Flickr/a b"):
    fill(root / folder, 9, size=(20, 30), suffix=".jpg")
    labels = torch.randint(2, (9, 21))
    for name, which in (("database", range(0, 6)), ("train", range(2, 5)), ("test", range(6, 9))):
        (root / f"{name}.txt").write_text("".join(f"{folder}/{i:03}.jpg {' '.join(map(str, labels[i].tolist()))}\n" for i in which))
    return labels


def test_nuswide(tmp_path):
    labels = mini_nuswide(tmp_path / "nuswide")
    d = nuswide(tmp_path / "nuswide")
    assert (d.name, d.topk) == ("NUS-WIDE", 5000) and d.train is d.database.images
    assert torch.equal(d.database.labels, labels[:6]) and torch.equal(d.query.labels, labels[6:])
    assert [p.stem for p in d.query.images.paths] == ["006", "007", "008"] and d.query.images[0].shape == (3, 224, 224)
    few = nuswide(tmp_path / "nuswide", train="train")
    assert [p.stem for p in few.train.paths] == ["002", "003", "004"] and len(few.database.labels) == 6
    assert len(dataset("nuswide", tmp_path).train) == 6


def test_nuswide_refuses(tmp_path):
    mini_nuswide(tmp_path)
    with pytest.raises(ValueError, match="train='test' is unknown; choose one of database, train"): nuswide(tmp_path, train="test")
    text = (tmp_path / "database.txt").read_text().splitlines()
    (tmp_path / "database.txt").write_text("\n".join([*text[:2], text[2][:-2]]))
    with pytest.raises(ValueError, match="database.txt, line 3: needs 21 zeros and ones"): nuswide(tmp_path)
    (tmp_path / "database.txt").unlink()
    with pytest.raises(FileNotFoundError, match="database.txt"): nuswide(tmp_path)


def sorted_folder(root, suffix=".png"):
    for part, n in (("train", 5), ("test", 2)):
        for name in ("cat", "dog", "ship"): fill(root / part / name, n, suffix=suffix)
    return root


def test_labelled_folder(tmp_path):
    d = labelled_folder(sorted_folder(tmp_path / "pets"), size=8)
    assert (d.name, d.topk, d.classes) == ("pets", 1000, ("cat", "dog", "ship"))
    assert d.train is d.database.images and d.train[0].shape == (3, 8, 8)
    assert d.database.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5 and d.query.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert all(p.parent.name == d.classes[y] for s in (d.database, d.query) for p, y in zip(s.images.paths, s.labels.tolist()))
    assert dataset(str(tmp_path / "pets")).train.size == 32
    (tmp_path / "pets/train/stray.png").write_bytes((tmp_path / "pets/train/cat/000.png").read_bytes())
    with pytest.warns(SkippedFiles, match="stray.png: not in a class's folder"): d = labelled_folder(tmp_path / "pets")
    assert len(d.train) == len(d.database.labels) == 15 and d.train.skipped[0].path.name == "stray.png"


def test_labelled_folder_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="train is not a folder"): labelled_folder(tmp_path)
    sorted_folder(tmp_path)
    fill(tmp_path / "test" / "horse", 1)
    with pytest.raises(ValueError, match="test has classes that training lacks: horse"): labelled_folder(tmp_path)
    fill(tmp_path / "flat" / "train", 2)
    with pytest.warns(SkippedFiles), pytest.raises(ValueError, match="train has no folder of pictures for each class"):
        labelled_folder(tmp_path / "flat")


def test_labels_leave_with_their_pictures(tmp_path):
    d = labelled_folder(sorted_folder(tmp_path), size=8)
    d.train.paths[6].write_bytes(b""); d.query.images.paths[0].unlink()
    with pytest.warns(SkippedFiles): whole = data_in_memory(d, progress=False)
    assert whole.database.labels.tolist() == [0] * 5 + [1] * 4 + [2] * 5 and whole.query.labels.tolist() == [0, 1, 1, 2, 2]
    assert whole.train is whole.database.images and whole.train.shape == (14, 3, 8, 8)
    assert torch.equal(whole.train[6], load_image(d.train.paths[7], 8))
    again = data_in_memory(whole)
    assert again.train is whole.train and torch.equal(again.query.labels, whole.query.labels)
    apart = data_in_memory(d._replace(train=Pictures(d.query.images.paths[1:3], 8), query=ImageSet(d.query.images)), progress=False)
    assert apart.train.shape == (2, 3, 8, 8) and apart.query.labels is None


def test_a_data_set_too_large_for_memory(tmp_path):
    d = labelled_folder(sorted_folder(tmp_path), size=8)
    d.train.paths[6].write_bytes(b"")
    with pytest.warns(SkippedFiles): checked = data_ready(d, limit=6 * 192, progress=False)
    assert isinstance(checked.train, Pictures) and checked.train is checked.database.images and len(checked.train) == 14
    assert checked.database.labels.tolist() == [0] * 5 + [1] * 4 + [2] * 5 and checked.train.skipped[0].reason == "an empty file"
    assert isinstance(checked.query.images, torch.Tensor) and len(checked.query.images) == 6


def test_names_of_data_sets(tmp_path):
    assert dataset("digits").name == "digits"
    with pytest.raises(ValueError, match="'cifar100' is not a folder, nor one of digits, fashion-mnist, cifar10, flickr25k, nuswide"):
        dataset("cifar100")
    mini_flickr(tmp_path / "flickr25k")
    with pytest.raises(ValueError, match="too few for n_queries=2,000"): dataset("flickr25k", tmp_path)


# ---- labels stay out of training


class Forbidden:
    "A label that objects to every use"
    def __getattribute__(self, name): raise AssertionError(f"training looked at a label ({name})")
    def __eq__(self, other): raise AssertionError("training compared a label")
    __hash__ = __int__ = __index__ = __float__ = __len__ = __iter__ = __bool__ = __getitem__ = __add__ = __array__ = __eq__


def weights_after_training(images):
    from sscq.codebook import ProductQuantizer
    from sscq.train import TrainConfig, fit
    from sscq.views import digit_view
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), ProductQuantizer(2, 4, 4))
    fit(model, images, view=digit_view, config=TrainConfig(epochs=1, batch_size=32, seed=0), progress=False)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_cannot_see_labels():
    d = digits()
    d = d._replace(train=d.train[:64])
    plain = weights_after_training(d.train)
    # items that carry labels: they are dropped before anyone can look
    trapped = as_images(Pairs([(x, Forbidden()) for x in d.train]), 1, 8)
    assert torch.equal(weights_after_training(in_memory(trapped)), plain)
    assert torch.equal(weights_after_training(trapped), plain)
    # other labels, same weights: nothing of them reaches the model
    shuffled = d._replace(database=ImageSet(d.database.images, torch.zeros_like(d.database.labels)))
    assert torch.equal(weights_after_training(shuffled.train), plain)
    for x in batches(trapped, in_tens(20)): assert type(x) is torch.Tensor and x.dtype == torch.uint8 and x.shape[1:] == (1, 8, 8)


def test_train_has_no_room_for_labels(tmp_path):
    mini_flickr(tmp_path / "f"); mini_nuswide(tmp_path / "n"); sorted_folder(tmp_path / "l")
    for d in (digits(), flickr25k(tmp_path / "f", n_queries=2), nuswide(tmp_path / "n"), labelled_folder(tmp_path / "l", size=8)):
        assert isinstance(d, RetrievalData) and isinstance(d.train, torch.Tensor | Pictures)
        assert not any(k in dir(d.train) for k in ("labels", "targets", "classes"))
        x = d.train[0]
        assert type(x) is torch.Tensor and x.dtype == torch.uint8 and x.ndim == 3


@pytest.mark.parametrize("channels, size", [(3, 16), (1, 16), (3, 40), (1, 24)])
def test_resized_tensors_are_what_pillow_makes_of_them(channels, size):
    pictures = [photo(24, 24, seed) for seed in range(5)]
    x = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures])
    y = resized(x, channels, size)
    assert y.shape == (5, channels, size, size) and y.dtype == torch.uint8
    near(y, torch.stack([resize_center_crop(p, size, channels) for p in pictures]), 2)
    grey = resized(x[:, :1], 3, 24)
    assert torch.equal(grey, x[:, :1].expand(-1, 3, -1, -1)) and resized(x, 3, 24) is x


def test_resized_takes_floats_and_refuses_what_is_no_square():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(resized(x, 3, 4), resized(check_images(x, 3), 3, 4)) and resized(x, 3, 8).dtype == torch.uint8
    for images, channels, size, error, message in (
        (torch.zeros(2, 3, 8, 12), 3, 8, ValueError, "must be squares"), (torch.zeros(2, 4, 8, 8), 3, 4, ValueError, "1 or 3"),
        (x, 2, 8, ValueError, "channels=2"), (x, 3, 0, ValueError, "size=0"), (Counted(), 3, 4, TypeError, "not Counted: in_memory"),
    ):
        with pytest.raises(error, match=message): resized(images, channels, size)


def test_resized_data_keep_labels_protocol_and_what_is_known_to_be_broken(tmp_path):
    mini_flickr(tmp_path)
    d = flickr25k(tmp_path, n_queries=2)
    small = data_resized(d, 1, 14)
    assert small.train is small.database.images and small.train.size == 14 and small.train.channels == 1 and small.train.resize == 16
    assert torch.equal(small.query.labels, d.query.labels) and small.topk == d.topk and small.database.images.paths == d.database.images.paths
    near(small.query.images[0], load_image(d.query.images.paths[0], 14, 1, 16), 0)
    assert small.train.unreadable is d.train.unreadable
    d = digits()
    big = data_resized(d, 3, 16)
    assert big.train.shape == (1497, 3, 16, 16) and torch.equal(big.database.labels, d.database.labels)


def test_importing_data_is_light():
    code = "import sys, sscq.data; print([m for m in ('torchvision', 'sklearn', 'plotly', 'faiss', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ---- settings


def odd_calls(folder):
    "Each call, the setting it must name, and whether it is a matter of type"
    paths, x = fill(folder / "p", 3), torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    pictures, row = Pictures(paths, 8), [torch.tensor([0])]
    mini_flickr(folder / "f"); mini_nuswide(folder / "n"); sorted_folder(folder / "l")
    counts = (True, "8", 8., None, 0, -1, 2 ** 40, [8], np.float32(8), torch.tensor(1.5), float("nan"))
    def each(name, call, values): return [(name, value, partial(call, value)) for value in values]
    return [
        *each("size", lambda v: resize_center_crop(photo(), v), counts), *each("channels", lambda v: resize_center_crop(photo(), 8, v), (*counts, 2, 4)),
        *each("resize", lambda v: resize_center_crop(photo(), 8, 3, v), [v for v in counts if v is not None]),
        *each("image", lambda v: resize_center_crop(v, 8), (None, 5, "a.jpg", x)), *each("path", lambda v: load_image(v, 8), (None, 5, "", "a\0b", b"a", [])),
        *each("size", lambda v: load_image(paths[0], v), counts), *each("size", lambda v: Pictures(paths, v), counts),
        *each("paths", lambda v: Pictures(v, 8), (None, 5, "a", Path("a"), [1], [None], ["a\0"], [paths])),
        *each("channels", lambda v: as_images(x, v, 8), counts), *each("size", lambda v: as_images(x, 3, v), counts),
        *each("images", lambda v: as_images(v, 3, 8), (None, 5, object(), [], [5], {}, {"a"}, "", "a\0")),
        *each("images", lambda v: as_images(v, 3, 8), (np.array("a"), np.array([None]), np.zeros((1, 3, 8, 8), np.uint16))),
        *each("channels", lambda v: check_images(x, v), counts), *each("images", lambda v: check_images(v, 3), (None, 5, "a", [], np.zeros((1, 3, 8, 8)))),
        *each("size", lambda v: DatasetImages(TensorDataset(x), v), counts),
        *each("images", lambda v: list(read(v, row)), (None, 5, "", object())), *each("indices", lambda v: list(read(x, v)), (None, 5)),
        *each("indices", lambda v: list(read(pictures, v)), ("ab", [5], [None], [[0]])),
        *each("rows", lambda v: list(read(pictures, [torch.tensor([v])])), (3, 99, -4)),
        *each("workers", lambda v: list(read(pictures, row, v)), (True, "1", 1., None, -1, 2 ** 40)),
        *each("workers", lambda v: list(batches(pictures, row, v)), (True, "1", -1)), *each("workers", lambda v: in_memory(pictures, v), (True, "1", -1)),
        *each("progress", lambda v: in_memory(pictures, 0, v), (1, "no")), *each("images", in_memory, (None, 5, paths, str(folder))),
        *each("limit", lambda v: ready(pictures, v), (None, "1", True, -1, float("nan"))), *each("images", ready, (None, 5, "a")),
        *each("folder", find_images, (None, 5, "", "a\0", True)), *each("folder", scan, (None, 5, "")),
        *each("seed", digits, (True, "0", 0.5, None, -1, 2 ** 32)), *each("root", lambda v: fashion_mnist(v, False), (None, 5, "")),
        *each("download", lambda v: cifar10(folder, v), (1, None, "no")),
        *each("n_queries", lambda v: flickr25k(folder / "f", n_queries=v), (True, "2", 2., None, 0, -1)), *each("root", flickr25k, (None, 5, "")),
        *each("seed", lambda v: flickr25k(folder / "f", n_queries=2, seed=v), (True, "0", None, -1, 2 ** 32)),
        *each("images", lambda v: flickr25k(folder / "f", v, 2), (5, True, "")),
        *each("train", lambda v: nuswide(folder / "n", train=v), (None, 5, True, "test", [])),
        *each("root", nuswide, (None, 5, "")), *each("root", labelled_folder, (None, 5, "")),
        *each("topk", lambda v: labelled_folder(folder / "l", topk=v), counts),
        *each("size", lambda v: labelled_folder(folder / "l", v), counts),
        *each("dataset", dataset, (None, 5, True, "", "nothing", b"digits", ["digits"])), *each("root", lambda v: dataset("digits", v), (None, 5)),
        *each("data", data_ready, (None, 5, x)), *each("data", lambda v: data_resized(v, 3, 8), (None, 5, x)),
        *each("size", lambda v: resized(x, 3, v), counts), *each("channels", lambda v: resized(x, v, 8), counts),
        *each("images", lambda v: resized(v, 3, 8), (None, 5, "a")),
    ]


def tell_unclear(folder):
    "Prints each call that passes or fails with an error that does not name the setting, and how many calls there were"
    calls = odd_calls(folder)
    for name, value, call in calls:
        try: call()
        except (TypeError, ValueError, IndexError, OSError) as error:
            text = str(error)
            if name not in text.lower() and "no pictures" not in text or not text.isprintable() or "object is not" in text: print(f"{name}={value!r}: {text!r}")
        except BaseException as error: print(f"{name}={value!r}: {error!r}")
        else: print(f"{name}={value!r} passed")
    print(len(calls))


def test_odd_settings_are_named(tmp_path):
    "Python's own errors name neither the setting nor the way out; run without the type checks that other tests have"
    code = ("import sys, warnings; from pathlib import Path; warnings.simplefilter('ignore'); sys.path.insert(0, sys.argv[2]); import test_data\n"
            "test_data.numbers_of_numpy(Path(sys.argv[1], 'numpy')); test_data.tell_unclear(Path(sys.argv[1]))")
    done = children.run(code, tmp_path, Path(__file__).parent)
    *unclear, n = done.stdout.splitlines() or [done.stderr]
    assert not unclear, "\n".join(unclear)
    assert int(n) > 200, done.stderr


def numbers_of_numpy(folder):
    n = np.int64
    pictures = Pictures(fill(folder, 3), n(8), n(3), n(9))
    assert [type(v) for v in (pictures.size, pictures.channels, pictures.resize)] == [int] * 3
    assert list(batches(pictures, in_tens(3), n(1)))[0].shape == (3, 3, 8, 8) and ready(pictures, np.float64(1e9), n(0)).shape == (3, 3, 8, 8)
    assert torch.equal(digits(n(0)).query.images, digits().query.images) and resized(torch.zeros(1, 3, 8, 8), n(1), n(4)).shape == (1, 1, 4, 4)
    assert as_images(folder, n(3), n(8)).size == 8 and as_images(np.zeros((2, 8, 8, 3), np.uint8).transpose(0, 3, 1, 2)[:, ::-1], 3, 8).shape == (2, 3, 8, 8)


def test_two_photos_are_a_collection(tmp_path):
    fill(tmp_path, 2)
    assert len(find_images(tmp_path)) == 2 and ready(as_images(tmp_path, 3, 8)).shape == (2, 3, 8, 8)


def test_labels_are_well_formed(tmp_path):
    "Classes (N,), or two columns or more: a single column of zeros and ones could be either"
    mini_flickr(tmp_path / "f"); mini_nuswide(tmp_path / "n"); sorted_folder(tmp_path / "l")
    for d in (digits(), flickr25k(tmp_path / "f", n_queries=2), nuswide(tmp_path / "n"), labelled_folder(tmp_path / "l", size=8)):
        for images, labels in (d.database, d.query):
            assert labels.dtype == torch.int64 and len(labels) == len(images) and labels.min() >= 0
            assert labels.ndim == 1 or labels.shape[1] > 1 and set(labels.unique().tolist()) <= {0, 1}
    (tmp_path / "f" / "targets.txt").write_text("1\n" * 12)
    with pytest.raises(ValueError, match="targets.txt needs two concepts or more, has 1 a line"): flickr25k(tmp_path / "f", n_queries=2)
    d = labelled_folder(tmp_path / "l", size=8)
    with pytest.raises(ValueError, match="l: 14 labels for 15 images"): data_ready(d._replace(database=d.database._replace(labels=d.database.labels[1:])))


# ---- emoji in colour, which the package carries


def test_twemoji_is_a_collection_in_colour_with_its_credit(tmp_path):
    data = twemoji(16)
    assert data.train.shape == (1603, 3, 16, 16) and data.query.images.shape == (303, 3, 16, 16) and data.train is data.database.images
    assert len(data.classes) == 9 and set(data.query.labels.tolist()) == set(data.database.labels.tolist()) == set(range(9))
    rows = (data.train.float().flatten(1).unique(dim=0), data.query.images.float().flatten(1).unique(dim=0))
    assert len(torch.cat(rows).unique(dim=0)) > .95 * 1906  # hands and families in many colours differ by little at 16 pixels
    assert (data.train.amax(1) != data.train.amin(1)).flatten(1).any(1).double().mean() > .8  # colours, not grey
    assert torch.equal(dataset("twemoji").query.labels, data.query.labels) and dataset("twemoji").train.shape[2] == 64
    home = Path(sscq_reading.__file__).with_name("pictures")
    assert "CC BY 4.0" in (home / "CREDITS.md").read_text() and sum(f.stat().st_size for f in home.iterdir()) < 2_000_000
    with pytest.raises(ValueError, match="size=65"): twemoji(65)


def test_twemoji_lies_in_a_folder_as_somebody_s_own_pictures_would(tmp_path):
    data, folder = twemoji(24), twemoji(24, tmp_path / "emoji")
    assert torch.equal(in_memory(folder.database.images), data.train) and torch.equal(in_memory(folder.query.images), data.query.images)
    assert folder.classes == data.classes and torch.equal(folder.query.labels, data.query.labels)
    assert (tmp_path / "emoji" / "train" / "Food-Drink" / "pizza.png").exists() or (tmp_path / "emoji" / "test" / "Food-Drink" / "pizza.png").exists()


def test_the_wheel_is_told_of_every_file_that_is_no_module():
    here = Path(__file__).parents[1]
    if not (here / "setup.py").exists(): pytest.skip("an installed copy has no setup.py")
    patterns = re.search(r"package_data=\{lib: \[(.*?)\]\}", (here / "setup.py").read_text()).group(1).replace('"', "").split(", ")
    known = {file for pattern in patterns for file in (here / "sscq").glob(pattern)}
    others = {f for f in (here / "sscq").rglob("*") if f.is_file() and f.suffix != ".py" and "__pycache__" not in f.parts}
    assert others <= known and any(f.name == "CREDITS.md" for f in known)
