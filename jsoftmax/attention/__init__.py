"""Attention: mixtures of values, with weights from any mapping of the family."""

from jsoftmax.attention._alibi import ALiBi
from jsoftmax.attention._attention_fn import attention_fn
from jsoftmax.attention._attention_weights import attention_weights
from jsoftmax.attention._dot_product_attention import dot_product_attention
from jsoftmax.attention._forgetting_gate import ForgettingGate
from jsoftmax.attention._merge import merge_attention
from jsoftmax.attention._paged_attention import paged_attention
from jsoftmax.attention._ring import ring_attention
from jsoftmax.attention._skipped_share import attention_skipped_share
from jsoftmax.attention._t5_buckets import T5Buckets
from jsoftmax.attention._visible_keys import visible_keys

__all__ = [
    "ALiBi",
    "ForgettingGate",
    "T5Buckets",
    "attention_fn",
    "attention_skipped_share",
    "attention_weights",
    "dot_product_attention",
    "merge_attention",
    "paged_attention",
    "ring_attention",
    "visible_keys",
]
