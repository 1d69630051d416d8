"""Routing: choose the experts of each token, and their weights."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._problem import Problem, problem, read_regularizer
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import SHANNON, chosen
from jsoftmax.mappings import regularized_argmax, softmax
from jsoftmax.routing._capacity import read_capacity, within_capacity
from jsoftmax.routing._chosen_experts import chosen_experts, read_limits
from jsoftmax.routing._routing_statistics import RoutingStatistics, statistics_of

_SCORES = ("softmax", "sigmoid", "entmax")
_LAST = ClassAxis((-1,))


class Routing(NamedTuple):
    """The result of `route`.

    Args:
        experts: of shape [..., k], the numbers of the chosen experts, the best first. The number E
            fills the places of missing experts: with `mode="drop"` its update of an array of E rows
            is dropped.
        weights: of shape [..., k], the weight of each expert; 0 for a missing expert.
        statistics: `RoutingStatistics`, sums over all tokens.

    Example:
        >>> import jax.numpy as jnp
        >>> routing = route(jnp.array([[0.0, 3.0, 2.0], [9.0, 0.0, 0.0]]), 2, score="entmax")
        >>> print(routing.experts.tolist())
        [[1, 2], [0, 3]]
    """

    experts: Int[Array, "... k"]
    weights: Float[Array, "... k"]
    statistics: RoutingStatistics


@on_explicit_axes(like="logits")
def route(
    logits: ArrayLike,
    k: int,
    *,
    score: str = "softmax",
    normalize: bool = True,
    bias: ArrayLike | None = None,
    groups: int = 1,
    groups_kept: int | None = None,
    group_best: int = 2,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    capacity: ArrayLike | None = None,
    where: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Routing:
    r"""Choose k experts for each token, weigh them, and sum the statistics that balance them.

    .. math:: C = \mathrm{top}_k(s + b), \qquad w_i = s_i \Big/ \sum_{j \in C} s_j
              \quad (i \in C)

    ============ ====================== ============================= =========================
    score        s                      w, `normalize`                w, not normalised
    ============ ====================== ============================= =========================
    "softmax"    softmax(z)             softmax of the k chosen z     softmax(z) at the chosen
    "sigmoid"    σ(z)                   σ(z)/Σ σ(z) over the chosen   σ(z) at the chosen
    "entmax"     softmax(z)             entmax of the k chosen z      entmax(z) at the chosen
    ============ ====================== ============================= =========================

    A softmax before the choice, divided by its sum over the chosen, *is* the softmax after it, so
    one option covers both. With "entmax" the support decides: experts of weight 0 are dropped, and
    a token has from 1 to k experts. With a `bias` that follows the load (`update_bias`) experts are
    balanced without a loss. Ties are broken by the lowest number.

    With a `capacity` c the weights that one expert gives to all tokens sum to at most c. An expert
    with more demand solves, over the tokens that chose it,

    .. math:: \max_{q} ⟨q, \log s⟩ - Ω(q), \qquad 0 ≤ q_t ≤ w_t/c, \quad \sum_t q_t = 1

    which is `capped_entmax` along the tokens, and assigns them c q: no weight grows, and the least
    certain tokens are dropped. At α = 1 weights shrink in proportion to s. The result depends on
    the other tokens of the batch, later ones included.

    Args:
        logits: router scores z of shape [..., E], any real dtype. The tokens are all axes but the
            last.
        k: how many experts a token has, from 1 to E; static.
        score: "softmax", "sigmoid", or "entmax".
        normalize: whether the weights of a token sum to 1 over its experts.
        bias: b of shape [E], or any shape that broadcasts to `logits`. It enters the choice only
            and has no gradient.
        groups: the number n of equal groups of consecutive experts; n divides E.
        groups_kept: how many groups a token may choose from, those with the largest sum of their
            `group_best` best s + b; None for all.
        group_best: how many of its experts score a group: 2 as in DeepSeek-V3, 1 as in DeepSeek-V2.
        alpha: α > 0 of "entmax" and of the capacity, a number; an array has size 1 along the
            experts, and for a capacity along the tokens too. 1.5 if None.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        capacity: c > 0, the largest total weight of an expert, a number or one for each expert, of
            shape [E]; None for no limit. It limits weight: a capacity factor f is f × tokens/E here
            (not f × tokens × k/E, the limit on assignments).
        where: boolean mask that broadcasts to `logits`: only these experts take part. Shape
            [..., 1] masks tokens, also in the statistics.
        axis_name: name of the mesh or `vmap` axis, or a tuple of them, that splits the *tokens*:
            statistics are then those of all tokens, the same on every part, and a capacity is
            shared.

    Returns:
        `Routing`: experts as int32, weights in the dtype of `logits` (the default float dtype for
        integers), and the statistics in float32 at least. `statistics.balance_loss` and
        `statistics.z_loss` come from the same softmax(z). For "sigmoid" the probabilities of the
        balance loss are σ(z)/Σ σ(z) over all experts.

    Raises:
        TypeError: if `logits` are not real numbers, `where` is not boolean, or `k`, `groups`,
            `groups_kept` or `group_best` is not an int.
        ValueError: if shapes do not fit, there are no experts, `score` is unknown, or a number
            known while tracing is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 3.0, 1.0]])
        >>> routing = route(z, 2)
        >>> print(routing.experts.tolist(), routing.weights.round(3).tolist()[0])
        [[0, 1], [2, 3]] [0.731, 0.269]
        >>> print(routing.statistics.load, routing.statistics.balance_loss)
        [1 1 1 1] 1.0
        >>> print(route(z, 2, score="sigmoid", bias=jnp.array([0, 0, 0, 9.0])).experts.tolist())
        [[3, 0], [3, 2]]

    Reference:
        N. Shazeer et al., "Outrageously large neural networks", ICLR 2017; W. Fedus, B. Zoph and
        N. Shazeer, "Switch transformers", JMLR 2022 (balance loss); B. Zoph et al., "ST-MoE", 2022
        (z-loss); DeepSeek-AI, "DeepSeek-V3 technical report", 2024 (sigmoid, bias, groups).
    """
    function = "route"
    if score not in _SCORES:
        raise ValueError(
            f"jsoftmax.{function}: `score` is {score!r}; give it one of "
            f"{', '.join(map(repr, _SCORES))}."
        )
    ask = problem(function, logits, -1, where)
    limits = read_limits(function, ask, k, groups, groups_kept, group_best)
    family = chosen(function, alpha, regularizer, beside_axis=False)
    read_regularizer(function, family, lambda name, x: _per_token(function, name, x, ask))
    limit = None if capacity is None else read_capacity(function, capacity, ask.z)
    z, p = ask.z, ask.probabilities()
    s = jax.nn.sigmoid(z) if score == "sigmoid" else p
    experts, exists = chosen_experts(z, s, _bias(function, bias, ask), limits)
    if not normalize:
        of_all = regularized_argmax(z, family) if score == "entmax" else s
        weights = jnp.take_along_axis(of_all, experts, -1)
    else:
        rank = jnp.where(exists, jnp.take_along_axis(z, experts, -1), -jnp.inf)
        # σ/Σσ is the softmax of log σ, which does not underflow.
        rank = jax.nn.log_sigmoid(rank) if score == "sigmoid" else rank
        weights = regularized_argmax(rank, family if score == "entmax" else SHANNON)
    if score == "entmax":
        exists = exists & (weights != 0)
    experts, weights = _with_gaps(experts, weights, exists, z)
    statistics = statistics_of(
        _dense(exists, experts, z),
        softmax(jax.nn.log_sigmoid(z)) if score == "sigmoid" else p,
        ask.conjugate(),
        ~(jnp.max(z, -1, keepdims=True) == -jnp.inf),
        axis_name,
    )
    if limit is not None:
        rank = jax.nn.log_sigmoid(z) if score == "sigmoid" else ask.log_probabilities()
        dense = within_capacity(_dense(weights, experts, z), rank, limit, family, axis_name)
        number = jnp.minimum(experts, z.shape[-1] - 1)
        weights = jnp.where(exists, jnp.take_along_axis(dense, number, -1), 0)
        experts, weights = _with_gaps(experts, weights, weights != 0, z)
    return Routing(experts, weights.astype(ask.dtype), statistics)


def _per_token(function: str, name: str, x: Any, ask: Problem) -> Array:
    return checks.per_row(function, name, x, ask.z, ask.classes, ask.z.dtype)


def _bias(function: str, bias: Any, ask: Problem) -> Array | None:
    if bias is None:
        return None
    b = checks.as_array(function, "bias", bias)
    b = checks.aligned(function, "bias", b, ask.z.shape)
    return jax.lax.stop_gradient(b.astype(ask.z.dtype))


def _with_gaps(experts: Array, weights: Array, exists: Array, z: Array) -> tuple[Array, Array]:
    """Return experts and weights, with the number E and the weight 0 for missing experts."""
    return jnp.where(exists, experts, z.shape[-1]), jnp.where(exists, weights, 0)


def _dense(x: Array, experts: Array, like: Array) -> Array:
    """Scatter numbers or flags of the chosen experts into rows of all experts, [..., E]."""
    places = _LAST.index(like)[..., None, :] == experts[..., None]
    if x.dtype == jnp.bool_:
        return jnp.any(places & x[..., None], -2)
    return jnp.sum(jnp.where(places, x[..., None], 0), -2)
