"""Formulas of the schedules, late steps, what is refused and in which words."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx


def test_warmup_goes_before_any_schedule():
    cosine = gx.cosine_decay_schedule(1.0, 10)
    warm = gx.warmup_schedule(cosine, 5, init_value=0.5)
    np.testing.assert_allclose([warm(0), warm(1), warm(5), warm(10)], [0.5, 0.6, 1.0, cosine(5)], rtol=1e-6)
    assert gx.warmup_schedule(cosine, 0)(0) == 1.0
    linear = gx.warmup_schedule(gx.linear_schedule(1.0, 0.0, 10), 5)
    np.testing.assert_allclose([linear(0), linear(5), linear(15)], [0.0, 1.0, 0.0], atol=1e-7)


def test_joined_schedules_count_their_own_steps():
    joined = gx.join_schedules(
        [gx.linear_schedule(0.0, 1.0, 5), gx.constant_schedule(1.0), lambda step: 10.0 + step], [5, 8]
    )
    with jax.numpy_dtype_promotion("standard"):
        seen = [float(joined(step)) for step in (0, 4, 5, 7, 8, 10)]
        np.testing.assert_allclose(seen, [0.0, 0.8, 1.0, 1.0, 10.0, 12.0], rtol=1e-6)


def test_long_runs_are_exact():
    """Beyond 2²⁴ steps float32 cannot count; the schedules clip and subtract as integers."""
    begin = 2**25
    schedule = gx.linear_schedule(0.0, 1.0, 4, transition_begin=begin)
    assert [float(schedule(jnp.int32(begin + i))) for i in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_stairs_are_exact_late_in_a_run():
    stairs = gx.exponential_decay(1.0, 2**20, 0.5, staircase=True)
    assert float(stairs(jnp.int32(17 * 2**20 - 1))) == 2.0**-16


def test_warmup_calls_its_schedule_as_others_do():
    schedule = gx.warmup_schedule(lambda step: step.astype(jnp.float32) + 1.0, 2)
    assert [float(schedule(jnp.int32(i))) for i in range(4)] == [0.0, 0.5, 1.0, 2.0]


def test_the_cosine_is_the_formula():
    schedule = gx.cosine_decay_schedule(2.0, 10, alpha=0.1)
    expected = 2.0 * (0.9 * 0.5 * (1 + math.cos(math.pi * 0.3)) + 0.1)
    np.testing.assert_allclose(schedule(3), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: gx.linear_schedule(1.0, 0.0, -1),
            r"linear_schedule: transition_steps must be at least 0 and below 2.*31, got -1",
        ),
        (
            lambda: gx.polynomial_schedule(1.0, 0.0, 2, 5, -1),
            r"transition_begin must be at least 0 and .*, got -1",
        ),
        (
            lambda: gx.exponential_decay(1.0, -1, 0.5),
            r"exponential_decay: transition_steps must be at least 0",
        ),
        (
            lambda: gx.exponential_decay(1.0, 5, 0.0),
            r"exponential_decay: decay_rate must be more than 0, got 0.0",
        ),
        (
            lambda: gx.piecewise_constant_schedule(1.0, {5: -0.5}),
            r"the scale at 5 must be at least 0 and .*, got -0.5",
        ),
        (lambda: gx.cosine_decay_schedule(1.0, 2**31), r"decay_steps must be at least 1 and below 2\*\*31"),
        (lambda: gx.cosine_decay_schedule(1.0, 0), r"cosine_decay_schedule: decay_steps must be at least 1"),
        (lambda: gx.cosine_decay_schedule(1.0, float("nan")), r"decay_steps must be at least 1 and below"),
        (
            lambda: gx.warmup_cosine_decay_schedule(0.0, 1.0, 10, 9),
            r"decay_steps must be at least 10 and .*, got 9",
        ),
        (
            lambda: gx.warmup_cosine_decay_schedule(0.0, 1.0, 0, 0),
            r"decay_steps must be at least 1 and .*, got 0",
        ),
        (
            lambda: gx.warmup_schedule(gx.constant_schedule(1.0), -1),
            r"warmup_steps must be at least 0 and .*, got -1",
        ),
        (
            lambda: gx.join_schedules([gx.constant_schedule(1.0)], [5]),
            r"1 schedules need 0 boundaries, got \[5\]",
        ),
        (
            lambda: gx.join_schedules([gx.constant_schedule(1.0)] * 3, [5, 2]),
            r"join_schedules: boundaries must ascend, got \[5, 2\]",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("warmup_steps", [1, 10])
def test_a_decay_of_no_steps_is_over_after_the_rise(warmup_steps):
    """The value at `decay_steps` and after is `end_value`, as it is for any longer decay."""
    for after in (0, 3):
        schedule = gx.warmup_cosine_decay_schedule(0.0, 2.0, warmup_steps, warmup_steps + after, 0.5)
        values = [float(schedule(step)) for step in range(warmup_steps + 5)]
        np.testing.assert_allclose(
            values[:warmup_steps], np.arange(warmup_steps) * 2.0 / warmup_steps, rtol=1e-6
        )
        np.testing.assert_allclose(values[warmup_steps + after :], 0.5)
    assert gx.warmup_cosine_decay_schedule(0.0, 0.0, 5, 5, 0.5)(9) == 0.0  # a share of the peak, as in Optax


def test_a_number_is_not_a_schedule():
    with pytest.raises(TypeError, match=r"1.0 is not a schedule; see constant_schedule"):
        gx.join_schedules([1.0, gx.constant_schedule(1.0)], [5])
