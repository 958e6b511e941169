"The equations once more, in float64 and as they are written: loops and tables, nothing fast, nothing of the library."

import numpy as np
import torch


def wide(x) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().to(torch.complex128 if x.is_complex() else torch.float64).numpy()
    return np.asarray(x, dtype=np.float64) if not np.iscomplexobj(x) else x


def unit(x, eps):
    return x / np.maximum(np.sqrt(np.square(x).sum(-1, keepdims=True)), eps)


def log_sum(x):
    m = x.max(-1, keepdims=True)
    return (m + np.log(np.exp(x - m).sum(-1, keepdims=True)))[..., 0]


def softmax(x):
    return np.exp(x - log_sum(x)[..., None])


def parts(f, M):
    return f.reshape(len(f), M, f.shape[1] // M)


def affinities(f, c):
    return 2 * np.einsum("bmd,mkd->bmk", parts(f, len(c)), c) - np.square(c).sum(-1)


def soft(f, c, tau):
    return softmax(affinities(f, c) / tau)


def soft_vectors(f, c, tau):
    return np.einsum("bmk,mkd->bmd", soft(f, c, tau), c).reshape(f.shape)


def squares(f, c):
    return np.square(parts(f, len(c))[:, :, None] - c).sum(-1)


def word_cosines(f, c, eps):
    return np.einsum("bmd,mkd->bmk", unit(parts(f, len(c)), eps), unit(c, eps))


def cosines(x, eps):
    return unit(x, eps) @ unit(x, eps).T


def same_image(n):
    return np.tile(np.eye(n // 2, dtype=bool), (2, 2))


def diverse(f, c, tau, eps):
    p = softmax(word_cosines(f, c, eps) / tau).mean(0)
    return (p * np.log(p + 1e-5)).sum(-1).mean()


def contrast(x, tau, eps):
    n = len(x)
    s = np.where(np.eye(n, dtype=bool), -np.inf, cosines(x, eps) / tau)
    return (log_sum(s) - s[np.arange(n), np.roll(np.arange(n), n // 2)]).mean()


def log_contrast(x, tau, eps):
    s = np.where(same_image(len(x)), -np.inf, cosines(x, eps) / tau)
    return s - log_sum(s)[:, None]


def consistent(x, y, tau, eps):
    p, q, seen = log_contrast(x, tau, eps)[: len(x) // 2], log_contrast(y, tau, eps)[len(x) // 2 :], ~same_image(len(x))[: len(x) // 2]
    with np.errstate(invalid="ignore"):
        gap = np.where(seen, p - q, 0)
    return (0.5 * (np.exp(p) - np.exp(q)) * gap).sum(-1).mean()


def fused(f, z, fusion, tau, eps):
    if fusion == "cross":
        return consistent(z, f, tau, eps) + consistent(f, z, tau, eps)
    u = {
        "sum": lambda: f + z,
        "concatenate": lambda: np.concatenate([f, z], 1),
        "max": lambda: np.maximum(f, z),
        "embedding": lambda: f,
        "quantized": lambda: z,
    }[fusion]()
    return consistent(u, u, tau, eps)


def neighborly(z, M, n, tau, eps, positive=False):
    total = 0.0
    for m in range(M):
        s = cosines(parts(z, M)[:, m], eps) / tau
        if not positive:
            s = np.where(same_image(len(z)), -np.inf, s)
        total += (log_sum(s) - log_sum(np.sort(s, -1)[:, -n:])).sum()
    return total / (M * len(z))


def average_precision(hits) -> float:
    found, total = 0, 0.0
    for rank, hit in enumerate(hits, 1):
        if hit:
            found += 1
            total += found / rank
    return total / max(found, 1)
