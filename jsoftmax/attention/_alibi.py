"""Attention with linear biases (ALiBi): a penalty on scores that grows with distance."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jsoftmax.attention._score_fn import LaidScore, Outline
from jsoftmax.core import _checks as checks


@dataclasses.dataclass(frozen=True)
class ALiBi(LaidScore):
    r"""Linear biases: each head subtracts slope × distance from its scores.

    .. math:: z_{ts} ← z_{ts} - m_h\, |t - s|

    Pass it to `dot_product_attention` as `score_fn`. A `bias` would be an array of all queries and
    keys; here the penalty is computed with each block, and so is the gradient of the slopes.

    Args:
        slopes: m, a number or of shape (heads,). The paper takes 2^(−8 i/heads) for i = 1 … heads,
            where the number of heads is a power of 2. Differentiable.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 100, 4, 8))
        >>> slopes = 2.0 ** (-8 * jnp.arange(1, 5) / 4)
        >>> alibi = jsoftmax.ALiBi(slopes)
        >>> jsoftmax.dot_product_attention(q, k, v, is_causal=True, score_fn=alibi).shape
        (100, 4, 8)
        >>> float(alibi(0.0, 0, 3, 7, 5))  # head 3, query 7, key 5
        -0.0078125

    Reference:
        Press, Smith & Lewis, "Train short, test long: attention with linear biases enables input
        length extrapolation", ICLR 2022.
    """

    slopes: ArrayLike
    arrays: ClassVar[tuple[str, ...]] = ("slopes",)

    def __call__(
        self, score: ArrayLike, batch: ArrayLike, head: Any, query: Any, key: Any
    ) -> Array:
        """Return the score of one query and key of one head."""
        slopes = jnp.asarray(self.slopes).reshape(-1)
        return jnp.asarray(score) - slopes[head if slopes.size > 1 else 0] * abs(query - key)

    def check(self, outline: Outline) -> None:
        """Raise an error for slopes that do not fit the heads."""
        shape = checks.as_array(outline.function, "score_fn.slopes", self.slopes).shape
        if shape not in ((), (1,), (outline.heads,)):
            raise ValueError(
                f"jsoftmax.{outline.function}: `slopes` of ALiBi has shape {shape}; give one "
                f"number, or one for each of the {outline.heads} heads of `query`."
            )

    def laid(self, outline: Outline) -> tuple[tuple[Array, ...], ...]:
        """Return the slopes by head."""
        return (outline.by_head(jnp.asarray(self.slopes).reshape(-1)),), (), ()

    def of_block(
        self, score: Array, laid: tuple[tuple[Array, ...], ...], query: Array, key: Array
    ) -> Array:
        """Return the scores of a block."""
        ((slopes,), _, _) = laid
        return score - slopes * jnp.abs(query - key).astype(score.dtype)
