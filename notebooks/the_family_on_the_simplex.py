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
# # The family on the simplex
#
# Softmax is one way to turn scores into probabilities. This notebook draws it beside its relatives,
# where they can be seen whole: on three classes. Every number comes from the cell above it.
#
# 1. [Maps](#maps-from-a-plane-to-a-triangle): every mapping, its image and its derivative
# 2. [α](#one-family-one-dial) and [temperature](#temperature-from--to-): two dials
# 3. [Arg max](#arg-max-and-how-softmax-gets-there): pointwise, not uniformly; the tropical limit
# 4. [Energies](#energies-at-a-temperature) and [choice](#luces-choice-axiom): the same function in
#    two older sciences
# 5. [Two classes](#two-classes), and [laws](#laws-checked): which member keeps which
# 6. [Any regularizer](#any-regularizer), one of your own too, and [a prior](#a-prior)
# 7. [Evaluation](#safe-and-online-evaluation): overflow, one pass, other bases
# 8. [The peak of a heat map](#where-is-the-peak), and
#    [a large row as a few classes](#a-large-row-as-a-few-classes)

# %%
import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from drawing import simplex, style
from drawing.style import BLUE, FAINT, GREEN, HAIR, INK, ORANGE, PURPLE
from matplotlib.colors import LogNorm

import jsoftmax as js

style.use()
np.set_printoptions(precision=4, suppress=True, linewidth=100)

# Compiled once for each shape; α and T are traced, so that one program serves all of them.
softmax, sparsemax, entmax = jax.jit(js.softmax), jax.jit(js.sparsemax), jax.jit(js.entmax)
smoothmax, binary_entmax = jax.jit(js.smoothmax), jax.jit(js.binary_entmax)


@partial(jax.jit, static_argnums=0)
def apply(mapping, z, *parameters):
    return mapping(z, *parameters)


@partial(jax.jit, static_argnums=0)
def with_jacobians(mapping, z, *parameters):
    def twice(row):
        p = mapping(row, *parameters)
        return p, p

    jacobian, p = jax.vmap(jax.jacfwd(twice, has_aux=True))(z)
    return p, jacobian


# %% [markdown]
# ## Maps from a plane to a triangle
#
# Adding a number to all scores changes nothing, so three scores are a point in a plane, and three
# probabilities are a point in a triangle. Below, each point of the *score plane* has the colour of
# its probabilities: pure where one class has everything, pale where all are equal.

# %%
ALPHAS = {0.5: "α = 0.5", 1.0: "α = 1: softmax", 1.5: "α = 1.5", 2.0: "α = 2: sparsemax",
          4.0: "α = 4", math.inf: "α = ∞: arg max"}  # fmt: skip


def draw_plane(axes, mapping, *parameters, reach=2.2, n=221):
    """The score plane in the colours of p, and the borders where a class leaves the support."""
    x = np.linspace(-reach, reach, n)
    z = simplex.scores(np.stack(np.meshgrid(x, x), -1)).astype(np.float32)
    p = np.asarray(apply(mapping, z, *parameters))
    box = (-reach, reach, -reach, reach)
    axes.imshow(simplex.blend(p), origin="lower", extent=box, interpolation="bilinear")
    for i in range(3):
        if (p[..., i] == 0).any():
            axes.contour(x, x, p[..., i] > 0, [0.5], colors=INK, linewidths=0.8)
    for i, corner in enumerate(simplex.CORNERS):
        axes.text(*(corner * 2.15), f"class {i + 1}", color="white", ha="center", va="center",
                  fontsize=8.5, fontweight="bold", path_effects=style.OUTLINE)  # fmt: skip
    simplex.bare(axes)


figure, axes = style.card(
    "From soft to hard: as α grows, more of the score plane belongs to a single class",
    2, 3, size=(9, 6.4),
)  # fmt: skip
for ax, (alpha, name) in zip(axes.flat, ALPHAS.items(), strict=True):
    draw_plane(ax, js.entmax, alpha)
    ax.set_title(name)
figure.supxlabel(
    "score plane, 4.4 units wide; black: a class leaves the support (never for α ≤ 1)", fontsize=9
)
plt.show()

# %% [markdown]
# The other way round: where do circles of the score plane land in the triangle? Sparsemax is the
# Euclidean projection, so circles stay circles until they meet an edge. Softmax never reaches the
# boundary, α < 1 keeps still farther from it, and α > 2 hurries to the corners. Normmax prefers
# equal shares: its image crowds in the middle of the triangle and at the middles of the edges.


# %%
def draw_image(axes, mapping, *parameters, radii=(0.25, 0.5, 1.0, 2.0, 4.0), **outline):
    """The images of circles around equal scores, and of rays from them."""
    simplex.triangle(axes, **outline)
    turn = np.linspace(0, 2 * np.pi, 601)
    circle = np.stack([np.cos(turn), np.sin(turn)], -1)
    rays = [np.linspace(0, 12, 601)[:, None] * circle[start] for start in range(0, 600, 50)]
    lines = np.stack(rays + [radius * circle for radius in radii])
    p = apply(mapping, simplex.scores(lines).astype(np.float32), *parameters)
    colors = [HAIR] * len(rays) + style.ordered(len(radii))
    for at, color in zip(simplex.flat(p), colors, strict=True):
        axes.plot(*at.T, color=color, linewidth=0.9 if color == HAIR else 1.5)
    return np.asarray(p)


MAPPINGS = {
    "α = 0.5": (js.entmax, 0.5),
    "softmax (α = 1)": (js.entmax, 1.0),
    "entmax (α = 1.5)": (js.entmax, 1.5),
    "sparsemax (α = 2)": (js.entmax, 2.0),
    "entmax (α = 4)": (js.entmax, 4.0),
    "normmax (α = 4)": (js.normmax, 4.0),
}
figure, axes = style.card(
    "Circles of scores in the triangle: who reaches the boundary, and where", 2, 3, size=(9, 6.2)
)
for ax, (name, mapping) in zip(axes.flat, MAPPINGS.items(), strict=True):
    draw_image(ax, *mapping)
    ax.set_title(name)
