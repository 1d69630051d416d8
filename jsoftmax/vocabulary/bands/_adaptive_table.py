"""The class table of an adaptive softmax: drawing and validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike

from jsoftmax.core import _checks as checks
from jsoftmax.core._keys import one_key
from jsoftmax.vocabulary.bands._bands import Band, Banded, read_banded, read_bands, starts_of
from jsoftmax.vocabulary.bands._widths import new_bands, widths_of


class AdaptiveTables(NamedTuple):
    """The class table of an adaptive softmax, drawn by `adaptive_tables` or made from any arrays.

    Args:
        bands: a sequence of `Band`: first the shortlist, the classes in the head, then one band for
            each cluster of rarer classes.
        clusters: of shape [m, d_0]: the vector of each of the m clusters in the head, of the width
            of the shortlist's table.
        cluster_bias: of shape [m], or None.

    Example:
        >>> import jax.numpy as jnp
        >>> bands = [Band(jnp.zeros((5, 8))), Band(jnp.zeros((9, 2)), projection=jnp.zeros((8, 2)))]
        >>> table = AdaptiveTables(bands, clusters=jnp.zeros((1, 8)))
    """

    bands: Any
    clusters: Any
    cluster_bias: Any = None


def adaptive_tables(
    key: Array,
    width: int,
    classes: int,
    cutoffs: Sequence[int],
    *,
    div_value: float = 4.0,
    use_bias: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> AdaptiveTables:
    r"""Draw the class table of an adaptive softmax from normal distributions.

    The shortlist has the classes below the first cut-off and vectors of the width d of the
    features; cluster i ≥ 1 has the classes from one cut-off to the next and vectors of the width
    ⌊d/div_value^i⌋, at least 1. Variances are 1/fan-in.

    Args:
        key: a key, such as jax.random.key(0).
        width: d.
        classes: K.
        cutoffs: rising integers above 0 and below K, such as `adaptive_cutoffs` finds, one for each
            cluster.
        div_value: at least 1.
        use_bias: whether every class and every cluster has a bias, initialised to 0.
        dtype: of all arrays.

    Returns:
        `AdaptiveTables`.

    Raises:
        TypeError: if `key` is not a key, or sizes are not integers.
        ValueError: if `cutoffs` do not rise from above 0 to below K, or `div_value` is below 1.

    Example:
        >>> import jax
        >>> table = adaptive_tables(jax.random.key(0), 64, 1000, [100, 300])
        >>> for band in table.bands:
        ...     print(band.table.shape, band.projection is None)
        (100, 64) True
        (200, 16) False
        (700, 4) False
    """
    function = "adaptive_tables"
    key, other = jax.random.split(one_key(function, key))
    widths = widths_of(function, width, classes, cutoffs, div_value)
    bands = new_bands(key, width, classes, cutoffs, widths, use_bias=use_bias, dtype=dtype)
    clusters = jax.random.normal(other, (len(cutoffs), width), dtype) * width**-0.5
    bias = jnp.zeros(len(cutoffs), dtype) if use_bias else None
    return AdaptiveTables(bands, clusters, bias)


def read_adaptive(function: str, features: Any, table: Any) -> tuple[Banded, Band]:
    """Validate features and table; return features and bands, and the head.

    The table of the head is that of the shortlist with the clusters as its last rows. It takes
    features that are already projected.
    """
    if not isinstance(table, AdaptiveTables):
        raise TypeError(
            f"jsoftmax.{function}: `table` is of type {type(table).__name__}; give it "
            "jsoftmax.vocabulary.AdaptiveTables, such as jsoftmax.vocabulary.adaptive_tables makes."
        )
    bands = read_bands(function, table.bands, None, slices=False)
    clusters = checks.as_array(function, "clusters", table.clusters)
    width, tails = bands[0].table.shape[1], len(bands) - 1
    if clusters.shape != (tails, width):
        raise ValueError(
            f"jsoftmax.{function}: `clusters` have shape {clusters.shape}; for {tails} bands after "
            f"a shortlist of width {width}, give the shape {(tails, width)}."
        )
    biases = bands[0].bias, table.cluster_bias
    more = [clusters]
    if biases[1] is not None:
        more.append(checks.as_array(function, "cluster_bias", biases[1]))
        if more[1].shape != (tails,):
            raise ValueError(
                f"jsoftmax.{function}: `cluster_bias` has shape {more[1].shape}; give it one "
                f"number per cluster, shape {(tails,)}."
            )
    banded = read_banded(function, features, bands, slices=False, more=more)
    shortlist, dtype = banded.bands[0], banded.features.dtype
    rows = jnp.concatenate([shortlist.table, clusters.astype(dtype)])
    bias = None
    if any(b is not None for b in biases):
        sizes = (starts_of(bands)[1], tails)
        bias = jnp.concatenate([
            jnp.zeros(n, dtype) if b is None else jnp.asarray(b).astype(dtype)
            for b, n in zip(biases, sizes, strict=True)
        ])  # fmt: skip
    return banded, Band(rows, None, bias)
