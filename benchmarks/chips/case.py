"""A program that is compiled, and the limits on its figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

BF16, F32, I32 = jnp.bfloat16, jnp.float32, jnp.int32
WHOLE = P()
Shape = tuple[tuple[int, ...], Any, P]  # shape, dtype, how it is split


@dataclasses.dataclass(frozen=True)
class Case:
    """A program; `limits` bound its figures, divided by those of the peer."""

    group: str
    name: str
    function: Callable
    shapes: tuple[Shape, ...]
    peer: str | None = None  # the name of another case of the group
    axes: AxisType | None = None  # of a mesh of 2 × 4; None for one device
    limits: dict[str, float] = dataclasses.field(default_factory=dict)
    rows: int | None = None  # of a device, if no more than the peer's and some numbers a row travel
    is_quick: bool = False
    platform: str | None = None  # the only one
