"""Truncation masks against a sort in float64; draws from them, and their scores."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.marks import some

RNG = np.random.default_rng(4)
SPREADS = [0.1, 1.0, 5.0, 30.0]
SETTINGS = [
    (classes, rows, spread, dtype)
    for classes, rows in [(7, 10_000), (300, 10_000), (4096, 500)]
    for spread in SPREADS
    for dtype in ("float32", "bfloat16")
]
QUICK = {(300, 10_000, 5.0, "bfloat16"), (4096, 500, 1.0, "float32")}
ROUNDING = 1e-5  # the largest relative error of a float32 sum of 4096 weights


def logits(classes: int, rows: int, spread: float, dtype: str):
    """Random rows in a dtype, and the same numbers in float64; bfloat16 makes many ties."""
    z = jnp.asarray(RNG.standard_normal((rows, classes)) * spread, dtype)
    return z, np.asarray(z.astype(jnp.float64))


def softmax(z, temperature=1.0):
    e = np.exp((z - z.max(-1, keepdims=True)) / temperature)
    return e / e.sum(-1, keepdims=True)


def masses_of_cuts(order, p):
    """Compute the mass at or above each class, from the top, with ties counted whole."""
    by = np.argsort(-order, -1, kind="stable")
    sorted_order = np.take_along_axis(order, by, -1)
    mass = np.cumsum(np.take_along_axis(p, by, -1), -1)
    is_end = np.concatenate(
        [sorted_order[:, 1:] != sorted_order[:, :-1], np.ones_like(mass[:, :1], bool)], -1
    )
    return mass, is_end


def assert_fewest(mask, order, p, target, rounding=ROUNDING):
    """The mask is all that is at or above some order, weighs the target, and no less would do."""
    mask = np.asarray(mask)
    cut = np.where(mask, order, np.inf).min(-1, keepdims=True)
    np.testing.assert_array_equal(mask, order >= cut)
    kept = np.where(mask, p, 0).sum(-1)
    above = np.where(order > cut, p, 0).sum(-1)
    assert (kept >= target - rounding).all()
    assert ((above < target + rounding) | (mask.sum(-1) == 1)).all()
    # Rounding decides few rows only: in all others the mask is the exact one.
    mass, is_end = masses_of_cuts(order, p)
    first = np.argmax((mass >= target[:, None]) & is_end, -1)
    exact = np.take_along_axis(mass, first[:, None], -1)[:, 0]
    assert np.mean(np.abs(kept - exact) > 1e-12) < 0.02


@pytest.mark.parametrize("case", some(SETTINGS, QUICK), ids=lambda case: ", ".join(map(str, case)))
def test_top_k_is_that_of_a_sort(case):
    classes, rows, *_ = case
    z, exact = logits(*case)
    ranked = np.sort(exact, -1)[:, ::-1]
    k = RNG.integers(1, classes + 1, (rows, 1))
    k[: rows // 4] = RNG.integers(1, min(50, classes), (rows // 4, 1))
    mask = js.top_k_mask(z, jnp.asarray(k))
    np.testing.assert_array_equal(mask, exact >= np.take_along_axis(ranked, k - 1, -1))


@pytest.mark.parametrize("case", some(SETTINGS, QUICK), ids=lambda case: ", ".join(map(str, case)))
def test_top_p_keeps_the_fewest_that_weigh_p(case):
    z, exact = logits(*case)
    p = RNG.random((len(exact), 1)).astype(np.float32)
    mask = js.top_p_mask(z, jnp.asarray(p))
    assert_fewest(mask, exact, softmax(exact), np.float64(p[:, 0]))


def test_top_p_of_float64_is_that_of_a_sort():
    z = RNG.standard_normal((2000, 300)) * 3
    p = RNG.random((2000, 1))
    mask = js.top_p_mask(jnp.asarray(z), jnp.asarray(p))
    assert_fewest(mask, z, softmax(z), p[:, 0], rounding=1e-14)


@pytest.mark.parametrize("spread", SPREADS)
def test_typical_keeps_the_closest_to_the_entropy(spread):
    z = RNG.standard_normal((10_000, 100)) * spread
    p = RNG.random((10_000, 1))
    q = softmax(z)
    entropy = -np.where(q > 0, q * np.log(np.where(q > 0, q, 1)), 0).sum(-1, keepdims=True)
    log_q = z - z.max(-1, keepdims=True)
    log_q = log_q - np.log(np.exp(log_q).sum(-1, keepdims=True))
    mask = np.asarray(js.typical_mask(jnp.asarray(z), jnp.asarray(p)))
    distance = np.abs(log_q + entropy)
    furthest = np.where(mask, distance, 0).max(-1)
    nearest_left_out = np.where(mask, np.inf, distance).min(-1)
    assert (furthest <= nearest_left_out + 1e-12).all()
    kept = np.where(mask, q, 0).sum(-1)
    last = np.take_along_axis(q, np.where(mask, distance, -1).argmax(-1)[:, None], -1)[:, 0]
    assert (kept >= p[:, 0] - 1e-12).all()
    assert ((kept - last < p[:, 0] + 1e-12) | (mask.sum(-1) == 1)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_masks_by_a_formula_are_those_of_float64(temperature):
    z = RNG.standard_normal((10_000, 100)) * 3
    q = softmax(z, temperature)
    x = RNG.random((10_000, 1))
    given = {"temperature": temperature}
    mask = js.min_p_mask(jnp.asarray(z), jnp.asarray(x), **given)
    ratio = q / q.max(-1, keepdims=True)
    sure = np.abs(ratio - x) > 1e-12
    np.testing.assert_array_equal(np.asarray(mask)[sure], (ratio >= x)[sure])
    entropy = -(q * np.log(q)).sum(-1, keepdims=True)
    eta = np.minimum(x, np.sqrt(x) * np.exp(-entropy))
    mask = np.asarray(js.eta_mask(jnp.asarray(z), jnp.asarray(x), **given))
    sure = np.abs(q - eta) > 1e-12
    np.testing.assert_array_equal(mask[sure], (q >= eta)[sure])
    assert mask.any(-1).all()
    cut = z.max(-1, keepdims=True) - 3 * x * z.std(-1, keepdims=True)
    mask = js.top_n_sigma_mask(jnp.asarray(z), jnp.asarray(3 * x))
    sure = np.abs(z - cut) > 1e-12
    np.testing.assert_array_equal(np.asarray(mask)[sure], (z >= cut)[sure])


MASKS = {
    "top_k": lambda z, **more: js.top_k_mask(z, 2, **more),
    "top_p": lambda z, **more: js.top_p_mask(z, 0.7, **more),
    "min_p": lambda z, **more: js.min_p_mask(z, 0.2, **more),
    "top_n_sigma": lambda z, **more: js.top_n_sigma_mask(z, 0.5, **more),
    "typical": lambda z, **more: js.typical_mask(z, 0.5, **more),
    "eta": lambda z, **more: js.eta_mask(z, 0.3, **more),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_at_the_edges(name):
    """Excluded classes change nothing; infinities and NaN are seen; nothing is ever empty."""
    mask = MASKS[name]
    z = jnp.asarray(RNG.standard_normal((50, 9)))
    where = jnp.arange(9) < 6
    spoiled = jnp.where(where, z, jnp.where(jnp.arange(9) == 7, jnp.nan, 9.0))
    few = np.asarray(mask(spoiled, where=where))
    np.testing.assert_array_equal(few[:, :6], mask(z[:, :6]))
    assert not few[:, 6:].any()
    assert not np.asarray(mask(jnp.full((2, 4), -jnp.inf))).any()
    np.testing.assert_array_equal(mask(jnp.array([0.0, jnp.inf, 1.0, jnp.inf])), [0, 1, 0, 1])
    np.testing.assert_array_equal(mask(jnp.zeros(5)), np.ones(5, bool))
    assert mask(jnp.array([0.0, jnp.nan, 1.0]))[1]
    assert mask(jnp.zeros((0, 3))).shape == (0, 3)
    np.testing.assert_array_equal(mask(z.T, axis=0), mask(z).T)
    together = mask(z.reshape(50, 3, 3), axis=(1, 2))
    np.testing.assert_array_equal(together.reshape(50, 9), mask(z))
    np.testing.assert_array_equal(jax.vmap(mask)(z), mask(z))
    split = jax.vmap(lambda x: mask(x, axis_name="i"), axis_name="i", in_axes=1, out_axes=1)
    np.testing.assert_array_equal(split(z.reshape(50, 3, 3)).reshape(50, 9), mask(z))
    np.testing.assert_array_equal(
        mask(jnp.array([3, 200, 250], jnp.uint8)), mask(jnp.array([3.0, 200.0, 250.0]))
    )


@pytest.mark.parametrize("name", ["top_p", "min_p", "typical", "eta"])
def test_masks_take_limits_of_the_temperature(name):
    z = jnp.array([1.0, 5.0, 5.0, -2.0])
    cold = MASKS[name](z, temperature=jnp.array([0.0]))
    np.testing.assert_array_equal(cold, [0, 1, 1, 0])
    np.testing.assert_array_equal(MASKS[name](-z, temperature=-1.0), MASKS[name](z))


def test_settings_differ_from_row_to_row_also_traced():
    z = jnp.asarray(RNG.standard_normal((4, 3000)))
    p = jnp.array([[0.0], [0.5], [0.9], [1.0]])
    each = jnp.stack([js.top_p_mask(row, float(x)) for row, x in zip(z, p[:, 0], strict=True)])
    np.testing.assert_array_equal(jax.jit(js.top_p_mask)(z, p), each)
    assert js.top_p_mask(z, p).sum(-1)[0] == 1
    assert js.top_p_mask(z, p)[3].all()
    k = jnp.array([[1], [3000], [7], [10**6]])
    assert jax.jit(js.top_k_mask)(z, k).sum(-1).tolist() == [1, 3000, 7, 3000]
    assert jax.jit(js.top_k_mask)(z, jnp.array(-3)).sum() == 4
    assert jax.jit(js.top_p_mask)(z, jnp.array(jnp.nan)).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda z: js.top_k_mask(z, 0), "`k` must be at least 1"),
        (lambda z: js.top_k_mask(z, 1.5), "`k` must be an integer"),
        (lambda z: js.top_p_mask(z, 1.5), "`p` must be from 0 to 1"),
        (lambda z: js.min_p_mask(z, -0.1), "`min_p` must be from 0 to 1"),
        (lambda z: js.top_n_sigma_mask(z, -1.0), "`n` must be at least 0"),
        (lambda z: js.eta_mask(z, 2.0), "`epsilon` must be from 0 to 1"),
        (lambda z: js.top_p_mask(z, jnp.full((5, 1), 0.5)), "one number a row"),
        (lambda z: js.sample_token(jax.random.key(0), z, p=2.0), "sample_token: `p` must be from"),
        (lambda z: js.sample_token(jax.random.key(0), z, temperature=-1.0), "at least 0"),
        (lambda z: js.penalized_logits(z, z, repetition=0.0), "`repetition` must be positive"),
        (lambda z: js.token_counts(jnp.array([1]), 0), "`classes` must be positive"),
        (
            lambda z: js.speculative_sample(jax.random.key(0), jnp.array([1]), z[:2], z[:2]),
            "one more distribution",
        ),
    ],
)
def test_mistakes_are_answered(call, said):
    with pytest.raises(ValueError, match=said):
        call(jnp.zeros((3, 4)))


def chi_square(counts, p):
    """Its survival function is below 1e-6 for a correct sampler once in a million runs."""
    from scipy import stats

    expected = counts.sum() * p
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    statistic = ((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum()
    return stats.chi2.sf(statistic, seen.sum() - 1)


def test_sample_token_draws_from_what_stays():
    z = jnp.log(jnp.array([0.3, 0.25, 0.2, 0.1, 0.1, 0.05]))
    rows = jnp.broadcast_to(z, (40_000, 6))
    drawn = js.sample_token(jax.random.key(3), rows, k=5, p=0.7, temperature=2.0)
    q = np.sqrt(np.exp(np.asarray(z)))
    q = np.where(np.arange(6) < 3, q, 0)  # √0.3 + √0.25 + √0.2 is 0.703 of the first five
    q = q / q.sum()
    counts = np.bincount(drawn.token, minlength=6)
    assert chi_square(counts, q) > 1e-6
    np.testing.assert_allclose(drawn.log_prob, np.log(q[drawn.token]), rtol=1e-12)
    whole = np.asarray(jax.nn.log_softmax(z / 2))
    np.testing.assert_allclose(drawn.whole_log_prob, whole[drawn.token], rtol=1e-12)


def test_sample_token_takes_a_batch_of_different_requests():
    """Greedy, untruncated and truncated rows together equal each alone."""
    z = jnp.asarray(RNG.standard_normal((4, 50)))
    given = {
        "temperature": jnp.array([[0.0], [1.0], [0.7], [1.0]]),
        "k": jnp.array([[50], [50], [5], [50]]),
        "p": jnp.array([[1.0], [1.0], [1.0], [0.3]]),
        "min_p": jnp.array([[0.0], [0.0], [0.1], [0.0]]),
    }
    key = jax.random.key(9)
    drawn = jax.jit(js.sample_token)(key, z, **given)
    assert drawn.token[0] == z[0].argmax()
    np.testing.assert_allclose(drawn.log_prob[0], 0, atol=1e-15)
    plain = js.categorical(key, z)
    assert drawn.token[1] == plain[1]
    np.testing.assert_allclose(drawn.log_prob[1], drawn.whole_log_prob[1])
    where = js.top_k_mask(z[2], 5) & js.min_p_mask(z[2], 0.1, temperature=0.7)
    right = js.log_softmax(z[2], where=where, temperature=0.7)[drawn.token[2]]
    np.testing.assert_allclose(drawn.log_prob[2], right)
    nothing = js.sample_token(key, jnp.full((2, 3), -jnp.inf), p=0.5)
    assert nothing.token.tolist() == [-1, -1]
    assert (nothing.log_prob == -jnp.inf).all()


def test_scores_of_a_token_are_differentiable():
    z, key = jnp.asarray(RNG.standard_normal((3, 6))), jax.random.key(0)

    def scores(z):
        drawn = js.sample_token(key, z, k=4)
        return drawn.log_prob.sum() + drawn.whole_log_prob.sum()

    token = js.sample_token(key, z, k=4).token
    hit, mask = jax.nn.one_hot(token, 6), js.top_k_mask(z, 4)
    right = 2 * hit - js.softmax(z, where=mask) - js.softmax(z)
    np.testing.assert_allclose(jax.grad(scores)(z), right, atol=1e-14)
    np.testing.assert_allclose(jax.jvp(scores, (z,), (z,))[1], (right * z).sum(), rtol=1e-12)


def test_penalties_are_those_written_out():
    z = RNG.standard_normal((20, 7))
    c, prompt = RNG.integers(0, 3, (20, 7)), RNG.integers(0, 2, (20, 7))
    right = np.where((c + prompt > 0), np.where(z > 0, z / 1.3, z * 1.3), z)
    right = right - 0.2 * c - 0.5 * (c > 0)
    found = js.penalized_logits(
        jnp.asarray(z), c, prompt_counts=prompt, repetition=1.3, presence=0.5, frequency=0.2
    )
    np.testing.assert_allclose(found, right, rtol=1e-14)
    np.testing.assert_array_equal(js.penalized_logits(jnp.asarray(z), c), z)
    biased = js.penalized_logits(jnp.asarray(z), c, bias=jnp.array([-jnp.inf] + [0.0] * 6))
    assert (biased[:, 0] == -jnp.inf).all()


def test_counts_of_tokens():
    y = RNG.integers(-1, 6, (5, 30))
    where = RNG.random((5, 30)) < 0.5
    right = [np.bincount(a[(a >= 0) & w], minlength=6) for a, w in zip(y, where, strict=True)]
    np.testing.assert_array_equal(js.token_counts(y, 6, where=where), right)
    parts = jax.vmap(
        lambda _: js.token_counts(y, 6, where=where, axis_name="i"), axis_name="i", out_axes=1
    )(jnp.arange(3))
    np.testing.assert_array_equal(parts.reshape(5, 6), right)


def test_speculative_tokens_are_distributed_as_the_target():
    """χ² over the joint law of three tokens: drafts depend on the token before, so do targets."""
    classes, n, rows = 3, 2, 60_000
    q = jnp.asarray(RNG.dirichlet(np.ones(classes), classes + 1))
    p = (
        jnp.asarray(RNG.dirichlet(np.ones(classes), classes + 1))
        .at[0]
        .set(jnp.array([0.0, 0.4, 0.6]))
    )
    keys = jax.random.split(jax.random.key(5), 5)
    first = js.sample_from(keys[0], q[0], shape=(rows,))
    second = js.sample_from(keys[1], q[1 + first])
    y = jnp.stack([first, second], -1)
    draft = jnp.stack([jnp.broadcast_to(q[0], (rows, classes)), q[1 + first]], 1)
    target = jnp.stack([jnp.broadcast_to(p[0], (rows, classes)), p[1 + first], p[1 + second]], 1)
    found = js.speculative_sample(keys[2], y, draft, target)
    assert 0 < found.accepted.mean() < n
    # Later tokens are drawn from the target, as a decoder would continue.
    tokens = np.array(found.tokens)
    for place in (1, 2):
        more = np.array(
            js.sample_from(keys[2 + place], p[1 + jnp.maximum(tokens[:, place - 1], 0)])
        )
        tokens[:, place] = np.where(tokens[:, place] < 0, more, tokens[:, place])
    joint = np.asarray(p)
    law = np.array([
        joint[0, a] * joint[1 + a, b] * joint[1 + b, c]
        for a, b, c in itertools.product(range(classes), repeat=3)
    ])  # fmt: skip
    counts = np.bincount(tokens @ np.array([9, 3, 1]), minlength=27)
    assert chi_square(counts, law) > 1e-6


def test_drafts_end_where_the_mask_says():
    p = jnp.full((2, 4, 3), 1 / 3)
    y = jnp.array([[0, 1, 2], [0, 1, 2]])
    where = jnp.array([[True, False, True], [False, False, False]])
    found = js.speculative_sample(jax.random.key(0), y, p[:, :3], p, where=where)
    assert found.accepted.tolist() == [1, 0]
    assert (found.tokens[:, 2:] == -1).all()
    assert (found.tokens[0, :2] >= 0).all()
