# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A large vocabulary
#
# A softmax over K classes costs K scores a token, K numbers of memory a token, and a gradient of
# the whole class table. With hundreds of thousands of words, users or products that is most of the
# model. There are three ways out: never hold the row, choose along a tree, look at a sample.
#
# 1. [Trees](#trees): a class as a few small choices
# 2. [No row](#losses-without-the-row): the same loss, block by block
# 3. [A million classes](#a-million-classes): the cost of a step
# 4. [Samples](#samples): their bias, and their spread
# 5. [The choice](#the-choice)
#
# On real text, see `python -m jsoftmax --section words`.

# %%
import collections
import os
import re
import time
from functools import partial
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from drawing import style, trees
from drawing.style import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE

import jsoftmax as js

style.use()
np.set_printoptions(precision=4, suppress=True, linewidth=100)
# With more classes nothing is timed.
LONGEST = max(20_000, int(os.environ.get("JSOFTMAX_LONGEST", 1_000_000)))

# %% [markdown]
# ## Trees
#
# The classes are the leaves of a tree. Every inner node chooses among its children, with a row w of
# its own (a row for each child, where there are more than two), and the probability of a class is
# the product of the choices that lead to it:
#
# $$P(y|h) = \prod_{n \text{ above } y} p_n(c_n), \qquad p_n = σ(±⟨h, w_n⟩) .$$
#
# They sum to one over the classes whatever the rows are; a target needs only the rows above it.
# Below, the 24 most frequent words of Python's own documentation. Lines are as wide as the share of
# words that go through them: Huffman's tree keeps the broad ones short.

# %%
corpus = re.findall(r"\ba\b|[a-z]{2,}", " ".join(topics.values()).lower())
ranked = collections.Counter(corpus).most_common()
words, counts = [word for word, _ in ranked[:24]], np.array([n for _, n in ranked[:24]])

TREES = {
    "huffman_tree(counts)": js.huffman_tree(counts),
    "balanced_tree(24)": js.vocabulary.balanced_tree(24),
    "two_level_tree(counts)": js.vocabulary.two_level_tree(counts),
}
marked = 20
named = [f"{word}  {n:,}" for word, n in zip(words, counts, strict=True)]
figure, axes = style.card(
    "Three trees over the same words: frequent words should be a few choices away",
    1, 3, size=(12.5, 5.6), width_ratios=[7, 6, 4],
)  # fmt: skip
for ax, (name, tree) in zip(axes, TREES.items(), strict=True):
    trees.draw(ax, tree, named, counts, marked)
    ax.set_title(f"{name}: {tree.expected_length(counts):.2f} choices a word")
    ax.set_xlabel("choices")
plt.show()

# %% [markdown]
# The orange way, in numbers. A tree is a tuple of arrays; `path` reads one way out of it, and
# `rows` says which rows of the table a target needs. With a table of zeros every choice is even.

# %%
log_softmax = jax.jit(js.hierarchical_log_softmax)
for name, tree in TREES.items():
    h, table = np.ones(8, np.float32), np.zeros((tree.table_rows, 8), np.float32)
    P = np.exp(log_softmax(h, table, tree))
    even = f"P({words[marked]}) = {P[marked]:.4f}, Σ P = {P.sum():.4f}"
    print(f"{name}, a table of {tree.table_rows} rows: {even}")
    print("   child of node:", *(f"{child} of {node}, " for node, child in tree.path(marked)),
          "rows:", *(row for row in tree.rows(marked).tolist() if row >= 0))  # fmt: skip

# %% [markdown]
# No binary tree makes fewer choices than Huffman's, and none fewer than the entropy of the counts
# in bits; his is less than one above it. Over all words of the documentation:

