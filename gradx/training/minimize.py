"""Run an optimizer to the minimum of a function, as one compiled loop."""

import enum
import functools
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import tree_leaves_with_path

from gradx.core.apply import apply_updates
from gradx.core.foreign import observe_of, widened
from gradx.core.ranges import FINITE, Range, check_number, declare_ranges
from gradx.core.tree import Tree
from gradx.engine.leaf_checks import scalar_dtype
from gradx.optimizers.lbfgs import lbfgs
from gradx.selection.held import held_paths
from gradx.training.searches import all_failed, any_missed, choose, evaluated, searches, unit_of

__all__ = ["Minimum", "Status", "minimize"]

STEPS = Range(lambda x: 0 <= x < 2**31, "at least 0 and below 2**31")
declare_ranges(tol=FINITE, max_steps=STEPS)


class Status(enum.IntEnum):
    """How `minimize` ended."""

    CONVERGED = 0
    STEP_LIMIT = 1
    STALLED = 2
    NOT_FINITE = 3

    @property
    def message(self) -> str:
        """The same in words."""
        return MESSAGES[self]


MESSAGES = {
    Status.CONVERGED: "converged: no element of the gradient is larger than tol",
    Status.STEP_LIMIT: "stopped at max_steps, before the gradient was as small as tol",
    Status.STALLED: "stalled: the line search finds no lower value any more; near the minimum, tol is "
    "below what the dtype can resolve; elsewhere, is the gradient right?",
    Status.NOT_FINITE: "the value or the gradient is not finite, at x0 or at the next step; x is the last "
    "point before, so try smaller steps or another x0",
}


class Minimum(NamedTuple):
    """The result of `minimize`: scalars, but for `x`.

    `grad_norm` is the largest absolute element of the gradient at `x`, `steps` the number of updates,
    `evaluations` how often the function was evaluated, with or without its gradient, and `status` a
    `Status` as an int32.
    """

    x: Any
    value: jax.Array
    grad_norm: jax.Array
    steps: jax.Array
    evaluations: jax.Array
    status: jax.Array

    @property
    def message(self) -> str:
        """The status in words; outside of jit."""
        return Status(int(self.status)).message


def minimize(
    fun: Callable[..., Any],
    x0: Tree,
    args: tuple = (),
    *,
    tx: optax.GradientTransformation | None = None,
    tol: float = 1e-5,
    max_steps: int = 1000,
) -> Minimum:
    """Minimize a smooth function by L-BFGS with a line search, or by any other optimizer.

    Arguments:
      fun: a function `fun(x, *args)` that JAX can differentiate and gives one real number.
      x0: where to start: an array, a number, or any tree of them; real. `x` has its structure, in
        float32 or better.
      args: a tuple of arrays, or of trees of arrays, such as the data of a fit.
      tx: any optimizer of gradx or Optax; `update` is given `value`, `grad` and `value_fn` too. A line
        search must be its last link, or that of a group: `groups(lbfgs(), {"^b": frozen()})` minimizes over
        some of the parameters, and the gradients of frozen ones do not count. None for `lbfgs()`.
      tol: stop where no element of the gradient is larger, at least 0. In float32, 1e-3 to 1e-5 times
        the function's scale can be reached, whatever that is: with a line search, `1e20 * fun` takes the
        steps of `fun`.
      max_steps: how many updates at most, at least 0.

    It compiles once for each `fun` (the same object), `tx` (an equal one), and shapes; it may be called
    under jit and vmap. The loop also ends where a line search stalls (see `Status`) or a value is not
    finite; `status` and `message` of the result say which. Raises TypeError if `fun` gives anything
    but one real number, or `x0` is complex.

    >>> import gradx, jax.numpy as jnp
    >>> found = gradx.minimize(lambda x: jnp.sum((x - 3.0) ** 2), jnp.zeros(2))
    >>> bool(jnp.allclose(found.x, 3.0)), found.message[:9]
    (True, 'converged')
    """
    owner = "minimize"
    if not isinstance(args, tuple):
        raise TypeError(f"{owner}: args must be a tuple, got {type(args).__name__}: write (args,)")
    check_number(owner, tol=tol, max_steps=max_steps)
    x0 = jax.tree.map(as_real, x0)
    if not jax.tree.leaves(x0):
        raise ValueError(f"{owner}: x0 holds no arrays")
    tx = lbfgs() if tx is None else tx
    return run(fun, tx, x0, args, jnp.asarray(tol, float), jnp.asarray(max_steps, jnp.int32))


def as_real(x: Any) -> jax.Array:
    """A number or an array as an array of floats that a rule can compute on."""
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        raise TypeError("minimize: x0 must be real; take real and imaginary parts as two parameters")
    return widened(x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float))


