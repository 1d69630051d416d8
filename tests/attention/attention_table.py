"""The options of attention, in a table where every two levels of different options meet."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import allpairspy
import jax
import jax.numpy as jnp
import numpy as np

import jsoftmax as js
from tests.attention import attention_oracle as oracle

# T queries and S keys, neither a multiple of a block; B entries in a batch, N heads of width H.
B, T, S, N, H, HV = 3, 7, 9, 4, 3, 2
SIZES = {"B": B, "T": T, "S": S, "N": N, "1": 1}
# Every path through the threshold solver, and none at all.
ALPHAS = np.array([1.0, 1.5, 2.0, np.inf])


class Row(NamedTuple):
    """One setting of all options. A string is the shape of an array."""

    alpha: float | str
    bias: str | None
    mask: str | None
    window: str
    lengths: str
    segments: str | None
    logits_soft_cap: float | None
    sinks: float | str | None
    scale: str | None
    key_heads: int
    batch: tuple[int, ...]
    blocks: tuple[int | None, int | None]

    @property
    def options(self) -> dict[str, Any]:
        """The arguments that are not arrays."""
        options = {
            "causal": {"is_causal": True},
            "pair": {"local_window_size": (4, 1)},
            "last": {"local_window_size": 1, "is_causal": True},
        }.get(self.window, {})
        block_q, block_k = self.blocks
        options |= {"logits_soft_cap": self.logits_soft_cap, "block_q": block_q, "block_k": block_k}
        return options | {
            name: level
            for name in ("alpha", "sinks")
            if isinstance(level := getattr(self, name), float)
        }

    def __call__(self, moving, fixed, **options):
        """The attention that is tested, of arrays."""
        return js.dot_product_attention(**moving, **fixed, **self.options, **options)


LEVELS = {
    "alpha": [1.0, 1.5, 2.0, 3.0, "N"],
    "bias": [None, "NT1", "BNTS"],
    "mask": [None, "S", "B1TS"],
    "window": ["", "causal", "pair"],
    "lengths": ["", "queries", "keys"],
    "segments": [None, "", "B"],
    "logits_soft_cap": [None, 1.5],
    "sinks": [None, 0.0, "N"],
    "scale": [None, "", "N"],
    "key_heads": [4, 2, 1],
    "batch": [(), (B,), (B, 1)],
    "blocks": [(None, None), (4, None), (4, 4)],
}
assert tuple(LEVELS) == Row._fields
ROWS = [Row(*levels) for levels in allpairspy.AllPairs(list(LEVELS.values()))]
# A window so narrow, beside blocks and lengths, that each of its places is a block of its own; with
# arrays that have both of the axes that are cut, one of them, and neither.
NARROW = [
    Row(1.0, "BNTS", "B1TS", "last", "keys", "B", 1.5, "N", "N", 2, (B,), (2, 4)),
    Row(1.5, "NT1", "S", "last", "queries", "", None, None, "", 4, (), (2, None)),
    Row("N", None, None, "last", "", None, None, 0.0, None, 1, (B, 1), (1, 1)),
]
PLAIN = Row(1.0, None, None, "", "", None, None, None, None, N, (B,), (4, 4))


def name(row: Row) -> str:
    """The levels that are not the plainest."""
    shown = (
        f"{option}={level}"
        for option, level, levels in zip(Row._fields, row, LEVELS.values(), strict=True)
        if level != levels[0] or option == "alpha"
    )
    return " ".join(shown).replace("logits_soft_cap", "cap").replace("None", "all")


def arrays(row: Row, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the differentiable arrays of a row, and the others."""
    rng = np.random.default_rng(seed)

    def shape(letters):
        sizes = (row.batch if letter == "B" else (SIZES[letter],) for letter in letters)
        return sum(sizes, ())

    moving = {
        "query": rng.normal(size=(*row.batch, T, N, H)),
        "key": rng.normal(size=(*row.batch, S, row.key_heads, H)),
        "value": rng.normal(size=(*row.batch, S, row.key_heads, HV)),
    }
    fixed = {}
    if row.bias is not None:
        moving["bias"] = rng.normal(size=shape(row.bias))
    if isinstance(row.alpha, str):
        moving["alpha"] = ALPHAS if row.alpha else 1.25
    if row.scale is not None:
        moving["scale"] = np.abs(rng.normal(size=shape(row.scale))) + 0.3
    if isinstance(row.sinks, str):
        moving["sinks"] = rng.normal(size=N)
    if row.mask is not None:
        fixed["mask"] = rng.random(shape(row.mask)) < 0.8
    if row.lengths:
        # The second entry of a batch sees nothing at all.
        name, size = {"queries": ("query", T), "keys": ("key_value", S)}[row.lengths]
        lengths = np.resize(np.array([size - 2, 0, size]), row.batch)
        fixed[f"{name}_seq_lengths"] = lengths.astype(np.int32)
    if row.segments is not None:
        lead = shape(row.segments)
        fixed["query_segment_ids"] = np.sort(rng.integers(0, 2, (*lead, T)))
        fixed["key_value_segment_ids"] = np.sort(rng.integers(0, 2, (*lead, S)))
    return moving, fixed


