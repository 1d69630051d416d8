"""Validate and canonicalise a mapping's arguments: dtype, mask, prior, sign of T, limits."""

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
from jsoftmax.core._conjugate import conjugate, entropy_of
from jsoftmax.core._cooled import cooled
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._relative_mass import with_log_prior
from jsoftmax.core._simplex import log_probabilities, probabilities
from jsoftmax.core.regularizers import SHANNON


@dataclasses.dataclass(frozen=True)
class Problem:
    """The problem max ⟨p, z⟩ − T Σ q ω(p/q) over the simplex, in the computing dtype.

    Masked classes, and those of prior 0, have z = −∞. `sign` is −1 where a negative temperature, or
    `minimum`, negates the scores. `temperature` is None for the number 1, and 0 where the
    regularizer vanishes.
    """

    z: Array
    prior: Array | None
    regularizer: Regularizer
    temperature: Array | None
    sign: float | Array
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
        """Return p, exactly 0 at masked classes whatever their scores."""
        if self.is_hard:
            return self.hard()
        z = cooled(self.z, self.temperature, self.classes)
        return self.unmasked(probabilities(z, self.prior, self.regularizer, self.classes), 0)

    def hard(self) -> Array:
        """Return the limit at T = 0: the largest scores share the mass as the prior does."""
        z = jax.lax.stop_gradient(self.z)
        top = self.classes.max(z)
        # A maximum may lose a NaN; the sum of the ties spreads it over the row.
        ties = jnp.where((z == top) & (z > -jnp.inf), 1, jnp.where(z != z, z, 0))
        if self.prior is not None:
            # Measured from the largest, so that the sum of small ones does not underflow.
            q = jnp.where(ties > 0, self.prior, 0)
            largest = self.classes.max(q)
            ties = ties * q / jnp.where(largest > 0, largest, 1)
        total = self.classes.sum(ties)
        p = ties / jnp.where(total == 0, 1, total)
        return self.unmasked(p, 0)

    def log_probabilities(self) -> Array:
        """Return log p, −∞ at masked classes."""
        z = cooled(self.z, self.temperature, self.classes)
        log_p = log_probabilities(z, self.prior, self.regularizer, self.classes)
        return self.unmasked(log_p, -jnp.inf)

    def log_weights(self) -> Array:
        """Return z/T + log q: p is its softmax where the regularizer is exponential."""
        z = cooled(self.z, self.temperature, self.classes)
        return with_log_prior(z, self.prior, self.classes)

    def conjugate(self) -> Array:
        """Return T Ω*(z/T), kept as a size-1 axis."""
        value = conjugate(self.z, self.prior, self.regularizer, self.temperature, self.classes)
        return self.sign * value

    def entropy(self, p: Array) -> Array:
        """Return −Ω(p), kept as a size-1 axis."""
        return entropy_of(p, self.prior, self.regularizer, self.classes)

    def mean(self, p: Array, x: Array) -> Array:
        """Return Σ p x over the classes with mass, kept as a size-1 axis; `x` may be infinite.

        A second pass adds the mean of `x` minus the first mean: in the derivative, Σ ṗ x with
        Σ ṗ = 0, large `x` that differ by little would cancel.
        """
        x = jnp.where(p > 0, x, 0)
        infinite = jnp.isinf(x)  # summed separately, since the backward pass would form 0 × ∞
        counted = (p > 0) & ~infinite
        mean = jax.lax.stop_gradient(self.classes.sum(p * jnp.where(counted, x, 0)))
        mean = mean + self.classes.sum(p * jnp.where(counted, x - mean, 0))
        return mean + self.classes.sum(jnp.where(infinite, x, 0))

    def unmasked(self, x: Array, elsewhere: float) -> Array:
        """Return `x` at unmasked classes, and the number `elsewhere` at masked ones."""
        return x if self.mask is None else jnp.where(self.mask, x, elsewhere)

    def squeezed(self, x: Array, keepdims: bool = False) -> Array:
        """Return a per-row result without its class axis, unless `keepdims`."""
        return x if keepdims else jnp.squeeze(x, self.classes.axis)


