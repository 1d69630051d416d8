"""The record of kernels: its path, its decisions, and that it never fails."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import pytest

import jsoftmax
from jsoftmax import kernels
from jsoftmax.kernels import _record
from jsoftmax.kernels._record import Entry, write

HERE = jax.devices()[0]
RIGHT_AND_FASTER = Entry(
    device=HERE.device_kind,
    operation="mapping",
    case="α = 1.5",
    shape=(128, 1024),
    dtype="float32",
    jsoftmax=jsoftmax.__version__,
    jax=jax.__version__,
    error=1e-7,
    allowed=1e-6,
    seconds={"pallas": 1.0, "xla": 2.0, "jax.nn.softmax": 0.5},
)


@pytest.fixture
def file(tmp_path):
    """A record that is read in the test."""
    path = tmp_path / "kernels.json"
    with kernels.using_record(path):
        yield path


def asked(shape=(128, 1024), dtype=jnp.float32, case="α = 1.5", operations=("mapping",)):
    return kernels.chosen(*operations, shape=shape, dtype=dtype, case=case)


def test_a_kernel_that_was_right_and_faster_is_chosen_on_its_platform(file):
    write([RIGHT_AND_FASTER], file)
    assert asked() == {HERE.platform}


@pytest.mark.parametrize(
    "change",
    [
        {"error": 2e-6},
        {"error": float("nan")},
        {"seconds": {"pallas": 2.0, "xla": 2.0}},
        {"device": "TPU v5 lite"},
        {"jsoftmax": "0.0.1"},
        {"jax": "0.9.0"},
        {"operation": "loss"},
        {"case": "α = 2"},
        {"dtype": "bfloat16"},
        {"shape": (128, 16, 64)},
    ],
    ids=str,
)
def test_nothing_is_chosen_by_an_entry_of_something_else(file, change):
    """Wrong, no faster, or of other hardware, versions, operation, case, dtype or rank."""
    write([dataclasses.replace(RIGHT_AND_FASTER, **change)], file)
    assert not asked()


def test_the_nearest_shape_decides_within_a_factor_of_four(file):
    slower = {"pallas": 3.0, "xla": 2.0}
    far = dataclasses.replace(RIGHT_AND_FASTER, shape=(128, 32768), seconds=slower)
    write([RIGHT_AND_FASTER, far], file)
    assert asked((500, 300))
    assert not asked((128, 20000))
    assert not asked((128, 100))
    assert not asked((0, 1024))


def test_all_operations_must_hold(file):
    write([RIGHT_AND_FASTER], file)
    both = ("mapping", "mapping gradient")
    assert not asked(operations=both)
    write([dataclasses.replace(RIGHT_AND_FASTER, operation="mapping gradient")], file)
    assert asked(operations=both)


def test_a_size_that_is_not_known_while_tracing_has_no_record(file):
    write([RIGHT_AND_FASTER], file)
    (rows,) = jax.export.symbolic_shape("rows")
    assert not asked((rows, 1024))


def test_without_a_file_nothing_is_chosen(file):
    assert not file.exists()
    assert not asked()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 1}',
        '{"format": 99, "entries": []}',
        '{"format": 1, "entries": [{"device": "cpu"}]}',
        '{"format": 1, "entries": [3]}',
        json.dumps(
            {"format": 1, "entries": [dataclasses.asdict(RIGHT_AND_FASTER) | {"seconds": {}}]}
        ),
        json.dumps(
            {"format": 1, "entries": [dataclasses.asdict(RIGHT_AND_FASTER) | {"error": "small"}]}
        ),
    ],
)
def test_a_broken_file_warns_once_and_chooses_nothing(file, text):
    file.write_text(text)
    with pytest.warns(UserWarning, match=r"kernels\.json cannot be read .* Delete it, or write it"):
        assert not asked()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not asked()
    write([RIGHT_AND_FASTER], file)
    assert asked()


def test_a_new_entry_replaces_the_one_of_the_same_trial(file):
    write([RIGHT_AND_FASTER], file)
    write([dataclasses.replace(RIGHT_AND_FASTER, error=1.0)], file)
    assert not asked()
    assert len(_record.entries()) == 1


def test_a_trial_that_failed_is_forgotten(file):
    write([RIGHT_AND_FASTER], file)
    write([], file, failed=[RIGHT_AND_FASTER.key])
    assert not _record.entries()


def test_the_file_is_read_once(file, monkeypatch):
    write([RIGHT_AND_FASTER], file)
    assert asked()
    monkeypatch.setattr(_record, "_parsed", None)
    assert asked()


def test_the_file_lies_in_the_cache_unless_a_variable_or_a_context_says_otherwise(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("JSOFTMAX_KERNELS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kernels.record_path() == tmp_path / ".cache" / "jsoftmax" / "kernels.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert kernels.record_path() == tmp_path / "x" / "jsoftmax" / "kernels.json"
    monkeypatch.setenv("JSOFTMAX_KERNELS", "off")
    assert kernels.record_path() is None
    monkeypatch.setenv("JSOFTMAX_KERNELS", str(tmp_path / "y.json"))
    assert kernels.record_path() == tmp_path / "y.json"
    with kernels.using_record(None):
        assert kernels.record_path() is None
        with kernels.using_record(tmp_path / "z.json"):
            assert kernels.record_path() == tmp_path / "z.json"
    assert kernels.record_path() == tmp_path / "y.json"


def test_only_the_recorded_platform_takes_the_kernel():
    """One traced program, lowered for two platforms."""

    def function(x):
        return kernels.by_record({"tpu"}, jnp.sin, jnp.cos, x)

    exported = jax.export.export(jax.jit(function), platforms=("tpu", "cpu"))(jnp.ones(3))
    assert jnp.allclose(exported.call(jnp.ones(3)), jnp.cos(1.0))
    text = exported.mlir_module()
    assert "sine" in text and "cosine" in text
    only_here = jax.jit(function).lower(jnp.ones(3)).as_text()
    assert "stablehlo.sine" not in only_here
    assert float(jax.grad(lambda x: function(x))(1.0)) == pytest.approx(float(-jnp.sin(1.0)))


def test_without_a_record_xla_is_called_as_it_is():
    assert kernels.by_record((), jnp.sin, lambda x: x + 1, 1) == 2


def test_a_step_of_decoding_asks_for_its_own_entry(file):
    """Whether it is causal is not in the record; lengths of the cache do not matter."""
    q, k = jnp.ones((2, 1, 6, 16), jnp.float32), jnp.ones((2, 40, 2, 16), jnp.float32)

    def kernels_in(q=q, **options):
        def attend(q):
            return jsoftmax.dot_product_attention(q, k, k, alpha=1.5, **options)

        return str(jax.make_jaxpr(attend)(q)).count("jsoftmax_by_platform")

    shape = (2, 2, 3, 40, 16)  # batch, key heads, queries of each, keys, width
    write([dataclasses.replace(RIGHT_AND_FASTER, operation="decoding", shape=shape)], file)
    assert kernels_in() > 0
    assert kernels_in(key_value_seq_lengths=jnp.array([3, 40])) > 0
    assert kernels_in(implementation="xla") == 0
    assert kernels_in(is_causal=True, query_offset=0) == 0
    assert kernels_in(q=jnp.ones((2, 40, 6, 16), jnp.float32)) == 0
