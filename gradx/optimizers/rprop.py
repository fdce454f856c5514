"""Rprop (Riedmiller & Braun 1993; without backtracking: Igel & Hüsken 2003, Neurocomputing 50)."""

from typing import Any

import jax.numpy as jnp
from optax import ScaleByRpropState

from gradx.codecs.squares import declare_squares
from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule, value_at
from gradx.core.ranges import BOUND, FINITE, FRACTION, GROWTH, check, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import full_slot
from gradx.transforms.scale import scale

__all__ = ["ScaleByRpropState", "rprop", "scale_by_rprop"]

declare_ranges(eta_minus=FRACTION, eta_plus=GROWTH, min_step_size=FINITE, max_step_size=BOUND)
declare_squares("step_sizes")  # never below 0 either


@factory
def scale_by_rprop(
    learning_rate: ScalarOrSchedule,
    eta_minus: ScalarOrSchedule = 0.5,
    eta_plus: ScalarOrSchedule = 1.2,
    min_step_size: ScalarOrSchedule = 1e-6,
    max_step_size: ScalarOrSchedule = 50.0,
) -> GradientTransformation:
    """Steps that grow while the sign of the gradient stays, and shrink when it turns.

        s = min(s * eta_plus, max_step_size),   u = s * sign(g)   where the sign stays
        s = max(s * eta_minus, min_step_size),  u = 0             where it turns
        s stays,                                u = s * sign(g)   where g or the last u is 0

    Arguments:
      learning_rate: the first step size of every element, at least 0; of a schedule, its first value.
      eta_minus: the factor of a step size where the sign turned, between 0 and 1.
      eta_plus: the factor of a step size where the sign stayed, at least 1.
      min_step_size, max_step_size: the bounds of a step size, at least 0.

    For gradients without noise: the whole data set in each step. Complex parameters raise TypeError.
    """
    check("scale_by_rprop", learning_rate=learning_rate)
    bounds: list[Any] = [min_step_size, max_step_size]
    if all(isinstance(x, int | float) for x in bounds) and bounds[0] > bounds[1]:
        raise ValueError(f"scale_by_rprop: min_step_size must not be above max_step_size, got {bounds}")

    def first_step(p):
        first = value_at("scale_by_rprop", "learning_rate", learning_rate, 0)
        return full_slot(first, real=True)(p)

    def rule(g, step_sizes, prev_updates, eta_minus, eta_plus, min_step_size, max_step_size):
        if jnp.iscomplexobj(g):
            raise TypeError("rprop: complex numbers have no sign; optimize real and imaginary parts apart")
        sign, before = jnp.sign(g), jnp.sign(prev_updates)
        grown = jnp.minimum(step_sizes * eta_plus, max_step_size)
        shrunk = jnp.maximum(step_sizes * eta_minus, min_step_size)
        turned = sign * before < 0
        s = jnp.where(turned, shrunk, jnp.where(sign * before > 0, grown, step_sizes))
        u = jnp.where(turned, 0.0, s * sign)
        return u, s, u

    return leafwise(
        ScaleByRpropState,
        rule,
        slots={"step_sizes": first_step},
        eta_minus=eta_minus,
        eta_plus=eta_plus,
        min_step_size=min_step_size,
        max_step_size=max_step_size,
    )


@factory
def rprop(
    learning_rate: ScalarOrSchedule,
    eta_minus: ScalarOrSchedule = 0.5,
    eta_plus: ScalarOrSchedule = 1.2,
    min_step_size: ScalarOrSchedule = 1e-6,
    max_step_size: ScalarOrSchedule = 50.0,
) -> GradientTransformation:
    """Rprop: a step size for each element that follows the signs of its gradients; full batches only.

        u = -scale_by_rprop(g)

    Arguments:
      learning_rate, eta_minus, eta_plus, min_step_size, max_step_size: as in `scale_by_rprop`.
    """
    return chain(
        scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size), scale(-1.0)
    )
