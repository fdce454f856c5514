"""Blocks of the last axis, and their scales."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradx.codecs.stored import Codec

__all__ = []  # internal: the formats with scales use it

SMALLEST = 16  # with smaller blocks the scales weigh almost as much as the codes
TINY = float(jnp.finfo(jnp.float32).tiny)


class Blocks(Codec):
    """A format with blocks. The dataclasses that inherit it have these fields."""

    block: int | None
    rounding: Literal["stochastic", "nearest"]
    shards: int

    largest_block = 256
    even = False  # whether a block must be

    @property
    def stochastic(self) -> bool:
        return self.rounding == "stochastic"

    def check_fields(self) -> None:
        """Raise unless `block` is a valid size and `shards` a positive integer."""
        name, block = type(self).__name__, self.block
        if block is not None and (type(block) is not int or block < SMALLEST or (self.even and block % 2)):
            wanted = f"{'even ' if self.even else ''}integer of at least {SMALLEST}"
            raise ValueError(f"{name}: block must be None or an {wanted}, got {block!r}")
        if type(self.shards) is not int or self.shards < 1:
            raise ValueError(f"{name}: shards must be an integer of at least 1, got {self.shards!r}")

    def check(self, shape: tuple[int, ...], dtype: Any) -> str | None:
        """Why the array cannot be stored, and the mend; None if it can. A given block must divide."""
        why = super().check(shape, dtype)
        if why or not shape:
            return why or "it is a scalar: leave it out"
        part = self.part_of(shape[-1])
        if self.block is not None and part % self.block:
            where = "" if part == shape[-1] else f", of which each device has {part}"
            raise ValueError(
                f"block={self.block} does not divide the last axis of {shape}{where}: give a divisor of "
                f"{part}, None to have one found, or leave the array out"
            )
        if not self.block_of(shape[-1]):
            kind = "even divisor" if self.even else "divisor"
            return (
                f"its last axis, of {shape[-1]}, has no {kind} from {SMALLEST} to {self.largest_block} for a "
                "block: leave it out, or take Rounded('bfloat16')"
            )
        return None

    def block_of(self, length: int) -> int:
        """The block for a last axis: the one given, or the largest valid divisor, or 0 if there is none."""
        if self.block is not None:
            return self.block
        sizes = range(self.largest_block, SMALLEST - 1, -2 if self.even else -1)
        return next((n for n in sizes if self.part_of(length) % n == 0), 0)

    def part_of(self, length: int) -> int:
        """The length of a last axis on one device: all of it where JAX cannot split it evenly."""
        return length if length % self.shards else length // self.shards


def in_blocks(x: jax.Array, block: int) -> jax.Array:
    """(..., n) as (..., n / block, block)."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // block, block)


def flat(x: jax.Array) -> jax.Array:
    """(..., m, block) as (..., m * block)."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def scales_of(x: jax.Array, least: float) -> jax.Array:
    """The largest |x| of each block; NaN if one is inf or NaN.

    It is at least so large that the share `least` of it is not subnormal: XLA:CPU takes subnormals for 0.
    """
    # Both ends at once and in two stages, so that no compiler stores `x` to reduce it: XLA:CPU does so for a
    # plain maximum, and on a TPU blocks are not tiles.
    parts = in_blocks(x, math.gcd(x.shape[-1], 32))
    further = lambda a, b: (jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1]))
    least_of, most_of = lax.reduce(
        (parts, parts), (np.float32(np.inf), np.float32(-np.inf)), further, (x.ndim,)
    )
    scales = jnp.max(jnp.maximum(-least_of, most_of), axis=-1, keepdims=True)
    return jnp.where(jnp.isfinite(scales), jnp.maximum(scales, 2 * TINY / least), jnp.nan)


def share(size: jax.Array, scales: jax.Array) -> jax.Array:
    """`size` as a share of its block's scale: one reciprocal for each block, no division for each element."""
    return size * (1 / (scales * 0.25)) * 0.25  # of a quarter, because 1 / 3e38 is subnormal
