"""What every sampler of classes is: draws, and how often each class is expected among them."""

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
    """A fixed distribution over K classes, from which candidates for sampled losses are drawn.

    `uniform_sampler`, `log_uniform_sampler` and `unigram_sampler` make them; the labels of a batch
    serve without one, by `in_batch_candidates`. An immutable pytree, made once, whose draws take a
    time that does not depend on K. Give it to a compiled function as an argument, since as a
    constant its arrays would be compiled in.

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
        """Candidates of the given shape, and how often each was to be expected.

        Args:
            key: a key of `jax.random`.
            shape: the shape of the ids, (draws,) for candidates that all tokens share, which is
                much cheaper, or (..., draws) for some of their own. Without replacement classes
                differ along the last axis.
            labels: classes whose expected counts are wanted too, integers of any shape. They have
                no influence on the draws.

        Returns:
            `Candidates`.

        Raises:
            TypeError: if `key` is not a key, `shape` no tuple of sizes, or `labels` no integers.
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
        """How often classes are expected among so many draws, as logarithms.

        Args:
            ids: class numbers, integers of any shape.
            draws: the number of draws, a whole number of at least 1.

        Returns:
            Numbers of the shape of `ids` in the default float dtype. −∞ for a class that is never
            drawn. NaN for a number that is no class in a `jax.Array`.

        Raises:
            TypeError: if `ids` are not integers or `draws` is not an integer.
            ValueError: if `draws` is less than 1, or more than can be drawn; if a number given by
                Python or numpy is no class.
        """
        name = "ClassSampler.log_expected_count"
        draws = checks.whole_number(name, "draws", draws)
        self._check_draws(name, draws)
        return self._log_counts(name, "ids", ids, draws)

    @property
    @abc.abstractmethod
    def _most_draws(self) -> int | None:
        """How many classes can be drawn, None if there is no end to it."""

    @abc.abstractmethod
    def _drawn(self, key: Array, shape: tuple[int, ...]) -> Int[Array, "..."]:
        """Class numbers."""

    @abc.abstractmethod
    def _log_count(self, ids: Array, draws: int) -> Float[Array, "..."]:
        """log n_c of classes that are some, of a shape that broadcasts to that of `ids`."""

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
                f"jsoftmax.{function}: a number in `{name}` is no class: there are {self.classes}, "
                f"from 0 to {self.classes - 1}."
            )
        wide = ids if ids.dtype.itemsize >= 4 else ids.astype(jnp.int32)
        is_class = (wide >= 0) & (wide < self.classes)
        count = self._log_count(jnp.where(is_class, wide, 0).astype(jnp.int32), draws)
        return jnp.where(is_class, count, jnp.nan)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class UniformSampler(ClassSampler):
    """All classes alike: nothing needs to be remembered but how many they are."""

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
    r"""Candidates among K classes, all alike. A draw takes O(1), and so does making it.

    .. math:: n_c = \text{draws}/K

    exactly, with replacement and without. Without, every draw has a piece of the K classes to
    itself, and the pieces are turned by a random number: no two draws are the same class, they
    spread more evenly than independent ones, and nothing is sorted or tried again.

    Args:
        classes: K ≥ 1, a whole number below 2³¹.
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
    """K, checked."""
    if isinstance(classes, bool) or not isinstance(classes, int | np.integer):
        raise TypeError(f"jsoftmax.{function}: `classes` must be a whole number, got {classes!r}.")
    if not 1 <= classes < 2**31:
        raise ValueError(
            f"jsoftmax.{function}: `classes` must be from 1 to 2³¹ − 1, got {classes}."
        )
    return int(classes)
