"""Weight decay before a rule is L2, after it decoupled."""

import jax.numpy as jnp
import numpy as np

import gradx as gx


def first_update(tx, g, p):
    return tx.update(g, tx.init(p), p)[0]


def test_it_adds_a_share_of_the_parameter():
    p = jnp.array([2.0, -4.0])
    np.testing.assert_allclose(
        first_update(gx.add_decayed_weights(0.1), jnp.ones(2), p), [1.2, 0.6], rtol=1e-6
    )


def test_its_place_decides_between_l2_and_decoupled():
    """Adam divides an L2 term away: its first step is the learning rate, whatever the decay."""
    p, g = jnp.array([100.0]), jnp.array([1.0])
    rate = gx.scale_by_learning_rate(0.1)
    l2 = gx.chain(gx.add_decayed_weights(0.5), gx.scale_by_adam(), rate)
    decoupled = gx.chain(gx.scale_by_adam(), gx.add_decayed_weights(0.5), rate)
    np.testing.assert_allclose(first_update(l2, g, p), -0.1, rtol=1e-5)
    np.testing.assert_allclose(first_update(decoupled, g, p), -0.1 * (1 + 50), rtol=1e-5)


def test_a_schedule_of_the_decay():
    tx = gx.add_decayed_weights(gx.linear_schedule(0.0, 1.0, 2))
    p = jnp.array([3.0])
    state, seen = tx.init(p), []
    for _ in range(3):
        u, state = tx.update(jnp.zeros(1), state, p)
        seen.append(float(u[0]))
    assert seen == [0.0, 1.5, 3.0]
