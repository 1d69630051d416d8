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
# # Sampling and acting
#
# To sample is to turn probabilities into a choice; to act is to draw from a policy, a distribution
# over actions. The first half draws classes and differentiates through the draw; in the second a
# policy is any mapping of action values, and the temperature says how much is left to chance.
#
# **[Sampling](#sampling)**
#
# 1. [A sample, relaxed](#a-sample-relaxed): Gumbel noise, and a temperature that falls to zero
# 2. [Its density](#the-concrete-density), on the simplex and on its logarithm
# 3. [Gradients](#gradients-through-a-draw): seven estimators against the enumerated gradient
# 4. [Annealing](#annealing) with a schedule of optax
# 5. [Without replacement](#without-replacement): k classes at once, and their relaxation
# 6. [At scale](#exact-draws-at-scale): exact, from many classes, and never one of probability zero
# 7. [Truncation](#truncation): top-k, top-p and their kin, without a sort
# 8. [Distributions](#distributions) with entropy and divergence
#
# **[Acting](#acting)**
#
# 1. [Policies](#policies) from one row of action values
# 2. [Temperature](#temperature), from greedy to uniform, as a number, an array or a schedule
# 3. [Values](#the-value-that-belongs-to-a-policy): a smooth maximum, its gradient the policy
# 4. [Masks](#masks): forbidden actions do not happen
# 5. [Mellowmax](#mellowmax), a smooth maximum that contracts
# 6. [Near a reference](#near-a-reference): the best policy that stays close to a given one
# 7. [Learning a policy](#learning-a-policy): log-probabilities, ratios, divergences
# 8. [A bandit](#a-bandit): regret against temperature
# 9. [A gridworld](#a-gridworld): soft, sparse and greedy value iteration

# %%
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from drawing import grid, simplex, style
from drawing.style import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE

import jsoftmax as js

style.use()
np.set_printoptions(precision=4, suppress=True, linewidth=100)

# %% [markdown]
# ## Sampling
#
# ### A sample, relaxed
#
# Add independent Gumbel noise G to the scores, and the largest of z + G is a draw from
# $\mathrm{softmax}(z)$. Replace the arg max by a mapping, and the draw becomes a point of
# the simplex that is differentiable in z:
#
# $$x = \mathrm{entmax}_α\big((z + G)/T\big).$$
#
# α = 1 is `gumbel_softmax`, any other α is `gumbel_entmax`. The class of the largest x, here the
# colour, depends on the key alone: every point keeps it while T falls and all of them gather in the
# corners. At T = 0 they are there, exactly. Sparse samples reach edges and corners long before.

# %%
z = jnp.array([0.3, 0.0, -0.6])
many = jnp.broadcast_to(z, (1500, 3))
key = jax.random.key(0)
COLDER = (4.0, 2.0, 1.0, 0.3, 0.0)
figure, axes = style.card(
    "1,500 draws, and the same noise at five temperatures", 2, 5, size=(11, 4.7)
)
winners = []
print("  α    T    one-hot   share of each class as the largest")
for row, alpha in zip(axes, (1.0, 2.0), strict=True):
    for ax, t in zip(row, COLDER, strict=True):
        x = np.asarray(js.gumbel_entmax(key, many, t, alpha=alpha))
        winners.append(x.argmax(-1))
        simplex.triangle(ax, names=("", "", ""))
        at, hues = simplex.flat(x), np.array(simplex.HUES)[winners[-1]]
        ax.scatter(*at.T, s=4, c=hues, alpha=0.45, linewidths=0, zorder=2, clip_on=False)
        one_hot = (x.max(-1) == 1).mean()
        for corner, i in zip(simplex.CORNERS, range(3), strict=True):
            there = (x[:, i] == 1).mean()
            if there >= 0.005:
                ax.text(*(corner * 1.22), f"{there:.0%}", color=simplex.HUES[i], fontsize=8.5,
                        ha="center", va="center")  # fmt: skip
        ax.set_title(f"{'softmax' if alpha == 1 else 'sparsemax'}, T = {t:g}")
        print(f"{alpha:4} {t:5} {one_hot:8.1%}  ", np.bincount(winners[-1], minlength=3) / 1500)
figure.supxlabel("percentages: draws that are exactly in the corner", fontsize=9)
plt.show()
print("softmax(z)             ", js.softmax(z))
print("the same winners throughout:", all((w == winners[0]).all() for w in winners))

# %% [markdown]
# ### The concrete density
#
# A relaxed sample has a density, which variational methods need. From T = K − 1 on it is bounded;
# below, it grows beyond all bounds towards the corners, and for T ≤ 1/(K−1), where its logarithm is
# convex, no hill is left inside. Summed over the middle of the triangle, it is the share of draws.

# %%
lattice = simplex.interior(240, 1e-3).astype(np.float32)
figure, axes = style.card(
    "The density of relaxed samples: a hill when hot, three corners when cold", 1, 4, size=(11, 3.1)
)
density = jax.jit(lambda t: jnp.exp(js.concrete_log_prob(lattice, z, t)))
for ax, t in zip(axes, (2.0, 1.0, 0.5, 0.25), strict=True):
    p = np.asarray(density(t))
    simplex.triangle(ax, filled=False)
    # Relative to the uniform density 2, in octaves: the same colours in all four.
    ax.tricontourf(*simplex.flat(lattice).T, np.clip(np.log2(p / 2), -3.99, 3.99),
                   levels=np.arange(-4, 4.5, 0.5), cmap="PuOr_r")  # fmt: skip
    ax.set_title(f"T = {t:g}")
    inside = (np.asarray(js.gumbel_softmax(key, many, t)) > 0.05).all(-1).mean()
    summed = (p * (lattice > 0.05).all(-1)).mean() / 2
    print(f"T = {t:<4}: all x > 0.05 with probability {summed:.3f}; in 1,500 draws {inside:.3f}")
shades = plt.cm.ScalarMappable(plt.Normalize(-4, 4), "PuOr_r")
bar = figure.colorbar(shades, ax=axes, shrink=0.75, pad=0.01, ticks=[-4, 0, 4])
bar.ax.set_yticklabels(["1/16", "uniform", "× 16"])
plt.show()

# %% [markdown]
# At a low T samples round to the border, where that density is 0 or infinite. Their logarithm does
# not: `gumbel_log_softmax` draws it, and `exp_concrete_log_prob` is its density.

# %%
y = js.gumbel_log_softmax(key, z, 0.01)
print("x    ", js.gumbel_softmax(key, z, 0.01), " log-density", js.concrete_log_prob(
    js.gumbel_softmax(key, z, 0.01), z, 0.01))  # fmt: skip
print("log x", y, " log-density", js.exp_concrete_log_prob(y, z, 0.01))

