"""Hide Flax and optax, as if they were not installed: python -m pytest -p tests.without_flax …

Loaded before anything else, so that the whole run meets neither: functions need none of them.
"""

import sys

# Examples that show how a function works together with them, and the fits by optax.
TOGETHER = ("flax", "optax", "vector_scaling", "matrix_scaling", "dirichlet_calibration")

sys.modules.update(dict.fromkeys(("flax", "optax", "orbax")))  # None: an import of it fails


def pytest_collection_modifyitems(config, items):
    """Leave out the doctests that name them."""

    def names_one(item):
        examples = getattr(getattr(item, "dtest", None), "examples", ())
        return any(name in example.source for example in examples for name in TOGETHER)

    config.hook.pytest_deselected(items=[item for item in items if names_one(item)])
    items[:] = [item for item in items if not names_one(item)]
