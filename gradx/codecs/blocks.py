"""Blocks of the last axis, and their scales."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradx.codecs.stored import Codec

__all__ = []  # internal: the formats with scales use it

SMALLEST = 16  # with smaller blocks the scales weigh almost as much as the codes
TINY = float(jnp.finfo(jnp.float32).tiny)


def check_block(codec: Codec, block: Any, *, even: bool = False) -> None:
    """Raise unless it is None or a size that a block can have."""
    if block is not None and (type(block) is not int or block < SMALLEST or (even and block % 2)):
        wanted = f"{'even ' if even else ''}integer of at least {SMALLEST}"
        raise ValueError(f"{type(codec).__name__}: block must be None or an {wanted}, got {block!r}")


def block_of(length: int, largest: int, *, even: bool = False) -> int:
    """The largest divisor of the last axis that a block can have; 0 if there is none."""
    sizes = range(largest, SMALLEST - 1, -2 if even else -1)
    return next((n for n in sizes if length % n == 0), 0)


def no_blocks(shape: tuple[int, ...], block: int | None, largest: int, *, even: bool = False) -> str | None:
    """Why an array is left as it is, and the mend; None if it is not. A given block must divide."""
    if not shape:
        return "it is a scalar: leave it out"
    if block is not None and shape[-1] % block:
        raise ValueError(
            f"block={block} does not divide the last axis of {shape}: give a divisor of {shape[-1]}, None to "
            "have one found, or leave the array out"
        )
    if block is None and not block_of(shape[-1], largest, even=even):
        kind = "even divisor" if even else "divisor"
        return (
            f"its last axis, of {shape[-1]}, has no {kind} from {SMALLEST} to {largest} for a block: "
            "leave it out, or take Rounded('bfloat16')"
        )
    return None


def in_blocks(x: jax.Array, block: int) -> jax.Array:
    """(..., n) as (..., n / block, block)."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // block, block)


def flat(x: jax.Array) -> jax.Array:
    """(..., m, block) as (..., m * block)."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def scales_of(x: jax.Array, least: float) -> jax.Array:
    """The largest |x| of each block; NaN if one is inf or NaN.

    At least so large that the share `least` of it is no subnormal number, which XLA:CPU takes for 0.
    """
    # Both ends at once and in two stages, so that no compiler stores `x` to reduce it: XLA:CPU does for a
    # plain maximum, and on a TPU blocks are no tiles.
    parts = in_blocks(x, math.gcd(x.shape[-1], 32))
    further = lambda a, b: (jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1]))
    least_of, most_of = lax.reduce(
        (parts, parts), (np.float32(np.inf), np.float32(-np.inf)), further, (x.ndim,)
    )
    scales = jnp.max(jnp.maximum(-least_of, most_of), axis=-1, keepdims=True)
    return jnp.where(jnp.isfinite(scales), jnp.maximum(scales, 2 * TINY / least), jnp.nan)


def share(size: jax.Array, scales: jax.Array) -> jax.Array:
    """Of its block's scale: one reciprocal for each block, and no division for each element."""
    return size * (1 / (scales * 0.25)) * 0.25  # of a quarter, as 1 / 3e38 would be subnormal
