"""What a search for the highest of all classes returns."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class TopK(NamedTuple):
    """The k classes of every token that come first, the highest first.

    Args:
        values: of shape [..., k], by which the classes are ordered: scores in `linear_topk`,
            log-probabilities elsewhere.
        classes: of shape [..., k], int32.

    Example:
        >>> import jax.numpy as jnp
        >>> import jsoftmax
        >>> found = jsoftmax.linear_topk(jnp.array([1.0, 2.0]), jnp.eye(2), 1)
        >>> print(found.values, found.classes)
        [2.] [1]
    """

    values: Float[Array, "... k"]
    classes: Int[Array, "... k"]
