"""The answers of each library at the edges: `python -m benchmarks run conformance`."""
