"Views against torchvision, one image at a time: the same pixels for the same numbers, the same distribution of numbers."
import colorsys
import math
from functools import partial
from pathlib import Path

import children
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from sscq.views import (
    VIEWS, affine_matrices, apply_jitter, blend, blur, color_jitter, crop_resize, digit_view, draw_boxes, draw_jitter, gaussian_blur,
    photo_view, random_affine, random_flip, random_gray, random_ink, random_resized_crop, resize_weights, sample_affine, shift_hue,
    to_float, to_gray, two_views, uniform)

SHAPES = [(1, 2, 2), (3, 8, 8), (4, 5, 17), (7, 32, 32), (2, 61, 40)]
close = torch.testing.assert_close
def needs_cuda(test): return pytest.mark.cuda(pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")(test))


def images(B, H, W, C=3, seed=0): return torch.rand(B, C, H, W, generator=torch.Generator().manual_seed(seed))
def column(*values): return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
def each(op, x, numbers): return torch.stack([op(image, number) for image, number in zip(x, numbers.flatten().tolist())])


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    "Two only get in each other's way on pictures this small"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# crop

@pytest.mark.parametrize("H, W", [(32, 32), (224, 224), (20, 90), (4, 400), (400, 4), (3, 3)])
def test_boxes_are_the_first_candidates_that_fit(H, W):
    B, scale, ratio = 200, (.08, 1.), (3 / 4, 4 / 3)
    torch.manual_seed(1)
    boxes = draw_boxes(torch.empty(B, 1, H, W), scale, ratio)
    torch.manual_seed(1)  # the same draws, and the loop of torchvision's RandomResizedCrop.make_params
    areas, ratios = H * W * torch.empty(B, 10).uniform_(*scale), torch.empty(B, 10).uniform_(*(math.log(r) for r in ratio)).exp()
    down, across = torch.rand(B), torch.rand(B)
    for i, box in enumerate(boxes.tolist()):
        for a, r in zip(areas[i], ratios[i]):
            h, w = (a / r).sqrt().round().item(), (a * r).sqrt().round().item()
            if 0 < w <= W and 0 < h <= H:
                assert box == [math.floor(down[i].item() * (H - h + 1)), math.floor(across[i].item() * (W - w + 1)), h, w]
                break
        else: assert box == fall_back(H, W, ratio)


def fall_back(H, W, ratio):
    p = v2.RandomResizedCrop(8, (9., 9.), ratio).make_params([torch.empty(1, H, W)])  # nine times the area never fits
    return [p[name] for name in ("top", "left", "height", "width")]


@pytest.mark.parametrize("H, W", [(32, 32), (4, 400), (400, 4), (30, 31), (7, 10)])
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1., 1.), (2., 3.)])
def test_fall_back_is_torchvisions(H, W, ratio):
    assert draw_boxes(torch.empty(3, 3, H, W), (9., 9.), ratio).tolist() == [fall_back(H, W, ratio)] * 3


@pytest.mark.parametrize("H, W, ratio", [(400, 1, (3., 3.5)), (1, 400, (.2, .3))])
def test_the_smallest_fall_back_is_a_pixel(H, W, ratio):
    boxes = draw_boxes(torch.empty(3, 1, H, W), ratio=ratio)
    assert boxes[:, 2:].min() >= 1 and crop_resize(torch.ones(3, 1, H, W), boxes, 4).eq(1).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(.01, 1.), st.integers(0, 9))
def test_boxes_lie_inside(H, W, low, seed):
    torch.manual_seed(seed)
    top, left, h, w = draw_boxes(torch.empty(50, 1, H, W), (low, 1.)).unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all() and (top + h <= H).all() and (left + w <= W).all()
    assert all((v == v.round()).all() for v in (top, left, h, w))


def test_the_last_place_is_reached_and_never_passed():
    u = torch.tensor(1 - 2.**-24)  # the largest number that a uniform draw gives
    places = torch.arange(1, 5000.)
    assert torch.equal((u * places).floor(), places - 1)


