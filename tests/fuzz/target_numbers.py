"""Odd numbers: the public functions of codebook, diversity, neighbors, contrastive, objective, search and evaluate against float64.

Every function is called with tensors of odd types, layouts, sizes and values. What may happen: it is refused with a ValueError or TypeError
of one line; or the answer is the one that NumPy computes in float64 from the equations, as near as the numbers' own type can be; or it is
visibly none (NaN or infinite) where the true one or what it is made of exceeds the type's range."""

import itertools
import math
import random
import warnings
from typing import NamedTuple

import numpy as np
import torch

from equations import (
    affinities,
    average_precision,
    consistent,
    contrast,
    cosines,
    diverse,
    fused,
    log_contrast,
    neighborly,
    parts,
    same_image,
    soft,
    soft_vectors,
    squares,
    wide,
    word_cosines,
)
from harness import Case, Target, refusal
import sscq.kernels as sscq_kernels
import sscq.index as sscq_index
import sscq.baselines as sscq_baselines
from sscq import codebook, contrastive, diversity, evaluate, neighbors, search
from sscq.codebook import Encoded, ProductQuantizer
from sscq.objective import SPQObjective, SSCQObjective

EPS = {torch.float16: 2**-10, torch.bfloat16: 2**-7}
LARGEST = {torch.float16: 65504.0}
FUSIONS = ("sum", "concatenate", "max", "embedding", "quantized", "cross")


# --- what is asked ---------------------------------------------------------------------------------------------------------------------------

VALUES = ["normal"] * 6 + [
    "integers",
    "1e-20",
    "1e-42",
    "1e4",
    "1e20",
    "1e30",
    "3e38",
    "NaN",
    "infinity",
    "zeros",
    "a zero row",
    "rows alike",
    "a row of 1e20",
]


def values(r: random.Random, *shape: int) -> tuple[str, torch.Tensor]:
    kind, x = r.choice(VALUES), torch.randn(*shape, generator=torch.Generator().manual_seed(r.randrange(2**31)))
    if kind == "integers":
        x = (x * 2).round()
    elif kind == "3e38":
        x = x.sign() * 3e38
    elif kind.startswith("1e"):
        x = x * float(kind)
    elif kind == "zeros":
        x = x * 0
    elif x.numel() and kind in ("NaN", "infinity"):
        x.view(-1)[r.randrange(x.numel())] = float(kind.replace("infinity", "inf"))
    elif len(x) and kind == "a zero row":
        x[r.randrange(len(x))] = 0
    elif len(x) and kind == "rows alike":
        x[:] = x[0].clone()
    elif len(x) and kind == "a row of 1e20":
        x[r.randrange(len(x))] *= 1e20
    return kind, x


LAYOUTS = {
    "": lambda x: x,
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "reversed twice": lambda x: x.flip(0).flip(0),
    "one row expanded": lambda x: x[:1].expand(len(x), *x.shape[1:]),
    "needs a gradient": lambda x: x.clone().requires_grad_(),
    "a slice": lambda x: torch.cat([x, x])[len(x) :],
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "float64": lambda x: x.double(),
    "float64 beyond float32": lambda x: x.double() * 1e60,
    "int64": lambda x: torch.nan_to_num(x).clamp(-9, 9).long(),
    "bool": lambda x: x > 0,
    "complex": lambda x: x + 1j,
    "an array": lambda x: x.numpy(),
    "a list": lambda x: x.tolist(),
    "one more dimension": lambda x: x[None],
    "flat": lambda x: x.flatten(),
}
ODD = ("int64", "bool", "complex", "an array", "a list", "one more dimension", "flat", "float64 beyond float32")


def odd(r: random.Random, *shape: int) -> tuple[str, object]:
    "A tensor, usually with something odd about its values or its layout"
    kind, x = values(r, *shape)
    layout = r.choice(["", "", "", *(name for name in LAYOUTS if name not in ODD)] * 3 + [name for name in ODD if r.random() < 0.4])
    return f"{kind} {layout}".strip(), LAYOUTS[layout](x)


def temperature(r: random.Random):
    return r.choice([0.1, 0.2, 0.2, 0.5, 1.0, 2, 5.0, np.float32(0.5), 1e-3, 1e-12, 1e12, 1e-320, 1e30, 0, -1, math.nan, math.inf, "5", None, True])


