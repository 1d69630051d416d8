"""Samplers of classes, and losses estimated from candidates."""
