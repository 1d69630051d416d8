"""Entmax with learned sparsity α and temperature."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._contents import Held, hashable, of_hashable
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen, of_order
from jsoftmax.mappings import regularized_argmax
from jsoftmax.mappings._constraints import Interval


class Entmax(nn.Module):
    r"""`jsoftmax.entmax` with α and temperature as parameters of the model.

    A learned number cannot leave its range: it is a smooth increasing function of a free parameter,
    and the optimiser updates that. With the default ranges,

    .. math:: α = 1 + σ(a) \in [1, 2], \qquad T = \log(1 + e^t) > 0,

    and with `alpha_range=(1, inf)`, :math:`α = 1 + \log(1 + e^a)`. They start at the numbers given,
    to rounding; `current_alpha` and `current_temperature` return the current ones. A number that is
    not learned is a constant; constants are faster.

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
        >>> import jax, jax.numpy as jnp
        >>> mapping = Entmax(alpha=1.5)
        >>> z = jnp.array([0.1, 1.2, 0.9, -1.0])
        >>> variables = mapping.init(jax.random.key(0), z)
        >>> print(mapping.apply(variables, z))
        [0.0449 0.5806 0.3745 0.    ]
        >>> print(mapping.apply(variables, method="current_alpha"))
        1.5

    Reference:
        G. M. Correia, V. Niculae and A. F. T. Martins, "Adaptively sparse transformers", 2019.
    """

    alpha: Any = None
    _: dataclasses.KW_ONLY
    temperature: Any = 1.0
    axis: int | tuple[int, ...] = -1
    learn_alpha: bool = True
    learn_temperature: bool = False
    alpha_range: tuple[float, float] = (1.0, 2.0)
    shape: tuple[int, ...] = ()
    param_dtype: Any = jnp.float32
    regularizer: Any = None

    def __post_init__(self):
        for name in ("alpha", "temperature", "axis", "alpha_range", "shape"):
            object.__setattr__(self, name, hashable(getattr(self, name)))
        if self.regularizer is not None:
            fixed = Held(self.regularizer)
            chosen("linen.Entmax", self.alpha, fixed.value)
            object.__setattr__(self, "regularizer", fixed)
        super().__post_init__()

    def setup(self):
        """Create a parameter for each learned number."""
        self.alpha_interval = Interval(*self.alpha_range)
        self.temperature_interval = Interval(0.0)

        def parameter(name: str, start: Any, interval: Interval) -> Array:
            free = interval.free("linen.Entmax", name, start, self.shape, self.param_dtype)
            return self.param(f"free_{name}", lambda key: free)

        if self._moves_alpha:
            self.free_alpha = parameter("alpha", self._first_alpha, self.alpha_interval)
        if self.learn_temperature:
            self.free_temperature = parameter(
                "temperature", of_hashable(self.temperature), self.temperature_interval
            )

    @property
    def _moves_alpha(self) -> bool:
        return self.learn_alpha and self.regularizer is None

    @property
    def _first_alpha(self) -> ArrayLike:
        return 1.5 if self.alpha is None else of_hashable(self.alpha)

    def current_alpha(self) -> ArrayLike:
        """The current α; it has no meaning beside a fixed regularizer."""
        if self._moves_alpha:
            return self.alpha_interval.number(self.free_alpha)
        return self._first_alpha

    def current_regularizer(self) -> Regularizer:
        """The current regularizer, either the one that was given or that of α."""
        if self.regularizer is None:
            return of_order("linen.Entmax", self.current_alpha())
        return self.regularizer.value

    def current_temperature(self) -> ArrayLike:
        """The current T."""
        if self.learn_temperature:
            return self.temperature_interval.number(self.free_temperature)
        return of_hashable(self.temperature)

    def __call__(self, logits: ArrayLike, *, where: ArrayLike | None = None) -> Float[Array, "..."]:
        """Return probabilities of the shape and dtype of `logits`; 0 where the mask is False."""
        regularizer, temperature = self.current_regularizer(), self.current_temperature()
        return regularized_argmax(
            logits, regularizer, self.axis, where=where, temperature=temperature
        )
