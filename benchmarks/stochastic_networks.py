"""Networks with stochastic layers: structured output prediction, and a variational autoencoder.

Each is a function of a node, (key, logits, f) → f of a one-hot sample, so that one network serves
every estimator, whether it returns samples or values of f.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

import jsoftmax

Node = Callable[[jax.Array, jax.Array, Callable[[jax.Array], jax.Array]], jax.Array]


@dataclasses.dataclass(frozen=True)
class Units:
    """A stochastic layer: `rows` variables of `classes` classes each, Bernoulli if those are 2."""

    rows: int
    classes: int

    @property
    def width(self) -> int:
        """How many numbers come in, and go out."""
        return self.rows if self.classes == 2 else self.rows * self.classes

    def logits(self, x: jax.Array) -> jax.Array:
        """(…, width) → (…, rows, classes)."""
        if self.classes == 2:
            return jnp.stack([x, jnp.zeros_like(x)], axis=-1)
        return x.reshape(*x.shape[:-1], self.rows, self.classes)

    def numbers(self, one_hot: jax.Array) -> jax.Array:
        """(…, rows, classes) → (…, width): ±1 of Bernoulli variables, one-hot rows of others."""
        if self.classes == 2:
            return one_hot[..., 0] - one_hot[..., 1]
        return one_hot.reshape(*one_hot.shape[:-2], self.width)


@dataclasses.dataclass(frozen=True)
class StructuredOutput:
    """The lower half of an image from the upper one, through two stochastic layers."""

    units: Units
    pixels: int

    def start(self, key: jax.Array) -> dict:
        """Parameters before the first step."""
        half, width = self.pixels // 2, self.units.width
        sizes = {
            "first": (half, width),
            "second": (width, width),
            "out": (width, self.pixels - half),
        }
        return _dense_layers(key, sizes)

    def losses(self, model: dict, key: jax.Array, images: jax.Array, node: Node) -> jax.Array:
        """−log p(lower half | one sample of each layer), one for each image."""
        upper, lower = jnp.split(images, [self.pixels // 2], axis=-1)
        first, second = jax.random.split(key)

        def after_first(h):
            z = self.units.logits(_dense(model["second"], self.units.numbers(h)))
            return node(second, z, after_second)

        def after_second(h):
            return _surprise(_dense(model["out"], self.units.numbers(h)), lower)

        return node(first, self.units.logits(_dense(model["first"], upper)), after_first)

    def judged(self, model, keys, images, temperature) -> jax.Array:
        """−log of the mean of p(lower half | samples) over as many samples as there are keys."""
        node = exact_node(temperature)
        losses = jax.lax.map(lambda key: self.losses(model, key, images, node), keys)
        return math.log(len(keys)) - jsoftmax.logsumexp(-losses, axis=0)


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """A variational autoencoder with one stochastic layer and a prior that is learned."""

    units: Units
    pixels: int

    def start(self, key: jax.Array) -> dict:
        """Parameters before the first step."""
        width = self.units.width
        layers = _dense_layers(key, {"in": (self.pixels, width), "out": (width, self.pixels)})
        return {**layers, "prior": jnp.zeros(width)}

    def losses(
        self, model: dict, key: jax.Array, images: jax.Array, node: Node, temperature: float = 1.0
    ) -> jax.Array:
        """The negative evidence lower bound, with a divergence that is summed, not drawn."""
        z = self.units.logits(_dense(model["in"], images))
        log_q = jsoftmax.log_softmax(z, temperature=temperature)
        log_prior = jsoftmax.log_softmax(self.units.logits(model["prior"]))
        divergence = jnp.sum(jnp.exp(log_q) * (log_q - log_prior), axis=(-2, -1))

        def decoded(h):
            return _surprise(_dense(model["out"], self.units.numbers(h)), images)

        return divergence + node(key, z, decoded)

    def judged(self, model, keys, images, temperature) -> jax.Array:
        """The mean of the bound over as many samples as there are keys."""
        node = exact_node(temperature)

        def losses(key):
            return self.losses(model, key, images, node, temperature)

        return jax.lax.map(losses, keys).mean(0)


def exact_node(temperature: float) -> Node:
    """Draw from softmax(z/T), with no derivative in z."""

    def node(key, z, f):
        if z.shape[-1] == 2:  # with one uniform number for two of Gumbel's
            first = jax.random.bernoulli(key, jax.nn.sigmoid((z[..., 0] - z[..., 1]) / temperature))
            return f(jnp.stack([first, ~first], axis=-1).astype(z.dtype))
        drawn = jax.random.categorical(key, z / temperature)
        return f(jax.nn.one_hot(drawn, z.shape[-1], dtype=z.dtype))

    return node


def _surprise(z: jax.Array, pixels: jax.Array) -> jax.Array:
    """−log p of zeros and ones by their logits, summed over an image."""
    return jnp.sum(jax.nn.softplus(z) - pixels * z, axis=-1)


def _dense_layers(key: jax.Array, sizes: dict[str, tuple[int, int]]) -> dict:
    keys = jax.random.split(key, len(sizes))
    start = jax.nn.initializers.lecun_normal()
    return {
        name: {"kernel": start(k, size), "bias": jnp.zeros(size[1])}
        for k, (name, size) in zip(keys, sizes.items(), strict=True)
    }


def _dense(layer: dict, x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]
