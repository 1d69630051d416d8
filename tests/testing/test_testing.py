"""The assertions for users: each passes, each can fail, and its message shows place and number."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from jsoftmax.testing import assert_certificate, assert_distribution, assert_same_mapping

Z = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)))
KEEP = jnp.array([True, True, False, True, True])
P = js.softmax(Z)


def certified(p, **options):
    assert_certificate(p, Z, **options)


WRONG = {
    "a sum": (
        lambda p: assert_distribution(p), P.at[1, 2].mul(1.5),
        r"assert_distribution'? failed: row \(1, 2\) sums to 1\.5, and not to 1",
    ),
    "a negative number": (
        lambda p: assert_distribution(p), P.at[0, 3, 1].set(-0.25),
        r"entry \(0, 3, 1\) is -0\.25, not a probability",
    ),
    "NaN": (
        lambda p: assert_distribution(p), P.at[2, 0, 4].set(jnp.nan),
        r"entry \(2, 0, 4\) is nan, not a probability",
    ),
    "an infinity": (
        lambda p: assert_distribution(p), P.at[2, 0, 4].set(jnp.inf), r"\(2, 0, 4\) is inf",
    ),
    "mass on a masked class": (
        lambda p: assert_distribution(p, where=KEEP), js.softmax(Z, where=KEEP).at[1, 1, 2].set(
            0.125), r"entry \(1, 1, 2\) is 0\.125, and not 0, though it is excluded",
    ),
    "mass in a masked row": (
        lambda p: assert_distribution(p, where=jnp.zeros(5, bool)),
        jnp.zeros((3, 4, 5)).at[0, 1, 3].set(1e-3), r"entry \(0, 1, 3\) is 0\.001, and not 0",
    ),
    "other axes": (
        lambda p: assert_distribution(p, (0, 2)), js.softmax(Z, axis=(0, 2)).at[:, 3].mul(0.5),
        r"row \(3,\) sums to 0\.5",
    ),
    "all classes": (
        lambda p: assert_distribution(p, (0, 1, 2)), P, r"row \(\) sums to 12, and not to 1",
    ),
    "another order": (
        lambda p: certified(p, alpha=1.5), js.entmax(Z, 1.52),
        r"assert_certificate'? failed: entry \(\d, \d, \d\) is 0\.\d+, and not 0\.\d+, if the larg",
    ),
    "another temperature": (
        lambda p: certified(p, alpha=1.0, temperature=1.01), P, r"is 0\.\d+, and not 0\.\d+",
    ),
    "a row that sums to nothing": (
        lambda p: certified(p, alpha=2.0), js.sparsemax(Z).at[1, 1].set(0),
        r"assert_certificate'? failed: row \(1, 1\) sums to 0, and not to 1",
    ),
    "one wrong row, normalised": (
        lambda p: certified(p, alpha=2.0), js.sparsemax(Z).at[2, 3].set(0.2),
        r"entry \(2, 3, \d\) is 0\.2, and not",
    ),
    "other values": (
        lambda z: assert_same_mapping(js.softmax, lambda z: js.softmax(z).at[1, 2, 3].add(0.5), z),
        Z, r"assert_same_mapping'? failed: values differ: entry \(1, 2, 3\) is 0\.\d+, and 0\.\d+",
    ),
    "other gradients": (
        lambda z: assert_same_mapping(
            js.softmax, lambda z: jax.lax.stop_gradient(js.softmax(z)), z
        ),
        Z, r"gradients differ: entry \(\d, \d, \d\) is -?\d\.\d+, and 0 by the other",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("assertion", "x", "words"), WRONG.values(), ids=WRONG.keys())
def test_assertions_fail_with_place_and_number(assertion, x, words):
    """Eagerly, and inside of jit under chex.chexify, which jit alone asks for."""
    with pytest.raises(AssertionError, match=words):
        assertion(x)
    compiled = jax.jit(assertion)
    checked = chex.chexify(compiled, async_check=False)
    with pytest.raises(AssertionError, match=words):
        checked(x)
    with pytest.raises(ValueError, match="not functionalized"):
        compiled(x)


MAPPINGS = [
    (1.0, {}),
    (np.array([0.5, 1.0, 1 + 1e-9, 1.3])[:, None], {}),
    (np.array([2.0, 3.0, 8.0, 40.0])[:, None], {}),
    (1.5, {"where": KEEP}),
    (1.5, {"where": jnp.zeros(5, bool)}),
    (2.0, {"axis": (0, 2), "temperature": 0.25}),
    (1.5, {"temperature": np.linspace(0.1, 2, 4)[:, None]}),
]


@pytest.mark.parametrize(("alpha", "options"), MAPPINGS)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16])
def test_right_answers_pass(alpha, options, dtype):
    """Of every α, in every dtype, with masks, several axes and infinite logits."""
    z = (3 * Z).at[0, 0, 0].set(-jnp.inf).at[1].set(-jnp.inf).at[2, 1, 1:3].set(jnp.inf)
    z = z.astype(dtype)
    p = js.entmax(z, alpha, **options)
    assert_certificate(p, z, alpha=alpha, **options)
    wrong = p.astype(jnp.float32) * (1 + 0.05)
    if options.get("where") is not None and not options["where"].any():
        wrong = p + 0.05
    with pytest.raises(AssertionError, match="assert_certificate"):
        assert_certificate(wrong, z, alpha=alpha, **options)


def test_distributions_pass():
    """Also one-hot integers, empty batches, and inside of jit."""
    assert_distribution(np.eye(3, dtype=int))
    assert_distribution(jnp.zeros((0, 3)))
    assert_distribution(P.astype(jnp.bfloat16))
    assert_distribution(P[0] * KEEP, where=KEEP, atol=1.0)
    chex.chexify(jax.jit(assert_distribution), async_check=False)(P)
    chex.chexify(jax.jit(partial(assert_certificate, alpha=1.0)), async_check=False)(P, Z)


def test_equal_mappings_pass():
    """Equal up to the tolerances, with NaN and infinities at equal places, and inside of jit."""
    z = Z.at[0, 0, 0].set(jnp.inf).at[1, 1, 1].set(jnp.nan)
    assert_same_mapping(lambda z: 2 * z, lambda z: z + z, z)
    assert_same_mapping(js.softmax, lambda z: js.softmax(z) + 1e-7, Z)
    assert_same_mapping(js.softmax, jax.nn.softmax, np.arange(3))

    def same(z):
        assert_same_mapping(js.sparsemax, lambda z: js.entmax(z, 2.0), z)

    chex.chexify(jax.jit(same), async_check=False)(Z)


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match=r"testing.assert_certificate: `p` has shape \(5,\)"):
        assert_certificate(jnp.ones(5), Z)
    with pytest.raises(ValueError, match="`alpha` must be positive and finite, got inf"):
        assert_certificate(P, Z, alpha=np.inf)
    with pytest.raises(ValueError, match="`temperature` must be positive and finite, got 0"):
        assert_certificate(P, Z, temperature=0.0)
    with pytest.raises(TypeError, match="`where` has dtype"):
        assert_distribution(P, where=jnp.ones(5))
    with pytest.raises(AssertionError, match=r"shapes differ: \(3, 4, 5\) and \(3, 4\)"):
        assert_same_mapping(js.softmax, js.logsumexp, Z)
