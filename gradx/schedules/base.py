"""The class of schedules, and the arithmetic of steps that all of them share.

A schedule is a function from the step, 0 first, to a value. A schedule, or any other
function from a step to a number, may stand for a hyperparameter. Each schedule subtracts its start as an
integer, so a late start costs no precision.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradx.core.blame import ArgumentValueError
from gradx.core.factory import Made, factory

__all__ = ["Schedule", "constant_schedule"]


class Schedule(Made):
    """A function of the step that compares, hashes, prints and pickles by the call that made it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    @property
    def __name__(self) -> str:
        """The name of the function that made it."""
        return getattr(self.function if self._call is None else self._call.function, "__name__", "schedule")

    def __call__(self, count: Any) -> Any:
        """The value at step `count` (an int, or an int32 scalar; 0 is the first step)."""
        return self.function(count)


@factory
def constant_schedule(value: float) -> Schedule:
    """`value` at every step."""
    return Schedule(lambda count: value)


def fraction(count: Any, steps: int) -> jax.Array:
    """The share of `steps` that is over, from 0 to 1."""
    return jnp.asarray(jnp.clip(count, 0, steps), float) / steps


def left(count: Any, begin: float, end: float) -> jax.Array | float:
    """The share of the way from step `begin` to `end`, whole numbers or not, that is left: from 1 to 0."""
    if end <= begin:
        return 0.0
    last = math.ceil(end)
    steps = jnp.asarray(jnp.clip(last - count, 0, math.ceil(last - begin)), float)
    return jnp.clip((steps - (last - end)) / (end - begin), 0.0, 1.0)


# From 1 to 0, as functions of the share that is left; written so that nothing cancels near the end.
SHAPES: dict[str, Callable[[Any], Any]] = {
    "linear": lambda left: left,
    "cosine": lambda left: jnp.sin(0.5 * jnp.pi * left) ** 2,  # (1 + cos(π (1 - left))) / 2
    "1-sqrt": lambda left: left / (1 + jnp.sqrt(1 - left)),  # 1 - √(1 - left)
}


def at_least(owner: str, least: float, **given: float) -> None:
    """Raise if a given number is less than `least`, or NaN."""
    for name, value in given.items():
        if not least <= value < 2**31:  # steps are int32
            raise ArgumentValueError(
                owner, name, f"must be at least {least} and below 2**31, got {value}", value
            )


def are_schedules(owner: str, schedules: Any) -> None:
    """Raise unless each is a function."""
    for schedule in schedules:
        if not callable(schedule):
            raise TypeError(f"{owner}: {schedule!r} is not a schedule; see constant_schedule")
