"""Lion (Chen et al. 2023, arXiv:2302.06675)."""

from typing import Any, Literal

import jax.numpy as jnp
from optax import ScaleByLionState

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import one_of
from gradx.core.renaming import renamed_arguments
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.moving_average import lerp
from gradx.selection.masking import Mask
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.weight_decay import add_decayed_weights

__all__ = ["ScaleByLionState", "lion", "scale_by_lion"]


@factory
@renamed_arguments(mode="variant")
def scale_by_lion(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule | None = 0.99,
    mu_dtype: Any = None,
    *,
    variant: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: ScalarOrSchedule = 1.0,
) -> GradientTransformation:
    """Keep only the sign of the mean gradient.

        u  = sign(b1 * mu + (1 - b1) * g)
        mu = b2 * mu + (1 - b2) * g

    Arguments:
      b1: weight of the mean against the gradient in the update, between 0 and 1.
      b2: decay rate of the mean of the gradients, between 0 and 1; None takes b1, and then
        this is the rule of `signum`.
      mu_dtype: dtype of `mu`; by default the parameter's, at least float32.
      variant: "hard" is the sign; "smooth" is tanh(smooth_beta * x); "refined" keeps |x| < 1 as it is.
      smooth_beta: slope of "smooth".
    """
    one_of("scale_by_lion", ("hard", "smooth", "refined"), variant=variant)
    b2 = b1 if b2 is None else b2

    def rule(g, mu, b1, b2, smooth_beta):
        x = lerp(g, mu, b1)
        if variant == "smooth":
            u = jnp.tanh(smooth_beta * x)
        else:
            u = jnp.where(jnp.abs(x) < 1, x, jnp.sign(x)) if variant == "refined" else jnp.sign(x)
        return u, lerp(g, mu, b2)

    return leafwise(
        ScaleByLionState, rule, slots={"mu": zero_slot(mu_dtype)}, b1=b1, b2=b2, smooth_beta=smooth_beta
    )


@factory
def lion(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule | None = 0.99,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-3,
    mask: Mask = None,
) -> GradientTransformation:
    """Lion: steps of exactly the learning rate, from one slot per parameter.

        u = -learning_rate * (scale_by_lion(g) + weight_decay * p)

    Arguments:
      learning_rate: the step size, or a schedule of it; a tenth to a third of Adam's, 3e-5 to 1e-3.
      b1, b2, mu_dtype: as in `scale_by_lion`.
      weight_decay: the share of each parameter added to its update, at least 0; 3 to 10 times Adam's.
      mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and normalization scales.
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
