"""The settings of a run, and the checks that need no device."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp


class Mistake(ValueError):
    """An invalid setting, with a message for the user."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of model, data and optimizer; a checkpoint must have the same.

    Args:
        classes: size of the vocabulary.
        length: tokens of a window.
        features: width of the residual stream.
        layers: number of blocks.
        heads: query heads.
        key_heads: heads of keys and values; each serves `heads / key_heads` queries.
        hidden: width of the gated MLP.
        alpha: α of attention: 1 is softmax, 2 sparsemax.
        dtype: dtype of activations; parameters are float32.
        peer: whether attention and loss are those of `jax.nn` and optax.
        remat: whether blocks are recomputed in the backward pass.
        batch: windows per gradient.
        accumulate: gradients per step.
        steps: length of the schedule.
        warmup: steps of linear warmup.
        rate: the highest learning rate.
        clip: largest global norm of a gradient.
        decay: weight decay of matrices.
        z_loss: λ of the penalty λ (log Σ exp z)².
        seed: seed of parameters, data and draws.
    """

    classes: int = 2048
    length: int = 128
    features: int = 128
    layers: int = 4
    heads: int = 8
    key_heads: int = 4
    hidden: int = 384
    alpha: float = 1.0
    dtype: str = "bfloat16"
    peer: bool = False
    remat: bool = False
    batch: int = 16
    accumulate: int = 1
    steps: int = 200
    warmup: int = 20
    rate: float = 3e-3
    clip: float = 1.0
    decay: float = 0.1
    z_loss: float = 1e-4
    seed: int = 0

    def __post_init__(self):
        for name in ("length", "features", "layers", "heads", "key_heads", "hidden", "batch",
                     "accumulate", "steps"):  # fmt: skip
            if getattr(self, name) < 1:
                raise Mistake(f"--{option(name)} {getattr(self, name)} is below 1.")
        if self.classes <= 257:
            raise Mistake(f"--classes {self.classes}: 256 bytes and the end take 257 of them.")
        if self.features % self.heads or self.features // self.heads % 2:
            raise Mistake(
                f"--features {self.features} does not give --heads {self.heads} an even width "
                "each, which rotary embeddings need."
            )
        if self.heads % self.key_heads:
            raise Mistake(
                f"--heads {self.heads} is not a multiple of --key-heads {self.key_heads}: every "
                "key head serves the same number of query heads."
            )
        if not self.alpha > 0:
            raise Mistake(f"--alpha {self.alpha} is not above 0.")
        if self.peer and self.alpha != 1:
            raise Mistake(f"--peer has only softmax attention; leave out --alpha {self.alpha}.")
        if not 0 <= self.warmup < self.steps:
            raise Mistake(f"--warmup {self.warmup} is not in the range [0, --steps {self.steps}).")
        for name in ("rate", "clip"):
            if not getattr(self, name) > 0:
                raise Mistake(f"--{option(name)} {getattr(self, name)} is not above 0.")
        for name in ("decay", "z_loss"):
            if not getattr(self, name) >= 0:
                raise Mistake(f"--{option(name)} {getattr(self, name)} is below 0.")
        jnp.dtype(self.dtype)

    @property
    def width(self) -> int:
        """The size of one head."""
        return self.features // self.heads

    def check_mesh(self, data: int, model: int) -> None:
        """Raise if a mesh of data × model does not divide the sizes that it splits."""
        if self.batch % data:
            raise Mistake(
                f"--batch {self.batch} is not a multiple of the {data} parts of the data axis."
            )
        for name in ("classes", "heads", "key_heads", "hidden"):
            if getattr(self, name) % model:
                raise Mistake(
                    f"--{option(name)} {getattr(self, name)} is not a multiple of the {model} "
                    "parts of the model axis."
                )

    def differences(self, other: dict) -> list[str]:
        """Return the settings that differ from a checkpoint's, as text."""
        mine = dataclasses.asdict(self)
        return [
            f"--{option(name)} {value} (checkpoint: {other.get(name)})"
            for name, value in mine.items()
            if other.get(name) != value
        ]


def option(name: str) -> str:
    """Return the name of a field on the command line."""
    return name.replace("_", "-")
