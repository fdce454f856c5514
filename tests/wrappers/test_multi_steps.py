"""MultiSteps: Optax's, call by call, but for what is wrong there."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import aval, grads, params

pytestmark = pytest.mark.usefixtures("lenient")


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def large(module):
    return functools.partial(module.skip_large_updates, max_squared_norm=100.0)


CASES = {
    "mean": lambda m: dict(every_k_schedule=3),
    "sum": lambda m: dict(every_k_schedule=2, use_grad_mean=False),
    "schedule": lambda m: dict(every_k_schedule=lambda n: 1 + n),
    "finite": lambda m: dict(every_k_schedule=2, should_skip_update_fn=m.skip_not_finite),
    "large": lambda m: dict(every_k_schedule=2, should_skip_update_fn=large(m)),
}


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES.keys())
def test_is_that_of_optax(arguments):
    """Parameters, counts and what a skip function found, at every call; and the states may be exchanged."""
    p = q = params()
    ours, theirs = (m.MultiSteps(m.sgd(0.1, momentum=0.9), **arguments(m)) for m in (gx, optax))
    s, t = ours.init(p), theirs.init(q)
    assert aval(s) == aval(t)
    update, reference = jax.jit(ours.update), jax.jit(theirs.update)
    skips = arguments(gx).get("should_skip_update_fn")
    for i in range(8):
        g = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan) if skips and i == 2 else x, grads(i, p))
        v, exchanged = update(g, t, q)  # from their state
        u, s = update(g, s, p)
        w, t = reference(g, t, q)
        p, q = gx.apply_updates(p, u), optax.apply_updates(q, w)
        close(p, q)
        close(v, w)
        for field in ("mini_step", "gradient_step", "inner_opt_state", "skip_state"):
            close(getattr(s, field), getattr(t, field))
            close(getattr(exchanged, field), getattr(t, field))
        if s.mini_step:
            close(s.acc_grads, t.acc_grads)
        assert aval(s) == aval(t)
        skipped = skips is not None and s.skip_state["should_skip"]
        assert ours.has_updated(s) == (theirs.has_updated(t) and not skipped)


def test_has_the_arguments_of_optax():
    ours, theirs = inspect.signature(gx.MultiSteps), inspect.signature(optax.MultiSteps)
    assert list(ours.parameters) == list(theirs.parameters)
    for name in ("skip_not_finite", "skip_large_updates"):
        ours, theirs = (inspect.signature(getattr(m, name)) for m in (gx, optax))
        assert list(ours.parameters) == list(theirs.parameters)
    tx = gx.MultiSteps(gx.sgd(0.1), 2)
    assert tx.inner_opt == gx.sgd(0.1)
    assert tx.gradient_transformation() is tx
    assert tx == gx.MultiSteps(gx.sgd(0.1), 2)


def test_skip_functions_of_16_bit_gradients():
    """Norms in float32: that of Optax is inf in float16."""
    g = {"w": jnp.full(10, 300.0, jnp.float16), "none": None}
    skip, found = gx.skip_large_updates(g, 0, None, max_squared_norm=1e6)
    assert not skip
    np.testing.assert_allclose(found["norm_squared"], 9e5, rtol=1e-6)
    assert gx.skip_large_updates(g, 0, None, max_squared_norm=9e5)[0]
    assert gx.skip_large_updates({"w": jnp.full(1, jnp.nan)}, 0, None, max_squared_norm=1.0)[0]
    skip, found = gx.skip_not_finite({"w": jnp.array([1.0, jnp.nan, jnp.inf]), "z": jnp.zeros(2)}, 0, None)
    assert skip
    assert found["num_not_finite"] == 2
    assert not gx.skip_not_finite({}, 0, None)[0]


def test_a_skip_function_of_ones_own():
    """Every second micro-batch, by a count of its own, as it is given the steps."""
    skip = lambda updates, gradient_step, params: (updates[0] < 0, {"first": updates[0]})
    tx = gx.MultiSteps(gx.sgd(1.0), 2, should_skip_update_fn=skip)
    state, moves = tx.init(jnp.zeros(1)), []
    for value in (1.0, -5.0, -7.0, 3.0, -2.0):
        u, state = tx.update(jnp.full(1, value), state)
        moves.append(float(u[0]))
        assert state.skip_state["first"] == value
    assert moves == [0, 0, 0, -2, 0]
    assert (state.mini_step, state.gradient_step) == (0, 1)


def test_errors():
    with pytest.raises(
        ValueError, match="MultiSteps: every_k_schedule must be an integer of at least 1, got 0"
    ):
        gx.MultiSteps(gx.sgd(0.1), 0)
    tx = gx.MultiSteps(gx.sgd(0.1), 2, should_skip_update_fn=lambda *_: (jnp.ones(()), ()))
    with pytest.raises(ValueError, match="MultiSteps: should_skip_update_fn must return a bool first, got"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
    with pytest.raises(TypeError, match="MultiSteps needs a MultiStepsState, and was given a tuple"):
        tx.update(jnp.ones(1), ())
