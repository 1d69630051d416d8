"""Multi-head attention in which every head learns how sparse it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.attention import attention_fn
from jsoftmax.core._contents import Held
from jsoftmax.mappings._constraints import Interval


class AdaptivelySparseAttention(nnx.MultiHeadAttention):
    r"""`flax.nnx.MultiHeadAttention` by α-entmax, with an α for each head that is learned.

    For head h, with queries, keys and values projected from what is attended from and to,

    .. math:: p = \mathrm{entmax}_{α_h}(QK^⊤/\sqrt{d}), \qquad α_h = 1 + σ(a_h) \in [1, 2]

    is the attention and pV what is projected back. A head at α = 1 looks at everything, as softmax
    does; the larger its α, the more keys get a weight of exactly 0. It is called as Flax's module
    is, and has the same parameters, and `free_alpha` of shape [heads] besides.

    Args:
        num_heads: how many heads there are.
        in_features: the size of the last axis of what attends.
        alpha: α where learning starts, a number or one for each head.
        alpha_range: the lower end, at least 0, and the upper end, perhaps infinite, of α. (With
            (1, inf), α = 1 + log(1 + eᵃ).)
        attention: what else `jsoftmax.attention_fn` takes, by name: `is_causal`,
            `local_window_size`, `logits_soft_cap`, `block_q` and so on.
        rngs: where the keys of initialisers, and of dropout, come from.
        options: what else `flax.nnx.MultiHeadAttention` takes, by name, but `attention_fn`.

    Raises:
        TypeError: for an `attention_fn`, whose place is taken.
        ValueError: if α does not start strictly inside its range, or is not one number or one for
            each head.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = AdaptivelySparseAttention(2, 8, decode=False, rngs=nnx.Rngs(0))
        >>> x = jax.random.normal(jax.random.key(0), (4, 6, 8))
        >>> print(layer.alpha, layer(x).shape)
        [1.5 1.5] (4, 6, 8)
        >>> gradient = nnx.grad(lambda layer: jnp.square(layer(x)).mean())(layer)
        >>> print(gradient.free_alpha.shape)
        (2,)

    Reference:
        G. M. Correia, V. Niculae and A. F. T. Martins, "Adaptively sparse transformers", 2019.
    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        *,
        alpha: ArrayLike = 1.5,
        alpha_range: tuple[float, float] = (1.0, 2.0),
        attention: Mapping[str, Any] = MappingProxyType({}),
        rngs: nnx.Rngs,
        **options: Any,
    ):
        if "attention_fn" in options:
            raise TypeError(
                "jsoftmax.nnx.AdaptivelySparseAttention: `attention_fn` is not free, because α "
                "decides. Give what else attention takes as `attention`, or take "
                "flax.nnx.MultiHeadAttention."
            )
        super().__init__(num_heads, in_features, rngs=rngs, **options)
        del self.attention_fn  # Flax's default, which hides the method of that name
        self.attention_options = Held(attention)
        self.alpha_interval = Interval(*alpha_range)
        self.free_alpha = nnx.Param(
            self.alpha_interval.free(
                "nnx.AdaptivelySparseAttention",
                "alpha",
                alpha,
                (num_heads,),
                self.param_dtype,
                constant="take flax.nnx.MultiHeadAttention with attention_fn(alpha)",
            )
        )

    @property
    def alpha(self) -> Float[Array, " heads"]:
        """α of each head as it is now."""
        return self.alpha_interval.number(self.free_alpha[...])

    def attention_fn(self, *arrays: Array, **options: Any) -> Array:
        """Attention by the α of now: what `flax.nnx.MultiHeadAttention` calls."""
        return attention_fn(self.alpha, **self.attention_options.value)(*arrays, **options)
