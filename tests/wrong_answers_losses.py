"Typical wrong answers to the exercises of 05 to 08, at least five each."
import math

import torch
import torch.nn.functional as F

from sscq.contrastive import info_nce
from sscq.diversity import codeword_cosines


def _row(c, n, tau): return torch.logsumexp(c / tau, 0) - (c / tau).topk(n).values.logsumexp(0)


def _by_autograd(c, n, tau):
    c = c.clone().requires_grad_()
    return torch.autograd.grad(_row(c, n, tau), c)[0]


def _unit(x): return F.normalize(x, dim=1)
def _pick(logits, by): return F.cross_entropy(logits, torch.arange(len(logits)).roll(by))
def _without_self(logits): return logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf)


def _choice(f, c, tau): return (codeword_cosines(f, c) / tau).softmax(-1)
def _plogp(p): return (p * (p + 1e-5).log()).sum(-1)
def _entropy(p): return torch.special.entr(p).sum(-1)


def _gaps(a, b): return [b[seed] - a[seed] for seed in sorted(a.keys() & b.keys())]


def _mean_and_spread(x, less=1):
    x = torch.tensor(list(x), dtype=torch.float64)
    return x.mean().item(), x.std(correction=less).item()


def _nce(rows, tau): return info_nce(rows, tau)


