"""Draw from the truncated softmax of features and a class table, in blocks of tokens."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.sampling import SampledToken
from jsoftmax.sampling._inverse import random_words
from jsoftmax.sampling._wide_integers import Words
from jsoftmax.sampling.truncation._truncated_draw import Settings, drawn_and_scored, read_settings
from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rule, read_rows
from jsoftmax.vocabulary.linear._linear_scores import scores
from jsoftmax.vocabulary.linear._token_blocks import by_tokens


@on_explicit_axes(like="features")
def linear_sample_token(
    key: ArrayLike,
    features: ArrayLike,
    kernel: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    k: ArrayLike | None = None,
    p: ArrayLike | None = None,
    min_p: ArrayLike | None = None,
    n_sigma: ArrayLike | None = None,
    typical_p: ArrayLike | None = None,
    epsilon: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    logits_soft_cap: float | None = None,
    class_axis: int = -1,
    axis_name: Hashable | None = None,
    block_tokens: int | None = None,
) -> SampledToken:
    r"""Apply `sample_token` to the logits h W + b, without a large array of logits.

    .. math:: z = c \tanh((h W + b)/c)

    The draws for a key are those of `sample_token` with these logits, for any blocks of tokens and
    any split of the classes.

    Args:
        key: a key of `jax.random`.
        features: h of shape [..., d], any real dtype.
        kernel: W of shape [d, K], or [K, d] where `class_axis` is 0.
        temperature: T ≥ 0, a number or an array of size 1 along the classes, as [..., 1], like all
            settings. T = 0 draws uniformly among the largest logits.
        k: number of the largest logits to keep, at least 1.
        p: the probability of the smallest set to keep (nucleus), from 0 to 1.
        min_p: the least probability to keep, relative to the largest, from 0 to 1.
        n_sigma: the largest distance from the largest logit to keep, in standard deviations, at
            least 0.
        typical_p: the probability of the classes closest to the entropy to keep, from 0 to 1.
        epsilon: ε of `eta_mask`, from 0 to 1.
        bias: b of shape [K].
        where: boolean mask that broadcasts to [..., K]. Other classes are never drawn.
        logits_soft_cap: c > 0, a number; None for none.
        class_axis: −1 for a kernel of shape [d, K], 0 for [K, d].
        axis_name: name of the mesh or `vmap` axis that splits the classes. The key must be the same
            on every part, and so will be the result.
        block_tokens: rows of scores in memory at once; None for the rule of `linear_cross_entropy`.

    Returns:
        `token`, `log_prob` and `whole_log_prob`, each of shape [...], as `sample_token` returns
        them. The token is −1 also where an array has a temperature below 0.

    Raises:
        TypeError: if `key` is not a key, `features` or `kernel` are not real numbers, or `where` is
            not boolean.
        ValueError: if `key` holds several keys, shapes do not fit, or a number known while tracing
            is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> h, W = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
        >>> print(linear_sample_token(jax.random.key(0), h, W, k=1).token)
        [2]
    """
    function = "linear_sample_token"
    key = one_key(function, key)
    rows = read_rows(
        function, features, kernel, bias=bias, where=where, class_axis=class_axis,
        temperature=temperature, logits_soft_cap=logits_soft_cap, axis_name=axis_name,
        block_tokens=block_tokens, has_limit=True,
    )  # fmt: skip
    settings = read_settings(
        function, rows.scores, rows.rule.classes, k=k, p=p, min_p=min_p, n_sigma=n_sigma,
        typical_p=typical_p, epsilon=epsilon,
    )  # fmt: skip
    settings = Settings(*(None if x is None else rows.flat(x) for x in settings))
    found = _sampled(rows.rule, key, rows.moving, rows.fixed, settings)
    return SampledToken(*(rows.shaped(x)[..., 0] for x in found))


class _Draws(NamedTuple):
    """The inputs of tokens besides their features."""

    words: tuple[Array, Array]  # random, (token, 1)
    settings: tuple[Array | None, ...]  # (token | 1, 1)


# Compiled once per shape, even when called outside of `jit`. Not inlined, so that its transpose is
# compiled once too.
@partial(jax.jit, static_argnums=0)
def _sampled(
    rule: Rule, key: Array, moving: Moving, fixed: Fixed, settings: Settings
) -> SampledToken:
    words = random_words(key, (moving.features.shape[0],))
    draws = _Draws((words.high[:, None], words.low[:, None]), tuple(settings))

    def of_block(trees):
        moving, fixed, draws = trees
        z = scores(moving._replace(temperature=None), fixed, rule)
        words = Words(*(x[:, 0] for x in draws.words))
        given = Settings(*draws.settings)
        return drawn_and_scored(words, z, given, moving.temperature, rule.classes)

    again = jax.checkpoint(of_block, prevent_cse=False)
    found = by_tokens(again, rule.block_tokens, (moving, fixed, draws))
    return found._replace(token=found.token.astype(jnp.zeros((), int).dtype))
