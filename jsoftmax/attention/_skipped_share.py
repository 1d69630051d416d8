"""Share of attention's work that its kernels skip, since no weight there is positive."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from jsoftmax.attention._attention_arguments import read_arguments
from jsoftmax.attention._kernel_attention import refuse
from jsoftmax.attention._kernel_passes import attended, tiles_in_sight
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen

_FUNCTION = "attention_skipped_share"


def attention_skipped_share(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    alpha: float | ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    of: str = "mixtures",
    **options: Any,
) -> Float[Array, ""]:
    """Return the share of tiles of scores that the kernels of attention skip for lack of mass.

    Where α > 1 a score far below the largest has no mass. A tile without mass adds nothing to
    mixtures, and nothing to any gradient, so the kernels of
    `dot_product_attention(..., implementation="pallas")` skip it: the result is exact, not an
    approximation. Where a row of scores does not fit the chip (beyond 65,536 keys), they do not
    even form the scores of a tile if the bounds of its keys show that none has mass. Tiles that a
    window, lengths or `is_causal` hide wholly are not counted; they are never formed.

    Args:
        query: as in `dot_product_attention`, like all arguments below.
        key: see there.
        value: see there.
        bias: see there.
        mask: see there.
        alpha: see there.
        regularizer: see there.
        of: "mixtures" for the tiles that are skipped in mixtures; "scores" for those among them
            that are skipped before their scores are formed.
        **options: `scale`, `is_causal`, `query_offset`, lengths, `local_window_size`, segments,
            `logits_soft_cap` and `sinks`.

    Returns:
        A number from 0 to 1, without derivatives; 0 for softmax, where every score has mass.

    Raises:
        TypeError: for an unknown option, and as `dot_product_attention`.
        ValueError: for another `of`, and as `dot_product_attention`.
        NotImplementedError: for arguments that the kernels do not support.

    Example:
        >>> import jax.numpy as jnp, jsoftmax
        >>> key = jnp.repeat(jnp.eye(2), 512, axis=0).reshape(1, 1024, 1, 2)  # two tiles of keys
        >>> query = 9 * key[:, :256]  # of the kind of the first
        >>> share = jsoftmax.attention_skipped_share(query, key, key, alpha=1.5)
        >>> float(share)
        0.5
    """
    known = (
        "scale", "is_causal", "query_offset", "query_seq_lengths", "key_value_seq_lengths",
        "local_window_size", "query_segment_ids", "key_value_segment_ids", "logits_soft_cap",
        "sinks",
    )  # fmt: skip
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(
            f"jsoftmax.{_FUNCTION}: unknown option `{unknown[0]}`; it takes {', '.join(known)}."
        )
    if of not in ("mixtures", "scores"):
        raise ValueError(f"jsoftmax.{_FUNCTION}: `of` must be 'mixtures' or 'scores', got {of!r}.")
    options = dict.fromkeys(known) | {"is_causal": False} | options
    given, rule = read_arguments(
        _FUNCTION, query, key, value, bias, mask,
        regularizer=chosen(_FUNCTION, alpha, regularizer, 1.0, False), dropout_rng=None,
        dropout_rate=0.0, broadcast_dropout=False, axis_name=None, **options,
    )  # fmt: skip
    refuse(f"jsoftmax.{_FUNCTION}: the kernels do", given, rule)
    rule = dataclasses.replace(rule, are_few=False, are_joined=False, is_clean=True)
    return _share(jax.lax.stop_gradient(given), rule, of)


@partial(jax.jit, static_argnums=(1, 2))
def _share(given, rule, of):
    from jsoftmax.kernels.attention import FORMED, MASS

    found = attended(given, rule, True)
    sight = tiles_in_sight(given, rule)
    if "alive" not in found:
        return jnp.zeros(())
    done = found["alive"].reshape(sight.shape) >= (MASS if of == "mixtures" else FORMED)
    total = jnp.sum(sight)
    return jnp.where(total > 0, 1 - jnp.sum(sight & done) / jnp.maximum(total, 1), 0)
