"""SoftmaxRegression against scikit-learn's LogisticRegression.

On the digits and the breast cancer data that ship inside scikit-learn, standardised, at C = 1.
Gradients are measured by one function in numpy that knows neither library.
"""

import functools
import time
import warnings
from collections.abc import Callable

import numpy as np
from rich.progress import track
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

from benchmarks.benchmark import Benchmark, Outcome, Setting
from benchmarks.race import race
from benchmarks.runner import command
from benchmarks.tables import Table
from jsoftmax.estimators import SoftmaxRegression

DATA = {"breast cancer": load_breast_cancer, "digits": load_digits}
TOL = 1e-10
MOST = 100_000
TIME_BOUND, COEFFICIENT_BOUND = 1.5, 1e-5
ALPHAS = (1.0, 1.5, 2.0)


def measure(name: str, rounds: int) -> dict:
    """Converge both sides, compare coefficients, then race them to the same gradient."""
    X, y = DATA[name](return_X_y=True)
    X = StandardScaler().fit_transform(X)
    peers = {
        solver: LogisticRegression(solver=solver, tol=TOL, max_iter=MOST)
        for solver in ("lbfgs", "newton-cholesky")
    }
    fits = {solver: functools.partial(quietly, peer.fit, X, y) for solver, peer in peers.items()}
    for fit in fits.values():
        fit()
    reached = {solver: gradient(peer, X, y) for solver, peer in peers.items()}
    # L-BFGS in SciPy ends where the objective stops falling, before the gradient is at TOL.
    goals = {solver: max(norm, TOL) for solver, norm in reached.items()}
    tight = SoftmaxRegression(tol=TOL, max_iter=MOST)
    start = time.perf_counter()
    tight.fit(X, y)
    first = time.perf_counter() - start
    ours = {
        solver: SoftmaxRegression(tol=goal, max_iter=MOST).fit(X, y)
        for solver, goal in goals.items()
    }
    warm = SoftmaxRegression(warm_start=True).fit(X, y)
    family = {alpha: SoftmaxRegression(alpha=alpha, max_iter=MOST).fit(X, y) for alpha in ALPHAS}
    # The peer with its default threads and with one, apart from ours: threads that it has started
    # would spin beside us.
    best = {
        **race({f"peer, {solver}": fit for solver, fit in fits.items()}, rounds=2, seconds=0),
        **race(
            {f"peer, {solver}, one thread": one_thread(fit) for solver, fit in fits.items()},
            rounds=2,
            seconds=0,
        ),
    }
    for solver, fit in fits.items():
        label = f"peer, {solver}"
        single = f"{label}, one thread"
        quicker = single if best[single] < best[label] else label
        again = race(
            {
                quicker: one_thread(fit) if quicker == single else fit,
                f"ours, {solver}": functools.partial(ours[solver].fit, X, y),
            },
            rounds=rounds,
        )
        best |= {key: min(seconds, best.get(key, seconds)) for key, seconds in again.items()}
    best |= race(
        {
            "dispatch": functools.partial(warm.fit, X, y),
            **{_named(alpha): functools.partial(it.fit, X, y) for alpha, it in family.items()},
        },
        rounds=rounds,
    )
    return {
        "data": name,
        "examples": len(X),
        "features": X.shape[1],
        "classes": len(np.unique(y)),
        "first_fit_seconds": first,
        "milliseconds": {key: 1e3 * seconds for key, seconds in best.items()},
        "peers": {
            solver: {
                "steps": int(np.max(peer.n_iter_)),
                "gradient": reached[solver],
                "our_steps": ours[solver].n_iter_,
                "our_gradient": gradient(ours[solver], X, y),
                "our_tight_gradient": gradient(tight, X, y),
                "difference": difference(tight, peer),
            }
            for solver, peer in peers.items()
        },
        "family": [
            {
                "alpha": alpha,
                "steps": model.n_iter_,
                "gradient": model.gradient_norm_,
                "accuracy": model.score(X, y),
                "support": float((model.predict_proba(X) > 0).sum(1).mean()),
            }
            for alpha, model in family.items()
        ],
    }


