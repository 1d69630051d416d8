"""Select a function by platform, also where one module is lowered for several platforms.

`jax.lax.platform_dependent` lowers each of its branches for every platform of the module, and
kernels do not lower for other platforms. Here each platform lowers its own function. Derivatives
are given outside, by `custom_jvp`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

_PLATFORMS = ("tpu", "cuda", "rocm", "cpu")


def by_platform(refused: str, functions: dict[str, Callable[..., Any]], *arguments: Any) -> Any:
    """Call `functions[platform](*arguments)`, or `functions["default"]`, by platform at run time.

    All return results of the same shapes and dtypes. If neither exists, lowering for that platform
    raises a `NotImplementedError` with the text `refused`, followed by the platform.
    """
    leaves, structure = jax.tree.flatten(arguments)

    def flat(function, *leaves):
        return jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves)))

    first = next(iter(functions.values()))
    outline = jax.eval_shape(first, *arguments)
    flats = {name: partial(flat, function) for name, function in functions.items()}
    results = _by_platform.bind(*leaves, refused=refused, functions=tuple(flats.items()))
    return jax.tree.unflatten(jax.tree.structure(outline), results)


_by_platform = Primitive("jsoftmax_by_platform")
_by_platform.multiple_results = True


@_by_platform.def_abstract_eval
def _shapes(*avals, refused, functions):
    # From a traced program, which also records how arrays vary over the axes of `shard_map`.
    traced = jax.make_jaxpr(functions[0][1])(*avals)
    return [x.update(weak_type=False) for x in traced.out_avals]


@_by_platform.def_impl
def _computed(*arguments, **parameters):
    return jax.jit(partial(_by_platform.bind, **parameters))(*arguments)


def _chosen(platform, *arguments, refused, functions):
    known = dict(functions)
    function = known.get(platform, known.get("default"))
    if function is None:
        raise NotImplementedError(f"{refused} {platform}.")
    return function(*arguments)


for _platform in _PLATFORMS:
    mlir.register_lowering(
        _by_platform,
        mlir.lower_fun(partial(_chosen, _platform), multiple_results=True),
        platform=_platform,
    )


def _batched(arguments, axes, *, refused, functions):
    over = tuple((name, jax.vmap(function, axes)) for name, function in functions)
    results = _by_platform.bind(*arguments, refused=refused, functions=over)
    return results, [0] * len(results)


batching.primitive_batchers[_by_platform] = _batched
