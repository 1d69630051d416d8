"""Candidates of sampled losses: class ids and their expected counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core import _checks as checks


class Candidates(NamedTuple):
    r"""Classes drawn to represent all classes, as `ClassSampler.sample` returns them.

    A loss needs only one number about a sampler: n_c, the expected count of class c among the
    candidates. Divided by n_c, a term of a candidate is an unbiased estimate,

    .. math:: E\Big[\sum_{c \in S} \frac{f(c)}{n_c}\Big] = \sum_i f(i),
              \qquad \frac{e^{z_c}}{n_c} = e^{z_c - \log n_c},

    so a score enters as z_c − log n_c: the logQ correction.

    Args:
        ids: class ids, of shape [draws] if all tokens share them, else [..., draws]. A negative id
            is ignored.
        log_expected_count: log n_c, of the shape of `ids` or one that broadcasts to it.
        target_log_expected_count: log n_y of the labels, of their shape; None where the sampler was
            not given labels. `nce_loss` needs it.

    Example:
        >>> import jax.numpy as jnp
        >>> every = Candidates(jnp.arange(3), 0.0)  # each class once: nothing is left to chance
        >>> print(every.ids)
        [0 1 2]
    """

    ids: Int[ArrayLike, "..."]
    log_expected_count: Float[ArrayLike, "..."]
    target_log_expected_count: Float[Array, "..."] | None = None


def in_batch_candidates(labels: ArrayLike, log_probabilities: ArrayLike) -> Candidates:
    r"""Use the labels of a batch as candidates for one another: no draws, no other rows.

    .. math:: \log n_c = \log(n - 1) + \log q_c

    Besides its own target, each of n tokens has the n − 1 other labels as candidates, draws from
    the distribution q of the data. Losses must leave out accidental hits, as `sampled_softmax_loss`
    does, since every target is among the candidates of its own token. n_c is exact where labels are
    independent and q is their distribution; with an estimate of q it is an estimate.

    Args:
        labels: classes, integers of shape [...]. Negative ones are ignored.
        log_probabilities: log q of the labels, of their shape: `log_q[labels]` from one number per
            class. q comes from counts, or from an estimate updated while training, such as −log of
            the mean number of steps between two occurrences.

    Returns:
        `Candidates` with all n labels as ids, of shape [n], shared by all tokens.

    Raises:
        TypeError: if `labels` are not integers or `log_probabilities` not real numbers.
        ValueError: if their shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> log_q = jnp.log(jnp.array([0.5, 0.25, 0.25]))
        >>> y = jnp.array([0, 2, 0])
        >>> print(jnp.exp(in_batch_candidates(y, log_q[y]).log_expected_count))
        [1.  0.5 1. ]

    Reference:
        X. Yi et al., "Sampling-bias-corrected neural modeling for large corpus item
        recommendations", RecSys 2019.
    """
    log_q = checks.as_array("in_batch_candidates", "log_probabilities", log_probabilities)
    log_q = log_q.astype(checks.compute_dtype(log_q))
    y = checks.as_array("in_batch_candidates", "labels", labels)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.in_batch_candidates: `labels` have dtype {y.dtype}; give integers, the "
            "numbers of classes."
        )
    if log_q.shape != y.shape:
        raise ValueError(
            f"jsoftmax.in_batch_candidates: `labels` have shape {y.shape} and `log_probabilities` "
            f"{log_q.shape}. Give one log-probability for each target, such as log_q[labels]."
        )
    others = jnp.maximum(jnp.sum(y >= 0) - 1, 1).astype(log_q.dtype)
    log_count = jnp.log(others) + log_q
    return Candidates(y.reshape(-1), log_count.reshape(-1), log_count)


def read_ids(function: str, candidates: Any) -> Array:
    """Validate the ids of candidates, at least one."""
    if not isinstance(candidates, Candidates):
        raise TypeError(
            f"jsoftmax.{function}: `candidates` are of type {type(candidates).__name__}; give the "
            "result of a sampler's `sample`, or Candidates(ids, log_expected_count)."
        )
    ids = checks.as_array(function, "candidates.ids", candidates.ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: the ids of `candidates` have dtype {ids.dtype}; give integers, "
            "the numbers of classes."
        )
    if ids.ndim == 0 or ids.shape[-1] == 0:
        raise ValueError(
            f"jsoftmax.{function}: the ids of `candidates` have shape {ids.shape}; give at least "
            "one class along the last axis."
        )
    return ids
