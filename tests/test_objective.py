"The whole objective: the authors' numbers and gradients, the notebook's plain version, the sum of its parts, symmetries and bad input."
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from notebook_functions import from_notebook

from sscq.codebook import Encoded, ProductQuantizer, soft_quantize
from sscq.contrastive import FUSIONS, fused_consistency, info_nce
from sscq.diversity import codeword_diversity
from sscq.neighbors import part_neighbor, part_neighbor_with_positive
from sscq.objective import BranchObjective, Parts, SPQObjective, SPQParts, SSCQObjective

objective_broadcast, soft_quantize_broadcast, *_ = from_notebook(
    "08_objective", "objective_broadcast", "soft_quantize_broadcast", "pairwise", "of_negatives", "info_nce_broadcast",
    "consistency_broadcast", "part_neighbor_broadcast", "diversity_broadcast")

FILES = sorted((Path(__file__).parent / "data").glob("sscq_*bit.npz"))
SHAPES = [(2, 1, 2, 2), (3, 2, 4, 3), (8, 4, 16, 16), (12, 3, 8, 5)]  # B, M, K, d


def views_of(f, z): return [Encoded(*pair) for pair in zip(f.chunk(2), z.chunk(2))]


def random_inputs(B, M, K, d, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(2 * B, M * d, generator=g, requires_grad=True), torch.randn(M, K, d, generator=g, requires_grad=True))


def relative(ours, theirs): return np.abs(np.asarray(ours.detach()) - theirs).max() / np.abs(theirs).max()


# ---- against the authors' numbers

@pytest.mark.parametrize("case", [*FUSIONS, "sum_pos"])
@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_reference_numbers_and_gradients(file, case):
    d = np.load(file)
    meta = json.loads(str(d["meta"]))
    f, flat = (torch.tensor(d[k], requires_grad=True) for k in ("f", "codebooks"))
    codebooks = flat.unflatten(1, (meta["M"], meta["d"])).transpose(0, 1)
    objective = SSCQObjective((1., 1., meta["w_cc"], meta["w_pn"], meta["w_cd"]), meta["n_neighbors"], case.removesuffix("_pos"),
                              case.endswith("_pos"), meta["tau_ic"], meta["tau_cc"], meta["tau_pn"])
    loss, parts = objective(*views_of(f, soft_quantize(f, codebooks, meta["tau_sq"])), codebooks)
    loss.backward()
    for name in ("icf", "icz", "cd"): assert relative(getattr(parts, name), d[name]) < 1e-5, name
    for name in ("cc", "pn"): assert relative(getattr(parts, name), d[f"{case}/{name}"]) < 1e-5, name
    assert relative(loss, d[f"{case}/total"]) < 1e-5
    assert relative(f.grad, d[f"{case}/grad_f"]) < 1e-4
    assert relative(flat.grad, d[f"{case}/grad_codebooks"]) < 1e-4


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_spq_reference_number(file):
    d = np.load(file)
    a, b = views_of(torch.from_numpy(d["f"]), torch.from_numpy(d["z"]))
    loss, parts = SPQObjective()(a, b, torch.zeros(1, 2, 2))
    assert relative(loss, d["spq_cqc"]) < 1e-5
    assert isinstance(parts, SPQParts)


# ---- against the plain version, and the sum of its parts

@pytest.mark.parametrize("B, M, K, d", SHAPES)
def test_equals_the_broadcast_version(B, M, K, d):
    f, codebooks = random_inputs(B, M, K, d)
    n = min(20, 2 * B - 2)
    loss, parts = SSCQObjective(n_neighbors=n)(*views_of(f, soft_quantize(f, codebooks)), codebooks)
    plain, plain_parts = objective_broadcast(*views_of(f, soft_quantize_broadcast(f, codebooks)), codebooks, n_neighbors=n)
    torch.testing.assert_close(torch.stack(parts), torch.stack(plain_parts), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(loss, (f, codebooks)), torch.autograd.grad(plain, (f, codebooks))):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("fusion", [name for name, fuse in FUSIONS.items() if fuse])
