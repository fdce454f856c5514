"""Averages of the parameters: their weights, against sums in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradx as gx
from tests.problems import aval, grads

STEPS = 12


def run(tx, p, gradients):
    """The parameters after each step, and what the state says to evaluate with."""

    @jax.jit  # so that the parameters and their average come from one sum
    def step(g, state, p):
        u, state = tx.update(g, state, p)
        return gx.apply_updates(p, u), state

    state, seen, averages = tx.init(p), [], []
    for g in gradients:
        p, state = step(g, state, p)
        seen.append(p)
        averages.append(gx.eval_params(state, p))
    return seen, averages


def weighted(points, weights):
    weights = np.asarray(weights, np.float64)
    return np.tensordot(weights / weights.sum(), np.stack(points), 1)


def reference(p, seen, t, start, every, decay=None, debias=True):
    """The average after step t, as a sum over the parameters that are in it."""
    steps = [s for s in range(1, t + 1) if s > start and (s - start) % every == 0]
    points = [np.asarray(seen[s - 1], np.float64) for s in steps]
    if not steps:
        return np.asarray(seen[t - 1], np.float64)
    if decay is None:
        return weighted(points, np.ones(len(points)))
    rates = [decay(s - 1) if callable(decay) else decay for s in steps]
    weights = [(1 - d) * np.prod(rates[i + 1 :]) for i, d in enumerate(rates)]
    if debias:
        return weighted(points, weights)
    before = seen[start + every - 2] if start + every > 1 else p  # what the average began with
    return weighted([np.asarray(before), *points], [np.prod(rates), *weights])


@pytest.mark.parametrize(("start", "every"), [(0, 1), (5, 1), (0, 3), (4, 2), (100, 1)])
@pytest.mark.parametrize(
    ("make", "kwargs"),
    [
        (gx.average_params, {}),
        (gx.ema_params, dict(decay=0.9)),
        (gx.ema_params, dict(decay=0.9, debias=False)),
        (gx.ema_params, dict(decay=gx.linear_schedule(0.0, 0.9, 10))),
        (gx.ema_params, dict(decay=gx.linear_schedule(0.5, 0.9, 10), debias=False)),
    ],
    ids=lambda x: getattr(x, "__name__", repr(x)),
)
def test_is_the_weighted_sum(make, kwargs, start, every, x64):
    p = np.zeros(3)
    gradients = [np.random.default_rng(i).standard_normal(3) for i in range(STEPS)]
    seen, averages = run(gx.chain(gx.sgd(0.3), make(start=start, every=every, **kwargs)), p, gradients)
    for t in range(1, STEPS + 1):
        expected = reference(p, seen, t, start, every, **kwargs)
        np.testing.assert_allclose(averages[t - 1], expected, rtol=1e-12, atol=1e-14)


def test_until_the_first_it_is_the_parameters_to_the_bit():
    p = {"w": jnp.ones(3), "none": None}
    for tx in (
        gx.average_params(4, every=2),
        gx.ema_params(0.9, start=5),
        gx.ema_params(0.9, start=5, debias=False),
    ):
        chain = gx.chain(gx.sgd(0.1), tx)
        jax.tree.map(np.testing.assert_array_equal, gx.eval_params(chain.init(p), p), p)
        seen, averages = run(chain, p, [grads(i, p) for i in range(5)])
        jax.tree.map(np.testing.assert_array_equal, averages, seen)


def test_updates_pass_as_they_are():
    p = {"w": jnp.ones(2, jnp.bfloat16), "none": None}
    g = {"w": jnp.ones(2, jnp.bfloat16), "none": None}
    for tx in (gx.average_params(), gx.ema_params(0.9)):
        u, _ = tx.update(g, tx.init(p), p)
        assert aval(u) == aval(g)
        jax.tree.map(np.testing.assert_array_equal, u, g)


@pytest.mark.parametrize("make", [gx.average_params, lambda: gx.ema_params(0.99)])
def test_the_average_of_16_bit_parameters_is_of_what_they_become(make):
    """A step of 1/512 from 1 is lost in bf16: the parameters stay, and so must their average."""
    p = jnp.ones(2, jnp.bfloat16)
    tx = gx.chain(gx.sgd(1.0), make())
    state = tx.init(p)
    for _ in range(20):
        u, state = tx.update(jnp.full(2, 2.0**-9, jnp.bfloat16), state, p)
        p = gx.apply_updates(p, u)
    assert (p == 1).all()
    average = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, gx.AverageParamsState))[-1].average
    assert average.dtype == jnp.float32
    np.testing.assert_array_equal(average, 1.0)
    assert gx.eval_params(state, p).dtype == jnp.bfloat16


def test_a_long_average_does_not_stall():
    """100,000 steps of an average with decay 0.9999, in float32, within 1e-3 of the sum in float64."""
    tx = gx.ema_params(0.9999)
    x = jnp.sin(jnp.arange(100_000.0) / 1e4)

    def step(state, p):
        return tx.update(jnp.zeros(()), state, p)[1], None

    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, x))(tx.init(x[0]))
    weights = 0.9999 ** np.arange(100_000)[::-1]
    expected = weighted(list(np.asarray(x, np.float64)), weights)
    np.testing.assert_allclose(gx.eval_params(state, x[-1]), expected, atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 6),
    st.integers(1, 4),
    st.floats(0.0, 0.99),
    st.booleans(),
    st.floats(-10, 10),
    st.floats(0.1, 10),
)
def test_an_average_is_between_and_moves_with_its_parameters(start, every, decay, debias, shift, size):
    """The average of a x + b is a times that of x, plus b; and it is never outside of what it is of."""
    tx = gx.ema_params(decay, debias=debias, start=start, every=every)

    @jax.jit
    def average(points):
        step = lambda state, p: (tx.update(jnp.zeros(()), state, p)[1], None)
        return gx.eval_params(jax.lax.scan(step, tx.init(points[0]), points)[0], points[-1])

    x = jnp.asarray(np.random.default_rng(0).standard_normal(8), jnp.float32)
    assert x.min() - 1e-6 <= average(x) <= x.max() + 1e-6
    np.testing.assert_allclose(average(size * x + shift), size * average(x) + shift, rtol=1e-4, atol=1e-4)


def test_a_decay_can_be_changed_and_swept():
    tx = gx.inject_hyperparams(gx.ema_params)(0.5)
    p = jnp.zeros(())

    def last(decay):
        state = gx.set_hyperparams(tx.init(p), decay=decay)
        for x in (1.0, 2.0, 4.0):
            _, state = tx.update(jnp.zeros(()), state, jnp.asarray(x))
        return gx.eval_params(state, p)

    expected = [weighted([1.0, 2.0, 4.0], [d * d, d, 1.0]) for d in (0.0, 0.5, 0.9)]
    np.testing.assert_allclose(jax.vmap(last)(jnp.array([0.0, 0.5, 0.9])), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: gx.ema_params(1.1),
            ValueError,
            "ema_params: decay must be between 0 and 1, got 1.1",
        ),
        (lambda: gx.ema_params(0.9, start=-1), ValueError, "ema_params: start must be at least 0, got -1"),
        (
            lambda: gx.average_params(every=0),
            ValueError,
            "average_params: every must be an integer of at least 1, got 0",
        ),
        (
            lambda: gx.ema_params(0.9, every=0.5),
            ValueError,
            "ema_params: every must be an integer of at least 1, got 0.5",
        ),
        (lambda: gx.ema_params("0.9"), TypeError, "ema_params: decay must be a number"),
    ],
)
def test_bad_values_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("tx", [gx.ema_params(0.9), gx.average_params()], ids=repr)
def test_what_is_wrong_is_named(tx):
    name = repr(tx).partition("(")[0]
    p = {"w": jnp.ones(2)}
    state = tx.init(p)
    with pytest.raises(
        ValueError, match=rf"{name} needs the parameters: call update\(updates, state, params\)"
    ):
        tx.update(p, state)
    with pytest.raises(
        ValueError, match=rf"{name}, at \['w'\]: average has shape \(2,\), and should have \(3,\)"
    ):
        tx.update({"w": jnp.ones(3)}, state, {"w": jnp.ones(3)})
