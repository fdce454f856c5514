"""Clipping: bounds kept, directions kept, and what is not finite made visible."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradx as gx

NONE = gx.EmptyState()
INF, NAN = float("inf"), float("nan")


def clipped(max_norm, *values, dtype=jnp.float32):
    g = {str(i): jnp.asarray(x, dtype) for i, x in enumerate(values)}
    u, _ = jax.jit(gx.clip_by_global_norm(max_norm).update)(g, NONE)
    return [np.asarray(x) for x in u.values()]


def test_clip_bounds_every_element():
    np.testing.assert_array_equal(gx.clip(1.0).update(jnp.array([-3.0, 0.5, 3.0]), NONE)[0], [-1.0, 0.5, 1.0])


def test_the_global_norm_is_taken_over_all_leaves():
    a, b = clipped(1.0, [3.0], [4.0])
    np.testing.assert_allclose([a[0], b[0]], [0.6, 0.8], rtol=1e-6)


def test_a_short_gradient_passes_bit_by_bit():
    a, b = clipped(5.0, [3.0], [4.0])
    assert (a[0], b[0]) == (3.0, 4.0)


@pytest.mark.parametrize(("max_norm", "value"), [(0.0, 0.0), (1.0, 0.0), (INF, 1e30), (0.0, 1e-10)])
def test_the_edges_give_numbers(max_norm, value):
    (u,) = clipped(max_norm, [value])
    assert u[0] == (value if max_norm else 0.0)


@pytest.mark.parametrize("values", [[2e19] * 10, [3e38, -3e38], [3e19, 4e19], [1e25, 2.0, -1e25]])
def test_huge_but_finite_gradients_do_not_become_zero(values):
    """Their squares overflow float32, so the norm is only bounded: right direction, short, not zero."""
    (u,) = clipped(1.0, values)
    u, values = np.asarray(u, np.float64), np.asarray(values)
    assert 1e-30 < np.linalg.norm(u) <= 1.0
    np.testing.assert_allclose(u / np.linalg.norm(u), values / np.linalg.norm(values), rtol=1e-5, atol=1e-20)


LARGEST = float(jnp.finfo(jnp.float32).max)


@pytest.mark.parametrize(
    ("tx", "norm"),
    [
        (gx.clip_by_global_norm(0.5), 0.5),
        (gx.normalize_by_update_norm(0.5), 0.5),
        (gx.clip_by_block_rms(0.5), 0.5 * 6**0.5),
        (gx.adaptive_grad_clip(0.5), 0.5 * 6**0.5),  # of each of three units: half the norm of its two ones
    ],
    ids=repr,
)
def test_the_largest_numbers_get_exactly_the_norm_that_is_asked_for(tx, norm):
    """Where a norm overflows, it is taken for the norm of as many of the largest numbers."""
    g, p = jnp.full((2, 3), LARGEST), jnp.ones((2, 3))
    u, _ = tx.update(g, tx.init(p), p)
    np.testing.assert_allclose(np.linalg.norm(u), norm, rtol=1e-5)


def test_what_is_not_finite_is_not_hidden():
    a, b = clipped(1.0, [1.0, NAN], [2.0])
    assert np.all(np.isnan(a))
    assert np.all(np.isnan(b))
    a, b = clipped(1.0, [1.0, -INF], [2.0])
    assert a[1] == -INF
    assert a[0] == b[0] == 0.0  # beside an infinity


def test_mixed_dtypes_share_one_norm(x64):
    g = {"a": jnp.array([3.0], jnp.bfloat16), "b": jnp.array([4.0], jnp.float64)}
    u, *_ = gx.clip_by_global_norm(1.0).observe(g, NONE)
    assert (u["a"].dtype, u["b"].dtype) == (jnp.float32, jnp.float64)
    np.testing.assert_allclose([float(u["a"][0]), float(u["b"][0])], [0.6, 0.8], rtol=1e-7)


def test_a_float32_leaf_beside_a_float64_one_may_be_huge(x64):
    g = {"a": jnp.full(3, 1e30, jnp.float32), "b": jnp.ones(2, jnp.float64)}
    u, _ = gx.clip_by_global_norm(1.0).update(g, NONE)
    np.testing.assert_allclose(u["a"], 3**-0.5, rtol=1e-6)


def test_complex_gradients_are_clipped_by_their_modulus(lenient):
    u, _ = gx.clip_by_global_norm(1.0).update(jnp.array([3 + 4j]), NONE)
    np.testing.assert_allclose(u, [0.6 + 0.8j], rtol=1e-6)
    u, _ = gx.clip_by_global_norm(1.0).update(jnp.array([3e38 - 3e38j]), NONE)
    assert 1e-30 < u[0].real == -u[0].imag < 1.0


def test_block_rms_is_taken_leaf_by_leaf():
    g = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.1])}
    u, _ = gx.clip_by_block_rms(1.0).update(g, NONE)
    np.testing.assert_allclose(np.sqrt(np.mean(u["a"] ** 2)), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(u["b"], g["b"])
    assert np.all(np.isnan(gx.clip_by_block_rms(1.0).update(jnp.array([1.0, NAN]), NONE)[0]))


def test_global_norm_at_its_edges():
    assert gx.global_norm({"a": jnp.array([3.0]), "none": None, "b": jnp.array(4.0)}) == 5.0
    assert jnp.isinf(gx.global_norm(jnp.array([3e38])))
    assert jnp.isinf(gx.global_norm(jnp.array([INF])))
    assert jnp.isnan(gx.global_norm(jnp.array([INF, NAN])))
    assert gx.global_norm({}) == 0.0
    assert gx.global_norm([3, jnp.array([4])]) == 5.0


@pytest.mark.parametrize("norm", [1.0, 1 - 5e-7, 2.0])
def test_eps_is_added_to_the_norm(norm):
    (u,) = (gx.clip_by_global_norm(1.0, eps=1e-3).update([jnp.array([norm])], NONE)[0],)
    np.testing.assert_allclose(u[0], [norm / (norm + 1e-3)], rtol=1e-6)
    u, _ = gx.clip_by_global_norm(1.0, eps=1e-3).update(jnp.array([0.5]), NONE)
    assert u[0] == 0.5


UNITS = {
    (): (),
    (4,): (0,),
    (1, 4): (0, 1),
    (3, 4): (0,),
    (3, 2, 4): (0,),
    (3, 2, 2, 4): (0, 1, 2),
    (3, 2, 2, 2, 4): (0, 1, 2, 3),
}


@pytest.mark.parametrize("shape", UNITS)
def test_each_unit_is_clipped_to_a_share_of_its_weights(shape, lenient):
    rng = np.random.default_rng(0)
    g, p = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    p *= rng.choice([0.0, 1.0, 100.0], shape)  # below eps, clipped, not clipped
    norm = lambda x: np.sqrt(np.sum(x**2, UNITS[shape], keepdims=True)) if shape else np.abs(x)
    bound = 0.1 * np.maximum(norm(p), 1e-3)
    u, v = (m.adaptive_grad_clip(0.1).update(jnp.asarray(g), NONE, jnp.asarray(p))[0] for m in (gx, optax))
    np.testing.assert_allclose(u, g * np.minimum(1, bound / norm(g)), rtol=1e-5)
    np.testing.assert_allclose(u, v, rtol=1e-5)


def test_the_axes_of_units_can_be_given(lenient):
    g, p = jnp.full((2, 3), 10.0), jnp.arange(1.0, 7.0).reshape(2, 3)
    for axis in (1, (0, 1)):
        u, v = (m.adaptive_grad_clip(0.1, axis=axis).update(g, NONE, p)[0] for m in (gx, optax))
        np.testing.assert_allclose(u, v, rtol=1e-6)
    with pytest.raises(ValueError, match="an array of 6 axes has no usual units: give axis"):
        gx.adaptive_grad_clip(0.1).update(jnp.ones((2,) * 6), NONE, jnp.ones((2,) * 6))


def test_units_at_their_edges():
    tx = gx.adaptive_grad_clip(1.0)
    p = jnp.ones((2, 4))
    g = jnp.array([[1.0, 1.0, 0.0, 3e38], [NAN, INF, 0.0, 3e38]])
    u = np.asarray(tx.update(g, NONE, p)[0])
    assert np.all(np.isnan(u[:, 0]))  # a NaN in its unit
    np.testing.assert_array_equal(u[:, 1], [0.0, INF])
    np.testing.assert_array_equal(u[:, 2], 0.0)
    assert 0 < u[0, 3] == u[1, 3] <= 1.0
