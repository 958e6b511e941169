"Backbones and heads: shapes, initialisation, what is refused, and that they behave as any other module."
import copy
import shutil
from urllib.error import URLError

import children
import pytest
import torch
import torchvision.models as models
from torch import nn

from sscq.backbone import (
    BACKBONES, MIN_SIZE, Normalize, backbone_origin, branch_cnn, branch_parts, check_image_size, linear_head, make_backbone, make_head,
    pretrained_backbone, projection_head, resnet18_small, strided_cnn, tiny_cnn, without_classifier)

FEATURES = {"tiny_cnn": 512, "resnet18_small": 512, "resnet18": 512, "resnet50": 2048, "vgg16": 4096, "vit_b_16": 768, "strided_cnn": 512, "branch_cnn": 768}
TORCHVISION = ("resnet18", "resnet50", "vgg16", "vit_b_16")
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


def on_meta(name, channels=3):
    "A network with shapes and no numbers: quick, however large"
    with torch.device("meta"): return make_backbone(name, channels)


def test_the_lists_agree(): assert set(FEATURES) == set(BACKBONES) == set(MIN_SIZE)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("training", [False, True])
def test_shapes_from_the_smallest_size_on(name, training):
    net, n = on_meta(name)
    assert n == FEATURES[name]
    for size in {MIN_SIZE[name], MIN_SIZE[name] if name == "vit_b_16" else MIN_SIZE[name] + 5}:
        check_image_size(name, size)
        assert net.train(training)(torch.empty(3, 3, size, size, device="meta")).shape == (3, n)


@pytest.mark.parametrize("name", ["tiny_cnn", "strided_cnn", "branch_cnn", "resnet18_small", "resnet18"])
def test_features_are_numbers(name):
    net, n = make_backbone(name)
    x = torch.rand(4, 3, MIN_SIZE[name], MIN_SIZE[name])
    h = net(x)
    assert h.shape == (4, n) and h.isfinite().all() and h.std(0).max() > 0
    h.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", ["tiny_cnn", "strided_cnn", "branch_cnn", "resnet18_small"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels(name, channels):
    net, n = make_backbone(name, channels)
    assert net.eval()(torch.rand(2, channels, 12, 9)).shape == (2, n)


@pytest.mark.parametrize("size", [8, 9, 15, 16, 32, 48])
def test_branch_cnn_takes_any_size_from_8(size):
    net, n = branch_cnn(1, width=4)
    assert n == sum(net.widths) == 64 + 64 + 8 and net(torch.rand(3, 1, size, size)).shape == (3, n)


def test_branches_stay_apart_from_features_to_parts():
    net, n = branch_cnn(3, width=4)
    head = make_head(net, n, 8, 16, 32)
    x = torch.rand(6, 3, 16, 16)
    h = net(x).detach().requires_grad_()
    f = head(h)
    assert f.shape == (6, 128) and head.parts == (4, 2, 2)
    pieces = f.split([64, 32, 32], 1)
    for i, (piece, m) in enumerate(zip(pieces, head.parts)):
        assert torch.allclose(piece.norm(dim=1), torch.tensor(1.5 * m ** .5), atol=1e-4)
        seen = torch.autograd.grad(piece[:, 0].sum(), h, retain_graph=True)[0].split(net.widths, 1)
        assert [bool(g.abs().max() > 0) for g in seen] == [i == j for j in range(3)]


@pytest.mark.parametrize(("n_books", "parts"), [(1, (1, 0, 0)), (3, (3, 0, 0)), (4, (2, 1, 1)), (6, (4, 1, 1)), (8, (4, 2, 2)), (16, (8, 4, 4))])
def test_every_number_of_books_has_its_branches(n_books, parts):
    net, n = branch_cnn(3, width=4)
    head = make_head(net, n, n_books, 4, 1)
    f = head(net(torch.rand(4, 3, 16, 16)))
    assert branch_parts(n_books) == parts and sum(parts) == n_books == sum(head.parts) and f.shape == (4, 4 * n_books) and f.isfinite().all()
    assert torch.allclose(f.norm(dim=1), torch.tensor(1.5 * n_books ** .5), atol=1e-3)


