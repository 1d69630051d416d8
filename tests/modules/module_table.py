"""Every module of jsoftmax.nnx and jsoftmax.linen, at small sizes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jsoftmax as js
import jsoftmax.linen
import jsoftmax.nnx

KEY = jax.random.key(0)
RNGS = {"params": KEY, "gumbel": jax.random.key(1), "candidates": jax.random.key(2)}
FEATURES = jax.random.normal(KEY, (3, 4), jnp.float32)
LOGITS = jax.random.normal(KEY, (2, 3), jnp.float32)
LABELS = jnp.array([0, 2, 1])


def halving(count):
    """A schedule that pickle finds by its name."""
    return 0.5**count


@dataclasses.dataclass(frozen=True)
class Row:
    """A module and its twin.

    Attributes:
        nnx: rngs → module.
        linen: () → module, the same settings.
        inputs: of a call.
        loss: whether there is a loss of features and classes.
    """

    nnx: Callable[[nnx.Rngs], nnx.Module]
    linen: Callable[[], nn.Module]
    inputs: Any = FEATURES
    loss: bool = True


def twins(name: str, *settings: Any, inputs: Any = FEATURES, loss: bool = True, **options: Any):
    """Both modules of a name, which take the same arguments."""

    def left(rngs):
        # Whoever draws no initial value takes no rngs.
        keys = {} if name == "Entmax" else {"rngs": rngs}
        return getattr(jsoftmax.nnx, name)(*settings, **options, **keys)

    def right():
        return getattr(jsoftmax.linen, name)(*settings, **options)

    return Row(left, right, inputs, loss)


def trees(counts=(3, 2, 1)):
    """A tree; made each time, so that equal ones are not identical."""
    return js.huffman_tree(np.array(counts))


def tables(**options):
    """Settings that call for arrays are made anew by each call of the table."""
    return {
        "Entmax": twins("Entmax", [[1.3], [1.6]], inputs=LOGITS, loss=False, shape=[2, 1],
                        learn_temperature=True),
        "EntmaxReadout": twins("EntmaxReadout", 4, 3, alpha=2.0),
        "GumbelSoftmax": twins("GumbelSoftmax", halving, inputs=LOGITS, loss=False, hard=True),
        "AdaptivelySparseAttention": Row(
            lambda rngs: jsoftmax.nnx.AdaptivelySparseAttention(
                2, 4, alpha=[1.3, 1.6], attention={"is_causal": True}, decode=False, rngs=rngs
            ),
            lambda: jsoftmax.linen.AdaptivelySparseAttention(
                2, alpha=[1.3, 1.6], attention={"is_causal": True}
            ),
            FEATURES[None],
            False,
        ),
        "LinearSoftmax": twins("LinearSoftmax", 4, 3),
        "HierarchicalSoftmax": Row(
            lambda rngs: jsoftmax.nnx.HierarchicalSoftmax(4, trees(), rngs=rngs),
            lambda: jsoftmax.linen.HierarchicalSoftmax(4, trees()),
        ),
        "SampledSoftmax": Row(
            lambda rngs: jsoftmax.nnx.SampledSoftmax(
                4, 3, js.log_uniform_sampler(3), 2, rngs=rngs
            ),
            lambda: jsoftmax.linen.SampledSoftmax(4, 3, js.log_uniform_sampler(3), 2),
        ),
        "SampledSoftmax without replacement": Row(
            lambda rngs: jsoftmax.nnx.SampledSoftmax(
                4, 3, js.unigram_sampler([3, 1, 1], replacement=False), 2, rngs=rngs
            ),
            lambda: jsoftmax.linen.SampledSoftmax(
                4, 3, js.unigram_sampler([3, 1, 1], replacement=False), 2
            ),
        ),
        "AdaptiveSoftmax": twins("AdaptiveSoftmax", 4, 6, [2, 4], use_bias=True),
        "DifferentiatedSoftmax": twins("DifferentiatedSoftmax", 4, 6, [2, 4]),
        "DifferentiatedSoftmax of slices": twins(
            "DifferentiatedSoftmax", 4, 6, [2], widths=[3, 1], use_bias=True
        ),
    }
