"""A ten-armed bandit: the regret of every explorer, from too cold to too hot."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsoftmax.policies import sample_action

ARMS, RUNS, PULLS_PER_EPOCH = 10, 400, 25
HEATS = 0.02 * 2.0 ** np.arange(9)

# name → the arguments of the policy at heat x, which is a temperature or an ε.
EXPLORERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "softmax": lambda x: {"alpha": 1.0, "temperature": x},
    "entmax-1.5": lambda x: {"alpha": 1.5, "temperature": x},
    "sparsemax": lambda x: {"alpha": 2.0, "temperature": x},
    "ε-greedy": lambda x: {"temperature": 0.0, "epsilon": jnp.minimum(x, 1.0)},
}


class Exploration(NamedTuple):
    """Regret of one explorer: Σ (best mean − mean of the pulled arm), at every heat.

    `course` is the mean over all runs after each pull, [heats, pulls]; `total` the final regret of
    each run, [heats, runs]; `kept` the number of different arms in the last epoch, [heats].
    """

    course: np.ndarray
    total: np.ndarray
    kept: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean regret at the end, [heats]."""
        return self.total.mean(-1)

    @property
    def error(self) -> np.ndarray:
        """The standard error of that mean."""
        return self.total.std(-1, ddof=1) / np.sqrt(self.total.shape[-1])

    @property
    def best(self) -> int:
        """The index of the heat with the least regret."""
        return int(self.mean.argmin())


class _Memory(NamedTuple):
    """The observations of each arm in a run."""

    rewards: Float[Array, "runs arms"]
    pulls: Float[Array, "runs arms"]

    def means(self) -> Float[Array, "runs arms"]:
        """Return posterior means: the prior of an arm is worth one pull with reward 0."""
        return self.rewards / (self.pulls + 1)


def explore(name: str, epochs: int, seed: int, on_epoch: Callable[[], None]) -> Exploration:
    """Run one explorer on many bandits, at all heats at once.

    All explorers and heats have the same arms, and noise from the same keys.
    """
    means = arms(seed)

    def pull(heat, memory, now):
        key, noise = now
        chosen = sample_action(key, memory.means(), **EXPLORERS[name](heat))
        hit = jax.nn.one_hot(chosen, ARMS)
        mean = (means * hit).sum(-1)
        rewards = memory.rewards + hit * (mean + noise)[:, None]
        return _Memory(rewards, memory.pulls + hit), means.max(-1) - mean

    @jax.jit
    def epoch(memory, randomness):
        def of_heat(heat, memory):
            step = functools.partial(pull, heat)
            later, regret = jax.lax.scan(step, memory, randomness)
            pulled = ((later.pulls - memory.pulls) > 0).sum(-1)
            return later, regret.mean(-1), regret.sum(0), pulled.mean()

        return jax.vmap(of_heat)(jnp.asarray(HEATS, jnp.float32), memory)

    nothing = jnp.zeros((len(HEATS), RUNS, ARMS))
    memory, course, total = _Memory(nothing, nothing), [], np.zeros((len(HEATS), RUNS))
    kept = np.zeros(len(HEATS))
    for count in range(epochs):
        randomness = _randomness(jax.random.fold_in(jax.random.key(seed), count + 1), RUNS)
        memory, now, added, kept = jax.device_get(epoch(memory, randomness))
        course.append(now)
        total = total + added
        on_epoch()
    return Exploration(np.concatenate(course, -1).cumsum(-1), total, np.asarray(kept))


def arms(seed: int) -> Float[Array, "runs arms"]:
    """Draw the true means of the arms; rewards have variance 1 about them."""
    return jax.random.normal(jax.random.fold_in(jax.random.key(seed), 0), (RUNS, ARMS))


@functools.partial(jax.jit, static_argnums=1)
def _randomness(key: Array, runs: int) -> tuple[Array, Float[Array, "pulls runs"]]:
    """Return a key to draw arms, and the noise of the rewards, for each pull of an epoch.

    It is called outside the loop, since compiling it again for each explorer would take most of
    the time.
    """
    keys, noise_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (PULLS_PER_EPOCH, runs))
    return jax.random.split(keys, PULLS_PER_EPOCH), noise
