"""`early_stopping`: when it stops, what it keeps, and that a scan ends as a loop that breaks."""

import copy
import functools
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.training.early_stopping import EarlyStopping as FlaxEarlyStopping
from hypothesis import given, settings
from hypothesis import strategies as st

import gradx as gx
from tests.problems import aval, params

NAN = float("nan")


def reference(values, patience, min_delta, mode):
    """The scalars of the state, from a loop that breaks."""
    sign = 1 if mode == "min" else -1
    best, best_step, bad = sign * math.inf, -1, 0
    for step, value in enumerate(values):
        if sign * value < sign * best - min_delta:
            best, best_step, bad = value, step, 0
        else:
            bad += 1
        if bad > patience:
            return step + 1, best, best_step, bad, True
    return len(values), best, best_step, bad, False


@functools.partial(jax.jit, static_argnums=0)
def scanned(stopping, values):
    """The last state of a scan over evaluations, whose parameters are their number, 0 first."""
    step = lambda state, x: (stopping.update(state, x[0], {"w": jnp.full(2, x[1])}), None)
    start = stopping.init({"w": jnp.full(2, -1.0)})
    return jax.lax.scan(step, start, (values, jnp.arange(float(len(values)))))[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([NAN, math.inf, -math.inf, -2.0, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0]),
        min_size=20,
        max_size=20,
    ),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([0.0, 0.25, 1.0]),
    st.sampled_from(["min", "max"]),
)
def test_is_the_loop_that_breaks(values, patience, min_delta, mode):
    state = scanned(gx.early_stopping(patience, min_delta, mode), jnp.array(values))
    expected = reference(values, patience, min_delta, mode)
    assert tuple(x.item() for x in state[:-1]) == expected
    np.testing.assert_array_equal(state.best_params["w"], expected[2])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([NAN, -2.0, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0]), min_size=12, max_size=12),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([0.0, 0.25, 1.0]),
)
def test_stops_where_flax_does(values, patience, min_delta):
    """But for a NaN at first, which Flax takes for the best."""
    values = [1.0, *values]
    theirs, steps = FlaxEarlyStopping(min_delta=min_delta, patience=patience), len(values)
    for i, value in enumerate(values):
        theirs = theirs.update(value)
        if theirs.should_stop:
            steps = i + 1
            break
    ours = scanned(gx.early_stopping(patience, min_delta), jnp.array(values))
    assert (ours.step, ours.best, ours.num_bad) == (steps, theirs.best_metric, theirs.patience_count)
    assert ours.should_stop == theirs.should_stop


def test_in_a_while_loop_it_ends_the_training():
    """Descent on one loss, watched on another: the best parameters are those nearest to its minimum."""
    stopping, tx = gx.early_stopping(3), gx.sgd(0.05)
    watched = lambda p: jnp.sum((p - 0.5) ** 2)

    def step(carry):
        p, state, stop = carry
        updates, state = tx.update(2 * (p - 1.0), state, p)
        p = gx.apply_updates(p, updates)
        return p, state, stopping.update(stop, watched(p), p)

    start = jnp.zeros(2), tx.init(jnp.zeros(2)), stopping.init(jnp.zeros(2))
    p, _, stop = jax.jit(lambda c: jax.lax.while_loop(lambda c: ~c[-1].should_stop, step, c))(start)
    path = 1 - 0.9 ** np.arange(1, 20)
    best = int(np.argmin(abs(path - 0.5)))
    assert (stop.best_step, stop.step) == (best, best + 1 + 4)
    np.testing.assert_allclose(stop.best_params, path[best], rtol=1e-5)
    np.testing.assert_allclose(p, path[best + 4], rtol=1e-5)


