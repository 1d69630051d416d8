"""Sampled losses: their formulas, their limits, unbiased estimates, and edges."""

import functools
import itertools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.test_util import check_grads

import jsoftmax as js
from tests.vocabulary.sampled.sampled_helpers import (
    ALL,
    BIAS,
    CLASSES,
    EVERY,
    FEATURES,
    KERNEL,
    LABELS,
    LOSSES,
    OWN,
    SHARED,
    TOKENS,
    WEIGHTS,
    Q,
    by_formula,
    candidates_of,
)

each_loss = pytest.mark.parametrize("name", LOSSES)
close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)


def total(loss, candidates=SHARED, labels=LABELS, **options):
    """Return (features, kernel, bias) → a weighted sum that shows every token's loss."""

    def weighted(features, kernel, bias):
        return WEIGHTS @ loss(features, kernel, labels, candidates, bias=bias, **options)

    return weighted


@each_loss
def test_losses_are_their_formulas(name):
    """For candidates that all tokens share, and for each token its own; either layout."""
    ours, oracle = LOSSES[name]
    plain = {"bias": BIAS}
    capped = {"class_axis": 0, "logits_soft_cap": 2.0, "temperature": 1.3}

    @jax.jit
    def losses():
        return [
            (
                ours(FEATURES, KERNEL, LABELS, candidates, **plain),
                ours(FEATURES, KERNEL.T, LABELS, candidates, **capped),
            )
            for candidates in (SHARED, OWN)
        ]

    z = FEATURES @ KERNEL
    for found, candidates in zip(losses(), (SHARED, OWN), strict=True):
        close(found[0], by_formula(oracle, z + BIAS, candidates))
        close(found[1], by_formula(oracle, 2 * np.tanh(z / 2) / 1.3, candidates))


@pytest.mark.slow
@each_loss
def test_derivatives_are_those_of_the_formula(name):
    """Of the first two orders, in both modes, in features, kernel and bias."""
    loss = jax.jit(total(LOSSES[name][0]))
    check_grads(loss, ALL, order=1, modes=["fwd", "rev"], rtol=1e-6)
    curved = jax.jit(lambda h: jax.grad(loss)(h, KERNEL, BIAS))
    check_grads(curved, (FEATURES,), order=1, modes=["fwd", "rev"], rtol=1e-6)


def test_the_log_partition_of_nce_is_differentiable_and_may_differ_by_token():
    c = np.linspace(-1, 1, TOKENS)[:, None]

    def loss(c):
        return WEIGHTS @ js.nce_loss(FEATURES, KERNEL, LABELS, SHARED, log_partition=c)

    check_grads(jax.jit(loss), (c,), order=1, modes=["rev"], rtol=1e-6)


EXACT = {
    "sampled softmax": js.sampled_softmax_loss,
    "ranking": functools.partial(js.sampled_softmax_loss, correct_targets=True),
    "importance sampling": js.vocabulary.importance_sampling_loss,
    "target sampling": LOSSES["target sampling"][0],
}


@pytest.mark.parametrize("name", EXACT)
def test_with_every_class_once_losses_are_the_cross_entropy(name):
    """In value, gradient and second derivatives: of the sign of log n nothing is said here."""

    def dense(features, kernel, bias):
        return WEIGHTS @ js.cross_entropy(features @ kernel + bias, LABELS)

    def orders(loss):
        gradient = jax.grad(loss, (0, 1, 2))
        return jax.jit(lambda *x: (loss(*x), gradient(*x), jax.jvp(gradient, x, ALL)[1]))

    ours = orders(total(EXACT[name], EVERY))(*ALL)
    jax.tree.map(close, ours, orders(dense)(*ALL))


def every_draw(draws, classes):
    """All that can be drawn with replacement."""
    return np.array(list(itertools.product(range(classes), repeat=draws)))


