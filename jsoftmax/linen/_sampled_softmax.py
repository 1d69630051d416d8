"""A large class table, trained on few of its rows at a time and judged by all of them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, ArrayLike, Float

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

    In training `loss` draws candidates and is the sampled one; in evaluation, with
    `deterministic=True`, it is `linear_cross_entropy`, which streams over all classes. The sampler
    is an argument of the loss, since its arrays are neither parameters nor constants to compile in.

    Args:
        classes: K, how many classes there are.
        draws: how many candidates are drawn, once for all tokens of a call.
        sampled_loss: `sampled_softmax_loss`, `importance_sampling_loss`, `nce_loss`,
            `negative_sampling_loss` or what is called as they are.
        use_bias: whether there is a b.
        dtype: what features, W and b are converted to; by default nothing. Losses are computed
            in float32 at least.
        param_dtype: the dtype of W and b.
        kernel_init: initialiser of W, of shape [K, d], the layout of an embedding.
        bias_init: initialiser of b, of shape [K].
        deterministic: whether `loss` is that of evaluation.
        rng_collection: the name of the rng stream.

    Raises:
        ValueError: if the sampler has another number of classes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jsoftmax
        >>> head = SampledSoftmax(1000, 50)
        >>> h, y, key = jnp.ones((3, 8)), jnp.array([1, 2, 3]), jax.random.key(0)
        >>> variables = head.init(key, h)
        >>> sampler = jsoftmax.log_uniform_sampler(1000)
        >>> rngs = {"candidates": key}
        >>> print(head.apply(variables, h, y, sampler, rngs=rngs, method="loss").shape)
        (3,)
        >>> full = head.apply(variables, h, y, deterministic=True, method="loss")
        >>> p = head.apply(variables, h)
        >>> print(jnp.allclose(full, -jnp.log(p)[jnp.arange(3), y], atol=1e-5))
        True
    """

    classes: int
    draws: int
    sampled_loss: Any = sampled_softmax_loss
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
    bias_init: Any = nn.initializers.zeros_init()
    deterministic: bool = False
    rng_collection: str = "candidates"

    @nn.compact
    def _promoted(self, features: ArrayLike) -> Any:
        """Features, W and b of one dtype."""
        h = jnp.asarray(features)
        shape = (self.classes, h.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.classes,), self.param_dtype)
        return promote_dtype(h, kernel, bias, dtype=self.dtype)

    def __call__(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Features [..., d] → probabilities [..., K]."""
        return softmax(self.logits(features))

    def logits(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Features [..., d] → logits [..., K]."""
        h, kernel, bias = self._promoted(features)
        z = h @ kernel.T
        return z if bias is None else z + bias

    def loss(
        self,
        features: ArrayLike,
        targets: ArrayLike,
        sampler: ClassSampler | None = None,
        candidates: Candidates | None = None,
        *,
        where: ArrayLike | None = None,
        ignore_index: int | None = None,
        deterministic: bool | None = None,
        rng: Array | None = None,
    ) -> Float[Array, "..."]:
        """Features [..., d] and classes [...] → one loss each, in float32 at least.

        In training it takes a sampler, or candidates in the place of draws, such as those of
        `in_batch_candidates`. `deterministic`, and `rng`, a key, go before what the module has.
        """
        h, kernel, bias = self._promoted(features)
        options: dict[str, Any] = {
            "bias": bias,
            "where": where,
            "ignore_index": ignore_index,
            "class_axis": 0,
        }
        if self.deterministic if deterministic is None else deterministic:
            return linear_cross_entropy(h, kernel, targets, **options)
        if candidates is None:
            if sampler is None or sampler.classes != self.classes:
                raise ValueError(
                    "jsoftmax.linen.SampledSoftmax: training needs candidates, or a `sampler` of "
                    f"{self.classes} classes; got {sampler!r}."
                )
            key = self.make_rng(self.rng_collection) if rng is None else rng
            candidates = sampler.sample(key, (self.draws,), targets)
        return self.sampled_loss(h, kernel, targets, candidates, **options)
