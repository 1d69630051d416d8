"""Nonconformity scores from logits: the temperature where a class enters the support of entmax."""

from __future__ import annotations

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.calibration._examples import classes_back, classes_first
from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._cooled import cooled
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._problem import problem
from jsoftmax.core.regularizers import Tsallis, of_order


@on_explicit_axes(like="logits", axis="axis")
def entmax_scores(
    logits: ArrayLike,
    alpha: ArrayLike = 1.5,
    axis: int | tuple[int, ...] = -1,
    *,
    where: ArrayLike | None = None,
) -> Float[Array, "..."]:
    r"""Return the temperature where each class enters the support of `entmax`.

    .. math:: s_k = (α-1) \Big( \sum_j (z_j - z_k)_+^{1/(α-1)} \Big)^{α-1}

    Class k has a probability above 0 exactly if T > s_k. So calibrating sets by this score means
    calibrating a temperature: with T = `conformal_threshold(entmax_scores(z, α), labels, c)` the
    sets of new examples are the support, `entmax(z, α, temperature=T) > 0`, and the classes that
    enter exactly at T. These sets need no sorting, and no scores of new examples.

    Unlike scores from sparse probabilities these have no ties where p = 0: they still rank excluded
    classes. The class with the highest logit has the score 0: no set is empty, and coverage is
    never below accuracy. For `softmax` use the log-margin max z − z_k, the limit of s/(α−1) for
    α → 1.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        alpha: α > 1, finite, a number or an array with size 1 along `axis`.
        axis: the class axis or axes.
        where: boolean mask that broadcasts to `logits`: only these classes take part, and the
            others have the score +∞, as has a logit of −∞.

    Returns:
        Temperatures of the shape of `logits`, in float32 at least. The cost is K sums over a row.
        NaN in a row that holds NaN, and for an α in an array that is not above 1.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, there are no classes, or `alpha` is a number that is not
            above 1, or infinite.

    Example:
        >>> import jax.numpy as jnp
        >>> from jsoftmax import entmax
        >>> z = jnp.array([3.0, 2.0, 0.0])
        >>> print(entmax_scores(z, 2.0))
        [0. 1. 5.]
        >>> print(entmax(z, 2.0, temperature=5.0), entmax(z, 2.0, temperature=5.5))
        [0.6 0.4 0. ] [0.575758 0.393939 0.030303]

    Reference:
        M. M. Campos, J. Cálem, S. Sklaviadis, M. A. T. Figueiredo and A. F. T. Martins, "Sparse
        activations as conformal predictors", AISTATS 2025.
    """
    # At T = s_k the class has 1 + (α−1)(z_k/T − τ) = 0, so p_j = [(α−1)(z_j − z_k)/T]₊^{1/(α−1)};
    # their sum is 1. A higher T lowers all of these terms and leaves mass for class k.
    function = "entmax_scores"
    checks.as_array(function, "alpha", alpha)
    known = checks.known_values(alpha)
    if known is not None and not ((known > 1) & (known < jnp.inf)).all():
        raise ValueError(
            f"jsoftmax.{function}: `alpha` must be above 1 and finite, got {alpha!r}: with α ≤ 1 "
            "no class ever leaves the support."
        )
    ask = problem(function, logits, axis, where, regularizer=of_order(function, alpha))
    tsallis = cast(Tsallis, ask.regularizer)
    a = tsallis.exponent
    scores = _entries(ask.z, tsallis, ask.classes)
    if not isinstance(a, float):  # the temperature is 0 where α is ∞
        scores = jnp.where((a > 0) & (ask.temperature != 0), scores, jnp.nan)
    return ask.unmasked(scores, jnp.inf)


# Compiled once for each shape, also when called outside `jit`. It is not inlined, so that its
# tangent is one program too, transposed and compiled once.
@partial(jax.jit, static_argnums=(2,))
def _entries(z: Array, tsallis: Tsallis, classes: ClassAxis) -> Array:
    """Return the temperatures where classes enter."""
    a = tsallis.exponent
    v = cooled(z, jnp.ones((1,) * z.ndim, z.dtype), classes)  # z − max z, −∞ excluded
    finite = jnp.where(v == -jnp.inf, 0, v)

    def of_class(lowest):
        # The norm is that of (v_j − v_k)₊/|v_k|, which is 1 at the top and cannot overflow.
        lowest = jnp.expand_dims(lowest, classes.axis)
        depth = jnp.where((lowest < 0) & (lowest > -jnp.inf), -lowest, 1)
        shrink = jnp.where(depth > 1, 2.0**-32, 1).astype(v.dtype)  # 1/depth must not underflow
        gaps = (finite + depth) * shrink / (depth * shrink)
        gaps = jnp.where((v > -depth) & (lowest < 0), gaps, 0)
        norm = _power(classes.sum(_power(gaps, a, -1)), a, 1)
        score = jnp.where(lowest < 0, a * depth * norm, 0)
        score = jnp.where(lowest == -jnp.inf, jnp.inf, jnp.where(lowest == lowest, score, lowest))
        return jnp.squeeze(score, classes.axis)

    return classes_back(jax.lax.map(of_class, classes_first(v, classes)), v, classes)


def _power(x: Array, a: float | Array, sign: int) -> Array:
    """Return x^a or x^(1/a), 0 for x = 0; exact for powers 1 and 2."""
    power = a if sign > 0 else 1 / a
    if isinstance(power, float) and power in (1.0, 2.0):
        return x if power == 1 else x * x
    if isinstance(power, float) and power == 0.5:
        return jnp.sqrt(x)
    return jnp.where(x > 0, jnp.exp(power * jnp.log(jnp.where(x > 0, x, 1))), 0)
