"""python -m jsoftmax.kernels: try every kernel on this machine and remember which to choose."""

import sys

from jsoftmax.kernels.trial._trial_command import main

if __name__ == "__main__":
    sys.exit(main())
