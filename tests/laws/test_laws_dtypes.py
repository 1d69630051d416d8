"""Float32 scores are computed in float32 where float64 is enabled: no row is float64."""

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from jsoftmax.policies import kl_divergence
from tests.losses.loss_helpers import LABELLED
from tests.mappings.mapping_helpers import ARGUMENTS, AT_A_TEMPERATURE, values

Z = np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)
T = np.full((2, 1), 0.7, np.float32)
FUNCTIONS = {
    **{f"{n} at T": lambda z, n=n: AT_A_TEMPERATURE[n](z, temperature=T) for n in AT_A_TEMPERATURE},
    **{n: lambda z, n=n: values(n, z) for n in ARGUMENTS},
    "binary_entmax at T": lambda z: js.binary_entmax(z, temperature=np.float32(0.7)),
    "softmax of some": lambda z: js.softmax(z, where=Z > 0),
    **{n: lambda z, f=f: f(z, np.array([1, 3])) for n, f in LABELLED.items()},
    **{f"{n} of distributions": lambda z, f=f: f(z, abs(Z)) for n, f in LABELLED.items()},
    **{
        f"{n} with options": lambda z, f=f: f(
            z, np.array([1, 3]), label_smoothing=0.1, class_weights=Z[1], ignore_index=1
        )
        for n, f in LABELLED.items()
    },
    "topk_entmax_loss": lambda z: js.topk_entmax_loss(z, np.array([[0, 1], [2, 3]])),
    "cross_entropy with more": lambda z: js.cross_entropy(
        z, np.array([1, 3]), temperature=T, z_loss=0.1, logits_soft_cap=3.0
    ),
    "gumbel_softmax": lambda z: js.gumbel_softmax(jax.random.key(0), z, 0.7),
    "kl_divergence": lambda z: kl_divergence(js.softmax(z), js.softmax(-z)),
}


def rows_of_float64(jaxpr):
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            if getattr(variable.aval, "dtype", None) == np.float64 and variable.aval.size > 1:
                yield f"{equation.primitive} {variable.aval.shape}"
        for parameter in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr),
        ):
            if isinstance(parameter, jax.extend.core.ClosedJaxpr):
                yield from rows_of_float64(parameter.jaxpr)
            elif isinstance(parameter, jax.extend.core.Jaxpr):
                yield from rows_of_float64(parameter)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rows_of_float32_stay_float32(name):
    function = FUNCTIONS[name]
    z = jax.ShapeDtypeStruct(Z.shape, jnp.float32)
    for f in (function, jax.grad(lambda z: sum(x.sum() for x in jax.tree.leaves(function(z))))):
        jaxpr = jax.make_jaxpr(f)(z).jaxpr
        assert sorted(set(rows_of_float64(jaxpr))) == []
