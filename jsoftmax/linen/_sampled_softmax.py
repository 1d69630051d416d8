"""Output layer over many classes, trained by a sampled loss and evaluated by the full softmax."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._contents import Held
from jsoftmax.core._initializers import lecun_rows
from jsoftmax.mappings import softmax
from jsoftmax.vocabulary import (
    Candidates,
    ClassSampler,
    linear_cross_entropy,
    sampled_softmax_loss,
)


class SampledSoftmax(nn.Module):
    r"""A class table W, trained by a sampled loss and evaluated by the full softmax.

    .. math:: z = h W^T + b, \qquad p = \mathrm{softmax}(z)

    In training `loss` draws candidates and is the sampled loss; in evaluation, with
    `deterministic=True`, it is `linear_cross_entropy`, which streams over all classes. The arrays
    of the sampler are variables of the collection "sampler", so that they are arguments of a
    compiled function, and not constants in it.

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

    Raises:
        ValueError: if the sampler has another number of classes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jsoftmax
        >>> head = SampledSoftmax(8, 1000, jsoftmax.vocabulary.log_uniform_sampler(1000), 50)
        >>> h, y, key = jnp.ones((3, 8)), jnp.array([1, 2, 3]), jax.random.key(0)
        >>> variables = head.init(key, h)
        >>> rngs = {"candidates": key}
        >>> print(head.apply(variables, h, y, rngs=rngs, method="loss").shape)
        (3,)
        >>> full = head.apply(variables, h, y, deterministic=True, method="loss")
        >>> p = head.apply(variables, h)
        >>> print(jnp.allclose(full, -jnp.log(p)[jnp.arange(3), y], atol=1e-5))
        True
    """

    features: int
    classes: int
    sampler: Any  # held
    draws: int
    _: dataclasses.KW_ONLY
    sampled_loss: Any = sampled_softmax_loss
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Any = lecun_rows
    bias_init: Any = nn.initializers.zeros_init()
    deterministic: bool = False
    rng_collection: str = "candidates"

    def __post_init__(self):
        held = Held(self.sampler)
        if held.value.classes != self.classes:
            raise ValueError(
                f"jsoftmax.linen.SampledSoftmax: the sampler has {held.value.classes} classes and "
                f"the table {self.classes}."
            )
        object.__setattr__(self, "sampler", held)
        super().__post_init__()

    def setup(self):
        """Create W and b, and store the sampler."""
        shape = (self.classes, self.features)
        # Plain arrays, so that every way of saving variables supports them.
        arrays, self.structure = jax.tree.flatten(self.sampler.value)
        self.arrays = self.variable("sampler", "sampler", lambda: tuple(arrays))
        self.kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        self.bias = (
            self.param("bias", self.bias_init, shape[:1], self.param_dtype)
            if self.use_bias
            else None
        )

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
        rng: Array | None = None,
    ) -> Float[Array, "..."]:
        """Return the loss of each token, in float32 at least: features [..., d], classes [...].

        Candidates that are given, such as those of `in_batch_candidates`, replace draws.
        `deterministic`, and `rng`, a key, override those of the module.
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
            key = self.make_rng(self.rng_collection) if rng is None else rng
            sampler: ClassSampler = jax.tree.unflatten(self.structure, self.arrays.value)
            candidates = sampler.sample(key, (self.draws,), labels)
        return self.sampled_loss(h, kernel, labels, candidates, **options)

    def _promoted(self, features: ArrayLike) -> Any:
        """Promote features, W and b to one dtype."""
        return promote_dtype(jnp.asarray(features), self.kernel, self.bias, dtype=self.dtype)
