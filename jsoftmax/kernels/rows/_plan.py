"""Choose the rows of a block and the length of its pieces, for each kind of chip."""

from __future__ import annotations

import dataclasses

from jsoftmax.kernels.rows._tile import Tile

LANES = 128
_SHORT = 4096  # classes: up to as many, rows are on the lanes of a TPU
_VECTORS = 8  # registers of a piece
_VMEM = 36 * 2**20  # bytes of a TPU's vector memory that blocks may fill, each of them twice,
_MOST_VMEM = 96 * 2**20  # and once, where nothing less does: on chips that have 128 MB
_ROOM = 16 * 2**20  # for intermediate values
_KEPT = 2  # long arrays that are kept over a loop
LEAST = 16  # entries of a row on a GPU
_REGISTERS = 4096  # entries of a row that a block of a GPU's threads keeps,
_FEW_STEPS = 200  # and eight times as many for a function of fewer steps, loops included


@dataclasses.dataclass(frozen=True)
class Plan:
    """A tile, and its resources on the chip."""

    tile: Tile
    width: int  # of blocks: whole pieces
    vmem: int = 0
    buffers: int = 2  # of each block, so that the next is fetched meanwhile
    keeps: bool = True  # whether there is room for long arrays that a loop reads again
    warps: int = 4


def tpu_plan(rows: int, classes: int, sizes: list[int]) -> Plan:
    """Return blocks in vector memory, of long arrays with entries of these sizes.

    Short rows are transposed onto the lanes, where one register holds a number of each of 128 rows.
    A row of thousands fills enough registers by itself.

    Raises:
        NotImplementedError: for rows too long for the chip.
    """
    if classes <= _SHORT and rows >= LANES:
        width = _rounded(classes, LANES)
        tile = Tile(LANES, classes, 8 * _VECTORS, on_lanes=True)
        once, more = LANES * width * sum(sizes), LANES * width * 4 * len(sizes)
    else:
        height = min(rows, 32 // min([*sizes, 4]))
        width = _rounded(classes, LANES)
        groups = min(max(_VECTORS * 8 // max(height, 8), 1), width // LANES)
        whole = [
            n
            for n in range(max(groups // 2, 1), groups + groups // 2 + 1)
            if width % (n * LANES) == 0
        ]
        piece = max(whole, default=groups) * LANES
        width = _rounded(classes, piece)
        tile = Tile(height, classes, piece)
        once, more = max(height, 8) * width * sum(sizes), 0
    kept = _KEPT * 4 * max(tile.rows, 8) * width
    for buffers, keeps, most in ((2, True, _VMEM), (1, True, _MOST_VMEM), (1, False, _MOST_VMEM)):
        vmem = buffers * once + more + keeps * kept
        if vmem <= most:
            return Plan(tile, width, vmem + _ROOM, buffers, keeps)
    raise NotImplementedError(
        f"jsoftmax.kernels: rows of {classes:,} classes do not fit the memory of a TPU; "
        'leave `implementation` at "xla".'
    )


def gpu_plan(classes: int, longs: int, steps: int) -> Plan:
    """Return a row for each block of threads: in registers, or read again from the caches.

    A function of many steps, or of several long arrays, leaves fewer registers for a row: counted
    by ptxas for an H100, where 1024 threads hold 32,768 entries of a row beside 130 steps of
    entmax at α = 1.5, and spill with the 300 of a loss.
    """
    most = _REGISTERS if longs > 2 or steps > _FEW_STEPS else 8 * _REGISTERS
    whole = max(1 << (classes - 1).bit_length(), LEAST)
    piece = whole if whole <= most else _REGISTERS
    warps = min(max(piece // 256, 1), 16 if piece <= _REGISTERS else 32)
    return Plan(Tile(1, classes, piece), _rounded(classes, piece), warps=warps)


def _rounded(n: int, unit: int) -> int:
    return -(-n // unit) * unit
