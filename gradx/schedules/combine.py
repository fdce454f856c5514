"""Schedules made of schedules: one after another, multiplied, shifted."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from gradx.core.factory import factory
from gradx.schedules.base import Schedule, are_schedules

__all__ = ["join_schedules", "product_schedule", "shift_schedule"]


@factory
def join_schedules(schedules: Sequence[Callable[[Any], Any]], boundaries: Sequence[int]) -> Schedule:
    """One schedule after another, each counting its own steps from 0.

    Arguments:
      schedules: one or more functions of the step.
      boundaries: the step at which each but the first begins, in ascending order.
    """
    owner = "join_schedules"
    schedules, boundaries = list(schedules), list(boundaries)
    are_schedules(owner, schedules)
    if not schedules:
        raise ValueError(f"{owner}: give at least one schedule")
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"{owner}: {len(schedules)} schedules need {len(schedules) - 1} boundaries, got {boundaries}"
        )
    if boundaries != sorted(boundaries):
        raise ValueError(f"{owner}: boundaries must ascend, got {boundaries}")

    def value(count):
        value = schedules[0](count)
        for schedule, boundary in zip(schedules[1:], boundaries, strict=True):
            value = jnp.where(count < boundary, value, schedule(jnp.maximum(count - boundary, 0)))
        return value

    return Schedule(value)


@factory
def product_schedule(schedules: Sequence[Callable[[Any], Any]]) -> Schedule:
    """The product of schedules: a warm-up from 0 to 1 times a decay, say.

    Arguments:
      schedules: one or more functions of the step; all count from the same step 0.
    """
    schedules = list(schedules)
    are_schedules("product_schedule", schedules)
    if not schedules:
        raise ValueError("product_schedule: give at least one schedule")

    def value(count):
        value = schedules[0](count)
        for schedule in schedules[1:]:
            value = value * schedule(count)
        return value

    return Schedule(value)


@factory
def shift_schedule(schedule: Callable[[Any], Any], steps: int) -> Schedule:
    """The schedule that is `steps` ahead, or behind.

        schedule(max(count + steps, 0))

    Arguments:
      schedule: any function of the step.
      steps: an integer; 1 starts with the second value, for a schedule that counts from 1, and -10
        holds the first value for 10 more steps.
    """
    are_schedules("shift_schedule", [schedule])
    if steps != int(steps) or not abs(steps) < 2**31:
        raise ValueError(f"shift_schedule: steps must be an integer between ±2**31, got {steps}")
    last = 2**31 - 1 - max(steps, 0)  # the sum stays an int32

    def value(count):
        return schedule(jnp.maximum(jnp.minimum(count, last) + steps, 0))

    return Schedule(value)
