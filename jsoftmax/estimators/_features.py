"""Products with centered and scaled features (x − m)/s, dense or sparse.

A sparse X stays sparse: centering enters its products as a rank-one term.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.sparse import BCOO

_PARTS = 8  # blocks of rows
_FEW = 1024  # for fewer rows there is one block


class DenseFeatures(NamedTuple):
    """The matrix (x − m)/s, [n, d], and its transpose, [d, n], each for its faster products."""

    scaled: Array
    turned: Array

    def scores(self, kernel: Array) -> Array:
        """Return scores [K, n] for a kernel [K, d]."""
        return kernel @ self.turned

    def gradient(self, surplus: Array) -> Array:
        """Return the gradient [K, d] for a surplus [K, n]."""
        return surplus @ self.scaled

    def squares(self, weights: Array) -> Array:
        """Return Σ w x² of each class and feature, for weights [K, n]."""
        return weights @ (self.scaled * self.scaled)

    def gathered(
        self, chosen: Array, per_row: Any
    ) -> tuple[DenseFeatures | DenseParts, Any, Array | int]:
        """Return the rows in equal parts, the chosen ones first, and the number of parts with them.

        `per_row` has arrays [K, n] of all rows, which become [parts, K, size] and are 0 in rows
        that are not chosen. A small number of rows stays in one part, since that is faster.
        """
        n = len(chosen)
        if n < _FEW:
            return self, per_row, 1
        parts, size = _PARTS, -(-n // _PARTS)
        order = jnp.argsort(~chosen, stable=True)

        def cut(x: Array) -> Array:
            """Reshape [K, n] to [parts, K, size]."""
            x = jnp.pad(x[:, order], ((0, 0), (0, parts * size - n)))
            return x.reshape(-1, parts, size).swapaxes(0, 1)

        turned = cut(self.turned)
        scaled = jnp.pad(self.scaled[order], ((0, parts * size - n), (0, 0)))
        per_row = jax.tree.map(lambda x: cut(x * chosen[None]), per_row)
        return (
            DenseParts(scaled.reshape(parts, size, -1), turned),
            per_row,
            -(-jnp.sum(chosen) // size),
        )

    def part(self, i: Array, per_row: Any) -> tuple[DenseFeatures, Any]:
        """Return all rows, the only part."""
        del i
        return self, per_row


class DenseParts(NamedTuple):
    """Features in parts, [parts, size, d], and their transposes, [parts, d, size]."""

    scaled: Array
    turned: Array

    def part(self, i: Array, per_row: Any) -> tuple[DenseFeatures, Any]:
        """Return the i-th part of the features, and of arrays [parts, K, size]."""
        features = DenseFeatures(self.scaled[i], self.turned[i])
        return features, jax.tree.map(lambda x: x[i], per_row)


class SparseFeatures(NamedTuple):
    """A sparse matrix x of shape [n, d], with its squares, m and s."""

    values: Any  # BCOO; type checkers do not know its products
    squared: Any
    mean: Array
    scale: Array

    def scores(self, kernel: Array) -> Array:
        """Return scores [K, n] for a kernel [K, d]."""
        kernel = kernel / self.scale
        return (self.values @ kernel.T - self.mean @ kernel.T).T

    def gradient(self, surplus: Array) -> Array:
        """Return the gradient [K, d] for a surplus [K, n]."""
        total = jnp.sum(surplus, -1, keepdims=True)
        return ((self.values.T @ surplus.T).T - total * self.mean) / self.scale

    def squares(self, weights: Array) -> Array:
        """Return Σ w x² of each class and feature, for weights [K, n]."""
        total = jnp.sum(weights, -1, keepdims=True)
        mixed, raw = ((x.T @ weights.T).T for x in (self.values, self.squared))
        squares = raw - 2 * self.mean * mixed + total * self.mean * self.mean
        return jnp.maximum(squares, 0) / (self.scale * self.scale)

    def gathered(self, chosen: Array, per_row: Any) -> tuple[SparseFeatures, Any, int]:
        """Return all rows in one part: a sparse matrix is not cut into rows."""
        del chosen
        return self, per_row, 1

    def part(self, i: Array, per_row: Any) -> tuple[SparseFeatures, Any]:
        """Return all rows, the only part."""
        del i
        return self, per_row


def centered(
    features: Array | BCOO, weights: Array, use_bias: Array, penalty: Array
) -> tuple[DenseFeatures | SparseFeatures, Array, Array]:
    """Return the features with their means m, [1, d], and scales s; weights sum to 1.

    The scales make the diagonal of the Hessian of the objective about constant, assuming that the
    curvature of a loss is ¼, its largest value for two classes.
    """
    if isinstance(features, BCOO):
        x: Any = features
        squared = BCOO((x.data * x.data, x.indices), shape=x.shape)
        second: Any = squared.T
        first, second = (x.T @ weights[:, None]).T, (second @ weights[:, None]).T
        mean = use_bias * first
        variance = second - 2 * mean * first + mean * mean
        s = _scale(variance, penalty)
        return SparseFeatures(x, squared, mean, s), mean, s
    mean = use_bias * (weights[None] @ features)
    s = _scale(weights[None] @ (features - mean) ** 2, penalty)
    scaled = (features - mean) / s
    return DenseFeatures(scaled, scaled.T), mean, s


def _scale(variance: Array, penalty: Array) -> Array:
    s = jnp.sqrt(jnp.maximum(variance, 0) + 4 * penalty)
    return jnp.where(s > 0, s, 1)


def padded_sparse(features: Any, rows: int, width: int, count: int) -> BCOO:
    """Return a SciPy matrix as a `BCOO` of this shape, padded with zeros to `count` entries."""
    coo = features.tocoo()
    more = count - coo.nnz
    data = np.pad(np.asarray(coo.data, np.float64), (0, more))
    indices = np.stack([np.pad(x.astype(np.int32), (0, more)) for x in (coo.row, coo.col)], -1)
    return BCOO((jnp.asarray(data), jnp.asarray(indices)), shape=(rows, width))
