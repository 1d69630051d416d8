"""Penalties for repeated tokens, and the counts of occurrences that they need."""

from __future__ import annotations

import math
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes


def penalized_logits(
    logits: ArrayLike,
    counts: ArrayLike,
    *,
    prompt_counts: ArrayLike | None = None,
    repetition: ArrayLike = 1.0,
    presence: ArrayLike = 0.0,
    frequency: ArrayLike = 0.0,
    bias: ArrayLike | None = None,
) -> Float[Array, "..."]:
    r"""Lower the logits of tokens that have occurred.

    .. math:: z'_i = r_i z_i - φ\,c_i - π\,[c_i > 0] + b_i, \qquad
              r_i = \begin{cases} 1/θ & z_i > 0 \\ θ & z_i ≤ 0 \end{cases}
              \text{ where } c_i + c^{\text{prompt}}_i > 0, \text{ and } 1 \text{ elsewhere}

    with counts c of the tokens generated so far. The repetition penalty θ counts the prompt too.

    Args:
        logits: scores z of shape [..., K], any real dtype.
        counts: c ≥ 0, how often each class has been generated, as `token_counts` returns it. This
            and all following arguments broadcast to `logits`.
        prompt_counts: how often each class occurs in the prompt.
        repetition: θ > 0; above 1 it lowers tokens that have occurred, 1 changes nothing.
        presence: π, subtracted once from every token that has been generated.
        frequency: φ, subtracted for each occurrence.
        bias: b, added at the end: a bias for single tokens, −∞ to exclude them.

    Returns:
        Logits of the shape of `logits` in their dtype (the default float dtype for integers),
        computed in float32 at least. Differentiable in `logits` and the penalties.

    Raises:
        TypeError: if an argument does not hold real numbers.
        ValueError: if a shape does not broadcast, or `repetition` is a number that is not positive.
            A traced one gives NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> z, c = jnp.array([2.0, -1.0, 0.5]), jnp.array([2, 1, 0])
        >>> print(penalized_logits(z, c, repetition=2.0, presence=0.1, frequency=0.25))
        [ 0.4  -2.35  0.5 ]

    Reference:
        N. S. Keskar et al., "CTRL: a conditional transformer language model for controllable
        generation", 2019, for θ.
    """
    function = "penalized_logits"
    z = checks.as_array(function, "logits", logits)
    dtype = checks.compute_dtype(z)

    def read(name, x):
        return checks.aligned(function, name, checks.as_array(function, name, x), z.shape)

    known = checks.known_values(repetition)
    if known is not None and not (known > 0).all():
        raise ValueError(
            f"jsoftmax.{function}: `repetition` must be positive, got {repetition!r}; 1 changes "
            "nothing, more makes repetition less probable."
        )
    c = read("counts", counts)
    seen = c > 0 if prompt_counts is None else (c > 0) | (read("prompt_counts", prompt_counts) > 0)
    theta = read("repetition", repetition).astype(dtype)
    theta = jnp.where(theta > 0, theta, jnp.nan)
    penalty = read("presence", presence).astype(dtype)
    slope = read("frequency", frequency).astype(dtype)
    x = z.astype(dtype)
    x = jnp.where(seen, jnp.where(x > 0, x / theta, x * theta), x)
    x = x - slope * c.astype(dtype) - jnp.where(c > 0, penalty, 0)
    if bias is not None:
        x = x + read("bias", bias).astype(dtype)
    return x.astype(checks.result_dtype(z))


@on_explicit_axes(like="tokens")
def token_counts(
    tokens: ArrayLike,
    classes: int,
    *,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Int[Array, "..."]:
    r"""Count how often each class occurs in each sequence.

    .. math:: c_i = |\{t : y_t = i\}|

    Args:
        tokens: classes y, integers of shape [..., t]. Values out of range [0, K) are not counted.
        classes: K, on all parts together.
        where: boolean mask that broadcasts to `tokens`: only these are counted.
        axis_name: name of the mesh or `vmap` axis that splits the classes evenly; the counts are
            then those of this part.

    Returns:
        Counts of shape [..., K], int32.

    Raises:
        TypeError: if `tokens` are not integers, `where` is not boolean, or `classes` is not an
            integer.
        ValueError: if `tokens` is a single number, shapes do not fit, or `classes` is not positive
            or not divisible by the number of parts.

    Example:
        >>> import jax.numpy as jnp
        >>> print(token_counts(jnp.array([[1, 1, 3], [0, 2, 2]]), 4))
        [[0 2 0 1]
         [1 0 2 0]]
    """
    function = "token_counts"
    y = checks.as_array(function, "tokens", tokens)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"jsoftmax.{function}: `tokens` has dtype {y.dtype}; give it integers.")
    if y.ndim == 0:
        raise ValueError(f"jsoftmax.{function}: `tokens` is a single number; give it a sequence.")
    if isinstance(classes, bool) or not isinstance(classes, int | np.integer):
        raise TypeError(f"jsoftmax.{function}: `classes` must be an integer, got {classes!r}.")
    parts = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    if classes < 1 or classes % parts:
        raise ValueError(
            f"jsoftmax.{function}: `classes` must be positive and a multiple of the {parts} parts "
            f"of the vocabulary, got {classes}."
        )
    mask = checks.mask_like(function, where, y, "tokens")
    here = int(classes) // parts
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * here
    rows = y.shape[:-1]
    flat = y.reshape(math.prod(rows), y.shape[-1]).astype(jnp.int32) - first
    inside = (flat >= 0) & (flat < here)
    if mask is not None:
        inside = inside & jnp.broadcast_to(mask, y.shape).reshape(flat.shape)
    row = jnp.arange(flat.shape[0], dtype=jnp.int32)[:, None]
    counts = jnp.zeros((flat.shape[0], here), jnp.int32)
    counts = counts.at[row, jnp.where(inside, flat, here)].add(1, mode="drop")
    return counts.reshape(*rows, here)
