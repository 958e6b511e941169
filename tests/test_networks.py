"Anyone's network as a backbone, and codes for vectors that are there already: what is taken, what is refused, what is saved."
import copy
import importlib.util
import json
import sys

import children
import numpy as np
import pytest
import torch
from torch import nn

from sscq.backbone import ORIGINS, any_backbone, backbone_origin, count_features, weights_follow
from sscq.core import SSCQ
from sscq.deploy import Encoder
from sscq.guards import parameter_groups
from sscq.vectors import (
    FeatureHead, FeatureViews, KeepNeighbors, Rows, as_vectors, feature_table, head_setup, neighbor_distance, refit_turned, smoothed, table_of_directions,
    vector_arguments, views_that_fit)

QUICK = dict(progress=False, device="cpu")


class Net(nn.Module):
    "Small, with batch norm and dropout, which tell training from eval"
    def __init__(self, width=12, pool=True, eval_width=None):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.Dropout(.5)
        self.pool, self.eval_width = pool, eval_width

    def forward(self, x):
        h = self.norm(self.conv(x)).relu()
        if not self.pool: return h
        h = self.drop(h.mean((2, 3)))
        return h if self.training or self.eval_width is None else h[:, :self.eval_width]


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


@pytest.fixture
def pictures(): return torch.randint(0, 256, (40, 3, 20, 20), dtype=torch.uint8)


@pytest.fixture
def vectors(): return torch.randn(10, 24)[torch.arange(10).repeat(12)] + .3 * torch.randn(120, 24)


def same(a, b): return all(torch.equal(x, b[name]) for name, x in a.items())


@pytest.mark.parametrize("freeze", [True, False])
def test_any_network_trains_is_saved_and_loaded(freeze, pictures, tmp_path):
    net = Net()
    net.origin = "pre-trained without labels: nothing"
    before = copy.deepcopy(net.state_dict())
    model = SSCQ(bits=16, backbone=net, image_size=20, freeze=freeze, seed=0).fit(pictures, steps=6, batch_size=20, **QUICK)
    assert same(before, net.state_dict()) == freeze
    model.save_pretrained(tmp_path)
    other = Net()
    again = SSCQ.from_pretrained(tmp_path, backbone=other)
    assert same(net.state_dict(), other.state_dict()) and again.backbone.frozen == freeze
    assert torch.equal(again.encode(pictures), model.encode(pictures)) and torch.equal(again.embed(pictures), model.embed(pictures))
    assert backbone_origin(again.backbone) == backbone_origin(model.backbone) == "pre-trained without labels: nothing"
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads((tmp_path / "again/config.json").read_text())


def test_a_saved_model_asks_for_its_network(pictures, tmp_path):
    SSCQ(bits=16, backbone=Net(), image_size=20).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"around a network of its maker's own, Net: give one like it, from_pretrained\(…, backbone=network\)"):
        SSCQ.from_pretrained(tmp_path)
    wrong = Net(8)
    before = copy.deepcopy(wrong.state_dict())
    with pytest.raises(ValueError, match=r"does not fit the weights in it \(backbone.network.\S+ has shape \(12,.*of the same architecture"):
        SSCQ.from_pretrained(tmp_path, backbone=wrong)
    assert same(before, wrong.state_dict())
    with pytest.raises(ValueError, match="does not fit"): SSCQ.from_pretrained(tmp_path, backbone=nn.Flatten())
    SSCQ(bits=16, backbone="tiny_cnn", channels=3, image_size=8).save_pretrained(tmp_path / "named")
    with pytest.raises(ValueError, match="'tiny_cnn': leave backbone= out"): SSCQ.from_pretrained(tmp_path / "named", backbone=Net())


def test_without_freeze_config_is_as_it_was():
    assert "freeze" not in SSCQ(bits=16, backbone="tiny_cnn", channels=3, image_size=8)._hub_mixin_config


@pytest.mark.parametrize("net, words", [
    (Net(pool=False), r"Net gives feature maps \(2, 12, 9, 9\), \(B, C, H, W\).*AdaptiveAvgPool2d\(1\) and torch.nn.Flatten"),
    (nn.Conv2d(1, 4, 3), r"Conv2d does not take images \(3, 20, 20\)"),
    (nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1))), r"gives \(1, 2400\) for 2 images"),
    (nn.LSTM(20, 4), "LSTM does not take images|LSTM gives tuple, not a tensor")])
def test_what_gives_no_features_is_refused_at_once(net, words):
    with pytest.raises(ValueError, match=words): SSCQ(bits=16, backbone=net, image_size=20)


