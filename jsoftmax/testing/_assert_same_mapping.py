"""Assert that two mappings agree, in values and in gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike

from jsoftmax.core import _checks as checks
from jsoftmax.testing._worst import assert_worst


def assert_same_mapping(
    mapping_a: Callable[[Array], Any],
    mapping_b: Callable[[Array], Any],
    logits: ArrayLike,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    r"""Assert that two functions of logits have the same values and the same gradients.

    .. math:: |a_i - b_i| ≤ ε_\text{abs} + ε_\text{rel} |b_i|, \qquad
              \text{likewise } J_a^⊤ c \text{ and } J_b^⊤ c

    with a fixed normal c, which almost surely distinguishes two Jacobians. Equal infinities are the
    same, and so is NaN at the same place. Values are asserted eagerly, or in a function that
    `chex.chexify` wraps around `jit`.

    Args:
        mapping_a: a function of the logits alone, which returns an array.
        mapping_b: the function it is compared with.
        logits: real numbers of any shape; integers are converted to floats.
        rtol: ε_rel ≥ 0.
        atol: ε_abs ≥ 0.

    Returns:
        None, where it holds.

    Raises:
        AssertionError: if shapes or numbers differ. The message shows the worst entry.
        TypeError: if `logits` are not real numbers.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> z = jnp.array([[0.0, 1.0, 1.5], [2.0, 0.0, -jnp.inf]])
        >>> assert_same_mapping(jsoftmax.softmax, jax.nn.softmax, z)
        >>> try:
        ...     assert_same_mapping(jsoftmax.softmax, jsoftmax.sparsemax, z)
        ... except AssertionError as error:
        ...     print(error)
        [Chex] Assertion assert_same_mapping failed: values differ: entry (0, 2) is 0.546..., and...
    """
    z = checks.as_array("testing.assert_same_mapping", "logits", logits)
    z = z.astype(checks.result_dtype(z))
    (a, pull_a), (b, pull_b) = jax.vjp(mapping_a, z), jax.vjp(mapping_b, z)
    if a.shape != b.shape:
        raise AssertionError(
            f"[Chex] Assertion assert_same_mapping failed: shapes differ: {a.shape} and {b.shape}."
        )
    _assert_close("values", a, b, rtol, atol)
    c = jax.random.normal(jax.random.key(0), a.shape)
    (d_a,), (d_b,) = pull_a(c.astype(a.dtype)), pull_b(c.astype(b.dtype))
    _assert_close("gradients", d_a, d_b, rtol, atol)


def _assert_close(called: str, a: Array, b: Array, rtol: float, atol: float) -> None:
    a, b = (x.astype(checks.compute_dtype(x)) for x in (a, b))
    same = (a == b) | (jnp.isnan(a) & jnp.isnan(b))
    off = jnp.abs(a - b) - rtol * jnp.abs(b)
    assert_worst(
        "assert_same_mapping", jnp.where(same, 0, off), atol,
        called + " differ: entry {place} is {a:.8g}, and {b:.8g} by the other.", a=a, b=b,
    )  # fmt: skip
