"""The rule for the sizes of blocks, from the sizes that one device has.

Each block of tokens reads the whole class table, and each block of classes all the features. So
blocks grow with the problem, to a share of its scores that is small beside the dense way:

- forward, rows of 1/8 of the tokens and of 512 at least, whose products keep a matrix unit busy
  while the table is read; but no more than 2²⁷ scores where 512 tokens have fewer;
- backward, 1/16 of the classes and 1024 at least for many tokens, but no more than 2²⁶ scores where
  512 classes have fewer;
- and never fewer than 2²² scores, below which loops cost more than they save.

Where there are half as many tokens as features, or fewer, the scores are no larger than the table,
and stay whole. The rule asks neither for the platform nor for the process: on two CPU cores blocks
of this size are as fast as blocks that fit a cache.
"""

from __future__ import annotations

from typing import Any

_LEAST = 2**22  # scores
_MOST_FORWARD, _MOST_BACKWARD = 2**27, 2**26
_SHARE_FORWARD, _SHARE_BACKWARD = 8, 16
_TOKENS, _CLASSES, _FEW_CLASSES = 512, 1024, 512
_WHOLE = 2**24  # scores that stay in memory from forward to backward
_LANES = 128  # classes that a TPU takes at once


def stay_whole(tokens: Any, classes: Any, width: Any) -> bool:
    """Whether whole scores take less memory than the dense way, or less than the table does."""
    if not all(isinstance(n, int) for n in (tokens, classes, width)):
        return False
    return tokens * classes <= _WHOLE or 2 * tokens <= width


def tokens_together(tokens: Any, classes: Any) -> int:
    """How many rows of scores are in memory together."""
    if not isinstance(classes, int):
        return 64
    # Of tokens that are not known while tracing: as of few.
    share = -(-tokens // _SHARE_FORWARD) if isinstance(tokens, int) else 0
    most = max(_TOKENS, _MOST_FORWARD // classes)
    return max(_LEAST // classes, min(max(share, _TOKENS), most))


def classes_together(tokens: Any, classes: Any, block_tokens: int) -> Any:
    """How many classes are taken together for many tokens."""
    if not isinstance(classes, int):
        return classes
    together = max(tokens, 1) if isinstance(tokens, int) else block_tokens
    share = max(-(-classes // _SHARE_BACKWARD), _CLASSES)
    most = max(_FEW_CLASSES, _MOST_BACKWARD // together)
    return min(max(_LEAST // together, min(share, most)), classes)


def even_size(n: Any, size: Any) -> Any:
    """The size of blocks of at most `size` that go into n evenly, if some not much smaller do.

    Multiples of `_LANES` come first.
    """
    count = -(-n // size)
    if not isinstance(n, int):
        return -(-n // count)
    evenly = [n // more for more in range(count, min(2 * count, n) + 1) if n % more == 0]
    aligned = [block for block in evenly if block % _LANES == 0]
    return (aligned or evenly or [-(-n // count)])[0]


def fits(tokens: Any, block: Any) -> bool:
    """Whether one block has all tokens; a number of them that is not known while tracing never."""
    return isinstance(tokens, int) and tokens <= block


def tokens_backward(classes: Any, block_tokens: int, block_classes: Any) -> Any:
    """For how many tokens a block of classes is taken, so that forward holds no fewer scores."""
    return max(1, (block_tokens + 1) * classes // block_classes)
