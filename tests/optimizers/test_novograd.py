"""NovoGrad: one number for each array."""

import jax
import jax.numpy as jnp
import numpy as np

import gradx as gx


def test_the_first_update_of_each_array_has_norm_one():
    g = {"a": jnp.array([[3.0, 4.0]]), "b": jnp.array([1e-3, 0.0])}
    tx = gx.scale_by_novograd(eps=0.0)
    u, state = tx.update(g, tx.init(g), g)
    for x in jax.tree.leaves(u):
        np.testing.assert_allclose(np.linalg.norm(x), 1.0, rtol=1e-6)
    assert [x.shape for x in jax.tree.leaves(state.nu)] == [(), ()]
    np.testing.assert_allclose(state.nu["a"], 25.0, rtol=1e-6)


def test_the_norm_is_remembered_over_steps():
    """nu: 25, then 0.25 * 25 + 0.75 * 100."""
    tx = gx.scale_by_novograd(b1=0.0, eps=0.0)
    g = jnp.array([3.0, 4.0])
    _, state = tx.update(g, tx.init(g), g)
    u, state = tx.update(2 * g, state, g)
    np.testing.assert_allclose(state.nu, 81.25, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(u), 10 / 81.25**0.5, rtol=1e-6)


def test_float16_norms_are_taken_in_float32():
    g = jnp.full(10, 300, jnp.float16)
    tx = gx.scale_by_novograd()
    u, state, _ = tx.observe(g, tx.init(g), g)
    np.testing.assert_allclose(state.nu, 9e5, rtol=1e-6)
    np.testing.assert_allclose(u, 10**-0.5, rtol=1e-5)
