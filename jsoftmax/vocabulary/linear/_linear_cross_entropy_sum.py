"""Weighted sum of cross-entropies, with gradients computed in the forward pass."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core import _checks as checks
from jsoftmax.core._filled import filled
from jsoftmax.core._mesh_axes import varies_over
from jsoftmax.core._named_trees import Trees, overlaid
from jsoftmax.vocabulary._stacked_tokens import block_count, merged_tokens
from jsoftmax.vocabulary.linear._block_sizes import even_size, fits
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule, is_one
from jsoftmax.vocabulary.linear._linear_by_kernel import losses_by_kernel
from jsoftmax.vocabulary.linear._linear_cross_entropy import read_problem
from jsoftmax.vocabulary.linear._linear_margin import with_margins
from jsoftmax.vocabulary.linear._linear_scores import finished, products
from jsoftmax.vocabulary.linear._mesh_parts import on_parts
from jsoftmax.vocabulary.linear._outcomes import outcomes
from jsoftmax.vocabulary.linear._outcomes_by import platforms_of
from jsoftmax.vocabulary.linear._token_blocks import block_of_blocks, split_tokens
from jsoftmax.vocabulary.linear._token_products import slope_in_kernel
from jsoftmax.vocabulary.linear._token_rows import pull, solved_row
from jsoftmax.vocabulary.linear._token_targets import Fate


@on_parts(is_sum=True)
def linear_cross_entropy_sum(
    features: ArrayLike,
    kernel: ArrayLike,
    targets: ArrayLike | tuple[ArrayLike, ...],
    weights: ArrayLike | None = None,
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
) -> Float[Array, ""]:
    r"""Compute Σ w L, L as in `linear_cross_entropy`, with gradients in the forward pass.

    .. math:: S = \sum_t w_t L_t

    On a CPU, and where all scores fit one block, the scores are computed once: `value_and_grad`
    costs three matrix products, like dense logits, while that of `linear_cross_entropy` costs four.
    In return there is no forward mode, so `jax.jvp` raises. Derivatives of the gradient, as in
    `jax.hessian`, are those of `linear_cross_entropy`, at its cost. Without differentiation no
    gradient is computed. Elsewhere, and on a mesh, the function is the sum of
    `linear_cross_entropy`. For the mean over n tokens give weights 1/n.

    Args:
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        targets: classes of shape [...], or pairs (ids, weights) of shape [..., m]. All arguments
            except `weights` are as in `linear_cross_entropy`.
        weights: w, one number per token, of any shape that broadcasts to [...]; None for 1.
            Differentiable, as are features, kernel, bias, temperature and prior.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K].
        prior: a reference measure q ≥ 0 that broadcasts to [..., K]; 0 masks a class.
        log_prior: log q instead of q, which may underflow.
        ignore_index: tokens with this label add nothing, and have gradient 0.
        label_smoothing: from 0 to 1, spread evenly over the unmasked classes.
        class_weights: one number ≥ 0 per class, of shape [K].
        z_loss: λ.
        margin: m, subtracted from the score of the label.
        angular_margin: m in radians, added to the angle of the label. Needs `normalize`.
        normalize: whether scores are cosines.
        temperature: T > 0, a number or an array of size 1 along the classes. In an array any other
            number makes the sum NaN, and the gradient of its token 0.
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: −1 for a kernel of shape [d, K], 0 for [K, d].
        axis_name: name of the mesh or `vmap` axis that splits the classes, as in
            `linear_cross_entropy`.
        block_tokens: rows of scores in memory at once; None for the rule of `linear_cross_entropy`.
        block_classes: classes per block of the backward pass; None for the rule.
        implementation: as in `linear_cross_entropy`. With kernels no gradient is computed in the
            forward pass, and forward mode is XLA's.

    Returns:
        One number, in float32 at least.

    Raises:
        TypeError: as `linear_cross_entropy`.
        ValueError: as `linear_cross_entropy`, and if `weights` do not broadcast to the tokens.
        NotImplementedError: for options that a named implementation does not support.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> h = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> W = jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
        >>> print(linear_cross_entropy_sum(h, W, jnp.array([2, 0]), weights=0.5))
        1.5866
        >>> print(jax.grad(linear_cross_entropy_sum)(h, W, jnp.array([2, 0]), 0.5).tolist())
        [[-0.00292, -0.00383], [0.3648, 1.3228]]
    """
    function = "linear_cross_entropy_sum"
    rows, fate = read_problem(
        function, features, kernel, targets, bias, where, prior, log_prior, ignore_index,
        label_smoothing, class_weights, z_loss, temperature, logits_soft_cap, class_axis, axis_name,
        block_tokens, block_classes,
    )  # fmt: skip
    rows = with_margins(rows, normalize, margin, angular_margin)
    w = checks.as_array(function, "weights", 1 if weights is None else weights)
    if not checks.broadcasts(w, rows.lead):
        raise ValueError(
            f"jsoftmax.{function}: `weights` of shape {w.shape} do not broadcast to the tokens, of "
            f"shape {rows.lead}."
        )
    w = jnp.broadcast_to(w.astype(rows.moving.features.dtype), rows.lead)
    arrays = (rows.moving, w.reshape(-1, 1), rows.fixed, fate)
    are_sized = (block_tokens, block_classes) != (None, None)
    platforms = platforms_of(implementation, rows, are_sized)
    if platforms is None:
        return _by_kernels(True, rows.rule, *arrays)
    if platforms:
        return _by_record(platforms, rows.rule, *arrays)
    if axis_name is not None or any(map(varies_over, jax.tree.leaves(arrays))):
        return _added_up(rows.rule, *arrays)
    return _summed(rows.rule, *arrays)


# Compiled once per shape, even when called outside of `jit`; inlined inside it.
@partial(jax.jit, static_argnums=0, inline=True)
def _summed(rule: Rule, moving: Moving, weights: Array, fixed: Fixed, fate: Fate) -> Array:
    """Compute the sum, with gradients in the forward pass where that is cheaper."""
    if fits(moving.features.shape[0], rule.block_tokens):
        return _formed_forward(rule, moving, weights, fixed, fate)
    # Except on CPUs, reading and writing the gradient of the kernel once per block of tokens costs
    # more than a fourth product. On a mesh that whole gradient would be summed over devices.
    return jax.lax.platform_dependent(
        moving,
        weights,
        fixed,
        fate,
        cpu=partial(_formed_forward, rule),
        default=partial(_added_up, rule),
    )


@partial(jax.jit, static_argnums=(0, 1))
def _by_record(platforms, rule, moving, weights, fixed, fate):
    """Compute the sum by kernels on these platforms, by XLA elsewhere."""
    from jsoftmax.kernels import by_record

    kernel, xla = partial(_by_kernels, False, rule), partial(_summed, rule)
    return by_record(platforms, kernel, xla, moving, weights, fixed, fate)


@partial(jax.jit, static_argnums=(0, 1))
def _by_kernels(is_named, rule, moving, weights, fixed, fate):
    return jnp.sum(weights * fate.settle(losses_by_kernel(is_named, rule, moving, fixed).loss))


def _formed_forward(rule: Rule, moving: Moving, weights: Array, fixed: Fixed, fate: Fate) -> Array:
    # Gradients of blocks are accumulated in the dtype of the features.
    kernel = moving.kernel.astype(moving.features.dtype)
    return _sum(rule, moving._replace(kernel=kernel), weights, fixed, fate)


def _added_up(rule: Rule, moving: Moving, weights: Array, fixed: Fixed, fate: Fate) -> Array:
    """Sum losses, with the derivatives of `linear_cross_entropy`."""
    outcome, _ = outcomes(rule, moving, fixed)
    return jnp.sum(weights * fate.settle(outcome.loss))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(rule: Rule, moving: Moving, weights: Array, fixed: Fixed, fate: Fate) -> Array:
    return _added_up(rule, moving, weights, fixed, fate)


def _forward(rule, moving, weights, fixed, fate):
    losses, gradient = _formed(rule, moving, weights, fixed, fate)
    return jnp.sum(weights * losses), (gradient, losses)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _formed(rule: Rule, moving: Moving, weights: Array, fixed: Fixed, fate: Fate) -> Any:
    """Compute the losses of all tokens, and the gradient of their weighted sum."""
    trees: Trees = (moving, fixed, fate, _Weights(weights))
    if fits(moving.features.shape[0], rule.block_tokens):
        return _block(rule, *trees, total=jax.tree.map(lambda _: None, moving))
    per_token = [
        name
        for name in ("temperature", "log_prior")
        if (x := getattr(moving, name)) is not None and not is_one(x.shape[0])
    ]

    def step(total, trees):
        losses, gradient = _block(rule, *trees, total=total)
        mine = {name: getattr(gradient, name) for name in ("features", *per_token)}
        return gradient._replace(**dict.fromkeys(mine)), (losses, mine)

    shared = moving._replace(**dict.fromkeys(("features", *per_token)))
    none = jax.tree.map(lambda x: filled(x, 0), shared)
    total, (losses, mine) = _over_blocks(step, none, rule, trees)
    return losses, total._replace(**mine)


def _over_blocks(step: Any, none: Any, rule: Rule, trees: Trees) -> Any:
    """Apply step(total, trees) to blocks of tokens, from the total `none`; concatenate results.

    With many tokens, parts have totals of their own, so that sums stay short and precise.
    """
    tokens = trees[0].features.shape[0]
    size = block = rule.block_tokens
    if rule.many_tokens:
        size = block_of_blocks(tokens, block)
    parts, rest = split_tokens(trees, size)
    # The last token pads the blocks, and counts once.
    w = parts[-1].weights
    count = block_count(tokens, size)
    places = jnp.arange(w.size).reshape(-1, count).T[..., None]
    parts = (*parts[:-1], _Weights(jnp.where(places < tokens, w, 0)))

    def of_part(total, part):
        trees = overlaid(part, rest)
        if size == block:
            return step(total, trees)
        mine, results = _over_blocks(step, none, rule, trees)
        return jax.tree.map(jnp.add, total, mine), results

    total, results = jax.lax.scan(of_part, none, parts)
    return total, jax.tree.map(lambda x: merged_tokens(x, tokens), results)


@_formed.defjvp
def _formed_jvp(rule, primals, tangents):
    # Slopes made by hand from a solved row have no derivative of their own.
    moving, weights, fixed, fate = primals

    def formed(moving, weights):
        def total(moving):
            losses = fate.settle(outcomes(rule, moving, fixed)[0].loss)
            return jnp.sum(weights * losses), losses

        gradient, losses = jax.grad(total, has_aux=True)(moving)
        return losses, gradient

    _, moved = jax.jvp(formed, (moving, weights), tangents[:2])
    return _formed(rule, *primals), moved


def _block(rule, moving, fixed, fate, weights, total):
    """Compute the losses of a block of tokens, and add their gradients to `total`."""
    names = ("bias", "temperature", "log_prior", "per_length")
    names = [name for name in names if getattr(moving, name) is not None]

    def multiplied(features):
        return products(moving._replace(features=features), rule)

    def scored(product, others):
        return finished(product, moving._replace(**others), fixed, rule)

    others = {name: getattr(moving, name) for name in names}
    product, to_features = jax.vjp(multiplied, moving.features)
    z, back = jax.vjp(scored, product, others)
    outcome, row = solved_row(rule, moving, fixed, z)
    (w,) = weights
    counts = jnp.where(fate.valid if fate.counted is None else fate.valid & fate.counted, w, 0)
    pulled, others = back(pull(rule, moving, fixed, z, row, outcome) * counts)
    added = {name: _plus(getattr(total, name), others[name]) for name in names}
    (features,) = to_features(pulled)
    kernel = _added(rule, total.kernel, moving.features, pulled)
    gradient = total._replace(features=features, kernel=kernel, **added)
    return fate.settle(outcome.loss), gradient


def _plus(total, x):
    return x if total is None else total + x


def _added(rule, total, features, pulled):
    """Compute total + hᵀ g in place, in blocks of classes: the product is as large as the total."""

    def product(pulled):
        return slope_in_kernel(features, pulled, rule.kernel_axis, rule.many_tokens)

    if total is None:
        return product(pulled)

    def add(total, start, size):
        part = product(jax.lax.dynamic_slice_in_dim(pulled, start, size, axis=1))
        old = jax.lax.dynamic_slice_in_dim(total, start, size, axis=rule.kernel_axis)
        return jax.lax.dynamic_update_slice_in_dim(total, old + part, start, rule.kernel_axis)

    classes = pulled.shape[1]
    size = even_size(classes, rule.block_classes)
    count, left = divmod(classes, size)
    if count == 1 and not left:
        return add(total, 0, size)
    total = jax.lax.fori_loop(0, count, lambda i, total: add(total, i * size, size), total)
    return add(total, count * size, left) if left else total


def _backward(rule, known, d_sum):
    gradient, losses = known
    return jax.tree.map(lambda g: d_sum * g, gradient), d_sum * losses, None, None


_sum.defvjp(_forward, _backward)


class _Weights(NamedTuple):
    weights: Array
