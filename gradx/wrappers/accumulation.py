"""One step of an optimizer for the gradients of several micro-batches."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.typing import DTypeLike
from optax import EmptyState, MultiStepsState

from gradx.core.arguments import argument
from gradx.core.factory import factory
from gradx.core.foreign import blank_of, observe_of, widened, wrapper
from gradx.core.hyperparameters import Count, Scalar, value_at
from gradx.core.ranges import check_stateless, positive_integer
from gradx.core.reports import Flag, Report
from gradx.core.transformation import GradientTransformation, check_state
from gradx.core.tree import Extra, State, Tree, all_finite, found_in
from gradx.engine.leaf_checks import scalar_dtype
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import increment
from gradx.numerics.device_axes import AxisName, as_local, axis_names, each_device_own
from gradx.numerics.dtypes import DType
from gradx.transforms.average_gradients import check_local, device_mean

__all__ = ["MicroBatches", "MultiStepsState", "accumulate", "has_updated"]

Shares: TypeAlias = dict[str, jax.Array]  # the scalars of `accumulator`, from `added`
Every: TypeAlias = int | Callable[[Count], Scalar]  # a number of micro-batches, or a schedule of it


class MicroBatches(NamedTuple):
    """The `skip_state` of `accumulate`: the weight of all micro-batches in the mean `acc_grads`.

    `means` holds the means of extra arguments, by name; `dropped` counts the micro-batches left out so far.
    """

    weight: jax.Array
    means: dict[str, jax.Array]
    dropped: jax.Array


class Micro(NamedTuple):
    """One micro-batch: whether it counts as one of k, its weight, and how it is added to the mean."""

    counts: Flag
    weight: Scalar  # of all so far
    shares: Shares
    skip_state: State
    extra: Extra  # for the inner transformation, instead of the arguments of `update`


@factory
def accumulate(
    inner: optax.GradientTransformation,
    every: Every,
    *,
    weight: str | None = None,
    dtype: DTypeLike | None = None,
    drop_nonfinite: bool = False,
    averaged: str | Iterable[str] = (),
    axis_name: AxisName | None = None,
) -> GradientTransformation:
    """Take one step for several micro-batches, with their mean gradient, as if for one large batch.

        mean = Σ w g / Σ w
        u    = inner(mean) at every k-th call, and at the others -0, which changes no parameter

    Arguments:
      inner: any transformation. It runs only when a step is taken, with the extra arguments of that call,
        and its schedules count steps. Links after `accumulate` run at every call.
      every: k, the number of micro-batches in a step: an integer of at least 1; or a schedule, a function of
        the number of steps taken. Its value is rounded to an integer of at least 1.
      weight: the name of an extra argument of `update`, say `"num_tokens"`, that gives the weight of the
        micro-batch, a number of at least 0. Where each gradient is a mean over tokens, the result is the mean
        over all tokens, however ragged. A micro-batch of weight 0 adds nothing, not even NaN. `inner` is
        given the sum of the weights by that name.
      dtype: the dtype of the mean; None for each parameter's own, but at least float32.
      drop_nonfinite: leave out micro-batches whose gradients are not all finite, as if they weighed nothing.
      averaged: names of extra arguments, such as `"value"`, of which `inner` is given the mean, by the same
        weights.
      axis_name: the axis of `jax.shard_map` or `jax.pmap` that rows are divided over, for local gradients, as
        in `average_gradients`. Each device adds up, or leaves out, its own gradients. When a step is taken,
        the sums, the `averaged` arguments and the weights are reduced once, by weight. In the state,
        `acc_grads` and `skip_state` then differ between devices; the rest is the same on all.

    The state is Optax's: `mini_step` counts the micro-batches since the last step, `gradient_step` counts the
    steps, and `acc_grads` is the mean, which stays after a step until the next call. If k micro-batches have
    the weight 0 together, no step is taken: see `has_updated(state)`. Raises TypeError if `update` lacks an
    argument that is named here. A gradient that is missing in one of k calls must be missing in all.

    >>> import gradx, jax.numpy as jnp
    >>> tx = gradx.accumulate(gradx.sgd(1.0), 2, weight="num_tokens")
    >>> state = tx.init(jnp.zeros(1))
    >>> for gradient, tokens in [(1.0, 30), (5.0, 10)]:
    ...     updates, state = tx.update(jnp.array([gradient]), state, num_tokens=tokens)
    ...     print(updates, gradx.has_updated(state))
    [-0.] False
    [-2.] True
    """
    check_every("accumulate", every=every)
    names = (averaged,) if isinstance(averaged, str) else tuple(averaged)
    for name in (*names, *([] if weight is None else [weight])):
        if not isinstance(name, str):
            raise TypeError(
                f"accumulate: weight and averaged must be names of arguments of update, got {name!r}"
            )
    axes = axis_names("accumulate", axis_name)
    mean, mean_argument = accumulator(dtype), accumulator(None)
    if weight is None and not drop_nonfinite and not names:
        return accumulation("accumulate", inner, every, mean, lambda params, acc_grads: (), plain, axes)

    def start(params, acc_grads):
        zero, dropped = jnp.zeros((), dtype_of(acc_grads)), jnp.zeros((), jnp.int32)
        return MicroBatches(zero, {name: jnp.copy(zero) for name in names}, dropped)

    def micro(updates, state, params, extra):
        check_state("accumulate", MicroBatches, state.skip_state)
        before, means, dropped = state.skip_state
        w = argument("accumulate", weight, extra, before.dtype) if weight else jnp.ones_like(before)
        if weight and not isinstance(extra[weight], Tracer) and float(extra[weight]) < 0:
            raise ValueError(f"accumulate: {weight} must be at least 0, got {extra[weight]}")
        values = {name: argument("accumulate", name, extra, before.dtype) for name in names}
        if drop_nonfinite:
            bad = (w != 0) & ~all_finite((updates, values))
            w, dropped = jnp.where(bad, 0, w), jnp.where(bad, increment(dropped), dropped)
        sum_of_weights, shares = added(w, jnp.where(state.mini_step == 0, 0, before))
        _, (means,), _ = mean_argument.observe(values, Accumulator(means), **shares)
        given = means | ({weight: sum_of_weights} if weight else {})
        return Micro(True, sum_of_weights, shares, MicroBatches(sum_of_weights, means, dropped), given)

    local = drop_nonfinite and not axes
    # Outside of jit the sign of a weight is seen, and checked.
    return accumulation("accumulate", inner, every, mean, start, micro, axes, local, weight is None)


def accumulation(
    owner: str,
    inner: optax.GradientTransformation,
    every: Every,
    mean: Any,
    start: Callable,
    micro: Callable,
    axes: tuple[str, ...] = (),
    local: bool = False,
    compiles: bool = True,
    every_name: str = "every",
) -> GradientTransformation:
    """`accumulate` and `MultiSteps`: `mean` adds gradients up, `micro` gives the `Micro` of each call.

    If `local`, `micro` depends on the gradients: where these vary over devices, so does all of the state.
    """
    inner_observe = observe_of(f"the inner transformation of {owner}", inner)

    def init(params):
        (acc_grads,), zero = mean.init(params), jnp.zeros((), jnp.int32)
        acc_grads, skip_state = as_local((acc_grads, start(params, acc_grads)), axes)
        inner_state = inner.init(params)
        state = MultiStepsState(zero, jnp.copy(zero), inner_state, acc_grads, skip_state)
        return each_device_own(state, acc_grads) if local else state

    def blank(params):
        return all_reports(start(params, params), blank_of(inner)(params), 0)

    def all_reports(skip_state, inner_reports, micro_step):
        dropped = [Report("dropped", skip_state.dropped)] if isinstance(skip_state, MicroBatches) else []
        return *dropped, *inner_reports, Report("micro_step", micro_step)

    def observe(updates, state, params=None, **extra):
        check_state(owner, MultiStepsState, state)
        if axes:
            check_local(owner, updates, axes)
        this = micro(updates, state, params, extra)
        gradient, (acc_grads,), _ = mean.observe(updates, Accumulator(state.acc_grads), **this.shares)
        micro_step = state.mini_step + jnp.asarray(this.counts, jnp.int32)
        complete = micro_step >= rounded(value_at(owner, every_name, every, state.gradient_step))
        weight, this = this.weight, everywhere(this, complete, axes)

        def step():
            whole = widened(gradient)  # here, where it is fused
            if axes:
                whole, *_ = device_mean(axes).observe(whole, EmptyState(), weight=weight)
            given = whole, state.inner_opt_state, params
            out, inner_state, reports = inner_observe(*given, **extra | this.extra)
            return out, inner_state, jax.tree.map(jnp.asarray, reports)

        def wait():
            out, _, reports = jax.eval_shape(step)
            out, reports = jax.tree.map(jnp.zeros_like, (out, reports))  # so none is news
            still = jax.tree.map(jnp.negative, out)  # as -0 + 0 is 0, another number bit for bit
            return still, state.inner_opt_state, reports

        steps = complete & (this.weight != 0)
        if isinstance(steps, Tracer):
            out, inner_state, reports = jax.lax.cond(steps, step, wait)
        else:
            out, inner_state, reports = (step if steps else wait)()
        micro_step = jnp.where(complete, 0, micro_step)
        gradient_step = jnp.where(steps, increment(state.gradient_step), state.gradient_step)
        new = MultiStepsState(micro_step, gradient_step, inner_state, acc_grads, this.skip_state)
        return out, new, all_reports(this.skip_state, reports, micro_step)

    return wrapper(inner, init, observe, blank, compiles=compiles)


def everywhere(this: Micro, complete: jax.Array, axes: tuple[str, ...]) -> Micro:
    """A step's last micro-batch with weight and means reduced over devices; others with a weight of 0."""
    if not axes or not isinstance(this.skip_state, MicroBatches):
        return this  # on one device, or of equal weights
    weight, means, dropped = this.skip_state

    def reduced():
        over_all, *_ = device_mean(axes).observe(means, EmptyState(), weight=weight)
        return jax.lax.psum(weight, axes), over_all

    zeros = lambda: jax.tree.map(jnp.zeros_like, jax.eval_shape(reduced))
    total, over_all = jax.lax.cond(complete, reduced, zeros)
    choose = lambda a, b: jnp.where(complete, a, b)
    skip_state = jax.tree.map(choose, MicroBatches(total, over_all, dropped), this.skip_state)
    extra = {k: total if x is weight else over_all[k] for k, x in this.extra.items()}
    return this._replace(weight=total, skip_state=skip_state, extra=extra)


