"""Softmax, its logarithm, softmin, and the limit of both at temperature 0."""

from __future__ import annotations

from collections.abc import Hashable

from jaxtyping import Array, ArrayLike, Float

from jsoftmax.core._problem import problem
from jsoftmax.mappings._implementation import by_rows


@by_rows
def softmax(
    logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    r"""Compute probabilities proportional to the exponentials of scores.

    .. math:: p_i = e^{z_i/T} / \sum_j e^{z_j/T}

    With inverse temperature β write `temperature=1/β`; with a base b, :math:`p_i ∝ b^{z_i}`, write
    `temperature=1/math.log(b)`. That is negative for 0 < b < 1, and a negative temperature favours
    the *smallest* score. `jax.nn.softmax` takes a subset of these arguments. Unlike it, this
    function returns zeros for a fully masked row and the limit for infinite scores, and rounds only
    once from a narrow dtype.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype. Scores of −∞ get probability 0,
            those of +∞ share all the mass (at T > 0).
        axis: the class axis, a tuple of axes that together hold the classes, or None for all.
        where: boolean mask that broadcasts to `logits`. Classes where it is False get probability
            exactly 0 and gradient exactly 0, whatever their score.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, 1 if None, which
            makes p ∝ q exp(z/T); 0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T = 0 means
            the limit from above, arg max with ties shared; T = ±∞ gives equal probabilities. T < 0
            favours the lowest scores: −∞ takes the mass, +∞ gets none; exclude classes by `where`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.
        implementation: "xla", or "pallas" for one kernel, which raises NotImplementedError for an
            argument that it does not take. None is "pallas" on hardware where
            `python -m jsoftmax.kernels` found it right and faster, else "xla".

    Returns:
        p of the shape and dtype of `logits` (the default float dtype for integers).

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, or there are no classes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(softmax(jnp.array([1.0, 2.0, 8.0])))
        [9.0880e-04 2.4704e-03 9.9662e-01]
        >>> print(softmax(jnp.array([0.0, 10.0]), temperature=100.0))
        [0.4750208 0.5249792]

    Reference:
        J. S. Bridle, "Probabilistic interpretation of feedforward classification network outputs,
        with relationships to statistical pattern recognition", 1990.
    """
    ask = problem(
        "softmax", logits, axis, where, prior=prior, temperature=temperature, axis_name=axis_name
    )
    return ask.probabilities().astype(ask.dtype)


@by_rows
def log_softmax(
    logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    r"""Compute the logarithm of `softmax`, accurate also where the probability underflows.

    .. math:: \log p_i = z_i/T - \log\sum_j e^{z_j/T}

    Args:
        logits: scores z of shape [..., K, ...].
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`; −∞ is returned where it is False.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, 1 if None, which
            makes p ∝ q exp(z/T); 0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0
            favours the lowest scores: −∞ takes the mass, +∞ gets none; exclude classes by `where`.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.
        implementation: "xla", or "pallas" for one kernel, which raises NotImplementedError for an
            argument that it does not take. None is "pallas" on hardware where
            `python -m jsoftmax.kernels` found it right and faster, else "xla".

    Returns:
        log p of the shape and dtype of `logits`, or float32 for formats that have no infinity.
        −∞ throughout for a fully masked row.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, or there are no classes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(log_softmax(jnp.array([0.0, 200.0])))
        [-200.    0.]
    """
    ask = problem(
        "log_softmax",
        logits,
        axis,
        where,
        prior=prior,
        temperature=temperature,
        axis_name=axis_name,
    )
    return ask.log_probabilities().astype(ask.log_dtype)


def softmin(
    logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Compute probabilities proportional to :math:`e^{-z_i/T}`.

    It is `softmax` of −z: scores of +∞ get probability 0, and −∞ is the minimum; exclude classes
    with `where`.

    Args:
        logits: scores z of shape [..., K, ...].
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`, 1 if None, which
            makes p ∝ q exp(−z/T); 0 masks a class. Differentiable.
        temperature: T, a number or an array with size 1 along `axis`, of either sign; T < 0 is
            `softmax` at −T.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        p of the shape and dtype of `logits`.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, or there are no classes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(softmin(jnp.array([0.0, 10.0]), temperature=100.0))
        [0.5249792 0.4750208]
    """
    ask = problem(
        "softmin",
        logits,
        axis,
        where,
        prior=prior,
        temperature=temperature,
        axis_name=axis_name,
        minimum=True,
    )
    return ask.probabilities().astype(ask.dtype)


def hardmax(
    logits: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    prior: ArrayLike | None = None,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    """Return the one-hot arg max with ties shared, the limit of these mappings at temperature 0.

    Its gradient is zero. For a single winner use `jnp.argmax`.

    Args:
        logits: scores z of shape [..., K, ...].
        axis: the class axis or axes; None for all.
        where: boolean mask that broadcasts to `logits`.
        prior: a reference measure q ≥ 0 that broadcasts to `logits`; ties share in proportion to
            it, and 0 masks a class.
        axis_name: name of the mesh or `vmap` axis that splits the class axis.

    Returns:
        p of the shape and dtype of `logits`: 1/m at the m largest entries, 0 elsewhere.

    Raises:
        TypeError: if `logits` are not real numbers or `where` is not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, or there are no classes.

    Example:
        >>> import jax.numpy as jnp
        >>> print(hardmax(jnp.array([1.0, 5.0, 5.0])))
        [0.  0.5 0.5]
    """
    ask = problem("hardmax", logits, axis, where, prior=prior, axis_name=axis_name)
    return ask.hard().astype(ask.dtype)
