"""The linear gate of a router, from features to logits in float32 at least."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks


def gate_logits(
    function: str, features: Any, kernel: Array, bias: Array | None, dtype: Any, precision: Any
) -> Array:
    """Return logits h W + b [..., E] in `dtype`; None promotes both, to float32 at least.

    Raises:
        TypeError: for features that are not real numbers.
        ValueError: for features with a width other than the kernel's.
    """
    h = checks.as_array(function, "features", features)
    if h.ndim == 0 or h.shape[-1] != kernel.shape[0]:
        raise ValueError(
            f"jsoftmax.{function}: `features` have shape {h.shape}; their last axis must be of "
            f"size {kernel.shape[0]}, as given to the module."
        )
    if dtype is None:
        dtype = jnp.result_type(checks.compute_dtype(h), checks.compute_dtype(kernel))
    z = jnp.matmul(h.astype(dtype), kernel.astype(dtype), precision=precision)
    if bias is None:
        return z
    return z + jnp.expand_dims(bias.astype(dtype), tuple(range(z.ndim - 1)))


def without_bias(function: str) -> ValueError:
    """Return the error for an update without a balancing bias."""
    return ValueError(
        f"jsoftmax.{function}: there is no balancing bias to update. Give the module "
        "use_balancing_bias=True."
    )
