"""Checks of annotations: an int passes for a float, a symbolic size for an int."""

import beartype
import jax

SYMBOL = type(jax.export.symbolic_shape("n")[0])

check = beartype.beartype(
    conf=beartype.BeartypeConf(
        is_pep484_tower=True,
        hint_overrides=beartype.FrozenDict({int: int | SYMBOL}),
    )
)
