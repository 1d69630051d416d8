"""Input embeddings tied to the tables of an adaptive or differentiated softmax."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.vocabulary.bands._bands import Band, read_bands, sliced, starts_of, width_of


@on_explicit_axes(like="ids", axis=())
def band_embedding(ids: ArrayLike | Sequence[int], table: Sequence[Band]) -> Float[Array, "... d"]:
    r"""Look up vectors of classes in the tables of an adaptive or differentiated softmax.

    .. math:: e(k) = P_i w_k \text{ for } k \text{ in band } i

    Map a class back to features: multiply the row w of its table by the transposed projection.
    Input and output are tied, since `adaptive_cross_entropy` uses the same arrays. Where bands have
    a slice of the features each, that slice is w, and the rest is 0. Biases are not used.

    Args:
        ids: classes, integers of any shape, numbered over all bands.
        table: a sequence of `Band`, such as `AdaptiveTables.bands`.

    Returns:
        Vectors of shape [..., d], in the dtype of the bands. NaN for an id out of range in a
        `jax.Array`: its values are not checked.

    Raises:
        TypeError: if `ids` are not integers, or `table` is not a sequence of `Band`.
        ValueError: if shapes do not fit, or ids known while tracing are out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> frequent = Band(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> rare = Band(jnp.array([[1.0], [3.0]]), projection=jnp.array([[1.0], [2.0]]))
        >>> print(band_embedding(jnp.array([1, 3]), [frequent, rare]))
        [[0. 1.]
         [3. 6.]]

    Alexei Baevski and Michael Auli, "Adaptive Input Representations for Neural Language Modeling",
    2019.
    """
    function = "band_embedding"
    bands = read_bands(function, table, None, slices=True)
    classes = starts_of(bands)[-1]
    given = checks.as_array(function, "ids", ids)
    if given.size == 0 and isinstance(ids, list | tuple):
        given = given.astype(jnp.int32)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `ids` have dtype {given.dtype}; give it integers for classes."
        )
    known = checks.known_values(ids)
    if known is not None:
        bad = (known < 0) | (known >= classes)
        if np.any(bad):
            raise ValueError(
                f"jsoftmax.{function}: id {known[bad].flat[0]} is out of range [0, {classes})."
            )
    wide = given if given.dtype.itemsize >= 4 else given.astype(jnp.int32)
    valid = (wide >= 0) & (wide < classes)
    found = jnp.where(valid, wide, 0).astype(jnp.int32)
    dtype = jnp.result_type(*(checks.result_dtype(x) for band in bands for x in _arrays(band)))
    parts = []
    for band, start in zip(bands, starts_of(bands), strict=False):
        size = band.table.shape[0]
        inside = (found >= start) & (found < start + size)
        row = band.table[jnp.clip(found - start, 0, size - 1)].astype(dtype)
        row = jnp.where(inside[..., None], row, 0)
        parts.append(row if band.projection is None else row @ band.projection.astype(dtype).T)
    if sliced(bands, width_of(bands, slices=True)):
        vectors = jnp.concatenate(parts, axis=-1)
    else:
        vectors = sum(parts[1:], start=parts[0])
    return jnp.where(valid[..., None], vectors, jnp.nan)


def _arrays(band: Band) -> list[Array]:
    return [x for x in (band.table, band.projection) if x is not None]
