"""Costs parsed from the text of a program, against sums by hand."""

import dataclasses

from benchmarks.chips.case import Case
from benchmarks.chips.hlo import TURNS, Program
from benchmarks.chips.limits import limits_broken, ratios_to
from benchmarks.chips.target import Compiled

TEXT = """HloModule test

%fused (a: f32[100,8], i: s32[]) -> f32[1,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,8]{1,0} dynamic-slice(%a, %i, %zero), dynamic_slice_sizes={1,8}
}

%body (s: (s32[], f32[100,8])) -> (s32[], f32[100,8]) {
  %s = (s32[], f32[100,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %x = f32[100,8]{1,0} get-tuple-element(%s), index=1
  %row = f32[1,8]{1,0} fusion(%x, %n), calls=%fused, backend_config={"estimated_cycles":"10"}
  %sum = f32[1,8]{1,0} all-reduce(%row), replica_groups={}, to_apply=%add
  %one = s32[] constant(1)
  %next = s32[] add(%n, %one), backend_config={"estimated_cycles":"1"}
  ROOT %out = (s32[], f32[100,8]{1,0}) tuple(%next, %x)
}

%condition (s: (s32[], f32[100,8])) -> pred[] {
  %s = (s32[], f32[100,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %end = s32[] constant(7)
  ROOT %less = pred[] compare(%n, %end), direction=LT
}

ENTRY %main (x: f32[100,8]) -> f32[100,8] {
  %x = f32[100,8]{1,0} parameter(0)
  %start = s32[] constant(2)
  %state = (s32[], f32[100,8]{1,0}) tuple(%start, %x)
  %loop = (s32[], f32[100,8]{1,0}) while(%state), condition=%condition, body=%body
  %y = f32[100,8]{1,0} get-tuple-element(%loop), index=1
  ROOT %z = f32[100,8]{1,0:S(1)} copy(%y), backend_config={"estimated_cycles":"100"}
}
"""


def test_loops_count_as_often_as_they_turn():
    program = Program(TEXT)
    totals = program.totals
    assert totals.cycles == 5 * (10 + 1) + 100
    # A turn reads a row and an index and writes a row; reduces it; adds; compares. The copy reads
    # 3200 bytes, and writes them to the fast memory.
    turn = (32 + 4 + 32) + (32 + 32) + (4 + 4 + 4) + (4 + 4 + 1)
    assert totals.traffic == 5 * turn + 3200
    assert totals.launches == 5 * 4 + 1
    assert program.fusions == 1 and not program.has_float64
    assert [str(c) for c in program.collectives] == ["5 × all-reduce f32[1,8]"]
    assert program.collectives[0].numbers == 40


def test_a_collective_that_is_spread_over_fusions_counts_once():
    """As the TPU compiler writes one that goes on beside other work: each part names it again."""
    gather = (
        "{\n  %a = f32[4,8]{1,0} parameter(0)\n"
        "  ROOT %all = f32[8,8]{1,0} all-gather(%a), channel_id=CHANNEL, dimensions={0}\n}\n\n"
    )
    names = ("start", "5"), ("step", "5"), ("other", "6")
    parts = [
        f"%{name} (a: f32[4,8]) -> f32[8,8] " + gather.replace("CHANNEL", channel)
        for name, channel in names
    ]
    calls = [f"  %{i} = f32[8,8]{{1,0}} fusion(%x), calls=%{n}" for i, (n, _) in enumerate(names)]
    main = "ENTRY %main (x: f32[4,8]) -> f32[8,8] {\n  %x = f32[4,8]{1,0} parameter(0)\n"
    calls[-1] = calls[-1].replace("  %", "  ROOT %")
    program = Program("HloModule test\n\n" + "".join(parts) + main + "\n".join(calls) + "\n}\n")
    assert [str(c) for c in program.collectives] == ["all-gather f32[8,8]"] * 2


def test_a_loop_of_unknown_length_counts_some_turns():
    program = Program(TEXT.replace("direction=LT", "direction=NE"))
    assert program.totals.cycles == TURNS * (10 + 1) + 100
    noted = TEXT.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert Program(noted).totals.cycles == 3 * (10 + 1) + 100


def test_a_broken_limit_is_named():
    """Numbers that travel beyond those of the peer and some a row, float64, and a ratio."""

    def compiled(text, temporaries):
        return Compiled(1.0, 0, 0, temporaries, Program(text))

    def broken(case, text=TEXT, peer=None):
        found = compiled(text, 300 * 2**20)
        return limits_broken(case, found, peer, ratios_to(found, peer))

    case = Case("group", "name", len, (), limits={"temporaries": 2.0}, rows=0)
    assert broken(case) == ["group: name: 40 numbers travel, allowed 0"]
    assert broken(dataclasses.replace(case, rows=1)) == []
    assert broken(case, peer=compiled(TEXT, 200 * 2**20)) == []
    (line,) = broken(case, peer=compiled(TEXT, 100 * 2**20))
    assert line == "group: name: temporaries 3.00 of its peer's, limit 2.00"
    gathers = TEXT.replace("all-reduce", "all-gather")
    (line,) = broken(dataclasses.replace(case, rows=0), gathers, compiled(TEXT, 200 * 2**20))
    assert line == "group: name: 40 numbers are gathered, allowed 0"
    (line,) = broken(dataclasses.replace(case, rows=None), TEXT.replace("f32[1,8]", "f64[1,8]"))
    assert line == "group: name: float64"
