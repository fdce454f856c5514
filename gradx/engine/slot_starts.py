"""The initial values of slots."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from gradx.numerics.arrays import zeros_beside
from gradx.numerics.dtypes import compute_dtype, real_dtype

__all__ = ["copy_slot", "full_slot", "zero_slot"]

Start: TypeAlias = Callable[[jax.Array], jax.Array]  # the initial slot of a parameter


def zero_slot(dtype: DTypeLike | None = None, *, real: bool = False) -> Start:
    """How to start a slot: zeros of the parameter's shape.

    They are in `dtype`; by default in the parameter's own, but at least float32. With `real=True` they are
    real for a complex parameter too, to hold absolute values.
    """
    if dtype is not None:
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"a slot must be floating point, got {dtype}")

    def start(p: jax.Array) -> jax.Array:
        own = compute_dtype(p.dtype)
        own = real_dtype(own) if real else own
        chosen = dtype or own
        if own.kind == "c" != chosen.kind:
            raise TypeError(f"{own} cannot be stored in {chosen}: choose a complex dtype, or none")
        return zeros_beside(p, chosen)

    return start


def full_slot(value: ArrayLike, dtype: DTypeLike | None = None, *, real: bool = False) -> Start:
    """How to start a slot: every element `value`, in the dtype of `zero_slot(dtype, real=real)`."""
    zero = zero_slot(dtype, real=real)

    def start(p: jax.Array) -> jax.Array:
        slot = zero(p)
        return slot + jnp.asarray(value, slot.dtype)  # keeps the sharding of p, as jnp.full would not

    return start


def copy_slot(dtype: DTypeLike | None = None) -> Start:
    """How to start a slot: a copy of the parameter, in the dtype of `zero_slot(dtype)`."""
    zero = zero_slot(dtype)
    return lambda p: jnp.array(p, zero(p).dtype)
