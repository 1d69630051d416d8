"""Multi-head attention with a learned sparsity α for each head."""

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
    r"""`flax.nnx.MultiHeadAttention` by α-entmax, with a learned α for each head.

    For head h, with queries, keys and values projected from the inputs,

    .. math:: p = \mathrm{entmax}_{α_h}(QK^⊤/\sqrt{d}), \qquad α_h = 1 + σ(a_h) \in [1, 2]

    is the attention, and pV is projected back. A head at α = 1 gives every key a positive weight,
    as softmax does; the larger its α, the more keys get a weight of exactly 0. It is called like
    Flax's module and has the same parameters, and in addition `free_alpha` of shape [heads].

    Args:
        num_heads: the number of heads.
        in_features: the size of the last axis of the queries' input.
        alpha: the initial α, a number or one for each head.
        alpha_range: the range of α: its lower end, at least 0, and its upper end, which may be
            infinite. (With (1, inf), α = 1 + log(1 + eᵃ).)
        attention: further arguments of `jsoftmax.attention_fn`, by name: `is_causal`,
            `local_window_size`, `logits_soft_cap`, `block_q` and so on.
        rngs: source of the keys of initialisers and of dropout.
        options: further arguments of `flax.nnx.MultiHeadAttention` except `attention_fn`, by name.

    Raises:
        TypeError: for an `attention_fn`, which the module sets itself.
        ValueError: if the initial α is not strictly inside its range, or is not one number or one
            for each head.

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
                "jsoftmax.nnx.AdaptivelySparseAttention: the module sets `attention_fn` itself. "
                "Give further arguments of attention as `attention`, or take "
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
        """The current α of each head."""
        return self.alpha_interval.number(self.free_alpha[...])

    def attention_fn(self, *arrays: Array, **options: Any) -> Array:
        """Compute attention with the current α; `flax.nnx.MultiHeadAttention` calls this."""
        return attention_fn(self.alpha, **self.attention_options.value)(*arrays, **options)
