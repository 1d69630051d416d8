"""Attention by kernels instead of XLA, in the form for a TPU or a GPU, interpreted."""

import functools

import jax
import pytest

import jsoftmax as js
from jsoftmax.attention import _kernel_platforms
from jsoftmax.kernels import attention as kernels
from jsoftmax.kernels.attention import Sizes

# Blocks that make several of few queries and keys. A TPU has vectors of 128.
PLATFORMS = {"tpu": Sizes(128, 128, True), "gpu": Sizes(4, 4, False)}
_attention = js.dot_product_attention


def attend(query, key, value, *arrays, block_q=None, block_k=None, **options):
    """Call `dot_product_attention` by a kernel, with the block sizes of the kernel."""
    return _attention(query, key, value, *arrays, implementation="pallas", **options)


def take(monkeypatch, platform: str, sizes: Sizes | None = None) -> None:
    """Let everything that asks for attention have it by kernels for this platform."""
    monkeypatch.setitem(_kernel_platforms.PLATFORMS, "cpu", (platform, True))
    monkeypatch.setattr(kernels, "sizes", lambda *_: sizes or PLATFORMS[platform])
    monkeypatch.setattr(js, "dot_product_attention", attend)
    # Traced anew: programs that were compiled before are those of XLA, or of another platform.
    jax.clear_caches()


def recompiled(monkeypatch, module, *names):
    """Let functions of a test module that are compiled once be compiled once more."""
    for name in names:
        function = getattr(module, name)
        static = {"orders": {"static_argnums": 0, "static_argnames": "return_residual"}}
        again = functools.partial(jax.jit, **static.get(name, {}))(function.__wrapped__)
        monkeypatch.setattr(module, name, again)


@pytest.fixture(params=list(PLATFORMS))
def platform(request, monkeypatch):
    """Attention by kernels of each platform in turn."""
    take(monkeypatch, request.param)
    yield request.param
    jax.clear_caches()
