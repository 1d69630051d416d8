"""`python -m benchmarks.attention` is `python -m benchmarks run attention`."""

from benchmarks.runner import command

if __name__ == "__main__":
    command("attention")
