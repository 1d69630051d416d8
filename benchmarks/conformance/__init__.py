"""What each library answers at the edges: `python -m benchmarks.conformance`."""
