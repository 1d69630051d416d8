"""Truncated sampling for language models: masks of the kept classes, and draws from them."""

from jsoftmax.sampling.truncation._cut_masks import eta_mask, min_p_mask, top_n_sigma_mask
from jsoftmax.sampling.truncation._mass_masks import top_k_mask, top_p_mask, typical_mask
from jsoftmax.sampling.truncation._penalties import penalized_logits, token_counts
from jsoftmax.sampling.truncation._sample_token import sample_token
from jsoftmax.sampling.truncation._speculative import (
    Speculation,
    residual_probabilities,
    speculative_sample,
)
from jsoftmax.sampling.truncation._truncated_draw import SampledToken

__all__ = [
    "SampledToken",
    "Speculation",
    "eta_mask",
    "min_p_mask",
    "penalized_logits",
    "residual_probabilities",
    "sample_token",
    "speculative_sample",
    "token_counts",
    "top_k_mask",
    "top_n_sigma_mask",
    "top_p_mask",
    "typical_mask",
]
