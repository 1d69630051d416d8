"""Print the lowest versions that pyproject.toml admits, as pip constraints."""

import pathlib
import tomllib

project = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())
for dependency in project["project"]["dependencies"]:
    name, bound = dependency.split(">=")
    print(f"{name}=={bound}")