for radius, color in zip((0.25, 0.5, 1, 2, 4), style.ordered(5), strict=True):
    axes[0, 0].plot([], [], color=color, label=f"{radius:g}")
figure.legend(loc="outside lower center", ncols=5, title="radius of the circle in the score plane")
plt.show()

# %% [markdown]
# ### The derivative lives on the triangle
#
# For every member of the family the Jacobian can be written in p alone,
# $J = \mathrm{diag}(s) - s s^\top/\sum s$ with $s_i = p_i^{2-\alpha}$ on the support. So it can be
# drawn *on the triangle*: the arrow at p is $\partial p/\partial z_1$, where p moves when the score
# of class 1 is raised. The shade is the total sensitivity, the trace of J; arrows grow with the
# speed, but less and less, so that the slow and the fast can be seen in one picture.


# %%
def draw_field(axes, mapping, parameter, points, marginal):
    """∂p/∂z₁ as arrows and tr J as shade, at `points`; `marginal` gives their scores."""
    simplex.triangle(axes)
    z = jnp.asarray(marginal(points), jnp.float32)
    p, jacobian = map(np.asarray, with_jacobians(mapping, z, parameter))
    shade = axes.tripcolor(
        *simplex.flat(p).T, np.trace(jacobian, axis1=1, axis2=2), shading="gouraud",
        cmap="YlGnBu", norm=LogNorm(0.03, 100), zorder=1,
    )  # fmt: skip
    draw_arrows(axes, p, jacobian)
    return shade, np.abs(p - points).max()


def draw_arrows(axes, p, jacobian):
    """∂p/∂z₁ at p, its length v shown as v/(v + ½)."""
    arrows = simplex.flat(jacobian[..., 0])
    arrows = 0.19 * arrows / (np.linalg.norm(arrows, axis=-1, keepdims=True) + 0.5)
    axes.quiver(*simplex.flat(p).T, *arrows.T, angles="xy", scale_units="xy", scale=1.0,
                pivot="mid", width=0.009, color=INK, zorder=3, minlength=0.2)  # fmt: skip


def marginal_of(alpha):
    """z with entmax(z) = p: ω′(p) = (p^(α−1) − 1)/(α−1), log p at α = 1."""
    if alpha == 1:
        return np.log
    return lambda p: (p ** (alpha - 1) - 1) / (alpha - 1)


POINTS = simplex.interior(9, margin=0.015)
MARGINALS = [marginal_of(alpha) for alpha in (0.5, 1.0, 1.5, 2.0, 4.0)]
MARGINALS.append(lambda p: (p / np.linalg.norm(p, 4, axis=-1, keepdims=True)) ** 3)

figure, axes = style.card(
    "Raise the score of class 1: softmax is deaf in its corners, sparsemax alike everywhere",
    2, 3, size=(9, 6.2),
)  # fmt: skip
worst = 0.0
for ax, (name, mapping), marginal in zip(axes.flat, MAPPINGS.items(), MARGINALS, strict=True):
    shade, miss = draw_field(ax, *mapping, POINTS, marginal)
    worst = max(worst, miss)
    ax.set_title(name)
bar = figure.colorbar(shade, ax=axes, shrink=0.6, label="tr J")
plt.show()
print(f"largest distance between p and mapping(marginal(p)): {worst:.1e}")

# %% [markdown]
# ### Caps and budgets
#
# `capped_entmax` cuts the triangle: no class may have more than its cap. `topk_entmax` changes the
# total: with k ones to give to three classes the region is a triangle at k = 1, a hexagon at
# k = 1.5, and an upside-down triangle at k = 2. `topk_sigmoid` fills the same region without ever
# reaching its boundary.

# %%
CAPS = np.array([0.5, 0.8, 0.6])


def region(total, caps):
    """The corners of {0 ≤ p ≤ caps, Σ p = total} in the plane, in order around the middle."""
    corners = []
    for free in range(3):
        others = [i for i in range(3) if i != free]
        for choice in np.ndindex(2, 2):
            p = np.zeros(3)
            p[others] = [caps[i] * c for i, c in zip(others, choice, strict=True)]
            p[free] = total - p.sum()
            if -1e-9 <= p[free] <= caps[free] + 1e-9:
                corners.append(p)
    at = simplex.flat(corners)
    middle = at.mean(0)
    return at[np.argsort(np.arctan2(*(at - middle).T[::-1]))]


BUDGETS = {
    "capped_entmax, caps ½, 0.8, 0.6": (js.capped_entmax, CAPS, region(1.0, CAPS)),
    "topk_entmax, k = 1.5": (js.topk_entmax, 1.5, region(1.5, np.ones(3))),
    "topk_entmax, k = 2": (js.topk_entmax, 2.0, region(2.0, np.ones(3))),
    "topk_sigmoid, k = 1.5": (js.topk_sigmoid, 1.5, region(1.5, np.ones(3))),
}
figure, axes = style.card(
    "Caps cut the triangle, budgets turn it over", 1, 4, size=(11, 3.3)
)  # fmt: skip
for ax, (name, (mapping, limit, outline)) in zip(axes, BUDGETS.items(), strict=True):
    p = draw_image(ax, mapping, limit, outline=outline)
    over = p - (CAPS if mapping is js.capped_entmax else 1)
    off = p.sum(-1) - (1 if mapping is js.capped_entmax else limit)
    print(f"{name:34s}most above a cap {over.max():8.1e}, sum off by {np.abs(off).max():.1e}")
    ax.set_title(name, fontsize=9)
    ax.set_ylim(-0.95, 1.0)
plt.show()