# %%
every = np.array([n for _, n in ranked])
huffman = js.huffman_tree(every)
share = every / every.sum()
bits = -(share * np.log2(share)).sum()
figure, ax = style.card("A code as long as the word is rare", size=(8, 3.7))
rank = np.arange(1, every.size + 1)
ax.plot(rank, np.asarray(huffman.lengths), ".", color=BLUE, markersize=3)
ax.plot(rank, -np.log2(share), color=ORANGE, linewidth=1.2)
depth = js.vocabulary.balanced_tree(every.size).depth
ax.axhline(depth, color=FAINT, linewidth=1.2)
style.label(ax, 1, depth, f"balanced: {depth}", FAINT, (0, 8))
style.label(ax, 20, huffman.lengths[19], "Huffman", BLUE, (8, -12))
style.label(ax, 40, -np.log2(share[39]), "log₂ 1/share", ORANGE, (-8, 10), ha="right")
ax.set(xscale="log", xlabel="rank of the word", ylabel="choices")
ax.xaxis.set_major_formatter("{x:,.0f}")
plt.show()
two = js.vocabulary.two_level_tree(every)
print(f"{every.size:,} words. Choices a word: {huffman.expected_length(every):.3f} by Huffman,"
      f" {bits:.3f} bits of entropy, {depth} at most if balanced.")  # fmt: skip
print(f"Two levels: 2 choices, among up to {two.width} each: {2 * two.width} rows a word.")

# %% [markdown]
# ## Losses without the row
#
# If the softmax is to stay a softmax, it can be computed without ever holding the scores of all
# tokens. `linear_cross_entropy` takes features and the class table instead of logits, a block of
# tokens at a time; for the backward pass it computes the scores again. Its value and gradients are
# those of the dense way. `linear_cross_entropy_sum` is the sum over the tokens, and forms the
# gradients while it has the scores: three matrix products like the dense way, but first order and
# reverse mode only. `linear_entmax_loss` does the same for every α.


# %%
def dense(loss):
    return lambda h, W, y: loss(h @ W, y).sum()


def streamed(loss):
    return lambda h, W, y: loss(h, W, y).sum()


LOSSES = {
    "optax, dense": dense(optax.softmax_cross_entropy_with_integer_labels),
    "linear_cross_entropy": streamed(js.linear_cross_entropy),
    "linear_cross_entropy_sum": js.linear_cross_entropy_sum,
    "entmax_loss, α = 1.5, dense": dense(js.entmax_loss),
    "linear_entmax_loss, α = 1.5": streamed(js.linear_entmax_loss),
}
HUES = dict(zip(LOSSES, (INK, BLUE, GREEN, FAINT, ORANGE), strict=True))


def problem(tokens, width, classes):
    keys = jax.random.split(jax.random.key(0), 3)
    h = jax.random.normal(keys[0], (tokens, width))
    W = jax.random.normal(keys[1], (width, classes)) * 2 / np.sqrt(width)
    return h, W, jax.random.randint(keys[2], (tokens,), 0, classes)


def fastest(run):
    """Seconds of the fastest of a few runs."""
    seconds = []
    while len(seconds) < 2 or (sum(seconds) < 0.1 and len(seconds) < 20):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


SIZES = (2_000, 16_001, 64_000)


def measured(loss, classes):
    """MiB of intermediate results, and seconds: value and gradients of h and W, 512 tokens × 64."""
    given = problem(512, 64, classes)
    program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*given).compile()
    memory = program.memory_analysis().temp_size_in_bytes / 2**20
    if classes == SIZES[1]:
        RESULTS[loss] = jax.tree.leaves(program(*given))
    return memory, fastest(lambda: program(*given)) if classes <= LONGEST else np.nan


RESULTS = {}
MEASURED = {
    name: np.array([measured(loss, classes) for classes in SIZES]) for name, loss in LOSSES.items()
}
print(f"512 tokens × 64 × {SIZES[1]:,} classes: largest difference ÷ largest entry")
for name, other in (
    ("linear_cross_entropy", "optax, dense"),
    ("linear_cross_entropy_sum", "optax, dense"),
    ("linear_entmax_loss, α = 1.5", "entmax_loss, α = 1.5, dense"),
):
    pairs = zip(RESULTS[LOSSES[name]], RESULTS[LOSSES[other]], strict=True)
    value, of_h, of_W = (float(abs(a - b).max() / abs(b).max()) for a, b in pairs)
    print(f"{name:28s} value {value:.0e}, gradient of h {of_h:.0e}, of W {of_W:.0e}")

