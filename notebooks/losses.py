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
# # Losses
#
# A mapping turns scores into probabilities; its *Fenchel–Young loss* says how far these are from
# the target,
#
# $$L_\alpha(z, y) = \Omega_\alpha^*(z) + \Omega_\alpha(y) - \langle y, z\rangle \ge 0,$$
#
# and is zero exactly when p = y. Its gradient in the scores is p − y, its Hessian the Jacobian of
# the mapping. At α = 1 it is cross-entropy, at α = 2 the sparsemax loss.
#
# 1. [Along a margin](#along-a-margin): value, gradient, and where they end
# 2. [Laws](#laws-checked): zero, gradient, Hessian, convexity
# 3. [Do not minimise over α](#a-loss-must-not-be-minimised-over-its-own-α)
# 4. [Numbers](#where-the-textbook-form-fails) that the textbook form gets wrong
# 5. [Targets and rows](#targets-rows-and-weights): distributions, smoothing, masks, weights
# 6. [Other predictions](#normmax-and-k-classes-at-once): normmax, k classes at once
# 7. [Training](#training): four losses on one problem
# 8. [Rare classes](#rare-classes): balanced softmax, and logit adjustment
# 9. [Pairs, and margins](#pairs-and-margins): contrastive losses, ArcFace
# 10. [Experts](#experts): routing, balanced with a loss and without

# %%
from decimal import Decimal, localcontext
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from drawing import simplex, style
from drawing.style import BLUE, FAINT, INK, ORANGE
from sklearn.datasets import load_digits

import jsoftmax as js

style.use()
np.set_printoptions(precision=4, suppress=True, linewidth=100)

# α is traced: one program for the whole family.
loss = jax.jit(js.entmax_loss)

# %% [markdown]
# ## Along a margin
#
# Two classes, the target 0, and the margin m = z₀ − z₁. For α > 1 the loss is exactly zero once
# the margin reaches 1/(α−1): an example that is right by enough stops teaching. At α = 1 it never
# stops. Far on the wrong side every member grows like −m, and its gradient is −1.

# %%
ALPHAS = (1.0, 1.25, 1.5, 2.0, 3.0)
margin = jnp.linspace(-3, 5, 801)
pairs = jnp.stack([margin, jnp.zeros_like(margin)], -1)
targets = jnp.zeros(801, int)
both = jax.jit(
    jax.vmap(jax.value_and_grad(lambda m, a: js.entmax_loss(jnp.stack([m, 0 * m]), 0, alpha=a)),
             (0, None))
)  # fmt: skip

figure, (left, right) = style.card(
    "Right by 1/(α−1) is right enough: value and gradient end there", 1, 2, size=(9.8, 4.2)
)
for alpha, color in zip(ALPHAS, style.ordered(5), strict=True):
    value, slope = both(margin, alpha)
    left.plot(margin, value, color=color)
    right.plot(margin, slope, color=color)

    style.inline(left, 0, value[300], f"α = {alpha:g}", color, fontsize=8)
    if alpha > 1:
        edge = 1 / (alpha - 1)
        right.plot(edge, 0, "o", color=color, markersize=5, clip_on=False)
        style.label(right, edge, 0, f"{alpha:g}", color, (0, 11), ha="center", fontsize=8.5)
        print(
            f"α = {alpha:4}: loss > 0 up to margin {margin[value > 0].max():.2f},"
            f" 1/(α−1) = {edge:.2f}"
        )
    else:
        style.label(right, 4, slope[700], "α = 1", color, (0, -9), ha="center", fontsize=8.5)
        print(f"α = 1.0 : loss {value[-1]:.4f} at margin 5, and never 0")
left.set_xlim(-2, 4.6)
left.set_ylim(-0.05, 2.2)
left.set_ylabel("loss (nats at α = 1)")
right.set_ylabel("∂ loss / ∂ margin")
right.set_ylim(-1.03, 0.12)
for ax in (left, right):
    ax.set_xlabel("margin z₀ − z₁ (units of the scores)")
plt.show()

# %% [markdown]
# On three classes, over the score plane: the loss is zero on the white set, where the mapping is
# certain.

