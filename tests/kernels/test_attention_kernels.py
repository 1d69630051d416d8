"""Attention by kernels: many rows and tiles, skipped tiles, decoding, and mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

import jsoftmax as js
from jsoftmax.attention import _attention_arguments as attention_arguments
from jsoftmax.attention import _kernel_passes
from jsoftmax.kernels import attention as kernels
from jsoftmax.kernels.attention import Sizes
from tests import a_regularizer_of_a_stranger

pytestmark = pytest.mark.kernels
SETTINGS = {
    "α = 1": {"alpha": 1.0},
    "α = 1.25, causal": {"alpha": 1.25, "is_causal": True},
    "α = 1.5": {"alpha": 1.5},
    "α = 1.5, a window": {"alpha": 1.5, "local_window_size": (100, 20)},
    "α = 2, lengths": {"alpha": 2.0, "key_value_seq_lengths": np.array([300, 90, 299, 1])},
    "α = 3": {"alpha": 3.0},
    "α by head": {"alpha": np.array([0.7, 1.0, 1.4, 1.5, 1.7, 2.0, 2.2, 2.5])},
    "FermiDirac": {"regularizer": js.FermiDirac()},
    "Elastic": {"regularizer": js.Elastic(2.0)},
    "JensenShannon": {"regularizer": js.JensenShannon()},
    "Laplace": {"regularizer": js.Laplace()},
}
FEW = ("α = 1", "α = 1.5")
PLACES = {  # where a row of scores is: kept, formed again, and keys copied tile by tile
    "kept": (True, False),
    "formed again": (False, False),
    "copied": (False, True),
}


def arrays(batch=4, queries=320, keys=300, heads=8, key_heads=4, width=16, seed=0):
    rng = np.random.default_rng(seed)
    q = 2 * rng.normal(size=(batch, queries, heads, width))
    k, v = (rng.normal(size=(batch, keys, key_heads, n)) for n in (width, 8))
    return q, k, v


def narrow(*arrays):
    return (jnp.asarray(x, jnp.float32) for x in arrays)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(kernels, "sizes", lambda *_: Sizes(128, 128, True))
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_ten_thousand_rows_are_those_of_float64(setting, small_tiles):
    """In float32, over nine tiles, with groups of heads that share keys; gradients as well."""
    options = SETTINGS[setting]
    given = arrays()
    weights = np.random.default_rng(1).normal(size=(4, 320, 8, 8))

    def loss(given, implementation, weights):
        out = js.dot_product_attention(*given, **options, implementation=implementation)
        return jnp.sum(out * weights), out

    both = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    right, right_out = both(given, "xla", weights)
    slopes, out = both(tuple(narrow(*given)), "pallas", weights.astype(np.float32))
    # A score z is off by some 4 eps of 30, δ = 1.5e-5. Where α > 2 weights leave zero as a root of
    # z − τ, so that they are off by up to √(2δ), and slopes p^(2 − α) are large there.
    alpha = np.max(options.get("alpha", 1.0))
    np.testing.assert_allclose(out, right_out, atol=3e-5 if alpha <= 2 else 5e-3)
    atol = 1e-3 if alpha <= 2 else 0.05
    for name, x, y in zip(("query", "key", "value"), slopes, right, strict=True):
        np.testing.assert_allclose(x, y, atol=atol, err_msg=name)


@pytest.mark.parametrize("place", PLACES)
def test_a_row_of_scores_may_be_in_any_place(place, monkeypatch):
    """Value and gradients are equal to those of XLA wherever keys, values and scores are."""
    on_chip, is_streamed = PLACES[place]
    monkeypatch.setattr(kernels, "sizes", lambda *_: Sizes(128, 128, on_chip))
    if is_streamed:
        monkeypatch.setattr("jsoftmax.kernels.attention._call.MOST", 0)
    jax.clear_caches()
    given = arrays(batch=1, queries=140, keys=260, heads=2, key_heads=1)

    def loss(given, implementation):
        out = js.dot_product_attention(
            *given, alpha=1.5, is_causal=True, implementation=implementation
        )
        return jnp.sum(jnp.sin(out))

    found = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    chex_equal(found(given, "pallas"), found(given, "xla"))
    jax.clear_caches()


def chex_equal(actual, right):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), actual, right
    )


def test_a_regularizer_of_a_stranger_runs_in_the_kernel():
    """One that knows no link."""
    given = arrays(batch=1, queries=5, keys=40, heads=2, key_heads=2)
    regularizer = a_regularizer_of_a_stranger.Blend()
    both = [
        js.dot_product_attention(*given, regularizer=regularizer, implementation=name)
        for name in ("pallas", "xla")
    ]
    chex_equal(*both)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 1.0])
def test_tiles_without_mass_are_skipped_and_counted(alpha, small_tiles):
    """Planted: a query has mass in the one of four tiles of keys that is of its kind."""
    kinds = np.eye(4)
    key = np.repeat(kinds, 128, axis=0)[None, :, None]
    query = 9 * np.repeat(kinds[:2], 128, axis=0)[None, :, None]
    share = js.attention_skipped_share(query, key, key, alpha=alpha, scale=1.0)
    assert float(share) == (0 if alpha == 1 else 0.75)
    causal = js.attention_skipped_share(query, key, key, alpha=alpha, scale=1.0, is_causal=True)
    assert float(causal) == (0 if alpha == 1 else pytest.approx(1 / 3))  # of three tiles in sight

    def loss(given, implementation):
        out = js.dot_product_attention(
            *given, alpha=alpha, scale=1.0, implementation=implementation
        )
        return jnp.sum(jnp.cos(out))

    found = jax.jit(jax.grad(loss), static_argnums=1)
    chex_equal(found((query, key, key), "pallas"), found((query, key, key), "xla"))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_tiles_that_can_have_no_mass_are_not_formed(is_causal, scale, monkeypatch):
    """Planted as above, where a row of scores is not kept: of keys the bounds are enough.

    Causal, a query of the second kind sees three tiles of the eight, and two of these are of its
    kind.
    """
    monkeypatch.setattr(kernels, "sizes", lambda *_: Sizes(128, 128, False))
    jax.clear_caches()
    kinds = np.eye(4)
    key = np.repeat(kinds[[0, 1, 1, 0, 2, 2, 3, 3]], 128, axis=0)[None, :, None]
    query = scale * 9 * np.repeat(kinds[[0, 2, 1]], 128, axis=0)[None, :, None]
    given, options = (query, key, key), {"alpha": 1.5, "scale": scale, "is_causal": is_causal}
    share = js.attention_skipped_share(*given, **options, of="scores")
    # In sight: 8 for each block, or 1, 2 and 3. A key of another kind has the score 0, which is all
    # that the second block sees if it is causal.
    assert float(share) == pytest.approx(1 / 6 if is_causal else 18 / 24)
    chex_equal(share, js.attention_skipped_share(*given, **options))

    def loss(given, implementation):
        out = js.dot_product_attention(*given, **options, implementation=implementation)
        return jnp.sum(jnp.cos(out))

    found = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    chex_equal(found(given, "pallas"), found(given, "xla"))
    jax.clear_caches()


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"logits_soft_cap": 3.0}])
def test_bounds_of_keys_keep_what_is_not_finite(options, monkeypatch):
    """A key with NaN or infinity has the same effect on queries as without bounds."""
    q, k, v = arrays(batch=3, queries=140, keys=520, heads=2, key_heads=1)
    k[0, 130, 0, 3], k[1, 300, 0, 2], k[2, 500, 0, 1] = np.nan, np.inf, -np.inf
    both = []
    for on_chip in (True, False):
        monkeypatch.setattr(kernels, "sizes", lambda *_, on_chip=on_chip: Sizes(128, 128, on_chip))
        jax.clear_caches()
        both.append(
            js.dot_product_attention(q, k, v, alpha=1.5, implementation="pallas", **options)
        )
    chex_equal(*both)
    assert np.isnan(both[0][0, 139]).all()
    jax.clear_caches()


@pytest.mark.parametrize("alpha", [1.3, 1.5, 2.0, 3.0])
def test_a_key_that_is_nan_spoils_those_who_see_it(alpha):
    q, k, v = arrays(batch=1, queries=140, keys=260, heads=2, key_heads=1)
    k[0, 130, 0, 3] = np.nan
    both = [
        js.dot_product_attention(q, k, v, alpha=alpha, is_causal=True, implementation=name)
        for name in ("pallas", "xla")
    ]
    chex_equal(*both)
    assert not np.isnan(both[0][:, :130]).any()
    assert np.isnan(both[0][:, 130:]).all()


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 1.5, "key_value_seq_lengths": np.array([50, 150])},
        {"alpha": np.linspace(1, 2, 6), "sinks": np.ones(6), "scale": np.arange(1.0, 7)},
        {"alpha": 1.5, "local_window_size": (4, 1), "logits_soft_cap": 2.0},
        {"alpha": 2.0, "mask": np.arange(150) % 3 > 0},
    ],
    ids=["softmax", "lengths", "numbers of heads", "a window", "a mask"],
)
def test_few_queries_read_a_cache_as_it_lies(queries, options):
    """Three heads of keys, each shared by two of queries; and NaN beyond the length of a cache."""
    q, k, v = arrays(batch=2, queries=queries, keys=150, heads=6, key_heads=3)
    right = js.dot_product_attention(q, k, v, **options, implementation="xla")
    if "key_value_seq_lengths" in options:
        k[0, 50:], v[0, 50:] = np.nan, np.nan
    chex_equal(js.dot_product_attention(q, k, v, **options, implementation="pallas"), right)


PAGED = {
    "softmax": {},
    "α = 1.5": {"alpha": 1.5},
    "numbers of heads": {"alpha": np.linspace(1, 2, 6), "sinks": 0.0, "scale": np.arange(1.0, 7)},
}


@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("options", PAGED.values(), ids=PAGED)
def test_a_cache_in_pages_is_that_of_their_keys(queries, options):
    """Requests of three pages, of one, and of none; unused places are NaN."""
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(12, 64, 2, 16)), rng.normal(size=(12, 64, 2, 8))
    indices, lengths = np.array([[3, 1, 5], [7, 0, 0], [2, 11, 4]]), np.array([170, 20, 0])
    query = rng.normal(size=(3, queries, 6, 16))
    own = (x[indices].reshape(3, 192, 2, -1) for x in (keys, values))
    right = js.dot_product_attention(query, *own, key_value_seq_lengths=lengths, **options)
    bounds = keys.min(axis=1), keys.max(axis=1)
    keys[7, 20:], values[[0, 6]] = np.nan, np.nan
    for implementation, given in (("xla", None), ("pallas", None), ("pallas", bounds)):
        out = js.paged_attention(
            query, keys, values, indices, lengths,
            implementation=implementation, key_bounds=given, **options,
        )  # fmt: skip
        chex_equal(out, right)


@pytest.mark.parametrize("heads", [2, 8])
def test_pages_that_can_have_no_mass_are_not_read(heads):
    """The pages of other kinds than the query's are NaN, which a single look would tell."""
    kinds = np.repeat(np.eye(4)[:, None, None], heads, axis=2)  # (pages, 1, heads, width)
    keys, values = np.repeat(kinds, 64, axis=1), np.ones((4, 64, heads, 8))
    query = np.broadcast_to(9 * np.eye(4)[2], (1, 1, 2 * heads, 4))
    bounds, table, lengths = (kinds[:, 0], kinds[:, 0]), np.arange(4)[None], np.array([256])
    keys[[0, 1, 3]], values[[0, 1, 3]] = np.nan, np.nan
    options = {"alpha": 1.5, "scale": 1.0, "implementation": "pallas"}
    out = js.paged_attention(query, keys, values, table, lengths, key_bounds=bounds, **options)
    chex_equal(out, np.ones((1, 1, 2 * heads, 8)))
    without = js.paged_attention(query, keys, values, table, lengths, **options)
    assert np.isnan(without).all()


