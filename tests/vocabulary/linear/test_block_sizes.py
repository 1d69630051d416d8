"""The rule for blocks: few scores in memory beside the dense way, and blocks that pay."""

import pytest

from jsoftmax.vocabulary.linear import _block_sizes as block_sizes

SIZES = [
    *((512, 8_192), (512, 131_072), (512, 1_048_576), (1_024, 32_768)),
    *((1_024, 262_144), (2_048, 131_072), (2_048, 524_288), (4_096, 32_768)),
    *((4_096, 131_072), (8_192, 131_072), (16_384, 8_192), (16_384, 65_536)),
]


@pytest.mark.parametrize(("tokens", "classes"), SIZES)
def test_forward_blocks_hold_an_eighth_of_the_scores(tokens, classes):
    """At most max(2²², 1/8 of the scores, 64 rows) and max(2²⁷, 256 rows)."""
    rows = min(tokens, block_sizes.tokens_together(tokens, classes))
    assert rows * classes <= max(2**22, tokens * classes // 8, 64 * classes)
    assert rows * classes <= max(2**27, 256 * classes)


@pytest.mark.parametrize(("tokens", "classes"), SIZES)
def test_forward_blocks_pay_for_the_table_they_read(tokens, classes):
    """No block has fewer than 64 tokens, nor fewer than 2²² scores to within a row."""
    rows = block_sizes.tokens_together(tokens, classes)
    assert rows >= 64
    assert (rows + 1) * classes > 2**22


@pytest.mark.parametrize(("tokens", "classes"), SIZES)
def test_backward_blocks_hold_a_sixteenth_of_the_scores(tokens, classes):
    """At most max(2²², 1/16 of the scores, 512 classes) and max(2²⁶, 512 classes)."""
    rows = block_sizes.tokens_together(tokens, classes)
    together = block_sizes.classes_together(tokens, classes, rows)
    assert tokens * together <= max(2**22, tokens * classes // 16, 512 * tokens)
    assert tokens * together <= max(2**26, 512 * tokens)
    assert together >= min(512, classes)


@pytest.mark.parametrize(("tokens", "classes"), SIZES)
def test_even_blocks_are_no_larger_and_waste_nothing(tokens, classes):
    """Powers of two are cut into equal blocks, at least half as large as the rule says."""
    rows = min(tokens, block_sizes.tokens_together(tokens, classes))
    even = block_sizes.even_size(tokens, rows)
    assert even <= rows < 2 * even + 1
    assert tokens % even == 0
