"""Attention by the kernels of `jsoftmax.kernels`, with the derivatives of XLA attention.

Kernels compute reverse mode too. Forward mode, and every further derivative, is that of XLA
attention of the same arguments.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.attention._attend import Sizes, computed
from jsoftmax.attention._attention_arguments import Given
from jsoftmax.attention._attention_problem import Rule
from jsoftmax.attention._kernel_passes import attended, pulled
from jsoftmax.core._mesh_axes import alike
from jsoftmax.core._named_trees import changes_of

_FUNCTION = "jsoftmax.dot_product_attention"
_WINDOWS = ((None, None), (None, 0))  # in records: none, and causal
_MOVING = ("query", "key", "value", "bias", "scale", "soft_cap", "sinks")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Static parameters beside the rule: XLA's block sizes, and whether τ is returned."""

    sizes: Sizes
    return_residual: bool


def by_pallas(given: Given, rule: Rule, sizes: Sizes, return_residual: bool) -> Any:
    """Return the mixtures, and τ on request, in the form of `dot_product_attention`.

    Raises:
        NotImplementedError: for arguments that the kernels do not support.
    """
    refuse(f"{_FUNCTION}: implementation='pallas' does", given, rule)
    return _computed(alike(given), rule, Plan(sizes, return_residual))


def by_record(given: Given, rule: Rule, sizes: Sizes, return_residual: bool) -> Any:
    """Compute the same where no implementation is named: by kernels on hardware in their record."""
    platforms = _recorded(given, rule)
    if not platforms:
        return computed(given, rule, sizes, return_residual)
    return _chosen(given, rule, Plan(sizes, return_residual), platforms)


def refuse(who: str, given: Given, rule: Rule) -> None:
    """Raise NotImplementedError for arguments that the kernels do not support."""
    for what, is_given in _refused(given, rule).items():
        if is_given:
            raise NotImplementedError(f"{who} not take {what}.")


def _refused(given, rule):
    arrays = given.query, given.key, given.value
    rng = given.dropout_rng
    return {
        "`axis_name`: split heads or the batch, or let implementation='xla' compute it": (
            rule.axis_name is not None
        ),
        "sizes that are symbols: let implementation='xla' compute them": not given.sizes_are_known,
        "a `dropout_rng` of this kind: make it by jax.random.key(seed, impl='threefry2x32')": (
            rng is not None and str(jax.random.key_impl(rng)) not in ("threefry2x32", "fry")
        ),
        "arrays that are split over an Explicit mesh: call it in jax.shard_map": any(
            part is not None for x in arrays for part in jax.typeof(x).sharding.spec
        ),
        "`query_offset`='segments': let implementation='xla' compute it": any(
            x is not None and x.shape[-1:] not in ((), (1,)) for x in (given.before, given.after)
        ),
        "a `scale` of each query: let implementation='xla' compute it": (
            given.scale is not None and given.scale.ndim > 1
        ),
        "`score_fn`: let implementation='xla' compute it": rule.score_fn is not None,
        "an empty batch: let implementation='xla' compute it": given.query.size == 0,
    }


def _recorded(given, rule):
    """Return the platforms with kernels that were right and faster for such a problem."""
    from jsoftmax.kernels import case_of, chosen, has_record

    if not has_record() or any(_refused(given, rule).values()) or rule.is_part:
        return frozenset()
    plain = {"query", "key", "value", "scale", "numbers", "score_arrays", "key_score_arrays"}
    plain |= {"key_value_seq_lengths"} if rule.are_few else set()
    others = (getattr(given, name) for name in set(given._fields) - plain)
    if any(x is not None for x in others) or rule.window not in _WINDOWS:
        return frozenset()
    alpha = getattr(rule.regularizer(given.numbers), "alpha", None)
    if not isinstance(alpha, float):
        return frozenset()
    *batch, queries, heads, width = given.query.shape
    keys, key_heads = given.key.shape[-3:-1]
    lead, dtype = math.prod(batch), given.query.dtype
    if rule.are_few:
        if rule.window != (None, None):
            return frozenset()
        shape = lead, key_heads, queries * heads // key_heads, keys, width
        return chosen("decoding", shape=shape, dtype=dtype, case=case_of(alpha))
    case = case_of(alpha, *["causal"] * (rule.window == (None, 0)))
    shape = lead * heads, queries, keys, width
    return chosen("attention", "attention gradient", shape=shape, dtype=dtype, case=case)


# Compiled once for a shape also outside of `jit`, and so is the next.
@partial(jax.jit, static_argnums=(1, 2, 3))
def _chosen(given, rule, plan, platforms):
    from jsoftmax.kernels import by_record

    return by_record(
        platforms,
        lambda given: _computed(alike(given), rule, plan),
        lambda given: computed(given, rule, plan.sizes, plan.return_residual),
        given,
    )


@partial(jax.jit, static_argnums=(1, 2))
def _computed(given, rule, plan):
    found = _attended(rule, plan, plan.return_residual, given)
    return (found["out"], found["tau"]) if plan.return_residual else found["out"]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _attended(rule: Rule, plan: Plan, with_rows: bool, given: Given) -> dict[str, Array]:
    """Return `out`; with rows also `tau` and the residuals of the backward kernels."""
    return attended(given, rule, with_rows)


@partial(_attended.defjvp, symbolic_zeros=True)
def _attended_jvp(rule, plan, with_rows, primals, tangents):
    from jsoftmax.kernels import LinearOperator

    (given,), changes = primals, changes_of(tangents[0])
    found = _attended(rule, plan, True, given)
    moving = {name: x for name in _MOVING if (x := getattr(changes, name)) is not None}
    moving |= {str(i): x for i, x in enumerate(changes.numbers) if x is not None}
    push, pull = partial(_pushed, rule, plan), partial(_pulled, rule, tuple(moving))
    moved = LinearOperator(push, pull, push)((given, found), moving)
    results = found if with_rows else {"out": found["out"]}
    still = jax.tree.map(_zero_tangent, results)
    return results, still | {name: moved[name] for name in moved if name in results}


@partial(jax.jit, static_argnums=(0, 1))
def _pushed(rule, plan, residuals, changes):
    """Return the tangents of mixtures and of τ, by XLA."""
    given, _ = residuals

    def outcome(moved):
        numbers = [moved.get(str(i), x) for i, x in enumerate(given.numbers)]
        named = {name: x for name, x in moved.items() if not name.isdigit()}
        again = given._replace(numbers=tuple(numbers), **named)
        out, tau = computed(again, rule, plan.sizes, True)
        return {"out": out, "tau": tau}

    primals = {
        name: given.numbers[int(name)] if name.isdigit() else getattr(given, name)
        for name in changes
    }
    return jax.jvp(outcome, (primals,), (changes,))[1]


@partial(jax.jit, static_argnums=(0, 1))
def _pulled(rule, names, residuals, cotangents):
    """Return the cotangents of the differentiable inputs, by kernels."""
    given, found = residuals
    return pulled(given, rule, found, cotangents["out"], cotangents["tau"], names)


def _zero_tangent(x):
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)