figure, axes = style.card(
    "Raise the score of class 1: at a cap the mass must come and go elsewhere", 1, 4, size=(11, 3.3)
)
for ax, (name, (mapping, limit, outline)) in zip(axes, BUDGETS.items(), strict=True):
    simplex.triangle(ax, outline=outline)
    x = np.linspace(-1, 1, 15) * (4.5 if mapping is js.topk_sigmoid else 1.6)
    z = simplex.scores(np.stack(np.meshgrid(x, x), -1).reshape(-1, 2)).astype(np.float32)
    draw_arrows(ax, *map(np.asarray, with_jacobians(mapping, z, limit)))
    ax.set_title(name, fontsize=9)
    ax.set_ylim(-0.95, 1.0)
plt.show()

z = jnp.array([2.0, 1.0, -0.5])
print("scores                     ", z)
for name, (mapping, limit, _) in BUDGETS.items():
    p = apply(mapping, z, limit)
    print(f"{name:34s}{p}   sum {p.sum():.4f}")

# %% [markdown]
# ## One family, one dial
#
# The same five scores under every α. For α ≤ 1 each class keeps some mass; above 1 classes leave
# one after the other, and a class that has left has gradient exactly zero. α may be traced, so the
# whole curve is one `vmap`, and so is its derivative.

# %%
z = jnp.array([1.2, 0.85, 0.5, 0.1, -0.8])
near_one = jnp.array([0.999999, 1.0, 1.000001])
alphas = jnp.concatenate([jnp.geomspace(0.25, 16.0, 301), near_one])
curves, slopes = jax.vmap(lambda a: jax.jvp(lambda a: js.entmax(z, a), (a,), (1.0,)))(alphas)
near_slopes = slopes[-3:]
alphas, curves, slopes = alphas[:-3], curves[:-3], slopes[:-3]

figure, (left, right) = style.card("Turning α up removes classes one by one", 1, 2, size=(9.5, 3.8))
for i, color in enumerate(style.ordered(5)):
    left.plot(alphas, curves[:, i], color=color)
    right.plot(alphas, slopes[:, i], color=color)
    style.label(left, 0.25, 0.29 - 0.065 * i, f"z = {z[i]:g}", color, (-4, 0), ha="right")
for ax in (left, right):
    ax.set_xscale("log")
    ax.set_xticks([0.5, 1, 1.5, 2, 4, 8, 16], ["½", "1", "1.5", "2", "4", "8", "16"])
    ax.minorticks_off()
    ax.set_xlabel("α")
left.set_xlim(0.11, 17)
left.set_ylabel("probability")
right.set_ylabel("∂p/∂α")
left.set_title("p")
right.set_title("its derivative, smooth through α = 1")
plt.show()

support = np.asarray((curves > 0).sum(-1))
for size in range(5, 1, -1):
    print(f"{size} classes up to α = {alphas[support >= size].max():.2f}")
for alpha, slope in zip(near_one, near_slopes, strict=True):
    print(f"∂p/∂α at {alpha:.6f}:", slope)

# %% [markdown]
# ## Temperature from −∞ to ∞
#
# With inverse temperature β = 1/T the whole real line is one smooth curve: T = ±∞ is β = 0, equal
# probabilities; T → 0 from above is arg max, from below arg min. Sparse members get there at a
# finite temperature.

# %%
z = jnp.array([1.0, 0.6, 0.2, -0.9])
betas = jnp.linspace(-6, 6, 401)
figure, axes = style.card(
    "Arg min, uniform, arg max: one curve in the inverse temperature", 1, 2, size=(9.5, 3.7),
    sharey=True,
)  # fmt: skip
for ax, alpha, name in zip(axes, (1.0, 2.0), ("softmax", "sparsemax"), strict=True):
    p = entmax(betas[:, None] * z, alpha)
    for i, color in enumerate(style.ordered(4)):
        ax.plot(betas, p[:, i], color=color)
    ax.axhline(0.25, color=FAINT, linewidth=0.8, linestyle=":")
    ax.set_title(name)
    ax.set_xlabel("β = 1/T")
    ax.text(6, 1.07, "arg max, T → 0⁺", ha="right", fontsize=8.5)
    ax.text(-6, 1.07, "arg min, T → 0⁻", ha="left", fontsize=8.5)
    ax.set_ylim(-0.04, 1.14)
axes[0].set_ylabel("probability")
places = ((2.7, 0.8, "right"), (1.6, 0.33, "left"), (-1.3, 0.21, "right"), (-1.9, 0.8, "left"))
for score, color, (x, y, side) in zip(z, style.ordered(4), places, strict=True):
    axes[0].text(x, y, f"z = {score:.1f}", color=color, fontsize=9, ha=side)
plt.show()

for T in (-math.inf, -0.5, -0.1, 0.0, 0.1, 0.5, math.inf):
    soft, sparse = softmax(z, temperature=T), sparsemax(z, temperature=T)
    print(f"T = {T:5.1f}   softmax {soft}   sparsemax {sparse}")

# %% [markdown]
# On the triangle each cooling is a path from the middle to a corner. At a tie of the two best it
# ends in the middle of an edge.

# %%
figure, axes = style.card("Cooling: from the middle to a corner", 1, 3, size=(9.5, 3.3))
starts = [(1.0, 0.7, -0.2), (0.1, 1.0, 0.6), (0.2, -0.5, 1.0), (0.9, -0.1, 0.9)]
temperatures = jnp.geomspace(200, 0.005, 501)  # T = 1 in the middle
cool = jax.jit(jax.vmap(lambda z, a, t: js.entmax(z, a, temperature=t), (None, None, 0)))
for ax, alpha in zip(axes, (1.0, 1.5, 2.0), strict=True):
    simplex.triangle(ax)
    for start, color in zip(starts, (BLUE, ORANGE, GREEN, PURPLE), strict=True):
        path = cool(jnp.array(start), alpha, temperatures)
        ax.plot(*simplex.flat(path).T, color=color)
        ax.plot(*simplex.flat(js.hardmax(jnp.array(start))), "o", color=color, markersize=5)
        ax.plot(*simplex.flat(path[250]), "o", markerfacecolor="white",
                color=color, markersize=5)  # fmt: skip
    ax.set_title(f"α = {alpha:g}")
figure.supxlabel("open: T = 1; filled: T = 0; purple has its two best tied", fontsize=9)
plt.show()

