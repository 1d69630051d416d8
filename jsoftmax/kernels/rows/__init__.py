"""Rows on the chip: any function of rows of logits, read once, by the mathematics of the core.

A public function is traced for rows of a symbolic length, said in words that kernels know, and
evaluated piece by piece on a block of rows; so are its derivatives.
"""

from jsoftmax.kernels.rows._arguments import by_kernel as by_kernel
