"""How XLA compiles in the tests: a plugin that pytest loads before anything imports JAX.

Most programs of the tests run once, and compiling them is most of the time: what the compiler does
for speed alone is left out, which halves it. With JSOFTMAX_COMPILE=wholly it is done, as it is for
users: so the lanes of the laws run, and those of the night.
"""

import os

LIGHTLY = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)

if os.environ.get("JSOFTMAX_COMPILE") != "wholly":
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *LIGHTLY])
