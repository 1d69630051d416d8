"""The language model of examples/ in processes of their own."""

import concurrent.futures
import os
import pathlib
import socket
import subprocess
import sys

from tests.compiling import LIGHTLY

ROOT = pathlib.Path(__file__).parents[1]


def start(*options: str, module: str = "examples.language_model", wholly: bool = False):
    """Start `python -m examples.language_model` with these options, on CPUs."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))
    }
    return subprocess.Popen(
        [sys.executable, "-m", module, *options],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={
            **environment, "JAX_PLATFORMS": "cpu", "COLUMNS": "120",
            "XLA_FLAGS": "" if wholly else " ".join(LIGHTLY),
        },
    )  # fmt: skip


def run(*options: str, **how) -> str:
    """Run it to its end and return its output."""
    (text,) = finish([start(*options, **how)])
    return text


def ended(process: subprocess.Popen, seconds: float = 300) -> tuple[int, str]:
    """Wait for a process; return its exit status and its errors."""
    try:
        _, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, errors


def finish(started: list[subprocess.Popen], seconds: float = 300) -> list[str]:
    """Wait for processes, require that all succeed, and return the output of each."""
    try:
        # All at once: one that waits until its output is read would keep the others waiting.
        with concurrent.futures.ThreadPoolExecutor(len(started)) as readers:
            ends = list(readers.map(lambda one: one.communicate(timeout=seconds), started))
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, ends, strict=True):
        assert process.returncode == 0, errors
    return [text for text, _ in ends]


def start_together(count: int, *options: str, **how) -> list[subprocess.Popen]:
    """Start `count` processes that join one another over loopback."""
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        start(
            *options, "--coordinator", coordinator, "--processes", str(count),
            "--process", str(number), **how,
        )
        for number in range(count)
    ]  # fmt: skip


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
