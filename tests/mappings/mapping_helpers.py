"""Every mapping as a function of its logits, with the names of its arguments."""

import functools

import jax.numpy as jnp

import jsoftmax as js

ENERGIES = ["boltzmann", "log_partition", "free_energy", "mean_energy", "heat_capacity"]
# name: (function, the name of its scores, its other array arguments)
ARGUMENTS = {
    **dict.fromkeys(
        ["softmax", "log_softmax", "logsumexp", "softmin", "sparsemax"],
        ("logits", ["where", "temperature"]),
    ),
    **dict.fromkeys(ENERGIES, ("energies", ["where", "temperature"])),
    **dict.fromkeys(
        ["entmax", "smoothmax", "normmax"], ("logits", ["alpha", "where", "temperature"])
    ),
    "hardmax": ("logits", ["where"]),
    "entropy": ("probabilities", ["alpha", "where"]),
    "binary_entmax": ("logits", ["alpha", "temperature"]),
    "soft_argmax": ("logits", ["coordinates", "alpha", "where", "temperature"]),
    "topk_entmax": ("logits", ["k", "alpha", "where", "temperature"]),
    "topk_sigmoid": ("logits", ["k", "where", "temperature"]),
    "capped_entmax": ("logits", ["upper", "alpha", "where", "temperature"]),
    "entmax_sparse": ("logits", ["alpha", "where", "temperature"]),
}
FIXED = {"topk_entmax": {"k": 2}, "topk_sigmoid": {"k": 2}, "capped_entmax": {"upper": 0.6}}
FIXED["entmax_sparse"] = {"size": 2}


def call(name, z, **options):
    """The mapping with the arguments that it cannot do without."""
    return getattr(js, name)(z, **{**FIXED.get(name, {}), **options})


def values(name, z, **options):
    """Its one array of numbers."""
    result = call(name, z, **options)
    return result.values if name == "entmax_sparse" else result


# One of every way to compute, for laws that compile each of them.
AT_A_TEMPERATURE = {
    name: functools.partial(values, name)
    for name in ARGUMENTS
    if "temperature" in ARGUMENTS[name][1]
}
AT_A_TEMPERATURE |= {
    f"entmax at {alpha}": functools.partial(values, "entmax", alpha=alpha) for alpha in (0.5, 3.0)
}
AT_A_TEMPERATURE["entmax at a traced 1.3"] = lambda z, **options: js.entmax(
    z, jnp.asarray(1.3, z.dtype), **options
)
AT_A_TEMPERATURE["smoothmax at 2"] = functools.partial(values, "smoothmax", alpha=2.0)
AT_A_TEMPERATURE["capped_entmax at 1"] = functools.partial(values, "capped_entmax", alpha=1.0)