WRONG = {
    # 05_contrastive
    "info_nce": [lambda x, tau: _pick(_unit(x) @ _unit(x).T / tau, len(x) // 2), lambda x, tau: _pick(_without_self(x @ x.T / tau), len(x) // 2),
                 lambda x, tau: _pick(_without_self(_unit(x) @ _unit(x).T * tau), len(x) // 2),
                 lambda x, tau: _pick(_without_self(_unit(x) @ _unit(x).T / tau), 1),
                 lambda x, tau: -_pick(_without_self(_unit(x) @ _unit(x).T / tau), len(x) // 2),
                 lambda x, tau: 2 * _pick(_without_self(_unit(x) @ _unit(x).T / tau), len(x) // 2)],
    "kl": [lambda p, q: F.kl_div(p.log(), q, reduction="sum"), lambda p, q: -(p * (p / q).log()).sum(), lambda p, q: F.kl_div(q.log(), p, reduction="mean"),
           lambda p, q: .5 * ((p - q) * (p / q).log()).sum(), lambda p, q: F.kl_div(q, p, reduction="sum"), lambda p, q: (p * (p / q).log()).abs().sum()],
    "hot_limit": [lambda d, tau: .5 * d.var(1).mean() / tau ** 2, lambda d, tau: .5 * d.square().mean() / tau ** 2,
                  lambda d, tau: d.var(1, unbiased=False).mean() / tau ** 2,
                  lambda d, tau: .5 * d.var(unbiased=False) / tau ** 2, lambda d, tau: .5 * d.var(1, unbiased=False).mean() / tau,
                  lambda d, tau: .5 * d.var(0, unbiased=False).mean() / tau ** 2],
    "attraction_alone": [0., -1., .5, .9, "high"],
    "photo_twice": [math.log(3), 0., 4 / 6 * math.log(4), 4 / 6 * math.log(2), 1.],
    "floor_of_icz": [(0., 0.), (math.log(15), 0.), (math.log(511), math.log(511)), (math.log(31), math.log(2)), math.log(31), (0., math.log(31))],
    "long_f": ["quantized", "cross", "max", "sum", "f"],
    # 06_diversity
    "diversity": [lambda f, c, tau: _plogp(_choice(f, c, tau)).mean(), lambda f, c, tau: _plogp(_choice(f, c, tau).mean(0)).sum(),
                  lambda f, c, tau: _plogp(_choice(f, c, 1.).mean(0)).mean(), lambda f, c, tau: -_plogp(_choice(f, c, tau).mean(0)).mean(),
                  lambda f, c, tau: _plogp(_choice(f, c, tau).mean(0)), lambda f, c, tau: _plogp(_choice(f, c, tau).mean((0, 1)))],
    "average_choice": [lambda f, c, tau: (codeword_cosines(f, c).mean(0) / tau).softmax(-1), lambda f, c, tau: _choice(f, c, tau),
                       lambda f, c, tau: _choice(f, c, tau).sum(0), lambda f, c, tau: _choice(f, c, 1.).mean(0),
                       lambda f, c, tau: _choice(f, c, tau).mean((0, 1)),
                       lambda f, c, tau: (codeword_cosines(f, c) / tau).softmax(0).mean(0)],
    "information": [lambda f, c, tau: _entropy(_choice(f, c, tau).mean(0)).mean(),
                    lambda f, c, tau: _entropy(_choice(f, c, tau)).mean() - _entropy(_choice(f, c, tau).mean(0)).mean(),
                    lambda f, c, tau: -_entropy(_choice(f, c, tau)).mean(),
                    lambda f, c, tau: _entropy(_choice(f, c, tau).mean(0)) - _entropy(_choice(f, c, tau)).mean(0),
                    lambda f, c, tau: torch.tensor(math.log(c.shape[1])) - _entropy(_choice(f, c, tau)).mean(),
                    lambda f, c, tau: (_entropy(_choice(f, c, tau).mean(0)).mean() - _entropy(_choice(f, c, tau)).mean()) / math.log(2)],
    "lowest_loss": [lambda n, K: -math.log(K), lambda n, K: -math.log(n), lambda n, K: math.log(min(n, K)), lambda n, K: 0.,
                    lambda n, K: -math.log2(min(n, K)),
                    lambda n, K: -math.log(max(n, K))],
    "turn": [("north", "west"), ("east", "south"), ("east", "north"), ("west", "east"), "west", (0, 1)],
    "gap_of_256": ["larger", "the same", "equal", 16, True],
    "louder": [True, "no", 3.9, 1, "True"],
    # 07_neighbors
    "row_loss": [lambda c, n, tau: _row(c, n, 1.), lambda c, n, tau: torch.logsumexp(c / tau, 0) - (c / tau)[:n].logsumexp(0),
                 lambda c, n, tau: (c / tau).exp().topk(n).values.sum() / (c / tau).exp().sum(), lambda c, n, tau: -_row(c, n, tau),
                 lambda c, n, tau: _row(c * tau, n, 1.), lambda c, n, tau: _row(-c, n, tau)],
    "two_groups": [lambda tau: math.log(2.5), lambda tau: math.log1p(1.5 * math.exp(-1 / tau)), lambda tau: math.log1p(math.exp(-2 / tau)),
                   lambda tau: 1 / (1 + 1.5 * math.exp(-2 / tau)), lambda tau: math.log1p(1.5 * math.exp(-2 * tau)),
                   lambda tau: math.log1p(4 / 6 * math.exp(-2 / tau))],
    "row_gradient": [lambda c, n, tau: tau * _by_autograd(c, n, tau), lambda c, n, tau: -_by_autograd(c, n, tau),
                     lambda c, n, tau: (c / tau).softmax(0) / tau,
                     lambda c, n, tau: ((c / tau).softmax(0) - torch.zeros_like(c).scatter(0, c.topk(n).indices, 1 / n)) / tau,
                     lambda c, n, tau: ((c / tau).softmax(0) - torch.zeros_like(c).scatter(0, c.topk(n).indices, 1.)) / tau],
    "part_similarities": [lambda z, n: (p := (F.normalize(z, dim=1) * n ** .5).unflatten(1, (n, -1)).transpose(0, 1)) @ p.mT,
                          lambda z, n: (p := z.unflatten(1, (n, -1)).transpose(0, 1)) @ p.mT, lambda z, n: (p := F.normalize(z, dim=1)) @ p.T,
                          lambda z, n: (p := F.normalize(z.unflatten(1, (n, -1)), dim=-1)) @ p.mT,
                          lambda z, n: (p := F.normalize(z.unflatten(1, (n, -1)), dim=1).transpose(0, 1)) @ p.mT],
    "useless_n": [512, 511, 256, 254, 1, 509],
    "positive_of_one": ["together", "nowhere", "towards", True, 1],
    "copies": [(.33, 65536), (1.32, 16), (.33, 64), (.0825, 16), .33, (.33, 4), (16, .33)],
    # 08_objective
    "spq_half": [lambda f, z, tau: _nce(torch.stack([f, z], 1).flatten(0, 1), tau), lambda f, z, tau: _nce(torch.cat([f, z.flip(0)]), tau),
                 lambda f, z, tau: _nce(torch.cat([f, f]), tau), lambda f, z, tau: _nce(torch.cat([f, z]), 1.),
                 lambda f, z, tau: _nce(torch.cat([f, z]), 1 / tau),
                 lambda f, z, tau: 2 * _nce(torch.cat([f, z]), tau)],
    "paired": [lambda a, b: _mean_and_spread(y - x for x, y in zip(a.values(), b.values())), lambda a, b: _mean_and_spread(-x for x in _gaps(a, b)),
               lambda a, b: _mean_and_spread(_gaps(a, b), 0), lambda a, b: (_mean_and_spread(_gaps(a, b))[0], _mean_and_spread(b.values())[1]),
               lambda a, b: _mean_and_spread(b[seed] - a[seed] for seed in a), lambda a, b: _mean_and_spread(_gaps(a, b))[0]],
    "collapsed_terms": [(math.log(2), math.log(2), 0., math.log(510 / 20), -math.log(16)), (math.log(511), math.log(511), 0., math.log(510 / 20), 0.),
                        (0., 0., 0., 0., 0.), (math.log(511), math.log(511), 0., 0., -math.log(16)),
                        (math.log(511), math.log(511), 0., math.log(510 / 20), math.log(16)),
                        (math.log(511), math.log(511), math.log(510), math.log(510 / 20), -math.log(16))],
    "zero_weights": [(0., 0, 0.), (1.1, 5, 0.), (0., 5, 1.), 0., (0., 1, 0.)],
    "megabytes": [(64., 512.), (256., 1024.), (128., 1024.), (1., 8.), (256., 512.), 256.],
    "lossless_spq": [4.98, 2.49, 0., 19.92, "twice icf"],
}
