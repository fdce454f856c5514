"""Gradient centralization: every unit's gradient has mean zero, and nothing else changes."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx

G = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_mean_of_each_unit_is_taken_out(axis):
    u, _ = gx.centralize(output_axis=axis).update(jnp.asarray(G), gx.EmptyState())
    others = tuple({0, 1, 2} - {axis % 3})
    np.testing.assert_allclose(u, G - G.mean(others, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(np.mean(u, others), 0.0, atol=1e-6)


def test_it_is_optax_s_by_default(lenient):
    g = {"kernel": jnp.asarray(G), "bias": jnp.array([1.0, 2.0]), "scale": jnp.array(3.0)}
    u, v = (m.centralize().update(g, gx.EmptyState())[0] for m in (gx, optax))
    for k in g:
        np.testing.assert_allclose(u[k], v[k], atol=1e-6)
    np.testing.assert_array_equal(u["bias"], g["bias"])


def test_an_axis_that_is_not_there():
    with pytest.raises(ValueError, match="output_axis is 2, and there are 2 axes"):
        gx.centralize(output_axis=2).update({"w": jnp.ones((2, 2))}, gx.EmptyState())


def test_16_bit_means_are_taken_in_float32():
    """256 + 1 is 256 in bf16: the mean of 300 ones and a 256 comes out right only in float32."""
    g = jnp.ones((1, 301), jnp.bfloat16).at[0, 0].set(256)
    u, *_ = gx.centralize().observe(g, gx.EmptyState())
    np.testing.assert_allclose(u[0, 0], 256 - 556 / 301, rtol=1e-5)
