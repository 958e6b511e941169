"Typical wrong answers to the exercises of 05 to 08, at least five each."
import math

import torch
import torch.nn.functional as F


def _row(c, n, tau): return torch.logsumexp(c / tau, 0) - (c / tau).topk(n).values.logsumexp(0)


def _by_autograd(c, n, tau):
    c = c.clone().requires_grad_()
    return torch.autograd.grad(_row(c, n, tau), c)[0]


WRONG = {
    # 07_neighbors
    "row_loss": [lambda c, n, tau: _row(c, n, 1.), lambda c, n, tau: torch.logsumexp(c / tau, 0) - (c / tau)[:n].logsumexp(0),
                 lambda c, n, tau: (c / tau).exp().topk(n).values.sum() / (c / tau).exp().sum(), lambda c, n, tau: -_row(c, n, tau),
                 lambda c, n, tau: _row(c * tau, n, 1.), lambda c, n, tau: _row(-c, n, tau)],
    "two_groups": [lambda tau: math.log(2.5), lambda tau: math.log1p(1.5 * math.exp(-1 / tau)), lambda tau: math.log1p(math.exp(-2 / tau)),
                   lambda tau: 1 / (1 + 1.5 * math.exp(-2 / tau)), lambda tau: math.log1p(1.5 * math.exp(-2 * tau)), lambda tau: math.log1p(4 / 6 * math.exp(-2 / tau))],
    "row_gradient": [lambda c, n, tau: tau * _by_autograd(c, n, tau), lambda c, n, tau: -_by_autograd(c, n, tau), lambda c, n, tau: (c / tau).softmax(0) / tau,
                     lambda c, n, tau: ((c / tau).softmax(0) - torch.zeros_like(c).scatter(0, c.topk(n).indices, 1 / n)) / tau,
                     lambda c, n, tau: ((c / tau).softmax(0) - torch.zeros_like(c).scatter(0, c.topk(n).indices, 1.)) / tau],
    "part_similarities": [lambda z, n: (p := (F.normalize(z, dim=1) * n ** .5).unflatten(1, (n, -1)).transpose(0, 1)) @ p.mT,
                          lambda z, n: (p := z.unflatten(1, (n, -1)).transpose(0, 1)) @ p.mT, lambda z, n: (p := F.normalize(z, dim=1)) @ p.T,
                          lambda z, n: (p := F.normalize(z.unflatten(1, (n, -1)), dim=-1)) @ p.mT,
                          lambda z, n: (p := F.normalize(z.unflatten(1, (n, -1)), dim=1).transpose(0, 1)) @ p.mT],
    "useless_n": [512, 511, 256, 254, 1, 509],
    "positive_of_one": ["together", "nowhere", "towards", True, 1],
    "copies": [(.33, 65536), (1.32, 16), (.33, 64), (.0825, 16), .33, (.33, 4), (16, .33)],
}
