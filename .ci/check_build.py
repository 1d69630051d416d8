"""Install the wheel of dist/ in a new environment, and run the tests of the sdist with it.

The environment and the unpacked source are in a temporary folder, outside the tree. The
package is removed from the unpacked source, so that tests can import the installed one alone.

    make build && python .ci/check_build.py          # layers, doctests, one file of laws
    python .ci/check_build.py --all                   # all that `make test` runs
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
NEEDED = ("tests", "benchmarks", "docs", "examples", "notebooks", "LICENSE", "pyproject.toml")
UNWANTED = ("__pycache__", ".venv", "shared", "build", "dist", ".hypothesis", ".ipynb_checkpoints")
FEW = ("tests/test_layers.py", "tests/laws/test_laws.py")


def main() -> None:
    """Check the contents, install, test."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--all", action="store_true", help="all that `make test` runs")
    options.add_argument("--workers", default="2", help="of pytest (2)")
    options = options.parse_args()
    wheel, sdist = _only("*.whl"), _only("*.tar.gz")
    with tempfile.TemporaryDirectory(prefix="jsoftmax-build-") as folder:
        folder = pathlib.Path(folder)
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        source = folder / sdist.name.removesuffix(".tar.gz")
        _check_contents(source, wheel)
        shutil.rmtree(source / "jsoftmax")
        _test(folder / "venv", source, wheel, options)
    print(f"{wheel.name} and {sdist.name} pass.")


def _only(pattern: str) -> pathlib.Path:
    found = sorted((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        sys.exit(f"dist/ has {len(found)} files {pattern}, not one. Run `make build` first.")
    return found[0]


def _check_contents(source: pathlib.Path, wheel: pathlib.Path) -> None:
    """The sdist has the needed folders and no others; both archives have one package."""
    lacking = [name for name in NEEDED if not (source / name).exists()]
    paths = [path.relative_to(source) for path in source.rglob("*")]
    surplus = [str(path) for path in paths if set(path.parts) & set(UNWANTED)]
    in_sdist = {str(path) for path in paths if path.parts[0] == "jsoftmax" and path.suffix}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if name.startswith("jsoftmax/")}
    if lacking or surplus or in_sdist != in_wheel:
        sys.exit(
            f"The sdist lacks {lacking} and has {surplus[:9]}. "
            f"In one archive only: {sorted(in_sdist ^ in_wheel)[:9]}."
        )


def _test(home: pathlib.Path, source: pathlib.Path, wheel: pathlib.Path, options) -> None:
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    # Nothing of the caller's: no PYTHONPATH that leads back into the tree.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> None:
        subprocess.run([python, "-m", *arguments], cwd=source, env=environment, check=True)

    run("pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[test]")
    workers = ("-n", options.workers)
    chosen = () if options.all else FEW
    run("pytest", *workers, "-m", "not slow and not kernels", *chosen)
    # Plain JAX, as a user has it, without the settings of tests/conftest.py.
    environment.setdefault("JAX_PLATFORMS", "cpu")
    here = ("-c", "pyproject.toml", "--noconftest")
    run("pytest", *workers, *here, "--doctest-modules", "--pyargs", "jsoftmax")


if __name__ == "__main__":
    main()
