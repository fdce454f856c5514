"""`reduce_on_plateau`: when it acts, on what, and that its state is one for scans and jits.

Whole runs are compared with torch's in tests/parity/test_torch_schedulers.py.
"""

import copy
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import aval

NAN = float("nan")


def rates(schedule, values):
    """The value that each step uses, when these are told one a step."""
    state, seen = schedule.init(), []
    update = jax.jit(lambda state, value: schedule.update(state, value=value))
    for value in values:
        seen.append(float(schedule(state)))
        state = update(state, value)
    return [*seen, float(schedule(state))]


def plateau(values, rate, factor, patience, better, cooldown=0, floor=0.0):
    """The same as a loop: the counters of the text, one decision a value."""
    best, bad, rest, seen = None, 0, 0, []
    for value in values:
        seen.append(rate)
        if (best is None and not math.isnan(value)) or (best is not None and better(value, best)):
            best, bad = value, 0
        else:
            bad += 1
        if rest:
            rest, bad = rest - 1, 0
        if bad > patience:
            rate, bad, rest = max(rate * factor, floor), 0, cooldown
    return [*seen, rate]


VALUES = list(
    2.0 * 0.8 ** np.minimum(np.arange(60), 15) + 0.01 * np.random.default_rng(1).standard_normal(60)
)
VALUES[5] = VALUES[30] = NAN


@pytest.mark.parametrize(
    ("kwargs", "better"),
    [
        (dict(), lambda new, best: new < best * (1 - 1e-4)),
        (dict(threshold=0.01, threshold_mode="abs"), lambda new, best: new < best - 0.01),
        (dict(mode="max", threshold=0.5), lambda new, best: new > best * 1.5),
        (dict(mode="max", threshold_mode="abs"), lambda new, best: new > best + 1e-4),
    ],
)
@pytest.mark.parametrize(
    "rest", [dict(patience=2), dict(patience=0, cooldown=3), dict(patience=1, floor=0.02)]
)
def test_is_the_loop(kwargs, better, rest):
    floor = rest.get("floor", 0.0)
    ours = dict(kwargs, patience=rest["patience"], cooldown=rest.get("cooldown", 0), min_value=floor)
    expected = plateau(VALUES, 1.0, 0.5, better=better, **rest)
    assert min(expected) < 0.3
    seen = rates(gx.reduce_on_plateau(1.0, 0.5, eps=0.0, **ours), VALUES)
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_patience_is_what_is_borne():
    """The first value is the best; four that are no better are one more than three."""
    assert rates(gx.reduce_on_plateau(1.0, 0.5, patience=3), [1.0] * 6) == [1.0] * 5 + [0.5] * 2


def test_nan_is_no_improvement():
    assert rates(gx.reduce_on_plateau(1.0, 0.5, patience=1), [NAN, NAN, 1.0]) == [1.0, 1.0, 0.5, 0.5]


def test_a_relative_threshold_is_of_the_absolute_value():
    """A loss below 0 that creeps up by less than the threshold does not improve, as in torch."""
    creeping = [-1.0 + 5e-5 * i for i in range(6)]
    assert rates(gx.reduce_on_plateau(1.0, 0.5, patience=3), creeping) == [1.0] * 5 + [0.5] * 2


@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_more_is_better_where_less_of_the_negative_is(threshold_mode):
    values = np.asarray(VALUES) - 0.1  # of both signs
    run = lambda mode, x: rates(gx.reduce_on_plateau(1.0, 0.5, 1, mode, 0.05, threshold_mode, eps=0.0), x)
    assert run("min", values) == run("max", -values)
    assert run("min", -values) == run("max", values)


def test_evaluations_are_means_of_several_steps():
    schedule = gx.reduce_on_plateau(1.0, 0.5, patience=0, accumulation_size=3)
    noisy = [3.0, 1.0, 2.0, 2.5, 1.0, 2.5, 0.0, 0.0, 0.3]  # means 2, 2 and 0.1
    assert rates(schedule, noisy) == [1.0] * 6 + [0.5] * 4
    means = [2.0, 2.0, 0.1]
    assert rates(gx.reduce_on_plateau(1.0, 0.5, patience=0), means) == [1.0, 1.0, 0.5, 0.5]


def test_a_schedule_is_reduced_too():
    warm = gx.warmup_constant_schedule(0.0, 1.0, 4)
    seen = rates(gx.reduce_on_plateau(warm, 0.5, patience=1, min_value=0.2), [1.0] * 9)
    np.testing.assert_allclose(seen, [0, 0.25, 0.5, 0.375, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2])


def test_a_reduction_that_is_too_small_is_left_out():
    assert rates(gx.reduce_on_plateau(1.0, 0.5, patience=0, eps=0.3), [1.0] * 5) == [1, 1, 0.5, 0.5, 0.5, 0.5]
    state = gx.reduce_on_plateau(1.0, 0.5, min_value=2.0).init()
    assert gx.reduce_on_plateau(1.0, 0.5, min_value=2.0)(state) == 1.0  # no reduction, so no bound


