"""Against netcal, torchmetrics, scikit-learn and MAPIE.

Same numbers in, and the numbers that come out side by side with the time of a call, compiled
before. No peer has matrix scaling or Dirichlet calibration with the same penalties: they are
compared with an objective written in numpy and minimised by SciPy.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import torch
from mapie.classification import SplitConformalClassifier
from netcal.metrics import ECE, MCE
from netcal.scaling import TemperatureScaling
from rich.progress import track
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

import jsoftmax as js
from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.race import race
from benchmarks.runner import command
from benchmarks.tables import Table

# Bins of equal mass hold 600 examples each, so that no edge falls within one. Levels are such that
# no threshold is the mass of all classes, which is 1 but for rounding.
N, K, BINS = 9_000, 10, 15
LEVELS = (0.5, 0.8, 0.9, 0.95)
BOUND = 1e-6


class Comparison(NamedTuple):
    """One quantity, and the calls that compute it by jsoftmax and by a peer."""

    quantity: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    note: str = ""


def examples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are 1.7 times as sure as their labels allow, and labels."""
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal((N, K))
    p = np.exp(log_softmax(logits / 1.7, -1))
    return logits, (p.cumsum(-1) < random.random((N, 1))).sum(-1)


def errors(logits: np.ndarray, labels: np.ndarray) -> list[Comparison]:
    """Calibration errors, reliability diagrams, the Brier score."""
    p = np.exp(log_softmax(logits, -1))
    p_torch, labels_torch = torch.tensor(p), torch.tensor(labels)
    one, is_one = p[:, 1], (labels == 1).astype(int)
    one_torch, is_one_torch = torch.tensor(one), torch.tensor(is_one)

    def ours(function: Callable, *operands: np.ndarray, **given) -> Callable[[], Any]:
        compiled = jax.jit(functools.partial(function, **given))
        arrays = [jnp.asarray(x) for x in operands]
        return lambda: jax.block_until_ready(compiled(*arrays))

    def theirs(metric: Any, *operands: np.ndarray) -> Callable[[], Any]:
        return lambda: metric.measure(*operands)

    def of_torch(norm: str) -> Callable[[], Any]:
        return lambda: multiclass_calibration_error(p_torch, labels_torch, K, BINS, norm).numpy()

    def classwise() -> float:
        return float(np.mean([ECE(BINS).measure(p[:, k], (labels == k) * 1) for k in range(K)]))

    def curve(strategy: str) -> Callable[[], Any]:
        def share_and_mean() -> np.ndarray:
            return np.stack(calibration_curve(is_one, one, n_bins=BINS, strategy=strategy))

        return share_and_mean

    def brier(p, labels):
        return js.brier_score(p, labels).mean()

    def diagram(**given) -> Callable[[], Any]:
        def share_and_mean(p, labels):
            found = js.reliability_diagram(p, labels, BINS, **given)
            return jnp.stack([found.accuracy, found.confidence])

        return ours(share_and_mean, one, is_one)

    error, worst = js.expected_calibration_error, js.maximum_calibration_error
    return [
        Comparison("ECE", "netcal", ours(error, p, labels), theirs(ECE(BINS), p, labels)),
        Comparison("ECE", "torchmetrics", ours(error, p, labels), of_torch("l1")),
        Comparison(
            "ECE, bins of equal mass", "netcal", ours(error, p, labels, equal_mass=True),
            theirs(ECE(BINS, equal_intervals=False), p, labels),
        ),
        Comparison("MCE", "netcal", ours(worst, p, labels), theirs(MCE(BINS), p, labels)),
        Comparison("MCE", "torchmetrics", ours(worst, p, labels), of_torch("max")),
        Comparison(
            "classwise ECE", "netcal", ours(js.classwise_calibration_error, p, labels), classwise,
            "the peer's mean over its ECE of each class",
        ),
        Comparison(
            "ECE of [N]", "netcal", ours(error, one, is_one), theirs(ECE(BINS), one, is_one)
        ),
        Comparison(
            "ECE of [N]", "torchmetrics", ours(error, one, is_one),
            lambda: binary_calibration_error(one_torch, is_one_torch, BINS).numpy(),
        ),
        Comparison(
            "MCE of [N]", "netcal", ours(worst, one, is_one), theirs(MCE(BINS), one, is_one)
        ),
        Comparison("reliability of [N]", "scikit-learn", diagram(), curve("uniform")),
        Comparison(
            "reliability of [N], equal mass", "scikit-learn", diagram(equal_mass=True),
            curve("quantile"),
        ),
        Comparison(
            "Brier score", "scikit-learn", ours(brier, p, labels),
            lambda: brier_score_loss(labels, p, scale_by_half=False),
        ),
        Comparison(
            "Brier score of [N]", "scikit-learn", ours(brier, one, is_one),
            lambda: brier_score_loss(is_one, one),
        ),
    ]  # fmt: skip


