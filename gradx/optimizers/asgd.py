"""Averaged SGD (Polyak & Juditsky 1992, SIAM J. Control Optim. 30; the rates of Bottou 2010)."""

import jax.numpy as jnp

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule, value_at
from gradx.core.ranges import BOUND, FINITE, check, check_number, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.weight_decay import add_decayed_weights
from gradx.wrappers.averages import average_params

__all__ = ["asgd"]

declare_ranges(lambd=FINITE, t0=BOUND)
declare_ranges("asgd", alpha=FINITE)


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
        the state's `average` is the mean of the parameters after step t0 + 1, in torch's counting

    Arguments:
      learning_rate: the first step size, or a schedule of it; 0.01 to 1.
      lambd: the decay of the parameters and of the rate, at least 0.
      alpha: the power with which the rate falls, at least 0; 0.75 in Bottou's paper.
      t0: steps before the averaging begins, at least 0; the default of 1e6 is torch's.
    """
    check("asgd", learning_rate=learning_rate, lambd=lambd, alpha=alpha)
    check_number("asgd", t0=t0)

    def rate(count):
        first = value_at("asgd", "learning_rate", learning_rate, count)
        fall = 1 + value_at("asgd", "lambd", lambd, count) * first * jnp.asarray(count, float)
        return first / fall ** value_at("asgd", "alpha", alpha, count)

    return chain(
        add_decayed_weights(lambd),
        scale_by_learning_rate(rate),
        average_params(t0 + 1),
    )
