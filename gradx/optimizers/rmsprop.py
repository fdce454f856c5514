"""RMSprop (Tieleman & Hinton 2012, Coursera lecture 6.5; centered: Graves 2013, arXiv:1308.0850)."""

import jax
import jax.numpy as jnp
import optax
from optax import ScaleByRmsState, ScaleByRStdDevState

from gradx.core.chain import chain, identity
from gradx.core.factory import factory
from gradx.core.foreign import state_of
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import FINITE, check, check_number, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.engine.slot_starts import full_slot
from gradx.numerics.arrays import abs_sq
from gradx.numerics.moving_average import lerp
from gradx.transforms.momentum import trace
from gradx.transforms.scale import scale_by_learning_rate

__all__ = ["ScaleByRStdDevState", "ScaleByRmsState", "rmsprop", "scale_by_rms", "scale_by_stddev"]

declare_ranges(initial_scale=FINITE)


@factory
def scale_by_rms(
    decay: ScalarOrSchedule = 0.9,
    eps: ScalarOrSchedule = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    """Divide by the root mean square of the gradients.

        nu = decay * nu + (1 - decay) * g²
        u  = g / (√nu + eps)           or, with eps_in_sqrt,  g / √(nu + eps)

    Arguments:
      decay: decay rate of the mean of the squared gradients, between 0 and 1.
      eps: added to the denominator, at least 0.
      initial_scale: `nu` at the start, at least 0.
      eps_in_sqrt: add `eps` under the square root.
      bias_correction: nu / (1 - decayᵗ) in place of `nu`; then this is Adam without a mean.
    """
    check_number("scale_by_rms", initial_scale=initial_scale)

    def rule(g, nu, decay, eps, c=1.0):
        nu = lerp(abs_sq(g), nu, decay)
        return g / root(c * nu, eps, eps_in_sqrt), nu

    return leafwise(
        state_of(optax.scale_by_rms, bias_correction=True) if bias_correction else ScaleByRmsState,
        rule,
        slots={"nu": full_slot(initial_scale, real=True)},
        corrections={"c": "decay"} if bias_correction else {},
        decay=decay,
        eps=eps,
    )


@factory
def scale_by_stddev(
    decay: ScalarOrSchedule = 0.9,
    eps: ScalarOrSchedule = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    """Divide by the standard deviation of the gradients.

        mu = decay * mu + (1 - decay) * g
        nu = decay * nu + (1 - decay) * g²
        u  = g / (√(nu - mu²) + eps)   or, with eps_in_sqrt,  g / √(nu - mu² + eps)

    Arguments:
      decay, eps, initial_scale, eps_in_sqrt: as in `scale_by_rms`.
      bias_correction: divide `mu` and `nu` by 1 - decayᵗ.
    """
    check_number("scale_by_stddev", initial_scale=initial_scale)

    def rule(g, mu, nu, decay, eps, c=1.0):
        mu, nu = lerp(g, mu, decay), lerp(abs_sq(g), nu, decay)
        # Rounding can bring it below 0. Where both squares overflow it is inf, and not inf - inf.
        largest = float(jnp.finfo(nu.dtype).max)
        variance = jnp.maximum(c * nu - jnp.minimum(abs_sq(c * mu), largest), 0.0)
        return g / root(variance, eps, eps_in_sqrt), mu, nu

    return leafwise(
        state_of(optax.scale_by_stddev, bias_correction=True) if bias_correction else ScaleByRStdDevState,
        rule,
        slots={"nu": full_slot(initial_scale, real=True)},
        corrections={"c": "decay"} if bias_correction else {},
        decay=decay,
        eps=eps,
    )


def root(x: jax.Array, eps: jax.Array, eps_in_sqrt: bool) -> jax.Array:
    return jnp.sqrt(x + eps) if eps_in_sqrt else jnp.sqrt(x) + eps


@factory
def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: ScalarOrSchedule = 0.9,
    eps: ScalarOrSchedule = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = False,
    centered: bool = False,
    momentum: ScalarOrSchedule | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    rate_in_velocity: bool = True,
) -> GradientTransformation:
    """RMSprop: steps of about the learning rate, without a mean; for recurrent networks and control.

        d = scale_by_rms(g)            or, if centered,  scale_by_stddev(g)
        v = momentum * v - learning_rate * d
        u = v

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-4 to 1e-2.
      decay, eps, initial_scale, eps_in_sqrt, bias_correction: as in `scale_by_rms`.
      centered: divide by the standard deviation, not by the root mean square.
      momentum: the share of the velocity that stays at each step, between 0 and 1; None keeps no velocity.
      nesterov: look one step ahead.
      rate_in_velocity: False multiplies the velocity by the learning rate, not the gradient in it;
        the same at a constant rate.
    """
    scale_by = scale_by_stddev if centered else scale_by_rms
    if momentum is not None:
        check("rmsprop", momentum=momentum)
    links = [
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    ]
    return chain(
        scale_by(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        *(links if rate_in_velocity else reversed(links)),
    )
