"""16-bit parameters and gradients: what goes wrong elsewhere, and must not here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx


def test_the_second_moment_follows_the_exact_average():
    """bf16 parameters, constant gradient: within 1 % of 1 - b2ᵗ (in bf16 it stalls at half)."""
    tx = gx.adamw(1e-3)
    p = {"w": jnp.ones(4, jnp.bfloat16)}

    def step(carry, _):
        p, state = carry
        u, state = tx.update(jax.tree.map(jnp.ones_like, p), state, p)
        return (gx.apply_updates(p, u), state), state[0].nu["w"][0]

    _, nu = jax.jit(lambda c: jax.lax.scan(step, c, length=3000))((p, tx.init(p)))
    t = np.arange(1, 3001)
    np.testing.assert_allclose(nu, 1 - 0.999**t, rtol=0.01)


def test_large_float16_gradients_are_clipped_in_the_right_direction():
    """10 gradients of 300: their squares overflow float16."""
    g = {"a": jnp.full(9, 300, jnp.float16), "b": jnp.float16(-300)}
    u, *_ = gx.clip_by_global_norm(1.0).observe(g, gx.EmptyState())
    np.testing.assert_allclose(u["a"], np.full(9, 10**-0.5), rtol=1e-5)
    np.testing.assert_allclose(u["b"], -(10**-0.5), rtol=1e-5)
    np.testing.assert_allclose(gx.global_norm(u), 1.0, rtol=1e-5)


def test_the_norm_of_many_bfloat16_leaves():
    """2,000 leaves of 1,000: to 1e-3 (added up in bf16 it comes out at half)."""
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(x, jnp.bfloat16) for x in rng.standard_normal((2000, 1000), np.float32)]
    exact = np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in leaves))
    norm = gx.global_norm(leaves)
    assert norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, exact, rtol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_updates_are_float32_up_to_the_border(dtype):
    p = {"w": jnp.ones(3, dtype)}
    for tx in (gx.sgd(0.1), gx.adamw(0.1), gx.lamb(0.1), gx.chain(gx.clip_by_global_norm(1.0), gx.lion(0.1))):
        exact, *_ = tx.observe(p, tx.init(p), p)
        u, _ = tx.update(p, tx.init(p), p)
        assert (exact["w"].dtype, u["w"].dtype) == (jnp.float32, dtype)
        np.testing.assert_array_equal(u["w"], exact["w"].astype(dtype))


def test_float16_adam_does_not_divide_by_zero():
    """eps=1e-8 is 0 in float16, and so is the square of 1e-4."""
    p = {"w": jnp.zeros(3, jnp.float16)}
    g = {"w": jnp.array([0.0, 1e-4, -1e-4], jnp.float16)}
    tx = gx.adam(1e-2)
    u, _ = tx.update(g, tx.init(p), p)
    np.testing.assert_allclose(u["w"], [0.0, -1e-2, 1e-2], rtol=1e-3)


def test_adadelta_survives_a_square_that_overflows():
    """√ratio * g is 0 then, and so must be the mean of its square: ratio * g² would be NaN for ever."""
    tx, x = gx.scale_by_adadelta(), jnp.ones(1)
    updates, state = tx.update(1e20 * x, tx.init(x))
    assert jnp.array_equal(updates, 0 * x)
    assert jnp.array_equal(tx.update(x, state)[0], 0 * x)
