"""One runner: every benchmark is registered, has a quick mode, and is saved under its name."""

import ast
import json
import pathlib

import pytest

from benchmarks import registry, runner
from benchmarks.benchmark import REQUIRED, RESULTS, ROOT, Benchmark, Outcome, Setting
from benchmarks.history import RATIOS
from benchmarks.tables import Table

FOLDER = ROOT / "benchmarks"
STEMS = {"compiled": "chips", "compiled-tpu": "chips", "compiled-gpu": "chips"}


def source(name: str) -> pathlib.Path:
    return ROOT.joinpath(*registry.MODULES[name].split(".")).with_suffix(".py")


def calls(name: str, function: str) -> list[ast.Call]:
    tree = ast.parse(source(name).read_text())
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [node for node in nodes if getattr(node.func, "id", None) == function]


def test_every_benchmark_is_registered():
    """Read without an import, since some need peers that are not installed here."""
    described = {
        path for path in FOLDER.rglob("*.py") if "\nBENCHMARK = Benchmark(" in path.read_text()
    }
    assert described == {source(name) for name in registry.MODULES}


@pytest.mark.parametrize("name", registry.MODULES)
def test_a_benchmark_is_described_as_data(name):
    (benchmark,) = calls(name, "Benchmark")
    assert benchmark.args[0].value == name
    assert registry.description(name).endswith((".", "?"))


@pytest.mark.parametrize("name", registry.MODULES)
def test_a_benchmark_has_a_quick_mode(name):
    of_its_own = [call for call in calls(name, "Setting") if len(call.args) > 1]
    assert of_its_own or "settings.quick" in source(name).read_text()


@pytest.mark.parametrize("name", registry.MODULES)
def test_a_benchmark_leaves_options_and_files_to_the_runner(name):
    text = source(name).read_text()
    assert "argparse" not in text and "write_text" not in text and "def main" not in text


def test_saved_files_are_named_after_benchmarks():
    stems = {path.stem for path in RESULTS.iterdir()}
    assert {STEMS.get(stem, stem) for stem in stems} <= set(registry.MODULES)
    assert set(RATIOS) <= set(registry.MODULES)


def benchmark(folder: pathlib.Path, **settings: Setting) -> Benchmark:
    def run(settings, screen):
        faults = ["too slow"] if getattr(settings, "broken", False) else []
        table = Table("Times", "How to read it.", ["x"], [["1"]])
        return Outcome([table], {"rounds": settings.rounds}, faults=faults)

    rounds = Setting(10, 2, "rounds of every race")
    return Benchmark("some", "Some, timed", run, {"rounds": rounds, **settings}, folder)


@pytest.mark.parametrize(
    ("words", "rounds"), [([], 10), (["--rounds", "11"], 11), (["--rounds", "10"], 10)]
)
def test_a_full_run_is_saved(tmp_path, words, rounds):
    assert runner.run_one(benchmark(tmp_path), words) == 0
    page, results = (tmp_path / f"some.{kind}" for kind in ("md", "json"))
    assert page.read_text().startswith("# Some, timed\n\nMade by `python -m benchmarks run some`")
    found = json.loads(results.read_text())
    assert found["rounds"] == rounds and found["machine"]["date"] and found["seconds"] >= 0


@pytest.mark.parametrize("words", [["--quick"], ["--rounds", "9"], ["--quick", "--rounds", "99"]])
def test_a_quick_or_partial_run_is_saved_only_where_asked(tmp_path, words):
    runner.run_one(benchmark(tmp_path / "usual"), words)
    assert not (tmp_path / "usual").exists()
    runner.run_one(benchmark(tmp_path / "usual"), [*words, "--output", str(tmp_path / "asked")])
    assert {path.name for path in (tmp_path / "asked").iterdir()} == {"some.md", "some.json"}


def test_a_choice_makes_a_partial_run_unless_it_selects_nothing(tmp_path):
    some = benchmark(
        tmp_path,
        only=Setting(["a", "b"], help="names", many=True),
        peers=Setting(True, help="with peers"),
        data=Setting(None, help="a file", selects=False),
    )
    assert runner.read(some, ["--data", "x"])[1]
    assert not runner.read(some, ["--only", "a"])[1]
    assert not runner.read(some, ["--no-peers"])[1]


def test_a_setting_that_is_required_must_be_given(tmp_path, capsys):
    some = benchmark(tmp_path, data=Setting(REQUIRED, help="a folder", parse=pathlib.Path))
    with pytest.raises(SystemExit):
        runner.read(some, [])
    assert "--data is needed: a folder" in capsys.readouterr().err
    assert runner.read(some, ["--data", "x"])[0].data == pathlib.Path("x")


def test_a_broken_limit_is_an_exit_status(tmp_path):
    assert runner.run_one(benchmark(tmp_path, broken=Setting(True)), []) == 1


def test_an_unknown_name_is_told():
    with pytest.raises(SystemExit, match=r"no nonsense\. There are mappings"):
        runner.main("run", "nonsense")
