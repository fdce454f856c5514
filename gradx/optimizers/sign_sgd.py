"""signSGD and Signum (Bernstein et al. 2018, arXiv:1802.04434)."""

from typing import Any

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import FRACTION, check, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.transforms.momentum import ema
from gradx.transforms.scale import scale_by_learning_rate, scale_by_sign

__all__ = ["sign_sgd", "signum"]

declare_ranges("signum", beta=FRACTION)


@factory
def sign_sgd(learning_rate: ScalarOrSchedule) -> GradientTransformation:
    """signSGD: steps of exactly the learning rate, without memory.

        u = -learning_rate * sign(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-5 to 1e-3.
    """
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@factory
def signum(
    learning_rate: ScalarOrSchedule, beta: ScalarOrSchedule = 0.9, accumulator_dtype: Any = None
) -> GradientTransformation:
    """Signum: steps of exactly the learning rate, along the sign of the mean gradient.

        m = beta * m + (1 - beta) * g
        u = -learning_rate * sign(m)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-5 to 1e-3.
      beta: decay rate of the mean of the gradients, between 0 and 1.
      accumulator_dtype: dtype of the mean; by default the parameter's, at least float32.
    """
    check("signum", beta=beta)
    # A mean and its sum have the same sign, so the zero start needs no correction.
    return chain(
        ema(beta, debias=False, accumulator_dtype=accumulator_dtype),
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )
