"""Run the examples of the pages apart from each other: folder, print options, pictures to files."""

import os
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def apart(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep files that an example saves out of the repository, and its settings out of others."""
    monkeypatch.chdir(tmp_path)
    with np.printoptions():
        yield
