"""The rule for block sizes, from the sizes on one device.

Each block of tokens reads the whole class table, and each block of classes all the features. So
blocks grow with the problem, up to a small share of all scores. The docstring of
`linear_cross_entropy` has the table of shares and limits.

At least 512 tokens keep a matrix unit busy while the table is read. No block has fewer than 2²²
scores: below that, loops cost more than they save.

With at most half as many tokens as features, the scores are no larger than the table, and stay
whole. The rule does not depend on the platform: on two CPU cores blocks of this size are as fast as
blocks that fit a cache.
"""

from __future__ import annotations

from typing import Any

_LEAST = 2**22  # scores
_MOST_FORWARD, _MOST_BACKWARD = 2**27, 2**26
_SHARE_FORWARD, _SHARE_BACKWARD = 8, 16
_TOKENS, _CLASSES, _FEW_CLASSES = 512, 1024, 512
_WHOLE = 2**24  # scores kept from forward to backward pass
_LANES = 128  # lanes of a TPU


def stay_whole(tokens: Any, classes: Any, width: Any) -> bool:
    """Return whether there are at most 2²⁴ scores, or half as many tokens as features."""
    if not all(isinstance(n, int) for n in (tokens, classes, width)):
        return False
    return tokens * classes <= _WHOLE or 2 * tokens <= width


def tokens_together(tokens: Any, classes: Any) -> int:
    """Return the number of rows of scores in memory at once."""
    if not isinstance(classes, int):
        return 64
    # A number of tokens that is unknown while tracing counts as few.
    share = -(-tokens // _SHARE_FORWARD) if isinstance(tokens, int) else 0
    most = max(_TOKENS, _MOST_FORWARD // classes)
    return max(_LEAST // classes, min(max(share, _TOKENS), most))


def classes_together(tokens: Any, classes: Any, block_tokens: int) -> Any:
    """Return the number of classes per block for many tokens."""
    if not isinstance(classes, int):
        return classes
    together = max(tokens, 1) if isinstance(tokens, int) else block_tokens
    share = max(-(-classes // _SHARE_BACKWARD), _CLASSES)
    most = max(_FEW_CLASSES, _MOST_BACKWARD // together)
    return min(max(_LEAST // together, min(share, most)), classes)


def even_size(n: Any, size: Any) -> Any:
    """Return a size of at most `size` that divides n, if one not much smaller does.

    Multiples of `_LANES` are preferred.
    """
    count = -(-n // size)
    if not isinstance(n, int):
        return -(-n // count)
    evenly = [n // more for more in range(count, min(2 * count, n) + 1) if n % more == 0]
    aligned = [block for block in evenly if block % _LANES == 0]
    return (aligned or evenly or [-(-n // count)])[0]


def fits(tokens: Any, block: Any) -> bool:
    """Return whether one block holds all tokens; False for a number unknown while tracing."""
    return isinstance(tokens, int) and tokens <= block


def tokens_backward(classes: Any, block_tokens: int, block_classes: Any) -> Any:
    """Return the number of tokens per block of classes, no more scores than forward."""
    return max(1, (block_tokens + 1) * classes // block_classes)
