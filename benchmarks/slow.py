"""The sorting and bisecting peers: 50 to 1000 times softmax, so they get a few rounds each."""

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from benchmarks.compiled import FORWARD, compiled


@dataclasses.dataclass(frozen=True)
class Peer:
    """A peer, and the contestant of ours that computes the same."""

    name: str
    ours: str
    prepare: Callable[[jax.Array, str], Callable[[], object]]  # logits, quantity → a timed call


def peers() -> list[Peer]:
    """The slow peers that are installed."""
    found = []
    if optax := installed("optax"):
        simplex = jax.vmap(optax.projections.projection_simplex)
        found.append(Peer("optax projection_simplex", "sparsemax", _with_jax(simplex)))
    if jaxopt := installed("jaxopt"):
        simplex = jax.vmap(jaxopt.projection.projection_simplex)
        found.append(Peer("jaxopt projection_simplex", "sparsemax", _with_jax(simplex)))
    if (torch := installed("torch")) and (entmax := installed("entmax")):
        torch.set_num_threads(os.cpu_count() or 1)
        found += [
            Peer(f"entmax (torch) {name}", ours, _with_torch(torch, mapping))
            for name, ours, mapping in (
                ("sparsemax", "sparsemax", entmax.sparsemax),
                ("sparsemax k=128", "sparsemax", functools.partial(entmax.sparsemax, k=128)),
                ("entmax15", "entmax 1.5", entmax.entmax15),
                ("entmax15 k=128", "entmax 1.5", functools.partial(entmax.entmax15, k=128)),
                ("entmax_bisect 1.5", "entmax 1.5", entmax.entmax_bisect),
            )
        ]
    return found


def _with_jax(mapping: Callable[[jax.Array], jax.Array]):
    return lambda logits, quantity: compiled(mapping, quantity, logits.shape).on(logits)


def _with_torch(torch: Any, mapping: Callable):
    def prepare(logits: jax.Array, quantity: str) -> Callable[[], object]:
        x = torch.tensor(np.asarray(logits))
        if quantity == FORWARD:
            return lambda: mapping(x)
        weights = torch.tensor(np.random.default_rng(1).normal(size=x.shape), dtype=x.dtype)
        x.requires_grad_()

        def value_and_gradient():
            value = (weights * mapping(x)).sum()
            return value, torch.autograd.grad(value, x)

        return value_and_gradient

    return prepare


def installed(package: str) -> ModuleType | None:
    """The package, or None where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError:
        return None