class Loop(NamedTuple):
    """The values that one step hands to the next."""

    found: Minimum  # so far
    grad: Tree  # at found.x
    state: Any
    least: tuple[jax.Array, jax.Array]  # the least value and gradient norm of all steps
    idle: jax.Array  # steps in a row without progress


RUNNING = -1
PATIENCE = 5  # steps in a row without progress, after which the line search has stalled ...
REJECTED = 2  # ... and how many of them a step counts for that goes up, and is rejected


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(fun: Callable, tx: Any, x0: Tree, args: tuple, tol: jax.Array, max_steps: jax.Array) -> Minimum:
    """The loop, compiled."""
    observe = observe_of("tx of minimize", tx)
    value_fn = scalar_function(fun, x0, args)
    held = held_paths(tx, x0)
    value, grad = jax.value_and_grad(value_fn)(x0)
    norm = largest(grad, held)
    state = tx.init(x0)
    unit = jnp.ones_like(norm)
    if searches(state):  # any other optimizer has a learning rate, which is meant for the function as it is
        unit = unit_of(norm)
        inverse = 1 / unit
        as_given, value_fn = value_fn, lambda x: as_given(x) * inverse.astype(value.dtype)
        value, norm = value * inverse.astype(value.dtype), norm * inverse
        grad = jax.tree.map(lambda g: g * inverse.astype(g.dtype), grad)
    tol = tol.astype(norm.dtype) / unit

    def ended(value, norm, steps, idle):
        return jnp.select(
            [~(jnp.isfinite(value) & jnp.isfinite(norm)), norm <= tol, idle >= PATIENCE, steps >= max_steps],
            [jnp.int32(s) for s in (Status.NOT_FINITE, Status.CONVERGED, Status.STALLED, Status.STEP_LIMIT)],
            jnp.int32(RUNNING),
        )

    def step(loop):
        old = loop.found
        at_old = {"value": old.value, "grad": loop.grad, "value_fn": value_fn}
        updates, state, _ = observe(loop.grad, loop.state, old.x, **at_old)
        x = apply_updates(old.x, updates)
        found = searches(state)
        value, grad, spent = evaluated(value_fn, x, found, old.value, loop.grad)
        norm = largest(grad, held)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        rejected = any_missed(found) & (value > old.value)
        progress = ~rejected & ((value < loop.least[0]) | (norm < loop.least[1]))
        progress |= jnp.array(not found)
        idle = jnp.where(progress, 0, loop.idle + jnp.where(rejected, REJECTED, 1))
        idle = jnp.where(all_failed(found) & are_equal(x, old.x), PATIENCE, idle)
        steps, evaluations = old.steps + 1, old.evaluations + spent.astype(jnp.int32)
        status = ended(value, jnp.where(rejected, old.grad_norm, norm), steps, idle)
        x, value, norm, grad = choose(
            finite & ~rejected, (x, value, norm, grad), (old.x, old.value, old.grad_norm, loop.grad)
        )
        least = jnp.minimum(loop.least[0], value), jnp.minimum(loop.least[1], norm)
        return Loop(Minimum(x, value, norm, steps, evaluations, status), grad, state, least, idle)

    nothing = jnp.zeros((), jnp.int32)
    start = Minimum(x0, value, norm, nothing, nothing + 1, ended(value, norm, nothing, nothing))
    loop = Loop(start, grad, state, (value, norm), nothing)
    found = jax.lax.while_loop(lambda loop: loop.found.status == RUNNING, step, loop).found
    return found._replace(value=found.value * unit.astype(value.dtype), grad_norm=found.grad_norm * unit)


def scalar_function(fun: Callable, x0: Tree, args: tuple) -> Callable[[Tree], jax.Array]:
    """`fun` as a function of x alone, checked, in the precision of x."""
    dtype = scalar_dtype(dict(enumerate(jax.tree.leaves(x0))))
    out = jax.eval_shape(fun, x0, *args)
    is_real = hasattr(out, "dtype") and jnp.issubdtype(out.dtype, jnp.floating)
    if not is_real or out.shape:
        raise TypeError(f"minimize: fun must give one real number, and gave {out}")
    return lambda x: jnp.asarray(fun(x, *args), dtype)


def are_equal(a: Tree, b: Tree) -> jax.Array:
    """Whether all elements are the same."""
    return jnp.all(jnp.stack([jnp.all(x == y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]))


def largest(grad: Tree, held: Container[tuple]) -> jax.Array:
    """The largest absolute element, but for parameters that are held; NaN if one is NaN."""
    dtype = scalar_dtype(dict(enumerate(jax.tree.leaves(grad))))
    free = [g for path, g in tree_leaves_with_path(grad) if path not in held]
    elements = [jnp.max(jnp.abs(g), initial=0.0).astype(dtype) for g in free]
    return functools.reduce(jnp.maximum, elements, jnp.zeros((), dtype))
