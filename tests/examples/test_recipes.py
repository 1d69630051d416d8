"""The recipes of examples/ without logits: their losses are those of the dense forms."""

import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import pytest

from examples import distillation, grpo, preference

FOLDER = pathlib.Path(preference.__file__).parent
RECIPES = ("preference", "grpo", "distillation")


def logits(model, params, tokens):
    return (model.hidden(params, tokens) @ params["table"].T).astype(jnp.float32)


def log_probs(model, params, tokens, labels):
    log_p = jax.nn.log_softmax(logits(model, params, tokens))
    return jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]


def assert_same(ours, dense, params):
    """Values and gradients to 1e-5."""
    found, expected = (jax.value_and_grad(f)(params) for f in (ours, dense))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def both_models(model, *more):
    return [
        jax.tree.map(lambda x: x.astype(jnp.float32), model.init(jax.random.key(i), *more))
        for i in (0, 1)
    ]


def test_the_loss_of_preferences_is_the_dense_one():
    params, reference = both_models(preference)
    chosen, rejected = (preference.answers(jax.random.key(i)) for i in (2, 3))

    def dense(params):
        def of(params, tokens, labels):
            each = log_probs(preference, params, tokens, jnp.maximum(labels, 0))
            return jnp.sum(jnp.where(labels == preference.IGNORED, 0, each), -1)

        ratios = [of(params, *x) - of(reference, *x) for x in (chosen, rejected)]
        return jnp.mean(jnp.log1p(jnp.exp(-0.5 * (ratios[0] - ratios[1]))))

    assert_same(lambda p: preference.loss(p, reference, chosen, rejected), dense, params)


def test_the_loss_of_groups_is_the_dense_one():
    params, reference = both_models(grpo)
    tokens = grpo.draw(jax.random.key(2), reference, jnp.arange(grpo.GROUPS))
    advantages = jax.random.normal(jax.random.key(3), tokens.shape[:2])
    given = tokens[..., :-1], tokens[..., 1:]
    ref = log_probs(grpo, reference, *given)
    old = log_probs(grpo, params, *given) + 0.3 * jax.random.normal(jax.random.key(4), ref.shape)

    def dense(params):
        log_p = log_probs(grpo, params, *given)
        ratio = jnp.exp(log_p - old)
        a = advantages[..., None]
        gain = jnp.minimum(ratio * a, jnp.clip(ratio, 0.8, 1.2) * a)
        return jnp.mean(0.02 * (jnp.exp(ref - log_p) - 1 - (ref - log_p)) - gain)

    assert_same(lambda p: grpo.loss(p, tokens, old, ref, advantages), dense, params)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_loss_of_distillation_is_the_dense_one(direction):
    teacher = both_models(distillation, 64)[0]
    student = both_models(distillation, 32)[1]
    tokens, t = jnp.arange(distillation.TOKENS), distillation.TEMPERATURE

    def dense(student):
        log_p, log_q = (
            jax.nn.log_softmax(logits(distillation, x, tokens) / t) for x in (teacher, student)
        )
        if direction == "reverse":
            log_p, log_q = log_q, log_p
        return t**2 * jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1))

    assert_same(lambda s: distillation.loss(s, teacher, tokens, direction), dense, student)


def test_the_loss_from_a_file_is_the_dense_one():
    teacher, student = both_models(distillation, 64)[0], both_models(distillation, 32)[1]
    tokens, t = jnp.arange(distillation.TOKENS), distillation.TEMPERATURE
    ids, log_probs = distillation.written(teacher, tokens)
    log_p = jax.nn.log_softmax(logits(distillation, teacher, tokens) / t)
    chex.assert_trees_all_close(log_probs, jnp.take_along_axis(log_p, ids, 1), rtol=1e-5, atol=1e-5)

    def events(p):
        own = jnp.take_along_axis(p, ids, 1)
        return jnp.concatenate([own, 1 - own.sum(1, keepdims=True)], 1)

    def dense(student):
        q = events(jax.nn.softmax(logits(distillation, student, tokens) / t))
        p = events(jnp.exp(log_p))
        return t**2 * jnp.mean(jnp.sum(p * jnp.log(p / q), -1))

    def ours(student):
        return distillation.loss_from_topk(student, ids, log_probs, tokens)

    assert_same(ours, dense, student)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_60_lines_at_most(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_and_gets_better(name):
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"], cwd=FOLDER.parent, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    figures = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert (figures[-1] > figures[0]) == (name == "grpo")
