"""Execute every notebooks/*.py and write the .ipynb beside it."""

import argparse
import pathlib
import sys
import time

import jupytext
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
SECONDS_PER_CELL = 600


def main() -> None:
    """Go through the folder; a failing cell or a stale pair makes the exit status 1."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--check", action="store_true", help="write nothing, and fail where a pair differs"
    )
    check = options.parse_args().check
    sources = sorted(FOLDER.glob("*.py"))
    faults = [fault for source in sources for fault in _fault(source, check)]
    sys.exit("\n".join(faults) if faults else None)


def _fault(source: pathlib.Path, check: bool) -> list[str]:
    notebook, pair = jupytext.read(source), source.with_suffix(".ipynb")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # random ones would change with every run
    if check and pair.exists() and _contents(jupytext.read(pair)) != _contents(notebook):
        return [f"{pair.name} differs from {source.name}. Run: make notebooks"]
    start = time.perf_counter()
    try:
        NotebookClient(
            notebook,
            timeout=SECONDS_PER_CELL,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,  # else prints are cut wherever the kernel was slow
            resources={"metadata": {"path": str(FOLDER)}},
        ).execute()
    except CellExecutionError as error:
        return [f"{source.name}: {error}"]
    print(f"{source.name}: executed in {time.perf_counter() - start:.0f} s", flush=True)
    if not check:
        jupytext.write(notebook, pair)
    return []


def _contents(notebook) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


if __name__ == "__main__":
    main()
