"""Excluded classes: probability exactly 0, and never drawn, with every option."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.marks import some

KEY = jax.random.key(0)
INF = np.inf
KEEP = np.array([True, False, True, True])
Z = np.array([0.5, -0.3, 1.2, 0.0], np.float32)
ROWS = 8

# Ways of excluding the second class: the score that stands there, and the mask.
WAYS = {
    "where": (9.0, KEEP),
    "where NaN": (np.nan, KEEP),
    "where ∞": (INF, KEEP),
    "−∞": (-INF, None),
}
# Temperatures of an array, one per row; some are limits, and the square of some underflows.
TEMPERATURES = np.array([0, 1e-30, 1e-25, 1e-19, 1e-3, 1, 1e19, INF], np.float32)[:, None]
ACTIONS = np.arange(4)


def _log_probs(z, where, temperature, **options):
    return jnp.stack(
        [
            js.policies.log_prob(
                z, np.full(ROWS, a), where=where, temperature=temperature, **options
            )
            for a in ACTIONS
        ],
        -1,
    )


def _one_hot(classes):
    return jax.nn.one_hot(classes, 4, dtype=jnp.float32)


# (scores, mask, T) → p, or samples, with the classes last.
RELAXED = {
    "gumbel_softmax": lambda z, m, t: js.gumbel_softmax(KEY, z, t, where=m),
    "gumbel_log_softmax": lambda z, m, t: jnp.exp(js.gumbel_log_softmax(KEY, z, t, where=m)),
    "gumbel_entmax": lambda z, m, t: js.gumbel_entmax(KEY, z, t, where=m),
    "gumbel_entmax ∞": lambda z, m, t: js.gumbel_entmax(KEY, z, t, alpha=INF, where=m),
    "relaxed_topk": lambda z, m, t: js.relaxed_topk(KEY, z, 2, temperature=t, where=m),
    "straight_through_categorical": lambda z, m, t: js.straight_through_categorical(
        KEY, z, t, where=m
    ),
    "straight_through_gumbel": lambda z, m, t: js.straight_through_gumbel(KEY, z, t, where=m),
    "decoupled_straight_through": lambda z, m, t: js.decoupled_straight_through(
        KEY, z, t, where=m, forward_temperature=jax.lax.stop_gradient(t)
    ),
    "gumbel_rao": lambda z, m, t: js.gumbel_rao(KEY, z, t, where=m, samples=2),
    "reinmax_rao": lambda z, m, t: js.reinmax_rao(KEY, z, t, where=m, samples=2),
    "reinmax_cv": lambda z, m, t: js.reinmax_cv(KEY, z, t, where=m)[1],
    "reinmax": lambda z, m, t: js.reinmax(KEY, z, t, where=m),
    "RelaxedCategorical": lambda z, m, t: js.RelaxedCategorical(z, t, where=m).sample(KEY),
}
PROBABILITIES = {
    "Categorical": lambda z, m, t: js.Categorical(z, temperature=t, where=m).probabilities(),
    "Categorical 1.5": lambda z, m, t: js.Categorical(
        z, alpha=1.5, temperature=t, where=m
    ).probabilities(),
    "Categorical ∞": lambda z, m, t: js.Categorical(
        z, alpha=INF, temperature=t, where=m
    ).probabilities(),
    "log_prob": lambda z, m, t: jnp.exp(_log_probs(z, m, t)),
    "log_prob ε": lambda z, m, t: jnp.exp(_log_probs(z, m, t, epsilon=0.1)),
    "epsilon_mixture": lambda z, m, t: js.policies.epsilon_mixture(
        js.softmax(z, where=m, temperature=t), 0.1, where=KEEP
    ),
}
DRAWS = {
    "categorical": lambda z, m, t: js.categorical(KEY, z, where=m, temperature=t),
    "gumbel_argmax": lambda z, m, t: js.gumbel_argmax(KEY, z, where=m, temperature=t),
    "sample_action": lambda z, m, t: js.sample_action(KEY, z, where=m, temperature=t),
    "sample_action ε": lambda z, m, t: js.sample_action(
        KEY, z, where=m, temperature=t, epsilon=0.9
    ),
    "sample_action ∞": lambda z, m, t: js.sample_action(KEY, z, alpha=INF, where=m, temperature=t),
    "Categorical.sample": lambda z, m, t: js.Categorical(z, temperature=t, where=m).sample(KEY),
}


def scores(way, rows=ROWS):
    there, mask = WAYS[way]
    z = np.broadcast_to(Z, (rows, 4)).copy()
    z[:, 1] = there
    return jnp.asarray(z), mask


@functools.cache
def value_and_slopes(name, masked):
    """Compiled once for all ways: p, and the gradient of its weighted sum in z and T."""
    function = (RELAXED | PROBABILITIES)[name]
    weights = jnp.array([1.0, 2.0, -3.0, 4.0], jnp.float32)

    def summed(z, t):
        p = function(z, KEEP if masked else None, t)
        return (p * weights).sum(), p

    return jax.jit(jax.grad(summed, (0, 1), has_aux=True))


@pytest.mark.parametrize(
    "name", some(RELAXED | PROBABILITIES, ["gumbel_softmax", "relaxed_topk", "log_prob ε"])
)
def test_an_excluded_class_has_probability_and_slope_0_at_every_temperature(name):
    for way in WAYS:
        z, mask = scores(way)
        (d_z, d_t), p = value_and_slopes(name, mask is not None)(z, TEMPERATURES)
        assert (np.asarray(p)[:, 1] == 0).all()
        assert np.isfinite(p).all() and np.isfinite(d_z).all() and np.isfinite(d_t).all()
        assert (np.asarray(d_z)[:, 1] == 0).all()
        # At T = 0 nothing moves, but the logarithms of probabilities and reinmax's own J(p).
        if not name.startswith(("log_prob", "reinmax")):
            assert (np.asarray(d_z)[0] == 0).all()
        np.testing.assert_allclose(p.sum(-1), 2 if name == "relaxed_topk" else 1, rtol=1e-5)


@pytest.mark.parametrize("name", DRAWS)
def test_an_excluded_class_is_never_drawn_at_any_temperature(name):
    rows = 125
    for way in WAYS:
        z, mask = scores(way, ROWS * rows)
        drawn = np.asarray(DRAWS[name](z, mask, np.repeat(TEMPERATURES, rows, 0)))
        assert set(drawn) <= {0, 2, 3}
        if name not in ("sample_action ε", "sample_action ∞"):
            assert set(drawn[:rows]) == {2}
            assert set(drawn[-rows:]) == {0, 2, 3}


def test_below_zero_minus_infinity_is_the_minimum_and_infinity_is_excluded():
    """DESIGN's table: the arg-min side, in every function that takes T < 0; `where` still rules."""
    z = jnp.array([1.0, -INF, INF, 0.0], jnp.float32)
    t = jnp.array([[-0.5]] * 64 + [[-INF]] * 64, jnp.float32)
    rows = jnp.broadcast_to(z, (128, 4))
    for name in DRAWS:
        if name == "sample_action ε":
            continue
        drawn = np.asarray(DRAWS[name](rows, None, t))
        assert set(drawn[:64]) == {1}
        finite = np.asarray(DRAWS[name](rows, np.array([True, False, True, True]), t))
        assert 1 not in finite and 2 not in finite[:64]
    for name in PROBABILITIES:
        if name not in ("epsilon_mixture", "log_prob ε"):
            p = PROBABILITIES[name](jnp.broadcast_to(z, (ROWS, 4)), None, t[:ROWS])
            np.testing.assert_array_equal(p, np.broadcast_to([0, 1, 0, 0], (ROWS, 4)))