def seen(row: Row, fixed: dict[str, Any]) -> np.ndarray:
    """Whether a query sees a key, entry by entry from the definitions: (batch, N, T, S)."""
    t, s = np.arange(T)[:, None], np.arange(S)
    visible = np.ones((*row.batch, N, T, S), bool)
    if row.window == "causal":
        visible &= s <= t
    if row.window == "pair":
        visible &= (t - 4 <= s) & (s <= t + 1)
    if row.window == "last":
        visible &= (s == t) | (s == t - 1)
    if row.mask is not None:
        visible &= fixed["mask"]
    if row.lengths:
        places = {"queries": t, "keys": s}[row.lengths]
        (lengths,) = (x for x in fixed if x.endswith("lengths"))
        visible &= places < fixed[lengths].reshape(*row.batch, 1, 1, 1)
    if row.segments is not None:
        same = fixed["query_segment_ids"][..., None] == fixed["key_value_segment_ids"][..., None, :]
        visible &= same[..., None, :, :]
    return visible


def spread(row: Row, moving: dict[str, Any], filled: Callable) -> list[jax.Array]:
    """Make the arrays of the dense formula; linear in `moving`, except for defaults."""

    def heads(x):
        return jnp.repeat(x, N // row.key_heads, axis=-2)

    def per_head(name, default):
        return jnp.broadcast_to(moving.get(name, np.float64(default)), (N,))

    return [
        filled(moving["query"]),
        filled(heads(moving["key"])),
        filled(heads(moving["value"])),
        filled(jnp.broadcast_to(moving.get("bias", np.float64(0)), (*row.batch, N, T, S))),
        per_head("scale", H**-0.5),
        per_head("alpha", row.alpha if isinstance(row.alpha, float) else 0),
        per_head("sinks", row.sinks if isinstance(row.sinks, float) else -np.inf),
    ]


class Orders(NamedTuple):
    """The output o, and along one tangent and one cotangent w all that is asked of it."""

    out: Any
    tangent: Any
    gradient: Any
    hessian_vector: Any = None


@functools.partial(jax.jit, static_argnums=0, static_argnames="return_residual")
def orders(row, moving, fixed, tangents, weights, return_residual=False) -> Orders:
    """Value, jvp, and the gradient of ⟨w, o⟩; o may be the mixtures alone or with thresholds."""

    def function(moving):
        return row(moving, fixed, return_residual=return_residual)

    out, tangent = jax.jvp(function, (moving,), (tangents,))
    return Orders(out, tangent, gradient(function, moving, weights))


def gradient(function, moving, weights):
    """Of ⟨w, o⟩."""
    return jax.vjp(function, moving)[1](weights)[0]


@jax.jit
def _dense_orders(moving, tangents, weights, seen, cap) -> Orders:
    def function(moving):
        return oracle.attention(*moving, seen=seen, cap=cap)

    out, tangent = jax.jvp(function, (moving,), (tangents,))
    slope, second = jax.jvp(lambda x: gradient(function, x, weights), (moving,), (tangents,))
    return Orders(out, tangent, slope, second)


def expected(row: Row, moving, fixed, tangents, weights) -> Orders:
    """The same and the Hessian times the tangents, by the dense formula, compiled once."""
    size = math.prod(row.batch)

    def filled(x):  # the batch as one axis of B, with weight 0 for padding
        x = x.reshape(size, *x.shape[len(row.batch) :])
        return jnp.concatenate([x, jnp.zeros((B - size, *x.shape[1:]), x.dtype)])

    def unfilled(x):
        return x[:size].reshape(*row.batch, *x.shape[1:])

    alone = not isinstance(weights, tuple)
    pair = (weights, np.zeros((*row.batch, T, N))) if alone else weights
    cap = np.inf if row.logits_soft_cap is None else row.logits_soft_cap
    moving = {x: jnp.asarray(moving[x]) for x in moving}
    dense, push = jax.linearize(lambda x: spread(row, x, filled), moving)
    pull = jax.linear_transpose(push, moving)
    out, tangent, slope, second = _dense_orders(
        dense, push(tangents), jax.tree.map(filled, pair), filled(seen(row, fixed)), cap
    )
    out, tangent = (jax.tree.map(unfilled, x)[0 if alone else slice(2)] for x in (out, tangent))
    return Orders(out, tangent, pull(slope)[0], pull(second)[0])


def directions(row: Row, moving, seed: int = 1) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A tangent for every moving array, and a cotangent for the output."""
    rng = np.random.default_rng(seed)
    tangents = {x: rng.normal(size=np.shape(moving[x])) for x in moving}
    return tangents, rng.normal(size=(*row.batch, T, N, HV))
