"""A step along a direction, with weight decay of any kind."""

import math
from typing import Any, Literal

import optax
from optax import EmptyState

from gradx.core.chain import chain
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule, combined, varies
from gradx.core.ranges import POSITIVE, check, check_number, declare_ranges, one_of
from gradx.core.transformation import GradientTransformation
from gradx.engine.leafwise import leafwise
from gradx.selection.masking import Mask, masked
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.weight_decay import add_decayed_weights

__all__ = ["descend"]

declare_ranges("descend", max_learning_rate=POSITIVE)


@factory
def descend(
    direction: optax.GradientTransformation,
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask = None,
    *,
    decay_mode: Literal["decoupled", "l2", "independent", "corrected"] = "decoupled",
    decay_order: Literal["simultaneous", "before", "after"] = "simultaneous",
    max_learning_rate: float | None = None,
) -> GradientTransformation:
    """A step down a direction, with weight decay.

        u = -learning_rate * d - share * p     d: direction(g); with "l2", direction(g + weight_decay * p)
        share = learning_rate * weight_decay                                    decoupled
        share = learning_rate / max_learning_rate * weight_decay                independent
        share = learning_rate² / max_learning_rate * weight_decay               corrected
        decay_order="after":  share * (p - learning_rate * d)  in place of  share * p

    Arguments:
      direction: any transformation that gives a direction, such as `scale_by_adam()`.
      learning_rate: the step size, or a schedule of it.
      weight_decay: at least 0; a schedule of the step is allowed.
      mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and normalization scales.
      decay_mode: "decoupled" (Loshchilov & Hutter 2019, arXiv:1711.05101), "l2", "independent" of the
        learning rate but for its schedule (Wortsman et al. 2023, arXiv:2309.14322), or "corrected"
        to keep the norm of normalized layers even (Defazio 2025, arXiv:2506.02285).
      decay_order: "after" decays the parameters that the step left. "before", torch's order, and
        "simultaneous" are the same, because the direction comes from the parameters before decay.
      max_learning_rate: the peak of a schedule, more than 0, for the last two modes; a number is its own.

    Raises ValueError for an unknown mode or order, for L2 with an order, and if the peak is missing.
    """
    owner = "descend"
    check(owner, learning_rate=learning_rate, weight_decay=weight_decay)
    one_of(owner, ("decoupled", "l2", "independent", "corrected"), decay_mode=decay_mode)
    one_of(owner, ("simultaneous", "before", "after"), decay_order=decay_order)
    if max_learning_rate is not None:
        check_number(owner, max_learning_rate=max_learning_rate)
    if decay_mode == "l2":
        if decay_order == "after":
            raise ValueError(f"{owner}: L2 is part of the gradient, and cannot come after the step")
        return chain(
            add_decayed_weights(weight_decay, mask), direction, scale_by_learning_rate(learning_rate)
        )
    if decay_mode == "decoupled" and decay_order != "after":
        return chain(
            direction, add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate)
        )
    factors: dict[str, Any] = {"weight_decay": weight_decay}
    if decay_mode != "independent":
        factors["learning_rate"] = learning_rate
    if decay_mode != "decoupled":
        factors["relative_rate"] = relative(learning_rate, max_learning_rate)
    share = combined(owner, lambda *factors: math.prod(factors), **factors)
    decay = shrink_params(share, decay_order == "after")
    return chain(
        direction,
        scale_by_learning_rate(learning_rate),
        decay if mask is None else masked(decay, mask),
    )


def shrink_params(share: ScalarOrSchedule, after: bool) -> GradientTransformation:
    """Subtract a share of each parameter: of the old one, or of the updated one."""

    def rule(g, p, share):
        return g - share * (p + g if after else p)

    return leafwise(EmptyState, rule, share=share)


def relative(learning_rate: Any, peak: float | None) -> Any:
    """The learning rate as a share of its peak."""
    if peak is None:
        if varies(learning_rate):
            raise ValueError("descend: give max_learning_rate, the highest learning rate of the schedule")
        return 1.0
    return combined("descend", lambda rate: rate * (1 / peak), learning_rate=learning_rate)
