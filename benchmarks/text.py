"""One language model on real text, ten output layers.

FOLDER holds `valid.txt` and `test.txt` of WikiText-2: words with spaces between. All learn from
valid.txt, which is small enough for ten heads in a few minutes, and are judged by test.txt. Nothing
is downloaded.
"""

import collections
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jsoftmax as js
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.runner import command
from benchmarks.tables import Table
from benchmarks.wikitext import FOLDER, JUDGED, LEARNED, texts

UNKNOWN = "<unk>"
CONTEXT, EMBEDDED, WIDTH, BATCH = 4, 32, 64, 512
STRIDE = 4  # every fourth word of the test is guessed
DRAWS, PARTITION = 512, 4096
RATE, START = 0.2, 1.0  # the rate of Adagrad, and its first sums
EPOCHS = 1


# The text.


class Batch(NamedTuple):
    """Words to guess, [..., words], those before each, [..., words, CONTEXT], and its number."""

    context: Any
    targets: Any
    number: Any


class Text(NamedTuple):
    """Batches to learn from and to be judged by; how often each word is learned from, falling."""

    learned: Batch
    judged: Batch
    counts: np.ndarray

    @classmethod
    def read(cls, learned: str, judged: str) -> "Text":
        """Words are numbered by frequency; words outside of the text to learn from are `<unk>`."""
        both = learned.split(), judged.split()
        found = collections.Counter(both[0])
        found.setdefault(UNKNOWN, 0)
        number = {word: i for i, (word, _) in enumerate(found.most_common())}
        a, b = (
            np.array([number.get(word, number[UNKNOWN]) for word in words], np.int32)
            for words in both
        )
        return cls(_batches(a, 1), _batches(b, STRIDE), np.array(sorted(found.values()))[::-1])


