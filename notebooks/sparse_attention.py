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
# # Sparse attention
#
# Attention mixes values by how well their keys match a query. The weights of the mixture need not
# come from softmax: any mapping of the family will do, and for α > 1 most of them are exactly zero.
#
# 1. [One formula](#one-formula): weights from softmax to arg max
# 2. [Learning α](#learning-α): the data decide how sparse
# 3. [Longer than learned](#longer-than-learned): zeros do not add up
# 4. [Sinks](#sinks): the right to look at nothing
# 5. [Masks](#masks), and fully masked rows
# 6. [Without the matrix](#without-the-matrix): how it is computed, block by block
# 7. [Length](#length): memory and time up to 65,536 places
#
# On real text, see `python -m jsoftmax --section text`.

# %%
import os
import time
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from drawing import maps, style
from drawing.style import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE

import jsoftmax as js

style.use()
np.set_printoptions(precision=4, suppress=True, linewidth=100)

# %% [markdown]
# ## One formula
#
# For a query q, keys $k_s$ and values $v_s$,
#
# $$z_s = \frac{q·k_s}{\sqrt d}, \qquad p = \mathrm{entmax}_α(z), \qquad o = \sum_s p_s v_s .$$
#
# `dot_product_attention` takes the arguments of `jax.nn.dot_product_attention`, by the same names,
# and `alpha` besides; `attention_weights` shows p. Nothing is learned yet: here two letters match
# if they are the same and if they are near each other. Under softmax every letter looks at every
# letter; the larger α, the fewer are left. White is exactly 0.

# %%
line = "to be or not to be"
same = jax.nn.one_hot(jnp.array([ord(c) - 32 for c in line]), 96)
place = jnp.arange(len(line))[:, None] / jnp.array([1.5, 3.0, 6.0])
near = jnp.concatenate([jnp.cos(place), jnp.sin(place)], axis=-1)
features = jnp.concatenate([1.2 * same, 0.7 * near], axis=-1)[:, None]  # (letters, heads, width)

ALPHAS = (1.0, 1.25, 1.5, 2.0, np.inf)
NAMES = ("softmax", "α = 1.25", "α = 1.5", "sparsemax", "arg max")
figure, axes = style.card(
    "The same scores under five mappings: who looks at whom", 1, 5, size=(12.5, 3.1), sharey=True
)
for ax, alpha, name in zip(axes, ALPHAS, NAMES, strict=True):
    (p,) = js.attention_weights(features, features, alpha=alpha, scale=1.0)
    image = maps.weights(ax, p, line)
    ax.set_title(f"{name}: {(p > 0).sum(-1).mean():.1f} keys")
axes[0].set_ylabel("query")
axes[2].set_xlabel("key")
maps.bar(figure, image, axes)
plt.show()

# %% [markdown]
# ## Learning α
#
# How sparse should a head be? Its α is differentiable, so it can find out itself:
# $α = 1 + \mathrm{sigmoid}(a)$ for each head lies between softmax and sparsemax (Correia, Niculae
# and Martins 2019). In the task below every head becomes sparser than it began; the heads of
# `python -m jsoftmax --section text`, which guess letters from many others, become denser.
#
# A task that needs attention: a list of 16 codes of 32 signs, each with a class; then one of the
# codes again, every sign flipped with probability 0.1; the answer is its class. One layer of
# attention with four heads is trained three times from the same start: by softmax, by entmax-1.5,
# and with α learned.

# %%
WIDTH, CLASSES, HEADS, ITEMS, STEPS = 32, 8, 4, 16, 400
TRAINED = {"softmax": 1.0, "entmax-1.5": 1.5, "learned α": None}
COLORS = {"softmax": BLUE, "entmax-1.5": ORANGE, "learned α": GREEN}


def task(key, batch, items):
    """Codes, their classes, the noisy query, and which of the codes it was."""
    of_codes, of_classes, of_which, of_noise = jax.random.split(key, 4)
    codes = jax.random.rademacher(of_codes, (batch, items, WIDTH), float)
    classes = jax.random.randint(of_classes, (batch, items), 0, CLASSES)
    which = jax.random.randint(of_which, (batch, 1), 0, items)
    query = jnp.take_along_axis(codes, which[..., None], 1)
    flips = jax.random.bernoulli(of_noise, 0.1, query.shape)
    return codes, classes, jnp.where(flips, -query, query), which


def alpha_of(weights, alpha):
    return 1 + jax.nn.sigmoid(weights["a"]) if alpha is None else alpha