@pytest.mark.parametrize("n_books", [1, 2, 8])
def test_strided_cnn_has_one_normalized_head(n_books):
    net, n = strided_cnn(3, width=4)
    head = make_head(net, n, n_books, 4, 8)
    f = head(net(torch.rand(5, 3, 16, 16)))
    assert head.parts == (n_books,) and f.shape == (5, 4 * n_books)
    assert torch.allclose(f.norm(dim=1), torch.tensor(1.5 * n_books ** .5), atol=1e-3)


def test_other_backbones_keep_the_release_s_head():
    torch.manual_seed(3)
    made = make_head(tiny_cnn()[0], 512, 4, 16, 32)
    torch.manual_seed(3)
    tiny_cnn()
    theirs = projection_head(512, 64, 32)
    assert str(made) == str(theirs) and all(torch.equal(a, b) for a, b in zip(made.parameters(), theirs.parameters()))


@pytest.mark.parametrize("size", [4, 5, 7, 8, 15, 28, 32])
def test_tiny_cnn_takes_any_size_from_4(size):
    net, n = tiny_cnn(1, width=4)
    assert n == 64 and net(torch.rand(3, 1, size, size)).shape == (3, 64)


def test_resnet18_small_differs_from_resnet18_in_its_stem_alone():
    small, plain = resnet18_small()[0], models.resnet18(weights=None)
    shapes, theirs = ({k: tuple(v.shape) for k, v in net.state_dict().items()} for net in (small, plain))
    assert shapes.pop("conv1.weight") == (64, 3, 3, 3) and theirs.pop("conv1.weight") == (64, 3, 7, 7)
    assert shapes == {k: v for k, v in theirs.items() if not k.startswith("fc.")}
    assert small.conv1.stride == (1, 1)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_features_are_its_own_up_to_the_classifier(name):
    net, _ = on_meta(name)
    with torch.device("meta"): theirs = models.get_model(name, weights=None)
    ours, all_keys = set(net.state_dict()), {f"1.{k}" for k in theirs.state_dict()}
    assert ours < all_keys and len(all_keys - ours) == 2  # the last layer's weight and bias


# normalisation

def test_normalize():
    x = torch.rand(2, 3, 4, 4)
    want = torch.stack([(x[:, c] - m) / s for c, (m, s) in enumerate(zip((.485, .456, .406), (.229, .224, .225)))], 1)
    close(Normalize()(x), want)
    close(Normalize((.5,), (.25,))(x[:, :1]), 4 * x[:, :1] - 2)


def test_normalize_leaves_the_state_dict_alone_and_moves_along():
    net = nn.Sequential(Normalize(), nn.Conv2d(3, 2, 1))
    assert set(net.state_dict()) == {"1.weight", "1.bias"}
    net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}, strict=True)
    assert net.to(torch.float64)[0].mean.dtype == torch.float64 and net.to("meta")[0].std.device.type == "meta"


def test_normalisation_is_inside():
    net, _ = make_backbone("resnet18")
    x = torch.rand(2, 3, 32, 32)
    close(net.eval()(x), net[1](Normalize()(x)))
    assert "0.mean" not in net.state_dict()


# head

@pytest.mark.parametrize("n, D, hidden", [(512, 64, 512), (2048, 256, 512), (100, 8, 300)])
def test_head_starts_as_in_the_release(n, D, hidden):
    head = projection_head(n, D, hidden)
    first, relu, last = head
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (n, hidden, hidden, D)
    assert isinstance(relu, nn.ReLU)
    w = first.weight
    assert abs(w.std().item() - .01) < 5 * .01 / (2 * w.numel())**.5
    assert abs(w.mean().item()) < 5 * .01 / w.numel()**.5
    assert abs((w.abs() < .01).float().mean().item() - .6827) < 5 * (.22 / w.numel())**.5  # a Gaussian's share within one σ
    bound = (6 / (hidden + D))**.5
    assert last.weight.abs().max() <= bound and abs(last.weight.std().item() / (bound / 3**.5) - 1) < .05
    assert (first.bias == 0).all() and (last.bias == 0).all()
    assert head(torch.rand(5, n)).shape == (5, D)


def test_linear_head(): assert linear_head(10, 6)(torch.rand(3, 10)).shape == (3, 6)


