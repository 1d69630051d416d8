"""Run the guided tour on real data: `python -m jsoftmax`."""

import sys

from jsoftmax.demo import main

sys.exit(main())