# %% [markdown]
# ### Gradients through a draw
#
# Often the rest of the program wants a class, not a mixture: D is one-hot, and the derivative must
# be made up. All estimators below are drop-in functions of a key and scores; they differ in their
# derivative of D. Three classes and a small network f are enough to see how: the
# exact gradient of $\mathbb{E} f(D) = \sum_i p_i f(e_i)$ is a sum of three terms, and since it has
# sum zero, it and every estimate of it is a point in a plane.

# %%
z3 = jnp.array([0.5, 0.0, -0.5])
mixing = jnp.array([[1.5, -0.5, -0.8], [0.2, 1.2, -1.0]])


def f(x):
    return jnp.array([1.0, -0.7]) @ jnp.tanh(1.5 * mixing @ x)


exact = jax.grad(lambda z: js.softmax(z) @ jax.vmap(f)(jnp.eye(3)))(z3)
ESTIMATORS = {
    "relaxed": js.gumbel_softmax,
    "straight-through": js.straight_through_categorical,
    "decoupled": partial(js.decoupled_straight_through, forward_temperature=2.0),
    "ReinMax": js.reinmax,
    "ST Gumbel": js.straight_through_gumbel,
    "Gumbel-Rao": partial(js.gumbel_rao, samples=10),
}
draws = jax.random.split(jax.random.key(1), 20_000)


@partial(jax.jit, static_argnums=0)
def gradients(estimator, t):
    return jax.vmap(lambda key: jax.grad(lambda z: f(estimator(key, z, t)))(z3))(draws)


@jax.jit
def unbiased():
    return jax.vmap(lambda key: jax.grad(js.reinforce_leave_one_out, 1)(key, z3, f, 4))(draws)


