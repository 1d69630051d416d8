"""Linear losses of any regularizer and with a prior: those of the logits, in every derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jsoftmax as js
from tests.a_regularizer_of_a_stranger import Blend
from tests.marks import some
from tests.vocabulary.linear.linear_helpers import (
    BIAS,
    CLASSES,
    COUNTS,
    FEATURES,
    KERNEL,
    LABELS,
    SOFT_CAP,
    SOME,
    TOKENS,
    WEIGHTS,
    assert_close,
)

rng = np.random.default_rng(11)
PRIOR = jnp.asarray(rng.uniform(0.2, 2, CLASSES))
TEMPERATURES = jnp.linspace(0.7, 1.5, TOKENS)[:, None]
BLOCKS = {"block_tokens": 3, "block_classes": 4}
REGULARIZERS = {
    "Tsallis 1.5": js.Tsallis(1.5),
    "Tsallis traced": js.Tsallis(jnp.asarray(1.3)),
    "Tsallis of each row": js.Tsallis(jnp.linspace(0.7, 3, TOKENS)[:, None]),
    "Elastic traced": js.Elastic(jnp.asarray(2.0)),
    "JensenShannon": js.JensenShannon(),
    "Blend traced": Blend(jnp.asarray(0.7)),
}
slow = pytest.mark.slow
# Tests that compile long run for one of them where slow tests are left out.
EACH = pytest.mark.parametrize("name", some(REGULARIZERS, ["Blend traced"]))
ALL = (FEATURES, KERNEL, BIAS, TEMPERATURES, PRIOR)


def functions(regularizer, **options):
    """(features, kernel, bias, temperature, prior, parameters) → losses, streamed and dense."""
    structure = jax.tree.structure(regularizer)

    def linear(features, kernel, bias, temperature, prior, parameters):
        return js.linear_fenchel_young_loss(
            features, kernel, LABELS, jax.tree.unflatten(structure, parameters), bias=bias,
            temperature=temperature, prior=prior, logits_soft_cap=SOFT_CAP, **BLOCKS, **options,
        )  # fmt: skip

    def dense(features, kernel, bias, temperature, prior, parameters):
        z = SOFT_CAP * jnp.tanh((features @ kernel + bias) / SOFT_CAP) / temperature
        regularizer = jax.tree.unflatten(structure, parameters)
        return js.fenchel_young_loss(z, LABELS, regularizer, prior=prior, **options)

    return linear, dense


def first_order(losses):
    """Losses, the gradient of a weighted sum in everything, and the tangent along it."""

    def facts(*x):
        gradient = jax.grad(lambda *x: COUNTS @ losses(*x), tuple(range(len(x))))(*x)
        return losses(*x), gradient, jax.jvp(losses, x, gradient)[1]

    return jax.jit(facts)


@EACH
def test_values_and_all_derivatives_are_those_of_the_logits(name):
    """In features, kernel, bias, temperature, prior and the numbers of the regularizer."""
    options = {"label_smoothing": 0.1, "class_weights": WEIGHTS}
    at = (*ALL, jax.tree.leaves(REGULARIZERS[name]))
    both = (first_order(f)(*at) for f in functions(REGULARIZERS[name], **options))
    assert_close(*both, rtol=1e-10, atol=1e-10)


@slow
@EACH
def test_second_derivatives_are_those_of_the_logits(name):
    """Of everything along one direction, forward over reverse and reverse over reverse."""
    at = (*ALL, jax.tree.leaves(REGULARIZERS[name]))
    along = jax.tree.map(lambda x: 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), at)

    def probe(losses, outer):
        gradient = jax.grad(lambda *x: COUNTS @ losses(*x), tuple(range(len(at))))

        def moved(t):
            return gradient(*jax.tree.map(lambda x, d: x + t * d, at, along))

        return jax.jit(outer(moved))(0.0)

    linear, dense = functions(REGULARIZERS[name], label_smoothing=0.1)
    right = probe(dense, jax.jacfwd)
    for outer in (jax.jacfwd, jax.jacrev):
        assert_close(probe(linear, outer), right, rtol=1e-9, atol=1e-9)


def cross_entropies(prior, **options):
    """Return (features, kernel, prior) → results of the three forms, and those of the logits."""

    def linear(features, kernel, q):
        options_here = {prior: q, "bias": BIAS, "temperature": TEMPERATURES} | options | BLOCKS
        terms = js.linear_cross_entropy_terms(features, kernel, LABELS, **options_here)
        total = js.linear_cross_entropy_sum(features, kernel, LABELS, COUNTS, **options_here)
        return COUNTS @ terms.loss, COUNTS @ terms.log_partition, COUNTS @ terms.entropy, total

    def dense(features, kernel, q):
        z = (features @ kernel + BIAS) / TEMPERATURES
        z = z + (q if prior == "log_prior" else jnp.log(q))
        losses = COUNTS @ js.cross_entropy(z, LABELS, **options)
        entropy = js.entropy(js.softmax(z))
        return losses, COUNTS @ js.logsumexp(z), COUNTS @ entropy, losses

    return linear, dense


@pytest.mark.parametrize("prior", some(["prior", "log_prior", "by token"], ["prior"]))
def test_cross_entropies_add_the_logarithm_of_the_prior_after_the_temperature(prior):
    q = PRIOR if prior == "prior" else jnp.log(PRIOR)
    if prior == "by token":
        prior, q = "log_prior", q + 0.1 * FEATURES[:, :1] * jnp.arange(CLASSES)
    for f, g in zip(
        *((f(FEATURES, KERNEL, q), jax.jacrev(f, (0, 1, 2))(FEATURES, KERNEL, q))
          for f in map(jax.jit, cross_entropies(prior, z_loss=0.1, label_smoothing=0.1))),
        strict=True,
    ):  # fmt: skip
        assert_close(f, g, rtol=1e-10, atol=1e-10)


FORMS = {
    "cross-entropy": js.linear_cross_entropy,
    "sum": js.linear_cross_entropy_sum,
    "entmax": js.linear_entmax_loss,
    "infinite": lambda *x, **options: js.linear_entmax_loss(*x, alpha=np.inf, **options),
    "Elastic": lambda *x, **options: js.linear_fenchel_young_loss(*x, js.Elastic(2.0), **options),
}


@pytest.mark.parametrize("name", some(FORMS, ["sum", "entmax"]))
def test_a_prior_of_zero_is_a_mask_and_one_of_one_is_none(name):
    """Beside a mask of tokens, and with NaN in the table of an excluded class."""
    spoiled = KERNEL.at[:, ~SOME].set(jnp.nan)
    tokens = (jnp.arange(TOKENS) != 1)[:, None]

    def facts(kernel, options):
        def total(features, kernel):
            more = {"label_smoothing": 0.2, "bias": BIAS} | BLOCKS
            return FORMS[name](features, kernel, LABELS, **more, **options).sum()

        return jax.value_and_grad(total, (0, 1))(FEATURES, kernel)

    facts = jax.jit(facts)
    masked = facts(KERNEL, {"where": tokens & SOME})
    excluded = facts(spoiled, {"prior": jnp.where(SOME, 1.0, 0), "where": tokens})
    assert_close(excluded, masked)
    assert not excluded[1][1][:, ~SOME].any()
    minus = {"log_prior": jnp.where(SOME, 0, -jnp.inf), "where": tokens}
    assert_close(facts(spoiled, minus), masked)
    assert_close(facts(KERNEL, {"prior": jnp.ones(CLASSES)}), facts(KERNEL, {}))


@pytest.mark.parametrize("regularizer", [js.Tsallis(1.0), js.Tsallis(1.5)], ids=["1", "1.5"])
def test_a_class_without_prior_has_the_derivative_zero(regularizer):
    def loss(q, **options):
        return js.linear_fenchel_young_loss(
            FEATURES, KERNEL, LABELS, regularizer, **options, **BLOCKS
        ).sum()

    slope = jax.grad(lambda q: loss(q, prior=q))(jnp.where(SOME, PRIOR, 0))
    assert jnp.isfinite(slope).all() and not slope[~SOME].any() and slope[SOME].any()
    logs = jnp.where(SOME, jnp.log(PRIOR), -jnp.inf)
    of_log = jax.grad(lambda q: loss(q, log_prior=q))(logs)
    assert_close(of_log, slope * PRIOR)


def test_a_log_prior_may_be_that_of_numbers_which_underflow():
    far = jnp.log(PRIOR) - 2000
    z = FEATURES @ KERNEL + jnp.log(PRIOR)
    ours = js.linear_cross_entropy(FEATURES, KERNEL, LABELS, log_prior=far, **BLOCKS)
    assert_close(ours, js.cross_entropy(z, LABELS), rtol=1e-11)


def test_a_prior_that_is_none_is_named():
    def loss(**options):
        return js.linear_entmax_loss(FEATURES, KERNEL, LABELS, **options)

    with pytest.raises(ValueError, match=r"jsoftmax.linear_entmax_loss: both `prior` and `log_"):
        loss(prior=PRIOR, log_prior=PRIOR)
    with pytest.raises(ValueError, match=r"`prior` must be finite and at least 0"):
        loss(prior=-np.ones(CLASSES))
    with pytest.raises(ValueError, match=r"`log_prior` must be below \+∞"):
        loss(log_prior=np.full(CLASSES, np.inf))
    with pytest.raises(ValueError, match=r"`log_prior` has shape \(7,\)"):
        loss(log_prior=np.ones(TOKENS))
    with pytest.raises(TypeError, match="regularizer"):
        js.linear_fenchel_young_loss(FEATURES, KERNEL, LABELS, 1.5)
    q = PRIOR.at[2].set(-1)
    losses = js.linear_entmax_loss(FEATURES, KERNEL, LABELS, prior=q, **BLOCKS)
    assert jnp.isnan(losses).all()


PARTS, AXIS = 2, "parts"
WIDE = jnp.asarray(rng.normal(size=(3, 12)))
WIDE_PRIOR = jnp.asarray(rng.uniform(0.2, 2, 12))


def split_total(kernel, prior, parameters, structure, axis_name=None):
    options = {"prior": prior, "axis_name": axis_name, "label_smoothing": 0.1} | BLOCKS
    regularizer = jax.tree.unflatten(structure, parameters)
    losses = js.linear_fenchel_young_loss(FEATURES, kernel, LABELS, regularizer, **options)
    return COUNTS @ losses + COUNTS @ js.linear_cross_entropy(FEATURES, kernel, LABELS, **options)


@slow
@EACH
def test_split_classes_bring_their_part_of_the_prior(name):
    """In shard_map with the gradients in kernel, prior and parameters, and in vmap."""
    numbers, structure = jax.tree.flatten(REGULARIZERS[name])
    auto = (AxisType.Auto,)
    mesh = jax.make_mesh((PARTS,), (AXIS,), axis_types=auto, devices=jax.devices()[:PARTS])
    mapped = jax.shard_map(
        lambda *x: split_total(*x, structure, AXIS), mesh=mesh,
        in_specs=(P(None, AXIS), P(AXIS), P()), out_specs=P(),
    )  # fmt: skip
    at = (WIDE, WIDE_PRIOR, numbers)
    ours = jax.jit(jax.value_and_grad(mapped, (0, 1, 2)))(*at)
    right = jax.jit(
        jax.value_and_grad(lambda *x: split_total(*x, structure), (0, 1, 2))
    )(*at)  # fmt: skip
    assert_close(ours, right, rtol=1e-10, atol=1e-10)
    parts = jnp.moveaxis(WIDE.reshape(3, PARTS, -1), 1, 0), WIDE_PRIOR.reshape(PARTS, -1)
    mapped = jax.vmap(lambda *x: split_total(*x, numbers, structure, AXIS), axis_name=AXIS)
    assert_close(jax.jit(mapped)(*parts), jnp.stack([right[0]] * PARTS), rtol=1e-10)


def test_the_likeliest_classes_are_those_with_the_prior():
    t = TEMPERATURES.at[2].set(0)
    options = {"prior": jnp.where(SOME, PRIOR, 0), "block_tokens": 3, "temperature": t}
    top = js.linear_topk(FEATURES, KERNEL, 4, **options)
    warm = jnp.where(t == 0, 1, t)
    z = FEATURES @ KERNEL / warm + jnp.where(t == 0, 0, jnp.log(PRIOR))
    values, classes = jax.lax.top_k(jnp.where(SOME, z, -jnp.inf), 4)
    assert_close(top.values, values)
    assert (top.classes == classes).all()


def test_draws_are_in_proportion_to_the_prior():
    """Also among the largest logits, at T = 0."""
    key, n = jax.random.key(0), 20_000
    kernel = jnp.array([[1.0, 1.0, 0.0, 1.0]])
    q = jnp.array([1.0, 3.0, 8.0, 0.0])
    t = jnp.concatenate([jnp.ones(n), jnp.zeros(n)])[:, None]
    drawn = js.linear_categorical(key, jnp.ones((2 * n, 1)), kernel, prior=q, temperature=t)
    for part, z in ((drawn[:n], kernel[0]), (drawn[n:], jnp.array([0.0, 0, -jnp.inf, 0]))):
        shares = np.bincount(part, minlength=4) / n
        assert_close(shares, js.softmax(z, prior=q), rtol=0, atol=0.015)
        assert shares[3] == 0