def test_nan_is_refused_at_once_and_in_features(pictures):
    net = Net()
    net.conv.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="Net gives NaN or infinite features for plain grey images: load its weights again"):
        SSCQ(bits=16, backbone=net, image_size=20)
    model = SSCQ(bits=16, backbone=Net(), image_size=20, freeze=True)
    model.backbone.network.norm.running_var[0] = torch.nan
    with pytest.raises(ValueError, match="Net gives NaN or infinite features, first for picture 0"): model.fit(pictures, steps=2, **QUICK)


def test_another_width_in_training_than_in_eval_is_refused(pictures):
    model = SSCQ(bits=16, backbone=Net(eval_width=7), image_size=20)
    with pytest.raises(ValueError, match="gives 12 features an image, and gave 7 when the model was built: let it return the same number"):
        model.fit(pictures, epochs=1, batch_size=20, **QUICK)


def test_counting_features_changes_nothing():
    net = Net().train()
    before, rng = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    assert count_features(net, 3, 20, "Net") == 12
    assert same(before, net.state_dict()) and net.training and torch.equal(rng, torch.get_rng_state())


def test_a_frozen_network_stays_in_eval(pictures):
    model = SSCQ(bits=16, backbone=Net(), image_size=20, freeze=True).train()
    assert model.head.training and not any(m.training for m in model.backbone.modules())
    assert not any(p.requires_grad for p in model.backbone.parameters()) and all(p.requires_grad for p in model.head.parameters())


def test_random_weights_are_not_frozen():
    for backbone in ("tiny_cnn", None, "auto"):
        with pytest.raises(ValueError, match="freeze=True keeps"): SSCQ(bits=16, backbone=backbone, freeze=True)


def test_features_are_computed_once(pictures):
    seen = []
    class Counting(Net):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)
    model, seen[:] = SSCQ(bits=16, backbone=Counting(), image_size=20, freeze=True), []
    model.fit(pictures, steps=8, batch_size=20, **QUICK)
    assert sum(seen) == 40
    seen.clear()
    model.fit(pictures, view="gentle", steps=8, batch_size=20, **QUICK)
    assert sum(seen) == 40 * 5


def test_a_frozen_run_resumes_with_the_same_bits(vectors, tmp_path):
    def fresh(): return SSCQ.from_embeddings(24, bits=16, seed=0)
    whole = fresh().fit(vectors, steps=8, batch_size=40, **QUICK)
    class Stop(Exception): pass
    def stop(record):
        if record["epoch"] == 3: raise Stop
    with pytest.raises(Stop): fresh().fit(vectors, steps=8, batch_size=40, out=tmp_path, on_epoch=stop, **QUICK)
    again = fresh().fit(vectors, steps=8, batch_size=40, out=tmp_path, resume=True, **QUICK)
    assert same(whole.state_dict(), again.state_dict())


def test_a_backbone_has_a_rate_of_its_own(pictures):
    model = SSCQ(bits=16, backbone=Net(), image_size=20)
    shares = [group.get("share") for group in parameter_groups(model, 1e-3, None)]
    assert shares == [.1, None]
    assert [g.get("share") for g in parameter_groups(model, 1e-3, 2e-3)] == [2., None]
    assert len(parameter_groups(model, 1e-3, 1e-3)) == 1
    assert len(parameter_groups(SSCQ(bits=16, backbone="tiny_cnn", image_size=8), 1e-3, None)) == 1
    assert [id(p) for g in parameter_groups(model, 1e-3, None) for p in g["params"]] == [id(p) for p in model.parameters()]
    before = copy.deepcopy(model.backbone.network.conv.weight)
    model.fit(pictures, epochs=2, batch_size=20, backbone_lr=0., **QUICK)
    assert torch.equal(before, model.backbone.network.conv.weight)


@pytest.mark.parametrize("name, n", [("resnet18", 512), ("mobilenet_v3_small", 1024), ("squeezenet1_1", 512)])
def test_torchvision_by_name(name, n, tmp_path):
    with weights_follow():
        net, found = any_backbone(f"torchvision:{name}")
        assert found == n and net.eval()(torch.rand(2, 3, 64, 64)).shape == (2, n)
        assert backbone_origin(net).startswith(ORIGINS[0])
        model = SSCQ(bits=16, backbone=f"torchvision:{name}", freeze=True)
    model.save_pretrained(tmp_path)
    again = SSCQ.from_pretrained(tmp_path)  # nothing is downloaded
    x = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    assert torch.equal(again.eval().embed(x), model.eval().embed(x)) and backbone_origin(again.backbone).startswith(ORIGINS[0])


