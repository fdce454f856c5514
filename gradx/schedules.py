"""Schedules: functions from the step, 0 first, to a value.

Any of them (or any function of yours from a step to a number) may stand where a hyperparameter
stands. Each subtracts its start as an integer, so that a late start costs no precision.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradx.factory import Made, factory

__all__ = [
    "Schedule",
    "constant_schedule",
    "cosine_decay_schedule",
    "exponential_decay",
    "join_schedules",
    "linear_schedule",
    "piecewise_constant_schedule",
    "polynomial_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_schedule",
]


class Schedule(Made):
    """A function of the step that compares, hashes, prints and pickles by the call that made it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, count: Any) -> Any:
        """The value at step `count` (an int, or an int32 scalar; 0 is the first step)."""
        return self.function(count)


@factory
def constant_schedule(value: float) -> Schedule:
    """`value` at every step."""
    return Schedule(lambda count: value)


@factory
def polynomial_schedule(
    init_value: float, end_value: float, power: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """From `init_value` to `end_value` along a polynomial, and constant before and after.

        (init_value - end_value) * (1 - fraction) ** power + end_value

    Arguments:
      init_value, end_value: the values before and after.
      power: 1 is linear, 2 falls fast and then slowly.
      transition_steps: steps from one value to the other, at least 1.
      transition_begin: the step at which to leave `init_value`, at least 0.
    """
    at_least("polynomial_schedule", 1, transition_steps=transition_steps)
    at_least("polynomial_schedule", 0, transition_begin=transition_begin)

    def value(count):
        # From the end: 1 - fraction can come out just below 0, and a root of that is NaN.
        left = fraction(transition_begin + transition_steps - count, transition_steps)
        return (init_value - end_value) * left**power + end_value

    return Schedule(value)


@factory
def linear_schedule(
    init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """From `init_value` to `end_value` along a line: `polynomial_schedule` with power 1."""
    at_least("linear_schedule", 1, transition_steps=transition_steps)
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


@factory
def exponential_decay(
    init_value: float,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """Multiply by `decay_rate` every `transition_steps`, continuously or in stairs.

        init_value * decay_rate ** ((count - transition_begin) / transition_steps)

    Arguments:
      init_value: the value up to step `transition_begin`.
      transition_steps: steps in which the value is multiplied by `decay_rate` once, at least 1.
      decay_rate: more than 0; less than 1 to decay.
      transition_begin: the step at which to leave `init_value`, at least 0.
      staircase: round the exponent down.
      end_value: the value is never past this; None for no bound.
    """
    at_least("exponential_decay", 1, transition_steps=transition_steps)
    at_least("exponential_decay", 0, transition_begin=transition_begin)
    if not decay_rate > 0:
        raise ValueError(f"exponential_decay: decay_rate must be more than 0, got {decay_rate}")

    def value(count):
        since = jnp.maximum(count - transition_begin, 0)
        since = since // transition_steps * transition_steps if staircase else since
        value = init_value * decay_rate ** (jnp.asarray(since, float) / transition_steps)
        if end_value is None:
            return value
        return jnp.maximum(value, end_value) if decay_rate < 1 else jnp.minimum(value, end_value)

    return Schedule(value)


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
def cosine_decay_schedule(
    init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0
) -> Schedule:
    """Down along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983), and constant after.

        init_value * ((1 - alpha) * ((1 + cos(π fraction)) / 2) ** exponent + alpha)

    Arguments:
      init_value: the value at step 0.
      decay_steps: steps to the end, at least 1.
      alpha: the last value, as a share of the first.
      exponent: of the cosine.
    """
    at_least("cosine_decay_schedule", 1, decay_steps=decay_steps)

    def value(count):
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * fraction(count, decay_steps)))
        return init_value * ((1 - alpha) * cosine**exponent + alpha)

    return Schedule(value)


@factory
def join_schedules(schedules: Sequence[Callable[[Any], Any]], boundaries: Sequence[int]) -> Schedule:
    """One schedule after another, each counting its own steps from 0.

    Arguments:
      schedules: one or more functions of the step.
      boundaries: the step at which each but the first begins, in ascending order.
    """
    schedules, boundaries = list(schedules), list(boundaries)
    for schedule in schedules:
        if not callable(schedule):
            raise TypeError(f"join_schedules: {schedule!r} is not a schedule; see constant_schedule")
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"join_schedules: {len(schedules)} schedules need {len(schedules) - 1} boundaries, "
            f"got {boundaries}"
        )
    if boundaries != sorted(boundaries):
        raise ValueError(f"join_schedules: boundaries must ascend, got {boundaries}")

    def value(count):
        value = schedules[0](count)
        for schedule, boundary in zip(schedules[1:], boundaries, strict=True):
            value = jnp.where(count < boundary, value, schedule(jnp.maximum(count - boundary, 0)))
        return value

    return Schedule(value)


@factory
def warmup_schedule(schedule: Callable[[Any], Any], warmup_steps: int, init_value: float = 0.0) -> Schedule:
    """Rise from `init_value` to the first value of `schedule` along a line, then follow it.

    Arguments:
      schedule: any schedule; its step 0 comes after the warm-up.
      warmup_steps: at least 0; 0 is no warm-up.
      init_value: the value at step 0.
    """
    at_least("warmup_schedule", 0, warmup_steps=warmup_steps)

    def value(count):
        rise = fraction(count, max(warmup_steps, 1))
        start = init_value + (schedule(jnp.zeros((), jnp.int32)) - init_value) * rise
        return jnp.where(count < warmup_steps, start, schedule(jnp.maximum(count - warmup_steps, 0)))

    return Schedule(value)


@factory
def warmup_constant_schedule(init_value: float, peak_value: float, warmup_steps: int) -> Schedule:
    """Rise from `init_value` to `peak_value` in `warmup_steps`, and stay."""
    return warmup_schedule(constant_schedule(peak_value), warmup_steps, init_value)


@factory
def warmup_cosine_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Schedule:
    """Rise from `init_value` to `peak_value` along a line, then fall to `end_value` along half a cosine.

    Arguments:
      warmup_steps: steps of the rise, at least 0.
      decay_steps: steps of the whole, warm-up included (as in Optax); more than `warmup_steps`.
      exponent: of the cosine.
    """
    at_least("warmup_cosine_decay_schedule", warmup_steps + 1, decay_steps=decay_steps)
    alpha = 0.0 if peak_value == 0 else end_value / peak_value
    decay = cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent)
    return warmup_schedule(decay, warmup_steps, init_value)


@factory
def warmup_exponential_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """Rise from `init_value` to `peak_value` along a line, then follow `exponential_decay`.

    The steps of the decay, `transition_begin` among them, count from the end of the warm-up.
    """
    decay = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return warmup_schedule(decay, warmup_steps, init_value)


def fraction(count: Any, steps: int) -> jax.Array:
    """How much of `steps` is over, from 0 to 1."""
    return jnp.asarray(jnp.clip(count, 0, steps), float) / steps


def at_least(owner: str, least: float, **given: float) -> None:
    """Raise if a given number is less than `least`, or NaN."""
    for name, value in given.items():
        if not least <= value < 2**31:  # steps are int32
            raise ValueError(f"{owner}: {name} must be at least {least} and below 2**31, got {value}")