@pytest.mark.parametrize("draws", [1, 2, 3])
@pytest.mark.parametrize("loss", [js.sampled_softmax_loss, js.vocabulary.importance_sampling_loss])
def test_the_partition_function_is_estimated_without_bias(loss, draws):
    """Over all that can be drawn E exp L = Z / e^{z_y}, exactly: this fixes the sign of log n."""
    sets = every_draw(draws, CLASSES)
    chances = np.prod(Q[sets], axis=-1)

    def of(ids, sign):
        log_n = sign * np.log(draws * Q)
        return loss(
            FEATURES, KERNEL, LABELS, js.vocabulary.Candidates(ids, jnp.asarray(log_n)[ids])
        )

    @jax.jit
    def mean(sign):
        return chances @ jnp.exp(jax.vmap(of, (0, None))(sets, sign))

    z = FEATURES @ KERNEL
    exact = np.exp(z).sum(-1) / np.exp(z)[np.arange(TOKENS), LABELS]
    close(mean(1), exact, rtol=1e-10)
    assert (abs(mean(-1) / exact - 1) > 0.2).any()


FEW = 4  # classes, so few that everything drawn can be gone through
P = np.array([0.4, 0.3, 0.2, 0.1])
NOISE = np.array([0.1, 0.2, 0.3, 0.4])


@functools.cache
def expected_gradient(loss, draws):
    """Scores z → Σ over targets from p and all draws of the gradient, and the mean of all losses.

    One token with the feature 1; the class table is a row of scores.
    """
    sets = jnp.asarray(every_draw(draws, FEW))
    chances = jnp.prod(jnp.asarray(NOISE)[sets], axis=-1)
    log_n = jnp.log(draws * NOISE)

    def mean(z):
        def of(ids, y):
            candidates = js.vocabulary.Candidates(ids, log_n[ids], log_n[y][None])
            return loss(jnp.ones((1, 1)), z[None], y[None], candidates)[0]

        losses = jax.vmap(jax.vmap(of, (0, None)), (None, 0))(sets, jnp.arange(FEW))
        return P @ (losses @ chances)

    return jax.jit(jax.value_and_grad(mean))


