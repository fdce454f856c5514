"""RAdam (Liu et al. 2019, arXiv:1908.03265)."""

import math
from typing import Any

import jax.numpy as jnp
from optax import ScaleByAdamState

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule, varies
from gradx.core.ranges import BOUND, DECAY, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import zero_slot
from gradx.numerics.arrays import abs_sq
from gradx.numerics.moving_average import correction_ahead, lerp
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["radam", "scale_by_radam"]

declare_ranges(threshold=BOUND)
declare_ranges("scale_by_radam", b2=DECAY)  # of 1, ρ∞ has no value


@factory
def scale_by_radam(
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    threshold: ScalarOrSchedule = 5.0,
    *,
    nesterov: bool = False,
    eps_before_correction: bool = False,
) -> GradientTransformation:
    """Adam's direction, shortened while its denominator rests on few gradients; before that, their mean.

        mu, nu = as in `scale_by_adam`;  m = mu / (1 - b1ᵗ),  v = nu / (1 - b2ᵗ)
        ρ∞ = 2 / (1 - b2) - 1,           ρ = ρ∞ - 2t * b2ᵗ / (1 - b2ᵗ)
        r  = √((ρ - 4)(ρ - 2)ρ∞ / ((ρ∞ - 4)(ρ∞ - 2)ρ))
        u  = r * m / (√(v + eps_root) + eps) where ρ >= threshold,  m elsewhere

    Arguments:
      b1, eps, eps_root: as in `scale_by_adam`.
      b2: decay rate of the mean of the squared gradients, at least 0 and less than 1.
      threshold: the least ρ at which the denominator is used, at least 0; less than 4 (where r is 0) is
        4, and inf never uses it.
      nesterov: look one step ahead (Dozat 2016).
      eps_before_correction: u = r * m * √(1 - b2ᵗ) / (√nu + eps), torch's form.
    """
    steady = not varies(b2)

    def scalars(b1, b2, eps, threshold, t, c1, c2):
        rho, most = (sample_size(b2, t) if steady else most_samples(b2) - 2 * t * (c2 - 1)), most_samples(b2)
        rectified = (rho >= threshold) & (rho > 4)
        rho, most = jnp.where(rectified, rho, 5.0), jnp.where(rectified, most, 5.0)  # 5 and 5 make r = 1
        r = jnp.sqrt((rho - 4) / (most - 4) * ((rho - 2) / (most - 2)) * (most / rho))
        return {
            "r": r,
            "rectified": rectified,
            "eps": eps * jnp.sqrt(c2) if eps_before_correction else eps,
            "c1_next": correction_ahead(b1, c1),
        }

    def rule(g, mu, nu, b1, b2, eps, eps_root, r, rectified, c1, c1_next, c2):
        mu = lerp(g, mu, b1)
        nu = lerp(abs_sq(g), nu, b2)
        ahead = lerp(r * c1 * g, r * c1_next * mu, b1) if nesterov else r * c1 * mu
        return ahead / jnp.where(rectified > 0, jnp.sqrt(c2 * nu + eps_root) + eps, 1.0), mu, nu

    return leafwise(
        ScaleByAdamState,
        rule,
        scalars,
        slots={"nu": zero_slot(real=True)},
        corrections={"c1": "b1", "c2": "b2"},
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        threshold=threshold,
    )


def most_samples(b2: Any) -> Any:
    """ρ∞: how many gradients a long average with decay rate b2 is worth."""
    return (1 + b2) / (1 - b2)


def sample_size(b2: Any, t: Any) -> Any:
    """ρ: how many gradients the average is worth after t steps.

    The paper's difference cancels at first: of 2,000, 6 are left, and r is off by a percent in float32.
    With x = -log b2 and L(z) = coth z - 1/z, the form t + L(x/2) - t L(tx/2) does not cancel. Later, where
    L comes near 1, the difference is the better form.
    """
    log = (lambda b: math.log(b) if b else -math.inf) if isinstance(b2, float) else jnp.log
    x = -log(b2)
    early = t * x < 2
    # Each form has a number that it can take where it is not used: else its derivative would be NaN there.
    z, y = jnp.where(early, t * x / 2, 1.0), jnp.where(early, 1.0, t * x)
    start = langevin(jnp.minimum(x / 2, z))
    late = most_samples(b2) + 2 * t * jnp.exp(-y) / jnp.expm1(-y)
    return jnp.where(early, t + start - t * langevin(z), late)


def langevin(z: Any) -> Any:
    """Coth z - 1/z for 0 <= z <= 1, by Lambert's continued fraction."""
    below = 17.0
    for odd in (15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
        below = odd + z * z / below
    return z / below


@factory
def radam(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    threshold: ScalarOrSchedule = 5.0,
    *,
    nesterov: bool = False,
    eps_before_correction: bool = False,
) -> GradientTransformation:
    """Rectified Adam: Adam that needs no warm-up.

        u = -learning_rate * scale_by_radam(g)

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 3e-3.
      b1, b2, eps, eps_root, threshold, nesterov, eps_before_correction: as in `scale_by_radam`.
    """
    return chain(
        scale_by_radam(
            b1,
            b2,
            eps,
            eps_root,
            threshold,
            nesterov=nesterov,
            eps_before_correction=eps_before_correction,
        ),
        scale_by_learning_rate(learning_rate),
    )
