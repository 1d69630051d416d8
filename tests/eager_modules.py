"""Every Flax module, called with arrays of given shapes and values of a given seed."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jsoftmax.linen
import jsoftmax.nnx
from tests.eager_calls import T12, Call, H, Make, Y, Z, floats, key, public

MODULE_CALLS: list[Call] = []
# Modules with gradients that take many seconds to compile.
SLOW = {"AdaptivelySparseAttention", "ScalableAttention"}


def _nnx(name: str, *makes: Make, method: str = "__call__", note: str = "", smooth=True, **options):
    """Add a method of an NNX module; its state is the first operand."""

    @functools.cache
    def graph():
        return nnx.split(_built(0))[0]

    def _built(seed):
        given = {k: v() if callable(v) else v for k, v in options.items()}
        return getattr(jsoftmax.nnx, name)(**given, **_rngs(name, seed))

    def state(rng: np.random.Generator) -> Any:
        return nnx.to_pure_dict(nnx.split(_built(int(rng.integers(2**31))))[1])

    def call(state, *operands):
        module = nnx.merge(graph(), state)
        return getattr(module, method)(*operands)

    title = ", ".join(filter(None, (f"nnx.{name}", method.strip("_"), note)))
    MODULE_CALLS.append(Call(title, call, (state, *makes), smooth, name in SLOW))


def _rngs(name: str, seed: int) -> dict[str, Any]:
    return {} if name == "Entmax" else {"rngs": nnx.Rngs(seed)}


def _linen(name: str, *makes: Make, method: str = "__call__", note: str = "", streams: str = "",
           **options):  # fmt: skip
    """Add a method of a Linen module that is initialised with its first operand."""

    @functools.cache
    def module():
        given = {k: v() if callable(v) else v for k, v in options.items()}
        return getattr(jsoftmax.linen, name)(**given)

    def variables(rng: np.random.Generator) -> Any:
        keys = {stream: key(rng) for stream in ("params", *streams.split())}
        return module().init(keys, makes[0](rng))

    def call(variables, key, *operands):
        rngs = {stream: key for stream in streams.split()}
        return module().apply(variables, *operands, rngs=rngs, method=method)

    title = ", ".join(filter(None, (f"linen.{name}", method.strip("_"), note)))
    MODULE_CALLS.append(Call(title, call, (variables, key, *makes), is_slow=name in SLOW))


def _tree():
    return jax.tree.map(jnp.asarray, public("balanced_tree")(8))


def _sampler():
    return public("uniform_sampler")(12)


X = floats(2, 4, 8)
BANDED: dict[str, Any] = {"features": 6, "classes": 12, "cutoffs": (4, 8)}
SAMPLED: dict[str, Any] = {"classes": 12, "draws": 5}
ROUTED: dict[str, Any] = {
    "features": 6, "experts": 12, "score": "sigmoid", "use_balancing_bias": True,
}  # fmt: skip

_nnx("Entmax", Z, learn_temperature=True)
_nnx("GumbelSoftmax", Z)
_nnx("GumbelSoftmax", Z, hard=True, alpha=1.5, note="hard")
_nnx("EntmaxReadout", H, features=6, classes=12)
_nnx("EntmaxReadout", H, T12, method="loss", features=6, classes=12)
_nnx("AdaptivelySparseAttention", X, num_heads=2, in_features=8, decode=False)
_nnx("ScalableAttention", X, num_heads=2, in_features=8, decode=False)
for _name in ("AdaptiveSoftmax", "DifferentiatedSoftmax"):
    _nnx(_name, H, **BANDED)
    _nnx(_name, H, T12, method="loss", **BANDED)
    _nnx(_name, T12, method="embed", **BANDED)
_nnx("HierarchicalSoftmax", H, features=6, tree=_tree)
_nnx("HierarchicalSoftmax", H, Y, method="loss", features=6, tree=_tree)
_nnx("HierarchicalSoftmax", key, H, method="sample", smooth=False, features=6, tree=_tree)
_nnx("LinearSoftmax", H, features=6, classes=12)
_nnx("LinearSoftmax", H, T12, method="loss", features=6, classes=12)
_nnx("LinearSoftmax", key, H, method="sample", smooth=False, features=6, classes=12)
_nnx("Router", H, k=3, **ROUTED)
_nnx("SampledSoftmax", H, features=6, sampler=_sampler, **SAMPLED)
_nnx("SampledSoftmax", H, T12, method="loss", features=6, sampler=_sampler, **SAMPLED)

_linen("Entmax", Z, learn_temperature=True)
_linen("GumbelSoftmax", Z, streams="gumbel")
_linen("GumbelSoftmax", Z, streams="gumbel", hard=True, alpha=1.5, note="hard")
_linen("EntmaxReadout", H, features=6, classes=12)
_linen("EntmaxReadout", H, T12, method="loss", features=6, classes=12)
_linen("AdaptivelySparseAttention", X, num_heads=2)
_linen("ScalableAttention", X, num_heads=2)
for _name in ("AdaptiveSoftmax", "DifferentiatedSoftmax"):
    _linen(_name, H, **BANDED)
    _linen(_name, H, T12, method="loss", **BANDED)
_linen("HierarchicalSoftmax", H, features=6, tree=_tree)
_linen("HierarchicalSoftmax", H, Y, method="loss", features=6, tree=_tree)
_linen("LinearSoftmax", H, features=6, classes=12)
_linen("LinearSoftmax", H, T12, method="loss", features=6, classes=12)
_linen("Router", H, k=3, **ROUTED)
_linen("SampledSoftmax", H, features=6, sampler=_sampler, **SAMPLED)
_linen(
    "SampledSoftmax", H, T12, method="loss", streams="candidates", features=6, sampler=_sampler,
    **SAMPLED,
)  # fmt: skip


def _decoding_nnx(state, x):
    module = nnx.merge(_decoder()[0], state)
    return module(x, decode=True)


@functools.cache
def _decoder():
    module = jsoftmax.nnx.AdaptivelySparseAttention(2, 8, decode=True, rngs=nnx.Rngs(0))
    module.init_cache((2, 4, 8))
    return nnx.split(module)


def _cache_nnx(rng: np.random.Generator) -> Any:
    del rng
    return nnx.to_pure_dict(_decoder()[1])


def _decoding_linen(variables, x):
    module = jsoftmax.linen.AdaptivelySparseAttention(num_heads=2, decode=True)
    return module.apply(variables, x, mutable=["cache"])[0]


def _cache_linen(rng: np.random.Generator) -> Any:
    module = jsoftmax.linen.AdaptivelySparseAttention(num_heads=2, decode=True)
    return module.init(key(rng), jnp.zeros((2, 4, 8), jnp.float32))


for _title, _step, _make in (
    ("nnx", _decoding_nnx, _cache_nnx), ("linen", _decoding_linen, _cache_linen)
):  # fmt: skip
    _makes = (_make, floats(2, 1, 8))
    MODULE_CALLS.append(Call(f"{_title}.AdaptivelySparseAttention, decode", _step, _makes, False))
