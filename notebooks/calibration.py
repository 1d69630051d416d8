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
# # Calibration
#
# A classifier gives 90 % confidence, and is right in 73 % of cases. One temperature mends its
# probabilities without training it again. A *set* of classes can be made to hold the true one as
# often as is asked, however good or bad the classifier is.
#
# 1. [Too sure of itself](#too-sure-of-itself): a reliability diagram, and its own error
# 2. [One temperature](#one-temperature): convex in 1/T, for every α; and a scale for each class
# 3. [Sets](#sets-that-hold-the-answer): split conformal prediction, and its exact coverage
# 4. [The threshold is a temperature](#the-threshold-is-a-temperature): the support of entmax as a
#    conformal set

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import scipy.stats
from drawing import style
from drawing.style import BLUE, FAINT, GREEN, INK, ORANGE
from sklearn.datasets import load_digits

import jsoftmax as js

style.use()
np.set_printoptions(precision=4, suppress=True, linewidth=100)

# %% [markdown]
# ## Too sure of itself
#
# Handwritten digits under noise. 250 of them are learned by heart, by the losses of softmax and of
# entmax-1.5; the rest is kept apart: 400 to find scales from, 600 to find thresholds from, 547 to
# be judged on.

# %%
images, labels = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
order = rng.permutation(len(labels))
images = images[order] / 16 + rng.normal(scale=0.35, size=images.shape)
images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(labels[order])
LEARNED, SCALED, RANKED, JUDGED = (
    slice(*ends) for ends in ((250,), (250, 650), (650, 1250), (1250, None))
)


def forward(weights, x):
    return jax.nn.relu(x @ weights["hidden"]) @ weights["readout"]


@partial(jax.jit, static_argnums=0)
def train(alpha):
    init = jax.nn.initializers.he_normal()
    first, second = jax.random.split(jax.random.key(0))
    weights = {"hidden": init(first, (64, 64)), "readout": init(second, (64, 10))}
    adam = optax.adam(1e-2)

    def loss(weights):
        z = forward(weights, images[LEARNED])
        return js.entmax_loss(z, labels[LEARNED], alpha=alpha).mean()

    def step(state, _):
        weights, memory = state
        move, memory = adam.update(jax.grad(loss)(weights), memory)
        return (optax.apply_updates(weights, move), memory), None

    return jax.lax.scan(step, (weights, adam.init(weights)), length=300)[0][0]


ALPHAS = {"softmax": 1.0, "entmax-1.5": 1.5}
Z = {name: forward(train(alpha), images) for name, alpha in ALPHAS.items()}
P = {name: js.entmax(z, ALPHAS[name]) for name, z in Z.items()}
for name, p in P.items():
    p, y = p[JUDGED], labels[JUDGED]
    print(f"{name:11s} accuracy {(p.argmax(-1) == y).mean():.1%}, mean confidence"
          f" {p.max(-1).mean():.1%}")  # fmt: skip

# %% [markdown]
# `reliability_diagram` returns the data: in bins of confidence, the mean confidence, the accuracy
# and the number of examples. Honest probabilities lie on the diagonal. The expected calibration
# error is the mean distance from it, weighted by the grey bars.


# %%
def draw(ax, p, y, color=BLUE):
    diagram = js.reliability_diagram(p, y, bins=10)
    error = js.expected_calibration_error(p, y, bins=10)
    seen = np.asarray(diagram.weight) > 0
    share = diagram.weight / diagram.weight.sum()
    ax.bar((np.arange(10) / 10)[seen], share[seen], width=0.1, align="edge", color=FAINT, alpha=0.4)
    ax.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    ax.vlines(diagram.confidence[seen], diagram.confidence[seen], diagram.accuracy[seen],
              color=ORANGE, linewidth=2)  # fmt: skip
    ax.plot(diagram.confidence[seen], diagram.accuracy[seen], "o", color=color, markersize=5)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("confidence (largest probability)")
    return float(error)


figure, axes = style.card("Dots below the line: more sure than right", 1, 2, size=(9, 3.9))
for ax, (name, p) in zip(axes, P.items(), strict=True):
    error = draw(ax, p[JUDGED], labels[JUDGED])
    ax.set_title(f"{name}: calibration error {error:.3f}")
