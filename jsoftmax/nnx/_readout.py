"""The last layer of a classifier, and its loss."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, DTypeLike, Float

from jsoftmax.core._initializers import lecun_columns
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.losses import fenchel_young_loss
from jsoftmax.mappings import regularized_argmax
from jsoftmax.mappings._constraints import constant_regularizer

_BIAS_INIT = nnx.initializers.zeros_init()


class EntmaxReadout(nnx.Module):
    r"""A class table read out by α-entmax, and trained by the loss that belongs to it.

    .. math:: z = hW + b, \qquad p = \mathrm{entmax}_α(z), \qquad L = Ω_α^*(z) + Ω_α(y) - ⟨y, z⟩

    α = 1 is multinomial logistic regression, α = 2 its sparse sibling; for α > 1 classes far behind
    get probability exactly 0. α is a constant here and not a parameter: the loss falls with its own
    α for every one-hot target, whatever the logits are, so α would run away and nothing be learned.
    Choose it as one chooses an architecture. (`Entmax` learns α, where another loss judges it.)

    Args:
        features: d, the size of the last axis of what is read.
        classes: K, how many classes there are.
        alpha: α > 0, a number; 1.5 where it is None.
        regularizer: a `Regularizer` in the place of `Tsallis(alpha)`, as fixed as α is.
        use_bias: whether there is a b.
        dtype: the dtype of logits and probabilities; by default that of features and parameters
            promoted.
        param_dtype: the dtype of W and b.
        precision: of the product hW, as `jax.lax.dot_general` takes it.
        kernel_init: initialiser of W, of shape [d, K].
        bias_init: initialiser of b, of shape [K].
        rngs: where the initialisers' keys come from.

    Raises:
        TypeError: if `alpha` is not a number.
        ValueError: if `alpha` is not positive, or given beside a `regularizer`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> readout = EntmaxReadout(2, 3, alpha=2.0, rngs=nnx.Rngs(0))
        >>> readout.linear.kernel[...] = jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        >>> features = jnp.array([[2.0, 1.5], [0.0, 3.0]])
        >>> print(readout(features))
        [[0.75 0.25 0.  ]
         [0.   1.   0.  ]]
        >>> print(readout.loss(features, jnp.array([0, 1])))
        [0.0625 0.    ]
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        alpha: ArrayLike | None = None,
        regularizer: Regularizer | None = None,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: Any = None,
        kernel_init: nnx.Initializer = lecun_columns,
        bias_init: nnx.Initializer = _BIAS_INIT,
        rngs: nnx.Rngs,
    ):
        self.fixed_regularizer = constant_regularizer("nnx.EntmaxReadout", alpha, regularizer)
        self.linear = nnx.Linear(
            features,
            classes,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            bias_init=bias_init,
            rngs=rngs,
        )

    @property
    def regularizer(self) -> Regularizer:
        """The regularizer that was given, or that of α."""
        return self.fixed_regularizer.value

    def __call__(
        self, features: ArrayLike, *, where: ArrayLike | None = None
    ) -> Float[Array, "... classes"]:
        """Features [..., d] → probabilities [..., K]; 0 for classes where the mask is False."""
        return regularized_argmax(self.logits(features), self.regularizer, where=where)

    def logits(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Features [..., d] → logits [..., K]."""
        return self.linear(jnp.asarray(features))

    def loss(
        self,
        features: ArrayLike,
        targets: ArrayLike,
        *,
        where: ArrayLike | None = None,
        ignore_index: int | None = None,
        label_smoothing: ArrayLike = 0.0,
        class_weights: ArrayLike | None = None,
    ) -> Float[Array, "..."]:
        """Features [..., d] and targets → one `fenchel_young_loss` each, in float32 at least.

        The targets are classes, integers of shape [...], or distributions of shape [..., K]; the
        rest is as `fenchel_young_loss` takes it.
        """
        return fenchel_young_loss(
            self.logits(features),
            targets,
            self.regularizer,
            where=where,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
        )
