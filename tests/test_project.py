"""Files around the package name files, names and versions that exist."""

import importlib
import importlib.util
import inspect
import pathlib
import re
import tomllib

import pytest

import jsoftmax

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LLMS = (ROOT / "llms.txt").read_text()


def test_llms_txt_opens_as_its_standard_says():
    """One title, then a quoted summary (llmstxt.org)."""
    title, blank, summary = LLMS.splitlines()[:3]
    assert title == "# jsoftmax" and not blank and summary.startswith("> ")
    assert LLMS.count("\n# ") == 0


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", LLMS))))
def test_links_of_llms_txt_lead_to_files(link):
    assert (ROOT / link).is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`jsoftmax\.([\w.]+)", LLMS))))
def test_names_of_llms_txt_exist(name):
    found = jsoftmax
    for part in name.split("."):
        found = getattr(found, part)
    assert found is not None


@pytest.mark.parametrize("call", re.findall(r"`jsoftmax\.(\w+\([^`]*\))`", LLMS))
def test_calls_of_llms_txt_bind(call):
    """Arguments without a default are named as the signature names them, in its order."""
    name, _, arguments = call.removesuffix(")").partition("(")
    given = [each.strip() for each in arguments.split(",")]
    keywords = {each.partition("=")[0]: 0 for each in given if "=" in each}
    positional = [each for each in given if "=" not in each]
    signature = inspect.signature(getattr(jsoftmax, name))
    signature.bind(*positional, **keywords)
    assert list(signature.parameters)[: len(positional)] == positional


def test_citation_has_the_version_and_the_licence():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert f"\nlicense: {PROJECT['license']}\n" in citation


def test_pre_commit_has_the_ruff_of_the_project():
    pins = re.findall(r"ruff==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text())
    assert set(pins) == {
        each for each in PROJECT["optional-dependencies"]["test"] if "ruff" in each
    }


def test_workflows_call_lanes_and_targets_that_exist():
    lanes = set(re.findall(r"^lane_([\w-]+)\(\)", (ROOT / ".ci/run").read_text(), re.M))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = "".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml"))
    called = set(re.findall(r"run: \.ci/run ([\w-]+)", text))
    called |= set(re.search(r"lane: \[([^\]]+)\]", text)[1].split(", "))
    assert called <= lanes
    assert set(re.findall(r"run: make ([a-z-]+)", text)) <= targets


@pytest.mark.parametrize(
    ("tag", "changelog", "faults"),
    [
        ("v1.2.3", "## [1.2.3] - 2027-01-02\n", 0),
        ("1.2.3", "## [1.2.3] - 2027-01-02\n", 1),
        ("v1.2.4", "## [1.2.3] - 2027-01-02\n", 1),
        ("v1.2.3", "## [Unreleased]\n", 1),
    ],
)
def test_a_tag_must_equal_the_version_and_stand_in_the_changelog(tag, changelog, faults):
    spec = importlib.util.spec_from_file_location("tag", ROOT / ".ci" / "tag.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(module.faults(tag, "1.2.3", changelog)) == faults
