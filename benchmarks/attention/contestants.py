"""Who races: attention of ours by many mappings, and that of jax.nn, tokamax and torch."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import jsoftmax
from benchmarks.compiled import FORWARD, GRADIENT, QUANTITIES
from benchmarks.slow import installed

JAX, NOISE, TOKAMAX = "jax.nn", "jax.nn again (noise)", "tokamax, chunked"
SOFTMAX, ENTMAX, SPARSEMAX = "softmax", "entmax 1.5", "sparsemax"
TORCH = {  # those of torch, by the mapping of ours; k is the package's own short cut
    SOFTMAX: ("torch, scaled_dot_product_attention",),
    ENTMAX: ("torch, entmax15", "torch, entmax15 k=128"),
    SPARSEMAX: ("torch, sparsemax", "torch, sparsemax k=128"),
}
BOUNDED = {SOFTMAX: 1.0, ENTMAX: 1.5, SPARSEMAX: 2.0}  # by α; promises are made about these

flags.FLAGS.mark_as_parsed()  # tokamax would read our command line, and refuse it


@dataclasses.dataclass(frozen=True, eq=False)
class Contestant:
    """A way to compute attention in JAX: query, key, value, then `traced` arguments → mixtures."""

    name: str
    attend: Callable[..., jax.Array]
    traced: tuple[Any, ...] = ()
    differentiate: tuple[int, ...] = (0, 1, 2)
    runs: bool = True  # else it is compiled for its memory only


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Sizes, and who races at them; spread is the standard deviation of the scores."""

    name: str
    queries: int
    keys: int
    batch: int = 1
    heads: int = 4
    key_heads: int | None = None  # None for as many as there are heads
    width: int = 64
    spread: float = 1.0
    quantities: tuple[str, ...] = QUANTITIES
    contestants: Sequence[Contestant] = ()

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the inputs."""
        queries = (self.batch, self.queries, self.heads, self.width)
        keys = (self.batch, self.keys, self.key_heads or self.heads, self.width)
        return queries, queries, keys, keys

    def inputs(self) -> list[np.ndarray]:
        """Weights of the sum that is differentiated, query, key, value: all of them normal."""
        rng = np.random.default_rng(0)
        inputs = [rng.standard_normal(shape, np.float32) for shape in self.shapes]
        inputs[1] *= np.float32(self.spread)
        return inputs


def square(name: str, length: int, *, everything: bool = False) -> Case:
    """As many queries as keys. `everything`: with other α, masks and windows as well."""
    extra = [*family(), *masked()] if everything else []
    return Case(name, length, length, contestants=[*peers(), *bounded(), *extra])


def spreading(case: Case, name: str, spread: float) -> Case:
    """The case with other scores, for ours only."""
    return dataclasses.replace(case, name=name, spread=spread, contestants=bounded())


def long(name: str, length: int) -> Case:
    """One head, forward and backward, once; jax.nn, quadratic in memory, is only compiled."""
    first, _, *others = peers()
    contestants = [dataclasses.replace(first, runs=False), *others, *bounded()]
    return Case(name, length, length, heads=1, quantities=(GRADIENT,), contestants=contestants)


def decoding(name: str, cache: int, batch: int, **heads: int) -> Case:
    """One query against a cache of keys, which is half full at least."""
    filled = np.random.default_rng(1).integers(cache // 2, cache, batch, endpoint=True)
    lengths = jnp.asarray(filled, jnp.int32)

    def reading(contestant: Contestant) -> Contestant:
        def attend(query, key, value, lengths):
            return contestant.attend(query, key, value, key_value_seq_lengths=lengths)

        return dataclasses.replace(contestant, attend=attend, traced=(lengths,))

    contestants = [reading(each) for each in (*peers(), *bounded())]
    return Case(name, 1, cache, batch, quantities=(FORWARD,), contestants=contestants, **heads)


def peers() -> list[Contestant]:
    """jax.nn, once more as a measure of noise, and tokamax where it is installed."""
    found = [Contestant(name, jax.nn.dot_product_attention) for name in (JAX, NOISE)]
    if installed("tokamax"):
        found.append(Contestant(TOKAMAX, _tokamax))
    return found


@functools.cache
def bounded() -> tuple[Contestant, ...]:
    """Ours, by the mappings that the bounds are about."""
    return tuple(Contestant(name, _ours(alpha=alpha)) for name, alpha in BOUNDED.items())


def family() -> list[Contestant]:
    """Ours, by other members of the family, and by an α that the compiler does not know."""

    def attend(query, key, value, alpha):
        return jsoftmax.dot_product_attention(query, key, value, alpha=alpha)

    per_head = jnp.array([1.0, 1.25, 1.5, 2.0])
    return [
        *(Contestant(f"entmax {alpha:g}", _ours(alpha=alpha)) for alpha in (1.25, 3.0)),
        Contestant("entmax, traced α = 1.5", attend, (jnp.float32(1.5),)),
        Contestant("entmax, α of each head, d/dα too", attend, (per_head,), (0, 1, 2, 3)),
    ]


def masked() -> list[Contestant]:
    """Causal attention and a window of keys, which need not look at every block."""
    causal = {"is_causal": True}
    window = {"local_window_size": (256, 256)}
    found = [
        Contestant(with_mask(JAX), lambda *x: jax.nn.dot_product_attention(*x, **causal)),
        *(
            Contestant(with_mask(name), _ours(alpha=alpha, **causal))
            for name, alpha in BOUNDED.items()
        ),
        *(
            Contestant(f"{name}, window of 256 each side", _ours(alpha=alpha, **window))
            for name, alpha in BOUNDED.items()
        ),
    ]
    if installed("tokamax"):
        found.insert(1, Contestant(with_mask(TOKAMAX), lambda *x: _tokamax(*x, **causal)))
    return found


def with_mask(name: str) -> str:
    """The name of the causal contestant."""
    return f"{name}, causal"


def torch_peers() -> dict[str, Callable[[Case, str], Callable[[], object]]]:
    """By name: case, quantity → a timed call of attention in torch, where that is installed.

    The entmax package has mappings; attention around them is two products, as its users write it.
    """
    torch, entmax = installed("torch"), installed("entmax")
    if torch is None or entmax is None:
        return {}
    torch.set_num_threads(os.cpu_count() or 1)

    def dense(mapping, **options):
        def attend(query, key, value):
            scores = query @ key.mT / query.shape[-1] ** 0.5
            return mapping(scores, dim=-1, **options) @ value

        return attend

    ways = {
        SOFTMAX: [torch.nn.functional.scaled_dot_product_attention],
        ENTMAX: [dense(entmax.entmax15), dense(entmax.entmax15, k=128)],
        SPARSEMAX: [dense(entmax.sparsemax), dense(entmax.sparsemax, k=128)],
    }
    return {
        name: functools.partial(_torch_call, torch, attend)
        for mapping, names in TORCH.items()
        for name, attend in zip(names, ways[mapping], strict=True)
    }


def _torch_call(torch: Any, attend, case: Case, quantity: str) -> Callable[[], object]:
    # torch's heads come before the length; they are laid out so beforehand.
    tensors = [torch.tensor(x).transpose(1, 2).contiguous() for x in case.inputs()]
    weights, *inputs = tensors
    if quantity == FORWARD:
        return lambda: attend(*inputs)
    for x in inputs:
        x.requires_grad_()

    def value_and_gradient():
        value = (weights * attend(*inputs)).sum()
        return value, torch.autograd.grad(value, inputs)

    return value_and_gradient


def _ours(**options):
    return lambda *inputs, **more: jsoftmax.dot_product_attention(*inputs, **options, **more)


def _tokamax(*inputs, **options):
    import tokamax

    return tokamax.dot_product_attention(*inputs, implementation="xla_chunked", **options)