def scalings(logits: np.ndarray, labels: np.ndarray) -> list[Comparison]:
    """Temperature against netcal; a matrix with penalties against an objective in numpy."""
    log_p = log_softmax(logits, -1)
    p, z = np.exp(log_p), jnp.asarray(logits)
    y = jnp.asarray(labels)

    def temperature() -> float:
        return float(1 / TemperatureScaling(method="mle").fit(p, labels).temperature[0])

    def packed(found: Any) -> np.ndarray:
        return np.column_stack([found.kernel, found.bias])

    hot = float(js.temperature_scaling(z, y))
    return [
        Comparison(
            "temperature", "netcal", lambda: float(js.temperature_scaling(z, y)), temperature
        ),
        Comparison(
            "matrix scaling", "scipy", lambda: packed(js.calibration.matrix_scaling(z, y)) * hot,
            lambda: by_scipy(logits / hot, labels) * np.append(np.ones(K), hot),
            "W and bT; an objective in numpy by L-BFGS",
        ),
        Comparison(
            "Dirichlet calibration", "scipy",
            lambda: packed(js.calibration.dirichlet_calibration(jnp.asarray(p), y)),
            lambda: by_scipy(log_p, labels), "an objective in numpy by L-BFGS",
        ),
    ]  # fmt: skip


