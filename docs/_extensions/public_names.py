"""Say which names are public, and fail the build where one has not exactly one page.

A name is listed once, in an `autosummary` of docs/api/*.md, which makes its page. A function that
is in `jsoftmax` and in a namespace, as `linear_cross_entropy`, has its page under the shorter name.
"""

import importlib
import pathlib
import re

NAMESPACES = (
    "vocabulary", "policies", "calibration", "routing", "nnx", "linen", "estimators", "testing",
    "kernels",
)  # fmt: skip
API = pathlib.Path(__file__).resolve().parent.parent / "api"


def aliases() -> dict[str, str]:
    """Every public name without `jsoftmax.`, with the name that has the page."""
    package = importlib.import_module("jsoftmax")
    pages = {name: name for name in package.__all__}
    for namespace in NAMESPACES:
        module = importlib.import_module(f"jsoftmax.{namespace}")
        for name in module.__all__:
            flat = getattr(package, name, None) is getattr(module, name)
            full = f"{namespace}.{name}"
            pages[full] = name if flat and name in package.__all__ else full
    return pages


def listed() -> list[str]:
    """The names in the autosummaries of docs/api."""
    tables = [
        table
        for page in sorted(API.glob("*.md"))
        for table in re.findall(r"^\.\. autosummary::\n(.*?)^```", page.read_text(), re.M | re.S)
    ]
    return [name for table in tables for name in re.findall(r"^   (\w[\w.]*)$", table, re.M)]


def faults() -> list[str]:
    """Names without a page, with two, and pages of no public name."""
    wanted, found = set(aliases().values()), listed()
    twice = {name for name in found if found.count(name) > 1}
    return [
        *(f"jsoftmax.{name} has no page: list it in docs/api" for name in wanted - set(found)),
        *(f"docs/api lists {name}, which is not public" for name in set(found) - wanted),
        *(f"docs/api lists {name} twice" for name in twice),
    ]


def _before_reading(app):
    from sphinx.util import logging

    for fault in sorted(faults()):
        logging.getLogger(__name__).warning(fault)
    # Pages of names that are gone; autosummary writes the others.
    kept = {f"jsoftmax.{name}" for name in listed()}
    for page in (API / "generated").glob("*.rst"):
        if page.stem not in kept:
            page.unlink()


def setup(app):
    """Check before autosummary writes the pages."""
    app.connect("builder-inited", _before_reading, priority=100)
    return {"parallel_read_safe": True}
