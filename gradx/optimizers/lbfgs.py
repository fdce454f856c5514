"""L-BFGS (Liu & Nocedal 1989)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import ScaleByLBFGSState

from gradx.codecs.exact import declare_exact
from gradx.core.chain import chain, identity
from gradx.core.factory import factory
from gradx.core.foreign import widened
from gradx.core.hyperparameters import ScalarOrSchedule, as_scalar
from gradx.core.ranges import DECAY, check_number, declare_ranges, positive_integer
from gradx.core.reports import Reports
from gradx.core.transformation import HINT, GradientTransformation, check_state
from gradx.core.tree import Tree, aligned, flatten
from gradx.engine.leaf_checks import Place, params_of, present, promotion, scalar_dtype, slot_like
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import increment
from gradx.numerics.device_axes import varying_like
from gradx.numerics.norms import total
from gradx.transforms.linesearch import scale_by_zoom_linesearch
from gradx.transforms.scale import scale, scale_by_learning_rate

__all__ = ["ScaleByLBFGSState", "lbfgs", "scale_by_lbfgs"]

declare_ranges(min_curvature=DECAY)
declare_exact("params", "updates", of=ScaleByLBFGSState)

OWNER = "scale_by_lbfgs"
ZOOM = scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")
MEMORIES = ("diff_params_memory", "diff_updates_memory")


@factory
def scale_by_lbfgs(
    memory_size: int = 10, scale_init_precond: bool = True, *, min_curvature: float = 1e-8
) -> GradientTransformation:
    """Multiply by an inverse Hessian made from the last steps and the changes of the gradient in them.

        s, y = p - previous p,  g - previous g;  kept if s·y > min_curvature * ‖s‖ * ‖y‖
        H    = (I - ρ y sᵀ)ᵀ H (I - ρ y sᵀ) + ρ s sᵀ for each pair kept, oldest first, with ρ = 1 / s·y
        u    = H g,  starting from H = s·y / y·y of the newest pair, or min(1, 1 / ‖g‖) if there is none

    Arguments:
      memory_size: how many pairs to remember, at least 1; 5 to 20.
      scale_init_precond: False starts from H = 1.
      min_curvature: the least cosine of the angle between s and y, at least 0 and less than 1. A pair
        below would turn H away from descent or blow it up; it is left out (Nocedal & Wright 2006, §7.2).

    Products are sums over all parameters, in float32 or better. `update` must be called at each new
    point, with its own gradient. Raises ValueError if it is called without parameters.
    """
    positive_integer(OWNER, memory_size=memory_size)
    check_number(OWNER, min_curvature=min_curvature)

    def init(params: Tree) -> Any:
        leaves, treedef = flatten(params)
        here = present(leaves, treedef, OWNER)

        def zeros(stack: bool) -> Tree:
            column = list(leaves)
            for i, p in here.items():
                zero = zero_slot()(p)
                column[i] = varying_like(jnp.stack([zero] * memory_size) if stack else zero, p)
            return treedef.unflatten(column)

        weights = varying_like(jnp.zeros(memory_size, scalar_dtype(here)), *here.values())
        return ScaleByLBFGSState(
            jnp.zeros((), jnp.int32), zeros(False), zeros(False), zeros(True), zeros(True), weights
        )

    def observe(updates: Tree, state: Any, params: Tree = None, **extra: Any) -> tuple[Tree, Any, Reports]:
        if params is None:
            raise ValueError(f"{OWNER} needs the parameters: call update(updates, state, params)")
        check_state(OWNER, ScaleByLBFGSState, state)
        leaves, treedef = flatten(updates)
        found = present(leaves, treedef, OWNER)
        gs, ps = widened(found), widened(params_of(found, params, treedef, OWNER))
        fields = ("params", "updates", *MEMORIES)
        columns = {
            k: aligned(treedef, getattr(state, k), ("the updates", f"the state's {k}"), HINT) for k in fields
        }
        # A restored state may hold NumPy arrays.
        slots = {k: widened({i: columns[k][i] for i in gs}) for k in fields}
        with promotion((gs, ps, slots)):
            us, new, weights = step(gs, ps, slots, jnp.asarray(state.weights_memory), state.count)
        weights = varying_like(weights, state.weights_memory)
        for i, u in us.items():
            leaves[i] = u
            for k, column in columns.items():
                column[i] = slot_like(new[k][i], column[i], k, Place(OWNER, treedef, i))
        trees = {k: treedef.unflatten(column) for k, column in columns.items()}
        new_state = ScaleByLBFGSState(count=increment(state.count), weights_memory=weights, **trees)
        return treedef.unflatten(leaves), new_state, ()

    def step(gs: dict, ps: dict, slots: dict, weights: jax.Array, count: jax.Array) -> tuple[dict, dict, Any]:
        """The direction, the new slots and weights; all arrays by position."""
        s, y = subtract(ps, slots["params"]), subtract(gs, slots["updates"])
        curvature, y_squares = dot(s, y, weights.dtype), dot(y, y, weights.dtype)
        lengths = jnp.sqrt(dot(s, s, weights.dtype)) * jnp.sqrt(y_squares)
        bound = jnp.maximum(as_scalar(min_curvature, weights.dtype) * lengths, jnp.finfo(weights.dtype).tiny)
        keep = (count > 0) & (curvature > bound)
        newest = (count - 1) % memory_size
        # A pair that is not kept is stored as zeros: a NaN would come back, whatever its weight.
        put = lambda memory, x: memory.at[newest].set(jnp.where(keep, x, 0.0).astype(memory.dtype))
        s_memory, y_memory = (
            {i: put(slots[k][i], x[i]) for i in gs} for k, x in zip(MEMORIES, (s, y), strict=True)
        )
        # Divided by 1 where it is not kept: the derivative of a step without curvature would be NaN.
        weights = weights.at[newest].set(jnp.where(keep, 1 / jnp.where(keep, curvature, 1.0), 0.0))
        order = (count + jnp.arange(memory_size, dtype=count.dtype)) % memory_size  # oldest first
        start = 1.0
        if scale_init_precond:
            # A branch, because outside of one XLA would copy a memory that is both read and written.
            from_memory = lambda: newest_scale(gs, y_memory, weights, order)
            start = jax.lax.cond(keep, lambda: curvature / y_squares, from_memory)
        us = two_loops(gs, s_memory, y_memory, weights, order, start)
        own = lambda xs: {i: jnp.copy(x) for i, x in xs.items()}  # the caller may donate the originals
        return us, dict(zip(slots, (own(ps), own(gs), s_memory, y_memory), strict=True)), weights

    return GradientTransformation.of(init, observe)


def subtract(a: dict, b: dict) -> dict:
    return {i: x - b[i] for i, x in a.items()}


def dot(a: dict, b: dict, dtype: Any) -> jax.Array:
    """Σ a·b over all arrays, real for complex ones too; no matrix product, which may round to 16 bits."""
    return total([jnp.sum((jnp.conj(x) * b[i]).real) for i, x in a.items()], dtype)


def newest_scale(gs: dict, y_memory: dict, weights: jax.Array, order: jax.Array) -> jax.Array:
    """s·y / y·y of the newest pair that has a weight; without one, Optax's first step of at most 1."""
    kept = weights[order] > 0
    newest = order[order.size - 1 - jnp.argmax(kept[::-1])]
    y = {i: memory[newest] for i, memory in y_memory.items()}
    squares = weights[newest] * dot(y, y, weights.dtype)
    g_norm = jnp.sqrt(dot(gs, gs, weights.dtype))
    return 1 / jnp.where(jnp.any(kept), squares, jnp.maximum(g_norm, 1.0))


