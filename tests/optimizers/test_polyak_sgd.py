"""Polyak's step size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx

P = jnp.array([3.0, 4.0])


def first(tx, g, value):
    return tx.update(g, tx.init(g), g, value=value)[0]


def test_steps_to_the_minimum_of_a_line():
    """f = ‖p‖ has the minimum 0, and one step of any scale of it is there."""
    for scale in (1.0, 10.0):
        u = first(gx.polyak_sgd(max_learning_rate=1e3), scale * P / 5, value=5 * scale)
        np.testing.assert_allclose(u, -P, rtol=1e-6)


def test_the_step_is_bounded_and_scaled():
    np.testing.assert_allclose(first(gx.polyak_sgd(0.1), P, 100.0), -0.1 * P, rtol=1e-6)
    np.testing.assert_allclose(first(gx.polyak_sgd(0.1, scaling=0.5), P, 100.0), -0.05 * P, rtol=1e-6)


def test_below_the_least_value():
    np.testing.assert_allclose(first(gx.scale_by_polyak(f_min=1.0), P, 0.0), -P / 25, rtol=1e-6)
    np.testing.assert_array_equal(first(gx.scale_by_polyak(f_min=1.0, variant="sps+"), P, 0.0), 0 * P)


def test_at_a_gradient_of_zero_it_stays():
    np.testing.assert_array_equal(first(gx.polyak_sgd(), 0 * P, 1.0), 0 * P)


def test_a_loss_of_inf_does_not_move_where_the_gradient_is_zero():
    tx = gx.scale_by_polyak(max_learning_rate=float("inf"))
    np.testing.assert_array_equal(first(tx, 0 * P, jnp.inf), 0 * P)


def test_the_loss_has_a_finite_derivative_where_the_gradient_is_zero():
    slope = jax.grad(lambda value: jnp.sum(first(gx.polyak_sgd(), 0 * P, value)))(0.0)
    assert slope == 0.0


def test_what_is_not_finite_is_not_hidden():
    assert jnp.all(jnp.isnan(first(gx.polyak_sgd(), P, jnp.nan)))


def test_says_what_is_wrong():
    tx = gx.polyak_sgd()
    with pytest.raises(TypeError, match="scale_by_polyak needs 'value': call update"):
        tx.update(P, tx.init(P), P)
    with pytest.raises(ValueError, match="variant must be 'sps' or 'sps\\+', got 'ps'"):
        gx.polyak_sgd(variant="ps")
    with pytest.raises(ValueError, match="polyak_sgd: scaling must be at least 0 and finite, got -1"):
        gx.polyak_sgd(scaling=-1.0)


@pytest.mark.parametrize("scaling", [0.5, optax.constant_schedule(0.5)])
def test_the_state_is_nested_as_in_optax(scaling):
    ours, theirs = (m.polyak_sgd(scaling=scaling).init(P) for m in (gx, optax))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    u, state = gx.polyak_sgd(scaling=scaling).update(P, theirs, P, value=1.0)
    assert jax.tree.structure(state) == jax.tree.structure(theirs)
    np.testing.assert_allclose(u, -0.5 * P / 25, rtol=1e-6)
