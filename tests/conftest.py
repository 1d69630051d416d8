"""Set up before anything imports JAX: float64, eight host devices, types checked at run time."""

import gc
import importlib.util
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
)

import hypothesis
import jax
import jaxtyping
import psutil
import pytest

from tests import annotations

jax.config.update("jax_enable_x64", True)

# Annotations of shapes and dtypes are checked on every call in the tests, and only there.
jaxtyping.install_import_hook("jsoftmax", f"{annotations.__name__}.check")

# No deadline, because a first call compiles; the same examples each time, so that a failure stays.
hypothesis.settings.register_profile("jsoftmax", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("jsoftmax")


PROGRAMS = 4 * 2**30  # bytes of memory; above, caches are cleared


@pytest.fixture(autouse=True, scope="module")
def caches_stay_small():
    """Clear JAX's caches: after some hundred tests they hold gigabytes of rarely reused programs.

    The remaining objects are frozen, since `jax.checking_leaks` collects garbage often.
    """
    yield
    if psutil.Process().memory_info().rss > PROGRAMS:
        gc.unfreeze()
        jax.clear_caches()
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config, items):
    """Mark tests/**/test_laws*.py as laws, and skip the TPU's compiler without libtpu."""
    for item in items:
        if item.path.name.startswith("test_laws"):
            item.add_marker(pytest.mark.law)
    if importlib.util.find_spec("libtpu") is None:
        left_out = [item for item in items if item.get_closest_marker("tpu_compiler")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
