"""Set up before anything imports JAX: float64, eight host devices, types checked at run time."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import hypothesis
import jax
import jaxtyping
import pytest

from tests import annotations

jax.config.update("jax_enable_x64", True)

# Annotations of shapes and dtypes are checked on every call in the tests, and only there.
jaxtyping.install_import_hook("jsoftmax", f"{annotations.__name__}.check")

# No deadline, because a first call compiles; the same examples each time, so that a failure stays.
hypothesis.settings.register_profile("jsoftmax", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("jsoftmax")


def pytest_collection_modifyitems(items):
    """What stands in tests/**/test_laws*.py is a law."""
    for item in items:
        if item.path.name.startswith("test_laws"):
            item.add_marker(pytest.mark.law)


# Many programs, each run once: less optimized they take half of the time. But not where it is what
# the compiler makes of them that is tested.
MANY_PROGRAMS = ("test_attention", "test_linear", "test_hierarchical", "test_adaptive")
COMPILED_WHOLLY = ("temporaries", "memory", "long_rows", "by_the_compiler", "flops")


@pytest.fixture(autouse=True)
def compile_lightly(request):
    where = f"{request.path.name} {request.node.name}"
    lightly = where.startswith(MANY_PROGRAMS) and not any(x in where for x in COMPILED_WHOLLY)
    jax.config.update("jax_disable_most_optimizations", lightly)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
