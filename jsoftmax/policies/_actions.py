"""Draw actions from a policy, and compute their log-probabilities."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jsoftmax.core import _checks as checks
from jsoftmax.core._explicit_axes import on_explicit_axes
from jsoftmax.core._keys import one_key
from jsoftmax.core._labels import is_class, log_prob_at
from jsoftmax.core._problem import Problem, problem
from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core.regularizers import chosen
from jsoftmax.losses._log_loss import mass_of_the_rest, refined_log
from jsoftmax.policies._epsilon import mixed, read_epsilon
from jsoftmax.sampling import sample_from
from jsoftmax.sampling._categorical import drawn_from


@on_explicit_axes(like="preferences", axis="axis")
def sample_action(
    key: ArrayLike,
    preferences: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    epsilon: ArrayLike = 0.0,
    axis_name: Hashable | None = None,
) -> Int[Array, "..."]:
    r"""Draw an action from the policy that preferences, α, temperature and ε define.

    .. math:: a ∼ (1 - ε)\, \mathrm{entmax}_α(z/T) + ε\, u

    With the default α = 1 the policy is `softmax`; with `temperature=0` it is greedy and breaks
    ties at random. An action of probability zero is never drawn. `log_prob` with the same arguments
    scores the drawn action.

    Args:
        key: a `jax.random` key. One serves a whole batch.
        preferences: action values or logits z of shape [..., K, ...], any real dtype.
        axis: the action axis, or axes with their actions numbered row-major.
        alpha: α > 0, a number or an array with size 1 along `axis`: the order of `entmax`; 1 if
            None.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        where: boolean mask that broadcasts to `preferences`: only these actions are allowed, in
            the share ε too. Those with a preference of −∞ (T < 0: of +∞) are not.
        prior: a reference policy q ≥ 0 that broadcasts to `preferences`, 1 if None, which
            makes Ω(π) = Σ q ω(π/q); it need not sum to 1. Actions of prior 0 are not allowed.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0
            prefers the lowest scores: −∞ is the minimum, +∞ gets 0; exclude actions by `where`.
        epsilon: ε from 0 to 1, a number or an array with size 1 along `axis`.
        axis_name: name of the mesh or `vmap` axis that splits the actions. Give all parts the same
            key; they draw the same action.

    Returns:
        One number a row, from 0 to K − 1, in the default integer dtype; −1 in a row without any
        allowed action, or with NaN.

    Raises:
        TypeError: if `key` is not a key, `preferences` are not real numbers or `where` is not
            boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no actions, or `alpha`
            or `epsilon` is a number out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> q = jnp.array([[1.0, 5.0, 2.0], [0.3, 0.2, 0.1]])
        >>> print(sample_action(jax.random.key(0), q, temperature=0.0))
        [1 0]
        >>> only = jnp.array([False, False, True])
        >>> print(sample_action(jax.random.key(0), q, epsilon=0.5, where=only))
        [2 2]
        >>> print(sample_action(jax.random.key(0), q, prior=jnp.array([0.0, 1.0, 0.0])))
        [1 1]
    """
    key = one_key("sample_action", key)
    ask = _policy(
        "sample_action", preferences, axis, where, chosen("sample_action", alpha, regularizer, 1.0),
        prior, temperature, axis_name,
    )  # fmt: skip
    share = read_epsilon("sample_action", epsilon, ask)
    if share is None and ask.regularizer.is_exponential:
        return drawn_from(key, ask, ask.rows)
    p = ask.probabilities()
    if share is not None:
        p = mixed(p, share, _allowed(ask), ask.classes)
    return sample_from(key, jax.lax.stop_gradient(p), axis, axis_name=axis_name)


def log_prob(
    preferences: ArrayLike,
    actions: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    alpha: ArrayLike | None = None,
    regularizer: Regularizer | None = None,
    where: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    epsilon: ArrayLike = 0.0,
    axis_name: Hashable | None = None,
) -> Float[Array, "..."]:
    r"""Return the log-probability of actions under the policy of `sample_action`.

    .. math:: \log π(a), \qquad π = (1 - ε)\, \mathrm{entmax}_α(z/T) + ε\, u

    It is accurate to a few eps also where π(a) underflows (with ε = 0) or is almost 1, and its
    gradient is finite everywhere: 0 for an action of probability 0. A policy gradient is the
    gradient of its product with an advantage.

    Args:
        preferences: action values or logits z of shape [..., K, ...], any real dtype.
        actions: integers of the shape of `preferences` without the action axis (numbered row-major
            if `axis` is a tuple).
        axis: the action axis or axes.
        alpha: α > 0, a number or an array with size 1 along `axis`: the order of `entmax`; 1 if
            None.
        regularizer: a `Regularizer` in place of `Tsallis(alpha)`.
        where: boolean mask that broadcasts to `preferences`: only these actions are allowed, in
            the share ε too. Those with a preference of −∞ (T < 0: of +∞) are not.
        prior: a reference policy q ≥ 0 that broadcasts to `preferences`, 1 if None, which
            makes Ω(π) = Σ q ω(π/q); it need not sum to 1. Actions of prior 0 are not allowed.
        temperature: T, a number or an array with size 1 along `axis`, of either sign. T < 0
            prefers the lowest scores: −∞ is the minimum, +∞ gets 0; exclude actions by `where`.
        epsilon: ε from 0 to 1, a number or an array with size 1 along `axis`.
        axis_name: name of the mesh or `vmap` axis that splits the actions.

    Returns:
        One number a row, in float32 at least: −∞ for an action of probability zero, NaN for a
        number out of range in a `jax.Array`; its values are not checked.

    Raises:
        TypeError: if `preferences` are not real numbers, `actions` are not integers or `where` is
            not boolean.
        ValueError: if shapes do not fit, `axis` is out of range, there are no actions, or an
            action, `alpha` or `epsilon` given by Python or numpy is out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> z = jnp.array([1.0, 2.0, 8.0])
        >>> print(log_prob(z, 0), log_prob(z, 0, alpha=2.0), log_prob(z, 0, epsilon=0.1))
        -7.003 -inf -3.376

        With a penalty on the KL from another policy π₀ the best policy is π ∝ π₀ exp(z/T):

        >>> before = jnp.array([0.5, 0.25, 0.25])
        >>> after = before * jnp.exp(z)
        >>> print(log_prob(z, 1, prior=before), jnp.log(after / after.sum())[1])
        -6.0043 -6.0043

        One step of REINFORCE with an entropy bonus, by optax:

        >>> import optax
        >>> from jsoftmax import entropy, softmax
        >>> actions, advantages = jnp.array([0, 2]), jnp.array([1.5, -0.5])
        >>> def loss(z):
        ...     surrogate = -(advantages * log_prob(z, actions)).mean()
        ...     return surrogate - 0.01 * entropy(softmax(z)).mean()
        >>> optimizer = optax.sgd(0.1)
        >>> z = jnp.zeros((2, 3))
        >>> updates, _ = optimizer.update(jax.grad(loss)(z), optimizer.init(z))
        >>> print(optax.apply_updates(z, updates))
        [[ 0.05 -0.025 -0.025 ]
         [ 0.0083 0.0083 -0.0167]]

    Reference:
        R. J. Williams, "Simple statistical gradient-following algorithms for connectionist
        reinforcement learning", 1992.
    """
    ask = _policy(
        "log_prob", preferences, axis, where, chosen("log_prob", alpha, regularizer, 1.0), prior,
        temperature, axis_name,
    )  # fmt: skip
    share = read_epsilon("log_prob", epsilon, ask)
    action, valid = _read_actions("log_prob", actions, ask)
    if share is not None:
        p = mixed(ask.probabilities(), share, _allowed(ask), ask.classes)
        value = _log(ask.classes.at(p, action))
    elif ask.regularizer.is_exponential:
        value = log_prob_at(ask.log_weights(), action, ask.classes)
    else:
        log_p = ask.log_probabilities()
        p = jnp.exp(log_p)
        value = ask.classes.at(refined_log(log_p, p, mass_of_the_rest(p, ask.classes)), action)
    return ask.squeezed(jnp.where(valid, value, jnp.nan))


def _policy(
    function, preferences, axis, where, regularizer, prior, temperature, axis_name
) -> Problem:
    return problem(
        function, preferences, axis, where, regularizer=regularizer, prior=prior,
        temperature=temperature, axis_name=axis_name, called="preferences",
    )  # fmt: skip


def _allowed(ask: Problem) -> Array:
    """Return 1 for allowed actions. Masked ones, and those of prior 0, also have z = −∞."""
    return (ask.z != -jnp.inf).astype(ask.z.dtype)


def _log(p: Array) -> Array:
    """Return log p, −∞ with gradient 0 at p = 0."""
    return jnp.where(p == 0, -jnp.inf, jnp.log(jnp.where(p == 0, 1, p)))


def _read_actions(function: str, actions: Any, ask: Problem) -> tuple[Array, Array]:
    """Return the actions as int32 with a size-1 axis, 0 if out of range, and a mask of validity."""
    array = checks.as_array(function, "actions", actions)
    shape, count = ask.z.shape, ask.classes.size(ask.z)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"jsoftmax.{function}: `actions` has dtype {array.dtype}; give integers, one action "
            "number a row."
        )
    if array.shape != ask.rows:
        raise ValueError(
            f"jsoftmax.{function}: `actions` has shape {array.shape}, but `preferences` of shape "
            f"{shape} need one action a row, shape {ask.rows}."
        )
    known = checks.known_values(actions)
    if known is not None and ((known < 0) | (known >= count)).any():
        wrong = known[(known < 0) | (known >= count)].flat[0]
        raise ValueError(f"jsoftmax.{function}: {wrong} in `actions` is out of range [0, {count}).")
    array = jnp.expand_dims(array, ask.classes.axis)
    valid = is_class(array, count)
    return jnp.where(valid, array, 0).astype(jnp.int32), valid
