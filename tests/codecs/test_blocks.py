"""Formats with a scale for each block: `Blockwise` and `Float8`."""

import pickle

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradx as gx
from tests.codecs.formats import BLOCKWISE, FLOAT8, block_of, codes_of, encoded, magnitudes, same

TINY = float(np.finfo(np.float32).tiny)
each = pytest.mark.parametrize("codec", [*BLOCKWISE, *FLOAT8], ids=repr)
nearest = pytest.mark.parametrize("codec", [c for c in (*BLOCKWISE, *FLOAT8) if not c.stochastic], ids=repr)
by_sign = pytest.mark.parametrize("positive", [False, True], ids=["signed", "squares"])


def numbers(positive, shape=(6, 512), spread=2.0):
    """Lognormal, of either sign unless positive, some exactly 0."""
    rng = np.random.default_rng(7)
    x = np.exp(spread * rng.standard_normal(shape)) * rng.integers(0, 9, shape).clip(0, 1)
    return (x if positive else x * rng.choice([-1, 1], shape)).astype(np.float32)


@nearest
@by_sign
def test_each_number_becomes_the_nearest_in_the_space_of_its_map(codec, positive):
    x = numbers(positive)
    decoded = np.asarray(codec.decode(encoded(codec, x, positive), positive))
    blocks = np.abs(x.astype(np.float64)).reshape(6, -1, block_of(codec, 512))
    scale = blocks.max(-1, keepdims=True)
    found = np.abs(decoded).reshape(blocks.shape) / scale
    np.testing.assert_array_equal(np.sign(decoded), np.where(found.reshape(x.shape) > 0, np.sign(x), 0))
    # Between its two neighbours, and of these the one whose half the number is in.
    values = magnitudes(codec, positive)
    code = np.abs(found[..., None] - values).argmin(-1)
    np.testing.assert_allclose(found, values[code], rtol=2e-5)
    place = lambda y: np.interp(warped(codec, positive, y), warped(codec, positive, values), np.arange(values.size))
    exact = place(blocks / scale)
    off = np.abs(exact - code)
    lifted = (code == 1) & (exact > 0) & (exact < 1)  # a square, or a log2 below the range
    assert np.all((off <= 0.5 + 2e-3) | lifted)
    if positive:
        assert np.all((code > 0) == (blocks > 0))


def warped(codec, positive, y):
    """Where a number lies between two codes: by its logarithm, its root, or itself."""
    if getattr(codec, "map", "") == "log2":
        return np.log2(np.maximum(y, 1e-30))
    is_root = positive and (isinstance(codec, gx.Float8) or codec.map in ("linear", "companded"))
    y = np.sqrt(y) if is_root else y
    return 2 * y / (1 + y) if getattr(codec, "map", "") == "companded" and not positive else y


@each
@by_sign
@pytest.mark.parametrize("scale", [1.0, 0.7, 1e-38, 2e-20, 3.4e38])
def test_what_was_decoded_encodes_to_the_same_bits_for_every_code(codec, positive, scale):
    values = magnitudes(codec, positive)
    values = values if positive else np.concatenate([-values[:0:-1], values])
    x = np.resize(values, (2, 512)) * scale
    x[:, :: block_of(codec, 512)] = scale
    for bits in (np.zeros, lambda *a: np.full(*a) if a[1:] else None):
        pass
    first = encoded(codec, x.astype(np.float32), positive)
    decoded = codec.decode(first, positive)
    for lot in (0, 2**31, 2**32 - 1):
        bits = np.full(x.shape, lot, np.uint32) if codec.stochastic else None
        assert same(first, encoded(codec, decoded, positive, bits))
    assert np.all(np.isfinite(decoded))
    if scale > 1e-19:
        np.testing.assert_allclose(decoded, x, rtol=0.3 if codec.stochastic else 2e-5, atol=1e-37)
