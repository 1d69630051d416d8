"""Three output layers over the same words: full, a Huffman tree, and sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jsoftmax as js

DRAWS = 128


class Layer(NamedTuple):
    """An output layer with a table of rows.

    Args:
        rows: the number of rows.
        loss: (key, targets) → the ids of the rows that a step reads, and a function from features
            and these rows to the loss of every target.
        log_p: features and the whole table → log-probabilities of all words.
    """

    rows: int
    loss: Callable[[Any, Any], tuple[Any, Callable[[Any, Any], Any]]]
    log_p: Callable[[Any, Any], Any]


def full(counts: np.ndarray) -> Layer:
    """Return a layer with a row for every word; a step reads all rows."""
    classes = len(counts)

    def loss(key, targets):
        return jnp.arange(classes), lambda h, rows: js.cross_entropy(h @ rows.T, targets)

    return Layer(classes, loss, _all_words)


def huffman(counts: np.ndarray) -> Layer:
    """Return a layer with a row for every inner node; a step reads the rows above its targets."""
    tree = js.huffman_tree(counts)

    def loss(key, targets):
        def of_rows(h, rows):
            return -js.hierarchical_log_prob_of_rows(h, rows, tree, targets)

        return tree.rows(targets), of_rows

    return Layer(
        tree.table_rows, loss, lambda h, table: js.hierarchical_log_softmax(h, table, tree)
    )


def sampled(counts: np.ndarray) -> Layer:
    """Return a layer with a row for every word; a step reads its targets and some drawn words."""
    classes = len(counts)
    sampler = js.vocabulary.unigram_sampler(counts)

    def loss(key, targets):
        drawn = sampler.sample(key, (DRAWS,))
        few = js.vocabulary.gathered_classes(targets, drawn, classes)

        def of_rows(h, rows):
            return js.sampled_softmax_loss(h, rows, few.labels, few.candidates, class_axis=0)

        return few.ids, of_rows

    return Layer(classes, loss, _all_words)


def _all_words(h, table):
    return js.log_softmax(h @ table.T)


# name → the layer for given counts of words.
LAYERS = {"full": full, "Huffman": huffman, "sampled": sampled}
