"""Stochastic gradient descent (Robbins & Monro 1951), with momentum (Polyak 1964; Nesterov 1983)."""

from typing import Any

from gradx.core import GradientTransformation, chain, identity
from gradx.factory import factory
from gradx.hyper import ScalarOrSchedule, check
from gradx.transforms.momentum import trace
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["sgd"]


@factory
def sgd(
    learning_rate: ScalarOrSchedule,
    momentum: ScalarOrSchedule | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> GradientTransformation:
    """Gradient descent, with the learning rate outside the velocity.

        v = momentum * v + g
        u = -learning_rate * v         or, with nesterov,  -learning_rate * (momentum * v + g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 0.01 to 1.
      momentum: what is kept of the velocity at each step, between 0 and 1; None keeps no velocity.
      nesterov: look one step ahead.
      accumulator_dtype: dtype of the velocity; by default the parameter's, at least float32.
    """
    if momentum is None:
        return chain(identity(), scale_by_learning_rate(learning_rate))
    check("sgd", momentum=momentum)
    return chain(
        trace(momentum, nesterov, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )
