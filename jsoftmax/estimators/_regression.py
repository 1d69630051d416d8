"""Multinomial logistic regression and its sparse counterparts, with scikit-learn's conventions."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from jsoftmax.estimators import _linear as linear

_NAME = "jsoftmax.SoftmaxRegression"
_SPARSE = ("csr", "csc", "coo")  # formats accepted without conversion


class SoftmaxRegression(ClassifierMixin, BaseEstimator):
    r"""A linear classifier with α-entmax loss and L2 penalty: logistic regression at α = 1.

    .. math:: \min_{W, b} \; C \sum_i w_i L_α(W x_i + b, y_i) + \tfrac{1}{2} ‖W‖²

    L_α is `fenchel_young_loss`. With α = 1 this is `sklearn.linear_model.LogisticRegression`: the
    same coefficients for the same C. α = 2 has the sparsemax loss; for every α > 1 classes of low
    score get probability exactly 0. Targets may also be distributions: `fit_distributions`.

    The intercept is not penalised. Two classes have one vector of coefficients, those of class 1;
    class 0 scores 0. The solver is Newton's method with conjugate gradients, in float64 whatever
    the settings of JAX. It ends when no entry of the gradient of the objective, divided by C Σ w,
    exceeds `tol`. It scales the features internally, so that they need not be standardised for it;
    but the penalty depends on the units of features, as in scikit-learn. For α > 2 the gradient is
    not Lipschitz, and the solver takes many steps.

    A SciPy sparse X stays sparse: it is stored as a `jax.experimental.sparse.BCOO`. Each step needs
    two products with it, so that time and memory grow with the number of entries. Features are
    centered in these products, not in the matrix.

    A fit is compiled once for all data of about the same size, and for every α: one program serves
    1, 1.5 and 2, a second one any other.

    α is a constant here. The loss falls as its own α grows, whatever the scores, so choose it by
    the score on held-out examples.

    Args:
        alpha: α > 0, finite.
        C: the weight of the loss relative to the penalty, > 0; `inf` removes the penalty.
        fit_intercept: whether there is an intercept b.
        class_weight: None; "balanced" for the same total weight of every class; or a dict from
            class to a weight ≥ 0, with 1 for missing classes. The weight of a distribution is the
            mean of those of its classes.
        tol: the tolerance for the largest entry of the gradient.
        max_iter: the maximum number of steps.
        warm_start: whether `fit` starts from the coefficients of the previous fit.

    Attributes:
        classes_: the K labels, sorted; after `fit_distributions` the columns 0, …, K − 1.
        coef_: W, of shape [K, d]; [1, d] where K = 2.
        intercept_: b, of shape [K]; [1] where K = 2.
        n_iter_: steps taken.
        gradient_norm_: the largest entry of the gradient at the end.
        converged_: whether that is at most `tol`.
        objective_: the minimum found, divided by C Σ w.
        n_features_in_: d.
        feature_names_in_: names of the features, if `X` has string names.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from jsoftmax.estimators import SoftmaxRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> model = SoftmaxRegression(alpha=2.0).fit(X, y)
        >>> print(model.predict_proba(X[[0, 70, 100]]).round(2))
        [[1.   0.   0.  ]
         [0.   0.46 0.54]
         [0.   0.   1.  ]]

    Reference:
        A. F. T. Martins and R. F. Astudillo, "From softmax to sparsemax", ICML 2016; M. Blondel,
        A. F. T. Martins and V. Niculae, "Learning with Fenchel–Young losses", JMLR 2020.
    """

    # Without annotations, because by convention any value is accepted here and `fit` validates it.
    def __init__(
        self,
        *,
        alpha=1.0,
        C=1.0,
        fit_intercept=True,
        class_weight=None,
        tol=1e-8,
        max_iter=1000,
        warm_start=False,
    ):
        self.alpha = alpha
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SoftmaxRegression:
        """Fit to labels.

        Args:
            X: features of shape [n, d], an array or a sparse matrix.
            y: labels of shape [n], numbers or strings, of at least two classes.
            sample_weight: w ≥ 0 of shape [n]; by default 1.

        Returns:
            Itself.

        Raises:
            TypeError: if an argument of the constructor has the wrong type.
            ValueError: if one is out of range, shapes do not fit, or there is only one class.
        """
        self._check_arguments()
        X, y = validate_data(self, X, y, dtype=np.float64, accept_sparse=_SPARSE)
        check_classification_targets(y)
        classes, index = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"{_NAME}: `y` has only one class, {classes[0]!r}. Give labels of two or more."
            )
        targets = np.eye(len(classes))[index]
        return self._fit(X, targets, classes, sample_weight)

    def fit_distributions(self, X: Any, Y: Any, sample_weight: Any = None) -> SoftmaxRegression:
        """Fit to distributions over K classes; labels are the one-hot case.

        Args:
            X: features of shape [n, d], an array or a sparse matrix.
            Y: distributions of shape [n, K], K ≥ 2: not negative, and each row sums to 1.
            sample_weight: w ≥ 0 of shape [n]; by default 1.

        Returns:
            Itself.

        Raises:
            TypeError: if an argument of the constructor has the wrong type.
            ValueError: if one is out of range, shapes do not fit, or a row is not a distribution.

        Example:
            >>> import numpy as np
            >>> from jsoftmax.estimators import SoftmaxRegression
            >>> X, Y = np.array([[0.0], [1.0]]), np.array([[1.0, 0.0], [0.3, 0.7]])
            >>> model = SoftmaxRegression(C=1e4).fit_distributions(X, Y)
            >>> print(model.predict_proba([[1.0]]).round(2))
            [[0.3 0.7]]
        """
        self._check_arguments()
        X, Y = validate_data(self, X, Y, dtype=np.float64, multi_output=True, accept_sparse=_SPARSE)
        Y = np.asarray(Y, np.float64)
        if Y.ndim != 2 or Y.shape[1] < 2:
            raise ValueError(
                f"{_NAME}: `Y` has shape {Y.shape}; give one distribution over two or more classes "
                f"an example, shape ({X.shape[0]}, K). Labels are for `fit`."
            )
        wrong = (Y < 0).any(1) | (abs(Y.sum(1) - 1) > 1e-6)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{_NAME}: row {row} of `Y` is not a distribution: its smallest entry is "
                f"{Y[row].min():g} and its sum {Y[row].sum():g}. Divide counts by their sum, and "
                "leave out rows without any."
            )
        return self._fit(X, Y, np.arange(Y.shape[1]), sample_weight)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores Wx + b.

        Args:
            X: features of shape [n, d], an array or a sparse matrix.

        Returns:
            Scores of shape [n, K]; with two classes [n], of class 1 above those of class 0.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False, accept_sparse=_SPARSE)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities p = entmax(Wx + b), some of them 0 where α > 1.

        Args:
            X: features of shape [n, d], an array or a sparse matrix.

        Returns:
            Probabilities of shape [n, K], in the order of `classes_`.
        """
        return linear.probabilities(self._logits(X), float(self.alpha))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return log p, accurate also where p underflows, −∞ where p is 0.

        Args:
            X: features of shape [n, d], an array or a sparse matrix.

        Returns:
            Logarithms of shape [n, K], in the order of `classes_`.
        """
        return linear.log_probabilities(self._logits(X), float(self.alpha))

    def predict(self, X: Any) -> np.ndarray:
        """Return the class with the largest score.

        Args:
            X: features of shape [n, d], an array or a sparse matrix.

        Returns:
            Labels of shape [n].
        """
        largest = self._logits(X).argmax(1)
        return self.classes_[largest]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _logits(self, X):
        scores = self.decision_function(X)
        return scores if scores.ndim == 2 else np.stack([np.zeros_like(scores), scores], 1)

    def _fit(self, X, targets, classes, sample_weight):
        weights = self._weights(targets, classes, sample_weight)
        found = linear.fit(
            X,
            targets,
            weights,
            self._start(len(classes), X.shape[1]),
            alpha=float(self.alpha),
            penalty=1 / (float(self.C) * weights.sum()),
            use_bias=bool(self.fit_intercept),
            tol=float(self.tol),
            max_iter=int(self.max_iter),
        )
        self.classes_ = classes
        self.coef_, self.intercept_ = found.coefficients
        self.objective_ = found.objective
        self.n_iter_ = found.steps
        self.gradient_norm_ = found.gradient
        self.converged_ = found.gradient <= self.tol
        if not self.converged_:
            stalled = found.steps < self.max_iter
            reason, remedy = (
                ("no step makes the objective less any more", "Raise `tol`")
                if stalled
                else (f"that was all of `max_iter` = {self.max_iter}", "Raise `max_iter` or `tol`")
            )
            warnings.warn(
                f"{_NAME}: not converged. After {found.steps} steps the largest entry of the "
                f"gradient is {found.gradient:.1e}, above `tol` = {self.tol:g}, and {reason}. "
                f"{remedy}, or lower `C`: the stronger the penalty, the fewer steps it takes.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _start(self, classes: int, features: int) -> linear.Coefficients:
        outputs = 1 if classes == 2 else classes
        if not (self.warm_start and hasattr(self, "coef_")):
            return linear.Coefficients(np.zeros((outputs, features)), np.zeros(outputs))
        if self.coef_.shape != (outputs, features):
            raise ValueError(
                f"{_NAME}: `warm_start` has coefficients of shape {self.coef_.shape}, but these "
                f"data need {(outputs, features)}. Set warm_start=False to start anew."
            )
        bias = self.intercept_ if self.fit_intercept else np.zeros(outputs)
        return linear.Coefficients(self.coef_, bias)

    def _weights(self, targets, classes, sample_weight) -> np.ndarray:
        """Return one weight per example: its own times the mean of those of its classes."""
        n = len(targets)
        if sample_weight is None:
            weights = np.ones(n)
        else:
            weights = check_array(
                sample_weight, ensure_2d=False, dtype="float64", input_name="sample_weight"
            )
            if weights.shape != (n,):
                raise ValueError(
                    f"{_NAME}: `sample_weight` has shape {weights.shape}; give one number an "
                    f"example, shape ({n},)."
                )
        if not (weights >= 0).all() or not weights.any():
            fault = "is zero everywhere" if not weights.any() else f"contains {weights.min():g}"
            raise ValueError(
                f"{_NAME}: `sample_weight` {fault}; no weight may be negative and some must be "
                "positive."
            )
        return weights * (targets @ self._class_weights(targets, classes, weights))

    def _class_weights(self, targets, classes, weights) -> np.ndarray:
        given = self.class_weight
        if given is None:
            return np.ones(len(classes))
        if isinstance(given, str) and given == "balanced":
            mass = weights @ targets
            return weights.sum() / (len(classes) * np.where(mass > 0, mass, 1))
        if not isinstance(given, Mapping):
            raise TypeError(
                f"{_NAME}: `class_weight` must be None, 'balanced' or a dict, not {given!r}."
            )
        known = classes.tolist()
        unknown = [label for label in given if label not in known]
        if unknown:
            raise ValueError(
                f"{_NAME}: `class_weight` has {unknown[0]!r}, which is not one of the classes "
                f"{known}."
            )
        per_class = np.array([float(given.get(label, 1)) for label in known])
        if not (np.isfinite(per_class) & (per_class >= 0)).all() or not (targets @ per_class).any():
            raise ValueError(
                f"{_NAME}: weights in `class_weight` must be finite, not negative, and not all 0; "
                f"they are {dict(given)}."
            )
        return per_class

    def _check_arguments(self) -> None:
        """Check the constructor's arguments, which scikit-learn's conventions defer to `fit`."""
        for name, kind in (
            ("alpha", numbers.Real), ("C", numbers.Real), ("tol", numbers.Real),
            ("max_iter", numbers.Integral),
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                a = "an integer" if kind is numbers.Integral else "a number"
                raise TypeError(f"{_NAME}: `{name}` must be {a}, not {value!r}.")
            if not float(value) > 0:
                raise ValueError(f"{_NAME}: `{name}` must be positive, got {value!r}.")
        if math.isinf(self.alpha):
            raise ValueError(
                f"{_NAME}: `alpha` must be finite, since the loss at α = ∞ has no unique minimum; "
                "give a number such as 1 (softmax) or 2 (sparsemax)."
            )
