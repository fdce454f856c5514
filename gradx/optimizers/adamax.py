"""Adamax (Kingma & Ba 2015, arXiv:1412.6980, section 7.1), and with decoupled weight decay, AdamaxW."""

import jax.numpy as jnp
from optax import ScaleByAdamState

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.moving_average import lerp
from gradx.selection.masking import Mask
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.weight_decay import add_decayed_weights

__all__ = ["adamax", "adamaxw", "scale_by_adamax"]


@factory
def scale_by_adamax(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    *,
    eps_in_max: bool = True,
) -> GradientTransformation:
    """Divide the mean gradient by the largest gradient so far, which decays.

        mu = b1 * mu + (1 - b1) * g
        nu = max(b2 * nu, |g| + eps)
        u  = mu / (1 - b1ᵗ) / nu       or, without eps_in_max,  mu / (1 - b1ᵗ) / (max(b2 * nu, |g|) + eps)

    Arguments:
      b1: as in `scale_by_adam`.
      b2: the share of the largest gradient that stays at each step, between 0 and 1.
      eps: added to the size of each gradient, at least 0; more than 0 unless no gradient is.
      eps_in_max: False adds `eps` to the maximum, which keeps it out of `nu`; as in Keras.
    """

    def rule(g, mu, nu, b1, b2, eps, c1):
        mu = lerp(g, mu, b1)
        # The paper has no eps, and divides 0 by 0; Keras adds it to the maximum.
        nu = jnp.maximum(b2 * nu, jnp.abs(g) + (eps if eps_in_max else 0.0))
        return c1 * mu / (nu if eps_in_max else nu + eps), mu, nu

    return leafwise(
        ScaleByAdamState,
        rule,
        slots={"nu": zero_slot(real=True)},
        corrections={"c1": "b1"},
        b1=b1,
        b2=b2,
        eps=eps,
    )


@factory
def adamax(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
) -> GradientTransformation:
    """Adamax: Adam by the largest gradient instead of the mean square, steps of at most about the rate.

        u = -learning_rate * scale_by_adamax(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3, 2e-3 in the paper.
      b1, b2, eps: as in `scale_by_adamax`.
    """
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@factory
def adamaxw(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask = None,
) -> GradientTransformation:
    """Adamax with decoupled weight decay.

        u = -learning_rate * (scale_by_adamax(g) + weight_decay * p)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3, 2e-3 in the paper.
      b1, b2, eps: as in `scale_by_adamax`.
      weight_decay: the share of each parameter added to its update, at least 0; 0.01 to 0.1 for
        transformers.
      mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and normalization scales.
    """
    return chain(
        scale_by_adamax(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
