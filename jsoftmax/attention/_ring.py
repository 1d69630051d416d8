"""Ring attention: softmax attention with queries and keys split over a mesh axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jsoftmax.attention._attend import Sizes, attend, sizes_for
from jsoftmax.attention._attention_arguments import Arguments, Given, prepared, read_arguments
from jsoftmax.attention._attention_problem import Rule
from jsoftmax.attention._folds import like_rows
from jsoftmax.attention._merge import merge_attention
from jsoftmax.attention._score_fn import axes_of_places
from jsoftmax.core import _checks as checks
from jsoftmax.core._mesh_axes import alike, axis_names, varies_over
from jsoftmax.core.regularizers import SHANNON


def ring_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    axis_name: Hashable,
    order: str = "contiguous",
    part_length: ArrayLike | None = None,
    scale: float | ArrayLike | None = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: ArrayLike | tuple[ArrayLike | None, ArrayLike | None] | None = None,
    query_segment_ids: ArrayLike | None = None,
    key_value_segment_ids: ArrayLike | None = None,
    logits_soft_cap: float | ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    score_fn: Callable[..., Any] | None = None,
    dropout_rng: Array | None = None,
    dropout_rate: float = 0.0,
    broadcast_dropout: bool = False,
    return_residual: bool = False,
    block_q: int | None = None,
    block_k: int | None = None,
) -> (
    Float[Array, "*batch queries heads value_width"]
    | tuple[Float[Array, "*batch queries heads value_width"], Float[Array, "*batch queries heads"]]
):
    """Softmax attention of a sequence that is split over devices in a ring.

    Call it inside `shard_map` (or `vmap` with an `axis_name`), where device i of n holds the i-th
    of n equal parts of the queries and of the keys and values. In zigzag order it holds the chunks
    i and 2n − 1 − i of 2n, one after the other: then a causal mask leaves the same work to every
    device at every turn, while in contiguous order the last has n times as much as the first. Parts
    need not be equal: `part_length` gives the length in use. In n turns the keys and values pass
    round the ring, and every device merges its results for the parts. Parts that `is_causal` or
    `local_window_size` hide are passed on without being read. The result is that of
    `dot_product_attention` on the whole sequence.

    A device keeps all keys and values for the backward pass, so that the memory of `grad` is linear
    in the length of the whole sequence; that of the forward pass is linear in the length of a part.

    For α ≠ 1 partial results do not merge. Gather the queries, which are of linear size too, and
    call `dot_product_attention(..., alpha=α, axis_name=axis_name)` for the split keys.

    Args:
        query: this device's queries, of shape (*batch, queries, heads, width).
        key: this device's keys, of shape (*batch, keys, key heads, width).
        value: this device's values, of shape (*batch, keys, key heads, value width).
        axis_name: the mesh axis that splits the sequence.
        order: "contiguous" or "zigzag".
        part_length: how many positions of this device's arrays are in use, an integer from 0 to
            their size, which may differ from device to device; the padding behind them gives zeros,
            and does not count as positions. Queries and keys have the same. None for all.
        scale: as for `dot_product_attention`, like all arguments below.
        is_causal: whether a query sees no key after its position in the whole sequence.
        query_seq_lengths: lengths of whole sequences, integers of shape (*batch,).
        key_value_seq_lengths: lengths of whole sequences, integers of shape (*batch,).
        local_window_size: how many keys before and after its own position a query sees.
        query_segment_ids: this device's, integers of shape (*batch, queries).
        key_value_segment_ids: this device's, integers of shape (*batch, keys).
        logits_soft_cap: c > 0 replaces z by c tanh(z/c).
        sinks: the score of one more class without a value, counted once for the whole row.
        score_fn: as for `dot_product_attention`, with positions in the whole sequence. Its arrays
            are whole on every device, except those of `ForgettingGate`: its sums are split like the
            keys, and passed round with them.
        dropout_rng: a random key for dropout, the same on all devices.
        dropout_rate: the share of weights that are dropped.
        broadcast_dropout: whether all batch entries and heads drop the same weights.
        return_residual: also return the logsumexp of each row of scores.
        block_q: how many queries are computed together.
        block_k: with how many keys.

    Returns:
        This device's mixtures, of shape (*batch, queries, heads, value width); with
        `return_residual` also τ of shape (*batch, queries, heads).

    Raises:
        TypeError: as `dot_product_attention`.
        ValueError: as `dot_product_attention`; for an unknown order, zigzag parts of odd length,
            and `part_length` in zigzag order.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> from functools import partial
        >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 12, 4, 8))
        >>> split = [x.reshape(3, 4, 4, 8) for x in (q, k, v)]  # over three devices, here of vmap
        >>> ring = partial(jsoftmax.ring_attention, axis_name="ring", is_causal=True)
        >>> out = jax.vmap(ring, axis_name="ring")(*split).reshape(12, 4, 8)
        >>> whole = jsoftmax.dot_product_attention(q, k, v, is_causal=True)
        >>> bool(jnp.allclose(out, whole, atol=1e-6))
        True

    Reference:
        Liu, Zaharia & Abbeel, "Ring attention with blockwise transformers for near-infinite
        context", 2023.
    """
    function = "ring_attention"
    query, key, value = (
        checks.as_array(function, name, x)
        for name, x in (("query", query), ("key", key), ("value", value))
    )
    if key_value_segment_ids is None:
        key_value_segment_ids = query_segment_ids
    index = jax.lax.axis_index(axis_name)
    count = _read_order(function, order, part_length, query, key)
    ring = Ring(axis_name, order == "zigzag", count is not None)
    given, rule = read_arguments(
        function, query, key, value, None, None, regularizer=SHANNON, scale=scale,
        is_causal=is_causal,
        query_seq_lengths=query_seq_lengths, key_value_seq_lengths=key_value_seq_lengths,
        local_window_size=local_window_size, query_segment_ids=query_segment_ids,
        key_value_segment_ids=key_value_segment_ids, logits_soft_cap=logits_soft_cap, sinks=sinks,
        dropout_rng=dropout_rng, dropout_rate=dropout_rate, broadcast_dropout=broadcast_dropout,
        axis_name=None, query_start=index * query.shape[-3], key_start=index * key.shape[-3],
        score_fn=score_fn,
    )  # fmt: skip
    if axes_of_places(rule.score_fn):
        if query.shape[-3] != key.shape[-3]:
            raise ValueError(
                f"jsoftmax.{function}: {type(score_fn).__name__} gives one number for each "
                f"position, of a query and a key alike, so `query` {query.shape} and `key` "
                f"{key.shape} must be of the same length."
            )
        given = given._replace(key_score_arrays=given.score_arrays)
    given = given._replace(query_count=count)
    sizes = sizes_for(function, given, rule, block_q, block_k)
    out, tau = _around(given, rule, sizes, ring)
    return (out, tau) if return_residual else out


def _of_queries(rule: Rule) -> dict[str, Any]:
    """Return the arrays that belong to single queries, and the axis of their positions."""
    axes = axes_of_places(rule.score_fn)
    own = {"score_arrays": axes} if axes else {}
    return {"query": -3, "query_segment_ids": -1, "scale": -2, **own}


def _of_keys(rule: Rule) -> dict[str, Any]:
    """Return the arrays that belong to single keys and are passed round with them."""
    axes = axes_of_places(rule.score_fn)
    return {"key": -3, "value": -3, "key_value_segment_ids": -1, "key_score_arrays": axes}


def _read_order(function, order, part_length, query, key):
    if order not in ("contiguous", "zigzag"):
        raise ValueError(
            f"jsoftmax.{function}: `order` must be 'contiguous' or 'zigzag', got {order!r}."
        )
    sizes = query.shape[-3:-2] + key.shape[-3:-2]
    if order == "zigzag" and any(n % 2 for n in sizes):
        raise ValueError(
            f"jsoftmax.{function}: in zigzag order `query` {query.shape} and `key` {key.shape} "
            "hold two chunks each, so their lengths must be even."
        )
    if part_length is None:
        return None
    if order == "zigzag":
        raise ValueError(
            f"jsoftmax.{function}: `part_length` is for the contiguous order; in zigzag order pad "
            "the whole sequence and give `query_seq_lengths` and `key_value_seq_lengths`."
        )
    part_length = checks.as_array(function, "part_length", part_length)
    if part_length.shape != () or not jnp.issubdtype(part_length.dtype, jnp.integer):
        raise ValueError(
            f"jsoftmax.{function}: `part_length` must be one integer on each device, got shape "
            f"{part_length.shape} and dtype {part_length.dtype}."
        )
    return part_length.astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Ring:
    """Static parameters of a ring: the mesh axis, and the positions that a device holds."""

    axis_name: Hashable
    is_zigzag: bool
    is_uneven: bool

    def chunks(
        self, given: Any, names: dict[str, Any], device: Any, devices: int, counts: Any
    ) -> list[tuple[Any, Any, dict[str, Any]]]:
        """Return a device's runs of positions: their start, their length in use, their arrays.

        In zigzag order of 2n chunks it holds the chunks i and 2n − 1 − i: of the four pairs with
        those of another device a causal mask shows two, whichever devices these are.
        """
        arrays = {name: getattr(given, name) for name in names}
        size = next(iter(arrays.values())).shape[-3]
        if counts is not None:
            start = jnp.sum(jnp.where(jnp.arange(devices) < device, counts, 0), dtype=jnp.int32)
            return [(start, counts[device], arrays)]
        if not self.is_zigzag:
            return [(device * size, None, arrays)]

        def half(first):
            low, high = (0, size // 2) if first else (size // 2, size)

            def cut(x, axis):
                if isinstance(x, tuple):
                    return tuple(map(cut, x, axis))
                if x is None or axis is None or x.ndim < -axis or x.shape[axis] != size:
                    return x
                return jax.lax.slice_in_dim(x, low, high, axis=axis)

            return {name: cut(x, names[name]) for name, x in arrays.items()}

        places = device, 2 * devices - 1 - device
        return [(place * (size // 2), None, half(place is device)) for place in places]


# Compiled once for a shape also outside of `jit`; so is its derivative, which inlining would undo.
@partial(jax.jit, static_argnums=(1, 2, 3))
def _around(given: Given, rule: Rule, sizes: Sizes, ring: Ring) -> tuple[Array, Array]:
    """Return the mixtures and τ over the keys of all devices."""
    axis_name = ring.axis_name
    devices, own = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    counts = None
    if given.query_count is not None:
        counts = jax.lax.all_gather(given.query_count, axis_name)
    queries = [
        given._replace(query_start=start, query_count=count, **part)
        for start, count, part in ring.chunks(given, _of_queries(rule), own, devices, counts)
    ]

    def seen(owner, going, sinks):
        """Return the mixtures and τ of each chunk of queries, from the keys of one device."""
        keys = ring.chunks(given._replace(**going), _of_keys(rule), owner, devices, counts)
        for i, chunk in enumerate(queries):
            parts = []
            for j, (start, count, part) in enumerate(keys):
                part = chunk._replace(
                    key_start=start, key_count=count, sinks=sinks if i == j else None, **part
                )
                parts.append(_unless_hidden(prepared(part, rule), sizes))
            yield parts

    def merged(parts):
        outs, taus = zip(*parts, strict=True)
        return parts[0] if len(parts) == 1 else merge_attention(jnp.stack(outs), jnp.stack(taus))

    def turn(state, step):
        owner, going, found = state
        going = _passed_on(going, rule, step, ring)
        owner = (owner - 1) % devices
        here = seen(owner, going, None)  # sinks count once
        found = [merged([x, *parts]) for x, parts in zip(found, here, strict=True)]
        return (owner, going, found), None

    going = alike({name: getattr(given, name) for name in _of_keys(rule)})
    start = own, going, [merged(parts) for parts in seen(own, going, given.sinks)]
    turns = _turns(rule, devices, given.key.shape[-3], ring)
    (_, _, found), _ = jax.lax.scan(turn, start, jnp.arange(turns, dtype=jnp.int32))
    outs, taus = zip(*found, strict=True)
    out, tau = jnp.concatenate(outs, axis=-2), jnp.concatenate(taus, axis=-1)
    arguments = prepared(given, rule)
    return arguments.output(out), arguments.output(tau[..., None])[..., 0]


def _passed_on(going, rule: Rule, step: Array, ring: Ring):
    """Receive the keys of the previous device, at turn `step`.

    Queries that see no later keys need none from behind their own. Keys that have reached the last
    device go no further, so that half of a full ring is moved. Under `vmap` nothing is moved, and
    JAX requires whole permutations.
    """
    axis_name = ring.axis_name
    devices = jax.lax.axis_size(axis_name)
    is_mesh = varies_over(going["key"]).issuperset(axis_names(axis_name))

    def pass_on(first, last):
        pairs = [(i, (i + 1) % devices) for i in range(first, last)]
        return lambda going: jax.lax.ppermute(going, axis_name, pairs)

    if ring.is_zigzag or not (is_mesh and _is_causal(rule)):
        return pass_on(0, devices)(going)
    return jax.lax.switch(step, [pass_on(i, devices - 1) for i in range(devices - 1)], going)


def _turns(rule: Rule, devices: int, keys: int, ring: Ring) -> int:
    """Return how many other devices hold keys that the queries of a device may see."""
    before, _ = rule.window
    if before is None or not _is_causal(rule) or ring.is_zigzag or ring.is_uneven:
        return devices - 1
    return min(devices - 1, (before + keys - 1) // keys)


def _is_causal(rule: Rule) -> bool:
    return rule.window[1] == 0


def _unless_hidden(arguments: Arguments, sizes: Sizes) -> tuple[Array, Array]:
    """Return the mixtures and τ of one part; compute nothing where no query sees a key."""
    moving, fixed, (before, after) = arguments.moving, arguments.fixed, arguments.rule.window

    def seen():
        out, tau = attend(arguments, sizes)
        return out, tau[..., 0]

    def hidden():
        lowest, zero = (like_rows(moving, fixed, value) for value in (-jnp.inf, 0))
        mixture = jnp.broadcast_to(zero, (*zero.shape[:-1], moving.v.shape[-2]))
        return mixture, lowest[..., 0]

    rows, columns = fixed.row_places, fixed.column_places
    is_hidden = jnp.bool_(False)
    if after is not None:
        is_hidden |= columns.min() > rows.max() + after
    if before is not None:
        is_hidden |= columns.max() < rows.min() - before
    return seen() if before is None and after is None else jax.lax.cond(is_hidden, hidden, seen)