# %% [markdown]
# ## Arg max, and how softmax gets there
#
# The limit is the one-hot arg max with ties shared. Softmax converges to it at every point, but not
# uniformly: next to a tie it is as slow as you like. One row below is a tie, and two are almost.

# %%
print("hardmax (1, 5, 5) =", js.hardmax(jnp.array([1.0, 5.0, 5.0])))
rows = jnp.array([[1.0, 1.0001], [1.0, 0.9999], [1.0, 1.0]])
print("\n       T    (1, 1.0001)        (1, 0.9999)        (1, 1)")
for T in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 0.0):
    cells = "   ".join(f"({a:.5f}, {b:.5f})" for a, b in softmax(rows, temperature=T))
    print(f"{T:8.0e} {cells}")

# %%
gap = np.linspace(-0.6, 0.6, 2001)
pair = np.stack([np.zeros_like(gap), gap], -1)
T = np.geomspace(1, 1e-6, 200)
figure, (left, right) = style.card(
    "Pointwise, not uniform: the worst row is always ½ away from arg max", 1, 2, size=(9.8, 3.9)
)
for t, color in zip((0.5, 0.1, 0.02), style.ordered(3), strict=True):
    left.plot(gap, softmax(pair, temperature=t)[:, 1], color=color)
for at, y, t, color in zip((0.42, 0.16, 0.085), (0.61, 0.74, 0.94), (0.5, 0.1, 0.02),
                           style.ordered(3), strict=True):  # fmt: skip
    left.text(at, y, f"T = {t}", color=color, fontsize=9)
for side in (-1, 1):
    left.plot([0, side * 0.6], [(side + 1) / 2] * 2, color=INK, linewidth=1)
left.plot(0, 0.5, "o", color=INK, markersize=5)
style.label(left, 0, 0.5, "tie: (½, ½)", INK, (-7, 4), ha="right")
left.set_xlabel("gap z₂ − z₁")
left.set_ylabel("p₂")
left.set_title("every T > 0 is continuous; the limit jumps")
for lead, color in zip((1.0, 1e-2, 1e-4), (BLUE, ORANGE, PURPLE), strict=True):
    distance = softmax(np.array([lead, 0.0]) / T[:, None])[:, 1]
    right.plot(T, distance, color=color)
    style.label(right, lead * 0.24, 0.02, f"gap {lead:g}", color, (-3, 0), ha="right")
right.axhline(0.5, color=INK, linewidth=1.2)
style.label(right, 1e-6, 0.5, "supremum over all gaps > 0", INK, (0, -8), ha="left")
right.set_xscale("log")
right.set_xlabel("temperature T (units of the scores)")
right.set_ylabel("max |softmax − arg max|")
right.set_title("each gap gets there once T ≪ gap; no T serves all")
plt.show()

# %% [markdown]
# ### The tropical limit
#
# $T\log\sum_i e^{z_i/T}$ lies between the maximum and the maximum plus $T\log K$, so it converges
# *uniformly*: the value converges where its gradient, softmax, does not. In the limit (LSE, +)
# becomes (max, +). Other α touch the maximum exactly once the lead is large enough. The slope in T
# is the entropy of the distribution.

# %%
x = jnp.linspace(-1.5, 1.5, 401)
two = jnp.stack([x, jnp.zeros_like(x)], -1)
figure, (left, right) = style.card(
    "The maximum, smoothed: T sets how much, α sets how", 1, 2, size=(9.5, 4.0), sharey=True
)
for t, color in zip((1.0, 0.5, 0.2), style.ordered(3), strict=True):
    y = js.logsumexp(two, temperature=t)
    left.plot(x, y, color=color)
    at = {1.0: 80, 0.5: 135, 0.2: 205}[t]
    style.inline(left, x[at], y[at], f"T = {t}", color)
for alpha, color in zip((0.5, 1.0, 1.5, 2.0, 4.0), style.ordered(5), strict=True):
    y = smoothmax(two, alpha)
    right.plot(x, y, color=color)
    if alpha < 4:
        at = {0.5: 80, 1.0: 80, 1.5: 135, 2.0: 200}[alpha]
        style.inline(right, x[at], y[at], f"α = {alpha:g}", color)
    else:
        style.label(right, 0.1, 0.12, "α = 4", color, (14, -10), fontsize=8.5)
for ax, name in ((left, "logsumexp of (x, 0)"), (right, "smoothmax of (x, 0) at T = 1")):
    ax.plot(x, jnp.maximum(x, 0), color=INK, linewidth=0.9)
    style.label(ax, 1.0, 1.0, "max", INK, (4, -7))
    ax.set_title(name)
    ax.set_xlabel("x (units of the scores)")
left.set_ylim(-0.06, 2.3)
left.set_ylabel("smooth maximum")
plt.show()

value_and_slope = jax.jit(jax.value_and_grad(lambda T, z: js.logsumexp(z, temperature=T)))
z = jnp.array([1.0, 2.0, 8.0, 7.9])
bound = jnp.log(4)
print("      T   T·LSE(z/T) − max z    bound T·log K    entropy of p    d/dT")
for T in (2.0, 0.5, 0.1, 0.02, 0.0):
    value, slope = value_and_slope(T, z)
    excess, shannon = value - z.max(), js.entropy(softmax(z, temperature=T))
    print(f"{T:7.2f} {excess:18.6f} {T * bound:18.6f} {shannon:15.6f} {slope:9.6f}")

# %% [markdown]
# ## Energies at a temperature
#
# Read −z as energies and softmax is the Gibbs distribution: the lower the energy, the more
# probable. From the logarithm of the partition function follow the free energy F = −T log Z, the
# mean energy U, the entropy S = (U − F)/T, and the heat capacity C = dU/dT. Two levels give the
# Schottky bump: no heat is taken up where T is far below the gap, because nothing can be excited,
# nor far above it, because the levels are already filled evenly.

# %%
T = jnp.geomspace(0.05, 20, 400)


