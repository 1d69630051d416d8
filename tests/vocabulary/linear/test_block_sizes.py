"""The rule for blocks: few scores in memory compared with dense logits, and efficient blocks."""

import pytest

from jsoftmax.vocabulary.linear import _block_sizes as block_sizes

SIZES = [
    *((512, 8_192), (512, 131_072), (512, 1_048_576), (1_024, 32_768)),
    *((1_024, 262_144), (2_048, 131_072), (2_048, 524_288), (4_096, 32_768)),
    *((4_096, 131_072), (8_192, 131_072), (16_384, 8_192), (16_384, 65_536)),
]


@pytest.mark.parametrize(("tokens", "classes"), SIZES)
def test_forward_blocks_hold_an_eighth_of_the_scores(tokens, classes):
    """Or 512 rows; and no more than 2²⁷ scores where 512 rows have fewer."""
    rows = min(tokens, block_sizes.tokens_together(tokens, classes))
    assert rows * classes <= max(2**22, tokens * classes // 8, 512 * classes)
    assert rows * classes <= max(2**27, 512 * classes)


@pytest.mark.parametrize(("tokens", "classes"), SIZES)
def test_forward_blocks_pay_for_the_table_they_read(tokens, classes):
    """By products of 512 tokens at least: a v5e does 240 operations for each byte it reads."""
    assert block_sizes.tokens_together(tokens, classes) >= 512


@pytest.mark.parametrize(("tokens", "classes"), SIZES)
def test_backward_blocks_hold_a_sixteenth_of_the_scores(tokens, classes):
    """Or 1024 classes; and no more than 2²⁶ scores where 512 classes have fewer."""
    rows = block_sizes.tokens_together(tokens, classes)
    together = block_sizes.classes_together(tokens, classes, rows)
    assert tokens * together <= max(2**22, tokens * classes // 16, 1024 * tokens)
    assert tokens * together <= max(2**26, 512 * tokens)
    assert together >= min(512, classes)


@pytest.mark.parametrize(
    ("tokens", "classes", "width", "whole"),
    [
        (512, 32_768, 64, True),  # 2²⁴ scores
        (513, 32_768, 64, False),
        (1_024, 1_048_576, 2_048, True),  # no larger than the table
        (1_025, 1_048_576, 2_048, False),
    ],
)
def test_few_scores_stay_whole(tokens, classes, width, whole):
    assert block_sizes.stay_whole(tokens, classes, width) == whole


@pytest.mark.parametrize(("tokens", "classes"), SIZES)
def test_even_blocks_are_no_larger_and_waste_nothing(tokens, classes):
    """Powers of two are cut into equal blocks, at least half as large as the rule says."""
    rows = min(tokens, block_sizes.tokens_together(tokens, classes))
    even = block_sizes.even_size(tokens, rows)
    assert even <= rows < 2 * even + 1
    assert tokens % even == 0