def test_pages_have_the_derivatives_of_their_keys():
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(3, 64, 2, 16)), rng.normal(size=(3, 64, 2, 8))
    query = rng.normal(size=(1, 1, 2, 16))

    def loss(given, implementation):
        out = js.paged_attention(
            *given, np.array([[2, 0]]), np.array([70]), alpha=1.5, implementation=implementation
        )
        return jnp.sum(jnp.sin(out))

    found = jax.jit(jax.grad(loss), static_argnums=1)
    chex_equal(*(found((query, keys, values), name) for name in ("pallas", "xla")))


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"value_pages": np.ones((4, 8, 1, 2))}, ValueError, "`key_pages`.*`value_pages`"),
        ({"page_indices": np.ones((2, 3))}, TypeError, "`page_indices` has dtype float"),
        ({"page_indices": np.ones((5, 3), int)}, ValueError, "`page_indices` has shape"),
        ({"implementation": "cuda"}, ValueError, "`implementation`"),
        ({"implementation": "pallas"}, NotImplementedError, "multiple of 128. Make pages larger"),
    ],
)
def test_mistakes_with_pages_are_named(changed, error, words):
    given = {
        "query": np.ones((2, 1, 2, 2)), "key_pages": np.ones((4, 16, 1, 2)),
        "value_pages": np.ones((4, 16, 1, 2)), "page_indices": np.ones((2, 3), int),
        "lengths": np.array([1, 2]),
    }  # fmt: skip
    with pytest.raises(error, match=rf"jsoftmax.paged_attention: .*{words}"):
        js.paged_attention(**(given | changed))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_results_have_the_dtype_of_the_arguments(dtype):
    given = [jnp.asarray(x, dtype) for x in arrays(1, 20, 30, 2, 1)]
    out = js.dot_product_attention(*given, alpha=1.5, implementation="pallas")
    right = js.dot_product_attention(*given, alpha=1.5, implementation="xla")
    assert out.dtype == right.dtype == dtype
    # Kernels round weights to the dtype of values before they mix them.
    atol = 1e-6 if dtype == "float32" else 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.asarray(out, np.float32), np.asarray(right, np.float32), atol=atol
    )


