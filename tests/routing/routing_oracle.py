"""Routing in numpy, token by token, with sorting and loops: nothing is shared with the library."""

import numpy as np

from tests import oracles


def route(z, k, *, score="softmax", normalize=True, bias=None, groups=1, kept=None, best=2,
          alpha=1.5, capacity=None):  # fmt: skip
    """Experts [n, k], E where there is none, weights [n, k], and the statistics as a dict."""
    tokens, count = z.shape
    experts = np.full((tokens, k), count)
    weights = np.zeros((tokens, k))
    importance, squares, load, seen = np.zeros(count), 0.0, np.zeros(count, int), 0
    rank = np.full((tokens, count), -np.inf)
    for t, row in enumerate(z):
        takes_part = row > -np.inf
        if not takes_part.any():
            continue
        seen += 1
        p = oracles.softmax(row)
        sigmoid = np.where(takes_part, np.exp(-np.logaddexp(0, -np.where(takes_part, row, 0))), 0)
        s = sigmoid if score == "sigmoid" else p
        importance += sigmoid / sigmoid.sum() if score == "sigmoid" else p
        squares += float(oracles.logsumexp(row)) ** 2
        with np.errstate(divide="ignore"):
            rank[t] = np.log(s)
        chosen = _chosen(s + (0 if bias is None else bias), takes_part, k, groups, kept, best)
        if score == "entmax":
            w = oracles.entmax(row[chosen] if normalize else row, alpha)
            w = w if normalize else w[chosen]
            chosen, w = np.array(chosen)[w > 0], w[w > 0]
        else:
            w = s[chosen] / s[chosen].sum() if normalize else s[chosen]
        experts[t, : len(chosen)], weights[t, : len(chosen)] = chosen, w
        load[chosen] += 1
    if capacity is not None:
        experts, weights = _limited(experts, weights, rank, capacity, alpha)
    return experts, weights, {
        "load": load, "importance": importance, "squared_log_partition": squares, "tokens": seen,
    }  # fmt: skip


def _chosen(judged, takes_part, k, groups, kept, best):
    size = len(judged) // groups
    members = [[i for i in range(g * size, (g + 1) * size) if takes_part[i]] for g in range(groups)]
    by_score = sorted(
        (-sum(sorted((judged[i] for i in group), reverse=True)[:best]), g)
        for g, group in enumerate(members)
        if group
    )
    allowed = [i for _, g in by_score[: kept or groups] for i in members[g]]
    return [i for _, i in sorted((-judged[i], i) for i in allowed)[:k]]


def _limited(experts, weights, rank, capacity, alpha):
    experts, weights = experts.copy(), weights.copy()
    for e in range(rank.shape[-1]):
        t, slot = np.nonzero(experts == e)
        w = weights[t, slot]
        if w.sum() > capacity:
            share = oracles.capped(rank[t, e], alpha, 1.0, w / capacity)
            weights[t, slot] = capacity * share
    return np.where(weights > 0, experts, rank.shape[-1]), weights
