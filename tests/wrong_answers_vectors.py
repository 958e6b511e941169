"Wrong answers to the exercises of 00 to 04: name -> at least five functions or values, each of which must be refused with a sentence."
import math

import torch
import torch.nn.functional as F


def one_by_one(images, labels, unreadable):
    for i in unreadable: images, labels = torch.cat([images[:i], images[i + 1:]]), torch.cat([labels[:i], labels[i + 1:]])
    return images, labels


def kept(images, unreadable): return [i for i in range(len(images)) if i not in unreadable]
def unit(f): return F.normalize(f, dim=1)


WRONG: dict[str, list] = {
    "missing_cone": ["red", "blue", "none", "yellow", 2],
    "per_step": [
        lambda y: float((y[-1] / y[0]) ** (1 / len(y))),
        lambda y: float((y[0] / y[-1]) ** (1 / (len(y) - 1))),
        lambda y: float(y[-1] / y[0]) / (len(y) - 1),
        lambda y: float(y[1] / y[0]),
        lambda y: float((y[-1] - y[0]) / (len(y) - 1)),
        lambda y: float(torch.log(y[-1] / y[0]) / (len(y) - 1)),
    ],
    "apart": [
        lambda a, b: a[0] - b[0] > a[1] + b[1],
        lambda a, b: abs(a[0] - b[0]) >= a[1] + b[1],
        lambda a, b: abs(a[0] - b[0]) > max(a[1], b[1]),
        lambda a, b: abs(a[0] - b[0]) > 0,
        lambda a, b: not abs(a[0] - b[0]) > a[1] + b[1],
        lambda a, b: abs(a[0] - b[0]) > a[1] - b[1],
    ],
    "chance": [
        lambda asked, searched: 1 / len(searched.unique()),
        lambda asked, searched: (asked[:, None] == searched).sum(1).float().mean().item(),
        lambda asked, searched: (asked[:, None] == searched).float().mean(1),
        lambda asked, searched: (asked[:1] == searched).float().mean().item(),
        lambda asked, searched: 1 - (asked[:, None] == searched).float().mean().item(),
        lambda asked, searched: (asked == searched).float().mean().item(),
    ],
    "without": [
        one_by_one,
        lambda images, labels, unreadable: (images[kept(images, unreadable)], labels),
        lambda images, labels, unreadable: (images[unreadable], labels[unreadable]),
        lambda images, labels, unreadable: images[kept(images, unreadable)],
        lambda images, labels, unreadable: one_by_one(images, labels, sorted(unreadable)),
        lambda images, labels, unreadable: (images[:len(images) - len(unreadable)], labels[:len(labels) - len(unreadable)]),
    ],
    "brightness": [
        lambda x, amount: x * amount.view(-1, 1, 1, 1),
        lambda x, amount: (x * amount).clamp(0, 1),
        lambda x, amount: (x * amount.mean()).clamp(0, 1),
        lambda x, amount: (x + amount.view(-1, 1, 1, 1)).clamp(0, 1),
        lambda x, amount: x.mul_(amount.view(-1, 1, 1, 1)).clamp_(0, 1),
        lambda x, amount: (x * amount[0]).clamp(0, 1),
    ],
    "box_top": [
        lambda u, H, h: torch.floor(u * (H - h)),
        lambda u, H, h: torch.round(u * (H - h)),
        lambda u, H, h: torch.ceil(u * (H - h)),
        lambda u, H, h: torch.floor(u * H),
        lambda u, H, h: u * (H - h + 1),
        lambda u, H, h: torch.floor(u * (H - h + 1)) + 1,
    ],
    "first_fits": [(1, .54), (.5, .54), (.86, .5), (.86, .48), .86, ("most", "half")],
    "hue_place": [0, 1, .5, 1 / 3, "often"],
    "mirrored": [(0, 1), (1, 8), (8, 0), (3, 6), 0, (0, 8, 1)],
    "halvings": [
        lambda n: int(math.log2(n)),
        lambda n: max(1, math.ceil(math.log2(n))),
        lambda n: math.ceil(math.log2(n)) + 1,
        lambda n: n // 2,
        lambda n: math.log2(n),
        lambda n: 5,
    ],
    "sides_96": [(3, 12, 4), (12, 3, 16), (6, 12, 4), (3, 12), (3, 24, 64), 16],
    "mean_cosine": [
        lambda f: (unit(f) @ unit(f).T).mean(),
        lambda f: (unit(f) @ unit(f).T).fill_diagonal_(0).mean(),
        lambda f: (f @ f.T)[~torch.eye(len(f), dtype=torch.bool)].mean(),
        lambda f: (unit(f) @ unit(f).T)[~torch.eye(len(f), dtype=torch.bool)].sum(),
        lambda f: (unit(f) @ unit(f).T)[~torch.eye(len(f), dtype=torch.bool)].abs().mean(),
        lambda f: (unit(f) @ unit(f).T)[torch.eye(len(f), dtype=torch.bool)].mean(),
    ],
    "wide_features": [(4, .0025), (2, .02), (1, .01), (2, .0025), (4, .005), 2],
    "code_bytes": [
        lambda n, bits: math.ceil(n * bits / 8),
        lambda n, bits: n * (bits // 8),
        lambda n, bits: n * bits,
        lambda n, bits: n * bits / 8,
        lambda n, bits: math.ceil(bits / 8),
        lambda n, bits: n * bits * 4,
    ],
    "lattice_unused": [0, 4, 8, 1, "some", 3],
    "nearest": [
        lambda x, words: (x @ words.T).argmax(1),
        lambda x, words: (2 * x @ words.T - words.norm(dim=1)).argmax(1),
        lambda x, words: (x @ words.T - words.square().sum(1)).argmax(1),
        lambda x, words: (2 * x @ words.T - words.square().sum(1)).argmin(1),
        lambda x, words: (2 * x @ words.T - words.square().sum(1)).max(1).values,
        lambda x, words: torch.cdist(x, words).argmin(0),
        lambda x, words: (2 * x @ words.T - words.square().sum()).argmax(1),
    ],
    "best_cut": [(16, 4), (8, 16), (256, 4), 4, "all the same"],
    "doubled_tau": [.4, .2, .1, .05, 1.6],
    "hottest": [
        lambda c: c.mean(0).flatten(),
        lambda c: c.sum(1).flatten(),
        lambda c: c.mean(1),
        lambda c: c.mean(2).flatten(),
        lambda c: c.mean(1).T.flatten(),
        lambda c: c[:, 0].flatten() + 1,
    ],
    "favourite": [(16, 4), (8, 3), (7.746, 4), (15, 3.9), (2.953, 7.746), 8],
    "code_of_number": [
        lambda number, M, K: [number // K ** m % K for m in range(M)][::-1],
        lambda number, M, K: [number // K ** m for m in range(M)],
        lambda number, M, K: [number % K] * M,
        lambda number, M, K: [number // K ** m % K for m in range(M) if number // K ** m],
        lambda number, M, K: [number // K ** m % K for m in range(1, M + 1)],
        lambda number, M, K: [number // M ** m % M if M > 1 else 0 for m in range(K)],
    ],
    "twelve_books": [(96, 12, 48, 3072), (72, 9, 768, 3072), (72, 72, 48, 3072), (72, 9, 48, 768), (72, 9, 48), (64, 8, 48, 3072)],
}
