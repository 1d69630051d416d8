"""How many rows a block has, and how long its pieces are, for each kind of chip."""

from __future__ import annotations

import dataclasses

from jsoftmax.kernels.rows._tile import Tile

LANES = 128
_SHORT = 4096  # classes up to which rows lie on the lanes of a TPU
_VECTORS = 8  # registers of a piece
_VMEM = 96 * 2**20  # bytes of a TPU's vector memory that blocks may fill
_REGISTERS = 4096  # entries of a row that a block of a GPU's threads keeps,
_FEW_STEPS = 200  # and eight times as many for a function of fewer steps


@dataclasses.dataclass(frozen=True)
class Plan:
    """A tile, and what it takes of the chip."""

    tile: Tile
    width: int  # of blocks: whole pieces
    vmem: int = 0
    warps: int = 4


def tpu_plan(rows: int, classes: int, sizes: list[int]) -> Plan:
    """Blocks in vector memory, of long arrays with entries of these sizes.

    Short rows are turned so that they lie on the lanes, where one register holds a number of each
    of 128 rows. A row of thousands takes registers enough by itself.

    Raises:
        NotImplementedError: for rows too long for the chip.
    """
    if classes <= _SHORT and rows >= LANES:
        width = _rounded(classes, LANES)
        tile = Tile(LANES, classes, 64, on_lanes=True)
        vmem = LANES * width * sum(2 * n + 4 for n in sizes)
    else:
        height = min(rows, 32 // min([*sizes, 4]))
        groups = max(_VECTORS * 8 // max(height, 8), 1)
        width = _rounded(classes, LANES)
        whole = [n for n in range(groups // 2, groups + groups // 2) if width % (n * LANES) == 0]
        piece = max(whole, default=groups) * LANES
        width = _rounded(classes, piece)
        tile = Tile(height, classes, piece)
        vmem = max(height, 8) * width * sum(2 * n for n in sizes)
    if vmem > _VMEM:
        raise NotImplementedError(
            f"jsoftmax.kernels: rows of {classes:,} classes do not fit the memory of a chip; "
            'leave `implementation` at "xla".'
        )
    return Plan(tile, width, vmem=vmem + 24 * 2**20)


def gpu_plan(classes: int, longs: int, steps: int) -> Plan:
    """A row for each block of threads: in registers, or read again from the caches.

    A function of many steps, or of several long arrays, leaves fewer registers for a row: counted
    by ptxas for an H100, where 1024 threads hold 32,768 entries of a row beside 130 steps of
    entmax at α = 1.5, and spill with the 300 of a loss.
    """
    most = _REGISTERS if longs > 2 or steps > _FEW_STEPS else 8 * _REGISTERS
    whole = 1 << max(classes - 1, 15).bit_length()
    piece = whole if whole <= most else _REGISTERS
    warps = min(max(piece // 256, 1), 16 if piece <= _REGISTERS else 32)
    return Plan(Tile(1, classes, piece), _rounded(classes, piece), warps=warps)


def _rounded(n: int, unit: int) -> int:
    return -(-n // unit) * unit
