"""Cross-entropy from features and a class table, for every token."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.vocabulary.linear._class_prior import with_prior
from jsoftmax.vocabulary.linear._linear_arguments import (
    Fixed,
    Moving,
    Rows,
    Rule,
    class_weights_of,
    read_rows,
    whole_if_few,
)
from jsoftmax.vocabulary.linear._linear_margin import with_margins
from jsoftmax.vocabulary.linear._mesh_parts import on_parts
from jsoftmax.vocabulary.linear._outcome import Outcome
from jsoftmax.vocabulary.linear._outcomes_by import Platforms, outcomes_by, platforms_of
from jsoftmax.vocabulary.linear._token_targets import Fate, label, with_targets


class CrossEntropyTerms(NamedTuple):
    """The results of `linear_cross_entropy_terms`, one number per token each.

    Args:
        loss: of shape [...], the cross-entropies.
        log_partition: of shape [...], log Σ q exp z.
        entropy: of shape [...], that of the prediction, in nats.

    Example:
        >>> import jax.numpy as jnp
        >>> terms = linear_cross_entropy_terms(jnp.ones([1, 2]), jnp.zeros([2, 4]), [0])
        >>> print(terms.entropy.round(3))
        [1.386]
    """

    loss: Array
    log_partition: Array
    entropy: Array


@on_parts()
def linear_cross_entropy(
    features: ArrayLike,
    kernel: ArrayLike,
    targets: ArrayLike | tuple[ArrayLike, ...],
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    log_prior: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: ArrayLike = 0.0,
    margin: ArrayLike = 0.0,
    angular_margin: ArrayLike = 0.0,
    normalize: bool = False,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
    axis_name: Hashable | None = None,
    block_tokens: int | None = None,
    block_classes: int | None = None,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    r"""Compute `cross_entropy` of the logits h W + b, without a large array of logits.

    .. math:: z = c \tanh((h W + b)/c)/T, \qquad
              L = \sum_i w_i y_i (-\log p_i) + λ (\log\sum_i q_i e^{z_i})²

    with p = q exp(z)/Σ q exp(z), the softmax of z where there is no prior q. Values and derivatives
    are those of `cross_entropy`, in both modes and of any order: in features, kernel, bias,
    temperature and prior. All other arguments are constants to derivatives.

    With one label per token, up to 2²⁴ scores stay in memory from forward to backward pass: half
    the memory of dense logits, and nothing is computed twice. So do the scores of at most d/2
    tokens, which are no larger than the kernel. Otherwise, and with pairs, the backward pass
    recomputes the scores in blocks, a fourth matrix product besides the three of dense logits;
    `linear_cross_entropy_sum` avoids it where only a sum is needed. By default a block has

    ========  ====================  =============  ===============================================
    pass      share                 at least       at most
    ========  ====================  =============  ===============================================
    forward   1/8 of the tokens     512 tokens     2²⁷ scores, or 512 tokens where those have more
    backward  1/16 of the classes   1024 classes   2²⁶ scores, or 512 classes where those have more
    ========  ====================  =============  ===============================================

    On a mesh the sizes are those on one device.

    A kernel in bfloat16 or float16 enters products without a cast if the features have its dtype;
    scores and sums are in float32.

    On a mesh each device computes the scores of its own classes, and devices exchange only a few
    numbers per row. On Explicit axes, the default of `jax.make_mesh`, the types of the arguments
    say how they are split: the function opens `shard_map`, and gathers FSDP kernels (split along
    their features) once. On Auto axes name those of the classes by `axis_name`, under
    `jax.set_mesh`: without it the compiler gathers the kernel.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        targets: classes, integers of shape [...]; or the pair (ids, weights), both of shape
            [..., m]: m classes per token with weights that sum to 1, a few at most, since they are
            searched one by one. A pair of weight 0 is ignored.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K]: only these classes take part. Shape [K]
            leaves out classes, shape [..., 1] tokens: their loss and gradient are 0. Target mass on
            a masked class makes the loss +∞, with a finite gradient.
        prior: a reference measure q ≥ 0 that broadcasts to [..., K], such as shape [K]: p is in
            proportion to q exp z. A class of prior 0 is masked. Differentiable.
        log_prior: log q instead of q, which may underflow; −∞ masks a class.
        ignore_index: tokens with this label have loss 0 and gradient 0.
        label_smoothing: s from 0 to 1: y becomes (1−s) y plus s spread evenly over the unmasked
            classes.
        class_weights: w ≥ 0 of shape [K].
        z_loss: λ of the penalty that pulls the log-partition to 0.
        margin: m, a number or an array of size 1 along the classes, subtracted from the score of
            the label before the division by T. Needs one class per token.
        angular_margin: m from 0 to π, likewise, in radians: the cosine of the label becomes
            cos(θ + m), or cos θ − m sin m where θ is beyond π − m. Needs `normalize`.
        normalize: whether to divide features and class vectors by their lengths, so that scores are
            cosines. No normalised copy of the kernel is made. A vector of length 0 has cosine 0
            with every other, and gradient 0. With T = 1/s, `margin` is CosFace, `angular_margin` is
            ArcFace, and both together are cos(θ + m₂) − m₃.
        temperature: T > 0, a number or an array of size 1 along the classes, as [..., 1]. In an
            array any other number makes the loss of its token NaN, and its gradient 0.
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: the axis of the classes in `kernel`: −1 for [d, K], 0 for [K, d], the layout of
            an embedding table.
        axis_name: name of the mesh or `vmap` axis that splits the classes of `kernel`, `bias`,
            `class_weights`, `where` and prior, in `shard_map`, or outside of it on Auto axes.
            Targets are numbered over all parts.
        block_tokens: rows of scores in memory at once; None for the rule above.
        block_classes: classes per block of the backward pass; None for the rule above.
        implementation: "xla", with all options, or "pallas", kernels for TPUs that keep scores on
            the chip. They support one label per token, `bias`, `ignore_index`, `z_loss`,
            `logits_soft_cap` and `class_axis`, and never fall back; forward mode and second
            derivatives are XLA's. On a CPU they are interpreted, slowly. None uses them where
            `jsoftmax.kernels` has a record that they were correct and faster on this hardware.

    Returns:
        One loss per token, of shape [...], in float32 at least. 0 for a fully masked token. NaN for
        a label out of range in a `jax.Array`: its values are not checked.

    Raises:
        TypeError: if `features` or `kernel` are not real numbers, or `where` or `targets` have a
            wrong dtype.
        ValueError: if shapes do not fit, there are no classes, or a number known while tracing is
            out of range.
        NotImplementedError: for options that a named implementation does not support.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> h = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> W = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
        >>> print(linear_cross_entropy(h, W, jnp.array([2, 0])))
        [0.0033849 3.169846 ]
        >>> slope = jax.grad(lambda h: linear_cross_entropy(h, W, jnp.array([2, 0])).sum())(h)
        >>> print(slope.tolist())
        [[-0.00585, -0.00767], [0.7296, 2.6456]]
        >>> def arcface(m):
        ...     options = dict(normalize=True, angular_margin=m, temperature=1 / 8)
        ...     return linear_cross_entropy(h, W, jnp.array([2, 1]), **options)
        >>> print(arcface(0.0), arcface(0.5))
        [0.38519    0.23209603] [1.0980154  0.52803975]

    Reference:
        J. Deng et al., "ArcFace: additive angular margin loss for deep face recognition", CVPR
        2019; H. Wang et al., "CosFace: large margin cosine loss for deep face recognition", CVPR
        2018.
    """
    return terms_of(
        "linear_cross_entropy", features, kernel, targets, False, bias, where, prior, log_prior,
        ignore_index, label_smoothing, class_weights, z_loss, temperature, logits_soft_cap,
        class_axis, axis_name, block_tokens, block_classes, implementation, margin, angular_margin,
        normalize,
    ).loss  # fmt: skip


@on_parts()
def linear_cross_entropy_terms(
    features: ArrayLike,
    kernel: ArrayLike,
    targets: ArrayLike | tuple[ArrayLike, ...],
    *,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    log_prior: ArrayLike | None = None,
    ignore_index: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: ArrayLike = 0.0,
    margin: ArrayLike = 0.0,
    angular_margin: ArrayLike = 0.0,
    normalize: bool = False,
    temperature: ArrayLike = 1.0,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
    axis_name: Hashable | None = None,
    block_tokens: int | None = None,
    block_classes: int | None = None,
) -> CrossEntropyTerms:
    r"""Compute `linear_cross_entropy` with the log-partition and the entropy of every token.

    .. math:: \log\sum_i q_i e^{z_i} \qquad \text{and} \qquad H = -\sum_i p_i \log p_i

    All three are differentiable. They come from one pass over the classes, and so do their
    derivatives. With a margin, all are functions of the scores after it.

    Args:
        features: h of shape [..., d], any real dtype; all arguments as in `linear_cross_entropy`.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        targets: classes of shape [...], or pairs (ids, weights) of shape [..., m].
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K].
        prior: a reference measure q ≥ 0 that broadcasts to [..., K]; 0 masks a class.
        log_prior: log q instead of q, which may underflow.
        ignore_index: tokens with this label have loss 0 and gradient 0, and the statistics of
            scores that are all 0.
        label_smoothing: from 0 to 1, spread evenly over the unmasked classes.
        class_weights: w ≥ 0 of shape [K].
        z_loss: λ.
        margin: m, subtracted from the score of the label.
        angular_margin: m in radians, added to the angle of the label. Needs `normalize`.
        normalize: whether scores are cosines.
        temperature: T > 0, a number or an array of size 1 along the classes. In an array any other
            number makes the results NaN, and the gradient of its token 0.
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: −1 for a kernel of shape [d, K], 0 for [K, d].
        axis_name: name of the mesh or `vmap` axis that splits the classes.
        block_tokens: rows of scores in memory at once; None for the rule.
        block_classes: classes per block of the backward pass; None for the rule.

    Returns:
        `loss`, `log_partition` and `entropy`, each of shape [...] and in float32 at least. A fully
        masked token has the log-partition −∞ and the entropy 0.

    Raises:
        TypeError: as `linear_cross_entropy`.
        ValueError: as `linear_cross_entropy`.

    Example:
        >>> import jax.numpy as jnp
        >>> terms = linear_cross_entropy_terms(jnp.ones((1, 2)), jnp.zeros((2, 4)), jnp.array([3]))
        >>> print(terms.loss, terms.log_partition, terms.entropy)
        [1.3863] [1.3863] [1.3863]
    """
    terms = terms_of(
        "linear_cross_entropy_terms", features, kernel, targets, True, bias, where, prior,
        log_prior, ignore_index, label_smoothing, class_weights, z_loss, temperature,
        logits_soft_cap, class_axis, axis_name, block_tokens, block_classes, "xla", margin,
        angular_margin, normalize,
    )  # fmt: skip
    assert terms.log_partition is not None and terms.entropy is not None
    return CrossEntropyTerms(terms.loss, terms.log_partition, terms.entropy)


def terms_of(
    function, features, kernel, targets, statistics, bias, where, prior, log_prior, ignore_index,
    label_smoothing, class_weights, z_loss, temperature, logits_soft_cap, class_axis, axis_name,
    block_tokens, block_classes, implementation: str | None = "xla", margin: Any = 0.0,
    angular_margin: Any = 0.0, normalize: Any = False, ranks: bool = False,
) -> Outcome:  # fmt: skip
    """Compute the results of every token, of the shape of the targets."""
    rows, fate = read_problem(
        function, features, kernel, targets, bias, where, prior, log_prior, ignore_index,
        label_smoothing, class_weights, z_loss, temperature, logits_soft_cap, class_axis, axis_name,
        block_tokens, block_classes, statistics,
    )  # fmt: skip
    rows = with_margins(rows, normalize, margin, angular_margin)
    rows = dataclasses.replace(rows, rule=dataclasses.replace(rows.rule, ranks=ranks))
    are_sized = (block_tokens, block_classes) != (None, None)
    platforms = platforms_of(implementation, rows, are_sized)
    outcome = _settled(platforms, rows.rule, rows.moving, rows.fixed, fate)
    return jax.tree.map(lambda x: rows.shaped(x)[..., 0], outcome)


# Compiled once per shape, even when called outside of `jit`. Not inlined, so that its transpose is
# compiled once too.
@partial(jax.jit, static_argnums=(0, 1))
def _settled(platforms: Platforms, rule: Rule, moving: Moving, fixed: Fixed, fate: Fate) -> Outcome:
    outcome = outcomes_by(platforms, rule, moving, fixed)
    statistics = outcome._replace(loss=None, weight=None)
    statistics = jax.tree.map(fate.settle_statistic, statistics)
    return statistics._replace(loss=fate.settle(outcome.loss))


def read_problem(
    function: str, features: Any, kernel: Any, targets: Any, bias: Any, where: Any,
    prior: Any, log_prior: Any, ignore_index: Any, label_smoothing: Any, class_weights: Any,
    z_loss: Any, temperature: Any, logits_soft_cap: float | None, class_axis: int,
    axis_name: Hashable | None, block_tokens: int | None, block_classes: int | None,
    statistics: bool = False,
) -> tuple[Rows, Fate]:  # fmt: skip
    """Validate and canonicalise the arguments of a cross-entropy."""
    rows = read_rows(
        function, features, kernel, bias=bias, where=where, class_axis=class_axis,
        temperature=temperature, logits_soft_cap=logits_soft_cap, axis_name=axis_name,
        block_tokens=block_tokens, block_classes=block_classes,
    )  # fmt: skip
    rows = with_prior(rows, prior, log_prior)
    rows, fate = with_targets(rows, targets, ignore_index, label_smoothing)
    rows = dataclasses.replace(rows, rule=dataclasses.replace(rows.rule, statistics=statistics))
    if label(rows.rule, rows.fixed) is not None:
        rows = whole_if_few(rows, block_tokens, block_classes)
    fixed = rows.fixed._replace(class_weights=class_weights_of(rows, class_weights))
    if checks.static_number(z_loss) != 0:
        strength = checks.as_array(function, "z_loss", z_loss).astype(rows.moving.features.dtype)
        fixed = fixed._replace(z_loss=jax.lax.stop_gradient(strength))
    return dataclasses.replace(rows, fixed=fixed), fate
