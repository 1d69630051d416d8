"""Gather predictions in bins of similar probability, and average confidence and accuracy."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsoftmax.calibration._adaptive_sets import ties
from jsoftmax.calibration._examples import counted, read_labels, read_weights
from jsoftmax.calibration._sums import bin_sums, cumulative
from jsoftmax.core._mesh_axes import gathered
from jsoftmax.core._problem import problem


class Reliability(NamedTuple):
    """The data of a reliability diagram: three arrays of shape [bins].

    Args:
        confidence: the mean probability in each bin, 0 for an empty bin.
        accuracy: the share of correct predictions, 0 for an empty bin.
        weight: the number of examples, or the sum of their weights.

    Example:
        >>> import jax.numpy as jnp
        >>> diagram = Reliability(jnp.array([0.5]), jnp.array([0.75]), jnp.array([4.0]))
        >>> print(diagram.accuracy - diagram.confidence)
        [0.25]
    """

    confidence: Float[Array, " bins"]
    accuracy: Float[Array, " bins"]
    weight: Float[Array, " bins"]


def read_bins(function, bins, equal_mass) -> tuple[int, bool]:
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
        raise ValueError(f"jsoftmax.{function}: `bins` must be an integer ≥ 1, got {bins!r}.")
    return int(bins), equal_mass


def read_predictions(function, probabilities, labels, axis, where, weights):
    """Return p, one-hot labels and weights, the first two 0 in ignored rows."""
    ask = problem(function, probabilities, axis, where, called="probabilities")
    hit, valid = read_labels(function, labels, ask)
    w = read_weights(function, weights, ask)
    p = jnp.where(valid, ask.unmasked(ask.z, 0), jnp.nan)
    return counted(p, w), counted(hit, w), w, ask


# Compiled once for each shape, also when called outside `jit`; inside `jit` it is inlined.
@partial(jax.jit, static_argnums=(3, 4, 5), inline=True)
def binned(confidence, right, w, bins, equal_mass, over) -> Reliability:
    """Return means over the examples of each bin, of all parts on the mesh axis `over`."""
    if over is not None and equal_mass:  # the edges depend on all examples
        confidence, right, w = (gathered(x, over, 0) for x in (confidence, right, w))
        over = None
    x, finite = jax.lax.stop_gradient(confidence), jnp.isfinite
    # The bin of a NaN is unknown, so it counts in every bin.
    spoiled = jnp.where(finite(x) & finite(w), 0, jnp.nan).sum().astype(x.dtype)
    x, w = jnp.where(finite(x), x, 0), jnp.where(finite(w), w, 0)
    confidence = jnp.where(finite(confidence), confidence, 0)
    if equal_mass:
        order = jnp.argsort(x)
        mass = cumulative(w[order])
        # The weight of all examples that are no more confident, ties included.
        _, last = ties(x[order])
        last = jnp.zeros_like(last).at[order].set(last, unique_indices=True)
        scaled, whole = bins * mass[last], jnp.max(mass, initial=1)
        which = jnp.ceil(scaled / whole)
        # The compiler may multiply by a rounded 1/whole: products of integer weights are exact.
        below, above = scaled <= (which - 1) * whole, scaled > which * whole
        which = which - below.astype(which.dtype) + above.astype(which.dtype) - 1
    else:
        # In numpy, since the compiler multiplies by a rounded 1/bins.
        edges = jnp.asarray(np.arange(1, bins, dtype=x.dtype) / x.dtype.type(bins))
        method = "compare_all" if bins <= 64 else "scan"
        which = jnp.searchsorted(edges, x, side="left", method=method)
    which = jnp.clip(which, 0, bins - 1).astype(jnp.int32)
    sums = *bin_sums((w, w * confidence, w * right), which, bins), spoiled
    total, confidence, right, spoiled = sums if over is None else jax.lax.psum(sums, over)
    each = jnp.where(total > 0, total, 1)
    return Reliability(confidence / each + spoiled, right / each + spoiled, total + spoiled)


def gaps(diagram: Reliability) -> Array:
    return jnp.abs(diagram.accuracy - diagram.confidence)


def mean_gap(diagram: Reliability) -> Array:
    total = jnp.maximum(jnp.sum(diagram.weight), jnp.finfo(diagram.weight.dtype).tiny)
    return jnp.sum(diagram.weight / total * gaps(diagram))
