"""Kernels of other libraries for plain softmax attention, chosen by name."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.attention._attention_arguments import Given, prepared
from jsoftmax.attention._attention_problem import Rule
from jsoftmax.attention._attention_scores import visible
from jsoftmax.core import _checks as checks


def by_kernel(
    name: str, given: Given, rule: Rule, arrays: dict[str, Any], taken: dict[str, Any],
    refused: dict[str, bool],
) -> Array:  # fmt: skip
    """Compute the mixtures by the kernel of that name.

    `arrays` and `taken` are passed on unchanged; no argument in `refused` may be given.

    Raises:
        ValueError: for an unknown name.
        NotImplementedError: for an argument that the kernel does not support.
    """
    if name not in _KERNELS:
        raise ValueError(
            "jsoftmax.dot_product_attention: `implementation` must be None, 'xla', "
            f"{' or '.join(map(repr, _KERNELS))}, got {name!r}."
        )
    window = taken["local_window_size"]
    refused |= {
        "logits_soft_cap": name == "cudnn" and taken["logits_soft_cap"] is not None,
        "a traced `local_window_size`": (given.before, given.after) != (None, None),
        "one side of a `local_window_size`": isinstance(window, tuple | list)
        and any(n is None for n in window),
    }
    for each in ("scale", "logits_soft_cap"):
        is_array = taken[each] is not None and checks.static_number(taken[each]) is None
        refused[f"a traced `{each}`, or one for each head"] = is_array
    for argument, is_given in refused.items():
        if is_given:
            raise NotImplementedError(
                f"jsoftmax.dot_product_attention: implementation={name!r} does not take "
                f"{argument if ' ' in argument else f'`{argument}`'}. Leave it out, or let "
                "implementation='xla' compute it."
            )
    passed = {argument: x for argument, x in (arrays | taken).items() if x is not None}
    return _without_empty_rows(_KERNELS[name](**passed), given, rule)


def _cudnn(**given):
    return jax.nn.dot_product_attention(implementation="cudnn", **given)


def _tokamax(**given):
    try:
        tokamax = importlib.import_module("tokamax")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "jsoftmax.dot_product_attention: implementation='tokamax' needs the package tokamax: "
            "pip install tokamax."
        ) from error
    return tokamax.dot_product_attention(**given)


_KERNELS = {"cudnn": _cudnn, "tokamax": _tokamax}


@partial(jax.jit, static_argnums=2)
def _without_empty_rows(out: Array, given: Given, rule: Rule) -> Array:
    """Return zeros for fully masked queries, where kernels give the mean of all values."""
    arguments = prepared(given, rule)
    seen = visible(arguments.fixed, arguments.rule)
    if seen is None:
        return out
    q = arguments.moving.q
    some = jnp.broadcast_to(jnp.any(seen, axis=-1, keepdims=True), (*q.shape[:-1], 1))
    return jnp.where(arguments.output(some).astype(bool), out, 0)