def heads(weights, codes, query):
    return (jnp.einsum("btd,dhw->bthw", x, weights[n]) for x, n in ((query, "q"), (codes, "k")))


def logits(weights, alpha, codes, classes, query):
    q, k = heads(weights, codes, query)
    v = weights["v"][classes]
    mixed = js.dot_product_attention(q, k, v, alpha=alpha_of(weights, alpha))
    return jnp.einsum("bthw,hwc->bc", mixed, weights["o"])


@partial(jax.jit, static_argnums=0)
def train(alpha):
    init = jax.nn.initializers.glorot_normal()
    shapes = {"q": (WIDTH, HEADS, 16), "k": (WIDTH, HEADS, 16), "v": (CLASSES, HEADS, 16)}
    shapes |= {"o": (HEADS, 16, CLASSES)}
    keys = jax.random.split(jax.random.key(0), 4)
    weights = {name: init(k, shapes[name]) for name, k in zip(shapes, keys, strict=True)}
    weights["a"] = jnp.zeros(HEADS)
    adam = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))

    def step(state, key):
        weights, memory = state
        codes, classes, query, which = task(key, 64, ITEMS)
        answer = jnp.take_along_axis(classes, which, 1)[:, 0]

        def loss(weights):
            return js.cross_entropy(logits(weights, alpha, codes, classes, query), answer).mean()

        value, slope = jax.value_and_grad(loss)(weights)
        move, memory = adam.update(slope, memory)
        now = optax.apply_updates(weights, move)
        return (now, memory), (value, jnp.broadcast_to(alpha_of(weights, alpha), HEADS))

    start = weights, adam.init(weights)
    return jax.lax.scan(step, start, jax.random.split(jax.random.key(1), STEPS))


RUNS = {name: train(alpha) for name, alpha in TRAINED.items()}
figure, (left, right) = style.card("Four heads learn to look up", 1, 2, size=(10.3, 3.6))
for name, (_, (loss, course)) in RUNS.items():
    smooth = np.convolve(loss, np.ones(20) / 20, "valid")
    left.plot(np.arange(len(smooth)) + 10, smooth, color=COLORS[name], label=name)
    for number, line_of_head in enumerate(np.asarray(course).T):
        right.plot(line_of_head, color=COLORS[name])
        if name == "learned α":
            print(f"head {number + 1}: α = {line_of_head[-1]:.2f}")
left.set(xlabel="step", ylabel="loss (mean of 20 steps)", yscale="log")
left.legend()
right.set(xlabel="step", ylabel="α of each head", ylim=(0.95, 2.05))
plt.show()

# %% [markdown]
# ## Longer than learned
#
# Softmax gives every key a weight of at least $e^{-m}$ times the largest, where m is how far the
# scores reach. Ten times as many keys take ten times as much from the right one, however well it
# matches. A sparse mapping gives nothing to keys far behind, and it stays nothing:
#
# $$p_{\text{right}} = \frac{1}{1 + (n-1)\,e^{-m}} \quad (α = 1), \qquad
#   p_{\text{right}} = 1 \ \text{ for all } n, \text{ if } m ≥ \tfrac{1}{α-1} \quad (α > 1).$$
#
# The left picture is this formula, for a margin of m = 6. The others show the heads from above,
# which have only ever seen 16 codes, in longer lists. There some wrong codes come near by chance,
# the more the longer the list; to take the nearest code (dotted) is the best that can be done.
#
# Sparse heads keep more weight on the right key. But zero is a decision: where enough wrong codes
# come before the right one, a sparse head gives it *nothing* (the last line of each table), while
# softmax keeps a little of it in every head, and the little of four heads adds up. So sparse heads
# are ahead for a while, not for ever. Right answers are known within 4 % here.

# %%
LENGTHS = (16, 128, 1024, 4096)


@partial(jax.jit, static_argnums=(1, 3))
def tested(weights, alpha, key, items):
    """Right answers, weight on the right key, how often it has none, keys used; and the right
    answers of the nearest code.
    """
    codes, classes, query, which = task(key, 128, items)
    q, k = heads(weights, codes, query)
    p = js.attention_weights(q, k, alpha=alpha_of(weights, alpha))
    of_class = jnp.einsum("bhts,bsc->bhc", p, jax.nn.one_hot(classes, CLASSES))
    mixed = jnp.einsum("bhc,chw->bhw", of_class, weights["v"])
    answers = jnp.einsum("bhw,hwc->bc", mixed, weights["o"]).argmax(-1)
    nearest = (codes * query).sum(-1).argmax(-1)[:, None]
    right, by_nearest = (jnp.take_along_axis(classes, i, 1)[:, 0] for i in (which, nearest))
    on_right = (p[:, :, 0] * (jnp.arange(items) == which[..., None])).sum(-1)
    means = answers == right, on_right, on_right == 0, (p > 0).sum(-1), by_nearest == right
    return tuple(x.mean() for x in means)


