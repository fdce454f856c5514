"""Round an array to fewer bits by chance: unbiased, so that many small changes are not lost.

The random bits are a hash of the element's place, salted anew for every array and step. A generator such as
Threefry would take several times as long as the optimizer itself; this hash hides behind the memory traffic.
As the place is that in the whole array, the bits do not depend on how the array is sharded.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = []  # internal: what rounds the parameters and what stores slots use it


def salts(key: jax.Array, count: jax.Array, n: int) -> jax.Array:
    """What makes the bits of `n` arrays at this step differ from all others: uint32, (n, 2)."""
    return jax.random.bits(jax.random.fold_in(key, count), (n, 2), jnp.uint32)


def random_bits(salt: jax.Array, like: jax.Array) -> jax.Array:
    """32 random bits, as uint32, for each element of an array."""
    place = jnp.zeros(like.shape, jnp.uint32)
    for axis, n in enumerate(like.shape):
        place = place * jnp.uint32(n & 0xFFFFFFFF) + lax.broadcasted_iota(jnp.uint32, like.shape, axis)
    # A factor of its own for each salt: with an offset alone, two arrays would share one shifted sequence.
    return mixed(place * (salt[1] | 1) + salt[0])


def mixed(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which each bit of `x` changes half of the others (Wellons' lowbias32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def stochastic_round(x: jax.Array, dtype: Any, bits: jax.Array) -> jax.Array:
    """`x` (float32) as one of its two neighbours in `dtype`, the nearer the likelier: its mean is `x`.

    What `dtype` can hold stays as it is; inf and NaN too. Of `bits` the low ones are used: 16 for bfloat16.
    """
    assert jnp.dtype(dtype) == jnp.bfloat16  # the other dtypes: to come
    y = lax.bitcast_convert_type(x, jnp.uint32)
    is_finite = (y & jnp.uint32(0x7F800000)) != jnp.uint32(0x7F800000)
    y = y + jnp.where(is_finite, bits & jnp.uint32(0xFFFF), jnp.uint32(0))
    # By shifts and not by astype, which on the CPU takes longer than the rest.
    return lax.bitcast_convert_type((y >> 16).astype(jnp.uint16), jnp.bfloat16)


def dither(salt: jax.Array, count: jax.Array, like: jax.Array) -> jax.Array:
    """As `random_bits`, but spread evenly over the steps: for each element they follow the golden ratio.

    For a slot that is rounded at every step, with one salt for all: a change that is lost in n - 1 of n steps
    is made up for in the nth almost exactly, where independent bits would leave a random walk.
    """
    return random_bits(salt, like) + count.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
