"""Norms and sums of squares of arrays."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from gradx.numerics.arrays import abs_sq, alike
from gradx.numerics.device_axes import differing, sum_over, varying

__all__ = []

Size: TypeAlias = Any  # a number of elements: an integer, or symbolic under jax.export


@jax.jit  # traced once for all leaves of a shape
def sum_of_squares(x: jax.Array) -> jax.Array:
    """`Σ |x|²`: inf if it overflows or an element is inf, NaN if one is NaN."""
    return jnp.sum(abs_sq(x))


def sums_of_squares(xs: list[jax.Array]) -> list[jax.Array]:
    """`sum_of_squares` of each; a batch of small arrays of one shape shares a kernel."""
    small = {i: (x.shape, x.dtype, varying(x)) for i, x in enumerate(xs) if in_range(x.size, SMALL)}
    sums: dict[int, jax.Array] = {}
    for run in alike(small):
        sums.update(zip(run, shared_sums([xs[i] for i in run]), strict=True))
    return [sums[i] if i in sums else sum_of_squares(x) for i, x in enumerate(xs)]


def in_range(size: Size, most: int) -> bool:
    """Whether a size is between 1 and `most`; False for a symbolic size, which may be any."""
    return isinstance(size, int) and 0 < size <= most


def size_power(size: Size, exponent: float, dtype: DTypeLike) -> float | jax.Array:
    """A power of a number of elements, which counts as at least 1; an array for a symbolic number."""
    if isinstance(size, int):
        return max(size, 1) ** exponent
    return jnp.asarray(size).astype(dtype) ** jnp.asarray(exponent, dtype)


# Elements of a small array. XLA:CPU sums one such array in three kernels, but several together in one kernel.
# That kernel adds the elements one by one, which for large arrays would take longer and lose digits.
SMALL = 4096


@jax.custom_jvp
@jax.jit
def shared_sums(xs: list[jax.Array]) -> list[jax.Array]:
    squares = [abs_sq(x) for x in xs]
    zeros = [jnp.zeros((), x.dtype) for x in squares]
    return jax.lax.reduce(squares, zeros, add_each, tuple(range(xs[0].ndim)))


def add_each(a: list[jax.Array], b: list[jax.Array]) -> list[jax.Array]:
    return [x + y for x, y in zip(a, b, strict=True)]


@shared_sums.defjvp  # JAX's rule for a reduction of several arrays fails where only some of them vary
def shared_sums_jvp(primals: tuple, tangents: tuple) -> tuple[list, list]:
    (xs,), (ts,) = primals, tangents
    return shared_sums(xs), [2 * jnp.sum((jnp.conj(x) * t).real) for x, t in zip(xs, ts, strict=True)]


def total(scalars: list[jax.Array], dtype: DTypeLike) -> jax.Array:
    """The sum of scalars, one for each leaf."""
    if not scalars:
        return jnp.zeros((), dtype)
    # Not a chain of additions: these are cheap, so XLA would copy the whole chain into the kernel of each
    # leaf, n times n additions. It keeps the result of a reduction, and the barrier stops it from undoing
    # this one.
    return jnp.sum(jax.lax.optimization_barrier(jnp.stack([x.astype(dtype) for x in scalars])))


def norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm of `x`: inf if its square overflows, NaN if an element is NaN."""
    return safe_sqrt(sum_of_squares(x))


def norms(*xs: jax.Array, axes: tuple[str, ...] = ()) -> list[jax.Array]:
    """`norm` of each; for arrays that are divided over the devices of named axes, of the whole array."""
    sums = sums_of_squares(list(xs))
    return [safe_sqrt(sum_over(s, differing(x, axes))) for s, x in zip(sums, xs, strict=True)]


def safe_sqrt(x: jax.Array) -> jax.Array:
    """`√x` with derivative 0 at 0, so that one can differentiate through an update."""
    return jnp.where(x == 0, 0.0, jnp.sqrt(jnp.where(x == 0, 1.0, x)))


def resize(norm: jax.Array, target: ArrayLike, size: Size) -> tuple[jax.Array, jax.Array]:
    """Factors `(a, b)` such that `x * a * b` has the norm `target`; finite if `norm` is 0.

    `norm` is the norm of `x`, which holds `size` real numbers. Where its square overflowed, the factors
    assume the largest norm that finite numbers can have: the direction is right, the result too short. There
    are two because their product is too small for a float; otherwise `a` is 1. NaN gives NaN, and inf stays
    inf.
    """
    return factors(jnp.zeros(norm.shape, bool), norm, target, size)


def shrink(norm: jax.Array, max_norm: ArrayLike, size: Size) -> tuple[jax.Array, jax.Array]:
    """`resize` to a norm of at most `max_norm`: both factors are 1 where `norm` is small enough."""
    return factors(norm <= max_norm, norm, max_norm, size)  # NaN fits nowhere, and reaches every element


def factors(fits: jax.Array, norm: jax.Array, target: ArrayLike, size: Size) -> tuple[jax.Array, jax.Array]:
    """The factors of `resize`, but 1 where `fits`."""
    # Divisions come last: XLA keeps the result of one, and copies anything cheaper into every leaf's kernel.
    largest = float(jnp.finfo(norm.dtype).max)
    overflows = jnp.isinf(norm) & ~fits
    norm = jnp.where(overflows, largest**0.5 * size_power(size, 0.5, norm.dtype), norm)
    a = 1 / jnp.where(overflows, largest**0.5, 1.0)
    return a, jnp.where(fits, 1.0, target) / jnp.where(fits | (norm == 0), 1.0, norm)
