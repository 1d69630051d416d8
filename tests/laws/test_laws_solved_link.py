"""A link solved numerically equals the closed form: three methods alone define the map."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests.marks import some

rng = np.random.default_rng(11)
KNOWN = {
    "Tsallis 1": js.Tsallis(1.0),
    "Tsallis 0.5": js.Tsallis(0.5),
    "Tsallis 1.5": js.Tsallis(1.5),
    "Tsallis 3": js.Tsallis(3.0),
    "Elastic": js.Elastic(50.0),
    "FermiDirac": js.FermiDirac(),
    "JensenShannon": js.JensenShannon(),
    "Laplace": js.Laplace(),  # ω″ jumps
}
slow = pytest.mark.slow


def without_link(known: js.Regularizer) -> js.Regularizer:
    """Reduce a regularizer to its three required methods."""

    @dataclasses.dataclass(frozen=True)
    class Bare(js.Regularizer):
        def value(self, p):
            return known.value(p)

        def marginal(self, p):
            return known.marginal(p)

        def slope(self, p):
            return known.slope(p)

    return Bare()


@pytest.mark.parametrize("name", some(KNOWN, ["Tsallis 3", "FermiDirac"]))
def test_a_solved_link_is_the_known_one(name):
    known, bare = KNOWN[name], without_link(KNOWN[name])
    z = rng.standard_normal((12, 40)) * np.array([1e-3, 0.3, 3, 30])[np.arange(12) % 4][:, None]
    z[4] = 1.0
    z[5, :3] = z[5].max() + 1
    z[6, 1:], z[7, ::2], z[8], z[9, 3] = -np.inf, -np.inf, -np.inf, np.nan
    along = rng.standard_normal(z.shape)

    def facts(regularizer):
        def p(z):
            return js.regularized_argmax(z, regularizer)

        return jax.jvp(p, (z,), (along,))

    for ours, right in zip(jax.jit(facts, static_argnums=0)(bare), facts(known), strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-9, atol=1e-10)
    single = jax.jit(lambda z: js.regularized_argmax(z, bare))(z.astype(np.float32))
    right = js.regularized_argmax(jnp.asarray(z, jnp.float32).astype(float), known)
    np.testing.assert_allclose(single, right, atol=3e-6)
