"""README.md is true: its example runs, its links lead to files, and it is one screen."""

import pathlib
import re
import warnings

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / ".ci").glob("*.md")])
]
README = (ROOT / "README.md").read_text()


def test_the_example_of_the_readme_runs():
    """Every statement, with warnings as errors, and each expression gives finite numbers."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
    names = {"__name__": "readme"}
    with warnings.catch_warnings(), jax.enable_x64(False):
        warnings.simplefilter("error")
        exec(compile(code, "README.md", "exec"), names)
    assert "Blend" in names


def test_the_readme_is_one_screen():
    """At most 120 lines, one picture, and two tables."""
    assert len(README.splitlines()) <= 120
    assert README.count("![") == 1
    assert len(re.findall(r"^\|---", README, re.MULTILINE)) == 2


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    """Relative links of the pages outside docs/, which the site checks itself."""
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    missing = [link for link in links if "://" not in link and not (folder / link).exists()]
    assert not missing, f"{page} links to {missing}"
