"""Blocks of integers of few bits, each with a scale."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradx.codecs.maps import MAPS, largest_code
from gradx.codecs.stored import Codec, one_of

__all__ = ["Blockwise"]

LARGEST_BLOCK = {8: 256, 4: 128}
SMALLEST_BLOCK = 16  # with a smaller one the scales weigh as much as the codes


@dataclasses.dataclass(frozen=True, repr=False)
class Blockwise(Codec):
    """Store an array as integers of 8 or 4 bits, with one float32 scale for each block of the last axis.

        scale = max |x| over the block
        code  = the nearest of 127 or 7 magnitudes, as a share of the scale, and a sign
                the nearest of 255 or 15, where x is an average of squares

    Arguments:
      bits: 8 or 4, which packs two codes in a byte.
      map: which magnitudes.
      block: elements with one scale, which must divide the last axis; None for the largest divisor up to
        256, or 128 of 4 bits. An array whose last axis has none from 16 on is left as it is.
      rounding: "nearest", or "stochastic".
    """

    bits: int = 8
    map: Literal["log2", "dynamic", "companded", "linear"] = "log2"
    block: int | None = None
    rounding: Literal["stochastic", "nearest"] = "nearest"

    def __post_init__(self) -> None:
        one_of(self, bits=(8, 4), map=tuple(MAPS), rounding=("nearest", "stochastic"))
        check_block(self, self.block)

    @property
    def stochastic(self) -> bool:
        return self.rounding == "stochastic"

    def check(self, shape: tuple[int, ...], dtype: Any) -> str | None:
        return unfit(shape, dtype, self.block, LARGEST_BLOCK[self.bits], even=self.bits == 4)

    def encode(self, x: jax.Array, positive: bool, bits: jax.Array | None) -> dict[str, jax.Array]:
        n, mapped = largest_code(self.bits, positive), MAPS[self.map](self.bits, positive)
        x, bits = in_blocks(x, self.size(x)), bits if bits is None else in_blocks(bits, self.size(x))
        size = jnp.abs(x)
        scales = scales_of(size, 2 * TINY / mapped.least)
        codes = jnp.floor(n - n * mapped.depth(share(size, scales)) + thresholds(bits))
        codes = jnp.clip(codes, 1.0 if positive else 0.0, n)
        # False in a block with NaN too, which has NaN for a scale.
        codes = jnp.where((size > 0) & (scales > 0), codes, 0.0)
        codes = codes.astype(jnp.uint8) if positive else (codes * jnp.sign(x)).astype(jnp.int8)
        return {"codes": flat(codes if self.bits == 8 else packed(codes)), "scales": scales[..., 0]}

    def decode(self, arrays: dict[str, jax.Array], positive: bool) -> jax.Array:
        codes, scales = arrays["codes"], arrays["scales"]
        n, mapped = largest_code(self.bits, positive), MAPS[self.map](self.bits, positive)
        codes = in_blocks(codes, codes.shape[-1] // scales.shape[-1])
        codes = (codes if self.bits == 8 else unpacked(codes, positive)).astype(jnp.float32)
        depth = (n - jnp.abs(codes)) * (1 / n)
        return flat(jnp.sign(codes) * mapped.ratio(depth) * scales[..., None])

    def size(self, x: jax.Array) -> int:
        return self.block or block_of(x.shape[-1], LARGEST_BLOCK[self.bits])


TINY = float(jnp.finfo(jnp.float32).tiny)


def check_block(codec: Codec, block: Any) -> None:
    """Raise unless it is None or an even number from 16 on."""
    if block is not None and (type(block) is not int or block < SMALLEST_BLOCK or block % 2):
        raise ValueError(
            f"{type(codec).__name__}: block must be None or an even integer of at least {SMALLEST_BLOCK}, "
            f"got {block!r}"
        )


def block_of(length: int, largest: int) -> int:
    """The largest divisor of the last axis that may be a block."""
    return next(n for n in range(largest, 0, -1) if length % n == 0)


def unfit(
    shape: tuple[int, ...], dtype: Any, block: int | None, largest: int, even: bool = False
) -> str | None:
    """Why an array cannot be stored in blocks, and the mend; None if it can."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return f"it is {jnp.dtype(dtype)}, and only real floating point can be stored: leave it out"
    length = shape[-1] if shape else 0
    if block is not None and (not length or length % block):
        return f"block={block} does not divide its last axis, of {length}: give a divisor, or block=None"
    fitting = block or (length and block_of(length, largest))
    if fitting < SMALLEST_BLOCK or (even and fitting % 2):
        return (
            f"its last axis, of {length}, has no divisor from {SMALLEST_BLOCK} to {largest} for a block: leave it "
            "out, or make the axis a multiple of 16"
        )
    return None


def in_blocks(x: jax.Array, block: int) -> jax.Array:
    """(..., n) as (..., n / block, block)."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // block, block)


def flat(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def scales_of(size: jax.Array, smallest: float) -> jax.Array:
    """The largest of each block, but at least `smallest`; NaN if one is inf or NaN."""
    scales = jnp.maximum(jnp.max(size, axis=-1, keepdims=True), smallest)
    return jnp.where(jnp.isfinite(scales), scales, jnp.nan)


def share(size: jax.Array, scales: jax.Array) -> jax.Array:
    """Of its block's scale: one reciprocal for each block, and not a division for each element."""
    return size * (1 / (scales * 0.25)) * 0.25  # a quarter, as 1 / 3e38 would be subnormal and become 0


def thresholds(bits: jax.Array | None) -> Any:
    """What to add before rounding down: a half, or anything from 0 to 1."""
    # Of 11 bits, so that none is so near to 0 or 1 that the decoded would not find its own code again.
    return 0.5 if bits is None else ((bits >> 21).astype(jnp.float32) + 0.5) * 2.0**-11


def packed(codes: jax.Array) -> jax.Array:
    """Codes of 4 bits in half as many bytes: the first half of a block in the low bits."""
    codes = codes.astype(jnp.uint8) & 15
    low, high = jnp.split(codes, 2, axis=-1)
    return low | (high << 4)


def unpacked(codes: jax.Array, positive: bool) -> jax.Array:
    """The codes that `packed` was given."""
    codes = jnp.concatenate([codes & 15, codes >> 4], axis=-1)
    return codes if positive else ((codes ^ 8).astype(jnp.int8) - 8)  # the sign is the fourth bit
