"""Losses of a batch of pairs, in which everybody's partner is everybody else's counterexample."""
