"""Contrastive losses of a batch of pairs, with in-batch negatives."""
