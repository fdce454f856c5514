"""Small functions of one array."""

import functools
from collections.abc import Hashable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.typing import DTypeLike

__all__ = []


def increment(count: jax.Array) -> jax.Array:
    """`count + 1`, stopping at the largest integer instead of wrapping around."""
    return jnp.where(count < jnp.iinfo(count.dtype).max, count + 1, count)


def abs_sq(x: jax.Array) -> jax.Array:
    """`|x|²`, real for complex `x` too."""
    return x.real * x.real + x.imag * x.imag if jnp.iscomplexobj(x) else x * x


def other_axes(axis: int, ndim: int) -> tuple[int, ...]:
    """All axes but one."""
    return tuple(i for i in range(ndim) if i != axis)


def real_size(x: jax.Array) -> int:
    """The number of real numbers in `x`."""
    return 2 * x.size if jnp.iscomplexobj(x) else x.size


def zeros_beside(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Zeros of the shape of `x`, on its devices and with its sharding, under jit too."""
    return (traced_zeros if isinstance(x, Tracer) else jnp.zeros_like)(x, dtype=dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def traced_zeros(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    # Zeros do not depend on `x`, and would all be on one device. So a condition selects between `x` and
    # zeros; the compiler does not see that it never holds.
    never = lax.optimization_barrier(jnp.zeros((), bool))
    given = x if jnp.issubdtype(dtype, jnp.complexfloating) else x.real
    return lax.select(never, given.astype(dtype), jnp.zeros_like(x, dtype=dtype))


# XLA compiles identical kernels once, but two that read at different offsets of a buffer are not identical: a
# thousand arrays in one buffer would need a thousand kernels.
PER_BATCH = 16


def alike(kinds: Mapping[int, Hashable]) -> list[list[int]]:
    """The positions of equal kinds, in order, in lists of at most PER_BATCH."""
    positions: dict[Hashable, list[int]] = {}
    for i, kind in kinds.items():
        positions.setdefault(kind, []).append(i)
    return [p[i : i + PER_BATCH] for p in positions.values() for i in range(0, len(p), PER_BATCH)]