@jax.jit
def thermodynamics(energies, T):
    energies = jnp.broadcast_to(energies, (*T.shape, *energies.shape))
    functions = (js.mean_energy, js.free_energy, js.heat_capacity)
    return [function(energies, T[:, None]) for function in functions]


SYSTEMS = {
    "two levels": jnp.array([0.0, 1.0]),
    "upper level threefold": jnp.array([0.0, 1.0, 1.0, 1.0]),
    "levels 0, 1, 12": jnp.array([0.0, 1.0, 12.0]),
}
figure, axes = style.card(
    "A few levels take up heat only where T is comparable to a gap", 1, 3, size=(11, 3.7)
)
for (name, energies), color in zip(SYSTEMS.items(), (BLUE, ORANGE, PURPLE), strict=True):
    mean, free, capacity = thermodynamics(energies, T)
    shannon = (mean - free) / T
    for ax, y in zip(axes, (mean, shannon, capacity), strict=True):
        ax.plot(T, y, color=color)
    peak = int(jnp.argmax(capacity))
    style.label(axes[1], 20, shannon[-1], name, color, (0, -8 if len(energies) == 2 else 7),
                ha="right")  # fmt: skip
    print(
        f"{name:22s} C is largest, {capacity[peak]:.3f}, at T = {T[peak]:.3f};"
        f" S → {shannon[-1]:.3f} (log of {len(energies)} states: {math.log(len(energies)):.3f})"
    )
for ax, name in zip(
    axes, ("mean energy U", "entropy S (nats)", "heat capacity C (units of k_B)"), strict=True
):
    ax.set_xscale("log")
    ax.set_xlabel("temperature T (units of the first gap)")
    ax.set_ylabel(name)
axes[0].set_ylim(-0.05, 2.0)
axes[1].set_ylim(-0.05, 1.55)
plt.show()

# %% [markdown]
# The thermodynamic identities are derivatives, so `jax.grad` can check them; and a negative
# temperature is a population inversion, hotter than any positive one.

# %%
energies, T = jnp.array([0.0, 1.0, 2.5]), 0.7
p = js.boltzmann(energies, T)
U, F = js.mean_energy(energies, T), js.free_energy(energies, T)
print("∂F/∂E = p        ", jax.grad(js.free_energy)(energies, T), p)
print("−∂F/∂T = S       ", -jax.grad(js.free_energy, 1)(energies, T), js.entropy(p))
print("∂U/∂T = C        ", jax.grad(js.mean_energy, 1)(energies, T), js.heat_capacity(energies, T))
print("−∂log Z/∂β = U   ", -jax.grad(lambda b: js.log_partition(energies, 1 / b))(1 / T), U)
print("F = U − TS       ", F, U - T * js.entropy(p))
print("p minimises ⟨p,E⟩ − T·S: any other p has more, by T·KL:")
q = jnp.array([0.5, 0.3, 0.2])
excess = (q @ energies - T * js.entropy(q)) - F
print("                 ", excess, T * (q * jnp.log(q / p)).sum())
for T in (0.0, 0.5, math.inf, -0.5):
    print(f"boltzmann at T = {T:4.1f}", js.boltzmann(energies, T))

# %% [markdown]
# ## Luce's choice axiom
#
# Under softmax the odds of two alternatives do not depend on the other alternatives. So when the
# score of class 3 rises from −∞, p moves along a straight line through corner 3. Sparse members
# bend: class 3 does not take its mass in proportion.

# %%
figure, axes = style.card(
    "Odds of 1 to 2 while 3 joins: kept by softmax alone", 1, 3, size=(9.5, 3.4)
)
third = jnp.linspace(-9, 9, 1201)
for ax, alpha in zip(axes, (0.5, 1.0, 2.0), strict=True):
    simplex.triangle(ax)
    for lead, color in zip((-0.8, -0.3, 0.4, 0.7), style.ordered(4), strict=True):
        z = jnp.stack([jnp.full_like(third, lead), jnp.zeros_like(third), third], -1)
        if alpha < 1:  # heavy tails take longer to vanish
            z = z.at[:, 2].mul(30)
        ax.plot(*simplex.flat(entmax(z, alpha)).T, color=color)
    ax.set_title(f"α = {alpha:g}" + {1.0: ": softmax", 2.0: ": sparsemax"}.get(alpha, ""))
plt.show()

z = jnp.array([[1.0, 0.6, 0.8], [1.0, 0.6, -math.inf]])
print("              with class 3              without                   odds p₁/p₂")
for name, alpha in (("softmax", 1.0), ("entmax 1.5", 1.5), ("sparsemax", 2.0)):
    whole, part = entmax(z, alpha)
    odds = f"{whole[0] / whole[1]:6.3f} and {part[0] / part[1]:6.3f}"
    print(f"{name:12s}  {whole!s:25s} {part!s:25s} {odds}")

# %% [markdown]
# ## Two classes
#
# Softmax of (z, 0) is the logistic function, and `binary_entmax` is its counterpart for any α. At
# α = 2 it is a clipped line; for α > 1 it reaches 0 and 1 at ±1/(α−1) exactly; at α = 3/2 it is an
# S-curve of finite length; for α < 1 it has heavy tails.

# %%
z = jnp.linspace(-4, 4, 801)
slope = jax.jit(jax.vmap(jax.grad(js.binary_entmax), (0, None)))
figure, (left, right) = style.card(
    "The logistic function and its kin: for α > 1 certainty is finite", 1, 2, size=(9.8, 3.8)
)
for alpha, color in zip((0.5, 1.0, 1.5, 2.0, 4.0), style.ordered(5), strict=True):
    p, derivative = binary_entmax(z, alpha), slope(z, alpha)
    left.plot(z, p, color=color)
    right.plot(z, derivative, color=color)
    at = {0.5: 90, 1.0: 170, 1.5: 255, 2.0: 333, 4.0: 415}[alpha]
    style.inline(left, z[at], p[at], f"α = {alpha:g}", color)
    if alpha > 1:
        print(f"α = {alpha}: p = 1 from z = {z[p == 1].min():.2f}; 1/(α−1) = {1 / (alpha - 1):.2f}")
