"""Trees over classes: from a given hierarchy, and of regular shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.core
import numpy as np
from jaxtyping import ArrayLike

from jsoftmax.core import _checks as checks
from jsoftmax.vocabulary.trees._class_tree import ClassTree
from jsoftmax.vocabulary.trees._tree_arrays import tree_of
from jsoftmax.vocabulary.trees._tree_counts import by_frequency, read_counts


def class_tree(hierarchy: ArrayLike | Sequence[Any] | Mapping[Any, Any]) -> ClassTree:
    """Build the tree of a given hierarchy, such as a taxonomy.

    A node with a single child makes no choice and is left out.

    Args:
        hierarchy: nested lists, tuples or dicts (the keys are names and are not kept) that contain
            every class, an integer from 0 to K − 1, once; or an array of shape [nodes] with the
            parent of every node, −1 for the root. The classes are then the nodes without children,
            in their order.

    Returns:
        A `ClassTree`. Children are in the order given.

    Raises:
        TypeError: if a part of the hierarchy is neither a class nor a collection, or the parents
            are not integers or are traced.
        ValueError: if classes are missing or repeated, there are fewer than two, or the parents do
            not form a tree.

    Example:
        >>> animals = {"cats": [0, 1, 2], "dogs": [3, 4], "a fish": 5}
        >>> tree = class_tree(animals)
        >>> tree
        ClassTree(classes=6, nodes=3, depth=2, width=3)
        >>> tree.path(4)
        (Branch(node=0, child=1), Branch(node=2, child=1))
        >>> same = class_tree(np.array([-1, 0, 0, 0, 1, 1, 1, 2, 2]))  # the fish is now class 0
        >>> same.path(5)
        (Branch(node=0, child=1), Branch(node=2, child=1))
    """
    if isinstance(hierarchy, jax.core.Tracer):
        raise TypeError(
            "jsoftmax.class_tree: the hierarchy is traced, and a tree is made by numpy. Make it "
            "outside of `jit`, and pass it in."
        )
    if isinstance(hierarchy, np.ndarray | jax.Array):
        return _from_parents(np.asarray(hierarchy))
    return _from_nested(hierarchy)


def balanced_tree(classes: int) -> ClassTree:
    """Build the binary tree of least depth, ⌈log₂ K⌉, over classes in their order.

    Classes with close numbers share most of their path, so it suits classes in a meaningful order.
    Where counts are known, `huffman_tree` makes fewer choices on average.

    Args:
        classes: K ≥ 2.

    Returns:
        A `ClassTree` with K − 1 nodes.

    Raises:
        TypeError: if `classes` is not an integer.
        ValueError: if there are fewer than two.

    Example:
        >>> balanced_tree(1_000).depth
        10
    """
    return _heap(checks.whole_number("balanced_tree", "classes", classes, 2), 2)


def kary_tree(classes: int, arity: int) -> ClassTree:
    """Build the tree of least depth with `arity` children per node, over classes in their order.

    Args:
        classes: K ≥ 2.
        arity: number of children per node, at least 2; one node may have fewer. 2 gives
            `balanced_tree`, K the softmax over all classes.

    Returns:
        A `ClassTree` with ⌈(K − 1)/(arity − 1)⌉ nodes.

    Raises:
        TypeError: if `classes` or `arity` is not an integer.
        ValueError: if `classes` or `arity` is less than 2.

    Example:
        >>> kary_tree(1_000, 10)
        ClassTree(classes=1000, nodes=111, depth=3, width=10)
    """
    classes = checks.whole_number("kary_tree", "classes", classes, 2)
    return _heap(classes, min(checks.whole_number("kary_tree", "arity", arity, 2), classes))


def two_level_tree(counts: ArrayLike | Sequence[Any], groups: int | None = None) -> ClassTree:
    """Build a tree of two levels: a softmax over groups of classes, then one within the group.

    Group sizes differ by one at most, even where counts are uneven, since every choice costs as
    much as the largest. Counts decide the assignment: the most frequent classes share a group, and
    so on.

    Args:
        counts: the frequency of each class, of shape [K]; or K alone, for groups of classes in
            their order.
        groups: number of groups, from 1 to K; None for √K, rounded, which is cheapest.

    Returns:
        A `ClassTree` of depth 2, or 1 where there is one group or as many as classes.

    Raises:
        TypeError: if sizes are not integers, or counts are not real.
        ValueError: if counts are empty, negative or not finite, there are fewer than two classes,
            or `groups` is out of range.

    Example:
        >>> tree = two_level_tree([9, 1, 8, 2], groups=2)
        >>> tree.path(2)
        (Branch(node=0, child=0), Branch(node=1, child=1))

    Reference:
        J. Goodman, "Classes for fast maximum entropy training", 2001.
    """
    function = "two_level_tree"
    if isinstance(counts, int | np.integer):
        classes = checks.whole_number(function, "classes", counts, 2)
        ranked = np.arange(classes)
    else:
        weights = read_counts(function, counts)
        classes = weights.size
        ranked = by_frequency(weights)
    groups = (
        round(classes**0.5) if groups is None else checks.whole_number(function, "groups", groups)
    )
    if groups > classes:
        raise ValueError(
            f"jsoftmax.{function}: `groups` is {groups}, more than the {classes} classes, so that "
            "some would be empty."
        )
    root = classes + groups
    parents = np.full(root + 1, root)
    parents[root] = -1
    parents[ranked] = classes + np.arange(classes) * groups // classes
    return tree_of(function, classes, parents, np.concatenate([ranked, np.arange(classes, root)]))


def _heap(classes: int, arity: int) -> ClassTree:
    """Build a heap: node i has the children arity·i + 1, …, arity·i + arity; leaves are last."""
    inner = -(-(classes - 1) // (arity - 1))
    start = 0  # of the last level: its leaves are the first from the left
    while arity * start + 1 < inner + classes:
        start = arity * start + 1
    start = max(start, inner)
    number = np.concatenate(
        [
            classes + np.arange(inner),
            np.arange(inner + classes - start, classes),
            np.arange(inner + classes - start),
        ]
    )
    parents = np.full(inner + classes, -1)
    parents[number[1:]] = number[np.arange(inner + classes - 1) // arity]
    return tree_of("kary_tree", classes, parents, number)


def _from_parents(parents: np.ndarray) -> ClassTree:
    function = "class_tree"
    if not np.issubdtype(parents.dtype, np.integer):
        raise TypeError(
            f"jsoftmax.{function}: the parents have dtype {parents.dtype}; give integers."
        )
    if parents.ndim != 1 or parents.size == 0:
        raise ValueError(
            f"jsoftmax.{function}: the parents have shape {parents.shape}; give a vector with the "
            "parent of every node."
        )
    parents = parents.astype(np.int64)
    if ((parents < -1) | (parents >= parents.size)).any() or np.count_nonzero(parents == -1) != 1:
        raise ValueError(
            f"jsoftmax.{function}: the parents must be nodes from 0 to {parents.size - 1}, and −1 "
            f"for one node, the root; {np.count_nonzero(parents == -1)} have −1."
        )
    above = np.where(parents >= 0, parents, np.arange(parents.size))
    for _ in range(parents.size.bit_length()):
        above = above[above]
    if (parents[above] >= 0).any():
        raise ValueError(
            f"jsoftmax.{function}: node {int((parents[above] >= 0).argmax())} is not below the "
            "root: it is its own ancestor, or below one that is."
        )
    is_leaf = np.bincount(parents[parents >= 0], minlength=parents.size) == 0
    nodes = np.concatenate([np.flatnonzero(is_leaf), np.flatnonzero(~is_leaf)])
    number = np.empty_like(nodes)
    number[nodes] = np.arange(nodes.size)
    renumbered = np.full(parents.size, -1)
    renumbered[number] = np.where(parents >= 0, number[parents], -1)
    return tree_of(function, int(np.count_nonzero(is_leaf)), renumbered, number)


def _from_nested(hierarchy: Any) -> ClassTree:
    function = "class_tree"
    found, inner = [], []  # (class, its parent), and the parent of each inner node
    order = []  # of both, inner nodes as −1, −2, …
    pending = [(hierarchy, -1)]
    while pending:
        part, parent = pending.pop()
        if isinstance(part, int | np.integer) and not isinstance(part, bool):
            found.append((int(part), parent))
            order.append(int(part))
        elif isinstance(part, Mapping | Sequence | np.ndarray) and not isinstance(part, str):
            members = list(part.values() if isinstance(part, Mapping) else part)
            if not members:
                raise ValueError(f"jsoftmax.{function}: a part of the hierarchy is empty.")
            inner.append(parent)
            order.append(-len(inner))
            pending += [(member, len(inner) - 1) for member in reversed(members)]
        else:
            raise TypeError(
                f"jsoftmax.{function}: {part!r} of type {type(part).__name__} is neither a class, "
                "an integer, nor a list, tuple or dict of parts. For parents give an array."
            )
    classes = len(found)
    numbers = np.array([y for y, _ in found])
    if not np.array_equal(np.sort(numbers), np.arange(classes)):
        raise ValueError(
            f"jsoftmax.{function}: the hierarchy has {classes} classes, so each number from 0 to "
            f"{classes - 1} must occur once; found "
            f"{np.array2string(np.sort(numbers), threshold=10)}. To give the parent of every node, "
            "use an array."
        )
    parents = np.full(classes + len(inner), -1)
    for y, parent in found:
        parents[y] = classes + parent if parent >= 0 else -1
    parents[classes:] = [classes + parent if parent >= 0 else -1 for parent in inner]
    positions = np.array([y if y >= 0 else classes - 1 - y for y in order])
    return tree_of(function, classes, parents, positions)
