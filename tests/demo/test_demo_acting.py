"""The section on acting: its output and files, and the correctness of its numbers."""

import numpy as np
import pytest
from matplotlib.image import imread

from jsoftmax.demo import _bandit, main
from jsoftmax.demo._gridworld import World, expected_return, soft_value_iteration

WORLD = World.read()


@pytest.mark.slow
def test_the_section_prints_a_table_and_saves_two_pictures(tmp_path, capsys, monkeypatch):
    """One row for each way of acting, and it says where the pictures are."""
    monkeypatch.setattr(_bandit, "RUNS", 20)
    assert main(["--section", "acting", "--epochs", "2", "--output", str(tmp_path / "new")]) == 0
    text = capsys.readouterr().out
    assert "50 pulls" in text
    for name in _bandit.EXPLORERS:
        (row,) = [x for x in text.splitlines() if x.startswith(f" {name}  ") and "epochs" not in x]
        heat, regret, _, error, *_, support = row.removeprefix(f" {name}").split()
        assert float(heat) in np.round(_bandit.HEATS, 2)
        assert 0 < float(error) < float(regret)
        assert 1 <= float(support) <= 2.37
    for name in ("acting-bandit.png", "acting-gridworld.png"):
        assert str(tmp_path / "new" / name) in text
        assert imread(tmp_path / "new" / name).std() > 0.05  # something is drawn


@pytest.mark.slow
def test_an_explorer_without_preference_loses_what_chance_loses(monkeypatch):
    """An ε of 1 pulls at random: regret pulls × (max − mean) on average over the arms.

    Within 5 standard errors. Every pull is counted, and the course ends at the total.
    """
    monkeypatch.setattr(_bandit, "RUNS", 50)
    seen = _bandit.explore("ε-greedy", 2, 0, lambda: None)
    arms = np.asarray(_bandit.arms(0))
    assert seen.course.shape == (len(_bandit.HEATS), 50)
    np.testing.assert_allclose(seen.course[:, -1], seen.mean, rtol=1e-6)
    gap = (arms.max(-1) - arms.mean(-1)).mean()
    noise = np.sqrt((arms.var(-1).mean()) * 50 / 50)
    assert abs(seen.mean[-1] - 50 * gap) < 5 * noise
    assert seen.mean[seen.best] < 0.7 * seen.mean[-1]


def test_the_world_is_a_markov_decision_process():
    """Moves are distributions where they are allowed or final; nothing leads into a wall."""
    total = WORLD.move.sum(-1)
    np.testing.assert_allclose(total[WORLD.open], 1)
    assert (total[~WORLD.open] == 0).all() and not WORLD.allowed[~WORLD.open].any()
    walls = np.array([cell == "#" for cell in WORLD.cells])
    assert (WORLD.move[..., walls] == 0).all()
    assert (WORLD.open == np.array([cell in ".S" for cell in WORLD.cells])).all()


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 0.0), (2.0, 0.05)])
def test_soft_value_iteration_finds_the_fixed_point(alpha, temperature):
    """At T = 0 it is the optimum: values are the returns of the policy, and no move earns more."""
    solution = soft_value_iteration(WORLD, alpha, temperature)
    q = WORLD.reward + 0.95 * WORLD.move @ solution.values
    p, support = solution.policy, solution.policy > 0
    np.testing.assert_allclose(p.sum(-1)[WORLD.open], 1, rtol=1e-6)
    assert not (support & ~WORLD.allowed).any()
    entropy = (1 - (p**2).sum(-1)) / 2 if temperature else 0  # of Tsallis, at α = 2
    earned = (p * q).sum(-1) + temperature * entropy
    np.testing.assert_allclose(earned[WORLD.open], solution.values[WORLD.open], atol=1e-5)
    if temperature == 0:
        best = np.where(WORLD.allowed, q, -np.inf).max(-1)[WORLD.open]
        np.testing.assert_allclose(solution.values[WORLD.open], best, atol=1e-5)
        start = solution.values[WORLD.cells.index("S")]
        np.testing.assert_allclose(expected_return(WORLD, p), start, atol=1e-5)
    assert solution.sweeps < 100
