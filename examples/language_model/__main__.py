"""The command line: read, check, start devices, then train or generate."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import re
import sys

from examples.language_model import checkpoints, devices
from examples.language_model.config import Config, Mistake, option
from examples.language_model.run import run, write

HELP = {
    "classes": "size of the vocabulary",
    "length": "tokens of a window",
    "features": "width of the model",
    "layers": "blocks",
    "heads": "query heads",
    "key_heads": "heads of keys and values; they divide the query heads",
    "hidden": "width of the MLP",
    "alpha": "α of attention: 1 softmax, 1.5 entmax, 2 sparsemax",
    "dtype": "of activations",
    "peer": "attention of jax.nn and loss of optax in place of jsoftmax's",
    "remat": "recompute blocks in the backward pass, to save memory",
    "batch": "windows per gradient",
    "accumulate": "gradients per step",
    "steps": "steps of the schedule",
    "warmup": "steps of linear warmup",
    "rate": "highest learning rate",
    "clip": "largest global norm of a gradient",
    "decay": "weight decay of matrices",
    "z_loss": "λ of the penalty λ (log Σ exp z)²",
    "seed": "seed of parameters, data and draws",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser, with options in groups."""
    made = argparse.ArgumentParser(
        prog="python -m examples.language_model",
        usage="%(prog)s [options]",
        description="Train a small GPT with jsoftmax, or generate from a checkpoint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    settings = made.add_argument_group("model, data and optimizer")
    for field in dataclasses.fields(Config):
        flag, text = f"--{option(field.name)}", HELP[field.name]
        if isinstance(field.default, bool):
            settings.add_argument(flag, action="store_true", help=text)
        elif field.name == "dtype":
            dtypes = ("bfloat16", "float32")
            settings.add_argument(flag, choices=dtypes, default=field.default, help=text)
        else:
            kind = type(field.default)
            settings.add_argument(flag, type=kind, default=field.default, help=text)
    of_run = made.add_argument_group("the run")
    of_run.add_argument("--text", type=pathlib.Path, help="training text; default: Python's help")
    of_run.add_argument("--mesh", type=mesh, default="1x1", help="devices: data x model, as 2x4")
    of_run.add_argument("--report", type=int, default=10, help="steps per line of the table")
    of_run.add_argument("--metrics", type=pathlib.Path, help="a file for the lines, as JSON")
    of_run.add_argument("--checkpoints", type=pathlib.Path, help="a folder for checkpoints")
    of_run.add_argument("--every", type=int, default=50, help="steps between two checkpoints")
    of_run.add_argument("--resume", action="store_true", help="resume from the last checkpoint")
    draws = made.add_argument_group("generation, from the last checkpoint")
    draws.add_argument("--generate", metavar="PROMPT", help="continue this text; no training")
    draws.add_argument("--tokens", type=int, default=100, help="tokens to add")
    draws.add_argument("--draws", type=int, default=1, help="continuations")
    draws.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token")
    several = made.add_argument_group("several processes")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    several.add_argument("--processes", type=int, default=1, help="how many")
    several.add_argument("--process", type=int, default=0, help="the index of this process")
    several.add_argument(
        "--timeout", type=int, default=100, help="seconds until a silent process is dead"
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; an invalid setting ends with exit status 2 and one line."""
    reader = parser()
    given = reader.parse_args(arguments)
    try:
        check(given)
        if given.generate is not None:
            config = Config(**checkpoints.last_run(given.checkpoints)["config"])
        else:
            config = Config(**{f.name: getattr(given, f.name) for f in dataclasses.fields(Config)})
        config.check_mesh(*given.mesh)
        devices.start(
            given.mesh[0] * given.mesh[1], coordinator=given.coordinator, timeout=given.timeout,
            processes=given.processes, process=given.process,
        )  # fmt: skip
        if given.generate is not None:
            write(
                config, given.checkpoints, given.generate, mesh=given.mesh, count=given.tokens,
                draws=given.draws, temperature=given.temperature, seed=given.seed,
            )  # fmt: skip
        else:
            run(
                config, mesh=given.mesh, text=given.text, report=given.report,
                metrics=given.metrics, folder=given.checkpoints, every=given.every,
                resume=given.resume,
            )  # fmt: skip
    except Mistake as mistake:
        reader.error(str(mistake))
    return 0


def check(given: argparse.Namespace) -> None:
    """Raise if options contradict one another or the file system."""
    if given.text is not None and not given.text.is_file():
        raise Mistake(f"--text {given.text} is not a file.")
    for name in ("report", "every", "tokens", "draws", "processes", "timeout"):
        if getattr(given, name) < 1:
            raise Mistake(f"--{name} {getattr(given, name)} is below 1.")
    if not given.temperature >= 0:
        raise Mistake(f"--temperature {given.temperature} is below 0.")
    if not 0 <= given.process < given.processes:
        raise Mistake(f"--process {given.process} is out of range [0, {given.processes}).")
    if given.processes > 1 and given.coordinator is None:
        raise Mistake("--processes needs a --coordinator HOST:PORT.")
    last = given.checkpoints and checkpoints.last_run(given.checkpoints)
    if given.resume or given.generate is not None:
        asked = "--resume" if given.resume else "--generate"
        if given.checkpoints is None:
            raise Mistake(f"{asked} needs --checkpoints FOLDER.")
        if last is None:
            raise Mistake(f"{asked}: no checkpoint in {given.checkpoints}.")
        if given.generate is not None and given.draws % given.mesh[0]:
            raise Mistake(
                f"--draws {given.draws} is not a multiple of the {given.mesh[0]} parts of the "
                "data axis."
            )
    elif last is not None:
        raise Mistake(
            f"--checkpoints {given.checkpoints} already has checkpoints. Give --resume to continue "
            f"from step {last['step']}, or name another folder."
        )


def mesh(text: str) -> tuple[int, int]:
    """Return the two sizes of `2x4`."""
    found = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers, data x model, such as 2x4")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    sys.exit(main())
