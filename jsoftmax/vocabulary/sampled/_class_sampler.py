"""Class samplers: their interface, draws with expected counts, and the uniform sampler."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core import _checks as checks
from jsoftmax.core._contents import hash_of_contents, other_contents, same_contents
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.sampling._shapes import leading_shape
from jsoftmax.vocabulary.sampled._candidates import Candidates
from jsoftmax.vocabulary.sampled._points import independent_points, spaced_points


class ClassSampler(abc.ABC):
    """A fixed distribution over K classes that draws candidates for sampled losses.

    `uniform_sampler`, `log_uniform_sampler` and `unigram_sampler` make one; `in_batch_candidates`
    needs none. A sampler is an immutable pytree, made once, and the time of a draw does not depend
    on K. Pass it to a compiled function as an argument, since as a constant its arrays would be
    compiled in.

    Expected counts are exact: with replacement draws · q_c for the probability q_c of class c, and
    without replacement the probability that c is included at all.

    Example:
        >>> import jax
        >>> sampler = uniform_sampler(1000)
        >>> candidates = sampler.sample(jax.random.key(0), (10,))
        >>> print(candidates.ids.shape, candidates.log_expected_count)  # of 10/1000
        (10,) -4.6051702
        >>> print(sampler.log_expected_count(7, draws=10))
        -4.6051702
    """

    classes: int

    __eq__ = same_contents
    __ne__ = other_contents
    __hash__ = hash_of_contents

    @on_explicit_axes(like="labels", axis=())
    def sample(
        self, key: Array, shape: tuple[int, ...], labels: ArrayLike | None = None
    ) -> Candidates:
        """Draw candidates of the given shape, with their expected counts.

        Args:
            key: a key of `jax.random`.
            shape: the shape of the ids, (draws,) for candidates that all tokens share, which is
                much cheaper, or (..., draws) for some of their own. Without replacement classes
                differ along the last axis.
            labels: classes to compute expected counts for too, integers of any shape. They do not
                affect the draws.

        Returns:
            `Candidates`.

        Raises:
            TypeError: if `key` is not a key, `shape` is not a tuple of sizes, or `labels` are not
                integers.
            ValueError: if `key` holds several keys, or more classes are to be drawn without
                replacement than there are.
        """
        name = "ClassSampler.sample"
        key = one_key(name, key)
        shape = leading_shape(name, shape)
        if not shape:
            raise ValueError(
                f"jsoftmax.{name}: `shape` is (); its last size is the number of draws, as in "
                "(1000,)."
            )
        self._check_draws(name, shape[-1])
        ids = self._drawn(key, shape)
        of_targets = None
        if labels is not None:
            of_targets = self._log_counts(name, "labels", labels, shape[-1])
        count = self._log_count(ids, shape[-1])
        return Candidates(ids.astype(jnp.zeros((), int).dtype), count, of_targets)

    @on_explicit_axes(like="ids", axis=())
    def log_expected_count(self, ids: ArrayLike, draws: int) -> Float[Array, "..."]:
        """Compute the logarithm of the expected count of classes among a number of draws.

        Args:
            ids: class ids, integers of any shape.
            draws: the number of draws, an integer ≥ 1.

        Returns:
            Numbers of the shape of `ids` in the default float dtype. −∞ for a class that is never
            drawn. NaN for an id out of range in a `jax.Array`.

        Raises:
            TypeError: if `ids` are not integers or `draws` is not an integer.
            ValueError: if `draws` is less than 1, or more than can be drawn; if an id given as a
                Python or numpy value is out of range.
        """
        name = "ClassSampler.log_expected_count"
        draws = checks.whole_number(name, "draws", draws)
        self._check_draws(name, draws)
        return self._log_counts(name, "ids", ids, draws)

    @property
    @abc.abstractmethod
    def _most_draws(self) -> int | None:
        """Return the largest possible number of draws, None if there is no limit."""

    @abc.abstractmethod
    def _drawn(self, key: Array, shape: tuple[int, ...]) -> Int[Array, "..."]:
        """Draw class ids."""

    @abc.abstractmethod
    def _log_count(self, ids: Array, draws: int) -> Float[Array, "..."]:
        """Compute log n_c of classes in range, of a shape that broadcasts to that of `ids`."""

    def _check_draws(self, function: str, draws: int) -> None:
        if self._most_draws is not None and draws > self._most_draws:
            raise ValueError(
                f"jsoftmax.{function}: {draws} different classes cannot be drawn where only "
                f"{self._most_draws} have a positive weight. Draw fewer, or with replacement."
            )

    def _log_counts(self, function: str, name: str, ids: Any, draws: int) -> Array:
        known = checks.known_values(ids)
        ids = checks.as_array(function, name, ids)
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise TypeError(
                f"jsoftmax.{function}: `{name}` have dtype {ids.dtype}; give integers, the numbers "
                "of classes."
            )
        if known is not None and ((known < 0) | (known >= self.classes)).any():
            raise ValueError(
                f"jsoftmax.{function}: an id in `{name}` is out of range [0, {self.classes})."
            )
        wide = ids if ids.dtype.itemsize >= 4 else ids.astype(jnp.int32)
        is_class = (wide >= 0) & (wide < self.classes)
        count = self._log_count(jnp.where(is_class, wide, 0).astype(jnp.int32), draws)
        return jnp.where(is_class, count, jnp.nan)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class UniformSampler(ClassSampler):
    """The uniform distribution; its only parameter is the number of classes."""

    classes: int = dataclasses.field(metadata={"static": True})
    replacement: bool = dataclasses.field(metadata={"static": True})

    @property
    def _most_draws(self) -> int | None:
        return None if self.replacement else self.classes

    def _drawn(self, key: Array, shape: tuple[int, ...]) -> Array:
        if self.replacement:
            return independent_points(key, shape, self.classes).astype(jnp.int32)
        draws = max(shape[-1], 1)
        return spaced_points(key, shape, self.classes, draws, 1).astype(jnp.int32)

    def _log_count(self, ids: Array, draws: int) -> Array:
        del ids
        return jnp.asarray(math.log(max(draws, 1) / self.classes), float)


def uniform_sampler(classes: int, *, replacement: bool = True) -> ClassSampler:
    r"""Make a sampler that draws K classes uniformly, in O(1) per draw and O(1) to make.

    .. math:: n_c = \text{draws}/K

    exactly, with replacement and without. Without replacement, each draw comes from a stretch of
    the K classes of its own, and all stretches are rotated by one random number. So no two draws
    are the same class, they spread more evenly than independent draws, and there is no sorting and
    no rejection.

    Args:
        classes: K ≥ 1, an integer below 2³¹.
        replacement: whether a class may be drawn more than once.

    Returns:
        A `ClassSampler`.

    Raises:
        TypeError: if `classes` is not an integer.
        ValueError: if `classes` is less than 1 or too many.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> draw = uniform_sampler(5, replacement=False).sample(jax.random.key(0), (5,))
        >>> print(jnp.sort(draw.ids))
        [0 1 2 3 4]
    """
    return UniformSampler(number_of_classes("uniform_sampler", classes), bool(replacement))


def number_of_classes(function: str, classes: Any) -> int:
    """Validate K and return it."""
    if isinstance(classes, bool) or not isinstance(classes, int | np.integer):
        raise TypeError(f"jsoftmax.{function}: `classes` must be an integer, got {classes!r}.")
    if not 1 <= classes < 2**31:
        raise ValueError(
            f"jsoftmax.{function}: `classes` must be from 1 to 2³¹ − 1, got {classes}."
        )
    return int(classes)