@pytest.mark.parametrize("B, H, W", SHAPES)
@pytest.mark.parametrize("size", [1, 7, 32, 50])
def test_crop_matches_torchvision(B, H, W, size):
    x = images(B, H, W)
    boxes = draw_boxes(x)
    want = torch.stack([tvf.resized_crop(image, *box, [size, size]) for image, box in zip(x, boxes.int().tolist())])
    close(crop_resize(x, boxes, size), want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("B, H, W", SHAPES)
def test_crop_keeps_the_shape(B, H, W):
    x = images(B, H, W)
    boxes = draw_boxes(x)
    want = torch.stack([tvf.resized_crop(image, *box, [H, W]) for image, box in zip(x, boxes.int().tolist())])
    close(crop_resize(x, boxes), want, atol=2e-5, rtol=0)
    close(crop_resize(x, torch.tensor([[0., 0, H, W]] * B)), x)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 29), st.integers(1, 30))
def test_weights_sum_to_one_and_stay_in_the_box(n, size, start, length):
    start = min(start, n - 1); length = min(length, n - start)
    w = resize_weights(torch.tensor([float(start)]), torch.tensor([float(length)]), n, size)[0]
    close(w.sum(1), torch.ones(size))
    assert (w >= 0).all() and (w[:, :start] == 0).all() and (w[:, start + length:] == 0).all()


def test_crop_sees_nothing_outside_of_its_box():
    x = torch.full((1, 3, 12, 12), 9.)
    x[..., 3:7, 2:9] = 1
    close(crop_resize(x, torch.tensor([[3., 2., 4., 7.]]), 20), torch.ones(1, 3, 20, 20))


# colour

@pytest.mark.parametrize("B, H, W", SHAPES)
def test_blends_match_torchvision(B, H, W):
    x = images(B, H, W)
    amount, gray = uniform(x, 0, 2), to_gray(x)
    mean = gray.mean((1, 2, 3), keepdim=True)
    close(gray, tvf.rgb_to_grayscale(x))
    for base, op in ((0 * mean, tvf.adjust_brightness), (mean, tvf.adjust_contrast), (gray, tvf.adjust_saturation)):
        close(blend(base, x, amount), each(op, x, amount), atol=1e-6, rtol=0)


@pytest.mark.parametrize("B, H, W", SHAPES)
def test_hue_matches_torchvision(B, H, W):
    x = images(B, H, W)
    turn = uniform(x, -.5, .5)
    close(shift_hue(x, turn), each(tvf.adjust_hue, x, turn), atol=5e-6, rtol=0)


channel = st.one_of(st.sampled_from([0., .25, .5, 1.]), st.floats(0, 1, width=32))


@settings(deadline=None, max_examples=200)
@given(channel, channel, channel, st.floats(-3, 3, width=32))
def test_hue_matches_colorsys(r, g, b, turn):
    h, s, v = colorsys.rgb_to_hsv(r, g, b)
    want = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
    got = shift_hue(column(r, g, b).view(1, 3, 1, 1), column(turn)).flatten()
    close(got, torch.tensor(want, dtype=torch.float32), atol=3e-6, rtol=0)


def test_hue_turns_like_a_wheel():
    x, turn = images(5, 9, 9), column(.1, -.2, .3, .45, -.5)
    close(shift_hue(shift_hue(x, turn), -turn), x, atol=2e-6, rtol=0)
    close(shift_hue(x, column(*[1.] * 5)), x, atol=2e-6, rtol=0)
    primaries = torch.eye(3).view(3, 3, 1, 1)
    close(shift_hue(primaries, column(*[1 / 3] * 3)), primaries.roll(-1, 0), atol=2e-6, rtol=0)
    gray = to_gray(x).expand(-1, 3, -1, -1)
    assert torch.equal(shift_hue(gray, turn), gray)


