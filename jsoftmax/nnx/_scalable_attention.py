"""Multi-head attention with a learned scale that grows with the number of visible keys."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flax import nnx
from jaxtyping import Array, ArrayLike

from jsoftmax.attention import attention_fn
from jsoftmax.attention._length_scale import by_length, learned_number, without_scale
from jsoftmax.core._contents import Held

_NAME = "nnx.ScalableAttention"


class ScalableAttention(nnx.MultiHeadAttention):
    r"""`flax.nnx.MultiHeadAttention` with a scale that grows with the log of the visible keys.

    For a query of head h that sees n keys,

    .. math:: p = \mathrm{entmax}_α((δ + β_h (\log n)^{γ_h})\, QK^⊤/\sqrt{d})

    is the attention, with learned β and γ. Over more keys softmax is flatter, and entmax denser;
    the scale counters that, so that parameters learned at one length serve at others. n is the
    number of `visible_keys`: it restarts with every packed document, and grows with a cache.
    Adaptive-scalable entmax has δ = 1, and starts as plain attention where β starts at 0; scalable
    softmax has α = 1 and δ = 0. It is called like Flax's module and has the same parameters, and in
    addition `learned_beta` and `learned_gamma` of shape [heads].

    Args:
        num_heads: the number of heads.
        in_features: the size of the last axis of the queries' input.
        alpha: α > 0, a number or one for each head, not learned; None where `attention` has a
            `regularizer`.
        delta: δ, a number or one for each head, not learned.
        beta: the initial β, a number or one for each head.
        gamma: the initial γ, a number or one for each head.
        attention: further arguments of `jsoftmax.attention_fn` except `scale`, by name:
            `is_causal`, `local_window_size`, `query_segment_ids` and so on.
        rngs: source of the keys of initialisers and of dropout.
        options: further arguments of `flax.nnx.MultiHeadAttention` except `attention_fn`, by name.

    Raises:
        TypeError: for an `attention_fn` or a `scale`, which the module sets itself.
        ValueError: if δ, β or γ is neither one number nor one for each head.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> layer = ScalableAttention(
        ...     2, 8, alpha=1.0, delta=0.0, beta=0.5, decode=False, rngs=nnx.Rngs(0)
        ... )
        >>> x = jax.random.normal(jax.random.key(0), (4, 6, 8))
        >>> print(layer(x, mask=nnx.make_causal_mask(x[..., 0])).shape)
        (4, 6, 8)

    References:
        Nakanishi, "Scalable-softmax is superior for attention", 2025. Vasylenko, Pitorro, Martins &
        Treviso, "Long-context generalization with sparse attention", 2025.
    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        *,
        alpha: ArrayLike | None = 1.5,
        delta: ArrayLike = 1.0,
        beta: ArrayLike = 0.0,
        gamma: ArrayLike = 1.0,
        attention: Mapping[str, Any] = MappingProxyType({}),
        rngs: nnx.Rngs,
        **options: Any,
    ):
        without_scale(_NAME, attention, options)
        super().__init__(num_heads, in_features, rngs=rngs, **options)
        del self.attention_fn  # Flax's default, which hides the method of that name
        self.attention_options = Held(attention)
        self.alpha, self.delta = Held(alpha), Held(delta)
        of_heads = (num_heads,), self.param_dtype
        self.learned_beta = nnx.Param(learned_number(_NAME, "beta", beta, *of_heads))
        self.learned_gamma = nnx.Param(learned_number(_NAME, "gamma", gamma, *of_heads))

    def attention_fn(self, *arrays: Array, **options: Any) -> Array:
        """Compute attention with the current scale; `flax.nnx.MultiHeadAttention` calls this."""
        scale = by_length(self.delta.value, self.learned_beta[...], self.learned_gamma[...])
        attend = attention_fn(self.alpha.value, scale=scale, **self.attention_options.value)
        return attend(*arrays, **options)
