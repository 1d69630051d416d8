"""Assert that p is α-entmax of its logits, by the conditions of optimality."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike

from jsoftmax.core import _checks as checks
from jsoftmax.testing._assert_distribution import assert_rows, tolerance
from jsoftmax.testing._worst import assert_worst


def assert_certificate(
    p: ArrayLike,
    logits: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    alpha: ArrayLike = 1.5,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    atol: float | None = None,
) -> None:
    r"""Assert that p is α-entmax of the logits, without another implementation.

    .. math:: p = \operatorname{argmax}_{q ∈ Δ} ⟨q, z/T⟩ - Ω_α(q)
              \iff \sum_i p_i = 1, \quad p_i = \big[1 + (α-1)(z_i/T - τ)\big]_+^{1/(α-1)}

    for one τ per row: the Karush–Kuhn–Tucker conditions of sum, support and stationarity. τ is
    computed from the class of the largest logit. An entry passes if it is within ε of the right
    number, or the right number for a logit that is within ε max(1, |z_i − max z|/T). Values are
    asserted eagerly, or in a function that `chex.chexify` wraps around `jit`.

    Args:
        p: probabilities, of the shape of `logits`.
        logits: z, of any shape. −inf excludes a class; classes at +inf share the mass.
        alpha: α, positive and finite, a number or an array of size 1 along `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: a boolean mask that broadcasts to `logits`.
        temperature: T > 0, a number or an array of size 1 along `axis`.
        atol: ε ≥ 0; by default 64 units of float32 or float64 and, where `p` is of a shorter
            dtype, at least 4 units of that.

    Returns:
        None, where it holds.

    Raises:
        AssertionError: if p is not a distribution, or the wrong one. The message shows the worst
            entry.
        TypeError, ValueError: if arguments are of a wrong dtype or shape, α or T out of range.

    Example:
        >>> import jax.numpy as jnp, jsoftmax
        >>> z = jnp.array([[0.0, 1.0, 1.5], [2.0, 0.0, 0.0]])
        >>> assert_certificate(jsoftmax.sparsemax(z), z, alpha=2.0)
        >>> try:
        ...     assert_certificate(jsoftmax.softmax(z), z, alpha=2.0)
        ... except AssertionError as error:
        ...     print(error)
        [Chex] Assertion assert_certificate failed: entry (0, 1) is 0.331..., and not 0.046...
    """
    assertion = "assert_certificate"
    name = f"testing.{assertion}"
    x, z = checks.as_array(name, "p", p), checks.as_array(name, "logits", logits)
    if x.shape != z.shape:
        raise ValueError(
            f"jsoftmax.{name}: `p` has shape {x.shape} and `logits` {z.shape}; give one "
            "probability for each logit."
        )
    classes = checks.class_axis(name, z, axis, None)
    mask = checks.mask_like(name, where, z)
    dtype = jnp.promote_types(checks.compute_dtype(z), checks.compute_dtype(x))
    z = z.astype(dtype)
    a = _positive(name, "alpha", alpha, z, classes) - 1
    t = _positive(name, "temperature", temperature, z, classes)
    bound = tolerance(x, 4, 64) if atol is None else atol

    keep = z != -jnp.inf
    if mask is not None:
        keep &= mask
    assert_rows(assertion, x, classes.axis, keep, bound)
    q = x.astype(dtype)
    error, right, of_top = _errors(q, z, a, t, keep, classes.axis)
    assert_worst(
        assertion, error, bound,
        "entry {place} is {p:.8g}, and not {right:.8g}, if the largest logit of its row has the "
        "right probability, {of_top:.8g}.", p=q, right=right, of_top=of_top,
    )  # fmt: skip


@partial(jax.jit, static_argnums=5)
def _errors(
    q: Array, z: Array, a: Array, t: Array, keep: Array, axis: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Return errors, the right probabilities given that of the top class, and the latter.

    With v measured from the top, τ drops out: p^a = p_top^a + a v, in logs where a is near 0.
    """
    z = jnp.where(keep, z, -jnp.inf)
    top = z.max(axis, keepdims=True)
    v = jnp.where(z == top, 0, (z - jnp.where(top == -jnp.inf, 0, top)) / t)
    of_top = jnp.where(z == top, q, 0).max(axis, keepdims=True)
    powered = of_top**a
    some = a != 0
    safe = jnp.where(some, a, 1)
    moved = jnp.where(v == 0, 0, safe * v / powered)
    right = of_top * jnp.exp(jnp.where(some, jnp.log1p(jnp.maximum(moved, -1)) / safe, v))
    ratio = jnp.log(q) - jnp.log(of_top)
    marginal = jnp.where(some, powered * jnp.expm1(safe * ratio) / safe, ratio)
    # Off the support only a logit above the threshold is wrong.
    distance = jnp.where(q > 0, jnp.abs(v - marginal), jnp.maximum(v - marginal, 0))
    # fmin, because the distance between −∞ and −∞ is NaN.
    error = jnp.fmin(jnp.abs(q - right), distance / jnp.maximum(1, jnp.abs(v)))
    return jnp.where(keep, error, 0), right, of_top


def _positive(name: str, argument: str, x: ArrayLike, z: Array, classes) -> Array:
    known = checks.static_number(x)
    if known is not None and not 0 < known < np.inf:
        raise ValueError(f"jsoftmax.{name}: `{argument}` must be positive and finite, got {x!r}.")
    return checks.per_row(name, argument, x, z, classes, z.dtype)