axes[0].set_ylabel("accuracy (dots), share of digits (bars)")
plt.show()

# %% [markdown]
# An error of calibration that is measured from few examples is never zero. For *perfect*
# probabilities each bin of n_b examples is off by its standard deviation, at most 1/(2√n_b), so
# that the whole is up to √(bins/n)/2 on average. Below, labels are drawn from the probabilities
# themselves: the error is all due to counting.

# %%
sizes = np.array([50, 100, 200, 500, 1000, 2000, 5000])
p_true = js.softmax(2 * jax.random.normal(jax.random.key(1), (5000, 10)))
drawn = jax.random.categorical(jax.random.key(2), jnp.log(p_true), shape=(50, 5000))
figure, ax = style.card("Perfect probabilities have an error too, measured from n", size=(8, 3.8))
for bins, color in zip((5, 15, 50), style.ordered(3), strict=True):
    error = [
        float(
            jax.vmap(lambda y, n=n, b=bins: js.expected_calibration_error(p_true[:n], y[:n], b))(
                drawn
            ).mean()
        )
        for n in sizes
    ]
    ax.plot(sizes, error, "o-", color=color, markersize=4)
    ax.plot(sizes, np.sqrt(bins / sizes) / 2, "--", color=color, linewidth=1)
    style.label(ax, sizes[-1], error[-1], f"{bins} bins", color, (7, 0))
ax.set_xscale("log")
ax.set_yscale("log")
ax.set_xlim(45, 9000)
ax.set_xlabel("number of examples n")
ax.set_ylabel("calibration error (dashed: √(bins/n)/2)")
plt.show()

# %% [markdown]
# ## One temperature
#
# Dividing all logits by one T changes no prediction, only how sure it is. For every Fenchel–Young
# loss the mean loss is *convex in β = 1/T*, since Ω* is convex and βz is linear in β:
#
# $$\frac{∂L}{∂β} = ⟨p - y, z⟩, \qquad \frac{∂^2L}{∂β^2} = z^⊤ J(βz)\, z ≥ 0 .$$
#
# So there is one best T, and Newton's steps find it.

# %%
T = {
    name: js.temperature_scaling(z[SCALED], labels[SCALED], alpha=ALPHAS[name])
    for name, z in Z.items()
}
betas = jnp.linspace(0.02, 1.2, 120)
figure, axes = style.card("The loss of held-out digits is convex in 1/T", 1, 2, size=(9.6, 3.7))
for ax, (name, z) in zip(axes, Z.items(), strict=True):
    alpha = ALPHAS[name]
    loss = jax.jit(
        jax.vmap(
            lambda b, z=z, a=alpha: js.entmax_loss(b * z[SCALED], labels[SCALED], alpha=a).mean()
        )
    )
    ax.plot(betas, loss(betas), color=BLUE)
    best = 1 / T[name]
    ax.plot(best, loss(best[None])[0], "o", color=ORANGE, markersize=6)
    style.label(ax, best, loss(best[None])[0], f"T = {T[name]:.2f}", ORANGE, (0, 13), ha="center")
    ax.set_title(name)
    ax.set_xlabel("β = 1/T")
    slope = jax.grad(
        lambda t, z=z, a=alpha: js.entmax_loss(z[SCALED] / t, labels[SCALED], alpha=a).mean()
    )
    print(f"{name:11s} T = {T[name]:.4f}, slope of the loss there {slope(T[name]):.1e}")
axes[0].set_ylabel("mean loss")
plt.show()

# %% [markdown]
# T is differentiable in the logits, by the implicit function theorem. It has the units of z, so
# that Σ z·∂T/∂z = T must hold.

# %%
slope = jax.grad(js.temperature_scaling)(Z["softmax"][SCALED], labels[SCALED])
print(f"Σ z ∂T/∂z = {(slope * Z['softmax'][SCALED]).sum():.4f}, T = {T['softmax']:.4f}")

# %% [markdown]
# `vector_scaling` finds a scale and a bias for each class, and is pulled towards the temperature by
# a penalty, so that it is defined for separable labels and absent classes too.

