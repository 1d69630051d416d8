"""Rewrite plain jnp with the primitives that kernel compilers support.

Regularizers, curves and the solver are functions of arrays, and know nothing of kernels. Mosaic and
Triton lack some of their primitives: a loop or a branch cannot carry a vector of booleans, there is
no `expm1`, and derivative rules are no longer needed. `plain` traces a function and rewrites it
without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core as jex

INLINED = {  # primitives that call a jaxpr, and the parameter that holds it
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "custom_vmap_call": "call",
}


def plain(function: Callable) -> Callable:
    """Rewrite `function` for kernels; it may close over arrays and references."""

    def spoken(*arguments):
        leaves, structure = jax.tree.flatten(arguments)

        def flat(*leaves):
            return function(*jax.tree.unflatten(structure, leaves))

        jaxpr, shape = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        results = _evaluated(jaxpr.jaxpr, jaxpr.consts, leaves)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return spoken


def _evaluated(jaxpr: Any, constants: Any, arguments: Any) -> list[Any]:
    known = dict(zip(jaxpr.constvars, constants, strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(x):
        return number(x) if isinstance(x, jex.Literal) else known[x]

    for equation in jaxpr.eqns:
        inputs = [read(x) for x in equation.invars]
        outputs = said(equation, inputs)
        known |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]


def number(literal: Any) -> np.ndarray:
    """Return a literal of a program in its dtype: Triton takes no others."""
    return np.asarray(literal.val, literal.aval.dtype)


def said(equation: Any, inputs: list[Any]) -> list[Any]:
    """Evaluate an equation by the primitives of kernels."""
    name, parameters = equation.primitive.name, equation.params
    if name in INLINED:
        inner = parameters[INLINED[name]]
        if hasattr(inner, "consts"):
            return _evaluated(inner.jaxpr, inner.consts, inputs)
        return _evaluated(inner, (), inputs)
    if name in _RULES:
        return _RULES[name](inputs, **parameters)
    if all(isinstance(x, np.ndarray | np.generic) and np.ndim(x) == 0 for x in inputs) and inputs:
        with jax.ensure_compile_time_eval():
            outputs = equation.primitive.bind(*inputs, **parameters)
        return [np.asarray(outputs)]
    outputs = equation.primitive.bind(*inputs, **parameters)
    return outputs if equation.primitive.multiple_results else [outputs]


def as_number(x: Any) -> Any:
    """Convert a boolean vector to numbers, which loops and branches may carry."""
    return jnp.where(x, 1.0, 0.0).astype(jnp.float32) if is_flag(x) else x


def as_flag(x: Any, flag: bool) -> Any:
    return x > 0 if flag else x


def is_flag(x: Any) -> bool:
    return getattr(x, "dtype", None) == jnp.bool_ and jnp.ndim(x) > 0


def _while(inputs, *, cond_nconsts, cond_jaxpr, body_nconsts, body_jaxpr, **_):
    of_condition = inputs[:cond_nconsts]
    of_body = inputs[cond_nconsts : cond_nconsts + body_nconsts]
    state = inputs[cond_nconsts + body_nconsts :]
    flags = [is_flag(x) for x in state]

    def unpacked(state):
        return [as_flag(x, flag) for x, flag in zip(state, flags, strict=True)]

    def condition(state):
        arguments = [*of_condition, *unpacked(state)]
        return _evaluated(cond_jaxpr.jaxpr, cond_jaxpr.consts, arguments)[0]

    def body(state):
        arguments = [*of_body, *unpacked(state)]
        return tuple(map(as_number, _evaluated(body_jaxpr.jaxpr, body_jaxpr.consts, arguments)))

    return unpacked(jax.lax.while_loop(condition, body, tuple(map(as_number, state))))


def _scan(inputs, *, jaxpr, length, reverse, **_):
    # Count the state by the results of the body: how a scan counts constants depends on the JAX.
    split = len(inputs) - len(jaxpr.out_avals)
    constants, state = inputs[: max(split, 0)], inputs[max(split, 0) :]
    pairs = [*zip(inputs, jaxpr.in_avals, strict=True), *zip(state, jaxpr.out_avals, strict=False)]
    if split < 0 or reverse or any(jnp.shape(x) != aval.shape for x, aval in pairs):
        raise NotImplementedError(
            "jsoftmax.kernels: a kernel does not support a scan over arrays; write a fori_loop."
        )
    flags = [is_flag(x) for x in state]

    def unpacked(state):
        return [as_flag(x, flag) for x, flag in zip(state, flags, strict=True)]

    def body(_, state):
        found = _evaluated(jaxpr.jaxpr, jaxpr.consts, [*constants, *unpacked(state)])
        return tuple(map(as_number, found))

    return unpacked(jax.lax.fori_loop(0, length, body, tuple(map(as_number, state))))


def _cond(inputs, *, branches, **_):
    index, *operands = inputs
    flags = [x.dtype == jnp.bool_ and x.ndim > 0 for x in branches[0].out_avals]

    def branch(jaxpr):
        return lambda: tuple(map(as_number, _evaluated(jaxpr.jaxpr, jaxpr.consts, operands)))

    first, *others = map(branch, branches)
    if not others:
        found = first()
    elif len(others) == 1:
        found = jax.lax.cond(index == 1 if index.dtype != jnp.bool_ else index, others[0], first)
    else:
        found = jax.lax.cond(index <= 0, first, lambda: _among(index - 1, others))
    return [as_flag(x, flag) for x, flag in zip(found, flags, strict=True)]


def _among(index, branches):
    first, *others = branches
    if not others:
        return first()
    return jax.lax.cond(index <= 0, first, lambda: _among(index - 1, others))


def _select(inputs, **_):
    which, *cases = inputs
    if len(cases) == 2 and is_flag(cases[0]) and which.dtype == jnp.bool_:
        return [(~which & cases[0]) | (which & cases[1])]
    return [jax.lax.select_n(which, *cases)]


def _convert(inputs, *, new_dtype, weak_type, **_):
    (x,) = inputs
    if is_flag(x) and new_dtype != jnp.bool_:
        return [jnp.where(x, 1, 0).astype(new_dtype)]
    return [jax.lax.convert_element_type(x, new_dtype)]


def _broadcast(inputs, **parameters):
    x, *sizes = inputs
    found = jax.lax.broadcast_in_dim_p.bind(as_number(x), *sizes, **parameters)
    return [as_flag(found, is_flag(x))]


def _expm1(inputs, **_):
    """Compute eˣ − 1, by a series near 0, where the difference would cancel."""
    (x,) = inputs
    near = jnp.abs(x) < 0.5
    y = jnp.where(near, x, 0)
    series = jnp.ones_like(x)
    # 0.5⁹/10! is 5e-10, and 0.5¹⁵/16! is 1e-18.
    for k in range(15 if x.dtype == jnp.float64 else 9, 1, -1):
        series = 1 + y * (1 / k) * series
    return [jnp.where(near, y * series, jnp.exp(jnp.where(near, 0, x)) - 1)]


def _pow(inputs, **_):
    """Compute x^y for x ≥ 0; curves need no other."""
    x, y = inputs
    return [jnp.where(x > 0, jnp.exp(y * jnp.log(jnp.where(x > 0, x, 1))), jnp.where(y == 0, 1, 0))]


def _reduce_or(inputs, *, axes, **_):
    (x,) = inputs
    return [jnp.max(as_number(x), axis=axes) > 0]


def _reduce_and(inputs, *, axes, **_):
    (x,) = inputs
    return [jnp.min(as_number(x), axis=axes) > 0]


def _is_finite(inputs, **_):
    (x,) = inputs
    return [jnp.abs(x) < jnp.inf]


def _ignored(inputs, **_) -> list[Array]:
    return inputs


_RULES = {
    "while": _while,
    "scan": _scan,
    "cond": _cond,
    "select_n": _select,
    "convert_element_type": _convert,
    "broadcast_in_dim": _broadcast,
    "expm1": _expm1,
    "pow": _pow,
    "reduce_or": _reduce_or,
    "reduce_and": _reduce_and,
    "is_finite": _is_finite,
    "stop_gradient": _ignored,
    "optimization_barrier": _ignored,
}
