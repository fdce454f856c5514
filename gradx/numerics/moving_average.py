"""Exponential moving averages, and the correction of their zero start."""

import math
from typing import Any

import jax
import jax.numpy as jnp

__all__ = []


def lerp(new: jax.Array, old: jax.Array, b: Any) -> jax.Array:
    """`b * old + (1 - b) * new`, one step of an exponential moving average."""
    return b * old + (1 - b) * new


def correction(b: Any, t: jax.Array) -> Any:
    """`1 / (1 - bᵗ)`: the factor that undoes the zero start of a moving average after `t` steps.

    1 for b = 1: nothing was averaged, and the average is as it started.
    """
    # A Python number keeps its double precision here: rounded to float32, 0.999 is off by enough to
    # move the result by 1e-5. And expm1, because 1 - bᵗ cancels for b near 1.
    if isinstance(b, float | int):
        return -1 / jnp.expm1(t * (math.log(b) if 0 < b < 1 else -math.inf))
    is_end = (b == 0) | (b == 1)  # where the logarithm has no derivative, or divides by 0
    return jnp.where(is_end, 1.0, -1 / jnp.expm1(t * jnp.log(jnp.where(is_end, 0.5, b))))


def correction_ahead(b: Any, c: Any) -> Any:
    """The correction at the next step, whose decay rate is `b`, from the correction `c` at this step."""
    return 1 / ((1 - b) + b / c)


def weight_correction(weight: jax.Array) -> jax.Array:
    """The correction of an average with this sum of weights; 1 for 0, where nothing was averaged."""
    return 1 / jnp.where(weight == 0, 1.0, weight)