for ax in (left, right):
    ax.set_xlabel("score z of the first class; the other has 0")
left.set_ylabel("probability of the first class")
right.set_ylabel("its derivative")
right.set_ylim(0, 1.0)
plt.show()

gap = jnp.abs(binary_entmax(z, 1.0) - jax.nn.sigmoid(z)).max()
print(f"largest |binary_entmax(z, 1) − sigmoid(z)|: {gap:.1e}")

# %% [markdown]
# ## Laws, checked
#
# On 2,000 random rows of 7 scores in float32: the largest violation of each law, and ✗ where a law
# is *not* one, which is shown by how far it fails.

# %%
key = jax.random.key(0)
z = 2 * jax.random.normal(key, (2000, 7))
TABLE = {
    "softmax": (js.softmax,),
    "entmax 0.5": (js.entmax, 0.5),
    "entmax 1.5": (js.entmax, 1.5),
    "sparsemax": (js.entmax, 2.0),
    "entmax 4": (js.entmax, 4.0),
    "normmax 2": (js.normmax, 2.0),
    "hardmax": (js.hardmax,),
}


def disorder(p):
    """How much less a higher score got than a lower one."""
    in_order = jnp.take_along_axis(p, jnp.argsort(z, -1), -1)
    return jnp.maximum(0, -jnp.diff(in_order)).max()


print("             Σp = 1     shift by 16  order      uniform at 0  scale by 2   zeros")
for name, (mapping, *parameters) in TABLE.items():
    of = partial(apply, mapping)
    p = of(z, *parameters)
    rows = (
        jnp.abs(p.sum(-1) - 1).max(),
        jnp.abs(of(z + 16.0, *parameters) - p).max(),
        disorder(p),
        jnp.abs(of(0 * z, *parameters) - 1 / 7).max(),
    )
    scale = jnp.abs(of(2 * z, *parameters) - p).max()
    cells = "    ".join(f"{float(row):.1e}" for row in rows)
    print(
        f"{name:12s} {cells}       {'✗ ' if scale > 1e-3 else '  '}{scale:.2f}"
        f"      {100 * float((p == 0).mean()):4.1f} %"
    )

# %%
print("Jacobian of entmax against diag(s) − s sᵀ/Σs, s = p^(2−α) on the support:")
for alpha in (0.5, 1.0, 1.5, 2.0, 4.0):
    p, J = with_jacobians(js.entmax, z, alpha)
    p = np.asarray(p, np.float64)  # in float32 the formula itself would cancel
    s = np.where(p > 0, np.where(p > 0, p, 1) ** (2 - alpha), 0)
    formula = np.einsum("ni,ij->nij", s, np.eye(7))
    formula -= np.einsum("ni,nj->nij", s, s) / s.sum(-1)[:, None, None]
    print(
        f"  α = {alpha:3.1f}: largest entry {jnp.abs(J).max():8.2f}, "
        f"largest difference {jnp.abs(J - formula).max():.1e}, "
        f"asymmetry {jnp.abs(J - J.swapaxes(-1, -2)).max():.1e}"
    )
p, J = with_jacobians(js.softmax, z)
formula = jnp.einsum("ni,ik->nik", p, jnp.eye(7)) - jnp.einsum("ni,nk->nik", p, p)
print(f"∂σᵢ/∂zₖ = σᵢ(δᵢₖ − σₖ): {jnp.abs(J - formula).max():.1e}")
gradients = jax.jit(jax.grad(lambda z, alpha: js.smoothmax(z, alpha).sum()))
for alpha in (0.5, 1.0, 1.5, 2.0):
    difference = jnp.abs(gradients(z, alpha) - apply(js.entmax, z, alpha)).max()
    print(f"∇smoothmax = entmax, α = {alpha}: {difference:.1e}" + " (∇LSE = σ)" * (alpha == 1))

# %% [markdown]
# ## Any regularizer
#
# α is one way to choose a convex function ω. Every other makes a map too,
#
# $$p = \arg\max_{p \in Δ} ⟨p, z⟩ - \sum_i ω(p_i),$$
#
# with its smooth maximum, its loss and their derivatives. Three methods write one down: ω, ω′ and
# 1/ω″. The one below is four times sparsemax's parabola, with waves: p lingers at multiples of ⅓.
# How to invert ω′ the library finds out by itself.


# %%
@dataclasses.dataclass(frozen=True)
class Terraces(js.Regularizer):
    steps: float | jax.Array = 3.0
    depth: float | jax.Array = 0.8  # below 1, so that ω is convex

    def value(self, p):
        turn = 2 * math.pi * self.steps
        return 2 * p * (p - 1) + 4 * self.depth * (1 - jnp.cos(turn * p)) / turn**2

    def marginal(self, p):
        turn = 2 * math.pi * self.steps
        return 4 * p + 4 * self.depth * jnp.sin(turn * p) / turn

    def slope(self, p):
        curvature = 4 + 4 * self.depth * jnp.cos(2 * math.pi * self.steps * p)
        return jnp.where(p > 0, 1 / curvature, 0)


REGULARIZERS = {
    "Tsallis(1.5)": js.Tsallis(1.5),
    "FermiDirac": js.FermiDirac(),
    "Elastic(4)": js.Elastic(4.0),
    "JensenShannon": js.JensenShannon(),
    "Laplace": js.Laplace(),
    "Terraces, ours": Terraces(),
}
z = jnp.linspace(-5, 5, 801)
curve = jax.jit(
    jax.vmap(
        jax.value_and_grad(lambda z, r: js.regularized_argmax(jnp.stack([z, 0 * z]), r)[0]),
        (0, None),
    )
)
logistic = jax.nn.sigmoid(z)
figure, axes = style.card(
    "Six regularizers between two classes, on the logistic function (grey)", 2, 3, size=(9.8, 4.9),
    sharex=True, sharey=True,
)  # fmt: skip
for ax, (name, regularizer) in zip(axes.flat, REGULARIZERS.items(), strict=True):
    p, derivative = curve(z, regularizer)
    ax.plot(z, logistic, color=FAINT, linewidth=4, alpha=0.35)
    ax.plot(z, derivative, color=ORANGE, linewidth=1.1)
    ax.plot(z, p, color=BLUE)
    ax.set_title(name)
    ax.set_ylim(-0.04, 1.04)
    print(
        f"{name:15s} p(1, 0) = {p[480]:.4f}, p(4, 0) = {p[720]:.6f},"
        f" steepest {derivative.max():.3f}"
    )
