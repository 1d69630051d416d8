"""Softmax output layer over many classes; its loss never holds whole rows of logits."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core._initializers import lecun_rows
from jsoftmax.mappings import softmax
from jsoftmax.vocabulary import (
    Band,
    TopK,
    band_embedding,
    linear_categorical,
    linear_cross_entropy,
    linear_topk,
)


class LinearSoftmax(nn.Module):
    r"""Softmax output layer over K classes, computed from a table W in blocks.

    .. math:: z = h W^T + b, \qquad p = \mathrm{softmax}(z)

    Where `flax.linen.Dense` and a loss would hold the logits of all tokens, `loss`, `topk` and
    `sample` need a block of them. `embed` reads the same table as an input embedding, which ties
    the two.

    Args:
        features: d, the size of the last axis of the input.
        classes: K, the number of classes.
        use_bias: whether to add b.
        dtype: the dtype that features, W and b are converted to; by default that of all promoted.
            Losses are computed in float32 at least.
        param_dtype: the dtype of W and b.
        kernel_init: initialiser of W, of shape [K, d], the layout of an embedding.
        bias_init: initialiser of b, of shape [K].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> head = LinearSoftmax(8, 1000)
        >>> h, y, key = jnp.ones((3, 8)), jnp.array([1, 2, 3]), jax.random.key(0)
        >>> variables = head.init(key, h)
        >>> print(head.apply(variables, h, y, label_smoothing=0.1, method="loss").shape)
        (3,)
        >>> print(head.apply(variables, key, h, method="sample").shape)
        (3,)
    """

    features: int
    classes: int
    _: dataclasses.KW_ONLY
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Any = lecun_rows
    bias_init: Any = nn.initializers.zeros_init()

    def setup(self):
        """Create W and b."""
        shape = (self.classes, self.features)
        self.kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        self.bias = (
            self.param("bias", self.bias_init, shape[:1], self.param_dtype)
            if self.use_bias
            else None
        )

    def __call__(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to probabilities [..., K], as whole rows."""
        return softmax(self.logits(features))

    def logits(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to logits [..., K], as whole rows."""
        h, kernel, bias = self._promoted(features)
        z = h @ kernel.T
        return z if bias is None else z + bias

    def loss(self, features: ArrayLike, targets: Any, **options: Any) -> Float[Array, "..."]:
        """Return `linear_cross_entropy` of features [..., d] and targets [...]."""
        h, kernel, bias = self._promoted(features)
        return linear_cross_entropy(h, kernel, targets, bias=bias, class_axis=0, **options)

    def topk(self, features: ArrayLike, k: int, **options: Any) -> TopK:
        """Return the k most probable classes of features [..., d], and logits: `linear_topk`."""
        h, kernel, bias = self._promoted(features)
        return linear_topk(h, kernel, k, bias=bias, class_axis=0, **options)

    def sample(self, key: Array, features: ArrayLike, **options: Any) -> Int[Array, "..."]:
        """Draw a class for each of the features [..., d] by `linear_categorical`."""
        h, kernel, bias = self._promoted(features)
        return linear_categorical(key, h, kernel, bias=bias, class_axis=0, **options)

    def embed(self, classes: ArrayLike) -> Float[Array, "... features"]:
        """Return the rows [..., d] of W for classes [...]: an input embedding tied to the output.

        As in `band_embedding`, a class out of range raises ValueError if given by Python or numpy,
        and gives NaN in an array of JAX.
        """
        (kernel,) = promote_dtype(self.kernel, dtype=self.dtype)
        return band_embedding(classes, (Band(kernel),))

    def _promoted(self, features: ArrayLike) -> Any:
        """Promote features, W and b to one dtype."""
        return promote_dtype(jnp.asarray(features), self.kernel, self.bias, dtype=self.dtype)
