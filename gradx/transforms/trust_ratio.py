"""Scale each array's update by the size of its parameter."""

import jax.numpy as jnp
from optax import EmptyState

from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import FINITE, declare_ranges
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.numerics.device_axes import AxisName, axis_names, check_bound
from gradx.numerics.norms import norms

__all__ = ["scale_by_trust_ratio"]

declare_ranges(min_norm=FINITE, trust_coefficient=FINITE, summed_decay=FINITE)


@factory
def scale_by_trust_ratio(
    min_norm: ScalarOrSchedule = 0.0,
    trust_coefficient: ScalarOrSchedule = 1.0,
    eps: ScalarOrSchedule = 0.0,
    *,
    phi_bounds: tuple[float, float] | None = None,
    summed_decay: ScalarOrSchedule | None = None,
    axis_name: AxisName | None = None,
) -> GradientTransformation:
    """Layer-wise scaling (LARS, You et al. 2017, arXiv:1708.03888; LAMB, You et al. 2020, arXiv:1904.00962).

        ratio = trust_coefficient * φ(‖p‖) / (‖g‖ + eps)
        u     = ratio * g
        with summed_decay λ:  ratio = trust_coefficient * φ(‖p‖) / (‖g‖ + λ‖p‖ + eps),  u = ratio * (g + λp)

    Arguments:
      min_norm: both norms count as at least this; at least 0.
      trust_coefficient: at least 0; 1 in LAMB, 0.001 in LARS.
      eps: added to the denominator, at least 0.
      phi_bounds: (low, high) for φ(x) = min(max(x, low), high); None for φ(x) = x.
      summed_decay: the weight decay λ, at least 0, to be added here, with the sum of two norms in the
        denominator, as in the LARS paper. None takes the norm of the update as it comes; it holds the
        decay if `add_decayed_weights` stands before.
      axis_name: the axis of the devices that hold slices of the parameters, as in `clip_by_global_norm`.

    Where ‖p‖ or ‖g‖ is 0 or not finite, the ratio is 1, bounds or not. Norms are taken in float32 or better.
    Raises ValueError if `update` is called without parameters.
    """
    owner = "scale_by_trust_ratio"
    bounds = (0.0, float("inf")) if phi_bounds is None else phi_bounds
    if not isinstance(bounds, tuple | list) or len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
        raise ValueError(f"{owner}: phi_bounds must be (low, high) with 0 <= low <= high, got {phi_bounds}")
    low, high = bounds
    decayed = summed_decay is not None
    axes = axis_names(owner, axis_name)

    def rule(g, p, min_norm, trust_coefficient, eps, summed_decay):
        check_bound(owner, axes)
        p_norm, g_norm = (jnp.maximum(x, min_norm) for x in norms(p, g, axes=axes))
        below = g_norm
        if decayed:
            below, g = g_norm + summed_decay * p_norm, g + summed_decay * p
        usable = (p_norm > 0) & (g_norm > 0) & jnp.isfinite(p_norm) & jnp.isfinite(below)
        above = trust_coefficient * jnp.clip(p_norm, low, high)
        ratio = jnp.where(usable, above, 1.0) / jnp.where(usable, below + eps, 1.0)
        return ratio * g, ratio

    return leafwise(
        EmptyState,
        rule,
        reports={"trust_ratio": "leaf"},
        min_norm=min_norm,
        trust_coefficient=trust_coefficient,
        eps=eps,
        summed_decay=summed_decay if summed_decay is not None else 0.0,
    )
