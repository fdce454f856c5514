"""AdaBelief (Zhuang et al. 2020, arXiv:2010.07468)."""

import jax.numpy as jnp
from optax import ScaleByBeliefState

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import abs_sq
from gradx.numerics.moving_average import correction_ahead, lerp
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["ScaleByBeliefState", "adabelief", "scale_by_belief"]


@factory
def scale_by_belief(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-16,
    eps_root: ScalarOrSchedule = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Divide the mean gradient by the root mean square of the deviations from it.

        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * (g - mu)² + eps_root
        u  = mu / (1 - b1ᵗ) / (√(nu / (1 - b2ᵗ)) + eps)

    Arguments:
      b1: as in `scale_by_adam`.
      b2: decay rate of the mean of the squared deviations, between 0 and 1.
      eps: added to the denominator, at least 0.
      eps_root: added to `nu` at every step, at least 0; it sums up to eps_root / (1 - b2).
      nesterov: look one step ahead (Dozat 2016).

    Both defaults are made for float32. In float16 they are 0, because its least number is 6e-8: for a 16-bit
    `nu`, raise eps to 1e-8 and eps_root to 1e-12, or a parameter without gradient divides 0 by 0.
    """

    def scalars(b1, c1):
        return {"c1_next": correction_ahead(b1, c1)}

    def rule(g, mu, nu, b1, b2, eps, eps_root, c1, c2, c1_next):
        mu = lerp(g, mu, b1)
        # Summed in this order: the other way round, XLA:CPU copies mu and moves a quarter more.
        nu = b2 * nu + ((1 - b2) * abs_sq(g - mu) + eps_root)
        ahead = lerp(c1 * g, c1_next * mu, b1) if nesterov else c1 * mu
        return ahead / (jnp.sqrt(c2 * nu) + eps), mu, nu

    return leafwise(
        ScaleByBeliefState,
        rule,
        scalars,
        slots={"nu": zero_slot(real=True)},
        corrections={"c1": "b1", "c2": "b2"},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


@factory
def adabelief(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-16,
    eps_root: ScalarOrSchedule = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """AdaBelief: longer steps where gradients agree, shorter ones where they do not.

        u = -learning_rate * scale_by_belief(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3.
      b1, b2, eps, eps_root, nesterov: as in `scale_by_belief`.
    """
    return chain(
        scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov), scale_by_learning_rate(learning_rate)
    )
