"""The linear model z = Wx + b under an α-entmax loss: fitted and read out in compiled functions.

Compiling takes a second, a small fit a millisecond. Therefore arrays are padded, and everything
padded to the same sizes runs the same compiled code: examples of weight 0, features that are 0 in
every example, classes that are masked. None of them moves the minimum. An eighth is added at most,
from 256 examples, 8 features and 4 classes on.

Everything here is float64, also where JAX is set to float32: `float64()` is a scope.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core._problem import problem
from jsoftmax.core.regularizers import Tsallis
from jsoftmax.estimators._lbfgs import largest, minimise
from jsoftmax.mappings import entmax, smoothmax


class Coefficients(NamedTuple):
    """W, of shape [K, d], and b, [K]; for two classes [1, d] and [1], and then z = (0, Wx + b)."""

    kernel: np.ndarray
    bias: np.ndarray


class Fit(NamedTuple):
    """Coefficients, the objective there, the largest entry of its gradient, and steps taken."""

    coefficients: Coefficients
    objective: float
    gradient: float
    steps: int


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """A scope in which JAX computes in float64; the global flags stay as they are.

    Dtypes are promoted by the standard rules in it, since optax adds int32 to int64.
    """
    # `jax.enable_x64` is there since JAX 0.8.
    enable = getattr(jax, "enable_x64", None)
    if enable is None:
        enable = importlib.import_module("jax.experimental").enable_x64
    with enable(True), jax.numpy_dtype_promotion("standard"):
        yield


def fit(
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    start: Coefficients,
    *,
    alpha: float,
    penalty: float,
    use_bias: bool,
    tol: float,
    max_iter: int,
) -> Fit:
    r"""Minimise Σᵢ wᵢ L_α(zᵢ, yᵢ) / Σ w + penalty ‖W‖²/2; features are [n, d], targets [n, K]."""
    (n, d), k = features.shape, targets.shape[1]
    rows, width, classes = _roomy(n, 256), _roomy(d, 8), 2 if k == 2 else _roomy(k, 4)
    outputs = 1 if k == 2 else classes
    with float64():
        result = _fit(
            Coefficients(_padded(start.kernel, outputs, width), _padded(start.bias, outputs)),
            _padded(features, rows, width),
            _padded(targets, rows, classes),
            _padded(weights / weights.sum(), rows),
            _padded(np.ones(k, bool), classes),
            np.float64(penalty),
            np.float64(use_bias),
            np.float64(tol),
            np.int64(max_iter),
            alpha=alpha,
        )
        (kernel, bias), objective, gradient, steps = jax.device_get(result)
    kept = len(start.bias)
    return Fit(
        Coefficients(kernel[:kept, :d], bias[:kept]), float(objective), float(gradient), int(steps)
    )


def probabilities(scores: np.ndarray, alpha: float) -> np.ndarray:
    """p of logits [n, K]."""
    return _read_out(_entmax, scores, alpha)


def log_probabilities(scores: np.ndarray, alpha: float) -> np.ndarray:
    """log p of logits [n, K], right where p underflows; −∞ where it is 0."""
    return _read_out(_log_entmax, scores, alpha)


def _read_out(function: Any, scores: np.ndarray, alpha: float) -> np.ndarray:
    n, k = scores.shape
    padded = _padded(scores, _roomy(n, 256), _roomy(k, 4))
    with float64():
        result = function(padded, _padded(np.ones(k, bool), padded.shape[1]), alpha=alpha)
        return np.array(result)[:n, :k]


@partial(jax.jit, static_argnames="alpha")
def _fit(start, features, targets, weights, mask, penalty, use_bias, tol, most, *, alpha):
    # The search moves in coordinates in which features are centered and the Hessian has about the
    # same diagonal everywhere: V = s W and c = b + W m, for z = V (x − m)/s + c. The curvature of
    # the loss is taken for ¼, its largest at two classes. Neither the objective nor the gradient
    # by which it ends changes, but features need not have been standardised.
    mean = use_bias * (weights[None] @ features)
    variance = weights[None] @ (features - mean) ** 2
    s = jnp.sqrt(variance + 4 * penalty)
    s = jnp.where(s > 0, s, 1)
    scaled = (features - mean) / s
    ask = problem("SoftmaxRegression", targets, -1, mask[None], regularizer=Tsallis(alpha))
    constant = -jnp.sum(weights * ask.squeezed(ask.entropy(targets)))

    def objective(point: Coefficients) -> Array:
        kernel, bias = point
        z = scaled @ kernel.T + use_bias * bias[None]
        if len(bias) == 1:
            z = jnp.concatenate([jnp.zeros_like(z), z], axis=-1)
        # L = Ω*(z) + Ω(y) − ⟨y, z⟩, in which Ω(y) is constant.
        loss = smoothmax(z, alpha, where=mask[None]) - jnp.sum(targets * z, axis=-1)
        kernel = kernel / s
        return jnp.sum(weights * loss) + 0.5 * penalty * jnp.sum(kernel * kernel) + constant

    def size(gradient: Coefficients) -> Array:
        kernel, bias = gradient
        return largest((kernel * s + bias[:, None] * mean, bias))

    point = Coefficients(start.kernel * s, start.bias + start.kernel @ mean[0])
    found = minimise(objective, point, size, tol, most)
    kernel = found.point.kernel / s
    return found._replace(point=Coefficients(kernel, found.point.bias - kernel @ mean[0]))


@partial(jax.jit, static_argnames="alpha")
def _entmax(scores, mask, *, alpha):
    return entmax(scores, alpha, where=mask[None])


@partial(jax.jit, static_argnames="alpha")
def _log_entmax(scores, mask, *, alpha):
    ask = problem("SoftmaxRegression", scores, -1, mask[None], regularizer=Tsallis(alpha))
    return ask.log_probabilities()


def _roomy(n: int, least: int) -> int:
    """The smallest size that is not less than `n` or `least` and has four binary digits."""
    n = max(n, least)
    unit = 1 << max(n.bit_length() - 4, 0)
    return -(-n // unit) * unit


def _padded(x: np.ndarray, *shape: int) -> np.ndarray:
    return np.pad(x, [(0, size - n) for n, size in zip(x.shape, shape, strict=True)])
