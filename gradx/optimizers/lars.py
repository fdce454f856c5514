"""LARS (You, Gitman & Ginsburg 2017, arXiv:1708.03888)."""

import operator
from typing import Literal

import jax

from gradx.core.chain import chain, identity
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.ranges import check, one_of
from gradx.core.renaming import renamed_arguments
from gradx.core.transformation import GradientTransformation
from gradx.selection.masking import Mask, mask_for, masked
from gradx.transforms.momentum import trace
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.trust_ratio import scale_by_trust_ratio
from gradx.transforms.weight_decay import add_decayed_weights

__all__ = ["lars"]


@factory
@renamed_arguments(rule="variant")
def lars(
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask = True,
    trust_coefficient: ScalarOrSchedule = 0.001,
    eps: ScalarOrSchedule = 0.0,
    trust_ratio_mask: Mask = True,
    momentum: ScalarOrSchedule = 0.9,
    nesterov: bool = False,
    *,
    phi_bounds: tuple[float, float] | None = None,
    variant: Literal["optax", "paper", "mlperf", "nvidia"] = "optax",
) -> GradientTransformation:
    """Momentum with one learning rate for each array, in proportion to its norm, for large batches.

        d = g + weight_decay * p
        v = momentum * v - learning_rate * trust_coefficient * ‖p‖ / ‖d‖ * d
        u = v
        in another variant than Optax's:  ‖g‖ + weight_decay * ‖p‖ in place of ‖d‖

    Arguments:
      learning_rate: the step size, or a schedule of it; 0.1 to 30, with a warm-up.
      weight_decay: the share of each parameter added to its gradient, at least 0.
      weight_decay_mask: which parameters decay, as in `masked`, for variant="optax"; `"matrices_only"` spares
        biases and normalization scales. In the other variants `trust_ratio_mask` says it.
      trust_coefficient: the share of its norm that an array moves at learning rate 1, at least 0.
      eps: added to the denominator, at least 0; MLPerf's reference has 1e-7.
      trust_ratio_mask: which parameters have the ratio (1 for the others), as in `masked`.
      momentum: the share of the velocity that stays at each step, between 0 and 1.
      nesterov: look one step ahead.
      phi_bounds: bounds of ‖p‖ in the ratio, as in `scale_by_trust_ratio`.
      variant: whose rule it is. "optax" has the norm of the sum below; the others have the sum of norms, and
        the ratio 1 where the gradient is 0. An array that `trust_ratio_mask` spares has no decay either in
        "paper" (which spares nothing by itself) and "mlperf" (the reference of its ResNet); it decays in
        "nvidia" (FusedLARS of apex).
    """
    owner = "lars"
    check(owner, momentum=momentum, weight_decay=weight_decay)
    one_of(owner, ("optax", "paper", "mlperf", "nvidia"), variant=variant)
    summed = variant != "optax"
    if summed and weight_decay_mask is not True:
        raise ValueError(
            f"{owner}: variant={variant!r} holds the decay in the ratio, so one mask serves both: "
            "give it as trust_ratio_mask and leave weight_decay_mask at True"
        )
    adapts = True if trust_ratio_mask is None else trust_ratio_mask
    spared = lambda params: jax.tree.map(operator.not_, mask_for(adapts)(params))
    ratio = scale_by_trust_ratio(
        trust_coefficient=trust_coefficient,
        eps=eps,
        phi_bounds=phi_bounds,
        summed_decay=weight_decay if summed else None,
    )
    if variant == "nvidia":
        decay = add_decayed_weights(weight_decay, spared)
    else:
        decay = identity() if summed else add_decayed_weights(weight_decay, weight_decay_mask)
    return chain(
        decay,
        masked(ratio, adapts),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )
