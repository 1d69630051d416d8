"""`Categorical` of any regularizer and prior: one distribution in all its methods, and a pytree."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jsoftmax as js
from tests.a_regularizer_of_a_stranger import Blend
from tests.marks import some

near = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)
RNG = np.random.default_rng(4)
Z = jnp.asarray(RNG.standard_normal((2, 4)))
PRIOR = np.array([[0.7, 1.3, 0.0, 0.9], [0.4, 0.8, 0.9, 3.0]])
KEY = jax.random.key(1)
T = 0.9
REGULARIZERS = {
    "softmax": js.Tsallis(1.0),
    "sparse": js.Tsallis(1.5),
    "elastic": js.Elastic(jnp.array([[1.0], [2.0]])),
    "Fermi–Dirac": js.FermiDirac(),
    "a stranger's": Blend(1.5),
}
EACH = pytest.mark.parametrize("name", some(REGULARIZERS, ["sparse", "a stranger's"]))


def of(name):
    return js.Categorical(Z, regularizer=REGULARIZERS[name], prior=PRIOR, temperature=T)


@jax.jit
def every_method(d):
    classes = jnp.arange(4)[:, None]
    return {
        "p": d.probabilities(),
        "log p": d.log_probabilities(),
        "prob": d.prob(classes).T,
        "log_prob": d.log_prob(classes).T,
        "log_prob of one": d.log_prob(jnp.array([1, 3])),
        "mode": d.mode(),
        "entropy": d.entropy(),
        "kl": d.kl_divergence(d),
        "cross-entropy": d.cross_entropy(d),
        "draws": d.sample(KEY, (8000,)),
    }


@EACH
def test_all_methods_are_of_one_distribution(name):
    d = of(name)
    p = np.asarray(js.regularized_argmax(Z, REGULARIZERS[name], prior=PRIOR, temperature=T))
    found = every_method(d)
    near(found["p"], p)
    near(found["prob"], p)
    near(np.exp(found["log p"]), p)
    near(np.exp(found["log_prob"]), p)
    near(np.exp(found["log_prob of one"]), p[[0, 1], [1, 3]])
    np.testing.assert_array_equal(found["mode"], p.argmax(-1))
    near(found["entropy"], scipy.stats.entropy(p, axis=-1))
    near(found["kl"], 0)
    near(found["cross-entropy"], found["entropy"])
    for row, draws in zip(p, np.asarray(found["draws"]).T, strict=True):
        counts, some = np.bincount(draws, minlength=4), row > 0
        assert (counts[~some] == 0).all()
        assert scipy.stats.chisquare(counts[some], 8000 * row[some] / row.sum()).pvalue > 1e-3


def test_a_prior_can_outweigh_the_scores_in_the_mode():
    d = js.Categorical(jnp.array([1.0, 0.0]), prior=np.array([1.0, 9.0]))
    assert d.mode() == 1
    assert js.Categorical(jnp.zeros(3), prior=np.zeros(3)).mode() == -1


def test_a_prior_of_zeros_and_ones_is_a_mask():
    keep = np.array([True, False, True, True])
    options = {"regularizer": js.Elastic(2.0)}
    masked, weighed = js.Categorical(Z, where=keep, **options), js.Categorical(
        Z, prior=keep.astype(float), **options
    )  # fmt: skip
    near(weighed.probabilities(), masked.probabilities())
    np.testing.assert_array_equal(weighed.sample(KEY, (9,)), masked.sample(KEY, (9,)))


@pytest.mark.parametrize("name", ["elastic", "a stranger's"])
def test_it_is_a_pytree_with_its_numbers_in_the_structure(name):
    """Batched, indexed, pickled; the same structure, and hash of it, as one made alike."""
    d = of(name)
    p = np.asarray(d.probabilities())
    assert jax.tree.structure(d) == jax.tree.structure(of(name))
    assert hash(jax.tree.structure(d)) == hash(jax.tree.structure(of(name)))
    assert len(jax.tree.leaves(d)) == 2 + len(jax.tree.leaves(REGULARIZERS[name]))
    near(jax.vmap(js.Categorical.probabilities)(d), p)
    near(jax.tree.map(lambda x: x[1], d).probabilities(), p[1])
    back = pickle.loads(pickle.dumps(d))
    assert type(back.regularizer) is type(d.regularizer)
    near(back.probabilities(), p)


def test_gradients_reach_scores_prior_and_the_numbers_of_a_regularizer():
    d = js.Categorical(Z[1], regularizer=js.Elastic(jnp.array(2.0)), prior=jnp.asarray(PRIOR[1]))
    gradient = jax.grad(lambda d: d.log_prob(2))(d)

    def direct(z, strength, prior):
        p = js.regularized_argmax(z, js.Elastic(strength), prior=prior)
        return jnp.log(p[2])

    expected = jax.grad(direct, (0, 1, 2))(Z[1], jnp.array(2.0), jnp.asarray(PRIOR[1]))
    near(gradient.logits, expected[0])
    near(gradient.regularizer.strength, expected[1][None])
    near(gradient.prior, expected[2])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": 1.5, "regularizer": js.Elastic()}, ValueError, "both `alpha` and `regularizer`"),
        ({"regularizer": js.Elastic(np.ones(4))}, ValueError, "`strength` of shape .* size 1"),
        ({"prior": -np.ones(4)}, ValueError, "`prior` must be finite and at least 0"),
        ({"prior": np.ones(3)}, ValueError, r"`prior` has shape \(3,\)"),
    ],
)
def test_mistakes_are_named(options, error, message):
    with pytest.raises(error, match=rf"^jsoftmax.Categorical: .*{message}"):
        js.Categorical(Z, **options)


@pytest.mark.parametrize("name", ["elastic", "a stranger's"])
def test_a_relaxed_subset_has_k_classes_by_any_regularizer(name):
    x = js.relaxed_topk(KEY, Z, 2, temperature=0.5, regularizer=REGULARIZERS[name])
    near(x.sum(-1), 2)
    assert (x >= 0).all() and (x <= 1 + 1e-12).all()
