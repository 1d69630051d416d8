"""Sources that docstrings name are in docs/references.bib, and pages cite such as are there."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIB = (ROOT / "docs" / "references.bib").read_text()
KEYS = set(re.findall(r"^@\w+\{([^,]+),", BIB, re.MULTILINE))


def plain(title):
    """Letters alone: titles are compared without braces, capitals and breaks of lines."""
    return re.sub(r"[^\w]+", "", title).lower()


TITLES = [plain(title) for title in re.findall(r"^ +title += \{(.*)\},$", BIB, re.MULTILINE)]


def sources():
    """Every quoted title below "Reference" in a docstring, and where it stands."""
    for path in sorted((ROOT / "jsoftmax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found = re.search(
                    r"References?:\n((?: {4}.*\n?|\n)+)", ast.get_docstring(node) or ""
                )
                for title in re.findall(r'"([^"]+)"', found[1] if found else ""):
                    yield f"{path.name}: {node.name}", " ".join(title.split())


def test_every_source_of_a_docstring_is_in_the_bibliography():
    named = list(sources())
    assert len(named) > 100
    missing = {(place, title) for place, title in named
               if not any(each.startswith(plain(title)) for each in TITLES)}  # fmt: skip
    assert not missing


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_a_page_cites_what_is_there(page):
    cited = re.findall(r"\{cite[:\w]*\}`([^`]+)`", page.read_text())
    assert {key.strip() for keys in cited for key in keys.split(",")} <= KEYS
