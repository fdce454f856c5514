"""LARS (You, Gitman & Ginsburg 2017, arXiv:1708.03888)."""

from typing import Literal

from gradx.core import GradientTransformation, chain, identity
from gradx.factory import factory
from gradx.hyper import ScalarOrSchedule, check, one_of
from gradx.transforms.decay import add_decayed_weights
from gradx.transforms.masking import Mask, masked
from gradx.transforms.momentum import trace
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.trust_ratio import scale_by_trust_ratio

__all__ = ["lars"]


@factory
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
    denominator: Literal["update", "summed"] = "update",
) -> GradientTransformation:
    """Momentum with one learning rate for each array, in proportion to its norm, for large batches.

        d = g + weight_decay * p
        v = momentum * v - learning_rate * trust_coefficient * ‖p‖ / ‖d‖ * d
        u = v
        with denominator="summed":  ‖g‖ + weight_decay * ‖p‖ in place of ‖d‖

    Arguments:
      learning_rate: the step size, or a schedule of it; 0.1 to 30, with a warm-up.
      weight_decay: the share of each parameter added to its gradient, at least 0.
      weight_decay_mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and
        normalization scales.
      trust_coefficient: the share of its norm that an array moves at learning rate 1, at least 0.
      eps: added to the denominator, at least 0.
      trust_ratio_mask: which parameters have the ratio (1 for the others), as in `masked`.
      momentum: what is kept of the velocity at each step, between 0 and 1.
      nesterov: look one step ahead.
      phi_bounds: bounds of ‖p‖ in the ratio, as in `scale_by_trust_ratio`.
      denominator: "update" is the norm of the sum; "summed" is the sum of norms, as the paper writes
        it, and then `trust_ratio_mask` governs the decay too.
    """
    check("lars", momentum=momentum, weight_decay=weight_decay)
    one_of("lars", ("update", "summed"), denominator=denominator)
    summed = denominator == "summed"
    if summed and weight_decay_mask is not True:
        raise ValueError(
            "lars: denominator='summed' holds the decay in the ratio, so one mask serves both: "
            "give it as trust_ratio_mask and leave weight_decay_mask at True"
        )
    ratio = scale_by_trust_ratio(
        trust_coefficient=trust_coefficient,
        eps=eps,
        phi_bounds=phi_bounds,
        summed_decay=weight_decay if summed else None,
    )
    return chain(
        identity() if summed else add_decayed_weights(weight_decay, weight_decay_mask),
        masked(ratio, True if trust_ratio_mask is None else trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )
