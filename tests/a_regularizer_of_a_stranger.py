"""A regularizer written by a user, with public names alone."""

import dataclasses

import jax
import jax.numpy as jnp

import jsoftmax as js


@dataclasses.dataclass(frozen=True)
class Blend(js.Regularizer):
    """ω(p) = κ p(p−1)/2 + 4/3 (p^{3/2} − p): between sparsemax and 1.5-entmax, and sparse."""

    kappa: float | jax.Array = 1.5

    def value(self, p):
        return self.kappa * p * (p - 1) / 2 + 4 / 3 * (p * jnp.sqrt(p) - p)

    def marginal(self, p):
        return self.kappa * p + 2 * jnp.sqrt(p)

    def slope(self, p):
        root = jnp.sqrt(p)
        return root / (1 + self.kappa * root)