def test_equals_the_broadcast_version_in_every_fusion(fusion):
    f, codebooks = random_inputs(6, 2, 4, 3)
    loss, _ = SSCQObjective(n_neighbors=4, fusion=fusion)(*views_of(f, soft_quantize(f, codebooks)), codebooks)
    plain, _ = objective_broadcast(*views_of(f, soft_quantize_broadcast(f, codebooks)), codebooks, n_neighbors=4, fuse=FUSIONS[fusion])
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("use_positive", [False, True])
def test_parts_are_the_terms_and_their_weighted_sum_is_the_loss(fusion, use_positive):
    f, codebooks = random_inputs(6, 2, 4, 3)
    z = soft_quantize(f, codebooks)
    weights = (.3, .7, 1.1, 0., 2.)
    loss, parts = SSCQObjective(weights, 5, fusion, use_positive, tau_ic=.4, tau_cc=.3, tau_pn=.6, tau_cd=.2)(*views_of(f, z), codebooks)
    neighbor = part_neighbor_with_positive if use_positive else part_neighbor
    expected = Parts(info_nce(f, .4), info_nce(z, .4), fused_consistency(f, z, fusion, .3), neighbor(z, 2, 5, .6),
                     codeword_diversity(f, codebooks, .2))
    torch.testing.assert_close(torch.stack(parts), torch.stack(expected))
    torch.testing.assert_close(loss, sum(w * x for w, x in zip(weights, expected)))


@pytest.mark.parametrize("left_in", range(5))
def test_a_weight_of_0_leaves_no_gradient(left_in):
    f, codebooks = random_inputs(6, 2, 4, 3)
    weights = [0.] * 5
    weights[left_in] = 2.
    loss, parts = SSCQObjective(weights, n_neighbors=5)(*views_of(f, soft_quantize(f, codebooks)), codebooks)
    whole = torch.autograd.grad(loss, (f, codebooks), retain_graph=True)
    alone = torch.autograd.grad(2 * parts[left_in], (f, codebooks), allow_unused=True, materialize_grads=True)
    for x, y in zip(whole, alone): torch.testing.assert_close(x, y)


# ---- symmetries

OBJECTIVES = {fusion: SSCQObjective(n_neighbors=5, fusion=fusion) for fusion in FUSIONS} | {
    "use_positive": SSCQObjective(n_neighbors=5, use_positive=True), "spq": SPQObjective()}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=list(OBJECTIVES))
def test_order_of_views_images_and_codewords_does_not_matter(objective):
    f, codebooks = random_inputs(6, 2, 4, 3)
    a, b = views_of(f, soft_quantize(f, codebooks))
    loss, _ = objective(a, b, codebooks)
    images, words = torch.randperm(6, generator=torch.Generator().manual_seed(1)), torch.tensor([2, 0, 3, 1])
    swapped, _ = objective(b, a, codebooks)
    shuffled, _ = objective(*(Encoded(v.f[images], v.z[images]) for v in (a, b)), codebooks)
    renamed, _ = objective(*views_of(f, soft_quantize(f, codebooks[:, words])), codebooks[:, words])
    for other in (swapped, shuffled, renamed): torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-5)


def test_order_of_codebooks_does_not_matter():
    f, codebooks = random_inputs(6, 3, 4, 5)
    order = torch.tensor([2, 0, 1])
    g, books = f.unflatten(1, (3, 5))[:, order].flatten(1), codebooks[order]
    for objective in (SSCQObjective(n_neighbors=5), SPQObjective()):
        loss, moved = (objective(*views_of(x, soft_quantize(x, c)), c)[0] for x, c in ((f, codebooks), (g, books)))
        torch.testing.assert_close(loss, moved, rtol=1e-5, atol=1e-5)


def test_spq_without_quantization_loss_is_twice_icf():
    f, codebooks = random_inputs(6, 2, 4, 3)
    torch.testing.assert_close(SPQObjective(.3)(*views_of(f, f), codebooks)[0], 2 * info_nce(f, .3))


def test_spq_parts_sum_to_the_loss():
    f, codebooks = random_inputs(6, 2, 4, 3)
    z = soft_quantize(f, codebooks)
    a, b = views_of(f, z)
    loss, parts = SPQObjective()(a, b, codebooks)
    torch.testing.assert_close(loss, sum(parts))
    torch.testing.assert_close(parts.ab, info_nce(torch.cat([a.f, b.z])))
    torch.testing.assert_close(parts.ba, info_nce(torch.cat([b.f, a.z])))


