"""Maps: which numbers between 0 and 1 the codes of a block stand for.

A map turns a ratio in (0, 1] into a depth, the distance from the top in [0, 1], and back; codes are equally
spaced in depth. The depth of 1 is 0, and back exactly 1, so that a block's largest element is exact, and
encoding what was decoded finds the same scale. All are elementwise arithmetic, without lookups.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = []  # internal: `Blockwise` has them by name

# Of log2: how many times the ratio may be halved, by bits, for signed slots and for squares.
OCTAVES = {8: (18, 28), 4: (5, 14)}


class Map(NamedTuple):
    """`depth` of a ratio, `ratio` of a depth, and the least ratio but 0 that has a code."""

    depth: Callable[[jax.Array], jax.Array]
    ratio: Callable[[jax.Array], jax.Array]
    least: float


def log2(bits: int, positive: bool) -> Map:
    """Each code stands for about a fixed factor: the logarithm, straight between powers of two.

    That is what the bits of a float are, read as an integer. XLA would not copy a true one into each of the
    kernels that need it, and keep the array in memory instead.
    """
    octaves = OCTAVES[bits][positive]
    unit, one = octaves * 2**23, np.int32(0x3F800000)  # the bits of 1.0

    def depth(y: jax.Array) -> jax.Array:
        return (one - lax.bitcast_convert_type(y, jnp.int32)).astype(jnp.float32) * (1 / unit)

    def ratio(d: jax.Array) -> jax.Array:
        return lax.bitcast_convert_type(one - (d * unit).astype(jnp.int32), jnp.float32)

    return Map(depth, ratio, 2**-octaves)


def linear(bits: int, positive: bool) -> Map:
    """Equal steps; of the root where the slot holds squares."""
    n = largest_code(bits, positive)
    if positive:
        return Map(lambda y: 1 - jnp.sqrt(y), lambda d: (1 - d) * (1 - d), n**-2)
    return Map(lambda y: 1 - y, lambda d: 1 - d, 1 / n)


def companded(bits: int, positive: bool) -> Map:
    """FlashOptim's: z = 2y / (1 + y), finer near 0; for squares their root."""
    if positive:
        return linear(bits, positive)
    flipped = lambda x: (1 - x) / (1 + x)  # 1 - z, which is its own inverse
    return Map(flipped, flipped, 1 / (2 * largest_code(bits, positive) - 1))


def dynamic(bits: int, positive: bool) -> Map:
    """The tree of bitsandbytes: for each decade below half as many codes, equally spaced in it."""
    depths, ratios = corners(bits, positive)

    def ratio(d: jax.Array) -> jax.Array:
        return jnp.where(d == 0, 1.0, broken_line(d, depths, ratios))  # exact, which the sum is not

    return Map(lambda y: broken_line(y, ratios, depths), ratio, float(ratios[1]))


MAPS: dict[str, Callable[[int, bool], Map]] = {
    "log2": log2,
    "dynamic": dynamic,
    "companded": companded,
    "linear": linear,
}


@functools.cache
def corners(bits: int, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Between which the dynamic map is straight: depths and ratios, from 0 up."""
    n, values = largest_code(bits, positive), []
    for i in range(bits - 1):
        edges = np.linspace(0.1, 1.0, 2 ** (i + positive) + 1)
        values += list(10.0 ** (i - bits + 2) * (edges[:-1] + edges[1:]) / 2)
    # With a sign there is one code less than in the paper, where -1 is missing: that next to 0.
    ratios = np.array([0.0, *values[-(n - 1) :], 1.0])
    bends = np.abs(np.diff(ratios, 2)) > 1e-6 * ratios[1:-1]
    kept = np.array([True, *bends, True])
    return (1 - np.arange(n + 1) / n)[kept], ratios[kept]


def broken_line(x: jax.Array, xs: np.ndarray, ys: np.ndarray) -> jax.Array:
    """Straight between given points, from the smallest `y` up, where it is the most precise."""
    order = np.argsort(ys)
    xs, ys = xs[order], ys[order]
    y: Any = float(ys[0])
    for a, b, rise in zip(xs[:-1], xs[1:], np.diff(ys), strict=True):
        share = jnp.clip((x - float(a)) * float(1 / (b - a)), 0.0, 1.0)
        y = y + share * float(rise)
    return y


def largest_code(bits: int, positive: bool) -> int:
    """127 or 255 of 8 bits: a sign takes one of them."""
    return 2 ** (bits - (not positive)) - 1
