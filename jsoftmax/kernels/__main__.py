"""Run every kernel on this machine and record the ones to choose: python -m jsoftmax.kernels."""

import sys

from jsoftmax.kernels.trial._trial_command import main

if __name__ == "__main__":
    sys.exit(main())
