"""Gumbel-softmax layer: relaxed samples with a temperature annealed during training."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._contents import hashable, of_hashable
from jsoftmax.sampling._choice import choice


class GumbelSoftmax(nn.Module):
    r"""`jsoftmax.gumbel_softmax`, or `gumbel_entmax`, with its own keys and temperature.

    .. math:: x = \mathrm{entmax}_α\big((z + G)/T\big)

    In training it draws noise from an rng stream, and each call is a step of the schedule: apply it
    with `mutable=["annealing"]`, the collection that counts the calls. In evaluation, with
    `deterministic=True`, it draws none and counts none.

    Args:
        temperature: T ≥ 0, a number, an array with size 1 along `axis`, or a schedule, as in optax,
            that maps the number of calls so far to T.
        alpha: α > 0; 1 is Gumbel-softmax, 2 Gumbel-sparsemax.
        axis: the class axis, or a tuple of axes that together hold the classes.
        hard: whether to return one-hot samples, with the derivative of the relaxed ones.
        deterministic: whether to omit the noise: then x is `jsoftmax.entmax` of the logits or, if
            `hard`, 1 at the largest.
        rng_collection: the name of the rng stream.

    Raises:
        flax.errors.ModifyScopeVariableError: if a schedule cannot advance, because "annealing" is
            not mutable.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> annealed = optax.exponential_decay(1.0, 1, 0.5, end_value=0.1)
        >>> choose = GumbelSoftmax(annealed, hard=True)
        >>> z, key = jnp.array([0.0, 1.0, 2.0]), jax.random.key(0)
        >>> variables = choose.init(key, z)
        >>> x, variables = choose.apply(variables, z, rngs={"gumbel": key}, mutable=["annealing"])
        >>> print(x, choose.apply(variables, method="current_temperature"))
        [0. 0. 1.] 0.5
        >>> print(choose.apply(variables, z, deterministic=True))
        [0. 0. 1.]

    Reference:
        E. Jang, S. Gu and B. Poole, "Categorical reparameterization with Gumbel-softmax", 2016.
    """

    temperature: Any = 1.0
    _: dataclasses.KW_ONLY
    alpha: Any = 1.0
    axis: int | tuple[int, ...] = -1
    hard: bool = False
    deterministic: bool = False
    rng_collection: str = "gumbel"

    def __post_init__(self):
        for name in ("temperature", "alpha", "axis"):
            object.__setattr__(self, name, hashable(getattr(self, name)))
        super().__post_init__()

    def setup(self):
        """Create a count of calls where there is a schedule."""
        self.annealed = callable(self.temperature)
        if self.annealed:
            self.count = self.variable("annealing", "count", lambda: jnp.zeros((), jnp.int32))

    def current_temperature(self) -> ArrayLike:
        """The current T."""
        return (
            self.temperature(self.count.value) if self.annealed else of_hashable(self.temperature)
        )

    def __call__(
        self,
        logits: ArrayLike,
        *,
        where: ArrayLike | None = None,
        deterministic: bool | None = None,
        rng: Array | None = None,
    ) -> Float[Array, "..."]:
        """Return samples of the shape and dtype of `logits`; 0 where the mask is False.

        `deterministic`, and `rng`, a key, override those of the module.
        """
        temperature = self.current_temperature()
        quiet = self.deterministic if deterministic is None else deterministic
        key = rng
        if quiet:
            key = None
        elif key is None:
            key = self.make_rng(self.rng_collection)
        alpha = of_hashable(self.alpha)
        sample = choice(key, logits, temperature, alpha, self.axis, where, self.hard)
        if self.annealed and not quiet and not self.is_initializing():
            self.count.value = jnp.asarray(optax.safe_increment(self.count.value))
        return sample
