"""Truncate rows by several settings, draw a class of each, and score it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._cooled import cooled
from jsoftmax.core._labels import log_prob_at
from jsoftmax.sampling._categorical import classes_last, exponential
from jsoftmax.sampling._inverse import classes_of_words
from jsoftmax.sampling._wide_integers import Words
from jsoftmax.sampling.truncation import _kept as kept
from jsoftmax.sampling.truncation._settings import setting


class SampledToken(NamedTuple):
    """The result of `sample_token`: a class per row, and its log-probabilities.

    Args:
        token: class numbers; −1 where there is nothing to draw.
        log_prob: log-probability of the token under the truncated distribution; −∞ where the token
            is −1.
        whole_log_prob: its log-probability at the same temperature without truncation, except for
            `where`; −∞ where the token is −1.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax
        >>> z = jnp.log(jnp.array([0.5, 0.25, 0.25]))
        >>> drawn = jsoftmax.sample_token(jax.random.key(0), z, k=1)
        >>> print(drawn.token, drawn.log_prob, drawn.whole_log_prob.round(4))
        0 -0.0 -0.6931
    """

    token: Int[Array, "..."]
    log_prob: Float[Array, "..."]
    whole_log_prob: Float[Array, "..."]


class Settings(NamedTuple):
    """The settings of the truncations, in the order of their application; None skips one."""

    n_sigma: Array | None = None
    k: Array | None = None
    p: Array | None = None
    min_p: Array | None = None
    typical_p: Array | None = None
    epsilon: Array | None = None


def read_settings(
    function: str, logits: Array | jax.ShapeDtypeStruct, classes: ClassAxis, **given: Any
) -> Settings:
    """Check the settings of `function`.

    Raises:
        ValueError: for a known number out of range, and for a shape that does not broadcast.
    """
    ranges: dict[str, dict[str, Any]] = {
        "n_sigma": {"least": 0},
        "k": {"least": 1, "is_whole": True},
    }
    read = {
        name: setting(
            function, name, x, logits, classes, **ranges.get(name, {"least": 0, "most": 1})
        )
        for name, x in given.items()
        if x is not None
    }
    return Settings(**read)


def truncated(z: Array, settings: Settings, temperature: Array | None, classes: ClassAxis) -> Array:
    """Return scores with −∞ in place of classes that do not stay."""
    known = jax.lax.stop_gradient(z)
    top = classes.max(known)

    def cut(known: Array, keeps: Array) -> Array:
        return jnp.where(keeps, known, -jnp.inf)

    s = settings
    if s.n_sigma is not None:
        known = cut(known, kept.kept_by_deviation(known, s.n_sigma, top, classes))
    if s.k is not None:
        known = cut(known, kept.kept_by_rank(known, s.k, classes))
    if s.p is not None:
        known = cut(known, kept.kept_by_mass(known, s.p, temperature, top, classes))
    if s.min_p is not None:
        known = cut(known, kept.kept_by_ratio(known, s.min_p, temperature, top, classes))
    if s.typical_p is not None:  # the only truncation that may leave out the largest
        known = cut(known, kept.kept_by_typicality(known, s.typical_p, temperature, top, classes))
        top = classes.max(known)
    if s.epsilon is not None:
        known = cut(known, kept.kept_by_entropy(known, s.epsilon, temperature, top, classes))
    return jnp.where(known == -jnp.inf, -jnp.inf, z)


def drawn_and_scored(
    words: Words, z: Array, settings: Settings, temperature: Array | None, classes: ClassAxis
) -> SampledToken:
    """Draw a class of each truncated row, with size-1 class axes in the results."""
    few = truncated(z, settings, temperature, classes)
    scores = jax.lax.stop_gradient(few)
    per_row = (classes.max(scores),)
    if temperature is not None:
        per_row = (*per_row, jax.lax.stop_gradient(temperature))
    rows = classes_last(per_row[0], classes).shape[:-1]
    drawn = classes_of_words(
        words,
        classes_last(scores, classes),
        tuple(jnp.broadcast_to(classes_last(x, classes), (*rows, 1)) for x in per_row),
        exponential,
        rows,
        classes.axis_name,
    )
    token = jnp.expand_dims(drawn, classes.axis)

    def log_prob(z: Array) -> Array:
        value = log_prob_at(cooled(z, temperature, classes), jnp.maximum(token, 0), classes)
        return jnp.where(token < 0, -jnp.inf, value)

    return SampledToken(token, log_prob(few), log_prob(z))
