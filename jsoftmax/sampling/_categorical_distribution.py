"""A categorical distribution as a pytree: logits, and the mapping to their probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core import _checks as checks
from jsoftmax.core._keys import one_key
from jsoftmax.core._labels import is_class, log_prob_at
from jsoftmax.core._problem import Problem, problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen
from jsoftmax.mappings import entropy
from jsoftmax.sampling._categorical import drawn_from, entries, sample_from
from jsoftmax.sampling._distribution import Distribution, number_or_array, spread
from jsoftmax.sampling._shapes import leading_shape


@jax.tree_util.register_pytree_with_keys_class
class Categorical(Distribution):
    r"""The distribution :math:`p = \mathrm{entmax}_α(z/T)` over K classes: sparse ones included.

    With a `regularizer` and a `prior` it is that of `regularized_argmax`. It is a pytree: it can be
    an argument, a result or a carry, and `vmap`, `scan` and indexing by `jax.tree.map` act on its
    batch, because every array in it has leading batch axes. Python numbers for α, T and the fields
    of a regularizer are static, as fast as elsewhere; arrays are leaves.

    Args:
        logits: scores z of shape [..., K]; the classes are the last axis, the rest is the batch.
        alpha: α > 0, a number or an array [..., 1]: `softmax` at 1 or None, `sparsemax` at 2.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`; its arrays are [..., 1].
        temperature: T, a number or an array [..., 1], of either sign. T < 0 prefers low scores:
            −∞ is the minimum, +∞ gets 0; exclude classes by `where`.
        where: boolean mask that broadcasts to `logits`. Other classes have probability 0.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, 1 if None, which
            makes Ω(p) = Σ q ω(p/q); a class of prior 0 has probability 0. Differentiable.

    Raises:
        TypeError: if `logits` are not real numbers, `where` is not boolean, or `regularizer` is not
            a Regularizer.
        ValueError: if shapes do not fit, there are no classes, `alpha` is a number that is not
            positive, or given beside a `regularizer`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> d = Categorical(jnp.array([2.0, 1.5, 0.0]), alpha=2.0)
        >>> print(d.probabilities(), d.sample(jax.random.key(0), (8,)).max())
        [0.75 0.25 0.  ] 1
        >>> print(d.log_prob(1), d.entropy(), d.mode())
        -1.38629 0.562335 0
        >>> print(d.kl_divergence(Categorical(jnp.zeros(3))))
        0.53627
        >>> print(Categorical(jnp.zeros(3)).kl_divergence(d))
        inf
        >>> print(Categorical(jnp.zeros(3), prior=jnp.array([1.0, 2.0, 1.0])).probabilities())
        [0.25 0.5  0.25]
    """

    _fields = ("logits", "regularizer", "temperature", "where", "prior")
    logits: Array
    regularizer: Regularizer
    temperature: Any
    where: Array | None
    prior: Array | None

    def __init__(
        self,
        logits: ArrayLike,
        *,
        alpha: ArrayLike | None = None,
        regularizer: Regularizer | None = None,
        temperature: ArrayLike = 1.0,
        where: ArrayLike | None = None,
        prior: ArrayLike | None = None,
    ):
        regularizer = chosen("Categorical", alpha, regularizer, 1.0)
        problem(
            "Categorical", logits, -1, where, regularizer=regularizer, prior=prior,
            temperature=temperature,
        )  # fmt: skip
        self.logits = checks.as_array("Categorical", "logits", logits)
        shape = self.logits.shape
        self.regularizer = regularizer.by_rows(lambda _, x: number_or_array(x, shape))
        self.temperature = number_or_array(temperature, shape)
        self.where = None if where is None else spread(where, shape)
        self.prior = None if prior is None else spread(prior, shape)

    def __repr__(self) -> str:
        logits = self.logits
        of = f"{logits.dtype}{list(logits.shape)}" if hasattr(logits, "dtype") else repr(logits)
        return f"Categorical({of}, {self.regularizer}, temperature={self.temperature})"

    def probabilities(self) -> Float[Array, "..."]:
        """Return p, of the shape and dtype of the logits."""
        ask = self._ask("probabilities")
        return ask.probabilities().astype(ask.dtype)

    def log_probabilities(self) -> Float[Array, "..."]:
        """Return log p, −∞ off the support, of the shape of the logits."""
        ask = self._ask("log_probabilities")
        return ask.log_probabilities().astype(ask.log_dtype)

    def sample(self, key: ArrayLike, shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
        """Draw independent classes, as `categorical` and `sample_from` do.

        Args:
            key: a key of `jax.random`.
            shape: how many draws from each distribution.

        Returns:
            Class numbers of shape [*shape, *batch]; −1 where there is nothing to draw.
        """
        key = one_key("Categorical.sample", key)
        shape = (*leading_shape("Categorical.sample", shape), *self.batch_shape)
        ask = self._ask("sample")
        if ask.regularizer.is_exponential:
            return drawn_from(key, ask, shape)
        # Not rounded to a narrow dtype, where small probabilities would vanish.
        return sample_from(key, ask.probabilities(), shape=shape)

    def log_prob(self, value: ArrayLike) -> Float[Array, "..."]:
        """Return the log-probability of classes.

        Args:
            value: integers, of a shape that broadcasts with the batch.

        Returns:
            log p of the broadcast shape, in float32 at least: −∞ for a class without mass. A number
            out of range gives NaN in a `jax.Array`, and a ValueError in a Python or numpy value.
        """
        return self._at("log_prob", value, Problem.log_probabilities, _log_prob)

    def prob(self, value: ArrayLike) -> Float[Array, "..."]:
        """Return the probability of classes; arguments and errors as in `log_prob`."""
        return self._at("prob", value, Problem.probabilities)

    def mode(self) -> Int[Array, "..."]:
        """Return the most probable class, the first among equals; −1 for a fully masked row."""
        ask = self._ask("mode")
        # The link is increasing, so the largest score decides, unless there is a prior.
        z = ask.z if ask.prior is None else ask.log_probabilities()
        best = jnp.argmax(z, -1)
        top = jnp.max(z, -1)
        return jnp.where(top > -jnp.inf, best, -1).astype(jnp.zeros((), int).dtype)

    def entropy(self, order: ArrayLike = 1.0) -> Float[Array, "..."]:
        r"""Return Shannon's entropy −Σ p log p in nats, or Tsallis' entropy of another order.

        Args:
            order: q > 0, a number or an array [..., 1]: (1 − Σ p^q)/(q(q−1)), as in `entropy`.

        Returns:
            One number a distribution, in float32 at least.
        """
        return entropy(self._ask("entropy").probabilities(), order)

    def kl_divergence(self, other: Categorical) -> Float[Array, "..."]:
        r"""Return Σ p log(p/q) from this distribution, p, to another, q; never negative.

        Classes with p = 0 contribute 0. A class with p > 0 and q = 0 makes it +∞, with a finite
        gradient.

        Args:
            other: over as many classes; batches broadcast. Its α, regularizer and prior may differ.

        Returns:
            One number a pair, in float32 at least.
        """
        return self._against("kl_divergence", other, _divergence)

    def cross_entropy(self, other: Categorical) -> Float[Array, "..."]:
        """Return −Σ p log q from this distribution, p, to another, q; zeros as `kl_divergence`."""
        return self._against("cross_entropy", other, _code_length)

    def _ask(self, method: str) -> Problem:
        return problem(
            f"Categorical.{method}", self.logits, -1, self.where,
            regularizer=self.regularizer, prior=self.prior, temperature=self.temperature,
        )  # fmt: skip

    def _at(
        self, method: str, value: ArrayLike, function: Callable, of_one: Callable | None = None
    ) -> Array:
        """Return `function` at a value; `of_one` for a softmax with one value per row."""
        ask = self._ask(method)
        index = checks.as_array(f"Categorical.{method}", "value", value)
        if not jnp.issubdtype(index.dtype, jnp.integer):
            raise TypeError(
                f"jsoftmax.Categorical.{method}: `value` has dtype {index.dtype}; give integers, "
                "the numbers of classes."
            )
        known = checks.known_values(value)
        if known is not None and ((known < 0) | (known >= self.classes)).any():
            raise ValueError(
                f"jsoftmax.Categorical.{method}: a `value` is out of range [0, {self.classes})."
            )
        try:
            shape = jnp.broadcast_shapes(index.shape, self.batch_shape)
        except ValueError:
            raise ValueError(
                f"jsoftmax.Categorical.{method}: `value` of shape {index.shape} does not broadcast "
                f"with the batch, {self.batch_shape}."
            ) from None
        index = spread(index, shape)
        valid = is_class(index, self.classes)
        index = jnp.where(valid, index, 0).astype(jnp.int32)
        if of_one is not None and ask.regularizer.is_exponential and shape == self.batch_shape:
            found = of_one(ask, index)
        else:
            found = entries(function(ask), index)
        return jnp.where(valid, found, jnp.nan)

    def _against(self, method: str, other: Categorical, function: Callable) -> Array:
        if not isinstance(other, Categorical):
            raise TypeError(
                f"jsoftmax.Categorical.{method}: `other` must be a Categorical, not "
                f"{type(other).__name__}."
            )
        if other.classes != self.classes:
            raise ValueError(
                f"jsoftmax.Categorical.{method}: logits of shape {self.logits.shape} and "
                f"{other.logits.shape} have different numbers of classes."
            )
        ask, other_ask = self._ask(method), other._ask(method)
        ndim = max(self.logits.ndim, other.logits.ndim)
        p, log_p, log_q = (
            x.reshape((1,) * (ndim - x.ndim) + x.shape)
            for x in (ask.probabilities(), ask.log_probabilities(), other_ask.log_probabilities())
        )
        dtype = jnp.promote_types(p.dtype, log_q.dtype)
        return function(p.astype(dtype), log_p.astype(dtype), log_q.astype(dtype))


def _log_prob(ask: Problem, index: Array) -> Array:
    # Without the logarithms of all other classes, and accurate where log p is almost 0.
    return ask.squeezed(log_prob_at(ask.log_weights(), index[..., None], ask.classes))


def _divergence(p: Array, log_p: Array, log_q: Array) -> Array:
    # A sum of non-negative terms p log(p/q) − p + q = p (eᵈ − 1 − d) with d = log(q/p). The
    # textbook sum would lose a small divergence, which is of second order in d.
    out_of_reach = (p > 0) & (log_q == -jnp.inf)
    both = (p > 0) & ~out_of_reach
    q = jnp.exp(jnp.where(log_q == -jnp.inf, 0, log_q))
    q = jnp.where(log_q == -jnp.inf, 0, q)
    d = jnp.where(both, log_q, 0) - jnp.where(both, log_p, 0)
    upwards = d > 1  # where eᵈ may overflow
    near = p * _exp_less_line(jnp.where(upwards, 0, d))
    far = q - p - p * jnp.where(upwards, d, 0)
    terms = jnp.where(both, jnp.where(upwards, far, near), jnp.where(p > 0, 0, q + p))
    # A fully masked row, which does not sum to 1, has divergence 0.
    divergence = jnp.where(jnp.all(p == 0, -1), 0, jnp.sum(terms, -1))
    return jnp.where(jnp.any(out_of_reach, -1), jnp.inf, divergence)


def _exp_less_line(d: Array) -> Array:
    """Return eᵈ − 1 − d, which is d²/2 near 0."""
    small = jnp.abs(d) < 0.5
    x, y = jnp.where(small, d, 0), jnp.where(small, 0, d)
    series = jnp.zeros_like(d)
    for k in range(14, 1, -1):  # 0.5¹⁵/15! is 2e-17
        series = (series * x + 1) / k
    return jnp.where(small, x * x * series, jnp.expm1(y) - y)


def _code_length(p: Array, log_p: Array, log_q: Array) -> Array:
    del log_p
    some = p > 0
    impossible = some & (log_q == -jnp.inf)
    terms = jnp.where(p == 0, 0, -p * jnp.where(some & ~impossible, log_q, 0))
    return jnp.where(jnp.any(impossible, -1), jnp.inf, jnp.sum(terms, -1))
