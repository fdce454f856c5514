"""Array math shared by the rules. No pytrees and no state in this file."""

import math
from typing import Any

import jax
import jax.numpy as jnp

__all__ = []  # internal: rules import what they need by name


def compute_dtype(dtype: Any) -> Any:
    """The dtype in which a rule computes on arrays of `dtype`: never below float32."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jax.dtypes.canonicalize_dtype(dtype)


def real_dtype(dtype: Any) -> Any:
    """The dtype of the absolute value: float32 for complex64, else `dtype` itself."""
    return jnp.finfo(dtype).dtype


def promoted(*dtypes: Any) -> Any:
    """The dtype that holds them all, by JAX's ordinary rules even where promotion is set to strict."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def lerp(new: jax.Array, old: jax.Array, b: Any) -> jax.Array:
    """`b * old + (1 - b) * new`, one step of an exponential moving average."""
    return b * old + (1 - b) * new


def correction(b: Any, t: jax.Array) -> Any:
    """`1 / (1 - bᵗ)`: the factor that undoes the zero start of a moving average after `t` steps."""
    # A Python number keeps its double precision here: rounded to float32, 0.999 is off by enough to
    # move the result by 1e-5. And expm1, because 1 - bᵗ cancels for b near 1.
    if isinstance(b, float | int):
        return -1 / jnp.expm1(t * (math.log(b) if b else -math.inf))
    is_zero = b == 0  # where the logarithm has no derivative
    return jnp.where(is_zero, 1.0, -1 / jnp.expm1(t * jnp.log(jnp.where(is_zero, 0.5, b))))


def increment(count: jax.Array) -> jax.Array:
    """`count + 1`, stopping at the largest integer instead of wrapping around."""
    return jnp.where(count < jnp.iinfo(count.dtype).max, count + 1, count)


def abs_sq(x: jax.Array) -> jax.Array:
    """`|x|²`, real for complex `x` too."""
    return x.real * x.real + x.imag * x.imag if jnp.iscomplexobj(x) else x * x


def sum_of_squares(x: jax.Array) -> jax.Array:
    """`Σ |x|²`: inf only if it overflows, NaN if any element is inf or NaN.

    So one number tells both the norm and whether everything was finite: `x - x` is 0 or NaN.
    (Nothing here needs a constant, which XLA:CPU would store as an array and read for each leaf.)
    """
    if jnp.iscomplexobj(x):
        return sum_of_squares(x.real) + sum_of_squares(x.imag)
    return jnp.sum(x * x + (x - x))


def norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm of `x`: inf only if its square overflows, NaN if an element is not finite."""
    return safe_sqrt(sum_of_squares(x))


def safe_sqrt(x: jax.Array) -> jax.Array:
    """`√x` with derivative 0 at 0, so that one can differentiate through an update."""
    return jnp.where(x == 0, 0.0, jnp.sqrt(jnp.where(x == 0, 1.0, x)))


def shrink(norm: jax.Array, max_norm: Any, size: int) -> tuple[jax.Array, jax.Array]:
    """`(scale, limit)` so that `saturated(x, limit) * scale` has a norm of at most `max_norm`.

    `norm` is that of `x`, which holds `size` real numbers. NaN gives NaN. Where the square of a finite norm
    overflowed, elements saturate at the largest number whose squares can still be added: the
    result is short, but finite and not zero.
    """
    largest = float(jnp.finfo(norm.dtype).max)
    overflows = jnp.isinf(norm)
    norm = jnp.where(overflows, largest**0.5, norm)
    fits = norm <= max_norm  # False for NaN, which then reaches every element
    limit = jnp.where(overflows & ~fits, (largest / max(size, 1)) ** 0.5, largest)
    return jnp.where(fits, 1.0, max_norm / jnp.where(fits, 1.0, norm)), limit


def real_size(x: jax.Array) -> int:
    """The number of real numbers in `x`."""
    return 2 * x.size if jnp.iscomplexobj(x) else x.size


def saturated(x: jax.Array, limit: jax.Array) -> jax.Array:
    """`x` with its real and imaginary parts clipped to ±`limit`."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(saturated(x.real, limit), saturated(x.imag, limit))
    return jnp.clip(x, -limit, limit)
