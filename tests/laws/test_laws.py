"""Laws of every mapping on values. Derivatives, splits and precision have files of their own."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra.numpy import arrays

from tests import oracles
from tests.catalogue import CATALOGUE, CLASSES, ROWS, Mapping, each, p_and_jacobian, p_of

RANDOM = np.random.default_rng(0)
SPREADS = np.repeat([0.01, 0.3, 1.0, 5.0], 4)[:, None]
LOGITS = SPREADS * RANDOM.standard_normal((ROWS, CLASSES))
LOGITS[1::4, 3] = LOGITS[1::4, 1]  # ties, at every spread
LOGITS[2::4, 0] = -np.inf
MASK = RANDOM.random((ROWS, CLASSES)) < 0.7
MASK[:, :3] = True
MASK[2::4] = True

SOFT = [mapping for mapping in CATALOGUE if mapping.kind != "hard"]
UNCAPPED = [mapping for mapping in CATALOGUE if mapping.upper == np.inf]
ALL, SMOOTH, ONES = each(), each(SOFT), each(UNCAPPED)


def near(actual, desired, tolerance=1e-13):
    """Equal but for rounding, of numbers of size one."""
    np.testing.assert_allclose(actual, np.asarray(desired, float), rtol=0, atol=tolerance)


@pytest.mark.parametrize(**ALL)
def test_probabilities_are_between_zero_and_the_cap_and_sum_to_the_mass(mapping):
    p = p_of(mapping, LOGITS)
    assert (p >= 0).all()
    assert (p <= mapping.upper).all()
    near(p.sum(-1), np.full(ROWS, mapping.mass))


@pytest.mark.parametrize(**ALL)
def test_they_are_what_an_independent_computation_gives(mapping):
    near(p_of(mapping, LOGITS), mapping.oracle(LOGITS))


@pytest.mark.parametrize(**ALL)
def test_adding_a_number_to_all_scores_changes_nothing(mapping):
    for shift in (-3.0, 0.1, 1e4):
        near(p_of(mapping, LOGITS + shift), p_of(mapping, LOGITS), 1e-12 * max(1, abs(shift)))


@pytest.mark.parametrize(**SMOOTH)
def test_multiplying_all_scores_by_a_number_changes_something(mapping):
    logits = [[0.0, 0.1, 0.3, 0.2, 0.1]]
    assert abs(p_of(mapping, np.multiply(2, logits)) - p_of(mapping, logits)).max() > 0.01


@pytest.mark.parametrize(**ALL)
def test_permuting_the_scores_permutes_the_probabilities(mapping):
    order = RANDOM.permutation(CLASSES)
    near(p_of(mapping, LOGITS[:, order]), p_of(mapping, LOGITS)[:, order])


@pytest.mark.parametrize(**ALL)
def test_a_larger_score_never_has_the_smaller_probability(mapping):
    order = np.argsort(LOGITS, axis=-1)
    p = np.take_along_axis(p_of(mapping, LOGITS), order, -1)
    assert np.diff(p, axis=-1).min() > -1e-15


@pytest.mark.parametrize(**ALL)
def test_equal_scores_have_equal_probabilities(mapping):
    p = p_of(mapping, LOGITS)[1::4]
    near(p[:, 1], p[:, 3], 1e-15)
    near(p_of(mapping, np.full((1, CLASSES), 7.0)), np.full((1, CLASSES), mapping.mass / CLASSES))


@pytest.mark.parametrize(**ALL)
def test_only_the_sparse_ones_give_exact_zeros_to_finite_scores(mapping):
    p = p_of(mapping, [[0.0, 0.1, -30.0, -20.0, -0.2]])
    assert (p == 0).any() == mapping.sparse


@pytest.mark.parametrize(**SMOOTH)
def test_temperature_divides_the_scores(mapping):
    for temperature in (0.5, 3.0):
        near(p_of(mapping, LOGITS, temperature=temperature), p_of(mapping, LOGITS / temperature))


@pytest.mark.parametrize(**ALL)
def test_a_negative_temperature_turns_the_scores_over(mapping):
    finite = np.where(np.isinf(LOGITS), 0.5, LOGITS)
    near(p_of(mapping, finite, temperature=-0.5), p_of(mapping, -finite, temperature=0.5))


@pytest.mark.parametrize(**SMOOTH)
def test_at_infinite_temperature_all_unmasked_classes_are_equal(mapping):
    finite = np.where(np.isinf(LOGITS), 0.5, LOGITS)
    share = np.where(MASK, mapping.mass / MASK.sum(-1, keepdims=True), 0)
    for temperature in (np.inf, -np.inf):
        near(p_of(mapping, finite, MASK, temperature), share)


@pytest.mark.parametrize(**ONES)
def test_at_temperature_zero_the_largest_scores_share_the_mass(mapping):
    logits = [[1, 5, 5, 2, 0], [3, 1, 2, 0, -np.inf], [0, 0, 0, 0, 0], [7, 7, -1, 7, 7]]
    right = [[0, 1 / 2, 1 / 2, 0, 0], [1, 0, 0, 0, 0], [1 / 5] * 5, [1 / 4, 1 / 4, 0, 1 / 4, 1 / 4]]
    near(p_of(mapping, logits, temperature=0.0), right)
    near(p_of(mapping, logits, temperature=1e-300), right)


@pytest.mark.parametrize(**each([mapping for mapping in CATALOGUE if mapping.upper < np.inf]))
def test_at_temperature_zero_caps_are_filled_from_the_largest_score_down(mapping):
    logits = [[1, 5, 4, 2, 0], [0, 2, 2, 1, -1]]
    cap, left = mapping.upper, mapping.mass
    first = [min(cap, max(0, left - n * cap)) for n in range(3)]
    pair = min(cap, left / 2)
    right = [
        [0, first[0], first[1], first[2], 0],
        [0, pair, pair, min(cap, left - 2 * pair), 0],
    ]
    near(p_of(mapping, logits, temperature=0.0), right)
    near(p_of(mapping, logits, temperature=1e-300), right)


@pytest.mark.parametrize(**ALL)
def test_what_stands_behind_a_mask_does_not_matter_in_one_bit(mapping):
    results = [
        p_and_jacobian(mapping, np.where(MASK, LOGITS, behind), MASK)
        for behind in (0.0, np.nan, np.inf, -np.inf, 1e308)
    ]
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert one.tobytes() == other.tobytes()
    p, forward, reverse = results[0]
    assert (p[~MASK] == 0).all()
    for jacobian in (forward, reverse):
        assert (np.swapaxes(jacobian, -1, -2)[~MASK] == 0).all()
        assert (jacobian[~MASK] == 0).all()


@pytest.mark.parametrize(**ALL)
def test_masked_classes_are_as_if_they_were_not_there(mapping):
    p = p_of(mapping, LOGITS, MASK)
    for row, logits, mask in zip(p, LOGITS, MASK, strict=True):
        near(row[mask], mapping.oracle(logits[mask][None])[0])


SCORES = st.one_of(
    st.sampled_from([0.0, 1.0, 1.0, -1.0, 0.5, np.inf, -np.inf, -np.inf, np.nan]),
    st.sampled_from([1e308, -1e308, 1e-300, 1e16, 0.1, -0.0]),
    st.floats(-4, 4, width=32, allow_subnormal=False),
)
TEMPERATURES = st.sampled_from([1.0, 1.0, 0.5, 0.0, -1.0, np.inf, 1e30, 1e-30])


@pytest.mark.parametrize(**ALL)
@hypothesis.settings(max_examples=15)
@hypothesis.given(
    logits=arrays(np.float64, (ROWS, CLASSES), elements=SCORES),
    mask=arrays(np.bool_, (ROWS, CLASSES), elements=st.sampled_from([True, True, True, False])),
    temperature=arrays(np.float64, (ROWS, 1), elements=TEMPERATURES),
)
def test_every_row_there_is_gives_a_distribution_or_zeros_or_nan(
    mapping, logits, mask, temperature
):
    results = p_and_jacobian(mapping, logits, mask, temperature)
    for row in zip(logits, mask, temperature[:, 0], *results, strict=True):
        check_row(mapping, *row)


def check_row(mapping: Mapping, logits, mask, temperature, p, forward, reverse):
    """The edge table for one row: where, then NaN, then infinities, then the temperature."""
    assert (p[~mask] == 0).all()
    z = np.where(mask, -logits if temperature < 0 else logits, -np.inf)
    if np.isnan(z).any():
        assert np.isnan(p[mask]).all()
        return
    possible = z > -np.inf
    if not possible.any():
        assert (p == 0).all()
        assert (forward == 0).all()
        assert (reverse == 0).all()
        return
    if possible.sum() < mapping.fewest:
        assert np.isnan(p[possible]).all()
        return
    assert (p[~possible] == 0).all()
    assert (p >= 0).all()
    assert (p <= mapping.upper).all()
    near(p.sum(), mapping.mass)
    order = np.argsort(z)
    assert np.diff(p[order]).min() > -1e-15
    for jacobian in (forward, reverse):
        assert not np.isnan(jacobian).any()
        assert (jacobian[~possible] == 0).all()
    top, uncapped = z == z.max(), mapping.upper == np.inf
    if mapping.kind == "hard" or (z.max() == np.inf and temperature < np.inf and uncapped):
        near(p, top / top.sum())
        assert (forward == 0).all()
        assert (reverse == 0).all()
    elif temperature == 0:
        assert (forward == 0).all()
        assert (reverse == 0).all()
        if uncapped:
            near(p, top / top.sum())
    elif temperature == np.inf and mapping.kind != "hard":
        near(p, possible * mapping.mass / possible.sum())


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 1.1, 1.5, 2.0, 3.0])
def test_the_oracles_agree_with_each_other(alpha):
    finite = np.where(np.isinf(LOGITS), 0.5, LOGITS)
    right = oracles.entmax(finite, alpha)
    near(oracles.capped(finite, alpha), right, 1e-15)
    if alpha == 1:
        near(oracles.entmax(finite, 1 + 1e-12), right, 1e-10)
    if alpha in (1.5, 2):
        by_sorting = oracles.entmax15 if alpha == 1.5 else oracles.sparsemax
        near(by_sorting(finite), right, 1e-15)
