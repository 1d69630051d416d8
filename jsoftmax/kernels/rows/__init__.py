"""Row kernels: any function of rows of logits on the chip, by the mathematics of the core.

A public function is traced for rows of a symbolic length, rewritten with the primitives of kernels,
and evaluated piece by piece on a block of rows; so are its derivatives.
"""

from jsoftmax.kernels.rows._arguments import by_kernel as by_kernel
