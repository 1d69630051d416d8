"""Fail unless a tag equals the version of pyproject.toml and CHANGELOG.md has its heading.

python .ci/tag.py v0.1.0
"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def faults(tag: str, version: str, changelog: str) -> list[str]:
    """Sentences that say why the tag cannot be published."""
    found = []
    if tag != f"v{version}":
        found.append(f"The tag is {tag}, but pyproject.toml has version {version}: v{version}.")
    if not re.search(rf"^## \[{re.escape(version)}\] [-–—] \d{{4}}-\d\d-\d\d$", changelog, re.M):
        found.append(
            f"CHANGELOG.md has no heading `## [{version}] - YYYY-MM-DD`: rename [Unreleased]."
        )
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python .ci/tag.py TAG")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    found = faults(sys.argv[1], version, (ROOT / "CHANGELOG.md").read_text())
    sys.exit("\n".join(found) or None)
