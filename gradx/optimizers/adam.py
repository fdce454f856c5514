"""Adam (Kingma & Ba 2015, arXiv:1412.6980) and AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

from typing import Any, Literal

import jax.numpy as jnp
from optax import ScaleByAdamState

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import abs_sq
from gradx.numerics.moving_average import correction_ahead, lerp
from gradx.selection.masking import Mask
from gradx.transforms.descent import descend
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["ScaleByAdamState", "adam", "adamw", "scale_by_adam"]


@factory
def scale_by_adam(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    bias_correction: bool = True,
    eps_hat: bool = False,
) -> GradientTransformation:
    """Divide the mean gradient by its root mean square.

        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * g²
        u  = mu / (1 - b1ᵗ) / (√(nu / (1 - b2ᵗ) + eps_root) + eps)
        with eps_hat:  u = mu / (1 - b1ᵗ) * √(1 - b2ᵗ) / (√(nu + eps_root) + eps)

    Arguments:
      b1: decay rate of the mean of the gradients, between 0 and 1.
      b2: decay rate of the mean of the squared gradients, between 0 and 1.
      eps: added to the denominator, at least 0.
      eps_root: added under the square root, at least 0; more than 0 to differentiate through the update.
      mu_dtype: dtype of `mu`; by default the parameter's, at least float32.
      nesterov: look one step ahead (Dozat 2016).
      bias_correction: False leaves out both denominators 1 - bᵗ.
      eps_hat: add eps to √nu before its correction, as Keras and the end of the paper's section 2
        do. It makes eps smaller in the first steps, which matters where gradients are about as small as eps.
    """

    def scalars(b1, eps, eps_root, c1=1.0, c2=1.0):
        # √(c2 * nu) + √c2 * eps is √c2 * (√nu + eps): no array is touched for it.
        ahead = {"c1_next": correction_ahead(b1, c1)}
        return ahead | ({"eps": jnp.sqrt(c2) * eps, "eps_root": c2 * eps_root} if eps_hat else {})

    def rule(g, mu, nu, b1, b2, eps, eps_root, c1_next, c1=1.0, c2=1.0):
        mu = lerp(g, mu, b1)
        nu = lerp(abs_sq(g), nu, b2)
        # Dozat's algorithm 2 has a further factor b2 in nu, which no implementation has.
        ahead = lerp(c1 * g, c1_next * mu, b1) if nesterov else c1 * mu
        return ahead / (jnp.sqrt(c2 * nu + eps_root) + eps), mu, nu

    return leafwise(
        ScaleByAdamState,
        rule,
        scalars,
        slots={"mu": zero_slot(mu_dtype), "nu": zero_slot(real=True)},
        corrections={"c1": "b1", "c2": "b2"} if bias_correction else {},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


@factory
def adam(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    bias_correction: bool = True,
    eps_hat: bool = False,
) -> GradientTransformation:
    """Adam: steps of about the learning rate, whatever the scale of the gradients.

        u = -learning_rate * scale_by_adam(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3.
      b1, b2, eps, eps_root, mu_dtype, nesterov, bias_correction, eps_hat: as in `scale_by_adam`.
    """
    return chain(
        scale_by_adam(
            b1,
            b2,
            eps,
            eps_root,
            mu_dtype,
            nesterov=nesterov,
            bias_correction=bias_correction,
            eps_hat=eps_hat,
        ),
        scale_by_learning_rate(learning_rate),
    )


@factory
def adamw(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask = None,
    *,
    nesterov: bool = False,
    bias_correction: bool = True,
    eps_hat: bool = False,
    decay_mode: Literal["decoupled", "l2", "independent", "corrected"] = "decoupled",
    decay_order: Literal["simultaneous", "before", "after"] = "simultaneous",
    max_learning_rate: float | None = None,
) -> GradientTransformation:
    """Adam with decoupled weight decay.

        u = -learning_rate * (scale_by_adam(g) + weight_decay * p)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3.
      b1, b2, eps, eps_root, mu_dtype, nesterov, bias_correction, eps_hat: as in `scale_by_adam`.
      weight_decay: the share of each parameter added to its update, at least 0; 0.01 to 0.1 for
        transformers.
      mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and normalization scales.
      decay_mode, decay_order, max_learning_rate: other kinds of decay, as in `descend`.
    """
    return descend(
        scale_by_adam(
            b1,
            b2,
            eps,
            eps_root,
            mu_dtype,
            nesterov=nesterov,
            bias_correction=bias_correction,
            eps_hat=eps_hat,
        ),
        learning_rate,
        weight_decay,
        mask,
        decay_mode=decay_mode,
        decay_order=decay_order,
        max_learning_rate=max_learning_rate,
    )
