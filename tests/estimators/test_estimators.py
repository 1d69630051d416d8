"""SoftmaxRegression: scikit-learn's conventions, its coefficients at α = 1, and other α."""

import contextlib
import re
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import estimator_checks_generator

from jsoftmax import entmax_loss
from jsoftmax.estimators import SoftmaxRegression, _linear
from tests import oracles
from tests.marks import some

# These look for pandas, or for an environment variable that changes all of SciPy.
ELSEWHERE = {
    "check_sample_weights_pandas_series",
    "check_classifier_data_not_an_array",
    "check_array_api_input",
}
CHECKS = [
    pytest.param(estimator, check, id=f"{check.func.__name__}-{number}")
    for number, (estimator, check) in enumerate(estimator_checks_generator(SoftmaxRegression()))
    if check.func.__name__ not in ELSEWHERE
]


@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learn_finds_its_conventions(estimator, check):
    """`check_estimator`, one test a check."""
    with warnings.catch_warnings():
        # Some checks give features far from standardised, or pandas that is not there.
        warnings.simplefilter("ignore")
        check(clone(estimator))


def data(classes: int, n: int = 150):
    """Irises, standardised, of all classes or of the two that overlap; every other weighs less."""
    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    rows = np.flatnonzero(y >= 3 - classes)[:: -(-150 // n)]
    return X[rows], y[rows], np.where(np.arange(len(rows)) % 2, 2.5, 0.5)


def gradients(model, X, Y, w):
    """∇ of C Σ w L + ‖W‖²/2, in W and in b, with p from an oracle that sorts or bisects."""
    z = X @ model.coef_.T + model.intercept_
    if len(model.coef_) == 1:
        z = np.column_stack([np.zeros(len(z)), z])
    surplus = model.C * w[:, None] * (oracles.entmax(z, model.alpha) - Y)
    if len(model.coef_) == 1:
        surplus = surplus[:, 1:]
    return np.asarray(surplus.T @ X + model.coef_), np.asarray(surplus.sum(0))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weighted": True},
        {"class_weight": "balanced", "weighted": True},
        {"class_weight": {1: 0.2, 2: 3.0}},
        {"fit_intercept": False},
        {"C": 30.0},
    ],
    ids=str,
)
def test_at_alpha_1_it_is_logistic_regression(classes, options):
    """The coefficients of scikit-learn's Newton, which converges quadratically."""
    X, y, w = data(classes)
    options = dict(options)
    w = w if options.pop("weighted", False) else None
    peer = LogisticRegression(solver="newton-cholesky", tol=1e-11, **options).fit(X, y, w)
    ours = SoftmaxRegression(tol=1e-11, **options).fit(X, y, w)
    assert ours.converged_
    np.testing.assert_array_equal(ours.classes_, peer.classes_)
    np.testing.assert_allclose(ours.coef_, peer.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours.intercept_, peer.intercept_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), rtol=1e-6)
    np.testing.assert_allclose(ours.predict_log_proba(X), peer.predict_log_proba(X), rtol=1e-6)
    np.testing.assert_array_equal(ours.predict(X), peer.predict(X))
    assert ours.score(X, y) == peer.score(X, y)


@pytest.mark.parametrize(
    ("alpha", "classes"), [(0.7, 3), (1.0, 3), (1.5, 2), (1.5, 3), (2.0, 2), (2.0, 3)]
)
@pytest.mark.slow
def test_no_gradient_is_left_at_the_minimum(alpha, classes):
    """Zero in W and in b, by an oracle's probabilities; the objective is convex, so that is it."""
    X, y, w = data(classes)
    model = SoftmaxRegression(alpha=alpha, tol=1e-9).fit(X, y, w)
    scale = model.C * w.sum()
    for gradient in gradients(model, X, np.eye(3)[y][:, 3 - classes :], w):
        assert abs(gradient).max() <= 1.01e-9 * scale
    assert model.gradient_norm_ <= 1e-9 and model.converged_


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("alpha", some([1.5, 2.0], [1.5]))
def test_another_optimiser_finds_the_same_minimum(alpha, classes):
    """SciPy's L-BFGS-B on an objective in numpy, with losses and gradients of the oracle."""
    X, y, w = data(classes, n=50)
    Y = np.eye(3)[y][:, 3 - classes :]
    rows = 1 if classes == 2 else 3
    peer = SoftmaxRegression(alpha=alpha, C=0.5)

    def objective(point):
        peer.coef_, bias = np.split(point.reshape(rows, -1), [X.shape[1]], axis=1)
        peer.intercept_ = bias[:, 0]
        z = X @ peer.coef_.T + peer.intercept_
        z = np.column_stack([np.zeros(len(z)), z]) if rows == 1 else z
        loss = oracles.smoothmax(z, alpha) - (Y * z).sum(1)
        kernel, bias = gradients(peer, X, Y, w)
        value = 0.5 * float((w * loss).sum()) + (peer.coef_**2).sum() / 2
        return value, np.column_stack([kernel, bias]).ravel().astype(float)

    found = scipy.optimize.minimize(
        objective,
        np.zeros(rows * (X.shape[1] + 1)),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-8, "maxiter": 5000},
    )
    model = SoftmaxRegression(alpha=alpha, C=0.5).fit(X, y, w)
    np.testing.assert_allclose(model.objective_ * 0.5 * w.sum(), found.fun, rtol=1e-9)
    kernel = found.x.reshape(rows, -1)[:, :-1]
    np.testing.assert_allclose(model.coef_, kernel, atol=2e-5 * abs(kernel).max())


