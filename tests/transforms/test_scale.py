"""Multiplying by numbers, schedules and signs."""

import jax.numpy as jnp
import numpy as np

import gradx as gx

X = jnp.array([2.0, 0.0, -3.0])


def update(tx):
    return np.asarray(tx.update(X, tx.init(X))[0])


def test_each_scale():
    np.testing.assert_array_equal(update(gx.scale(-2.0)), [-4.0, 0.0, 6.0])
    np.testing.assert_array_equal(update(gx.scale_by_learning_rate(0.5)), [-1.0, 0.0, 1.5])
    np.testing.assert_array_equal(update(gx.scale_by_learning_rate(0.5, flip_sign=False)), [1.0, 0.0, -1.5])
    np.testing.assert_array_equal(update(gx.scale_by_sign()), [1.0, 0.0, -1.0])
    np.testing.assert_array_equal(update(gx.scale_by_schedule(lambda step: 3.0)), [6.0, 0.0, -9.0])


def test_states_are_those_of_optax():
    assert gx.scale(1.0).init(X) == gx.EmptyState()
    assert gx.scale_by_learning_rate(1.0).init(X) == gx.EmptyState()
    assert isinstance(gx.scale_by_learning_rate(lambda step: 1.0).init(X), gx.ScaleByScheduleState)
    assert isinstance(gx.scale_by_schedule(lambda step: 1.0).init(X), gx.ScaleByScheduleState)
