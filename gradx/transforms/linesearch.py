"""Optax's line searches as links that keep gradx's contract, and compare and pickle by their call."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax import MaskedNode, ScaleByBacktrackingLinesearchState, ScaleByZoomLinesearchState

from gradx.core.arguments import needed, scalar
from gradx.core.factory import factory
from gradx.core.foreign import observe_of, widened
from gradx.core.ranges import (
    BOUND,
    FINITE,
    FRACTION,
    INSIDE,
    Range,
    check_number,
    declare_ranges,
    one_of,
    positive_integer,
)
from gradx.core.transformation import GradientTransformation
from gradx.core.tree import Tree, aligned, flatten, is_missing
from gradx.numerics.device_axes import varying_like
from gradx.selection.restricted import restricted

__all__ = [
    "ScaleByBacktrackingLinesearchState",
    "ScaleByZoomLinesearchState",
    "scale_by_backtracking_linesearch",
    "scale_by_zoom_linesearch",
]

declare_ranges(max_learning_rate=BOUND, tol=FINITE, atol=FINITE, rtol=FINITE)
declare_ranges(slope_rtol=FRACTION, curv_rtol=BOUND, approx_dec_rtol=FINITE)
declare_ranges(increase_factor=Range(lambda x: x > 0, "more than 0"))
declare_ranges(decrease_factor=INSIDE, stepsize_precision=FINITE)


@factory
def scale_by_zoom_linesearch(
    max_linesearch_steps: int,
    max_learning_rate: float | None = None,
    tol: float = 0.0,
    increase_factor: float = 2.0,
    slope_rtol: float = 1e-4,
    curv_rtol: float = 0.9,
    approx_dec_rtol: float | None = 1e-6,
    stepsize_precision: float = 1e-5,
    initial_guess_strategy: Literal["keep", "one"] = "keep",
    verbose: bool = False,
) -> GradientTransformation:
    """Scale a direction by a step that lowers the loss enough and flattens its slope: the Wolfe conditions.

        u = step * g  with  f(p + u)         <= f(p) + slope_rtol * step * slope
                       and  |slope at p + u| <= curv_rtol * |slope|

    Arguments:
      max_linesearch_steps: how often the loss and its gradient may be evaluated, at least 1.
      max_learning_rate: the largest step; None for no bound.
      tol: by how much either condition may be missed, at least 0.
      increase_factor: by how much a step that is too small grows, more than 0; useful above 1.
      slope_rtol: the share of the slope's promised decrease which is enough, between 0 and 1.
      curv_rtol: the share of the slope which may be left, at least 0; in theory more than slope_rtol and less
        than 1. With inf only the first condition counts.
      approx_dec_rtol: the relative change of the loss that counts as rounding, where slopes decide
        (Hager & Zhang 2006); None for never.
      stepsize_precision: the shortest interval of steps to search.
      initial_guess_strategy: the first step tried: 1 for "one", the last one found for "keep".
      verbose: print why a search fails.

    `update` needs `value`, `grad` (both at `params`) and `value_fn`, a function of the parameters; the
    value and the gradient that it ends with are in its state. See Nocedal & Wright 1999, §3.4.
    """
    owner = "scale_by_zoom_linesearch"
    one_of(owner, ("keep", "one"), initial_guess_strategy=initial_guess_strategy)
    positive_integer(owner, max_linesearch_steps=max_linesearch_steps)
    bounds = {"max_learning_rate": max_learning_rate, "approx_dec_rtol": approx_dec_rtol}
    check_number(
        owner,
        tol=tol,
        increase_factor=increase_factor,
        slope_rtol=slope_rtol,
        curv_rtol=curv_rtol,
        stepsize_precision=stepsize_precision,
        **{name: bound for name, bound in bounds.items() if bound is not None},
    )
    return kept(
        owner,
        optax.scale_by_zoom_linesearch(
            max_linesearch_steps=max_linesearch_steps,
            max_learning_rate=max_learning_rate,
            tol=tol,
            increase_factor=increase_factor,
            slope_rtol=slope_rtol,
            curv_rtol=curv_rtol,
            approx_dec_rtol=approx_dec_rtol,
            stepsize_precision=stepsize_precision,
            initial_guess_strategy=initial_guess_strategy,
            verbose=verbose,
        ),
    )


@factory
def scale_by_backtracking_linesearch(
    max_backtracking_steps: int,
    slope_rtol: float = 1e-4,
    decrease_factor: float = 0.8,
    increase_factor: float = 1.5,
    max_learning_rate: float = 1.0,
    atol: float = 0.0,
    rtol: float = 0.0,
    store_grad: bool = False,
    verbose: bool = False,
) -> GradientTransformation:
    """Scale a direction by a step that lowers the loss enough, found by going back: Armijo's condition.

        u = step * g  with  f(p + u) <= (1 + rtol) * f(p) + slope_rtol * step * slope + atol

    Arguments:
      max_backtracking_steps: how often a step may be shortened, at least 1.
      slope_rtol: the share of the slope's promised decrease which is enough, between 0 and 1.
      decrease_factor: by how much a step that is too long shrinks, more than 0 and less than 1.
      increase_factor: the first step tried is this much longer than the last one found.
      max_learning_rate: the largest step.
      atol, rtol: by how much the condition may be missed, at least 0.
      store_grad: keep the gradient at the end in the state.
      verbose: print why a search fails.

    `update` needs `value`, `grad` (both at `params`) and `value_fn`, a function of the parameters; the
    value that it ends with is in its state. See Nocedal & Wright 1999, §3.1.
    """
    owner = "scale_by_backtracking_linesearch"
    positive_integer(owner, max_backtracking_steps=max_backtracking_steps)
    check_number(
        owner,
        slope_rtol=slope_rtol,
        decrease_factor=decrease_factor,
        increase_factor=increase_factor,
        max_learning_rate=max_learning_rate,
        atol=atol,
        rtol=rtol,
    )
    return kept(
        owner,
        optax.scale_by_backtracking_linesearch(
            max_backtracking_steps=max_backtracking_steps,
            slope_rtol=slope_rtol,
            decrease_factor=decrease_factor,
            increase_factor=increase_factor,
            max_learning_rate=max_learning_rate,
            atol=atol,
            rtol=rtol,
            store_grad=store_grad,
            verbose=verbose,
        ),
    )


def kept(owner: str, search: optax.GradientTransformationExtraArgs) -> GradientTransformation:
    """A line search of Optax's, kept to the contract: its state as `init` makes it, in compute precision."""
    inner_observe = observe_of(owner, search)

    def init(params):
        holds_arrays = bool(jax.tree.leaves(params))  # optax.tree_map_params gives none
        with jax.numpy_dtype_promotion("standard"):
            state: Any = search.init(widened(params) if holds_arrays else jnp.zeros(()))
        if not holds_arrays and state.grad is not None:
            state = state._replace(grad=params)
        own = lambda x: varying_like(jnp.array(x, x.dtype), *jax.tree.leaves(params))
        return jax.tree.map(own, state)  # own buffers, and no weak types

    def observe(updates, state, params=None, **extra):
        if params is None:
            raise ValueError(f"{owner} needs the parameters: call update(updates, state, params, ...)")
        for name in ("value", "grad", "value_fn"):
            needed(owner, name, extra.get(name))
        extra["value"] = scalar(owner, "value", extra["value"], float)
        # Parameters without an update stay, whatever their gradients are.
        names = ("the updates", "the parameters"), ("the updates", "the state's grad")
        given, part = where_given(updates, updates, names[0]), where_given(updates, params, names[0])
        grad = None if state.grad is None else where_given(updates, state.grad, names[1])
        extra = restricted(extra, part, params)
        extra["grad"], extra["value_fn"] = widened(extra["grad"]), in_default_precision(extra["value_fn"])
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            scaled, after, _ = inner_observe(given, state._replace(grad=grad), widened(part), **extra)
        if after.grad is not None:
            after = after._replace(grad=beside_missing(after.grad, state.grad))
        after = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), after, state)
        return beside_missing(scaled, updates), after, ()

    return GradientTransformation.of(init, observe)


def where_given(updates: Tree, tree: Tree, names: tuple[str, str]) -> Tree:
    """`tree`, with MaskedNode where an update is missing."""
    us, treedef = flatten(updates)
    xs = aligned(treedef, tree, names)
    return treedef.unflatten([MaskedNode() if is_missing(u) else x for x, u in zip(xs, us, strict=True)])


def beside_missing(tree: Tree, other: Tree) -> Tree:
    """`tree`, with what `other` has where a leaf is missing."""
    leaves, treedef = flatten(tree)
    others = aligned(treedef, other, ("the scaled updates", "the updates"))
    return treedef.unflatten([o if is_missing(x) else x for x, o in zip(leaves, others, strict=True)])


def in_default_precision(value_fn: Callable) -> Callable:
    """`value_fn` with its value in the dtype of a Python float, the dtype that Optax expects."""

    @functools.wraps(value_fn)  # Optax looks for the names of its arguments
    def wrapped(*args: Any, **kwargs: Any) -> jax.Array:
        return jnp.asarray(value_fn(*args, **kwargs)).astype(float)

    return wrapped