def test_same_seed_same_weights():
    def build(): torch.manual_seed(4); return nn.Sequential(make_backbone("tiny_cnn")[0], projection_head(512, 64))
    a, b = build().state_dict(), build().state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# like any other module

@pytest.mark.parametrize("name", ["tiny_cnn", "strided_cnn", "branch_cnn", "resnet18_small"])
@pytest.mark.parametrize("training", [False, True])
def test_channels_last_changes_nothing(name, training):
    net, _ = make_backbone(name)
    x = torch.rand(4, 3, 16, 16)
    other = copy.deepcopy(net).to(memory_format=torch.channels_last).train(training)
    close(other(x.contiguous(memory_format=torch.channels_last)), net.train(training)(x), atol=1e-4, rtol=1e-4)


def test_tiny_cnn_has_no_graph_break():
    net, _ = tiny_cnn(1, width=4)
    x = torch.rand(3, 1, 8, 8)
    close(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_tiny_cnn_compiles():
    net = tiny_cnn(1, width=2)[0].eval()
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad(): close(torch.compile(net)(x), net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["tiny_cnn", "resnet18_small", "resnet18", "resnet50"])
def test_cuda_agrees_with_cpu(name):
    net, n = make_backbone(name)
    x = torch.rand(4, 3, MIN_SIZE[name], MIN_SIZE[name])
    with torch.no_grad(): close(copy.deepcopy(net).eval().cuda()(x.cuda()).cpu(), net.eval()(x), atol=1e-2, rtol=1e-2)


# what is refused

@pytest.mark.parametrize("call, message", [
    (lambda: make_backbone("resnet19"), "'resnet19' is unknown; choose one of tiny_cnn, resnet18_small, resnet18, resnet50, vgg16"),
    (lambda: make_backbone("resnet50", 1), "resnet50 takes images of 3 channels, not 1; resnet18_small, tiny_cnn, strided_cnn and branch_cnn take any"),
    (lambda: make_backbone("tiny_cnn", 0), "channels=0 must be at least 1"),
    (lambda: check_image_size("tiny_cnn", 3), "tiny_cnn needs images of at least 4×4, these are 3×3: enlarge them$"),
    (lambda: check_image_size("resnet18_small", 7), "at least 8×8, these are 7×7: enlarge them, or take tiny_cnn"),
    (lambda: check_image_size("resnet50", 31), "at least 32×32, these are 31×31: enlarge them, or take tiny_cnn, resnet18_small"),
    (lambda: check_image_size("vgg16", 28), "vgg16 needs images of at least 32×32"),
    (lambda: check_image_size("vit_b_16", 256), "vit_b_16 takes images of 224×224 alone, not 256×256: resize them, or take tiny_cnn"),
    (lambda: check_image_size("vit_b_16", 32), "224×224 alone, not 32×32"),
    (lambda: check_image_size("tiny_cnn", 100_000), "100000×100000 need gigabytes each: shrink them to 2048×2048 or less"),
    (lambda: check_image_size("alexnet", 32), "backbone='alexnet' is unknown; choose one of"),
    (lambda: projection_head(512, 0), "D=0"),
    (lambda: pretrained_backbone("tiny_cnn"), "no pre-trained weights for backbone='tiny_cnn'; choose one of resnet18, resnet50"),
    (lambda: pretrained_backbone("resnet18", "V9"), "weights='V9' is unknown for resnet18; choose one of IMAGENET1K_V1, DEFAULT"),
    (lambda: make_backbone("tiny_cnn", 0), "channels=0"), (lambda: tiny_cnn(1, 0), "width=0 must be at least 1"),
    (lambda: resnet18_small(0), "channels=0 must be at least 1"), (lambda: linear_head(0, 4), "n_features=0 must be at least 1"),
    (lambda: projection_head(4, 4, 0), "hidden=0 must be at least 1"), (lambda: Normalize((.5,), (0.,)), "std=0.0 must be positive"),
    (lambda: Normalize((.5, .5), (1.,)), "mean has 2 channels, std 1"), (lambda: without_classifier("alexnet"), "name='alexnet' is unknown; choose one of"),
    (lambda: without_classifier("resnet19"), "name='resnet19' is unknown; choose one of resnet101, "),
    (lambda: check_image_size("tiny_cnn", 0), "image_size=0 must be at least 1"),
    (lambda: pretrained_backbone("vgg16", "IMAGENET1K_FEATURES"), "choose one of IMAGENET1K_V1, DEFAULT"),
])
def test_refused(call, message):
    with pytest.raises(ValueError, match=message): call()


@pytest.mark.parametrize("name", BACKBONES)
def test_sizes_that_fit_are_let_through(name):
    for size in (MIN_SIZE[name], 224): check_image_size(name, size)


# pre-trained

def test_pretrained_weights_are_loaded_and_named(monkeypatch):
    torch.manual_seed(5)
    weights = models.resnet18(weights=None).state_dict()
    asked = []
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda url, **_: asked.append(url) or weights)
    net, n = pretrained_backbone("resnet18")
    assert n == 512 and asked == [models.ResNet18_Weights.IMAGENET1K_V1.url]
    own = net.state_dict()
    assert own.keys() == make_backbone("resnet18")[0].state_dict().keys()
    assert all(torch.equal(v, weights[k.removeprefix("1.")]) for k, v in own.items())
    assert backbone_origin(net) == "pre-trained with labels: ResNet18_Weights.IMAGENET1K_V1, torchvision"
    assert backbone_origin(copy.deepcopy(net)) == backbone_origin(net) and backbone_origin(make_backbone("resnet18")[0]) == "from scratch"


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_every_weight_on_offer_expects_our_normalisation_and_size(name, weights):
    w = models.get_model_weights(name)[weights]
    preset = w.transforms()
    assert torch.allclose(torch.tensor(preset.mean), Normalize().mean.flatten())
    assert torch.allclose(torch.tensor(preset.std), Normalize().std.flatten())
    assert preset.crop_size == [224] and max(w.meta["min_size"]) <= 224


