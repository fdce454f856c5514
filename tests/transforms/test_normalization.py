"""Norms given and norms multiplied by, at their edges too."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx

NONE = gx.EmptyState()
INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("scale_factor", [1.0, -2.5])
def test_the_updates_get_one_norm(scale_factor, lenient):
    g = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    u, v = (m.normalize_by_update_norm(scale_factor).update(g, NONE)[0] for m in (gx, optax))
    np.testing.assert_allclose([u["a"][0], u["b"][0, 0]], scale_factor * np.array([0.6, 0.8]), rtol=1e-6)
    np.testing.assert_allclose(u["a"], v["a"], rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_zeros_stay_zeros(eps):
    u, _ = gx.normalize_by_update_norm(eps=eps).update(jnp.zeros(3), NONE)
    np.testing.assert_array_equal(u, 0.0)


@pytest.mark.parametrize("values", [[2e19] * 10, [3e38, -3e38], [1e25, 2.0, -1e25]])
def test_huge_but_finite_updates_keep_their_direction(values):
    u = np.asarray(gx.normalize_by_update_norm().update(jnp.array(values), NONE)[0], np.float64)
    assert 1e-30 < np.linalg.norm(u) <= 1.0
    np.testing.assert_allclose(
        u / np.linalg.norm(u), np.array(values) / np.linalg.norm(values), rtol=1e-5, atol=1e-20
    )


def test_what_is_not_finite_is_not_hidden():
    assert np.all(np.isnan(gx.normalize_by_update_norm().update(jnp.array([1.0, NAN]), NONE)[0]))
    u, _ = gx.normalize_by_update_norm().update(jnp.array([1.0, INF]), NONE)
    np.testing.assert_array_equal(u, [0.0, INF])


def test_16_bit_norms_are_taken_in_float32():
    g = jnp.full(10, 300, jnp.float16)
    u, *_ = gx.normalize_by_update_norm().observe(g, NONE)
    np.testing.assert_allclose(u, 10**-0.5, rtol=1e-5)
    for link, factor in (
        (gx.scale_by_param_block_norm(), 300 * 10**0.5),
        (gx.scale_by_param_block_rms(), 300),
    ):
        np.testing.assert_allclose(link.observe(jnp.ones(10, jnp.float16), NONE, g)[0], factor, rtol=1e-5)


@pytest.mark.parametrize("p", [[3.0, 4.0], [0.0, 0.0], [1e-5, 0.0]])
def test_the_size_of_the_parameter_multiplies(p, lenient):
    p, g = jnp.array(p), jnp.array([1.0, -2.0])
    norm = np.linalg.norm(p)
    for name, size in (("scale_by_param_block_norm", norm), ("scale_by_param_block_rms", norm / 2**0.5)):
        ours, theirs = (getattr(m, name)().update(g, NONE, p)[0] for m in (gx, optax))
        np.testing.assert_allclose(ours, max(size, 1e-3) * g, rtol=1e-6)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        ours, _ = getattr(gx, name)(min_scale=0.5).update(g, NONE, p)
        np.testing.assert_allclose(ours, max(size, 0.5) * g, rtol=1e-6)
