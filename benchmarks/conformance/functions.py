"""The functions that are asked about, by library; libraries without one are left out."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.conformance.libraries import Jax, Torch, entmax, jaxopt, optax, ours, torch

# What a library calls one thing; several entries where it has several ways to compute it.
Function = Jax | Torch | Mapping[str, Jax | Torch]
Functions = Mapping[str, Function]


def softmax(where=None) -> Functions:
    """Softmax of the last axis."""
    return {
        "jax.nn": Jax(lambda z: jax.nn.softmax(z, where=where)),
        "jsoftmax": Jax(lambda z: ours.softmax(z, where=where)),
    }


def log_softmax(where=None) -> Functions:
    """Its logarithm."""
    return {
        "jax.nn": Jax(lambda z: jax.nn.log_softmax(z, where=where)),
        "jsoftmax": Jax(lambda z: ours.log_softmax(z, where=where)),
    }


def logsumexp(where=None) -> Functions:
    """log Σ exp over the last axis."""
    return {
        "jax.nn": Jax(lambda z: jax.nn.logsumexp(z, axis=-1, where=where)),
        "jsoftmax": Jax(lambda z: ours.logsumexp(z, where=where)),
    }


def sparsemax(where=None) -> Functions:
    """The projection on the simplex; no peer takes a mask."""
    mine = {"jsoftmax": Jax(lambda z: ours.sparsemax(z, where=where))}
    if where is not None:
        return mine
    return {
        "optax": Jax(lambda z: _rows(optax.projections.projection_simplex)(z)),
        "jaxopt": Jax(lambda z: _rows(jaxopt.projection.projection_simplex)(z)),
        "entmax": {
            "sort": Torch(lambda z: entmax.sparsemax(z)),
            "bisect": Torch(lambda z: entmax.sparsemax_bisect(z)),
        },
        **mine,
    }


def entmax15(where=None) -> Functions:
    """1.5-entmax; no peer takes a mask."""
    mine = {"jsoftmax": Jax(lambda z: ours.entmax(z, 1.5, where=where))}
    if where is not None:
        return mine
    return {
        "entmax": {
            "sort": Torch(lambda z: entmax.entmax15(z)),
            "bisect": Torch(lambda z: entmax.entmax_bisect(z, 1.5)),
        },
        **mine,
    }


def entmax_of(alpha: float) -> Functions:
    """α-entmax with a static α."""
    return {
        "entmax": Torch(lambda z: entmax.entmax_bisect(z, alpha)),
        "jsoftmax": Jax(lambda z: ours.entmax(z, alpha)),
    }


def entmax_traced(logits: np.ndarray) -> Functions:
    """α-entmax of these logits as a function of α, of shape [rows, 1]."""
    return {
        "entmax": Torch(lambda alpha: entmax.entmax_bisect(torch.tensor(logits), alpha)),
        "jsoftmax": Jax(lambda alpha: jax.jit(ours.entmax)(jnp.asarray(logits), alpha)),
    }


def normmax(alpha: float) -> Functions:
    """The map of the regularizer ‖p‖_α."""
    return {
        "entmax": Torch(lambda z: entmax.normmax_bisect(z, alpha)),
        "jsoftmax": Jax(lambda z: ours.normmax(z, alpha)),
    }


def budget(k: float) -> Functions:
    """The projection on 0 ≤ p ≤ 1, Σp = k."""
    return {
        "entmax": Torch(lambda z: entmax.budget_bisect(z, k)),
        "jsoftmax": Jax(lambda z: ours.topk_entmax(z, k, alpha=2)),
    }


def mine(call) -> Functions:
    """What no peer has."""
    return {"jsoftmax": Jax(call)}


def cross_entropy(labels, where=None) -> Functions:
    """Cross-entropy against integer classes, one for each row; jaxopt takes no mask."""
    integers = jnp.asarray(labels)
    masked = {
        "optax": Jax(
            lambda z: optax.softmax_cross_entropy_with_integer_labels(z, integers, where=where)
        ),
        "jsoftmax": Jax(lambda z: ours.cross_entropy(z, labels, where=where)),
    }
    if where is not None:
        return masked
    loss = Jax(lambda z: jax.vmap(jaxopt.loss.multiclass_logistic_loss)(integers, z))
    return {**masked, "jaxopt": loss}


def cross_entropy_of(targets) -> Functions:
    """Cross-entropy against distributions."""
    y = np.asarray(targets, np.float32)
    return {
        "optax": {
            "plain": Jax(lambda z: optax.softmax_cross_entropy(z, y)),
            "safe": Jax(lambda z: optax.safe_softmax_cross_entropy(z, y)),
        },
        "jsoftmax": Jax(lambda z: ours.cross_entropy(z, y)),
    }


def sparsemax_loss(labels) -> Functions:
    """The sparsemax loss against integer classes, one for each row."""
    return {
        "optax": Jax(lambda z: optax.losses.multiclass_sparsemax_loss(z, jnp.asarray(labels))),
        "jaxopt": Jax(
            lambda z: jax.vmap(jaxopt.loss.multiclass_sparsemax_loss)(jnp.asarray(labels), z)
        ),
        "entmax": Torch(lambda z: entmax.sparsemax_loss(z, torch.tensor(np.asarray(labels)))),
        "jsoftmax": Jax(lambda z: ours.sparsemax_loss(z, labels)),
    }


def entmax15_loss(labels) -> Functions:
    """The 1.5-entmax loss against integer classes, one for each row."""
    return {
        "entmax": Torch(lambda z: entmax.entmax15_loss(z, torch.tensor(np.asarray(labels)))),
        "jsoftmax": Jax(lambda z: ours.entmax_loss(z, labels, 1.5)),
    }


def _rows(function):
    """A function of one vector, over the last axis."""
    return jnp.vectorize(function, signature="(n)->(n)")


# The three that most questions are put to, each with its α.
FAMILY = {"softmax": (softmax, 1), "sparsemax": (sparsemax, 2), "entmax 1.5": (entmax15, 1.5)}