def test_names_that_are_none():
    with pytest.raises(ValueError, match="did you mean resnet50"): any_backbone("torchvision:resnet5O")
    with pytest.raises(ValueError, match="unknown"): SSCQ(bits=16, backbone="torchvision:inception_v3")
    with pytest.raises(ValueError, match="choose one of tiny_cnn"): SSCQ(bits=16, backbone="hub:resnet18")
    with pytest.raises(ValueError, match="takes images of 3 channels"): SSCQ(bits=16, backbone="torchvision:resnet18", channels=1)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is there")
def test_timm_is_an_extra():
    with pytest.raises(ImportError, match=r"backbone='timm:resnet18' needs the package timm: pip install 'sscq\[timm\]'"):
        SSCQ(bits=16, backbone="timm:resnet18")


class Timm:
    "As much of timm as is asked for"
    __version__ = "1.0"
    @staticmethod
    def is_model(name): return name == "tiny"
    @staticmethod
    def list_models(): return ["tiny", "small"]
    @staticmethod
    def create_model(name, pretrained, num_classes):
        assert num_classes == 0
        net = Net()
        net.num_features, net.asked_for_weights = 12, pretrained
        net.pretrained_cfg = dict(architecture="tiny", tag="in1k", num_classes=1000, mean=(.5, .5, .5), std=(.25, .25, .25))
        return net


def test_timm_by_name(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", Timm)
    model = SSCQ(bits=16, backbone="timm:tiny", image_size=20, freeze=True)
    assert model.backbone.network.asked_for_weights and backbone_origin(model.backbone) == "pre-trained with labels: timm tiny.in1k"
    assert model.backbone.normalize.std.flatten().tolist() == [.25] * 3
    model.save_pretrained(tmp_path)
    again = SSCQ.from_pretrained(tmp_path)
    assert not again.backbone.network.asked_for_weights
    with pytest.raises(ValueError, match="unknown to timm 1.0: did you mean tiny"): SSCQ(bits=16, backbone="timm:tinyy")


def test_vectors_train_and_are_saved(vectors, tmp_path):
    model = SSCQ.from_embeddings(24, bits=16, seed=0).fit(vectors, steps=40, batch_size=60, **QUICK)
    codes = model.encode(vectors)
    assert codes.shape == (120, 2) and codes.dtype == torch.uint8
    np.save(tmp_path / "v.npy", vectors.numpy().astype(np.float16))
    assert model.encode(vectors.numpy()).equal(codes) and (model.encode(tmp_path / "v.npy") == codes).double().mean() > .9
    model.save_pretrained(tmp_path)
    again = SSCQ.from_pretrained(tmp_path)
    assert torch.equal(again.embed(vectors), model.embed(vectors)) and backbone_origin(again.backbone) == "vectors as given"
    index = again.index(vectors)
    ids = torch.as_tensor(index.search(again.embed(vectors[:10]), k=12).ids)
    assert (ids % 10 == torch.arange(10)[:, None]).double().mean() > .9  # those of its own cluster
    with pytest.raises(TypeError, match="an Encoder takes pictures"): Encoder(model)


@pytest.mark.parametrize("bad, error, words", [
    (torch.rand(8), ValueError, r"one vector is x\[None\]"), (torch.rand(8, 1), ValueError, "1 dimension"), (torch.rand(0, 24), ValueError, "none"),
    (torch.rand(8, 23), ValueError, "23 dimensions, the model takes 24: .*from_embeddings.23"), (torch.ones(9, 24), ValueError, "all 9 vectors are the same"),
    (torch.ones(8, 24).index_fill(0, torch.tensor(3), torch.nan), ValueError, r"row 3 holds NaN.*1 of 8 rows"),
    (torch.full((8, 24), 1e30), ValueError, "too large"), (torch.ones(8, 24, dtype=torch.long), TypeError, "must be floating point"),
    ("gone.npy", FileNotFoundError, "is no file"), ([[1., 2.]], TypeError, "must be a tensor or array"), (torch.rand(8, 4, 6), ValueError, "N, D")])
def test_vectors_that_cannot_be_meant(bad, error, words):
    model = SSCQ.from_embeddings(24, bits=16)
    with pytest.raises(error, match=words): model.fit(bad, steps=2, **QUICK)


def test_files_that_hold_no_vectors(tmp_path):
    (tmp_path / "text.npy").write_text("x")
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=np.ones(3))
    for name in ("text.npy", "objects.npy"):
        with pytest.raises(ValueError, match="holds no array of numbers: write the vectors with numpy.save"): as_vectors(tmp_path / name)
    with pytest.raises(ValueError, match="several arrays"): as_vectors(tmp_path / "several.npz")