@pytest.mark.parametrize("alpha", [0.7, 1.0, 2.0])
def test_the_objective_is_the_mean_loss_and_the_penalty(alpha):
    """Ω(y) included, so that it is zero where every loss is and there is no penalty."""
    X, y, w = data(3)
    Y = 0.9 * np.eye(3)[y] + 0.1 * np.eye(3)[(y + 1) % 3]
    model = SoftmaxRegression(alpha=alpha, C=2.0).fit_distributions(X, Y, w)
    losses = entmax_loss(model.decision_function(X), Y, alpha=alpha)
    penalty = (model.coef_**2).sum() / (2 * model.C * w.sum())
    np.testing.assert_allclose(
        model.objective_, np.average(losses, weights=w) + penalty, rtol=1e-12
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_labels_are_one_hot_distributions(classes):
    """Bit for bit, but for the names of the classes."""
    X, y, w = data(classes)
    Y = np.eye(3)[y][:, 3 - classes :]
    labels = SoftmaxRegression(alpha=1.5, class_weight="balanced").fit(X, y, w)
    weights = SoftmaxRegression(alpha=1.5, class_weight="balanced").fit_distributions(X, Y, w)
    np.testing.assert_array_equal(labels.coef_, weights.coef_)
    np.testing.assert_array_equal(labels.intercept_, weights.intercept_)
    np.testing.assert_array_equal(weights.classes_, np.arange(classes))


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_a_distribution_is_worth_as_many_labels(alpha):
    """L(z, y) is linear in y up to Ω(y): y stands for each class k, weighted by y_k."""
    X, y, w = data(3, n=50)
    Y = 0.6 * np.eye(3)[y] + 0.4 * np.eye(3)[(y + 1) % 3]
    mixed = SoftmaxRegression(alpha=alpha, tol=1e-10).fit_distributions(X, Y, w)
    labels = SoftmaxRegression(alpha=alpha, tol=1e-10).fit(
        np.tile(X, (3, 1)), np.repeat(np.arange(3), len(X)), (w[:, None] * Y).T.ravel()
    )
    np.testing.assert_allclose(mixed.coef_, labels.coef_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(mixed.intercept_, labels.intercept_, rtol=1e-5, atol=1e-7)


def test_class_weights_of_a_distribution_are_their_mean():
    """⟨class weights, y⟩ multiplies the weight of the example."""
    X, y, w = data(3)
    Y = 0.6 * np.eye(3)[y] + 0.4 * np.eye(3)[(y + 1) % 3]
    given = {0: 0.5, 2: 4.0}
    weighted = SoftmaxRegression(class_weight=given).fit_distributions(X, Y, w)
    plain = SoftmaxRegression().fit_distributions(X, Y, w * (Y @ [0.5, 1.0, 4.0]))
    np.testing.assert_array_equal(weighted.coef_, plain.coef_)


def test_sparse_losses_give_zeros():
    """Exact ones, with logarithms −∞; at α = 1 a logarithm is right where p underflows."""
    X, y, _ = data(3)
    sparse = SoftmaxRegression(alpha=2.0).fit(X, y)
    p = sparse.predict_proba(X)
    assert (p == 0).mean() > 0.3
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-14)
    np.testing.assert_allclose(p, oracles.sparsemax(sparse.decision_function(X)).astype(float))
    np.testing.assert_array_equal(np.isneginf(sparse.predict_log_proba(X)), p == 0)
    dense = SoftmaxRegression().fit(X, y)
    far = dense.predict_log_proba(1e4 * X[:1])
    z = dense.decision_function(1e4 * X[:1])
    np.testing.assert_allclose(far, z - z.max(), rtol=1e-12)
    assert (dense.predict_proba(1e4 * X[:1]) == 0).any() and np.isfinite(far).all()


def test_without_a_penalty_the_loss_alone_is_minimised():
    """C = ∞, where classes overlap."""
    X, y, w = data(2)
    model = SoftmaxRegression(C=np.inf, tol=1e-10).fit(X, y, w)
    p = model.predict_proba(X)[:, 1]
    assert abs((w * (p - (y == 2))) @ X).max() < 1e-8 * w.sum()


def test_the_units_of_features_hardly_matter_to_the_search():
    """Far from zero and of scales from 1e-3 to 1e3, which L-BFGS would take thousands of steps for.

    Without a penalty the probabilities are the same; with it, so is the gradient of the stopping
    criterion.
    """
    X, y, w = data(2)
    raw = 1e3 + X * [1e-3, 1.0, 10.0, 1e3]
    plain = SoftmaxRegression(C=np.inf, tol=1e-10).fit(X, y, w)
    units = SoftmaxRegression(C=np.inf, tol=1e-10).fit(raw, y, w)
    assert units.n_iter_ <= 2 * plain.n_iter_
    np.testing.assert_allclose(units.predict_proba(raw), plain.predict_proba(X), atol=1e-5)
    penalised = SoftmaxRegression(alpha=1.5).fit(raw, y, w)
    kernel, bias = gradients(penalised, raw, np.eye(2)[y - 1], w)
    largest = max(abs(kernel).max(), abs(bias).max()) / w.sum()
    np.testing.assert_allclose(penalised.gradient_norm_, largest, rtol=1e-2, atol=1e-10)


def test_a_warm_start_takes_fewer_steps():
    """None at the minimum, and few beside it; the same coefficients."""
    X, y, _ = data(3)
    model = SoftmaxRegression(alpha=1.5, warm_start=True).fit(X, y)
    cold = model.n_iter_
    assert model.fit(X, y).n_iter_ == 0
    model.set_params(C=1.05).fit(X, y)
    assert 0 < model.n_iter_ < 0.8 * cold
    afresh = SoftmaxRegression(alpha=1.5, C=1.05).fit(X, y)
    np.testing.assert_allclose(model.coef_, afresh.coef_, rtol=1e-4)
    with pytest.raises(ValueError, match=r"SoftmaxRegression: `warm_start` has .*\(3, 4\).*\(1, 4"):
        model.fit(X, y == 1)
    without = model.set_params(fit_intercept=False).fit(X, y)
    np.testing.assert_array_equal(without.intercept_, np.zeros(3))


def test_a_fit_that_ends_too_soon_says_so():
    """One sentence with the numbers, and another with the remedy."""
    X, y, _ = data(3)
    with pytest.warns(ConvergenceWarning, match=r"After 3 steps .*`max_iter` = 3\. Raise `max_i"):
        model = SoftmaxRegression(max_iter=3).fit(X, y)
    assert not model.converged_ and model.n_iter_ == 3 and model.gradient_norm_ > model.tol
    with pytest.warns(ConvergenceWarning, match=r"no step .* any more\. Raise `tol`, or lower"):
        model = SoftmaxRegression(tol=1e-300).fit(X, y)
    assert model.n_iter_ < 1000 and model.gradient_norm_ < 1e-12


def test_the_compiled_code_is_shared():
    """By data of other sizes, penalties, weights and tolerances, and by every α."""
    X, y, w = data(3)
    for alpha in (1.0, 1.3):
        SoftmaxRegression(alpha=alpha).fit(X, y).predict_proba(X)
    before = _linear._fit._cache_size(), _linear._entmax._cache_size()
    options = {"C": 3.0, "tol": 1e-5, "max_iter": 99, "fit_intercept": False}
    SoftmaxRegression(**options).fit(X[::2, :3], y[::2], w[::2])
    four = np.where(y == 2, np.arange(len(y)) % 2 + 2, y)
    SoftmaxRegression(class_weight="balanced").fit(X, four)
    for alpha in (1.5, 2, 0.8, 1.7):
        SoftmaxRegression(alpha=alpha).fit(X, y).predict_proba(X)
    assert (_linear._fit._cache_size(), _linear._entmax._cache_size()) == before


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_the_program_of_any_alpha_finds_what_that_of_a_known_one_does(alpha, monkeypatch):
    X, y, w = data(3)
    known = SoftmaxRegression(alpha=alpha, tol=1e-10).fit(X, y, w)
    monkeypatch.setattr(_linear, "_KNOWN", ())
    found = SoftmaxRegression(alpha=alpha, tol=1e-10).fit(X, y, w)
    np.testing.assert_allclose(found.coef_, known.coef_, atol=1e-6)
    np.testing.assert_allclose(found.predict_proba(X), known.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("alpha", some([1.0, 1.5, 2.0], [2.0]))
def test_features_that_are_not_standardised_are_fitted_to_the_end(alpha):
    """Pixels of digits from 0 to 16: on these L-BFGS stopped unconverged after 1000 steps."""
    X, y = load_digits(return_X_y=True)
    model = SoftmaxRegression(alpha=alpha).fit(X, y)
    assert model.converged_ and model.gradient_norm_ <= 1e-8 and model.n_iter_ < 100
    p = oracles.entmax(X @ model.coef_.T + model.intercept_, alpha).astype(float)
    surplus = p - np.eye(10)[y]
    assert abs(surplus.T @ X + model.coef_).max() <= 2e-8 * len(X)
    assert abs(surplus.sum(0)).max() <= 2e-8 * len(X)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
@pytest.mark.parametrize(
    "options", [{}, {"fit_intercept": False, "alpha": 2.0}, {"class_weight": "balanced"}], ids=str
)
def test_sparse_features_are_those_of_the_array(kind, options):
    rng = np.random.default_rng(0)
    X = scipy.sparse.random(120, 15, density=0.2, random_state=rng, format=kind)
    w = rng.random(120)
    for classes in (2, 3):
        y = rng.integers(0, classes, 120)
        dense = SoftmaxRegression(tol=1e-11, **options).fit(X.toarray(), y, w)
        sparse = SoftmaxRegression(tol=1e-11, **options).fit(X, y, w)
        assert sparse.converged_
        np.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(sparse.intercept_, dense.intercept_, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(sparse.predict_proba(X), dense.predict_proba(X.toarray()))
        np.testing.assert_array_equal(sparse.predict(X), dense.predict(X.toarray()))
    Y = rng.dirichlet(np.ones(3), 120)
    both = [SoftmaxRegression(tol=1e-11).fit_distributions(x, Y) for x in (X, X.toarray())]
    np.testing.assert_allclose(both[0].coef_, both[1].coef_, rtol=1e-7, atol=1e-8)


def test_sparse_features_stay_sparse():
    """Of 20,000 features an array would take 320 MB."""
    rng = np.random.default_rng(0)
    X = scipy.sparse.random(2000, 20_000, density=1e-3, random_state=rng, format="csr")
    y = (X[:, :10_000].sum(1) > X[:, 10_000:].sum(1)).astype(int)
    model = SoftmaxRegression(alpha=1.5, C=10.0).fit(X, np.asarray(y).ravel())
    assert model.converged_ and model.score(X, np.asarray(y).ravel()) > 0.9
    peer = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000).fit(X, np.asarray(y).ravel())
    ours = SoftmaxRegression(C=10.0).fit(X, np.asarray(y).ravel())
    np.testing.assert_allclose(ours.coef_, peer.coef_, atol=1e-3 * abs(peer.coef_).max())


@pytest.mark.parametrize(
    ("n", "least", "size"), [(3, 4, 4), (15, 4, 15), (17, 4, 18), (1797, 256, 1920), (256, 8, 256)]
)
def test_padding_adds_an_eighth_at_most(n, least, size):
    """Four binary digits."""
    assert _linear._roomy(n, least) == size <= max(9 * n / 8, least)


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"alpha": "two"}, TypeError, "`alpha` must be a number, not 'two'"),
        ({"alpha": True}, TypeError, "`alpha` must be a number"),
        ({"alpha": 0}, ValueError, "`alpha` must be positive, got 0"),
        ({"alpha": np.nan}, ValueError, "`alpha` must be positive, got nan"),
        ({"alpha": np.inf}, ValueError, "`alpha` must be finite"),
        ({"C": -1.0}, ValueError, "`C` must be positive, got -1.0"),
        ({"tol": 0.0}, ValueError, "`tol` must be positive"),
        ({"max_iter": 10.0}, TypeError, "`max_iter` must be an integer, not 10.0"),
        ({"class_weight": "equal"}, TypeError, "must be None, 'balanced' or a dict, not 'equal'"),
        (
            {"class_weight": {7: 1.0}},
            ValueError,
            "has 7, which is not one of the classes [0, 1, 2]",
        ),
        ({"class_weight": {0: -1.0}}, ValueError, "must be finite, not negative"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(options, error, reason):
    """When it is fitted, as the convention is."""
    X, y, _ = data(3)
    with pytest.raises(error, match=re.escape("jsoftmax.SoftmaxRegression: ")) as raised:
        SoftmaxRegression(**options).fit(X, y)
    assert reason in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("Y", "reason"),
    [
        ([[0.5, 0.6], [1, 0]], "row 0 of `Y` is not a distribution: its smallest entry is 0.5"),
        ([[1, 0], [1.5, -0.5]], "row 1 of `Y` is not a distribution: its smallest entry is -0.5"),
        ([[1.0], [1.0]], "`Y` has shape (2, 1); give one distribution"),
        ([0, 1], "`Y` has shape (2,); give one distribution over two or more classes an example"),
    ],
)
def test_what_is_no_distribution_is_refused(Y, reason):
    """With the row, or with the shape that is wanted."""
    with pytest.raises(ValueError, match=re.escape(f"jsoftmax.SoftmaxRegression: {reason}")):
        SoftmaxRegression().fit_distributions([[0.0], [1.0]], Y)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([1.0, -1.0], "`sample_weight` contains -1"),
        ([0.0, 0.0], "`sample_weight` is zero everywhere"),
        ([1.0], "`sample_weight` has shape (1,); give one number an example, shape (2,)"),
    ],
)
def test_wrong_weights_are_refused(weights, reason):
    """Before anything is compiled."""
    with pytest.raises(ValueError, match=re.escape(f"jsoftmax.SoftmaxRegression: {reason}")):
        SoftmaxRegression().fit([[0.0], [1.0]], [0, 1], weights)


