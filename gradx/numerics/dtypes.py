"""The dtypes of computations."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

__all__ = []

DType: TypeAlias = np.dtype


def compute_dtype(dtype: DTypeLike) -> DType:
    """The dtype in which a rule computes on arrays of `dtype`: never below float32."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jax.dtypes.canonicalize_dtype(dtype)


def real_dtype(dtype: DTypeLike) -> DType:
    """The dtype of the absolute value: float32 for complex64, else `dtype` itself."""
    return jnp.finfo(dtype).dtype


def promoted(*dtypes: DTypeLike) -> DType:
    """The dtype that holds them all, by JAX's ordinary rules even where promotion is set to strict."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)
