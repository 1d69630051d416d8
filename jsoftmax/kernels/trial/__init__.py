"""Trials of kernels on the hardware of this machine: laws, times, and their record."""
