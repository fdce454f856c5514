"""Values given at steps: held, or joined by lines or half cosines."""

import itertools
import math

import jax.numpy as jnp

from gradx.core.factory import factory
from gradx.core.ranges import one_of
from gradx.schedules.base import SHAPES, Schedule, at_least, left

__all__ = [
    "knots_schedule",
    "multi_step_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
]


@factory
def piecewise_constant_schedule(
    init_value: float, boundaries_and_scales: dict[int, float] | None = None
) -> Schedule:
    """Multiply the value by a scale from each boundary on.

    Arguments:
      init_value: the value before the first boundary.
      boundaries_and_scales: step -> scale, at least 0; the scales multiply up.
    """
    steps = sorted((boundaries_and_scales or {}).items())
    at_least("piecewise_constant_schedule", 0, **{f"the scale at {step}": scale for step, scale in steps})

    def value(count):
        value = jnp.asarray(init_value, float)
        for boundary, scale in steps:
            value = value * jnp.where(count >= boundary, scale, 1.0)
        return value

    return Schedule(value)


@factory
def multi_step_schedule(init_value: float, milestones: list[int], gamma: float = 0.1) -> Schedule:
    """Multiply by `gamma` from each milestone on.

        init_value * gamma ** (number of milestones up to count)

    Arguments:
      init_value: the value before the first milestone.
      milestones: steps, in any order; one that is named twice counts twice.
      gamma: at least 0; less than 1 to decay.
    """
    at_least("multi_step_schedule", 0, gamma=gamma, **{f"the milestone {m}": m for m in milestones})
    steps = sorted(milestones)
    values = [init_value * gamma**i for i in range(len(steps) + 1)]

    def value(count):
        value = jnp.asarray(values[0], float)
        for milestone, next_value in zip(steps, values[1:], strict=True):
            value = jnp.where(count >= milestone, next_value, value)
        return value

    return Schedule(value)


@factory
def knots_schedule(knots: dict[float, float], shape: str = "linear") -> Schedule:
    """Through the given values at the given steps, and constant before the first and after the last.

    Arguments:
      knots: step -> value, one or more; a step is at least 0 and need not be whole.
      shape: what joins them, "linear" or "cosine" (half a wave between two knots).
    """
    owner = "knots_schedule"
    one_of(owner, ("linear", "cosine"), shape=shape)
    if not knots:
        raise ValueError(f"{owner}: give the value of at least one step")
    at_least(owner, 0, **{f"the step {step}": step for step in knots})
    steps = sorted(knots)

    def value(count):
        value = jnp.asarray(knots[steps[0]], float)
        for begin, end in itertools.pairwise(steps):
            share = SHAPES[shape](left(count, begin, end))
            way = knots[begin] * share + knots[end] * (1 - share)
            value = jnp.where(count >= math.ceil(begin), way, value)
        return value

    return Schedule(value)


@factory
def piecewise_interpolate_schedule(
    interpolate_type: str, init_value: float, boundaries_and_scales: dict[int, float] | None = None
) -> Schedule:
    """Multiply the value by a scale on the way to each boundary: `knots_schedule` by ratios.

    Arguments:
      interpolate_type: what joins the values, "linear" or "cosine" (half a wave between two).
      init_value: the value at step 0.
      boundaries_and_scales: step -> scale, at least 0; the scales multiply up.
    """
    one_of("piecewise_interpolate_schedule", ("linear", "cosine"), interpolate_type=interpolate_type)
    steps = sorted((boundaries_and_scales or {}).items())
    given = {f"the scale at {step}": scale for step, scale in steps}
    given |= {f"the boundary {step}": step for step, _ in steps}
    at_least("piecewise_interpolate_schedule", 0, **given)
    knots: dict[float, float] = {0: init_value}
    value = init_value
    for boundary, scale in steps:
        value = value * scale
        knots[boundary] = value
    return knots_schedule(knots, interpolate_type)
