"""What a search for the most probable classes returns."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class TopKClasses(NamedTuple):
    """The most probable classes of every token, the first the most probable.

    Args:
        log_probs: of shape [..., k], their log-probabilities.
        classes: of shape [..., k], int32.

    Example:
        >>> import jax.numpy as jnp
        >>> import jsoftmax
        >>> tree = jsoftmax.balanced_tree(4)
        >>> found = jsoftmax.hierarchical_topk(jnp.ones(2), jnp.ones([3, 2]), tree, 1)
        >>> print(found.log_probs.shape, found.classes)
        (1,) [0]
    """

    log_probs: Float[Array, "... k"]
    classes: Int[Array, "... k"]
