"""Functions of rows by kernels, interpreted, in the forms for a TPU and for a GPU."""

import contextlib
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jsoftmax as js
from jsoftmax.kernels.rows import _rows
from jsoftmax.kernels.rows._gpu_kernel import gpu_kernel
from jsoftmax.kernels.rows._tpu_kernel import tpu_kernel

KERNELS = {"tpu": tpu_kernel, "gpu": gpu_kernel}

MAPPINGS: dict[str, Callable] = {
    "softmax": js.softmax,
    "log_softmax": js.log_softmax,
    "sparsemax": js.sparsemax,
    "entmax": js.entmax,
    "entmax 3": functools.partial(js.entmax, alpha=3.0),
    "entmax 0.5": functools.partial(js.entmax, alpha=0.5),
    "Fermi–Dirac": functools.partial(js.regularized_argmax, regularizer=js.FermiDirac()),
    "Elastic": functools.partial(js.regularized_argmax, regularizer=js.Elastic(2.0)),
    "Jensen–Shannon": functools.partial(js.regularized_argmax, regularizer=js.JensenShannon()),
    "Laplace": functools.partial(js.regularized_argmax, regularizer=js.Laplace()),
    "logsumexp": js.logsumexp,
    "smoothmax": functools.partial(js.smoothmax, alpha=1.5),
}

LOSSES: dict[str, Callable] = {
    "cross_entropy": js.cross_entropy,
    "entmax_loss": js.entmax_loss,
    "sparsemax_loss": js.sparsemax_loss,
    "fenchel_young_loss": functools.partial(js.fenchel_young_loss, regularizer=js.FermiDirac()),
}


@contextlib.contextmanager
def interpreted(chip: str):
    """Kernels of this chip, run by Pallas' interpreter."""
    before = _rows.on_chip
    _rows.on_chip = functools.partial(_run, KERNELS[chip])
    try:
        yield
    finally:
        _rows.on_chip = before


def _run(kernel, call, *arrays):
    return kernel(call, *arrays, interpret=True)


def by_kernel(function: Callable, chip: str = "tpu") -> Callable:
    """The function, compiled, as a kernel of this chip computes it."""

    def run(*arrays, **named):
        with interpreted(chip):
            return jax.jit(
                lambda arrays, named: function(*arrays, implementation="pallas", **named)
            )(arrays, named)

    return run


def scores(rows: int, classes: int, spread: float = 2.0, dtype=np.float32, seed: int = 0):
    """Normal scores of this spread."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(0, spread, (rows, classes)), dtype)


def same(found, expected, atol=2e-6, rtol=1e-5):
    """Equal but for float32 rounding."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(
        np.asarray(found, np.float64), np.asarray(expected, np.float64), atol=atol, rtol=rtol
    )
