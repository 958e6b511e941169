"Codes where the library is not: torch.export, ONNX, and scikit-learn's pipelines."
import builtins
import copy
import inspect
import pickle
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sscq import SSCQ, Index, TrainConfig
from sscq.data import digits
from sscq.deploy import Encoder
from sscq.estimator import SSCQTransformer

MAY_DIFFER = 1e-3  # share of codes that another order of the same sums may turn


def noise(n: int, channels: int, size: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def spread(backbone: str, channels: int, size: int, **more) -> SSCQ:
    "A model whose codes are many: a fresh one maps all images to nearly the same vector, and that to one code"
    model = SSCQ(bits=32, backbone=backbone, channels=channels, image_size=size, seed=0, **more).eval()
    with torch.no_grad():
        f, last = model(noise(128, channels, size)).f, model.head[2]
        scale = model.codebooks.std() / f.std(0)
        last.weight.mul_(scale[:, None]); last.bias.sub_(f.mean(0)).mul_(scale)
    return model


@pytest.fixture(scope="module", params=[("tiny_cnn", 1, 8), ("resnet18_small", 3, 16)], ids=lambda p: p[0])
def model(request): return spread(*request.param)


@pytest.fixture(scope="module")
def tiny(): return spread("tiny_cnn", 1, 8)


def session(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def differing(a, b) -> float: return (torch.as_tensor(a) != torch.as_tensor(b)).double().mean().item()


def test_onnx_gives_the_models_codes(model, tmp_path):
    images = noise(512, model.channels, model.image_size)
    want = model.encode(images)
    assert min(len(codes.unique()) for codes in want.T) == 16, "too few different codes to compare"
    file = Encoder(model).to_onnx(tmp_path / "model.onnx")
    runs = session(file)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert runs.get_inputs()[0].type == runs.get_outputs()[0].type == "tensor(uint8)"
    assert runs.get_modelmeta().custom_metadata_map["sscq_model"] == Index(model.codebooks).fingerprint
    for n in (1, 2, 3, 512):
        got, = runs.run(["codes"], {"images": images[:n].numpy()})
        assert got.dtype == np.uint8 and got.shape == (n, 8) and differing(got, want[:n]) <= MAY_DIFFER


def test_torch_export_gives_the_models_codes(model, tmp_path):
    images, program = noise(64, model.channels, model.image_size), Encoder(model).export()
    torch.export.save(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2").module()
    for n in (1, 2, 64): assert differing(again(images[:n]), model.encode(images[:n])) <= MAY_DIFFER


def test_in_torch_the_codes_are_equal(model):
    images = noise(256, model.channels, model.image_size)
    assert torch.equal(Encoder(model)(images), model.encode(images))


def test_the_exported_file_needs_no_library(tiny, tmp_path):
    torch.export.save(Encoder(tiny).export(), tmp_path / "model.pt2")
    np.save(tmp_path / "images.npy", noise(8, 1, 8).numpy())
    code = ("import sys, numpy, torch; program = torch.export.load('model.pt2').module()\n"
            "print(program(torch.from_numpy(numpy.load('images.npy'))).tolist(), 'sscq' in sys.modules)")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout.strip()
    assert said == f"{tiny.encode(noise(8, 1, 8)).tolist()} False"


def test_the_encoder_is_a_copy(tiny):
    model = copy.deepcopy(tiny).train()
    images, before = noise(32, 1, 8), tiny.encode(noise(32, 1, 8))
    encoder = Encoder(model)
    assert model.training and all(p.requires_grad for p in model.parameters()) and not any(p.requires_grad for p in encoder.parameters())
    with torch.no_grad(): [p.zero_() for p in model.parameters()]
    encoder.train()
    assert not any(m.training for m in encoder.modules()) and torch.equal(encoder(images), before)
    assert torch.equal(torch.cat([encoder(x[None]) for x in images]), before)


def test_a_model_in_half_precision_is_computed_in_float32(tiny):
    encoder = Encoder(copy.deepcopy(tiny).half())
    assert all(w.dtype != torch.float16 for w in encoder.state_dict().values())
    assert differing(encoder(noise(256, 1, 8)), tiny.encode(noise(256, 1, 8))) < .05


@pytest.mark.parametrize("bad, error, message", [
    (torch.zeros(2, 1, 8, 8), TypeError, "images of torch.float32 must be uint8.*round"),
    (torch.zeros(2, 1, 8, 8, dtype=torch.int64), TypeError, "images of torch.int64 must be uint8"),
    (torch.zeros(1, 8, 8, dtype=torch.uint8), ValueError, r"images of shape \(1, 8, 8\) must be \(B, 1, 8, 8\): one image is x\[None\]"),
    (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ValueError, r"must be \(B, 1, 8, 8\)"),
    (torch.zeros(2, 1, 9, 9, dtype=torch.uint8), ValueError, "resize others"),
])
def test_the_encoder_refuses(tiny, bad, error, message):
    with pytest.raises(error, match=message): Encoder(tiny)(bad)


@pytest.mark.parametrize("bad", [torch.nn.Linear(2, 2), None, "model", SSCQ])
def test_what_is_no_model(bad):
    with pytest.raises(TypeError, match="model"): Encoder(bad)


def test_nan_is_told_before_anything_is_written(tiny):
    model = copy.deepcopy(tiny)
    with torch.no_grad(): model.head[0].bias[3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite values, in head.0.bias"): Encoder(model)


def test_onnx_bad_paths_and_a_missing_package(tiny, tmp_path, monkeypatch):
    encoder, whole = Encoder(tiny), builtins.__import__
    with pytest.raises(TypeError, match="path"): encoder.to_onnx(5)
    with pytest.raises(ValueError, match="is a folder"): encoder.to_onnx(tmp_path)
    def without(name, *args, **kwargs):
        if name == "onnxscript": raise ImportError(name)
        return whole(name, *args, **kwargs)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'sscq\[onnx\]'"): encoder.to_onnx(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


# ---- scikit-learn


ONE_EPOCH = TrainConfig(epochs=1, batch_size=128)


@pytest.fixture(scope="module")
def rows(): return digits().train[:512].flatten(1).numpy()


def test_the_wrapper_is_the_model(rows):
    images = torch.from_numpy(rows).view(-1, 1, 8, 8)
    wrapper = SSCQTransformer(bits=16, config=ONE_EPOCH, seed=3)
    codes = wrapper.fit_transform(rows, y=object())
    model = SSCQ(bits=16, backbone="tiny_cnn", channels=1, image_size=8, seed=3).fit(images, config=ONE_EPOCH, progress=False)
    assert codes.dtype == np.uint8 and np.array_equal(codes, model.encode(images).numpy())
    assert np.array_equal(wrapper.transform(images), codes) and np.array_equal(wrapper.transform(rows / 255), codes)
    wrapper.output = "embeddings"
    assert np.array_equal(wrapper.transform(rows), model.embed(images).numpy())
    again = pickle.loads(pickle.dumps(wrapper))
    assert np.array_equal(again.transform(rows), wrapper.transform(rows))


def test_clone_and_parameters(rows):
    wrapper = SSCQTransformer(bits=16, config=ONE_EPOCH).fit(rows)
    again = clone(wrapper)
    assert again.get_params() == wrapper.get_params() and not hasattr(again, "model_")
    assert set(again.get_params()) == set(inspect.signature(SSCQTransformer).parameters)
    assert again.set_params(bits=8).fit(rows[:128]).transform(rows[:2]).shape == (2, 2) and wrapper.bits == 16
    assert list(again.get_feature_names_out()) == ["sscqtransformer0", "sscqtransformer1"]


def test_in_a_pipeline(rows):
    pipe = make_pipeline(FunctionTransformer(lambda x: x / 255.), SSCQTransformer(bits=16, config=ONE_EPOCH, output="embeddings"))
    assert pipe.fit(rows).transform(rows[:3]).shape == (3, 64)


def test_the_wrapper_is_small():
    assert len(inspect.getsource(SSCQTransformer).splitlines()) <= 40


@pytest.mark.parametrize("settings, bad, error, message", [
    ({}, np.zeros((5, 60)), ValueError, "rows of 60 numbers are no images"), ({}, np.full((5, 64), 16.), ValueError, "0…1"),
    ({}, np.zeros((0, 64)), ValueError, "no images"), ({"output": "code"}, np.zeros((5, 64)), ValueError, "output='code' is unknown"),
    ({"bits": 7}, np.zeros((5, 64)), ValueError, "bits=7"), ({"config": 3}, np.zeros((5, 64)), TypeError, "config"),
    ({"backbone": "net"}, np.zeros((5, 64)), ValueError, "backbone='net'"), ({}, 5, TypeError, "not int"),
])
def test_the_wrapper_refuses(settings, bad, error, message):
    with pytest.raises(error, match=message): SSCQTransformer(**settings).fit(bad)


def test_transform_before_fit():
    with pytest.raises(ValueError, match="not fitted"): SSCQTransformer().transform(np.zeros((1, 64)))


def test_deploying_loads_no_exporter():
    code = "import sys; from sscq.deploy import Encoder; print(*{'sklearn', 'onnx', 'onnxscript', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_branches_go_to_onnx(tmp_path):
    model = SSCQ(bits=32, backbone="branch_cnn", image_size=16, hidden=16, seed=0).eval()
    images = noise(64, 3, 16)
    file = Encoder(model).to_onnx(tmp_path / "branches.onnx")
    codes, = session(file).run(None, {session(file).get_inputs()[0].name: images.numpy()})
    assert differing(codes, model.encode(images)) < .01
