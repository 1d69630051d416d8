"""`python -m benchmarks.conformance` is `python -m benchmarks run conformance`."""

from benchmarks.runner import command

if __name__ == "__main__":
    command("conformance")
