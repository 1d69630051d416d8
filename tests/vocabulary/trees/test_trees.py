"""Trees over classes: optimality, shape, display, saving and restoring."""

import heapq

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

import jsoftmax as js
from tests.vocabulary.trees.hierarchical_helpers import COUNTS, TREES

each_tree = pytest.mark.parametrize("tree", TREES.values(), ids=TREES)


def optimal_cost(counts):
    """Σ count · length of Huffman's code, by a heap: the sum of all that is merged."""
    heap, cost = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    return cost


FIBONACCI = [1, 1]
while len(FIBONACCI) < 45:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])

ODD_COUNTS = {
    "some zeros": COUNTS,
    "all zeros": [0] * 9,
    "two": [1, 5],
    "equal": [3] * 13,
    "skewed": FIBONACCI,
    "as floats": [0.1, 0.4, 0.1, 1e300, 1e308, 1e308],
    "tiny": [1e-310, 3e-310, 5e-324, 0.0],
    "bools": [True, False, True],
    "Zipf": (1e6 / np.arange(1, 1001)).astype(np.uint32),
}


@pytest.mark.parametrize("counts", ODD_COUNTS.values(), ids=ODD_COUNTS)
def test_huffman_lengths_are_optimal(counts):
    """As another Huffman's in total; and Kraft's sum is 1, as that of any full binary tree."""
    tree = js.huffman_tree(counts)
    lengths = np.asarray(tree.lengths)
    scaled = [float(c) / 4 for c in counts]  # so that no sum is infinite
    np.testing.assert_allclose(np.dot(scaled, lengths), optimal_cost(scaled), rtol=1e-12)
    assert np.ldexp(1.0, -lengths).sum() == 1
    rank = np.argsort(np.asarray(counts, float), kind="stable")
    assert (np.diff(lengths[rank])[np.diff(np.asarray(counts, float)[rank]) > 0] <= 0).all()


def test_huffman_is_as_shallow_as_optimal_trees_can_be():
    """Of 8 equal counts, or of none, all lengths are 3; Fibonacci's numbers make a chain."""
    assert (js.huffman_tree([2] * 8).lengths == 3).all()
    assert (js.huffman_tree([0] * 8).lengths == 3).all()
    assert js.huffman_tree([1, 1, 1, 1, 2, 2]).depth == 3
    assert js.huffman_tree(FIBONACCI).depth == 44


def test_huffman_depends_on_nothing_but_the_counts():
    """Not on their dtype, nor on a factor; equal counts are taken in their order."""
    tree = js.huffman_tree(COUNTS)
    for same in (
        np.array(COUNTS, np.uint8),
        np.array(COUNTS, np.float16),
        jnp.array(COUNTS) * 8,
        tuple(COUNTS),
    ):
        assert_same(tree, js.huffman_tree(same))
    assert [js.huffman_tree([1] * 4).path(y) for y in (0, 3)] == [
        ((0, 0), (1, 0)),
        ((0, 1), (2, 1)),
    ]


def test_expected_length_is_that_of_the_counts_and_near_their_entropy():
    counts = np.array([8, 4, 2, 1, 1])
    assert js.huffman_tree(counts).expected_length(counts) == 1.875
    counts = np.array(COUNTS)
    q = counts[counts > 0] / counts.sum()
    bits = -(q * np.log2(q)).sum()
    assert bits <= js.huffman_tree(counts).expected_length(counts) < bits + 1


