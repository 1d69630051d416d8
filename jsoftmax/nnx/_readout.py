"""Entmax output layer of a classifier, and its loss."""

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
    r"""Output layer by α-entmax, trained by its Fenchel–Young loss.

    .. math:: z = hW + b, \qquad p = \mathrm{entmax}_α(z), \qquad L = Ω_α^*(z) + Ω_α(y) - ⟨y, z⟩

    α = 1 is multinomial logistic regression, α = 2 its sparse sibling; for α > 1 classes far behind
    get probability exactly 0. α is a constant here and not a parameter: the loss decreases with its
    own α for every one-hot target and any logits, so α would diverge and nothing would be learned.
    Choose it like an architecture. (`Entmax` learns α, under another loss.)

    Args:
        features: d, the size of the last axis of the input.
        classes: K, the number of classes.
        alpha: α > 0, a number; 1.5 where it is None.
        regularizer: a `Regularizer` instead of `Tsallis(alpha)`, fixed like α.
        use_bias: whether to add b.
        dtype: the dtype of logits and probabilities; by default that of features and parameters
            promoted.
        param_dtype: the dtype of W and b.
        precision: of the product hW, as in `jax.lax.dot_general`.
        kernel_init: initialiser of W, of shape [d, K].
        bias_init: initialiser of b, of shape [K].
        rngs: source of the initialisers' keys.

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
        """The regularizer given, or that of α."""
        return self.fixed_regularizer.value

    def __call__(
        self, features: ArrayLike, *, where: ArrayLike | None = None
    ) -> Float[Array, "... classes"]:
        """Map features [..., d] to probabilities [..., K]; 0 where the mask is False."""
        return regularized_argmax(self.logits(features), self.regularizer, where=where)

    def logits(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to logits [..., K]."""
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
        """Return `fenchel_young_loss` of features [..., d] and targets, in float32 at least.

        The targets are classes, integers of shape [...], or distributions of shape [..., K]; the
        other arguments are as in `fenchel_young_loss`.
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