figure, axes = style.card(
    "Weight on the right key, in lists longer than those learned from", 1, 3, size=(11.5, 3.7)
)
n = np.geomspace(16, 4096, 60).round().astype(int)
for name, alpha in (("softmax", 1.0), ("entmax-1.5", 1.5)):
    weight = [float(js.entmax(jnp.zeros(size).at[0].set(6.0), alpha)[0]) for size in (16, 4096)]
    curve = 1 / (1 + (n - 1) * np.exp(-6)) if alpha == 1 else np.ones(len(n))
    axes[0].plot(n, curve, color=COLORS[name])
    axes[0].plot((16, 4096), weight, "o", color=COLORS[name], markersize=4)
    print(f"{name:10s} margin 6: {weight[0]:.3f} of 16, {weight[1]:.3f} of 4096")
print("keys                     ", *(f"{items:>12,}" for items in LENGTHS))
for name, ((weights, _), _) in RUNS.items():
    found = [tested(weights, TRAINED[name], jax.random.key(2), items) for items in LENGTHS]
    accuracy, on_right, dropped, used, nearest = np.array(found).T
    axes[1].plot(LENGTHS, on_right, "o-", color=COLORS[name], markersize=4)
    axes[2].plot(LENGTHS, accuracy, "o-", color=COLORS[name], markersize=4, label=name)
    print(f"{name:10s} right answers ", *(f"{x:12.1%}" for x in accuracy))
    print(" " * 10, "keys used     ", *(f"{x:12.1f}" for x in used))
    print(" " * 10, "right one not ", *(f"{x:12.1%}" for x in dropped))
axes[2].plot(LENGTHS, nearest, ":", color=INK, linewidth=1.2, label="nearest code")
for ax, title in zip(
    axes, ("by the formula, m = 6", "trained, mean of heads", "trained: right answers"), strict=True
):
    ax.set(xscale="log", ylim=(0, 1.05), title=title, xlabel="number of keys")
    ax.set_xticks([16, 256, 4096], ["16", "256", "4096"])
    ax.minorticks_off()
axes[2].legend(loc="lower left", fontsize=8.5)
plt.show()

# %% [markdown]
# ## Sinks
#
# Weights sum to one, so that a head which finds nothing must still look somewhere. A *sink* is one
# more class with a score of its own and no value: its share is lost to the mixture. With a
# score of 0 it is the off-by-one softmax, $p_s = e^{z_s} / (1 + \sum_r e^{z_r})$; `sinks` takes a
# number for each head, and can be learned. Under softmax a sink never takes everything, nor
# nothing. Under a sparse mapping it does both: where all keys are 1/(α−1) behind the sink, the
# mixture is exactly 0, and where keys are far enough before it, nothing is lost.

# %%
score = np.linspace(-6, 6, 241).astype(np.float32)
figure, (left, right) = style.card(
    "A sink with score 0, beside four keys: their part of the mass", 1, 2, size=(10, 3.6),
    sharey=True,
)  # fmt: skip
spread = jnp.array([0.0, -0.5, -1.0, -1.5])
for alpha, name, color in zip((1.0, 1.5, 2.0), ("softmax", "entmax-1.5", "sparsemax"),
                              (BLUE, ORANGE, GREEN), strict=True):  # fmt: skip
    for ax, keys in ((left, jnp.zeros(4)), (right, spread)):
        rows = jnp.asarray(score)[:, None, None], jnp.ones((4, 1, 1))
        (p,) = js.attention_weights(*rows, bias=keys, alpha=alpha, scale=1.0, sinks=0.0)
        ax.plot(score, p.sum(-1), color=color, label=name)
left.set(title="four equal keys", xlabel="their score", ylabel="Σ p over keys")
right.set(title="keys 0, ½, 1, 1½ behind the best", xlabel="score of the best")
left.legend()
plt.show()

# %% [markdown]
# ## Masks
#
# Causal masks, windows, segments (several texts packed into one row), lengths and any boolean
# array combine. Grey is not seen.