def by_scipy(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[W, b] of least cost at the default penalties of `matrix_scaling`."""
    n, one_hot, own = len(x), np.eye(K)[labels], np.eye(K)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = flat[: K * K].reshape(K, K), flat[K * K :]
        log_q = log_softmax(x @ kernel.T + bias, -1)
        others = kernel * (1 - own)
        shift = (np.diag(kernel) - 1) * own
        value = -np.mean(log_q[np.arange(n), labels]) + 1e-2 * (
            (others**2).sum() / (K * (K - 1)) + (bias**2).sum() / K
        ) + 1e-3 * (shift**2).sum() / K  # fmt: skip
        surplus = (np.exp(log_q) - one_hot) / n
        slope = surplus.T @ x + 2e-2 * others / (K * (K - 1)) + 2e-3 * shift / K
        return value, np.append(slope.ravel(), surplus.sum(0) + 2e-2 * bias / K)

    found = scipy.optimize.minimize(
        objective, np.append(own.ravel(), np.zeros(K)), jac=True, method="L-BFGS-B",
        options={"maxiter": 10_000, "maxfun": 20_000, "gtol": 1e-10, "ftol": 1e-16, "maxcor": 50},
    )  # fmt: skip
    return np.column_stack([found.x[: K * K].reshape(K, K), found.x[K * K :]])


class Given(ClassifierMixin, BaseEstimator):
    """A classifier for MAPIE that returns its features as probabilities."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return self.classes_[X.argmax(1)]


class Unrandomised(np.random.RandomState):
    """Uniform numbers that are 0, so that MAPIE's scores have no chance in them."""

    def uniform(self, low=0.0, high=1.0, size=None):
        return np.zeros(size)


def sets(logits: np.ndarray, labels: np.ndarray) -> list[Comparison]:
    """Thresholds and sets at all levels, by three scores."""
    p = np.exp(log_softmax(logits, -1))
    p_new = np.exp(log_softmax(examples(1)[0], -1))
    found = []
    for score in ("lac", "aps", "raps"):
        for what in (0, 1):
            name = f"{score.upper()}, {('thresholds', 'sets')[what]}"
            found.append(
                Comparison(
                    f"{name}, {len(LEVELS)} levels", "MAPIE",
                    _chosen(_ours_of(score, p, labels, p_new), what),
                    _chosen(functools.partial(_mapie, score, p, labels, p_new), what),
                    _NOTES[score] if what else "",
                )
            )  # fmt: skip
    return found


_NOTES = {
    "lac": "",
    "aps": "the peer without randomising, include_last_label=False, which never leaves a set "
    "empty: our nonempty=True",
    "raps": "as APS, with the λ and m that the peer chose on a fifth of the examples",
}


def _chosen(both: Callable[[], tuple], what: int) -> Callable[[], Any]:
    return lambda: both()[what]


def _fitted(score: str, p: np.ndarray, labels: np.ndarray) -> SplitConformalClassifier:
    model = SplitConformalClassifier(
        Given().fit(p, labels), LEVELS, conformity_score=score, prefit=True,
        random_state=None if score == "lac" else Unrandomised(0),
    )  # fmt: skip
    return model.conformalize(p, labels)


def _mapie(score: str, p: np.ndarray, labels: np.ndarray, p_new: np.ndarray) -> tuple:
    model = _fitted(score, p, labels)
    params = {} if score == "lac" else {"include_last_label": False}
    chosen = model.predict_set(p_new, conformity_score_params=params)[1]
    return np.ravel(_score_of(model).quantiles_), chosen


def _score_of(model: SplitConformalClassifier) -> Any:
    return model._mapie_classifier.conformity_score_function_


def _ours_of(score: str, p: np.ndarray, labels: np.ndarray, p_new: np.ndarray) -> Callable:
    """Of the same examples as MAPIE, which gives some of them to its choice of λ and m."""
    penalties = np.zeros((len(LEVELS), 2))
    rows = np.arange(len(p))
    if score == "raps":
        model = _fitted(score, p, labels)
        model.predict_set(p_new[:5], conformity_score_params={"include_last_label": False})
        by_peer = _score_of(model)
        rows = np.flatnonzero(~np.isin(p[:, 0], by_peer.X_raps[:, 0]))
        penalties = np.column_stack([np.ravel(by_peer.lambda_star), np.ravel(by_peer.k_star)])

    def scores(p: jax.Array, penalty: jax.Array, free: jax.Array) -> jax.Array:
        return (
            js.calibration.lac_scores(p)
            if score == "lac"
            else js.calibration.aps_scores(p, penalty=penalty, free=free)
        )

    @jax.jit
    def run(p, labels, p_new):
        thresholds, chosen = [], []
        for level, (penalty, free) in zip(LEVELS, penalties, strict=True):
            q = js.conformal_threshold(scores(p, penalty, free), labels, level)
            new = js.conformal_sets(scores(p_new, penalty, free), q, nonempty=score != "lac")
            thresholds.append(q)
            chosen.append(new)
        return jnp.stack(thresholds), jnp.stack(chosen, -1)

    arrays = [jnp.asarray(x) for x in (p[rows], labels[rows], p_new)]
    return lambda: jax.block_until_ready(run(*arrays))


def measured(comparison: Comparison, rounds: int) -> dict[str, Any]:
    """The difference and the times."""
    ours, theirs = (np.asarray(f(), float) for f in (comparison.ours, comparison.theirs))
    seconds = race({"ours": comparison.ours, "theirs": comparison.theirs}, rounds=rounds, seconds=0)
    return {
        "quantity": comparison.quantity,
        "peer": comparison.peer,
        "value": float(ours) if ours.ndim == 0 else None,
        "difference": float(abs(ours - theirs).max()),
        "ours_ms": 1e3 * seconds["ours"],
        "theirs_ms": 1e3 * seconds["theirs"],
        "note": comparison.note,
    }


def tabled(records: list[dict[str, Any]]) -> Table:
    """All comparisons."""
    rows = [
        [
            r["quantity"],
            r["peer"],
            "–" if r["value"] is None else f"{r['value']:.6f}",
            f"{r['difference']:.1e}",
            "yes" if r["difference"] <= BOUND else "no",
            f"{r['ours_ms']:.2f}",
            f"{r['theirs_ms']:.2f}",
            r["note"] or "–",
        ]
        for r in records
    ]
    return Table(
        "Differences and times",
        f"{N} examples of {K} classes in float64, {BINS} bins; the largest difference of anything "
        f"that is given back, bound {BOUND:g}. Milliseconds of a call, the least of interleaved "
        "ones, ours compiled before; of MAPIE both rows time all of fitting and predicting, and so "
        "they do of ours.",
        ["quantity", "peer", "value", "difference", "met", "ours, ms", "peer, ms", "convention"],
        rows,
    )


def run(settings, screen) -> Outcome:
    """Compare every quantity."""
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    logits, labels = examples(0)
    comparisons = [
        *errors(logits, labels), *scalings(logits, labels), *sets(logits, labels)
    ]  # fmt: skip
    records = [measured(each, settings.rounds) for each in track(comparisons, console=screen)]
    wrong = [r["quantity"] for r in records if not r["difference"] <= BOUND]
    return Outcome(
        [tabled(records)], {"comparisons": records}, notes=[f"Beyond {BOUND:g}: {wrong}"]
    )


BENCHMARK = Benchmark(
    "calibration_peers",
    "Calibration beside its peers",
    run,
    {"rounds": Setting(5, 1, "rounds of every race, at least")},
)


if __name__ == "__main__":
    command("calibration_peers")