class Accumulator(NamedTuple):
    """The mean or the sum of the gradients so far."""

    acc_grads: Tree


def accumulator(dtype: DTypeLike | None, mean: bool = True) -> GradientTransformation:
    """A transformation that adds a gradient to the mean or sum so far; `added` gives its arguments."""
    dtype = None if dtype is None else jax.dtypes.canonicalize_dtype(dtype)

    def rule(g, acc_grads, ratio, old):
        acc = jnp.where(old == 1, acc_grads, 0)  # a first gradient replaces acc_grads, which may be NaN
        new = jnp.where(old == 1, acc + (ratio * (g - acc) if mean else g), g)
        new = jnp.where(ratio == 0, acc, new)
        new = new if dtype is None else new.astype(dtype)
        return new, new

    scalars = lambda ratio, old: {"ratio": ratio, "old": old}
    return leafwise(Accumulator, rule, scalars, slots={"acc_grads": zero_slot(dtype)})


def added(weight: jax.Array, before: jax.Array) -> tuple[jax.Array, Shares]:
    """The weight of all; the new one's share of the mean, and whether there are old ones."""
    both = before + weight
    return both, {"ratio": weight / jnp.where(both == 0, 1, both), "old": before != 0}


def check_every(owner: str, **given: Every) -> None:
    """Raise unless each is an integer of at least 1, or a schedule."""
    for name, every in given.items():
        if callable(every):
            check_stateless(owner, name, every)
        else:
            positive_integer(owner, **{name: every})