def problem(
    function: str,
    logits: Any,
    axis: int | tuple[int, ...] | None,
    where: Any = None,
    *,
    regularizer: Regularizer = SHANNON,
    prior: Any = None,
    temperature: Any = 1.0,
    axis_name: Hashable | None = None,
    minimum: bool = False,
    called: str = "logits",
) -> Problem:
    """Check and canonicalise the arguments of `function`. With `minimum` the scores are −z.

    `called` is the name that the function gives to `logits`.

    Raises:
        TypeError: for logits that are not real numbers, a mask that is not boolean, or a
            `regularizer` that is not a Regularizer.
        ValueError: for shapes that do not broadcast, an empty class axis, or a known prior below 0.
    """
    logits = checks.as_array(function, called, logits)
    classes = checks.class_axis(function, logits, axis, axis_name, called)
    mask = checks.mask_like(function, where, logits, called)
    dtype = checks.compute_dtype(logits)
    regularizer, limit = read_regularizer(
        function,
        regularizer,
        lambda name, x: checks.per_row(function, name, x, logits, classes, dtype),
    )
    temperature, sign = _temperature(function, temperature, logits, classes, dtype, limit)
    is_hard = limit is True or checks.static_number(temperature) == 0
    sign = -sign if minimum else sign
    z = logits.astype(dtype)
    if not isinstance(sign, float):
        z = jnp.where(sign < 0, -z, z)
    elif sign < 0:
        z = -z
    if prior is not None:
        prior = read_prior(function, prior, logits, dtype)
    if prior is not None:
        mask = prior > 0 if mask is None else mask & (prior > 0)
    if mask is not None:
        z = jnp.where(mask, z, -jnp.inf)
    if prior is not None:
        z = jnp.where(prior == prior, z, prior)  # a NaN prior makes its row NaN
        mask = mask | (prior != prior)
    return Problem(
        z, prior, regularizer, temperature, sign, classes, mask,
        checks.result_dtype(logits), checks.log_dtype(logits), is_hard,
    )  # fmt: skip


def read_regularizer(
    function: str, regularizer: Any, as_rows: Callable[[str, Any], Array]
) -> tuple[Regularizer, bool | Array]:
    """Return the regularizer with array fields made by `as_rows`, and where it vanishes.

    Raises:
        TypeError: for an object that is not a Regularizer.
    """
    if not isinstance(regularizer, Regularizer):
        remedy, number = "such as jsoftmax.Tsallis(1.5).", checks.static_number(regularizer)
        if number is not None and number > 0:
            remedy = f"for the order α = {regularizer} jsoftmax.Tsallis({regularizer})."
        elif number is not None and number == int(number):
            remedy += f" Did you mean axis={int(number)}?"
        elif isinstance(regularizer, type) and issubclass(regularizer, Regularizer):
            remedy = f"an object, {regularizer.__name__}(), and not the class."
        raise TypeError(
            f"jsoftmax.{function}: `regularizer` is {regularizer!r}; give it a Regularizer, "
            f"{remedy}"
        )
    return regularizer.by_rows(as_rows).without_limit()


def read_prior(
    function: str,
    prior: Any,
    logits: Array | jax.ShapeDtypeStruct,
    dtype: np.dtype,
) -> Array | None:
    """Return the prior in the rank of the logits, with NaN where it is negative or infinite.

    Return None for a prior known to be 1 everywhere, which changes nothing.
    """
    known = checks.known_values(prior)
    x = checks.as_array(function, "prior", prior)
    if known is not None and not ((known >= 0) & (known < np.inf)).all():
        raise ValueError(
            f"jsoftmax.{function}: `prior` must be finite and at least 0 everywhere; its least "
            f"entry is {known.min()}, its largest {known.max()}."
        )
    x = checks.aligned(function, "prior", x, logits.shape).astype(dtype)
    if known is not None and (known == 1).all():
        return None
    return jnp.where((x >= 0) & (x < jnp.inf), x, jnp.nan)


def _temperature(function, temperature, logits, classes, dtype, limit):
    """Return |T| and the sign of T."""
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
