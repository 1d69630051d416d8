"""Gumbel-softmax layer: relaxed samples with a temperature annealed during training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.sampling._choice import choice


class Count(nnx.Variable):
    """Number of calls with noise so far; state, not a parameter."""


class GumbelSoftmax(nnx.Module):
    r"""`jsoftmax.gumbel_softmax`, or `gumbel_entmax`, with its own keys and temperature.

    .. math:: x = \mathrm{entmax}_α\big((z + G)/T\big)

    In training it draws noise from an rng stream, and each call is a step of the schedule; in
    evaluation, after `model.eval()` or with `deterministic=True`, it draws none and counts none.

    Args:
        temperature: T ≥ 0, a number, an array with size 1 along `axis`, or a schedule, as in optax,
            that maps the number of calls so far to T.
        alpha: α > 0; 1 is Gumbel-softmax, 2 Gumbel-sparsemax.
        axis: the class axis, or a tuple of axes that together hold the classes.
        hard: whether to return one-hot samples, with the derivative of the relaxed ones.
        deterministic: whether to omit the noise: then x is `jsoftmax.entmax` of the logits or, if
            `hard`, 1 at the largest.
        rng_collection: the name of the rng stream.
        rngs: source of random keys; may be left out and given to each call instead.

    Raises:
        TypeError: if a call draws noise, and neither the module nor the call was given `rngs`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from flax import nnx
        >>> annealed = optax.exponential_decay(1.0, 1, 0.5, end_value=0.1)
        >>> choose = GumbelSoftmax(annealed, hard=True, rngs=nnx.Rngs(gumbel=0))
        >>> z = jnp.array([0.0, 1.0, 2.0])
        >>> print(choose(z), choose(z), choose.temperature)
        [1. 0. 0.] [1. 0. 0.] 0.25
        >>> choose.eval()
        >>> print(choose(z), choose.temperature)
        [0. 0. 1.] 0.25

    Reference:
        E. Jang, S. Gu and B. Poole, "Categorical reparameterization with Gumbel-softmax", 2016.
    """

    def __init__(
        self,
        temperature: ArrayLike | Callable[[Any], ArrayLike] = 1.0,
        *,
        alpha: ArrayLike = 1.0,
        axis: int | tuple[int, ...] = -1,
        hard: bool = False,
        deterministic: bool = False,
        rng_collection: str = "gumbel",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        self.schedule: Any = temperature
        self.alpha: Any = alpha
        self.axis = axis
        self.hard = hard
        self.deterministic = deterministic
        self.rng_collection = rng_collection
        self.rngs = rngs[rng_collection].fork() if isinstance(rngs, nnx.Rngs) else rngs
        self.count = Count(jnp.zeros((), jnp.int32)) if callable(temperature) else None

    @property
    def temperature(self) -> ArrayLike:
        """The current T."""
        return self.schedule if self.count is None else self.schedule(self.count[...])

    def __call__(
        self,
        logits: ArrayLike,
        *,
        where: ArrayLike | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | Array | None = None,
    ) -> Float[Array, "..."]:
        """Return samples of the shape and dtype of `logits`; 0 where the mask is False.

        `deterministic` and `rngs`, which may also be a key, override those of the module.
        """
        temperature = self.temperature
        quiet = self.deterministic if deterministic is None else deterministic
        key = None if quiet else self._key(self.rngs if rngs is None else rngs)
        sample = choice(key, logits, temperature, self.alpha, self.axis, where, self.hard)
        if not quiet and self.count is not None:
            self.count[...] = optax.safe_increment(self.count[...])
        return sample

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set `deterministic`, for `nnx.view`."""
        if deterministic is not None:
            self.deterministic = deterministic

    def _key(self, rngs: Any) -> Array:
        if isinstance(rngs, jax.Array):
            return rngs
        if isinstance(rngs, nnx.Rngs):
            return rngs[self.rng_collection]()
        if isinstance(rngs, nnx.RngStream):
            return rngs()
        raise TypeError(
            f"jsoftmax.nnx.GumbelSoftmax: `rngs` is {rngs!r}, and noise needs keys. Give nnx.Rngs, "
            "a stream or a key to the module or to the call, or set deterministic=True."
        )
