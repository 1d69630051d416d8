"""Shared by the tests of sampled losses: candidates, and the formulas in numpy for one token."""

import numpy as np

import jsoftmax as js

TOKENS, WIDTH, CLASSES, DRAWS = 5, 3, 7, 6
rng = np.random.default_rng(0)
FEATURES = rng.normal(size=(TOKENS, WIDTH))
KERNEL = rng.normal(size=(WIDTH, CLASSES))
BIAS = rng.normal(size=CLASSES)
LABELS = rng.integers(0, CLASSES, TOKENS)
Q = rng.dirichlet(np.full(CLASSES, 3.0))
ALL = (FEATURES, KERNEL, BIAS)
WEIGHTS = rng.normal(size=TOKENS)  # a weight a token, of either sign


def candidates_of(ids, labels=LABELS):
    """Candidates as if drawn from `Q` with replacement."""
    log_n = np.log(ids.shape[-1] * Q)
    return js.vocabulary.Candidates(ids, log_n[ids], log_n[labels])


# With hits, and classes that are there twice.
SHARED = candidates_of(np.concatenate([LABELS[:3], [0, 0, 6]]))
OWN = candidates_of(rng.integers(0, CLASSES, (TOKENS, DRAWS)))
EVERY = js.vocabulary.Candidates(np.arange(CLASSES), 0.0, np.zeros(TOKENS))


def sampled_softmax(z, y, ids, n, n_y):
    del n_y
    rest = sum(np.exp(z[c]) / k for c, k in zip(ids, n, strict=True) if c != y)
    return -np.log(np.exp(z[y]) / (np.exp(z[y]) + rest))


def ranking(z, y, ids, n, n_y):
    top = np.exp(z[y]) / n_y
    return -np.log(top / (top + sum(np.exp(z[c]) / k for c, k in zip(ids, n, strict=True))))


def importance_sampling(z, y, ids, n, n_y):
    del n_y
    return np.log(sum(np.exp(z[c]) / k for c, k in zip(ids, n, strict=True))) - z[y]


def target_sampling(z, y, ids, n, n_y):
    del n, n_y
    return np.log(sum(np.exp(z[c]) for c in {y, *ids})) - z[y]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


LOG_PARTITION = 0.4


def nce(z, y, ids, n, n_y):
    """The class came from the data with odds e^{z − c} : n."""
    model = np.exp(np.asarray(z) - LOG_PARTITION)
    noise = sum(-np.log(k / (model[c] + k)) for c, k in zip(ids, n, strict=True))
    return -np.log(model[y] / (model[y] + n_y)) + noise


def negative_sampling(z, y, ids, n, n_y):
    del n, n_y
    return -np.log(sigmoid(z[y])) - sum(np.log(sigmoid(-z[c])) for c in ids if c != y)


def ours_ranking(*arguments, **options):
    return js.sampled_softmax_loss(*arguments, correct_targets=True, remove_hits=False, **options)


def ours_nce(*arguments, log_partition=LOG_PARTITION, **options):
    return js.nce_loss(*arguments, log_partition=log_partition, **options)


def ours_target_sampling(features, kernel, targets, candidates, **options):
    ids = np.sort(np.asarray(candidates.ids), axis=-1)
    repeated = ids[..., 1:] == ids[..., :-1]
    ids[..., 1:][repeated] = -1  # free places, since a vocabulary has no class twice
    return js.vocabulary.target_sampling_loss(features, kernel, targets, ids, **options)


LOSSES = {
    "sampled softmax": (js.sampled_softmax_loss, sampled_softmax),
    "ranking": (ours_ranking, ranking),
    "importance sampling": (js.vocabulary.importance_sampling_loss, importance_sampling),
    "target sampling": (ours_target_sampling, target_sampling),
    "NCE": (ours_nce, nce),
    "negative sampling": (js.negative_sampling_loss, negative_sampling),
}


def by_formula(oracle, z, candidates):
    """The loss of every token by its formula."""
    ids = np.broadcast_to(candidates.ids, (TOKENS, np.shape(candidates.ids)[-1]))
    n = np.exp(np.broadcast_to(candidates.log_expected_count, ids.shape))
    n_y = np.exp(candidates.target_log_expected_count)
    return np.array([oracle(*token) for token in zip(z, LABELS, ids, n, n_y, strict=True)])