def test_runs_side_by_side_stop_on_their_own():
    stopping = gx.early_stopping(1)
    values = jnp.array([[3.0, 2.0, 1.0, 0.5], [3.0, 4.0, 5.0, 0.0]])
    states = jax.vmap(lambda v: scanned(stopping, v))(values)
    np.testing.assert_array_equal(states.should_stop, [False, True])
    np.testing.assert_array_equal(states.best, [0.5, 3.0])
    np.testing.assert_array_equal(states.best_params["w"], [[3.0] * 2, [0.0] * 2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_state_keeps_its_type_and_its_own_buffers(dtype):
    stopping, p = gx.early_stopping(2), params(jnp.dtype(dtype))
    p["step"] = jnp.int32(7)
    state = stopping.init(p)
    leaves = [*jax.tree.leaves(state), *jax.tree.leaves(p)]
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
    assert aval(jax.eval_shape(stopping.update, state, 1.0, p)) == aval(state)
    assert aval(state.best_params) == aval(p)
    expected = [np.asarray(x, float) for x in jax.tree.leaves(p)]
    update = jax.jit(stopping.update, donate_argnums=0)
    state = update(update(state, 1.0, p), 2.0, jax.tree.map(jnp.zeros_like, p))  # p is still there
    for x, y in zip(jax.tree.leaves(state.best_params), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(x, float), y)


def test_the_state_is_float64_under_x64(x64):
    state = gx.early_stopping(0).init(jnp.ones(2))
    assert state.best.dtype == jnp.float64
    assert aval(gx.early_stopping(0).update(state, np.float32(1.0), jnp.ones(2, jnp.float64))) == aval(state)


def test_without_parameters_none_are_kept():
    stopping = gx.early_stopping(0, keep_params=False)
    state = stopping.init()
    for value in (1.0, 2.0):
        state = jax.jit(stopping.update)(state, value)
    assert state.should_stop
    assert state.best_params is None


def test_it_keeps_averages_too():
    """What is evaluated is what is kept."""
    tx, stopping, p = gx.chain(gx.sgd(1.0), gx.ema_params(0.5)), gx.early_stopping(5), jnp.zeros(1)
    state = tx.init(p)
    stop = stopping.init(gx.eval_params(state, p))
    for g in (-1.0, -1.0, 5.0):
        updates, state = tx.update(jnp.full(1, g), state, p)
        p = gx.apply_updates(p, updates)
        evaluated = gx.eval_params(state, p)
        stop = stopping.update(stop, -evaluated[0], evaluated)
    np.testing.assert_allclose(stop.best_params, [5 / 3], rtol=1e-6)


def test_equal_calls_are_equal_and_printed_as_such():
    stopping = gx.early_stopping(3, mode="max")
    for other in (pickle.loads(pickle.dumps(stopping)), copy.deepcopy(stopping)):
        assert other == stopping
        assert hash(other) == hash(stopping)
    assert repr(stopping) == "early_stopping(3, mode='max')"
    assert stopping != gx.early_stopping(3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((-1,), "early_stopping: patience must be at least 0"),
        ((3, -0.1), "early_stopping: min_delta must be at least 0"),
        ((3, NAN), "early_stopping: min_delta must be at least 0"),
        ((3, 0.0, "less"), "early_stopping: mode must be 'min' or 'max', got 'less'"),
    ],
)
def test_bad_values_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        gx.early_stopping(*args)


def test_what_is_wrong_is_named():
    stopping, p = gx.early_stopping(1), {"w": jnp.ones(2)}
    keeps = r"keeps the best parameters: call init\(params\) and update\(state, value, params\), or make it"
    with pytest.raises(TypeError, match=keeps):
        stopping.init()
    state = stopping.init(p)
    with pytest.raises(TypeError, match=keeps):
        stopping.update(state, 1.0)
    with pytest.raises(ValueError, match=r"value must be one number, got an array of shape \(2,\)"):
        stopping.update(state, jnp.ones(2), p)
    with pytest.raises(
        ValueError, match=r"\['b'\] is in the parameters given, but not in the best parameters"
    ):
        stopping.update(state, 1.0, {"w": jnp.ones(2), "b": jnp.ones(2)})
    with pytest.raises(
        ValueError, match=r"at \['w'\]: the parameter has shape \(3,\), and should have \(2,\)"
    ):
        stopping.update(state, 1.0, {"w": jnp.ones(3)})
