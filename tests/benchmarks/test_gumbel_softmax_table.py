"""Networks of the Gumbel-softmax table against sums over all samples; one cell, at a small size."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gumbel_softmax_table as benchmark
from benchmarks.binarised_images import Images, binarised, mnist
from benchmarks.stochastic_networks import Autoencoder, StructuredOutput, Units, exact_node

RNG = np.random.default_rng(0)
X = (RNG.random((3, 8)) > 0.5).astype(float)


def samples(units):
    """All one-hot samples of a layer."""
    for classes in itertools.product(range(units.classes), repeat=units.rows):
        yield jax.nn.one_hot(jnp.array(classes), units.classes, dtype=float)


def over_samples(units):
    """A node that is the exact mean of f."""

    def node(key, z, f):
        total = 0.0
        for one_hot in samples(units):
            p = jnp.prod(jnp.sum(jax.nn.softmax(z) * one_hot, -1), -1)
            total += p * f(jnp.broadcast_to(one_hot, z.shape))
        return total

    return node


def start(task):
    """Parameters away from where training begins, biases too."""
    model = task.start(jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape)), model)


@pytest.mark.parametrize("units", [Units(3, 2), Units(2, 3)], ids=["Bernoulli", "categorical"])
@pytest.mark.parametrize("kind", [StructuredOutput, Autoencoder])
def test_losses_of_exact_samples_have_the_mean_over_all_samples(kind, units):
    """20,000 keys; five standard errors."""
    task = kind(units, 8)
    model = start(task)
    node = exact_node(1.0)
    keys = jax.random.split(jax.random.key(1), 20_000)
    drawn = jax.vmap(lambda key: task.losses(model, key, X, node))(keys)
    if kind is StructuredOutput:
        right = _structured(units, model)
    else:
        right = task.losses(model, keys[0], X, over_samples(units))
    error = drawn.std(0) / np.sqrt(len(keys))
    assert (abs(drawn.mean(0) - right) < 5 * error).all()


def _structured(units, model):
    upper, lower = np.split(X, 2, axis=-1)

    def dense(layer, x):
        return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])

    def p_of(z, one_hot):
        return np.prod(np.sum(np.asarray(jax.nn.softmax(z)) * one_hot, -1), -1)

    total = np.zeros(len(X))
    z1 = units.logits(dense(model["first"], upper))
    for a in samples(units):
        z2 = units.logits(dense(model["second"], units.numbers(a)))
        for b in samples(units):
            z = dense(model["out"], np.asarray(units.numbers(b)))
            loss = -np.sum(lower * np.log(1 / (1 + np.exp(-z))), -1)
            loss -= np.sum((1 - lower) * np.log(1 / (1 + np.exp(z))), -1)
            total += p_of(z1, a) * p_of(z2, b) * loss
    return total


def test_the_judge_of_structured_output_approaches_the_marginal_likelihood():
    """−log E p, which is no more than the mean of −log p."""
    task = StructuredOutput(Units(3, 2), 8)
    model = start(task)
    keys = jax.random.split(jax.random.key(2), 4_000)
    assert (task.judged(model, keys, X, 1.0) < _structured(task.units, model)).all()


@pytest.mark.parametrize(
    ("cell", "index"),
    [
        ("structured output, Bernoulli", 0),
        ("autoencoder, Bernoulli", 4),
        ("autoencoder, categorical", 7),
    ],
)
def test_every_cell_can_be_measured_and_shown(cell, index, monkeypatch):
    """Ten steps of one seed; training helps, and the table has a row for it."""
    monkeypatch.setattr(benchmark, "BATCH", 4)
    monkeypatch.setattr(benchmark, "RATES", (1e-6, 3e-2))
    images = Images("few", *(np.repeat(X, 4, 0).astype(np.float32),) * 3)
    contestant = benchmark.contestants()[index]
    record = benchmark.measure(contestant, cell, images, 20, steps=20, seeds=2)
    assert record["rate"] == 3e-2 and len(record["nats"]) == 2
    assert np.isfinite(record["nats"]).all() and all(0 < step <= 20 for step in record["step"])
    records = [{**record, "cell": each} for each in benchmark.CELLS]
    (row, *_), width = (made := benchmark.table(records, images, 20, 20)).rows, len(made.headers)
    assert row[0] == contestant.name and all(len(x) == width for x in made.rows)


def test_mnist_is_read_from_a_file(tmp_path):
    grey = RNG.integers(0, 256, (24, 4, 4)).astype(np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=grey, x_test=grey[:5])
    images = mnist(tmp_path / "mnist.npz")
    assert [len(x) for x in images[1:]] == [22, 2, 5]
    np.testing.assert_array_equal(images.judged, binarised(grey[:5] / 255))
    assert set(np.unique(images.learned)) == {0.0, 1.0}
