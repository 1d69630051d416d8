"""Cross-entropy with a partition function estimated from a few candidates."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.losses import cross_entropy
from jsoftmax.mappings import logsumexp
from jsoftmax.vocabulary.sampled._candidates import Candidates
from jsoftmax.vocabulary.sampled._sampled_scores import read_sampled


@on_explicit_axes(like="features")
def sampled_softmax_loss(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    candidates: Candidates,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    remove_hits: bool = True,
    correct_targets: bool = False,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
) -> Float[Array, "..."]:
    r"""Estimate `linear_cross_entropy` from a sample of the classes: O(draws) instead of O(K).

    .. math:: L = -z_y + \log\Big(e^{z_y} + \sum_{c \in S,\, c \ne y} e^{z_c - \log n_c}\Big)

    with z = h W + b and n_c the expected count of class c among the candidates S. The sum is an
    unbiased estimate of that over the classes other than y. So L and its gradient tend to those of
    the full softmax as the number of draws grows, and equal them where every class is a candidate
    once with n = 1. For finitely many draws L is too small on average, since the logarithm is
    concave. Candidates that equal the target (accidental hits) are left out, since the target has a
    term of its own.

    With `correct_targets`, as in TensorFlow and in many recommender systems, the target enters as
    e^{z_y}/n_y. This is the ranking form of noise-contrastive estimation: the loss separates the
    target from draws of the sampler. It does not estimate the cross-entropy, not even in the limit
    of many draws with replacement, where n_y grows. With replacement and hits left in, its expected
    gradient is zero at log p plus a constant, for any number of draws.

    `importance_sampling_loss` has a term of the target only if it is drawn; `nce_loss` has binary
    terms instead of a sum over classes.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0; of it only the rows of labels
            and candidates are read.
        labels: classes, integers of shape [...].
        candidates: `Candidates`, as a sampler draws them, shared by all tokens or for each its own.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., 1]: other tokens have loss 0 and gradient 0.
        ignore_index: tokens with this label have loss 0 and gradient 0.
        remove_hits: whether to leave out candidates that equal the target.
        correct_targets: whether to subtract log n_y from z_y. The candidates must then have been
            drawn with `labels`.
        temperature: T > 0, a number or an array [..., 1]; scores are divided by it. In an array any
            other number makes the loss of its token NaN, and its gradient 0.
        logits_soft_cap: c > 0: scores become c tanh(z/c) before the division by T; None for none.
        class_axis: the axis of the classes in `kernel`. 0, the layout of an embedding table, is
            faster here, since a class is then a row.

    Returns:
        One loss per token, of shape [...], in float32 at least, never negative. NaN for a label out
        of range in a `jax.Array`, since its values are not checked, and for a candidate beyond K.

    Raises:
        TypeError: if `features` or `kernel` are not real numbers, `candidates` are not
            `Candidates`, or `where` or `labels` have a wrong dtype.
        ValueError: if shapes do not fit, there are no candidates, counts are missing, or a number
            known while tracing is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jsoftmax
        >>> h, W = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
        >>> every = jsoftmax.vocabulary.Candidates(jnp.arange(3), 0.0)
        >>> print(sampled_softmax_loss(h, W, [0], every))
        [7.0034]
        >>> print(jsoftmax.linear_cross_entropy(h, W, [0]))
        [7.0034]
        >>> drawn = jsoftmax.vocabulary.uniform_sampler(3).sample(jax.random.key(0), (1000,))
        >>> print(jnp.abs(sampled_softmax_loss(h, W, [0], drawn) - 7.0034) < 0.2)
        [ True]

    Reference:
        G. Blanc and S. Rendle, "Adaptive sampled softmax with kernel based sampling", ICML 2018;
        S. Jean et al., "On using very large target vocabulary for neural machine translation",
        ACL 2015; for corrected labels Z. Ma and M. Collins, "Noise contrastive estimation and
        negative sampling for conditional models", EMNLP 2018.
    """
    name = "sampled_softmax_loss"
    scores = read_sampled(
        name, features, kernel, labels, candidates, bias=bias, where=where,
        ignore_index=ignore_index, temperature=temperature, logits_soft_cap=logits_soft_cap,
        class_axis=class_axis,
    )  # fmt: skip
    target = scores.target
    if correct_targets:
        target = target - scores.counted_targets(name)
    z = jnp.concatenate([target, scores.corrected(remove_hits)], axis=-1)
    first = jnp.zeros(z.shape[0], jnp.int32)
    return scores.settle(cross_entropy(z, first)[:, None])


@on_explicit_axes(like="features")
def importance_sampling_loss(
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    candidates: Candidates,
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
) -> Float[Array, "..."]:
    r"""Compute the cross-entropy with the whole partition function estimated from candidates.

    .. math:: L = -z_y + \log \sum_{c \in S} e^{z_c - \log n_c}, \qquad
              \dot L = -\dot z_y + \sum_{c \in S} ω_c \dot z_c, \quad
              ω_c = \frac{e^{z_c}/n_c}{\sum_{c' \in S} e^{z_{c'}}/n_{c'}}

    Its gradient is self-normalised importance sampling of that of log Σ exp z. It is biased for
    finitely many draws and tends to the gradient of the full softmax. Unlike `sampled_softmax_loss`
    the loss may be negative, and is unbounded below where the target is not among the candidates:
    nothing then keeps z_y from growing. So it needs many draws, and a sampler close to p.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0; of it only the rows of labels
            and candidates are read.
        labels: classes, integers of shape [...].
        candidates: `Candidates`, as a sampler draws them, shared by all tokens or for each its own.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., 1]: other tokens have loss 0 and gradient 0.
        ignore_index: tokens with this label have loss 0 and gradient 0.
        temperature: T > 0, a number or an array [..., 1]; scores are divided by it. In an array any
            other number makes the loss of its token NaN, and its gradient 0.
        logits_soft_cap: c > 0: scores become c tanh(z/c) before the division by T; None for none.
        class_axis: the axis of the classes in `kernel`.

    Returns:
        One loss per token, of shape [...], in float32 at least. NaN for a label out of range in a
        `jax.Array`.

    Raises:
        TypeError: as `sampled_softmax_loss`.
        ValueError: as `sampled_softmax_loss`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jsoftmax
        >>> h, W = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
        >>> every = jsoftmax.vocabulary.Candidates(jnp.arange(3), 0.0)
        >>> print(importance_sampling_loss(h, W, [0], every))
        [7.0034]

    Reference:
        Y. Bengio and J.-S. Senécal, "Adaptive importance sampling to accelerate training of a
        neural probabilistic language model", IEEE TNN 2008.
    """
    scores = read_sampled(
        "importance_sampling_loss", features, kernel, labels, candidates, bias=bias, where=where,
        ignore_index=ignore_index, temperature=temperature, logits_soft_cap=logits_soft_cap,
        class_axis=class_axis,
    )  # fmt: skip
    z = scores.corrected(remove_hits=False)
    return scores.settle(logsumexp(z, axis=-1, keepdims=True) - scores.target)
