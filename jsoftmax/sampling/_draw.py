"""Validate the arguments of a sampler, and draw the Gumbel noise for its scores.

One key draws one sample. All functions, relaxed, one-hot or in order, use the same noise for a key,
so that their results are limits and gradients of one another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._cooled import cooled
from jsoftmax.core._keys import one_key
from jsoftmax.core._problem import Problem, problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._scores import difference
from jsoftmax.core.regularizers import SHANNON
from jsoftmax.sampling._noise import gumbel_like


@dataclasses.dataclass(frozen=True)
class Draw:
    """A problem with scores measured from the largest of their row, and Gumbel noise for them.

    Rounding would lose the noise beside huge scores; measured from the largest, the scores that can
    win are small. In a row with scores of +∞ these are 0 and the rest are out of reach: the limit.
    """

    ask: Problem
    key: Array
    noise: Array

    @property
    def scores(self) -> Array:
        """The scores with noise; their arg max is a sample from softmax of the scores."""
        return self.ask.z + self.noise

    @property
    def movable(self) -> Array:
        """The scores to differentiate, with 0 for scores of −∞, which are constant."""
        return jnp.where(self.ask.z == -jnp.inf, 0, self.ask.z)

    def hard(self, temperature: Array | None = None) -> Array:
        """Return a one-hot sample from softmax(z/T), or zeros in a fully masked row."""
        z = cooled(self.ask.z, temperature, self.ask.classes)
        return one_hot_max(z + self.noise, self.ask.classes)

    def soft(self, scores: Array) -> Array:
        """Return the relaxed arg max of `scores` at the temperature of the problem."""
        ask = dataclasses.replace(self.ask, z=scores)
        if ask.is_hard:
            return one_hot_max(scores, ask.classes)
        p = ask.probabilities()
        if ask.temperature is None:
            return p
        return jnp.where(ask.temperature == 0, one_hot_max(scores, ask.classes), p)

    def returned(self, sample: Array) -> Array:
        """Return the sample in the dtype of the logits."""
        return sample.astype(self.ask.dtype)


def draw(
    function: str,
    key: Any,
    logits: Any,
    temperature: Any,
    axis: int | tuple[int, ...],
    where: Any,
    axis_name: Hashable | None,
    *,
    regularizer: Regularizer = SHANNON,
) -> Draw:
    """Check the arguments of `function` and draw the noise of its key."""
    key = one_key(function, key)
    check_temperature(function, "temperature", temperature)
    ask = problem(
        function, logits, axis, where, regularizer=regularizer, temperature=temperature,
        axis_name=axis_name,
    )  # fmt: skip
    ask = dataclasses.replace(
        ask,
        z=difference(ask.z, ask.classes.max(ask.z)),
        temperature=without_negative(ask.temperature, ask.sign),
    )
    return Draw(ask, key, gumbel_like(key, ask.z, ask.classes))


def check_temperature(function: str, name: str, temperature: Any, zero: bool = True) -> None:
    """Reject a temperature below 0, which would negate the noise along with the scores."""
    checks.as_array(function, name, temperature)
    known = checks.known_values(temperature)
    if known is not None and ((known < 0) if zero else (known <= 0)).any():
        least = "at least 0" if zero else "above 0"
        raise ValueError(
            f"jsoftmax.{function}: `{name}` must be {least}, got {temperature!r}. To draw small "
            "scores instead of large ones, negate the logits."
        )


def without_negative(temperature: Array | None, sign: float | Array) -> Array | None:
    """Return the temperature, with NaN where a traced one is below 0."""
    if temperature is None or isinstance(sign, float):
        return temperature
    return jnp.where(sign < 0, jnp.nan, temperature)


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnums=1, inline=True)
def one_hot_max(scores: Array, classes: ClassAxis) -> Array:
    """Return 1 at the largest score, the first if several are equal, with derivative 0."""
    scores = jax.lax.stop_gradient(scores)
    top = classes.max(scores)
    index = classes.index(scores)
    last = jnp.iinfo(index.dtype).max
    at_top = jnp.where((scores == top) & (scores > -jnp.inf), index, last)
    first = jnp.min(at_top, axis=classes.axis, keepdims=True)
    if classes.axis_name is not None:
        first = jax.lax.pmin(first, classes.axis_name)
    one_hot = (at_top == first) & (first < last)
    return jnp.where(top == top, one_hot.astype(scores.dtype), top)
