"""Eager calls and their gradients raise nothing under `jax_debug_nans` and `jax_debug_infs`.

From finite scores no mapping and no loss makes an infinity or NaN that JAX checks: in operations
outside of `jit`, and in results of programs compiled separately.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

import jsoftmax as js
from tests.eager_calls import CALLS, ORDER, WARMTH, Call, P, Y, Z
from tests.marks import some


def _tempered(function, z, t):
    return function(z, temperature=t)


def _more():
    """At a temperature, with a traced α, and with every regularizer."""

    def capped(z, t, alpha=None, a=None):
        return js.capped_entmax(z, 0.5, alpha=alpha if a is None else a, temperature=t)

    def topk(z, t, alpha=None, a=None):
        return js.topk_entmax(z, 2, alpha=alpha if a is None else a, temperature=t)

    for name, function in (("capped_entmax", capped), ("topk_entmax", topk)):
        for a in (0.5, 1.0, 1.5, 2.0, 3.0):
            yield Call(f"{name}, T, {a:g}", functools.partial(function, a=a), (Z, WARMTH))
        yield Call(f"{name}, T, traced", function, (Z, WARMTH, ORDER))
    yield Call("topk_sigmoid, T", lambda z, t: js.topk_sigmoid(z, 2, temperature=t), (Z, WARMTH))
    for name in ("entmax", "sparsemax", "normmax", "smoothmax", "logsumexp", "log_softmax"):
        yield Call(f"{name}, T", functools.partial(_tempered, getattr(js, name)), (Z, WARMTH))
    for y in (Y, P):
        yield Call(
            "entmax_loss, traced", lambda z, y, a: js.entmax_loss(z, y, alpha=a), (Z, y, ORDER)
        )
        yield Call("sparsemax_loss", js.sparsemax_loss, (Z, y))
    for r in (
        js.Tsallis(0.5), js.Tsallis(3.0), js.FermiDirac(), js.Laplace(), js.Elastic(2.0),
        js.JensenShannon(),
    ):  # fmt: skip

        def of(z, y, t, r=r):
            return (
                js.regularized_argmax(z, r, temperature=t),
                js.regularized_argmax(z, r, prior=8 * y, temperature=t),
                js.smoothmax(z, regularizer=r, temperature=t),
                js.fenchel_young_loss(z, y, r),
                js.fenchel_young_loss(z, jnp.argmax(y, axis=-1), r),
                js.topk_entmax(z, 2, regularizer=r, temperature=t),
            )

        yield Call(f"{r}", of, (Z, P, WARMTH))


def _mappings_and_losses():
    names = [call.name for call in CALLS]
    return CALLS[: names.index("gumbel_softmax")]


QUICK = {
    "softmax", "entmax, 3", "smoothmax, α and T", "capped_entmax, T, 1.5", "sparsemax_loss",
    "cross_entropy",
}  # fmt: skip


@pytest.mark.parametrize("spread", some([1, 30], [30]))
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(call, id=call.name, marks=[] if call.name in QUICK else pytest.mark.slow)
        for call in (*_mappings_and_losses(), *_more())
    ],
)
def test_no_infinity_or_nan_is_formed_of_finite_scores(call, spread):
    operands = call.operands(0)
    if call.makes[0] is Z:
        operands[0] = spread * operands[0]
    with jax.debug_nans(True), jax.debug_infs(True):
        jax.block_until_ready(call.value(operands))
        if call.is_differentiable:
            jax.block_until_ready(call.gradient(operands))
