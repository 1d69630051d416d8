"""One process of several: train, draw and calibrate on a mesh, and print the answers as JSON.

    python -m tests.distributed.worker --mesh 4x2 --coordinator HOST:PORT --processes 4 --process 0

All processes compute all answers, which have to be the same; `answers` is also called by the test,
on one process with eight devices and on one device.
"""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jsoftmax
from examples.language_model import data, devices, tokens
from examples.language_model.__main__ import mesh as read_mesh
from examples.language_model.config import Config
from examples.language_model.generate import generate
from examples.language_model.train import Training, make_mesh

CONFIG = Config(
    classes=320, length=16, features=32, layers=1, heads=8, key_heads=8, hidden=48, batch=8,
    steps=6, warmup=2, rate=1e-2, dtype="float32", alpha=1.5,
)  # fmt: skip


def answers(mesh: Mesh) -> dict[str, list]:
    """Numbers by name, the same on every process."""
    losses, model = train(mesh)
    with jax.set_mesh(mesh):
        found = {"losses": losses, **of_rows(model, mesh)}
        prompt = jnp.ones((4, 3), jnp.int32)
        found["generated"] = fetched(generate(model, prompt, 8, jax.random.key(0)), mesh)
    return jax.tree.map(np.ndarray.tolist, found)


def train(mesh: Mesh):
    """The losses of a few steps, and the model after them."""
    part, parts = data.share(mesh)
    documents = tokens.documents()[:10]
    tokenizer = tokens.Tokenizer.of(documents, CONFIG.classes)
    cut = data.windows(documents, tokenizer, CONFIG.length)
    batches = iter(data.pipeline(cut, CONFIG, part, parts))
    training = Training(CONFIG, mesh)
    state, step, losses = training.init(), training.compile(), []
    for _ in range(CONFIG.steps):
        state, metrics = step(state, data.on_mesh(next(batches), mesh))
        losses.append(float(metrics.loss))
    return np.array(losses), training.model(state)


def of_rows(model, mesh: Mesh) -> dict[str, np.ndarray]:
    """Losses, draws and calibration of rows over `data` and the class table over `model`."""
    rng = np.random.default_rng(0)
    h = put(rng.normal(size=(64, CONFIG.features)).astype(np.float32), mesh, "data", None)
    y = put(rng.integers(0, CONFIG.classes, 64, dtype=np.int32), mesh, "data")
    head = model.head
    table = head.kernel[...]

    def split(h, table, y):
        return jsoftmax.linear_cross_entropy_sum(h, table, y, class_axis=0, axis_name="model")

    def over_parts(h, table, y):
        value, gradient = jax.value_and_grad(split, argnums=1)(h, table, y)
        return jax.lax.psum(value, "data"), gradient

    in_parts = jax.shard_map(
        over_parts, mesh=mesh, in_specs=(P("data", None), P("model", None), P("data")),
        out_specs=(P(), P("model", None)),
    )  # fmt: skip
    loss, gradient = jax.jit(in_parts)(h, table, y)
    found = {"split loss": loss, "split gradient": gradient, **by_head(head, h, y)}
    return {name: fetched(x, mesh) for name, x in found.items()}


@nnx.jit
def by_head(head: jsoftmax.nnx.LinearSoftmax, h: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    """Evaluate the tied table for rows of features; this code does not mention a mesh."""
    key, logits, p = jax.random.key(1), head.logits(h), head(h)
    calibration = jsoftmax.calibration
    return {
        "draws": head.sample(key, h),
        "likeliest": head.topk(h, 5).classes,
        "categorical": jsoftmax.categorical(key, logits),
        "temperature": calibration.temperature_scaling(logits, y),
        "calibration error": calibration.expected_calibration_error(p, y),
        "threshold": calibration.conformal_threshold(calibration.lac_scores(p), y),
    }


def put(x: np.ndarray, mesh: Mesh, *axes) -> jax.Array:
    """An array that every process knows, laid over the mesh."""
    return jax.make_array_from_callback(
        x.shape, NamedSharding(mesh, P(*axes)), lambda index: x[index]
    )


def fetched(x: jax.Array, mesh: Mesh) -> np.ndarray:
    """The whole array on this host."""
    return np.asarray(jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))(x))


def main() -> None:
    """Join, answer, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mesh", type=read_mesh)
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    given = parser.parse_args()
    devices.start(
        given.mesh[0] * given.mesh[1], coordinator=given.coordinator, processes=given.processes,
        process=given.process, timeout=60,
    )  # fmt: skip
    print(json.dumps(answers(make_mesh(*given.mesh))))


if __name__ == "__main__":
    main()
