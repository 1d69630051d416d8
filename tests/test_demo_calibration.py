"""The section on calibration: what it prints and saves, at a tenth of its training."""

from matplotlib.image import imread

from jsoftmax.demo import main


def test_scaling_lowers_the_error_and_sets_cover(tmp_path, capsys):
    """Six rows within 100 columns, and a picture."""
    arguments = ["--section", "calibration", "--epochs", "20", "--output", str(tmp_path)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if "%" in line and line.startswith("   ")]
    assert len(rows) == 6
    for trained, temperature, vector in (rows[:3], rows[3:]):
        assert trained[:2] == ["as", "trained"] and temperature[0] == "temperature"
        assert float(temperature[1]) > 1  # it was too sure
        (accuracy, error, *_), scaled, by_class = trained[2:], temperature[2:], vector[1:]
        assert accuracy == scaled[0]
        assert float(scaled[1]) < float(error) and float(by_class[1]) < float(error)
        for row in (trained[2:], scaled, by_class):
            for coverage, size in zip(row[4::2], row[5::2], strict=True):
                # Four standard deviations of what the notes call chance.
                assert float(coverage.removesuffix("%")) > 95 - 4 * 1.3
                assert 0.9 < float(size) <= 10
    path = tmp_path / "calibration-reliability.png"
    assert str(path) in text
    assert imread(path).std() > 0.05  # something is drawn
