"""The section on calibration: its output and files, at half of its training."""

import re

import pytest
from matplotlib.image import imread

from jsoftmax.demo import main

ROW = re.compile(
    r"^ +(as trained|T = ([\d.]+)|by class) +([\d.]+)%((?: +[\d.]+){9})$", re.MULTILINE
)


@pytest.mark.slow
def test_scaling_lowers_the_error_and_sets_cover(tmp_path, capsys):
    """Six rows within 80 columns, and a picture."""
    arguments = ["--section", "calibration", "--epochs", "20", "--output", str(tmp_path)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    rows = [
        (way, t, float(right), [float(x) for x in numbers.split()])
        for way, t, right, numbers in ROW.findall(text.replace(" \n", "\n"))
    ]
    assert len(rows) == 6
    for trained, temperature, by_class in (rows[:3], rows[3:]):
        assert trained[0] == "as trained" and by_class[0] == "by class"
        assert float(temperature[1]) > 1  # it was too sure
        assert trained[2] == temperature[2] > 50
        for _, _, _, (error, _, brier, *_) in (temperature, by_class):
            assert brier <= trained[3][2]
            assert error < trained[3][0] or trained is not rows[0]  # softmax, the surest
        for *_, (_, _, _, *sets) in (trained, temperature, by_class):
            for coverage, size in zip(sets[::2], sets[1::2], strict=True):
                # Four standard deviations of the chance level in the notes.
                assert coverage > 95 - 4 * 1.3
                assert 0.9 < size <= 10
    path = tmp_path / "calibration-reliability.png"
    assert str(path) in text
    assert imread(path).std() > 0.05  # something is drawn
