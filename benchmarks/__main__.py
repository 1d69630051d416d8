"""List, run and save benchmarks, and draw their history: `python -m benchmarks`."""

import sys

from benchmarks.runner import main

if __name__ == "__main__":
    main(*sys.argv[1:])