def test_vmap_is_a_batch():
    given = arrays(batch=3, queries=10, keys=12, heads=2, key_heads=2)

    def loss(*given):
        return jnp.sum(
            jnp.sin(js.dot_product_attention(*given, alpha=1.5, implementation="pallas"))
        )

    mapped = jax.vmap(jax.grad(loss, (0, 1, 2)))(*(x[:, None] for x in given))
    right = jax.grad(loss, (0, 1, 2))(*given)
    chex_equal([x[:, 0] for x in mapped], list(right))


def test_inside_of_shard_map_batch_and_heads_may_be_split():
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    given = arrays(batch=2, queries=10, keys=12, heads=4, key_heads=2)
    spec = jax.P("data", None, "model")

    def attend(*given):
        return js.dot_product_attention(*given, alpha=1.5, implementation="pallas")

    # Unchecked: the interpreter does not track varying axes. Compiled kernels do (test_chips.py).
    split = jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    found = jax.grad(lambda *x: jnp.sum(jnp.sin(split(*x))), (0, 1, 2))(*given)
    right = jax.grad(lambda *x: jnp.sum(jnp.sin(attend(*x))), (0, 1, 2))(*given)
    chex_equal(list(found), list(right))


@pytest.mark.slow
def test_no_race_where_tiles_are_copied(monkeypatch):
    """The interpreter of TPU kernels watches every read and write of shared memory."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter

    monkeypatch.setattr(kernels, "sizes", lambda *_: Sizes(128, 128, True))
    monkeypatch.setattr("jsoftmax.kernels.attention._call.MOST", 0)
    watched = pltpu.InterpretParams(detect_races=True)
    given = list(narrow(*arrays(batch=1, queries=140, keys=260, heads=1, key_heads=1)))
    problem = attention_arguments.read_arguments(
        "a test", *given, None, None, regularizer=js.Tsallis(1.5), scale=None, is_causal=True,
        query_seq_lengths=None, key_value_seq_lengths=None, local_window_size=None,
        query_segment_ids=None, key_value_segment_ids=None, logits_soft_cap=None, sinks=None,
        dropout_rng=None, dropout_rate=0.0, broadcast_dropout=False, axis_name=None,
    )  # fmt: skip

    def attend(interpret):
        given, rule = problem
        found = _kernel_passes._attended(rule, True, "tpu", interpret, given)
        d_out, d_tau = jnp.ones_like(found["out"]), jnp.zeros_like(found["tau"])
        names = "query", "key", "value"
        slopes = _kernel_passes._pulled(rule, names, "tpu", interpret, given, found, d_out, d_tau)
        return found["out"], slopes

    found, right = (jax.jit(attend, static_argnums=0)(x) for x in (watched, True))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    assert not interpreter.races.races_found


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"block_q": 128}, "block_q"),
        ({"block_k": 128}, "block_k"),
        ({"axis_name": "keys"}, "axis_name"),
    ],
)
def test_what_a_kernel_does_not_take_is_refused_by_name(options, names):
    given = arrays(1, 4, 4, 2, 2)
    attend = functools.partial(js.dot_product_attention, implementation="pallas", **options)
    with pytest.raises(NotImplementedError, match=f"implementation='pallas'.*`{names}`"):
        jax.vmap(lambda x: attend(x, *given[1:]), axis_name="keys")(given[0][None])


def test_vectors_that_no_chip_holds_are_refused_before_any_work():
    wide = [jax.ShapeDtypeStruct((1, 256, 1, 400_000), jnp.float32)] * 3
    with pytest.raises(NotImplementedError, match=r"400000 and 400000 features.*heads"):
        jax.eval_shape(functools.partial(js.dot_product_attention, implementation="pallas"), *wide)


def test_long_sequences_keep_less_on_the_chip():
    """The rule for blocks: kept arrays never exceed the memory of the chip."""
    seen = {kernels.sizes("tpu", n, n, 128, 128) for n in (128, 4096, 32768, 65536, 131072)}
    assert {size.on_chip for size in seen} == {True, False}
    assert all(size.block_k % 128 == 0 for size in seen)


def test_an_option_that_the_share_does_not_know_is_named():
    given = arrays(1, 4, 4, 2, 2)
    with pytest.raises(TypeError, match="`dropout_rate`; it takes scale"):
        js.attention_skipped_share(*given, dropout_rate=0.5)
