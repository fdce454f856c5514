"""Polyak's step size for stochastic gradients (Loizou et al. 2021, arXiv:2002.10542)."""

from typing import Literal

import jax.numpy as jnp
from optax import EmptyState

from gradx.core.arguments import scalar
from gradx.core.chain import chain, identity
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import BOUND, FINITE, check, declare_ranges, one_of
from gradx.core.transformation import GradientTransformation
from gradx.core.tree import norm_of
from gradx.engine.leafwise import leafwise
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["polyak_sgd", "scale_by_polyak"]

declare_ranges(max_learning_rate=BOUND, scaling=FINITE)


@factory
def scale_by_polyak(
    f_min: ScalarOrSchedule = 0.0,
    max_learning_rate: ScalarOrSchedule = 1.0,
    eps: ScalarOrSchedule = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> GradientTransformation:
    """Multiply by the step size that would reach the minimum of a line.

        step = min((value - f_min) / (‖g‖² + eps), max_learning_rate),  ‖g‖ over all arrays
        u    = step * g                0 where ‖g‖² + eps is 0

    Arguments:
      f_min: the least value of the loss, or a lower bound of it; 0 for a model that fits its data.
      max_learning_rate: the largest step size, at least 0.
      eps: added to the denominator, at least 0.
      variant: "sps+" takes 0 for value - f_min where that is negative (Garrigos et al. 2023,
        arXiv:2307.14528).

    The loss is given to `update`: `update(updates, state, params, value=loss)`; TypeError if it is not.
    """
    one_of("scale_by_polyak", ("sps", "sps+"), variant=variant)

    def scalars(updates, value, f_min, max_learning_rate, eps):
        below = norm_of(updates) ** 2 + eps
        gap = scalar("scale_by_polyak", "value", value, below.dtype) - f_min
        gap = jnp.maximum(gap, 0.0) if variant == "sps+" else gap
        step = jnp.minimum(gap / jnp.where(below == 0, 1.0, below), max_learning_rate)
        return {"step": jnp.where(below == 0, 0.0, step)}

    def rule(g, step):
        return step * g

    return leafwise(EmptyState, rule, scalars, f_min=f_min, max_learning_rate=max_learning_rate, eps=eps)


@factory
def polyak_sgd(
    max_learning_rate: ScalarOrSchedule = 1.0,
    scaling: ScalarOrSchedule = 1.0,
    f_min: ScalarOrSchedule = 0.0,
    eps: ScalarOrSchedule = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> GradientTransformation:
    """Gradient descent that takes its step size from the loss.

        u = -scaling * scale_by_polyak(g)

    Arguments:
      max_learning_rate, f_min, eps, variant: as in `scale_by_polyak`.
      scaling: multiplies the step, or a schedule that does; at least 0. The paper's c is 1 / scaling.

    The loss is given to `update`: `update(updates, state, params, value=loss)`; TypeError if it is not.
    """
    check("polyak_sgd", scaling=scaling)
    # Nested as Optax nests `sgd(scaling)` and the rule; there the rule comes last.
    rule = scale_by_polyak(f_min, max_learning_rate, eps, variant)
    return chain(chain(rule, scale_by_learning_rate(scaling)), identity())
