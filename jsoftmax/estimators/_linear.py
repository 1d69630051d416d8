"""Fit and evaluate the linear model z = Wx + b under an α-entmax loss, in compiled functions.

Compiling takes a second or two, a small fit a millisecond. Arrays are therefore padded, so that
problems of the same padded sizes run the same compiled code: by examples of weight 0, features that
are 0 in every example, and masked classes. None of these changes the minimum. Padding adds at most
an eighth, from 256 examples, 8 features and 4 classes on. α is traced: one program selects among
the fast mappings of 1, 1.5 and 2, and a second one handles any other α. The rest, Ω(p) and the
slope p^(2−α), is written once in terms of p.

Everything here is float64, also where JAX is set to float32, by the context manager `float64()`.
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

from jsoftmax.core._problem import Problem, problem
from jsoftmax.core.regularizers import Tsallis
from jsoftmax.estimators._features import centered, padded_sparse
from jsoftmax.estimators._newton import Evaluated, Hessian, Minimum, largest, minimise


class Coefficients(NamedTuple):
    """Coefficients W [K, d] and b [K]; for two classes [1, d] and [1], with z = (0, Wx + b)."""

    kernel: Any
    bias: Any


class Bend(NamedTuple):
    """Slopes s = p^(2−α) of every example, times its weight, and s/Σs: J = diag(s) − s sᵀ/Σs."""

    slope: Array
    share: Array


class Fit(NamedTuple):
    """Coefficients, their objective, the largest entry of its gradient, and the number of steps."""

    coefficients: Coefficients
    objective: float
    gradient: float
    steps: int


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Make JAX compute in float64 within a `with` block, without changing global flags.

    Dtypes are promoted by the standard rules in it, since optax adds int32 to int64.
    """
    # `jax.enable_x64` exists since JAX 0.8.
    enable = getattr(jax, "enable_x64", None)
    if enable is None:
        enable = importlib.import_module("jax.experimental").enable_x64
    with enable(True), jax.numpy_dtype_promotion("standard"):
        yield


