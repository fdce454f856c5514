"""Each schedule against its formula in NumPy, over a whole run and beyond, and what all of them keep."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx


def one_cycle(t, start, peak, last, up, end, shape):
    """A rise and a fall between knots."""
    ease = (lambda x: x) if shape == "linear" else (lambda x: (1 - np.cos(np.pi * x)) / 2)
    if t < up:
        return start + (peak - start) * ease(t / up)
    return peak + (last - peak) * ease(min((t - up) / (end - up), 1))


def cyclic(t, low, high, up, down, height):
    cycle = t // (up + down)
    within = t - cycle * (up + down)
    share = within / up if within <= up else (up + down - within) / down
    return low + (high - low) * share * height(cycle, t)


def wsd(t, fall):
    if t < 10:
        return 0.1 + 0.9 * t / 10
    return 0.2 + 0.8 * fall(min(max(t - 40, 0) / 20, 1))


def restarts(t, first, mult, shrink):
    begin, length, peak = 0, first, 1.0
    while t >= begin + length:
        begin, length, peak = begin + length, length * mult, peak * shrink
    return 0.1 + (peak - 0.1) * (1 + np.cos(np.pi * (t - begin) / length)) / 2


PAIR = gx.one_cycle_schedule(1.0, 50, 0.2, 10.0, 100.0, momentum=(0.8, 0.9))
THREE = gx.one_cycle_schedule(1.0, 50, 0.3, 10.0, 100.0, shape="linear", three_phase=True)
INCLUSIVE = gx.one_cycle_schedule(1.0, 51, 0.25, 10.0, 100.0, shape="linear", inclusive=True)
BOTH = gx.cyclic_with_momentum(0.1, 1.0, 5, 3, "triangular2", momentum=(0.8, 0.9))
HALVES = lambda cycle, t: 0.5**cycle

FORMULAS = [
    (gx.step_schedule(2.0, 7, 0.5), lambda t: 2.0 * 0.5 ** (t // 7)),
    (gx.multi_step_schedule(2.0, [30, 10, 10], 0.5), lambda t: 2.0 * 0.5 ** (2 * (t >= 10) + (t >= 30))),
    (gx.multi_step_schedule(2.0, []), lambda t: 2.0),
    (gx.inverse_time_schedule(2.0, 10, 0.5), lambda t: 2.0 / (1 + 0.5 * t / 10)),
    (gx.inverse_time_schedule(2.0, 10, 0.5, 5), lambda t: 2.0 / (1 + 0.5 * max(t - 5, 0) / 10)),
    (gx.inverse_time_schedule(2.0, 10, 0.5, staircase=True), lambda t: 2.0 / (1 + 0.5 * (t // 10))),
    (  # Vaswani et al. 2017, equation 3, for a width of 16, from step 1 on
        gx.shift_schedule(gx.inverse_sqrt_schedule(0.0, (16 * 10) ** -0.5, 10), 1),
        lambda t: 16**-0.5 * min((t + 1) ** -0.5, (t + 1) * 10**-1.5),
    ),
    (gx.inverse_sqrt_schedule(0.1, 0.1, 100), lambda t: 1 / np.sqrt(max(t, 100))),  # T5
    (
        gx.inverse_sqrt_schedule(0.5, 2.0, 10, timescale=30),
        lambda t: 0.5 + 0.15 * t if t < 10 else 2.0 / np.sqrt(1 + (t - 10) / 30),
    ),
    (gx.inverse_sqrt_schedule(0.0, 2.0, 0, timescale=30.0), lambda t: 2.0 / np.sqrt(1 + t / 30)),
    (gx.wsd_schedule(0.1, 1.0, 10, 30, 20, 0.2, "linear"), lambda t: wsd(t, lambda x: 1 - x)),
    (gx.wsd_schedule(0.1, 1.0, 10, 30, 20, 0.2), lambda t: wsd(t, lambda x: 1 - np.sqrt(x))),
    (
        gx.wsd_schedule(0.1, 1.0, 10, 30, 20, 0.2, shape="cosine"),
        lambda t: wsd(t, lambda x: (1 + np.cos(np.pi * x)) / 2),
    ),
    (gx.wsd_schedule(0.0, 1.0, 0, 0, 20, shape="linear"), lambda t: max(1 - t / 20, 0)),
    (gx.cosine_restarts_schedule(1.0, 7, end_value=0.1), lambda t: restarts(t, 7, 1, 1.0)),
    (gx.cosine_restarts_schedule(1.0, 3, 2, 0.8, 0.1), lambda t: restarts(t, 3, 2, 0.8)),
    (gx.cosine_restarts_schedule(1.0, 9, 1, 0.5, 0.1), lambda t: restarts(t, 9, 1, 0.5)),
    (gx.cyclic_schedule(0.1, 1.0, 5), lambda t: cyclic(t, 0.1, 1.0, 5, 5, lambda cycle, t: 1.0)),
    (gx.cyclic_schedule(0.1, 1.0, 5, 8, "triangular2"), lambda t: cyclic(t, 0.1, 1.0, 5, 8, HALVES)),
    (
        gx.cyclic_schedule(0.1, 1.0, 4, 1, "exp_range", 0.98),
        lambda t: cyclic(t, 0.1, 1.0, 4, 1, lambda cycle, t: 0.98**t),
    ),
    (BOTH.learning_rate, lambda t: cyclic(t, 0.1, 1.0, 5, 3, HALVES)),
    (BOTH.momentum, lambda t: cyclic(t, 0.9, 0.8, 5, 3, HALVES)),
    (PAIR.learning_rate, lambda t: one_cycle(t, 0.1, 1.0, 0.001, 10, 50, "cosine")),
    (PAIR.momentum, lambda t: one_cycle(t, 0.9, 0.8, 0.9, 10, 50, "cosine")),
    (THREE.learning_rate, lambda t: np.interp(t, [0, 15, 30, 50], [0.1, 1.0, 0.1, 0.001])),
    (THREE.momentum, lambda t: np.interp(t, [0, 15, 30], [0.95, 0.85, 0.95])),
    (INCLUSIVE.learning_rate, lambda t: one_cycle(t, 0.1, 1.0, 0.001, 11.75, 50, "linear")),
    (INCLUSIVE.momentum, lambda t: one_cycle(t, 0.95, 0.85, 0.95, 11.75, 50, "linear")),
    (gx.knots_schedule({30: 1.0, 10.5: 3.0, 50: 0.0}), lambda t: np.interp(t, [10.5, 30, 50], [3, 1, 0])),
    (gx.knots_schedule({5: 2.0}, "cosine"), lambda t: 2.0),
    (
        gx.product_schedule([gx.linear_schedule(0.0, 1.0, 10), gx.step_schedule(2.0, 7, 0.5)]),
        lambda t: min(t / 10, 1) * 2.0 * 0.5 ** (t // 7),
    ),
    (gx.shift_schedule(gx.linear_schedule(0.0, 1.0, 10), 4), lambda t: min((t + 4) / 10, 1)),
    (gx.shift_schedule(gx.linear_schedule(0.0, 1.0, 10), -4), lambda t: min(max(t - 4, 0) / 10, 1)),
]
each = pytest.mark.parametrize(("schedule", "formula"), FORMULAS, ids=[repr(s) for s, _ in FORMULAS])
RUN = np.arange(130)


@each
def test_is_the_formula(schedule, formula, x64):
    """In float64, called with an int, with a traced int32 and with many steps at once."""
    expected = np.array([formula(int(t)) for t in RUN])
    seen = jax.jit(jax.vmap(schedule))(jnp.asarray(RUN, jnp.int32))
    assert jnp.shape(seen) == RUN.shape
    assert seen.dtype == jnp.float64
    np.testing.assert_allclose(seen, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose([schedule(int(t)) for t in RUN[::9]], expected[::9], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(schedule(jnp.asarray(RUN)), seen, rtol=1e-15, atol=1e-15)


@each
def test_is_close_to_the_formula_in_float32(schedule, formula):
    expected = np.array([formula(int(t)) for t in RUN])
    seen = jax.jit(jax.vmap(schedule))(jnp.asarray(RUN, jnp.int32))
    assert seen.dtype == jnp.float32
    np.testing.assert_allclose(seen, expected, rtol=3e-6, atol=1e-7)


@each
def test_is_finite_at_the_last_step_that_there_is(schedule, formula):
    """The count saturates there; a schedule that ends has long been at its end."""
    last = jnp.int32(jnp.iinfo(jnp.int32).max)
    value = jax.jit(schedule)(last)
    assert jnp.isfinite(value)
    if len(values := {float(formula(t)) for t in range(10_000, 10_100)}) == 1:
        np.testing.assert_allclose(value, *values, rtol=1e-6, atol=1e-9)


@each
def test_equal_calls_are_equal_and_printed_as_such(schedule, formula):
    for other in (
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
        eval(repr(schedule), vars(gx)),
    ):
        assert other == schedule
        assert hash(other) == hash(schedule)
        assert repr(other) == repr(schedule)


LATE = 2**25  # beyond 2²⁴ float32 counts no single steps


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (gx.knots_schedule({LATE: 0.0, LATE + 4: 1.0}), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (gx.knots_schedule({LATE + 0.5: 0.0, LATE + 4.5: 1.0}), [0.0, 0.125, 0.375, 0.625, 0.875]),
        (gx.wsd_schedule(1.0, 1.0, 0, LATE, 4, shape="linear"), [1.0, 0.75, 0.5, 0.25, 0.0]),
        (gx.multi_step_schedule(1.0, [LATE + 1, LATE + 2], 0.5), [1.0, 0.5, 0.25, 0.25, 0.25]),
        (gx.cyclic_schedule(0.0, 1.0, 4), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (gx.shift_schedule(gx.linear_schedule(0.0, 1.0, 4), -LATE), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (gx.cosine_restarts_schedule(1.0, 2), [1.0, 0.5, 1.0, 0.5, 1.0]),
    ],
)
def test_late_steps_are_exact(schedule, expected):
    seen = [float(schedule(jnp.int32(LATE + i))) for i in range(5)]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_a_fall_keeps_its_precision_to_the_end():
    """The last steps of a long cosine are millionths: 1 + cos would lose half of their digits."""
    steps = 10_000
    schedule = gx.wsd_schedule(1.0, 1.0, 0, 0, steps, shape="cosine")
    for left in (1, 2, 10):
        np.testing.assert_allclose(schedule(steps - left), np.sin(np.pi / 2 * left / steps) ** 2, rtol=1e-5)
    assert schedule(steps) == 0.0


def test_a_shift_does_not_wrap_around():
    assert gx.shift_schedule(gx.linear_schedule(0.0, 1.0, 10), 2**31 - 1)(jnp.int32(2**31 - 1)) == 1.0


def test_a_chain_begins_with_lr_over_warmup():
    """A count that starts at 1, as in hand-written loops: lr / warmup at the first step."""
    schedule = gx.shift_schedule(gx.warmup_constant_schedule(0.0, 0.1, 5), 1)
    tx = gx.sgd(schedule)
    x = jnp.ones(1)
    np.testing.assert_allclose(tx.update(x, tx.init(x))[0], -0.1 / 5, rtol=1e-6)


@pytest.mark.parametrize("make", [gx.sgd, gx.inject_hyperparams(gx.sgd)])
def test_a_cycle_drives_the_rate_and_the_momentum(make):
    pair = gx.one_cycle_schedule(0.1, 20)
    tx = gx.chain(gx.clip(10.0), make(*pair))
    x = jnp.ones(1)
    state, velocity = tx.init(x), 0.0
    for t in range(25):
        updates, state = tx.update(x, state)
        velocity = float(pair.momentum(t)) * velocity + 1.0
        np.testing.assert_allclose(updates, [-float(pair.learning_rate(t)) * velocity], rtol=1e-5)


def test_a_cycle_drives_b1():
    pair = gx.cyclic_with_momentum(0.01, 0.1, 5)
    tx = gx.inject_hyperparams(gx.adamw)(pair.learning_rate, b1=pair.momentum)
    x = jnp.ones(1)
    state = tx.init(x)
    for t in range(12):
        updates, state = tx.update(x, state, x)
        np.testing.assert_allclose(state.hyperparams["b1"], pair.momentum(t), rtol=1e-6)
        assert updates[0] < 0


def test_a_sweep_over_peaks():
    peaks = jnp.array([0.1, 0.2])
    rates = jax.vmap(lambda peak: gx.one_cycle_schedule(peak, 20).learning_rate(jnp.int32(6)))(peaks)
    np.testing.assert_allclose(rates, peaks, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gx.step_schedule(1.0, 0), r"step_schedule: step_size must be at least 1"),
        (lambda: gx.step_schedule(1.0, 5, 0.0), r"step_schedule: gamma must be more than 0, got 0.0"),
        (lambda: gx.multi_step_schedule(1.0, [-5]), r"the milestone -5 must be at least 0"),
        (lambda: gx.inverse_time_schedule(1.0, 0, 0.5), r"inverse_time_schedule: transition_steps must"),
        (lambda: gx.inverse_time_schedule(1.0, 5, -0.5), r"decay_rate must be at least 0"),
        (lambda: gx.inverse_sqrt_schedule(0.0, 1.0, 0), r"timescale must be more than 0, got None with 0"),
        (lambda: gx.wsd_schedule(0.0, 1.0, 5, 5, 0), r"wsd_schedule: decay_steps must be at least 1"),
        (lambda: gx.wsd_schedule(0.0, 1.0, 5, -5, 5), r"wsd_schedule: stable_steps must be at least 0"),
        (
            lambda: gx.wsd_schedule(0.0, 1.0, 5, 5, 5, shape="sqrt"),
            r"shape must be 'linear', 'cosine' or '1-sqrt', got 'sqrt'",
        ),
        (lambda: gx.cosine_restarts_schedule(1.0, 0), r"cosine_restarts_schedule: decay_steps must be at le"),
        (lambda: gx.cosine_restarts_schedule(1.0, 5, 1.5), r"t_mult must be an integer, got 1.5"),
        (lambda: gx.sgdr_schedule([]), r"give at least one schedule"),
        (lambda: gx.cyclic_schedule(0.0, 1.0, 0), r"cyclic_schedule: step_size_up must be at least 1"),
        (lambda: gx.cyclic_schedule(0.0, 1.0, 5, mode="saw"), r"mode must be 'triangular', .*, got 'saw'"),
        (lambda: gx.cyclic_schedule(0.0, 1.0, 5, gamma=-1.0), r"gamma must be more than 0, got -1.0"),
        (lambda: gx.one_cycle_schedule(1.0, 0), r"one_cycle_schedule: transition_steps must be at least 1"),
        (lambda: gx.one_cycle_schedule(1.0, 9, 1.0), r"pct_start must be at least 0 and less than 1, got 1"),
        (
            lambda: gx.one_cycle_schedule(1.0, 9, 0.6, three_phase=True),
            r"pct_start must be at least 0 and at most 0.5 in three phases, got 0.6",
        ),
        (lambda: gx.one_cycle_schedule(1.0, 9, div_factor=0.0), r"factors must be more than 0, got 0.0"),
        (
            lambda: gx.one_cycle_schedule(1.0, 9, shape="cos"),
            r"shape must be 'cosine' or 'linear', got 'cos'",
        ),
        (
            lambda: gx.one_cycle_schedule(1.0, 2, inclusive=True),
            r"of at least 1, got 0.3 \* 2",
        ),
        (lambda: gx.linear_onecycle_schedule(0, 1.0), r"linear_onecycle_schedule: transition_steps must be"),
        (lambda: gx.cosine_onecycle_schedule(0, 1.0), r"cosine_onecycle_schedule: transition_steps must be"),
        (lambda: gx.knots_schedule({}), r"give the value of at least one step"),
        (lambda: gx.knots_schedule({-1: 0.0}), r"the step -1 must be at least 0"),
        (lambda: gx.knots_schedule({1: 0.0}, "1-sqrt"), r"shape must be 'linear' or 'cosine', got '1-sqrt'"),
        (
            lambda: gx.piecewise_interpolate_schedule("cos", 1.0),
            r"interpolate_type must be 'linear' or 'cosine', got 'cos'",
        ),
        (
            lambda: gx.piecewise_interpolate_schedule("linear", 1.0, {5: -0.1}),
            r"the scale at 5 must be at least 0",
        ),
        (lambda: gx.piecewise_interpolate_schedule("linear", 1.0, {-5: 1.0}), r"the boundary -5 must be at"),
        (lambda: gx.product_schedule([]), r"product_schedule: give at least one schedule"),
        (lambda: gx.shift_schedule(gx.constant_schedule(1.0), 0.5), r"steps must be an integer .*, got 0.5"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [lambda: gx.product_schedule([0.1]), lambda: gx.shift_schedule(0.1, 1)])
def test_a_number_is_not_a_schedule(make):
    with pytest.raises(TypeError, match=r"0\.1 is not a schedule; see constant_schedule"):
        make()
