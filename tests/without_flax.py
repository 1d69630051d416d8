"""Flax and optax as if they were not installed: python -m pytest -p tests.without_flax …

Loaded before anything else, so that the whole run meets neither: functions need none of them.
"""

import sys

sys.modules.update(dict.fromkeys(("flax", "optax", "orbax")))  # None: an import of it fails