shown = {name: gradients(estimator, 0.5) for name, estimator in ESTIMATORS.items()}
shown["REINFORCE, 4 draws"] = unbiased()
figure, axes = style.card(
    "Gradients of one draw each, T = 0.5: a cloud, its mean (dot), and the truth (cross)",
    2, 4, size=(11, 5.9), sharex=True, sharey=True,
)  # fmt: skip
truth = simplex.flat(exact)
clouds = {name: simplex.flat(g) for name, g in shown.items()}
reach = 1.2 * max(np.quantile(abs(cloud), 0.98) for cloud in clouds.values())
for ax, (name, cloud) in zip(axes.flat, clouds.items(), strict=False):
    large = 8 if len(np.unique(cloud.round(3), axis=0)) < 9 else 3
    ax.plot(*cloud[:1500].T, ".", color=FAINT, markersize=large, alpha=0.5, markeredgewidth=0)
    ax.plot(*truth, "+", color=INK, markersize=13, markeredgewidth=1.6, zorder=4)
    ax.plot(*cloud.mean(0), "o", color=ORANGE, markersize=6, zorder=3)
    ax.set(title=name, aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
axes[-1, -1].set_axis_off()
plt.show()

# %% [markdown]
# Straight-through, decoupled and ReinMax have three values, one for each class that may be drawn.
# ReinMax corrects straight-through by Heun's rule, exactly for a quadratic f at T = 1. Gumbel-Rao
# has the mean of straight-through Gumbel, and less scatter. REINFORCE asks for no slope of f, and
# for several draws. Against the temperature:

# %%
heats = np.geomspace(0.1, 4, 9).tolist()
figure, (left, right) = style.card(
    "Bias and deviation: with Gumbel noise, T trades one for the other", 1, 2, size=(10.5, 4.2)
)
size = np.linalg.norm(exact)
colors = dict(zip(ESTIMATORS, (FAINT, BLUE, "#4b9cd3", GREEN, ORANGE, PURPLE), strict=True))
print("estimator              bias and deviation ÷ |gradient|, T = 0.5     T = 1")
for name, estimator in ESTIMATORS.items():
    g = np.stack([gradients(estimator, t) for t in heats])
    bias = np.linalg.norm(g.mean(1) - exact, axis=-1) / size
    scatter = np.sqrt(g.var(1).sum(-1)) / size
    dashes = "--" if name == "ST Gumbel" else "-"
    left.plot(heats, bias, dashes, color=colors[name], label=name)
    right.plot(heats, scatter, dashes, color=colors[name])
    at = [gradients(estimator, t) for t in (0.5, 1.0)]
    print(f"{name:21s}", *(
        f"{np.linalg.norm(g.mean(0) - exact) / size:14.3f} {np.sqrt(g.var(0).sum()) / size:8.3f}"
        for g in at))  # fmt: skip
g = np.asarray(unbiased())
off, wide = np.linalg.norm(g.mean(0) - exact) / size, np.sqrt(g.var(0).sum()) / size
print(f"{'REINFORCE, 4 draws':21s} {off:14.3f} {wide:8.3f}, at any T")
right.axhline(wide, color=INK, linestyle=":", linewidth=1)
style.label(right, heats[0], wide, "REINFORCE, 4 draws", shift=(2, 6))
floor = 2 * wide / np.sqrt(len(draws))  # a smaller bias than this is not seen
left.axhspan(floor / 4, floor, color=FAINT, alpha=0.2, linewidth=0)
style.label(left, heats[-1], floor / 2, "none is seen", INK, (-2, 0), ha="right")
left.set_ylim(floor / 4, None)
for ax in (left, right):
    ax.set(xscale="log", yscale="log", xlabel="temperature")
    ax.set_xticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
    ax.minorticks_off()
left.set_ylabel("bias ÷ |gradient|")
right.set_ylabel("deviation of one gradient ÷ |gradient|")
left.legend(fontsize=8.5)
plt.show()

# %% [markdown]
# ### Annealing
#
# A hot relaxation solves another problem: the cost |x − c|² of a class is least for the class with
# the largest c, but for a *mixture* it is least at c itself: the relaxed problem is content there.
# A temperature that falls, `temperature=schedule(step)` with any schedule of optax, begins with
# little noise and ends with the right problem. (On so small a problem a cold start ends as well.)

# %%
target = jnp.array([0.45, 0.30, 0.25])
class_costs = ((jnp.eye(3) - target) ** 2).sum(-1)
STEPS = 400
SCHEDULES = {
    "T = 1": optax.constant_schedule(1.0),
    "T = 0.1": optax.constant_schedule(0.1),
    "annealed": optax.exponential_decay(1.0, 100, 0.4, end_value=0.1),
}


@partial(jax.jit, static_argnums=0)
def relaxed_descent(name, key):
    optimizer = optax.adam(0.05)

    def step(carry, now):
        z, state = carry
        step, key = now

        def cost(z):
            x = js.gumbel_softmax(key, jnp.broadcast_to(z, (4, 3)), SCHEDULES[name](step))
            return ((x - target) ** 2).sum(-1).mean()

        updates, state = optimizer.update(jax.grad(cost)(z), state)
        return (optax.apply_updates(z, updates), state), js.softmax(z) @ class_costs

    start = jnp.zeros(3)
    steps = (jnp.arange(STEPS), jax.random.split(key, STEPS))
    return jax.lax.scan(step, (start, optimizer.init(start)), steps)[1]


figure, (left, right) = style.card(
    "Minimise the cost of a class through its relaxation", 1, 2, size=(10, 3.5)
)
runs = jax.random.split(jax.random.key(2), 100)
for name, color in zip(SCHEDULES, (BLUE, ORANGE, GREEN), strict=True):
    costs = np.asarray(jax.vmap(partial(relaxed_descent, name))(runs))
    low, middle, high = np.quantile(costs, [0.1, 0.5, 0.9], axis=0)
    left.plot(np.broadcast_to(SCHEDULES[name](np.arange(STEPS)), (STEPS,)), color=color, label=name)
    right.fill_between(range(STEPS), low, high, color=color, alpha=0.15, linewidth=0)
    right.plot(middle, color=color)
    last = costs[:, -1]
    print(f"{name:9s} cost at the end: mean {last.mean():.3f}, worst {last.max():.3f}")
right.axhline(class_costs.min(), color=FAINT, linestyle=":", linewidth=1)
style.label(right, STEPS, class_costs.min(), "the best class", FAINT, (-2, -7), ha="right")
left.set(yscale="log", xlabel="step", ylabel="temperature")
left.set_yticks([0.1, 0.3, 1], ["0.1", "0.3", "1"])
left.minorticks_off()
left.legend(fontsize=8.5)
right.set(xlabel="step", ylabel="expected cost of a class (100 runs)")
plt.show()

# %% [markdown]
# ### Without replacement
#
# The k largest of z + G are k classes drawn one after the other, each from the remaining ones.
# `gumbel_topk` returns them in order, with the log-probability of that order. `relaxed_topk` is the
# same draw through `topk_entmax`: no entry passes 1, and all of them sum to k.

# %%
z6, k = jnp.array([2.0, 1.2, 0.6, 0.0, -0.6, -1.2]), 3
draw = js.gumbel_topk(jax.random.key(3), jnp.broadcast_to(z6, (50_000, 6)), k)
orders = np.array(list(itertools.permutations(range(6), k)))
p6 = np.asarray(js.softmax(z6))
exactly = np.prod([
    p6[orders[:, t]] / (1 - p6[orders[:, :t]].sum(-1)) for t in range(k)
], axis=0)  # fmt: skip
code = 6 ** np.arange(k)
counted = np.bincount(np.asarray(draw.indices) @ code, minlength=6**k)[orders @ code] / 50_000
returned = np.exp(np.asarray(draw.log_prob[:1]))
print("one draw", draw.indices[0], "of probability", returned,
      "; by the formula", exactly[(orders == np.asarray(draw.indices[0])).all(-1)])  # fmt: skip
deviation = (counted - exactly) / np.sqrt(exactly * (1 - exactly) / 50_000)
print(f"all 120 orders: {abs(deviation).max():.1f} standard deviations off at most,"
      f" {deviation.std():.2f} on the whole")  # fmt: skip

cooling = np.geomspace(3, 0.02, 200).astype(np.float32)
figure, (left, right) = style.card(
    "Three of six classes, never one twice; and the same draw, relaxed", 1, 2, size=(10.3, 3.7)
)
inclusion = [exactly[(orders == i).any(-1)].sum() for i in range(6)]
left.bar(range(6), np.bincount(np.ravel(draw.indices)) / 50_000, color=BLUE, width=0.62,
         label="drawn without replacement")  # fmt: skip
left.plot(range(6), inclusion, "_", color=INK, markersize=24, label="enumerated")
left.plot(range(6), k * p6, "o", color=ORANGE, markersize=5, label="k p, with replacement")
left.set(xlabel="class", ylabel="mean number among the three", ylim=(0, 1.9))
left.legend(fontsize=8.5)
one = jax.random.key(7)
x = jax.vmap(lambda t: js.relaxed_topk(one, z6, k, temperature=t))(cooling)
for i, color in enumerate(style.ordered(6)):
    right.plot(cooling, x[:, i], color=color, label=f"class {i}")
right.set(xscale="log", xlim=(3, 0.02), ylim=(-0.02, 1.03), xlabel="temperature", ylabel="x")
right.set_xticks([1, 0.1], ["1", "0.1"])
right.minorticks_off()
right.legend(fontsize=8.5, loc="center right")
plt.show()
print("relaxed_topk at T = 0:", js.relaxed_topk(one, z6, k, temperature=0.0))
print("gumbel_topk:          ", js.gumbel_topk(one, z6, k).indices)

# %% [markdown]
# ### Exact draws at scale
#
# The textbook draw, `searchsorted(cumsum(p), uniform)`, has in float32 no more than 2²³ outcomes,
# and these can be listed. With many classes some are never drawn, others twice too often, and one
# of probability *zero* can be drawn. `categorical` and `sample_from` sum 64-bit integers.

# %%
K, N = 131_072, 2_000_000
zipf = jnp.concatenate([jnp.zeros(1), 1 / jnp.arange(1.0, K) ** 1.3])
zipf = zipf / zipf.sum()
outcomes = np.arange(2**23, dtype=np.float32) / 2**23
reached = np.cumsum(np.asarray(zipf))
textbook = np.searchsorted(reached, outcomes * reached[-1])
textbook = np.bincount(textbook, minlength=K) / 2**23
drawn = {
    "categorical": js.categorical(jax.random.key(4), jnp.log(zipf), shape=(N,)),
    "sample_from": js.sample_from(jax.random.key(4), zipf, shape=(N,)),
    "AliasTable": js.AliasTable.of(zipf).sample(jax.random.key(4), (N,)),
}
print(f"textbook: {(textbook[1:] == 0).sum():,} of {K:,} classes are never drawn,"
      f" class 0, with p = 0, with probability {textbook[0]:.1e}")  # fmt: skip
figure, ax = style.card(
    "Rare classes: the textbook draw in float32 has no numbers for them", size=(9.5, 3.9)
)
rank = np.arange(20_000, K, 37)
ax.plot(rank, textbook[rank] * 2**23, ".", color=ORANGE, markersize=3, alpha=0.7, markeredgewidth=0,
        label="textbook, exactly")  # fmt: skip
edges = np.linspace(20_000, K, 13).astype(int)
middle = (edges[1:] + edges[:-1]) / 2
ax.plot(np.arange(20_000, K), zipf[20_000:] * 2**23, color=INK, linewidth=1.2, label="p")
marks = zip(drawn.items(), "os^", (BLUE, GREEN, PURPLE), (8, 5, 3), strict=True)
for (name, y), mark, color, markersize in marks:
    counts = np.bincount(y, minlength=K)
    share = np.add.reduceat(counts, edges[:-1]) / np.diff(edges) / N
    ax.plot(middle, share * 2**23, mark, color=color, markersize=markersize,
            markerfacecolor="none", label=f"{name}, drawn")  # fmt: skip
    expected = np.asarray(zipf, float) * N
    common = expected > 20
    off = (counts - expected)[common] / np.sqrt(expected[common])
    print(f"{name:12s} class 0 drawn {counts[0]} times, χ²/{common.sum()} = {(off**2).mean():.3f}")
ax.set(xlabel="class", ylabel="probability ÷ 2⁻²³")
ax.set_xticks([25_000, 75_000, 125_000], ["25,000", "75,000", "125,000"])
ax.legend(fontsize=8.5)
plt.show()

# %% [markdown]
# A sparse distribution is drawn from as it is: `entmax_sparse` lists its few classes, and
# `sample_from` looks at nothing else. A row with nothing to draw gives −1.

# %%
scores = 2 * jax.random.normal(jax.random.key(5), (4, K)).at[3].set(-jnp.inf)
few = js.entmax_sparse(scores, size=64, alpha=1.5)
y = js.sample_from(jax.random.key(6), few, shape=(100_000, 4))
p = js.entmax(scores, 1.5)
for row in range(4):
    zeros = (jnp.where(y[:, row] < 0, 1.0, p[row, y[:, row]]) == 0).sum()
    print(f"row {row}: {(p[row] > 0).sum():2d} of {K:,} classes have p > 0,"
          f" {len(np.unique(y[:, row]))} were drawn, {zeros} times one with p = 0;"
          f" first draws {y[:4, row]}")  # fmt: skip

# %% [markdown]
# ### Truncation
#
# Language models leave the improbable tokens out of a draw. Each mask says which classes stay, and
# is given as `where` to the next one, or to the draw. None of them sorts: a cut is found by sums
# over the row. Of an unsure model top-p keeps nearly two thousand times as many as of a confident
# one, top-k always the same number.

# %%
WORDS = 32_000
noise = jax.random.normal(jax.random.key(8), (2, WORDS))
models = noise * 1.5 + jnp.array([[1.4], [0.5]]) * -2 * jnp.log(jnp.arange(1.0, WORDS + 1))
masks = {
    "top-k, 50": js.top_k_mask(models, 50),
    "top-p, 0.9": js.top_p_mask(models, 0.9),
    "min-p, 0.02": js.min_p_mask(models, 0.02),
    "top-nσ, 2": js.top_n_sigma_mask(models, 2.0),
    "typical, 0.9": js.typical_mask(models, 0.9),
    "η, 0.0006": js.eta_mask(models, 6e-4),
}
ranked = np.sort(js.softmax(models))[:, ::-1]
figure, axes = style.card(
    "How many tokens each mask keeps, of a confident model and of an unsure one",
    1, 2, size=(10, 3.9), sharey=True,
)  # fmt: skip
for ax, name, p, row in zip(axes, ("confident", "unsure"), ranked, range(2), strict=True):
    ax.loglog(np.arange(1, WORDS + 1), p, color=INK, linewidth=1.2)
    for (label, mask), color, mark in zip(
        masks.items(), (BLUE, ORANGE, GREEN, PURPLE, FAINT, INK), "os^Dv*", strict=True
    ):
        kept = int(mask[row].sum())
        ax.plot(kept, p[kept - 1], mark, color=color, markersize=8, label=f"{label}: {kept:,}")
    ax.set(title=name, xlabel="rank of the token")
    ax.legend(fontsize=8.5, loc="lower left")
axes[0].set(ylabel="probability", ylim=(1e-9, 1))
plt.show()

# %% [markdown]
# `sample_token` does all of it for a batch of requests, each with its own settings, and returns the
# log-probability of the token under the truncated and under the whole distribution. A request with
# T = 0 is greedy. `speculative_sample` accepts drafts of a smaller model so that the tokens are
# distributed exactly as the larger one's.

# %%
requests = {
    "greedy": dict(temperature=0.0, k=WORDS, p=1.0, min_p=0.0),
    "nucleus": dict(temperature=1.0, k=WORDS, p=0.9, min_p=0.0),
    "cool": dict(temperature=0.7, k=50, p=0.95, min_p=0.0),
    "min-p": dict(temperature=1.5, k=WORDS, p=1.0, min_p=0.05),
}
settings = {
    name: jnp.array([[request[name]] for request in requests.values()])
    for name in ("temperature", "k", "p", "min_p")
}
batch = jnp.broadcast_to(models[1], (4, WORDS))
answer = js.sample_token(jax.random.key(9), batch, **settings)
for name, token, kept, whole in zip(requests, *answer, strict=True):
    print(f"{name:8s} token {token:6,d}, log p {kept:7.3f} truncated, {whole:7.3f} whole")
p_small, p_large = jax.nn.softmax(models[:, :8])
tokens = js.sample_from(jax.random.key(10), p_small, shape=(100_000, 1))
drafts = jnp.broadcast_to(p_small, (100_000, 1, 8))
target = jnp.broadcast_to(p_large, (100_000, 2, 8))
found = js.speculative_sample(jax.random.key(11), tokens, drafts, target)
share = jnp.bincount(found.tokens[:, 0], length=8) / 100_000
print(
    f"accepted {found.accepted.mean():.3f}, Σ min(p, q) = {jnp.minimum(p_small, p_large).sum():.3f}"
)
print(f"first tokens less p of the target: {jnp.abs(share - p_large).max():.4f} at most")

# %% [markdown]
# ### Distributions
#
# `Categorical` and `RelaxedCategorical` hold scores and a temperature, and are pytrees: arguments,
# carries and results like any array. A sparse `Categorical` has the right entropy at its zeros, and
# a divergence that is infinite exactly where it should be.
#
# Two relaxed distributions are easier to tell apart than their classes, because x says more than
# which of its entries is largest. By how much does not depend on the common T: to make x colder is
# to raise it to a power, which loses nothing.

# %%
dense, sparse = js.Categorical(z6), js.Categorical(z6, alpha=1.5, temperature=1.0)
print("p         ", dense.probabilities(), sparse.probabilities())
print("entropy   ", dense.entropy(), sparse.entropy())
print("divergence", sparse.kl_divergence(dense), dense.kl_divergence(sparse))
y = sparse.sample(jax.random.key(8), (50_000,))
print("−E log p  ", -sparse.log_prob(y).mean(), "from draws")

figure, (left, right) = style.card(
    "Entropy grows with T; the divergence of two relaxed distributions does not change", 1, 2,
    size=(10.3, 3.6),
)  # fmt: skip
warm = np.geomspace(0.05, 30, 120).astype(np.float32)
for (name, alpha), color in zip(
    {"softmax": 1.0, "entmax, α = 1.5": 1.5, "sparsemax": 2.0}.items(),
    (BLUE, ORANGE, GREEN), strict=True,
):  # fmt: skip
    batch = js.Categorical(jnp.tile(z6, (120, 1)), alpha=alpha, temperature=warm[:, None])
    left.plot(warm, batch.entropy(), color=color, label=name)
left.axhline(np.log(6), color=FAINT, linestyle=":", linewidth=1)
style.label(left, warm[0], np.log(6), "log 6", FAINT, (2, -8))
left.set(xscale="log", xlabel="temperature", ylabel="entropy (nats)", ylim=(-0.03, 1.9))
left.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
left.minorticks_off()
left.legend(fontsize=8.5, loc="center right")
taus = np.array([0.2, 0.35, 0.6, 1.0, 1.7, 3.0], np.float32)


@jax.jit
def divergence(tau, key):
    """Monte Carlo, on the logarithm: mean and standard error."""
    y = js.gumbel_log_softmax(key, jnp.broadcast_to(z6, (4000, 6)), tau)
    ratio = js.exp_concrete_log_prob(y, z6, tau) - js.exp_concrete_log_prob(y, -z6, tau)
    return ratio.mean(), ratio.std() / jnp.sqrt(4000)


estimate, error = zip(
    *(divergence(t, jax.random.key(seed)) for seed, t in enumerate(taus)), strict=True
)
right.errorbar(taus, np.array(estimate), 2 * np.array(error), fmt="o", color=PURPLE, markersize=5,
               label="relaxed, by 4,000 draws, ±2σ")  # fmt: skip
classes = dense.kl_divergence(js.Categorical(-z6))
right.axhline(classes, color=BLUE, label="Categorical, exactly")
right.set(xscale="log", xlabel="temperature", ylabel="KL(z ‖ −z), nats", ylim=(0, None))
right.set_xticks([0.3, 1, 3], ["0.3", "1", "3"])
right.minorticks_off()
right.legend(fontsize=8.5, loc="lower right")
plt.show()
relaxed = js.RelaxedCategorical(z6, 0.5)
x = relaxed.sample(jax.random.key(9), (4000,))
ratio = relaxed.log_prob(x) - js.RelaxedCategorical(-z6, 0.5).log_prob(x)
print(f"classes {classes:.3f}; by RelaxedCategorical.log_prob at T = 0.5: {ratio.mean():.3f}")

# %% [markdown]
# ## Acting
#
# ### Policies
#
# Six actions with their estimated values; the last is not allowed. `softmax` explores everything,
# `entmax` only actions that are good enough, `hardmax` nothing. `epsilon_mixture` gives any of
# them a share ε of chance, spread over the *allowed* actions.

# %%
q = jnp.array([1.0, 0.8, 0.35, -0.2, -0.9, 2.0])
legal = jnp.array([True, True, True, True, True, False])
T = 0.5
policies = {
    "softmax": js.softmax(q, where=legal, temperature=T),
    "entmax, α = 1.5": js.entmax(q, where=legal, temperature=T),
    "sparsemax": js.sparsemax(q, where=legal, temperature=T),
    "ε-greedy, ε = 0.2": js.policies.epsilon_mixture(js.hardmax(q, where=legal), 0.2, where=legal),
    "ε-sparsemax": js.policies.epsilon_mixture(
        js.sparsemax(q, where=legal, temperature=T), 0.2, where=legal
    ),
}
figure, axes = style.card("One row of action values, five ways to act", 1, 5, size=(11, 2.9))
for ax, (name, p) in zip(axes, policies.items(), strict=True):
    ax.bar(range(6), p, color=[BLUE] * 5 + [FAINT])
    for i in np.flatnonzero(np.asarray(p) == 0):
        ax.text(i, 0.015, "0", ha="center", fontsize=8.5, color=FAINT if i == 5 else INK)
    ax.set(title=name, ylim=(0, 0.92), xticks=range(6))
    ax.set_xticklabels([f"{v:g}".replace("-", "−") for v in q[:5]] + ["✗ 2"], fontsize=7.5)
    ax.grid(axis="x", visible=False)
    ax.set_axisbelow(True)
    print(f"{name:18s}", np.asarray(p))
axes[0].set_ylabel("probability")
figure.supxlabel("value of the action; ✗ is not allowed", fontsize=10)
plt.show()

# %% [markdown]
# To act is to draw. `sample_action` takes the same arguments and never draws an action of
# probability zero; `log_prob` gives the log-probability of the draw. Here are 100,000 draws beside
# the expected counts.

# %%
options = {"alpha": 2.0, "temperature": T, "epsilon": 0.2, "where": legal}
drawn = js.sample_action(jax.random.key(0), jnp.broadcast_to(q, (100_000, 6)), **options)
log_p = js.policies.log_prob(jnp.broadcast_to(q, (6, 6)), jnp.arange(6), **options)
print("drawn   ", np.bincount(drawn, minlength=6) / 100_000)
print("policy  ", np.exp(log_p))
print("log_prob", log_p)

# %% [markdown]
# ### Temperature
#
# As T falls all of them become greedy. The sparse ones get there at a finite temperature: one
# action after the other leaves, and below the dot only the best is left.

# %%
heats = jnp.geomspace(0.03, 20, 400)
values = q[:5]
figure, axes = style.card(
    "Cold is greedy, hot is uniform; sparse policies are greedy before T = 0", 1, 3,
    size=(10.5, 3.4), sharey=True,
)  # fmt: skip
for ax, (name, alpha) in zip(
    axes, {"softmax": 1.0, "entmax, α = 1.5": 1.5, "sparsemax": 2.0}.items(), strict=True
):
    p = js.entmax(jnp.tile(values, (400, 1)), alpha, temperature=heats[:, None])
    for i, color in enumerate(style.ordered(5)):
        ax.plot(heats, p[:, i], color=color, label=f"{values[i]:g}".replace("-", "−"))
    if alpha > 1:
        greedy = heats[(p[:, 1] > 0).argmax()]
        ax.plot(greedy, 1, "o", color=INK, markersize=4.5, clip_on=False, zorder=5)
        print(
            f"{name:16s} greedy below T = {greedy:.3f},"
            f" the gap to the second times α − 1: {(alpha - 1) * (values[0] - values[1]):.3f}"
        )
    ax.set(title=name, xscale="log", ylim=(0, 1.02), xlabel="temperature")
    ax.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
axes[0].set_ylabel("probability")
axes[2].legend(title="value", loc="upper right", fontsize=8.5)
plt.show()
print(
    "T = 0  ", js.entmax(values, temperature=0.0), " T = ∞ ", js.entmax(values, temperature=np.inf)
)

# %% [markdown]
# A temperature may be an array, one number a row, or come from a schedule: `optax` schedules are
# functions of the step count, so `temperature=schedule(step)` is all there is to it, compiled too.

# %%
schedule = optax.exponential_decay(2.0, transition_steps=10, decay_rate=0.5)


@jax.jit
def at_step(step):
    return js.softmax(values, temperature=schedule(step))


for step in (0, 20, 60):
    print(f"step {step:2d}: T = {schedule(step):.3f}", at_step(step))
print(js.softmax(jnp.stack([values] * 3), temperature=jnp.array([[0.0], [1.0], [np.inf]])))

# %% [markdown]
# ### The value that belongs to a policy
#
# A policy that is paid T times its entropy is worth, at its best,
#
# $$V = \max_p\ \langle p, q\rangle - T\,\Omega_\alpha(p) = T\,\Omega_\alpha^*(q/T),$$
#
# which is `smoothmax`. Its gradient is the policy. So a Bellman equation with it in place of the
# maximum and the policy that acts on it agree for every α: soft at α = 1, sparse at α = 2.

# %%
print("  α    ⟨p, q⟩   T·entropy    sum     smoothmax   |gradient − policy|")
for alpha in (1.0, 1.5, 2.0):
    p = js.entmax(values, alpha, temperature=T)
    value, gradient = jax.value_and_grad(partial(js.smoothmax, alpha=alpha, temperature=T))(values)
    earned, bonus = p @ values, T * js.entropy(p, alpha)
    print(
        f"{alpha:4} {earned:9.4f} {bonus:9.4f} {earned + bonus:10.4f} {value:10.4f}"
        f" {abs(gradient - p).max():15.1e}"
    )

# %% [markdown]
# ### Masks
#
# A forbidden action has probability exactly 0 and passes no gradient, whatever its value is, NaN
# included. In a row where nothing is allowed nothing is drawn: −1.

# %%
rows = jnp.array([[1.0, jnp.nan, 0.5], [0.3, 0.1, 0.2]])
allowed = jnp.array([[True, False, True], [False, False, False]])
log_p, pull = jax.vjp(
    lambda z: js.policies.log_prob(z, jnp.array([2, 1]), alpha=1.5, epsilon=0.1, where=allowed),
    rows,
)
print("log_prob", log_p)
print("gradient", *pull(jnp.ones(2)))
print("drawn   ", js.sample_action(jax.random.key(1), rows, epsilon=0.1, where=allowed))
try:
    js.sample_action(0, rows)
except TypeError as error:
    print("TypeError:", error)

# %% [markdown]
# ### Mellowmax
#
# The expected value under `softmax` looks like a smooth maximum, but its slope leaves [0, 1]: a
# Bellman operator with it need not contract. Mellowmax is the logarithm of a *mean* of
# exponentials. It runs from minimum to mean to maximum as ω runs from −∞ to 0 to ∞, its slopes are
# a distribution, and so it is a non-expansion.

# %%
omega = jnp.linspace(-12, 12, 241)
x = jnp.linspace(-6, 6, 241)
figure, (left, right) = style.card(
    "Mellowmax: from minimum to maximum, with slopes that are probabilities", 1, 2, size=(10, 3.7)
)
left.plot(omega, jax.vmap(js.mellowmax, (None, 0))(values, omega), color=BLUE)
for name, level in {"max": values.max(), "mean": values.mean(), "min": values.min()}.items():
    left.axhline(level, color=FAINT, linewidth=1, linestyle=":")
    style.label(left, -12, level, name, shift=(2, 6))
left.plot(0, values.mean(), "o", color=BLUE, markersize=5)
left.set(xlabel="ω", ylabel="mellowmax of the five values", ylim=(-1.05, 1.2))


def expected(x):
    z = jnp.stack([x, 0.0])
    return js.softmax(z) @ z


def mellow(x):
    return js.mellowmax(jnp.stack([x, 0.0]), 1.0)


right.axhspan(0, 1, color=GREEN, alpha=0.08, linewidth=0)
for name, function, color, at in (
    ("expected value", expected, ORANGE, 96),
    ("mellowmax", mellow, BLUE, 138),
):
    slope = jax.vmap(jax.grad(function))(x)
    right.plot(x, slope, color=color)
    style.label(right, x[at], slope[at], name, color, (9, -5))
    print(f"{name:15s} slopes from {slope.min():.3f} to {slope.max():.3f}")
right.set(xlabel="x, beside an action of value 0", ylabel="slope in x, at ω = β = 1")
plt.show()

# %% [markdown]
# Its policy is the softmax that has the mellowmax as its expected value: of all policies with that
# value the one with the largest entropy. Mellowmax is the average of expected values over β from 0
# to ω, so the root β lies between, and is ω/2 for values that are close together.

# %%
spread = jnp.geomspace(0.01, 300, 200)
figure, ax = style.card("The wider the values, the hotter mellowmax's policy", size=(8, 3.4))
for w, color in zip((1.0, 4.0), style.ordered(3), strict=False):
    beta = jax.vmap(lambda s, w=w: 1 / js.mellowmax_temperature(s * values, w)[0])(spread)
    ax.plot(spread, beta / w, color=color)
    style.inline(ax, spread[110], beta[110] / w, f"ω = {w:g}", color)
    p = js.softmax(values, temperature=js.mellowmax_temperature(values, w))
    print(
        f"ω = {w:g}: ⟨p, q⟩ = {p @ values:.6f}, mellowmax = {js.mellowmax(values, w):.6f}, p =", p
    )
ax.set(xscale="log", ylim=(0, 0.6), xlabel="factor on the five values", ylabel="β/ω")
plt.show()

# %% [markdown]
# ### Near a reference
#
# Improve on a policy μ, the old one or a pretrained one, without leaving it far behind:
#
# $$\max_π ⟨π, q⟩ - T\,\mathrm{KL}(π‖μ), \qquad π_a = \frac{μ_a e^{q_a/T}}{Z}, \qquad
# \text{value } T \log Z = T\log\sum_a μ_a e^{q_a/T}.$$
#
# That is `softmax` with `prior=μ`, and its value is `smoothmax`. At T = ∞ it is μ, at T = 0 greedy
# among the actions that μ takes; one that μ never takes it never takes. `sample_action` and
# `log_prob` take the same prior.

# %%
reference = jnp.array([0.02, 0.1, 0.4, 0.3, 0.18])
heats = jnp.geomspace(0.03, 30, 200)
nearest = js.softmax(jnp.tile(values, (200, 1)), prior=reference, temperature=heats[:, None])
figure, (left, right) = style.card(
    "Between the reference and greed, and no policy is better at its distance", 1, 2, size=(10, 3.7)
)
for action, color in enumerate(style.ordered(5)):
    left.plot(heats, nearest[:, action], color=color, label=f"{values[action]:g}".replace("-", "−"))
left.set(xscale="log", xlabel="temperature", ylabel="probability")
left.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
left.minorticks_off()
left.legend(title="value", fontsize=8.5, loc="upper right", bbox_to_anchor=(1, 1.02))
others = js.softmax(2 * jax.random.normal(jax.random.key(4), (4000, 5)))
for p, style_of in (
    (others, {"marker": ".", "ls": "", "color": FAINT, "ms": 3, "label": "random policies"}),
    (nearest, {"color": BLUE, "label": "softmax, prior = reference"}),
    (js.softmax(jnp.tile(values, (200, 1)), temperature=heats[:, None]),
     {"color": ORANGE, "ls": "--", "label": "softmax without a prior"}),
):  # fmt: skip
    right.plot(js.policies.kl_divergence(p, reference[None]), p @ values, **style_of)
right.set(xlabel="KL from the reference (nats)", ylabel="expected value", xlim=(-0.05, 4.1))
right.legend(fontsize=8.5, loc="lower right")
plt.show()

p = js.softmax(values, prior=reference, temperature=0.5)
value = p @ values - 0.5 * js.policies.kl_divergence(p, reference)
best = js.smoothmax(values, prior=reference, temperature=0.5)
print(f"T = 0.5: ⟨π, q⟩ − T KL = {value:.6f}, smoothmax = {best:.6f}, π =", p)
for _ in range(3):
    p = js.softmax(values, prior=p, temperature=0.5)
print("three improvements more, each near the last:", p)
print("one at T/4:                                 ", js.softmax(
    values, prior=reference, temperature=0.5 / 4))  # fmt: skip
print("sparse, α = 1.5, near the reference at T = 1:", js.entmax(values, 1.5, prior=reference))

# %% [markdown]
# ### Learning a policy
#
# An actor-critic loss needs the log-probability of the action, an entropy bonus, a divergence from
# the old policy, and the ratio of the two. Each is a function, safe at zeros: an
# action that a sparse policy does not take has log-probability −∞ and gradient 0.

# %%
old, new = jnp.array([1.0, 0.2, -1.0]), jnp.array([0.2, 1.0, -3.0])
before, after = js.sparsemax(old), js.sparsemax(new)
print("old, new       ", before, after)
print("KL(old ‖ new)  ", js.policies.kl_divergence(before, after))
print("to softmax(new)", js.policies.kl_divergence(before, js.softmax(new)), "as a loss:", end=" ")
print(js.fenchel_young_loss(new, before))
tiled = jnp.tile(new, (3, 1)), jnp.tile(old, (3, 1))
log_new, log_old = (js.policies.log_prob(z, jnp.arange(3), alpha=2.0) for z in tiled)
print("log π, log μ   ", log_new, log_old)
print("ratio          ", js.policies.importance_ratio(log_new, log_old))
print("clipped        ", js.policies.importance_ratio(log_new, log_old, low=0.8, high=1.2))
print("gradient of −∞ ", jax.grad(js.policies.log_prob)(new, 2, alpha=2.0))

# %% [markdown]
# A policy gradient by optax: five arms, their mean rewards unknown to the learner, 32 draws a step,
# the batch mean as baseline, and an entropy bonus. With softmax the probability of the bad arms
# fades; a sparse policy drops them, and then learns nothing more about them.

# %%
ARMS = jnp.array([0.0, 0.3, 0.6, 0.9, 1.0])


@partial(jax.jit, static_argnums=0)
def learn(alpha, key, bonus=0.02):
    optimizer = optax.sgd(0.5)

    def step(carry, key):
        z, state = carry
        act, noise = jax.random.split(key)
        batch = jnp.broadcast_to(z, (32, 5))
        actions = js.sample_action(act, batch, alpha=alpha)
        rewards = ARMS[actions] + jax.random.normal(noise, (32,))
        advantage = rewards - rewards.mean()

        def loss(z):
            log_p = js.policies.log_prob(jnp.broadcast_to(z, (32, 5)), actions, alpha=alpha)
            return -(advantage * log_p).mean() - bonus * js.entropy(js.entmax(z, alpha), alpha)

        updates, state = optimizer.update(jax.grad(loss)(z), state)
        return (optax.apply_updates(z, updates), state), js.entmax(z, alpha)

    start = jnp.zeros(5)
    return jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, 300))[1]