# %% [markdown]
# Memory is the compiled program's space for intermediate results; gradients are results, and not
# counted. The dense form holds rows for all tokens, one after the other. The streamed form holds a
# few blocks of bounded size; below some 20,000 classes there is nothing to save here. It saves
# memory, not time: the work is the same.

# %%
figure, (left, right) = style.card(
    "Value and gradients of 512 tokens of width 64", 1, 2, size=(10.8, 4.0)
)
for name, found in MEASURED.items():
    line = "o--" if name == "linear_cross_entropy_sum" else "o-"
    for ax, y in zip((left, right), found.T, strict=True):
        ax.plot(SIZES, y, line, color=HUES[name], markersize=4, label=name)
left.set_ylabel("memory for intermediate results, MiB")
right.set_ylabel("time, s")
for ax in (left, right):
    ax.set(xscale="log", yscale="log", xlabel="classes K")
    ax.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
left.legend(fontsize=8.5)
plt.show()
print("classes".ljust(28), *(f"{size:>20,}" for size in SIZES))
for name, found in MEASURED.items():
    print(f"{name:28s}", *(f"{memory:8.1f} MiB {seconds:6.3f} s" for memory, seconds in found))

# %% [markdown]
# ### Tokens of two models
#
# Preference optimization and policy gradients ask for the log-probabilities of given tokens,
# distillation for a divergence between two models. `linear_log_prob_terms` and
# `linear_kl_divergence` take hidden states and class tables as they are.


# %%
def dense_divergence(h, W, teacher, table):
    log_p, log_q = jax.nn.log_softmax(teacher @ table), jax.nn.log_softmax(h @ W)
    return (jnp.exp(log_p) * (log_p - log_q)).sum()


def streamed_divergence(h, W, teacher, table):
    return js.linear_kl_divergence(teacher, table, h, W).sum()


teacher, table, tokens = problem(2048, 64, 16_000)
h, W, _ = problem(2048, 32, 16_000)  # the student is half as wide
terms = js.linear_log_prob_terms(teacher, table, tokens)
print("token   log p  entropy    rank")
for token, log_p, entropy, rank in zip(
    tokens[:4], terms.log_prob, terms.entropy, terms.rank, strict=False
):
    print(f"{token:5d} {log_p:7.2f} {entropy:8.2f} {rank:7,d}")
for direction in ("forward", "reverse", "jeffreys", "jensen_shannon"):
    found = js.linear_kl_divergence(teacher, table, h, W, direction=direction)
    print(f"{direction:15s} {found.mean():.3f}")
for name, loss in {"dense": dense_divergence, "streamed": streamed_divergence}.items():
    program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(h, W, teacher, table).compile()
    memory = program.memory_analysis().temp_size_in_bytes / 2**20
    print(f"{name:9s} KL {program(h, W, teacher, table)[0] / 2048:.4f}, {memory:.0f} MiB")

# %% [markdown]
# ## A million classes
#
# Streamed or not, a step of the full softmax goes through all K·d numbers of the table, and so does
# any optimiser that is handed a gradient of that shape. A step in O(log K) must not make one: take
# the rows that matter out of the table, differentiate with respect to *them*, and move them alone.
# With the table donated to `jit`, nothing of its size is made. The same serves samples.


# %%
WIDTH, TOKENS, DRAWS, RATE = 32, 128, 256, 0.1
rows = js.vocabulary.row_sgd(RATE)


def moved(tree, gradient):
    return jax.tree.map(lambda w, g: w - RATE * g, tree, gradient)


