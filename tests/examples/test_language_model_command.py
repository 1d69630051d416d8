"""The language model of examples/ as a command: help, errors, killed and resumed, generation."""

import json
import pathlib
import re
import signal
import time

import pytest

from examples.language_model import __main__ as command
from tests import processes

SMALL = (
    "--classes", "320", "--length", "16", "--features", "32", "--layers", "1", "--heads", "4",
    "--key-heads", "2", "--hidden", "48", "--batch", "4", "--warmup", "2", "--report", "1",
)  # fmt: skip


def losses(path: pathlib.Path) -> dict[int, float]:
    """Every step's loss, the last where one was run twice."""
    lines = map(json.loads, path.read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def test_help_names_every_option(capsys):
    """And is not wider than a screen by much."""
    with pytest.raises(SystemExit) as end:
        command.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for action in command.parser()._actions:
        assert action.help and action.option_strings[-1] in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--mesh 3x", "2x4"),
        ("--mesh 3x1", "--batch 16"),
        ("--mesh 1x3", "--classes 2048"),
        ("--heads 8 --key-heads 3", "--key-heads 3"),
        ("--features 100", "--features 100"),
        ("--alpha 0", "--alpha 0"),
        ("--text nowhere.txt", "nowhere.txt is not a file"),
        ("--resume", "--checkpoints"),
        ("--resume --checkpoints nowhere", "no checkpoint in nowhere"),
        ("--generate Once", "--checkpoints"),
        ("--processes 2", "--coordinator"),
        ("--processes 2 --process 2 --coordinator localhost:1", "--process 2"),
        ("--mesh 16x1", "16 devices; there are 8"),
        ("--report 0", "--report 0"),
        ("--temperature -1", "--temperature -1"),
    ],
)
def test_a_mistake_ends_with_one_line(given, message, capsys):
    """Before anything is trained, with exit status 2."""
    with pytest.raises(SystemExit) as end:
        command.main(given.split())
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_resumed_it_goes_on_to_the_same_losses(tmp_path):
    """Bit for bit, step for step; the folder holds a whole checkpoint whenever it is killed."""
    whole, parts, folder = tmp_path / "whole", tmp_path / "parts", tmp_path / "checkpoints"
    options = [*SMALL, "--steps", "40"]
    processes.run(*options, "--metrics", str(whole), "--checkpoints", str(tmp_path / "other"))

    saving = [*options, "--metrics", str(parts), "--checkpoints", str(folder), "--every", "5"]
    first = processes.start(*saving)
    deadline = time.monotonic() + 120
    while not (folder / "10").is_dir() and time.monotonic() < deadline:
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    processes.ended(first)
    assert max(losses(parts)) < 40, "it was killed in the middle"
    status, errors = processes.ended(processes.start(*saving))
    assert status == 2 and "--resume" in errors
    processes.run(*saving, "--resume")
    assert losses(parts) == losses(whole)
    assert {path.name for path in folder.iterdir()} >= {"35", "40"}

    for change, message in (
        (("--rate", "0.5"), "--rate 0.5 (checkpoint: 0.003)"), ((), "all --steps 40 are done"),
    ):  # fmt: skip
        status, errors = processes.ended(processes.start(*saving, "--resume", *change))
        assert status == 2 and message in errors
    written = processes.run("--checkpoints", str(folder), "--generate", "Once", "--tokens", "5")
    assert "Once" in written and "5 tokens" in written


@pytest.mark.slow
def test_eight_devices_run_fifty_steps_in_three_minutes():
    """`--mesh 2x4 --steps 50`, as it comes."""
    start = time.monotonic()
    text = processes.run("--mesh", "2x4", "--steps", "50", wholly=True)
    assert time.monotonic() - start < 180
    found = [float(row) for row in re.findall(r"│ +\d+ │ +([\d.]+) │", text)]
    assert len(found) == 5 and found[-1] < found[0] - 2
