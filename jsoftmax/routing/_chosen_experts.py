"""Choose the k best experts of a token, from its best groups of experts."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import is_known
from jsoftmax.core._problem import Problem


class Limits(NamedTuple):
    """The numbers of chosen experts and groups."""

    k: int
    groups: int
    kept: int
    best: int  # the number of best experts that score a group


def read_limits(
    function: str, ask: Problem, k: Any, groups: Any, groups_kept: Any, group_best: Any
) -> Limits:
    """Check the numbers of a choice.

    Raises:
        TypeError: for one that is not an int.
        ValueError: for one out of range.
    """
    experts = ask.classes.size(ask.z)
    most = experts if is_known(experts) else np.iinfo(np.int32).max
    groups = checks.whole_number(function, "groups", groups, 1, most)
    if groups > 1 and most % groups:
        raise ValueError(
            f"jsoftmax.{function}: {experts} experts cannot be cut into `groups` of equal size: "
            f"{groups} does not divide {experts}."
        )
    size = most // groups
    kept = (
        groups
        if groups_kept is None
        else checks.whole_number(function, "groups_kept", groups_kept, 1, groups)
    )
    best = min(checks.whole_number(function, "group_best", group_best, 1, most), size)
    k = checks.whole_number(function, "k", k, 1, kept * size if kept < groups else most)
    return Limits(k, groups, kept, best)


def chosen_experts(z: Array, s: Array, bias: Array | None, limits: Limits) -> tuple[Array, Array]:
    """Return the k best experts of each token, and whether each exists, as (..., k) arrays.

    Experts are ranked by s + b. Without a bias those of the kept groups are ranked by z, since s is
    a monotone function of z that saturates.
    """
    choice = jax.lax.stop_gradient(z if bias is None else jnp.where(z == -jnp.inf, z, s + bias))
    if limits.kept < limits.groups:
        judged = choice
        if bias is None:
            judged = jax.lax.stop_gradient(jnp.where(z == -jnp.inf, z, s))
        choice = jnp.where(_in_kept_groups(judged, limits), choice, -jnp.inf)
    # `top_k` ranks −0 below 0, and picks the first of equal numbers.
    found, experts = jax.lax.top_k(jnp.where(choice == 0, 0, choice), limits.k)
    return experts, ~(found == -jnp.inf)


def _in_kept_groups(judged: Array, limits: Limits) -> Array:
    """Return whether each expert is in a group that is kept."""
    *tokens, experts = judged.shape
    grouped = judged.reshape(*tokens, limits.groups, experts // limits.groups)
    best, _ = jax.lax.top_k(grouped, limits.best)
    # A masked expert adds nothing, and a group of masked experts ranks last.
    score = jnp.sum(jnp.where(best == -jnp.inf, 0, best), -1)
    score = jnp.where(best[..., 0] == -jnp.inf, -jnp.inf, score)
    _, kept = jax.lax.top_k(jnp.where(score == 0, 0, score), limits.kept)
    is_kept = jnp.any(kept[..., None, :] == jnp.arange(limits.groups)[:, None], -1)
    return jnp.repeat(is_kept, experts // limits.groups, axis=-1)
