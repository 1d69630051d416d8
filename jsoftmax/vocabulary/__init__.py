"""Features, class table → losses without the full row."""

from jsoftmax.vocabulary._linear_cross_entropy import (
    CrossEntropyTerms,
    linear_cross_entropy,
    linear_cross_entropy_terms,
)

__all__ = [
    "CrossEntropyTerms",
    "linear_cross_entropy",
    "linear_cross_entropy_terms",
]
