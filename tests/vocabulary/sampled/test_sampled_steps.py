"""Training steps that touch the rows of targets and candidates alone, and sampled heads."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsoftmax as js
import jsoftmax.linen
import jsoftmax.nnx
from tests.vocabulary.sampled.sampled_helpers import (
    BIAS,
    CLASSES,
    FEATURES,
    KERNEL,
    LABELS,
    LOSSES,
    OWN,
    SHARED,
    WEIGHTS,
)

TABLE = jnp.asarray(KERNEL.T)
KEY = jax.random.key(2)
close = functools.partial(chex.assert_trees_all_close, rtol=1e-11, atol=1e-12)


def gathered_gradient(loss, targets, candidates, **options):
    """The loss of rows that were gathered, and its gradients put back where they belong."""
    few = js.vocabulary.gathered_classes(targets, candidates, CLASSES)

    def weighted(h, rows, bias):
        return WEIGHTS @ loss(
            h, rows, few.labels, few.candidates, bias=bias, class_axis=0, **options
        )

    value, (d_h, d_rows, d_bias) = jax.value_and_grad(weighted, (0, 1, 2))(
        FEATURES, TABLE[few.ids], jnp.asarray(BIAS)[few.ids]
    )
    put = jnp.zeros_like(TABLE).at[few.ids].add(d_rows)
    return value, (d_h, put, jnp.zeros(CLASSES).at[few.ids].add(d_bias))


def dense_gradient(loss, targets, candidates, **options):
    def weighted(h, table, bias):
        return WEIGHTS @ loss(h, table, targets, candidates, bias=bias, class_axis=0, **options)

    return jax.value_and_grad(weighted, (0, 1, 2))(FEATURES, TABLE, BIAS)


@pytest.mark.parametrize("name", ["sampled softmax", "importance sampling", "NCE"])
def test_gathered_rows_have_the_gradient_of_the_table(name):
    """With hits, repeated classes, candidates of each token's own, free places, ignored labels."""
    loss, _ = LOSSES[name]
    free = SHARED._replace(ids=np.where(np.arange(6) == 4, -1, SHARED.ids))
    for candidates, y, options in (
        (OWN, LABELS, {}),
        (free, jnp.asarray(LABELS).at[1].set(-100), {"ignore_index": -100}),
    ):
        candidates = jax.tree.map(jnp.asarray, candidates)
        ours = jax.jit(lambda c, y, o=options: gathered_gradient(loss, y, c, **o))(candidates, y)
        theirs = jax.jit(lambda c, y, o=options: dense_gradient(loss, y, c, **o))(candidates, y)
        close(ours, theirs)


