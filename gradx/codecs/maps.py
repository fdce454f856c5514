"""Maps: the numbers between 0 and 1 that the codes of a block stand for.

A map turns a ratio in (0, 1] into a depth, the distance from the top in [0, 1], and back; codes are equally
spaced in depth. The depth of 1 is 0, and its ratio exactly 1, so a block's largest element is exact, and
a decoded block finds the same scale again. All are elementwise arithmetic, without lookups.
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

    The bits of a float, read as an integer, are this logarithm. XLA would keep the result of a true one in
    memory, and not compute it in each kernel that needs it.
    """
    octaves = OCTAVES[bits][positive]
    unit, one = octaves * 2**23, np.int32(0x3F800000)  # the bits of 1.0

    def depth(y: jax.Array) -> jax.Array:
        return (one - lax.bitcast_convert_type(y, jnp.int32)).astype(jnp.float32) * (1 / unit)

    def ratio(d: jax.Array) -> jax.Array:
        return lax.bitcast_convert_type(one - (d * unit).astype(jnp.int32), jnp.float32)

    return Map(depth, ratio, 2**-octaves)


def linear(bits: int, positive: bool) -> Map:
    """Equal steps; for squares, equal steps of the root."""
    n = largest_code(bits, positive)
    if positive:
        return Map(lambda y: 1 - jnp.sqrt(y), lambda d: (1 - d) * (1 - d), n**-2)
    return Map(lambda y: 1 - y, lambda d: 1 - d, 1 / n)


def companded(bits: int, positive: bool) -> Map:
    """The map of FlashOptim: z = 2y / (1 + y), finer near 0; for squares their root."""
    if positive:
        return linear(bits, positive)
    flipped = lambda x: (1 - x) / (1 + x)  # 1 - z, which is its own inverse
    return Map(flipped, flipped, 1 / (2 * largest_code(bits, positive) - 1))


def dynamic(bits: int, positive: bool) -> Map:
    """The tree of bitsandbytes: for each decade below half as many codes, equally spaced in it."""
    depths, ratios = corners(bits, positive)

    def ratio(d: jax.Array) -> jax.Array:
        return jnp.where(d == 0, 1.0, broken_line(d, depths, ratios))  # the sum is not exact there

    return Map(lambda y: broken_line(y, ratios, depths), ratio, float(ratios[1]))


MAPS: dict[str, Callable[[int, bool], Map]] = {
    "log2": log2,
    "dynamic": dynamic,
    "companded": companded,
    "linear": linear,
}


@functools.cache
def corners(bits: int, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Breakpoints of the piecewise-linear dynamic map, as (depths, ratios), with ratios from 0 up."""
    n, values = largest_code(bits, positive), []
    for i in range(bits - 1):
        edges = np.linspace(0.1, 1.0, 2 ** (i + positive) + 1)
        values += list(10.0 ** (i - bits + 2) * (edges[:-1] + edges[1:]) / 2)
    # With a sign, the code next to 0 is missing here; in the paper -1 is missing.
    ratios = np.array([0.0, *values[-(n - 1) :], 1.0])
    bends = np.abs(np.diff(ratios, 2)) > 1e-6 * ratios[1:-1]
    kept = np.array([True, *bends, True])
    return (1 - np.arange(n + 1) / n)[kept], ratios[kept]


def broken_line(x: jax.Array, xs: np.ndarray, ys: np.ndarray) -> jax.Array:
    """Linear interpolation between points, summed from the smallest `y` up, which is the most precise."""
    order = np.argsort(ys)
    xs, ys = xs[order], ys[order]
    y: Any = float(ys[0])
    for a, b, rise in zip(xs[:-1], xs[1:], np.diff(ys), strict=True):
        share = jnp.clip((x - float(a)) * float(1 / (b - a)), 0.0, 1.0)
        y = y + share * float(rise)
    return y


def largest_code(bits: int, positive: bool) -> int:
    """127 or 255 for 8 bits: a sign takes one bit."""
    return 2 ** (bits - (not positive)) - 1