figure, axes = style.card("The same policy gradient, dense and sparse", 1, 2, size=(10, 3.4))
for ax, (name, alpha) in zip(axes, {"softmax": 1.0, "entmax, α = 1.5": 1.5}.items(), strict=True):
    p = learn(alpha, jax.random.key(3))
    for arm, color in enumerate(style.ordered(5)):
        ax.plot(p[:, arm], color=color, label=f"{ARMS[arm]:.1f}")
    ax.set(title=name, xlabel="step", ylim=(-0.01, 1.02), xlim=(0, 300))
    print(f"{name:16s} final policy", p[-1], f" expected reward {p[-1] @ ARMS:.3f}")
axes[0].set_ylabel("probability of each arm")
axes[1].legend(title="mean reward", loc="upper right", bbox_to_anchor=(1, 0.9), fontsize=8.5)
plt.show()

# %% [markdown]
# ### A bandit
#
# Ten arms with means drawn from N(0, 1), rewards with unit noise, posterior means as beliefs. Each
# way of exploring plays 300 such bandits for 1,000 pulls, at every temperature (or ε). The regret
# is its loss against always pulling the best arm.

# %%
RUNS, PULLS = 300, 1000
HEATS = 0.02 * 2.0 ** np.arange(9)
EXPLORERS = {
    "softmax": lambda x: {"alpha": 1.0, "temperature": x},
    "entmax, α = 1.5": lambda x: {"alpha": 1.5, "temperature": x},
    "sparsemax": lambda x: {"alpha": 2.0, "temperature": x},
    "ε-greedy": lambda x: {"temperature": 0.0, "epsilon": jnp.minimum(x, 1.0)},
}
means = jax.random.normal(jax.random.key(0), (RUNS, 10))


