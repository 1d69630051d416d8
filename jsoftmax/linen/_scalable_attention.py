"""Multi-head attention with a learned scale that grows with the number of visible keys."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn

from jsoftmax.attention import attention_fn
from jsoftmax.attention._length_scale import by_length, learned_number, without_scale
from jsoftmax.core._contents import Held, hashable, of_hashable
from jsoftmax.core._initializers import lecun_columns

_NAME = "linen.ScalableAttention"


class ScalableAttention(nn.MultiHeadDotProductAttention):
    r"""`flax.linen.MultiHeadDotProductAttention` with a scale that grows with the visible keys.

    For a query of head h that sees n keys,

    .. math:: p = \mathrm{entmax}_α((δ + β_h (\log n)^{γ_h})\, QK^⊤/\sqrt{d})

    is the attention, with learned β and γ. Over more keys softmax is flatter, and entmax denser;
    the scale counters that, so that parameters learned at one length serve at others. n is the
    number of `visible_keys`: it restarts with every packed document, and grows with a cache.
    Adaptive-scalable entmax has δ = 1, and starts as plain attention where β starts at 0; scalable
    softmax has α = 1 and δ = 0. It is called like Flax's module and has the same parameters, and in
    addition `learned_beta` and `learned_gamma` of shape [heads].

    Args:
        num_heads: the number of heads. It, and the fields not listed here, are those of
            `flax.linen.MultiHeadDotProductAttention`, except `attention_fn`.
        alpha: α > 0, a number or one for each head, not learned; None where `attention` has a
            `regularizer`.
        delta: δ, a number or one for each head, not learned.
        beta: the initial β, a number or one for each head.
        gamma: the initial γ, a number or one for each head.
        attention: further arguments of `jsoftmax.attention_fn` except `scale`, by name:
            `is_causal`, `local_window_size`, `query_segment_ids` and so on.

    Raises:
        TypeError: for an `attention_fn` or a `scale`, which the module sets itself.
        ValueError: if δ, β or γ is neither one number nor one for each head.

    Example:
        >>> import jax
        >>> layer = ScalableAttention(num_heads=2, alpha=1.0, delta=0.0, beta=0.5)
        >>> x = jax.random.normal(jax.random.key(0), (4, 6, 8))
        >>> variables = layer.init(jax.random.key(1), x)
        >>> print(layer.apply(variables, x, mask=nn.make_causal_mask(x[..., 0])).shape)
        (4, 6, 8)

    References:
        Nakanishi, "Scalable-softmax is superior for attention", 2025. Vasylenko, Pitorro, Martins &
        Treviso, "Long-context generalization with sparse attention", 2025.
    """

    _: dataclasses.KW_ONLY
    kernel_init: Any = lecun_columns
    alpha: Any = 1.5
    delta: Any = 1.0
    beta: Any = 0.0
    gamma: Any = 1.0
    attention: Any = Held({})
    attention_fn: Any = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        for name in ("alpha", "delta", "beta", "gamma"):
            object.__setattr__(self, name, hashable(getattr(self, name)))
        object.__setattr__(self, "attention", Held(self.attention))
        without_scale(_NAME, self.attention.value, {})
        super().__post_init__()

    def setup(self):
        """Create the parameters of each head, and the attention that uses them."""

        def parameter(name):
            start = of_hashable(getattr(self, name))
            number = learned_number(_NAME, name, start, (self.num_heads,), self.param_dtype)
            return self.param(f"learned_{name}", lambda key: number)

        self.learned_beta, self.learned_gamma = parameter("beta"), parameter("gamma")
        scale = by_length(of_hashable(self.delta), self.learned_beta, self.learned_gamma)
        options = self.attention.value
        self.attention_fn = attention_fn(of_hashable(self.alpha), scale=scale, **options)
