"""Blocks of integers of few bits, each with a scale."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from gradx.codecs.blocks import Blocks, flat, in_blocks, scales_of, share
from gradx.codecs.maps import MAPS, largest_code
from gradx.codecs.stored import one_of

__all__ = ["Blockwise"]


@dataclasses.dataclass(frozen=True, repr=False)
class Blockwise(Blocks):
    """Store an array as integers of 8 or 4 bits, with a float32 scale for each block of the last axis.

        scale = max |x| over the block
        code  = which of 127 magnitudes (7 of 4 bits), as shares of the scale, with a sign;
                of 255 (15) where x is an average of squares; 0 stands for exactly 0

    A block's largest element is exact. A square above 0 never becomes 0, or a step that divides by its root
    would explode. A block with inf or NaN becomes NaN.

    Arguments:
      bits: 8 or 4. With 4, a byte holds two codes, precise enough for few runs.
      map: where the magnitudes are. "log2": each about a tenth below the next, over a range of 2^18 (for
        squares 2^28; of 4 bits 2^5 and 2^14). "dynamic": the tree of bitsandbytes (Dettmers et al. 2022,
        arXiv:2110.02861). "companded": that of FlashOptim (arXiv:2602.23349). "linear": equal steps; of the
        root for squares, where lpmm (Li et al. 2023, arXiv:2309.01507) has them of the square.
      block: elements that share a scale, at least 16, which must divide the last axis; None for its largest
        divisor up to 256 (128 of 4 bits, 32 companded). An array without such a divisor is left as it is.
      rounding: "stochastic", to one of the two neighbours, the nearer the likelier; or "nearest", with which
        an average that changes by less than half of the way to the next code stands still. Averages of
        squares with b2=0.999 do: they could fall only with their block's scale.
      shards: how many devices the last axis is split over, by its parameter's sharding. Each device then has
        whole blocks; devices that share a block would exchange all their elements.

    Scales are float32, always: float16 has too few exponents for squares, and in bfloat16 an average's
    largest element would stand still. Raises ValueError for other arguments.

    >>> import gradx, jax.numpy as jnp
    >>> codec = gradx.Blockwise(rounding="nearest")
    >>> arrays = codec.encode(jnp.linspace(-1.0, 1.0, 256).reshape(1, 256), False, None)
    >>> {name: (str(x.dtype), x.shape) for name, x in arrays.items()}
    {'codes': ('int8', (1, 256)), 'scales': ('float32', (1, 1))}
    >>> codec.decode(arrays, False)[0, -3:].round(2).tolist()
    [1.0, 1.0, 1.0]
    """

    bits: Literal[8, 4] = 8
    map: Literal["log2", "dynamic", "companded", "linear"] = "log2"
    block: int | None = None
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    shards: int = 1

    def __post_init__(self) -> None:
        one_of(self, bits=(8, 4), map=tuple(MAPS), rounding=("stochastic", "nearest"))
        self.check_fields()

    @property
    def even(self) -> bool:
        return self.bits == 4

    @property
    def largest_block(self) -> int:
        if self.map == "companded":
            return 32  # as published: the map spans few octaves, and so must a block
        return 256 if self.bits == 8 else 128

    def encode(self, x: jax.Array, positive: bool, bits: jax.Array | None) -> dict[str, jax.Array]:
        n, mapped = largest_code(self.bits, positive), MAPS[self.map](self.bits, positive)
        block = self.block_of(x.shape[-1])
        x, r = in_blocks(x, block), 0.5 if bits is None else thresholds(in_blocks(bits, block))
        size = x if positive else jnp.abs(x)
        scales = scales_of(x, mapped.least)
        codes = jnp.floor(n - n * mapped.depth(share(size, scales)) + r)
        codes = jnp.clip(codes, 1.0 if positive else 0.0, n)
        codes = jnp.where((size > 0) & (scales > 0), codes, 0.0)  # 0 where the scale is NaN
        codes = codes.astype(jnp.uint8) if positive else (codes * jnp.sign(x)).astype(jnp.int8)
        return {"codes": flat(codes if self.bits == 8 else packed(codes)), "scales": scales[..., 0]}

    def decode(self, arrays: dict[str, jax.Array], positive: bool) -> jax.Array:
        codes, scales = arrays["codes"], arrays["scales"]
        n, mapped = largest_code(self.bits, positive), MAPS[self.map](self.bits, positive)
        codes = in_blocks(codes, codes.shape[-1] // scales.shape[-1])
        codes = (codes if self.bits == 8 else unpacked(codes, positive)).astype(jnp.float32)
        depth = (n - jnp.abs(codes)) * (1 / n)
        return flat(jnp.sign(codes) * mapped.ratio(depth) * scales[..., None])


def thresholds(bits: jax.Array) -> jax.Array:
    """Random numbers between 0 and 1, to add before rounding down."""
    # Of 11 bits, so that none is so near to 0 or 1 that a decoded value would miss its own code.
    return ((bits >> 21).astype(jnp.float32) + 0.5) * 2.0**-11


def packed(codes: jax.Array) -> jax.Array:
    """Codes of 4 bits in half as many bytes: the first half of a block in the low bits."""
    low, high = jnp.split(codes.astype(jnp.uint8) & 15, 2, axis=-1)
    return low | (high << 4)


def unpacked(codes: jax.Array, positive: bool) -> jax.Array:
    """The inverse of `packed`."""
    codes = jnp.concatenate([codes & 15, codes >> 4], axis=-1)
    return codes if positive else (codes ^ 8).astype(jnp.int8) - 8  # the fourth bit is the sign
