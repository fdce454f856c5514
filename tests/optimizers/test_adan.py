"""Adan: the first step, and corrections that stay exact when the betas change."""

import jax.numpy as jnp
import numpy as np

import gradx as gx


def test_the_first_step_knows_no_difference():
    tx = gx.scale_by_adan(eps=0.0)
    u, state = tx.update(jnp.array([3.0, -0.5]), tx.init(jnp.ones(2)))
    np.testing.assert_allclose(u, [1.0, -1.0], rtol=1e-6)
    np.testing.assert_array_equal(state.v, 0.0)
    np.testing.assert_array_equal(state.g, [3.0, -0.5])
    assert state.t == 1


def test_a_constant_gradient_gives_its_sign_whatever_the_schedules():
    """m and n are means with weights that add up to 1, so m̂ = g and n̂ = g² at every step."""
    cycle = lambda step: jnp.where(step % 2 == 0, 0.9, 0.3)
    tx = gx.scale_by_adan(b1=cycle, b2=lambda step: 0.5, b3=lambda step: 1 - cycle(step), eps=0.0)
    g = jnp.array([3.0, -0.5])
    state = tx.init(g)
    for _ in range(10):
        u, state = tx.update(g, state)
        np.testing.assert_allclose(u, [1.0, -1.0], rtol=1e-5)
