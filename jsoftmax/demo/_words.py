"""Predict Python's documentation by word: the cost of a large vocabulary, and two alternatives."""

from __future__ import annotations

import collections
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import jsoftmax as js
from jsoftmax.demo._output_layers import LAYERS, Layer
from jsoftmax.demo._sections import Options
from jsoftmax.demo._text import texts

CONTEXT, EMBEDDED, WIDTH = 3, 32, 64
BATCH, RATE, START = 256, 0.2, 1.0  # Adagrad's rate, and the start of its sums
EPOCHS_PER_PASS, LEAST_COUNT = 8, 2
UNKNOWN = "(rare)"
OPENING = ["the", "value", "of"]


class Corpus(NamedTuple):
    """Words by falling frequency, their counts in training, and two texts as word numbers."""

    words: list[str]
    counts: np.ndarray
    learned: np.ndarray
    held_out: np.ndarray

    def encode(self, words: list[str]) -> np.ndarray:
        """Return words as numbers."""
        number = {word: i for i, word in enumerate(self.words)}
        return np.array([number.get(word, number[UNKNOWN]) for word in words], np.int32)


class Run(NamedTuple):
    """The results of training: perplexities of training and held-out text, seconds, guesses.

    `seconds` are those of a pass, `guesses` the likeliest words after the opening, with their
    probabilities.
    """

    perplexity: tuple[float, float]
    seconds: float
    guesses: list[tuple[str, float]]


def run(options: Options, console: Console) -> None:
    """Train with every output layer and print the table."""
    corpus = read(options.seed)
    passes = -(-options.epochs // EPOCHS_PER_PASS)
    console.print(
        f"Python's help topics: {len(corpus.learned):,} words for training and "
        f"{len(corpus.held_out):,} of other topics for testing, with a vocabulary of "
        f"{len(corpus.words):,}; rarer words are {UNKNOWN}. One hidden layer predicts every next "
        f"word from the last {CONTEXT}, in {passes} {'pass' if passes == 1 else 'passes'}.\n",
        highlight=False,
    )
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TextColumn("passes"), TimeElapsedColumn(), console=console) as progress:
        tasks = {name: progress.add_task(f"{name:10}", total=passes) for name in LAYERS}
        runs = {
            name: train(
                corpus, make(corpus.counts), passes, options.seed,
                lambda task=tasks[name]: progress.advance(task),
            )
            for name, make in LAYERS.items()
        }  # fmt: skip
    console.print(table(runs))
    console.print(notes(corpus, runs), highlight=False)


def read(seed: int) -> Corpus:
    """Read the topics of the section on text as words, numbers and signs in lower case."""
    learned, held_out = (
        re.findall(r"[a-z_]+|\d+|[^\sa-z_\d]", text.lower()) for text in texts(seed)
    )
    found = collections.Counter(learned)
    frequent = [word for word, count in found.most_common() if count >= LEAST_COUNT]
    rare = sum(found.values()) - sum(found[word] for word in frequent)
    place = sum(found[word] > rare for word in frequent)
    frequent.insert(place, UNKNOWN)
    counts = np.array([rare if word == UNKNOWN else found[word] for word in frequent])
    corpus = Corpus(frequent, counts, np.array([]), np.array([]))
    return corpus._replace(learned=corpus.encode(learned), held_out=corpus.encode(held_out))


