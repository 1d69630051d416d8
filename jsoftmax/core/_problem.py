"""What a mapping is asked, made ready: promoted, masked, of positive temperature, with one α."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._regularizers import Tsallis
from jsoftmax.core._simplex import (
    conjugate,
    cooled,
    entropy_of,
    log_probabilities,
    probabilities,
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """The problem max ⟨p, z⟩ − T Ω_α(p) over the simplex, in the computing dtype.

    Masked classes have z = −∞. `sign` is −1 where a negative temperature, or a search for the
    minimum, has turned the scores over. `alpha` is None where the family knows it, `temperature`
    is None where it is the number 1.
    """

    z: Array
    alpha: Array | None
    temperature: Array | None
    sign: float | Array
    family: Tsallis
    classes: ClassAxis
    mask: Array | None
    dtype: np.dtype
    log_dtype: np.dtype
    is_hard: bool = False

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape of a per-row result: that of the logits without the class axes."""
        shape = self.z.shape
        return tuple(n for a, n in enumerate(shape, -len(shape)) if a not in self.classes.axis)

    def probabilities(self) -> Array:
        """p, with an exact 0 at masked classes whatever stands there."""
        if self.is_hard:
            return self.hard()
        z = cooled(self.z, self.temperature, self.classes)
        return self.unmasked(probabilities(z, self.alpha, self.family, self.classes), 0)

    def hard(self) -> Array:
        """The limit at temperature 0: equal shares for the largest scores, and zero gradient."""
        z = jax.lax.stop_gradient(self.z)
        top = self.classes.max(z)
        ties = jnp.where((z == top) & (z > -jnp.inf), 1, jnp.where(top != top, top, 0))
        p = ties / jnp.maximum(self.classes.sum(ties), 1)
        return self.unmasked(p, 0)

    def log_probabilities(self) -> Array:
        """log p, −∞ at masked classes."""
        z = cooled(self.z, self.temperature, self.classes)
        log_p = log_probabilities(z, self.alpha, self.family, self.classes)
        return self.unmasked(log_p, -jnp.inf)

    def conjugate(self) -> Array:
        """T Ω*(z/T), kept as a size-1 axis."""
        value = conjugate(self.z, self.alpha, self.temperature, self.family, self.classes)
        return self.sign * value

    def entropy(self, p: Array) -> Array:
        """−Ω(p), kept as a size-1 axis."""
        return entropy_of(p, self.alpha, self.family, self.classes)

    def mean(self, p: Array, x: Array) -> Array:
        """Σ p x over the classes with mass, kept as a size-1 axis; `x` may be infinite."""
        x = jnp.where(p > 0, x, 0)
        infinite = jnp.isinf(x)  # by itself, since 0 × ∞ would be formed on the way back
        mean = self.classes.sum(p * jnp.where(infinite, 0, x))
        return mean + self.classes.sum(jnp.where(infinite, x, 0))

    def unmasked(self, x: Array, elsewhere: float) -> Array:
        """`x` where classes take part, `elsewhere` where they do not."""
        return x if self.mask is None else jnp.where(self.mask, x, elsewhere)

    def squeezed(self, x: Array, keepdims: bool = False) -> Array:
        """A per-row result without its class axis, unless `keepdims`."""
        return x if keepdims else jnp.squeeze(x, self.classes.axis)


def problem(
    function: str,
    logits: Any,
    axis: int | tuple[int, ...] | None,
    where: Any = None,
    *,
    alpha: Any = 1.0,
    temperature: Any = 1.0,
    axis_name: Hashable | None = None,
    minimum: bool = False,
    called: str = "logits",
) -> Problem:
    """Check the arguments of `function` and make them ready. `minimum` asks for −z.

    `called` is the name that the function gives to `logits`.

    Raises:
        TypeError: for logits that are not real numbers, or a mask that is not boolean.
        ValueError: for shapes that do not fit, an empty class axis, or a static α ≤ 0 or NaN.
    """
    logits = checks.as_array(function, called, logits)
    classes = checks.class_axis(function, logits, axis, axis_name, called)
    mask = checks.mask_like(function, where, logits, called)
    dtype = checks.compute_dtype(logits)
    family, alpha, limit = regularizer(
        function, alpha, lambda x: checks.per_row(function, "alpha", x, logits, classes, dtype)
    )
    temperature, sign = _temperature(function, temperature, logits, classes, dtype, limit)
    is_hard = limit is True or checks.static_number(temperature) == 0
    sign = -sign if minimum else sign
    z = logits.astype(dtype)
    if not isinstance(sign, float):
        z = jnp.where(sign < 0, -z, z)
    elif sign < 0:
        z = -z
    if mask is not None:
        z = jnp.where(mask, z, -jnp.inf)
    return Problem(
        z, alpha, temperature, sign, family, classes, mask,
        checks.result_dtype(logits), checks.log_dtype(logits), is_hard,
    )  # fmt: skip


def regularizer(
    function: str, alpha: Any, as_rows: Callable[[Any], Array], beside_axis: bool = True
) -> tuple[Tsallis, Array | None, bool | Array]:
    """The family, its α if that is an array, and where α = ∞: the limit T → 0 of any other α.

    `as_rows` makes an array of one number a row from an α that is not a number known while tracing.
    `beside_axis` says that it may have been confused with an axis.

    Raises:
        ValueError: for an α known while tracing that is not positive.
    """
    number = checks.static_number(alpha)
    if number is None:
        known = checks.known_values(alpha)
        if known is not None and not (known > 0).all():
            raise ValueError(f"jsoftmax.{function}: every `alpha` must be positive, got {alpha}.")
        alpha = as_rows(alpha)
        limit = alpha == jnp.inf
        alpha = jnp.where(alpha > 0, jnp.where(limit, 2, alpha), jnp.nan)
        return Tsallis(None), alpha, limit
    if not number > 0:
        hint = ""
        if beside_axis and number < 0 and number == int(number):
            hint = f" Did you mean axis={int(number)}?"
        raise ValueError(f"jsoftmax.{function}: `alpha` must be positive, got {alpha!r}.{hint}")
    return (Tsallis(2.0), None, True) if number == np.inf else (Tsallis(number), None, False)


def _temperature(function, temperature, logits, classes, dtype, limit):
    """|T| and the sign of T."""
    number = checks.static_number(temperature)
    if number is None:
        t = checks.per_row(function, "temperature", temperature, logits, classes, dtype)
        sign = jnp.where(t < 0, jnp.asarray(-1, dtype), jnp.asarray(1, dtype))
        t = jnp.where(t < 0, -t, t)
    else:
        sign = -1.0 if number < 0 else 1.0
        if abs(number) == 1 and limit is False:
            return None, sign
        t = jnp.full((1,) * logits.ndim, abs(number), dtype)
    return (t if limit is False else jnp.where(limit, 0, t)), sign
