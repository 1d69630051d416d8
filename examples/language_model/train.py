"""The training state, its sharding on a mesh, and the training step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from examples.language_model import data
from examples.language_model.config import Config
from examples.language_model.data import Batch
from examples.language_model.model import GPT
from examples.language_model.tokens import IGNORED


class Metrics(NamedTuple):
    """The metrics of a step; loss and gradient are means over the tokens that are not ignored."""

    loss: Any
    gradient_norm: Any
    tokens: Any


def make_mesh(data: int, model: int, devices=None) -> Mesh:
    """Return a mesh of data × model with axes that XLA partitions."""
    return jax.make_mesh(
        (data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def schedule(config: Config) -> optax.Schedule:
    """Return a schedule of linear warmup, then a cosine down to a tenth."""
    return optax.warmup_cosine_decay_schedule(
        0.0, config.rate, config.warmup, config.steps, end_value=config.rate / 10
    )


def optimizer(config: Config) -> optax.GradientTransformation:
    """Return AdamW on clipped gradients, with weight decay of matrices only."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(
            schedule(config), b2=0.95, weight_decay=config.decay,
            mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        ),
    )  # fmt: skip


class Training:
    """The compiled program of one configuration on one mesh.

    Args:
        config: the settings.
        mesh: a mesh with axes `data` and `model`.

    Attributes:
        graph: the static part of model and optimizer.
        abstract: shapes, dtypes and shardings of the state.
        step: (state, batch) → (state, Metrics), compiled; the input state is donated.
    """

    def __init__(self, config: Config, mesh: Mesh):
        config.check_mesh(mesh.shape["data"], mesh.shape["model"])
        self.config, self.mesh = config, mesh
        with jax.set_mesh(mesh):
            self.graph, state = nnx.split(nnx.eval_shape(self._build))
            places = nnx.get_named_sharding(state, mesh)
        self.abstract = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, places
        )
        self.places = places
        self.step = jax.jit(
            self._step, donate_argnums=0, out_shardings=(places, NamedSharding(mesh, P()))
        )

    def init(self) -> nnx.State:
        """Initialise parameters and optimizer, each part on its own device."""
        with jax.set_mesh(self.mesh):
            return jax.jit(lambda: nnx.state(self._build()), out_shardings=self.places)()

    def compile(self) -> jax.stages.Compiled:
        """Return the step, compiled ahead of time."""
        return self.lower().compile()

    def lower(self) -> jax.stages.Lowered:
        """Return the step, lowered for abstract arrays; it needs no device of the mesh."""
        shape = (self.config.accumulate, self.config.batch, self.config.length)
        tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=data.sharding(self.mesh))
        with jax.set_mesh(self.mesh):
            return self.step.lower(self.abstract, Batch(tokens=tokens, labels=tokens))

    def model(self, state: nnx.State) -> GPT:
        """Return the model of a state."""
        return nnx.merge(self.graph, state)[0]

    @property
    def parameters(self) -> int:
        """The number of parameters of the model."""
        return sum(x.size for x in jax.tree.leaves(nnx.state(self.model(self.abstract))))

    def _build(self) -> tuple[GPT, nnx.Optimizer]:
        model = GPT(self.config, rngs=nnx.Rngs(self.config.seed))
        return model, nnx.Optimizer(model, optimizer(self.config), wrt=nnx.Param)

    def _step(self, state: nnx.State, batch: Batch) -> tuple[nnx.State, Metrics]:
        model, optimizer = nnx.merge(self.graph, state)
        graph, params = nnx.split(model)
        count = (batch["labels"] != IGNORED).sum()

        # Padding differs from part to part, so parts are summed and the sum divided once.
        def part(sums, batch: Batch):
            def loss(params):
                model = nnx.merge(graph, params)
                return model.loss(batch["tokens"], batch["labels"]).sum() / count

            return jax.tree.map(jnp.add, sums, jax.value_and_grad(loss)(params)), None

        zeros = jax.tree.map(jnp.zeros_like, (jnp.float32(0), params))
        if self.config.accumulate == 1:
            (loss, gradients), _ = part(zeros, jax.tree.map(lambda x: x[0], batch))
        else:
            (loss, gradients), _ = jax.lax.scan(part, zeros, batch)
        optimizer.update(model, gradients)
        metrics = Metrics(loss, optax.tree.norm(gradients), count)
        return nnx.state((model, optimizer)), metrics
