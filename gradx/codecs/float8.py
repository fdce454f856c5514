"""Blocks of floats of 8 bits, each with a scale."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from gradx.codecs.blocks import Blocks, flat, in_blocks, scales_of, share
from gradx.codecs.stored import one_of
from gradx.numerics.rounding import stochastic_round

__all__ = ["Float8"]

DTYPES = {"e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2"}
# The code of a block's largest element: a power of two, so that it is exact, near the dtype's largest number.
TOP = {"e4m3": 2.0**8, "e5m2": 2.0**15}


@dataclasses.dataclass(frozen=True, repr=False)
class Float8(Blocks):
    """Store an array as floats of 8 bits, with a float32 scale for each block of the last axis.

        scale = max |x| over the block
        code  = x / scale, rounded; √(x / scale) where x is an average of squares

    A block's largest element is exact, and a square above 0 never becomes 0. A block with inf or NaN becomes
    NaN. `Blockwise` is as small and more precise; this is for hardware and programs that read such floats.

    Arguments:
      format: "e4m3", with steps of 12 % over a range of 2^17; or "e5m2", with steps of 25 % over 2^31.
      block: elements that share a scale, at least 16, which must divide the last axis; None for its largest
        divisor up to 256. An array without such a divisor is left as it is.
      rounding, shards: as in `Blockwise`.

    Raises ValueError for other arguments, and RuntimeError where this JAX has no such dtype.

    >>> import gradx, jax.numpy as jnp
    >>> codec = gradx.Float8("e4m3", rounding="nearest")
    >>> arrays = codec.encode(jnp.linspace(0.0, 1.0, 256).reshape(1, 256), False, None)
    >>> codec.decode(arrays, False)[0, ::51].tolist()
    [0.0, 0.203125, 0.40625, 0.625, 0.8125, 1.0]
    """

    format: Literal["e4m3", "e5m2"] = "e4m3"
    block: int | None = None
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    shards: int = 1

    def __post_init__(self) -> None:
        one_of(self, format=tuple(TOP), rounding=("stochastic", "nearest"))
        self.check_fields()
        if not hasattr(jnp, DTYPES[self.format]):
            raise RuntimeError(
                f"Float8: JAX {jax.__version__} has no {DTYPES[self.format]}: take Blockwise()"
            )

    @property
    def dtype(self) -> Any:
        return getattr(jnp, DTYPES[self.format])

    def encode(self, x: jax.Array, positive: bool, bits: jax.Array | None) -> dict[str, jax.Array]:
        block = self.block_of(x.shape[-1])
        x, top = in_blocks(x, block), TOP[self.format]
        least = float(jnp.finfo(self.dtype).smallest_subnormal)
        scales = scales_of(x, (least / top) ** (1 + positive))
        y = share(x, scales)
        y = (jnp.sqrt(y) if positive else y) * top
        if bits is not None:
            # To 14 bits first, so that a decoded value is met exactly, and finds its own code.
            y = lax.reduce_precision(y, exponent_bits=8, mantissa_bits=14)
            codes = stochastic_round(y, self.dtype, in_blocks(bits, block))
        else:
            codes = y.astype(self.dtype)
        if positive:
            codes = jnp.where(
                (x > 0) & (codes.astype(jnp.float32) == 0), jnp.asarray(least, self.dtype), codes
            )
        return {"codes": flat(codes), "scales": scales[..., 0]}

    def decode(self, arrays: dict[str, jax.Array], positive: bool) -> jax.Array:
        codes, scales = arrays["codes"].astype(jnp.float32), arrays["scales"]
        y = in_blocks(codes, codes.shape[-1] // scales.shape[-1]) * (1 / TOP[self.format])
        return flat((y * y if positive else y) * scales[..., None])
