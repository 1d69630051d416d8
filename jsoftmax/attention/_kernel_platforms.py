"""Select the kernel that each platform compiles or interprets."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp

from jsoftmax.attention._attention_arguments import Given

PLATFORMS = {"tpu": ("tpu", False), "cuda": ("gpu", False), "cpu": ("tpu", True)}


def by_platform(
    function: Any,
    given: Given,
    *arguments: Any,
    platforms: tuple[str, ...] = tuple(PLATFORMS),
    called: str = "dot_product_attention",
) -> Any:
    """Call function(platform, interpret, given, ...) for the platform that is compiled for."""
    from jsoftmax import kernels

    # No chip computes float64: it is interpreted, on a CPU.
    is_wide = given.computing == jnp.float64
    functions = {
        name: partial(function, platform, interpret)
        for name, (platform, interpret) in PLATFORMS.items()
        if name in platforms and (interpret or not is_wide)
    }
    refused = (
        f"jsoftmax.{called}: implementation='pallas' has no kernel for {given.computing.name} on "
        "this platform; let implementation='xla' compute it. It is compiled for"
    )
    return kernels.by_platform(refused, functions, given, *arguments)