# %%
x = np.linspace(-2.6, 2.6, 201)
plane = simplex.scores(np.stack(np.meshgrid(x, x), -1)).astype(np.float32)
figure, axes = style.card(
    "Target: class 3. For α > 1 a whole region is right enough", 1, 3, size=(9.8, 3.7)
)
for ax, alpha in zip(axes, (1.0, 1.5, 2.0), strict=True):
    value = np.asarray(loss(plane, jnp.full((201, 201), 2), alpha=alpha))
    levels = np.arange(0, 4.6, 0.5)
    shown = ax.contourf(x, x, value, levels, cmap="Blues", extend="max")
    lines = ax.contour(x, x, value, levels[1:], colors=INK, linewidths=0.5)
    ax.clabel(lines, levels[2:5:2], fontsize=8)
    if alpha > 1:
        ax.contourf(x, x, value == 0, [0.5, 1.5], colors=["white"])
        ax.text(0, 2.1, "loss 0", ha="center", va="center", fontsize=9)
    for i, corner in enumerate(simplex.CORNERS):
        ax.text(*(corner * 1.6), str(i + 1), color=simplex.HUES[i], ha="center", va="center",
                fontsize=11, fontweight="bold", bbox={"boxstyle": "circle", "fc": "white",
                                                     "ec": "none", "pad": 0.15})  # fmt: skip
    simplex.bare(ax)
    ax.set_title(f"α = {alpha:g}")
plt.show()

# %% [markdown]
# ## Laws, checked
#
# On 1,000 random rows of 6 scores with random targets, sparse ones among them.

# %%
z = 1.5 * jax.random.normal(jax.random.key(0), (1000, 6))
y = js.sparsemax(jax.random.normal(jax.random.key(1), (1000, 6)))
other = z + jax.random.normal(jax.random.key(2), z.shape)


@jax.jit
def laws(alpha):
    def one(z, y):
        return js.entmax_loss(z, y, alpha=alpha)

    p = js.entmax(z, alpha)
    gradient = jax.vmap(jax.grad(one))(z, y)
    hessian = jax.vmap(jax.hessian(one))(z, y)
    jacobian = jax.vmap(jax.jacfwd(lambda z: js.entmax(z, alpha)))(z)
    value, there = one(z, y), one(other, y)
    below_tangent = value + (gradient * (other - z)).sum(-1) - there
    return (
        value.min(),
        one(z, p).max(),
        jnp.abs(gradient - (p - y)).max(),
        jnp.abs(hessian - jacobian).max(),
        below_tangent.max(),
    )


LAWS = ("smallest loss", "loss at y = p", "|∇L − (p − y)|", "|∇²L − J|", "tangent above")
results = {alpha: laws(alpha) for alpha in (0.5, 1.0, 1.5, 2.0)}
print(f"{'α':18s}" + "".join(f"{alpha:12.1f}" for alpha in results))
for law, *values in zip(LAWS, *results.values(), strict=True):
    print(f"{law:18s}" + "".join(f"{float(value):12.1e}" for value in values))

# %% [markdown]
# "Tangent above" is how far a tangent plane rises above the loss anywhere: not at all, but for
# rounding, so the loss is convex.
#
# ## A loss must not be minimised over its own α
#
# α of a *mapping* can be learned: put it in a hidden layer, under a loss of its own. α of the
# *loss* cannot: for a one-hot target the loss falls as α grows, whatever the scores are, so the
# optimiser turns the dial instead of learning. The derivative is right; the question is wrong.

# %%
ROWS = {
    "right by 2": (2.0, 0.0, -0.5),
    "undecided": (0.0, 0.0, 0.0),
    "wrong by 1": (0.0, 1.0, -1.0),
    "wrong by 3": (-1.0, 2.0, 0.5),
}
alphas = jnp.geomspace(0.4, 12, 201)
along = jax.jit(
    jax.vmap(jax.value_and_grad(lambda z, a: js.entmax_loss(z, 0, alpha=a), 1), (None, 0))
)
figure, ax = style.card("Whatever the scores, the loss falls with its own α", size=(8, 3.9))
for (name, row), color in zip(ROWS.items(), style.ordered(4), strict=True):
    values, slopes = along(jnp.array(row), alphas)
    ax.plot(alphas, values, color=color)
    at = {"right by 2": 40, "undecided": 110, "wrong by 1": 170, "wrong by 3": 170}[name]
    style.inline(ax, alphas[at], values[at], name, color)
    print(
        f"{name:11s} L at α = 0.4: {values[0]:6.3f}, at 12: {values[-1]:6.3f};"
        f" largest ∂L/∂α {slopes.max():.1e}"
    )
ax.set_xscale("log")
ax.set_xticks([0.5, 1, 1.5, 2, 4, 8], ["½", "1", "1.5", "2", "4", "8"])
ax.minorticks_off()
ax.set_xlim(0.38, 12.5)
ax.set_xlabel("α of the loss (target: class 0)")
ax.set_ylabel("loss")
plt.show()

# %% [markdown]
# ## Where the textbook form fails
#
# Cross-entropy as logsumexp − logit is a difference of large numbers. When the target leads by a
# gap, −log p is about $e^{-\text{gap}}$, and the difference rounds it to nothing: the example stops
# teaching long before it should. The library sums non-negative terms only, so there is nothing to
# cancel. The exact values are computed with 60 decimal digits.


