"""Predict Python's documentation by character, with dense, sparse and learned attention."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pydoc_data.topics import topics
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import jsoftmax as js
from jsoftmax.demo import _text_pictures as pictures
from jsoftmax.demo._sections import Options
from jsoftmax.demo._transformer import CONTEXT, HEADS, LAYERS, WIDTH, Transformer

STEPS_PER_EPOCH, BATCH, LEARNING_RATE = 8, 8, 8e-3
HELD_OUT, WINDOWS = 0.1, 64
SENTENCE = "the value of x is the value of the name."

# name → α of every head; None for one learned α per head.
ATTENTIONS = {"softmax": 1.0, "entmax-1.5": 1.5, "learned α": None}


class Corpus(NamedTuple):
    """Characters, and the training and held-out texts as character numbers."""

    characters: str
    learned: np.ndarray
    held_out: np.ndarray

    def encode(self, text: str) -> np.ndarray:
        """Return text as numbers."""
        return _encode(self.characters, text)


class Run(NamedTuple):
    """The results of training.

    `bits` per character of training and held-out text; `density`, the share of visible keys with
    p > 0, and `alpha` of each head, [layers, heads]; `weights` on the sentence, [layers, heads, t,
    t]; `seconds` per step.
    """

    bits: tuple[float, float]
    density: np.ndarray
    alpha: np.ndarray
    weights: np.ndarray
    seconds: float


def run(options: Options, console: Console) -> None:
    """Train with every attention, print the table, save the picture."""
    corpus = read(options.seed)
    console.print(
        f"Python's help topics: {len(corpus.learned):,} characters for training, "
        f"{len(corpus.held_out):,} of other topics for testing. "
        f"A causal transformer of {LAYERS} layers with {HEADS} heads each, {WIDTH} wide, predicts "
        f"every next character from the last {CONTEXT}, in "
        f"{options.epochs * STEPS_PER_EPOCH} steps.\n"
    )
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TextColumn("epochs"), TimeElapsedColumn(), console=console) as progress:
        tasks = {name: progress.add_task(f"{name:10}", total=options.epochs) for name in ATTENTIONS}
        runs = {
            name: train(corpus, alpha, options, lambda task=tasks[name]: progress.advance(task))
            for name, alpha in ATTENTIONS.items()
        }
    console.print(table(runs))
    console.print(notes(corpus, runs), highlight=False)
    path = pictures.save_text(options.output, SENTENCE, runs)
    console.print(f"\nSaved {path}", soft_wrap=True)


def read(seed: int) -> Corpus:
    """Read the two texts as character numbers."""
    learned, judged = texts(seed)
    characters = "".join(sorted(set(learned + judged + SENTENCE)))
    return Corpus(characters, _encode(characters, learned), _encode(characters, judged))


def texts(seed: int) -> tuple[str, str]:
    """Return a training text, and a held-out text of other topics.

    Many topics quote each other: a repeated paragraph is kept only at its first occurrence.
    """
    names, total = sorted(topics), sum(map(len, topics.values()))
    shuffled = np.random.default_rng(seed).permutation(names)
    reached = np.cumsum([len(topics[name]) for name in shuffled])
    held_out = set(shuffled[: 1 + np.searchsorted(reached, HELD_OUT * total)])
    seen: set[str] = set()
    judged = _text((name for name in names if name in held_out), seen)
    learned = _text((name for name in names if name not in held_out), seen)
    return learned, judged


def _text(names: Iterable[str], seen: set[str]) -> str:
    """Concatenate topics without the paragraphs in `seen`, and add the others to it."""
    new = []
    for name in names:
        for paragraph in topics[name].split("\n\n"):
            if paragraph.strip() not in seen:
                seen.add(paragraph.strip())
                new.append(paragraph.rstrip())
    return "\n\n".join(new)


def _encode(characters: str, text: str) -> np.ndarray:
    number = {character: i for i, character in enumerate(characters)}
    return np.array([number[character] for character in text], np.int32)


def windows(text: np.ndarray) -> np.ndarray:
    """Return pieces evenly spread over the text, one character longer than the context."""
    starts = np.linspace(0, len(text) - CONTEXT - 1, WINDOWS).astype(int)
    return text[starts[:, None] + np.arange(CONTEXT + 1)]


def train(
    corpus: Corpus, alpha: float | None, options: Options, on_epoch: Callable[[], None]
) -> Run:
    """Train a new transformer, and evaluate it."""
    model, seconds = fitted(corpus, alpha, options, on_epoch)
    return judge(model, corpus, seconds)


def fitted(
    corpus: Corpus, alpha: float | None, options: Options, on_epoch: Callable[[], None]
) -> tuple[Transformer, float]:
    """Train a new transformer by Adam, and return it with the seconds per step.

    An epoch is a compiled loop over pieces of the text.
    """
    model = Transformer(len(corpus.characters), alpha, nnx.Rngs(options.seed))
    steps = options.epochs * STEPS_PER_EPOCH
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, 1 + steps // 20, 1 + steps)
    optimizer = nnx.Optimizer(model, optax.adam(rate, b2=0.98), wrt=nnx.Param)
    graph, state = nnx.split((model, optimizer))
    text = jnp.asarray(corpus.learned)

    def step(state, starts):
        model, optimizer = nnx.merge(graph, state)
        batch = text[starts[:, None] + jnp.arange(CONTEXT + 1)]
        optimizer.update(model, nnx.grad(Transformer.loss)(model, batch))
        return nnx.state((model, optimizer)), None

    @jax.jit
    def epoch(state, key):
        shape = STEPS_PER_EPOCH, BATCH
        starts = jax.random.randint(key, shape, 0, len(text) - CONTEXT)
        return jax.lax.scan(step, state, starts)[0]

    keys = jax.random.split(jax.random.key(options.seed), options.epochs)
    run_epoch = epoch.lower(state, keys[0]).compile()  # so that the times exclude compilation
    seconds = []
    for key in keys:
        start = time.perf_counter()
        state = jax.block_until_ready(run_epoch(state, key))
        seconds.append((time.perf_counter() - start) / STEPS_PER_EPOCH)
        on_epoch()
    return nnx.merge(graph, state)[0], float(np.median(seconds))


def judge(model: Transformer, corpus: Corpus, seconds: float) -> Run:
    """Evaluate its predictions and its attention."""
    graph, state = nnx.split(model)
    n = len(SENTENCE)
    # Attention is causal, so anything may follow the sentence.
    sentence = np.pad(corpus.encode(SENTENCE), (0, CONTEXT + 1 - n))[None]

    @jax.jit
    def measured(state, text):
        model = nnx.merge(graph, state)
        scores, p = model.shown(jnp.concatenate([sentence, text])[:, :-1])
        bits = js.cross_entropy(scores[1:], text[:, 1:]).mean() / np.log(2)
        used = (p[:, 1:] > 0).sum((1, 3, 4)) / (len(text) * np.tri(CONTEXT).sum())
        return bits, used, model.alphas(), p[:, 0, :, :n, :n]

    learned, *_ = jax.device_get(measured(state, windows(corpus.learned)))
    held_out, *seen = jax.device_get(measured(state, windows(corpus.held_out)))
    density, alpha, weights = seen
    return Run((float(learned), float(held_out)), density, alpha, weights, seconds)


def table(runs: dict[str, Run]) -> Table:
    """Tabulate a row for each attention."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    result.add_column("attention", no_wrap=True)
    in_layers = [f"keys used,\nlayer {layer + 1}" for layer in range(LAYERS)]
    for heading in ("bits,\nlearned", "bits,\nheld out", *in_layers, "α of\nheads", "ms per\nstep"):
        result.add_column(heading, justify="right", no_wrap=True)
    for name, run in runs.items():
        low, high = (f"{x:.2f}" for x in (run.alpha.min(), run.alpha.max()))
        result.add_row(
            name,
            *(f"{bits:.3f}" for bits in run.bits),
            *(f"{density:.1%}" for density in run.density.mean(-1)),
            low if low == high else f"{low} to {high}",
            f"{1000 * run.seconds:.1f}",
        )
    return result


def notes(corpus: Corpus, runs: dict[str, Run]) -> str:
    """Return the legend of the table."""
    counts = np.bincount(corpus.learned, minlength=len(corpus.characters)) + 1
    singly = -np.log2(counts / counts.sum())[corpus.held_out].mean()
    return (
        f"Bits per character, on {WINDOWS} pieces of {CONTEXT}; the frequencies of characters "
        f"alone give {singly:.2f}. Keys used: the share of keys up to a character that have p > 0, "
        "mean over heads. All start with the same weights; a learned α starts at 1.5."
    )