@partial(jax.jit, static_argnums=0)
def play(explorer, heats, key):
    """The regret of every pull, [heats or 1, pulls, runs]; `heats` may change from pull to pull."""

    def run(heats):
        def pull(memory, now):
            heat, key = now
            rewards, pulls = memory
            act, noise = jax.random.split(key)
            arm = js.sample_action(act, rewards / (pulls + 1), **explorer(heat))
            hit = jax.nn.one_hot(arm, 10)
            mean = (means * hit).sum(-1)
            reward = mean + jax.random.normal(noise, mean.shape)
            return (rewards + hit * reward[:, None], pulls + hit), means.max(-1) - mean

        nothing = jnp.zeros_like(means)
        return jax.lax.scan(pull, (nothing, nothing), (heats, jax.random.split(key, PULLS)))[1]

    return jax.vmap(run)(heats)


def constant(heats):
    return jnp.broadcast_to(jnp.asarray(heats, jnp.float32)[:, None], (len(heats), PULLS))


figure, (left, right) = style.card(
    "Too cold gets stuck, too hot never decides; every way has its temperature", 1, 2,
    size=(10.5, 4.1),
)  # fmt: skip
colors = dict(zip(EXPLORERS, (BLUE, ORANGE, GREEN, PURPLE), strict=True))
for name, explorer in EXPLORERS.items():
    heats = HEATS[HEATS <= 1] if name == "ε-greedy" else HEATS
    regret = np.asarray(play(explorer, constant(heats), jax.random.key(1)))
    total = regret.sum(1)
    mean, error = total.mean(-1), total.std(-1, ddof=1) / np.sqrt(RUNS)
    best = mean.argmin()
    left.fill_between(heats, mean - error, mean + error, color=colors[name], alpha=0.18, lw=0)
    left.plot(heats, mean, color=colors[name], label=name)
    left.plot(heats[best], mean[best], "o", color=colors[name], markersize=5)
    right.plot(regret[best].mean(-1).cumsum(), color=colors[name])
    print(f"{name:16s} least regret {mean[best]:5.0f} ± {error[best]:.0f} at {heats[best]:.2f}")
