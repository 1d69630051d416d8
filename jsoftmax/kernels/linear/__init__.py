"""Kernels of cross-entropy from features and a class table; scores never leave the chip."""

from jsoftmax.kernels.linear._table_problem import LEAST_MEMORY as LEAST_MEMORY
from jsoftmax.kernels.linear._table_problem import TableProblem as TableProblem
from jsoftmax.kernels.linear._table_problem import chip as chip
from jsoftmax.kernels.linear._table_slopes import TokenRows as TokenRows
from jsoftmax.kernels.linear._table_slopes import table_slopes as table_slopes
from jsoftmax.kernels.linear._table_sums import table_sums as table_sums
