"""Draw classes at the leaves of a tree by descending it."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.sampling import gumbel_argmax
from jsoftmax.vocabulary.trees._class_tree import ClassTree
from jsoftmax.vocabulary.trees._node_choices import Choices, read_choices


@on_explicit_axes(like="features")
def hierarchical_categorical(
    key: Array,
    features: ArrayLike,
    table: ArrayLike,
    tree: ClassTree,
    *,
    bias: ArrayLike | None = None,
) -> Int[Array, "..."]:
    r"""Draw one class per token, exactly, from the distribution of a tree, in O(depth) rows.

    .. math:: c_n ∼ p_n \qquad \text{from the root down to a class}

    Args:
        key: a key of `jax.random`.
        features: h of shape [..., d], any real dtype.
        table: the rows w of shape [tree.table_rows, d].
        tree: a `ClassTree`.
        bias: b of shape [tree.table_rows].

    Returns:
        Classes from 0 to K − 1 of shape [...], in the default integer dtype. −1 where the scores on
        the path have NaN.

    Raises:
        TypeError: if `key` is not a key, `features` or `table` are not real numbers, or `tree` is
            not a `ClassTree`.
        ValueError: if `key` holds several keys or shapes do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, jsoftmax as js
        >>> tree, table = js.vocabulary.balanced_tree(4), jnp.array([[0.0], [jnp.log(4.0)], [0.0]])
        >>> y = hierarchical_categorical(jax.random.key(0), jnp.ones((10_000, 1)), table, tree)
        >>> p = jnp.array([0.4, 0.1, 0.25, 0.25])
        >>> print(jnp.abs(jnp.bincount(y, length=4) / 10_000 - p) < 0.02)
        [ True  True  True  True]
    """
    function = "hierarchical_categorical"
    key = one_key(function, key)
    return _drawn(key, read_choices(function, features, table, tree, bias))


# Compiled once per shape, even when called outside of `jit`; inlined inside it.
@partial(jax.jit, inline=True)
def _drawn(key: Array, choices: Choices) -> Array:
    tree = choices.tree
    nothing = -2 - tree.classes  # no draw: in place of class K + 1

    def go_down(state):
        depth, place = state
        z, is_child = choices.scores(jnp.maximum(place, 0)[:, None])
        child = gumbel_argmax(jax.random.fold_in(key, depth), z[:, 0], where=is_child[:, 0])
        chosen = tree.children[jnp.maximum(place, 0), jnp.maximum(child, 0)]
        chosen = jnp.where(child < 0, nothing, chosen)
        return depth + 1, jnp.where(place >= 0, chosen, place)

    # Places have the values of tree.children: n ≥ 0 is an inner node, −1 − y is class y.
    start = jnp.zeros_like(choices.features[:, 0], dtype=tree.children.dtype)
    _, place = jax.lax.while_loop(lambda s: (s[1] >= 0).any(), go_down, (0, start))
    drawn = jnp.where(place == nothing, -1, -1 - place)
    return choices.shaped(drawn).astype(jnp.zeros((), int).dtype)
