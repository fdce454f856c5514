"""Array math shared by the rules. No pytrees and no state in this file."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from gradx.batches import alike

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


def correction_ahead(b: Any, c: Any) -> Any:
    """The correction of the next step, for a decay rate `b` then, from that of this step, `c`."""
    return 1 / ((1 - b) + b / c)


def increment(count: jax.Array) -> jax.Array:
    """`count + 1`, stopping at the largest integer instead of wrapping around."""
    return jnp.where(count < jnp.iinfo(count.dtype).max, count + 1, count)


def abs_sq(x: jax.Array) -> jax.Array:
    """`|x|²`, real for complex `x` too."""
    return x.real * x.real + x.imag * x.imag if jnp.iscomplexobj(x) else x * x


@jax.jit  # traced once for all leaves of a shape
def sum_of_squares(x: jax.Array) -> jax.Array:
    """`Σ |x|²`: inf if it overflows or an element is inf, NaN if one is NaN."""
    return jnp.sum(abs_sq(x))


def sums_of_squares(xs: list[jax.Array]) -> list[jax.Array]:
    """`sum_of_squares` of each, where a batch of small arrays of one shape share a kernel."""
    small = {i: (x.shape, x.dtype) for i, x in enumerate(xs) if 0 < x.size <= SMALL}
    sums: dict[int, jax.Array] = {}
    for run in alike(small):
        sums.update(zip(run, shared_sums([xs[i] for i in run]), strict=True))
    return [sums[i] if i in sums else sum_of_squares(x) for i, x in enumerate(xs)]


# Of elements: XLA:CPU sums a small array in three kernels, several of them together in one, but that adds
# the elements one by one, which for large arrays would take longer and lose digits.
SMALL = 4096


@jax.custom_jvp
@jax.jit
def shared_sums(xs: list[jax.Array]) -> list[jax.Array]:
    squares = [abs_sq(x) for x in xs]
    add = lambda a, b: [x + y for x, y in zip(a, b, strict=True)]
    zeros = [jnp.zeros((), x.dtype) for x in squares]
    return jax.lax.reduce(squares, zeros, add, tuple(range(xs[0].ndim)))


@shared_sums.defjvp  # that of a reduction of several arrays fails where only some of them vary
def shared_sums_jvp(primals: tuple, tangents: tuple) -> tuple[list, list]:
    (xs,), (ts,) = primals, tangents
    return shared_sums(xs), [2 * jnp.sum((jnp.conj(x) * t).real) for x, t in zip(xs, ts, strict=True)]


def total(scalars: list[jax.Array], dtype: Any) -> jax.Array:
    """The sum of scalars, one for each leaf."""
    if not scalars:
        return jnp.zeros((), dtype)
    # Not a chain of additions: as cheap operations XLA would copy the whole chain into every leaf's kernel,
    # n leaves of n additions. It keeps a reduction's result, and the barrier stops it from undoing this one.
    return jnp.sum(jax.lax.optimization_barrier(jnp.stack([x.astype(dtype) for x in scalars])))


def norm(x: jax.Array) -> jax.Array:
    """The Euclidean norm of `x`: inf if its square overflows, NaN if an element is NaN."""
    return safe_sqrt(sum_of_squares(x))


def norms(*xs: jax.Array) -> list[jax.Array]:
    """`norm` of each."""
    return [safe_sqrt(x) for x in sums_of_squares(list(xs))]


def safe_sqrt(x: jax.Array) -> jax.Array:
    """`√x` with derivative 0 at 0, so that one can differentiate through an update."""
    return jnp.where(x == 0, 0.0, jnp.sqrt(jnp.where(x == 0, 1.0, x)))


def resize(norm: jax.Array, target: Any, size: int) -> tuple[jax.Array, jax.Array]:
    """Factors `(a, b)` such that `x * a * b` has the norm `target`; finite if `norm` is 0.

    `norm` is that of `x`, which holds `size` real numbers. Where its square overflowed, the factors go
    by the largest norm that finite numbers can have: the direction is right, the result short. They are
    two, as their product is too small for a float; else `a` is 1. NaN gives NaN, and inf stays inf.
    """
    return factors(jnp.zeros(norm.shape, bool), norm, target, size)


def shrink(norm: jax.Array, max_norm: Any, size: int) -> tuple[jax.Array, jax.Array]:
    """As `resize`, to a norm of at most `max_norm`: both factors are 1 where `norm` is that already."""
    return factors(norm <= max_norm, norm, max_norm, size)  # NaN fits nowhere, and reaches every element


def factors(fits: jax.Array, norm: jax.Array, target: Any, size: int) -> tuple[jax.Array, jax.Array]:
    """The two of `resize`, but 1 where it `fits`."""
    # Divisions come last: XLA keeps the result of one, and copies anything cheaper into every leaf's kernel.
    largest = float(jnp.finfo(norm.dtype).max)
    overflows = jnp.isinf(norm) & ~fits
    norm = jnp.where(overflows, largest**0.5 * max(size, 1) ** 0.5, norm)
    a = 1 / jnp.where(overflows, largest**0.5, 1.0)
    return a, jnp.where(fits, 1.0, target) / jnp.where(fits | (norm == 0), 1.0, norm)


def other_axes(axis: int, ndim: int) -> tuple[int, ...]:
    """All axes but one."""
    return tuple(i for i in range(ndim) if i != axis)


def real_size(x: jax.Array) -> int:
    """The number of real numbers in `x`."""
    return 2 * x.size if jnp.iscomplexobj(x) else x.size


def zeros_beside(x: Any, dtype: Any) -> jax.Array:
    """Zeros of the shape of `x`, on the devices of `x` and divided as it is, under jit too."""
    return (traced_zeros if isinstance(x, Tracer) else jnp.zeros_like)(x, dtype=dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def traced_zeros(x: jax.Array, dtype: Any) -> jax.Array:
    # Zeros do not depend on `x`, and would all be on one device. So they are selected, `x` being the other
    # choice, by a condition of which the compiler does not see that it never holds.
    never = lax.optimization_barrier(jnp.zeros((), bool))
    given = x if jnp.issubdtype(dtype, jnp.complexfloating) else x.real
    return lax.select(never, given.astype(dtype), jnp.zeros_like(x, dtype=dtype))
