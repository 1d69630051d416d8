"""The concrete distribution: classes relaxed to points of the simplex, with their density."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._keys import one_key
from jsoftmax.core._problem import problem
from jsoftmax.sampling._concrete import concrete_log_prob
from jsoftmax.sampling._distribution import Distribution, number_or_array, spread
from jsoftmax.sampling._relaxed import gumbel_softmax
from jsoftmax.sampling._shapes import leading_shape


@jax.tree_util.register_pytree_with_keys_class
class RelaxedCategorical(Distribution):
    r"""The distribution of :math:`x = \mathrm{softmax}((z + g)/τ)` for Gumbel noise g.

    Its draws lie inside the simplex and are differentiable in z and τ. As τ → 0 they become the
    one-hot draws of `Categorical`; the largest entry of a draw is at class i with probability
    softmax(z)_i for every τ. A pytree like `Categorical`.

    Args:
        logits: scores z of shape [..., K]; the classes are the last axis, the rest is the batch.
        temperature: τ ≥ 0, a number or an array [..., 1]. At 0 there are draws, but no density.
        where: boolean mask that broadcasts to `logits`. Draws are 0 at other classes.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, there are no classes, or `temperature` is a negative
            number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> d = RelaxedCategorical(jnp.array([0.0, 1.0, -jnp.inf]), 0.5)
        >>> x = d.sample(jax.random.key(0), (1000,))
        >>> print(x.shape, x[:, 2].max(), x[0].sum())
        (1000, 3) 0.0 1.0
        >>> print(d.log_prob(jnp.array([0.5, 0.5, 0.0])))
        -0.93338

    Reference:
        C. J. Maddison, A. Mnih and Y. W. Teh, "The concrete distribution", ICLR 2017; E. Jang,
        S. Gu and B. Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017.
    """

    _fields = ("logits", "temperature", "where")
    logits: Array
    temperature: Any
    where: Array | None

    def __init__(
        self, logits: ArrayLike, temperature: ArrayLike, *, where: ArrayLike | None = None
    ):
        problem("RelaxedCategorical", logits, -1, where, temperature=temperature)
        known = checks.known_values(temperature)
        if known is not None and not (known >= 0).all():
            raise ValueError(
                f"jsoftmax.RelaxedCategorical: `temperature` must be at least 0, got {temperature}."
            )
        self.logits = checks.as_array("RelaxedCategorical", "logits", logits)
        self.temperature = number_or_array(temperature, self.logits.shape)
        self.where = None if where is None else spread(where, self.logits.shape)

    def sample(self, key: ArrayLike, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw independent samples, differentiable in the logits and the temperature.

        Args:
            key: a key of `jax.random`.
            shape: how many draws from each distribution.

        Returns:
            Points of the simplex [*shape, *batch, K], of the dtype of the logits; zeros in fully
            masked rows. Noise is drawn in float32 at least.
        """
        key = one_key("RelaxedCategorical.sample", key)
        shape = leading_shape("RelaxedCategorical.sample", shape)
        z = spread(self.logits, (*shape, *self.logits.shape))
        return gumbel_softmax(key, z, self.temperature, where=self.where)

    def log_prob(self, value: ArrayLike) -> Float[Array, "..."]:
        r"""Return the log-density with respect to all coordinates except one.

        .. math:: \log Γ(K) + (K-1) \log τ
                  + \sum_i \Big(\log\frac{e^{z_i} x_i^{-τ}}{\sum_j e^{z_j} x_j^{-τ}} - \log x_i\Big)

        over the unmasked classes, as `concrete_log_prob`. An entry that was rounded to 0 is
        replaced by the smallest normal number.

        Args:
            value: points x of the simplex, of a shape [..., K] that broadcasts with the logits.

        Returns:
            One number a point, in float32 at least.

        Raises:
            ValueError: if the shape of `value` does not fit, or the temperature is the number 0.
        """
        if checks.static_number(self.temperature) == 0:
            raise ValueError(
                "jsoftmax.RelaxedCategorical.log_prob: at `temperature` 0 there is no density; "
                "use Categorical.log_prob, or a temperature above 0."
            )
        ask = problem("RelaxedCategorical.log_prob", self.logits, -1, self.where)
        x = checks.as_array("RelaxedCategorical.log_prob", "value", value).astype(ask.z.dtype)
        try:
            shape = jnp.broadcast_shapes(x.shape, ask.z.shape)
        except ValueError:
            shape = ()
        if x.ndim == 0 or x.shape[-1] != self.classes or not shape:
            raise ValueError(
                f"jsoftmax.RelaxedCategorical.log_prob: `value` of shape {x.shape} does not "
                f"broadcast with `logits` of shape {ask.z.shape}. Give it one entry a class."
            )
        x, z = spread(x, shape), spread(self.logits, shape)
        return concrete_log_prob(x, z, self.temperature, where=self.where)