def test_a_failed_download_says_what_to_do(monkeypatch):
    def offline(url, **_): raise URLError("no network")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(OSError, match="weights of resnet18 could not be read from https.*no network.*put the file into .*checkpoints"):
        pretrained_backbone("resnet18")


def test_numbers_of_numpy_and_odd_names():
    "In a process of its own: there the annotations are not checked"
    code = """if True:
        import numpy as np
        from sscq.backbone import check_image_size, linear_head, make_backbone, pretrained_backbone, projection_head, tiny_cnn, without_classifier
        assert make_backbone("tiny_cnn", np.int64(2))[1] == tiny_cnn(np.int8(2), np.int64(32))[1] == 512
        assert projection_head(np.int64(4), np.int64(2), np.int64(3))[2].out_features == linear_head(np.int64(4), 2).out_features == 2
        assert type(check_image_size("tiny_cnn", np.int64(8))) is int
        for f in (make_backbone, without_classifier, pretrained_backbone, lambda name: check_image_size(name, 8),
                  lambda name: pretrained_backbone("resnet18", name)):
            for odd in (None, 5, [], {}, np.zeros(2), b"tiny_cnn", "", "a\\nb"):
                try: f(odd)
                except (TypeError, ValueError) as error: assert "choose one of" in str(error) and chr(10) not in str(error), error
                else: raise AssertionError(odd)
        for f in (tiny_cnn, lambda n: tiny_cnn(1, n), lambda n: make_backbone("resnet18", n), lambda n: check_image_size("tiny_cnn", n),
                  lambda n: linear_head(4, n)):
            for odd in (None, True, 1.5, "3", [], 2**31, -1):
                try: f(odd)
                except (TypeError, ValueError) as error: assert "=" in str(error) and chr(10) not in str(error), error
                else: raise AssertionError(odd)"""
    done = children.run(code)
    assert done.returncode == 0, done.stderr


def test_a_damaged_download_says_which_file_to_delete(monkeypatch):
    def damaged(url, **_): raise RuntimeError("PytorchStreamReader failed reading zip archive\nmore")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", damaged)
    with pytest.raises(ValueError, match="weights of resnet18 in .*checkpoints are damaged .*archive.: delete resnet18-.*pth there") as told:
        pretrained_backbone("resnet18")
    assert "\n" not in str(told.value)
