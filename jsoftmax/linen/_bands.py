"""Output layers with narrower vectors for rare classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._contents import hashable
from jsoftmax.core._initializers import lecun_columns, lecun_rows
from jsoftmax.vocabulary import (
    AdaptiveTables,
    Band,
    TopK,
    adaptive_cross_entropy,
    adaptive_log_softmax,
    adaptive_topk,
    band_embedding,
    differentiated_cross_entropy,
    differentiated_log_softmax,
    differentiated_topk,
)
from jsoftmax.vocabulary.bands._widths import as_dtype, band_shapes, slices_or_widths, widths_of


class AdaptiveSoftmax(nn.Module):
    r"""Adaptive softmax: an output layer with clusters, and narrower vectors, for rare classes.

    .. math:: p(y) = p_\text{head}(y) \text{ in the shortlist}, \qquad
              p(y) = p_\text{head}(c)\, p_c(y) \text{ in the cluster } c

    It holds the tables of `adaptive_cross_entropy` and its siblings as parameters. For a token only
    the head and the cluster of its target are computed. `DifferentiatedSoftmax` has one softmax
    over all classes instead.

    Args:
        features: d, the size of the last axis of the input.
        classes: K, the frequent ones first.
        cutoffs: increasing integers above 0 and below K, such as those of `adaptive_cutoffs`.
        div_value: at least 1: cluster i has vectors of width ⌊d / div_value^i⌋.
        use_bias: whether classes and clusters have biases.
        dtype: features and parameters are rounded to this dtype; None leaves them as they are.
            Computations are in float32 at least.
        param_dtype: of the parameters.
        kernel_init: initialiser of projections, of shape [d, d_i].
        embedding_init: initialiser of tables, of shape [K_i, d_i].
        bias_init: initialiser of biases.

    Raises:
        TypeError: if sizes are not integers.
        ValueError: if `cutoffs` do not increase inside (0, K), or `div_value` is below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = AdaptiveSoftmax(64, 1000, [100, 300])
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 64)))
        >>> h = layer.apply(variables, jnp.array([5, 400]), method="embed")
        >>> print(h.shape, layer.apply(variables, h, jnp.array([7, 999]), method="loss").shape)
        (2, 64) (2,)
    """

    features: int
    classes: int
    cutoffs: Sequence[int]
    _: dataclasses.KW_ONLY
    div_value: float = 4.0
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Any = lecun_columns
    embedding_init: Any = lecun_rows
    bias_init: Any = nn.initializers.zeros_init()

    def __post_init__(self):
        widths_of(
            "linen.AdaptiveSoftmax", self.features, self.classes, self.cutoffs, self.div_value
        )
        object.__setattr__(self, "cutoffs", hashable(self.cutoffs))
        super().__post_init__()

    def setup(self):
        """Create the tables."""
        widths = widths_of(
            "linen.AdaptiveSoftmax", self.features, self.classes, self.cutoffs, self.div_value
        )
        self.raw_bands = _bands(
            self, band_shapes(self.features, self.classes, self.cutoffs, widths, slices=False)
        )
        size, dtype = len(self.cutoffs), self.param_dtype
        self.clusters = self.param("clusters", self.embedding_init, (size, self.features), dtype)
        bias = None
        if self.use_bias:
            bias = self.param("cluster_bias", self.bias_init, (size,), dtype)
        self.raw_cluster_bias = bias

    @property
    def table(self) -> AdaptiveTables:
        """The parameters, as arguments of the functions, in a bound module."""
        table = AdaptiveTables(self.raw_bands, self.clusters, self.raw_cluster_bias)
        return as_dtype(table, self.dtype)

    def __call__(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to probabilities [..., K] of all classes."""
        return jnp.exp(self.log_softmax(features))

    def log_softmax(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to log-probabilities [..., K] of all classes."""
        return adaptive_log_softmax(as_dtype(features, self.dtype), self.table)

    def topk(self, features: ArrayLike, k: int) -> TopK:
        """Return the k most probable classes of features [..., d], and their log-probabilities."""
        return adaptive_topk(as_dtype(features, self.dtype), self.table, k)

    def loss(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        *,
        where: ArrayLike | None = None,
        ignore_index: int | None = None,
    ) -> Float[Array, "..."]:
        """Return the loss of each token, in float32 at least: features [..., d], classes [...].

        The other arguments are as in `adaptive_cross_entropy`.
        """
        return adaptive_cross_entropy(
            as_dtype(features, self.dtype),
            self.table,
            labels,
            where=where,
            ignore_index=ignore_index,
        )

    def embed(self, ids: ArrayLike) -> Float[Array, "... d"]:
        """Return vectors [..., d] of classes [...], from the same tables: a tied input layer."""
        return band_embedding(ids, self.table.bands)


class DifferentiatedSoftmax(nn.Module):
    r"""Differentiated softmax: one softmax over all classes, with narrower vectors for rare ones.

    .. math:: p(y) = \frac{e^{z_y}}{\sum_k e^{z_k}}, \qquad
              z_k = ⟨x_i, w_k⟩ + b_k \text{ for } k \text{ in band } i

    It holds the bands of `differentiated_cross_entropy` and its siblings as parameters.
    `AdaptiveSoftmax` has a softmax for each cluster, and computes only one of them for a token.

    Args:
        features: d, the size of the last axis of the input.
        classes: K, the frequent ones first.
        cutoffs: increasing integers above 0 and below K, the ends of the bands.
        div_value: at least 1: band i has vectors of width ⌊d / div_value^i⌋, and a projection of
            the features to it.
        widths: for each band the size of its slice of the features, which then are not projected.
        use_bias: whether classes have biases.
        dtype: features and parameters are rounded to this dtype; None leaves them as they are.
            Computations are in float32 at least.
        param_dtype: of the parameters.
        kernel_init: initialiser of projections, of shape [d, d_i].
        embedding_init: initialiser of tables, of shape [K_i, d_i].
        bias_init: initialiser of biases.

    Raises:
        TypeError: if sizes are not integers.
        ValueError: if `cutoffs` do not increase inside (0, K), or `widths` do not sum to d.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = DifferentiatedSoftmax(64, 1000, [100, 300])
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 64)))
        >>> h = layer.apply(variables, jnp.array([5, 400]), method="embed")
        >>> print(h.shape, layer.apply(variables, h, jnp.array([7, 999]), method="loss").shape)
        (2, 64) (2,)
    """

    features: int
    classes: int
    cutoffs: Sequence[int]
    _: dataclasses.KW_ONLY
    div_value: float = 4.0
    widths: Sequence[int] | None = None
    use_bias: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Any = lecun_columns
    embedding_init: Any = lecun_rows
    bias_init: Any = nn.initializers.zeros_init()

    def __post_init__(self):
        _sizes(self)
        object.__setattr__(self, "cutoffs", hashable(self.cutoffs))
        object.__setattr__(self, "widths", hashable(self.widths))
        super().__post_init__()

    def setup(self):
        """Create the tables."""
        shapes = band_shapes(
            self.features, self.classes, self.cutoffs, _sizes(self),
            slices=self.widths is not None,
        )  # fmt: skip
        self.raw_bands = _bands(self, shapes)

    @property
    def table(self) -> tuple[Band, ...]:
        """The parameters, as arguments of the functions, in a bound module."""
        return as_dtype(tuple(self.raw_bands), self.dtype)

    def __call__(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to probabilities [..., K] of all classes."""
        return jnp.exp(self.log_softmax(features))

    def log_softmax(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to log-probabilities [..., K] of all classes."""
        return differentiated_log_softmax(as_dtype(features, self.dtype), self.table)

    def topk(self, features: ArrayLike, k: int) -> TopK:
        """Return the k most probable classes of features [..., d], and their log-probabilities."""
        return differentiated_topk(as_dtype(features, self.dtype), self.table, k)

    def loss(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        *,
        where: ArrayLike | None = None,
        ignore_index: int | None = None,
    ) -> Float[Array, "..."]:
        """Return the loss of each token, in float32 at least: features [..., d], classes [...].

        The other arguments are as in `differentiated_cross_entropy`.
        """
        return differentiated_cross_entropy(
            as_dtype(features, self.dtype),
            self.table,
            labels,
            where=where,
            ignore_index=ignore_index,
        )

    def embed(self, ids: ArrayLike) -> Float[Array, "... d"]:
        """Return vectors [..., d] of classes [...], from the same tables: a tied input layer."""
        return band_embedding(ids, self.table)


def _sizes(layer: DifferentiatedSoftmax) -> Sequence[int]:
    # A function: Flax wraps methods, and this is called before the module is complete.
    return slices_or_widths(
        "linen.DifferentiatedSoftmax", layer.features, layer.classes, layer.cutoffs,
        layer.div_value, layer.widths,
    )  # fmt: skip


def _bands(layer: Any, shapes: Any) -> tuple[Band, ...]:
    """Create the parameters table_0, projection_0, bias_0, table_1, …, where a band has them."""
    bands = []
    for i, (table, projection) in enumerate(shapes):
        dtype, kernel, bias = layer.param_dtype, None, None
        w = layer.param(f"table_{i}", layer.embedding_init, table, dtype)
        if projection is not None:
            kernel = layer.param(f"projection_{i}", layer.kernel_init, projection, dtype)
        if layer.use_bias:
            bias = layer.param(f"bias_{i}", layer.bias_init, table[:1], dtype)
        bands.append(Band(w, kernel, bias))
    return tuple(bands)