def test_one_class_is_not_enough():
    """It is named."""
    with pytest.raises(
        ValueError, match=r"SoftmaxRegression: `y` has only one class, .*a.*\. Give"
    ):
        SoftmaxRegression().fit([[0.0], [1.0]], ["a", "a"])


@pytest.mark.slow
def test_it_fits_under_the_strictest_settings():
    """No rank is promoted, no dtype, nothing leaks, and no NaN is formed on the way."""
    X, y, _ = data(3)
    settings = (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.checking_leaks(),
        jax.debug_nans(True),
    )
    with contextlib.ExitStack() as stack:
        for setting in settings:
            stack.enter_context(setting)
        model = SoftmaxRegression().fit(X, y)
        p = model.predict_proba(X)
        log_p = model.predict_log_proba(X)
    assert model.converged_
    np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-12)


@pytest.mark.slow
def test_float64_is_a_matter_of_the_fit_alone():
    """Where JAX is set to float32 the fit is in float64, and later computations are in float32."""
    script = """
import sys, warnings
warnings.simplefilter("error")
import jsoftmax
assert "sklearn" not in sys.modules
import jax, jax.numpy as jnp, numpy as np
from jsoftmax.estimators import SoftmaxRegression
X, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 3
model = SoftmaxRegression(tol=1e-12).fit(X, y)
p = model.predict_proba(X)
assert model.converged_ and model.coef_.dtype == p.dtype == np.float64
assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == jnp.float32
assert abs((p - np.eye(3)[y]).T @ X + model.coef_).max() < 1e-9
"""
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert jax.config.jax_enable_x64  # as these tests have set it


def test_without_scikit_learn_the_remedy_is_named():
    """In one line; the rest of the package does not miss it."""
    script = "import sys; sys.modules['sklearn'] = None\nimport jsoftmax, jsoftmax.estimators"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    *_, line = run.stderr.splitlines()
    assert run.returncode == 1
    assert line == (
        'ImportError: jsoftmax.estimators needs scikit-learn: pip install "jsoftmax[sklearn]"'
    )
    assert "During handling" not in run.stderr
