"""The functions that are asked about, by library; libraries without one are left out."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.conformance.libraries import (
    Jax,
    Torch,
    entmax,
    flax,
    jaxopt,
    optax,
    ours,
    tokamax,
    torch,
)

# The names of one function in a library; several entries where it has several ways to compute it.
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
    """Functions that no peer has."""
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
        "jsoftmax": Jax(lambda z: ours.entmax_loss(z, labels, alpha=1.5)),
    }


def attention(query, key, value, bias=None, mask=None, **options) -> Functions:
    """Attention as a function of its query, key or value, whichever is None here.

    A library without one of the options is left out. All numbers take the dtype of those asked
    about.
    """

    def jax_of(attend, **more):
        def call(x):
            inputs = [x if y is None else jnp.asarray(y, x.dtype) for y in (query, key, value)]
            added = None if bias is None else jnp.asarray(bias, x.dtype)
            seen = None if mask is None else jnp.asarray(mask)
            return attend(*inputs, added, seen, **options, **more)

        return Jax(call)

    def torch_call(x):
        inputs = [x if y is None else torch.tensor(y).to(x.dtype) for y in (query, key, value)]
        added = None if bias is None else torch.tensor(bias).to(x.dtype)
        if mask is not None:
            seen = torch.tensor(mask)
            added = seen if added is None else added.masked_fill(~seen, -float("inf"))
        heads_first = [each.transpose(-2, -3) for each in inputs]
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(*heads_first, added, enable_gqa=True, **options).transpose(-2, -3)

    found = {
        "jax.nn": jax_of(lambda *x, **more: jax.nn.dot_product_attention(*x, **more)),
        "flax": jax_of(lambda *x: flax.dot_product_attention(*x)),
        "tokamax": {
            way: jax_of(
                lambda *x, **more: tokamax.dot_product_attention(*x, **more), implementation=way
            )
            for way in ("xla", "xla_chunked")
        },
        "torch": Torch(torch_call),
        "jsoftmax": jax_of(lambda *x, **more: ours.dot_product_attention(*x, **more)),
    }
    return {name: each for name, each in found.items() if options.keys() <= OPTIONS[name]}


def _rows(function):
    """A function of one vector, over the last axis."""
    return jnp.vectorize(function, signature="(n)->(n)")


# The three that most questions are put to, each with its α.
FAMILY = {"softmax": (softmax, 1), "sparsemax": (sparsemax, 2), "entmax 1.5": (entmax15, 1.5)}

# Arguments of attention besides arrays and masks.
SHARED = {"is_causal", "query_seq_lengths", "key_value_seq_lengths", "local_window_size"}
OPTIONS = {
    "jax.nn": SHARED,
    "flax": set(),
    "tokamax": SHARED | {"logits_soft_cap"},
    "torch": {"is_causal"},
    "jsoftmax": SHARED
    | {"logits_soft_cap", "alpha", "sinks", "query_segment_ids", "key_value_segment_ids"},
}
