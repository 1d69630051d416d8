"""The same regularizers on a chip: kernels in Pallas for TPU and GPU, taken by name."""

from jsoftmax.kernels._linear_operator import LinearOperator as LinearOperator
