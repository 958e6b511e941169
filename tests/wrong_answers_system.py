"Wrong answers to the exercises of 09 to 12 and of the tutorials: name -> at least five functions or values, each of which must be refused."
import math

import torch

from sscq.codebook import hard_assign
from sscq.evaluate import average_precision
from sscq.search import adc


def cosine(e, epochs, floor=.1): return floor + (1 - floor) * (1 + math.cos(math.pi * e / epochs)) / 2
def half(warmup, epochs): return min(warmup, epochs // 2)
def gained(hits): return (hits.double().cumsum(1) / torch.arange(1, hits.shape[1] + 1) * hits).sum(1)
def shared(found, exact): return (found[:, :, None] == exact[:, None]).any(2)


WRONG: dict[str, list] = {
    "rate_drop": [
        lambda epochs, warmup: 1 - cosine(warmup + 1, epochs) / cosine(warmup, epochs),  # no half
        lambda epochs, warmup: 1 - cosine(half(warmup, epochs) + 1, epochs, 0) / cosine(half(warmup, epochs), epochs, 0),
        lambda epochs, warmup: cosine(half(warmup, epochs), epochs) - cosine(half(warmup, epochs) + 1, epochs),
        lambda epochs, warmup: 1 - cosine(half(warmup, epochs), epochs) / cosine(half(warmup, epochs) + 1, epochs),
        lambda epochs, warmup: 1 - cosine(half(warmup, epochs), epochs) / cosine(half(warmup, epochs) - 1, epochs),
        lambda epochs, warmup: cosine(half(warmup, epochs) + 1, epochs) / cosine(half(warmup, epochs), epochs),
    ],
    "negatives": [
        lambda batch_size, ranks, gathered: 2 * batch_size - 2,
        lambda batch_size, ranks, gathered: batch_size - 1,
        lambda batch_size, ranks, gathered: 2 * (batch_size if gathered else batch_size // ranks) - 1,
        lambda batch_size, ranks, gathered: 2 * (batch_size * ranks if gathered else batch_size) - 2,
        lambda batch_size, ranks, gathered: 2 * (batch_size // ranks) - 2,
        lambda batch_size, ranks, gathered: (batch_size if gathered else batch_size // ranks) - 2,
    ],
    "batch_sizes": [
        lambda n, size: [len(part) for part in torch.arange(n).tensor_split(n // size)],
        lambda n, size: [len(part) for part in torch.arange(n).tensor_split(max(n // size, 1))],
        lambda n, size: [len(part) for part in torch.arange(n).split(size)],
        lambda n, size: [len(part) for part in torch.arange(n).tensor_split(n // size + 1)],
        lambda n, size: [size] * (n // size),
        lambda n, size: [len(part) for part in torch.arange(n).tensor_split(size)],
    ],
    "adc": [
        lambda table, codes: adc(table, codes).sqrt(),
        lambda table, codes: adc(table, codes).T,
        lambda table, codes: adc(table, codes) / codes.shape[1],
        lambda table, codes: table[:, 0][:, codes[:, 0].long()],
        lambda table, codes: sum(table[:, m][:, codes[:, 0].long()] for m in range(codes.shape[1])),
        lambda table, codes: adc(table[:1], codes)[0],
        lambda table, codes: table.amin(2).sum(1)[:, None].expand(-1, len(codes)),
    ],
    "one_part": [True, "no", 1, "sometimes", 0],
    "swapped": [([0, 3], [2, 2]), ([2, 2], [0, 3]), ([1, 1], [1, 1]), ([0, -3], [2, 2]), ([1, 2, 3], [4, 5]), "A", ([0, 1], [3, 3]), ([4], [2])],
    "shuffled": ["OPQ", "both", "neither", "rows", 2],
    "first": [
        lambda distances, k: distances.topk(k, largest=False).indices,
        lambda distances, k: distances.topk(k).indices,
        lambda distances, k: distances.sort(dim=1, stable=True).indices,
        lambda distances, k: distances.sort(dim=1, stable=True).values[:, :k],
        lambda distances, k: distances.sort(dim=0, stable=True).indices[:, :k],
        lambda distances, k: distances.shape[1] - 1 - distances.flip(1).sort(dim=1, stable=True).indices[:, :k],
    ],
    "ap_of_orders": ["at", "below", "equal", .5, "never"],
    "ap_min": [
        lambda hits, n: average_precision(hits),
        lambda hits, n: gained(hits) / n.clamp(min=1),
        lambda hits, n: gained(hits) / hits.shape[1],
        lambda hits, n: gained(hits) / n.clamp(max=hits.shape[1]),
        lambda hits, n: (gained(hits) / n.clamp(min=1, max=hits.shape[1])).mean(),
        lambda hits, n: hits.sum(1) / n.clamp(min=1, max=hits.shape[1]),
    ],
    "definitions_agree": [
        lambda hits, n: hits.sum(1) == n,
        lambda hits, n: hits.sum(1) == n.clamp(max=hits.shape[1]),
        lambda hits, n: hits.all(1),
        lambda hits, n: (hits.sum(1) == n) | (hits.sum(1) == 0),
        lambda hits, n: hits.sum(1) == 0,
        lambda hits, n: hits.sum(1) != n.clamp(max=hits.shape[1]),
    ],
    "all_tied": ["equal", "below", "the same", .5, 1000],
    "queries_needed": [
        lambda n, width, wanted: math.ceil(n * width / wanted),
        lambda n, width, wanted: n * (width / wanted) ** 2,
        lambda n, width, wanted: math.ceil(n * (wanted / width) ** 2),
        lambda n, width, wanted: 4 * n,
        lambda n, width, wanted: math.ceil(n * math.sqrt(width / wanted)),
        lambda n, width, wanted: int(n * (width / wanted) ** 2) - n,
    ],
    "overlap": [
        lambda found, exact: (found == exact).double().mean(1),
        lambda found, exact: shared(found, exact).sum(1),
        lambda found, exact: shared(found, exact).double().mean(),
        lambda found, exact: (found.sort(1).values == exact.sort(1).values).double().mean(1),
        lambda found, exact: shared(found, exact).any(1).double(),
        lambda found, exact: 1 - shared(found, exact).double().mean(1),
    ],
    "sizes": [
        lambda bits, n_words, word_dim: (bits // n_words or 1, bits, bits, bits),
        lambda bits, n_words, word_dim: (bits // int(math.log2(n_words)), word_dim, n_words, n_words),
        lambda bits, n_words, word_dim: (bits // 4, bits // 4 * word_dim, bits // 4 * n_words, bits // 4),
        lambda bits, n_words, word_dim: bits // int(math.log2(n_words)),
        lambda bits, n_words, word_dim: (lambda M: (M, M * word_dim, M * n_words, M * n_words))(bits // int(math.log2(n_words))),
        lambda bits, n_words, word_dim: (lambda M: (M, M * word_dim, n_words ** M, M))(bits // int(math.log2(n_words))),
    ],
    "still_searchable": [(True, True, False, True), (True, False, True, True), (False, False, False, True), (True, True, True, True), True],
    "append": [
        lambda codes, codebooks, better, f: torch.cat([codes, hard_assign(f, better)]),
        lambda codes, codebooks, better, f: torch.cat([hard_assign(f, codebooks), codes]),
        lambda codes, codebooks, better, f: hard_assign(f, codebooks),
        lambda codes, codebooks, better, f: torch.cat([codes, hard_assign(f, (codebooks + better) / 2)]),
        lambda codes, codebooks, better, f: codes,
        lambda codes, codebooks, better, f: torch.cat([codes, hard_assign(f, codebooks).flip(1)]),
    ],
    "distortion_factor": [lambda d: 2, lambda d: 4, lambda d: 2 ** (1 / d), lambda d: 4 ** d, lambda d: 4 / d, lambda d: 4 ** (-1 / d)],
    "kept_half": [("higher", "higher"), ("lower", "lower"), ("higher", "lower"), ("equal", "equal"), "lower", ("lower",)],
    "books_for": [
        lambda n, b, k: math.floor(b / n / math.log2(k)),
        lambda n, b, k: 8 * b / n / math.log2(k) + .25,
        lambda n, b, k: math.floor(8 * b / n / k),
        lambda n, b, k: math.ceil(8 * b / n / math.log2(k) + .01),
        lambda n, b, k: math.floor(8 * b / n),
        lambda n, b, k: 10,
    ],
    "in_use": [
        lambda n, bits: min(n, 2 ** bits),
        lambda n, bits: n,
        lambda n, bits: 2 ** bits * (1 - 2 ** -bits) ** n,
        lambda n, bits: 2 ** bits,
        lambda n, bits: 1 - (1 - 2 ** -bits) ** n,
        lambda n, bits: n * (1 - 2 ** -bits),
    ],
    "cc_alone": [16, 3, 11, 0, "one point", 2.4],
    "shrinking": ["stay", "grow", "move", "vanish", 0],
    "two_terms": [("icf", "cc"), ("icz", "cd"), ("cc", "pn"), "icf", ("icf", "icz", "cc"), ("icf", "mse"), 2],
    "diagnose": [
        lambda seen: "healthy",
        lambda seen: "collapsed" if seen["same f"] > .9 else "healthy",
        lambda seen: "views apart" if seen["same z"] < .6 else "collapsed" if seen["other f"] > .9 else "healthy",
        lambda seen: "collapsed" if seen["other z"] > .9 else "views apart" if seen["same z"] < .6 else "healthy",
        lambda seen: "collapsed" if seen["other f"] > .3 else "views apart" if seen["same z"] < .6 else "healthy",
        lambda seen: "views apart" if seen["same f"] < .6 else "healthy",
    ],
    "ap_twice": [(1 / 3, 5 / 9), (5 / 9, 5 / 18), (.5, .5), 5 / 9, (3 / 6, 3 / 5), (5 / 18, 1 / 3)],
    "comparable": ["b", "c", "all", "a and c", 1],
    "optimizer_steps": [
        lambda epochs, images, batch, drop: epochs * (images // batch),
        lambda epochs, images, batch, drop: epochs * math.ceil(images / batch),
        lambda epochs, images, batch, drop: epochs * (math.ceil(images / batch) if drop else images // batch),
        lambda epochs, images, batch, drop: epochs * images / batch,
        lambda epochs, images, batch, drop: images // batch if drop else math.ceil(images / batch),
        lambda epochs, images, batch, drop: epochs * images,
    ],
    "chunk_negatives": [
        lambda batch, chunks: (2 * batch - 2, 2 * batch - 2),
        lambda batch, chunks: (2 * (batch // chunks) - 2, 2 * batch - 2),
        lambda batch, chunks: (batch - 2, batch // chunks - 2),
        lambda batch, chunks: (2 * batch - 1, 2 * (batch // chunks) - 1),
        lambda batch, chunks: 2 * (batch // chunks) - 2,
        lambda batch, chunks: (2 * batch - 2, (2 * batch - 2) // chunks),
    ],
    "batch_mean": [
        lambda losses, sizes: losses.mean(),
        lambda losses, sizes: losses.sum(),
        lambda losses, sizes: (losses * sizes).sum(),
        lambda losses, sizes: (losses / sizes).sum() / (1 / sizes).sum(),
        lambda losses, sizes: (losses * sizes).mean(),
        lambda losses, sizes: losses.median(),
    ],
}
