"""Choose the output of a module: with or without noise, relaxed or one-hot."""

from __future__ import annotations

from typing import Any

from jax import Array
from jaxtyping import ArrayLike

from jsoftmax.core._problem import problem
from jsoftmax.mappings import entmax
from jsoftmax.sampling._draw import one_hot_max
from jsoftmax.sampling._relaxed import gumbel_entmax
from jsoftmax.sampling._straight_through import straight_through


def choice(
    key: ArrayLike | None,
    logits: ArrayLike,
    temperature: ArrayLike,
    alpha: ArrayLike,
    axis: int | tuple[int, ...],
    where: Any,
    hard: bool,
) -> Array:
    """Return a sample drawn with `key`, or without a key the most probable class.

    It is relaxed or, if `hard`, one-hot with the derivative of the relaxed one.
    """
    if key is None:
        soft = entmax(logits, alpha, axis, where=where, temperature=temperature)
        if not hard:
            return soft
        ask = problem("GumbelSoftmax", logits, axis, where)
        return straight_through(one_hot_max(ask.z, ask.classes), soft)
    soft = gumbel_entmax(key, logits, temperature, axis, alpha=alpha, where=where)
    if not hard:
        return soft
    one_hot = gumbel_entmax(key, logits, 0.0, axis, alpha=alpha, where=where)
    return straight_through(one_hot, soft)
