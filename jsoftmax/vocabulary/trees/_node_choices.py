"""Scores of the children of inner nodes, from features and rows of the table."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.vocabulary.trees._class_tree import ClassTree, read_tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choices:
    """Validated features and node table, for the scores of any node of the tree."""

    features: Array  # (token, d), in the dtype of computations
    table: Array  # not cast, since casting all of it would cost more than a step
    bias: Array | None
    tree: ClassTree
    # The shape of the features without their width.
    lead: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def scores(self, nodes: Array) -> tuple[Array, Array]:
        """Compute scores of the children of nodes (token, m), and their mask, (token, m, width)."""
        ids = self.tree.node_rows(nodes)
        bias = None if self.bias is None else self.bias[ids]
        z = products(self.features, self.table[ids], bias, ids >= 0)
        if self.tree.width > 2:
            return z, ids >= 0
        # σ(z) is the softmax of z and 0.
        z = jnp.concatenate([z, jnp.zeros_like(z)], axis=-1)
        return z, jnp.broadcast_to(ids >= 0, z.shape)

    def still(self) -> Choices:
        """Stop gradients through features, table and bias."""
        still = jax.lax.stop_gradient((self.features, self.table, self.bias))
        return Choices(*still, self.tree, self.lead)

    def shaped(self, x: Array) -> Array:
        """(token, …) → (*lead, …)."""
        return x.reshape(*self.lead, *x.shape[1:])


def products(features: Array, rows: Array, bias: Array | None, present: Array) -> Array:
    """Compute ⟨h, w⟩ + b for features (token, d) and rows (token, …, d), 0 for absent rows."""
    # Numbers gathered for an absent row, perhaps NaN, must not reach a gradient either.
    rows = jnp.where(present[..., None], rows, 0).astype(features.dtype)
    z = jnp.einsum("t...d,td->t...", rows, features)
    if bias is None:
        return z
    return z + jnp.where(present, bias, 0).astype(features.dtype)


def read_choices(function: str, features: Any, table: Any, tree: Any, bias: Any) -> Choices:
    """Validate and canonicalise features, table and tree.

    Raises:
        TypeError: for arrays that are not real numbers, and for a tree that is not a `ClassTree`.
        ValueError: for shapes that do not fit.
    """
    tree = read_tree(function, tree)
    features = checks.as_array(function, "features", features)
    table = checks.as_array(function, "table", table)
    rows = tree.table_rows
    if table.ndim != 2 or features.ndim < 1 or table.shape != (rows, features.shape[-1]):
        raise ValueError(
            f"jsoftmax.{function}: `features` of shape {features.shape} and `table` of shape "
            f"{table.shape} do not fit: they need the shapes [..., d] and [{rows}, d], a row for "
            f"each of the `table_rows` of {tree!r}."
        )
    bias = read_bias(function, bias, (rows,), "one number for each row of the table")
    dtype = jnp.result_type(checks.compute_dtype(features), checks.compute_dtype(table))
    return Choices(flat(features, dtype), table, bias, tree, features.shape[:-1])


def read_bias(function: str, bias: Any, shape: tuple[int, ...], words: str) -> Array | None:
    """Validate a bias of exactly this shape."""
    if bias is None:
        return None
    bias = checks.as_array(function, "bias", bias)
    if bias.shape != shape:
        raise ValueError(
            f"jsoftmax.{function}: `bias` has shape {bias.shape}; give {words}, shape {shape}."
        )
    return bias


def flat(features: Array, dtype: np.dtype) -> Array:
    """(*lead, d) → (token, d), in the dtype of computations."""
    return features.astype(dtype).reshape(math.prod(features.shape[:-1]), features.shape[-1])
