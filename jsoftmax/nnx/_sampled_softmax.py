"""Output layer over many classes, trained by a sampled loss and evaluated by the full softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jaxtyping import Array, ArrayLike, DTypeLike, Float

from jsoftmax.core._initializers import lecun_rows
from jsoftmax.mappings import softmax
from jsoftmax.vocabulary import (
    Candidates,
    ClassSampler,
    linear_cross_entropy,
    sampled_softmax_loss,
)

_BIAS_INIT = nnx.initializers.zeros_init()


class Fixed(nnx.Variable):
    """The arrays of a sampler: neither parameters nor state."""


class SampledSoftmax(nnx.Module):
    r"""A class table W, trained by a sampled loss and evaluated by the full softmax.

    .. math:: z = h W^T + b, \qquad p = \mathrm{softmax}(z)

    In training `loss` draws candidates and is the sampled loss; in evaluation, after `model.eval()`
    or with `deterministic=True`, it is `linear_cross_entropy`, which streams over all classes.

    Args:
        features: d, the size of the last axis of the input.
        classes: K, the number of classes.
        sampler: the distribution of candidates, over the same K classes.
        draws: the number of candidates, drawn once for all tokens of a call.
        sampled_loss: `sampled_softmax_loss`, `importance_sampling_loss`, `nce_loss`,
            `negative_sampling_loss`, or a function with their signature.
        use_bias: whether to add b.
        dtype: the dtype that features, W and b are converted to; by default that of all promoted.
            Losses are computed in float32 at least.
        param_dtype: the dtype of W and b.
        kernel_init: initialiser of W, of shape [K, d], the layout of an embedding.
        bias_init: initialiser of b, of shape [K].
        deterministic: whether `loss` is the full loss of evaluation.
        rng_collection: the name of the rng stream.
        rngs: source of the keys of initialisers and of draws.

    Raises:
        ValueError: if the sampler has another number of classes.

    Example:
        >>> import jax.numpy as jnp
        >>> import jsoftmax
        >>> from flax import nnx
        >>> sampler = jsoftmax.vocabulary.log_uniform_sampler(1000)
        >>> head = SampledSoftmax(8, 1000, sampler, 50, rngs=nnx.Rngs(0))
        >>> h, y = jnp.ones((3, 8)), jnp.array([1, 2, 3])
        >>> gradients = nnx.grad(lambda head: head.loss(h, y).mean())(head)
        >>> head.eval()
        >>> print(jnp.allclose(head.loss(h, y), -jnp.log(head(h))[jnp.arange(3), y], atol=1e-5))
        True
    """

    def __init__(
        self,
        features: int,
        classes: int,
        sampler: ClassSampler,
        draws: int,
        *,
        sampled_loss: Callable[..., Array] = sampled_softmax_loss,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: nnx.Initializer = lecun_rows,
        bias_init: nnx.Initializer = _BIAS_INIT,
        deterministic: bool = False,
        rng_collection: str = "candidates",
        rngs: nnx.Rngs,
    ):
        if sampler.classes != classes:
            raise ValueError(
                f"jsoftmax.nnx.SampledSoftmax: the sampler has {sampler.classes} classes and the "
                f"table {classes}."
            )
        self.sampler = Fixed(sampler)
        self.draws = draws
        self.sampled_loss = sampled_loss
        self.kernel = nnx.Param(kernel_init(rngs.params(), (classes, features), param_dtype))
        self.bias = (
            nnx.Param(bias_init(rngs.params(), (classes,), param_dtype)) if use_bias else None
        )
        self.dtype = dtype
        self.deterministic = deterministic
        self.rng_collection = rng_collection
        self.rngs = rngs[rng_collection].fork()

    def __call__(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to probabilities [..., K]."""
        return softmax(self.logits(features))

    def logits(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to logits [..., K]."""
        h, kernel, bias = self._promoted(features)
        z = h @ kernel.T
        return z if bias is None else z + bias

    def loss(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        candidates: Candidates | None = None,
        *,
        where: ArrayLike | None = None,
        ignore_index: int | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | Array | None = None,
    ) -> Float[Array, "..."]:
        """Return the loss of each token, in float32 at least: features [..., d], classes [...].

        Candidates that are given, such as those of `in_batch_candidates`, replace draws.
        `deterministic`, and `rngs`, which may also be a key, override those of the module.
        """
        h, kernel, bias = self._promoted(features)
        options: dict[str, Any] = {
            "bias": bias,
            "where": where,
            "ignore_index": ignore_index,
            "class_axis": 0,
        }
        if self.deterministic if deterministic is None else deterministic:
            return linear_cross_entropy(h, kernel, labels, **options)
        if candidates is None:
            key = self._key(self.rngs if rngs is None else rngs)
            candidates = self.sampler.sample(key, (self.draws,), labels)
        return self.sampled_loss(h, kernel, labels, candidates, **options)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Set `deterministic`, for `nnx.view`."""
        if deterministic is not None:
            self.deterministic = deterministic

    def _promoted(self, features: ArrayLike) -> Any:
        """Promote features, W and b to one dtype."""
        return promote_dtype(
            (
                jnp.asarray(features),
                self.kernel[...],
                None if self.bias is None else self.bias[...],
            ),
            dtype=self.dtype,
        )

    def _key(self, rngs: Any) -> Array:
        if isinstance(rngs, jax.Array):
            return rngs
        if isinstance(rngs, nnx.Rngs):
            return rngs[self.rng_collection]()
        if isinstance(rngs, nnx.RngStream):
            return rngs()
        raise TypeError(
            f"jsoftmax.nnx.SampledSoftmax: `rngs` is {rngs!r}, and draws need keys. Give nnx.Rngs, "
            "a stream or a key."
        )
