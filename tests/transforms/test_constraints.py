"""NaNs out, and parameters kept at 0 or above."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx

NAN, INF = float("nan"), float("inf")


def test_nans_become_zeros_and_are_reported_for_each_array(lenient):
    g = {"a": jnp.array([1.0, NAN, INF]), "b": jnp.array([2.0])}
    for m in (gx, optax):
        tx = m.zero_nans()
        u, state = tx.update(g, tx.init(g))
        np.testing.assert_array_equal(u["a"], [1.0, 0.0, INF])
        assert {k: bool(v) for k, v in state.found_nan.items()} == {"a": True, "b": False}
        u, state = tx.update(u, state)
        assert not state.found_nan["a"]


def test_a_complex_nan_becomes_zero():
    g = jnp.array([complex(1, NAN), 1 + 1j])
    tx = gx.zero_nans()
    u, state = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(u, [0, 1 + 1j])
    assert state.found_nan


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_stop_at_zero(dtype):
    p = jnp.array([0.1, 0.1, 0.0, -1.0, -1.0], dtype)
    g = jnp.array([-0.3, 0.2, -1.0, 0.5, 3.0], dtype)
    u, _ = gx.keep_params_nonnegative().update(g, gx.EmptyState(), p)
    new = np.asarray(gx.apply_updates(p, u), np.float32)
    assert np.all(new >= 0)
    np.testing.assert_allclose(new, [0.0, 0.3, 0.0, 0.0, 2.0], rtol=1e-2)
    if dtype == "float32":
        v, _ = optax.keep_params_nonnegative().update(g, gx.EmptyState(), p)
        np.testing.assert_array_equal(u, v)
