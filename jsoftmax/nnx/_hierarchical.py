"""Hierarchical softmax: an output layer over classes at the leaves of a tree."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int

from jsoftmax.vocabulary import (
    ClassTree,
    TopK,
    hierarchical_categorical,
    hierarchical_cross_entropy,
    hierarchical_log_softmax,
    hierarchical_topk,
)

_TABLE_INIT = nnx.initializers.zeros_init()


class Tree(nnx.Variable):
    """The arrays of a tree; state, not a parameter."""


class HierarchicalSoftmax(nnx.Module):
    r"""Output layer by hierarchical softmax, with a table of node vectors.

    .. math:: \log P(y|h) = \sum_{n \text{ above } y} \log p_n(c_n)

    `loss` reads O(depth) rows of the table for each token, where a softmax over K classes reads all
    K. Its gradient in the table is nevertheless a whole table. The example avoids it: it takes the
    table out of the module, and updates the rows read.

    Args:
        features: d, the size of the last axis of the input.
        tree: a `jsoftmax.vocabulary.ClassTree`, such as that of `jsoftmax.huffman_tree`.
        use_bias: whether every row has a bias.
        param_dtype: the dtype of table and bias.
        table_init: initialiser of the table, of shape [tree.table_rows, d]; zeros by default, as in
            word2vec: all branches have equal probability.
        bias_init: initialiser of the bias, of shape [tree.table_rows].
        rngs: source of the initialisers' keys.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax as js
        >>> from flax import nnx
        >>> readout = HierarchicalSoftmax(2, js.huffman_tree([5, 2, 1, 1]), rngs=nnx.Rngs(0))
        >>> h, y = jnp.ones((2, 2)), jnp.array([0, 3])
        >>> print(readout.loss(h, y))
        [0.6931 2.0794]
        >>> tree, table = readout.tree.get_value(), readout.table[...]
        >>> optimizer = js.vocabulary.row_adagrad(0.1)
        >>> def step(table, state):  # O(log K), with table and state donated
        ...     ids = tree.rows(y)
        ...     loss = lambda rows: -js.hierarchical_log_prob_of_rows(h, rows, tree, y).mean()
        ...     return optimizer.update(table, state, ids, jax.grad(loss)(table[ids]))
        >>> table, state = jax.jit(step, donate_argnums=(0, 1))(table, optimizer.init(table))
        >>> readout.table.set_value(table)
        >>> print(readout.loss(h, y).mean() < 1.3863)
        True
    """

    def __init__(
        self,
        features: int,
        tree: ClassTree,
        *,
        use_bias: bool = False,
        param_dtype: DTypeLike = jnp.float32,
        table_init: nnx.Initializer = _TABLE_INIT,
        bias_init: nnx.Initializer = _TABLE_INIT,
        rngs: nnx.Rngs,
    ):
        rows = tree.table_rows
        self.tree = Tree(tree)
        self.table = nnx.Param(table_init(rngs.params(), (rows, features), param_dtype))
        self.bias = nnx.Param(bias_init(rngs.params(), (rows,), param_dtype)) if use_bias else None

    def __call__(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to probabilities [..., K], in float32 at least."""
        return jnp.exp(self.log_softmax(features))

    def log_softmax(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to log-probabilities [..., K], in float32 at least."""
        return hierarchical_log_softmax(features, *self._table(), bias=self._bias())

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
            *self._table(),
            labels,
            bias=self._bias(),
            where=where,
            ignore_index=ignore_index,
        )

    def topk(self, features: ArrayLike, k: int, *, beam: int | None = None) -> TopK:
        """Return the exact k most probable classes of features [..., d], and log-probabilities."""
        return hierarchical_topk(features, *self._table(), k, bias=self._bias(), beam=beam)

    def sample(self, key: Array, features: ArrayLike) -> Int[Array, "..."]:
        """Draw a class for each of the features [..., d]."""
        return hierarchical_categorical(key, features, *self._table(), bias=self._bias())

    def _table(self) -> tuple[Array, ClassTree]:
        return self.table[...], self.tree.get_value()

    def _bias(self) -> Array | None:
        return None if self.bias is None else self.bias[...]
