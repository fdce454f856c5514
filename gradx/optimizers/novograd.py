"""NovoGrad (Ginsburg et al. 2019, arXiv:1905.11286)."""

from typing import Any

import jax.numpy as jnp
from optax import ScaleByNovogradState

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.moving_average import lerp
from gradx.numerics.norms import sum_of_squares
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["ScaleByNovogradState", "novograd", "scale_by_novograd"]


@factory
def scale_by_novograd(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.25,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
) -> GradientTransformation:
    """Momentum of gradients, each array's divided by its mean norm.

        nu = b2 * nu + (1 - b2) * ‖g‖²,  one number for each array; ‖g‖² at the first step
        mu = b1 * mu + g / (√(nu + eps_root) + eps) + weight_decay * p
        u  = mu

    Arguments:
      b1: the share of the momentum that stays at each step, between 0 and 1.
      b2: decay rate of the mean of the squared norms, between 0 and 1.
      eps: added to the denominator, at least 0.
      eps_root: added under the square root, at least 0; more than 0 to differentiate through the update.
      weight_decay: the share of each parameter added to its momentum, at least 0.
      mu_dtype: dtype of `mu`; by default the parameter's, at least float32.

    Raises ValueError if `update` is called without parameters.
    """

    def scalars(t, b2):
        return {"kept": jnp.where(t == 1, 0.0, b2)}

    def rule(g, p, mu, nu, kept, b1, eps, eps_root, weight_decay):
        nu = lerp(sum_of_squares(g), nu, kept)
        mu = b1 * mu + g * (1 / (jnp.sqrt(nu + eps_root) + eps)) + weight_decay * p
        return mu, mu, nu

    return leafwise(
        ScaleByNovogradState,
        rule,
        scalars,
        slots={"mu": zero_slot(mu_dtype), "nu": lambda p: zero_slot(real=True)(jnp.zeros((), p.dtype))},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        weight_decay=weight_decay,
    )


@factory
def novograd(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.25,
    eps: ScalarOrSchedule = 1e-6,
    eps_root: ScalarOrSchedule = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
) -> GradientTransformation:
    """NovoGrad: momentum with one scale for each array, from half of Adam's memory.

        u = -learning_rate * scale_by_novograd(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-3 to 1e-2.
      b1, b2, eps, eps_root: as in `scale_by_novograd`; eps=1e-6 by default.
      weight_decay: the share of each parameter added to its momentum, at least 0; 1e-4 to 1e-3.
    """
    return chain(
        scale_by_novograd(b1, b2, eps, eps_root, weight_decay), scale_by_learning_rate(learning_rate)
    )