# --- how an answer is judged -----------------------------------------------------------------------------------------------------------------


def tensors(args) -> list:
    return [x for x in args if isinstance(x, torch.Tensor)]


def precision(args) -> tuple[float, float]:  # of the coarsest type among the arguments: its rounding and its largest number
    types = [x.dtype for x in tensors(args)]
    return max([2**-23, *(EPS.get(t, 0) for t in types)]), min([3.4e38, *(LARGEST.get(t, 3.4e38) for t in types)])


def size(x) -> float:
    return float(np.abs(wide(x)).max(initial=0))


def judged(out, wanted: list, scale, args, inner=0) -> str:
    "What is wrong with an answer; empty if it is one of those wanted, to within rounding errors of terms as large as `scale`; `inner` terms may overflow"
    if not isinstance(out, torch.Tensor):
        return f"it is a {type(out).__name__}"
    eps, largest = precision(args)
    got, why = wide(out), "nothing was wanted"
    for want in wanted:
        want = np.asarray(want, dtype=np.float64)
        if got.shape != want.shape:
            return f"shape {got.shape} for {want.shape}"
        with np.errstate(all="ignore"):
            near = np.abs(got - want) <= 64 * eps * (np.abs(want) + scale) + (1e-18 if np.any(inner) else 1e-36)  # squares below 1e-38 are lost
            visible = ~np.isfinite(got) & (
                (np.abs(want) > 0.99 * largest) | (np.broadcast_to(np.maximum(scale, inner), want.shape) > 0.1 * largest) | ~np.isfinite(want)
            )
            unknown = ~np.isfinite(want) & ~np.isfinite(got)
        wrong = ~(near | visible | unknown)
        if not wrong.any():
            return ""
        i = tuple(np.argwhere(wrong)[0])
        why = f"{got[i]:.6g} for {want[i]:.6g}"
    return why


class Ask(NamedTuple):
    "A call, and what the answer must be"

    name: str
    call: object  # () -> answer
    judge: object  # answer -> what is wrong with it, or ""
    args: tuple


def normalised(reference):
    return lambda: [reference(1e-12), reference(1e-300)]  # torch's least length, or none


