"""Averaged SGD (Polyak & Juditsky 1992, SIAM J. Control Optim. 30; the rates of Bottou 2010)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradx.core import GradientTransformation, chain
from gradx.factory import factory
from gradx.hyper import ScalarOrSchedule, at, check, check_number
from gradx.leafwise import copy_slot, leafwise
from gradx.transforms.decay import add_decayed_weights
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["AverageParamsState", "asgd", "average_params"]


class AverageParamsState(NamedTuple):
    """The average of the parameters."""

    average: jax.Array


@factory
def average_params(start: ScalarOrSchedule = 0) -> GradientTransformation:
    """Keep the mean of the parameters after every step later than `start`; the last link of a chain.

        average = average + (p + g - average) / max(1, t - start)
        u       = g

    Arguments:
      start: steps before the averaging begins, at least 0; until then the average is the parameters.

    The average is in the state, as `average`, in float32 or better.
    """

    def scalars(t, start):
        return {"share": 1 / jnp.maximum(t - start, 1.0)}

    def rule(g, p, average, share):
        return g, average + share * (p + g - average)

    return leafwise(AverageParamsState, rule, scalars, slots={"average": copy_slot()}, start=start)


@factory
def asgd(
    learning_rate: ScalarOrSchedule,
    lambd: ScalarOrSchedule = 1e-4,
    alpha: ScalarOrSchedule = 0.75,
    t0: float = 1e6,
) -> GradientTransformation:
    """Gradient descent at a falling rate, with the mean of the parameters beside it.

        rate = learning_rate / (1 + lambd * learning_rate * count) ** alpha
        u    = -rate * (g + lambd * p)
        the state's `average` is the mean of the parameters after step t0 + 1, as torch counts

    Arguments:
      learning_rate: the first step size, or a schedule of it; 0.01 to 1.
      lambd: the decay of the parameters and of the rate, at least 0.
      alpha: the power with which the rate falls, at least 0; 0.75 in Bottou's.
      t0: steps before the averaging begins, at least 0; the default of 1e6 is torch's.
    """
    check("asgd", learning_rate=learning_rate, lambd=lambd, alpha=alpha)
    check_number("asgd", t0=t0)

    def rate(count):
        first = at(learning_rate, count)
        fall = 1 + at(lambd, count) * first * jnp.asarray(count, float)
        return first / fall ** at(alpha, count)

    return chain(
        add_decayed_weights(lambd),
        scale_by_learning_rate(rate),
        average_params(t0 + 1),
    )