CONSISTENT = {
    "ranking": (LOSSES["ranking"][0], np.log(P) + 3.0),
    "NCE": (functools.partial(js.nce_loss, log_partition=3.0), np.log(P) + 3.0),
    "negative sampling": (
        functools.partial(js.negative_sampling_loss, remove_hits=False),
        lambda draws: np.log(P / (draws * NOISE)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("name", CONSISTENT)
def test_the_truth_is_a_stationary_point_at_any_number_of_draws(name, draws):
    """log p for the ranking form (up to a constant) and NCE; log p/n for negative sampling."""
    loss, truth = CONSISTENT[name]
    z = truth(draws) if callable(truth) else truth
    close(expected_gradient(loss, draws)(jnp.asarray(z))[1], 0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [js.sampled_softmax_loss, js.vocabulary.importance_sampling_loss])
def test_bias_vanishes_as_draws_grow(loss):
    """In value and in gradient, averaged exactly over all draws; by more than half from 2 to 6."""
    z = jnp.array([0.3, -0.2, 0.5, 0.1])
    full = jax.value_and_grad(lambda z: P @ js.cross_entropy(jnp.tile(z, (FEW, 1)), np.arange(FEW)))
    value, gradient = full(z)
    off = []
    for draws in (1, 2, 4, 6):
        mean, slope = expected_gradient(loss, draws)(z)
        off.append((float(value - mean), float(jnp.linalg.norm(slope - gradient))))
    off = np.array(off)
    assert (off[:, 0] > 0).all()  # Jensen: the loss is too small on average
    assert (np.diff(off, axis=0) < 0).all()
    assert (off[3] < off[1] / 2).all()


def test_more_draws_change_the_loss_only_where_targets_are_corrected():
    """Each class m times, with a count of m: the cross-entropy, or that of a target m times rarer.

    So correcting targets, as is done by default elsewhere, has no limit.
    """
    z = FEATURES @ KERNEL

    @functools.partial(jax.jit, static_argnums=0)
    def losses(m):
        log_n = np.log(m)
        candidates = js.vocabulary.Candidates(
            np.tile(np.arange(CLASSES), m), log_n, np.full(TOKENS, log_n)
        )
        arguments = (FEATURES, KERNEL, LABELS, candidates)
        rarer = z - log_n * np.eye(CLASSES)[LABELS]
        return (
            (js.sampled_softmax_loss(*arguments), js.cross_entropy(z, LABELS)),
            (
                js.sampled_softmax_loss(*arguments, correct_targets=True),
                js.cross_entropy(rarer, LABELS),
            ),
        )

    for ours, theirs in losses(64):
        close(ours, theirs)


REMOVING = {
    "sampled softmax": js.sampled_softmax_loss,
    "NCE": functools.partial(js.nce_loss, remove_hits=True),
    "negative sampling": js.negative_sampling_loss,
}


@pytest.mark.parametrize("name", REMOVING)
def test_accidental_hits_count_for_nothing(name):
    """As if there were no candidate in their place; −1 says so, and has no gradient either."""
    without = OWN._replace(ids=np.where(OWN.ids == LABELS[:, None], -1, OWN.ids))
    assert (without.ids == -1).any()
    ours, theirs = (
        jax.jit(jax.value_and_grad(total(REMOVING[name], c), (0, 1)))(*ALL) for c in (OWN, without)
    )
    jax.tree.map(close, ours, theirs)


@each_loss
def test_a_candidate_that_is_no_class_weighs_nothing(name):
    loss, _ = LOSSES[name]
    padded = SHARED._replace(
        ids=np.append(SHARED.ids, [-1, -1]),
        log_expected_count=np.append(SHARED.log_expected_count, [np.nan, 0]),
    )
    ours = jax.jit(jax.value_and_grad(total(loss, padded), (0, 1, 2)))(*ALL)
    theirs = jax.jit(jax.value_and_grad(total(loss), (0, 1, 2)))(*ALL)
    jax.tree.map(close, ours, theirs)


@each_loss
def test_what_takes_no_part_may_be_anything(name):
    """NaN in an ignored token or a masked one reaches nothing."""
    loss, _ = LOSSES[name]
    features = jnp.asarray(FEATURES).at[1].set(jnp.nan)
    others = np.arange(TOKENS) != 1
    labels = jnp.where(others, LABELS, -100)
    for y, options in ((labels, {"ignore_index": -100}), (LABELS, {"where": others[:, None]})):

        def losses(h, kernel, y=y, options=options):
            each = loss(h, kernel, y, SHARED, **options)
            return each.sum(), each

        (_, each), slopes = jax.jit(jax.value_and_grad(losses, (0, 1), has_aux=True))(
            features, KERNEL
        )
        assert each[1] == 0 and not slopes[0][1].any()
        assert all(jnp.isfinite(x).all() for x in slopes)
        close(each[others], loss(FEATURES, KERNEL, LABELS, SHARED)[others])


@each_loss
def test_a_label_out_of_range_is_never_another_class(name):
    loss, _ = LOSSES[name]
    for label in (-1, CLASSES):
        labels = jnp.asarray(LABELS).at[2].set(label)
        each = jax.jit(lambda y: loss(FEATURES, KERNEL, y, SHARED))(labels)
        np.testing.assert_array_equal(np.isnan(each), np.arange(TOKENS) == 2)
        with pytest.raises(ValueError, match=rf"{label} is out of range"):
            loss(FEATURES, KERNEL, np.asarray(labels), SHARED)


@pytest.mark.parametrize("name", ["sampled softmax", "NCE"])
def test_half_precision_is_computed_in_float32(name):
    loss, _ = LOSSES[name]
    h, kernel = jnp.bfloat16(FEATURES), jnp.bfloat16(KERNEL)
    exact = loss(jnp.float32(h), jnp.float32(kernel), LABELS, SHARED)
    found = loss(h, kernel, LABELS, SHARED)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("name", ["sampled softmax", "NCE"])
def test_shapes_of_tokens_are_kept_and_there_may_be_none(name):
    loss, _ = LOSSES[name]
    log_n_y = SHARED.target_log_expected_count

    @jax.jit
    def losses():
        square, one, none = (
            SHARED._replace(target_log_expected_count=x)
            for x in (log_n_y[:4].reshape(2, 2), log_n_y[0], log_n_y[:0])
        )
        return (
            loss(FEATURES, KERNEL, LABELS, SHARED),
            loss(FEATURES[:4].reshape(2, 2, 3), KERNEL, LABELS[:4].reshape(2, 2), square),
            loss(FEATURES[0], KERNEL, LABELS[0], one),
            loss(FEATURES[:0], KERNEL, LABELS[:0], none),
        )

    each, square, one, none = losses()
    close(square, each[:4].reshape(2, 2))
    close(one, each[0])
    assert none.shape == (0,)


@pytest.mark.slow
@each_loss
def test_losses_pass_through_transformations(name):
    """With ranks and dtypes promoted by nobody, and NaN looked for in every intermediate."""
    loss, _ = LOSSES[name]
    with jax.numpy_rank_promotion("raise"), jax.debug_nans(True):
        value = jax.jit(jax.value_and_grad(total(loss, OWN)))(*ALL)
    each = jax.jit(jax.vmap(lambda k: loss(FEATURES, k, LABELS, SHARED)))(np.stack([KERNEL] * 2))
    close(each, np.stack([loss(FEATURES, KERNEL, LABELS, SHARED)] * 2))
    with jax.numpy_dtype_promotion("strict"):
        strict = loss(*(jnp.float32(x) for x in (FEATURES, KERNEL)), jnp.int8(LABELS), SHARED)
    close(strict, loss(FEATURES, KERNEL, LABELS, SHARED), rtol=1e-4)
    assert jnp.isfinite(value[0])


def test_losses_hold_where_scores_are_huge():
    """In float32 and far off, gaps and all: the loss of differences alone."""
    h = jnp.ones((1, 1), jnp.float32)
    for offset, gap in ((1e7, 1.0), (0.0, 60.0), (-1e7, 4.0)):
        z = jnp.array([[offset, offset - gap]], jnp.float32)
        both = js.vocabulary.Candidates(np.arange(2), 0.0)
        close(
            js.sampled_softmax_loss(h, z, np.zeros(1, int), both),
            np.log1p(np.exp(-gap)),
            rtol=1e-6,
            atol=0,
        )


@pytest.fixture
def unchecked():
    """Without the check of annotations that the tests put around every function."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


LOSS = js.sampled_softmax_loss
UNCOUNTED = SHARED._replace(target_log_expected_count=None)
MISTAKES = {
    "candidates": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, SHARED.ids),
        TypeError,
        "sampled_softmax_loss: `candidates` are of type ndarray",
    ),
    "no candidates": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, SHARED._replace(ids=np.zeros(0, int))),
        ValueError,
        "at least one class",
    ),
    "floats": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, SHARED._replace(ids=np.ones(3))),
        TypeError,
        "dtype float64; give integers",
    ),
    "beyond": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, SHARED._replace(ids=np.array([CLASSES]))),
        ValueError,
        "candidate 7 is out of range",
    ),
    "some of their own": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, SHARED._replace(ids=OWN.ids[:2])),
        ValueError,
        r"\(5, 'n'\) for each token separately",
    ),
    "counts": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, SHARED._replace(log_expected_count=np.ones(2))),
        ValueError,
        "`candidates.log_expected_count` has shape",
    ),
    "uncounted": (
        lambda: js.nce_loss(FEATURES, KERNEL, LABELS, UNCOUNTED),
        ValueError,
        r"nce_loss: .*sample\(key, shape, labels\)",
    ),
    "uncounted targets": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, UNCOUNTED, correct_targets=True),
        ValueError,
        "sampled_softmax_loss: the candidates lack",
    ),
    "classes masked": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, SHARED, where=np.ones(CLASSES, bool)),
        ValueError,
        "masks classes",
    ),
    "pairs": (
        lambda: LOSS(FEATURES, KERNEL, (LABELS, LABELS), SHARED),
        ValueError,
        "`labels` are a tuple",
    ),
    "labels": (
        lambda: LOSS(FEATURES, KERNEL, LABELS[:2], SHARED),
        ValueError,
        "one class for each token",
    ),
    "layout": (lambda: LOSS(FEATURES, KERNEL.T, LABELS, SHARED), ValueError, "class_axis=0"),
    "cap": (
        lambda: LOSS(FEATURES, KERNEL, LABELS, SHARED, logits_soft_cap=-1.0),
        ValueError,
        "`logits_soft_cap`",
    ),
    "a class twice": (
        lambda: js.vocabulary.target_sampling_loss(FEATURES, KERNEL, LABELS, np.array([1, 2, 1])),
        ValueError,
        "`partition` has class 1 twice",
    ),
    "log-partition": (
        lambda: js.nce_loss(FEATURES, KERNEL, LABELS, SHARED, log_partition=np.ones(TOKENS)),
        ValueError,
        "nce_loss: `log_partition`",
    ),
    "gathered": (
        lambda: js.vocabulary.gathered_classes(LABELS * 1.0, SHARED, CLASSES),
        TypeError,
        "gathered_classes: `labels`",
    ),
    "gathered classes": (
        lambda: js.vocabulary.gathered_classes(LABELS, SHARED, 0),
        ValueError,
        "gathered_classes: `classes`",
    ),
    "partitions": (
        lambda: js.vocabulary.target_partitions([0.5], 3),
        TypeError,
        "target_partitions: ",
    ),
    "partitions of none": (lambda: js.vocabulary.target_partitions([1], 0), ValueError, "`size`"),
    "wide partitions": (
        lambda: js.vocabulary.target_partitions([[1, 2, 3]], 2),
        ValueError,
        "example 0 has 3 classes",
    ),
    "deep partitions": (
        lambda: js.vocabulary.target_partitions([[[1]]], 2),
        ValueError,
        "examples, m",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name, unchecked):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()


def test_a_candidate_beyond_the_classes_is_never_another_class():
    beyond = SHARED._replace(ids=jnp.asarray(SHARED.ids).at[1].set(CLASSES))
    assert jnp.isnan(LOSS(FEATURES, KERNEL, LABELS, beyond)).all()


def test_partitions_have_all_the_targets_of_their_examples():
    """And as many examples as fit, in order."""
    y = np.random.default_rng(1).integers(-1, 30, (40, 3))
    found = js.vocabulary.target_partitions(y, 9)
    assert found.ends[-1] == 40
    starts = [0, *found.ends[:-1]]
    for start, end, row in zip(starts, found.ends, found.classes, strict=True):
        classes = set(y[start:end].ravel()) - {-1}
        assert set(row[row >= 0]) == classes and (row >= 0).sum() == len(classes) <= 9
        if end < 40:
            assert len(classes | set(y[end]) - {-1}) > 9
    assert js.vocabulary.target_partitions(np.zeros((0, 2), int), 3).classes.shape == (0, 3)


@pytest.mark.slow
def test_candidates_of_samplers_serve_every_loss():
    """With replacement and without, shared and each token's own, under `jit`."""

    @functools.partial(jax.jit, static_argnums=(2, 3))
    def loss(sampler, key, shape, name):
        candidates = sampler.sample(key, shape, jnp.asarray(LABELS))
        return LOSSES[name][0](FEATURES, KERNEL, LABELS, candidates)

    sampler = js.vocabulary.unigram_sampler(Q, replacement=False)
    for shape in ((4,), (TOKENS, 4)):
        for name in ("sampled softmax", "NCE"):
            assert jnp.isfinite(loss(sampler, jax.random.key(0), shape, name)).all()
    same = candidates_of(LABELS)
    batch = js.vocabulary.in_batch_candidates(LABELS, np.log(Q)[LABELS])
    gap = np.log(TOKENS / (TOKENS - 1))  # each token has n − 1 others beside it
    close(batch.log_expected_count, same.log_expected_count - gap)
    assert jnp.isfinite(LOSS(FEATURES, KERNEL, LABELS, batch)).all()
