"""Bad steps are left out and counted; too many in a row are an error."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradx.core.arguments import scalar
from gradx.core.factory import Made, factory
from gradx.core.foreign import blank_of, observe_of, wrapper
from gradx.core.ranges import POSITIVE, check_number, declare_ranges, one_of, positive_integer
from gradx.core.reports import Report
from gradx.core.transformation import GradientTransformation, check_state
from gradx.core.tree import Extra, State, Tree, found_in, global_norm
from gradx.engine.update_if import update_if, zero_unless
from gradx.numerics.arrays import increment
from gradx.numerics.device_axes import AxisName, axis_names, check_bound, each_device_own, mean_over

__all__ = ["Condition", "SkipState", "SpikeState", "check_skips", "nonfinite", "skip_if", "spike"]

declare_ranges(sigmas=POSITIVE)

Memory: TypeAlias = Any  # a pytree of arrays that a condition keeps
Judge: TypeAlias = Callable[
    [Memory, "Step"], tuple[jax.Array, Memory]
]  # whether a step is bad; the new memory


class SkipState(NamedTuple):
    """Steps skipped in a row and in all, whether the limit was ever reached, and counts by condition.

    `statistics` holds the memory of each condition.
    """

    consecutive: jax.Array
    total: jax.Array
    exceeded: jax.Array
    by_condition: dict[str, jax.Array]
    statistics: dict[str, Memory]
    inner_state: State


class SpikeState(NamedTuple):
    """The number of accepted steps, the running mean of their values, and the variance around it."""

    steps: jax.Array
    mean: jax.Array
    variance: jax.Array


class Step:
    """The facts for a condition: the loss, if given, and the norm of the gradients, taken once."""

    def __init__(self, updates: Tree, extra: Extra, axes: tuple[str, ...] = ()) -> None:
        value = extra.get("value")  # None counts as not given
        self.loss = None if value is None else mean_over(scalar("skip_if", "value", value), axes)
        self.updates, self.axes = updates, axes

    @functools.cached_property
    def gradient_norm(self) -> jax.Array:
        # The same expression as in clipping, so that XLA computes it once.
        norm = global_norm(self.updates)
        return jnp.sqrt(mean_over(norm * norm, self.axes)) if self.axes else norm


class Condition(Made):
    """A condition of `skip_if`: a name and two functions. `nonfinite` and `spike` make conditions.

    `init()` gives the condition's first memory. `judge(memory, step)` gives a pair: whether the step is bad,
    and the new memory, used if it is not. A step has a `loss`, None if not given, and a `gradient_norm`.
    """

    def __init__(self, name: str, init: Callable[[], Memory], judge: Judge) -> None:
        self.name, self.init, self.judge = name, init, judge


@factory
def nonfinite() -> Condition:
    """A condition of `skip_if`: a gradient, or the loss if `update` is given `value`, is not finite.

        bad = not (isfinite(√(Σ g²)) and isfinite(value))

    It looks at the norm that `clip_by_global_norm` takes, so with clipping it costs nothing. Finite gradients
    whose norm overflows, above 1.8e19, count as not finite: a step from them would be no better.
    """

    def judge(memory, step):
        finite = jnp.isfinite(step.gradient_norm)
        return ~(finite if step.loss is None else finite & jnp.isfinite(step.loss)), memory

    return Condition("nonfinite", lambda: (), judge)


@factory
def spike(
    of: Literal["loss", "gradient_norm"] = "loss", sigmas: float = 6.0, *, window: int = 128, warmup: int = 64
) -> Condition:
    """A condition of `skip_if`: the loss or the norm of the gradients is far above its running mean.

        bad      = x > mean + sigmas * √variance, after warmup accepted steps
        a        = 1 / min(accepted steps, window)
        mean     = mean + a * (x - mean)
        variance = (1 - a) * (variance + a * (x - mean)²)

    Arguments:
      of: "loss", for which `update` must be given `value`, or "gradient_norm".
      sigmas: how many standard deviations above the mean are too many, more than 0.
      window: the number of accepted steps that the mean is over, about, at least 2; over all of them at
        first.
      warmup: the number of accepted steps before it may fire, at least 2.

    Bad steps do not change mean and variance. A value that is not finite, or too far off to be squared, is
    always bad, even in the warm-up.
    """
    one_of("spike", ("loss", "gradient_norm"), of=of)
    check_number("spike", sigmas=sigmas)
    for name, value in {"window": window, "warmup": warmup}.items():
        positive_integer("spike", **{name: value})
        if value < 2:
            raise ValueError(f"spike: {name} must be at least 2: one value has no deviation, got {value}")

    def init():
        return SpikeState(jnp.zeros((), jnp.int32), *(jnp.zeros((), jnp.float32) for _ in range(2)))

    def judge(memory, step):
        x = step.loss if of == "loss" else step.gradient_norm
        if x is None:
            raise TypeError(
                "skip_if needs the loss for spike('loss'): call update(updates, state, params, value=loss)"
            )
        x = jnp.asarray(x, jnp.float32)
        steps = increment(memory.steps)
        a = 1 / jnp.minimum(steps, window).astype(jnp.float32)
        off = x - memory.mean
        # Rounding errors around a loss that stands still are no spikes.
        deviation = jnp.sqrt(memory.variance) + jnp.finfo(jnp.float32).eps * jnp.abs(memory.mean)
        far = (memory.steps >= warmup) & (off > sigmas * deviation)
        new = SpikeState(steps, memory.mean + a * off, (1 - a) * (memory.variance + a * off * off))
        return far | ~jnp.isfinite(off * off), new

    return Condition(f"spike_{of}", init, judge)


@factory
def skip_if(
    inner: optax.GradientTransformation,
    *conditions: Condition,
    max_consecutive: int = 10,
    axis_name: AxisName | None = None,
) -> GradientTransformation:
    """Leave out bad steps: parameters and inner state stay bitwise the same, and the step is counted.

        u, state = inner(g, state)  unless a condition says that the step is bad; else  -0, state

    Arguments:
      inner: any transformation; a whole optimizer, clipping included.
      conditions: `nonfinite()`, `spike(...)` or both; a step is bad if one of them says so.
      max_consecutive: the number of bad steps in a row that is too many, at least 1.
      axis_name: the axis of `jax.shard_map` or `jax.pmap` whose devices decide together, where gradients or
        losses are local: by the mean of their losses, and the root of the mean of their squared norms. If one
        is not finite on one device, all devices skip. Without it, devices that `init` parameters of their own
        decide each for itself.

    Nothing is computed twice, stored, or branched on: with clipping it moves no more bytes. The inner
    transformation keeps nothing from a bad step, not even a count, so its schedules count good steps. Nothing
    is raised under jit, where steps past the limit are skipped too: call `check_skips(state)` on the host.
    (Some processors take parameters below 1e-38 for 0, and then any step makes them 0.)

    >>> import gradx, jax.numpy as jnp
    >>> params = jnp.array([1.0, 2.0])
    >>> tx = gradx.skip_if(gradx.adamw(0.1), gradx.nonfinite(), max_consecutive=2)
    >>> updates, state = tx.update(jnp.array([jnp.nan, 1.0]), tx.init(params), params)
    >>> (params + updates).tolist(), int(state.total), int(state.inner_state[0].count)
    ([1.0, 2.0], 1, 0)
    """
    inner_observe = observe_of("the inner transformation of skip_if", inner)
    positive_integer("skip_if", max_consecutive=max_consecutive)
    check_conditions(conditions)
    axes = axis_names("skip_if", axis_name)

    def init(params):
        state = SkipState(
            consecutive=jnp.zeros((), jnp.int32),
            total=jnp.zeros((), jnp.int32),
            exceeded=jnp.zeros((), bool),
            by_condition={c.name: jnp.zeros((), jnp.int32) for c in conditions},
            statistics={c.name: c.init() for c in conditions},
            inner_state=inner.init(params),
        )
        return each_device_own(state, params, together=axes)

    def blank(params):
        return Report("skipped", 0), *blank_of(inner)(params)

    def observe(updates, state, params=None, **extra):
        check_state("skip_if", SkipState, state)
        check_bound("skip_if", axes)
        step = Step(updates, extra, axes)
        judged = {c.name: c.judge(state.statistics[c.name], step) for c in conditions}
        bad = {name: jnp.asarray(is_bad, bool) for name, (is_bad, _) in judged.items()}
        statistics = {name: memory for name, (_, memory) in judged.items()}
        ok = ~functools.reduce(jnp.logical_or, bad.values())
        total = count_if(~ok, state.total)
        consecutive = jnp.where(ok, 0, increment(state.consecutive))
        updates, inner_state, reports = update_if(
            ok, inner_observe, updates, state.inner_state, params, extra
        )
        new = SkipState(
            consecutive,
            total,
            state.exceeded | (consecutive >= max_consecutive),
            jax.tree.map(count_if, bad, state.by_condition),
            jax.tree.map(functools.partial(lax.select, ok), statistics, state.statistics),
            inner_state,
        )
        return zero_unless(ok, updates), new, (Report("skipped", total), *reports)

    return wrapper(inner, init, observe, blank)


def check_conditions(conditions: tuple) -> None:
    if not conditions:
        raise ValueError("skip_if needs a condition, say skip_if(tx, nonfinite())")
    for c in conditions:
        if not isinstance(c, Condition):
            hint = " (call it: it is a function that makes one)" if callable(c) else ""
            raise TypeError(f"skip_if: a condition is nonfinite() or spike(...), got {c!r}{hint}")
    names = [c.name for c in conditions]
    if len(set(names)) < len(names):
        raise ValueError(f"skip_if: two conditions have one name: {list(conditions)}")


def count_if(counts: jax.Array, count: jax.Array) -> jax.Array:
    return jnp.where(counts, increment(count), count)


def check_skips(state: State) -> None:
    """Raise RuntimeError if `skip_if` ever skipped `max_consecutive` steps in a row: a check for the host.

    Arguments:
      state: the state of `skip_if`, or any state around it: of a chain, a group, a wrapper.

    It waits until the state is computed, so call it every hundred steps, not at each. The parameters are
    still those of the last good step.
    """
    for s in found_in(state, SkipState):
        if np.any(s.exceeded):
            causes = ", ".join(f"{name} {np.max(n)}" for name, n in s.by_condition.items())
            raise RuntimeError(
                f"skip_if: max_consecutive steps in a row were bad; {np.max(s.total)} were skipped in all "
                f"({causes}), the last {np.max(s.consecutive)} in a row. Parameters and optimizer are those "
                "after the last good step. Look at the batches since then, at their loss in float32, and at "
                "the learning rate; then go on from an earlier checkpoint."
            )
        check_skips(s.inner_state)
