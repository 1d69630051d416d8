"""Statistics of the load of experts, as sums over tokens, and the losses computed from them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


class RoutingStatistics(NamedTuple):
    r"""Sums over the tokens of `route`, without fully masked tokens.

    Every field is a sum. So statistics of parts of a batch are added field by field: by
    `jax.tree.map` over microbatches, by `jax.lax.psum` over a mesh axis. Compute the losses
    afterwards, since the mean of the losses of parts is not the loss of the whole.

    Args:
        load: of shape [E], how many tokens chose each expert, before a capacity.
        importance: of shape [E], Σ_t p_t: the probability of each expert, summed over tokens.
        squared_log_partition: Σ_t (log Σ_i exp z_ti)².
        tokens: how many tokens count.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsoftmax.routing import route
        >>> z = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [1.0, 0.0]])
        >>> whole = route(z, 1).statistics
        >>> parts = [route(x, 1).statistics for x in jnp.split(z, 2)]
        >>> added = jax.tree.map(lambda *x: sum(x), *parts)
        >>> print(whole.load, whole.balance_loss, added.balance_loss)
        [3 1] 1.2 1.2
    """

    load: Int[Array, " experts"]
    importance: Float[Array, " experts"]
    squared_log_partition: Float[Array, ""]
    tokens: Int[Array, ""]

    @property
    def balance_loss(self) -> Float[Array, ""]:
        """E Σ f_i P_i, f the shares of `load` and P those of `importance`: 1 where all are equal.

        Gradients flow through P alone. 0 without any unmasked token.
        """
        dtype = self.importance.dtype
        share = self.load.astype(dtype) / jnp.maximum(jnp.sum(self.load), 1).astype(dtype)
        mean = self.importance / jnp.maximum(self.tokens, 1).astype(dtype)
        return self.load.shape[-1] * jnp.sum(share * mean)

    @property
    def z_loss(self) -> Float[Array, ""]:
        """The mean of (log Σ exp z)² over tokens; 0 without any unmasked token."""
        tokens = jnp.maximum(self.tokens, 1).astype(self.squared_log_partition.dtype)
        return self.squared_log_partition / tokens


def statistics_of(
    chosen: Array, p: Array, log_partition: Array, counts: Array, over: Hashable | None
) -> RoutingStatistics:
    """Sum over all axes of tokens, and over the parts of a mesh axis.

    `chosen` and `p` are of shape [..., E], `log_partition` and `counts` of shape [..., 1].
    """
    tokens = tuple(range(p.ndim - 1))
    sums = RoutingStatistics(
        jnp.sum(chosen & counts, tokens, dtype=jnp.int32),
        jnp.sum(jnp.where(counts, p, 0), tokens),
        jnp.sum(jnp.where(counts, log_partition, 0) ** 2),
        jnp.sum(counts, dtype=jnp.int32),
    )
    return sums if over is None else jax.lax.psum(sums, over)
