"""Balance experts without a loss, by a bias of each expert that follows its load."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks


def update_bias(bias: ArrayLike, load: ArrayLike, rate: ArrayLike = 1e-3) -> Float[Array, "..."]:
    r"""Raise the bias of experts with less than the mean load, and lower that of those with more.

    .. math:: b_i ← b_i + r\, \mathrm{sign}\Big(\frac1E \sum_j n_j - n_i\Big)

    The bias enters the choice of `route` but not the weights, so no gradient disturbs the task.
    Update it after each step, with the load summed over all devices.

    Args:
        bias: b of shape [..., E], any real dtype.
        load: n of the shape of `bias`, tokens of each expert: `statistics.load` of `route`.
        rate: r, the change of a bias in one step.

    Returns:
        The new bias, of the shape and dtype of `bias` (the default float dtype for integers).

    Raises:
        TypeError: if an argument does not hold real numbers.
        ValueError: if `bias` and `load` differ in shape, or there are no experts.

    Example:
        >>> import jax.numpy as jnp
        >>> print(update_bias(jnp.zeros(3), jnp.array([5, 1, 3]), 0.01))
        [-0.01  0.01  0.  ]

    Reference:
        L. Wang et al., "Auxiliary-loss-free load balancing strategy for mixture-of-experts", 2024.
    """
    function = "update_bias"
    bias, load = (checks.as_array(function, *x) for x in (("bias", bias), ("load", load)))
    if bias.shape != load.shape:
        raise ValueError(
            f"jsoftmax.routing.{function}: `bias` has shape {bias.shape} and `load` {load.shape}. "
            "Give one number for each expert in both."
        )
    checks.class_axis(function, bias, -1, None, "bias")
    dtype = checks.compute_dtype(bias)
    n = load.astype(dtype)
    rate = checks.as_array(function, "rate", rate).astype(dtype)
    # Compared as E n and Σ n, which are integers where the loads are.
    moved = bias.astype(dtype) + rate * jnp.sign(jnp.sum(n, -1, keepdims=True) - n * n.shape[-1])
    return moved.astype(checks.result_dtype(bias))
