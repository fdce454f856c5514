"""One float for each element, of fewer bits."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from gradx.codecs.stored import Codec, one_of
from gradx.numerics.rounding import stochastic_round

__all__ = ["Rounded"]


@dataclasses.dataclass(frozen=True, repr=False)
class Rounded(Codec):
    """Store an array in a smaller floating-point dtype; 2 bytes for each element.

    Arguments:
      dtype: "bfloat16"; "float16", which has more digits, but takes numbers beyond 65504 for inf, and has
        no number between 0 and 6e-8, so smaller squares become 6e-8; or "float32", to leave a slot as it is.
      rounding: "stochastic", to one of the two neighbours, the nearer the likelier; or "nearest", with which
        an average that changes by less than half a step, 0.4 % in bfloat16, stands still: averages
        of squares with b2=0.999 do.
      force: store averages of squares too, though they stall.

    Raises ValueError for other arguments.

    >>> import gradx, jax.numpy as jnp
    >>> codec = gradx.Rounded("bfloat16", "nearest")
    >>> codec.decode(codec.encode(jnp.array([1.001, 3.0]), False, None), False).tolist()
    [1.0, 3.0]
    """

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    force: bool = False

    def __post_init__(self) -> None:
        one_of(
            self,
            dtype=("bfloat16", "float16", "float32"),
            rounding=("stochastic", "nearest"),
            force=(False, True),
        )

    @property
    def stochastic(self) -> bool:
        return self.rounding == "stochastic" and self.dtype != "float32"

    def encode(self, x: jax.Array, positive: bool, bits: jax.Array | None) -> dict[str, jax.Array]:
        codes = x.astype(self.dtype) if bits is None else stochastic_round(x, self.dtype, bits)
        if positive and self.dtype == "float16":
            least = jnp.finfo(self.dtype).smallest_subnormal
            codes = jnp.where((x > 0) & (codes == 0), least, codes)
        return {"codes": codes}

    def decode(self, arrays: dict[str, jax.Array], positive: bool) -> jax.Array:
        return arrays["codes"].astype(jnp.float32)
