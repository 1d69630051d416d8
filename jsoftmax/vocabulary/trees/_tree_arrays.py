"""Build the arrays of a tree from the parent of every node, by numpy, level by level."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jsoftmax.vocabulary.trees._class_tree import ClassTree


def tree_of(function: str, classes: int, parents: np.ndarray, order: np.ndarray) -> ClassTree:
    """Build the tree from parents. The first nodes are the classes; the parent of the root is −1.

    Args:
        function: the name of the caller, for errors.
        classes: the number of classes.
        parents: the parent of every node.
        order: all nodes; those of one parent are in the order of its children.

    Raises:
        ValueError: for a single class.
    """
    parents, order, root = _without_single_children(function, classes, parents, order)
    order = order[np.argsort(parents[order], kind="stable")]
    counts = np.bincount(parents[order], minlength=parents.size)
    starts = np.cumsum(counts) - counts
    width = int(counts.max(initial=0))

    # The state of a level: its inner nodes, by the numbers given, and the choices on the path to
    # each.
    level = np.array([root])
    paths = codes = np.empty((1, 0), np.int32)
    children, origins, leaves = [], [np.zeros(1, np.int64)], []
    number = 0  # of the first inner node of the level, from the root
    while level.size:
        many = counts[level]
        parent = np.repeat(np.arange(level.size), many)
        code = np.arange(parent.size) - np.repeat(np.cumsum(many) - many, many)
        child = order[starts[level][parent] + code]
        is_class = child < classes
        here = (number + parent).astype(np.int32)
        paths = np.column_stack([paths[parent], here])
        codes = np.column_stack([codes[parent], code.astype(np.int32)])
        leaves.append((child[is_class], paths[is_class], codes[is_class]))
        inner = ~is_class
        number += level.size
        content = np.where(is_class, -1 - child, 0)
        content[inner] = number + np.arange(np.count_nonzero(inner))
        row = np.zeros((level.size, width), np.int32)
        row[parent, code] = content
        children.append(row)
        origins.append((here.astype(np.int64) * width + code)[inner])
        level, paths, codes = child[inner], paths[inner], codes[inner]

    depth = len(leaves)
    every_path = np.full((classes, depth), -1, np.int32)
    every_code = np.zeros((classes, depth), np.min_scalar_type(width - 1))
    lengths = np.zeros(classes, np.int32)
    for length, (y, nodes, taken) in enumerate(leaves, 1):
        every_path[y, :length], every_code[y, :length], lengths[y] = nodes, taken, length
    table = np.concatenate(children)
    sizes = np.ones(len(table), np.int64) if width == 2 else np.count_nonzero(table, axis=1)
    arrays = (
        every_path,
        every_code,
        lengths,
        table,
        np.concatenate(origins),
        np.cumsum(sizes) - sizes,
    )
    return ClassTree(*(jnp.asarray(x if x.itemsize < 8 else x.astype(np.int32)) for x in arrays))


def _without_single_children(function, classes, parents, order):
    """Replace every node with a single child by the child, since it makes no choice."""
    counts = np.bincount(parents[parents >= 0], minlength=parents.size)
    single = counts == 1
    # Go from such a node down to the first with none or several children: by doubling, so that long
    # chains take few rounds.
    below = np.arange(parents.size)
    only = np.flatnonzero((parents >= 0) & single[parents])
    below[parents[only]] = only
    for _ in range(parents.size.bit_length()):
        below = below[below]
    roots = np.flatnonzero(parents < 0)
    root = int(below[roots[0]])
    if root < classes:
        raise ValueError(f"jsoftmax.{function}: a single class; a tree needs at least two.")
    kept = order[(parents[order] >= 0) & ~single[parents[order]]]
    # A kept node is replaced by the end of the chain below it.
    lifted = np.full(parents.size, -1)
    lifted[below[kept]] = parents[kept]
    return lifted, below[kept], root
