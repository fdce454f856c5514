"""Adagrad (Duchi, Hazan & Singer 2011, JMLR 12)."""

import jax.numpy as jnp
from optax import ScaleByRssState

from gradx.codecs.squares import declare_squares
from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import FINITE, check_number, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import full_slot
from gradx.numerics.arrays import abs_sq
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["ScaleByRssState", "adagrad", "scale_by_rss"]

declare_ranges(initial_accumulator_value=FINITE)
declare_squares("sum_of_squares")


@factory
def scale_by_rss(
    initial_accumulator_value: float = 0.0, eps: ScalarOrSchedule = 1e-7, *, eps_in_sqrt: bool = False
) -> GradientTransformation:
    """Divide by the root of the sum of all squared gradients so far.

        s = s + g²
        u = g / (√s + eps)             or, with eps_in_sqrt,  g / √(s + eps)

    Arguments:
      initial_accumulator_value: the sum at the start, at least 0.
      eps: added to the denominator, at least 0.
      eps_in_sqrt: add it under the square root.

    Where the sum is 0, so is the update.
    """
    check_number("scale_by_rss", initial_accumulator_value=initial_accumulator_value)

    def rule(g, sum_of_squares, eps):
        s = sum_of_squares + abs_sq(g)
        u = g / (jnp.sqrt(s + eps) if eps_in_sqrt else jnp.sqrt(s) + eps)
        return jnp.where(s == 0, 0.0, u), s  # NaN is not 0, and stays visible

    start = full_slot(initial_accumulator_value, real=True)
    return leafwise(ScaleByRssState, rule, slots={"sum_of_squares": start}, eps=eps)


@factory
def adagrad(
    learning_rate: ScalarOrSchedule,
    initial_accumulator_value: float = 0.0,
    eps: ScalarOrSchedule = 1e-7,
    *,
    eps_in_sqrt: bool = False,
) -> GradientTransformation:
    """Adagrad: each element's step shrinks with the gradients that it has seen; for sparse features.

        u = -learning_rate * scale_by_rss(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 0.01 to 1.
      initial_accumulator_value, eps, eps_in_sqrt: as in `scale_by_rss`.
    """
    return chain(
        scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt=eps_in_sqrt),
        scale_by_learning_rate(learning_rate),
    )
