"""Example programs: training recipes and a language model."""
