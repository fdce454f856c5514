"""trace and ema: the two memories, and that they are not the same."""

import jax.numpy as jnp
import numpy as np

import gradx as gx


def moves(tx, gradients):
    x = jnp.zeros(1)
    state, seen = tx.init(x), []
    for g in gradients:
        u, state = tx.update(jnp.array([g]), state)
        seen.append(float(u[0]))
    return seen


def test_trace_is_a_decaying_sum():
    np.testing.assert_allclose(moves(gx.trace(0.5), [1.0, 1.0, 0.0]), [1.0, 1.5, 0.75])
    np.testing.assert_allclose(moves(gx.trace(0.5, nesterov=True), [1.0, 1.0, 0.0]), [1.5, 1.75, 0.375])


def test_ema_is_a_mean_and_unbiased():
    np.testing.assert_allclose(moves(gx.ema(0.5), [1.0, 1.0, 1.0]), [1.0, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(moves(gx.ema(0.5, debias=False), [1.0, 1.0, 0.0]), [0.5, 0.75, 0.375])


def test_the_learning_rate_outside_or_inside_the_velocity():
    """Equal at a constant rate, not under a schedule: the place of the link decides."""
    schedule = gx.linear_schedule(1.0, 0.0, 4)
    outside = gx.chain(gx.trace(0.9), gx.scale_by_learning_rate(schedule))
    inside = gx.chain(gx.scale_by_learning_rate(schedule), gx.trace(0.9))
    np.testing.assert_allclose(moves(outside, [1.0, 1.0]), [-1.0, -0.75 * 1.9], rtol=1e-6)
    np.testing.assert_allclose(moves(inside, [1.0, 1.0]), [-1.0, -0.9 - 0.75], rtol=1e-6)
