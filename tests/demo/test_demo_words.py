"""The section on words: its output, and the properties of its output layers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsoftmax.demo import _words, main
from jsoftmax.demo._output_layers import LAYERS
from tests.marks import some

ROW = re.compile(r"^ (full|Huffman|sampled) +([\d.]+) +([\d.]+) +[\d.]+ (.*)$", re.MULTILINE)


@pytest.mark.slow
def test_every_output_layer_learns(tmp_path, capsys, monkeypatch):
    """One pass over a tenth of the text: at most half of the perplexity of chance."""
    whole = _words.read(0)
    tenth = whole._replace(
        learned=whole.learned[: len(whole.learned) // 10], held_out=whole.held_out[:2000]
    )
    monkeypatch.setattr(_words, "read", lambda seed: tenth)
    assert main(["--section", "words", "--epochs", "2", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "in 1 pass." in " ".join(text.split())
    (singly,) = re.findall(r"alone\s+give\s+(\d+)", text)
    chance = len(whole.words)
    assert 1 < float(singly) < chance
    rows = ROW.findall(text)
    assert [row[0] for row in rows] == list(LAYERS)
    for _, learned, held_out, guesses in rows:
        assert 1 < float(learned) < chance / 2 and 1 < float(held_out) < chance / 2
        assert "%" in guesses
    assert max(map(len, text.splitlines())) <= 80


def test_words_are_numbered_by_frequency_and_those_held_out_are_judged():
    """Rare words share a number; a batch has the words before each of its targets."""
    corpus = _words.read(0)
    counts = np.bincount(corpus.learned, minlength=len(corpus.words))
    np.testing.assert_array_equal(counts, corpus.counts)
    assert (np.diff(counts) <= 0).all()
    assert len(set(corpus.words)) == len(corpus.words) > 2000
    unknown = corpus.words.index(_words.UNKNOWN)
    assert (np.delete(counts, unknown) >= _words.LEAST_COUNT).all()
    assert list(corpus.encode(["the", "brontosaurus"])) == [corpus.words.index("the"), unknown]
    batches = _words.Batches.of(np.arange(_words.CONTEXT + 2 * _words.BATCH + 1))
    assert batches.targets.shape == (2, _words.BATCH)
    assert sorted(np.ravel(batches.targets)) == list(range(3, 3 + 2 * _words.BATCH))
    back = np.asarray(batches.targets)[..., None] - np.asarray(batches.context)
    assert (back == [3, 2, 1]).all()


@pytest.mark.parametrize("name", some(["full", "Huffman"], ["Huffman"]))
def test_an_output_layer_trains_on_the_distribution_by_which_it_is_judged(name):
    """The loss of the rows that a step reads is −log p of the targets, and Σ p = 1."""
    layer = LAYERS[name](np.array([9, 5, 3, 2, 2, 1, 1]))
    rng = np.random.default_rng(0)
    h, table = jnp.asarray(rng.normal(size=(7, 4))), jnp.asarray(rng.normal(size=(layer.rows, 4)))
    log_p = layer.log_p(h, table)
    np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1, rtol=1e-12)
    ids, loss = layer.loss(jax.random.key(0), jnp.arange(7))
    np.testing.assert_allclose(loss(h, table[ids]), -jnp.diagonal(log_p), rtol=1e-10)


@pytest.mark.slow
def test_the_sampled_layer_reads_targets_and_draws_alone():
    """Its loss does not depend on the other rows."""
    layer = LAYERS["sampled"](np.arange(5000, 0, -1))
    targets = jnp.array([17, 4999, 17])
    ids, loss = layer.loss(jax.random.key(0), targets)
    assert ids.shape == (3 + 128,) and {17, 4999} <= set(ids.tolist())
    h = jnp.ones((3, 4))
    table = jnp.full((5000, 4), jnp.nan).at[ids].set(0)
    assert np.isfinite(loss(h, table[ids])).all()