def fit(
    features: Any,
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
    r"""Minimise Σᵢ wᵢ L_α(zᵢ, yᵢ) / Σ w + penalty ‖W‖²/2; X is [n, d], targets [n, K].

    The features X are an array, or a SciPy sparse matrix, which stays sparse.
    """
    (n, d), k = features.shape, targets.shape[1]
    rows, width, classes = _roomy(n, 256), _roomy(d, 8), 2 if k == 2 else _roomy(k, 4)
    outputs = 1 if k == 2 else classes
    with float64():
        if isinstance(features, np.ndarray):
            x: Any = _padded(features, rows, width)
        else:
            x = padded_sparse(features, rows, width, _roomy(features.nnz, 256))
        result = _fit(
            Coefficients(_padded(start.kernel, outputs, width), _padded(start.bias, outputs)),
            x,
            _padded(targets, rows, classes),
            _padded(weights / weights.sum(), rows),
            _padded(np.ones(k, bool), classes),
            np.float64(alpha),
            np.float64(penalty),
            np.float64(use_bias),
            np.float64(tol),
            np.int64(max_iter),
            is_known=alpha in _KNOWN,
        )
        (kernel, bias), objective, gradient, steps = jax.device_get(result)
    kept = len(start.bias)
    return Fit(
        Coefficients(kernel[:kept, :d], bias[:kept]), float(objective), float(gradient), int(steps)
    )


def probabilities(scores: np.ndarray, alpha: float) -> np.ndarray:
    """Return p of logits [n, K]."""
    return _read_out(_entmax, scores, alpha)


def log_probabilities(scores: np.ndarray, alpha: float) -> np.ndarray:
    """Return log p of logits [n, K], accurate also where p underflows; −∞ where p is 0."""
    return _read_out(_log_entmax, scores, alpha)


def _read_out(function: Any, scores: np.ndarray, alpha: float) -> np.ndarray:
    n, k = scores.shape
    padded = _padded(scores, _roomy(n, 256), _roomy(k, 4))
    mask = _padded(np.ones(k, bool), padded.shape[1])
    with float64():
        result = function(padded, mask, np.float64(alpha), is_known=alpha in _KNOWN)
        return np.array(result)[:n, :k]


@partial(jax.jit, static_argnames="is_known")
def _fit(
    start, features, targets, weights, mask, alpha, penalty, use_bias, tol, most, *, is_known
) -> Minimum:
    # The search uses the coordinates of centered and scaled features: V = s W and c = b + W m, for
    # z = V (x − m)/s + c. The objective, and the gradient in the stopping rule, are unchanged, but
    # features need not be standardised.
    # Classes come first, [K, n], since that is the faster layout of the products.
    x, mean, s = centered(features, weights, use_bias, penalty)
    regularizer, y, w = Tsallis(alpha), targets.T, weights[None]
    constant = jnp.sum(w * regularizer.value(y))

    def lifted(x, point: Coefficients) -> Array:
        z = x.scores(point.kernel) + use_bias * point.bias[:, None]
        return z if len(point.bias) > 1 else jnp.concatenate([jnp.zeros_like(z), z])

    def lowered(x, surplus: Array) -> Coefficients:
        r = surplus if len(start.bias) > 1 else surplus[1:]
        return Coefficients(x.gradient(r), use_bias * jnp.sum(r, -1))

    def penalised(loss: Coefficients, point: Coefficients) -> Coefficients:
        return loss._replace(kernel=loss.kernel + penalty * point.kernel / (s * s))

    def evaluate(point: Coefficients) -> Evaluated:
        # L = Ω*(z) + Ω(y) − ⟨y, z⟩ = ⟨p − y, z⟩ − Ω(p) + Ω(y), for z measured from its largest.
        z = lifted(x, point)
        v = z - jnp.max(z, axis=0, keepdims=True, where=mask[:, None], initial=-jnp.inf)
        p = _mapped(z, mask[:, None], 0, alpha, is_known, Problem.probabilities)
        kernel = point.kernel / s
        value = jnp.sum(w * ((p - y) * v - regularizer.value(p))) + constant
        value = value + 0.5 * penalty * jnp.sum(kernel * kernel)
        log_p = jnp.log(jnp.where(p > 0, p, 1))
        slope = jnp.where(p > 0, jnp.exp(jnp.minimum((2 - alpha) * log_p, _STEEPEST)), 0)
        share = slope / jnp.sum(slope, 0, keepdims=True)
        gradient = penalised(lowered(x, w * (p - y)), point)
        return Evaluated(value, gradient, Bend(w * slope, share))

    def hessian(bend: Bend) -> Hessian:
        h = bend.slope * (1 - bend.share)
        # Examples with one class in the support have no curvature: most of them, for α > 1.
        busy, rows, parts = x.gathered(jnp.sum(h, 0) > 0, (bend.slope, bend.share))

        def times(point: Coefficients) -> Coefficients:
            def add(i: Array, total: Coefficients) -> Coefficients:
                part, (slope, share) = busy.part(i, rows)
                z = lifted(part, point)
                more = lowered(part, slope * (z - jnp.sum(share * z, 0, keepdims=True)))
                return jax.tree.map(jnp.add, total, more)

            nothing = jax.tree.map(jnp.zeros_like, point)
            return penalised(jax.lax.fori_loop(0, parts, add, nothing), point)

        h = h if len(start.bias) > 1 else h[1:]
        diagonal = Coefficients(x.squares(h) + penalty / (s * s), use_bias * jnp.sum(h, -1))
        return Hessian(times, diagonal)

    def size(gradient: Coefficients) -> Array:
        kernel, bias = gradient
        return largest((kernel * s + bias[:, None] * mean, bias))

    point = Coefficients(start.kernel * s, start.bias + start.kernel @ mean[0])
    found = minimise(evaluate, hessian, point, size, tol, most)
    kernel = found.point.kernel / s
    bias = found.point.bias - kernel @ mean[0]
    if len(bias) > 1:  # a constant added to all biases changes nothing
        bias = use_bias * (bias - jnp.sum(mask * bias) / jnp.sum(mask))
    return found._replace(point=Coefficients(kernel, bias))


_KNOWN = (1.0, 1.5, 2.0)  # α with mappings of their own
_STEEPEST = 18.0  # the cap of log slopes: for α > 2 they are infinite where a class enters


def _mapped(z, mask, axis, alpha, is_known, read: Any) -> Array:
    """Return p, or log p, of a traced α; if `is_known`, one of those with their own mapping."""

    def at(order: float | Array) -> Array:
        return read(problem("SoftmaxRegression", z, axis, mask, regularizer=Tsallis(order)))

    if not is_known:
        return at(alpha)
    which = sum(jnp.where(alpha > order, 1, 0) for order in _KNOWN[:-1])
    return jax.lax.switch(which, [partial(at, order) for order in _KNOWN])


@partial(jax.jit, static_argnames="is_known")
def _entmax(scores, mask, alpha, *, is_known):
    return _mapped(scores, mask[None], -1, alpha, is_known, Problem.probabilities)


@partial(jax.jit, static_argnames="is_known")
def _log_entmax(scores, mask, alpha, *, is_known):
    return _mapped(scores, mask[None], -1, alpha, is_known, Problem.log_probabilities)


def _roomy(n: int, least: int) -> int:
    """Return the smallest size ≥ max(n, least) with at most four significant binary digits."""
    n = max(n, least)
    unit = 1 << max(n.bit_length() - 4, 0)
    return -(-n // unit) * unit


def _padded(x: np.ndarray, *shape: int) -> np.ndarray:
    return np.pad(x, [(0, size - n) for n, size in zip(x.shape, shape, strict=True)])
