"""The pairs of docs/coming_from.md, read out of the page: both sides run, and are compared.

Lines of a peer run where it is installed; ours always do.
"""

import ast
import dataclasses
import importlib.util
import pathlib
import re
from typing import Any

import numpy as np
import pytest

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "coming_from.md"
NEEDS = {  # section → the packages of its other side
    "Coming from another library": (),
    "jax.nn and jax.random": ("jax",),
    "optax": ("optax",),
    "entmax": ("torch", "entmax"),
    "torch": ("torch",),
    "distrax": ("distrax",),
    "gensim": ("gensim",),
}
CLAIMS = ("", "other draws", "not the same")


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block: lines of both sides, and the relation of their last values."""

    section: str
    line: int
    here: str
    there: str
    claim: str

    @property
    def is_pair(self) -> bool:
        """Whether both sides end in a value, which are to be compared."""
        return bool(self.here) and bool(self.there) and all(map(ends_in_value, self.sides))

    @property
    def sides(self) -> tuple[str, str]:
        """Ours first: lines of the peer may use our arrays."""
        return self.here, self.there


def ends_in_value(code: str) -> bool:
    """Whether the last statement is an expression."""
    return isinstance(ast.parse(code).body[-1], ast.Expr)


def blocks(page: str) -> list[Block]:
    """Every block of Python on a page, in order, with the heading that it stands under."""
    found = []
    for match in re.finditer(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        before = page[: match.start()]
        section = re.findall(
            r"^#+ (.*)$", re.sub(r"^```.*?^```", "", before, flags=re.M | re.S), re.M
        )
        parts = re.split(r"^# (here|there)(?:, (.*))?\n", match[1], flags=re.MULTILINE)
        assert not parts[0].strip(), f"line {before.count(chr(10)) + 1}: code outside of both sides"
        sides = {"here": "", "there": ""}
        claim = ""
        for side, note, code in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            assert not sides[side], "a side stands twice"
            sides[side] = code
            claim = note or claim
        assert claim in CLAIMS, f"unknown claim: {claim!r}"
        found.append(Block(section[-1], before.count("\n") + 1, claim=claim, **sides))
    return found


def value_of(code: str, scope: dict[str, Any]) -> Any:
    """Run statements; return the value of the last, if it is an expression."""
    body = ast.parse(code).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), str(PAGE), "exec"), scope)
    return (
        None
        if last is None
        else eval(compile(ast.Expression(last.value), str(PAGE), "eval"), scope)
    )


def array(value: Any) -> np.ndarray:
    """A peer's answer as numpy's."""
    return np.asarray(value.detach() if hasattr(value, "detach") else value, np.float64)


def compare(ours: Any, theirs: Any, claim: str) -> None:
    """Assert that two answers are as the page claims."""
    ours, theirs = array(ours), array(theirs)
    assert ours.shape == theirs.shape and ours.size
    if claim == "other draws":
        classes = np.arange(max(ours.max(), theirs.max()) + 1)
        shares = [(x[:, None] == classes).mean(0) for x in (ours, theirs)]
        # The deviation of a share of 20,000 draws is at most 0.0036, of their difference 0.005.
        assert len(ours) >= 20_000 and not np.array_equal(ours, theirs)
        np.testing.assert_allclose(*shares, atol=0.02)
        return
    same = np.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert same == (claim == ""), f"{claim or 'the same'}:\nhere {ours}\nthere {theirs}"


def installed(section: str) -> bool:
    """Whether the other side of a section can run."""
    return all(importlib.util.find_spec(package) for package in NEEDS[section])


def run(found: list[Block], section: str) -> int:
    """Run the shared arrays and one section; return how many pairs were compared."""
    first, scope, compared = found[0].section, {}, 0
    for block in found:
        if block.section not in (first, section):
            continue
        ours = value_of(block.here, scope)
        if block.there and (block.section == first or installed(section)):
            theirs = value_of(block.there, scope)
            if block.is_pair:
                compare(ours, theirs, block.claim)
                compared += 1
    return compared


BLOCKS = blocks(PAGE.read_text())


@pytest.mark.filterwarnings("default")  # those of peers are theirs
@pytest.mark.parametrize("section", list(NEEDS)[1:])
def test_both_sides_of_every_pair_give_what_the_page_says(section):
    pairs = sum(block.is_pair for block in BLOCKS if block.section == section)
    assert pairs >= 2
    assert run(BLOCKS, section) == (pairs if installed(section) else 0)


def test_the_page_has_a_section_for_each_peer():
    assert {block.section for block in BLOCKS} == set(NEEDS)
    assert all(block.here or not ends_in_value(block.there) for block in BLOCKS)


@pytest.mark.parametrize(
    "here",
    ["jsoftmax.sparsemax(z)", "jsoftmax.softmax(z).sum(-1)", "jsoftmax.softmax(z, axis=0)"],
)
def test_a_wrong_claim_fails(here):
    page = f"""# A page
```python
# here
import jax, jsoftmax
z = jax.numpy.array([[0.1, 1.2], [2.0, 0.0]])
```
## optax
```python
# there
jax.nn.softmax(z)
# here
{here}
```
"""
    with pytest.raises(AssertionError):
        run(blocks(page), "optax")


def test_a_claim_of_a_difference_fails_where_there_is_none():
    with pytest.raises(AssertionError):
        compare(np.ones(3), np.ones(3), "not the same")
    with pytest.raises(AssertionError):
        compare(np.zeros(20_000), np.arange(20_000) % 2, "other draws")
