"""Stochastic gradient descent (Robbins & Monro 1951), with momentum (Polyak 1964; Nesterov 1983)."""

from typing import Any

from gradx.core.chain import chain, identity
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import check
from gradx.core.transformation import GradientTransformation
from gradx.transforms.momentum import trace
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["sgd"]


@factory
def sgd(
    learning_rate: ScalarOrSchedule,
    momentum: ScalarOrSchedule | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
    *,
    rate_in_velocity: bool = False,
) -> GradientTransformation:
    """Gradient descent, with momentum if asked.

        v = momentum * v + g
        u = -learning_rate * v         or, with nesterov,  -learning_rate * (momentum * v + g)
        with rate_in_velocity, g is -learning_rate * g from the start, and the factor of u is 1

    Arguments:
      learning_rate: the step size, or a schedule of it; 0.01 to 1.
      momentum: the share of the velocity that stays at each step, between 0 and 1; None keeps no velocity.
      nesterov: look one step ahead.
      accumulator_dtype: dtype of the velocity; by default the parameter's, at least float32.
      rate_in_velocity: multiply the gradient by the learning rate, not the velocity: the same at a
        constant rate, while under a falling one past steps keep the rate that they were made with.
    """
    rate = scale_by_learning_rate(learning_rate)
    if momentum is None:
        return chain(identity(), rate)
    check("sgd", momentum=momentum)
    velocity = trace(momentum, nesterov, accumulator_dtype)
    return chain(rate, velocity) if rate_in_velocity else chain(velocity, rate)