def plain(updates: Tree, state: Any, params: Tree | None, extra: Extra) -> Micro:
    """A micro-batch like any other."""
    dtype = dtype_of(state.acc_grads)
    return Micro(True, *added(jnp.ones((), dtype), state.mini_step.astype(dtype)), (), {})


def dtype_of(acc_grads: Tree) -> DType:
    """The dtype for scalars that weigh these arrays."""
    return scalar_dtype(dict(enumerate(jax.tree.leaves(acc_grads))))


def rounded(k: Scalar) -> Count:
    """The value of a schedule as an integer."""
    return k if isinstance(k, int) else jnp.round(jnp.asarray(k, jnp.float32)).astype(jnp.int32)


def has_updated(state: State) -> jax.Array:
    """Whether the last call took a step, or only added to the mean; False for a fresh state.

    Arguments:
      state: the state of `accumulate` or `MultiSteps`, or any state around it. Where one is inside another,
        the outer one counts.

    Raises ValueError where there is no such state, or more than one.
    """
    found = found_in(state, MultiStepsState)
    if len(found) != 1:
        raise ValueError(
            f"has_updated needs a state with one accumulate or MultiSteps, and this one has {len(found)}"
        )
    skip_state: Any = found[0].skip_state
    updated = (found[0].mini_step == 0) & (found[0].gradient_step > 0)
    if isinstance(skip_state, MicroBatches):
        return updated & (skip_state.weight != 0)
    if isinstance(skip_state, dict) and "should_skip" in skip_state:
        return updated & ~skip_state["should_skip"]
    return updated
