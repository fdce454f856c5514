"""Ranger (Wright 2019): RAdam behind Lookahead, on centralized gradients (arXiv:2004.01461)."""

from gradx.core.chain import chain, identity
from gradx.core.factory import factory
from gradx.core.hyperparameters import ScalarOrSchedule
from gradx.core.transformation import GradientTransformation
from gradx.optimizers.radam import scale_by_radam
from gradx.selection.masking import Mask
from gradx.transforms.centralize import centralize
from gradx.transforms.scale import scale_by_learning_rate
from gradx.transforms.weight_decay import add_decayed_weights
from gradx.wrappers.lookahead import lookahead

__all__ = ["ranger"]


@factory
def ranger(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.95,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-5,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask = None,
    sync_period: int = 6,
    slow_step_size: ScalarOrSchedule = 0.5,
    *,
    centralized: bool = True,
) -> GradientTransformation:
    """RAdam on centralized gradients, and every few steps half of the way back.

        u = lookahead(-learning_rate * (scale_by_radam(centralize(g)) + weight_decay * p))

    Arguments:
      learning_rate: the step size, or a schedule of it; 1e-3 to 1e-2.
      b1, b2, eps: as in `scale_by_adam`; b1=0.95 and eps=1e-5 by default.
      weight_decay: the share of each parameter added to its update, at least 0.
      mask: which parameters decay, as in `masked`; `"matrices_only"` spares biases and normalization scales.
      sync_period, slow_step_size: as in `lookahead`.
      centralized: False leaves the gradients as they are.
    """
    fast = chain(
        centralize() if centralized else identity(),
        scale_by_radam(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
    return lookahead(fast, sync_period, slow_step_size)
