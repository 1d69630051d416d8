"""Log-probability of given classes from features and a class table, for every token."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.vocabulary.linear._linear_cross_entropy import terms_of
from jsoftmax.vocabulary.linear._mesh_parts import on_parts


class LogProbTerms(NamedTuple):
    """The results of `linear_log_prob_terms`, one number per token each.

    Args:
        log_prob: of shape [...], log p of the targets.
        log_partition: of shape [...], log Σ q exp z.
        entropy: of shape [...], that of the prediction, in nats.
        rank: of shape [...], int32: the number of classes with a larger score than the target.

    Example:
        >>> import jax.numpy as jnp
        >>> terms = linear_log_prob_terms(jnp.ones([1, 2]), jnp.zeros([2, 2]), jnp.array([0]))
        >>> print(terms.rank, terms.entropy.round(3))
        [0] [0.693]
    """

    log_prob: Array
    log_partition: Array
    entropy: Array
    rank: Array


@on_parts()
def linear_log_prob(
    features: ArrayLike,
    kernel: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    log_prior: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
    axis_name: Hashable | None = None,
    block_tokens: int | None = None,
    block_classes: int | None = None,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    r"""Compute log p of given classes under the softmax of h W + b, without an array of logits.

    .. math:: z = c \tanh((h W + b)/c)/T, \qquad \log p_y = \log q_y + z_y - \log\sum_i q_i e^{z_i}

    It is −`linear_cross_entropy` of these targets, with the same derivatives, memory, meshes and
    kernels. One call gives the log-probabilities of the tokens of a sequence under a policy (DPO,
    GRPO, PPO); the exponential of the difference of two gives their ratio. `linear_log_prob_terms`
    returns log-partition, entropy and rank of the target too.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        targets: classes y, integers of shape [...].
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K]: only these classes take part. Shape
            [..., 1] leaves out tokens: their result and gradient are 0. A masked target has the
            log-probability −∞, with a finite gradient.
        prior: a reference measure q ≥ 0 that broadcasts to [..., K]: p is in proportion to q exp z.
        log_prior: log q instead of q, which may underflow.
        ignore_index: tokens with this label have the result 0 and gradient 0.
        temperature: T > 0, a number or an array of size 1 along the classes, as [..., 1]. In an
            array any other number makes the result of its token NaN, and its gradient 0.
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: the axis of the classes in `kernel`: −1 for [d, K], 0 for [K, d].
        axis_name: name of the mesh or `vmap` axis that splits the classes. Targets are numbered
            over all parts.
        block_tokens: rows of scores in memory at once; None for the rule of `linear_cross_entropy`.
        block_classes: classes per block of the backward pass; None for the rule.
        implementation: None, "xla" or "pallas", as in `linear_cross_entropy`.

    Returns:
        One log-probability per token, of shape [...], in float32 at least. NaN for a label out of
        range in a `jax.Array`: its values are not checked.

    Raises:
        TypeError: as `linear_cross_entropy`.
        ValueError: as `linear_cross_entropy`, and for pairs of targets.
        NotImplementedError: for options that a named implementation does not support.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> h = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> W = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
        >>> print(linear_log_prob(h, W, jnp.array([2, 0])))
        [-0.0033849 -3.169846 ]
    """
    function = "linear_log_prob"
    _refuse_pairs(function, targets)
    # Not −loss, which is −0 for ignored tokens.
    return 0 - terms_of(
        function, features, kernel, targets, False, bias, where, prior, log_prior, ignore_index,
        0.0, None, 0.0, temperature, logits_soft_cap, class_axis, axis_name, block_tokens,
        block_classes, implementation,
    ).loss  # fmt: skip


@on_parts()
def linear_log_prob_terms(
    features: ArrayLike,
    kernel: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    log_prior: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
    axis_name: Hashable | None = None,
    block_tokens: int | None = None,
    block_classes: int | None = None,
) -> LogProbTerms:
    r"""Compute `linear_log_prob` with the log-partition, the entropy and the rank of every target.

    .. math:: \log\sum_i q_i e^{z_i}, \qquad H = -\sum_i p_i \log p_i, \qquad
              \#\{i : \log q_i + z_i > \log q_y + z_y\}

    One pass over the classes computes all of them, and one more their derivatives; under `jit` an
    unused term costs nothing. The rank has no derivative.

    Args:
        features: h of shape [..., d], any real dtype; all arguments as in `linear_log_prob`.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        targets: classes of shape [...].
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K].
        prior: a reference measure q ≥ 0 that broadcasts to [..., K]; 0 masks a class.
        log_prior: log q instead of q, which may underflow.
        ignore_index: tokens with this label have the log-probability 0 and gradient 0, and the
            statistics of scores that are all 0.
        temperature: T > 0, a number or an array of size 1 along the classes. In an array any other
            number makes the results NaN, the rank −1, and the gradient of its token 0.
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: −1 for a kernel of shape [d, K], 0 for [K, d].
        axis_name: name of the mesh or `vmap` axis that splits the classes.
        block_tokens: rows of scores in memory at once; None for the rule.
        block_classes: classes per block of the backward pass; None for the rule.

    Returns:
        `log_prob`, `log_partition` and `entropy`, each of shape [...] and in float32 at least, and
        `rank`, int32: 0 where no class has a larger score than the target, −1 for a label out of
        range or NaN among the scores. A fully masked token has the log-partition −∞.

    Raises:
        TypeError: as `linear_cross_entropy`.
        ValueError: as `linear_log_prob`.

    Example:
        >>> import jax.numpy as jnp
        >>> terms = linear_log_prob_terms(jnp.ones((1, 2)), jnp.eye(2, 4), jnp.array([3]))
        >>> print(terms.log_prob, terms.log_partition, terms.entropy, terms.rank)
        [-2.0064088] [2.0064088] [1.2753503] [2]
    """
    function = "linear_log_prob_terms"
    _refuse_pairs(function, targets)
    terms = terms_of(
        function, features, kernel, targets, True, bias, where, prior, log_prior, ignore_index,
        0.0, None, 0.0, temperature, logits_soft_cap, class_axis, axis_name, block_tokens,
        block_classes, ranks=True,
    )  # fmt: skip
    assert terms.log_partition is not None and terms.entropy is not None and terms.rank is not None
    rank = jax.lax.stop_gradient(terms.rank)
    rank = jnp.where((rank == rank) & (terms.loss == terms.loss), rank, -1).astype(jnp.int32)
    return LogProbTerms(0 - terms.loss, terms.log_partition, terms.entropy, rank)


def _refuse_pairs(function, targets):
    if isinstance(targets, tuple):
        raise ValueError(
            f"jsoftmax.{function}: `targets` is a pair; give one class per token, integers of shape"
            " [...]. For the mean over several classes negate `linear_cross_entropy` of the pair."
        )