# %%
def exact(logits, target):
    """Cross-entropy of the float32 logits themselves."""
    with localcontext() as context:
        context.prec = 60
        z = [Decimal(float(x)) for x in np.asarray(logits, np.float32)]
        return float(sum((x - z[target]).exp() for x in z).ln())


theirs = jax.jit(optax.softmax_cross_entropy_with_integer_labels)
ours = jax.jit(js.cross_entropy)
print("gap      exact        jsoftmax     relative error   optax        relative error")
for gap in (5, 10, 15, 16, 17, 20, 30, 45, 60):
    row = jnp.array([0.0, gap])
    truth, mine, yours = exact(row, 1), float(ours(row, 1)), float(theirs(row, jnp.array(1)))
    print(
        f"{gap:3d}   {truth:11.4e}  {mine:11.4e}  {abs(mine / truth - 1):11.1e}"
        f"      {yours:11.4e}  {abs(yours / truth - 1):11.1e}"
    )

print("\noffset   (0, 1, −1) + offset, in float32     exact       jsoftmax    optax")
for offset in (0.0, 1e3, 1e5, 1e6, 1e7):
    row = jnp.array([0.0, 1.0, -1.0]) + offset
    shown = "(" + ", ".join(f"{x:.0f}" for x in row) + ")"
    mine, yours = float(ours(row, 0)), float(theirs(row, jnp.array(0)))
    print(f"{offset:7.0e}  {shown:34s} {exact(row, 0):.7f}   {mine:.7f}   {yours:.7f}")

# %%
gaps = np.arange(0.0, 61.0, 0.5)
rows = jnp.stack([jnp.zeros(len(gaps)), jnp.asarray(gaps, jnp.float32)], -1)
ones = jnp.ones(len(gaps), int)
truth = np.array([exact(row, 1) for row in rows])
figure, ax = style.card("A float32 loss need not end at a gap of 15", size=(8, 3.7))
ax.plot(gaps, truth, color=FAINT, linewidth=5, alpha=0.5)
ax.plot(gaps, ours(rows, ones), color=BLUE)
them = np.asarray(theirs(rows, ones))
ax.plot(gaps[them > 0], them[them > 0], color=ORANGE)
ax.plot(gaps[them > 0][-1], them[them > 0][-1], "o", color=ORANGE, markersize=5)
end = gaps[them > 0][-1], them[them > 0][-1]
style.label(ax, *end, "logsumexp − logit (optax): 0 from here on", ORANGE, (9, 7))
style.label(ax, 40, truth[80], "exact (grey) and jsoftmax", BLUE, (8, 8))
ax.set_yscale("log")
ax.set_xlabel("gap between the target's score and the other (nats)")
ax.set_ylabel("cross-entropy (nats)")
plt.show()
print("last gap with a loss above 0:", gaps[them > 0][-1], "(optax),", gaps[-1], "(jsoftmax)")

# %% [markdown]
# The same holds for the other members. Close to the end of the margin the sparsemax loss of two
# classes is d²/4, where d is the distance to the margin 1; the textbook form, here in float32,
# loses it in the rounding of its terms.


# %%
@jax.jit
def both_forms(z):
    p = js.sparsemax(z)
    textbook = (p * z).sum() - 0.5 * ((p * p).sum() - 1) - z[0]
    return js.sparsemax_loss(z, 0), textbook


print("missing        exact       jsoftmax    textbook")
for missing in (2.0**-4, 2.0**-8, 2.0**-12):
    row = jnp.array([1 - missing, 0.0])
    mine, book = map(float, both_forms(row))
    print(f"{missing:10.2e} {missing**2 / 4:11.4e} {mine:11.4e} {book:11.4e}")

# %% [markdown]
# ## Targets, rows and weights
#
# A target is a class or a distribution. At α = 1 a distribution has two natural losses, which
# differ by a constant of the scores: `cross_entropy` is the expected −log p, and
# `fenchel_young_loss` the divergence KL(y‖p), which is zero when p = y.

# %%
z = jnp.array([1.0, 0.5, -1.0])
y = jnp.array([0.2, 0.7, 0.1])
print("cross-entropy        ", js.cross_entropy(z, y), " optax:", optax.softmax_cross_entropy(z, y))
print("KL(y‖p)              ", js.fenchel_young_loss(z, y))
print("difference, H(y)     ", js.cross_entropy(z, y) - js.fenchel_young_loss(z, y), js.entropy(y))
print("KL at p = y          ", js.fenchel_young_loss(jnp.log(y), y))

