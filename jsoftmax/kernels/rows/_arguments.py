"""Call a public function of logits as a row function: arguments to rows, and the result back."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.kernels.rows._row_call import RowCall
from jsoftmax.kernels.rows._rows import by_rows

_NATIVE = (jnp.float32, jnp.bfloat16)
_FLOAT = np.dtype(np.float32)
_NUMBERS = ("alpha", "temperature", "z_loss", "label_smoothing", "margin", "angular_margin")


def by_kernel(function: Callable, name: str, arguments: dict[str, Any]) -> Array:
    """Compute function(**arguments) by a kernel.

    Raises:
        NotImplementedError: for an argument that the kernel does not support.
    """
    jax.eval_shape(lambda: function(**arguments))  # validates the arguments
    # An axis of None means all axes.
    given = {n: x for n, x in arguments.items() if x is not None or n == "axis"}
    given = {n: np.asarray(x) if isinstance(x, list) else x for n, x in given.items()}
    arrays = {n: x for n, x in given.items() if isinstance(x, jax.Array | np.ndarray | Regularizer)}
    known = tuple((n, x) for n, x in given.items() if n not in arrays)
    return _computed(function, name, known, arrays)


# Compiled once for a shape also when it is called outside of `jit`.
@partial(jax.jit, static_argnums=(0, 1, 2))
def _computed(function, name, known, arrays):
    arguments = {**dict(known), **arrays}
    outline = jax.eval_shape(lambda: function(**arguments))
    given = dict(arguments)
    logits = checks.as_array(name, "logits", given.pop("logits"))
    axis = _taken(name, logits, arguments)
    keeps_axis = given.pop("keepdims", False)
    given.pop("axis", None)
    if logits.size == 0:
        return function(**arguments)
    rows = _Rows(name, logits, axis, given)
    is_long = outline.ndim == logits.ndim and not keeps_axis
    dtype = outline.dtype if outline.dtype in _NATIVE else jnp.float32

    def block(*arrays):
        *arrays, mask = arrays
        found = function(**rows.arguments(arrays, mask))
        return (found if is_long else jnp.expand_dims(found, 1),)

    call = RowCall(block, logits.shape[axis], tuple(rows.longs), ((is_long, dtype),))
    (found,) = by_rows(call, *rows.arrays)
    found = found.astype(outline.dtype)
    if not is_long:
        return found.reshape(outline.shape)
    return jnp.moveaxis(found.reshape(*rows.leading, logits.shape[axis]), -1, axis)


def _taken(name: str, logits: Array, arguments: dict[str, Any]) -> int:
    """Return the class axis, if the kernel supports the arguments."""

    def refuse(argument, what, remedy):
        raise NotImplementedError(
            f'jsoftmax.{name}: implementation="pallas" does not take `{argument}` {what}; '
            f'{remedy}, or leave `implementation` at "xla".'
        )

    axis = arguments.get("axis", -1)
    axis = (axis,) if isinstance(axis, int) else axis
    axis = tuple(range(logits.ndim)) if axis is None else tuple(axis)
    if len(axis) != 1:
        refuse("axis", f"of {len(axis)} axes", "merge them into one by a reshape")
    if arguments.get("axis_name") is not None:
        refuse("axis_name", "of split classes", "gather them into one device")
    if arguments.get("b") is not None:
        refuse("b", "of either sign", "give `prior` if no weight is negative")
    if arguments.get("return_sign"):
        refuse("return_sign", "as True", "leave it out")
    if checks.compute_dtype(logits) == jnp.float64:
        refuse("logits", f"of dtype {logits.dtype}, computed in float64", "convert them to float32")
    if any(part is not None for part in jax.typeof(logits).sharding.spec):
        refuse("logits", "split over an Explicit mesh", "call it in `jax.shard_map`")
    if isinstance(arguments.get("ignore_index"), jax.Array):
        refuse("ignore_index", "as an array", "give it a Python integer")
    return axis[0] % logits.ndim


class _Rows:
    """The arrays of a call as rows, and its arguments on blocks of them."""

    def __init__(self, function: str, logits: Array, axis: int, given: dict[str, Any]):
        self.function, self.logits, self.axis = function, logits, axis
        self.leading = tuple(n for a, n in enumerate(logits.shape) if a != axis)
        self.arrays: list[Array] = []
        self.longs: list[bool] = []
        self.known: dict[str, Any] = {}
        self.makers: list[tuple[str, Callable, int]] = []
        self._add("logits", [self._flat(logits)], True)
        for name, x in given.items():
            self._read(name, x)

    def arguments(self, arrays: list[Array], mask: Array | None) -> dict[str, Any]:
        """Return the arguments of a call on these blocks."""
        found, rest = dict(self.known), list(arrays)
        for name, make, count in self.makers:
            blocks, rest = rest[:count], rest[count:]
            found[name] = make(*blocks)
        if mask is not None:
            found["where"] = mask if "where" not in found else mask & found["where"]
        return {"axis": -1, **found}

    def _read(self, name, x):
        if name in ("where", "prior", "class_weights"):
            x = jnp.asarray(x)
            if name == "class_weights" and x.ndim == 1:
                x = x.reshape([-1 if a == self.axis else 1 for a in range(self.logits.ndim)])
            x = self._flat(x.reshape((1,) * (self.logits.ndim - x.ndim) + x.shape))
            self._add(name, [x], x.shape[1] > 1)
        elif name == "targets" and jnp.issubdtype(jnp.asarray(x).dtype, jnp.integer):
            limits, labels = jnp.iinfo(jnp.int32), jnp.asarray(x)
            if jnp.iinfo(labels.dtype).max > limits.max:
                labels = jnp.clip(labels, max(limits.min, jnp.iinfo(labels.dtype).min), limits.max)
            labels = labels.astype(jnp.int32).reshape(-1, 1)
            self._add(name, [labels], False, lambda y: jnp.squeeze(y, 1))
        elif name == "targets":
            self._add(name, [self._flat(jnp.asarray(x))], True)
        elif isinstance(x, Regularizer):
            leaves, structure = jax.tree.flatten(x)
            leaves = [self._number(name, y) for y in leaves]
            self._add(name, leaves, False, lambda *ys: jax.tree.unflatten(structure, ys))
        elif name in _NUMBERS and checks.static_number(x) is None:
            self._add(name, [self._number(name, x)], False)
        else:
            self.known[name] = x

    def _add(self, name, arrays, is_long, make: Callable = lambda x: x):
        for x in arrays:
            is_wide = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype not in _NATIVE
            self.arrays.append(x.astype(jnp.float32) if is_wide else x)
            self.longs.append(is_long)
        self.makers.append((name, make, len(arrays)))

    def _number(self, name, x):
        classes = ClassAxis((self.axis - self.logits.ndim,))
        x = checks.as_array(self.function, name, x)
        return self._flat(checks.per_row(self.function, name, x, self.logits, classes, _FLOAT))

    def _flat(self, x):
        """Move rows first, then classes; an array that all rows share has one row."""
        x = jnp.moveaxis(x, self.axis, -1)
        if x.shape[-1] > 1 and math.prod(x.shape[:-1]) == 1:
            return x.reshape(1, -1)
        return jnp.broadcast_to(x, (*self.leading, x.shape[-1])).reshape(-1, x.shape[-1])
