"""Assert that rows are distributions."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike

from jsoftmax.core import _checks as checks
from jsoftmax.testing._worst import assert_worst


def assert_distribution(
    p: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
    atol: float | None = None,
) -> None:
    r"""Assert that every row of p is a distribution over its unmasked classes.

    .. math:: 0 ≤ p_i < ∞, \qquad p_i = 0 \text{ where masked}, \qquad \Big|\sum_i p_i - 1\Big| ≤ ε

    A fully masked row is all zeros. Values are asserted eagerly, or in a function that
    `chex.chexify` wraps around `jit`. The message shows the worst row or entry and its value.
    `assert_certificate` also asserts that p is the right distribution.

    Args:
        p: probabilities, real numbers of any shape.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: a boolean mask that broadcasts to `p`.
        atol: ε ≥ 0; by default 32 units of float32 or float64 and, where `p` is of a shorter
            dtype, at least 2 units of that.

    Returns:
        None, where it holds.

    Raises:
        AssertionError: if an entry or a row violates these conditions.
        TypeError, ValueError: if `p`, `axis` or `where` are of a wrong dtype or shape.

    Example:
        >>> import chex, jax, jax.numpy as jnp, jsoftmax
        >>> z = jnp.array([[1.0, 2.0], [3.0, 3.0]])
        >>> assert_distribution(jsoftmax.sparsemax(z))
        >>> try:
        ...     assert_distribution(z / 4)
        ... except AssertionError as error:
        ...     print(error)
        [Chex] Assertion assert_distribution failed: row (1,) sums to 1.5, and not to 1.
        >>> @chex.chexify
        ... @jax.jit
        ... def predict(z):
        ...     p = jsoftmax.softmax(z)
        ...     assert_distribution(p)
        ...     return p
        >>> print(predict(z)[1])
        [0.5 0.5]
        >>> predict.wait_checks()
    """
    name = "testing.assert_distribution"
    x = checks.as_array(name, "p", p)
    classes = checks.class_axis(name, x, axis, None, called="p")
    mask = checks.mask_like(name, where, x, called="p")
    assert_rows("assert_distribution", x, classes.axis, mask, atol)


def assert_rows(
    assertion: str, p: Array, axis: tuple[int, ...], mask: Array | None, atol: float | None
) -> None:
    """Assert that rows are distributions, in the name of another assertion."""
    bound = tolerance(p, 2, 32) if atol is None else atol
    p = p.astype(checks.compute_dtype(p))
    keep = jnp.ones(p.shape, bool) if mask is None else jnp.broadcast_to(mask, p.shape)
    assert_worst(
        assertion, jnp.where((p >= 0) & (p < jnp.inf), 0, jnp.nan), 0,
        "entry {place} is {p:.8g}, not a probability: finite and at least 0.", p=p,
    )  # fmt: skip
    assert_worst(
        assertion, jnp.where(keep, 0, p), 0,
        "entry {place} is {p:.8g}, and not 0, though it is excluded.", p=p,
    )  # fmt: skip
    total, right = p.sum(axis), keep.any(axis).astype(p.dtype)
    assert_worst(
        assertion, jnp.abs(total - right), bound,
        "row {place} sums to {total:.8g}, and not to {right:.0f}.", total=total, right=right,
    )  # fmt: skip


def tolerance(p: Array, given: float, computed: float) -> float:
    """Return the larger of two tolerances, in units of the dtype of p and of the computation."""
    own = jnp.finfo(checks.result_dtype(p)).eps
    return max(given * float(own), computed * float(jnp.finfo(checks.compute_dtype(p)).eps))
