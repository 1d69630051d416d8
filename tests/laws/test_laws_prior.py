"""A prior: a reference measure in every mapping, its logarithm, its conjugate and its loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.marks import some

near = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)
rng = np.random.default_rng(3)
Z = rng.standard_normal((5, 6))
Q = rng.uniform(0.1, 3, (5, 6))
LABELS = np.array([0, 3, 1, 5, 2])
ALPHAS = [0.5, 1.0, 1.5, 2.0, 3.0]


def test_at_order_one_a_prior_is_added_to_the_scores_as_its_logarithm():
    shifted = Z / 0.7 + np.log(Q)
    near(js.softmax(Z, temperature=0.7, prior=Q), js.softmax(shifted))
    near(js.log_softmax(Z, temperature=0.7, prior=Q), js.log_softmax(shifted))
    near(js.logsumexp(Z, temperature=0.7, prior=Q), 0.7 * js.logsumexp(shifted))
    near(js.cross_entropy(Z, LABELS, prior=Q), js.cross_entropy(Z + np.log(Q), LABELS))
    near(js.softmin(Z, prior=Q), js.softmax(-Z + np.log(Q)))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_repeated_classes_are_a_multiplicity(alpha):
    """m copies of a class share the mass of one class of prior m."""
    copies = np.array([1, 3, 2, 1, 1, 4])
    many = np.repeat(Z, copies, axis=-1)
    starts = np.cumsum(copies) - copies
    shares = np.add.reduceat(np.asarray(js.entmax(many, alpha)), starts, axis=-1)
    prior = copies.astype(float)
    near(js.entmax(Z, alpha, prior=prior), shares)
    near(js.smoothmax(Z, alpha, prior=prior), js.smoothmax(many, alpha))
    p = js.entmax(Z, alpha, prior=prior)
    near(js.entropy(p, alpha, prior=prior), js.entropy(js.entmax(many, alpha), alpha))


FUNCTIONS = {
    "softmax": js.softmax,
    "log_softmax": js.log_softmax,
    "softmin": js.softmin,
    "hardmax": js.hardmax,
    "logsumexp": js.logsumexp,
    "sparsemax": js.sparsemax,
    **{f"entmax {a}": functools.partial(js.entmax, alpha=a) for a in (0.5, 1.5, 3.0)},
    "smoothmax": functools.partial(js.smoothmax, alpha=1.5),
    "topk_entmax": lambda z, **options: js.topk_entmax(z, 2, **options),
    "capped_entmax": lambda z, **options: js.capped_entmax(z, 0.6, **options),
    "cross_entropy": lambda z, **options: js.cross_entropy(z, LABELS, **options),
    "entmax_loss": lambda z, **options: js.entmax_loss(z, LABELS, **options),
    "sparsemax_loss": lambda z, **options: js.sparsemax_loss(z, LABELS, **options),
}
QUICK = ["softmax", "log_softmax", "entmax 1.5", "capped_entmax", "entmax_loss"]


def value_and_slope(name, z, **options):
    def total(z):
        out = FUNCTIONS[name](z, **options)
        finite = jnp.where(jnp.isfinite(out), out, 0)
        return (finite * np.arange(1.0, out.size + 1).reshape(out.shape)).sum(), out

    slope, out = jax.jit(jax.grad(total, has_aux=True))(z)
    return np.asarray(out), np.asarray(slope)


@pytest.mark.parametrize("name", some(FUNCTIONS, QUICK))
def test_a_prior_of_one_changes_no_bit_and_one_of_zero_is_a_mask(name):
    z = np.concatenate([Z, Z, Z[:5]], axis=-1)[:, :16]
    plain = value_and_slope(name, z)
    ones = value_and_slope(name, z, prior=np.ones((5, 16)))
    for a, b in zip(plain, ones, strict=True):
        assert (a == b).all()
    mask = np.ones(16, bool)
    mask[[4, 7, 15]] = False
    masked = value_and_slope(name, z, where=mask)
    excluded = value_and_slope(name, z, prior=mask.astype(float))
    for a, b in zip(masked, excluded, strict=True):
        near(a, b)
    assert (excluded[1][:, ~mask] == 0).all()


def test_long_rows_take_the_same_steps_with_a_prior_of_one():
    """Also where the search starts from the peaks of blocks."""
    z = rng.standard_normal((3, 1024)) * 2
    for alpha in (1.25, 1.5, 2.0, 3.0):
        plain, ones = js.entmax(z, alpha), js.entmax(z, alpha, prior=np.ones(1024))
        assert (plain == ones).all(), alpha
    q = rng.uniform(0.01, 5, 1024)
    p = np.asarray(js.entmax(z, 1.5, prior=q))
    near(p.sum(-1), 1)
    tau = (z - 2 * np.sqrt(p / q))[p > 0]
    rows = np.nonzero(p > 0)[0]
    for row in range(3):
        near(tau[rows == row], tau[rows == row][0])


def test_the_policy_nearest_to_a_reference_improves_it_in_closed_form():
    """argmax ⟨π, a⟩ − T KL(π‖π₀) = π₀ exp(a/T)/Σ, with the value T log Σ π₀ exp(a/T)."""
    reference = np.asarray(js.softmax(rng.standard_normal((5, 6))))
    policy = js.softmax(Z, temperature=0.5, prior=reference)
    closed = reference * np.exp(Z / 0.5)
    near(policy, closed / closed.sum(-1, keepdims=True))
    divergence = (policy * np.log(policy / reference)).sum(-1)
    near(js.logsumexp(Z, temperature=0.5, prior=reference), (policy * Z).sum(-1) - 0.5 * divergence)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_losses_with_a_prior_are_zero_at_its_prediction_and_have_the_gradient_p_minus_y(alpha):
    p = js.entmax(Z, alpha, prior=Q)
    y = rng.dirichlet(np.ones(6), 5)
    near(js.entmax_loss(Z, p, alpha=alpha, prior=Q), 0, atol=1e-12)
    slope = jax.grad(lambda z: js.entmax_loss(z, y, alpha=alpha, prior=Q).sum())(Z)
    near(slope, p - y)
    textbook = js.smoothmax(Z, alpha, prior=Q) - js.entropy(y, alpha, prior=Q) - (y * Z).sum(-1)
    near(js.entmax_loss(Z, y, alpha=alpha, prior=Q), textbook)


def test_ties_and_infinite_temperatures_share_in_proportion_to_the_prior():
    z, q = np.array([1.0, 5.0, 5.0, 5.0]), np.array([9.0, 1.0, 2.0, 1.0])
    near(js.hardmax(z, prior=q), [0, 0.25, 0.5, 0.25])
    for alpha in (1.0, 1.5, 3.0, np.inf):
        near(js.entmax(z, alpha, temperature=0.0, prior=q), [0, 0.25, 0.5, 0.25])
        if alpha < np.inf:
            near(js.entmax(z, alpha, temperature=np.inf, prior=q), q / q.sum())
            share = q / q.sum()
            mean = (share * z).sum()
            top = functools.partial(js.smoothmax, alpha=alpha, prior=share)
            near(top(z, temperature=np.inf), mean)
            near(jax.grad(functools.partial(top, temperature=np.inf))(z), share)
            # Its limit indeed: the difference falls as 1/T.
            near(top(z, temperature=1e5), mean, atol=1e-3)


def test_a_prior_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"jsoftmax.softmax: `prior` must be finite and at least"):
        js.softmax(Z, prior=-np.ones(6))
    with pytest.raises(ValueError, match=r"`prior` has shape \(5,\)"):
        js.entmax(Z, prior=np.ones(5))
    q = jnp.asarray(Q).at[2, 0].set(-1)
    p = np.asarray(js.softmax(Z, prior=q))
    assert np.isnan(p[2]).all() and np.isfinite(p[[0, 1, 3, 4]]).all()


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_a_prior_need_not_sum_to_one(scale):
    for alpha in (1.0, 1.5, 2.0, 3.0):
        p = js.entmax(np.float32(Z), alpha, prior=np.float32(Q * scale))
        near(p.sum(-1), 1, rtol=1e-5)
    q = np.float32(Q) * np.float32(scale) ** 9
    near(js.softmax(np.float32(Z), prior=q), js.softmax(Z, prior=Q), rtol=1e-5)


def test_a_prior_counts_beside_large_scores():
    """Added to scores of 10⁶ in float32 its logarithm would be rounded to a sixteenth."""
    z = (np.round(8 * Z) / 8).astype(np.float32)  # exact beside 2²⁰
    far, q = z + np.float32(2**20), Q.astype(np.float32)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    for function in (js.softmax, js.log_softmax):
        close(function(far, prior=q), function(z, prior=q))
    close(js.cross_entropy(far, LABELS, prior=q), js.cross_entropy(z, LABELS, prior=q))
    close(js.logsumexp(far, prior=q), js.logsumexp(z, prior=q) + 2.0**20, rtol=1e-7)
