"""Initial values of class tables, as named functions: a module that holds one can be pickled."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array
from jax.typing import DTypeLike

_OF_COLUMNS = jax.nn.initializers.lecun_normal()
_OF_ROWS = jax.nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)


def lecun_columns(key: Array, shape: Any, dtype: DTypeLike = float, **options: Any) -> Array:
    """Return normal numbers of variance 1/d, of shape [..., d, K]: a class is a column."""
    return _OF_COLUMNS(key, shape, dtype, **options)


def lecun_rows(key: Array, shape: Any, dtype: DTypeLike = float, **options: Any) -> Array:
    """Return normal numbers of variance 1/d, of shape [..., K, d]: a class is a row."""
    return _OF_ROWS(key, shape, dtype, **options)
