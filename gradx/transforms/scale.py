"""Multiply the updates by a number."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from optax import EmptyState, ScaleByScheduleState

from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise

__all__ = [
    "ScaleByScheduleState",
    "scale",
    "scale_by_learning_rate",
    "scale_by_schedule",
    "scale_by_sign",
]


@factory
def scale(step_size: ScalarOrSchedule) -> GradientTransformation:
    """Multiply by a number.

        u = step_size * g

    Arguments:
      step_size: a number of either sign, or a schedule of it; not NaN.
    """

    def rule(g, step_size):
        return step_size * g

    return leafwise(EmptyState, rule, step_size=step_size)


@factory
def scale_by_schedule(step_size_fn: Callable[[Any], Any]) -> GradientTransformation:
    """Multiply by a schedule.

        u = step_size_fn(count) * g

    Arguments:
      step_size_fn: a function of the step (int32, 0 first) that gives a number.

    Raises TypeError if it is not a function, ValueError if it gives anything but one number.
    """
    if not callable(step_size_fn):
        raise TypeError(
            f"scale_by_schedule: step_size_fn must be a function, got {step_size_fn!r}; see scale"
        )

    def rule(g, step_size_fn):
        return step_size_fn * g

    return leafwise(ScaleByScheduleState, rule, step_size_fn=step_size_fn)


@factory
def scale_by_learning_rate(
    learning_rate: ScalarOrSchedule, *, flip_sign: bool = True
) -> GradientTransformation:
    """Multiply by the negative learning rate: the link that turns a direction into a step downhill.

        u = -learning_rate * g

    Arguments:
      learning_rate: the step size, or a schedule of it; a number is at least 0 and finite.
      flip_sign: False keeps the sign, for ascent.
    """

    def rule(g, step):
        return step * g

    def scalars(learning_rate):
        return {"step": -learning_rate if flip_sign else learning_rate}

    State = ScaleByScheduleState if callable(learning_rate) else EmptyState
    return leafwise(State, rule, scalars, learning_rate=learning_rate)


@factory
def scale_by_sign() -> GradientTransformation:
    """Keep the sign only (signSGD, Bernstein et al. 2018, arXiv:1802.04434).

    u = sign(g), with sign(0) = 0; g / |g| for complex g
    """

    def rule(g):
        return jnp.sign(g)

    return leafwise(EmptyState, rule)
