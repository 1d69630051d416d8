"""The site has one page for every public name."""

import importlib.util
import pathlib

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"
spec = importlib.util.spec_from_file_location(
    "public_names", DOCS / "_extensions" / "public_names.py"
)
public_names = importlib.util.module_from_spec(spec)
spec.loader.exec_module(public_names)


def test_every_public_name_has_exactly_one_page():
    """docs/api lists each name once, and nothing else."""
    assert public_names.faults() == []


def test_a_namespace_lists_its_twins_under_the_flat_name():
    """A name of `jsoftmax` and of a namespace has one page, that of the shorter name."""
    pages = public_names.aliases()
    assert pages["vocabulary.linear_topk"] == pages["linear_topk"] == "linear_topk"
    assert pages["policies.log_prob"] == "policies.log_prob"
    assert pages["nnx.Entmax"] != pages["linen.Entmax"]


def test_a_missing_page_is_found(monkeypatch):
    """The check fails where a name is left out, or listed twice."""
    first, second, *rest = public_names.listed()
    monkeypatch.setattr(public_names, "listed", lambda: [second, second, *rest])
    missing, twice = sorted(public_names.faults(), key=lambda fault: "twice" in fault)
    assert missing.startswith(f"jsoftmax.{first} has no page")
    assert twice == f"docs/api lists {second} twice"