# %% [markdown]
# Label smoothing mixes the target with equal shares. It keeps the minimum at a finite score: below,
# two classes, the loss against the margin, with its minimum marked.

# %%
smoothed = jax.jit(lambda s: js.cross_entropy(pairs, targets, label_smoothing=s))
figure, ax = style.card("Smoothing puts the minimum at a finite margin", size=(8, 3.5))
for s, color in zip((0.0, 0.05, 0.2, 0.5), style.ordered(4), strict=True):
    value = smoothed(s)
    best = int(jnp.argmin(value))
    ax.plot(margin, value, color=color)
    shift = {0.0: -3, 0.05: 4}.get(s, 0)
    style.label(ax, 5, value[-1], f"smoothing {s:g}", color, (5, shift))
    if s > 0:
        ax.plot(margin[best], value[best], "o", color=color, markersize=5)
        p = 1 - s / 2
        print(
            f"smoothing {s:4}: minimum at margin {margin[best]:.2f};"
            f" log(p/(1−p)) at p = 1 − s/2: {np.log(p / (1 - p)):.2f}"
        )
ax.set_xlim(-3, 6.6)
ax.set_ylim(-0.2, 3.2)
ax.set_xlabel("margin z₀ − z₁ (nats)")
ax.set_ylabel("cross-entropy (nats)")
plt.show()

# %% [markdown]
# Rows and classes that do not count have loss 0 and gradient exactly 0, whatever stands there.

# %%
z = jnp.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [jnp.nan, 1.0, 0.0]])
labels = jnp.array([0, -1, 2])
keep = jnp.array([[True, True, True], [True, True, True], [False, True, True]])
each, pull = jax.vjp(lambda z: js.cross_entropy(z, labels, where=keep, ignore_index=-1), z)
(slope,) = pull(jnp.ones(3))
print("row 1 is ignored, class 0 of row 2 (NaN) is masked")
print("losses   ", each)
print("gradient\n", slope)
print("target on a masked class:", js.cross_entropy(z[2], 0, where=keep[2]))
try:
    js.cross_entropy(jnp.zeros(3), 3)
except ValueError as error:
    print("ValueError:", error)
print("the same label in a jax.Array:", js.cross_entropy(jnp.zeros(3), jnp.array(3)))

# %% [markdown]
# Class weights multiply −log p of each class in cross-entropy. The z-loss adds λ·(log Z)², which
# pulls the normaliser to zero: it is the one term here that sees a shift of all scores.

# %%
z, labels = jnp.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]]), jnp.array([0, 1])
weights = jnp.array([1.0, 5.0, 1.0])
print("unweighted  ", js.cross_entropy(z, labels))
print("weighted    ", js.cross_entropy(z, labels, class_weights=weights))
for shift in (0.0, 3.0):
    plain = js.cross_entropy(z[0] + shift, 0)
    with_z = js.cross_entropy(z[0] + shift, 0, z_loss=0.1)
    level = js.logsumexp(z[0] + shift)
    print(
        f"shift {shift}: log Z = {level:.4f}, loss {plain:.4f}, with z-loss {with_z:.4f}"
        f" = loss + 0.1·(log Z)² = {plain + 0.1 * level**2:.4f}"
    )

# %% [markdown]
# ## Normmax, and k classes at once
#
# The same construction serves other regularizers. `normmax_loss` belongs to `normmax`, and
# `topk_entmax_loss` to the relaxed k-hot mapping: it takes k right classes a row and is zero once
# all of them lead by enough.

# %%
three = jnp.stack([margin, jnp.zeros_like(margin), jnp.zeros_like(margin)], -1)
four = jnp.stack([margin, margin, jnp.zeros_like(margin), jnp.zeros_like(margin)], -1)
figure, (left, right) = style.card(
    "Margins again: of one class, and of two at once", 1, 2, size=(9.8, 3.8)
)
normmax_loss = jax.jit(js.normmax_loss)
for alpha, color in zip((1.5, 2.0, 4.0), style.ordered(3), strict=True):
    value = normmax_loss(three, targets, alpha=alpha)
    left.plot(margin, value, color=color)
    at = {1.5: 330, 2.0: 300, 4.0: 270}[alpha]
    style.inline(left, margin[at], value[at], f"α = {alpha:g}", color)
    print(f"normmax_loss, α = {alpha}: loss > 0 up to margin {margin[value > 0].max():.2f}")
