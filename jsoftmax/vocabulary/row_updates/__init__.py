"""Optimizers that update a few rows of a large class table."""
