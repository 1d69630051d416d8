"""`python -m benchmarks.chips` is `python -m benchmarks run chips`."""

from benchmarks.runner import command

if __name__ == "__main__":
    command("chips")
