"""Trees, features and tables shared by the tests of hierarchical softmax; explicit products."""

import numpy as np

import jsoftmax as js

WIDTH, TOKENS = 3, 4
rng = np.random.default_rng(0)
COUNTS = [7, 0, 3, 3, 1, 0, 12, 2, 5, 1, 1]

TREES = {
    "Huffman": js.huffman_tree(COUNTS),
    "balanced": js.vocabulary.balanced_tree(11),
    "k-ary": js.vocabulary.kary_tree(12, 3),
    "two levels": js.vocabulary.two_level_tree(COUNTS, 4),
    "given": js.vocabulary.class_tree({"a": [6, [0, 8]], "b": [[2, 3, 4, [5]], 1, [7, [9, 10]]]}),
}
FEATURES = rng.normal(size=(TOKENS, WIDTH))


def table_of(tree, spread=1.0, rng=rng):
    """A node table and a bias."""
    return rng.normal(0, spread, (tree.table_rows, WIDTH)), rng.normal(0, 1, tree.table_rows)


def explicit(tree, h, table, bias):
    """The probability of every class, one by one, as a product along its path; by numpy."""
    children, p = np.asarray(tree.children), np.ones(tree.classes)
    first = np.asarray(tree.firsts)
    for y in range(tree.classes):
        for node, child in tree.path(y):
            if tree.width == 2:
                z = np.array([table[node] @ h + bias[node], 0])
            else:
                rows = first[node] + np.arange(np.count_nonzero(children[node]))
                z = table[rows] @ h + bias[rows]
            p[y] *= np.exp(z[child]) / np.exp(z).sum()
    return p
