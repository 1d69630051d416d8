"""Several processes equal one: training, draws and calibration, and recovery when one dies."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from examples.language_model.train import make_mesh
from tests import processes
from tests.distributed import worker
from tests.examples.test_language_model_command import SMALL, losses

EXACT = ("draws", "likeliest", "categorical", "generated")  # integers
TIMEOUT = 10  # seconds without a heartbeat


@pytest.fixture(scope="module")
def alone():
    """The answers of one process with one device."""
    with jax.enable_x64(False):
        return worker.answers(make_mesh(1, 1, devices=jax.devices()[:1]))


def agree(answers: dict, alone: dict) -> None:
    """Integers are the same; float32 sums in another order differ by 1e-6: 1e-5 is allowed."""
    assert answers.keys() == alone.keys()
    for name, mine in answers.items():
        if name in EXACT:
            assert mine == alone[name], name
        else:
            np.testing.assert_allclose(mine, alone[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(2, 4), (4, 2), (1, 8), (8, 1)])
def test_eight_devices_of_one_process_answer_as_one_device(mesh, alone):
    """Whatever the mesh is."""
    with jax.enable_x64(False):
        agree(worker.answers(make_mesh(*mesh)), alone)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "mesh"), [(2, "2x4"), (2, "1x4"), (4, "2x4"), (4, "4x2")])
def test_processes_answer_as_one_device(count, mesh, alone):
    """By gloo over loopback; with 2 processes and 1x4 the table itself is split between them."""
    started = processes.start_together(count, "--mesh", mesh, module="tests.distributed.worker")
    for text in processes.finish(started):
        agree(json.loads(text.splitlines()[-1]), alone)


@pytest.mark.slow
def test_a_dead_process_ends_the_others_and_leaves_a_checkpoint(tmp_path):
    """Within the timeout (and 20 s for a busy machine), in words that say that one died.

    Four processes with 4 × 2 devices, one of them killed; its checkpoint goes on with one device,
    with eight in one process and with four processes, to the losses of a run that was never killed.
    """
    options = [*SMALL, "--key-heads", "4", "--batch", "8", "--steps", "60", "--dtype", "float32"]
    folder, curve = tmp_path / "checkpoints", tmp_path / "killed"
    saving = ["--checkpoints", str(folder), "--every", "5"]
    processes.run(*options, "--metrics", str(tmp_path / "whole"))
    whole = losses(tmp_path / "whole")

    started = processes.start_together(
        4, *options, *saving, "--mesh", "4x2", "--metrics", str(curve), "--timeout", str(TIMEOUT)
    )
    deadline = time.monotonic() + 200
    while not (folder / "10").is_dir() and time.monotonic() < deadline:
        time.sleep(0.005)
    started[2].send_signal(signal.SIGKILL)
    start = time.monotonic()
    ends = [processes.ended(process, TIMEOUT + 60) for process in started]
    assert time.monotonic() - start < TIMEOUT + 20
    assert max(losses(curve)) < 60, "it was killed in the middle"
    for number, (status, errors) in enumerate(ends):
        assert status != 0, number
        assert number == 2 or "heartbeat timeout" in errors or "another task" in errors, errors

    for name, count, mesh in (("one", 1, "1x1"), ("eight", 1, "2x4"), ("four", 4, "2x4")):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        again = [*options, "--checkpoints", str(copy), "--every", "5", "--resume", "--mesh", mesh,
                 "--metrics", str(tmp_path / f"{name}.json")]  # fmt: skip
        if count == 1:
            processes.run(*again)
        else:
            processes.finish(processes.start_together(count, *again))
        resumed = losses(tmp_path / f"{name}.json")
        assert min(resumed) >= 11 and max(resumed) == 60
        np.testing.assert_allclose(
            list(resumed.values()), [whole[step] for step in resumed], rtol=1e-4
        )
