"""Hierarchical softmax: an output layer over classes at the leaves of a tree."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core._contents import Held
from jsoftmax.vocabulary import (
    ClassTree,
    TopK,
    hierarchical_categorical,
    hierarchical_cross_entropy,
    hierarchical_log_softmax,
    hierarchical_topk,
)


class HierarchicalSoftmax(nn.Module):
    r"""Output layer by hierarchical softmax, with a table of node vectors.

    .. math:: \log P(y|h) = \sum_{n \text{ above } y} \log p_n(c_n)

    `loss` reads O(depth) rows of the table for each token, where a softmax over K classes reads all
    K. Its gradient in the table is nevertheless a whole table. The example avoids it: it takes the
    table out of the variables, and updates the rows read. The tree's arrays are variables of the
    collection "tree", so that they are arguments of a compiled function, and not constants in it.

    Args:
        features: d, the size of the last axis of the input.
        tree: a `jsoftmax.vocabulary.ClassTree`, such as that of `jsoftmax.huffman_tree`.
        use_bias: whether every row has a bias.
        param_dtype: the dtype of table and bias.
        table_init: initialiser of the table, of shape [tree.table_rows, d]; zeros by default, as in
            word2vec: all branches have equal probability.
        bias_init: initialiser of the bias, of shape [tree.table_rows].

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax as js
        >>> readout = HierarchicalSoftmax(2, js.huffman_tree([5, 2, 1, 1]))
        >>> h, y = jnp.ones((2, 2)), jnp.array([0, 3])
        >>> variables = readout.init(jax.random.key(0), h)
        >>> print(readout.apply(variables, h, y, method="loss"))
        [0.6931 2.0794]
        >>> tree, table = variables["tree"]["tree"], variables["params"]["table"]
        >>> optimizer = js.vocabulary.row_adagrad(0.1)
        >>> def step(table, state):  # O(log K), with table and state donated
        ...     ids = tree.rows(y)
        ...     loss = lambda rows: -js.hierarchical_log_prob_of_rows(h, rows, tree, y).mean()
        ...     return optimizer.update(table, state, ids, jax.grad(loss)(table[ids]))
        >>> table, state = jax.jit(step, donate_argnums=(0, 1))(table, optimizer.init(table))
        >>> variables = {**variables, "params": {"table": table}}
        >>> print(readout.apply(variables, h, y, method="loss").mean() < 1.3863)
        True
    """

    features: int
    tree: Any  # held
    _: dataclasses.KW_ONLY
    use_bias: bool = False
    param_dtype: Any = jnp.float32
    table_init: Any = nn.initializers.zeros_init()
    bias_init: Any = nn.initializers.zeros_init()

    def __post_init__(self):
        object.__setattr__(self, "tree", Held(self.tree))
        super().__post_init__()

    def setup(self):
        """Create the node table, and store the tree."""
        tree: ClassTree = self.tree.value
        rows = tree.table_rows
        self.arrays = self.variable("tree", "tree", lambda: tree)
        self.table = self.param("table", self.table_init, (rows, self.features), self.param_dtype)
        self.bias = (
            self.param("bias", self.bias_init, (rows,), self.param_dtype) if self.use_bias else None
        )

    def __call__(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to probabilities [..., K], in float32 at least."""
        return jnp.exp(self.log_softmax(features))

    def log_softmax(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to log-probabilities [..., K], in float32 at least."""
        return hierarchical_log_softmax(features, self.table, self.arrays.value, bias=self.bias)

    def loss(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        *,
        where: ArrayLike | None = None,
        ignore_index: int | None = None,
    ) -> Float[Array, "..."]:
        """Return `hierarchical_cross_entropy` of features [..., d] and classes [...]."""
        return hierarchical_cross_entropy(
            features,
            self.table,
            self.arrays.value,
            labels,
            bias=self.bias,
            where=where,
            ignore_index=ignore_index,
        )

    def topk(self, features: ArrayLike, k: int, *, beam: int | None = None) -> TopK:
        """Return the exact k most probable classes of features [..., d], and log-probabilities."""
        return hierarchical_topk(
            features, self.table, self.arrays.value, k, bias=self.bias, beam=beam
        )

    def sample(self, key: Array, features: ArrayLike) -> Int[Array, "..."]:
        """Draw a class for each of the features [..., d]."""
        return hierarchical_categorical(
            key, features, self.table, self.arrays.value, bias=self.bias
        )