figure.supxlabel("score z of the first class; the other has 0", fontsize=10)
figure.supylabel("p (blue), ∂p/∂z (orange)", fontsize=10)
plt.show()

# %%
figure, axes = style.card("The same six on three classes", 2, 3, size=(9, 6.2))
print("                Σp = 1    ∇smoothmax = p   ∇loss = p − y   loss at y = p   zeros")
rows = 2 * jax.random.normal(jax.random.key(4), (500, 7))
y = js.sparsemax(jax.random.normal(jax.random.key(5), (500, 7)))


@jax.jit
def certificate(regularizer):
    p = js.regularized_argmax(rows, regularizer)
    gradient = jax.grad(lambda z: js.smoothmax(z, regularizer=regularizer).sum())(rows)
    slope = jax.grad(lambda z: js.fenchel_young_loss(z, y, regularizer).sum())(rows)
    at_p = js.fenchel_young_loss(rows, p, regularizer)
    off = (p.sum(-1) - 1, gradient - p, slope - (p - y), at_p)
    return [jnp.abs(x).max() for x in off], (p == 0).mean()


for ax, (name, regularizer) in zip(axes.flat, REGULARIZERS.items(), strict=True):
    draw_plane(ax, js.regularized_argmax, regularizer)
    ax.set_title(name)
    off, zeros = certificate(regularizer)
    print(f"{name:15s} {off[0]:.1e} {off[1]:12.1e} {off[2]:15.1e} {off[3]:15.1e} {zeros:11.1%}")
figure.supxlabel("score plane, 4.4 units wide; black: a class leaves the support", fontsize=9)
plt.show()

# %% [markdown]
# ### A prior
#
# A `prior` q says where the map stands before there is a score: it makes Ω(p) = Σ q ω(p/q), and at
# equal scores p is q itself. Under softmax it is the shift z + log q of the scores. Others are not
# shifted but bent, since p/q replaces p. An integer q counts as q equal classes.

# %%
figure, axes = style.card(
    "A prior shifts the logistic function, and bends the others", 1, 3, size=(10.3, 3.5),
    sharey=True,
)  # fmt: skip
with_prior = jax.jit(lambda z, r, q: js.regularized_argmax(z, r, prior=q))
z = jnp.linspace(-6, 6, 601)
two = jnp.stack([z, jnp.zeros_like(z)], -1)
BENT = {
    "softmax": js.Tsallis(1.0),
    "entmax, α = 1.5": js.Tsallis(1.5),
    "sparsemax": js.Tsallis(2.0),
}
for ax, (name, regularizer) in zip(axes, BENT.items(), strict=True):
    for q, color in zip((0.05, 0.2, 0.5, 0.8), style.ordered(4), strict=True):
        ax.plot(z, with_prior(two, regularizer, jnp.array([q, 1 - q]))[:, 0], color=color,
                label=f"q = {q:g}")  # fmt: skip
        ax.plot(0, q, "o", color=color, markersize=4.5)
    ax.set_title(name)
    ax.set_xlabel("score z; the other class has 0")
axes[0].set_ylabel("p of the class with prior q")
axes[0].legend(fontsize=8.5, loc="upper left")
plt.show()

figure, axes = style.card(
    "Circles of scores about the prior (0.6, 0.3, 0.1), the dot", 1, 4, size=(11, 3.1)
)
q = jnp.array([0.6, 0.3, 0.1])
for ax, (name, regularizer) in zip(
    axes, {**BENT, "JensenShannon": js.JensenShannon()}.items(), strict=True
):
    draw_image(ax, with_prior, regularizer, q, radii=(0.25, 0.5, 1.0, 2.0))
    ax.plot(*simplex.flat(q), "o", color=INK, markersize=5, zorder=4)
    ax.set_title(name)
plt.show()

z, twice = jnp.array([0.4, 1.0, 0.7]), jnp.array([2.0, 1.0, 1.0])
print("softmax, prior q         ", js.softmax(z, prior=q))
print("softmax(z + log q)       ", js.softmax(z + jnp.log(q)))
for name, regularizer in REGULARIZERS.items():
    p = js.regularized_argmax(z, regularizer, prior=twice)
    each = js.regularized_argmax(z[jnp.array([0, 0, 1, 2])], regularizer)
    print(f"{name:15s} prior 2: {p}, class 1 twice: {jnp.array([each[0] + each[1], *each[2:]])}")

# %% [markdown]
# ## Safe and online evaluation
#
# $e^{z}$ overflows in float32 near z = 89. Subtracting the maximum first changes nothing
# mathematically and everything numerically.


# %%
def naive(z):
    return jnp.exp(z) / jnp.exp(z).sum()


for z in ([1.0, 2.0, 8.0], [88.0, 89.0, 90.0], [-120.0, -119.0, -118.0]):
    print(f"{z!s:26s} naive {naive(jnp.array(z))!s:28s} softmax {softmax(jnp.array(z))}")

# %% [markdown]
# The maximum need not be known in advance. `PartialLogSumExp` holds the maximum so far and the sum
# relative to it; when a new maximum arrives, the old sum is scaled down once. Parts merge in any
# order, so a row can be read in blocks, once, in constant memory, here by `lax.scan`.

# %%
stream = jnp.cumsum(jax.random.normal(jax.random.key(3), (48, 16)), axis=0)


def step(so_far, block):
    so_far = so_far.merge(js.PartialLogSumExp.of(block))
    return so_far, (so_far.maximum, so_far.value())


