"""Follow README.md and CONTRIBUTING.md literally, in an empty folder, as a newcomer would.

    python .ci/newcomer.py research      # pip install, README's example, the tour and its picture
    python .ci/newcomer.py contribute    # clone, add a regularizer, see it in the laws and the docs
    python .ci/newcomer.py contribute --two-commands      # also `make demo` and `make test`

Commands and code come from the pages themselves, so a page that is wrong fails here. Only committed
files count: the newcomer clones the repository.
"""

import argparse
import doctest
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(
    r"^ {4,}((?:make|pip|JAX_PLATFORMS=\S+|\.venv/bin/python) ?.*?) *(?:#.*)?$", re.M
)

REGULARIZER = '''"""The squared Hellinger divergence."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from jsoftmax.core._regularizer import Regularizer
from jsoftmax.core._safe_log import positive


@dataclasses.dataclass(frozen=True)
class Hellinger(Regularizer):
    r"""Squared Hellinger divergence: dense, with tails that fall as 1/z².

    .. math:: Ω(p) = \\sum_i (2 p_i - 2 \\sqrt{p_i})

    Example:
        >>> import jax.numpy as jnp, jsoftmax
        >>> p = jsoftmax.regularized_argmax(jnp.array([2.0, 1.0, 0.0]), jsoftmax.Hellinger())
        >>> print(p.sum().round(4))
        1.0
    """

    def value(self, p: Array) -> Array:
        """Return 2p − 2√p."""
        return 2 * p - 2 * jnp.sqrt(p)

    def marginal(self, p: Array) -> Array:
        """Return 2 − 1/√p."""
        return jnp.where(p == 0, -jnp.inf, 2 - 1 / jnp.sqrt(positive(p)))

    def slope(self, p: Array) -> Array:
        """Return 2 p^{3/2}."""
        return 2 * p * jnp.sqrt(p)
'''
CASE = """    Case(
        "Hellinger",
        js.Hellinger(),
        lambda p: 2 - 1 / np.sqrt(np.maximum(p, 1e-320)),
        lambda p: 2 * p - 2 * np.sqrt(p),
    ),
"""


def main() -> None:
    """Play one of the two roles in a temporary folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("role", choices=("research", "contribute"))
    parser.add_argument("--two-commands", action="store_true", help="also make demo and make test")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="newcomer-"))
    clone = folder / "jsoftmax"
    try:
        run(["git", "clone", "--quiet", str(ROOT), str(clone)], folder)
        if options.role == "research":
            research(folder, clone)
        else:
            contribute(clone, two_commands=options.two_commands)
    finally:
        if options.keep:
            print(f"Kept {folder}.")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"newcomer {options.role}: every step worked")


def research(folder: pathlib.Path, clone: pathlib.Path) -> None:
    """Install as the pages say; run README's example and the tour, away from the clone."""
    python = folder / "environment" / "bin" / "python"
    run([sys.executable, "-m", "venv", str(folder / "environment")], folder)
    readme, tour = (clone / "README.md").read_text(), (clone / "docs/tour.md").read_text()
    installs = [*commands(readme, "pip install"), *commands(tour, "pip install")]
    assert installs, "README.md names no `pip install` command"
    for command in dict.fromkeys(installs):
        run(f"{python} -m {command}", clone)

    empty = folder / "empty"
    empty.mkdir()
    (empty / "readme.py").write_text("\n".join(BLOCK.findall(readme)))
    run([str(python), "-W", "error", "readme.py"], empty)

    # The tour as a session of its own: each output is compared, and a picture is left behind.
    (empty / "tour.md").write_text(tour)
    examples = doctest.DocTestParser().get_examples(tour)
    assert examples, "docs/tour.md has no example"
    (empty / "tour.py").write_text("".join(example.source for example in examples))
    run([str(python), "tour.py"], empty)
    print(f"   {len(examples)} examples of the tour ran (outputs are compared by `make doctests`)")
    pictures = [path for path in empty.iterdir() if path.suffix == ".png"]
    assert pictures and all(path.stat().st_size > 5000 for path in pictures), (
        f"the tour left no picture in {empty}: {sorted(p.name for p in empty.iterdir())}"
    )


def contribute(clone: pathlib.Path, *, two_commands: bool) -> None:
    """Add the regularizer that CONTRIBUTING.md describes, and run the commands that it names."""
    readme, page = (clone / "README.md").read_text(), (clone / "CONTRIBUTING.md").read_text()
    first = commands(readme, "make")
    assert first[:2] == ["make demo", "make test"], f"README.md names {first}"
    if two_commands:
        for command in first[:2]:
            run(command, clone)
        assert list(clone.rglob("jsoftmax-demo/*.png")), "make demo left no picture"

    core = clone / "jsoftmax/core/regularizers"
    (core / "_hellinger.py").write_text(REGULARIZER)
    insert(
        core / "__init__.py",
        "from jsoftmax.core.regularizers._jensen_shannon",
        "from jsoftmax.core.regularizers._hellinger import Hellinger\n",
    )
    insert(core / "__init__.py", '    "JensenShannon",\n', '    "Hellinger",\n')
    package = clone / "jsoftmax/__init__.py"
    text = package.read_text()
    package.write_text(
        text.replace("FermiDirac, JensenShannon", "FermiDirac, Hellinger, JensenShannon", 1)
    )
    insert(package, '    "JensenShannon",\n', '    "Hellinger",\n')
    laws = clone / "tests/laws/test_laws_regularizers.py"
    insert(laws, '    Case(\n        "JensenShannon",', CASE)
    insert(clone / "docs/api/mappings.md", "   JensenShannon\n", "   Hellinger\n")
    catalogue = clone / "docs/api/index.md"
    catalogue.write_text(catalogue.read_text().replace("`Elastic`", "`Elastic`, `Hellinger`", 1))

    section = page.partition("## To add a regularizer")[2].partition("\n## ")[0]
    steps = commands(section, "")
    assert len(steps) >= 4, f"CONTRIBUTING.md names {steps}"
    for command in steps:
        run(command, clone)
    changed = run(["git", "status", "--short"], clone)
    print(changed)

    run("make docs", clone)
    pages = list((clone / "build/docs/html").rglob("*Hellinger.html"))
    assert pages, "the site has no page for Hellinger"


def commands(text: str, start: str) -> list[str]:
    """Indented shell commands of a page that begin so, without their comments."""
    return [each for each in COMMAND.findall(text) if each.startswith(start)]


def insert(path: pathlib.Path, before: str, text: str) -> None:
    """Put text in front of the one place that begins so."""
    old = path.read_text()
    assert old.count(before) == 1, f"{path} has {before!r} {old.count(before)} times"
    path.write_text(old.replace(before, text + before))


def run(command: str | list[str], folder: pathlib.Path) -> str:
    """Run a command, print it and its time; stop with its output where it fails."""
    shown = command if isinstance(command, str) else " ".join(command)
    start = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(f"{time.perf_counter() - start:6.0f} s  {shown}", flush=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nThis command failed with status {done.returncode}: {shown}")
    return done.stdout


if __name__ == "__main__":
    main()
