"SSCQ as a module like any other, and as a collection of verbs."
import copy
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sscq.core import SSCQ
from sscq.data import digits
from sscq.objective import SSCQObjective
from sscq.train import find_device

DATA = Path(__file__).parent / "data"
SMALL = dict(backbone="tiny_cnn", channels=1, image_size=8, hidden=16)


def small(seed: int = 0, **changes) -> SSCQ:
    torch.manual_seed(seed)
    return SSCQ(**({"bits": 16} | SMALL | changes))


@pytest.fixture(scope="module")
def images(): return digits().train[:96]


@pytest.fixture(scope="module")
def trained(images): return small().fit(images, epochs=2, batch_size=48, progress=False)


@pytest.mark.parametrize("n_words", [2, 4, 8, 16, 32, 64, 128, 256])
def test_bits_are_books_times_log2_words(n_words):
    per_book = n_words.bit_length() - 1
    model = small(bits=3 * per_book, n_words=n_words, word_dim=4)
    assert model.codebooks.shape == (3, n_words, 4) and model.bits == 3 * per_book
    assert torch.equal(model.codebooks, small(bits=None, n_books=3, n_words=n_words, word_dim=4).codebooks)
    codes = model.encode(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert codes.dtype == torch.uint8 and codes.shape == (2, 3)


@pytest.mark.parametrize("arguments, message", [
    (dict(bits=30), r"bits=30 must be a positive multiple of log2\(n_words\)=4; the next are 28 and 32"),
    (dict(bits=3), "the next are 4$"), (dict(bits=0), "bits=0 must be at least 1"), (dict(bits=-16), "at least 1"),
    (dict(bits=None), "either bits or n_books"), (dict(n_books=4), "either bits or n_books"),
    (dict(n_words=512), "power of two"), (dict(n_words=12), "power of two"), (dict(backbone="resnet19"), "choose one of"),
    (dict(bits=None, n_books=0), "at least 1"), (dict(word_dim=0), "at least 1"), (dict(tau_sq=0), "tau_sq=0 must be positive"),
    (dict(tau_sq=float("nan")), "tau_sq=nan must be positive"), (dict(hidden=0), "hidden=0 must be at least 1"), (dict(channels=0), "channels=0"),
])
def test_wrong_settings(arguments, message):
    with pytest.raises(ValueError, match=message): small(**arguments)


@pytest.mark.parametrize("bad, error, message", [
    (torch.zeros(4, 3, 8, 8), ValueError, "channels"), (torch.zeros(4, 1, 9, 9), ValueError, "image_size=9"),
    (torch.zeros(8, 8), ValueError, r"\(N, C, H, W\)"), (torch.zeros(0, 1, 8, 8), ValueError, "no images"),
    (torch.full((2, 1, 8, 8), 255.), ValueError, "0…1"), (torch.full((2, 1, 8, 8), -.1), ValueError, "0…1"),
    (torch.full((2, 1, 8, 8), torch.inf), ValueError, "NaN or infinite"), (torch.zeros(2, 1, 8, 8, dtype=torch.int32), TypeError, "uint8"),
    ([], ValueError, "empty"),
])
def test_wrong_images(bad, error, message, trained):
    for verb in (trained.embed, trained.encode, trained.index, trained.fit):
        with pytest.raises(error, match=message): verb(bad)


def test_forward_checks_shapes(trained):
    with pytest.raises(ValueError, match="resize others, or build a model"): trained(torch.zeros(4, 1, 9, 9))
    with pytest.raises(ValueError, match=r"\(B, 1, 8, 8\): one image is x\[None\]"): trained(torch.zeros(1, 8, 8))


def test_same_seed_same_weights(images):
    first = small().fit(images, epochs=2, progress=False, batch_size=48).state_dict()
    torch.randn(100)
    second = small().fit(images, epochs=2, progress=False, batch_size=48).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = small().fit(images, epochs=2, progress=False, batch_size=48, seed=1).state_dict()
    assert not torch.equal(first["quantizer.codebooks"], other["quantizer.codebooks"])


def test_the_callers_generator_is_left_alone(images):
    model = small()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    model.fit(images, epochs=1, batch_size=48, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_uint8_and_float_are_the_same_image(trained, images):
    assert torch.equal(trained.embed(images), trained.embed(images / 255))
    assert torch.equal(trained(images).f, trained(images / 255).f)


def test_batches_do_not_matter(trained, images):
    whole = trained.embed(images)
    torch.testing.assert_close(trained.embed(images, batch_size=7), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(trained.embed(images[3])[0], whole[3], rtol=1e-5, atol=1e-5)


def test_embedding_leaves_the_mode_alone(trained, images):
    trained.train()
    trained.embed(images[:4])
    assert trained.training
    trained.eval()


def test_a_module_like_any_other(trained, images):
    x = images[:5]
    assert torch.equal(copy.deepcopy(trained)(x).f, trained(x).f)
    other = small(seed=1)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other.eval()(x).z, trained(x).z)
    assert trained.double().embed(x).dtype == torch.float32
    trained.float()


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiles():
    "In a process of its own: the shape checks of the tests cannot be traced"
    code = """if True:
        import torch
        from sscq.core import SSCQ
        model = SSCQ(bits=16, backbone="tiny_cnn", channels=1, image_size=8, hidden=16).eval()
        x = torch.rand(8, 1, 8, 8)
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x).z, model(x).z, rtol=1e-4, atol=1e-4)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_out_of_memory_halves_the_batch(trained, images, monkeypatch):
    whole, forward = trained.embed(images), SSCQ.forward
    def cramped(self, x):
        if len(x) > 20: raise torch.OutOfMemoryError("too many")
        return forward(self, x)
    monkeypatch.setattr(SSCQ, "forward", cramped)
    torch.testing.assert_close(trained.embed(images), whole, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(SSCQ, "forward", lambda self, x: (_ for _ in ()).throw(torch.OutOfMemoryError("none at all")))
    with pytest.raises(torch.OutOfMemoryError): trained.embed(images)


def test_embedding_keeps_no_graph(trained, images): assert not trained.embed(images).requires_grad


def test_folder_tensor_and_dataset_are_one(tmp_path, images):
    for i, image in enumerate(images[:40]): Image.fromarray(image[0].numpy()).save(tmp_path / f"{i:03d}.png")
    class Labelled(torch.utils.data.Dataset):
        def __len__(self): return 40
        def __getitem__(self, i): return images[i], 3
    models = [small().fit(source, epochs=1, batch_size=20, progress=False, workers=0) for source in (images[:40], tmp_path, Labelled())]
    for model in models[1:]: assert torch.equal(model.codebooks, models[0].codebooks)
    index = models[0].index(tmp_path)
    hits = index.search(tmp_path / "005.png", k=3)
    assert Path(hits.paths[0][0]).name == "005.png" or hits.distances[0, 0] == hits.distances[0, 1]
    with Image.open(tmp_path / "005.png") as query: assert index.search(query, k=3).ids.tolist() == hits.ids.tolist()
    assert models[0].embed([tmp_path / "001.png", tmp_path / "002.png"]).shape == (2, 64)


def test_merge_and_search_by_folder(tmp_path, trained, images):
    for i, image in enumerate(images[:12]): Image.fromarray(image[0].numpy()).save(tmp_path / f"{i:03d}.png")
    index = trained.index(images[:30]).merge(trained.index(images[30:50]))
    assert index.ids.tolist() == list(range(50))
    hits = index.search(tmp_path, k=3)
    assert hits.ids.shape == (12, 3) and repr(hits)


def test_a_query_of_another_size_or_mode(tmp_path, trained, images):
    index = trained.index(images)
    Image.new("RGBA", (31, 17), (200, 10, 10, 128)).save(tmp_path / "query.png")
    assert index.search(tmp_path / "query.png", k=2).ids.shape == (1, 2)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="text.png"): index.search(tmp_path / "text.png")


def test_save_and_load(tmp_path, trained, images):
    trained.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = SSCQ.from_pretrained(tmp_path / "model")
    assert torch.equal(again.embed(images), trained.embed(images)) and not again.training
    other = small(seed=5)
    other.save_pretrained(tmp_path / "model")  # over the old one
    assert torch.equal(SSCQ.from_pretrained(str(tmp_path / "model")).codebooks, other.codebooks)


def test_altered_files_are_refused(tmp_path, trained):
    trained.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, settings = weights.read_bytes(), config.read_text()
    rng = np.random.default_rng(0)
    for at in rng.integers(8, len(whole), 12):
        weights.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:])
        with pytest.raises(ValueError, match="damaged|altered|checksum"): SSCQ.from_pretrained(tmp_path)
    for cut in (0, 7, 100, len(whole) - 1):
        weights.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="damaged"): SSCQ.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    config.write_text(settings.replace('"tau_sq": 0.2', '"tau_sq": 0.3'))
    with pytest.warns(UserWarning, match="is not used"): assert SSCQ.from_pretrained(tmp_path).quantizer.tau == .2
    config.write_text(settings)
    SSCQ.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors"): SSCQ.from_pretrained(tmp_path)


def test_a_pickle_is_never_opened(tmp_path, trained):
    trained.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(trained.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError): SSCQ.from_pretrained(tmp_path)
    torch.save(trained.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="damaged"): SSCQ.from_pretrained(tmp_path)


def test_a_kill_during_save_leaves_a_whole_model(tmp_path):
    "Whatever the moment, what is in the folder loads"
    small().save_pretrained(tmp_path)
    code = f"""if True:
        from sscq.core import SSCQ
        models = [SSCQ(bits=16, backbone="tiny_cnn", channels=1, image_size=8, hidden=16) for _ in range(2)]
        print("ready", flush=True)
        while True:
            for model in models: model.save_pretrained({str(tmp_path)!r})"""
    for delay in (.01, .03, .07):
        run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        run.stdout.readline()
        time.sleep(delay)
        run.kill()
        run.wait()
        run.stdout.close()
        SSCQ.from_pretrained(tmp_path)


def test_committed_model_and_index_still_read():
    "Files written by version 0.1.0: what users keep must stay readable"
    from sscq.search import Index
    folder = DATA / "tiny-model"
    expected = json.loads((folder / "expected.json").read_text())
    model = SSCQ.from_pretrained(folder)
    queries = digits().query.images[:3]
    assert model.encode(queries).tolist() == expected["codes"]
    hits = Index.load(folder / "digits.sscq", embed=model.embed).search(queries, k=5)
    assert hits.ids.tolist() == expected["ids"]
    np.testing.assert_allclose(np.asarray(hits.distances), expected["distances"], rtol=1e-4)


@pytest.mark.parametrize("device, message", [("warp", "unknown"), ("cuda:99", "not there")])
def test_devices_that_are_not(device, message, images):
    with pytest.raises(ValueError, match=message): find_device(device)
    with pytest.raises(ValueError, match=message): small().fit(images, device=device)


def test_views_and_objective_are_checked(images):
    with pytest.raises(ValueError, match="choose one of"): small().fit(images, view="poster")
    with pytest.raises(ValueError, match="use more images a batch or fewer neighbours"):
        small().fit(images[:8], objective=SSCQObjective(n_neighbors=20), batch_size=8, progress=False)
    with pytest.raises(ValueError, match="batch_size=1"): small().fit(images, batch_size=1)


def test_a_small_collection_shrinks_the_batch(images):
    with pytest.warns(UserWarning, match="the batch shrinks to 40"): small().fit(images[:40], epochs=1, progress=False)


def test_an_unwritable_folder_is_found_before_training(tmp_path, images):
    (tmp_path / "file").write_text("in the way")
    def trained(x, generator=None): pytest.fail("a batch was drawn first")
    with pytest.raises(ValueError, match="file cannot be written"): small().fit(images, trained, batch_size=48, out=tmp_path / "file")


def test_an_unwritable_folder_is_named_on_saving(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/model"):
        with pytest.raises(OSError, match=f"save_directory={folder} cannot be written .*, or name another place"): small().save_pretrained(folder)
    assert (tmp_path / "file").read_text() == "in the way" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("where", ["backbone.0.weight", "head.0.weight", "head.2.bias", "quantizer.codebooks"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_hold_nan_make_no_codes(where, value, images):
    model, few = small().eval(), images[:10]
    weight = model.get_parameter(where)
    with torch.no_grad(): weight[(0,) * weight.ndim] = value
    for verb in (model.encode, model.index) if "codebooks" in where else (model.encode, model.index, model.embed):
        with pytest.raises(ValueError, match=f"computes NaN or infinite values .{where} holds some.: train it again"): verb(few)


def test_one_image_that_overflows_is_enough(trained, images, monkeypatch):
    embed_batch = SSCQ.embed_batch
    def spoiled(self, x):
        f = embed_batch(self, x)
        if len(x) < 48: f[-1, -1] = torch.inf
        return f
    whole = trained.encode(images, batch_size=48)
    monkeypatch.setattr(SSCQ, "embed_batch", spoiled)
    assert torch.equal(trained.encode(images, batch_size=48), whole) and whole.is_contiguous()
    for verb in (trained.encode, trained.embed, trained.index):
        with pytest.raises(ValueError, match="its weights are finite"): verb(images, batch_size=40)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_sizes_that_are_none(batch_size, trained, images):
    for verb in (trained.embed, trained.encode, trained.index):
        with pytest.raises(ValueError, match=f"batch_size={batch_size} must be at least 1"): verb(images, batch_size)


def test_images_of_every_layout_and_precision(trained, images):
    few = images[:6]
    want, floats = trained.encode(few), few / 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for same in (few.numpy(), few.to(memory_format=torch.channels_last), few.flip(3).flip(3), few.repeat(1, 1, 1, 2)[..., :8], floats.double(),
                     floats.half(), floats.bfloat16(), floats.clone().requires_grad_(), np.asfortranarray(floats.numpy())):
            assert torch.equal(trained.encode(same), want)


# what is no model

@pytest.fixture
def hub(monkeypatch):
    "A hub on this machine: `answers` maps a path to a list of statuses, the last of which stays; 200 brings `file`. `asked` lists what it was asked"
    from huggingface_hub import constants
    class Hub(http.server.BaseHTTPRequestHandler):
        asked, answers, file = [], {}, b""
        def do_HEAD(self): self.answer()
        def do_GET(self): self.answer(self.file)
        def log_message(self, *_): pass
        def answer(self, body=b""):
            self.asked.append((self.command, self.path))
            statuses = self.answers.get(self.path, [404])
            self.send_response(status := statuses.pop(0) if len(statuses) > 1 else statuses[0])
            headers = {"ETag": '"0"', "X-Repo-Commit": 40 * "0", "Content-Length": len(self.file)} if status == 200 else {"X-Error-Code": "RepoNotFound"}
            for name, value in headers.items(): self.send_header(name, str(value))
            self.end_headers()
            if status == 200: self.wfile.write(body)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.server = server
    threading.Thread(target=server.serve_forever).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_name_that_is_no_folder_fails_at_once_where_no_hub_can_be_reached(tmp_path, hub):
    "huggingface_hub alone would ask for 23 seconds"
    hub.server.shutdown()
    hub.server.server_close()
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="no folder 'typo/here', and the Hugging Face hub cannot be reached .*refused.*: give the folder"):
        SSCQ.from_pretrained("typo/here", cache_dir=tmp_path)
    assert time.perf_counter() - start < 5


def test_a_repository_that_the_hub_lacks_is_asked_for_once(tmp_path, hub):
    with pytest.raises(FileNotFoundError, match=r"no folder 'typo/here', and the Hugging Face hub shows no such model \(404"):
        SSCQ.from_pretrained("typo/here", cache_dir=tmp_path)
    assert hub.asked == [("HEAD", "/typo/here/resolve/main/model.safetensors")]
    for name in ("runs/my own/model", "a b", "", "x" * 300):
        with pytest.raises(FileNotFoundError, match="no repository of the Hugging Face hub can have that name"): SSCQ.from_pretrained(name)
    with pytest.raises(FileNotFoundError, match="was not asked .local_files_only"):
        SSCQ.from_pretrained("typo/here", cache_dir=tmp_path, local_files_only=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file: give the folder"): SSCQ.from_pretrained(tmp_path / "file")
    assert len(hub.asked) == 1


def test_a_model_comes_from_the_hub_and_then_from_its_cache(tmp_path, hub, trained):
    trained.save_pretrained(tmp_path / "model")
    path, hub.file = "/me/mine/resolve/main/model.safetensors", (tmp_path / "model" / "model.safetensors").read_bytes()
    hub.answers[path] = [503, 503, 200]  # busy at first: huggingface_hub asks again, as it always does
    assert torch.equal(SSCQ.from_pretrained("me/mine", cache_dir=tmp_path / "cache").codebooks, trained.codebooks)
    assert ("GET", path) in hub.asked and not {where for _, where in hub.asked} - {path}
    for answer in ([200], [404]):  # the same file is not downloaded twice, and stays when the hub has it no longer
        hub.answers[path], hub.file = answer, hub.file if answer == [200] else b""
        assert torch.equal(SSCQ.from_pretrained("me/mine", cache_dir=tmp_path / "cache").codebooks, trained.codebooks)
    hub.asked.clear()
    assert SSCQ.from_pretrained("me/mine", cache_dir=tmp_path / "cache", local_files_only=True).bits == 16 and not hub.asked


@pytest.mark.parametrize("text", [b"{", b"", b"[1]", b"null", b"\xff\xfe", None])
def test_a_model_needs_no_config_beside_it(tmp_path, trained, text):
    trained.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.unlink()
    assert torch.equal(SSCQ.from_pretrained(tmp_path).codebooks, trained.codebooks)
    config.mkdir() if text is None else config.write_bytes(text)
    with pytest.warns(UserWarning, match="config.json.*not readable.*is not used"):
        assert torch.equal(SSCQ.from_pretrained(tmp_path).codebooks, trained.codebooks)


def test_a_loaded_model_saves_itself_again(tmp_path, trained):
    trained.save_pretrained(tmp_path / "a")
    SSCQ.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "a" / "config.json").read_text() == (tmp_path / "b" / "config.json").read_text()
    assert torch.equal(SSCQ.from_pretrained(tmp_path / "b").codebooks, trained.codebooks)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
def test_a_full_disk_leaves_the_old_model_and_says_so(tmp_path):
    code = f"""if True:
        import resource
        from sscq.core import SSCQ
        folder = {str(tmp_path)!r}
        SSCQ(bits=16, backbone="tiny_cnn", channels=1, image_size=8, hidden=16).save_pretrained(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try: SSCQ(bits=32, backbone="tiny_cnn", channels=1, image_size=8, hidden=16).save_pretrained(folder)
        except OSError as error: print(error)
        print(SSCQ.from_pretrained(folder).bits)"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "cannot be written" in said[0] and "make room" in said[0] and said[1] == "16"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