k_hot = jax.jit(js.topk_entmax_loss)
pair = jnp.tile(jnp.array([0, 1]), (801, 1))
for alpha, color in zip((1.0, 1.5, 2.0), style.ordered(3), strict=True):
    value = k_hot(four, pair, alpha=alpha)
    right.plot(margin, value, color=color)
    at = {1.0: 350, 1.5: 300, 2.0: 250}[alpha]
    style.inline(right, margin[at], value[at], f"α = {alpha:g}", color)
    if alpha > 1:
        print(f"topk_entmax_loss, α = {alpha}: loss > 0 up to margin {margin[value > 0].max():.2f}")
left.set_title("normmax_loss of (m, 0, 0), target 0")
right.set_title("topk_entmax_loss of (m, m, 0, 0), targets 0 and 1")
for ax in (left, right):
    ax.set_xlim(-2, 4)
    ax.set_xlabel("margin m (units of the scores)")
left.set_ylabel("loss")
left.set_ylim(-0.05, 2.6)
right.set_ylim(-0.1, 5)
plt.show()
z = jnp.array([2.0, 1.0, 0.5, -1.0])
print("gradient of the k-hot loss:", jax.grad(js.topk_entmax_loss)(z, jnp.array([0, 1]), alpha=2.0))
print("p − y:                     ", js.topk_entmax(z, 2, alpha=2.0) - jnp.array([1, 1, 0, 0]))

# %% [markdown]
# ## Training
#
# Three classes in the plane, which overlap; a network with one hidden layer; Adam. The losses are
# used as optax's own are. The pictures show p over the plane in the colours of the classes; where
# a class has exactly zero probability a black line bounds it. With a sparse loss the network says
# "certainly not" over most of the plane; with cross-entropy, never.

# %%
CENTRES = 1.25 * jnp.array([[-0.87, -0.5], [0.87, -0.5], [0.0, 1.0]])
keys = jax.random.split(jax.random.key(7), 4)
labels = jax.random.randint(keys[0], (450,), 0, 3)
points = CENTRES[labels] + 0.6 * jax.random.normal(keys[1], (450, 2))
train, test = (points[:300], labels[:300]), (points[300:], labels[300:])


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (2, 32)) / np.sqrt(2),
        "bias": jnp.zeros(32),
        "out": jax.random.normal(second, (32, 3)) / np.sqrt(32),
    }


def logits_of(parameters, x):
    return jnp.tanh(x @ parameters["hidden"] + parameters["bias"]) @ parameters["out"]


