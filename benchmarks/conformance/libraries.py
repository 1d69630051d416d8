"""The libraries, and how each is asked for a value or a derivative: numpy in, numpy out."""

import contextlib
import dataclasses
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.conformance.judge import Missing

NAMES = ("jax.nn", "optax", "jaxopt", "entmax", "jsoftmax")
ATTENDING = ("jax.nn", "flax", "tokamax", "torch", "jsoftmax")


class Library:
    """A package that is imported when first used; a name that it lacks raises `Missing`."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """The package's attribute of that name."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return getattr(importlib.import_module(self._name), attribute)
        except (ImportError, AttributeError) as error:
            raise Missing(f"{self._name}.{attribute}") from error


optax, jaxopt, entmax, torch, flax, tokamax, ours = map(
    Library, ("optax", "jaxopt", "entmax", "torch", "flax.linen", "tokamax", "jsoftmax")
)


flags.FLAGS.mark_as_parsed()  # tokamax would read our command line, and refuse it


@dataclasses.dataclass(frozen=True)
class Jax:
    """A function of one JAX array."""

    call: Callable[[jax.Array], jax.Array]

    def value(self, x: np.ndarray) -> np.ndarray:
        """call(x)."""
        with _precision(x):
            return np.asarray(self.call(jnp.asarray(x)).astype(_wide(x)))

    def dtype(self, x: np.ndarray) -> str:
        """The dtype of call(x)."""
        with _precision(x):
            return self.call(jnp.asarray(x)).dtype.name

    def gradient(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The gradient of Σ w·call(x)."""
        with _precision(x):
            return np.asarray(jax.grad(self._weighted(weights))(jnp.asarray(x)))

    def hessian(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The Hessian of Σ w·call(x)."""
        with _precision(x):
            return np.asarray(jax.hessian(self._weighted(weights))(jnp.asarray(x)))

    def vmapped(self, x: np.ndarray) -> np.ndarray:
        """Row by row, by vmap."""
        return np.asarray(jax.vmap(self.call)(jnp.asarray(x)))

    def pushed(self, x: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        """The derivative along a tangent, forward mode."""
        return np.asarray(jax.jvp(self.call, (jnp.asarray(x),), (jnp.asarray(tangent),))[1])

    def checked(self, x: np.ndarray) -> np.ndarray:
        """call(x) under jax_debug_nans."""
        with jax.debug_nans(True):
            return self.value(x)

    def _weighted(self, weights: np.ndarray):
        return lambda x: jnp.sum(jnp.asarray(weights, x.dtype) * self.call(x))


@dataclasses.dataclass(frozen=True)
class Torch:
    """A function of one torch tensor."""

    call: Callable[[Any], Any]

    def value(self, x: np.ndarray) -> np.ndarray:
        """call(x)."""
        return self.call(_tensor(x)).to(torch.float64).numpy()

    def dtype(self, x: np.ndarray) -> str:
        """The dtype of call(x)."""
        return str(self.call(_tensor(x)).dtype).removeprefix("torch.")

    def gradient(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The gradient of Σ w·call(x)."""
        inputs = _tensor(x).requires_grad_()
        return torch.autograd.grad(self._weighted(weights)(inputs), inputs)[0].numpy()

    def hessian(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The Hessian of Σ w·call(x)."""
        hessian = torch.autograd.functional.hessian
        return hessian(self._weighted(weights), _tensor(x)).detach().numpy()

    def vmapped(self, x: np.ndarray) -> np.ndarray:
        """Row by row, by vmap."""
        return torch.vmap(self.call)(_tensor(x)).numpy()

    def pushed(self, x: np.ndarray, tangent: np.ndarray) -> np.ndarray:
        """The derivative along a tangent, forward mode."""
        return torch.func.jvp(self.call, (_tensor(x),), (_tensor(tangent),))[1].numpy()

    def checked(self, x: np.ndarray) -> np.ndarray:
        """jax_debug_nans is JAX's own."""
        raise Missing

    def _weighted(self, weights: np.ndarray):
        return lambda x: (_tensor(weights).to(x.dtype) * self.call(x)).sum()


def _tensor(x: np.ndarray) -> Any:
    if x.dtype.name in ("bfloat16", "float16") or x.dtype.name.startswith("float8"):
        return torch.tensor(x.astype(np.float32)).to(getattr(torch, x.dtype.name))
    return torch.tensor(x)


def _wide(x: np.ndarray):
    return jnp.float64 if x.dtype == np.float64 else jnp.float32


@contextlib.contextmanager
def _precision(x: np.ndarray):
    with jax.enable_x64(True) if x.dtype == np.float64 else contextlib.nullcontext():
        yield
