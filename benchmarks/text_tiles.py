"""Cut a text into tiles: stretches of words that few rows of two tables suffice for.

A stretch of text repeats its words, and the ways to them through a tree share their upper nodes.
So the pairs of a tile are one small matrix of words by words, and their scores one of words by
nodes: products of matrices, where pairs one by one would gather a row for each of their nodes.
"""

from typing import NamedTuple

import jax
import numpy as np

import jsoftmax as js


class Tiles(NamedTuple):
    """One row a tile. Rows of tables rise; those left over are distinct and beyond the table."""

    words: jax.Array  # [tiles, words], all that are centre or neighbour
    nodes: jax.Array  # [tiles, nodes], all that are above a centre
    places: jax.Array  # [tiles, window + centres + window], of the text in `words`; −1 beyond it
    lines: jax.Array  # of the same shape
    centres: jax.Array  # [tiles], how many there are


class Spans(NamedTuple):
    """Classes in the order of the leaves of a binary tree: those below a node stand together."""

    place: jax.Array  # [classes]
    start: jax.Array  # [nodes], the first below a node
    middle: jax.Array  # [nodes], the first below its child 1
    end: jax.Array  # [nodes]


def spans(tree: js.vocabulary.ClassTree) -> Spans:
    """By numpy, once."""
    paths, codes = np.asarray(tree.paths), np.asarray(tree.codes)
    place = np.empty(tree.classes, np.int32)
    # No way to a class begins with the whole way to another, so that padding does not matter.
    place[np.lexsort(codes.T[::-1])] = np.arange(tree.classes)
    there = paths >= 0
    start = np.full(tree.nodes, tree.classes, np.int32)
    np.minimum.at(start, paths[there], np.repeat(place, there.sum(1)))
    left = np.bincount(paths[there & (codes == 0)], minlength=tree.nodes)
    both = np.bincount(paths[there], minlength=tree.nodes)
    arrays = place, start, start + left, start + both
    return Spans(*(jax.numpy.asarray(x, jax.numpy.int32) for x in arrays))


def cut(
    numbers: np.ndarray,
    line_of: np.ndarray,
    tree: js.vocabulary.ClassTree,
    window: int,
    *,
    words: int,
    nodes: int,
    centres: int,
) -> Tiles:
    """Tiles as long as they can be with no more than so many words, nodes and centres."""
    paths = np.asarray(tree.paths)[numbers]
    there = paths >= 0
    above, owner = paths[there], np.repeat(np.arange(len(numbers)), there.sum(1))
    firsts = np.concatenate([[0], np.cumsum(there.sum(1))])  # in `above`, of each word of the text
    node_before = _before(above)
    node_before = np.where(node_before >= 0, owner[node_before], -1)
    word_before = _before(numbers)
    starts, tile_words, tile_nodes, size = [0], [], [], len(numbers)
    while starts[-1] < size:
        start = starts[-1]
        end = min(start + centres, size)
        left, right = max(start - window, 0), min(end + window, size)
        # New in the tile is a node or word that was not there since the tile began.
        new_nodes = node_before[firsts[start] : firsts[end]] < start
        new_words = word_before[left:right] < left
        stretch = np.arange(start + 1, end + 1)
        node_count = np.cumsum(new_nodes)[firsts[stretch] - firsts[start] - 1]
        word_count = np.cumsum(new_words)[np.minimum(stretch + window, right) - left - 1]
        fit = np.count_nonzero((node_count <= nodes) & (word_count <= words))
        if fit == 0:
            raise ValueError(f"A tile of {words} words and {nodes} nodes does not hold one centre.")
        end = start + fit
        right = min(end + window, size)
        mine = above[firsts[start] : firsts[end]]
        tile_nodes.append(np.sort(mine[new_nodes[: len(mine)]]))
        tile_words.append(np.sort(numbers[left:right][new_words[: right - left]]))
        starts.append(end)
    edges = np.array(starts)[:, None]
    at = edges[:-1] - window + np.arange(window + centres + window)
    inside = (at >= 0) & (at < np.minimum(edges[1:] + window, size))
    at = np.clip(at, 0, size - 1)
    places = np.stack([np.searchsorted(*x) for x in zip(tile_words, numbers[at], strict=True)])
    arrays = (
        _padded(tile_words, words, tree.classes),
        _padded(tile_nodes, nodes, tree.nodes),
        np.where(inside, places, -1),
        np.where(inside, line_of[at], -1),
        np.diff(starts),
    )
    return Tiles(*(jax.numpy.asarray(x, jax.numpy.int32) for x in arrays))


def _before(x: np.ndarray) -> np.ndarray:
    """Where each number was last before its place, or −1."""
    order = np.argsort(x, kind="stable")
    before = np.full(len(x), -1)
    same = x[order[1:]] == x[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    return before


def _padded(rows: list[np.ndarray], width: int, size: int) -> np.ndarray:
    made = np.tile(size + np.arange(width), (len(rows), 1))
    for whole, row in zip(made, rows, strict=True):
        whole[: len(row)] = row
    return made
