"""The catalogue of mappings, with the data of the laws, and one compiled function per law."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax as js
from tests import oracles

ROWS, CLASSES = 16, 5


@dataclasses.dataclass(frozen=True)
class Mapping:
    """A mapping at one setting of its parameters.

    Attributes:
        name: the name of its test.
        function: (logits, parameter, **options) → p. Mappings that differ only in `parameter` share
            it, and its compiled programs.
        oracle: the same in numpy, for rows.
        alpha: the order in the slope s = p^(2−α).
        parameter: the parameter that is passed as an array: a traced α, k or a cap.
        mass: Σ p.
        upper: the cap on every p.
        kind: "entmax" where the conjugate is `smoothmax`, "capped" where the same link is clipped,
            "normmax", "logistic", or "hard" where no derivative is left.
    """

    name: str
    function: Callable[..., Any]
    oracle: Callable[[np.ndarray], np.ndarray]
    alpha: float = 1.0
    parameter: float | None = None
    mass: float = 1.0
    upper: float = np.inf
    kind: str = "entmax"

    def __call__(self, logits, **options):
        parameter = self.parameter
        if parameter is not None:
            parameter = jnp.asarray(parameter, jnp.promote_types(_float(logits), jnp.float32))
        return self.function(logits, parameter, **options)

    @property
    def sparse(self) -> bool:
        """Whether it gives zeros to finite scores."""
        return self.alpha > 1

    @property
    def fewest(self) -> int:
        """The number of classes below which the mass finds no room."""
        return int(np.ceil(self.mass / self.upper - 1e-9)) if self.upper < np.inf else 1

    def jacobian(self, p: np.ndarray) -> np.ndarray:
        """∂p/∂z of one row, from p."""
        if self.kind == "normmax":
            norm = (p**self.alpha).sum() ** (1 / self.alpha)
            slope = np.where(p > 0, np.where(p > 0, p, 1) ** (2 - self.alpha), 0)
            centre = np.eye(p.size) - np.outer(np.ones(p.size), p)
            return norm ** (self.alpha - 1) / (self.alpha - 1) * centre.T * slope @ centre
        if self.kind == "logistic":
            s = p * (1 - p)
            return np.diag(s) - np.outer(s, s) / max(s.sum(), 1e-300)
        if self.kind == "hard":
            return np.zeros((p.size, p.size))
        return oracles.jacobian(p, self.alpha, self.upper)


def _float(x) -> Any:
    dtype = jnp.asarray(x).dtype
    return dtype if jnp.issubdtype(dtype, jnp.floating) else float


def _softmax(logits, _, **options):
    return js.softmax(logits, **options)


def _sparsemax(logits, _, **options):
    return js.sparsemax(logits, **options)


def _topk_sigmoid(logits, k, **options):
    return js.topk_sigmoid(logits, k, **options)


def _entmax(alpha: float) -> Callable:
    return lambda logits, _, **options: js.entmax(logits, alpha, **options)


@functools.cache
def _topk_entmax(alpha: float) -> Callable:
    return lambda logits, k, **options: js.topk_entmax(logits, k, alpha=alpha, **options)


@functools.cache
def _capped_entmax(alpha: float) -> Callable:
    return lambda logits, upper, **options: js.capped_entmax(logits, upper, alpha=alpha, **options)


def _static(alpha: float, oracle: Callable | None = None) -> Mapping:
    oracle = oracle or functools.partial(oracles.entmax, alpha=alpha)
    kind = "hard" if alpha == np.inf else "entmax"
    return Mapping(f"entmax {alpha:g}", _entmax(alpha), oracle, alpha, kind=kind)


def _traced(alpha: float) -> Mapping:
    oracle = functools.partial(oracles.entmax, alpha=alpha)
    kind = "hard" if alpha == np.inf else "entmax"
    return Mapping(f"entmax traced {alpha:g}", js.entmax, oracle, alpha, alpha, kind=kind)


def _normmax(alpha: float) -> Mapping:
    oracle = functools.partial(oracles.normmax, alpha=alpha)
    return Mapping(f"normmax {alpha:g}", js.normmax, oracle, alpha, alpha, kind="normmax")


def _topk(k: float, alpha: float) -> Mapping:
    oracle = functools.partial(oracles.capped, alpha=alpha, total=k, upper=1)
    name = f"topk_entmax {alpha:g} k={k:g}"
    return Mapping(name, _topk_entmax(alpha), oracle, alpha, k, mass=k, upper=1, kind="capped")


def _capped(upper: float, alpha: float) -> Mapping:
    oracle = functools.partial(oracles.capped, alpha=alpha, upper=upper)
    name = f"capped_entmax {alpha:g} u={upper:g}"
    return Mapping(name, _capped_entmax(alpha), oracle, alpha, upper, upper=upper, kind="capped")


def _sigmoid(k: float) -> Mapping:
    oracle = functools.partial(oracles.topk_sigmoid, k=k)
    return Mapping(
        f"topk_sigmoid k={k:g}", _topk_sigmoid, oracle, parameter=k, mass=k, upper=1,
        kind="logistic",
    )  # fmt: skip


SOFTMAX = Mapping("softmax", _softmax, oracles.softmax)
SPARSEMAX = Mapping("sparsemax", _sparsemax, oracles.sparsemax, 2.0)
ENTMAX_15 = _static(1.5, oracles.entmax15)
TRACED_15 = _traced(1.5)
NORMMAX = _normmax(2.0)
TOPK = _topk(2.0, 1.5)
SIGMOID = _sigmoid(1.5)
CAPPED = _capped(0.4, 1.5)

CATALOGUE = [
    SOFTMAX,
    SPARSEMAX,
    ENTMAX_15,
    *(_static(alpha) for alpha in (0.5, 1.25, 3.0, np.inf)),
    TRACED_15,
    *(_traced(alpha) for alpha in (0.5, 1.0, 1.75, 2.0, 3.0, np.inf)),
    *(_normmax(alpha) for alpha in (1.5, 5.0)),
    NORMMAX,
    TOPK,
    *(_topk(2.0, alpha) for alpha in (1.0, 2.0)),
    _topk(1.5, 1.5),
    SIGMOID,
    CAPPED,
]

# One for each way a p is computed: for laws that compile anew for every member.
WAYS = [SOFTMAX, SPARSEMAX, ENTMAX_15, TRACED_15, NORMMAX, TOPK, SIGMOID]


# Members that compute p as others do: `make test` leaves them to `make slow`.
SLOW = {
    "entmax 1.25", "entmax traced 0.5", "entmax traced 1", "entmax traced 1.75", "entmax traced 2",
    "entmax traced 3", "entmax traced inf", "normmax 5", "normmax 2", "topk_entmax 1 k=2",
    "topk_entmax 2 k=2",
}  # fmt: skip


def each(mappings: list[Mapping] = CATALOGUE) -> dict[str, Any]:
    """Arguments of `pytest.mark.parametrize`: one test per mapping, called by its name."""
    values = [
        pytest.param(m, id=m.name, marks=[pytest.mark.slow] if m.name in SLOW else [])
        for m in mappings
    ]
    return {"argnames": "mapping", "argvalues": values}


def p_of(mapping: Mapping, logits, where=True, temperature=1.0) -> np.ndarray:
    """p of at most ROWS rows of CLASSES scores, in float64."""
    return _evaluate(mapping, logits, where, temperature)[0]


def p_and_jacobian(mapping: Mapping, logits, where=True, temperature=1.0) -> tuple[np.ndarray, ...]:
    """p, and the Jacobian by forward and by reverse differentiation, row by row."""
    return _evaluate(mapping, logits, where, temperature)


def _evaluate(mapping, logits, where, temperature):
    logits = np.asarray(logits, np.float64)
    rows = len(logits)
    fill = [(0, ROWS - rows), (0, 0)]
    arguments = (
        np.pad(logits, fill),
        np.pad(np.broadcast_to(where, logits.shape), fill),
        np.pad(np.broadcast_to(np.asarray(temperature, np.float64), (rows, 1)), fill),
    )
    results = _compiled(mapping.function)(mapping.parameter, *arguments)
    return tuple(np.asarray(result)[:rows] for result in results)


@functools.cache
def _compiled(function):
    def row(parameter, logits, where, temperature):
        def p_twice(z):
            p = function(z, parameter, where=where, temperature=temperature)
            return p, p

        forward, p = jax.jacfwd(p_twice, has_aux=True)(logits)
        return p, forward, jax.jacrev(p_twice, has_aux=True)(logits)[0]

    return jax.jit(jax.vmap(row, in_axes=(None, 0, 0, 0)))
