"""lookahead: plain parameters, slow ones in the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx
from tests.problems import aval, grads, params


def run(tx, p, gradients):
    """The parameters after each step, and the last state."""
    state, seen = tx.init(p), []
    for g in gradients:
        u, state = tx.update(g, state, p)
        p = gx.apply_updates(p, u)
        seen.append(p)
    return seen, state


def test_goes_half_of_the_way_at_every_third_step():
    seen, state = run(gx.lookahead(gx.sgd(1.0), 3, 0.5), jnp.zeros(1), [-jnp.ones(1)] * 6)
    np.testing.assert_allclose(jnp.stack(seen).ravel(), [1.0, 2.0, 1.5, 2.5, 3.5, 3.0])
    np.testing.assert_array_equal(state.slow_params, [3.0])
    assert state.slow_state.count == 6


def test_is_that_of_optax_on_pairs(x64, lenient):
    p = params(jnp.float64)
    gradients = [grads(i, p) for i in range(20)]
    seen, _ = run(gx.lookahead(gx.adam(0.1), 3, 0.2), p, gradients)
    tx = optax.lookahead(optax.adam(0.1), 3, 0.2)
    pair = optax.LookaheadParams.init_synced(p)
    state = tx.init(pair)
    for g, ours in zip(gradients, seen, strict=True):
        u, state = tx.update(g, state, pair)
        pair = optax.apply_updates(pair, u)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-12), ours, pair.fast)


def test_takes_pairs_of_parameters_as_optax_does(lenient):
    """The slow ones may start elsewhere than the fast ones; both get updates, and the state has the slow."""
    p = params()
    start = optax.LookaheadParams(fast=p, slow=jax.tree.map(lambda x: x + 1, p))
    gradients = [grads(i, p) for i in range(4)]
    txs = (gx.lookahead(gx.sgd(0.1), 2, 0.2), optax.lookahead(optax.sgd(0.1), 2, 0.2))
    (ours, state), (theirs, _) = jax.jit(lambda pair: [run(tx, pair, gradients) for tx in txs])(start)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), ours, theirs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), state.slow_params, ours[-1].slow)


@pytest.mark.parametrize("slow_step_size", [0.0, 1.0])
def test_the_whole_way_is_the_fast_optimizer_and_no_way_is_none(slow_step_size):
    p, gradients = jnp.ones(3), [jnp.array([1.0, -2.0, 0.5])] * 4
    seen, _ = run(gx.lookahead(gx.adam(0.1), 2, slow_step_size), p, gradients)
    alone, _ = run(gx.adam(0.1), p, gradients)
    np.testing.assert_allclose(seen[-1], alone[-1] if slow_step_size else p, rtol=1e-6)


def test_reset_starts_the_fast_state_anew():
    kept, reset = (gx.lookahead(gx.adam(0.1), 2, reset_state=reset) for reset in (False, True))
    g = [jnp.full(2, float(i + 1)) for i in range(4)]
    _, before = run(reset, jnp.ones(2), g[:3])
    assert before.fast_state[0].count == 1
    _, after = run(reset, jnp.ones(2), g)
    assert aval(after.fast_state) == aval(reset.init(jnp.ones(2)).fast_state)
    assert all(not jnp.any(x) for x in jax.tree.leaves(after.fast_state))
    assert run(kept, jnp.ones(2), g)[1].fast_state[0].count == 4


def test_a_reset_starts_at_the_new_parameters():
    """An inner lookahead begins again with slow weights equal to the outer ones."""
    tx = gx.lookahead(gx.lookahead(gx.sgd(1.0), 4), 2, reset_state=True)
    seen, state = run(tx, jnp.zeros(1), [-jnp.ones(1)] * 2)
    np.testing.assert_array_equal(state.fast_state.slow_params, seen[-1])
    np.testing.assert_array_equal(state.slow_params, seen[-1])


def test_16_bit_parameters_have_slow_ones_in_float32():
    """Steps of 2**-11 of bf16 ones: too small to be seen alone, kept where they are added up."""
    p = jnp.ones(1, jnp.bfloat16)
    seen, state = run(gx.lookahead(gx.sgd(2.0**-7), 1, 2.0**-4), p, [jnp.ones(1, jnp.bfloat16)] * 16)
    assert state.slow_params.dtype == jnp.float32
    assert seen[-1] < 1
    assert seen[-1] == state.slow_params.astype(jnp.bfloat16)


def test_takes_any_transformation_and_passes_arguments_on(lenient):
    p = jnp.array([1.0, 2.0])
    tx = gx.lookahead(optax.polyak_sgd(), 2)
    u, state = tx.update(p, tx.init(p), p, value=2.5)
    np.testing.assert_allclose(u, -0.5 * p)
    u, _ = tx.update(u, state, p, value=0.0)
    np.testing.assert_allclose(p + u, p)


def test_a_nan_in_the_updates_spares_the_slow_parameters():
    tx = gx.lookahead(gx.sgd(1.0), 3)
    p = jnp.ones(1)
    _, state = tx.update(jnp.array([jnp.nan]), tx.init(p), p)
    np.testing.assert_array_equal(state.slow_params, [1.0])


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="sync_period must be an integer of at least 1, got 0"):
        gx.lookahead(gx.sgd(1.0), 0)
    with pytest.raises(ValueError, match=r"sync_period must be an integer of at least 1, got 2\.5"):
        gx.lookahead(gx.sgd(1.0), 2.5)
    with pytest.raises(ValueError, match="slow_step_size must be between 0 and 1, got 2"):
        gx.lookahead(gx.sgd(1.0), 2, 2.0)
    with pytest.raises(TypeError, match="the fast optimizer of lookahead is not a gradient transformation"):
        gx.lookahead(gx.sgd, 2)
    tx = gx.lookahead(gx.sgd(1.0))
    with pytest.raises(ValueError, match="lookahead needs the parameters"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
