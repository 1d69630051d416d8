"""Linear cross-entropy by kernels, interpreted, against XLA's form."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsoftmax
from jsoftmax import kernels
from jsoftmax.kernels import linear
from jsoftmax.kernels._record import Entry, write

pytestmark = pytest.mark.kernels
KEYS = jax.random.split(jax.random.key(0), 5)
EPS = {jnp.float32: 2e-6, jnp.bfloat16: 3e-2}


def problem(tokens, width, classes, dtype=jnp.float32, scale=1.0):
    """Features, table, labels, weights and bias."""
    h = scale * jax.random.normal(KEYS[0], (tokens, width), jnp.float32)
    w = jax.random.normal(KEYS[1], (width, classes), jnp.float32) / width**0.5
    y = jax.random.randint(KEYS[2], (tokens,), 0, classes, jnp.int32)
    s = jax.random.normal(KEYS[3], (tokens,), jnp.float32)
    b = jax.random.normal(KEYS[4], (classes,), jnp.float32)
    return h.astype(dtype), w.astype(dtype), y, s, b


def both_ways(h, w, y, s, b=None, **options):
    """Losses and gradients by kernels, and by XLA."""

    def found(implementation):
        def losses(h, w, b):
            return jsoftmax.linear_cross_entropy(
                h, w, y, bias=b, implementation=implementation, **options
            )

        def total(*moving):
            return jnp.sum(s * losses(*moving))

        moving = (h, w) if b is None else (h, w, b)
        places = tuple(range(len(moving)))
        if b is None:
            return jax.jit(
                lambda h, w: (
                    losses(h, w, None),
                    jax.grad(lambda h, w: total(h, w, None), places)(h, w),
                )
            )(h, w)
        return jax.jit(lambda *m: (losses(*m), jax.grad(total, places)(*m)))(*moving)

    return found("pallas"), found("xla")


def assert_alike(pair, tolerance):
    """Equal but for a share of the largest number of each array."""
    ours, theirs = map(jax.tree.leaves, pair)
    for x, y in zip(ours, theirs, strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        x, y = (np.asarray(a, np.float64) for a in (x, y))
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1, np.abs(y).max()))


@pytest.mark.parametrize(
    ("tokens", "width", "classes"),
    [(64, 32, 384), (37, 20, 300), (130, 20, 700), (3, 5, 7), (600, 16, 513), (1, 1, 1)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_those_of_xla(tokens, width, classes, dtype):
    """Also at sizes that are no multiples of a block."""
    h, w, y, s, _ = problem(tokens, width, classes, dtype)
    assert_alike(both_ways(h, w, y, s), EPS[dtype])


@pytest.mark.parametrize(
    "options",
    [
        {"z_loss": 0.1},
        {"logits_soft_cap": 2.0},
        {"ignore_index": 5},
        {"class_axis": 0},
        {"class_axis": 0, "z_loss": jnp.float32(0.1), "logits_soft_cap": 3.0, "ignore_index": 1},
    ],
    ids=lambda x: "-".join(x),
)
def test_options(options):
    h, w, y, s, b = problem(37, 20, 300)
    if options.get("class_axis") == 0:
        w = w.T
    if "ignore_index" in options:
        y = y.at[::3].set(options["ignore_index"])
    assert_alike(both_ways(h, w, y, s, b, **options), EPS[jnp.float32])


def test_a_sum_by_kernels_is_that_of_xla(tmp_path):
    """By name, and by the record of the losses; with ignored tokens and weights that move."""
    h, w, y, s, b = problem(37, 20, 300)
    y = y.at[::3].set(7)

    def total(h, w, s, implementation):
        return jsoftmax.linear_cross_entropy_sum(
            h, w, y, s, bias=b, ignore_index=7, implementation=implementation
        )

    both = jax.jit(jax.value_and_grad(total, (0, 1, 2)), static_argnums=3)
    ours, theirs = (jax.tree.leaves(both(h, w, s, name)) for name in ("pallas", "xla"))
    assert_alike((ours, theirs), EPS[jnp.float32])
    known = Entry(
        jax.devices()[0].device_kind, "linear loss", "α = 1", (37, 20, 300), "float32",
        jsoftmax.__version__, jax.__version__, 0.0, 1.0, {"pallas": 1.0, "xla": 2.0},
    )  # fmt: skip
    with kernels.using_record(tmp_path / "kernels.json"):
        write(
            [known, dataclasses.replace(known, operation="linear loss gradient")],
            tmp_path / "kernels.json",
        )
        recorded = jax.value_and_grad(total, (0, 1, 2))(h, w, s, None)
    assert_alike((jax.tree.leaves(recorded), theirs), EPS[jnp.float32])


@pytest.mark.slow
def test_two_kernels_give_the_gradients_of_one(monkeypatch):
    """The plan where the gradient in the features does not fit on the chip."""
    h, w, y, s, b = problem(600, 20, 700)
    monkeypatch.setattr(linear.TableProblem, "features_fit", False)
    for axis in (-1, 0):
        pair = both_ways(h, w if axis else w.T, y, s, b, class_axis=axis)
        assert_alike(pair, EPS[jnp.float32])


@pytest.mark.parametrize("scale", [0.0, 100.0])
def test_ties_and_extreme_scores(scale):
    """All scores equal, and almost all mass on one class, where 1 − p is a small difference."""
    h, w, y, s, _ = problem(20, 8, 300, scale=scale)
    y = jnp.where(jnp.arange(20) % 2, jnp.argmax(h @ w, -1).astype(y.dtype), y)
    assert_alike(both_ways(h, w, y, s), EPS[jnp.float32])


def test_a_small_loss_keeps_its_digits():
    """log1p of the others' mass, and a gradient of that mass."""
    h, w = jnp.array([[30.0]], jnp.float32), jnp.array([[1.0, 0.0, 0.0]], jnp.float32)
    y = jnp.array([0])

    def loss(h):
        return jsoftmax.linear_cross_entropy(h, w, y, implementation="pallas")[0]

    others = 2 * np.exp(-30.0)
    assert float(loss(h)) == pytest.approx(others, rel=1e-5)
    assert float(jax.grad(loss)(h)[0, 0]) == pytest.approx(-others, rel=1e-5)


