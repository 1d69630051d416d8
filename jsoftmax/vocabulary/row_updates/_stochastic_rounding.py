"""Stochastic rounding to bfloat16: up or down at random, unbiased."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def rounded(key: Array, x: Array) -> Array:
    """Round x from float32 to one of its neighbours in bfloat16, more often to the nearer one.

    The mean over keys is x. Numbers of bfloat16, infinities and NaN are unchanged.
    """
    return _rounded(x, jax.random.bits(key, x.shape, jnp.uint32))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _rounded(x: Array, bits: Array) -> Array:
    # The 16 bits that are cut off, as a fraction of the last one kept, are the probability of a
    # carry from adding 16 random bits.
    number = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    number = (number + (bits & np.uint32(0xFFFF))) & np.uint32(0xFFFF0000)
    chosen = jax.lax.bitcast_convert_type(number, jnp.float32)
    return jnp.where(jnp.isfinite(x), chosen, x).astype(jnp.bfloat16)


@_rounded.defjvp
def _rounded_jvp(bits, primals, tangents):
    return _rounded(*primals, bits), tangents[0].astype(jnp.bfloat16)
