"""Round an array to fewer bits, to the nearest or by chance: unbiased, so that small changes add up.

The random bits are a hash of the element's place, salted anew for every array and step. A generator such as
Threefry would take several times as long as the optimizer itself; this hash hides behind the memory traffic.
The place is counted in the whole array, so the bits do not depend on how jit shards the array.
"""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

__all__ = []  # internal: for links that round parameters, and for codecs

GOLDEN = 0x9E3779B9  # 2³² over the golden ratio: its multiples are far from each other
Salt: TypeAlias = tuple[jax.Array, Any]  # of the step, a uint32, and of the array, two constants


def salts(key: jax.Array, step: Any, n: int) -> list[Salt]:
    """Salts that make the bits of `n` arrays at this step differ from all others."""
    # Not by jax.random: for so few numbers, a TPU runs Threefry in hundreds of kernels. One number serves all
    # arrays: on a GPU, XLA puts the readers of one small array into one kernel, and stores their inputs.
    words = jnp.arange(1, 5, dtype=jnp.uint32) * jnp.uint32(GOLDEN)
    for word in (jnp.asarray(step, jnp.uint32), *raw_key(key)):
        words = mixed(words ^ word)
    # A sum, because XLA:CPU keeps its result. Otherwise it would hash the key again for each element.
    of_step = jnp.sum(lax.optimization_barrier(words), dtype=jnp.uint32)
    rows = mixed(np.arange(1, 2 * n + 1, dtype=np.uint32).reshape(n, 2) * np.uint32(GOLDEN))
    return [(of_step, row) for row in rows]


def raw_key(key: jax.Array) -> jax.Array:
    """The words of a random key, uint32."""
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


@functools.partial(jax.jit, keep_unused=True)  # a program, on the devices of `like`, for iota's sharding
def random_bits(salt: Salt, like: jax.Array) -> jax.Array:
    """32 random bits, as uint32, for each element of an array."""
    of_step, (offset, factor) = salt
    sharding = jax.typeof(like).sharding
    place, stride = jnp.uint32(0), 1
    for axis in reversed(range(like.ndim)):
        along = lax.broadcasted_iota(jnp.uint32, like.shape, axis, out_sharding=sharding)
        place = place + along * jnp.uint32(stride & 0xFFFFFFFF)
        stride *= like.shape[axis]
    # Each array has another factor: with offsets alone, two arrays would have one sequence, shifted. So would
    # two steps if the step's salt were added.
    return mixed((place * (factor | np.uint32(1)) + offset) ^ of_step)


def mixed(x: Any) -> Any:
    """A bijection of 32 bits in which each bit of `x` changes half of the others (Wellons' lowbias32)."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def stochastic_round(x: jax.Array, dtype: DTypeLike, bits: jax.Array) -> jax.Array:
    """`x` as one of its two neighbours in a smaller `dtype`, the nearer the likelier: its mean is `x`.

    Values that `dtype` can hold do not change, nor do the sign of a zero, inf and NaN. Values that are too
    large become what `astype` makes of them, such as inf. `bits` are 32 random bits for each element.
    """
    return exact(jnp.where(jnp.isnan(x), jnp.nan, on_grid(x, dtype, bits)), dtype)


def exact(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """`x.astype(dtype)` of values that `dtype` can hold, that are too large for it, or not finite."""
    cast = lambda x: x.astype(dtype)
    if x.dtype != jnp.float32 or jnp.dtype(dtype) != jnp.bfloat16:
        return cast(x)
    # On the CPU by shifts: astype takes longer there than all the rest. On a TPU shifts take several kernels.
    return lax.platform_dependent(x, cpu=upper_half, default=cast)


def upper_half(x: jax.Array) -> jax.Array:
    """The first 16 bits of float32 numbers, as bfloat16 numbers."""
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    return lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)


def on_grid(x: jax.Array, dtype: DTypeLike, bits: jax.Array | None = None) -> jax.Array:
    """The nearest value to `x` that `dtype` can hold, in `x`'s dtype; with bits, that of `stochastic_round`.

    XLA may simplify `x.astype(dtype).astype(x.dtype)` to `x`, but computes this. Values that are too large,
    and inf, do not change. The result for NaN means nothing: to keep NaN took longer than all the rest.
    """
    own, its = jnp.finfo(x.dtype), jnp.finfo(dtype)
    dropped = own.nmant - its.nmant
    y: Any = lax.bitcast_convert_type(x, f"uint{own.bits}")
    one, n = jnp.ones((), y.dtype), jnp.asarray(dropped, y.dtype)
    if bits is None:
        more = (one << (n - 1)) - one + ((y >> n) & one)  # ties go to the even neighbour
    elif dropped <= 32:
        more = (bits >> jnp.uint32(32 - dropped)).astype(y.dtype)
    else:
        more = bits.astype(y.dtype) << jnp.asarray(dropped - 32, y.dtype)
    out = lax.bitcast_convert_type(((y + more) >> n) << n, x.dtype)  # inf stays
    if its.minexp > own.minexp:  # numbers so small that the steps of `dtype` do not become smaller
        out = jnp.where(
            jnp.abs(x) < float(its.tiny), at_equal_steps(x, 2.0 ** (its.minexp - its.nmant), bits), out
        )
    return out


def at_equal_steps(x: jax.Array, step: float, bits: jax.Array | None) -> jax.Array:
    """A multiple of `step`, a power of two: the nearest; with bits, one of the two around `x`."""
    x = x * (1 / step)
    below = jnp.floor(x)
    if bits is None:
        return jnp.round(x) * step
    chance = (bits >> jnp.uint32(8)).astype(x.dtype) * 2.0**-24
    return jnp.where(chance < x - below, below + 1, below) * step


def half_step(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Half of the distance between neighbours of `x` in `dtype`, above it; `x` in float32 or better.

    It is at least so large that a 128th of it is no subnormal number: XLA:CPU takes those for 0.
    """
    own, its = jnp.finfo(x.dtype), jnp.finfo(dtype)
    y: Any = lax.bitcast_convert_type(x, f"uint{own.bits}")
    n = jnp.asarray(own.nmant, y.dtype)
    power = lax.bitcast_convert_type((y << jnp.ones((), y.dtype) >> (n + 1)) << n, x.dtype)  # 2^⌊log2 |x|⌋
    return jnp.maximum(power, 2.0 ** max(its.minexp, -126 + 8 + its.nmant)) * 2.0 ** -(its.nmant + 1)


def dither(salt: Salt, step: jax.Array, like: jax.Array) -> jax.Array:
    """`random_bits` that are spread evenly over the steps: for each element they follow the golden ratio.

    They serve a slot that is rounded at every step, with one salt for all steps: a change that is lost in n -
    1 of n steps is made up for in the nth almost exactly, where independent bits would leave a random walk.
    """
    return random_bits(salt, like) + step.astype(jnp.uint32) * jnp.uint32(GOLDEN)
