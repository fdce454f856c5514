"""centralize: the axes of its means."""

import jax.numpy as jnp
import numpy as np
import optax

import gradx as gx


def test_each_row_has_mean_zero(lenient):
    g = {"w": jnp.array([[1.0, 2.0, 6.0], [4.0, 5.0, 6.0]]), "b": jnp.array([1.0, 3.0])}
    u, state = gx.centralize().update(g, gx.EmptyState())
    np.testing.assert_allclose(u["w"], [[-2.0, -1.0, 3.0], [-1.0, 0.0, 1.0]], atol=1e-6)
    np.testing.assert_array_equal(u["b"], g["b"])
    assert state == gx.EmptyState()


def test_a_convolution_is_as_in_optax(lenient):
    g = jnp.arange(24.0).reshape(2, 3, 2, 2) ** 2
    u, _ = gx.centralize().update(g, gx.EmptyState())
    np.testing.assert_allclose(u, optax.centralize().update(g, optax.EmptyState())[0], rtol=1e-6)
    np.testing.assert_allclose(u.sum((1, 2, 3)), 0.0, atol=1e-3)
