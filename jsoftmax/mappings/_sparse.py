"""Sparse distributions as the values and indices of the few classes with mass."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import min_dim
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jsoftmax.core import _checks as checks
from jsoftmax.core._axis import ClassAxis
from jsoftmax.core._cooled import cooled
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._problem import problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._scores import difference
from jsoftmax.core._simplex import probabilities
from jsoftmax.core.regularizers import chosen

_LAST = ClassAxis((-1,))


class SparseEntmax(NamedTuple):
    """The result of `entmax_sparse`: the classes that may have mass, largest first.

    Args:
        values: their probabilities, of shape [..., size].
        indices: their class numbers, of shape [..., size]; meaningless where the value is 0.
        tau: the threshold τ in p = [1 + (α−1)((z − max z)/T − τ)]₊^(1/(α−1)), which is
            `regularizer.link((z − max z)/T − τ)`, of shape [...]. It is measured from the largest
            score, where it is exact.
        certificate: whether the listed classes hold all the mass, of shape [...]. Where it is
            False, more than `size` classes have mass, and the values solve the problem restricted
            to the listed classes.

    Example:
        >>> import jax.numpy as jnp
        >>> p = entmax_sparse(jnp.array([0.1, 1.2, 0.9, -3.0]), size=1, alpha=2.0)
        >>> print(p.values, p.certificate)
        [1.] False
    """

    values: Float[Array, "..."]
    indices: Int[Array, "..."]
    tau: Float[Array, "..."]
    certificate: Bool[Array, "..."]


@on_explicit_axes(like="logits", axis="axis")
def entmax_sparse(
    logits: ArrayLike,
    size: int,
    axis: int = -1,
    *,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
) -> SparseEntmax:
    r"""Compute `entmax` as values and indices of at most `size` classes, with a certificate.

    The threshold is computed from the `size` largest scores alone. If the next score lies below it,
    no other class has mass and the answer is exact; the certificate states this for every row.
    Gradients flow through the listed classes only.

    Args:
        logits: scores z of shape [..., K, ...], any real dtype.
        size: how many classes to keep, at least 1; static.
        alpha: α > 0, a number or an array with size 1 along `axis`; 1.5 if None. For α ≤ 1
            every class has mass, and the certificate is True only if `size` reaches the number of
            classes.
        axis: the class axis.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`. Its map is sparse if its
            `marginal` is finite at 0.
        where: boolean mask that broadcasts to `logits`.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0
            favours the lowest scores: −∞ takes the mass, +∞ gets none; exclude classes by `where`.

    Returns:
        A `SparseEntmax`. Its class axis is the last and has min(size, K) entries; values of the
        dtype of `logits`, τ in float32 at least.

    Raises:
        TypeError: if `logits` are not real numbers, `where` is not boolean or `size` not an int.
        ValueError: if shapes do not fit, `axis` is out of range, there are no classes, or `size`
            or `alpha` is a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> p = entmax_sparse(jnp.array([0.1, 1.2, 0.9, -3.0]), size=2, alpha=2.0)
        >>> print(p.values, p.indices, p.certificate)
        [0.65000 0.35 ] [1 2] True
    """
    ask = problem(
        "entmax_sparse",
        logits,
        axis,
        where,
        regularizer=chosen("entmax_sparse", alpha, regularizer),
        temperature=temperature,
    )
    if len(ask.classes.axis) != 1:
        raise ValueError("jsoftmax.entmax_sparse: `axis` must be a single axis.")
    size = checks.whole_number("entmax_sparse", "size", size)
    class_axis = ask.classes.axis[0]
    z = jnp.moveaxis(cooled(ask.z, ask.temperature, ask.classes), class_axis, -1)
    family = ask.regularizer.by_rows(lambda _, x: jnp.moveaxis(x, class_axis, -1))
    # One more than is kept, to check whether it has mass too. A NaN counts as the largest.
    kept = min_dim(size, z.shape[-1])
    scores, indices = jax.lax.top_k(z, min_dim(kept + 1, z.shape[-1]))
    listed, following = scores[..., :kept], scores[..., kept:]
    p = probabilities(listed, None, family, _LAST)
    # z − τ = ω′(p): at the largest score that is known, and below ω′(0) there is no mass.
    tau = -family.marginal(p[..., :1])
    empty = family.marginal(jnp.zeros_like(tau))
    certificate = ~jnp.any(difference(following, listed[..., :1]) - tau > empty, axis=-1)
    return SparseEntmax(p.astype(ask.dtype), indices[..., :kept], jnp.squeeze(tau, -1), certificate)
