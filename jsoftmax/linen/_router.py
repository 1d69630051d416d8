"""Router of tokens to experts: a linear gate and a balancing bias."""

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
    r"""Router by a linear gate and `jsoftmax.route`: k of E experts for each token, and weights.

    .. math:: z = h W + c, \qquad C = \mathrm{top}_k(s + b), \qquad
              w_i = s_i \Big/ \sum_{j \in C} s_j \quad (i \in C)

    with s the score of z. b is the bias that balances experts without a loss. It is state of the
    collection "balance", not a parameter. Two calls update it, if the collection is mutable: a call
    with a `bias_rate`, by its own load, and `update_bias`, by a load that may be summed over
    several calls. Balance and z losses are in the statistics that a call returns.

    Features in bfloat16 are converted to float32 before the gate.

    Args:
        features: d, the size of the last axis of the input.
        experts: E, the number of experts.
        k: the number of experts of a token, from 1 to E.
        score: "softmax", "sigmoid", or "entmax".
        normalize: whether the weights of a token sum to 1 over its experts.
        groups: the number of groups of experts.
        groups_kept: the number of groups that a token may choose from; None for all.
        group_best: the number of best experts that give a group its score.
        alpha: α > 0 of "entmax" and of a capacity, a number; 1.5 where it is None.
        regularizer: a `Regularizer` instead of `Tsallis(alpha)`.
        use_balancing_bias: whether to use b, of shape [E] and in float32, initially 0.
        use_bias: whether to add c.
        dtype: the dtype of logits and weights; by default that of features and W promoted, float32
            at least.
        param_dtype: the dtype of W and c.
        precision: of the product h W, as in `jax.lax.dot_general`. On TPUs, and on GPUs with TF32,
            products of float32 have all their bits only at "highest".
        kernel_init: initialiser of W, of shape [d, E].
        bias_init: initialiser of c, of shape [E].

    Raises:
        TypeError: if `alpha` is not a number.
        ValueError: if `alpha` is not positive, or given beside a `regularizer`.
        flax.errors.ModifyScopeVariableError: if the bias cannot be updated, because "balance" is
            not mutable.

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
        # Cleared, so that a copy is built from the regularizer alone.
        object.__setattr__(self, "alpha", None)
        object.__setattr__(self, "regularizer", held)
        super().__post_init__()

    def setup(self):
        """Create the gate and, on request, the balancing bias."""
        shape = (self.features, self.experts)
        self.kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        self.bias = None
        if self.use_bias:
            self.bias = self.param("bias", self.bias_init, shape[1:], self.param_dtype)
        self.balancing_bias = None
        if self.use_balancing_bias:
            # In float32 for parameters of any dtype, since a step would be lost in fewer bits.
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
        """Return the `Routing` of features [..., d]: experts and weights [..., k], and statistics.

        `where`, `capacity` and `axis_name` are as in `route`. With a `bias_rate` r the balancing
        bias is updated by the load of this call, after its use.
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
        """Map features [..., d] to logits [..., E]."""
        return gate_logits(_NAME, features, self.kernel, self.bias, self.dtype, self.precision)

    def update_bias(self, load: ArrayLike, rate: ArrayLike = 1e-3) -> None:
        """Update the balancing bias by a load [E], the `statistics.load` of calls.

        On a mesh the load is that of all devices.
        """
        if self.balancing_bias is None:
            raise without_bias(_NAME)
        self.balancing_bias.value = update_bias(self.balancing_bias.value, load, rate)
