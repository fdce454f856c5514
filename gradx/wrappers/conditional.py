"""Apply a transformation at some steps only: Optax's names, without `cond`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax
from optax import ApplyIfFiniteState, ConditionallyMaskState, ConditionallyTransformState

from gradx.core.arguments import scalar
from gradx.core.factory import factory
from gradx.core.foreign import blank_of, observe_of, wrapper
from gradx.core.ranges import BOUND, check_number, declare_ranges
from gradx.core.reports import Flag, Report
from gradx.core.transformation import GradientTransformation, check_state
from gradx.core.tree import Tree, all_finite, is_missing
from gradx.engine.update_if import update_if, zero_unless
from gradx.numerics.arrays import increment
from gradx.numerics.device_axes import each_device_own

__all__ = [
    "ApplyIfFiniteState",
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "apply_if_finite",
    "conditionally_mask",
    "conditionally_transform",
]

declare_ranges(max_consecutive_errors=BOUND)


@factory
def apply_if_finite(
    inner: optax.GradientTransformation, max_consecutive_errors: int
) -> GradientTransformation:
    """Leave out steps with a gradient that is not finite, but not too many in a row: Optax's rule.

        u, state = inner(g, state)  if all g are finite, or were not in max_consecutive_errors steps before
        u, state = -0, state        else

    Arguments:
      inner: any transformation; a whole optimizer.
      max_consecutive_errors: the number of such steps in a row, at least 0, after which the next step is
        taken even if it is not finite.

    `skip_if(inner, nonfinite())` goes on skipping instead, and costs nothing besides clipping.
    """
    inner_observe = observe_of("the inner transformation of apply_if_finite", inner)
    check_number("apply_if_finite", max_consecutive_errors=max_consecutive_errors)

    def init(params):
        zero = lambda: jnp.zeros((), jnp.int32)
        state = ApplyIfFiniteState(zero(), jnp.ones((), bool), zero(), inner.init(params))
        return each_device_own(state, params)

    def blank(params):
        return Report("skipped", 0), *blank_of(inner)(params)

    def observe(updates, state, params=None, **extra):
        check_state("apply_if_finite", ApplyIfFiniteState, state)
        finite = all_finite(updates)
        count = jnp.where(finite, 0, increment(state.notfinite_count))
        errors = jnp.where(finite, state.total_notfinite, increment(state.total_notfinite))
        ok = finite | (count > max_consecutive_errors)
        updates, inner_state, reports = update_if(
            ok, inner_observe, updates, state.inner_state, params, extra
        )
        new = ApplyIfFiniteState(count, finite, errors, inner_state)
        return zero_unless(ok, updates), new, (Report("skipped", errors), *reports)

    return wrapper(inner, init, observe, blank)


@factory
def conditionally_transform(
    inner: optax.GradientTransformation,
    should_transform_fn: Callable[..., Flag],
    forward_extra_args: bool = False,
) -> GradientTransformation:
    """Apply `inner` at some steps; at the others the updates pass unchanged, and its state stays.

    Arguments:
      inner: any transformation; it is computed at every step, but its result is kept only at some.
      should_transform_fn: a function of the step, 0 at first, that says whether to apply it.
      forward_extra_args: whether that function is given the extra arguments of `update` too.
    """

    def passed(ok, new, updates):
        one = lambda u, g: u if is_missing(u) else lax.select(ok, u, g.astype(u.dtype))
        return jax.tree.map(one, new, updates, is_leaf=is_missing)

    args = inner, should_transform_fn, forward_extra_args
    return at_steps("conditionally_transform", ConditionallyTransformState, passed, *args)


@factory
def conditionally_mask(
    inner: optax.GradientTransformation,
    should_transform_fn: Callable[..., Flag],
    forward_extra_args: bool = False,
) -> GradientTransformation:
    """Apply `inner` at some steps; at the others the updates are zero, and its state stays.

    Arguments:
      inner, should_transform_fn, forward_extra_args: as in `conditionally_transform`.
    """

    def masked(ok, new, updates):
        return zero_unless(ok, new)

    args = inner, should_transform_fn, forward_extra_args
    return at_steps("conditionally_mask", ConditionallyMaskState, masked, *args)


def at_steps(
    owner: str,
    State: type,
    otherwise: Callable[[jax.Array, Tree, Tree], Tree],
    inner: optax.GradientTransformation,
    applies: Callable[..., Flag],
    forward: bool,
) -> GradientTransformation:
    """The transformation of both functions; `otherwise(ok, new, updates)` chooses the updates."""
    inner_observe = observe_of(f"the inner transformation of {owner}", inner)

    def init(params):
        return State(inner_state=inner.init(params), step=jnp.zeros((), jnp.int32))

    def observe(updates, state, params=None, **extra):
        check_state(owner, State, state)
        given = applies(state.step, **(extra if forward else {}))
        ok = scalar(owner, "the result of should_transform_fn", given, bool)
        new, inner_state, reports = update_if(ok, inner_observe, updates, state.inner_state, params, extra)
        state = State(inner_state=inner_state, step=increment(state.step))
        return otherwise(ok, new, updates), state, reports

    return wrapper(inner, init, observe)
