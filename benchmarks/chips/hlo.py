"""Read memory traffic, cycles and collectives off the text of an optimized program.

A loop counts as often as it turns, if the compiler knows that, and `TURNS` times otherwise. Of the
branches of a choice the cheapest counts: the others are for rare cases. A fusion reads its
operands and writes its results once, and of a sliced operand only the slice; data in the fast
memory of a TPU (VMEM) moves nothing. A kernel counts its operands and results.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re

TURNS = 5  # taken for a loop that ends when the data say so
COLLECTIVES = (
    "all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter",
)  # fmt: skip
_BITS = {"pred": 8, "token": 0, "opaque": 0}
_MOVES_NOTHING = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "optimization-barrier", "add-dependency", "iota",
}  # fmt: skip
_BOOKKEEPING = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast|Sharding)"')
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-~]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of a program."""

    kind: str
    shape: tuple[int, ...]
    is_fast: bool

    @property
    def size(self) -> int:
        """In bytes, without padding."""
        digits = re.search(r"\d+", self.kind)
        bits = _BITS.get(self.kind, int(digits[0]) if digits else 0)
        return math.ceil(math.prod(self.shape) * bits / 8)

    @property
    def moved(self) -> int:
        """The bytes of main memory that it takes to read or to write it."""
        return 0 if self.is_fast else self.size

    def __str__(self) -> str:
        return f"{self.kind}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str  # its attributes
    number: int | None  # of a parameter, or the value of an integer constant
    is_root: bool


@dataclasses.dataclass(frozen=True)
class Collective:
    """Arrays that devices get from one another, and how often."""

    opcode: str
    arrays: tuple[Array, ...]
    times: float

    @property
    def numbers(self) -> float:
        """How many numbers a device gets."""
        return self.times * sum(math.prod(x.shape) for x in self.arrays)

    def __str__(self) -> str:
        often = "" if self.times == 1 else f"{self.times:g} × "
        return f"{often}{self.opcode} {', '.join(map(str, self.arrays))}"


@dataclasses.dataclass
class Totals:
    """Of a computation, with all that it calls."""

    cycles: float = 0.0
    traffic: float = 0.0
    launches: float = 0.0

    def plus(self, other: Totals, times: float = 1.0) -> Totals:
        """The sum of both, the other one `times` times."""
        return Totals(
            self.cycles + times * other.cycles,
            self.traffic + times * other.traffic,
            self.launches + times * other.launches,
        )


class Program:
    """An optimized program, from its text."""

    def __init__(self, text: str):
        self.computations, self.entry = _parsed(text)
        self.fusions = sum(i.opcode == "fusion" for i in self._instructions())
        self.has_float64 = "f64[" in text
        self._totals_of = functools.cache(self._added)

    @property
    def totals(self) -> Totals:
        """Of the whole program."""
        return self._totals_of(self.entry)

    @property
    def collectives(self) -> list[Collective]:
        """Communication between devices."""
        found: list[Collective] = []
        self._collect(self.entry, 1.0, found, set())
        return found

    def _instructions(self):
        return (i for lines in self.computations.values() for i in lines.values())

    def _collect(self, name, times, found, fused, is_fused=False):
        """Those of a computation; one that is spread over several fusions counts once."""
        inside = self.computations[name]
        for one in inside.values():
            base = one.opcode.removesuffix("-start")
            channel = re.search(r"channel_id=(\d+)", one.rest)
            is_again = is_fused and channel is not None and channel[1] in fused
            if base in COLLECTIVES and not is_again:
                if is_fused and channel is not None:
                    fused.add(channel[1])
                found.append(Collective(base, _received(one), times))
            more = times * self._turns(one, inside) if one.opcode == "while" else times
            if one.opcode == "conditional":
                more = times / len(_called(one))  # a loop over a choice takes each in its turn
            for inner in _called(one):
                if one.opcode not in ("reduce", "sort", "scatter"):
                    self._collect(inner, more, found, fused, is_fused or one.opcode == "fusion")

    def _added(self, name: str) -> Totals:
        inside = self.computations[name]
        total = Totals()
        for one in inside.values():
            total = total.plus(self._of(one, inside))
        return total

    def _of(self, one: Instruction, inside: dict[str, Instruction]) -> Totals:
        is_done = one.opcode.endswith("-done") or one.opcode == "async-update"
        if one.opcode in _MOVES_NOTHING or is_done or _BOOKKEEPING.search(one.rest):
            return Totals()
        called = [self._totals_of(n) for n in _called(one)]
        if one.opcode == "while":
            turn = functools.reduce(Totals.plus, called, Totals())
            return Totals().plus(turn, self._turns(one, inside))
        if one.opcode == "conditional":
            return min(called, key=lambda t: (t.cycles, t.traffic))
        if one.opcode in ("call", "async-start"):
            return functools.reduce(Totals.plus, called, Totals())
        found = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
        cycles = float(found[1]) if found else 0.0
        return Totals(cycles if cycles < 1e14 else 0.0, self._moved(one, inside), 1.0)

    def _turns(self, loop: Instruction, inside: dict[str, Instruction]) -> float:
        """As the compiler notes, or n of a condition i < n; `TURNS` where that tells nothing."""
        if known := re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.rest):
            return float(known[1])
        lines = self.computations[re.search(r"\bcondition=%([\w.\-~]+)", loop.rest)[1]]
        test = _root(lines)
        if test.opcode == "fusion":
            body = self.computations[_called(test)[0]]
            inner = _root(body)
            operands = [
                lines[test.operands[x.number]] if x.opcode == "parameter" else x
                for x in (body[n] for n in inner.operands)
            ]
            test = inner
        else:
            operands = [lines[n] for n in test.operands if n in lines]
        if test.opcode != "compare" or "direction=LT" not in test.rest or len(operands) != 2:
            return TURNS
        first, end = (self._value(x, loop, inside) for x in operands)
        return TURNS if end is None else max(0, end - (first or 0))

    def _value(self, one, loop, inside) -> int | None:
        """Of a constant, or of the initial value of a loop."""
        if one.opcode == "get-tuple-element":
            start = inside[loop.operands[0]]
            place = int(re.search(r"index=(\d+)", one.rest)[1])
            if start.opcode != "tuple" or place >= len(start.operands):
                return None
            one = inside[start.operands[place]]
            while one.opcode in ("copy", "bitcast") and one.operands[0] in inside:
                one = inside[one.operands[0]]
        return one.number if one.opcode == "constant" else None

    def _moved(self, one, inside) -> float:
        operands = [inside[n] for n in one.operands if n in inside]
        given = [o.results[0] if len(o.results) == 1 else None for o in operands]
        written = one.results
        if one.opcode.removesuffix("-start") in ("dynamic-slice", "slice", "gather"):
            out = written[len(operands) if one.opcode.endswith("-start") else 0]
            return out.moved + (min(out.size, given[0].moved) if given[0] else 0)
        if one.opcode.removesuffix("-start") in COLLECTIVES:
            return sum(x.moved for x in given if x) + sum(x.moved for x in _received(one))
        if one.opcode == "dynamic-update-slice":
            return 2 * given[1].moved if given[1] else 0
        if one.opcode == "copy-start":
            return written[0].moved + written[1].moved
        if one.opcode == "fusion":
            return self._moved_by_fusion(one, given)
        return sum(x.moved for x in given if x) + sum(x.moved for x in written)

    def _moved_by_fusion(self, one, given) -> float:
        body = self.computations[_called(one)[0]]
        parameters = {i.number: i for i in body.values() if i.opcode == "parameter"}
        total = 0.0
        for number, x in enumerate(given):
            if x is not None and x.moved:
                total += min(x.moved, self._read(body, parameters.get(number), x.size))
        root = _root(body)
        parts = [body[n] for n in root.operands] if root.opcode == "tuple" else [root]
        for i, x in enumerate(one.results):
            part = parts[i] if len(parts) == len(one.results) else None
            while part is not None and part.opcode in ("bitcast", "convert", "copy"):
                part = body.get(part.operands[0])
            is_update = part is not None and part.opcode == "dynamic-update-slice"
            size = body[part.operands[1]].results[0].size if is_update and part else x.size
            total += min(x.moved, size)
        return total

    def _read(self, body, parameter, whole) -> float:
        """How many bytes of a parameter a fusion reads."""
        if parameter is None:
            return whole
        total, seen = 0.0, [parameter.name]
        while seen:
            name = seen.pop()
            if body[name].is_root:
                return whole
            for user in body.values():
                if name not in user.operands:
                    continue
                if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
                    total += user.results[0].size
                elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                    continue
                elif user.opcode == "bitcast":
                    seen.append(user.name)
                elif user.opcode == "fusion":
                    inner = self.computations[_called(user)[0]]
                    there = (i for i in inner.values() if i.opcode == "parameter")
                    place = user.operands.index(name)
                    own = next((i for i in there if i.number == place), None)
                    total += self._read(inner, own, whole)
                else:
                    return whole
        return total


