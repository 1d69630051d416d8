"""The language model of examples/: its computations, in this process."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.language_model import data, tokens
from examples.language_model.config import Config, Mistake
from examples.language_model.generate import generate
from examples.language_model.model import GPT
from examples.language_model.train import Training, make_mesh

SMALL = Config(
    classes=320, length=16, features=32, layers=2, heads=4, key_heads=4, hidden=48, batch=4,
    steps=12, warmup=2, rate=1e-2, dtype="float32",
)  # fmt: skip
GROUPED = dataclasses.replace(SMALL, key_heads=2)


def curve(config: Config, mesh: tuple[int, int] = (1, 1), steps: int | None = None) -> np.ndarray:
    """The loss of every step."""
    training = Training(config, make_mesh(*mesh, devices=jax.devices()[: mesh[0] * mesh[1]]))
    state, step = training.init(), training.compile()
    batches = batches_of(config)
    losses = []
    for _ in range(steps or config.steps):
        state, metrics = step(state, data.on_mesh(next(batches), training.mesh))
        losses.append(float(metrics.loss))
    return np.array(losses)


def batches_of(config: Config, part: int = 0, parts: int = 1):
    """The pipeline over the text that Python carries."""
    documents = tokens.documents()[:10]
    tokenizer = tokens.Tokenizer.of(documents, config.classes)
    return iter(
        data.pipeline(data.windows(documents, tokenizer, config.length), config, part, parts)
    )


@pytest.fixture(scope="module")
def model():
    """A grouped model with parameters as they are drawn, on one device."""
    with jax.set_mesh(make_mesh(1, 1, devices=jax.devices()[:1])):
        yield GPT(dataclasses.replace(GROUPED, alpha=1.5), rngs=nnx.Rngs(0))


def test_tokens_are_lossless():
    """Known words, unknown words and characters of several bytes come back."""
    tokenizer = tokens.Tokenizer.of(["to be or not to be"], 260)
    text = "to be\n\n  α-entmax, unheard of — to be"
    assert tokenizer.decode([tokens.END, *tokenizer.encode(text), tokens.END]) == text


def test_every_token_is_a_label_once_an_epoch():
    """Windows share the token that is the last label of one and the first input of the next."""
    documents = tokens.documents()[:10]
    tokenizer = tokens.Tokenizer.of(documents, 320)
    cut = data.windows(documents, tokenizer, 16)
    labels = [data.padded(window, 16)["labels"] for window in cut]
    kept = np.concatenate([row[row != tokens.IGNORED] for row in labels])
    want = np.concatenate([[*tokenizer.encode(text), tokens.END] for text in documents])
    np.testing.assert_array_equal(kept, want)


def test_parts_of_the_data_axis_read_one_batch_together():
    """Two parts have the windows that one reads, each of them once."""
    whole = next(batches_of(SMALL))["tokens"].reshape(-1, SMALL.length)
    halves = [next(batches_of(SMALL, part, 2))["tokens"] for part in range(2)]
    together = np.concatenate([half.reshape(-1, SMALL.length) for half in halves])
    assert sorted(map(tuple, whole)) == sorted(map(tuple, together))


def test_the_pipeline_goes_on_from_its_state():
    """A new iterator with the state of an old one continues its sequence."""
    old, new = batches_of(SMALL), batches_of(SMALL)
    for _ in range(3):
        next(old)
    new.set_state(old.get_state())
    chex.assert_trees_all_equal(next(old), next(new))


def test_the_loss_falls():
    """From log K, where nothing is known, by more than a nat in twelve steps."""
    losses = curve(SMALL)
    assert abs(losses[0] - np.log(SMALL.classes)) < 0.3
    assert losses[-1] < losses[0] - 1


def test_the_loss_falls_with_sparse_attention():
    """Of α = 1.5, and with blocks computed again, in bfloat16."""
    losses = curve(dataclasses.replace(GROUPED, alpha=1.5, remat=True, dtype="bfloat16"))
    assert losses[-1] < losses[0] - 1


def test_the_curve_is_that_of_jax_nn_and_optax():
    """In float32 they differ by rounding alone: 2e-7 after twelve steps, where 1e-5 is allowed."""
    ours, theirs = curve(GROUPED), curve(dataclasses.replace(GROUPED, peer=True))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_curve_is_that_of_jax_nn_and_optax_in_bfloat16():
    """Activations have 8 bits: 5e-5, where 1e-3 is allowed."""
    config = dataclasses.replace(GROUPED, dtype="bfloat16")
    np.testing.assert_allclose(
        curve(config), curve(dataclasses.replace(config, peer=True)), rtol=1e-3
    )


def test_a_mesh_changes_nothing():
    """2 × 4 devices against one: sums in another order, 2e-7, where 1e-5 is allowed."""
    np.testing.assert_allclose(curve(SMALL), curve(SMALL, (2, 4)), rtol=1e-5)


def test_accumulation_is_one_large_batch():
    """Two gradients of 4 windows are one of 8, padding and all."""
    twice = dataclasses.replace(SMALL, accumulate=2)
    once = dataclasses.replace(SMALL, batch=8)
    np.testing.assert_allclose(curve(twice, steps=4), curve(once, steps=4), rtol=1e-5)


def test_remat_changes_nothing():
    """Blocks that are computed again give the same curve."""
    again = dataclasses.replace(GROUPED, remat=True)
    np.testing.assert_allclose(curve(GROUPED, steps=4), curve(again, steps=4), rtol=1e-5)


def test_every_parameter_learns(model):
    """No gradient is zero throughout."""
    ids = jax.random.randint(jax.random.key(0), (2, 16), 0, 300)
    gradients = nnx.grad(lambda model: model.loss(ids, jnp.roll(ids, -1, 1)).sum())(model)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradients))


def test_padding_counts_for_nothing(model):
    """Neither loss nor gradient depends on tokens after the last label."""
    ids = jax.random.randint(jax.random.key(0), (2, 16), 1, 300)
    labels = jnp.roll(ids, -1, 1).at[:, 10:].set(tokens.IGNORED)

    def loss(model, ids, labels):
        return model.loss(ids, labels).sum()

    padded = nnx.value_and_grad(loss)(model, ids.at[:, 10:].set(tokens.END), labels)
    other = nnx.value_and_grad(loss)(model, ids, labels)
    short = nnx.value_and_grad(loss)(model, ids[:, :10], labels[:, :10])
    chex.assert_trees_all_close(padded, other, atol=1e-6)
    chex.assert_trees_all_close(padded, short, atol=1e-5)


def test_no_place_looks_ahead(model):
    """Features before a place do not change with the token at it."""
    ids = jax.random.randint(jax.random.key(0), (1, 16), 0, 300)
    a, b = model(ids), model(ids.at[0, 9].set(7))
    chex.assert_trees_all_equal(a[:, :9], b[:, :9])
    assert jnp.abs(a[:, 9:] - b[:, 9:]).max() > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_cache_changes_no_token(model, temperature):
    """Generation is that by the whole text at every token, with the same keys."""
    key, count = jax.random.key(1), 12
    ids = jax.random.randint(jax.random.key(0), (3, 5), 0, 300, dtype=jnp.int32)
    added = generate(model, ids, count, key, temperature)
    whole = jnp.pad(ids, ((0, 0), (0, count)))  # later tokens are not seen
    features_of = nnx.jit(lambda model, ids: model(ids))
    for number in range(count):
        features = features_of(model, whole)[:, 4 + number]
        key_of_token = jax.random.fold_in(key, number)
        token = model.head.sample(key_of_token, features, temperature=temperature)
        whole = whole.at[:, 5 + number].set(token.astype(jnp.int32))
    chex.assert_trees_all_equal(added, whole[:, 5:])


def test_sizes_that_do_not_fit_are_named():
    """The option at fault is in the message."""
    for wrong, name in (
        ({"heads": 3}, "--heads"), ({"heads": 4, "key_heads": 3}, "--key-heads"),
        ({"classes": 100}, "--classes"), ({"warmup": 12}, "--warmup"), ({"alpha": 0.0}, "--alpha"),
        ({"peer": True, "alpha": 1.5}, "--peer"), ({"rate": float("nan")}, "--rate"),
    ):  # fmt: skip
        with pytest.raises(Mistake, match=name):
            dataclasses.replace(SMALL, **wrong)
    with pytest.raises(Mistake, match="--batch 4"):
        SMALL.check_mesh(3, 1)
    with pytest.raises(Mistake, match="--key-heads 2"):
        GROUPED.check_mesh(1, 4)