# %%
figure, axes = style.card(
    "As trained, by a temperature, by class", 2, 3, size=(10.2, 6.6), sharey=True
)
print("                            accuracy  calibration error  class-wise  Brier")
for row, (name, z) in zip(axes, Z.items(), strict=True):
    vector = js.vector_scaling(z[SCALED], labels[SCALED], alpha=ALPHAS[name])
    ways = {"as trained": z, f"T = {T[name]:.2f}": z / T[name], "by class": vector.apply(z)}
    for ax, (way, scaled) in zip(row, ways.items(), strict=True):
        p, y = js.entmax(scaled[JUDGED], ALPHAS[name]), labels[JUDGED]
        error = draw(ax, p, y)
        ax.set_title(f"{name}, {way}: {error:.3f}")
        print(
            f"{name:11s} {way:14s} {(p.argmax(-1) == y).mean():9.1%} {error:16.3f}"
            f" {js.classwise_calibration_error(p, y, 10):13.3f} {js.brier_score(p, y).mean():8.3f}"
        )
for ax in axes[0]:
    ax.set_xlabel("")
plt.show()

# %% [markdown]
# ## Sets that hold the answer
#
# Give every class a score of how strange it would be as the label, and look at the scores of the
# true labels of n examples that were kept apart. The next example is one of n + 1 that might have
# come in any order: its score is no higher than the ⌈(n+1)c⌉-th of theirs with probability at least
# c. No assumption is made on the classifier.
#
# `lac_scores` are 1 − p; `aps_scores` add up the mass down to the class, so that hard examples get
# larger sets; with a key they are smoothed; with a penalty large sets cost more.

# %%
COVERAGE = 0.95
z, y = Z["softmax"] / T["softmax"], labels
p = js.softmax(z)
KEY = jax.random.key(3)
SCORES = {
    "1 − p": js.calibration.lac_scores(p),
    "adaptive": js.calibration.aps_scores(p),
    "adaptive, with a key": js.calibration.aps_scores(p, key=KEY),
    "with a penalty": js.calibration.aps_scores(p, key=KEY, penalty=0.05, free=2),
    "support of entmax-1.5": js.calibration.entmax_scores(z),
}
SETS = {}
print("score                  threshold  coverage  mean size  empty")
for name, scores in SCORES.items():
    q = js.conformal_threshold(scores[RANKED], y[RANKED], COVERAGE)
    SETS[name] = sets = np.asarray(js.conformal_sets(scores[JUDGED], q))
    covered = sets[np.arange(len(sets)), y[JUDGED]]
    print(f"{name:22s} {q:9.3f} {covered.mean():9.1%} {sets.sum(-1).mean():10.2f}"
          f" {(sets.sum(-1) == 0).sum():6d}")  # fmt: skip

# %% [markdown]
# Whom do they cover? The promise is for all digits together. Here they are ordered by how sure
# softmax is, easy ones to the right. All sets are larger for hard digits; those by 1 − p are the
# smallest. Which score covers hard digits best is a matter of the data: a dot stands for a hundred
# digits, and is uncertain by 2 %.

# %%
sure = np.argsort(np.asarray(p[JUDGED].max(-1)))
fifths = np.array_split(sure, 5)
figure, (left, right) = style.card("Where coverage is spent", 1, 2, size=(9.8, 3.8))
for name, color in zip(
    ("1 − p", "adaptive, with a key", "support of entmax-1.5"), (ORANGE, BLUE, GREEN), strict=True
):
    sets = SETS[name]
    covered = sets[np.arange(len(sets)), y[JUDGED]]
    left.plot(range(5), [covered[i].mean() for i in fifths], "o-", color=color, markersize=4)
    right.plot(range(5), [sets[i].sum(-1).mean() for i in fifths], "o-", color=color, markersize=4,
               label=name)  # fmt: skip
left.axhline(COVERAGE, color=INK, linewidth=0.8)
left.set_ylabel("coverage")
right.set_ylabel("mean size of a set")
right.legend()
for ax in (left, right):
    ax.set_xticks(range(5), ["least sure\nfifth", "", "", "", "most sure\nfifth"])
plt.show()

# %% [markdown]
# The promise is exact. For scores without ties, the coverage that n examples lead to has the
# distribution Beta(k, n+1−k) with k = ⌈(n+1)c⌉, whatever the scores are. 2,000 random divisions of
# the digits into 100 to calibrate from and the rest to judge by:

# %%
n, scores = 100, SCORES["support of entmax-1.5"][250:]
of_label = jnp.take_along_axis(scores, y[250:, None], 1)[:, 0]
# The best class has score 0: a hair of noise parts the ties.
of_label = of_label + 1e-6 * jax.random.uniform(jax.random.key(4), of_label.shape)


@jax.vmap
def coverage_of(key):
    order = jax.random.permutation(key, of_label)
    q = js.conformal_threshold(order[:n, None], jnp.zeros(n, int), 0.9)
    return (order[n:] <= q).mean()


coverages = np.asarray(coverage_of(jax.random.split(jax.random.key(5), 2000)))
k = int(np.ceil(0.9 * (n + 1) - 1e-9))
figure, ax = style.card(
    f"Coverage given {n} examples, 90 % asked: as Beta({k}, {n + 1 - k}) says", size=(8, 3.6)
)
ax.hist(coverages, bins=40, density=True, color=FAINT, alpha=0.5)
x = np.linspace(0.75, 1, 400)
ax.plot(x, scipy.stats.beta(k, n + 1 - k).pdf(x), color=BLUE)
ax.set_xlabel("coverage of the digits that were left out")
ax.set_ylabel("density")
plt.show()
print(f"mean {coverages.mean():.4f}, of Beta {k / (n + 1):.4f}; smallest {coverages.min():.3f}")

# %% [markdown]
# ## The threshold is a temperature
#
# A sparse mapping gives sets by itself: its support. Class k is in the support of
# $\mathrm{entmax}_α(z/T)$ exactly if
#
# $$T > s_k = (α-1)\,\Big(\sum_j (z_j - z_k)_+^{1/(α-1)}\Big)^{α-1},$$
#
# because at T = s_k the others take up the whole mass. So s_k is a score, and its conformal
# threshold is a *temperature*: at this T the support covers as asked (Campos et al. 2025).

# %%
row = jnp.array([2.0, 1.4, 0.9, 0.2, -1.0])
entry = js.calibration.entmax_scores(row)
temperatures = jnp.linspace(0.01, 4.2, 400)
figure, ax = style.card("Classes enter the support of entmax-1.5 one by one", size=(8.4, 3.8))
paths = js.entmax(jnp.broadcast_to(row, (400, 5)), temperature=temperatures[:, None])
for j, color in enumerate(style.ordered(5)):
    ax.plot(temperatures, paths[:, j], color=color)
    ax.plot(entry[j], 0, "o", color=color, markersize=5, clip_on=False, zorder=3)
    style.label(ax, temperatures[-1], paths[-1, j], f"z = {row[j]:g}", color)
ax.set_xlim(0, 4.7)
ax.set_ylim(-0.02, 1.02)
ax.set_xlabel("temperature (dots: s of each class)")
ax.set_ylabel("probability")
plt.show()
print("s =", entry)

# %% [markdown]
# Scores made from *sparse* probabilities are worse: every label with p = 0 has the same score, and
# if there are more of them than may be missed, the threshold is that of all zeros and every set
# holds every class. Logits still know which of them is nearer.

# %%
z, alpha = Z["entmax-1.5"], 1.5
p = js.entmax(z, alpha)
zeros = (jnp.take_along_axis(p[RANKED], y[RANKED, None], 1) == 0).mean()
print(f"labels to which entmax-1.5, as trained, gives p = 0: {zeros:.1%}")
for name, scores in {
    "1 − p": js.calibration.lac_scores(p),
    "support": js.calibration.entmax_scores(z, alpha),
}.items():
    q = js.conformal_threshold(scores[RANKED], y[RANKED], COVERAGE)
    sets = js.conformal_sets(scores[JUDGED], q)
    covered = sets[jnp.arange(len(sets)), y[JUDGED]].mean()
    print(
        f"{name:8s} threshold {q:6.3f}, coverage {covered:6.1%},"
        f" mean size {sets.sum(-1).mean():5.2f}"
    )
t = js.conformal_threshold(js.calibration.entmax_scores(z[RANKED], alpha), y[RANKED], COVERAGE)
support = js.entmax(z[JUDGED], alpha, temperature=t) > 0
print(f"support of entmax at T = {t:.3f}: mean size {support.sum(-1).mean():.2f}")
