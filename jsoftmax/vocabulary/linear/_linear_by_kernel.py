"""Linear cross-entropies by the kernels of `jsoftmax.kernels`, with derivatives of any order.

Reverse mode is computed by kernels too. Forward mode and higher derivatives are those of
`outcomes`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core._explicit_axes import is_split
from jsoftmax.core._mesh_axes import alike
from jsoftmax.core._named_trees import changes_of
from jsoftmax.losses._log_loss import behind
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule
from jsoftmax.vocabulary.linear._outcome import Outcome
from jsoftmax.vocabulary.linear._outcomes import outcomes
from jsoftmax.vocabulary.linear._token_targets import label

_NAMES = ("features", "kernel", "bias")  # the differentiable arguments


def refusals(function: str, rule: Rule, moving: Moving, fixed: Fixed) -> dict[str, bool]:
    """List the options that kernels do not support, each with whether it is given."""
    sizes = (*moving.features.shape, *moving.kernel.shape)
    return {
        "`where`": fixed.mask is not None,
        "`prior` or `log_prior`": fixed.present is not None or moving.log_prior is not None,
        "a `temperature` other than 1": moving.temperature is not None,
        "pairs of `targets`": fixed.shares is not None,
        "`label_smoothing`": fixed.smoothing is not None,
        "a `margin` or an `angular_margin`": fixed.margin is not None
        or fixed.angular_margin is not None,
        "`normalize`": moving.per_length is not None,
        "`class_weights`": fixed.class_weights is not None,
        "`axis_name`, or classes that are split over a mesh": rule.classes.axis_name is not None,
        "arrays that are split over an Explicit mesh": any(map(is_split, jax.tree.leaves(moving))),
        "float64": moving.features.dtype == jnp.float64,
        "sizes that are symbols": not all(isinstance(n, int) for n in sizes),
        "no tokens": 0 in sizes,
        f"the statistics of {function}": label(rule, fixed) is None,
    }


def check(function: str, rule: Rule, moving: Moving, fixed: Fixed) -> None:
    """Raise for options that kernels do not support.

    Raises:
        NotImplementedError: for an argument, an old TPU, or a width that does not fit its memory.
    """
    from jsoftmax.kernels.linear import LEAST_MEMORY, chip

    refused = refusals(function, rule, moving, fixed) | {
        "TPUs before v5": chip()[0] < LEAST_MEMORY,
    }
    for what, is_given in refused.items():
        if is_given:
            raise NotImplementedError(
                f"jsoftmax.{function}: implementation='pallas' does not take {what}. Leave it out, "
                "or let implementation='xla' compute it."
            )
    _problem(rule, moving, False)[0].blocks("both" if _fits(rule, moving) else "table")


@partial(jax.jit, static_argnums=(0, 1))
def losses_by_kernel(is_named: bool, rule: Rule, moving: Moving, fixed: Fixed) -> Outcome:
    """Compute the losses of all tokens.

    A kernel named by the user is lowered for a TPU or a CPU only. Otherwise this is a branch of a
    program that may be lowered for other platforms too, where the branch does not run.
    """
    return Outcome(_losses(is_named, rule, *alike((moving, fixed)))["loss"], None, None)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _losses(is_named: bool, rule: Rule, moving: Moving, fixed: Fixed) -> dict[str, Array]:
    """Compute `loss` and the residuals of its gradient: (token, 1) arrays."""
    found = _by_platform(is_named, partial(_sums, rule), moving, fixed)
    top, others, own = (found[name] for name in ("top", "others", "own"))
    gap = behind(own, top)
    total = others + jnp.exp(-gap)
    # The mass of the label is excluded, so that no digits are lost where it is almost all.
    log_total = jnp.where(gap == 0, jnp.log1p(others), jnp.log(total))
    is_empty = top == -jnp.inf
    loss = jnp.where(is_empty, 0, gap + log_total)
    if fixed.z_loss is not None:
        offset = jnp.where(is_empty, 0, top + log_total)
        loss = loss + fixed.z_loss * offset * offset
    return {"loss": loss, "top": top, "log_total": log_total, "rest": others / total}


@partial(_losses.defjvp, symbolic_zeros=True)
def _losses_jvp(is_named, rule, primals, tangents):
    from jsoftmax.kernels import LinearOperator

    (moving, fixed), changes = primals, changes_of(tangents[0])
    found = _losses(is_named, rule, moving, fixed)
    still = jax.tree.map(jnp.zeros_like, found)
    moved = {name: x for name in _NAMES if (x := getattr(changes, name)) is not None}
    if not moved:
        return found, still
    push = partial(_pushed, rule)
    pull = partial(_pulled, is_named, rule, tuple(moved))
    d_loss = LinearOperator(push, pull, push)((moving, fixed, found), moved)
    return found, still | {"loss": d_loss}


@partial(jax.jit, static_argnums=0)
def _pushed(rule, residuals, changes):
    """Compute the tangents of losses, by XLA."""
    moving, fixed, _ = residuals

    def losses(moved):
        return outcomes(rule, moving._replace(**moved), fixed)[0].loss

    primals = {name: getattr(moving, name) for name in changes}
    return jax.jvp(losses, (primals,), (changes,))[1]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _pulled(is_named, rule, names, residuals, cotangent):
    """Compute the cotangents of the arguments, by kernels."""
    moving, fixed, found = residuals
    slopes = partial(_slopes, rule)
    gradients = _by_platform(is_named, slopes, moving, fixed, found, cotangent)
    return {name: gradients[name] for name in names}


def _by_platform(is_named: bool, function: Any, *arguments: Any) -> Any:
    """Call function(interpret, ...) for a TPU, or for the CPU, where it is interpreted."""
    from jsoftmax.kernels import by_platform

    refused = (
        "jsoftmax.linear_cross_entropy: implementation='pallas' has kernels for TPUs; let "
        "implementation='xla' compute it on"
    )
    functions = {
        "tpu": partial(function, False),
        "cpu" if is_named else "default": partial(function, True),
    }
    return by_platform(refused, functions, *arguments)


def _fits(rule, moving):
    return _problem(rule, moving, False)[0].features_fit


def _problem(rule, moving, interpret):
    """Return the problem in the form of the kernels, and the number of padding tokens."""
    from jsoftmax.kernels.linear import TableProblem, chip

    tokens, width = moving.features.shape
    block = next((n for n in (128, 256) if tokens <= n), 512)
    problem = TableProblem(
        tokens + -tokens % block, width, moving.kernel.shape[rule.kernel_axis], rule.kernel_axis,
        moving.kernel.dtype, moving.bias is not None, *chip(), rule.logits_soft_cap, interpret,
    )  # fmt: skip
    return problem, -tokens % block


def _row(x, tokens, more, value=0):
    """Reshape (token | 1, 1) → [1, token], padded by `more` values."""
    row = jnp.broadcast_to(x, (tokens, 1)).reshape(1, tokens)
    return jnp.pad(row, ((0, 0), (0, more)), constant_values=value)


def _sums(rule, interpret, moving, fixed):
    from jsoftmax.kernels.linear import table_sums

    problem, more = _problem(rule, moving, interpret)
    tokens = moving.features.shape[0]
    h = jnp.pad(moving.features.astype(problem.dtype), ((0, more), (0, 0)))
    ids = _row(fixed.ids.astype(jnp.int32), tokens, more, -1)
    found = table_sums(problem, h, moving.kernel, moving.bias, ids)
    names = ("top", "others", "own")
    return {k: x[0, :tokens, None] for k, x in zip(names, found, strict=True)}


def _slopes(rule, interpret, moving, fixed, found, cotangent):
    from jsoftmax.kernels.linear import TokenRows, table_slopes

    problem, more = _problem(rule, moving, interpret)
    tokens = moving.features.shape[0]
    added = jnp.zeros_like(cotangent)  # to the slope of each mass, by the z-loss
    if fixed.z_loss is not None:
        tau = found["top"] + found["log_total"]
        added = 2 * fixed.z_loss * cotangent * jnp.where(found["top"] == -jnp.inf, 0, tau)
    rows = TokenRows(
        _row(fixed.ids.astype(jnp.int32), tokens, more, -1),
        *(
            _row(x, tokens, more)
            for x in (
                found["top"], found["log_total"], cotangent + added, added,
                -cotangent * found["rest"],
            )
        ),
    )  # fmt: skip
    h = jnp.pad(moving.features.astype(problem.dtype), ((0, more), (0, 0)))
    dh, dw, db = table_slopes(problem, h, moving.kernel, moving.bias, rows)
    dh = dh[:tokens].astype(moving.features.dtype)
    return {"features": dh, "kernel": dw, "bias": db}
