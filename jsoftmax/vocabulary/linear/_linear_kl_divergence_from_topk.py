"""Divergence from a teacher given by its top-k classes alone."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.vocabulary.linear._class_events import events
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule, read_rows
from jsoftmax.vocabulary.linear._linear_kl_divergence import check_direction
from jsoftmax.vocabulary.linear._log_divergences import log_divergence
from jsoftmax.vocabulary.linear._mesh_parts import on_parts
from jsoftmax.vocabulary.linear._token_targets import Fate, with_targets


@on_parts()
def linear_kl_divergence_from_topk(
    features: ArrayLike,
    kernel: ArrayLike,
    ids: ArrayLike,
    log_probs: ArrayLike,
    *,
    direction: str = "forward",
    weight: ArrayLike | None = None,
    rest: str = "class",
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
    axis_name: Hashable | None = None,
    block_tokens: int | None = None,
    block_classes: int | None = None,
) -> Float[Array, "..."]:
    r"""Compute KL(p‖q) from a teacher p, known in k classes per token, to the softmax of h W + b.

    .. math:: z = c \tanh((h W + b)/c)/T, \qquad
              \sum_k p_k (\log p_k - \log q_k) + P (\log P - \log Q)

    where P = 1 − Σ p_k and Q = 1 − Σ q_k are the masses of all other classes, as one event. It is
    at most the divergence over all the classes, and 0 where the events have equal masses. With
    rest="renormalised" the p_k are divided by their sum, so that P = 0, and the student learns to
    give no mass to other classes.

    Unlike in `linear_kl_divergence`, no hidden states of the teacher are needed: its k
    log-probabilities may come from a file. They are constants to derivatives, which exist in
    features, kernel, bias and temperature, in both modes and of any order.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        ids: classes of the teacher, integers of shape [..., k], distinct within a token; some tens
            at most, since they are searched one by one.
        log_probs: log p_k of shape [..., k], at the temperature of the loss; −∞, with any id, pads
            a shorter list.
        direction: "forward", "reverse", "jeffreys" or "jensen_shannon", as `linear_kl_divergence`
            over the k + 1 events.
        weight: w of "jensen_shannon", between 0 and 1; None for 1/2.
        rest: "class", all other classes as one event, or "renormalised".
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K]: only these classes take part. Shape
            [..., 1] leaves out tokens: their result and gradient are 0.
        temperature: T > 0 of the student, a number or an array of size 1 along the classes. In an
            array any other number makes the result of its token NaN.
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: −1 for a kernel of shape [d, K], 0 for [K, d].
        axis_name: name of the mesh or `vmap` axis that splits the classes. `ids` are numbered over
            all parts.
        block_tokens: rows of scores in memory at once; None for the rule of `linear_cross_entropy`.
        block_classes: classes per block of the backward pass; None for the rule.

    Returns:
        One divergence per token, of shape [...], in float32 at least. 0 for a fully masked token,
        and for a token without any unmasked class of the teacher. NaN for an id out of range in a
        `jax.Array`: its values are not checked.

    Raises:
        TypeError: as `linear_cross_entropy`.
        ValueError: if shapes do not fit, for an unknown `direction` or `rest`, for "reverse" and
            "jeffreys" with rest="renormalised", which would be infinite, or a `weight` with another
            direction than "jensen_shannon".

    Example:
        >>> import jax.numpy as jnp
        >>> h, W = jnp.array([[1.0]]), jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]]))
        >>> ids, log_probs = jnp.array([[1, 0]]), jnp.log(jnp.array([[0.5, 0.25]]))
        >>> print(linear_kl_divergence_from_topk(h, W, ids, log_probs).round(4))
        [0.1733]
    """
    function = "linear_kl_divergence_from_topk"
    check_direction(function, direction, weight)
    if rest not in ("class", "renormalised"):
        raise ValueError(
            f"jsoftmax.{function}: `rest` must be 'class' or 'renormalised', got {rest!r}."
        )
    if rest == "renormalised" and direction in ("reverse", "jeffreys"):
        raise ValueError(
            f"jsoftmax.{function}: direction={direction!r} is +∞ with rest='renormalised', where "
            "the teacher has no mass on other classes. Use rest='class'."
        )
    rows = read_rows(
        function, features, kernel, bias=bias, where=where, class_axis=class_axis,
        temperature=temperature, logits_soft_cap=logits_soft_cap, axis_name=axis_name,
        block_tokens=block_tokens, block_classes=block_classes,
    )  # fmt: skip
    log_p = checks.as_array(function, "log_probs", log_probs).astype(rows.scores.dtype)
    shape = jnp.shape(ids)
    if log_p.shape != shape or shape[:-1] != rows.lead or shape[-1:] in ((), (0,)):
        raise ValueError(
            f"jsoftmax.{function}: `ids` and `log_probs` have the shapes {shape} and "
            f"{log_p.shape}; both need the shape {(*rows.lead, 'k')}, k classes for each token."
        )
    log_p = jax.lax.stop_gradient(log_p)
    known = checks.known_values(log_probs)  # so that ids with mass are checked
    shares = jnp.exp(log_p) if known is None else np.exp(known)
    rows, fate = with_targets(rows, (ids, shares), None, 0.0)
    share = None
    if direction == "jensen_shannon":
        share = jax.lax.stop_gradient(rows.per_row("weight", 0.5 if weight is None else weight))
    log_p = log_p.reshape(-1, log_p.shape[-1])
    loss = _settled((direction, rest), rows.rule, rows.moving, rows.fixed, log_p, share, fate)
    return rows.shaped(loss)[..., 0]


# Compiled once per shape, even when called outside of `jit`. Not inlined, so that its transpose is
# compiled once too.
@partial(jax.jit, static_argnums=(0, 1))
def _settled(
    kind: tuple[str, str], rule: Rule, moving: Moving, fixed: Fixed, log_p: Array,
    share: Array | None, fate: Fate,
) -> Array:  # fmt: skip
    direction, rest = kind
    found, row, _ = events(rule, moving, fixed)
    log_mass = jax.nn.logsumexp(log_p, axis=-1, keepdims=True)
    if rest == "renormalised":
        log_p = log_p - jnp.where(log_mass > -jnp.inf, log_mass, 0)
        log_rest = jnp.full_like(log_mass, -jnp.inf)
    else:
        # Rounded up, the mass of a list may exceed 1.
        log_rest = jnp.log(-jnp.expm1(jnp.minimum(log_mass, 0)))
        # Where the list has every class, it is rounding alone.
        rounding = log_p.shape[-1] * float(jnp.finfo(log_p.dtype).eps)
        is_named = (found.rest == -jnp.inf) & (log_mass > -rounding)
        log_rest = jnp.where(is_named, -jnp.inf, log_rest)
    log_p, log_q = (
        jnp.concatenate(x, axis=-1) for x in ((log_p, log_rest), (found.own, found.rest))
    )
    loss = log_divergence(direction, log_p, log_q, share)
    loss = fate.settle(jnp.where(row.tau == -jnp.inf, 0, loss))
    return loss if share is None else jnp.where((share > 0) & (share < 1), loss, jnp.nan)
