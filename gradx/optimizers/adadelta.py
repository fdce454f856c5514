"""Adadelta (Zeiler 2012, arXiv:1212.5701)."""

import jax.numpy as jnp
from optax import ScaleByAdaDeltaState

from gradx.codecs.squares import declare_squares
from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import FRACTION, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import abs_sq
from gradx.numerics.moving_average import lerp
from gradx.selection.masking import Mask
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.weight_decay import add_decayed_weights

__all__ = ["ScaleByAdaDeltaState", "adadelta", "scale_by_adadelta"]

declare_ranges(rho=FRACTION)
declare_squares("e_g", "e_x")


@factory
def scale_by_adadelta(rho: ScalarOrSchedule = 0.9, eps: ScalarOrSchedule = 1e-6) -> GradientTransformation:
    """Scale by the ratio of the root mean squares of past updates and of gradients.

        e_g = rho * e_g + (1 - rho) * g²
        u   = √(e_x + eps) / √(e_g + eps) * g
        e_x = rho * e_x + (1 - rho) * u²

    Arguments:
      rho: decay rate of both means, between 0 and 1.
      eps: added under both roots, at least 0: the first update is about √eps, and of 0 nothing moves.
    """

    def rule(g, e_g, e_x, rho, eps):
        e_g = lerp(abs_sq(g), e_g, rho)
        ratio = (e_x + eps) / (e_g + eps)
        # u² without its root, which XLA would rather store than take twice; in this order, as 0 times an
        # overflowed g² is NaN.
        return jnp.sqrt(ratio) * g, e_g, lerp((ratio * g * jnp.conj(g)).real, e_x, rho)

    start = zero_slot(real=True)
    return leafwise(ScaleByAdaDeltaState, rule, slots={"e_g": start, "e_x": start}, rho=rho, eps=eps)


@factory
def adadelta(
    learning_rate: ScalarOrSchedule = 1.0,
    rho: ScalarOrSchedule = 0.9,
    eps: ScalarOrSchedule = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask = None,
) -> GradientTransformation:
    """Adadelta: Adagrad with a memory that fades, and updates in the units of the parameters.

        u = -learning_rate * scale_by_adadelta(g + weight_decay * p)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1 in the paper.
      rho, eps: as in `scale_by_adadelta`.
      weight_decay: the share of each parameter added to its gradient, at least 0.
      weight_decay_mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and
        normalization scales.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(learning_rate),
    )
