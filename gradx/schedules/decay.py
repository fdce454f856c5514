"""From one value towards another along one curve: polynomials, powers, roots."""

from typing import Any

import jax
import jax.numpy as jnp

from gradx.core.factory import factory
from gradx.schedules.base import Schedule, at_least, constant_schedule, fraction

__all__ = [
    "exponential_decay",
    "inverse_time_schedule",
    "linear_schedule",
    "polynomial_schedule",
    "step_schedule",
]


@factory
def polynomial_schedule(
    init_value: float, end_value: float, power: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """From `init_value` to `end_value` along a polynomial, and constant before and after.

        (init_value - end_value) * (1 - fraction) ** power + end_value

    Arguments:
      init_value, end_value: the values before and after.
      power: 1 is linear, 2 falls fast and then slowly.
      transition_steps: steps from one value to the other, at least 0; with 0 it stays at `init_value`, as
        Optax has it.
      transition_begin: the step at which to leave `init_value`, at least 0.
    """
    at_least("polynomial_schedule", 0, transition_steps=transition_steps, transition_begin=transition_begin)
    if transition_steps == 0:
        return constant_schedule(init_value)

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
    at_least("linear_schedule", 0, transition_steps=transition_steps)
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
      transition_steps: steps in which the value is multiplied by `decay_rate` once, at least 0; with 0 it
        stays at `init_value`, as Optax has it.
      decay_rate: more than 0; less than 1 to decay.
      transition_begin: the step at which to leave `init_value`, at least 0.
      staircase: round the exponent down.
      end_value: the value is never past this; None for no bound.
    """
    owner = "exponential_decay"
    at_least(owner, 0, transition_steps=transition_steps, transition_begin=transition_begin)
    if not decay_rate > 0:
        raise ValueError(f"{owner}: decay_rate must be more than 0, got {decay_rate}")
    if transition_steps == 0:
        return constant_schedule(init_value)

    def value(count):
        value = init_value * decay_rate ** periods(count - transition_begin, transition_steps, staircase)
        if end_value is None:
            return value
        return jnp.maximum(value, end_value) if decay_rate < 1 else jnp.minimum(value, end_value)

    return Schedule(value)


@factory
def step_schedule(init_value: float, step_size: int, gamma: float = 0.1) -> Schedule:
    """Multiply by `gamma` every `step_size` steps: `exponential_decay` in stairs.

        init_value * gamma ** ⌊count / step_size⌋

    Arguments:
      init_value: the value of the first `step_size` steps.
      step_size: steps on each stair, at least 1.
      gamma: more than 0; less than 1 to decay.
    """
    at_least("step_schedule", 1, step_size=step_size)
    if not gamma > 0:
        raise ValueError(f"step_schedule: gamma must be more than 0, got {gamma}")
    return exponential_decay(init_value, step_size, gamma, staircase=True)


@factory
def inverse_time_schedule(
    init_value: float,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
) -> Schedule:
    """Divide by a number that grows along a line, or in stairs, as Keras' InverseTimeDecay does.

        init_value / (1 + decay_rate * (count - transition_begin) / transition_steps)

    Arguments:
      init_value: the value up to step `transition_begin`.
      transition_steps: steps in which the divisor grows by `decay_rate`, at least 1.
      decay_rate: at least 0.
      transition_begin: the step at which to leave `init_value`, at least 0.
      staircase: round the quotient of the steps down.
    """
    at_least("inverse_time_schedule", 1, transition_steps=transition_steps)
    at_least("inverse_time_schedule", 0, transition_begin=transition_begin, decay_rate=decay_rate)

    def value(count):
        return init_value / (1 + decay_rate * periods(count - transition_begin, transition_steps, staircase))

    return Schedule(value)


def periods(since: Any, steps: int, staircase: bool) -> jax.Array:
    """How many times `steps` fits into the steps `since` the start; whole times only in stairs."""
    since = jnp.maximum(since, 0)
    since = since // steps * steps if staircase else since
    return jnp.asarray(since, float) / steps
