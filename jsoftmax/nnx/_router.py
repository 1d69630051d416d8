"""Router of tokens to experts: a linear gate and a balancing bias."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, DTypeLike, Float

from jsoftmax.core._initializers import lecun_columns
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.mappings._constraints import constant_regularizer
from jsoftmax.routing import Routing, route, update_bias
from jsoftmax.routing._gate import gate_logits, without_bias

_NAME = "nnx.Router"
_BIAS_INIT = nnx.initializers.zeros_init()


class BalancingBias(nnx.Variable):
    """A bias in the choice of experts; state, not a parameter."""


class Router(nnx.Module):
    r"""Router by a linear gate and `jsoftmax.route`: k of E experts for each token, and weights.

    .. math:: z = h W + c, \qquad C = \mathrm{top}_k(s + b), \qquad
              w_i = s_i \Big/ \sum_{j \in C} s_j \quad (i \in C)

    with s the score of z. b is the bias that balances experts without a loss. It is state of the
    variable type `BalancingBias`, not a parameter. Two calls update it: a call with a `bias_rate`,
    by its own load, and `update_bias`, by a load that may be summed over several calls. Balance and
    z losses are in the statistics that a call returns.

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
        rngs: source of the initialisers' keys.

    Raises:
        TypeError: if `alpha` is not a number.
        ValueError: if `alpha` is not positive, or given beside a `regularizer`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> router = Router(8, 4, 2, score="sigmoid", use_balancing_bias=True, rngs=nnx.Rngs(0))
        >>> h = jax.random.normal(jax.random.key(0), (16, 8))
        >>> routing = router(h)
        >>> print(routing.experts.shape, routing.statistics.load.tolist())
        (16, 2) [8, 7, 8, 9]
        >>> router.update_bias(routing.statistics.load, 0.5)
        >>> print(router.balancing_bias[...].tolist())
        [0.0, 0.5, 0.0, -0.5]
        >>> @nnx.jit
        ... def loss_and_gradient(router):
        ...     def loss(router):
        ...         return router(h, bias_rate=1e-3).statistics.z_loss
        ...     return nnx.value_and_grad(loss)(router)
        >>> _, gradient = loss_and_gradient(router)
        >>> print(gradient.kernel.shape)
        (8, 4)

    Reference:
        DeepSeek-AI, "DeepSeek-V3 technical report", 2024; `route` has the others.
    """

    def __init__(
        self,
        features: int,
        experts: int,
        k: int,
        *,
        score: str = "softmax",
        normalize: bool = True,
        groups: int = 1,
        groups_kept: int | None = None,
        group_best: int = 2,
        alpha: ArrayLike | None = None,
        regularizer: Regularizer | None = None,
        use_balancing_bias: bool = False,
        use_bias: bool = False,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: Any = "highest",
        kernel_init: nnx.Initializer = lecun_columns,
        bias_init: nnx.Initializer = _BIAS_INIT,
        rngs: nnx.Rngs,
    ):
        self.k = k
        self.score, self.normalize = score, normalize
        self.groups, self.groups_kept, self.group_best = groups, groups_kept, group_best
        self.fixed_regularizer = constant_regularizer(_NAME, alpha, regularizer)
        self.dtype, self.precision = dtype, precision
        shape = (features, experts)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = (
            nnx.Param(bias_init(rngs.params(), shape[1:], param_dtype)) if use_bias else None
        )
        # In float32 for parameters of any dtype, since a step would be lost in fewer bits.
        self.balancing_bias = (
            BalancingBias(jnp.zeros(shape[1:], jnp.float32)) if use_balancing_bias else None
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
        b = None if self.balancing_bias is None else self.balancing_bias[...]
        routing = route(
            self.logits(features),
            self.k,
            score=self.score,
            normalize=self.normalize,
            bias=b,
            groups=self.groups,
            groups_kept=self.groups_kept,
            group_best=self.group_best,
            regularizer=self.fixed_regularizer.value,
            capacity=capacity,
            where=where,
            axis_name=axis_name,
        )
        if bias_rate is not None:
            self.update_bias(routing.statistics.load, bias_rate)
        return routing

    def logits(self, features: ArrayLike) -> Float[Array, "... experts"]:
        """Map features [..., d] to logits [..., E]."""
        bias = None if self.bias is None else self.bias[...]
        return gate_logits(_NAME, features, self.kernel[...], bias, self.dtype, self.precision)

    def update_bias(self, load: ArrayLike, rate: ArrayLike = 1e-3) -> None:
        """Update the balancing bias by a load [E], the `statistics.load` of calls.

        On a mesh the load is that of all devices.
        """
        if self.balancing_bias is None:
            raise without_bias(_NAME)
        self.balancing_bias[...] = update_bias(self.balancing_bias[...], load, rate)
