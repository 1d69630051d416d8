"""The product h W. With many tokens, its gradient in W is summed in stretches.

A kernel in bfloat16 or float16 enters products without a cast, and features are cast to its dtype.
Features are held in float32, since their gradient is summed over blocks of classes; all sums are in
float32. Only slopes enter the product with the kernel in float32, and the platform decides how to
multiply such a mixed pair.

A matrix product adds some hundred tokens one after another, with an error of 5e-6 in float32 for
equal terms. In a stretch of 32 the error is at most 5e-7, and the sums of stretches are added as a
tree.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

_MANY = 2**15  # tokens; up to so many a product stays whole
_STRETCH = 32  # tokens that are added one after another
_WIDEST = 2 * _STRETCH  # features: sums of stretches take twice the memory of the scores at most
_TERMS = 2**8  # entries of a kernel: up to so many, sums of terms are faster than products


def are_many(tokens: Any) -> bool:
    """Return whether sums over so many tokens are split; False for a symbolic number."""
    return isinstance(tokens, int) and tokens > _MANY


def product(features: Array, kernel: Array, kernel_axis: int, many: bool) -> Array:
    """Compute h W of shape (token, class), from a kernel with its classes along `kernel_axis`."""
    if features.dtype != kernel.dtype:
        return _narrow(kernel_axis, features, kernel)
    if is_split(features, many):
        return _product(kernel_axis, features, kernel)
    return _whole(kernel_axis, features, kernel)


def slope_in_kernel(features: Array, pulled: Array, kernel_axis: int, many: bool) -> Array:
    """Compute hᵀ g, the gradient of ⟨g, h W⟩ in W."""
    operands = (features, pulled) if kernel_axis else (pulled, features)

    def whole(x, y):
        return jax.lax.dot_general(x, y, (((0,), (0,)), ((), ())))

    if not is_split(features, many):
        return whole(*operands)
    body, rest = zip(*map(_stretches, operands), strict=True)
    x, y = body
    if _is_small(x.shape[-1], y.shape[-1]):
        sums = jnp.sum(x[..., None] * y[:, :, None], 1)
    else:
        sums = jax.lax.dot_general(x, y, (((1,), (1,)), ((0,), (0,))))
    total = jnp.sum(jax.lax.optimization_barrier(sums), 0)
    return total + whole(*rest) if rest[0].shape[0] else total


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _product(kernel_axis: int, features: Array, kernel: Array) -> Array:
    return _whole(kernel_axis, features, kernel)


@partial(_product.defjvp, symbolic_zeros=True)
def _product_jvp(kernel_axis, primals, tangents):
    (features, kernel), (d_features, d_kernel) = primals, tangents
    terms = []
    if not isinstance(d_features, SymbolicZero):
        terms.append(_product(kernel_axis, d_features, kernel))
    if not isinstance(d_kernel, SymbolicZero):
        terms.append(_of_copies(kernel_axis, features, d_kernel))
    return _product(kernel_axis, features, kernel), sum(terms)


def _of_copies(kernel_axis, features, d_kernel):
    # h Ẇ. Each stretch of tokens has a copy of Ẇ, so that the transpose is a product for each, and
    # their sum. The barrier keeps the compiler from merging them into one product.
    body, rest = _stretches(features)
    copies = jnp.broadcast_to(d_kernel, (body.shape[0], *d_kernel.shape))
    copies = jax.lax.optimization_barrier(copies)
    if _is_small(*d_kernel.shape):
        copies = copies if kernel_axis else jnp.swapaxes(copies, 1, 2)
        z = jnp.sum(body[..., None] * copies[:, None], 2)
    else:
        z = jax.lax.dot_general(body, copies, (((2,), (2 - kernel_axis,)), ((0,), (0,))))
    z = z.reshape(-1, z.shape[-1])
    if not rest.shape[0]:
        return z
    return jnp.concatenate([z, _whole(kernel_axis, rest, d_kernel)])


def _whole(kernel_axis, features, kernel, dtype=None):
    axes = (((1,), (1 - kernel_axis,)), ((), ()))
    return jax.lax.dot_general(features, kernel, axes, preferred_element_type=dtype)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _narrow(kernel_axis: int, features: Array, kernel: Array) -> Array:
    """Compute h W for a kernel in fewer bits; h is exact in its dtype."""
    return _whole(kernel_axis, features.astype(kernel.dtype), kernel, features.dtype)


@partial(_narrow.defjvp, symbolic_zeros=True)
def _narrow_jvp(kernel_axis, primals, tangents):
    (features, kernel), (d_features, d_kernel) = primals, tangents
    terms = []
    if not isinstance(d_features, SymbolicZero):
        terms.append(_whole(kernel_axis, d_features, kernel, features.dtype))
    if not isinstance(d_kernel, SymbolicZero):
        terms.append(_narrow(kernel_axis, features, d_kernel))
    return _narrow(kernel_axis, features, kernel), sum(terms)


def _stretches(x):
    """Split tokens into whole stretches along a new first axis, and the remainder."""
    tokens, width = x.shape
    count = tokens // _STRETCH
    return x[: count * _STRETCH].reshape(count, _STRETCH, width), x[count * _STRETCH :]


def is_split(features: Array, many: bool) -> bool:
    """Return whether the gradient in the kernel is summed in stretches."""
    tokens, width = features.shape
    if jax.typeof(features).sharding.spec[0] is not None:
        return False  # tokens that are split over devices must not be moved
    return many and isinstance(width, int) and width <= _WIDEST and tokens >= 2 * _STRETCH


def _is_small(width, classes):
    return isinstance(classes, int) and isinstance(width, int) and width * classes <= _TERMS
