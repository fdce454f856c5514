"""An array in a smaller format, as a pytree that knows how to read itself."""

import abc
import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp

__all__ = ["Codec", "Stored", "decode_state"]


class Codec(abc.ABC):
    """A format: how to write a floating-point array in fewer bytes, and how to read it. Plain data.

    `encode` and `decode` are functions of one array, made of elementwise operations and reductions along the
    last axis, so that XLA or one fused kernel runs them together with the rule between them. A
    decoded array encodes to the same bits again. `positive` says that no element is below 0, as in an average
    of squares; then an element above 0 never decodes to 0, or a rule that divides by it would explode.
    """

    @property
    @abc.abstractmethod
    def stochastic(self) -> bool:
        """Whether `encode` needs random bits."""

    def check(self, shape: tuple[int, ...], dtype: Any) -> str | None:
        """Why the array cannot be stored, as a phrase with the mend; None if it can.

        Raises ValueError where this can only be a mistake: a given block does not divide.
        """
        return not_real(dtype)

    @abc.abstractmethod
    def encode(self, x: jax.Array, positive: bool, bits: jax.Array | None) -> dict[str, jax.Array]:
        """The arrays that hold `x` (float32): its `codes`, and their `scales` if there are any.

        `bits` are 32 random bits for each element, where the codec is stochastic.
        """

    @abc.abstractmethod
    def decode(self, arrays: dict[str, jax.Array], positive: bool) -> jax.Array:
        """`x` in float32, or nearly so."""

    def __repr__(self) -> str:
        """The call, without arguments at their defaults."""
        fields: Any = [(f, getattr(self, f.name)) for f in dataclasses.fields(cast(Any, self))]
        shown = [f"{f.name}={value!r}" for f, value in fields if value != f.default]
        return f"{type(self).__name__}({', '.join(shown)})"


def one_of(codec: Codec, **allowed: tuple) -> None:
    """Raise unless each field has one of the values allowed."""
    for name, values in allowed.items():
        value = getattr(codec, name)
        if not any(value is x or (type(value) is type(x) and value == x) for x in values):
            listed = " or ".join([", ".join(map(repr, values[:-1])), repr(values[-1])])
            raise ValueError(f"{type(codec).__name__}: {name} must be {listed}, got {value!r}")


def not_real(dtype: Any) -> str | None:
    """Why an array of this dtype cannot be stored, and the mend; None if it can."""
    if jnp.issubdtype(dtype, jnp.floating):
        return None
    return f"it is {jnp.dtype(dtype)}, and only real floating point can be stored: leave it out"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Stored:
    """A slot in a smaller format. `slot.decode()` is the array."""

    arrays: dict[str, jax.Array]
    codec: Codec = dataclasses.field(metadata={"static": True})
    positive: bool = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})  # of the array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array; packed codes have another."""
        return jax.eval_shape(Stored.decode, self).shape

    def decode(self) -> jax.Array:
        """The array, in its own dtype."""
        return self.codec.decode(self.arrays, self.positive).astype(self.dtype)

    def encode(self, x: jax.Array, bits: jax.Array | None = None) -> "Stored":
        """Another array in the same format."""
        arrays = self.codec.encode(x.astype(jnp.float32), self.positive, bits)
        return dataclasses.replace(self, arrays=arrays)

    def __repr__(self) -> str:
        is_array = lambda x: hasattr(x, "dtype") and hasattr(x, "shape")  # a tree may hold anything
        shown = lambda x: f"{x.dtype}{list(x.shape)}" if is_array(x) else repr(x)
        held = "".join(f", {k}: {shown(x)}" for k, x in self.arrays.items())
        return f"Stored({self.codec!r}{held})"


def is_stored(x: Any) -> bool:
    return isinstance(x, Stored)


def decode_state(state: Any) -> Any:
    """A state with ordinary arrays in place of those in smaller formats."""
    return jax.tree.map(lambda x: x.decode() if is_stored(x) else x, state, is_leaf=is_stored)
