"""The same regularizers on a chip: kernels in Pallas for TPU and GPU, taken by name.

`implementation=None` takes one where the record of this hardware says that it was right and faster.
`python -m jsoftmax.kernels` makes the record; `using_record` and `JSOFTMAX_KERNELS` override it.
"""

from jsoftmax.kernels._by_platform import by_platform as by_platform
from jsoftmax.kernels._kernel_choice import by_record, case_of, chosen
from jsoftmax.kernels._linear_operator import LinearOperator as LinearOperator
from jsoftmax.kernels._record import has_record as has_record
from jsoftmax.kernels._record import record_path, using_record

__all__ = ["by_record", "case_of", "chosen", "record_path", "using_record"]
