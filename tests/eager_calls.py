"""Every public function, called with small arrays of given shapes and values of a given seed."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Make = Callable[[np.random.Generator], Any]

HOMES = (
    "", ".mappings", ".losses", ".sampling", ".attention", ".vocabulary", ".policies",
    ".calibration", ".routing",
)  # fmt: skip


def public(name: str) -> Any:
    """A public name, wherever it lives: flat, or in a namespace."""
    for home in HOMES:
        module = importlib.import_module("jsoftmax" + home)
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"jsoftmax has no {name}")


def public_names() -> set[str]:
    """Return the exported names of the package and its namespaces."""
    modules = (importlib.import_module("jsoftmax" + home) for home in HOMES)
    return {name for module in modules for name in module.__all__}


@dataclasses.dataclass(frozen=True)
class Call:
    """A public function at one setting of its options.

    Attributes:
        name: the name of its test: the public name, then the setting.
        function: (operands …) → arrays.
        makes: how each operand is made.
        is_differentiable: whether its results have a gradient in its operands of real numbers.
        is_slow: whether its gradient takes many seconds to compile.
    """

    name: str
    function: Callable[..., Any]
    makes: tuple[Make, ...]
    is_differentiable: bool = True
    is_slow: bool = False

    def operands(self, seed: int) -> list[Any]:
        rng = np.random.default_rng(seed)
        return [make(rng) for make in self.makes]

    @property
    def public_name(self) -> str:
        return self.name.split(",")[0]

    def value(self, operands: list[Any]) -> Any:
        return self.function(*operands)

    def gradient(self, operands: list[Any]) -> Any:
        """The gradient of the sum of all results in every array of real numbers."""
        leaves, structure = jax.tree.flatten(operands)
        moves = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

        def total(moving):
            rest = iter(moving)
            given = [next(rest) if m else leaf for m, leaf in zip(moves, leaves, strict=True)]
            results = jax.tree.leaves(self.function(*jax.tree.unflatten(structure, given)))
            return sum(x.sum() for x in results if jnp.issubdtype(x.dtype, jnp.floating))

        return jax.grad(total)([leaf for m, leaf in zip(moves, leaves, strict=True) if m])


def floats(*shape: int, least: float = -np.inf) -> Make:
    """Normal numbers; or, where there is a least one, evenly spread over one more."""

    def make(rng):
        x = rng.standard_normal(shape) if least == -np.inf else least + rng.random(shape)
        return jnp.asarray(x, jnp.float32)

    return make


def shares(*shape: int) -> Make:
    """Distributions over the last axis."""
    return lambda rng: jnp.asarray(rng.dirichlet(np.ones(shape[-1]), shape[:-1]), jnp.float32)


def labels(classes: int, *shape: int) -> Make:
    return lambda rng: jnp.asarray(rng.integers(0, classes, shape), jnp.int32)


def key(rng: np.random.Generator) -> jax.Array:
    return jax.random.key(int(rng.integers(2**31)))


def pairs(rng: np.random.Generator) -> jax.Array:
    """Two different classes of eight for each of four rows."""
    return jnp.asarray(rng.permuted(np.tile(np.arange(8), (4, 1)), axis=1)[:, :2], jnp.int32)


def shares_of_two(rng: np.random.Generator) -> jax.Array:
    """Log-probabilities of two classes for each of four rows, which leave something."""
    return jnp.log(jnp.asarray(rng.dirichlet(np.ones(3), 4)[:, :2], jnp.float32))


def trees(rng: np.random.Generator) -> Any:
    del rng  # a binary tree of given shape
    return jax.tree.map(jnp.asarray, public("balanced_tree")(8))


def wide_trees(rng: np.random.Generator) -> Any:
    del rng
    return jax.tree.map(jnp.asarray, public("kary_tree")(8, 3))


def adaptive(rng: np.random.Generator) -> Any:
    return public("adaptive_tables")(key(rng), 6, 12, [4, 8], use_bias=True)


def bands(rng: np.random.Generator) -> Any:
    return public("differentiated_tables")(key(rng), 6, 12, [4, 8], use_bias=True)


def candidates(rng: np.random.Generator) -> Any:
    ids = jnp.asarray(rng.integers(0, 12, 5), jnp.int32)
    return public("Candidates")(ids, jnp.asarray(-rng.random(5), jnp.float32), floats(4)(rng))


Z, P, Y = floats(4, 8), shares(4, 8), labels(8, 4)
H, KERNEL, BIAS, T12 = floats(4, 6), floats(6, 12), floats(12), labels(12, 4)
NODES, WIDE = floats(7, 6), floats(11, 6)
Q = floats(1, 4, 2, 4)
ORDER, WARMTH = floats(4, 1, least=1.1), floats(4, 1, least=0.5)
CALLS: list[Call] = []


def _call(name: str, *makes: Make, note: str = "", smooth=True, slow=False, run=None, **options):
    """Add a call of a public function, by `run` or with its operands first."""

    def function(*operands, **more):
        given = options | more
        found = functools.partial(public(name), **given) if given else public(name)
        return found(*operands) if run is None else run(found, *operands)

    title = f"{name}, {note}" if note else name
    CALLS.append(Call(title, function, makes, smooth, slow))


# Mappings.
for _name in ("softmax", "log_softmax", "softmin", "logsumexp", "smoothmax", "sparsemax"):
    _call(_name, Z)
_call("logsumexp", Z, floats(4, 8), note="b", run=lambda f, z, b: f(z, b=b, return_sign=True))
for _name in ("boltzmann", "log_partition", "free_energy", "mean_energy", "heat_capacity"):
    _call(_name, Z, WARMTH)
_call("softmax", Z, WARMTH, note="T", run=lambda f, z, t: f(z, temperature=t))
_call("hardmax", Z)
_call("soft_argmax", Z)
_call("soft_argmax", Z, note="α", alpha=1.5)
_call("entropy", P)
_call("entropy", P, note="α", alpha=1.5)
_call("smoothmax", Z, WARMTH, note="α and T", run=lambda f, z, t: f(z, alpha=1.5, temperature=t))
for _alpha in (1.5, 1.3, 3.0, 0.5):
    _call("entmax", Z, note=f"{_alpha:g}", alpha=_alpha, slow=_alpha == 3)
_call("entmax", Z, ORDER, note="α a row", run=lambda f, z, a: f(z, alpha=a), slow=True)
_call("binary_entmax", Z)
_call("binary_entmax", Z, note="α", alpha=1.3)
_call("entmax_sparse", Z, size=4)
_call("normmax", Z, alpha=2.0)
_call("regularized_argmax", Z, regularizer=public("Elastic")(2.0))
_call("capped_entmax", Z, note="1.5", run=lambda f, z: f(z, 0.5, alpha=1.5))
_call("capped_entmax", Z, note="1", run=lambda f, z: f(z, 0.5, alpha=1.0))
_call("topk_entmax", Z, note="1.5", run=lambda f, z: f(z, 2, alpha=1.5))
_call("topk_sigmoid", Z, k=2)

# Losses.
_call("cross_entropy", Z, Y)
_call("cross_entropy", Z, P, note="distributions", label_smoothing=0.1)
_call("sparsemax_loss", Z, Y)
_call("entmax_loss", Z, Y)
_call("fenchel_young_loss", Z, P)
_call("fenchel_young_loss", Z, Y, note="1.3", regularizer=public("Tsallis")(1.3))
_call("normmax_loss", Z, Y)
_call("topk_entmax_loss", Z, pairs)

# Sampling.
for _name in ("gumbel_softmax", "gumbel_log_softmax", "straight_through_gumbel", "reinmax"):
    _call(_name, key, Z)
for _name in ("straight_through_categorical", "decoupled_straight_through", "gumbel_rao"):
    _call(_name, key, Z)
_call("reinmax_rao", key, Z)
_call("reinmax_cv", key, Z, run=lambda f, key, z: jnp.moveaxis(f(key, z), 0, 1))  # rows first
_call("gumbel_entmax", key, Z)
for _name in ("categorical", "gumbel_argmax"):
    _call(_name, key, Z, smooth=False)
    _call(_name, key, Z, note="shape", smooth=False, shape=(3, 4))
_call("sample_from", key, P, smooth=False)
_call("top_k_mask", Z, smooth=False, k=3)
_call("top_k_mask", Z, ORDER, note="k a row", smooth=False)
_call("top_n_sigma_mask", Z, smooth=False, n=1.0)
for _name, _value in (
    ("top_p_mask", 0.7), ("typical_mask", 0.5), ("min_p_mask", 0.2), ("eta_mask", 0.1)
):  # fmt: skip
    _call(_name, Z, smooth=False, run=lambda f, z, value=_value: f(z, value))
_call("top_p_mask", Z, WARMTH, note="T", smooth=False, run=lambda f, z, t: f(z, 0.7, temperature=t))
_call("sample_token", key, Z)
_call("sample_token", key, Z, WARMTH, note="truncated", run=lambda f, key, z, t: f(
    key, z, temperature=t, k=5, p=0.9, min_p=0.05, n_sigma=2.0, typical_p=0.9, epsilon=0.01
))  # fmt: skip
_call("penalized_logits", Z, labels(3, 4, 8), repetition=1.2, presence=0.1, frequency=0.2)
_call("token_counts", labels(8, 4, 5), classes=8, smooth=False)
_call("residual_probabilities", P, P, smooth=False)
_call("speculative_sample", key, labels(8, 4, 2), shares(4, 2, 8), shares(4, 3, 8), smooth=False)
_call("gumbel_topk", key, Z, k=2)
_call("relaxed_topk", key, Z, k=2)
_call("straight_through", Z, P)
_call("concrete_log_prob", P, Z)
_call("exp_concrete_log_prob", P, Z, run=lambda f, p, z: f(jnp.log(p), z))
_call(
    "reinforce_leave_one_out", key, Z, Z,
    run=lambda f, key, z, x: f(key, z, lambda drawn: (drawn * x).sum(-1)),
)  # fmt: skip


def _of_categorical(f, key, z, other):
    p, q = f(z, alpha=1.0), f(other, alpha=1.0)
    value = p.sample(key)
    return value, p.log_prob(value), p.prob(value), p.entropy(), p.mode(), p.kl_divergence(q)


_call("Categorical", key, Z, Z, run=_of_categorical)
_call(
    "Categorical", key, Z, note="α", slow=True,
    run=lambda f, key, z: (
        f(z, alpha=1.5).sample(key), f(z, alpha=1.5).probabilities(), f(z, alpha=1.5).entropy()
    ),
)  # fmt: skip
_call(
    "RelaxedCategorical", key, Z,
    run=lambda f, key, z: (f(z, 0.5).sample(key), f(z, 0.5).log_prob(jax.nn.softmax(z))),
)  # fmt: skip
_call("AliasTable", key, run=lambda f, key: f.of([1.0, 2.0, 3.0]).sample(key, (4,)), smooth=False)

# Policies.
_call("sample_action", key, Z, smooth=False)
_call("sample_action", key, Z, note="α", smooth=False, alpha=1.5, epsilon=0.1)
_call("log_prob", Z, Y)
_call("log_prob", Z, Y, note="α", alpha=1.5, epsilon=0.1)
_call("epsilon_mixture", P, epsilon=0.1)
_call("kl_divergence", P, P)
_call("importance_ratio", floats(4), floats(4))
_call("log_importance_ratio", floats(4), floats(4))
_call("mellowmax", Z)
_call("mellowmax", Z, WARMTH, note="ω")
_call("mellowmax_temperature", Z)

# Calibration.
for _name in ("expected_calibration_error", "maximum_calibration_error", "reliability_diagram"):
    _call(_name, P, Y, bins=3)
_call("expected_calibration_error", P, Y, note="equal mass", bins=3, equal_mass=True)
_call("classwise_calibration_error", P, Y, bins=3)
_call("brier_score", P, Y)
ONE, BIT = floats(4, least=0), labels(2, 4)
_call("brier_score", ONE, BIT, note="binary")
_call("reliability_diagram", ONE, BIT, note="binary", bins=3)
_call("expected_calibration_error", ONE, BIT, note="binary", bins=3, equal_mass=True)
_call("lac_scores", P)
_call("aps_scores", P)
_call("aps_scores", P, key, note="key", run=lambda f, p, key: f(p, key=key, penalty=0.1, free=1))
_call("entmax_scores", Z)
_call("conformal_threshold", Z, Y)
_call("conformal_threshold", Z, Y, WARMTH, note="weights", run=lambda f, z, y, w: f(
    z, y, weights=w[:, 0]
))  # fmt: skip
_call("conformal_threshold", Z, Y, note="classes", coverage=np.array([0.3, 0.6]), classwise=True)
_call("conformal_sets", Z, floats(), smooth=False)
_call("conformal_sets", Z, floats(), note="nonempty", smooth=False, nonempty=True)
_call("temperature_scaling", Z, Y)
_call("temperature_scaling", Z, Y, note="α", alpha=1.5, slow=True)
_call("vector_scaling", Z, Y, smooth=False)
_call("matrix_scaling", Z, Y, smooth=False, slow=True)
_call("dirichlet_calibration", P, Y, smooth=False)
TURN = np.float32(np.eye(8) + 0.1 * np.triu(np.ones((8, 8))))
_call("MatrixScaling", Z, floats(8), run=lambda f, z, b: f(jnp.asarray(TURN), b).apply(z))
_call("DirichletCalibration", P, floats(8), run=lambda f, p, b: f(jnp.asarray(TURN), b).apply(p))
_call("VectorScaling", Z, floats(1, 8), floats(1, 8), run=lambda f, z, a, b: f(a, b).apply(z))

# Routing.
_call("route", Z, k=2)
for _score in ("sigmoid", "entmax"):
    _call("route", Z, floats(8), note=_score, slow=True, run=lambda f, z, b, score=_score: f(
        z, 3, score=score, bias=b, groups=4, groups_kept=2, capacity=0.7
    ))  # fmt: skip
_call("update_bias", floats(8), labels(9, 8), smooth=False)


# Attention.
def _by_distance(slopes, score, batch, head, query, key):
    return score + slopes[head] * (query - key) + batch


def _with_score_fn(make, q, k, v, x):
    return public("dot_product_attention")(q, k, v, is_causal=True, score_fn=make(x))


for _alpha in (1.0, 1.5):
    _call("dot_product_attention", Q, Q, Q, note=f"{_alpha:g}", alpha=_alpha, slow=_alpha != 1)
    _call("attention_weights", Q, Q, note=f"{_alpha:g}", alpha=_alpha)
    _call("attention_fn", Q, Q, Q, note=f"{_alpha:g}", slow=_alpha != 1, run=lambda f, q, k, v,
          alpha=_alpha: f(alpha)(q, k, v))  # fmt: skip
_call("dot_product_attention", Q, Q, Q, floats(1, 4, 2), note="a scale of queries", slow=True,
      run=lambda f, q, k, v, scale: f(
          q, k, v, alpha=1.5, scale=scale, is_causal=True, query_offset=1
      ))  # fmt: skip
_call(
    "dot_product_attention",
    Q,
    Q,
    Q,
    floats(2),
    note="a function of scores",
    slow=True,
    run=lambda f, q, k, v, x: f(q, k, v, score_fn=jax.tree_util.Partial(_by_distance, x)),
)
_call("ALiBi", Q, Q, Q, floats(2), run=_with_score_fn, slow=True)
_call("T5Buckets", Q, Q, Q, floats(32, 2), run=_with_score_fn, slow=True)
_call("ForgettingGate", Q, Q, Q, floats(1, 4, 2), run=_with_score_fn, slow=True)
_call("visible_keys", Q, Q, smooth=False, is_causal=True, local_window_size=2)
_call("attention_skipped_share", Q, Q, Q, smooth=False, alpha=1.5)
_call("paged_attention", Q, Q, Q, run=lambda f, q, k, v: f(
    q, k[0, :, None], v[0, :, None], np.array([[0, 2]]), np.array([2]), alpha=1.5
))  # fmt: skip
_call("merge_attention", floats(2, 1, 4, 2, 4), floats(2, 1, 4, 2))

# Linear losses.
for _name in ("linear_cross_entropy", "linear_cross_entropy_sum", "linear_cross_entropy_terms"):
    _call(_name, H, KERNEL, T12)
_call("linear_entmax_loss", H, KERNEL, T12, slow=True)
_call("linear_fenchel_young_loss", H, KERNEL, T12, slow=True)
for _name in ("linear_log_prob", "linear_log_prob_terms"):
    _call(_name, H, KERNEL, T12)
_call("linear_kl_divergence", H, KERNEL, H, KERNEL)
_call("linear_kl_divergence_from_topk", H, KERNEL, pairs, shares_of_two)
for _direction in ("reverse", "jeffreys", "jensen_shannon"):
    _call("linear_kl_divergence", H, KERNEL, H, KERNEL, note=_direction, direction=_direction)
for _name in ("linear_cross_entropy", "linear_cross_entropy_sum", "linear_cross_entropy_terms"):
    _call(_name, H, KERNEL, T12, note="angles", normalize=True, angular_margin=0.3, margin=0.1)
_call("linear_topk", H, KERNEL, k=3)
_call("linear_categorical", key, H, KERNEL, smooth=False)
_call("linear_sample_token", key, H, KERNEL, WARMTH, slow=True, run=lambda f, key, h, w, t: f(
    key, h, w, temperature=t, k=7, p=0.9
))  # fmt: skip

# Contrastive losses.
_call("contrastive_loss", H, H)
_call("contrastive_loss", H, H, WARMTH, note="α", slow=True, run=lambda f, q, k, t: f(
    q, k, alpha=1.5, temperature=t[0, 0], normalize=True
))  # fmt: skip
_call("sigmoid_contrastive_loss", H, H)
for _name in ("contrastive_loss", "sigmoid_contrastive_loss"):
    _call(_name, H, H, labels(2, 4), note="labels", run=lambda f, q, k, y: f(q, k, labels=y))
    _call(_name, H, labels(2, 4), note="views", run=lambda f, q, y: f(
        q, q, labels=y, exclude_self=True
    ))  # fmt: skip

# Trees.
for _table, _tree, _note in ((NODES, trees, ""), (WIDE, wide_trees, "wide")):
    for _name in ("hierarchical_log_prob", "hierarchical_cross_entropy"):
        _call(_name, H, _table, _tree, Y, note=_note)
    for _name in ("hierarchical_log_softmax", "hierarchical_entropy"):
        _call(_name, H, _table, _tree, note=_note)
    _call("hierarchical_topk", H, _table, _tree, note=_note, k=3)
    _call("hierarchical_categorical", key, H, _table, _tree, note=_note, smooth=False)
_call("hierarchical_log_prob_of_rows", H, floats(4, 3, 6), trees, Y)
_call("ClassTree", trees, Y, run=lambda _, tree, y: tree.rows(y), smooth=False)

# Bands.
_call("adaptive_cross_entropy", H, adaptive, T12)
_call("adaptive_cross_entropy", H, adaptive, T12, note="blocks", block_tokens=2, block_classes=2)
_call("adaptive_log_softmax", H, adaptive)
_call("adaptive_topk", H, adaptive, k=3)
_call("differentiated_cross_entropy", H, bands, T12)
_call("differentiated_log_softmax", H, bands)
_call("differentiated_topk", H, bands, k=3)
_call("band_embedding", T12, bands)
_call("adaptive_tables", key, width=6, classes=12, cutoffs=[4, 8], smooth=False)
_call("differentiated_tables", key, width=6, classes=12, cutoffs=[4, 8], smooth=False)

# Sampled losses.
for _name in ("sampled_softmax_loss", "importance_sampling_loss", "nce_loss"):
    _call(_name, H, KERNEL, T12, candidates)
_call("negative_sampling_loss", H, KERNEL, T12, candidates)
_call("in_batch_candidates", T12, floats(4))
_call("gathered_classes", T12, candidates, classes=12)
_call("target_partitions", T12, size=2, smooth=False)
_call(
    "target_sampling_loss", H, KERNEL, T12,
    run=lambda f, h, w, y: f(h, w, y, jnp.arange(12)),
)  # fmt: skip
for _replacement in (True, False):
    for _name, _given in (
        ("uniform_sampler", 12), ("log_uniform_sampler", 12), ("unigram_sampler", range(1, 13))
    ):  # fmt: skip
        _call(
            _name, key, T12, smooth=False, note="with replacement" if _replacement else "distinct",
            run=lambda f, key, y, given=_given, replacement=_replacement: f(
                given, replacement=replacement
            ).sample(key, (5,), labels=y),
        )  # fmt: skip

# Updates of rows.
_optimizer = functools.cache(lambda name: public(name)(0.1))
for _name in ("row_sgd", "row_adagrad", "row_adam"):
    for _rows in (4, 5000):
        _call(
            _name, floats(12, 2), labels(12, _rows), floats(_rows, 2), smooth=False,
            note=f"{_rows} rows", run=lambda _, table, rows, g, made=_name: _optimizer(
                made
            ).update(table, _optimizer(made).init(table), rows, g),
        )  # fmt: skip
_call(
    "row_adagrad", floats(12, 2), floats(4, 2), smooth=False, note="distinct",
    run=lambda _, table, g: _optimizer("row_adagrad").update(
        table, _optimizer("row_adagrad").init(table), jnp.arange(g.shape[0]), g, distinct=True
    ),
)  # fmt: skip
_call(
    "row_sgd", key, floats(12, 2), labels(12, 4), floats(4, 2), smooth=False, note="key",
    run=lambda _, key, table, rows, g: _optimizer("row_sgd").update(
        table.astype(jnp.bfloat16), _optimizer("row_sgd").init(table), rows, g, key=key
    )[0].astype(jnp.float32),
)  # fmt: skip
