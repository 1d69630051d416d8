"""A grain pipeline of token windows that shuffles, repeats, splits over processes and resumes."""

from __future__ import annotations

from typing import Any, TypedDict

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from examples.language_model.config import Config, Mistake
from examples.language_model.tokens import END, IGNORED, Tokenizer


class Batch(TypedDict):
    """Tokens and the labels that follow them, both int32 of shape [accumulate, batch, length]."""

    tokens: Any  # numpy arrays as read, JAX arrays as used
    labels: Any


def windows(documents: list[str], tokenizer: Tokenizer, length: int) -> list[np.ndarray]:
    """Cut every document into windows of `length + 1` tokens; neighbours share one token."""
    cut = []
    for document in documents:
        ids = np.array([END, *tokenizer.encode(document), END], np.int32)
        cut += [ids[at : at + length + 1] for at in range(0, len(ids) - 1, length)]
    return cut


def padded(window: np.ndarray, length: int) -> Batch:
    """Return a window as tokens and labels, padded by END and ignored labels."""
    missing = length + 1 - len(window)
    return Batch(
        tokens=np.pad(window[:-1], (0, missing), constant_values=END),
        labels=np.pad(window[1:], (0, missing), constant_values=IGNORED),
    )


def pipeline(cut: list[np.ndarray], config: Config, part: int, parts: int) -> grain.IterDataset:
    """Return endless batches for one part of the data axis, reshuffled every epoch.

    The windows of a step are the same for any number of parts; only their order differs.
    """
    rows = config.batch // parts
    shape = (config.accumulate, rows, config.length)
    return (
        grain.MapDataset.source(cut)
        .shuffle(seed=config.seed)
        .repeat()
        .slice(slice(part, None, parts))
        .map(lambda window: padded(window, config.length))
        .batch(config.accumulate * rows)
        .map(lambda batch: jax.tree.map(lambda x: x.reshape(shape), batch))
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    )


def sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of windows over the data axis."""
    return NamedSharding(mesh, P(None, "data", None))


def share(mesh: Mesh) -> tuple[int, int]:
    """Return the part of the data axis that this process reads, and the number of parts."""
    mine = jax.process_index()
    rows = [
        row
        for row, devices in enumerate(mesh.devices)
        if any(device.process_index == mine for device in devices)
    ]
    size, first = len(rows), rows[0]
    if rows != list(range(first, first + size)) or first % size or mesh.shape["data"] % size:
        raise Mistake(
            f"--mesh {mesh.shape['data']}x{mesh.shape['model']} gives a process the parts {rows} "
            "of the data axis, which are not an equal share of it."
        )
    return first // size, mesh.shape["data"] // size


def on_mesh(batch: Batch, mesh: Mesh) -> Batch:
    """Return global arrays of the windows of all processes; each process passes its own."""
    place = sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, x), batch)
