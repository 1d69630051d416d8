"""Pallas kernels for TPU and GPU, with the same regularizers, chosen by name.

`implementation=None` chooses a kernel if the record of this hardware says that it was right and
faster. `python -m jsoftmax.kernels` writes the record; `using_record` and `JSOFTMAX_KERNELS`
override it.
"""

from jsoftmax.kernels._by_platform import by_platform as by_platform
from jsoftmax.kernels._kernel_choice import by_record, case_of, chosen
from jsoftmax.kernels._linear_operator import LinearOperator as LinearOperator
from jsoftmax.kernels._record import has_record as has_record
from jsoftmax.kernels._record import record_path, using_record

__all__ = ["by_record", "case_of", "chosen", "record_path", "using_record"]
