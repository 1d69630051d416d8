"""Validate and canonicalise the arguments of a linear loss: promoted, flat over tokens.

Every array of `Moving` and `Fixed` except the kernel has the axes (token, class), of size 1 where
it is shared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._problem import read_regularizer
from jsoftmax.core._regularizer import Regularizer, parted
from jsoftmax.core._row_rule import RowRule
from jsoftmax.core.regularizers import SHANNON
from jsoftmax.vocabulary.linear._block_sizes import (
    classes_together,
    fits,
    stay_whole,
    tokens_backward,
    tokens_together,
)
from jsoftmax.vocabulary.linear._token_products import are_many, is_split


class Moving(NamedTuple):
    """The differentiable arguments."""

    features: Array  # (token, d)
    kernel: Array  # (d, class), or (class, d), in the dtype of the others or in fewer bits
    bias: Array | None
    temperature: Array | None
    log_prior: Array | None = None  # added to the scores,
    prior: Array | None = None  # or a factor of the link
    parameters: tuple[Array, ...] = ()  # of the regularizer
    per_length: Array | None = None  # 1/‖W_j‖, where products are to be cosines


class Fixed(NamedTuple):
    """The arguments that are constants to derivatives."""

    numbers: Array  # the numbers of the local classes
    mask: Array | None  # False for masked classes
    present: Array | None = None  # False for classes of prior 0
    rows: Array | None = None  # False for ignored tokens
    ids: Array | None = None  # classes with target mass, (token, m)
    shares: Array | None = None  # the target mass of each; None: one class has all of it
    smoothing: Array | None = None
    room: Array | None = None  # the number of classes that share the smoothing
    class_weights: Array | None = None
    z_loss: Array | None = None
    hard: Array | None = None  # whether the regularizer vanishes, as at α = ∞
    margin: Array | None = None  # subtracted from the score of the label
    angular_margin: Array | None = None  # added to the angle of the label
    own: Array | None = None  # the number of each token's own class, where classes have labels
    token_labels: Array | None = None  # the label of each token
    class_labels: Array | None = None  # the label of each class
    positive_share: Array | None = None  # the target mass of each class with the token's label

    @property
    def partakers(self) -> Array | None:
        """Return a mask of the classes that take part, with a prior that is not 0; None for all."""
        if self.mask is None or self.present is None:
            return self.present if self.mask is None else self.mask
        return self.mask & self.present


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(RowRule):
    """The static options of the computation."""

    kernel_axis: int  # of the classes in the kernel
    logits_soft_cap: float | None
    block_tokens: int  # rows of scores in memory at once
    block_classes: Any  # classes per block for many tokens
    is_divergence: bool = False  # Ω*(z) + Ω(y) − ⟨y, z⟩; otherwise Σ w y (−log p)
    statistics: bool = False  # also return the log-partition and the entropy
    ranks: bool = False  # also return the rank of the label
    without_own: bool = False  # a token's own class is masked
    many_tokens: bool = False  # sums over tokens are split, so that they stay precise

    @property
    def takes_log_prior(self) -> bool:
        """Return whether a prior is added to the scores as its logarithm."""
        return not self.is_divergence or self.is_softmax


def is_one(size: Any) -> bool:
    """Return whether an axis is shared; False for a size unknown while tracing."""
    return isinstance(size, int) and size == 1


@dataclasses.dataclass(frozen=True)
class Rows:
    """Canonical features and class table, with the shape of the result."""

    moving: Moving
    fixed: Fixed
    rule: Rule
    lead: tuple[Any, ...]  # the shape of the features without their width
    function: str

    @property
    def scores(self) -> jax.ShapeDtypeStruct:
        """Return shape and dtype of the scores, which are never held in full."""
        shape = (*self.lead, self.fixed.numbers.shape[-1])
        return jax.ShapeDtypeStruct(shape, self.moving.features.dtype)

    def per_row(self, name: str, x: Any) -> Array:
        """Read a parameter of size 1 along the classes, flat over tokens."""
        z = self.scores
        return self.flat(checks.per_row(self.function, name, x, z, self.rule.classes, z.dtype))

    def flat(self, x: Array) -> Array:
        """(*lead | 1, last) → (token | 1, last)."""
        if is_one(math.prod(x.shape[:-1])):
            return x.reshape(1, x.shape[-1])
        x = jnp.broadcast_to(x, (*self.lead, x.shape[-1]))
        return x.reshape(math.prod(self.lead), x.shape[-1])

    def shaped(self, x: Array) -> Array:
        """(token, last) → (*lead, last)."""
        return x.reshape(*self.lead, x.shape[-1])


def read_rows(
    function: str,
    features: Any,
    kernel: Any,
    *,
    bias: Any,
    where: Any,
    class_axis: int,
    temperature: Any,
    logits_soft_cap: float | None,
    axis_name: Hashable | None,
    block_tokens: int | None = None,
    block_classes: int | None = None,
    has_limit: bool = False,
) -> Rows:
    """Validate and canonicalise features and table.

    `has_limit` says that the function has a limit at T = 0. A temperature in an array that is out
    of range becomes NaN.

    Raises:
        TypeError: for arrays that are not real numbers, a mask that is not boolean, and sizes of
            blocks that are not integers.
        ValueError: for shapes that do not fit, and for numbers out of range.
    """
    features = checks.as_array(function, "features", features)
    kernel = checks.as_array(function, "kernel", kernel)
    axis = _kernel_axis(function, features, kernel, class_axis)
    width, classes = kernel.shape[1 - axis], kernel.shape[axis]
    lead = features.shape[:-1]
    dtype = jnp.result_type(checks.compute_dtype(features), checks.compute_dtype(kernel))
    tokens = math.prod(lead)
    block_tokens, block_classes = _sizes(function, tokens, classes, block_tokens, block_classes)
    moving = Moving(
        features.astype(dtype).reshape(tokens, width),
        kernel,
        _per_class(function, "bias", bias, classes, dtype),
        None,
    )
    numbers = jnp.arange(classes, dtype=jnp.int32)[None]
    if axis_name is not None:
        numbers = numbers + jax.lax.axis_index(axis_name) * classes
    if logits_soft_cap is not None:
        cap = checks.static_number(logits_soft_cap)
        if cap is None or not cap > 0:
            raise ValueError(
                f"jsoftmax.{function}: `logits_soft_cap` must be a positive number known while "
                f"tracing, got {logits_soft_cap!r}."
            )
        logits_soft_cap = cap
    rule = Rule(
        classes=ClassAxis((-1,), axis_name),
        structure=parted(SHANNON)[1],
        kernel_axis=axis,
        logits_soft_cap=logits_soft_cap,
        block_tokens=block_tokens,
        block_classes=block_classes,
        many_tokens=are_many(tokens),
    )
    if features.dtype != kernel.dtype or not _is_narrow(moving, rule):
        moving = moving._replace(kernel=kernel.astype(dtype))
    rows = Rows(moving, Fixed(numbers, None), rule, lead, function)
    mask = checks.mask_like(function, where, rows.scores, "features @ kernel")
    if mask is not None:
        mask = rows.flat(mask)
        moving = without_masked(moving, mask, axis)
    moving = moving._replace(temperature=_temperature(rows, temperature, has_limit))
    return dataclasses.replace(rows, moving=moving, fixed=Fixed(numbers, mask))


def _is_narrow(moving: Moving, rule: Rule) -> bool:
    """Return whether a kernel may stay in fewer bits: its gradient is then one product."""
    tokens, classes = moving.features.shape[0], moving.kernel.shape[rule.kernel_axis]
    if not isinstance(classes, int) or is_split(moving.features, rule.many_tokens):
        return False
    return fits(tokens, tokens_backward(classes, rule.block_tokens, rule.block_classes))


def _temperature(rows, temperature, has_limit):
    """Read T of shape (token | 1, 1), None where it is the number 1."""
    number = checks.static_number(temperature)
    dtype = rows.scores.dtype
    if number is None:
        t = rows.per_row("temperature", temperature)
        return jnp.where(t >= 0 if has_limit else t > 0, t, jnp.nan)
    if not (number >= 0 if has_limit else number > 0):
        least = "at least 0" if has_limit else "positive"
        raise ValueError(
            f"jsoftmax.{rows.function}: `temperature` must be {least}, got {temperature!r}."
        )
    return None if number == 1 else jnp.full((1, 1), number, dtype)


def with_regularizer(rows: Rows, regularizer: Regularizer) -> Rows:
    """Prepare rows for Fenchel–Young losses of a regularizer.

    Raises:
        TypeError: for an object that is not a regularizer.
    """
    regularizer, limit = read_regularizer(rows.function, regularizer, rows.per_row)
    parameters, structure = parted(regularizer)
    hard = limit if isinstance(limit, Array) else None
    rule = dataclasses.replace(
        rows.rule, structure=structure, is_hard=limit is True, is_divergence=True
    )
    moving = rows.moving._replace(parameters=parameters)
    return dataclasses.replace(rows, moving=moving, rule=rule, fixed=rows.fixed._replace(hard=hard))


def _kernel_axis(function, features, kernel, class_axis):
    if class_axis not in (-2, -1, 0, 1):
        raise ValueError(
            f"jsoftmax.{function}: `class_axis` must be −1 for a kernel of shape [d, K] or 0 for "
            f"one of shape [K, d], got {class_axis!r}."
        )
    axis = class_axis % 2
    if kernel.ndim != 2 or features.ndim < 1 or features.shape[-1] != kernel.shape[1 - axis]:
        wanted = "[d, K]" if axis else "[K, d]"
        raise ValueError(
            f"jsoftmax.{function}: `features` of shape {features.shape} and `kernel` of shape "
            f"{kernel.shape} do not fit: with class_axis={class_axis} they need the shapes [..., d]"
            f" and {wanted}. For the other layout give class_axis={axis - 1}."
        )
    if isinstance(kernel.shape[axis], int) and kernel.shape[axis] == 0:
        raise ValueError(
            f"jsoftmax.{function}: `kernel` of shape {kernel.shape} has no classes. A distribution "
            "needs at least one."
        )
    return axis


def _per_class(function, name, x, classes, dtype):
    """Read one number per class, of shape (1, class)."""
    if x is None:
        return None
    x = checks.as_array(function, name, x)
    if x.shape != (classes,):
        raise ValueError(
            f"jsoftmax.{function}: `{name}` has shape {x.shape}; give one number for each of the "
            f"{classes} classes."
        )
    return x.astype(dtype)[None]


def class_weights_of(rows: Rows, class_weights: Any) -> Array | None:
    """Read one weight per class, a constant to derivatives."""
    classes = rows.fixed.numbers.shape[-1]
    dtype = rows.moving.features.dtype
    w = _per_class(rows.function, "class_weights", class_weights, classes, dtype)
    return None if w is None else jax.lax.stop_gradient(w)


def without_masked(moving: Moving, mask: Array, axis: int) -> Moving:
    """Zero classes and tokens that are masked throughout: 0 × NaN would reach a gradient."""
    tokens, classes = mask.shape
    if is_one(classes):
        return moving._replace(features=jnp.where(mask, moving.features, 0))
    if is_one(tokens):
        kernel = jnp.where(mask if axis else mask.T, moving.kernel, 0)
        bias = None if moving.bias is None else jnp.where(mask, moving.bias, 0)
        return moving._replace(kernel=kernel, bias=bias)
    return moving


def whole_if_few(rows: Rows, block_tokens: int | None, block_classes: int | None) -> Rows:
    """Keep whole scores in memory from forward to backward pass, if they are few.

    Blocks would compute them twice. Given sizes are unchanged.
    """
    (tokens, width), classes = rows.moving.features.shape, rows.fixed.numbers.shape[-1]
    if not stay_whole(tokens, classes, width):
        return rows
    rule = dataclasses.replace(
        rows.rule,
        block_tokens=max(tokens, 1) if block_tokens is None else rows.rule.block_tokens,
        block_classes=classes if block_classes is None else rows.rule.block_classes,
    )
    return dataclasses.replace(rows, rule=rule)


def _sizes(function, tokens, classes, block_tokens, block_classes):
    """Return the given sizes, and for the others the rule of the docstrings."""
    for name, size in (("block_tokens", block_tokens), ("block_classes", block_classes)):
        if size is not None:
            checks.whole_number(function, name, size)
    if block_tokens is None:
        block_tokens = tokens_together(tokens, classes)
    if block_classes is None or not isinstance(classes, int):
        block_classes = classes_together(tokens, classes, block_tokens)
    elif isinstance(classes, int):
        block_classes = min(block_classes, classes)
    return int(block_tokens), block_classes
