"""Measurements against the peers: `python -m benchmarks` and `python -m benchmarks.conformance`."""
