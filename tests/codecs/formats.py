"""The formats that the tests go through, and what an array becomes in them, in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

import gradx as gx

MAPS = ["log2", "dynamic", "companded", "linear"]
BLOCKWISE = [
    gx.Blockwise(bits, name, rounding=rounding)
    for bits in (8, 4)
    for name in MAPS
    for rounding in ("stochastic", "nearest")
]
FLOAT8 = [gx.Float8(format, rounding=r) for format in ("e4m3", "e5m2") for r in ("stochastic", "nearest")]
ROUNDED = [
    gx.Rounded(dtype, r) for dtype in ("bfloat16", "float16", "float32") for r in ("stochastic", "nearest")
]


def magnitudes(codec, positive):
    """What the codes of a scale of 1 stand for, 0 first, by the papers; with the sign apart."""
    if isinstance(codec, gx.Float8):
        dtype, top = {"e4m3": (jnp.float8_e4m3fn, 2.0**8), "e5m2": (jnp.float8_e5m2, 2.0**15)}[codec.format]
        values = np.arange(128, dtype=np.uint8).view(dtype).astype(np.float64) / top
        values = values[values <= 1]
        return values**2 if positive else values
    n = {(8, False): 127, (8, True): 255, (4, False): 7, (4, True): 15}[codec.bits, positive]
    k = np.arange(1, n + 1) / n
    if codec.map == "dynamic":
        return np.array([0.0, *dynamic(codec.bits, positive)[-n:]])
    if codec.map == "log2":
        octaves = {(8, False): 18, (8, True): 28, (4, False): 5, (4, True): 14}[codec.bits, positive]
        depth = octaves * (1 - k)
        below = np.ceil(depth)  # the power of two below, between which and the next it is straight
        values = 2.0**-below * (1 + below - depth)
    elif positive:
        values = k**2
    else:
        values = k / (2 - k) if codec.map == "companded" else k
    return np.array([0.0, *values])


def dynamic(bits, positive):
    """As `create_dynamic_map` of bitsandbytes has it, the positive half."""
    values = []
    for i in range(bits - 1):
        edges = np.linspace(0.1, 1, 2 ** (i + positive) + 1)
        values += [10.0 ** (i - (bits - 2)) * (a + b) / 2 for a, b in itertools.pairwise(edges)]
    return [*values, 1.0]


def block_of(codec, n):
    largest = 128 if getattr(codec, "bits", 8) == 4 else 256
    largest = 32 if getattr(codec, "map", "") == "companded" else largest
    return max(b for b in range(1, largest + 1) if n % b == 0)


def codes_of(codec, arrays, positive):
    """The codes one by one, as integers or floats."""
    codes = np.asarray(arrays["codes"])
    if getattr(codec, "bits", 8) == 8:
        return codes
    blocks = codes.reshape(*arrays["scales"].shape, -1)
    nibbles = np.concatenate([blocks & 15, blocks >> 4], axis=-1).astype(np.int64)
    if not positive:
        nibbles = np.where(nibbles > 7, nibbles - 16, nibbles)
    return nibbles.reshape(*codes.shape[:-1], -1)


@functools.partial(jax.jit, static_argnums=(0, 2))
def encode(codec, x, positive, bits):
    return codec.encode(x, positive, bits)


@functools.partial(jax.jit, static_argnums=(0, 2))
def decoded(codec, arrays, positive):
    return codec.decode(arrays, positive)


def encoded(codec, x, positive, bits=None):
    """As the `Stored` of a slot does it, with bits of some seed if it needs them."""
    if codec.stochastic and bits is None:
        bits = np.random.default_rng(0).integers(0, 2**32, x.shape, np.uint32)
    return encode(codec, x, positive, bits)


def same(a, b):
    """Whether two encoded arrays are bitwise equal."""
    return all(
        np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in ("codes", "scales") if k in a
    )
