"""Class trees as arrays: paths from the root to the leaves, and children of inner nodes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

from jsoftmax.core import _checks as checks
from jsoftmax.core._contents import hash_of_contents, other_contents, same_contents
from jsoftmax.core._explicit_axes import on_explicit_axes


class Branch(NamedTuple):
    """A choice on the path to a class: an inner node, and one of its children."""

    node: int
    child: int


class Way(NamedTuple):
    """The choices on the paths to classes, padded to the depth of the tree."""

    nodes: Array  # [..., depth], −1 beyond the class
    codes: Array  # [..., depth]
    valid: Array  # [...], False for a label out of range: it has no nodes


class ClassTree(NamedTuple):
    r"""A tree with the K classes as leaves: a distribution as a product of small choices.

    .. math:: P(y) = \prod_{n \text{ above } y} p_n(\text{the child of } n \text{ above } y)

    Made once, by numpy, from counts or a given hierarchy: `huffman_tree`, `balanced_tree`,
    `kary_tree`, `two_level_tree`, `class_tree`. Inner nodes are numbered from the root, 0, level by
    level. Their parameters are the rows of a table, `table_rows` in all:

    - In a binary tree every node has one row w, and :math:`p_n = σ(±⟨h, w⟩)`, + for child 0.
    - In any other tree every child has a row, and p_n is the softmax over the children of n. Work
      and memory for a node are those of the widest one, since shapes are fixed.

    It is a tuple of arrays: pass it through `jit` and `vmap`, save it by
    `numpy.savez(file, **tree._asdict())` or as any pytree, and restore it by
    `ClassTree(**numpy.load(file))`.

    Args:
        paths: of shape [K, depth]: the inner nodes from the root to each class, then −1.
        codes: of shape [K, depth]: the index of the child taken at each.
        lengths: of shape [K]: the number of choices.
        children: of shape [nodes, width]: the children of each inner node; n > 0 is inner node n,
            −1 − y is class y, and 0 is no child, since no node has the root as child.
        origins: of shape [nodes]: the position of each inner node in `children`, read row by row.
        firsts: of shape [nodes]: the first row of each in the table.

    Example:
        >>> import jsoftmax as js
        >>> tree = js.huffman_tree([5, 2, 1, 1])
        >>> tree
        ClassTree(classes=4, nodes=3, depth=3, width=2)
        >>> print(tree.lengths, tree.path(3))
        [1 2 3 3] (Branch(node=0, child=1), Branch(node=1, child=1), Branch(node=2, child=1))
        >>> print(tree.rows([0, 3]))
        [[ 0 -1 -1]
         [ 0  1  2]]
    """

    paths: Integer[Array, "..."]
    codes: Integer[Array, "..."]
    lengths: Integer[Array, "..."]
    children: Integer[Array, "..."]
    origins: Integer[Array, "..."]
    firsts: Integer[Array, "..."]

    __eq__ = same_contents
    __ne__ = other_contents
    __hash__ = hash_of_contents

    @property
    def classes(self) -> int:
        """Return the number of classes, K."""
        return self.paths.shape[-2]

    @property
    def nodes(self) -> int:
        """Return the number of inner nodes."""
        return self.children.shape[-2]

    @property
    def depth(self) -> int:
        """Return the largest number of choices on the path to a class."""
        return self.paths.shape[-1]

    @property
    def width(self) -> int:
        """Return the largest number of children of a node; 2 for a binary tree."""
        return self.children.shape[-1]

    @property
    def table_rows(self) -> int:
        """Return the number of rows of the table of parameters."""
        return self.nodes if self.width == 2 else self.nodes - 1 + self.classes

    @property
    def path_rows(self) -> int:
        """Return the largest number of rows that determine the probability of a class."""
        return self.depth * (1 if self.width == 2 else self.width)

    def path(self, target: Any) -> tuple[Branch, ...]:
        """Return the choices on the path to a class; for display, outside of `jit`."""
        known = checks.known_values(target)
        if known is None or known.ndim or not 0 <= known < self.classes:
            raise ValueError(
                f"jsoftmax.ClassTree.path: {target!r} is not a class; give an integer from 0 to "
                f"{self.classes - 1}."
            )
        paths, codes, lengths = (
            np.asarray(x)[int(target)] for x in (self.paths, self.codes, self.lengths)
        )
        steps = (x[:lengths].tolist() for x in (paths, codes))
        return tuple(map(Branch, *steps))

    def expected_length(self, counts: Any) -> float:
        """Compute the mean number of choices for classes of frequencies `counts`, of shape [K]."""
        counts = np.asarray(counts, np.float64)
        if counts.shape != (self.classes,):
            raise ValueError(
                f"jsoftmax.ClassTree.expected_length: `counts` have shape {counts.shape}; give one "
                f"number for each of the {self.classes} classes."
            )
        return float(counts @ np.asarray(self.lengths) / counts.sum())

    @on_explicit_axes(like="labels", axis=())
    def rows(self, labels: Any) -> Int[Array, "... n"]:
        """Return the ids of the rows that determine the probabilities of classes.

        Args:
            labels: classes, integers of shape [...].

        Returns:
            Integers of shape [..., path_rows], which is the depth of a binary tree and depth ·
            width of another: −1 for padding, and everywhere for a label out of range.

        Raises:
            TypeError: if `labels` are not integers.
        """
        way = self.way(checked_labels("ClassTree.rows", labels))
        ids = self.node_rows(way.nodes)
        return ids.reshape(*way.valid.shape, self.path_rows)

    def way(self, labels: Array) -> Way:
        """Return the choices on the paths to classes."""
        valid = (labels >= 0) & (labels < self.classes)
        y = jnp.where(valid, labels, 0).astype(jnp.int32)
        nodes = jnp.where(valid[..., None], jnp.asarray(self.paths)[y], -1)
        return Way(nodes, jnp.asarray(self.codes)[y].astype(jnp.int32), valid)

    def node_rows(self, nodes: Array) -> Array:
        """Return row ids of inner nodes along a new axis, of size 1 for a binary tree; or −1."""
        if self.width == 2:
            return nodes[..., None]
        n = jnp.maximum(nodes, 0)
        is_child = (jnp.asarray(self.children)[n] != 0) & (nodes >= 0)[..., None]
        firsts = jnp.asarray(self.firsts)[n][..., None]
        number = jax.lax.broadcasted_iota(firsts.dtype, is_child.shape, is_child.ndim - 1)
        return jnp.where(is_child, firsts + number, -1)

    def __repr__(self) -> str:
        sizes = {"classes": "paths", "nodes": "children", "depth": "paths", "width": "children"}
        if any(getattr(getattr(self, array), "ndim", 0) < 2 for array in sizes.values()):
            return f"ClassTree{tuple(self)}"  # JAX also puts objects other than arrays into pytrees
        return f"ClassTree({', '.join(f'{name}={getattr(self, name)}' for name in sizes)})"


def checked_labels(function: str, labels: Any) -> Array:
    """Convert labels to an array; a narrow dtype is widened, so that arithmetic cannot wrap."""
    labels = checks.as_array(function, "labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `labels` have dtype {labels.dtype}; give integers for classes."
        )
    return labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)


def read_tree(function: str, tree: Any) -> ClassTree:
    """Return the tree with arrays of JAX, whether or not it comes from a file."""
    if not isinstance(tree, ClassTree):
        raise TypeError(
            f"jsoftmax.{function}: `tree` is of type {type(tree).__name__}; give it a ClassTree, "
            "such as huffman_tree(counts)."
        )
    return jax.tree.map(jnp.asarray, tree)
