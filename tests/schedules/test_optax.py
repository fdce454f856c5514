"""Every schedule of Optax's is here, with its arguments and its values."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx

STEPS = [0, 1, 4, 5, 6, 9, 10, 11, 15, 20, 21, 50, 1000]

SAME_AS_OPTAX = [
    ("constant_schedule", dict(value=0.3)),
    ("linear_schedule", dict(init_value=1.0, end_value=0.1, transition_steps=10)),
    ("linear_schedule", dict(init_value=0.0, end_value=1.0, transition_steps=10, transition_begin=5)),
    ("polynomial_schedule", dict(init_value=1.0, end_value=0.1, power=2, transition_steps=10)),
    (
        "polynomial_schedule",
        dict(init_value=1.0, end_value=0.0, power=0.5, transition_steps=10, transition_begin=5),
    ),
    ("exponential_decay", dict(init_value=1.0, transition_steps=5, decay_rate=0.5)),
    ("exponential_decay", dict(init_value=1.0, transition_steps=5, decay_rate=0.5, staircase=True)),
    (
        "exponential_decay",
        dict(init_value=1.0, transition_steps=5, decay_rate=0.5, transition_begin=5, end_value=0.2),
    ),
    ("exponential_decay", dict(init_value=1.0, transition_steps=5, decay_rate=1.5, end_value=3.0)),
    ("piecewise_constant_schedule", dict(init_value=1.0, boundaries_and_scales={5: 0.5, 10: 0.1})),
    ("piecewise_constant_schedule", dict(init_value=1.0)),
    ("cosine_decay_schedule", dict(init_value=1.0, decay_steps=10)),
    ("cosine_decay_schedule", dict(init_value=1.0, decay_steps=10, alpha=0.1, exponent=2.0)),
    ("warmup_constant_schedule", dict(init_value=0.0, peak_value=1.0, warmup_steps=5)),
    ("warmup_cosine_decay_schedule", dict(init_value=0.0, peak_value=1.0, warmup_steps=5, decay_steps=20)),
    (
        "warmup_cosine_decay_schedule",
        dict(init_value=0.1, peak_value=1.0, warmup_steps=0, decay_steps=20, end_value=0.2, exponent=2.0),
    ),
    ("warmup_cosine_decay_schedule", dict(init_value=0.1, peak_value=0.0, warmup_steps=5, decay_steps=20)),
    (
        "warmup_exponential_decay_schedule",
        dict(
            init_value=0.0, peak_value=1.0, warmup_steps=5, transition_steps=5, decay_rate=0.5, staircase=True
        ),
    ),
    ("piecewise_interpolate_schedule", dict(interpolate_type="linear", init_value=1.0)),
    (
        "piecewise_interpolate_schedule",
        dict(interpolate_type="linear", init_value=1.0, boundaries_and_scales={5: 0.5, 20: 0.1, 10: 3.0}),
    ),
    (
        "piecewise_interpolate_schedule",
        dict(interpolate_type="cosine", init_value=1.0, boundaries_and_scales={0: 2.0, 5: 0.5, 20: 0.0}),
    ),
    ("linear_onecycle_schedule", dict(transition_steps=20, peak_value=1.0)),
    (
        "linear_onecycle_schedule",
        dict(
            transition_steps=50,
            peak_value=2.0,
            pct_start=0.1,
            pct_final=0.5,
            div_factor=5.0,
            final_div_factor=9.0,
        ),
    ),
    ("linear_schedule", dict(init_value=1.0, end_value=0.1, transition_steps=0)),
    ("linear_schedule", dict(init_value=1.0, end_value=0.1, transition_steps=0, transition_begin=3)),
    ("polynomial_schedule", dict(init_value=1.0, end_value=0.1, power=2, transition_steps=0)),
    ("exponential_decay", dict(init_value=1.0, transition_steps=0, decay_rate=0.5, end_value=0.1)),
    (
        "warmup_exponential_decay_schedule",
        dict(init_value=0.1, peak_value=1.0, warmup_steps=5, transition_steps=0, decay_rate=0.5),
    ),
    ("linear_onecycle_schedule", dict(transition_steps=1, peak_value=1.0)),
    ("cosine_onecycle_schedule", dict(transition_steps=20, peak_value=1.0)),
    (
        "cosine_onecycle_schedule",
        dict(transition_steps=50, peak_value=2.0, pct_start=0.1, div_factor=5.0, final_div_factor=9.0),
    ),
    ("cosine_onecycle_schedule", dict(transition_steps=1, peak_value=1.0)),
    (
        "sgdr_schedule",
        dict(
            cosine_kwargs=[
                dict(init_value=0.0, peak_value=1.0, warmup_steps=2, decay_steps=5),
                dict(init_value=0.2, peak_value=0.5, warmup_steps=0, decay_steps=15, end_value=0.1),
            ]
        ),
    ),
]


@pytest.mark.parametrize(("name", "kwargs"), SAME_AS_OPTAX)
def test_agrees_with_optax(name, kwargs, lenient):
    ours, theirs = getattr(gx, name)(**kwargs), getattr(optax, name)(**kwargs)
    jitted = jax.jit(ours)
    for step in STEPS:
        expected = np.asarray(theirs(step))
        np.testing.assert_allclose(ours(step), expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(jitted(jnp.int32(step)), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "kwargs"), SAME_AS_OPTAX)
def test_is_exact_in_float64(name, kwargs, x64, lenient):
    for step in STEPS:
        value, expected = (
            getattr(gx, name)(**kwargs)(jnp.int32(step)),
            getattr(optax, name)(**kwargs)(float(step)),
        )
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-15)


NAMES = {name for name in dir(optax.schedules) if inspect.isfunction(getattr(optax.schedules, name))}
NAMES -= {"inject_hyperparams", "inject_stateful_hyperparams"}  # the second is the first's deprecated name


@pytest.mark.parametrize("name", sorted(NAMES))
def test_has_the_arguments_of_optax(name):
    ours, theirs = (inspect.signature(getattr(m, name)).parameters.values() for m in (gx, optax.schedules))
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]


def test_every_schedule_of_optax_is_compared():
    assert {name for name, _ in SAME_AS_OPTAX} | {"join_schedules"} == NAMES


@pytest.mark.parametrize(("name", "kwargs"), SAME_AS_OPTAX)
def test_works_under_strict_promotion_and_is_a_scalar(name, kwargs):
    value = jnp.asarray(getattr(gx, name)(**kwargs)(jnp.int32(7)))
    assert value.shape == ()
    assert jnp.issubdtype(value.dtype, jnp.floating)


def test_the_rate_of_one_cycle_is_that_of_optax(x64, lenient):
    for steps in (7, 100):
        ours = gx.one_cycle_schedule(0.1, steps, 0.2, 10.0, 100.0).learning_rate
        theirs = optax.cosine_onecycle_schedule(steps, 0.1, 0.2, 10.0, 100.0)
        for step in range(steps + 3):
            np.testing.assert_allclose(ours(step), theirs(step), rtol=1e-12)
