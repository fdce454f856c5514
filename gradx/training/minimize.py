"""Run an optimizer to the minimum of a function, as one compiled loop."""

import enum
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import ScaleByBacktrackingLinesearchState, ScaleByZoomLinesearchState

from gradx.core.apply import apply_updates
from gradx.core.foreign import observe_of, widened
from gradx.core.ranges import FINITE, Range, check_number, declare_ranges
from gradx.core.tree import Tree
from gradx.engine.leaf_checks import scalar_dtype
from gradx.optimizers.lbfgs import lbfgs

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
        search must be its last link. None for `lbfgs()`.
      tol: stop where no element of the gradient is larger, at least 0. In float32, 1e-3 to 1e-5 times
        the function's scale can be reached.
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
        search = last_search(state)
        value, grad, spent = evaluated(value_fn, x, search, old.value, loop.grad)
        norm = largest(grad)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        if search is None:
            rejected, hopeless, progress = jnp.array(False), jnp.array(False), jnp.array(True)
        else:
            rejected = (search.info.decrease_error > 0) & (value > old.value)
            hopeless = search.learning_rate == 0
            progress = ~rejected & ((value < loop.least[0]) | (norm < loop.least[1]))
        idle = jnp.where(progress, 0, loop.idle + jnp.where(rejected, REJECTED, 1))
        idle = jnp.where(hopeless, PATIENCE, idle)
        steps, evaluations = old.steps + 1, old.evaluations + spent.astype(jnp.int32)
        status = ended(value, jnp.where(rejected, old.grad_norm, norm), steps, idle)
        x, value, norm, grad = choose(
            finite & ~rejected, (x, value, norm, grad), (old.x, old.value, old.grad_norm, loop.grad)
        )
        least = jnp.minimum(loop.least[0], value), jnp.minimum(loop.least[1], norm)
        return Loop(Minimum(x, value, norm, steps, evaluations, status), grad, state, least, idle)

    value, grad = jax.value_and_grad(value_fn)(x0)
    norm = largest(grad)
    tol = tol.astype(norm.dtype)
    nothing = jnp.zeros((), jnp.int32)
    status = ended(value, norm, nothing, nothing)
    start = Minimum(x0, value, norm, nothing, nothing + 1, status)
    loop = Loop(start, grad, tx.init(x0), (value, norm), nothing)
    return jax.lax.while_loop(lambda loop: loop.found.status == RUNNING, step, loop).found


def scalar_function(fun: Callable, x0: Tree, args: tuple) -> Callable[[Tree], jax.Array]:
    """`fun` as a function of x alone, checked, in the precision of x."""
    dtype = scalar_dtype(dict(enumerate(jax.tree.leaves(x0))))
    out = jax.eval_shape(fun, x0, *args)
    is_real = hasattr(out, "dtype") and jnp.issubdtype(out.dtype, jnp.floating)
    if not is_real or out.shape:
        raise TypeError(f"minimize: fun must give one real number, and gave {out}")
    return lambda x: jnp.asarray(fun(x, *args), dtype)


def last_search(state: Any) -> Any:
    """The state of the line search, if there is one: the last, if there are more."""
    is_search = lambda s: isinstance(s, ScaleByZoomLinesearchState | ScaleByBacktrackingLinesearchState)
    return next((s for s in jax.tree.leaves(state, is_search)[::-1] if is_search(s)), None)


def evaluated(value_fn: Callable, x: Tree, search: Any, old_value: Any, old_grad: Tree) -> tuple:
    """Value and gradient at x, from the line search if it has them, and the evaluations spent on them."""
    if search is None or search.grad is None:
        spent = 0 if search is None else search.info.num_linesearch_steps
        return *jax.value_and_grad(value_fn)(x), jnp.asarray(1 + spent)
    stays = search.learning_rate == 0  # then it may have ended at a point where the value is NaN
    value = jnp.asarray(search.value, old_value.dtype)
    return *choose(stays, (old_value, old_grad), (value, search.grad)), search.info.num_linesearch_steps


def choose(first: jax.Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)


def largest(grad: Tree) -> jax.Array:
    """The largest absolute element; NaN if one is NaN."""
    leaves = dict(enumerate(jax.tree.leaves(grad)))
    dtype = scalar_dtype(leaves)
    return functools.reduce(
        jnp.maximum, [jnp.max(jnp.abs(g), initial=0.0).astype(dtype) for g in leaves.values()]
    )
