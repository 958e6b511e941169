"SSCQ as a module like any other, and as a collection of verbs."
import copy
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import sscq.pretrained as sscq_pretrained
import sscq.budget as budget
import sscq.core as core
from sscq.backbone import backbone_origin, linear_head
from sscq.codebook import distortion
from sscq.core import SSCQ, eval_copy, load_state
from sscq.pretrained import bound_to
from sscq.images import SkippedFiles
from sscq.data import digits
from sscq.files import checksum
from sscq.objective import BranchObjective, SSCQObjective
from sscq.search import refit_codebooks
from sscq.train import TrainConfig
from sscq.distributed import find_device

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
    done = children.run(code)
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


def left_over(folder: Path) -> list[str]: return sorted({p.name for p in folder.iterdir()} - {"README.md", "config.json", "model.safetensors"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks there")
def test_a_kill_during_save_leaves_a_whole_model(tmp_path):
    "Whatever the moment, what is in the folder is one of the two models, and the next save removes what was being prepared"
    kills = int(os.environ.get("SSCQ_KILLS", 8))
    code = f"""if True:
        import os, signal, sys, time, warnings
        import numpy as np, torch
        from pathlib import Path
        from sscq.core import SSCQ
        warnings.simplefilter("ignore")  # killed between two files: config.json is of the other model
        folder, stray = Path({str(tmp_path)!r}), 0
        models = [SSCQ(bits=bits, backbone="tiny_cnn", channels=1, image_size=8, hidden=16, seed=0) for bits in (16, 32)]
        models[0].save_pretrained(folder)
        for delay in np.random.default_rng(0).uniform(0, .1, {kills}):
            child = os.fork()
            if not child:
                while True:
                    for model in models: model.save_pretrained(folder)
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            stray += len(os.listdir(folder)) > 3
            found = SSCQ.from_pretrained(folder)
            wanted = models[found.bits == 32].state_dict()
            assert all(torch.equal(x, wanted[name]) for name, x in found.state_dict().items())
        models[0].save_pretrained(folder)
        print(stray, "of {kills} kills left something behind")"""
    done = children.run(code, timeout=60 + 2 * kills)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert not left_over(tmp_path) and SSCQ.from_pretrained(tmp_path).bits == 16


def test_committed_model_and_index_still_read():
    "Files written by version 0.1.0: what users keep must stay readable"
    from sscq.index import Index
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
    with pytest.warns(UserWarning, match="n_neighbors=20 shrinks to 14"):
        small().fit(images[:8], objective=SSCQObjective(n_neighbors=20), batch_size=8, epochs=1, progress=False)
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
    said = children.run(code).stdout.splitlines()
    assert "cannot be written" in said[0] and "make room" in said[0] and said[1] == "16"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


# encoding changes nothing

@pytest.fixture
def unsettled(images):
    "A model whose batch norms have seen something, in training mode; one by one the right answers to some queries; its state"
    model, queries = small(), images[:80]
    with torch.no_grad():
        model.train()(queries)
        right = [model.eval()(queries[i:i + 1]).f for i in range(80)]
    return model.train(), queries, right, {name: x.clone() for name, x in model.state_dict().items()}


def unchanged(model: nn.Module, kept: dict) -> bool: return all(torch.equal(x, kept[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("beside", [None, "modes", "moves"])
def test_threads_that_encode_a_model_in_training_mode(unsettled, beside):
    "Every answer is right to the last bit, and the model is what it was; also where somebody else changes its mode, or moves it"
    model, queries, right, kept = unsettled
    over = threading.Event()
    def meddle():
        while not over.is_set():
            if beside == "modes": model.eval().train()
            else: model.to("cpu").to(memory_format=torch.channels_last)
    meddler = threading.Thread(target=meddle)
    if beside: meddler.start()
    try:
        with ThreadPoolExecutor(8) as pool: found = list(pool.map(lambda i: model.embed(queries[i % 80]), range(240)))
    finally: over.set()
    if beside: meddler.join()
    assert sum(not torch.equal(f, right[i % 80]) for i, f in enumerate(found)) == 0
    assert unchanged(model, kept) and all(m.training for m in model.modules())


@pytest.mark.parametrize("part", ["", "backbone.1", "head", "quantizer"])
def test_one_part_in_training_mode_is_enough(unsettled, part):
    model, queries, right, kept = unsettled
    modes = {name: m.training for name, m in model.eval().get_submodule(part).train() and model.named_modules()}
    for verb in (model.embed, model.encode, lambda x: model.index(x, progress=False)): verb(queries)
    assert torch.equal(model.embed(queries[0]), right[0]) and unchanged(model, kept)
    assert {name: m.training for name, m in model.named_modules()} == modes


def test_a_stopped_encoding_leaves_no_trace(unsettled):
    model, queries, _, kept = unsettled
    batches = model.embed_batches(queries, 10)
    next(batches)
    assert model.training and unchanged(model, kept)
    batches.close()
    assert model.training and unchanged(model, kept)


def test_the_copy_is_never_stale(unsettled):
    "It is made anew: what is put in, loaded, cast or learned in between counts, in the middle of a collection too"
    model, queries, _, _ = unsettled
    batches = model.embed_batches(queries, 40)
    next(batches)
    other = small(seed=3)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(next(batches).images, other.embed(queries[40:]), rtol=0, atol=0)
    model.backbone = small(seed=4).backbone
    assert not torch.equal(model.embed(queries), other.embed(queries))
    model.double()
    assert eval_copy(model).backbone[1].running_mean.dtype == torch.float64 and model.embed(queries).isfinite().all()


def test_the_copy_has_the_models_own_tensors(unsettled):
    model, queries, _, _ = unsettled
    twin = eval_copy(model)
    assert not any(m.training for m in twin.modules()) and repr(twin) == repr(model)
    for mine, theirs in ((twin.named_parameters(), model.named_parameters()), (twin.named_buffers(), model.named_buffers())):
        mine, theirs = dict(mine), dict(theirs)
        assert mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine)
    assert not {id(m) for m in twin.modules()} & {id(m) for m in model.modules()}
    twin.backbone[0].bias = nn.Parameter(torch.zeros(32))
    twin.backbone.add_module("more", nn.Identity())
    assert model.backbone[0].bias is None and "more" not in dict(model.backbone.named_children())


class Aliased(nn.Module):
    "A backbone whose layers are reached by other ways than its tree"
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.layers, self.by_name, self.call = [self.norm], {"norm": self.norm}, self.norm.forward
        self.__dict__["mine"] = self  # as no part of the tree

    def forward(self, x):
        for way in (self.norm, self.layers[0], self.by_name["norm"], self.call, self.mine.norm): x = way(x)
        return x


def test_the_copy_follows_other_ways_to_a_module():
    net, x = Aliased().train(), torch.rand(4, 1, 2, 2)
    kept = {name: t.clone() for name, t in net.state_dict().items()}
    right = copy.deepcopy(net).eval()(x)
    assert torch.equal(eval_copy(net)(x), right) and unchanged(net, kept) and net.training


def test_the_copy_keeps_hooks_and_parametrizations(unsettled):
    model, queries, _, kept = unsettled
    seen = []
    handle = model.backbone[0].register_forward_hook(lambda module, inputs, out: seen.append(module.training))
    model.embed(queries[0])
    assert seen == [False]
    handle.remove()
    model.embed(queries[0])
    assert len(seen) == 1
    nn.utils.parametrizations.spectral_norm(model.head[0])
    kept = {name: t.clone() for name, t in model.state_dict().items()}
    assert torch.equal(model.embed(queries), copy.deepcopy(model).eval().embed(queries)) and unchanged(model, kept)


def test_a_compiled_part_in_training_mode_runs_as_it_was_written(unsettled):
    model, queries, right, kept = unsettled
    model.backbone = torch.compile(model.backbone, backend="eager")
    model.train()
    assert torch.equal(model.embed(queries[0]), right[0]) and all(m.training for m in model.modules())
    assert all(torch.equal(x, kept[name.replace("._orig_mod", "")]) for name, x in model.state_dict().items())
    model.eval()
    assert eval_copy(model).backbone is model.backbone  # what is compiled stays compiled
    model.backbone = model.backbone._orig_mod
    model.backbone.compile(backend="eager")
    assert torch.equal(model.train().embed(queries[0]), right[0]) and unchanged(model, kept)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_part_is_copied_too(unsettled):
    model, queries, right, kept = unsettled
    model.backbone = torch.jit.script(model.backbone)
    torch.testing.assert_close(model.train().embed(queries[0]), right[0])
    assert unchanged(model, kept) and model.backbone.training


# forked children

FORKS = """if True:
    import multiprocessing, sys, threading, torch, warnings
    from sscq.core import SSCQ
    from sscq.index import Index
    warnings.simplefilter("ignore")  # Python 3.12: of forks beside threads
    torch.set_num_threads(int(sys.argv[2]))
    model = SSCQ(bits=16, backbone="tiny_cnn", image_size=32, seed=0)
    x = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    index = model.index(x, progress=False)
    cells = index.to_ivf(4)
    def work(): return model.encode(x).tolist(), index.search(x[:9], k=5).ids.tolist(), cells.search(model.embed(x[:9]), k=3).ids.tolist()
    right, over, fork = work(), threading.Event(), multiprocessing.get_context("fork")
    def busy():
        while not over.is_set(): work()
    thread = threading.Thread(target=busy)
    thread.start()
    ends = []
    for _ in range(int(sys.argv[1])):
        queue = fork.SimpleQueue()
        child = fork.Process(target=lambda: queue.put((work() == right, torch.get_num_threads())))
        child.start()
        child.join(30)
        if child.is_alive(): child.kill(); ends.append("hangs")
        else: ends.append("nothing" if queue.empty() else queue.get())
    over.set()
    print({str(end): ends.count(end) for end in ends}, torch.get_num_threads())"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks there")
def test_forked_children_answer_as_their_parent():
    "Which computes in other threads at that moment"
    n = int(os.environ.get("SSCQ_FORKS", 3))
    done = subprocess.run([sys.executable, "-c", FORKS, str(n), "2"], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert done.stdout.strip() == f"{{'(True, 1)': {n}}} 2", done.stdout + done.stderr


# seeds

def test_a_models_own_seed(images):
    "Whatever the global generator has been through, and without a trace in it"
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = small(seed=1, bits=16) and SSCQ(bits=16, **SMALL, seed=0)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    second, other = SSCQ(bits=16, **SMALL, seed=0), SSCQ(bits=16, **SMALL, seed=1)
    assert torch.equal(torch.get_rng_state(), state) and not torch.equal(before, state)
    assert unchanged(first, second.state_dict()) and not torch.equal(first.codebooks, other.codebooks)
    assert unchanged(first, small(0).state_dict())  # the numbers of torch.manual_seed(0)
    trained = [SSCQ(bits=16, **SMALL, seed=seed).fit(images, epochs=1, batch_size=48, progress=False) for seed in (3, 3, 4)]
    assert unchanged(trained[0], trained[1].state_dict()) and not torch.equal(trained[0].codebooks, trained[2].codebooks)


def test_models_of_one_seed_made_by_threads_beside_others_that_draw():
    right, over = SSCQ(bits=16, **SMALL, seed=0).state_dict(), threading.Event()
    def draw():
        while not over.is_set(): torch.rand(10)
    drawing = threading.Thread(target=draw)
    drawing.start()
    try:
        with ThreadPoolExecutor(4) as pool: models = list(pool.map(lambda _: SSCQ(bits=16, **SMALL, seed=0), range(24)))
    finally: over.set()
    drawing.join()
    assert all(unchanged(model, right) for model in models)


def test_the_models_seed_is_the_runs_unless_another_is_given():
    config = core.configured(TrainConfig(epochs=3), {}, 7)
    assert (config.seed, config.epochs) == (7, 3)
    assert core.configured(TrainConfig(), {"seed": 0}, 7).seed == 0 and core.configured(TrainConfig(seed=2), {}, 7).seed == 2
    assert core.configured(TrainConfig(), {}, None).seed == 0


def test_loading_draws_nothing(tmp_path, trained):
    trained.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    again = SSCQ.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before) and again.seed is None
    assert "seed" not in json.loads((tmp_path / "config.json").read_text())


def test_training_says_so_once_however_many_train(images, monkeypatch, caplog):
    caplog.set_level("INFO", "sscq")
    small().fit(images, epochs=1, batch_size=48)
    assert [r.getMessage() for r in caplog.records if (r.name, r.levelname) == ("sscq", "INFO")] == ["training on cpu: 96 images, 1 epochs, 16 bits"]
    caplog.clear()
    for module in (core, budget): monkeypatch.setattr(module, "rank_and_world", lambda: (1, 2))
    small().fit(images, epochs=1, batch_size=48)
    assert not [r for r in caplog.records if (r.name, r.levelname) == ("sscq", "INFO")]


# settings

def test_whole_numbers_of_numpy_become_plain(tmp_path):
    model = SSCQ(np.int64(16), n_words=np.int32(16), word_dim=np.uint8(16), backbone="tiny_cnn", channels=np.int64(1), image_size=np.int64(8),
                 tau_sq=np.float32(.5), hidden=np.int64(16), seed=np.int64(0))
    assert {type(v) for v in model._hub_mixin_config.values()} == {int, float, str, type(None)} and type(model.image_size) is int
    model.save_pretrained(tmp_path)
    again = SSCQ.from_pretrained(tmp_path)
    assert unchanged(again, model.state_dict()) and again.quantizer.tau == .5
    assert torch.equal(model.encode(torch.zeros(5, 1, 8, 8), batch_size=np.int64(2)), model.encode(torch.zeros(5, 1, 8, 8)))
    assert model.embed(np.zeros((1, 8, 8), np.uint8)).shape == (1, 64)


@pytest.mark.parametrize("settings, message", [
    (dict(bits=2 ** 31), "bits=2147483648 must be at most"), (dict(bits=2 ** 31 - 4), "bits=2147483644, .* ask for up to 274,"),
    (dict(hidden=10 ** 6), "hidden=1000000 .* ask for"), (dict(word_dim=2 ** 23), "word_dim=8388608"), (dict(channels=10 ** 9), "channels=1000000000"),
    (dict(bits=None, n_books=10 ** 8), "n_books=100000000, .* ask for"),
    (dict(tau_sq=1e-320), "tau_sq=1e-320 must be at least 1e-12"), (dict(image_size=0), "image_size=0"), (dict(image_size=2 ** 20), "image_size=1048576"),
])
def test_sizes_that_no_machine_has_are_refused_at_once(settings, message):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message): small(**settings)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("seed", [-1, 2 ** 63])
def test_seeds_that_no_generator_takes(seed):
    with pytest.raises(ValueError, match=f"seed={seed} must be"): SSCQ(bits=16, **SMALL, seed=seed)


def test_settings_of_the_wrong_kind_are_refused_by_name(tmp_path):
    "In a process of its own: there the annotations are not checked"
    code = """if True:
        import decimal, json, sys, numpy, torch, warnings
        from sscq.core import SSCQ
        warnings.simplefilter("ignore")
        small = dict(bits=8, backbone="tiny_cnn", channels=1, image_size=8, hidden=8, word_dim=2)
        model, x = SSCQ(**small, seed=0), torch.zeros(12, 1, 8, 8, dtype=torch.uint8)
        odd = [True, numpy.True_, -1, 0, 2**31, 2**63, 10**5000, 1.5, float("nan"), "", "x", "5", b"x", [], {}, (), object(), 1j, decimal.Decimal("0.5"),
               torch.tensor(.5), torch.tensor([1, 2]), numpy.zeros(2)]
        calls = {name: (lambda value, name=name: SSCQ(**(small | ({"bits": None} if name == "n_books" else {}) | {name: value})))
                 for name in ("bits", "n_books", "n_words", "word_dim", "backbone", "channels", "image_size", "tau_sq", "hidden", "seed")}
        calls |= {name: (lambda value, name=name: model.fit(x, **({"epochs": 1, "device": "cpu"} | {name: value})))
                  for name in ("view", "objective", "config", "out", "resume", "on_epoch", "progress", "nonsense")}
        for verb in ("embed", "encode", "index"): calls["batch_size", verb] = lambda value, verb=verb: getattr(model, verb)(x, batch_size=value)
        calls |= {name: (lambda value, name=name: model.save_pretrained(**({"save_directory": "m"} | {name: value})))
                  for name in ("save_directory", "push_to_hub")}
        fine = {"tau_sq": (2**31, 2**63, 1.5), "seed": (0, 2**31), "out": ("x", "5"), "save_directory": ("x", "5"), "progress": (True, numpy.True_),
                "resume": (True,), "push_to_hub": (True, numpy.True_)}
        tried, unclear = 0, []
        for what, call in calls.items():
            name = what if isinstance(what, str) else what[0]
            for value in odd:
                if any(type(value) is type(one) and value == one for one in fine.get(name, ())): continue
                tried += 1
                try: call(value)
                except (TypeError, ValueError) as error:
                    text = str(error)
                    if name in text and chr(10) not in text and len(text) < 400: continue
                    unclear.append([name, repr(value)[:20], text[:200]])
                except BaseException as error: unclear.append([name, repr(value)[:20], repr(error)[:200]])
                else: unclear.append([name, repr(value)[:20], "accepted"])
        print(json.dumps([tried, unclear]))"""
    done = children.run(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tried, unclear = json.loads(done.stdout.splitlines()[-1])
    assert tried > 450 and not unclear, unclear


@pytest.mark.parametrize("bad", [None, 5, {"a": 1}, {1, 2}, b"x", iter([]), object(), [1, 2], [None], [torch.zeros(64)], np.array("x"), np.zeros(3)])
def test_what_is_no_images(trained, bad):
    with pytest.raises((TypeError, ValueError), match="images|array"): trained.embed(bad)


def test_files_that_cannot_be_read_are_named(tmp_path, trained, images):
    for name in "ac": Image.fromarray(images[0, 0].numpy()).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = [tmp_path / f"{name}.png" for name in ("a", "broken", "c")]
    with pytest.warns(SkippedFiles, match="broken.png"): assert trained.embed(files).shape == (2, 64)
    with pytest.raises(ValueError, match="broken.png"): trained.embed(files[1])


# a file is valid only if everything in it fits together

def forged(folder: Path, state: dict, arguments, about: str | None = None) -> Path:
    "A model file that says what it is told to, with the right checksums"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    meta = dict(format="pt", config=text, sha256=checksum(state, text))
    if about is not None: meta |= dict(about=about, about_sha256=bound_to(about, meta["sha256"]))
    save_file(state, folder / "model.safetensors", metadata=meta)
    return folder


@pytest.fixture(scope="module")
def honest(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest")
    trained.save_pretrained(folder)
    return load_state(folder / "model.safetensors")


@pytest.mark.parametrize("text, message", [
    ("", "settings cannot be read"), ("{", "settings cannot be read"), ("[]", r"no object but \[\]"), ("null", "no object but None"), ('"x"', "no object"),
    ("[" * 100_000, "nested too deeply|cannot be read"), ('{"bits":' + "9" * 5000 + "}", "cannot be read"), ('{"bits": 1, "bits": 2}', "stands there twice"),
    ("{}", "lack 'backbone'"), (dict(evil=1), "have 'evil'"), (dict(seed=0), "have 'seed'"), (dict(self=0), "have 'self'"),
    (dict(bits=True), "make no model .bits=True is of type bool"), (dict(bits=None), "either bits or n_books"),
    (dict(bits=30), "make no model"), (dict(bits=32), "head.2.bias has shape .64,. in place of .128,."), (dict(hidden=60_000), "in place of .60000,."),
    (dict(hidden=10 ** 6), "hidden=1000000 .* ask for"), (dict(hidden=2 ** 70), "hidden="), (dict(tau_sq=float("nan")), "tau_sq=nan"),
    (dict(backbone="resnet50", channels=3, image_size=32), "backbone.*missing"), (dict(backbone="x"), "backbone='x' is unknown"),
    (dict(channels=3), "backbone.0.weight has shape"), (dict(word_dim=8, bits=32), "quantizer.codebooks has shape"),
])
def test_settings_that_do_not_fit_the_weights(tmp_path, honest, text, message, monkeypatch):
    "Told in a line, with the right checksum too, and before memory is taken"
    arguments, state = honest
    built = []
    monkeypatch.setattr(core, "make_head", lambda *a, head=core.make_head: built.append(torch.get_default_device().type) or head(*a))
    forged(tmp_path, state, text if isinstance(text, str) else arguments | text)
    with pytest.raises(ValueError, match=f"model.safetensors is damaged.*{message}") as told: SSCQ.from_pretrained(tmp_path)
    assert "\n" not in str(told.value) and len(str(told.value)) < 500 and "cpu" not in built


@pytest.mark.parametrize("name", ["backbone.0.weight", "backbone.1.num_batches_tracked", "head.2.bias", "quantizer.codebooks"])
@pytest.mark.parametrize("change, message", [
    (lambda x: None, "is missing"), (lambda x: x[None].contiguous(), "has shape"), (lambda x: torch.zeros(0), "has shape"),
    (lambda x: torch.zeros(7), "has shape"),
    (lambda x: x.to(torch.complex64), "is of torch.complex64"), (lambda x: x.double(), "torch.float64"), (lambda x: x.half(), "torch.float16"),
    (lambda x: x.to(torch.int32), "is of torch.int32"), (lambda x: x > 0, "is of torch.bool"),
])
def test_weights_that_do_not_fit_the_settings(tmp_path, honest, name, change, message):
    arguments, state = honest
    state = {n: change(x) if n == name else x for n, x in state.items()}
    forged(tmp_path, {n: x for n, x in state.items() if x is not None}, arguments)
    with pytest.raises(ValueError, match=f"not those of its settings .*{message}"): SSCQ.from_pretrained(tmp_path)


def test_weights_that_nobody_asked_for(tmp_path, honest):
    arguments, state = honest
    forged(tmp_path, state | {"evil\x1b": torch.zeros(3)}, arguments)
    with pytest.raises(ValueError, match=r"evil\\x1b has no place"): SSCQ.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is missing"): SSCQ.from_pretrained(forged(tmp_path, {}, arguments))


def test_a_model_of_another_precision_is_welcome_whole(tmp_path, trained, images):
    half = copy.deepcopy(trained).half()
    half.save_pretrained(tmp_path)
    again = SSCQ.from_pretrained(tmp_path)
    assert again.codebooks.dtype == torch.float32 and torch.equal(again.codebooks, half.codebooks.float())
    half.head.float()
    with pytest.raises(ValueError, match="float16 and torch.float32, not all of one type"): half.save_pretrained(tmp_path)


@pytest.mark.parametrize("about, message", [
    ("", "cannot be read"), ("[]", "no object"), ('{"history": {}}', "history must be a list"), ('{"history": [1]}', "each epoch"),
    ('{"history": [{}]}', "each epoch"),
    ('{"history": [{"epoch": 1}, {"epoch": 1}]}', "each epoch"), ('{"origin": 5}', "origin=5 must be a line"), ('{"origin": "a\\nb"}', "must be a line"),
    ('{"origin": "\\u001b[2J"}', "must be a line"),
])
def test_what_is_told_beside_the_weights_is_checked(tmp_path, honest, about, message):
    arguments, state = honest
    with pytest.raises(ValueError, match=f"damaged.*{message}"): SSCQ.from_pretrained(forged(tmp_path, state, arguments, about))


def test_what_is_told_belongs_to_the_weights(tmp_path, honest):
    arguments, state = honest
    forged(tmp_path, state, arguments, '{"origin": "from scratch"}')
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"from scratch", b"pre-trained!"))
    with pytest.raises(ValueError, match="checksum is wrong"): SSCQ.from_pretrained(tmp_path)


# what is saved can be read again, and says where it comes from

def test_origin_and_history_survive(tmp_path, trained, images):
    model = copy.deepcopy(trained)
    model.backbone.origin = "pre-trained with labels: Weights.V1, torchvision"
    model.history[-1]["map"] = torch.tensor(.5)  # as a hook may add
    model.save_pretrained(tmp_path)
    again = SSCQ.from_pretrained(tmp_path)
    assert backbone_origin(again.backbone) == model.backbone.origin and len(again.history) == 2 and again.history[-1]["map"] == .5
    assert again.history[0] == trained.history[0]
    again.save_pretrained(tmp_path / "b")
    assert SSCQ.from_pretrained(tmp_path / "b").history == again.history
    assert backbone_origin(SSCQ.from_pretrained(tmp_path / "b").backbone) == model.backbone.origin
    assert SSCQ.from_pretrained(DATA / "tiny-model").history == []  # of version 0.1.0
    assert backbone_origin(SSCQ.from_pretrained(DATA / "tiny-model").backbone) == "from scratch"
    model.history.pop(0)
    with pytest.raises(ValueError, match="cannot be saved: its history must be"): model.save_pretrained(tmp_path)


def test_a_very_long_history_is_kept_without_its_counts(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(sscq_pretrained, "MOST_TEXT", 100)
    trained.save_pretrained(tmp_path)
    record = SSCQ.from_pretrained(tmp_path).history[0]
    assert record.keys() == trained.history[0].keys() - {"usage"} and record["loss"] == trained.history[0]["loss"]


@pytest.mark.parametrize("exchange, message", [
    (lambda m: setattr(m, "head", linear_head(512, 64)), "head is Linear.* in place of Sequential"),
    (lambda m: setattr(m, "backbone", nn.Sequential(nn.Flatten(), nn.Linear(64, 512))), "cannot be saved: backbone"),
    (lambda m: m.head.__setitem__(1, nn.GELU()), "head.1 is GELU.* in place of ReLU"),
    (lambda m: setattr(m.quantizer, "tau", .3), "quantizer is .*tau=0.3.* in place of .*tau=0.2"),
    (lambda m: setattr(m, "image_size", 16), "image_size=16.* in place of .*image_size=8"),
    (lambda m: setattr(m.backbone[0], "weight", nn.Parameter(torch.zeros(32, 1, 5, 5))), "backbone.0.weight has shape"),
    (lambda m: nn.utils.parametrizations.spectral_norm(m.head[0]), "head.0"),
    (lambda m: m.register_buffer("extra", torch.zeros(1)), "extra has no place"),
])
def test_an_exchanged_part_is_refused_at_saving(tmp_path, exchange, message):
    model = small()
    exchange(model)
    with pytest.raises(ValueError, match=f"{message}.*Build it with arguments that do; or keep model.state_dict") as told: model.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists() and "\n" not in str(told.value)


def test_parts_of_the_same_make_are_saved(tmp_path, images):
    "Other weights, an own batch norm while several processes train, torch.compile: what loads computes the same"
    model = small()
    model.backbone, right = small(seed=7).backbone, None
    model.train()(images)
    right = model.embed(images)
    for change in (lambda: None, lambda: setattr(model.backbone[1], "__class__", nn.SyncBatchNorm),
                   lambda: setattr(model, "backbone", torch.compile(model.backbone, backend="eager")), lambda: model.head.compile(backend="eager")):
        change()
        model.save_pretrained(tmp_path)
        assert torch.equal(SSCQ.from_pretrained(tmp_path).embed(images), right)
    torch.compile(model, backend="eager").save_pretrained(tmp_path)
    assert torch.equal(SSCQ.from_pretrained(tmp_path).embed(images), right)


def test_saving_beside_a_thread_that_trains_and_one_that_saves(tmp_path, images):
    "Each file is whole: its checksum is right"
    model, over = small(), threading.Event()
    def trains():
        while not over.is_set():
            with torch.no_grad():
                for p in model.parameters(): p.add_(.001)
    def saves():
        while not over.is_set(): model.save_pretrained(tmp_path)
    threads = [threading.Thread(target=f) for f in (trains, saves)]
    model.save_pretrained(tmp_path)
    for thread in threads: thread.start()
    try:
        for _ in range(12):
            model.save_pretrained(tmp_path)
            SSCQ.from_pretrained(tmp_path)
    finally:
        over.set()
        for thread in threads: thread.join()
    assert not left_over(tmp_path)


def test_an_edited_model_card_stays(tmp_path):
    model = small()
    (tmp_path / "README.md").write_text("mine")
    for _ in range(2): model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine" and (tmp_path / "model.safetensors").exists()
    (tmp_path / "README.md").unlink()
    model.save_pretrained(tmp_path)
    assert "sscq" in (tmp_path / "README.md").read_text()


def test_old_folders_of_killed_saves_go(tmp_path):
    "Those that are surely ours, and surely nobody's any more"
    def made(name, files=("model.safetensors",), age=48 * 3600):
        (tmp_path / name).mkdir()
        for file in files: (tmp_path / name / file).write_text("")
        for path in (*(tmp_path / name).iterdir(), tmp_path / name): os.utime(path, (time.time() - age,) * 2)
    made(".saving-abcd1234")
    made(".saving-empty_00", ())
    made(".saving-zyxw9876", age=60)
    made(".saving-theirs_1", ("notes.txt",))
    made(".saving-longer_name")
    small().save_pretrained(tmp_path)
    assert left_over(tmp_path) == [".saving-longer_name", ".saving-theirs_1", ".saving-zyxw9876"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such files there")
def test_what_is_no_file_is_not_replaced(tmp_path, trained):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="holds a config.json that is no file"): trained.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").is_fifo() and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "config.json").unlink()
    (tmp_path / "real").mkdir()
    trained.save_pretrained(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "model.safetensors").symlink_to(tmp_path / "real" / "model.safetensors")
    small(seed=9).save_pretrained(tmp_path / "linked")
    assert (tmp_path / "linked" / "model.safetensors").is_symlink() and torch.equal(SSCQ.from_pretrained(tmp_path / "real").codebooks, small(seed=9).codebooks)
    (tmp_path / "real" / "config.json").unlink()
    os.mkfifo(tmp_path / "real" / "config.json")
    with pytest.warns(UserWarning, match="a pipe"): SSCQ.from_pretrained(tmp_path / "real")


def test_a_folder_with_the_longest_name(tmp_path):
    for n in (252, 255):
        small().save_pretrained(tmp_path / ("é" * (n // 2) + "m" * (n % 2)))
        assert SSCQ.from_pretrained(tmp_path / ("é" * (n // 2) + "m" * (n % 2))).bits == 16
    with pytest.raises(OSError, match="cannot be written .File name too long"): small().save_pretrained(tmp_path / ("m" * 256))


def test_a_push_names_the_repository_after_the_folder(tmp_path, monkeypatch):
    pushed = []
    class Api:
        def __init__(self, token=None): self.token = token
        def create_repo(self, repo_id, **settings):
            pushed.append(repo_id)
            return type("Url", (), {"repo_id": f"me/{repo_id}" if "/" not in repo_id else repo_id})
        def upload_folder(self, *, repo_id, folder_path, **settings):
            pushed.append((repo_id, sorted(p.name for p in Path(folder_path).iterdir()), SSCQ.from_pretrained(folder_path).bits, settings["commit_message"]))
            return "the commit"
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    files = ["README.md", "config.json", "model.safetensors"]
    assert small().save_pretrained(tmp_path / "mine", push_to_hub=True) == "the commit"
    assert small().save_pretrained(".", push_to_hub=True, commit_message="again") == "the commit"
    assert small().save_pretrained("sub", push_to_hub=True, repo_id="us/ours") == "the commit"
    assert small().push_to_hub("direct") == "the commit"
    told = "Push model using huggingface_hub."
    assert pushed == ["mine", ("me/mine", files, 16, told), "mine", ("me/mine", files, 16, "again"),
                      "us/ours", ("us/ours", files, 16, told), "direct", ("me/direct", files, 16, told)]
    with pytest.raises(TypeError, match="token= is known only with push_to_hub=True"): small().save_pretrained("sub", token="x")
    with pytest.raises(ValueError, match="config=.* is not the model's"): small().save_pretrained("sub", config={"bits": 4})


def test_arguments_of_from_pretrained(tmp_path, trained):
    trained.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="strictt=True is no argument of from_pretrained"): SSCQ.from_pretrained(tmp_path, strictt=True)
    with pytest.warns(UserWarning, match="'bits': 32.*is not used"): assert SSCQ.from_pretrained(tmp_path, bits=32).bits == 16
    with pytest.raises(ValueError, match="device='warp' is unknown"): SSCQ.from_pretrained(tmp_path, map_location="warp")
    assert SSCQ.from_pretrained(tmp_path, seed=4).seed == 4


def test_refitted_codebooks_lose_less_and_leave_embeddings_alone():
    images = torch.randint(0, 256, (80, 3, 16, 16), dtype=torch.uint8)
    model = SSCQ(n_books=8, word_dim=4, backbone="branch_cnn", image_size=16, hidden=16, seed=0).eval()
    embeddings, learned, state = model.embed(images), model.codebooks.detach().clone(), torch.get_rng_state()
    refit_codebooks(model, images)
    fitted = model.codebooks.detach().clone()
    assert distortion(embeddings, fitted) < distortion(embeddings, learned) and model.codebooks.requires_grad
    assert torch.equal(model.embed(images), embeddings) and torch.equal(torch.get_rng_state(), state)
    refit_codebooks(model, images)
    assert torch.equal(model.codebooks, fitted)  # nothing is gained by a second time
    refit_codebooks(model, images[:15])
    assert torch.equal(model.codebooks, fitted)  # fewer images than codewords
    with pytest.raises(ValueError, match="seed"): refit_codebooks(model, images, seed=-1)


def test_a_model_of_branches_is_saved_and_read_again(tmp_path):
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    model = SSCQ(bits=32, backbone="branch_cnn", image_size=16, hidden=16, seed=0)
    model.fit(images, "gentle", BranchObjective(n_neighbors=5), epochs=2, batch_size=6, precision="bf16", progress=False)
    model.save_pretrained(tmp_path)
    again = SSCQ.from_pretrained(tmp_path)
    assert type(again.head).__name__ == "BranchHead" and torch.equal(again.encode(images), model.eval().encode(images))
    assert torch.equal(again.embed(images), model.embed(images))