def _batches(words: np.ndarray, stride: int) -> Batch:
    """Each word of a batch is as far from the next as possible, as in many texts side by side."""
    places = np.arange(CONTEXT, len(words), stride)
    places = places[: len(places) // BATCH * BATCH].reshape(BATCH, -1).T
    before = places[..., None] - np.arange(1, CONTEXT + 1)
    return Batch(words[before], words[places], np.arange(len(places)))


# The heads.


class Head(NamedTuple):
    """An output layer.

    Args:
        init: key → its parameters.
        loss: (key, batch) → (ids, function). Where `ids` is None the function takes features and
            parameters to the sum of the losses, otherwise features and the rows `ids` of the
            parameters, one table, of which the step then touches no others.
        evaluate: (features, parameters, targets) → −log p, all classes accounted for.
    """

    init: Callable[[jax.Array], Any]
    loss: Callable[[jax.Array, Batch], tuple[Any, Callable[[Any, Any], Any]]]
    evaluate: Callable[[Any, Any, Any], Any]


def heads(text: Text) -> dict[str, Head]:
    """All of them, over the words of the text. Features end in a 1, so that rows have a bias."""
    classes = len(text.counts)

    def whole(loss):
        return lambda key, batch: (None, lambda h, w: loss(h, w, batch.targets))

    def zeros(rows):
        return lambda key: jnp.zeros((rows, WIDTH + 1))

    def linear(h, w, y):
        return js.linear_cross_entropy(h, w, y, class_axis=0)

    def over_table(loss):
        return Head(zeros(classes), loss, linear)

    def tree_head(tree):
        def loss(key, batch):
            y = batch.targets
            return tree.rows(y), lambda h, w: -js.hierarchical_log_prob_of_rows(h, w, tree, y).sum()

        def evaluate(h, w, y):
            return js.hierarchical_cross_entropy(h, w, tree, y)

        return Head(zeros(tree.table_rows), loss, evaluate)

    sampler = js.vocabulary.unigram_sampler(np.maximum(text.counts, 1))

    def sampled(of_candidates, **options):
        def loss(key, batch):
            drawn = sampler.sample(key, (DRAWS,), batch.targets)
            few = js.vocabulary.gathered_classes(batch.targets, drawn, classes)
            return few.ids, lambda h, w: of_candidates(
                h, w, few.labels, few.candidates, class_axis=0, **options
            ).sum()

        return over_table(loss)

    vocabularies = js.vocabulary.target_partitions(text.learned.targets, PARTITION)
    of_batch = jnp.searchsorted(vocabularies.ends, text.learned.number, side="right")

    def of_partition(key, batch):
        mine = js.vocabulary.Candidates(
            jnp.asarray(vocabularies.classes)[of_batch[batch.number]], 0.0
        )
        few = js.vocabulary.gathered_classes(batch.targets, mine, classes)
        return few.ids, lambda h, w: js.vocabulary.target_sampling_loss(
            h, w, few.labels, few.candidates.ids, class_axis=0
        ).sum()

    cutoffs = js.vocabulary.adaptive_cutoffs(text.counts, WIDTH + 1, tokens=BATCH)

    def banded(make, loss):
        return Head(
            lambda key: make(key, WIDTH + 1, classes, cutoffs),
            whole(lambda h, w, y: loss(h, w, y).sum()),
            loss,
        )

    return {
        "full": over_table(whole(lambda h, w, y: js.cross_entropy(h @ w.T, y).sum())),
        "linear": over_table(
            whole(lambda h, w, y: js.linear_cross_entropy_sum(h, w, y, class_axis=0))
        ),
        "Huffman": tree_head(js.huffman_tree(text.counts)),
        "two-level": tree_head(js.vocabulary.two_level_tree(text.counts)),
        "sampled": sampled(js.sampled_softmax_loss),
        "importance": sampled(js.vocabulary.importance_sampling_loss),
        "target": over_table(of_partition),
        "NCE": sampled(js.nce_loss, log_partition=float(np.log(classes))),
        "adaptive": banded(js.vocabulary.adaptive_tables, js.adaptive_cross_entropy),
        "differentiated": banded(
            js.vocabulary.differentiated_tables, js.vocabulary.differentiated_cross_entropy
        ),
    }


# The model, and how it learns.


class Learner(NamedTuple):
    """Parameters with Adagrad's sums; `layer` and most heads change as a whole."""

    embedding: jax.Array
    embedding_state: js.vocabulary.RowState
    layer: Any
    layer_sums: Any
    head: Any
    head_state: Any


def train(head: Head, text: Text, epochs: int) -> dict:
    """The record of one head. Nothing below asks which head it is."""
    rows = js.vocabulary.row_adagrad(RATE, initial_accumulator_value=START)
    key = jax.random.key(0)

    def step(learner, inputs):
        key, batch = inputs
        ids, loss = head.loss(key, batch)
        read = learner.head if ids is None else learner.head[ids]

        def total(words, layer, read):
            return loss(features(words, layer), read)

        words = learner.embedding[batch.context]
        gradients = jax.grad(total, argnums=(0, 1, 2))(words, learner.layer, read)
        embedding = rows.update(
            learner.embedding, learner.embedding_state, batch.context, gradients[0]
        )
        layer = descend(learner.layer, learner.layer_sums, gradients[1])
        if ids is None:
            changed = descend(learner.head, learner.head_state, gradients[2])
        else:
            changed = rows.update(learner.head, learner.head_state, ids, gradients[2])
        return Learner(*embedding, *layer, *changed), None

    def epoch(learner, key, batches):
        first, second = jax.random.split(key)
        order = jax.random.permutation(first, len(batches.number))
        shuffled = jax.tree.map(lambda x: x[order], batches)
        keys = jax.random.split(second, len(order))
        return jax.lax.scan(step, learner, (keys, shuffled))[0]

    def judge(learner, batches):
        def surprise(batch):
            h = features(learner.embedding[batch.context], learner.layer)
            return head.evaluate(h, learner.head, batch.targets).mean()

        return jax.lax.map(surprise, batches).mean()

    learner = _start(head, rows, key, len(text.counts))
    batches = jax.tree.map(jnp.asarray, text.learned)
    start = time.perf_counter()
    compiled = jax.jit(epoch, donate_argnums=0).lower(learner, key, batches).compile()
    record = {"compile_seconds": time.perf_counter() - start}
    seconds = []
    for i in range(epochs):
        start = time.perf_counter()
        learner = compiled(learner, jax.random.fold_in(key, i), batches)
        jax.block_until_ready(learner)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    surprise = float(jax.jit(judge)(learner, jax.tree.map(jnp.asarray, text.judged)))
    return record | {
        "perplexity": float(np.exp(surprise)),
        "epoch_seconds": min(seconds),
        "evaluate_seconds": time.perf_counter() - start,
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
        "parameters": sum(x.size for x in jax.tree.leaves(learner.head)),
    }


def features(words: jax.Array, layer: Any) -> jax.Array:
    """Embeddings of the words before, [words, CONTEXT, EMBEDDED] → [words, WIDTH + 1]."""
    kernel, bias = layer
    h = jnp.tanh(words.reshape(len(words), -1) @ kernel + bias)
    return jnp.concatenate([h, jnp.ones_like(h[:, :1])], axis=1)


def descend(parameters: Any, sums: Any, gradients: Any) -> tuple[Any, Any]:
    """Adagrad with one number a row, as `row_adagrad`, where all rows have a gradient."""

    def squares(g):
        return jnp.mean(g * g, axis=tuple(range(1, g.ndim)))

    sums = jax.tree.map(lambda a, g: a + squares(g), sums, gradients)
    return (
        jax.tree.map(
            lambda w, a, g: w - RATE * g * jax.lax.rsqrt(a).reshape(-1, *[1] * (g.ndim - 1)),
            parameters,
            sums,
            gradients,
        ),
        sums,
    )


def _start(head: Head, rows: js.vocabulary.RowOptimizer, key: jax.Array, classes: int) -> Learner:
    one, two, three = jax.random.split(key, 3)
    embedding = 0.5 * jax.random.normal(one, (classes, EMBEDDED))
    inputs = CONTEXT * EMBEDDED
    layer = inputs**-0.5 * jax.random.normal(two, (inputs, WIDTH)), jnp.zeros(WIDTH)
    parameters = head.init(three)

    def sums(tree):
        return jax.tree.map(lambda x: jnp.full(x.shape[:1], START), tree)

    batch = Batch(*(jax.ShapeDtypeStruct(s, jnp.int32) for s in ((BATCH, CONTEXT), (BATCH,), ())))
    by_rows = jax.eval_shape(lambda batch: head.loss(key, batch)[0], batch) is not None
    state = rows.init(parameters) if by_rows else sums(parameters)
    return Learner(embedding, rows.init(embedding), layer, sums(layer), parameters, state)


# The table.


def table(records: list[dict], text: Text, epochs: int) -> Table:
    """One row a head."""
    base = {record["head"]: record["epoch_seconds"] for record in records}.get("full")
    rows = [
        [
            record["head"],
            f"{record['perplexity']:.1f}",
            f"{record['epoch_seconds']:.2f}",
            f"{base / record['epoch_seconds']:.1f} ×" if base else "–",
            f"{record['temporaries'] / 2**20:.1f}",
            f"{record['parameters'] / 1e6:.2f}",
            f"{record['compile_seconds']:.1f}",
        ]
        for record in records
    ]
    passes = "one epoch" if epochs == 1 else f"{epochs} epochs"
    learned, judged = text.learned.targets.size, text.judged.targets.size
    frequency = (text.counts + 1) / (text.counts + 1).sum()
    alone = np.exp(-np.log(frequency)[text.judged.targets].mean())
    return Table(
        "WikiText-2",
        f"{len(text.counts):,} words, all that occur in {LEARNED}; others of {JUDGED} count as "
        f"{UNKNOWN}. Learned from {learned:,} words in {passes}, judged by every {STRIDE}th "
        f"word of {JUDGED}, {judged:,} in all; frequencies alone have perplexity {alone:.0f}. The "
        f"{CONTEXT} words before, {EMBEDDED} numbers each, → tanh layer of {WIDTH} → head; batches "
        f"of {BATCH}, Adagrad with one accumulator a row at the rate {RATE} for everything. Trees "
        "and sampled heads update only the rows they read, as the embeddings do, the others all. "
        f"{DRAWS} draws a batch, by counts to the power 3/4, shared by all its words; partitions "
        f"of {PARTITION} words. The test is by all classes, normalised. Seconds of the faster "
        "epoch, without compiling; temporaries are those of the compiled epoch, by "
        "memory_analysis(), besides parameters, optimizer state and text.",
        [
            "head", "perplexity", "s per epoch", "faster", "temporaries, MB", "parameters, M",
            "compile, s",
        ],
        rows,
    )  # fmt: skip


def run(settings, screen) -> Outcome:
    """Train every head."""
    text = Text.read(*texts(settings.data))
    offered = heads(text)
    names = settings.only or (list(offered)[:2] if settings.quick else list(offered))
    if unknown := set(names) - set(offered):
        sys.exit(f"benchmarks: no head {', '.join(unknown)}. There are {', '.join(offered)}.")
    records = []
    for name in names:
        records.append({"head": name, **train(offered[name], text, settings.epochs)})
        shown = ", ".join(
            f"{key} {value:.4g}" for key, value in records[-1].items() if key != "head"
        )
        screen.print(f"{name}: {shown}", highlight=False)
    kept = {"epochs": settings.epochs, "records": records}
    return Outcome([table(records, text, settings.epochs)], kept)


BENCHMARK = Benchmark(
    "text",
    "A language model, ten output layers",
    run,
    {
        "data": FOLDER,
        "only": Setting(None, help="not all heads", many=True),
        "epochs": Setting(EPOCHS, help="of each head"),
    },
)


if __name__ == "__main__":
    command("text")
