"""python -m jsoftmax.kernels: trials, the record that it writes, and its answers."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jsoftmax import kernels
from jsoftmax.kernels.trial import _absent_chips, _compiled, _operations, _trial_command, _trials
from jsoftmax.kernels.trial._attention_peers import attention_peers
from jsoftmax.kernels.trial._operations import Operation
from jsoftmax.kernels.trial._trial_command import main
from jsoftmax.kernels.trial._trials import seconds_of, trials


def outlines(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(shape[:1], "int32")


def operation(kernel, **more):
    """Rows plus their number, with some kernel in the place of "pallas"."""

    def function(z, n, *, implementation):
        return (kernel if implementation == "pallas" else jnp.add)(z, n[:, None])

    known = {"shapes": ((4, 8),), "small": ((3, 5),), "dtypes": ("float32",)} | more
    return Operation("sum", "α = 1", function, outlines, (0,), **known)


def refused(z, n):
    raise NotImplementedError("jsoftmax.sum: implementation='pallas' does not take `n`.\nMore.")


def broken(z, n):
    raise RuntimeError("VMEM is full")


KERNELS = {
    "right": jnp.add,
    "wrong": lambda z, n: z + n + 1e-3,
    "nan": lambda z, n: (z + n) * jnp.nan,
    "refused": refused,
    "broken": broken,
}


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "folder" / "kernels.json"
    with kernels.using_record(path):
        yield path


@pytest.fixture
def table(monkeypatch):
    """The operations that the command knows."""
    known = []
    monkeypatch.setattr(_operations, "operations", lambda: tuple(known))
    return known


@pytest.fixture
def accelerator(monkeypatch):
    """The CPU, taken for something else."""
    device = SimpleNamespace(platform="gpu", device_kind=jax.devices()[0].device_kind)
    monkeypatch.setattr(_trial_command.jax, "devices", lambda: [device])


@pytest.mark.parametrize(
    ("name", "says", "code"),
    [
        ("right", "right", 0),
        ("wrong", "wrong", 1),
        ("nan", "wrong", 1),
        ("refused", "does not take `n`.", 0),
        ("broken", "RuntimeError: VMEM is full", 1),
    ],
)
def test_interpret_tells_right_from_wrong(table, record, capsys, name, says, code):
    """A refusal is an answer; another error is a fault. Nothing is recorded."""
    table.append(operation(KERNELS[name]))
    assert main(["--interpret"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert "3×5" in lines[2] and lines[2].endswith(says)
    assert lines[3].startswith("sum gradient, α = 1")
    assert not record.exists()


def test_on_an_accelerator_the_record_is_written_and_read(
    table, record, accelerator, capsys, monkeypatch
):
    times = iter([1.0, 2.0, 1.5, 3.0, 2.0, 1.5])

    def timed(function, arrays):
        function(*arrays)
        return next(times)

    monkeypatch.setattr(_trials, "seconds_of", timed)
    table.append(operation(jnp.add, peers=lambda: {"peer": lambda z, n: z, "refused": refused}))
    assert main([]) == 0
    first, second = capsys.readouterr().out.splitlines()[2:4]
    assert first.split()[-5:] == ["chosen", "1000.000", "2000.000", "peer", "1500.000"]
    assert second.split()[-5:-2] == ["right", "3000.000", "2000.000"]
    asked = {"shape": (4, 8), "dtype": "float32", "case": "α = 1"}
    assert kernels.chosen("sum", **asked) == {"cpu"}
    assert not kernels.chosen("sum", "sum gradient", **asked)


def test_a_kernel_that_fails_now_is_no_longer_chosen(table, record, accelerator, monkeypatch):
    monkeypatch.setattr(_trials, "seconds_of", lambda *_: 1.0)
    table.append(operation(jnp.add))
    main([])
    assert len(json.loads(record.read_text())["entries"]) == 2
    table[0] = operation(broken)
    assert main([]) == 1
    assert json.loads(record.read_text())["entries"] == []


def test_a_record_that_cannot_be_written_is_said_before_anything_runs(
    table, accelerator, tmp_path, capsys
):
    table.append(operation(None))
    (tmp_path / "file").write_text("")
    assert main(["--output", str(tmp_path / "file" / "kernels.json")]) == 2
    assert "Name another --output" in capsys.readouterr().err


def test_without_an_accelerator_it_says_so_and_offers(capsys):
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "no accelerator" in said and "--interpret" in said and "--compile-for v5e|v6e" in said


@pytest.mark.parametrize("target", _absent_chips.TARGETS)
def test_a_compiler_that_is_not_installed_is_named(target, monkeypatch, capsys):
    monkeypatch.setattr(_absent_chips.importlib.util, "find_spec", lambda name: None)
    assert main(["--compile-for", target]) == 2
    assert f"cannot compile for {target}: " in (said := capsys.readouterr().err)
    assert "pip install" in said


def test_mistakes_are_answered_in_one_line(capsys):
    for arguments in (["--operation", "nothing"], ["--compile-for", "v1"], ["--what"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_compiling_reports_seconds_and_temporaries_or_the_error():
    """For the CPU, since its compiler is always here."""
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("one",))
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    several = [operation(jnp.add), operation(broken), operation(refused)]
    rows = [*_compiled.compiled(several, here)]
    assert [row[0] for row in rows[:2]] == ["sum, α = 1", "sum gradient, α = 1"]
    assert rows[0][3].endswith(" s") and float(rows[0][4]) >= 0
    assert rows[2][3] == "RuntimeError: VMEM is full" and not rows[2][4]
    assert rows[4][3] == "refused"


def test_a_time_is_that_of_one_call():
    assert 0 < seconds_of(jax.jit(jnp.sin), (jnp.ones(3),)) < 0.1


def test_bfloat16_is_held_to_the_distance_of_xla():
    """A kernel that rounds as XLA does is right, and five in a hundred off is wrong."""
    device = jax.devices()[0]
    exact = operation(lambda z, n: jnp.add(z, n).astype(z.dtype))
    off = operation(lambda z, n: (jnp.add(z, n) * 1.05).astype(z.dtype))
    for kernel, is_right in ((exact, True), (off, False)):
        found = [*trials(kernel, (4, 8), "bfloat16", device, timed=False)]
        assert [x.entry.is_right for x in found] == [is_right] * 2


@pytest.mark.parametrize("each", _operations.operations(), ids=lambda x: x.title)
def test_arrays_of_an_operation_have_its_small_shapes(each):
    """XLA takes them all, under the name "xla" or by default."""
    for shape in each.small:
        arrays = each.arrays(shape, "float32")
        outlined = each.outlines(shape, "float32")
        assert [(x.shape, x.dtype) for x in arrays] == [(x.shape, x.dtype) for x in outlined]


def test_peers_of_attention_that_are_here():
    q = jnp.ones((1, 4, 2, 8))
    for is_causal in (False, True):
        for peer in attention_peers(is_causal).values():
            assert peer(q, q, q).shape == q.shape


def test_help_and_module():
    ran = subprocess.run(
        [sys.executable, "-m", "jsoftmax.kernels", "--help"], capture_output=True, text=True
    )
    assert ran.returncode == 0 and "--compile-for" in ran.stdout
