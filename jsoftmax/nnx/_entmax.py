"""Entmax with learned sparsity α and temperature."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, DTypeLike, Float

from jsoftmax.core._contents import Held
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen, of_order
from jsoftmax.mappings import regularized_argmax
from jsoftmax.mappings._constraints import Interval


class Entmax(nnx.Module):
    r"""`jsoftmax.entmax` with α and temperature as parameters of the model.

    A learned number cannot leave its range: it is a smooth increasing function of a free parameter,
    and the optimiser updates that. With the default ranges,

    .. math:: α = 1 + σ(a) \in [1, 2], \qquad T = \log(1 + e^t) > 0,

    and with `alpha_range=(1, inf)`, :math:`α = 1 + \log(1 + e^a)`. They start at the numbers given,
    to rounding. A number that is not learned is a constant; constants are faster.

    Learn α where the loss does not depend on it otherwise: in attention, in a gate. A Fenchel–Young
    loss of α decreases with α for any scores, so never minimise it over its own α.

    Args:
        alpha: the initial α, a number or an array that broadcasts to `shape`; if it is not learned,
            any `alpha` of `jsoftmax.entmax`. 1.5 where it is None.
        temperature: the initial T, likewise.
        axis: the class axis, or a tuple of axes that together hold the classes.
        learn_alpha: whether α is a parameter, `free_alpha`.
        learn_temperature: whether T is a parameter, `free_temperature`.
        alpha_range: the lower end of α, at least 0, and the upper end, which may be infinite.
        shape: the shape of the learned numbers. () shares them; otherwise it must broadcast to the
            logits with size 1 along `axis`: one per head of [batch, heads, queries, keys] is
            (heads, 1, 1).
        param_dtype: the dtype of the free parameters.
        regularizer: a fixed `Regularizer` instead of `Tsallis(alpha)`; then no α is learned.

    Raises:
        ValueError: if an initial number is not strictly inside its range, or does not broadcast to
            `shape`, or if both `alpha` and `regularizer` are given.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> mapping = Entmax(alpha=1.5)
        >>> z = jnp.array([0.1, 1.2, 0.9, -1.0])
        >>> print(mapping.alpha, mapping(z))
        1.5 [0.0449 0.5806 0.3745 0.    ]
        >>> gradient = nnx.grad(lambda mapping: mapping(z)[0])(mapping)
        >>> print(gradient.free_alpha[...] < 0)  # a larger α takes from the small
        True

    Reference:
        G. M. Correia, V. Niculae and A. F. T. Martins, "Adaptively sparse transformers", 2019.
    """

    def __init__(
        self,
        alpha: ArrayLike | None = None,
        *,
        temperature: ArrayLike = 1.0,
        axis: int | tuple[int, ...] = -1,
        learn_alpha: bool = True,
        learn_temperature: bool = False,
        alpha_range: tuple[float, float] = (1.0, 2.0),
        shape: tuple[int, ...] = (),
        param_dtype: DTypeLike = jnp.float32,
        regularizer: Regularizer | None = None,
    ):
        self.axis = axis
        self.alpha_interval = Interval(*alpha_range)
        self.temperature_interval = Interval(0.0)

        def parameter(name: str, start: ArrayLike, interval: Interval) -> nnx.Param:
            return nnx.Param(interval.free("nnx.Entmax", name, start, shape, param_dtype))

        fixed = None if regularizer is None else chosen("nnx.Entmax", alpha, regularizer)
        self.fixed_regularizer = Held(fixed)
        alpha = 1.5 if alpha is None else alpha
        learn_alpha = learn_alpha and fixed is None
        self.free_alpha = parameter("alpha", alpha, self.alpha_interval) if learn_alpha else None
        self.free_temperature = (
            parameter("temperature", temperature, self.temperature_interval)
            if learn_temperature
            else None
        )
        self.fixed_alpha: Any = None if learn_alpha else alpha
        self.fixed_temperature: Any = None if learn_temperature else temperature

    @property
    def alpha(self) -> ArrayLike:
        """The current α; it has no meaning beside a fixed regularizer."""
        if self.free_alpha is None:
            return self.fixed_alpha
        return self.alpha_interval.number(self.free_alpha[...])

    @property
    def regularizer(self) -> Regularizer:
        """The current regularizer, either the one that was given or that of α."""
        fixed = self.fixed_regularizer.value
        return of_order("nnx.Entmax", self.alpha) if fixed is None else fixed

    @property
    def temperature(self) -> ArrayLike:
        """The current T."""
        if self.free_temperature is None:
            return self.fixed_temperature
        return self.temperature_interval.number(self.free_temperature[...])

    def __call__(self, logits: ArrayLike, *, where: ArrayLike | None = None) -> Float[Array, "..."]:
        """Return probabilities of the shape and dtype of `logits`; 0 where the mask is False."""
        return regularized_argmax(
            logits, self.regularizer, self.axis, where=where, temperature=self.temperature
        )