def test_an_infinite_score_takes_all_mass():
    h, w = jnp.array([[jnp.inf], [1.0]], jnp.float32), jnp.array([[1.0, -1.0]], jnp.float32)
    y = jnp.array([0, 1])
    ours, theirs = (
        jsoftmax.linear_cross_entropy(h, w, y, implementation=name) for name in ("pallas", "xla")
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_label_out_of_range_is_nan_and_spoils_no_other():
    h, w, y, s, _ = problem(6, 8, 300)
    y = y.at[2].set(300)
    pair = both_ways(h, w, y, s.at[2].set(0))
    chex.assert_trees_all_equal(*(jnp.isnan(x[0]) for x in pair))
    assert not jnp.isnan(pair[0][1][1]).any()


@pytest.mark.slow
def test_forward_mode_and_second_derivatives_are_those_of_xla():
    h, w, y, _, b = problem(5, 4, 150)

    def moved(name):
        def loss(h, w, b):
            return jnp.sum(jsoftmax.linear_cross_entropy(h, w, y, bias=b, implementation=name) ** 2)

        tangent = jax.jvp(loss, (h, w, b), (h, w, b))[1]
        second = jax.grad(lambda h: jnp.sum(jax.grad(loss)(h, w, b) ** 2))(h)
        return tangent, second, jax.hessian(loss, 2)(h, w, b)

    assert_alike((moved("pallas"), moved("xla")), 1e-5)


def test_it_is_batched_by_vmap():
    h, w, y, s, _ = problem(6, 8, 300)

    def gradient(name):
        def loss(h, y, s):
            return jnp.sum(s * jsoftmax.linear_cross_entropy(h, w, y, implementation=name))

        split = (h.reshape(2, 3, 8), y.reshape(2, 3), s.reshape(2, 3))
        return jax.vmap(jax.value_and_grad(loss))(*split)

    assert_alike((gradient("pallas"), gradient("xla")), EPS[jnp.float32])


def test_tokens_split_in_shard_map():
    """Unchecked: interpreted kernels do not track varying axes, compiled ones do."""
    h, w, y, s, _ = problem(8, 8, 300)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    whole = jax.sharding.PartitionSpec()

    def gradient(name):
        def total(h, w, y, s):
            loss = s * jsoftmax.linear_cross_entropy(h, w, y, implementation=name)
            return jax.lax.psum(jnp.sum(loss), "data")

        of_parts = jax.shard_map(
            total, mesh=mesh, in_specs=(spec, whole, spec, spec), out_specs=whole, check_vma=False
        )
        return jax.jit(jax.value_and_grad(of_parts, (0, 1)))(h, w, y, s)

    assert_alike((gradient("pallas"), gradient("xla")), EPS[jnp.float32])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"where": jnp.ones(30, bool)}, "`where`"),
        ({"prior": jnp.ones(30)}, "`prior`"),
        ({"log_prior": jnp.ones(30)}, "`prior` or `log_prior`"),
        ({"label_smoothing": 0.1}, "`label_smoothing`"),
        ({"class_weights": jnp.ones(30)}, "`class_weights`"),
        ({"temperature": 2.0}, "a `temperature` other than 1"),
        ({"block_tokens": 2}, "`block_tokens`"),
        ({"block_classes": 2}, "`block_classes`"),
        ({"targets": (jnp.zeros((6, 2), jnp.int32), jnp.ones((6, 2)) / 2)}, "pairs of `targets`"),
        ({"features": jnp.ones((6, 8), jnp.float64)}, "float64"),
        ({"features": jnp.ones((0, 8)), "targets": jnp.zeros(0, jnp.int32)}, "float64|no tokens"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_kernels_do_not_take_is_refused(options, said):
    h, w, y, _, _ = problem(6, 8, 30)
    arguments = {"features": h, "kernel": w, "targets": y} | options
    with pytest.raises(NotImplementedError, match=said):
        jsoftmax.linear_cross_entropy(**arguments, implementation="pallas")
    chex.assert_tree_all_finite(jsoftmax.linear_cross_entropy(**arguments))


def test_an_unknown_name_is_an_error():
    h, w, y, _, _ = problem(6, 8, 30)
    with pytest.raises(ValueError, match="must be None, 'xla' or 'pallas', got 'cuda'"):
        jsoftmax.linear_cross_entropy(h, w, y, implementation="cuda")


@pytest.mark.parametrize("memory", [2**26, 2**27])
@pytest.mark.parametrize("width", [64, 2048, 8192])
@pytest.mark.parametrize("classes", [7, 300, 128256, 50257])
@pytest.mark.parametrize("tokens", [128, 1024, 8192, 65536])
def test_blocks_fit_the_chip(tokens, classes, width, memory):
    """Every kernel of the plan has blocks, and those of tokens divide the tokens evenly."""
    shape = linear.TableProblem(tokens, width, classes, 1, jnp.bfloat16, True, memory, 1)
    for kernel in ("sums", *(["both"] if shape.features_fit else ["features", "table"])):
        of_tokens, of_classes = shape.blocks(kernel)
        assert tokens % of_tokens == 0 and of_classes <= max(classes, 128)
        assert shape._bytes(kernel, of_tokens, of_classes) < 0.8 * memory


def test_a_width_that_does_not_fit_is_refused():
    shape = linear.TableProblem(512, 2**18, 1000, 1, jnp.float32, False, 2**26, 1)
    with pytest.raises(NotImplementedError, match="width 262144"):
        shape.blocks("table")


def test_several_cores_do_not_share_a_sum():
    shape = linear.TableProblem(512, 64, 1000, 1, jnp.float32, False, 2**26, 1)
    assert shape.features_fit and not dataclasses.replace(shape, cores=2).features_fit


def test_none_takes_the_kernels_where_the_record_says_so(tmp_path, monkeypatch):
    """On this platform they would be interpreted: only the choice is looked at."""
    h, w, y, s, _ = problem(64, 32, 384, jnp.bfloat16)
    known = Entry(
        jax.devices()[0].device_kind, "linear loss", "α = 1", (64, 32, 384), "bfloat16",
        jsoftmax.__version__, jax.__version__, 0.0, 1.0, {"pallas": 1.0, "xla": 2.0},
    )  # fmt: skip
    both = [known, dataclasses.replace(known, operation="linear loss gradient")]

    def kernels_in(**options):
        function = jax.make_jaxpr(lambda h: jsoftmax.linear_cross_entropy(h, w, y, **options))
        return str(function(h)).count("jsoftmax_by_platform")

    with kernels.using_record(tmp_path / "kernels.json"):
        assert kernels_in() == 0
        write(both, tmp_path / "kernels.json")
        assert kernels_in() > 0
        assert kernels_in(implementation="xla") == 0
        assert kernels_in(temperature=2.0) == 0
        assert kernels_in(block_tokens=8) == 0
        with monkeypatch.context() as patched:
            patched.setattr(linear.TableProblem, "_bytes", lambda *_: 2**40)
            assert kernels_in() == 0  # as if it did not fit
        ours = jax.grad(lambda h: jnp.sum(s * jsoftmax.linear_cross_entropy(h, w, y)))(h)
    theirs = jax.grad(lambda h: jnp.sum(s * jsoftmax.linear_cross_entropy(h, w, y)))(h)
    assert_alike((ours, theirs), EPS[jnp.bfloat16])


@pytest.mark.parametrize("platforms", [("cpu",), ("cuda",), ("cpu", "tpu", "cuda")], ids=str)
def test_a_record_of_a_tpu_leaves_other_platforms_to_xla(platforms, monkeypatch):
    """One program for several platforms; a named kernel has but two."""
    h, w, y, _, _ = problem(64, 32, 384, jnp.bfloat16)
    monkeypatch.setattr(kernels, "chosen", lambda *_, **__: frozenset({"tpu"}))

    def lowered(**options):
        def total(h):
            return jnp.sum(jsoftmax.linear_cross_entropy(h, w, y, **options))

        return jax.export.export(jax.jit(jax.grad(total)), platforms=platforms)(h)

    assert ("tpu_custom_call" in lowered().mlir_module()) == ("tpu" in platforms)
    if "cuda" in platforms:
        with pytest.raises(
            NotImplementedError, match="let implementation='xla' compute it on cuda"
        ):
            lowered(implementation="pallas")


@pytest.mark.tpu_compiler
def test_it_compiles_for_chips(capsys):
    """To the end, on each of the chips that `python -m jsoftmax.kernels` knows."""
    from jsoftmax.kernels.trial._trial_command import main

    for chip in ("v5e", "v6e", "v5p"):
        assert main(["--compile-for", chip, "--operation", "linear loss"]) == 0
        assert "Error" not in capsys.readouterr().out