def two_loops(gs: dict, s_memory: dict, y_memory: dict, weights: Any, order: Any, start: Any) -> dict:
    """H g, by the two-loop recursion (Nocedal 1980; Nocedal & Wright 2006, algorithm 7.4)."""
    row = lambda memory, i: {k: m[i] for k, m in memory.items()}
    add = lambda x, c, d: {k: (v + c.astype(v.real.dtype) * d[k]).astype(v.dtype) for k, v in x.items()}

    def back(q, i):
        a = weights[i] * dot(row(s_memory, i), q, weights.dtype)
        return add(q, -a, row(y_memory, i)), a

    def forth(r, at):
        i, a = at
        b = weights[i] * dot(row(y_memory, i), r, weights.dtype)
        return add(r, a - b, row(s_memory, i)), None

    q, a = jax.lax.scan(back, gs, order, reverse=True)
    r = {k: jnp.asarray(start, v.real.dtype) * v for k, v in q.items()}
    return jax.lax.scan(forth, r, (order, a))[0]


@factory
def lbfgs(
    learning_rate: ScalarOrSchedule | None = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: optax.GradientTransformation | None = ZOOM,
    *,
    min_curvature: float = 1e-8,
) -> GradientTransformation:
    """L-BFGS with a line search, for smooth losses without noise; `minimize` runs it.

        u = linesearch(-scale_by_lbfgs(g))

    Arguments:
      learning_rate: multiplies the direction; None for 1, which a line search expects. Without one,
        1 near the minimum, less elsewhere.
      memory_size, scale_init_precond, min_curvature: as in `scale_by_lbfgs`.
      linesearch: a link that scales the direction, such as `scale_by_zoom_linesearch(...)`, which needs
        `value`, `grad` and `value_fn` in `update`; None for none.

    For a part of the parameters (in `groups`, `masked`, `partition`, `selective_transform`) the search sees
    `value_fn` as a function of that part, the other parameters held at their present values. Where other
    groups move at the same step, the search does not know of it: the loss may rise although each lowers it.
    """
    return chain(
        scale_by_lbfgs(memory_size, scale_init_precond, min_curvature=min_curvature),
        scale(-1.0) if learning_rate is None else scale_by_learning_rate(learning_rate),
        identity() if linesearch is None else linesearch,
    )
