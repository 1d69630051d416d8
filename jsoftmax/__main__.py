"""`python -m jsoftmax`: the guided run on real data."""

import sys

from jsoftmax.demo import main

sys.exit(main())