def full(table, h, y):
    def loss(table):
        return optax.softmax_cross_entropy_with_integer_labels(h @ table.T, y).mean()

    return moved(table, jax.grad(loss)(table))


def full_streamed(table, h, y):
    def loss(table):
        return js.linear_cross_entropy_sum(h, table, y, 1 / TOKENS, class_axis=0)

    return moved(table, jax.grad(loss)(table))


def adaptive(tables, h, y):
    def loss(tables):
        return js.adaptive_cross_entropy(h, tables, y).mean()

    return moved(tables, jax.grad(loss)(tables))


def hierarchical(table, h, y, tree):
    ids = tree.rows(y)

    def loss(rows):
        return -js.hierarchical_log_prob_of_rows(h, rows, tree, y).mean()

    return rows.update(table, rows.init(table), ids, jax.grad(loss)(table[ids]))[0]


def sampled(table, h, y, sampler, key):
    few = js.vocabulary.gathered_classes(y, sampler.sample(key, (DRAWS,)), table.shape[0])

    def loss(rows):
        return js.sampled_softmax_loss(h, rows, few.labels, few.candidates, class_axis=0).mean()

    return rows.update(table, rows.init(table), few.ids, jax.grad(loss)(table[few.ids]))[0]


# %% [markdown]
# One training step, with class frequencies by Zipf's law, 128 tokens, width 32 and 256 samples. The
# adaptive softmax has wide vectors for the frequent classes and narrow ones for the rest; it goes
# through all of its table, but that is small.


# %%
def contestants(classes):
    """(step, table, further arguments) by name."""
    counts, random = 1e9 / np.arange(1, classes + 1), np.random.default_rng(0)
    key, sampler = jax.random.key(1), js.vocabulary.log_uniform_sampler(classes)
    h = random.standard_normal((TOKENS, WIDTH), np.float32)
    table = random.standard_normal((classes, WIDTH), np.float32) / np.sqrt(WIDTH)
    y = sampler.sample(key, (TOKENS,)).ids
    if classes <= 100_000:
        yield "full, dense", full, table, (h, y)
    yield "full, streamed", full_streamed, table, (h, y)
    cutoffs = js.vocabulary.adaptive_cutoffs(counts, WIDTH, tokens=TOKENS)
    yield "adaptive", adaptive, js.vocabulary.adaptive_tables(key, WIDTH, classes, cutoffs), (h, y)
    tree = js.huffman_tree(counts)
    yield "hierarchical, rows", hierarchical, table[: tree.table_rows], (h, y, tree)
    yield "sampled, rows", sampled, table, (h, y, sampler, key)


def time_of_step(step, table, others):
    program = jax.jit(step, donate_argnums=0)
    others = jax.tree.map(jnp.asarray, others)
    table = program(jax.tree.map(jnp.array, table), *others)

    def run():
        nonlocal table
        table = program(table, *others)
        return table

    return fastest(run)


CLASSES = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= LONGEST]
STEPS = collections.defaultdict(dict)
for size in CLASSES:
    for name, step, table, others in contestants(size):
        STEPS[name][size] = time_of_step(step, table, others)

# %%
figure, ax = style.card(
    "A training step: touching few rows, it does not depend on K", size=(8.6, 4.4)
)
hues = dict(zip(STEPS, (INK, BLUE, PURPLE, ORANGE, GREEN), strict=True))
for name, found in STEPS.items():
    ax.plot(found.keys(), [1e3 * s for s in found.values()], "o-", color=hues[name], markersize=4)
    last = max(found)
    side = {"shift": (7, -9)} if last < CLASSES[-1] else {"shift": (7, 0)}
    style.label(ax, last, 1e3 * found[last], name, hues[name], **side)
