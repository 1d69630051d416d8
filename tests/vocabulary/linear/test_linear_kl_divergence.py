"""Divergences between two models' hidden states, against whole rows in float64 numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jsoftmax as js

TOKENS, CLASSES = (3, 2), 11
DIRECTIONS = ("forward", "reverse", "jeffreys", "jensen_shannon")
BLOCKS = {"whole": {}, "ragged": {"block_tokens": 4, "block_classes": 3}}
EPS = float(np.finfo(np.float32).eps)

rng = np.random.default_rng(0)
HP, WP = rng.standard_normal((*TOKENS, 4)), rng.standard_normal((4, CLASSES))
HQ, WQ = rng.standard_normal((*TOKENS, 3)), rng.standard_normal((3, CLASSES))
BP, BQ = rng.standard_normal((2, CLASSES))


def options(direction):
    return {"direction": direction, "weight": 0.3 if direction == "jensen_shannon" else None}


def entmax(z, alpha):
    """Rows of α-entmax in float64, τ by bisection."""
    z = z - z.max(-1, keepdims=True)
    if alpha == 1:
        p = np.exp(z)
        return p / p.sum(-1, keepdims=True)
    a = alpha - 1
    low, high = np.full_like(z[..., :1], -1 / a), np.full_like(z[..., :1], 0.0)
    for _ in range(200):
        tau = (low + high) / 2
        total = (np.maximum(a * (z - tau), 0) ** (1 / a)).sum(-1, keepdims=True)
        low, high = np.where(total > 1, tau, low), np.where(total > 1, high, tau)
    return np.maximum(a * (z - low), 0) ** (1 / a)


def omega(p, alpha):
    if alpha == 1:
        return np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)
    return ((p**alpha).sum(-1) - 1) / (alpha * (alpha - 1))


def whole(zp, zq, direction, alpha=1.0, weight=0.3):
    """The textbook forms: Ω*(z_q) + Ω(p) − ⟨p, z_q⟩, and w Ω(p) + (1−w) Ω(q) − Ω(m)."""
    p, q = entmax(zp, alpha), entmax(zq, alpha)

    def loss(y, z, x):
        z = np.where(np.isfinite(z), z, 0)
        return (x * z).sum(-1) - omega(x, alpha) + omega(y, alpha) - (y * z).sum(-1)

    if direction == "jensen_shannon":
        m = weight * p + (1 - weight) * q
        return weight * omega(p, alpha) + (1 - weight) * omega(q, alpha) - omega(m, alpha)
    forward, reverse = loss(p, zq, q), loss(q, zp, p)
    return {"forward": forward, "reverse": reverse, "jeffreys": forward + reverse}[direction]


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("alpha", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_it_is_that_of_whole_rows(direction, alpha, blocks):
    where = rng.random((*TOKENS, CLASSES)) < 0.8
    where[..., 0] = True
    t = rng.uniform(0.5, 2, (*TOKENS, 1))
    zp = 2 * np.tanh((HP @ WP + BP) / 2) / t
    zq = 5 * np.tanh((HQ @ WQ + BQ) / 5) / 1.3
    zp, zq = (np.where(where, z, -np.inf) for z in (zp, zq))
    found = js.linear_kl_divergence(
        HP, WP.T, HQ, WQ, **options(direction), regularizer=js.Tsallis(alpha), bias_p=BP, bias_q=BQ,
        where=where, temperature=jnp.asarray(t), temperature_q=1.3, logits_soft_cap_p=2.0,
        logits_soft_cap_q=5.0, class_axis_p=0, **BLOCKS[blocks],
    )  # fmt: skip
    expected = whole(zp, zq, direction, alpha)
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("alpha", [1.0, 1.5])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_it_is_differentiable_in_both_models_modes_and_twice(direction, alpha, blocks):
    def divergence(hp, wp, hq, wq, bp, bq, t):
        return js.linear_kl_divergence(
            hp, wp, hq, wq, bias_p=bp, bias_q=bq, temperature=t, **options(direction),
            regularizer=js.Tsallis(alpha), **BLOCKS[blocks],
        )  # fmt: skip

    arguments = (HP, WP, HQ, WQ, BP, BQ, np.float64(1.4))
    check_grads(
        divergence, arguments, order=2, modes=("fwd", "rev"), rtol=1e-4, atol=1e-4, eps=1e-5
    )


REGULARIZERS = {
    "elastic": js.Elastic(2.0), "Fermi–Dirac": js.FermiDirac(), "Laplace": js.Laplace(),
    "an α a token": js.Tsallis(jnp.linspace(1.1, 2.5, 6).reshape(3, 2, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", REGULARIZERS)
def test_every_regularizer_has_its_fenchel_young_loss(name):
    """Equal to `fenchel_young_loss` with p as the target, and its derivative in p."""
    regularizer = REGULARIZERS[name]

    def ours(hp, wp, hq, wq):
        return js.linear_kl_divergence(hp, wp, hq, wq, regularizer=regularizer)

    def dense(hp, wp, hq, wq):
        p = js.regularized_argmax(hp @ wp, regularizer)
        return js.fenchel_young_loss(hq @ wq, p, regularizer)

    arguments = tuple(map(jnp.asarray, (HP, WP, HQ, WQ)))
    chex.assert_trees_all_close(ours(*arguments), dense(*arguments), rtol=1e-9, atol=1e-12)
    slopes = [
        jax.grad(lambda *x, f=f: jnp.sum(jnp.sin(f(*x))), (0, 1, 2, 3))(*arguments)
        for f in (ours, dense)
    ]
    chex.assert_trees_all_close(*slopes, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_of_equal_models_it_is_exactly_zero_and_so_is_its_gradient(direction, alpha):
    h, w = (np.float32(x) for x in (5 * rng.standard_normal((64, 6)), rng.standard_normal((6, 40))))

    def divergence(h_q):
        return js.linear_kl_divergence(
            h, w, h_q, w, **options(direction), regularizer=js.Tsallis(alpha)
        )

    assert (divergence(h) == 0).all()
    slope = jax.grad(lambda h_q: divergence(h_q).sum())(h)
    chex.assert_trees_all_close(slope, np.zeros_like(h), atol=200 * EPS)


def scores_of_two(spread, apart, seed):
    """Scores that are exact in float32, a third of them with one class far ahead in both."""
    rng = np.random.default_rng(seed)
    zp = (spread * rng.standard_normal((10_000, 12))).astype(np.float32)
    zp[::3, 0] = zp[::3].max(-1) + np.float32(spread)
    zq = zp + (apart * rng.standard_normal(zp.shape)).astype(np.float32)
    return zp, zq


@pytest.mark.parametrize("spread, apart", [(1.0, 1.0), (8.0, 0.01), (8.0, 8.0), (1.0, 1e-3)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_ten_thousand_rows_are_those_of_float64(direction, spread, apart):
    """A logarithm is off by ε |log p|, and KL = Σ p ψ(u) by |p eᵘ − p| = |q − p| times that."""
    zp, zq = scores_of_two(spread, apart, 0)
    eye = jnp.eye(12, dtype=jnp.float32)
    found, slopes = jax.vjp(
        lambda zp, zq: js.linear_kl_divergence(zp, eye, zq, eye, **options(direction)), zp, zq
    )
    slopes = [np.longdouble(np.asarray(x)) for x in slopes(jnp.ones_like(found))]
    found = np.longdouble(np.asarray(found))
    long = [np.longdouble(z) for z in (zp, zq)]
    log_p, log_q = (z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
                    - z.max(-1, keepdims=True) for z in long)  # fmt: skip
    p, q = np.exp(log_p), np.exp(log_q)
    scale = 1 + np.maximum(-log_p.min(-1), -log_q.min(-1))[:, None]

    def of(log_y, log_x):  # with − y + x, or the rounding of the largest class would be all
        terms = np.exp(log_y) * (log_y - log_x) - np.exp(log_y) + np.exp(log_x)
        return terms.sum(-1, keepdims=True)

    if direction == "jensen_shannon":
        w = np.longdouble(0.3)
        m = w * p + (1 - w) * q
        right = w * of(log_p, np.log(m)) + (1 - w) * of(log_q, np.log(m))
        d_p, d_q = w * p * (log_p - np.log(m)), (1 - w) * q * (log_q - np.log(m))
        d_p, d_q = d_p - p * d_p.sum(-1, keepdims=True), d_q - q * d_q.sum(-1, keepdims=True)
    else:
        ahead, behind = direction != "reverse", direction != "forward"
        right = ahead * of(log_p, log_q) + behind * of(log_q, log_p)
        d_p = ahead * p * (log_p - log_q - of(log_p, log_q)) + behind * (p - q)
        d_q = behind * q * (log_q - log_p - of(log_q, log_p)) + ahead * (q - p)
    off = EPS * scale * np.abs(p - q).sum(-1, keepdims=True) + EPS * right
    assert (found >= 0).all()
    assert (np.abs(found[:, None] - right) <= 8 * off + 1e-38).all()
    for slope, right_slope in zip(slopes, (d_p, d_q), strict=True):
        off = EPS * scale * np.maximum(p, q) * (1 + right + np.abs(log_p - log_q))
        assert (np.abs(slope - right_slope) <= 16 * off + 1e-37).all()


def test_the_slope_of_a_confident_student_keeps_its_digits():
    """q − p of a class near 1 in both is the difference of the remaining masses."""
    zp, zq = np.array([[0, 20.0, 1]], np.float32), np.array([[0, 21.0, 1]], np.float32)
    eye = jnp.eye(3, dtype=jnp.float32)
    slope = jax.grad(lambda z: js.linear_kl_divergence(zp, eye, z, eye)[0])(zq)
    p, q = (entmax(np.float64(z), 1) for z in (zp, zq))
    right = p[0, [0, 2]].sum() - q[0, [0, 2]].sum()
    chex.assert_trees_all_close(slope[0, 1], np.float32(right), rtol=1e-5)


def test_a_stopped_teacher_has_no_backward_pass():
    def both(hp, wp, hq, wq):
        return js.linear_kl_divergence(hp, wp, hq, wq, block_tokens=4, block_classes=3).sum()

    def student(hp, wp, hq, wq):
        return both(*map(jax.lax.stop_gradient, (hp, wp)), hq, wq)

    arguments = HP, WP, HQ, WQ
    products = [
        str(jax.jit(jax.grad(f, (2, 3))).lower(*arguments).as_text()).count("dot_general")
        for f in (student, both)
    ]
    assert products[0] == products[1]  # no gradient is asked for: none is formed
    everything = jax.jit(jax.grad(both, (0, 1, 2, 3))).lower(*arguments).as_text()
    assert products[0] < str(everything).count("dot_general")


SPECS = {
    "over model": (P("data"), P(None, "model")),
    "over data and model": (P("data"), P("data", "model")),
    "over data": (P("data"), P("data", None)),
    "over both": (P(), P(None, ("data", "model"))),
}


@pytest.mark.parametrize("place", SPECS)
@pytest.mark.parametrize("kind", ["Explicit", "Auto"])
@pytest.mark.parametrize("direction", ["jeffreys", "jensen_shannon"])
def test_on_data_and_model_it_is_that_of_one_device(direction, kind, place):
    local = np.random.default_rng(1)
    h, w = local.standard_normal((2, 4, 4, 8)), local.standard_normal((2, 8, 16))
    arguments = [jnp.asarray(x) for x in (h[0], w[0], h[1], w[1])]
    rows, table = SPECS[place]
    axes = {"Explicit": AxisType.Explicit, "Auto": AxisType.Auto}[kind]
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(axes,) * 2)

    def total(axis_name, *x):
        return jnp.sum(jnp.sin(js.linear_kl_divergence(
            *x, **options(direction), axis_name=axis_name, block_tokens=3, block_classes=3
        )))  # fmt: skip

    expected = jax.value_and_grad(total, (1, 2, 3, 4))(None, *arguments)
    split = [
        jax.device_put(x, NamedSharding(mesh, spec))
        for x, spec in zip(arguments, (rows, table) * 2, strict=True)
    ]
    name = "model" if kind == "Auto" and "model" in table else None
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(total, (1, 2, 3, 4)), static_argnums=0)(name, *split)
    chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_teacher_on_one_device_goes_with_a_student_that_is_split():
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    local = np.random.default_rng(1)
    h, w = local.standard_normal((4, 3)), local.standard_normal((3, 16))
    expected = js.linear_kl_divergence(h, w, 2 * h, w)
    with jax.set_mesh(mesh):
        put = [jax.device_put(x, NamedSharding(mesh, s))
               for x, s in ((2 * h, P("data")), (w, P(None, "model")))]  # fmt: skip
        found = js.linear_kl_divergence(h, w, *put)
    chex.assert_trees_all_close(found, expected, rtol=1e-12)
    assert found.sharding.spec[0] == "data"


def test_tokens_left_out_have_0_and_no_gradient_also_with_nan():
    where = np.array([True, False, True])[:, None]
    h = HP.reshape(6, 4)[:3].copy()
    h[1] = np.nan

    def divergence(h):
        return js.linear_kl_divergence(h, WP, HQ.reshape(6, 3)[:3], WQ, where=where)

    assert divergence(h)[1] == 0 and (divergence(h)[::2] > 0).all()
    slope = jax.grad(lambda h: divergence(h).sum())(h)
    assert not slope[1].any() and np.isfinite(slope).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_mass_on_an_impossible_class_is_infinite_with_a_finite_gradient(direction):
    bias = np.zeros(CLASSES)
    bias[2] = -np.inf

    def divergence(h):
        return js.linear_kl_divergence(h, WP, h, WP, bias_q=bias, **options(direction))[0, 0]

    found, slope = jax.value_and_grad(divergence)(jnp.asarray(HP))
    assert np.isinf(found) == (direction in ("forward", "jeffreys"))
    chex.assert_tree_all_finite(slope)


def test_a_wrong_temperature_spoils_its_token_alone():
    t = jnp.asarray([[[1.0], [0.0]], [[-1.0], [2.0]], [[jnp.nan], [1.0]]])

    def divergence(h):
        return js.linear_kl_divergence(HP, WP, h, WQ, temperature=t)

    assert np.isnan(divergence(HQ)).tolist() == [[False, True], [True, False], [True, False]]
    slope = jax.grad(lambda h: jnp.nansum(divergence(h)))(HQ)
    assert np.isfinite(slope).all() and slope[0, 0].any()


def test_a_traced_infinite_order_is_nan():
    alpha = jnp.asarray([1.5, jnp.inf])[None, :, None]
    found = js.linear_kl_divergence(HP, WP, HQ, WQ, regularizer=js.Tsallis(alpha))
    assert np.isnan(found[:, 1]).all() and np.isfinite(found[:, 0]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes_are_summed_in_float32(dtype):
    hp, wp, hq, wq = (jnp.asarray(x, dtype) for x in (HP, WP, HQ, WQ))
    found = js.linear_kl_divergence(hp, wp, hq, wq)
    zp, zq = (np.float64(h) @ np.float64(w) for h, w in ((hp, wp), (hq, wq)))
    assert found.dtype == jnp.float32
    chex.assert_trees_all_close(found, np.float32(whole(zp, zq, "forward")), rtol=2e-5)
    slopes = jax.grad(lambda *x: js.linear_kl_divergence(*x).sum(), (0, 1, 2, 3))(hp, wp, hq, wq)
    assert {x.dtype for x in slopes} == {jnp.dtype(dtype)}


def test_models_of_two_dtypes_meet_in_the_wider_one():
    found = js.linear_kl_divergence(
        jnp.asarray(HP, jnp.float32), jnp.asarray(WP, jnp.float32), HQ, WQ
    )
    assert found.dtype == jnp.float64


def test_no_tokens_have_no_divergence():
    h = jnp.zeros((0, 3))
    assert js.linear_kl_divergence(h, WQ, h, WQ).shape == (0,)


MISTAKES = {
    "direction.*'backward'": {"direction": "backward"},
    "`weight` belongs to": {"weight": 0.5},
    "`weight` must be between": {"weight": 1.0, "direction": "jensen_shannon"},
    "finite order": {"regularizer": js.Tsallis(np.inf)},
    "`temperature` must be positive": {"temperature": 0.0},
    "the same tokens and the same classes": {"kernel_q": WQ[:, 1:]},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_named(message):
    given = {"features_p": HP, "kernel_p": WP, "features_q": HQ, "kernel_q": WQ}
    with pytest.raises(ValueError, match="linear_kl_divergence: .*" + message):
        js.linear_kl_divergence(**(given | MISTAKES[message]))