# %%
t = len(line)
segments = jnp.array([0] * 6 + [1] * 3 + [2] * (t - 9))
place = np.arange(t)
before = place[:, None] >= place
holes = np.asarray(jax.random.bernoulli(jax.random.key(3), 0.6, (t, t)))
MASKS = {
    "is_causal": ({"is_causal": True}, before),
    "a window of 4 before": (
        {"is_causal": True, "local_window_size": (4, 0)}, before & (place[:, None] <= place + 4),
    ),
    "segments, causal": (
        {"is_causal": True, "query_segment_ids": segments},
        before & (np.asarray(segments)[:, None] == np.asarray(segments)),
    ),
    "any mask": ({"mask": holes}, holes),
}  # fmt: skip
figure, axes = style.card(
    "Visible keys (not grey), and the weights of the keys", 1, 4, size=(12.5, 3.6), sharey=True
)
for ax, (name, (options, seen)) in zip(axes, MASKS.items(), strict=True):
    (p,) = js.attention_weights(features, features, alpha=1.5, scale=1.0, **options)
    assert not np.asarray(p)[~seen].any()
    image = maps.weights(ax, p, line, seen)
    ax.set_title(name)
maps.bar(figure, image, axes)
plt.show()

# %% [markdown]
# And where nothing is left to see? `jax.nn.dot_product_attention` puts large negative numbers in
# the place of masked scores, so that such a row becomes the *mean of all values*, and its
# gradient flows into all of them: padding leaks. Here it is zero, with a gradient of zero. NaN in
# a masked value does not reach anything either.

# %%
q, k, v = jax.random.normal(jax.random.key(4), (3, 1, 5, 1, 4))
mask = jnp.ones((1, 1, 5, 5), bool).at[..., 2, :].set(False)
spoiled = v.at[0, 0].set(jnp.nan)
for library, attention in {"jax.nn": jax.nn.dot_product_attention,
                           "jsoftmax": js.dot_product_attention}.items():  # fmt: skip
    out = attention(q, k, v, mask=mask)
    slope = jax.grad(lambda v, f=attention: f(q, k, v, mask=mask)[0, 2].sum())(v)
    hidden = attention(q, k, spoiled, mask=mask.at[..., 0].set(False))
    print(f"{library:9s} row 2:", out[0, 2, 0], f"  its gradient in the values: {slope.sum():.1f}",
          f"  rows with NaN: {int(jnp.isnan(hidden).any((0, 2, 3)).sum())}")  # fmt: skip
print("mean of values ", v[0, :, 0].mean(0))

# %% [markdown]
# ## Without the matrix
#
# The matrix of weights is never formed. Softmax goes through blocks of keys once, with a running
# maximum and sum (FlashAttention). For every other α a threshold τ is found first, for a block of
# queries at a time, by the solver that serves the mappings; then $p = [1 + (α-1)(z-τ)]_+^{1/(α-1)}$
# is summed up over the blocks. Derivatives are formed anew, block by block, from τ: with the slopes
# $s = p^{2-α}$ on the support, and the *escort* $e = s / \sum s$,
#
# $$\dot o = \sum_s s_s\,(\dot z_s - ⟨e, \dot z⟩)\, v_s + \sum_s p_s \dot v_s, \qquad
#   \frac{∂L}{∂z_s} = s_s \Big(⟨g, v_s⟩ - ⟨g, o_e⟩\Big), \quad o_e = \sum_r e_r v_r ,$$
#
# for $g = ∂L/∂o$. For softmax e is p and $o_e$ is o. They differentiate again, in both modes.
# Against the formula with the whole matrix, at a length that no block divides:

# %%
q, k, v = jax.random.normal(jax.random.key(5), (3, 1, 333, 2, 32))


def streamed(q, k, v, alpha):
    blocks = {"block_q": 64, "block_k": 100}
    return js.dot_product_attention(q, k, v, alpha=alpha, is_causal=True, **blocks)


def dense(q, k, v, alpha):
    p = js.attention_weights(q, k, alpha=alpha, is_causal=True)
    return jnp.einsum("bhts,bshd->bthd", p, v)


@partial(jax.jit, static_argnums=(0, 1))
def derivatives(attention, alpha, q, k, v):
    """The mixtures, the gradient of the sum of their squares, and its Hessian times v."""

    def loss(q):
        out = attention(q, k, v, alpha)
        return (out**2).sum(), out

    ((_, out), slope), (_, bend) = jax.jvp(jax.value_and_grad(loss, has_aux=True), (q,), (v,))
    return out, slope, bend


for alpha in (1.0, 1.5):
    found = (derivatives(attention, alpha, q, k, v) for attention in (streamed, dense))
    pairs = zip(*found, strict=True)
    value, slope, bend = (float(abs(a - b).max() / abs(b).max()) for a, b in pairs)
    print(f"α = {alpha}: largest difference ÷ largest entry: value {value:.0e},"
          f" gradient {slope:.0e}, Hessian times a vector {bend:.0e}")  # fmt: skip