ax.set(xscale="log", yscale="log", xlabel="classes K", ylabel="one step, ms")
ax.set_xlim(800, CLASSES[-1] * 6)
ax.set_xticks(CLASSES, [f"{size:,}" for size in CLASSES])
ax.yaxis.set_major_formatter("{x:g}")
ax.minorticks_off()
plt.show()
print("milliseconds".ljust(20), *(f"{size:>10,}" for size in CLASSES))
for name, found in STEPS.items():
    cells = (f"{1e3 * found[size]:10.2f}" if size in found else " " * 10 for size in CLASSES)
    print(f"{name:20s}", *cells)

# %% [markdown]
# ## Samples
#
# A sampled loss sees the target and a few candidates. If class c is expected $n_c$ times among
# them, one that was drawn stands for $1/n_c$: its score enters as $z_c - \log n_c$, the *logQ
# correction*. Where does training with such a loss end?
#
# At scores $z = \log p$, with targets drawn from p, the gradient of the full softmax is zero on
# average. Below, that of sampled losses at the same place: over all 200 targets, weighted by p, and
# many draws of candidates, which all targets share. p is Zipf's law, tilted by the context; unigram
# draws by the law alone. A mean other than zero is *bias*: training ends somewhere else.

# %%
K, KEYS, DRAWN = 200, 1000, (4, 16, 64)
zipf = 1 / np.arange(1.0, K + 1)
p = js.softmax(np.log(zipf) + np.random.default_rng(3).normal(0, 1.5, K).astype(np.float32))
UNIFORM = js.vocabulary.uniform_sampler(K)
UNIGRAM = js.vocabulary.unigram_sampler(zipf, power=1)
DISTINCT = js.vocabulary.unigram_sampler(zipf, power=1, replacement=False)


def without_counts(*arguments, **options):
    *arguments, candidates = arguments
    candidates = candidates._replace(log_expected_count=jnp.zeros(()))
    return js.sampled_softmax_loss(*arguments, candidates, **options)


corrected = partial(js.sampled_softmax_loss, correct_targets=True, remove_hits=False)
ESTIMATES = {
    "sampled softmax, uniform": (js.sampled_softmax_loss, UNIFORM, BLUE),
    "sampled softmax, unigram": (js.sampled_softmax_loss, UNIGRAM, GREEN),
    "sampled softmax, unigram, no repeats": (js.sampled_softmax_loss, DISTINCT, "#5fb39a"),
    "target sampling: without logQ": (without_counts, DISTINCT, ORANGE),
    "with corrected targets, unigram": (corrected, UNIGRAM, PURPLE),
    "NCE, unigram": (js.nce_loss, UNIGRAM, INK),
    "negative sampling, unigram": (js.negative_sampling_loss, UNIGRAM, FAINT),
}


@partial(jax.jit, static_argnums=0)
def gradients(loss, ids, log_count, log_count_of_targets):
    """Mean of the gradient in the scores of all classes, and its variances."""
    y, nothing = jnp.arange(K), jnp.zeros((K, 1))

    def once(drawn):
        def mean_loss(z):
            candidates = js.vocabulary.Candidates(*drawn, log_count_of_targets)
            return (p * loss(nothing, nothing.T, y, candidates, bias=z)).sum()

        return jax.grad(mean_loss)(jnp.log(p))

    found = jax.lax.map(once, (ids, log_count), batch_size=50)
    return found.mean(0), found.var(0)


def pull(loss, sampler, draws):
    drawn = sampler.sample(jax.random.key(2), (KEYS, draws), jnp.arange(K))
    # One program serves all numbers of draws: a negative number is no class.
    rest = ((0, 0), (0, DRAWN[-1] - draws))
    counts = jnp.broadcast_to(drawn.log_expected_count, drawn.ids.shape)
    counts, ids = jnp.pad(counts, rest), jnp.pad(drawn.ids, rest, constant_values=-1)
    mean, variance = gradients(loss, ids, counts, drawn.target_log_expected_count)
    return -mean, variance


PULLS = {
    name: np.array([pull(loss, sampler, draws) for draws in DRAWN])
    for name, (loss, sampler, _) in ESTIMATES.items()
}