class Batches(NamedTuple):
    """Words to predict, and the words before each."""

    context: Int[Array, "batches batch words"]
    targets: Int[Array, "batches batch"]

    @classmethod
    def of(cls, text: np.ndarray) -> Batches:
        """Return batches of all words except the first ones and an incomplete last batch."""
        places = np.arange(CONTEXT, len(text))
        places = places[: len(places) // BATCH * BATCH].reshape(BATCH, -1).T
        before = places[..., None] - np.arange(CONTEXT, 0, -1)
        return cls(jnp.asarray(text[before]), jnp.asarray(text[places]))


class Model(NamedTuple):
    """Embeddings of words, one hidden layer, and the rows of the output layer."""

    embedding: Float[Array, "words embedded"]
    kernel: Float[Array, "inputs width"]
    rows: Float[Array, "rows width_and_1"]

    @classmethod
    def new(cls, key: Array, words: int, rows: int) -> Model:
        """Initialise a model; the rows of the output layer start at zero."""
        first, second = jax.random.split(key)
        inputs = CONTEXT * EMBEDDED
        return cls(
            0.5 * jax.random.normal(first, (words, EMBEDDED)),
            inputs**-0.5 * jax.random.normal(second, (inputs, WIDTH)),
            jnp.zeros((rows, WIDTH + 1)),
        )


def features(
    embedded: Float[Array, "n words embedded"], kernel: Float[Array, "inputs width"]
) -> Float[Array, "n width_and_1"]:
    """Return the hidden layer and a 1, so that the last number of a row is its bias."""
    h = jnp.tanh(embedded.reshape(len(embedded), -1) @ kernel)
    return jnp.concatenate([h, jnp.ones_like(h[:, :1])], axis=1)


def train(corpus: Corpus, layer: Layer, passes: int, seed: int, on_pass: Callable[[], None]) -> Run:
    """Train a new model; a step reads and updates only the rows that it needs of both tables."""
    optimizer = js.vocabulary.row_adagrad(RATE, initial_accumulator_value=START)

    def step(carry, inputs):
        model, states = carry
        key, context, targets = inputs
        ids, loss = layer.loss(key, targets)

        def total(embedded, kernel, rows):
            return loss(features(embedded, kernel), rows).sum()

        read = model.embedding[context], model.kernel, model.rows[ids]
        gradients = jax.grad(total, argnums=(0, 1, 2))(*read)
        places = context, jnp.arange(len(model.kernel)), ids
        updated = map(optimizer.update, model, states, places, gradients)
        model, states = zip(*updated, strict=True)
        return (Model(*model), states), None

    @jax.jit
    def once(carry, key, batches):
        first, second = jax.random.split(key)
        order = jax.random.permutation(first, len(batches.targets))
        keys = jax.random.split(second, len(order))
        return jax.lax.scan(step, carry, (keys, *(x[order] for x in batches)))[0]

    key = jax.random.key(seed)
    model = Model.new(key, len(corpus.words), layer.rows)
    carry = model, tuple(map(optimizer.init, model))
    batches = Batches.of(corpus.learned)
    run_once = once.lower(carry, key, batches).compile()  # so that the times exclude compilation
    seconds = []
    for number in range(passes):
        start = time.perf_counter()
        again = run_once(carry, jax.random.fold_in(key, 1 + number), batches)
        carry = jax.block_until_ready(again)
        seconds.append(time.perf_counter() - start)
        on_pass()
    return judge(corpus, layer, carry[0], batches, float(np.median(seconds)))


def judge(corpus: Corpus, layer: Layer, model: Model, learned: Batches, seconds: float) -> Run:
    """Compute perplexities over all words, for any training, and the guesses after the opening."""

    @jax.jit
    def log_p(model, context):
        return layer.log_p(features(model.embedding[context], model.kernel), model.rows)

    def perplexity(batches):
        sums = [
            jnp.take_along_axis(log_p(model, context), targets[:, None], axis=-1).mean()
            for context, targets in zip(*batches, strict=True)
        ]
        return float(np.exp(-np.mean(sums)))

    held_out = Batches.of(corpus.held_out)
    some = Batches(*(x[: len(held_out.targets)] for x in learned))
    opening = np.tile(corpus.encode(OPENING), (BATCH, 1))
    p = np.exp(log_p(model, opening)[0])
    guesses = [(corpus.words[i], float(p[i])) for i in np.argsort(-p)[:3]]
    return Run((perplexity(some), perplexity(held_out)), seconds, guesses)


def table(runs: dict[str, Run]) -> Table:
    """Tabulate a row for each output layer."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    result.add_column("softmax", no_wrap=True)
    for heading in ("perplexity,\nlearned", "perplexity,\nheld out", "s per\npass"):
        result.add_column(heading, justify="right", no_wrap=True)
    result.add_column(f"after “{' '.join(OPENING)} …”")
    for name, run in runs.items():
        result.add_row(
            name,
            *(f"{perplexity:.1f}" for perplexity in run.perplexity),
            f"{run.seconds:.2f}",
            ", ".join(f"{word} {p:.0%}" for word, p in run.guesses),
        )
    return result


def notes(corpus: Corpus, runs: dict[str, Run]) -> str:
    """Return the legend of the table."""
    counts = corpus.counts + 1
    singly = np.exp(-np.log(counts / counts.sum())[corpus.held_out].mean())
    return (
        "Perplexity is the geometric mean of 1/p of a word, with p over all words also for sampled "
        f"training; the frequencies of words alone give {singly:.0f}. A step of the full layer "
        f"reads the rows of all {len(corpus.words):,} words, Huffman those of the choices on the "
        "path to a word, sampled those of some words shared by a batch. The latter two update only "
        "the rows that they read, so that their time does not grow with the vocabulary."
    )
