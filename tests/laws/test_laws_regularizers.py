"""Every law for every regularizer: those of the package, and one of a user.

A regularizer that is added to REGULARIZERS is tested in every place by that one line.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax as js
from tests.a_regularizer_of_a_stranger import Blend
from tests.marks import some

near = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
rng = np.random.default_rng(5)
Z = rng.standard_normal((12, 6)) * np.array([0.3, 1, 3])[np.arange(12) % 3][:, None]
Y = rng.dirichlet(np.full(6, 0.5), 12)
Y[::4] = np.eye(6)[np.arange(3)]
Q = rng.uniform(0.5, 2, (12, 6))
Q[1, 2] = Q[5, 0] = 0  # excluded by the prior
MASK = rng.random((12, 6)) < 0.8
MASK[3] = False


@dataclasses.dataclass(frozen=True)
class Case:
    """A regularizer, and the same functions written down a second time in numpy."""

    name: str
    regularizer: js.Regularizer
    marginal: Callable
    value: Callable
    bounded: bool = False  # no p exceeds its prior


def _xlogx(p):
    return np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)


def _log(p):
    return np.log(np.maximum(p, 1e-320))


def _tsallis(a):
    return lambda p: (p**a - 1) / a, lambda p: (p ** (1 + a) - p) / (a * (1 + a))


def _elastic(s):
    return lambda p: _log(p) + s * p, lambda p: _xlogx(p) + s * p * (p - 1) / 2


def _blend(k):
    return lambda p: k * p + 2 * p**0.5, lambda p: k * p * (p - 1) / 2 + 4 / 3 * (p**1.5 - p)


def _laplace_value(p):
    m = np.minimum(p, 1 - p)
    return _xlogx(2 * m) / 2 - m


REGULARIZERS = [
    Case("Blend", Blend(1.5), *_blend(1.5)),
    Case("Blend traced", Blend(jnp.asarray(0.7)), *_blend(0.7)),
    Case("Tsallis 1.5", js.Tsallis(1.5), *_tsallis(0.5)),
    Case("Tsallis traced", js.Tsallis(jnp.asarray(1.3)), *_tsallis(0.3)),
    Case("Elastic", js.Elastic(2.0), *_elastic(2.0)),
    Case(
        "FermiDirac",
        js.FermiDirac(),
        lambda p: _log(p) - _log(1 - np.minimum(p, 1)),
        lambda p: _xlogx(p) + _xlogx(1 - p),
        bounded=True,
    ),
    Case(
        "JensenShannon",
        js.JensenShannon(),
        lambda p: (_log(p) - np.log1p(p)) / 2,
        lambda p: (_xlogx(p) - _xlogx(1 + p)) / 2 + p * np.log(2),
    ),
    Case(
        "Laplace",
        js.Laplace(),
        lambda p: np.where(p <= 0.5, _log(2 * p), -_log(2 * (1 - np.minimum(p, 1)))),
        _laplace_value,
        bounded=True,
    ),
]
# Tests that compile long run for the stranger's alone without the slow tests, and for all of them
# by night.
SLOW = {"Blend": [], "FermiDirac": [pytest.mark.slow], "Tsallis traced": [pytest.mark.slow]}
EACH = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.name,
            marks=SLOW.get(case.name, [pytest.mark.slow, pytest.mark.nightly]),
        )
        for case in REGULARIZERS
    ],
)


def oracle(case, z, q=None):
    """p by two bisections: of ω′ for the link, of Σ p for the threshold; float64."""
    q = np.where(np.isfinite(z), 1.0 if q is None else q, 0)
    z = np.where(np.isfinite(z), z, 0)

    def link(t):
        low, high = np.full_like(t, -740.0), np.full_like(t, np.log(1e3))
        for _ in range(80):
            middle = (low + high) / 2
            with np.errstate(all="ignore"):
                above = case.marginal(np.exp(middle)) > t
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return np.where(low <= -739, 0, np.exp(low))

    low, high = z.min(-1, keepdims=True) - 60, z.max(-1, keepdims=True) + 60
    for _ in range(80):
        tau = (low + high) / 2
        above = (q * link(z - tau)).sum(-1, keepdims=True) > 1
        low, high = np.where(above, tau, low), np.where(above, high, tau)
    return q * link(z - high)


@functools.cache
def facts(name):
    """All that the laws ask of one regularizer, in one program."""
    case = next(case for case in REGULARIZERS if case.name == name)
    r = case.regularizer

    def ask(z, y, q, regularizer):
        p = functools.partial(js.regularized_argmax, regularizer=regularizer)
        top = functools.partial(js.smoothmax, regularizer=regularizer)
        loss = functools.partial(js.fenchel_young_loss, regularizer=regularizer)

        def by_row(function):
            return jax.vmap(function)

        return dict(
            p=p(z),
            shifted=p(z + 3.0),
            reversed=p(z[:, ::-1])[:, ::-1],
            masked=p(z, where=MASK),
            with_prior=p(z, prior=q),
            with_ones=p(z, prior=jnp.ones_like(z)),
            cold=p(z, temperature=0.0),
            hot=p(z, temperature=jnp.inf),
            at_two=p(z, temperature=2.0),
            halved=p(z / 2),
            forward=by_row(jax.jacfwd(p))(z),
            reverse=by_row(jax.jacrev(p))(z),
            top=top(z),
            top_slope=by_row(jax.grad(top))(z),
            top_of_prior=top(z, prior=q),
            entropy=js.entropy(p(z), regularizer=regularizer),
            loss=loss(z, y),
            loss_slope=by_row(jax.grad(loss))(z, y),
            loss_hessian=by_row(jax.hessian(loss))(z, y),
            loss_with_prior=loss(z, jnp.where(q > 0, y, 0), prior=q),
            masked_loss=loss(z, y, where=MASK),
            at_p=loss(z, p(z)),
        )

    return {k: np.asarray(x) for k, x in jax.jit(ask)(Z, Y, Q, r).items()}


@EACH
def test_probabilities_are_those_of_two_bisections(case):
    near(facts(case.name)["p"], oracle(case, Z))
    near(facts(case.name)["masked"][:3], oracle(case, np.where(MASK, Z, -np.inf)[:3]))
    assert (facts(case.name)["masked"][~MASK] == 0).all()
    assert (facts(case.name)["masked"][3] == 0).all()


@EACH
def test_only_the_order_and_the_differences_of_scores_matter(case):
    of = facts(case.name)
    near(of["shifted"], of["p"])
    near(of["reversed"], of["p"])
    for z, p in zip(Z, of["p"], strict=True):
        assert (np.diff(p[np.argsort(z)]) >= -1e-12).all()
    near(of["at_two"], of["halved"])
    near(of["cold"], np.eye(6)[Z.argmax(-1)])
    near(of["hot"], np.full_like(Z, 1 / 6))


@EACH
def test_the_prior_scales_the_link(case):
    of = facts(case.name)
    near(of["with_prior"], oracle(case, np.where(Q > 0, Z, -np.inf), Q))
    assert (of["with_prior"][Q == 0] == 0).all()
    near(of["with_ones"], of["p"], rtol=1e-14, atol=1e-15)  # traced; a known one is no prior at all
    p, q = of["with_prior"], np.where(Q > 0, Q, 1)
    conjugate = (p * Z).sum(-1) - (Q * case.value(p / q)).sum(-1)
    near(of["top_of_prior"], conjugate)


@EACH
def test_jacobians_are_laplacians_and_those_of_the_smooth_maximum(case):
    of = facts(case.name)
    near(of["forward"], of["reverse"])
    near(of["forward"], np.swapaxes(of["forward"], -1, -2))
    near(of["forward"].sum(-1), 0)
    assert (np.linalg.eigvalsh(of["forward"]) > -1e-10).all()
    near(of["top_slope"], of["p"])
    near(of["entropy"], -case.value(of["p"]).sum(-1))
    near(of["top"], (of["p"] * Z).sum(-1) + of["entropy"])
    step = 1e-5
    moved = [oracle(case, Z + sign * step * np.eye(6)[0]) for sign in (1, -1)]
    right = (moved[0] - moved[1]) / (2 * step)
    # Where a class enters the support between the two, the difference is of two formulas.
    steady = ((moved[0] > 0) == (moved[1] > 0)).all(-1)
    near(of["forward"][steady, :, 0], right[steady], rtol=1e-5, atol=1e-6)


@EACH
def test_losses_are_never_negative_zero_at_p_and_have_the_gradient_p_minus_y(case):
    of = facts(case.name)
    near(of["loss_slope"], of["p"] - Y)
    near(of["loss_hessian"], of["forward"])
    textbook = of["top"] + case.value(Y).sum(-1) - (Y * Z).sum(-1)
    near(of["loss"], textbook)
    assert (of["loss"] >= 0).all()
    near(of["at_p"], 0, atol=1e-13)
    lost = ((Y > 0) & ~MASK).any(-1) & MASK.any(-1)
    assert (np.isinf(of["masked_loss"]) == lost).all()
    assert (of["masked_loss"][~MASK.any(-1)] == 0).all()


@EACH
def test_a_label_is_the_distribution_with_all_its_mass_there(case):
    """For a label the classes with y = 0 are summed by a shorter formula."""
    labels = np.arange(12) % 6
    for options in {}, {"prior": Q}, {"prior": Q[:1]}, {"where": MASK}:

        @functools.partial(jax.jit, static_argnums=0)
        def losses(rank, y, options=options):
            loss = functools.partial(
                js.fenchel_young_loss, targets=y, regularizer=case.regularizer, **options
            )
            return loss(Z) if rank == 0 else jax.grad(lambda z: loss(z).sum())(Z)

        for rank in 0, 1:
            near(losses(rank, labels), losses(rank, np.eye(6)[labels]), rtol=1e-12)


@EACH
def test_the_divergence_of_zero_is_that_where_y_is_zero(case):
    p = np.array([0, 1e-300, 1e-9, 0.1, 0.5, 0.8, 1 - 1e-9])[None]
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    direct = case.regularizer.divergence(jnp.zeros_like(p), jnp.asarray(p), jnp.asarray(log_p))
    short = case.regularizer.divergence_of_zero(jnp.asarray(p), jnp.asarray(log_p))
    near(short, direct, rtol=1e-12)


@EACH
def test_parameters_and_priors_have_their_derivatives(case):
    """Of the map, the smooth maximum and the loss: against central differences."""
    numbers = jax.tree.leaves(case.regularizer)
    structure = jax.tree.structure(case.regularizer)
    w = rng.standard_normal(Z.shape)
    # No probability and no target exceeds the prior of a bounded regularizer.
    q = np.where(Q > 0, Q, 1) + 0.6 * case.bounded

    def total(numbers, q):
        r = jax.tree.unflatten(structure, numbers)
        p = js.regularized_argmax(Z, r, prior=q)
        top = js.smoothmax(Z, regularizer=r, prior=q, temperature=0.7)
        loss = js.fenchel_young_loss(Z, Y, r, prior=q)
        return (w * p).sum() + top.sum() + (loss * w[:, 0]).sum()

    value = jax.jit(total)
    d_numbers, d_q = jax.jit(jax.grad(total, (0, 1)))(numbers, q)
    step = 1e-6
    for i in range(len(numbers)):
        ahead, behind = ([x + s * (i == j) for j, x in enumerate(numbers)] for s in (step, -step))
        near(d_numbers[i], (value(ahead, q) - value(behind, q)) / (2 * step), rtol=1e-5, atol=1e-5)
    along = rng.standard_normal(q.shape)
    right = (value(numbers, q + step * along) - value(numbers, q - step * along)) / (2 * step)
    near((np.asarray(d_q) * along).sum(), right, rtol=1e-5, atol=1e-5)


@EACH
def test_narrow_floats_are_computed_in_float32_and_limits_hold(case):
    p = functools.partial(js.regularized_argmax, regularizer=case.regularizer)
    wide = oracle(case, np.float32(Z).astype(np.float64))
    near(p(np.float32(Z)), wide, rtol=1e-6, atol=1e-6)
    narrow = jnp.asarray(Z, jnp.bfloat16)
    near(p(narrow).astype(float), p(narrow.astype(jnp.float32)), rtol=2**-8, atol=1e-30)
    nan, inf = np.nan, np.inf
    rows = np.array([[nan, 0, 1], [inf, 0, inf], [-inf, 0, 0], [-inf, -inf, -inf], [0, 2, 1.0]])
    got = np.asarray(p(rows))
    assert np.isnan(got[0]).all()
    near(got[1:4], [[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 0]])
    near(got[4], oracle(case, rows[4:])[0])
    near(p(np.array([[3.0]])), [[1.0]])


def _attention(query, key, value, bias, numbers, structure, **options):
    regularizer = jax.tree.unflatten(structure, numbers)
    return js.dot_product_attention(
        query, key, value, bias, regularizer=regularizer, is_causal=True, **options
    )


def _by_hand(query, key, value, bias, numbers, structure):
    """The same from the array of scores."""
    regularizer = jax.tree.unflatten(structure, numbers)
    z = jnp.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(query.shape[-1]) + bias
    seen = np.tril(np.ones(z.shape[-2:], bool))
    p = js.regularized_argmax(z, regularizer, where=seen)
    return jnp.einsum("bnts,bsnh->btnh", p, value)


@EACH
@pytest.mark.parametrize("blocks", [{}, {"block_q": 4, "block_k": 3}], ids=["whole", "streamed"])
def test_attention_is_that_of_its_weights_with_all_gradients(case, blocks):
    q, k, v = (rng.standard_normal((2, 10, 2, 4)) for _ in range(3))
    bias, w = rng.standard_normal((1, 2, 10, 10)), rng.standard_normal((2, 10, 2, 4))
    numbers, structure = jax.tree.flatten(case.regularizer)

    def with_slopes(function, **options):
        def total(*arrays):
            out = function(*arrays, structure, **options)
            return (w * out).sum(), out

        grad = jax.grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True)
        return jax.jit(grad)(q, k, v, bias, numbers)

    slopes, out = with_slopes(_attention, **blocks)
    right_slopes, right = with_slopes(_by_hand)
    near(out, right)
    for slope, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(right_slopes), strict=True):
        near(slope, other, rtol=1e-9, atol=1e-9)


@EACH
def test_linear_losses_are_those_of_the_logits_with_all_gradients(case):
    """Streamed in blocks, with a prior, in features, table, prior and parameters."""
    h, kernel = rng.standard_normal((5, 3)), rng.standard_normal((3, 6))
    labels, w = np.array([0, 5, 2, 2, 1]), rng.standard_normal(5)
    q = rng.uniform(0.5, 2, 6)
    numbers, structure = jax.tree.flatten(case.regularizer)

    def streamed(h, kernel, q, r):
        options = dict(prior=q, label_smoothing=0.1, block_tokens=2, block_classes=4)
        return js.linear_fenchel_young_loss(h, kernel, labels, r, **options)

    def whole(h, kernel, q, r):
        return js.fenchel_young_loss(h @ kernel, labels, r, prior=q, label_smoothing=0.1)

    def with_slopes(losses):
        def total(h, kernel, q, numbers):
            out = losses(h, kernel, q, jax.tree.unflatten(structure, numbers))
            return (w * out).sum(), out

        return jax.jit(jax.grad(total, (0, 1, 2, 3), has_aux=True))(h, kernel, q, numbers)

    for ours, right in zip(*map(jax.tree.leaves, map(with_slopes, (streamed, whole))), strict=True):
        near(ours, right)


@EACH
@pytest.mark.parametrize(
    "axes", some([AxisType.Auto, AxisType.Explicit], [AxisType.Explicit]), ids=["auto", "explicit"]
)
def test_split_classes_change_nothing(case, axes):
    """Rows over `data`, classes over `model`, on 2 × 2 devices, in shard_map."""
    mesh = jax.make_mesh(
        (2, 2), ("data", "model"), axis_types=(axes,) * 2, devices=jax.devices()[:4]
    )

    def parts(z, y, q):
        options = dict(prior=q, axis_name="model")
        loss = js.fenchel_young_loss(z, y, case.regularizer, **options)
        return js.regularized_argmax(z, case.regularizer, **options), loss

    split = jax.shard_map(
        parts, mesh=mesh, in_specs=(P("data", "model"),) * 3,
        out_specs=(P("data", "model"), P("data")),
    )  # fmt: skip
    q = np.where(Q > 0, Q, 1)
    places = NamedSharding(mesh, P("data", "model"))
    here = [jax.device_put(x, places) for x in (Z, Y, q)]

    def total(z, y, q):
        p, loss = split(z, y, q)
        return (p * y).sum() + loss.sum()

    p, loss = jax.jit(split)(*here)
    near(p, oracle(case, Z, q))
    near(loss, js.fenchel_young_loss(Z, Y, case.regularizer, prior=q))
    whole = jax.grad(
        lambda z: (
            (js.regularized_argmax(z, case.regularizer, prior=q) * Y).sum()
            + js.fenchel_young_loss(z, Y, case.regularizer, prior=q).sum()
        )
    )
    near(jax.jit(jax.grad(total))(*here), jax.jit(whole)(Z))


@pytest.mark.parametrize(
    "regularizer", [js.FermiDirac(), js.Laplace()], ids=["FermiDirac", "Laplace"]
)
def test_a_target_above_the_prior_of_a_bounded_link_is_never_reached(regularizer):
    z, y = np.array([1.0, 0, 0]), np.array([1.0, 0, 0])
    loss = functools.partial(js.fenchel_young_loss, z, y, regularizer)
    slope = jax.grad(lambda z, q: js.fenchel_young_loss(z, y, regularizer, prior=q), (0, 1))
    short, enough = np.array([0.6, 1, 1]), np.ones(3)
    assert loss(prior=short) == np.inf and np.isfinite(loss(prior=enough))
    assert all(np.isfinite(d).all() for d in slope(z, short))
