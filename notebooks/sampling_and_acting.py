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
# To act is to draw from a policy, a distribution over actions; every mapping of the library makes
# one from action values, and the temperature says how much is left to chance.
#
# 1. [Policies](#Policies) from one row of action values
# 2. [Temperature](#Temperature), from greedy to uniform, as a number, an array or a schedule
# 3. [Values](#The-value-that-belongs-to-a-policy): the smooth maximum whose gradient is the policy
# 4. [Masks](#Masks): what is not allowed does not happen
# 5. [Mellowmax](#Mellowmax), a smooth maximum that contracts
# 6. [Learning a policy](#Learning-a-policy): log-probabilities, ratios, divergences
# 7. [A bandit](#A-bandit): regret against temperature
# 8. [A gridworld](#A-gridworld): soft, sparse and greedy value iteration

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from drawing import grid, style
from drawing.style import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE

import jsoftmax as js

style.use()
np.set_printoptions(precision=4, suppress=True, linewidth=100)

# %% [markdown]
# ## Acting
#
# ### Policies
#
# Six actions and what they are believed to be worth; the last is not allowed. `softmax` explores
# everything, `entmax` only what is good enough, `hardmax` nothing. `epsilon_mixture` gives any of
# them a share ε of chance, spread over the *allowed* actions.

# %%
q = jnp.array([1.0, 0.8, 0.35, -0.2, -0.9, 2.0])
legal = jnp.array([True, True, True, True, True, False])
T = 0.5
policies = {
    "softmax": js.softmax(q, where=legal, temperature=T),
    "entmax, α = 1.5": js.entmax(q, where=legal, temperature=T),
    "sparsemax": js.sparsemax(q, where=legal, temperature=T),
    "ε-greedy, ε = 0.2": js.epsilon_mixture(js.hardmax(q, where=legal), 0.2, where=legal),
    "ε-sparsemax": js.epsilon_mixture(
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
# To act is to draw. `sample_action` takes the same arguments, never draws what has probability
# zero, and `log_prob` says how probable the draw was. Here 100,000 draws beside what is expected.

# %%
options = {"alpha": 2.0, "temperature": T, "epsilon": 0.2, "where": legal}
drawn = js.sample_action(jax.random.key(0), jnp.broadcast_to(q, (100_000, 6)), **options)
log_p = js.log_prob(jnp.broadcast_to(q, (6, 6)), jnp.arange(6), **options)
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
    lambda z: js.log_prob(z, jnp.array([2, 1]), 1.5, epsilon=0.1, where=allowed), rows
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
# Its policy is the softmax whose expected value *is* the mellowmax: of all policies with that
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
# ### Learning a policy
#
# What an actor-critic loss needs: the log-probability of what was done, an entropy bonus, a
# divergence from the old policy, and the ratio of the two. Each is a function, safe at zeros: an
# action that a sparse policy does not take has log-probability −∞ and gradient 0.

# %%
old, new = jnp.array([1.0, 0.2, -1.0]), jnp.array([0.2, 1.0, -3.0])
before, after = js.sparsemax(old), js.sparsemax(new)
print("old, new       ", before, after)
print("KL(old ‖ new)  ", js.kl_divergence(before, after))
print("to softmax(new)", js.kl_divergence(before, js.softmax(new)), "as a loss:", end=" ")
print(js.fenchel_young_loss(new, before))
tiled = jnp.tile(new, (3, 1)), jnp.tile(old, (3, 1))
log_new, log_old = (js.log_prob(z, jnp.arange(3), 2.0) for z in tiled)
print("log π, log μ   ", log_new, log_old)
print("ratio          ", js.importance_ratio(log_new, log_old))
print("clipped        ", js.importance_ratio(log_new, log_old, low=0.8, high=1.2))
print("gradient of −∞ ", jax.grad(js.log_prob)(new, 2, 2.0))

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
        actions = js.sample_action(act, batch, alpha)
        rewards = ARMS[actions] + jax.random.normal(noise, (32,))
        advantage = rewards - rewards.mean()

        def loss(z):
            log_p = js.log_prob(jnp.broadcast_to(z, (32, 5)), actions, alpha)
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
# is what it lost against always pulling the best arm.

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
# to learn that it was wrong about it: an arm that is dropped too early is never tried again. What
# helps most is to cool down while one learns.

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
    """What the policy earns from the start, rewards alone."""
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