def orders(drawn, B):
    "Image -> (kinds in order with 3 for the hue, amounts in order)"
    n = len(drawn.place)
    for i, image in enumerate(drawn.place.tolist()):
        if image >= B: continue
        kinds = drawn.kind[:, i].flatten().tolist()
        amounts = dict(zip(kinds, drawn.amount[:, i].flatten().tolist()))
        kinds.insert(4 * i // n, 3)
        yield image, i, kinds, amounts


@pytest.mark.parametrize("B", [1, 2, 3, 4, 5, 30])
def test_jitter_matches_torchvision_in_every_order(B):
    x, jitter = images(B, 6, 7), v2.ColorJitter(.4, .4, .4, .1)
    drawn = draw_jitter(x, p=.7)
    want = x.clone()
    for image, i, kinds, amounts in orders(drawn, B):
        if drawn.applied[image]: want[image] = jitter.transform(x[image], dict(
            fn_idx=kinds, brightness_factor=amounts[0], contrast_factor=amounts[1], saturation_factor=amounts[2],
            hue_factor=drawn.turn[i].item()))
    close(apply_jitter(x, drawn), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("B", [1, 3, 6, 24])
def test_all_orders_are_as_likely(B):
    x, counts = torch.empty(B, 3, 1, 1), {}
    for _ in range(1200 if B < 24 else 100):
        for image, _i, kinds, _ in orders(draw_jitter(x), B):
            if image == 0 or B > 6: counts[tuple(kinds)] = counts.get(tuple(kinds), 0) + 1
    total = sum(counts.values())
    assert len(counts) == 24
    chi2 = sum((c - total / 24)**2 / (total / 24) for c in counts.values())
    assert chi2 < 58.6  # 23 degrees of freedom: exceeded once in 16,000


def test_jitter_draws_from_the_stated_ranges():
    drawn = draw_jitter(torch.empty(4000, 3, 1, 1), .4, .1, .8)
    for values, low, high in ((drawn.amount, .6, 1.4), (drawn.turn, -.1, .1)):
        assert low <= values.min() and values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < .02 * (high - low) and abs(values.std() - (high - low) / 12**.5) < .02 * (high - low)
    assert abs(drawn.applied.float().mean() - .8) < .02


def test_probabilities_of_0_and_1():
    x = images(6, 5, 5)
    assert torch.equal(random_flip(x, 0.), x) and torch.equal(random_flip(x, 1.), x.flip(-1))
    assert torch.equal(random_gray(x, 0.), x) and torch.equal(random_gray(x, 1.), to_gray(x).expand_as(x))
    assert torch.equal(color_jitter(x, p=0.), x)
    close(color_jitter(x, strength=0., hue=0., p=1.), x)


@pytest.mark.parametrize("op, p", [(random_flip, .5), (random_gray, .2), (color_jitter, .8)])
def test_probabilities_are_kept(op, p):
    x = images(1, 3, 4).expand(4000, -1, -1, -1)
    changed = (op(x) != x).flatten(1).any(1).float().mean().item()
    assert abs(changed - p) < .03


# blur

@pytest.mark.parametrize("B, H, W", SHAPES)
def test_blur_matches_torchvision(B, H, W):
    x = images(B, H, W)
    sigma = uniform(x, .1, 2.)
    close(blur(x, sigma), each(lambda image, s: tvf.gaussian_blur(image, 3, [s, s]), x, sigma), atol=1e-6, rtol=0)


def test_blur_keeps_a_flat_image():
    x = torch.full((3, 1, 5, 6), .3)
    close(gaussian_blur(x), x)


# affine

def test_rotation_matches_torchvision():
    x, one, none = images(4, 15, 15, 1), torch.ones(4, 1, 1, 1), torch.zeros(4, 1, 1, 1)
    degrees = column(-40., -5., 20., 90.)
    got = sample_affine(x, affine_matrices(x, degrees * math.pi / 180, one, one, none, none, none))
    want = each(lambda image, a: tvf.rotate(image, a, tvf.InterpolationMode.BILINEAR), x, degrees)
    close(got, want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("H, W", [(16, 16), (12, 20), (20, 12)])
def test_affine_matches_torchvision(H, W):
    "Rotation of a stretch that is alike in both directions, and a shift: torchvision has the inverse map's parameters"
    x, none = images(3, H, W, 3), torch.zeros(3, 1, 1, 1)
    degrees, scale = column(-12., 7., 30.), column(.8, 1.1, 1.)
    got = sample_affine(x, affine_matrices(x, degrees * math.pi / 180, scale, scale, none, none, none))
    want = torch.stack([tvf.affine(image, -a, [0, 0], 1 / s, [0., 0.], tvf.InterpolationMode.BILINEAR)
                        for image, a, s in zip(x, degrees.flatten().tolist(), scale.flatten().tolist())])
    close(got, want, atol=1e-4, rtol=0)


def test_shift_is_in_half_sides():
    x, one, none = images(1, 8, 8, 1), torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    right = sample_affine(x, affine_matrices(x, none, one, one, none, column(-2 / 8), none))  # to look one pixel left is to move right
    close(right[..., 1:], x[..., :-1], atol=1e-6, rtol=0)
    assert right[..., 0].abs().max() < 1e-6


@pytest.mark.parametrize("C, H, W", [(1, 8, 8), (3, 28, 28), (2, 5, 9)])
def test_digit_view_takes_any_shape(C, H, W):
    v = digit_view(images(6, H, W, C))
    assert v.shape == (6, C, H, W) and v.min() >= 0 and v.max() <= 1
    assert random_affine(images(2, H, W, C)).shape == random_ink(images(2, H, W, C)).shape == (2, C, H, W)


def test_affine_and_ink_without_strength_do_nothing():
    x = images(3, 8, 8, 1)
    close(random_affine(x, 0., 0., 0., 0.), x, atol=1e-5, rtol=0)
    close(random_ink(x, 0., 0.), x)


# whole recipes

def statistics(v):
    gray, chroma, half = to_gray(v), v.amax(1) - v.amin(1), v.shape[-1] // 2
    values = {"brightness": gray.mean((1, 2, 3)), "contrast": gray.std((1, 2, 3)), "chroma": chroma.mean((1, 2)),
              "red": v[:, 0].mean((1, 2)) - v[:, 1].mean((1, 2)), "blue": v[:, 2].mean((1, 2)) - v[:, 1].mean((1, 2)),
              "left": (v[..., :half] - v[..., half:]).mean((1, 2, 3)), "top": (v[..., :half, :] - v[..., half:, :]).mean((1, 2, 3)),
              "edges": (v[..., 1:] - v[..., :-1]).abs().mean((1, 2, 3)), "lightest": v.amax((1, 2, 3)), "middle": v[:, 0, half, half]}
    return {name: value.sort().values for name, value in values.items()}


def ks(a, b):
    "Kolmogorov and Smirnov's statistic of two sorted samples"
    grid = torch.cat([a, b])
    return (torch.searchsorted(a, grid, right=True) / len(a) - torch.searchsorted(b, grid, right=True) / len(b)).abs().max().item()


def picture(side):
    "A coloured, lopsided picture with edges"
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    disc = ((x - .6)**2 + (y - .4)**2 < .06).float()
    grain = .2 * torch.rand(side, side, generator=torch.Generator().manual_seed(0))
    return torch.stack([.2 + .5 * disc, .3 + .5 * x * (1 - disc), .6 * y + .2 * disc]) + grain


@pytest.fixture(scope="module")
def theirs(one_thread):
    "2,000 views of one picture by torchvision, one at a time"
    torch.manual_seed(0)
    recipe = v2.Compose([v2.RandomResizedCrop(24, antialias=True), v2.RandomHorizontalFlip(),
                         v2.RandomApply([v2.ColorJitter(.4, .4, .4, .1)], .8), v2.RandomGrayscale(.2), v2.GaussianBlur(3, (.1, 2.))])
    return torch.stack([recipe(picture(24)) for _ in range(2000)])


def test_photo_view_has_torchvisions_distribution(theirs):
    "Two samples of one distribution stay below the limit in all but one of 20,000 trials (ten statistics, each once in 200,000)"
    n = len(theirs)
    ours = photo_view(picture(24).expand(n, -1, -1, -1))
    a, b = statistics(ours), statistics(theirs)
    limit = math.sqrt(-.5 * math.log(.5 * 5e-6)) * math.sqrt(2 / n)
    assert {name: gap for name in a if (gap := ks(a[name], b[name])) > limit} == {}
    error = (ours.var(0) / n + theirs.var(0) / n).sqrt()  # of a pixel's mean
    assert ((ours.mean(0) - theirs.mean(0)).abs() / error).max() < 5.5
    assert ((ours.std(0) / theirs.std(0)) - 1).abs().max() < .1


@pytest.mark.parametrize("wrong", [
    lambda x: gaussian_blur(random_gray(color_jitter(random_flip(random_resized_crop(x, scale=(.3, 1.)))))),
    lambda x: gaussian_blur(random_gray(color_jitter(random_resized_crop(x)))),
    lambda x: gaussian_blur(random_gray(color_jitter(random_flip(random_resized_crop(x)), p=1.))),
    lambda x: gaussian_blur(random_gray(color_jitter(random_flip(random_resized_crop(x)), hue=.05))),
    lambda x: gaussian_blur(color_jitter(random_flip(random_resized_crop(x)))),
    lambda x: random_gray(color_jitter(random_flip(random_resized_crop(x)))),
], ids=["scale", "no flip", "always jitter", "half the hue", "no grey", "no blur"])
def test_that_comparison_notices_a_wrong_recipe(theirs, wrong):
    n = len(theirs)
    a, b = statistics(wrong(picture(24).expand(n, -1, -1, -1))), statistics(theirs)
    assert max(ks(a[name], b[name]) for name in a) > math.sqrt(-.5 * math.log(.5 * 5e-6)) * math.sqrt(2 / n)


@pytest.mark.parametrize("B, H, W", SHAPES)
def test_photo_view_takes_any_shape(B, H, W):
    v = photo_view(images(B, H, W))
    assert v.shape == (B, 3, H, W) and v.dtype == torch.float32 and v.min() >= 0 and v.max() <= 1
    assert photo_view(images(B, H, W), size=16).shape == (B, 3, 16, 16)


@pytest.mark.parametrize("name, C", [("photo", 3), ("gentle", 3), ("digit", 1)])
def test_every_image_gets_numbers_of_its_own(name, C):
    v = VIEWS[name](images(1, 16, 16, C).expand(32, -1, -1, -1))
    assert torch.cdist(v.flatten(1), v.flatten(1)).fill_diagonal_(1).min() > 0


@pytest.mark.parametrize("name, C", [("photo", 3), ("gentle", 3), ("digit", 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_views_are_float32_whatever_came_in(name, C, dtype):
    x = images(4, 8, 8, C).to(dtype)
    torch.manual_seed(3); a = VIEWS[name](x)
    torch.manual_seed(3); b = VIEWS[name](x.float())
    assert a.dtype == torch.float32 and torch.equal(a, b)


@pytest.mark.parametrize("name, C", [("photo", 3), ("gentle", 3), ("digit", 1)])
def test_same_seed_same_views(name, C):
    x = (images(5, 8, 8, C) * 255).to(torch.uint8)
    torch.manual_seed(7); first = two_views(x, VIEWS[name])
    torch.manual_seed(7); again = two_views(x, VIEWS[name])
    other = two_views(x, VIEWS[name])
    assert all(torch.equal(a, b) for a, b in zip(first, again)) and not torch.equal(first[0], other[0]) and not torch.equal(*first)


@pytest.mark.parametrize("name, C", [("photo", 3), ("gentle", 3), ("digit", 1)])
def test_input_is_left_alone(name, C):
    x = images(6, 8, 8, C)
    before = x.clone()
    VIEWS[name](x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name, C", [("photo", 3), ("gentle", 3), ("digit", 1)])
def test_no_step_looks_at_a_number(name, C):
    "A meta tensor has no numbers, so `.item()`, `nonzero` or a boolean index would raise"
    assert VIEWS[name](torch.empty(10, C, 32, 32, device="meta")).shape == (10, C, 32, 32)


@needs_cuda
@pytest.mark.parametrize("name, C", [("photo", 3), ("gentle", 3), ("digit", 1)])
def test_no_synchronisation_on_cuda(name, C):
    x = torch.randint(256, (64, C, 32, 32), dtype=torch.uint8, device="cuda")
    two_views(x, VIEWS[name])  # libraries start up
    torch.cuda.set_sync_debug_mode("error")
    try: a, b = two_views(x, VIEWS[name])
    finally: torch.cuda.set_sync_debug_mode("default")
    assert a.device.type == "cuda" and a.min() >= 0 and b.max() <= 1


@needs_cuda
def test_cuda_agrees_with_cpu():
    x = images(6, 20, 20)
    boxes, drawn, sigma = draw_boxes(x), draw_jitter(x), uniform(x, .1, 2.)
    def run(device):
        y = crop_resize(x.to(device), boxes.to(device), 16)
        return blur(apply_jitter(y, type(drawn)(**{name: v.to(device) for name, v in vars(drawn).items()})), sigma.to(device)).cpu()
    close(run("cuda"), run("cpu"), atol=1e-5, rtol=0)


# input

def test_to_float():
    x = torch.arange(256, dtype=torch.uint8)
    assert torch.equal((to_float(x) * 255).round().to(torch.uint8), x) and to_float(x).max() == 1
    half = torch.rand(3).half()
    assert to_float(half) is half


@pytest.mark.parametrize("call, error, message", [
    (lambda: photo_view(images(2, 8, 8, 1)), ValueError, "need 3 channels, not 1: use digit_view"),
    (lambda: photo_view(images(2, 8, 8, 4)), ValueError, "not 4"),
    (lambda: photo_view(images(2, 8, 8)[0]), ValueError, r"\(3, 8, 8\) must be \(B, C, H, W\); one image is images\[None\]"),
    (lambda: digit_view(images(2, 8, 8)[0]), ValueError, r"one image is images\[None\]"),
    (lambda: photo_view(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), TypeError, "torch.uint8 must be floating point.*to_float"),
    (lambda: photo_view(images(2, 1, 8)), ValueError, "1×8 pixels are too small to blur: at least 2×2"),
    (lambda: photo_view(images(2, 8, 8), size=1), ValueError, "at least 2×2"),
    (lambda: to_float(torch.zeros(2, dtype=torch.int64)), TypeError, "torch.int64 must be uint8 in 0…255, or floating point in 0…1"),
    (lambda: two_views(torch.zeros(2, 3, 8, 8, dtype=torch.bool)), TypeError, "torch.bool"),
    (lambda: draw_boxes(images(2, 8, 8), scale=(0., 1.)), ValueError, "scale=0.0 must be positive"),
    (lambda: draw_boxes(images(2, 8, 8), ratio=(2., 1.)), ValueError, r"ratio=\(2.0, 1.0\) must have its lower end first"),
    (lambda: color_jitter(images(2, 8, 8), strength=1.5), ValueError, "strength=1.5"),
    (lambda: color_jitter(images(2, 8, 8), hue=.6), ValueError, "hue=0.6 must be at most 0.5"),
    (lambda: random_flip(images(2, 8, 8), p=50), ValueError, "p=50 must be at most 1"),
    (lambda: random_gray(images(2, 8, 8), p=-.1), ValueError, "p=-0.1"),
    (lambda: color_jitter(images(2, 8, 8), p=math.nan), ValueError, "p=nan"),
    (lambda: random_gray(images(2, 8, 8, 1)), ValueError, "need 3 channels, not 1"),
    (lambda: color_jitter(images(2, 8, 8, 4)), ValueError, "need 3 channels, not 4"),
    (lambda: color_jitter(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), TypeError, "torch.uint8 must be floating point"),
    (lambda: photo_view(images(2, 8, 8), size=0), ValueError, "size=0 must be at least 1"),
    (lambda: random_resized_crop(images(2, 8, 8), size=0), ValueError, "size=0 must be at least 1"),
    (lambda: digit_view(images(0, 8, 8)), ValueError, r"no images: there is a 0 in their shape \(0, 3, 8, 8\)"),
    (lambda: photo_view(images(0, 8, 8)), ValueError, "no images"),
])
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message): call()


def odd_calls():
    "Each call with a setting or images that make no sense, and the name that its error must have"
    x, grey = images(2, 8, 8), images(2, 8, 8, 1)
    numbers = ("5", None, True, math.nan, math.inf, -1, [1], torch.tensor([.1, .2]), 1j)
    counts = ("5", 5., True, 0, -1, 2 ** 40, [8])
    spans = (5, None, "ab", (1,), (1, 2, 3), (2, 1), ("a", "b"), (True, 2), (math.nan, 1), (0, 1), (-1, 1), (.1, math.inf))
    def named(name, call, values): return [(name, value, partial(call, value)) for value in values]
    no_images = (None, 5, "a", [1], torch.zeros(3, 8, 8), torch.zeros(0, 3, 8, 8), torch.zeros(2, 3, 8, 8).int(),
                 torch.zeros(2, 3, 8, 8, dtype=torch.complex64))
    views = (photo_view, digit_view, VIEWS["gentle"], random_flip, random_gray, color_jitter, random_resized_crop, gaussian_blur, random_affine, random_ink)
    return [
        *named("p", lambda v: random_flip(x, v), numbers), *named("p", lambda v: random_gray(x, v), numbers),
        *named("p", lambda v: color_jitter(x, p=v), numbers),
        *named("strength", lambda v: color_jitter(x, v), numbers), *named("hue", lambda v: color_jitter(x, hue=v), numbers),
        *named("scale", lambda v: random_resized_crop(x, v), spans), *named("ratio", lambda v: random_resized_crop(x, ratio=v), spans),
        *named("tries", lambda v: draw_boxes(x, tries=v), counts), *named("sigma", lambda v: gaussian_blur(x, v), spans),
        *named("size", lambda v: random_resized_crop(x, size=v), counts), *named("size", lambda v: photo_view(x, v), counts),
        *named("size", lambda v: crop_resize(x, draw_boxes(x), v), counts),
        *[one for name in ("degrees", "scale", "shear", "shift") for one in named(name, lambda v, name=name: random_affine(grey, **{name: v}), numbers)],
        *[one for name in ("contrast", "noise") for one in named(name, lambda v, name=name: random_ink(grey, **{name: v}), numbers)],
        *named("padding", lambda v: sample_affine(grey, torch.zeros(2, 2, 3), v), (None, 5, "white")),
        *named("view", lambda v: two_views(x, v), (None, 5, "photo")),
        *named("images", two_views, (None, 5, "a", [1])), *[one for view in views for one in named("images", view, no_images)],
        *named("images", gaussian_blur, (torch.zeros(2, 3, 1, 8), torch.zeros(2, 3, 8, 1))),
    ]


def tell_unclear():
    "Prints each call that passes or fails with an error that does not name the setting, and how many calls there were"
    calls = odd_calls()
    for name, value, call in calls:
        try: call()
        except (TypeError, ValueError) as error:
            if name not in str(error) or not str(error).isprintable(): print(f"{name}={value!r}: {error}")
        except BaseException as error: print(f"{name}={value!r}: {error!r}")
        else: print(f"{name}={value!r} passed")
    print(len(calls))


def test_odd_settings_are_named():
    "Without the type checks that other tests have; errors of Python and PyTorch name neither the setting nor the way out"
    done = children.run("import sys; sys.path.insert(0, sys.argv[1]); import test_views; test_views.tell_unclear()", Path(__file__).parent)
    *unclear, n = done.stdout.splitlines() or [done.stderr]
    assert not unclear and int(n) > 250, "\n".join(unclear) or n