cooling = optax.exponential_decay(0.6, 400, 0.1, end_value=0.03)(jnp.arange(PULLS))
regret = np.asarray(play(EXPLORERS["softmax"], cooling[None], jax.random.key(1)))[0]
total = regret.sum(0)
print(f"{'softmax, cooled':16s}       regret {total.mean():5.0f} ± {total.std() / RUNS**0.5:.0f}")
right.plot(regret.mean(-1).cumsum(), color=BLUE, linestyle="--")
left.plot([], [], color=BLUE, linestyle="--", label="softmax, cooled")
left.set(
    xscale="log", ylim=(0, None), xlabel="temperature, or ε", ylabel="regret after 1,000 pulls"
)
left.set_xticks([0.02, 0.1, 0.5, 2], ["0.02", "0.1", "0.5", "2"])
left.minorticks_off()
left.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(0.02, 1))
right.set(ylim=(0, None), xlabel="pulls", ylabel="regret so far, at the best heat")
plt.show()

# %% [markdown]
# A sparse policy needs a higher temperature than softmax, since it must keep an arm in its support
# to learn that it was wrong about it: an arm that is dropped too early is never tried again.
# Cooling down while one learns helps most.

# %% [markdown]
# ### A gridworld
#
# Walk from S to G (+1), and not into X (−1). A step costs 0.01, the discount is 0.95, and one move
# in five goes astray to a side. Moves into walls are not allowed: that is the mask. Value
# iteration runs with `smoothmax`, the policy is its gradient, `entmax`.

