"""Rounding by chance: exact where it can be, unbiased, its bits independent and the same however sharded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gradx.numerics import rounding
from gradx.numerics.rounding import mixed, random_bits, salts

compiled = functools.partial(jax.jit, static_argnums=1)
half_step, on_grid = compiled(rounding.half_step), compiled(rounding.on_grid)
stochastic_round = compiled(rounding.stochastic_round)
DTYPES = [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2]
each_width = pytest.mark.parametrize("wide", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)


def salt(step=0, array=0, seed=0):
    return salts(jax.random.key(seed), jnp.int32(step), array + 1)[array]


@functools.cache
def every(dtype):
    """Every number that a dtype has, from the lowest to the highest."""
    size = np.dtype(dtype).itemsize
    x = np.arange(256**size, dtype=f"uint{8 * size}").view(dtype)
    return np.sort(x[np.isfinite(x.astype(np.float32))])


def shifted(x, dtype):
    """Random numbers between the neighbours of a dtype, of which `x` are the lower."""
    finite = every(dtype).astype(np.float64)
    above = finite[np.minimum(np.searchsorted(finite, x, "right"), len(finite) - 1)]
    return x + (above - x) * np.random.default_rng(0).uniform(0, 1, x.shape)


@each_dtype
def test_what_the_dtype_has_stays_bitwise(dtype):
    size = np.dtype(dtype).itemsize
    x = np.arange(256**size, dtype=f"uint{8 * size}").view(dtype)
    wide = jnp.asarray(x.astype(np.float32))
    extremes = [jnp.full(wide.shape, bits, jnp.uint32) for bits in (0, 2**32 - 1)]
    for bits in (random_bits(salt(), wide), *extremes):
        y = np.asarray(stochastic_round(wide, dtype, bits))
        assert np.array_equal(np.isnan(y.astype(np.float32)), np.isnan(x.astype(np.float32)))
        real = ~np.isnan(x.astype(np.float32))
        assert np.array_equal(y[real].view(f"uint{8 * size}"), x[real].view(f"uint{8 * size}"))


def test_every_nan_stays_one():
    patterns = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000], np.uint32)
    x, bits = jnp.asarray(patterns.view(np.float32)), jnp.full(5, 0xFFFFFFFF, jnp.uint32)
    assert jnp.all(jnp.isnan(stochastic_round(x, jnp.bfloat16, bits)))


@each_dtype
@each_width
def test_the_mean_of_10000_roundings(dtype, wide):
    """Only the two neighbours; within 5 standard errors, and so is the mean of all, and of their squares."""
    rng = np.random.default_rng(0)
    finite = np.unique(every(dtype).astype(np.float64))
    size = np.maximum(np.abs(finite[1:]), np.abs(finite[:-1]))
    at = rng.choice(np.flatnonzero((size > 1e-30) & (size < 1e30)), 100)
    low, high = finite[at], finite[at + 1]
    with jax.enable_x64(wide == "float64"):
        x = jnp.asarray(low + (high - low) * rng.uniform(0, 1, 100), wide)
        many = jnp.broadcast_to(x, (10_000, 100))
        y = np.asarray(stochastic_round(many, dtype, random_bits(salt(), many)), np.float64)
    x = np.asarray(x, np.float64)
    assert np.all((y == low) | (y == high))
    chance = (x - low) / (high - low)
    error = (y.mean(0) - x) / (high - low) / np.sqrt(np.maximum(chance * (1 - chance), 1e-4) / 10_000)
    assert np.max(np.abs(error)) < 5
    assert abs(np.mean(error)) < 5 / 100**0.5
    assert np.mean(error**2) < 1 + 5 * (2 / 100) ** 0.5


floats = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)


@each_dtype
@settings(max_examples=100, deadline=None, derandomize=True)
@given(a=floats, b=floats, bits=st.integers(0, 2**32 - 1))
def test_the_same_bits_keep_the_order(dtype, a, b, bits):
    largest = float(jnp.finfo(dtype).max)
    a, b = sorted(np.clip([a, b], -largest, largest).astype(np.float32))
    x, y = on_grid(jnp.array([a, b]), dtype, jnp.full(2, bits, jnp.uint32)).tolist()
    assert x <= y


@each_dtype
@each_width
def test_the_nearest_is_that_of_numpy(dtype, wide):
    """Ties go to the even neighbour; numbers too small for full precision and the powers of two are there."""
    finite = every(dtype).astype(np.float64)
    finite = finite[(np.abs(finite) > 1e-30) | (finite == 0)]
    x = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2, shifted(finite, dtype)]).astype(wide)
    with jax.enable_x64(wide == "float64"):
        ours = np.asarray(on_grid(jnp.asarray(x), dtype))
    np.testing.assert_array_equal(ours, x.astype(dtype).astype(wide))


def test_what_is_too_large_overflows_as_by_astype():
    x, bits = jnp.array([1e5, -1e5, jnp.inf, 3.4e38]), jnp.full(4, 0xFFFFFFFF, jnp.uint32)
    assert stochastic_round(x, jnp.float16, bits).tolist() == [jnp.inf, -jnp.inf, jnp.inf, jnp.inf]
    assert stochastic_round(x, jnp.bfloat16, bits)[2:].tolist() == [jnp.inf, jnp.inf]


@each_dtype
def test_half_a_step(dtype):
    finite = every(dtype)
    x = finite[(finite > 1e-30) & (finite.astype(np.float32) < 0.99 * float(jnp.finfo(dtype).max))]
    steps = np.diff(np.append(x, finite[np.searchsorted(finite, x[-1]) + 1]).astype(np.float64))
    np.testing.assert_array_equal(half_step(jnp.asarray(x.astype(np.float32)), dtype), steps / 2)
    assert float(half_step(jnp.zeros(()), dtype)) / 128 >= jnp.finfo(jnp.float32).tiny


def uniform(bits):
    """To numbers of mean 0 and variance 1."""
    return (np.asarray(bits, np.float64).ravel() / 2**32 - 0.5) * 12**0.5


def test_bits_of_neighbours_arrays_steps_and_seeds_are_independent():
    """Their correlations, and those of the half that rounds to bf16: within 4 standard errors of 0."""
    like = jnp.zeros((1024, 1000))
    first = random_bits(salt(), like)
    others = [random_bits(salt(step, array, seed), like) for step, array, seed in np.eye(3, dtype=int)]
    others += [random_bits(salt(step), like) for step in range(2, 6)]
    rolled = [jnp.roll(first, (i, j), (0, 1)) for i, j in [(0, 1), (0, 2), (1, 0), (2, 0), (1, 1), (0, 500)]]
    for part in (lambda x: x, lambda x: x << 16, lambda x: x & jnp.uint32(0xFFFF0000)):
        x = uniform(part(first))
        assert abs(x.mean()) < 4 / x.size**0.5
        assert abs((x * x).mean() - 1) < 4 * (0.8 / x.size) ** 0.5
        for other in others + rolled:
            assert abs((x * uniform(part(other))).mean()) < 4 / x.size**0.5


@pytest.mark.parametrize("shift", [0, 16])
@pytest.mark.parametrize("shape", [(1 << 22,), (2048, 2048)])
def test_every_16_bits_are_as_likely(shape, shift):
    """The chi-square of 65,536 kinds, over four million elements, within 4 standard deviations."""
    bits = np.asarray(random_bits(salt(3), jnp.zeros(shape))).ravel()
    counts = np.bincount((bits >> shift) & 0xFFFF, minlength=1 << 16)
    expected = bits.size / (1 << 16)
    chi_square = np.sum((counts - expected) ** 2) / expected
    assert abs(chi_square - 65_535) < 4 * (2 * 65_535) ** 0.5


def test_each_bit_of_a_place_changes_half_of_the_bits():
    x = jax.random.bits(jax.random.key(0), (1 << 14,), jnp.uint32)
    one = jnp.uint32(1)
    for i in range(32):
        changed = np.asarray(mixed(x) ^ mixed(x ^ (one << jnp.uint32(i))))
        for j in range(32):
            assert abs(np.mean((changed >> j) & 1) - 0.5) < 0.02


def test_bits_go_by_the_place_in_the_whole_array():
    whole = random_bits(salt(), jnp.zeros(24))
    for shape in [(2, 12), (2, 3, 4), (24, 1)]:
        np.testing.assert_array_equal(random_bits(salt(), jnp.zeros(shape)).ravel(), whole)
    assert random_bits(salt(), jnp.zeros(())) == whole[0]
    assert random_bits(salt(), jnp.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("spec", [("x",), (None, "x")], ids=str)
def test_bits_do_not_depend_on_how_an_array_is_sharded(kind, spec):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(kind,))
    x = jnp.linspace(0.0, 1.0, 24).reshape(4, 6)
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    rounded = lambda x, salt: stochastic_round(x, jnp.bfloat16, random_bits(salt, x))
    for run in (jax.jit(rounded), rounded):
        y = run(sharded, salt())
        np.testing.assert_array_equal(y, rounded(x, salt()))
        assert y.sharding.is_equivalent_to(sharded.sharding, 2)


def test_shards_of_their_own_draw_the_same():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    specs = dict(in_specs=(PartitionSpec(), PartitionSpec("x")), out_specs=PartitionSpec("x"))
    bits = jax.shard_map(random_bits, mesh=mesh, **specs)(salt(), jnp.zeros(8))
    np.testing.assert_array_equal(bits[:4], bits[4:])


def test_vmaps():
    x, each = jnp.linspace(0.0, 1.0, 24).reshape(4, 6), [salt(i, i) for i in range(4)]
    rounded = lambda x, salt: stochastic_round(x, jnp.bfloat16, random_bits(salt, x))
    together = jax.vmap(rounded)(x, jax.tree.map(lambda *rows: jnp.stack(rows), *each))
    for i in range(4):
        np.testing.assert_array_equal(together[i], rounded(x[i], each[i]))


def test_float64_goes_up_where_its_part_of_a_step_and_the_bits_make_one(x64):
    """As many bits as are dropped: 29 for float32, more than there are for 16-bit numbers."""
    for dtype in ("bfloat16", "float16", "float32"):
        step = float(jnp.finfo(dtype).eps)
        part = np.array([0.25, 0.5, 0.875])
        enough = ((1 - part) * 2**32).astype(np.uint32)
        x = jnp.asarray(1 + part * step)
        for bits, expected in ((enough, 1 + step), (enough - 1, 1.0)):
            np.testing.assert_array_equal(
                np.asarray(stochastic_round(x, dtype, jnp.asarray(bits)), np.float64), np.full(3, expected)
            )