@pytest.mark.parametrize("classes", [2, 3, 4, 11, 64, 65])
@pytest.mark.parametrize("arity", [2, 3, 5, 100])
def test_regular_trees_are_as_shallow_as_can_be(classes, arity):
    """Depth ⌈log K⌉, at most one level between classes, which stand in their order."""
    tree = js.vocabulary.kary_tree(classes, arity)
    depth = 1
    while arity**depth < classes:
        depth += 1
    assert tree.depth == depth
    assert tree.nodes == -(-(classes - 1) // (arity - 1)) if arity < classes else tree.nodes == 1
    assert set(tree.lengths.tolist()) <= {depth - 1, depth}
    paths = [tuple(child for _, child in tree.path(y)) for y in range(classes)]
    assert paths == sorted(paths)
    if arity == 2:
        assert_same(tree, js.vocabulary.balanced_tree(classes))


def test_two_levels_have_groups_of_equal_size():
    counts = np.arange(100, dtype=np.uint8)
    tree = js.vocabulary.two_level_tree(counts)
    assert (tree.depth, tree.nodes, tree.width) == (2, 11, 10)
    assert {tree.path(y)[0].child for y in range(90, 100)} == {0}  # the ten most frequent
    in_order = js.vocabulary.two_level_tree(7, groups=3)
    assert [in_order.path(y)[0].child for y in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    for groups in (1, 7):  # one choice, among all
        assert_same(js.vocabulary.two_level_tree(7, groups=groups), js.vocabulary.kary_tree(7, 7))


def test_a_hierarchy_may_be_nested_or_a_vector_of_parents():
    """Single children are left out: they are no choice."""
    nested = js.vocabulary.class_tree([[0, 1, [[2]]], {"x": {"y": [3, 4]}}])
    parents = js.vocabulary.class_tree(np.array([5, 5, 7, 10, 10, 11, 5, 6, 11, 8, 9, -1]))
    assert_same(nested, parents)
    assert nested.path(4) == ((0, 1), (2, 1))
    assert js.vocabulary.class_tree(np.array([-1, 0, 1, 2, 3, 3])).path(1) == ((0, 1),)


@each_tree
def test_paths_lead_to_the_classes(tree):
    """Children along a path end in its class; every row of the table belongs to somebody."""
    children = np.asarray(tree.children)
    for y in range(tree.classes):
        place = 0
        for node, child in tree.path(y):
            assert node == place
            place = children[node, child]
        assert place == -1 - y
    assert len(tree.path(0)) == tree.lengths[0]
    rows = np.unique(np.asarray(tree.rows(np.arange(tree.classes))))
    np.testing.assert_array_equal(
        rows, np.arange(-1, tree.table_rows)[len(rows) == tree.table_rows :]
    )
    assert (tree.rows(jnp.array([-1, tree.classes])) == -1).all()
    assert f"classes={tree.classes}, nodes={tree.nodes}" in repr(tree)


def test_a_tree_is_saved_and_restored(tmp_path):
    """By numpy, and as any pytree is."""
    tree = TREES["given"]
    np.savez(tmp_path / "tree.npz", **tree._asdict())
    with np.load(tmp_path / "tree.npz") as file:
        again = js.vocabulary.ClassTree(**file)
    assert_same(tree, again)
    h, table = np.ones(3), np.ones((tree.table_rows, 3))
    probability = jax.jit(js.hierarchical_log_prob)(h, table, again, 4)
    assert probability == js.hierarchical_log_prob(h, table, tree, 4)
    empty = jax.tree.map(jnp.zeros_like, tree)
    assert_same(tree, serialization.from_bytes(empty, serialization.to_bytes(tree)))


def assert_same(one, other):
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


MISTAKES = {
    "empty": (lambda: js.huffman_tree([]), ValueError, "at least two classes"),
    "single": (lambda: js.huffman_tree([3]), ValueError, "at least two classes"),
    "matrix": (lambda: js.huffman_tree(np.ones((2, 2))), ValueError, "a vector"),
    "negative": (lambda: js.huffman_tree([1, -2]), ValueError, "count 1 is -2.*negative"),
    "NaN": (lambda: js.vocabulary.two_level_tree([1.0, np.nan]), ValueError, "negative or NaN"),
    "infinite": (lambda: js.huffman_tree([np.inf, 1.0]), ValueError, "infinite"),
    "words": (lambda: js.huffman_tree(["a", "b"]), TypeError, "real numbers"),
    "complex": (lambda: js.huffman_tree([1j, 2]), TypeError, "real numbers"),
    "traced": (lambda: jax.jit(js.huffman_tree)(jnp.ones(3)), TypeError, "outside of `jit`"),
    "one class": (
        lambda: js.vocabulary.balanced_tree(1),
        ValueError,
        "`classes` must be at least 2",
    ),
    "unary": (lambda: js.vocabulary.kary_tree(5, 1), ValueError, "`arity` must be at least 2"),
    "too many groups": (
        lambda: js.vocabulary.two_level_tree(5, 6),
        ValueError,
        "some would be empty",
    ),
    "no groups": (
        lambda: js.vocabulary.two_level_tree(5, 0),
        ValueError,
        "`groups` must be at least 1",
    ),
    "twice": (lambda: js.vocabulary.class_tree([[0, 1], 1]), ValueError, "must occur once"),
    "missing": (lambda: js.vocabulary.class_tree([0, 2]), ValueError, "must occur once"),
    "empty part": (lambda: js.vocabulary.class_tree([0, []]), ValueError, "is empty"),
    "name": (lambda: js.vocabulary.class_tree([0, "cat"]), TypeError, "'cat' of type str"),
    "alone": (lambda: js.vocabulary.class_tree([[0]]), ValueError, "single class"),
    "traced hierarchy": (
        lambda: jax.jit(js.vocabulary.class_tree)(jnp.array([-1, 0, 0])),
        TypeError,
        "outside of `jit`",
    ),
    "two roots": (
        lambda: js.vocabulary.class_tree(np.array([-1, -1, 0])),
        ValueError,
        "one node, the root",
    ),
    "no such parent": (
        lambda: js.vocabulary.class_tree(np.array([-1, 3, 0])),
        ValueError,
        "from 0 to 2",
    ),
    "circle": (
        lambda: js.vocabulary.class_tree(np.array([-1, 0, 0, 4, 3])),
        ValueError,
        "own ancestor",
    ),
    "float parents": (
        lambda: js.vocabulary.class_tree(np.array([-1.0, 0, 0])),
        TypeError,
        "integers",
    ),
    "no parents": (lambda: js.vocabulary.class_tree(np.zeros((0,), int)), ValueError, "a vector"),
    "no class": (lambda: js.vocabulary.balanced_tree(4).path(4), ValueError, "from 0 to 3"),
    "counts of others": (
        lambda: js.vocabulary.balanced_tree(4).expected_length([1, 2]),
        ValueError,
        "each of the 4 classes",
    ),
    "float targets": (lambda: js.vocabulary.balanced_tree(4).rows([1.0]), TypeError, "integers"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()
