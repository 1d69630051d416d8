"""Bands of classes, each with a table of its own width, and the validation of their arguments."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jsoftmax.core import _checks as checks
from jsoftmax.losses._targets import differs


class Band(NamedTuple):
    """A run of classes that have vectors of one width.

    Bands are consecutive: the first has the classes from 0 on, the next those after. Frequent
    classes come first. The score of a class is ⟨x, w⟩ + b, with x the projected features.

    Args:
        table: of shape [K_i, d_i], a row w for each class of the band, as in an embedding table.
        projection: of shape [d, d_i], which maps the features to x; None where x is the features
            themselves.
        bias: b of shape [K_i], or None.

    Example:
        >>> import jax.numpy as jnp
        >>> frequent = Band(jnp.zeros((10, 8)))
        >>> rare = Band(jnp.zeros((90, 2)), projection=jnp.zeros((8, 2)))
    """

    table: Any
    projection: Any = None
    bias: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Banded:
    """Validated features and bands in one dtype, flat over tokens."""

    features: Array  # (token, d)
    bands: tuple[Band, ...]
    lead: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    function: str = dataclasses.field(metadata={"static": True})

    @property
    def starts(self) -> tuple[int, ...]:
        """Return the first class of every band, and at the end the number of classes."""
        return starts_of(self.bands)

    def inputs(self, features: Array) -> list[Array]:
        """Return x of every band, (…, d_i): features projected, unchanged or sliced."""
        if not sliced(self.bands, self.features.shape[-1]):
            return [projected(features, band) for band in self.bands]
        ends = accumulate(band.table.shape[1] for band in self.bands)
        return [features[..., a:b] for a, b in pairwise((0, *ends))]

    def shaped(self, x: Array) -> Array:
        """(token, …) → (*lead, …)."""
        return x.reshape(*self.lead, *x.shape[1:])


class Labels(NamedTuple):
    """The label of each token, and masks for its loss: all of shape (token,)."""

    ids: Array  # a class in any case
    valid: Array  # False: NaN, since the label is out of range
    counted: Array | None  # False: 0, since the token is left out

    def settle(self, loss: Array) -> Array:
        """Set losses to 0 where a token is left out and to NaN where its label is out of range."""
        loss = jnp.where(self.valid, loss, jnp.nan)
        return loss if self.counted is None else jnp.where(self.counted, loss, 0)


def starts_of(bands: Sequence[Band]) -> tuple[int, ...]:
    """Return the first class of every band, and at the end the number of classes."""
    return (0, *accumulate(band.table.shape[0] for band in bands))


def sliced(bands: Sequence[Band], width: int) -> bool:
    """Return whether each band has a slice of the features, instead of all of them."""
    widths = [band.table.shape[1] for band in bands]
    return len(bands) > 1 and sum(widths) == width and all(b.projection is None for b in bands)


def projected(features: Array, band: Band) -> Array:
    """Return x of a band that has all the features."""
    return features if band.projection is None else features @ band.projection


def band_scores(x: Array, band: Band) -> Array:
    """Compute ⟨x, w⟩ + b for the classes of a band."""
    z = jax.lax.dot_general(x, band.table, (((x.ndim - 1,), (1,)), ((), ())))
    return z if band.bias is None else z + band.bias


def read_banded(
    function: str, features: Any, bands: Any, *, slices: bool, more: Sequence[Array] = ()
) -> Banded:
    """Validate features and bands, and promote them and `more` to a common dtype.

    With `slices`, bands without projections may have a slice of the features each.
    """
    features = checks.as_array(function, "features", features)
    if features.ndim == 0:
        raise ValueError(
            f"jsoftmax.{function}: `features` is a single number; give it the shape [..., d]."
        )
    width = features.shape[-1]
    bands = read_bands(function, bands, width, slices=slices)
    arrays = (features, *more, *jax.tree.leaves(bands))
    dtype = jnp.result_type(*(checks.compute_dtype(x) for x in arrays))
    lead = features.shape[:-1]
    features = features.astype(dtype).reshape(math.prod(lead), width)
    return Banded(features, jax.tree.map(lambda x: x.astype(dtype), bands), lead, function)


def read_bands(function: str, bands: Any, width: int | None, *, slices: bool) -> tuple[Band, ...]:
    """Convert bands to arrays and check that they fit features of `width`, if that is known."""
    if isinstance(bands, Band) or not isinstance(bands, list | tuple) or not bands:
        raise TypeError(
            f"jsoftmax.{function}: `table` must be a sequence of at least one "
            f"jsoftmax.vocabulary.Band, got {type(bands).__name__}."
        )
    found = []
    for i, band in enumerate(bands):
        if not isinstance(band, Band):
            raise TypeError(
                f"jsoftmax.{function}: band {i} is of type {type(band).__name__}; give it a "
                "jsoftmax.vocabulary.Band(table, projection, bias)."
            )
        found.append(
            Band(*(
                None if x is None else checks.as_array(function, f"{name} of band {i}", x)
                for name, x in zip(Band._fields, band, strict=True)
            ))
        )  # fmt: skip
        _check_band(function, i, found[-1])
    bands = tuple(found)
    if width is None:
        width = width_of(bands, slices)
    if slices and sliced(bands, width):
        return bands
    for i, band in enumerate(bands):
        takes = band.table.shape[1] if band.projection is None else band.projection.shape[0]
        if takes != width:
            raise ValueError(
                f"jsoftmax.{function}: band {i} takes {takes} features, and there are {width}. "
                f"Give it a projection of shape {(width, band.table.shape[1])}"
                + (", or give all bands tables with widths that sum to it." if slices else ".")
            )
    return bands


def width_of(bands: tuple[Band, ...], slices: bool) -> int:
    """Return the width of features that bands are made for."""
    for band in bands:
        if band.projection is not None:
            return band.projection.shape[0]
    widths = [band.table.shape[1] for band in bands]
    return sum(widths) if slices and len(set(widths)) > 1 else widths[0]


def _check_band(function: str, i: int, band: Band) -> None:
    table, projection, bias = band
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(
            f"jsoftmax.{function}: the table of band {i} has shape {table.shape}; give it the "
            "shape [K_i, d_i], a row for each of its classes, and at least one class."
        )
    if projection is not None and (projection.ndim != 2 or projection.shape[1] != table.shape[1]):
        raise ValueError(
            f"jsoftmax.{function}: the projection of band {i} has shape {projection.shape}, and "
            f"its table {table.shape}; give it the shape [d, {table.shape[1]}]."
        )
    if bias is not None and bias.shape != table.shape[:1]:
        raise ValueError(
            f"jsoftmax.{function}: the bias of band {i} has shape {bias.shape}; give it one number "
            f"per class, shape {table.shape[:1]}."
        )


def read_labels(
    banded: Banded, labels: Any, classes: int, where: Any, ignore_index: int | None
) -> tuple[Banded, Labels]:
    """Read one class per token; features of tokens that are left out become 0, NaN too."""
    function, lead = banded.function, banded.lead
    ids = checks.as_array(function, "labels", labels)
    if ids.shape != lead:
        raise ValueError(
            f"jsoftmax.{function}: `labels` have shape {ids.shape}; give one class for each "
            f"token, integers of shape {lead}."
        )
    if ids.size == 0 and isinstance(labels, list | tuple):
        ids = ids.astype(jnp.int32)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `labels` have dtype {ids.dtype}; give integers for classes."
        )
    known = checks.known_values(labels)
    if known is not None:
        bad = (known < 0) | (known >= classes)
        if ignore_index is not None:
            bad &= known != ignore_index
        if np.any(bad):
            raise ValueError(
                f"jsoftmax.{function}: label {known[bad].flat[0]} is out of range [0, {classes}). "
                "To leave tokens out, give their label as `ignore_index`."
            )
    wide = ids.reshape(-1)
    wide = wide if wide.dtype.itemsize >= 4 else wide.astype(jnp.int32)
    valid = (wide >= 0) & (wide < classes)
    counted = None if ignore_index is None else differs(wide, ignore_index)
    if where is not None:
        mask = jnp.asarray(where)
        if mask.dtype != jnp.bool_:
            raise TypeError(
                f"jsoftmax.{function}: `where` has dtype {mask.dtype}; give it a boolean mask, "
                "True where a token counts."
            )
        if not checks.broadcasts(mask, (*lead, 1)):
            raise ValueError(
                f"jsoftmax.{function}: `where` has shape {mask.shape}; it leaves out tokens, not "
                f"classes: give it a shape that broadcasts to {(*lead, 1)}."
            )
        mask = mask.reshape((1,) * (len(lead) + 1 - mask.ndim) + mask.shape)
        mask = jnp.broadcast_to(mask, (*lead, 1)).reshape(-1)
        counted = mask if counted is None else counted & mask
    if counted is not None:
        valid = valid | ~counted
        features = jnp.where(counted[:, None], banded.features, 0)
        banded = dataclasses.replace(banded, features=features)
    ids = jnp.where((wide >= 0) & (wide < classes), wide, 0).astype(jnp.int32)
    return banded, Labels(ids, valid, counted)
