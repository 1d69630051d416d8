"""Run the examples of the pages in a folder of their own, with pictures drawn to files."""

import os
import pathlib

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep files that an example saves out of the repository."""
    monkeypatch.chdir(tmp_path)
