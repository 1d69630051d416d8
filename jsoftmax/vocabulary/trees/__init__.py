"""Hierarchical softmax: classes as the leaves of a tree."""
