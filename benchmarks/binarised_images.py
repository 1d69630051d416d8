"""Binarised images to train stochastic networks on: scikit-learn's digits, or MNIST from a file."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
from sklearn.datasets import load_digits

SIDE = 16  # of the digits, which are 8 × 8


class Images(NamedTuple):
    """Rows of zeros and ones, from the top of an image to its bottom, in three parts."""

    name: str
    learned: np.ndarray
    chosen_by: np.ndarray
    judged: np.ndarray


def digits() -> Images:
    """scikit-learn's 1,797 digits, enlarged to 16 × 16: 1,200 to learn from, 200, 397."""
    grey = load_digits().images / 16
    grey = np.asarray(jax.image.resize(grey, (len(grey), SIDE, SIDE), "linear"))
    x = binarised(grey)[np.random.default_rng(0).permutation(len(grey))]
    return Images(f"scikit-learn's digits, enlarged to {SIDE} × {SIDE}", *np.split(x, [1200, 1400]))


def mnist(path: pathlib.Path) -> Images:
    """Read MNIST from Keras' `mnist.npz`, which holds the arrays `x_train` and `x_test`."""
    with np.load(path) as file:
        learned, judged = (binarised(file[name] / 255) for name in ("x_train", "x_test"))
    return Images("MNIST", *np.split(learned, [len(learned) * 11 // 12]), judged)


def binarised(grey: np.ndarray) -> np.ndarray:
    """Images of grey from 0 to 1 as rows of zeros and ones, cut at the middle."""
    return (grey.reshape(len(grey), -1) > 0.5).astype(np.float32)
