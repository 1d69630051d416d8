"""Static parameters of a linear loss: sizes, dtypes, and the blocks that fit the chip.

A v5e takes 131,072 FLOPs a cycle. A block of tokens and classes keeps its matrix units busy from
some hundred of each; the rest of the memory on the chip goes to gradients that are added up.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jsoftmax.core._mesh_axes import varies_over

LANES = 128
LEAST_MEMORY = 2**26  # bytes on a chip, of a core: v5p and 7x; v5e and v6e have twice as many
_PLANNED, _ALLOWED = 0.78, 0.95  # shares of the memory: for blocks, and for a whole kernel
_TOKENS, _CLASSES = (1024, 512, 256, 128), (512, 384, 256, 128)
_LARGEST = 3 * 2**29  # multiplications of a step: beyond it kernels compile for minutes
_PRODUCTS = {"sums": 1, "features": 2, "table": 2, "both": 3}  # of matrices, in each step
_FEW = 256  # classes of a block: below it one that does not divide evenly is better


@dataclasses.dataclass(frozen=True)
class TableProblem:
    """h W + b of `tokens` (a multiple of a block) and `classes`, and a cap on it."""

    tokens: int
    width: int
    classes: int
    class_axis: int  # of the table
    dtype: Any  # of the factors of products
    has_bias: bool
    memory: int  # bytes on the chip, of a core
    cores: int  # that share the grid
    cap: float | None = None
    interpret: bool = False

    def blocks(self, kernel: str) -> tuple[int, int]:
        """Return tokens and classes of a kernel's block: the most classes that fit, then tokens.

        Raises:
            NotImplementedError: if not even the smallest block fits.
        """
        for classes in self._class_blocks():
            for tokens in _TOKENS:
                if tokens > (1024 if kernel == "sums" else 512) or self.tokens % tokens:
                    continue
                is_small = (tokens, classes) == (_TOKENS[-1], self._class_blocks()[-1])
                work = self.products(kernel) * tokens * classes * self.width
                if work > _LARGEST and not is_small:
                    continue
                if self._bytes(kernel, tokens, classes) <= _PLANNED * self.memory:
                    return tokens, classes
        raise NotImplementedError(
            f"jsoftmax.linear_cross_entropy: implementation='pallas' does not take features of "
            f"width {self.width}: blocks of {_TOKENS[-1]} tokens and {LANES} classes need more "
            "memory than there is on the chip. Let implementation='xla' compute it."
        )

    @staticmethod
    def products(kernel: str) -> int:
        """Return the number of matrix products in a step of a kernel."""
        return _PRODUCTS[kernel]

    @property
    def features_fit(self) -> bool:
        """Whether the float32 gradient in all features fits beside the blocks of the kernel.

        Several cores cannot add to it.
        """
        tokens = next(n for n in _TOKENS[1:] if self.tokens % n == 0)
        sizes = [self._bytes("both", tokens, n) for n in self._class_blocks()]
        return self.cores == 1 and min(sizes) <= _PLANNED * self.memory

    def _class_blocks(self) -> list[int]:
        even = [n for n in _CLASSES if self.classes % n == 0]
        if self.classes <= LANES:
            return [self.classes]
        return even if even and even[0] >= _FEW else [n for n in _CLASSES if n <= self.classes]

    def _bytes(self, kernel: str, tokens: int, classes: int) -> int:
        """Bytes of two buffers of each operand and result, one of each sum, four of scores."""
        size, width = jnp.dtype(self.dtype).itemsize, self.width + -self.width % LANES
        h, w = tokens * width, width * classes
        found = 2 * size * (h + w) + 4 * 4 * tokens * classes
        if kernel in ("features", "both"):
            found += 2 * size * h + 4 * (self.tokens * width if kernel == "both" else h)
        if kernel in ("table", "both"):
            found += 2 * size * w + 4 * w
        return found

    def scores(self, h: Array, w: Array, bias: Array | None) -> Array:
        """Return the scores of a block before the cap."""
        z = self.product(h, w, 1, 1 - self.class_axis)
        return z if bias is None else z + bias

    def product(self, x: Array, y: Array, x_axis: int, y_axis: int) -> Array:
        """Contract an axis of x with one of y, in float32."""
        return jax.lax.dot_general(
            x, y, (((x_axis,), (y_axis,)), ((), ())), preferred_element_type=jnp.float32
        )

    def table(self, block: int, place: Any) -> pl.BlockSpec:
        """Return a block of classes of the table; `place` maps a step of the grid to its index."""
        if self.class_axis:
            return pl.BlockSpec((self.width, block), lambda *at: (0, place(*at)))
        return pl.BlockSpec((block, self.width), lambda *at: (place(*at), 0))

    def whole_classes(self, w: Array, first: Any, block: int) -> Array:
        """Return a block of the table with zeros beyond the last class."""
        if self.classes % block == 0:
            return w
        numbers = jax.lax.broadcasted_iota(jnp.int32, w.shape, self.class_axis) + first
        # Selected in float32, since Mosaic does not select narrower numbers on a v5e.
        wide = jnp.where(numbers < self.classes, w.astype(jnp.float32), 0)
        return wide.astype(w.dtype)

    def call(self, body: Any, name: str, grid: tuple[int, int], **more: Any) -> Any:
        """Return the kernel; the cores of a chip may share the first axis of its grid."""
        first = "arbitrary" if name == "both" else "parallel"
        return pl.pallas_call(
            body,
            grid=grid,
            name=f"linear_{name}",
            interpret=self.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=(first, "arbitrary"),
                vmem_limit_bytes=int(_ALLOWED * self.memory),
            ),
            **more,
        )


def chip() -> tuple[int, int]:
    """Return the bytes of a core's memory on the chip, and how many cores share a kernel.

    The chip is that of the mesh in `jax.set_mesh`, or else that of this process.
    """
    try:
        known = pltpu.get_tpu_info()
    except ValueError:  # no TPU
        return LEAST_MEMORY, 1
    return known.vmem_capacity_bytes, known.num_cores


def columns(*rows: Any) -> list[Array]:
    """Reshape rows of numbers of tokens to columns, which would take 128 times the memory."""
    return [x[...].reshape(-1, 1) for x in rows]


def outline(shape: tuple[int, ...], dtype: Any, like: Array) -> jax.ShapeDtypeStruct:
    """Return the outline of a result that varies over a mesh as `like` does."""
    more = {"manual_axis_type": jax.typeof(like).manual_axis_type} if varies_over(like) else {}
    return jax.ShapeDtypeStruct(shape, dtype, **more)
