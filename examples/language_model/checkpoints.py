"""Checkpoints by orbax: written in the background, atomically, and read on any mesh."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from examples.language_model.config import Config, Mistake

KEPT = 2
FREE = ("remat",)  # settings that may differ from those of the checkpoint


class Checkpoints:
    """The checkpoints of one folder; the last two are kept.

    A checkpoint has two items: `state`, arrays by the names of their paths, in parts as on the
    mesh; and `run`, JSON: the settings, the position in the data, the vocabulary. A folder gets its
    step number as its name only once it is complete, so a killed process leaves the previous one.

    Args:
        folder: the folder of the checkpoints.
        every: steps between two checkpoints.
    """

    def __init__(self, folder: pathlib.Path, every: int = 1):
        self.folder = folder
        policies = ocp.checkpoint_managers
        self.manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(every),
                preservation_policy=policies.LatestN(KEPT),
            ),
        )

    def save(self, step: int, state: nnx.State, run: dict[str, Any], *, last: bool) -> None:
        """Save if a checkpoint is due: copy the arrays now, and write them during training."""
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(flat(state)), run=ocp.args.JsonSave(run)
            ),
            force=last and self.manager.latest_step() != step,
        )

    def read(self, abstract: nnx.State) -> nnx.State:
        """Return the last state, sharded like `abstract`, however it was sharded when saved."""
        restored = self.manager.restore(
            self.manager.latest_step(),
            args=ocp.args.Composite(state=ocp.args.StandardRestore(flat(abstract))),
        )
        # In the order of `abstract`, by name.
        leaves = [restored["state"][name] for name in flat(abstract)]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves)

    def close(self) -> None:
        """Wait until all checkpoints are written."""
        self.manager.close()


def flat(state: nnx.State) -> dict[str, Any]:
    """Return a state as one dictionary, with names such as `0/blocks/3/up/kernel`."""
    paths, _ = jax.tree.flatten_with_path(nnx.to_pure_dict(state))
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in paths}


def last_run(folder: pathlib.Path) -> dict[str, Any] | None:
    """Return the `run` item of the last checkpoint, or None without a checkpoint.

    It is read without orbax, since settings are checked before JAX initialises devices.
    """
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if not steps:
        return None
    return json.loads((folder / str(max(steps)) / "run" / "metadata").read_text())


def check_same(config: Config, text: int, run: dict[str, Any]) -> None:
    """Raise if a run cannot resume, since the checkpoint has other settings or another text."""
    free = {name: run["config"].get(name) for name in FREE}
    found = dataclasses.replace(config, **free).differences(run["config"])
    if found:
        raise Mistake(f"--resume: other settings than the checkpoint's: {', '.join(found)}.")
    if run["step"] >= config.steps:
        raise Mistake(f"--resume: all --steps {config.steps} are done.")
    if text != run["text"]:
        raise Mistake("--resume: the checkpoint was trained on another --text.")
