"""A small gridworld, solved by value iteration with a smooth maximum in place of the maximum."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jsoftmax.mappings import entmax, smoothmax

# S start, G goal (+1), X pit (−1), # wall. Both ends are final.
MAP = (
    "S..#....",
    ".#...##.",
    ".#.#..#.",
    "...#X...",
    ".#...#..",
    "...#...G",
)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # north, east, south, west
DISCOUNT, SLIP, STEP_REWARD = 0.95, 0.1, -0.01
PRECISION, MOST_SWEEPS = 1e-6, 2000


@dataclasses.dataclass(frozen=True)
class World:
    """A Markov decision process: `move[s, a, s']`, `reward[s, a]`, and which moves are allowed.

    States are the cells of the map, row by row. A move slips to either side with probability 0.1
    each. A move into a wall or off the map is not allowed, and a slip into one leaves the state
    unchanged.
    """

    move: np.ndarray
    reward: np.ndarray
    allowed: np.ndarray
    cells: str
    shape: tuple[int, int]

    @classmethod
    def read(cls, rows: tuple[str, ...] = MAP) -> World:
        """Read a world from a map."""
        shape, cells = (len(rows), len(rows[0])), "".join(rows)
        states, gain = len(cells), {"G": 1.0, "X": -1.0}
        move, reward = np.zeros((states, 4, states)), np.zeros((states, 4))
        allowed = np.zeros((states, 4), bool)

        def after(state: int, a: int) -> int | None:
            i, j = state // shape[1] + MOVES[a][0], state % shape[1] + MOVES[a][1]
            inside = 0 <= i < shape[0] and 0 <= j < shape[1]
            return i * shape[1] + j if inside and rows[i][j] != "#" else None

        for state, cell in enumerate(cells):
            if cell in "#GX":
                continue
            for a in range(4):
                allowed[state, a] = after(state, a) is not None
                for turn, share in ((0, 1 - 2 * SLIP), (1, SLIP), (3, SLIP)):
                    target = after(state, (a + turn) % 4)
                    target = state if target is None else target
                    move[state, a, target] += share
                    reward[state, a] += share * (STEP_REWARD + gain.get(cells[target], 0))
        return cls(move, reward, allowed, cells, shape)

    @property
    def open(self) -> np.ndarray:
        """The states with a choice of action: neither walls nor final."""
        return np.asarray(self.allowed.any(-1))


class Solution(NamedTuple):
    """Values of states, their policy, and the number of sweeps."""

    values: np.ndarray
    policy: np.ndarray
    sweeps: int

    @property
    def support(self) -> np.ndarray:
        """The number of actions with positive probability in each state."""
        return (self.policy > 0).sum(-1)


def soft_value_iteration(world: World, alpha: float, temperature: float) -> Solution:
    """Iterate V = smoothmax(r + γ P V) to a fixed point.

    The gradient of that smooth maximum is the policy, so V is the return of the policy plus T times
    its entropy in every step.
    """
    move, reward, allowed = map(jnp.asarray, (world.move, world.reward, world.allowed))

    def action_values(v: Float[Array, " states"]) -> Float[Array, "states actions"]:
        return reward + DISCOUNT * move @ v

    def sweep(state):
        v, _, count = state
        new = smoothmax(action_values(v), alpha, temperature=temperature, where=allowed)
        new = jnp.where(allowed.any(-1), new, 0)
        return new, jnp.abs(new - v).max(), count + 1

    @jax.jit
    def solve():
        v, _, count = jax.lax.while_loop(
            lambda state: (state[1] > PRECISION) & (state[2] < MOST_SWEEPS),
            sweep,
            (jnp.zeros(len(world.cells)), jnp.inf, 0),
        )
        return v, entmax(action_values(v), alpha, temperature=temperature, where=allowed), count

    v, policy, count = jax.device_get(solve())
    return Solution(v, policy, int(count))


def expected_return(world: World, policy: np.ndarray) -> float:
    """Return the expected return of a policy from the start, without entropy, by a linear solve."""
    move = np.einsum("sa,sat->st", policy, world.move)
    reward = (policy * world.reward).sum(-1)
    values = np.linalg.solve(np.eye(len(reward)) - DISCOUNT * move, reward)
    return float(values[world.cells.index("S")])
