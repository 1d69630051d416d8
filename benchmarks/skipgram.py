"""Word vectors by jsoftmax: the centre word guessed from each of its neighbours, tile by tile."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jsoftmax as js
from benchmarks.text_tiles import Spans, Tiles, cut, spans

DIMENSION, WINDOW = 100, 5
SIZES = {"words": 48, "nodes": 224, "centres": 64}  # of a tile, at most
START = 0.1  # of the sums of Adagrad


class Learned(NamedTuple):
    """A vector for every word and every inner node, and the way to each word."""

    seconds: float
    cpu_seconds: float  # of all threads
    vectors: np.ndarray  # [words, d]
    nodes: np.ndarray  # [nodes, d]
    paths: np.ndarray  # [words, depth]
    codes: np.ndarray  # [words, depth]
    lengths: np.ndarray  # [words]


class Model(NamedTuple):
    """Two tables, and the state of Adagrad for each."""

    vectors: jax.Array
    vector_state: js.vocabulary.RowState
    nodes: jax.Array
    node_state: js.vocabulary.RowState


class Skipgram:
    """A step is a tile of the text; tiles come in random order, a new one every epoch.

    Args:
        counts: of the words, by which Huffman's tree is made.
        numbers: the text.
        line_of: the line of each of its words; windows end where lines do.
        epochs: how often the text is gone through.
    """

    def __init__(self, counts: np.ndarray, numbers: np.ndarray, line_of: np.ndarray, epochs: int):
        self.epochs = epochs
        self.tree = js.huffman_tree(counts)
        start = time.perf_counter()
        self.tiles = cut(numbers, line_of, self.tree, WINDOW, **SIZES)
        self.given = spans(self.tree), self.tiles
        self.preparing = time.perf_counter() - start
        self.epoch = (
            jax.jit(_epoch, donate_argnums=0)
            .lower(self._start(0), jax.random.key(0), 0.0, *self.given)
            .compile()
        )

    def learn(self, seed: int, rate: float) -> Learned:
        """From new vectors."""
        model, key = self._start(seed), jax.random.key(seed)
        jax.block_until_ready(model)
        start, cpu = time.perf_counter(), time.process_time()
        for i in range(self.epochs):
            model = self.epoch(model, jax.random.fold_in(key, i), rate, *self.given)
        jax.block_until_ready(model)
        seconds = time.perf_counter() - start, time.process_time() - cpu
        tree = jax.tree.map(np.asarray, self.tree)
        tables = np.asarray(model.vectors), np.asarray(model.nodes)
        return Learned(*seconds, *tables, tree.paths, tree.codes, tree.lengths)

    def _start(self, seed):
        """Small vectors and nodes of 0, as word2vec begins."""
        key, shape = jax.random.key(seed), (self.tree.classes, DIMENSION)
        vectors = jax.random.uniform(key, shape, minval=-0.5, maxval=0.5) / DIMENSION
        nodes = jnp.zeros((self.tree.nodes, DIMENSION))
        start = _optimizer(0.0).init
        return Model(vectors, start(vectors), nodes, start(nodes))


def _optimizer(rate):
    return js.vocabulary.row_adagrad(rate, initial_accumulator_value=START)


def _epoch(model: Model, key: jax.Array, rate: jax.Array, below: Spans, tiles: Tiles) -> Model:
    optimizer = _optimizer(rate)

    def step(model, inputs):
        key, i = inputs
        tile = jax.tree.map(lambda x: x[i], tiles)
        size = tile.places.shape[0] - 2 * WINDOW
        pairs = pair_counts(tile, jax.random.randint(key, (size,), 1, WINDOW + 1))
        h = model.vectors.at[tile.words].get(mode="fill", fill_value=0)
        w = model.nodes.at[tile.nodes].get(mode="fill", fill_value=0)
        of_h, of_w = gradients(pairs, *choices(tile, below), h, w)

        def moved(table, state, rows, g):
            return optimizer.update(table, state, rows, g, distinct=True)

        return Model(
            *moved(model.vectors, model.vector_state, tile.words, of_h),
            *moved(model.nodes, model.node_state, tile.nodes, of_w),
        ), None

    order, reaches = jax.random.split(key)
    count = len(tiles.centres)
    keys = jax.random.split(reaches, count)
    return jax.lax.scan(step, model, (keys, jax.random.permutation(order, count)))[0]


def pair_counts(tile: Tiles, reach: jax.Array) -> jax.Array:
    """How often each word is a neighbour of each centre, (words, words), by the reach of each."""
    centre = jnp.arange(reach.size)[:, None]
    distance = jnp.arange(-WINDOW, reach.size + WINDOW) - centre
    middle = slice(WINDOW, WINDOW + reach.size)
    pairs = (abs(distance) <= reach[:, None]) & (distance != 0) & (centre < tile.centres)
    pairs &= tile.lines == tile.lines[middle, None]
    is_word = (tile.places[:, None] == jnp.arange(tile.words.size)).astype(jnp.float32)
    return (pairs.astype(jnp.float32) @ is_word).T @ is_word[middle]


def choices(tile: Tiles, below: Spans) -> tuple[jax.Array, jax.Array]:
    """Which nodes, (words, nodes), are above each word with child 0 on the way, and with either."""
    place = below.place[tile.words][:, None]
    start, middle, end = (x[tile.nodes] for x in (below.start, below.middle, below.end))
    return (place >= start) & (place < middle), (place >= start) & (place < end)


def gradients(
    pairs: jax.Array, left: jax.Array, either: jax.Array, h: jax.Array, w: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of −Σ pairs · log P(centre | neighbour), in the vectors h of words and w of nodes."""
    # For z = ⟨h, w⟩ the loss of a node is −log σ(z) if child 0 is taken, else −log σ(−z). The
    # derivatives are σ(z) − 1 and σ(z). Counts of both kinds are summed in one matrix product,
    # which takes little more time than one of half the size.
    both = pairs @ jnp.concatenate([either, left], axis=1).astype(h.dtype)
    of_either, of_left = jnp.split(both, 2, axis=1)
    of_z = of_either * jax.nn.sigmoid(h @ w.T) - of_left
    return of_z @ w, of_z.T @ h
