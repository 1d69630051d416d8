"""Noise-contrastive estimation and negative sampling: a binary loss for each candidate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.vocabulary.sampled._candidates import Candidates
from jsoftmax.vocabulary.sampled._sampled_scores import read_sampled


@on_explicit_axes(like="features")
def nce_loss(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    candidates: Candidates,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    log_partition: ArrayLike = 0.0,
    remove_hits: bool = False,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
) -> Float[Array, "..."]:
    r"""Compute the noise-contrastive loss: is a class from the data, or from the noise?

    .. math:: L = -\log σ(z_y - c - \log n_y) - \sum_{i \in S} \log σ(-(z_i - c - \log n_i))

    With k draws from a noise distribution q, n = k q. The scores learn log-probabilities: with c
    the log-partition, the expected gradient is zero at log p, for any noise and any number of
    draws. c may be a parameter, of the model or of each token; commonly it is 0, and the scores
    learn to normalise themselves. `negative_sampling_loss` leaves out n, and so does not learn
    log-probabilities; `sampled_softmax_loss` with corrected labels does not depend on c.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0; of it only the rows of labels
            and candidates are read.
        labels: classes, integers of shape [...].
        candidates: `Candidates` drawn with `labels`, so that log n_y is known; with replacement.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., 1]: other tokens have loss 0 and gradient 0.
        ignore_index: tokens with this label have loss 0 and gradient 0.
        log_partition: c, a number or an array [..., 1]. Differentiable.
        remove_hits: whether to leave out draws that equal the target. The theory leaves them in;
            leave them out where the labels of a batch are candidates for one another.
        temperature: T > 0, a number or an array [..., 1]; scores are divided by it. In an array any
            other number makes the loss of its token NaN, and its gradient 0.
        logits_soft_cap: c > 0: scores become c tanh(z/c) before the division by T; None for none.
        class_axis: the axis of the classes in `kernel`.

    Returns:
        One loss per token, of shape [...], in float32 at least, never negative. NaN for a label out
        of range in a `jax.Array`.

    Raises:
        TypeError: as `sampled_softmax_loss`.
        ValueError: as `sampled_softmax_loss`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jsoftmax
        >>> h, W, y = jnp.array([[1.0, 2.0]]), jnp.zeros((2, 3)), jnp.array([0])
        >>> drawn = jsoftmax.vocabulary.uniform_sampler(3).sample(jax.random.key(0), (3,), y)
        >>> print(nce_loss(h, W, y, drawn))  # 4 log 2: z = log n = 0
        [2.7726]

    Reference:
        M. Gutmann and A. Hyvärinen, "Noise-contrastive estimation of unnormalized statistical
        models", JMLR 2012; A. Mnih and Y. W. Teh, "A fast and simple algorithm for training neural
        probabilistic language models", ICML 2012.
    """
    scores = read_sampled(
        "nce_loss", features, kernel, labels, candidates, bias=bias, where=where,
        ignore_index=ignore_index, temperature=temperature, logits_soft_cap=logits_soft_cap,
        class_axis=class_axis,
    )  # fmt: skip
    c = scores.rows.per_row("log_partition", log_partition)
    target = scores.target - scores.counted_targets("nce_loss") - c
    return scores.settle(_told_apart(target, scores.corrected(remove_hits) - c))


@on_explicit_axes(like="features")
def negative_sampling_loss(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    candidates: Candidates,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    remove_hits: bool = True,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
) -> Float[Array, "..."]:
    r"""Compute word2vec's loss: `nce_loss` without the counts.

    .. math:: L = -\log σ(z_y) - \sum_{i \in S,\, i \ne y} \log σ(-z_i)

    It learns vectors, not probabilities: its scores tend to log p − log n, the log ratio of the
    frequencies in the data and among the draws. So the sampler is part of the model; word2vec draws
    about 5 or 15 candidates per token by `unigram_sampler` at the power 3/4, and skips those that
    equal the target.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0; of it only the rows of labels
            and candidates are read.
        labels: classes, integers of shape [...].
        candidates: `Candidates`; only the ids are used.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., 1]: other tokens have loss 0 and gradient 0.
        ignore_index: tokens with this label have loss 0 and gradient 0.
        remove_hits: whether to leave out draws that equal the target.
        temperature: T > 0, a number or an array [..., 1]; scores are divided by it. In an array any
            other number makes the loss of its token NaN, and its gradient 0.
        logits_soft_cap: c > 0: scores become c tanh(z/c) before the division by T; None for none.
        class_axis: the axis of the classes in `kernel`.

    Returns:
        One loss per token, of shape [...], in float32 at least, never negative. NaN for a label out
        of range in a `jax.Array`.

    Raises:
        TypeError: as `sampled_softmax_loss`.
        ValueError: as `sampled_softmax_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jsoftmax
        >>> h, W = jnp.array([[1.0, 2.0]]), jnp.zeros((2, 4))
        >>> drawn = jsoftmax.vocabulary.Candidates(jnp.array([1, 3, 0]), 0.0)
        >>> print(negative_sampling_loss(h, W, [0], drawn))  # 3 log 2, since 0 is the target
        [2.0794]

    Reference:
        T. Mikolov et al., "Distributed representations of words and phrases and their
        compositionality", 2013.
    """
    scores = read_sampled(
        "negative_sampling_loss", features, kernel, labels, candidates, bias=bias, where=where,
        ignore_index=ignore_index, temperature=temperature, logits_soft_cap=logits_soft_cap,
        class_axis=class_axis,
    )  # fmt: skip
    return scores.settle(_told_apart(scores.target, scores.uncorrected(remove_hits)))


def _told_apart(target: Array, others: Array) -> Array:
    """Compute −log σ(target) − Σ log σ(−others); scores of −∞ add nothing."""
    nothing = others == -jnp.inf
    each = jax.nn.softplus(jnp.where(nothing, 0, others))
    each = jnp.where(nothing, 0, each)
    return jax.nn.softplus(-target) + jnp.sum(each, axis=-1, keepdims=True)