def _received(one: Instruction) -> tuple[Array, ...]:
    """The arrays that a collective gives; one that is only begun has its operands before them."""
    if one.opcode in ("all-gather-start", "collective-permute-start"):
        return one.results[len(one.operands) : 2 * len(one.operands)]
    return one.results


def _root(lines: dict[str, Instruction]) -> Instruction:
    return next(i for i in lines.values() if i.is_root)


def _parsed(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%([\w.\-~]+) \(.*\{$", line):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif head := re.match(r"\s+(ROOT )?%([\w.\-~]+) = ", line):
            shapes, rest = _first(line[head.end() :])
            opcode, _, rest = rest.lstrip().partition("(")
            end = _closing("(" + rest)
            inside, rest = rest[: end - 2], rest[end - 1 :]
            current[head[2]] = Instruction(
                name=head[2],
                opcode=opcode,
                results=tuple(
                    Array(kind, _sizes(sizes), "S(1)" in (layout or ""))
                    for kind, sizes, layout in _ARRAY.findall(shapes)
                ),
                operands=tuple(_NAME.findall(inside)),
                rest=rest,
                number=_number(opcode, inside),
                is_root=bool(head[1]),
            )
    return computations, entry


def _number(opcode: str, inside: str) -> int | None:
    is_integer = opcode in ("parameter", "constant") and re.fullmatch(r"-?\d+", inside)
    return int(inside) if is_integer else None


def _first(text: str) -> tuple[str, str]:
    """The shape at the start, and the rest of the text."""
    end = _closing(text) if text.startswith("(") else text.index(" ")
    return text[:end], text[end:]


def _closing(text: str) -> int:
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(n.lstrip("<=")) for n in text.split(",") if n)


def _called(one: Instruction) -> list[str]:
    """The computations that an instruction runs, but those of a reduction, which cost nothing."""
    if one.opcode in ("reduce", "sort", "scatter", "map", "reduce-window", "select-and-scatter"):
        return []
    names = []
    for attribute in (
        "calls", "body", "condition", "to_apply", "branch_computations", "true_computation",
        "false_computation",
    ):  # fmt: skip
        if one.opcode in COLLECTIVES or one.opcode.removesuffix("-start") in COLLECTIVES:
            break
        if found := re.search(rf"\b{attribute}=(?:%([\w.\-~]+)|\{{([^}}]*)\}})", one.rest):
            names += [found[1]] if found[1] else _NAME.findall(found[2])
    return names
