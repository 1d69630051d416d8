"""Queries, keys, values → mixtures, with weights from any mapping of the family."""

from jsoftmax.attention._attention_weights import attention_weights
from jsoftmax.attention._dot_product_attention import dot_product_attention

__all__ = ["attention_weights", "dot_product_attention"]
