"""The result of a top-k search: k values and their classes."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class TopK(NamedTuple):
    """The k highest classes of every token, in falling order.

    Args:
        values: the sort key, of shape [..., k]: scores in `linear_topk`, log-probabilities
            elsewhere.
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
