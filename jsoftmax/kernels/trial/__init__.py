"""Try kernels on the hardware that is here: laws, times, and the record of both."""
