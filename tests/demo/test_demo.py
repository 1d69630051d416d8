"""The guided run: its output and files, and its error messages."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from jsoftmax.demo import main
from jsoftmax.demo._measures import Measures
from jsoftmax.demo._sections import SECTIONS


@pytest.mark.slow
def test_the_run_prints_a_table_and_saves_two_pictures(tmp_path, capsys):
    """One row a classifier, within 80 columns, and it says where the pictures are."""
    options = ["--section", "digits", "--epochs", "2", "--seed", "3"]
    assert main([*options, "--output", str(tmp_path / "new" / "place")]) == 0
    text = capsys.readouterr().out
    for heading in ("accuracy", "Brier", "NLL", "infinite", "calibr.", "support", "ms per"):
        assert heading in text
    for classifier in ("softmax", "sparsemax", "entmax-1.5", "softmax, gated"):
        (row,) = [line for line in text.splitlines() if line.startswith(f" {classifier}  ")]
        accuracy, *numbers = row.removeprefix(f" {classifier}").split()
        assert 0.5 < float(accuracy.removesuffix("%")) / 100 <= 1
        assert np.isfinite([float(number) for number in numbers]).all() and len(numbers) == 6
    for name in ("digits-training.png", "digits-probabilities.png"):
        path = tmp_path / "new" / "place" / name
        assert str(path) in text
        assert imread(path).std() > 0.05  # something is drawn


def test_help_explains():
    """Through `python -m jsoftmax`; every option and every section."""
    command = [sys.executable, "-m", "jsoftmax", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in ("--epochs", "--seed", "--output", "--section", *(s.name for s in SECTIONS)):
        assert word in run.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--frobnicate"], "--frobnicate"),
        (["--epochs", "none"], "give an integer"),
        (["--epochs", "0"], "give at least 1"),
        (["--seed", "-1"], "from 0 to"),
        (["--section", "letters"], "digits"),
    ],
)
def test_a_wrong_option_gets_one_line(arguments, reason, capsys):
    """With the fault, a pointer to the options, and the exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert reason in line and "--help" in line


def test_an_output_that_cannot_be_made_gets_one_line(tmp_path, capsys):
    """Before anything is trained."""
    (tmp_path / "file").touch()
    assert main(["--output", str(tmp_path / "file" / "pictures")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write" in line and "--output" in line


@pytest.mark.parametrize("package", ["matplotlib", "rich", "sklearn"])
def test_a_missing_package_gets_one_line(package, tmp_path):
    """With the remedy."""
    script = (
        f"import sys; sys.modules['{package}'] = None\n"
        f"from jsoftmax.demo import main; sys.exit(main(['--output', {str(tmp_path)!r}]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert package in line and 'pip install "jsoftmax[demo]"' in line


def test_measures_of_two_examples():
    """p = (½, ½, 0) is half right about class 0, p = (0, 1, 0) wrong, and never expected it."""
    m = Measures.of(np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]), np.array([0, 0]))
    assert m.accuracy == 0.5
    assert m.brier == (0.25 + 0.25 + 1 + 1) / 2
    assert m.surprise == np.log(2) and m.infinite == 1
    assert m.calibration == (0 + 1) / 2
    assert m.support == 1.5