def test_descending_it_lowers_it():
    f, _ = random_inputs(8, 2, 4, 8)
    torch.manual_seed(0)
    quantizer = ProductQuantizer(2, 4, 8)
    opt = torch.optim.Adam([f, *quantizer.parameters()], lr=.05)
    losses = []
    for _ in range(20):
        loss, _ = SSCQObjective(n_neighbors=5)(*views_of(*quantizer(f)), quantizer.codebooks)
        opt.zero_grad(); loss.backward(); opt.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - .5


# ---- settings

def test_settings_are_values():
    from_list = SSCQObjective(weights=[1., 1., .4, .1, .2])
    assert SSCQObjective() == from_list and hash(SSCQObjective()) == hash(from_list)
    assert replace(SSCQObjective(), fusion="max").fusion == "max"
    objective = SSCQObjective(fusion="cross", tau_cc=2.)
    assert SSCQObjective(**json.loads(json.dumps(asdict(objective)))) == objective


@pytest.mark.parametrize("settings, message", [
    (dict(fusion="mean"), "fusion='mean' is unknown; choose one of sum, concatenate, max, embedding, quantized, cross"),
    (dict(weights=(1., 1., .4)), r"weights=\(1.0, 1.0, 0.4\) must be 5 numbers, for icf, icz, cc, pn, cd"),
    (dict(weights=(1.,) * 6), "must be 5 numbers"),
    (dict(weights=(1., -1., .4, .1, .2)), "weights: icz=-1.0 must be 0 or more"),
    (dict(weights=(1., 1., math.nan, .1, .2)), "weights: cc=nan must be 0 or more"),
    (dict(weights=(1., 1., .4, .1, math.inf)), "weights: cd=inf must be finite"),
    (dict(n_neighbors=0), "n_neighbors=0 must be at least 1"),
    *(({name: value}, f"{name}={value} must be positive")
      for name in ("tau_ic", "tau_cc", "tau_pn", "tau_cd") for value in (0., -1., math.nan)),
])
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message): SSCQObjective(**settings)


@pytest.mark.parametrize("tau", [0., -1., math.nan])
def test_bad_spq_temperature(tau):
    with pytest.raises(ValueError, match=f"tau={tau} must be positive"): SPQObjective(tau)


# ---- bad batches

@pytest.mark.parametrize("objective", [SSCQObjective(n_neighbors=1), SPQObjective()], ids=["sscq", "spq"])
def test_a_batch_of_one(objective):
    f, codebooks = random_inputs(1, 2, 4, 3)
    with pytest.raises(ValueError, match="2 inputs: two views of at least two images"): objective(*views_of(f, f), codebooks)


def test_fewer_images_than_the_neighbours_need():
    f, codebooks = random_inputs(4, 2, 4, 3)
    with pytest.raises(ValueError, match="n_neighbors=20, but a batch of 4 images has 6 negatives"):
        SSCQObjective()(*views_of(f, f), codebooks)


@pytest.mark.parametrize("objective", [SSCQObjective(n_neighbors=1), SPQObjective()], ids=["sscq", "spq"])
def test_views_of_different_images(objective):
    f, codebooks = random_inputs(4, 2, 4, 3)
    with pytest.raises(ValueError, match=r"shape \(5, 6\) and view b \(3, 6\): they must be two views of the same images"):
        objective(Encoded(f[:5], f[:5]), Encoded(f[5:], f[5:]), codebooks)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda():
    f, codebooks = random_inputs(12, 2, 16, 8)
    g, books = f.detach().cuda().requires_grad_(), codebooks.detach().cuda().requires_grad_()
    for objective in (SSCQObjective(), SPQObjective()):
        here, there = (objective(*views_of(x, soft_quantize(x, c)), c)[0] for x, c in ((f, codebooks), (g, books)))
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.autograd.grad(there, g)[0].cpu(), torch.autograd.grad(here, f)[0], rtol=1e-3, atol=1e-5)


# ---- tiny and huge numbers