def test_gathered_classes_are_each_there_once_and_what_is_none_stays_none():
    y = jnp.array([3, -100, 5, 9, 3], jnp.int8)
    few = js.vocabulary.gathered_classes(y, js.vocabulary.Candidates(jnp.array([5, -1, 8]), 0.0), 9)
    np.testing.assert_array_equal(few.ids, [3, 5, 8, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(few.labels, [0, -100, 1, -1, 0])
    np.testing.assert_array_equal(few.candidates.ids, [1, -1, 2])


OPTIMIZERS = {
    "sgd": (js.vocabulary.row_sgd(0.1), optax.sgd(0.1)),
    "adagrad": (js.vocabulary.row_adagrad(0.1), None),
    "adam": (js.vocabulary.row_adam(0.1), None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_on_few_rows_is_the_dense_step(name):
    """Three steps of drawing, gathering, differentiating and updating; some rows are never met.

    The dense gradient given to the same optimizer for all rows that it is not zero in, or to optax.
    """
    optimizer, dense = OPTIMIZERS[name]
    sampler = js.vocabulary.unigram_sampler([5.0, 3, 2, 2, 1, 0, 0], replacement=True)
    y = jnp.array([0, 2, 2, 1, 3])

    @jax.jit
    def sparse_step(table, state, key):
        few = js.vocabulary.gathered_classes(y, sampler.sample(key, (6,)), CLASSES)

        def loss(rows):
            return js.sampled_softmax_loss(
                FEATURES, rows, few.labels, few.candidates, class_axis=0
            ).sum()

        return optimizer.update(table, state, few.ids, jax.grad(loss)(table[few.ids]))

    @jax.jit
    def dense_step(table, state, key):
        candidates = sampler.sample(key, (6,))

        def loss(table):
            return js.sampled_softmax_loss(FEATURES, table, y, candidates, class_axis=0).sum()

        gradient = jax.grad(loss)(table)
        if dense is None:
            met = jnp.isin(jnp.arange(CLASSES), jnp.concatenate([y, candidates.ids]))
            return optimizer.update(table, state, jnp.where(met, jnp.arange(CLASSES), -1), gradient)
        updates, state = dense.update(gradient, state, table)
        return optax.apply_updates(table, updates), state

    few, whole = TABLE, TABLE
    few_state = optimizer.init(few)
    whole_state = few_state if dense is None else dense.init(whole)
    for key in jax.random.split(KEY, 3):
        few, few_state = sparse_step(few, few_state, key)
        whole, whole_state = dense_step(whole, whole_state, key)
    close(few, whole)
    np.testing.assert_array_equal(few[5:], TABLE[5:])
    assert (few[:4] != TABLE[:4]).all()


def test_a_step_on_few_rows_takes_no_memory_of_the_size_of_the_table():
    """With the table donated, temporaries do not depend on the number of classes."""
    optimizer = js.vocabulary.row_adagrad(0.1)
    h, y = jnp.ones((8, 4)), jnp.arange(8)

    def step(table, state, sampler, key):
        few = js.vocabulary.gathered_classes(y, sampler.sample(key, (16,)), table.shape[0])

        def loss(rows):
            return js.sampled_softmax_loss(h, rows, few.labels, few.candidates, class_axis=0).sum()

        return optimizer.update(table, state, few.ids, jax.grad(loss)(table[few.ids]))

    def temporaries(classes):
        table = jnp.zeros((classes, 4))
        arguments = (table, optimizer.init(table), js.vocabulary.uniform_sampler(classes), KEY)
        ready = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
        return ready.memory_analysis().temp_size_in_bytes

    assert temporaries(50_000) <= temporaries(500) + 1024


SAMPLER = js.vocabulary.unigram_sampler(np.arange(1.0, CLASSES + 1))
HEADS = {
    "as it comes": {},
    "NCE without a bias": {"sampled_loss": js.nce_loss, "use_bias": False},
    "in bfloat16": {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_heads_are_twins(name):
    """The parameters of one, put into the other: the same losses and gradients, and the function's.

    Sampled in training, those of `linear_cross_entropy` in evaluation; either way of logits too.
    """
    options = HEADS[name]
    head = jsoftmax.nnx.SampledSoftmax(3, CLASSES, SAMPLER, 4, rngs=nnx.Rngs(0), **options)
    twin = jsoftmax.linen.SampledSoftmax(3, CLASSES, SAMPLER, 4, **options)
    params = nnx.to_pure_dict(nnx.state(head, nnx.Param))
    h = jnp.float32(FEATURES)
    made = jax.jit(twin.init)(KEY, h)
    chex.assert_trees_all_equal_shapes_and_dtypes(made["params"], params)

    @jax.jit
    def answers(params):
        kernel, bias = params["kernel"], params.get("bias")
        ours = (head(h), head.loss(h, LABELS, rngs=KEY), head.loss(h, LABELS, deterministic=True))
        call = functools.partial(twin.apply, {**made, "params": params})
        theirs = (
            call(h),
            call(h, LABELS, rng=KEY, method="loss"),
            call(h, LABELS, deterministic=True, method="loss"),
        )
        drawn = SAMPLER.sample(KEY, (4,), LABELS)
        h_, kernel, bias = (
            x if x is None else x.astype(options.get("dtype", jnp.float32))
            for x in (h, kernel, bias)
        )
        loss = options.get("sampled_loss", js.sampled_softmax_loss)
        z = h_ @ kernel.T
        functions = (
            js.softmax(z if bias is None else z + bias),
            loss(h_, kernel, LABELS, drawn, bias=bias, class_axis=0),
            js.linear_cross_entropy(h_, kernel, LABELS, bias=bias, class_axis=0),
        )
        return ours, theirs, functions

    ours, theirs, functions = answers(params)
    # The compiler may leave out roundings to bfloat16 in between, or not.
    rtol = 1e-6 if "dtype" not in options else 2 * float(jnp.finfo(jnp.bfloat16).eps)
    chex.assert_trees_all_close(ours, theirs, rtol=rtol)
    chex.assert_trees_all_close(ours, functions, rtol=rtol)
    assert ours[1].dtype == jnp.float32


@pytest.mark.slow
def test_a_head_learns_from_samples_and_is_judged_by_all_classes():
    """Its parameters alone are trained; draws differ from call to call; evaluation draws none."""
    head = jsoftmax.nnx.SampledSoftmax(3, CLASSES, SAMPLER, 4, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(head, optax.adam(0.1), wrt=nnx.Param)
    h = jnp.float32(FEATURES)

    @nnx.jit
    def step(head, optimizer):
        def loss(head):
            return head.loss(h, LABELS).mean()

        value, gradients = nnx.value_and_grad(loss)(head)
        optimizer.update(head, gradients)
        return value

    judge = jax.jit(
        lambda p: js.linear_cross_entropy(h, p["kernel"], LABELS, bias=p["bias"], class_axis=0)
    )

    def judged():
        return float(judge(nnx.to_pure_dict(nnx.state(head, nnx.Param))).mean())

    before = judged()
    values = [float(step(head, optimizer)) for _ in range(40)]
    assert judged() < before / 3
    assert len(set(values)) == 40
    head.eval()
    assert float(head.loss(h, LABELS).mean()) == pytest.approx(judged(), rel=1e-5)
    assert set(nnx.to_pure_dict(nnx.state(head, nnx.Param))) == {"kernel", "bias"}
    given = js.vocabulary.Candidates(jnp.arange(CLASSES), 0.0)
    every = head.loss(h, LABELS, given, deterministic=False)
    np.testing.assert_allclose(every.mean(), judged(), rtol=1e-5)


def test_heads_say_what_they_lack():
    with pytest.raises(ValueError, match=r"nnx.SampledSoftmax: the sampler has 7 classes"):
        jsoftmax.nnx.SampledSoftmax(3, 8, SAMPLER, 4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"linen.SampledSoftmax: the sampler has 7 classes"):
        jsoftmax.linen.SampledSoftmax(3, 8, SAMPLER, 4)
    head = jsoftmax.nnx.SampledSoftmax(3, CLASSES, SAMPLER, 4, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"nnx.SampledSoftmax: `rngs` is 3.*nnx.Rngs"):
        head._key(3)
