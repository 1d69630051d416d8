"""Count the bundles that a TPU kernel executes, from the schedule that its compiler writes.

The compiler issues one bundle a cycle, waits aside. A Pallas kernel is one loop over its grid; a
`pl.when` in it is a region that a branch jumps over.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

_LINE = re.compile(r"^\s*(0x[0-9a-f]+|0)\s+(LB|PF)?")


def flags(folder: str) -> str:
    """LIBTPU_INIT_ARGS with which the compiler writes schedules into a folder."""
    return f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Bundles of one turn of a kernel's loop."""

    always: int  # bundles outside of the regions
    regions: tuple[int, ...]  # bundles of each `pl.when`, in their order
    spills: int  # stores of registers that did not suffice

    def cycles(self, shares: tuple[float, ...], least: float = 0) -> float:
        """The mean cycles of a turn; each region is taken in its share of the turns.

        `least` is the time that the matrix units need.
        """
        rare = sum(n * share for n, share in zip(self.regions, shares, strict=True))
        return max(self.always, least) + rare


def schedules(folder: str) -> dict[str, Schedule]:
    """Schedule of each kernel in a folder, by the last word of the kernel's name."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*final_bundles.txt")):
        if "schedule-analysis" in path.name or "late-" in path.name:
            continue
        text = path.read_text(errors="replace")
        if "tpu_custom_call" in text or re.search(r" LB: ", text):
            name = re.search(r"\d+-(.*?)_*\.?\d*-\d+-final", path.name)
            if name:
                found[re.sub(r"^(transpose_|jvp_)+", "", name[1])] = _read(text)
    return found


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop of a kernel, and the loops in it counted once."""

    bundles: int
    spills: int  # stores and loads of registers that did not suffice


def loops(folder: str, kernel: str) -> list[Loop]:
    """The loops of a kernel in their order, the one over its grid first.

    A loop lies between the start of a region and a branch back to it.
    """
    (path,) = (
        path
        for path in pathlib.Path(folder).glob(f"*{kernel}*final_bundles.txt")
        if "schedule-analysis" not in path.name
    )
    lines: list[str] = []
    for line in path.read_text(errors="replace").splitlines():
        if re.match(r"\s*(0x[0-9a-f]+|0)\s", line) and "{" in line:
            lines.append(line)
        elif lines:  # one bundle may go over several lines
            lines[-1] += line
    starts: dict[str, int] = {}
    found = []
    for end, line in enumerate(lines):
        for region in re.findall(r"Start(?:/End empty)? region (\d+)", line):
            starts.setdefault(region, end)
        for region in re.findall(r"sbr\.rel .*?target = \$region(\d+)", line):
            if starts.get(region, end) < end:
                spills = sum(text.count("_spill]") for text in lines[starts[region] : end + 1])
                found.append((starts[region], Loop(end + 1 - starts[region], spills)))
    return [loop for _, loop in sorted(found, key=lambda pair: pair[0])]


def _read(text: str) -> Schedule:
    start, end, branch, spills = 0, 0, None, 0
    regions = []
    for number, line in enumerate(text.splitlines()):
        if not (head := _LINE.match(line)):
            continue
        spills += "_spill]" in line and " vst " in line
        if head[2] == "LB" and not start:
            start = number
        if head[2] == "PF" and branch is not None:
            regions.append(number - branch)
            branch = None
        if "sbr.rel" in line:
            branch, end = number, number
    return Schedule(end - start - sum(regions), tuple(regions), spills)
