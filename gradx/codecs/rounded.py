"""One float for each element, of fewer bits."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradx.codecs.stored import Codec
from gradx.rounding import stochastic_round

__all__ = ["Rounded"]


@dataclasses.dataclass(frozen=True, repr=False)
class Rounded(Codec):
    """Store an array in a smaller floating-point dtype."""

    dtype: str = "bfloat16"
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    force: bool = False  # hold averages of squares too, where they stall

    @property
    def stochastic(self) -> bool:
        return self.rounding == "stochastic"

    def check(self, shape: tuple[int, ...], dtype: Any) -> str | None:
        return None

    def encode(self, x: jax.Array, positive: bool, bits: jax.Array | None) -> dict[str, jax.Array]:
        codes = x.astype(self.dtype) if bits is None else stochastic_round(x, self.dtype, bits)
        return {"codes": codes}

    def decode(self, arrays: dict[str, jax.Array], positive: bool) -> jax.Array:
        return arrays["codes"].astype(jnp.float32)