# %% [markdown]
# Parts of the keys can be put together after the fact. For softmax the residual τ, the logsumexp
# of the scores, is all that is needed: `merge_attention`.

# %%
parts = [
    js.dot_product_attention(q, k[:, ends], v[:, ends], return_residual=True)
    for ends in (slice(0, 100), slice(100, None))
]
merged, tau = js.merge_attention(*(jnp.stack(x) for x in zip(*parts, strict=True)))
print(
    f"in two parts and at once: {abs(merged - js.dot_product_attention(q, k, v)).max():.0e} apart"
)

# %% [markdown]
# ## Length
#
# One head of width 64, causal, value and gradient of everything. Memory is the compiled program's
# space for intermediate results. The dense form needs several matrices of T × T:
# twice the length is four times the memory. Streamed, it is twice the memory. Time still grows with
# the square, except in a window: hidden keys are not computed.

# %%
LONGEST = int(os.environ.get("JSOFTMAX_LONGEST", 65536))  # beyond, time is not measured
ATTENTIONS = {
    "jax.nn, dense": (jax.nn.dot_product_attention, {}, (1024, 2048, 4096, 8192)),
    "softmax": (js.dot_product_attention, {}, (1024, 8192, 65536)),
    "entmax-1.5": (js.dot_product_attention, {"alpha": 1.5}, (1024, 8192, 65536)),
    "entmax-1.5, window of 1024": (
        js.dot_product_attention, {"alpha": 1.5, "local_window_size": (1024, 0)},
        (8192, 65536),
    ),
}  # fmt: skip


def measured(attention, options, length):
    """Bytes of intermediate results, and seconds: value and gradient of q, k and v."""

    def loss(qkv):
        return (attention(*qkv, is_causal=True, **options) ** 2).sum()

    qkv = jax.random.normal(jax.random.key(6), (3, 1, length, 1, 64))
    program = jax.jit(jax.value_and_grad(loss)).lower(qkv).compile()
    if length > LONGEST:
        return program.memory_analysis().temp_size_in_bytes, np.nan
    seconds = []
    for _ in range(1 if length > 20_000 else 3):
        start = time.perf_counter()
        value, slope = jax.block_until_ready(program(qkv))
        seconds.append(time.perf_counter() - start)
    assert jnp.isfinite(value) and jnp.isfinite(slope).all()
    return program.memory_analysis().temp_size_in_bytes, min(seconds)


MEASURED = {
    name: np.array([measured(attention, options, length) for length in lengths])
    for name, (attention, options, lengths) in ATTENTIONS.items()
}

# %%
figure, (left, right) = style.card(
    "Value and gradient, one causal head of width 64", 1, 2, size=(10.8, 4.2)
)
hues = dict(zip(ATTENTIONS, (INK, BLUE, ORANGE, PURPLE), strict=True))
for name, found in MEASURED.items():
    lengths = np.array(ATTENTIONS[name][2])
    for ax, y in zip((left, right), (found[:, 0] / 2**20, found[:, 1]), strict=True):
        ax.plot(lengths, y, "o-", color=hues[name], markersize=4, label=name)
        if name == "jax.nn, dense":
            far = np.array([8192, 65536])
            ax.plot(far, y[-1] * (far / 8192) ** 2, ":", color=hues[name], linewidth=1)
for ax, label in ((left, "memory for intermediate results, MiB"), (right, "time, s")):
    ax.set(xscale="log", yscale="log", xlabel="length T", ylabel=label)
    ax.set_xticks([1024, 8192, 65536], ["1,024", "8,192", "65,536"])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
left.legend(fontsize=8.5)
style.label(left, 65536, MEASURED["jax.nn, dense"][-1, 0] / 2**20 * 64, "× 4 for × 2", FAINT,
            (-6, 0), ha="right")  # fmt: skip
plt.show()
SHOWN = (1024, 8192, 65536)
print("length".ljust(26), *(f"{length:>20,}" for length in SHOWN))
for name, found in MEASURED.items():
    by_length = dict(zip(ATTENTIONS[name][2], found, strict=True))
    cells = [by_length.get(length) for length in SHOWN]
    print(f"{name:26s}", *(
        " " * 20 if cell is None else f"{cell[0] / 2**20:8.1f} MiB {cell[1]:6.2f} s"
        for cell in cells))  # fmt: skip
