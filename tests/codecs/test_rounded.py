"""Slots as floats of 16 bits."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradx as gx
from gradx.numerics.rounding import dither, salts
from tests.codecs.formats import ROUNDED, decoded, encoded, same

SIXTEEN = [codec for codec in ROUNDED if codec.dtype != "float32"]


@pytest.mark.parametrize("codec", SIXTEEN, ids=repr)
@pytest.mark.parametrize("positive", [False, True], ids=["signed", "squares"])
def test_every_number_of_the_dtype_encodes_to_the_same_bits(codec, positive):
    """All 65536 of them, but for what NaN is made of."""
    codes = jnp.asarray(np.arange(2**15 if positive else 2**16, dtype=np.uint16).view(codec.dtype))
    x = decoded(codec, {"codes": codes}, positive)
    for lot in (0, 2**31, 2**32 - 1):
        bits = np.full(x.shape, lot, np.uint32) if codec.stochastic else None
        again = np.asarray(encoded(codec, x, positive, bits)["codes"])
        is_nan = np.isnan(np.asarray(codes, np.float32))
        np.testing.assert_array_equal(np.isnan(again.astype(np.float32)), is_nan)
        is_flushed = (np.asarray(x) == 0) | (np.abs(np.asarray(x)) < 1.2e-38)  # subnormal: 0 for XLA:CPU
        kept = ~is_nan & ~is_flushed
        np.testing.assert_array_equal(again.view(np.uint16)[kept], np.asarray(codes).view(np.uint16)[kept])


@pytest.mark.parametrize("codec", ROUNDED, ids=repr)
def test_a_number_becomes_a_neighbour_and_its_mean_is_right(codec):
    x = np.full(10_000, 1 + 0.3 * 2.0**-7, np.float32)
    found = np.asarray(decoded(codec, encoded(codec, x, False), False), np.float64)
    step = float(jnp.finfo(codec.dtype).eps)
    assert np.all(np.abs(found - x) < step)
    if codec.stochastic:
        assert np.unique(found).size == 2
        assert abs(found.mean() - x[0]) <= 3 * found.std() / 100
    else:
        np.testing.assert_array_equal(found, np.float32(x.astype(codec.dtype)))


@pytest.mark.parametrize("codec", SIXTEEN, ids=repr)
def test_what_is_no_number_stays_and_no_square_is_lost(codec):
    x = np.array([np.inf, np.nan, 0.0, 1e-9, 2e-38, 6e4], np.float32)
    found = np.asarray(decoded(codec, encoded(codec, x, True), True))
    assert np.isinf(found[0])
    assert np.isnan(found[1])
    assert found[2] == 0
    assert np.all(found[3:] > 0)
    least = 2.0**-24 if codec.dtype == "float16" else 0.0
    np.testing.assert_allclose(found[3:], np.maximum(x[3:], least), rtol=2.0**-7)


def test_float32_is_left_as_it_is():
    x = np.array([1 / 3, -1e-30, np.inf], np.float32)
    codec = gx.Rounded("float32")
    assert not codec.stochastic
    assert same(encoded(codec, x, False), {"codes": x})


def test_bad_arguments():
    for arguments, message in [
        (dict(dtype="int8"), "Rounded: dtype must be 'bfloat16', 'float16' or 'float32', got 'int8'"),
        (dict(dtype=jnp.bfloat16), "Rounded: dtype must be 'bfloat16', 'float16' or 'float32', got <class"),
        (dict(rounding="up"), "Rounded: rounding must be 'stochastic' or 'nearest', got 'up'"),
        (dict(force=1), "Rounded: force must be False or True, got 1"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            gx.Rounded(**arguments)


def test_what_is_left_as_it_is():
    codec = gx.Rounded()
    assert codec.check((3,), jnp.float32) is None
    assert (
        codec.check((3,), jnp.int32)
        == "it is int32, and only real floating point can be stored: leave it out"
    )


def test_bits_spread_over_the_steps_lose_no_change():
    """A share of 1 % is rounded up in 1 % of the steps, within two, at every element; each in other steps."""
    salt, like = salts(jax.random.key(3), 0, 1)[0], jnp.zeros(256)
    bits = jax.vmap(lambda t: dither(salt, t, like))(jnp.arange(1000))
    is_up = np.asarray(bits) >= 2**32 * 0.99
    assert np.all(np.abs(is_up.sum(0) - 10) <= 2)
    assert np.all(np.abs(is_up.mean(1) - 0.01) <= 0.05)
