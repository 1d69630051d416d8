"""Renumber the few classes of a sampled loss, so that their rows are a small class table."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.vocabulary.sampled._candidates import Candidates, read_ids
from jsoftmax.vocabulary.sampled._class_sampler import number_of_classes


class GatheredClasses(NamedTuple):
    """The result of `gathered_classes`: `table[ids]` is the table for its labels and candidates.

    Args:
        ids: the distinct classes in rising order, padded by the first one to the number m of labels
            and candidates together: of shape [m].
        labels: the labels as positions in `ids`, of their shape.
        candidates: the candidates as positions in `ids`, with their counts unchanged.

    Example:
        >>> import jax.numpy as jnp
        >>> few = gathered_classes(jnp.array([7, 3]), Candidates(jnp.array([3, 5]), 0.0), 1000)
        >>> print(few.ids, few.labels, few.candidates.ids)
        [3 5 7 3] [2 0] [0 1]
    """

    ids: Int[Array, " m"]
    labels: Int[Array, "..."]
    candidates: Candidates


@on_explicit_axes(like="labels", axis=())
def gathered_classes(labels: ArrayLike, candidates: Candidates, classes: int) -> GatheredClasses:
    r"""Renumber labels and candidates, for a training step that touches no other rows.

    A gradient with respect to the whole class table has K · d numbers, nearly all of them zero, and
    an optimiser reads all of them. To avoid that, take `table[few.ids]`, differentiate the loss of
    `few.labels` and `few.candidates` with respect to it, and update the rows `few.ids`. That is one
    gather, one sort of the ids, and nothing of size K. The loss does not change, since it depends
    only on the equality of ids.

    Args:
        labels: classes, integers of any shape.
        candidates: as a sampler draws them.
        classes: K, the number of classes.

    Returns:
        `GatheredClasses`. A label out of range stays out of range: a negative one, such as an
        `ignore_index`, is unchanged, others become −1.

    Raises:
        TypeError: if `labels`, candidates or `classes` are not integers.
        ValueError: if there are no candidates, or `classes` is less than 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jsoftmax
        >>> table, h, y = jnp.ones((1000, 2)), jnp.ones((4, 2)), jnp.array([3, 7, 3, 9])
        >>> drawn = jsoftmax.vocabulary.uniform_sampler(1000).sample(jax.random.key(0), (5,))
        >>> few = gathered_classes(y, drawn, 1000)
        >>> def loss(h, rows):
        ...     return jsoftmax.sampled_softmax_loss(
        ...         h, rows, few.labels, few.candidates, class_axis=0
        ...     ).mean()
        >>> print(jax.grad(loss, 1)(h, table[few.ids]).shape)
        (9, 2)
    """
    name = "gathered_classes"
    classes = number_of_classes(name, classes)
    y = checks.as_array("gathered_classes", "labels", labels)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{name}: `labels` have dtype {y.dtype}; give integers, the numbers of "
            "classes."
        )
    drawn = read_ids(name, candidates)
    numbers = jnp.concatenate([_wide(y).reshape(-1), _wide(drawn).reshape(-1)])
    is_class = (numbers >= 0) & (numbers < classes)
    # An id out of range must not add a row: it is replaced by a class that is there.
    some = jnp.max(numbers, initial=0, where=is_class)
    ids, places = jnp.unique(
        jnp.where(is_class, numbers, some), size=numbers.size, return_inverse=True
    )
    none = jnp.where(numbers < 0, numbers, -1)
    places = jnp.where(is_class, places.reshape(-1).astype(numbers.dtype), none)
    return GatheredClasses(
        ids,
        places[: y.size].reshape(y.shape),
        candidates._replace(ids=places[y.size :].reshape(drawn.shape)),
    )


def _wide(ids: Array) -> Array:
    return ids.astype(jnp.zeros((), int).dtype)
