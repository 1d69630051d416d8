"""Measurements against the peers: `python -m benchmarks` lists them."""
