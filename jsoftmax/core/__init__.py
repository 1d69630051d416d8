"""Regularizers and the solver they share: three scalar functions and two reductions."""