# %%
MAP = ("S..#....", ".#...##.", ".#.#..#.", "...#X...", ".#...#..", "...#...G")
states, width = sum(map(len, MAP)), len(MAP[0])
cells = "".join(MAP)


def after(state, move):
    i, j = state // width + grid.MOVES[move][0], state % width + grid.MOVES[move][1]
    inside = 0 <= i < len(MAP) and 0 <= j < width and MAP[i][j] != "#"
    return i * width + j if inside else None


move, reward = np.zeros((states, 4, states)), np.zeros((states, 4))
allowed = np.zeros((states, 4), bool)
for s in (s for s in range(states) if cells[s] in ".S"):
    for a in range(4):
        allowed[s, a] = after(s, a) is not None
        for turn, share in ((0, 0.8), (1, 0.1), (3, 0.1)):
            there = after(s, (a + turn) % 4)
            there = s if there is None else there
            move[s, a, there] += share
            reward[s, a] += share * ({"G": 1.0, "X": -1.0}.get(cells[there], 0) - 0.01)


@partial(jax.jit, static_argnums=0)
def solve(alpha, temperature):
    """Values, policy and sweeps, until the values stand still to 1e-6."""
    options = {"temperature": temperature, "where": allowed}

    def q(v):
        return jnp.asarray(reward) + 0.95 * jnp.asarray(move) @ v

    def sweep(carry):
        v, _, count = carry
        new = jnp.where(allowed.any(-1), js.smoothmax(q(v), alpha, **options), 0)
        return new, abs(new - v).max(), count + 1

    start = (jnp.zeros(states), jnp.inf, 0)
    v, _, count = jax.lax.while_loop(lambda carry: carry[1] > 1e-6, sweep, start)
    return v, js.entmax(q(v), alpha, **options), count


