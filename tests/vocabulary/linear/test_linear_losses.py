"""Losses from features and a class table equal those of the logits, in value and derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from jsoftmax import (
    cross_entropy,
    entmax_loss,
    linear_cross_entropy,
    linear_cross_entropy_sum,
    linear_cross_entropy_terms,
    linear_entmax_loss,
)
from tests.vocabulary.linear.linear_helpers import (
    BIAS,
    BLOCKS,
    CLASSES,
    COUNTS,
    FEATURES,
    KERNEL,
    LABELS,
    SOFT_CAP,
    SOME,
    TEMPERATURE,
    TOKENS,
    WEIGHTS,
    WIDTH,
    assert_close,
    compiled,
    dense,
    total,
)

pytestmark = pytest.mark.slow

ALL = (FEATURES, KERNEL, BIAS)
OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"class_weights": WEIGHTS},
    "masked": {"where": SOME, "label_smoothing": 0.2},
    "ignoring": {"ignore_index": int(LABELS[2])},
}
ALPHAS = {
    "cross-entropy": None,
    "0.5": 0.5,
    "1": 1.0,
    "1.5": 1.5,
    "2": 2.0,
    "3": 3.0,
    "infinite": np.inf,
    "traced": jnp.array([[0.7], [1.0], [1.5], [2.0], [2.5], [jnp.inf], [1.0]]),
}


def linear(alpha, blocks="ragged", **options):
    """(features, kernel, bias) → one loss a token, without the logits."""
    tokens, classes = BLOCKS[blocks]
    options |= {"logits_soft_cap": SOFT_CAP, "temperature": TEMPERATURE}
    options |= {"block_tokens": tokens, "block_classes": classes}

    def losses(features, kernel, bias):
        if alpha is None:
            return linear_cross_entropy(features, kernel, LABELS, bias=bias, **options)
        return linear_entmax_loss(features, kernel, LABELS, alpha=alpha, bias=bias, **options)

    return losses


def first_order(losses):
    """Losses, the gradient of a weighted sum, and the tangent along one direction."""
    gradient = jax.grad(total(losses), argnums=(0, 1, 2))
    return lambda *x: (losses(*x), gradient(*x), jax.jvp(losses, x, gradient(*x))[1])


@pytest.mark.parametrize("name", ALPHAS)
def test_values_and_derivatives_are_those_of_the_logits(name):
    alpha = ALPHAS[name]
    ours = jax.jit(first_order(linear(alpha)))(*ALL)
    assert_close(ours, jax.jit(first_order(dense(alpha)))(*ALL), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("alpha", [None, 1.5], ids=["cross-entropy", "entmax"])
def test_options_mean_what_they_mean_for_logits(alpha, name):
    ours = jax.jit(first_order(linear(alpha, **OPTIONS[name])))(*ALL)
    theirs = jax.jit(first_order(dense(alpha, **OPTIONS[name])))(*ALL)
    assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("blocks", [name for name in BLOCKS if name != "ragged"])
def test_blocks_change_nothing(blocks):
    options = {"label_smoothing": 0.1, "z_loss": 0.01, "class_weights": WEIGHTS}
    ours = jax.jit(first_order(linear(None, blocks, **options)))(*ALL)
    theirs = jax.jit(first_order(dense(None, **options)))(*ALL)
    assert_close(ours, theirs)


MODES = {
    "forward over reverse": (jax.jacfwd, jax.jacrev),
    "reverse over reverse": (jax.jacrev, jax.jacrev),
    "forward over forward": (jax.jacfwd, jax.jacfwd),
}


@pytest.mark.parametrize("modes", MODES)
@pytest.mark.parametrize("alpha", [None, 1.5], ids=["cross-entropy", "entmax"])
def test_second_derivatives_are_those_of_the_logits(alpha, modes):
    """With a row so sure of its class that its p must come from the mass of the rest."""
    outer, inner = MODES[modes]
    features = FEATURES.at[0].set(9 * KERNEL[:, int(LABELS[0])])
    options = {"z_loss": 0.01} if alpha is None else {}
    every = (0, 1, 2)
    ours = outer(inner(total(linear(alpha, **options)), every), every)
    ours = jax.jit(ours)(features, KERNEL, BIAS)
    theirs = jax.jit(jax.hessian(total(dense(alpha, **options)), (0, 1, 2)))(features, KERNEL, BIAS)
    assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_the_temperature_is_differentiable_and_may_differ_by_token():
    t = jnp.linspace(0.5, 2, TOKENS)[:, None]
    z = FEATURES @ KERNEL

    def ours(t):
        options = {"temperature": t, "block_tokens": 3, "block_classes": 4}
        return (COUNTS * linear_cross_entropy(FEATURES, KERNEL, LABELS, **options)).sum()

    theirs = jax.value_and_grad(lambda t: (COUNTS * cross_entropy(z / t, LABELS)).sum())(t)
    assert_close(jax.jit(jax.value_and_grad(ours))(t), theirs)


def test_the_scalar_form_is_the_weighted_sum_with_its_gradients():
    """In features, kernel, bias and the weights themselves; also where tokens fill up no block."""
    options = {"label_smoothing": 0.1, "z_loss": 0.01, "ignore_index": int(LABELS[2])}

    def ours(features, kernel, bias, counts):
        return linear_cross_entropy_sum(
            features, kernel, LABELS, counts, bias=bias, logits_soft_cap=SOFT_CAP,
            temperature=TEMPERATURE, block_tokens=3, **options,
        )  # fmt: skip

    def theirs(features, kernel, bias, counts):
        return (counts * dense(None, **options)(features, kernel, bias)).sum()

    both = (jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(*ALL, COUNTS) for f in (ours, theirs))
    assert_close(*both)
    assert_close(ours(*ALL, COUNTS), theirs(*ALL, COUNTS))  # where no gradient is asked for


def test_the_scalar_form_has_no_forward_mode():
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda h: linear_cross_entropy_sum(h, KERNEL, LABELS), (FEATURES,), (FEATURES,))


@pytest.mark.parametrize("block_tokens", [None, 3])
@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
def test_derivatives_of_the_gradient_of_the_scalar_form_are_right(block_tokens, outer):
    def ours(features, kernel, bias, temperature, weights):
        return linear_cross_entropy_sum(
            features, kernel, LABELS, weights, bias=bias, temperature=temperature, z_loss=0.1,
            block_tokens=block_tokens, block_classes=4,
        )  # fmt: skip

    def theirs(features, kernel, bias, temperature, weights):
        z = (features @ kernel + bias) / temperature
        return weights @ cross_entropy(z, LABELS, z_loss=0.1)

    at, every = (*ALL[:2], BIAS, jnp.array(1.3), COUNTS), (0, 1, 2, 3, 4)

    def probe(f):
        """Take the slope of the gradient along a direction, a mixture of second derivatives."""
        gradient = jax.grad(f, every)
        return lambda t: gradient(
            *(x + t * jnp.cos(jnp.arange(x.size).reshape(x.shape)) for x in at)
        )

    both = (jax.jit(outer(probe(f)))(0.0) for f in (ours, theirs))
    assert_close(*both)


def test_statistics_are_logsumexp_and_entropy_with_their_derivatives():
    def ours(features, kernel):
        terms = linear_cross_entropy_terms(
            features, kernel, LABELS, bias=BIAS, block_tokens=3, block_classes=4
        )
        return COUNTS @ terms.loss, COUNTS @ terms.log_partition, COUNTS @ terms.entropy

    def theirs(features, kernel):
        z = features @ kernel + BIAS
        losses = cross_entropy(z, LABELS)
        p = jsoftmax.softmax(z)
        return COUNTS @ losses, COUNTS @ jsoftmax.logsumexp(z), COUNTS @ jsoftmax.entropy(p)

    values = (f(FEATURES, KERNEL) for f in (ours, theirs))
    assert_close(*values)
    gradients = (jax.jit(jax.jacrev(f, (0, 1)))(FEATURES, KERNEL) for f in (ours, theirs))
    assert_close(*gradients)


@pytest.mark.parametrize("loss", [linear_cross_entropy, linear_entmax_loss])
def test_a_token_whose_pairs_all_have_weight_0_does_not_count(loss):
    """Whatever stands there, also with smoothing; its loss and gradient are 0."""
    ids = np.tile([1, 4], (TOKENS, 1))
    shares = np.where(np.arange(TOKENS)[:, None] == 2, 0, [0.25, 0.75])
    features = FEATURES.at[2].set(np.nan)

    @jax.jit
    def gradients(features, kernel):
        def total(features, kernel):
            losses = loss(features, kernel, (ids, shares), label_smoothing=0.1)
            return losses.sum(), losses

        return jax.grad(total, (0, 1), has_aux=True)(features, kernel)

    (of_features, of_kernel), losses = gradients(features, KERNEL)
    assert losses[2] == 0 and (of_features[2] == 0).all()
    (others, without), rest = gradients(FEATURES.at[2].set(0), KERNEL)
    np.testing.assert_array_equal(losses, rest)
    np.testing.assert_array_equal(of_features, others)
    np.testing.assert_array_equal(of_kernel, without)
    assert np.isfinite(of_kernel).all() and (np.delete(losses, 2) > 0).all()


def test_pairs_of_classes_and_weights_are_a_distribution():
    ids = np.stack([LABELS, (LABELS + 3) % CLASSES, np.full(TOKENS, -1)], -1)
    shares = np.stack([np.full(TOKENS, 0.7), np.full(TOKENS, 0.3), np.zeros(TOKENS)], -1)
    y = 0.7 * jnp.eye(CLASSES)[LABELS] + 0.3 * jnp.eye(CLASSES)[(LABELS + 3) % CLASSES]
    for ours, theirs in ((linear_cross_entropy, cross_entropy), (linear_entmax_loss, entmax_loss)):
        losses = ours(FEATURES, KERNEL, (ids, shares), label_smoothing=0.1, block_tokens=3)
        assert_close(losses, theirs(FEATURES @ KERNEL, y, label_smoothing=0.1))


def test_an_embedding_table_serves_as_it_is():
    """A kernel of shape [K, d], with a gradient of that shape."""

    def ours(table):
        return linear_cross_entropy(
            FEATURES, table, LABELS, class_axis=0, block_tokens=3, block_classes=4
        ).sum()

    def theirs(table):
        return cross_entropy(FEATURES @ table.T, LABELS).sum()

    both = (jax.jit(jax.value_and_grad(f))(KERNEL.T) for f in (ours, theirs))
    assert_close(*both)


def test_leading_axes_are_kept_and_may_be_none():
    features = FEATURES[:6].reshape(2, 3, WIDTH)
    labels = LABELS[:6].reshape(2, 3)
    losses = linear_cross_entropy(features, KERNEL, labels, block_tokens=4)
    assert_close(losses, cross_entropy(features @ KERNEL, labels))
    assert linear_cross_entropy(FEATURES[0], KERNEL, 1).shape == ()
    assert linear_entmax_loss(FEATURES[:0], KERNEL, LABELS[:0]).shape == (0,)


def test_what_takes_no_part_may_be_anything():
    """NaN in an ignored token, a masked token and a masked class reaches nothing."""
    features = FEATURES.at[1].set(jnp.nan)
    spoiled = KERNEL.at[:, 4].set(jnp.nan)
    labels = jnp.where(jnp.arange(TOKENS) == 1, -100, 2)
    tokens = (jnp.arange(TOKENS) != 1)[:, None]
    classes = jnp.arange(CLASSES) != 4
    cases = [
        (features, KERNEL, {"ignore_index": -100}, labels),
        (features, KERNEL, {"where": tokens}, jnp.full(TOKENS, 2)),
        (FEATURES, spoiled, {"where": classes}, jnp.full(TOKENS, 2)),
    ]
    for h, kernel, options, y in cases:

        def loss(h, kernel, options=options, y=y):
            blocks = {"block_tokens": 3, "block_classes": 4}
            return linear_cross_entropy(h, kernel, y, **blocks, **options).sum()

        value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))(h, kernel)
        assert jnp.isfinite(value)
        assert all(jnp.isfinite(g).all() for g in gradient)
        if h is features:
            assert not gradient[0][1].any()


def test_edges_are_those_of_the_logits():
    """A target that is masked, a token without classes, a label that is none."""
    where = jnp.ones((TOKENS, CLASSES), bool).at[0, int(LABELS[0])].set(False).at[1].set(False)
    labels = jnp.asarray(LABELS).at[2].set(CLASSES)
    for ours, theirs in ((linear_cross_entropy, cross_entropy), (linear_entmax_loss, entmax_loss)):

        def loss(h, ours=ours):
            return ours(h, KERNEL, labels, where=where, block_tokens=3, block_classes=4)

        def wanted(h, theirs=theirs):
            return theirs(h @ KERNEL, labels, where=where)

        losses = loss(FEATURES)
        np.testing.assert_allclose(losses, wanted(FEATURES), rtol=1e-12)
        assert losses[0] == jnp.inf and losses[1] == 0 and jnp.isnan(losses[2])
        gradients = (jax.grad(lambda h, f=f: f(h).sum())(FEATURES) for f in (loss, wanted))
        assert_close(*gradients)


def test_half_precision_is_computed_in_float32():
    h, kernel = FEATURES.astype(jnp.bfloat16), KERNEL.astype(jnp.bfloat16)

    def loss(h, kernel):
        return linear_cross_entropy(h, kernel, LABELS, block_tokens=3, block_classes=4)

    exact = loss(h.astype(jnp.float32), kernel.astype(jnp.float32))
    assert loss(h, kernel).dtype == jnp.float32
    assert_close(loss(h, kernel), exact, rtol=0, atol=0)
    gradient = jax.grad(lambda *x: loss(*x).sum(), (0, 1))
    ours = gradient(h, kernel)
    theirs = gradient(h.astype(jnp.float32), kernel.astype(jnp.float32))
    assert_close(ours, tuple(g.astype(jnp.bfloat16) for g in theirs), rtol=0, atol=0)


def test_vmap_over_tables_is_a_loop():
    kernels = jnp.stack([KERNEL, 2 * KERNEL])

    def loss(kernel):
        return linear_entmax_loss(FEATURES, kernel, LABELS, block_tokens=3, block_classes=4).sum()

    ours = jax.vmap(jax.value_and_grad(loss))(kernels)
    each = [jax.value_and_grad(loss)(kernel) for kernel in kernels]
    assert_close(ours, jax.tree.map(lambda *x: jnp.stack(x), *each))


def test_memory_is_not_that_of_all_the_rows():
    """Forward a block of rows, backward one of classes and the gradient of the table in blocks."""
    tokens, width, classes = 512, 16, 8192
    h = jax.ShapeDtypeStruct((tokens, width), jnp.float32)
    kernel = jax.ShapeDtypeStruct((width, classes), jnp.float32)
    labels = jnp.zeros(tokens, jnp.int32)
    rows = 4 * tokens * classes
    blocks = {"block_tokens": 32, "block_classes": 512}

    def per_token(h, kernel):
        return linear_cross_entropy(h, kernel, labels, **blocks).sum()

    def entmax(h, kernel):
        return linear_entmax_loss(h, kernel, labels, **blocks).sum()

    def scalar(h, kernel):
        return linear_cross_entropy_sum(h, kernel, labels, **blocks)

    # While a row is solved, p, log p and y lie beside it.
    for loss, part in ((per_token, 3), (entmax, 2), (scalar, 3)):
        ready = compiled(jax.value_and_grad(loss, (0, 1)), h, kernel)
        assert ready.memory_analysis().temp_size_in_bytes < rows / part
