"""The laws of mappings hold for their kernels, interpreted, in float32.

They are those of tests/laws/test_laws.py, which ask for p in float64. Here a tolerance is as many
roundings of float32 as it is of float64 there.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.catalogue import CATALOGUE, CLASSES, ROWS
from tests.kernels.rows_helpers import interpreted
from tests.laws import test_laws as laws

pytestmark = [pytest.mark.kernels, pytest.mark.slow]
BY_KERNELS = ("softmax", "sparsemax", "entmax")
MEMBERS = [m for m in CATALOGUE if m.name.split()[0] in BY_KERNELS]
SOFT = [m for m in MEMBERS if m.kind != "hard"]
FLOAT32 = float(np.finfo(np.float32).eps / np.finfo(np.float64).eps)
LAWS = {
    laws.test_probabilities_are_between_zero_and_the_cap_and_sum_to_the_mass: MEMBERS,
    laws.test_they_are_what_an_independent_computation_gives: MEMBERS,
    laws.test_adding_a_number_to_all_scores_changes_nothing: MEMBERS,
    laws.test_multiplying_all_scores_by_a_number_changes_something: SOFT,
    laws.test_permuting_the_scores_permutes_the_probabilities: MEMBERS,
    laws.test_equal_scores_have_equal_probabilities: MEMBERS,
    laws.test_only_the_sparse_ones_give_exact_zeros_to_finite_scores: MEMBERS,
    laws.test_temperature_divides_the_scores: SOFT,
    laws.test_a_negative_temperature_turns_the_scores_over: MEMBERS,
    laws.test_at_infinite_temperature_all_unmasked_classes_are_equal: SOFT,
    laws.test_at_temperature_zero_the_largest_scores_share_the_mass: MEMBERS,
    laws.test_masked_classes_are_as_if_they_were_not_there: MEMBERS,
}
CASES = [
    pytest.param(law, mapping, ("tpu", "gpu")[number % 2], id=f"{law.__name__[5:]}-{mapping.name}")
    for law, mappings in LAWS.items()
    for number, mapping in enumerate(mappings)
]


@functools.cache
def compiled(mapping, chip):
    """p of ROWS rows by a kernel of this chip."""

    def p(logits, where, temperature):
        with interpreted(chip):
            return mapping(logits, where=where, temperature=temperature, implementation="pallas")

    return jax.jit(p)


def p_of(chip, mapping, logits, where=True, temperature=1.0):
    """As that of the catalogue, in float32."""
    logits = np.asarray(logits, np.float64)
    temperature = np.broadcast_to(np.asarray(temperature, np.float64), (len(logits), 1))
    fill = [(0, ROWS - len(logits)), (0, 0)]
    z, t = (np.pad(x, fill).astype(np.float32) for x in (logits, temperature))
    mask = np.pad(np.broadcast_to(where, logits.shape), fill)
    found = compiled(mapping, chip)(jnp.asarray(z), jnp.asarray(mask), jnp.asarray(t))
    assert found.dtype == jnp.float32
    return np.asarray(found)[: len(logits)]


@pytest.mark.parametrize(("law", "mapping", "chip"), CASES)
def test_a_law_of_mappings(law, mapping, chip, monkeypatch):
    near = laws.near

    def nearly(actual, desired, tolerance=1e-13):
        near(actual, desired, tolerance * FLOAT32)

    monkeypatch.setattr(laws, "p_of", functools.partial(p_of, chip))
    monkeypatch.setattr(laws, "near", nearly)
    law(mapping)


@pytest.mark.parametrize("chip", ["tpu", "gpu"])
@pytest.mark.parametrize("mapping", MEMBERS, ids=lambda mapping: mapping.name)
def test_what_stands_behind_a_mask_does_not_matter_in_one_bit(mapping, chip):
    results = [
        p_of(chip, mapping, np.where(laws.MASK, laws.LOGITS, behind), laws.MASK)
        for behind in (0.0, np.nan, np.inf, -np.inf, 1e38)
    ]
    assert len({x.tobytes() for x in results}) == 1
    assert (results[0][~laws.MASK] == 0).all()


@pytest.mark.parametrize("mapping", MEMBERS, ids=lambda mapping: mapping.name)
def test_a_larger_score_never_has_the_smaller_probability(mapping):
    order = np.argsort(laws.LOGITS.astype(np.float32), axis=-1)
    p = np.take_along_axis(p_of("tpu", mapping, laws.LOGITS), order, -1)
    assert p.shape == (ROWS, CLASSES)
    assert np.diff(p, axis=-1).min() > -1e-15 * FLOAT32