def test_vectors_have_no_pictures_views():
    with pytest.raises(ValueError, match="view='gentle' is for pictures"): SSCQ.from_embeddings(24).fit(torch.rand(8, 24), view="gentle", **QUICK)


def test_vectors_and_f_never_pass_for_each_other():
    for D in (64, 128, 256): assert (a := vector_arguments(D, 32))["word_dim"] * a["bits"] // 8 != D
    assert vector_arguments(64, 20)["n_words"] == 16 and vector_arguments(64, 32)["n_words"] == 256


def test_directions_are_centred_and_noise_is_measured():
    x = torch.rand(500, 30) + 1
    head = FeatureHead(30, 4, 16, 8)
    table = table_of_directions(x[:, None], head)
    assert table.shape == (500, 1, 30) and torch.allclose(table[:, 0].norm(dim=1), torch.ones(500), atol=1e-5)
    assert table[:, 0].mean(0).norm() < .1 < torch.nn.functional.normalize(x, dim=1).mean(0).norm()
    assert torch.allclose(head.directions(x), table[:, 0], atol=1e-6)
    view = FeatureViews(table, noise=1., drop=0.)
    rows = torch.arange(500.).view(-1, 1, 1, 1)
    away = (view(rows)[..., 0, 0] - table[:, 0]).norm(dim=1).mean()
    assert abs(away / neighbor_distance(table[:, 0]) - 1) < .1
    assert torch.equal(FeatureViews(table, noise=0., drop=0.)(rows)[..., 0, 0], table[:, 0])


def test_rows_beyond_what_float32_numbers_are_refused():
    with pytest.raises(ValueError, match="train on a sample"): Rows(2 ** 24 + 1)
    assert Rows(5)[4].item() == 4


def test_kept_views_fit_the_memory():
    assert views_that_fit(1000, 512) == 4 and views_that_fit(300_000, 1280) == 0 and views_that_fit(10 ** 8, 1280) == 0
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    table = feature_table(net, torch.randint(0, 256, (7, 3, 2, 2), dtype=torch.uint8), None, lambda x: x / 255)
    assert table.shape == (7, 1, 5) and table.dtype == torch.float16


def test_neighbours_are_kept_and_known_ones_alone():
    views = FeatureViews(nn.functional.normalize(torch.randn(30, 1, 6), dim=2))
    keep = KeepNeighbors(head_setup(30)[0], views)
    f = torch.randn(8, 6)
    assert keep.kept(f, f) == 0
    views(torch.arange(8.).view(-1, 1, 1, 1))
    assert keep.kept(keep.teacher[:8], keep.teacher[:8]) < keep.kept(f, f) and keep.kept(f[:5], f[:5]) == 0
    assert torch.allclose(smoothed(views.table[:, 0], k=0), views.table[:, 0], atol=1e-6)


def test_turning_f_loses_less_and_moves_nothing_apart():
    from sscq.codebook import distortion
    from sscq.search import train_pq
    x = torch.randn(300, 10)
    head, books = FeatureHead(10, 2, 8, 16).eval(), torch.zeros(2, 16, 8)
    before = head(x)
    assert refit_turned(head, books, before)
    after = head(x)
    assert torch.allclose(torch.cdist(before, before), torch.cdist(after, after), atol=2e-3)
    assert distortion(after, books) <= distortion(before, train_pq(before, 2, 16)) * 1.001
    assert not refit_turned(head, books, before[:12])


@pytest.mark.parametrize("n", [2, 3, 10, 255, 256, 257, 100_000])
def test_a_default_training_fits_any_number_of_vectors(n):
    objective, config = head_setup(n)
    assert config["batch_size"] <= max(n, 2) and 400 <= config["steps"] <= 6000 and objective.n_neighbors >= 1


def test_shell(vectors, tmp_path):
    np.save(tmp_path / "v.npy", vectors.numpy())
    np.save(tmp_path / "q.npy", vectors[:2].numpy())
    def sscq(*args): return children.sscq(*args, cwd=tmp_path)
    done = sscq("train", "v.npy", "--steps", "10", "--device", "cpu", "--out", "m", "--json", "-")
    assert done.returncode == 0 and json.loads(done.stdout)["features"] == "vectors as given", done.stderr
    assert sscq("encode", "m", "v.npy", "--device", "cpu").returncode == 0
    found = sscq("search", "m/v.npy.sscq", "q.npy", "-k", "3", "--json", "-")
    assert [a["query"] for a in json.loads(found.stdout)["answers"]] == ["q.npy[0]", "q.npy[1]"], found.stderr
    refused = sscq("train", "v.npy", "--image-size", "32")
    assert refused.returncode == 1 and refused.stderr == "sscq: --image-size is for pictures, and v.npy holds vectors: leave it out\n"