def returns(policy):
    """The policy's return from the start, rewards alone."""
    step = np.einsum("sa,sat->st", policy, move)
    return np.linalg.solve(np.eye(states) - 0.95 * step, (policy * reward).sum(-1))[0]


figure, axes = style.card(
    "The same temperature, T = 0.05: softmax wanders, sparse policies decide",
    2,
    2,
    size=(10.5, 8.4),
)
ways = {"softmax": (1.0, 0.05), "entmax, α = 1.5": (1.5, 0.05), "sparsemax": (2.0, 0.05)}
ways["greedy"] = (1.0, 0.0)
decides = allowed.any(-1)
for ax, (name, way) in zip(axes.flat, ways.items(), strict=True):
    v, policy, count = map(np.asarray, solve(*way))
    support = (policy > 0).sum(-1)[decides].mean()
    grid.policy(ax, MAP, v, policy)
    earned = f"{returns(policy):.2f}".replace("-", "−")
    ax.set_title(f"{name}: {support:.2f} moves a cell, return {earned}")
    print(f"{name:16s} {count:3d} sweeps, return {returns(policy):6.3f}, value of S {v[0]:6.3f}")
plt.show()

# %% [markdown]
# Shade is value, the number in a cell counts the moves with positive probability. At this
# temperature softmax is paid more for wandering than for arriving. Over all temperatures:

# %%
heats = np.geomspace(0.005, 0.3, 13)
figure, (left, right) = style.card(
    "A sparse policy holds the optimum at a temperature, not only in the limit",
    1,
    2,
    size=(10, 3.7),
)
best = returns(np.asarray(solve(1.0, 0.0)[1]))
left.axhline(best, color=FAINT, linestyle=":", linewidth=1)
style.label(left, heats[0], best, "greedy", shift=(2, 6))
for (name, (alpha, _)), color in zip(list(ways.items())[:3], (BLUE, ORANGE, GREEN), strict=True):
    solved = [np.asarray(solve(alpha, t)[1]) for t in heats]
    left.plot(heats, [returns(policy) for policy in solved], color=color, label=name)
    right.plot(heats, [(policy > 0).sum(-1)[decides].mean() for policy in solved], color=color)
for ax in (left, right):
    ax.set(xscale="log", xlabel="temperature")
    ax.set_xticks([0.01, 0.03, 0.1, 0.3], ["0.01", "0.03", "0.1", "0.3"])
    ax.minorticks_off()
left.set_ylabel("return from S")
right.set(ylabel="moves with p > 0 in a cell", ylim=(0.9, 2.5))
left.legend(fontsize=8.5, loc="lower left")
plt.show()
