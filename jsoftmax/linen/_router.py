"""A router of tokens to experts: a linear gate, and the bias that balances them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._initializers import lecun_columns
from jsoftmax.mappings._constraints import constant_regularizer
from jsoftmax.routing import Routing, route, update_bias
from jsoftmax.routing._gate import gate_logits, without_bias

_NAME = "linen.Router"


class Router(nn.Module):
    r"""A linear gate to E experts, read by `jsoftmax.route`: k experts a token, and their weights.

    .. math:: z = h W + c, \qquad C = \mathrm{top}_k(s + b), \qquad
              w_i = s_i \Big/ \sum_{j \in C} s_j \quad (i \in C)

    with s the score of z. b is the bias that balances experts without a loss. It is state of the
    collection "balance", no parameter, and moves when it is asked to and the collection is mutable:
    by the load of a call that is given a `bias_rate`, or by `update_bias`, which takes a load that
    may be summed over several calls. Balance and z losses are in the statistics that a call
    returns.

    Features in bfloat16 are raised to float32 before the gate multiplies them.

    Args:
        features: d, the size of the last axis of what is read.
        experts: E, how many experts there are.
        k: how many experts a token has, from 1 to E.
        score: "softmax", "sigmoid", or "entmax".
        normalize: whether the weights of a token sum to 1 over its experts.
        groups: how many groups the experts are cut into.
        groups_kept: how many groups a token may choose from; None for all.
        group_best: how many of its experts judge a group.
        alpha: α > 0 of "entmax" and of a capacity, a number; 1.5 where it is None.
        regularizer: a `Regularizer` in the place of `Tsallis(alpha)`.
        use_balancing_bias: whether there is a b, of shape [E] and in float32, which starts at 0.
        use_bias: whether there is a c.
        dtype: the dtype of logits and weights; by default that of features and W promoted, float32
            at least.
        param_dtype: the dtype of W and c.
        precision: of the product h W, as `jax.lax.dot_general` takes it. On TPUs, and on GPUs with
            TF32, products of float32 have all their bits at "highest" alone.
        kernel_init: initialiser of W, of shape [d, E].
        bias_init: initialiser of c, of shape [E].

    Raises:
        TypeError: if `alpha` is not a number.
        ValueError: if `alpha` is not positive, or given beside a `regularizer`.
        flax.errors.ModifyScopeVariableError: if the bias cannot move, because "balance" is not
            mutable.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> router = Router(8, 4, 2, score="sigmoid", use_balancing_bias=True)
        >>> h = jax.random.normal(jax.random.key(0), (16, 8))
        >>> variables = router.init(jax.random.key(1), h)
        >>> routing, balance = router.apply(variables, h, bias_rate=0.5, mutable=["balance"])
        >>> print(routing.experts.shape, routing.statistics.load.tolist())
        (16, 2) [6, 7, 11, 8]
        >>> print(balance["balance"]["balancing_bias"].tolist())
        [0.5, 0.5, -0.5, 0.0]

    Reference:
        DeepSeek-AI, "DeepSeek-V3 technical report", 2024; `route` has the others.
    """

    features: int
    experts: int
    k: int
    _: dataclasses.KW_ONLY
    score: str = "softmax"
    normalize: bool = True
    groups: int = 1
    groups_kept: int | None = None
    group_best: int = 2
    alpha: Any = None
    regularizer: Any = None
    use_balancing_bias: bool = False
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = "highest"
    kernel_init: Any = lecun_columns
    bias_init: Any = nn.initializers.zeros_init()

    def __post_init__(self):
        held = constant_regularizer(_NAME, self.alpha, self.regularizer)
        object.__setattr__(self, "alpha", None)  # so that a copy of the module is made of one
        object.__setattr__(self, "regularizer", held)
        super().__post_init__()

    def setup(self):
        """Make the gate and, where it is wanted, the balancing bias."""
        shape = (self.features, self.experts)
        self.kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        self.bias = None
        if self.use_bias:
            self.bias = self.param("bias", self.bias_init, shape[1:], self.param_dtype)
        self.balancing_bias = None
        if self.use_balancing_bias:
            # In float32 whatever the parameters are, since a step would be lost in fewer bits.
            self.balancing_bias = self.variable(
                "balance", "balancing_bias", lambda: jnp.zeros(shape[1:], jnp.float32)
            )

    def __call__(
        self,
        features: ArrayLike,
        *,
        where: ArrayLike | None = None,
        capacity: ArrayLike | None = None,
        axis_name: Any = None,
        bias_rate: ArrayLike | None = None,
    ) -> Routing:
        """Features [..., d] → `Routing`: experts and weights [..., k], and statistics.

        `where`, `capacity` and `axis_name` are as `route` takes them. With a `bias_rate` r the
        balancing bias moves by the load of this call, after it was used.
        """
        routing = route(
            self.logits(features),
            self.k,
            score=self.score,
            normalize=self.normalize,
            bias=None if self.balancing_bias is None else self.balancing_bias.value,
            groups=self.groups,
            groups_kept=self.groups_kept,
            group_best=self.group_best,
            regularizer=self.regularizer.value,
            capacity=capacity,
            where=where,
            axis_name=axis_name,
        )
        if bias_rate is not None and not self.is_initializing():
            self.update_bias(routing.statistics.load, bias_rate)
        return routing

    def logits(self, features: ArrayLike) -> Float[Array, "... experts"]:
        """Features [..., d] → logits [..., E]."""
        return gate_logits(_NAME, features, self.kernel, self.bias, self.dtype, self.precision)

    def update_bias(self, load: ArrayLike, rate: ArrayLike = 1e-3) -> None:
        """Move the balancing bias by a load [E], `statistics.load` of calls, as `update_bias` does.

        On a mesh the load is that of all devices.
        """
        if self.balancing_bias is None:
            raise without_bias(_NAME)
        self.balancing_bias.value = update_bias(self.balancing_bias.value, load, rate)
