"""The same regularizers on a chip: kernels in Pallas for TPU and GPU, taken by name.

`implementation=None` takes one where the record of this hardware says that it was right and faster.
`python -m jsoftmax.kernels` makes the record; `using_record` and `JSOFTMAX_KERNELS` override it.
"""

from jsoftmax.kernels._choice import by_record, chosen
from jsoftmax.kernels._record import using_record, where

__all__ = ["by_record", "chosen", "using_record", "where"]
