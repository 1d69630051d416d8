"""Entmax output layer of a classifier, and its loss."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._initializers import lecun_columns
from jsoftmax.losses import fenchel_young_loss
from jsoftmax.mappings import regularized_argmax
from jsoftmax.mappings._constraints import constant_regularizer


class EntmaxReadout(nn.Module):
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

    Raises:
        TypeError: if `alpha` is not a number.
        ValueError: if `alpha` is not positive, or given beside a `regularizer`.

    Example:
        >>> import jax.numpy as jnp
        >>> readout = EntmaxReadout(2, 3, alpha=2.0, use_bias=False)
        >>> kernel = jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        >>> variables = {"params": {"linear": {"kernel": kernel}}}
        >>> features = jnp.array([[2.0, 1.5], [0.0, 3.0]])
        >>> print(readout.apply(variables, features))
        [[0.75 0.25 0.  ]
         [0.   1.   0.  ]]
        >>> print(readout.apply(variables, features, jnp.array([0, 1]), method="loss"))
        [0.0625 0.    ]
    """

    features: int
    classes: int
    _: dataclasses.KW_ONLY
    alpha: Any = None
    regularizer: Any = None
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    kernel_init: Any = lecun_columns
    bias_init: Any = nn.initializers.zeros_init()

    def __post_init__(self):
        held = constant_regularizer("linen.EntmaxReadout", self.alpha, self.regularizer)
        # Cleared, so that a copy is built from the regularizer alone.
        object.__setattr__(self, "alpha", None)
        object.__setattr__(self, "regularizer", held)
        super().__post_init__()

    def setup(self):
        """Create the class table."""
        self.linear = nn.Dense(
            self.classes,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
        )

    def __call__(
        self, features: ArrayLike, *, where: ArrayLike | None = None
    ) -> Float[Array, "... classes"]:
        """Map features [..., d] to probabilities [..., K]; 0 where the mask is False."""
        return regularized_argmax(self.logits(features), self.regularizer.value, where=where)

    def logits(self, features: ArrayLike) -> Float[Array, "... classes"]:
        """Map features [..., d] to logits [..., K]."""
        features = jnp.asarray(features)
        if features.shape[-1:] != (self.features,):
            raise ValueError(
                f"jsoftmax.linen.EntmaxReadout: `features` have shape {features.shape}; their last "
                f"axis must have the size {self.features}, the `features` of the module."
            )
        return self.linear(features)

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
            self.regularizer.value,
            where=where,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
        )
