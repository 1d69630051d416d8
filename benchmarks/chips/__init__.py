"""Compile the library for TPUs and GPUs on a machine that has neither.

Nothing runs: XLA's compilers work from the description of a topology. A compiled program tells how
much memory it takes and moves, how many cycles its compiler expects, and its communication.
"""

import os

_DEFAULTS = {
    "JAX_PLATFORMS": "cpu",  # programs are traced there
    "TPU_SKIP_MDS_QUERY": "1",  # no cloud is asked which TPU this is
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # there is no driver
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
