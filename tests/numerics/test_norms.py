"""Norms, and the factors that change them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradx.numerics import norms

INF, NAN = float("inf"), float("nan")
LARGEST = float(np.finfo(np.float32).max)


def close(x, y, rtol=1e-6):
    np.testing.assert_allclose(x, y, rtol=rtol)


def arrays():
    """Small ones of one shape, whose sums share a kernel, and others: large, empty, scalar, complex."""
    rng = np.random.default_rng(0)
    real = [rng.standard_normal(shape) for shape in ((3, 4), (3, 4), (3, 4), (4096,), (4097,), (0,), ())]
    return [*real, rng.standard_normal((2, 2)) + 1j * rng.standard_normal((2, 2)), 5.0 * real[0]]


def test_every_norm_is_that_of_its_array():
    xs = arrays()
    expected = [np.sqrt(np.sum(np.abs(x) ** 2)) for x in xs]
    low = [jnp.asarray(x, jnp.complex64 if np.iscomplexobj(x) else jnp.float32) for x in xs]
    together, alone, sums = jax.jit(
        lambda xs: (norms.norms(*xs), [norms.norm(x) for x in xs], norms.sums_of_squares(xs))
    )(low)
    close(together, expected)
    close(alone, expected)
    close(sums, np.square(expected))
    assert {x.dtype for x in together} == {jnp.dtype("float32")}


def test_small_arrays_of_a_shape_share_a_sum_and_large_ones_do_not():
    xs = [jnp.ones(2), jnp.ones((3, 4)), jnp.ones(4096), jnp.ones((3, 4)), jnp.ones(4097), jnp.ones(0)]
    text = str(jax.make_jaxpr(norms.sums_of_squares)(xs))
    assert text.count(" = reduce[") == 3
    assert text.count(" = reduce_sum[") == 2


def test_sums_that_share_a_kernel_have_the_derivative_of_those_that_do_not():
    x = jnp.linspace(1.0, 2.0, 4).reshape(2, 2)
    z = jax.lax.complex(x, -2 * x)
    shared = lambda x, z: sum(norms.shared_sums([x, 3 * x])) + norms.shared_sums([z])[0]
    apart = lambda x, z: jnp.sum(10 * x * x) + jnp.sum(z.real**2 + z.imag**2)
    for ours, theirs in zip(*(jax.jit(jax.grad(f, (0, 1)))(x, z) for f in (shared, apart)), strict=True):
        close(ours, theirs)


def test_which_sizes_are_small():
    assert [norms.in_range(n, 4) for n in (0, 1, 4, 5)] == [False, True, True, False]
    assert not norms.in_range(jax.export.symbolic_shape("n")[0], 4)


def test_a_power_of_a_size_counts_it_as_at_least_1():
    assert [norms.size_power(n, 0.5, jnp.float32) for n in (0, 1, 9)] == [1.0, 1.0, 3.0]


def test_a_total_has_the_dtype_asked_for():
    empty, full = norms.total([], jnp.float32), norms.total([jnp.float32(1.5), jnp.bfloat16(2)], jnp.float32)
    assert (empty, full) == (0.0, 3.5)
    assert empty.dtype == full.dtype == jnp.float32


def test_a_safe_root_has_a_derivative_at_0():
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(norms.safe_sqrt)))(jnp.array([0.0, 4.0, INF]))
    np.testing.assert_array_equal(values, [0.0, 2.0, INF])
    np.testing.assert_array_equal(slopes, [0.0, 0.25, 0.0])


# norm, target: the product of the factors of `resize`, and of `shrink`
FACTORS = [
    (4.0, 2.0, 0.5, 0.5),
    (2.0, 2.0, 1.0, 1.0),
    (1.0, 2.0, 2.0, 1.0),
    (0.0, 2.0, 2.0, 1.0),  # of zeros, any
    (0.0, 0.0, 0.0, 1.0),
    (4.0, 0.0, 0.0, 0.0),
    (4.0, INF, INF, 1.0),
    (NAN, 2.0, NAN, NAN),
]


def test_factors_resize_and_shrink():
    norm, target, resized, shrunk = jnp.array(FACTORS).T
    (a, b), (c, d) = jax.jit(lambda *x: (norms.resize(*x, 9), norms.shrink(*x, 9)))(norm, target)
    np.testing.assert_array_equal(a, 1.0)
    np.testing.assert_array_equal(c, 1.0)
    np.testing.assert_array_equal(b, resized)
    np.testing.assert_array_equal(d, shrunk)


@pytest.mark.parametrize("size", [1, 9])
def test_a_norm_that_overflowed_counts_as_the_largest_of_its_size(size):
    """√(size * largest²), whose inverse is no float, is split over two factors."""
    for factors in (norms.resize, norms.shrink):
        a, b = jax.jit(lambda: factors(jnp.float32(INF), 3.0, size))()
        close(a, LARGEST**-0.5)
        close(b, 3.0 * LARGEST**-0.5 / size**0.5)
        assert a * LARGEST * b * size**0.5 <= 3.0 * (1 + 1e-6)
    a, b = norms.shrink(jnp.float32(INF), INF, size)  # nothing is to be shrunk
    assert (a, b) == (1.0, 1.0)
