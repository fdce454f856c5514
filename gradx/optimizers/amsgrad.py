"""AMSGrad (Reddi, Kale & Kumar 2018, arXiv:1904.09237)."""

from typing import Any, Literal

import jax.numpy as jnp
from optax import ScaleByAmsgradState

from gradx.codecs.squares import declare_squares
from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import one_of
from gradx.core.renaming import renamed_arguments
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import abs_sq
from gradx.numerics.moving_average import lerp
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["ScaleByAmsgradState", "amsgrad", "scale_by_amsgrad"]

declare_squares("nu_max")


@factory
@renamed_arguments(max_over="variant")
def scale_by_amsgrad(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    variant: Literal["corrected", "raw", "paper"] = "corrected",
    eps_hat: bool = False,
) -> GradientTransformation:
    """Adam with a denominator that never falls.

        mu     = b1 * mu + (1 - b1) * g
        nu     = b2 * nu + (1 - b2) * g²
        nu_max = max(nu_max, nu / (1 - b2ᵗ))         or, with variant="raw",  max(nu_max, nu)
        u      = mu / (1 - b1ᵗ) / (√(nu_max + eps_root) + eps)
        with variant="raw":  nu_max / (1 - b2ᵗ) in place of nu_max in u

    Arguments:
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_adam`.
      bias_correction_mu, bias_correction_nu: False leaves out 1 - b1ᵗ or 1 - b2ᵗ.
      variant: whose maximum it is. "corrected" is as above; "raw" is PyTorch's rule, where the
        first gradients weigh less; "paper" corrects nothing, whatever the other two arguments are.
      eps_hat: as in `scale_by_adam`, for "raw"; Keras's rule.

    A first gradient that is large counts in full under "corrected", and for ever.
    """
    one_of("scale_by_amsgrad", ("corrected", "raw", "paper"), variant=variant)
    corrections = {}
    if variant != "paper":
        corrections |= {"c1": "b1"} if bias_correction_mu else {}
        corrections |= {"c2": "b2"} if bias_correction_nu else {}
    is_raw = variant == "raw"
    if eps_hat and not is_raw:
        raise ValueError("scale_by_amsgrad: eps_hat goes with variant='raw', where nu is corrected last")

    def scalars(eps, eps_root, c2=1.0):
        return {"eps": jnp.sqrt(c2) * eps, "eps_root": c2 * eps_root} if eps_hat else {}

    def rule(g, mu, nu, nu_max, b1, b2, eps, eps_root, c1=1.0, c2=1.0):
        mu = lerp(g, mu, b1)
        nu = lerp(abs_sq(g), nu, b2)
        nu_max = jnp.maximum(nu_max, nu if is_raw else c2 * nu)
        root = jnp.sqrt((c2 * nu_max if is_raw else nu_max) + eps_root)
        return c1 * mu / (root + eps), mu, nu, nu_max

    return leafwise(
        ScaleByAmsgradState,
        rule,
        scalars,
        slots={"mu": zero_slot(mu_dtype), "nu": zero_slot(real=True), "nu_max": zero_slot(real=True)},
        corrections=corrections,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )


@factory
@renamed_arguments(max_over="variant")
def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    variant: Literal["corrected", "raw", "paper"] = "corrected",
) -> GradientTransformation:
    """AMSGrad: Adam whose steps do not grow again after rare large gradients.

        u = -learning_rate * scale_by_amsgrad(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3.
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_adam`.
      bias_correction_mu, bias_correction_nu, variant: as in `scale_by_amsgrad`.
    """
    return chain(
        scale_by_amsgrad(
            b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu, variant=variant
        ),
        scale_by_learning_rate(learning_rate),
    )