@pytest.mark.parametrize("hyperparameter", ["learning_rate", "weight_decay", "b1"])
def test_any_hyperparameter_follows_it(hyperparameter):
    schedule = gx.reduce_on_plateau(0.5, 0.5, patience=0)
    tx = gx.inject_hyperparams(gx.adamw)(**{"learning_rate": 0.1, hyperparameter: schedule})
    x = jnp.ones(1)
    state, seen = tx.init(x), []
    for _ in range(4):
        _, state = tx.update(x, state, x, value=1.0)
        seen.append(float(state.hyperparams[hyperparameter]))
    assert seen == [0.5, 0.5, 0.25, 0.125]


def test_it_scans_inside_a_chain_and_keeps_its_type():
    tx = gx.chain(gx.clip(1.0), gx.inject_hyperparams(gx.sgd)(gx.reduce_on_plateau(1.0, 0.5, patience=2)))
    x = jnp.ones(1)
    state = tx.init(x)

    def step(state, value):
        updates, state = tx.update(x, state, x, value=value)
        return state, updates[0]

    after, moves = jax.jit(lambda s: jax.lax.scan(step, s, jnp.ones(8)))(state)
    np.testing.assert_array_equal(moves, [-1.0] * 4 + [-0.5] * 3 + [-0.25])
    assert aval(after) == aval(state)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)


def test_the_state_is_float64_under_x64(x64):
    schedule = gx.reduce_on_plateau(1.0)
    state = schedule.update(schedule.init(), value=np.float32(1.0))
    assert aval(state) == aval(schedule.init())
    assert {x.dtype for x in state} == {jnp.dtype("int32"), jnp.dtype("float64")}


def test_a_sweep_over_initial_values():
    def run(rate):
        tx = gx.inject_hyperparams(gx.sgd)(gx.reduce_on_plateau(rate, 0.5, patience=0))
        x = jnp.ones(1)
        state = tx.init(x)
        for _ in range(3):
            updates, state = tx.update(x, state, x, value=1.0)
        return updates[0]

    np.testing.assert_allclose(jax.vmap(run)(jnp.array([1.0, 0.2])), [-0.5, -0.1], rtol=1e-6)


def test_it_serves_the_injection_of_optax(lenient):
    tx = optax.inject_hyperparams(optax.sgd)(gx.reduce_on_plateau(1.0, 0.5, patience=0))
    x = jnp.ones(1)
    state, moves = tx.init(x), []
    for _ in range(3):
        u, state = tx.update(x, state, x, value=1.0)
        moves.append(float(u[0]))
    assert moves == [-1.0, -1.0, -0.5]


def test_equal_calls_are_equal_and_printed_as_such():
    schedule = gx.reduce_on_plateau(gx.constant_schedule(0.1), patience=3)
    for other in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert other == schedule
        assert hash(other) == hash(schedule)
    assert repr(schedule) == "reduce_on_plateau(constant_schedule(0.1), patience=3)"
    assert schedule != gx.reduce_on_plateau(gx.constant_schedule(0.1), patience=4)
    tx = gx.inject_hyperparams(gx.sgd)(schedule)
    assert pickle.loads(pickle.dumps(tx)) == tx


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(factor=1.0), r"factor must be more than 0 and less than 1, got 1.0"),
        (dict(patience=-1), r"reduce_on_plateau: patience must be at least 0"),
        (dict(mode="less"), r"mode must be 'min' or 'max', got 'less'"),
        (dict(threshold_mode="both"), r"threshold_mode must be 'rel' or 'abs', got 'both'"),
        (dict(threshold=1.0), r"a relative threshold must be less than 1, got 1.0"),
        (dict(threshold=NAN), r"threshold must be at least 0"),
        (dict(cooldown=-1), r"cooldown must be at least 0"),
        (dict(accumulation_size=0), r"accumulation_size must be at least 1"),
        (dict(min_value=-0.1), r"min_value must be at least 0"),
    ],
)
def test_bad_values_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gx.reduce_on_plateau(0.1, **kwargs)


def test_what_is_missing_is_named():
    schedule = gx.reduce_on_plateau(0.1)
    tx = gx.inject_hyperparams(gx.sgd)(schedule)
    x = jnp.ones(1)
    with pytest.raises(TypeError, match=r"needs the quantity that it watches .* update\(.*, value=loss\)"):
        tx.update(x, tx.init(x), x)
    with pytest.raises(ValueError, match=r"value must be one number, got an array of shape \(2,\)"):
        tx.update(x, tx.init(x), x, value=jnp.ones(2))
    with pytest.raises(
        TypeError, match="learning_rate is a stateful schedule, which needs inject_hyperparams"
    ):
        gx.sgd(schedule)
    with pytest.raises(TypeError, match="init_value must be a number or a function of the step"):
        gx.reduce_on_plateau(schedule)
