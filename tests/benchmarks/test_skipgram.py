"""Tiles of a text, and the step on one of them, against a loop over pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from benchmarks.skipgram import WINDOW, Skipgram, choices, gradients, pair_counts
from benchmarks.text_tiles import cut, spans

RNG = np.random.default_rng(0)
COUNTS = np.array([40, 30, 20, 9, 5, 3, 2, 2, 1, 1])
TEXT = RNG.choice(10, 300, p=COUNTS / COUNTS.sum())
LINES = np.repeat(np.arange(30), 10)
TREE = js.huffman_tree(COUNTS)
TILES = cut(TEXT, LINES, TREE, WINDOW, words=10, nodes=8, centres=16)


def test_tiles_cover_the_text_and_hold_all_that_their_pairs_need():
    assert TILES.centres.sum() == len(TEXT)
    start = 0
    for words, nodes, places, _, count in zip(*map(np.asarray, TILES), strict=True):
        stretch = np.arange(start - WINDOW, start + count + WINDOW)
        inside = (stretch >= 0) & (stretch < len(TEXT))
        mine = places[: len(stretch)]
        np.testing.assert_array_equal(words[mine[inside]], TEXT[stretch[inside]])
        assert (mine[~inside] == -1).all() and (places[len(stretch) :] == -1).all()
        above = np.asarray(TREE.paths)[TEXT[start : start + count]]
        np.testing.assert_array_equal(nodes[nodes < TREE.nodes], np.unique(above[above >= 0]))
        assert (np.diff(words) > 0).all() and (np.diff(nodes) > 0).all()
        start += count


def test_a_tile_too_small_for_one_centre_is_named():
    with pytest.raises(ValueError, match="does not hold one centre"):
        cut(TEXT, LINES, TREE, WINDOW, words=1, nodes=8, centres=16)


def test_spans_are_the_classes_below_a_node():
    place, *bounds = map(np.asarray, spans(TREE))
    assert sorted(place) == list(range(TREE.classes))
    for node, (start, middle, end) in enumerate(zip(*bounds, strict=True)):
        for y in range(TREE.classes):
            child = [b.child for b in TREE.path(y) if b.node == node]
            if start <= place[y] < end:
                assert child == [int(place[y] >= middle)]
            else:
                assert child == []


def test_gradients_of_a_tile_are_those_of_its_pairs_by_the_library():
    """The pairs, by a loop over the text; their log-probabilities, by `hierarchical_log_prob`."""
    i = 3
    tile = jax.tree.map(lambda x: x[i], TILES)
    first, count = int(TILES.centres[:i].sum()), int(tile.centres)
    reach = RNG.integers(1, WINDOW + 1, 16)
    pairs = [
        (neighbour, centre)
        for centre in range(first, first + count)
        for neighbour in range(max(centre - WINDOW, 0), min(centre + WINDOW + 1, len(TEXT)))
        if neighbour != centre
        and LINES[neighbour] == LINES[centre]
        and abs(neighbour - centre) <= reach[centre - first]
    ]
    neighbours, centres = TEXT[np.array(pairs).T]
    vectors, nodes = jnp.asarray(RNG.normal(size=(10, 4))), jnp.asarray(RNG.normal(size=(9, 4)))

    def loss(vectors, nodes):
        return -js.hierarchical_log_prob(vectors[neighbours], nodes, TREE, centres).sum()

    right = jax.grad(loss, argnums=(0, 1))(vectors, nodes)
    h = vectors.at[tile.words].get(mode="fill", fill_value=0)
    w = nodes.at[tile.nodes].get(mode="fill", fill_value=0)
    counted = pair_counts(tile, jnp.asarray(reach))
    assert counted.sum() == len(pairs)
    found = gradients(counted, *choices(tile, spans(TREE)), h, w)
    for rows, g, dense in zip((tile.words, tile.nodes), found, right, strict=True):
        whole = jnp.zeros_like(dense).at[rows].add(g, mode="drop")
        np.testing.assert_allclose(whole, dense, rtol=1e-10, atol=1e-12)


def test_training_learns_words_that_keep_to_themselves():
    """Each line repeats one word, so that a neighbour says all; at rate 0 nothing is learned."""
    text = np.repeat(RNG.choice(10, 30), 10)
    learner = Skipgram(COUNTS, text, LINES, epochs=10)

    def loss(learned):
        log_p = js.hierarchical_log_prob(learned.vectors[text], learned.nodes, TREE, text)
        return -float(log_p.mean())

    assert loss(learner.learn(0, 0.3)) < loss(learner.learn(0, 0.0)) / 4
