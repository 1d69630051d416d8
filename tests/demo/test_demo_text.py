"""The section on text: its output and files, and the properties of its parts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.image import imread

from jsoftmax.demo import _text, main
from jsoftmax.demo._transformer import CONTEXT, HEADS, LAYERS, Transformer, turned

ROW = re.compile(
    r"^ (softmax|entmax-1.5|learned α) +([\d.]+) +([\d.]+) +([\d.]+)% +([\d.]+)% +"
    r"([\d.]+)(?: to ([\d.]+))? +[\d.]+ *$",
    re.MULTILINE,
)


@pytest.mark.slow
def test_the_section_prints_a_table_and_saves_a_picture(tmp_path, capsys):
    """Only softmax uses every key, only the learned α moves, and all beat single characters."""
    assert main(["--section", "text", "--epochs", "2", "--output", str(tmp_path / "new")]) == 0
    text = capsys.readouterr().out
    assert "16 steps" in text
    rows = ROW.findall(text)
    assert [row[0] for row in rows] == list(_text.ATTENTIONS)
    (singly,) = re.findall(r"alone\s+give\s+(\d+\.\d+)", text)
    for name, learned, held_out, first, second, low, high in rows:
        assert 1 < float(learned) < float(singly) and 1 < float(held_out) < float(singly)
        assert (first == second == "100.0") == (name == "softmax")
        # Every character uses one key at least, of 128 at most.
        assert min(float(first), float(second)) > 100 * 2 / (CONTEXT + 1)
        if name == "learned α":
            assert 1 < float(low) < 1.5 or 1.5 < float(high or low) < 2
        else:
            assert low == {"softmax": "1.00", "entmax-1.5": "1.50"}[name] and not high
    path = tmp_path / "new" / "text-attention.png"
    assert str(path) in text.replace("\n", "")
    assert imread(path).std() > 0.05  # something is drawn


def test_nothing_that_is_held_out_is_learned():
    """No paragraph is in both texts, and about a tenth of the text is held out."""
    corpus = _text.read(0)
    learned, held_out = (
        "".join(corpus.characters[i] for i in part) for part in (corpus.learned, corpus.held_out)
    )
    paragraphs = [
        {paragraph.strip() for paragraph in part.split("\n\n")} for part in (learned, held_out)
    ]
    assert not paragraphs[0] & paragraphs[1] and min(map(len, paragraphs)) > 100
    assert 0.05 < len(held_out) / len(learned) < 0.4
    assert (corpus.encode(held_out) == corpus.held_out).all()
    pieces = _text.windows(corpus.held_out)
    assert pieces.shape == (_text.WINDOWS, CONTEXT + 1)
    assert (pieces[0] == corpus.held_out[: CONTEXT + 1]).all()
    assert (pieces[-1] == corpus.held_out[-CONTEXT - 1 :]).all()


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, None])
def test_a_character_is_guessed_from_those_before_it(alpha):
    """Scores do not depend on later tokens; weights are distributions over earlier ones."""
    model = Transformer(5, alpha, nnx.Rngs(0))
    graph, state = nnx.split(model)

    @jax.jit
    def both(text):
        model = nnx.merge(graph, state)
        return model(text), *model.shown(text)

    text = jnp.array([[0, 3, 1, 4, 1, 2]])
    (scores, shown, p), (later, *_) = both(text), both(text.at[0, 4].set(0))
    np.testing.assert_allclose(scores, shown, atol=1e-5)  # two ways to compute the same
    np.testing.assert_allclose(scores[0, :4], later[0, :4], atol=1e-6)
    assert abs(scores[0, 4] - later[0, 4]).max() > 1e-3
    assert p.shape == (LAYERS, 1, HEADS, 6, 6)
    assert (np.asarray(p)[..., ~np.tri(6, dtype=bool)] == 0).all()
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(model.alphas(), np.full((LAYERS, HEADS), alpha or 1.5))


def test_turned_products_depend_on_the_distance_alone():
    """The same query and key at every place: q·k is the same along each diagonal."""
    rng = np.random.default_rng(0)
    q, k = (turned(jnp.ones((1, 9, 1, 1)) * rng.normal(size=8)) for _ in range(2))
    products = np.einsum("nthd,nshd->ts", q, k)
    for distance in range(-8, 9):
        np.testing.assert_allclose(np.ptp(np.diagonal(products, distance)), 0, atol=1e-12)
    assert np.ptp(products[0]) > 0.1
