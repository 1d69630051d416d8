"""Several processes over loopback, with the collectives that JAX ships for CPUs."""
