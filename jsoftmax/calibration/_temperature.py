"""Temperature scaling: one temperature for all logits, fitted to held-out labels.

In the inverse temperature β every Fenchel–Young loss is convex, because Ω* is and βz is linear in
β. With u = z − ⟨y, z⟩ measured from the target's own score, p = entmax(βz) and s = slope(p),

    ∂L/∂β = ⟨p − y, z⟩ = Σ p u,        ∂²L/∂β² = Σ s (u − ū)²,   ū = Σ s u / Σ s,

so that the best β is the only root of an increasing function.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.calibration._examples import read_examples
from jsoftmax.calibration._sums import total
from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._cooled import cooled
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._mesh_axes import alike
from jsoftmax.core._problem import Problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._simplex import solved_masses
from jsoftmax.core.curves import slope_at

BOUNDS = (1e-3, 1e3)
_STEPS = 100  # each halves the bracket in log β, or the previous step


@on_explicit_axes(like="logits", axis="axis")
def temperature_scaling(
    logits: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    bounds: tuple[float, float] = BOUNDS,
    axis_name: Hashable | None = None,
) -> Float[Array, ""]:
    r"""Return the temperature of least loss on held-out targets: one number for all rows.

    .. math:: T^* = \arg\min_T \sum_n w_n L_α(z_n/T, y_n)

    for the Fenchel–Young loss of order α, at α = 1 cross-entropy. Predicted classes stay the same;
    only the confidence changes. The loss is convex in 1/T. T* is found by Newton steps on log T,
    safeguarded by a bracket, until |∂L/∂T| is at most 32 eps of the sum of the magnitudes of its
    terms, or T is known to 4 eps.

    Use it as `softmax(logits, temperature=T)`, or `entmax(logits, alpha, temperature=T)`.

    Args:
        logits: scores z of shape [..., K, ...] of held-out examples, any real dtype.
        targets: classes, integers of the shape of `logits` without the class axis; or
            distributions, floats of the shape of `logits` that sum to 1 along `axis`.
        alpha: α > 0 of the mapping, finite, a number or an array with size 1 along `axis`; 1 if
            None.
        axis: the class axis or axes.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        where: boolean mask that broadcasts to `logits`: only these classes take part. A row with
            a target that is masked or has the score −∞ costs +∞ at every T, and is ignored.
        weights: w ≥ 0, one number a row. Rows of weight 0 are ignored.
        ignore_index: rows with this label are ignored.
        bounds: the least and the largest temperature, both positive.
        axis_name: name of the mesh or `vmap` axis that splits the *rows*; the result is
            then the same on every part. None for all rows here.

    Returns:
        T*, a number in float32 at least, differentiable in logits, weights, α and distributions
        (by the implicit function theorem; 0 where T* is a bound). If every label has the highest
        score, the loss decreases, or is 0, as T → 0: T* is the lower bound. If labels have lower
        scores than the rest on average, T* is the upper bound. If nothing depends on T, as without
        rows or with equal logits, T* is 1, or the bound nearest to 1. NaN for a label out of range
        in a `jax.Array`.

    Raises:
        TypeError: if `logits` are not real numbers, or `where` or `targets` have a wrong dtype.
        ValueError: if shapes do not fit, there are no classes, `alpha` is not positive or infinite,
            `weights` are negative, `bounds` are not 0 < low < high < ∞, or a label given by Python
            or numpy is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[8.0, 0.0], [8.0, 0.0], [8.0, 0.0], [8.0, 0.0]])
        >>> t = temperature_scaling(z, jnp.array([0, 0, 0, 1]))
        >>> print(t, 8 / jnp.log(3.0))
        7.2819138 7.2819138

    Reference:
        C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks",
        ICML 2017.
    """
    function = "temperature_scaling"
    low, high = _bounds(function, bounds)
    ask, y, w = read_examples(
        function, logits, targets, alpha, regularizer, axis, where, weights, ignore_index
    )
    return 1 / sharpness(ask, y, w, (low, high), axis_name)


def _bounds(function, bounds) -> tuple[float, float]:
    pair = bounds if isinstance(bounds, tuple | list) and len(bounds) == 2 else (None, None)
    low, high = (checks.static_number(x) for x in pair)
    if low is None or high is None or not 0 < low < high < float("inf"):
        raise ValueError(
            f"jsoftmax.{function}: `bounds` must be two numbers, 0 < low < high < ∞, got "
            f"{bounds!r}."
        )
    return low, high


def sharpness(
    ask: Problem, y: Array, w: Array, bounds: tuple[float, float], over: Hashable | None
) -> Array:
    """Return the best β = 1/T, for the rows of all parts on the axis `over`."""
    low, high = (jnp.asarray(t, ask.z.dtype) for t in bounds)
    v = cooled(ask.z, jnp.ones((1,) * ask.z.ndim, ask.z.dtype), ask.classes)
    return _sharpness(v, y, w, ask.regularizer, (1 / high, 1 / low), ask.classes, over)


@partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _sharpness(
    v: Array, y: Array, w: Array, regularizer: Regularizer, limits: tuple[Array, Array],
    classes: ClassAxis, over: Hashable | None,
) -> Array:  # fmt: skip
    """Return the β in `limits` that minimises Σ w L(βv, y), for v = z − max z."""
    return _searched(v, y, w, regularizer, limits, classes, over)


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnums=(5, 6), inline=True)
def _searched(v, y, w, regularizer, limits, classes, over):
    # In x = log β. The ends of the bracket come first: if the slope has one sign at both, the
    # minimum is at an end. Then Newton's step, unless it leaves the bracket or is more than half of
    # the last one.
    eps = jnp.finfo(v.dtype).eps
    ends = jnp.log(limits[0]), jnp.log(limits[1])
    start = jnp.clip(0 * ends[0], *ends)

    def unfinished(state):
        _, low, high, _, settled, step = state
        return ~settled & (high - low > 4 * eps) & (step < _STEPS)

    def improve(state):
        x, low, high, last, _, step = state
        beta = jnp.exp(x)
        slope, bend, terms = _derivatives(beta, v, y, w, regularizer, classes, over)
        first, second = step == 0, step == 1
        flat, spoiled = first & (terms == 0), jnp.isnan(slope)
        at_end = (first & (slope >= 0)) | (second & (slope <= 0))
        settled = at_end | spoiled | (jnp.abs(slope) <= 32 * eps * terms)
        low, high = jnp.where(slope < 0, x, low), jnp.where(slope < 0, high, x)
        towards = -slope / jnp.maximum(beta * bend, jnp.finfo(beta.dtype).tiny)
        good = (x + towards > low) & (x + towards < high) & (2 * jnp.abs(towards) < last)
        new = jnp.where(good, x + towards, low + (high - low) / 2)
        new = jnp.where(first, ends[1], jnp.where(second, start, new))
        new = jnp.where(spoiled, slope, jnp.where(settled, x, new))
        new = jnp.where(flat, start, new)
        last = jnp.where(step < 2, ends[1] - ends[0], jnp.abs(new - x))
        return new, low, high, last, settled, step + 1

    state = (ends[0], *ends, ends[1] - ends[0], jnp.bool_(False), 0)
    state, *_ = alike((state, v, y, w), but=over)
    x, *_ = jax.lax.while_loop(unfinished, improve, state)
    # exp(log) of a bound would not be the bound.
    beta = jnp.where(x <= ends[0], limits[0], jnp.exp(x))
    return jnp.where(x >= ends[1], limits[1], beta)


@_sharpness.defjvp
def _sharpness_jvp(classes, over, primals, tangents):
    # Differentiate g(β, θ) = ∂L/∂β = 0:  g′ β̇ + ġ = 0. At a bound β is constant.
    v, y, w, regularizer, limits = primals
    beta = _sharpness(v, y, w, regularizer, limits, classes, over)

    def slope(v, y, w, regularizer):
        slope, bend, _ = _derivatives(beta, v, y, w, regularizer, classes, over)
        return slope, bend

    _, moved, bend = jax.jvp(slope, (v, y, w, regularizer), tangents[:4], has_aux=True)
    free = (beta > limits[0]) & (beta < limits[1]) & (bend > 0)
    return beta, jnp.where(free, -moved / jnp.where(free, bend, 1), 0)


def _derivatives(beta, v, y, w, regularizer, classes, over):
    """Return ∂L/∂β, ∂²L/∂β² and Σ |terms| of the first, as weighted means."""
    excluded = v == -jnp.inf
    v = jnp.where(excluded, 0, v)
    z = jnp.where(excluded, -jnp.inf, beta * v)
    p, t = solved_masses(z, None, regularizer, classes)
    s = slope_at(p, t, regularizer)
    s_total = classes.sum(s)
    u = v - classes.sum(y * v)
    centre = classes.sum(s * u) / jnp.where(s_total > 0, s_total, 1)
    # The classes of each row are summed first, then the rows, since there may be many rows.
    w = w.ravel()
    share = w / jnp.maximum(total(w, over), jnp.finfo(w.dtype).tiny)
    slope, bend, terms = (
        total(share * classes.sum(x).ravel(), over)
        for x in (p * u, s * jnp.square(u - centre), p * jnp.abs(u))
    )
    return slope, bend, terms
