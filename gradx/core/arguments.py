"""Extra arguments of `update` that are one number; an error names the transformation and the argument."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gradx.core.tree import Extra

__all__ = []  # internal: a transformation that takes a number calls `argument`


def argument(owner: str, name: str, extra: Extra, dtype: DTypeLike | None = None) -> jax.Array:
    """A number that must be given to `update` as an extra argument. None counts as not given."""
    return scalar(owner, name, needed(owner, name, extra.get(name)), dtype)


def needed(owner: str, name: str, value: Any) -> Any:
    """The value of an extra argument. Raises TypeError for None, which counts as not given."""
    if value is None:
        raise TypeError(f"{owner} needs {name!r}: call update(updates, state, params, {name}=...)")
    return value


def scalar(owner: str, name: str, value: Any, dtype: DTypeLike | None = None) -> jax.Array:
    """One real number as an array, in `dtype`; by default in the number's own dtype, or float for an integer.

    A Python number, a NumPy scalar, an array without axes and an object that converts to one are numbers. An
    array with axes raises ValueError, anything else TypeError.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, np.generic):
        return jnp.asarray(float(value), float if dtype is None else dtype)
    if not hasattr(value, "dtype") and not hasattr(value, "__jax_array__"):
        raise TypeError(f"{owner}: {name} must be one number, got {value!r}")
    x = value if hasattr(value, "dtype") else jnp.asarray(value)
    is_real = jnp.issubdtype(x.dtype, jnp.bool_) or jnp.issubdtype(x.dtype, jnp.number)
    if not is_real or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"{owner}: {name} must be one real number, got an array of {x.dtype}")
    if jnp.shape(x):
        raise ValueError(f"{owner}: {name} must be one number, got an array of shape {jnp.shape(x)}")
    own = jax.dtypes.canonicalize_dtype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else float
    return jnp.asarray(x, own if dtype is None else dtype)