def ask_codebook(r, M, K, d, B):
    (kf, f), (kc, c), tau = odd(r, B, M * d), odd(r, M, K, d), temperature(r)
    F, C = wide(f), wide(c)

    def scale():
        return (
            np.where(np.isfinite(F), np.square(F), 0).reshape(len(F), M, F.shape[1] // M).sum(-1, keepdims=True)
            + np.where(np.isfinite(C), np.square(C), 0).sum(-1).max(-1)[:, None]
        )  # (B, M, 1)

    def nearest(codes):
        if not isinstance(codes, torch.Tensor) or codes.shape != (len(F), M) or codes.dtype != torch.uint8:
            return f"{type(codes).__name__} of {getattr(codes, 'shape', '')}"
        far, eps = squares(F, C), precision((f, c))[0]
        chosen = np.take_along_axis(far, codes.numpy().astype(int)[..., None], 2)[..., 0]
        if not (np.isfinite(F).all() and np.isfinite(C).all()):
            return ""  # looking for NaN would make every step of training wait; who keeps codes, looks
        wrong = chosen > far.min(-1) + 64 * eps * scale()[..., 0] + 1e-36
        return f"a word at {chosen[wrong][0]:.6g}, the nearest is at {far.min(-1)[wrong][0]:.6g}" if wrong.any() else ""

    floats = isinstance(c, torch.Tensor) and c.is_floating_point() and c.ndim == 3
    name = r.choice(
        [
            "affinity",
            "hard_assign",
            "ProductQuantizer.encode" if floats else "hard_assign",
            "distortion",
            "soft_assign",
            "soft_quantize",
            "codeword_cosines",
            "codeword_diversity",
            "distance_table",
        ]
    )
    squared = r.random() < 0.5
    label = f"f {kf}, codebooks {kc}, tau={tau!r}"

    def module():
        q = ProductQuantizer(M, K, d)
        q.codebooks.data = c.detach()
        return q.encode(f)

    def over_tau():
        return float(np.max(scale(), initial=0)) / float(tau) + 1

    asks = {
        "affinity": ((f, c), lambda: codebook.affinity(f, c), lambda out: judged(out, [affinities(F, C)], scale(), (f, c))),
        "hard_assign": ((f, c), lambda: codebook.hard_assign(f, c), nearest),
        "ProductQuantizer.encode": ((f, c), module, nearest),
        "distortion": (
            (f, c),
            lambda: codebook.distortion(f, c),
            lambda out: judged(out, [squares(F, C).min(-1).sum(-1).mean()], float(scale().sum(1).max(initial=0)), (f, c)),
        ),
        "soft_assign": ((f, c, tau), lambda: codebook.soft_assign(f, c, tau), lambda out: judged(out, [soft(F, C, tau)], over_tau(), (f, c))),
        "soft_quantize": (
            (f, c, tau),
            lambda: codebook.soft_quantize(f, c, tau),
            lambda out: judged(out, [soft_vectors(F, C, tau)], over_tau() * size(np.where(np.isfinite(C), C, 0)), (f, c)),
        ),
        "codeword_cosines": (
            (f, c),
            lambda: diversity.codeword_cosines(f, c),
            lambda out: judged(out, normalised(lambda e: word_cosines(F, C, e))(), 1, (f, c)),
        ),
        "codeword_diversity": (
            (f, c, tau),
            lambda: diversity.codeword_diversity(f, c, tau),
            lambda out: judged(out, normalised(lambda e: diverse(F, C, tau, e))(), math.log(K) + 1 / tau, (f, c)),
        ),
        "distance_table": (
            (f, c, squared),
            lambda: search.distance_table(f, c, squared),
            lambda out: judged(
                out, [squares(F, C) if squared else np.sqrt(squares(F, C))], scale() if squared else np.sqrt(scale()), (f, c), scale()
            ),
        ),
    }
    args, call, judge = asks[name]
    return label, Ask(name, call, judge, args)


def ask_losses(r, M, K, d, B):
    (kf, f), (kz, z), (_, c), tau = odd(r, B, M * d), odd(r, B, M * d), odd(r, M, K, d), temperature(r)
    if r.random() < 0.5:
        kz, z = kf, f
    F, Z, C, n = wide(f), wide(z), wide(c), r.choice([1, 2, 5, 1, B - 2, B, 0, -1, 2.5, "x", None, True, np.int64(1)])
    fusion = r.choice([*FUSIONS, "evil", None, 3, []])
    label = f"f {kf}, z {kz}, tau={tau!r}, n_neighbors={n!r}, fusion={fusion!r}"

    def spread():
        return 1 + 2 / tau

    def two(x):
        return (x[: len(x) // 2], x[len(x) // 2 :])

    def objective(which):
        return lambda: which()(*map(Encoded, two(f), two(z)), c)[0]

    def spq(e):
        return contrast(np.concatenate([two(F)[0], two(Z)[1]]), 0.5, e) + contrast(np.concatenate([two(F)[1], two(Z)[0]]), 0.5, e)

    def all_five(e):
        return (
            contrast(F, 0.5, e)
            + contrast(Z, 0.5, e)
            + 0.4 * fused(F, Z, fusion, 0.2, e)
            + 0.1 * neighborly(Z, M, n, 0.5, e)
            + 0.2 * diverse(F, C, 1.0, e)
        )

    asks = {
        "cosines": ((f,), lambda: contrastive.cosines(f), lambda out: judged(out, normalised(lambda e: cosines(F, e))(), 1, (f,))),
        "info_nce": (
            (f, tau),
            lambda: contrastive.info_nce(f, tau),
            lambda out: judged(out, normalised(lambda e: contrast(F, tau, e))(), spread(), (f,)),
        ),
        "log_contrast": (
            (f, tau),
            lambda: contrastive.log_contrast(f, tau),
            lambda out: judged(out, normalised(lambda e: log_contrast(F, tau, e))(), spread(), (f,)),
        ),
        "consistency": (
            (f, z, tau),
            lambda: contrastive.consistency(f, z, tau),
            lambda out: judged(out, normalised(lambda e: consistent(F, Z, tau, e))(), spread() ** 2, (f, z)),
        ),
        "fused_consistency": (
            (f, z, fusion, tau),
            lambda: contrastive.fused_consistency(f, z, fusion, tau),
            lambda out: judged(out, normalised(lambda e: fused(F, Z, fusion, tau, e))(), spread() ** 2, (f, z)),
        ),
        "part_neighbor": (
            (f, M, n, tau),
            lambda: neighbors.part_neighbor(f, M, n, tau),
            lambda out: judged(out, normalised(lambda e: neighborly(F, M, n, tau, e))(), spread(), (f,)),
        ),
        "part_neighbor_with_positive": (
            (f, M, n, tau),
            lambda: neighbors.part_neighbor_with_positive(f, M, n, tau),
            lambda out: judged(out, normalised(lambda e: neighborly(F, M, n, tau, e, True))(), spread(), (f,)),
        ),
        "part_cosines": (
            (f, M),
            lambda: neighbors.part_cosines(f, M),
            lambda out: judged(out, normalised(lambda e: np.stack([cosines(parts(F, M)[:, m], e) for m in range(M)]))(), 1, (f,)),
        ),
        "nearest_negatives": ((f, M, n), lambda: neighbors.nearest_negatives(f, M, n), lambda out: judged_neighbors(out, F, M, n, f)),
        "SPQObjective": ((f, z), objective(SPQObjective), lambda out: judged(out, normalised(spq)(), 10, (f, z))),
        "SSCQObjective": (
            (f, z, c, n, fusion),
            objective(lambda: SSCQObjective(n_neighbors=n, fusion=fusion)),
            lambda out: judged(out, normalised(all_five)(), 50, (f, z, c)),
        ),
    }
    name = r.choice(list(asks))
    args, call, judge = asks[name]
    if (
        name in ("info_nce", "fused_consistency", "part_neighbor", "SSCQObjective")
        and isinstance(f, torch.Tensor)
        and f.dtype == torch.float32
        and r.random() < 0.3
    ):
        label += ", with its gradient"
        args[0].requires_grad_() if args[0].is_leaf else None

        def judge(out, judge=judge):
            why = judge(out)
            if why or not out.isfinite() or not out.requires_grad or not args[0].requires_grad:
                return why
            length = np.sqrt(np.square(parts(wide(args[0]), M)).sum(-1))
            if ((length > 0) & (length < 1e-36)).any():
                return ""  # the slope there is as steep as 1 / length, more than float32 holds
            (grad,) = torch.autograd.grad(out, args[0])
            return "" if grad.isfinite().all() else "the loss is finite, its gradient is not"

    return label, Ask(name, call, judge, args)


def judged_neighbors(out, F, M, n, f) -> str:
    if not isinstance(out, torch.Tensor) or out.shape != (M, len(F), n):
        return f"shape {getattr(out, 'shape', None)}"
    why = ""
    for eps in (1e-12, 1e-300):
        s = np.stack([np.where(same_image(len(F)), -np.inf, cosines(parts(F, M)[:, m], eps)) for m in range(M)])
        if np.isnan(s).any():
            return "neighbours of what is not finite"
        got = np.take_along_axis(s, out.numpy(), 2)
        best = np.sort(s, -1)[..., ::-1][..., :n]
        why = "" if np.allclose(got, best, atol=256 * precision((f,))[0]) else f"not the nearest: {np.abs(got - best).max():.3g} farther"
        if not why:
            break
    return why


def ask_search(r, M, K, d, B):
    (kf, f), (kc, c) = odd(r, B, M * d), odd(r, M, K, d)
    N = r.choice([0, 1, 2, 17, 17, 300]) if r.random() < 0.95 else r.choice([4097, 9000])
    codes = torch.randint(0, K, (N, M), dtype=torch.uint8, generator=torch.Generator().manual_seed(r.randrange(2**31)))
    codes_kind, asked = r.choice(
        [("", codes)] * 12
        + [
            ("int64", codes.long()),
            ("floats", codes.float()[:, : M * d - 1]),  # of as many columns, they would be vectors
            ("flat", codes.flatten()),
            ("transposed", codes.T.contiguous().T),
            ("an array", codes.numpy()),
            ("too large", codes | 128),
            ("a list", codes.tolist()),
            ("None", None),
        ]
    )
    k = r.choice([1, 2, 10, 10, 10, max(N, 1), N + 5, np.int64(3), 0, -1, 1.5, "a", None, True, 10**12, 2**70])
    squared = r.random() < 0.5
    F, C = wide(f), wide(c)

    def judge(answer, exact=True):
        if not N or not len(F):
            return "an answer to nothing"
        distances, rows = answer
        if not (np.isfinite(F).all() and np.isfinite(C).all()):
            return "an order of what is not finite"
        n = min(int(k), N)
        if distances.shape != (len(F), n) or rows.shape != (len(F), n):
            return f"shape {tuple(rows.shape)}"
        table = squares(F, C) if squared else np.sqrt(squares(F, C))
        true = sum(table[:, m][:, wide(asked)[:, m].astype(int)] for m in range(M))
        if not exact:  # of the cells: candidates that FAISS loses are said to be missing
            if not ((rows < 0) == distances.isinf()).all():
                return "no answer, but a distance"
            true = np.concatenate([true, np.full((len(true), 1), np.inf)], 1)
        own, D, eps = np.take_along_axis(true, rows.numpy(), 1), wide(distances), precision((f, c))[0]
        reach = np.square(F).sum(-1, keepdims=True) + np.square(C).sum(-1).max(-1).sum()
        limit = 64 * eps * (reach if squared else np.sqrt(reach) * M) + 1e-18
        if not np.isfinite(D).all() and exact:
            return "distances are not finite"
        with np.errstate(invalid="ignore"):
            if (np.abs(D - own) > limit).any():
                return f"distance {D[np.abs(D - own) > limit][0]:.6g} for {own[np.abs(D - own) > limit][0]:.6g}"
            if (D[:, 1:] < D[:, :-1]).any():
                return "not in order"
            if ((D[:, 1:] == D[:, :-1]) & (rows.numpy()[:, 1:] <= rows.numpy()[:, :-1]) & np.isfinite(D[:, 1:])).any():
                return "equal distances are not in the order of rows"
            if exact and (own > np.sort(true, 1)[:, :n] + 2 * limit).any():
                return "nearer ones are left out"
        return ""

    def through_index(make):
        return lambda: (lambda hits: (hits.distances, hits.ids))(
            make(sscq_index.Index(c).add(asked)).search(f, k, distance="squared" if squared else "unsquared")
        )

    def ivf(index):
        return index.to_ivf(n_lists=min(4, N), n_probe=min(4, N))

    def added(index):
        own = codebook.hard_assign(torch.tensor(F, dtype=torch.float64), torch.tensor(C, dtype=torch.float64)) if len(F) else index.codes
        far = squares(F, C)
        a, b = (np.take_along_axis(far, x.numpy().astype(int)[..., None], 2)[..., 0] for x in (index.codes, own))
        return (
            ""
            if np.isfinite(far).all() and (a <= b + 64 * precision((f, c))[0] * (np.square(F).sum() + np.square(C).sum()) + 1e-36).all()
            else "codes are not the nearest words"
        )

    asks = {
        "nearest": (lambda: search.nearest(f, c, asked, k, squared), judge),
        "Index.search": (through_index(lambda index: index), judge),
        "IVFIndex.search": (through_index(ivf), lambda answer: judge(answer, exact=False)),
        "Index.add": (lambda: sscq_index.Index(c).add(f), added),
    }
    name = r.choice(list(asks))
    return f"f {kf}, codebooks {kc}, {N} codes {codes_kind}, k={k!r}, squared={squared}", Ask(name, *asks[name], (f, c))


def ask_training(r, M, K, d, B):
    K, N = r.choice([2, 4, 16]), r.choice([0, 3, 16, 40, 80])
    kind, x = odd(r, N, M * d)
    n_books, n_words, seed = (
        r.choice([M] * 8 + [0, -1, 1.0, "x", None, True]),
        r.choice([K] * 8 + [3, None, 512, 2.0]),
        r.choice([0] * 5 + [-1, 2**31, 2**40, None, "s", 1.5]),
    )
    X = wide(x)

    def judge_pq(c, X=X):
        if not isinstance(c, torch.Tensor) or not c.isfinite().all():
            return "codebooks are not finite"
        if c.shape != (M, K, d):
            return f"shape {tuple(c.shape)}"
        with np.errstate(all="ignore"):
            mine, one = squares(X, wide(c)).min(-1).sum(), np.square(X - X.mean(0)).sum()
        return "" if mine <= 1.05 * one + 1e-5 * np.square(X).sum() + 1e-30 else f"distortion {mine:.4g}, of a single word a part {one:.4g}"

    def judge_opq(answer):
        R, c = answer
        if not R.isfinite().all() or not np.allclose(wide(R) @ wide(R).T, np.eye(len(R)), atol=1e-3):
            return "no rotation"
        return judge_pq(c, X @ wide(R).T)

    name = r.choice(["train_pq", "train_pq", "train_opq"])
    call = getattr(search, name)
    return f"vectors {kind}, {N}, n_books={n_books!r}, n_words={n_words!r}, seed={seed!r}", Ask(
        name, lambda: call(x, n_books, n_words, seed), judge_pq if name == "train_pq" else judge_opq, (x,)
    )


def ask_codes(r, M, K, d, B):
    "What happens to codes alone"
    N = r.choice([0, 1, 5, 40])
    codes = torch.randint(0, K, (N, M), dtype=torch.uint8, generator=torch.Generator().manual_seed(r.randrange(2**31)))
    kind, x = r.choice(
        [("", codes)] * 6
        + [
            ("int64", codes.long()),
            ("floats", codes.float()),
            ("flat", codes.flatten()),
            ("transposed", codes.T.contiguous().T),
            ("bool", codes > 0),
            ("an array", codes.numpy()),
            ("too large", codes | 128),
            ("a list", codes.tolist()),
            ("None", None),
            ("one more dimension", codes[None]),
        ]
    )
    n_words, n_books = (
        r.choice([K] * 6 + [0, -2, 3, 2.0, "16", None, True, 512, np.int64(K)]),
        r.choice([M] * 6 + [0, -1, 2.5, None, 10**9, np.int64(M)]),
    )
    C = torch.randn(M, K, d, generator=torch.Generator().manual_seed(r.randrange(2**31)))
    X = np.asarray(x if x is not None else [], dtype=np.float64)

    def counted(out):
        want = np.stack([np.bincount(X[:, m].astype(int), minlength=n_words) for m in range(M)])
        return "" if np.array_equal(wide(out), want) else "counts are wrong"

    def packed_bits(out):
        b = int(n_words).bit_length() - 1
        want = [sum(int(v) << (b * m) for m, v in enumerate(row)) for row in X]
        return "" if [int.from_bytes(bytes(row), "little") for row in out.tolist()] == want else "bits are wrong"

    def decoded(out):
        return "" if np.array_equal(wide(out), np.concatenate([wide(C)[m][X[:, m].astype(int)] for m in range(M)], 1)) else "words are wrong"

    counts = torch.randint(0, 9, (M, K), generator=torch.Generator().manual_seed(r.randrange(2**31))) * r.choice([0, 1, 1, 1])

    def even(out):
        p = wide(counts) / np.maximum(wide(counts).sum(-1, keepdims=True), 1)
        with np.errstate(all="ignore"):
            return judged(out, [np.exp(-np.where(p > 0, p * np.log(p), 0).sum(-1))], 1, ())

    rows = torch.tensor(r.choice([[0, 1], [7, 2**31 - 1], [7, 2**31], [2**32, 1], [2**40, 2**62], [-1, 3]]))
    far = torch.tensor([[r.choice([0.0, 1.0, 1e30, 1e-42, math.inf]), r.choice([0.0, 2.0, 3e38])]])

    def round_trip(out):
        return "" if torch.equal(out[0], far) and torch.equal(out[1][0], rows) else f"rows {out[1].tolist()} for {rows.tolist()}"

    asks = {
        "usage": (lambda: codebook.usage(x, n_words), counted),
        "pack": (lambda: codebook.pack(x, n_words), packed_bits),
        "decode": (lambda: codebook.decode(x, C), decoded),
        "unpack": (
            lambda: codebook.unpack(codebook.pack(codes, K), n_books, n_words),
            lambda out: "" if torch.equal(out, codes) else "not what was packed",
        ),
        "perplexity": (lambda: codebook.perplexity(counts), even),
        "to_keys": (lambda: sscq_kernels.from_keys(sscq_kernels.to_keys(far, rows)), round_trip),
        "adc": (
            lambda: search.adc(C.square().sum(-1)[None], x),
            lambda out: judged(out, [sum(np.square(wide(C)).sum(-1)[m][X[:, m].astype(int)] for m in range(M))[None]], 1, ()),
        ),
    }
    name = r.choice(list(asks))
    return f"codes {kind}, {N}, n_words={n_words!r}, n_books={n_books!r}, rows={rows.tolist()}", Ask(name, *asks[name], ())


LABELS = (
    ["classes"] * 6
    + ["multi-hot"] * 3
    + [
        "one column",
        "-1 among them",
        "floats",
        "NaN among them",
        "bool",
        "an array",
        "a list",
        "too few",
        "None",
        "one more dimension",
        "multi-hot of 2",
    ]
)


def labels(r, kind: str, n: int):
    g = torch.Generator().manual_seed(r.randrange(2**31))
    y, many = torch.randint(0, 3, (n,), generator=g), torch.randint(0, 2, (n, 4), generator=g)
    if n and kind == "-1 among them":
        y[0] = -1
    return {
        "multi-hot": many,
        "one column": (y > 0).long()[:, None],
        "floats": y.double(),
        "NaN among them": y.double() * math.nan,
        "bool": y > 0,
        "an array": y.numpy(),
        "a list": y.tolist(),
        "too few": y[1:],
        "None": None,
        "one more dimension": many[None],
        "multi-hot of 2": many * 2,
    }.get(kind, y)


def matching(a, b, kind: str) -> np.ndarray:
    a, b = np.asarray(a), np.asarray(b)
    if kind == "one column":
        a, b = a[:, 0], b[:, 0]
    if a.ndim == 1:
        return (a[:, None] == b) & ((a[:, None] >= 0) | (kind in ("bool",)))
    return a.astype(float) @ b.astype(float).T > 0


def ask_scores(r, M, K, d, B):
    "Metrics: of integers, so that distances are the same numbers in float32 and float64"
    Q, N = r.choice([0, 1, 3, 8]), r.choice([0, 1, 6, 30])
    g = torch.Generator().manual_seed(r.randrange(2**31))
    f, c = torch.randint(-3, 4, (Q, M * d), generator=g).float(), torch.randint(-3, 4, (M, K, d), generator=g).float()
    codes, topk = torch.randint(0, K, (N, M), dtype=torch.uint8, generator=g), r.choice([1, 5, 5, 1000, N, np.int64(3), 0, -1, 1.5, None, True, "5"])
    kind, distance = r.choice(LABELS), r.choice(["squared"] * 6 + ["Squared", None, 2])
    ql, dl = labels(r, kind, Q), labels(r, kind, N)
    hits = torch.rand(max(Q, 1), max(N, 1), generator=g) < 0.4

    def truth():
        table = squares(wide(f), wide(c))
        far = sum(table[:, m][:, codes[:, m].long().numpy()] for m in range(M))
        return far, matching(ql, dl, kind)

    def judge_map(score):
        if kind in ("too few", "None", "one more dimension", "multi-hot of 2", "NaN among them"):
            return f"labels of {kind} are scored"
        far, right = truth()
        want = np.mean([average_precision(right[q][np.argsort(far[q], kind="stable")][: int(topk)]) for q in range(Q)])
        return "" if abs(score.map - want) < 1e-9 else f"mAP {score.map:.6f} for {want:.6f}"

    def judge_matches(out):
        if kind in ("NaN among them",):
            return "" if not out.any() else "NaN matches"
        if kind in ("None", "one more dimension"):
            return f"labels of {kind} are compared"
        return "" if np.array_equal(np.asarray(out), matching(ql, dl, kind)) else "other matches"

    few, ties = min(N, 6), torch.randint(0, 3, (1, max(min(N, 6), 1)), generator=g).float().sort(1).values
    few_hits = hits[:1, : max(few, 1)]

    def judge_ties(out):
        k, groups, n = min(int(topk), few_hits.shape[1]), ties[0].tolist(), few_hits.shape[1]
        total = [
            average_precision([few_hits[0, i] for i in order][:k])
            for order in itertools.permutations(range(n))
            if [groups[i] for i in order] == groups
        ]
        return "" if abs(out.item() - np.mean(total)) < 1e-9 else f"{out.item():.6f} for {np.mean(total):.6f}"

    samples = r.choice(
        [
            hits.double().mean(1),
            hits.double().mean(1).float(),
            torch.zeros(0),
            hits[0] * math.nan,
            torch.tensor(0.5),
            None,
            [0.1, 0.5],
            np.array([0.2, 0.4]),
        ]
    )
    resamples, level, seed = (
        r.choice([10, 50, np.int64(10), 0, -1, 1.5, None, True]),
        r.choice([0.95, 0.5, 0, 1, math.nan, "x", None]),
        r.choice([0, 0, 1, -1, 2**70, None, 1.5]),
    )

    def judge_interval(ends):
        return "" if min(wide(samples)) - 1e-9 <= ends[0] <= ends[1] <= max(wide(samples)) + 1e-9 else f"{ends}"

    def each(function):
        return lambda out: judged(out, [np.array([function(row) for row in hits.numpy()])], 1e-9, ())

    n_relevant = hits.sum(1) + r.choice([0, 3])
    cut = hits.shape[1]
    asks = {
        "score_codes": (lambda: evaluate.score_codes(f, ql, codes, dl, c, topk, distance), judge_map),
        "relevance": (lambda: evaluate.relevance(ql, dl), judge_matches),
        "tie_averaged_precision": (lambda: evaluate.tie_averaged_precision(ties, few_hits, topk), judge_ties),
        "average_precision": (lambda: evaluate.average_precision(hits), each(average_precision)),
        "average_precision_min": (
            lambda: evaluate.average_precision_min(hits, n_relevant),
            lambda out: judged(
                out,
                [np.array([average_precision(row) * row.sum() / min(max(n, 1), cut) for row, n in zip(hits.numpy(), n_relevant.tolist())])],
                1e-9,
                (),
            ),
        ),
        "pr_curve": (
            lambda: torch.stack(evaluate.pr_curve(hits, n_relevant)),
            lambda out: judged(
                out,
                [
                    np.stack(
                        [
                            (hits.double().numpy().cumsum(1) / np.arange(1, cut + 1)).mean(0),
                            (hits.double().numpy().cumsum(1) / np.maximum(n_relevant.numpy(), 1)[:, None]).mean(0),
                        ]
                    )
                ],
                1e-9,
                (),
            ),
        ),
        "bootstrap": (lambda: evaluate.bootstrap(samples, resamples, level, seed), judge_interval),
    }
    name = r.choice(list(asks))
    return (
        f"{Q} queries, {N} items, labels {kind}, topk={topk!r}, distance={distance!r}, resamples={resamples!r}, level={level!r}, seed={seed!r}",
        Ask(name, *asks[name], ()),
    )


def ask_pca(r, M, K, d, B):
    kind, x = odd(r, B, M * d)
    dim = r.choice([1, 2, M * d, 100, 0, -1, 1.5, None, True])
    X = wide(x)

    def judge(v):
        n = min(int(dim), X.shape[1])
        if v.train.shape != (len(X), n):
            return f"shape {tuple(v.train.shape)}"
        if not np.isfinite(X).all():
            return "axes of what is not finite" if v.train.isfinite().all() else ""
        want = np.sort(np.linalg.svd(X - X.mean(0), compute_uv=False) ** 2)[::-1]
        want = np.pad(want, (0, max(0, n - len(want))))[:n]
        return judged(v.train.square().sum(0), [want], float(np.square(X).sum()) * 10, (x,))

    return f"vectors {kind}, dim={dim!r}", Ask("pca", lambda: sscq_baselines.pca(sscq_baselines.Vectors(x, x, x), dim), judge, (x,))


KINDS = [ask_codebook] * 4 + [ask_losses] * 5 + [ask_search] * 5 + [ask_training, ask_codes, ask_codes, ask_scores, ask_scores, ask_pca]


def make(world, r: random.Random, i: int) -> Case:
    M, K, d, B = r.choice([1, 1, 2, 3, 8]), r.choice([2, 4, 16, 16, 256]), r.choice([1, 2, 5]), r.choice([0, 1, 2, 4, 4, 6, 7, 8, 8, 30])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        label, ask = r.choice(KINDS)(r, M, K, d, B)
    return Case(f"{ask.name}=M {M}, K {K}, d {d}, B {B}, {label}", ask)


def attempt(world, case: Case, folder) -> tuple[str, str]:
    ask = case.data
    try:
        out = ask.call()
    except Exception as error:
        return refusal(error, kinds=(ValueError, TypeError))
    if any(x.is_complex() for x in tensors(ask.args)):
        return "WRONG", f"{ask.name}: complex numbers were taken"
    with np.errstate(all="ignore"):
        try:
            why = ask.judge(out)
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            why = f"an answer, though there can be none ({type(error).__name__}: {error})"
    return ("WRONG", f"{ask.name}: {why}") if why else ("right", "")


TARGETS = [Target("odd numbers", 6000, lambda folder: None, make, attempt)]