@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_no_loss_depends_on_the_unit(fusion, size):
    "Cosines do not; each term and each gradient is what it is at 1, the gradient as much smaller as the vectors are larger"
    f, z, codebooks = (torch.randn(*shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(((16, 8), (16, 8), (2, 4, 4))))
    for use_positive in (False, True):
        objective, found = SSCQObjective(n_neighbors=5, fusion=fusion, use_positive=use_positive), []
        for s in (1., size):
            inputs = [(s * x).requires_grad_() for x in (f, z, codebooks)]
            loss, parts = objective(*views_of(*inputs[:2]), inputs[2])
            found.append((torch.stack(parts), [s * g.double() for g in torch.autograd.grad(loss, inputs)]))
        (parts, grads), (same_parts, same_grads) = found
        torch.testing.assert_close(same_parts, parts, rtol=1e-5, atol=1e-6)
        for a, b in zip(same_grads, grads): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


ODD = r"""
import numpy as np, torch
from sscq.codebook import (
    affinity, books_for, decode, distortion, Encoded, hard_assign, n_bits, pack, perplexity, ProductQuantizer, soft_assign, soft_quantize,
    to_parts, unpack, usage)
from sscq.contrastive import check_fusion, consistency, cosines, fused_consistency, info_nce, log_contrast
from sscq.diversity import codeword_cosines, codeword_diversity
from sscq.neighbors import nearest_negatives, part_cosines, part_neighbor, part_neighbor_with_positive
from sscq.objective import SPQObjective, SSCQObjective
f, z, books, n = torch.randn(8, 4), torch.randn(8, 4), torch.randn(2, 4, 2), np.int64
codes = torch.randint(4, (8, 2), dtype=torch.uint8)
good = [
    lambda: n_bits(n(16)), lambda: books_for(n(32), n(16)), lambda: ProductQuantizer(n(2), n(4), n(2), np.float32(.2)),
    lambda: pack(codes, n(4)), lambda: unpack(pack(codes, 4), n(2), n(4)), lambda: usage(codes, n(4)),
    lambda: soft_assign(f.double(), books, np.float64(.2)), lambda: hard_assign(f.half(), books), lambda: distortion(f, books.double()),
    lambda: codeword_diversity(f.half(), books.double(), n(1)), lambda: info_nce(f.bfloat16(), np.float32(.5)),
    lambda: part_neighbor(z, n(2), n(3)), lambda: nearest_negatives(z, n(2), n(3)), lambda: fused_consistency(f, z.double(), "sum"),
    lambda: fused_consistency(f.half(), z, "max"), lambda: SSCQObjective([1, 1, n(1), 0, np.float32(1)], n(3)), lambda: SPQObjective(n(1)),
    lambda: SSCQObjective(n_neighbors=2)(*[Encoded(x[:4], x[4:]) for x in (f, z)], books)]
for call in good: call()
assert SSCQObjective(n_neighbors=n(3)) == SSCQObjective(n_neighbors=3) and type(SSCQObjective(n_neighbors=n(3)).n_neighbors) is int

bad = []
def each(values, *calls): bad.extend((call, value) for value in values for call in calls)
each((True, 2.5, "x", None, 0, -1, 2 ** 70, [3]),  # as a number of things
     n_bits, books_for, lambda v: books_for(32, v), ProductQuantizer, lambda v: ProductQuantizer(2, v), lambda v: ProductQuantizer(2, 4, v),
     lambda v: pack(codes, v), lambda v: unpack(codes, v), lambda v: unpack(codes, 2, v), lambda v: usage(codes, v),
     lambda v: part_cosines(z, v), lambda v: nearest_negatives(z, v, 2), lambda v: nearest_negatives(z, 2, v),
     lambda v: part_neighbor(z, v, 2), lambda v: part_neighbor(z, 2, v), lambda v: part_neighbor_with_positive(z, 2, v),
     lambda v: SSCQObjective(n_neighbors=v))
each((True, "5", None, 0, -1., float("nan"), float("inf"), 1e-320, 1e300, [1], f),  # as a temperature
     lambda v: soft_assign(f, books, v), lambda v: soft_quantize(f, books, v), lambda v: ProductQuantizer(2, tau=v),
     lambda v: codeword_diversity(f, books, v), lambda v: info_nce(f, v), lambda v: consistency(f, f, v), lambda v: log_contrast(f, v),
     lambda v: fused_consistency(f, z, tau=v), lambda v: part_neighbor(z, 2, 2, v), lambda v: part_neighbor_with_positive(z, 2, 2, v),
     SPQObjective, lambda v: SSCQObjective(tau_ic=v), lambda v: SSCQObjective(tau_cc=v), lambda v: SSCQObjective(tau_pn=v),
     lambda v: SSCQObjective(tau_cd=v))
each((True, 2.5, "x", None, [], [3], {}, (1, 1, 1, 1, "x"), (1, 1, 1, 1, -1), (1, 1, 1, 1, None), (1, 1, 1, 1, True), f),
     lambda v: SSCQObjective(weights=v), lambda v: SSCQObjective(fusion=v), check_fusion, lambda v: fused_consistency(f, z, v))
each((1, "yes", None, []), lambda v: SSCQObjective(use_positive=v))
strange = None, "x", 5, torch.complex(f, f), f.long(), f > 0, f[0], f[None], object(), [[None]]
each((*strange, f[:, :3]), *(lambda v, of=of: of(v, books) for of in (
    affinity, hard_assign, distortion, soft_assign, soft_quantize, to_parts, codeword_cosines, codeword_diversity)))
each(strange, info_nce, cosines, lambda v: consistency(v, f), lambda v: log_contrast(v, .5), lambda v: fused_consistency(v, z),
     lambda v: fused_consistency(f, v), lambda v: part_neighbor(v, 2, 2), lambda v: nearest_negatives(v, 2, 2))
each((None, "x", books.long(), books[0], torch.complex(books, books), books[:, :, :1], books[:0], books[:, :0]),
     *(lambda v, of=of: of(f, v) for of in (affinity, hard_assign, distortion, soft_assign, soft_quantize, codeword_cosines, codeword_diversity)))
each((None, "x", codes.long(), codes.float(), codes[0], codes + 100), lambda v: decode(v, books), lambda v: usage(v, 4), lambda v: pack(v, 4))
for call, value in bad:
    try: print("accepted", repr(value)[:60], call(value))
    except (TypeError, ValueError) as error:
        if not 8 < len(str(error)) < 400 or "\n" in str(error): print("unclear", repr(value)[:60], error)
    except Exception as error: print("wrong kind", repr(value)[:60], repr(error))
print(len(bad), "odd calls")
"""


def test_odd_settings_are_refused_in_one_line():
    "In a process of its own: here the annotations are checked before the settings are"
    done = children.run(ODD)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1, done.stdout + done.stderr


def test_branches_are_contrasted_one_by_one():
    f, z, books = torch.randn(12, 32, requires_grad=True), torch.randn(12, 32), torch.randn(8, 4, 4)
    a, b = (Encoded(*pair) for pair in zip(f.chunk(2), z.chunk(2)))
    plain, own = SSCQObjective(n_neighbors=3, tau_ic=.2), BranchObjective(n_neighbors=3, tau_ic=.2)
    (total, parts), (before, others) = own(a, b, books), plain(a, b, books)
    mean = torch.stack([info_nce(x, .2) for x in f.split([16, 8, 8], 1)]).mean()
    assert torch.allclose(parts.icf, mean) and torch.allclose(total, before + parts.icf - others.icf)
    assert all(torch.equal(getattr(parts, name), getattr(others, name)) for name in ("icz", "cc", "pn", "cd"))
    assert own != plain and repr(own).startswith("BranchObjective(weights")
    with pytest.raises(ValueError, match="tau_ic"): BranchObjective(tau_ic=0)


@pytest.mark.parametrize("n_books", [1, 2, 3])
def test_too_few_parts_for_branches_are_contrasted_as_a_whole(n_books):
    f, books = torch.randn(8, 4 * n_books), torch.randn(n_books, 4, 4)
    a, b = (Encoded(x, x) for x in f.chunk(2))
    assert torch.allclose(BranchObjective(n_neighbors=2)(a, b, books)[0], SSCQObjective(n_neighbors=2)(a, b, books)[0])
