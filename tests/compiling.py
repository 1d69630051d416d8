"""Options of XLA for the tests: a plugin that pytest loads before anything imports JAX.

Most programs of the tests run once, and compiling them takes most of the time. Without
optimizations that serve speed alone it takes half. JSOFTMAX_COMPILE=wholly enables them, as for
users: the lanes of the laws and the nightly lanes use it.
"""

import os

LIGHTLY = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)

if os.environ.get("JSOFTMAX_COMPILE") != "wholly":
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *LIGHTLY])