@partial(jax.jit, static_argnums=0)
def fit(loss):
    optimizer = optax.adam(0.02)

    def step(carry, _):
        parameters, state = carry
        value, gradient = jax.value_and_grad(
            lambda parameters: loss(logits_of(parameters, train[0]), train[1]).mean()
        )(parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    start = init(keys[2])
    (parameters, _), values = jax.lax.scan(step, (start, optimizer.init(start)), None, 400)
    zero = (loss(logits_of(parameters, train[0]), train[1]) == 0).mean()
    return parameters, values, zero


MEMBERS = {
    "cross-entropy": (js.cross_entropy, js.softmax),
    "entmax_loss, α = 1.5": (js.entmax_loss, js.entmax),
    "sparsemax_loss": (js.sparsemax_loss, js.sparsemax),
    "normmax_loss, α = 2": (js.normmax_loss, js.normmax),
}
x = np.linspace(-3.2, 3.2, 161)
field = jnp.asarray(np.stack(np.meshgrid(x, x), -1), jnp.float32)
figure, axes = style.card(
    "Sparse losses draw borders, and leave no doubt outside them", 1, 4, size=(11, 3.3)
)
curves = {}
print("                       test accuracy   Brier    classes with mass   trained to loss 0")
for ax, (name, (member, mapping)) in zip(axes, MEMBERS.items(), strict=True):
    parameters, curves[name], zero = fit(member)
    everywhere = jnp.concatenate([field.reshape(-1, 2), test[0]])
    p = np.asarray(jax.jit(mapping)(logits_of(parameters, everywhere)))
    p, q = p[: x.size**2].reshape(x.size, x.size, 3), p[x.size**2 :]
    ax.imshow(simplex.blend(p), origin="lower", extent=(-3.2, 3.2, -3.2, 3.2))
    for i in range(3):
        if (p[..., i] == 0).any():
            ax.contour(x, x, p[..., i] > 0, [0.5], colors=INK, linewidths=0.8)
        mine = train[0][train[1] == i]
        ax.scatter(*mine[:60].T, s=14, color=simplex.HUES[i], edgecolor="white", linewidth=0.7)
    ax.set_title(name)
    ax.set_xticks([-2, 0, 2])
    ax.set_yticks([-2, 0, 2])
    ax.grid(False)
    hit = (q.argmax(-1) == test[1]).mean()
    brier = ((q - np.eye(3)[test[1]]) ** 2).sum(-1).mean()
    mass = (q > 0).sum(-1).mean()
    print(f"{name:22s} {hit:12.3f} {brier:11.3f} {mass:13.2f} {100 * zero:18.0f} %")
axes[0].set_ylabel("second feature")
figure.supxlabel("first feature", fontsize=10)
plt.show()

# %% [markdown]
# The last column counts training examples with a loss of exactly zero: they no longer teach. The
# losses themselves are in different units: compare the shapes of their curves, not the heights.

# %%
figure, ax = style.card("Each loss falls in units of its own", size=(8, 3.4))
for (name, values), color in zip(curves.items(), style.ordered(4), strict=True):
    ax.plot(values, color=color)
    shift = {"sparsemax_loss": -5, "normmax_loss, α = 2": 4}.get(name, 0)
    style.label(ax, 399, values[-1], name, color, (5, shift))
ax.set_xlim(0, 530)
ax.set_xticks([0, 100, 200, 300, 400])
ax.set_yscale("log")
ax.set_ylim(0.03, 1.5)
ax.set_xlabel("step (whole training set)")
ax.set_ylabel("mean training loss")
plt.show()

# %% [markdown]
# ## Rare classes
#
# A classifier that is trained on unbalanced data learns the frequencies of the classes too, and
# decides for the frequent ones when in doubt. Both remedies below are a `prior`, which makes
# softmax $p_i \propto q_i e^{z_i}$. **Balanced softmax** (Ren et al. 2020) trains with the class
# counts as q: the prior explains the frequencies, so the scores need not learn them, and at test
# time it is left out. **Logit adjustment** after training (Menon et al. 2021) trains as usual and
# divides the frequencies out at test time, with q = 1/frequency. (Their second form, an adjusted
# loss, is balanced softmax.)
#
# Below, scikit-learn's digits with a long tail: 100 training images of one digit, 2 of the rarest,
# and 70 test images of each. Ten seeds choose the images and the order of the digits; the model is
# linear.

# %%
images, digits = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
COUNTS = np.round(100 * 50.0 ** (-np.arange(10) / 9)).astype(int)
GROUPS = {"many": slice(0, 4), "medium": slice(4, 7), "few": slice(7, 10)}
SEEDS, TESTED = 10, 70


def long_tailed(seed):
    """Images and classes, numbered from the most frequent to the rarest; for training and test."""
    rng = np.random.default_rng(seed)
    mine = [rng.permutation(np.flatnonzero(digits == d)) for d in rng.permutation(10)]
    train = np.concatenate([i[:n] for i, n in zip(mine, COUNTS, strict=True)])
    test = np.concatenate([i[100 : 100 + TESTED] for i in mine])
    return images[train], np.repeat(np.arange(10), COUNTS), images[test]


x, y, x_test = map(np.stack, zip(*map(long_tailed, range(SEEDS)), strict=True))
prior = (COUNTS / COUNTS.mean()).astype(np.float32)


@partial(jax.jit, static_argnums=0)
def scores_after_training(loss):
    """The scores of the test images, [seeds, images, classes]."""
    optimizer = optax.adamw(0.02, weight_decay=0.1)

    def of(linear, x):
        return x @ linear["kernel"] + linear["bias"]

    def train(x, y):
        def step(carry, _):
            linear, state = carry
            gradient = jax.grad(lambda linear: loss(of(linear, x), y).mean())(linear)
            updates, state = optimizer.update(gradient, state, linear)
            return (optax.apply_updates(linear, updates), state), None

        start = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
        return jax.lax.scan(step, (start, optimizer.init(start)), None, 200)[0][0]

    return jax.vmap(lambda x, y, x_test: of(train(x, y), x_test))(x, y, x_test)


plain = scores_after_training(js.cross_entropy)
balanced = scores_after_training(partial(js.cross_entropy, prior=prior))
sparse = scores_after_training(partial(js.entmax_loss, alpha=1.5))
sparse_balanced = scores_after_training(partial(js.entmax_loss, alpha=1.5, prior=prior))
WAYS = {
    "cross-entropy": js.softmax(plain),
    "adjusted after training": js.softmax(plain, prior=1 / prior),
    "balanced softmax": js.softmax(balanced),
    "entmax_loss, α = 1.5": js.entmax(sparse, 1.5),
    "… adjusted": js.entmax(sparse, 1.5, prior=1 / prior),
    "… with a prior": js.entmax(sparse_balanced, 1.5),
}
print("training images", COUNTS)
print("accuracy                " + "".join(f"{name:>8s}" for name in GROUPS) + "    all (balanced)")
recall = {}
for name, p in WAYS.items():
    hit = np.asarray(p).argmax(-1).reshape(SEEDS, 10, TESTED) == np.arange(10)[:, None]
    recall[name] = hit.mean((0, 2))
    groups = "".join(f"{recall[name][group].mean():8.3f}" for group in GROUPS.values())
    error = hit.mean((1, 2)).std(ddof=1) / np.sqrt(SEEDS)
    print(f"{name:24s}{groups}    {hit.mean():.3f} ± {error:.3f}")

# %%
figure, axes = style.card(
    "A prior makes up for the frequency of rare classes", 1, 2, size=(10.3, 3.9),
    sharey=True,
)  # fmt: skip
names = list(WAYS)
for ax, title, shown in zip(axes, ("softmax", "entmax, α = 1.5"), (names[:3], names[3:]),
                            strict=True):  # fmt: skip
    for name, color, mark in zip(shown, (INK, ORANGE, BLUE), "os^", strict=True):
        ax.plot(recall[name], marker=mark, markersize=4.5, color=color, label=name)
    for group in list(GROUPS.values())[:-1]:
        ax.axvline(group.stop - 0.5, color=FAINT, linestyle=":", linewidth=1)
    for name, group in GROUPS.items():
        ax.text((group.start + group.stop - 1) / 2, 1.06, name, ha="center", fontsize=9)
    ax.set_title(title, pad=10)
    ax.set_xticks(range(10), COUNTS)
    ax.set_xlabel("training images of the class")
    ax.set_ylim(0, 1.12)
    ax.legend(fontsize=8.5, loc="lower left")
axes[0].set_ylabel("recall (mean of 10 seeds)")
plt.show()

# %% [markdown]
# Cross-entropy finds nearly all of the frequent digits and one in four of the rarest. Both
# remedies give up a few of the frequent ones and win far more of the rare. They ask for the same
# thing, scores of the digit without its frequency, at different times. Balanced softmax changes the
# training; the adjustment needs no second training and can be set to any frequencies that are
# expected at test time.
#
# With `entmax_loss` the prior works in the same two places, though there it multiplies
# $[1 + (α-1)(z_i - τ)]_+^{1/(α-1)}$ and is not a shift of the scores. Its scale counts as well, for
# α ≠ 1 as a temperature, so the prior above has mean 1: equal counts would change nothing. Here the
# adjustment after training takes too much from the most frequent digit; to train with the prior is
# the better of the two.
#
# J. Ren et al., "Balanced meta-softmax for long-tailed visual recognition", NeurIPS 2020.
# A. K. Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.

# %% [markdown]
# ## Pairs, and margins
#
# A **contrastive** loss has no classes: in a batch of pairs, everybody's partner is everybody
# else's counterexample. Below, a pair is the upper and the lower half of a digit, and each half has
# a linear encoder. `contrastive_loss` is CLIP's loss at α = 1, and takes any α;
# `sigmoid_contrastive_loss` judges every pair alone. With `labels` all lower halves of the same
# digit are positives. On 400 pairs that were not seen, how often is the own half among the nearest
# ten, and how often is the nearest half of the same digit?

# %%
halves = images.reshape(-1, 2, 32) - images.reshape(-1, 2, 32).mean(0)
PAIRS, UNSEEN = slice(0, 600), slice(600, 1000)
CONTRAST = {
    "CLIP": js.contrastive_loss,
    "α = 1.5": partial(js.contrastive_loss, alpha=1.5),
    "SigLIP": partial(js.sigmoid_contrastive_loss, bias=-5.0),
    "CLIP, labels": partial(js.contrastive_loss, labels=digits[PAIRS]),
}


@partial(jax.jit, static_argnums=0)
def encoded(loss):
    """Both halves of all images, after 200 steps on the first 600."""
    optimizer = optax.adam(0.01)

    def embed(encoder, x):
        return jnp.einsum("nsd,sde->sne", x, encoder["kernel"])

    def step(carry, _):
        encoder, state = carry
        gradient = jax.grad(lambda encoder: loss(
            *embed(encoder, halves[PAIRS]), temperature=jnp.exp(encoder["log_t"]), normalize=True
        ).mean())(encoder)  # fmt: skip
        updates, state = optimizer.update(gradient, state, encoder)
        return (optax.apply_updates(encoder, updates), state), None

    kernel = jax.random.normal(jax.random.key(0), (2, 32, 16)) / np.sqrt(32)
    start = {"kernel": kernel, "log_t": jnp.log(0.1)}
    encoder = jax.lax.scan(step, (start, optimizer.init(start)), None, 200)[0][0]
    return embed(encoder, halves), jnp.exp(encoder["log_t"])


print("                own half in ten    digit of the nearest    learned temperature")
for name, loss_of_pairs in CONTRAST.items():
    (upper, lower), t = encoded(loss_of_pairs)
    upper, lower = (x[UNSEEN] / jnp.linalg.norm(x[UNSEEN], axis=-1, keepdims=True)
                    for x in (upper, lower))  # fmt: skip
    cosine = np.asarray(upper @ lower.T)
    own = ((cosine > np.diag(cosine)[:, None]).sum(-1) < 10).mean()
    nearest = (digits[UNSEEN][cosine.argmax(-1)] == digits[UNSEEN]).mean()
    print(f"{name:14s} {own:12.3f} {nearest:20.3f} {t:22.3f}")

# %% [markdown]
# A **margin** asks the right class to lead by more. With `normalize` the scores of
# `linear_cross_entropy` are cosines, and `angular_margin` is added to the angle of the label
# (ArcFace): images of a class come closer together. The angles, in degrees, of unseen images:


# %%
@jax.jit
def angles(m):
    """From each image to the vector of its digit, and to the nearest other."""
    optimizer = optax.adam(0.01)
    start = {
        "encoder": jax.random.normal(jax.random.key(1), (64, 16)) / 8,
        "classes": jax.random.normal(jax.random.key(2), (16, 10)) / 4,
    }
    centred = images - images.mean(0)

    def step(carry, _):
        model, state = carry
        gradient = jax.grad(lambda model: js.linear_cross_entropy(
            centred[PAIRS] @ model["encoder"], model["classes"], digits[PAIRS], normalize=True,
            angular_margin=m, temperature=1 / 16,
        ).mean())(model)  # fmt: skip
        updates, state = optimizer.update(gradient, state, model)
        return (optax.apply_updates(model, updates), state), None

    model = jax.lax.scan(step, (start, optimizer.init(start)), None, 200)[0][0]
    h = centred[UNSEEN] @ model["encoder"]
    h, w = (x / jnp.linalg.norm(x, axis=a, keepdims=True)
            for x, a in ((h, -1), (model["classes"], 0)))  # fmt: skip
    angle = jnp.degrees(jnp.arccos(h @ w))
    is_own = digits[UNSEEN][:, None] == np.arange(10)
    return jnp.where(is_own, angle, 0).sum(-1), jnp.where(is_own, jnp.inf, angle).min(-1)


for m in (0.0, 0.3, 0.5):
    own, other = map(np.asarray, angles(m))
    print(f"m = {m}: own digit {own.mean():4.1f}°, nearest other {other.mean():4.1f}°, "
          f"accuracy {(own < other).mean():.3f}")  # fmt: skip

# %% [markdown]
# CLIP's loss finds the own half most often. With `labels` all halves of a digit count alike, so the
# own one no longer stands out, as intended. The margin draws images to the
# vector of their digit by seven degrees and leaves the nearest other where it was.

# %% [markdown]
# ## Experts
#
# `route` reads the scores of a router: which k experts a token has, how much each takes, and sums
# that tell how even the use is. Routers prefer a few experts. Two remedies: a loss of these sums,
# `balance_loss`, which is 1 where all are used alike and pulls the scores there; or no loss, but a
# bias in the *choice*, which `update_bias` moves against the load after each step. The bias enters
# neither the weights nor any gradient. Below, 4096 tokens like the last of 16 experts best; the
# even load is 512.

# %%
liking = jax.random.normal(jax.random.key(3), (4096, 16)) + jnp.linspace(0, 3, 16)


def by_gradient(z, _):
    """The scores move, and with them the task."""
    routing = js.route(z, 2)
    slope = jax.grad(lambda z: js.route(z, 2).statistics.balance_loss)(z)
    return z - 200 * slope, routing.statistics


def by_bias(bias, _):
    routing = js.route(liking, 2, score="sigmoid", bias=bias)
    return js.routing.update_bias(bias, routing.statistics.load, 4e-3), routing.statistics


STARTS = {"balance loss": (by_gradient, liking), "bias": (by_bias, jnp.zeros(16))}
for name, (step, start) in STARTS.items():
    end, statistics = jax.lax.scan(step, start, None, 200)
    print(name)
    for i in (0, 50, 100, 199):
        load = np.asarray(statistics.load[i])
        print(f"  step {i:3d}: most {load.max():4d}, least {load.min():4d} tokens an expert")
support = js.route(liking, 4, score="entmax")
print("entmax lets the support choose: experts a token",
      np.bincount((support.weights > 0).sum(-1), minlength=5)[1:] / 4096)  # fmt: skip

# %% [markdown]
# The bias is done within fifty steps and leaves the scores alone; then it goes to and fro by its
# rate. The loss moves the scores, and has not come as far after two hundred.
