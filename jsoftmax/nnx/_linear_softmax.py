"""Softmax output layer over many classes; its loss never holds whole rows of logits."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int

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

_BIAS_INIT = nnx.initializers.zeros_init()


class LinearSoftmax(nnx.Module):
    r"""Softmax output layer over K classes, computed from a table W in blocks.

    .. math:: z = h W^T + b, \qquad p = \mathrm{softmax}(z)

    Where `flax.nnx.Linear` and a loss would hold the logits of all tokens, `loss`, `topk` and
    `sample` need a block of them. `embed` reads the same table as an input embedding, which ties
    the two; another module's table is tied by assignment: `head.kernel = embedder.embedding`.

    Args:
        features: d, the size of the last axis of the input.
        classes: K, the number of classes.
        use_bias: whether to add b.
        dtype: the dtype that features, W and b are converted to; by default that of all promoted.
            Losses are computed in float32 at least.
        param_dtype: the dtype of W and b.
        kernel_init: initialiser of W, of shape [K, d], the layout of an embedding.
        bias_init: initialiser of b, of shape [K].
        rngs: source of the initialisers' keys.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> head = LinearSoftmax(8, 1000, rngs=nnx.Rngs(0))
        >>> h, y = jnp.ones((3, 8)), jnp.array([1, 2, 3])
        >>> gradients = nnx.grad(lambda head: head.loss(h, y, label_smoothing=0.1).mean())(head)
        >>> print(gradients.kernel.shape, head.topk(h, 5).classes.shape)
        (1000, 8) (3, 5)
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: nnx.Initializer = lecun_rows,
        bias_init: nnx.Initializer = _BIAS_INIT,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (classes, features), param_dtype))
        self.bias = (
            nnx.Param(bias_init(rngs.params(), (classes,), param_dtype)) if use_bias else None
        )
        self.dtype = dtype

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
        (kernel,) = promote_dtype((self.kernel[...],), dtype=self.dtype)
        return band_embedding(classes, (Band(kernel),))

    def _promoted(self, features: ArrayLike) -> Any:
        """Promote features, W and b to one dtype."""
        bias = None if self.bias is None else self.bias[...]
        return promote_dtype((jnp.asarray(features), self.kernel[...], bias), dtype=self.dtype)
