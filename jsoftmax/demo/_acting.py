"""Explore bandits at every temperature, and solve a gridworld by soft value iteration."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jsoftmax.demo import _acting_pictures as pictures
from jsoftmax.demo._bandit import ARMS, HEATS, PULLS_PER_EPOCH, RUNS, Exploration, explore
from jsoftmax.demo._gridworld import Solution, World, expected_return, soft_value_iteration
from jsoftmax.demo._sections import Options
from jsoftmax.policies import epsilon_mixture

TEMPERATURE, EPSILON = 0.05, 0.1  # in the gridworld

# explorer → its α and temperature in the gridworld; ε-greedy is solved as greedy, then mixed.
PLANS = {
    "softmax": (1.0, TEMPERATURE),
    "entmax-1.5": (1.5, TEMPERATURE),
    "sparsemax": (2.0, TEMPERATURE),
    "ε-greedy": (1.0, 0.0),
}


def run(options: Options, console: Console) -> None:
    """Explore the bandits, solve the gridworld, print the table, save the pictures."""
    console.print(
        f"Bandits with {ARMS} arms, {RUNS} of them, {options.epochs * PULLS_PER_EPOCH} pulls each; "
        "then a gridworld.\n"
    )
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TextColumn("epochs"), TimeElapsedColumn(), console=console) as progress:
        tasks = {name: progress.add_task(f"{name:14}", total=options.epochs) for name in PLANS}
        explorations = {
            name: explore(
                name, options.epochs, options.seed, lambda task=tasks[name]: progress.advance(task)
            )
            for name in PLANS
        }
    world = World.read()
    solutions = {name: solve(world, name) for name in PLANS}
    console.print(table(explorations, world, solutions))
    console.print(notes(), highlight=False)
    saved = pictures.save_acting(options.output, explorations, world, solutions)
    console.print("\nSaved " + " and ".join(str(path) for path in saved), soft_wrap=True)


def solve(world: World, name: str) -> Solution:
    """Solve the gridworld with the α and temperature of one explorer."""
    alpha, temperature = PLANS[name]
    solution = soft_value_iteration(world, alpha, temperature)
    if temperature > 0:
        return solution
    mixed = np.asarray(epsilon_mixture(solution.policy, EPSILON, where=world.allowed))
    return solution._replace(policy=mixed)


def table(
    explorations: dict[str, Exploration], world: World, solutions: dict[str, Solution]
) -> Table:
    """Tabulate a row per explorer: the bandits at its best heat, then the gridworld."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    result.add_column("acts by", no_wrap=True)
    for heading in (
        "best\nT or ε",
        "regret",
        "at half\nof it",
        "at\ntwice",
        "arms in\nplay",
        "grid:\nreturn",
        "mean\nsupport",
    ):
        result.add_column(heading, justify="right", no_wrap=True)
    for name, seen in explorations.items():
        solution, best = solutions[name], seen.best
        result.add_row(
            name,
            f"{HEATS[best]:.2f}",
            f"{seen.mean[best]:.0f} ± {seen.error[best]:.0f}",
            _of_neighbour(seen, best - 1),
            _of_neighbour(seen, best + 1),
            f"{seen.kept[best]:.1f}",
            f"{expected_return(world, solution.policy):.2f}",
            f"{solution.support[world.open].mean():.2f}",
        )
    return result


def _of_neighbour(seen: Exploration, number: int) -> str:
    """Format the regret at another heat; heats double from one to the next."""
    return f"{seen.mean[number]:.0f}" if 0 <= number < len(HEATS) else "–"


def notes() -> str:
    """Return the legend of the table."""
    return (
        "Regret is the loss against the best arm, its mean over all bandits ± standard error; arms "
        "in play are those pulled in the last epoch. In the gridworld T = "
        f"{TEMPERATURE:g} and ε = {EPSILON:g}; return counts rewards only, support the moves with "
        "p > 0."
    )