def search() -> dict[str, float]:
    """Seconds of 27 fits each: a grid of nine points by three folds of digits, from cold."""
    X, y = load_digits(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    grids = {
        "ours": (SoftmaxRegression(), {"alpha": ALPHAS, "C": (0.1, 1.0, 10.0)}),
        "peer": (LogisticRegression(max_iter=MOST), {"C": np.geomspace(0.01, 100, 9)}),
    }
    # Twice, the first time with the compiler.
    seconds = {}
    for label in ("ours", "peer", "ours, compiled", "peer, again"):
        model, grid = grids[label.partition(",")[0]]
        start = time.perf_counter()
        GridSearchCV(model, grid, cv=3, refit=False).fit(X, y)
        seconds[label] = time.perf_counter() - start
    return seconds


def searched(seconds: dict[str, float]) -> Table:
    """Time of a search over α, beside LogisticRegression's."""
    peer = min(seconds["peer"], seconds["peer, again"])
    return Table(
        "A search over α",
        "GridSearchCV on digits, 27 fits: of SoftmaxRegression 3 α × 3 C × 3 folds at its default "
        "tol = 1e-8, of LogisticRegression 9 C × 3 folds at its own, 1e-4. Seconds, the first time "
        "with the compiler, which runs once for all α.",
        ["", "s", "of the peer", "aim, s", "met"],
        [
            [label, f"{s:.1f}", f"{s / peer:.1f}", *(
                ["5", "yes" if s <= 5 else "no"] if label == "ours" else ["–", "–"]
            )]
            for label, s in seconds.items()
        ],
    )  # fmt: skip


def unscaled() -> Table:
    """Pixels of digits as they are, from 0 to 16."""
    X, y = load_digits(return_X_y=True)
    models = [SoftmaxRegression(alpha=alpha).fit(X, y) for alpha in ALPHAS]
    rows = [
        [f"{m.alpha:g}", f"{m.n_iter_}", f"{m.gradient_norm_:.1e}", "yes" if m.converged_ else "no"]
        for m in models
    ]
    return Table(
        "Features that are not standardised",
        "Digits with pixels from 0 to 16, C = 1, at the default tol = 1e-8.",
        ["α", "steps", "gradient", "converged"],
        rows,
    )


def gradient(model: LogisticRegression | SoftmaxRegression, X: np.ndarray, y: np.ndarray) -> float:
    """The largest entry of the gradient of the mean log loss plus ‖W‖²/(2 C n)."""
    p, n = model.predict_proba(X), len(X)
    surplus = (p - (y[:, None] == model.classes_)) / n
    if len(model.coef_) == 1:
        surplus = surplus[:, 1:]
    kernel = surplus.T @ X + model.coef_ / (model.C * n)
    return float(max(abs(kernel).max(), abs(surplus.sum(0)).max()))


def difference(ours: SoftmaxRegression, theirs: LogisticRegression) -> float:
    """Largest difference of coefficients and intercepts over the largest of them."""
    a, b = (np.column_stack([it.coef_, it.intercept_]) for it in (ours, theirs))
    return float(abs(a - b).max() / abs(b).max())


def quietly(fit: Callable, X: np.ndarray, y: np.ndarray) -> None:
    """Fit; that the peer could not reach TOL is in the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit(X, y)


def one_thread(fit: Callable[[], object]) -> Callable[[], None]:
    """`fit` on one thread: starting more can cost the peer more than they earn on few cores."""
    controller = ThreadpoolController()  # finding the libraries takes milliseconds: once, untimed

    def limited() -> None:
        with controller.limit(limits=1):
            fit()

    return limited


def tables(records: list[dict], rounds: int) -> list[Table]:
    """Times, coefficients, the rest of the family."""
    return [times(records, rounds), coefficients(records), family(records)]


def times(records: list[dict], rounds: int) -> Table:
    """The race to the same gradient."""
    rows = []
    for record in records:
        ms = record["milliseconds"]
        for solver, peer in record["peers"].items():
            threads, single = ms[f"peer, {solver}"], ms[f"peer, {solver}, one thread"]
            ratio = ms[f"ours, {solver}"] / min(threads, single)
            bounded = solver == "lbfgs"
            rows.append(
                [
                    f"{record['data']}, {record['examples']} × {record['features']}, "
                    f"{record['classes']} classes",
                    solver,
                    f"{peer['gradient']:.1e}",
                    f"{peer['our_gradient']:.1e}",
                    f"{peer['steps']}",
                    f"{peer['our_steps']}",
                    f"{threads:.2f}",
                    f"{single:.2f}",
                    f"{ms[f'ours, {solver}']:.2f}",
                    f"{ratio:.2f}",
                    f"{TIME_BOUND:g}" if bounded else "–",
                    ("yes" if round(ratio, 2) <= TIME_BOUND else "no") if bounded else "–",
                    f"{ms['dispatch']:.2f}",
                    f"{record['first_fit_seconds']:.1f}",
                ]
            )
    return Table(
        "Time to the same gradient",
        f"LogisticRegression was given tol = {TOL:g}; its L-BFGS stops earlier, where the "
        "objective no longer falls. SoftmaxRegression, by Newton steps, was given the gradient "
        "that the peer reached. Milliseconds of a whole `fit`, checks of the data included, "
        "compiled before. The peer's quicker way, by its default threads or by one, ran against "
        f"ours for at least {rounds} interleaved rounds, its other way for 2 alone; minima; the "
        "ratio is to its better time. Dispatch is a fit that starts at the minimum and takes no "
        "step; the first fit compiles.",
        [
            "data", "peer", "its gradient", "ours", "its steps", "ours", "peer, ms",
            "peer, one thread", "ours, ms", "ratio", "bound", "met", "dispatch, ms",
            "first fit, s",
        ],
        rows,
    )  # fmt: skip


def coefficients(records: list[dict]) -> Table:
    """Whether both find the same model."""
    rows = [
        [
            record["data"],
            solver,
            f"{peer['gradient']:.1e}",
            f"{peer['our_tight_gradient']:.1e}",
            f"{peer['difference']:.1e}",
            f"{COEFFICIENT_BOUND:g}",
            "yes" if peer["difference"] <= COEFFICIENT_BOUND else "no",
        ]
        for record in records
        for solver, peer in record["peers"].items()
    ]
    return Table(
        "Coefficients",
        f"Both sides at tol = {TOL:g}: the largest difference over the largest coefficient.",
        ["data", "peer", "its gradient", "ours", "difference", "bound", "met"],
        rows,
    )


def family(records: list[dict]) -> Table:
    """Costs and accuracies of the other losses."""
    rows = [
        [
            record["data"],
            f"{model['alpha']:g}",
            f"{record['milliseconds'][_named(model['alpha'])]:.2f}",
            f"{model['steps']}",
            f"{model['gradient']:.1e}",
            f"{model['accuracy']:.4f}",
            f"{model['support']:.2f} of {record['classes']}",
        ]
        for record in records
        for model in record["family"]
    ]
    return Table(
        "The family",
        "SoftmaxRegression at its default tol = 1e-8. Accuracy and mean number of classes with "
        "p > 0 on the examples that were fitted.",
        ["data", "α", "ms", "steps", "gradient", "accuracy", "support"],
        rows,
    )


def _named(alpha: float) -> str:
    return f"alpha {alpha:g}"


def run(settings, screen) -> Outcome:
    """Fit both libraries' models to every data set."""
    searches = search()  # first, since it counts compilation
    records = [measure(name, settings.rounds) for name in track(settings.data, console=screen)]
    kept = {"rounds": settings.rounds, "data": records, "search, seconds": searches}
    return Outcome([*tables(records, settings.rounds), searched(searches), unscaled()], kept)


BENCHMARK = Benchmark(
    "regression",
    "Regression, timed",
    run,
    {
        "data": Setting(tuple(DATA), tuple(DATA)[:1]),
        "rounds": Setting(10, 2, "rounds of every race, at least"),
    },
)


if __name__ == "__main__":
    command("regression")
