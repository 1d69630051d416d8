"""Multi-head attention with a learned sparsity α for each head."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from jsoftmax.attention import attention_fn
from jsoftmax.core._contents import Held, hashable, of_hashable
from jsoftmax.core._initializers import lecun_columns
from jsoftmax.mappings._constraints import Interval


class AdaptivelySparseAttention(nn.MultiHeadDotProductAttention):
    r"""`flax.linen.MultiHeadDotProductAttention` by α-entmax, with a learned α for each head.

    For head h, with queries, keys and values projected from the inputs,

    .. math:: p = \mathrm{entmax}_{α_h}(QK^⊤/\sqrt{d}), \qquad α_h = 1 + σ(a_h) \in [1, 2]

    is the attention, and pV is projected back. A head at α = 1 gives every key a positive weight,
    as softmax does; the larger its α, the more keys get a weight of exactly 0. It is called like
    Flax's module and has the same parameters, and in addition `free_alpha` of shape [heads];
    `current_alpha` returns the current α.

    Args:
        num_heads: the number of heads. It, and the fields not listed here, are those of
            `flax.linen.MultiHeadDotProductAttention`, except `attention_fn`.
        alpha: the initial α, a number or one for each head.
        alpha_range: the range of α: its lower end, at least 0, and its upper end, which may be
            infinite. (With (1, inf), α = 1 + log(1 + eᵃ).)
        attention: further arguments of `jsoftmax.attention_fn`, by name: `is_causal`,
            `local_window_size`, `logits_soft_cap`, `block_q` and so on.

    Raises:
        TypeError: for an `attention_fn`, which the module sets itself.
        ValueError: if the initial α is not strictly inside its range, or is not one number or one
            for each head.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = AdaptivelySparseAttention(num_heads=2)
        >>> x = jax.random.normal(jax.random.key(0), (4, 6, 8))
        >>> variables = layer.init(jax.random.key(1), x)
        >>> print(layer.apply(variables, method="current_alpha"), layer.apply(variables, x).shape)
        [1.5 1.5] (4, 6, 8)
        >>> gradient = jax.grad(lambda v: jnp.square(layer.apply(v, x)).mean())(variables)
        >>> print(gradient["params"]["free_alpha"].shape)
        (2,)

    Reference:
        G. M. Correia, V. Niculae and A. F. T. Martins, "Adaptively sparse transformers", 2019.
    """

    _: dataclasses.KW_ONLY
    kernel_init: Any = lecun_columns
    alpha: Any = 1.5
    alpha_range: tuple[float, float] = (1.0, 2.0)
    attention: Any = Held({})
    attention_fn: Any = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "alpha", hashable(self.alpha))
        object.__setattr__(self, "alpha_range", hashable(self.alpha_range))
        object.__setattr__(self, "attention", Held(self.attention))
        super().__post_init__()

    def setup(self):
        """Create the parameter of each head's α, and the attention that uses it."""
        self.alpha_interval = Interval(*self.alpha_range)
        free = self.alpha_interval.free(
            "linen.AdaptivelySparseAttention",
            "alpha",
            of_hashable(self.alpha),
            (self.num_heads,),
            self.param_dtype,
            constant="take flax.linen.MultiHeadDotProductAttention with attention_fn(alpha)",
        )
        self.free_alpha = self.param("free_alpha", lambda key: free)
        self.attention_fn = attention_fn(self.current_alpha(), **self.attention.value)

    def current_alpha(self) -> Float[Array, " heads"]:
        """The current α of each head."""
        return self.alpha_interval.number(self.free_alpha)