# %%
figure, (left, middle, right) = style.card(
    "At the truth a loss should not pull", 1, 3, size=(12.5, 4.9), width_ratios=[1.2, 1, 1]
)
order = np.argsort(-np.asarray(p))
print("draws".ljust(46), *(f"{draws:6d}" for draws in DRAWN), " " * 11,
      *(f"{draws:6d}" for draws in DRAWN))  # fmt: skip
for name, found in PULLS.items():
    color = ESTIMATES[name][2]
    mean, variance = found[:, 0], found[:, 1].sum(-1)
    # The mean of so many scatters too.
    bias = np.sqrt(np.maximum((mean**2).sum(-1) - variance / KEYS, 0))
    seen = bias > np.sqrt(variance / KEYS)
    left.plot(np.arange(1, K + 1), np.cumsum(mean[1, order]), color=color, label=name)
    middle.plot(np.array(DRAWN)[seen], bias[seen], "o-", color=color, markersize=4)
    right.plot(DRAWN, np.sqrt(variance), "o-", color=color, markersize=4)
    cells = (f"{b:6.3f}" if s else "     –" for b, s in zip(bias, seen, strict=True))
    print(f"{name:40s} bias", *cells, "     spread", *(f"{d:6.3f}" for d in np.sqrt(variance)))
left.set(xscale="log", ylim=(-0.35, 0.35), title="mean pull, 16 draws, summed from the left",
         xlabel="classes, the most probable first")  # fmt: skip
left.set_xticks([1, 10, 100], ["1", "10", "100"])
middle.set(title="bias: length of the mean pull", yscale="log")
right.set(title="spread about it", yscale="log")
for ax in (middle, right):
    ax.set(xscale="log", xlabel="draws")
    ax.set_xticks(DRAWN, map(str, DRAWN))
    ax.minorticks_off()
middle.yaxis.set_major_formatter("{x:g}")
right.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)
plt.show()

# %% [markdown]
# The curves at the left say which classes are pulled up, and which down. A bias that is not shown
# (–) cannot be told from the scatter of the mean.
#
# - Sampled softmax comes to the full one as draws grow: slowly from uniform draws, sooner from ones
#   that resemble p, soonest if none is drawn twice.
# - Without logQ, frequent candidates count for more than their share and are pushed down. Target
#   sampling does so, and scatters little: its bias is the price of a vocabulary of its own.
# - NCE, and corrected targets with hits left in, are right on average at any number of draws. They
#   pay in spread, and neither is an estimate of the cross-entropy.
# - Negative sampling learns something else, $z = \log p - \log n$, so that here more draws pull
#   more. It is for vectors, not for probabilities.
#
# ## The choice
#
# | Wanted | Take | A step costs |
# |---|---|---|
# | the softmax itself | `linear_cross_entropy_sum` | K·d |
# | each token's loss, or forward mode | `linear_cross_entropy` | K·d |
# | exact zeros | `linear_entmax_loss` | K·d |
# | log-probabilities of given tokens | `linear_log_prob`, `linear_log_prob_terms` | K·d |
# | a divergence between two models | `linear_kl_divergence` | K·d, for both |
# | a language model of uneven frequencies | `adaptive_cross_entropy` | far less than K·d |
# | exact probabilities in few operations | `hierarchical_log_prob_of_rows` | d·log K |
# | roughly the softmax; ranking, retrieval | `sampled_softmax_loss`, no repeats | d·draws |
# | probabilities right on average | `nce_loss` | d·draws |
# | a table that does not fit | `target_sampling_loss` | d·size of a part |
# | vectors alone | `negative_sampling_loss` | d·draws |
#
# A table trained by samples is read like that of the full softmax: `linear_topk` finds the best
# classes without the row, `linear_categorical` draws, and `linear_sample_token` draws from a
# truncated row. Trees and adaptive tables are other models: `hierarchical_topk` and `adaptive_topk`
# read them.
