"""Yogi (Zaheer et al. 2018, "Adaptive Methods for Nonconvex Optimization")."""

import jax
import jax.numpy as jnp
from optax import ScaleByAdamState

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import FINITE, check_number, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import full_slot
from gradx.numerics.arrays import abs_sq
from gradx.numerics.moving_average import lerp
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["scale_by_yogi", "yogi"]

declare_ranges(initial_accumulator_value=FINITE)


@factory
def scale_by_yogi(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-3,
    eps_root: ScalarOrSchedule = 0.0,
    initial_accumulator_value: float | jax.Array = 1e-6,
) -> GradientTransformation:
    """Adam whose second moment moves by at most (1 - b2) * g², up or down.

        mu = b1 * mu + (1 - b1) * g
        nu = nu - (1 - b2) * sign(nu - g²) * g²
        u  = mu / (1 - b1ᵗ) / (√(nu / (1 - b2ᵗ) + eps_root) + eps)

    Arguments:
      b1: as in `scale_by_adam`.
      b2: 1 minus the share of g² by which `nu` moves, between 0 and 1.
      eps: added to the denominator, at least 0; larger than Adam's, because `nu` is slow to grow.
      eps_root: as in `scale_by_adam`.
      initial_accumulator_value: where `mu` and `nu` start, at least 0; a number, not a schedule.
    """
    check_number("scale_by_yogi", initial_accumulator_value=initial_accumulator_value)

    def rule(g, mu, nu, b1, b2, eps, eps_root, c1, c2):
        mu = lerp(g, mu, b1)
        square = abs_sq(g)
        # Where both overflowed they are equal: inf - inf would be NaN.
        nu = nu - (1 - b2) * jnp.where(nu == square, 0.0, jnp.sign(nu - square) * square)
        return c1 * mu / (jnp.sqrt(c2 * nu + eps_root) + eps), mu, nu

    return leafwise(
        ScaleByAdamState,
        rule,
        slots={
            "mu": full_slot(initial_accumulator_value),
            "nu": full_slot(initial_accumulator_value, real=True),
        },
        corrections={"c1": "b1", "c2": "b2"},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


@factory
def yogi(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-3,
) -> GradientTransformation:
    """Yogi: Adam whose steps grow slowly again when gradients get small.

        u = -learning_rate * scale_by_yogi(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-3 to 1e-2.
      b1, b2, eps: as in `scale_by_yogi`.
    """
    return chain(scale_by_yogi(b1, b2, eps), scale_by_learning_rate(learning_rate))
