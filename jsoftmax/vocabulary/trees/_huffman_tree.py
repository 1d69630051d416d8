"""Huffman trees: binary trees with the least mean number of choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from jsoftmax.vocabulary.trees._class_tree import ClassTree
from jsoftmax.vocabulary.trees._tree_arrays import tree_of
from jsoftmax.vocabulary.trees._tree_counts import by_frequency, read_counts


def huffman_tree(counts: ArrayLike | Sequence[Any]) -> ClassTree:
    r"""Build Huffman's tree, the binary tree with the least mean number of choices.

    .. math:: \min \sum_y c_y \ell_y, \qquad H(c) ≤ \sum_y \frac{c_y}{\sum c} \ell_y < H(c) + 1

    with the entropy H in bits: frequent classes are near the root. Counts of 0 are allowed. Among
    optimal trees it is one of least depth, and ties are in the order of the classes, so that the
    tree depends on the counts alone. Built by numpy in O(K log K), in about two seconds for a
    million classes.

    Args:
        counts: the frequency of each class, of shape [K], K ≥ 2.

    Returns:
        A `ClassTree` with K − 1 nodes.

    Raises:
        TypeError: if `counts` are traced, or not real numbers.
        ValueError: if `counts` are empty, not a vector, of a single class, negative or not finite.

    Example:
        >>> tree = huffman_tree([8, 4, 2, 1, 1])
        >>> print(tree.lengths, tree.expected_length([8, 4, 2, 1, 1]))
        [1 2 3 4 4] 1.875

    Reference:
        D. A. Huffman, "A method for the construction of minimum-redundancy codes", 1952;
        F. Morin and Y. Bengio, "Hierarchical probabilistic neural network language model", 2005;
        T. Mikolov et al., "Distributed representations of words and phrases and their
        compositionality", 2013.
    """
    weights = read_counts("huffman_tree", counts)
    ranked = by_frequency(weights)
    merged = _merged(weights[ranked[::-1]].tolist())
    # Replace positions in the order of counts by classes; inner nodes come after them.
    inner = np.arange(ranked.size, merged.size)
    parents = np.empty_like(merged)
    parents[np.concatenate([ranked[::-1], inner])] = merged
    # Child 0 is a class rather than an inner node, and the more frequent of two classes.
    return tree_of("huffman_tree", ranked.size, parents, np.concatenate([ranked, inner[::-1]]))


def _merged(weights: list) -> np.ndarray:
    """Merge leaves of rising weights; return the parents of leaves and merged nodes.

    Merged weights rise too, so that the two smallest are at the heads of two queues: of leaves and
    of merged nodes. In a tie the leaf comes first, which keeps the tree shallow.
    """
    classes = len(weights)
    parents = np.full(2 * classes - 1, -1)
    firsts, seconds = [0] * (classes - 1), [0] * (classes - 1)
    weights.append(float("inf"))
    sums = [float("inf")] * classes  # of merged nodes; future ones are never the smallest
    leaf = node = 0
    for made in range(classes - 1):
        if weights[leaf] <= sums[node]:
            first, total, leaf = leaf, weights[leaf], leaf + 1
        else:
            first, total, node = classes + node, sums[node], node + 1
        if weights[leaf] <= sums[node]:
            second, total, leaf = leaf, total + weights[leaf], leaf + 1
        else:
            second, total, node = classes + node, total + sums[node], node + 1
        firsts[made], seconds[made], sums[made] = first, second, total
    numbers = classes + np.arange(classes - 1)
    parents[firsts] = numbers
    parents[seconds] = numbers
    return parents