last, (maxima, values) = jax.lax.scan(step, js.PartialLogSumExp.nothing(()), stream)
blocks = np.arange(1, 49)
figure, ax = style.card("One pass: the running logsumexp is exact after every block", size=(9, 3.3))
ax.scatter(np.repeat(blocks, 16), stream, s=4, color="#b9bcc2", zorder=1)
ax.step(blocks, maxima, where="post", color=BLUE)
ax.step(blocks, values, where="post", color=ORANGE)
style.label(ax, 48, float(maxima[-1]), "maximum so far", BLUE, (6, -5))
style.label(ax, 48, float(values[-1]), "logsumexp so far", ORANGE, (6, 5))
style.label(ax, 48, float(stream[-1].mean()), "scores", FAINT, (6, 0))
ax.set_xlim(0, 56)
ax.set_xlabel("blocks of 16 scores read")
ax.set_ylabel("score (nats)")
plt.show()
exact = np.logaddexp.accumulate(np.asarray(stream, np.float64).reshape(-1))[15::16]
print(f"largest error after any block: {np.abs(values - exact).max():.1e} of {exact[-1]:.4f}")
halves = [js.PartialLogSumExp.of(half.reshape(-1)) for half in (stream[:10], stream[10:])]
print("two unequal parts, merged the other way round:", halves[1].merge(halves[0]).value())

# %% [markdown]
# ### Other bases, and worked values
#
# Base b instead of e is the temperature 1/log b: above 1 towards the maximum, below 1 towards the
# minimum.

# %%
z = jnp.array([1.0, 2.0, 4.0])
for b in (10.0, 2.0, 1.1, 0.5):
    direct = b**z / (b**z).sum()
    print(
        f"b = {b:4}: softmax(z, T = 1/log b) = {softmax(z, temperature=1 / math.log(b))}"
        f"   bᶻ/Σbᶻ = {direct}"
    )

# %%
WORKED = [
    ((1, 2, 8), 1.0, (0.001, 0.002, 0.997)),
    ((0, 10), 1.0, (0.00005, 0.99995)),
    ((0, 10), 100.0, (0.475, 0.525)),
    ((1, 2, 3, 4, 1, 2, 3), 1.0, (0.0236, 0.0643, 0.1747, 0.4748, 0.0236, 0.0643, 0.1747)),
]
for scores, T, expected in WORKED:
    p = softmax(jnp.array(scores, float), temperature=T)
    digits = max(len(str(f"{x:.5f}".rstrip("0"))) for x in expected) - 2
    assert np.array_equal(np.round(np.asarray(p, float), digits), np.round(expected, digits))
    print(f"softmax{scores} at T = {T:g}: ({', '.join(f'{x:.{digits}f}' for x in p)})")

# %% [markdown]
# ## Where is the peak?
#
# `soft_argmax` is the expected coordinate: a differentiable arg max. At high temperature it is the
# middle of the picture; cooled, it moves to the peak. A second peak pulls it into the valley
# between, where nothing is; with α > 1 points that lie low enough do not pull at all.

# %%
rows, columns = jnp.mgrid[0:48, 0:72]


def bump(row, column, width):
    return jnp.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * width**2))


heat = 6 * bump(12, 56, 5) + 5.7 * bump(39, 46, 5)
temperatures = jnp.geomspace(1e5, 0.01, 351)
paths = jax.jit(
    lambda T, alpha: jax.vmap(
        lambda t: js.soft_argmax(heat, axis=(0, 1), alpha=alpha, temperature=t)
    )(T)
)
figure, ax = style.card(
    "The expected coordinate, cooled: from the middle, by way of the valley, to the peak",
    size=(9, 4.2),
)
ax.imshow(heat, cmap="Greys", vmin=-1.5, vmax=9, origin="upper")
for alpha, color in ((1.0, BLUE), (2.0, ORANGE)):
    path = paths(temperatures, alpha)
    ax.plot(path[:, 1], path[:, 0], color=color)
    for T, at in zip(temperatures[::50], path[::50], strict=True):
        ax.plot(at[1], at[0], "o", color=color, markersize=4)
        print(f"α = {alpha:g}, T = {T:9.2f}: row {at[0]:6.2f}, column {at[1]:6.2f}")
    if alpha == 1:
        style.label(ax, path[0, 1], path[0, 0], "T → ∞", INK, (-6, 0), ha="right")
        style.label(ax, path[250, 1], path[250, 0], "α = 1: T = 1", color, (-4, 10), ha="right")
    else:
        style.label(ax, path[100, 1], path[100, 0], "α = 2: T = 1000", color, (6, 2))
ax.plot(56, 12, "+", color=INK, markersize=11)
style.label(ax, 56, 12, "T → 0", INK, (10, 0))
ax.grid(False)
ax.set_xlabel("column (pixels)")
ax.set_ylabel("row (pixels)")
plt.show()

# %% [markdown]
# ## A large row as a few classes
#
# When only a handful of 50,000 classes has mass, `entmax_sparse` returns just these: values,
# indices, and a certificate that nothing was left out. The threshold is found among the `size`
# largest scores; if the next one lies below it, the answer is exact.

# %%
z = jax.random.normal(jax.random.key(1), (3, 50_000)) * jnp.array([[0.5], [1.0], [3.0]])
dense = entmax(z)
print("spread of the scores   classes with mass   size    certificate   largest error")
for size in (8, 64, 512):
    few = js.entmax_sparse(z, size)
    back = jnp.zeros_like(z).at[jnp.arange(3)[:, None], few.indices].set(few.values)
    for i, spread in enumerate((0.5, 1.0, 3.0)):
        count, error = int((dense[i] > 0).sum()), jnp.abs(back - dense)[i].max()
        print(f"{spread:12.1f} {count:22d} {size:14d}    {few.certificate[i]!s:8s}     {error:.1e}")
few = js.entmax_sparse(z, 8)
print("\nthe widest row:", few.values[2], "\n            at:", few.indices[2])
