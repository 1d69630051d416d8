"""Kullback–Leibler divergence between two models, from features and class tables."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import SHANNON
from jsoftmax.vocabulary.linear._linear_arguments import Rows, read_rows, with_regularizer
from jsoftmax.vocabulary.linear._log_divergences import DIRECTIONS
from jsoftmax.vocabulary.linear._mesh_parts import on_parts
from jsoftmax.vocabulary.linear._token_targets import with_temperatures
from jsoftmax.vocabulary.linear._two_models import Mixed, Pair, divergences


@on_parts(tables=("_p", "_q"))
def linear_kl_divergence(
    features_p: ArrayLike,
    kernel_p: ArrayLike,
    features_q: ArrayLike,
    kernel_q: ArrayLike,
    *,
    direction: str = "forward",
    weight: ArrayLike | None = None,
    regularizer: Regularizer = SHANNON,
    bias_p: ArrayLike | None = None,
    bias_q: ArrayLike | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    temperature_q: ArrayLike | None = None,
    logits_soft_cap_p: float | None = None,
    logits_soft_cap_q: float | None = None,
    class_axis_p: int = -1,
    class_axis_q: int = -1,
    axis_name: Hashable | None = None,
    block_tokens: int | None = None,
    block_classes: int | None = None,
) -> Float[Array, "..."]:
    r"""Compute KL(p‖q) between the softmax of two models' logits, without large arrays of logits.

    .. math:: z = c \tanh((h W + b)/c)/T, \qquad
              \mathrm{KL}(p‖q) = \sum_i p_i (\log p_i - \log q_i)

    ================  ========================================================================
    direction         result
    ================  ========================================================================
    "forward"         KL(p‖q)
    "reverse"         KL(q‖p)
    "jeffreys"        KL(p‖q) + KL(q‖p)
    "jensen_shannon"  w KL(p‖m) + (1−w) KL(q‖m) for m = w p + (1−w) q, at most the entropy of w
    ================  ========================================================================

    With another `regularizer` KL(p‖q) becomes Ω*(z_q) + Ω(p) − ⟨p, z_q⟩, the Fenchel–Young loss of
    the second model when p is the target: `Tsallis(1.5)` compares the predictions of `entmax`.
    Jensen–Shannon becomes w Ω(p) + (1−w) Ω(q) − Ω(m).

    Every term of the sum is at least 0, and 0 where p and q are equal. Derivatives exist in both
    modes and of any order: in features, kernels, biases and temperatures of both models. For a
    teacher use `jax.lax.stop_gradient` on its features and kernel, to remove its backward pass from
    the program. The regularizer and w are constants to derivatives.

    The rows of both models are in memory for a block of tokens at a time. The backward pass
    recomputes scores in blocks of classes, by the rule of `linear_cross_entropy`.

    Args:
        features_p: hidden states of the first model, of shape [..., d], any real dtype.
        kernel_p: its class table, of shape [d, K], or [K, d] where `class_axis_p` is 0.
        features_q: hidden states of the second model, of shape [..., d′].
        kernel_q: its class table, of shape [d′, K], or [K, d′] where `class_axis_q` is 0.
        direction: "forward", "reverse", "jeffreys" or "jensen_shannon".
        weight: w of "jensen_shannon", between 0 and 1, a number or an array of size 1 along the
            classes, as [..., 1]; None for 1/2. Other directions have no weight.
        regularizer: ω, a `Regularizer` with a finite order; its arrays have size 1 along the
            classes.
        bias_p: of shape [K].
        bias_q: of shape [K].
        where: boolean mask that broadcasts to [..., K]: only these classes take part in both
            models. Shape [..., 1] leaves out tokens: their result and gradient are 0.
        temperature: T > 0 of both models, a number or an array of size 1 along the classes. In an
            array any other number makes the result of its token NaN.
        temperature_q: the temperature of the second model, if it differs.
        logits_soft_cap_p: c > 0, a number; None for none.
        logits_soft_cap_q: c > 0, a number; None for none.
        class_axis_p: the axis of the classes in `kernel_p`: −1 for [d, K], 0 for [K, d].
        class_axis_q: the axis of the classes in `kernel_q`.
        axis_name: name of the mesh or `vmap` axis that splits the classes of both kernels, both
            biases and `where`.
        block_tokens: rows of scores in memory at once; None for the rule.
        block_classes: classes per block of the backward pass; None for the rule.

    Returns:
        One divergence per token, of shape [...], in float32 at least. 0 for a fully masked token;
        +∞, with a finite gradient, where a class has score −∞ in one model and mass in the other,
        and the direction contains that term.

    Raises:
        TypeError: if features or kernels are not real numbers, `where` is not boolean, or
            `regularizer` is not a `Regularizer`.
        ValueError: if shapes do not fit, for an unknown direction, a `weight` with another
            direction, an infinite order, or a number known while tracing that is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> W = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]))
        >>> teacher, student = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> print(linear_kl_divergence(teacher, W, student, W).round(4))
        [0.1733]
    """
    function = "linear_kl_divergence"
    check_direction(function, direction, weight)
    regularizer = jax.tree.map(jax.lax.stop_gradient, regularizer)
    temperatures = temperature, temperature if temperature_q is None else temperature_q
    features = [checks.as_array(function, f"features{end}", x)
                for end, x in (("_p", features_p), ("_q", features_q))]  # fmt: skip
    kernels = [checks.as_array(function, f"kernel{end}", x)
               for end, x in (("_p", kernel_p), ("_q", kernel_q))]  # fmt: skip
    features = _in_one_dtype(features, kernels)
    rows = []
    for h, w, bias, t, cap, axis in zip(
        features, kernels, (bias_p, bias_q), temperatures,
        (logits_soft_cap_p, logits_soft_cap_q), (class_axis_p, class_axis_q), strict=True,
    ):  # fmt: skip
        of_one = read_rows(
            function, h, w, bias=bias, where=where, class_axis=axis, temperature=t,
            logits_soft_cap=cap, axis_name=axis_name, block_tokens=block_tokens,
            block_classes=block_classes,
        )  # fmt: skip
        rows.append(with_regularizer(of_one, regularizer))
    p, q = rows
    if p.scores.shape != q.scores.shape:
        raise ValueError(
            f"jsoftmax.{function}: the first model has logits of shape {p.scores.shape}, the second"
            f" of shape {q.scores.shape}. Give both the same tokens and the same classes."
        )
    if p.rule.is_hard:
        raise ValueError(
            f"jsoftmax.{function}: `regularizer` is {regularizer!r}, which selects the largest "
            "score and has no divergence. Give it a finite order."
        )
    share = None
    if direction == "jensen_shannon":
        share = jax.lax.stop_gradient(p.per_row("weight", 0.5 if weight is None else weight))
    loss = _settled(DIRECTIONS[direction], (p.rule, q.rule), *_both(p, q), Mixed(share))
    return p.shaped(loss)[..., 0]


# Compiled once per shape, even when called outside of `jit`. Not inlined, so that its transpose is
# compiled once too.
@partial(jax.jit, static_argnums=(0, 1))
def _settled(direction: Any, rules: Any, moving: Any, fixed: Any, mixed: Mixed) -> Array:
    moving, tempered = zip(*map(with_temperatures, moving, fixed), strict=True)
    loss, _ = divergences(Pair(rules, *direction), moving, fixed, mixed)
    for valid in (*tempered, *(None if f.hard is None else ~f.hard for f in fixed)):
        if valid is not None:
            loss = jnp.where(valid, loss, jnp.nan)
    if mixed.share is not None:
        loss = jnp.where((mixed.share > 0) & (mixed.share < 1), loss, jnp.nan)
    return loss


def _both(p: Rows, q: Rows) -> tuple[Any, Any]:
    return (p.moving, q.moving), (p.fixed, q.fixed)


def check_direction(function: str, direction: str, weight: Any) -> None:
    """Validate the direction and the weight of a divergence.

    Raises:
        ValueError: for an unknown direction, and for a weight that is out of range or not used.
    """
    if direction not in DIRECTIONS:
        names = ", ".join(map(repr, DIRECTIONS))
        raise ValueError(f"jsoftmax.{function}: `direction` is {direction!r}; give one of {names}.")
    if weight is None:
        return
    if direction != "jensen_shannon":
        raise ValueError(
            f"jsoftmax.{function}: `weight` belongs to direction='jensen_shannon', but the "
            f"direction is {direction!r}. Leave it out."
        )
    number = checks.static_number(weight)
    if number is not None and not 0 < number < 1:
        raise ValueError(
            f"jsoftmax.{function}: `weight` must be between 0 and 1, got {weight!r}. At the ends "
            "the divergence is 0 for any models."
        )


def _in_one_dtype(features: list[Array], kernels: list[Array]) -> list[Array]:
    """Promote features so that both models have scores of one dtype."""
    dtypes = [
        jnp.result_type(*map(checks.compute_dtype, arrays))
        for arrays in zip(features, kernels, strict=True)
    ]
    if dtypes[0] == dtypes[1]:
        return features
    return [x.astype(jnp.result_type(*dtypes)) for x in features]
