"""Select the members of a table for `make test`; `make slow` runs the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def some(members: Iterable[Any], always: Collection[Any]) -> list[Any]:
    """Every member as a parameter, slow unless it is one of `always`."""
    members = list(members)
    assert all(member in members for member in always), always
    return [pytest.param(m, marks=[] if m in always else pytest.mark.slow) for m in members]
