"""A second eager call with other values of the same shapes compiles nothing."""

import jax
import pytest

import jsoftmax.linen
import jsoftmax.nnx
from tests.eager_calls import CALLS, public, public_names
from tests.eager_modules import MODULE_CALLS

# Functions that are not called with arrays, and so are in no row of the tables.
MADE_BY_NUMPY = {
    "adaptive_cutoffs", "balanced_tree", "class_tree", "huffman_tree", "kary_tree",
    "two_level_tree",
}  # fmt: skip
WITHIN_SHARD_MAP = {"ring_attention"}  # which is compiled with the program around it

COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration_secs, **kwargs: (
        COMPILED.append(event) if "backend_compile" in event else None
    )
)


def compiles_again(function, call) -> int:
    """How many programs a second call of a function compiles."""
    first, second = call.operands(0), call.operands(1)
    jax.block_until_ready(function(first))
    COMPILED.clear()
    jax.block_until_ready(function(second))
    return len(COMPILED)


def rows(calls, is_long=lambda call: False):
    """Mark long calls as slow, and variants, "name, variant", if "name" is there too."""
    names = {c.name for c in calls}

    def is_slow(call):
        name, *variant = call.name.split(", ")
        return is_long(call) or (variant and name in names)

    return [
        pytest.param(c, id=c.name, marks=[pytest.mark.slow] if is_slow(c) else []) for c in calls
    ]


def gradients(calls):
    """Those of Linen's modules are slow, too: NNX has the same."""
    differentiable = [c for c in calls if c.is_differentiable]
    return rows(differentiable, lambda c: c.is_slow or c.name.startswith("linen."))


@pytest.mark.parametrize("call", rows(CALLS + MODULE_CALLS))
def test_a_second_eager_call_compiles_nothing(call):
    assert compiles_again(call.value, call) == 0


@pytest.mark.parametrize("call", gradients(CALLS + MODULE_CALLS))
def test_the_gradient_of_a_second_eager_call_compiles_nothing(call):
    assert compiles_again(call.gradient, call) == 0


def test_every_public_function_has_a_row():
    """But types that only hold results, and the exceptions above."""
    called = {call.name.split(",")[0] for call in CALLS}
    left_out = {name for name in public_names() - called if not isinstance(public(name), type)}
    assert left_out == MADE_BY_NUMPY | WITHIN_SHARD_MAP


def test_every_module_has_a_row():
    called = {call.name.split(",")[0] for call in MODULE_CALLS}
    homes = {"nnx": jsoftmax.nnx, "linen": jsoftmax.linen}
    assert called == {f"{home}.{name}" for home, module in homes.items() for name in module.__all__}
